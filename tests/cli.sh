#!/bin/sh
# Proves: build/sae as a user meets it: every verb, every trainer, configs, sweeps, logs, checkpoints,
# kill -9 and --resume, threads, and what is said when something is wrong.
# Oracle: design of the command line (exit status, one line on stderr, names of keys and files) and the
# tool against itself: same bytes from other threads and after a kill. Tolerance: none.
# Needs sh, a C compiler, cmp, od, grep. usage: sh tests/cli.sh      (SAE: the tool to test)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
SAE=${SAE:-$root/build/sae}
CC=${CC:-cc}
base=${TMPDIR:-/tmp}
[ -z "$TMPDIR" ] && [ -w /dev/shm ] && base=/dev/shm
tmp=$(mktemp -d "$base/sae_cli_XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # waiting threads sleep: the machine may be busy
export OMP_WAIT_POLICY
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $*"; }
check() { # check WHAT COMMAND...: the command must succeed
    what=$1; shift
    if "$@" > check.out 2>&1; then good; else bad "$what"; head -n 5 check.out; fi
}
differ() { if cmp -s "$1" "$2"; then return 1; fi; }
absent() { for f in "$@"; do [ ! -e "$f" ] || { echo "$f is there"; return 1; }; done; }
has() { for k in "$@"; do grep -q "$k" has.txt || { echo "no $k in:"; head -c 600 has.txt; return 1; }; done; }
status() { # status WANT COMMAND...: exit status; on failure one line on stderr and nothing on stdout
    want=$1; shift
    "$@" > status.out 2> status.err; got=$?
    if [ $got != "$want" ]; then bad "exit $got, want $want: $*"; head -n 3 status.err; return; fi
    if [ "$want" != 0 ] && { [ "$(wc -l < status.err)" != 1 ] || ! grep -q '^sae' status.err; }; then
        bad "not one clear line: $*"; head -n 5 status.err; return
    fi
    good
}
says() { # says PATTERN: the line of the last status
    if grep -q -e "$1" status.err; then good; else bad "\"$(cat status.err)\" does not say $1"; fi
}

# ---- data: rows of a few directions, as .npy ----
cat > gen.c << 'END'
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static uint64_t state;
static double uniform(void) {
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}
/* The numbers of a .npy as double, its shape in n, d; 8: int64. */
static double *load(const char *path, long *n, long *d) {
    FILE *f = fopen(path, "rb");
    unsigned char head[10];
    char text[512], *at;
    int wide;
    double *out;
    if (!f || fread(head, 1, 10, f) != 10) exit(3);
    memset(text, 0, sizeof text);
    if (fread(text, 1, head[8] + 256u * head[9], f) < 20) exit(3);
    wide = strstr(text, "'<i8'") != NULL;
    at = strchr(text, '(');
    *n = strtol(at + 1, &at, 10);
    *d = *at == ',' && at[1] != ')' ? strtol(at + 1, &at, 10) : 1;
    out = malloc(sizeof *out * (size_t)(*n * *d + 1));
    for (long i = 0; i < *n * *d; i++) {
        float v;
        int64_t w;
        if (fread(wide ? (void *)&w : (void *)&v, wide ? 8 : 4, 1, f) != 1) exit(3);
        out[i] = wide ? (double)w : (double)v;
    }
    fclose(f);
    return out;
}
int main(int argc, char **argv) {
    if (!strcmp(argv[1], "gen")) { /* FILE n d seed [bad]: [bad] makes one number NaN */
        long n = atol(argv[3]), d = atol(argv[4]);
        double w[16][64];
        char head[128];
        FILE *f = fopen(argv[2], "wb");
        state = 5;
        for (int i = 0; i < 16; i++) for (int j = 0; j < 64; j++) w[i][j] = uniform() - 0.5;
        state = (uint64_t)atol(argv[5]);
        memset(head, ' ', 128);
        memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
        head[10 + sprintf(head + 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (%ld, %ld), }",
                          n, d)] = ' ';
        head[127] = '\n';
        fwrite(head, 1, 128, f);
        for (long r = 0; r < n; r++) {
            float row[64];
            for (long j = 0; j < d; j++) row[j] = (float)(0.05 * (uniform() - 0.5));
            for (int i = 0; i < 16; i++)
                if (uniform() < 0.25)
                    for (long j = 0; j < d; j++) row[j] += (float)(2 * w[i][j]);
            if (argc > 6 && r == atol(argv[6])) row[0] = NAN;
            fwrite(row, sizeof *row, (size_t)d, f);
        }
        return fclose(f);
    }
    if (!strcmp(argv[1], "raw")) { /* NPY FILE: the numbers alone */
        long n, d;
        double *x = load(argv[2], &n, &d);
        FILE *f = fopen(argv[3], "wb");
        for (long i = 0; i < n * d; i++) { float v = (float)x[i]; fwrite(&v, 4, 1, f); }
        return fclose(f);
    }
    if (!strcmp(argv[1], "shape")) { /* NPY n d */
        long n, d;
        load(argv[2], &n, &d);
        return !(n == atol(argv[3]) && d == atol(argv[4]));
    }
    if (!strcmp(argv[1], "sparse")) { /* FOLDER of row, index, value, shape; NPY dense: the same? */
        long n, d, entries = 0, count, one;
        char path[4][300];
        double *dense = load(argv[3], &n, &d), *part[4];
        for (int i = 0; i < 4; i++) {
            sprintf(path[i], "%s/%03d.npy", argv[2], i);
            part[i] = load(path[i], &count, &one);
            if (i == 0) entries = count;
        }
        if (part[3][0] != n || part[3][1] != d) return 1;
        for (long q = 0; q < entries; q++) {
            long at = (long)part[0][q] * d + (long)part[1][q];
            if (part[2][q] == 0 || dense[at] != part[2][q]) return 1;
            dense[at] = 0;
        }
        for (long q = 0; q < n * d; q++) if (dense[q] != 0) return 1;
        return 0;
    }
    return 2;
}
END
$CC -O1 gen.c -o gen -lm || { echo "0 passed, 1 failed"; exit 1; }
./gen gen x.npy 700 20 1
./gen gen y.npy 700 20 2
./gen gen more.npy 300 20 3
./gen gen wide.npy 50 24 4
./gen gen nan.npy 90 20 5 77
./gen raw x.npy x.bin

sparsity="--sparsity-warmup-steps 6"
arguments() { # of one trainer
    case $1 in
    standard) echo "--l1-penalty 0.05 --resample-steps 20 $sparsity";;
    standard_april | gated) echo "--l1-penalty 0.05 $sparsity";;
    gated_anneal | p_anneal) echo "--initial-sparsity-penalty 0.03 --anneal-start 10 --p-end 0.5 $sparsity";;
    top_k) echo "--k 6 --auxk-alpha 0.1 --dead-feature-threshold 300";;
    batch_top_k) echo "--k 6 --threshold-start-step 5";;
    matryoshka_batch_top_k) echo "--k 6 --group-fractions 0.25,0.75 --threshold-start-step 5";;
    jumprelu) echo "--target-l0 6 --bandwidth 0.05 $sparsity";;
    esac
}
trainers="standard standard_april gated gated_anneal p_anneal top_k batch_top_k matryoshka_batch_top_k jumprelu"
train() { # train NAME OUT MORE...: 50 steps
    name=$1; out=$2; shift 2
    # shellcheck disable=SC2046
    "$SAE" train --data x.npy --trainer "$name" --dict-size 64 --batch 48 --steps 50 --lr 3e-3 \
        --warmup-steps 4 --seed 3 --out "$out" --quiet $(arguments "$name") "$@"
}

# ---- every trainer: results, threads, eval, encode, reconstruct, info ----
for t in $trainers; do
    check "$t trains" train "$t" "$t" --threads 1 --log "$t.jsonl" --log-steps 1 --save-steps 0,20
    check "$t: results" ls "$t/config.json" "$t/ae.pt" "$t/ae.safetensors" "$t/checkpoints/ae_0.pt" \
        "$t/checkpoints/ae_20.pt"
    for n in 2 3; do
        check "$t with $n threads" train "$t" "$t.$n" --threads $n --save-steps 0,20
        for f in ae.pt ae.safetensors checkpoints/ae_0.pt checkpoints/ae_20.pt config.json; do
            check "$t: $f with $n threads" cmp "$t/$f" "$t.$n/$f"
        done
    done
    check "$t: 50 lines of log" test "$(wc -l < "$t.jsonl")" = 50
    cp "$t.jsonl" has.txt
    check "$t: keys of the log" has '^{"step": 0, "loss": ' '"l0": ' '"frac_variance_explained": ' '"lr": '
    "$SAE" eval "$t" --data y.npy --batch 100 --json > has.txt 2> eval.err
    check "$t: eval" has '"l2_loss"' '"l1_loss"' '"l0"' '"frac_variance_explained"' '"cossim"' \
        '"l2_ratio"' '"relative_reconstruction_bias"' '"frac_alive"' '"n_rows": 700'
    status 0 "$SAE" encode "$t" --data y.npy --out dense.npy --dense
    status 0 "$SAE" encode "$t" --data y.npy --out sparse.npz
    check "$t: latents of each row" ./gen shape dense.npy 700 64
    rm -rf parts
    status 0 "$SAE" tensors sparse.npz --out parts
    check "$t: the sparse latents are the dense ones" ./gen sparse parts dense.npy
    status 0 "$SAE" reconstruct "$t" --data y.npy --out back.npy
    check "$t: reconstruction" ./gen shape back.npy 700 20
    status 0 "$SAE" reconstruct "$t" --data y.npy --out back3.npy --threads 3 --batch 7
    check "$t: reconstruction in other batches" cmp back.npy back3.npy
    "$SAE" info "$t" --json > has.txt
    check "$t: info" has '"dict_class"' '"activation_dim": 20' '"dict_size": 64' '"trainer_class"' "\"$t\""
    status 0 "$SAE" info "$t"
done
cp standard.jsonl has.txt; check "log of standard" has '"l2_loss"' '"sparsity_loss"'
cp gated.jsonl has.txt; check "log of gated" has '"aux_loss"'
cp p_anneal.jsonl has.txt; check "log of p_anneal" has '"p": ' '"next_p": ' '"sparsity_coeff": '
cp top_k.jsonl has.txt; check "log of top_k" has '"effective_l0"' '"dead_features"' '"pre_norm_auxk_loss"' '"auxk_loss"'
cp batch_top_k.jsonl has.txt; check "log of batch_top_k" has '"threshold"'
cp top_k/config.json has.txt
check "config.json" has '"trainer_class": "TopKTrainer"' '"dict_class": "AutoEncoderTopK"' '"k": 6' '"steps": 50' '"lr": 0.003'

# ---- kill -9 at any moment, then --resume: the bytes of an undisturbed run ----
big() { # big NAME OUT MORE...: long enough to be killed
    name=$1; out=$2; shift 2
    # shellcheck disable=SC2046
    "$SAE" train --data x.npy more.npy --trainer "$name" --dict-size 96 --batch 64 --steps 400 \
        --lr 1e-3 --warmup-steps 9 --seed 8 --out "$out" --quiet --threads 1 --backup-steps 7 \
        --log "$out.jsonl" --log-steps 5 $(arguments "$name") "$@"
}
killed=0
for t in $trainers; do
    check "$t runs through" big "$t" "big_$t"
    for round in 1 2; do # before or after the first backup; then somewhere in the rest
        resume=
        [ $round = 2 ] && resume=--resume
        # shellcheck disable=SC2046,SC2086
        "$SAE" train --data x.npy more.npy --trainer "$t" --dict-size 96 --batch 64 --steps 400 \
            --lr 1e-3 --warmup-steps 9 --seed 8 --out "kill_$t" --quiet --threads 2 --backup-steps 7 \
            --log "kill_$t.jsonl" --log-steps 5 $(arguments "$t") $resume > kill.out 2>&1 &
        pid=$!
        if [ $round = 1 ]; then sleep 0.02; else sleep 0.1; fi
        kill -9 $pid 2> /dev/null && killed=$((killed + 1))
        wait $pid 2> /dev/null
    done
    check "$t goes on" big "$t" "kill_$t" --resume
    for f in ae.pt ae.safetensors config.json; do
        check "$t: $f after kill -9" cmp "big_$t/$f" "kill_$t/$f"
    done
    check "$t: log after kill -9" cmp "big_$t.jsonl" "kill_$t.jsonl"
    check "$t: nothing left over" absent "kill_$t"/*.tmp "kill_$t"/backup*
    rm -rf "big_$t" "kill_$t"
done
check "some runs were killed" test $killed -ge 5
status 1 "$SAE" train --data x.npy --trainer top_k --k 6 --dict-size 2000000000 --steps 9 --out huge
says 'takes .* of memory .* and there are'
check "refused before it begins" absent huge
status 1 "$SAE" train --data x.npy --trainer standard --dict-size 64 --lr 1e12 --batch 48 --steps 2000 --warmup-steps 0 --out nan
says 'diverged: its loss at step [1-9] is .*smaller lr'
status 1 "$SAE" train --data x.npy --trainer p_anneal --dict-size 32 --initial-sparsity-penalty 1e4 --p-end 0.5 --anneal-start 10 --lr 0.01 --batch 48 --steps 300 --warmup-steps 10 --sparsity-warmup-steps 10 --out nan
says 'diverged at step [1-9][0-9]*: no latent fired'

# ---- links stay, and what they name is written; devices and pipes are never replaced ----
mkdir disk; ln -s disk/latents.npy latents.npy; ln -s disk/latents.npz latents.npz; ln -s disk/log.jsonl log.jsonl
: > disk/latents.npy
check "encode through a link" "$SAE" encode top_k --data x.npy --dense --out latents.npy --quiet
check "encode through a link to come" "$SAE" encode top_k --data x.npy --out latents.npz --quiet
check "a log through a link" "$SAE" train --data x.npy --trainer top_k --k 6 --dict-size 64 --batch 48 --steps 5 --out of_log --log log.jsonl --quiet
for f in latents.npy latents.npz log.jsonl; do
    check "$f stays a link" test -L $f
    check "$f is written" test -s disk/$f
done
mkfifo pipe.npy pipe.npz
status 1 "$SAE" encode top_k --data x.npy --dense --out pipe.npy; says 'a device or a pipe'
status 1 "$SAE" encode top_k --data x.npy --out pipe.npz; says 'a device or a pipe'
status 1 "$SAE" train --data x.npy --trainer top_k --k 6 --dict-size 64 --steps 5 --out of_pipe --log pipe.npy; says 'a device or a pipe'
check "pipes stay" test -p pipe.npy -a -p pipe.npz
check "nothing is left beside them" absent pipe.npy.tmp pipe.npz.tmp
check "nothing of it is left" absent nan/ae.pt nan/ae.safetensors nan/backup.safetensors
check "a finished run stays" train top_k top_k --resume
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 60 --batch 48 --out stop \
    --quiet --backup-steps 5 --save-steps 3 --log /no/such/folder/l.jsonl
says '/no/such/folder/l.jsonl'

# ---- configs, sweeps, starts, targets, data ----
cp top_k/config.json one.json
printf '[%s, %s]\n' "$(cat top_k/config.json)" "$(cat jumprelu/config.json)" > two.json
check "one config" "$SAE" train --data x.npy --config one.json --batch 48 --out from_config --seed 3 --quiet
check "a config says what the command line said" cmp top_k/ae.safetensors from_config/ae.safetensors
check "the command line wins" "$SAE" train --data x.npy --config one.json --k 4 --steps 9 --warmup-steps 2 --out k4 --quiet
cp k4/config.json has.txt; check "k is 4, 9 steps" has '"k": 4' '"steps": 9'
check "a sweep in one file" "$SAE" train --data x.npy --config two.json --batch 48 --out sweep --seed 3 --quiet --log sweep.jsonl --log-steps 10
check "the sweep's first is the single run" cmp top_k/ae.safetensors sweep/trainer_0/ae.safetensors
check "the sweep's second too" cmp jumprelu/ae.safetensors sweep/trainer_1/ae.safetensors
cp sweep.jsonl has.txt; check "both in the log" has '"trainer": 0' '"trainer": 1'
check "several configs" "$SAE" train --data x.npy --config one.json --config jumprelu/config.json --batch 48 --out sweep2 --seed 3 --quiet
check "... are the same sweep" cmp sweep/trainer_1/ae.pt sweep2/trainer_1/ae.pt
sed 's/"lr"/"hopes": 1, "lr"/' one.json > unknown.json
"$SAE" train --data x.npy --config unknown.json --batch 48 --out unknown > unknown.out 2> has.txt
check "unknown keys warn" has 'warning.*hopes'
check "... and no more" cmp top_k/ae.safetensors unknown/ae.safetensors
check "reference's class name" "$SAE" train --data x.npy --trainer TopKTrainer --dict-size 64 --k 6 --batch 48 --steps 9 --warmup-steps 2 --out class_name --quiet
for init in top_k/ae.safetensors top_k/ae.pt top_k; do
    check "--init $init" "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --batch 48 --steps 3 --warmup-steps 1 --init $init --order sequential --out "init" --quiet
    [ -e init0 ] || cp -r init init0
    check "... starts the same" cmp init0/ae.safetensors init/ae.safetensors
done
check "sequential differs from shuffled" "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --batch 48 --steps 3 --warmup-steps 1 --init top_k --out shuffled --quiet
check "... indeed" differ init0/ae.safetensors shuffled/ae.safetensors
check "a transcoder" "$SAE" train --data x.npy --target y.npy --trainer standard --dict-size 64 --batch 48 --steps 30 --warmup-steps 2 --sparsity-warmup-steps 2 --out transcoder --quiet
"$SAE" eval transcoder --data x.npy --target y.npy --json > has.txt
check "... is judged by its target" has '"frac_variance_explained"'
"$SAE" eval transcoder --data x.npy --json > other.txt 2> status.err; says 'trained on another --target'
check "... not by its input" differ has.txt other.txt
status 0 "$SAE" encode transcoder --data x.npy --target y.npy --out t.npz
check "several files are one stream" "$SAE" encode top_k --data x.npy more.npy --out all.npy --dense
check "... of all rows" ./gen shape all.npy 1000 64
status 0 "$SAE" encode top_k --data x.npy --out npy.npy --dense
status 0 "$SAE" encode top_k --data x.bin --dim 20 --dtype f32 --out bin.npy --dense
check "raw rows are rows" cmp npy.npy bin.npy
check "--normalize-activations" train top_k normal --normalize-activations
check "... changes the result" differ top_k/ae.safetensors normal/ae.safetensors
status 0 "$SAE" eval top_k --data y.npy --use-threshold
status 0 "$SAE" eval batch_top_k --data y.npy --use-top-k
status 0 "$SAE" eval standard --data y.npy --raw
status 0 "$SAE" tensors top_k/ae.pt
"$SAE" tensors top_k/ae.pt --json > has.txt
check "tensors" has '"encoder.weight"' '"decoder.weight"' '"b_dec"' '\[64, 20\]'
"$SAE" tensors top_k/ae.safetensors --json > has.txt
check "tensors of .safetensors" has '"encoder.weight"' '"F32"'
status 0 "$SAE" tensors x.npy
status 0 "$SAE" info x.npy
status 0 "$SAE" info top_k/ae.pt --k 6 --dict-class AutoEncoderTopK

# ---- help and wrong usage: 2, one line ----
status 0 "$SAE" --help
status 0 "$SAE" --version
for v in train eval encode reconstruct info tensors; do
    status 0 "$SAE" $v --help
    check "$v --help says how" grep -q "sae $v" status.out
    status 0 "$SAE" help $v
done
status 2 "$SAE" trian; says 'train'
status 2 "$SAE" train --dat x.npy; says '--data'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --out o --l1-penaltyy 1; says 'l1-penalty'
status 2 "$SAE" train --data x.npy --trainer topk --dict-size 64 --k 6 --steps 5 --out o; says 'top_k'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5; says '--out'
status 2 "$SAE" train --trainer top_k --dict-size 64 --k 6 --steps 5 --out o; says '--data'
status 2 "$SAE" train --data x.npy --trainer top_k --k 6 --steps 5 --out o; says 'dict-size'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --out o; says '--steps'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --batch 0 --out o; says '--batch is 0'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps five --out o; says 'five'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --lr fast --out o; says 'fast'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --order random --out o; says 'random'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --save-steps 1,x --out o; says 'save-steps'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --device tpu --out o; says 'tpu'
status 2 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --out --quiet; says '--out'
status 2 "$SAE" train x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --out o
status 2 "$SAE" eval; says 'dictionary'
status 2 "$SAE" eval top_k; says '--data'
status 2 "$SAE" eval top_k --data x.npy --use-top-k --use-threshold
status 2 "$SAE" encode top_k --data x.npy; says '--out'
status 2 "$SAE" encode top_k --data x.npy --out f.npy; says 'npz'
status 2 "$SAE" tensors; status 2 "$SAE" info
check "wrong usage writes nothing" absent o f.npy

# ---- failures: 1, one line, nothing half-written ----
status 1 "$SAE" train --data none.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --warmup-steps 1 --out o; says 'none.npy'
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 65 --batch 48 --steps 5 --warmup-steps 1 --out o; says '65'
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --batch 48 --steps 5 --warmup-steps 3 --decay-start 2 --out o; says 'decay_start'
status 1 "$SAE" train --data x.npy wide.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --warmup-steps 1 --out o; says '24'
status 1 "$SAE" train --data x.npy --target wide.npy --trainer standard --dict-size 64 --steps 5 --warmup-steps 1 --sparsity-warmup-steps 1 --out o
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 32 --k 6 --batch 48 --steps 5 --warmup-steps 1 --init top_k --out o; says '64'
check "a failed start writes nothing" absent o
status 1 "$SAE" train --data nan.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --warmup-steps 1 --batch 30 --order sequential --out o --quiet; says 'row 77'
check "no result of NaN" absent o/ae.pt o/ae.safetensors o/ae.pt.tmp
status 1 "$SAE" train --data x.npy --config none.json --steps 5 --out p; says 'none.json'
printf '{"trainer": {"trainer_class": "TopKTrainer", ' > cut.json
status 1 "$SAE" train --data x.npy --config cut.json --steps 5 --out p; says 'cut.json'
printf '{"trainer": {"trainer_class": "HopefulTrainer"}}' > hope.json
status 1 "$SAE" train --data x.npy --config hope.json --steps 5 --out p; says 'HopefulTrainer'
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --warmup-steps 1 --device cuda --out p; says 'cuda'
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 5 --batch 48 --warmup-steps 1 --out x.npy --quiet; says 'x.npy'
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 60 --warmup-steps 1 --out top_k --resume --quiet
check "another run's --resume changes nothing" cmp top_k/ae.safetensors from_config/ae.safetensors
check "... and starts nothing" absent p
rm -rf held; cp -r top_k held
status 1 "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 5 --batch 48 --steps 5 --warmup-steps 1 --out held --resume
says 'held holds a finished run of other settings'
"$SAE" train --data nan.npy --trainer jumprelu --dict-size 32 --batch 30 --order sequential --steps 5 --warmup-steps 1 --out held > held.out 2>&1
check "a run that fails says so" grep -q 'row 77' held.out
status 1 "$SAE" reconstruct held --data x.npy --out held/ae.pt; says 'which is read: it would be lost'
check "a finished run outlives those that fail" diff -r held top_k
status 1 "$SAE" eval none --data x.npy; says 'none'
status 1 "$SAE" eval top_k --data wide.npy; says '24'
status 1 "$SAE" eval top_k --data nan.npy
status 1 "$SAE" encode top_k --data none.npy --out f.npz; says 'none.npy'
status 1 "$SAE" encode top_k --data x.npy --out no/such/f.npz; says 'no/such'
status 1 "$SAE" encode top_k --data x.npy --out no/such/f.npy --dense
status 1 "$SAE" encode top_k --data x.npy --target more.npy --out f.npz; says '300'
status 1 "$SAE" encode standard --data x.npy --use-top-k --out f.npz
status 1 "$SAE" reconstruct top_k --data wide.npy --out f.npy; says '24'
status 1 "$SAE" tensors gen.c; says 'gen.c'
status 1 "$SAE" info none; says 'none'
dd if=top_k/ae.pt of=cut.pt bs=1000 count=2 2> /dev/null
status 1 "$SAE" info cut.pt; says 'cut.pt'
status 1 "$SAE" encode cut.pt --data x.npy --out f.npz
check "failures leave nothing" absent f.npz f.npy f.npz.* f.npy.* no
# a disk that fills up: files may hold 8 blocks of 512 bytes
full() { (trap '' XFSZ; ulimit -f 8; "$@"); }
status 1 full "$SAE" encode top_k --data x.npy --out f.npz
status 1 full "$SAE" encode top_k --data x.npy --out f.npy --dense; says 'disk full'
status 1 full "$SAE" reconstruct top_k --data x.npy --out f.npy
status 1 full "$SAE" tensors top_k/ae.pt --out full_parts
check "no names of missing parts" absent full_parts/names.json full_parts/names.json.tmp
status 1 full "$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --batch 48 --steps 5 --warmup-steps 1 --out q --quiet; says 'q/'
check "a full disk leaves nothing half-written" absent f.npz f.npy f.npz.* f.npy.* q/*.tmp q/ae.pt q/ae.safetensors

# ---- other programs: convert, and back to the same bits; delphi's cache ----
for format in sae_lens sparsify dictionary_learning; do
    status 0 "$SAE" convert top_k to_$format --to $format --lm-name model --layer 3
    cp status.out has.txt
    check "convert says what it did" has "AutoEncoderTopK -> $format" 'latents 0.00e+00, x_hat 0.00e+00'
    "$SAE" info to_$format --json > has.txt
    check "info names the format" has "\"format\": \"$format\""
    "$SAE" encode to_$format --data x.npy --out converted.npy --dense --quiet
    "$SAE" encode top_k --data x.npy --out own.npy --dense --quiet
    check "the same latents from $format" cmp converted.npy own.npy
done
check "the files of $format" cmp to_dictionary_learning/ae.pt top_k/ae.pt
status 0 "$SAE" convert to_sae_lens to_small --to dictionary_learning --safetensors
check "convert --safetensors leaves no .pt" test -f to_small/ae.safetensors -a ! -e to_small/ae.pt
"$SAE" encode to_small --data x.npy --out converted.npy --dense --quiet
check "the same latents from ae.safetensors" cmp converted.npy own.npy
status 0 "$SAE" convert top_k to_lens --to sae_lens --data x.npy
check "counted latents" test -f to_lens/sparsity.safetensors
status 1 "$SAE" convert standard to_none --to sparsify; says 'only top-k dictionaries, this is AutoEncoder$'
check "refused, nothing made" absent to_none
status 2 "$SAE" convert top_k to_none --to gemma_scope; says 'allowed are'
status 2 "$SAE" convert top_k --to sae_lens
status 0 "$SAE" tensors to_sae_lens
status 0 "$SAE" encode top_k --data x.npy --delphi --module layers.3 --ctx 10 --splits 2 --out cache
check "delphi's files" test -f cache/layers.3/0_31.safetensors -a -f cache/layers.3/32_63.safetensors \
    -a -f cache/layers.3/config.json
"$SAE" tensors cache/layers.3/0_31.safetensors > has.txt
check "delphi's tensors" has 'locations *U16' 'activations *F16'
status 1 "$SAE" encode top_k --data x.npy --delphi --module layers.3 --ctx 997 --out cache2; says 'multiple'
check "no cache, no parts" absent cache2 cache2.row.npy

# ---- what a newcomer stumbles over ----
rm -rf o
few="--trainer top_k --dict-size 64 --k 6 --steps 5 --batch 48"
# shellcheck disable=SC2086
for case in \
    "2|--out is empty|train --data x.npy $few --out=" \
    "2|--trainer is missing|train --data x.npy --dict-size 64 --k 6 --steps 5 --out o" \
    "2|--trainer is given twice|train --data x.npy $few --trainer jumprelu --out o" \
    "2|--k is missing|train --data x.npy --trainer batch_top_k --dict-size 64 --steps 5 --out o" \
    "2|--group-fractions is missing|train --data x.npy --trainer matryoshka_batch_top_k --dict-size 64 --k 6 --steps 5 --out o" \
    "2|--k: k is 0, allowed|train --data x.npy $few --k 0 --out o" \
    "2|did you mean --lr?|train --data x.npy $few --out o --lr-rate 1" \
    "2|did you mean --lr?|train --data x.npy $few --out o --learning-rate 1" \
    "2|did you mean --steps?|train --data x.npy $few --out o --epochs 1" \
    "2|did you mean --out?|train --data x.npy $few --save-dir o" \
    "2|stray belongs to no option|train stray $few" \
    "2|stray belongs to no option|encode top_k stray --data x.npy" \
    "2|AutoEncoder, AutoEncoderNew, GatedAutoEncoder|eval top_k --data x.npy --dict-class Foo" \
    "1|ae.pt is a .pt: sae tensors|train --data top_k/ae.pt $few --out o" \
    "1|sparse.npz is a .npz|eval top_k --data sparse.npz" \
    "1|top_k is a folder|encode top_k --data top_k --out f.npz" \
    "1|need --dim and --dtype|train --data x.bin $few --out o" \
    "1|no such folder|train --data x.npy $few --out o --log no/l.jsonl" \
    "1|no such folder|steer-export top_k --feature 1 --layer 1 --out no/f.gguf" \
    "1|x.npy, which is read|encode top_k --data x.npy --out ./x.npy --dense" \
    "1|x.npy, which is read|train --data x.npy $few --log x.npy --out o" \
    "1|k 6, --k says 4|eval top_k --data x.npy --k 4" \
    "1|holds trainer_0, trainer_1: name one|eval sweep --data x.npy" \
    "1|converted into itself|convert top_k ./top_k --to dictionary_learning" \
    "1|a file of another format|convert top_k to_sparsify --to sae_lens"
do
    arguments=${case#*|}
    status "${case%%|*}" "$SAE" ${arguments#*|}
    says "${arguments%%|*}"
done
cp x.npy linked.npy && ln -f linked.npy link.npy
status 1 "$SAE" reconstruct top_k --data linked.npy --out link.npy; says 'which is read'
check "refused, nothing made, nothing lost" absent o no f.npz
check "x.npy is whole" cmp x.npy linked.npy
status 0 "$SAE" convert top_k to_sparsify --to sparsify
# rows that are not finite: said, and the others given
status 0 "$SAE" encode top_k --data nan.npy --out nan.npz --quiet
says 'warning: 1 row with NaN or infinity, first row 77 of nan.npy'
status 0 "$SAE" reconstruct top_k --data x.npy nan.npy --out nan_back.npy; says 'first row 77 of nan.npy'
status 0 "$SAE" encode top_k --data x.npy --out f.npz
check "no warning of finite rows" test ! -s status.err
cp status.out has.txt; check "what was written" has '^f.npz: 700 rows, L0 6.0$'
# a threshold that was never set
status 0 "$SAE" train --data x.npy --trainer batch_top_k --dict-size 64 --k 6 --steps 5 --batch 48 --out unset --save-steps 2,9 --l1-penalty 1
says 'threshold was never set (training ended before threshold_start_step 1000)'
says 'batch_top_k has no l1-penalty: ignored'
says 'save-steps 9'
status 0 "$SAE" eval unset --data x.npy; says 'never set (training'
status 0 "$SAE" eval unset --data x.npy --use-top-k --batch 100; check "chosen by k: no warning" test ! -s status.err
"$SAE" info unset > has.txt; check "info of it" has '^threshold *never set'
status 0 "$SAE" train --data x.npy --trainer batch_top_k --dict-size 64 --k 6 --steps 5 --batch 48 --out unset
says 'unset holds a finished run: .*checkpoints/'
check "an earlier run's checkpoint stays" test -f unset/checkpoints/ae_2.pt
status 0 "$SAE" eval top_k --data x.npy --batch 300; says 'judged 600 of 700 rows: whole batches of 300'
status 0 "$SAE" eval top_k --data x.npy --batch 300 --quiet; check "--quiet" test ! -s status.err
status 0 "$SAE" eval top_k --data x.npy --dict-class BatchTopKSAE
says 'config.json says AutoEncoderTopK'
# SIGTERM is Ctrl-C
"$SAE" train --data x.npy --trainer top_k --dict-size 64 --k 6 --steps 10000000 --batch 48 --out term --quiet 2> status.err &
pid=$!
until [ -s term/config.json ] || [ "$((tries = tries + 1))" -gt 100 ]; do sleep 0.05; done
kill $pid; wait $pid; check "SIGTERM: exit status 130" test $? = 130
says 'with --resume goes on from there'
check "... and a backup" test -f term/backup.safetensors

# ---- larger than memory: a Gemma Scope 2 folder of 17 GB, all holes ----
mkdir huge
echo '{"architecture": "jump_relu", "model_name": "none"}' > huge/config.json
header='{"w_enc":{"dtype":"F32","shape":[2048,1048576],"data_offsets":[0,8589934592]},
"w_dec":{"dtype":"F32","shape":[1048576,2048],"data_offsets":[8589934592,17179869184]},
"b_enc":{"dtype":"F32","shape":[1048576],"data_offsets":[17179869184,17184063488]},
"threshold":{"dtype":"F32","shape":[1048576],"data_offsets":[17184063488,17188257792]},
"b_dec":{"dtype":"F32","shape":[2048],"data_offsets":[17188257792,17188265984]}}'
length=${#header}
{ printf "\\$(printf %o $((length % 256)))\\$(printf %o $((length / 256)))\0\0\0\0\0\0"
  printf %s "$header"; } > huge/params.safetensors
if dd if=/dev/null of=huge/params.safetensors bs=1 seek=$((8 + length + 17188265984)) 2> /dev/null; then
    "$SAE" tensors huge > has.txt; check "tensors of a huge file" has '^w_dec .*1048576, 2048'
    "$SAE" info huge > has.txt
    check "info of a huge file" has '^dict_size *1048576$' '^encoder norms.*of the first 1024 latents'
    "$SAE" info huge --json > has.txt
    check "info --json of it" has '"dict_size": 1048576,' '"norms_of_first_latents": 1024'
    status 0 "$SAE" steer-export huge --feature 777001 --layer 3 --out huge.gguf
    status 1 "$SAE" steer-export huge --feature 1048576 --layer 3 --out huge.gguf; says '1048575'
else echo "SKIPPED: no room for a file of 17 GB of holes"
fi
# ---- a language model: the tiny one of tests/lm ----
LM=$root/tests/lm/parallel
for i in 1 2 3 4 5 6 7 8; do cat "$root/tests/lm/back.txt"; done > text.txt
: > empty.txt
status 0 "$SAE" tokenize "$LM" --text text.txt --out ids.npy
status 0 "$SAE" detokenize "$LM" --tokens ids.npy --out back.txt
check "the text comes back" cmp text.txt back.txt
status 0 "$SAE" logits "$LM" --tokens ids.npy --ctx 16 --out logits.npy
head -c 128 logits.npy > has.txt; check "shape of the logits" has "'<f4'" ', 16, 344)'
status 0 "$SAE" logits "$LM" --tokens ids.npy --ctx 16 --out logits1.npy --threads 1
check "the same from one thread" cmp logits.npy logits1.npy
act="activations --model $LM --text text.txt --ctx 16"
status 0 "$SAE" $act --submodule gpt_neox.layers.1 --out acts.npy --tokens-out act_ids.npy
status 0 "$SAE" detokenize "$LM" --tokens act_ids.npy --out whole.txt
head -c "$(wc -c < whole.txt)" text.txt > has.txt; check "its ids are the text, contexts or not" cmp has.txt whole.txt
status 0 "$SAE" $act --submodule gpt_neox.layers.1 --out acts.safetensors --dtype f16 --shard-rows 400
check "shards" test -f acts-00002-of-00003.safetensors
status 0 "$SAE" $act --submodule gpt_neox.layers.1.mlp --io in_and_out --out both.npy
check "input and output" test -f both.in.npy -a -f both.out.npy
lm="train --model $LM --text text.txt --ctx 16 --trainer top_k --dict-size 64 --k 6 --steps 20 --batch 48"
status 0 "$SAE" $lm --submodule gpt_neox.layers.1 --order sequential --out from_text --quiet
status 0 "$SAE" train --data acts.npy --trainer top_k --dict-size 64 --k 6 --steps 20 --batch 48 --order sequential \
    --out from_file --quiet
check "from text or from its activations: the same" cmp from_text/ae.safetensors from_file/ae.safetensors
cp from_text/config.json has.txt
check "config.json knows the place" has '"submodule_name": "gpt_neox.layers.1"' '"io": "out"' '"ctx_len": 16' '"layer": 1'
# several places in one reading
two="--submodule gpt_neox.layers.1 --submodule blocks.0.attn.hook_z"
status 0 "$SAE" $act $two --out two.npy
check "each place has a file" cmp two.gpt_neox.layers.1.npy acts.npy
status 0 "$SAE" $act --submodule gpt_neox.layers.0.attention.dense --io in --out z.npy
check "under either name" cmp two.blocks.0.attn.hook_z.npy z.npy
status 0 "$SAE" $lm $two --order sequential --out two --log two.jsonl --quiet
check "each place has a run, as alone" cmp two/gpt_neox.layers.1/ae.safetensors from_file/ae.safetensors
check "each place has a log" test -f two.gpt_neox.layers.1.jsonl -a -f two.blocks.0.attn.hook_z.jsonl
cp two/blocks.0.attn.hook_z/config.json has.txt
check "... and a place in its config.json" has '"submodule_name": "blocks.0.attn.hook_z"' '"layer": 0'
status 0 "$SAE" $lm $two --order sequential --out two --resume; cp status.out has.txt
check "finished, each of them" has '^two/gpt_neox.layers.1: finished before' '^two/blocks.0.attn.hook_z: finished before'
status 0 "$SAE" $lm --submodule blocks.0.attn.hook_z --heads 2 --out heads --quiet
for head in 0 1; do
    status 0 "$SAE" eval heads/trainer_$head --model "$LM" --text text.txt; cp status.out has.txt
    check "one head is judged" has "hook_z (out, head $head)" 'contexts of 16$'
    "$SAE" info heads/trainer_$head > has.txt; check "info: its head" has "^head  *$head\$"
done
# bos
yes 'of the first word' | head -n 99 > plain.txt
plain="activations --model $LM --text plain.txt --ctx 16 --submodule gpt_neox.layers.1 --quiet --out bos.npy --tokens-out"
for more in "plain_ids.npy" "bos_ids.npy --bos" "no_bos_ids.npy --bos --remove-bos"; do
    status 0 "$SAE" $plain $more
    "$SAE" detokenize "$LM" --tokens "${more%% *}" --out "${more%%.*}.txt" --quiet
done
check "with bos there are other contexts" differ plain_ids.npy bos_ids.npy
head -c "$(wc -c < no_bos_ids.txt)" plain.txt > has.txt; check "without its rows: the text" cmp has.txt no_bos_ids.txt
check "as many contexts, each of a token less" test "$(($(wc -c < bos_ids.npy) - 128))" = "$((($(wc -c < no_bos_ids.npy) - 128) / 15 * 16))"
mkdir no_bos && cp "$LM"/* no_bos && sed 's/"bos_token_id": 0,//' "$LM/config.json" > no_bos/config.json

# ---- generate ----
status 0 "$SAE" generate "$LM" --prompt "The first" --count 12 --out new.npy; cp status.out new.txt
"$SAE" detokenize "$LM" --tokens new.npy --out back.txt --quiet; echo >> back.txt
check "its text is that of its ids" cmp new.txt back.txt
printf 'The first' > prompt.txt; "$SAE" tokenize "$LM" --text prompt.txt --out prompt.npy --quiet
status 0 "$SAE" generate "$LM" --prompt-tokens prompt.npy --count 12 --out new2.npy --threads 1
check "the same from the prompt's ids, one thread" cmp new.npy new2.npy
for seed in 1 1 2; do "$SAE" generate "$LM" --prompt "The first" --count 20 --temperature 2 --top-p 0.95 --seed $seed --out drawn$seed.npy > drawn.txt
    test -f first.npy || cp drawn1.npy first.npy; done
check "the same draws from the same seed" cmp first.npy drawn1.npy
check "others from another" differ drawn1.npy drawn2.npy
status 0 "$SAE" generate "$LM" --count 3; check "from bos, where there is no prompt" test -s status.out
status 0 "$SAE" generate "$LM" --prompt a --count 1500 --temperature 100 --seed 3 --out short.npy --quiet
status 0 "$SAE" generate "$LM" --prompt a --count 1500 --temperature 100 --seed 3 --out long.npy --ignore-eos --quiet
check "eos ends it" test "$(wc -c < short.npy)" -lt "$(wc -c < long.npy)" -a "$(wc -c < long.npy)" = 6128
printf '\223NUMPY\001\000\166\000%-117s\n' "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }" > few.npy
printf '\001\000\000\000\002\000\000\000\003\000\000\000' >> few.npy
status 0 "$SAE" generate "$root/tests/lm/gemma2" --prompt-tokens few.npy --count 4
check "without a tokenizer: the ids" grep -q '^[0-9]* [0-9]* [0-9]* [0-9]*$' status.out
for case in \
    "2|which model|tokenize --text text.txt --out o.npy" \
    "2|--text is missing|tokenize $LM --out o.npy" \
    "1|tokenizer.json is not there|tokenize $root/tests/lm/sequential --text text.txt --out o.npy" \
    "1|config.json is not there|logits . --tokens ids.npy --out o.npy" \
    "1|nowhere.txt|activations --model $LM --text nowhere.txt --submodule gpt_neox.layers.1 --out o.npy" \
    "1|0 tokens|activations --model $LM --text empty.txt --submodule gpt_neox.layers.1 --out o.npy" \
    "1|there are gpt_neox.embed_in, gpt_neox.layers.N|$act --submodule gpt_neox.layers.7 --out o.npy" \
    "2|in, out, in_and_out|$act --submodule gpt_neox.layers.1 --io up --out o.npy" \
    "2|.npy and .safetensors|$act --submodule gpt_neox.layers.1 --out o.bin" \
    "1|allowed is its output|$act --submodule gpt_neox.embed_in --io in --out o.npy" \
    "2|--submodule is missing|$lm --out o" \
    "2|do not go together|$lm --submodule gpt_neox.layers.1 --data acts.npy --out o" \
    "2|--text is missing|train --model $LM --trainer top_k --dict-size 64 --k 6 --steps 20 --out o" \
    "1|32|eval top_k --model $LM --text text.txt --ctx 16 --submodule gpt_neox.layers.1" \
    "2|given twice|$act --submodule gpt_neox.layers.1 --submodule gpt_neox.layers.1 --out o.npy" \
    "1|blocks.N|$act --submodule blocks.0.hook_nonsense --out o.npy" \
    "1|it has no input|$act --submodule blocks.0.hook_mlp_out --io in --out o.npy" \
    "1|names no bos token|activations --model no_bos --text text.txt --submodule blocks.0.hook_mlp_out --bos --out o.npy" \
    "1|names no bos token|activations --model no_bos --text text.txt --submodule blocks.0.hook_mlp_out --remove-bos --out o.npy" \
    "2|--bos or --no-bos|eval heads/trainer_0 --model $LM --text text.txt --bos --no-bos" \
    "1|head is 2, .* has 2|eval heads/trainer_0 --model $LM --text text.txt --head 2" \
    "1|has no heads|eval heads/trainer_0 --model $LM --text text.txt --submodule blocks.0.hook_mlp_out" \
    "2|which model|generate --prompt a" \
    "2|stray belongs|generate $LM stray --prompt a" \
    "2|--prompt is empty|generate $LM --prompt=" \
    "2|not both|generate $LM --prompt a --prompt-tokens prompt.npy" \
    "2|names no bos token to begin with|generate no_bos" \
    "1|names no bos token|generate no_bos --prompt a --bos" \
    "1|tokenizer.json is not there|generate $root/tests/lm/gemma2 --prompt a" \
    "1|nowhere.npy|generate $LM --prompt-tokens nowhere.npy" \
    "1|is no .npy|generate $LM --prompt-tokens prompt.txt" \
    "1|allowed are|generate $root/tests/lm/gemma2 --prompt-tokens prompt.npy" \
    "1|which is read|generate $LM --prompt-tokens prompt.npy --out prompt.npy" \
    "2|--temperature is hot|generate $LM --prompt a --temperature hot" \
    "2|--temperature is -1|generate $LM --prompt a --temperature -1" \
    "2|above 0, at most 1|generate $LM --prompt a --temperature 1 --top-p 1.5" \
    "2|--temperature X|generate $LM --prompt a --top-p 0.5" \
    "2|--count is 0|generate $LM --prompt a --count 0"
do
    arguments=${case#*|}
    status "${case%%|*}" "$SAE" ${arguments#*|}
    says "${arguments%%|*}"
done
check "refused, nothing made" absent o o.npy

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
