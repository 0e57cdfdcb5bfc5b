#pragma once
#include "../tensor/dtype.h"
#include "../kernels/table.h"

/* ==== >>cpu =================================================================================== */
/* The CPU filling of >>backend. Work is cut into parts that do not depend on the number of threads
   wherever an order matters; rows and latents are independent, so there any cut will do. */

enum {
    SAEI_ENCODE_ROWS = 128,  /* at most: rows of one encode task */
    SAEI_TOP_LISTS = SAEI_ENCODE_ROWS + 1, /* of candidates: a spare one, and one for each row */
    SAEI_SCREEN_FACTS = 3,   /* of a panel: most |w|, |dw|, |offset| */
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

/* Candidates of one row for its k largest, ascending. */
typedef struct saei_top {
    float *value; /* TOP_K: p; screened: p is at least this */
    uint32_t *latent;
    size_t count;
    float cut;    /* at least k candidates reach it, or a guess; 0: no such value is known yet */
    float slack;  /* screened: p is at most value + slack */
} saei_top;

/* Scratch memory of a work, cut into named pieces. */
typedef struct saei_cpu_scratch {
    float *packed;     /* [panels][d][48], or int16 pairs [panels][ld / 2][48]; dense: panels */
    float *dense;      /* [threads][SAEI_DENSE_TARGETS][ld] */
    float *lanes;      /* [threads][SAEI_DENSE_TARGETS][SAEI_DENSE_ROWS][16] */
    uint64_t *marks;   /* [threads][ceil(m / 64)][SAEI_DENSE_TARGETS] */
    uint64_t *fires;   /* [batch][ceil(m / 64)] */
    float *screen;     /* [2][panels 48]: factor and offset of each latent; then
                          [panels][SAEI_SCREEN_FACTS] */
    float *value;      /* [threads][SAEI_TOP_LISTS][capacity], then [SAEI_BLAS_ROWS][capacity] */
    uint32_t *latent;  /* alike */
    size_t capacity;   /* of a row's list of candidates, a multiple of 16 */
    int16_t *words;    /* [threads][SAEI_ENCODE_ROWS][ld]: of rows, or of a panel's 48 latents */
    uint32_t *counts;  /* [max(SAEI_SORT_PARTS m, SAEI_SORT_PARTS batch, 65536)] */
    double *partial;   /* [row blocks][ld] */
    double *sums;      /* rows, columns, latents or chunks, whichever is most */
    float *rows;       /* [threads][3][ld] */
    float *latents;    /* [m'] */
    unsigned char *draws; /* [batch] records of resample */
    float *blas;       /* [SAEI_BLAS_ROWS][SAEI_BLAS_LATENTS] */
    saei_top *tops;    /* [SAEI_BLAS_ROWS] */
    saei_quantized *facts; /* alike */
} saei_cpu_scratch;

typedef struct saei_draw {
    double key;
    size_t row;
} saei_draw;

static size_t saei_cpu_place(size_t *at, size_t count, size_t size) {
    size_t here = *at, bytes;
    if (here == SIZE_MAX || !saei_mul(count, size, &bytes) || !saei_add(here, bytes, &bytes)
        || bytes > SIZE_MAX - 63) {
        *at = SIZE_MAX;
        return 0;
    }
    *at = (bytes + 63) & ~(size_t)63;
    return here;
}

/* Fills s with pieces of base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_cpu_layout(const sae_context *ctx, const sae_shape *h, void *base,
                              saei_cpu_scratch *s) {
    size_t at = 0, threads = (size_t)ctx->threads, panels = saei_ceil_div(h->dict_size, SAEI_PANEL);
    size_t m = saei_align16(h->dict_size), most = saei_max(saei_max(h->batch, m), h->ld);
    unsigned char *b = (unsigned char *)base;
    size_t packed, screen, value, latent, words, counts, partial, sums, rows, latents, draws, dense;
    size_t width, taller, lanes, marks, fires, blas_rows = saei_min(SAEI_BLAS_ROWS, h->batch);
    size_t lists = threads * SAEI_TOP_LISTS + blas_rows, blas, tops, facts;
    if (h->dict_size > UINT32_MAX || h->batch > UINT32_MAX
        || !saei_mul(panels * SAEI_PANEL, h->ld, &width)
        || !saei_mul(saei_max(panels * SAEI_PANEL, h->batch), h->ld, &taller))
        return SIZE_MAX;
    most = saei_max(most, 2 * width / SAEI_CHUNK + 64);
    s->capacity = saei_align16(saei_min(4 * h->k, m) + 4 * SAEI_PANEL);
    packed = saei_cpu_place(&at, taller, sizeof(float));
    dense = saei_cpu_place(&at, threads * SAEI_DENSE_TARGETS, h->ld * sizeof(float));
    lanes = saei_cpu_place(&at, threads * SAEI_DENSE_TARGETS,
                           SAEI_DENSE_ROWS * 16 * sizeof(float));
    marks = saei_cpu_place(&at, threads * SAEI_DENSE_TARGETS,
                           saei_ceil_div(h->dict_size, SAEI_DENSE_ROWS) * sizeof(uint64_t));
    fires = saei_cpu_place(&at, h->batch, saei_ceil_div(h->dict_size, 64) * sizeof(uint64_t));
    screen = saei_cpu_place(&at, panels * (2 * SAEI_PANEL + SAEI_SCREEN_FACTS),
                            sizeof(float));
    value = saei_cpu_place(&at, lists, s->capacity * sizeof(float));
    latent = saei_cpu_place(&at, lists, s->capacity * sizeof(float));
    words = saei_cpu_place(&at, threads * SAEI_ENCODE_ROWS, h->ld * sizeof(int16_t));
    counts = saei_cpu_place(&at, saei_max(SAEI_SORT_PARTS * saei_max(m, h->batch), 65536),
                            sizeof(uint32_t));
    partial = saei_cpu_place(&at, saei_ceil_div(saei_max(h->batch, m), SAE_ROW_BLOCK),
                             h->ld * sizeof(double));
    sums = saei_cpu_place(&at, most, 2 * sizeof(double));
    rows = saei_cpu_place(&at, threads * 3, h->ld * sizeof(float));
    latents = saei_cpu_place(&at, m, sizeof(float));
    draws = saei_cpu_place(&at, h->batch, sizeof(saei_draw));
    blas = saei_cpu_place(&at, blas_rows * SAEI_BLAS_LATENTS, sizeof(float));
    tops = saei_cpu_place(&at, blas_rows, sizeof(saei_top));
    facts = saei_cpu_place(&at, blas_rows, sizeof(saei_quantized));
    if (at == SIZE_MAX || !b) return at;
    s->packed = (float *)(void *)(b + packed);
    s->dense = (float *)(void *)(b + dense);
    s->lanes = (float *)(void *)(b + lanes);
    s->marks = (uint64_t *)(void *)(b + marks);
    s->fires = (uint64_t *)(void *)(b + fires);
    s->screen = (float *)(void *)(b + screen);
    s->value = (float *)(void *)(b + value);
    s->latent = (uint32_t *)(void *)(b + latent);
    s->words = (int16_t *)(void *)(b + words);
    s->counts = (uint32_t *)(void *)(b + counts);
    s->partial = (double *)(void *)(b + partial);
    s->sums = (double *)(void *)(b + sums);
    s->rows = (float *)(void *)(b + rows);
    s->latents = (float *)(void *)(b + latents);
    s->draws = b + draws;
    s->blas = (float *)(void *)(b + blas);
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

/* -- a task: what the parts of an operation share. Each operation uses the fields it names -- */

typedef struct saei_task {
    const sae_work *w;
    const saei_kernels *kernels;
    saei_cpu_scratch s;
    size_t n, d, ld, m, lo, hi, which, stride, parts;
    float a;
    double p, coef;
    bool add;
    int kind;
    const float *x, *y, *z;
    const void *rows;
    float *out;
    uint32_t *bad;
    const sae_encode_args *args;
    const sae_code *code;
    sae_index *index;
    const float *const *values;
    float *const *outs;
    saei_adam_factors adam;
    const uint64_t *fires; /* [rows][ceil(m / 64)] */
    const sae_lag *lag;
    const saei_adam_factors *missed; /* [SAE_LAG_UPDATES] */
} saei_task;

static saei_task saei_task_of(const sae_work *w) {
    saei_task t;
    memset(&t, 0, sizeof t);
    t.w = w;
    t.kernels = w->ctx->kernels;
    t.s = saei_cpu_scratch_of(w);
    t.ld = w->shape.ld;
    t.d = w->shape.d;
    t.m = w->shape.dict_size;
    return t;
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

/* [begin, end) of part `part` when count things go in parts of `size`. */
static size_t saei_part_end(size_t part, size_t size, size_t count) {
    return saei_min((part + 1) * size, count);
}

static size_t saei_code_entries(const sae_code *code) {
    size_t entries = 0;
    for (size_t r = 0; r < code->rows; r++) entries += code->count[r];
    return entries;
}

/* Rows of a code in t->parts parts of t->stride, whole words of bits, one a thread. */
static void saei_code_parts(saei_task *t, size_t rows) {
    size_t parts = saei_min((size_t)t->w->ctx->threads, SAEI_SORT_PARTS);
    t->stride = saei_max(64, saei_ceil_div(saei_ceil_div(rows, parts), 64) * 64);
    t->parts = saei_ceil_div(rows, t->stride);
}

/* -- batch -- */

static void saei_load_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, t->n); r < end; r++) {
        const float *from = t->kind == SAE_F32 ? t->x + r * t->stride : NULL;
        float *to = t->out + r * t->ld, worst = 0;
        if (!from) {
            saei_convert_row((sae_dtype)t->kind, (const unsigned char *)t->rows + 2 * r * t->stride,
                             2, t->d, to);
            from = to;
        }
        for (size_t c = 0; c < t->d; c++) {
            float v = from[c];
            worst += v - v; /* NaN if v is not finite, else 0 */
            to[c] = t->a == 1.0f ? v : v / t->a;
        }
        if (worst != 0) t->bad[r / 64] = 1;
    }
}

static void saei_cpu_load_rows(const sae_work *w, const sae_rows *rows, size_t n, float divisor,
                               float *x, uint32_t *bad) {
    saei_task t = saei_task_of(w);
    size_t parts = saei_ceil_div(n, 64);
    t.kind = rows->dtype ? (int)rows->dtype : (int)SAE_F32;
    t.rows = rows->data;
    t.x = t.kind == SAE_F32 ? (const float *)rows->data : NULL;
    t.stride = rows->stride ? rows->stride : t.d;
    t.n = n;
    t.a = divisor;
    t.out = x;
    t.bad = t.s.counts;
    memset(t.bad, 0, parts * sizeof *t.bad);
    saei_parallel(w->ctx, parts, saei_load_part, &t);
    for (size_t i = 0; i < parts; i++)
        if (t.bad[i]) *bad = 1;
}

static void saei_axpy_rows_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, t->n); r < end; r++)
        t->kernels->axpy(t->ld, t->a, t->y, t->x + r * t->ld, t->out + r * t->ld);
}

static void saei_cpu_subtract(const sae_work *w, const float *x, const float *b, size_t n,
                              float *out) {
    saei_task t = saei_task_of(w);
    t.x = x;
    t.y = b;
    t.a = -1;
    t.n = n;
    t.out = out;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_axpy_rows_part, &t);
}

static void saei_axpy_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, t->n) - at;
    if (t->y) t->kernels->axpy(n, t->a, t->x + at, t->y + at, t->out + at);
    else
        for (size_t i = at; i < at + n; i++) t->out[i] = t->a * t->x[i];
}

static void saei_cpu_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                          float *out) {
    saei_task t = saei_task_of(w);
    t.n = count;
    t.a = a;
    t.x = x;
    t.y = y;
    t.out = out;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_axpy_part, &t);
}
