#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: decode ================================================================= */

SAE_API const char *sae_tokenizer_token(const sae_tokenizer *t, int32_t id, size_t *size) {
    if (!t || id < 0 || (size_t)id >= t->size || !t->token[id].there) return NULL;
    if (size) *size = t->token[id].size;
    return t->arena.data + t->token[id].at;
}

SAE_API int32_t sae_tokenizer_find(const sae_tokenizer *t, const char *text, size_t size) {
    if (!t || !text) return -1;
    for (size_t i = 0; i < t->num_added; i++) {
        const lmi_token *token = &t->token[t->added[i].id];
        if (token->size == size && memcmp(t->arena.data + token->at, text, size) == 0)
            return t->added[i].id;
    }
    return size ? lmi_plain_find(t, text, size) : -1;
}

SAE_API sae_result sae_tokenizer_decode(const sae_tokenizer *t, const int32_t *ids, size_t count,
                                        sae_text *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!ids && count))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_decode: ids and out may not be NULL");
    before = out->size;
    for (size_t i = 0; i < count; i++) {
        size_t size = 0;
        const char *bytes = sae_tokenizer_token(t, ids[i], &size);
        bool added = bytes && lmi_text_add(out, bytes, size);
        if (added) continue;
        out->size = before;
        if (bytes)
            return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_tokenizer_decode: no memory");
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_decode: ids[%zu] is %ld, which is no token's; "
                                "ids go from 0 to %zu",
                                i, (long)ids[i], t->size - 1);
    }
    if (count == 0 && !lmi_text_add(out, "", 0))
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_decode: no memory");
    return SAE_OK;
}
