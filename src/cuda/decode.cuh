#pragma once
#include "dense.cuh"

/* ==== >>cuda: decode ========================================================================== */

/* Columns c..c+3 of sum_j value[j] W[latent[j]], ascending j, for the threads of a warp: it reads
   32 entries at a time and hands them round. Threads with c >= ld go along. */
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

/* A block makes a row of out. */
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

/* Threads of a block that makes a row of ld floats, four a thread. */
static unsigned saei_cuda_row_threads(size_t ld) {
    return (unsigned)(saei_cuda_min(saei_cuda_ceil(ld / 4, 32), 8) * 32);
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

/* sums[r] = sum e^2, e = x_hat - y. Without x_hat: e to norm 1, sums[r] its norm. A quad a row. */
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
    double *sums = saei_cuda_scratch_of(w).sums;
    saei_cuda_launch(w, saei_residual_kernel, saei_cuda_ceil(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, x_hat, y, n, w->shape.ld, e, sums);
    saei_cuda_mean(w, sums, n, (double)n, loss);
}

static void saei_cuda_unit_rows(const sae_work *w, size_t n, float *e, double *loss) {
    double *sums = saei_cuda_scratch_of(w).sums;
    saei_cuda_launch(w, saei_residual_kernel, saei_cuda_ceil(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, (const float *)NULL, (const float *)NULL, n, w->shape.ld, e,
                     sums);
    saei_cuda_mean(w, sums, n, (double)n, loss);
}

/* -- decode, residual and dots in one -- */

static void saei_cuda_dots(const sae_work *w, const sae_code *code, const float *e, const float *W,
                           size_t lo, size_t hi, float alpha, const float *relu_of, float *grad);

/* decode, residual and dots of a row by a block: e stays in shared memory for the dots, and the
   rows of W come the second time from the L1 or L2. Estimate: n k d 4 bytes twice at 5.5 TB/s. */
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
    double *sums = saei_cuda_scratch_of(w).sums;
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

/* -- auxk -- */

static void saei_cuda_scatter(const sae_work *w, const float *x, size_t n, double divisor,
                              double *out);

/* r = x_aux + e, sums[row] = sum r^2. A quad a row. */
__global__ static void saei_auxk_rows_kernel(const float *x_aux, const float *e, size_t n,
                                             size_t ld, const uint32_t *list_count, float *r,
                                             double *sums) {
    size_t row = saei_device_grid_thread() >> 2, at = (row < n ? row : 0) * ld;
    float4 s = make_float4(0, 0, 0, 0);
    double sum;
    if (!*list_count) return;
    for (size_t c = at + 4 * (threadIdx.x & 3u); row < n && c < at + ld; c += 16) {
        float4 v = saei_device_axpy4(1, saei_device_float4(x_aux + c), saei_device_float4(e + c));
        saei_device_put4(r + c, v);
        s = saei_device_fma4(v, v, s);
    }
    sum = saei_device_quad_sum(s);
    if (row < n && (threadIdx.x & 3) == 0) sums[row] = sum;
}

__global__ static void saei_auxk_scale_kernel(size_t n, size_t ld, const uint32_t *list_count,
                                              double alpha, const double *denominator, float *r,
                                              double *pre_norm, double *norm) {
    size_t at = 4 * saei_device_grid_thread();
    double ratio, scale;
    float s = 0;
    bool dead = *list_count != 0;
    if (dead) {
        ratio = __ddiv_rn(*pre_norm, *denominator);
        scale = __ddiv_rn(__dmul_rn(2, alpha), __dmul_rn((double)n, *denominator));
        if (!(fabs(ratio) <= DBL_MAX) || !(fabs(scale) <= (double)FLT_MAX)) ratio = scale = 0;
        s = (float)scale;
        if (at == 0) *norm = ratio;
    } else if (at == 0) {
        *pre_norm = -1;
        *norm = 0;
    }
    if (at < n * ld) {
        float4 v = make_float4(0, 0, 0, 0);
        if (dead) v = saei_device_float4(r + at);
        saei_device_put4(r + at, dead ? make_float4(__fmul_rn(s, v.x), __fmul_rn(s, v.y),
                                                    __fmul_rn(s, v.z), __fmul_rn(s, v.w))
                                      : v);
    }
}

static void saei_cuda_auxk_residual(const sae_work *w, const float *x_aux, const float *e, size_t n,
                                    const uint32_t *list_count, double alpha, float *r,
                                    double *pre_norm, double *norm) {
    size_t ld = w->shape.ld;
    double *denominator = saei_cuda_numbers(w), *sums = saei_cuda_scratch_of(w).sums;
    saei_cuda_scatter(w, e, n, (double)n, denominator);
    saei_cuda_launch(w, saei_auxk_rows_kernel, saei_cuda_ceil(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, x_aux, e, n, ld, list_count, r, sums);
    saei_cuda_mean(w, sums, n, (double)n, pre_norm);
    saei_cuda_launch(w, saei_auxk_scale_kernel, saei_cuda_ceil(n * ld, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, n, ld, list_count, alpha, denominator, r, pre_norm, norm);
}

/* -- ghosts -- */

/* First without out: the rows' norms of e and r to e_norm and r_norm. Then with the means of both
   known, out. A quad a row. */
__global__ static void saei_ghost_kernel(const float *x_g, const float *e, size_t n, size_t ld,
                                         const uint32_t *list_count, const double *means,
                                         double *e_norm, double *r_norm, float *out,
                                         double *loss) {
    size_t row = saei_device_grid_thread() >> 2, at = (row < n ? row : 0) * ld;
    size_t first = at + 4 * (threadIdx.x & 3u), end = row < n ? at + ld : at;
    float4 none = make_float4(0, 0, 0, 0), sum = none;
    double size_e, size_g, size_r, c = 0;
    float s, q;
    if (out && saei_device_grid_thread() == 0)
        *loss = *list_count ? __dmul_rn(means[1], __ddiv_rn(means[0], __dadd_rn(means[1], 1e-8)))
                            : 0;
    if (!*list_count) {
        for (size_t i = first; out && i < end; i += 16) saei_device_put4(out + i, none);
        return;
    }
    size_e = __dsqrt_rn(saei_device_dot(e + at, e + at, end - at));
    size_g = __dsqrt_rn(saei_device_dot(x_g + at, x_g + at, end - at));
    s = (float)__ddiv_rn(size_e, __dadd_rn(__dmul_rn(2, size_g), 1e-8));
    for (size_t i = first; i < end; i += 16) {
        float4 v = saei_device_float4(e + i), r;
        r = saei_device_axpy4(-s, saei_device_float4(x_g + i),
                              make_float4(-v.x, -v.y, -v.z, -v.w));
        sum = saei_device_fma4(r, r, sum);
    }
    size_r = __dsqrt_rn(saei_device_quad_sum(sum));
    if (!out) {
        if (row < n && first == at) {
            e_norm[row] = size_e;
            r_norm[row] = size_r;
        }
        return;
    }
    c = __ddiv_rn(means[0], __dadd_rn(means[1], 1e-8));
    q = 0;
    if (size_r > 0)
        q = (float)__ddiv_rn(__dmul_rn(-(double)s, c), __dmul_rn((double)n, size_r));
    for (size_t i = first; i < end; i += 16) {
        float4 v = saei_device_float4(e + i), r;
        r = saei_device_axpy4(-s, saei_device_float4(x_g + i),
                              make_float4(-v.x, -v.y, -v.z, -v.w));
        saei_device_put4(out + i, make_float4(__fmul_rn(q, r.x), __fmul_rn(q, r.y),
                                              __fmul_rn(q, r.z), __fmul_rn(q, r.w)));
    }
}

static void saei_cuda_ghost_residual(const sae_work *w, const float *x_g, const float *e, size_t n,
                                     const uint32_t *list_count, float *out, double *loss) {
    size_t ld = w->shape.ld, blocks = saei_cuda_ceil(n, SAEI_CUDA_THREADS / 4);
    double *means = saei_cuda_numbers(w), *sums = saei_cuda_scratch_of(w).sums;
    saei_cuda_launch(w, saei_ghost_kernel, blocks, SAEI_CUDA_THREADS, x_g, e, n, ld, list_count,
                     means, sums, sums + n, (float *)NULL, loss);
    saei_cuda_mean(w, sums, n, (double)n, means);
    saei_cuda_mean(w, sums + n, n, (double)n, means + 1);
    saei_cuda_launch(w, saei_ghost_kernel, blocks, SAEI_CUDA_THREADS, x_g, e, n, ld, list_count,
                     means, sums, sums + n, out, loss);
}
