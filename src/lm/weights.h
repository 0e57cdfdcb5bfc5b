#pragma once
#include "config.h"

/* ==== >>lm: weights =========================================================================== */

static sae_result lmi_no_memory(const sae_lm *m) {
    return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory for %s",
                            m->folder);
}

/* Opens folder/name, once. why: the tensor that is said to be in there, or NULL. */
static sae_result lmi_file_open(sae_lm *m, const char *name, const char *why) {
    char *path;
    sae_result result;
    for (size_t i = 0; i < m->num_files; i++)
        if (strcmp(m->file_name[i], name) == 0) return SAE_OK;
    if (strchr(name, '/') || strchr(name, '\\') || !name[0])
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: model.safetensors.index.json names "
                                "the file %s, allowed are names in the folder",
                                name);
    if (m->num_files == LMI_MAX_SHARDS)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s has more than %d shards", m->folder,
                                (int)LMI_MAX_SHARDS);
    path = lmi_join(m->folder, name);
    m->file_name[m->num_files] = (char *)malloc(strlen(name) + 1);
    if (!path || !m->file_name[m->num_files]) {
        free(path);
        free(m->file_name[m->num_files]);
        return lmi_no_memory(m);
    }
    strcpy(m->file_name[m->num_files], name);
    if (why && !lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: the shard %s is missing; "
                                  "model.safetensors.index.json has %s in it",
                                  path, why);
    else result = sae_tensor_file_open(m->ctx, path, &m->file[m->num_files]);
    free(path);
    if (result == SAE_OK) m->num_files++;
    else free(m->file_name[m->num_files]);
    return result;
}

static sae_result lmi_shards_open(sae_lm *m, const char *path) {
    sae_json *root;
    const sae_json *map, *entry;
    sae_result result = SAE_OK;
    LMI_TRY(sae_json_open(m->ctx, path, &root));
    map = sae_json_get(root, "weight_map");
    if (sae_json_kind_of(map) != SAE_JSON_OBJECT)
        result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                  "sae_lm_open: %s: weight_map is missing", path);
    for (entry = sae_json_first(map); entry && result == SAE_OK; entry = sae_json_next(entry)) {
        const char *name = sae_json_text(entry);
        if (!name)
            result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                      "sae_lm_open: %s: the file of %s is no text", path,
                                      sae_json_key(entry));
        else result = lmi_file_open(m, name, sae_json_key(entry));
    }
    sae_json_close(root);
    return result;
}

/* One file, else shards, else what PyTorch wrote before there was the other. */
static sae_result lmi_files_open(sae_lm *m) {
    static const char *const single[] = { "model.safetensors", "pytorch_model.bin" };
    char *path;
    bool there;
    for (size_t i = 0; i < 2; i++) {
        sae_result result;
        path = lmi_join(m->folder, single[i]);
        if (!path) return lmi_no_memory(m);
        there = lmi_is_file(path);
        free(path);
        if (there) return lmi_file_open(m, single[i], NULL);
        if (i) break;
        path = lmi_join(m->folder, "model.safetensors.index.json");
        if (!path) return lmi_no_memory(m);
        there = lmi_is_file(path);
        result = there ? lmi_shards_open(m, path) : SAE_OK;
        free(path);
        if (there) return result;
    }
    return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                            "sae_lm_open: %s holds no model.safetensors and no "
                            "model.safetensors.index.json",
                            m->folder);
}

static const sae_tensor *lmi_tensor(const sae_lm *m, const char *name) {
    const sae_tensor *t = NULL;
    for (size_t i = 0; i < m->num_files && !t; i++) t = sae_tensor_file_find(m->file[i], name);
    return t;
}

/* The tensor of that name, [rows,columns], or [columns] where rows is 0. */
static sae_result lmi_find(const sae_lm *m, const char *name, size_t rows, size_t columns,
                           const sae_tensor **out) {
    const sae_tensor *t = lmi_tensor(m, name);
    char shape[21 * SAE_MAX_DIMS + 1] = "";
    size_t n = 0, dims = rows ? 2 : 1;
    if (!t)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s has no tensor %s",
                                m->folder, name);
    for (size_t i = 0; i < t->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? "," : "",
                              (unsigned long long)t->shape[i]);
    if (t->ndim != dims || t->shape[dims - 1] != columns || (rows && t->shape[0] != rows)) {
        char want[64];
        if (rows) snprintf(want, sizeof want, "%zu,%zu", rows, columns);
        else snprintf(want, sizeof want, "%zu", columns);
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: %s: %s is [%s], by config.json it is "
                                "[%s]",
                                m->folder, name, shape, want);
    }
    if (t->dtype != SAE_F32 && t->dtype != SAE_F16 && t->dtype != SAE_BF16 && t->dtype != SAE_F64)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s: %s is %s, supported are "
                                "F32, F16, BF16, F64",
                                m->folder, name, sae_dtype_name(t->dtype));
    *out = t;
    return SAE_OK;
}

/* Fresh memory (free) with the tensor's numbers. */
static sae_result lmi_read(const sae_lm *m, const char *name, size_t rows, size_t columns,
                           float **out) {
    const sae_tensor *t;
    size_t count;
    float *data = NULL;
    LMI_TRY(lmi_find(m, name, rows, columns, &t));
    if (lmi_mul(rows ? rows : 1, columns, &count) && count <= SIZE_MAX / sizeof *data)
        data = (float *)malloc(count * sizeof *data);
    if (!data) return lmi_no_memory(m);
    sae_tensor_to_f32(t, data);
    *out = data;
    return SAE_OK;
}

/* NAME.weight [outputs,inputs] and, if biased, NAME.bias. */
static sae_result lmi_read_linear(const sae_lm *m, const char *name, bool biased,
                                  size_t inputs, size_t outputs, sae_linear **out) {
    char key[160];
    float *weight = NULL, *bias = NULL;
    sae_result result;
    snprintf(key, sizeof key, "%s.weight", name);
    result = lmi_read(m, key, outputs, inputs, &weight);
    snprintf(key, sizeof key, "%s.bias", name);
    if (result == SAE_OK && biased) result = lmi_read(m, key, 0, outputs, &bias);
    if (result == SAE_OK) result = sae_linear_create(m->ctx, weight, bias, inputs, outputs, out);
    free(weight);
    free(bias);
    return result;
}

static sae_result lmi_read_norm(const sae_lm *m, const char *name, float *out[2]) {
    char key[160];
    snprintf(key, sizeof key, "%s.weight", name);
    LMI_TRY(lmi_read(m, key, 0, m->info.dim, &out[0]));
    snprintf(key, sizeof key, "%s.bias", name);
    return lmi_read(m, key, 0, m->info.dim, &out[1]);
}

static sae_result lmi_read_layer(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    size_t d = m->info.dim, wide = m->info.mlp_dim;
    char name[128], *end;
    end = name + snprintf(name, 64, "gpt_neox.layers.%zu.", i);
    strcpy(end, "input_layernorm");
    LMI_TRY(lmi_read_norm(m, name, l->norm[0]));
    strcpy(end, "post_attention_layernorm");
    LMI_TRY(lmi_read_norm(m, name, l->norm[1]));
    strcpy(end, "attention.query_key_value");
    LMI_TRY(lmi_read_linear(m, name, m->attention_bias, d, 3 * d, &l->qkv));
    strcpy(end, "attention.dense");
    LMI_TRY(lmi_read_linear(m, name, m->attention_bias, d, d, &l->dense));
    strcpy(end, "mlp.dense_h_to_4h");
    LMI_TRY(lmi_read_linear(m, name, true, d, wide, &l->up));
    strcpy(end, "mlp.dense_4h_to_h");
    return lmi_read_linear(m, name, true, wide, d, &l->down);
}

static sae_result lmi_read_weights(sae_lm *m) {
    static const char embed_in[] = "gpt_neox.embed_in.weight";
    const char *unembed = "embed_out.weight";
    float *weight;
    sae_result result;
    LMI_TRY(lmi_find(m, embed_in, m->info.vocab_size, m->info.dim, &m->embed));
    m->info.dtype = m->embed->dtype;
    m->layer = (lmi_layer *)calloc(m->info.layers, sizeof *m->layer);
    if (!m->layer) return lmi_no_memory(m);
    for (size_t i = 0; i < m->info.layers; i++) LMI_TRY(lmi_read_layer(m, i));
    LMI_TRY(lmi_read_norm(m, "gpt_neox.final_layer_norm", m->norm));
    if (!lmi_tensor(m, unembed)) unembed = "lm_head.weight";
    if (m->info.tied) unembed = embed_in;
    LMI_TRY(lmi_read(m, unembed, m->info.vocab_size, m->info.dim, &weight));
    result = sae_linear_create(m->ctx, weight, NULL, m->info.dim, m->info.vocab_size, &m->unembed);
    free(weight);
    return result;
}
