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

# what a dictionary's files say of its use
run 0 "$SAE" convert lm/top_k lens --to sae_lens
sed 's/"dataset_path"/"prepend_bos": true, "seqpos_slice": [1, null], "dataset_path"/; s/"context_size": 128/"context_size": 16/' \
    lens/cfg.json > cfg.json && mv cfg.json lens/cfg.json
run 0 "$SAE" info lens
for line in 'context size *16' 'bos in front *yes' 'positions *1:'; do says "$line" out; done
run 0 "$SAE" eval lens --model lm/model --text lm/text.txt --json
says '"ctx": 16.*"rows": "out, positions 1:"' out
tokens=$(sed 's/.*"n_tokens": \([0-9]*\),.*/\1/' out) rows=$(sed 's/.*"n_rows": \([0-9]*\),.*/\1/' out)
[ "$((tokens / 16 * 15))" = "$rows" ] && good || bad "$rows rows of $tokens tokens: the first of each context counts"
run 0 "$SAE" eval lens $lm
says 'contexts of 32 with bos$' out
says 'contexts of 32 tokens; lens was made with 16'
run 0 "$SAE" eval lens $lm --no-bos --quiet
says 'contexts of 32$' out
[ ! -s err ] && good || bad "--quiet: $(cat err)"
run 1 "$SAE" features lens lm/top_k --model lm/model --text lm/text.txt --out no.html
says "lens was made with contexts of 16 tokens, lm/top_k with 128: --ctx N"
run 0 "$SAE" features lens lm/top_k $lm --bos --remove-bos --out lens.html --quiet --no-effects
says '"submodule":"blocks.0.hook_resid_post","hook":"","io":"out, positions 1:"' lens.html
says '"submodule":"gpt_neox.layers.0","hook":"blocks.0.hook_resid_post","io":"out"' lens.html
says '"hook_name":"blocks.0.hook_resid_post"' lens.1.json
run 0 "$SAE" convert lens lens2 --to sae_lens
says '"seqpos_slice": \[1, null, 1\]' lens2/cfg.json
sed 's/"context_size": 16/"context_size": 4000/' lens2/cfg.json > cfg.json && mv cfg.json lens2/cfg.json
run 1 "$SAE" eval lens2 --model lm/model --text lm/text.txt
says "lens2 asks for contexts of 4000 tokens: --ctx N"
mkdir without && cp lm/model/* without && sed 's/"bos_token_id": 0,//' lm/model/config.json > without/config.json
run 0 "$SAE" eval lens --model without --text lm/text.txt --quiet
says "warning: .*prepend_bos"
cp -r lens lens3
for change in 's/\[1, null\]/[1, 2, 0]/' 's/"hook_head_index": null/"hook_head_index": 0.5/' 's/"prepend_bos": true/"prepend_bos": 1/'; do
    sed "$change" lens/cfg.json > lens3/cfg.json
    run 1 "$SAE" eval lens3 $lm
    says "allowed is"
done

# steered
steer="steer lm/model lm/top_k --prompt The --count 8"
run 0 "$SAE" generate lm/model --prompt The --count 8
cp out plain
run 0 "$SAE" $steer --feature 3=20
sed -n 2p out > line && cmp -s line plain && good || bad "without: $(cat line), want $(cat plain)"
says '^--- with 3=20$' out
[ "$(grep -c '^[+ ] "' out)" -gt 8 ] && good || bad "a line for each token: $(cat out)"
says '^+ .* 3 [12][0-9]' out
run 0 "$SAE" $steer --feature 3=0 --feature 4=0 --mode add
sed -n 4p out > line && cmp -s line plain && good || bad "nothing added: $(cat line), want $(cat plain)"
run 0 "$SAE" $steer --feature 3=20 --json --top 1
says '"without": ".*"with": ".*"tokens": \[{"id": [0-9]*, "text": "T", "prompt": true, "features": \[\[3, ' out
run 0 "$SAE" $steer --feature 3=20 --temperature 1 --seed 5
cp out drawn
run 0 "$SAE" $steer --feature 3=20 --temperature 1 --seed 5 --threads 1
cmp -s out drawn && good || bad "the same seed gives another text"
if command -v script > /dev/null && script -qec true /dev/null > out 2> err; then
    script -qec "stty cols 90; \"$SAE\" $steer --feature 3=20" /dev/null > out
    says '^without  *| with 3=20' out
else echo "SKIPPED: script is not installed: the columns of sae steer are not seen"
fi
for case in \
    "2|--feature is missing|$steer" \
    "2|--feature is 3, allowed|$steer --feature 3" \
    "2|--feature is 3=x, allowed|$steer --feature 3=x" \
    "2|--feature is =3, allowed|$steer --feature =3" \
    "2|--feature is 3=nan, allowed|$steer --feature 3=nan" \
    "1|features 0 to 39|$steer --feature 40=1" \
    "2|allowed are set, add, scale|$steer --feature 3=1 --mode clamp" \
    "2|--top is 65|$steer --feature 3=1 --top 65" \
    "2|which dictionary|steer lm/model --feature 3=1" \
    "2|--prompt is empty|steer lm/model lm/top_k --feature 3=1 --prompt=" \
    "1|blocks.N|$steer --feature 3=1 --submodule blocks.0.nowhere" \
    "1|rows of 48|$steer --feature 3=1 --submodule blocks.0.mlp.hook_post" \
    "1|is a transcoder|steer lm/model own --feature 3=1" \
    "1|nowhere|steer lm/model nowhere --feature 3=1"
do
    arguments=${case#*|}
    run "${case%%|*}" "$SAE" ${arguments#*|}
    says "${arguments%%|*}"
done

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
