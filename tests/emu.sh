#!/bin/sh
# Proves: build/sae-emu, the tool with the CUDA backend on the emulation, trains every golden case to the
# same bytes of ae.safetensors and the same log with --device cuda as with --device cpu, so that the bounds
# test_golden holds the CPU to hold for it too; eval and resume work; errors are one clear line.
# Oracle: --device cpu. Tolerance: none. Cases: ../shared/golden where it is, else tests/golden; all the steps
# the config names, over data that starts over where it ends.
# usage: sh tests/emu.sh      (SAE_EMU, SAE: the tools to test)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
EMU=${SAE_EMU:-$root/build/sae-emu}
SAE=${SAE:-$root/build/sae}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $*"; }
same() { # same WHAT FILE FILE
    if cmp -s "$2" "$3"; then good; else bad "$1 differs"; fi
}
says() { # says PATTERN COMMAND...: exit status 1 and one line with PATTERN in it
    pattern=$1; shift
    "$@" > out.txt 2> err.txt
    if [ $? = 1 ] && [ "$(wc -l < err.txt)" = 1 ] && grep -q -e "$pattern" err.txt; then good
    else bad "$* does not say $pattern:"; head -n 3 err.txt; fi
}

cases=${SAE_ROOT:-$root}/../shared/golden
[ -d "$cases" ] || cases=$root/tests/golden
first=
for config in "$cases"/*/config.json; do
    case=$(dirname "$config")
    name=$(basename "$case")
    [ -f "$case/steps.jsonl" ] || continue
    steps=$(sed -n 's/.*"steps": *\([0-9]*\).*/\1/p' "$config" | head -n 1)
    steps=${steps:-40} # the Gated trainer's config does not say
    batch=$(sed -n 's/.*"batch_size": *\([0-9]*\).*/\1/p' "$config" | head -n 1)
    set -- train --config "$config" --init "$case/init.safetensors" --data "$case/data.npy" --order sequential \
        --batch "$batch" --steps "$steps" --log-steps 1 --quiet
    [ -f "$case/target.npy" ] && set -- "$@" --target "$case/target.npy"
    for device in cpu cuda; do
        "$EMU" "$@" --device $device --log $device.jsonl --out $device > log.txt 2>&1 ||
            { bad "$name on $device"; head -n 3 log.txt; }
    done
    same "$name: ae.safetensors" cpu/ae.safetensors cuda/ae.safetensors
    same "$name: the log" cpu.jsonl cuda.jsonl
    case $name in top_k_auxk) first="$*"; cp -r cuda whole;; esac
    rm -rf cpu cuda
done

# another order of threads and blocks; what a run leaves is read by the CPU's tool
if [ -n "$first" ]; then
    SAE_EMU_SEED=9 "$EMU" $first --device cuda --out other > log.txt 2>&1 || bad "another seed"
    same "another seed" whole/ae.safetensors other/ae.safetensors
    if "$SAE" eval whole --data "$cases/top_k_auxk/data.npy" --batch 32 --json > eval.json 2>&1; then good
    else bad "eval"; head -n 3 eval.json; fi
    says 'no CUDA' env SAE_EMU_DEVICES=0 "$EMU" $first --device cuda --out none
    says 'driver' env SAE_EMU_DRIVER=11000 "$EMU" $first --device cuda --out none
    says 'need.*free' env SAE_EMU_MEMORY=33600000 "$EMU" $first --device cuda --out none
    says 'illegal memory access' env SAE_EMU_FAIL=launch:40:700 "$EMU" $first --device cuda --out none
    says 'make cuda' "$SAE" $first --device cuda --out none
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
