#!/bin/sh
# Builds the fuzzers and runs each for so many seconds; one line a fuzzer: what ran, what was reached.
# usage: sh tests/fuzz/run.sh SECONDS [NAME...]        (FUZZ_CC: a clang with libFuzzer)
# Seeds are the fixtures; what a run learns stays in build/fuzz/corpus. A finding stays in
# build/fuzz/NAME-crash-*: once fixed it goes into tests/fuzz/findings/NAME, which every `make test`
# runs. Exit status 1 if there was a finding.
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
cd "$root" || exit 1
seconds=${1:-60}
[ $# -gt 0 ] && shift
names=${*:-zip safetensors npy gguf json folder}
cc=${FUZZ_CC:-clang}
command -v "$cc" > /dev/null || { echo "SKIPPED: $cc is not installed, libFuzzer needs it"; exit 0; }
sources="tests/fixtures tests/formats tests/layers"
[ -d ../shared/fixtures ] && sources="$sources ../shared/fixtures"
[ -d shared/fixtures ] && sources="$sources shared/fixtures"
mkdir -p build/fuzz

# copies the files with these endings into build/fuzz/seeds/NAME, numbered
seed() {
    target=build/fuzz/seeds/$1
    shift
    mkdir -p "$target"
    for ending in "$@"; do
        find $sources -type f -name "*.$ending" | sort | while read -r file; do
            number=$((${number:-0} + 1))
            cp "$file" "$target/$number.$ending"
            chmod u+w "$target/$number.$ending"
        done
    done
}

# LETTER CONFIG WEIGHTS: one input for the folder fuzzer, see fuzz_folder.c
seed_folders() {
    mkdir -p build/fuzz/seeds/folder
    find $sources -type f -path "*/$3" | sort | while read -r weights; do
        config=${weights%"$3"}$2
        number=$((${number:-0} + 1))
        [ -f "$config" ] || config=/dev/null
        { printf '%s%d\n' "$1" "$(wc -c < "$config")"; cat "$config" "$weights"; } \
            > "build/fuzz/seeds/folder/$1$number"
    done
}

rm -rf build/fuzz/seeds
seed zip pt npz
seed safetensors safetensors
seed json json
seed npy npy
seed gguf gguf
for file in build/fuzz/seeds/npy/*.npy; do
    { printf z; cat "$file"; } > "$file.z"
done
seed_folders a config.json ae.pt
seed_folders b config.json ae.safetensors
seed_folders c cfg.json sae_weights.safetensors
seed_folders d cfg.json sae.safetensors
seed_folders e config.json params.safetensors
seed_folders f config.json params.npz
seed_folders g hyperparams.json checkpoints/final.safetensors
seed_folders h config.yaml layer_0.safetensors
seed_folders i config.json sae_weights.safetensors
seed_folders j config.json sae_weights.pt
seed_folders k config.json model.safetensors
seed_folders l config.json model.pt
seed_folders m cfg.json cc_weights.pt
seed_folders n config.json layer0.sae.pt
seed_folders o a_cfg.json a.pt
seed_folders p clt_cfg.json clt_weights.safetensors
seed_folders q config.json params_layer_0.safetensors
seed_folders r W_enc_0.safetensors W_dec_0.safetensors

found=0
for name in $names; do
    program=build/fuzz/$name
    if [ ! -x "$program" ] || [ -n "$(find sae.h tests/fuzz -newer "$program" -name '*.[ch]')" ]; then
        "$cc" -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. \
            "tests/fuzz/fuzz_$name.c" -o "$program" -lm || exit 1
    fi
    mkdir -p "build/fuzz/corpus/$name"
    known=tests/fuzz/findings/$name
    [ -d "$known" ] || known=
    if nice -n 15 "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
           -max_len=40960 -print_final_stats=1 -artifact_prefix="build/fuzz/$name-" \
           "build/fuzz/corpus/$name" "build/fuzz/seeds/$name" $known > "build/fuzz/$name.log" 2>&1
    then result="no finding"
    else result="FINDING, see build/fuzz/$name.log"; found=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$name.log")
    reached=$(grep -o 'cov: [0-9]*' "build/fuzz/$name.log" | tail -n 1)
    printf '%-12s %5s s  %9s runs  %s  %s\n' "$name" "$seconds" "${runs:-?}" "${reached:-cov: ?}" "$result"
done
exit $found
