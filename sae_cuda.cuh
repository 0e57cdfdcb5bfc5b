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
    SAEI_CUDA_BEHIND = 4,    /* steps that the host may run ahead of the device */
    SAEI_CUDA_GROUP = 64,    /* latents that share an error bound in the screened encode */
    SAEI_CUDA_TILE = 128,    /* latents of a tile of the plain encode */
    SAEI_CUDA_PRODUCT_BYTES = 16 << 20, /* of the 16-bit product held at a time: stays in the L2 */
    SAEI_BUCKETS = 2048      /* of a histogram over 11 bits */
};
enum { /* words of saei_cuda.told */
    SAEI_TOLD_HALT = 0, SAEI_TOLD_ENTRIES = 4, SAEI_TOLD_COUNT = 8
};
enum { /* words of encode's scratch; doubled ones are 64 bits wide */
    SAEI_WORD_X_MOST,  /* largest norm of a row of x, of W_enc: bits of a float */
    SAEI_WORD_W_MOST,
    SAEI_WORD_PLAIN,   /* how many rows go the plain way */
    SAEI_WORD_DONE,    /* blocks that are through, [4] */
    SAEI_WORD_TOTAL = 8, /* [2] entries found */
    SAEI_WORD_PREFIX = 10, /* bits of the batch's smallest kept value, so far */
    SAEI_WORD_ALL,     /* 1: all are kept */
    SAEI_WORD_LEFT,    /* [2] how many of the bucket are wanted */
    SAEI_WORD_COUNT = 64
};

/* A product of one shape that cublasLt was asked about. */
typedef struct saei_cuda_plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
    size_t m, rows, ld;
    bool ready;
} saei_cuda_plan;

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
    size_t taken;              /* bytes that alloc gave */
    /* rows from the host go through two buffers in turn */
    unsigned staging_turn, staging_turns;
    cudaEvent_t staged, freed[2];
    /* guard: halt[0] = 1 once a batch was bad, halt[1..2] its step */
    uint32_t *halt;            /* D [16] */
    volatile uint32_t *told;   /* pinned: what the device told the host without being waited for */
    /* the step as one graph */
    cudaGraphExec_t graph;
    bool capturing, foreign;   /* foreign: the caller captures the stream himself */
    unsigned step_turn, step_turns;
    cudaEvent_t ended[SAEI_CUDA_BEHIND];
    /* screened encode */
    int screen;                /* of sae_cuda_desc */
    saei_cuda_plan plan;
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
    cudaLaunchConfig_t config = {};
    if (s->result != SAE_OK || !blocks) return;
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

/* -- scratch: what operations work in, cut into named pieces -- */

typedef struct saei_cuda_scratch {
    /* screened encode; mc: m rounded up to SAEI_CUDA_GROUP */
    __half *x16, *w16;     /* [batch in whole chunks][ld], [mc][ld] */
    __half *bias16;        /* [mc] */
    __half *product;       /* [chunk][mc] */
    size_t chunk;          /* rows whose product is held at a time */
    float *facts;          /* [mc / SAEI_CUDA_GROUP][4] */
    float *x_norm, *x_error; /* [batch] */
    /* lists of candidates of top-k rows */
    uint32_t *place;       /* [batch][capacity] */
    float *value;          /* alike */
    size_t capacity;
    uint32_t *rows;        /* [batch] rows that go the plain way; in batch top-k: ties of a row */
    uint32_t *words;       /* [SAEI_WORD_COUNT] of encode: see there */
    uint32_t *histogram;   /* [3][SAEI_BUCKETS], behind words */
    double *sums;          /* [max(batch, ld, m', 2 m ld / 16384 + 16)] */
} saei_cuda_scratch;

static size_t saei_cuda_place(size_t *at, size_t count, size_t size) {
    size_t here = *at;
    if (here == SIZE_MAX || (size && count > (SIZE_MAX - 255 - here) / size)) {
        *at = SIZE_MAX;
        return 0;
    }
    *at = (here + count * size + 255) & ~(size_t)255;
    return here;
}

/* Rows from the host arrive while other operations work: these bytes come first and are apart. */
static size_t saei_cuda_staging_bytes(const sae_shape *h) {
    size_t at = 0;
    saei_cuda_place(&at, 2 * h->batch, h->ld * sizeof(float));
    return at;
}
/* Where the pieces that operations share begin. */
static unsigned char *saei_cuda_scratch_base(const sae_work *w) {
    return (unsigned char *)w->scratch + saei_cuda_staging_bytes(&w->shape);
}

/* Fills s with pieces of base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_cuda_layout(const sae_shape *h, void *base, saei_cuda_scratch *s) {
    unsigned char *b = (unsigned char *)base;
    size_t at = 0, mc, m, sums;
    size_t x16, w16, bias16, product, facts, x_norm, x_error, place, value, rows, words;
    size_t sum;
    if (h->dict_size > 0x7FFFFF00u || h->batch > 0x7FFFFFFFu || h->ld > 0x7FFFFFF0u) return SIZE_MAX;
    mc = saei_cuda_ceil(h->dict_size, SAEI_CUDA_GROUP) * SAEI_CUDA_GROUP;
    m = (h->dict_size + 15) / 16 * 16;
    sums = saei_cuda_max(saei_cuda_max(h->batch, m), h->ld);
    sums = saei_cuda_max(sums, 2 * (m / 16384 + 1) * (h->ld + 1) + 16);
    s->chunk = saei_cuda_max(SAEI_CUDA_PRODUCT_BYTES / (mc * sizeof(__half)), 64);
    s->chunk = saei_cuda_min(s->chunk / 64 * 64, saei_cuda_ceil(h->batch, 8) * 8);
    s->capacity = saei_cuda_min(4 * h->k, mc) + 2 * SAEI_CUDA_TILE;
    x16 = saei_cuda_place(&at, saei_cuda_ceil(h->batch, s->chunk) * s->chunk,
                          h->ld * sizeof(__half));
    w16 = saei_cuda_place(&at, mc, h->ld * sizeof(__half));
    bias16 = saei_cuda_place(&at, mc, sizeof(__half));
    product = saei_cuda_place(&at, s->chunk, mc * sizeof(__half));
    facts = saei_cuda_place(&at, mc / SAEI_CUDA_GROUP, 4 * sizeof(float));
    x_norm = saei_cuda_place(&at, h->batch, sizeof(float));
    x_error = saei_cuda_place(&at, h->batch, sizeof(float));
    place = saei_cuda_place(&at, h->batch, s->capacity * sizeof(uint32_t));
    value = saei_cuda_place(&at, h->batch, s->capacity * sizeof(float));
    rows = saei_cuda_place(&at, h->batch, sizeof(uint32_t));
    words = saei_cuda_place(&at, SAEI_WORD_COUNT + 3 * SAEI_BUCKETS, sizeof(uint32_t));
    sum = saei_cuda_place(&at, sums, sizeof(double));
    if (at == SIZE_MAX || !b) return at;
    s->x16 = (__half *)(b + x16);
    s->w16 = (__half *)(b + w16);
    s->bias16 = (__half *)(b + bias16);
    s->product = (__half *)(b + product);
    s->facts = (float *)(b + facts);
    s->x_norm = (float *)(b + x_norm);
    s->x_error = (float *)(b + x_error);
    s->place = (uint32_t *)(b + place);
    s->value = (float *)(b + value);
    s->rows = (uint32_t *)(b + rows);
    s->words = (uint32_t *)(b + words);
    s->histogram = s->words + SAEI_WORD_COUNT;
    s->sums = (double *)(b + sum);
    return at;
}

static saei_cuda_scratch saei_cuda_scratch_of(const sae_work *w) {
    saei_cuda_scratch s;
    saei_cuda_layout(&w->shape, saei_cuda_scratch_base(w), &s);
    return s;
}

/* -- open and close -- */

static void saei_cuda_close(const sae_context *ctx, void *state) {
    saei_cuda *s = (saei_cuda *)state;
    if (!s) return;
    cudaSetDevice(s->device);
    if (s->stream) cudaStreamSynchronize(s->stream);
    if (s->copy) cudaStreamSynchronize(s->copy);
    if (s->graph) cudaGraphExecDestroy(s->graph);
    if (s->blas) cublasLtDestroy(s->blas);
    for (int i = 0; i < 2; i++)
        if (s->freed[i]) cudaEventDestroy(s->freed[i]);
    for (int i = 0; i < SAEI_CUDA_BEHIND; i++)
        if (s->ended[i]) cudaEventDestroy(s->ended[i]);
    if (s->staged) cudaEventDestroy(s->staged);
    if (s->blas_space) cudaFree(s->blas_space);
    if (s->halt) cudaFree(s->halt);
    if (s->told) cudaFreeHost((void *)(uintptr_t)s->told);
    if (s->copy) cudaStreamDestroy(s->copy);
    if (s->stream && s->own_stream) cudaStreamDestroy(s->stream);
    sae_backend_free(ctx, s);
}

/* Streams, events and small memory; what fails is kept in s. */
static bool saei_cuda_prepare(saei_cuda *s, const sae_cuda_desc *desc) {
    void *told = NULL;
    int bytes = 0;
    s->stream = (cudaStream_t)desc->stream;
    s->own_stream = !s->stream;
    if (!SAEI_CUDA_OK(s, cudaSetDevice(s->device))) return false;
    if (s->own_stream
        && !SAEI_CUDA_OK(s, cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking))) {
        s->stream = NULL;
        return false;
    }
    if (!SAEI_CUDA_OK(s, cudaStreamCreateWithFlags(&s->copy, cudaStreamNonBlocking))) {
        s->copy = NULL;
        return false;
    }
    SAEI_CUDA_OK(s, cudaDeviceGetAttribute(&s->multiprocessors, cudaDevAttrMultiProcessorCount,
                                           s->device));
    SAEI_CUDA_OK(s, cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                           s->device));
    s->shared_most = (size_t)bytes;
    SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->staged, cudaEventDisableTiming));
    for (int i = 0; i < 2; i++)
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->freed[i], cudaEventDisableTiming));
    for (int i = 0; i < SAEI_CUDA_BEHIND; i++)
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->ended[i], cudaEventDisableTiming));
    if (!SAEI_CUDA_OK(s, cudaMalloc((void **)&s->halt, 16 * sizeof(uint32_t)))) return false;
    SAEI_CUDA_OK(s, cudaMemsetAsync(s->halt, 0, 16 * sizeof(uint32_t), s->stream));
    if (!SAEI_CUDA_OK(s, cudaHostAlloc(&told, SAEI_TOLD_COUNT * sizeof(uint32_t),
                                       cudaHostAllocDefault)))
        return false;
    s->told = (volatile uint32_t *)told;
    for (int i = 0; i < SAEI_TOLD_COUNT; i++) s->told[i] = 0;
    s->told[SAEI_TOLD_ENTRIES] = UINT32_MAX;
    if (cublasLtCreate(&s->blas) != CUBLAS_STATUS_SUCCESS) {
        s->blas = NULL;
        return saei_cuda_ok(s, cudaErrorUnknown, "cublasLtCreate");
    }
    s->blas_bytes = (size_t)32 << 20;
    return SAEI_CUDA_OK(s, cudaMalloc(&s->blas_space, s->blas_bytes));
}

static sae_result saei_cuda_open(const sae_context *ctx, void **state) {
    sae_cuda_desc desc;
    saei_cuda *s;
    int devices = 0;
    char text[256];
    cudaError_t error = cudaGetDeviceCount(&devices);
    memset(&desc, 0, sizeof desc);
    if (sae_backend_desc(ctx)) desc = *(const sae_cuda_desc *)sae_backend_desc(ctx);
    if (error != cudaSuccess || devices == 0) {
        cudaGetLastError();
        snprintf(text, sizeof text, "sae_cuda: no CUDA device can be used: %s",
                 error != cudaSuccess ? cudaGetErrorString(error) : "there is none");
        return sae_backend_fail(ctx, SAE_BACKEND, text);
    }
    if (desc.device < 0 || desc.device >= devices) {
        snprintf(text, sizeof text, "sae_cuda: device is %d, allowed are 0 to %d", desc.device,
                 devices - 1);
        return sae_backend_fail(ctx, SAE_INVALID, text);
    }
    s = (saei_cuda *)sae_backend_alloc(ctx, sizeof *s);
    if (!s) return sae_backend_fail(ctx, SAE_OUT_OF_MEMORY, "sae_cuda: no memory for its state");
    memset(s, 0, sizeof *s);
    s->device = desc.device;
    s->screen = desc.screen;
    if (!saei_cuda_prepare(s, &desc)) {
        sae_result result = sae_backend_fail(ctx, s->result, s->text);
        cudaGetLastError();
        saei_cuda_close(ctx, s);
        return result;
    }
    *state = s;
    return SAE_OK;
}

/* -- memory -- */

/* The state, with its device current for this thread. */
static saei_cuda *saei_cuda_enter(const sae_work *w) {
    saei_cuda *s = saei_cuda_of(w);
    if (s->result == SAE_OK) SAEI_CUDA_OK(s, cudaSetDevice(s->device));
    return s;
}

/* What is missing is kept for status, which knows the sentence. */
static bool saei_cuda_malloc(saei_cuda *s, void **out, size_t bytes) {
    size_t unused = 0, all = 0;
    cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
    if (error == cudaSuccess) return true;
    *out = NULL;
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation || cudaMemGetInfo(&unused, &all) != cudaSuccess)
        return saei_cuda_ok(s, error, "cudaMalloc");
    if (s->result != SAE_OK) return false;
    s->result = SAE_OUT_OF_MEMORY;
    snprintf(s->text, sizeof s->text,
             "sae_cuda: %zu MiB are needed after the %zu MiB taken so far, device %d has %zu MiB "
             "free of %zu", (bytes >> 20) + 1, s->taken >> 20, s->device, unused >> 20, all >> 20);
    return false;
}

static void *saei_cuda_alloc(const sae_work *w, size_t bytes) {
    saei_cuda *s = saei_cuda_enter(w);
    void *p = NULL;
    if (s->result != SAE_OK || !saei_cuda_malloc(s, &p, bytes)) return NULL;
    s->taken += bytes;
    SAEI_CUDA_OK(s, cudaMemsetAsync(p, 0, bytes, s->stream));
    return p;
}

static void saei_cuda_free(const sae_work *w, void *memory) {
    saei_cuda_enter(w);
    cudaFree(memory); /* waits for the device; what fails now was reported before */
}

static size_t saei_cuda_scratch_bytes(const sae_work *w, const sae_shape *shape) {
    saei_cuda_scratch s;
    size_t bytes, staging;
    (void)w;
    bytes = saei_cuda_layout(shape, NULL, &s);
    staging = saei_cuda_staging_bytes(shape);
    return bytes > SIZE_MAX - staging ? SIZE_MAX : bytes + staging;
}

static void saei_cuda_upload(const sae_work *w, void *device, const void *host, size_t bytes) {
    saei_cuda *s = saei_cuda_enter(w);
    if (s->result != SAE_OK || !bytes) return;
    SAEI_CUDA_OK(s, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, s->stream));
    SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream)); /* host may be pinned, and is free now */
}

static void saei_cuda_download(const sae_work *w, void *host, const void *device, size_t bytes) {
    saei_cuda *s = saei_cuda_enter(w);
    if (bytes) memset(host, 0, s->result == SAE_OK ? 0 : bytes);
    if (s->result != SAE_OK || !bytes) return;
    SAEI_CUDA_OK(s, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, s->stream));
    SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream));
}

static void saei_cuda_zero(const sae_work *w, void *device, size_t bytes) {
    saei_cuda *s = saei_cuda_enter(w);
    if (s->result != SAE_OK || !bytes) return;
    SAEI_CUDA_OK(s, cudaMemsetAsync(device, 0, bytes, s->stream));
}

static sae_result saei_cuda_poll(const sae_work *w) {
    saei_cuda *s = saei_cuda_of(w);
    if (s->result == SAE_OK) SAEI_CUDA_OK(s, cudaPeekAtLastError());
    return s->result == SAE_OK ? SAE_OK : sae_backend_fail(w->ctx, s->result, s->text);
}

static sae_result saei_cuda_status(const sae_work *w) {
    saei_cuda *s = saei_cuda_enter(w);
    if (s->result == SAE_OK) SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream));
    return saei_cuda_poll(w);
}

/* -- a bad batch -- */

__global__ static void saei_guard_kernel(const uint32_t *bad, uint32_t step_low, uint32_t step_high,
                                         uint32_t *halt) {
    if (threadIdx.x || !*bad || halt[0]) return;
    halt[0] = 1;
    halt[1] = step_low;
    halt[2] = step_high;
}

static void saei_cuda_guard(const sae_work *w, const uint32_t *bad, uint64_t step) {
    saei_cuda *s = saei_cuda_of(w);
    saei_cuda_launch(w, saei_guard_kernel, 1, 32, bad, (uint32_t)step, (uint32_t)(step >> 32),
                     s->halt);
    if (s->result != SAE_OK) return;
    SAEI_CUDA_OK(s, cudaMemcpyAsync((void *)(uintptr_t)(s->told + SAEI_TOLD_HALT), s->halt,
                                    3 * sizeof(uint32_t), cudaMemcpyDeviceToHost, s->stream));
}

static bool saei_cuda_tripped(const sae_work *w, uint64_t *step) {
    saei_cuda *s = saei_cuda_of(w);
    if (!s->told[SAEI_TOLD_HALT] || s->result != SAE_OK) return false;
    /* Rare: all that is under way runs out, so that the steps behind the bad one do nothing. */
    if (!SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream))) return false;
    *step = (uint64_t)s->told[SAEI_TOLD_HALT + 2] << 32 | s->told[SAEI_TOLD_HALT + 1];
    s->told[SAEI_TOLD_HALT] = 0;
    return SAEI_CUDA_OK(s, cudaMemsetAsync(s->halt, 0, 3 * sizeof(uint32_t), s->stream));
}

/* -- the step as one graph -- */

/* Captured anew each step, so that what the host decides (learning rate, k, a path) may change, and
   put into the executable graph in place; that fails only where the course itself has changed. */
static void saei_cuda_begin_step(const sae_work *w) {
    saei_cuda *s = saei_cuda_enter(w);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    s->capturing = false;
    if (s->result != SAE_OK || !SAEI_CUDA_OK(s, cudaStreamIsCapturing(s->stream, &status))) return;
    s->foreign = status != cudaStreamCaptureStatusNone;
    if (s->foreign) return; /* the caller captures: the step becomes part of his graph */
    s->capturing = SAEI_CUDA_OK(s, cudaStreamBeginCapture(s->stream,
                                                          cudaStreamCaptureModeThreadLocal));
}

static void saei_cuda_end_step(const sae_work *w) {
    saei_cuda *s = saei_cuda_of(w);
    cudaGraph_t graph = NULL;
    cudaGraphExecUpdateResultInfo info;
    if (s->capturing) {
        s->capturing = false;
        if (!SAEI_CUDA_OK(s, cudaStreamEndCapture(s->stream, &graph)) || !graph) {
            if (graph) cudaGraphDestroy(graph);
            return;
        }
        if (s->graph && cudaGraphExecUpdate(s->graph, graph, &info) != cudaSuccess) {
            cudaGetLastError();
            cudaGraphExecDestroy(s->graph);
            s->graph = NULL;
        }
        if (!s->graph && !SAEI_CUDA_OK(s, cudaGraphInstantiate(&s->graph, graph, 0)))
            s->graph = NULL;
        cudaGraphDestroy(graph);
        if (s->result != SAE_OK || !SAEI_CUDA_OK(s, cudaGraphLaunch(s->graph, s->stream))) return;
    } else if (s->result != SAE_OK) return;
    if (s->foreign) return;
    /* The host runs at most SAEI_CUDA_BEHIND steps ahead. */
    s->step_turn = (s->step_turn + 1) % SAEI_CUDA_BEHIND;
    if (s->step_turns++ >= SAEI_CUDA_BEHIND)
        SAEI_CUDA_OK(s, cudaEventSynchronize(s->ended[s->step_turn]));
    SAEI_CUDA_OK(s, cudaEventRecord(s->ended[s->step_turn], s->stream));
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

/* ==== >>cuda: batch =========================================================================== */

/* One thread for four columns. kind: 0 float, 1 half, 2 bfloat16. */
__global__ static void saei_load_rows_kernel(const void *rows, int kind, size_t stride, size_t n,
                                             size_t d, size_t ld, float divisor, float *x,
                                             uint32_t *bad) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x, r = at / (ld / 4), c = at % (ld / 4);
    float v[4] = { 0, 0, 0, 0 };
    bool worst = false;
    if (r >= n) return;
    for (size_t i = 0; i < 4 && 4 * c + i < d; i++) {
        size_t from = r * stride + 4 * c + i;
        uint32_t bits;
        if (kind == 0) v[i] = ((const float *)rows)[from];
        else if (kind == 1) v[i] = __half2float(((const __half *)rows)[from]);
        else v[i] = __uint_as_float((uint32_t)((const unsigned short *)rows)[from] << 16);
        bits = __float_as_uint(v[i]);
        worst = worst || (bits & 0x7F800000u) == 0x7F800000u;
        if (divisor != 1.0f) v[i] = __fdiv_rn(v[i], divisor);
    }
    saei_device_put4(x + r * ld + 4 * c, make_float4(v[0], v[1], v[2], v[3]));
    if (worst) atomicExch(bad, 1u);
}

static void saei_cuda_load_rows(const sae_work *w, const sae_rows *rows, size_t n, float divisor,
                                float *x, uint32_t *bad) {
    saei_cuda *s = saei_cuda_enter(w);
    int kind = rows->dtype == SAE_F16 ? 1 : rows->dtype == SAE_BF16 ? 2 : 0;
    size_t d = w->shape.d, ld = w->shape.ld, size = kind ? 2 : 4, turn = s->staging_turn;
    size_t stride = rows->stride ? rows->stride : d;
    const void *from = rows->data;
    if (s->result != SAE_OK) return;
    if (!rows->on_device) {
        void *to = (float *)w->scratch + turn * w->shape.batch * ld; /* staging */
        if (s->staging_turns >= 2)
            SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->copy, s->freed[turn], 0));
        SAEI_CUDA_OK(s, cudaMemcpy2DAsync(to, d * size, from, stride * size, d * size, n,
                                          cudaMemcpyHostToDevice, s->copy));
        SAEI_CUDA_OK(s, cudaEventRecord(s->staged, s->copy));
        SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->stream, s->staged, 0));
        from = to;
        stride = d;
    }
    saei_cuda_launch(w, saei_load_rows_kernel, saei_cuda_ceil(n * (ld / 4), SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, from, kind, stride, n, d, ld, divisor, x, bad);
    if (rows->on_device || s->result != SAE_OK) return;
    SAEI_CUDA_OK(s, cudaEventRecord(s->freed[turn], s->stream));
    s->staging_turn ^= 1;
    s->staging_turns += s->staging_turns < 2;
    SAEI_CUDA_OK(s, cudaEventSynchronize(s->staged)); /* the copy alone: the rows are free again */
}

/* out = a x + y; y NULL: a x. Four floats a thread, the last ones singly. */
__global__ static void saei_axpy_kernel(size_t count, float a, const float *x, const float *y,
                                        float *out) {
    size_t at = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (at + 4 <= count) {
        float4 v = saei_device_float4(x + at), r;
        if (y) r = saei_device_axpy4(a, v, saei_device_float4(y + at));
        else
            r = make_float4(__fmul_rn(a, v.x), __fmul_rn(a, v.y), __fmul_rn(a, v.z),
                            __fmul_rn(a, v.w));
        saei_device_put4(out + at, r);
    } else
        for (; at < count; at++) out[at] = y ? __fmaf_rn(a, x[at], y[at]) : __fmul_rn(a, x[at]);
}

/* x - b for a row b: fma(-1, b, x). */
__global__ static void saei_subtract_kernel(size_t count, size_t ld, const float *x, const float *b,
                                            float *out) {
    size_t at = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (at < count)
        saei_device_put4(out + at, saei_device_axpy4(-1, saei_device_float4(b + at % ld),
                                                     saei_device_float4(x + at)));
}

static void saei_cuda_subtract(const sae_work *w, const float *x, const float *b, size_t n,
                               float *out) {
    size_t count = n * w->shape.ld;
    saei_cuda_launch(w, saei_subtract_kernel, saei_cuda_ceil(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, count, w->shape.ld, x, b, out);
}

static void saei_cuda_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                           float *out) {
    saei_cuda_launch(w, saei_axpy_kernel, saei_cuda_ceil(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, count, a, x, y, out);
}
/* ==== >>cuda: penalties ======================================================================= */

/* ==== >>cuda: by latent ======================================================================= */

/* ==== >>cuda: sums ============================================================================ */

/* ==== >>cuda: weights ========================================================================= */

/* ==== >>cuda: table =========================================================================== */

SAE_API const sae_backend *sae_cuda_backend(void) {
    static const sae_backend table = {
        "cuda", false,
        saei_cuda_open, saei_cuda_close, saei_cuda_alloc, saei_cuda_free, saei_cuda_scratch_bytes,
        saei_cuda_upload, saei_cuda_download, saei_cuda_zero, saei_cuda_status,
        /* batch */ saei_cuda_load_rows, saei_cuda_subtract, saei_cuda_axpy,
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
        NULL, NULL, saei_cuda_begin_step, saei_cuda_end_step, saei_cuda_poll, saei_cuda_guard,
        saei_cuda_tripped
    };
    return &table;
}

#endif /* SAE_CUDA_CUH_INCLUDED */
