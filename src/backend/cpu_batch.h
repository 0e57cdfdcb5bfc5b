#pragma once
#include "cpu.h"

/* ==== >>cpu: batches ========================================================================== */
/* Of every operation: its job is what its parts share. */

typedef struct saei_load_job {
    sae_dtype dtype;
    const void *rows;
    size_t stride, n, d, ld;
    float divisor, *x;
    uint32_t *bad; /* [parts] */
} saei_load_job;

static void saei_load_part(void *arg, size_t part) {
    saei_load_job *j = (saei_load_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *to = j->x + r * j->ld, worst = 0;
        const float *from = to;
        if (j->dtype == SAE_F32) from = (const float *)j->rows + r * j->stride;
        else
            saei_convert_row(j->dtype, (const unsigned char *)j->rows + 2 * r * j->stride, 2, j->d,
                             to);
        for (size_t c = 0; c < j->d; c++) {
            float v = from[c];
            worst += v - v; /* NaN if v is not finite, else 0 */
            to[c] = j->divisor == 1.0f ? v : v / j->divisor;
        }
        if (worst != 0) j->bad[part] = 1;
    }
}

static void saei_cpu_load_rows(const sae_work *w, const sae_rows *rows, size_t n, float divisor,
                               float *x, uint32_t *bad) {
    saei_load_job j;
    size_t parts = saei_ceil_div(n, 64);
    j.dtype = rows->dtype ? rows->dtype : SAE_F32;
    j.rows = rows->data;
    j.d = w->shape.d;
    j.ld = w->shape.ld;
    j.stride = rows->stride ? rows->stride : j.d;
    j.n = n;
    j.divisor = divisor;
    j.x = x;
    j.bad = saei_cpu_scratch_of(w).integers;
    memset(j.bad, 0, parts * sizeof *j.bad);
    saei_parallel(w->ctx, parts, saei_load_part, &j);
    for (size_t i = 0; i < parts; i++)
        if (j.bad[i]) *bad = 1;
}

typedef struct saei_subtract_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x, *b;
    float *out;
} saei_subtract_job;

static void saei_subtract_part(void *arg, size_t part) {
    saei_subtract_job *j = (saei_subtract_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++)
        j->kernels->axpy(j->ld, -1, j->b, j->x + r * j->ld, j->out + r * j->ld);
}

static void saei_cpu_subtract(const sae_work *w, const float *x, const float *b, size_t n,
                              float *out) {
    saei_subtract_job j;
    j.kernels = w->ctx->kernels;
    j.ld = w->shape.ld;
    j.n = n;
    j.x = x;
    j.b = b;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_subtract_part, &j);
}

typedef struct saei_axpy_job {
    const saei_kernels *kernels;
    size_t count;
    float a;
    const float *x, *y;
    float *out;
} saei_axpy_job;

static void saei_axpy_part(void *arg, size_t part) {
    saei_axpy_job *j = (saei_axpy_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    if (j->y) j->kernels->axpy(n, j->a, j->x + at, j->y + at, j->out + at);
    else
        for (size_t i = at; i < at + n; i++) j->out[i] = j->a * j->x[i];
}

static void saei_cpu_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                          float *out) {
    saei_axpy_job j;
    j.kernels = w->ctx->kernels;
    j.count = count;
    j.a = a;
    j.x = x;
    j.y = y;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_axpy_part, &j);
}
