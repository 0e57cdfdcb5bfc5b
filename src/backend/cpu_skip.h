#pragma once
#include "cpu.h"

/* ==== >>cpu: the skip connection ============================================================== */

enum { SAEI_SKIP_LIST = 65536 }; /* numbers in the scratch memory's integers, at least */

typedef struct saei_skip_job {
    const saei_kernels *kernels;
    size_t n, ld, ld_out, outputs;
    const float *x, *W, *y, *e;
    uint32_t *list; /* 0, 1, ... */
    float alpha;
    float *rows;    /* [workers][3][ld] */
    float *out;
} saei_skip_job;

static saei_skip_job saei_skip_job_of(const sae_work *w, size_t n, size_t outputs, size_t list) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_skip_job j;
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.ld_out = saei_align16(outputs);
    j.outputs = outputs;
    j.list = s.integers;
    j.rows = s.rows;
    for (size_t i = 0; i < saei_min(list, SAEI_SKIP_LIST); i++) j.list[i] = (uint32_t)i;
    return j;
}

static void saei_skip_part(void *arg, size_t part) {
    saei_skip_job *j = (saei_skip_job *)arg;
    for (size_t r = part * 16, end = saei_part_end(part, 16, j->n); r < end; r++) {
        float *out = j->out + r * j->ld_out;
        memset(out, 0, j->ld_out * sizeof *out);
        for (size_t o = 0; o < j->outputs; o += SAEI_SKIP_LIST)
            j->kernels->dots(j->ld, j->x + r * j->ld, saei_min(SAEI_SKIP_LIST, j->outputs - o),
                             j->list, j->W + o * j->ld, j->ld, -1, out + o);
        j->kernels->axpy(j->ld_out, 1, j->y + r * j->ld_out, out, out);
    }
}

static void saei_cpu_skip(const sae_work *w, const float *x, size_t n, const float *W,
                          size_t outputs, const float *y, float *out) {
    saei_skip_job j = saei_skip_job_of(w, n, outputs, outputs);
    j.x = x;
    j.W = W;
    j.y = y;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(n, 16), saei_skip_part, &j);
}

/* Rows o of the gradient: the rows order. */
static void saei_skip_grad_part(void *arg, size_t part, size_t worker) {
    saei_skip_job *j = (saei_skip_job *)arg;
    float *sum = j->rows + worker * 3 * j->ld, *block = sum + j->ld, value[SAE_ROW_BLOCK];
    for (size_t o = part * 16, end = saei_part_end(part, 16, j->outputs); o < end; o++) {
        memset(sum, 0, j->ld * sizeof *sum);
        for (size_t r0 = 0; r0 < j->n; r0 += SAE_ROW_BLOCK) {
            size_t rows = saei_min(SAE_ROW_BLOCK, j->n - r0);
            for (size_t r = 0; r < rows; r++) value[r] = j->e[(r0 + r) * j->ld_out + o];
            memset(block, 0, j->ld * sizeof *block);
            j->kernels->add_rows(j->ld, rows, j->list, value, j->x + r0 * j->ld, j->ld, block);
            j->kernels->axpy(j->ld, 1, block, sum, sum);
        }
        j->kernels->scale(j->ld, j->alpha, sum, j->out + o * j->ld);
    }
}

static void saei_cpu_skip_grad(const sae_work *w, const float *x, const float *e, size_t n,
                               size_t outputs, float alpha, float *out) {
    saei_skip_job j = saei_skip_job_of(w, n, outputs, SAE_ROW_BLOCK);
    j.x = x;
    j.e = e;
    j.alpha = alpha;
    j.out = out;
    saei_parallel_workers(w->ctx, saei_ceil_div(outputs, 16), saei_skip_grad_part, &j);
}

/* ==== >>cpu: signum =========================================================================== */

enum { SAEI_SIGNUM_PIECE = 512 };

typedef struct saei_signum_job {
    const saei_kernels *kernels;
    float lr, weight, beta;
    size_t count;
    const float *grad;
    float *z, *average, *param;
} saei_signum_job;

static void saei_signum_part(void *arg, size_t part) {
    saei_signum_job *j = (saei_signum_job *)arg;
    float apart[SAEI_SIGNUM_PIECE];
    size_t end = saei_part_end(part, SAEI_CHUNK, j->count), n;
    for (size_t at = part * SAEI_CHUNK; at < end; at += n) {
        float *z = j->z + at, *average = j->average + at;
        const float *grad = j->grad + at;
        n = saei_min(SAEI_SIGNUM_PIECE, end - at);
        for (size_t i = 0; i < n; i++) z[i] -= grad[i] > 0 ? j->lr : grad[i] < 0 ? -j->lr : 0;
        j->kernels->axpy(n, -1, average, z, apart);
        j->kernels->axpy(n, j->weight, apart, average, average);
        j->kernels->axpy(n, -1, average, z, apart);
        j->kernels->axpy(n, j->beta, apart, average, j->param + at);
    }
}

static void saei_cpu_signum(const sae_work *w, float lr, float weight, float beta,
                            const float *grad, float *z, float *average, float *param,
                            size_t count) {
    saei_signum_job j;
    j.kernels = w->ctx->kernels;
    j.lr = lr;
    j.weight = weight;
    j.beta = beta;
    j.count = count;
    j.grad = grad;
    j.z = z;
    j.average = average;
    j.param = param;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_signum_part, &j);
}
