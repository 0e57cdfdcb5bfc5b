#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: encode ================================================================= */

/* -- merging the symbols of a word -- */

/* Few symbols: the best pair is looked for each time. Returns how many are left. */
static size_t lmi_merge_few(const sae_tokenizer *t, int32_t *id, size_t n) {
    lmi_merge pair[LMI_CACHE_BYTES];
    for (size_t i = 0; i + 1 < n; i++) pair[i] = *lmi_merge_slot(t, id[i], id[i + 1]);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i].left >= 0 && (best == SIZE_MAX || pair[i].rank < pair[best].rank)) best = i;
        if (best == SIZE_MAX) return n;
        id[best] = pair[best].made;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (n > best + 1) memmove(pair + best, pair + best + 1, (n - best - 1) * sizeof *pair);
        if (best + 1 < n) pair[best] = *lmi_merge_slot(t, id[best], id[best + 1]);
        if (best > 0) pair[best - 1] = *lmi_merge_slot(t, id[best - 1], id[best]);
    }
}

/* Many: a heap of pairs by rank, then place; entries whose pair is no more are passed over. */
typedef struct lmi_entry {
    int32_t rank, left, right, made;
    uint32_t at;
} lmi_entry;

typedef struct lmi_link {
    uint32_t before, behind; /* UINT32_MAX: none */
} lmi_link;

static bool lmi_sooner(const lmi_entry *a, const lmi_entry *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void lmi_heap_push(lmi_entry *heap, size_t *count, const lmi_entry *entry) {
    size_t i = (*count)++;
    for (; i > 0 && lmi_sooner(entry, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = *entry;
}

static lmi_entry lmi_heap_pop(lmi_entry *heap, size_t *count) {
    lmi_entry top = heap[0], last = heap[--*count];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && lmi_sooner(&heap[child + 1], &heap[child])) child++;
        if (!lmi_sooner(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void lmi_heap_pair(const sae_tokenizer *t, const int32_t *id, uint32_t at,
                          uint32_t behind, lmi_entry *heap, size_t *count) {
    const lmi_merge *m = lmi_merge_slot(t, id[at], id[behind]);
    lmi_entry entry;
    if (m->left < 0) return;
    entry.rank = m->rank;
    entry.left = m->left;
    entry.right = m->right;
    entry.made = m->made;
    entry.at = at;
    lmi_heap_push(heap, count, &entry);
}

/* Returns how many are left; SIZE_MAX: no memory. At most 3 n entries: n - 1, and 2 a merge. */
static size_t lmi_merge_many(sae_tokenizer *t, int32_t *id, size_t n) {
    size_t count = 0, kept = 0, room;
    lmi_entry *heap;
    lmi_link *link;
    if (n >= UINT32_MAX / 4 || !lmi_mul(n, 3, &room)
        || !lmi_grow(&t->heap, &t->heap_room, room, sizeof *heap)
        || !lmi_grow(&t->links, &t->link_room, n, sizeof *link))
        return SIZE_MAX;
    heap = (lmi_entry *)t->heap;
    link = (lmi_link *)t->links;
    for (size_t i = 0; i < n; i++) {
        link[i].before = i ? (uint32_t)(i - 1) : UINT32_MAX;
        link[i].behind = i + 1 < n ? (uint32_t)(i + 1) : UINT32_MAX;
    }
    for (size_t i = 0; i + 1 < n; i++)
        lmi_heap_pair(t, id, (uint32_t)i, (uint32_t)(i + 1), heap, &count);
    while (count) {
        lmi_entry top = lmi_heap_pop(heap, &count);
        uint32_t behind = link[top.at].behind;
        if (behind == UINT32_MAX || id[top.at] != top.left || id[behind] != top.right) continue;
        id[top.at] = top.made;
        id[behind] = -1;
        link[top.at].behind = link[behind].behind;
        if (link[behind].behind != UINT32_MAX) {
            link[link[behind].behind].before = top.at;
            lmi_heap_pair(t, id, top.at, link[behind].behind, heap, &count);
        }
        if (link[top.at].before != UINT32_MAX)
            lmi_heap_pair(t, id, link[top.at].before, top.at, heap, &count);
    }
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0) id[kept++] = id[i];
    return kept;
}

/* Characters without a token: the unknown token for each, or for a run of them, or nothing. */
static bool lmi_symbols(sae_tokenizer *t, const unsigned char *s, size_t size) {
    bool unknown = false;
    t->symbols.count = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t id = t->byte_id[s[i]];
        if (id < 0) {
            if (t->unknown < 0 || (unknown && t->fuse_unknown)) continue;
            id = t->unknown;
            unknown = true;
        } else unknown = false;
        if (!lmi_tokens_add(&t->symbols, id)) return false;
    }
    return true;
}

/* The word's ids, into symbols. */
static bool lmi_merge_word(sae_tokenizer *t, const unsigned char *s, size_t size) {
    int32_t whole = t->ignore_merges ? lmi_plain_find(t, (const char *)s, size) : -1;
    size_t n;
    if (whole >= 0) {
        t->symbols.count = 0;
        return lmi_tokens_add(&t->symbols, whole);
    }
    if (!lmi_symbols(t, s, size)) return false;
    n = t->symbols.count;
    n = n <= LMI_CACHE_BYTES ? lmi_merge_few(t, t->symbols.id, n)
                               : lmi_merge_many(t, t->symbols.id, n);
    if (n == SIZE_MAX) return false;
    t->symbols.count = n;
    return true;
}

static bool lmi_ids_add(sae_tokens *out, const int32_t *id, size_t count) {
    if (!lmi_grow((void **)&out->id, &out->capacity, out->count + count, sizeof *id))
        return false;
    if (count) memcpy(out->id + out->count, id, count * sizeof *id);
    out->count += count;
    return true;
}

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

/* -- splitting -- */

/* Bytes of the characters of one class at s, at least 0. */
static size_t lmi_run_of(const unsigned char *s, size_t left, int kind, size_t *last) {
    size_t at = 0, length;
    while (at < left && lmi_class(lmi_code(s + at, left - at, &length)) == kind) {
        if (last) *last = at;
        at += length;
    }
    return at;
}

/* Length of the next word, left > 0: GPT-2's
   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t lmi_word_length(const unsigned char *s, size_t left) {
    size_t space = s[0] == ' ' && left > 1, length, last = 0, end;
    int kind;
    if (s[0] == '\'' && left > 1) {
        if (strchr("stmd", s[1]) && s[1]) return 2;
        if (left > 2 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e')
                         || (s[1] == 'l' && s[2] == 'l')))
            return 3;
    }
    kind = lmi_class(lmi_code(s + space, left - space, &length));
    if (kind != LMI_SPACE) return space + lmi_run_of(s + space, left - space, kind, NULL);
    end = lmi_run_of(s, left, LMI_SPACE, &last);
    return end == left || last == 0 ? end : last; /* the last one goes with the next word */
}

static bool lmi_encode_words(sae_tokenizer *t, const unsigned char *s, size_t size,
                             sae_tokens *out) {
    if (t->prefix_space && size && s[0] != ' ') {
        t->spaced.size = 0;
        if (!lmi_text_add(&t->spaced, " ", 1) || !lmi_text_add(&t->spaced, s, size))
            return false;
        s = (const unsigned char *)t->spaced.data;
        size++;
    }
    while (size) {
        size_t length = t->no_regex ? size : lmi_word_length(s, size);
        if (!lmi_encode_word(t, s, length, out)) return false;
        s += length;
        size -= length;
    }
    return true;
}

/* The longest added token at s; NULL: none. */
static const lmi_added *lmi_added_at(const sae_tokenizer *t, bool normalized,
                                     const unsigned char *s, size_t left) {
    if (!t->starts[normalized][s[0]]) return NULL;
    for (size_t i = 0; i < t->num_added; i++) {
        const lmi_added *a = &t->added[i];
        if (a->normalized == normalized && a->size <= left
            && memcmp(t->arena.data + a->at, s, a->size) == 0)
            return a;
    }
    return NULL;
}

/* Where the white space that ends at `end` begins, not before begin. */
static size_t lmi_strip(const unsigned char *s, size_t begin, size_t end) {
    size_t at = begin, kept = begin, length;
    for (; at < end; at += length) {
        bool space = lmi_class(lmi_code(s + at, end - at, &length)) == LMI_SPACE;
        if (!space) kept = at + length;
    }
    return kept;
}

/* Cuts text at the added tokens of one kind; what lies between goes on: NFC and the other kind, or
   words. */
static bool lmi_encode_text(sae_tokenizer *t, const unsigned char *s, size_t size,
                            bool normalized, sae_tokens *out) {
    size_t begin = 0, at = 0;
    for (;;) {
        const lmi_added *a = NULL;
        size_t end;
        while (at < size && !(a = lmi_added_at(t, normalized, s + at, size - at))) at++;
        end = a && a->lstrip ? lmi_strip(s, begin, at) : at;
        if (end > begin) {
            if (normalized) {
                if (!lmi_encode_words(t, s + begin, end - begin, out)) return false;
            } else if (!t->nfc) {
                if (!lmi_encode_text(t, s + begin, end - begin, true, out)) return false;
            } else {
                t->normal.size = 0;
                if (!lmi_nfc(s + begin, end - begin, &t->cluster, &t->normal)
                    || !lmi_encode_text(t, (const unsigned char *)t->normal.data, t->normal.size,
                                        true, out))
                    return false;
            }
        }
        if (!a) return true;
        if (!lmi_tokens_add(out, a->id)) return false;
        at += a->size;
        if (a->rstrip) at += lmi_run_of(s + at, size - at, LMI_SPACE, NULL);
        begin = at;
    }
}

SAE_API const int32_t *sae_tokenizer_bos(const sae_tokenizer *t, size_t *count) {
    *count = t->before.count;
    return t->before.id;
}

SAE_API sae_result sae_tokenizer_encode(sae_tokenizer *t, const char *text, size_t size, bool bos,
                                        sae_tokens *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!text && size))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_encode: text and out may not be NULL");
    before = out->count;
    if ((bos && !lmi_ids_add(out, t->before.id, t->before.count))
        || !lmi_encode_text(t, (const unsigned char *)text, size, false, out)) {
        out->count = before;
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_tokenizer_encode: no memory for the tokens of %zu "
                                "bytes",
                                size);
    }
    return SAE_OK;
}
