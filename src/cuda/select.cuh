#pragma once
#include "scratch.cuh"
#include "device.cuh"

/* ==== >>cuda: selection ======================================================================= */
/* A warp has a row's list of candidates: positions ascending (a position is a latent, or an index
   into encode's list of latents), and an array of their values. */

__device__ static inline uint32_t saei_device_warp_sum(uint32_t x) {
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(SAEI_FULL, x, apart);
    return x;
}
__device__ static inline uint32_t saei_device_warp_max(uint32_t x) {
    for (int apart = 16; apart > 0; apart /= 2) {
        uint32_t y = __shfl_xor_sync(SAEI_FULL, x, apart);
        x = y > x ? y : x;
    }
    return x;
}
__device__ static inline uint32_t saei_device_warp_or(uint32_t x) {
    for (int apart = 16; apart > 0; apart /= 2) x |= __shfl_xor_sync(SAEI_FULL, x, apart);
    return x;
}
/* Bits of the lanes before this one. */
__device__ static inline uint32_t saei_device_below(void) {
    return (1u << saei_device_lane()) - 1;
}

__device__ static inline uint32_t saei_device_count_from(const float *value, uint32_t n,
                                                         float cut) {
    uint32_t count = 0;
    for (uint32_t j = saei_device_lane(); j < n; j += 32) count += value[j] >= cut;
    return saei_device_warp_sum(count);
}

/* The largest cut that at least k (1 <= k <= n) of n positive values reach, or one that exactly k
   reach: halves the range of the bits. */
__device__ static float saei_device_kth(const float *value, uint32_t n, uint32_t k) {
    uint32_t lo = 0x7F800000u, hi = 0;
    for (uint32_t j = saei_device_lane(); j < n; j += 32) {
        uint32_t bits = __float_as_uint(value[j]);
        hi = bits > hi ? bits : hi;
        lo = bits < lo ? bits : lo;
    }
    hi = saei_device_warp_max(hi);
    lo = ~saei_device_warp_max(~lo);
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        uint32_t reach = saei_device_count_from(value, n, __uint_as_float(mid));
        if (reach == k) return __uint_as_float(mid);
        if (reach > k) lo = mid;
        else hi = mid - 1;
    }
    return __uint_as_float(lo);
}

/* Keeps entries >= cut, of those == tie_cut only the first `ties`; returns how many. In place: what
   a warp writes lies before what it has not read. */
__device__ static uint32_t saei_device_keep(uint32_t *place, float *value, uint32_t n, float cut,
                                            float tie_cut, unsigned long long ties) {
    uint32_t kept = 0, lane = saei_device_lane();
    for (uint32_t base = 0; base < n; base += 32) {
        float v = base + lane < n ? value[base + lane] : -1;
        uint32_t p = base + lane < n ? place[base + lane] : 0, tied, keep;
        bool tie = v == tie_cut, in;
        tied = __ballot_sync(SAEI_FULL, tie);
        in = v >= cut && (!tie || (uint32_t)__popc(tied & saei_device_below()) < ties);
        keep = __ballot_sync(SAEI_FULL, in);
        if (in) {
            uint32_t at = kept + (uint32_t)__popc(keep & saei_device_below());
            place[at] = p;
            value[at] = v;
        }
        kept += (uint32_t)__popc(keep);
        tied = (uint32_t)__popc(tied);
        ties = ties > tied ? ties - tied : 0;
        __syncwarp();
    }
    return kept;
}

/* Keeps the k largest of n positive values, ties to the lower position, and raises the cut to the
   smallest of them; all of them where n <= k. Returns how many are left. */
__device__ static uint32_t saei_device_top(uint32_t *place, float *value, uint32_t n, uint32_t k,
                                           float *cut) {
    uint32_t reach, above;
    if (n <= k) return n;
    *cut = saei_device_kth(value, n, k);
    reach = saei_device_count_from(value, n, *cut);
    above = saei_device_count_from(value, n, __uint_as_float(__float_as_uint(*cut) + 1));
    return saei_device_keep(place, value, n, *cut, *cut, reach == k ? n : k - above);
}

/* The row's entries: the chosen, and where they are fewer than min(k, m) the first positions
   without a positive value, as zeros. */
__device__ static uint32_t saei_device_top_write(const uint32_t *place, const float *value,
                                                 uint32_t count, uint32_t k, uint32_t m,
                                                 const uint32_t *list, uint32_t *latent,
                                                 float *out) {
    uint32_t lane = saei_device_lane(), zeros = (k < m ? k : m) - count, at = 0, j = 0;
    for (uint32_t base = 0; zeros > 0; base += 32) {
        uint32_t p = j + lane < count ? place[j + lane] : UINT32_MAX;
        uint32_t member = saei_device_warp_or(p - base < 32 ? 1u << (p - base) : 0);
        uint32_t other = ~member & (m - base >= 32 ? SAEI_FULL : (1u << (m - base)) - 1);
        bool zero = (other >> lane & 1)
                    && (uint32_t)__popc(other & saei_device_below()) < zeros;
        uint32_t taken = __ballot_sync(SAEI_FULL, zero), all = member | taken;
        if (all >> lane & 1) {
            uint32_t to = at + (uint32_t)__popc(all & saei_device_below());
            latent[to] = list ? list[base + lane] : base + lane;
            out[to] = zero ? 0 : value[j + (uint32_t)__popc(member & saei_device_below())];
        }
        at += (uint32_t)__popc(all);
        j += (uint32_t)__popc(member);
        zeros -= (uint32_t)__popc(taken);
    }
    for (; j < count; j += 32, at += 32)
        if (j + lane < count) {
            latent[at + lane] = list ? list[place[j + lane]] : place[j + lane];
            out[at + lane] = value[j + lane];
        }
    return k < m ? k : m;
}

/* -- the k n largest of a batch -- */

/* What encode's kernels share. */
typedef struct saei_cuda_encode_task {
    const float *x, *W, *bias, *theta;
    float *warm;
    const uint32_t *list, *list_count;
    uint32_t n, d, ld, m, mc, k;
    unsigned long long want; /* BATCH_TOP_K: k n */
    int select;
    float bandwidth;
    uint32_t *count, *latent; /* of the code */
    float *pre;
    size_t stride;
    uint32_t *w_most, *w_next; /* bits of W's largest norm: of the last call, of this */
    saei_cuda_encode_scratch s;
} saei_cuda_encode_task;

/* Finds the bits of the smallest value to keep in three passes over all values: 11, 10 and 10 bits.
   The block that finishes last picks the bucket. */
__global__ static void saei_histogram_kernel(saei_cuda_encode_task t, int pass) {
    __shared__ uint32_t bins[SAEI_BUCKETS], last;
    __shared__ unsigned long long sums[SAEI_CUDA_THREADS];
    saei_cuda_encode_counts *counts = t.s.counts;
    uint32_t *all = counts->histogram[pass];
    unsigned long long own = 0, before, want = pass ? counts->left : t.want;
    uint32_t shift = pass == 0 ? 20 : pass == 1 ? 10 : 0, mask = pass ? 1023 : 2047;
    uint32_t prefix = counts->prefix, top = SAEI_BUCKETS - 1 - 8 * threadIdx.x;
    if (counts->all) return;
    for (uint32_t b = threadIdx.x; b < SAEI_BUCKETS; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    for (size_t r = blockIdx.x * (blockDim.x >> 5) + saei_device_warp(); r < t.n;
         r += gridDim.x * (blockDim.x >> 5))
        for (uint32_t j = saei_device_lane(); j < t.count[r]; j += 32) {
            uint32_t bits = __float_as_uint(t.pre[r * t.stride + j]);
            if (pass == 0 || bits >> (shift + 10) == prefix)
                atomicAdd(&bins[bits >> shift & mask], 1u);
        }
    __syncthreads();
    for (uint32_t b = threadIdx.x; b < SAEI_BUCKETS; b += blockDim.x)
        if (bins[b]) atomicAdd(&all[b], bins[b]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&counts->done[pass], 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (uint32_t j = 0; j < 8; j++) own += ((volatile uint32_t *)all)[top - j];
    sums[threadIdx.x] = own;
    __syncthreads();
    for (uint32_t apart = 1; apart < blockDim.x; apart *= 2) { /* sums up to and with this thread */
        unsigned long long more = threadIdx.x >= apart ? sums[threadIdx.x - apart] : 0;
        __syncthreads();
        sums[threadIdx.x] += more;
        __syncthreads();
    }
    if (pass == 0 && sums[blockDim.x - 1] <= want) {
        if (threadIdx.x == 0) counts->all = 1;
        return;
    }
    before = sums[threadIdx.x] - own;
    if (before >= want || before + own < want) return;
    for (;; top--) { /* the thread whose buckets hold the last one wanted */
        unsigned long long here = ((volatile uint32_t *)all)[top];
        if (before + here >= want) break;
        before += here;
    }
    counts->prefix = prefix << (pass ? 10 : 0) | top;
    counts->left = want - before;
}

/* rows[r] = how many entries of earlier rows tie with the smallest value to keep. */
__global__ static void saei_ties_kernel(saei_cuda_encode_task t) {
    __shared__ uint32_t last, sums[SAEI_CUDA_THREADS];
    saei_cuda_encode_counts *counts = t.s.counts;
    uint32_t each = (t.n + blockDim.x - 1) / blockDim.x, own = 0, at;
    float cut = __uint_as_float(counts->prefix);
    volatile uint32_t *rows = t.s.rows;
    if (counts->all) return;
    for (size_t r = blockIdx.x * (blockDim.x >> 5) + saei_device_warp(); r < t.n;
         r += gridDim.x * (blockDim.x >> 5)) {
        uint32_t ties = 0;
        for (uint32_t j = saei_device_lane(); j < t.count[r]; j += 32)
            ties += t.pre[r * t.stride + j] == cut;
        ties = saei_device_warp_sum(ties);
        if (saei_device_lane() == 0) rows[r] = ties;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&counts->done[3], 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    at = threadIdx.x * each;
    for (uint32_t r = at; r < at + each && r < t.n; r++) own += rows[r];
    sums[threadIdx.x] = own;
    __syncthreads();
    for (uint32_t apart = 1; apart < blockDim.x; apart *= 2) {
        uint32_t more = threadIdx.x >= apart ? sums[threadIdx.x - apart] : 0;
        __syncthreads();
        sums[threadIdx.x] += more;
        __syncthreads();
    }
    own = sums[threadIdx.x] - own;
    for (uint32_t r = at; r < at + each && r < t.n; r++) {
        uint32_t here = rows[r];
        rows[r] = own;
        own += here;
    }
}

__global__ static void saei_keep_batch_kernel(saei_cuda_encode_task t) {
    const saei_cuda_encode_counts *counts = t.s.counts;
    size_t r = blockIdx.x * (blockDim.x >> 5) + saei_device_warp();
    unsigned long long left = counts->left;
    float cut = __uint_as_float(counts->prefix);
    bool all = counts->all != 0;
    if (blockIdx.x == 0 && threadIdx.x == 0) *t.warm = all ? 0 : 0.9f * cut;
    if (all || r >= t.n) return;
    left = left > t.s.rows[r] ? left - t.s.rows[r] : 0;
    left = saei_device_keep(t.latent + r * t.stride, t.pre + r * t.stride, t.count[r], cut, cut,
                            left);
    if (saei_device_lane() == 0) t.count[r] = (uint32_t)left;
}

static void saei_cuda_keep_batch(const sae_work *w, const saei_cuda_encode_task *t) {
    size_t rows = saei_ceil_div(t->n, SAEI_CUDA_THREADS / 32);
    size_t blocks = saei_min(rows, 4 * (size_t)saei_cuda_of(w)->multiprocessors);
    for (int pass = 0; pass < 3; pass++)
        saei_cuda_launch(w, saei_histogram_kernel, blocks, SAEI_CUDA_THREADS, *t, pass);
    saei_cuda_launch(w, saei_ties_kernel, blocks, SAEI_CUDA_THREADS, *t);
    saei_cuda_launch(w, saei_keep_batch_kernel, rows, SAEI_CUDA_THREADS, *t);
}
