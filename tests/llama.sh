#!/bin/sh
# Proves: examples/llama_cpp with a real llama.cpp: the .gguf of examples/model, and of a Llama and a Gemma of random
# numbers, load there; the rows it hands over behind each layer are those of `sae activations` at the same layer for
# the same tokens; 50 steps of training and steering run, and steering changes what is said.
# Oracle: llama.cpp. Tolerance: 1e-3 of the largest entry (its keys and values are float16, its gelu a table of them).
# usage: sh tests/llama.sh      (LLAMA: llama.cpp's folder, LLAMA_BUILD: its build, else an installed libllama; PYTHON; SAE)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
SAE=${SAE:-$root/build/sae}
python=${PYTHON:-python3}
CC=${CC:-cc}
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $*"; }
skip() { echo "SKIPPED: $*"; echo "0 passed, 0 failed"; exit 0; }
[ -n "$LLAMA" ] || echo 'int main(void) { return 0; }' | $CC -include llama.h -x c - -o /dev/null -lllama 2> /dev/null \
    || skip "no libllama is installed and LLAMA=DIR names none: examples/llama_cpp is not tested"
"$python" -c 'import gguf, numpy' 2> /dev/null || skip "$python has no gguf and numpy: examples/llama_cpp is not tested"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/sae_llama_XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
GGML_NO_BACKTRACE=1
export GGML_NO_BACKTRACE

make -C "$root" --no-print-directory llama LLAMA="$LLAMA" ${LLAMA_BUILD:+LLAMA_BUILD="$LLAMA_BUILD"} > "$tmp/make" 2>&1
if [ $? = 0 ] && ! grep -q warning "$tmp/make"; then good
else bad "make llama:"; tail -n 5 "$tmp/make"; echo "$passed passed, $failed failed"; exit 1; fi
engine=$root/build/llama_cpp
cd "$tmp" || exit 1
head -c 12000 "$root/examples/model/demo.txt" > text.txt

near() { # near GOT WANT: within 1e-3 of the largest entry
    "$python" - "$1" "$2" << 'END'
import sys, numpy as np
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
e = np.abs(a - b).max() / np.abs(b).max() if a.shape == b.shape and len(a) > 1000 else float("inf")
print("rows %s and %s, off by %.1e" % (a.shape, b.shape, e))
sys.exit(not e <= 1e-3)
END
}
model() { # model FOLDER NAME PATH: its .gguf, and its rows behind layers 0, 1, 2
    "$python" "$root/tests/make_gguf_model.py" "$1" "$2.gguf" f32 2> err || { bad "no $2.gguf"; tail -n 3 err; return; }
    for layer in 0 1 2; do
        "$engine" rows "$2.gguf" l_out-$layer text.txt want.npy 2> err || { bad "$2: rows"; tail -n 3 err; return; }
        for from in "$2.gguf" "$1"; do
            [ "$2" != llama ] || [ "$from" = "$2.gguf" ] || continue # its .gguf names another pattern of words
            "$SAE" activations --model "$from" --text text.txt --ctx 128 --submodule "$3.$layer" --io out --out got.npy \
                --quiet > out 2>&1 || { bad "$from: activations"; tail -n 3 out; continue; }
            if near got.npy want.npy > out; then good; else bad "$from, layer $layer: $(cat out)"; fi
        done
    done
}
model "$root/examples/model" own gpt_neox.layers
for family in llama gemma; do
    "$python" "$root/tests/make_gguf_model.py" random $family $family || bad "no $family"
    model $family $family model.layers
done

"$engine" train own.gguf l_out-3 text.txt dict 50 > out 2>&1 && [ -s dict/ae.pt ] && good || { bad "train"; tail -n 3 out; }
"$SAE" eval dict --model own.gguf --text text.txt --submodule gpt_neox.layers.3 --io out --json > out 2>&1 && grep -q frac_recovered out \
    && good || { bad "eval of what was trained"; tail -n 3 out; }
"$engine" steer own.gguf l_out-3 dict 7=60 "Once upon a time" > out 2> err && good || { bad "steer"; tail -n 3 err; }
without=$(sed -n 's/^without: //p' out)
with=$(sed -n 's/^with: *//p' out)
[ -n "$without" ] && [ -n "$with" ] && [ "$without" != "$with" ] && good || bad "steering says \"$with\" and \"$without\""
"$engine" rows own.gguf nothing-3 text.txt x.npy > out 2> err && bad "a node that is not there" || good
grep -q "no such node" err && good || bad "$(cat err)"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
