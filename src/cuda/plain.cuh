#pragma once
#include "select.cuh"

/* ==== >>cuda: plain encode ==================================================================== */
/* Every product in float32: for lists of latents, for selections that keep many, and for rows that
   screening could not decide. A block takes 32 rows through all latents, 128 at a time; a tile's
   products go through shared memory to the warps that keep the rows' lists. Estimate: 2 n m d flop
   at some 60 % of the float32 peak (16 products for 2 reads of shared memory). */

enum { SAEI_PLAIN_ROWS = 32, SAEI_PLAIN_DEPTH = 16 };

/* Whether p = u + bias is selected, and what is stored of it. */
__device__ static inline bool saei_device_selected(const saei_cuda_encode_task &t, float u,
                                                   uint32_t i, float cut, float *stored) {
    float p = __fadd_rn(u, t.bias[i]), z;
    *stored = t.select == SAE_SELECT_GATE ? u : p;
    if (t.select == SAE_SELECT_ALL) return true;
    if (t.select != SAE_SELECT_WINDOW) return p > cut;
    z = __fdiv_rn(__fsub_rn(p, t.theta[i]), t.bandwidth);
    return p > t.theta[i] || (z > -0.5f && z < 0.5f);
}

/* The guess at the batch's threshold; 0: none. */
__device__ static inline float saei_device_warm(const saei_cuda_encode_task &t) {
    float warm = t.select == SAE_SELECT_BATCH_TOP_K ? *t.warm : 0;
    return warm > 0 && warm <= FLT_MAX ? warm : 0;
}

/* Appends what is selected of a tile's 128 products of one row; returns the list's new length. */
__device__ static inline uint32_t saei_device_keep_tile(const saei_cuda_encode_task &t,
                                                        const float *product, uint32_t tile,
                                                        uint32_t m, float cut, uint32_t *to,
                                                        float *value, uint32_t count,
                                                        size_t limit) {
    bool top = t.select == SAE_SELECT_TOP_K;
    for (uint32_t j = saei_device_lane(); j < SAEI_CUDA_TILE; j += 32) {
        uint32_t place = tile + j, keep, i = 0;
        float stored = 0;
        bool in = place < m;
        if (in) {
            i = t.list ? t.list[place] : place;
            in = saei_device_selected(t, product[j], i, cut, &stored);
        }
        keep = __ballot_sync(SAEI_FULL, in);
        if (in) {
            uint32_t at = count + (uint32_t)__popc(keep & saei_device_below());
            if (at < limit) {
                to[at] = top ? place : i;
                value[at] = stored;
            }
        }
        count += (uint32_t)__popc(keep);
    }
    return count;
}

/* Shared memory of a block: a row of its transposed pieces of x, and of W or of products. */
typedef float saei_plain_x[SAEI_PLAIN_ROWS + 4];
typedef float saei_plain_w[SAEI_CUDA_TILE + 4];

/* The block's 32 x 128 products, 4 x 4 per thread: acc[i] has those of row + i with the latents
   from col on. A thread brings four columns of a row of x and of two rows of W: x, w0 and w1 point
   to its first ones. */
__device__ __forceinline__ static void saei_device_plain_products(
    uint32_t d, const float *x, const float *w0, const float *w1, saei_plain_x *xs,
    saei_plain_w *ws, uint32_t row, uint32_t col, float4 *acc) {
    const uint32_t from = threadIdx.x >> 2, part = (threadIdx.x & 3) * 4;
    float4 a = saei_device_float4(x), b = saei_device_float4(w0), c = saei_device_float4(w1);
    SAEI_UNROLL(4)
    for (int i = 0; i < 4; i++) acc[i] = make_float4(0, 0, 0, 0);
    for (uint32_t k0 = 0; k0 < d; k0 += SAEI_PLAIN_DEPTH) {
        uint32_t depth = d - k0;
        __syncthreads();
        if (from < SAEI_PLAIN_ROWS)
            saei_device_put_column(&xs[part][from], SAEI_PLAIN_ROWS + 4, a);
        saei_device_put_column(&ws[part][from], SAEI_CUDA_TILE + 4, b);
        saei_device_put_column(&ws[part][from + 64], SAEI_CUDA_TILE + 4, c);
        __syncthreads();
        if (k0 + SAEI_PLAIN_DEPTH < d) { /* the next columns load meanwhile */
            a = saei_device_float4(x + k0 + SAEI_PLAIN_DEPTH);
            b = saei_device_float4(w0 + k0 + SAEI_PLAIN_DEPTH);
            c = saei_device_float4(w1 + k0 + SAEI_PLAIN_DEPTH);
        }
        SAEI_UNROLL(16)
        for (uint32_t q = 0; q < SAEI_PLAIN_DEPTH; q++) {
            float4 u, v;
            if (q >= depth) break;
            u = saei_device_float4(&xs[q][row]);
            v = saei_device_float4(&ws[q][col]);
            acc[0] = saei_device_axpy4(u.x, v, acc[0]);
            acc[1] = saei_device_axpy4(u.y, v, acc[1]);
            acc[2] = saei_device_axpy4(u.z, v, acc[2]);
            acc[3] = saei_device_axpy4(u.w, v, acc[3]);
        }
    }
}

enum { SAEI_PLAIN_ALL, SAEI_PLAIN_LISTED, SAEI_PLAIN_AGAIN };

/* Row i of the n that are encoded, for i >= n the last one. */
__device__ static inline uint32_t saei_device_plain_row(const saei_cuda_encode_task &t, int which,
                                                        uint32_t i, uint32_t n) {
    i = i < n ? i : n - 1;
    return which == SAEI_PLAIN_LISTED ? t.s.rows[i] : i;
}

/* which: all rows; those that screening could not decide; or, in batch top-k, all rows again with
   no guess at the threshold, if too few reached it. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 2) saei_plain_kernel(
    saei_cuda_encode_task t, int which) {
    __shared__ __align__(16) saei_plain_x xs[SAEI_PLAIN_DEPTH];
    __shared__ __align__(16) saei_plain_w ws[SAEI_PLAIN_DEPTH], ps[SAEI_PLAIN_ROWS];
    const uint32_t lane = saei_device_lane(), warp = saei_device_warp();
    const uint32_t first = blockIdx.x * SAEI_PLAIN_ROWS;
    const uint32_t m = t.list ? *t.list_count : t.m, k = t.k < m ? t.k : m;
    const uint32_t n = which == SAEI_PLAIN_LISTED ? t.s.counts->plain : t.n;
    const uint32_t row = (warp & 1) * 16 + (lane >> 3) * 4, col = (warp >> 1) * 32 + (lane & 7) * 4;
    const uint32_t from = threadIdx.x >> 2, part = (threadIdx.x & 3) * 4;
    const bool top = t.select == SAE_SELECT_TOP_K;
    const size_t limit = top ? t.s.capacity : t.stride;
    unsigned long long *total = &t.s.counts->total;
    float guess = saei_device_warm(t), cut[4];
    const float *x;
    uint32_t count[4] = { 0, 0, 0, 0 }, r[4];
    if (first >= n) return;
    if (which == SAEI_PLAIN_AGAIN && (guess <= 0 || *total >= t.want)) return;
    if (which == SAEI_PLAIN_AGAIN) guess = 0;
    for (uint32_t i = 0; i < 4; i++) { /* the rows whose lists this warp keeps */
        r[i] = saei_device_plain_row(t, which, first + 4 * warp + i, n);
        cut[i] = guess;
    }
    x = t.x + (size_t)saei_device_plain_row(t, which, first + (from & 31), n) * t.ld + part;
    for (uint32_t tile = 0; tile < m; tile += SAEI_CUDA_TILE) {
        float4 acc[4];
        uint32_t i0 = tile + from < m ? tile + from : m - 1;
        uint32_t i1 = tile + from + 64 < m ? tile + from + 64 : m - 1;
        const float *w0 = t.W + (size_t)(t.list ? t.list[i0] : i0) * t.ld + part;
        const float *w1 = t.W + (size_t)(t.list ? t.list[i1] : i1) * t.ld + part;
        saei_device_plain_products(t.d, x, w0, w1, xs, ws, row, col, acc);
        SAEI_UNROLL(4)
        for (uint32_t i = 0; i < 4; i++) saei_device_put4(&ps[row + i][col], acc[i]);
        __syncthreads();
        for (uint32_t i = 0; i < 4 && first + 4 * warp + i < n; i++) {
            uint32_t *to = (top ? t.s.place : t.latent) + r[i] * limit;
            float *value = (top ? t.s.value : t.pre) + r[i] * limit;
            if (top && count[i] + SAEI_CUDA_TILE > limit)
                count[i] = saei_device_top(to, value, count[i], k, &cut[i]);
            count[i] = saei_device_keep_tile(t, ps[4 * warp + i], tile, m, cut[i], to, value,
                                             count[i], limit);
            __syncwarp();
        }
    }
    for (uint32_t i = 0; i < 4 && first + 4 * warp + i < n; i++) {
        size_t at = r[i] * t.s.capacity, out = r[i] * t.stride;
        if (top) {
            count[i] = saei_device_top(t.s.place + at, t.s.value + at, count[i], k, &cut[i]);
            count[i] = saei_device_top_write(t.s.place + at, t.s.value + at, count[i], k, m, t.list,
                                             t.latent + out, t.pre + out);
        }
        if (lane) continue;
        t.count[r[i]] = count[i];
        if (which == SAEI_PLAIN_ALL && !t.list) atomicAdd(total, (unsigned long long)count[i]);
    }
}
