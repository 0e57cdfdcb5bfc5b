"""Writes tests/lm: two tiny GPT-NeoX models with random weights and a tokenizer, and what transformers and tokenizers
make of a text; read by tests/test_lm.c. One tiny model of every other family; read by tests/test_families.c.

    python3 tests/make_lm_fixtures.py [FAMILY...]      these alone; default: all
"""
import json
import os
import shutil
import sys

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


# ---- the other families: tests/lm/FAMILY, read by tests/test_families.c ----

def rope(theta, **scaling):
    return dict(rope_theta=theta, rope_type=scaling.pop("kind", "default"), **scaling)


# name: transformers' classes, the config, the type in the file. Small, and nothing at a value that would hide a mistake:
# windows and llama3's original length shorter than a context, head_dim not d / heads, kv heads fewer than heads.
FAMILIES = dict(
    gpt2=("GPT2", torch.float32, dict(vocab_size=41, n_positions=24, n_embd=15, n_layer=2, n_head=3, bos_token_id=40, eos_token_id=40)),
    gpt_neo=("GPTNeo", torch.float32, dict(vocab_size=43, max_position_embeddings=32, hidden_size=16, num_layers=2, num_heads=2, window_size=5,
                                           attention_types=[[["global", "local"], 1]], bos_token_id=42, eos_token_id=42)),
    llama=("Llama", torch.bfloat16, dict(vocab_size=45, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                         rope_parameters=rope(5e4, kind="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                              original_max_position_embeddings=20))),
    mistral=("Mistral", torch.bfloat16, dict(vocab_size=47, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                             num_key_value_heads=1, sliding_window=6, rope_parameters=rope(1e4))),
    mixtral=("Mixtral", torch.bfloat16, dict(vocab_size=39, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
                                             num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope(1e6))),
    qwen2=("Qwen2", torch.bfloat16, dict(vocab_size=44, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=3,
                                         num_key_value_heads=1, tie_word_embeddings=True, use_sliding_window=True, sliding_window=7,
                                         max_window_layers=1, rope_parameters=rope(1e5))),
    qwen3=("Qwen3", torch.float32, dict(vocab_size=38, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                        num_key_value_heads=1, head_dim=12, rope_parameters=rope(1e5))),
    qwen3_moe=("Qwen3Moe", torch.bfloat16, dict(vocab_size=42, hidden_size=16, intermediate_size=20, moe_intermediate_size=8,
                                                num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=6,
                                                num_experts_per_tok=3, norm_topk_prob=True, mlp_only_layers=[1], rope_parameters=rope(1e5))),
    gemma=("Gemma", torch.bfloat16, dict(vocab_size=46, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                         num_key_value_heads=1, head_dim=12, rope_parameters=rope(1e4))),
    gemma2=("Gemma2", torch.float32, dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                                          num_key_value_heads=1, head_dim=12, query_pre_attn_scalar=7, sliding_window=6,
                                          attn_logit_softcapping=3.0, final_logit_softcapping=4.0, rope_parameters=rope(1e4))),
    gemma3=("Gemma3", torch.bfloat16, dict(vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                                           num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=5, sliding_window=5,
                                           layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                           rope_parameters=dict(full_attention=rope(1e5, kind="linear", factor=4.0),
                                                                sliding_attention=rope(1e3)))))
MULTIMODAL = dict(vision_config=dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2,
                                     vision_use_head=False),
                  text_config=dict(model_type="gemma3_text", vocab_size=48, hidden_size=8, intermediate_size=8, num_hidden_layers=6, num_attention_heads=1,
                                   num_key_value_heads=1, head_dim=8, sliding_window=5,
                                   rope_parameters=dict(full_attention=rope(1e6, kind="linear", factor=8.0), sliding_attention=rope(1e4))),
                  mm_tokens_per_image=1, image_token_index=47, boi_token_index=45, eoi_token_index=46)


def randomise(model):
    torch.manual_seed(11)
    for key, p in model.named_parameters():
        last = key.split(".")[-2]
        if p.ndim == 1:  # norms around their neutral value, biases around 0
            p.data = torch.randn_like(p) * 0.4
            if key.endswith("weight") and "Gemma" not in type(model).__name__:
                p.data += 1
        else:
            fan = p.shape[0] if last in ("c_attn", "c_proj", "c_fc") and "Neo" not in type(model).__name__ else p.shape[-1]
            gain = 1.0 if "embed" in key or last in ("wte", "wpe") else 3.0 if last in ("q_proj", "k_proj", "c_attn") else 2.0
            p.data = torch.randn_like(p) * (gain / fan ** 0.5 if p.ndim > 1 else 0.4)


def old_spelling(c):
    """As published files have it: rope_theta and rope_scaling, torch_dtype, defaults left out."""
    c = dict(c)
    kind = c["model_type"]
    if "text_config" in c:
        c["text_config"] = old_spelling(c["text_config"])
        c["text_config"].pop("torch_dtype", None)
    if "dtype" in c:
        c["torch_dtype"] = c.pop("dtype")
    r = c.pop("rope_parameters", None)
    if r and "full_attention" in r:
        c["rope_local_base_freq"] = r["sliding_attention"]["rope_theta"]
        r = r["full_attention"]
    if r:
        c["rope_theta"] = r["rope_theta"]
        c["rope_scaling"] = None if r["rope_type"] == "default" else {k: v for k, v in r.items() if k != "rope_theta"}
    if kind == "gemma":
        c["hidden_act"] = "gelu"  # which means the tanh form
    if kind in ("gemma", "gemma2"):
        c.pop("tie_word_embeddings")
    if kind == "gemma2":
        c.pop("layer_types")
    if kind == "gemma3_text" and c["num_hidden_layers"] == 6:
        c.pop("layer_types")
    if kind == "gpt2":
        c = {k: v for k, v in c.items() if k not in ("n_inner", "tie_word_embeddings", "scale_attn_weights")}
        c["n_ctx"] = c["n_positions"]
    if kind == "gpt_neo":
        c.pop("attention_layers")
    if kind == "qwen2":
        c.pop("layer_types")
    if kind == "qwen3_moe" and "num_local_experts" in c:
        c["num_experts"] = c.pop("num_local_experts")
    return c


class Places:
    """transformers' modules of a model, and what TransformerLens calls their rows."""
    def __init__(self, model, layer):
        self.model = model
        neo = hasattr(model, "transformer")
        self.base = "transformer" if neo else "model.language_model" if hasattr(model.model, "language_model") else "model"
        at = self.at = f"{self.base}.{'h' if neo else 'layers'}.{layer}"
        kind = model.config.model_type
        self.embed = f"{self.base}.{'wte' if neo else 'embed_tokens'}"
        self.final = f"{self.base}.{'ln_f' if neo else 'norm'}"
        self.attn = f"{at}.{'attn' if neo else 'self_attn'}"
        self.o = self.attn + (".attention.out_proj" if kind == "gpt_neo" else ".c_proj" if neo else ".o_proj")
        self.qkv = [self.attn + (".attention." if kind == "gpt_neo" else ".") + x + "_proj" for x in "qkv"]
        self.fused = self.attn + ".c_attn" if kind == "gpt2" else None
        post = kind in ("gemma2", "gemma3", "gemma3_text")
        self.norms = [at + (".ln_1" if neo else ".input_layernorm"),
                      at + (".ln_2" if neo else ".pre_feedforward_layernorm" if post else ".post_attention_layernorm")]
        self.added = [at + ".post_attention_layernorm" if post else self.attn, at + ".post_feedforward_layernorm" if post else at + ".mlp"]
        mlp = model.get_submodule(at + ".mlp")
        self.dense = not hasattr(mlp, "experts")
        self.up = at + (".mlp.c_fc" if neo else ".mlp.up_proj")
        self.gate = None if neo else at + ".mlp.gate_proj"
        self.down = at + (".mlp.c_proj" if neo else ".mlp.down_proj")
        self.eps = getattr(model.config.get_text_config(), "rms_norm_eps", None)

    def modules(self):
        out = [(self.embed, "out"), (self.at, "in"), (self.at, "out"), (self.final, "in"), (self.final, "out"), (self.o, "in"), (self.o, "out")]
        out += [(m, way) for m in [self.attn, self.at + ".mlp"] + self.norms for way in ("in", "out")]
        out += [(m, way) for m in set(self.added) - {self.attn, self.at + ".mlp"} for way in ("in", "out")]
        out += [(self.fused, "out")] if self.fused else [(m, "out") for m in self.qkv]
        if self.dense:
            out += [(self.down, "in"), (self.down, "out"), (self.up, "out")] + ([(self.gate, "out")] if self.gate else [(self.up, "in")])
        return sorted(out)

    def hooks(self, layer):
        """TransformerLens' name: module, in or out, columns (None: all)."""
        b = f"blocks.{layer}."
        out = {"hook_embed": (self.embed, "out", None), b + "hook_resid_pre": (self.at, "in", None), b + "hook_resid_post": (self.at, "out", None),
               b + "hook_attn_out": (self.added[0], "out", None), b + "hook_mlp_out": (self.added[1], "out", None),
               b + "attn.hook_z": (self.o, "in", None), b + "mlp.hook_in": (self.at + ".mlp", "in", None)}
        for i, x in enumerate("qkv"):
            if self.fused:
                d = self.model.config.n_embd
                out[b + "attn.hook_" + x] = (self.fused, "out", slice(i * d, i * d + d))
            else:
                out[b + "attn.hook_" + x] = (self.qkv[i], "out", None)
        if self.dense:
            out[b + "mlp.hook_post"] = (self.down, "in", None)
            out[b + "mlp.hook_pre"] = (self.gate or self.up, "out", None)
            if self.gate:
                out[b + "mlp.hook_pre_linear"] = (self.up, "out", None)
        return out


def watch(model, ids, module, io):
    seen = []
    patched(model, ids, module, io, lambda x: (seen.append(x.clone()), x)[1])
    return seen[0].reshape(-1, seen[0].shape[-1])


def normalised(x, model, kind):
    eps = model.config.layer_norm_epsilon if kind else model.config.get_text_config().rms_norm_eps
    if kind:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def changed(model, ids, place, layer, name, change):
    """The loss with what stands at a place changed; of the two places that are no module's, by the module behind or before."""
    b = f"blocks.{layer}."
    hooks = place.hooks(layer)
    if name == b + "hook_resid_mid":  # what is added to the stream there becomes change(stream) - stream before
        before = []
        h = model.get_submodule(place.at).register_forward_pre_hook(lambda m, a: before.append(a[0].clone()))
        loss = patched(model, ids, place.added[0], "out", lambda x: change(before[0] + x) - before[0])
        h.remove()
        return loss
    if name.startswith(b + "ln"):
        norm = model.get_submodule(place.norms[int(name[len(b) + 2]) - 1])
        gpt = getattr(norm, "bias", None) is not None
        weight = norm.weight + (1 if "Gemma" in type(norm).__name__ else 0)
        seen = []
        h = norm.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
        loss = patched(model, ids, place.norms[int(name[len(b) + 2]) - 1], "out",
                       lambda x: change(normalised(seen[0], model, gpt)) * weight + (norm.bias if gpt else 0))
        h.remove()
        return loss
    module, io, columns = hooks[name]

    def part(x):
        y = x.clone()
        y[..., columns] = change(x[..., columns])
        return y
    return patched(model, ids, module, io, change if columns is None else part)


def family(name):
    import transformers
    folder = os.path.join(HERE, name)
    multi = name == "gemma3mm"
    cls, dtype, about = ("Gemma3", torch.bfloat16, MULTIMODAL) if multi else FAMILIES[name]
    if multi:
        model = transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(**about))
    elif cls == "Gemma3":
        model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**about))
    else:
        model = getattr(transformers, cls + ("LMHeadModel" if cls == "GPT2" else "ForCausalLM"))(getattr(transformers, cls + "Config")(**about))
    randomise(model)
    model.tie_weights()
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    path = os.path.join(folder, "config.json")
    c = json.load(open(path))
    json.dump(c, open(os.path.join(folder, "other.json"), "w"), indent=1)
    json.dump(old_spelling(c), open(path, "w"), indent=1)
    vocab, layer = model.config.get_text_config().vocab_size, 1
    ids = torch.randint(0, vocab - 3, (2, 24), generator=torch.Generator().manual_seed(5))
    ids[0, 0] = vocab - 4
    place = Places(model, layer)
    rows = [0, 5, 17, 23, 24, 40]
    arrays, losses = {"ids": ids.int()}, {}
    with torch.no_grad():
        arrays["logits"] = model(ids).logits
        arrays["rows"] = torch.tensor(rows, dtype=torch.int32)
        losses["loss"] = loss_of(model, ids)
        for module, io in place.modules():
            x = watch(model, ids, module, io)
            arrays[f"{module}|{io}"] = x[rows].contiguous()
            if io == "in" or module in place.added:
                losses[f"{module}|{io}"] = patched(model, ids, module, io, lambda x: x * 0.5 + 0.25)
        for hook, (module, io, columns) in place.hooks(layer).items():
            x = watch(model, ids, module, io)
            arrays[f"{hook}|out"] = (x if columns is None else x[:, columns])[rows].contiguous()
        b = f"blocks.{layer}."
        gpt = hasattr(model.config, "layer_norm_epsilon")
        arrays[b + "hook_resid_mid|out"] = watch(model, ids, place.norms[1], "in")[rows].contiguous()
        for i in range(2):
            arrays[f"{b}ln{i + 1}.hook_normalized|out"] = normalised(watch(model, ids, place.norms[i], "in"), model, gpt)[rows].contiguous()
        arrays["ln_final.hook_normalized|out"] = normalised(watch(model, ids, place.final, "in"), model, gpt)[rows].contiguous()
        for hook in list(place.hooks(layer)) + [b + x for x in ("hook_resid_mid", "ln1.hook_normalized", "ln2.hook_normalized")]:
            losses[hook + "|out"] = changed(model, ids, place, layer, hook, lambda x: x * 0.5 + 0.25)
        for n in range(11, 20):  # a prompt behind which no choice is close
            made, gap = [], 1.0
            for _ in range(8):
                last = model(torch.cat([ids[:1, :n], torch.tensor([made], dtype=torch.long)], 1) if made else ids[:1, :n]).logits[0, -1]
                top = last.topk(2).values
                gap = min(gap, float((top[0] - top[1]) / (last.max() - last.min())))
                made.append(int(last.argmax()))
            if gap > 2e-3 and len(set(made)) > 2 and n + 7 <= getattr(model.config, "n_positions", 99):
                break
        else:
            raise SystemExit(name + ": every prompt is close")
    arrays["prompt"] = ids[0, :n].int()
    arrays["greedy"] = torch.tensor(made, dtype=torch.int32)
    from safetensors.torch import save_file
    arrays["losses"] = torch.tensor(list(losses.values()), dtype=torch.float32)
    save_file({k: v.detach().clone().contiguous() for k, v in arrays.items()}, os.path.join(folder, "golden.safetensors"))
    open(os.path.join(folder, "losses.txt"), "w").write("\n".join(losses) + "\n")


if len(sys.argv) > 1:
    for name in sys.argv[1:]:
        family(name)
else:
    shutil.rmtree(HERE, ignore_errors=True)
    model_folder("parallel", THEIRS["parallel"], torch.float16)
    model_folder("sequential", THEIRS["sequential"], torch.bfloat16)
    tokenizer()
    for name in list(FAMILIES) + ["gemma3mm"]:
        family(name)
