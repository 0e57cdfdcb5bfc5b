#pragma once
#include "unicode_classes.h"
#include "unicode_nfc.h"
#include "base.h"
#include "api_text.h"

/* ==== >>lm: text ============================================================================== */

/* Sets of characters. Each is in one of the first seven, which are 1 << class, and may be a WORD,
   \w, too. */
enum {
    LMI_OTHER = 1, LMI_UPPER = 2, LMI_LOWER = 4, LMI_UNCASED = 8, LMI_MARK = 16, LMI_NUMBER = 32,
    LMI_SPACE = 64, LMI_WORD = 128, LMI_LETTER = LMI_UPPER | LMI_LOWER | LMI_UNCASED
};
#define LMI_COUNT(table) (sizeof table / sizeof table[0])

/* The code point at s (left > 0) and its length; a byte that is no UTF-8 gives UINT32_MAX, 1. */
static uint32_t lmi_code(const unsigned char *s, size_t left, size_t *length) {
    uint32_t c = s[0];
    size_t n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    *length = 1;
    if (n == 1) return c;
    if (!n || n > left) return UINT32_MAX;
    c &= 0x7Fu >> n;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return UINT32_MAX;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if ((n == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000)))
        || (n == 4 && (c < 0x10000 || c > 0x10FFFF)))
        return UINT32_MAX;
    *length = n;
    return c;
}

static size_t lmi_put_code(uint32_t c, unsigned char *out) {
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (unsigned char)(0xC0 | c >> 6);
        out[1] = (unsigned char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (unsigned char)(0xE0 | c >> 12);
        out[1] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (unsigned char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (unsigned char)(0xF0 | c >> 18);
    out[1] = (unsigned char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (unsigned char)(0x80 | (c & 0x3F));
    return 4;
}

/* The sets that c is in; UINT32_MAX is LMI_OTHER. */
static unsigned lmi_class(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_classes);
    unsigned k = 0;
    if (c < 0x80) return lmi_ascii[c];
    if (c == UINT32_MAX) return LMI_OTHER;
    while (lo < hi) { /* the last boundary at or below c is lo - 1 */
        size_t mid = (lo + hi) / 2;
        if (lmi_classes[mid] >> 4 <= c) lo = mid + 1;
        else hi = mid;
    }
    if (lo) k = lmi_classes[lo - 1] & 15;
    return 1u << (k & 7) | (k & 8) << 4;
}

/* Canonical combining class. */
static uint32_t lmi_mark(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_marks) / 3;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (lmi_marks[3 * mid + 1] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo < LMI_COUNT(lmi_marks) / 3 && lmi_marks[3 * lo] <= c ? lmi_marks[3 * lo + 2]
                                                                          : 0;
}

/* Hangul: a syllable is 0xAC00 + (lead 21 + vowel) 28 + tail. */
enum {
    LMI_SYLLABLE = 0xAC00, LMI_LEAD = 0x1100, LMI_VOWEL = 0x1161, LMI_TAIL = 0x11A7,
    LMI_LEADS = 19, LMI_VOWELS = 21, LMI_TAILS = 28
};

/* c, first, second (0: none) that it is made of; NULL: of itself. */
static const uint32_t *lmi_parts_of(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_pairs) / 3;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (lmi_pairs[3 * mid] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo < LMI_COUNT(lmi_pairs) / 3 && lmi_pairs[3 * lo] == c ? &lmi_pairs[3 * lo] : NULL;
}

/* Whether c, or what it is made of, may join what stands before it. */
static bool lmi_joins(uint32_t c) {
    const uint32_t *parts = lmi_parts_of(c);
    if (parts) return lmi_joins(parts[1]); /* at most 3 deep */
    if (c - LMI_VOWEL < LMI_VOWELS || c - LMI_TAIL - 1 < LMI_TAILS - 1) return true;
    if (lmi_mark(c)) return true;
    for (size_t i = 0; i < LMI_COUNT(lmi_seconds); i++)
        if (lmi_seconds[i] == c) return true;
    return false;
}

/* The character that a and b make; 0: none. */
static uint32_t lmi_compose(uint32_t a, uint32_t b) {
    size_t lo = 0, hi = LMI_COUNT(lmi_composed);
    if (a - LMI_LEAD < LMI_LEADS && b - LMI_VOWEL < LMI_VOWELS)
        return LMI_SYLLABLE
               + ((a - LMI_LEAD) * LMI_VOWELS + b - LMI_VOWEL) * LMI_TAILS;
    if (a - LMI_SYLLABLE < LMI_LEADS * LMI_VOWELS * LMI_TAILS
        && (a - LMI_SYLLABLE) % LMI_TAILS == 0 && b - LMI_TAIL - 1 < LMI_TAILS - 1)
        return a + b - LMI_TAIL;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const uint32_t *p = lmi_pairs + 3 * lmi_composed[mid];
        if (p[1] == a && p[2] == b) return p[0];
        if (p[1] < a || (p[1] == a && p[2] < b)) lo = mid + 1;
        else hi = mid;
    }
    return 0;
}

/* Characters waiting for the marks behind them, decomposed. */
typedef struct lmi_cluster {
    uint32_t *code, *sorted;
    size_t count, capacity, room; /* room: of sorted */
} lmi_cluster;

static bool lmi_decompose(lmi_cluster *k, uint32_t c) {
    uint32_t s = c - LMI_SYLLABLE;
    const uint32_t *parts;
    if (s < LMI_LEADS * LMI_VOWELS * LMI_TAILS)
        return lmi_decompose(k, LMI_LEAD + s / (LMI_VOWELS * LMI_TAILS))
               && lmi_decompose(k, LMI_VOWEL + s / LMI_TAILS % LMI_VOWELS)
               && (s % LMI_TAILS == 0 || lmi_decompose(k, LMI_TAIL + s % LMI_TAILS));
    parts = lmi_parts_of(c);
    if (parts) /* at most 3 deep */
        return lmi_decompose(k, parts[1]) && (!parts[2] || lmi_decompose(k, parts[2]));
    if (!lmi_grow((void **)&k->code, &k->capacity, k->count + 1, sizeof *k->code)) return false;
    k->code[k->count++] = c;
    return true;
}

/* Marks that stand together, by class, those of one class as they come. */
static bool lmi_sort_marks(lmi_cluster *k, uint32_t *mark, size_t count) {
    for (size_t i = 0; i < count; i++) mark[i] |= lmi_mark(mark[i]) << 24;
    if (count <= 64) {
        for (size_t i = 1, to; i < count; i++) {
            uint32_t c = mark[i];
            for (to = i; to > 0 && mark[to - 1] >> 24 > c >> 24; to--) mark[to] = mark[to - 1];
            mark[to] = c;
        }
    } else {
        size_t n = 0;
        if (!lmi_grow((void **)&k->sorted, &k->room, count, sizeof *k->sorted)) return false;
        for (uint32_t order = 1; n < count; order++)
            for (size_t i = 0; i < count; i++)
                if (mark[i] >> 24 == order) k->sorted[n++] = mark[i];
        memcpy(mark, k->sorted, count * sizeof *mark);
    }
    for (size_t i = 0; i < count; i++) mark[i] &= 0xFFFFFF;
    return true;
}

static bool lmi_text_add(sae_text *t, const void *data, size_t size) {
    if (size > SIZE_MAX - 1 - t->size
        || !lmi_grow((void **)&t->data, &t->capacity, t->size + size + 1, 1))
        return false;
    if (size) memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
    return true;
}

/* Joins what can be joined, and writes it. */
static bool lmi_cluster_end(lmi_cluster *k, sae_text *out) {
    size_t starter = SIZE_MAX, kept = 0;
    uint32_t last = 0; /* class of the mark kept last behind the starter */
    for (size_t i = 0, marks = 0; i <= k->count; i++) {
        if (i < k->count && lmi_mark(k->code[i])) marks++;
        else if (marks > 1 && !lmi_sort_marks(k, k->code + i - marks, marks)) return false;
        else marks = 0;
    }
    for (size_t i = 0; i < k->count; i++) {
        uint32_t c = k->code[i], order = lmi_mark(c), made = 0;
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last < order))
            made = lmi_compose(k->code[starter], c);
        if (made) {
            k->code[starter] = made;
            continue;
        }
        if (!order) {
            starter = kept;
            last = 0;
        } else last = order;
        k->code[kept++] = c;
    }
    for (size_t i = 0; i < kept; i++) {
        unsigned char bytes[4];
        if (!lmi_text_add(out, bytes, lmi_put_code(k->code[i], bytes))) return false;
    }
    k->count = 0;
    return true;
}

/* Appends the NFC of text. A character below U+0300 with another behind it is as it should be, and
   is copied; others wait in k for what may join them. */
static bool lmi_nfc(const unsigned char *s, size_t size, lmi_cluster *k, sae_text *out) {
    size_t plain = 0; /* [plain, at) is to be copied; empty while something waits */
    k->count = 0;
    for (size_t at = 0, length, next; at < size; at = next) {
        uint32_t c = lmi_code(s + at, size - at, &length);
        next = at + length;
        if (c == UINT32_MAX || (c < 0x300 && (next == size || s[next] < 0xCC))) {
            if (!lmi_cluster_end(k, out)) return false;
            continue;
        }
        if (!lmi_text_add(out, s + plain, at - plain)) return false;
        if (!lmi_joins(c) && !lmi_cluster_end(k, out)) return false;
        if (!lmi_decompose(k, c)) return false;
        plain = next;
    }
    return lmi_cluster_end(k, out) && lmi_text_add(out, s + plain, size - plain);
}
