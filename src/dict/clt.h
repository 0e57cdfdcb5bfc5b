#pragma once
#include "../api/clt.h"
#include "../tensor/file.h"
#include "encode.h"

/* ==== >>clt: what is open ===================================================================== */

/* A matrix where it lies in a file: element (r, c) is at data + r row + c col, in bytes. */
typedef struct saei_clt_matrix {
    const unsigned char *data; /* NULL: there is none */
    sae_dtype dtype;           /* F32, F16, BF16, F64 */
    int64_t row, col;
} saei_clt_matrix;

typedef struct saei_clt_layer {
    saei_clt_matrix W_enc;      /* [m,d] */
    float *b_enc, *theta, *gate; /* [m]; theta of JUMP_RELU; NULL: none */
    float in_scale, out_scale;
    float *b_dec;               /* [d] */
} saei_clt_layer;

/* What source i gives to target t. */
typedef struct saei_clt_block {
    saei_clt_matrix W_dec;      /* [m,d] */
    saei_clt_matrix W_skip;     /* [d,d] */
    float *post, *post_scale;   /* [m], or NULL */
    float share;                /* of what is decoded */
} saei_clt_block;

struct sae_clt {
    sae_context *ctx;
    sae_clt_desc desc;
    sae_origin origin;
    saei_clt_layer *layers; /* [L] */
    saei_clt_block *blocks; /* [L,L]: of source i and target t at i L + t */
    sae_tensor_file **files;
    size_t num_files, room_files;
    saei_arena arena;       /* of the vectors */
    bool skips;
};

SAE_API const sae_clt_desc *sae_clt_get_desc(const sae_clt *clt) { return &clt->desc; }
SAE_API const sae_origin *sae_clt_origin(const sae_clt *clt) { return &clt->origin; }

SAE_API void sae_clt_close(sae_clt *clt) {
    if (!clt) return;
    for (size_t i = 0; i < clt->num_files; i++) sae_tensor_file_close(clt->files[i]);
    saei_free(clt->ctx, clt->files);
    saei_arena_free(&clt->arena);
    saei_free(clt->ctx, clt);
}

/* Elements c .. c + n of row r. */
static void saei_clt_row(const saei_clt_matrix *m, size_t r, size_t c, size_t n, float *out) {
    saei_convert_row(m->dtype, m->data + (int64_t)r * m->row + (int64_t)c * m->col, m->col, n, out);
}

/* Rows first .. first + count and columns c .. c + depth as a panel [depth][48]. */
static void saei_clt_pack(const saei_clt_matrix *m, size_t first, size_t count, size_t c,
                          size_t depth, float *panel) {
    float line[SAEI_BLOCK_DEPTH];
    if (m->row < m->col) { /* latents lie together */
        for (size_t k = 0; k < depth; k++) {
            float *to = panel + k * SAEI_PANEL;
            saei_convert_row(m->dtype, m->data + (int64_t)first * m->row
                             + (int64_t)(c + k) * m->col, m->row, count, to);
            for (size_t j = count; j < SAEI_PANEL; j++) to[j] = 0;
        }
        return;
    }
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        if (j < count) saei_clt_row(m, first + j, c, depth, line);
        else memset(line, 0, sizeof line);
        for (size_t k = 0; k < depth; k++) panel[k * SAEI_PANEL + j] = line[k];
    }
}

/* room->product [rows][48] = rows first .. first + count of m times y of layer l and rows r0 on. */
static void saei_clt_product(const sae_clt *clt, const saei_clt_matrix *m, const saei_room *room,
                             const float *x, size_t l, size_t r0, size_t rows, size_t first,
                             size_t count) {
    const saei_kernels *kernels = clt->ctx->kernels;
    const size_t d = clt->desc.activation_dim, width = clt->desc.layers * d;
    const float scale = clt->layers[l].in_scale;
    for (size_t c = 0; c < d; c += room->depth) {
        size_t depth = saei_min(room->depth, d - c);
        saei_clt_pack(m, first, count, c, depth, room->panel);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *at[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
                const float *from = x + (r0 + saei_min(g + i, rows - 1)) * width + l * d + c;
                at[i] = from;
                if (scale == 1) continue;
                at[i] = room->centred + i * room->depth;
                kernels->scale(depth, scale, from, room->centred + i * room->depth);
            }
            kernels->tile(at, SAEI_TILE_ROWS, room->panel, depth, c > 0,
                          room->product + g * SAEI_PANEL, SAEI_PANEL);
        }
    }
}

/* ==== >>clt: encode =========================================================================== */

enum { SAEI_CLT_LATENTS = 3840 }; /* of one part: 80 panels */

typedef struct saei_clt_job {
    const sae_clt *clt;
    const float *x;
    size_t n;
    float *f; /* [n,L m] */
    const sae_sparse *code;
    float *x_hat;
} saei_clt_job;

/* f of a latent whose p is known; where a choice follows, what it compares. */
static float saei_clt_value(const sae_clt *clt, const saei_clt_layer *layer, size_t i, float p) {
    const bool positive = clt->desc.activation != SAE_ACTIVATION_SIGNED;
    const float q = layer->gate ? p * layer->gate[i] : p;
    if (clt->desc.arch == SAE_ARCH_JUMP_RELU && !(q > layer->theta[i])) return 0;
    if (positive && !(q > 0)) return 0;
    if (saei_arch_selects(clt->desc.arch) || !layer->gate || q == 0) return q;
    return q / layer->gate[i];
}

/* Of one layer a range of latents, for a block of rows. */
static void saei_clt_encode_part(void *arg, size_t part) {
    const saei_clt_job *job = (const saei_clt_job *)arg;
    const sae_clt *clt = job->clt;
    const size_t m = clt->desc.dict_size, width = clt->desc.layers * m;
    const size_t ranges = saei_ceil_div(m, SAEI_CLT_LATENTS);
    const size_t l = part / ranges % clt->desc.layers;
    const size_t begin = part % ranges * SAEI_CLT_LATENTS;
    const size_t end = saei_min(begin + SAEI_CLT_LATENTS, m);
    const size_t r0 = part / ranges / clt->desc.layers * SAEI_BLOCK_ROWS;
    const size_t last = saei_min(r0 + SAEI_BLOCK_ROWS, job->n);
    const saei_clt_layer *layer = &clt->layers[l];
    saei_small_block small;
    saei_room room = saei_room_take(clt->ctx, &small);
    for (size_t r = r0, rows; r < last; r += rows) {
        rows = saei_min(room.rows, last - r);
        for (size_t first = begin; first < end; first += SAEI_PANEL) {
            size_t count = saei_min(SAEI_PANEL, end - first);
            saei_clt_product(clt, &layer->W_enc, &room, job->x, l, r, rows, first, count);
            for (size_t k = 0; k < rows; k++)
                for (size_t j = 0; j < count; j++) {
                    float p = room.product[k * SAEI_PANEL + j] + layer->b_enc[first + j];
                    job->f[(r + k) * width + l * m + first + j] =
                        saei_clt_value(clt, layer, first + j, p);
                }
        }
    }
    saei_room_leave(&room);
}

/* A code's f from what its choice compared. */
static float saei_clt_ungate(const sae_clt *clt, size_t code, float value) {
    const size_t m = clt->desc.dict_size;
    const float *gate = clt->layers[code / m].gate;
    return gate && value != 0 ? value / gate[code % m] : value;
}

/* TOP_K: each choice of a row keeps its k. */
static void saei_clt_choose_row(void *arg, size_t r) {
    const saei_clt_job *job = (const saei_clt_job *)arg;
    const sae_clt *clt = job->clt;
    const size_t codes = clt->desc.layers * clt->desc.dict_size;
    const size_t choices = clt->desc.over_layers ? 1 : clt->desc.layers, part = codes / choices;
    float *f = job->f + r * codes;
    for (size_t c = 0; c < choices; c++) {
        if (clt->desc.activation)
            saei_dense_varied(clt->desc.activation, f + c * part, part, clt->desc.k);
        else saei_dense_top(clt->ctx->kernels, f + c * part, part, clt->desc.k);
    }
    for (size_t i = 0; clt->desc.gate && i < codes; i++) f[i] = saei_clt_ungate(clt, i, f[i]);
}

/* BATCH_TOP_K over all n rows. */
static sae_result saei_clt_choose_batch(const saei_clt_job *job, const char *who) {
    const sae_clt *clt = job->clt;
    const sae_context *ctx = clt->ctx;
    const size_t n = job->n, m = clt->desc.layers * clt->desc.dict_size;
    const size_t choices = clt->desc.over_layers ? 1 : clt->desc.layers;
    uint32_t *histogram = (uint32_t *)saei_alloc(ctx, 65536, sizeof *histogram);
    float *dense = (float *)saei_alloc(ctx, n * m, sizeof *dense);
    sae_code code;
    memset(&code, 0, sizeof code);
    code.rows = n;
    code.stride = m;
    code.count = (uint32_t *)saei_alloc(ctx, n * choices, sizeof(uint32_t));
    code.latent = (uint32_t *)saei_alloc(ctx, n * m, sizeof(uint32_t));
    code.pre = code.value = dense;
    if (histogram && dense && code.count && code.latent) {
        memcpy(dense, job->f, n * m * sizeof *dense);
        memset(job->f, 0, n * m * sizeof *dense);
        for (size_t c = 0; c < choices; c++)
            saei_batch_choose((double)clt->desc.k, c, m / choices, &code, histogram);
        for (size_t i = 0; i < n * choices; i++) {
            size_t r = i % n, at = r * m + i / n * (m / choices);
            for (size_t j = at; j < at + code.count[i]; j++)
                job->f[r * m + code.latent[j]] = dense[j];
        }
        for (size_t r = 0; r < n && clt->desc.most && clt->desc.most < m; r++)
            saei_dense_top(ctx->kernels, job->f + r * m, m, clt->desc.most);
        for (size_t i = 0; clt->desc.gate && i < n * m; i++)
            job->f[i] = saei_clt_ungate(clt, i % m, job->f[i]);
    }
    saei_free(ctx, histogram);
    saei_batch_free(ctx, &code, dense);
    if (histogram && dense && code.count && code.latent) return SAE_OK;
    return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for batch top-k over %zu rows of "
                     "%zu latents", who, n, m);
}

static sae_result saei_clt_encode(const sae_clt *clt, const char *who, const float *x, size_t n,
                                  float *f) {
    const size_t m = clt->desc.dict_size;
    saei_clt_job job;
    memset(&job, 0, sizeof job);
    job.clt = clt;
    job.x = x;
    job.n = n;
    job.f = f;
    saei_parallel(clt->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS) * clt->desc.layers
                  * saei_ceil_div(m, SAEI_CLT_LATENTS), saei_clt_encode_part, &job);
    if (clt->desc.arch == SAE_ARCH_TOP_K) saei_parallel(clt->ctx, n, saei_clt_choose_row, &job);
    if (clt->desc.arch == SAE_ARCH_BATCH_TOP_K && n) return saei_clt_choose_batch(&job, who);
    return SAE_OK;
}

/* The arrays of a call, and whether n rows of all there is can be addressed. */
static sae_result saei_clt_check(const sae_clt *clt, const char *who, bool arrays, size_t n) {
    size_t all, width;
    if (!clt) return SAE_ERR_INVALID;
    if (!arrays) return saei_fail(clt->ctx, SAE_ERR_INVALID, "%s: an array is NULL", who);
    width = clt->desc.layers * saei_max(clt->desc.dict_size, clt->desc.activation_dim);
    if (saei_mul(n, width, &all) && all <= SIZE_MAX / 8) return SAE_OK;
    return saei_fail(clt->ctx, SAE_ERR_INVALID, "%s: n is %zu rows, too many to address", who, n);
}

SAE_API sae_result sae_clt_encode(const sae_clt *clt, const float *x, size_t n, float *f) {
    SAEI_TRY(saei_clt_check(clt, "sae_clt_encode", x && f, n));
    return saei_clt_encode(clt, "sae_clt_encode", x, n, f);
}
