#!/bin/sh
# src/check.sh must find each fault that is planted in a copy of src/, and none in the copy itself.
root=$(cd "$(dirname "$0")/.." && pwd)
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
passed=0
failed=0
copy="$temp/copy"
mkdir "$copy"
cp -R "$root/src" "$root/sae.h" "$root/sae_cuda.cuh" "$root/sae_lm.h" "$copy"
mkdir "$copy/tests"
cp -R "$root/tests/emu" "$copy/tests"

good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "$*"; }

# planted PART FILE WORDS: what the check says of the copy names FILE and WORDS; then FILE is as before.
planted() {
    out=$(sh "$copy/src/check.sh" "$1" 2>&1) && bad "$1 passes, want: $2: ...$3"
    case $out in
    *"FAILED: $2: "*"$3"*) good ;;
    *) bad "$1 says \"$out\", want: FAILED: $2: ...$3" ;;
    esac
    if [ -f "$root/$2" ]; then cp "$root/$2" "$copy/$2"; else rm "$copy/$2"; fi
}
# before FILE PATTERN TEXT: puts TEXT before the first line with PATTERN.
before() {
    [ -f "$root/$1" ] || bad "there is no $1 to plant in"
    awk -v pattern="$2" -v text="$3" '!done && index($0, pattern) { print text; done = 1 } { print }' \
        "$root/$1" > "$copy/$1"
}
repeated() { awk -v n="$1" -v text="$2" 'BEGIN { while (n-- > 0) print text }'; }

for part in made files functions includes text; do
    if out=$(sh "$copy/src/check.sh" $part 2>&1); then good; else bad "a clean copy: $out"; fi
done
if out=$(ONLY="base/text.h cuda/values.cuh" sh "$copy/src/check.sh" alone 2>&1); then good
else bad "a clean copy: $out"; fi

echo "/* by hand */" >> "$copy/sae.h"
planted made sae.h "make headers"
echo "/* by hand */" >> "$copy/sae_cuda.cuh"
planted made sae_cuda.cuh "make headers"
echo "/* by hand */" >> "$copy/sae_lm.h"
planted made sae_lm.h "make headers"
before src/lm/text.h '#include "base.h"' '#include "../base/text.h"'
planted includes src/lm/text.h "lm stands on api alone"
echo "static int saei_new;" >> "$copy/src/base/text.h"
out=$(sh "$copy/src/check.sh" made 2>&1) && bad "a change in src/ alone passes"
case $out in *"FAILED: sae.h: "*) good ;; *) bad "a change in src/ alone: $out" ;; esac
cp "$root/src/base/text.h" "$copy/src/base/text.h"

repeated 601 "/* more */" >> "$copy/src/base/random.h"
planted files src/base/random.h "at most 600"
echo "#pragma once" > "$copy/src/base/stray.h"
planted files src/base/stray.h "no header has it"

{ echo "static void saei_long(int a,"; echo "                      int b) {"
  repeated 80 "    a += b;"; echo "}"; } >> "$copy/src/dict/encode.h"
planted functions src/dict/encode.h "saei_long() has 83 lines"
{ echo "static void SAEI_FN(saei_long)(int a) {"; repeated 79 "    a++;"; echo "}"; } \
    >> "$copy/src/kernels/plain.inl"
planted functions src/kernels/plain.inl "saei_long() has 81 lines"
{ echo "static const int saei_table[] = {"; repeated 90 "    1,"; echo "};"; } >> "$copy/src/dict/encode.h"
if out=$(sh "$copy/src/check.sh" functions 2>&1); then good; else bad "a table is no function: $out"; fi
cp "$root/src/dict/encode.h" "$copy/src/dict/encode.h"

before src/base/text.h "#include" '#include "../dict/encode.h"'
planted includes src/base/text.h "an upward include"
before src/dict/params.h "#include" '#include "prepared.h"'
planted includes src/dict/params.h "an upward include"
before src/train/step.h "#include" '#include "../cuda/state.cuh"'
planted includes src/train/step.h "not a file of the master"
before src/cuda/state.cuh "#include" '#include "table.cuh"'
planted includes src/cuda/state.cuh "an upward include"
before src/kernels/isa.h "#include" '#include "../dict/other.inl"'
planted includes src/kernels/isa.h "another room"
before src/sae.h '#include "run/buffer.h"' '#include "base/late.h"'
out=$(sh "$copy/src/check.sh" includes 2>&1) && bad "a room in two places passes"
case $out in *"FAILED: src/base/late.h: room base"*) good ;; *) bad "a room in two places: $out" ;; esac
cp "$root/src/sae.h" "$copy/src/sae.h"

for fault in "$(repeated 1 "/* $(repeated 1 "$(printf '%098d' 0)") */")|over 100 columns" \
             "$(printf '\t/* */')|a tab" "/* */ |trailing blanks" "$(printf '/* \303\251 */')|not ASCII"; do
    printf '%s\n' "${fault%|*}" >> "$copy/src/base/text.h"
    planted text src/base/text.h "${fault#*|}"
done

# what compiles only with more than is included
ONLY=base/text.h
export ONLY
printf 'static void saei_up(sae_dictionary *d) { saei_unprepare(d); }\n' >> "$copy/src/base/text.h"
planted alone src/base/text.h "does not compile alone"
printf 'static int saei_later(void);\nstatic int saei_now(void) { return saei_later(); }\n' \
    >> "$copy/src/base/text.h"
planted alone src/base/text.h "saei_later"
ONLY=cuda/values.cuh
echo "static void saei_up() { saei_not_there(); }" >> "$copy/src/cuda/values.cuh"
planted alone src/cuda/values.cuh "saei_not_there"

echo "$passed passed, $failed failed"
[ $failed = 0 ]
