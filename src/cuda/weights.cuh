#pragma once
#include "../base/adam.h"
#include "latents.cuh"
#include "sums.cuh"

/* ==== >>cuda: weights ========================================================================= */

/* A quad per row. m d 4 bytes: W2's W_dec 67 MB. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 4)
saei_row_norms_kernel(const float *W, size_t m, size_t ld, float *out, double *wide) {
    const size_t i = saei_device_grid_thread() / 4;
    double norm = __dsqrt_rn(saei_device_dot(W + i * ld, W + i * ld, i < m ? ld : 0));
    if (i >= m || threadIdx.x % 4 != 0) return;
    if (out) out[i] = (float)norm;
    else wide[i] = norm;
}
/* out[i] or, if that is NULL, wide[i] = norm of row i */
static void saei_cuda_norms(const sae_work *w, const float *W, size_t m, float *out, double *wide) {
    saei_cuda_launch(w, saei_row_norms_kernel, saei_ceil_div(4 * m, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, W, m, w->shape.ld, out, wide);
}
static void saei_cuda_row_norms(const sae_work *w, const float *W, size_t m, float *out) {
    saei_cuda_norms(w, W, m, out, NULL);
}

__global__ static void saei_norm_weight_kernel(const float *norms, int power, size_t m,
                                               float *weight) {
    const size_t i = saei_device_grid_thread();
    if (i < m) weight[i] = power == 2 ? __fmul_rn(norms[i], norms[i]) : norms[i];
}
static void saei_cuda_norm_weight(const sae_work *w, const float *norms, int power, size_t m,
                                  float *weight) {
    saei_cuda_launch(w, saei_norm_weight_kernel, saei_ceil_div(m, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, norms, power, m, weight);
}

/* A warp per row. m d 12 bytes. */
__global__ static void saei_norm_grad_kernel(const float *W, const float *norms, const float *sums,
                                             int power, float coef, size_t m, size_t ld,
                                             float *grad) {
    const size_t i = saei_device_grid_warp(), at = i * ld;
    float c;
    if (i >= m) return;
    c = __fmul_rn(coef, sums[i]);
    c = power == 2 ? __fmul_rn(2, c) : norms[i] > 0 ? __fdiv_rn(c, norms[i]) : 0;
    for (size_t k = 4 * saei_device_lane(); k < ld; k += 128)
        saei_device_put4(grad + at + k, saei_device_axpy4(c, saei_device_float4(W + at + k),
                                                          saei_device_float4(grad + at + k)));
}
static void saei_cuda_norm_grad(const sae_work *w, const float *W, const float *norms,
                                const float *sums, int power, float coef, size_t m, float *grad) {
    saei_cuda_launch(w, saei_norm_grad_kernel, saei_cuda_warps(m), SAEI_CUDA_THREADS, W, norms,
                     sums, power, coef, m, w->shape.ld, grad);
}

/* -- projection, Adam, unit norm -- */

typedef struct saei_cuda_adam_step {
    saei_adam_factors by;      /* but its scale: the device computes it, for clipping */
    const double *sum_squares; /* D or NULL: gradients are clipped to max_norm */
    double max_norm;
    const saei_cuda_guard_flag *guard;
} saei_cuda_adam_step;

static saei_cuda_adam_step saei_cuda_adam_step_of(const sae_work *w, const sae_adam_desc *adam,
                                                  uint64_t t, const double *sum_squares,
                                                  double max_norm) {
    saei_cuda_adam_step c;
    c.by = saei_adam_step_of(adam, t, 1);
    c.sum_squares = sum_squares;
    c.max_norm = max_norm;
    c.guard = &saei_cuda_of(w)->kept->guard;
    return c;
}

__device__ static inline float saei_device_clip(const saei_cuda_adam_step &c) {
    double factor;
    if (!c.sum_squares) return 1;
    factor = __ddiv_rn(c.max_norm, __dadd_rn(__dsqrt_rn(*c.sum_squares), 1e-6));
    return (float)(factor < 1 ? factor : 1);
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where the CPU rounds. Without a first moment m is g. */
__device__ static inline float saei_device_adam(const saei_cuda_adam_step &c, float scale, float p,
                                                float g, float *m, float *v) {
    float x = __fmul_rn(g, scale), m1 = x, v1;
    if (m) *m = m1 = __fmaf_rn(c.by.keep1, __fsub_rn(x, *m), *m);
    v1 = __fmaf_rn(__fmul_rn(c.by.keep2, x), x, __fmul_rn(c.by.beta2, *v));
    *v = v1;
    v1 = __fadd_rn(__fdiv_rn(__fsqrt_rn(v1), c.by.root2), c.by.eps);
    return __fadd_rn(p, __fdiv_rn(__fmul_rn(-c.by.step, m1), v1));
}
__device__ static inline float4 saei_device_adam4(const saei_cuda_adam_step &c, float scale,
                                                  float4 p, float4 g, float *first, float *second) {
    float4 m = make_float4(0, 0, 0, 0), v = saei_device_float4(second);
    if (first) m = saei_device_float4(first);
    p.x = saei_device_adam(c, scale, p.x, g.x, first ? &m.x : NULL, &v.x);
    p.y = saei_device_adam(c, scale, p.y, g.y, first ? &m.y : NULL, &v.y);
    p.z = saei_device_adam(c, scale, p.z, g.z, first ? &m.z : NULL, &v.z);
    p.w = saei_device_adam(c, scale, p.w, g.w, first ? &m.w : NULL, &v.w);
    if (first) saei_device_put4(first, m);
    saei_device_put4(second, v);
    return p;
}

/* Four floats per thread. 28 bytes per float (20 without a first moment). */
__global__ static void saei_adam_kernel(saei_cuda_adam_step step, size_t count, float *param,
                                        const float *grad, float *first, float *second) {
    const size_t at = 4 * saei_device_grid_thread();
    const float scale = saei_device_clip(step);
    if (step.guard->bad || at >= count) return;
    if (at + 4 <= count) {
        float4 p = saei_device_float4(param + at), g = saei_device_float4(grad + at);
        saei_device_put4(param + at, saei_device_adam4(step, scale, p, g,
                                                       first ? first + at : NULL, second + at));
        return;
    }
    for (size_t i = at; i < count; i++)
        param[i] = saei_device_adam(step, scale, param[i], grad[i], first ? first + i : NULL,
                                    second + i);
}
static void saei_cuda_adam(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                           const double *sum_squares, double max_norm, float *param,
                           const float *grad, float *first, float *second, size_t count) {
    saei_cuda_launch(w, saei_adam_kernel, saei_ceil_div(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS,
                     saei_cuda_adam_step_of(w, adam, t, sum_squares, max_norm), count, param, grad,
                     first, second);
}

/* The dot of a and b by each half of the warp on its own, one of the 16 lanes per thread: for rows
   in shared memory. */
__device__ static inline double saei_device_half_dot(const float *a, const float *b, size_t ld) {
    size_t c = threadIdx.x & 15u;
    float s = 0;
    double sum;
    for (; c + 112 < ld; c += 128)
        SAEI_UNROLL(8)
        for (int k = 0; k < 128; k += 16) s = __fmaf_rn(a[c + k], b[c + k], s);
    for (; c < ld; c += 16) s = __fmaf_rn(a[c], b[c], s);
    sum = (double)s;
    for (int apart = 8; apart > 0; apart /= 2)
        sum = __dadd_rn(sum, __shfl_xor_sync(SAEI_FULL, sum, apart));
    return sum;
}

typedef struct saei_cuda_row_job {
    size_t m, ld, room; /* room: floats of shared memory of a warp */
    float project, unit;
    float *param, *grad, *first, *second;
} saei_cuda_row_job;

/* A warp per row of param and grad, which are STAGED in shared memory: PROJECT removes the part of
   grad along param, ADAM updates param, UNIT scales it to norm 1. Without STAGED (rows too long)
   each part reads them again. With it: m d 28 bytes with Adam (20 without a first moment,
   4 more with PROJECT), 12 to project, 8 to normalize; W2's W_dec 470, 201 and 134 MB. */
template <bool PROJECT, bool ADAM, bool UNIT, bool STAGED>
__global__ static void saei_rows_kernel(saei_cuda_row_job job, saei_cuda_adam_step step) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    const size_t i = saei_device_grid_warp(), ld = job.ld, at = i * ld;
    const size_t lane = saei_device_lane(), first = 4 * lane;
    const float scale = ADAM ? saei_device_clip(step) : 1;
    float *param = job.param + at, *grad = PROJECT || ADAM ? job.grad + at : NULL;
    float *own = reinterpret_cast<float *>(saei_shared) + saei_device_warp() * job.room;
    float *p = STAGED ? own : param;
    float *g = STAGED ? own + (ld + 16) / 32 * 32 + 16 : grad; /* 16 banks away from p */
    float along = 0;
    bool project = false;
    if (i >= job.m || ((ADAM || UNIT) && step.guard->bad)) return;
    if (STAGED) {
        SAEI_UNROLL(4)
        for (size_t c = first; c < ld; c += 128) {
            saei_device_put4(p + c, saei_device_float4(param + c));
            if (PROJECT) saei_device_put4(g + c, saei_device_float4(grad + c));
        }
        __syncwarp();
    }
    if (PROJECT) { /* one half of the warp has param.param, the other grad.param */
        double mine = saei_device_half_dot(lane < 16 ? p : g, p, ld);
        double other = __shfl_xor_sync(SAEI_FULL, mine, 16);
        double norm = __dadd_rn(__dsqrt_rn(lane < 16 ? mine : other), (double)job.project);
        project = norm > 0;
        if (project)
            along = (float)-__ddiv_rn(__ddiv_rn(lane < 16 ? other : mine, norm), norm);
    }
    if (PROJECT || ADAM) {
        SAEI_UNROLL(2)
        for (size_t c = first; c < ld; c += 128) {
            float4 pc = saei_device_float4(p + c);
            float4 gc = saei_device_float4((PROJECT ? g : grad) + c);
            if (project) gc = saei_device_axpy4(along, pc, gc);
            if (PROJECT) saei_device_put4(grad + c, gc); /* grad_norm is the projected one's */
            if (ADAM) {
                pc = saei_device_adam4(step, scale, pc, gc, job.first ? job.first + at + c : NULL,
                                       job.second + at + c);
                saei_device_put4((UNIT ? p : param) + c, pc);
            }
        }
        __syncwarp();
    }
    if (UNIT) {
        double norm = __dadd_rn(__dsqrt_rn(saei_device_half_dot(p, p, ld)), (double)job.unit);
        float by = (float)norm;
        for (size_t c = first; c < ld; c += 128) {
            float4 v = saei_device_float4(p + c);
            if (norm > 0)
                v = make_float4(__fdiv_rn(v.x, by), __fdiv_rn(v.y, by), __fdiv_rn(v.z, by),
                                __fdiv_rn(v.w, by));
            saei_device_put4(param + c, v);
        }
    }
}

template <bool PROJECT, bool ADAM, bool UNIT>
static void saei_cuda_rows(const sae_work *w, saei_cuda_row_job job, saei_cuda_adam_step step) {
    const size_t most = 48 * 1024;
    size_t row, warps = SAEI_CUDA_WARPS;
    job.ld = w->shape.ld;
    job.room = (job.ld + 16) / 32 * 32 + 16;
    if (PROJECT) job.room += job.ld;
    job.room = saei_align16(job.room);
    row = job.room * sizeof(float);
    while (warps > 1 && warps * row > most) warps /= 2;
    if (warps * row > most)
        saei_cuda_launch(w, saei_rows_kernel<PROJECT, ADAM, UNIT, false>, saei_cuda_warps(job.m),
                         SAEI_CUDA_THREADS, job, step);
    else
        saei_cuda_launch_shared(w, saei_rows_kernel<PROJECT, ADAM, UNIT, true>,
                                saei_ceil_div(job.m, warps), (unsigned)warps * 32, warps * row,
                                job, step);
}

static void saei_cuda_remove_parallel(const sae_work *w, const float *W, size_t m, float eps,
                                      const sae_lag *lag, float *grad) {
    saei_cuda_adam_step step;
    saei_cuda_row_job job;
    (void)lag; /* no row is deferred: there is no catch_up */
    memset(&step, 0, sizeof step);
    memset(&job, 0, sizeof job);
    job.m = m;
    job.project = eps;
    job.param = const_cast<float *>(W); /* only read */
    job.grad = grad;
    saei_cuda_rows<true, false, false>(w, job, step);
}
static void saei_cuda_normalize_rows(const sae_work *w, size_t m, float eps, float *W) {
    saei_cuda_adam_step step;
    saei_cuda_row_job job;
    memset(&step, 0, sizeof step);
    memset(&job, 0, sizeof job);
    step.guard = &saei_cuda_of(w)->kept->guard;
    job.m = m;
    job.unit = eps;
    job.param = W;
    saei_cuda_rows<false, false, true>(w, job, step);
}
static void saei_cuda_adam_rows(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                                const double *sum_squares, double max_norm, float project,
                                float unit, const sae_lag *lag, size_t m, float *param,
                                float *grad, float *first, float *second) {
    saei_cuda_adam_step step = saei_cuda_adam_step_of(w, adam, t, sum_squares, max_norm);
    saei_cuda_row_job job;
    (void)lag;
    memset(&job, 0, sizeof job);
    job.m = m;
    job.project = project;
    job.unit = unit;
    job.param = param;
    job.grad = grad;
    job.first = first;
    job.second = second;
    if (project >= 0 && unit >= 0) saei_cuda_rows<true, true, true>(w, job, step);
    else if (project >= 0) saei_cuda_rows<true, true, false>(w, job, step);
    else if (unit >= 0) saei_cuda_rows<false, true, true>(w, job, step);
    else saei_cuda_adam(w, adam, t, sum_squares, max_norm, param, grad, first, second,
                        m * w->shape.ld);
}

/* -- threshold -- */

/* least[r] = the smallest positive value of row r, 0 if it has none. 4 bytes per entry. */
__global__ static void saei_least_kernel(sae_code code, double *least) {
    const size_t r = saei_device_grid_warp();
    unsigned bits = UINT32_MAX; /* floats above 0 are ordered as their bits */
    if (r >= code.rows) return;
    for (uint32_t j = saei_device_lane(); j < code.count[r]; j += 32) {
        float v = code.value[r * code.stride + j];
        if (v > 0) bits = __float_as_uint(v) < bits ? __float_as_uint(v) : bits;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        unsigned other = __shfl_xor_sync(SAEI_FULL, bits, apart);
        bits = other < bits ? other : bits;
    }
    if (saei_device_lane() == 0) least[r] = bits == UINT32_MAX ? 0 : (double)__uint_as_float(bits);
}
__global__ static void saei_threshold_kernel(const double *least, size_t n, bool by_row,
                                             double beta, double keep, float *threshold,
                                             const saei_cuda_guard_flag *guard) {
    __shared__ unsigned rows, bits;
    double total;
    float now;
    if (threadIdx.x == 0) {
        rows = 0;
        bits = UINT32_MAX;
    }
    __syncthreads();
    for (size_t r = threadIdx.x; r < n; r += blockDim.x) {
        if (least[r] == 0) continue;
        atomicAdd(&rows, 1u);
        atomicMin(&bits, __float_as_uint((float)least[r]));
    }
    __syncthreads();
    total = saei_device_scalars(least, n);
    if (threadIdx.x != 0 || guard->bad || (by_row && !rows)) return;
    now = by_row ? (float)__ddiv_rn(total, (double)rows) : rows ? __uint_as_float(bits) : 0;
    if (!(*threshold < 0))
        now = (float)__dadd_rn(__dmul_rn(beta, (double)*threshold), __dmul_rn(keep, (double)now));
    *threshold = now;
}
static void saei_cuda_update_threshold(const sae_work *w, const sae_code *code, bool by_row,
                                       double beta, float *threshold) {
    double *least = saei_cuda_row_sums_scratch_of(w).sums;
    saei_cuda_launch(w, saei_least_kernel, saei_cuda_warps(code->rows), SAEI_CUDA_THREADS, *code,
                     least);
    saei_cuda_launch(w, saei_threshold_kernel, 1, SAEI_CUDA_THREADS, least, code->rows, by_row,
                     beta, 1 - beta, threshold, &saei_cuda_of(w)->kept->guard);
}

/* -- geometric median (Weiszfeld): 100 rounds, those after it has settled do nothing -- */

__global__ static void saei_median_begin_kernel(const double *partial, size_t blocks, size_t n,
                                                size_t ld, float *out,
                                                const saei_cuda_guard_flag *guard,
                                                uint32_t *done) {
    const size_t c = saei_device_grid_thread();
    if (c == 0) *done = guard->bad;
    if (c >= ld || guard->bad) return;
    out[c] = (float)__ddiv_rn(saei_device_column(partial, blocks, ld, c), (double)n);
}
/* weights[r] = 1 / max(norm of x_r - guess, 1e-20); a quad per row. n d 4 bytes, from the L2. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 4)
saei_distance_kernel(const float *x, const float *guess, size_t n, size_t ld, double *weights,
                     const uint32_t *done) {
    const size_t r = saei_device_grid_thread() / 4;
    float4 s = make_float4(0, 0, 0, 0);
    float norm;
    if (*done) return;
    for (size_t c = 4 * (threadIdx.x & 3u); r < n && c < ld; c += 16) {
        float4 v = saei_device_axpy4(-1, saei_device_float4(guess + c),
                                     saei_device_float4(x + r * ld + c));
        s = saei_device_fma4(v, v, s);
    }
    norm = (float)__dsqrt_rn(saei_device_quad_sum(s));
    norm = norm > 1e-20f ? norm : 1e-20f;
    if (r < n && threadIdx.x % 4 == 0) weights[r] = (double)__fdiv_rn(1, norm);
}
__global__ static void saei_median_weights_kernel(const double *weights, size_t n, float *shares,
                                                  const uint32_t *done) {
    __shared__ double total;
    double sum;
    if (*done) return;
    sum = saei_device_scalars(weights, n);
    if (threadIdx.x == 0) total = sum;
    __syncthreads();
    for (size_t r = threadIdx.x; r < n; r += blockDim.x)
        shares[r] = (float)__ddiv_rn(weights[r], total);
}
__global__ static void saei_median_move_kernel(const double *partial, size_t blocks, size_t ld,
                                               float *move, float *out, uint32_t *done) {
    double norm;
    if (*done) return;
    for (size_t c = threadIdx.x; c < ld; c += blockDim.x) {
        float to = (float)saei_device_column(partial, blocks, ld, c);
        move[c] = __fsub_rn(to, out[c]);
        out[c] = to;
    }
    __syncthreads();
    norm = __dsqrt_rn(saei_device_dot(move, move, threadIdx.x < 4 ? ld : 0));
    __syncthreads();
    if (threadIdx.x == 0 && norm < 1e-5) *done = 1;
}
/* DEVIATION, as on the CPU: a row at the guess itself has weight 1e20. */
static void saei_cuda_geometric_median(const sae_work *w, const float *x, size_t n, float *out) {
    saei_cuda_median_scratch s = saei_cuda_median_scratch_of(w);
    size_t ld = w->shape.ld, blocks = saei_ceil_div(n, SAE_ROW_BLOCK);
    saei_cuda_block_sum(w, x, NULL, n, s.partial, NULL);
    saei_cuda_launch(w, saei_median_begin_kernel, saei_ceil_div(ld, 32), 32, s.partial, blocks, n,
                     ld, out, &saei_cuda_of(w)->kept->guard, s.done);
    for (int round = 0; round < 100; round++) {
        saei_cuda_launch(w, saei_distance_kernel, saei_ceil_div(4 * n, SAEI_CUDA_THREADS),
                         SAEI_CUDA_THREADS, x, out, n, ld, s.weights, s.done);
        saei_cuda_launch(w, saei_median_weights_kernel, 1, SAEI_CUDA_THREADS, s.weights, n,
                         s.shares, s.done);
        saei_cuda_block_sum(w, x, s.shares, n, s.partial, s.done);
        saei_cuda_launch(w, saei_median_move_kernel, 1, SAEI_CUDA_THREADS, s.partial, blocks, ld,
                         s.move, out, s.done);
    }
}

/* -- resampling -- */

/* The mean norm of the living: norms of W_enc with 0 for the dead, one chain of m additions. Rare
   enough that its time (W2: about 0.3 ms) does not matter. */
__global__ static void saei_living_kernel(const uint64_t *since, uint64_t threshold, size_t m,
                                          double *norms) {
    const size_t i = saei_device_grid_thread();
    if (i < m && since[i] > threshold) norms[i] = 0; /* adds nothing */
}
__global__ static void saei_mean_living_kernel(const double *norms, size_t m, const uint32_t *dead,
                                               double *mean) {
    enum { PIECE = 2048 };
    __shared__ double piece[PIECE];
    double sum = 0;
    for (size_t base = 0; base < m; base += PIECE) {
        for (size_t i = threadIdx.x; i < PIECE; i += blockDim.x)
            piece[i] = base + i < m ? norms[base + i] : 0;
        __syncthreads();
        for (int i = 0; threadIdx.x == 0 && i < PIECE; i++) sum = __dadd_rn(sum, piece[i]);
        __syncthreads();
    }
    if (threadIdx.x == 0) *mean = m > *dead ? __ddiv_rn(sum, (double)(m - *dead)) : 0;
}

/* keys[r]: the smallest of Exp(1)/weight are a draw without replacement in proportion to weight. */
__global__ static void saei_draw_kernel(const float *e, size_t n, size_t ld, uint64_t seed,
                                        uint64_t step, double *keys) {
    const size_t r = saei_device_grid_thread() / 4;
    double norm = __dsqrt_rn(saei_device_dot(e + r * ld, e + r * ld, r < n ? ld : 0));
    uint64_t draw = step * ((uint64_t)1 << 32) + r;
    uint32_t block[4];
    double u;
    if (r >= n || threadIdx.x % 4 != 0) return;
    saei_draw_block(seed, SAEI_STREAM_RESAMPLE, draw / 2, block);
    u = saei_draw_uniform(saei_draw_bits(block, draw));
    keys[r] = norm > 0 ? __ddiv_rn(-saei_ln(u), norm) : HUGE_VAL;
}
/* order[place of row r by (key, row)] = r: n^2 comparisons, but rarely. */
__global__ static void saei_order_kernel(const double *keys, size_t n, uint32_t *order) {
    __shared__ double piece[SAEI_CUDA_THREADS];
    const size_t r = saei_device_grid_thread();
    const double mine = r < n ? keys[r] : 0;
    uint32_t place = 0;
    for (size_t base = 0; base < n; base += blockDim.x) {
        size_t count = n - base < blockDim.x ? n - base : blockDim.x;
        if (threadIdx.x < count) piece[threadIdx.x] = keys[base + threadIdx.x];
        __syncthreads();
        for (size_t k = 0; k < count; k++)
            place += piece[k] < mine || (piece[k] == mine && base + k < r);
        __syncthreads();
    }
    if (r < n) order[place] = (uint32_t)r;
}

typedef struct saei_cuda_restart {
    const float *x;
    const uint32_t *order, *dead, *num_dead;
    const double *mean;
    const saei_cuda_guard_flag *guard;
    size_t n, ld, num_biases;
    float *enc[3], *dec[3], *biases[3][3];
} saei_cuda_restart;

/* A warp per dead latent. */
__global__ static void saei_restart_kernel(saei_cuda_restart job) {
    const size_t used = saei_device_grid_warp(), ld = job.ld;
    const float *from;
    float norm, scale;
    size_t at;
    uint32_t i;
    if (job.guard->bad || used >= *job.num_dead || used >= job.n) return;
    i = job.dead[used];
    at = i * ld;
    from = job.x + job.order[used] * ld;
    norm = (float)__dsqrt_rn(saei_device_dot(from, from, ld));
    scale = __fmul_rn((float)*job.mean, 0.2f);
    for (size_t c = saei_device_lane(); c < ld; c += 32) {
        job.enc[0][at + c] = __fmul_rn(from[c], scale);
        job.dec[0][at + c] = norm > 0 ? __fdiv_rn(from[c], norm) : 0;
        for (int k = 1; k < 3; k++) {
            if (job.enc[k]) job.enc[k][at + c] = 0;
            if (job.dec[k]) job.dec[k][at + c] = 0;
        }
    }
    for (size_t b = 0; saei_device_lane() == 0 && b < job.num_biases; b++)
        for (int k = 0; k < 3; k++)
            if (job.biases[b][k]) job.biases[b][k][i] = 0;
}

static void saei_cuda_resample(const sae_work *w, const float *x, const float *e, size_t n,
                               const uint64_t *since, uint64_t threshold, size_t m, uint64_t seed,
                               uint64_t step, float *const enc[3], float *const dec[3],
                               float *const (*biases)[3], size_t num_biases) {
    saei_cuda_resample_scratch s = saei_cuda_resample_scratch_of(w);
    saei_cuda_restart job;
    if (threshold == UINT64_MAX) return; /* none is dead */
    saei_cuda_silent(w, s.silent, since, threshold + 1, m, s.dead, s.num_dead);
    saei_cuda_norms(w, enc[0], m, NULL, s.norms);
    saei_cuda_launch(w, saei_living_kernel, saei_ceil_div(m, SAEI_CUDA_THREADS), SAEI_CUDA_THREADS,
                     since, threshold, m, s.norms);
    saei_cuda_launch(w, saei_mean_living_kernel, 1, SAEI_CUDA_THREADS, s.norms, m,
                     s.num_dead, s.mean);
    saei_cuda_launch(w, saei_draw_kernel, saei_ceil_div(4 * n, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, e, n, w->shape.ld, seed, step, s.keys);
    saei_cuda_launch(w, saei_order_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS), SAEI_CUDA_THREADS,
                     s.keys, n, s.order);
    memset(&job, 0, sizeof job);
    job.x = x;
    job.order = s.order;
    job.dead = s.dead;
    job.num_dead = s.num_dead;
    job.mean = s.mean;
    job.guard = &saei_cuda_of(w)->kept->guard;
    job.n = n;
    job.ld = w->shape.ld;
    job.num_biases = num_biases;
    for (int k = 0; k < 3; k++) {
        job.enc[k] = enc[k];
        job.dec[k] = dec[k];
        for (size_t b = 0; b < num_biases && b < 3; b++) job.biases[b][k] = biases[b][k];
    }
    saei_cuda_launch(w, saei_restart_kernel, saei_cuda_warps(saei_min(m, n)),
                     SAEI_CUDA_THREADS, job);
}
