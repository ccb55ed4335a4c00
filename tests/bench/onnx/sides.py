"""The three that are compared, each with the same four methods:

  open(case, threads, folder)   makes it ready and runs it once; results in `folder`, see file_of(); raises Failed
  ms(n)                         median milliseconds of n runs that follow each other
  start(case, threads)          {"ms": from nothing to a first result, "peak": bytes}, in a new process
  about()                       name and version
"""

import json
import os
import re
import select
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT_S = 300  # for any one request


class Failed(Exception):
    pass


def capture(args):
    try:
        run = subprocess.run(args, capture_output=True, text=True, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failed(str(e)) from None
    if run.returncode:
        said = [line for line in run.stderr.strip().splitlines() if line]
        raise Failed(re.sub(r"^(micc: )?(/[^ :]*: )?", "", said[-1]) if said else f"{os.path.basename(args[0])} ends with status {run.returncode}")
    return run.stdout


class Ours:
    title = "micc"

    def __init__(self, micc, bench, flags):
        self.micc, self.bench, self.flags, self.made = micc, bench, flags, {}

    def about(self):
        return capture([self.micc, "--version"]).strip()

    @staticmethod
    def file_of(i, name):
        """As the program names the files of a folder."""
        return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", name) + ".npy"

    def compile(self, case):
        """Once for all thread counts."""
        if case.name not in self.made:
            try:
                self.made[case.name] = self.compile_now(case)
            except Failed as e:
                self.made[case.name] = e
        if isinstance(self.made[case.name], Failed):
            raise self.made[case.name]
        return self.made[case.name]

    def compile_now(self, case):
        """Whole numbers among the inputs, such as a sampling rate, are constants, unless micc must have them free."""
        program, numbers = os.path.join(self.bench, case.name), case.numbers()
        shapes = [f"--shape={name}={'x'.join(map(str, shape))}" for name, shape in case.shapes().items() if shape]
        for fixed in [numbers, {}] if numbers else [{}]:
            try:
                capture([self.micc, case.model, *self.flags, *shapes, *[f"--fix={n}={v}" for n, v in fixed.items()], "-o", program])
                return program, [f"{n}={f}" for n, f in case.inputs if n not in fixed]
            except Failed as e:
                failed = e
        raise failed

    def open(self, case, threads, folder):
        self.program, inputs = self.compile(case)
        self.command = [self.program, "-t", str(threads), *inputs]
        capture([*self.command, "-o", folder + "/"])

    def ms(self, n):
        said = capture([*self.command, f"--bench={n}"])
        return float(re.search(r"median ([\d.]+) ms", said).group(1))

    def start(self, case, threads):
        program, inputs = self.compile(case)
        return json.loads(capture([os.path.join(self.bench, "start"), program, "-t", str(threads), *inputs, "-o", os.path.join(self.bench, "results/")]))

    def sizes(self):
        about = dict(re.findall(r"^(\w+): (\d+) bytes", capture([self.program, "--about"]), re.M))
        weights, whole = int(about["memory_weights"]), os.path.getsize(self.program)
        return {"file": whole, "weights": weights, "rest": whole - weights, "arena": int(about["memory_arena"])}

    def close(self):
        pass


class Peer:
    """A runtime in a process of its own, which stays; start() takes a new one."""

    def __init__(self, side, title, precision):
        self.side, self.title, self.precision, self.process = side, title, precision, None

    def ask(self, **request):
        if not self.process or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "peer.py"), self.side], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answers, _, _ = select.select([self.process.stdout], [], [], LIMIT_S)
            line = self.process.stdout.readline() if answers else ""
        except OSError:
            line = ""
        if not line:
            self.close()
            raise Failed("it ends without an answer")
        said = json.loads(line)
        if "error" in said:
            raise Failed(said["error"])
        return said

    def about(self):
        said = self.ask(do="about")["about"]
        return f"{said} in {self.precision}" if self.side == "openvino" else said

    @staticmethod
    def file_of(i, name):
        return f"output_{i}.npy"

    def load(self, case, threads, folder):
        return self.ask(do="load", model=case.model, inputs=dict(case.inputs), outputs=case.outputs, folder=folder, threads=threads, precision=self.precision)

    def open(self, case, threads, folder):
        self.close()  # threads of a session before must not be there
        self.load(case, threads, folder)

    def ms(self, n):
        return self.ask(do="time", n=n)["ms"]

    def start(self, case, threads):
        fresh = Peer(self.side, self.title, self.precision)
        try:
            fresh.about()  # the library is loaded
            return fresh.load(case, threads, "")
        finally:
            fresh.close()

    def close(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)  # with what a runtime itself has started
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
        self.process = None
