#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: tokenizer.json ========================================================= */

typedef struct lmi_reader {
    sae_tokenizer *t;
    const sae_json *root, *model, *vocab, *merges, *added;
    int16_t alphabet[512];
    char *bytes; /* room for the longest text */
} lmi_reader;

static bool lmi_is_true(const sae_json *object, const char *key) {
    return sae_json_number(sae_json_get(object, key)) != 0;
}

static bool lmi_is_null(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

static const char *lmi_type(const sae_json *v) {
    const char *type = sae_json_text(sae_json_get(v, "type"));
    return type ? type : "no text";
}

/* fn for v, or for the parts of v where it is a Sequence; list: where they are. */
static sae_result lmi_each(lmi_reader *r, const sae_json *v, const char *list,
                           sae_result (*fn)(lmi_reader *r, const sae_json *v)) {
    const sae_json *part;
    if (lmi_is_null(v)) return SAE_OK;
    if (strcmp(lmi_type(v), "Sequence") != 0) return fn(r, v);
    for (part = sae_json_first(sae_json_get(v, list)); part; part = sae_json_next(part))
        LMI_TRY(fn(r, part));
    return SAE_OK;
}

static sae_result lmi_normalizer(lmi_reader *r, const sae_json *v) {
    if (strcmp(lmi_type(v), "NFC") != 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the normalizer is %s, supported is NFC or none", lmi_type(v));
    r->t->nfc = true;
    return SAE_OK;
}

static sae_result lmi_pre_tokenizer(lmi_reader *r, const sae_json *v) {
    const sae_json *regex = sae_json_get(v, "use_regex");
    if (strcmp(lmi_type(v), "ByteLevel") != 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer is %s, supported is ByteLevel", lmi_type(v));
    r->t->prefix_space = lmi_is_true(v, "add_prefix_space");
    r->t->no_regex = regex && sae_json_number(regex) == 0;
    return SAE_OK;
}

static sae_result lmi_template(lmi_reader *r, const sae_json *v) {
    const sae_json *specials = sae_json_get(v, "special_tokens"), *piece, *id;
    bool behind = false;
    if (r->t->before.count || r->t->after.count)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the post_processor has two templates, supported is one");
    for (piece = sae_json_first(sae_json_get(v, "single")); piece; piece = sae_json_next(piece)) {
        const sae_json *special = sae_json_get(piece, "SpecialToken");
        const char *name = sae_json_text(sae_json_get(special, "id"));
        if (!special) {
            behind = true;
            continue;
        }
        id = name ? sae_json_first(sae_json_get(sae_json_get(specials, name), "ids")) : NULL;
        for (; id; id = sae_json_next(id)) {
            double number = sae_json_kind_of(id) == SAE_JSON_NUMBER ? sae_json_number(id) : -1;
            if (!(number >= 0 && number < LMI_MAX_ID && number == floor(number))) number = -1;
            if (!lmi_tokens_add(behind ? &r->t->after : &r->t->before, (int32_t)number))
                return lmi_tokenizer_memory(r->t); /* -1 is refused by lmi_read_rest */
        }
    }
    return SAE_OK;
}

static sae_result lmi_post_processor(lmi_reader *r, const sae_json *v) {
    if (strcmp(lmi_type(v), "TemplateProcessing") == 0) return lmi_template(r, v);
    if (strcmp(lmi_type(v), "ByteLevel") == 0) return SAE_OK; /* changes no ids */
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                      "the post_processor is %s, supported are ByteLevel, "
                      "TemplateProcessing or none",
                      lmi_type(v));
}

/* What of the model there is no room for here. */
static sae_result lmi_read_kind(lmi_reader *r) {
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const sae_json *type = sae_json_get(r->model, "type");
    if (sae_json_kind_of(r->root) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->model) != SAE_JSON_OBJECT)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "there is no object model in it");
    if (type && strcmp(lmi_type(r->model), "BPE") != 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "the model is %s, supported is BPE",
                          lmi_type(r->model));
    for (size_t i = 0; i < 2; i++) {
        const char *text = sae_json_text(sae_json_get(r->model, affixes[i]));
        if (text && text[0])
            return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "%s is %s, supported is none",
                              affixes[i], text);
    }
    if (sae_json_number(sae_json_get(r->model, "dropout")) > 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "dropout is %g, supported is none",
                          sae_json_number(sae_json_get(r->model, "dropout")));
    if (sae_json_kind_of(r->vocab) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "model.vocab or model.merges is missing");
    r->t->ignore_merges = lmi_is_true(r->model, "ignore_merges");
    r->t->fuse_unknown = lmi_is_true(r->model, "fuse_unk");
    if (lmi_is_null(sae_json_get(r->root, "pre_tokenizer")))
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer is none, supported is ByteLevel");
    LMI_TRY(lmi_each(r, sae_json_get(r->root, "normalizer"), "normalizers", lmi_normalizer));
    LMI_TRY(lmi_each(r, sae_json_get(r->root, "pre_tokenizer"), "pretokenizers",
                     lmi_pre_tokenizer));
    return lmi_each(r, sae_json_get(r->root, "post_processor"), "processors",
                    lmi_post_processor);
}

/* Ids, and the longest text. */
static sae_result lmi_read_sizes(lmi_reader *r) {
    size_t longest = 16;
    for (int pass = 0; pass < 2; pass++) {
        const sae_json *v = sae_json_first(pass ? r->added : r->vocab);
        for (; v; v = sae_json_next(v)) {
            const sae_json *id = pass ? sae_json_get(v, "id") : v;
            const char *text = pass ? sae_json_text(sae_json_get(v, "content")) : sae_json_key(v);
            double number = sae_json_number(id);
            if (!text || sae_json_kind_of(id) != SAE_JSON_NUMBER || !(number >= 0)
                || number >= LMI_MAX_ID || number != floor(number))
                return lmi_refuse(r->t, SAE_ERR_FORMAT, "the token %s has the id %g, allowed are "
                                  "whole numbers from 0 to %d", text ? text : "(no text)", number,
                                  LMI_MAX_ID - 1);
            r->t->size = lmi_max(r->t->size, (size_t)number + 1);
            longest = lmi_max(longest, strlen(text));
        }
    }
    r->t->slots = lmi_power_of_two(2 * sae_json_count(r->vocab) + 2);
    r->t->merges = lmi_power_of_two(2 * sae_json_count(r->merges) + 2);
    r->bytes = (char *)malloc(2 * longest + 1);
    r->t->token = (lmi_token *)calloc(r->t->size + 1, sizeof *r->t->token);
    r->t->slot = (int32_t *)malloc(r->t->slots * sizeof *r->t->slot);
    r->t->merge = (lmi_merge *)malloc(r->t->merges * sizeof *r->t->merge);
    r->t->word = (lmi_word *)calloc(2 * LMI_CACHE_WORDS, sizeof *r->t->word);
    if (!r->bytes || !r->t->token || !r->t->slot || !r->t->merge || !r->t->word
        || !lmi_text_add(&r->t->arena, "", 0))
        return lmi_tokenizer_memory(r->t);
    for (size_t i = 0; i < r->t->slots; i++) r->t->slot[i] = -1;
    for (size_t i = 0; i < r->t->merges; i++) r->t->merge[i].left = -1;
    return SAE_OK;
}

static bool lmi_set_token(sae_tokenizer *t, size_t id, const char *bytes, size_t size,
                          bool plain) {
    lmi_token *token = &t->token[id];
    token->at = t->arena.size;
    token->size = (uint32_t)size;
    token->there = true;
    token->plain = plain;
    return size <= UINT32_MAX && lmi_text_add(&t->arena, bytes, size);
}

static sae_result lmi_read_vocab(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    for (const sae_json *v = sae_json_first(r->vocab); v; v = sae_json_next(v)) {
        const char *text = sae_json_key(v);
        size_t id = (size_t)sae_json_number(v), size = strlen(text), at;
        bool plain = lmi_bytes(text, size, r->alphabet, r->bytes, &size);
        if (t->token[id].there)
            return lmi_refuse(t, SAE_ERR_FORMAT, "two tokens have the id %zu", id);
        if (!lmi_set_token(t, id, plain ? r->bytes : text, size, plain))
            return lmi_tokenizer_memory(t);
        if (!plain) continue;
        at = (size_t)lmi_hash(r->bytes, size) & (t->slots - 1);
        while (t->slot[at] >= 0) at = (at + 1) & (t->slots - 1);
        t->slot[at] = (int32_t)id;
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)(unsigned char)b;
        t->byte_id[b] = lmi_plain_find(t, &byte, 1);
    }
    return SAE_OK;
}

static sae_result lmi_read_merges(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    int32_t rank = 0;
    for (const sae_json *v = sae_json_first(r->merges); v; v = sae_json_next(v), rank++) {
        const char *whole = sae_json_text(v), *part[2] = { NULL, NULL };
        size_t size[2] = { 0, 0 }, n[2];
        int32_t id[3] = { -1, -1, -1 };
        lmi_merge *slot;
        if (whole && strchr(whole, ' ')) { /* "l r" */
            part[0] = whole;
            part[1] = strchr(whole, ' ') + 1;
            size[0] = (size_t)(part[1] - whole) - 1;
            size[1] = strlen(part[1]);
        } else if (sae_json_kind_of(v) == SAE_JSON_ARRAY && sae_json_count(v) == 2) {
            part[0] = sae_json_text(sae_json_first(v));
            part[1] = sae_json_text(sae_json_next(sae_json_first(v)));
            for (int i = 0; i < 2; i++) size[i] = part[i] ? strlen(part[i]) : 0;
        }
        /* a part may be longer than any token, and so than the room for it */
        if (part[0] && part[1] && lmi_max(size[0], size[1]) <= UINT16_MAX) {
            char *bytes = (char *)realloc(r->bytes, size[0] + size[1] + 1);
            if (!bytes) return lmi_tokenizer_memory(t);
            r->bytes = bytes;
            if (lmi_bytes(part[0], size[0], r->alphabet, bytes, &n[0])
                && lmi_bytes(part[1], size[1], r->alphabet, bytes + n[0], &n[1])) {
                id[0] = lmi_plain_find(t, bytes, n[0]);
                id[1] = lmi_plain_find(t, bytes + n[0], n[1]);
                id[2] = lmi_plain_find(t, bytes, n[0] + n[1]);
            }
        }
        if (id[0] < 0 || id[1] < 0 || id[2] < 0)
            return lmi_refuse(t, SAE_ERR_FORMAT, "merge %ld, \"%.40s\" and \"%.40s\", is not of "
                              "tokens of the vocabulary", (long)rank, part[0] ? part[0] : "",
                              part[1] ? part[1] : "");
        slot = lmi_merge_slot(t, id[0], id[1]);
        slot->left = id[0];
        slot->right = id[1];
        slot->rank = rank;
        slot->made = id[2];
    }
    return SAE_OK;
}

static int lmi_longer(const void *a, const void *b) {
    const lmi_added *x = (const lmi_added *)a, *y = (const lmi_added *)b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static sae_result lmi_read_added(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    t->added = (lmi_added *)calloc(sae_json_count(r->added) + 1, sizeof *t->added);
    if (!t->added) return lmi_tokenizer_memory(t);
    for (const sae_json *v = sae_json_first(r->added); v; v = sae_json_next(v)) {
        const char *text = sae_json_text(sae_json_get(v, "content"));
        lmi_added *a = &t->added[t->num_added];
        a->id = (int32_t)sae_json_number(sae_json_get(v, "id"));
        a->lstrip = lmi_is_true(v, "lstrip");
        a->rstrip = lmi_is_true(v, "rstrip");
        a->normalized = lmi_is_true(v, "normalized");
        if (lmi_is_true(v, "single_word"))
            return lmi_refuse(t, SAE_ERR_UNSUPPORTED,
                              "the added token %s is single_word, which is "
                              "not supported",
                              text);
        if (!text[0]) continue;
        if (!lmi_set_token(t, (size_t)a->id, text, strlen(text), false))
            return lmi_tokenizer_memory(t);
        a->at = t->arena.size;
        if (a->normalized && t->nfc
            ? !lmi_nfc((const unsigned char *)text, strlen(text), &t->cluster, &t->arena)
            : !lmi_text_add(&t->arena, text, strlen(text)))
            return lmi_tokenizer_memory(t);
        a->size = t->arena.size - a->at;
        t->starts[a->normalized][(unsigned char)t->arena.data[a->at]] = true;
        t->num_added++;
    }
    qsort(t->added, t->num_added, sizeof *t->added, lmi_longer);
    return SAE_OK;
}

/* Ids that files give outside the vocabulary. */
static sae_result lmi_read_rest(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    const char *unknown = sae_json_text(sae_json_get(r->model, "unk_token"));
    t->unknown = -1;
    if (unknown) {
        const sae_json *v = sae_json_get(r->vocab, unknown);
        if (!v)
            return lmi_refuse(t, SAE_ERR_FORMAT, "unk_token %s is not in the vocabulary",
                              unknown);
        t->unknown = (int32_t)sae_json_number(v);
    }
    for (int i = 0; i < 2; i++) {
        const sae_tokens *ids = i ? &t->after : &t->before;
        for (size_t j = 0; j < ids->count; j++)
            if (ids->id[j] < 0 || (size_t)ids->id[j] >= t->size || !t->token[ids->id[j]].there)
                return lmi_refuse(t, SAE_ERR_FORMAT,
                                  "the post_processor adds the id %ld, which is "
                                  "no token's",
                                  (long)ids->id[j]);
    }
    return SAE_OK;
}

static sae_result lmi_tokenizer_read(sae_tokenizer *t) {
    lmi_reader r;
    sae_json *root;
    sae_result result;
    memset(&r, 0, sizeof r);
    LMI_TRY(sae_json_open(t->ctx, t->path, &root));
    r.t = t;
    r.root = root;
    r.model = sae_json_get(root, "model");
    r.vocab = sae_json_get(r.model, "vocab");
    r.merges = sae_json_get(r.model, "merges");
    r.added = sae_json_get(root, "added_tokens");
    for (uint32_t c = 0; c < 512; c++) r.alphabet[c] = (int16_t)lmi_alphabet(c);
    result = lmi_read_kind(&r);
    if (result == SAE_OK) result = lmi_read_sizes(&r);
    if (result == SAE_OK) result = lmi_read_vocab(&r);
    if (result == SAE_OK) result = lmi_read_merges(&r);
    if (result == SAE_OK) result = lmi_read_added(&r);
    if (result == SAE_OK) result = lmi_read_rest(&r);
    free(r.bytes);
    sae_json_close(root);
    return result;
}

SAE_API sae_result sae_tokenizer_open(sae_context *ctx, const char *folder,
                                      sae_tokenizer **out) {
    sae_tokenizer *t;
    size_t n = folder ? strlen(folder) : 0;
    sae_result result;
    if (!ctx || !folder || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_open: folder and out may not be NULL");
    t = (sae_tokenizer *)calloc(1, sizeof *t);
    if (!t) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    t->ctx = ctx;
    t->path = n > 5 && strcmp(folder + n - 5, ".json") == 0 ? lmi_join("", folder)
                                                            : lmi_join(folder, "tokenizer.json");
    if (!t->path)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    else if (!lmi_is_file(t->path))
        result = sae_context_fail(ctx, SAE_ERR_NOT_FOUND, "sae_tokenizer_open: %s is not there",
                                  t->path);
    else result = lmi_tokenizer_read(t);
    if (result == SAE_OK) *out = t;
    else sae_tokenizer_close(t);
    return result;
}

SAE_API void sae_tokenizer_close(sae_tokenizer *t) {
    if (!t) return;
    free(t->path);
    free(t->token);
    free(t->slot);
    free(t->merge);
    free(t->added);
    free(t->cluster.code);
    free(t->heap);
    free(t->links);
    free(t->word);
    sae_tokens_free(&t->before);
    sae_tokens_free(&t->after);
    sae_tokens_free(&t->symbols);
    sae_tokens_free(&t->word_ids);
    sae_text_free(&t->arena);
    sae_text_free(&t->normal);
    sae_text_free(&t->spaced);
    sae_text_free(&t->word_bytes);
    free(t);
}

SAE_API size_t sae_tokenizer_size(const sae_tokenizer *tokenizer) { return tokenizer->size; }

SAE_API void sae_tokens_free(sae_tokens *tokens) {
    free(tokens->id);
    memset(tokens, 0, sizeof *tokens);
}

SAE_API void sae_text_free(sae_text *text) {
    free(text->data);
    memset(text, 0, sizeof *text);
}
