#!/bin/sh
# run.sh - from a fresh Debian 12 to all tests passed: installs what is missing, builds, runs every test;
# then the unit tests once more, compiled by clang with the address and undefined behaviour sanitizers; and
# builds micc without LLVM. Ends with what was skipped and one line that counts it all, each build as a test.
set -eu
cd "$(dirname "$0")/.."

./setup

all=0
bad=0

# build FOLDER TARGET CMAKE-OPTIONS...
build() {
  folder=$1 target=$2
  shift 2
  echo "== build: $folder ($*)"
  all=$((all + 1))
  cmake -G Ninja -B "$folder" "$@" && cmake --build "$folder" --target "$target" && return
  bad=$((bad + 1))
  echo "== build: $folder failed"
  return 1
}

# counted FOLDER FIELD - from ctest's "X% tests passed, FAILED tests failed out of ALL"
counted() {
  sed -n 's/.*tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\'"$2"'/p' "$1/ctest.log"
}

# tests FOLDER CTEST-OPTIONS...
tests() {
  folder=$1
  shift
  echo "== tests: $folder $*"
  ctest --test-dir "$folder" -j2 --output-on-failure --no-tests=error --output-log "$folder/ctest.log" "$@" || :
  all=$((all + $(counted "$folder" 2)))
  bad=$((bad + $(counted "$folder" 1)))
}

if build build all -DCMAKE_BUILD_TYPE=Release -DMICC_SANITIZE=OFF -DMICC_FUZZ=OFF; then
  sh samples/get-gemma.sh build/models || gemma="skipped: Gemma 3 270M, which cannot be downloaded"
  tests build
fi
if build build-asan all -DCMAKE_C_COMPILER=clang-19 -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS=-O1 -DMICC_SANITIZE=ON; then
  tests build-asan -L unit
fi
build build-c micc -DCMAKE_BUILD_TYPE=Release -DMICC_LLVM=OFF || :

echo
{
  echo "${gemma:-}"
  cat build/Testing/Temporary/LastTest.log 2>/dev/null
} | sed -n 's/.*\(skipped: .*\)/\1/p' | sort -u
echo "$(((all - bad) * 100 / all))% tests passed, $bad tests failed out of $all"
[ "$bad" = 0 ]
