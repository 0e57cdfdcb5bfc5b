#pragma once
#include "encode.h"

/* ==== >>dictionary: decode ==================================================================== */

enum { SAEI_DECODE_COLUMNS = 512, SAEI_DECODE_ENTRIES = 256 };

typedef struct saei_decoding {
    const sae_dictionary *dict;
    const float *f;         /* dense, or */
    const sae_sparse *code; /* sparse */
    float *x_hat;
} saei_decoding;

/* One row: latents ascending, then b_dec, in blocks of columns on the stack. */
static void saei_decode_row(void *arg, size_t r) {
    saei_decoding *q = (saei_decoding *)arg;
    const sae_dictionary *dict = q->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    size_t d = saei_output_dim(&dict->desc), m = dict->desc.dict_size, ld = dict->ld_out;
    float sum[SAEI_DECODE_COLUMNS], value[SAEI_DECODE_ENTRIES];
    uint32_t latent[SAEI_DECODE_ENTRIES];
    for (size_t c = 0; c < ld; c += SAEI_DECODE_COLUMNS) {
        size_t width = saei_min(SAEI_DECODE_COLUMNS, ld - c);
        memset(sum, 0, width * sizeof *sum);
        if (q->code) {
            size_t begin = q->code->row_begin[r], end = q->code->row_begin[r + 1];
            kernels->add_rows(width, end - begin, q->code->latent + begin, q->code->value + begin,
                              dict->W_dec + c, ld, sum);
        } else {
            size_t held = 0;
            for (size_t i = 0; i < m; i++) {
                if (q->f[r * m + i] != 0) {
                    latent[held] = (uint32_t)i;
                    value[held++] = q->f[r * m + i];
                }
                if (held == SAEI_DECODE_ENTRIES || i + 1 == m) {
                    kernels->add_rows(width, held, latent, value, dict->W_dec + c, ld, sum);
                    held = 0;
                }
            }
        }
        for (size_t k = 0; k < saei_min(width, d - c); k++)
            q->x_hat[r * d + c + k] = dict->b_dec[c + k] + sum[k];
    }
}

SAE_API sae_result sae_decode(const sae_dictionary *dict, const float *f, size_t n, float *x_hat) {
    saei_decoding q;
    SAEI_TRY(saei_infer_check(dict, "sae_decode", f && x_hat, n, dict ? dict->desc.dict_size : 0));
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        if (n) memcpy(x_hat, f, n * dict->desc.activation_dim * sizeof *f);
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.f = f;
    q.x_hat = x_hat;
    saei_parallel(dict->ctx, n, saei_decode_row, &q);
    return SAE_OK;
}

SAE_API sae_result sae_decode_sparse(const sae_dictionary *dict, const sae_sparse *code, size_t n,
                                     float *x_hat) {
    saei_decoding q;
    SAEI_TRY(saei_infer_check(dict, "sae_decode_sparse",
                              code && code->row_begin && (x_hat || !n), n, 0));
    if (n && code->row_begin[n] > code->row_begin[0] && (!code->latent || !code->value))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_decode_sparse: row_begin lists %zu entries, "
                         "but latent or value is NULL",
                         code->row_begin[n] - code->row_begin[0]);
    for (size_t r = 0; r < n; r++)
        if (code->row_begin[r + 1] < code->row_begin[r])
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_decode_sparse: row_begin[%zu] is %zu, less "
                             "than the one before",
                             r + 1, code->row_begin[r + 1]);
    for (size_t j = n ? code->row_begin[0] : 0; n && j < code->row_begin[n]; j++)
        if (code->latent[j] >= dict->desc.dict_size)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_decode_sparse: latent[%zu] is %u, allowed "
                             "are 0 to %zu",
                             j, (unsigned)code->latent[j], dict->desc.dict_size - 1);
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        size_t d = dict->desc.activation_dim;
        memset(x_hat, 0, n * d * sizeof *x_hat);
        for (size_t r = 0; r < n; r++)
            for (size_t j = code->row_begin[r]; j < code->row_begin[r + 1]; j++)
                x_hat[r * d + code->latent[j]] = code->value[j];
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.code = code;
    q.x_hat = x_hat;
    saei_parallel(dict->ctx, n, saei_decode_row, &q);
    return SAE_OK;
}

/* 32 rows: the norm put back, W_skip x added. */
static void saei_finish_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    const sae_dictionary *dict = q->dict;
    size_t d = dict->desc.activation_dim, out = saei_output_dim(&dict->desc);
    size_t r0 = part * SAEI_INFER_ROWS, rows = saei_min(SAEI_INFER_ROWS, q->n - r0);
    float product[SAEI_INFER_ROWS * SAEI_PANEL];
    for (size_t r = 0; dict->desc.input_norm && !dict->desc.output_normalized && r < rows; r++) {
        saei_norm norm = saei_row_norm(dict, q->x + (r0 + r) * d);
        float *y = q->dense + (r0 + r) * out;
        for (size_t c = 0; c < out; c++) y[c] = y[c] * norm.scale + norm.shift;
    }
    for (size_t first = 0; dict->W_skip && first < out; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, out - first);
        saei_infer_product(q, q->x + r0 * d, rows, first, count, NULL, product);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < count; j++)
                q->dense[(r0 + r) * out + first + j] += product[r * SAEI_PANEL + j];
    }
}

SAE_API sae_result sae_decode_finish(const sae_dictionary *dict, const float *x, size_t n,
                                     float *x_hat) {
    saei_infer q;
    SAEI_TRY(saei_infer_check(dict, "sae_decode_finish", x && x_hat, n, 0));
    if (!dict->W_skip && (!dict->desc.input_norm || dict->desc.output_normalized)) return SAE_OK;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.W = dict->W_skip;
    q.n = n;
    q.dense = x_hat;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_INFER_ROWS), saei_finish_part, &q);
    return SAE_OK;
}

/* -- forward without f: nothing of [n,m] is held -- */

enum { SAEI_FORWARD_LISTS = 1024 }; /* entries on the stack of a part */

/* Rows 32 at a time: the latents of a panel go into x_hat before the next panel is looked at, in
   ascending order; b_dec comes last, as in decode. */
static void saei_forward_rows(const saei_infer *q, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    size_t d = saei_output_dim(&dict->desc), whole = d / 16 * 16, ld = dict->ld_out;
    size_t active = saei_active_latents(dict);
    float product[SAEI_INFER_ROWS * SAEI_PANEL], value[SAEI_PANEL];
    const float *x = q->x + r0 * dict->desc.activation_dim;
    uint32_t latent[SAEI_PANEL];
    saei_norm norms[SAEI_INFER_ROWS];
    saei_infer_norms(q, x, rows, norms);
    memset(q->x_hat + r0 * d, 0, rows * d * sizeof(float));
    for (size_t first = 0; first < active; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, active - first);
        saei_infer_product(q, x, rows, first, count, norms, product);
        for (size_t r = 0; r < rows; r++) {
            float *out = q->x_hat + (r0 + r) * d;
            size_t held = 0;
            for (size_t j = 0; j < count; j++) {
                float f = saei_infer_value(dict, first + j, product[r * SAEI_PANEL + j], false);
                if (f == 0) continue;
                latent[held] = (uint32_t)(first + j);
                value[held++] = f;
            }
            dict->ctx->kernels->add_rows(whole, held, latent, value, dict->W_dec, ld, out);
            for (size_t c = whole; c < d; c++)
                for (size_t j = 0; j < held; j++)
                    out[c] = fmaf(value[j], dict->W_dec[latent[j] * ld + c], out[c]);
        }
    }
    for (size_t r = r0; r < r0 + rows; r++)
        for (size_t c = 0; c < d; c++) q->x_hat[r * d + c] = dict->b_dec[c] + q->x_hat[r * d + c];
}

/* TOP_K: as many rows at a time as their lists find room for on the stack. */
static void saei_forward_top_rows(const saei_infer *all, size_t r0, size_t rows) {
    saei_infer q = *all;
    saei_decoding decoding;
    sae_sparse lists;
    size_t k = q.share;
    size_t row_begin[SAEI_INFER_ROWS + 1];
    uint32_t latent[SAEI_FORWARD_LISTS];
    float value[SAEI_FORWARD_LISTS];
    lists.row_begin = row_begin;
    lists.latent = latent;
    lists.value = value;
    lists.capacity = SAEI_FORWARD_LISTS;
    q.x += r0 * q.dict->desc.activation_dim;
    q.n = rows;
    q.sparse = &lists;
    if (q.dict->desc.activation) saei_infer_varied_part(&q, 0);
    else saei_infer_top_rows(&q, 0, rows);
    saei_sparse_compact(&lists, q.n, k);
    memset(&decoding, 0, sizeof decoding);
    decoding.dict = q.dict;
    decoding.code = &lists;
    decoding.x_hat = q.x_hat + r0 * saei_output_dim(&q.dict->desc);
    for (size_t r = 0; r < q.n; r++) saei_decode_row(&decoding, r);
}

static void saei_forward_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    bool top_k = q->dict->rule == SAE_RULE_TOP_K;
    size_t most = top_k ? saei_min(SAEI_INFER_ROWS, SAEI_FORWARD_LISTS / q->share)
                        : (size_t)SAEI_INFER_ROWS;
    size_t end = saei_part_end(part, SAEI_INFER_ROWS, q->n), rows;
    for (size_t r = part * SAEI_INFER_ROWS; r < end; r += rows) {
        saei_prepared_slot *slot;
        rows = saei_infer_block(q, end - r);
        slot = saei_prepared_rows(q, r, rows);
        if (slot) {
            sae_sparse lists;
            saei_decoding decoding;
            memset(&decoding, 0, sizeof decoding);
            lists.row_begin = slot->begin;
            lists.latent = slot->latent;
            lists.value = slot->pre;
            decoding.dict = q->dict;
            decoding.code = &lists;
            decoding.x_hat = q->x_hat + r * saei_output_dim(&q->dict->desc);
            for (size_t i = 0; i < rows; i++) saei_decode_row(&decoding, i);
            saei_prepared_leave(q->dict->prepared, slot, false);
            continue;
        }
        for (size_t i = 0; i < rows; i += most) {
            size_t some = saei_min(most, rows - i);
            if (top_k) saei_forward_top_rows(q, r + i, some);
            else saei_forward_rows(q, r + i, some);
        }
    }
}

/* The rules that need all latents at once: batch top-k, and top-k of very many. */
static sae_result saei_forward_dense(const sae_dictionary *dict, const float *x, size_t n,
                                     float *x_hat) {
    size_t m = dict->desc.dict_size, d = dict->desc.activation_dim, all;
    size_t chunk = saei_is_batch_top_k(dict)
                       ? n
                       : saei_min(n, (size_t)SAEI_INFER_ROWS * (size_t)dict->ctx->threads);
    sae_result result = SAE_OK;
    float *own = NULL;
    if (saei_mul(chunk, m, &all)) own = (float *)saei_alloc(dict->ctx, all, sizeof(float));
    if (!own)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "sae_forward: no memory for %zu rows of %zu "
                         "latents",
                         chunk, m);
    for (size_t r = 0; r < n && result == SAE_OK; r += chunk) {
        size_t rows = saei_min(chunk, n - r);
        result = sae_encode(dict, x + r * d, rows, own);
        if (result == SAE_OK)
            result = sae_decode(dict, own, rows, x_hat + r * saei_output_dim(&dict->desc));
    }
    saei_free(dict->ctx, own);
    return result == SAE_OK ? sae_decode_finish(dict, x, n, x_hat) : result;
}

SAE_API sae_result sae_forward(const sae_dictionary *dict, const float *x, size_t n, float *x_hat,
                               float *f) {
    saei_infer q;
    size_t k;
    SAEI_TRY(saei_infer_check(dict, "sae_forward", x && x_hat, n, dict ? dict->desc.dict_size : 0));
    if (f) {
        SAEI_TRY(sae_encode(dict, x, n, f));
        SAEI_TRY(sae_decode(dict, f, n, x_hat));
        return sae_decode_finish(dict, x, n, x_hat);
    }
    if (!n) return SAE_OK;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        memcpy(x_hat, x, n * dict->desc.activation_dim * sizeof *x_hat);
        return SAE_OK;
    }
    k = dict->desc.k;
    if (dict->rule == SAE_RULE_TOP_K && (saei_is_batch_top_k(dict) || k > SAEI_FORWARD_LISTS))
        return saei_forward_dense(dict, x, n, x_hat);
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = dict->desc.dict_size;
    q.x_hat = x_hat;
    q.share = k;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_INFER_ROWS), saei_forward_part, &q);
    return sae_decode_finish(dict, x, n, x_hat);
}

/* Ghost rows: 32 at a time through panels; latents ascend, so the sums are in the rows order. */
static void saei_ghost_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    const sae_dictionary *dict = q->dict;
    size_t d = dict->desc.activation_dim;
    size_t r0 = part * SAEI_INFER_ROWS, rows = saei_min(SAEI_INFER_ROWS, q->n - r0);
    float product[SAEI_INFER_ROWS * SAEI_PANEL];
    memset(q->ghost + r0 * d, 0, rows * d * sizeof(float));
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, q->x + r0 * d, rows, first, count, NULL, product);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < count; j++) {
                const float *row = dict->W_dec + (first + j) * dict->ld_out;
                float *out = q->ghost + (r0 + r) * d, e;
                if (!q->mask[first + j]) continue;
                e = (float)saei_exp((double)(product[r * SAEI_PANEL + j] + dict->b_enc[first + j]));
                for (size_t c = 0; c < d; c++) out[c] = fmaf(e, row[c], out[c]);
            }
    }
}

SAE_API sae_result sae_forward_ghost(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint8_t *mask, float *x_ghost) {
    saei_infer q;
    SAEI_TRY(saei_infer_check(dict, "sae_forward_ghost", x && mask && x_ghost, n,
                              dict ? dict->desc.dict_size : 0));
    if (dict->desc.arch != SAE_ARCH_STANDARD || !saei_is_plain(&dict->desc))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_forward_ghost: the dictionary is %s%s, only "
                         "AutoEncoder has a ghost mode",
                         sae_arch_name(dict->desc.arch),
                         saei_is_plain(&dict->desc) ? "" : " with variations");
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = dict->desc.dict_size;
    q.mask = mask;
    q.ghost = x_ghost;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_INFER_ROWS), saei_ghost_part, &q);
    return SAE_OK;
}

SAE_API void sae_output_features(const sae_dictionary *dict, size_t n, float *f) {
    if (!dict || !f || dict->desc.arch != SAE_ARCH_STANDARD_NEW) return;
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        const float *row = dict->W_dec + i * dict->ld_out;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        for (size_t r = 0; r < n; r++) f[r * dict->desc.dict_size + i] *= norm;
    }
}
