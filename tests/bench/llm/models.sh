#!/bin/sh
# models.sh FOLDER [PATTERN] - puts the standard set of models into FOLDER (14 files, 9 GB), or those whose names
# the shell pattern fits ('*q4_0*'), and prints their paths. What is there already is kept.
# The two real ones come from tests/e2e/get_models.sh; the others have real shapes and random weights, written by
# gen_gguf.py of the shared data (MICC_SHARED, ../shared beside the source tree).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
shared=${MICC_SHARED:-$root/../shared}
vocabulary=$shared/suites/tokenizers-llama.cpp/ggml-vocab-starcoder.gguf

[ $# -eq 1 ] || [ $# -eq 2 ] || {
  echo "usage: models.sh FOLDER [PATTERN]" >&2
  exit 2
}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
pattern=${2:-*}
trap 'rm -f "$folder"/*.part' EXIT
trap 'exit 1' HUP INT TERM

wanted() { # NAME
  case $1 in
  $pattern) return 0 ;;
  esac
  return 1
}

real() { # WHICH NAME
  wanted "$2" || return 0
  sh "$root/tests/e2e/get_models.sh" "$1" "$folder" >&2 || {
    echo "skipped: $2 cannot be fetched" >&2
    return 0
  }
  echo "$folder/$2.gguf"
}

generated() { # CONFIG TYPE
  name=$1-$2
  wanted "$name" || return 0
  file=$folder/$name.gguf
  if [ ! -f "$file" ]; then
    if [ ! -f "$shared/tools/gen_gguf.py" ] || [ ! -f "$vocabulary" ]; then
      echo "skipped: $name: no gen_gguf.py and vocabulary in $shared (MICC_SHARED)" >&2
      return 0
    fi
    python3 "$shared/tools/gen_gguf.py" --config "$1" --type "$2" --vocab "$vocabulary" -o "$file.part" >&2
    mv "$file.part" "$file"
  fi
  echo "$file"
}

real gemma gemma-3-270m-q4_k_m
real qwen qwen2.5-coder-0.5b-instruct-q4_k_m
for config in smollm2-135m qwen2.5-0.5b llama3.2-1b; do
  for type in f16 q8_0 q4_0 q4_k_m; do
    generated $config $type
  done
done
