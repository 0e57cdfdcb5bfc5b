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

static sae_result lmi_contexts_memory(sae_context *ctx) {
    return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_contexts_read: no memory");
}

/* Whole contexts of ids into kept; whole: they are contexts already. */
static sae_result lmi_contexts_cut(sae_context *ctx, const sae_contexts_desc *desc, bool whole,
                                   size_t length, const sae_tokens *ids, sae_contexts *all,
                                   sae_tokens *kept) {
    size_t head = whole ? 0 : desc->num_bos, step = length - head, count;
    if (length <= head)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_contexts_read: length is %zu, with num_bos %zu allowed is "
                                "from %zu",
                                length, head, head + 1);
    count = ids->count / step;
    if (!head && !lmi_ids_add(kept, ids->id, count * step)) return lmi_contexts_memory(ctx);
    for (size_t i = 0; head && i < count; i++)
        if (!lmi_ids_add(kept, desc->bos, head) || !lmi_ids_add(kept, ids->id + i * step, step))
            return lmi_contexts_memory(ctx);
    all->contexts += count;
    all->dropped += ids->count - count * step;
    return SAE_OK;
}

/* The contexts of one file; *length 0: not known yet. */
static sae_result lmi_contexts_add(sae_context *ctx, const sae_contexts_desc *desc,
                                   const char *path, size_t *length, sae_contexts *all,
                                   sae_tokens *kept) {
    sae_tokens ids = { NULL, 0, 0 };
    sae_text text = { NULL, 0, 0 };
    size_t width = 0;
    bool apart = *length == 1 && !desc->num_bos;
    sae_result result;
    if (lmi_is_npy(path)) result = lmi_ids_read(ctx, path, &ids, &width);
    else if (!desc->tokenizer)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s is text, and tokenizer is NULL", path);
    else {
        result = lmi_file_read(ctx, path, &text);
        if (result == SAE_OK)
            result = sae_tokenizer_encode(desc->tokenizer, text.data, text.size, false, &ids);
    }
    if (result == SAE_OK && width && *length && width != *length && !apart)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s has contexts of %zu tokens, "
                                  "wanted are %zu",
                                  path, width, *length);
    if (!*length) *length = width ? width : 128;
    if (result == SAE_OK)
        result = lmi_contexts_cut(ctx, desc, width && !apart, *length, &ids, all, kept);
    sae_tokens_free(&ids);
    sae_text_free(&text);
    return result;
}

SAE_API sae_result sae_contexts_read(sae_context *ctx, const sae_contexts_desc *desc,
                                     sae_contexts *out) {
    sae_contexts all = { NULL, 0, 0, 0 };
    sae_tokens kept = { NULL, 0, 0 };
    sae_result result = SAE_OK;
    size_t length;
    if (!ctx || !desc || !desc->files || !desc->num_files || (!desc->bos && desc->num_bos) || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_contexts_read: num_files is %zu, num_bos %zu; desc, files, "
                                "bos and out may not be NULL, num_files is from 1",
                                desc ? desc->num_files : 0, desc ? desc->num_bos : 0);
    length = desc->length;
    for (size_t i = 0; i < desc->num_files && result == SAE_OK; i++)
        result = lmi_contexts_add(ctx, desc, desc->files[i], &length, &all, &kept);
    if (result == SAE_OK && !all.contexts)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s%s has %zu tokens, wanted is at "
                                  "least one context of %zu",
                                  desc->files[0], desc->num_files > 1 ? ", ..." : "", all.dropped,
                                  length);
    if (result != SAE_OK) {
        sae_tokens_free(&kept);
        return result;
    }
    all.tokens = kept.id;
    all.ctx = length;
    *out = all;
    return SAE_OK;
}
