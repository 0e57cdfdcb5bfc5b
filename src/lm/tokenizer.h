#pragma once
#include "text.h"

/* ==== >>lm: tokenizer: tables ================================================================= */

enum { LMI_MAX_ID = 1 << 21, LMI_CACHE_WORDS = 1 << 16, LMI_CACHE_BYTES = 48 };

typedef struct lmi_token {
    size_t at;     /* of its bytes in the arena */
    uint32_t size;
    bool there;    /* the id exists */
    bool plain;    /* written in the alphabet of bytes: merges make it */
} lmi_token;

typedef struct lmi_merge {
    int32_t left, right; /* left -1: an empty slot */
    int32_t rank, made;
} lmi_merge;

typedef struct lmi_added {
    size_t at; /* of its text in the arena; normalized ones: of its NFC */
    size_t size;
    int32_t id;
    bool lstrip, rstrip, normalized;
} lmi_added;

/* A word seen before and its ids. */
typedef struct lmi_word {
    uint64_t hash;
    uint32_t at, size, first, count; /* size 0: an empty slot */
} lmi_word;

struct sae_tokenizer {
    sae_context *ctx;
    char *path;
    sae_text arena;           /* bytes of all tokens */
    lmi_token *token;        /* [size] */
    size_t size;
    int32_t *slot;             /* [slots] plain tokens by their bytes; -1: empty */
    size_t slots;
    lmi_merge *merge;        /* [merges] by (left, right) */
    size_t merges;
    int32_t byte_id[256];      /* -1: no such token */
    lmi_added *added;        /* longest first */
    size_t num_added;
    bool starts[2][256];       /* [normalized][byte]: an added token begins so */
    bool nfc, prefix_space, no_regex, ignore_merges, fuse_unknown;
    int32_t unknown;           /* -1: bytes without a token are left out, as tokenizers does */
    sae_tokens before, after; /* what the post-processor adds */
    /* memory of encoding */
    sae_text normal, spaced;
    lmi_cluster cluster;
    sae_tokens symbols;
    void *heap, *links;
    size_t heap_room, link_room;
    lmi_word *word;          /* [2 LMI_CACHE_WORDS] */
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

static bool lmi_tokens_add(sae_tokens *t, int32_t id) {
    if (!lmi_grow((void **)&t->id, &t->capacity, t->count + 1, sizeof *t->id)) return false;
    t->id[t->count++] = id;
    return true;
}

static sae_result lmi_tokenizer_memory(const sae_tokenizer *t) {
    return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer: no memory for %s",
                            t->path);
}

/* "sae_tokenizer_open: PATH: ..." */
static sae_result lmi_refuse(const sae_tokenizer *t, sae_result result, const char *format,
                             ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sae_context_fail(t->ctx, result, "sae_tokenizer_open: %s: %s", t->path, text);
}

/* The byte that a character of GPT-2's alphabet stands for: printable ones for themselves, the
   others in their order from U+0100 on; -1: none. */
static int lmi_alphabet(uint32_t c) {
    int n = 0;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = b - 33 < 94 || b - 161 < 12 || b - 174 < 82;
        if (printable ? b == c : 256u + (uint32_t)n == c) return (int)b;
        n += !printable;
    }
    return -1;
}

/* The bytes that text means, into out (size of text is room enough); false: not in the alphabet. */
static bool lmi_bytes(const char *text, size_t size, const int16_t *alphabet, char *out,
                      size_t *length) {
    size_t n = 0, step;
    for (size_t at = 0; at < size; at += step) {
        uint32_t c = lmi_code((const unsigned char *)text + at, size - at, &step);
        if (c >= 512 || alphabet[c] < 0) return false;
        out[n++] = (char)(unsigned char)alphabet[c];
    }
    *length = n;
    return n > 0;
}

static int32_t lmi_plain_find(const sae_tokenizer *t, const char *bytes, size_t size) {
    size_t at = (size_t)lmi_hash(bytes, size) & (t->slots - 1);
    for (; t->slot[at] >= 0; at = (at + 1) & (t->slots - 1)) {
        const lmi_token *token = &t->token[t->slot[at]];
        if (token->size == size && memcmp(t->arena.data + token->at, bytes, size) == 0)
            return t->slot[at];
    }
    return -1;
}

static lmi_merge *lmi_merge_slot(const sae_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & (t->merges - 1);
    while (t->merge[at].left >= 0 && (t->merge[at].left != left || t->merge[at].right != right))
        at = (at + 1) & (t->merges - 1);
    return &t->merge[at];
}

static size_t lmi_power_of_two(size_t least) {
    size_t n = 16;
    while (n < least) n *= 2;
    return n;
}
