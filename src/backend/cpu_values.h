#pragma once
#include "../base/math.h"
#include "cpu.h"

/* ==== >>cpu: values of entries ================================================================ */

/* gate and gate_grad */
typedef struct saei_gate_job {
    const saei_kernels *kernels;
    const float *gate_bias, *mag_bias;
    float *exp_r; /* [m] */
    const sae_code *code;
} saei_gate_job;

static saei_gate_job saei_gate_job_of(const sae_work *w, const float *r_mag, const sae_code *code) {
    saei_gate_job j;
    j.kernels = w->ctx->kernels;
    j.gate_bias = j.mag_bias = NULL;
    j.exp_r = saei_cpu_scratch_of(w).latents;
    j.code = code;
    for (size_t i = 0; i < w->shape.dict_size; i++) j.exp_r[i] = (float)saei_exp(r_mag[i]);
    return j;
}

static void saei_gate_part(void *arg, size_t part) {
    saei_gate_job *j = (saei_gate_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        j->kernels->gate(c->count[r], r * c->stride, j->gate_bias, j->exp_r, j->mag_bias, c);
}

static void saei_cpu_gate(const sae_work *w, const float *gate_bias, const float *r_mag,
                          const float *mag_bias, sae_code *code) {
    saei_gate_job j = saei_gate_job_of(w, r_mag, code);
    j.gate_bias = gate_bias;
    j.mag_bias = mag_bias;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_gate_part, &j);
}

static void saei_gate_grad_part(void *arg, size_t part) {
    saei_gate_job *j = (saei_gate_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        j->kernels->gate_grad(c->count[r], r * c->stride, j->exp_r, c);
}

static void saei_cpu_gate_grad(const sae_work *w, const float *r_mag, sae_code *code) {
    saei_gate_job j = saei_gate_job_of(w, r_mag, code);
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_gate_grad_part, &j);
}

typedef struct saei_jump_job {
    const float *theta;
    const sae_code *code;
} saei_jump_job;

static void saei_jump_part(void *arg, size_t part) {
    saei_jump_job *j = (saei_jump_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t at = r * c->stride; at < r * c->stride + c->count[r]; at++)
            c->value[at] = c->pre[at] > j->theta[c->latent[at]] ? c->pre[at] : 0;
}

static void saei_cpu_jump(const sae_work *w, const float *theta, sae_code *code) {
    saei_jump_job j;
    j.theta = theta;
    j.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_jump_part, &j);
}

static void saei_exp_values_part(void *arg, size_t part) {
    const sae_code *c = (const sae_code *)arg;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            c->value[j] = (float)saei_exp((double)c->pre[j]);
}

static void saei_cpu_exp_values(const sae_work *w, sae_code *code) {
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_exp_values_part, code);
}

static void saei_exp_grad_part(void *arg, size_t part) {
    const sae_code *c = (const sae_code *)arg;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            c->grad[j] *= c->value[j];
}

static void saei_cpu_exp_grad(const sae_work *w, sae_code *code) {
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_exp_grad_part, code);
}
