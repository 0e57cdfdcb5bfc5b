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
