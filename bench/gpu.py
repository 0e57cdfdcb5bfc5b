#!/usr/bin/env python3
"""Everything there is to measure on a GPU, in one run, into one file: an hour on a borrowed card is enough.

usage: gpu.py BENCH DATA.npy [--out build/bench-cuda.jsonl] [--steps 50] [--warmup 20] [--small]

BENCH is build/bench-cuda. In the file, a JSON object a line:
  1. the machine, the roofs (copy, float32, 16-bit product) and each operation of a TopK step at
     W2 (d 512, m 32768, B 8192, k 64) and W3 (d 2304, m 65536, B 4096, k 64) with its share of the roof;
  2. every trainer's step at W2 on DATA (brought to 512 dimensions by a fixed random map if it has others),
     from the density of a trained dictionary (--l0 128) and fresh; TopK at W3;
  3. the same steps by dictionary_learning on PyTorch, float32 as it comes and bfloat16 autocast, on the same
     rows, where torch, CUDA for it and dictionary_learning are installed.
A table of 2 beside 3 ends what is printed. --small: tiny sizes, to see that it runs.
"""
import argparse, json, os, subprocess, sys, tempfile, time, types
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers

W2 = dict(d=512, m=32768, batch=8192, k=64)
W3 = dict(d=2304, m=65536, batch=4096, k=64)
SMALL = dict(d=16, m=64, batch=32, k=4)


def machine():
    """What nvidia-smi says of the card, empty without it."""
    fields = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total"
    try:
        out = subprocess.run(["nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader"],
                             capture_output=True, text=True, check=True).stdout
        return dict(zip(fields.split(","), [x.strip() for x in out.splitlines()[0].split(",")]))
    except (OSError, subprocess.CalledProcessError, IndexError):
        return {}


def rows_of(path, d, folder, most):
    """The rows of path at d dimensions, saved for BENCH: (file, array)."""
    X = np.asarray(np.load(path, mmap_mode="r")[:most], np.float32)
    if X.shape[1] != d:
        rng = np.random.default_rng(0)
        X = X @ (rng.standard_normal((X.shape[1], d)) / np.sqrt(X.shape[1])).astype(np.float32)
        X += 0.05 * X.std() * rng.standard_normal(X.shape).astype(np.float32)
    name = os.path.join(folder, "rows_%d.npy" % d)
    np.save(name, X)
    return name, X


def main():
    p = argparse.ArgumentParser()
    p.add_argument("bench")
    p.add_argument("data")
    p.add_argument("--out", default="build/bench-cuda.jsonl")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--warmup", type=int, default=20)
    p.add_argument("--small", action="store_true")
    a = p.parse_args()
    if not os.path.exists(a.data):
        sys.exit("gpu.py: there is no %s; give activations [rows,dim]: make bench-cuda DATA=F.npy" % a.data)
    file = open(a.out, "w")
    table = {}

    def put(line):
        file.write(json.dumps(line) + "\n")
        file.flush()

    def ours(what, size, *more):
        words = [a.bench, what, "--device", "cuda", "--threads", str(os.cpu_count())]
        for key, value in list(size.items()) + [("steps", a.steps), ("warmup", a.warmup)]:
            words += ["--" + key, str(value)]
        r = subprocess.run(words + list(more), capture_output=True, text=True)
        if r.returncode:
            put({"failed": words + list(more), "stderr": r.stderr.strip()[-300:]})
            print("FAILED: %s" % r.stderr.strip()[-300:])
        for text in r.stdout.splitlines():
            line = json.loads(text)
            put(line)
            print(text, flush=True)
            if "ms_median" in line:
                table.setdefault((line["trainer"], line["d"], line["start_l0"]), {})["ours"] = line["ms_median"]

    put({"machine": machine(), "time": time.strftime("%Y-%m-%d %H:%M:%S"), "steps": a.steps, "warmup": a.warmup})
    sizes = [SMALL] if a.small else [W2, W3]
    for size in sizes:
        ours("ops", size)
    plan = []  # size, start_l0, trainers
    plan.append((sizes[0], 128 if not a.small else 8, list(peers.CLASSES)))
    plan.append((sizes[0], 0, [n for n in peers.CLASSES if not n.endswith("top_k")]))
    if not a.small:
        plan.append((W3, 128, ["top_k"]))
    try:
        peers.import_reference()
        import torch, dictionary_learning
        device = "cuda" if torch.cuda.is_available() else None
    except ImportError:
        device = None
    if not device:
        print("SKIPPED: no PyTorch with CUDA and dictionary_learning: ours alone")
    with tempfile.TemporaryDirectory() as folder:
        for size, l0, names in plan:
            name, X = rows_of(a.data, size["d"], folder, 16 * size["batch"])
            shape = {k: v for k, v in size.items() if k != "d"}
            for trainer in names:
                ours(name, shape, "--l0", str(l0), "--trainers", trainer)
                for autocast in (False, True) if device else ():
                    b = types.SimpleNamespace(now_l0=l0, steps=a.steps, warmup=a.warmup, autocast=autocast, **shape)
                    what = "bf16 autocast" if autocast else "fp32"
                    line = {"impl": "dictionary_learning", "torch": torch.__version__, "precision": what,
                            "trainer": trainer, "start_l0": l0, **size}
                    try:
                        ms, active, fve = peers.theirs(trainer, b, torch.from_numpy(X).to(device))
                        line.update(ms_median=round(ms, 3), l0=round(active, 1), fve=round(fve, 4))
                        table[(trainer, size["d"], l0)][what] = ms
                    except Exception as e:  # bfloat16 does not work with all of them: say so and go on
                        line["failed"] = str(e)[:200]
                    put(line)
                    torch.cuda.empty_cache()
    print("\n| trainer | d | start l0 | ours ms | fp32 ms | bf16 ms | ratio fp32 | ratio bf16 |\n|" + "---|" * 8)
    for (trainer, d, l0), row in table.items():
        o, f, b = row.get("ours"), row.get("fp32"), row.get("bf16 autocast")
        cells = ["%.2f" % x if x else "-" for x in (o, f, b, f and o and f / o, b and o and b / o)]
        print("| %s | %d | %d | %s |" % (trainer, d, l0, " | ".join(cells)))
    print("\nwritten: %s" % a.out)


if __name__ == "__main__":
    main()
