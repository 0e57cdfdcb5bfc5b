#pragma once
#include "merge.h"
#include "normalize.h"
#include "split.h"

/* ==== >>lm: tokenizer: encode ================================================================= */

/* -- words -- */

/* Words seen before are looked up; where the table is full they are merged again. */
static bool lmi_encode_word(sae_tokenizer *t, const unsigned char *s, size_t size,
                            sae_tokens *out) {
    uint64_t hash;
    size_t at, probes = 0;
    lmi_word *w;
    if (size > LMI_CACHE_BYTES)
        return lmi_merge_word(t, s, size) && lmi_ids_add(out, t->symbols.id, t->symbols.count);
    hash = lmi_hash(s, size);
    at = (size_t)hash & (2 * LMI_CACHE_WORDS - 1);
    for (w = &t->word[at]; w->size; w = &t->word[at]) {
        if (w->hash == hash && w->size == size
            && memcmp(t->word_bytes.data + w->at, s, size) == 0)
            return lmi_ids_add(out, t->word_ids.id + w->first, w->count);
        at = (at + 1) & (2 * LMI_CACHE_WORDS - 1);
        if (++probes == 32) break;
    }
    if (!lmi_merge_word(t, s, size)
        || !lmi_ids_add(out, t->symbols.id, t->symbols.count))
        return false;
    if (w->size || t->words == LMI_CACHE_WORDS) return true;
    w->at = (uint32_t)t->word_bytes.size;
    w->first = (uint32_t)t->word_ids.count;
    w->count = (uint32_t)t->symbols.count;
    w->hash = hash;
    if (!lmi_text_add(&t->word_bytes, s, size)
        || !lmi_ids_add(&t->word_ids, t->symbols.id, t->symbols.count))
        return false;
    w->size = (uint32_t)size;
    t->words++;
    return true;
}

/* Bytes of a long word up to its first seam. Both characters there have tokens: what has none may
   be left out, or be one with its like. */
static size_t lmi_seam_length(const sae_tokenizer *t, const unsigned char *s, size_t left) {
    size_t before = 0, at, length;
    uint32_t last = lmi_code(s, left, &at);
    while (at < left) {
        uint32_t c = lmi_code(s + at, left - at, &length);
        size_t bit = lmi_seam_at(t, last, c);
        if (!(t->seam[bit / 8] >> bit % 8 & 1) && lmi_char_id(t, s + at, length) >= 0
            && lmi_char_id(t, s + before, at - before) >= 0)
            return at;
        last = c;
        before = at;
        at += length;
    }
    return left;
}

static bool lmi_encode_words(sae_tokenizer *t, const unsigned char *s, size_t size, bool first,
                             sae_tokens *out) {
    if (!lmi_mark_spaces(t, first, &s, &size)) return false;
    while (size) {
        size_t word = lmi_word_length(t, s, size), length;
        for (; word; s += length, word -= length, size -= length) {
            length = word > LMI_CACHE_BYTES && t->seam ? lmi_seam_length(t, s, word) : word;
            if (!lmi_encode_word(t, s, length, out)) return false;
        }
    }
    return true;
}

/* -- added tokens -- */

/* The longest one of a kind at s; NULL: none. */
static const lmi_added *lmi_added_at(const sae_tokenizer *t, int kind, const unsigned char *s,
                                     size_t left) {
    const lmi_added *added = t->added[kind], *best = NULL;
    size_t lo = t->starts[kind][s[0]], hi = t->starts[kind][s[0] + 1];
    for (size_t same = 1; lo < hi; same++) { /* [lo,hi) begin with s [same] */
        size_t a = lo, b = hi;
        if (added[lo].span.size == same) best = &added[lo];
        while (lo < hi && added[lo].span.size == same) lo++;
        if (lo == hi || same == left) break;
        a = lo;
        while (a < b) { /* the first one whose next byte is not below s[same] */
            size_t mid = (a + b) / 2;
            if ((unsigned char)added[mid].text[same] < s[same]) a = mid + 1;
            else b = mid;
        }
        lo = a;
        b = hi;
        while (a < b) { /* the first one above */
            size_t mid = (a + b) / 2;
            if ((unsigned char)added[mid].text[same] <= s[same]) a = mid + 1;
            else b = mid;
        }
        hi = a;
    }
    return best;
}

/* Where the white space that ends at `end` begins, not before begin. */
static size_t lmi_strip(const unsigned char *s, size_t begin, size_t end) {
    size_t at = begin, kept = begin, length;
    for (; at < end; at += length)
        if (!(lmi_class(lmi_code(s + at, end - at, &length)) & LMI_SPACE)) kept = at + length;
    return kept;
}

/* Whether a token at [start,stop) of s [size] stands between characters of words. */
static bool lmi_in_word(const unsigned char *s, size_t size, size_t start, size_t stop) {
    size_t length = 0, n;
    if (stop < size && (lmi_class(lmi_code(s + stop, size - stop, &length)) & LMI_WORD))
        return true;
    for (n = lmi_min(start, 4); n > 0; n--) { /* the character in front */
        uint32_t c = lmi_code(s + start - n, n, &length);
        if (length == n) return (lmi_class(c) & LMI_WORD) != 0;
    }
    return false;
}

static bool lmi_encode_between(sae_tokenizer *t, int kind, const unsigned char *s, size_t size,
                               bool first, sae_tokens *out);

/* Takes the added tokens of one kind out of a text; what lies between goes on. */
static bool lmi_encode_text(sae_tokenizer *t, int kind, const unsigned char *s, size_t size,
                            bool first, sae_tokens *out) {
    const uint32_t *starts = t->starts[kind];
    size_t begin = 0, at = 0;
    for (;;) {
        const lmi_added *a = NULL;
        size_t start, stop;
        while (at < size
               && (starts[s[at]] == starts[s[at] + 1]
                   || !(a = lmi_added_at(t, kind, s + at, size - at))))
            at++;
        if (!a) break;
        start = at;
        stop = at += a->span.size;
        if (a->single_word && lmi_in_word(s, size, start, stop)) continue;
        if (a->lstrip && start > begin) start = lmi_strip(s, begin, start);
        if (a->rstrip) stop += lmi_run_of(s + stop, size - stop, LMI_SPACE);
        if (start > begin
            && !lmi_encode_between(t, kind, s + begin, start - begin, first && !begin, out))
            return false;
        if (!lmi_tokens_add(out, a->id)) return false;
        begin = stop;
    }
    return begin == size
           || lmi_encode_between(t, kind, s + begin, size - begin, first && !begin, out);
}

static bool lmi_encode_between(sae_tokenizer *t, int kind, const unsigned char *s, size_t size,
                               bool first, sae_tokens *out) {
    if (kind) return lmi_encode_words(t, s, size, first, out);
    return lmi_normalize(t, &s, &size) && lmi_encode_text(t, 1, s, size, first, out);
}

SAE_API const int32_t *sae_tokenizer_bos(const sae_tokenizer *t, size_t *count) {
    *count = t->bos.count;
    return t->bos.id;
}

SAE_API sae_result sae_tokenizer_encode(sae_tokenizer *t, const char *text, size_t size, bool bos,
                                        sae_tokens *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!text && size))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_encode: text and out may not be NULL");
    before = out->count;
    if ((bos && !lmi_ids_add(out, t->bos.id, t->bos.count))
        || !lmi_encode_text(t, 0, (const unsigned char *)text, size, true, out)) {
        out->count = before;
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_tokenizer_encode: no memory for the tokens of %zu bytes",
                                size);
    }
    return SAE_OK;
}
