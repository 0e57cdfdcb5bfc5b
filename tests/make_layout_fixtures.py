#!/usr/bin/env python3
"""Makes tests/formats/layouts and tests/layers: small files in the layouts of published dictionaries, crosscoders and
cross-layer transcoders, made-up weights, with what the formulas of their programs give for x.npy, in float64.
The tests read the result and need no Python.

usage: python3 tests/make_layout_fixtures.py
Needs numpy. about.json of a case: open, expect (load, refuse), kind, tolerance; k (what the caller must give),
nonfinite_rows (of the program), batch (rows choose together), signed (latents below 0).
"""
import json, os, shutil, struct, zlib
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ONE, MANY = os.path.join(HERE, "formats", "layouts"), os.path.join(HERE, "layers")
N, D, M, L = 8, 8, 20, 3
state = {}


# ---- files ------------------------------------------------------------------------------------------------------------

def bf16_bits(a):
    u = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)

def bf16(a):
    """Rounded to bfloat16, as float32."""
    return (bf16_bits(a).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(a))

def safetensors(path, tensors, half=False):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    head, data = {}, b""
    for name, a in tensors.items():
        a = np.asarray(a)
        kind = "I64" if a.dtype.kind == "i" else "BF16" if half else "F32"
        raw = (a.astype(np.int64) if kind == "I64" else bf16_bits(a) if half else np.ascontiguousarray(a, np.float32)).tobytes()
        head[name] = {"dtype": kind, "shape": list(a.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)

def zip_file(path, entries):
    """Stored entries, as torch.save and numpy.savez lay them out."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    body, directory = b"", b""
    for name, raw in entries:
        name, crc = name.encode(), zlib.crc32(raw)
        fixed = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, len(raw), len(raw), len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + fixed + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + fixed + name + raw
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    with open(path, "wb") as f:
        f.write(body + directory + b"PK\5\6" + end)

def pickled_int(v):
    return b"K" + bytes([v]) if v < 256 else b"J" + struct.pack("<i", v)

def pickled_text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()

def pt(path, tensors, half=False, outer=None, more=()):
    """torch.save of a dict of tensors; outer: inside another dict under that key, beside the texts of more."""
    storages, items = [], b""
    for name, a in tensors.items():
        a = np.asarray(a)
        kind = "LongStorage" if a.dtype.kind == "i" else "BFloat16Storage" if half else "FloatStorage"
        raw = (a.astype(np.int64) if a.dtype.kind == "i" else bf16_bits(a) if half else np.ascontiguousarray(a, np.float32)).tobytes()
        strides = [int(np.prod(a.shape[i + 1:])) for i in range(a.ndim)]
        sizes = lambda v: b"(" + b"".join(pickled_int(int(i)) for i in v) + b"t"
        items += pickled_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"(" + pickled_text("storage") + b"ctorch\n" + kind.encode() + b"\n"
        items += pickled_text(str(len(storages))) + pickled_text("cpu") + pickled_int(a.size) + b"tQ" + pickled_int(0) + sizes(a.shape) + sizes(strides)
        items += b"\x89ccollections\nOrderedDict\n)RtR"
        storages.append(raw)
    pickle = b"}(" + items + b"u"
    if outer:
        pickle = b"}(" + pickled_text(outer) + pickle + b"".join(pickled_text(k) + pickled_text(v) for k, v in more) + b"u"
    zip_file(path, [("archive/data.pkl", b"\x80\2" + pickle + b"."), ("archive/version", b"3\n")]
             + [("archive/data/%d" % i, raw) for i, raw in enumerate(storages)])

def npz(path, tensors):
    entries = []
    for name, a in tensors.items():
        head = "{'descr': '<f4', 'fortran_order': False, 'shape': %r, }" % (tuple(a.shape),)
        head += " " * (-(len(head) + 11) % 64) + "\n"
        entries.append((name + ".npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + np.ascontiguousarray(a, np.float32).tobytes()))
    zip_file(path, entries)

def dump(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(value if isinstance(value, str) else json.dumps(value) + "\n")


# ---- cases --------------------------------------------------------------------------------------------------------------

def begin(root, name):
    """The folder of a case; numbers are drawn by its name."""
    state["rng"] = np.random.default_rng(zlib.crc32(name.encode()))
    state["folder"] = os.path.join(root, name)
    os.makedirs(state["folder"])
    return state["folder"]

def draw(*shape, scale=1.0):
    return (scale * state["rng"].standard_normal(shape)).astype(np.float32)

def rows(width):
    x = draw(N, width)
    x[3] = 0
    x[5] *= 20
    return x

def end(open_, x, f, x_hat, kind="sae", tolerance=1e-5, **more):
    folder = state["folder"]
    dump(folder + "/about.json", dict(kind=kind, open=open_, expect="load", tolerance=tolerance, **more))
    for name, a in (("x", x), ("f", f), ("x_hat", x_hat)):
        assert np.isfinite(a[0]).all()
        np.save("%s/%s.npy" % (folder, name), np.asarray(a, np.float32))

def refuse(open_, why, **more):
    dump(state["folder"] + "/about.json", dict(kind="refuse", open=open_, expect="refuse", why=why, **more))


# ---- the formulas, in float64 ----------------------------------------------------------------------------------------------

def f64(*a):
    return [np.asarray(v, np.float64) for v in a]

relu = lambda p: np.maximum(p, 0)
sigmoid = lambda z: 1 / (1 + np.exp(-z))
norms = lambda W: np.sqrt((np.asarray(W, np.float64) ** 2).sum(-1))

def largest(keys, k):
    """Mask of the k largest of each row."""
    keep = np.zeros(keys.shape, bool)
    for r, order in enumerate(np.argsort(-keys, axis=1, kind="stable")):
        keep[r, order[:k]] = True
    return keep

def largest_of_all(keys, k):
    keep = np.zeros(keys.size, bool)
    keep[np.argsort(-keys.ravel(), kind="stable")[:k]] = True
    return keep.reshape(keys.shape)


# ---- one layer ---------------------------------------------------------------------------------------------------------------

def weights(d=D, m=M, out=None):
    """W_enc [m,d], b_enc [m], W_dec [m,out], b_dec [out]; decoder norms are far from 1."""
    return draw(m, d, scale=0.4), draw(m, scale=0.2), draw(m, out or d, scale=0.3) * (0.5 + state["rng"].random((m, 1))).astype(np.float32), draw(out or d, scale=0.3)

def qwen(name, k, config, folder="", open_="layer3.sae.pt", **more):
    base = begin(ONE, name) + "/" + folder
    We, be, Wd, bd = weights()
    pt(base + open_.split("/")[-1], {"W_enc": We, "W_dec": Wd.T, "b_enc": be, "b_dec": bd})
    if config:
        dump(base + "config.json", config)
    x = rows(D)
    p = relu(x.astype(float) @ We.T + be)
    f = p * largest(p, k)
    end(folder + open_ if folder else open_, x, f, f @ Wd + bd, **more)

qwen_config = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-0.6B", "d_model": D, "d_sae": M, "k": 7, "num_layers": 28, "hook_point": "resid_post", "dtype": "float32"}

def goodfire():
    base = begin(ONE, "goodfire")
    We, be, Wd, bd = map(bf16, weights())
    pt(base + "/Llama-SAE-l19.pth", {"encoder_linear.weight": We, "encoder_linear.bias": be, "decoder_linear.weight": Wd.T, "decoder_linear.bias": bd}, half=True)
    x = rows(D)
    f = relu(x.astype(float) @ We.T + be)
    end("Llama-SAE-l19.pth", x, f, f @ Wd + bd)

def attention_out():
    base = begin(ONE, "attention_out")
    We, be, Wd, bd = weights()
    pt(base + "/gpt2-small_L5_v9.pt", {"W_enc": We.T, "W_dec": Wd, "b_enc": be, "b_dec": bd})
    dump(base + "/gpt2-small_L5_v9_cfg.json", {"act_size": D, "dict_size": M, "act_name": "blocks.5.attn.hook_z", "model_name": "gpt2-small"})
    x = rows(D)
    f = relu((x.astype(float) - bd) @ We.T + be)
    end("gpt2-small_L5_v9.pt", x, f, f @ Wd + bd)

def gemma_embedding():
    base = begin(ONE, "gemma_scope_embedding")
    We, be, Wd, bd = weights()
    t = np.abs(draw(M, scale=0.3))
    npz(base + "/embedding/width_1k/average_l0_9/params.npz", {"W_enc": We.T, "b_enc": be, "W_dec": Wd, "b_dec": bd, "threshold": t})
    x = rows(D)
    p = x.astype(float) @ (We.T / np.sqrt(D)) + be
    f = relu(p) * (p > t)
    end("embedding/width_1k/average_l0_9", x, f, f @ (Wd * np.sqrt(D)) + bd)

def llama_scope(name, include, n_in, n_out):
    base = begin(ONE, name)
    We, be, Wd, bd = map(bf16, weights())
    theta = 0.35
    safetensors(base + "/checkpoints/final.safetensors", {"encoder.weight": We, "encoder.bias": be, "decoder.weight": Wd.T, "decoder.bias": bd}, half=True)
    dump(base + "/hyperparams.json", {"hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post" if n_in == n_out else "blocks.3.hook_mlp_out",
         "d_model": D, "d_sae": M, "act_fn": "jumprelu", "jump_relu_threshold": theta, "norm_activation": "dataset-wise", "use_decoder_bias": True, "use_glu_encoder": False,
         "dataset_average_activation_norm": {"in": n_in, "out": n_out}, "sparsity_include_decoder_norm": include, "apply_decoder_bias_to_pre_encoder": False})
    x = rows(D)
    s_in, s_out = np.sqrt(D) / n_in, np.sqrt(D) / n_out
    p = s_in * x.astype(float) @ We.T + be
    f = np.where(p * norms(Wd) > s_out * theta, relu(p), 0) if include else np.where(p > s_in * theta, relu(p), 0)
    end(".", x, f, (f @ Wd + bd) / s_out)

def scopium_act(act, p, w, theta, k, n):
    if act == "relu": return relu(p)
    if act == "jumprelu": return np.where(p * w > theta, p, 0)
    if act == "topk": return relu(p) * largest(relu(p) * w, k)
    return relu(p) * largest_of_all(relu(p) * w, k * n)

def scopium(name, act, include=True, norm="inference", glu=False, old=False, box="sae_weights.safetensors", bias=True, two=False, half=False):
    base = begin(ONE, name)
    We, be, Wd, bd = weights()
    Wg, bg = draw(M, D, scale=0.3), draw(M, scale=0.2)
    theta, k = np.exp(draw(M, scale=0.2) - 1), 6
    hooks = ["blocks.6.ln2.hook_normalized", "blocks.6.hook_mlp_out"] if two else ["blocks.6.hook_resid_post"] * 2
    lt = np.log(theta).astype(np.float32)
    if half: We, be, Wd, bd, lt = map(bf16, (We, be, Wd, bd, lt))
    theta = np.exp(lt.astype(float))
    n_in, n_out = np.float32(5.0), np.float32(3.0 if two else 5.0)
    t = {"encoder.weight": We, "encoder.bias": be, "decoder.weight": Wd.T} if old else {"W_E": We.T, "b_E": be, "W_D": Wd}
    if bias: t["decoder.bias" if old else "b_D"] = bd
    if glu: t.update({"encoder_glu.weight": Wg, "encoder_glu.bias": bg} if old else {"W_E_glu": Wg.T, "b_E_glu": bg})
    if act == "jumprelu": t["log_jumprelu_threshold" if old else "activation_function.log_jumprelu_threshold"] = lt
    for hook, v in zip(hooks, (n_in, n_out)): t["dataset_average_activation_norm." + hook] = v
    if box.endswith(".pt"): pt(base + "/" + box, t, outer="sae", more=[("version", "2.0.0b34")])
    else: safetensors(base + "/" + box, t, half=half)
    dump(base + "/config.json", {"sae_type": "sae", "d_model": D, "expansion_factor": M / D, "use_decoder_bias": bias, "act_fn": act, "norm_activation": norm, "top_k": k,
         "sparsity_include_decoder_norm": include, "hook_point_in": hooks[0], "hook_point_out": hooks[1], "use_glu_encoder": glu})
    x = rows(D)
    s_in = s_out = 1
    if norm == "dataset-wise": s_in, s_out = np.sqrt(D) / n_in, np.sqrt(D) / n_out
    if norm == "token-wise":
        with np.errstate(all="ignore"): s_in = s_out = np.sqrt(D) / norms(x)[:, None]
    with np.errstate(all="ignore"):
        y = x.astype(float) * s_in
        p = y @ We.T + be
        if glu: p = p * sigmoid(y @ Wg.T + bg)
        f = scopium_act(act, p, norms(Wd) if include else np.ones(M), theta, k, N)
        x_hat = (f @ Wd + (bd if bias else 0)) / s_out
    end(".", x, f, x_hat, kind="transcoder" if two else "sae", batch=act == "batchtopk", nonfinite_rows=[3] if norm == "token-wise" else [])

def tracer(name, m=M, yaml="", threshold=None, skip=False, half=False, k=0, d=D, **more):
    base = begin(ONE, name)
    We, be, Wd, bd = weights(d, m)
    S = draw(d, d, scale=0.3)
    if half: We, be, Wd, bd = map(bf16, (We, be, Wd, bd))
    t = {"W_enc": We, "W_dec": Wd, "b_enc": be, "b_dec": bd}
    if skip: t["W_skip"] = S
    if threshold is not None: t["activation_function.threshold"] = theta = draw(m, scale=0.2) + np.float32(threshold)
    safetensors(base + "/layer_1.safetensors", t, half=half)
    dump(base + "/config.yaml", "model_name: Qwen/Qwen3-0.6B\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nscan: mine  # a note\n" + yaml)
    x = rows(d)
    p = x.astype(float) @ We.T + be
    f = p * largest(p, k) if k else np.where(p > theta, p, 0) if threshold is not None else relu(p)
    end("layer_1.safetensors", x, f, f @ Wd + bd + (x.astype(float) @ S.T if skip else 0), kind="transcoder", signed=bool(k) or threshold == -0.1, **more)

def pursuit(name, least, most, stop, b_dec):
    base = begin(ONE, name)
    W, b = draw(M, D), draw(D, scale=0.3)
    W /= norms(W)[:, None].astype(np.float32)
    safetensors(base + "/sae_weights.safetensors", {"W_dec": W, "b_dec": b})
    dump(base + "/cfg.json", {"d_in": D, "d_sae": M, "dtype": "float32", "architecture": "matching_pursuit", "apply_b_dec_to_input": b_dec, "normalize_activations": "none",
         "residual_threshold": least, "max_iterations": most, "stop_on_duplicate_support": stop, "metadata": {"sae_lens_version": "6.54.12"}})
    x = rows(D)
    f = np.zeros((N, M))
    for r in range(N):
        left = x[r].astype(float) - (b if b_dec else 0)
        for _ in range(most or D):
            v = relu(W.astype(float) @ left)
            i = int(np.argmax(v))
            before = f[r] != 0
            f[r, i] += v[i]
            left = left - v[i] * W[i]
            if (stop and ((f[r] != 0) == before).all()) or (least > 0 and np.linalg.norm(left) < least): break
    end(".", x, f, f @ W + (b if b_dec else 0), tolerance=1e-4)


# ---- crosscoders -----------------------------------------------------------------------------------------------------------

def finetuning(name, code=1, batch=False, normaliser=False, prefix="", hub=False, layers=2, config=None, half=False):
    base = begin(ONE, name)
    E, b, Dm, c = draw(layers, D, M, scale=0.3), draw(M, scale=0.2), draw(layers, M, D, scale=0.3), draw(layers, D, scale=0.2)
    mean, std, g = draw(layers, D, scale=0.5), np.abs(draw(layers, D)) + np.float32(0.5), np.abs(draw(layers)) + np.float32(0.5)
    Dm *= (0.4 + state["rng"].random((layers, M, 1))).astype(np.float32)
    if half: E, b, Dm, c = map(bf16, (E, b, Dm, c))
    nan = np.full((layers, D), np.nan, np.float32)
    theta = (0.2 + 0.2 * np.arange(layers)).astype(np.float32) if code == 5 else np.float32(0.5)
    t = {"target_rms": np.float32(1), "activation_mean": mean if normaliser else nan, "activation_std": std if normaliser else nan, "activation_global_scale": g}
    if code: t["code_normalization_id"] = np.int64(code)
    if batch: t.update(k=np.int64(9), threshold=theta)
    t.update({"encoder.weight": E, "encoder.bias": b, "decoder.bias": c, "decoder.weight": Dm})
    t = {prefix + key: v for key, v in t.items()}
    if hub:
        safetensors(base + "/model.safetensors", t)
        dump(base + "/config.json", config or {"activation_dim": D, "dict_size": M, "num_layers": layers, "code_normalization": "crosscoder"})
    else:
        pt(base + "/model.pt", t, half=False)
    x = rows(layers * D)
    X = x.astype(float).reshape(N, layers, D)
    if normaliser: X = (X - mean) * g[:, None].astype(float)
    p = relu(np.einsum("nld,ldm->nm", X, E.astype(float)) + b)
    each = norms(Dm)
    total, summed = np.sqrt((each ** 2).sum(0)), each.sum(0)
    alphas = config or {}
    w = {0: summed, 1: summed, 2: total, 3: alphas.get("code_normalization_alpha_sae", 1.0) * total + alphas.get("code_normalization_alpha_cc", 0.1) * summed, 4: np.ones(M)}.get(code)
    if not batch: f = p
    elif code == 5: f = np.concatenate([p * (p * each[l] > theta[l]) for l in range(layers)], 1)
    else: f = p * (p * w > theta)
    per = f.reshape(N, layers, M) if f.shape[1] != M else np.repeat(f[:, None], layers, 1)
    y = np.einsum("nlm,lmd->nld", per, Dm.astype(float)) + c
    if normaliser: y = y / (g[:, None].astype(float) + 1e-8) + mean
    end("." if hub else "model.pt", x, f, y.reshape(N, -1), kind="crosscoder")

def ckkissane():
    base = begin(ONE, "ckkissane")
    E, b, Dm, c = draw(2, D, M, scale=0.3), draw(M, scale=0.2), draw(M, 2, D, scale=0.3), draw(2, D, scale=0.2)
    pt(base + "/blocks.14.hook_resid_pre/cc_weights.pt", {"W_enc": E, "W_dec": Dm, "b_enc": b, "b_dec": c})
    dump(base + "/blocks.14.hook_resid_pre/cfg.json", {"d_in": D, "dict_size": M, "enc_dtype": "fp32", "model_name": "gemma-2-2b", "hook_point": "blocks.14.hook_resid_pre"})
    x = rows(2 * D)
    f = relu(np.einsum("nld,ldm->nm", x.astype(float).reshape(N, 2, D), E.astype(float)) + b)
    end("blocks.14.hook_resid_pre", x, f, (np.einsum("nm,mld->nld", f, Dm.astype(float)) + c).reshape(N, -1), kind="crosscoder")

def scopium_crosscoder(name, act, norm="inference", include=True):
    base = begin(ONE, name)
    hooks = ["blocks.%d.hook_resid_post" % i for i in (2, 5, 9)]
    E, b, Dm, c = draw(L, D, M, scale=0.3), draw(L, M, scale=0.1), draw(L, M, D, scale=0.3), draw(L, D, scale=0.2)
    Dm *= (0.4 + state["rng"].random((L, M, 1))).astype(np.float32)
    lt = draw(M, scale=0.2) - np.float32(1)
    k, avg = 5, np.float32([4.0, 6.0, 9.0])
    t = {"W_E": E, "b_E": b, "W_D": Dm, "b_D": c}
    if act == "jumprelu": t["activation_function.log_jumprelu_threshold"] = lt
    for h, v in zip(hooks, avg): t["dataset_average_activation_norm." + h] = v
    safetensors(base + "/sae_weights.safetensors", t)
    dump(base + "/config.json", {"sae_type": "crosscoder", "d_model": D, "expansion_factor": M / D, "act_fn": act, "norm_activation": norm, "top_k": k,
         "sparsity_include_decoder_norm": include, "use_decoder_bias": True, "hook_points": hooks})
    x = rows(L * D)
    X = x.astype(float).reshape(N, L, D)
    s = np.ones((1, L, 1))
    if norm == "dataset-wise": s = (np.sqrt(D) / avg.astype(float))[None, :, None]
    with np.errstate(all="ignore"):
        if norm == "token-wise": s = np.sqrt(D) / norms(X)[:, :, None]
        p = np.einsum("nld,ldm->nm", X * s, E.astype(float)) + b.astype(float).sum(0)
        w = norms(Dm) if include else np.ones((L, M))
        if act == "batchtopk":
            q = np.concatenate([relu(p) * w[l] for l in range(L)], 1)
            f = np.tile(relu(p), (1, L)) * largest_of_all(q, k * N * L)
        else: f = np.concatenate([scopium_act(act, p, w[l], np.exp(lt.astype(float)), k, N) for l in range(L)], 1)
        y = (np.einsum("nlm,lmd->nld", f.reshape(N, L, M), Dm.astype(float)) + c) / s
    end(".", x, f, y.reshape(N, -1), kind="crosscoder", batch=act == "batchtopk", nonfinite_rows=[3] if norm == "token-wise" else [])


# ---- cross-layer transcoders and sets -----------------------------------------------------------------------------------------

def clt_weights(m=M, d=D):
    """W_enc [L,m,d], b_enc [L,m], W_dec[i][t] [m,d], b_dec [L,d]"""
    return (draw(L, m, d, scale=0.4), draw(L, m, scale=0.2), [[draw(m, d, scale=0.25) for t in range(L)] for i in range(L)], draw(L, d, scale=0.2))

def clt_out(f, Wd, b, targets):
    """[n,L,m] -> [n,L,d]"""
    y = np.zeros((f.shape[0], L, b.shape[-1])) + b
    for i in range(L):
        for t in targets(i): y[:, t] += f[:, i] @ np.asarray(Wd[i][t], np.float64)
    return y

later = lambda i: range(i, L)

def clt_pre(x, We, be):
    return np.einsum("nld,lmd->nlm", x.astype(float).reshape(N, L, -1), np.asarray(We, np.float64)) + be

def tracer_clt(name, threshold=None, half=False, negative=False):
    base = begin(MANY, name)
    We, be, Wd, bd = clt_weights()
    theta = np.abs(draw(L, M, scale=0.2)) - np.float32(0.2 if negative else 0)
    if half: We, be, bd, Wd = bf16(We), bf16(be), bf16(bd), [[bf16(w) for w in row] for row in Wd]
    for i in range(L):
        t = {"W_enc_%d" % i: We[i], "b_enc_%d" % i: be[i], "b_dec_%d" % i: bd[i]}
        if threshold: t["threshold_%d" % i] = theta[i]
        safetensors(base + "/W_enc_%d.safetensors" % i, t, half=half)
        safetensors(base + "/W_dec_%d.safetensors" % i, {"W_dec_%d" % i: np.stack([Wd[i][t] for t in later(i)], 1)}, half=half)
    dump(base + "/config.yaml", "model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n")
    x = rows(L * D)
    p = clt_pre(x, We, be)
    f = np.where(p > theta, p, 0) if threshold else relu(p)
    end(".", x, f.reshape(N, -1), clt_out(f, Wd, bd, later).reshape(N, -1), kind="clt")

def tracer_set(name, k=0):
    base = begin(MANY, name)
    We, be, Wd, bd = clt_weights()
    S, theta = draw(L, D, D, scale=0.3), np.abs(draw(L, M, scale=0.2))
    for i in range(L):
        t = {"W_enc": We[i], "b_enc": be[i], "b_dec": bd[i], "W_dec": Wd[i][i]}
        if not k: t.update({"W_skip": S[i], "activation_function.threshold": theta[i]})
        safetensors(base + "/layer_%d.safetensors" % i, t)
    dump(base + "/config.yaml", "model_kind: transcoder_set\nfeature_input_hook: 'mlp.hook_in'\n" + ("activation: topk\nk: %d\n" % k if k else ""))
    x = rows(L * D)
    p = clt_pre(x, We, be)
    f = np.stack([p[:, i] * largest(p[:, i], k) for i in range(L)], 1) if k else np.where(p > theta, p, 0)
    y = clt_out(f, Wd, bd, lambda i: [i])
    if not k: y += np.einsum("nld,led->nle", x.astype(float).reshape(N, L, D), S.astype(float))
    end(".", x, f.reshape(N, -1), y.reshape(N, -1), kind="transcoder_set")

def gemma_clt(name, kind, affine=False, half=False):
    base = begin(MANY, name)
    We, be, Wd, bd = clt_weights()
    A, theta = draw(L, D, D, scale=0.3), np.abs(draw(L, M, scale=0.2))
    if half: We, be, bd, theta, Wd = bf16(We), bf16(be), bf16(bd), bf16(theta), [[bf16(w) for w in row] for row in Wd]
    if kind == "clt":
        for i in range(L):
            for t in range(i): Wd[i][t] = np.zeros((M, D), np.float32)
    for i in range(L):
        t = {"w_enc": We[i].T, "b_enc": be[i], "b_dec": bd[i], "threshold": theta[i], "w_dec": np.stack(Wd[i], 1)}
        if affine: t["affine_skip_connection"] = A[i]
        safetensors(base + "/%s/params_layer_%d.safetensors" % (kind, i), t, half=half)
    dump(base + "/%s/config.json" % kind, {"type": kind, "architecture": "jump_relu", "affine_connection": affine, "model_name": "gemma-v3-1b-pt",
         "hf_hook_point_in": "model.layers.{layer}.output", "hf_hook_point_out": "model.layers.{layer}.output"})
    x = rows(L * D)
    p = clt_pre(x, We, be)
    f = relu(p) * (p > theta)
    y = clt_out(f, Wd, bd, lambda i: range(L))
    if affine: y += np.einsum("nld,lde->nle", x.astype(float).reshape(N, L, D), A.astype(float))
    end(kind, x, f.reshape(N, -1), y.reshape(N, -1), kind=kind)

def forge(name, cross):
    base = begin(MANY, name)
    We, be, Wd, _ = clt_weights()
    pairs = [(i, t) for i in range(L) for t in (later(i) if cross else [i])]
    b, lt = draw(len(pairs), D, scale=0.2), draw(L, M, scale=0.2) - np.float32(1)
    s_in, s_out = np.abs(draw(L)) + np.float32(0.5), np.abs(draw(L)) + np.float32(0.5)
    safetensors(base + "/clt_weights.safetensors", {"W_enc": We.transpose(0, 2, 1), "b_enc": be, "W_dec": np.stack([Wd[i][t] for i, t in pairs]), "b_dec": b, "log_threshold": lt,
                "estimated_norm_scaling_factor_in": s_in, "estimated_norm_scaling_factor_out": s_out, "feature_count": np.zeros((L, M), np.int64)})
    dump(base + "/clt_cfg.json", {"d_in": D, "d_latent": M, "n_layers": L, "cross_layer_decoders": cross, "model_name": "gpt2", "dtype": "float32"})
    x = rows(L * D)
    p = clt_pre((x.astype(float).reshape(N, L, D) * s_in[:, None]).reshape(N, -1), We, be)
    f = p * (p > np.exp(lt.astype(float)))
    bias = np.zeros((L, D))
    for (i, t), v in zip(pairs, b): bias[t] += v
    y = clt_out(f, Wd, bias, later if cross else lambda i: [i]) / s_out[:, None].astype(float)
    end(".", x, f.reshape(N, -1), y.reshape(N, -1), kind="clt")

def scopium_clt(name, act, norm="inference", include=True, box="sae_weights.safetensors", bias=True):
    base = begin(MANY, name)
    We, be, Wd, bd = clt_weights()
    lt, k = draw(L, M, scale=0.2) - np.float32(1), 5
    h_in, h_out = ["blocks.%d.ln2.hook_normalized" % i for i in range(L)], ["blocks.%d.hook_mlp_out" % i for i in range(L)]
    a_in, a_out = np.float32([3, 4, 5]), np.float32([2, 6, 7])
    t = {"W_E": We.transpose(0, 2, 1), "b_E": be}
    for i in range(L):
        t["W_D.%d" % i] = np.stack([Wd[j][i] for j in range(i + 1)])
        if bias: t["b_D.%d" % i] = bd[i]
    if act == "jumprelu": t["activation_function.log_jumprelu_threshold"] = lt
    for h, v in zip(h_in + h_out, np.concatenate([a_in, a_out])): t["dataset_average_activation_norm." + h] = v
    if box.endswith(".pt"): pt(base + "/" + box, t, outer="sae", more=[("version", "2.0.0b34")])
    else: safetensors(base + "/" + box, t)
    dump(base + "/config.json", {"sae_type": "clt", "d_model": D, "expansion_factor": M / D, "act_fn": act, "norm_activation": norm, "top_k": k, "use_decoder_bias": bias,
         "sparsity_include_decoder_norm": include, "hook_points_in": h_in, "hook_points_out": h_out})
    x = rows(L * D)
    s_in = s_out = np.ones((L, 1))
    if norm == "dataset-wise": s_in, s_out = np.sqrt(D) / a_in[:, None].astype(float), np.sqrt(D) / a_out[:, None].astype(float)
    p = clt_pre((x.astype(float).reshape(N, L, D) * s_in).reshape(N, -1), We, be)
    w = np.stack([np.sqrt(sum(norms(Wd[i][t]) ** 2 for t in later(i))) for i in range(L)]) if include else np.ones((L, M))
    q = relu(p) * w
    if act == "relu": f = relu(p)
    elif act == "jumprelu": f = np.where(p * w > np.exp(lt.astype(float)), p, 0)
    elif act == "topk": f = relu(p) * np.stack([largest(q[:, i], k) for i in range(L)], 1)
    elif act == "layertopk": f = relu(p) * largest(q.reshape(N, -1), k).reshape(q.shape)
    elif act == "batchtopk": f = relu(p) * np.stack([largest_of_all(q[:, i], k * N) for i in range(L)], 1)
    else: f = relu(p) * largest_of_all(q, k * N)
    y = clt_out(f, Wd, bd if bias else np.zeros((L, D)), later) / s_out
    end(".", x, f.reshape(N, -1), y.reshape(N, -1), kind="clt", batch=act.startswith("batch"))

def training(name, skip=False, io=False, scale=False, divide=False, tied=False, box="layers.%d.mlp", single=None):
    base = begin(MANY, name)
    k, count = 4, 1 if single else L
    We, be, Wd, _ = clt_weights()
    b, post = draw(L, L, D, scale=0.2), draw(L, L, M, scale=0.2)
    factor, S = 1 + draw(L, L, M, scale=0.2), draw(L, L, D, D, scale=0.3)
    n_in, n_out = np.abs(draw(L)) + np.float32(2), np.abs(draw(L)) + np.float32(2)
    for i in range(count):
        t = {"encoder.weight": We[i], "encoder.bias": be[i], "W_dec": Wd[i][i], "b_dec": b[i, i]}
        for j in range(0 if single else L - i):
            if not tied: t["W_decs.%d" % j] = Wd[i][i + j]
            t.update({"b_decs.%d" % j: b[i, i + j], "post_encs.%d" % j: post[i, i + j]})
            if scale: t["post_enc_scales.%d" % j] = factor[i, i + j]
            if skip: t["W_skips.%d" % j] = S[i, i + j]
        if single: t.update({"post_enc": post[0, 0], "W_skip": S[0, 0]})
        if io: t.update(in_norm=n_in[i:i + 1], out_norm=n_out[i:i + 1])
        safetensors(base + "/" + box % (i + 9) + "/sae.safetensors", t)
        dump(base + "/" + box % (i + 9) + "/cfg.json", {"activation": single or "topk", "num_latents": M, "k": k, "skip_connection": skip, "transcode": True, "n_targets": 0 if single else L - i,
             "n_sources": i, "normalize_io": io, "divide_cross_layer": divide, "post_encoder_scale": scale, "per_source_tied": tied, "coalesce_topk": "none", "d_in": D})
    x = rows((1 if single else L) * D)
    X = x.astype(float).reshape(N, -1, D)
    if io: X = X * (np.sqrt(D) / n_in[:, None].astype(float))
    p = relu(np.einsum("nld,lmd->nlm", X, We[:count].astype(float)) + be[:count])
    if single:
        f = p * largest_of_all(p, k * N)
        f = f * np.stack([largest(f[:, 0], 4 * k)], 1)
    else: f = p * np.stack([largest(p[:, i], k) for i in range(L)], 1)
    y = np.zeros((N, count, D))
    for t in range(count):
        early = np.zeros((N, D))
        for i in range(t + 1):
            v = np.where(f[:, i] > 0, f[:, i] + post[i, t], 0) * (factor[i, t] if scale else 1)
            out = v @ np.asarray(Wd[i][i] if tied else Wd[i][t], np.float64) + b[i, t]
            if skip: out = out + X[:, i] @ S[i, t].T.astype(float)
            if i < t: early += out
            else: y[:, t] = out + early / (max(1, t) if divide else 1)
    if io: y = y * n_out[:, None].astype(float) / np.sqrt(D)
    end(box % 9 if single else ".", x, f.reshape(N, -1), y.reshape(N, -1), kind="transcoder" if single else "clt", batch=bool(single))


# ---- what must be refused --------------------------------------------------------------------------------------------------------

def copy(root, source, name):
    """The files of another case as the start of one to be refused."""
    target = os.path.join(root, "refuse", name)
    shutil.copytree(os.path.join(root, source), target)
    for extra in ("x.npy", "f.npy", "x_hat.npy", "about.json"): os.remove(os.path.join(target, extra))
    state["folder"] = target
    return target

def edit(path, **changes):
    with open(path) as f: value = json.load(f)
    for key, v in changes.items():
        if v is None: value.pop(key)
        else: value[key] = v
    dump(path, value)

def refusals():
    base = copy(ONE, "qwen_config", "qwen_without_k"); os.remove(base + "/config.json"); refuse("layer3.sae.pt", "k is nowhere")
    base = copy(ONE, "qwen_config", "qwen_other_width"); edit(base + "/config.json", d_sae=M + 1); refuse("layer3.sae.pt", "d_sae is another")
    base = copy(ONE, "tracer_topk", "tracer_topk_without_k"); dump(base + "/config.yaml", "model_kind: transcoder_set\nactivation: topk\n"); refuse("layer_1.safetensors", "k is nowhere")
    base = copy(ONE, "tracer_relu", "tracer_gelu"); dump(base + "/config.yaml", "model_kind: transcoder_set\nactivation: gelu\n"); refuse("layer_1.safetensors", "gelu")
    for name, changes in (("lorsa", dict(sae_type="lorsa")), ("molt", dict(sae_type="molt")), ("act", dict(act_fn="gelu")), ("width", dict(expansion_factor=5)), ("batch_wise", dict(norm_activation="batch-wise")),
                          ("hook", dict(norm_activation="dataset-wise", hook_point_in="elsewhere")), ("threshold", dict(act_fn="jumprelu")), ("factor", dict(expansion_factor="4"))):
        base = copy(ONE, "scopium_relu", "scopium_" + name); edit(base + "/config.json", **changes); refuse(".", str(changes))
    base = copy(ONE, "crosscoder_decoupled", "crosscoder_thresholds"); refuse("model.pt", "a threshold for one layer alone")
    t = {"encoder.weight": draw(2, D, M), "encoder.bias": draw(M), "decoder.bias": draw(2, D), "decoder.weight": draw(2, M, D), "k": np.int64(9), "threshold": draw(3), "code_normalization_id": np.int64(5)}
    pt(base + "/model.pt", t)
    base = copy(ONE, "crosscoder_decoupled", "crosscoder_id"); pt(base + "/model.pt", dict(t, code_normalization_id=np.int64(9))); refuse("model.pt", "code_normalization_id 9")
    base = copy(ONE, "matching_pursuit", "lens_tanh_relu")
    safetensors(base + "/sae_weights.safetensors", {"W_enc": draw(D, M), "b_enc": draw(M), "W_dec": draw(M, D), "b_dec": draw(D)})
    dump(base + "/cfg.json", {"d_in": D, "d_sae": M, "dtype": "float32", "activation_fn_str": "tanh-relu", "hook_name": "blocks.3.hook_resid_pre"}); refuse(".", "tanh-relu")
    base = copy(MANY, "tracer_clt_relu", "decoder_missing"); os.remove(base + "/W_dec_1.safetensors"); refuse(".", "W_dec_1")
    base = copy(MANY, "tracer_clt_relu", "encoder_missing"); os.remove(base + "/W_enc_1.safetensors"); refuse(".", "W_enc_1")
    base = copy(MANY, "tracer_clt_relu", "targets"); shutil.copy(base + "/W_dec_0.safetensors", base + "/x"); safetensors(base + "/W_dec_2.safetensors", {"W_dec_2": draw(M, 3, D)}); os.remove(base + "/x"); refuse(".", "must be")
    base = copy(MANY, "tracer_set", "set_gap"); os.rename(base + "/layer_1.safetensors", base + "/layer_5.safetensors"); refuse(".", "layer_1")
    base = copy(MANY, "gemma_clt", "gemma_missing"); os.remove(base + "/clt/params_layer_2.safetensors"); refuse("clt", "params_layer_2")
    base = copy(MANY, "gemma_clt", "gemma_affine"); edit(base + "/clt/config.json", affine_connection=True); refuse("clt", "affine")
    base = copy(MANY, "forge_cross", "forge_layers"); edit(base + "/clt_cfg.json", n_layers=4); refuse(".", "must be")
    base = copy(MANY, "forge_cross", "forge_weights"); os.rename(base + "/clt_weights.safetensors", base + "/rank0_weights.safetensors"); refuse(".", "clt_weights")
    base = copy(MANY, "scopium_clt_relu", "scopium_hooks"); edit(base + "/config.json", norm_activation="dataset-wise", hook_points_out=["a", "b", "c"]); refuse(".", "dataset_average_activation_norm")
    base = copy(MANY, "scopium_clt_relu", "scopium_token_wise"); edit(base + "/config.json", norm_activation="token-wise"); refuse(".", "token-wise")
    base = copy(MANY, "training_plain", "training_missing"); shutil.rmtree(base + "/layers.10.mlp"); refuse(".", "missing")
    base = copy(MANY, "training_plain", "training_coalesce"); edit(base + "/layers.9.mlp/cfg.json", coalesce_topk="concat"); refuse(".", "coalesce_topk")
    base = copy(MANY, "training_plain", "training_k"); edit(base + "/layers.10.mlp/cfg.json", k=5); refuse(".", "differs")


def main():
    for root in (ONE, MANY):
        if os.path.isdir(root): shutil.rmtree(root)
    qwen("qwen_config", 7, qwen_config)
    qwen("qwen_name", 5, None, "SAE-Res-Qwen3-1.7B-Base-W1K-L0_5/", "layer0.sae.pt")
    qwen("qwen_given", 6, None); edit(ONE + "/qwen_given/about.json", k=6)
    goodfire(); attention_out(); gemma_embedding()
    llama_scope("llama_scope_gate", True, 5.0, 5.0); llama_scope("llama_scope_plain", False, 5.0, 5.0); llama_scope("llama_scope_two", True, 5.0, 3.0)
    scopium("r1_gate", "jumprelu", old=True, norm="dataset-wise"); scopium("r1_glu", "jumprelu", old=True, include=False, glu=True, norm="token-wise")
    scopium("scopium_relu", "relu"); scopium("scopium_no_bias", "jumprelu", bias=False, half=True)
    scopium("scopium_topk", "topk", norm="dataset-wise", two=True, box="sae_weights.pt"); scopium("scopium_batch", "batchtopk", box="checkpoints/final.safetensors")
    scopium("scopium_glu", "jumprelu", glu=True, norm="dataset-wise"); scopium("scopium_token", "topk", norm="token-wise", include=False)
    tracer("tracer_relu", half=True); tracer("tracer_topk", yaml="activation: topk\nk: 8\n", k=8); tracer("tracer_given", yaml="activation: \"topk\"\n", k=8)
    edit(ONE + "/tracer_given/about.json", k=8)
    tracer("tracer_threshold", threshold=0.1, skip=True); tracer("tracer_below", threshold=-0.1); tracer("tracer_square", m=D, skip=True)
    pursuit("matching_pursuit", 0.01, None, True, True); pursuit("matching_pursuit_repeats", 0.2, 10, False, False)
    finetuning("crosscoder_relu", 5); finetuning("crosscoder_old", 0, normaliser=True, layers=3, prefix="_orig_mod.")
    for code, name in ((1, "sum"), (2, "norm"), (3, "mixed"), (4, "none")): finetuning("crosscoder_" + name, code, batch=True, normaliser=code == 2)
    finetuning("crosscoder_decoupled", 5, batch=True, layers=3)
    finetuning("crosscoder_hub", 3, batch=True, hub=True, config={"code_normalization_alpha_sae": 0.5, "code_normalization_alpha_cc": 0.3})
    ckkissane()
    for act in ("relu", "jumprelu", "topk", "batchtopk"): scopium_crosscoder("scopium_crosscoder_" + act, act, norm="dataset-wise" if act in ("jumprelu", "batchtopk") else "inference")
    scopium_crosscoder("scopium_crosscoder_token", "topk", norm="token-wise", include=False)
    tracer_clt("tracer_clt_relu", half=True); tracer_clt("tracer_clt_threshold", threshold=True); tracer_clt("tracer_clt_below", threshold=True, negative=True)
    tracer_set("tracer_set"); tracer_set("tracer_set_topk", k=5)
    gemma_clt("gemma_clt", "clt"); gemma_clt("gemma_clt_affine", "clt", affine=True); gemma_clt("gemma_crosscoder", "crosscoder", half=True)
    forge("forge_cross", True); forge("forge_alone", False)
    for act in ("relu", "jumprelu", "topk", "layertopk", "batchtopk", "batchlayertopk"):
        scopium_clt("scopium_clt_" + act, act, norm="dataset-wise" if act in ("jumprelu", "topk") else "inference", include=act != "layertopk", box="sae_weights.pt" if act == "topk" else "sae_weights.safetensors", bias=act != "batchtopk")
    training("training_plain"); training("training_divide", divide=True, skip=True); training("training_tied", tied=True); training("training_all", skip=True, io=True, scale=True)
    training("training_batch", skip=True, single="batchtopk")
    refusals()

main()
