#pragma once
#include "scalars.cuh"

/* ==== >>cuda: sums ============================================================================ */

/* partial[block] = sum of s_r x_r over a block of 1024 rows (s NULL: 1), in double; the products
   are exact. A warp has 32 columns of a block, with 32 loads in flight; rows with s = 0 are not
   read. n d 4 bytes: W2's W_enc 67 MB. */
__global__ static void saei_block_sum_kernel(const float *x, const float *s, size_t n, size_t ld,
                                             double *partial, const uint32_t *done) {
    const size_t slices = (ld + 31) / 32, block = blockIdx.x / slices;
    const size_t c = blockIdx.x % slices * 32 + threadIdx.x, first = block * SAE_ROW_BLOCK;
    const size_t end = first + SAE_ROW_BLOCK < n ? first + SAE_ROW_BLOCK : n;
    double sum = 0;
    if ((done && *done) || c >= ld) return;
    x += c;
    for (size_t r = first; r < end; r += 32) {
        float v[32], f[32];
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++)
            f[k] = r + (size_t)k >= end ? 0 : s ? s[r + (size_t)k] : 1;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) v[k] = f[k] != 0 ? x[(r + (size_t)k) * ld] : 0;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) sum = __fma_rn((double)f[k], (double)v[k], sum);
    }
    partial[block * ld + c] = sum;
}
static void saei_cuda_block_sum(const sae_work *w, const float *x, const float *s, size_t n,
                                double *partial, const uint32_t *done) {
    size_t ld = w->shape.ld;
    saei_cuda_launch(w, saei_block_sum_kernel,
                     saei_ceil_div(n, SAE_ROW_BLOCK) * saei_ceil_div(ld, 32), 32, x, s, n, ld,
                     partial, done);
}
/* Column c of the blocks' sums, added in order. */
__device__ static inline double saei_device_column(const double *partial, size_t blocks, size_t ld,
                                                   size_t c) {
    double sum = partial[c];
    for (size_t b = 1; b < blocks; b += 16) {
        double v[16];
        SAEI_UNROLL(16)
        for (int k = 0; k < 16; k++)
            v[k] = b + (size_t)k < blocks ? partial[(b + (size_t)k) * ld + c] : 0;
        SAEI_UNROLL(16)
        for (int k = 0; k < 16; k++)
            if (b + (size_t)k < blocks) sum = __dadd_rn(sum, v[k]);
    }
    return sum;
}
/* out[c] = column c's sum over the blocks times alpha, + out[c] if add */
__global__ static void saei_column_sums_kernel(const double *partial, size_t blocks, size_t ld,
                                               float alpha, bool add, float *out) {
    const size_t c = saei_device_grid_thread();
    double sum;
    if (c >= ld) return;
    sum = __dmul_rn((double)alpha, saei_device_column(partial, blocks, ld, c));
    out[c] = (float)(add ? __dadd_rn((double)out[c], sum) : sum);
}
static void saei_cuda_column_sums(const sae_work *w, const float *x, size_t n, float alpha,
                                  float *out) {
    double *partial = saei_cuda_columns_scratch_of(w).partial;
    saei_cuda_block_sum(w, x, NULL, n, partial, NULL);
    saei_cuda_launch(w, saei_column_sums_kernel, saei_ceil_div(w->shape.ld, 32), 32, partial,
                     saei_ceil_div(n, SAE_ROW_BLOCK), w->shape.ld, alpha, false, out);
}
static void saei_cuda_weighted_sum(const sae_work *w, const float *W, const float *s, size_t m,
                                   float alpha, float *out) {
    double *partial = saei_cuda_columns_scratch_of(w).partial;
    saei_cuda_block_sum(w, W, s, m, partial, NULL);
    saei_cuda_launch(w, saei_column_sums_kernel, saei_ceil_div(w->shape.ld, 32), 32, partial,
                     saei_ceil_div(m, SAE_ROW_BLOCK), w->shape.ld, alpha, true, out);
}

/* Half a warp has 16384 floats, one of the dot's 16 lanes per thread, with 32 loads of 64 bytes in
   flight. 4 bytes per float: W2's gradients 134 MB. */
__global__ static void saei_sum_squares_kernel(const float *x, size_t count, double *sums) {
    const size_t part = saei_device_grid_thread() / 16, first = part * SAEI_CUDA_CHUNK;
    const size_t end = first + SAEI_CUDA_CHUNK < count ? first + SAEI_CUDA_CHUNK : count;
    float sum = 0;
    double all;
    for (size_t c = first + threadIdx.x % 16; c < end; c += 32 * 16) {
        float v[32];
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) v[k] = c + 16 * (size_t)k < end ? x[c + 16 * (size_t)k] : 0;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) sum = __fmaf_rn(v[k], v[k], sum);
    }
    all = (double)sum;
    for (int apart = 8; apart > 0; apart /= 2)
        all = __dadd_rn(all, __shfl_xor_sync(SAEI_FULL, all, apart));
    if (first < count && threadIdx.x % 16 == 0) sums[part] = all;
}
static void saei_cuda_sum_squares(const sae_work *w, const float *x, size_t count, double *out) {
    double *sums = saei_cuda_sum_squares_scratch_of(w).sums;
    size_t parts = saei_ceil_div(count, SAEI_CUDA_CHUNK);
    saei_cuda_launch(w, saei_sum_squares_kernel, saei_ceil_div(parts, 4), 64, x, count, sums);
    saei_cuda_mean(w, sums, parts, 1, out);
}

/* squares[block] = sum of (x - mean)^2 over a block of rows; the means from the blocks' sums. n d 4
   bytes, from the L2 if x is no larger; cut as saei_block_sum_kernel. */
__global__ static void __launch_bounds__(32, 16)
saei_scatter_kernel(const float *x, size_t n, size_t ld, const double *partial, double *squares) {
    const size_t slices = (ld + 31) / 32, block = blockIdx.x / slices;
    const size_t c = blockIdx.x % slices * 32 + threadIdx.x, first = block * SAE_ROW_BLOCK;
    const size_t end = first + SAE_ROW_BLOCK < n ? first + SAE_ROW_BLOCK : n;
    double mean, sum = 0;
    if (c >= ld) return;
    mean = __ddiv_rn(saei_device_column(partial, (n + SAE_ROW_BLOCK - 1) / SAE_ROW_BLOCK, ld, c),
                     (double)n);
    x += c;
    for (size_t r = first; r < end; r += 32) {
        float v[32];
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) v[k] = r + (size_t)k < end ? x[(r + (size_t)k) * ld] : 0;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) {
            double away = __dsub_rn((double)v[k], mean);
            if (r + (size_t)k < end) sum = __dadd_rn(sum, __dmul_rn(away, away));
        }
    }
    squares[block * ld + c] = sum;
}
__global__ static void saei_columns_kernel(const double *partial, size_t blocks, size_t ld,
                                           double *out) {
    const size_t c = saei_device_grid_thread();
    if (c < ld) out[c] = saei_device_column(partial, blocks, ld, c);
}
/* *out = sum over columns and rows of (x - column mean)^2 / divisor */
static void saei_cuda_scatter(const sae_work *w, saei_cuda_variance_scratch s, const float *x,
                              size_t n, double divisor, double *out) {
    size_t ld = w->shape.ld, blocks = saei_ceil_div(n, SAE_ROW_BLOCK);
    saei_cuda_block_sum(w, x, NULL, n, s.partial, NULL);
    saei_cuda_launch(w, saei_scatter_kernel, blocks * saei_ceil_div(ld, 32), 32, x, n, ld,
                     s.partial, s.squares);
    saei_cuda_launch(w, saei_columns_kernel, saei_ceil_div(ld, 32), 32, s.squares, blocks, ld,
                     s.columns);
    saei_cuda_mean(w, s.columns, w->shape.d, divisor, out);
}

__global__ static void saei_fill_kernel(double *out, double value) { *out = value; }

static void saei_cuda_variance(const sae_work *w, const float *x, size_t n, double *out) {
    if (n > 1)
        saei_cuda_scatter(w, saei_cuda_variance_scratch_of(w), x, n, (double)(n - 1), out);
    else saei_cuda_launch(w, saei_fill_kernel, 1, 1, out, 0.0);
}

/* 4 bytes per entry. */
__global__ static void saei_count_nonzero_kernel(sae_code code, unsigned long long *count) {
    const size_t r = saei_device_grid_warp();
    unsigned long long found = 0;
    if (r < code.rows)
        for (uint32_t j = saei_device_lane(); j < code.count[r]; j += 32)
            found += code.value[r * code.stride + j] != 0;
    found = saei_device_warp_total(found);
    if (saei_device_lane() == 0 && found) atomicAdd(count, found);
}
__global__ static void saei_mean_count_kernel(const unsigned long long *count, size_t n,
                                              double *mean) {
    *mean = __ddiv_rn((double)*count, (double)n);
}
static void saei_cuda_count_nonzero(const sae_work *w, const sae_code *code, double *mean) {
    unsigned long long *found = saei_cuda_count_scratch_of(w).count;
    saei_cuda_clear(w, found, sizeof *found);
    saei_cuda_launch(w, saei_count_nonzero_kernel, saei_cuda_warps(code->rows), SAEI_CUDA_THREADS,
                     *code, found);
    saei_cuda_launch(w, saei_mean_count_kernel, 1, 1, found, code->rows, mean);
}
