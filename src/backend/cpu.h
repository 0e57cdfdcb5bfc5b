#pragma once
#include "../tensor/dtype.h"
#include "../kernels/screen.h"

/* ==== >>cpu =================================================================================== */
/* The backend that is built in. Work is cut into parts that do not depend on the number of threads
   wherever an order matters; rows and latents are independent, so there any cut will do. */

enum {
    SAEI_LATENT_PART = 32,   /* latents of one by-latent task */
    SAEI_DENSE_TARGETS = 256, /* at most: rows or latents of one task of the dense phase */
    SAEI_CHUNK = 16384,      /* floats of one elementwise task; part of sum_squares' order */
    SAEI_SORT_PARTS = 16,    /* at most: row blocks of the counting sort */
#if defined(SAE_CBLAS)
    SAEI_BLAS_ROWS = 512,     /* rows and latents of one product: 2 MB, and as many rows' lists */
    SAEI_BLAS_LATENTS = 1008, /* whole panels */
#else
    SAEI_BLAS_ROWS = 0,
    SAEI_BLAS_LATENTS = 0,
#endif
    SAEI_BLAS_PART = 16      /* rows of one task of its selection */
};

typedef struct saei_draw {
    double key;
    size_t row;
} saei_draw;

/* Scratch memory of a work, cut into pieces: X(type, name, count, each) is count times each of a
   type, in the terms of saei_cpu_layout. Each operation says in its job what it keeps where; none
   leaves anything for another. */
#define SAEI_CPU_PIECES(X)                                                                         \
    /* W_enc packed [panels][d][48], or as int16 pairs [panels][ld / 2][48]; dense: panels */      \
    X(float, panels, taller, 1)                                                                    \
    X(float, dense, threads * SAEI_DENSE_TARGETS, ld)                                              \
    X(float, lanes, threads * SAEI_DENSE_TARGETS, SAEI_DENSE_ROWS * 16)                            \
    X(uint64_t, marks, threads * SAEI_DENSE_TARGETS, saei_ceil_div(m, SAEI_DENSE_ROWS))            \
    X(uint64_t, active_bits, batch, saei_ceil_div(m, 64))                                          \
    X(float, screen, saei_screen_floats(m), 1)                                                     \
    X(float, value, lists, s->capacity)                                                            \
    X(uint32_t, latent, lists, s->capacity)                                                        \
    X(int16_t, words, threads * SAEI_ENCODE_ROWS, ld)                                              \
    X(uint32_t, integers, saei_max(SAEI_SORT_PARTS * saei_max(padded, batch), 65536), 1)           \
    X(double, block_sums, saei_ceil_div(saei_max(batch, padded), SAE_ROW_BLOCK), ld)               \
    X(double, doubles, most, 2) /* most: of rows, columns, latents, chunks */                      \
    X(float, rows, threads * 3, ld)                                                                \
    X(float, latents, padded, 1)                                                                   \
    X(saei_draw, draws, batch, 1)                                                                  \
    X(float, products, blas_rows * SAEI_BLAS_LATENTS, 1) /* a BLAS's, and of its rows: */          \
    X(saei_top, tops, blas_rows, 1)                                                                \
    X(saei_quantized, facts, blas_rows, 1)

typedef struct saei_cpu_scratch {
    size_t capacity; /* of a row's list of candidates in value and latent, a multiple of 16 */
#define SAEI_MEMBER(type, name, count, each) type *name;
    SAEI_CPU_PIECES(SAEI_MEMBER)
#undef SAEI_MEMBER
} saei_cpu_scratch;

/* Fills s with pieces of base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_cpu_layout(const sae_context *ctx, const sae_shape *h, void *base,
                              saei_cpu_scratch *s) {
    size_t at = 0, threads = (size_t)ctx->threads, batch = h->batch, ld = h->ld, m = h->dict_size;
    size_t all = saei_ceil_div(m, SAEI_PANEL) * SAEI_PANEL; /* latents in panels */
    size_t padded = saei_align16(m), most = saei_max(saei_max(batch, padded), ld), width, taller;
    size_t blas_rows = saei_min(SAEI_BLAS_ROWS, batch);
    size_t lists = threads * SAEI_TOP_LISTS + blas_rows; /* of a BLAS's rows behind the others */
    if (m > UINT32_MAX || batch > UINT32_MAX || !saei_mul(all, ld, &width)
        || !saei_mul(saei_max(all, batch), ld, &taller))
        return SIZE_MAX;
    most = saei_max(most, 2 * width / SAEI_CHUNK + 64);
    s->capacity = saei_align16(saei_min(4 * h->k, padded) + 4 * SAEI_PANEL);
#define SAEI_PLACE(type, name, count, each)                                                        \
    s->name = (type *)saei_piece((unsigned char *)base, &at, count, (each) * sizeof(type));
    SAEI_CPU_PIECES(SAEI_PLACE)
#undef SAEI_PLACE
    return at;
}

static saei_cpu_scratch saei_cpu_scratch_of(const sae_work *w) {
    saei_cpu_scratch s;
    saei_cpu_layout(w->ctx, &w->shape, w->scratch, &s);
    return s;
}

/* -- memory -- */

static sae_result saei_cpu_open(const sae_context *ctx, void **state) {
    (void)ctx;
    *state = NULL;
    return SAE_OK;
}
static void saei_cpu_close(const sae_context *ctx, void *state) {
    (void)ctx;
    (void)state;
}
static void *saei_cpu_alloc(const sae_work *w, size_t bytes) {
    return saei_calloc(w->ctx, bytes, 1);
}
static void saei_cpu_free(const sae_work *w, void *memory) { saei_free(w->ctx, memory); }
static size_t saei_cpu_scratch_bytes(const sae_work *w, const sae_shape *shape) {
    saei_cpu_scratch s;
    return saei_cpu_layout(w->ctx, shape, NULL, &s);
}
static void saei_cpu_upload(const sae_work *w, void *device, const void *host, size_t bytes) {
    (void)w;
    if (bytes) memcpy(device, host, bytes);
}
static void saei_cpu_download(const sae_work *w, void *host, const void *device, size_t bytes) {
    (void)w;
    if (bytes) memcpy(host, device, bytes);
}
static void saei_cpu_zero(const sae_work *w, void *memory, size_t bytes) {
    (void)w;
    memset(memory, 0, bytes);
}
static sae_result saei_cpu_status(const sae_work *w) {
    (void)w;
    return SAE_OK;
}

/* A sum in the scalars order: s[0] the blocks before, s[1] this block so far. */
static void saei_sum_add(double s[2], size_t i, double x) {
    if (i % SAE_ROW_BLOCK == 0) {
        s[0] += s[1];
        s[1] = 0;
    }
    s[1] += x;
}
static double saei_sum_doubles(const double *x, size_t n) {
    double s[2] = { 0, 0 };
    for (size_t i = 0; i < n; i++) saei_sum_add(s, i, x[i]);
    return s[0] + s[1];
}

static size_t saei_code_entries(const sae_code *code) {
    size_t entries = 0;
    for (size_t r = 0; r < code->rows; r++) entries += code->count[r];
    return entries;
}

/* How many rows of a code a part has where there is one part a thread: whole words of bits. */
static size_t saei_code_part_rows(const sae_context *ctx, size_t rows) {
    size_t parts = saei_min((size_t)ctx->threads, SAEI_SORT_PARTS);
    return saei_max(64, saei_ceil_div(saei_ceil_div(rows, parts), 64) * 64);
}
