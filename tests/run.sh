#!/bin/sh
# run.sh - from a fresh Debian 12 to all tests passed: installs what is missing, builds, runs every test,
# then the unit tests once more, compiled by clang with the address and undefined behaviour sanitizers.
# Ends with what was skipped and one closing line for both runs.
set -eu
cd "$(dirname "$0")/.."

./setup

# test_build FOLDER CTEST-OPTIONS... - runs the tests of a build; its log is FOLDER/ctest.log.
failed=0
test_build() {
  folder=$1
  shift
  ctest --test-dir "$folder" -j2 --output-on-failure --no-tests=error --output-log "$folder/ctest.log" "$@" || failed=1
}

# counted FIELD LOG... - sums a field of ctest's "X% tests passed, FAILED tests failed out of ALL"
counted() {
  field=$1
  shift
  sed -n 's/.*tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\'"$field"'/p' "$@" |
    { sum=0; while read -r n; do sum=$((sum + n)); done; echo $sum; }
}

echo "== build: Release"
cmake -G Ninja -B build -DCMAKE_BUILD_TYPE=Release -DMICC_SANITIZE=OFF -DMICC_FUZZ=OFF
cmake --build build
sh samples/get-gemma.sh build/models || echo "skipped: Gemma 3 270M cannot be downloaded" >build/skipped.log

echo "== build: clang, sanitizers"
cmake -G Ninja -B build-asan -DCMAKE_C_COMPILER=clang-19 -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS=-O1 -DMICC_SANITIZE=ON
cmake --build build-asan

echo "== build: without LLVM"
cmake -G Ninja -B build-c -DCMAKE_BUILD_TYPE=Release -DMICC_LLVM=OFF
cmake --build build-c --target micc

echo "== unit tests, with sanitizers"
test_build build-asan -L unit
echo "== all tests"
test_build build

echo
cat build/skipped.log build/Testing/Temporary/LastTest.log 2>/dev/null | sed -n 's/.*\(skipped: .*\)/\1/p' | sort -u
rm -f build/skipped.log
all=$(counted 2 build/ctest.log build-asan/ctest.log)
bad=$(counted 1 build/ctest.log build-asan/ctest.log)
[ "$all" -gt 0 ] || failed=1
echo "$(((all - bad) * 100 / (all ? all : 1)))% tests passed, $bad tests failed out of $all (with sanitizers: $(counted 2 build-asan/ctest.log))"
exit $failed
