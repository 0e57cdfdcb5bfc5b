#pragma once
#include "sums.cuh"

/* ==== >>cuda: auxiliary losses ================================================================ */

/* -- auxk -- */

/* r = x_aux + e, sums[row] = sum r^2. A quad per row. */
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
    saei_cuda_auxk_scratch s = saei_cuda_auxk_scratch_of(w);
    saei_cuda_scatter(w, s.variance, e, n, (double)n, s.denominator);
    saei_cuda_launch(w, saei_auxk_rows_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, x_aux, e, n, ld, list_count, r, s.sums);
    saei_cuda_mean(w, s.sums, n, (double)n, pre_norm);
    saei_cuda_launch(w, saei_auxk_scale_kernel, saei_ceil_div(n * ld, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, n, ld, list_count, alpha, s.denominator, r, pre_norm, norm);
}

/* -- ghosts -- */

/* First without out: the rows' norms of e and r to e_norm and r_norm. Then with the means of both
   known, out. A quad per row. */
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
    size_t ld = w->shape.ld, blocks = saei_ceil_div(n, SAEI_CUDA_THREADS / 4);
    saei_cuda_ghost_scratch s = saei_cuda_ghost_scratch_of(w);
    saei_cuda_launch(w, saei_ghost_kernel, blocks, SAEI_CUDA_THREADS, x_g, e, n, ld, list_count,
                     s.means, s.e_norm, s.r_norm, (float *)NULL, loss);
    saei_cuda_mean(w, s.e_norm, n, (double)n, s.means);
    saei_cuda_mean(w, s.r_norm, n, (double)n, s.means + 1);
    saei_cuda_launch(w, saei_ghost_kernel, blocks, SAEI_CUDA_THREADS, x_g, e, n, ld, list_count,
                     s.means, s.e_norm, s.r_norm, out, loss);
}
