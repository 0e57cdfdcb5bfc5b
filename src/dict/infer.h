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
    bool top_k;            /* leave relu(p) for a selection that follows: */
    size_t k;              /* of each row; 0: the batch's, by the caller */
    float *dense;          /* [n,count], or NULL */
    sae_sparse *sparse;    /* or NULL */
    size_t share;          /* sparse: row r writes to [r*share, (r+1)*share) */
    bool exact;            /* sparse: row_begin[r] is known, write there */
    float *x_hat;          /* forward without f */
} saei_infer;

/* Float rows as *out; NULL where x is. */
static const sae_rows *saei_rows_of(const float *x, sae_rows *out) {
    memset(out, 0, sizeof *out);
    out->data = x;
    return x ? out : NULL;
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

/* Of layer l of row r. DEVIATION: a row of zeros stays one under CONSTANT, where SAELens divides 0
   by 0. */
static saei_norm saei_row_norm(const sae_dictionary *dict, const sae_rows *x, size_t r, size_t l) {
    enum { COLUMNS = 64 };
    size_t d = dict->desc.activation_dim / dict->desc.layers;
    bool layer = dict->desc.input_norm == SAE_INPUT_NORM_LAYER;
    double sums[2] = { 0, 0 }, mean = 0; /* of x, of (x - mean)^2 */
    float own[COLUMNS];
    saei_norm norm = { 0, 1, 1 };
    if (!dict->desc.input_norm) return norm;
    for (size_t pass = layer ? 0 : 1; pass < 2; pass++) {
        for (size_t c = 0; c < d; c += COLUMNS) {
            size_t n = saei_min(COLUMNS, d - c);
            const float *v = saei_row_floats(x, r, l * d + c, n, own);
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

/* The norms of a block of rows, once for all its panels: [rows][layers]. */
static void saei_infer_norms(const saei_infer *q, size_t r0, size_t rows, saei_norm *norms) {
    const size_t layers = q->dict->desc.layers;
    for (size_t i = 0; q->dict->desc.input_norm && i < rows * layers; i++)
        norms[i] = saei_row_norm(q->dict, &q->x, r0 + i / layers, i % layers);
}

/* (x - mean) scale of n columns from c on, each by its layer. */
static void saei_infer_normalize(const sae_dictionary *dict, size_t c, size_t n, const float *x,
                                 float *out) {
    size_t width = dict->desc.activation_dim / dict->desc.layers;
    for (size_t k = 0; k < n; k++)
        out[k] = (x[k] - dict->mean[c + k]) * dict->scale[(c + k) / width];
}

/* Columns c .. c + n of row r as the product takes them: where they lie, or in out. W_skip takes
   rows as they are. norm: of the row's layers, where the dictionary has an input_norm. */
static const float *saei_infer_row(const saei_infer *q, size_t r, size_t c, size_t n,
                                   const saei_norm *norm, float *out) {
    const sae_dictionary *dict = q->dict;
    const float *x = saei_row_floats(&q->x, r, c, n, out);
    if (q->W) return x;
    if (dict->desc.input_norm) {
        size_t width = dict->desc.activation_dim / dict->desc.layers;
        for (size_t k = 0; k < n; k++) {
            const saei_norm *of = norm + (c + k) / width;
            out[k] = (x[k] - of->shift) / of->divisor;
        }
        x = out;
    }
    if (dict->mean) {
        saei_infer_normalize(dict, c, n, x, out);
        x = out;
    }
    if (!saei_subtracts(&dict->desc)) return x;
    dict->ctx->kernels->axpy(n, -1, dict->b_dec + c, x, out);
    return out;
}

/* The latent of a code: with layer_codes those of the layers follow each other. */
static size_t saei_latent_of(const sae_dictionary *dict, size_t code) {
    return dict->desc.layer_codes ? code % dict->desc.dict_size : code;
}

/* saei_infer_matrix of so few rows that packing would not pay. */
static void saei_infer_few(const saei_infer *q, const saei_room *room, const float *W, size_t r0,
                           size_t rows, const uint32_t *list, size_t count, float *out) {
    const sae_dictionary *dict = q->dict;
    size_t d = dict->desc.activation_dim, most = room->depth * SAEI_PANEL;
    if (q->x.dtype == SAE_F32 && (q->W || (!dict->desc.input_norm && !dict->mean
                                           && !saei_subtracts(&dict->desc))))
        most = d;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < d; c += most) {
            size_t n = saei_min(most, d - c);
            const float *x = saei_infer_row(q, r0 + r, c, n, &room->norms[r * dict->desc.layers],
                                            room->panel);
            dict->ctx->kernels->products(n, x, count, list, W + c, dict->ld, c > 0,
                                         out + r * SAEI_PANEL);
        }
}

/* out [rows][48] = W (x or x - b_dec) of rows r0 on, for the up to 48 rows of W that list names, in
   the product order. */
static void saei_infer_matrix(const saei_infer *q, const saei_room *room, const float *W, size_t r0,
                              size_t rows, const uint32_t *list, size_t count, float *out) {
    const sae_dictionary *dict = q->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    size_t d = dict->desc.activation_dim;
    if (rows * 2 <= SAEI_TILE_ROWS) {
        saei_infer_few(q, room, W, r0, rows, list, count, out);
        return;
    }
    for (size_t c = 0; c < d; c += room->depth) {
        size_t depth = saei_min(room->depth, d - c);
        saei_pack_panel(kernels, W + c, dict->ld, depth, list, 0, count, room->panel);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *at[SAEI_TILE_ROWS], *last = room->centred;
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
                if (g + i < rows)
                    last = saei_infer_row(q, r0 + g + i, c, depth,
                                          &room->norms[(g + i) * dict->desc.layers],
                                          room->centred + i * room->depth);
                at[i] = last; /* past the rows: the last of them again */
            }
            kernels->tile(at, SAEI_TILE_ROWS, room->panel, depth, c > 0, out + g * SAEI_PANEL,
                          SAEI_PANEL);
        }
    }
}

/* What saei_is_shaped makes of the products: (product + b_enc) sigmoid(glu + b_glu) w. */
static void saei_infer_shape(const saei_infer *q, size_t rows, const uint32_t *code, size_t count,
                             const float *glu, float *product) {
    const sae_dictionary *dict = q->dict;
    for (size_t j = 0; j < count; j++) {
        size_t i = saei_latent_of(dict, code[j]);
        for (size_t r = 0; r < rows; r++) {
            float *p = product + r * SAEI_PANEL + j;
            *p += dict->b_enc[i];
            if (glu) {
                float z = glu[r * SAEI_PANEL + j] + dict->b_glu[i];
                *p *= (float)(1 / (1 + saei_exp(-(double)z)));
            }
            if (dict->gate) *p *= dict->gate[code[j]];
        }
    }
}

/* Room for a block of rows; where W_glu needs products of its own, for half of them, and for fewer
   where each layer of them has a norm. */
static saei_room saei_infer_room(const sae_dictionary *dict, saei_small_block *small) {
    saei_room room = saei_room_take(dict->ctx, small);
    if (dict->desc.input_norm) room.rows /= dict->desc.layers;
    if (dict->W_glu && room.rows > 1) room.rows /= 2;
    return room;
}

/* room->product [rows][48]: of rows r0 on and up to 48 latents from `first`, p without b_enc, or
   p w where the dictionary is shaped. room->norms: of the rows. */
static void saei_infer_product(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                               size_t first, size_t count) {
    const sae_dictionary *dict = q->dict;
    uint32_t code[SAEI_PANEL], latent[SAEI_PANEL];
    float *glu = NULL;
    for (size_t j = 0; j < count; j++) {
        code[j] = q->list ? q->list[first + j] : (uint32_t)(first + j);
        latent[j] = q->W ? code[j] : (uint32_t)saei_latent_of(dict, code[j]);
    }
    saei_infer_matrix(q, room, q->W ? q->W : dict->W_enc, r0, rows, latent, count, room->product);
    if (q->W || !saei_is_shaped(&dict->desc)) return;
    if (dict->W_glu) {
        glu = room->product + room->rows * SAEI_PANEL;
        saei_infer_matrix(q, room, dict->W_glu, r0, rows, latent, count, glu);
    }
    saei_infer_shape(q, rows, code, count, glu, room->product);
}

static bool saei_is_signed(const sae_dictionary_desc *desc) {
    return desc->activation == SAE_ACTIVATION_SIGNED
           || desc->activation == SAE_ACTIVATION_MAGNITUDE;
}

/* What is still to be added to a product. */
static float saei_infer_bias(const sae_dictionary *dict, size_t code) {
    return saei_is_shaped(&dict->desc) ? 0 : dict->b_enc[code];
}

/* f of one latent from its product with x, times w where there is a gate; top_k leaves the
   selection to the caller. */
static float saei_infer_value(const sae_dictionary *dict, size_t i, float product, bool top_k) {
    float p = product + saei_infer_bias(dict, i);
    switch (dict->desc.arch) {
    case SAE_ARCH_GATED:
        return p > 0 ? saei_gate_value((float)saei_exp(dict->aux0[i]), product, dict->aux1[i]) : 0;
    case SAE_ARCH_JUMP_RELU:
        if (!(p > dict->aux0[saei_latent_of(dict, i)])) return 0;
        break;
    case SAE_ARCH_TOP_K:
    case SAE_ARCH_BATCH_TOP_K:
    case SAE_ARCH_MATRYOSHKA:
        if (saei_is_signed(&dict->desc)) return p;
        if (!top_k && !(p > saei_code_threshold(dict, i))) return 0;
        return p > 0 ? p : 0;
    case SAE_ARCH_STANDARD:
    case SAE_ARCH_STANDARD_NEW:
    case SAE_ARCH_IDENTITY:
    case SAE_ARCH_MATCHING_PURSUIT:
    case SAE_ARCH_DEFAULT: break;
    }
    return p > 0 || saei_is_signed(&dict->desc) ? p : 0;
}

/* The first latent past the active groups. */
static size_t saei_active_latents(const sae_dictionary *dict) {
    size_t end = 0;
    if (dict->desc.arch != SAE_ARCH_MATRYOSHKA) return saei_num_codes(&dict->desc);
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
        float theta = 0;
        if (dict->desc.arch == SAE_ARCH_JUMP_RELU) theta = dict->aux0[saei_latent_of(dict, i)];
        else if (saei_arch_selects(dict->desc.arch) && !q->top_k)
            theta = saei_code_threshold(dict, i);
        bias[j] = saei_infer_bias(dict, i);
        cut[j] = theta < 0 ? 0 : theta;
        if (i >= active && !q->top_k) cut[j] = HUGE_VALF;
    }
}
