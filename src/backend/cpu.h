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

/* Scratch memory of a work, cut into pieces. Each operation says in its job what it keeps where;
   none leaves anything for another. */
typedef struct saei_cpu_scratch {
    float *panels;         /* [panels][d][48], or int16 pairs [panels][ld / 2][48]; dense: panels */
    float *dense;          /* [threads][SAEI_DENSE_TARGETS][ld] */
    float *lanes;          /* [threads][SAEI_DENSE_TARGETS][SAEI_DENSE_ROWS][16] */
    uint64_t *marks;       /* [threads][ceil(m / 64)][SAEI_DENSE_TARGETS] */
    uint64_t *active_bits; /* [batch][ceil(m / 64)] */
    float *screen;         /* [saei_screen_floats(m)] */
    float *value;          /* [threads][SAEI_TOP_LISTS], then [SAEI_BLAS_ROWS], of [capacity] */
    uint32_t *latent;      /* alike */
    size_t capacity;       /* of a row's list of candidates, a multiple of 16 */
    int16_t *words;        /* [threads][SAEI_ENCODE_ROWS][ld] */
    uint32_t *integers;    /* [max(SAEI_SORT_PARTS m, SAEI_SORT_PARTS batch, 65536)] */
    double *block_sums;    /* [blocks of SAE_ROW_BLOCK rows][ld] */
    double *doubles;       /* rows, columns, latents or chunks, whichever is most; twice that */
    float *rows;           /* [threads][3][ld] */
    float *latents;        /* [m'] */
    unsigned char *draws;  /* [batch] records of resample */
    float *products;       /* a BLAS's: [SAEI_BLAS_ROWS][SAEI_BLAS_LATENTS] */
    saei_top *tops;        /* [SAEI_BLAS_ROWS] */
    saei_quantized *facts; /* alike */
} saei_cpu_scratch;

typedef struct saei_draw {
    double key;
    size_t row;
} saei_draw;

/* Fills s with pieces of base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_cpu_layout(const sae_context *ctx, const sae_shape *h, void *base,
                              saei_cpu_scratch *s) {
    size_t at = 0, threads = (size_t)ctx->threads;
    size_t all = saei_ceil_div(h->dict_size, SAEI_PANEL) * SAEI_PANEL; /* latents in panels */
    size_t m = saei_align16(h->dict_size), most = saei_max(saei_max(h->batch, m), h->ld);
    unsigned char *b = (unsigned char *)base;
    size_t panels, screen, value, latent, words, integers, block_sums, doubles, rows, latents;
    size_t draws, dense, width, taller, lanes, marks, active;
    size_t blas_rows = saei_min(SAEI_BLAS_ROWS, h->batch);
    size_t lists = threads * SAEI_TOP_LISTS + blas_rows, products, tops, facts;
    if (h->dict_size > UINT32_MAX || h->batch > UINT32_MAX
        || !saei_mul(all, h->ld, &width) || !saei_mul(saei_max(all, h->batch), h->ld, &taller))
        return SIZE_MAX;
    most = saei_max(most, 2 * width / SAEI_CHUNK + 64);
    s->capacity = saei_align16(saei_min(4 * h->k, m) + 4 * SAEI_PANEL);
    panels = saei_place(&at, taller, sizeof(float));
    dense = saei_place(&at, threads * SAEI_DENSE_TARGETS, h->ld * sizeof(float));
    lanes = saei_place(&at, threads * SAEI_DENSE_TARGETS,
                           SAEI_DENSE_ROWS * 16 * sizeof(float));
    marks = saei_place(&at, threads * SAEI_DENSE_TARGETS,
                           saei_ceil_div(h->dict_size, SAEI_DENSE_ROWS) * sizeof(uint64_t));
    active = saei_place(&at, h->batch, saei_ceil_div(h->dict_size, 64) * sizeof(uint64_t));
    screen = saei_place(&at, saei_screen_floats(h->dict_size), sizeof(float));
    value = saei_place(&at, lists, s->capacity * sizeof(float));
    latent = saei_place(&at, lists, s->capacity * sizeof(float));
    words = saei_place(&at, threads * SAEI_ENCODE_ROWS, h->ld * sizeof(int16_t));
    integers = saei_place(&at, saei_max(SAEI_SORT_PARTS * saei_max(m, h->batch), 65536),
                              sizeof(uint32_t));
    block_sums = saei_place(&at, saei_ceil_div(saei_max(h->batch, m), SAE_ROW_BLOCK),
                                h->ld * sizeof(double));
    doubles = saei_place(&at, most, 2 * sizeof(double));
    rows = saei_place(&at, threads * 3, h->ld * sizeof(float));
    latents = saei_place(&at, m, sizeof(float));
    draws = saei_place(&at, h->batch, sizeof(saei_draw));
    products = saei_place(&at, blas_rows * SAEI_BLAS_LATENTS, sizeof(float));
    tops = saei_place(&at, blas_rows, sizeof(saei_top));
    facts = saei_place(&at, blas_rows, sizeof(saei_quantized));
    if (at == SIZE_MAX || !b) return at;
    s->panels = (float *)(void *)(b + panels);
    s->dense = (float *)(void *)(b + dense);
    s->lanes = (float *)(void *)(b + lanes);
    s->marks = (uint64_t *)(void *)(b + marks);
    s->active_bits = (uint64_t *)(void *)(b + active);
    s->screen = (float *)(void *)(b + screen);
    s->value = (float *)(void *)(b + value);
    s->latent = (uint32_t *)(void *)(b + latent);
    s->words = (int16_t *)(void *)(b + words);
    s->integers = (uint32_t *)(void *)(b + integers);
    s->block_sums = (double *)(void *)(b + block_sums);
    s->doubles = (double *)(void *)(b + doubles);
    s->rows = (float *)(void *)(b + rows);
    s->latents = (float *)(void *)(b + latents);
    s->draws = b + draws;
    s->products = (float *)(void *)(b + products);
    s->tops = (saei_top *)(void *)(b + tops);
    s->facts = (saei_quantized *)(void *)(b + facts);
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
/* Large pages where the system has them: rows are read in no order (15 % of such a reading). */
static void *saei_cpu_alloc(const sae_work *w, size_t bytes) {
    void *p = saei_alloc(w->ctx, bytes, 1);
    if (!p) return NULL;
#if defined(MADV_HUGEPAGE)
    {
        size_t page = 4096, skip = (page - ((uintptr_t)p & (page - 1))) & (page - 1);
        if (bytes >= 4u << 20)
            (void)madvise((unsigned char *)p + skip, (bytes - skip) / page * page, MADV_HUGEPAGE);
    }
#endif
    memset(p, 0, bytes);
    return p;
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

/* -- batch. Of every operation: its job is what its parts share -- */

typedef struct saei_load_job {
    sae_dtype dtype;
    const void *rows;
    size_t stride, n, d, ld;
    float divisor, *x;
    uint32_t *bad; /* [parts] */
} saei_load_job;

static void saei_load_part(void *arg, size_t part) {
    saei_load_job *j = (saei_load_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *to = j->x + r * j->ld, worst = 0;
        const float *from = to;
        if (j->dtype == SAE_F32) from = (const float *)j->rows + r * j->stride;
        else
            saei_convert_row(j->dtype, (const unsigned char *)j->rows + 2 * r * j->stride, 2, j->d,
                             to);
        for (size_t c = 0; c < j->d; c++) {
            float v = from[c];
            worst += v - v; /* NaN if v is not finite, else 0 */
            to[c] = j->divisor == 1.0f ? v : v / j->divisor;
        }
        if (worst != 0) j->bad[part] = 1;
    }
}

static void saei_cpu_load_rows(const sae_work *w, const sae_rows *rows, size_t n, float divisor,
                               float *x, uint32_t *bad) {
    saei_load_job j;
    size_t parts = saei_ceil_div(n, 64);
    j.dtype = rows->dtype ? rows->dtype : SAE_F32;
    j.rows = rows->data;
    j.d = w->shape.d;
    j.ld = w->shape.ld;
    j.stride = rows->stride ? rows->stride : j.d;
    j.n = n;
    j.divisor = divisor;
    j.x = x;
    j.bad = saei_cpu_scratch_of(w).integers;
    memset(j.bad, 0, parts * sizeof *j.bad);
    saei_parallel(w->ctx, parts, saei_load_part, &j);
    for (size_t i = 0; i < parts; i++)
        if (j.bad[i]) *bad = 1;
}

typedef struct saei_subtract_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x, *b;
    float *out;
} saei_subtract_job;

static void saei_subtract_part(void *arg, size_t part) {
    saei_subtract_job *j = (saei_subtract_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++)
        j->kernels->axpy(j->ld, -1, j->b, j->x + r * j->ld, j->out + r * j->ld);
}

static void saei_cpu_subtract(const sae_work *w, const float *x, const float *b, size_t n,
                              float *out) {
    saei_subtract_job j;
    j.kernels = w->ctx->kernels;
    j.ld = w->shape.ld;
    j.n = n;
    j.x = x;
    j.b = b;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_subtract_part, &j);
}

typedef struct saei_axpy_job {
    const saei_kernels *kernels;
    size_t count;
    float a;
    const float *x, *y;
    float *out;
} saei_axpy_job;

static void saei_axpy_part(void *arg, size_t part) {
    saei_axpy_job *j = (saei_axpy_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    if (j->y) j->kernels->axpy(n, j->a, j->x + at, j->y + at, j->out + at);
    else
        for (size_t i = at; i < at + n; i++) j->out[i] = j->a * j->x[i];
}

static void saei_cpu_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                          float *out) {
    saei_axpy_job j;
    j.kernels = w->ctx->kernels;
    j.count = count;
    j.a = a;
    j.x = x;
    j.y = y;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_axpy_part, &j);
}
