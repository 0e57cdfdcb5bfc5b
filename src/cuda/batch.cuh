#pragma once
#include "scratch.cuh"
#include "device.cuh"

/* ==== >>cuda: batch =========================================================================== */

/* Four columns per thread. kind: 0 float, 1 half, 2 bfloat16. */
__global__ static void saei_load_rows_kernel(const void *rows, int kind, size_t stride, size_t n,
                                             size_t d, size_t ld, float divisor, float *x,
                                             uint32_t *bad) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x, r = at / (ld / 4), c = at % (ld / 4);
    float v[4] = { 0, 0, 0, 0 };
    bool worst = false;
    if (r >= n) return;
    for (size_t i = 0; i < 4 && 4 * c + i < d; i++) {
        size_t from = r * stride + 4 * c + i;
        uint32_t bits;
        if (kind == 0) v[i] = ((const float *)rows)[from];
        else if (kind == 1) v[i] = __half2float(((const __half *)rows)[from]);
        else v[i] = __uint_as_float((uint32_t)((const unsigned short *)rows)[from] << 16);
        bits = __float_as_uint(v[i]);
        worst = worst || (bits & 0x7F800000u) == 0x7F800000u;
        if (divisor != 1.0f) v[i] = __fdiv_rn(v[i], divisor);
    }
    saei_device_put4(x + r * ld + 4 * c, make_float4(v[0], v[1], v[2], v[3]));
    if (worst) atomicExch(bad, 1u);
}

static void saei_cuda_load_rows(const sae_work *w, const sae_rows *rows, size_t n, float divisor,
                                float *x, uint32_t *bad) {
    saei_cuda *s = saei_cuda_enter(w);
    int kind = rows->dtype == SAE_F16 ? 1 : rows->dtype == SAE_BF16 ? 2 : 0;
    size_t d = w->shape.d, ld = w->shape.ld, size = kind ? 2 : 4, turn = s->staging_turn;
    size_t stride = rows->stride ? rows->stride : d;
    const void *from = rows->data;
    if (s->result != SAE_OK) return;
    if (!rows->on_device) {
        void *to = saei_cuda_staging_of(w).rows[turn];
        if (s->staging_turns >= 2)
            SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->copy, s->freed[turn], 0));
        SAEI_CUDA_OK(s, cudaMemcpy2DAsync(to, d * size, from, stride * size, d * size, n,
                                          cudaMemcpyHostToDevice, s->copy));
        SAEI_CUDA_OK(s, cudaEventRecord(s->staged, s->copy));
        SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->stream, s->staged, 0));
        from = to;
        stride = d;
    }
    saei_cuda_launch(w, saei_load_rows_kernel, saei_ceil_div(n * (ld / 4), SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, from, kind, stride, n, d, ld, divisor, x, bad);
    if (rows->on_device || s->result != SAE_OK) return;
    SAEI_CUDA_OK(s, cudaEventRecord(s->freed[turn], s->stream));
    s->staging_turn ^= 1;
    s->staging_turns += s->staging_turns < 2;
    SAEI_CUDA_OK(s, cudaEventSynchronize(s->staged)); /* the copy: the rows are free again */
}

/* out = a x + y; y NULL: a x. Four floats per thread, the last ones singly. */
__global__ static void saei_axpy_kernel(size_t count, float a, const float *x, const float *y,
                                        float *out) {
    size_t at = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (at + 4 <= count) {
        float4 v = saei_device_float4(x + at), r;
        if (y) r = saei_device_axpy4(a, v, saei_device_float4(y + at));
        else
            r = make_float4(__fmul_rn(a, v.x), __fmul_rn(a, v.y), __fmul_rn(a, v.z),
                            __fmul_rn(a, v.w));
        saei_device_put4(out + at, r);
    } else
        for (; at < count; at++) out[at] = y ? __fmaf_rn(a, x[at], y[at]) : __fmul_rn(a, x[at]);
}

/* x - b for a row b: fma(-1, b, x). */
__global__ static void saei_subtract_kernel(size_t count, size_t ld, const float *x, const float *b,
                                            float *out) {
    size_t at = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (at < count)
        saei_device_put4(out + at, saei_device_axpy4(-1, saei_device_float4(b + at % ld),
                                                     saei_device_float4(x + at)));
}

static void saei_cuda_subtract(const sae_work *w, const float *x, const float *b, size_t n,
                               float *out) {
    size_t count = n * w->shape.ld;
    saei_cuda_launch(w, saei_subtract_kernel, saei_ceil_div(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, count, w->shape.ld, x, b, out);
}

static void saei_cuda_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                           float *out) {
    saei_cuda_launch(w, saei_axpy_kernel, saei_ceil_div(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, count, a, x, y, out);
}
