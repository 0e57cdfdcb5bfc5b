#pragma once
#include "params.h"

/* ==== >>dictionary: tensors =================================================================== */

enum { SAEI_DICTIONARY_TENSORS = 13 }; /* at most */

/* The next of the list: [rows,cols] with rows ld apart, [cols] where rows is 0, one number where
   cols is 0, too. */
static void saei_tensor_add(sae_tensor *list, size_t *count, const char *name, const void *data,
                            size_t rows, size_t cols, size_t ld) {
    sae_tensor *t = &list[(*count)++];
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = SAE_F32;
    t->data = data;
    if (rows) {
        t->shape[t->ndim] = rows;
        t->stride[t->ndim++] = (int64_t)ld;
    }
    if (!cols) return;
    t->shape[t->ndim] = cols;
    t->stride[t->ndim++] = 1;
}

/* All of a dictionary, where they lie; how many. */
static size_t saei_dictionary_tensors(const sae_dictionary *dict,
                                      sae_tensor list[SAEI_DICTIONARY_TENSORS]) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t count = 0, d = h->activation_dim, m = h->dict_size, out = saei_output_dim(h);
    bool gated = h->arch == SAE_ARCH_GATED;
    bool tied = h->arch == SAE_ARCH_MATCHING_PURSUIT;
    if (!dict->params) return 0;
    if (!tied) saei_tensor_add(list, &count, "W_enc", dict->W_enc, m, d, dict->ld);
    saei_tensor_add(list, &count, "W_dec", dict->W_dec, m, out, dict->ld_out);
    if (!tied)
        saei_tensor_add(list, &count, gated ? "gate_bias" : "b_enc", dict->b_enc, 0, m, 0);
    saei_tensor_add(list, &count, "b_dec", dict->b_dec, 0, out, 0);
    if (gated) saei_tensor_add(list, &count, "r_mag", dict->aux0, 0, m, 0);
    if (gated) saei_tensor_add(list, &count, "mag_bias", dict->aux1, 0, m, 0);
    if (h->arch == SAE_ARCH_JUMP_RELU)
        saei_tensor_add(list, &count, "threshold", dict->aux0, 0, m, 0);
    if (dict->W_skip) saei_tensor_add(list, &count, "W_skip", dict->W_skip, out, d, dict->ld);
    if (dict->W_glu) saei_tensor_add(list, &count, "W_glu", dict->W_glu, m, d, dict->ld);
    if (dict->W_glu) saei_tensor_add(list, &count, "b_glu", dict->b_glu, 0, m, 0);
    if (dict->mean) {
        saei_tensor_add(list, &count, "mean", dict->mean, 0, d, 0);
        saei_tensor_add(list, &count, "scale", dict->scale, 0, h->layers, 0);
        saei_tensor_add(list, &count, "output_scale", dict->output_scale, 0, h->layers, 0);
    }
    if (!saei_arch_selects(h->arch)) return count;
    if (dict->thresholds)
        saei_tensor_add(list, &count, "threshold", dict->thresholds, 0, h->layers, 0);
    else saei_tensor_add(list, &count, "threshold", &dict->threshold, 0, 0, 0);
    saei_tensor_add(list, &count, "k", &h->k, 0, 0, 0);
    list[count - 1].dtype = sizeof h->k == 8 ? SAE_U64 : SAE_U32;
    return count;
}

SAE_API size_t sae_dictionary_num_tensors(const sae_dictionary *dict) {
    sae_tensor list[SAEI_DICTIONARY_TENSORS];
    return dict ? saei_dictionary_tensors(dict, list) : 0;
}

SAE_API bool sae_dictionary_get_tensor(const sae_dictionary *dict, size_t index, sae_tensor *out) {
    sae_tensor list[SAEI_DICTIONARY_TENSORS];
    if (!dict || !out || index >= saei_dictionary_tensors(dict, list)) return false;
    *out = list[index];
    return true;
}

static sae_result saei_dictionary_find(const sae_dictionary *dict, const char *who,
                                       const char *name, sae_tensor *out) {
    sae_tensor list[SAEI_DICTIONARY_TENSORS];
    size_t count = saei_dictionary_tensors(dict, list);
    char names[128] = "none";
    for (size_t i = 0, at = 0; i < count; i++) {
        if (!strcmp(list[i].name, name)) {
            *out = list[i];
            return SAE_OK;
        }
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", list[i].name);
    }
    return saei_fail(dict->ctx, SAE_ERR_NOT_FOUND, "%s: name is \"%.40s\", %s has %s", who, name,
                     sae_arch_name(dict->desc.arch), names);
}

SAE_API sae_result sae_dictionary_find_tensor(const sae_dictionary *dict, const char *name,
                                              sae_tensor *out) {
    if (!dict) return SAE_ERR_INVALID;
    if (!name || !out)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_find_tensor: %s is NULL",
                         name ? "out" : "name");
    return saei_dictionary_find(dict, "sae_dictionary_find_tensor", name, out);
}

static sae_result saei_dictionary_set_k(sae_dictionary *dict, float value) {
    sae_dictionary_desc desc = dict->desc;
    if (!(value >= 1 && value <= (float)desc.dict_size) || value != (float)(size_t)value)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_set_tensor: k is %g, allowed "
                         "are whole numbers from 1 to dict_size, %zu", (double)value,
                         desc.dict_size);
    desc.k = (size_t)value;
    SAEI_TRY(saei_dictionary_check(dict->ctx, "sae_dictionary_set_tensor", &desc));
    saei_prepared_drop(dict);
    dict->desc.k = desc.k;
    if (!dict->origin.format) dict->origin.k = desc.k;
    return SAE_OK;
}

SAE_API sae_result sae_dictionary_set_tensor(sae_dictionary *dict, const char *name,
                                             const float *values, size_t count) {
    sae_tensor t;
    size_t rows, cols, ld;
    float *to;
    if (!dict) return SAE_ERR_INVALID;
    if (!name || !values)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_set_tensor: %s is NULL",
                         name ? "values" : "name");
    SAEI_TRY(saei_dictionary_find(dict, "sae_dictionary_set_tensor", name, &t));
    cols = t.ndim ? (size_t)t.shape[t.ndim - 1] : 1;
    rows = t.ndim == 2 ? (size_t)t.shape[0] : 1;
    ld = t.ndim == 2 ? (size_t)t.stride[0] : cols;
    if (count != rows * cols)
        return saei_fail(dict->ctx, SAE_ERR_MISMATCH,
                         "sae_dictionary_set_tensor: count is %zu, %s has %zu numbers", count, name,
                         rows * cols);
    if (t.dtype != SAE_F32) return saei_dictionary_set_k(dict, *values);
    saei_prepared_drop(dict);
    to = (float *)(uintptr_t)t.data; /* dict's own */
    for (size_t r = 0; r < rows; r++) memcpy(to + r * ld, values + r * cols, cols * sizeof *to);
    if (to == dict->W_dec) saei_gate_update(dict);
    return SAE_OK;
}

SAE_API sae_result sae_dictionary_copy(const sae_dictionary *dict, sae_dictionary **out) {
    if (!dict) return SAE_ERR_INVALID;
    if (!out) return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_copy: out is NULL");
    return saei_dictionary_copy(dict, "sae_dictionary_copy", out);
}

SAE_API sae_result sae_dictionary_memory(const sae_dictionary_desc *desc, size_t *bytes) {
    size_t count;
    if (!desc || !bytes) return SAE_ERR_INVALID;
    SAEI_TRY(saei_dictionary_check(NULL, "sae_dictionary_memory", desc));
    count = saei_param_count(desc);
    if (count == SIZE_MAX) return SAE_ERR_INVALID;
    *bytes = SAEI_ALLOC_EXTRA + sizeof(sae_dictionary);
    if (count) *bytes += SAEI_ALLOC_EXTRA + count * sizeof(float);
    return SAE_OK;
}
