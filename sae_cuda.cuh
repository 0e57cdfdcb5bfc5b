/*  sae_cuda.cuh - the CUDA backend of sae.h (its >>backend): one NVIDIA GPU, sm_80 and up.

    sae.h includes it; see >>cuda there for the two ways to build. Do not include it by itself. It
    needs the CUDA toolkit's runtime and cuBLASLt, and of sae.h the public half and >>math.

    Results are those of the CPU backend, bit for bit: every operation that reaches a result names
    its rounding (__fmaf_rn, __dadd_rn, ...), sums have >>backend's canonical order, and cuBLASLt's
    product only proposes candidates (>>cuda: screened encode). The host waits for the device in
    download and status, and in end_step if it is several steps ahead; a step allocates nothing.

    In comments, a quad is four neighbouring threads of a warp, and nnz the number of entries of all
    lists. Most kernels state the bytes or floating point operations that bound their time, and what
    that is for W2: TopK with d 512, m 32768, 8192 rows, k 64. Times are estimates for an H200, see
    bench/RESULTS.md.

    CONTENTS (search for the tag)
        >>cuda: state        errors, launching, memory, streams, the step as one graph
        >>cuda: scratch      what each operation lays over the scratch memory
        >>cuda: device math  dots and sums in canonical order, exp, log, pow, Philox
        >>cuda: scalars      sums over rows in the scalars order
        >>cuda: batch        rows loaded, subtract, axpy
        >>cuda: selection    the k largest of a row or a batch
        >>cuda: plain encode     every product in float32
        >>cuda: screened encode  16-bit product, certified candidates, canonical values
        >>cuda: values of entries  gate, jump, exp
        >>cuda: dense sums   lists that are nearly dense matrices
        >>cuda: decode       decode, residual, rows to norm 1
        >>cuda: penalties    penalties, gradients of entries
        >>cuda: reconstruct  decode, residual and gradients of entries in one
        >>cuda: by latent    counting sort, gradients by latent, dead latents
        >>cuda: sums         column sums, variance
        >>cuda: auxiliary losses  aux-k, ghost gradients
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

#ifndef SAEI_DYNAMIC_SHARED /* a block's memory whose size the launch gives */
#define SAEI_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

/* ==== >>cuda: state =================================================== src/cuda/state.cuh ==== */

enum {
    SAEI_CUDA_THREADS = 256, /* of a block, where nothing else is said */
    SAEI_CUDA_WARPS = SAEI_CUDA_THREADS / 32,
    SAEI_CUDA_SHARED = 48 * 1024, /* bytes of shared memory a block has without asking */
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

/* kernel(args...) on blocks x threads with `shared` bytes of dynamic shared memory, at most
   s->shared_most; nothing once there is an error, or for 0 blocks. */
template <typename... P, typename... A>
static void saei_cuda_launch_shared(const sae_work *w, void (*kernel)(P...), size_t blocks,
                                    unsigned threads, size_t shared, A... args) {
    saei_cuda *s = saei_cuda_of(w);
    cudaLaunchConfig_t config = {};
    if (s->result != SAE_OK || !blocks) return;
    if (shared > SAEI_CUDA_SHARED
        && !SAEI_CUDA_OK(s, cudaFuncSetAttribute(kernel,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 (int)shared)))
        return;
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

/* ==== >>cuda: scratch =============================================== src/cuda/scratch.cuh ==== */
/* All operations work in the same memory, sae_work.scratch. Each names in a struct what it lays
   over that memory, where contents are undefined when an operation begins and lost when it ends.
   The struct is filled by saei_cuda_lay_NAME and comes from saei_cuda_NAME_scratch_of. The list at
   the end, SAEI_CUDA_SCRATCHES, has all of them: the memory is as large as the largest. */

enum {
    SAEI_CUDA_BOUND = 64,    /* latents that share an error bound in the screened encode */
    SAEI_CUDA_TILE = 128,    /* latents of a tile of the plain encode */
    SAEI_CUDA_PRODUCT_BYTES = 16 << 20, /* of a 16-bit product: two of them stay in the L2 */
    SAEI_BUCKETS = 2048,     /* of a histogram over 11 bits */
    SAEI_CUDA_ROWS = 64,     /* rows of a mask of the counting sort */
    SAEI_CUDA_PART = 256,    /* latents of a block of it */
    SAEI_CUDA_CHUNK = 16384  /* floats whose squares are one sum */
};

/* Memory while it is laid out; base NULL: only the size is asked for. */
typedef struct saei_cuda_room {
    unsigned char *base;
    size_t used; /* bytes; SIZE_MAX: more than there can be */
} saei_cuda_room;

/* *out = an array [rows][columns] of the room. */
template <typename T>
static void saei_cuda_lay(saei_cuda_room *room, size_t rows, size_t columns, T **out) {
    const size_t used = room->used, row = columns * sizeof(T);
    *out = room->base && used != SIZE_MAX ? (T *)(void *)(room->base + used) : NULL;
    if (used == SIZE_MAX || (row && rows > (SIZE_MAX - 255 - used) / row)) room->used = SIZE_MAX;
    else room->used = (used + rows * row + 255) & ~(size_t)255;
}

/* -- rows from the host: they arrive while other operations work, so these bytes are theirs alone
   and come first -- */

typedef struct saei_cuda_staging {
    float *rows[2]; /* [batch][ld] each, used in turn */
} saei_cuda_staging;

static void saei_cuda_lay_staging(saei_cuda_room *room, const sae_shape *h, saei_cuda_staging *s) {
    for (int i = 0; i < 2; i++) saei_cuda_lay(room, h->batch, h->ld, &s->rows[i]);
}
static saei_cuda_staging saei_cuda_staging_of(const sae_work *w) {
    saei_cuda_room room = { (unsigned char *)w->scratch, 0 };
    saei_cuda_staging s;
    saei_cuda_lay_staging(&room, &w->shape, &s);
    return s;
}
/* The room that operations share. */
static saei_cuda_room saei_cuda_shared_room(void *scratch, const sae_shape *h) {
    saei_cuda_room room = { (unsigned char *)scratch, 0 };
    saei_cuda_staging staging;
    saei_cuda_lay_staging(&room, h, &staging);
    return room;
}

/* -- encode -- */

/* Cleared when an encode begins. */
typedef struct saei_cuda_encode_counts {
    uint32_t x_most;          /* the largest norm of a row of x: bits of a float */
    uint32_t plain;           /* how many rows screening could not decide */
    uint32_t done[4];         /* blocks that have finished a pass over the batch */
    unsigned long long total; /* entries found */
    /* batch top-k */
    uint32_t all;             /* 1: all entries are kept */
    uint32_t prefix;          /* upper bits of the smallest value to keep, as far as known */
    unsigned long long left;  /* how many of the values with these bits are to be kept */
    uint32_t histogram[3][SAEI_BUCKETS];
} saei_cuda_encode_counts;

typedef struct saei_cuda_encode_scratch { /* mc: m in whole groups of SAEI_CUDA_BOUND */
    __half *x16, *w16;       /* [batch in whole chunks][ld], [mc][ld] */
    __half *bias16;          /* [mc] */
    __half *product;         /* [2][chunk][mc]: one is scanned while the other is made */
    size_t chunk;            /* rows of a product */
    float *facts;            /* [mc / SAEI_CUDA_BOUND][4] */
    float *x_norm, *x_error; /* [batch] */
    uint32_t *place;         /* [batch][capacity] lists of candidates of top-k rows */
    float *value;            /* alike */
    size_t capacity;
    uint32_t *rows;          /* [batch] rows that screening could not decide; in batch top-k: ties
                                of a row */
    saei_cuda_encode_counts *counts;
} saei_cuda_encode_scratch;

static void saei_cuda_lay_encode(saei_cuda_room *room, const sae_shape *h,
                                 saei_cuda_encode_scratch *s) {
    size_t mc = saei_ceil_div(h->dict_size, SAEI_CUDA_BOUND) * SAEI_CUDA_BOUND;
    s->chunk = saei_max(SAEI_CUDA_PRODUCT_BYTES / (mc * sizeof(__half)), 64);
    s->chunk = saei_min(s->chunk / 64 * 64, saei_ceil_div(h->batch, 8) * 8);
    s->capacity = saei_min(4 * h->k, mc) + 2 * SAEI_CUDA_TILE;
    saei_cuda_lay(room, saei_ceil_div(h->batch, s->chunk) * s->chunk, h->ld, &s->x16);
    saei_cuda_lay(room, mc, h->ld, &s->w16);
    saei_cuda_lay(room, mc, 1, &s->bias16);
    saei_cuda_lay(room, 2 * s->chunk, mc, &s->product);
    saei_cuda_lay(room, mc / SAEI_CUDA_BOUND, 4, &s->facts);
    saei_cuda_lay(room, h->batch, 1, &s->x_norm);
    saei_cuda_lay(room, h->batch, 1, &s->x_error);
    saei_cuda_lay(room, h->batch, s->capacity, &s->place);
    saei_cuda_lay(room, h->batch, s->capacity, &s->value);
    saei_cuda_lay(room, h->batch, 1, &s->rows);
    saei_cuda_lay(room, 1, 1, &s->counts);
}

/* -- forward and penalties -- */

typedef struct saei_cuda_gate_scratch {
    float *exp_r; /* [m] */
} saei_cuda_gate_scratch;

static void saei_cuda_lay_gate(saei_cuda_room *room, const sae_shape *h,
                               saei_cuda_gate_scratch *s) {
    saei_cuda_lay(room, h->dict_size, 1, &s->exp_r);
}

/* residual, unit_rows, reconstruct, penalty, update_threshold: a number of each row. */
typedef struct saei_cuda_row_sums_scratch {
    double *sums; /* [batch] */
} saei_cuda_row_sums_scratch;

static void saei_cuda_lay_row_sums(saei_cuda_room *room, const sae_shape *h,
                                   saei_cuda_row_sums_scratch *s) {
    saei_cuda_lay(room, h->batch, 1, &s->sums);
}

/* count_nonzero, jump_grad */
typedef struct saei_cuda_count_scratch {
    unsigned long long *count; /* one number */
} saei_cuda_count_scratch;

static void saei_cuda_lay_count(saei_cuda_room *room, const sae_shape *h,
                                saei_cuda_count_scratch *s) {
    (void)h;
    saei_cuda_lay(room, 1, 1, &s->count);
}

/* -- by latent -- */

typedef struct saei_cuda_index_scratch { /* m': m rounded up to 16 */
    unsigned long long *mask;  /* [groups of 64 rows][m']: which of the rows list the latent */
    uint32_t *before;          /* alike: how many rows of earlier groups do */
    unsigned long long *total; /* [parts of 256 latents] entries */
} saei_cuda_index_scratch;

static void saei_cuda_lay_index(saei_cuda_room *room, const sae_shape *h,
                                saei_cuda_index_scratch *s) {
    size_t m = saei_align16(h->dict_size), groups = saei_ceil_div(h->batch, SAEI_CUDA_ROWS);
    saei_cuda_lay(room, groups, m, &s->mask);
    saei_cuda_lay(room, groups, m, &s->before);
    saei_cuda_lay(room, saei_ceil_div(m, SAEI_CUDA_PART), 1, &s->total);
}

typedef struct saei_cuda_latent_rows_scratch {
    uint32_t *hot;               /* [m] latents with many entries */
    unsigned long long *num_hot; /* one number */
} saei_cuda_latent_rows_scratch;

static void saei_cuda_lay_latent_rows(saei_cuda_room *room, const sae_shape *h,
                                      saei_cuda_latent_rows_scratch *s) {
    saei_cuda_lay(room, h->dict_size, 1, &s->hot);
    saei_cuda_lay(room, 1, 1, &s->num_hot);
}

typedef struct saei_cuda_list_silent_scratch {
    unsigned long long *total; /* [parts of 256 latents] silent ones */
} saei_cuda_list_silent_scratch;

static void saei_cuda_lay_list_silent(saei_cuda_room *room, const sae_shape *h,
                                      saei_cuda_list_silent_scratch *s) {
    saei_cuda_lay(room, saei_ceil_div(h->dict_size, SAEI_CUDA_PART), 1, &s->total);
}

/* -- sums -- */

/* column_sums over the batch, weighted_sum over the latents */
typedef struct saei_cuda_columns_scratch {
    double *partial; /* [blocks of 1024 rows][ld] */
} saei_cuda_columns_scratch;

static void saei_cuda_lay_columns(saei_cuda_room *room, const sae_shape *h,
                                  saei_cuda_columns_scratch *s) {
    saei_cuda_lay(room, saei_ceil_div(saei_max(h->batch, h->dict_size), SAE_ROW_BLOCK), h->ld,
                  &s->partial);
}

typedef struct saei_cuda_sum_squares_scratch {
    double *sums; /* one for each 16384 of as many floats as a dictionary has */
} saei_cuda_sum_squares_scratch;

static void saei_cuda_lay_sum_squares(saei_cuda_room *room, const sae_shape *h,
                                      saei_cuda_sum_squares_scratch *s) {
    size_t m = saei_align16(h->dict_size), floats = 2 * m * h->ld + 4 * m + h->ld;
    saei_cuda_lay(room, saei_ceil_div(floats, SAEI_CUDA_CHUNK), 1, &s->sums);
}

typedef struct saei_cuda_variance_scratch {
    double *partial, *squares; /* [blocks of 1024 rows][ld]: sums of x, of (x - mean)^2 */
    double *columns;           /* [ld] */
} saei_cuda_variance_scratch;

static void saei_cuda_lay_variance(saei_cuda_room *room, const sae_shape *h,
                                   saei_cuda_variance_scratch *s) {
    size_t blocks = saei_ceil_div(h->batch, SAE_ROW_BLOCK);
    saei_cuda_lay(room, blocks, h->ld, &s->partial);
    saei_cuda_lay(room, blocks, h->ld, &s->squares);
    saei_cuda_lay(room, h->ld, 1, &s->columns);
}

/* -- auxiliary losses -- */

typedef struct saei_cuda_auxk_scratch {
    saei_cuda_variance_scratch variance;
    double *denominator; /* one number */
    double *sums;        /* [batch] */
} saei_cuda_auxk_scratch;

static void saei_cuda_lay_auxk(saei_cuda_room *room, const sae_shape *h,
                               saei_cuda_auxk_scratch *s) {
    saei_cuda_lay_variance(room, h, &s->variance);
    saei_cuda_lay(room, 1, 1, &s->denominator);
    saei_cuda_lay(room, h->batch, 1, &s->sums);
}

typedef struct saei_cuda_ghost_scratch {
    double *e_norm, *r_norm; /* [batch] */
    double *means;           /* [2]: of e_norm, of r_norm */
} saei_cuda_ghost_scratch;

static void saei_cuda_lay_ghost(saei_cuda_room *room, const sae_shape *h,
                                saei_cuda_ghost_scratch *s) {
    saei_cuda_lay(room, h->batch, 1, &s->e_norm);
    saei_cuda_lay(room, h->batch, 1, &s->r_norm);
    saei_cuda_lay(room, 2, 1, &s->means);
}

/* -- weights -- */

typedef struct saei_cuda_median_scratch {
    double *partial; /* [blocks of 1024 rows][ld] */
    double *weights; /* [batch] */
    float *shares;   /* [batch]: weights / their sum */
    float *move;     /* [ld] */
    uint32_t *done;  /* one number: 1 once a round moved the median by less than 1e-5 */
} saei_cuda_median_scratch;

static void saei_cuda_lay_median(saei_cuda_room *room, const sae_shape *h,
                                 saei_cuda_median_scratch *s) {
    saei_cuda_lay(room, saei_ceil_div(h->batch, SAE_ROW_BLOCK), h->ld, &s->partial);
    saei_cuda_lay(room, h->batch, 1, &s->weights);
    saei_cuda_lay(room, h->batch, 1, &s->shares);
    saei_cuda_lay(room, h->ld, 1, &s->move);
    saei_cuda_lay(room, 1, 1, &s->done);
}

typedef struct saei_cuda_resample_scratch {
    saei_cuda_list_silent_scratch silent;
    uint32_t *dead, *num_dead; /* [m], one number */
    double *norms, *mean;      /* [m] of rows of W_enc, 0 for the dead; one number */
    double *keys;              /* [batch] */
    uint32_t *order;           /* [batch] rows by ascending key */
} saei_cuda_resample_scratch;

static void saei_cuda_lay_resample(saei_cuda_room *room, const sae_shape *h,
                                   saei_cuda_resample_scratch *s) {
    saei_cuda_lay_list_silent(room, h, &s->silent);
    saei_cuda_lay(room, h->dict_size, 1, &s->dead);
    saei_cuda_lay(room, 1, 1, &s->num_dead);
    saei_cuda_lay(room, h->dict_size, 1, &s->norms);
    saei_cuda_lay(room, 1, 1, &s->mean);
    saei_cuda_lay(room, h->batch, 1, &s->keys);
    saei_cuda_lay(room, h->batch, 1, &s->order);
}

/* -- all of them -- */

#define SAEI_CUDA_SCRATCHES(X)                                                                     \
    X(encode) X(gate) X(row_sums) X(count) X(index) X(latent_rows) X(list_silent) X(columns)       \
    X(sum_squares) X(variance) X(auxk) X(ghost) X(median) X(resample)

#define SAEI_CUDA_SCRATCH_OF(name)                                                                 \
    static saei_cuda_##name##_scratch saei_cuda_##name##_scratch_of(const sae_work *w) {           \
        saei_cuda_room room = saei_cuda_shared_room(w->scratch, &w->shape);                        \
        saei_cuda_##name##_scratch s;                                                              \
        saei_cuda_lay_##name(&room, &w->shape, &s);                                                \
        return s;                                                                                  \
    }
SAEI_CUDA_SCRATCHES(SAEI_CUDA_SCRATCH_OF)
#undef SAEI_CUDA_SCRATCH_OF

#define SAEI_CUDA_SCRATCH_BYTES(name)                                                              \
    {                                                                                              \
        saei_cuda_room room = saei_cuda_shared_room(NULL, h);                                      \
        saei_cuda_##name##_scratch s;                                                              \
        saei_cuda_lay_##name(&room, h, &s);                                                        \
        most = saei_max(most, room.used);                                                          \
    }
static size_t saei_cuda_scratch_bytes(const sae_work *w, const sae_shape *h) {
    size_t most = 0;
    (void)w;
    if (h->dict_size > 0x7FFFFF00u || h->batch > 0x7FFFFFFFu || h->ld > 0x7FFFFFF0u)
        return SIZE_MAX;
    SAEI_CUDA_SCRATCHES(SAEI_CUDA_SCRATCH_BYTES)
    return most;
}
#undef SAEI_CUDA_SCRATCH_BYTES

/* ==== >>cuda: device math ============================================ src/cuda/device.cuh ==== */

#if defined(__CUDACC__)
#define SAEI_PRAGMA(x) _Pragma(#x)
#define SAEI_UNROLL(n) SAEI_PRAGMA(unroll n)
#else
#define SAEI_UNROLL(n)
#endif

#define SAEI_FULL 0xFFFFFFFFu /* all lanes of a warp */

__device__ static inline uint32_t saei_device_lane(void) { return threadIdx.x & 31u; }
__device__ static inline uint32_t saei_device_warp(void) { return threadIdx.x >> 5; }
/* Bits of the lanes before this one. */
__device__ static inline uint32_t saei_device_below(void) {
    return (1u << saei_device_lane()) - 1;
}

/* Four threads do a dot: thread q of a quad holds lanes 4q..4q+3 of the 16. A warp has eight quads.
   */
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
/* Down a column of a matrix with rows of `stride` floats. */
__device__ static inline void saei_device_put_column(float *p, uint32_t stride, float4 v) {
    p[0] = v.x;
    p[stride] = v.y;
    p[2 * stride] = v.z;
    p[3 * stride] = v.w;
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
    size_t c = 4 * (threadIdx.x & 3u);
    for (; c + 112 < ld; c += 128) { /* eight loads in flight */
        float4 v[8];
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++) v[k] = saei_device_float4(b + c + 16 * k);
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++)
            s = saei_device_fma4(saei_device_float4(a + c + 16 * k), v[k], s);
    }
    for (; c < ld; c += 16)
        s = saei_device_fma4(saei_device_float4(a + c), saei_device_float4(b + c), s);
    return saei_device_quad_sum(s);
}

/* ==== >>cuda: scalars =============================================== src/cuda/scalars.cuh ==== */

static void saei_cuda_clear(const sae_work *w, void *memory, size_t bytes) {
    saei_cuda *s = saei_cuda_of(w);
    if (s->result == SAE_OK && bytes) SAEI_CUDA_OK(s, cudaMemsetAsync(memory, 0, bytes, s->stream));
}

/* Blocks for work of `count` warps. */
static size_t saei_cuda_warps(size_t count) { return saei_ceil_div(count, SAEI_CUDA_WARPS); }

/* The number of this thread's warp in the grid. */
__device__ static inline size_t saei_device_grid_warp(void) {
    return (size_t)blockIdx.x * (blockDim.x >> 5) + saei_device_warp();
}
__device__ static inline size_t saei_device_grid_thread(void) {
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ static inline unsigned long long saei_device_warp_total(unsigned long long x) {
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(SAEI_FULL, x, apart);
    return x;
}

/* How many of list[0..count), ascending, are below bound. */
__device__ static inline uint32_t saei_device_lower(const uint32_t *list, uint32_t count,
                                                    size_t bound) {
    uint32_t low = 0;
    if (!count || list[count - 1] < bound) return count;
    while (low < count) {
        uint32_t middle = low + (count - low) / 2;
        if (list[middle] < bound) low = middle + 1;
        else count = middle;
    }
    return low;
}

/* Sum of x[0..n) in the scalars order, by a block; thread 0 gets it. Pieces of 64 numbers of up to
   32 blocks of 1024 go through shared memory, where lane b of warp 0 adds the numbers of block b.
   It takes as long as one chain: about 16 us for 1024 additions of 16 cycles. */
__device__ static inline double saei_device_scalars(const double *x, size_t n) {
    const size_t PIECE = 64, BLOCKS = 32, WIDTH = PIECE + 1;
    __shared__ double piece[2][BLOCKS * WIDTH];
    double total = 0;
    for (size_t base = 0; base < n; base += BLOCKS * SAE_ROW_BLOCK) {
        size_t left = n - base, blocks = saei_ceil_div(left, SAE_ROW_BLOCK);
        size_t pieces = saei_ceil_div(saei_min(left, SAE_ROW_BLOCK), PIECE);
        double sum = 0;
        blocks = blocks < BLOCKS ? blocks : BLOCKS;
        for (size_t p = 0; p <= pieces; p++) {
            double *to = piece[p & 1], *from = piece[(p & 1) ^ 1];
            for (size_t t = threadIdx.x; p < pieces && t < blocks * PIECE; t += blockDim.x) {
                size_t b = t / PIECE, c = t % PIECE, at = base + b * SAE_ROW_BLOCK + p * PIECE + c;
                to[b * WIDTH + c] = at < n ? x[at] : 0;
            }
            if (p > 0 && threadIdx.x < blocks)
                for (size_t c = 0; c < PIECE; c++)
                    sum = __dadd_rn(sum, from[threadIdx.x * WIDTH + c]);
            __syncthreads();
        }
        if (saei_device_warp() == 0)
            for (size_t b = 0; b < blocks; b++)
                total = __dadd_rn(total, __shfl_sync(SAEI_FULL, sum, (int)b));
    }
    return total;
}

__global__ static void saei_mean_kernel(const double *sums, size_t n, double divisor, double *out) {
    double total = saei_device_scalars(sums, n);
    if (threadIdx.x == 0) *out = divisor == 1 ? total : __ddiv_rn(total, divisor);
}
/* *out = sum of sums[0..n) / divisor */
static void saei_cuda_mean(const sae_work *w, const double *sums, size_t n, double divisor,
                           double *out) {
    saei_cuda_launch(w, saei_mean_kernel, 1, SAEI_CUDA_THREADS, sums, n, divisor, out);
}

/* ==== >>cuda: batch =================================================== src/cuda/batch.cuh ==== */

/* Four columns per thread. kind: 0 float, 1 half, 2 bfloat16. */
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
        void *to = saei_cuda_staging_of(w).rows[turn];
        if (s->staging_turns >= 2)
            SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->copy, s->freed[turn], 0));
        SAEI_CUDA_OK(s, cudaMemcpy2DAsync(to, d * size, from, stride * size, d * size, n,
                                          cudaMemcpyHostToDevice, s->copy));
        SAEI_CUDA_OK(s, cudaEventRecord(s->staged, s->copy));
        SAEI_CUDA_OK(s, cudaStreamWaitEvent(s->stream, s->staged, 0));
        from = to;
        stride = d;
    }
    saei_cuda_launch(w, saei_load_rows_kernel, saei_ceil_div(n * (ld / 4), SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, from, kind, stride, n, d, ld, divisor, x, bad);
    if (rows->on_device || s->result != SAE_OK) return;
    SAEI_CUDA_OK(s, cudaEventRecord(s->freed[turn], s->stream));
    s->staging_turn ^= 1;
    s->staging_turns += s->staging_turns < 2;
    SAEI_CUDA_OK(s, cudaEventSynchronize(s->staged)); /* the copy: the rows are free again */
}

/* out = a x + y; y NULL: a x. Four floats per thread, the last ones singly. */
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
    saei_cuda_launch(w, saei_subtract_kernel, saei_ceil_div(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, count, w->shape.ld, x, b, out);
}

static void saei_cuda_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                           float *out) {
    saei_cuda_launch(w, saei_axpy_kernel, saei_ceil_div(count, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, count, a, x, y, out);
}

/* ==== >>cuda: selection ============================================== src/cuda/select.cuh ==== */
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

/* ==== >>cuda: plain encode ============================================ src/cuda/plain.cuh ==== */
/* Every product in float32: for lists of latents, for selections that keep many, and for rows that
   screening could not decide. A block takes 32 rows through all latents, 128 at a time; a tile's
   products go through shared memory to the warps that keep the rows' lists. Estimate: 2 n m d flop
   at some 60 % of the float32 peak (16 products for 2 reads of shared memory). */

enum { SAEI_PLAIN_ROWS = 32, SAEI_PLAIN_DEPTH = 16 };

/* Whether p = u + bias is selected, and what is stored of it. */
__device__ static inline bool saei_device_selected(const saei_cuda_encode_task &t, float u,
                                                   uint32_t i, float cut, float *stored) {
    float p = __fadd_rn(u, t.bias[i]), z;
    *stored = t.select == SAE_SELECT_GATE ? u : p;
    if (t.select == SAE_SELECT_ALL) return true;
    if (t.select != SAE_SELECT_WINDOW) return p > cut;
    z = __fdiv_rn(__fsub_rn(p, t.theta[i]), t.bandwidth);
    return p > t.theta[i] || (z > -0.5f && z < 0.5f);
}

/* The guess at the batch's threshold; 0: none. */
__device__ static inline float saei_device_warm(const saei_cuda_encode_task &t) {
    float warm = t.select == SAE_SELECT_BATCH_TOP_K ? *t.warm : 0;
    return warm > 0 && warm <= FLT_MAX ? warm : 0;
}

/* Appends what is selected of a tile's 128 products of one row; returns the list's new length. */
__device__ static inline uint32_t saei_device_keep_tile(const saei_cuda_encode_task &t,
                                                        const float *product, uint32_t tile,
                                                        uint32_t m, float cut, uint32_t *to,
                                                        float *value, uint32_t count,
                                                        size_t limit) {
    bool top = t.select == SAE_SELECT_TOP_K;
    for (uint32_t j = saei_device_lane(); j < SAEI_CUDA_TILE; j += 32) {
        uint32_t place = tile + j, keep, i = 0;
        float stored = 0;
        bool in = place < m;
        if (in) {
            i = t.list ? t.list[place] : place;
            in = saei_device_selected(t, product[j], i, cut, &stored);
        }
        keep = __ballot_sync(SAEI_FULL, in);
        if (in) {
            uint32_t at = count + (uint32_t)__popc(keep & saei_device_below());
            if (at < limit) {
                to[at] = top ? place : i;
                value[at] = stored;
            }
        }
        count += (uint32_t)__popc(keep);
    }
    return count;
}

/* Shared memory of a block: a row of its transposed pieces of x, and of W or of products. */
typedef float saei_plain_x[SAEI_PLAIN_ROWS + 4];
typedef float saei_plain_w[SAEI_CUDA_TILE + 4];

/* The block's 32 x 128 products, 4 x 4 per thread: acc[i] has those of row + i with the latents
   from col on. A thread brings four columns of a row of x and of two rows of W: x, w0 and w1 point
   to its first ones. */
__device__ __forceinline__ static void saei_device_plain_products(
    uint32_t d, const float *x, const float *w0, const float *w1, saei_plain_x *xs,
    saei_plain_w *ws, uint32_t row, uint32_t col, float4 *acc) {
    const uint32_t from = threadIdx.x >> 2, part = (threadIdx.x & 3) * 4;
    float4 a = saei_device_float4(x), b = saei_device_float4(w0), c = saei_device_float4(w1);
    SAEI_UNROLL(4)
    for (int i = 0; i < 4; i++) acc[i] = make_float4(0, 0, 0, 0);
    for (uint32_t k0 = 0; k0 < d; k0 += SAEI_PLAIN_DEPTH) {
        uint32_t depth = d - k0;
        __syncthreads();
        if (from < SAEI_PLAIN_ROWS)
            saei_device_put_column(&xs[part][from], SAEI_PLAIN_ROWS + 4, a);
        saei_device_put_column(&ws[part][from], SAEI_CUDA_TILE + 4, b);
        saei_device_put_column(&ws[part][from + 64], SAEI_CUDA_TILE + 4, c);
        __syncthreads();
        if (k0 + SAEI_PLAIN_DEPTH < d) { /* the next columns load meanwhile */
            a = saei_device_float4(x + k0 + SAEI_PLAIN_DEPTH);
            b = saei_device_float4(w0 + k0 + SAEI_PLAIN_DEPTH);
            c = saei_device_float4(w1 + k0 + SAEI_PLAIN_DEPTH);
        }
        SAEI_UNROLL(16)
        for (uint32_t q = 0; q < SAEI_PLAIN_DEPTH; q++) {
            float4 u, v;
            if (q >= depth) break;
            u = saei_device_float4(&xs[q][row]);
            v = saei_device_float4(&ws[q][col]);
            acc[0] = saei_device_axpy4(u.x, v, acc[0]);
            acc[1] = saei_device_axpy4(u.y, v, acc[1]);
            acc[2] = saei_device_axpy4(u.z, v, acc[2]);
            acc[3] = saei_device_axpy4(u.w, v, acc[3]);
        }
    }
}

enum { SAEI_PLAIN_ALL, SAEI_PLAIN_LISTED, SAEI_PLAIN_AGAIN };

/* Row i of the n that are encoded, for i >= n the last one. */
__device__ static inline uint32_t saei_device_plain_row(const saei_cuda_encode_task &t, int which,
                                                        uint32_t i, uint32_t n) {
    i = i < n ? i : n - 1;
    return which == SAEI_PLAIN_LISTED ? t.s.rows[i] : i;
}

/* which: all rows; those that screening could not decide; or, in batch top-k, all rows again with
   no guess at the threshold, if too few reached it. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 2) saei_plain_kernel(
    saei_cuda_encode_task t, int which) {
    __shared__ __align__(16) saei_plain_x xs[SAEI_PLAIN_DEPTH];
    __shared__ __align__(16) saei_plain_w ws[SAEI_PLAIN_DEPTH], ps[SAEI_PLAIN_ROWS];
    const uint32_t lane = saei_device_lane(), warp = saei_device_warp();
    const uint32_t first = blockIdx.x * SAEI_PLAIN_ROWS;
    const uint32_t m = t.list ? *t.list_count : t.m, k = t.k < m ? t.k : m;
    const uint32_t n = which == SAEI_PLAIN_LISTED ? t.s.counts->plain : t.n;
    const uint32_t row = (warp & 1) * 16 + (lane >> 3) * 4, col = (warp >> 1) * 32 + (lane & 7) * 4;
    const uint32_t from = threadIdx.x >> 2, part = (threadIdx.x & 3) * 4;
    const bool top = t.select == SAE_SELECT_TOP_K;
    const size_t limit = top ? t.s.capacity : t.stride;
    unsigned long long *total = &t.s.counts->total;
    float guess = saei_device_warm(t), cut[4];
    const float *x;
    uint32_t count[4] = { 0, 0, 0, 0 }, r[4];
    if (first >= n) return;
    if (which == SAEI_PLAIN_AGAIN && (guess <= 0 || *total >= t.want)) return;
    if (which == SAEI_PLAIN_AGAIN) guess = 0;
    for (uint32_t i = 0; i < 4; i++) { /* the rows whose lists this warp keeps */
        r[i] = saei_device_plain_row(t, which, first + 4 * warp + i, n);
        cut[i] = guess;
    }
    x = t.x + (size_t)saei_device_plain_row(t, which, first + (from & 31), n) * t.ld + part;
    for (uint32_t tile = 0; tile < m; tile += SAEI_CUDA_TILE) {
        float4 acc[4];
        uint32_t i0 = tile + from < m ? tile + from : m - 1;
        uint32_t i1 = tile + from + 64 < m ? tile + from + 64 : m - 1;
        const float *w0 = t.W + (size_t)(t.list ? t.list[i0] : i0) * t.ld + part;
        const float *w1 = t.W + (size_t)(t.list ? t.list[i1] : i1) * t.ld + part;
        saei_device_plain_products(t.d, x, w0, w1, xs, ws, row, col, acc);
        SAEI_UNROLL(4)
        for (uint32_t i = 0; i < 4; i++) saei_device_put4(&ps[row + i][col], acc[i]);
        __syncthreads();
        for (uint32_t i = 0; i < 4 && first + 4 * warp + i < n; i++) {
            uint32_t *to = (top ? t.s.place : t.latent) + r[i] * limit;
            float *value = (top ? t.s.value : t.pre) + r[i] * limit;
            if (top && count[i] + SAEI_CUDA_TILE > limit)
                count[i] = saei_device_top(to, value, count[i], k, &cut[i]);
            count[i] = saei_device_keep_tile(t, ps[4 * warp + i], tile, m, cut[i], to, value,
                                             count[i], limit);
            __syncwarp();
        }
    }
    for (uint32_t i = 0; i < 4 && first + 4 * warp + i < n; i++) {
        size_t at = r[i] * t.s.capacity, out = r[i] * t.stride;
        if (top) {
            count[i] = saei_device_top(t.s.place + at, t.s.value + at, count[i], k, &cut[i]);
            count[i] = saei_device_top_write(t.s.place + at, t.s.value + at, count[i], k, m, t.list,
                                             t.latent + out, t.pre + out);
        }
        if (lane) continue;
        t.count[r[i]] = count[i];
        if (which == SAEI_PLAIN_ALL && !t.list) atomicAdd(total, (unsigned long long)count[i]);
    }
}

/* ==== >>cuda: screened encode ======================================== src/cuda/screen.cuh ==== */
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
    code->has_active_bits = false;
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

/* ==== >>cuda: values of entries ====================================== src/cuda/values.cuh ==== */
/* A block per row of the code. */

__global__ static void saei_exp_latents_kernel(const float *r_mag, size_t m, float *out) {
    size_t i = saei_device_grid_thread();
    if (i < m) out[i] = (float)saei_exp((double)r_mag[i]);
}

__global__ static void saei_gate_kernel(const float *gate_bias, const float *exp_r,
                                        const float *mag_bias, const uint32_t *count,
                                        const uint32_t *latent, const float *pre, size_t stride,
                                        float *gate, float *value) {
    size_t at = blockIdx.x * stride;
    for (size_t j = at + threadIdx.x; j < at + count[blockIdx.x]; j += blockDim.x) {
        uint32_t i = latent[j];
        float u = pre[j], v = __fadd_rn(__fmul_rn(exp_r[i], u), mag_bias[i]);
        gate[j] = __fadd_rn(u, gate_bias[i]);
        value[j] = v > 0 ? v : 0;
    }
}

static void saei_cuda_gate(const sae_work *w, const float *gate_bias, const float *r_mag,
                           const float *mag_bias, sae_code *code) {
    size_t m = w->shape.dict_size;
    float *exp_r = saei_cuda_gate_scratch_of(w).exp_r;
    saei_cuda_launch(w, saei_exp_latents_kernel, saei_ceil_div(m, SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, r_mag, m, exp_r);
    saei_cuda_launch(w, saei_gate_kernel, code->rows, SAEI_CUDA_THREADS, gate_bias, exp_r, mag_bias,
                     code->count, code->latent, code->pre, code->stride, code->gate, code->value);
}

__global__ static void saei_jump_kernel(const float *theta, const uint32_t *count,
                                        const uint32_t *latent, const float *pre, size_t stride,
                                        float *value) {
    size_t at = blockIdx.x * stride;
    for (size_t j = at + threadIdx.x; j < at + count[blockIdx.x]; j += blockDim.x) {
        float p = pre[j];
        value[j] = p > theta[latent[j]] ? p : 0;
    }
}

static void saei_cuda_jump(const sae_work *w, const float *theta, sae_code *code) {
    saei_cuda_launch(w, saei_jump_kernel, code->rows, SAEI_CUDA_THREADS, theta, code->count,
                     code->latent, code->pre, code->stride, code->value);
}

/* value = exp(pre), or grad *= value where grad is given. */
__global__ static void saei_exp_kernel(const uint32_t *count, const float *pre, size_t stride,
                                       float *value, float *grad) {
    size_t at = blockIdx.x * stride;
    for (size_t j = at + threadIdx.x; j < at + count[blockIdx.x]; j += blockDim.x) {
        if (grad) grad[j] = __fmul_rn(grad[j], value[j]);
        else value[j] = (float)saei_exp((double)pre[j]);
    }
}

static void saei_cuda_exp_values(const sae_work *w, sae_code *code) {
    saei_cuda_launch(w, saei_exp_kernel, code->rows, SAEI_CUDA_THREADS, code->count, code->pre,
                     code->stride, code->value, (float *)NULL);
}

static void saei_cuda_exp_grad(const sae_work *w, sae_code *code) {
    saei_cuda_launch(w, saei_exp_kernel, code->rows, SAEI_CUDA_THREADS, code->count, code->pre,
                     code->stride, code->value, code->grad);
}

/* ==== >>cuda: dense sums ============================================== src/cuda/dense.cuh ==== */
/* In a fresh dictionary of a scheme without k, half of the latents are active. Gathering a row for
   every entry would then be bound by reading: half of W2's 268 M entries are 275 GB, 50 ms from the
   L2. So the lists are laid out as the dense matrix they nearly are, tile by tile in shared memory
   with 0 where there is no entry, and the sums are a float32 product in registers. Each sum is the
   same chain of operations: fma(0, x, s) is s. 2 n m d flop, W2: 275 GFLOP, 6 ms at 45 TFLOP/s. */

enum {
    SAEI_DENSE_TILE = 128, /* targets, and columns, of a block */
    SAEI_DENSE_DEPTH = 16  /* indices at a time; divides SAE_ROW_BLOCK */
};

/* Lists of (index, value), indices ascending: list i is begin[i]..begin[i+1], or where begin is
   NULL count[i] entries at i stride. */
typedef struct saei_cuda_lists {
    const size_t *begin;
    const uint32_t *count;
    size_t stride;
    const uint32_t *index;
    const float *value;
} saei_cuda_lists;

/* Rows k0.. of both tiles: the first half of the block lays out one list per thread, from *at on;
   the second half copies M. */
__device__ static inline void saei_device_dense_fill(const saei_cuda_lists &lists, size_t *at,
                                                     size_t end, uint32_t k0, uint32_t hi,
                                                     const float *M, size_t ld, uint32_t column,
                                                     float *left, float *right) {
    uint32_t t = threadIdx.x;
    if (t < SAEI_DENSE_TILE) {
        size_t j = *at;
        SAEI_UNROLL(16)
        for (uint32_t k = 0; k < SAEI_DENSE_DEPTH; k++) left[k * SAEI_DENSE_TILE + t] = 0;
        while (j < end) {
            uint32_t k = lists.index[j] - k0;
            if (k >= SAEI_DENSE_DEPTH) break;
            left[k * SAEI_DENSE_TILE + t] = lists.value[j++];
        }
        *at = j;
        return;
    }
    t -= SAEI_DENSE_TILE;
    SAEI_UNROLL(4)
    for (uint32_t q = 0; q < SAEI_DENSE_DEPTH / 4; q++) {
        uint32_t k = 4 * q + t / 32, c = 4 * (t % 32);
        float4 v = make_float4(0, 0, 0, 0);
        if (k0 + k < hi && column + c < ld)
            v = saei_device_float4(M + (size_t)(k0 + k) * ld + column + c);
        saei_device_put4(right + k * SAEI_DENSE_TILE + c, v);
    }
}

__device__ static inline void saei_device_dense_step(const float *left, const float *right,
                                                     float4 (*sum)[2]) {
    const uint32_t x = 4 * (threadIdx.x % 16), y = 4 * (threadIdx.x / 16);
    SAEI_UNROLL(4)
    for (int k = 0; k < SAEI_DENSE_DEPTH; k++) {
        float4 a = saei_device_float4(left + k * SAEI_DENSE_TILE + y);
        float4 b = saei_device_float4(left + k * SAEI_DENSE_TILE + 64 + y);
        float4 c = saei_device_float4(right + k * SAEI_DENSE_TILE + x);
        float4 d = saei_device_float4(right + k * SAEI_DENSE_TILE + 64 + x);
        float f[8] = { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w };
        SAEI_UNROLL(8)
        for (int i = 0; i < 8; i++) {
            sum[i][0] = saei_device_axpy4(f[i], c, sum[i][0]);
            sum[i][1] = saei_device_axpy4(f[i], d, sum[i][1]);
        }
    }
}

/* out[i] = base[i] + alpha sum over the entries of list i with lo <= index < hi of value M[index],
   for `count` lists from `first` on; base NULL: 0. Sums over blocks of `block` indices are added in
   order, in out meanwhile. 8 x 8 numbers per thread. */
__global__ static void __launch_bounds__(SAEI_CUDA_THREADS, 2)
saei_dense_sums_kernel(saei_cuda_lists lists, size_t first, uint32_t count, uint32_t lo,
                       uint32_t hi, uint32_t block, const float *M, size_t ld, float alpha,
                       const float *base, size_t base_stride, float *out) {
    __shared__ __align__(16) float left[2][SAEI_DENSE_DEPTH * SAEI_DENSE_TILE];
    __shared__ __align__(16) float right[2][SAEI_DENSE_DEPTH * SAEI_DENSE_TILE];
    const uint32_t tiles = ((uint32_t)ld + SAEI_DENSE_TILE - 1) / SAEI_DENSE_TILE;
    const uint32_t column = blockIdx.x % tiles * SAEI_DENSE_TILE;
    const uint32_t target = blockIdx.x / tiles * SAEI_DENSE_TILE;
    const uint32_t x = 4 * (threadIdx.x % 16), y = 4 * (threadIdx.x / 16);
    float4 sum[8][2];
    size_t at = 0, end = 0;
    uint32_t k0 = lo;
    if (threadIdx.x < SAEI_DENSE_TILE && target + threadIdx.x < count) {
        size_t i = first + target + threadIdx.x;
        uint32_t here;
        at = lists.begin ? lists.begin[i] : i * lists.stride;
        here = lists.begin ? (uint32_t)(lists.begin[i + 1] - at) : lists.count[i];
        end = at + saei_device_lower(lists.index + at, here, hi);
        at += lo ? saei_device_lower(lists.index + at, here, lo) : 0;
    }
    SAEI_UNROLL(8)
    for (int i = 0; i < 8; i++) sum[i][0] = sum[i][1] = make_float4(0, 0, 0, 0);
    saei_device_dense_fill(lists, &at, end, k0, hi, M, ld, column, left[0], right[0]);
    __syncthreads();
    for (uint32_t side = 0;; side ^= 1) {
        bool last = k0 + SAEI_DENSE_DEPTH >= hi;
        if (!last)
            saei_device_dense_fill(lists, &at, end, k0 + SAEI_DENSE_DEPTH, hi, M, ld, column,
                                   left[side ^ 1], right[side ^ 1]);
        saei_device_dense_step(left[side], right[side], sum);
        __syncthreads();
        k0 += SAEI_DENSE_DEPTH;
        if (!last && k0 % block != 0) continue;
        SAEI_UNROLL(8)
        for (int i = 0; i < 8; i++) {
            uint32_t row = target + y + (uint32_t)(i < 4 ? i : 60 + i);
            SAEI_UNROLL(2)
            for (uint32_t h = 0; h < 2; h++) {
                uint32_t c = column + 64 * h + x;
                size_t to = row * ld + c;
                float4 v = sum[i][h];
                sum[i][h] = make_float4(0, 0, 0, 0);
                if (row >= count || c >= ld) continue;
                if (k0 > block) v = saei_device_axpy4(1, v, saei_device_float4(out + to));
                if (last)
                    v = make_float4(__fmul_rn(alpha, v.x), __fmul_rn(alpha, v.y),
                                    __fmul_rn(alpha, v.z), __fmul_rn(alpha, v.w));
                if (last && base)
                    v = saei_device_axpy4(1, v, saei_device_float4(base + row * base_stride + c));
                saei_device_put4(out + to, v);
            }
        }
        if (last) return;
    }
}

/* out and base begin at list `first`. */
static void saei_cuda_dense_sums(const sae_work *w, const saei_cuda_lists *lists, size_t first,
                                 size_t count, size_t lo, size_t hi, size_t block, const float *M,
                                 float alpha, const float *base, size_t base_stride, float *out) {
    size_t ld = w->shape.ld;
    saei_cuda_launch(w, saei_dense_sums_kernel,
                     saei_ceil_div(count, SAEI_DENSE_TILE) * saei_ceil_div(ld, SAEI_DENSE_TILE),
                     SAEI_CUDA_THREADS, *lists, first, (uint32_t)count, (uint32_t)lo, (uint32_t)hi,
                     (uint32_t)block, M, ld, alpha, base, base_stride, out);
}

/* Whether lists with room for `stride` latents are likely to be dense: more than one entry in 14,
   by the number of entries last received. No bit depends on it. */
static bool saei_cuda_is_dense(const sae_work *w, size_t stride) {
    saei_cuda *s = saei_cuda_of(w);
    double m = (double)w->shape.dict_size;
    double listed = (double)s->mailbox->entries;
    if (s->dense != 0) return s->dense > 0;
    if ((double)stride * 14 < m) return false;
    return !s->counted_rows || listed * 14 > (double)s->counted_rows * m;
}

/* ==== >>cuda: decode ================================================= src/cuda/decode.cuh ==== */

/* Columns c..c+3 of sum_j value[j] W[latent[j]], ascending j, for the threads of a warp: it reads
   32 entries at a time, one per lane, and passes them round by shuffles, for which threads with
   c >= ld are needed too. */
__device__ static inline float4 saei_device_row_sum(const uint32_t *latent, const float *value,
                                                    uint32_t count, const float *W, size_t ld,
                                                    size_t c) {
    const uint32_t lane = saei_device_lane();
    float4 sum = make_float4(0, 0, 0, 0);
    const float *column = W + (c < ld ? c : 0);
    for (uint32_t base = 0; base < count; base += 32) {
        uint32_t l = 0, here = count - base < 32 ? count - base : 32;
        float v = 0;
        if (lane < here) {
            l = latent[base + lane];
            v = value[base + lane];
        }
        SAEI_UNROLL(8)
        for (uint32_t j = 0; j < here; j++) {
            uint32_t i = __shfl_sync(SAEI_FULL, l, (int)j);
            float a = __shfl_sync(SAEI_FULL, v, (int)j);
            sum = saei_device_axpy4(a, saei_device_float4(column + (size_t)i * ld), sum);
        }
    }
    return sum;
}

/* A block per row of out. */
__global__ static void saei_decode_kernel(const uint32_t *count, const uint32_t *latent,
                                          const float *values, size_t stride, const float *W,
                                          size_t ld, size_t lo, size_t hi, const float *base,
                                          size_t base_stride, float *out) {
    size_t r = blockIdx.x;
    uint32_t begin, end;
    latent += r * stride;
    values += r * stride;
    begin = lo ? saei_device_lower(latent, count[r], lo) : 0;
    end = saei_device_lower(latent, count[r], hi);
    if (end < begin) end = begin;
    for (size_t c = 4 * threadIdx.x; c - 4 * saei_device_lane() < ld; c += 4 * blockDim.x) {
        float4 sum = saei_device_row_sum(latent + begin, values + begin, end - begin, W, ld, c);
        if (c >= ld) continue;
        if (base)
            sum = saei_device_axpy4(1, sum, saei_device_float4(base + r * base_stride + c));
        saei_device_put4(out + r * ld + c, sum);
    }
}

/* Threads of a block that makes a row of ld floats, four per thread. */
static unsigned saei_cuda_row_threads(size_t ld) {
    return (unsigned)(saei_min(saei_ceil_div(ld / 4, 32), 8) * 32);
}

static void saei_cuda_decode(const sae_work *w, const sae_code *code, const float *values,
                             const float *W, size_t lo, size_t hi, const float *base,
                             size_t base_stride, float *out) {
    if (saei_cuda_is_dense(w, code->stride)) {
        saei_cuda_lists lists = { NULL, code->count, code->stride, code->latent, values };
        saei_cuda_dense_sums(w, &lists, 0, code->rows, lo, hi, UINT32_MAX, W, 1, base, base_stride,
                             out);
        return;
    }
    saei_cuda_launch(w, saei_decode_kernel, code->rows, saei_cuda_row_threads(w->shape.ld),
                     code->count, code->latent, values, code->stride, W, w->shape.ld, lo, hi, base,
                     base_stride, out);
}

/* sums[r] = sum e^2, e = x_hat - y. Without x_hat: e to norm 1, sums[r] its norm. A quad per row.
   */
__global__ static void saei_residual_kernel(const float *x_hat, const float *y, size_t n, size_t ld,
                                            float *e, double *sums) {
    size_t r = saei_device_grid_thread() >> 2, at = (r < n ? r : 0) * ld, first, end;
    float4 s = make_float4(0, 0, 0, 0);
    double sum;
    first = 4 * (threadIdx.x & 3u);
    end = r < n ? ld : 0;
    for (size_t c = at + first; c < at + end; c += 16) {
        float4 v;
        if (x_hat) {
            v = saei_device_axpy4(-1, saei_device_float4(y + c), saei_device_float4(x_hat + c));
            saei_device_put4(e + c, v);
        } else v = saei_device_float4(e + c);
        s = saei_device_fma4(v, v, s);
    }
    sum = saei_device_quad_sum(s);
    if (!x_hat) sum = __dsqrt_rn(sum);
    if (r < n && first == 0) sums[r] = sum;
    if (x_hat || !(sum > 0)) return;
    for (size_t c = at + first; c < at + end; c += 16) {
        float4 v = saei_device_float4(e + c);
        float norm = (float)sum;
        saei_device_put4(e + c, make_float4(__fdiv_rn(v.x, norm), __fdiv_rn(v.y, norm),
                                            __fdiv_rn(v.z, norm), __fdiv_rn(v.w, norm)));
    }
}

static void saei_cuda_residual(const sae_work *w, const float *x_hat, const float *y, size_t n,
                               float *e, double *loss) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    saei_cuda_launch(w, saei_residual_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, x_hat, y, n, w->shape.ld, e, sums);
    saei_cuda_mean(w, sums, n, (double)n, loss);
}

static void saei_cuda_unit_rows(const sae_work *w, size_t n, float *e, double *loss) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    saei_cuda_launch(w, saei_residual_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, (const float *)NULL, (const float *)NULL, n, w->shape.ld, e,
                     sums);
    saei_cuda_mean(w, sums, n, (double)n, loss);
}

/* ==== >>cuda: penalties =========================================== src/cuda/penalties.cuh ==== */

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
    while (warps > 1 && warps * row > SAEI_CUDA_SHARED) warps /= 2;
    if (lo >= hi) return;
    if (warps * row > SAEI_CUDA_SHARED)
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

/* ==== >>cuda: reconstruct ======================================= src/cuda/reconstruct.cuh ==== */

/* decode, residual and dots, a block per row: e stays in shared memory for the dots, and W's rows
   come from the L1 or L2 when they are read again. Estimate: n k d 4 bytes twice at 5.5 TB/s. */
__global__ static void saei_reconstruct_kernel(const uint32_t *counts, const uint32_t *latent,
                                               const float *values, size_t stride, const float *W,
                                               size_t ld, const float *base, const float *y,
                                               float alpha, const float *relu_of, float *e,
                                               double *sums, float *grad) {
    SAEI_DYNAMIC_SHARED(saei_shared);
    float *row = (float *)saei_shared;
    size_t r = blockIdx.x, at = r * stride;
    uint32_t count = counts[r], quads = blockDim.x >> 2;
    double sum;
    for (size_t c = 4 * threadIdx.x; c - 4 * saei_device_lane() < ld; c += 4 * blockDim.x) {
        float4 v = saei_device_row_sum(latent + at, values + at, count, W, ld, c);
        if (c >= ld) continue;
        v = saei_device_axpy4(1, v, saei_device_float4(base + c));
        v = saei_device_axpy4(-1, saei_device_float4(y + r * ld + c), v);
        saei_device_put4(e + r * ld + c, v);
        saei_device_put4(row + c, v);
    }
    __syncthreads();
    if (saei_device_warp() == 0) {
        sum = saei_device_dot(row, row, ld);
        if (threadIdx.x == 0) sums[r] = sum;
    }
    for (uint32_t first = 0; first < count; first += quads) {
        uint32_t j = first + (threadIdx.x >> 2);
        bool in = j < count;
        if (first + (threadIdx.x & ~31u) / 4 >= count) break; /* the whole warp */
        sum = saei_device_dot(row, W + (size_t)latent[at + (in ? j : first)] * ld, ld);
        if (in && (threadIdx.x & 3) == 0) {
            float g = (float)__dmul_rn((double)alpha, sum);
            grad[at + j] = relu_of && !(relu_of[at + j] > 0) ? 0 : g;
        }
    }
}

static void saei_cuda_reconstruct(const sae_work *w, const sae_code *code, const float *values,
                                  const float *W, const float *base, const float *y, float alpha,
                                  const float *relu_of, float *e, double *loss, float *grad) {
    double *sums = saei_cuda_row_sums_scratch_of(w).sums;
    size_t ld = w->shape.ld, shared = ld * sizeof(float);
    saei_cuda *s = saei_cuda_of(w);
    /* or rows of more than 50,000 floats */
    if (saei_cuda_is_dense(w, code->stride) || shared > s->shared_most) {
        saei_cuda_decode(w, code, values, W, 0, w->shape.dict_size, base, 0, e);
        saei_cuda_residual(w, e, y, code->rows, e, loss);
        saei_cuda_dots(w, code, e, W, 0, w->shape.dict_size, alpha, relu_of, grad);
        return;
    }
    saei_cuda_launch_shared(w, saei_reconstruct_kernel, code->rows, saei_cuda_row_threads(ld),
                            shared, code->count, code->latent, values, code->stride, W, ld, base, y,
                            alpha, relu_of, e, sums, grad);
    saei_cuda_mean(w, sums, code->rows, (double)code->rows, loss);
}

/* ==== >>cuda: by latent ============================================= src/cuda/latents.cuh ==== */

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
    index->has_bits = false;
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
    const size_t slices = saei_ceil_div(ld, SAEI_CUDA_COLUMNS);
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
    const size_t slices = saei_ceil_div(ld, 32), blocks = saei_ceil_div(n, SAE_ROW_BLOCK);
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
    to += (size_t)__popc(ballot & saei_device_below());
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

/* ==== >>cuda: sums ===================================================== src/cuda/sums.cuh ==== */

/* partial[block] = sum of s_r x_r over a block of 1024 rows (s NULL: 1), in double; the products
   are exact. A warp has 32 columns of a block, with 32 loads in flight; rows with s = 0 are not
   read. n d 4 bytes: W2's W_enc 67 MB. */
__global__ static void saei_block_sum_kernel(const float *x, const float *s, size_t n, size_t ld,
                                             double *partial, const uint32_t *done) {
    const size_t slices = saei_ceil_div(ld, 32), block = blockIdx.x / slices;
    const size_t c = blockIdx.x % slices * 32 + threadIdx.x, first = block * SAE_ROW_BLOCK;
    const size_t end = first + SAE_ROW_BLOCK < n ? first + SAE_ROW_BLOCK : n;
    double sum = 0;
    if ((done && *done) || c >= ld) return;
    x += c;
    for (size_t r = first; r < end; r += 32) {
        float v[32], f[32];
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++)
            f[k] = r + (size_t)k >= end ? 0 : s ? s[r + (size_t)k] : 1;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) v[k] = f[k] != 0 ? x[(r + (size_t)k) * ld] : 0;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) sum = __fma_rn((double)f[k], (double)v[k], sum);
    }
    partial[block * ld + c] = sum;
}
static void saei_cuda_block_sum(const sae_work *w, const float *x, const float *s, size_t n,
                                double *partial, const uint32_t *done) {
    size_t ld = w->shape.ld;
    saei_cuda_launch(w, saei_block_sum_kernel,
                     saei_ceil_div(n, SAE_ROW_BLOCK) * saei_ceil_div(ld, 32), 32, x, s, n, ld,
                     partial, done);
}
/* Column c of the blocks' sums, added in order. */
__device__ static inline double saei_device_column(const double *partial, size_t blocks, size_t ld,
                                                   size_t c) {
    double sum = partial[c];
    for (size_t b = 1; b < blocks; b += 16) {
        double v[16];
        SAEI_UNROLL(16)
        for (int k = 0; k < 16; k++)
            v[k] = b + (size_t)k < blocks ? partial[(b + (size_t)k) * ld + c] : 0;
        SAEI_UNROLL(16)
        for (int k = 0; k < 16; k++)
            if (b + (size_t)k < blocks) sum = __dadd_rn(sum, v[k]);
    }
    return sum;
}
/* out[c] = column c's sum over the blocks times alpha, + out[c] if add */
__global__ static void saei_column_sums_kernel(const double *partial, size_t blocks, size_t ld,
                                               float alpha, bool add, float *out) {
    const size_t c = saei_device_grid_thread();
    double sum;
    if (c >= ld) return;
    sum = __dmul_rn((double)alpha, saei_device_column(partial, blocks, ld, c));
    out[c] = (float)(add ? __dadd_rn((double)out[c], sum) : sum);
}
static void saei_cuda_column_sums(const sae_work *w, const float *x, size_t n, float alpha,
                                  float *out) {
    double *partial = saei_cuda_columns_scratch_of(w).partial;
    saei_cuda_block_sum(w, x, NULL, n, partial, NULL);
    saei_cuda_launch(w, saei_column_sums_kernel, saei_ceil_div(w->shape.ld, 32), 32, partial,
                     saei_ceil_div(n, SAE_ROW_BLOCK), w->shape.ld, alpha, false, out);
}
static void saei_cuda_weighted_sum(const sae_work *w, const float *W, const float *s, size_t m,
                                   float alpha, float *out) {
    double *partial = saei_cuda_columns_scratch_of(w).partial;
    saei_cuda_block_sum(w, W, s, m, partial, NULL);
    saei_cuda_launch(w, saei_column_sums_kernel, saei_ceil_div(w->shape.ld, 32), 32, partial,
                     saei_ceil_div(m, SAE_ROW_BLOCK), w->shape.ld, alpha, true, out);
}

/* Half a warp has 16384 floats, one of the dot's 16 lanes per thread, with 32 loads of 64 bytes in
   flight. 4 bytes per float: W2's gradients 134 MB. */
__global__ static void saei_sum_squares_kernel(const float *x, size_t count, double *sums) {
    const size_t part = saei_device_grid_thread() / 16, first = part * SAEI_CUDA_CHUNK;
    const size_t end = first + SAEI_CUDA_CHUNK < count ? first + SAEI_CUDA_CHUNK : count;
    float sum = 0;
    double all;
    for (size_t c = first + threadIdx.x % 16; c < end; c += 32 * 16) {
        float v[32];
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) v[k] = c + 16 * (size_t)k < end ? x[c + 16 * (size_t)k] : 0;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) sum = __fmaf_rn(v[k], v[k], sum);
    }
    all = (double)sum;
    for (int apart = 8; apart > 0; apart /= 2)
        all = __dadd_rn(all, __shfl_xor_sync(SAEI_FULL, all, apart));
    if (first < count && threadIdx.x % 16 == 0) sums[part] = all;
}
static void saei_cuda_sum_squares(const sae_work *w, const float *x, size_t count, double *out) {
    double *sums = saei_cuda_sum_squares_scratch_of(w).sums;
    size_t parts = saei_ceil_div(count, SAEI_CUDA_CHUNK);
    saei_cuda_launch(w, saei_sum_squares_kernel, saei_ceil_div(parts, 4), 64, x, count, sums);
    saei_cuda_mean(w, sums, parts, 1, out);
}

/* squares[block] = sum of (x - mean)^2 over a block of rows; the means from the blocks' sums. n d 4
   bytes, from the L2 if x is no larger; cut as saei_block_sum_kernel. */
__global__ static void __launch_bounds__(32, 16)
saei_scatter_kernel(const float *x, size_t n, size_t ld, const double *partial, double *squares) {
    const size_t slices = saei_ceil_div(ld, 32), block = blockIdx.x / slices;
    const size_t c = blockIdx.x % slices * 32 + threadIdx.x, first = block * SAE_ROW_BLOCK;
    const size_t end = first + SAE_ROW_BLOCK < n ? first + SAE_ROW_BLOCK : n;
    double mean, sum = 0;
    if (c >= ld) return;
    mean = __ddiv_rn(saei_device_column(partial, saei_ceil_div(n, SAE_ROW_BLOCK), ld, c),
                     (double)n);
    x += c;
    for (size_t r = first; r < end; r += 32) {
        float v[32];
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) v[k] = r + (size_t)k < end ? x[(r + (size_t)k) * ld] : 0;
        SAEI_UNROLL(32)
        for (int k = 0; k < 32; k++) {
            double away = __dsub_rn((double)v[k], mean);
            if (r + (size_t)k < end) sum = __dadd_rn(sum, __dmul_rn(away, away));
        }
    }
    squares[block * ld + c] = sum;
}
__global__ static void saei_columns_kernel(const double *partial, size_t blocks, size_t ld,
                                           double *out) {
    const size_t c = saei_device_grid_thread();
    if (c < ld) out[c] = saei_device_column(partial, blocks, ld, c);
}
/* *out = sum over columns and rows of (x - column mean)^2 / divisor */
static void saei_cuda_scatter(const sae_work *w, saei_cuda_variance_scratch s, const float *x,
                              size_t n, double divisor, double *out) {
    size_t ld = w->shape.ld, blocks = saei_ceil_div(n, SAE_ROW_BLOCK);
    saei_cuda_block_sum(w, x, NULL, n, s.partial, NULL);
    saei_cuda_launch(w, saei_scatter_kernel, blocks * saei_ceil_div(ld, 32), 32, x, n, ld,
                     s.partial, s.squares);
    saei_cuda_launch(w, saei_columns_kernel, saei_ceil_div(ld, 32), 32, s.squares, blocks, ld,
                     s.columns);
    saei_cuda_mean(w, s.columns, w->shape.d, divisor, out);
}

__global__ static void saei_fill_kernel(double *out, double value) { *out = value; }

static void saei_cuda_variance(const sae_work *w, const float *x, size_t n, double *out) {
    if (n > 1)
        saei_cuda_scatter(w, saei_cuda_variance_scratch_of(w), x, n, (double)(n - 1), out);
    else saei_cuda_launch(w, saei_fill_kernel, 1, 1, out, 0.0);
}

/* 4 bytes per entry. */
__global__ static void saei_count_nonzero_kernel(sae_code code, unsigned long long *count) {
    const size_t r = saei_device_grid_warp();
    unsigned long long found = 0;
    if (r < code.rows)
        for (uint32_t j = saei_device_lane(); j < code.count[r]; j += 32)
            found += code.value[r * code.stride + j] != 0;
    found = saei_device_warp_total(found);
    if (saei_device_lane() == 0 && found) atomicAdd(count, found);
}
__global__ static void saei_mean_count_kernel(const unsigned long long *count, size_t n,
                                              double *mean) {
    *mean = __ddiv_rn((double)*count, (double)n);
}
static void saei_cuda_count_nonzero(const sae_work *w, const sae_code *code, double *mean) {
    unsigned long long *found = saei_cuda_count_scratch_of(w).count;
    saei_cuda_clear(w, found, sizeof *found);
    saei_cuda_launch(w, saei_count_nonzero_kernel, saei_cuda_warps(code->rows), SAEI_CUDA_THREADS,
                     *code, found);
    saei_cuda_launch(w, saei_mean_count_kernel, 1, 1, found, code->rows, mean);
}

/* ==== >>cuda: auxiliary losses ==================================== src/cuda/auxiliary.cuh ==== */

/* -- auxk -- */

/* r = x_aux + e, sums[row] = sum r^2. A quad per row. */
__global__ static void saei_auxk_rows_kernel(const float *x_aux, const float *e, size_t n,
                                             size_t ld, const uint32_t *list_count, float *r,
                                             double *sums) {
    size_t row = saei_device_grid_thread() >> 2, at = (row < n ? row : 0) * ld;
    float4 s = make_float4(0, 0, 0, 0);
    double sum;
    if (!*list_count) return;
    for (size_t c = at + 4 * (threadIdx.x & 3u); row < n && c < at + ld; c += 16) {
        float4 v = saei_device_axpy4(1, saei_device_float4(x_aux + c), saei_device_float4(e + c));
        saei_device_put4(r + c, v);
        s = saei_device_fma4(v, v, s);
    }
    sum = saei_device_quad_sum(s);
    if (row < n && (threadIdx.x & 3) == 0) sums[row] = sum;
}

__global__ static void saei_auxk_scale_kernel(size_t n, size_t ld, const uint32_t *list_count,
                                              double alpha, const double *denominator, float *r,
                                              double *pre_norm, double *norm) {
    size_t at = 4 * saei_device_grid_thread();
    double ratio, scale;
    float s = 0;
    bool dead = *list_count != 0;
    if (dead) {
        ratio = __ddiv_rn(*pre_norm, *denominator);
        scale = __ddiv_rn(__dmul_rn(2, alpha), __dmul_rn((double)n, *denominator));
        if (!(fabs(ratio) <= DBL_MAX) || !(fabs(scale) <= (double)FLT_MAX)) ratio = scale = 0;
        s = (float)scale;
        if (at == 0) *norm = ratio;
    } else if (at == 0) {
        *pre_norm = -1;
        *norm = 0;
    }
    if (at < n * ld) {
        float4 v = make_float4(0, 0, 0, 0);
        if (dead) v = saei_device_float4(r + at);
        saei_device_put4(r + at, dead ? make_float4(__fmul_rn(s, v.x), __fmul_rn(s, v.y),
                                                    __fmul_rn(s, v.z), __fmul_rn(s, v.w))
                                      : v);
    }
}

static void saei_cuda_auxk_residual(const sae_work *w, const float *x_aux, const float *e, size_t n,
                                    const uint32_t *list_count, double alpha, float *r,
                                    double *pre_norm, double *norm) {
    size_t ld = w->shape.ld;
    saei_cuda_auxk_scratch s = saei_cuda_auxk_scratch_of(w);
    saei_cuda_scatter(w, s.variance, e, n, (double)n, s.denominator);
    saei_cuda_launch(w, saei_auxk_rows_kernel, saei_ceil_div(n, SAEI_CUDA_THREADS / 4),
                     SAEI_CUDA_THREADS, x_aux, e, n, ld, list_count, r, s.sums);
    saei_cuda_mean(w, s.sums, n, (double)n, pre_norm);
    saei_cuda_launch(w, saei_auxk_scale_kernel, saei_ceil_div(n * ld, 4 * SAEI_CUDA_THREADS),
                     SAEI_CUDA_THREADS, n, ld, list_count, alpha, s.denominator, r, pre_norm, norm);
}

/* -- ghosts -- */

/* First without out: the rows' norms of e and r to e_norm and r_norm. Then with the means of both
   known, out. A quad per row. */
__global__ static void saei_ghost_kernel(const float *x_g, const float *e, size_t n, size_t ld,
                                         const uint32_t *list_count, const double *means,
                                         double *e_norm, double *r_norm, float *out,
                                         double *loss) {
    size_t row = saei_device_grid_thread() >> 2, at = (row < n ? row : 0) * ld;
    size_t first = at + 4 * (threadIdx.x & 3u), end = row < n ? at + ld : at;
    float4 none = make_float4(0, 0, 0, 0), sum = none;
    double size_e, size_g, size_r, c = 0;
    float s, q;
    if (out && saei_device_grid_thread() == 0)
        *loss = *list_count ? __dmul_rn(means[1], __ddiv_rn(means[0], __dadd_rn(means[1], 1e-8)))
                            : 0;
    if (!*list_count) {
        for (size_t i = first; out && i < end; i += 16) saei_device_put4(out + i, none);
        return;
    }
    size_e = __dsqrt_rn(saei_device_dot(e + at, e + at, end - at));
    size_g = __dsqrt_rn(saei_device_dot(x_g + at, x_g + at, end - at));
    s = (float)__ddiv_rn(size_e, __dadd_rn(__dmul_rn(2, size_g), 1e-8));
    for (size_t i = first; i < end; i += 16) {
        float4 v = saei_device_float4(e + i), r;
        r = saei_device_axpy4(-s, saei_device_float4(x_g + i),
                              make_float4(-v.x, -v.y, -v.z, -v.w));
        sum = saei_device_fma4(r, r, sum);
    }
    size_r = __dsqrt_rn(saei_device_quad_sum(sum));
    if (!out) {
        if (row < n && first == at) {
            e_norm[row] = size_e;
            r_norm[row] = size_r;
        }
        return;
    }
    c = __ddiv_rn(means[0], __dadd_rn(means[1], 1e-8));
    q = 0;
    if (size_r > 0)
        q = (float)__ddiv_rn(__dmul_rn(-(double)s, c), __dmul_rn((double)n, size_r));
    for (size_t i = first; i < end; i += 16) {
        float4 v = saei_device_float4(e + i), r;
        r = saei_device_axpy4(-s, saei_device_float4(x_g + i),
                              make_float4(-v.x, -v.y, -v.z, -v.w));
        saei_device_put4(out + i, make_float4(__fmul_rn(q, r.x), __fmul_rn(q, r.y),
                                              __fmul_rn(q, r.z), __fmul_rn(q, r.w)));
    }
}

static void saei_cuda_ghost_residual(const sae_work *w, const float *x_g, const float *e, size_t n,
                                     const uint32_t *list_count, float *out, double *loss) {
    size_t ld = w->shape.ld, blocks = saei_ceil_div(n, SAEI_CUDA_THREADS / 4);
    saei_cuda_ghost_scratch s = saei_cuda_ghost_scratch_of(w);
    saei_cuda_launch(w, saei_ghost_kernel, blocks, SAEI_CUDA_THREADS, x_g, e, n, ld, list_count,
                     s.means, s.e_norm, s.r_norm, (float *)NULL, loss);
    saei_cuda_mean(w, s.e_norm, n, (double)n, s.means);
    saei_cuda_mean(w, s.r_norm, n, (double)n, s.means + 1);
    saei_cuda_launch(w, saei_ghost_kernel, blocks, SAEI_CUDA_THREADS, x_g, e, n, ld, list_count,
                     s.means, s.e_norm, s.r_norm, out, loss);
}

/* ==== >>cuda: weights =============================================== src/cuda/weights.cuh ==== */

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
    return c.sum_squares ? (float)saei_clip_factor(*c.sum_squares, c.max_norm) : 1;
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

/* Where in shared memory the second of two rows of ld floats begins: 16 banks from the first. */
SAEI_INLINE size_t saei_cuda_apart(size_t ld) { return (ld + 16) / 32 * 32 + 16; }

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
    float *g = STAGED ? own + saei_cuda_apart(ld) : grad;
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
    size_t row, warps = SAEI_CUDA_WARPS;
    job.ld = w->shape.ld;
    job.room = saei_cuda_apart(job.ld);
    if (PROJECT) job.room += job.ld;
    job.room = saei_align16(job.room);
    row = job.room * sizeof(float);
    while (warps > 1 && warps * row > SAEI_CUDA_SHARED) warps /= 2;
    if (warps * row > SAEI_CUDA_SHARED)
        saei_cuda_launch(w, saei_rows_kernel<PROJECT, ADAM, UNIT, false>, saei_cuda_warps(job.m),
                         SAEI_CUDA_THREADS, job, step);
    else
        saei_cuda_launch_shared(w, saei_rows_kernel<PROJECT, ADAM, UNIT, true>,
                                saei_ceil_div(job.m, warps), (unsigned)warps * 32, warps * row,
                                job, step);
}

static void saei_cuda_remove_parallel(const sae_work *w, const float *W, size_t m, float eps,
                                      const sae_lazy_adam *lazy, float *grad) {
    saei_cuda_adam_step step;
    saei_cuda_row_job job;
    (void)lazy; /* no update is deferred: there is no catch_up */
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
                                float unit, const sae_lazy_adam *lazy, size_t m, float *param,
                                float *grad, float *first, float *second) {
    saei_cuda_adam_step step = saei_cuda_adam_step_of(w, adam, t, sum_squares, max_norm);
    saei_cuda_row_job job;
    (void)lazy;
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

/* ==== >>cuda: table =================================================== src/cuda/table.cuh ==== */

/* Optional operations that others here do as fast. */
#define saei_cuda_code_sums NULL
#define saei_cuda_skip NULL
#define saei_cuda_skip_grad NULL
#define saei_cuda_signum NULL
#define saei_cuda_catch_up NULL
/* Crosscoders are trained on the CPU alone. */
#define saei_cuda_center_layers NULL
#define saei_cuda_layer_errors NULL
#define saei_cuda_layer_norms NULL
#define saei_cuda_layer_norm_grad NULL
#define saei_cuda_weigh_rows NULL
#define saei_cuda_unweigh NULL
#define saei_cuda_layer_median NULL
#define saei_cuda_count_quiet NULL
#define saei_cuda_layer_resample NULL

SAE_API const sae_backend *sae_cuda_backend(void) {
#define SAEI_CUDA(result, name, need, parameters, arguments) saei_cuda_##name,
    static const sae_backend table = {
        "cuda", false, SAE_BACKEND_CONTROL(SAEI_CUDA) SAE_BACKEND_OPERATIONS(SAEI_CUDA)
    };
#undef SAEI_CUDA
    return &table;
}

#undef saei_cuda_signum
#undef saei_cuda_skip_grad
#undef saei_cuda_skip
#undef saei_cuda_code_sums
#undef saei_cuda_catch_up
#undef saei_cuda_center_layers
#undef saei_cuda_layer_errors
#undef saei_cuda_layer_norms
#undef saei_cuda_layer_norm_grad
#undef saei_cuda_weigh_rows
#undef saei_cuda_unweigh
#undef saei_cuda_layer_median
#undef saei_cuda_count_quiet
#undef saei_cuda_layer_resample

#endif /* SAE_CUDA_CUH_INCLUDED */
