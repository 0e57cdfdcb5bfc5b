#pragma once
#include "prepared.h"

/* ==== >>dictionary: sae_encode ================================================================ */
/* Batch top-k over all n rows: lists of positive relu(p) in fresh memory, *code to be freed by
   saei_batch_free. */
static void saei_batch_free(const sae_context *ctx, sae_code *code, float *dense) {
    saei_free(ctx, code->latent);
    saei_free(ctx, code->count);
    saei_free(ctx, dense);
}

static sae_result saei_batch_top_k(const sae_dictionary *dict, const char *who, const float *x,
                                   size_t n, sae_code *code, float **dense) {
    const sae_context *ctx = dict->ctx;
    size_t m = dict->desc.dict_size, active = saei_active_latents(dict), total = 0, keep;
    uint32_t *histogram = (uint32_t *)saei_alloc(ctx, 65536, sizeof *histogram);
    saei_infer q;
    memset(code, 0, sizeof *code);
    memset(&q, 0, sizeof q);
    code->rows = n;
    code->stride = m;
    code->count = (uint32_t *)saei_alloc(ctx, n, sizeof(uint32_t));
    code->latent = (uint32_t *)saei_alloc(ctx, n * m, sizeof(uint32_t));
    code->pre = code->value = *dense = (float *)saei_alloc(ctx, n * m, sizeof(float));
    if (!histogram || !code->count || !code->latent || !*dense) {
        saei_free(ctx, histogram);
        saei_batch_free(ctx, code, *dense);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for batch top-k over %zu rows of %zu "
                         "latents",
                         who, n, m);
    }
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = m;
    q.top_k = true;
    q.dense = *dense;
    saei_infer_run(&q);
    for (size_t r = 0; r < n; r++) {
        uint32_t kept = 0;
        for (size_t i = 0; i < m; i++)
            if ((*dense)[r * m + i] > 0) {
                code->latent[r * m + kept] = (uint32_t)i;
                (*dense)[r * m + kept++] = (*dense)[r * m + i];
            }
        code->count[r] = kept;
        total += kept;
    }
    keep = (size_t)(((double)dict->desc.k + dict->desc.k_fraction) * (double)n);
    if (total > keep) saei_keep_batch(code, keep, histogram);
    for (size_t r = 0; r < n; r++)
        while (code->count[r] && code->latent[r * m + code->count[r] - 1] >= active)
            code->count[r]--;
    saei_free(ctx, histogram);
    return SAE_OK;
}

static bool saei_is_batch_top_k(const sae_dictionary *dict) {
    return dict->rule == SAE_RULE_TOP_K && dict->desc.arch != SAE_ARCH_TOP_K;
}

SAE_API sae_result sae_encode(const sae_dictionary *dict, const float *x, size_t n, float *f) {
    saei_infer q;
    size_t m;
    SAEI_TRY(saei_infer_check(dict, "sae_encode", x && f, n, dict ? dict->desc.dict_size : 0));
    m = dict->desc.dict_size;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        if (n) memcpy(f, x, n * m * sizeof *f);
        return SAE_OK;
    }
    if (!n) return SAE_OK;
    if (saei_is_batch_top_k(dict)) {
        sae_code code;
        float *dense;
        SAEI_TRY(saei_batch_top_k(dict, "sae_encode", x, n, &code, &dense));
        memset(f, 0, n * m * sizeof *f);
        for (size_t r = 0; r < n; r++)
            for (size_t j = r * m; j < r * m + code.count[r]; j++)
                f[r * m + code.latent[j]] = code.value[j];
        saei_batch_free(dict->ctx, &code, dense);
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = m;
    q.dense = f;
    q.top_k = dict->rule == SAE_RULE_TOP_K;
    q.share = dict->desc.k;
    saei_infer_run(&q);
    return SAE_OK;
}

static sae_result saei_capacity(const sae_dictionary *dict, size_t needed, const sae_sparse *out) {
    if (needed <= out->capacity) return SAE_OK;
    return saei_fail(dict->ctx, SAE_ERR_INVALID,
                     "sae_encode_sparse: capacity is %zu entries, %zu are needed", out->capacity,
                     needed);
}

static sae_result saei_encode_sparse_copy(const sae_dictionary *dict, const sae_code *code,
                                          sae_sparse *out) {
    size_t total = 0;
    for (size_t r = 0; r < code->rows; r++) total += code->count[r];
    SAEI_TRY(saei_capacity(dict, total, out));
    out->row_begin[0] = 0;
    for (size_t r = 0, at = 0; r < code->rows; r++) {
        memcpy(out->latent + at, code->latent + r * code->stride,
               code->count[r] * sizeof(uint32_t));
        memcpy(out->value + at, code->value + r * code->stride, code->count[r] * sizeof(float));
        out->row_begin[r + 1] = at += code->count[r];
    }
    return SAE_OK;
}

static sae_result saei_encode_sparse_identity(const sae_dictionary *dict, const float *x, size_t n,
                                              sae_sparse *out) {
    size_t d = dict->desc.activation_dim, total = 0;
    for (size_t i = 0; i < n * d; i++) total += x[i] != 0;
    SAEI_TRY(saei_capacity(dict, total, out));
    out->row_begin[0] = total = 0;
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < d; i++)
            if (x[r * d + i] != 0) {
                out->latent[total] = (uint32_t)i;
                out->value[total++] = x[r * d + i];
            }
        out->row_begin[r + 1] = total;
    }
    return SAE_OK;
}

SAE_API sae_result sae_encode_sparse(const sae_dictionary *dict, const float *x, size_t n,
                                     sae_sparse *out) {
    saei_infer q;
    size_t most = 0, total = 0;
    SAEI_TRY(saei_infer_check(dict, "sae_encode_sparse",
                              x && out && out->row_begin
                                  && (!out->capacity || (out->latent && out->value)),
                              n, dict ? dict->desc.dict_size : 0));
    out->row_begin[0] = 0;
    if (!n) return SAE_OK;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) return saei_encode_sparse_identity(dict, x, n, out);
    if (saei_is_batch_top_k(dict)) {
        sae_code code;
        float *dense;
        sae_result result;
        SAEI_TRY(saei_batch_top_k(dict, "sae_encode_sparse", x, n, &code, &dense));
        result = saei_encode_sparse_copy(dict, &code, out);
        saei_batch_free(dict->ctx, &code, dense);
        return result;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = dict->desc.dict_size;
    q.sparse = out;
    if (dict->rule == SAE_RULE_TOP_K) {
        q.share = dict->desc.k;
        SAEI_TRY(saei_capacity(dict, n * q.share, out));
        saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_INFER_ROWS),
                      dict->desc.activation ? saei_infer_varied_part : saei_infer_part, &q);
        saei_sparse_compact(out, n, q.share);
        return SAE_OK;
    }
    q.share = out->capacity / n; /* an even share each; where that is too little, a second pass */
    saei_infer_run(&q);
    for (size_t r = 0; r < n; r++) {
        most = saei_max(most, out->row_begin[r + 1]);
        total += out->row_begin[r + 1];
    }
    SAEI_TRY(saei_capacity(dict, total, out));
    if (most <= q.share) saei_sparse_compact(out, n, q.share);
    else {
        for (size_t r = 0; r < n; r++) out->row_begin[r + 1] += out->row_begin[r];
        q.exact = true;
        saei_infer_run(&q);
    }
    return SAE_OK;
}

SAE_API sae_result sae_encode_subset(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint32_t *latents, size_t count, float *f) {
    saei_infer q;
    SAEI_TRY(saei_infer_check(dict, "sae_encode_subset", x && latents && f, n, count));
    for (size_t j = 0; j < count; j++)
        if (latents[j] >= dict->desc.dict_size)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_encode_subset: latents[%zu] is %u, allowed "
                             "are 0 to %zu",
                             j, (unsigned)latents[j], dict->desc.dict_size - 1);
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0; j < count; j++)
                f[r * count + j] = x[r * dict->desc.activation_dim + latents[j]];
        return SAE_OK;
    }
    if (!n || !count) return SAE_OK;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = count;
    q.list = latents;
    q.dense = f;
    saei_infer_run(&q);
    return SAE_OK;
}
