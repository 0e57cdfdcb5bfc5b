#pragma once
#include "cpu_weights.h"

/* ==== >>cpu: Adam ============================================================================= */

typedef struct saei_adam_job {
    const saei_kernels *kernels;
    saei_adam_factors factors;
    size_t count;
    const float *grad;
    float *param, *first, *second; /* first: NULL where beta1 is 0 */
} saei_adam_job;

static void saei_adam_part(void *arg, size_t part) {
    saei_adam_job *j = (saei_adam_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    j->kernels->adam(&j->factors, n, j->param + at, j->grad + at, j->first ? j->first + at : NULL,
                     j->second + at);
}

static void saei_cpu_adam(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                          const double *sum_squares, double max_norm, float *param,
                          const float *grad, float *first, float *second, size_t count) {
    double clip = sum_squares ? saei_clip_factor(*sum_squares, max_norm) : 1;
    saei_adam_job j;
    j.kernels = w->ctx->kernels;
    j.factors = saei_adam_step_of(adam, t, clip);
    j.count = count;
    j.grad = grad;
    j.param = param;
    j.first = first;
    j.second = second;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_adam_part, &j);
}

typedef struct saei_adam_rows_job {
    const saei_kernels *kernels;
    saei_adam_factors factors;
    const sae_lazy_adam *lazy;
    float project, unit; /* eps of each; negative: not asked for */
    size_t m, ld;
    float *param, *grad, *first, *second;
} saei_adam_rows_job;

static void saei_adam_rows_part(void *arg, size_t part) {
    saei_adam_rows_job *j = (saei_adam_rows_job *)arg;
    for (size_t i = part * 16, end = saei_part_end(part, 16, j->m); i < end; i++) {
        size_t at = i * j->ld;
        float *row = j->param + at, *first = j->first ? j->first + at : NULL;
        if (saei_is_deferred(j->lazy, i)) continue;
        if (j->project >= 0) saei_project_row(j->kernels, j->ld, row, j->project, j->grad + at);
        j->kernels->adam(&j->factors, j->ld, row, j->grad + at, first, j->second + at);
        if (j->unit >= 0) saei_unit_row(j->kernels, j->ld, j->unit, row);
        if (j->lazy) j->lazy->applied[i] = j->lazy->updates + 1;
    }
}

static void saei_cpu_adam_rows(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                               const double *sum_squares, double max_norm, float project,
                               float unit, const sae_lazy_adam *lazy, size_t m, float *param,
                               float *grad, float *first, float *second) {
    double clip = sum_squares ? saei_clip_factor(*sum_squares, max_norm) : 1;
    saei_adam_rows_job j;
    j.kernels = w->ctx->kernels;
    j.factors = saei_adam_step_of(adam, t, clip);
    j.lazy = lazy;
    j.project = project;
    j.unit = unit;
    j.m = m;
    j.ld = w->shape.ld;
    j.param = param;
    j.grad = grad;
    j.first = first;
    j.second = second;
    saei_parallel(w->ctx, saei_ceil_div(m, 16), saei_adam_rows_part, &j);
}

/* -- deferred rows. W1, two cores: an update costs a row 0.17 us from memory, and 0.04 while it
   lies in the L1, where all that it missed is applied; but a deferred row is read one extra time
   when it becomes active again -- */

typedef struct saei_catch_up_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const sae_lazy_adam *lazy;
    const saei_adam_factors *missed; /* [SAE_LAZY_ADAM_UPDATES] */
    size_t m, ld, parts, part_rows;  /* of the marking */
    float *param, *first, *second;
    unsigned char *active; /* [parts][m]: which latents a part of the rows lists */
    float *zeros;          /* [workers][3][ld], the first row of each: a gradient */
    double *deferred;      /* [parts of 16 rows]: how many rows were */
} saei_catch_up_job;

static void saei_mark_active_part(void *arg, size_t part) {
    saei_catch_up_job *job = (saei_catch_up_job *)arg;
    const sae_code *c = job->code;
    unsigned char *active = job->active + part * job->m;
    size_t r = part * job->part_rows, end = saei_part_end(part, job->part_rows, c->rows);
    size_t words = saei_ceil_div(job->m, 64);
    memset(active, 0, job->m);
    for (size_t w = 0; c->has_active_bits && w < words; w++) {
        uint64_t any = 0;
        for (size_t i = r; i < end; i++) any |= c->active_bits[i * words + w];
        for (; any; any &= any - 1) active[w * 64 + saei_lowest_bit(any)] = 1;
    }
    for (; !c->has_active_bits && r < end; r++)
        for (size_t j = 0; j < c->count[r]; j++) active[c->latent[r * c->stride + j]] = 1;
}

static void saei_catch_up_part(void *arg, size_t part, size_t worker) {
    saei_catch_up_job *j = (saei_catch_up_job *)arg;
    const sae_lazy_adam *lazy = j->lazy;
    size_t ld = j->ld, deferred = 0;
    float *zeros = j->zeros + worker * 3 * ld;
    for (size_t i = part * 16, end = saei_part_end(part, 16, j->m); i < end; i++) {
        float *row = j->param + i * ld, *first = j->first ? j->first + i * ld : NULL;
        bool due = !j->code;
        deferred += saei_is_deferred(lazy, i);
        for (size_t p = 0; p < j->parts && !due; p++) due = j->active[p * j->m + i] != 0;
        if (!due) continue;
        if (j->code) lazy->last_active[i] = lazy->updates;
        if (lazy->applied[i] < lazy->updates) memset(zeros, 0, ld * sizeof *zeros);
        for (; lazy->applied[i] < lazy->updates; lazy->applied[i]++) {
            j->kernels->adam(&j->missed[lazy->applied[i] % SAE_LAZY_ADAM_UPDATES], ld, row, zeros,
                             first, j->second + i * ld);
            if (lazy->unit >= 0) saei_unit_row(j->kernels, ld, lazy->unit, row);
        }
    }
    j->deferred[part] = (double)deferred;
}

static void saei_cpu_catch_up(const sae_work *w, const sae_code *code, const sae_lazy_adam *lazy,
                              size_t m, float *param, float *first, float *second) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_adam_factors missed[SAE_LAZY_ADAM_UPDATES];
    saei_catch_up_job j;
    for (size_t u = 0; u < saei_min(lazy->updates, SAE_LAZY_ADAM_UPDATES); u++)
        missed[u] = saei_adam_step_of(&lazy->adam[u], lazy->t[u], 1);
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.lazy = lazy;
    j.missed = missed;
    j.m = m;
    j.ld = w->shape.ld;
    j.param = param;
    j.first = first;
    j.second = second;
    j.active = (unsigned char *)s.integers;
    j.zeros = s.rows;
    j.deferred = s.doubles;
    if (code) {
        j.part_rows = saei_code_part_rows(w->ctx, code->rows);
        j.parts = saei_ceil_div(code->rows, j.part_rows);
        saei_parallel(w->ctx, j.parts, saei_mark_active_part, &j);
    }
    saei_parallel_workers(w->ctx, saei_ceil_div(m, 16), saei_catch_up_part, &j);
    *lazy->num_deferred = (uint32_t)saei_sum_doubles(j.deferred, saei_ceil_div(m, 16));
}
