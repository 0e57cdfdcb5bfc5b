#pragma once
#include "cpu_values.h"
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

static void saei_penalty_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    float coef = (float)(t->coef / (double)c->rows);
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++) {
        const uint32_t *latent = c->latent + r * c->stride;
        const float *f = t->x + r * c->stride;
        float *grad = t->out ? t->out + r * c->stride : NULL;
        double sum = 0;
        switch ((sae_penalty)t->kind) {
        case SAE_PENALTY_L1:
            for (size_t j = 0; j < c->count[r]; j++) {
                float weight = t->y ? t->y[latent[j]] : 1;
                sum += (double)weight * (double)f[j];
                if (grad && f[j] > 0) grad[j] += coef * weight;
            }
            break;
        case SAE_PENALTY_LP:
        case SAE_PENALTY_LP_P:
            sum = saei_penalty_lp(t->kernels, f, c->count[r], t->m, t->p,
                                  t->kind == SAE_PENALTY_LP, coef, grad);
            break;
        case SAE_PENALTY_ENTROPY: sum = saei_penalty_entropy(f, c->count[r], coef, grad); break;
        }
        t->s.sums[r] = sum;
    }
}

static void saei_cpu_penalty(const sae_work *w, sae_penalty kind, double p, double coef,
                             const float *weight, const sae_code *code, const float *values,
                             float *grad, double *loss) {
    saei_task t = saei_task_of(w);
    t.kind = (int)kind;
    t.p = p;
    t.coef = coef;
    t.y = weight;
    t.code = code;
    t.x = values;
    t.out = grad;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_penalty_part, &t);
    *loss = saei_sum_doubles(t.s.sums, code->rows) / (double)code->rows;
}

static void saei_dots_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t begin, end = saei_code_range(c, r, t->lo, t->hi, &begin), at = r * c->stride + begin;
        t->kernels->dots(t->ld, t->x + r * t->ld, end - begin, c->latent + at, t->y, t->ld, t->a,
                         t->out + at);
        for (size_t j = at; t->z && j < at + (end - begin); j++)
            if (!(t->z[j] > 0)) t->out[j] = 0;
    }
}

static void saei_cpu_dots(const sae_work *w, const sae_code *code, const float *e, const float *W,
                          size_t lo, size_t hi, float alpha, const float *relu_of, float *grad) {
    saei_task t = saei_task_of(w);
    t.code = code;
    t.x = e;
    t.y = W;
    t.lo = lo;
    t.hi = hi;
    t.a = alpha;
    t.z = relu_of;
    t.out = grad;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_dots_part, &t);
}

/* Row by row: the decoder rows that the dots want lie in the L2 from the decoding. */
static void saei_reconstruct_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t at = r * c->stride, end = at + c->count[r];
        float *e = t->outs[0] + r * t->ld, *grad = t->outs[1];
        saei_code_row(t, t->values[0], t->x, at, end, t->y, worker, e);
        t->kernels->axpy(t->ld, -1, t->z + r * t->ld, e, e);
        t->s.sums[r] = t->kernels->dot(t->ld, e, e);
        t->kernels->dots(t->ld, e, end - at, c->latent + at, t->x, t->ld, t->a, grad + at);
        for (size_t j = at; t->values[1] && j < end; j++)
            if (!(t->values[1][j] > 0)) grad[j] = 0;
    }
}

/* The same for t->stride rows together. */
static void saei_dense_reconstruct_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    size_t r0 = part * t->stride, count = saei_min(t->stride, c->rows - r0);
    size_t at[SAEI_DENSE_TARGETS], end[SAEI_DENSE_TARGETS] = { 0 }, m = t->w->shape.dict_size;
    float *e = t->outs[0] + r0 * t->ld, *grad = t->outs[1];
    size_t words = SAEI_DENSE_TARGETS * saei_ceil_div(m, SAEI_DENSE_ROWS);
    uint64_t *marks = t->s.marks + worker * words;
    memset(e, 0, count * t->ld * sizeof *e);
    for (size_t i = 0; i < count; i++) {
        at[i] = (r0 + i) * c->stride;
        end[i] = at[i] + c->count[r0 + i];
        saei_fires_row(t, r0 + i, SAEI_DENSE_TARGETS, marks + i);
    }
    for (size_t first = 0; first < m; first += SAEI_DENSE_ROWS)
        saei_dense_add(t, count, at, end, marks + first / SAEI_DENSE_ROWS * SAEI_DENSE_TARGETS,
                       t->values[0], first, saei_min(SAEI_DENSE_ROWS, m - first), e);
    for (size_t i = 0; i < count; i++) {
        t->kernels->axpy(t->ld, 1, e + i * t->ld, t->y, e + i * t->ld);
        t->kernels->axpy(t->ld, -1, t->z + (r0 + i) * t->ld, e + i * t->ld, e + i * t->ld);
        t->s.sums[r0 + i] = t->kernels->dot(t->ld, e + i * t->ld, e + i * t->ld);
        at[i] = (r0 + i) * c->stride;
    }
    saei_dense_dots(t, count, at, marks, e, m, t->a, worker, grad);
    for (size_t i = 0; t->values[1] && i < count; i++)
        for (size_t j = (r0 + i) * c->stride; j < end[i]; j++)
            if (!(t->values[1][j] > 0)) grad[j] = 0;
}

static void saei_cpu_reconstruct(const sae_work *w, const sae_code *code, const float *values,
                                 const float *W, const float *base, const float *y, float alpha,
                                 const float *relu_of, float *e, double *loss, float *grad) {
    saei_task t = saei_task_of(w);
    const float *in[2];
    float *out[2];
    in[0] = values;
    in[1] = relu_of;
    out[0] = e;
    out[1] = grad;
    t.code = code;
    t.values = in;
    t.outs = out;
    t.x = W;
    t.y = base;
    t.z = y;
    t.a = alpha;
    if (saei_is_dense(&t, saei_code_entries(code), code->rows)) {
        saei_dense_pack(&t, W, t.m, t.m);
        t.stride = saei_dense_targets(&t, code->rows);
        saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, t.stride),
                              saei_dense_reconstruct_part, &t);
    } else saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, 16), saei_reconstruct_part, &t);
    *loss = saei_sum_doubles(t.s.sums, code->rows) / (double)code->rows;
}

static void saei_gate_grad_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        t->kernels->gate_grad(c->count[r], r * c->stride, t->s.latents, c);
}

static void saei_cpu_gate_grad(const sae_work *w, const float *r_mag, sae_code *code) {
    saei_task t = saei_task_of(w);
    saei_exp_latents(&t, r_mag);
    t.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_gate_grad_part, &t);
}

/* The rectangle of the straight-through estimator: 1 where |(x - theta) / bandwidth| < 1/2. */
static bool saei_rectangle(float x, float theta, float bandwidth) {
    float z = (x - theta) / bandwidth;
    return z > -0.5f && z < 0.5f;
}

static float saei_jump_l0_slope(double coef, double target, double l0, size_t n, float bandwidth) {
    double slope = coef * 2 * (l0 / target - 1) / target / (double)n;
    return (float)(-slope / (double)bandwidth);
}

static void saei_jump_grad_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    float slope = (float)t->p, bandwidth = t->a;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            float theta = t->x[c->latent[j]], p = c->pre[j], g = c->grad[j], d = 0;
            if (saei_rectangle(p, theta, bandwidth)) d = -(theta / bandwidth) * g;
            if (saei_rectangle(c->value[j], theta, bandwidth)) d += slope;
            c->extra[0][j] = d;
            c->grad[j] = p > theta ? g : 0;
        }
}

/* t->s.sums[part]: how many of 16 rows' values lie above their threshold. */
static void saei_jump_above_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    size_t above = 0;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            above += c->value[j] > t->x[c->latent[j]];
    t->s.sums[part] = (double)above;
}

static void saei_cpu_jump_grad(const sae_work *w, const float *theta, float bandwidth, double coef,
                               double target, sae_code *code, double *l0, double *loss) {
    saei_task t = saei_task_of(w);
    size_t parts = saei_ceil_div(code->rows, 16);
    uint64_t above = 0;
    bool negative = false;
    t.x = theta;
    t.a = bandwidth;
    t.code = code;
    saei_parallel(w->ctx, parts, saei_jump_above_part, &t);
    for (size_t i = 0; i < parts; i++) above += (uint64_t)t.s.sums[i];
    for (size_t i = 0; i < t.m; i++) negative = negative || theta[i] < 0;
    if (negative) memset(t.s.counts, 0, t.m * sizeof *t.s.counts);
    for (size_t r = 0; negative && r < code->rows; r++)
        for (size_t j = r * code->stride; j < r * code->stride + code->count[r]; j++)
            t.s.counts[code->latent[j]]++;
    /* f = 0 of an unlisted latent lies above a negative threshold */
    for (size_t i = 0; negative && i < t.m; i++)
        if (theta[i] < 0) above += code->rows - t.s.counts[i];
    *l0 = (double)above / (double)code->rows;
    *loss = coef * (*l0 / target - 1) * (*l0 / target - 1);
    t.p = (double)saei_jump_l0_slope(coef, target, *l0, code->rows, bandwidth);
    saei_parallel(w->ctx, parts, saei_jump_grad_part, &t);
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
