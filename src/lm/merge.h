#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: merging ================================================================ */
/* Of all pairs side by side that have a merge, the one of the lowest rank, of equal ones the
   leftmost, becomes one symbol; and so on until none is left. */

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

/* Many: a heap of rank << 32 | place; entries whose pair is another by now are passed over. */
typedef struct lmi_link {
    uint32_t before, behind; /* UINT32_MAX: none */
} lmi_link;

static void lmi_heap_push(uint64_t *heap, size_t *count, uint64_t entry) {
    size_t i = (*count)++;
    for (; i > 0 && entry < heap[(i - 1) / 2]; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
}

static uint64_t lmi_heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0], last = heap[--*count];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void lmi_heap_pair(const sae_tokenizer *t, const int32_t *id, size_t at, size_t behind,
                          uint64_t *heap, size_t *count) {
    const lmi_merge *m = lmi_merge_slot(t, id[at], id[behind]);
    if (m->left >= 0) lmi_heap_push(heap, count, (uint64_t)(uint32_t)m->rank << 32 | at);
}

/* Returns how many are left; SIZE_MAX: no memory. At most 3 n entries: n - 1, and 2 a merge. */
static size_t lmi_merge_many(sae_tokenizer *t, int32_t *id, size_t n) {
    size_t count = 0, kept = 0, room;
    uint64_t *heap;
    lmi_link *link;
    if (n >= UINT32_MAX || !lmi_mul(n, 3, &room)
        || !lmi_grow((void **)&t->heap, &t->heap_room, room, sizeof *heap)
        || !lmi_grow((void **)&t->link, &t->link_room, n, sizeof *link))
        return SIZE_MAX;
    heap = t->heap;
    link = t->link;
    for (size_t i = 0; i < n; i++) {
        link[i].before = i ? (uint32_t)(i - 1) : UINT32_MAX;
        link[i].behind = i + 1 < n ? (uint32_t)(i + 1) : UINT32_MAX;
    }
    for (size_t i = 0; i + 1 < n; i++) lmi_heap_pair(t, id, i, i + 1, heap, &count);
    while (count) {
        uint64_t top = lmi_heap_pop(heap, &count);
        uint32_t at = (uint32_t)top, behind = link[at].behind;
        const lmi_merge *m;
        if (id[at] < 0 || behind == UINT32_MAX) continue; /* taken in; the last */
        m = lmi_merge_slot(t, id[at], id[behind]);
        if (m->left < 0 || (uint32_t)m->rank != top >> 32) continue;
        id[at] = m->made;
        id[behind] = -1;
        link[at].behind = link[behind].behind;
        if (link[at].behind != UINT32_MAX) {
            link[link[at].behind].before = at;
            lmi_heap_pair(t, id, at, link[at].behind, heap, &count);
        }
        if (link[at].before != UINT32_MAX)
            lmi_heap_pair(t, id, link[at].before, at, heap, &count);
    }
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0) id[kept++] = id[i];
    return kept;
}

/* The id of the character s [size]; -1: none. */
static int32_t lmi_char_id(const sae_tokenizer *t, const unsigned char *s, size_t size) {
    return s[0] < 128 ? t->ascii_id[s[0]] : lmi_piece_find(t, s, size);
}

/* All bytes of a character without a token of its own as tokens; *all false: one has none. */
static bool lmi_fall_back(sae_tokenizer *t, const unsigned char *s, size_t size, bool *all) {
    *all = t->byte_fallback;
    for (size_t i = 0; i < size; i++) *all = *all && t->byte_id[s[i]] >= 0;
    for (size_t i = 0; i < size && *all; i++)
        if (!lmi_tokens_add(&t->symbols, t->byte_id[s[i]])) return false;
    return true;
}

/* A word's symbols. Those without a token become the unknown one, each or a run of them, or
   nothing. It comes in front of the next symbol that has a token, behind bytes fallen back to, as
   in tokenizers. */
static bool lmi_symbols(sae_tokenizer *t, const unsigned char *s, size_t size) {
    bool unknown = false, all = false;
    size_t length = 1;
    t->symbols.count = 0;
    for (size_t i = 0; i < size; i += length) {
        int32_t id;
        if (!t->bytes) lmi_code(s + i, size - i, &length);
        id = t->bytes ? t->byte_id[s[i]] : lmi_char_id(t, s + i, length);
        if (id < 0 && !t->bytes) {
            if (!lmi_fall_back(t, s + i, length, &all)) return false;
            if (all) continue;
        }
        if (unknown && (id >= 0 || !t->fuse_unknown)) {
            if (!lmi_tokens_add(&t->symbols, t->unknown)) return false;
            unknown = false;
        }
        if (id < 0) unknown = t->unknown >= 0;
        else if (!lmi_tokens_add(&t->symbols, id)) return false;
    }
    return !unknown || lmi_tokens_add(&t->symbols, t->unknown);
}

/* The word's ids, into symbols. */
static bool lmi_merge_word(sae_tokenizer *t, const unsigned char *s, size_t size) {
    int32_t whole = t->ignore_merges ? lmi_piece_find(t, s, size) : -1;
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
