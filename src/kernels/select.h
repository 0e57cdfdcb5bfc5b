#pragma once
#include "table.h"

/* ==== >>kernels: the k largest ================================================================ */

/* Candidates of one row for its k largest, latents ascending. */
typedef struct saei_top {
    float *value;      /* p; screened: p is at least this */
    uint32_t *latent;
    size_t count;
    float lower_bound; /* at least k candidates are >= it (or an estimate); 0: none is known yet */
    float error_bound; /* screened: p is at most value + error_bound */
} saei_top;

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

/* Raises the lower bound and drops what cannot be among the k largest. False: the bound, an
   estimate so far, is not known to be reached by k. */
static bool saei_top_tighten(const saei_kernels *kernels, saei_top *top, size_t k) {
    float least = top->lower_bound > 0 ? top->lower_bound : saei_bits_float(1);
    if (kernels->count_from(top->value, top->count, least) < k) return false;
    top->lower_bound = saei_kth_largest(kernels, top->value, top->count, k, least);
    top->count = kernels->keep_from(top->latent, top->value, top->count,
                                    (top->lower_bound - top->error_bound) * (1 - 2 * FLT_EPSILON));
    return true;
}

/* Exact values: keeps the k largest, ties to the lower latent; what does not exceed the lower bound
   is none of them. */
static void saei_top_finish(const saei_kernels *kernels, saei_top *top, size_t k) {
    size_t kept = 0, above;
    float kth;
    top->lower_bound = 0;
    for (size_t j = 0; top->count == k && j < k; j++)
        if (!j || top->value[j] < top->lower_bound) top->lower_bound = top->value[j];
    if (top->count <= k) return;
    kth = saei_kth_largest(kernels, top->value, top->count, k, saei_bits_float(1));
    top->lower_bound = kth;
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

/* Leaves the `want` largest of the code's `total` positive values, ties to the lower index (row,
   then latent): a histogram [65536] over the upper, then the lower half of the bits finds the
   smallest value to keep. Returns it. */
static float saei_keep_batch(sae_code *code, size_t want, uint32_t *histogram) {
    uint32_t upper = 0, lower = 0;
    size_t above = 0, ties;
    float cut;
    for (int half = 0; half < 2; half++) {
        uint32_t bucket = 65536;
        memset(histogram, 0, 65536 * sizeof *histogram);
        for (size_t r = 0; r < code->rows; r++) {
            const float *v = code->pre + r * code->stride;
            for (size_t j = 0; j < code->count[r]; j++) {
                uint32_t bits = saei_float_bits(v[j]);
                if (!half) histogram[bits >> 16]++;
                else if (bits >> 16 == upper) histogram[bits & 0xFFFF]++;
            }
        }
        while (above + histogram[--bucket] < want) above += histogram[bucket];
        if (!half) upper = bucket;
        else lower = bucket;
    }
    ties = want - above;
    cut = saei_bits_float(upper << 16 | lower);
    for (size_t r = 0; r < code->rows; r++) {
        uint32_t *latent = code->latent + r * code->stride;
        float *v = code->pre + r * code->stride;
        uint32_t kept = 0;
        for (size_t j = 0; j < code->count[r]; j++) {
            bool tie = v[j] == cut && ties > 0;
            if (tie) ties--;
            if (v[j] > cut || tie) {
                latent[kept] = latent[j];
                v[kept++] = v[j];
            }
        }
        code->count[r] = kept;
    }
    return cut;
}
