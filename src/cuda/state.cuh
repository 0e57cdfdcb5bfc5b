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
    SAEI_CUDA_WARPS = SAEI_CUDA_THREADS / 32,
    SAEI_CUDA_STEPS_AHEAD = 4 /* how far the host may run ahead of the device */
};

/* The first bad batch of a run (sae_backend.guard). */
typedef struct saei_cuda_guard_flag {
    uint32_t bad; /* 1 once there was one: from then on, operations leave the weights alone */
    uint64_t step;
} saei_cuda_guard_flag;

/* Device memory that outlives an operation. */
typedef struct saei_cuda_kept {
    saei_cuda_guard_flag guard;
    uint32_t w_most[2]; /* screened encode: W_enc's largest norm, bits of a float; of the last call
                           and of this one in turn */
} saei_cuda_kept;

/* Pinned memory the device writes and the host polls. */
typedef struct saei_cuda_mailbox {
    saei_cuda_guard_flag guard;
    unsigned long long entries; /* of the last encode whose lists have no fixed length */
} saei_cuda_mailbox;

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
    /* the first error, which stays, and its message */
    sae_result result;
    char text[512];
    size_t taken;              /* bytes that alloc gave */
    /* rows from the host go through two buffers in turn */
    unsigned staging_turn, staging_turns;
    cudaEvent_t staged, freed[2];
    saei_cuda_kept *kept;      /* D */
    volatile saei_cuda_mailbox *mailbox;
    /* the step as one graph */
    cudaGraphExec_t graph;
    bool capturing, foreign;   /* foreign: the caller is capturing the stream */
    unsigned step_turn, step_turns;
    cudaEvent_t ended[SAEI_CUDA_STEPS_AHEAD];
    /* screened encode */
    int screen, dense;         /* of sae_cuda_desc */
    cudaStream_t scan;         /* scans overlap with the products, both forked from stream */
    cudaEvent_t made[2], scanned[2];
    bool screened, scaled;     /* the last encode was; W_enc's largest norm is known */
    unsigned scale_turn;       /* kept->w_most[scale_turn] is the last call's */
    size_t counted_rows;       /* rows of the encode that sends mailbox->entries; 0: none yet */
    saei_cuda_plan plan;
} saei_cuda;

static saei_cuda *saei_cuda_of(const sae_work *w) { return (saei_cuda *)w->state; }

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

/* -- memory -- */

/* The state, with its device current for this thread. */
static saei_cuda *saei_cuda_enter(const sae_work *w) {
    saei_cuda *s = saei_cuda_of(w);
    if (s->result == SAE_OK) SAEI_CUDA_OK(s, cudaSetDevice(s->device));
    return s;
}

/* Where memory is short, the message says how much is needed, taken and free. */
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
    cudaFree(memory); /* waits for the device; an error here was reported before */
}

static void saei_cuda_upload(const sae_work *w, void *device, const void *host, size_t bytes) {
    saei_cuda *s = saei_cuda_enter(w);
    if (s->result != SAE_OK || !bytes) return;
    SAEI_CUDA_OK(s, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, s->stream));
    SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream)); /* pinned memory is read late */
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
    const saei_cuda *s = saei_cuda_of(w); /* a fault shows in the runtime's next call */
    return s->result == SAE_OK ? SAE_OK : sae_backend_fail(w->ctx, s->result, s->text);
}

static sae_result saei_cuda_status(const sae_work *w) {
    saei_cuda *s = saei_cuda_enter(w);
    if (s->result == SAE_OK) SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream));
    return saei_cuda_poll(w);
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
    for (int i = 0; i < SAEI_CUDA_STEPS_AHEAD; i++)
        if (s->ended[i]) cudaEventDestroy(s->ended[i]);
    if (s->staged) cudaEventDestroy(s->staged);
    if (s->blas_space) cudaFree(s->blas_space);
    if (s->kept) cudaFree(s->kept);
    if (s->mailbox) cudaFreeHost((void *)(uintptr_t)s->mailbox);
    if (s->copy) cudaStreamDestroy(s->copy);
    if (s->scan) cudaStreamDestroy(s->scan);
    if (s->stream && s->own_stream) cudaStreamDestroy(s->stream);
    sae_backend_free(ctx, s);
}

/* Streams, events and small memory; what fails is kept in s. */
static bool saei_cuda_prepare(saei_cuda *s, const sae_cuda_desc *desc) {
    void *mailbox = NULL, *kept = NULL;
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
    for (int i = 0; i < SAEI_CUDA_STEPS_AHEAD; i++)
        SAEI_CUDA_OK(s, cudaEventCreateWithFlags(&s->ended[i], cudaEventDisableTiming));
    if (!saei_cuda_malloc(s, &kept, sizeof *s->kept)) return false;
    s->kept = (saei_cuda_kept *)kept;
    SAEI_CUDA_OK(s, cudaMemsetAsync(s->kept, 0, sizeof *s->kept, s->stream));
    if (!SAEI_CUDA_OK(s, cudaHostAlloc(&mailbox, sizeof *s->mailbox, cudaHostAllocDefault)))
        return false;
    memset(mailbox, 0, sizeof *s->mailbox);
    s->mailbox = (volatile saei_cuda_mailbox *)mailbox;
    s->mailbox->entries = UINT64_MAX; /* not known yet: counts as many */
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

/* -- a bad batch -- */

__global__ static void saei_guard_kernel(const uint32_t *bad, uint64_t step,
                                         saei_cuda_guard_flag *guard) {
    if (threadIdx.x || !*bad || guard->bad) return;
    guard->bad = 1;
    guard->step = step;
}

static void saei_cuda_guard(const sae_work *w, const uint32_t *bad, uint64_t step) {
    saei_cuda *s = saei_cuda_of(w);
    saei_cuda_launch(w, saei_guard_kernel, 1, 32, bad, step, &s->kept->guard);
    if (s->result != SAE_OK) return;
    SAEI_CUDA_OK(s, cudaMemcpyAsync((void *)(uintptr_t)&s->mailbox->guard, &s->kept->guard,
                                    sizeof s->kept->guard, cudaMemcpyDeviceToHost, s->stream));
}

static bool saei_cuda_tripped(const sae_work *w, uint64_t *step) {
    saei_cuda *s = saei_cuda_of(w);
    if (!s->mailbox->guard.bad || s->result != SAE_OK) return false;
    /* Rare. Waits, so that the steps that were queued after the bad one are skipped first. */
    if (!SAEI_CUDA_OK(s, cudaStreamSynchronize(s->stream))) return false;
    *step = s->mailbox->guard.step;
    s->mailbox->guard.bad = 0;
    return SAEI_CUDA_OK(s, cudaMemsetAsync(&s->kept->guard, 0, sizeof s->kept->guard, s->stream));
}

/* -- the step as one graph -- */

/* Captured anew each step, so that what the host decides (learning rate, k, a path) may change. The
   executable graph is updated in place, which fails only if other kernels run than before; then it
   is made anew. */
static void saei_cuda_begin_step(const sae_work *w) {
    saei_cuda *s = saei_cuda_enter(w);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    s->capturing = false;
    if (s->result != SAE_OK || !SAEI_CUDA_OK(s, cudaStreamIsCapturing(s->stream, &status))) return;
    s->foreign = status != cudaStreamCaptureStatusNone;
    if (s->foreign) return; /* the step becomes part of the caller's graph */
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
    /* The host runs at most SAEI_CUDA_STEPS_AHEAD steps ahead. */
    s->step_turn = (s->step_turn + 1) % SAEI_CUDA_STEPS_AHEAD;
    if (s->step_turns++ >= SAEI_CUDA_STEPS_AHEAD)
        SAEI_CUDA_OK(s, cudaEventSynchronize(s->ended[s->step_turn]));
    SAEI_CUDA_OK(s, cudaEventRecord(s->ended[s->step_turn], s->stream));
}
