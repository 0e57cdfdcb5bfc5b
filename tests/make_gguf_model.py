#!/usr/bin/env python3
"""Writes folders of transformers as .gguf with the gguf package, laid as llama.cpp's converter lays them.

    python3 tests/make_gguf_model.py FOLDER OUT.gguf [native|f32|f16|q8_0]     one model; native: in the folder's own type
    python3 tests/make_gguf_model.py                                           tests/lm/gguf, read by tests/test_lm_gguf.c
    python3 tests/make_gguf_model.py random llama|gemma FOLDER                 a folder of random numbers, for tests/llama.sh

What the converter leaves out and a folder may say otherwise than published models do (a scale of the scores, windows)
is written under the keys that other architectures have for it."""
import json
import os
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFWriter, TokenType, quants

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "lm", "gguf")
ARCHS = dict(gpt_neox="gptneox", gpt2="gpt2", llama="llama", mistral="llama", mixtral="llama", qwen2="qwen2", qwen3="qwen3",
             qwen3_moe="qwen3moe", gemma="gemma", gemma2="gemma2", gemma3_text="gemma3", gemma3="gemma3")
PRE = dict(gptneox="olmo", gpt2="gpt-2", llama="llama-bpe", qwen2="qwen2", qwen3="qwen2", qwen3moe="qwen2", gemma="gpt-2")
LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp", "attention.query_key_value": "attn_qkv",
         "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down", "attn.c_attn": "attn_qkv",
         "attn.c_proj": "attn_output", "ln_1": "attn_norm", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
POST_NORMS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
              "post_feedforward_layernorm": "post_ffw_norm"}
WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "embed_in": "token_embd", "embed_out": "output",
         "final_layer_norm": "output_norm", "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
EXPERTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}


# ---- a folder ----

def safetensors(path):
    """name -> (float32 array, type)"""
    data, out = open(path, "rb").read(), {}
    n = struct.unpack("<Q", data[:8])[0]
    for name, t in json.loads(data[8:8 + n]).items():
        if name == "__metadata__":
            continue
        raw = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[t["dtype"]]).astype(np.float32)
        out[name] = x.reshape(t["shape"]), t["dtype"]
    return out


def read(folder):
    c = json.load(open(os.path.join(folder, "config.json")))
    tensors = {}
    for f in sorted(os.listdir(folder)):
        if f.startswith("model") and f.endswith(".safetensors"):
            tensors.update(safetensors(os.path.join(folder, f)))
    outer = c
    c = dict(c.get("text_config", {})) or c
    c["model_type"] = outer["model_type"]
    return c, tensors


def first(c, *keys):
    for key in keys:
        if c.get(key) is not None:
            return c[key]
    return None


# ---- its numbers ----

def layer_windows(c):
    """The window of each layer; 0: none."""
    layers = first(c, "num_hidden_layers", "n_layer")
    kind, window = c["model_type"], c.get("sliding_window") or 0
    if kind.startswith("qwen") and not c.get("use_sliding_window"):
        window = 0
    if c.get("layer_types"):
        return [window if t == "sliding_attention" else 0 for t in c["layer_types"]]
    start = c.get("max_window_layers", 0) if kind.startswith("qwen") else 0
    every = 2 if kind == "gemma2" else c.get("_sliding_window_pattern", 6) if kind.startswith("gemma3") else 0
    return [window if i >= start and (not every or (i + 1) % every) else 0 for i in range(layers)]


def parameters(w, c, tensors):
    kind, dim = c["model_type"], first(c, "hidden_size", "n_embd")
    layers, heads = first(c, "num_hidden_layers", "n_layer"), first(c, "num_attention_heads", "n_head")
    head_dim = c.get("head_dim") or dim // heads
    rope = c.get("rope_parameters") or {}
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    scaling = c.get("rope_scaling") or full
    w.add_block_count(layers)
    w.add_context_length(first(c, "max_position_embeddings", "n_positions"))
    w.add_embedding_length(dim)
    w.add_feed_forward_length(first(c, "intermediate_size", "n_inner") or 4 * dim)
    w.add_head_count(heads)
    if "layer_norm_eps" in c or "layer_norm_epsilon" in c:
        w.add_layer_norm_eps(first(c, "layer_norm_eps", "layer_norm_epsilon"))
    else:
        w.add_layer_norm_rms_eps(c.get("rms_norm_eps", 1e-6))
        w.add_head_count_kv(c.get("num_key_value_heads", heads))
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if kind == "gpt_neox":
        share = first(c, "rotary_pct", "partial_rotary_factor") or full.get("partial_rotary_factor", 0.25)
        w.add_rope_dimension_count(int(share * head_dim))
        w.add_parallel_residual(c.get("use_parallel_residual", True))
    if kind in ("llama", "mistral", "mixtral"):
        w.add_vocab_size(c["vocab_size"])
        w.add_rope_dimension_count(head_dim)
    theta = first(c, "rope_theta", "rotary_emb_base") or full.get("rope_theta")
    if theta and kind not in ("gemma", "gemma2"):
        w.add_rope_freq_base(theta)
    if kind.startswith("gemma3"):
        w.add_rope_freq_base_swa(first(c, "rope_local_base_freq") or local.get("rope_theta", 1e4))
    if scaling.get("rope_type") == "linear":
        from gguf import RopeScalingType
        w.add_rope_scaling_type(RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3(scaling, theta, head_dim))
    if kind in ("mixtral", "qwen3_moe"):
        w.add_expert_count(first(c, "num_local_experts", "num_experts"))
        w.add_expert_used_count(c["num_experts_per_tok"])
    if kind == "qwen3_moe":
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    for key, add in [("attn_logit_softcapping", w.add_attn_logit_softcapping), ("final_logit_softcapping", w.add_final_logit_softcapping)]:
        if c.get(key):
            add(c[key])
    windows = layer_windows(c)
    if any(windows):
        w.add_sliding_window(max(windows))
        own = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}.get(kind, 0)
        if windows != [max(windows) if not own or (i + 1) % own else 0 for i in range(layers)]:
            w.add_array(f"{w.arch}.attention.sliding_window_pattern", [bool(x) for x in windows])
    scalar = c.get("query_pre_attn_scalar", head_dim)
    if scalar != head_dim:
        w.add_float32(f"{w.arch}.attention.scale", float(np.float32(1 / np.sqrt(scalar))))


def llama3(s, theta, dim):
    """What frequencies are divided by."""
    f = np.float32(1) / np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    wave, was = 2 * np.pi / f, s["original_max_position_embeddings"]
    smooth = (was / wave - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
    out = 1 / ((1 - smooth) / s["factor"] + smooth)
    out = np.where(wave > was / s["low_freq_factor"], s["factor"], np.where(wave < was / s["high_freq_factor"], 1, out))
    return out.astype(np.float32)


# ---- its tensors ----

def laid(c, tensors, fuse):
    """name -> (array, type), as llama.cpp has them."""
    kind, heads = c["model_type"], first(c, "num_attention_heads", "n_head")
    kv = c.get("num_key_value_heads", heads)
    names = dict(LAYER, **(POST_NORMS if kind[:6] in ("gemma2", "gemma3") else {}))
    out, experts = {}, {}
    for name, (x, dtype) in tensors.items():
        if "vision" in name or "projector" in name or (c.get("tie_word_embeddings") and name.startswith("lm_head")):
            continue
        parts = name.split(".")
        at = next((i for i, p in enumerate(parts) if p.isdigit()), None)
        part, ending = ".".join(parts[at + 1 if at is not None else 0:-1]), "." + parts[-1]
        if at is None:
            out[WHOLE[parts[-2]] + ending] = x + 1 if kind.startswith("gemma") and parts[-2] == "norm" else x, dtype
            continue
        block = f"blk.{parts[at]}."
        if ".experts." in name:
            key = block + f"ffn_{EXPERTS[parts[-2]]}_exps.weight"
            experts.setdefault(key, {})[int(parts[-3])] = x
            out[key] = None, dtype
            continue
        if kind.startswith("gemma") and part.endswith("norm"):
            x = x + 1
        if kind == "gpt2" and x.ndim == 2:
            x = x.T
        if kind == "gpt_neox" and "query_key_value" in part:
            x = x.reshape(heads, 3, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
        if ARCHS[kind] == "llama" and part.endswith(("q_proj", "k_proj")):
            n = heads if "q_proj" in part else kv
            x = x.reshape(n, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        out[block + names[part] + ending] = x, dtype
    for key, x in experts.items():
        out[key] = np.stack([x[i] for i in range(len(x))]), out[key][1]
    return fused(out) if fuse else out


def fused(tensors):
    """q, k and v in one, and the experts' gate and up, as the converter does on request."""
    out = {}
    for name, (x, dtype) in tensors.items():
        parts = {"attn_q": ["attn_q", "attn_k", "attn_v"], "ffn_gate_exps": ["ffn_gate_exps", "ffn_up_exps"]}
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if part in parts:
            whole = np.concatenate([tensors[name.replace(part, p)][0] for p in parts[part]], axis=-2)
            out[name.replace(part, {"attn_q": "attn_qkv", "ffn_gate_exps": "ffn_gate_up_exps"}[part])] = whole, dtype
        elif part not in ("attn_k", "attn_v", "ffn_up_exps"):
            out[name] = x, dtype
    return out


def put(w, name, x, kind):
    x = np.ascontiguousarray(x, dtype=np.float32)
    kind = Type[kind] if x.ndim > 1 else Type.F32
    if kind != Type.F32 and kind not in (Type.F16, Type.BF16) and x.shape[-1] % 32:
        kind = Type.F16
    if kind == Type.F32:
        w.add_tensor(name, x)
    elif kind == Type.F16:
        w.add_tensor(name, x.astype(np.float16))
    else:
        w.add_tensor(name, quants.quantize(x, kind), raw_dtype=kind)


# ---- its tokenizer ----

def tokenizer(w, c, folder, rows):
    path = os.path.join(folder, "tokenizer.json")
    for name, add in [("bos", w.add_bos_token_id), ("eos", w.add_eos_token_id), ("pad", w.add_pad_token_id)]:
        if isinstance(c.get(name + "_token_id"), int):
            add(c[name + "_token_id"])
    if not os.path.exists(path):
        w.add_tokenizer_model("no_vocab")
        return
    j = json.load(open(path, encoding="utf-8"))
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [TokenType.UNUSED] * rows
    for text, i in j["model"]["vocab"].items():
        tokens[i], types[i] = text, TokenType.NORMAL
    for a in j["added_tokens"]:
        tokens[a["id"]], types[a["id"]] = a["content"], TokenType.CONTROL if a["special"] else TokenType.USER_DEFINED
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(PRE[w.arch])
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]])
    w.add_add_bos_token(False)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def convert(folder, out, kind="native", fuse=False, types=None, **split):
    c, tensors = read(folder)
    w = GGUFWriter(out, ARCHS[c["model_type"]], **split)
    w.add_name(os.path.basename(os.path.normpath(folder)))
    tensors = laid(c, tensors, fuse)
    parameters(w, c, tensors)
    tokenizer(w, c, folder, len(tensors["token_embd.weight"][0]))
    for name, (x, dtype) in tensors.items():
        put(w, name, x, (types or {}).get(name.split(".")[-2], dtype if kind == "native" else kind.upper()))
    finish(w)


# ---- folders of random numbers ----

def write(folder, config, tensors):
    header, data = {}, b""
    for name, x in tensors.items():
        header[name] = dict(dtype="F32", shape=list(x.shape), data_offsets=[len(data), len(data) + x.nbytes])
        data += x.astype("<f4").tobytes()
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    open(os.path.join(folder, "model.safetensors"), "wb").write(struct.pack("<Q", len(header)) + header + data)
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=1)


def random(kind, folder):
    """Llama or Gemma with the tokenizer of examples/model."""
    rng = np.random.default_rng(12)
    os.makedirs(folder, exist_ok=True)
    tokens = os.path.join(HERE, "..", "examples", "model", "tokenizer.json")
    vocab = len(json.load(open(tokens, encoding="utf-8"))["model"]["vocab"])
    c = dict(model_type=kind, vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1e4,
             tie_word_embeddings=kind == "gemma", hidden_act="gelu_pytorch_tanh" if kind == "gemma" else "silu")
    at = {"model.embed_tokens": (vocab, 64), "model.norm": (64,)}
    if kind == "llama":
        at["lm_head"] = (vocab, 64)
    for i in range(3):
        p = f"model.layers.{i}."
        at.update({p + "input_layernorm": (64,), p + "post_attention_layernorm": (64,), p + "self_attn.q_proj": (64, 64),
                   p + "self_attn.k_proj": (32, 64), p + "self_attn.v_proj": (32, 64), p + "self_attn.o_proj": (64, 64),
                   p + "mlp.gate_proj": (96, 64), p + "mlp.up_proj": (96, 64), p + "mlp.down_proj": (64, 96)})
    write(folder, c, {n + ".weight": (rng.standard_normal(s) / 8 + (len(s) == 1 and kind == "llama")).astype(np.float32)
                      for n, s in at.items()})
    open(os.path.join(folder, "tokenizer.json"), "wb").write(open(tokens, "rb").read())


# ---- fixtures ----

def blocks():
    """A Qwen3-MoE of blocks, and a folder of the numbers that the blocks are."""
    rng = np.random.default_rng(11)
    folder = os.path.join(OUT, "blocks")
    os.makedirs(folder, exist_ok=True)
    config = dict(model_type="qwen3_moe", vocab_size=40, hidden_size=32, intermediate_size=32, moe_intermediate_size=32,
                  num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_experts=3,
                  num_experts_per_tok=2, norm_topk_prob=True, max_position_embeddings=64, rms_norm_eps=1e-6, rope_theta=1e4,
                  tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    types = dict(token_embd="Q8_0", attn_q="Q8_0", attn_k="Q5_1", attn_v="Q4_0", attn_output="Q5_0", ffn_gate_inp="F32",
                 ffn_gate_exps="Q8_0", ffn_up_exps="Q4_1", ffn_down_exps="Q8_0")
    p, at = "model.layers.0.", {}
    shapes = {"model.embed_tokens": (40, 32), p + "self_attn.q_proj": (64, 32), p + "self_attn.k_proj": (32, 32),
              p + "self_attn.v_proj": (32, 32), p + "self_attn.o_proj": (32, 64), p + "mlp.gate": (3, 32)}
    for e in range(3):
        for part in ("gate_proj", "up_proj", "down_proj"):
            shapes[p + f"mlp.experts.{e}.{part}"] = (32, 32)
    for name, shape in shapes.items():
        x = (rng.standard_normal(shape) / 3).astype(np.float32)
        part = name.split(".")[-1]
        kind = Type[types[f"ffn_{EXPERTS[part]}_exps" if "experts" in name else WHOLE.get(part) or LAYER[name[len(p):]]]]
        at[name + ".weight"] = quants.dequantize(quants.quantize(x, kind), kind)
    for name, n in [("model.norm", 32), (p + "input_layernorm", 32), (p + "post_attention_layernorm", 32),
                    (p + "self_attn.q_norm", 32), (p + "self_attn.k_norm", 32)]:
        at[name + ".weight"] = (1 + rng.standard_normal(n) / 4).astype(np.float32)
    write(folder, config, at)
    convert(folder, os.path.join(OUT, "blocks.gguf"), types=types)


def sentencepiece():
    """A tokenizer alone: bytes, characters, pairs of them that a text has often, with scores."""
    text = open(os.path.join(HERE, "..", "examples", "model", "demo.txt"), encoding="utf-8").read()[:9000].replace(" ", "\u2581")
    tokens = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    tokens += [(f"<0x{b:02X}>", TokenType.BYTE) for b in range(256)]
    tokens += [("<turn>", TokenType.USER_DEFINED), ("\n\n", TokenType.USER_DEFINED), ("   ", TokenType.USER_DEFINED),
               ("<unused0>", TokenType.UNUSED)]
    scores, pieces, seen = [0.0] * len(tokens), list(text), []
    for _ in range(120):
        pairs = {}
        for a, b in zip(pieces, pieces[1:]):
            if "\n" not in a + b and (not b.startswith("\u2581") or set(a + b) == {"\u2581"}):
                pairs[a + b] = pairs.get(a + b, 0) + 1
        best = max(pairs, key=lambda k: (pairs[k], k))
        i = 0
        while i + 1 < len(pieces):
            if pieces[i] + pieces[i + 1] == best:
                pieces[i:i + 2] = [best]
            i += 1
        seen.append(best)
    for rank, piece in enumerate(dict.fromkeys(seen)):
        tokens.append((piece, TokenType.NORMAL))
        scores.append(-float(rank // 12))  # twelve have the same score
    tokens.append(("<0xA9>a", TokenType.NORMAL))  # no byte and an a
    scores.append(-3.0)
    for ch in sorted(set(text) - {"\n"}):
        tokens.append((ch, TokenType.NORMAL))
        scores.append(-1000.0)
    for name, prefix in [("spm", True), ("spm_bare", False)]:
        w = GGUFWriter(os.path.join(OUT, name + ".gguf"), "llama")
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_list([t.encode() for t, _ in tokens])
        w.add_token_scores(scores)
        w.add_token_types([k for _, k in tokens])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)
        w.add_add_bos_token(True)
        if not prefix:
            w.add_add_space_prefix(False)
        finish(w)


def fixtures():
    os.makedirs(OUT, exist_ok=True)
    for f in os.listdir(OUT):
        if f.endswith(".gguf"):
            os.remove(os.path.join(OUT, f))
    for name in ["parallel", "sequential", "gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2",
                 "gemma3", "gemma3mm"]:
        convert(os.path.join(HERE, "lm", name), os.path.join(OUT, name + ".gguf"))
    convert(os.path.join(HERE, "lm", "mixtral"), os.path.join(OUT, "fused.gguf"), fuse=True)
    convert(os.path.join(HERE, "lm", "gemma"), os.path.join(OUT, "split.gguf"), split_max_tensors=9)
    blocks()
    sentencepiece()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        fixtures()
    elif len(sys.argv) == 4 and sys.argv[1] == "random":
        random(*sys.argv[2:])
    elif len(sys.argv) in (3, 4):
        convert(*sys.argv[1:])
    else:
        sys.exit(__doc__)
