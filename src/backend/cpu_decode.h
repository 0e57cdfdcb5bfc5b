#pragma once
#include "cpu.h"

/* ==== >>cpu: decode and residuals ============================================================= */

/* Entries of row r with lo <= latent < hi: [*begin, return), counted from the row's start. */
static size_t saei_code_range(const sae_code *c, size_t r, size_t lo, size_t hi, size_t *begin) {
    const uint32_t *latent = c->latent + r * c->stride;
    size_t b = 0, e = c->count[r];
    if (lo)
        for (size_t step = e; b < e; ) {
            step = (e - b) / 2;
            if (latent[b + step] < lo) b += step + 1;
            else e = b + step;
        }
    *begin = b;
    e = c->count[r];
    if (e > b && latent[e - 1] >= hi)
        for (size_t at = b; at < e; ) {
            size_t mid = at + (e - at) / 2;
            if (latent[mid] < hi) at = mid + 1;
            else e = mid;
        }
    return e;
}

/* out = base + sum of the row's entries [begin, end); base NULL: 0. */
static void saei_code_row(const saei_task *t, const float *values, const float *W, size_t begin,
                          size_t end, const float *base, size_t worker, float *out) {
    float *sum = t->s.rows + worker * 3 * t->ld;
    memset(sum, 0, t->ld * sizeof *sum);
    t->kernels->add_rows(t->ld, end - begin, t->code->latent + begin, values + begin, W, t->ld,
                         sum);
    if (!base) memcpy(out, sum, t->ld * sizeof *out);
    else t->kernels->axpy(t->ld, 1, sum, base, out);
}

static void saei_decode_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t begin, end = saei_code_range(c, r, t->lo, t->hi, &begin), at = r * c->stride;
        saei_code_row(t, t->z, t->x, at + begin, at + end, t->y ? t->y + r * t->stride : NULL,
                      worker, t->out + r * t->ld);
    }
}

static void saei_cpu_decode(const sae_work *w, const sae_code *code, const float *values,
                            const float *W, size_t lo, size_t hi, const float *base,
                            size_t base_stride, float *out) {
    saei_task t = saei_task_of(w);
    t.code = code;
    t.z = values;
    t.x = W;
    t.lo = lo;
    t.hi = hi;
    t.y = base;
    t.stride = base_stride;
    t.out = out;
    saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, 16), saei_decode_part, &t);
}

static void saei_residual_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, t->n); r < end; r++) {
        float *e = t->out + r * t->ld;
        if (t->x) t->kernels->axpy(t->ld, -1, t->y + r * t->ld, t->x + r * t->ld, e);
        t->s.sums[r] = t->kernels->dot(t->ld, e, e);
        if (t->x) continue;
        t->s.sums[r] = sqrt(t->s.sums[r]);
        if (t->s.sums[r] > 0)
            for (size_t c = 0; c < t->ld; c++) e[c] = e[c] / (float)t->s.sums[r];
    }
}

static void saei_cpu_residual(const sae_work *w, const float *x_hat, const float *y, size_t n,
                              float *e, double *loss) {
    saei_task t = saei_task_of(w);
    t.x = x_hat;
    t.y = y;
    t.n = n;
    t.out = e;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_residual_part, &t);
    *loss = saei_sum_doubles(t.s.sums, n) / (double)n;
}

static void saei_cpu_unit_rows(const sae_work *w, size_t n, float *e, double *loss) {
    saei_task t = saei_task_of(w);
    t.n = n;
    t.out = e;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_residual_part, &t);
    *loss = saei_sum_doubles(t.s.sums, n) / (double)n;
}

/* Sum over columns of sum_r (x - mean)^2, in double, in blocks of 1024 rows. */
static void saei_scatter_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t c0 = part * 64, width = saei_part_end(part, 64, t->d) - c0;
    double mean[64], sum[64], block[64];
    memset(mean, 0, sizeof mean);
    memset(sum, 0, sizeof sum);
    for (int pass = 0; pass < 2; pass++) {
        double *total = pass ? sum : mean;
        for (size_t r = 0; r < t->n; ) {
            size_t end = saei_min(r + SAE_ROW_BLOCK, t->n);
            memset(block, 0, sizeof block);
            for (; r < end; r++)
                for (size_t c = 0; c < width; c++) {
                    double v = (double)t->x[r * t->ld + c0 + c];
                    if (pass) v = (v - mean[c]) * (v - mean[c]);
                    block[c] += v;
                }
            for (size_t c = 0; c < width; c++) total[c] += block[c];
        }
        for (size_t c = 0; !pass && c < width; c++) mean[c] /= (double)t->n;
    }
    for (size_t c = 0; c < width; c++) t->s.sums[c0 + c] = sum[c];
}

static double saei_scatter(const sae_work *w, const float *x, size_t n) {
    saei_task t = saei_task_of(w);
    t.x = x;
    t.n = n;
    saei_parallel(w->ctx, saei_ceil_div(t.d, 64), saei_scatter_part, &t);
    return saei_sum_doubles(t.s.sums, t.d);
}

static void saei_cpu_variance(const sae_work *w, const float *x, size_t n, double *out) {
    *out = n > 1 ? saei_scatter(w, x, n) / (double)(n - 1) : 0;
}

static void saei_cpu_auxk_residual(const sae_work *w, const float *x_aux, const float *e, size_t n,
                                   const uint32_t *list_count, double alpha, float *r,
                                   double *pre_norm, double *norm) {
    double denominator, scale;
    if (!*list_count) {
        memset(r, 0, n * w->shape.ld * sizeof *r);
        *pre_norm = -1;
        *norm = 0;
        return;
    }
    denominator = saei_scatter(w, e, n) / (double)n;
    saei_cpu_axpy(w, n * w->shape.ld, 1, x_aux, e, r);
    {
        saei_task t = saei_task_of(w);
        for (size_t i = 0; i < n; i++)
            t.s.sums[i] = t.kernels->dot(t.ld, r + i * t.ld, r + i * t.ld);
        *pre_norm = saei_sum_doubles(t.s.sums, n) / (double)n;
    }
    *norm = *pre_norm / denominator;
    scale = 2 * alpha / ((double)n * denominator);
    if (!(fabs(*norm) <= DBL_MAX) || !(fabs(scale) <= FLT_MAX)) *norm = scale = 0;
    saei_cpu_axpy(w, n * w->shape.ld, (float)scale, r, NULL, r);
}

static void saei_cpu_ghost_residual(const sae_work *w, const float *x_g, const float *e, size_t n,
                                    const uint32_t *list_count, float *out, double *loss) {
    saei_task t = saei_task_of(w);
    double mse = 0, ghost = 0, mse_sum[2] = { 0, 0 }, ghost_sum[2] = { 0, 0 }, c;
    float *r = t.s.rows;
    *loss = 0;
    if (!*list_count) {
        memset(out, 0, n * t.ld * sizeof *out);
        return;
    }
    for (int pass = 0; pass < 2; pass++) { /* the scale c needs the sums of all rows first */
        c = mse / (ghost + 1e-8);
        for (size_t i = 0; i < n; i++) {
            const float *ei = e + i * t.ld, *gi = x_g + i * t.ld;
            double norm_e = sqrt(t.kernels->dot(t.ld, ei, ei));
            double norm_g = sqrt(t.kernels->dot(t.ld, gi, gi)), norm_r;
            float s = (float)(norm_e / (2 * norm_g + 1e-8));
            for (size_t k = 0; k < t.ld; k++) r[k] = fmaf(-s, gi[k], -ei[k]);
            norm_r = sqrt(t.kernels->dot(t.ld, r, r));
            if (!pass) {
                saei_sum_add(mse_sum, i, norm_e);
                saei_sum_add(ghost_sum, i, norm_r);
            } else {
                float q = norm_r > 0 ? (float)(-(double)s * c / ((double)n * norm_r)) : 0;
                for (size_t k = 0; k < t.ld; k++) out[i * t.ld + k] = q * r[k];
            }
        }
        mse = (mse_sum[0] + mse_sum[1]) / (double)n;
        ghost = (ghost_sum[0] + ghost_sum[1]) / (double)n;
    }
    *loss = ghost * (mse / (ghost + 1e-8));
}
