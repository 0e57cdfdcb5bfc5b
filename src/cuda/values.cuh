#pragma once
#include "scalars.cuh"

/* ==== >>cuda: values of entries =============================================================== */
/* A block per row of the code. */

__global__ static void saei_exp_latents_kernel(const float *r_mag, size_t m, float *out) {
    size_t i = saei_device_grid_thread();
    if (i < m) out[i] = (float)saei_exp((double)r_mag[i]);
}

__global__ static void saei_gate_kernel(const float *gate_bias, const float *exp_r,
                                        const float *mag_bias, const uint32_t *count,
                                        const uint32_t *latent, const float *pre, size_t stride,
                                        float *gate, float *value) {
    size_t at = blockIdx.x * stride;
    for (size_t j = at + threadIdx.x; j < at + count[blockIdx.x]; j += blockDim.x) {
        uint32_t i = latent[j];
        float u = pre[j], v = __fadd_rn(__fmul_rn(exp_r[i], u), mag_bias[i]);
        gate[j] = __fadd_rn(u, gate_bias[i]);
        value[j] = v > 0 ? v : 0;
    }
}

static void saei_cuda_gate(const sae_work *w, const float *gate_bias, const float *r_mag,
                           const float *mag_bias, sae_code *code) {
    size_t m = w->shape.dict_size;
    float *exp_r = saei_cuda_gate_scratch_of(w).exp_r;
    saei_cuda_launch(w, saei_exp_latents_kernel, saei_ceil_div(m, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, r_mag, m, exp_r);
    saei_cuda_launch(w, saei_gate_kernel, code->rows, SAEI_CUDA_THREADS, gate_bias, exp_r, mag_bias,
                     code->count, code->latent, code->pre, code->stride, code->gate, code->value);
}

__global__ static void saei_jump_kernel(const float *theta, const uint32_t *count,
                                        const uint32_t *latent, const float *pre, size_t stride,
                                        float *value) {
    size_t at = blockIdx.x * stride;
    for (size_t j = at + threadIdx.x; j < at + count[blockIdx.x]; j += blockDim.x) {
        float p = pre[j];
        value[j] = p > theta[latent[j]] ? p : 0;
    }
}

static void saei_cuda_jump(const sae_work *w, const float *theta, sae_code *code) {
    saei_cuda_launch(w, saei_jump_kernel, code->rows, SAEI_CUDA_THREADS, theta, code->count,
                     code->latent, code->pre, code->stride, code->value);
}

/* value = exp(pre), or grad *= value where grad is given. */
__global__ static void saei_exp_kernel(const uint32_t *count, const float *pre, size_t stride,
                                       float *value, float *grad) {
    size_t at = blockIdx.x * stride;
    for (size_t j = at + threadIdx.x; j < at + count[blockIdx.x]; j += blockDim.x) {
        if (grad) grad[j] = __fmul_rn(grad[j], value[j]);
        else value[j] = (float)saei_exp((double)pre[j]);
    }
}

static void saei_cuda_exp_values(const sae_work *w, sae_code *code) {
    saei_cuda_launch(w, saei_exp_kernel, code->rows, SAEI_CUDA_THREADS, code->count, code->pre,
                     code->stride, code->value, (float *)NULL);
}

static void saei_cuda_exp_grad(const sae_work *w, sae_code *code) {
    saei_cuda_launch(w, saei_exp_kernel, code->rows, SAEI_CUDA_THREADS, code->count, code->pre,
                     code->stride, code->value, code->grad);
}
