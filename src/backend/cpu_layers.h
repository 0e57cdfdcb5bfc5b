#pragma once
#include "../dict/gate.h"
#include "cpu_sums.h"
#include "cpu_weights.h"

/* ==== >>cpu: rows of layers =================================================================== */
/* Of crosscoders: a row is `layers` blocks of d floats each, one after the other, d = w's d /
   layers, at any address. */

typedef struct saei_layers_job {
    const saei_kernels *kernels;
    size_t n, m, ld, layers, d; /* d: of a layer */
    const float *x, *y, *W, *mean, *scale, *sums;
    float *out, *u;
    size_t only;
    bool squared;
    double norm_share, sum_share;
    float coef;
    double *losses; /* [n] */
    float *weights; /* [n] */
    float *rows;    /* [workers][3][ld] */
    const sae_code *code;
} saei_layers_job;

static saei_layers_job saei_layers_job_of(const sae_work *w, size_t n, size_t layers) {
    saei_layers_job j;
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.layers = layers;
    j.d = w->shape.d / layers;
    return j;
}

static void saei_center_part(void *arg, size_t part) {
    saei_layers_job *j = (saei_layers_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++)
        for (size_t c = 0; c < j->layers * j->d; c++) {
            float *x = j->out + r * j->ld + c;
            *x = (*x - j->mean[c]) * j->scale[c / j->d];
        }
}

static void saei_cpu_center_layers(const sae_work *w, size_t n, size_t layers, const float *mean,
                                   const float *scale, float *x) {
    saei_layers_job j = saei_layers_job_of(w, n, layers);
    j.mean = mean;
    j.scale = scale;
    j.out = x;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_center_part, &j);
}

static void saei_errors_part(void *arg, size_t part) {
    saei_layers_job *j = (saei_layers_job *)arg;
    for (size_t r = part * 16, end = saei_part_end(part, 16, j->n); r < end; r++) {
        double sum = 0;
        for (size_t l = 0; l < j->layers; l++) {
            size_t at = r * j->ld + l * j->d;
            double square;
            float norm;
            if (j->only < j->layers && j->only != l) {
                memset(j->u + at, 0, j->d * sizeof *j->u);
                continue;
            }
            for (size_t c = 0; c < j->d; c++)
                j->out[at + c] = j->y ? j->x[at + c] - j->y[at + c] : j->x[at + c];
            square = saei_squares(j->kernels, j->out + at, j->d);
            norm = (float)sqrt(square);
            sum += j->squared ? square : sqrt(square);
            for (size_t c = 0; c < j->d; c++) {
                float e = j->out[at + c];
                j->u[at + c] = j->squared ? e : norm > 0 ? e / norm : 0;
            }
        }
        j->losses[r] = sum;
    }
}

static void saei_cpu_layer_errors(const sae_work *w, const float *x_hat, const float *y, size_t n,
                                  size_t layers, size_t only, bool squared, float *e, float *u,
                                  double *loss) {
    saei_layers_job j = saei_layers_job_of(w, n, layers);
    double mean;
    j.x = x_hat;
    j.y = y;
    j.out = e;
    j.u = u;
    j.only = only;
    j.squared = squared;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(n, 16), saei_errors_part, &j);
    mean = saei_sum_doubles(j.losses, n) / ((double)n * (double)layers);
    *loss = only && only < layers ? *loss + mean : mean;
}

static void saei_layer_norms_part(void *arg, size_t part) {
    saei_layers_job *j = (saei_layers_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++) {
        double all = 0, sum = 0;
        for (size_t l = 0; l < j->layers; l++) {
            double square;
            if (j->only < j->layers && j->only != l) continue;
            square = saei_squares(j->kernels, j->W + i * j->ld + l * j->d, j->d);
            all += square;
            sum += sqrt(square);
        }
        j->out[i] = (float)(j->only < j->layers ? sum
                                                : j->norm_share * sqrt(all) + j->sum_share * sum);
    }
}

static void saei_cpu_layer_norms(const sae_work *w, const float *W, size_t m, size_t layers,
                                 size_t only, double norm_share, double sum_share, float *out) {
    saei_layers_job j = saei_layers_job_of(w, 0, layers);
    j.W = W;
    j.m = m;
    j.only = only;
    j.norm_share = norm_share;
    j.sum_share = sum_share;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_layer_norms_part, &j);
}

static void saei_layer_norm_grad_part(void *arg, size_t part) {
    saei_layers_job *j = (saei_layers_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++) {
        double all = 0;
        if (j->sums[i] == 0) continue;
        for (size_t l = 0; l < j->layers; l++)
            all += saei_squares(j->kernels, j->W + i * j->ld + l * j->d, j->d);
        all = sqrt(all);
        for (size_t l = 0; l < j->layers; l++) {
            size_t at = i * j->ld + l * j->d;
            double own = sqrt(saei_squares(j->kernels, j->W + at, j->d));
            double slope = (all > 0 ? j->norm_share / all : 0) + (own > 0 ? j->sum_share / own : 0);
            float c = (float)((double)j->coef * (double)j->sums[i] * slope);
            for (size_t k = at; k < at + j->d; k++) j->out[k] = fmaf(c, j->W[k], j->out[k]);
        }
    }
}

static void saei_cpu_layer_norm_grad(const sae_work *w, const float *W, size_t m, size_t layers,
                                     double norm_share, double sum_share, const float *sums,
                                     float coef, float *grad) {
    saei_layers_job j = saei_layers_job_of(w, 0, layers);
    j.W = W;
    j.m = m;
    j.norm_share = norm_share;
    j.sum_share = sum_share;
    j.sums = sums;
    j.coef = coef;
    j.out = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_layer_norm_grad_part, &j);
}

static void saei_weigh_part(void *arg, size_t part) {
    saei_layers_job *j = (saei_layers_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++)
        j->kernels->scale(j->ld, j->scale[i], j->W + i * j->ld, j->out + i * j->ld);
}

static void saei_cpu_weigh_rows(const sae_work *w, const float *W, const float *bias,
                                const float *weight, size_t m, float *W_out, float *bias_out) {
    saei_layers_job j = saei_layers_job_of(w, 0, 1);
    j.W = W;
    j.m = m;
    j.scale = weight;
    j.out = W_out;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_weigh_part, &j);
    for (size_t i = 0; i < m; i++) bias_out[i] = weight[i] * bias[i];
}

static void saei_unweigh_part(void *arg, size_t part) {
    saei_layers_job *j = (saei_layers_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t k = r * c->stride; k < r * c->stride + c->count[r]; k++)
            if (c->value[k] != 0) c->value[k] /= j->scale[c->latent[k]];
}

static void saei_cpu_unweigh(const sae_work *w, const float *weight, sae_code *code) {
    saei_layers_job j = saei_layers_job_of(w, 0, 1);
    j.scale = weight;
    j.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_unweigh_part, &j);
}

/* Weights 1 / distance from the guess, in layer j->only. */
static void saei_layer_median_part(void *arg, size_t part, size_t worker) {
    saei_layers_job *j = (saei_layers_job *)arg;
    float *diff = j->rows + worker * 3 * j->ld + 2 * j->ld;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float norm;
        for (size_t c = 0; c < j->d; c++)
            diff[c] = j->x[r * j->ld + j->only * j->d + c] - j->out[j->only * j->d + c];
        norm = (float)sqrt(saei_squares(j->kernels, diff, j->d));
        j->weights[r] = 1 / (norm > 1e-20f ? norm : 1e-20f);
    }
}

/* As saei_cpu_geometric_median, each layer for itself; rounds are those of the slowest. */
static void saei_cpu_layer_median(const sae_work *w, const float *x, size_t n, size_t layers,
                                  float *out) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_layers_job j = saei_layers_job_of(w, n, layers);
    const double *sum = saei_block_sum(w, x, NULL, n);
    float *move = s.rows;
    bool moves = true;
    for (size_t c = 0; c < j.ld; c++) out[c] = (float)(sum[c] / (double)n);
    j.x = x;
    j.out = out;
    j.weights = (float *)(void *)s.doubles;
    j.rows = s.rows;
    for (int round = 0; round < 100 && moves; round++) {
        moves = false;
        for (j.only = 0; j.only < layers; j.only++) {
            double total[2] = { 0, 0 };
            size_t at = j.only * j.d;
            saei_parallel_workers(w->ctx, saei_ceil_div(n, 64), saei_layer_median_part, &j);
            for (size_t r = 0; r < n; r++) saei_sum_add(total, r, (double)j.weights[r]);
            total[0] += total[1];
            for (size_t r = 0; r < n; r++) j.weights[r] = (float)((double)j.weights[r] / total[0]);
            sum = saei_block_sum(w, x, j.weights, n);
            for (size_t c = 0; c < j.d; c++) {
                move[c] = (float)sum[at + c] - out[at + c];
                out[at + c] = (float)sum[at + c];
            }
            moves = moves || !(sqrt(saei_squares(j.kernels, move, j.d)) < 1e-5);
        }
    }
}

static void saei_cpu_count_quiet(const sae_work *w, const sae_code *code, const float *weight,
                                 float cut, size_t m, uint64_t *since) {
    uint32_t *loud = saei_cpu_scratch_of(w).integers; /* [m] */
    memset(loud, 0, m * sizeof *loud);
    for (size_t r = 0; r < code->rows; r++)
        for (size_t k = r * code->stride; k < r * code->stride + code->count[r]; k++) {
            uint32_t i = code->latent[k];
            if ((weight ? weight[i] : 1) * code->value[k] > cut) loud[i] = 1;
        }
    for (size_t i = 0; i < m; i++) since[i] = loud[i] ? 0 : since[i] + 1;
}

/* Rows of a draw in proportion to (mean_l norm(e_l))^2, without replacement, into draws. */
static void saei_layer_draws(const sae_work *w, const float *e, size_t n, size_t layers,
                             uint64_t seed, uint64_t step, saei_draw *draws) {
    saei_layers_job j = saei_layers_job_of(w, n, layers);
    saei_random random = saei_random_of(seed, SAEI_STREAM_RESAMPLE);
    for (size_t r = 0; r < n; r++) {
        double norm = 0;
        for (size_t l = 0; l < layers; l++)
            norm += sqrt(saei_squares(j.kernels, e + r * j.ld + l * j.d, j.d));
        norm /= (double)layers;
        draws[r] = saei_draw_of(&random, step, r, norm * norm);
    }
    qsort(draws, n, sizeof *draws, saei_draw_compare);
}

static void saei_cpu_layer_resample(const sae_work *w, const float *x, const float *e, size_t n,
                                    size_t layers, const uint64_t *since, uint64_t threshold,
                                    size_t m, uint64_t seed, uint64_t step, float *const enc[3],
                                    float *const dec[3], float *const bias[3], double *count) {
    saei_layers_job j = saei_layers_job_of(w, n, layers);
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    double *alive = s.doubles; /* [layers] */
    size_t living = 0, used = 0;
    memset(alive, 0, layers * sizeof *alive);
    for (size_t i = 0; i < m; i++) {
        if (since[i] > threshold) continue;
        living++;
        for (size_t l = 0; l < layers; l++)
            alive[l] += sqrt(saei_squares(j.kernels, enc[0] + i * j.ld + l * j.d, j.d));
    }
    *count = (double)saei_min(m - living, n);
    if (living == m) return;
    saei_layer_draws(w, e, n, layers, seed, step, s.draws);
    for (size_t i = 0; i < m && used < n; i++) {
        const float *from;
        if (since[i] <= threshold) continue;
        from = x + s.draws[used++].row * j.ld;
        for (size_t l = 0; l < layers; l++) {
            size_t at = l * j.d, to = i * j.ld + at;
            float norm = (float)sqrt(saei_squares(j.kernels, from + at, j.d));
            float scale = living ? (float)(alive[l] / (double)living * 0.05) : 0;
            for (size_t c = 0; c < j.d; c++) {
                enc[0][to + c] = from[at + c] * scale;
                dec[0][to + c] = norm > 0 ? from[at + c] / norm : 0;
            }
        }
        for (int k = 0; k < 3; k++) {
            if (k && enc[k]) memset(enc[k] + i * j.ld, 0, j.ld * sizeof(float));
            if (k && dec[k]) memset(dec[k] + i * j.ld, 0, j.ld * sizeof(float));
            if (bias[k]) bias[k][i] = 0;
        }
    }
}
