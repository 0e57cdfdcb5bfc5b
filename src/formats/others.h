#pragma once
#include "sae_lens.h"

/* ==== >>files: Gemma Scope, Llama Scope, openai =============================================== */

/* ---- Gemma Scope, Gemma Scope 2, Llama Scope ---- */

static bool saei_gemma_probe(const saei_load *load) {
    return strcmp(load->tensors->ending, ".npz") == 0 && saei_load_find(load, "threshold")
           && (saei_load_find(load, "W_enc") || saei_load_find(load, "w_enc"));
}

static bool saei_gemma_2_probe(const saei_load *load) {
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
    saei_origin_hook_out(o, saei_config_text(load->root, "hf_hook_point_out"));
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

static bool saei_llama_probe(const saei_load *load) {
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
    saei_origin_hook_out(&dict->origin, saei_config_text(load->root, "hook_point_out"));
    dict->origin.layer = saei_layer_of(dict->origin.hook);
    *out = dict;
    return SAE_OK;
}

/* ---- openai/sparse_autoencoder ---- */

static bool saei_openai_probe(const saei_load *load) {
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
