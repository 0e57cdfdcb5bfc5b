#pragma once
#include "dtype.h"
#include "file.h"

/* ==== >>tensors: what is written ============================================================== */

/* Row-major bytes of a tensor. */
static size_t saei_tensor_bytes(const sae_tensor *t) {
    size_t n = sae_dtype_size(t->dtype);
    for (size_t k = 0; k < t->ndim; k++) n *= (size_t)t->shape[k];
    return n;
}

static sae_result saei_write_check(const sae_context *ctx, const char *path,
                                   const sae_tensor *tensors, size_t count) {
    const char *who = "sae_tensor_file_write";
    const void **sorted;
    sae_result result = SAE_OK;
    char quoted[SAEI_QUOTE];
    if (count && !tensors)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: tensors is NULL, count is %zu", who, path,
                         count);
    sorted = (const void **)saei_alloc(ctx, count + 1, sizeof *sorted);
    if (!sorted)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", who, path);
    for (size_t i = 0; i < count && result == SAE_OK; i++) {
        sae_tensor t = tensors[i];
        size_t elements = 0;
        sorted[i] = tensors + i;
        if (!t.name || strlen(t.name) > 60000 || !saei_is_text(t.name, strlen(t.name)))
            result = saei_fail(ctx, SAE_ERR_INVALID,
                               "%s: %s: the name of tensor %zu is not a UTF-8 text of at most "
                               "60000 bytes",
                               who, path, i);
        else if ((unsigned)t.dtype >= SAEI_PLAIN_DTYPES && (unsigned)t.dtype < SAEI_NUM_DTYPES)
            result = saei_fail(ctx, SAE_ERR_UNSUPPORTED,
                               "%s: %s: tensor \"%s\" is of %s, which no file is written in; "
                               "sae_tensor_to_f32 makes it float32",
                               who, path, saei_quote(t.name, quoted), sae_dtype_name(t.dtype));
        else if ((unsigned)t.dtype >= SAEI_NUM_DTYPES || t.ndim > SAE_MAX_DIMS
                 || !saei_shape_layout(&t, &elements))
            result = saei_fail(ctx, SAE_ERR_INVALID,
                               "%s: %s: tensor \"%s\" has dtype %d and %zu dimensions; allowed are "
                               "0 to %d, and at most %d whose product fits",
                               who, path, saei_quote(t.name, quoted), (int)t.dtype, t.ndim,
                               SAEI_PLAIN_DTYPES - 1, SAE_MAX_DIMS);
        else if (elements && !t.data)
            result = saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: tensor \"%s\" has no data", who, path,
                               saei_quote(t.name, quoted));
    }
    if (result == SAE_OK) saei_sort(sorted, count, saei_name_less);
    for (size_t i = 1; i < count && result == SAE_OK; i++)
        if (strcmp(saei_name_of(sorted[i - 1]), saei_name_of(sorted[i])) == 0)
            result = saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: two tensors are named \"%s\"", who,
                               path, saei_quote(saei_name_of(sorted[i]), quoted));
    saei_free(ctx, sorted);
    return result;
}

/* Tensors on their way into a file. */
typedef struct saei_content {
    const char *name; /* of the file: for messages, and for what depends on it */
    const sae_tensor *tensors;
    size_t count;
    const char *const *keys, *const *values; /* .safetensors: more pairs of its __metadata__ */
    size_t num_pairs;
} saei_content;

static sae_result saei_content_no_memory(const saei_writer *w, const saei_content *c) {
    return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", w->who, c->name);
}

static void saei_put_le(saei_text *t, uint64_t value, size_t bytes) {
    saei_text_put(t, &value, bytes); /* the machine is little endian */
}
