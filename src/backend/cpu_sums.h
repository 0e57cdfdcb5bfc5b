#pragma once
#include "cpu.h"

/* ==== >>cpu: sums over rows and columns ======================================================= */

typedef struct saei_block_sum_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x, *s; /* s NULL: 1 */
    double *sums;       /* [blocks][ld] */
} saei_block_sum_job;

/* The sum of s_r x_r over one block of rows, in double: these sums are the bias's gradient, which
   every pre-activation feels. */
static void saei_block_sum_part(void *arg, size_t part) {
    saei_block_sum_job *j = (saei_block_sum_job *)arg;
    double *out = j->sums + part * j->ld;
    memset(out, 0, j->ld * sizeof *out);
    for (size_t r = part * SAE_ROW_BLOCK; r < saei_part_end(part, SAE_ROW_BLOCK, j->n); r++) {
        const float *row = j->x + r * j->ld;
        double s = j->s ? (double)j->s[r] : 1;
        if (s != 0) j->kernels->add_double(j->ld, s, row, out);
    }
}

/* The blocks' sums added in order, [ld] in scratch memory. */
static const double *saei_block_sum(const sae_work *w, const float *x, const float *s, size_t n) {
    saei_block_sum_job j;
    size_t blocks = saei_ceil_div(n, SAE_ROW_BLOCK);
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.x = x;
    j.s = s;
    j.sums = saei_cpu_scratch_of(w).block_sums;
    saei_parallel(w->ctx, blocks, saei_block_sum_part, &j);
    for (size_t block = 1; block < blocks; block++)
        for (size_t c = 0; c < j.ld; c++) j.sums[c] += j.sums[block * j.ld + c];
    return j.sums;
}

static void saei_cpu_column_sums(const sae_work *w, const float *x, size_t n, float alpha,
                                 float *out) {
    const double *sum = saei_block_sum(w, x, NULL, n);
    for (size_t c = 0; c < w->shape.ld; c++) out[c] = (float)((double)alpha * sum[c]);
}

static void saei_cpu_weighted_sum(const sae_work *w, const float *W, const float *s, size_t m,
                                  float alpha, float *out) {
    const double *sum = saei_block_sum(w, W, s, m);
    for (size_t c = 0; c < w->shape.ld; c++)
        out[c] = (float)((double)out[c] + (double)alpha * sum[c]);
}

typedef struct saei_sum_squares_job {
    const saei_kernels *kernels;
    const float *x;
    size_t count;
    double *sums; /* [parts] */
} saei_sum_squares_job;

static void saei_sum_squares_part(void *arg, size_t part) {
    saei_sum_squares_job *j = (saei_sum_squares_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    j->sums[part] = j->kernels->dot(n, j->x + at, j->x + at);
}

static void saei_cpu_sum_squares(const sae_work *w, const float *x, size_t count, double *out) {
    saei_sum_squares_job j;
    size_t parts = saei_ceil_div(count, SAEI_CHUNK);
    j.kernels = w->ctx->kernels;
    j.x = x;
    j.count = count;
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, parts, saei_sum_squares_part, &j);
    *out = saei_sum_doubles(j.sums, parts);
}

typedef struct saei_scatter_job {
    const float *x;
    size_t n, d, ld;
    double *sums; /* [d] */
} saei_scatter_job;

/* Of each column, sum_r (x - mean)^2, in double, in blocks of 1024 rows. */
static void saei_scatter_part(void *arg, size_t part) {
    saei_scatter_job *j = (saei_scatter_job *)arg;
    size_t c0 = part * 64, width = saei_part_end(part, 64, j->d) - c0;
    double mean[64], sum[64], block[64];
    memset(mean, 0, sizeof mean);
    memset(sum, 0, sizeof sum);
    for (int pass = 0; pass < 2; pass++) {
        double *total = pass ? sum : mean;
        for (size_t r = 0; r < j->n; ) {
            size_t end = saei_min(r + SAE_ROW_BLOCK, j->n);
            memset(block, 0, sizeof block);
            for (; r < end; r++)
                for (size_t c = 0; c < width; c++) {
                    double v = (double)j->x[r * j->ld + c0 + c];
                    if (pass) v = (v - mean[c]) * (v - mean[c]);
                    block[c] += v;
                }
            for (size_t c = 0; c < width; c++) total[c] += block[c];
        }
        for (size_t c = 0; !pass && c < width; c++) mean[c] /= (double)j->n;
    }
    for (size_t c = 0; c < width; c++) j->sums[c0 + c] = sum[c];
}

/* The columns added up. */
static double saei_scatter(const sae_work *w, const float *x, size_t n) {
    saei_scatter_job j;
    j.x = x;
    j.n = n;
    j.d = w->shape.d;
    j.ld = w->shape.ld;
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(j.d, 64), saei_scatter_part, &j);
    return saei_sum_doubles(j.sums, j.d);
}

static void saei_cpu_variance(const sae_work *w, const float *x, size_t n, double *out) {
    *out = n > 1 ? saei_scatter(w, x, n) / (double)(n - 1) : 0;
}

static void saei_cpu_count_nonzero(const sae_work *w, const sae_code *code, double *mean) {
    uint64_t total = 0;
    (void)w;
    for (size_t r = 0; r < code->rows; r++)
        for (size_t j = 0; j < code->count[r]; j++) total += code->value[r * code->stride + j] != 0;
    *mean = (double)total / (double)code->rows;
}
