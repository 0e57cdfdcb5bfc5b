#pragma once
#include "../tensor/open.h"
#include "draft.h"

/* ==== >>files: saving ========================================================================= */

/* src [m][ld] into dst [m][d], or transposed into dst [d][m], a band of latents at a time. */
typedef struct saei_write_job {
    const float *src;
    float *dst;
    size_t m, d, ld;
    bool transposed;
} saei_write_job;

static void saei_write_band(void *arg, size_t band) {
    const saei_write_job *job = (const saei_write_job *)arg;
    size_t first = band * SAEI_FILE_TILE, last = saei_min(job->m, first + SAEI_FILE_TILE);
    if (!job->transposed) {
        for (size_t i = first; i < last; i++)
            memcpy(job->dst + i * job->d, job->src + i * job->ld, job->d * sizeof(float));
        return;
    }
    for (size_t c = 0; c < job->d; c += 16) {
        size_t end = saei_min(job->d, c + 16);
        for (size_t j = c; j < end; j++)
            for (size_t i = first; i < last; i++)
                job->dst[j * job->m + i] = job->src[i * job->ld + j];
    }
}

/* A matrix [rows,columns] as the file has it: in place if it lies so already, else a copy in
   *copy. */
static sae_result saei_save_matrix(const sae_dictionary *dict, const float *src, size_t rows,
                                   size_t columns, bool transposed, sae_tensor *t, float **copy) {
    saei_write_job job;
    size_t count;
    job.src = src;
    job.m = rows;
    job.d = columns;
    job.ld = saei_align16(columns);
    job.transposed = transposed;
    t->ndim = 2;
    t->shape[0] = transposed ? job.d : job.m;
    t->shape[1] = transposed ? job.m : job.d;
    t->data = src;
    if (!transposed && job.ld == job.d) return SAE_OK;
    if (saei_mul(job.m, job.d, &count))
        *copy = (float *)saei_alloc(dict->ctx, count, sizeof(float));
    if (!*copy)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_dictionary_save: no memory for %s",
                         t->name);
    job.dst = *copy;
    saei_parallel(dict->ctx, saei_ceil_div(job.m, SAEI_FILE_TILE), saei_write_band, &job);
    t->data = *copy;
    return SAE_OK;
}

/* Tensor `slot` of a CrossCoder, in *copy. Where it knows no normalizer its mean and deviation are
   NaN, its scale 1. */
static sae_result saei_save_layers(const sae_dictionary *dict, saei_slot slot, sae_tensor *t,
                                   float **copy) {
    const size_t layers = dict->desc.layers, m = dict->desc.dict_size;
    const size_t d = dict->desc.activation_dim / layers;
    const bool matrix = slot == SAEI_SLOT_W_ENC_LDM || slot == SAEI_SLOT_W_DEC_LMD;
    const bool vector = slot == SAEI_SLOT_LAYER_SCALE || slot == SAEI_SLOT_LAYER_THRESHOLD;
    const float *from = slot == SAEI_SLOT_B_DEC_LD    ? dict->b_dec
                        : slot == SAEI_SLOT_MEAN_LD   ? dict->mean
                        : slot == SAEI_SLOT_SPREAD_LD ? dict->spread
                        : slot == SAEI_SLOT_LAYER_SCALE ? dict->scale : dict->thresholds;
    const bool known = dict->normalizes || slot == SAEI_SLOT_B_DEC_LD
                       || slot == SAEI_SLOT_LAYER_THRESHOLD;
    size_t count = vector ? layers : layers * d;
    t->ndim = 0;
    if (slot == SAEI_SLOT_TARGET_RMS || (slot == SAEI_SLOT_LAYER_THRESHOLD && !from)) {
        t->data = slot == SAEI_SLOT_TARGET_RMS ? &dict->target_rms : &dict->threshold;
        return SAE_OK;
    }
    t->shape[t->ndim++] = layers;
    if (slot == SAEI_SLOT_W_DEC_LMD) t->shape[t->ndim++] = m;
    if (!vector) t->shape[t->ndim++] = d;
    if (slot == SAEI_SLOT_W_ENC_LDM) t->shape[t->ndim++] = m;
    if (!matrix || saei_mul(count, m, &count))
        *copy = (float *)saei_alloc(dict->ctx, count, sizeof(float));
    if (!*copy)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_dictionary_save: no memory for %s",
                         t->name);
    t->data = *copy;
    for (size_t i = 0; !matrix && i < count; i++)
        (*copy)[i] = known ? from[i] : slot == SAEI_SLOT_LAYER_SCALE ? 1 : NAN;
    for (size_t l = 0; matrix && l < layers; l++) {
        saei_write_job job;
        job.src = (slot == SAEI_SLOT_W_ENC_LDM ? dict->W_enc : dict->W_dec) + l * d;
        job.dst = *copy + l * m * d;
        job.m = m;
        job.d = d;
        job.ld = dict->ld;
        job.transposed = slot == SAEI_SLOT_W_ENC_LDM;
        saei_parallel(dict->ctx, saei_ceil_div(m, SAEI_FILE_TILE), saei_write_band, &job);
    }
    return SAE_OK;
}

/* Tensor `slot` of dict. k and groups: room for what the dictionary holds as size_t. */
static sae_result saei_save_tensor(const sae_dictionary *dict, saei_slot slot, int32_t *k,
                                   int64_t *groups, sae_tensor *t, float **copy) {
    const sae_dictionary_desc *desc = &dict->desc;
    const size_t d = desc->activation_dim, m = desc->dict_size, out = saei_output_dim(desc);
    t->dtype = slot == SAEI_SLOT_K ? SAE_I32 : slot == SAEI_SLOT_GROUPS ? SAE_I64 : SAE_F32;
    if (slot == SAEI_SLOT_CODE_ID) t->dtype = SAE_I64;
    t->ndim = 1;
    t->shape[0] = desc->dict_size;
    switch (slot) {
    case SAEI_SLOT_W_ENC:
    case SAEI_SLOT_W_ENC_T:
        return saei_save_matrix(dict, dict->W_enc, m, d, slot == SAEI_SLOT_W_ENC_T, t, copy);
    case SAEI_SLOT_W_DEC:
    case SAEI_SLOT_W_DEC_T:
        return saei_save_matrix(dict, dict->W_dec, m, out, slot == SAEI_SLOT_W_DEC_T, t, copy);
    case SAEI_SLOT_W_SKIP:
    case SAEI_SLOT_W_SKIP_T:
        return saei_save_matrix(dict, dict->W_skip, out, d, slot == SAEI_SLOT_W_SKIP_T, t, copy);
    case SAEI_SLOT_B_ENC: t->data = dict->b_enc; break;
    case SAEI_SLOT_AUX0: t->data = dict->aux0; break;
    case SAEI_SLOT_AUX1: t->data = dict->aux1; break;
    case SAEI_SLOT_B_DEC:
        t->shape[0] = out;
        t->data = dict->b_dec;
        break;
    case SAEI_SLOT_K:
        *k = (int32_t)desc->k;
        t->ndim = 0;
        t->data = k;
        break;
    case SAEI_SLOT_THRESHOLD:
        t->ndim = 0;
        t->data = &dict->threshold;
        break;
    case SAEI_SLOT_W_ENC_LDM:
    case SAEI_SLOT_W_DEC_LMD:
    case SAEI_SLOT_B_DEC_LD:
    case SAEI_SLOT_MEAN_LD:
    case SAEI_SLOT_SPREAD_LD:
    case SAEI_SLOT_LAYER_SCALE:
    case SAEI_SLOT_LAYER_THRESHOLD:
    case SAEI_SLOT_TARGET_RMS: return saei_save_layers(dict, slot, t, copy);
    case SAEI_SLOT_CODE_ID:
        *groups = dict->code;
        t->ndim = 0;
        t->data = groups;
        break;
    case SAEI_SLOT_GROUPS:
        for (size_t g = 0; g < desc->num_groups; g++) groups[g] = (int64_t)desc->group_sizes[g];
        t->shape[0] = desc->num_groups;
        t->data = groups;
        break;
    default: break;
    }
    return SAE_OK;
}

/* Tensors of the dictionary under these names into the file `name`, or into memory, *data [*size],
   where data is not NULL. */
static sae_result saei_save_keys(const sae_dictionary *dict, const char *name, const saei_key *keys,
                                 size_t count, void **data, size_t *size) {
    sae_tensor tensors[SAEI_MAX_KEYS];
    saei_content content = { name, tensors, count, NULL, NULL, 0 };
    float *copies[SAEI_MAX_KEYS] = { NULL };
    int64_t groups[SAE_MAX_GROUPS];
    sae_result result = SAE_OK;
    int32_t k;
    memset(tensors, 0, sizeof tensors);
    for (size_t i = 0; i < count && result == SAE_OK; i++) {
        tensors[i].name = keys[i].name;
        result = saei_save_tensor(dict, keys[i].slot, &k, groups, &tensors[i], &copies[i]);
    }
    if (result == SAE_OK)
        result = data ? saei_content_memory(dict->ctx, &content, data, size)
                      : saei_content_write(dict->ctx, &content, NULL);
    for (size_t i = 0; i < SAEI_MAX_KEYS; i++) saei_free(dict->ctx, copies[i]);
    return result;
}

/* A CrossCoder, as it was read or trained: its class's state_dict. */
static sae_result saei_save_crosscoder(const sae_dictionary *dict, const char *name, void **data,
                                       size_t *size) {
    static const saei_key keys[] = {
        { "target_rms", SAEI_SLOT_TARGET_RMS }, { "activation_mean", SAEI_SLOT_MEAN_LD },
        { "activation_std", SAEI_SLOT_SPREAD_LD },
        { "activation_global_scale", SAEI_SLOT_LAYER_SCALE },
        { "code_normalization_id", SAEI_SLOT_CODE_ID },
        { "encoder.weight", SAEI_SLOT_W_ENC_LDM }, { "encoder.bias", SAEI_SLOT_B_ENC },
        { "decoder.bias", SAEI_SLOT_B_DEC_LD }, { "decoder.weight", SAEI_SLOT_W_DEC_LMD },
        { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_LAYER_THRESHOLD }
    };
    const bool batch = dict->desc.arch == SAE_ARCH_BATCH_TOP_K;
    return saei_save_keys(dict, name, keys, sizeof keys / sizeof *keys - (batch ? 0 : 2), data,
                          size);
}

/* The reference's state_dict, with W_skip; whether b_dec is taken from the input stands beside
   it. */
static sae_result saei_save_state_dict(const sae_dictionary *dict, const char *name, void **data,
                                       size_t *size) {
    const saei_layout *layout = saei_layout_of(dict->desc.arch);
    saei_key keys[SAEI_MAX_KEYS];
    size_t count = layout->count;
    if (dict->code) return saei_save_crosscoder(dict, name, data, size);
    memcpy(keys, layout->keys, count * sizeof *keys);
    if (dict->desc.skip) {
        keys[count].name = "W_skip";
        keys[count++].slot = SAEI_SLOT_W_SKIP;
    }
    return saei_save_keys(dict, name, keys, count, data, size);
}

/* The same where it says all. */
static sae_result saei_save_all(const sae_dictionary *dict, const char *who, const char *name,
                                void **data, size_t *size) {
    bool wide = dict->desc.output_dim != dict->desc.activation_dim;
    if (!dict->code && (!saei_is_state_dict(&dict->desc) || dict->desc.subtract_b_dec
                        || (dict->desc.no_b_dec_subtraction && !wide)))
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "%s: the dictionary is %s with variations (or subtract_b_dec), which the "
                         "reference's state_dict cannot say; sae_dictionary_export writes it in "
                         "other forms", who, sae_arch_name(dict->desc.arch));
    return saei_save_state_dict(dict, name, data, size);
}

SAE_API sae_result sae_dictionary_save(const sae_dictionary *dict, const char *path) {
    if (!dict || !path)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_save: dict or path is NULL");
    return saei_save_all(dict, "sae_dictionary_save", path, NULL, NULL);
}

SAE_API sae_result sae_dictionary_save_memory(const sae_dictionary *dict, const char *name,
                                              void **data, size_t *size) {
    if (!dict || !name || !data || !size)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_save_memory: dict, name, data or size is NULL");
    return saei_save_all(dict, "sae_dictionary_save_memory", name, data, size);
}
