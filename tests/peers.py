"""Opens, through examples/sae.py, what sae.h writes with the real programs, and what they write with sae.h, and compares both
programs' latents and reconstructions on the same rows. `make test-peers` runs it.

Needs build/libsae.so, build/sae, numpy. Each of safetensors, dictionary_learning, sae_lens, sparsify
(PyPI: eai-sparsify), sae_bench (PyPI: sae-bench) is skipped, loudly, where it or torch is not
installed. Oracle: these programs. Tolerance: 1e-5 of the largest value; bits where bytes are read.
usage: peers.py [PACKAGE...]"""
import contextlib
import importlib
import importlib.machinery
import io
import json
import os
import subprocess
import sys
import tempfile
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "examples"))
sys.dont_write_bytecode = True
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its decoder without a GPU
import numpy as np  # noqa: E402
import sae  # noqa: E402

D, M, K = 24, 56, 5
TOOL = os.environ.get("SAE_TOOL", os.path.join(ROOT, "build", "sae"))
TRAINERS = {"standard": {}, "standard_april": {}, "gated": {}, "gated_anneal": {},
            "p_anneal": {"p_end": 0.5}, "top_k": {"k": K}, "batch_top_k": {"k": K},
            "matryoshka_batch_top_k": {"k": K, "group_fractions": [0.25, 0.75]},
            "jumprelu": {"target_l0": K}}
passed = failed = skipped = 0


def check(condition, what):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    print(("ok      " if condition else "FAILED  ") + what)


def skip(what):
    global skipped
    skipped += 1
    print("SKIPPED " + what)


def near(pairs, what, tolerance=1e-5):
    """pairs of ours and theirs; one line."""
    worst, good = 0.0, True
    for ours, theirs in pairs:
        theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else np.asarray(theirs)
        good &= ours.shape == theirs.shape and bool(theirs.any())
        if good:
            scale = max(1e-3, float(np.abs(theirs).max()))
            worst = max(worst, float(np.abs(ours - theirs).max()) / scale)
    check(good and worst <= tolerance, f"{what}: largest difference {worst:.1e}")


def rows(n, seed=0):
    features = np.random.default_rng(7).standard_normal((2 * D, D)).astype(np.float32)
    rng = np.random.default_rng(seed)
    active = (rng.random((n, 2 * D)) < 0.08) * rng.random((n, 2 * D))
    return active.astype(np.float32) @ features + np.float32(0.3)


def quietly(call, *arguments, **named):
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*arguments, **named)


def write_ours(folder):
    """Trains one of each; {trainer: its folder}. The thresholds get time to be set."""
    for name, extra in TRAINERS.items():
        extra = dict(extra, **({"threshold_start_step": 5} if "top_k" in name else {}))
        sae.train(rows(2048), name, dict_size=M, steps=40, batch_size=256, lr=2e-3, warmup_steps=2,
                  layer=3, lm_name="EleutherAI/pythia-70m", submodule_name="resid_post_layer_3",
                  save_dir=os.path.join(folder, name), **extra)
    return {name: os.path.join(folder, name, "trainer_0") for name in TRAINERS}


class _Absent(types.ModuleType):
    """Stands for a package that dictionary_learning imports and loading does not use."""
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder:
    names = ("nnsight", "datasets", "transformers", "wandb", "umap", "einops", "zstandard",
             "circuitsvis", "pandas", "tqdm", "plotly", "matplotlib")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


def convert(source, folder, program):
    """`sae convert`; False, with a line, where it fails."""
    done = subprocess.run([TOOL, "convert", source, folder, "--to", program], capture_output=True,
                          text=True)
    if done.returncode:
        check(False, f"convert {source} to {program}: {done.stderr.strip()}")
    return done.returncode == 0


def open_theirs(folder, x, f, x_hat, what):
    """A folder of theirs, which sae.h must open with these numbers."""
    try:
        ours = sae.Dictionary.load(folder)
    except sae.Error as error:
        return check(False, f"{what}: {error}")
    near([(ours.encode(x), f), (ours(x), x_hat)], what)


# ---- the programs ---------------------------------------------------------------------------------

def test_safetensors(ours, folder):
    from safetensors.numpy import load_file, save_file
    for name, path in ours.items():
        theirs = load_file(os.path.join(path, "ae.safetensors"))
        mine = sae.Dictionary.load(path, raw=True)
        w = theirs["W_dec"] if "W_dec" in theirs else theirs["decoder.weight"].T
        check(np.array_equal(mine.W_dec, w), f"safetensors opens {name}")
        again = os.path.join(folder, name + ".safetensors")
        save_file(theirs, again)
        check(np.array_equal(sae.Dictionary.load(again, dict_class=mine.dict_class, raw=True).W_dec, w),
              f"sae.h opens what save_file wrote of {name}")


def test_dictionary_learning(ours, folder):
    import torch
    finder = _Finder()
    sys.meta_path.append(finder)  # asked last: only for what is not installed
    try:
        from dictionary_learning.utils import load_dictionary
    finally:
        sys.meta_path.remove(finder)
    x = torch.from_numpy(rows(200, 1))
    for name, path in ours.items():
        reference, _ = quietly(load_dictionary, path, "cpu")
        with torch.no_grad():
            f = reference.encode(x)
            x_hat = reference.decode(f)
        mine = sae.Dictionary.load(path)
        near([(mine.encode(x.numpy()), f), (mine(x.numpy()), x_hat)],
             f"dictionary_learning opens {name}")
    for name, path in ours.items():  # the same class filled with other numbers, saved by torch
        reference, config = quietly(load_dictionary, path, "cpu")
        state = reference.state_dict()
        torch.manual_seed(1)
        for key, value in state.items():
            if value.is_floating_point() and value.ndim:
                state[key] = value + 0.05 * torch.randn_like(value)
        target = os.path.join(folder, "theirs_" + name)
        os.makedirs(target)
        torch.save({key: value.cpu() for key, value in state.items()}, os.path.join(target, "ae.pt"))
        json.dump(config, open(os.path.join(target, "config.json"), "w"))
        reference, _ = quietly(load_dictionary, target, "cpu")
        with torch.no_grad():
            f = reference.encode(x)
            open_theirs(target, x.numpy(), f, reference.decode(f),
                        f"sae.h opens {name} of dictionary_learning")


def from_disk(repo_id="", filename="", **_):
    return os.path.join(repo_id, filename)  # in the place of hf_hub_download


def test_sae_lens(ours, folder):
    import torch
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes.sae import SAE
    x = torch.from_numpy(rows(200, 2))
    loaders.hf_hub_download = from_disk
    for name, path in ours.items():  # as it lies, by SAELens' own converter
        if name == "standard_april":
            continue  # load_dictionary brings its decoder to norm 1, this converter does not
        cfg, state, _ = loaders.dictionary_learning_sae_huggingface_loader_1(
            os.path.dirname(path), os.path.basename(path))
        cfg = loaders.handle_config_defaulting(cfg)
        cfg = SAE.get_sae_config_class_for_architecture(cfg["architecture"]).from_dict(cfg)
        theirs = SAE.get_sae_class_for_architecture(cfg.architecture())(cfg)
        theirs.process_state_dict_for_loading(state)
        theirs.load_state_dict(state)
        mine = sae.Dictionary.load(path)
        with torch.no_grad():
            f = theirs.encode(x)
            near([(mine.encode(x.numpy()), f), (mine(x.numpy()), theirs.decode(f))],
                 f"sae_lens converts {name}")
    for name, path in ours.items():
        target = os.path.join(folder, "lens_" + name)
        if not convert(path, target, "sae_lens"):
            continue
        theirs = SAE.load_from_disk(target, dtype="float32")
        mine = sae.Dictionary.load(path)
        with torch.no_grad():
            f = theirs.encode(x)
            near([(mine.encode(x.numpy()), f), (mine(x.numpy()), theirs.decode(f))],
                 f"sae_lens opens {name}, as sae convert wrote it")
    for kind, extra in {"StandardSAE": {}, "TopKSAE": {"k": K}, "JumpReLUSAE": {}, "GatedSAE": {}}.items():
        cls = getattr(sae_lens, kind)
        theirs = cls(getattr(sae_lens, kind + "Config")(d_in=D, d_sae=M, **extra))
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            target = os.path.join(folder, kind)
            theirs.save_model(target)
            theirs = SAE.load_from_disk(target, dtype="float32")
            f = theirs.encode(x)
            open_theirs(target, x.numpy(), f, theirs.decode(f), f"sae.h opens a {kind} of sae_lens")


def test_sparsify(ours, folder):
    import torch
    from sparsify import SparseCoder, SparseCoderConfig
    x = torch.from_numpy(rows(200, 3))

    def run(coder):
        with torch.no_grad():
            top, index, _ = coder.encode(x)
            return torch.zeros(len(x), coder.num_latents).scatter_(1, index, top), coder.decode(top, index)

    target = os.path.join(folder, "sparsify")
    if convert(ours["top_k"], target, "sparsify"):
        mine = sae.Dictionary.load(ours["top_k"])
        f, x_hat = run(SparseCoder.load_from_disk(target))
        near([(mine.encode(x.numpy()), f), (mine(x.numpy()), x_hat)],
             "sparsify opens top_k, as sae convert wrote it")
    torch.manual_seed(3)
    theirs = SparseCoder(D, SparseCoderConfig(num_latents=M, k=K))
    with torch.no_grad():
        theirs.b_dec.add_(0.1)
    target = os.path.join(folder, "sparse_coder")
    theirs.save_to_disk(target)
    f, x_hat = run(SparseCoder.load_from_disk(target))
    open_theirs(target, x.numpy(), f, x_hat, "sae.h opens a SparseCoder of sparsify")


def test_sae_bench(ours, folder):
    import torch
    x = torch.from_numpy(rows(200, 4))
    for name, module, function in (
            ("standard", "relu_sae", "load_dictionary_learning_relu_sae"),
            ("p_anneal", "relu_sae", "load_dictionary_learning_relu_sae"),
            ("gated", "gated_sae", "load_dictionary_learning_gated_sae"),
            ("jumprelu", "jumprelu_sae", "load_dictionary_learning_jump_relu_sae"),
            ("top_k", "topk_sae", "load_dictionary_learning_topk_sae"),
            ("batch_top_k", "batch_topk_sae", "load_dictionary_learning_batch_topk_sae"),
            ("matryoshka_batch_top_k", "batch_topk_sae",
             "load_dictionary_learning_matryoshka_batch_topk_sae")):
        module = importlib.import_module("sae_bench.custom_saes." + module)
        module.hf_hub_download = from_disk
        try:
            theirs = quietly(getattr(module, function), repo_id=ours[name], filename="ae.pt", layer=3,
                             model_name="pythia-70m", device=torch.device("cpu"), dtype=torch.float32)
        except Exception as error:
            check(False, f"sae_bench opens {name}: {error!r}")
            continue
        mine = sae.Dictionary.load(ours[name])
        with torch.no_grad():
            f = theirs.encode(x)
            near([(mine.encode(x.numpy()), f), (mine(x.numpy()), theirs.decode(f))],
                 f"sae_bench opens {name}")


def main():
    packages = {"safetensors": test_safetensors, "dictionary_learning": test_dictionary_learning,
                "sae_lens": test_sae_lens, "sparsify": test_sparsify, "sae_bench": test_sae_bench}
    with tempfile.TemporaryDirectory() as folder:
        ours = write_ours(os.path.join(folder, "ours"))
        for name, test in packages.items():
            if len(sys.argv) > 1 and name not in sys.argv[1:]:
                continue
            place = os.path.join(folder, name)
            os.makedirs(place)
            try:
                test(ours, place)
            except ImportError as error:
                skip(f"{name}: {error}")
            except Exception as error:
                import traceback
                traceback.print_exc()
                check(False, f"{name} broke off: {error!r}")
    print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
