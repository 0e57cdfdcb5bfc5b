#pragma once
#include "dense.cuh"

/* ==== >>cuda: by latent ======================================================================= */

/* -- the counting sort. For each latent and each 64 rows a word of 64 bits says which of the rows
   list it: an entry's place is the latent's begin + the bits of earlier words + the lower bits of
   its own. The result does not depend on the order of threads. 1.5 bits of memory for each
   pair of a row and a latent: W2 50 MB, about 25 us written and read; and nnz (4 + 4 values) bytes
   scattered. -- */

__global__ static void saei_mark_kernel(sae_code code, size_t width, unsigned long long *mask) {
    const size_t r = saei_device_grid_warp();
    if (r >= code.rows) return;
    mask += r / SAEI_CUDA_ROWS * width;
    for (uint32_t j = saei_device_lane(); j < code.count[r]; j += 32)
        atomicOr(mask + code.latent[r * code.stride + j], 1ull << r % SAEI_CUDA_ROWS);
}

/* before[g][i] = entries of latent i in groups before g; begin[i] = entries of the block's latents
   before i; total[block] = entries of all of them. */
__global__ static void saei_count_kernel(const unsigned long long *mask, size_t groups,
                                         size_t width, size_t m, uint32_t *before, size_t *begin,
                                         unsigned long long *total) {
    __shared__ unsigned long long warps[SAEI_CUDA_WARPS];
    const size_t i = saei_device_grid_thread();
    unsigned long long sum, mine;
    uint32_t count = 0;
    for (size_t g = 0; i < m && g < groups; g += 8) {
        unsigned long long word[8];
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++)
            word[k] = g + (size_t)k < groups ? mask[(g + (size_t)k) * width + i] : 0;
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++) {
            if (g + (size_t)k < groups) before[(g + (size_t)k) * width + i] = count;
            count += (uint32_t)__popcll(word[k]);
        }
    }
    sum = mine = count;
    for (unsigned by = 1; by < 32; by *= 2) {
        unsigned long long other = __shfl_up_sync(SAEI_FULL, sum, by);
        if (saei_device_lane() >= by) sum += other;
    }
    if (saei_device_lane() == 31) warps[saei_device_warp()] = sum;
    __syncthreads();
    for (uint32_t k = 0; k < saei_device_warp(); k++) sum += warps[k];
    if (i < m) begin[i] = (size_t)(sum - mine);
    if (threadIdx.x == SAEI_CUDA_PART - 1) total[blockIdx.x] = sum;
}

/* The sum of total[0..blockIdx.x), for every thread of the block. */
__device__ static inline unsigned long long
saei_device_before_block(const unsigned long long *total) {
    __shared__ unsigned long long warps[SAEI_CUDA_WARPS];
    unsigned long long sum = 0;
    for (size_t k = threadIdx.x; k < blockIdx.x; k += blockDim.x) sum += total[k];
    sum = saei_device_warp_total(sum);
    if (saei_device_lane() == 0) warps[saei_device_warp()] = sum;
    __syncthreads();
    sum = 0;
    for (int k = 0; k < SAEI_CUDA_WARPS; k++) sum += warps[k];
    return sum;
}

__global__ static void saei_begin_kernel(const unsigned long long *total, size_t m, size_t *begin) {
    const size_t i = saei_device_grid_thread();
    const unsigned long long before = saei_device_before_block(total);
    if (i < m) begin[i] += (size_t)before;
    if (i == m - 1) begin[m] = (size_t)(before + total[blockIdx.x]);
}

typedef struct saei_cuda_values {
    const float *from[SAE_INDEX_VALUES];
    int count;
} saei_cuda_values;

__global__ static void saei_place_kernel(sae_code code, saei_cuda_values values, size_t width,
                                         const unsigned long long *mask, const uint32_t *before,
                                         sae_index index) {
    const size_t r = saei_device_grid_warp(), group = r / SAEI_CUDA_ROWS * width;
    const unsigned long long lower = (1ull << r % SAEI_CUDA_ROWS) - 1;
    if (r >= code.rows) return;
    for (uint32_t c = saei_device_lane(); c < code.count[r]; c += 32) {
        size_t j = r * code.stride + c, i = code.latent[j], at = group + i;
        size_t to = index.begin[i] + before[at] + (size_t)__popcll(mask[at] & lower);
        index.row[to] = (uint32_t)r;
        SAEI_UNROLL(5)
        for (int v = 0; v < SAE_INDEX_VALUES; v++)
            if (v < values.count) index.value[v][to] = values.from[v][j];
    }
}

static void saei_cuda_index(const sae_work *w, const sae_code *code, const float *const *values,
                            size_t count, sae_index *index) {
    saei_cuda_index_scratch s = saei_cuda_index_scratch_of(w);
    size_t m = index->dict_size, width = saei_align16(m), parts;
    size_t groups = saei_ceil_div(code->rows, SAEI_CUDA_ROWS), rows = saei_cuda_warps(code->rows);
    saei_cuda_values all;
    memset(&all, 0, sizeof all);
    for (size_t v = 0; v < count; v++) all.from[v] = values[v];
    all.count = (int)count;
    parts = saei_ceil_div(m, SAEI_CUDA_PART);
    saei_cuda_clear(w, s.mask, groups * width * sizeof *s.mask);
    saei_cuda_launch(w, saei_mark_kernel, rows, SAEI_CUDA_THREADS, *code, width, s.mask);
    saei_cuda_launch(w, saei_count_kernel, parts, SAEI_CUDA_PART, s.mask, groups, width, m,
                     s.before, index->begin, s.total);
    saei_cuda_launch(w, saei_begin_kernel, parts, SAEI_CUDA_PART, s.total, m, index->begin);
    saei_cuda_launch(w, saei_place_kernel, rows, SAEI_CUDA_THREADS, *code, all, width, s.mask,
                     s.before, *index);
    index->rows = code->rows;
}

/* -- sums of rows by latent -- */

enum {
    SAEI_CUDA_HOT = 512,    /* entries of a latent beyond which its row blocks go in parallel */
    SAEI_CUDA_DEPTH = 32,   /* loads of rows of x in flight there */
    SAEI_CUDA_COLUMNS = 128 /* of a warp: one float4 per lane */
};

/* out = alpha sum, + out if add */
__device__ static inline float saei_device_add_scaled(float alpha, float sum, bool add, float out) {
    return add ? __fmaf_rn(alpha, sum, out) : __fmul_rn(alpha, sum);
}

/* A warp has 128 columns of a latent, the entries of a block of 1024 rows in one chain, with
   eight loads in flight. Latents with many entries go on a list instead. nnz d 4 bytes of x from
   the L2, m d 4 written; W2: 1.1 GB, 67 MB. */
__global__ static void saei_latent_rows_kernel(sae_index index, const float *values,
                                               const float *x, size_t ld, size_t lo, size_t hi,
                                               float alpha, bool add, float *out, uint32_t *hot,
                                               unsigned long long *num_hot) {
    const size_t slices = (ld + SAEI_CUDA_COLUMNS - 1) / SAEI_CUDA_COLUMNS;
    const size_t warp = saei_device_grid_warp(), i = lo + warp / slices;
    const size_t c = warp % slices * SAEI_CUDA_COLUMNS + 4 * saei_device_lane();
    float4 sum = make_float4(0, 0, 0, 0), total = sum;
    bool first = true;
    size_t begin, end;
    uint32_t block;
    if (i >= hi) return;
    begin = index.begin[i];
    end = index.begin[i + 1];
    if (end - begin > SAEI_CUDA_HOT) {
        if (c == 0) hot[atomicAdd(num_hot, 1ull)] = (uint32_t)i;
        return;
    }
    if (c >= ld || (add && begin == end)) return;
    x += c;
    out += i * ld + c;
    block = begin < end ? index.row[begin] / SAE_ROW_BLOCK : 0;
    for (size_t j = begin; j < end; j += 8) {
        float4 v[8];
        float value[8];
        uint32_t row[8];
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++) {
            size_t at = j + (size_t)k < end ? j + (size_t)k : j;
            row[k] = index.row[at];
            value[k] = values[at];
            v[k] = saei_device_float4(x + row[k] * ld);
        }
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++) {
            if (j + (size_t)k >= end) break;
            if (row[k] / SAE_ROW_BLOCK != block) {
                total = first ? sum : saei_device_axpy4(1, sum, total);
                first = false;
                block = row[k] / SAE_ROW_BLOCK;
                sum = make_float4(0, 0, 0, 0);
            }
            sum = saei_device_axpy4(value[k], v[k], sum);
        }
    }
    total = first ? sum : saei_device_axpy4(1, sum, total);
    if (add) total = saei_device_axpy4(alpha, total, saei_device_float4(out));
    else total = make_float4(__fmul_rn(alpha, total.x), __fmul_rn(alpha, total.y),
                             __fmul_rn(alpha, total.z), __fmul_rn(alpha, total.w));
    saei_device_put4(out, total);
}

/* The chain of value[j] x[row[j] ld], with 32 loads in flight. */
__device__ static inline float saei_device_sparse_sum(const uint32_t *row, const float *value,
                                                      uint32_t count, const float *x, size_t ld) {
    float sum = 0;
    uint32_t j = 0;
    for (; j + SAEI_CUDA_DEPTH <= count; j += SAEI_CUDA_DEPTH) {
        float v[SAEI_CUDA_DEPTH];
        SAEI_UNROLL(32)
        for (uint32_t k = 0; k < SAEI_CUDA_DEPTH; k++) v[k] = x[row[j + k] * ld];
        SAEI_UNROLL(32)
        for (uint32_t k = 0; k < SAEI_CUDA_DEPTH; k++) sum = __fmaf_rn(value[j + k], v[k], sum);
    }
    for (; j < count; j++) sum = __fmaf_rn(value[j], x[row[j] * ld], sum);
    return sum;
}

/* The latents on the list: a block has 32 columns of one, and each of its warps every eighth block
   of 1024 rows, with 32 loads in flight; warp 0 adds the blocks' sums in order. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 3)
saei_hot_rows_kernel(sae_index index, const float *values, const float *x, size_t n, size_t ld,
                     float alpha, bool add, float *out, const uint32_t *hot,
                     const unsigned long long *num_hot) {
    __shared__ float sums[SAEI_CUDA_WARPS][32];
    __shared__ uint32_t bound[SAEI_CUDA_WARPS + 1];
    const size_t slices = (ld + 31) / 32, blocks = (n + SAE_ROW_BLOCK - 1) / SAE_ROW_BLOCK;
    const uint32_t lane = saei_device_lane(), warp = saei_device_warp();
    for (size_t job = blockIdx.x; job < *num_hot * slices; job += gridDim.x) {
        const size_t i = hot[job / slices], c = job % slices * 32 + lane, begin = index.begin[i];
        const uint32_t count = (uint32_t)(index.begin[i + 1] - begin);
        const uint32_t *row = index.row + begin;
        const float *value = values + begin;
        float total = 0;
        bool first = true;
        for (size_t block = 0; block < blocks; block += SAEI_CUDA_WARPS) {
            float sum = 0;
            if (threadIdx.x <= SAEI_CUDA_WARPS)
                bound[threadIdx.x] =
                    saei_device_lower(row, count, (block + threadIdx.x) * SAE_ROW_BLOCK);
            __syncthreads();
            if (c < ld)
                sum = saei_device_sparse_sum(row + bound[warp], value + bound[warp],
                                             bound[warp + 1] - bound[warp], x + c, ld);
            sums[warp][lane] = sum;
            __syncthreads();
            for (uint32_t k = 0; warp == 0 && k < SAEI_CUDA_WARPS; k++) {
                if (bound[k] == bound[k + 1]) continue; /* empty blocks add nothing */
                total = first ? sums[k][lane] : __fadd_rn(sums[k][lane], total);
                first = false;
            }
            __syncthreads();
        }
        if (warp == 0 && c < ld)
            out[i * ld + c] = saei_device_add_scaled(alpha, total, add, out[i * ld + c]);
    }
}

static void saei_cuda_latent_rows(const sae_work *w, const sae_index *index, size_t which,
                                  const float *x, size_t lo, size_t hi, float alpha, bool add,
                                  float *out) {
    saei_cuda_latent_rows_scratch s = saei_cuda_latent_rows_scratch_of(w);
    size_t ld = w->shape.ld, n = index->rows ? index->rows : w->shape.batch;
    size_t slices = saei_ceil_div(ld, SAEI_CUDA_COLUMNS);
    if (lo >= hi) return;
    if (!add && saei_cuda_is_dense(w, index->capacity / w->shape.batch)) {
        saei_cuda_lists lists = { index->begin, NULL, 0, index->row, index->value[which] };
        saei_cuda_dense_sums(w, &lists, lo, hi - lo, 0, n, SAE_ROW_BLOCK, x, alpha, NULL, 0,
                             out + lo * ld);
        return;
    }
    saei_cuda_clear(w, s.num_hot, sizeof *s.num_hot);
    saei_cuda_launch(w, saei_latent_rows_kernel, saei_cuda_warps((hi - lo) * slices),
                     SAEI_CUDA_THREADS, *index, index->value[which], x, ld, lo, hi, alpha, add, out,
                     s.hot, s.num_hot);
    saei_cuda_launch(w, saei_hot_rows_kernel,
                     saei_min(4 * (size_t)saei_cuda_of(w)->multiprocessors,
                                   (hi - lo) * saei_ceil_div(ld, 32)),
                     SAEI_CUDA_THREADS, *index, index->value[which], x, n, ld, alpha, add, out,
                     s.hot, s.num_hot);
}

/* -- one number per latent -- */

/* Sum of value[0..count) in double, ascending, by a warp. Where no partial sum can need more than
   53 bits, nothing is rounded and any order gives the chain's bits: then the lanes sum apart. high
   bounds all numbers from above, low is the weight of the lowest bit of any. */
__device__ static inline double saei_device_latent_sum(const float *value, size_t count) {
    int high = -1000, low = 1000, room = 1;
    double sum = 0;
    for (size_t j = saei_device_lane(); j < count; j += 32) {
        uint32_t bits = __float_as_uint(value[j]) & 0x7FFFFFFFu;
        int e = (int)(bits >> 23), zeros;
        uint32_t fraction = (bits & 0x7FFFFFu) | (e ? 0x800000u : 0);
        if (!bits) continue;
        if (e == 255) high = 2000; /* not finite: no short cut */
        e = (e ? e : 1) - 150;     /* the number is fraction 2^e */
        zeros = __ffs((int)fraction) - 1;
        high = high > e + 24 ? high : e + 24;
        low = low < e + zeros ? low : e + zeros;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        int h = __shfl_xor_sync(SAEI_FULL, high, apart), l = __shfl_xor_sync(SAEI_FULL, low, apart);
        high = high > h ? high : h;
        low = low < l ? low : l;
    }
    while (count >> room) room++;
    if (high + room - low <= 53) {
        for (size_t j = saei_device_lane(); j < count; j += 32)
            sum = __dadd_rn(sum, (double)value[j]);
        for (int apart = 16; apart > 0; apart /= 2)
            sum = __dadd_rn(sum, __shfl_xor_sync(SAEI_FULL, sum, apart));
        return sum;
    }
    for (size_t j = 0; j < count; j += 32) {
        float mine = j + saei_device_lane() < count ? value[j + saei_device_lane()] : 0;
        for (int k = 0; k < 32; k++)
            sum = __dadd_rn(sum, (double)__shfl_sync(SAEI_FULL, mine, k)); /* + 0 past the end */
    }
    return sum;
}

/* The sum of this thread's latent: by the thread alone if it has few entries, else by the warp. All
   lanes take part; those without a latent have begin == end. */
__device__ static inline double saei_device_own_sum(const float *value, size_t begin, size_t end) {
    double sum = 0;
    bool many = end - begin > 64;
    unsigned help = __ballot_sync(SAEI_FULL, many);
    for (size_t j = begin; !many && j < end; j++) sum = __dadd_rn(sum, (double)value[j]);
    for (; help; help &= help - 1) {
        int lane = __ffs((int)help) - 1;
        size_t b = __shfl_sync(SAEI_FULL, begin, lane), e = __shfl_sync(SAEI_FULL, end, lane);
        double other = saei_device_latent_sum(value + b, e - b);
        if (saei_device_lane() == (uint32_t)lane) sum = other;
    }
    return sum;
}

/* A latent per thread. 4 nnz + 12 m bytes. */
__global__ static void saei_latent_sums_kernel(sae_index index, const float *value, bool add,
                                               float *out) {
    const size_t i = saei_device_grid_thread();
    const bool mine = i < index.dict_size;
    const size_t begin = mine ? index.begin[i] : 0, end = mine ? index.begin[i + 1] : 0;
    float sum = (float)saei_device_own_sum(value, begin, end);
    if (mine) out[i] = add ? __fadd_rn(out[i], sum) : sum;
}
static void saei_cuda_latent_sums(const sae_work *w, const sae_index *index, size_t which, bool add,
                                  float *out) {
    saei_cuda_launch(w, saei_latent_sums_kernel,
                     saei_ceil_div(index->dict_size, SAEI_CUDA_THREADS), SAEI_CUDA_THREADS, *index,
                     index->value[which], add, out);
}

__global__ static void saei_fired_kernel(sae_index index, const float *value, uint64_t step,
                                         uint64_t *since, const saei_cuda_guard_flag *guard) {
    const size_t i = saei_device_grid_thread();
    const bool mine = i < index.dict_size;
    const size_t begin = mine ? index.begin[i] : 0, end = mine ? index.begin[i + 1] : 0;
    bool fired = end > begin;
    if (guard->bad) return;
    if (value) fired = saei_device_own_sum(value, begin, end) > 0;
    if (mine) since[i] = fired ? 0 : since[i] + step;
}
static void saei_cuda_fired(const sae_work *w, const sae_index *index, int which, uint64_t step,
                            uint64_t *since) {
    saei_cuda_launch(w, saei_fired_kernel, saei_ceil_div(index->dict_size, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, *index, which < 0 ? NULL : index->value[which], step, since,
                     &saei_cuda_of(w)->kept->guard);
}

/* -- lists of silent latents: 8 m bytes read twice, 4 written per silent one -- */

__global__ static void saei_silent_count_kernel(const uint64_t *since, uint64_t threshold, size_t m,
                                                unsigned long long *total) {
    const size_t i = saei_device_grid_thread();
    int count = __syncthreads_count(i < m && since[i] >= threshold);
    if (threadIdx.x == 0) total[blockIdx.x] = (unsigned long long)count;
}
__global__ static void saei_silent_list_kernel(const uint64_t *since, uint64_t threshold, size_t m,
                                               const unsigned long long *total, uint32_t *list,
                                               uint32_t *count) {
    __shared__ uint32_t warps[SAEI_CUDA_WARPS];
    const size_t i = saei_device_grid_thread();
    const bool silent = i < m && since[i] >= threshold;
    const unsigned ballot = __ballot_sync(SAEI_FULL, silent);
    size_t to = (size_t)saei_device_before_block(total);
    if (saei_device_lane() == 0) warps[saei_device_warp()] = (uint32_t)__popc(ballot);
    __syncthreads();
    for (uint32_t k = 0; k < saei_device_warp(); k++) to += warps[k];
    to += (size_t)__popc(ballot & ((1u << saei_device_lane()) - 1));
    if (silent) list[to] = (uint32_t)i;
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == blockDim.x - 1)
        *count = (uint32_t)(to + silent);
}
static void saei_cuda_silent(const sae_work *w, saei_cuda_list_silent_scratch s,
                             const uint64_t *since, uint64_t threshold, size_t m, uint32_t *list,
                             uint32_t *count) {
    size_t parts = saei_ceil_div(m, SAEI_CUDA_PART);
    saei_cuda_launch(w, saei_silent_count_kernel, parts, SAEI_CUDA_PART, since, threshold, m,
                     s.total);
    saei_cuda_launch(w, saei_silent_list_kernel, parts, SAEI_CUDA_PART, since, threshold, m,
                     s.total, list, count);
}
static void saei_cuda_list_silent(const sae_work *w, const uint64_t *since, uint64_t threshold,
                                  size_t m, uint32_t *list, uint32_t *count) {
    saei_cuda_silent(w, saei_cuda_list_silent_scratch_of(w), since, threshold, m, list, count);
}
