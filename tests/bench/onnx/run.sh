#!/bin/sh
# run.sh [--runs N] [--threads 1,2] [--only SIDE,...] [--precision f32|bf16] [--flags "FLAGS OF MICC"] [--no-start] [--floor RATIO]
#        [--json FILE] [--table FILE] [--svg FILE] [CASE...]
# run.sh --from JSON [--table FILE] [--svg FILE]
# Speed of programs compiled from ONNX models beside ONNX Runtime and OpenVINO. README.md says what is measured.
# Needs python3 with venv and a C compiler; fetches both runtimes from PyPI into build/bench/onnx (or MICC_BENCH).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
bench=${MICC_BENCH:-$root/build/bench}/onnx

for tool in python3 cc; do
  command -v $tool >/dev/null || {
    echo "bench: $tool is missing (Debian: python3 python3-venv gcc)" >&2
    exit 1
  }
done
mkdir -p "$bench"
if ! cmp -s "$here/requirements.txt" "$bench/requirements.txt"; then
  rm -rf "$bench/venv"
  python3 -m venv "$bench/venv" || {
    echo "bench: python3 cannot make an environment (Debian: python3-venv)" >&2
    exit 1
  }
  "$bench/venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" || {
    echo "bench: the runtimes cannot be installed from PyPI (no network?)" >&2
    exit 1
  }
  # OpenVINO works without this one, which would report each use to its makers.
  "$bench/venv/bin/pip" uninstall -q -y openvino-telemetry
  cp "$here/requirements.txt" "$bench/requirements.txt"
fi
cc -O2 -Wall -o "$bench/start" "$here/start.c"
MICC=${MICC:-$root/build/micc} MICC_SHARED=${MICC_SHARED:-$root/../shared} MICC_BENCH_ONNX=$bench PYTHONDONTWRITEBYTECODE=1 \
  exec "$bench/venv/bin/python" "$here/bench.py" "$@"
