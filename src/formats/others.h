#pragma once
#include "../tensor/open.h"
#include "reading.h"

/* ==== >>files: openai, Qwen-Scope, Goodfire, attention outputs ================================ */

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

/* ---- Qwen-Scope ---- */

/* W_enc, b_enc, W_dec, b_dec and nothing else: which side of W_enc the latents are on, 0 or 1, as
   b_enc tells; -1: other tensors, or nothing tells. */
static int saei_four_tensors(const saei_load *load) {
    const sae_tensor *w = saei_load_find(load, "W_enc"), *b = saei_load_find(load, "b_enc");
    if (sae_tensor_file_count(load->tensors) != 4 || !w || !b || !saei_load_find(load, "W_dec")
        || !saei_load_find(load, "b_dec") || w->ndim != 2 || b->ndim != 1
        || w->shape[0] == w->shape[1])
        return -1;
    return w->shape[0] == b->shape[0] ? 0 : w->shape[1] == b->shape[0] ? 1 : -1;
}

static bool saei_qwen_probe(const saei_load *load) {
    const char *type = saei_config_text(load->root, "model_type");
    if (strcmp(load->tensors->ending, ".pt") != 0 || !saei_load_find(load, "W_enc")
        || sae_tensor_file_count(load->tensors) != 4)
        return false;
    return saei_ends_with(load->file, ".sae.pt") || (type && strcmp(type, "topk_sae") == 0)
           || saei_four_tensors(load) == 0;
}

/* k in "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", the name of the repository, which the folder may
   have; 0: none. */
static size_t saei_qwen_name_k(const char *file) {
    size_t end = saei_folder_length(file, strlen(file)), begin, k = 0;
    while (end > 0 && saei_is_separator(file[end - 1])) end--;
    begin = saei_folder_length(file, end);
    for (size_t i = begin; i + 4 < end; i++) {
        size_t at = i + 4;
        if (strncmp(file + i, "-L0_", 4) != 0) continue;
        for (k = 0; at < end && file[at] >= '0' && file[at] <= '9' && k < 1000000; at++)
            k = 10 * k + (size_t)(file[at] - '0');
        if (at == end) return k;
    }
    return 0;
}

/* N of "layerN.sae.pt"; -1: another name. */
static int64_t saei_qwen_layer(const char *file) {
    const char *name = saei_path_base(file);
    int64_t layer = 0;
    size_t n = 5;
    if (strncmp(name, "layer", 5) != 0) return -1;
    for (; name[n] >= '0' && name[n] <= '9' && n < 14; n++) layer = 10 * layer + (name[n] - '0');
    return n > 5 ? layer : -1;
}

/* The k largest relu(p). Both matrices lie the other way round than elsewhere under these names:
   W_enc [m,d], W_dec [d,m]. */
static sae_result saei_qwen_read(saei_load *load, sae_dictionary **out) {
    size_t d = 0, m = 0, k = 0;
    sae_origin *o;
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    load->config = load->root;
    saei_draft_must(&draft, "W_enc", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_dec", SAEI_SLOT_W_DEC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "Qwen-Scope");
    SAEI_TRY(saei_draft_sizes(&draft));
    SAEI_TRY(saei_config_size(load, "d_model", &d));
    SAEI_TRY(saei_config_size(load, "d_sae", &m));
    SAEI_TRY(saei_config_size(load, "k", &k));
    if ((d && d != draft.desc.activation_dim) || (m && m != draft.desc.dict_size))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "W_enc is of %zu latents of %zu dimensions, "
                              "in config.json d_sae is %zu and d_model %zu", draft.desc.dict_size,
                              draft.desc.activation_dim, m, d);
    if (!k) k = saei_qwen_name_k(load->file);
    if (!k) k = load->desc.k;
    if (!k)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "neither a config.json nor the folder's "
                              "name (...-L0_K) says k: give sae_load_desc.k");
    if (k > draft.desc.dict_size)
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %zu, allowed are 1 to the number of "
                              "latents, %zu", k, draft.desc.dict_size);
    draft.desc.arch = SAE_ARCH_TOP_K;
    draft.desc.k = k;
    draft.desc.no_b_dec_subtraction = true;
    SAEI_TRY(saei_draft_make(&draft, out));
    o = &(*out)->origin;
    saei_origin_text(o->class_name, sizeof o->class_name, "topk_sae");
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "base_model"));
    o->layer = saei_qwen_layer(load->file);
    saei_origin_place(o, saei_config_text(load->root, "hook_point"), "hook_");
    return SAE_OK;
}

/* ---- Goodfire ---- */

static bool saei_goodfire_probe(const saei_load *load) {
    return saei_load_find(load, "encoder_linear.weight")
           && saei_load_find(load, "decoder_linear.weight");
}

static sae_result saei_goodfire_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    draft.desc.arch = SAE_ARCH_STANDARD_NEW;
    saei_draft_must(&draft, "encoder_linear.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder_linear.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder_linear.weight", SAEI_SLOT_W_DEC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder_linear.bias", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "Goodfire's");
    SAEI_TRY(saei_draft_sizes(&draft));
    return saei_draft_make(&draft, out);
}

/* ---- attention outputs: hook_z, the heads side by side ---- */

static bool saei_attention_probe(const saei_load *load) {
    const sae_tensor *w = saei_load_find(load, "W_enc");
    return saei_config_value(load->root, "act_size") && w && w->ndim == 2
           && saei_load_find(load, "b_dec");
}

static sae_result saei_attention_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    sae_origin *o;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    load->config = load->root;
    draft.desc.arch = SAE_ARCH_STANDARD;
    SAEI_TRY(saei_config_required(load, "act_size", &draft.desc.activation_dim));
    SAEI_TRY(saei_config_required(load, "dict_size", &draft.desc.dict_size));
    saei_draft_must(&draft, "W_enc", SAEI_SLOT_W_ENC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_dec", SAEI_SLOT_W_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "an AutoEncoder");
    SAEI_TRY(saei_draft_make(&draft, out));
    o = &(*out)->origin;
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, saei_config_text(load->root, "act_name"));
    o->layer = saei_layer_of(o->hook);
    return SAE_OK;
}
