#pragma once
#include "dictionary_learning.h"
#include "save.h"
#ifndef SAE_NO_FORMATS
#include "dictionary_learning_write.h"
#include "sparsify.h"
#include "gemma_scope.h"
#include "llamascopium.h"
#include "others.h"
#include "circuit_tracer.h"
#include "crosscoders.h"
#include "clt.h"
#else
typedef struct saei_export saei_export; /* there is none */
#endif

/* ==== >>files: every format =================================================================== */

/* In a folder a format is known by its file; a file that lies alone is known by its name. Where
   several formats have such a file, or none, probe tells. */
typedef struct saei_format {
    sae_format format;
    const char *files[4]; /* the first that the folder has */
    const char *config;   /* beside the file, or beside its folder `checkpoints`; may be NULL */
    bool (*probe)(const saei_load *load);
    sae_result (*read)(saei_load *load, sae_dictionary **out);
    /* fit brings the copy in e->dict into the form that the format can say, or refuses it before
       anything is written; write writes the folder. NULL: the format is only read. */
    sae_result (*fit)(saei_export *e);
    sae_result (*write)(saei_export *e);
} saei_format;

#ifdef SAE_NO_FORMATS
/* Another program's config: its numbers may mean something else, though tensors have our names. */
static bool saei_other_probe(const saei_load *load) {
    return load->yaml.data
           || (load->root && !sae_json_get(load->root, "trainer")
               && !sae_json_get(load->root, "dict_class")
               && !sae_json_get(load->root, "trainer_class"));
}

static sae_result saei_other_read(saei_load *load, sae_dictionary **out) {
    (void)out;
    return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "a dictionary of another program; "
                          SAEI_OTHER_BUILD);
}
#endif

/* Probed in this order. dictionary_learning comes last: its names of tensors are everybody's. */
static const saei_format saei_formats[] = {
#ifdef SAE_NO_FORMATS
    { SAE_FORMAT_SAE_LENS, { "sae_weights.safetensors", "sae_weights.pt" }, "cfg.json",
      saei_other_probe, saei_other_read, NULL, NULL },
    { SAE_FORMAT_SPARSIFY, { "sae.safetensors", "cc_weights.pt" }, "cfg.json",
      saei_other_probe, saei_other_read, NULL, NULL },
    { SAE_FORMAT_GEMMA_SCOPE, { "params.npz", "params.safetensors" }, "config.json",
      saei_other_probe, saei_other_read, NULL, NULL },
    { SAE_FORMAT_LLAMA_SCOPE, { "checkpoints/final.safetensors", "checkpoints/final.pt" },
      "hyperparams.json", saei_other_probe, saei_other_read, NULL, NULL },
    { SAE_FORMAT_CIRCUIT_TRACER, { NULL }, "config.yaml",
      saei_other_probe, saei_other_read, NULL, NULL },
    { SAE_FORMAT_DICTIONARY_LEARNING, { "ae.safetensors", "ae.pt" }, "config.json",
      saei_dl_probe, saei_dl_read, NULL, NULL }
#else
    { SAE_FORMAT_SAE_LENS, { "sae_weights.safetensors" }, "cfg.json",
      saei_lens_probe, saei_lens_read, saei_export_lens_fit, saei_export_lens },
    { SAE_FORMAT_SPARSIFY, { "sae.safetensors" }, "cfg.json",
      saei_sparsify_probe, saei_sparsify_read, saei_export_sparsify_fit, saei_export_sparsify },
    { SAE_FORMAT_GEMMA_SCOPE, { "params.npz" }, NULL,
      saei_gemma_probe, saei_gemma_read, NULL, NULL },
    { SAE_FORMAT_GEMMA_SCOPE_2, { "params.safetensors" }, "config.json",
      saei_gemma_2_probe, saei_gemma_2_read, NULL, NULL },
    { SAE_FORMAT_LLAMA_SCOPE, { "checkpoints/final.safetensors" }, "hyperparams.json",
      saei_llama_probe, saei_llama_read, NULL, NULL },
    { SAE_FORMAT_LLAMASCOPIUM,
      { "sae_weights.safetensors", "sae_weights.pt", "checkpoints/final.safetensors",
        "checkpoints/final.pt" }, "config.json",
      saei_scopium_probe, saei_scopium_read, NULL, NULL },
    { SAE_FORMAT_SCIENCE_OF_FINETUNING,
      { "model.safetensors", "model.pt", "ae.pt", "ae.safetensors" }, "config.json",
      saei_finetuning_probe, saei_finetuning_read, NULL, NULL },
    { SAE_FORMAT_CKKISSANE, { "cc_weights.pt" }, "cfg.json",
      saei_ckkissane_probe, saei_ckkissane_read, NULL, NULL },
    { SAE_FORMAT_OPENAI, { "autoencoder.pt" }, NULL,
      saei_openai_probe, saei_openai_read, NULL, NULL },
    { SAE_FORMAT_CIRCUIT_TRACER, { NULL }, "config.yaml",
      saei_tracer_probe, saei_tracer_read, NULL, NULL },
    { SAE_FORMAT_QWEN_SCOPE, { NULL }, "config.json",
      saei_qwen_probe, saei_qwen_read, NULL, NULL },
    { SAE_FORMAT_GOODFIRE, { NULL }, NULL,
      saei_goodfire_probe, saei_goodfire_read, NULL, NULL },
    { SAE_FORMAT_ATTENTION_OUT, { NULL }, "*_cfg.json",
      saei_attention_probe, saei_attention_read, NULL, NULL },
    { SAE_FORMAT_DICTIONARY_LEARNING, { "ae.pt", "ae.safetensors" }, "config.json",
      saei_dl_probe, saei_dl_read, saei_export_dl_fit, saei_export_dl }
#endif
};
enum { SAEI_NUM_READERS = sizeof saei_formats / sizeof saei_formats[0] };

/* At which place a format has a file of that name, or (path) one that path ends in; 4: nowhere. */
static size_t saei_format_place(const saei_format *format, const char *file, bool path) {
    size_t i = 0;
    if (path) file = saei_path_base(file);
    while (i < 4 && format->files[i] && strcmp(file, format->files[i]) != 0) i++;
    return i < 4 && format->files[i] ? i : 4;
}

/* ---- a folder that holds no dictionary ---- */

/* Dictionaries under a folder, for a message. left: files that are still looked for, so that a
   large tree costs little. */
typedef struct saei_below {
    const saei_load *load;
    char list[SAEI_NAMES];
    size_t left;
} saei_below;

static bool saei_below_is_file(saei_below *below, const char *folder, const char *name) {
    char *path = below->left ? saei_path_join(below->load->ctx, folder, name) : NULL;
    saei_path_kind kind = SAEI_PATH_NONE;
    if (below->left) below->left--;
    if (path && saei_path_find(below->load->ctx, below->load->who, path, &kind) != SAE_OK)
        kind = SAEI_PATH_NONE;
    saei_free(below->load->ctx, path);
    return kind == SAEI_PATH_FILE;
}

/* Lists the folders, `depth` levels under folder, that have a file by which a format is known;
   shown: how the message calls folder. */
static void saei_below_add(saei_below *below, const char *folder, const char *shown, size_t depth) {
    const sae_context *ctx = below->load->ctx;
    saei_names names;
    if (saei_names_of(ctx, below->load->who, folder, &names) != SAE_OK) return;
    for (size_t i = 0; i < names.count && below->left; i++) {
        const char *name = (const char *)names.names[i];
        char *path = saei_path_join(ctx, folder, name);
        char *to = *shown ? saei_path_join(ctx, shown, name) : saei_strdup(ctx, name);
        saei_path_kind kind = SAEI_PATH_NONE;
        bool found = false;
        below->left--;
        if (path && to && saei_path_find(ctx, below->load->who, path, &kind) == SAE_OK
            && kind == SAEI_PATH_FOLDER) {
            for (size_t r = 0; r < SAEI_NUM_READERS && !found && depth == 1; r++)
                for (size_t k = 0; k < 4 && saei_formats[r].files[k] && !found; k++)
                    found = saei_below_is_file(below, path, saei_formats[r].files[k]);
            if (found) saei_list_name(below->list, to);
            if (depth > 1) saei_below_add(below, path, to, depth - 1);
        }
        saei_free(ctx, path);
        saei_free(ctx, to);
    }
    saei_names_free(ctx, &names);
}

/* Files of weights in the folder itself: those of several layers may lie side by side. How many;
   *only becomes the path of one that lies alone, in fresh memory. */
static size_t saei_below_files(saei_below *below, char **only) {
    static const char *const endings[] = { ".pt", ".pth", ".safetensors", ".npz" };
    const sae_context *ctx = below->load->ctx;
    saei_names names;
    size_t count = 0;
    if (saei_names_of(ctx, below->load->who, below->load->path, &names) != SAE_OK) return 0;
    for (size_t i = 0; i < names.count; i++)
        for (size_t e = 0; e < 4; e++) {
            const char *name = (const char *)names.names[i];
            if (!saei_ends_with(name, endings[e])) continue;
            saei_list_name(below->list, name);
            saei_free(ctx, *only);
            *only = count++ ? NULL : saei_path_join(ctx, below->load->path, name);
        }
    saei_names_free(ctx, &names);
    return count;
}

/* Why load->path, a folder, is no dictionary; files: the names it could have. */
static sae_result saei_load_nothing(saei_load *load, const char *files) {
    static const char *const configs[] = { "cfg.json", "config.json", "hyperparams.json" };
    saei_below below;
    char *only = NULL;
    memset(&below, 0, sizeof below);
    below.load = load;
#ifndef SAE_NO_FORMATS
    if (sae_clt_recognize(load->ctx, load->path))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "a cross-layer transcoder or a set of "
                              "transcoders, which sae_clt_open opens");
#endif
    below.left = 5000;
    if (saei_below_files(&below, &only) == 1 && only) { /* its name need not be known */
        saei_free(load->ctx, load->file);
        load->file = only;
        return SAE_OK;
    }
    if (*below.list)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder has no file that says which it "
                              "is, but %s: name one", below.list);
    for (size_t depth = 1; depth <= 4 && !*below.list; depth++)
        saei_below_add(&below, load->path, "", depth);
    if (*below.list)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder holds the dictionaries %s: name "
                              "one", below.list);
    below.left = 10;
    for (size_t i = 0; i < 3; i++)
        if (saei_below_is_file(&below, load->path, configs[i]))
            return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder has %s, but no weights: "
                                  "none of %s", configs[i], files);
    return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder has none of %s", files);
}

/* Sets load->file; *name becomes the file's name in a folder, NULL for a path of a file. */
static sae_result saei_load_locate(saei_load *load, const char **name) {
    saei_path_kind kind = SAEI_PATH_FILE, inside;
    char files[SAEI_NAMES] = "";
    *name = NULL;
    if (!load->data)
        SAEI_TRY(saei_path_find(load->ctx, load->who, load->path, &kind));
    if (kind == SAEI_PATH_FILE) {
        const char *path = load->data ? load->desc.name : load->path;
        load->file = saei_strdup(load->ctx, path ? path : "");
        return load->file ? SAE_OK : saei_load_no_memory(load);
    }
    for (size_t r = 0; r < SAEI_NUM_READERS; r++)
        for (size_t i = 0; i < 4 && saei_formats[r].files[i]; i++) {
            *name = saei_formats[r].files[i];
            saei_free(load->ctx, load->file);
            load->file = saei_path_join(load->ctx, load->path, *name);
            if (!load->file) return saei_load_no_memory(load);
            SAEI_TRY(saei_path_find(load->ctx, load->who, load->file, &inside));
            if (inside == SAEI_PATH_FILE) return SAE_OK;
            if (!strstr(files, *name)) saei_list_name(files, *name);
        }
    if (kind == SAEI_PATH_NONE)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no such file or folder");
    *name = NULL;
    return saei_load_nothing(load, files);
}

static sae_result saei_load_open(saei_load *load) {
    saei_map map;
    memset(&map, 0, sizeof map);
    map.data = (const unsigned char *)load->data;
    map.size = load->size;
    if (load->data)
        SAEI_TRY(saei_tensor_file_open_map(load->ctx, load->who, load->path, &map,
                                           &load->tensors));
    else SAEI_TRY(saei_tensor_file_open_path(load->ctx, load->who, load->file, &load->tensors));
    load->prefix = saei_load_prefix(load->tensors);
    return SAE_OK;
}

/* The format of a file that is open: by its name if one format alone has such a name, else the
   first of those that have it, or of all, that knows its tensors; else that which has the name at
   the foremost place. */
static sae_result saei_load_format(saei_load *load, const char *name, const saei_format **out) {
    const char *file = name ? name : load->file;
    const saei_format *named = NULL;
    size_t count = 0, foremost = 4, place;
    for (size_t r = 0; r < SAEI_NUM_READERS; r++) {
        place = saei_format_place(&saei_formats[r], file, !name);
        count += place < 4;
        if (place < foremost) named = &saei_formats[r];
        foremost = saei_min(foremost, place);
    }
    *out = named;
    for (size_t r = 0; r < SAEI_NUM_READERS && count != 1; r++) {
        if (count && saei_format_place(&saei_formats[r], file, !name) == 4) continue;
        if (saei_formats[r].config) SAEI_TRY(saei_load_config(load, saei_formats[r].config));
        if (!saei_formats[r].probe(load)) continue;
        *out = &saei_formats[r];
        return SAE_OK;
    }
    return SAE_OK;
}

/* sae_load_desc.input_scale. */
static sae_result saei_load_scale(const saei_load *load, sae_dictionary *dict) {
    const sae_dictionary_desc *h = &dict->desc;
    const double s = load->desc.input_scale;
    bool fits = dict->W_enc != dict->W_dec && !h->input_norm && !h->normalizer && !h->skip
                && h->output_dim == h->activation_dim;
    if (!(s > 0) || !(s <= FLT_MAX) || !((float)s > 0))
        return saei_load_fail(load, SAE_ERR_INVALID, "sae_load_desc.input_scale is %g, allowed are "
                              "finite numbers above 0", s);
    if (!fits)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "sae_load_desc.input_scale is set: it can "
                              "be folded into dictionaries with an encoder of their own, an input "
                              "as it is, an output as wide, and no skip");
    saei_fold_scale(dict, (float)s, (float)s);
    return SAE_OK;
}

static sae_result saei_load_run(saei_load *load, sae_dictionary **out) {
    const saei_format *format = NULL;
    char names[SAEI_NAMES] = "";
    sae_dictionary *dict = NULL;
    const char *name;
    SAEI_TRY(saei_load_locate(load, &name));
    SAEI_TRY(saei_load_open(load));
    SAEI_TRY(saei_load_format(load, name, &format));
    if (!format) {
        for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++)
            saei_list_name(names, sae_tensor_file_get(load->tensors, i)->name);
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "it is no dictionary: it holds %s",
                              *names ? names : "no tensors");
    }
    if (format->config) SAEI_TRY(saei_load_config(load, format->config));
    SAEI_TRY(format->read(load, &dict));
    dict->origin.format = format->format;
    if (load->desc.input_scale != 0) {
        sae_result result = saei_load_scale(load, dict);
        if (result != SAE_OK) {
            sae_dictionary_destroy(dict);
            return result;
        }
    }
    *out = dict;
    return SAE_OK;
}

static sae_result saei_load_all(sae_context *ctx, const char *who, const sae_load_desc *desc,
                                const char *path, const void *data, size_t size,
                                sae_dictionary **out) {
    saei_load load;
    sae_result result;
    memset(&load, 0, sizeof load);
    load.ctx = ctx;
    load.who = who;
    load.path = path;
    load.data = data;
    load.size = size;
    load.prefix = "";
    if (desc) load.desc = *desc;
    result = saei_load_run(&load, out);
    sae_tensor_file_close(load.tensors);
    saei_config_close(&load);
    saei_free(ctx, load.file);
    return result;
}

SAE_API sae_result sae_dictionary_load(sae_context *ctx, const sae_load_desc *desc,
                                       const char *path, sae_dictionary **out) {
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_dictionary_load: ctx, path or out is NULL");
    return saei_load_all(ctx, "sae_dictionary_load", desc, path, NULL, 0, out);
}

SAE_API sae_result sae_dictionary_load_memory(sae_context *ctx, const sae_load_desc *desc,
                                              const void *data, size_t size, sae_dictionary **out) {
    if (!ctx || !data || !out)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_dictionary_load_memory: ctx, data or out is NULL");
    return saei_load_all(ctx, "sae_dictionary_load_memory", desc,
                         desc && desc->name ? desc->name : "memory", data, size, out);
}
