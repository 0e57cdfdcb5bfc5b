#pragma once
#include "clt_training.h"

/* ==== >>files: every format of cross-layer transcoders ======================================== */

/* A folder is the first format that probe says yes to, by its names and its config. */
typedef struct saei_clt_format {
    sae_format format;
    const char *config;
    const char *file; /* that such a folder has; NULL: probe alone tells */
    sae_result (*probe)(saei_load *load, bool *yes);
    sae_result (*read)(saei_clt_draft *draft);
} saei_clt_format;

static sae_result saei_clt_probe_file(saei_load *load, bool *yes) {
    (void)load;
    *yes = true;
    return SAE_OK;
}

static sae_result saei_clt_probe_scopium(saei_load *load, bool *yes) {
    const char *type = saei_config_text(load->root, "sae_type");
    *yes = type && strcmp(type, "clt") == 0;
    return SAE_OK;
}

static bool saei_config_true(const sae_json *object, const char *key) {
    const sae_json *v = sae_json_get(object, key);
    return v && v->type == SAE_JSON_BOOL && v->number != 0;
}

/* A folder of clt-training's folders; or one of them that no sparsify's reader can say: with a
   post-encoder that is not 0, or batch top-k. */
static sae_result saei_clt_probe_training(saei_load *load, bool *yes) {
    const char *activation = saei_config_text(load->root, "activation");
    saei_names names;
    sae_result result;
    *yes = false;
    if (saei_config_value(load->root, "n_targets")) {
        char *path = saei_path_join(load->ctx, load->path, "sae.safetensors");
        sae_tensor_file *file = NULL;
        const sae_tensor *t = NULL;
        *yes = (activation && strcmp(activation, "batchtopk") == 0)
               || saei_config_true(load->root, "post_encoder_scale")
               || saei_config_true(load->root, "normalize_io");
        if (path && !*yes && sae_tensor_file_open(load->ctx, path, &file) == SAE_OK) {
            t = sae_tensor_file_find(file, "post_enc");
            *yes = t && t->ndim == 1 && sae_dtype_block(t->dtype) == 1
                   && sae_dtype_size(t->dtype) && !saei_is_zero(t);
        }
        sae_tensor_file_close(file);
        saei_free(load->ctx, path);
        return SAE_OK;
    }
    if (load->root) return SAE_OK;
    result = saei_training_folders(load, &names);
    *yes = result == SAE_OK && names.count > 0;
    saei_names_free(load->ctx, &names);
    return result;
}

static const saei_clt_format saei_clt_formats[] = {
    { SAE_FORMAT_CIRCUIT_TRACER, "config.yaml", "W_enc_0.safetensors", saei_clt_probe_file,
      saei_tracer_clt_read },
    { SAE_FORMAT_CIRCUIT_TRACER, "config.yaml", "layer_0.safetensors", saei_clt_probe_file,
      saei_tracer_set_read },
    { SAE_FORMAT_GEMMA_SCOPE_2, "config.json", "params_layer_0.safetensors", saei_clt_probe_file,
      saei_gemma_clt_read },
    { SAE_FORMAT_CLT_FORGE, "clt_cfg.json", "clt_cfg.json", saei_clt_probe_file, saei_forge_read },
    { SAE_FORMAT_LLAMASCOPIUM, "config.json", "config.json", saei_clt_probe_scopium,
      saei_scopium_clt_read },
    { SAE_FORMAT_CLT_TRAINING, "cfg.json", NULL, saei_clt_probe_training, saei_training_read }
};
enum { SAEI_NUM_CLT_FORMATS = sizeof saei_clt_formats / sizeof saei_clt_formats[0] };

/* The format of load->path, a folder; NULL: none. Its config is open then. load->file is a name in
   the folder, as config files are looked for beside it. */
static sae_result saei_clt_format_of(saei_load *load, const saei_clt_format **out) {
    *out = NULL;
    load->file = saei_path_join(load->ctx, load->path, "x");
    if (!load->file) return saei_load_no_memory(load);
    for (size_t r = 0; r < SAEI_NUM_CLT_FORMATS; r++) {
        const saei_clt_format *format = &saei_clt_formats[r];
        bool there = true, yes = false;
        if (format->file) SAEI_TRY(saei_clt_there(load, format->file, &there));
        if (!there) continue;
        SAEI_TRY(saei_load_config(load, format->config));
        SAEI_TRY(format->probe(load, &yes));
        if (!yes) continue;
        *out = format;
        return SAE_OK;
    }
    return SAE_OK;
}

static saei_load saei_clt_load(sae_context *ctx, const sae_load_desc *desc, const char *path) {
    saei_load load;
    memset(&load, 0, sizeof load);
    load.ctx = ctx;
    load.who = "sae_clt_open";
    load.path = path;
    load.prefix = "";
    if (desc) load.desc = *desc;
    return load;
}

static void saei_clt_load_close(saei_load *load) {
    saei_config_close(load);
    saei_free(load->ctx, load->file);
}

SAE_API bool sae_clt_recognize(sae_context *ctx, const char *path) {
    const saei_clt_format *format = NULL;
    saei_path_kind kind = SAEI_PATH_NONE;
    char error[sizeof ctx->error];
    sae_logger logger;
    saei_load load;
    sae_result result;
    if (!ctx || !path) return false;
    memcpy(error, ctx->error, sizeof error);
    logger = ctx->logger;
    ctx->logger.log = NULL; /* nobody asked for an error */
    load = saei_clt_load(ctx, NULL, path);
    result = saei_path_find(ctx, "sae_clt_recognize", path, &kind);
    if (result == SAE_OK && kind == SAEI_PATH_FOLDER) result = saei_clt_format_of(&load, &format);
    saei_clt_load_close(&load);
    ctx->logger = logger;
    memcpy(ctx->error, error, sizeof error);
    return format != NULL;
}

static sae_result saei_clt_read(saei_load *load, sae_clt *clt) {
    const saei_clt_format *format;
    saei_path_kind kind = SAEI_PATH_NONE;
    saei_clt_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    draft.clt = clt;
    draft.prefix = "";
    SAEI_TRY(saei_path_find(load->ctx, "sae_clt_open", load->path, &kind));
    if (kind != SAEI_PATH_FOLDER)
        return saei_load_fail(load, kind == SAEI_PATH_FILE ? SAE_ERR_UNSUPPORTED
                                                           : SAE_ERR_NOT_FOUND,
                              kind == SAEI_PATH_FILE ? "a file; a cross-layer transcoder, or a "
                                                       "set, is a folder"
                                                     : "there is no such folder");
    SAEI_TRY(saei_clt_format_of(load, &format));
    if (!format)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "the folder holds no cross-layer "
                              "transcoder and no set of transcoders that is known");
    SAEI_TRY(format->read(&draft));
    clt->origin.format = format->format;
    clt->origin.layer = -1;
    clt->origin.dict_size = clt->desc.dict_size;
    clt->origin.k = clt->desc.k;
    return saei_clt_end(&draft);
}

SAE_API sae_result sae_clt_open(sae_context *ctx, const sae_load_desc *desc, const char *path,
                                sae_clt **out) {
    saei_load load;
    sae_clt *clt;
    sae_result result;
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_clt_open: ctx, path or out is NULL");
    clt = (sae_clt *)saei_calloc(ctx, 1, sizeof *clt);
    if (!clt) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_clt_open: no memory for %s", path);
    clt->ctx = ctx;
    clt->arena.ctx = ctx;
    load = saei_clt_load(ctx, desc, path);
    result = saei_clt_read(&load, clt);
    saei_clt_load_close(&load);
    if (result == SAE_OK) *out = clt;
    else sae_clt_close(clt);
    return result;
}
