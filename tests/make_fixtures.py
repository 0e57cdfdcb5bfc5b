#!/usr/bin/env python3
"""Makes tests/fixtures/ours_*: dictionaries trained by build/sae, opened by the real reference, with
the latents and reconstructions it gives. The tests read the result and need no Python.

usage: python3 tests/make_fixtures.py build/sae
Needs numpy, torch, dictionary-learning 0.1.0. Packages that its modules import for language models
alone are stood in for where they are not installed: no line of the dictionaries uses them.
"""
import importlib.util, json, os, subprocess, sys, tempfile, types
import numpy as np
import torch

for name in ("nnsight", "datasets", "zstandard", "wandb"):
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.LanguageModel = module.load_dataset = object
        sys.modules[name] = module
from dictionary_learning.utils import load_dictionary

SAE = sys.argv[1]
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
D, M, ROWS = 12, 40, 24
SPARSE = ["--sparsity-warmup-steps", "10"]
CASES = {
    "standard": ("standard", ["--l1-penalty", "0.05"] + SPARSE),
    "standard_april": ("standard_april", ["--l1-penalty", "0.05"] + SPARSE),
    "standard_new": ("standard_april", ["--dict-class", "AutoEncoderNew", "--l1-penalty", "0.05"] + SPARSE),
    "gated": ("gated", ["--l1-penalty", "0.05", "--lr", "1e-3"] + SPARSE),
    "top_k": ("top_k", ["--k", "4"]),
    "batch_top_k": ("batch_top_k", ["--k", "4", "--threshold-start-step", "20"]),
    "matryoshka": ("matryoshka_batch_top_k", ["--k", "4", "--group-fractions", "0.25,0.75",
                                              "--threshold-start-step", "20"]),
    "jumprelu": ("jumprelu", ["--target-l0", "5", "--bandwidth", "0.05", "--lr", "1e-3"] + SPARSE),
}

rng = np.random.default_rng(7)
directions = rng.normal(size=(24, D))
def activations(n):
    on = rng.random((n, 24)) < 0.2
    return ((on * rng.uniform(0.5, 2, (n, 24))) @ directions + 0.3).astype(np.float32)

with tempfile.TemporaryDirectory() as tmp:
    data = os.path.join(tmp, "data.npy")
    np.save(data, activations(4096))
    x = activations(ROWS)
    for name, (trainer, options) in CASES.items():
        folder = os.path.join(ROOT, "ours_" + name)
        os.makedirs(folder, exist_ok=True)
        out = os.path.join(tmp, name)
        subprocess.run([SAE, "train", "--data", data, "--trainer", trainer, "--dict-size", str(M),
                        "--batch", "256", "--steps", "120", "--warmup-steps", "10", "--seed", "1",
                        "--out", out, "--quiet"] + options, check=True)
        for file in ("ae.pt", "config.json"):
            with open(os.path.join(out, file), "rb") as a, open(os.path.join(folder, file), "wb") as b:
                b.write(a.read())
        dictionary, config = load_dictionary(folder, "cpu")
        np.save(os.path.join(folder, "x.npy"), x)
        with torch.no_grad():
            def put(suffix, f):
                np.save(os.path.join(folder, "f%s.npy" % suffix), f.numpy().astype(np.float32))
                np.save(os.path.join(folder, "x_hat%s.npy" % suffix),
                        dictionary.decode(f).numpy().astype(np.float32))
            rows = torch.from_numpy(x)
            f = dictionary.encode(rows)
            put("", f)
            assert torch.allclose(dictionary(rows), dictionary.decode(f), atol=1e-6)
            if name in ("batch_top_k", "matryoshka"):
                put("_batch", dictionary.encode(rows, use_threshold=False))
        about = {"kind": "dl", "program": "sae.h, build/sae train",
                 "read_by": "dictionary-learning 0.1.0, torch " + torch.__version__.split("+")[0],
                 "class": config["trainer"]["dict_class"], "d": D, "m": M, "open": ".",
                 "expect": "load", "tolerance": 2e-5,
                 "mean_active": round(float((f != 0).sum(1).float().mean()), 2)}
        with open(os.path.join(folder, "about.json"), "w") as out_file:
            json.dump(about, out_file, indent=1)
            out_file.write("\n")
        print(name, about["class"], about["mean_active"])
