#pragma once
#include "../backend/cpu_select.h"
#include "params.h"

/* ==== >>dictionary: pre-activations =========================================================== */

/* A panel is packed once for 128 rows; 68 KB of stack. */
enum { SAEI_INFER_ROWS = 128, SAEI_INFER_DEPTH = 64 };

/* What the parts of one inference call share. */
typedef struct saei_infer {
    const sae_dictionary *dict;
    const float *x;
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


/* input_norm of a row: x = (raw x - shift) / divisor, and x_hat scale + shift undoes it.
   DEVIATION: a row of zeros stays one under CONSTANT, where SAELens divides 0 by 0. */
typedef struct saei_norm {
    float shift, divisor, scale;
} saei_norm;

static saei_norm saei_row_norm(const sae_dictionary *dict, const float *x) {
    size_t d = dict->desc.activation_dim;
    double sum = 0, square = 0, mean;
    saei_norm norm = { 0, 1, 1 };
    if (dict->desc.input_norm == SAE_INPUT_NORM_CONSTANT) {
        for (size_t c = 0; c < d; c++) square += (double)x[c] * (double)x[c];
        norm.scale = (float)sqrt(square / (double)d);
        if (norm.scale != 0) norm.divisor = norm.scale;
    } else if (dict->desc.input_norm == SAE_INPUT_NORM_LAYER) {
        for (size_t c = 0; c < d; c++) sum += (double)x[c];
        norm.shift = (float)(mean = sum / (double)d);
        for (size_t c = 0; c < d; c++) square += ((double)x[c] - mean) * ((double)x[c] - mean);
        norm.scale = d > 1 ? (float)sqrt(square / (double)(d - 1)) : 0;
        norm.divisor = norm.scale + 1e-5f;
    }
    return norm;
}

/* The norms of a block of rows, once for all its panels. */
static void saei_infer_norms(const saei_infer *q, const float *x, size_t rows, saei_norm *norms) {
    for (size_t r = 0; q->dict->desc.input_norm && r < rows; r++)
        norms[r] = saei_row_norm(q->dict, x + r * q->dict->desc.activation_dim);
}

/* Columns k0 .. k0 + depth of a row as the encoder takes them; returns out. norm: NULL for none. */
static const float *saei_infer_centre(const sae_dictionary *dict, const float *x, size_t k0,
                                      size_t depth, const saei_norm *norm, bool subtract,
                                      float *out) {
    const float *from = x + k0;
    for (size_t k = 0; norm && k < depth; k++) out[k] = (from[k] - norm->shift) / norm->divisor;
    if (norm) from = out;
    if (subtract) dict->ctx->kernels->axpy(depth, -1, dict->b_dec + k0, from, out);
    return out;
}

/* product [rows][48] = W_enc (x or x - b_dec) for up to 48 latents from `first`, in the product
   order. norms: of the rows, where the dictionary has an input_norm. */
static void saei_infer_product(const saei_infer *q, const float *x, size_t rows, size_t first,
                               size_t count, const saei_norm *norms, float *product) {
    const sae_dictionary *dict = q->dict;
    size_t d = dict->desc.activation_dim;
    float panel[SAEI_INFER_DEPTH * SAEI_PANEL], centred[SAEI_INFER_ROWS * SAEI_INFER_DEPTH];
    bool subtract = !q->W && saei_subtracts(&dict->desc), norm = !q->W && dict->desc.input_norm;
    bool few = rows * 2 <= SAEI_TILE_ROWS && d <= SAEI_INFER_ROWS * SAEI_INFER_DEPTH;
    const float *W = q->W ? q->W : dict->W_enc;
    if (few) { /* the packing would not pay */
        uint32_t list[SAEI_PANEL];
        for (size_t j = 0; j < count; j++)
            list[j] = q->list ? q->list[first + j] : (uint32_t)(first + j);
        for (size_t r = 0; r < rows; r++) {
            const float *from = x + r * d;
            if (norm || subtract)
                from = saei_infer_centre(dict, from, 0, d, norm ? &norms[r] : NULL, subtract,
                                         centred);
            dict->ctx->kernels->products(d, from, count, list, W, dict->ld,
                                         product + r * SAEI_PANEL);
        }
    }
    for (size_t k0 = 0; k0 < d && !few; k0 += SAEI_INFER_DEPTH) {
        size_t depth = saei_min(SAEI_INFER_DEPTH, d - k0);
        saei_pack_panel(dict->ctx->kernels, W + k0, dict->ld, depth, q->list, first, count, panel);
        for (size_t r = 0; (norm || subtract) && r < rows; r++)
            saei_infer_centre(dict, x + r * d, k0, depth, norm ? &norms[r] : NULL, subtract,
                              centred + r * SAEI_INFER_DEPTH);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *at[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
                size_t r = saei_min(g + i, rows - 1);
                at[i] = norm || subtract ? centred + r * SAEI_INFER_DEPTH : x + r * d + k0;
            }
            dict->ctx->kernels->tile(at, panel, depth, k0 > 0, product + g * SAEI_PANEL);
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
    bool top = dict->desc.arch == SAE_ARCH_TOP_K || dict->desc.arch == SAE_ARCH_BATCH_TOP_K
               || dict->desc.arch == SAE_ARCH_MATRYOSHKA;
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        size_t i = q->list ? q->list[first + saei_min(j, count - 1)]
                           : first + saei_min(j, count - 1);
        float theta = dict->desc.arch == SAE_ARCH_JUMP_RELU ? dict->aux0[i]
                      : top && !q->top_k ? dict->threshold : 0;
        bias[j] = dict->b_enc[i];
        cut[j] = theta < 0 ? 0 : theta;
        if (i >= active && !q->top_k) cut[j] = HUGE_VALF;
    }
}
