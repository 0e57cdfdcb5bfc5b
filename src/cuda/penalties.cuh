#pragma once
#include "scalars.cuh"

/* ==== >>cuda: penalties ======================================================================= */

/* A block takes 16 lists. Tiles of 64 entries of each go through shared memory: all warps compute
   the terms, and lane r of warp 0 adds those of row r in their order. */
enum { SAEI_CUDA_LISTS = 16, SAEI_CUDA_TERMS = 64 };

/* term(row of the block, place of the entry) summed over each row's entries; the first 16 threads
   get the sums of their rows. */
template <typename Term>
__device__ static inline double saei_device_chains(const sae_code &code, size_t first, double *tile,
                                                   Term term) {
    uint32_t most = 0;
    double sum = 0;
    for (size_t r = first; r < first + SAEI_CUDA_LISTS && r < code.rows; r++)
        most = code.count[r] > most ? code.count[r] : most;
    for (uint32_t j = 0; j < most; j += SAEI_CUDA_TERMS) {
        for (uint32_t r = saei_device_warp(); r < SAEI_CUDA_LISTS; r += SAEI_CUDA_WARPS) {
            uint32_t count = first + r < code.rows ? code.count[first + r] : 0;
            for (uint32_t c = saei_device_lane(); c < SAEI_CUDA_TERMS; c += 32)
                tile[r * (SAEI_CUDA_TERMS + 1) + c] =
                    j + c < count ? term(r, (first + r) * code.stride + j + c) : 0;
        }
        __syncthreads();
        if (threadIdx.x < SAEI_CUDA_LISTS)
            for (uint32_t c = 0; c < SAEI_CUDA_TERMS; c++)
                sum = __dadd_rn(sum, tile[threadIdx.x * (SAEI_CUDA_TERMS + 1) + c]);
        __syncthreads();
    }
    return sum;
}

__device__ static inline double saei_device_power(float x, double p) {
    return x > 0 ? saei_pow((double)x, p) : 0;
}
/* q and -dH/dq of the entropy, from f and the row's sum */
__device__ static inline double saei_device_share(float f, double sum) {
    return __ddiv_rn((double)f, __dadd_rn(sum, 1e-8));
}
__device__ static inline double saei_device_slope(double q) {
    double room = __dadd_rn(q, 1e-8);
    return -__dadd_rn(saei_ln(room), __ddiv_rn(q, room));
}

/* sums[r] = the row's penalty, and its gradient. 12 bytes per entry, a third of them written. */
__global__ static void saei_penalty_kernel(sae_code code, int kind, double p, float coef, size_t m,
                                           const float *weight, const float *values, float *grad,
                                           double *sums) {
    __shared__ double tile[SAEI_CUDA_LISTS * (SAEI_CUDA_TERMS + 1)];
    __shared__ double total[SAEI_CUDA_LISTS], factor[SAEI_CUDA_LISTS];
    const size_t first = (size_t)blockIdx.x * SAEI_CUDA_LISTS;
    const bool lp = kind == SAE_PENALTY_LP || kind == SAE_PENALTY_LP_P;
    const bool writes = threadIdx.x < SAEI_CUDA_LISTS && first + threadIdx.x < code.rows;
    double sum = saei_device_chains(code, first, tile, [=](uint32_t, size_t j) {
        if (lp) return saei_device_power(values[j], p);
        if (kind == SAE_PENALTY_L1 && weight)
            return __dmul_rn((double)weight[code.latent[j]], (double)values[j]);
        return (double)values[j];
    });
    if (lp) {
        double outer = p, result;
        if (p == 0) sum = (double)m; /* 0^0 is 1 */
        result = sum;
        if (kind == SAE_PENALTY_LP && writes) {
            double root = __ddiv_rn(1, p);
            outer = sum > 0 ? saei_pow(sum, __dsub_rn(root, 1)) : 0;
            result = sum > 0 ? saei_pow(sum, root) : 0;
        }
        sum = result;
        if (threadIdx.x < SAEI_CUDA_LISTS) factor[threadIdx.x] = outer;
    } else if (kind == SAE_PENALTY_ENTROPY) {
        double mean;
        if (threadIdx.x < SAEI_CUDA_LISTS) total[threadIdx.x] = sum;
        __syncthreads();
        sum = saei_device_chains(code, first, tile, [&](uint32_t r, size_t j) {
            double q = saei_device_share(values[j], total[r]);
            if (!(total[r] > 0)) return 0.0;
            return -__dmul_rn(q, saei_ln(__dadd_rn(q, 1e-8)));
        });
        mean = saei_device_chains(code, first, tile, [&](uint32_t r, size_t j) {
            double q = saei_device_share(values[j], total[r]);
            return total[r] > 0 ? __dmul_rn(saei_device_slope(q), q) : 0;
        });
        if (threadIdx.x < SAEI_CUDA_LISTS) factor[threadIdx.x] = mean;
    }
    if (writes) sums[first + threadIdx.x] = sum;
    __syncthreads();
    if (!grad) return;
    for (uint32_t r = saei_device_warp(); r < SAEI_CUDA_LISTS && first + r < code.rows;
         r += SAEI_CUDA_WARPS) {
        size_t at = (first + r) * code.stride, end = at + code.count[first + r];
        for (size_t j = at + saei_device_lane(); j < end; j += 32) {
            float f = values[j], slope = 1;
            if (!(f > 0)) continue;
            if (lp)
                slope = (float)__dmul_rn(factor[r], saei_device_power(f, __dsub_rn(p, 1)));
            else if (kind == SAE_PENALTY_ENTROPY) {
                double q = saei_device_share(f, total[r]);
                if (!(total[r] > 0)) continue;
                slope = (float)__ddiv_rn(__dsub_rn(saei_device_slope(q), factor[r]),
                                         __dadd_rn(total[r], 1e-8));
            } else if (weight) slope = weight[code.latent[j]];
            grad[j] = __fadd_rn(grad[j], __fmul_rn(coef, slope));
        }
    }
}

static void saei_cuda_penalty(const sae_work *w, sae_penalty kind, double p, double coef,
                              const float *weight, const sae_code *code, const float *values,
                              float *grad, double *loss) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    saei_cuda_launch(w, saei_penalty_kernel, saei_ceil_div(code->rows, SAEI_CUDA_LISTS),
                     SAEI_CUDA_THREADS, *code, (int)kind, p, (float)(coef / (double)code->rows),
                     w->shape.dict_size, weight, values, grad, sums);
    saei_cuda_mean(w, sums, code->rows, (double)code->rows, loss);
}

/* -- dots -- */

enum { SAEI_CUDA_WINDOW = 64 };

/* A warp has a row of e, in shared memory if STAGED, and takes 8 entries at a time, one per quad. A
   block whose lists are dense goes through the latents in windows, so that a row of W that one of
   its warps reads lies in the L1 for the others. nnz d 4 bytes of W from the L2; W2: 1.1 GB. (The
   launch bounds leave registers for all eight loads of a dot in flight.) */
template <bool STAGED>
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 4)
saei_dots_kernel(sae_code code, const float *e, const float *W, size_t ld, size_t lo, size_t hi,
                 float alpha, const float *relu_of, float *grad) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    const uint32_t lane = saei_device_lane(), warps = blockDim.x >> 5;
    const size_t r = saei_device_grid_warp(), first = (size_t)blockIdx.x * warps;
    const uint32_t *latent = code.latent + r * code.stride;
    const float *row = e + r * ld;
    uint32_t at = 0, end = 0;
    size_t window = hi - lo, entries = 0;
    for (size_t i = first; i < first + warps && i < code.rows; i++) entries += code.count[i];
    if (entries * 8 > warps * (hi - lo)) window = SAEI_CUDA_WINDOW;
    if (r < code.rows) {
        end = code.count[r];
        at = lo ? saei_device_lower(latent, end, lo) : 0;
        end = saei_device_lower(latent, end, hi);
    }
    if (STAGED) {
        float *own = reinterpret_cast<float *>(saei_shared) + saei_device_warp() * ld;
        for (size_t c = 4 * lane; r < code.rows && c < ld; c += 128)
            saei_device_put4(own + c, saei_device_float4(row + c));
        row = own;
    }
    __syncwarp();
    for (size_t from = lo; from < hi; from += window) {
        uint32_t stop = end;
        if (window == SAEI_CUDA_WINDOW) { /* it holds no more entries than latents */
            uint32_t a = at + lane, b = a + 32;
            stop = at + (uint32_t)__popc(__ballot_sync(SAEI_FULL, a < end
                                                       && latent[a] < from + window))
                   + (uint32_t)__popc(__ballot_sync(SAEI_FULL, b < end
                                                    && latent[b] < from + window));
        }
        for (; at < stop; at += 8) {
            uint32_t mine = at + (lane >> 2);
            size_t j = r * code.stride + (mine < stop ? mine : at);
            double dot = saei_device_dot(row, W + code.latent[j] * ld, ld);
            if (mine < stop && (lane & 3) == 0)
                grad[j] = relu_of && !(relu_of[j] > 0) ? 0
                                                       : (float)__dmul_rn((double)alpha, dot);
        }
        at = stop;
        __syncthreads();
    }
}

static void saei_cuda_dots(const sae_work *w, const sae_code *code, const float *e, const float *W,
                           size_t lo, size_t hi, float alpha, const float *relu_of, float *grad) {
    size_t ld = w->shape.ld, row = ld * sizeof(float), warps = SAEI_CUDA_WARPS;
    while (warps > 1 && warps * row > 48 * 1024) warps /= 2;
    if (lo >= hi) return;
    if (warps * row > 48 * 1024)
        saei_cuda_launch(w, saei_dots_kernel<false>, saei_cuda_warps(code->rows), SAEI_CUDA_THREADS,
                         *code, e, W, ld, lo, hi, alpha, relu_of, grad);
    else
        saei_cuda_launch_shared(w, saei_dots_kernel<true>, saei_ceil_div(code->rows, warps),
                                (unsigned)warps * 32, warps * row, *code, e, W, ld, lo, hi, alpha,
                                relu_of, grad);
}

/* -- gated -- */

/* A warp per row: 32 bytes per entry. */
__global__ static void saei_gate_grad_kernel(sae_code code, const float *r_mag) {
    const size_t r = saei_device_grid_warp();
    if (r >= code.rows) return;
    for (size_t j = r * code.stride + saei_device_lane(),
                end = r * code.stride + code.count[r];
         j < end; j += 32) {
        float exp_r = (float)saei_exp((double)r_mag[code.latent[j]]);
        float mag = code.value[j] > 0 ? code.extra[0][j] : 0;
        code.extra[0][j] = mag;
        code.extra[2][j] = __fmul_rn(__fmul_rn(mag, exp_r), code.pre[j]);
        code.grad[j] = __fmaf_rn(exp_r, mag, code.extra[1][j]);
    }
}
static void saei_cuda_gate_grad(const sae_work *w, const float *r_mag, sae_code *code) {
    saei_cuda_launch(w, saei_gate_grad_kernel, saei_cuda_warps(code->rows), SAEI_CUDA_THREADS,
                     *code, r_mag);
}

/* -- jump -- */

/* The rectangle of the straight-through estimator: 1 where |(x - theta) / bandwidth| < 1/2. */
__device__ static inline bool saei_device_rectangle(float x, float theta, float bandwidth) {
    float z = __fdiv_rn(__fsub_rn(x, theta), bandwidth);
    return z > -0.5f && z < 0.5f;
}
__device__ static inline float saei_device_jump_slope(double coef, double target, double l0,
                                                      size_t n, float bandwidth) {
    double slope = __dmul_rn(__dmul_rn(coef, 2), __dsub_rn(__ddiv_rn(l0, target), 1));
    slope = __ddiv_rn(__ddiv_rn(slope, target), (double)n);
    return (float)__ddiv_rn(-slope, (double)bandwidth);
}

/* *count += entries with f > theta, and unlisted latents of the rows whose theta is negative: f = 0
   lies above it. */
__global__ static void saei_jump_count_kernel(sae_code code, const float *theta, size_t m,
                                              unsigned long long *count) {
    const size_t r = saei_device_grid_warp();
    unsigned long long above = 0; /* modulo 2^64: listed latents are taken away again */
    if (r < code.rows)
        for (size_t j = r * code.stride + saei_device_lane(),
                    end = r * code.stride + code.count[r];
             j < end; j += 32) {
            float t = theta[code.latent[j]];
            above += (unsigned long long)(code.value[j] > t) - (unsigned long long)(t < 0);
        }
    for (size_t i = saei_device_grid_thread(); i < m; i += (size_t)gridDim.x * blockDim.x)
        if (theta[i] < 0) above += code.rows;
    above = saei_device_warp_total(above);
    if (saei_device_lane() == 0 && above) atomicAdd(count, above);
}
__global__ static void saei_jump_loss_kernel(const unsigned long long *count, size_t n, double coef,
                                             double target, double *l0, double *loss) {
    double mean = __ddiv_rn((double)*count, (double)n);
    double away = __dsub_rn(__ddiv_rn(mean, target), 1);
    *l0 = mean;
    *loss = __dmul_rn(__dmul_rn(coef, away), away);
}
__global__ static void saei_jump_grad_kernel(sae_code code, const float *theta, float bandwidth,
                                             double coef, double target, const double *l0) {
    const size_t r = saei_device_grid_warp();
    float slope;
    if (r >= code.rows) return;
    slope = saei_device_jump_slope(coef, target, *l0, code.rows, bandwidth);
    for (size_t j = r * code.stride + saei_device_lane(),
                end = r * code.stride + code.count[r];
         j < end; j += 32) {
        float t = theta[code.latent[j]], p = code.pre[j], g = code.grad[j], d = 0;
        if (saei_device_rectangle(p, t, bandwidth)) d = __fmul_rn(-__fdiv_rn(t, bandwidth), g);
        if (saei_device_rectangle(code.value[j], t, bandwidth)) d = __fadd_rn(d, slope);
        code.extra[0][j] = d;
        code.grad[j] = p > t ? g : 0;
    }
}
/* Two readings of the lists, 36 bytes per entry, and a count between them. */
static void saei_cuda_jump_grad(const sae_work *w, const float *theta, float bandwidth, double coef,
                                double target, sae_code *code, double *l0, double *loss) {
    unsigned long long *count = saei_cuda_count_scratch_of(w).count;
    size_t blocks = saei_cuda_warps(code->rows);
    saei_cuda_clear(w, count, sizeof *count);
    saei_cuda_launch(w, saei_jump_count_kernel, blocks, SAEI_CUDA_THREADS, *code, theta,
                     w->shape.dict_size, count);
    saei_cuda_launch(w, saei_jump_loss_kernel, 1, 1, count, code->rows, coef, target, l0, loss);
    saei_cuda_launch(w, saei_jump_grad_kernel, blocks, SAEI_CUDA_THREADS, *code, theta, bandwidth,
                     coef, target, l0);
}

__global__ static void saei_jump_rest_kernel(sae_index index, const float *theta, float bandwidth,
                                             double coef, double target, const double *l0, size_t n,
                                             float *theta_grad) {
    const size_t i = saei_device_grid_thread();
    size_t unlisted;
    if (i >= index.dict_size || !saei_device_rectangle(0, theta[i], bandwidth)) return;
    unlisted = n - (index.begin[i + 1] - index.begin[i]);
    theta_grad[i] = __fadd_rn(theta_grad[i],
                              __fmul_rn((float)unlisted, saei_device_jump_slope(coef, target, *l0,
                                                                                n, bandwidth)));
}
static void saei_cuda_jump_rest(const sae_work *w, const float *theta, float bandwidth, double coef,
                                double target, const double *l0, const sae_index *index, size_t n,
                                float *theta_grad) {
    saei_cuda_launch(w, saei_jump_rest_kernel, saei_ceil_div(index->dict_size, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, *index, theta, bandwidth, coef, target, l0, n, theta_grad);
}
