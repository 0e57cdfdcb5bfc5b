#pragma once
#include "../api/backend.h"
#include "../api/cuda.h"
#include "../base/math.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef SAEI_DYNAMIC_SHARED /* a block's memory whose size the launch gives */
#define SAEI_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

/* ==== >>cuda: state =========================================================================== */

enum {
    SAEI_CUDA_THREADS = 256, /* of a block, where nothing else is said */
    SAEI_CUDA_BEHIND = 4,    /* steps that the host may run ahead of the device */
    SAEI_CUDA_BOUND = 64,    /* latents that share an error bound in the screened encode */
    SAEI_CUDA_TILE = 128,    /* latents of a tile of the plain encode */
    SAEI_CUDA_PRODUCT_BYTES = 16 << 20, /* of a 16-bit product: two of them stay in the L2 */
    SAEI_BUCKETS = 2048      /* of a histogram over 11 bits */
};
enum { /* words of saei_cuda.told */
    SAEI_TOLD_HALT = 0, SAEI_TOLD_ENTRIES = 4, SAEI_TOLD_COUNT = 8
};
enum { /* words of encode's scratch; doubled ones are 64 bits wide */
    SAEI_WORD_X_MOST,  /* largest norm of a row of x: bits of a float */
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

/* Of one trainer or session: sae_work.state. */
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
    uint32_t *halt;            /* D [16]; 4, 5: of screened encode; from 8 on: [4] doubles */
    volatile uint32_t *told;   /* pinned: what the device told the host without being waited for */
    /* the step as one graph */
    cudaGraphExec_t graph;
    bool capturing, foreign;   /* foreign: the caller captures the stream himself */
    unsigned step_turn, step_turns;
    cudaEvent_t ended[SAEI_CUDA_BEHIND];
    /* screened encode */
    int screen, dense;         /* of sae_cuda_desc */
    cudaStream_t scan;         /* scans run beside the products, both forked from stream */
    cudaEvent_t made[2], scanned[2];
    bool screened, scaled;     /* the last encode was; W_enc's largest norm is known */
    unsigned scale_turn;
    size_t told_rows;          /* of the encode that told the number of its entries */
    saei_cuda_plan plan;
} saei_cuda;

static saei_cuda *saei_cuda_of(const sae_work *w) { return (saei_cuda *)w->state; }

static size_t saei_cuda_ceil(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t saei_cuda_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t saei_cuda_max(size_t a, size_t b) { return a > b ? a : b; }

/* D [4], for an operation's sums while others' scratch is in use. */
static double *saei_cuda_numbers(const sae_work *w) {
    return (double *)(void *)(saei_cuda_of(w)->halt + 8);
}

/* Keeps the first error. Returns whether all is well. */
static bool saei_cuda_ok(saei_cuda *s, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return s->result == SAE_OK;
    if (s->result != SAE_OK) return false;
    s->result = error == cudaErrorMemoryAllocation ? SAE_ERR_OUT_OF_MEMORY : SAE_ERR_BACKEND;
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
    /* screened encode; mc: m rounded up to SAEI_CUDA_BOUND */
    __half *x16, *w16;     /* [batch in whole chunks][ld], [mc][ld] */
    __half *bias16;        /* [mc] */
    __half *product;       /* [2][chunk][mc]: one is scanned while the other is made */
    size_t chunk;          /* rows of a product */
    float *facts;          /* [mc / SAEI_CUDA_BOUND][4] */
    float *x_norm, *x_error; /* [batch] */
    /* lists of candidates of top-k rows */
    uint32_t *place;       /* [batch][capacity] */
    float *value;          /* alike */
    size_t capacity;
    uint32_t *rows;        /* [batch] rows that go the plain way; in batch top-k: ties of a row */
    uint32_t *words;       /* [SAEI_WORD_COUNT] of encode: see there */
    uint32_t *histogram;   /* [3][SAEI_BUCKETS], behind words */
    double *sums;          /* [2][batch] */
    float *latents;        /* [mc] */
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
    size_t at = 0, mc;
    size_t x16, w16, bias16, product, facts, x_norm, x_error, place, value, rows, words;
    size_t sums, latents;
    if (h->dict_size > 0x7FFFFF00u || h->batch > 0x7FFFFFFFu || h->ld > 0x7FFFFFF0u)
        return SIZE_MAX;
    mc = saei_cuda_ceil(h->dict_size, SAEI_CUDA_BOUND) * SAEI_CUDA_BOUND;
    s->chunk = saei_cuda_max(SAEI_CUDA_PRODUCT_BYTES / (mc * sizeof(__half)), 64);
    s->chunk = saei_cuda_min(s->chunk / 64 * 64, saei_cuda_ceil(h->batch, 8) * 8);
    s->capacity = saei_cuda_min(4 * h->k, mc) + 2 * SAEI_CUDA_TILE;
    x16 = saei_cuda_place(&at, saei_cuda_ceil(h->batch, s->chunk) * s->chunk,
                          h->ld * sizeof(__half));
    w16 = saei_cuda_place(&at, mc, h->ld * sizeof(__half));
    bias16 = saei_cuda_place(&at, mc, sizeof(__half));
    product = saei_cuda_place(&at, 2 * s->chunk, mc * sizeof(__half));
    facts = saei_cuda_place(&at, mc / SAEI_CUDA_BOUND, 4 * sizeof(float));
    x_norm = saei_cuda_place(&at, h->batch, sizeof(float));
    x_error = saei_cuda_place(&at, h->batch, sizeof(float));
    place = saei_cuda_place(&at, h->batch, s->capacity * sizeof(uint32_t));
    value = saei_cuda_place(&at, h->batch, s->capacity * sizeof(float));
    rows = saei_cuda_place(&at, h->batch, sizeof(uint32_t));
    words = saei_cuda_place(&at, SAEI_WORD_COUNT + 3 * SAEI_BUCKETS, sizeof(uint32_t));
    sums = saei_cuda_place(&at, 2 * h->batch, sizeof(double));
    latents = saei_cuda_place(&at, mc, sizeof(float));
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
    s->sums = (double *)(b + sums);
    s->latents = (float *)(b + latents);
    return at;
}

static saei_cuda_scratch saei_cuda_scratch_of(const sae_work *w) {
    saei_cuda_scratch s;
    saei_cuda_layout(&w->shape, saei_cuda_scratch_base(w), &s);
    return s;
}

/* Scratch memory of the operations from >>cuda: penalties on. No operation leaves anything in it
   for another. */
enum {
    SAEI_CUDA_ROWS = 64,     /* rows of a mask of the counting sort */
    SAEI_CUDA_PART = 256,    /* latents of a block of it */
    SAEI_CUDA_CHUNK = 16384, /* floats whose squares are one sum */
    SAEI_CUDA_WARPS = SAEI_CUDA_THREADS / 32
};
typedef struct saei_cuda_pieces {
    unsigned long long *mask;  /* [groups of 64 rows][m']: which of the rows list the latent */
    uint32_t *before;          /* alike: how many rows of earlier groups do */
    unsigned long long *total; /* [parts of 256 latents] */
    unsigned long long *count; /* [8] */
    double *sums;              /* rows, latents or 16384s of parameters, whichever is most */
    double *partial;           /* [row blocks, twice those of the batch][ld] */
    float *latents;            /* [max(m', ld)] */
    float *rows;               /* [batch] */
    uint32_t *list, *order;    /* [m'], [batch] */
} saei_cuda_pieces;

static size_t saei_cuda_align16(size_t n) { return (n + 15) / 16 * 16; }

/* As saei_cuda_layout. */
static size_t saei_cuda_pieces_layout(const sae_shape *h, void *base, saei_cuda_pieces *s) {
    unsigned char *b = (unsigned char *)base;
    size_t at = 0, m, groups, most, mask, before, total, count, sums, partial, latents, rows, list;
    size_t order;
    if (h->dict_size > 0x7FFFFF00u || h->batch > 0x7FFFFFFFu || h->ld > 0x7FFFFFF0u)
        return SIZE_MAX;
    m = saei_cuda_align16(h->dict_size);
    groups = saei_cuda_ceil(h->batch, SAEI_CUDA_ROWS);
    most = saei_cuda_ceil(2 * m * h->ld + 4 * m + h->ld, SAEI_CUDA_CHUNK);
    most = saei_cuda_max(saei_cuda_max(most, h->batch), saei_cuda_max(m, h->ld));
    mask = saei_cuda_place(&at, m * groups, sizeof *s->mask);
    before = saei_cuda_place(&at, m * groups, sizeof *s->before);
    total = saei_cuda_place(&at, m / SAEI_CUDA_PART + 1, sizeof *s->total);
    count = saei_cuda_place(&at, 8, sizeof *s->count);
    sums = saei_cuda_place(&at, most, sizeof *s->sums);
    partial = saei_cuda_place(&at, saei_cuda_max(2 * saei_cuda_ceil(h->batch, SAE_ROW_BLOCK),
                                                 saei_cuda_ceil(m, SAE_ROW_BLOCK)),
                              h->ld * sizeof *s->partial);
    latents = saei_cuda_place(&at, saei_cuda_max(m, h->ld), sizeof *s->latents);
    rows = saei_cuda_place(&at, h->batch, sizeof *s->rows);
    list = saei_cuda_place(&at, m, sizeof *s->list);
    order = saei_cuda_place(&at, h->batch, sizeof *s->order);
    if (at == SIZE_MAX || !b) return at;
    s->mask = (unsigned long long *)(b + mask);
    s->before = (uint32_t *)(b + before);
    s->total = (unsigned long long *)(b + total);
    s->count = (unsigned long long *)(b + count);
    s->sums = (double *)(b + sums);
    s->partial = (double *)(b + partial);
    s->latents = (float *)(b + latents);
    s->rows = (float *)(b + rows);
    s->list = (uint32_t *)(b + list);
    s->order = (uint32_t *)(b + order);
    return at;
}

static saei_cuda_pieces saei_cuda_pieces_of(const sae_work *w) {
    saei_cuda_pieces s;
    saei_cuda_pieces_layout(&w->shape, saei_cuda_scratch_base(w), &s);
    return s;
}

/* -- open and close -- */

static void saei_cuda_plan_free(saei_cuda_plan *p) {
    if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    if (p->w) cublasLtMatrixLayoutDestroy(p->w);
    if (p->x) cublasLtMatrixLayoutDestroy(p->x);
    if (p->out) cublasLtMatrixLayoutDestroy(p->out);
    memset(p, 0, sizeof *p);
}

static void saei_cuda_close(const sae_context *ctx, void *state) {
    saei_cuda *s = (saei_cuda *)state;
    if (!s) return;
    cudaSetDevice(s->device);
    if (s->stream) cudaStreamSynchronize(s->stream);
    if (s->copy) cudaStreamSynchronize(s->copy);
    if (s->graph) cudaGraphExecDestroy(s->graph);
    saei_cuda_plan_free(&s->plan);
    if (s->blas) cublasLtDestroy(s->blas);
    if (s->scan) cudaStreamSynchronize(s->scan);
    for (int i = 0; i < 2; i++) {
        if (s->freed[i]) cudaEventDestroy(s->freed[i]);
        if (s->made[i]) cudaEventDestroy(s->made[i]);
        if (s->scanned[i]) cudaEventDestroy(s->scanned[i]);
    }
    for (int i = 0; i < SAEI_CUDA_BEHIND; i++)
        if (s->ended[i]) cudaEventDestroy(s->ended[i]);
    if (s->staged) cudaEventDestroy(s->staged);
    if (s->blas_space) cudaFree(s->blas_space);
    if (s->halt) cudaFree(s->halt);
    if (s->told) cudaFreeHost((void *)(uintptr_t)s->told);
    if (s->copy) cudaStreamDestroy(s->copy);
    if (s->scan) cudaStreamDestroy(s->scan);
    if (s->stream && s->own_stream) cudaStreamDestroy(s->stream);
    sae_backend_free(ctx, s);
}

static bool saei_cuda_malloc(saei_cuda *s, void **out, size_t bytes); /* >>cuda: state, memory */

/* Streams, events and small memory; what fails is kept in s. */
static bool saei_cuda_prepare(saei_cuda *s, const sae_cuda_desc *desc) {
    void *told = NULL, *halt = NULL;
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
    if (!SAEI_CUDA_OK(s, cudaStreamCreateWithFlags(&s->scan, cudaStreamNonBlocking))) {
        s->scan = NULL;
        return false;
    }
    SAEI_CUDA_OK(s, cudaDeviceGetAttribute(&s->multiprocessors, cudaDevAttrMultiProcessorCount,
                                           s->device));
    SAEI_CUDA_OK(s, cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                           s->device));
    s->shared_most = (size_t)bytes;
    SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->staged, cudaEventDisableTiming));
    for (int i = 0; i < 2; i++) {
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->freed[i], cudaEventDisableTiming));
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->made[i], cudaEventDisableTiming));
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->scanned[i], cudaEventDisableTiming));
    }
    for (int i = 0; i < SAEI_CUDA_BEHIND; i++)
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->ended[i], cudaEventDisableTiming));
    if (!saei_cuda_malloc(s, &halt, 16 * sizeof(uint32_t))) return false;
    s->halt = (uint32_t *)halt;
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
    return saei_cuda_malloc(s, &s->blas_space, s->blas_bytes);
}

static sae_result saei_cuda_open(const sae_context *ctx, void **state) {
    sae_cuda_desc desc;
    saei_cuda *s;
    int devices = 0;
    char text[256];
    cudaError_t error = cudaGetDeviceCount(&devices);
    memset(&desc, 0, sizeof desc);
    if (sae_context_backend_desc(ctx)) desc = *(const sae_cuda_desc *)sae_context_backend_desc(ctx);
    if (error != cudaSuccess || devices == 0) {
        cudaGetLastError();
        snprintf(text, sizeof text, "sae_cuda: no CUDA device can be used: %s",
                 error != cudaSuccess ? cudaGetErrorString(error) : "there is none");
        return sae_backend_fail(ctx, SAE_ERR_BACKEND, text);
    }
    if (desc.device < 0 || desc.device >= devices) {
        snprintf(text, sizeof text, "sae_cuda: device is %d, allowed are 0 to %d", desc.device,
                 devices - 1);
        return sae_backend_fail(ctx, SAE_ERR_INVALID, text);
    }
    s = (saei_cuda *)sae_backend_alloc(ctx, sizeof *s);
    if (!s)
        return sae_backend_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_cuda: no memory for its state");
    memset(s, 0, sizeof *s);
    s->device = desc.device;
    s->screen = desc.screen;
    s->dense = desc.dense;
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
    s->result = SAE_ERR_OUT_OF_MEMORY;
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
    saei_cuda_pieces pieces;
    size_t bytes, staging;
    (void)w;
    bytes = saei_cuda_max(saei_cuda_layout(shape, NULL, &s),
                          saei_cuda_pieces_layout(shape, NULL, &pieces));
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
    const saei_cuda *s = saei_cuda_of(w); /* after a fault the next call of the runtime tells */
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
