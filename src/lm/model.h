#pragma once
#include "weights.h"

/* ==== >>lm: model: open and submodules ======================================================== */

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
    c.ctx = m->ctx;
    c.path = path;
    if (!lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: %s is not there; a model is a "
                                  "folder with config.json, model.safetensors, tokenizer.json",
                                  path);
    else result = sae_json_open(m->ctx, path, &root);
    c.root = root;
    if (result == SAE_OK) result = lmi_config_read(m, &c);
    sae_json_close(root);
    free(path);
    LMI_TRY(result);
    LMI_TRY(lmi_files_open(m));
    return lmi_read_weights(m);
}

SAE_API sae_result sae_lm_open(sae_context *ctx, const char *folder, sae_lm **out) {
    sae_lm *m;
    sae_result result;
    if (!ctx || !folder || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_open: folder and out may not be NULL");
    m = (sae_lm *)calloc(1, sizeof *m);
    if (!m) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    m->ctx = ctx;
    m->kernels = lmi_kernels_select();
    result = lmi_open(m, folder);
    if (result == SAE_OK) *out = m;
    else sae_lm_close(m);
    return result;
}

SAE_API void sae_lm_close(sae_lm *m) {
    if (!m) return;
    for (size_t i = 0; m->layer && i < m->info.layers; i++) {
        lmi_layer *l = &m->layer[i];
        for (size_t j = 0; j < 4; j++) free(l->norm[j / 2][j % 2]);
        sae_linear_destroy(l->qkv);
        sae_linear_destroy(l->dense);
        sae_linear_destroy(l->up);
        sae_linear_destroy(l->down);
    }
    for (size_t i = 0; i < m->num_files; i++) {
        sae_tensor_file_close(m->file[i]);
        free(m->file_name[i]);
    }
    sae_linear_destroy(m->unembed);
    free(m->norm[0]);
    free(m->norm[1]);
    free(m->layer);
    free(m->folder);
    free(m->memory);
    free(m->rope);
    free(m);
}

SAE_API sae_lm_config sae_lm_config_of(const sae_lm *model) { return model->info; }

/* Submodules of a layer behind "gpt_neox.layers.N". */
static const struct {
    const char *name;
    sae_lm_module module;
} lmi_submodules[] = {
    { "", SAE_LM_LAYER }, { ".attention", SAE_LM_ATTENTION },
    { ".attention.dense", SAE_LM_ATTENTION_DENSE }, { ".mlp", SAE_LM_MLP },
    { ".mlp.dense_h_to_4h", SAE_LM_MLP_UP }, { ".mlp.dense_4h_to_h", SAE_LM_MLP_DOWN }
};
enum { LMI_NUM_SUBMODULES = sizeof lmi_submodules / sizeof lmi_submodules[0] };

static bool lmi_site_of(const sae_lm *m, const char *name, sae_lm_site *site) {
    static const char layers[] = "gpt_neox.layers.";
    size_t n = sizeof layers - 1, layer = 0, digits = 0;
    site->layer = 0;
    if (strcmp(name, "gpt_neox.embed_in") == 0) site->module = SAE_LM_EMBED_IN;
    else if (strcmp(name, "gpt_neox.final_layer_norm") == 0) site->module = SAE_LM_FINAL_NORM;
    else {
        if (strncmp(name, layers, n) != 0) return false;
        for (name += n; *name >= '0' && *name <= '9' && digits < 6; name++, digits++)
            layer = layer * 10 + (size_t)(*name - '0');
        if (!digits || layer >= m->info.layers) return false;
        site->layer = layer;
        for (n = 0; n < LMI_NUM_SUBMODULES; n++)
            if (strcmp(name, lmi_submodules[n].name) == 0) break;
        if (n == LMI_NUM_SUBMODULES) return false;
        site->module = lmi_submodules[n].module;
    }
    return true;
}

SAE_API sae_result sae_lm_site_find(const sae_lm *m, const char *submodule, bool input,
                                    sae_lm_site *out) {
    sae_lm_site site;
    if (!m) return SAE_ERR_INVALID;
    if (!submodule || !out)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: submodule and out may not be NULL");
    if (!lmi_site_of(m, submodule, &site))
        return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                        "sae_lm_site_find: there is no submodule %s; there are gpt_neox.embed_in, "
                        "gpt_neox.layers.N, gpt_neox.layers.N.attention, "
                        "gpt_neox.layers.N.attention.dense, gpt_neox.layers.N.mlp, "
                        "gpt_neox.layers.N.mlp.dense_h_to_4h, gpt_neox.layers.N.mlp.dense_4h_to_h "
                        "with N from 0 to %zu, and gpt_neox.final_layer_norm", submodule,
                        m->info.layers - 1);
    site.input = input;
    if (input && site.module == SAE_LM_EMBED_IN)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: the input of gpt_neox.embed_in is "
                                "tokens; allowed is its output");
    *out = site;
    return SAE_OK;
}

SAE_API size_t sae_lm_site_dim(const sae_lm *model, sae_lm_site site) {
    bool neurons = site.module == (site.input ? SAE_LM_MLP_DOWN : SAE_LM_MLP_UP);
    return neurons ? model->info.mlp_dim : model->info.dim;
}
