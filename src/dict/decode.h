#pragma once
#include "encode.h"

/* ==== >>dictionary: decode ==================================================================== */

enum { SAEI_DECODE_COLUMNS = 512, SAEI_DECODE_ENTRIES = 256 };

typedef struct saei_decoding {
    const sae_dictionary *dict;
    const float *f;         /* dense, or */
    const sae_sparse *code; /* sparse, or */
    const sae_code *lists;  /* with a stride */
    float *x_hat;
} saei_decoding;

/* add_rows for any number of columns. */
static void saei_add_rows(const saei_kernels *kernels, size_t width, size_t count,
                          const uint32_t *row, const float *value, const float *M, size_t ld,
                          float *out) {
    const size_t whole = width / 16 * 16;
    kernels->add_rows(whole, count, row, value, M, ld, out);
    for (size_t c = whole; c < width; c++)
        for (size_t j = 0; j < count; j++) out[c] = fmaf(value[j], M[row[j] * ld + c], out[c]);
}

/* sum += what row f [m] adds to `width` columns of x_hat from c on. */
static SAEI_NOINLINE void saei_decode_dense(const sae_dictionary *dict, const float *f, size_t c,
                                            size_t width, float *sum) {
    size_t m = dict->desc.dict_size, held = 0;
    float value[SAEI_DECODE_ENTRIES];
    uint32_t latent[SAEI_DECODE_ENTRIES];
    for (size_t i = 0; i < m; i++) {
        if (f[i] != 0) {
            latent[held] = (uint32_t)i;
            value[held++] = f[i];
        }
        if (held < SAEI_DECODE_ENTRIES && i + 1 < m) continue;
        saei_add_rows(dict->ctx->kernels, width, held, latent, value, dict->W_dec + c,
                      dict->ld_out, sum);
        held = 0;
    }
}

/* The same of the codes of layer l in a list of `count`. */
static SAEI_NOINLINE void saei_decode_layer(const sae_dictionary *dict, const uint32_t *code,
                                            const float *f, size_t count, size_t l, size_t c,
                                            size_t width, float *sum) {
    const size_t m = dict->desc.dict_size;
    float value[SAEI_DECODE_ENTRIES];
    uint32_t latent[SAEI_DECODE_ENTRIES];
    size_t held = 0;
    for (size_t j = 0; j < count; j++) {
        if (code[j] / m == l) {
            latent[held] = (uint32_t)(code[j] % m);
            value[held++] = f[j];
        }
        if (held < SAEI_DECODE_ENTRIES && j + 1 < count) continue;
        saei_add_rows(dict->ctx->kernels, width, held, latent, value, dict->W_dec + c,
                      dict->ld_out, sum);
        held = 0;
    }
}

/* sum of a list's latents in `width` columns from c on, which are of layer l where layers have
   codes of their own. */
static void saei_decode_list(const sae_dictionary *dict, const uint32_t *latent,
                             const float *value, size_t count, size_t l, size_t c, size_t width,
                             float *sum) {
    if (dict->desc.layer_codes)
        saei_decode_layer(dict, latent, value, count, l, c, width, sum);
    else
        saei_add_rows(dict->ctx->kernels, width, count, latent, value, dict->W_dec + c,
                      dict->ld_out, sum);
}

/* n columns of x_hat from c on: b_dec and the sum, the normalizer undone. */
static void saei_decode_end(const sae_dictionary *dict, size_t c, size_t n, const float *sum,
                            float *x_hat) {
    const size_t width = saei_output_dim(&dict->desc) / dict->desc.layers;
    for (size_t k = 0; k < n; k++) x_hat[k] = dict->b_dec[c + k] + sum[k];
    for (size_t k = 0; dict->mean && k < n; k++)
        x_hat[k] = x_hat[k] / dict->output_scale[(c + k) / width] + dict->mean[c + k];
}

/* One row: latents ascending, then b_dec, in blocks of columns on the stack. */
static void saei_decode_row(void *arg, size_t r) {
    saei_decoding *q = (saei_decoding *)arg;
    const sae_dictionary *dict = q->dict;
    const size_t d = saei_output_dim(&dict->desc), m = saei_num_codes(&dict->desc);
    const bool apart = dict->desc.layer_codes;
    const size_t part = apart ? d / dict->desc.layers : d;
    float sum[SAEI_DECODE_COLUMNS];
    for (size_t c = 0, n; c < d; c += n) {
        size_t l = c / part, end = apart ? (l + 1) * part : d, width;
        n = saei_min(SAEI_DECODE_COLUMNS, end - c);
        width = apart ? n : saei_align16(n); /* rows end in zeros */
        memset(sum, 0, width * sizeof *sum);
        if (q->lists) {
            size_t at = r * q->lists->stride;
            saei_decode_list(dict, q->lists->latent + at, q->lists->value + at,
                             q->lists->count[r], l, c, width, sum);
        } else if (q->code) {
            size_t begin = q->code->row_begin[r], count = q->code->row_begin[r + 1] - begin;
            saei_decode_list(dict, q->code->latent + begin, q->code->value + begin, count, l, c,
                             width, sum);
        } else
            saei_decode_dense(dict, q->f + r * m + (apart ? l * dict->desc.dict_size : 0), c,
                              width, sum);
        saei_decode_end(dict, c, n, sum, q->x_hat + r * d + c);
    }
}

SAE_API sae_result sae_decode(const sae_dictionary *dict, const float *f, size_t n, float *x_hat) {
    saei_decoding q;
    SAEI_TRY(saei_infer_check(dict, "sae_decode", !f ? "f" : !x_hat ? "x_hat" : NULL, n,
                              dict ? saei_num_codes(&dict->desc) : 0));
    if (!n) return SAE_OK;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        memcpy(x_hat, f, n * dict->desc.activation_dim * sizeof *f);
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
                              !code              ? "sparse"
                              : !code->row_begin ? "sparse.row_begin"
                              : !x_hat           ? "x_hat"
                                                 : NULL,
                              n, 0));
    if (!n) return SAE_OK;
    if (code->row_begin[n] > code->row_begin[0] && (!code->latent || !code->value))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_decode_sparse: sparse.row_begin lists %zu entries, but sparse.%s is "
                         "NULL", code->row_begin[n] - code->row_begin[0],
                         code->latent ? "value" : "latent");
    for (size_t r = 0; r < n; r++)
        if (code->row_begin[r + 1] < code->row_begin[r])
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_decode_sparse: row_begin[%zu] is %zu, less "
                             "than the one before",
                             r + 1, code->row_begin[r + 1]);
    for (size_t j = code->row_begin[0]; j < code->row_begin[n]; j++)
        if (code->latent[j] >= saei_num_codes(&dict->desc))
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_decode_sparse: latent[%zu] is %u, allowed "
                             "are 0 to %zu",
                             j, (unsigned)code->latent[j], saei_num_codes(&dict->desc) - 1);
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

/* Rows r0 on: the norm put back, W_skip x added. */
static SAEI_NOINLINE void saei_finish_rows(const saei_infer *q, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    size_t out = saei_output_dim(&dict->desc), layers = dict->desc.layers;
    saei_small_block small;
    saei_room room = saei_infer_room(dict, &small);
    for (size_t r = r0; dict->desc.input_norm && !dict->desc.output_normalized && r < r0 + rows;
         r++)
        for (size_t l = 0; l < layers; l++) {
            saei_norm norm = saei_row_norm(dict, &q->x, r, l);
            float *y = q->dense + r * out + l * (out / layers);
            for (size_t c = 0; c < out / layers; c++) y[c] = y[c] * norm.scale + norm.shift;
        }
    for (size_t r = r0, some; dict->W_skip && r < r0 + rows; r += some) {
        some = saei_min(room.rows, r0 + rows - r);
        for (size_t first = 0; first < out; first += SAEI_PANEL) {
            size_t count = saei_min(SAEI_PANEL, out - first);
            saei_infer_product(q, &room, r, some, first, count);
            for (size_t i = 0; i < some; i++)
                for (size_t j = 0; j < count; j++)
                    q->dense[(r + i) * out + first + j] += room.product[i * SAEI_PANEL + j];
        }
    }
    saei_room_leave(&room);
}

static void saei_finish_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    size_t r0 = part * SAEI_BLOCK_ROWS;
    saei_finish_rows(q, r0, saei_part_end(part, SAEI_BLOCK_ROWS, q->n) - r0);
}

/* What sae_decode_finish does, x checked. */
static void saei_finish(const sae_dictionary *dict, const sae_rows *x, size_t n, float *x_hat) {
    saei_infer q;
    if (!dict->W_skip && (!dict->desc.input_norm || dict->desc.output_normalized)) return;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = *x;
    q.W = dict->W_skip;
    q.n = n;
    q.dense = x_hat;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_finish_part, &q);
}

static sae_result saei_decode_finish(const sae_dictionary *dict, const char *who,
                                     const sae_rows *rows, size_t n, float *x_hat) {
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, x_hat ? NULL : "x_hat", n, 0, &x));
    if (n) saei_finish(dict, &x, n, x_hat);
    return SAE_OK;
}

SAE_API sae_result sae_decode_finish(const sae_dictionary *dict, const float *x, size_t n,
                                     float *x_hat) {
    sae_rows rows;
    return saei_decode_finish(dict, "sae_decode_finish", saei_rows_of(x, &rows), n, x_hat);
}
SAE_API sae_result sae_decode_finish_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          float *x_hat) {
    return saei_decode_finish(dict, "sae_decode_finish_rows", x, n, x_hat);
}
