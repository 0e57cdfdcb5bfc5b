#pragma once
#include "cpu_dense.h"
#include "cpu_decode.h"

/* ==== >>cpu: penalties, gradients of entries ================================================== */

static double saei_penalty_entropy(const float *f, size_t count, float coef, float *grad) {
    double sum = 0, h = 0, mean = 0;
    for (size_t j = 0; j < count; j++) sum += (double)f[j];
    if (!(sum > 0)) return 0;
    for (size_t j = 0; j < count; j++) {
        double q = (double)f[j] / (sum + 1e-8), slope = -(saei_ln(q + 1e-8) + q / (q + 1e-8));
        h -= q * saei_ln(q + 1e-8);
        mean += slope * q;
    }
    for (size_t j = 0; grad && j < count; j++) {
        double q = (double)f[j] / (sum + 1e-8), slope = -(saei_ln(q + 1e-8) + q / (q + 1e-8));
        if (f[j] > 0) grad[j] += coef * (float)((slope - mean) / (sum + 1e-8));
    }
    return h;
}

static double saei_penalty_lp(const saei_kernels *kernels, const float *f, size_t count, size_t m,
                              double p, bool root, float coef, float *grad) {
    double sum = 0, outer = p, power[64];
    for (size_t j = 0; j < count; j += 64) {
        size_t n = saei_min(64, count - j);
        kernels->powers(n, f + j, p, power);
        for (size_t i = 0; i < n; i++) sum += power[i];
    }
    if (p == 0) sum = (double)m; /* 0^0 is 1 */
    if (root) outer = sum > 0 ? saei_pow(sum, 1 / p - 1) : 0;
    for (size_t j = 0; grad && j < count; j += 64) {
        size_t n = saei_min(64, count - j);
        kernels->powers(n, f + j, p - 1, power);
        for (size_t i = 0; i < n; i++)
            if (f[j + i] > 0) grad[j + i] += coef * (float)(outer * power[i]);
    }
    return root ? (sum > 0 ? saei_pow(sum, 1 / p) : 0) : sum;
}

typedef struct saei_penalty_job {
    const saei_kernels *kernels;
    sae_penalty kind;
    size_t m;
    double p;
    float coef; /* of a row */
    const float *weight, *values;
    const sae_code *code;
    float *grad;
    double *losses; /* [rows] */
} saei_penalty_job;

static void saei_penalty_part(void *arg, size_t part) {
    saei_penalty_job *job = (saei_penalty_job *)arg;
    const sae_code *c = job->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++) {
        const uint32_t *latent = c->latent + r * c->stride;
        const float *f = job->values + r * c->stride;
        float *grad = job->grad ? job->grad + r * c->stride : NULL;
        double sum = 0;
        switch (job->kind) {
        case SAE_PENALTY_L1:
            for (size_t j = 0; j < c->count[r]; j++) {
                float weight = job->weight ? job->weight[latent[j]] : 1;
                sum += (double)weight * (double)f[j];
                if (grad && f[j] > 0) grad[j] += job->coef * weight;
            }
            break;
        case SAE_PENALTY_LP:
        case SAE_PENALTY_LP_P:
            sum = saei_penalty_lp(job->kernels, f, c->count[r], job->m, job->p,
                                  job->kind == SAE_PENALTY_LP, job->coef, grad);
            break;
        case SAE_PENALTY_ENTROPY:
            sum = saei_penalty_entropy(f, c->count[r], job->coef, grad);
            break;
        }
        job->losses[r] = sum;
    }
}

static void saei_cpu_penalty(const sae_work *w, sae_penalty kind, double p, double coef,
                             const float *weight, const sae_code *code, const float *values,
                             float *grad, double *loss) {
    saei_penalty_job j;
    j.kernels = w->ctx->kernels;
    j.kind = kind;
    j.m = w->shape.dict_size;
    j.p = p;
    j.coef = (float)(coef / (double)code->rows);
    j.weight = weight;
    j.values = values;
    j.code = code;
    j.grad = grad;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_penalty_part, &j);
    *loss = saei_sum_doubles(j.losses, code->rows) / (double)code->rows;
}

typedef struct saei_dots_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *e, *W, *relu_of;
    size_t ld, lo, hi;
    float alpha, *grad;
} saei_dots_job;

static void saei_dots_part(void *arg, size_t part) {
    saei_dots_job *job = (saei_dots_job *)arg;
    const sae_code *c = job->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t begin, end = saei_code_range(c, r, job->lo, job->hi, &begin);
        size_t at = r * c->stride + begin;
        job->kernels->dots(job->ld, job->e + r * job->ld, end - begin, c->latent + at, job->W,
                           job->ld, job->alpha, job->grad + at);
        for (size_t j = at; job->relu_of && j < at + (end - begin); j++)
            if (!(job->relu_of[j] > 0)) job->grad[j] = 0;
    }
}

static void saei_cpu_dots(const sae_work *w, const sae_code *code, const float *e, const float *W,
                          size_t lo, size_t hi, float alpha, const float *relu_of, float *grad) {
    saei_dots_job j;
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.e = e;
    j.W = W;
    j.relu_of = relu_of;
    j.ld = w->shape.ld;
    j.lo = lo;
    j.hi = hi;
    j.alpha = alpha;
    j.grad = grad;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_dots_part, &j);
}

typedef struct saei_reconstruct_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *values, *W, *base, *y, *relu_of;
    size_t ld, m;
    float alpha, *e, *grad;
    double *losses; /* [rows] */
    float *sums;    /* [workers][3][ld], the first row of each */
    /* dense: */
    saei_dense_matrix matrix; /* W */
    size_t targets;           /* rows of a part */
    uint64_t *marks;          /* [workers][ceil(m / 64)][SAEI_DENSE_TARGETS] */
    float *lanes;             /* [workers][SAEI_DENSE_TARGETS][SAEI_DENSE_ROWS][16] */
} saei_reconstruct_job;

/* Row by row: the decoder rows that the dots want lie in the L2 from the decoding. */
static void saei_reconstruct_part(void *arg, size_t part, size_t worker) {
    saei_reconstruct_job *job = (saei_reconstruct_job *)arg;
    const sae_code *c = job->code;
    size_t ld = job->ld;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t at = r * c->stride, end = at + c->count[r];
        float *e = job->e + r * ld;
        saei_code_row(job->kernels, ld, c->latent, job->values, job->W, at, end, job->base,
                      job->sums + worker * 3 * ld, e);
        job->kernels->axpy(ld, -1, job->y + r * ld, e, e);
        job->losses[r] = job->kernels->dot(ld, e, e);
        job->kernels->dots(ld, e, end - at, c->latent + at, job->W, ld, job->alpha,
                           job->grad + at);
        for (size_t j = at; job->relu_of && j < end; j++)
            if (!(job->relu_of[j] > 0)) job->grad[j] = 0;
    }
}

/* The same for job->targets rows together. */
static void saei_dense_reconstruct_part(void *arg, size_t part, size_t worker) {
    saei_reconstruct_job *job = (saei_reconstruct_job *)arg;
    const saei_kernels *kernels = job->kernels;
    const sae_code *c = job->code;
    size_t ld = job->ld, m = job->m, words = saei_ceil_div(m, SAEI_DENSE_ROWS);
    size_t r0 = part * job->targets, count = saei_min(job->targets, c->rows - r0);
    size_t at[SAEI_DENSE_TARGETS], end[SAEI_DENSE_TARGETS] = { 0 };
    uint64_t *marks = job->marks + worker * SAEI_DENSE_TARGETS * words;
    float *lanes = job->lanes + worker * SAEI_DENSE_TARGETS * SAEI_DENSE_ROWS * 16;
    float *e = job->e + r0 * ld;
    memset(e, 0, count * ld * sizeof *e);
    for (size_t i = 0; i < count; i++) {
        at[i] = (r0 + i) * c->stride;
        end[i] = at[i] + c->count[r0 + i];
        saei_active_bits_row(kernels, c, m, r0 + i, SAEI_DENSE_TARGETS, marks + i);
    }
    for (size_t first = 0; first < m; first += SAEI_DENSE_ROWS)
        saei_dense_add(kernels, &job->matrix, count, at, end,
                       marks + first / SAEI_DENSE_ROWS * SAEI_DENSE_TARGETS, job->values, first,
                       saei_min(SAEI_DENSE_ROWS, m - first), e);
    for (size_t i = 0; i < count; i++) {
        kernels->axpy(ld, 1, e + i * ld, job->base, e + i * ld);
        kernels->axpy(ld, -1, job->y + (r0 + i) * ld, e + i * ld, e + i * ld);
        job->losses[r0 + i] = kernels->dot(ld, e + i * ld, e + i * ld);
        at[i] = (r0 + i) * c->stride;
    }
    saei_dense_dots(kernels, &job->matrix, count, at, marks, e, job->alpha, lanes, job->grad);
    for (size_t i = 0; job->relu_of && i < count; i++)
        for (size_t j = (r0 + i) * c->stride; j < end[i]; j++)
            if (!(job->relu_of[j] > 0)) job->grad[j] = 0;
}

static void saei_cpu_reconstruct(const sae_work *w, const sae_code *code, const float *values,
                                 const float *W, const float *base, const float *y, float alpha,
                                 const float *relu_of, float *e, double *loss, float *grad) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_reconstruct_job j;
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.values = values;
    j.W = W;
    j.base = base;
    j.y = y;
    j.relu_of = relu_of;
    j.ld = w->shape.ld;
    j.m = w->shape.dict_size;
    j.alpha = alpha;
    j.e = e;
    j.grad = grad;
    j.losses = s.doubles;
    j.sums = s.rows;
    j.marks = s.marks;
    j.lanes = s.lanes;
    if (saei_is_dense(w, saei_code_entries(code), code->rows)) {
        j.matrix = saei_dense_pack(w, W, j.m, j.m);
        j.targets = saei_dense_targets(w, code->rows);
        saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, j.targets),
                              saei_dense_reconstruct_part, &j);
    } else saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, 16), saei_reconstruct_part, &j);
    *loss = saei_sum_doubles(j.losses, code->rows) / (double)code->rows;
}

static float saei_jump_l0_slope(double coef, double target, double l0, size_t n, float bandwidth) {
    double slope = coef * 2 * (l0 / target - 1) / target / (double)n;
    return (float)(-slope / (double)bandwidth);
}

typedef struct saei_jump_grad_job {
    const float *theta;
    const sae_code *code;
    float bandwidth, slope; /* slope: of the L0 term */
    double *above;          /* [parts]: how many values of 16 rows lie above their threshold */
} saei_jump_grad_job;

static void saei_jump_grad_part(void *arg, size_t part) {
    saei_jump_grad_job *job = (saei_jump_grad_job *)arg;
    const sae_code *c = job->code;
    float bandwidth = job->bandwidth;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            float theta = job->theta[c->latent[j]], p = c->pre[j], g = c->grad[j], d = 0;
            if (saei_rectangle(p, theta, bandwidth)) d = -(theta / bandwidth) * g;
            if (saei_rectangle(c->value[j], theta, bandwidth)) d += job->slope;
            c->extra[0][j] = d;
            c->grad[j] = p > theta ? g : 0;
        }
}

static void saei_jump_above_part(void *arg, size_t part) {
    saei_jump_grad_job *job = (saei_jump_grad_job *)arg;
    const sae_code *c = job->code;
    size_t above = 0;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            above += c->value[j] > job->theta[c->latent[j]];
    job->above[part] = (double)above;
}

/* The f = 0 of unlisted latents that lie above a negative threshold. listed: [m], to work in. */
static uint64_t saei_jump_unlisted(const float *theta, size_t m, const sae_code *code,
                                   uint32_t *listed) {
    uint64_t above = 0;
    bool negative = false;
    for (size_t i = 0; i < m; i++) negative = negative || theta[i] < 0;
    if (!negative) return 0;
    memset(listed, 0, m * sizeof *listed);
    for (size_t r = 0; r < code->rows; r++)
        for (size_t j = r * code->stride; j < r * code->stride + code->count[r]; j++)
            listed[code->latent[j]]++;
    for (size_t i = 0; i < m; i++)
        if (theta[i] < 0) above += code->rows - listed[i];
    return above;
}

static void saei_cpu_jump_grad(const sae_work *w, const float *theta, float bandwidth, double coef,
                               double target, sae_code *code, double *l0, double *loss) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_jump_grad_job j;
    size_t parts = saei_ceil_div(code->rows, 16);
    uint64_t above = 0;
    j.theta = theta;
    j.code = code;
    j.bandwidth = bandwidth;
    j.above = s.doubles;
    saei_parallel(w->ctx, parts, saei_jump_above_part, &j);
    for (size_t i = 0; i < parts; i++) above += (uint64_t)j.above[i];
    above += saei_jump_unlisted(theta, w->shape.dict_size, code, s.integers);
    *l0 = (double)above / (double)code->rows;
    *loss = coef * (*l0 / target - 1) * (*l0 / target - 1);
    j.slope = saei_jump_l0_slope(coef, target, *l0, code->rows, bandwidth);
    saei_parallel(w->ctx, parts, saei_jump_grad_part, &j);
}

static void saei_cpu_jump_rest(const sae_work *w, const float *theta, float bandwidth, double coef,
                               double target, const double *l0, const sae_index *index, size_t n,
                               float *theta_grad) {
    float slope = saei_jump_l0_slope(coef, target, *l0, n, bandwidth);
    (void)w;
    for (size_t i = 0; i < index->dict_size; i++)
        if (saei_rectangle(0, theta[i], bandwidth)) {
            size_t unlisted = n - (index->begin[i + 1] - index->begin[i]);
            theta_grad[i] += (float)unlisted * slope;
        }
}
