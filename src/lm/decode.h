#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: decode ================================================================= */

SAE_API const char *sae_tokenizer_token(const sae_tokenizer *t, int32_t id, size_t *size) {
    if (!t || id < 0 || (size_t)id >= t->size || !t->token[id].there) return NULL;
    if (size) *size = t->token[id].text.size;
    return lmi_span_data(t, t->token[id].text);
}

SAE_API int32_t sae_tokenizer_find(const sae_tokenizer *t, const char *text, size_t size) {
    int32_t found;
    if (!t || !text) return -1;
    for (int kind = 0; kind < 2; kind++)
        for (size_t i = 0; i < t->num_added[kind]; i++) {
            const lmi_added *a = &t->added[kind][i];
            if (lmi_span_is(t, a->span, text, size)
                || lmi_span_is(t, t->token[a->id].text, text, size))
                return a->id;
        }
    found = size ? lmi_piece_find(t, text, size) : -1;
    if (found >= 0 && lmi_span_is(t, t->token[found].text, text, size)) return found;
    for (size_t id = 0; id < t->size && !t->bytes; id++)
        if (t->token[id].plain && lmi_span_is(t, t->token[id].text, text, size)) return (int32_t)id;
    return -1;
}

/* The text of token number i among those decoded. */
static bool lmi_decode_token(const sae_tokenizer *t, int32_t id, size_t i, sae_text *out) {
    const lmi_token *token = &t->token[id];
    const char *piece = lmi_span_data(t, token->piece);
    lmi_span nothing = { 0, 0 };
    for (size_t at = 0; i == 0 && t->first_drops.size && at < token->piece.size; at++)
        if (lmi_span_begins(t, t->first_drops, piece + at, token->piece.size - at))
            return lmi_replace(t, t->first_drops, nothing, piece, token->piece.size, out);
    return lmi_text_add(out, lmi_span_data(t, token->text), token->text.size);
}

/* Takes the decoder's Strip off both ends of what was appended behind `before`. */
static void lmi_decode_strip(const sae_tokenizer *t, size_t before, sae_text *out) {
    size_t n = t->strip_text.size, start = 0;
    char *s = out->data + before;
    while (start < t->strip_start && lmi_span_begins(t, t->strip_text, s + start * n,
                                                out->size - before - start * n))
        start++;
    memmove(s, s + start * n, out->size - before - start * n + 1);
    out->size -= start * n;
    for (size_t stop = 0; stop < t->strip_stop && out->size - before >= n; stop++) {
        if (memcmp(out->data + out->size - n, lmi_span_data(t, t->strip_text), n) != 0) break;
        out->size -= n;
        out->data[out->size] = 0;
    }
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
        bool there = sae_tokenizer_token(t, ids[i], NULL) != NULL;
        if (there && lmi_decode_token(t, ids[i], i, out)) continue;
        out->size = before;
        if (there)
            return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_tokenizer_decode: no memory");
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_decode: ids[%zu] is %ld, which is no token's; "
                                "ids go from 0 to %zu",
                                i, (long)ids[i], t->size - 1);
    }
    if (!lmi_text_add(out, "", 0))
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_decode: no memory");
    lmi_decode_strip(t, before, out);
    return SAE_OK;
}
