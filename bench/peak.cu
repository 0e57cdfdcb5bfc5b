/*  peak.cu - what this GPU can do, measured: the roofs that bench.c holds operations against.
    Copy: 1 GiB read and written, float4. float32: independent chains of fma in registers. 16-bit
    product: 8192^3 by cuBLASLt, float32 sums. Best of five each. Under tests/emu the sizes are tiny
    and the figures say nothing. */
#include <cublasLt.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

#ifdef SAE_EMU
enum { FLOATS = 4096, BLOCKS = 2, ROUNDS = 4, SIDE = 32 };
#else
enum { FLOATS = 1 << 28, BLOCKS = 4096, ROUNDS = 4096, SIDE = 8192 };
#endif
enum { THREADS = 256, CHAINS = 16 };

__global__ static void copy_kernel(const float4 *from, float4 *to, size_t count) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) to[at] = from[at];
}
__global__ static void fma_kernel(float *out, float a, float b) {
    float x[CHAINS], sum = 0;
    for (int i = 0; i < CHAINS; i++) x[i] = (float)(threadIdx.x + (unsigned)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++) x[i] = fmaf(x[i], a, b);
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    out[(size_t)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
/* Numbers of every sign and size, not zeros: those draw less power and run faster. */
__global__ static void fill_kernel(__half *out, size_t count) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned x = (unsigned)at * 2654435761u;
    if (at < count) out[at] = __float2half_rn((float)(x >> 8) / 8388608.0f - 1);
}

template <typename... P, typename... A>
static cudaError_t launch(void (*kernel)(P...), size_t blocks, A... args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks, 1, 1);
    config.blockDim = dim3(THREADS, 1, 1);
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

typedef struct product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layout;
    cublasLtMatmulAlgo_t algo;
    __half *a, *b, *c;
    void *space;
} product;

static bool product_make(product *p) {
    const size_t room = (size_t)32 << 20, count = (size_t)SIDE * SIDE;
    cublasOperation_t t = CUBLAS_OP_T;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
    int number = 0;
    memset(p, 0, sizeof *p);
    if (cudaMalloc(&p->a, count * 2) || cudaMalloc(&p->b, count * 2) || cudaMalloc(&p->c, count * 2)
        || cudaMalloc(&p->space, room) || cublasLtCreate(&p->handle)
        || cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)
        || cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t)
        || cublasLtMatrixLayoutCreate(&p->layout, CUDA_R_16F, SIDE, SIDE, SIDE)
        || cublasLtMatmulPreferenceCreate(&preference))
        return false;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &room, sizeof room);
    launch(fill_kernel, (count + THREADS - 1) / THREADS, p->a, count);
    launch(fill_kernel, (count + THREADS - 1) / THREADS, p->b, count);
    cublasLtMatmulAlgoGetHeuristic(p->handle, p->desc, p->layout, p->layout, p->layout, p->layout,
                                   preference, 1, &found, &number);
    cublasLtMatmulPreferenceDestroy(preference);
    p->algo = found.algo;
    return number == 1;
}
static bool product_run(product *p) {
    float one = 1, zero = 0;
    return !cublasLtMatmul(p->handle, p->desc, &one, p->a, p->layout, p->b, p->layout, &zero, p->c,
                           p->layout, p->c, p->layout, &p->algo, p->space, (size_t)32 << 20, 0);
}
static void product_end(product *p) {
    if (p->layout) cublasLtMatrixLayoutDestroy(p->layout);
    if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    if (p->handle) cublasLtDestroy(p->handle);
    cudaFree(p->a);
    cudaFree(p->b);
    cudaFree(p->c);
    cudaFree(p->space);
}

/* Least time in ms of what run(which) starts. */
template <typename Run> static float least(Run run) {
    cudaEvent_t begin, end;
    float best = 1e30f;
    if (cudaEventCreate(&begin) || cudaEventCreate(&end)) return best;
    for (int i = 0; i < 6; i++) {
        float ms = 1e30f;
        cudaEventRecord(begin, 0);
        if (!run()) break;
        cudaEventRecord(end, 0);
        if (cudaEventSynchronize(end) || cudaEventElapsedTime(&ms, begin, end)) break;
        if (i && ms < best) best = ms > 0 ? ms : 1e-6f;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return best;
}

/* 0, or 1 where there is no device or no memory. */
extern "C" int bench_cuda_peaks(double *gbytes, double *gflops, double *half_gflops, char *name,
                                size_t size) {
    cudaDeviceProp about;
    float4 *from = NULL, *to = NULL;
    product p;
    bool ok;
    if (cudaGetDeviceProperties(&about, 0) || cudaMalloc(&from, FLOATS * sizeof(float))
        || cudaMalloc(&to, FLOATS * sizeof(float)) || cudaMemset(from, 1, FLOATS * sizeof(float)))
        return 1;
    snprintf(name, size, "%s, %d multiprocessors", about.name, about.multiProcessorCount);
    *gbytes = 2.0 * FLOATS * sizeof(float) / 1e6
              / (double)least([=] { return !launch(copy_kernel, FLOATS / 4 / THREADS, from, to,
                                                   (size_t)FLOATS / 4); });
    float *out = (float *)to;
    *gflops = 2.0 * BLOCKS * THREADS * CHAINS * ROUNDS / 1e6
              / (double)least([=] { return !launch(fma_kernel, BLOCKS, out, 0.999f, 0.001f); });
    ok = product_make(&p);
    if (ok)
        *half_gflops = 2.0 * SIDE * SIDE * SIDE / 1e6
                       / (double)least([&] { return product_run(&p); });
    product_end(&p);
    cudaFree(from);
    cudaFree(to);
    return !ok;
}
