#pragma once
#include "matching.h"

/* ==== >>dictionary: sae_encode ================================================================ */
/* Rows held at a time by what needs memory for them. */
enum { SAEI_CHUNK_ROWS = 256, SAEI_CHUNK_ENTRIES = 4 << 20 };
static size_t saei_chunk(const sae_dictionary *dict, size_t n) {
    size_t fits = (size_t)SAEI_CHUNK_ENTRIES / saei_num_codes(&dict->desc);
    return saei_max(saei_min(saei_min(n, SAEI_CHUNK_ROWS), fits), 1);
}

/* Batch top-k over all n rows: lists of positive relu(p) in fresh memory, *code to be freed by
   saei_batch_free. */
static void saei_batch_free(const sae_context *ctx, sae_code *code, float *dense) {
    saei_free(ctx, code->latent);
    saei_free(ctx, code->count);
    saei_free(ctx, dense);
}

/* Of one choice, which has `part` latents from latent c * part on: the lists of what is positive,
   cut to what the n rows keep together, k for each. Its counts are at code->count[c * n]. */
static void saei_batch_choose(double k, size_t c, size_t part, const sae_code *code,
                              uint32_t *histogram) {
    const size_t n = code->rows;
    size_t total = 0, keep = (size_t)(k * (double)n);
    sae_code view = *code;
    view.count += c * n;
    view.latent += c * part;
    view.pre += c * part;
    view.value += c * part;
    for (size_t r = 0; r < n; r++) {
        float *value = view.pre + r * code->stride;
        uint32_t *latent = view.latent + r * code->stride, kept = 0;
        for (size_t i = 0; i < part; i++)
            if (value[i] > 0) {
                latent[kept] = (uint32_t)(c * part + i);
                value[kept++] = value[i];
            }
        view.count[r] = kept;
        total += kept;
    }
    if (total > keep) saei_keep_batch(&view, keep, histogram);
}

/* The lists of a row's choices one after the other, and their f. */
static void saei_batch_join(const sae_dictionary *dict, size_t choices, size_t part, size_t active,
                            const sae_code *code, size_t r) {
    uint32_t *latent = code->latent + r * code->stride, count = 0;
    float *value = code->pre + r * code->stride;
    for (size_t c = 0; c < choices; c++)
        for (size_t j = 0; j < code->count[c * code->rows + r]; j++) {
            latent[count] = latent[c * part + j];
            value[count] = saei_ungate(dict, latent[count], value[c * part + j]);
            count += latent[count] < active;
        }
    code->count[r] = count;
}

static sae_result saei_batch_top_k(const sae_dictionary *dict, const char *who,
                                   const sae_rows *x, size_t n, sae_code *code, float **dense) {
    const sae_context *ctx = dict->ctx;
    size_t m = saei_num_codes(&dict->desc), choices = saei_choices(&dict->desc);
    uint32_t *histogram = (uint32_t *)saei_alloc(ctx, 65536, sizeof *histogram);
    saei_infer q;
    memset(code, 0, sizeof *code);
    memset(&q, 0, sizeof q);
    code->rows = n;
    code->stride = m;
    code->count = (uint32_t *)saei_alloc(ctx, n * choices, sizeof(uint32_t));
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
    q.x = *x;
    q.n = n;
    q.count = m;
    q.top_k = true;
    q.dense = *dense;
    saei_infer_run(&q);
    for (size_t c = 0; c < choices; c++)
        saei_batch_choose((double)dict->desc.k + dict->desc.k_fraction, c, m / choices, code,
                          histogram);
    for (size_t r = 0; r < n; r++)
        saei_batch_join(dict, choices, m / choices, saei_active_latents(dict), code, r);
    saei_free(ctx, histogram);
    return SAE_OK;
}

static bool saei_is_batch_top_k(const sae_dictionary *dict) {
    return dict->rule == SAE_RULE_TOP_K && dict->desc.arch != SAE_ARCH_TOP_K;
}

/* IDENTITY: f = x. */
static void saei_copy_rows(const sae_rows *x, size_t n, size_t d, float *out) {
    for (size_t r = 0; r < n; r++) {
        const float *row = saei_row_floats(x, r, 0, d, out + r * d);
        if (row != out + r * d) memcpy(out + r * d, row, d * sizeof *out);
    }
}

/* MATCHING_PURSUIT, with memory for the residuals. */
static sae_result saei_encode_pursuit(const sae_dictionary *dict, const char *who,
                                      const sae_rows *x, size_t n, float *f) {
    const size_t d = dict->desc.activation_dim, m = dict->desc.dict_size;
    const size_t chunk = saei_chunk(dict, n);
    float *residual = (float *)saei_alloc(dict->ctx, chunk * d, sizeof *residual);
    if (!residual)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu rows", who,
                         chunk);
    for (size_t r = 0; r < n; r += chunk) {
        sae_rows some = *x;
        some.data = saei_rows_at(x, r, 0);
        saei_matching_run(dict, &some, saei_min(chunk, n - r), f + r * m, residual);
    }
    saei_free(dict->ctx, residual);
    return SAE_OK;
}

static sae_result saei_encode(const sae_dictionary *dict, const char *who, const sae_rows *rows,
                              size_t n, float *f) {
    saei_infer q;
    sae_rows x;
    size_t m;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, f ? NULL : "f", n,
                                   dict ? saei_num_codes(&dict->desc) : 0, &x));
    if (!n) return SAE_OK;
    m = saei_num_codes(&dict->desc);
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        saei_copy_rows(&x, n, m, f);
        return SAE_OK;
    }
    if (dict->desc.arch == SAE_ARCH_MATCHING_PURSUIT)
        return saei_encode_pursuit(dict, who, &x, n, f);
    if (saei_is_batch_top_k(dict)) {
        sae_code code;
        float *dense;
        SAEI_TRY(saei_batch_top_k(dict, who, &x, n, &code, &dense));
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
    q.k = dict->desc.k;
    saei_infer_run(&q);
    return SAE_OK;
}

SAE_API sae_result sae_encode(const sae_dictionary *dict, const float *x, size_t n, float *f) {
    sae_rows rows;
    return saei_encode(dict, "sae_encode", saei_rows_of(x, &rows), n, f);
}
SAE_API sae_result sae_encode_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                   float *f) {
    return saei_encode(dict, "sae_encode_rows", x, n, f);
}

SAE_API size_t sae_dictionary_capacity(const sae_dictionary *dict, size_t n) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t m = saei_num_codes(h), most = m, all, choices = saei_choices(h);
    double share = (double)h->k + h->k_fraction; /* as saei_batch_top_k has it */
    if (dict->rule == SAE_RULE_TOP_K) most = h->k * choices;
    if (h->arch == SAE_ARCH_MATCHING_PURSUIT)
        most = saei_min(m, h->max_iterations ? h->max_iterations : h->activation_dim);
    if (!saei_mul(n, most, &all)) return SIZE_MAX;
    if (saei_is_batch_top_k(dict))
        all = saei_min((size_t)(share * (double)n) * choices, n * m);
    return all;
}

static sae_result saei_capacity(const sae_dictionary *dict, const char *who, size_t needed,
                                const sae_sparse *out) {
    if (needed <= out->capacity) return SAE_OK;
    return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: capacity is %zu entries, %zu are needed", who,
                     out->capacity, needed);
}

static sae_result saei_encode_sparse_copy(const sae_dictionary *dict, const char *who,
                                          const sae_code *code, sae_sparse *out) {
    size_t total = 0;
    for (size_t r = 0; r < code->rows; r++) total += code->count[r];
    SAEI_TRY(saei_capacity(dict, who, total, out));
    out->row_begin[0] = 0;
    for (size_t r = 0, at = 0; r < code->rows; r++) {
        memcpy(out->latent + at, code->latent + r * code->stride,
               code->count[r] * sizeof(uint32_t));
        memcpy(out->value + at, code->value + r * code->stride, code->count[r] * sizeof(float));
        out->row_begin[r + 1] = at += code->count[r];
    }
    return SAE_OK;
}

static sae_result saei_encode_sparse_identity(const sae_dictionary *dict, const char *who,
                                              const sae_rows *x, size_t n, sae_sparse *out) {
    size_t d = dict->desc.activation_dim, total = 0;
    float own;
    for (size_t i = 0; i < n * d; i++) total += *saei_row_floats(x, i / d, i % d, 1, &own) != 0;
    SAEI_TRY(saei_capacity(dict, who, total, out));
    out->row_begin[0] = total = 0;
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < d; i++) {
            float f = *saei_row_floats(x, r, i, 1, &own);
            if (f == 0) continue;
            out->latent[total] = (uint32_t)i;
            out->value[total++] = f;
        }
        out->row_begin[r + 1] = total;
    }
    return SAE_OK;
}

/* The lists of a rule whose rows are chosen alone. */
static sae_result saei_encode_lists(const sae_dictionary *dict, const char *who, const sae_rows *x,
                                    size_t n, sae_sparse *out) {
    saei_infer q;
    size_t most = 0, total = 0;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = *x;
    q.n = n;
    q.count = saei_num_codes(&dict->desc);
    q.sparse = out;
    if (dict->rule == SAE_RULE_TOP_K) {
        q.k = q.share = dict->desc.k;
        SAEI_TRY(saei_capacity(dict, who, n * q.k, out));
        saei_infer_run(&q);
        saei_sparse_compact(out, n, q.share);
        return SAE_OK;
    }
    q.share = out->capacity / n; /* an even share each; where that is too little, a second pass */
    saei_infer_run(&q);
    for (size_t r = 0; r < n; r++) {
        most = saei_max(most, out->row_begin[r + 1]);
        total += out->row_begin[r + 1];
    }
    SAEI_TRY(saei_capacity(dict, who, total, out));
    if (most <= q.share) saei_sparse_compact(out, n, q.share);
    else {
        for (size_t r = 0; r < n; r++) out->row_begin[r + 1] += out->row_begin[r];
        q.exact = true;
        saei_infer_run(&q);
    }
    return SAE_OK;
}

/* Lists of what only dense rows can choose: what is not 0 of chunks of them. */
static bool saei_chooses_dense(const sae_dictionary *dict) {
    return dict->desc.arch == SAE_ARCH_MATCHING_PURSUIT
           || (dict->desc.layer_codes && dict->rule == SAE_RULE_TOP_K);
}

static sae_result saei_encode_from_dense(const sae_dictionary *dict, const char *who,
                                         const sae_rows *x, size_t n, sae_sparse *out) {
    const size_t m = saei_num_codes(&dict->desc), chunk = saei_chunk(dict, n);
    float *f = (float *)saei_alloc(dict->ctx, chunk * m, sizeof *f);
    sae_result result = SAE_OK;
    size_t at = 0;
    if (!f)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu rows of %zu "
                         "latents", who, chunk, m);
    for (size_t r = 0; r < n && result == SAE_OK; r += chunk) {
        size_t some = saei_min(chunk, n - r);
        sae_rows part = *x;
        part.data = saei_rows_at(x, r, 0);
        result = saei_encode(dict, who, &part, some, f);
        for (size_t i = 0; i < some * m && result == SAE_OK; i++) {
            if (f[i] != 0 && at < out->capacity) {
                out->latent[at] = (uint32_t)(i % m);
                out->value[at] = f[i];
            }
            at += f[i] != 0;
            if (i % m == m - 1) out->row_begin[r + i / m + 1] = at;
        }
    }
    saei_free(dict->ctx, f);
    return result == SAE_OK ? saei_capacity(dict, who, at, out) : result;
}

static sae_result saei_encode_sparse(const sae_dictionary *dict, const char *who,
                                     const sae_rows *rows, size_t n, sae_sparse *out) {
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, saei_sparse_missing(out), n,
                                   dict ? saei_num_codes(&dict->desc) : 0, &x));
    if (out && out->row_begin) out->row_begin[0] = 0;
    if (!n) return SAE_OK;
    if (dict->desc.arch == SAE_ARCH_IDENTITY)
        return saei_encode_sparse_identity(dict, who, &x, n, out);
    if (saei_is_batch_top_k(dict)) {
        sae_code code;
        float *dense;
        sae_result result;
        SAEI_TRY(saei_batch_top_k(dict, who, &x, n, &code, &dense));
        result = saei_encode_sparse_copy(dict, who, &code, out);
        saei_batch_free(dict->ctx, &code, dense);
        return result;
    }
    if (saei_chooses_dense(dict)) return saei_encode_from_dense(dict, who, &x, n, out);
    return saei_encode_lists(dict, who, &x, n, out);
}

SAE_API sae_result sae_encode_sparse(const sae_dictionary *dict, const float *x, size_t n,
                                     sae_sparse *out) {
    sae_rows rows;
    return saei_encode_sparse(dict, "sae_encode_sparse", saei_rows_of(x, &rows), n, out);
}
SAE_API sae_result sae_encode_sparse_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          sae_sparse *out) {
    return saei_encode_sparse(dict, "sae_encode_sparse_rows", x, n, out);
}

static sae_result saei_encode_subset(const sae_dictionary *dict, const char *who,
                                     const sae_rows *rows, size_t n, const uint32_t *latents,
                                     size_t count, float *f) {
    saei_infer q;
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, !latents ? "latents" : !f ? "f" : NULL,
                                   count ? n : 0, count, &x));
    if (!n || !count) return SAE_OK;
    for (size_t j = 0; j < count; j++)
        if (latents[j] >= saei_num_codes(&dict->desc))
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: latents[%zu] is %u, allowed are 0 to %zu", who, j,
                             (unsigned)latents[j], saei_num_codes(&dict->desc) - 1);
    if (dict->desc.arch == SAE_ARCH_MATCHING_PURSUIT)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "%s: a latent of MatchingPursuitSAE "
                         "depends on all others", who);
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        float own;
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0; j < count; j++)
                f[r * count + j] = *saei_row_floats(&x, r, latents[j], 1, &own);
        return SAE_OK;
    }
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

SAE_API sae_result sae_encode_subset(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint32_t *latents, size_t count, float *f) {
    sae_rows rows;
    return saei_encode_subset(dict, "sae_encode_subset", saei_rows_of(x, &rows), n, latents, count,
                              f);
}
SAE_API sae_result sae_encode_subset_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          const uint32_t *latents, size_t count, float *f) {
    return saei_encode_subset(dict, "sae_encode_subset_rows", x, n, latents, count, f);
}
