"""The speed of programs that micc compiled from ONNX models beside ONNX Runtime and OpenVINO. See README.md."""

import argparse
import datetime
import json
import os
import shutil
import tempfile

import case as cases
import machine
import report
from sides import Failed, Ours, Peer

SLICE_MS = 200  # what one side runs before it is another's turn
MOST, FEWEST = 5000, 3  # runs in a slice
ORDER = ["micc", "onnxruntime", "openvino"]


def options():
    p = argparse.ArgumentParser(prog="run.sh")
    p.add_argument("cases", nargs="*", metavar="CASE", help="names in shared/reference/onnxruntime, or folders with a case.json (default: all)")
    p.add_argument("--runs", type=int, default=9, help="slices of each side that count")
    p.add_argument("--threads", type=lambda s: [int(n) for n in s.split(",")], default=[1, 2])
    p.add_argument("--only", type=lambda s: s.split(","), default=ORDER, help="micc, onnxruntime, openvino")
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="OpenVINO's")
    p.add_argument("--flags", type=str.split, default=["--cpu=native"], help="of micc, in place of --cpu=native")
    p.add_argument("--no-start", action="store_true", help="not: start to first result, memory")
    p.add_argument("--floor", type=float, default=0, help="exit 1 if a ratio is below it or missing")
    for kind in ("json", "table", "svg"):
        p.add_argument(f"--{kind}", metavar="FILE")
    p.add_argument("--from", dest="source", metavar="JSON", help="no run: the report of one before")
    o = p.parse_args()
    if min([o.runs, *o.threads]) < 1 or set(o.only) - set(ORDER):
        p.error(f"--runs and --threads take positive numbers, --only some of {', '.join(ORDER)}")
    return o


def make_sides(o):
    bench = os.environ["MICC_BENCH_ONNX"]
    all_sides = {"micc": Ours(os.environ["MICC"], bench, o.flags),
                 "onnxruntime": Peer("onnxruntime", "ONNX Runtime", "f32"),
                 "openvino": Peer("openvino", "OpenVINO", o.precision)}
    return {name: all_sides[name] for name in ORDER if name in o.only}


def attempt(entry, name, work):
    """What one side cannot do is said, once, and its column stays empty."""
    try:
        return work()
    except Exception as e:  # a case must never end the run
        why = str(e) if isinstance(e, Failed) else f"{type(e).__name__}: {e}"
        if entry["why"].get(name) != why:
            print(f"  {entry['case']}, {report.TITLES[name]}: {report.brief(why)}", flush=True)
        entry["why"][name] = why
        return None


def check(side, case, threads):
    """Makes a side ready and compares its first results: a wrong one is not timed."""
    folder = tempfile.mkdtemp(prefix="bench-onnx-")
    try:
        side.open(case, threads, folder)
        why, error = case.wrong(folder, side.file_of)
    finally:
        shutil.rmtree(folder)
    if why:
        raise Failed(why)
    return {"error": error}


def slices(o, entry, ready):
    """In turn, A B C A B C ...: what the machine does meanwhile meets all alike. The first round finds how many runs fill a slice."""
    counts, times = {}, {name: [] for name in ready}
    for i in range(-1, o.runs):
        for name, side in list(ready.items()):
            ms = attempt(entry, name, lambda: side.ms(counts.get(name, FEWEST)))
            if ms is None:
                del ready[name], times[name]
            elif i < 0:
                counts[name] = int(min(MOST, max(FEWEST, SLICE_MS / max(ms, 1e-4))))
            else:
                times[name].append(ms)
    return times


def starts(o, entry, ready, case, threads):
    found = {name: [] for name in ready}
    for i in range(-1, min(o.runs, 5)):  # the first is not counted: files come into memory
        for name in list(found):
            once = attempt(entry, name, lambda: ready[name].start(case, threads))
            if once is None:
                del found[name]
            elif i >= 0:
                found[name].append(once)
    return {name: {key: report.median([x[key] for x in many]) for key in ("ms", "peak")} for name, many in found.items()}


def measure(o, sides, case, threads):
    entry = {"case": case.name, "threads": threads, "why": {}, "ms": {}, "error": {}, "start": {}}
    ready = {}
    for name, side in sides.items():
        checked = attempt(entry, name, lambda: check(side, case, threads))
        if checked:
            ready[name], entry["error"][name] = side, checked["error"]
    entry["ms"] = slices(o, entry, ready)
    if not o.no_start:
        entry["start"] = starts(o, entry, ready, case, threads)
    if "micc" in ready:
        entry["size"] = attempt(entry, "micc", ready["micc"].sizes)
    for side in sides.values():
        side.close()
    return entry


def idle_call(sides, shared):
    """What a call costs that computes nothing: the share of binding and session in the times of small models."""
    model = os.path.join(shared, "suites/onnx-backend-tests/node/test_identity/model.onnx")
    found, entry = {}, {"case": "a model that computes nothing", "why": {}}
    if not os.path.exists(model):
        return found
    for name, side in sides.items():
        if isinstance(side, Peer):
            with tempfile.TemporaryDirectory() as folder:
                value = os.path.join(folder, "x.npy")
                cases.numpy.save(value, cases.numpy.ones((1, 1, 2, 2), "float32"))
                attempt(entry, name, lambda: side.ask(do="load", model=model, inputs={"x": value}, outputs=["y"], folder="", threads=1, precision="f32"))
                found[name] = attempt(entry, name, lambda: side.ms(MOST))
                side.close()
    return found


def run(o):
    shared, sides, entry = os.environ["MICC_SHARED"], make_sides(o), {"case": "version", "why": {}}
    todo = cases.find(shared, o.cases)
    said = {"date": datetime.date.today().isoformat(), "cpu": machine.processor(), "runs": o.runs, "flags": o.flags,
            "sides": {name: attempt(entry, name, side.about) for name, side in sides.items()},
            "idle_call_ms": idle_call(sides, shared), "entries": []}
    sides = {name: side for name, side in sides.items() if said["sides"][name]}
    for side in sides.values():
        side.close()
    others = machine.watch_others()
    print(report.heading(said), flush=True)
    for case in todo:
        for threads in o.threads:
            said["entries"].append(measure(o, sides, case, threads))
            print(report.row(said["entries"][-1]), flush=True)
    said["others"] = others()
    return said


def write(path, text):
    if path:
        with open(path, "w") as f:
            f.write(text)


def main():
    o = options()
    said = json.load(open(o.source)) if o.source else run(o)
    print(report.ending(said))
    write(o.json, json.dumps(said, indent=1) + "\n")
    write(o.table, report.markdown(said))
    write(o.svg, report.svg(said))
    ratios = [report.ratio(e) for e in said["entries"]]
    if o.floor and not all(r is not None and r >= o.floor for r in ratios):
        raise SystemExit(f"bench: a ratio lies below {o.floor}, or is missing")


main()
