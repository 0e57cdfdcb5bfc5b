"""sae.h from Python: ctypes and numpy, one file, nothing to install. `make lib` builds the library.

The reference's training script, dictionary_learning's

    from dictionary_learning.training import trainSAE
    from dictionary_learning.trainers.top_k import TopKTrainer, AutoEncoderTopK
    cfg = {"trainer": TopKTrainer, "dict_class": AutoEncoderTopK, "activation_dim": 512,
           "dict_size": 4096, "k": 32, "lr": 1e-3, "steps": 1000, "device": "cpu", "seed": 0,
           "layer": 3, "lm_name": "EleutherAI/pythia-70m-deduped"}
    trainSAE(data=activations, trainer_configs=[cfg], steps=1000, save_dir="out")

is here

    import sae
    ae = sae.train("activations.npy", trainer="top_k", dict_size=4096, k=32, lr=1e-3, steps=1000,
                   layer=3, lm_name="EleutherAI/pythia-70m-deduped", save_dir="out")
    f = ae.encode(x)
    print(sae.evaluate(ae, "test.npy"))

and "out/trainer_0" opens with the reference's load_dictionary. In place of the file: a list of files,
a float32 or float16 array [rows, dim], a CPU torch tensor (bfloat16 too), or an iterator that yields
such arrays. Hyperparameters have the reference's names; sae_trainer_desc in sae.h lists them.

Arrays and CPU tensors go in without a copy, so they must be float32 and C-contiguous where rows go
in (any leading shape, [..., dim]); anything else raises TypeError and says what to do. A torch
tensor in gives torch tensors out. Every failure of the library raises sae.Error with its sentence.
Warnings go to logging.getLogger("sae"). Inference on one Dictionary is safe from many threads.
"""
import ctypes
import logging
import os
import re
import shutil
import tempfile
import threading
from ctypes import (POINTER, byref, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_int64,
                    c_size_t, c_uint8, c_uint32, c_uint64, c_void_p)

import numpy as np

# ---- the header's types, field by field; tests/python.py holds them against the compiler ----------

MAX_GROUPS = 64
RESULTS = {0: "SAE_OK", -1: "SAE_ERR_INVALID", -2: "SAE_ERR_MISMATCH", -3: "SAE_ERR_NOT_FINITE",
           -4: "SAE_ERR_OUT_OF_MEMORY", -5: "SAE_ERR_NOT_FOUND", -6: "SAE_ERR_IO", -7: "SAE_ERR_FORMAT",
           -8: "SAE_ERR_UNSUPPORTED", -9: "SAE_ERR_END_OF_DATA", -10: "SAE_ERR_CANCELLED", -11: "SAE_ERR_BACKEND"}
ARCHS = {"AutoEncoder": 1, "AutoEncoderNew": 2, "GatedAutoEncoder": 3, "AutoEncoderTopK": 4,
         "BatchTopKSAE": 5, "MatryoshkaBatchTopKSAE": 6, "JumpReluAutoEncoder": 7, "IdentityDict": 8,
         "MatchingPursuitSAE": 9}
CLT_KINDS = {"clt": 1, "crosscoder": 2, "transcoder_set": 3}
RULES = {"default": 0, "top_k": 1, "threshold": 2}
STEER_MODES = {"add": 1, "set": 2, "scale": 3, "ablate": 4}
DTYPES = {"float32": 1, "float16": 2, "bfloat16": 3}

ALLOC = ctypes.CFUNCTYPE(c_void_p, c_size_t, c_void_p)
FREE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
LOG = ctypes.CFUNCTYPE(None, c_int, c_int, c_char_p, c_void_p)


class sae_allocator(ctypes.Structure):
    _fields_ = [("alloc", ALLOC), ("free", FREE), ("user", c_void_p)]


class sae_logger(ctypes.Structure):
    _fields_ = [("log", LOG), ("user", c_void_p)]


class sae_pool(ctypes.Structure):
    _fields_ = [("run", c_void_p), ("user", c_void_p)]


class sae_context_desc(ctypes.Structure):
    _fields_ = [("allocator", sae_allocator), ("logger", sae_logger), ("pool", sae_pool),
                ("threads", c_int), ("io", c_void_p),
                ("backend", c_void_p), ("backend_desc", c_void_p), ("instruction_set", c_char_p)]


class sae_dictionary_desc(ctypes.Structure):
    _fields_ = [("arch", c_int), ("activation_dim", c_size_t), ("dict_size", c_size_t),
                ("k", c_size_t), ("group_sizes", c_size_t * MAX_GROUPS), ("num_groups", c_size_t),
                ("subtract_b_dec", c_bool), ("seed", c_uint64), ("no_b_dec_subtraction", c_bool),
                ("activation", c_int), ("k_fraction", c_double), ("input_norm", c_int),
                ("output_normalized", c_bool), ("output_dim", c_size_t), ("skip", c_bool),
                ("gate", c_int), ("gate_norm", c_double), ("gate_norm_sum", c_double),
                ("glu", c_bool), ("layers", c_size_t), ("normalizer", c_bool),
                ("layer_codes", c_bool), ("over_layers", c_bool), ("residual_threshold", c_double),
                ("max_iterations", c_size_t), ("repeats", c_bool)]


class sae_sparse(ctypes.Structure):
    _fields_ = [("row_begin", POINTER(c_size_t)), ("latent", POINTER(c_uint32)),
                ("value", POINTER(c_float)), ("capacity", c_size_t)]


class sae_steering(ctypes.Structure):
    _fields_ = [("latent", c_uint32), ("mode", c_int), ("value", c_float)]


class sae_trainer_desc(ctypes.Structure):
    _fields_ = [("kind", c_int), ("arch", c_int), ("activation_dim", c_size_t),
                ("dict_size", c_size_t), ("batch_size", c_size_t), ("steps", c_uint64),
                ("seed", c_uint64), ("lr", c_double), ("warmup_steps", c_uint64),
                ("decay_start", c_uint64), ("sparsity_warmup_steps", c_uint64),
                ("resample_steps", c_uint64), ("l1_penalty", c_double),
                ("sparsity_function", c_int), ("k", c_size_t), ("k_anneal_steps", c_uint64),
                ("auxk_alpha", c_double), ("top_k_aux", c_size_t),
                ("dead_feature_threshold", c_uint64), ("threshold_beta", c_double),
                ("threshold_start_step", c_uint64), ("group_fractions", c_double * MAX_GROUPS),
                ("group_weights", c_double * MAX_GROUPS), ("num_groups", c_size_t),
                ("bandwidth", c_double), ("sparsity_penalty", c_double), ("target_l0", c_double),
                ("initial_sparsity_penalty", c_double), ("anneal_start", c_uint64),
                ("anneal_end", c_uint64), ("p_start", c_double), ("p_end", c_double),
                ("n_sparsity_updates", c_uint64), ("sparsity_queue_length", c_size_t),
                ("reconstruction_norm", c_bool), ("ghost_threshold", c_uint64), ("init", c_char_p),
                ("lm_name", c_char_p), ("submodule_name", c_char_p), ("wandb_name", c_char_p),
                ("layer", c_int64), ("num_layers", c_size_t), ("code_normalization", c_int),
                ("code_normalization_alpha_sae", c_double),
                ("code_normalization_alpha_cc", c_double), ("use_mse_loss", c_bool),
                ("k_max", c_size_t), ("k_annealing_steps", c_uint64),
                ("output_dim", c_size_t), ("skip_connection", c_int),
                ("apply_b_dec_to_input", c_int), ("optimizer", c_int),
                ("lr_warmup_steps", c_uint64), ("k_decay_steps", c_uint64), ("finetune", c_int)]


class sae_hyperparameter(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("field", c_char_p), ("type", c_int), ("initial", c_char_p),
                ("allowed", c_char_p), ("trainers", c_uint32)]


class sae_stats(ctypes.Structure):
    _fields_ = [("step", c_uint64)] + [(name, c_double) for name in (
        "loss", "l2_loss", "sparsity_loss", "aux_loss", "auxk_loss", "pre_norm_auxk_loss",
        "dead_features", "effective_l0", "l0", "frac_variance_explained", "threshold", "p",
        "next_p", "sparsity_coeff", "ghosts", "lr", "grad_norm", "resampled", "k_current_value",
        "running_deads", "fvu", "k")]


READ = ctypes.CFUNCTYPE(c_int64, c_void_p, POINTER(c_float), POINTER(c_float), c_size_t)
REWIND = ctypes.CFUNCTYPE(c_int, c_void_p)


class sae_source_desc(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("target", c_void_p), ("rows", c_size_t), ("dim", c_size_t),
                ("dtype", c_int), ("files", POINTER(c_char_p)), ("target_files", POINTER(c_char_p)),
                ("num_files", c_size_t), ("num_target_files", c_size_t), ("tensor", c_char_p),
                ("read", READ), ("rewind", REWIND), ("has_target", c_bool), ("user", c_void_p),
                ("target_dim", c_size_t)]


class sae_buffer_desc(ctypes.Structure):
    _fields_ = [("source", sae_source_desc), ("batch_size", c_size_t), ("rows", c_size_t),
                ("sequential", c_bool), ("single_pass", c_bool),
                ("max_activation_norm_multiple", c_double), ("heads", c_size_t),
                ("seed", c_uint64)]


class sae_progress(ctypes.Structure):
    _fields_ = [("step", c_uint64), ("steps", c_uint64), ("start_step", c_uint64),
                ("rows", c_uint64), ("num_trainers", c_size_t), ("trainers", POINTER(c_void_p)),
                ("norm_factor", c_float), ("finished", c_bool)]


TRAIN_LOG = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, POINTER(sae_stats))
PROGRESS = ctypes.CFUNCTYPE(c_bool, c_void_p, POINTER(sae_progress))


class sae_train_desc(ctypes.Structure):
    _fields_ = [("buffer", sae_buffer_desc), ("trainers", POINTER(sae_trainer_desc)),
                ("num_trainers", c_size_t), ("steps", c_uint64), ("normalize_activations", c_bool),
                ("save_dir", c_char_p), ("flat", c_bool), ("save_steps", POINTER(c_uint64)),
                ("num_save_steps", c_size_t), ("backup_steps", c_uint64), ("resume", c_bool),
                ("log_steps", c_uint64), ("log", TRAIN_LOG), ("progress", PROGRESS),
                ("user", c_void_p), ("io", c_char_p), ("ctx_len", c_size_t),
                ("prepend_bos", c_bool)]


class sae_metrics(ctypes.Structure):
    _fields_ = [(name, c_double) for name in (
        "l2_loss", "l1_loss", "l0", "frac_variance_explained", "cossim", "l2_ratio",
        "relative_reconstruction_bias", "frac_alive")]


class sae_evaluate_desc(ctypes.Structure):
    _fields_ = [("buffer", sae_buffer_desc), ("batches", c_uint64), ("normalize_batch", c_bool),
                ("layers", POINTER(c_double))]


class sae_load_desc(ctypes.Structure):
    _fields_ = [("arch", c_int), ("k", c_size_t), ("raw", c_bool), ("raw_decoder_norms", c_bool),
                ("first_latent", c_size_t), ("num_latents", c_size_t), ("config", c_char_p),
                ("config_size", c_size_t), ("name", c_char_p), ("input_scale", c_double)]


class sae_origin(ctypes.Structure):
    _fields_ = [("format", c_int), ("class_name", c_char * 48), ("dtype", c_int),
                ("model", c_char * 96), ("hook", c_char * 96), ("hook_out", c_char * 96),
                ("dataset", c_char * 96), ("version", c_char * 32), ("model_options", c_char * 96),
                ("layer", c_int64), ("one_head", c_bool), ("head", c_size_t), ("context_size", c_size_t),
                ("prepend_bos", c_int), ("no_special", c_bool), ("positions", c_int64 * 3),
                ("dict_size", c_size_t), ("k", c_size_t), ("first_latent", c_size_t)]


class sae_clt_desc(ctypes.Structure):
    _fields_ = [("kind", c_int), ("layers", c_size_t), ("activation_dim", c_size_t),
                ("dict_size", c_size_t), ("arch", c_int), ("activation", c_int), ("k", c_size_t),
                ("over_layers", c_bool), ("gate", c_bool), ("most", c_size_t)]


class sae_export_desc(ctypes.Structure):
    _fields_ = [("format", c_int), ("origin", POINTER(sae_origin)),
                ("log_sparsity", POINTER(c_float)), ("raw", c_bool),
                ("safetensors", c_bool)]


STRUCTS = [sae_allocator, sae_logger, sae_pool, sae_context_desc,
           sae_dictionary_desc, sae_sparse,
           sae_steering, sae_trainer_desc, sae_hyperparameter, sae_stats, sae_source_desc,
           sae_buffer_desc, sae_progress, sae_train_desc, sae_metrics, sae_evaluate_desc,
           sae_load_desc, sae_origin, sae_clt_desc, sae_export_desc]

# ---- the library and its context ------------------------------------------------------------------

_F = POINTER(c_float)
_FUNCTIONS = {  # name: result, arguments
    "sae_context_create": (c_int, [POINTER(sae_context_desc), POINTER(c_void_p)]),
    "sae_context_destroy": (None, [c_void_p]),
    "sae_error": (c_char_p, [c_void_p]),
    "sae_dictionary_create": (c_int, [c_void_p, POINTER(sae_dictionary_desc), POINTER(c_void_p)]),
    "sae_dictionary_destroy": (None, [c_void_p]),
    "sae_dictionary_get_desc": (POINTER(sae_dictionary_desc), [c_void_p]),
    "sae_dictionary_num_latents": (c_size_t, [c_void_p]),
    "sae_dictionary_set_rule": (c_int, [c_void_p, c_int]),
    "sae_dictionary_set_active_groups": (c_int, [c_void_p, c_size_t]),
    "sae_dictionary_threshold": (c_float, [c_void_p]),
    "sae_dictionary_decoder_row": (c_void_p, [c_void_p, c_size_t]),
    "sae_dictionary_encoder_row": (c_void_p, [c_void_p, c_size_t]),
    "sae_dictionary_scale_biases": (c_int, [c_void_p, c_float]),
    "sae_dictionary_normalize_decoder": (c_int, [c_void_p]),
    "sae_dictionary_prepare": (c_int, [c_void_p]),
    "sae_dictionary_load": (c_int, [c_void_p, POINTER(sae_load_desc), c_char_p, POINTER(c_void_p)]),
    "sae_dictionary_save": (c_int, [c_void_p, c_char_p]),
    "sae_dictionary_origin": (POINTER(sae_origin), [c_void_p]),
    "sae_dictionary_export": (c_int, [c_void_p, POINTER(sae_export_desc), c_char_p]),
    "sae_clt_recognize": (c_bool, [c_void_p, c_char_p]),
    "sae_clt_open": (c_int, [c_void_p, POINTER(sae_load_desc), c_char_p, POINTER(c_void_p)]),
    "sae_clt_close": (None, [c_void_p]),
    "sae_clt_get_desc": (POINTER(sae_clt_desc), [c_void_p]),
    "sae_clt_origin": (POINTER(sae_origin), [c_void_p]),
    "sae_clt_encode": (c_int, [c_void_p, c_void_p, c_size_t, c_void_p]),
    "sae_clt_forward": (c_int, [c_void_p, c_void_p, c_size_t, c_void_p, c_void_p]),
    "sae_clt_decoder_row": (c_bool, [c_void_p, c_size_t, c_size_t, c_size_t, c_void_p]),
    "sae_format_name": (c_char_p, [c_int]),
    "sae_format_from_name": (c_bool, [c_char_p, POINTER(c_int)]),
    "sae_encode": (c_int, [c_void_p, c_void_p, c_size_t, c_void_p]),
    "sae_encode_sparse": (c_int, [c_void_p, c_void_p, c_size_t, POINTER(sae_sparse)]),
    "sae_encode_subset": (c_int, [c_void_p, c_void_p, c_size_t, POINTER(c_uint32), c_size_t,
                                  c_void_p]),
    "sae_decode": (c_int, [c_void_p, c_void_p, c_size_t, c_void_p]),
    "sae_forward": (c_int, [c_void_p, c_void_p, c_size_t, c_void_p, c_void_p]),
    "sae_steer": (c_int, [c_void_p, c_void_p, c_size_t, POINTER(sae_steering), c_size_t]),
    "sae_steer_export": (c_int, [c_void_p, POINTER(sae_steering), c_size_t, c_size_t, c_char_p,
                                 c_char_p]),
    "sae_trainer_from_name": (c_bool, [c_char_p, POINTER(c_int)]),
    "sae_trainer_desc_set": (c_int, [c_void_p, POINTER(sae_trainer_desc), c_char_p, c_char_p]),
    "sae_hyperparameter_get": (c_bool, [c_size_t, POINTER(sae_hyperparameter)]),
    "sae_train": (c_int, [c_void_p, POINTER(sae_train_desc)]),
    "sae_evaluate": (c_int, [c_void_p, POINTER(sae_evaluate_desc), POINTER(sae_metrics)]),
}


class Error(RuntimeError):
    """A failed call: str() is the library's sentence, .result its code's name ("SAE_ERR_FORMAT")."""

    def __init__(self, result, message):
        super().__init__(message or RESULTS.get(result, str(result)))
        self.result = RESULTS.get(result, str(result))


def _open_library():
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.environ.get("SAE_LIBRARY", os.path.join(here, "..", "build", "libsae.so"))
    if not os.path.exists(path):
        raise ImportError(f"sae.py: there is no {path}: run `make lib`, or set SAE_LIBRARY")
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"sae.py: {path} has no {name}: it is of another version of sae.h, "
                              "run `make lib` beside this sae.py")
        function.restype, function.argtypes = result, arguments
    return library


def _check_layout(context):
    """The library does not tell its sizes, but where it writes: the last field of the largest desc
    lands where this file has it only if all before it agree."""
    class roomy(ctypes.Structure):  # a longer desc of another version must not write past ours
        _fields_ = [("desc", sae_trainer_desc), ("behind", c_uint8 * 1024)]
    room = roomy()
    for key, value in ((b"k", b"5"), (b"p_end", b"0.5"), (b"layer", b"7")):
        context.check(_lib.sae_trainer_desc_set(context.handle, byref(room.desc), key, value))
    desc = room.desc
    if (desc.k, desc.p_end, desc.layer) != (5, 0.5, 7) or any(room.behind):
        raise ImportError("sae.py: the library's sae_trainer_desc is laid out in another way than "
                          "this file's: they are of different versions, run `make lib` beside it")


_lib = _open_library()


@LOG
def _on_message(level, _result, message, _user):
    if level:  # errors are raised as well
        level = logging.WARNING if level == 1 else logging.INFO
        logging.getLogger("sae").log(level, message.decode(errors="replace"))


class _Context:
    """A sae_context. One thread at a time may make, load, train: they hold the lock."""

    def __init__(self, threads):
        desc, self.handle, self.lock = sae_context_desc(), c_void_p(), threading.RLock()
        desc.threads, desc.logger.log = threads, _on_message
        self.check(_lib.sae_context_create(byref(desc), byref(self.handle)))

    def check(self, result):
        if result != 0:
            message = _lib.sae_error(self.handle) if self.handle else b""
            raise Error(result, message.decode(errors="replace"))

    def __del__(self):
        if getattr(self, "handle", None):
            _lib.sae_context_destroy(self.handle)


_context = _Context(0)
_check_layout(_context)


def set_threads(threads):
    """How many threads dictionaries made, loaded or trained from here on use; 0: all cores."""
    global _context
    _context = _Context(threads)


# ---- arrays ---------------------------------------------------------------------------------------

def _is_torch(x):
    return type(x).__module__.split(".")[0] == "torch" or hasattr(x, "data_ptr")


def _look(x, what, dtypes=("float32",), writable=False):
    """Pointer, shape and dtype of an array or CPU tensor, not copied; TypeError where it cannot be."""
    if _is_torch(x):
        if x.device.type != "cpu":
            raise TypeError(f"{what} is on {x.device}, only CPU tensors go in: pass {what}.cpu()")
        dtype, contiguous, pointer = str(x.dtype)[6:], x.is_contiguous(), x.data_ptr()
    else:
        if not hasattr(x, "__array_interface__"):
            try:
                x = np.asarray(memoryview(x))  # the buffer protocol
            except TypeError:
                raise TypeError(f"{what} is a {type(x).__name__}, allowed are numpy arrays, CPU torch "
                                "tensors, buffers") from None
        dtype, contiguous = str(x.dtype), x.flags["C_CONTIGUOUS"]
        pointer = x.__array_interface__["data"][0]
        if writable and not x.flags["WRITEABLE"]:
            raise TypeError(f"{what} is read-only, it is changed in place")
    if dtype not in dtypes:
        raise TypeError(f"{what} is {dtype}, allowed is {' or '.join(dtypes)}: convert it first")
    if not contiguous:
        raise TypeError(f"{what} is not C-contiguous: pass np.ascontiguousarray({what}), or "
                        f"{what}.contiguous() of a tensor")
    return pointer, tuple(x.shape), dtype


def _rows(x, what, width, writable=False):
    pointer, shape, _ = _look(x, what, writable=writable)
    if not shape or shape[-1] != width:
        raise ValueError(f"{what} has the shape {list(shape)}, its last size must be {width}")
    return pointer, int(np.prod(shape[:-1], dtype=np.int64)), shape[:-1]


def _out(like, shape):
    out = np.empty(shape, np.float32)
    return out, out.ctypes.data, (lambda: _as_torch(out)) if _is_torch(like) else (lambda: out)


def _as_torch(array):
    import torch
    return torch.from_numpy(array)


# ---- dictionaries ---------------------------------------------------------------------------------

class Dictionary:
    """A sparse autoencoder. Made by Dictionary.load, Dictionary.create, or train()."""

    def __init__(self, handle, context):
        self._handle, self._context = handle, context
        self._info = _lib.sae_dictionary_get_desc(handle).contents
        self._room = self._info.k or min(self.num_latents, 256)

    @classmethod
    def load(cls, path, dict_class=None, k=0, raw=False, raw_decoder_norms=False, first_latent=0,
             num_latents=0, input_scale=0.0):
        """Opens a folder or file in any format that sae.h reads. raw: the tensors as they are; else
        as the reference's load_dictionary gives them: an AutoEncoder's decoder is brought to norm 1,
        unless raw_decoder_norms. num_latents from first_latent on (0: all that follow): only these are read
        of a large file. input_scale: the weights are for x times this, which is folded into them."""
        handle = c_void_p()
        desc = sae_load_desc(_arch(dict_class), k, raw, raw_decoder_norms, first_latent, num_latents,
                             input_scale=input_scale)
        with _context.lock:
            _context.check(_lib.sae_dictionary_load(_context.handle, byref(desc), os.fsencode(path),
                                                    byref(handle)))
        return cls(handle, _context)

    @classmethod
    def create(cls, dict_class, activation_dim, dict_size, k=0, group_sizes=(), seed=0):
        """A fresh one, initialised as the reference's class is."""
        handle = c_void_p()
        if len(group_sizes) > MAX_GROUPS:
            raise ValueError(f"{len(group_sizes)} group_sizes, allowed are {MAX_GROUPS}")
        desc = sae_dictionary_desc(_arch(dict_class), activation_dim, dict_size, k,
                                   (c_size_t * MAX_GROUPS)(*group_sizes), len(group_sizes), False, seed)
        with _context.lock:
            _context.check(_lib.sae_dictionary_create(_context.handle, byref(desc), byref(handle)))
        return cls(handle, _context)

    def __del__(self):
        if getattr(self, "_handle", None):
            _lib.sae_dictionary_destroy(self._handle)

    def __repr__(self):
        return f"<{self.dict_class} {self.activation_dim} -> {self.dict_size}>"

    activation_dim = property(lambda self: self._info.activation_dim)
    output_dim = property(lambda self: self._info.output_dim or self._info.activation_dim)
    dict_size = property(lambda self: self._info.dict_size)
    layers = property(lambda self: self._info.layers, doc="of a crosscoder; else 1")
    num_latents = property(lambda self: _lib.sae_dictionary_num_latents(self._handle),
                           doc="numbers of f: dict_size, or that of each layer with codes of its own")
    k = property(lambda self: self._info.k)
    dict_class = property(lambda self: next(n for n, v in ARCHS.items() if v == self._info.arch))
    threshold = property(lambda self: _lib.sae_dictionary_threshold(self._handle))
    W_dec = property(lambda self: self._matrix(_lib.sae_dictionary_decoder_row, self.output_dim),
                     doc="[dict_size, output_dim], a read-only view: row i is latent i's direction")
    W_enc = property(lambda self: self._matrix(_lib.sae_dictionary_encoder_row, self.activation_dim))

    @property
    def origin(self):
        """Where it came from: a dict of format, class_name, model, hook, layer, ... as far as known."""
        origin = _lib.sae_dictionary_origin(self._handle).contents
        name = _lib.sae_format_name(origin.format)
        known = {key: value.decode(errors="replace") if isinstance(value, bytes) else value
                 for key, value in _as_dict(origin).items() if key != "dtype" and value}
        return dict(known, format=name.decode() if origin.format else None)

    def _matrix(self, row, d):
        m, first = self.dict_size, row(self._handle, 0)
        if first is None:
            raise AttributeError(f"{self.dict_class} has no such matrix")
        step = row(self._handle, 1) - first if m > 1 else 4 * d
        memory = (c_uint8 * ((m - 1) * step + 4 * d)).from_address(first)
        memory.owner = self  # the view keeps the dictionary alive
        view = np.ndarray((m, d), np.float32, memory, strides=(step, 4))
        view.flags.writeable = False
        return view

    def prepare(self):
        """Makes encode and forward of many rows faster, with the same bits, for 2 bytes a weight of the
        encoder; lasts until the rule or the parameters change."""
        self._context.check(_lib.sae_dictionary_prepare(self._handle))

    def set_rule(self, rule):
        """How the top-k classes choose: "top_k", "threshold", or "default" (the class's)."""
        self._context.check(_lib.sae_dictionary_set_rule(self._handle, _one_of(RULES, rule, "rule")))

    def set_active_groups(self, active_groups):
        self._context.check(_lib.sae_dictionary_set_active_groups(self._handle, active_groups))

    def scale_biases(self, scale):
        self._context.check(_lib.sae_dictionary_scale_biases(self._handle, scale))

    def normalize_decoder(self):
        self._context.check(_lib.sae_dictionary_normalize_decoder(self._handle))

    def encode(self, x):
        """f [..., num_latents] of x [..., activation_dim]."""
        pointer, n, lead = _rows(x, "x", self.activation_dim)
        f, out, result = _out(x, lead + (self.num_latents,))
        self._context.check(_lib.sae_encode(self._handle, pointer, n, out))
        return result()

    def encode_subset(self, x, latents):
        """f [..., len(latents)] of these latents alone; no top-k is applied, see sae.h."""
        pointer, n, lead = _rows(x, "x", self.activation_dim)
        f, out, result = _out(x, lead + (len(latents),))
        chosen = (c_uint32 * len(latents))(*latents)
        self._context.check(_lib.sae_encode_subset(self._handle, pointer, n, chosen, len(latents),
                                                   out))
        return result()

    def encode_sparse(self, x):
        """(row_begin [n+1], latent, value): row r is [row_begin[r]:row_begin[r+1]] of the other two.
        scipy.sparse.csr_matrix((value, latent, row_begin), shape=(n, num_latents)) takes them."""
        pointer, n, _ = _rows(x, "x", self.activation_dim)
        capacity = n * self._room  # an even share a row, else it takes a second pass
        row_begin = np.zeros(n + 1, np.uintp)
        while True:
            latent, value = np.empty(capacity, np.uint32), np.empty(capacity, np.float32)
            code = sae_sparse(row_begin.ctypes.data_as(POINTER(c_size_t)),
                              latent.ctypes.data_as(POINTER(c_uint32)),
                              value.ctypes.data_as(_F), capacity)
            try:
                self._context.check(_lib.sae_encode_sparse(self._handle, pointer, n, byref(code)))
            except Error as error:
                needed = re.search(r"(\d+) are needed", str(error))
                if not needed or int(needed.group(1)) <= capacity:
                    raise
                capacity = int(needed.group(1))
                continue
            used = int(row_begin[n])
            self._room = max(self._room, min(self.num_latents, 8 * (used // max(n, 1) + 1)))
            return row_begin.astype(np.int64), latent[:used], value[:used]

    def decode(self, f):
        """x_hat [..., output_dim] of f [..., num_latents]; of dictionaries that normalise their input or
        have a skip connection use forward, which knows x."""
        pointer, n, lead = _rows(f, "f", self.num_latents)
        x_hat, out, result = _out(f, lead + (self.output_dim,))
        self._context.check(_lib.sae_decode(self._handle, pointer, n, out))
        return result()

    def forward(self, x, output_features=False):
        """x_hat of x; with output_features also f, as the reference's forward."""
        pointer, n, lead = _rows(x, "x", self.activation_dim)
        x_hat, out, result = _out(x, lead + (self.output_dim,))
        f, f_out, f_result = _out(x, lead + (self.num_latents,)) if output_features else (None,) * 3
        self._context.check(_lib.sae_forward(self._handle, pointer, n, out, f_out))
        return (result(), f_result()) if output_features else result()

    __call__ = forward

    def steer(self, x, changes):
        """x [..., activation_dim] moves in place so that latents go to new values, and is returned.
        changes: {latent: value} (set), or [(latent, "add" | "set" | "scale" | "ablate", value), ...]."""
        pointer, n, _ = _rows(x, "x", self.activation_dim, writable=True)
        if isinstance(changes, dict):
            changes = [(latent, "set", value) for latent, value in changes.items()]
        steerings = _steerings(changes)
        self._context.check(_lib.sae_steer(self._handle, pointer, n, steerings, len(steerings)))
        return x

    def steer_export(self, path, latent, layer, strength=1.0, model_hint=""):
        """strength * W_dec[latent] as a control vector of llama.cpp, behind block `layer` (from 1)."""
        self._context.check(_lib.sae_steer_export(
            self._handle, _steerings([(latent, "add", strength)]), 1, layer, model_hint.encode(),
            os.fsencode(path)))

    def save(self, path):
        """The state_dict, under the reference's names: path ends in .pt or .safetensors."""
        with self._context.lock:
            self._context.check(_lib.sae_dictionary_save(self._handle, os.fsencode(path)))

    def export(self, folder, to, raw=False):
        """A folder that another program opens: to "dictionary_learning", "sae_lens", "sparsify"."""
        desc, kind = sae_export_desc(raw=raw), c_int()
        if not _lib.sae_format_from_name(to.encode(), byref(kind)):
            raise ValueError(f"to is {to!r}, allowed are dictionary_learning, sae_lens, sparsify")
        desc.format = kind.value
        with self._context.lock:
            self._context.check(_lib.sae_dictionary_export(self._handle, byref(desc),
                                                           os.fsencode(folder)))


class Layers:
    """A cross-layer transcoder, a crosscoder of its form, or a set of transcoders: rows are layer after
    layer, x [..., layers * activation_dim], f [..., layers * dict_size]. Its files stay open, mapped."""

    def __init__(self, path, k=0):
        self._handle, self._context, desc = c_void_p(), _context, sae_load_desc(k=k)
        with _context.lock:
            _context.check(_lib.sae_clt_open(_context.handle, byref(desc), os.fsencode(path),
                                             byref(self._handle)))
        self._info = _lib.sae_clt_get_desc(self._handle).contents

    def __del__(self):
        if getattr(self, "_handle", None):
            _lib.sae_clt_close(self._handle)

    def __repr__(self):
        return f"<{self.kind} of {self.layers} x {self.activation_dim} -> {self.dict_size}>"

    layers = property(lambda self: self._info.layers)
    activation_dim = property(lambda self: self._info.activation_dim, doc="of one layer")
    dict_size = property(lambda self: self._info.dict_size, doc="of one layer")
    k = property(lambda self: self._info.k)
    kind = property(lambda self: next(n for n, v in CLT_KINDS.items() if v == self._info.kind))

    def encode(self, x):
        """f [..., layers * dict_size]."""
        pointer, n, lead = _rows(x, "x", self.layers * self.activation_dim)
        f, out, result = _out(x, lead + (self.layers * self.dict_size,))
        self._context.check(_lib.sae_clt_encode(self._handle, pointer, n, out))
        return result()

    def forward(self, x):
        """x_hat [..., layers * activation_dim]."""
        pointer, n, lead = _rows(x, "x", self.layers * self.activation_dim)
        x_hat, out, result = _out(x, lead + (self.layers * self.activation_dim,))
        self._context.check(_lib.sae_clt_forward(self._handle, pointer, n, out, None))
        return result()

    __call__ = forward

    def decoder_row(self, source, latent, target):
        """What latent `latent` of layer `source` writes to layer `target`."""
        row = np.zeros(self.activation_dim, np.float32)
        if not _lib.sae_clt_decoder_row(self._handle, source, latent, target, row.ctypes.data):
            raise IndexError(f"no latent {latent} of layer {source}, or no layer {target}")
        return row


def load(path, **how):
    """A Dictionary, or Layers, whatever path holds."""
    if _lib.sae_clt_recognize(_context.handle, os.fsencode(path)):
        return Layers(path, **how)
    return Dictionary.load(path, **how)


def _one_of(table, name, what):
    if name not in table:
        raise ValueError(f"{what} is {name!r}, allowed are {', '.join(table)}")
    return table[name]


def _arch(dict_class):
    return 0 if dict_class is None else _one_of(ARCHS, dict_class, "dict_class")


def _steerings(changes):
    changes = [(change + (0,))[:3] if len(change) == 2 else change for change in map(tuple, changes)]
    return (sae_steering * len(changes))(*[
        sae_steering(latent, _one_of(STEER_MODES, mode, "mode"), value)
        for latent, mode, value in changes])


# ---- training and judging -------------------------------------------------------------------------

def _texts(paths):
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    return (c_char_p * len(paths))(*[os.fsencode(path) for path in paths]), len(paths)


def _are_paths(data):
    return (isinstance(data, (str, os.PathLike))
            or (isinstance(data, (list, tuple)) and len(data) > 0
                and all(isinstance(path, (str, os.PathLike)) for path in data)))


def _matrix_of(data, what):
    pointer, shape, dtype = _look(data, what, ("float32", "float16", "bfloat16"))
    if len(shape) != 2:
        raise ValueError(f"{what} has the shape {list(shape)}, allowed is [rows, dim]")
    return pointer, shape, DTYPES[dtype]


class _Guard:
    """Exceptions inside callbacks: kept, the library is told to stop, raised when it has returned."""

    def __init__(self):
        self.error, self.kept = None, []

    def call(self, kind, function, otherwise):
        def safe(*arguments):
            try:
                return function(*arguments)
            except BaseException as error:  # KeyboardInterrupt too
                self.error = self.error or error
                return otherwise
        callback = kind(safe)
        self.kept.append(callback)
        return callback

    def check(self, context, result):
        if self.error:
            raise self.error
        context.check(result)


def _read_from(iterator, source, guard):
    """source.read over an iterator of arrays [rows, dim]; what does not fit waits for the next call."""
    first = next(iterator, None)
    if first is None:
        raise ValueError("data is an iterator that yields nothing")
    waiting = [first]
    source.dim = int(first.shape[-1])

    def read(_user, x, _target, max_rows):
        done = 0
        while done < max_rows:
            rows = waiting.pop() if waiting else next(iterator, None)
            if rows is None:
                break
            pointer, n, _ = _rows(rows, "an array of data", source.dim)
            take = min(n, max_rows - done)
            ctypes.memmove(ctypes.addressof(x.contents) + done * source.dim * 4, pointer,
                           take * source.dim * 4)
            if take < n:
                waiting.append(rows.reshape(-1, source.dim)[take:])
            done += take
        return done

    source.read = guard.call(READ, read, -10)


def _fill_source(source, data, target, guard):
    """Sets the fields for data and target; returns what must live as long as source is used."""
    kept = [data, target]
    if _are_paths(data):
        source.files, source.num_files = _texts(data)
        if target is not None:
            source.target_files, source.num_target_files = _texts(target)
    elif _is_torch(data) or hasattr(data, "__array_interface__"):
        source.data, shape, source.dtype = _matrix_of(data, "data")
        source.rows, source.dim = shape
        if target is not None:
            source.target, target_shape, dtype = _matrix_of(target, "target")
            if target_shape != shape or dtype != source.dtype:
                raise ValueError(f"target has the shape {list(target_shape)}, data {list(shape)}: "
                                 "shape and dtype must be the same")
    elif target is None and hasattr(data, "__iter__"):
        _read_from(iter(data), source, guard)
    else:
        raise TypeError(f"data is a {type(data).__name__}, allowed are paths, arrays and CPU tensors "
                        "[rows, dim], and, without target, iterators of these")
    return kept


def _text_of(value):
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(repr, value))
    return str(value).lower() if isinstance(value, bool) else getattr(value, "__name__", str(value))


def _trainer_desc(settings, kept):
    desc, settings = sae_trainer_desc(), dict(settings)
    name = _text_of(settings.pop("trainer", settings.pop("trainer_class", "top_k"))).encode()
    kind = c_int()
    if not _lib.sae_trainer_from_name(name, byref(kind)):
        row = sae_hyperparameter()
        _lib.sae_hyperparameter_get(0, byref(row))  # row 0 is the trainer
        raise ValueError(f"trainer is {name.decode()}, allowed are {row.allowed.decode()}")
    desc.kind = kind.value
    if str(settings.pop("device", None) or "cpu") != "cpu":
        raise ValueError("device: this library runs on the CPU alone, allowed is 'cpu'")
    if not settings.get("dict_size"):
        raise ValueError("dict_size is missing: how many latents the dictionary has")
    init = settings.pop("init", None)
    if init is not None:
        kept.append(os.fsencode(init))
        desc.init = kept[-1]
    for key, value in settings.items():
        kept.append(_text_of(value).encode())  # the desc holds on to texts
        _context.check(_lib.sae_trainer_desc_set(_context.handle, byref(desc), key.encode(), kept[-1]))
    return desc


def train(data, trainer="top_k", *, steps, save_dir=None, target=None, batch_size=0, seed=0,
          sequential=False, normalize_activations=False, save_steps=(), backup_steps=0, resume=False,
          log=None, log_steps=0, progress=None, **hyperparameters):
    """Trains and returns a Dictionary: train(data, "jumprelu", dict_size=4096, target_l0=40,
    steps=10000). trainer may be a list of names and dicts (["jumprelu", {"trainer": "top_k", "k": 32}],
    the rest from the hyperparameters): they share one pass over the data, and a list is returned.

    save_dir: gets trainer_0/, ... with config.json, ae.pt, ae.safetensors. target: the rows to
    reproduce where they are not the input. log(trainer, stats) every log_steps steps, stats a dict;
    progress(step, steps) every step: False stops (Error, .result "SAE_ERR_CANCELLED"). Both, and Ctrl-C,
    come between two steps. The rest is sae_train_desc and sae_trainer_desc of sae.h."""
    several = isinstance(trainer, (list, tuple))
    kept, guard, desc = [], _Guard(), sae_train_desc()
    settings = [dict(hyperparameters, **(each if isinstance(each, dict) else {"trainer": each}))
                for each in (trainer if several else [trainer])]
    if not settings:
        raise ValueError("trainer is an empty list, allowed are names and dicts")
    folder = save_dir or tempfile.mkdtemp(prefix="sae_")
    try:
        with _context.lock:
            for each in settings:
                each.setdefault("seed", seed)
            descs = (sae_trainer_desc * len(settings))(*[_trainer_desc(s, kept) for s in settings])
            desc.trainers, desc.num_trainers, desc.steps = descs, len(settings), steps
            kept.append(_fill_source(desc.buffer.source, data, target, guard))
            desc.buffer.batch_size, desc.buffer.sequential = batch_size, sequential
            desc.buffer.seed = seed or 0
            desc.normalize_activations, desc.save_dir = normalize_activations, os.fsencode(folder)
            desc.save_steps = (c_uint64 * len(save_steps))(*save_steps)
            desc.num_save_steps, desc.backup_steps = len(save_steps), backup_steps
            desc.resume, desc.log_steps = resume, log_steps or (1 if log else 0)
            if log:
                desc.log = guard.call(TRAIN_LOG, lambda _, i, s: log(i, _as_dict(s.contents)), None)
            desc.progress = guard.call(PROGRESS, lambda _, p: guard.error is None and (
                progress is None or progress(p.contents.step, p.contents.steps) is not False), False)
            guard.check(_context, _lib.sae_train(_context.handle, byref(desc)))
            trained = [Dictionary.load(os.path.join(folder, f"trainer_{i}"))
                       for i in range(len(settings))]
    finally:
        if not save_dir:
            shutil.rmtree(folder, ignore_errors=True)
    return trained if several else trained[0]


def evaluate(dictionary, data, target=None, batch_size=0, batches=0, normalize_batch=False):
    """The reference's evaluate(): a dict of l2_loss, l1_loss, l0, frac_variance_explained, cossim,
    l2_ratio, relative_reconstruction_bias, frac_alive over one pass (or so many batches)."""
    guard, desc, metrics = _Guard(), sae_evaluate_desc(), sae_metrics()
    kept = _fill_source(desc.buffer.source, data, target, guard)
    desc.buffer.batch_size, desc.batches, desc.normalize_batch = batch_size, batches, normalize_batch
    context = dictionary._context
    with context.lock:
        guard.check(context, _lib.sae_evaluate(dictionary._handle, byref(desc), byref(metrics)))
    del kept
    return _as_dict(metrics)


def _as_dict(structure):
    pairs = [(name, getattr(structure, name)) for name, _ in structure._fields_]
    return {name: value for name, value in pairs if value == value}  # NaN: not of this trainer
