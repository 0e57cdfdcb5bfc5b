#!/usr/bin/env python3
"""Trains the small GPT-NeoX that the demo opens: text, tokenizer, weights.

    apt-get install bible-kjv bible-kjv-text dict-jargon dict-devil miscfiles
    pip install torch transformers tokenizers
    python3 make_model.py WORK [--steps N] [--threads N]        leaves WORK/{config.json,model.safetensors,
                                                        tokenizer.json,demo.txt,figures.json}

The text is in the public domain: the King James Bible (1611), the Jargon File 4.4.7, The Devil's
Dictionary (Bierce, 1911), and the Declaration of Independence and Constitution of the United States.
Every tenth document (chapter, entry) is kept from training: those make demo.txt and the reported loss.
Wrapped lines are joined, so that a line is a verse or a paragraph; documents are a blank line apart.
"""
import argparse
import gzip
import json
import math
import os
import re
import subprocess
import time

VOCABULARY, CONTEXT, BATCH = 2048, 128, 32
SHAPE = dict(hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768)
PEAK_RATE, WARMUP, WEIGHT_DECAY, DROPOUT = 2e-3, 200, 0.1, 0.1
REPEAT = {"bible": 1, "jargon": 2, "devil": 3, "state": 3}  # passes over each source in one epoch


def unwrap(text):
    """Paragraphs of indented, wrapped text, one a line; verse keeps its lines."""
    out = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [line.strip() for line in block.split("\n")]
        long_lines = sum(len(line) > 55 for line in lines)
        out.append((" " if 2 * long_lines >= len(lines) - 1 else "\n").join(lines).strip())
    return "\n".join(p for p in out if p)


def bible():
    text = subprocess.run(["bible", "-f", "genesis1:1-revelation22:21"], capture_output=True, text=True,
                          check=True).stdout
    chapters = {}
    for line in text.splitlines():
        place, verse = line.split(" ", 1)
        chapters.setdefault(place.split(":")[0], []).append(verse)
    return ["\n".join(verses) for verses in chapters.values()]


def dictionary(name, is_head):
    lines = gzip.open(f"/usr/share/dictd/{name}.dict.dz", "rt", encoding="utf-8", errors="replace").read().split("\n")
    entries, current = [], []
    for i, line in enumerate(lines):
        if is_head(lines, i):
            entries.append("\n".join(current))
            current = []
        current.append(line)
    entries.append("\n".join(current))
    return [unwrap(e) for e in entries[1:] if len(e) > 60]


def jargon():
    def head(lines, i):
        after = lines[i + 1] if i + 1 < len(lines) else ""
        return bool(lines[i]) and not lines[i].startswith(" ") and (after.startswith(" ") or not after)
    return dictionary("jargon", head)


def devil():
    return dictionary("devil", lambda lines, i: bool(re.match(r"[A-Z][A-Z'. -]+, (n|adj|v|adv|pp|x|pro)", lines[i])))


def state():
    out = []
    for name in ("declaration", "constitution"):
        text = unwrap(gzip.open(f"/usr/share/state/us-{name}.gz", "rt").read())
        lines = text.split("\n")
        out += ["\n".join(lines[i:i + 8]) for i in range(0, len(lines), 8)]
    return out


def corpus():
    """Training documents, with their passes, and held-out documents."""
    train, held = [], []
    for name, documents in (("bible", bible()), ("jargon", jargon()), ("devil", devil()), ("state", state())):
        print(f"{name}: {len(documents)} documents, {sum(map(len, documents))} characters", flush=True)
        for i, document in enumerate(documents):
            if i % 10 == 9:
                held.append(document)
            else:
                train += [document] * REPEAT[name]
    return train, held


def make_tokenizer(path, documents):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save(path)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=PEAK_RATE, help="the highest learning rate")
    parser.add_argument("--start", help="a folder of this script's to go on from, with a fresh schedule")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the text")
    args = parser.parse_args()

    import numpy
    import torch
    from safetensors.torch import load_file
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random = numpy.random.default_rng(args.seed)
    os.makedirs(args.work, exist_ok=True)
    at = lambda name: os.path.join(args.work, name)

    train, held = corpus()
    with open(at("demo.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.write("\n\n".join(held) + "\n")
    tokenizer = make_tokenizer(at("tokenizer.json"), train)
    encode = lambda documents: [e.ids + tokenizer.encode("\n\n").ids for e in tokenizer.encode_batch(documents)]
    documents = encode(train)
    held_ids = torch.tensor(sum(encode(held), []))
    held_ids = held_ids[:len(held_ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    print(f"{sum(map(len, documents))} training tokens an epoch, {held_ids.numel()} held out", flush=True)

    config = GPTNeoXConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, use_parallel_residual=True,
                           rotary_pct=0.25, hidden_act="gelu", tie_word_embeddings=False, hidden_dropout=DROPOUT,
                           attention_dropout=0.0, bos_token_id=None, eos_token_id=None, use_cache=False, **SHAPE)
    model = GPTNeoXForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    if args.start:
        model.load_state_dict({k: v.float() for k, v in load_file(args.start + "/model.safetensors").items()})
    decay = [p for p in model.parameters() if p.dim() > 1]
    other = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": WEIGHT_DECAY},
                                   {"params": other, "weight_decay": 0.0}], lr=args.rate, betas=(0.9, 0.98))

    def held_loss(contexts):
        model.eval()
        with torch.no_grad():
            losses = [model(input_ids=c, labels=c).loss.item() for c in contexts.split(32)]
        model.train()
        return sum(losses) / len(losses)

    def batches():
        while True:
            order = random.permutation(len(documents))
            stream = numpy.concatenate([documents[i] for i in order])[random.integers(CONTEXT):]
            contexts = stream[:len(stream) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
            contexts = contexts[random.permutation(len(contexts))]
            for i in range(0, len(contexts) - BATCH + 1, BATCH):
                yield torch.from_numpy(contexts[i:i + BATCH].astype(numpy.int64))

    start, mean = time.time(), None
    for step, x in zip(range(args.steps), batches()):
        progress = max(0.0, (step - WARMUP) / max(1, args.steps - WARMUP))
        rate = args.rate * min(1.0, (step + 1) / WARMUP) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=x).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().reshape(-1, VOCABULARY),
                                                 x[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99:
            line = f"step {step + 1} loss {mean:.4f} {time.time() - start:.0f} s"
            if step % 500 == 499:
                line += f" held out {held_loss(held_ids[::8]):.4f}"
                save(model, at)
            print(line, flush=True)
    loss = held_loss(held_ids)
    characters = len("\n\n".join(held))
    figures = {"start": args.start, "rate": args.rate, "steps": args.steps, "tokens_seen": args.steps * BATCH * CONTEXT, "train_loss": round(mean, 4),
               "held_out_tokens": held_ids.numel(), "held_out_loss": round(loss, 4),
               "held_out_bits_per_character": round(loss / math.log(2) * held_ids.numel() / characters, 4)}
    save(model, at)
    with open(at("figures.json"), "w") as f:
        json.dump(figures, f, indent=1)
        f.write("\n")
    print(figures, flush=True)


def save(model, at):
    from safetensors.torch import save_file
    import torch
    save_file({k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items()},
              at("model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict()
    keep = ("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "vocab_size", "max_position_embeddings", "layer_norm_eps", "hidden_act",
            "use_parallel_residual", "rope_parameters", "tie_word_embeddings", "attention_bias")
    config = {k: config[k] for k in keep if k in config}
    config["architectures"], config["dtype"] = ["GPTNeoXForCausalLM"], "float16"
    with open(at("config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
