#!/usr/bin/env python3
"""Opening a dictionary, ours beside torch.load, safetensors and numpy.load on the same files.

usage: peers_load.py BENCH [--d 2304] [--m 16384] [--rounds 5] [--steps 5] [--threads 2] [--folder DIR]

Writes a TopK dictionary of random unit rows as ae.pt and ae.safetensors, and a JumpReLU one as params.npz,
all float32, into --folder (default: a temporary one, removed). They stay in the page cache. Each round runs
ours, then theirs, so that what else the machine does falls on both; a run is the median of --steps. Printed
is one line a file: the medians over the rounds, the ratio theirs / ours with its range, and the largest
memory of our process by the dictionary's. Theirs end with the tensors in memory of their own: torch.load
(which checks no CRC-32), load_file and a clone, numpy.load and every array (checked). Ours also turns the
matrix that the file holds transposed, and tests every value.
"""
import argparse, json, os, statistics, subprocess, tempfile, time


def write(folder, d, m, torch, numpy, safetensors):
    g = torch.Generator().manual_seed(1)
    W = torch.randn(m, d, generator=g)
    W /= W.norm(dim=1, keepdim=True)
    top_k = {"b_dec": torch.zeros(d), "k": torch.tensor(64, dtype=torch.int32), "threshold": torch.tensor(-1.0),
             "decoder.weight": W.T.contiguous(), "encoder.weight": W.clone(), "encoder.bias": torch.zeros(m)}
    config = {"trainer": {"dict_class": "AutoEncoderTopK", "trainer_class": "TopKTrainer", "activation_dim": d,
                          "dict_size": m, "k": 64}}
    for kind in ("pt", "safetensors", "npz"):
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
    for kind in ("pt", "safetensors"):
        with open(os.path.join(folder, kind, "config.json"), "w") as f:
            json.dump(config, f)
    torch.save(top_k, os.path.join(folder, "pt", "ae.pt"))
    safetensors.save_file(top_k, os.path.join(folder, "safetensors", "ae.safetensors"))
    numpy.savez(os.path.join(folder, "npz", "params.npz"), W_enc=W.T.contiguous().numpy(), W_dec=W.numpy(),
                b_enc=numpy.zeros(m, "f4"), b_dec=numpy.zeros(d, "f4"), threshold=numpy.zeros(m, "f4"))


def ours(a, path):
    out = subprocess.run([a.bench, "load", path, "--steps", str(a.steps), "--threads", str(a.threads)],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def theirs(a, read):
    times = []
    for _ in range(a.steps):
        begun = time.perf_counter()
        held = read()
        times.append(1e3 * (time.perf_counter() - begun))
        del held
    return statistics.median(times)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("bench")
    p.add_argument("--folder")
    for key, value in dict(d=2304, m=16384, rounds=5, steps=5, threads=2).items():
        p.add_argument("--" + key, type=int, default=value)
    a = p.parse_args()
    try:
        import numpy, torch, safetensors.torch
    except ImportError as e:
        print("SKIPPED: %s" % e)
        return
    torch.set_num_threads(a.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or temporary
        write(folder, a.d, a.m, torch, numpy, safetensors.torch)
        file = {"pt": "ae.pt", "safetensors": "ae.safetensors", "npz": "params.npz"}
        path = {kind: os.path.join(folder, kind, name) for kind, name in file.items()}
        readers = {
            "pt": lambda: torch.load(path["pt"], weights_only=True),
            "safetensors": lambda: {k: t.clone() for k, t in safetensors.torch.load_file(path["safetensors"]).items()},
            "npz": lambda: dict(numpy.load(path["npz"])),
        }
        for kind, read in readers.items():
            rounds = [(ours(a, os.path.dirname(path[kind])), theirs(a, read)) for _ in range(a.rounds)]
            ratio = sorted(t / o["ms_median"] for o, t in rounds)
            ms = statistics.median(o["ms_median"] for o, _ in rounds)
            print(json.dumps({
                "file": file[kind], "MB": rounds[0][0]["MB"], "ours_ms": round(ms, 1),
                "ours_GB_s": round(rounds[0][0]["MB"] / ms, 2),
                "theirs_ms": round(statistics.median(t for _, t in rounds), 1),
                "ratio": round(statistics.median(ratio), 2), "ratio_range": [round(ratio[0], 2), round(ratio[-1], 2)],
                "peak_by_size": max(o["peak_by_size"] for o, _ in rounds), "torch": torch.__version__,
                "threads": a.threads, "steps": a.steps, "rounds": a.rounds}), flush=True)


main()
