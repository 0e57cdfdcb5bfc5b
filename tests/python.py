"""Proves: examples/sae.py's structures, enums and functions are those of sae.h; arrays and tensors go in
without a copy; training, encoding, steering, evaluating, saving, loading agree with each other and
with NumPy; failures raise with the library's sentence; callbacks and exceptions in them arrive.
Oracle: the C compiler for sizes, offsets and values; NumPy formulas below. Tolerance: layouts none;
numbers 1e-5 of the largest. torch's part is skipped, loudly, where torch is not installed."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "examples"))
sys.dont_write_bytecode = True
import numpy as np  # noqa: E402
import sae  # noqa: E402

passed = failed = 0


def check(condition, what):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print("FAILED:", what)


def near(got, want, what, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    worst = np.abs(got - want).max() if got.shape == want.shape else np.inf
    check(worst <= tolerance * max(1e-3, np.abs(want).max()), f"{what}: off by {worst}")


def raises(kind, text, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        check(text in str(error), f"{call.__name__} says {error}, not {text}")
        return
    except Exception as error:
        check(False, f"{call.__name__} raises {error!r}, not {kind.__name__}")
        return
    check(False, f"{call.__name__} does not fail, it should with {text}")


def test_layout(folder):
    """A C program prints what the compiler makes of every structure and value that sae.py mirrors."""
    lines, mine = [], []
    for struct in sae.STRUCTS:
        name = struct.__name__
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        mine.append(f"{name} {sae.ctypes.sizeof(struct)}")
        for field, _ in struct._fields_:
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), '
                         f'sizeof((({name} *)0)->{field}));')
            mine.append(f"{name}.{field} {getattr(struct, field).offset} {getattr(struct, field).size}")
    values = {name: value for value, name in sae.RESULTS.items()}
    values.update({f"SAE_RULE_{name.upper()}": value for name, value in sae.RULES.items()})
    values.update({f"SAE_STEER_{name.upper()}": value for name, value in sae.STEER_MODES.items()})
    values.update(SAE_MAX_GROUPS=sae.MAX_GROUPS, SAE_F32=sae.DTYPES["float32"],
                  SAE_F16=sae.DTYPES["float16"], SAE_BF16=sae.DTYPES["bfloat16"],
                  SAE_LOG_WARNING=1, SAE_CLT_CROSS_LAYER=sae.CLT_KINDS["clt"],
                  SAE_CLT_CROSSCODER=sae.CLT_KINDS["crosscoder"],
                  SAE_CLT_SET=sae.CLT_KINDS["transcoder_set"])
    for name, value in values.items():
        lines.append(f'printf("{name} %d\\n", (int){name});')
        mine.append(f"{name} {value}")
    for name, value in sae.ARCHS.items():
        lines.append(f'printf("%s %d\\n", sae_arch_name((sae_arch){value}), {value});')
        mine.append(f"{name} {value}")
    source = os.path.join(folder, "layout.c")
    with open(source, "w") as f:
        f.write('#define SAE_IMPLEMENTATION\n#include "sae.h"\n#include <stdio.h>\nint main(void) {\n'
                + "\n".join(lines) + "\nreturn 0;\n}\n")
    cc = os.environ.get("CC", "cc").split()
    subprocess.run(cc + ["-O0", "-w", "-I" + ROOT, source, "-o", source[:-2], "-lm"], check=True)
    theirs = subprocess.run([source[:-2]], check=True, capture_output=True, text=True).stdout.split("\n")
    check(len(mine) == len(theirs) - 1, "another number of lines")
    for a, b in zip(mine, theirs):
        check(a == b, f"sae.py has {a}, the compiler {b}")
    # every field is mirrored: as many as the header declares
    header = open(os.path.join(ROOT, "sae.h")).read()
    header = re.sub(r"/\*.*?\*/", "", header[:header.index("#ifdef SAE_IMPLEMENTATION")], flags=re.S)
    for struct in sae.STRUCTS:
        body = re.search(r"struct %s \{(.*?)\n\}" % struct.__name__, header, re.S)
        if "SAE_X" in body.group(1):
            continue
        names = sum(len(re.findall(r",(?![^(]*\))", statement)) + 1
                    for statement in body.group(1).split(";") if statement.strip())
        check(names == len(struct._fields_), f"{struct.__name__} has {names} fields in sae.h, "
              f"{len(struct._fields_)} in sae.py")


def data(rows, dim, seed):
    rng = np.random.default_rng(seed)
    features = np.random.default_rng(0).standard_normal((2 * dim, dim)).astype(np.float32)
    active = rng.random((rows, 2 * dim)) < 0.05
    return (active * rng.random((rows, 2 * dim))).astype(np.float32) @ features


def test_train(folder):
    x = data(4096, 24, 1)
    seen, logged = [], []
    ae = sae.train(x, trainer="top_k", dict_size=48, k=4, steps=60, batch_size=256, lr=3e-3,
                   warmup_steps=5, layer=2, lm_name="toy", save_dir=os.path.join(folder, "out"),
                   log=lambda i, s: logged.append((i, s)), log_steps=20,
                   progress=lambda step, steps: seen.append((step, steps)))
    check(seen[-1] == (60, 60) and len(seen) == 60, f"progress came {len(seen)} times")
    check([s["step"] for _, s in logged][:2] == [0, 20], f"logged at {[s['step'] for _, s in logged]}")
    check(logged[0][1]["loss"] > logged[-1][1]["loss"] > 0, "the loss does not fall")
    check((ae.dict_class, ae.activation_dim, ae.dict_size, ae.k) == ("AutoEncoderTopK", 24, 48, 4),
          repr(ae))
    check(os.path.exists(os.path.join(folder, "out/trainer_0/ae.pt")), "no ae.pt")
    again = sae.Dictionary.load(os.path.join(folder, "out/trainer_0"))
    check(np.array_equal(again.encode(x), ae.encode(x)), "what was saved encodes otherwise")
    # the same rows from a file, from an iterator, in order: the same bits
    path = os.path.join(folder, "x.npy")
    np.save(path, x)
    same = [sae.train(source, trainer="top_k", dict_size=48, k=4, steps=10, batch_size=256,
                      sequential=True).W_dec.copy()
            for source in (x, path, [path], iter([x[:1000], x[1000:]]))]
    check(all(np.array_equal(same[0], other) for other in same[1:]), "the source changes the bits")
    two = sae.train(x, [{"trainer": "JumpReluTrainer", "target_l0": 5},
                        {"trainer": "batch_top_k", "k": 3}], dict_size=32, steps=5, batch_size=64)
    check([d.dict_class for d in two] == ["JumpReluAutoEncoder", "BatchTopKSAE"], repr(two))
    transcoder = sae.train(x, "standard", target=2 * x, dict_size=32, steps=5, batch_size=64)
    check(transcoder.dict_class == "AutoEncoder", "target")
    metrics = sae.evaluate(ae, x)
    check(metrics["frac_variance_explained"] > 0.3 and abs(metrics["l0"] - 4) < 0.5, str(metrics))
    check("loss_original" not in metrics, "a language model's loss without one")
    half = sae.evaluate(ae, x.astype(np.float16))
    near(half["l2_loss"], metrics["l2_loss"], "float16 rows", 1e-2)


def test_inference(folder):
    x = data(70, 24, 2)
    ae = sae.Dictionary.create("AutoEncoderTopK", 24, 100, k=6, seed=4)
    p = np.maximum(x.astype(np.float64) @ ae.W_enc.T.astype(np.float64), 0)  # biases are 0 at first
    cut = -np.sort(-p, axis=1)[:, 5:6]
    f = ae.encode(x)
    near(f, np.where(p >= cut, p, 0), "encode")
    near(ae.decode(f), f @ ae.W_dec, "decode")
    x_hat, features = ae.forward(x, output_features=True)
    check(np.array_equal(features, f) and np.array_equal(x_hat, ae(x)), "forward")
    check(np.array_equal(ae.encode(x.reshape(7, 10, 24)), f.reshape(7, 10, 100)), "leading shape")
    check(np.array_equal(ae.encode(x[3]), f[3]), "one row")
    for dictionary in (ae, sae.Dictionary.create("AutoEncoder", 24, 600)):
        dense = dictionary.encode(x)
        begin, latent, value = dictionary.encode_sparse(x)
        back = np.zeros_like(dense)
        back[np.repeat(np.arange(len(x)), np.diff(begin)), latent] = value
        check(np.array_equal(back, dense), "encode_sparse")
    near(ae.encode_subset(x, [7, 3]), p[:, [7, 3]], "encode_subset")
    y = x.copy()
    check(ae.steer(y, {7: 2.0}) is y, "steer gives another array")
    near(y, x + (2 - f[:, 7:8]) * ae.W_dec[7], "steer: set")
    y = x.copy()
    ae.steer(y, [(7, "ablate"), (3, "scale", 3), (5, "add", -1)])
    near(y, x - f[:, 7:8] * ae.W_dec[7] + 2 * f[:, 3:4] * ae.W_dec[3] - ae.W_dec[5], "steer: three")
    path = os.path.join(folder, "f.gguf")
    ae.steer_export(path, 7, 3, strength=2)
    written = open(path, "rb").read()
    check(b"direction.3" in written, "no direction.3")
    check(np.array_equal(np.frombuffer(written[-96:], "<f4"), 2 * ae.W_dec[7]), "control vector")
    for ending in ("pt", "safetensors"):
        path = os.path.join(folder, "ae." + ending)
        ae.save(path)
        check(np.array_equal(sae.Dictionary.load(path, dict_class="AutoEncoderTopK").encode(x), f), path)
    ae.export(os.path.join(folder, "lens"), "sae_lens")
    lens = sae.Dictionary.load(os.path.join(folder, "lens"))
    check(np.array_equal(lens.encode(x), f) and lens.origin["format"] == "sae_lens", repr(lens.origin))
    raises(ValueError, "to is", ae.export, folder, "pickle")
    view = ae.W_dec
    del ae, dictionary
    check(np.isfinite(view).all(), "the view outlives its dictionary")
    check(not view.flags.writeable, "the view can be written")


def test_layers(folder):
    """Fixtures, whose codes and reconstructions lie beside them."""
    there = os.path.join(ROOT, "tests", "layers", "tracer_clt_relu")
    x, f, x_hat = (np.load(os.path.join(there, name + ".npy")) for name in ("x", "f", "x_hat"))
    clt = sae.load(there)
    check(isinstance(clt, sae.Layers) and (clt.kind, clt.layers) == ("clt", 3), repr(clt))
    x, f, x_hat = x.reshape(len(x), -1), f.reshape(len(f), -1), x_hat.reshape(len(x_hat), -1)
    near(clt.encode(x), f, "codes of layers")
    near(clt.forward(x), x_hat, "reconstruction of layers")
    check(np.array_equal(clt(x[0]), clt.forward(x)[0]), "one row of layers")
    check(not clt.decoder_row(2, 0, 1).any() and clt.decoder_row(1, 0, 2).any(), "decoder_row")
    raises(IndexError, "no latent", clt.decoder_row, 0, clt.dict_size, 0)
    raises(ValueError, "last size must be 24", clt.encode, np.zeros((2, clt.activation_dim), np.float32))
    raises(sae.Error, "sae_clt_open", sae.Dictionary.load, there)
    raises(sae.Error, "no such file", sae.load, os.path.join(folder, "nothing"))


def test_errors(folder):
    ae = sae.Dictionary.create("AutoEncoderTopK", 8, 16, k=2)
    x = np.zeros((4, 8), np.float32)
    raises(TypeError, "float64", ae.encode, x.astype(np.float64))
    raises(TypeError, "C-contiguous", ae.encode, np.zeros((8, 8), np.float32)[:, ::2][:, :8].T)
    raises(TypeError, "list", ae.encode, [1.0])
    raises(ValueError, "[4, 7]", ae.encode, np.zeros((4, 7), np.float32))
    read_only = x.copy()
    read_only.flags.writeable = False
    raises(TypeError, "read-only", ae.steer, read_only, {1: 2.0})
    raises(ValueError, "mode is", ae.steer, x, [(1, "push", 2)])
    raises(sae.Error, "steerings[0].latent is 99", ae.steer, x, {99: 2.0})
    raises(sae.Error, "no such file", sae.Dictionary.load, os.path.join(folder, "nothing"))
    raises(ValueError, "dict_size is missing", sae.train, x, steps=1, k=1)
    raises(ValueError, "allowed is 'cpu'", sae.train, x, steps=1, dict_size=4, k=1, device="cuda:0")
    raises(ValueError, "trainer is an empty list", sae.train, x, [], steps=1, dict_size=4)
    raises(ValueError, "trainer is 7", sae.train, x, [7], steps=1, dict_size=4)
    pair = sae.train(x, ["standard", {"trainer": "top_k", "k": 2}], steps=1, dict_size=4, batch_size=4)
    check([ae.dict_size for ae in pair] == [4, 4], "a list of a name and a dict is a sweep")
    raises(ValueError, "trainer is top_q", sae.train, x, "top_q", steps=1, dict_size=4)
    raises(sae.Error, "no_such_key", sae.train, x, steps=1, dict_size=4, no_such_key=1)
    raises(sae.Error, "NaN", sae.train, x * np.nan, k=1, steps=1, dict_size=4, batch_size=4)
    try:
        sae.Dictionary.load(os.path.join(folder, "nothing"))
    except sae.Error as error:
        check(error.result == "SAE_ERR_NOT_FOUND", error.result)
    train = dict(k=1, steps=9, dict_size=16, batch_size=4)
    rows = data(64, 8, 3)
    steps = []

    def fail(step, _steps):
        steps.append(step)
        if step == 3:
            raise KeyboardInterrupt("stop here")
    raises(KeyboardInterrupt, "stop here", sae.train, rows, progress=fail, **train)
    check(steps == [1, 2, 3], f"training went on: {steps}")
    raises(sae.Error, "stop", sae.train, rows, progress=lambda *_: False, **train)
    raises(ZeroDivisionError, "", sae.train, rows, log=lambda *_: 1 / 0, **train)

    def bad():
        yield rows
        raise LookupError("the source broke")
    raises(LookupError, "the source broke", sae.train, bad(), **train)


def test_torch(folder):
    try:
        import torch
    except ImportError:
        print("SKIPPED: torch is not installed, tensors into sae.py are not tested")
        return
    x = torch.from_numpy(data(300, 24, 5))
    ae = sae.Dictionary.create("AutoEncoder", 24, 50, seed=1)
    f = ae.encode(x)
    check(isinstance(f, torch.Tensor) and f.dtype == torch.float32 and f.shape == (300, 50), "encode")
    check(np.array_equal(f.numpy(), ae.encode(x.numpy())), "tensors and arrays differ")
    before = x.clone()
    check(ae.steer(x, {4: 1.0}) is x and not torch.equal(before, x), "a tensor is steered in place")
    raises(TypeError, "bfloat16", ae.encode, x.bfloat16())
    raises(TypeError, "C-contiguous", ae.encode, torch.zeros(24, 24).T)
    raises(TypeError, "meta", ae.encode, torch.zeros(2, 24, device="meta"))
    for rows in (x, x.bfloat16(), x.half()):
        check(sae.train(rows, "standard", dict_size=16, steps=3, batch_size=32).dict_size == 16,
              f"training on {rows.dtype}")
    ae.save(os.path.join(folder, "t.pt"))
    state = torch.load(os.path.join(folder, "t.pt"), weights_only=True)
    near(state["decoder.weight"].T, ae.W_dec, "torch.load", 0)


with tempfile.TemporaryDirectory() as temporary:
    for test in (test_layout, test_train, test_inference, test_layers, test_errors, test_torch):
        try:
            test(temporary)
        except Exception:
            import traceback
            traceback.print_exc(file=sys.stdout)
            check(False, f"{test.__name__} broke off")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
