"""The forward pass of a language model beside transformers on PyTorch: tokens/s, taken in turns.

    python3 bench/peers_lm.py build/bench [--rounds 5] [--steps 2] [--threads 2]

A random GPT-NeoX of pythia-70m's shape, 16 contexts of 128, float32, the same two cores. Each round times
transformers and `bench lm` one after the other, so that a busy machine hits both; the last line has the medians of
the rounds' ratios. transformers holds all logits [16,128,50304]; sae.h hands them over in blocks of 256 rows.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time

import torch
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

p = argparse.ArgumentParser()
p.add_argument("bench")
p.add_argument("--rounds", type=int, default=5)
p.add_argument("--steps", type=int, default=2)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()

torch.manual_seed(0)
torch.set_num_threads(a.threads)
model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50304, hidden_size=512, num_hidden_layers=6, num_attention_heads=8,
                                         intermediate_size=2048)).eval()
ids = torch.randint(0, 50304, (16, 128))


def speed(f):
    f()
    times = []
    for _ in range(a.steps):
        begun = time.perf_counter()
        f()
        times.append(time.perf_counter() - begun)
    return ids.numel() / statistics.median(times)


rounds = []
transformers.utils.logging.disable_progress_bar()
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    model.save_pretrained(folder)
    for _ in range(a.rounds):
        theirs = {"logits": speed(lambda: model(ids)), "hidden": speed(lambda: model.gpt_neox(ids))}
        out = subprocess.run([a.bench, "lm", folder, "--steps", str(a.steps), "--warmup", "1", "--threads",
                              str(a.threads)], capture_output=True, text=True, check=True).stdout
        ours = json.loads(out)
        rounds.append({k: (ours[k], theirs[k]) for k in theirs})
        print(json.dumps({k: {"ours": round(o), "theirs": round(t), "ratio": round(o / t, 2)}
                          for k, (o, t) in rounds[-1].items()} | {"loss alone": round(ours["loss"])}), flush=True)
print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__} | {
    k: {"ours": round(statistics.median(r[k][0] for r in rounds)),
        "theirs": round(statistics.median(r[k][1] for r in rounds)),
        "ratio": round(statistics.median(r[k][0] / r[k][1] for r in rounds), 2),
        "best ours": round(max(r[k][0] for r in rounds)), "best theirs": round(max(r[k][1] for r in rounds))}
    for k in ("logits", "hidden")}))
