#pragma once
#include "../base/random.h"
#include "cpu_screen.h"
#include "cpu_gradients.h"
#include "cpu_latents.h"

/* ==== >>cpu: weights ========================================================================== */

enum { SAEI_ROWS_NORM, SAEI_ROWS_PARALLEL, SAEI_ROWS_UNIT, SAEI_ROWS_NORM_GRAD };

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

static bool saei_waits(const sae_lag *lag, size_t i) {
    return lag && lag->waits && lag->updates >= lag->begun + SAE_LAG_QUIET
           && lag->updates >= lag->listed[i] + SAE_LAG_QUIET;
}

static void saei_weight_rows_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, t->m); i < end; i++) {
        const float *row = t->x + i * t->ld;
        float *out = t->out + i * t->ld;
        if (saei_waits(t->lag, i)) continue;
        if (t->kind == SAEI_ROWS_NORM_GRAD) {
            float c = t->a * t->z[i];
            c = t->which == 2 ? 2 * c : t->y[i] > 0 ? c / t->y[i] : 0;
            t->kernels->axpy(t->ld, c, row, out, out);
            continue;
        }
        if (t->kind == SAEI_ROWS_PARALLEL) saei_project_row(t->kernels, t->ld, row, t->a, out);
        else if (t->kind == SAEI_ROWS_UNIT) saei_unit_row(t->kernels, t->ld, t->a, out);
        else t->out[i] = (float)(sqrt(t->kernels->dot(t->ld, row, row)) + (double)t->a);
    }
}

static void saei_cpu_row_norms(const sae_work *w, const float *W, size_t m, float *out) {
    saei_task t = saei_task_of(w);
    t.kind = SAEI_ROWS_NORM;
    t.x = W;
    t.m = m;
    t.out = out;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_weight_rows_part, &t);
}

static void saei_cpu_norm_weight(const sae_work *w, const float *norms, int power, size_t m,
                                 float *weight) {
    (void)w;
    for (size_t i = 0; i < m; i++) weight[i] = power == 2 ? norms[i] * norms[i] : norms[i];
}

static void saei_cpu_norm_grad(const sae_work *w, const float *W, const float *norms,
                               const float *sums, int power, float coef, size_t m, float *grad) {
    saei_task t = saei_task_of(w);
    t.kind = SAEI_ROWS_NORM_GRAD;
    t.x = W;
    t.y = norms;
    t.z = sums;
    t.which = (size_t)power;
    t.a = coef;
    t.m = m;
    t.out = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_weight_rows_part, &t);
}

static void saei_cpu_remove_parallel(const sae_work *w, const float *W, size_t m, float eps,
                                     const sae_lag *lag, float *grad) {
    saei_task t = saei_task_of(w);
    t.kind = SAEI_ROWS_PARALLEL;
    t.lag = lag;
    t.x = W;
    t.m = m;
    t.a = eps;
    t.out = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_weight_rows_part, &t);
}

static void saei_cpu_normalize_rows(const sae_work *w, size_t m, float eps, float *W) {
    saei_task t = saei_task_of(w);
    t.kind = SAEI_ROWS_UNIT;
    t.x = W;
    t.m = m;
    t.a = eps;
    t.out = W;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_weight_rows_part, &t);
}

static void saei_adam_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, t->n) - at;
    t->kernels->adam(&t->adam, n, t->outs[0] + at, t->x + at, t->outs[1] ? t->outs[1] + at : NULL,
                     t->outs[2] + at);
}

static double saei_clip_factor(double sum_squares, double max_norm) {
    double factor = max_norm / (sqrt(sum_squares) + 1e-6);
    return factor < 1 ? factor : 1;
}

static void saei_cpu_adam(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                          const double *sum_squares, double max_norm, float *param,
                          const float *grad, float *first, float *second, size_t count) {
    saei_task task = saei_task_of(w);
    float *outs[3];
    outs[0] = param;
    outs[1] = first;
    outs[2] = second;
    task.adam =
        saei_adam_step_of(adam, t, sum_squares ? saei_clip_factor(*sum_squares, max_norm) : 1);
    task.x = grad;
    task.outs = outs;
    task.n = count;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_adam_part, &task);
}

static void saei_adam_rows_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    float project = t->a, unit = (float)t->p;
    for (size_t i = part * 16, end = saei_part_end(part, 16, t->m); i < end; i++) {
        size_t at = i * t->ld;
        float *row = t->outs[0] + at;
        if (saei_waits(t->lag, i)) continue;
        if (project >= 0) saei_project_row(t->kernels, t->ld, row, project, t->outs[3] + at);
        t->kernels->adam(&t->adam, t->ld, row, t->outs[3] + at, t->outs[1] ? t->outs[1] + at : NULL,
                         t->outs[2] + at);
        if (unit >= 0) saei_unit_row(t->kernels, t->ld, unit, row);
        if (t->lag) t->lag->seen[i] = t->lag->updates + 1;
    }
}

static void saei_cpu_adam_rows(const sae_work *w, const sae_adam_desc *adam, uint64_t step,
                               const double *sum_squares, double max_norm, float project,
                               float unit, const sae_lag *lag, size_t m, float *param, float *grad,
                               float *first, float *second) {
    saei_task t = saei_task_of(w);
    float *outs[4];
    outs[0] = param;
    outs[1] = first;
    outs[2] = second;
    outs[3] = grad;
    t.adam =
        saei_adam_step_of(adam, step, sum_squares ? saei_clip_factor(*sum_squares, max_norm) : 1);
    t.outs = outs;
    t.m = m;
    t.a = project;
    t.p = (double)unit;
    t.lag = lag;
    saei_parallel(w->ctx, saei_ceil_div(m, 16), saei_adam_rows_part, &t);
}

/* -- rows that wait. W1, two cores: an update costs a row 0.17 us from memory, and 0.04 while it
   lies in the L1, where it sees all that it missed; but a row that fires after a rest is read once
   more than else -- */

/* [parts][m] bytes: which latents a part of the rows lists. */
static void saei_listed_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    unsigned char *listed = (unsigned char *)t->s.counts + part * t->m;
    size_t r = part * t->stride, end = saei_part_end(part, t->stride, c->rows);
    size_t words = saei_ceil_div(t->m, 64);
    memset(listed, 0, t->m);
    for (size_t w = 0; c->bits && w < words; w++) {
        uint64_t any = 0;
        for (size_t i = r; i < end; i++) any |= c->fires[i * words + w];
        for (; any; any &= any - 1) listed[w * 64 + saei_lowest_bit(any)] = 1;
    }
    for (; !c->bits && r < end; r++)
        for (size_t j = 0; j < c->count[r]; j++) listed[c->latent[r * c->stride + j]] = 1;
}

static void saei_catch_up_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const unsigned char *listed = (const unsigned char *)t->s.counts;
    const sae_lag *lag = t->lag;
    float *none = t->s.rows + worker * 3 * t->ld;
    size_t waiting = 0;
    for (size_t i = part * 16, end = saei_part_end(part, 16, t->m); i < end; i++) {
        float *row = t->outs[0] + i * t->ld, *first = t->outs[1] ? t->outs[1] + i * t->ld : NULL;
        bool due = !t->code;
        waiting += saei_waits(lag, i);
        for (size_t p = 0; p < t->parts && !due; p++) due = listed[p * t->m + i] != 0;
        if (!due) continue;
        if (t->code) lag->listed[i] = lag->updates;
        if (lag->seen[i] < lag->updates) memset(none, 0, t->ld * sizeof *none);
        for (; lag->seen[i] < lag->updates; lag->seen[i]++) {
            t->kernels->adam(&t->missed[lag->seen[i] % SAE_LAG_UPDATES], t->ld, row, none, first,
                             t->outs[2] + i * t->ld);
            if (lag->unit >= 0) saei_unit_row(t->kernels, t->ld, lag->unit, row);
        }
    }
    t->s.sums[part] = (double)waiting;
}

static void saei_cpu_catch_up(const sae_work *w, const sae_code *code, const sae_lag *lag, size_t m,
                              float *param, float *first, float *second) {
    saei_task t = saei_task_of(w);
    saei_adam_factors missed[SAE_LAG_UPDATES];
    float *outs[3];
    outs[0] = param;
    outs[1] = first;
    outs[2] = second;
    for (size_t u = 0; u < saei_min(lag->updates, SAE_LAG_UPDATES); u++)
        missed[u] = saei_adam_step_of(&lag->adam[u], lag->t[u], 1);
    t.code = code;
    t.m = m;
    t.outs = outs;
    t.lag = lag;
    t.missed = missed;
    if (code) {
        saei_code_parts(&t, code->rows);
        saei_parallel(w->ctx, t.parts, saei_listed_part, &t);
    }
    saei_parallel_workers(w->ctx, saei_ceil_div(m, 16), saei_catch_up_part, &t);
    *lag->waiting = (uint32_t)saei_sum_doubles(t.s.sums, saei_ceil_div(m, 16));
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

static void saei_distance_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    float *diff = t->s.rows + worker * 3 * t->ld + 2 * t->ld;
    for (size_t r = part * 64, end = saei_part_end(part, 64, t->n); r < end; r++) {
        float norm;
        t->kernels->axpy(t->ld, -1, t->y, t->x + r * t->ld, diff);
        norm = (float)sqrt(t->kernels->dot(t->ld, diff, diff));
        t->out[r] = 1 / (norm > 1e-20f ? norm : 1e-20f);
    }
}

/* Weiszfeld. DEVIATION: a row at the guess itself has weight 1e20 (the reference divides by 0). */
static void saei_cpu_geometric_median(const sae_work *w, const float *x, size_t n, float *out) {
    saei_task t = saei_task_of(w);
    float *weights = (float *)(void *)t.s.sums; /* [n] floats, room for 2n doubles */
    float *move = t.s.rows;
    const double *sum = saei_block_sum(w, x, NULL, n);
    for (size_t c = 0; c < t.ld; c++) out[c] = (float)(sum[c] / (double)n);
    t.x = x;
    t.y = out;
    t.n = n;
    t.out = weights;
    for (int round = 0; round < 100; round++) {
        double total[2] = { 0, 0 };
        saei_parallel_workers(w->ctx, saei_ceil_div(n, 64), saei_distance_part, &t);
        for (size_t r = 0; r < n; r++) saei_sum_add(total, r, (double)weights[r]);
        total[0] += total[1];
        for (size_t r = 0; r < n; r++) weights[r] = (float)((double)weights[r] / total[0]);
        sum = saei_block_sum(w, x, weights, n);
        for (size_t c = 0; c < t.ld; c++) {
            move[c] = (float)sum[c] - out[c];
            out[c] = (float)sum[c];
        }
        if (sqrt(t.kernels->dot(t.ld, move, move)) < 1e-5) break;
    }
}

static int saei_draw_compare(const void *a, const void *b) {
    const saei_draw *x = (const saei_draw *)a, *y = (const saei_draw *)b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void saei_cpu_resample(const sae_work *w, const float *x, const float *e, size_t n,
                              const uint64_t *since, uint64_t threshold, size_t m, uint64_t seed,
                              uint64_t step, float *const enc[3], float *const dec[3],
                              float *const (*biases)[3], size_t num_biases) {
    saei_task t = saei_task_of(w);
    saei_draw *draws = (saei_draw *)(void *)t.s.draws;
    double alive = 0;
    size_t living = 0, dead, used = 0;
    saei_random random = saei_random_of(seed, SAEI_STREAM_RESAMPLE);
    for (size_t i = 0; i < m; i++)
        if (since[i] <= threshold) {
            const float *row = enc[0] + i * t.ld;
            alive += sqrt(t.kernels->dot(t.ld, row, row));
            living++;
        }
    dead = m - living;
    if (!dead) return;
    if (living) alive /= (double)living;
    /* The smallest of Exp(1)/weight are a draw without replacement in proportion to weight. */
    for (size_t r = 0; r < n; r++) {
        double norm = sqrt(t.kernels->dot(t.ld, e + r * t.ld, e + r * t.ld));
        double u = saei_random_uniform(&random, step * ((uint64_t)1 << 32) + r);
        draws[r].row = r;
        draws[r].key = norm > 0 ? -saei_ln(u) / norm : HUGE_VAL;
    }
    qsort(draws, n, sizeof *draws, saei_draw_compare);
    for (size_t i = 0; i < m && used < saei_min(dead, n); i++) {
        const float *from;
        float norm, scale;
        if (since[i] <= threshold) continue;
        from = x + draws[used++].row * t.ld;
        norm = (float)sqrt(t.kernels->dot(t.ld, from, from));
        scale = (float)alive * 0.2f;
        for (size_t c = 0; c < t.ld; c++) {
            enc[0][i * t.ld + c] = from[c] * scale;
            dec[0][i * t.ld + c] = norm > 0 ? from[c] / norm : 0;
        }
        for (int k = 0; k < 3; k++) {
            if (k && enc[k]) memset(enc[k] + i * t.ld, 0, t.ld * sizeof(float));
            if (k && dec[k]) memset(dec[k] + i * t.ld, 0, t.ld * sizeof(float));
            for (size_t b = 0; b < num_biases; b++)
                if (biases[b][k]) biases[b][k][i] = 0;
        }
    }
}
