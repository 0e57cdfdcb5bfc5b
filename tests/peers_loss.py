#!/usr/bin/env python3
"""Proves: `sae eval --model` gives the losses that dictionary_learning's loss_recovered gives in PyTorch, for
every class of dictionary, at every kind of place, and `sae features` the same activations, logits and effects
as PyTorch. `make test-peers` runs it.

Oracle: transformers' GPTNeoXForCausalLM, tokenizers, and the dictionaries as dictionary_learning's own
load_dictionary opens them, put into the model by PyTorch hooks as loss_recovered's text says (it runs on
nnsight, which is not needed so). Tolerance: 1e-4 in the losses and in frac_recovered.
Needs build/sae, torch, transformers, tokenizers, dictionary_learning; skips itself, loudly, without them."""
import json
import os
import re
import subprocess
import sys
import tempfile
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = os.environ.get("SAE_TOOL", os.path.join(ROOT, "build", "sae"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
passed = failed = 0


class Absent(types.ModuleType):
    """Stands for what dictionary_learning imports and these calls do not use."""
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


try:
    import numpy as np
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
    transformers.GPTNeoXForCausalLM  # imported now, before it could meet what follows
    for absent in ("nnsight", "datasets", "zstandard", "umap", "circuitsvis", "wandb", "einops"):
        try:
            __import__(absent)
        except ImportError:
            sys.modules[absent] = Absent(absent)
    from dictionary_learning.utils import load_dictionary
except ImportError as missing:
    print(f"SKIPPED: {missing}: losses are not compared with the reference's")
    print("0 passed, 0 failed")
    sys.exit(0)

CTX, M, K = 48, 96, 8


def check(condition, what):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    print(("ok      " if condition else "FAILED  ") + what)


def tool(*arguments):
    return subprocess.run([TOOL, *arguments], capture_output=True, text=True)


def make_text():
    """Text of this project, with what is awkward: other scripts, control bytes, tags."""
    parts = [open(os.path.join(ROOT, f), encoding="utf-8").read() for f in ("README.md", "LICENSE", "CHANGELOG.md")]
    parts.append(open(os.path.join(ROOT, "sae.h"), encoding="utf-8").read()[:60000])
    return "\n".join(parts) + "\n</script><b>\x01\x02 na\u00efve \u65e5\u672c\u8a9e \U0001f600\n" * 4


def make_model(folder, text_path, seed, **config):
    """A small GPT-NeoX that has read a little, so that its losses are apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([text_path], trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                     show_progress=False))
    os.makedirs(folder)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    torch.manual_seed(seed)
    config = transformers.GPTNeoXConfig(vocab_size=704, max_position_embeddings=CTX, use_cache=False, **config)
    model = transformers.GPTNeoXForCausalLM(config)
    ids = tokenizer.encode(open(text_path, encoding="utf-8", newline="").read()).ids
    contexts = torch.tensor(ids[:len(ids) // CTX * CTX]).reshape(-1, CTX)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        batch = contexts[torch.randint(len(contexts), (16,))]
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    if seed % 2:
        model = model.half().float()  # as the file holds it
        model.half().save_pretrained(folder)
        model.float()
    else:
        model.save_pretrained(folder)
    return model, contexts


def first(x):
    return x[0] if isinstance(x, tuple) else x


class Place:
    """The rows that go into or come out of a submodule, seen or replaced."""

    def __init__(self, model, submodule, io):
        self.model, self.io = model, io
        self.module = model.get_submodule(submodule)

    def run(self, contexts, change=None):
        """Logits; change(x) gives what stands in the place of the rows. Leaves inputs and outputs in self."""
        def before(_, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            self.input = x.detach().clone()
            if change and self.io == "in":
                x = change(self.input)
                return ((x,) + args[1:], kwargs) if args else (args, dict(kwargs, hidden_states=x))

        def after(_, args, output):
            self.output = first(output).detach().clone()
            if change and self.io != "in":
                y = change(self.input if self.io == "in_and_out" else self.output)
                return (y,) + output[1:] if isinstance(output, tuple) else y

        handles = [self.module.register_forward_pre_hook(before, with_kwargs=True),
                   self.module.register_forward_hook(after)]
        with torch.no_grad():
            logits = self.model(contexts).logits
        for h in handles:
            h.remove()
        return logits


def cross_entropy(logits, contexts):
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).double(),
                                             contexts[:, 1:].reshape(-1)).item()


def train(folder, trainer, place, contexts, submodule, out, *more):
    place.run(contexts)
    x, y = place.input, place.output
    if place.io == "out":
        x = y
    data, target = os.path.join(folder, "x.npy"), os.path.join(folder, "y.npy")
    np.save(data, x.reshape(-1, x.shape[-1]).numpy())
    options = ["--data", data]
    if place.io == "in_and_out":
        np.save(target, y.reshape(-1, y.shape[-1]).numpy())
        options += ["--target", target]
    done = tool("train", *options, "--trainer", trainer, "--dict-size", str(M), "--steps", "150", "--batch", "256", "--out", out,
                "--lr", "3e-3", "--submodule-name", submodule, "--seed", "3", "--quiet", *more)
    check(done.returncode == 0, f"train {trainer} {done.stderr.strip()}")


def compare(name, folder, model_folder, text_path, place, contexts, *more):
    dictionary = load_dictionary(folder, "cpu")[0]
    flat = lambda x: dictionary(x.reshape(-1, x.shape[-1])).reshape(x.shape).detach()
    with torch.no_grad():
        original = cross_entropy(place.run(contexts), contexts)
        theirs = {"loss_original": original,
                  "loss_reconstructed": cross_entropy(place.run(contexts, flat), contexts),
                  "loss_zero": cross_entropy(place.run(contexts, torch.zeros_like), contexts)}
    theirs["frac_recovered"] = ((theirs["loss_reconstructed"] - theirs["loss_zero"])
                                / (theirs["loss_original"] - theirs["loss_zero"]))
    done = tool("eval", folder, "--model", model_folder, "--text", text_path, "--ctx", str(CTX), "--json", *more)
    if done.returncode:
        return check(False, f"{name}: {done.stderr.strip()}")
    ours = json.loads(done.stdout)
    worst = max(abs(ours[k] - theirs[k]) for k in theirs)
    check(worst <= 1e-4 and ours["n_tokens"] == contexts.numel(),
          f"{name}: CE {ours['loss_original']:.4f}, {ours['loss_reconstructed']:.4f}, {ours['loss_zero']:.4f}, recovered "
          f"{ours['frac_recovered']:.4f}; largest difference {worst:.1e}")


def page_data(path):
    text = open(path, encoding="utf-8").read()
    found = re.search(r'<script type="application/json" id="data">\n(.*?)\n</script>', text, re.S)
    return json.loads(found.group(1))


def compare_features(folder, model_folder, text_path, place, contexts, model, out):
    """The page's figures for a top_k dictionary at the output of a layer."""
    done = tool("features", folder, "--model", model_folder, "--text", text_path, "--ctx", str(CTX), "--out", out, "--quiet")
    if done.returncode:
        return check(False, f"features: {done.stderr.strip()}")
    run = page_data(out)
    vocab, strings = run["vocab"], run["contexts"]
    run = run["runs"][0]
    dictionary = load_dictionary(folder, "cpu")[0]
    place.run(contexts)
    x = place.output
    with torch.no_grad():
        f = dictionary.encode(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
    count = (f != 0).sum((0, 1))
    alive = int((count > 0).sum())
    check(run["alive"] == alive and len(run["features"]) == alive, f"features that fire: {run['alive']}, {alive}")
    shown = {g["i"]: g for g in run["features"]}
    near = lambda a, b, t: abs(a - b) <= t * max(1e-3, abs(b))
    check(all(g["n"] == int(count[i]) and near(g["max"], f[..., i].max().item(), 2e-3)
              and near(g["mean"], (f[..., i].sum() / count[i]).item(), 2e-3) for i, g in shown.items()), "counts, largest, means")
    check(all(near(max(e[3::2]), f[..., i].max().item(), 1e-2) for i, g in shown.items() for e in g["e"][:1]),
          "the first example holds the largest value")
    peaks = f.amax(1)
    check(all(sum(1 for e in g["e"]) == min(8, int((peaks[:, i] > 0).sum())) for i, g in shown.items()), "eight contexts each")
    # top tokens by mean activation
    ids, good = contexts.reshape(-1), 0
    totals = torch.bincount(ids, minlength=704)
    for i, g in list(shown.items())[:20]:
        mean = torch.zeros(704).index_add_(0, ids, f[..., i].reshape(-1)) / totals.clamp(min=1)
        mean[totals < 3] = -1
        good += near(g["t"][0][1], mean.max().item(), 1e-2) if g["t"] else float(mean.max()) <= 0
    check(good == min(20, len(shown)), "tokens by mean activation")
    # the direction through the final layer norm's linear part and the unembedding
    w = dictionary.decoder.weight.detach().T if hasattr(dictionary, "decoder") else dictionary.W_dec.detach()
    unembed = model.get_output_embeddings().weight.detach()
    logits = ((w - w.mean(1, keepdim=True)) * model.gpt_neox.final_layer_norm.weight.detach()) @ unembed.T
    check(all(near(g["lt"][0][1], logits[i].max().item(), 1e-2) and near(g["lb"][0][1], logits[i].min().item(), 1e-2)
              for i, g in shown.items()), "logits of the directions")
    unit = w / w.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T - 2 * torch.eye(len(w))
    check(all(abs(g["nb"][0][1] - cosine[i].max().item()) <= 2e-3 for i, g in shown.items()), "neighbours")
    # ablation at one context, by hand: the shown mean is over g["an"] of them
    worst = 0.0
    for i, g in list(shown.items())[:12]:
        kls, losses, steered = [], [], []
        top = sorted(((float(peaks[c, i]), -c) for c in range(len(contexts)) if peaks[c, i] > 0), reverse=True)[:8]
        ways = sorted((int(f[-c, :, i].argmax()), -k, -c) for k, (v, c) in enumerate(top))
        long = [w for w in ways if w[0] >= 7] or []
        ways = sorted(long, key=lambda w: (w[0], -w[1])) + sorted([w for w in ways if w[0] < 7], key=lambda w: (-w[0], -w[1]))
        for at, _, c in ways[:g["an"]]:
            def change(y):
                y = y.clone()
                y[0, at] -= f[c, at, i] * w[i]
                return y
            clean = place.run(contexts[c:c + 1])[0, at].log_softmax(0)
            without = place.run(contexts[c:c + 1], change)[0, at].log_softmax(0)
            kls.append((clean.exp() * (clean - without)).sum().item())
        worst = max(worst, abs(np.mean(kls) - g["kl"]) / max(1e-4, g["kl"]))
    check(worst < 2e-2, f"effect of ablating: KL, largest relative difference {worst:.1e}")
    worst = 0.0
    for i, g in list(shown.items())[:12]:
        change_sum = torch.zeros(704)
        for n in range(g["sn"]):
            c = (2 * n + 1) * len(contexts) // (2 * g["sn"])

            def change(y):
                y = y.clone()
                y[0, 15] += f[..., i].max() * w[i]
                return y
            change_sum += (place.run(contexts[c:c + 1], change)[0, 15].softmax(0)
                           - place.run(contexts[c:c + 1])[0, 15].softmax(0)) / g["sn"]
        token, before, after = g["su"][0]
        worst = max(worst, abs(after - before - change_sum.max().item()))
    check(worst < 2e-3, f"effect of adding: largest difference in probability {worst:.1e}")
    np_file = json.load(open(out[:-5] + ".json", encoding="utf-8"))
    keys = {"feature_index", "neuron_alignment_indices", "correlated_neurons_indices", "correlated_features_indices", "neg_str",
            "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_heights", "freq_hist_data_bar_values",
            "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "n_prompts_total", "n_tokens_in_prompt", "dataset",
            "decoder_weights_dist", "activations"}
    check(len(np_file["features"]) == alive and all(keys <= set(g) for g in np_file["features"])
          and all(len(a["tokens"]) == len(a["values"]) for g in np_file["features"] for a in g["activations"])
          and all(len(g["freq_hist_data_bar_heights"]) == len(g["freq_hist_data_bar_values"]) for g in np_file["features"]),
          "Neuronpedia's layout")
    check(len(vocab) > 100 and len(strings) > 10, "tokens and contexts are on the page")


def main():
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        text_path = os.path.join(folder, "text.txt")
        open(text_path, "w", encoding="utf-8", newline="").write(make_text())
        at = lambda name: os.path.join(folder, name)
        shapes = [dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160, rotary_pct=0.25),
                  dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, rotary_pct=0.5,
                       use_parallel_residual=False)]
        for n, shape in enumerate(shapes):
            model, contexts = make_model(at(f"model{n}"), text_path, n, **shape)
            common = ["--threshold-start-step", "20"]
            kinds = [("top_k", ["--k", str(K), *common]), ("batch_top_k", ["--k", str(K), *common]),
                     ("matryoshka_batch_top_k", ["--k", str(K), "--group-fractions", "0.25,0.75", *common]),
                     ("jumprelu", ["--target-l0", str(K)]), ("standard", []), ("standard_april", []), ("gated", [])]
            for kind, more in kinds if n == 0 else kinds[:2]:
                place = Place(model, "gpt_neox.layers.1", "out")
                train(folder, kind, place, contexts, "gpt_neox.layers.1", at(f"{kind}{n}"), *more)
                compare(f"model {n}, {kind}", at(f"{kind}{n}"), at(f"model{n}"), text_path, place, contexts)
            for submodule, io in (("gpt_neox.layers.1.mlp", "out"), ("gpt_neox.layers.1.attention", "out"),
                                  ("gpt_neox.layers.1.mlp", "in"), ("gpt_neox.layers.1", "in"), ("gpt_neox.embed_in", "out"),
                                  ("gpt_neox.layers.0.mlp.dense_4h_to_h", "in"), ("gpt_neox.layers.1.mlp", "in_and_out")):
                name = f"{n}_{submodule}_{io}"
                place = Place(model, submodule, io)
                train(folder, "top_k", place, contexts, submodule, at(name), "--k", str(K), *common)
                compare(f"model {n}, {submodule}, {io}", at(name), at(f"model{n}"), text_path, place, contexts, "--io", io)
        model, contexts = make_model(at("model_f"), text_path, 2, **shapes[0])
        place = Place(model, "gpt_neox.layers.1", "out")
        train(folder, "top_k", place, contexts, "gpt_neox.layers.1", at("top_kf"), "--k", str(K))
        compare_features(at("top_kf"), at("model_f"), text_path, place, contexts, model, at("page.html"))
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
