"""A case of shared/reference/onnxruntime: a model, its inputs, and what ONNX Runtime made of them. See README.md for how results are compared."""

import json
import os

import numpy

# f16: results are rounded to 11 bits, and runtimes differ in where they round on the way.
TOLERANCE = {"float16": (1e-2, 1e-3)}
FLOAT = (1e-3, 1e-4)  # relative, absolute: one of them must hold
# Outputs that leave a DequantizeLinear: multiples of its scale; rounding on the way may move them by one.
STEP = {"micro-kws-qdq": 1 / 255}


class Case:
    def __init__(self, folder, models):
        said = json.load(open(os.path.join(folder, "case.json")))
        self.folder, self.name = folder, os.path.basename(folder)
        self.model = os.path.join(models, said["model"])
        self.inputs = [(t["name"], os.path.join(folder, f"input_{i}.npy")) for i, t in enumerate(said["inputs"])]
        self.outputs = [t["name"] for t in said["outputs"]]

    def shapes(self):
        return {name: numpy.load(file, mmap_mode="r").shape for name, file in self.inputs}

    def numbers(self):
        """Inputs of one whole number, such as a sampling rate: what a model may need as a constant."""
        values = {name: numpy.load(file) for name, file in self.inputs}
        return {name: v.item() for name, v in values.items() if v.size == 1 and v.dtype.kind in "iu"}

    def wrong(self, folder, file_of):
        """Why the results in `folder` are not those of the reference, or nothing; file_of(i, name) names the file of output i."""
        worst = 0
        for i, name in enumerate(self.outputs):
            want = numpy.load(os.path.join(self.folder, f"output_{i}.npy"))
            try:
                got = numpy.load(os.path.join(folder, file_of(i, name)))
            except (OSError, ValueError) as e:
                return f"output {name}: {e}", None
            if got.size != want.size:
                return f"output {name} has shape {got.shape}, not {want.shape}", None
            error, far = self.distance(got.reshape(want.shape), want)
            worst = max(worst, error)
            if far:
                return f"output {name} is off by {error:.2g}", error
        return "", worst

    def distance(self, got, want):
        relative, absolute = TOLERANCE.get(want.dtype.name, FLOAT)
        if want.dtype.kind in "iub" or self.name in STEP:
            relative, absolute = 0, 1.01 * STEP.get(self.name, 1)
        off = numpy.abs(got.astype(numpy.float64) - want.astype(numpy.float64))
        if not off.size:
            return 0.0, False
        return float(off.max()), not bool(numpy.all(off <= numpy.maximum(absolute, relative * numpy.abs(want.astype(numpy.float64)))))


def find(shared, names):
    """The cases that are named, or all. A name may be a folder that has a case.json; its model is relative to the models still."""
    root = os.path.join(shared, "reference", "onnxruntime")
    folders = [n if os.path.exists(os.path.join(n, "case.json")) else os.path.join(root, n) for n in names]
    if not names and os.path.isdir(root):
        folders = [os.path.join(root, n) for n in sorted(os.listdir(root))]
    missing = [f for f in folders if not os.path.exists(os.path.join(f, "case.json"))]
    if missing or not folders:
        raise SystemExit(f"bench: no case in {missing[0] if missing else root} (MICC_SHARED names the shared data)")
    return [Case(f.rstrip("/"), os.path.join(shared, "models")) for f in folders]
