#pragma once
#include "scratch.cuh"
#include "device.cuh"

/* ==== >>cuda: scalars ========================================================================= */

static void saei_cuda_clear(const sae_work *w, void *memory, size_t bytes) {
    saei_cuda *s = saei_cuda_of(w);
    if (s->result == SAE_OK && bytes) SAEI_CUDA_OK(s, cudaMemsetAsync(memory, 0, bytes, s->stream));
}

/* Blocks for work of `count` warps. */
static size_t saei_cuda_warps(size_t count) { return saei_ceil_div(count, SAEI_CUDA_WARPS); }

/* The number of this thread's warp in the grid. */
__device__ static inline size_t saei_device_grid_warp(void) {
    return (size_t)blockIdx.x * (blockDim.x >> 5) + saei_device_warp();
}
__device__ static inline size_t saei_device_grid_thread(void) {
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ static inline unsigned long long saei_device_warp_total(unsigned long long x) {
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(SAEI_FULL, x, apart);
    return x;
}

/* How many of list[0..count), ascending, are below bound. */
__device__ static inline uint32_t saei_device_lower(const uint32_t *list, uint32_t count,
                                                    size_t bound) {
    uint32_t low = 0;
    if (!count || list[count - 1] < bound) return count;
    while (low < count) {
        uint32_t middle = low + (count - low) / 2;
        if (list[middle] < bound) low = middle + 1;
        else count = middle;
    }
    return low;
}

/* Sum of x[0..n) in the scalars order, by a block; thread 0 gets it. Pieces of 64 numbers of up to
   32 blocks of 1024 go through shared memory, where lane b of warp 0 adds the numbers of block b.
   It takes as long as one chain: about 16 us for 1024 additions of 16 cycles. */
__device__ static inline double saei_device_scalars(const double *x, size_t n) {
    const size_t PIECE = 64, BLOCKS = 32, WIDTH = PIECE + 1;
    __shared__ double piece[2][BLOCKS * WIDTH];
    double total = 0;
    for (size_t base = 0; base < n; base += BLOCKS * SAE_ROW_BLOCK) {
        size_t left = n - base, blocks = (left + SAE_ROW_BLOCK - 1) / SAE_ROW_BLOCK;
        size_t pieces = left < SAE_ROW_BLOCK ? (left + PIECE - 1) / PIECE : SAE_ROW_BLOCK / PIECE;
        double sum = 0;
        blocks = blocks < BLOCKS ? blocks : BLOCKS;
        for (size_t p = 0; p <= pieces; p++) {
            double *to = piece[p & 1], *from = piece[(p & 1) ^ 1];
            for (size_t t = threadIdx.x; p < pieces && t < blocks * PIECE; t += blockDim.x) {
                size_t b = t / PIECE, c = t % PIECE, at = base + b * SAE_ROW_BLOCK + p * PIECE + c;
                to[b * WIDTH + c] = at < n ? x[at] : 0;
            }
            if (p > 0 && threadIdx.x < blocks)
                for (size_t c = 0; c < PIECE; c++)
                    sum = __dadd_rn(sum, from[threadIdx.x * WIDTH + c]);
            __syncthreads();
        }
        if (saei_device_warp() == 0)
            for (size_t b = 0; b < blocks; b++)
                total = __dadd_rn(total, __shfl_sync(SAEI_FULL, sum, (int)b));
    }
    return total;
}

__global__ static void saei_mean_kernel(const double *sums, size_t n, double divisor, double *out) {
    double total = saei_device_scalars(sums, n);
    if (threadIdx.x == 0) *out = divisor == 1 ? total : __ddiv_rn(total, divisor);
}
/* *out = sum of sums[0..n) / divisor */
static void saei_cuda_mean(const sae_work *w, const double *sums, size_t n, double divisor,
                           double *out) {
    saei_cuda_launch(w, saei_mean_kernel, 1, SAEI_CUDA_THREADS, sums, n, divisor, out);
}
