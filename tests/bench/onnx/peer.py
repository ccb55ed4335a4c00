"""peer.py SIDE - one runtime in a process of its own: reads a request a line (JSON), answers with a line.

  {"do": "about"}                                                        its version
  {"do": "load", "model", "inputs": {name: file}, "outputs", "folder"    runs once; writes output_I.npy if there is a folder
   "threads", "precision"}                                               -> ms from the request until there is a result; memory
  {"do": "time", "n"}                                                    n runs -> median ms
"""

import json
import os
import sys
import time

import numpy


class OnnxRuntime:
    def __init__(self):
        import onnxruntime

        self.lib = onnxruntime
        self.lib.set_default_logger_severity(4)

    def about(self):
        return f"ONNX Runtime {self.lib.__version__}"

    def load(self, model, inputs, outputs, threads, precision):
        options = self.lib.SessionOptions()
        options.graph_optimization_level = self.lib.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = self.lib.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = outputs or [o.name for o in self.session.get_outputs()]
        self.binding = self.session.io_binding()
        for name, value in inputs.items():
            self.binding.bind_ortvalue_input(name, self.lib.OrtValue.ortvalue_from_numpy(value))
        for name in self.outputs:
            self.binding.bind_output(name)
        self.run()
        # From now on outputs have their place, as inputs have: no allocation in what is timed.
        made = self.results()
        self.kept = [self.lib.OrtValue.ortvalue_from_numpy(value) for value in made]
        for name, value in zip(self.outputs, self.kept):
            self.binding.bind_ortvalue_output(name, value)

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def results(self):
        return self.binding.copy_outputs_to_cpu()


class OpenVino:
    def __init__(self):
        import openvino

        self.lib = openvino

    def about(self):
        return f"OpenVINO {self.lib.__version__.split('-')[0]}"

    def load(self, model, inputs, outputs, threads, precision):
        core = self.lib.Core()
        net = core.read_model(model)
        shapes = {name: list(value.shape) for name, value in inputs.items()}
        if any(p.partial_shape.is_dynamic for p in net.inputs):
            net.reshape({p: shapes[n] for p in net.inputs for n in p.get_names() if n in shapes})
        compiled = core.compile_model(net, "CPU", {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads,
                                                   "INFERENCE_PRECISION_HINT": precision})
        self.request = compiled.create_infer_request()
        for name, value in inputs.items():
            self.request.set_tensor(name, self.lib.Tensor(value))
        self.run = self.request.infer
        self.outputs = outputs or [next(iter(o.get_names())) for o in net.outputs]
        self.run()

    def results(self):
        return [self.request.get_tensor(name).data for name in self.outputs]


def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak():
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def load(side, request):
    inputs = {name: numpy.load(file) for name, file in request["inputs"].items()}
    forget_peak()
    before, begin = memory("VmRSS"), time.perf_counter()
    side.load(request["model"], inputs, request["outputs"], request["threads"], request["precision"])
    ms = (time.perf_counter() - begin) * 1e3
    answer = {"ms": ms, "peak": memory("VmHWM") - before}
    side.run()
    for i, value in enumerate(side.results() if request["folder"] else []):
        numpy.save(os.path.join(request["folder"], f"output_{i}.npy"), value)
    return answer


def timed(side, n):
    run, clock, times = side.run, time.perf_counter_ns, []
    run()
    run()
    for _ in range(n):
        begin = clock()
        run()
        times.append(clock() - begin)
    times.sort()
    return {"ms": times[n // 2] / 1e6}


def answer(side, request):
    if request["do"] == "load":
        return load(side, request)
    if request["do"] == "time":
        return timed(side, request["n"])
    return {"about": side.about()}


def main():
    side = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}[sys.argv[1]]()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime itself prints must not stand among answers
    for line in sys.stdin:
        try:
            said = answer(side, json.loads(line))
        except Exception as e:  # each runtime has its own kinds; the reason is all that counts
            said = {"error": " ".join(str(e).split())[:300] or type(e).__name__}
        print(json.dumps(said), file=out, flush=True)


main()
