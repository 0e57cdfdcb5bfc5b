#pragma once
#include "../kernels/context.h"
#include "../tensor/dtype.h"
#include "params.h"

/* ==== >>dictionary: pre-activations =========================================================== */

/* What the parts of one inference call share. */
typedef struct saei_infer {
    const sae_dictionary *dict;
    sae_rows x;            /* defaults set */
    const float *W;        /* NULL: W_enc; or W_skip, with x raw */
    size_t n, count;       /* rows; latents looked at */
    const uint32_t *list;  /* NULL: all */
    bool top_k;            /* leave relu(p) for a selection that follows */
    float *dense;          /* [n,count], or NULL */
    sae_sparse *sparse;    /* or NULL */
    size_t share;          /* sparse: row r writes to [r*share, (r+1)*share), or where begin says */
    bool exact;            /* sparse: row_begin[r] is known, write there */
    const uint8_t *mask;   /* ghost: */
    float *ghost;
    float *x_hat;          /* forward without f */
} saei_infer;

static sae_rows saei_rows_of(const float *x) {
    sae_rows rows;
    memset(&rows, 0, sizeof rows);
    rows.data = x;
    return rows;
}

static const unsigned char *saei_rows_at(const sae_rows *x, size_t r, size_t c) {
    return (const unsigned char *)x->data + (r * x->stride + c) * sae_dtype_size(x->dtype);
}

/* Columns c .. c + n of row r as float32: where they lie, or in out. */
static const float *saei_row_floats(const sae_rows *x, size_t r, size_t c, size_t n, float *out) {
    const unsigned char *at = saei_rows_at(x, r, c);
    if (x->dtype == SAE_F32) return (const float *)(const void *)at;
    saei_convert_row(x->dtype, at, 2, n, out);
    return out;
}

/* DEVIATION: a row of zeros stays one under CONSTANT, where SAELens divides 0 by 0. */
static saei_norm saei_row_norm(const sae_dictionary *dict, const sae_rows *x, size_t r) {
    enum { COLUMNS = 64 };
    size_t d = dict->desc.activation_dim;
    bool layer = dict->desc.input_norm == SAE_INPUT_NORM_LAYER;
    double sums[2] = { 0, 0 }, mean = 0; /* of x, of (x - mean)^2 */
    float own[COLUMNS];
    saei_norm norm = { 0, 1, 1 };
    if (!dict->desc.input_norm) return norm;
    for (size_t pass = layer ? 0 : 1; pass < 2; pass++) {
        for (size_t c = 0; c < d; c += COLUMNS) {
            size_t n = saei_min(COLUMNS, d - c);
            const float *v = saei_row_floats(x, r, c, n, own);
            for (size_t i = 0; !pass && i < n; i++) sums[0] += (double)v[i];
            for (size_t i = 0; pass && i < n; i++)
                sums[1] += ((double)v[i] - mean) * ((double)v[i] - mean);
        }
        mean = sums[0] / (double)d;
    }
    if (layer) {
        norm.shift = (float)mean;
        norm.scale = d > 1 ? (float)sqrt(sums[1] / (double)(d - 1)) : 0;
        norm.divisor = norm.scale + 1e-5f;
    } else {
        norm.scale = (float)sqrt(sums[1] / (double)d);
        if (norm.scale != 0) norm.divisor = norm.scale;
    }
    return norm;
}

/* The norms of a block of rows, once for all its panels. */
static void saei_infer_norms(const saei_infer *q, size_t r0, size_t rows, saei_norm *norms) {
    for (size_t r = 0; q->dict->desc.input_norm && r < rows; r++)
        norms[r] = saei_row_norm(q->dict, &q->x, r0 + r);
}

/* Columns c .. c + n of row r as the product takes them: where they lie, or in out. W_skip takes
   rows as they are. norm: of the row, where the dictionary has an input_norm. */
static const float *saei_infer_row(const saei_infer *q, size_t r, size_t c, size_t n,
                                   const saei_norm *norm, float *out) {
    const sae_dictionary *dict = q->dict;
    const float *x = saei_row_floats(&q->x, r, c, n, out);
    if (q->W) return x;
    if (dict->desc.input_norm) {
        for (size_t k = 0; k < n; k++) out[k] = (x[k] - norm->shift) / norm->divisor;
        x = out;
    }
    if (!saei_subtracts(&dict->desc)) return x;
    dict->ctx->kernels->axpy(n, -1, dict->b_dec + c, x, out);
    return out;
}

/* saei_infer_product of so few rows that packing would not pay. */
static void saei_infer_few(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                           size_t first, size_t count) {
    const sae_dictionary *dict = q->dict;
    const float *W = q->W ? q->W : dict->W_enc;
    size_t d = dict->desc.activation_dim, most = room->depth * SAEI_PANEL;
    uint32_t list[SAEI_PANEL];
    if (q->x.dtype == SAE_F32 && (q->W || (!dict->desc.input_norm && !saei_subtracts(&dict->desc))))
        most = d;
    for (size_t j = 0; j < count; j++)
        list[j] = q->list ? q->list[first + j] : (uint32_t)(first + j);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < d; c += most) {
            size_t n = saei_min(most, d - c);
            const float *x = saei_infer_row(q, r0 + r, c, n, &room->norms[r], room->panel);
            dict->ctx->kernels->products(n, x, count, list, W + c, dict->ld, c > 0,
                                         room->product + r * SAEI_PANEL);
        }
}

/* room->product [rows][48] = W_enc (x or x - b_dec) of rows r0 on, for up to 48 latents from
   `first`, in the product order. room->norms: of the rows. */
static void saei_infer_product(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                               size_t first, size_t count) {
    const sae_dictionary *dict = q->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    const float *W = q->W ? q->W : dict->W_enc;
    size_t d = dict->desc.activation_dim;
    if (rows * 2 <= SAEI_TILE_ROWS) {
        saei_infer_few(q, room, r0, rows, first, count);
        return;
    }
    for (size_t c = 0; c < d; c += room->depth) {
        size_t depth = saei_min(room->depth, d - c);
        saei_pack_panel(kernels, W + c, dict->ld, depth, q->list, first, count, room->panel);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *at[SAEI_TILE_ROWS], *last = room->centred;
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
                if (g + i < rows)
                    last = saei_infer_row(q, r0 + g + i, c, depth, &room->norms[g + i],
                                          room->centred + i * room->depth);
                at[i] = last; /* past the rows: the last of them again */
            }
            kernels->tile(at, SAEI_TILE_ROWS, room->panel, depth, c > 0,
                          room->product + g * SAEI_PANEL, SAEI_PANEL);
        }
    }
}

static bool saei_is_signed(const sae_dictionary_desc *desc) {
    return desc->activation == SAE_ACTIVATION_SIGNED
           || desc->activation == SAE_ACTIVATION_MAGNITUDE;
}

/* f of one latent from its product with x; top_k leaves the selection to the caller. */
static float saei_infer_value(const sae_dictionary *dict, size_t i, float product, bool top_k) {
    float p = product + dict->b_enc[i];
    switch (dict->desc.arch) {
    case SAE_ARCH_GATED:
        return p > 0 ? saei_gate_value((float)saei_exp(dict->aux0[i]), product, dict->aux1[i]) : 0;
    case SAE_ARCH_JUMP_RELU: return p > dict->aux0[i] && p > 0 ? p : 0;
    case SAE_ARCH_TOP_K:
    case SAE_ARCH_BATCH_TOP_K:
    case SAE_ARCH_MATRYOSHKA:
        if (saei_is_signed(&dict->desc)) return p;
        if (!top_k && !(p > dict->threshold)) return 0;
        return p > 0 ? p : 0;
    case SAE_ARCH_STANDARD:
    case SAE_ARCH_STANDARD_NEW:
    case SAE_ARCH_IDENTITY:
    case SAE_ARCH_DEFAULT: break;
    }
    return p > 0 || saei_is_signed(&dict->desc) ? p : 0;
}

/* The first latent past the active groups. */
static size_t saei_active_latents(const sae_dictionary *dict) {
    size_t end = 0;
    if (dict->desc.arch != SAE_ARCH_MATRYOSHKA) return dict->desc.dict_size;
    for (size_t g = 0; g < dict->active_groups; g++) end += dict->desc.group_sizes[g];
    return end;
}

/* saei_infer_value of a panel, GATED apart: f = p > cut ? p : 0 with p = product + bias. */
static void saei_infer_cuts(const saei_infer *q, size_t first, size_t count, float *bias,
                            float *cut) {
    const sae_dictionary *dict = q->dict;
    size_t active = saei_active_latents(dict);
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        size_t i = q->list ? q->list[first + saei_min(j, count - 1)]
                           : first + saei_min(j, count - 1);
        float theta = dict->desc.arch == SAE_ARCH_JUMP_RELU ? dict->aux0[i]
                      : saei_arch_selects(dict->desc.arch) && !q->top_k ? dict->threshold : 0;
        bias[j] = dict->b_enc[i];
        cut[j] = theta < 0 ? 0 : theta;
        if (i >= active && !q->top_k) cut[j] = HUGE_VALF;
    }
}
