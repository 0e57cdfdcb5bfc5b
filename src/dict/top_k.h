#pragma once
#include "infer.h"

/* ==== >>dictionary: top-k of rows ============================================================= */

/* [latent, value] as a heap whose root is the worst: the smallest value, of equals the highest
   latent. */
static bool saei_heap_worse(uint32_t la, float va, uint32_t lb, float vb) {
    return va < vb || (va == vb && la > lb);
}

static void saei_heap_sink(uint32_t *latent, float *value, size_t size, size_t at) {
    uint32_t l = latent[at];
    float v = value[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size
            && saei_heap_worse(latent[child + 1], value[child + 1], latent[child], value[child]))
            child++;
        if (!saei_heap_worse(latent[child], value[child], l, v)) break;
        latent[at] = latent[child];
        value[at] = value[child];
        at = child;
    }
    latent[at] = l;
    value[at] = v;
}

/* Sorts by latent, in place: a heap again, the highest latent at its root. */
static void saei_sort_by_latent(uint32_t *latent, float *value, size_t size) {
    size_t start = size / 2, end = size;
    while (end > 1) {
        size_t at;
        uint32_t l;
        float v;
        if (start) start--;
        else {
            end--;
            l = latent[0];
            v = value[0];
            latent[0] = latent[end];
            value[0] = value[end];
            latent[end] = l;
            value[end] = v;
        }
        l = latent[start];
        v = value[start];
        for (at = start;;) {
            size_t child = 2 * at + 1;
            if (child >= end) break;
            if (child + 1 < end && latent[child + 1] > latent[child]) child++;
            if (latent[child] <= l) break;
            latent[at] = latent[child];
            value[at] = value[child];
            at = child;
        }
        latent[at] = l;
        value[at] = v;
    }
}

/* Adds an entry to the list of the k largest, *held of them: a heap as soon as it is full. */
static void saei_heap_add(uint32_t *latent, float *value, size_t k, size_t *held, uint32_t l,
                          float v) {
    size_t at = *held;
    if (at < k) {
        latent[at] = l;
        value[at] = v;
        *held = at + 1;
        for (at = k / 2; *held == k && at-- > 0; ) saei_heap_sink(latent, value, k, at);
    } else if (v > value[0]) {
        latent[0] = l;
        value[0] = v;
        saei_heap_sink(latent, value, k, 0);
    }
}

/* Rows of a TOP_K dictionary into [r*k, r*k + count), count to row_begin[r + 1]. */
static void saei_infer_top_rows(const saei_infer *q, const saei_room *room, size_t r0,
                                size_t rows) {
    const saei_kernels *kernels = q->dict->ctx->kernels;
    size_t k = q->k, *held = room->found, above;
    float bias[SAEI_PANEL];
    memset(held, 0, rows * sizeof *held);
    memset(bias, 0, sizeof bias);
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t j = 0; j < count; j++) bias[j] = saei_infer_bias(q->dict, first + j);
        for (size_t r = 0; r < rows; r++) {
            uint32_t *latent = q->sparse->latent + (r0 + r) * k;
            float *value = q->sparse->value + (r0 + r) * k;
            float f[SAEI_PANEL + SAEI_LIST_PADDING];
            uint32_t at[SAEI_PANEL + SAEI_LIST_PADDING];
            above = kernels->keep_above(room->product + r * SAEI_PANEL, bias, false, count,
                                        held[r] == k ? value[0] : 0, (uint32_t)first, at, f, 0,
                                        SAEI_PANEL + SAEI_LIST_PADDING, NULL);
            for (size_t j = 0; j < above; j++)
                saei_heap_add(latent, value, k, &held[r], at[j], f[j]);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        uint32_t *latent = q->sparse->latent + (r0 + r) * k;
        float *value = q->sparse->value + (r0 + r) * k;
        saei_sort_by_latent(latent, value, held[r]);
        for (size_t j = 0; j < held[r]; j++) value[j] = saei_ungate(q->dict, latent[j], value[j]);
        q->sparse->row_begin[r0 + r + 1] = held[r];
    }
}

/* A number that orders p as SIGNED (0: NaN) or MAGNITUDE chooses. -0 is 0. */
static uint32_t saei_varied_key(sae_activation kind, float p) {
    uint32_t bits = saei_float_bits(p + 0.0f);
    if (p != p) return 0;
    if (kind == SAE_ACTIVATION_MAGNITUDE) return bits & 0x7FFFFFFFu;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Row r's list [latent, value] of varied choices, *held of at most k, gets a panel's values. */
static void saei_infer_varied_panel(const saei_infer *q, size_t first, size_t count,
                                    const float *product, uint32_t *latent, float *value,
                                    size_t *held) {
    const sae_activation kind = q->dict->desc.activation;
    size_t k = q->k, group = q->count / k;
    for (size_t j = 0; j < count; j++) {
        size_t i = first + j;
        float f = saei_infer_value(q->dict, i, product[j], true);
        uint32_t name = (uint32_t)i << 1 | (f < 0);
        if (kind == SAE_ACTIVATION_MAGNITUDE) f = fabsf(f);
        if (kind == SAE_ACTIVATION_GROUP_MAX) {
            bool opens = i % group == 0;
            if (!opens && !(f > value[*held - 1])) continue;
            *held += opens;
            latent[*held - 1] = name;
            value[*held - 1] = f;
        } else if (f == f) saei_heap_add(latent, value, k, held, name, f);
    }
}

/* The same for signed latents and group max. The heap holds keys that compare as the choice does,
   |p| or p; the lowest bit of a latent is then the sign of p. */
static void saei_infer_varied_rows(const saei_infer *q, const saei_room *room, size_t r0,
                                   size_t rows) {
    const sae_activation kind = q->dict->desc.activation;
    size_t k = q->k, *held = room->found;
    memset(held, 0, rows * sizeof *held);
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++)
            saei_infer_varied_panel(q, first, count, room->product + r * SAEI_PANEL,
                                    q->sparse->latent + (r0 + r) * k,
                                    q->sparse->value + (r0 + r) * k, &held[r]);
    }
    for (size_t r = 0; r < rows; r++) {
        uint32_t *latent = q->sparse->latent + (r0 + r) * k;
        float *value = q->sparse->value + (r0 + r) * k;
        size_t kept = 0;
        if (kind != SAE_ACTIVATION_GROUP_MAX) saei_sort_by_latent(latent, value, held[r]);
        for (size_t j = 0; j < held[r]; j++) {
            if (value[j] == 0) continue;
            value[kept] = kind == SAE_ACTIVATION_MAGNITUDE && latent[j] & 1 ? -value[j] : value[j];
            latent[kept++] = latent[j] >> 1;
        }
        q->sparse->row_begin[r0 + r + 1] = kept;
    }
}

/* Keeps of p [m] what the signed choices and group max keep. */
static void saei_dense_varied(sae_activation kind, float *f, size_t m, size_t k) {
    size_t group = m / k, above = 0;
    uint64_t lo = 0, hi = (uint64_t)1 << 32; /* the k-th largest key is in [lo, hi) */
    for (size_t g = 0; kind == SAE_ACTIVATION_GROUP_MAX && g < m; g += group) {
        size_t best = g;
        for (size_t i = g + 1; i < g + group; i++)
            if (f[i] > f[best]) best = i;
        for (size_t i = g; i < g + group; i++)
            if (i != best) f[i] = 0;
    }
    if (kind == SAE_ACTIVATION_GROUP_MAX) return;
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        size_t count = 0;
        for (size_t i = 0; i < m; i++) count += saei_varied_key(kind, f[i]) >= mid;
        if (count >= k) lo = mid;
        else hi = mid;
    }
    for (size_t i = 0; i < m; i++) above += saei_varied_key(kind, f[i]) > lo;
    for (size_t i = 0; i < m; i++) {
        uint32_t key = saei_varied_key(kind, f[i]);
        if (key == lo && above < k) above++;
        else if (key <= lo) f[i] = 0;
    }
}

/* Keeps the k largest of f [m], none below 0, ties to the lower index: the k-th value is found by
   halving the range of its bits. */
static void saei_dense_top(const saei_kernels *kernels, float *f, size_t m, size_t k) {
    uint32_t lo = 0, hi = 0x7F800000u; /* the k-th largest has bits in [lo, hi] */
    size_t above = 0;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        size_t count = kernels->count_from(f, m, saei_bits_float(mid));
        if (count >= k) lo = mid;
        else hi = mid - 1;
    }
    for (size_t i = 0; i < m; i++) above += saei_float_bits(f[i]) > lo;
    for (size_t i = 0; i < m; i++) {
        uint32_t bits = saei_float_bits(f[i]);
        if (bits == lo && above < k) above++;
        else if (bits <= lo) f[i] = 0;
    }
}

/* Row r of relu(p w) [n,m] becomes f: each choice keeps its k largest. */
static void saei_dense_top_row(const saei_infer *q, size_t r) {
    const sae_dictionary *dict = q->dict;
    size_t m = q->count, choices = saei_choices(&dict->desc), part = m / choices;
    float *f = q->dense + r * m;
    for (size_t c = 0; c < choices; c++)
        saei_dense_top(dict->ctx->kernels, f + c * part, part, q->k);
    for (size_t i = 0; dict->gate && i < m; i++) f[i] = saei_ungate(dict, i, f[i]);
}
