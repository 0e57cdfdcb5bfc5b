#!/usr/bin/env python3
"""Writes tests/fixtures/gguf with the gguf package: the oracle of tests/test_gguf.c.
    types.gguf, types.npz          a tensor of every element type that is read; their numbers by gguf.quants
    metadata.gguf, metadata.json   a pair of every type and an array of every type; the same as JSON
    named.gguf                     alignment 64, tensors of types known by name alone, and one that is not"""
import json
import os

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFValueType as Value, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "gguf")
BLOCKS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
NAMED = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "NVFP4", "Q8_K"]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}


def writer(name):
    return GGUFWriter(os.path.join(OUT, name), "test")


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def blocks(rng, name, rows, count):
    """Bytes of any value, with scales that are finite: of both signs, the smallest, 0."""
    elements, size = GGML_QUANT_SIZES[Type[name]]
    data = rng.integers(0, 256, (rows * count, size), dtype=np.uint8)
    for at in HALVES[name]:
        scale = (rng.standard_normal(rows * count) * np.exp(rng.uniform(-9, 3, rows * count))).astype(np.float16)
        scale[0] = np.float16(6e-8)
        scale[-1] = np.float16(-0.0)
        data[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, count * size)


def types():
    rng = np.random.default_rng(7)
    w, want = writer("types.gguf"), {}
    for name in BLOCKS:
        elements = GGML_QUANT_SIZES[Type[name]][0]
        data = blocks(rng, name, 3, 4 if elements == 32 else 1)
        w.add_tensor(name, data, raw_dtype=Type[name])
        want[name] = quants.dequantize(data, Type[name])
    x = (rng.standard_normal((2, 3, 5)) * 100).astype(np.float32)
    x[0, 0] = [0, -0.0, np.inf, -1e-40, 3e38]
    half = np.clip(x, -6e4, 6e4).astype(np.float16)
    bf16 = quants.quantize(x.reshape(6, 5), Type.BF16)
    for name, data, raw in [("F32", x, None), ("F16", half, None), ("BF16", bf16, Type.BF16), ("F64", x.astype(np.float64), None)]:
        w.add_tensor(name, data, raw_dtype=raw)
        want[name] = quants.dequantize(data, Type[name]) if name != "F64" else data.astype(np.float32)
    for name in ["I8", "I16", "I32", "I64"]:
        info = np.iinfo("int" + name[1:])
        data = np.array([info.min, -1, 0, 1, info.max], dtype=info.dtype)
        w.add_tensor(name, data)
        want[name] = data.astype(np.float32)
    w.add_tensor("four", np.arange(24, dtype=np.float32).reshape(4, 1, 3, 2))
    want["four"] = np.arange(24, dtype=np.float32).reshape(4, 1, 3, 2)
    finish(w)
    np.savez(os.path.join(OUT, "types.npz"), **want)


def metadata():
    w = writer("metadata.gguf")
    values = {"UINT8": [0, 255], "INT8": [-128, 127], "UINT16": [0, 65535], "INT16": [-32768, 32767],
              "UINT32": [0, 4294967295], "INT32": [-2147483648, 2147483647], "FLOAT32": [0.5, -3.25, 2.0**100],
              "BOOL": [True, False], "STRING": ["", "text", "na\u00efve \u65e5\u672c \"\\\n", "a" * 300],
              "UINT64": [0, 2**53], "INT64": [-2**53, 2**53 - 1], "FLOAT64": [0.1, -1e300]}
    want = {"general.architecture": "test"}
    for name, list_ in values.items():
        for i, value in enumerate(list_):
            w.add_key_value(f"{name}.{i}", value, Value[name])
            want[f"{name}.{i}"] = value
        w.add_key_value(f"{name}.array", list_ * 3, Value.ARRAY, sub_type=Value[name])
        want[f"{name}.array"] = list_ * 3
    w.add_key_value("nested", [["a", "b"], ["c"]], Value.ARRAY)
    want["nested"] = [["a", "b"], ["c"]]
    w.add_tensor("x", np.arange(3, dtype=np.float32))
    finish(w)
    with open(os.path.join(OUT, "metadata.json"), "w") as f:
        json.dump(want, f, indent=0)
        f.write("\n")


def named():
    rng = np.random.default_rng(8)
    w = writer("named.gguf")
    w.add_custom_alignment(64)
    for name in NAMED:
        elements, size = GGML_QUANT_SIZES[Type[name]]
        w.add_tensor(name, rng.integers(0, 256, (2, size), dtype=np.uint8), raw_dtype=Type[name])
    w.add_tensor("good", np.arange(6, dtype=np.float32).reshape(2, 3))
    finish(w)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    types()
    metadata()
    named()
