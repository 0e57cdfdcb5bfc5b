#!/bin/sh
# Proves: `sae eval --model` and `sae features` as a user meets them: the table, the keys, a page with its
# JSON, and what is said when something is wrong; then the page in a browser (tests/page.py), where one is.
# Oracle: the command line's contract; for the losses see test_features.c. Tolerance: none.
# usage: sh tests/features.sh      (SAE: the tool; PYTHON; SAE_BROWSER)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
SAE=${SAE:-$root/build/sae}
python=${PYTHON:-python3}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/sae_features_XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
cp -r "${SAE_ROOT:-$root}/tests/fixtures/lm" . || exit 1
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $*"; }
run() { # run WANT COMMAND...: exit status; a failure is one line on stderr
    want=$1; shift
    "$@" > out 2> err; got=$?
    if [ $got != "$want" ]; then bad "exit $got, want $want: $*"; head -n 3 err; return; fi
    if [ "$want" != 0 ] && { [ "$(wc -l < err)" != 1 ] || ! grep -q '^sae' err; }; then
        bad "not one clear line: $*"; head -n 5 err; return
    fi
    good
}
says() { if grep -q -e "$1" "${2:-err}"; then good; else bad "$(head -c 300 "${2:-err}") does not say $1"; fi; }
lm="--model lm/model --text lm/text.txt --ctx 32"

run 0 "$SAE" eval lm/top_k $lm --json
for key in loss_original loss_reconstructed loss_zero frac_recovered n_tokens n_rows l0 frac_alive; do
    says "\"$key\": [0-9-]" out
done
run 0 "$SAE" eval lm/top_k $lm
says "Variance explained.*L1.*L0.*alive.*CE diff.*CE recovered" out
run 0 "$SAE" eval lm/top_k $lm --json --submodule gpt_neox.layers.1 --io in
run 0 "$SAE" features lm/top_k lm/jumprelu $lm --out page.html
says "page.html" out
for f in page.html page.0.json page.1.json; do [ -s $f ] && good || bad "$f is missing"; done
[ ! -e page.html.tmp ] && good || bad "page.html.tmp is left"
run 0 "$SAE" features lm/top_k $lm --out again.html --quiet --threads 1
run 0 "$SAE" features lm/top_k $lm --out once.html --quiet --threads 2
cmp -s again.html once.html && good || bad "one thread and two give different pages"
mkdir sweep && cp -r lm/top_k sweep/trainer_0 && cp -r lm/jumprelu sweep/trainer_1
echo '{"step": 0, "trainer": 0, "loss": 2, "l0": 4}' > sweep/log.jsonl
echo '{"step": 9, "trainer": 0, "loss": 1, "l0": 4}' >> sweep/log.jsonl
run 0 "$SAE" features sweep $lm --out sweep.html --quiet --no-effects
says '"log":{"step":\[0,9\],"loss":\[2,1\]' sweep.html

# trained from the text, a dictionary knows where it belongs
run 0 "$SAE" train $lm --submodule gpt_neox.layers.1.mlp --io in_and_out --trainer top_k --dict-size 32 --k 4 \
    --steps 20 --batch 64 --out own --log own.jsonl --log-steps 2 --quiet
run 0 "$SAE" eval own $lm
says "gpt_neox.layers.1.mlp (in_and_out)" out
run 0 "$SAE" features own $lm --out own.html --quiet
says '"log":{"step":\[0,2' own.html

# what is wrong, said before long work
: > empty.txt
run 1 "$SAE" eval lm/top_k --model lm/model --text empty.txt
says "empty.txt"
run 1 "$SAE" eval lm/top_k $lm --submodule gpt_neox.layers.7
says "gpt_neox.layers.7"
run 1 "$SAE" eval lm/top_k $lm --submodule gpt_neox.layers.0.mlp.dense_4h_to_h --io in
says "24.*48"
run 1 "$SAE" eval lm/top_k $lm --io sideways
says "in_and_out"
run 2 "$SAE" eval lm/top_k --text lm/text.txt
says "model"
run 2 "$SAE" eval lm/top_k --model lm/model
says "text"
run 1 "$SAE" eval lm/top_k --model lm/nothing --text lm/text.txt
run 1 "$SAE" features lm/top_k $lm --out no/such/page.html
says "no such folder"
run 1 "$SAE" features lm/top_k $lm --out lm/text.txt
says "would be lost"
run 2 "$SAE" features $lm --out page.html
run 2 "$SAE" features lm/top_k --model lm/model --text lm/text.txt
says "out is missing"
mkdir other && cp lm/model/* other/ && sed 's/"gpt_neox"/"mamba"/; s/GPTNeoX/Mamba/' lm/model/config.json > other/config.json
run 1 "$SAE" eval lm/top_k --model other --text lm/text.txt --ctx 32
says "mamba"

if command -v "$python" > /dev/null 2>&1; then
    "$python" "$root/tests/page.py" "$tmp/page.html" > browser 2>&1
    rc=$?
    grep '^SKIPPED' browser
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' browser | tail -n 1)
    if [ -z "$line" ]; then bad "page.py gave no result, exit $rc"; tail -n 5 browser; line="0 passed, 0 failed"; fi
    [ $rc = 0 ] || grep '^FAILED' browser
    passed=$((passed + $(echo "$line" | sed 's/ passed.*//')))
    failed=$((failed + $(echo "$line" | sed 's/.*, \([0-9]*\) failed/\1/')))
else
    echo "SKIPPED: $python is not installed: the page is not tested in a browser"
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
