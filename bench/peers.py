#!/usr/bin/env python3
"""Our trainers beside dictionary_learning's on PyTorch: the same rows, sizes and hyperparameters.

usage: peers.py BENCH DATA.npy [--trainers LIST] [--l0 128,0] [--rounds 3] [--steps 5] [--warmup 3]
                [--m 8192] [--batch 2048] [--k 64] [--threads 2]

Each round runs ours, then theirs, so that what else the machine does falls on both. Printed is one line a
trainer and start: the medians over the rounds, their ratio with its range, and l0 and variance explained of
both sides, so that equal work is seen. Both start from their own random numbers. --l0: see bench.c.
Without torch and dictionary_learning it says so and ends well.
"""
import argparse, importlib.machinery, json, statistics, subprocess, sys, time, types

CLASSES = {
    "standard": ("standard", "StandardTrainer"),
    "standard_april": ("standard", "StandardTrainerAprilUpdate"),
    "gated": ("gdm", "GatedSAETrainer"),
    "gated_anneal": ("gated_anneal", "GatedAnnealTrainer"),
    "p_anneal": ("p_anneal", "PAnnealTrainer"),
    "top_k": ("top_k", "TopKTrainer"),
    "batch_top_k": ("batch_top_k", "BatchTopKTrainer"),
    "matryoshka_batch_top_k": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
    "jumprelu": ("jumprelu", "JumpReluTrainer"),
}


def settings(name, k):
    """The hyperparameters of bench.c's describe()."""
    if name.endswith("top_k"):
        groups = {"group_fractions": [0.0625, 0.125, 0.25, 0.5625]} if name.startswith("matry") else {}
        return dict(lr=1e-4, warmup_steps=0, k=k, **groups)
    common = dict(lr=1e-4, warmup_steps=0, sparsity_warmup_steps=None)
    if name == "jumprelu":
        return dict(common, target_l0=k, bandwidth=0.01)
    if name.endswith("anneal"):
        return dict(common, initial_sparsity_penalty=1.0, anneal_start=5, n_sparsity_updates=10)
    return dict(common, l1_penalty=1.0)


def import_reference():
    """dictionary_learning imports packages that its trainers do not use: empty ones stand in for them."""
    for name in ("nnsight", "wandb", "datasets", "zstandard", "transformers", "einops"):
        try:
            __import__(name)
        except ImportError:
            empty = types.ModuleType(name)
            empty.__spec__ = importlib.machinery.ModuleSpec(name, None)
            empty.LanguageModel = empty.load_dataset = empty.AutoModelForCausalLM = empty.AutoTokenizer = None
            if name == "einops":
                empty.einsum = lambda a, b, eq: named_einsum(a, b, eq)
            sys.modules[name] = empty


def named_einsum(a, b, equation):
    import torch
    letters = {}
    short = [" ".join(letters.setdefault(w, chr(97 + len(letters))) for w in side.split())
             for side in equation.replace("->", ",").split(",")]
    one, two, out = (s.replace(" ", "") for s in short)
    return torch.einsum("%s,%s->%s" % (one, two, out), a, b)


def theirs(name, a, X):
    import torch
    module = __import__("dictionary_learning.trainers." + CLASSES[name][0], fromlist=["x"])
    n, d = X.shape
    trainer = getattr(module, CLASSES[name][1])(
        steps=max(200, a.warmup + a.steps + 10), activation_dim=d, dict_size=a.m, layer=0, lm_name="none",
        device=X.device.type, seed=0, **settings(name, a.k))
    ae = trainer.ae
    wait = torch.cuda.synchronize if X.is_cuda else (lambda: None)
    if getattr(a, "autocast", False):
        plain = trainer.loss

        def loss(*args, **kwargs):
            with torch.autocast(X.device.type, dtype=torch.bfloat16):
                return plain(*args, **kwargs)
        trainer.loss = loss
    if a.now_l0 and not hasattr(trainer, "k"):  # each latent fires on this many of the first rows
        keep = max(1, round(a.batch * a.now_l0 / a.m))
        with torch.no_grad():
            W = ae.W_enc if hasattr(ae, "W_enc") else ae.encoder.weight.T
            cut = (X[:a.batch] @ W).topk(keep, dim=0).values[-1] - 1e-6
            if hasattr(ae, "gate_bias"):
                ae.gate_bias.copy_(-cut)
            elif hasattr(ae, "threshold"):
                ae.threshold.copy_(cut)
            else:
                ae.encoder.bias.copy_(-cut)
    times = []
    for step in range(a.warmup + a.steps):
        at = step * a.batch % (n - a.batch + 1)
        x = X[at:at + a.batch].clone()
        wait()
        begun = time.perf_counter()
        trainer.update(step, x)
        wait()
        times.append(1e3 * (time.perf_counter() - begun))
    with torch.no_grad():
        x = X[:a.batch]
        f = ae.encode(x)
        f = f[0] if isinstance(f, tuple) else f
        fve = 1 - float((x - ae(x)).var(0).sum() / x.var(0).sum())
        return statistics.median(times[a.warmup:]), float((f != 0).sum()) / len(x), fve


def ours(name, a):
    out = subprocess.run([a.bench, a.data, "--trainers", name] + [
        w for key in ("m", "batch", "k", "warmup", "steps", "threads") for w in ("--" + key, str(getattr(a, key)))
    ] + ["--l0", str(a.now_l0)], capture_output=True, text=True, check=True).stdout
    line = json.loads(out.splitlines()[-1])
    return line["ms_median"], line["l0"], line["fve"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("bench")
    p.add_argument("data")
    p.add_argument("--trainers", default=",".join(CLASSES))
    p.add_argument("--l0", default="128,0")
    for key, value in dict(rounds=3, steps=5, warmup=3, m=8192, batch=2048, k=64, threads=2).items():
        p.add_argument("--" + key, type=int, default=value)
    a = p.parse_args()
    import_reference()
    try:
        import numpy, torch, dictionary_learning
    except ImportError as e:
        print("SKIPPED: the reference is not installed (%s)" % e)
        return
    torch.set_num_threads(a.threads)
    X = torch.from_numpy(numpy.load(a.data)).float()
    for start in a.l0.split(","):
        a.now_l0 = int(start)
        for name in a.trainers.split(","):
            if a.now_l0 == 0 and name.endswith("top_k") and start != a.l0:
                continue  # it has a k: the start changes nothing
            rounds = [(ours(name, a), theirs(name, a, X)) for _ in range(a.rounds)]
            ratio = sorted(t[0] / o[0] for o, t in rounds)
            mid = [statistics.median(r[side][0] for r in rounds) for side in (0, 1)]
            print(json.dumps({
                "trainer": name, "start_l0": a.now_l0, "ours_ms": round(mid[0], 1), "reference_ms": round(mid[1], 1),
                "ratio": round(statistics.median(ratio), 2), "ratio_range": [round(ratio[0], 2), round(ratio[-1], 2)],
                "l0": [round(r[1], 1) for r in rounds[-1]], "fve": [round(r[2], 4) for r in rounds[-1]],
                "torch": torch.__version__, "d": X.shape[1], "m": a.m, "batch": a.batch, "k": a.k,
                "threads": a.threads, "steps": a.steps, "rounds": a.rounds}), flush=True)


if __name__ == "__main__":
    main()
