"""Proves: sae tokenize, detokenize, logits and activations give what transformers and tokenizers give, on models
with random weights and tokenizers trained here, and refuse what they do not support.

Oracle: transformers' GPTNeoXForCausalLM in float32 and tokenizers, as installed. Tolerances: ids equal; bytes equal;
logits and activations within 1e-4 of their range (float32 sums in another order give about 1e-6).

usage: python3 tests/peers_lm.py build/sae [SEED]; prints one line a check and a count.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unicodedata

import numpy as np

try:
    import torch
    import tokenizers
    import transformers
    from tokenizers import Tokenizer, AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
except ImportError as why:
    print(f"SKIPPED tests/peers_lm.py: {why}")
    print("0 passed, 0 failed")
    sys.exit(0)

transformers.utils.logging.disable_progress_bar()
SAE = sys.argv[1] if len(sys.argv) > 1 else "build/sae"
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 0
passed = failed = 0


def check(name, good, more=""):
    global passed, failed
    passed += bool(good)
    failed += not good
    print(("ok      " if good else "FAILED  ") + name + (f"  {more}" if more else ""), flush=True)


def run(*args):
    done = subprocess.run([SAE, *map(str, args)], capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


# ---- models ----------------------------------------------------------------------------------------------------

PYTHIA_70M = dict(vocab_size=50304, hidden_size=512, num_hidden_layers=6, num_attention_heads=8,
                  intermediate_size=2048)
SMALL = dict(vocab_size=301, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=100)


def rope(pct, base=10000.0):
    return {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": pct}


MODELS = {
    "pythia-70m's shape": (dict(PYTHIA_70M), torch.float32, "new"),
    "pythia-70m's shape, f16, old config": (dict(PYTHIA_70M, num_hidden_layers=2), torch.float16, "old"),
    "sequential, all dimensions turn": (dict(SMALL, use_parallel_residual=False, rope_parameters=rope(1.0)),
                                        torch.float32, "new"),
    "odd count turns, bf16, shards": (dict(SMALL, rope_parameters=rope(0.6, 500.0)), torch.bfloat16, "shards"),
    "nothing turns, tied": (dict(SMALL, rope_parameters=rope(0.05), tie_word_embeddings=True), torch.float32, "new"),
    "wide head, eps": (dict(SMALL, num_attention_heads=1, layer_norm_eps=1e-2), torch.float32, "new"),
    "head of 80, gelu_new": (dict(SMALL, hidden_size=160, num_attention_heads=2, hidden_act="gelu_new"),
                             torch.float32, "new"),
    "no attention bias, relu": (dict(SMALL, attention_bias=False, hidden_act="relu"), torch.float32, "new"),
    "quick_gelu": (dict(SMALL, hidden_act="quick_gelu"), torch.float32, "old"),
    "silu, one layer": (dict(SMALL, hidden_act="silu", num_hidden_layers=1), torch.float32, "new"),
}


def make_model(about, dtype, folder, kind):
    config = GPTNeoXConfig(**about)
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            # far from the initial values: norms and biases count, attention is sharp
            if p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                p.copy_(torch.randn_like(p) * (2.0 / p.shape[1]) ** 0.5)
    model = model.to(dtype)
    model.save_pretrained(folder, max_shard_size="20KB" if kind == "shards" else "50GB")
    if kind == "old":
        path = os.path.join(folder, "config.json")
        text = json.load(open(path))
        turn = text.pop("rope_parameters")
        text["rotary_pct"] = turn["partial_rotary_factor"]
        text["rotary_emb_base"] = int(turn["rope_theta"])
        text["torch_dtype"] = text.pop("dtype")
        json.dump(text, open(path, "w"))
        from safetensors.torch import load_file, save_file
        path = os.path.join(folder, "model.safetensors")
        tensors = load_file(path)
        for layer in range(config.num_hidden_layers):
            at = f"gpt_neox.layers.{layer}.attention."
            tensors[at + "bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
            tensors[at + "masked_bias"] = torch.tensor(-1e9)
            tensors[at + "rotary_emb.inv_freq"] = torch.zeros(8, dtype=torch.float16)
        save_file(tensors, path, metadata={"format": "pt"})
    # loaded anew: .to(float16) would round the rotary frequencies too
    return GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def close(a, b, limit=1e-4):
    worst = np.abs(a - b).max() / (b.max() - b.min())
    return a.shape == b.shape and worst < limit, f"{worst:.1e} of the range"


SITES = [("gpt_neox.embed_in", "out"), ("gpt_neox.layers.0", "in"), ("gpt_neox.layers.1", "out"),
         ("gpt_neox.layers.2.attention", "in"), ("gpt_neox.layers.2.attention", "out"),
         ("gpt_neox.layers.1.attention.dense", "in"), ("gpt_neox.layers.1.mlp", "in"),
         ("gpt_neox.layers.1.mlp", "out"), ("gpt_neox.layers.0.mlp.dense_h_to_4h", "out"),
         ("gpt_neox.layers.0.mlp.dense_4h_to_h", "in"), ("gpt_neox.final_layer_norm", "out")]


def site_activations(model, ids, name, io):
    seen = {}

    def keep(module, args, kwargs, out):
        x = (args[0] if args else next(iter(kwargs.values()))) if io == "in" else out
        seen["x"] = (x[0] if isinstance(x, tuple) else x).detach()

    handle = model.get_submodule(name).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(ids)
    handle.remove()
    x = seen["x"]
    return x.reshape(-1, x.shape[-1]).numpy()


def test_models(tmp):
    for name, (about, dtype, kind) in MODELS.items():
        torch.manual_seed(SEED + len(name))
        folder = os.path.join(tmp, "model")
        shutil.rmtree(folder, ignore_errors=True)
        model = make_model(about, dtype, folder, kind)
        shape = (2, 65) if about["vocab_size"] > 1000 else (5, 70)
        ids = torch.randint(0, about["vocab_size"], shape)
        np.save(f"{tmp}/ids.npy", ids.numpy().astype(np.int32))
        rc, err = run("logits", folder, "--tokens", f"{tmp}/ids.npy", "--out", f"{tmp}/logits.npy", "--quiet")
        check(f"logits, {name}: opens", rc == 0, err)
        if rc == 0:
            with torch.no_grad():
                want = model(ids).logits.numpy()
            check(f"logits, {name}", *close(np.load(f"{tmp}/logits.npy"), want))
        if "sequential" in name or "shards" in name:
            for site, io in SITES:
                rc, err = run("activations", "--model", folder, "--tokens", f"{tmp}/ids.npy", "--submodule", site,
                              "--io", io, "--out", f"{tmp}/x.npy", "--quiet")
                if rc:
                    check(f"activations, {name}, {site} {io}", False, err)
                else:
                    check(f"activations, {name}, {site} {io}",
                          *close(np.load(f"{tmp}/x.npy"), site_activations(model, ids, site, io)))


# ---- tokenizers ------------------------------------------------------------------------------------------------

SCRIPTS = [(0x20, 0x7F), (0xA0, 0x24F), (0x370, 0x400), (0x400, 0x4FF), (0x5D0, 0x5EB), (0x620, 0x64B),
           (0x900, 0x970), (0xE01, 0xE3A), (0x3041, 0x3097), (0x4E00, 0x9FA5), (0xAC00, 0xD7A4), (0x1F300, 0x1F64F),
           (0x300, 0x36F), (0x2000, 0x2070), (0x1100, 0x11FF), (0x1D400, 0x1D7FF), (0x660, 0x66A), (0x2160, 0x2189)]
SPACES = ["\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u2028", "\u2029", "\u200b",
          "\ufeff", "\u3000", "  ", "    ", " \n ", "\n\n\n"]


def mixed_text(r, size):
    words = ["the", "don't", "I'll", "we've", "he's", "SHE'S", "x'", "''s", "it'd", "caf\u00e9", "cafe\u0301", "na\u00efve", "1234567",
             "3.14", "\u00bd", "a_b", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u4f60\u597d", "\u3053\u3093\u306b\u3061\u306f", "\ud55c\uad6d\uc5b4",
             "\u1112\u1161\u11ab", "<|endoftext|>", "<|pad", "<|endoftext", "\x00", "\x01\x02", "\x7f", "\u2126", "\ufb01", "\u1e9b\u0323",
             "a\u0323\u0307", "a\u0307\u0323", "def f(x):\n    return x\n", "http://a.b/c?d=e&f", "\U0001d15e", "\u0344"]
    out, n = [], 0
    while n < size:
        k = r.random()
        if k < 0.45:
            w = "".join(chr(r.randrange(97, 123)) for _ in range(r.randrange(1, 9)))
        elif k < 0.7:
            w = r.choice(words)
        elif k < 0.9:
            lo, hi = r.choice(SCRIPTS)
            w = "".join(chr(r.randrange(lo, hi)) for _ in range(r.randrange(1, 7)))
        elif k < 0.97:
            w = r.choice(SPACES)
        else:
            w = "".join(chr(c) for c in (r.randrange(0x110000) for _ in range(4)) if not 0xD800 <= c < 0xE000)
        if r.random() < 0.6:
            w += " "
        out.append(w)
        n += len(w.encode())
    return "".join(out)


def train_tokenizer(text, vocab, nfc=True, prefix=False):
    t = Tokenizer(models.BPE())
    if nfc:
        t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.train_from_iterator(text.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)])
    return t


def tokenize(tmp, folder, data):
    open(f"{tmp}/text", "wb").write(data)
    rc, err = run("tokenize", folder, "--text", f"{tmp}/text", "--out", f"{tmp}/ids.npy", "--quiet")
    return (np.load(f"{tmp}/ids.npy"), "") if rc == 0 else (None, err)


def detokenize(tmp, folder):
    rc, err = run("detokenize", folder, "--tokens", f"{tmp}/ids.npy", "--out", f"{tmp}/back", "--quiet")
    return open(f"{tmp}/back", "rb").read() if rc == 0 else err


def same_ids(name, tmp, folder, t, text):
    got, err = tokenize(tmp, folder, text.encode())
    want = np.array(t.encode(text).ids, dtype=np.int32)
    if got is None:
        return check(name, False, err)
    good = np.array_equal(got, want)
    more = f"{len(want)} ids"
    if not good and len(got) and len(want):
        n = min(len(got), len(want))
        at = int(np.argmax(np.append(got[:n] != want[:n], True)))
        more = f"differ at {at}: {[t.id_to_token(int(i)) for i in got[at:at + 4]]} for " \
               f"{[t.id_to_token(int(i)) for i in want[at:at + 4]]}"
    check(name, good, more)


def string_merges(folder):
    path = f"{folder}/tokenizer.json"
    j = json.load(open(path))
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    json.dump(j, open(path, "w"), ensure_ascii=False)


def test_tokenizers(tmp):
    r = random.Random(SEED)
    text = mixed_text(r, 1_000_000)
    folder = f"{tmp}/tok"
    os.makedirs(folder, exist_ok=True)
    training = text[:len(text) // 3]
    kinds = {"NFC, as Pythia's": dict(), "no normalizer": dict(nfc=False), "a space before": dict(prefix=True)}
    for name, how in kinds.items():
        t = train_tokenizer(training, 3000, **how)
        t.save(f"{folder}/tokenizer.json")
        same_ids(f"ids of 1 MB, {name}", tmp, folder, t, text)
        if name == "no normalizer":
            check(f"bytes of 1 MB back, {name}", detokenize(tmp, folder) == text.encode())
            data = bytes(r.randrange(256) for _ in range(20000)) + b"\xe2\x82" + text[:9].encode() + b"\xf0\x9f"
            ids, err = tokenize(tmp, folder, data)
            check("bytes that are no UTF-8 come back", ids is not None and detokenize(tmp, folder) == data, err)
        if name == "NFC, as Pythia's":
            plain = unicodedata.normalize("NFC", "".join(c for c in text if unicodedata.category(c) != "Cn"))
            plain = t.normalizer.normalize_str(plain)
            tokenize(tmp, folder, plain.encode())
            check(f"bytes of 1 MB back, {name}", detokenize(tmp, folder) == plain.encode())
            string_merges(folder)
            same_ids("ids, merges as strings", tmp, folder, t, text[:100000])
            points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000
                      and (c < 0x20000 or c % 61 == 0 or 0xE0000 <= c < 0xE0200)]
            every = "".join(f"a{chr(c)}1{chr(c)}.{chr(c)} {chr(c)}\n" for c in points)
            same_ids("ids of every code point", tmp, folder, t, every)
            same_ids("ids of one long word", tmp, folder, t, "ab" * 100000)
            same_ids("ids of spaces", tmp, folder, t, "".join(" " * r.randrange(40) + r.choice("a1.\n") for _ in range(3000)))
            same_ids("ids of no text", tmp, folder, t, "")
    t.add_special_tokens([AddedToken("<s>", lstrip=True), AddedToken("</s>", rstrip=True)])
    t.add_tokens([AddedToken("caf\u00e9", normalized=False), AddedToken("\ufb01", normalized=True), AddedToken("endo")])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", t.token_to_id("<s>")), ("</s>", t.token_to_id("</s>"))])
    t.save(f"{folder}/tokenizer.json")
    glue = " <s>  a</s> \n b<s><s> </s>cafe\u0301 caf\u00e9 \ufb01ve <|endoftext|> endo <|padding|>x  </s>"
    same_ids("ids, added tokens that strip, template", tmp, folder, t, glue + text[:50000] + glue)
    bare = Tokenizer(models.BPE(unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.train_from_iterator(["hello world " * 9], trainers.BpeTrainer(vocab_size=40, special_tokens=["?"],
                                                                       show_progress=False))
    bare.save(f"{folder}/tokenizer.json")
    same_ids("ids, bytes without a token", tmp, folder, bare, "hello WORLD \u00e9 world")
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.train_from_iterator(["hello world " * 9], trainers.BpeTrainer(vocab_size=40, show_progress=False))
    bare.save(f"{folder}/tokenizer.json")
    same_ids("ids, bytes without a token, left out", tmp, folder, bare, "hello WORLD \u00e9 world")


# ---- what is refused -------------------------------------------------------------------------------------------

def refused(name, words, *args):
    rc, err = run(*args)
    check(f"refused: {name}", rc in (1, 2) and "\n" not in err and all(w in err for w in words), err)


def test_refusals(tmp):
    folder, out = f"{tmp}/bad", f"{tmp}/bad.npy"
    make_model(dict(SMALL), torch.float32, folder, "shards")
    t = train_tokenizer(mixed_text(random.Random(1), 20000), 400)
    t.save(f"{folder}/tokenizer.json")
    open(f"{tmp}/text", "w").write("some text " * 500)
    open(f"{tmp}/empty", "w").close()
    ids = ["--tokens", f"{tmp}/ids.npy", "--out", out]
    text = ["--text", f"{tmp}/text", "--out", out]
    np.save(f"{tmp}/ids.npy", np.zeros((1, 8), np.int32))
    act = ["activations", "--model", folder]
    refused("a submodule that is not there", ["gpt_neox.layers.9", "gpt_neox.layers.N.mlp", "0 to 2"], *act, *text,
            "--submodule", "gpt_neox.layers.9")
    refused("an io that is not there", ["sideways", "in_and_out"], *act, *text, "--submodule", "gpt_neox.layers.0",
            "--io", "sideways")
    refused("empty text", ["0 tokens", "128"], *act, "--text", f"{tmp}/empty", "--out", out, "--submodule",
            "gpt_neox.layers.0")
    refused("no such text", ["nothing.txt"], *act, "--text", f"{tmp}/nothing.txt", "--out", out, "--submodule",
            "gpt_neox.layers.0")
    np.save(f"{tmp}/ids.npy", np.full((1, 8), 301, np.int32))
    refused("a token outside the vocabulary", ["301"], "logits", folder, *ids)
    np.save(f"{tmp}/ids.npy", np.full((1, 8), 0.5, np.float32))
    refused("tokens that are no whole numbers", ["F32"], "logits", folder, *ids)
    np.save(f"{tmp}/ids.npy", np.zeros((1, 8), np.int32))
    np.save(f"{tmp}/long.npy", np.array([5, 999999], np.int32))
    refused("an id that is no token", ["999999"], "detokenize", folder, "--tokens", f"{tmp}/long.npy", "--out", out)
    config = json.load(open(f"{folder}/config.json"))

    def with_config(**change):
        json.dump(dict(config, **change), open(f"{folder}/config.json", "w"))

    for change, words in ((dict(model_type="llama"), ["llama", "gpt_neox"]), (dict(hidden_act="mish"), ["mish", "gelu"]),
                          (dict(hidden_size=52), ["gpt_neox", "48", "52"]), (dict(num_attention_heads=5), ["multiples"]),
                          (dict(num_hidden_layers=4), ["layers.3"]), (dict(vocab_size=0), ["vocab_size", "0"]),
                          (dict(rope_parameters=dict(rope(0.25), rope_type="yarn")), ["yarn", "default"])):
        with_config(**change)
        refused(f"config.json with {change}", words, "logits", folder, *ids)
    with_config()
    shard = sorted(f for f in os.listdir(folder) if f.endswith(".safetensors"))[1]
    os.rename(f"{folder}/{shard}", f"{folder}/gone")
    refused("a missing shard", [shard, "missing"], "logits", folder, *ids)
    os.rename(f"{folder}/gone", f"{folder}/{shard}")
    refused("no folder", ["config.json", "nowhere"], "logits", f"{tmp}/nowhere", *ids)
    j = json.load(open(f"{folder}/tokenizer.json"))

    def with_tokenizer(**change):
        json.dump(dict(j, **change), open(f"{folder}/tokenizer.json", "w"))

    for change, words in ((dict(model={"type": "WordPiece", "vocab": {"a": 0}}), ["WordPiece", "BPE"]),
                          (dict(model={"type": "Unigram", "vocab": [["a", 0.0]]}), ["Unigram", "BPE"]),
                          (dict(normalizer={"type": "Lowercase"}), ["Lowercase", "NFC"]),
                          (dict(pre_tokenizer={"type": "Whitespace"}), ["Whitespace", "ByteLevel"]),
                          (dict(post_processor={"type": "BertProcessing"}), ["BertProcessing", "ByteLevel"])):
        with_tokenizer(**change)
        refused(f"tokenizer.json with {str(change)[:60]}", words, "tokenize", folder, *text)
    os.remove(f"{folder}/tokenizer.json")
    refused("no tokenizer.json", ["tokenizer.json"], "tokenize", folder, *text)


with tempfile.TemporaryDirectory() as tmp:
    print(f"torch {torch.__version__}, tokenizers {tokenizers.__version__}")
    test_tokenizers(tmp)
    test_models(tmp)
    test_refusals(tmp)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
