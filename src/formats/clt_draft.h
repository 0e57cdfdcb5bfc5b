#pragma once
#include "../tensor/open.h"
#include "../dict/clt_decode.h"
#include "reading.h"

/* ==== >>files: cross-layer transcoders, tensors in place ====================================== */

/* One on its way in. Matrices stay where they are; what is small is copied. load: its path is the
   folder's; config files and messages are read and made through it. */
typedef struct saei_clt_draft {
    saei_load *load;
    sae_clt *clt;
    sae_tensor_file *file; /* of the tensors that are looked for now */
    const char *name;      /* and its name, for messages */
    const char *prefix;
} saei_clt_draft;

static sae_result saei_clt_no_memory(const saei_clt_draft *draft) {
    return saei_load_fail(draft->load, SAE_ERR_OUT_OF_MEMORY, "no memory");
}

/* Opens folder/name, which stays open with the clt. */
static sae_result saei_clt_file(saei_clt_draft *draft, const char *name) {
    sae_clt *clt = draft->clt;
    sae_context *ctx = draft->load->ctx;
    sae_tensor_file *file = NULL;
    saei_path_kind kind;
    char *path = saei_path_join(ctx, draft->load->path, name);
    sae_result result = path ? saei_path_find(ctx, "sae_clt_open", path, &kind)
                             : saei_clt_no_memory(draft);
    if (result == SAE_OK && kind != SAEI_PATH_FILE)
        result = saei_load_fail(draft->load, SAE_ERR_NOT_FOUND, "there is no %s", name);
    if (result == SAE_OK && clt->num_files == clt->room_files) {
        size_t room = saei_max(16, 2 * clt->room_files);
        sae_tensor_file **grown = (sae_tensor_file **)saei_alloc(ctx, room, sizeof *grown);
        if (grown) {
            if (clt->files) memcpy(grown, clt->files, clt->num_files * sizeof *grown);
            saei_free(ctx, clt->files);
            clt->files = grown;
            clt->room_files = room;
        } else result = saei_clt_no_memory(draft);
    }
    if (result == SAE_OK) result = saei_tensor_file_open_path(ctx, "sae_clt_open", path, &file);
    if (result == SAE_OK) {
        clt->files[clt->num_files++] = file;
        draft->file = file;
        draft->name = name;
        draft->prefix = saei_load_prefix(file);
    }
    saei_free(ctx, path);
    return result;
}

static const sae_tensor *saei_clt_find(const saei_clt_draft *draft, const char *key) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", draft->prefix, key);
    return sae_tensor_file_find(draft->file, name);
}

/* The tensor of that shape, of floats whose entries do not lie on each other. */
static sae_result saei_clt_tensor(const saei_clt_draft *draft, const char *key, size_t ndim,
                                  size_t a, size_t b, size_t c, const sae_tensor **out) {
    const sae_tensor *t = saei_clt_find(draft, key);
    const uint64_t shape[3] = { a, b, c };
    uint64_t all = 1, span = 1;
    char got[128], want[128], quoted[SAEI_QUOTE];
    bool fits;
    saei_quote(draft->name, quoted);
    if (!t) return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s has no %s", quoted, key);
    if (t->dtype != SAE_F32 && t->dtype != SAE_F16 && t->dtype != SAE_BF16 && t->dtype != SAE_F64)
        return saei_load_fail(draft->load, SAE_ERR_UNSUPPORTED, "%s in %s is %s, allowed are F32, "
                              "F16, BF16, F64", key, quoted, sae_dtype_name(t->dtype));
    fits = t->ndim == ndim;
    for (size_t i = 0; fits && i < ndim; i++) fits = t->shape[i] == shape[i];
    saei_shape_text(t->shape, t->ndim, got);
    saei_shape_text(shape, ndim, want);
    if (!fits)
        return saei_load_fail(draft->load, SAE_ERR_MISMATCH, "%s in %s has the shape [%s], must be "
                              "[%s]", key, quoted, got, want);
    for (size_t i = 0; i < ndim; i++) {
        all = shape[i] && all > UINT64_MAX / shape[i] ? UINT64_MAX : all * shape[i];
        span += (shape[i] - 1) * (uint64_t)t->stride[i];
    }
    if (all > span)
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "entries of %s in %s lie on each other",
                              key, quoted);
    *out = t;
    return SAE_OK;
}

/* The shape of a tensor of ndim axes, none of them 0. */
static sae_result saei_clt_shape(const saei_clt_draft *draft, const char *key, size_t ndim,
                                 size_t shape[3]) {
    const sae_tensor *t = saei_clt_find(draft, key);
    bool good = t && t->ndim == ndim;
    for (size_t i = 0; good && i < ndim; i++) {
        good = t->shape[i] >= 1 && t->shape[i] <= INT32_MAX;
        shape[i] = (size_t)t->shape[i];
    }
    if (good) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s has no %s of %zu dimensions, each from "
                          "1 to %d", draft->name, key, ndim, INT32_MAX);
}

/* Index i of the first axis of t. */
static sae_tensor saei_clt_part(const sae_tensor *t, size_t i) {
    return saei_draft_layer(t, 0, i).tensor;
}

/* A matrix [rows,cols]; flip: the file has it the other way round. */
static saei_clt_matrix saei_clt_matrix_of(const sae_tensor *t, bool flip) {
    const int64_t size = (int64_t)sae_dtype_size(t->dtype);
    saei_clt_matrix m;
    m.data = (const unsigned char *)t->data;
    m.dtype = t->dtype;
    m.row = t->stride[flip ? 1 : 0] * size;
    m.col = t->stride[flip ? 0 : 1] * size;
    return m;
}

/* The n numbers of a vector, or zeros (t NULL), in memory of the clt. */
static sae_result saei_clt_vector(const saei_clt_draft *draft, const sae_tensor *t, size_t n,
                                  float **out) {
    float *v = (float *)saei_arena_alloc(&draft->clt->arena, n, sizeof *v);
    if (!v) return saei_clt_no_memory(draft);
    if (t)
        saei_convert_row(t->dtype, (const unsigned char *)t->data,
                         t->stride[0] * (int64_t)sae_dtype_size(t->dtype), n, v);
    else memset(v, 0, n * sizeof *v);
    if (!saei_all_finite(v, n))
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s in %s holds NaN or infinity",
                              t->name, draft->name);
    *out = v;
    return SAE_OK;
}

static sae_result saei_clt_vector_named(const saei_clt_draft *draft, const char *key, size_t n,
                                        float **out) {
    const sae_tensor *t = NULL;
    SAEI_TRY(saei_clt_tensor(draft, key, 1, n, 0, 0, &t));
    return saei_clt_vector(draft, t, n, out);
}

/* A number in a tensor of one, finite. */
static sae_result saei_clt_number(const saei_clt_draft *draft, const char *key, double *out) {
    const sae_tensor *t = saei_clt_find(draft, key);
    float v = NAN;
    if (t && saei_is_scalar(t)) sae_tensor_to_f32(t, &v);
    if (!(fabsf(v) <= FLT_MAX))
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s has no number %s", draft->name, key);
    *out = (double)v;
    return SAE_OK;
}

/* theta = exp(theta) */
static void saei_clt_exp(float *theta, size_t n) {
    for (size_t i = 0; i < n; i++) theta[i] = (float)saei_exp((double)theta[i]);
}

/* A place for layers whose sizes the desc has: scales 1, b_dec 0. */
static sae_result saei_clt_begin(saei_clt_draft *draft, const sae_clt_desc *desc) {
    sae_clt *clt = draft->clt;
    size_t codes, pairs;
    if (!desc->layers || !desc->activation_dim || !desc->dict_size || desc->layers > 4096
        || desc->activation_dim > INT32_MAX / desc->layers
        || !saei_mul(desc->layers, desc->dict_size, &codes) || codes > INT32_MAX)
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%zu layers of %zu dimensions and %zu "
                              "latents: allowed are 1 to 4096 of together up to %d", desc->layers,
                              desc->activation_dim, desc->dict_size, INT32_MAX);
    pairs = desc->layers * desc->layers;
    clt->desc = *desc;
    clt->layers = (saei_clt_layer *)saei_arena_alloc(&clt->arena, desc->layers,
                                                     sizeof *clt->layers);
    clt->blocks = (saei_clt_block *)saei_arena_alloc(&clt->arena, pairs, sizeof *clt->blocks);
    if (!clt->layers || !clt->blocks) return saei_clt_no_memory(draft);
    memset(clt->layers, 0, desc->layers * sizeof *clt->layers);
    memset(clt->blocks, 0, pairs * sizeof *clt->blocks);
    for (size_t i = 0; i < pairs; i++) clt->blocks[i].share = 1;
    for (size_t l = 0; l < desc->layers; l++) {
        clt->layers[l].in_scale = clt->layers[l].out_scale = 1;
        SAEI_TRY(saei_clt_vector(draft, NULL, desc->activation_dim, &clt->layers[l].b_dec));
    }
    return SAE_OK;
}

/* b_dec of target t += share times the numbers of b [d]. */
static sae_result saei_clt_bias(const saei_clt_draft *draft, size_t t, const sae_tensor *b,
                                float share) {
    const size_t d = draft->clt->desc.activation_dim;
    float *one;
    SAEI_TRY(saei_clt_vector(draft, b, d, &one));
    for (size_t c = 0; c < d; c++) draft->clt->layers[t].b_dec[c] += share * one[c];
    return SAE_OK;
}

typedef struct saei_clt_norms_job {
    const sae_clt *clt;
    size_t l;
} saei_clt_norms_job;

static void saei_clt_norms_part(void *arg, size_t part) {
    enum { COLUMNS = 256 };
    const saei_clt_norms_job *job = (const saei_clt_norms_job *)arg;
    const sae_clt *clt = job->clt;
    const size_t d = clt->desc.activation_dim;
    const size_t first = part * SAEI_PART_LATENTS;
    const size_t end = saei_min(first + SAEI_PART_LATENTS, clt->desc.dict_size);
    float row[COLUMNS];
    for (size_t i = first; i < end; i++) {
        double sum = 0;
        for (size_t t = 0; t < clt->desc.layers; t++) {
            const saei_clt_matrix *m = &clt->blocks[job->l * clt->desc.layers + t].W_dec;
            for (size_t c = 0; m->data && c < d; c += COLUMNS) {
                size_t n = saei_min(COLUMNS, d - c);
                saei_clt_row(m, i, c, n, row);
                sum += saei_squares(clt->ctx->kernels, row, n);
            }
        }
        clt->layers[job->l].gate[i] = (float)sqrt(sum);
    }
}

/* What a clt whose tensors all have their place still needs: the gate's norms, and checks. */
static sae_result saei_clt_end(saei_clt_draft *draft) {
    sae_clt *clt = draft->clt;
    const sae_clt_desc *h = &clt->desc;
    const size_t part = h->over_layers ? h->layers * h->dict_size : h->dict_size;
    if (saei_arch_selects(h->arch) && (!h->k || h->k > part))
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "k is %zu, allowed are 1 to the number "
                              "of latents, %zu", h->k, part);
    if (h->activation == SAE_ACTIVATION_GROUP_MAX && part % h->k)
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "k is %zu: groupmax needs a divisor of "
                              "the number of latents, %zu", h->k, part);
    for (size_t l = 0; l < h->layers; l++) {
        saei_clt_norms_job job;
        float *theta = clt->layers[l].theta;
        for (size_t i = 0; theta && i < h->dict_size; i++)
            if (!(fabsf(theta[i]) <= FLT_MAX))
                return saei_load_fail(draft->load, SAE_ERR_FORMAT, "a threshold is not finite");
        job.clt = clt;
        job.l = l;
        if (!h->gate) continue;
        SAEI_TRY(saei_clt_vector(draft, NULL, h->dict_size, &clt->layers[l].gate));
        saei_parallel(clt->ctx, saei_ceil_div(h->dict_size, SAEI_PART_LATENTS),
                      saei_clt_norms_part, &job);
    }
    for (size_t b = 0; b < h->layers * h->layers; b++)
        clt->skips = clt->skips || clt->blocks[b].W_skip.data;
    return SAE_OK;
}
