"""Writes src/lm/unicode_classes.h and src/lm/unicode_nfc.h: what sae_lm.h must know of Unicode.

    python3 tools/make_unicode.py src/lm

Classes are those of Unicode 16.0 (package unicodedata2 16.0.0; Python 3.14's own module has them too). NFC
follows Unicode 9.0, as the package tokenizers does: what it does not know is asked of it here and left out.
tests/peers_lm.py holds the result against tokenizers for every code point.
"""
import contextlib
import sys
import unicodedata

try:
    import unicodedata2 as classes
except ImportError:
    classes = unicodedata
from tokenizers import normalizers

NFC = normalizers.NFC().normalize_str
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
SPACES = [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


# circled and squared letters: alphabetic, though symbols
CIRCLED = [*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)]
JOINERS = [0x200C, 0x200D]


def class_of(c):
    """The class, and 8 for what \\w matches"""
    k = classes.category(chr(c))
    word = 8 if k[0] in "LM" or k in ("Nd", "Nl", "Pc") or c in CIRCLED or c in JOINERS else 0
    if c in SPACES:
        return word | 6
    return word | {"Lu": 1, "Lt": 1, "Ll": 2, "Lm": 3, "Lo": 3}.get(k, {"M": 4, "N": 5}.get(k[0], 0))


def boundaries():
    """code << 4 | class wherever the class changes"""
    out, last = [], 0
    for c in range(0x80, 0x110000):
        k = 0 if 0xD800 <= c < 0xE000 else class_of(c)
        if k != last:
            out.append(c << 4 | k)
            last = k
    return out


def marks():
    """(first, last, combining class) of the code points tokenizers reorders"""
    out = []
    for c in POINTS:
        k = unicodedata.combining(chr(c))
        if not k:
            continue
        # known if a mark of a higher class moves behind it, or it moves behind one of a lower class
        known = NFC("\u0345" + chr(c)) != "\u0345" + chr(c) if k < 240 else NFC(chr(c) + "\u0334") != chr(c) + "\u0334"
        if not known:
            continue
        if out and out[-1][1] == c - 1 and out[-1][2] == k:
            out[-1][1] = c
        else:
            out.append([c, c, k])
    return out


def pairs():
    """(code, first, second or 0) of canonical decompositions, Hangul's syllables aside"""
    out = []
    for c in POINTS:
        d = unicodedata.decomposition(chr(c))
        if not d or d.startswith("<"):
            continue
        d = [int(x, 16) for x in d.split()]
        composed = unicodedata.normalize("NFC", chr(c)) == chr(c)
        if composed and NFC(unicodedata.normalize("NFD", chr(c))) != chr(c):
            continue  # newer than tokenizers' table
        out.append((c, d[0], d[1] if len(d) > 1 else 0))
    return out


def put(kind, name, numbers, about):
    print(f"\n/* {about} */")
    print(f"static const {kind} {name}[] = {{")
    line = "   "
    for n in numbers:
        word = f" {n},"
        if len(line) + len(word) > 100:
            print(line)
            line = "   "
        line += word
    print(line.rstrip(","))
    print("};")


@contextlib.contextmanager
def head(name, tag, version):
    """What is printed goes into that file."""
    with open(f"{sys.argv[1]}/{name}.h", "w") as f, contextlib.redirect_stdout(f):
        print("#pragma once\n#include <stdint.h>\n")
        print(f"/* ==== >>lm: {tag} ".ljust(97, "=") + " */")
        print(f"/* Written by tools/make_unicode.py: Unicode {version}, as the package tokenizers has it. */")
        yield


def main():
    if classes.unidata_version != "16.0.0":
        sys.exit(f"classes of Unicode 16.0.0 are needed, this Python has {classes.unidata_version}")
    table = pairs()
    composed = [i for i, (c, a, b) in enumerate(table)
                if b and NFC(chr(a) + chr(b)) == chr(c)]
    composed.sort(key=lambda i: table[i][1:])
    known = marks()
    is_mark = {c for a, b, _ in known for c in range(a, b + 1)}
    seconds = sorted({table[i][2] for i in composed} - is_mark)
    with head("unicode_classes", "unicode: classes", "16.0"):
        put("unsigned char", "lmi_ascii", [1 << class_of(c) % 8 | class_of(c) // 8 << 7 for c in range(128)],
            "of each character the sets it is in, as in text.h")
        put("uint32_t", "lmi_classes", boundaries(),
            "code << 4 | class, from there on and from U+0080: 1 upper or title case, 2 lower case,\n"
            "   3 other letter, 4 mark, 5 number, 6 white space, 0 other; + 8: \\w")
    with head("unicode_nfc", "unicode: NFC", "9.0"):
        put("uint32_t", "lmi_marks", [n for m in known for n in m], "first, last, combining class")
        put("uint32_t", "lmi_pairs", [n for p in table for n in p],
            "code, first, second (0: none): canonical decompositions but Hangul's")
        put("uint16_t", "lmi_composed", composed, "of lmi_pairs those that compose, by first and second")
        put("uint32_t", "lmi_seconds", seconds, "second ones that are no marks")


main()
