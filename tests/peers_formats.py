#!/usr/bin/env python3
"""Proves: what SAELens and sparsify write opens here with their numbers, and what `sae convert` writes opens
there, and in dictionary_learning and SAEBench, with ours.
Oracle: the programs themselves; each is skipped with a line where it is not installed.
Tolerance: 2e-5 of max(1, largest entry of the row), 1e-4 under layer_norm, whose division magnifies float32.

usage: peers_formats.py SAE [FIXTURES...]      `make test-peers PYTHON=python3`
"""
import glob, importlib, importlib.machinery, importlib.util, itertools, json, os, random, shutil, subprocess, sys, tempfile, types, warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
try:
    import numpy as np, torch
except ImportError as e:
    print("SKIPPED: %s" % e)
    print("0 passed, 0 failed")
    sys.exit(0)

SAE = os.path.abspath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = sys.argv[2:] or [os.path.join(HERE, "formats"), os.path.join(HERE, "fixtures")]
TMP = tempfile.mkdtemp()
passed, failed, worst = 0, 0, {}
torch.manual_seed(0); torch.set_num_threads(1); random.seed(0)

def peer(name):
    for other in ("nnsight", "zstandard"):  # dictionary_learning imports them for what is not tested here
        if other in sys.modules or importlib.util.find_spec(other): continue
        sys.modules[other] = types.ModuleType(other)
        sys.modules[other].__spec__ = importlib.machinery.ModuleSpec(other, None)
        sys.modules[other].LanguageModel = sys.modules[other].CONFIG = object
    try:
        return importlib.import_module(name)
    except Exception as e:
        print("SKIPPED: %s: %s" % (name, e))

def check(ok, what):
    global passed, failed
    if ok: passed += 1
    else:
        failed += 1
        print("FAILED: %s" % what)

def run(*args):
    r = subprocess.run([SAE, *map(str, args)], capture_output=True, text=True)
    return r.returncode, r.stderr.strip()

def ours(path, x, *options):
    """f and x_hat of the tool."""
    np.save(TMP + "/x.npy", x)
    for verb, extra in (("encode", ["--dense"]), ("reconstruct", [])):
        rc, err = run(verb, path, "--data", TMP + "/x.npy", "--out", TMP + "/%s.npy" % verb, *extra, *options)
        if rc: return None, err
    return np.load(TMP + "/encode.npy"), np.load(TMP + "/reconstruct.npy")

def near(what, got, want, tolerance):
    off = 0.0
    for g, w in zip(got, want):
        if np.isfinite(w).all(): off = max(off, float(np.abs(g - w).max() / max(1, np.abs(w).max())))
    group = what.split()[0]
    worst[group] = max(worst.get(group, 0), off)
    check(got.shape == want.shape and off <= tolerance, "%s: off by %.1e" % (what, off))

def rows(d):
    x = torch.randn(32, d) * 2 + 0.3
    x[7] *= 60; x[13] *= 1e-4; x[31] *= -8
    return x

def randomise(module):
    for name, p in module.named_parameters():
        with torch.no_grad():
            if name == "threshold": p.copy_(torch.rand_like(p) * 0.8)
            elif p.ndim == 1: p.copy_(torch.randn_like(p) * 0.2)
            else: p.copy_(torch.randn_like(p) / p.shape[0] ** 0.5 * (0.5 + torch.rand(p.shape[0], 1)))

def dense(f): return f.to_dense() if f.is_sparse else f

def opens(what, folder, x, f, x_hat, tolerance):
    got_f, got_x = ours(folder, x.numpy())
    if got_f is None: return check(False, "%s: %s" % (what, got_x))
    near(what + " f", got_f, f.numpy(), tolerance)
    near(what + " x_hat", got_x, x_hat.numpy(), tolerance)

# ---- what they write ----

def read_saelens(lens):
    from sae_lens.registry import get_sae_class
    archs = ["standard", "topk", "abstopk", "gated", "jumprelu", "transcoder", "skip_transcoder",
             "jumprelu_transcoder", "jumprelu_skip_transcoder"]
    norms = ["none", "layer_norm", "constant_norm_rescale", "expected_average_only_in"]
    for arch, norm, subtract, dtype in itertools.product(archs, norms, (True, False), ("float32", "bfloat16", "float64")):
        if "transcoder" in arch and subtract: continue
        d, m = random.choice([5, 16, 33]), random.choice([16, 64, 97])
        cfg = dict(d_in=d, d_sae=m, apply_b_dec_to_input=subtract, normalize_activations=norm)
        if "topk" in arch: cfg.update(k=random.choice([1, 8, m]), rescale_acts_by_decoder_norm=random.random() < 0.5)
        if "transcoder" in arch: cfg["d_out"] = random.choice([d, 7, 21])
        sae_class, cfg_class = get_sae_class(arch)
        sae = sae_class(cfg_class(**cfg))
        randomise(sae)
        folder = TMP + "/saelens"
        shutil.rmtree(folder, ignore_errors=True)
        sae.to(dtype=getattr(torch, dtype)).save_model(folder)
        back, x = lens.SAE.load_from_disk(folder, dtype="float32"), rows(d)
        with torch.no_grad(): f, x_hat = dense(back.encode(x)), back(x)
        opens("sae_lens %s %s %s %s" % (arch, norm, subtract, dtype), folder, x, f, x_hat,
              1e-4 if norm == "layer_norm" else 2e-5)

def coder_outputs(coder, x):
    with torch.no_grad():
        top = coder.encode(x)
        f = torch.zeros(len(x), coder.num_latents).scatter(1, top.top_indices, top.top_acts)
        return f, coder(x).sae_out

def read_sparsify(sparsify):
    for act, skip, transcode, dtype in itertools.product(("topk", "groupmax"), (0, 1), (0, 1), ("float32", "bfloat16")):
        d, k = random.choice([5, 16, 24]), random.choice([1, 4, 8])
        cfg = sparsify.SparseCoderConfig(activation=act, num_latents=k * random.choice([3, d]), k=k,
                                         skip_connection=bool(skip), transcode=bool(transcode))
        coder = sparsify.SparseCoder(d, cfg, dtype=getattr(torch, dtype))
        randomise(coder)
        folder = TMP + "/layers.3"
        shutil.rmtree(folder, ignore_errors=True)
        coder.save_to_disk(folder)
        x = rows(d)
        f, x_hat = coder_outputs(sparsify.SparseCoder.load_from_disk(folder).float(), x)
        opens("sparsify %s skip=%d transcode=%d %s" % (act, skip, transcode, dtype), folder, x, f, x_hat, 2e-5)

# ---- what we write ----

def bench_loader(folder):
    """SAEBench's loader for the folder, reading it from disk."""
    trainer = json.load(open(folder + "/config.json"))["trainer"]
    modules = {"TopKTrainer": ("topk_sae", "topk"), "BatchTopKTrainer": ("batch_topk_sae", "batch_topk"),
               "MatryoshkaBatchTopKTrainer": ("batch_topk_sae", "matryoshka_batch_topk"),
               "StandardTrainer": ("relu_sae", "relu"), "JumpReluTrainer": ("jumprelu_sae", "jump_relu"),
               "GatedSAETrainer": ("gated_sae", "gated")}
    if trainer["trainer_class"] not in modules: return None
    file, name = modules[trainer["trainer_class"]]
    module = importlib.import_module("sae_bench.custom_saes." + file)
    module.hf_hub_download = lambda repo_id, filename, **_: os.path.join(folder, os.path.basename(filename))
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    try: return getattr(module, "load_dictionary_learning_%s_sae" % name)(
        "x", "ae.pt", trainer["lm_name"], torch.device("cpu"), torch.float32)
    finally: sys.stdout = out

def their_outputs(to, folder, x, peers):
    with torch.no_grad():
        if to == "sparsify": return coder_outputs(peers[to].SparseCoder.load_from_disk(folder), x)
        if to == "dictionary_learning":
            dictionary, _ = peers[to].load_dictionary(folder, "cpu")
            f = dictionary.encode(x)
            return f, dictionary.decode(f)
        sae = peers[to].SAE.load_from_disk(folder)
        if sae.cfg.reshape_activations == "hook_z": x = x.reshape(len(x), 4, -1)
        return dense(sae.encode(x)), sae(x).reshape(len(x), -1)

def write(peers, bench):
    for path in sorted(p for root in FIXTURES for p in glob.glob(root + "/**/about.json", recursive=True)):
        about, folder = json.load(open(path)), os.path.dirname(path)
        if "refuse" in path or not os.path.exists(folder + "/x.npy"): continue
        x = np.nan_to_num(np.load(folder + "/x.npy"), nan=0, posinf=0, neginf=0)[:32]
        x[np.abs(x).max(axis=1) == 0] = 1  # SAELens divides rows of zeros by 0 under constant_norm_rescale
        for to in ("sae_lens", "dictionary_learning", "sparsify"):
            if not peers[to]: continue
            out = TMP + "/converted"
            shutil.rmtree(out, ignore_errors=True)
            rc, err = run("convert", os.path.join(folder, about["open"]), out, "--to", to, "--lm-name", "model", "--layer", 3)
            if rc:  # refused: a line, and nothing written
                check(err and not os.path.exists(out), "%s to %s: %s" % (folder, to, err))
                continue
            f, x_hat = ours(out, x)
            want_f, want_x = their_outputs(to, out, torch.tensor(x), peers)
            what = "to_%s %s" % (to, folder)
            near(what + " f", f, want_f.numpy(), 1e-4 if "norm_layer" in folder or "openai" in folder else 1e-5)
            near(what + " x_hat", x_hat, want_x.numpy(), 1e-4 if "norm_layer" in folder or "openai" in folder else 1e-5)
            if to != "dictionary_learning" or not bench or f.shape[1] < x.shape[1]: continue  # it wants m >= d
            try: sae = bench_loader(out)
            except ValueError as e:  # top-k choices depend on the decoder's norms: those cannot be changed
                check("normalized" in str(e), "%s in SAEBench: %s" % (folder, e))
                continue
            if sae is None: continue
            try: near("to_SAEBench " + what, f, sae.encode(torch.tensor(x)).detach().numpy(), 1e-5)
            except ValueError as e: check("Threshold is not set" in str(e), "%s in SAEBench: %s" % (folder, e))

peers = {"sae_lens": peer("sae_lens"), "sparsify": peer("sparsify"), "dictionary_learning": peer("dictionary_learning.utils")}
bench = peers["sae_lens"] and peer("sae_bench.custom_saes.topk_sae")
if peers["sae_lens"]: read_saelens(peers["sae_lens"])
if peers["sparsify"]: read_sparsify(peers["sparsify"])
write(peers, bench)
shutil.rmtree(TMP)
for group, off in sorted(worst.items()): print("%-24s largest difference %.1e" % (group, off))
print("%d passed, %d failed" % (passed, failed))
sys.exit(failed > 0)
