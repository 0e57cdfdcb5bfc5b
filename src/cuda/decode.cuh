#pragma once
#include "dense.cuh"

/* ==== >>cuda: decode ========================================================================== */

/* Columns c..c+3 of sum_j value[j] W[latent[j]], ascending j, for the threads of a warp: it reads
   32 entries at a time, one per lane, and passes them round by shuffles, for which threads with
   c >= ld are needed too. */
__device__ static inline float4 saei_device_row_sum(const uint32_t *latent, const float *value,
                                                    uint32_t count, const float *W, size_t ld,
                                                    size_t c) {
    const uint32_t lane = saei_device_lane();
    float4 sum = make_float4(0, 0, 0, 0);
    const float *column = W + (c < ld ? c : 0);
    for (uint32_t base = 0; base < count; base += 32) {
        uint32_t l = 0, here = count - base < 32 ? count - base : 32;
        float v = 0;
        if (lane < here) {
            l = latent[base + lane];
            v = value[base + lane];
        }
        SAEI_UNROLL(8)
        for (uint32_t j = 0; j < here; j++) {
            uint32_t i = __shfl_sync(SAEI_FULL, l, (int)j);
            float a = __shfl_sync(SAEI_FULL, v, (int)j);
            sum = saei_device_axpy4(a, saei_device_float4(column + (size_t)i * ld), sum);
        }
    }
    return sum;
}

/* A block per row of out. */
__global__ static void saei_decode_kernel(const uint32_t *count, const uint32_t *latent,
                                          const float *values, size_t stride, const float *W,
                                          size_t ld, size_t lo, size_t hi, const float *base,
                                          size_t base_stride, float *out) {
    size_t r = blockIdx.x;
    uint32_t begin, end;
    latent += r * stride;
    values += r * stride;
    begin = lo ? saei_device_lower(latent, count[r], lo) : 0;
    end = saei_device_lower(latent, count[r], hi);
    if (end < begin) end = begin;
    for (size_t c = 4 * threadIdx.x; c - 4 * saei_device_lane() < ld; c += 4 * blockDim.x) {
        float4 sum = saei_device_row_sum(latent + begin, values + begin, end - begin, W, ld, c);
        if (c >= ld) continue;
        if (base)
            sum = saei_device_axpy4(1, sum, saei_device_float4(base + r * base_stride + c));
        saei_device_put4(out + r * ld + c, sum);
    }
}

/* Threads of a block that makes a row of ld floats, four per thread. */
static unsigned saei_cuda_row_threads(size_t ld) {
    return (unsigned)(saei_min(saei_ceil_div(ld / 4, 32), 8) * 32);
}

static void saei_cuda_decode(const sae_work *w, const sae_code *code, const float *values,
                             const float *W, size_t lo, size_t hi, const float *base,
                             size_t base_stride, float *out) {
    if (saei_cuda_is_dense(w, code->stride)) {
        saei_cuda_lists lists = { NULL, code->count, code->stride, code->latent, values };
        saei_cuda_dense_sums(w, &lists, 0, code->rows, lo, hi, UINT32_MAX, W, 1, base, base_stride,
                             out);
        return;
    }
    saei_cuda_launch(w, saei_decode_kernel, code->rows, saei_cuda_row_threads(w->shape.ld),
                     code->count, code->latent, values, code->stride, W, w->shape.ld, lo, hi, base,
                     base_stride, out);
}

/* sums[r] = sum e^2, e = x_hat - y. Without x_hat: e to norm 1, sums[r] its norm. A quad per row.
   */
__global__ static void saei_residual_kernel(const float *x_hat, const float *y, size_t n, size_t ld,
                                            float *e, double *sums) {
    size_t r = saei_device_grid_thread() >> 2, at = (r < n ? r : 0) * ld, first, end;
    float4 s = make_float4(0, 0, 0, 0);
    double sum;
    first = 4 * (threadIdx.x & 3u);
    end = r < n ? ld : 0;
    for (size_t c = at + first; c < at + end; c += 16) {
        float4 v;
        if (x_hat) {
            v = saei_device_axpy4(-1, saei_device_float4(y + c), saei_device_float4(x_hat + c));
            saei_device_put4(e + c, v);
        } else v = saei_device_float4(e + c);
        s = saei_device_fma4(v, v, s);
    }
    sum = saei_device_quad_sum(s);
    if (!x_hat) sum = __dsqrt_rn(sum);
    if (r < n && first == 0) sums[r] = sum;
    if (x_hat || !(sum > 0)) return;
    for (size_t c = at + first; c < at + end; c += 16) {
        float4 v = saei_device_float4(e + c);
        float norm = (float)sum;
        saei_device_put4(e + c, make_float4(__fdiv_rn(v.x, norm), __fdiv_rn(v.y, norm),
                                            __fdiv_rn(v.z, norm), __fdiv_rn(v.w, norm)));
    }
}

static void saei_cuda_residual(const sae_work *w, const float *x_hat, const float *y, size_t n,
                               float *e, double *loss) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    saei_cuda_launch(w, saei_residual_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, x_hat, y, n, w->shape.ld, e, sums);
    saei_cuda_mean(w, sums, n, (double)n, loss);
}

static void saei_cuda_unit_rows(const sae_work *w, size_t n, float *e, double *loss) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    saei_cuda_launch(w, saei_residual_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, (const float *)NULL, (const float *)NULL, n, w->shape.ld, e,
                     sums);
    saei_cuda_mean(w, sums, n, (double)n, loss);
}
