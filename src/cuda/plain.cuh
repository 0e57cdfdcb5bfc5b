#pragma once
#include "select.cuh"

/* ==== >>cuda: plain encode ==================================================================== */
/* Every product in float32: for lists, for dense selections, and for what screening could not
   decide. A block takes 32 rows through all latents, 128 at a time; a tile's products go through
   shared memory to the warps that keep the rows' lists. Estimate: 2 n m d flop at some 60 % of the
   float32 peak (16 products for 2 reads of shared memory). */

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

enum { SAEI_PLAIN_ALL, SAEI_PLAIN_LISTED, SAEI_PLAIN_AGAIN };

/* which: all rows; those that screening gave up; or, in batch top-k, all rows again with no guess
   at the threshold, if too few reached it. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 2) saei_plain_kernel(
    saei_cuda_encode_task t, int which) {
    __shared__ __align__(16) float xs[SAEI_PLAIN_DEPTH][SAEI_PLAIN_ROWS + 4];
    __shared__ __align__(16) float ws[SAEI_PLAIN_DEPTH][SAEI_CUDA_TILE + 4];
    __shared__ __align__(16) float ps[SAEI_PLAIN_ROWS][SAEI_CUDA_TILE + 4];
    const uint32_t lane = saei_device_lane(), warp = saei_device_warp(), first = blockIdx.x * 32;
    const uint32_t m = t.list ? *t.list_count : t.m, k = t.k < m ? t.k : m;
    const uint32_t n = which == SAEI_PLAIN_LISTED ? t.s.words[SAEI_WORD_PLAIN] : t.n;
    const uint32_t row = (warp & 1) * 16 + (lane >> 3) * 4, col = (warp >> 1) * 32 + (lane & 7) * 4;
    const uint32_t from = threadIdx.x >> 2, part = (threadIdx.x & 3) * 4;
    const bool top = t.select == SAE_SELECT_TOP_K;
    const size_t limit = top ? t.s.capacity : t.stride;
    unsigned long long *total = (unsigned long long *)(t.s.words + SAEI_WORD_TOTAL);
    float guess = saei_device_warm(t), cut[4];
    const float *x;
    uint32_t count[4] = { 0, 0, 0, 0 }, r[4];
    if (first >= n) return;
    if (which == SAEI_PLAIN_AGAIN && (guess <= 0 || *total >= t.want)) return;
    if (which == SAEI_PLAIN_AGAIN) guess = 0;
    for (uint32_t i = 0; i < 4; i++) { /* the rows whose lists this warp keeps */
        r[i] = first + 4 * warp + i < n ? first + 4 * warp + i : n - 1;
        if (which == SAEI_PLAIN_LISTED) r[i] = t.s.rows[r[i]];
        cut[i] = guess;
    }
    {
        uint32_t mine = first + (from & 31) < n ? first + (from & 31) : n - 1;
        if (which == SAEI_PLAIN_LISTED) mine = t.s.rows[mine];
        x = t.x + (size_t)mine * t.ld + part;
    }
    for (uint32_t tile = 0; tile < m; tile += SAEI_CUDA_TILE) {
        float acc[4][4] = { { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 0, 0, 0, 0 } };
        uint32_t i0 = tile + from < m ? tile + from : m - 1;
        uint32_t i1 = tile + from + 64 < m ? tile + from + 64 : m - 1;
        const float *w0 = t.W + (size_t)(t.list ? t.list[i0] : i0) * t.ld + part;
        const float *w1 = t.W + (size_t)(t.list ? t.list[i1] : i1) * t.ld + part;
        float4 a = saei_device_float4(x), b = saei_device_float4(w0), c = saei_device_float4(w1);
        for (uint32_t k0 = 0; k0 < t.d; k0 += SAEI_PLAIN_DEPTH) {
            uint32_t depth = t.d - k0;
            __syncthreads();
            if (from < 32) {
                xs[part][from] = a.x;
                xs[part + 1][from] = a.y;
                xs[part + 2][from] = a.z;
                xs[part + 3][from] = a.w;
            }
            ws[part][from] = b.x;
            ws[part + 1][from] = b.y;
            ws[part + 2][from] = b.z;
            ws[part + 3][from] = b.w;
            ws[part][from + 64] = c.x;
            ws[part + 1][from + 64] = c.y;
            ws[part + 2][from + 64] = c.z;
            ws[part + 3][from + 64] = c.w;
            __syncthreads();
            if (k0 + SAEI_PLAIN_DEPTH < t.d) { /* the next columns are on their way meanwhile */
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
                acc[0][0] = __fmaf_rn(u.x, v.x, acc[0][0]);
                acc[0][1] = __fmaf_rn(u.x, v.y, acc[0][1]);
                acc[0][2] = __fmaf_rn(u.x, v.z, acc[0][2]);
                acc[0][3] = __fmaf_rn(u.x, v.w, acc[0][3]);
                acc[1][0] = __fmaf_rn(u.y, v.x, acc[1][0]);
                acc[1][1] = __fmaf_rn(u.y, v.y, acc[1][1]);
                acc[1][2] = __fmaf_rn(u.y, v.z, acc[1][2]);
                acc[1][3] = __fmaf_rn(u.y, v.w, acc[1][3]);
                acc[2][0] = __fmaf_rn(u.z, v.x, acc[2][0]);
                acc[2][1] = __fmaf_rn(u.z, v.y, acc[2][1]);
                acc[2][2] = __fmaf_rn(u.z, v.z, acc[2][2]);
                acc[2][3] = __fmaf_rn(u.z, v.w, acc[2][3]);
                acc[3][0] = __fmaf_rn(u.w, v.x, acc[3][0]);
                acc[3][1] = __fmaf_rn(u.w, v.y, acc[3][1]);
                acc[3][2] = __fmaf_rn(u.w, v.z, acc[3][2]);
                acc[3][3] = __fmaf_rn(u.w, v.w, acc[3][3]);
            }
        }
        for (uint32_t i = 0; i < 4; i++)
            saei_device_put4(&ps[row + i][col],
                             make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
        __syncthreads();
        for (uint32_t i = 0; i < 4 && first + 4 * warp + i < n; i++) {
            size_t at = r[i] * (top ? t.s.capacity : t.stride);
            uint32_t *to = (top ? t.s.place : t.latent) + at;
            float *value = (top ? t.s.value : t.pre) + at;
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
