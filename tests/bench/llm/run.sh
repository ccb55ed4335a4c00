#!/bin/sh
# run.sh [--runs N] [--threads 1,2] [--only micc|llama.cpp] [--floor RATIO] MODEL.gguf...
# Speed of compiled programs beside llama.cpp on this machine. README.md says what is measured.
# Needs node 18 or later; fetches llama.cpp, prebuilt, from npm into build/bench.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
bench=$root/build/bench

command -v npm >/dev/null || {
  echo "bench: node and npm are missing (Debian: nodejs npm)" >&2
  exit 1
}
mkdir -p "$bench"
if ! cmp -s "$here/package.json" "$bench/package.json" || [ ! -d "$bench/node_modules/node-llama-cpp" ]; then
  cp "$here/package.json" "$bench/package.json"
  # The variants for GPUs are optional packages of 600 MB: left out.
  (cd "$bench" && NODE_LLAMA_CPP_SKIP_DOWNLOAD=true npm install --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error) || {
    rm -f "$bench/package.json"
    echo "bench: llama.cpp cannot be installed from npm (no network?)" >&2
    exit 1
  }
fi
cp "$here/bench.mjs" "$bench/bench.mjs" # node looks for packages from where the script lies
MICC=${MICC:-$root/build/micc} exec node "$bench/bench.mjs" "$@"
