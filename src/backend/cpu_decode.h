#pragma once
#include "cpu_batch.h"
#include "cpu_sums.h"

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

/* out = base + sum of values[j] W[latent j] over the entries [begin, end); base NULL: 0. Works in
   sum [ld]. */
static void saei_code_row(const saei_kernels *kernels, size_t ld, const uint32_t *latent,
                          const float *values, const float *W, size_t begin, size_t end,
                          const float *base, float *sum, float *out) {
    memset(sum, 0, ld * sizeof *sum);
    kernels->add_rows(ld, end - begin, latent + begin, values + begin, W, ld, sum);
    if (!base) memcpy(out, sum, ld * sizeof *out);
    else kernels->axpy(ld, 1, sum, base, out);
}

typedef struct saei_decode_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *values, *W, *base;
    size_t ld, lo, hi, base_stride;
    float *sums; /* [workers][3][ld], the first row of each */
    float *out;
} saei_decode_job;

static void saei_decode_part(void *arg, size_t part, size_t worker) {
    saei_decode_job *j = (saei_decode_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t begin, end = saei_code_range(c, r, j->lo, j->hi, &begin), at = r * c->stride;
        saei_code_row(j->kernels, j->ld, c->latent, j->values, j->W, at + begin, at + end,
                      j->base ? j->base + r * j->base_stride : NULL, j->sums + worker * 3 * j->ld,
                      j->out + r * j->ld);
    }
}

static void saei_cpu_decode(const sae_work *w, const sae_code *code, const float *values,
                            const float *W, size_t lo, size_t hi, const float *base,
                            size_t base_stride, float *out) {
    saei_decode_job j;
    j.kernels = w->ctx->kernels;
    j.ld = w->shape.ld;
    j.code = code;
    j.values = values;
    j.W = W;
    j.lo = lo;
    j.hi = hi;
    j.base = base;
    j.base_stride = base_stride;
    j.sums = saei_cpu_scratch_of(w).rows;
    j.out = out;
    saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, 16), saei_decode_part, &j);
}

/* residual and unit_rows */
typedef struct saei_residual_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x_hat, *y;
    float *e;
    double *losses; /* [n]: of each row */
} saei_residual_job;

static void saei_residual_part(void *arg, size_t part) {
    saei_residual_job *j = (saei_residual_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *e = j->e + r * j->ld;
        j->kernels->axpy(j->ld, -1, j->y + r * j->ld, j->x_hat + r * j->ld, e);
        j->losses[r] = j->kernels->dot(j->ld, e, e);
    }
}

static void saei_cpu_residual(const sae_work *w, const float *x_hat, const float *y, size_t n,
                              float *e, double *loss) {
    saei_residual_job j;
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.x_hat = x_hat;
    j.y = y;
    j.e = e;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_residual_part, &j);
    *loss = saei_sum_doubles(j.losses, n) / (double)n;
}

static void saei_unit_rows_part(void *arg, size_t part) {
    saei_residual_job *j = (saei_residual_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *e = j->e + r * j->ld;
        double norm = sqrt(j->kernels->dot(j->ld, e, e));
        j->losses[r] = norm;
        for (size_t c = 0; norm > 0 && c < j->ld; c++) e[c] = e[c] / (float)norm;
    }
}

static void saei_cpu_unit_rows(const sae_work *w, size_t n, float *e, double *loss) {
    saei_residual_job j;
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.x_hat = j.y = NULL;
    j.e = e;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_unit_rows_part, &j);
    *loss = saei_sum_doubles(j.losses, n) / (double)n;
}

static void saei_cpu_auxk_residual(const sae_work *w, const float *x_aux, const float *e, size_t n,
                                   const uint32_t *list_count, double alpha, float *r,
                                   double *pre_norm, double *norm) {
    const saei_kernels *kernels = w->ctx->kernels;
    size_t ld = w->shape.ld;
    double *squares = saei_cpu_scratch_of(w).doubles, denominator, scale; /* squares: [n] */
    if (!*list_count) {
        memset(r, 0, n * ld * sizeof *r);
        *pre_norm = -1;
        *norm = 0;
        return;
    }
    denominator = saei_scatter(w, e, n) / (double)n;
    saei_cpu_axpy(w, n * ld, 1, x_aux, e, r);
    for (size_t i = 0; i < n; i++) squares[i] = kernels->dot(ld, r + i * ld, r + i * ld);
    *pre_norm = saei_sum_doubles(squares, n) / (double)n;
    *norm = *pre_norm / denominator;
    scale = 2 * alpha / ((double)n * denominator);
    if (!(fabs(*norm) <= DBL_MAX) || !(fabs(scale) <= FLT_MAX)) *norm = scale = 0;
    saei_cpu_axpy(w, n * ld, (float)scale, r, NULL, r);
}

static void saei_cpu_ghost_residual(const sae_work *w, const float *x_g, const float *e, size_t n,
                                    const uint32_t *list_count, float *out, double *loss) {
    const saei_kernels *kernels = w->ctx->kernels;
    size_t ld = w->shape.ld;
    double mse = 0, ghost = 0, mse_sum[2] = { 0, 0 }, ghost_sum[2] = { 0, 0 }, c;
    float *r = saei_cpu_scratch_of(w).rows; /* [ld] */
    *loss = 0;
    if (!*list_count) {
        memset(out, 0, n * ld * sizeof *out);
        return;
    }
    for (int pass = 0; pass < 2; pass++) { /* the scale c needs the sums of all rows first */
        c = mse / (ghost + 1e-8);
        for (size_t i = 0; i < n; i++) {
            const float *ei = e + i * ld, *gi = x_g + i * ld;
            double norm_e = sqrt(kernels->dot(ld, ei, ei));
            double norm_g = sqrt(kernels->dot(ld, gi, gi)), norm_r;
            float s = (float)(norm_e / (2 * norm_g + 1e-8));
            for (size_t k = 0; k < ld; k++) r[k] = fmaf(-s, gi[k], -ei[k]);
            norm_r = sqrt(kernels->dot(ld, r, r));
            if (!pass) {
                saei_sum_add(mse_sum, i, norm_e);
                saei_sum_add(ghost_sum, i, norm_r);
            } else {
                float q = norm_r > 0 ? (float)(-(double)s * c / ((double)n * norm_r)) : 0;
                for (size_t k = 0; k < ld; k++) out[i * ld + k] = q * r[k];
            }
        }
        mse = (mse_sum[0] + mse_sum[1]) / (double)n;
        ghost = (ghost_sum[0] + ghost_sum[1]) / (double)n;
    }
    *loss = ghost * (mse / (ghost + 1e-8));
}
