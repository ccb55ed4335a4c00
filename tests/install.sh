#!/bin/sh
# install.sh BUILD - installs a build into a folder of its own, moves that folder, and compiles and runs
# the small model with what lies there: an installed micc needs nothing of the source or build tree.
set -eu
build=$1
model=$(cd "$(dirname "$0")" && pwd)/data/stories260K.gguf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/first" >"$work/log"
mv "$work/first" "$work/moved"
cd "$work"
moved/bin/micc "$model" -o story
./story -p "Once upon a time" -n 8 --temp 0 | grep -q "Once upon a time" || {
  echo "install: the program did not write its prompt" >&2
  exit 1
}
[ -f moved/share/micc/runtime-min/mi_image.h ]
[ -f moved/share/doc/micc/LICENSE ]
echo "install: a moved micc compiles, and its program runs"
