/*  sae_cuda.cuh - the CUDA filling of the table in sae.h's >>backend: one NVIDIA GPU (sm_80 and up).

    Taken in by sae.h, see its >>cuda for the two ways to build; not to be included by itself. Needs
    the CUDA toolkit's runtime and cuBLASLt, nothing else, and of sae.h its public half alone.

    Results are those of the CPU filling, bit for bit: every operation that reaches a result names
    its rounding (__fmaf_rn, __dadd_rn, ...), sums have >>backend's canonical order, and cuBLASLt's
    product only proposes (>>cuda: screened encode). Nothing waits for the device but download,
    status and the throttle in end_step; nothing is allocated in a step.

    CONTENTS (search for the tag)
        >>cuda: state        errors, launching, memory, streams, the step as one graph
        >>cuda: device math  dots and sums in canonical order, exp, log, pow, Philox
        >>cuda: scalars      sums over rows in the scalars order, room to work in
        >>cuda: batch        rows loaded, subtract, axpy
        >>cuda: selection    the k largest of a row or a batch
        >>cuda: plain encode     every product in float32
        >>cuda: screened encode  16-bit product, certified candidates, canonical values
        >>cuda: values of entries  gate, jump, exp
        >>cuda: decode       decode, residuals
        >>cuda: penalties    penalties, gradients of entries
        >>cuda: by latent    counting sort, gradients by latent, dead latents
        >>cuda: sums         column sums, variance
        >>cuda: weights      norms, projection, Adam, threshold, median, resampling
        >>cuda: table        the filled table
*/
#ifndef SAE_CUDA_CUH_INCLUDED
#define SAE_CUDA_CUH_INCLUDED

#if defined(__USE_FAST_MATH__)
#error "sae_cuda.cuh: compile without -use_fast_math, which changes the bits of results"
#endif

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef SAE_HEADER_NAME
#define SAE_HEADER_NAME "sae.h"
#endif
#ifndef SAEI_DYNAMIC_SHARED /* a block's memory whose size the launch gives */
#define SAEI_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

/* ==== >>cuda: state =========================================================================== */

enum {
    SAEI_CUDA_THREADS = 256, /* of a block, where nothing else is said */
    SAEI_CUDA_BEHIND = 4     /* steps that the host may run ahead of the device */
};

/* Of one trainer: sae_work.state. */
typedef struct saei_cuda {
    int device;
    bool own_stream;
    cudaStream_t stream, copy; /* copy: rows from the host, while the step before is running */
    cublasLtHandle_t blas;
    void *blas_space;
    size_t blas_bytes;
    int multiprocessors;
    size_t shared_most;        /* bytes of shared memory a block may ask for */
    /* sticky: the first error, and its sentence */
    sae_result result;
    char text[512];
    /* rows from the host: [2] device buffers, filled in turn */
    void *staging[2];
    size_t staging_bytes;
    unsigned staging_turn;
    cudaEvent_t staged, freed[2];
    /* guard: halt[0] = 1 once a batch was bad, halt[1..2] its step; told is the host's copy */
    uint32_t *halt;            /* D [4] */
    volatile uint32_t *told;   /* pinned [8]; 4: what encode found, a hint for its next call */
    /* the step as one graph */
    cudaGraphExec_t graph;
    bool capturing;
    unsigned step_turn;
    cudaEvent_t ended[SAEI_CUDA_BEHIND];
} saei_cuda;

static saei_cuda *saei_cuda_of(const sae_work *w) { return (saei_cuda *)w->state; }

static size_t saei_cuda_ceil(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t saei_cuda_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t saei_cuda_max(size_t a, size_t b) { return a > b ? a : b; }

/* Keeps the first error. Returns whether all is well. */
static bool saei_cuda_ok(saei_cuda *s, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return s->result == SAE_OK;
    if (s->result != SAE_OK) return false;
    s->result = error == cudaErrorMemoryAllocation ? SAE_OUT_OF_MEMORY : SAE_BACKEND;
    snprintf(s->text, sizeof s->text, "sae_cuda: %s failed on device %d: %s (%s)", what, s->device,
             cudaGetErrorString(error), cudaGetErrorName(error));
    return false;
}

#define SAEI_CUDA_OK(s, call) saei_cuda_ok(s, call, #call)

/* kernel(args...) on blocks x threads with `shared` bytes of dynamic shared memory; nothing once
   there is an error, or for 0 blocks. */
template <typename... P, typename... A>
static void saei_cuda_launch_shared(const sae_work *w, void (*kernel)(P...), size_t blocks,
                                    unsigned threads, size_t shared, A... args) {
    saei_cuda *s = saei_cuda_of(w);
    cudaLaunchConfig_t config;
    if (s->result != SAE_OK || !blocks) return;
    memset(&config, 0, sizeof config);
    config.gridDim = dim3((unsigned)blocks, 1, 1);
    config.blockDim = dim3(threads, 1, 1);
    config.dynamicSmemBytes = shared;
    config.stream = s->stream;
    saei_cuda_ok(s, cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), "a launch");
}
template <typename... P, typename... A>
static void saei_cuda_launch(const sae_work *w, void (*kernel)(P...), size_t blocks,
                             unsigned threads, A... args) {
    saei_cuda_launch_shared(w, kernel, blocks, threads, 0, args...);
}

/* ==== >>cuda: device math ===================================================================== */

/* exp, ln, pow, philox: the source of sae.h's >>math, as saei_device_exp and so on. */
#define SAEI_MATH_PASS __device__ static inline
#define SAEI_MATH(name) saei_device_##name
#define SAEI_TIMES(a, b) __dmul_rn(a, b)
#include SAE_HEADER_NAME
#undef SAEI_MATH_PASS
#undef SAEI_MATH
#undef SAEI_TIMES

#define SAEI_FULL 0xFFFFFFFFu /* all lanes of a warp */

__device__ static inline uint32_t saei_device_lane(void) { return threadIdx.x & 31u; }
__device__ static inline uint32_t saei_device_warp(void) { return threadIdx.x >> 5; }

/* Four threads do a dot: thread q of a quad holds lanes 4q..4q+3 of the 16. Eight quads a warp. */
__device__ static inline float4 saei_device_float4(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}
__device__ static inline void saei_device_put4(float *p, float4 v) {
    *reinterpret_cast<float4 *>(p) = v;
}
__device__ static inline float4 saei_device_fma4(float4 a, float4 b, float4 c) {
    c.x = __fmaf_rn(a.x, b.x, c.x);
    c.y = __fmaf_rn(a.y, b.y, c.y);
    c.z = __fmaf_rn(a.z, b.z, c.z);
    c.w = __fmaf_rn(a.w, b.w, c.w);
    return c;
}
/* a v + c */
__device__ static inline float4 saei_device_axpy4(float a, float4 v, float4 c) {
    return saei_device_fma4(make_float4(a, a, a, a), v, c);
}

/* The 16 lanes of a quad's dot added in double, 8, 4, 2, 1 apart; every thread of the quad gets the
   sum. All lanes of the warp take part. */
__device__ static inline double saei_device_quad_sum(float4 s) {
    double a = (double)s.x, b = (double)s.y, c = (double)s.z, d = (double)s.w;
    for (int apart = 2; apart > 0; apart /= 2) {
        a = __dadd_rn(a, __shfl_xor_sync(SAEI_FULL, a, apart));
        b = __dadd_rn(b, __shfl_xor_sync(SAEI_FULL, b, apart));
        c = __dadd_rn(c, __shfl_xor_sync(SAEI_FULL, c, apart));
        d = __dadd_rn(d, __shfl_xor_sync(SAEI_FULL, d, apart));
    }
    return __dadd_rn(__dadd_rn(a, c), __dadd_rn(b, d));
}

/* The dot of a and b [ld] by a quad: thread q = threadIdx.x & 3. All lanes of the warp take part;
   those whose quad has nothing to do pass ld = 0. */
__device__ static inline double saei_device_dot(const float *a, const float *b, size_t ld) {
    float4 s = make_float4(0, 0, 0, 0);
    for (size_t c = 4 * (threadIdx.x & 3u); c < ld; c += 16)
        s = saei_device_fma4(saei_device_float4(a + c), saei_device_float4(b + c), s);
    return saei_device_quad_sum(s);
}

/* A sum in the scalars order: s[0] the blocks before, s[1] this block so far. */
__device__ static inline void saei_device_sum_add(double s[2], size_t i, double x) {
    if (i % SAE_ROW_BLOCK == 0) {
        s[0] = __dadd_rn(s[0], s[1]);
        s[1] = 0;
    }
    s[1] = __dadd_rn(s[1], x);
}

/* ==== >>cuda: scalars ========================================================================= */

/* ==== >>cuda: penalties ======================================================================= */

/* ==== >>cuda: by latent ======================================================================= */

/* ==== >>cuda: sums ============================================================================ */

/* ==== >>cuda: weights ========================================================================= */

/* ==== >>cuda: table =========================================================================== */

SAE_API const sae_backend *sae_cuda_backend(void) {
    static const sae_backend table = {
        "cuda", false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        /* batch */ NULL, NULL, NULL,
        /* forward: encode, gate, jump, exp_values, exp_grad, decode, residual, unit_rows,
           auxk_residual, ghost_residual */
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        /* penalties, gradients of entries: penalty, dots, gate_grad, jump_grad, jump_rest */
        NULL, NULL, NULL, NULL, NULL,
        /* by latent: index, latent_rows, latent_sums, fired, list_silent */
        NULL, NULL, NULL, NULL, NULL,
        /* sums: column_sums, weighted_sum, sum_squares, variance, count_nonzero */
        NULL, NULL, NULL, NULL, NULL,
        /* weights: row_norms, norm_weight, norm_grad, remove_parallel, normalize_rows, adam,
           update_threshold, geometric_median, resample */
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        /* optional: reconstruct, adam_rows, begin_step, end_step, poll, guard, tripped */
        NULL, NULL, NULL, NULL, NULL, NULL, NULL
    };
    return &table;
}

#endif /* SAE_CUDA_CUH_INCLUDED */
