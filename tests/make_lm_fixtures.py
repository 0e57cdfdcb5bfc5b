"""Writes tests/lm: two tiny GPT-NeoX models with random weights and a tokenizer, and what transformers and tokenizers
make of a text. tests/test_neox.c reads them.

    python3 tests/make_lm_fixtures.py
"""
import json
import os
import shutil

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lm")
TEXT = ("The cat sat on the mat; it's the cat's mat, isn't it? We'll see: 12345 + 0.5 = \u00bd\n"
        "\tdef f(x):\n        return  x   \n\n\u4f60\u597d, \u043f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \ud55c\uad6d\uc5b4 "
        "caf\u00e9 cafe\u0301 \u1112\u1161\u11ab \u2126 \ufb01 \U0001f469\u200d\U0001f467 \x00\x1f\x7f\u0085\u00a0\u2028.<|endoftext|>the end<|padding|> \r\n")
THEIRS = dict(parallel=dict(vocab_size=344, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                            intermediate_size=48, bos_token_id=0, eos_token_id=0),
              sequential=dict(vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                              intermediate_size=40, use_parallel_residual=False,
                              rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.7)))
SITES = [("gpt_neox.embed_in", "out"), ("gpt_neox.layers.1", "in"), ("gpt_neox.layers.0.attention", "in"),
         ("gpt_neox.layers.0.attention", "out"), ("gpt_neox.layers.1.attention.dense", "in"),
         ("gpt_neox.layers.1.mlp", "in"), ("gpt_neox.layers.1.mlp", "out"), ("gpt_neox.layers.1", "out"),
         ("gpt_neox.layers.0.mlp.dense_4h_to_h", "in"), ("gpt_neox.final_layer_norm", "out")]


def loss_of(model, ids):
    logits = model(ids).logits.double()
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)).item()


def patched(model, ids, name, io, change):
    """The loss with a submodule's input or output changed."""
    def before(module, args, kwargs):
        return ((change(args[0]),) + args[1:], kwargs) if args else (args, {k: change(v) if k == "hidden_states" else v
                                                                           for k, v in kwargs.items()})

    def behind(module, args, kwargs, out):
        return (change(out[0]),) + out[1:] if isinstance(out, tuple) else change(out)
    m = model.get_submodule(name)
    h = m.register_forward_pre_hook(before, with_kwargs=True) if io == "in" else \
        m.register_forward_hook(behind, with_kwargs=True)
    loss = loss_of(model, ids)
    h.remove()
    return loss


def model_folder(name, about, dtype):
    torch.manual_seed(7)
    folder = os.path.join(HERE, name)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**about))
    for key, p in model.named_parameters():
        p.data = torch.randn_like(p) * (0.3 if p.ndim == 1 else (2.0 / p.shape[1]) ** 0.5)
        if "norm" in key and key.endswith("weight"):
            p.data += 1
    model.to(dtype).save_pretrained(folder, max_shard_size="6KB" if name == "sequential" else "1GB")
    os.remove(os.path.join(folder, "generation_config.json")) if "generation_config.json" in os.listdir(folder) else None
    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if name == "sequential":  # the spelling of published files
        path = os.path.join(folder, "config.json")
        c = json.load(open(path))
        turn = c.pop("rope_parameters")
        c.update(rotary_pct=turn["partial_rotary_factor"], rotary_emb_base=turn["rope_theta"], torch_dtype=c.pop("dtype"))
        json.dump(c, open(path, "w"), indent=2)
    ids = torch.randint(2, about["vocab_size"], (3, 17))
    arrays, losses = {"ids": ids.numpy().astype(np.int32)}, {}
    with torch.no_grad():
        arrays["logits"] = model(ids).logits.numpy()
        losses["loss"] = loss_of(model, ids)
        for site, io in SITES:
            seen = []
            patched(model, ids, site, io, lambda x: (seen.append(x), x)[1])
            arrays[f"{site}.{io}"] = seen[0].reshape(-1, seen[0].shape[-1]).numpy()
            losses[f"{site}.{io} zero"] = patched(model, ids, site, io, torch.zeros_like)
            losses[f"{site}.{io} scaled"] = patched(model, ids, site, io, lambda x: x * 0.5 + 0.25)
    np.savez(os.path.join(folder, "golden.npz"), **arrays, losses=np.array(list(losses.values())))
    open(os.path.join(folder, "losses.txt"), "w").write("\n".join(losses) + "\n")


def tokenizer():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(
        vocab_size=336, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    path = os.path.join(HERE, "parallel", "tokenizer.json")
    t.save(path)
    j = json.load(open(path))
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]  # as published files have them
    json.dump(j, open(path, "w"), ensure_ascii=False, indent=0)
    open(os.path.join(HERE, "text.txt"), "wb").write(TEXT.encode())
    open(os.path.join(HERE, "back.txt"), "wb").write(t.decode(t.encode(TEXT).ids, skip_special_tokens=False).encode())
    np.save(os.path.join(HERE, "text_ids.npy"), np.array(t.encode(TEXT).ids, np.int32))
    assert t.get_vocab_size() <= 344


shutil.rmtree(HERE, ignore_errors=True)
model_folder("parallel", THEIRS["parallel"], torch.float16)
model_folder("sequential", THEIRS["sequential"], torch.bfloat16)
tokenizer()
