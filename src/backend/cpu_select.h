#pragma once
#include "cpu.h"

/* ==== >>cpu: selection ======================================================================== */

/* The largest cut that at least k (1 <= k <= n) of n positive values reach, or one that exactly k
   reach; least is a positive lower bound of it. Halves the range of the bits: about 10 readings of
   the list, no branch on its values (a quickselect of 200 keys took 2.5 us, this 0.4). */
static float saei_kth_largest(const saei_kernels *kernels, const float *value, size_t n, size_t k,
                              float least) {
    uint32_t lo = saei_float_bits(least), hi = 0x7F800000u;
    float most = 0;
    for (size_t j = 0; j < n; j++) most = value[j] > most ? value[j] : most;
    if (saei_float_bits(most) < hi) hi = saei_float_bits(most);
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        size_t reach = kernels->count_from(value, n, saei_bits_float(mid));
        if (reach == k) return saei_bits_float(mid);
        if (reach > k) lo = mid;
        else hi = mid - 1;
    }
    return saei_bits_float(lo);
}

/* Raises the cut and drops what cannot be among the k largest. False: the cut, a guess so far, is
   not known to be reached by k. */
static bool saei_top_tighten(const saei_kernels *kernels, saei_top *top, size_t k) {
    float least = top->cut > 0 ? top->cut : saei_bits_float(1);
    if (kernels->count_from(top->value, top->count, least) < k) return false;
    top->cut = saei_kth_largest(kernels, top->value, top->count, k, least);
    top->count = kernels->keep_from(top->latent, top->value, top->count,
                                    (top->cut - top->slack) * (1 - 2 * FLT_EPSILON));
    return true;
}

/* Exact values: keeps the k largest, ties to the lower latent; what does not exceed the cut need
   not be looked at again. */
static void saei_top_finish(const saei_kernels *kernels, saei_top *top, size_t k) {
    size_t kept = 0, above;
    float kth;
    top->cut = 0;
    for (size_t j = 0; top->count == k && j < k; j++)
        if (!j || top->value[j] < top->cut) top->cut = top->value[j];
    if (top->count <= k) return;
    top->cut = kth = saei_kth_largest(kernels, top->value, top->count, k, saei_bits_float(1));
    top->count = kernels->keep_from(top->latent, top->value, top->count, kth);
    if (top->count == k) return;
    above = kernels->count_from(top->value, top->count, saei_bits_float(saei_float_bits(kth) + 1));
    for (size_t j = 0; j < top->count; j++) {
        bool tie = top->value[j] == kth;
        if (tie && above == k) continue;
        above += tie;
        top->latent[kept] = top->latent[j];
        top->value[kept++] = top->value[j];
    }
    top->count = kept;
}

/* The row's entries: the k chosen, and where there are fewer the first latents without a positive
   value, as zeros, of m. latent and value have room for k. */
static size_t saei_top_write(const saei_top *top, size_t k, size_t m, const uint32_t *list,
                             uint32_t *latent, float *value) {
    size_t zeros = saei_min(k, m) - top->count, at = 0, j = 0;
    for (size_t i = 0; j < top->count || zeros; i++) {
        if (!zeros) i = top->latent[j];
        if (j < top->count && top->latent[j] == i) value[at] = top->value[j++];
        else if (zeros) {
            value[at] = 0;
            zeros--;
        }
        latent[at++] = list ? list[i] : (uint32_t)i;
    }
    return at;
}

/* -- encode -- */

static void saei_pack_panel(const saei_kernels *kernels, const float *W, size_t ld, size_t d,
                            const uint32_t *list, size_t first, size_t count, float *panel) {
    const uint32_t *row[SAEI_PANEL];
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        size_t i = first + saei_min(j, count - 1);
        row[j] = (const uint32_t *)(const void *)(W + (list ? list[i] : i) * ld);
    }
    kernels->pack(row, count, d, (uint32_t *)(void *)panel);
}

static void saei_pack_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t first = part * SAEI_PANEL;
    saei_pack_panel(t->kernels, t->args->W, t->ld, t->d, t->args->list, first,
                    saei_min(SAEI_PANEL, t->m - first), t->s.packed + part * SAEI_PANEL * t->d);
}

/* Whether p = u + bias is selected, and what is stored of it. t->a is the cut. */
static bool saei_selected(const saei_task *t, float u, size_t i, float *stored) {
    const sae_encode_args *a = t->args;
    float p = u + a->bias[i], z;
    *stored = a->select == SAE_SELECT_GATE ? u : p;
    if (a->select != SAE_SELECT_WINDOW) return p > t->a;
    z = (p - a->theta[i]) / a->bandwidth;
    return p > a->theta[i] || (z > -0.5f && z < 0.5f);
}

/* Bits of 48 latents from `first`, a multiple of 48, into those of row r. */
static void saei_fires_put(const sae_code *code, size_t r, size_t m, size_t first, uint64_t bits) {
    uint64_t *word = code->fires + r * saei_ceil_div(m, 64) + first / 64;
    size_t shift = first % 64;
    word[0] |= bits << shift;
    if (shift > 64 - SAEI_PANEL && bits >> (64 - shift)) word[1] |= bits >> (64 - shift);
}

static void saei_keep_row(const saei_task *t, size_t r, size_t first, size_t count,
                          const float *product, const float *bias, const float *theta) {
    const sae_encode_args *a = t->args;
    const sae_code *code = t->code;
    uint32_t *latent = code->latent + r * code->stride;
    float *pre = code->pre + r * code->stride;
    size_t before = code->count[r], after = before;
    uint64_t kept = ((uint64_t)1 << count) - 1;
    switch (a->select) {
    case SAE_SELECT_ALL:
        for (size_t j = 0; j < count; j++) {
            latent[after] = (uint32_t)(first + j);
            pre[after++] = product[j] + bias[j];
        }
        break;
    case SAE_SELECT_WINDOW:
        after = t->kernels->keep_window(product, bias, theta, a->bandwidth, count, (uint32_t)first,
                                        latent, pre, before, code->stride, &kept);
        break;
    case SAE_SELECT_GATE:
    case SAE_SELECT_POSITIVE:
    case SAE_SELECT_BATCH_TOP_K:
    case SAE_SELECT_TOP_K: /* through saei_keep_top */
        after = t->kernels->keep_above(product, bias, a->select == SAE_SELECT_GATE, count, t->a,
                                       (uint32_t)first, latent, pre, before, code->stride,
                                       &kept);
        break;
    }
    if (code->bits) saei_fires_put(code, r, t->m, first, kept);
    if (a->list)
        for (size_t j = before; j < after; j++) latent[j] = a->list[latent[j]];
    code->count[r] = (uint32_t)after;
}

static void saei_keep_top(const saei_task *t, size_t first, size_t count, const float *product,
                          const float *bias, saei_top *top) {
    if (top->count + 2 * SAEI_PANEL > t->s.capacity) saei_top_finish(t->kernels, top, t->which);
    top->count = t->kernels->keep_above(product, bias, false, count, top->cut, (uint32_t)first,
                                        top->latent, top->value, top->count, t->s.capacity,
                                        NULL);
}

static saei_top saei_top_list(const saei_task *t, size_t which) {
    saei_top top;
    memset(&top, 0, sizeof top);
    top.value = t->s.value + which * t->s.capacity;
    top.latent = t->s.latent + which * t->s.capacity;
    return top;
}

/* A worker's lists of candidates, for `rows` rows; returns the spare one. */
static saei_top saei_tops(const saei_task *t, size_t worker, size_t rows, saei_top *top) {
    size_t spare = worker * SAEI_TOP_LISTS;
    for (size_t i = 0; i < rows; i++) top[i] = saei_top_list(t, spare + 1 + i);
    return saei_top_list(t, spare);
}

static void saei_encode_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const sae_encode_args *a = t->args;
    size_t r0 = part * t->stride, r1 = saei_part_end(part, t->stride, a->n);
    bool top_k = a->select == SAE_SELECT_TOP_K;
    saei_top top[SAEI_ENCODE_ROWS];
    float product[SAEI_TILE_ROWS * SAEI_PANEL], bias[SAEI_PANEL], theta[SAEI_PANEL];
    saei_tops(t, worker, r1 - r0, top);
    memset(bias, 0, sizeof bias);
    for (size_t r = r0; r < r1; r++) t->code->count[r] = 0;
    if (t->code->bits) {
        size_t words = saei_ceil_div(t->m, 64);
        memset(t->code->fires + r0 * words, 0, (r1 - r0) * words * sizeof(uint64_t));
    }
    for (size_t first = 0; first < t->m; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, t->m - first);
        for (size_t j = 0; j < count; j++) {
            size_t i = a->list ? a->list[first + j] : first + j;
            bias[j] = a->bias[i];
            theta[j] = a->theta ? a->theta[i] : 0;
        }
        for (size_t g = r0; g < r1; g += SAEI_TILE_ROWS) {
            const float *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = a->x + saei_min(g + i, r1 - 1) * t->ld;
            t->kernels->tile(x, t->s.packed + first * t->d, t->d, false, product);
            for (size_t r = g; r < saei_min(g + SAEI_TILE_ROWS, r1); r++) {
                const float *row = product + (r - g) * SAEI_PANEL;
                if (top_k) saei_keep_top(t, first, count, row, bias, &top[r - r0]);
                else saei_keep_row(t, r, first, count, row, bias, theta);
            }
        }
    }
    for (size_t r = r0; top_k && r < r1; r++) {
        size_t at = r * t->code->stride;
        saei_top_finish(t->kernels, &top[r - r0], t->which);
        t->code->count[r] = (uint32_t)saei_top_write(&top[r - r0], t->which, t->m, a->list,
                                                     t->code->latent + at, t->code->pre + at);
    }
}
