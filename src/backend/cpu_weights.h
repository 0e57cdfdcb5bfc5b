#pragma once
#include "../base/random.h"
#include "cpu_sums.h"

/* ==== >>cpu: weights ========================================================================== */

static void saei_project_row(const saei_kernels *kernels, size_t ld, const float *row, float eps,
                             float *grad) {
    double norm = sqrt(kernels->dot(ld, row, row)) + (double)eps;
    double c = norm > 0 ? kernels->dot(ld, grad, row) / norm / norm : 0;
    if (norm > 0) kernels->axpy(ld, (float)-c, row, grad, grad);
}

static void saei_unit_row(const saei_kernels *kernels, size_t ld, float eps, float *row) {
    double norm = sqrt(kernels->dot(ld, row, row)) + (double)eps;
    if (norm > 0) kernels->divide(ld, row, (float)norm, row);
}

/* Whether the update of row i is left to catch_up. */
static bool saei_is_deferred(const sae_lazy_adam *lazy, size_t i) {
    return lazy && lazy->enabled && lazy->updates >= lazy->begun + SAE_LAZY_ADAM_QUIET
           && lazy->updates >= lazy->last_active[i] + SAE_LAZY_ADAM_QUIET;
}

typedef struct saei_row_norms_job {
    const saei_kernels *kernels;
    const float *W;
    size_t m, ld;
    float *norms;
} saei_row_norms_job;

static void saei_row_norms_part(void *arg, size_t part) {
    saei_row_norms_job *j = (saei_row_norms_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++) {
        const float *row = j->W + i * j->ld;
        j->norms[i] = (float)sqrt(j->kernels->dot(j->ld, row, row));
    }
}

static void saei_cpu_row_norms(const sae_work *w, const float *W, size_t m, float *out) {
    saei_row_norms_job j;
    j.kernels = w->ctx->kernels;
    j.W = W;
    j.m = m;
    j.ld = w->shape.ld;
    j.norms = out;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_row_norms_part, &j);
}

static void saei_cpu_norm_weight(const sae_work *w, const float *norms, int power, size_t m,
                                 float *weight) {
    (void)w;
    for (size_t i = 0; i < m; i++) weight[i] = power == 2 ? norms[i] * norms[i] : norms[i];
}

typedef struct saei_norm_grad_job {
    const saei_kernels *kernels;
    const float *W, *norms, *sums;
    int power;
    float coef;
    size_t m, ld;
    float *grad;
} saei_norm_grad_job;

static void saei_norm_grad_part(void *arg, size_t part) {
    saei_norm_grad_job *j = (saei_norm_grad_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++) {
        float c = j->coef * j->sums[i], *grad = j->grad + i * j->ld;
        c = j->power == 2 ? 2 * c : j->norms[i] > 0 ? c / j->norms[i] : 0;
        j->kernels->axpy(j->ld, c, j->W + i * j->ld, grad, grad);
    }
}

static void saei_cpu_norm_grad(const sae_work *w, const float *W, const float *norms,
                               const float *sums, int power, float coef, size_t m, float *grad) {
    saei_norm_grad_job j;
    j.kernels = w->ctx->kernels;
    j.W = W;
    j.norms = norms;
    j.sums = sums;
    j.power = power;
    j.coef = coef;
    j.m = m;
    j.ld = w->shape.ld;
    j.grad = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_norm_grad_part, &j);
}

typedef struct saei_project_job {
    const saei_kernels *kernels;
    const float *W;
    const sae_lazy_adam *lazy;
    size_t m, ld;
    float eps, *grad;
} saei_project_job;

static void saei_project_part(void *arg, size_t part) {
    saei_project_job *j = (saei_project_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++)
        if (!saei_is_deferred(j->lazy, i))
            saei_project_row(j->kernels, j->ld, j->W + i * j->ld, j->eps, j->grad + i * j->ld);
}

static void saei_cpu_remove_parallel(const sae_work *w, const float *W, size_t m, float eps,
                                     const sae_lazy_adam *lazy, float *grad) {
    saei_project_job j;
    j.kernels = w->ctx->kernels;
    j.W = W;
    j.lazy = lazy;
    j.m = m;
    j.ld = w->shape.ld;
    j.eps = eps;
    j.grad = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_project_part, &j);
}

typedef struct saei_normalize_job {
    const saei_kernels *kernels;
    size_t m, ld;
    float eps, *W;
} saei_normalize_job;

static void saei_normalize_part(void *arg, size_t part) {
    saei_normalize_job *j = (saei_normalize_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++)
        saei_unit_row(j->kernels, j->ld, j->eps, j->W + i * j->ld);
}

static void saei_cpu_normalize_rows(const sae_work *w, size_t m, float eps, float *W) {
    saei_normalize_job j;
    j.kernels = w->ctx->kernels;
    j.m = m;
    j.ld = w->shape.ld;
    j.eps = eps;
    j.W = W;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_normalize_part, &j);
}

/* DEVIATION: a row without a positive value makes the reference's mean infinite (its minimum over
   nothing); here such rows are left out of the mean, and with no other row nothing changes. */
static void saei_cpu_update_threshold(const sae_work *w, const sae_code *code, bool by_row,
                                      double beta, float *threshold) {
    double sum[2] = { 0, 0 };
    float smallest = 0, now;
    size_t rows = 0;
    (void)w;
    for (size_t r = 0; r < code->rows; r++) {
        float least = 0;
        for (size_t j = 0; j < code->count[r]; j++) {
            float v = code->value[r * code->stride + j];
            if (v > 0 && (least == 0 || v < least)) least = v;
        }
        saei_sum_add(sum, r, (double)least);
        if (least == 0) continue;
        rows++;
        if (smallest == 0 || least < smallest) smallest = least;
    }
    if (by_row && !rows) return;
    now = by_row ? (float)((sum[0] + sum[1]) / (double)rows) : smallest;
    if (*threshold < 0) *threshold = now;
    else *threshold = (float)(beta * (double)*threshold + (1 - beta) * (double)now);
}

typedef struct saei_median_job {
    const saei_kernels *kernels;
    const float *x, *guess;
    size_t n, ld;
    float *weights;     /* [n]: 1 / distance from the guess */
    float *differences; /* [workers][3][ld], the last row of each */
} saei_median_job;

static void saei_median_part(void *arg, size_t part, size_t worker) {
    saei_median_job *j = (saei_median_job *)arg;
    float *diff = j->differences + worker * 3 * j->ld + 2 * j->ld;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float norm;
        j->kernels->axpy(j->ld, -1, j->guess, j->x + r * j->ld, diff);
        norm = (float)sqrt(j->kernels->dot(j->ld, diff, diff));
        j->weights[r] = 1 / (norm > 1e-20f ? norm : 1e-20f);
    }
}

/* Weiszfeld. DEVIATION: a row at the guess itself has weight 1e20 (the reference divides by 0). */
static void saei_cpu_geometric_median(const sae_work *w, const float *x, size_t n, float *out) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    size_t ld = w->shape.ld;
    float *weights = (float *)(void *)s.doubles; /* [n] */
    float *move = s.rows; /* [ld]; the differences follow */
    const double *sum = saei_block_sum(w, x, NULL, n);
    saei_median_job j;
    for (size_t c = 0; c < ld; c++) out[c] = (float)(sum[c] / (double)n);
    j.kernels = w->ctx->kernels;
    j.x = x;
    j.guess = out;
    j.n = n;
    j.ld = ld;
    j.weights = weights;
    j.differences = s.rows;
    for (int round = 0; round < 100; round++) {
        double total[2] = { 0, 0 };
        saei_parallel_workers(w->ctx, saei_ceil_div(n, 64), saei_median_part, &j);
        for (size_t r = 0; r < n; r++) saei_sum_add(total, r, (double)weights[r]);
        total[0] += total[1];
        for (size_t r = 0; r < n; r++) weights[r] = (float)((double)weights[r] / total[0]);
        sum = saei_block_sum(w, x, weights, n);
        for (size_t c = 0; c < ld; c++) {
            move[c] = (float)sum[c] - out[c];
            out[c] = (float)sum[c];
        }
        if (sqrt(j.kernels->dot(ld, move, move)) < 1e-5) break;
    }
}

static int saei_draw_compare(const void *a, const void *b) {
    const saei_draw *x = (const saei_draw *)a, *y = (const saei_draw *)b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* The smallest of Exp(1)/weight are a draw without replacement in proportion to weight. */
static saei_draw saei_draw_of(saei_random *random, uint64_t step, size_t row, double weight) {
    double u = saei_random_uniform(random, step * ((uint64_t)1 << 32) + row);
    saei_draw draw;
    draw.row = row;
    draw.key = weight > 0 ? -saei_ln(u) / weight : HUGE_VAL;
    return draw;
}

static void saei_cpu_resample(const sae_work *w, const float *x, const float *e, size_t n,
                              const uint64_t *since, uint64_t threshold, size_t m, uint64_t seed,
                              uint64_t step, float *const enc[3], float *const dec[3],
                              float *const (*biases)[3], size_t num_biases) {
    const saei_kernels *kernels = w->ctx->kernels;
    size_t ld = w->shape.ld;
    saei_draw *draws = saei_cpu_scratch_of(w).draws; /* [n] */
    double alive = 0;
    size_t living = 0, dead, used = 0;
    saei_random random = saei_random_of(seed, SAEI_STREAM_RESAMPLE);
    for (size_t i = 0; i < m; i++)
        if (since[i] <= threshold) {
            const float *row = enc[0] + i * ld;
            alive += sqrt(kernels->dot(ld, row, row));
            living++;
        }
    dead = m - living;
    if (!dead) return;
    if (living) alive /= (double)living;
    for (size_t r = 0; r < n; r++)
        draws[r] = saei_draw_of(&random, step, r, sqrt(kernels->dot(ld, e + r * ld, e + r * ld)));
    qsort(draws, n, sizeof *draws, saei_draw_compare);
    for (size_t i = 0; i < m && used < saei_min(dead, n); i++) {
        const float *from;
        float norm, scale;
        if (since[i] <= threshold) continue;
        from = x + draws[used++].row * ld;
        norm = (float)sqrt(kernels->dot(ld, from, from));
        scale = (float)alive * 0.2f;
        for (size_t c = 0; c < ld; c++) {
            enc[0][i * ld + c] = from[c] * scale;
            dec[0][i * ld + c] = norm > 0 ? from[c] / norm : 0;
        }
        for (int k = 0; k < 3; k++) {
            if (k && enc[k]) memset(enc[k] + i * ld, 0, ld * sizeof(float));
            if (k && dec[k]) memset(dec[k] + i * ld, 0, ld * sizeof(float));
            for (size_t b = 0; b < num_biases; b++)
                if (biases[b][k]) biases[b][k][i] = 0;
        }
    }
}
