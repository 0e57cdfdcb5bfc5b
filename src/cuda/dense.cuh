#pragma once
#include "scalars.cuh"

/* ==== >>cuda: dense sums ====================================================================== */
/* In a fresh dictionary of a scheme without k, half of the latents are active. Gathering a row for
   every entry would then be bound by reading: half of W2's 268 M entries are 275 GB, 50 ms from the
   L2. So the lists are laid out as the dense matrix they nearly are, tile by tile in shared memory
   with 0 where there is no entry, and the sums are a float32 product in registers. Each sum is the
   same chain of operations: fma(0, x, s) is s. 2 n m d flop, W2: 275 GFLOP, 6 ms at 45 TFLOP/s. */

enum {
    SAEI_DENSE_TILE = 128, /* targets, and columns, of a block */
    SAEI_DENSE_DEPTH = 16  /* indices at a time; divides SAE_ROW_BLOCK */
};

/* Lists of (index, value), indices ascending: list i is begin[i]..begin[i+1], or where begin is
   NULL count[i] entries at i stride. */
typedef struct saei_cuda_lists {
    const size_t *begin;
    const uint32_t *count;
    size_t stride;
    const uint32_t *index;
    const float *value;
} saei_cuda_lists;

/* Rows k0.. of both tiles: the first half of the block lays out one list per thread, from *at on;
   the second half copies M. */
__device__ static inline void saei_device_dense_fill(const saei_cuda_lists &lists, size_t *at,
                                                     size_t end, uint32_t k0, uint32_t hi,
                                                     const float *M, size_t ld, uint32_t column,
                                                     float *left, float *right) {
    uint32_t t = threadIdx.x;
    if (t < SAEI_DENSE_TILE) {
        size_t j = *at;
        SAEI_UNROLL(16)
        for (uint32_t k = 0; k < SAEI_DENSE_DEPTH; k++) left[k * SAEI_DENSE_TILE + t] = 0;
        while (j < end) {
            uint32_t k = lists.index[j] - k0;
            if (k >= SAEI_DENSE_DEPTH) break;
            left[k * SAEI_DENSE_TILE + t] = lists.value[j++];
        }
        *at = j;
        return;
    }
    t -= SAEI_DENSE_TILE;
    SAEI_UNROLL(4)
    for (uint32_t q = 0; q < SAEI_DENSE_DEPTH / 4; q++) {
        uint32_t k = 4 * q + t / 32, c = 4 * (t % 32);
        float4 v = make_float4(0, 0, 0, 0);
        if (k0 + k < hi && column + c < ld)
            v = saei_device_float4(M + (size_t)(k0 + k) * ld + column + c);
        saei_device_put4(right + k * SAEI_DENSE_TILE + c, v);
    }
}

__device__ static inline void saei_device_dense_step(const float *left, const float *right,
                                                     float4 (*sum)[2]) {
    const uint32_t x = 4 * (threadIdx.x % 16), y = 4 * (threadIdx.x / 16);
    SAEI_UNROLL(4)
    for (int k = 0; k < SAEI_DENSE_DEPTH; k++) {
        float4 a = saei_device_float4(left + k * SAEI_DENSE_TILE + y);
        float4 b = saei_device_float4(left + k * SAEI_DENSE_TILE + 64 + y);
        float4 c = saei_device_float4(right + k * SAEI_DENSE_TILE + x);
        float4 d = saei_device_float4(right + k * SAEI_DENSE_TILE + 64 + x);
        float f[8] = { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w };
        SAEI_UNROLL(8)
        for (int i = 0; i < 8; i++) {
            sum[i][0] = saei_device_axpy4(f[i], c, sum[i][0]);
            sum[i][1] = saei_device_axpy4(f[i], d, sum[i][1]);
        }
    }
}

/* out[i] = base[i] + alpha sum over the entries of list i with lo <= index < hi of value M[index],
   for `count` lists from `first` on; base NULL: 0. Sums over blocks of `block` indices are added in
   order, in out meanwhile. 8 x 8 numbers per thread. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 2)
saei_dense_sums_kernel(saei_cuda_lists lists, size_t first, uint32_t count, uint32_t lo,
                       uint32_t hi, uint32_t block, const float *M, size_t ld, float alpha,
                       const float *base, size_t base_stride, float *out) {
    __shared__ __align__(16) float left[2][SAEI_DENSE_DEPTH * SAEI_DENSE_TILE];
    __shared__ __align__(16) float right[2][SAEI_DENSE_DEPTH * SAEI_DENSE_TILE];
    const uint32_t tiles = ((uint32_t)ld + SAEI_DENSE_TILE - 1) / SAEI_DENSE_TILE;
    const uint32_t column = blockIdx.x % tiles * SAEI_DENSE_TILE;
    const uint32_t target = blockIdx.x / tiles * SAEI_DENSE_TILE;
    const uint32_t x = 4 * (threadIdx.x % 16), y = 4 * (threadIdx.x / 16);
    float4 sum[8][2];
    size_t at = 0, end = 0;
    uint32_t k0 = lo;
    if (threadIdx.x < SAEI_DENSE_TILE && target + threadIdx.x < count) {
        size_t i = first + target + threadIdx.x;
        uint32_t here;
        at = lists.begin ? lists.begin[i] : i * lists.stride;
        here = lists.begin ? (uint32_t)(lists.begin[i + 1] - at) : lists.count[i];
        end = at + saei_device_lower(lists.index + at, here, hi);
        at += lo ? saei_device_lower(lists.index + at, here, lo) : 0;
    }
    SAEI_UNROLL(8)
    for (int i = 0; i < 8; i++) sum[i][0] = sum[i][1] = make_float4(0, 0, 0, 0);
    saei_device_dense_fill(lists, &at, end, k0, hi, M, ld, column, left[0], right[0]);
    __syncthreads();
    for (uint32_t side = 0;; side ^= 1) {
        bool last = k0 + SAEI_DENSE_DEPTH >= hi;
        if (!last)
            saei_device_dense_fill(lists, &at, end, k0 + SAEI_DENSE_DEPTH, hi, M, ld, column,
                                   left[side ^ 1], right[side ^ 1]);
        saei_device_dense_step(left[side], right[side], sum);
        __syncthreads();
        k0 += SAEI_DENSE_DEPTH;
        if (!last && k0 % block != 0) continue;
        SAEI_UNROLL(8)
        for (int i = 0; i < 8; i++) {
            uint32_t row = target + y + (uint32_t)(i < 4 ? i : 60 + i);
            SAEI_UNROLL(2)
            for (uint32_t h = 0; h < 2; h++) {
                uint32_t c = column + 64 * h + x;
                size_t to = row * ld + c;
                float4 v = sum[i][h];
                sum[i][h] = make_float4(0, 0, 0, 0);
                if (row >= count || c >= ld) continue;
                if (k0 > block) v = saei_device_axpy4(1, v, saei_device_float4(out + to));
                if (last)
                    v = make_float4(__fmul_rn(alpha, v.x), __fmul_rn(alpha, v.y),
                                    __fmul_rn(alpha, v.z), __fmul_rn(alpha, v.w));
                if (last && base)
                    v = saei_device_axpy4(1, v, saei_device_float4(base + row * base_stride + c));
                saei_device_put4(out + to, v);
            }
        }
        if (last) return;
    }
}

/* out and base begin at list `first`. */
static void saei_cuda_dense_sums(const sae_work *w, const saei_cuda_lists *lists, size_t first,
                                 size_t count, size_t lo, size_t hi, size_t block, const float *M,
                                 float alpha, const float *base, size_t base_stride, float *out) {
    size_t ld = w->shape.ld;
    saei_cuda_launch(w, saei_dense_sums_kernel,
                     saei_ceil_div(count, SAEI_DENSE_TILE) * saei_ceil_div(ld, SAEI_DENSE_TILE),
                     SAEI_CUDA_THREADS, *lists, first, (uint32_t)count, (uint32_t)lo, (uint32_t)hi,
                     (uint32_t)block, M, ld, alpha, base, base_stride, out);
}

/* Whether lists with room for `stride` latents are likely to be dense: more than one entry in 14,
   by the number of entries last received. No bit depends on it. */
static bool saei_cuda_is_dense(const sae_work *w, size_t stride) {
    saei_cuda *s = saei_cuda_of(w);
    double m = (double)w->shape.dict_size;
    double listed = (double)s->mailbox->entries;
    if (s->dense != 0) return s->dense > 0;
    if ((double)stride * 14 < m) return false;
    return !s->counted_rows || listed * 14 > (double)s->counted_rows * m;
}
