#pragma once
#include "encode.h"

/* ==== >>lm: contexts ========================================================================== */

SAE_API void sae_contexts_free(sae_contexts *contexts) {
    free(contexts->tokens);
    memset(contexts, 0, sizeof *contexts);
}

static sae_result lmi_file_read(sae_context *ctx, const char *path, sae_text *out) {
    FILE *f = fopen(path, "rb");
    size_t got = 0;
    bool bad;
    if (!f)
        return sae_context_fail(ctx, SAE_ERR_NOT_FOUND, "sae_contexts_read: cannot open %s", path);
    do {
        out->size += got;
        if (!lmi_grow((void **)&out->data, &out->capacity, out->size + 65536, 1)) {
            fclose(f);
            return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_contexts_read: no memory for %s", path);
        }
        got = fread(out->data + out->size, 1, 65536, f);
    } while (got);
    bad = ferror(f) != 0;
    fclose(f);
    if (bad) return sae_context_fail(ctx, SAE_ERR_IO, "sae_contexts_read: cannot read %s", path);
    return SAE_OK;
}

static bool lmi_is_npy(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".npy") == 0;
}

/* Element i of a tensor of whole numbers, -1 for anything below 0; false: no such kind. */
static bool lmi_whole(const sae_tensor *t, int64_t at, int64_t *out) {
    const unsigned char *p = (const unsigned char *)t->data
                             + at * (int64_t)sae_dtype_size(t->dtype);
    uint64_t bits = 0;
    size_t size = sae_dtype_size(t->dtype);
    if (t->dtype < SAE_I8 || t->dtype > SAE_U64) return false;
    for (size_t i = 0; i < size; i++) bits |= (uint64_t)p[i] << 8 * i;
    if (t->dtype == SAE_I8 || t->dtype == SAE_I16 || t->dtype == SAE_I32 || t->dtype == SAE_I64)
        *out = bits >> (8 * size - 1) ? -1 : (int64_t)bits;
    else *out = bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    return true;
}

/* Appends the ids of a .npy; *width: its contexts' length, 0 where it has one dimension. */
static sae_result lmi_ids_read(sae_context *ctx, const char *path, sae_tokens *out,
                               size_t *width) {
    sae_tensor_file *file;
    const sae_tensor *t;
    sae_result result = SAE_OK;
    size_t rows, columns;
    LMI_TRY(sae_tensor_file_open(ctx, path, &file));
    t = sae_tensor_file_get(file, 0);
    if (!t || t->ndim < 1 || t->ndim > 2 || t->dtype < SAE_I8 || t->dtype > SAE_U64) {
        result = sae_context_fail(ctx, SAE_ERR_FORMAT,
                                  "sae_contexts_read: %s has %zu dimensions of %s, "
                                  "allowed are 1 or 2 of whole numbers",
                                  path, t ? t->ndim : 0, t ? sae_dtype_name(t->dtype) : "nothing");
        sae_tensor_file_close(file);
        return result;
    }
    columns = (size_t)t->shape[t->ndim - 1];
    rows = !columns ? 0 : t->ndim == 2 ? (size_t)t->shape[0] : 1; /* 2^60 empty rows cost a byte */
    *width = t->ndim == 2 ? columns : 0;
    for (size_t r = 0; r < rows && result == SAE_OK; r++)
        for (size_t c = 0; c < columns && result == SAE_OK; c++) {
            int64_t id = 0;
            lmi_whole(t, (t->ndim == 2 ? (int64_t)r * t->stride[0] : 0)
                      + (int64_t)c * t->stride[t->ndim - 1], &id);
            if (id > INT32_MAX)
                result = sae_context_fail(ctx, SAE_ERR_FORMAT,
                                          "sae_contexts_read: %s: id %zu is larger than "
                                          "2^31 - 1",
                                          path, r * columns + c);
            else if (!lmi_tokens_add(out, (int32_t)id))
                result =
                    sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_contexts_read: no memory");
        }
    sae_tensor_file_close(file);
    return result;
}

/* The ids of one file into all, whole contexts of them. */
static sae_result lmi_contexts_add(sae_context *ctx, sae_tokenizer *tokenizer, const char *path,
                                   size_t *length, sae_contexts *all, sae_tokens *kept) {
    sae_tokens ids = { NULL, 0, 0 };
    sae_text text = { NULL, 0, 0 };
    size_t width = 0, use;
    sae_result result;
    if (lmi_is_npy(path)) result = lmi_ids_read(ctx, path, &ids, &width);
    else if (!tokenizer)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s is text, and tokenizer is NULL", path);
    else {
        result = lmi_file_read(ctx, path, &text);
        if (result == SAE_OK)
            result = sae_tokenizer_encode(tokenizer, text.data, text.size, false, &ids);
    }
    if (result == SAE_OK && width && *length > 1 && width != *length)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s has contexts of %zu tokens, "
                                  "wanted are %zu",
                                  path, width, *length);
    if (!*length) *length = width ? width : 128;
    if (result == SAE_OK) {
        use = ids.count / *length * *length;
        if (!lmi_ids_add(kept, ids.id, use))
            result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_contexts_read: no memory");
        all->contexts += use / *length;
        all->dropped += ids.count - use;
    }
    sae_tokens_free(&ids);
    sae_text_free(&text);
    return result;
}

SAE_API sae_result sae_contexts_read(sae_context *ctx, sae_tokenizer *tokenizer,
                                     const char *const *files, size_t num_files, size_t length,
                                     sae_contexts *out) {
    sae_contexts all = { NULL, 0, 0, 0 };
    sae_tokens kept = { NULL, 0, 0 };
    sae_result result = SAE_OK;
    if (!ctx || !files || !num_files || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_contexts_read: num_files is %zu, files and out may "
                                "not be NULL, allowed is from 1",
                                num_files);
    for (size_t i = 0; i < num_files && result == SAE_OK; i++)
        result = lmi_contexts_add(ctx, tokenizer, files[i], &length, &all, &kept);
    if (result == SAE_OK && !all.contexts)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s%s has %zu tokens, wanted is at "
                                  "least one context of %zu",
                                  files[0], num_files > 1 ? ", ..." : "", all.dropped, length);
    if (result != SAE_OK) {
        sae_tokens_free(&kept);
        return result;
    }
    all.tokens = kept.id;
    all.ctx = length;
    *out = all;
    return SAE_OK;
}
