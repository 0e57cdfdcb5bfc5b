"""Writes tests/tokenizers: small tokenizers of every kind sae_lm.h reads, and what the package tokenizers makes of
texts with them. tests/test_tokenizer.c reads them; tests/peers_tokens.py takes them for a start.

    python3 tests/make_tokenizer_fixtures.py

Each folder: tokenizer.json, and cases.json, a list of [text, ids, the text of the ids].
"""
import json
import os
import shutil

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers")
MARK = "\u2581"
TRAINING = ("the cat isn't there. The cats' mats, THE MAT; it's what we've there, I'll see it'd that "
            "HelloWorld helloWorld XMLHttp 12345 1234 123 ....!!!! ((())) ---- caf\u00e9 na\u00efve \u00fcber "
            "\u043f\u0440\u0438\u0432\u0435\u0442 \u4f60\u597d \u4f60\u597d\u4f60 \u0394\u03b5\u03bb\n\n\n\t\tx = 1\r\n  y  \n    z\n\n") * 4
# of every pattern's rules, and what is easy to get wrong
TEXTS = ["", " ", "the cat isn't there", "The  cats' mats,   THE MAT;", " lead", "trail  ", "\n", "\n\n the\n \n", "a\r\n\r\nb\r",
         "it's It'S IT'LL we'Ve x'The 'Some it'\u017f 's 'RE''d", "1 12 123 1234 12345678 x9y \u0661\u0662\u0663\u0664 \u00bd\u2167",
         "HelloWorld helloWORLD XMLHttpRequest aB Ab AB's \u01c5ab \u02b0x \u4f60A\u597db A\u4f60", "....\n\n!!!/\n/a ?/ \n",
         "\u00a0x\u2003y\u3000\u2028z\x85w\u200b\ufeffv\x1c", "caf\u00e9 cafe\u0301 a\u0301\u0316\u0f75 \uac00\u11a8 \u1112\u1161\u11ab \u0301x \u2126",
         "\u043f\u0440\u0438\u0432\u0435\u0442, \u4f60\u597d! \u0394\u03b5\u03bb \U0001f469\u200d\U0001f467", MARK + "x" + MARK + MARK + " y " + MARK,
         "<0x0A><0xE2> <unk> \x01\x7f", "the" * 40, " " * 70 + "x", "\u4f60\u597d" * 30 + "\n" * 40]
SPLIT_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
HEAD = r"[^\r\n\p{L}\p{N}]?"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|"
PATTERNS = dict(
    gpt2=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    gpt2_old=r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    llama3=ENDING + "|" + HEAD + r"\p{L}+|\p{N}{1,3}|" + OTHERS + SPLIT_TAIL,
    cl100k=r"'(?i:[sdmt]|ll|ve|re)|" + HEAD + r"+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|" + SPLIT_TAIL,
    qwen2=ENDING + "|" + HEAD + r"\p{L}+|\p{N}|" + OTHERS + SPLIT_TAIL,
    qwen35=ENDING + "|" + HEAD + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPLIT_TAIL,
    o200k=HEAD + UP + "*" + LOW + "+" + ENDING + "?|" + HEAD + UP + "+" + LOW + "*" + ENDING
    + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPLIT_TAIL,
    tekken=HEAD + UP + "*" + LOW + "+|" + HEAD + UP + "+" + LOW + r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPLIT_TAIL)


def byte_level(regex=True, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def by_pattern(pattern, behavior="Isolated", invert=False):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}, byte_level(False)]}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}


def replace(a, b):
    return {"type": "Replace", "pattern": {"String": a}, "content": b}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def fallback_decoder(strip):
    return sequence("decoders", replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                    *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else []))


def template(name, id):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}}}


def added(id, content, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False, **flags}


def bytes_model(tokens=80):
    """Bytes, merged over whole lines, so that only a pattern keeps words apart"""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    parts = [TRAINING[i:i + 7] for i in range(0, len(TRAINING), 5)]
    t.train_from_iterator(parts, trainers.BpeTrainer(vocab_size=256 + tokens, show_progress=False,
                                                    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return json.loads(t.to_str())["model"]


def chars_model(specials, tokens=100, bytes=range(256)):
    """Characters, spaces as marks, with pieces for bytes behind the special ones"""
    t = Tokenizer(models.BPE())
    words = TRAINING.replace(" ", MARK)
    parts = [words[i:i + 8] for i in range(0, len(words), 5)]
    t.train_from_iterator(parts, trainers.BpeTrainer(vocab_size=120 + tokens, show_progress=False))
    model = json.loads(t.to_str())["model"]
    names = specials + [f"<0x{b:02X}>" for b in bytes]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    model["vocab"] = {s: i for i, s in enumerate(names + [s for s in pieces if s not in names])}
    return {**model, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


def put(name, model, extra=(), **more):
    folder = os.path.join(HERE, name)
    os.makedirs(folder)
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True,
             "trim_offsets": True, "use_regex": True}, "model": model, **more}
    path = os.path.join(folder, "tokenizer.json")
    json.dump(whole, open(path, "w"), ensure_ascii=False, separators=(",", ":"))
    t = Tokenizer.from_file(path)
    cases = []
    for text in [*TEXTS, *extra]:
        ids = t.encode(text, add_special_tokens=False).ids
        cases.append([text, ids, t.decode(ids, skip_special_tokens=False)])
    with open(os.path.join(folder, "cases.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases) + "\n]\n")


def byte_kinds():
    model = bytes_model()
    n = len(model["vocab"])
    strings = {**model, "merges": [" ".join(m) for m in model["merges"]]}
    del strings["type"]  # as published GPT-2 has it
    put("gpt2", strings, pre_tokenizer=byte_level(), added_tokens=[added(n, "<|endoftext|>", special=True, normalized=True)],
        extra=["a<|endoftext|>b <|endoftext|", "<|endoftext|><|endoftext|>"])
    put("gpt2_prefix", model, pre_tokenizer=byte_level(prefix=True), added_tokens=[added(n, "<s>")], extra=["a<s>b<s> c<s>"])
    put("whole", model, pre_tokenizer=byte_level(regex=False))
    put("gpt2_old", model, pre_tokenizer=by_pattern(PATTERNS["gpt2_old"], "Removed", True))
    for name in ("cl100k", "qwen35", "tekken"):
        put(name, model, pre_tokenizer=by_pattern(PATTERNS[name]))
    put("qwen2", model, normalizer={"type": "NFC"}, pre_tokenizer=by_pattern(PATTERNS["qwen2"]),
        added_tokens=[added(n, "<think>"), added(n + 1, "<|im_start|>", special=True)], extra=["<think><|im_start|>x"])
    # words that stand in the vocabulary whole, and that no merge reaches
    more = {**model, "ignore_merges": True, "vocab": {**model["vocab"]}}
    for word in ("\u0120isn", "\u0120there", "XMLH", "123", "\u010a\u010a\u010a", "zz"):
        more["vocab"].setdefault(word, len(more["vocab"]))
    m = len(more["vocab"])
    put("llama3", more, pre_tokenizer=by_pattern(PATTERNS["llama3"]),
        post_processor=sequence("processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                                template("<|begin|>", m)),
        added_tokens=[added(m, "<|begin|>", special=True), added(m + 1, "<|end|>", special=True)],
        extra=["zz zzz z isn there", "<|begin|>zz<|end|>"])
    put("o200k", more, pre_tokenizer=by_pattern(PATTERNS["o200k"]))
    strips = [added(n, "<l>", lstrip=True), added(n + 1, "<r>", rstrip=True), added(n + 2, "<b>", lstrip=True, rstrip=True),
              added(n + 3, "cat", single_word=True), added(n + 4, "cats"), added(n + 5, "  "), added(n + 6, " t"),
              added(n + 7, "\u03b5\u0301x", normalized=True), added(n + 8, "\u2126", normalized=True), added(n + 9, "<n>", normalized=True, lstrip=True),
              added(n + 10, "<n> ", normalized=True), added(n + 11, "the", single_word=True, normalized=True),
              *(added(n + 12 + i, f"<unused{i}>") for i in range(13))]
    put("added", model, normalizer={"type": "NFC"}, pre_tokenizer=byte_level(), added_tokens=strips,
        extra=["x <l> y<l>", " <r>   the", "<r>  x<r> t", "a  <b>  b", "cat cats catx xcat cat. \u00e9cat cat\u0301 _cat", "\u03adx \u03b5\u0301x \u03b5x",
               "\u03a9 \u2126", " <n> <n>x  <n>", "the then (the) \u24d0the \u00bdthe", "<unused1><unused12><unused><unused123>", "<r>     t"])


def char_kinds():
    llama = chars_model(["<unk>", "<s>", "</s>"])
    three = [added(i, s, special=True) for i, s in enumerate(("<unk>", "<s>", "</s>"))]
    prepend = sequence("normalizers", {"type": "Prepend", "prepend": MARK}, replace(" ", MARK))
    turns = ["<s>the cat</s> the", "</s>", " </s> x", "x<s> ", "<s><s>", "\u20ac\ud55c the\u20ac"]
    put("llama", llama, normalizer=prepend, decoder=fallback_decoder(True), added_tokens=three, post_processor=template("<s>", 1), extra=turns)
    strings = {**llama, "merges": [" ".join(m) for m in llama["merges"] if " " not in "".join(m)]}
    put("llama_added", strings, normalizer=prepend, decoder=fallback_decoder(True),
        added_tokens=three + [added(len(llama["vocab"]), "foo", normalized=True), added(len(llama["vocab"]) + 1, "bar")],
        extra=["foo", "the foo", "xfoo foofoo", "bar foo bar", "xbarfoo"])
    for scheme, split in (("first", False), ("first", True), ("always", True), ("always", False), ("never", True)):
        put(f"metaspace_{scheme}{'_split' if split else ''}", llama, pre_tokenizer=metaspace(scheme, split),
            decoder=metaspace(scheme, split) if split else fallback_decoder(scheme != "never"), added_tokens=three, extra=turns)
    gemma = chars_model(["<pad>", "<eos>", "<bos>", "<unk>"])
    runs = [added(i, s, special=True) for i, s in enumerate(("<pad>", "<eos>", "<bos>", "<unk>"))]
    for i in range(2, 32):
        for s in ("\n" * i, MARK * i):
            runs.append(added(gemma["vocab"].setdefault(s, len(gemma["vocab"])), s))
    put("gemma", gemma, normalizer=replace(" ", MARK), decoder=fallback_decoder(False), post_processor=template("<bos>", 2),
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        added_tokens=sorted(runs, key=lambda a: a["id"]), extra=["<bos>the <eos>", MARK * 5 + "x", "\n" * 33])
    some = chars_model(["<unk>"], bytes=[b for b in range(256) if b not in (0xE4, 0xF0, 0xCE)])
    puzzle = ["\u4f60\u00e6\u4f61\u20acx\U0001f469\u0e01", "\u4f61\u4f62", "\u20ac\u4f61\u20ac"]
    put("some_bytes", some, pre_tokenizer=metaspace("always", True), decoder=fallback_decoder(True), extra=puzzle)
    put("unknown", {**some, "byte_fallback": False}, pre_tokenizer=metaspace("always", False), decoder=metaspace("always", False), extra=puzzle)
    put("unknown_each", {**some, "byte_fallback": False, "fuse_unk": False}, normalizer=replace(" ", MARK), decoder=fallback_decoder(False), extra=puzzle)
    put("left_out", {**some, "byte_fallback": False, "unk_token": None}, normalizer=replace(" ", MARK), decoder=fallback_decoder(False), extra=puzzle)
    put("behind", {**some, "ignore_merges": True}, decoder=fallback_decoder(False), extra=["the", "a b  c"],
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False})


shutil.rmtree(HERE, ignore_errors=True)
byte_kinds()
char_kinds()
