#pragma once
#include "dictionary_learning.h"
#include "sae_lens.h"

/* ==== >>files: other programs ================================================================= */

/* ---- sparsify ---- */

static bool saei_sparsify_detect(const saei_load *load) {
    return saei_config_value(load->root, "d_in") && !saei_config_value(load->root, "d_sae")
           && saei_load_find(load, "encoder.weight") && saei_load_find(load, "W_dec");
}

/* relu(p), then the k largest or the largest of each of k groups. */
static sae_result saei_sparsify_desc(const saei_load *load, sae_dictionary_desc *desc) {
    const sae_json *activation = saei_config_value(load->root, "activation");
    const char *name = activation && activation->type == SAE_JSON_STRING ? activation->string : "";
    size_t expansion = 32, latents = 0;
    bool was_signed = false;
    desc->arch = SAE_ARCH_TOP_K;
    desc->k = 32;
    SAEI_TRY(saei_config_required(load, "d_in", &desc->activation_dim));
    SAEI_TRY(saei_config_size(load, "expansion_factor", &expansion));
    SAEI_TRY(saei_config_size(load, "num_latents", &latents));
    SAEI_TRY(saei_config_size(load, "k", &desc->k));
    SAEI_TRY(saei_config_bool(load, "skip_connection", &desc->skip));
    SAEI_TRY(saei_config_bool(load, "transcode", &desc->no_b_dec_subtraction));
    SAEI_TRY(saei_config_bool(load, "signed", &was_signed));
    if (!latents && !saei_mul(desc->activation_dim, expansion, &latents)) latents = 0;
    if (!latents || latents > INT32_MAX)
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "num_latents and expansion_factor in cfg.json make "
                              "no number of latents from 1 to %d",
                              INT32_MAX);
    desc->dict_size = latents;
    if (strcmp(name, "groupmax") == 0) desc->activation = SAE_ACTIVATION_GROUP_MAX;
    else if (activation && strcmp(name, "topk") != 0)
        return saei_config_refused(load, "activation", activation, "topk, groupmax");
    if (desc->k < 1 || desc->k > latents)
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "k in cfg.json is %zu, allowed are 1 to the number "
                              "of latents, %zu",
                              desc->k, latents);
    if (desc->activation && latents % desc->k)
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "k in cfg.json is %zu: groupmax needs a divisor of "
                              "the number of latents, %zu",
                              desc->k, latents);
    if (was_signed)
        saei_log(load->ctx, SAE_LOG_WARNING, "sae_dictionary_load: %s: signed is true, which "
                 "sparsify no longer knows: latents are positive, as it takes them today",
                 load->config_path);
    return SAE_OK;
}

static sae_result saei_sparsify_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    sae_dictionary *dict;
    size_t end = saei_folder_length(load->file, strlen(load->file)), begin;
    char hook[96];
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND,
                              "there is no cfg.json beside sae.safetensors");
    load->config = load->root;
    SAEI_TRY(saei_sparsify_desc(load, &draft.desc));
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_dec", SAEI_SLOT_W_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (draft.desc.skip)
        saei_draft_must(&draft, "W_skip", SAEI_SLOT_W_SKIP, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "a SparseCoder");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    while (end > 0 && (saei_is_separator(load->file[end - 1])
                       || (load->file[end - 1] == '.'
                           && (end == 1 || saei_is_separator(load->file[end - 2])))))
        end--; /* the folder's name is the hookpoint */
    begin = saei_folder_length(load->file, end);
    if (end - begin < sizeof hook) {
        snprintf(hook, sizeof hook, "%.*s", (int)(end - begin), load->file + begin);
        saei_origin_text(dict->origin.hook, sizeof dict->origin.hook, hook);
        dict->origin.layer = saei_layer_of(hook);
    }
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name,
                     draft.desc.activation ? "groupmax" : "topk");
    *out = dict;
    return SAE_OK;
}

/* ---- Gemma Scope, Gemma Scope 2, Llama Scope ---- */

static bool saei_gemma_detect(const saei_load *load) {
    return saei_ends_with(load->file, ".npz") && saei_load_find(load, "threshold")
           && (saei_load_find(load, "W_enc") || saei_load_find(load, "w_enc"));
}

static bool saei_gemma_2_detect(const saei_load *load) {
    return saei_load_find(load, "w_enc") && saei_load_find(load, "w_dec")
           && saei_load_find(load, "threshold");
}

/* JumpReLU on x as it is. Both spell W_enc [d,m], W_dec [m,output_dim]. */
static sae_result saei_gemma_draft(saei_draft *draft, const char *as) {
    draft->desc.arch = SAE_ARCH_JUMP_RELU;
    saei_draft_must(draft, "W_enc", SAEI_SLOT_W_ENC_T, "w_enc", SAEI_SLOT_W_ENC_T);
    saei_draft_must(draft, "W_dec", SAEI_SLOT_W_DEC, "w_dec", SAEI_SLOT_W_DEC);
    saei_draft_must(draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "threshold", SAEI_SLOT_AUX0, NULL, SAEI_SLOT_NOTHING);
    draft->desc.skip = saei_draft_may(draft, "affine_skip_connection", SAEI_SLOT_W_SKIP_T) != NULL;
    saei_draft_may(draft, "scaling_factor", SAEI_SLOT_SCALE);
    if (!saei_draft_fits(draft)) return saei_draft_misfit(draft, as);
    return saei_draft_sizes(draft);
}

static sae_result saei_gemma_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_gemma_draft(&draft, "Gemma Scope"));
    SAEI_TRY(saei_lens_scale(&draft, false));
    SAEI_TRY(saei_draft_make(&draft, out));
    saei_origin_text((*out)->origin.class_name, sizeof (*out)->origin.class_name, "jumprelu");
    (*out)->origin.layer = saei_layer_of(load->path);
    return SAE_OK;
}

static sae_result saei_gemma_2_read(saei_load *load, sae_dictionary **out) {
    const char *arch = saei_config_text(load->root, "architecture"), *class_name = "jumprelu";
    const char *type = saei_config_text(load->root, "type");
    const sae_tensor *w_dec = saei_load_find(load, "w_dec");
    char quoted[SAEI_QUOTE];
    bool affine;
    saei_draft draft;
    sae_origin *o;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    load->config = load->root;
    if (w_dec && w_dec->ndim == 3)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "a cross-layer transcoder: w_dec has three "
                              "dimensions");
    if (load->root && (!arch || strcmp(arch, "jump_relu") != 0))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "architecture in config.json is %s, allowed "
                              "is jump_relu",
                              arch ? saei_quote(arch, quoted) : "missing");
    SAEI_TRY(saei_gemma_draft(&draft, "Gemma Scope 2"));
    affine = draft.desc.skip;
    if (load->root) {
        affine = false;
        SAEI_TRY(saei_config_bool(load, "affine_connection", &affine));
    }
    if (affine != draft.desc.skip && (draft.desc.skip || !type || strcmp(type, "sae") != 0))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "affine_connection in config.json is %s, and "
                              "there is %s affine_skip_connection", affine ? "true" : "not true",
                              affine ? "no" : "an");
    SAEI_TRY(saei_lens_scale(&draft, false));
    SAEI_TRY(saei_draft_make(&draft, out));
    o = &(*out)->origin;
    if (type && strcmp(type, "transcoder") == 0) class_name = "jumprelu_transcoder";
    if (draft.desc.skip) class_name = "jumprelu_skip_transcoder";
    saei_origin_text(o->class_name, sizeof o->class_name, class_name);
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, saei_config_text(load->root, "hf_hook_point_in"));
    o->layer = saei_layer_of(o->hook);
    return SAE_OK;
}

typedef struct saei_scale_job {
    sae_dictionary *dict;
    float s;
} saei_scale_job;

static void saei_input_scale_part(void *arg, size_t part) {
    const saei_scale_job *job = (const saei_scale_job *)arg;
    const sae_dictionary *dict = job->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    for (; i < end; i++) {
        float *enc = dict->W_enc + i * dict->ld, *dec = dict->W_dec + i * dict->ld_out;
        kernels->scale(dict->ld, job->s, enc, enc);
        kernels->divide(dict->ld_out, dec, job->s, dec);
    }
}

/* Moves a factor of the input into the weights: what was made for s x takes x. f stays. */
static void saei_fold_input_scale(sae_dictionary *dict, float s) {
    saei_scale_job job = { dict, s };
    saei_each_latent(dict, saei_input_scale_part, &job);
    for (size_t c = 0; c < dict->ld_out; c++) dict->b_dec[c] /= s;
}

static bool saei_llama_detect(const saei_load *load) {
    return saei_config_value(load->root, "jump_relu_threshold")
           && saei_load_find(load, "encoder.weight");
}

/* The weights are for x sqrt(d) / (the dataset's mean norm), which is folded in; the threshold is
   one number for all. */
static sae_result saei_llama_read(saei_load *load, sae_dictionary **out) {
    const sae_json *norm = saei_config_value(load->root, "dataset_average_activation_norm");
    const sae_json *threshold = saei_config_value(load->root, "jump_relu_threshold");
    const char *act = saei_config_text(load->root, "act_fn");
    char quoted[SAEI_QUOTE];
    saei_draft draft;
    sae_dictionary *dict;
    double s;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND,
                              "there is no hyperparams.json beside the folder "
                              "checkpoints");
    load->config = load->root;
    norm = saei_config_value(norm, "in");
    if (act && strcmp(act, "jumprelu") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "act_fn in hyperparams.json is %s, allowed is "
                              "jumprelu",
                              saei_quote(act, quoted));
    if (!threshold || threshold->type != SAE_JSON_NUMBER || !(fabs(threshold->number) <= FLT_MAX))
        return saei_load_fail(load, SAE_ERR_FORMAT, "hyperparams.json has no number "
                              "jump_relu_threshold");
    if (!norm || norm->type != SAE_JSON_NUMBER || !(norm->number > 0)
        || !(norm->number <= FLT_MAX))
        return saei_load_fail(load, SAE_ERR_FORMAT, "hyperparams.json has no number above 0 in "
                              "dataset_average_activation_norm.in");
    SAEI_TRY(saei_config_required(load, "d_model", &draft.desc.activation_dim));
    SAEI_TRY(saei_config_required(load, "d_sae", &draft.desc.dict_size));
    draft.desc.arch = SAE_ARCH_JUMP_RELU;
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.weight", SAEI_SLOT_W_DEC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.bias", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "Llama Scope");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    s = sqrt((double)dict->desc.activation_dim) / norm->number;
    for (size_t i = 0; i < dict->desc.dict_size; i++)
        dict->aux0[i] = (float)(threshold->number * s);
    saei_fold_input_scale(dict, (float)s);
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name, "jumprelu");
    saei_origin_text(dict->origin.hook, sizeof dict->origin.hook,
                     saei_config_text(load->root, "hook_point_in"));
    dict->origin.layer = saei_layer_of(dict->origin.hook);
    *out = dict;
    return SAE_OK;
}

/* ---- openai/sparse_autoencoder ---- */

static bool saei_openai_detect(const saei_load *load) {
    return saei_load_find(load, "pre_bias") && saei_load_find(load, "latent_bias");
}

/* The value of the activation's own state, which the file may hold once or twice. */
static const char *saei_openai_value(const saei_load *load, const char *key) {
    char name[64];
    const char *text;
    snprintf(name, sizeof name, "activation_state_dict.%s", key);
    text = saei_tensor_file_scalar(load->tensors, name);
    if (text) return text;
    snprintf(name, sizeof name, "activation.%s", key);
    return saei_tensor_file_scalar(load->tensors, name);
}

/* The class normalises its input exactly where the activation is TopK, which takes the k largest p
   before its own activation. */
static sae_result saei_openai_desc(saei_draft *draft, const char **name) {
    const saei_load *load = draft->load;
    sae_dictionary_desc *desc = &draft->desc;
    const char *k, *after;
    char quoted[SAEI_QUOTE];
    double value = 0;
    *name = saei_tensor_file_scalar(load->tensors, "activation");
    if (!*name) *name = "ReLU";
    desc->arch = SAE_ARCH_STANDARD;
    if (strcmp(*name, "Identity") == 0) desc->activation = SAE_ACTIVATION_SIGNED;
    if (strcmp(*name, "ReLU") == 0 || strcmp(*name, "Identity") == 0) return SAE_OK;
    if (strcmp(*name, "TopK") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "activation is %s, allowed are ReLU, TopK, "
                              "Identity",
                              saei_quote(*name, quoted));
    desc->arch = SAE_ARCH_TOP_K;
    desc->input_norm = SAE_INPUT_NORM_LAYER;
    k = saei_openai_value(load, "k");
    after = saei_openai_value(load, "postact_fn");
    if (k && (!saei_text_number(k, strlen(k), &value) || value != floor(value))) value = 0;
    if (!(value >= 1 && value <= (double)desc->dict_size))
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "k of its activation TopK is %s, allowed are 1 to "
                              "%zu",
                              k ? saei_quote(k, quoted) : "missing", desc->dict_size);
    desc->k = (size_t)value;
    if (after && strcmp(after, "Identity") == 0) desc->activation = SAE_ACTIVATION_SIGNED;
    else if (after && strcmp(after, "ReLU") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "postact_fn of its activation TopK is %s, "
                              "allowed are ReLU, Identity", saei_quote(after, quoted));
    return SAE_OK;
}

static sae_result saei_openai_read(saei_load *load, sae_dictionary **out) {
    static const char *const statistics[] = { "stats_last_nonzero", "latents_activation_frequency",
                                              "latents_mean_square" };
    saei_draft draft;
    const char *name;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (load->tensors->header)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "the tensors of openai's Autoencoder without "
                              "its activation, which only the .pt holds");
    saei_draft_must(&draft, "pre_bias", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "latent_bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.weight", SAEI_SLOT_W_DEC_T, "decoder.linear.weight",
                    SAEI_SLOT_W_DEC); /* tied: the encoder's own */
    for (size_t i = 0; i < 3; i++) saei_draft_may(&draft, statistics[i], SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "openai's Autoencoder");
    SAEI_TRY(saei_draft_sizes(&draft));
    draft.desc.output_dim = 0;
    SAEI_TRY(saei_openai_desc(&draft, &name));
    SAEI_TRY(saei_draft_make(&draft, out));
    saei_origin_text((*out)->origin.class_name, sizeof (*out)->origin.class_name, name);
    return SAE_OK;
}

/* ---- every format ---- */

/* dictionary_learning comes last: its names of tensors are everybody's. */
static const saei_reader saei_readers[] = {
    { SAE_FORMAT_SAE_LENS, { "sae_weights.safetensors", NULL }, "cfg.json", saei_lens_detect,
      saei_lens_read },
    { SAE_FORMAT_SPARSIFY, { "sae.safetensors", NULL }, "cfg.json", saei_sparsify_detect,
      saei_sparsify_read },
    { SAE_FORMAT_GEMMA_SCOPE, { "params.npz", NULL }, NULL, saei_gemma_detect, saei_gemma_read },
    { SAE_FORMAT_GEMMA_SCOPE_2, { "params.safetensors", NULL }, "config.json", saei_gemma_2_detect,
      saei_gemma_2_read },
    { SAE_FORMAT_LLAMA_SCOPE, { "checkpoints/final.safetensors", NULL }, "hyperparams.json",
      saei_llama_detect, saei_llama_read },
    { SAE_FORMAT_OPENAI, { "autoencoder.pt", NULL }, NULL, saei_openai_detect, saei_openai_read },
    { SAE_FORMAT_DICTIONARY_LEARNING, { "ae.pt", "ae.safetensors" }, "config.json", saei_dl_detect,
      saei_dl_read }
};
enum { SAEI_NUM_READERS = sizeof saei_readers / sizeof saei_readers[0] };

/* Sets load->file, and *out where its name or the folder tells the format. */
static sae_result saei_load_locate(saei_load *load, const saei_reader **out) {
    saei_path_kind kind = saei_path_exists(load->path);
    if (kind == SAEI_PATH_NONE)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no such file or folder");
    if (kind == SAEI_PATH_FILE) {
        load->file = saei_strdup(load->ctx, load->path);
        if (!load->file) return saei_load_no_memory(load);
    }
    for (size_t r = 0; r < SAEI_NUM_READERS; r++)
        for (size_t i = 0; i < 2 && saei_readers[r].files[i]; i++) {
            const char *name = saei_readers[r].files[i];
            if (kind == SAEI_PATH_FILE) {
                if (strcmp(saei_path_base(load->file), name) == 0) *out = &saei_readers[r];
                continue;
            }
            saei_free(load->ctx, load->file);
            load->file = saei_path_join(load->ctx, load->path, name);
            if (!load->file) return saei_load_no_memory(load);
            *out = &saei_readers[r];
            if (saei_path_exists(load->file) == SAEI_PATH_FILE) return SAE_OK;
        }
    if (kind == SAEI_PATH_FILE) return SAE_OK;
    return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder has none of ae.pt, ae.safetensors, "
                          "sae_weights.safetensors, sae.safetensors, params.npz, "
                          "params.safetensors, checkpoints/final.safetensors, autoencoder.pt");
}

static sae_result saei_load_run(saei_load *load, sae_dictionary **out) {
    const saei_reader *reader = NULL;
    char names[SAEI_NAMES] = "";
    sae_dictionary *dict = NULL;
    SAEI_TRY(saei_load_locate(load, &reader));
    SAEI_TRY(sae_tensor_file_open(load->ctx, load->file, &load->tensors));
    for (size_t r = 0; r < SAEI_NUM_READERS && !reader; r++) {
        if (saei_readers[r].config) SAEI_TRY(saei_load_config(load, saei_readers[r].config));
        if (saei_readers[r].detect(load)) reader = &saei_readers[r];
    }
    if (!reader) {
        for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++)
            saei_list_name(names, sae_tensor_file_get(load->tensors, i)->name);
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "it is no dictionary: it holds %s",
                              *names ? names : "no tensors");
    }
    if (reader->config) SAEI_TRY(saei_load_config(load, reader->config));
    SAEI_TRY(reader->read(load, &dict));
    dict->origin.format = reader->format;
    *out = dict;
    return SAE_OK;
}

SAE_API sae_result sae_dictionary_load(sae_context *ctx, const sae_load_desc *desc,
                                       const char *path, sae_dictionary **out) {
    saei_load load;
    sae_result result;
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_dictionary_load: ctx, path or out is NULL");
    memset(&load, 0, sizeof load);
    load.ctx = ctx;
    load.path = path;
    load.prefix = "";
    if (desc) load.desc = *desc;
    result = saei_load_run(&load, out);
    sae_tensor_file_close(load.tensors);
    saei_free(ctx, load.root);
    saei_free(ctx, load.config_path);
    saei_free(ctx, load.file);
    return result;
}
