#pragma once
#include "gguf.h"

/* ==== >>lm: model ============================================================================= */

static sae_result lmi_open(sae_lm *m, const char *folder) {
    lmi_config c;
    char *path;
    sae_json *root = NULL;
    sae_result result;
    m->folder = lmi_join(folder, "");
    path = lmi_join(folder, "config.json");
    if (!m->folder || !path) {
        free(path);
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    }
    if (strlen(m->folder) > 1) m->folder[strlen(m->folder) - 1] = 0; /* the slash */
    memset(&c, 0, sizeof c);
    c.ctx = m->ctx;
    c.path = path;
    if (!lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: %s is not there; a model is a "
                                  "folder with config.json, model.safetensors, tokenizer.json",
                                  path);
    else result = sae_json_open(m->ctx, path, &root);
    c.root = root;
    if (result == SAE_OK) result = lmi_config_read(&c, &m->shape);
    sae_json_close(root);
    free(path);
    LMI_TRY(result);
    LMI_TRY(lmi_files_open(m));
    return lmi_read_weights(m);
}

SAE_API sae_result sae_lm_open(sae_context *ctx, const char *path, sae_lm **out) {
    sae_lm *m;
    sae_result result;
    if (!ctx || !path || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_open: path and out may not be NULL");
    m = (sae_lm *)calloc(1, sizeof *m);
    if (!m) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    m->ctx = ctx;
    m->kernels = lmi_kernels_select();
    result = lmi_names_gguf(path) ? lmi_gguf_open(m, path) : lmi_open(m, path);
    if (result == SAE_OK) *out = m;
    else sae_lm_close(m);
    return result;
}

SAE_API void sae_lm_close(sae_lm *m) {
    if (!m) return;
    for (size_t i = 0; m->layer && i < m->shape.info.layers; i++)
        lmi_free_layer(&m->layer[i], m->shape.layer[i].experts ? m->shape.info.experts : 1);
    for (size_t i = 0; i < m->num_files; i++) {
        sae_tensor_file_close(m->file[i]);
        free(m->file_name[i]);
    }
    sae_linear_destroy(m->unembed);
    free(m->norm.weight);
    free(m->norm.bias);
    free(m->ones);
    free(m->layer);
    free(m->shape.layer);
    free(m->shape.rope[0].divisors);
    free(m->folder);
    free(m->memory);
    free(m->angles[0]);
    free(m->angles[1]);
    free(m);
}

SAE_API sae_lm_config sae_lm_config_of(const sae_lm *model) { return model->shape.info; }
