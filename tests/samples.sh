#!/bin/sh
# samples.sh BUILD SHARED - the samples that link compiled ONNX models, as their READMEs say, on real pictures and speech.
# What they print must be what ONNX Runtime's results give (tests/samples/): each number within a tolerance, each line there.
set -eu
build=$1
shared=$2
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -d "$shared/models" ]; then
  echo "skipped: samples/face and samples/vad, whose models lie in $shared"
  exit 0
fi

# compare NAME TOLERANCES - of the 1st, 2nd ... number of each line; the last also holds for all after it
failed=0
compare() {
  tr -c '0-9.\n' ' ' <"$work/out.txt" >"$work/got.txt"
  tr -c '0-9.\n' ' ' <"$root/tests/samples/$1.txt" >"$work/want.txt"
  if awk -v allowed="$2" '
    BEGIN { last = split(allowed, most, " ") }
    NR == FNR { for (i = 1; i <= NF; i++) want[NR, i] = $i; fields[NR] = NF; lines = NR; next }
    NF != fields[FNR] { bad = 1; print "line " FNR ": " $0 }
    { for (i = 1; i <= NF; i++) { d = $i - want[FNR, i]; if (d < 0) d = -d; if (d > most[i < last ? i : last]) { bad = 1; print "line " FNR ": " $i " is not " want[FNR, i] } } }
    END { if (FNR != lines) print FNR " lines, not " lines; exit bad || FNR != lines }' "$work/want.txt" "$work/got.txt"; then
    echo "ok: $1: $(tail -n 1 "$work/out.txt")"
  else
    echo "FAILED: $1"
    failed=1
  fi
}

# library NAME MODEL FLAGS... - the library, and the sample that links it
library() {
  name=$1 model=$2
  shift 2
  "$build/micc" "$shared/models/$model" "$@" --emit=lib -o "$work/lib$name.a"
  cc -std=c11 -Wall -Wextra -Werror -O2 "$root/samples/$name/$name.c" -I"$work" "$work/lib$name.a" -o "$work/$name"
}

library vad onnx-silero-vad/silero_vad.onnx --shape input=1x576 --shape state=2x1x128 --fix sr=16000
"$work/vad" "$shared/models/onnx-silero-vad/test.wav" >"$work/out.txt"
compare vad 0.001

if command -v djpeg >/dev/null; then
  library face onnx+tflite-ultraface/version-RFB-320.onnx
  for picture in 1 3 11; do
    djpeg "$shared/models/onnx+tflite-ultraface/$picture.jpg" | "$work/face" >"$work/out.txt"
    compare face-$picture "2 2 2 2 0.01"
  done
else
  echo "skipped: samples/face, since djpeg is missing (Debian: libjpeg-turbo-progs)"
fi
exit $failed
