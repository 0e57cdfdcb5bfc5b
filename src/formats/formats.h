#pragma once
#include "dictionary_learning.h"
#include "sparsify.h"
#include "others.h"

/* ==== >>files: every format =================================================================== */

/* In a folder a format is known by its file; a file that lies alone is known by its name, else by
   probe. */
typedef struct saei_format {
    sae_format format;
    const char *files[2]; /* the first that the folder has */
    const char *config;   /* beside the file, or beside its folder `checkpoints`; may be NULL */
    bool (*probe)(const saei_load *load);
    sae_result (*read)(saei_load *load, sae_dictionary **out);
    /* fit brings the copy in e->dict into the form that the format can say, or refuses it before
       anything is written; write writes the folder. NULL: the format is only read. */
    sae_result (*fit)(saei_export *e);
    sae_result (*write)(saei_export *e);
} saei_format;

/* Probed in this order. dictionary_learning comes last: its names of tensors are everybody's. */
static const saei_format saei_formats[SAEI_NUM_FORMATS] = {
    { SAE_FORMAT_SAE_LENS, { "sae_weights.safetensors", NULL }, "cfg.json",
      saei_lens_probe, saei_lens_read, saei_export_lens_fit, saei_export_lens },
    { SAE_FORMAT_SPARSIFY, { "sae.safetensors", NULL }, "cfg.json",
      saei_sparsify_probe, saei_sparsify_read, saei_export_sparsify_fit, saei_export_sparsify },
    { SAE_FORMAT_GEMMA_SCOPE, { "params.npz", NULL }, NULL,
      saei_gemma_probe, saei_gemma_read, NULL, NULL },
    { SAE_FORMAT_GEMMA_SCOPE_2, { "params.safetensors", NULL }, "config.json",
      saei_gemma_2_probe, saei_gemma_2_read, NULL, NULL },
    { SAE_FORMAT_LLAMA_SCOPE, { "checkpoints/final.safetensors", NULL }, "hyperparams.json",
      saei_llama_probe, saei_llama_read, NULL, NULL },
    { SAE_FORMAT_OPENAI, { "autoencoder.pt", NULL }, NULL,
      saei_openai_probe, saei_openai_read, NULL, NULL },
    { SAE_FORMAT_DICTIONARY_LEARNING, { "ae.pt", "ae.safetensors" }, "config.json",
      saei_dl_probe, saei_dl_read, saei_export_dl_fit, saei_export_dl }
};

/* Sets load->file, and *out where its name or the folder says which format it is. */
static sae_result saei_load_locate(saei_load *load, const saei_format **out) {
    saei_path_kind kind = SAEI_PATH_FILE, inside;
    char files[SAEI_NAMES] = "";
    if (!load->data)
        SAEI_TRY(saei_path_find(load->ctx, "sae_dictionary_load", load->path, &kind));
    if (kind == SAEI_PATH_FILE) {
        const char *name = load->data ? load->desc.name : load->path;
        load->file = saei_strdup(load->ctx, name ? name : "");
        if (!load->file) return saei_load_no_memory(load);
    }
    for (size_t r = 0; r < SAEI_NUM_FORMATS; r++)
        for (size_t i = 0; i < 2 && saei_formats[r].files[i]; i++) {
            const char *name = saei_formats[r].files[i];
            if (kind == SAEI_PATH_FILE) {
                if (strcmp(saei_path_base(load->file), name) == 0) *out = &saei_formats[r];
                continue;
            }
            saei_free(load->ctx, load->file);
            load->file = saei_path_join(load->ctx, load->path, name);
            if (!load->file) return saei_load_no_memory(load);
            *out = &saei_formats[r];
            SAEI_TRY(saei_path_find(load->ctx, "sae_dictionary_load", load->file, &inside));
            if (inside == SAEI_PATH_FILE) return SAE_OK;
            saei_list_name(files, name);
        }
    if (kind == SAEI_PATH_FILE) return SAE_OK;
    if (kind == SAEI_PATH_NONE)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no such file or folder");
    return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder has none of %s", files);
}

static sae_result saei_load_open(saei_load *load) {
    saei_map map;
    if (!load->data) return sae_tensor_file_open(load->ctx, load->file, &load->tensors);
    memset(&map, 0, sizeof map);
    map.data = (const unsigned char *)load->data;
    map.size = load->size;
    return saei_tensor_file_open_map(load->ctx, load->path, &map, &load->tensors);
}

static sae_result saei_load_run(saei_load *load, sae_dictionary **out) {
    const saei_format *format = NULL;
    char names[SAEI_NAMES] = "";
    sae_dictionary *dict = NULL;
    SAEI_TRY(saei_load_locate(load, &format));
    SAEI_TRY(saei_load_open(load));
    for (size_t r = 0; r < SAEI_NUM_FORMATS && !format; r++) {
        if (saei_formats[r].config) SAEI_TRY(saei_load_config(load, saei_formats[r].config));
        if (saei_formats[r].probe(load)) format = &saei_formats[r];
    }
    if (!format) {
        for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++)
            saei_list_name(names, sae_tensor_file_get(load->tensors, i)->name);
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "it is no dictionary: it holds %s",
                              *names ? names : "no tensors");
    }
    if (format->config) SAEI_TRY(saei_load_config(load, format->config));
    SAEI_TRY(format->read(load, &dict));
    dict->origin.format = format->format;
    *out = dict;
    return SAE_OK;
}

static sae_result saei_load_all(sae_context *ctx, const sae_load_desc *desc, const char *path,
                                const void *data, size_t size, sae_dictionary **out) {
    saei_load load;
    sae_result result;
    memset(&load, 0, sizeof load);
    load.ctx = ctx;
    load.path = path;
    load.data = data;
    load.size = size;
    load.prefix = "";
    if (desc) load.desc = *desc;
    result = saei_load_run(&load, out);
    sae_tensor_file_close(load.tensors);
    sae_json_close(load.root);
    saei_free(ctx, load.config_path);
    saei_free(ctx, load.file);
    return result;
}

SAE_API sae_result sae_dictionary_load(sae_context *ctx, const sae_load_desc *desc,
                                       const char *path, sae_dictionary **out) {
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_dictionary_load: ctx, path or out is NULL");
    return saei_load_all(ctx, desc, path, NULL, 0, out);
}

SAE_API sae_result sae_dictionary_load_memory(sae_context *ctx, const sae_load_desc *desc,
                                              const void *data, size_t size, sae_dictionary **out) {
    if (!ctx || !data || !out)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_dictionary_load_memory: ctx, data or out is NULL");
    return saei_load_all(ctx, desc, desc && desc->name ? desc->name : "memory", data, size, out);
}

/* ---- export ---- */

static const saei_format *saei_format_written(sae_format format, char allowed[SAEI_NAMES]) {
    size_t at = 0;
    allowed[0] = 0;
    for (size_t r = 0; r < SAEI_NUM_FORMATS; r++) {
        if (!saei_formats[r].write) continue;
        if (saei_formats[r].format == format) return &saei_formats[r];
        at += (size_t)snprintf(allowed + at, SAEI_NAMES - at, "%s%d (%s)", at ? ", " : "",
                               (int)saei_formats[r].format,
                               sae_format_name(saei_formats[r].format));
    }
    return NULL;
}

SAE_API sae_result sae_dictionary_export(const sae_dictionary *dict, const sae_export_desc *desc,
                                         const char *folder) {
    char allowed[SAEI_NAMES];
    const saei_format *format;
    saei_export e;
    sae_result result;
    if (!dict || !desc || !folder)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_export: dict, desc or folder is NULL");
    format = saei_format_written(desc->format, allowed);
    if (!format)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_export: format is %d, allowed are %s", (int)desc->format,
                         allowed);
    memset(&e, 0, sizeof e);
    e.ctx = dict->ctx;
    e.desc = desc;
    e.folder = folder;
    e.origin = desc->origin ? *desc->origin : dict->origin;
    SAEI_TRY(saei_dictionary_copy(dict, "sae_dictionary_export", &e.dict));
    SAEI_NOTE(&e, SAE_LOG_INFO, "%s -> %s", sae_arch_name(dict->desc.arch),
              sae_format_name(desc->format));
    result = format->fit(&e);
    if (result == SAE_OK && !saei_all_finite(e.dict->params, e.dict->num_params))
        result = saei_fail(e.ctx, SAE_ERR_NOT_FINITE,
                           "sae_dictionary_export: a parameter is NaN or "
                           "infinite, or becomes so when others are moved into it");
    if (result == SAE_OK) result = saei_make_folder(e.ctx, "sae_dictionary_export", folder);
    if (result == SAE_OK) result = format->write(&e);
    sae_dictionary_destroy(e.dict);
    return result;
}
