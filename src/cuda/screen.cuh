#pragma once
#include "scalars.cuh"
#include "plain.cuh"

/* ==== >>cuda: screened encode ================================================================= */
/* Few of the products are used. So x and W_enc are rounded to float16 after a multiplication by a
   power of two each, x = x^ / s + dx and w = w^ / t + dw, and cublasLt's product v of x^ and w^,
   with the bias added, is rounded to float16 too. With S = s t
       |S p - v| <= S (|dx| |w| + (|x| + |dx|) |dw| + rounding |x| |w|) + |v| 2^-11 + 2^-24
   by Cauchy and Schwarz; the rounding, (d + 32) 1.8e-7, is that of the canonical product, d 2^-24,
   and of the tensor cores: each of their additions loses at most 2^-23 of its largest summand. 64
   latents share their largest |w| and |dw|. A row's k-th largest p is at least the k-th largest of
   its groups' maxima less the bound. Latents that may exceed that, by the bound, are candidates:
   they are computed again in the canonical order, and only those values decide. NaN and infinity
   compare so that they are candidates; a row with too many is encoded by the plain kernel.
   W2: product 0.35 ms at 790 TFLOP/s, rounding of W_enc 0.03 at 4.3 TB/s, scan 0.10 and canonical
   values 0.24 at 5.5 TB/s from the L2. */

__device__ static inline float saei_device_scale(uint32_t most_bits) {
    float most = __uint_as_float(most_bits);
    if (!(most > 1e-15f && most < 1e15f)) return 1;
    return __uint_as_float((127u + 6 + 127 - (most_bits >> 23)) << 23); /* most becomes 64 to 128 */
}
/* NaN becomes +inf: no bound. */
__device__ static inline float saei_device_sane(float x) { return x <= FLT_MAX ? x : INFINITY; }

/* norm[r] >= |M[r]| (norm may be NULL), *most: bits of the largest. A quad per row. */
__global__ static void saei_norms_kernel(const float *M, size_t n, size_t ld, float *norm,
                                         uint32_t *most) {
    size_t r = saei_device_grid_thread() >> 2;
    float size = 0;
    uint32_t bits;
    size = __double2float_rn(sqrt(saei_device_dot(M + (r < n ? r : 0) * ld,
                                                  M + (r < n ? r : 0) * ld, ld))) * 1.0001f
           + 1e-20f; /* squares below 1e-45 are lost */
    size = r < n ? saei_device_sane(size) : 0;
    if (norm && r < n && (threadIdx.x & 3) == 0) norm[r] = size;
    bits = saei_device_warp_max(__float_as_uint(size));
    if (saei_device_lane() == 0) atomicMax(most, bits);
}

/* row [ld] to float16 times scale, by a quad; returns |row|, *error = what is lost, rounded up. */
__device__ static float saei_device_round_row(const float *row, size_t ld, float scale,
                                              __half *out, float *error) {
    float inverse = __fdiv_rn(1, scale);
    float4 norm = make_float4(0, 0, 0, 0), lost = norm;
    for (size_t c = 4 * (threadIdx.x & 3u); c < ld; c += 16) {
        float4 v = saei_device_float4(row + c), d;
        __half h[4];
        h[0] = __float2half_rn(v.x * scale);
        h[1] = __float2half_rn(v.y * scale);
        h[2] = __float2half_rn(v.z * scale);
        h[3] = __float2half_rn(v.w * scale);
        d.x = v.x - __half2float(h[0]) * inverse;
        d.y = v.y - __half2float(h[1]) * inverse;
        d.z = v.z - __half2float(h[2]) * inverse;
        d.w = v.w - __half2float(h[3]) * inverse;
        norm = saei_device_fma4(v, v, norm);
        lost = saei_device_fma4(d, d, lost);
        for (int i = 0; i < 4; i++) out[c + i] = h[i];
    }
    *error = saei_device_sane((float)sqrt(saei_device_quad_sum(lost)) * 1.0001f + 1e-20f);
    return saei_device_sane((float)sqrt(saei_device_quad_sum(norm)) * 1.0001f + 1e-20f);
}

__global__ static void saei_round_x_kernel(saei_cuda_encode_task t) {
    size_t r = saei_device_grid_thread() >> 2, at = (r < t.n ? r : 0) * t.ld;
    float scale = saei_device_scale(t.s.counts->x_most), error;
    saei_device_round_row(t.x + at, r < t.n ? t.ld : 0, scale, t.s.x16 + at, &error);
    if (r < t.n && (threadIdx.x & 3) == 0) t.s.x_error[r] = error;
}

/* A block rounds the 64 rows of a group: facts[group] = largest |w|, |dw|, and what the bias adds
   to the bound. Rows past m are zeros with a bias that nothing reaches. */
__global__ static void saei_round_w_kernel(saei_cuda_encode_task t) {
    __shared__ float facts[SAEI_CUDA_THREADS / 32][3];
    size_t i = (size_t)blockIdx.x * SAEI_CUDA_BOUND + (threadIdx.x >> 2);
    bool in = i < t.m;
    float scale = saei_device_scale(*t.w_most), both, most[3];
    most[0] = saei_device_round_row(t.W + (in ? i : 0) * t.ld, in ? t.ld : 0, scale,
                                    t.s.w16 + i * t.ld, &most[1]);
    both = scale * saei_device_scale(t.s.counts->x_most);
    most[2] = 0;
    if (in) {
        float b = t.bias[i], size = fabsf(b);
        __half h;
        if (t.select == SAE_SELECT_WINDOW) { /* p > theta - bandwidth / 2 as u + b > 0 */
            b += 0.5f * fabsf(t.bandwidth) - t.theta[i];
            size += fabsf(t.theta[i]) + fabsf(t.bandwidth);
        }
        h = __float2half_rn(b * both);
        most[2] = saei_device_sane(fabsf(b * both - __half2float(h)) + 2e-6f * size * both);
        if ((threadIdx.x & 3) == 0) t.s.bias16[i] = h;
    } else {
        most[0] = most[1] = 0;
        for (size_t c = threadIdx.x & 3; c < t.ld; c += 4)
            t.s.w16[i * t.ld + c] = __float2half_rn(0);
        if ((threadIdx.x & 3) == 0) t.s.bias16[i] = __float2half_rn(-65504);
    }
    for (int f = 0; f < 3; f++) {
        uint32_t bits = saei_device_warp_max(__float_as_uint(most[f]));
        if (saei_device_lane() == 0) facts[saei_device_warp()][f] = __uint_as_float(bits);
    }
    __syncthreads();
    if (threadIdx.x < 3) {
        float largest = 0;
        for (int w = 0; w < SAEI_CUDA_THREADS / 32; w++)
            largest = fmaxf(largest, facts[w][threadIdx.x]);
        t.s.facts[4 * blockIdx.x + threadIdx.x] = largest;
        if (threadIdx.x == 0) atomicMax(t.w_next, __float_as_uint(largest));
    }
}

/* -- the scan of a row's 16-bit products -- */

typedef struct saei_device_bound {
    float w, error, cut; /* factors of facts[0], facts[1]; a share of the cut's own size */
    const float *facts;
} saei_device_bound;

/* How far S p may lie from v, of a latent in group g of 64. */
__device__ static inline float saei_device_slack(const saei_device_bound &b, float v, uint32_t g) {
    float4 f = saei_device_float4(b.facts + 4 * (size_t)g);
    return (b.w * f.x + b.error * f.y + f.z + b.cut) * 1.0001f + fabsf(v) * 4.9e-4f + 1.2e-7f;
}

__device__ static inline float saei_device_product(const __half *p) { return __half2float(*p); }

/* The largest of 8 products, NaN left out. */
__device__ static inline float saei_device_most8(const __half *p) {
    uint4 q = *reinterpret_cast<const uint4 *>(p);
    uint32_t words[4] = { q.x, q.y, q.z, q.w };
    float most = -INFINITY;
    SAEI_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        most = fmaxf(most, __half2float(__ushort_as_half((unsigned short)(words[i] & 0xFFFF))));
        most = fmaxf(most, __half2float(__ushort_as_half((unsigned short)(words[i] >> 16))));
    }
    return most;
}

/* A block's sum of one number per warp; every thread gets it. turn alternates between calls. */
__device__ static inline uint32_t saei_device_block_sum(uint32_t warp_sum, uint32_t (*sums)[8],
                                                        uint32_t turn) {
    uint32_t all = 0;
    if (saei_device_lane() == 0) sums[turn & 1][saei_device_warp()] = warp_sum;
    __syncthreads();
    for (int i = 0; i < 8; i++) all += sums[turn & 1][i];
    return all;
}

/* A positive number that at least k of lower[0..groups) reach, close to the k-th largest; 0 if
   there are not k positive ones. */
__device__ static float saei_device_group_cut(const float *lower, uint32_t groups, uint32_t k,
                                              uint32_t (*sums)[8]) {
    uint32_t lo = 0, hi = 0x7F800000u, turn = 0;
    for (uint32_t guess = 1; hi - lo > 2048; turn++) {
        uint32_t mid = lo + (hi - lo) / 2, count = 0;
        if (guess) mid = 1; /* are there k at all */
        for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x)
            count += lower[g] >= __uint_as_float(mid);
        count = saei_device_block_sum(saei_device_warp_sum(count), sums, turn);
        if (count >= k) lo = mid;
        else hi = mid;
        if (guess && count < k) return 0;
        if (count == k) break;
        guess = 0;
    }
    return __uint_as_float(lo);
}

/* Candidates of row first + blockIdx.x: those latents whose p may reach the cut. TOP_K: into place,
   with a cut from the maxima of groups of 1 << shift; else into the code, with the cut given. */
__global__ static void saei_scan_kernel(saei_cuda_encode_task t, uint32_t first, uint32_t shift) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    __shared__ uint32_t sums[2][8];
    const uint32_t lane = saei_device_lane(), warp = saei_device_warp(), groups = t.mc >> shift;
    const size_t r = first + blockIdx.x;
    const __half *v = t.s.product + (size_t)blockIdx.x * t.mc;
    float *most = (float *)saei_shared, *lower = most + groups;
    uint32_t *chosen = (uint32_t *)saei_shared; /* the groups that reach the cut: over most */
    const bool top = t.select == SAE_SELECT_TOP_K;
    float both = saei_device_scale(t.s.counts->x_most) * saei_device_scale(*t.w_most);
    float norm = t.s.x_norm[r], error = t.s.x_error[r], cut = saei_device_warm(t) * both;
    uint32_t *to = top ? t.s.place + r * t.s.capacity : t.latent + r * t.stride;
    size_t limit = top ? t.s.capacity : t.stride;
    saei_device_bound b;
    uint32_t kept = 0, turn = 0, each, begin, end, count = 0, before = 0, all = 0;
    b.w = both * (error + (float)(t.d + 32) * 1.8e-7f * norm);
    b.error = both * (norm + error);
    b.cut = 2e-6f * cut;
    b.facts = t.s.facts;
    for (uint32_t base = warp * 256; base < t.mc; base += 2048) { /* 256 products per warp */
        uint32_t at = base + lane * 8;
        float largest = at < t.mc ? saei_device_most8(v + at) : -INFINITY;
        for (uint32_t apart = 1; 8 * apart < 1u << shift; apart *= 2)
            largest = fmaxf(largest, __shfl_xor_sync(SAEI_FULL, largest, (int)apart));
        if (at < t.mc && (at & ((1u << shift) - 1)) == 0) {
            most[at >> shift] = largest;
            if (top)
                lower[at >> shift] =
                    largest - saei_device_slack(b, largest, at / SAEI_CUDA_BOUND);
        }
    }
    __syncthreads();
    if (top) {
        cut = saei_device_group_cut(lower, groups, t.k, sums);
        b.cut = 2e-6f * cut;
        __syncthreads();
    }
    cut = cut > 1e-30f ? cut : 1e-30f; /* what is positive lies 1e-7 and more above this */
    for (uint32_t base = 0; base < groups; base += SAEI_CUDA_THREADS, turn++) {
        uint32_t g = base + threadIdx.x, in = 0;
        float m = g < groups ? most[g] : 0;
        if (g < groups)
            in = !(m + saei_device_slack(b, m, (g << shift) / SAEI_CUDA_BOUND) < cut);
        in = __ballot_sync(SAEI_FULL, in);
        before = kept;
        kept += saei_device_block_sum((uint32_t)__popc(in), sums, turn);
        for (uint32_t w = 0; w < warp; w++) before += sums[turn & 1][w];
        if (in >> lane & 1) chosen[before + (uint32_t)__popc(in & saei_device_below())] = g;
    }
    __syncthreads();
    each = (kept + 7) / 8 << shift; /* candidates of a warp's groups: counted, then written */
    begin = warp * each < kept << shift ? warp * each : kept << shift;
    end = begin + each < kept << shift ? begin + each : kept << shift;
    for (int pass = 0; pass < 2; pass++) {
        uint32_t at = before;
        for (uint32_t base = begin; base < end; base += 32) {
            uint32_t j = base + lane, i = 0, in = 0;
            if (j < end) {
                float p;
                i = (chosen[j >> shift] << shift) + (j & ((1u << shift) - 1));
                p = saei_device_product(v + i);
                in = !(p + saei_device_slack(b, p, i / SAEI_CUDA_BOUND) < cut) && i < t.m;
            }
            j = in;
            in = __ballot_sync(SAEI_FULL, in);
            if (pass && j && at + (uint32_t)__popc(in & saei_device_below()) < limit)
                to[at + (uint32_t)__popc(in & saei_device_below())] = i;
            at += (uint32_t)__popc(in);
        }
        if (pass) break;
        count = at - before;
        all = saei_device_block_sum(count, sums, turn);
        before = 0;
        for (uint32_t w = 0; w < warp; w++) before += sums[turn & 1][w];
    }
    if (threadIdx.x == 0) t.count[r] = all <= limit ? all : UINT32_MAX;
}

/* -- canonical values of the candidates -- */

typedef struct saei_device_tile {
    float w[32][33], x[32];
} saei_device_tile;

/* x.W[latent] of every lane that is below count, in the canonical order: rows of W go through
   shared memory in pieces of 32 columns, so that they are read in whole lines. */
__device__ static float saei_device_products(const saei_cuda_encode_task &t, const float *x,
                                             uint32_t latent, uint32_t count,
                                             saei_device_tile *tile) {
    const uint32_t lane = saei_device_lane(), part = (lane & 7) * 4;
    float sum = 0;
    for (uint32_t c = 0; c < t.d; c += 32) {
        uint32_t width = t.d - c < 32 ? t.d - c : 32;
        float4 v[8];
        SAEI_UNROLL(8)
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t row = 4 * i + (lane >> 3), from = __shfl_sync(SAEI_FULL, latent, (int)row);
            v[i] = make_float4(0, 0, 0, 0);
            if (row < count && c + part < t.ld)
                v[i] = saei_device_float4(t.W + (size_t)from * t.ld + c + part);
        }
        SAEI_UNROLL(8)
        for (uint32_t i = 0; i < 8; i++) {
            float *to = &tile->w[4 * i + (lane >> 3)][part];
            to[0] = v[i].x;
            to[1] = v[i].y;
            to[2] = v[i].z;
            to[3] = v[i].w;
        }
        tile->x[lane] = c + lane < t.ld ? x[c + lane] : 0;
        __syncwarp();
        if (width == 32) {
            SAEI_UNROLL(32)
            for (uint32_t j = 0; j < 32; j++) sum = __fmaf_rn(tile->x[j], tile->w[lane][j], sum);
        } else
            for (uint32_t j = 0; j < width; j++)
                sum = __fmaf_rn(tile->x[j], tile->w[lane][j], sum);
        __syncwarp();
    }
    return sum;
}

/* A warp per row: which candidates are entries. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS) saei_rescore_kernel(
    saei_cuda_encode_task t) {
    __shared__ __align__(16) saei_device_tile tiles[SAEI_CUDA_THREADS / 32];
    const uint32_t lane = saei_device_lane();
    const size_t r = saei_device_grid_warp();
    const bool top = t.select == SAE_SELECT_TOP_K;
    size_t at = r * (top ? t.s.capacity : t.stride);
    uint32_t *place = (top ? t.s.place : t.latent) + at, n, kept = 0;
    float *value = (top ? t.s.value : t.pre) + at, cut = saei_device_warm(t);
    if (r >= t.n) return;
    n = t.count[r];
    if (n == UINT32_MAX) { /* too many: left to the plain encode */
        if (lane == 0) t.s.rows[atomicAdd(&t.s.counts->plain, 1u)] = (uint32_t)r;
        return;
    }
    for (uint32_t base = 0; base < n; base += 32) {
        uint32_t i = place[base + lane < n ? base + lane : n - 1], in;
        float stored, u = saei_device_products(t, t.x + r * t.ld, i, n - base,
                                               &tiles[saei_device_warp()]);
        bool keep = base + lane < n && saei_device_selected(t, u, i, cut, &stored);
        in = __ballot_sync(SAEI_FULL, keep);
        if (keep) {
            uint32_t to = kept + (uint32_t)__popc(in & saei_device_below());
            place[to] = i;
            value[to] = stored;
        }
        kept += (uint32_t)__popc(in);
        __syncwarp();
    }
    if (top) {
        kept = saei_device_top(place, value, kept, t.k < t.m ? t.k : t.m, &cut);
        kept = saei_device_top_write(place, value, kept, t.k, t.m, NULL, t.latent + r * t.stride,
                                     t.pre + r * t.stride);
    }
    if (lane) return;
    t.count[r] = kept;
    atomicAdd(&t.s.counts->total, (unsigned long long)kept);
}

/* -- encode -- */

/* Asks cublasLt for an algorithm for this shape, once. False: there is none, and screening is off.
   */
static bool saei_cuda_plan_make(saei_cuda *s, size_t m, size_t rows, size_t ld) {
    saei_cuda_plan *p = &s->plan;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found;
    const cublasOperation_t across = CUBLAS_OP_T;
    const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
    int results = 0;
    bool ok;
    if (p->ready && p->m == m && p->rows == rows && p->ld == ld) return true;
    saei_cuda_plan_free(p);
    p->m = m;
    p->rows = rows;
    p->ld = ld;
    ok = cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS
         && cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &across,
                                           sizeof across) == CUBLAS_STATUS_SUCCESS
         && cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias,
                                           sizeof bias) == CUBLAS_STATUS_SUCCESS
         && cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16F, ld, m, (int64_t)ld)
                == CUBLAS_STATUS_SUCCESS
         && cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16F, ld, rows, (int64_t)ld)
                == CUBLAS_STATUS_SUCCESS
         && cublasLtMatrixLayoutCreate(&p->out, CUDA_R_16F, m, rows, (int64_t)m)
                == CUBLAS_STATUS_SUCCESS
         && cublasLtMatmulPreferenceCreate(&wish) == CUBLAS_STATUS_SUCCESS
         && cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &s->blas_bytes, sizeof s->blas_bytes)
                == CUBLAS_STATUS_SUCCESS
         && cublasLtMatmulAlgoGetHeuristic(s->blas, p->desc, p->w, p->x, p->out, p->out, wish, 1,
                                           &found, &results) == CUBLAS_STATUS_SUCCESS
         && results > 0;
    if (ok) p->algo = found.algo;
    if (wish) cublasLtMatmulPreferenceDestroy(wish);
    p->ready = ok;
    if (!ok) s->screen = -1;
    return ok;
}

/* product[r][i] = x16[first + r].w16[i] + bias16[i] of a chunk of rows. */
static void saei_cuda_product(const sae_work *w, const saei_cuda_encode_task *t, size_t first,
                              __half *product) {
    saei_cuda *s = saei_cuda_of(w);
    const float one = 1, none = 0;
    const void *bias = t->s.bias16;
    cublasStatus_t status;
    if (s->result != SAE_OK) return;
    status = cublasLtMatmulDescSetAttribute(s->plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                            sizeof bias);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(s->blas, s->plan.desc, &one, t->s.w16, s->plan.w,
                                t->s.x16 + first * t->ld, s->plan.x, &none, product, s->plan.out,
                                product, s->plan.out, &s->plan.algo, s->blas_space, s->blas_bytes,
                                s->stream);
    if (status != CUBLAS_STATUS_SUCCESS) saei_cuda_ok(s, cudaErrorUnknown, "cublasLtMatmul");
}

/* Whether screening is used; no bit depends on it. By the share of its latents that a row listed in
   the encode last counted. */
static bool saei_cuda_screens(const sae_work *w, const saei_cuda_encode_task *t) {
    saei_cuda *s = saei_cuda_of(w);
    double listed = (double)s->mailbox->entries, all = (double)s->counted_rows * (double)t->m;
    bool few = s->counted_rows && listed * (s->screened ? 12 : 24) <= all;
    if (s->screen < 0 || t->list || t->select == SAE_SELECT_ALL) return false;
    if (t->select == SAE_SELECT_TOP_K) few = t->k <= t->m / 16 && t->n >= 8;
    if (!few && s->screen == 0) return false;
    return saei_cuda_plan_make(s, t->mc, t->s.chunk, t->ld);
}

/* Products one after the other in the stream; a second stream scans each while the next is made. */
static void saei_cuda_scan_chunks(const sae_work *w, const saei_cuda_encode_task *t, uint32_t shift,
                                  size_t shared) {
    saei_cuda *s = saei_cuda_of(w);
    saei_cuda_encode_task one = *t;
    cudaStream_t stream = s->stream;
    size_t count = 0;
    for (size_t first = 0; first < t->n && s->result == SAE_OK; first += t->s.chunk, count++) {
        one.s.product = t->s.product + (count & 1) * t->s.chunk * t->mc;
        if (count >= 2) SAEI_CUDA_OK(s, cudaStreamWaitEvent(stream, s->scanned[count & 1], 0));
        saei_cuda_product(w, t, first, one.s.product);
        SAEI_CUDA_OK(s, cudaEventRecord(s->made[count & 1], stream));
        SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->scan, s->made[count & 1], 0));
        s->stream = s->scan;
        saei_cuda_launch_shared(w, saei_scan_kernel, saei_min(t->s.chunk, t->n - first),
                                SAEI_CUDA_THREADS, shared, one, (uint32_t)first, shift);
        s->stream = stream;
        SAEI_CUDA_OK(s, cudaEventRecord(s->scanned[count & 1], s->scan));
    }
    if (count) /* scans are in order: the last one's end is the end of all */
        SAEI_CUDA_OK(s, cudaStreamWaitEvent(stream, s->scanned[(count - 1) & 1], 0));
}

static void saei_cuda_screen(const sae_work *w, const saei_cuda_encode_task *t) {
    saei_cuda *s = saei_cuda_of(w);
    uint32_t shift = 6;
    bool top = t->select == SAE_SELECT_TOP_K;
    size_t shared, quads = SAEI_CUDA_THREADS / 4;
    while (top && shift > 3 && t->mc >> shift < 4 * (size_t)t->k) shift--;
    shared = (t->mc >> shift) * (top ? 2 : 1) * sizeof(float);
    while (shared > s->shared_most && shift < 6) {
        shared /= 2;
        shift++;
    }
    if (shared > 48 * 1024)
        SAEI_CUDA_OK(s, cudaFuncSetAttribute(saei_scan_kernel,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)shared));
    saei_cuda_launch(w, saei_norms_kernel, saei_ceil_div(t->n, quads), SAEI_CUDA_THREADS, t->x,
                     (size_t)t->n, (size_t)t->ld, t->s.x_norm, &t->s.counts->x_most);
    if (!s->scaled) /* later, the last call's norm is close enough: float16 has a range of 2^30 */
        saei_cuda_launch(w, saei_norms_kernel, saei_ceil_div(t->m, quads), SAEI_CUDA_THREADS, t->W,
                         (size_t)t->m, (size_t)t->ld, (float *)NULL, t->w_most);
    s->scaled = true;
    saei_cuda_launch(w, saei_round_x_kernel, saei_ceil_div(t->n, quads), SAEI_CUDA_THREADS, *t);
    saei_cuda_launch(w, saei_round_w_kernel, t->mc / SAEI_CUDA_BOUND, SAEI_CUDA_THREADS, *t);
    saei_cuda_scan_chunks(w, t, shift, shared);
    saei_cuda_launch(w, saei_rescore_kernel, saei_cuda_warps(t->n), SAEI_CUDA_THREADS, *t);
    if (top)
        saei_cuda_launch(w, saei_plain_kernel, saei_ceil_div(t->n, SAEI_PLAIN_ROWS),
                         SAEI_CUDA_THREADS, *t, (int)SAEI_PLAIN_LISTED);
}

static void saei_cuda_encode(const sae_work *w, const sae_encode_args *a, sae_code *code) {
    saei_cuda *s = saei_cuda_of(w);
    saei_cuda_encode_task t;
    size_t blocks = saei_ceil_div(a->n, SAEI_PLAIN_ROWS);
    bool listed = a->list != NULL, top = a->select == SAE_SELECT_TOP_K;
    if (s->result != SAE_OK) return;
    memset(&t, 0, sizeof t);
    t.x = a->x;
    t.W = a->W;
    t.bias = a->bias;
    t.theta = a->theta;
    t.warm = a->warm;
    t.list = a->list;
    t.list_count = a->list_count;
    t.n = (uint32_t)a->n;
    t.d = (uint32_t)a->d;
    t.ld = (uint32_t)a->ld;
    t.m = (uint32_t)a->m;
    t.mc = (uint32_t)(saei_ceil_div(a->m, SAEI_CUDA_BOUND) * SAEI_CUDA_BOUND);
    t.k = (uint32_t)saei_min(a->k, a->m);
    t.want = (unsigned long long)a->k * a->n;
    t.select = (int)a->select;
    t.bandwidth = a->bandwidth;
    t.count = code->count;
    t.latent = code->latent;
    t.pre = code->pre;
    t.stride = code->stride;
    t.s = saei_cuda_encode_scratch_of(w);
    t.w_most = &s->kept->w_most[s->scale_turn];
    t.w_next = &s->kept->w_most[s->scale_turn ^ 1];
    code->rows = a->n;
    saei_cuda_clear(w, t.s.counts, sizeof *t.s.counts);
    s->screened = saei_cuda_screens(w, &t);
    if (s->screened) {
        saei_cuda_clear(w, t.w_next, sizeof *t.w_next);
        saei_cuda_screen(w, &t);
        s->scale_turn ^= 1;
    } else
        saei_cuda_launch(w, saei_plain_kernel, blocks, SAEI_CUDA_THREADS, t, (int)SAEI_PLAIN_ALL);
    if (a->select == SAE_SELECT_BATCH_TOP_K) {
        saei_cuda_launch(w, saei_plain_kernel, blocks, SAEI_CUDA_THREADS, t, (int)SAEI_PLAIN_AGAIN);
        saei_cuda_keep_batch(w, &t);
    }
    if (listed || top || s->result != SAE_OK) return;
    SAEI_CUDA_OK(s, cudaMemcpyAsync((void *)(uintptr_t)&s->mailbox->entries, &t.s.counts->total,
                                    sizeof t.s.counts->total, cudaMemcpyDeviceToHost, s->stream));
    s->counted_rows = a->n;
}
