#!/usr/bin/env python3
"""Inference beside dictionary_learning on PyTorch: encode of many rows, and a whole process that loads a
dictionary and encodes one row.

    python3 bench/peers_inference.py build/sae DATA.npy [--m 8192 --rows 2048 --k 64 --threads 2 --rounds 7]

Ours through examples/sae.py (prepared) and the tool; theirs through the reference's classes. The two take
turns in one run; a JSON line each: medians in ms, their ratio, and how far the latents differ. The
JumpReLU's threshold lets about 2 k latents of a row pass. Without torch and dictionary_learning it says so
and ends well.
"""
import argparse, importlib, json, os, statistics, subprocess, sys, tempfile, time

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.join(here, "..", "examples")]
import peers

MODULES = {"AutoEncoderTopK": "dictionary_learning.trainers.top_k",
           "JumpReluAutoEncoder": "dictionary_learning.dictionary"}

ONE_ROW = """
import sys; sys.path.insert(0, {here!r})
import peers; peers.import_reference()
import numpy, torch
from {module} import {name}
ae = {name}.from_pretrained({path!r} + "/ae.pt")
with torch.no_grad():
    numpy.save({out!r}, ae.encode(torch.from_numpy(numpy.load({row!r}))).numpy())
"""


def turns(rounds, *calls):
    """Medians in ms of calls that take turns, after one each to warm up."""
    times = [[] for _ in calls]
    for i in range(rounds + 1):
        for call, kept in zip(calls, times):
            begun = time.perf_counter()
            call()
            if i:
                kept.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(t) for t in times]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("tool")
    p.add_argument("data")
    for key, value in dict(m=8192, rows=2048, k=64, threads=2, rounds=7).items():
        p.add_argument("--" + key, type=int, default=value)
    a = p.parse_args()
    try:
        peers.import_reference()
        import numpy, torch
        importlib.import_module(MODULES["AutoEncoderTopK"])
    except ImportError as missing:
        print(f"SKIPPED: {missing}")
        return
    import sae
    torch.set_num_threads(a.threads)
    X = numpy.load(a.data)[:a.rows].astype(numpy.float32)
    x = torch.from_numpy(X)
    for name, module in MODULES.items():
        with tempfile.TemporaryDirectory() as folder:
            ours = sae.Dictionary.create(name, X.shape[1], a.m, k=a.k if name.endswith("K") else 0)
            ours.export(folder, "dictionary_learning")
            theirs = getattr(importlib.import_module(module), name).from_pretrained(folder + "/ae.pt")
            if hasattr(theirs, "W_enc"):
                with torch.no_grad():
                    theirs.threshold.fill_(float((x @ theirs.W_enc).flatten().kthvalue(
                        x.shape[0] * (a.m - 2 * a.k)).values))
                torch.save(theirs.state_dict(), folder + "/ae.pt")
                ours = sae.Dictionary.load(folder)
            ours.prepare()
            with torch.no_grad():
                difference = float((theirs.encode(x) - torch.from_numpy(ours.encode(X))).abs().max())
                times = turns(a.rounds, lambda: theirs.encode(x), lambda: ours.encode(X),
                              lambda: ours.encode_sparse(X))
            print(json.dumps({"encode": name, "rows": a.rows, "d": X.shape[1], "m": a.m,
                              "theirs_ms": round(times[0], 1), "ours_dense_ms": round(times[1], 1),
                              "ours_sparse_ms": round(times[2], 1), "ratio_dense": round(times[0] / times[1], 2),
                              "ratio_sparse": round(times[0] / times[2], 2), "largest_difference": difference}),
                  flush=True)
            row, out = folder + "/row.npy", [folder + "/theirs.npy", folder + "/ours.npy"]
            numpy.save(row, X[:1])
            program = ONE_ROW.format(here=here, module=module, name=name, path=folder, row=row, out=out[0])
            command = [a.tool, "encode", folder, "--data", row, "--out", out[1], "--dense"]
            one = lambda: subprocess.run(command, check=True, capture_output=True)
            # Ours three times a turn: at once after a process of a gigabyte, the system is still busy with its
            # memory, and a process of ten milliseconds feels that. The first of the three is told apart.
            times = turns(a.rounds, lambda: subprocess.run([sys.executable, "-c", program], check=True), one, one, one)
            difference = float(numpy.abs(numpy.load(out[0]) - numpy.load(out[1])).max())
            print(json.dumps({"load_and_encode_one_row": name, "theirs_ms": round(times[0]),
                              "ours_ms": round(statistics.median(times[1:]), 1),
                              "ours_at_once_ms": round(times[1], 1),
                              "ratio": round(times[0] / statistics.median(times[1:])),
                              "largest_difference": difference}), flush=True)


if __name__ == "__main__":
    main()
