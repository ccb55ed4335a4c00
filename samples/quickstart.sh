#!/bin/sh
# quickstart.sh [--tiny] - from a fresh Debian 12 to a program that writes text: installs what is missing,
# builds micc, compiles a real model (Gemma 3 270M) and runs the program. With --tiny, or when the model
# cannot be downloaded, the model is stories260K, which lies in tests/data.
set -eu
cd "$(dirname "$0")/.."

tiny=
case "$#,${1:-}" in
0,) ;;
1,--tiny) tiny=yes ;;
*)
  echo "usage: samples/quickstart.sh [--tiny]" >&2
  exit 2
  ;;
esac

./setup
cmake -G Ninja -B build
cmake --build build --target micc

# Says what it does, then does it.
say_and_do() {
  echo "\$ $*"
  "$@"
}

if [ -z "$tiny" ] && ! sh samples/get-gemma.sh build/models; then
  echo "quickstart: going on with the small model that is in the tree"
  tiny=yes
fi

if [ -z "$tiny" ]; then
  say_and_do build/micc build/models/gemma-3-270m-q4_k_m.gguf -o build/gemma
  say_and_do build/gemma -p "The capital of France is" -n 48 --temp 0
else
  say_and_do build/micc tests/data/stories260K.gguf -o build/story
  say_and_do build/story -p "Once upon a time" -n 200 --temp 0
fi
