#pragma once
#include "../tensor/dtype.h"
#include "layout.h"

/* ==== >>files: tensors into a dictionary ====================================================== */

/* Adds a name from a file to a list for a message; "..." stands for those that find no room. */
static void saei_list_name(char list[SAEI_NAMES], const char *name) {
    char quoted[SAEI_QUOTE];
    size_t at = strlen(list);
    if (at + SAEI_QUOTE + 8 <= SAEI_NAMES)
        snprintf(list + at, SAEI_NAMES - at, "%s%s", at ? ", " : "", saei_quote(name, quoted));
    else if (!saei_ends_with(list, ", ..."))
        snprintf(list + at, SAEI_NAMES - at, ", ...");
}

/* What all names of tensors begin with, where a program wrapped the module whose state it saved. */
static const char *saei_load_prefix(const sae_tensor_file *file) {
    static const char *const prefixes[] = { "sae._orig_mod.", "sae.", "_orig_mod.module.",
                                            "_orig_mod.", "module._orig_mod.", "module." };
    for (size_t p = 0; p < sizeof prefixes / sizeof prefixes[0]; p++) {
        size_t n = strlen(prefixes[p]), i = 0;
        while (i < file->count && strncmp(file->tensors[i].tensor.name, prefixes[p], n) == 0) i++;
        if (i && i == file->count) return prefixes[p];
    }
    return "";
}

/* The tensor `key` under the prefix; NULL if there is none. */
static const sae_tensor *saei_load_find(const saei_load *load, const char *key) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", load->prefix, key);
    return sae_tensor_file_find(load->tensors, name);
}

/* The file may hold a tensor of that name, for that place. */
static const sae_tensor *saei_draft_may(saei_draft *draft, const char *name, saei_slot slot) {
    const sae_tensor *t = saei_load_find(draft->load, name);
    if (draft->count == SAEI_MAX_KEYS) return NULL;
    draft->keys[draft->count].name = name;
    draft->keys[draft->count].slot = slot;
    draft->keys[draft->count++].tensor = t;
    return t;
}

/* It must hold one: under name, or under another (NULL: none) for another place. */
static void saei_draft_must(saei_draft *draft, const char *name, saei_slot slot,
                            const char *other, saei_slot other_slot) {
    if (saei_load_find(draft->load, name) || !other || !saei_load_find(draft->load, other)) {
        if (!saei_draft_may(draft, name, slot)) saei_list_name(draft->lacks, name);
    } else saei_draft_may(draft, other, other_slot);
}

/* True where the file has what it must have and nothing besides. */
static bool saei_draft_fits(saei_draft *draft) {
    const saei_load *load = draft->load;
    const size_t prefix = strlen(load->prefix);
    for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++) {
        const sae_tensor *t = sae_tensor_file_get(load->tensors, i);
        bool known = strncmp(t->name, load->prefix, prefix) != 0;
        known = known || (draft->ignored && strncmp(t->name + prefix, draft->ignored,
                                                    strlen(draft->ignored)) == 0);
        for (size_t k = 0; k < draft->count; k++) known = known || t == draft->keys[k].tensor;
        if (!known) saei_list_name(draft->besides, t->name + prefix);
    }
    return !*draft->lacks && !*draft->besides;
}

static sae_result saei_draft_misfit(const saei_draft *draft, const char *as) {
    return saei_load_fail(draft->load, SAE_ERR_FORMAT, "as %s it%s%s%s%s%s", as,
                          *draft->lacks ? " lacks " : "", draft->lacks,
                          *draft->lacks && *draft->besides ? "," : "",
                          *draft->besides ? " has besides " : "", draft->besides);
}

static bool saei_is_scalar(const sae_tensor *t) {
    return t->ndim == 0 || (t->ndim == 1 && t->shape[0] == 1);
}

/* Element `index` of a tensor of whole numbers; false for other types and for negative ones. */
static bool saei_tensor_whole(const sae_tensor *t, size_t index, uint64_t *out) {
    size_t size = sae_dtype_size(t->dtype);
    const unsigned char *p = (const unsigned char *)t->data;
    bool negative = t->dtype == SAE_I8 || t->dtype == SAE_I16 || t->dtype == SAE_I32
                    || t->dtype == SAE_I64;
    *out = 0;
    if (!negative && t->dtype != SAE_U8 && t->dtype != SAE_U16 && t->dtype != SAE_U32
        && t->dtype != SAE_U64)
        return false;
    if (t->ndim) p += (int64_t)index * t->stride[0] * (int64_t)size;
    for (size_t i = 0; i < size; i++) *out |= (uint64_t)p[i] << (8 * i);
    return !negative || !(*out >> (8 * size - 1));
}

/* The shape that desc asks of a slot: how many dimensions. */
static size_t saei_slot_shape(const sae_dictionary_desc *desc, saei_slot slot, uint64_t shape[3]) {
    const uint64_t d = desc->activation_dim, m = desc->dict_size, out = saei_output_dim(desc);
    const uint64_t layers = saei_layers(desc);
    uint64_t all[3] = { m, 0, 0 };
    size_t n = 1;
    switch (slot) {
    case SAEI_SLOT_W_ENC:
    case SAEI_SLOT_W_GLU: n = 2, all[1] = d; break;
    case SAEI_SLOT_W_ENC_T:
    case SAEI_SLOT_W_GLU_T: n = 2, all[0] = d, all[1] = m; break;
    case SAEI_SLOT_W_DEC: n = 2, all[1] = out; break;
    case SAEI_SLOT_W_DEC_T: n = 2, all[0] = out, all[1] = m; break;
    case SAEI_SLOT_W_SKIP: n = 2, all[0] = out, all[1] = d; break;
    case SAEI_SLOT_W_SKIP_T: n = 2, all[0] = d, all[1] = out; break;
    case SAEI_SLOT_W_ENC_LDM: n = 3, all[0] = layers, all[1] = d / layers, all[2] = m; break;
    case SAEI_SLOT_W_DEC_LMD: n = 3, all[0] = layers, all[1] = m, all[2] = out / layers; break;
    case SAEI_SLOT_W_DEC_MLD: n = 3, all[1] = layers, all[2] = out / layers; break;
    case SAEI_SLOT_B_ENC_LM: n = 2, all[0] = layers, all[1] = m; break;
    case SAEI_SLOT_B_DEC_LD:
    case SAEI_SLOT_SPREAD_LD:
    case SAEI_SLOT_MEAN_LD: n = 2, all[0] = layers, all[1] = out / layers; break;
    case SAEI_SLOT_LAYER_SCALE:
    case SAEI_SLOT_LAYER_THRESHOLD: all[0] = layers; break;
    case SAEI_SLOT_B_DEC: all[0] = out; break;
    case SAEI_SLOT_TARGET_RMS:
    case SAEI_SLOT_THRESHOLD: all[0] = 1; break;
    default: break;
    }
    memcpy(shape, all, sizeof all);
    return n;
}

/* "2,3" */
static void saei_shape_text(const uint64_t *shape, size_t n, char out[128]) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < n && i < 4; i++)
        at += (size_t)snprintf(out + at, 128 - at, "%s%llu", i ? "," : "",
                               (unsigned long long)shape[i]);
}

/* Type and shape of tensor `key` against the desc. */
static sae_result saei_draft_check(const saei_draft *draft, size_t key) {
    const sae_tensor *t = draft->keys[key].tensor;
    const saei_slot slot = draft->keys[key].slot;
    uint64_t shape[3], all = 1, span = 1;
    char got[128], want[128];
    size_t n;
    bool fits;
    if (!t || slot == SAEI_SLOT_K || slot == SAEI_SLOT_GROUPS || slot == SAEI_SLOT_NOTHING)
        return SAE_OK;
    if (t->dtype != SAE_F32 && t->dtype != SAE_F16 && t->dtype != SAE_BF16 && t->dtype != SAE_F64)
        return saei_load_fail(draft->load, SAE_ERR_UNSUPPORTED,
                              "%s is %s, allowed are F32, F16, BF16, "
                              "F64",
                              t->name, sae_dtype_name(t->dtype));
    if ((slot == SAEI_SLOT_THRESHOLD || slot == SAEI_SLOT_TARGET_RMS) && saei_is_scalar(t))
        return SAE_OK;
    n = saei_slot_shape(&draft->desc, slot, shape);
    fits = t->ndim == n;
    for (size_t i = 0; fits && i < n; i++) fits = t->shape[i] == shape[i];
    saei_shape_text(t->shape, t->ndim, got);
    saei_shape_text(shape, n, want);
    if (!fits)
        return saei_load_fail(draft->load, SAE_ERR_MISMATCH, "%s has the shape [%s], must be [%s]",
                              t->name, got, want);
    for (size_t i = 0; n > 1 && i < n; i++) {
        all *= shape[i];
        span += (shape[i] - 1) * (uint64_t)t->stride[i];
    }
    if (n == 1 || all <= span) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT,
                          "entries of %s lie on each other: strides %lld, "
                          "%lld",
                          t->name, (long long)t->stride[0], (long long)t->stride[1]);
}

/* Sets d and m from the encoder's tensor, and output_dim from the decoder's. */
static sae_result saei_draft_sizes(saei_draft *draft) {
    for (size_t k = 0; k < draft->count; k++) {
        const sae_tensor *t = draft->keys[k].tensor;
        const saei_slot slot = draft->keys[k].slot;
        bool enc = slot == SAEI_SLOT_W_ENC || slot == SAEI_SLOT_W_ENC_T;
        size_t latents = slot == SAEI_SLOT_W_ENC || slot == SAEI_SLOT_W_DEC ? 0 : 1;
        if (!t || (!enc && slot != SAEI_SLOT_W_DEC && slot != SAEI_SLOT_W_DEC_T)) continue;
        if (t->ndim != 2 || !t->shape[0] || !t->shape[1] || t->shape[0] > INT32_MAX
            || t->shape[1] > INT32_MAX)
            return saei_load_fail(draft->load, SAE_ERR_FORMAT,
                                  "%s is no matrix of 1 to %d rows and "
                                  "columns",
                                  t->name, INT32_MAX);
        if (enc) draft->desc.dict_size = (size_t)t->shape[latents];
        *(enc ? &draft->desc.activation_dim : &draft->desc.output_dim) =
            (size_t)t->shape[1 - latents];
    }
    return SAE_OK;
}

/* view [rows,cols] into dst, whose rows lie ld apart. Bands of 64 follow the file, so that its
   pages can be given back as they are done with; a band's bytes are in the cache for their CRC. */
enum { SAEI_FILE_TILE = 64 };
typedef struct saei_read_job {
    const sae_tensor_file *file;
    const saei_kernels *kernels;
    sae_tensor view;
    float *dst;
    size_t ld;
    bool by_columns; /* columns lie further apart in the file than rows */
    uint32_t *crc;   /* of each band; NULL: not asked for */
    int lock;
    bool not_finite;
} saei_read_job;

/* Rows of n values become columns of dst; false where one is not finite. */
static bool saei_read_transposed(const saei_read_job *job, const void *const *row, size_t rows,
                                 size_t n, float *dst) {
    bool finite = true;
    size_t i = 0;
    for (; i + 16 <= rows; i += 16)
        finite = job->kernels->copy_transposed(row + i, n, dst + i, job->ld) && finite;
    for (; i < rows; i++) {
        for (size_t c = 0; c < n; c++)
            memcpy(dst + c * job->ld + i, (const unsigned char *)row[i] + 4 * c, 4);
        finite = saei_all_finite(row[i], n) && finite;
    }
    return finite;
}

static void saei_read_band(void *arg, size_t band) {
    saei_read_job *job = (saei_read_job *)arg;
    float tile[SAEI_FILE_TILE * SAEI_FILE_TILE];
    const void *row[SAEI_FILE_TILE];
    const size_t size = sae_dtype_size(job->view.dtype), lead = job->by_columns ? 1 : 0;
    const size_t first = band * SAEI_FILE_TILE, length = (size_t)job->view.shape[1 - lead];
    const size_t rows = saei_min((size_t)job->view.shape[lead] - first, SAEI_FILE_TILE);
    const int64_t step = job->view.stride[lead] * (int64_t)size;
    const int64_t inner = job->view.stride[1 - lead] * (int64_t)size;
    const unsigned char *src = (const unsigned char *)job->view.data + (int64_t)first * step;
    const size_t bytes = (size_t)step * rows;
    bool whole = inner == (int64_t)size, finite = true;
    bool direct = whole && job->view.dtype == SAE_F32;
    size_t wide = direct && !lead ? length : (size_t)SAEI_FILE_TILE;
    if (job->crc) job->crc[band] = saei_crc(&job->file->crc, 0, src, bytes);
    for (size_t at = 0; at < length; at += wide) {
        size_t n = saei_min(length - at, wide);
        for (size_t i = 0; i < rows; i++) {
            const unsigned char *from = src + (int64_t)i * step + (int64_t)at * inner;
            row[i] = direct ? (const void *)from : (const void *)(tile + i * n);
        }
        if (!direct)
            saei_matrix_to_f32(job->view.dtype, src + (int64_t)at * inner, rows, n, step, inner,
                               tile);
        if (lead)
            finite = saei_read_transposed(job, row, rows, n, job->dst + at * job->ld + first)
                     && finite;
        else
            for (size_t i = 0; i < rows; i++)
                finite = job->kernels->copy(n, row[i], job->dst + (first + i) * job->ld + at)
                         && finite;
    }
    if (whole) saei_map_release(job->file->ctx, &job->file->map, src, bytes);
    if (finite) return;
    saei_lock(&job->lock);
    job->not_finite = true;
    saei_unlock(&job->lock);
}

/* The CRC of the entry around what the bands of the job were, against the archive's. */
static sae_result saei_read_compare(const saei_read_job *job, sae_tensor_file *file,
                                    saei_zip_entry *e, size_t band_bytes, size_t bytes) {
    const size_t begin = (size_t)((const unsigned char *)job->view.data - e->data);
    const uint32_t shift = saei_crc_shift(band_bytes);
    uint32_t crc = saei_crc_large(file, e->data, begin);
    for (size_t at = 0, band = 0; at < bytes; at += band_bytes, band++) {
        size_t n = saei_min(band_bytes, bytes - at);
        crc = saei_crc_product(crc, n == band_bytes ? shift : saei_crc_shift(n)) ^ job->crc[band];
    }
    crc = saei_crc_product(crc, saei_crc_shift(e->size - begin - bytes))
          ^ saei_crc_large(file, e->data + begin + bytes, e->size - begin - bytes);
    return saei_zip_compare(file, e, crc);
}

/* Runs the job. The CRC of the zip entry that holds the tensor is checked with it: band by band
   while it is read where the tensor is most of the entry, else before. */
static sae_result saei_read_run(sae_tensor_file *file, saei_read_job *job, saei_zip_entry *e) {
    const size_t lead = job->by_columns ? 1 : 0, rows = (size_t)job->view.shape[lead];
    const size_t length = (size_t)job->view.shape[1 - lead];
    const size_t row_bytes = length * sae_dtype_size(job->view.dtype);
    const size_t bands = saei_ceil_div(rows, SAEI_FILE_TILE);
    sae_result result = SAE_OK;
    if (e && !e->checked && rows && job->view.stride[1 - lead] == 1
        && job->view.stride[lead] == (int64_t)length && row_bytes * rows > e->size / 2)
        job->crc = (uint32_t *)saei_alloc(file->ctx, bands, sizeof *job->crc);
    if (e && !job->crc) SAEI_TRY(saei_zip_check(file, e));
    saei_parallel(file->ctx, bands, saei_read_band, job);
    if (job->crc)
        result = saei_read_compare(job, file, e, row_bytes * saei_min(rows, SAEI_FILE_TILE),
                                   row_bytes * rows);
    saei_free(file->ctx, job->crc);
    return result;
}

/* The latents asked for of a tensor whose axis `axis` they are (-1: it has none). */
static sae_tensor saei_draft_part(const saei_draft *draft, const sae_tensor *t, int axis) {
    sae_tensor part = *t;
    if (axis < 0 || !draft->part) return part;
    part.data = (const unsigned char *)t->data
                + (int64_t)draft->load->desc.first_latent * t->stride[axis]
                      * (int64_t)sae_dtype_size(t->dtype);
    part.shape[axis] = draft->part;
    return part;
}

/* A tensor into rows of dst that lie ld apart, transposed where flip says; a vector is a
   matrix of one row. */
static sae_result saei_draft_read(const saei_draft *draft, const sae_tensor *tensor, int axis,
                                  bool flip, float *dst, size_t ld) {
    const sae_tensor part = saei_draft_part(draft, tensor, axis), *t = &part;
    const bool cut = axis >= 0 && part.shape[axis] != tensor->shape[axis];
    sae_tensor_file *file = draft->load->tensors;
    saei_read_job job;
    memset(&job, 0, sizeof job);
    job.file = file;
    job.kernels = draft->load->ctx->kernels;
    job.view = *t;
    job.ld = ld;
    job.dst = dst;
    job.view.ndim = 2;
    job.view.shape[0] = t->ndim == 2 ? t->shape[flip ? 1 : 0] : 1;
    job.view.shape[1] = t->ndim == 2 ? t->shape[flip ? 0 : 1] : t->ndim ? t->shape[0] : 1;
    job.view.stride[0] = t->ndim == 2 ? t->stride[flip ? 1 : 0] : (int64_t)job.view.shape[1];
    job.view.stride[1] = t->ndim == 2 ? t->stride[flip ? 0 : 1] : t->ndim ? t->stride[0] : 1;
    job.by_columns = t->ndim == 2 && job.view.stride[1] > job.view.stride[0];
    if (job.view.shape[job.by_columns] == 1) /* no step is taken along it: its stride is anything */
        job.view.stride[job.by_columns] = (int64_t)job.view.shape[!job.by_columns];
    file->who = draft->load->who;
    SAEI_TRY(saei_read_run(file, &job,
                           cut ? NULL : ((const saei_file_tensor *)(const void *)tensor)->entry));
    if (!job.not_finite) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s holds NaN or infinity", tensor->name);
}

/* W_dec[i] *= scale[i]: SAELens' finetuning_scaling_factor. */
static sae_result saei_draft_scale(const saei_draft *draft, const sae_tensor *t,
                                   sae_dictionary *dict) {
    float *scale = (float *)saei_alloc(dict->ctx, dict->desc.dict_size, sizeof *scale);
    sae_result result;
    if (!scale)
        return saei_load_fail(draft->load, SAE_ERR_OUT_OF_MEMORY, "no memory for %s", t->name);
    result = saei_draft_read(draft, t, 0, false, scale, 0);
    for (size_t i = 0; result == SAE_OK && i < dict->desc.dict_size; i++)
        for (size_t c = 0; c < dict->ld_out; c++) dict->W_dec[i * dict->ld_out + c] *= scale[i];
    saei_free(dict->ctx, scale);
    return result;
}

/* Index l of axis `axis` of t, which goes. */
static saei_file_tensor saei_draft_layer(const sae_tensor *t, size_t axis, size_t l) {
    saei_file_tensor layer;
    memset(&layer, 0, sizeof layer);
    layer.tensor = *t;
    layer.entry = ((const saei_file_tensor *)(const void *)t)->entry;
    layer.tensor.data = (const unsigned char *)t->data
                        + (int64_t)l * t->stride[axis] * (int64_t)sae_dtype_size(t->dtype);
    layer.tensor.ndim--;
    for (size_t i = axis; i < layer.tensor.ndim; i++) {
        layer.tensor.shape[i] = t->shape[i + 1];
        layer.tensor.stride[i] = t->stride[i + 1];
    }
    return layer;
}

/* b_enc: the sum over the layers. */
static sae_result saei_draft_sum(const saei_draft *draft, const sae_tensor *t,
                                 sae_dictionary *dict) {
    const size_t m = dict->desc.dict_size;
    float *one = (float *)saei_alloc(dict->ctx, m, sizeof *one);
    sae_result result = SAE_OK;
    if (!one)
        return saei_load_fail(draft->load, SAE_ERR_OUT_OF_MEMORY, "no memory for %s", t->name);
    for (size_t l = 0; l < dict->desc.layers && result == SAE_OK; l++) {
        saei_file_tensor layer = saei_draft_layer(t, 0, l);
        result = saei_draft_read(draft, &layer.tensor, 0, false, one, 0);
        for (size_t i = 0; i < m; i++) dict->b_enc[i] += one[i];
    }
    saei_free(dict->ctx, one);
    return result;
}

/* A tensor of all layers into its place. */
static sae_result saei_draft_layers(const saei_draft *draft, size_t key, sae_dictionary *dict) {
    const sae_tensor *t = draft->keys[key].tensor;
    const saei_slot slot = draft->keys[key].slot;
    const size_t d = dict->desc.activation_dim / dict->desc.layers;
    const size_t out = saei_output_dim(&dict->desc) / dict->desc.layers;
    if (slot == SAEI_SLOT_B_ENC_LM) return saei_draft_sum(draft, t, dict);
    for (size_t l = 0; l < dict->desc.layers; l++) {
        saei_file_tensor layer = saei_draft_layer(t, slot == SAEI_SLOT_W_DEC_MLD, l);
        if (slot == SAEI_SLOT_W_ENC_LDM)
            SAEI_TRY(saei_draft_read(draft, &layer.tensor, 1, true, dict->W_enc + l * d, dict->ld));
        else if (slot == SAEI_SLOT_B_DEC_LD)
            SAEI_TRY(saei_draft_read(draft, &layer.tensor, -1, false, dict->b_dec + l * out, 0));
        else if (slot == SAEI_SLOT_SPREAD_LD)
            SAEI_TRY(saei_draft_read(draft, &layer.tensor, -1, false, dict->spread + l * d, 0));
        else if (slot == SAEI_SLOT_MEAN_LD)
            SAEI_TRY(saei_draft_read(draft, &layer.tensor, -1, false, dict->mean + l * d, 0));
        else
            SAEI_TRY(saei_draft_read(draft, &layer.tensor, 0, false, dict->W_dec + l * out,
                                     dict->ld_out));
    }
    return SAE_OK;
}

/* Tensor `key` into its place. */
static sae_result saei_draft_place(const saei_draft *draft, size_t key, sae_dictionary *dict) {
    const sae_tensor *t = draft->keys[key].tensor;
    const size_t ld = dict->ld, ld_out = dict->ld_out;
    if (!t) return SAE_OK;
    switch (draft->keys[key].slot) {
    case SAEI_SLOT_W_ENC: return saei_draft_read(draft, t, 0, false, dict->W_enc, ld);
    case SAEI_SLOT_W_ENC_T: return saei_draft_read(draft, t, 1, true, dict->W_enc, ld);
    case SAEI_SLOT_W_DEC: return saei_draft_read(draft, t, 0, false, dict->W_dec, ld_out);
    case SAEI_SLOT_W_DEC_T: return saei_draft_read(draft, t, 1, true, dict->W_dec, ld_out);
    case SAEI_SLOT_W_SKIP: return saei_draft_read(draft, t, -1, false, dict->W_skip, ld);
    case SAEI_SLOT_W_SKIP_T: return saei_draft_read(draft, t, -1, true, dict->W_skip, ld);
    case SAEI_SLOT_W_GLU: return saei_draft_read(draft, t, 0, false, dict->W_glu, ld);
    case SAEI_SLOT_W_GLU_T: return saei_draft_read(draft, t, 1, true, dict->W_glu, ld);
    case SAEI_SLOT_B_ENC: return saei_draft_read(draft, t, 0, false, dict->b_enc, 0);
    case SAEI_SLOT_B_GLU: return saei_draft_read(draft, t, 0, false, dict->b_glu, 0);
    case SAEI_SLOT_AUX0: return saei_draft_read(draft, t, 0, false, dict->aux0, 0);
    case SAEI_SLOT_AUX1: return saei_draft_read(draft, t, 0, false, dict->aux1, 0);
    case SAEI_SLOT_B_DEC: return saei_draft_read(draft, t, -1, false, dict->b_dec, 0);
    case SAEI_SLOT_THRESHOLD: return saei_draft_read(draft, t, -1, false, &dict->threshold, 0);
    case SAEI_SLOT_LAYER_SCALE: return saei_draft_read(draft, t, -1, false, dict->scale, 0);
    case SAEI_SLOT_LAYER_THRESHOLD:
        return saei_draft_read(draft, t, -1, false, dict->thresholds, 0);
    case SAEI_SLOT_SCALE: return saei_draft_scale(draft, t, dict); /* after W_dec in the keys */
    case SAEI_SLOT_W_ENC_LDM:
    case SAEI_SLOT_W_DEC_LMD:
    case SAEI_SLOT_W_DEC_MLD:
    case SAEI_SLOT_B_DEC_LD:
    case SAEI_SLOT_B_ENC_LM:
    case SAEI_SLOT_SPREAD_LD:
    case SAEI_SLOT_MEAN_LD: return saei_draft_layers(draft, key, dict);
    case SAEI_SLOT_TARGET_RMS: return saei_draft_read(draft, t, -1, false, &dict->target_rms, 0);
    case SAEI_SLOT_CODE_ID:
    case SAEI_SLOT_K:
    case SAEI_SLOT_GROUPS:
    case SAEI_SLOT_NOTHING: break;
    }
    return SAE_OK;
}

/* The desc of the latents asked for: draft->part of them, 0 for all. k and the groups are cut to
   what is there. */
static sae_result saei_draft_cut(saei_draft *draft, sae_dictionary_desc *desc) {
    const saei_load *load = draft->load;
    const size_t m = draft->desc.dict_size, first = load->desc.first_latent;
    size_t end, begin = 0, groups = 0;
    *desc = draft->desc;
    if (!first && !load->desc.num_latents) return SAE_OK;
    if (first >= m)
        return saei_load_fail(load, SAE_ERR_INVALID,
                              "sae_load_desc.first_latent is %zu, allowed are 0 "
                              "to %zu",
                              first, m - 1);
    end = load->desc.num_latents && load->desc.num_latents < m - first
              ? first + load->desc.num_latents : m;
    if (end - first == m) return SAE_OK;
    if (desc->arch == SAE_ARCH_IDENTITY || desc->activation == SAE_ACTIVATION_GROUP_MAX
        || desc->arch == SAE_ARCH_MATCHING_PURSUIT)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "sae_load_desc asks for %zu of its %zu "
                              "latents: %s needs them all", end - first, m,
                              desc->activation ? "group max" : sae_arch_name(desc->arch));
    draft->part = desc->dict_size = end - first;
    desc->k = saei_min(desc->k, desc->over_layers ? saei_num_codes(desc) : desc->dict_size);
    for (size_t g = 0; g < desc->num_groups; g++) {
        size_t low = saei_max(begin, first), high = saei_min(begin + desc->group_sizes[g], end);
        begin += desc->group_sizes[g];
        if (low < high) desc->group_sizes[groups++] = high - low;
    }
    for (size_t g = groups; g < desc->num_groups; g++) desc->group_sizes[g] = 0;
    desc->num_groups = groups;
    return SAE_OK;
}

/* The dictionary of a draft whose desc is complete: every tensor checked, then read. */
static sae_result saei_draft_make(saei_draft *draft, sae_dictionary **out) {
    sae_dictionary *dict;
    sae_dictionary_desc desc;
    sae_result result = SAE_OK;
    for (size_t k = 0; k < draft->count; k++) SAEI_TRY(saei_draft_check(draft, k));
    SAEI_TRY(saei_draft_cut(draft, &desc));
    SAEI_TRY(saei_dictionary_unset(draft->load->ctx, draft->load->who, &desc, &dict));
    dict->origin.dict_size = draft->desc.dict_size;
    dict->origin.k = draft->desc.k;
    dict->origin.first_latent = draft->part ? draft->load->desc.first_latent : 0;
    for (size_t k = 0; k < draft->count && result == SAE_OK; k++) {
        const saei_slot slot = draft->keys[k].slot;
        result = saei_draft_place(draft, k, dict);
        if (slot == SAEI_SLOT_W_ENC || slot == SAEI_SLOT_W_ENC_T || slot == SAEI_SLOT_W_ENC_LDM)
            dict->origin.dtype = draft->keys[k].tensor->dtype;
        if (!dict->origin.dtype && slot == SAEI_SLOT_W_DEC) /* there is no encoder */
            dict->origin.dtype = draft->keys[k].tensor->dtype;
    }
    saei_gate_update(dict);
    if (result == SAE_OK) *out = dict;
    else sae_dictionary_destroy(dict);
    return result;
}
