#pragma once
#include "top_k.h"

/* ==== >>dictionary: encode rows =============================================================== */
/* What is not 0 of a panel's f to row r's list, while it has room. */
static void saei_infer_append(const saei_infer *q, size_t r, size_t first, size_t count,
                              const float *f, size_t *found) {
    uint32_t latent[SAEI_PANEL + SAEI_LIST_PADDING];
    float value[SAEI_PANEL + SAEI_LIST_PADDING];
    size_t kept = 0;
    size_t at = (q->exact ? q->sparse->row_begin[r] : r * q->share) + *found;
    size_t room = q->exact ? SAEI_PANEL : *found < q->share ? q->share - *found : 0;
    if (!saei_is_signed(&q->dict->desc))
        kept = q->dict->ctx->kernels->keep_above(f, NULL, false, count, 0, (uint32_t)first, latent,
                                                 value, 0, SAEI_PANEL + SAEI_LIST_PADDING, NULL);
    else
        for (size_t j = 0; j < count; j++)
            if (f[j] != 0) {
                latent[kept] = (uint32_t)(first + j);
                value[kept++] = f[j];
            }
    for (size_t j = 0; j < kept && j < room; j++) {
        q->sparse->latent[at + j] = q->list ? q->list[latent[j]] : latent[j];
        q->sparse->value[at + j] = value[j];
    }
    *found += kept;
}

static void saei_infer_rows(const saei_infer *q, const saei_room *room, size_t r0, size_t rows) {
    float bias[SAEI_PANEL], cut[SAEI_PANEL];
    size_t *found = room->found;
    bool plain = q->dict->desc.arch != SAE_ARCH_GATED && !saei_is_signed(&q->dict->desc);
    size_t active = saei_active_latents(q->dict);
    memset(found, 0, rows * sizeof *found);
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        saei_infer_cuts(q, first, count, bias, cut);
        for (size_t r = 0; r < rows; r++) {
            const float *product = room->product + r * SAEI_PANEL;
            float f[SAEI_PANEL];
            if (plain) {
                q->dict->ctx->kernels->axpy(SAEI_PANEL, 1, product, bias, f);
                q->dict->ctx->kernels->over(SAEI_PANEL, f, cut, f);
            }
            for (size_t j = 0; q->dict->gate && !q->top_k && j < count; j++)
                f[j] = saei_ungate(q->dict, q->list ? q->list[first + j] : first + j, f[j]);
            for (size_t j = 0; !plain && j < count; j++) {
                size_t i = q->list ? q->list[first + j] : first + j;
                f[j] = saei_infer_value(q->dict, i, product[j], q->top_k);
                if (i >= active && !q->top_k) f[j] = 0;
            }
            if (q->dense) memcpy(q->dense + (r0 + r) * q->count + first, f, count * sizeof *f);
            if (q->sparse) saei_infer_append(q, r0 + r, first, count, f, &found[r]);
        }
    }
    for (size_t r = 0; q->sparse && !q->exact && r < rows; r++)
        q->sparse->row_begin[r0 + r + 1] = found[r]; /* a count, for now */
    for (size_t r = r0; q->dense && q->top_k && q->k && r < r0 + rows; r++) {
        if (q->dict->desc.activation)
            saei_dense_varied(q->dict->desc.activation, q->dense + r * q->count, q->count,
                              q->k);
        else saei_dense_top_row(q, r);
    }
}

/* missing: the array that is NULL, NULL where none is; that of no rows is not missed. */
static sae_result saei_infer_check(const sae_dictionary *dict, const char *who,
                                   const char *missing, size_t n, size_t width) {
    size_t all;
    if (!dict) return SAE_ERR_INVALID;
    if (n && missing)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: %s is NULL", who, missing);
    width = saei_max(width, saei_output_dim(&dict->desc));
    if (!saei_mul(n, saei_max(width, dict->desc.activation_dim), &all) || all > SIZE_MAX / 8)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: n is %zu rows, too many to address", who,
                         n);
    return SAE_OK;
}

/* The same for a call with rows of x, missing: among its other arrays; *out is x with the defaults
   set. */
static sae_result saei_infer_check_rows(const sae_dictionary *dict, const char *who,
                                        const sae_rows *x, const char *missing, size_t n,
                                        size_t width, sae_rows *out) {
    SAEI_TRY(saei_infer_check(dict, who, !x ? "x" : !x->data ? "x.data" : missing, n, width));
    memset(out, 0, sizeof *out);
    if (x) *out = *x;
    if (!out->dtype) out->dtype = SAE_F32;
    if (!out->stride) out->stride = dict->desc.activation_dim;
    if (out->dtype > SAE_BF16 || out->dtype < SAE_F32)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: x.dtype is %d (%s), allowed are F32, F16 "
                         "and BF16", who, (int)out->dtype, sae_dtype_name(out->dtype));
    if (out->stride < dict->desc.activation_dim || (n && out->stride > SIZE_MAX / 8 / n))
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: x.stride is %zu, allowed are "
                         "activation_dim, %zu, and more that memory can hold", who, out->stride,
                         dict->desc.activation_dim);
    if (out->on_device)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: x.on_device is set, allowed are rows in "
                         "host memory; a session takes those of a device", who);
    return SAE_OK;
}

/* What is NULL of lists to be written, which are an argument called out; NULL where nothing is. */
static const char *saei_sparse_missing(const sae_sparse *out) {
    if (!out) return "out";
    if (!out->row_begin) return "out.row_begin";
    if (!out->capacity) return NULL;
    return !out->latent ? "out.latent" : !out->value ? "out.value" : NULL;
}

/* Lists of whole rows, each at its own place, moved together. */
static void saei_sparse_compact(sae_sparse *s, size_t n, size_t share) {
    size_t at = 0;
    s->row_begin[0] = 0;
    for (size_t r = 0; r < n; r++) {
        size_t count = s->row_begin[r + 1];
        if (count) {
            memmove(s->latent + at, s->latent + r * share, count * sizeof *s->latent);
            memmove(s->value + at, s->value + r * share, count * sizeof *s->value);
        }
        at += count;
        s->row_begin[r + 1] = at;
    }
}
