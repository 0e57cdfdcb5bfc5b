#pragma once
#include "decode.cuh"
#include "penalties.cuh"

/* ==== >>cuda: reconstruct ===================================================================== */

/* decode, residual and dots, a block per row: e stays in shared memory for the dots, and W's rows
   come from the L1 or L2 when they are read again. Estimate: n k d 4 bytes twice at 5.5 TB/s. */
__global__ static void saei_reconstruct_kernel(const uint32_t *counts, const uint32_t *latent,
                                               const float *values, size_t stride, const float *W,
                                               size_t ld, const float *base, const float *y,
                                               float alpha, const float *relu_of, float *e,
                                               double *sums, float *grad) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    float *row = (float *)saei_shared;
    size_t r = blockIdx.x, at = r * stride;
    uint32_t count = counts[r], quads = blockDim.x >> 2;
    double sum;
    for (size_t c = 4 * threadIdx.x; c - 4 * saei_device_lane() < ld; c += 4 * blockDim.x) {
        float4 v = saei_device_row_sum(latent + at, values + at, count, W, ld, c);
        if (c >= ld) continue;
        v = saei_device_axpy4(1, v, saei_device_float4(base + c));
        v = saei_device_axpy4(-1, saei_device_float4(y + r * ld + c), v);
        saei_device_put4(e + r * ld + c, v);
        saei_device_put4(row + c, v);
    }
    __syncthreads();
    if (saei_device_warp() == 0) {
        sum = saei_device_dot(row, row, ld);
        if (threadIdx.x == 0) sums[r] = sum;
    }
    for (uint32_t first = 0; first < count; first += quads) {
        uint32_t j = first + (threadIdx.x >> 2);
        bool in = j < count;
        if (first + (threadIdx.x & ~31u) / 4 >= count) break; /* the whole warp */
        sum = saei_device_dot(row, W + (size_t)latent[at + (in ? j : first)] * ld, ld);
        if (in && (threadIdx.x & 3) == 0) {
            float g = (float)__dmul_rn((double)alpha, sum);
            grad[at + j] = relu_of && !(relu_of[at + j] > 0) ? 0 : g;
        }
    }
}

static void saei_cuda_reconstruct(const sae_work *w, const sae_code *code, const float *values,
                                  const float *W, const float *base, const float *y, float alpha,
                                  const float *relu_of, float *e, double *loss, float *grad) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    size_t ld = w->shape.ld, shared = ld * sizeof(float);
    saei_cuda *s = saei_cuda_of(w);
    /* or rows of more than 50,000 floats */
    if (saei_cuda_is_dense(w, code->stride) || shared > s->shared_most) {
        saei_cuda_decode(w, code, values, W, 0, w->shape.dict_size, base, 0, e);
        saei_cuda_residual(w, e, y, code->rows, e, loss);
        saei_cuda_dots(w, code, e, W, 0, w->shape.dict_size, alpha, relu_of, grad);
        return;
    }
    if (shared > 48 * 1024)
        SAEI_CUDA_OK(s, cudaFuncSetAttribute(saei_reconstruct_kernel,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)shared));
    saei_cuda_launch_shared(w, saei_reconstruct_kernel, code->rows, saei_cuda_row_threads(ld),
                            shared, code->count, code->latent, values, code->stride, W, ld, base, y,
                            alpha, relu_of, e, sums, grad);
    saei_cuda_mean(w, sums, code->rows, (double)code->rows, loss);
}
