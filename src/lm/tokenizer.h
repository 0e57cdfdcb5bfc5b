#pragma once
#include "text.h"

/* ==== >>lm: tokenizer: tables ================================================================= */
/* What a tokenizer is, whatever file told it. The road of a text:
     added tokens [0] are found in it; what lies between is normalised by the steps;
     added tokens [1] are found in that; what lies between is cut into words by the splitter;
     a word's bytes or characters are looked up, and merged while a pair of them has a merge. */

enum {
    LMI_MAX_ID = 1 << 21, LMI_MAX_STEPS = 8, LMI_CACHE_WORDS = 1 << 16, LMI_CACHE_BYTES = 48
};

typedef struct lmi_span { /* bytes of the arena */
    uint32_t at, size;
} lmi_span;

typedef struct lmi_token {
    lmi_span piece; /* what merges and words are made of */
    lmi_span text;  /* what it decodes to */
    bool there;     /* the id exists */
    bool plain;     /* of the vocabulary: words are looked up in these */
    bool stands_in; /* for what has no token: its piece is nothing that a text was looked up by */
} lmi_token;

typedef struct lmi_merge {
    int32_t left, right; /* left -1: an empty slot */
    int32_t rank, made;
} lmi_merge;

typedef struct lmi_added {
    lmi_span span;    /* what it matches */
    const char *text; /* the same, once the arena grows no more */
    int32_t id;
    bool lstrip, rstrip, single_word;
} lmi_added;

typedef enum lmi_normal_kind { LMI_NFC, LMI_REPLACE, LMI_PREPEND } lmi_normal_kind;
typedef struct lmi_normal_step {
    lmi_normal_kind kind;
    lmi_span from, to; /* NFC has none, PREPEND has to */
} lmi_normal_step;

typedef enum lmi_prefix { LMI_PREFIX_NEVER, LMI_PREFIX_FIRST, LMI_PREFIX_ALWAYS } lmi_prefix;
typedef enum lmi_cut { LMI_CUT_NOT, LMI_CUT_PATTERN, LMI_CUT_BEFORE, LMI_CUT_BEHIND } lmi_cut;
/* The parts of a pattern, in the order in which they are tried. */
enum {
    LMI_ENDINGS, LMI_WORDS, LMI_NUMBERS, LMI_OTHERS, LMI_LINES, LMI_SPACES, LMI_PARTS
};

typedef struct lmi_splitter {
    lmi_cut cut;
    lmi_span mark;                 /* LMI_CUT_BEFORE, _BEHIND: cut at each of these */
    unsigned char part[LMI_PARTS]; /* LMI_CUT_PATTERN: which spelling of each */
    lmi_span blank, space;         /* each blank becomes space first; empty: they stay */
    lmi_prefix prefix;             /* put in front of what does not begin with it: */
    lmi_span prefix_text;
} lmi_splitter;

/* A word seen before and its ids. */
typedef struct lmi_word {
    uint64_t hash;
    uint32_t at, size, first, count; /* size 0: an empty slot */
} lmi_word;

struct sae_tokenizer {
    sae_context *ctx;
    char *path;
    sae_text arena;
    lmi_token *token;      /* [size] */
    size_t size;
    int32_t *slot;         /* [slots] plain tokens by their pieces; -1: empty */
    size_t slots;
    lmi_merge *merge;      /* [merges] by (left, right) */
    size_t merges;
    lmi_added *added[2];   /* by their bytes; [0] match text as it comes, [1] normalised */
    size_t num_added[2];
    uint32_t starts[2][257]; /* where those that begin with a byte begin, and end */
    lmi_normal_step step[LMI_MAX_STEPS];
    size_t num_steps;
    lmi_splitter splitter;
    bool bytes;            /* words are made of bytes, not of characters */
    bool byte_fallback;    /* a character without a token becomes its bytes' tokens */
    bool ignore_merges, fuse_unknown;
    int32_t unknown;       /* -1: what has no token is left out, as tokenizers does */
    int32_t byte_id[256];  /* of a byte; -1: none */
    int32_t ascii_id[128]; /* of a character */
    unsigned char *seam;   /* [2^seam_bits bits] 0: no merge joins the two characters. NULL: words
                              are not cut further */
    unsigned seam_bits;
    /* decoding: texts of tokens joined, then this */
    lmi_span first_drops;  /* taken out of the first token, in place of its text */
    lmi_span first_space;
    size_t strip_start, strip_stop; /* so many of strip_text come off the ends */
    lmi_span strip_text;
    sae_tokens bos;
    /* memory of encoding */
    sae_text normal[2], spaced;
    lmi_cluster cluster;
    sae_tokens symbols;
    uint64_t *heap;
    struct lmi_link *link;
    size_t heap_room, link_room;
    lmi_word *word;        /* [2 LMI_CACHE_WORDS] */
    size_t words;
    sae_text word_bytes;
    sae_tokens word_ids;
};

static uint64_t lmi_hash(const void *data, size_t size) { /* FNV-1a, 64 bit */
    const unsigned char *s = (const unsigned char *)data;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < size; i++) h = (h ^ s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static bool lmi_ids_add(sae_tokens *out, const int32_t *id, size_t count) {
    if (!lmi_grow((void **)&out->id, &out->capacity, out->count + count, sizeof *id)) return false;
    if (count) memcpy(out->id + out->count, id, count * sizeof *id);
    out->count += count;
    return true;
}

static bool lmi_tokens_add(sae_tokens *t, int32_t id) { return lmi_ids_add(t, &id, 1); }

/* -- spans -- */

static const char *lmi_span_data(const sae_tokenizer *t, lmi_span span) {
    return t->arena.data + span.at;
}

static const unsigned char *lmi_span_bytes(const sae_tokenizer *t, lmi_span span) {
    return (const unsigned char *)lmi_span_data(t, span);
}

static bool lmi_span_is(const sae_tokenizer *t, lmi_span span, const void *data, size_t size) {
    return span.size == size && memcmp(lmi_span_data(t, span), data, size) == 0;
}

static bool lmi_span_begins(const sae_tokenizer *t, lmi_span span, const void *data, size_t size) {
    return span.size <= size && memcmp(lmi_span_data(t, span), data, span.size) == 0;
}

static bool lmi_span_add(sae_tokenizer *t, const void *data, size_t size, lmi_span *out) {
    if (size > UINT32_MAX || t->arena.size > UINT32_MAX - size) return false;
    out->at = (uint32_t)t->arena.size;
    out->size = (uint32_t)size;
    return lmi_text_add(&t->arena, data, size);
}

/* Appends s with each `from` (not empty) as `to`. */
static bool lmi_replace(const sae_tokenizer *t, lmi_span from, lmi_span to, const char *s,
                        size_t size, sae_text *out) {
    const char *pattern = lmi_span_data(t, from);
    size_t kept = 0, at = 0;
    while (at < size) {
        const char *next = (const char *)memchr(s + at, pattern[0], size - at);
        if (!next) break;
        at = (size_t)(next - s);
        if (!lmi_span_begins(t, from, next, size - at)) {
            at++;
            continue;
        }
        if (!lmi_text_add(out, s + kept, at - kept)
            || !lmi_text_add(out, lmi_span_data(t, to), to.size))
            return false;
        at += from.size;
        kept = at;
    }
    return lmi_text_add(out, s + kept, size - kept);
}

/* -- looking up -- */

static int32_t lmi_piece_find(const sae_tokenizer *t, const void *piece, size_t size) {
    size_t at = (size_t)lmi_hash(piece, size) & (t->slots - 1);
    for (; t->slot[at] >= 0; at = (at + 1) & (t->slots - 1))
        if (lmi_span_is(t, t->token[t->slot[at]].piece, piece, size)) return t->slot[at];
    return -1;
}

static lmi_merge *lmi_merge_slot(const sae_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & (t->merges - 1);
    while (t->merge[at].left >= 0 && (t->merge[at].left != left || t->merge[at].right != right))
        at = (at + 1) & (t->merges - 1);
    return &t->merge[at];
}

/* -- building -- */

static sae_result lmi_tokenizer_memory(const sae_tokenizer *t) {
    return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer: no memory for %s",
                            t->path);
}

/* "sae_tokenizer_open: PATH: ..." */
static sae_result lmi_refuse(const sae_tokenizer *t, sae_result result, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sae_context_fail(t->ctx, result, "sae_tokenizer_open: %s: %s", t->path, text);
}

static size_t lmi_power_of_two(size_t least) {
    size_t n = 16;
    while (n < least) n *= 2;
    return n;
}

/* Room for so many merges, none yet. */
static bool lmi_merges_room(sae_tokenizer *t, size_t merges) {
    if (merges > SIZE_MAX / 64) return false;
    free(t->merge);
    t->merges = lmi_power_of_two(2 * merges + 2);
    t->merge = (lmi_merge *)malloc(t->merges * sizeof *t->merge);
    for (size_t i = 0; t->merge && i < t->merges; i++) t->merge[i].left = -1;
    return t->merge != NULL;
}

/* Room for ids below size, so many plain tokens and so many merges. */
static bool lmi_tokenizer_room(sae_tokenizer *t, size_t size, size_t plain, size_t merges) {
    if (size > LMI_MAX_ID || plain > SIZE_MAX / 64 || !lmi_merges_room(t, merges)) return false;
    t->size = size;
    t->slots = lmi_power_of_two(2 * plain + 2);
    t->token = (lmi_token *)calloc(size + 1, sizeof *t->token);
    t->slot = (int32_t *)malloc(t->slots * sizeof *t->slot);
    t->word = (lmi_word *)calloc(2 * LMI_CACHE_WORDS, sizeof *t->word);
    if (!t->token || !t->slot || !t->word) return false;
    for (size_t i = 0; i < t->slots; i++) t->slot[i] = -1;
    return true;
}

/* The token id < t->size is written so; plain: it is looked up by its piece. */
static bool lmi_token_set(sae_tokenizer *t, int32_t id, const char *piece, size_t size,
                          const char *text, size_t text_size, bool plain) {
    lmi_token *token = &t->token[id];
    size_t at = (size_t)lmi_hash(piece, size) & (t->slots - 1);
    if (!lmi_span_add(t, piece, size, &token->piece)) return false;
    token->text = token->piece;
    if ((size != text_size || memcmp(piece, text, size) != 0)
        && !lmi_span_add(t, text, text_size, &token->text))
        return false;
    token->there = true;
    token->plain = plain;
    if (!plain) return true;
    while (t->slot[at] >= 0) at = (at + 1) & (t->slots - 1);
    t->slot[at] = id;
    return true;
}

/* The last of several merges of a pair counts, as in tokenizers. */
static void lmi_merge_set(sae_tokenizer *t, int32_t left, int32_t right, int32_t made,
                          int32_t rank) {
    lmi_merge *slot = lmi_merge_slot(t, left, right);
    slot->left = left;
    slot->right = right;
    slot->rank = rank;
    slot->made = made;
}

static int lmi_added_before(const void *a, const void *b) {
    const lmi_added *x = (const lmi_added *)a, *y = (const lmi_added *)b;
    int order = memcmp(x->text, y->text, lmi_min(x->span.size, y->span.size));
    if (order) return order;
    if (x->span.size != y->span.size) return x->span.size < y->span.size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* -- seams: where a long word may be cut with nothing changed -- */

static size_t lmi_seam_at(const sae_tokenizer *t, uint32_t left, uint32_t right) {
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(key >> (64 - t->seam_bits));
}

static uint32_t lmi_last_code(const unsigned char *s, size_t size) {
    uint32_t c = UINT32_MAX;
    for (size_t at = 0, length; at < size; at += length) c = lmi_code(s + at, size - at, &length);
    return c;
}

/* No merge, no seam: characters only meet where some merge's parts do. None where merges have parts
   that are no characters of the text. */
static bool lmi_find_seams(sae_tokenizer *t) {
    size_t length;
    if (t->bytes || t->ignore_merges) return true;
    t->seam_bits = 10;
    while ((size_t)1 << t->seam_bits < 4 * t->merges) t->seam_bits++;
    t->seam = (unsigned char *)calloc((size_t)1 << (t->seam_bits - 3), 1);
    if (!t->seam) return false;
    for (size_t i = 0; i < t->merges; i++) {
        const lmi_merge *m = &t->merge[i];
        const lmi_token *left, *right;
        size_t bit;
        if (m->left < 0) continue;
        left = &t->token[m->left];
        right = &t->token[m->right];
        if (left->stands_in || right->stands_in) {
            free(t->seam);
            t->seam = NULL;
            return true;
        }
        bit = lmi_seam_at(t, lmi_last_code(lmi_span_bytes(t, left->piece), left->piece.size),
                          lmi_code(lmi_span_bytes(t, right->piece), right->piece.size, &length));
        t->seam[bit / 8] |= (unsigned char)(1 << bit % 8);
    }
    return true;
}

/* All tokens, merges and added tokens are there: the tables over them. */
static bool lmi_tokenizer_finish(sae_tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        char name[8];
        unsigned char byte = (unsigned char)b;
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        t->byte_id[b] = t->bytes ? lmi_piece_find(t, &byte, 1)
                      : t->byte_fallback ? lmi_piece_find(t, name, 6) : -1;
        if (b < 128) t->ascii_id[b] = lmi_piece_find(t, &byte, 1);
        if (!t->bytes && t->byte_id[b] >= 0) t->token[t->byte_id[b]].stands_in = true;
    }
    if (t->unknown >= 0) t->token[t->unknown].stands_in = true;
    for (int kind = 0; kind < 2; kind++) {
        lmi_added *a = t->added[kind];
        size_t n = t->num_added[kind], i = 0;
        for (size_t k = 0; k < n; k++) a[k].text = lmi_span_data(t, a[k].span);
        if (n) qsort(a, n, sizeof *a, lmi_added_before);
        for (uint32_t c = 0; c < 257; c++) {
            while (i < n && (unsigned char)a[i].text[0] < c) i++;
            t->starts[kind][c] = (uint32_t)i;
        }
    }
    return lmi_find_seams(t);
}
