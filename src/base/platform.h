#pragma once
#include "../api/files.h"
#include "../api/model.h"
#include "../api/backend.h"
#include "math.h"
#include "system.h"

/* ==== >>platform ============================================================================== */

#define SAEI_PRINTF SAE_PRINTF
#if defined(__GNUC__)
#define SAEI_PREFETCH(p) __builtin_prefetch(p)
#else
#define SAEI_PREFETCH(p) (void)(p)
#endif

#define SAEI_TRY(call)                                                                             \
    do {                                                                                           \
        sae_result saei_try_result = (call);                                                       \
        if (saei_try_result != SAE_OK) return saei_try_result;                                     \
    } while (0)

#if defined(__GNUC__)
#define SAEI_NOINLINE __attribute__((noinline))
#elif defined(_MSC_VER)
#define SAEI_NOINLINE __declspec(noinline)
#else
#define SAEI_NOINLINE
#endif

typedef struct saei_kernels saei_kernels; /* >>kernels */
typedef struct saei_block saei_block;     /* >>context */

struct sae_context {
    sae_allocator allocator;
    sae_logger logger;
    sae_io io;
    sae_pool pool;
    int threads; /* >= 1: workers of a parallel call */
    const sae_backend *backend; /* NULL: the CPU */
    const void *backend_desc;
    const saei_kernels *kernels;
    saei_block *blocks; /* [num_blocks]: inference works in them */
    size_t num_blocks;
    int lock; /* guards error: a spin lock, held for a memcpy */
    char error[1024];
};

/* Takes *lock or gives it back (to 0); returns what it was. */
static int saei_lock_exchange(int *lock, int to) {
#if defined(__GNUC__)
    return __atomic_exchange_n(lock, to, to ? __ATOMIC_ACQUIRE : __ATOMIC_RELEASE);
#elif defined(_MSC_VER)
    return (int)_InterlockedExchange((volatile long *)lock, to);
#elif defined(__cplusplus)
    return reinterpret_cast<std::atomic<int> *>(lock)->exchange(to);
#elif __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_ATOMICS__)
    return atomic_exchange((_Atomic int *)lock, to);
#else
#error "sae.h: this compiler has no atomic exchange that is known here: compile as C11 or C++11"
#endif
}

/* False where another has it. */
static bool saei_try_lock(int *lock) { return !saei_lock_exchange(lock, 1); }

static void saei_lock(int *lock) {
    while (saei_lock_exchange(lock, 1)) {}
}

static void saei_unlock(int *lock) { saei_lock_exchange(lock, 0); }

static void saei_log(const sae_context *ctx, sae_log_level level, const char *format, ...)
    SAEI_PRINTF(3, 4);
static void saei_log(const sae_context *ctx, sae_log_level level, const char *format, ...) {
    char text[1024];
    va_list args;
    if (!ctx || !ctx->logger.log) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ctx->logger.log(level, SAE_OK, text, ctx->logger.user);
}

/* Records the sentence and returns result, so that `return saei_fail(ctx, SAE_ERR_INVALID, ...)`
   reads as one step. ctx is const because inference fails through it too; a lock guards the
   message. */
static sae_result saei_fail(const sae_context *ctx, sae_result result, const char *format, ...)
    SAEI_PRINTF(3, 4);
static sae_result saei_fail(const sae_context *ctx, sae_result result, const char *format, ...) {
    char text[1024];
    sae_context *c = (sae_context *)(uintptr_t)ctx;
    va_list args;
    if (!ctx) return result;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    saei_lock(&c->lock);
    memcpy(c->error, text, sizeof text);
    saei_unlock(&c->lock);
    if (ctx->logger.log) ctx->logger.log(SAE_LOG_ERROR, result, text, ctx->logger.user);
    return result;
}

/* Sizes: false when the true result does not fit. */
static bool saei_mul(size_t a, size_t b, size_t *out) {
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}
static bool saei_add(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) return false;
    *out = a + b;
    return true;
}

/* Where the next `count` things of `size` bytes go in a block of which *at bytes are used; on
   64-byte boundaries. *at SIZE_MAX: more than there can be. */
static size_t saei_place(size_t *at, size_t count, size_t size) {
    size_t here = *at, bytes;
    if (here == SIZE_MAX || !saei_mul(count, size, &bytes) || !saei_add(here, bytes, &bytes)
        || bytes > SIZE_MAX - 63) {
        *at = SIZE_MAX;
        return 0;
    }
    *at = (bytes + 63) & ~(size_t)63;
    return here;
}

/* The place itself in a block at base; NULL while there is none and only *at moves on. */
static void *saei_piece(unsigned char *base, size_t *at, size_t count, size_t size) {
    size_t here = saei_place(at, count, size);
    return base ? base + here : NULL;
}

static uint32_t saei_float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static float saei_bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#if !defined(SAE_NO_TRAIN) || !defined(SAE_NO_FORMATS)
static uint64_t saei_to_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
#endif

/* Whether none of n floats, at any address, is NaN or infinite. */
static bool saei_all_finite(const void *x, size_t n) {
    uint32_t bits, bad = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, (const unsigned char *)x + i * sizeof bits, sizeof bits);
        bad |= (uint32_t)((bits & 0x7F800000u) == 0x7F800000u);
    }
    return !bad;
}

/* Asks for huge pages inside a large block, where the system has them: a page fault costs as much
   as filling the page, large dictionaries are walked by columns too, and a step reads rows in no
   order (15 % of such a reading). */
static void saei_hint_huge(void *memory, size_t size) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = (uintptr_t)1 << 21;
    uintptr_t begin = (uintptr_t)memory / page * page + page, end = (uintptr_t)memory + size;
    if (size < 2 * page) return;
    madvise((void *)begin, (size_t)(end / page * page - begin), MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}

/* Memory on 64-byte boundaries from the caller's allocator; the original pointer sits in front.
   NULL when there is none (also for count * size too large). Not zeroed. */
enum { SAEI_ALLOC_EXTRA = 64 + sizeof(void *) };
static void *saei_alloc(const sae_context *ctx, size_t count, size_t size) {
    size_t bytes;
    unsigned char *base, *at;
    if (!saei_mul(count, size, &bytes) || !saei_add(bytes, SAEI_ALLOC_EXTRA, &bytes))
        return NULL;
    base = (unsigned char *)ctx->allocator.alloc(bytes, ctx->allocator.user);
    if (!base) return NULL;
    saei_hint_huge(base, bytes);
    at = base + sizeof(void *);
    at += (64 - ((uintptr_t)at & 63)) & 63;
    memcpy(at - sizeof(void *), &base, sizeof base);
    return at;
}

static void *saei_calloc(const sae_context *ctx, size_t count, size_t size) {
    void *p = saei_alloc(ctx, count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

static SAEI_NOINLINE void saei_free(const sae_context *ctx, const void *memory) {
    void *base;
    if (!memory) return;
    memcpy(&base, (const unsigned char *)memory - sizeof(void *), sizeof base);
    ctx->allocator.free(base, ctx->allocator.user);
}

#ifndef SAE_NO_TRAIN
SAE_API void *sae_backend_alloc(const sae_context *ctx, size_t bytes) {
    return saei_alloc(ctx, bytes, 1);
}
SAE_API void sae_backend_free(const sae_context *ctx, void *memory) { saei_free(ctx, memory); }
SAE_API sae_result sae_backend_fail(const sae_context *ctx, sae_result result, const char *text) {
    return saei_fail(ctx, result, "%s", text);
}
SAE_API const void *sae_context_backend_desc(const sae_context *ctx) { return ctx->backend_desc; }
#endif

static char *saei_strdup(const sae_context *ctx, const char *text) {
    size_t n = strlen(text) + 1;
    char *p = (char *)saei_alloc(ctx, n, 1);
    if (p) memcpy(p, text, n);
    return p;
}

/* fn(arg, part, worker) for every part in 0..parts, on as many workers as the context has: worker
   is below ctx->threads, and no two parts that run at the same time have the same. The parts are
   fixed by the caller, so no result can depend on the number of threads. */
static void saei_parallel_workers(const sae_context *ctx, size_t parts, sae_part_fn fn, void *arg) {
    if (parts > 1 && ctx->pool.run) {
        ctx->pool.run(parts, fn, arg, ctx->pool.user);
        return;
    }
#if defined(_OPENMP)
    if (parts > 1 && ctx->threads > 1) {
        long long i, n = (long long)parts;
#pragma omp parallel for schedule(dynamic, 1) num_threads(ctx->threads)
        for (i = 0; i < n; i++) fn(arg, (size_t)i, (size_t)omp_get_thread_num());
        return;
    }
#endif
    for (size_t i = 0; i < parts; i++) fn(arg, i, 0);
}

/* The same for parts that need no memory of their worker's. */
typedef void (*saei_part_fn)(void *arg, size_t part);
typedef struct saei_parts {
    saei_part_fn fn;
    void *arg;
} saei_parts;
static void saei_parts_run(void *arg, size_t part, size_t worker) {
    const saei_parts *parts = (const saei_parts *)arg;
    (void)worker;
    parts->fn(parts->arg, part);
}
static SAEI_NOINLINE void saei_parallel(const sae_context *ctx, size_t parts, saei_part_fn fn,
                                        void *arg) {
    saei_parts job;
    job.fn = fn;
    job.arg = arg;
    saei_parallel_workers(ctx, parts, saei_parts_run, &job);
}

/* The end of part `part` when count things go in parts of `size`; it begins at part * size. */
static size_t saei_part_end(size_t part, size_t size, size_t count) {
    return saei_min((part + 1) * size, count);
}

static void *saei_default_alloc(size_t size, void *user) {
    (void)user;
    return malloc(size);
}
static void saei_default_free(void *memory, void *user) {
    (void)user;
    free(memory);
}

SAE_API const char *sae_version(void) { return SAE_VERSION; }

SAE_API const char *sae_result_name(sae_result result) {
    switch (result) {
#define SAE_X(name, value, text) case name: return #name;
        SAE_RESULTS(SAE_X)
#undef SAE_X
    }
    return "unknown result";
}

SAE_API const char *sae_error(const sae_context *ctx) { return ctx ? ctx->error : ""; }

SAE_API void sae_error_copy(const sae_context *ctx, char *out, size_t size) {
    sae_context *c = (sae_context *)(uintptr_t)ctx;
    if (!out || !size) return;
    out[0] = 0;
    if (!ctx) return;
    saei_lock(&c->lock);
    memcpy(out, c->error, saei_min(size, sizeof c->error));
    saei_unlock(&c->lock);
    out[saei_min(size, sizeof c->error) - 1] = 0;
}

SAE_API void sae_context_parallel(sae_context *ctx, size_t parts,
                                  void (*fn)(void *arg, size_t part), void *arg) {
    if (ctx && fn) saei_parallel(ctx, parts, fn, arg);
}

SAE_API sae_result sae_context_fail(sae_context *ctx, sae_result result, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return saei_fail(ctx, result, "%s", text);
}
