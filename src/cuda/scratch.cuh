#pragma once
#include "state.cuh"

/* ==== >>cuda: scratch ========================================================================= */
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
