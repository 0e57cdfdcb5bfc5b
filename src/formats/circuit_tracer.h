#pragma once
#include "reading.h"

/* ==== >>files: circuit-tracer ================================================================= */
/* Transcoders of single layers: layer_N.safetensors beside a config.yaml. W_enc and W_dec are both
   [m,d], as nobody else has them. */

/* N of "layer_N.safetensors"; -1: another name. */
static int64_t saei_tracer_layer(const char *file) {
    const char *name = saei_path_base(file);
    int64_t layer = 0;
    size_t n = 6;
    if (strncmp(name, "layer_", 6) != 0) return -1;
    for (; name[n] >= '0' && name[n] <= '9' && n < 15; n++) layer = 10 * layer + (name[n] - '0');
    return n > 6 && strcmp(name + n, ".safetensors") == 0 ? layer : -1;
}

static bool saei_tracer_probe(const saei_load *load) {
    const sae_tensor *enc = saei_load_find(load, "W_enc"), *dec = saei_load_find(load, "W_dec");
    char kind[64];
    if (!load->tensors->header || !enc || !dec || enc->ndim != 2 || dec->ndim != 2
        || !saei_load_find(load, "b_enc") || !saei_load_find(load, "b_dec"))
        return false;
    if (saei_tracer_layer(load->file) >= 0 && !saei_load_find(load, "threshold")) return true;
    if (saei_yaml_text(load, "model_kind", kind, sizeof kind)
        && strcmp(kind, "transcoder_set") == 0)
        return true;
    return saei_load_find(load, "activation_function.threshold")
           || (enc->shape[0] == dec->shape[0] && enc->shape[0] != enc->shape[1]
               && enc->shape[1] == dec->shape[1]);
}

/* The activation that config.yaml says, k with it; jump: the file has thresholds. */
static sae_result saei_tracer_activation(const saei_load *load, bool jump,
                                         sae_dictionary_desc *desc) {
    char name[64] = "", number[32], scan[128], quoted[SAEI_QUOTE];
    double k = 0;
    desc->arch = jump ? SAE_ARCH_JUMP_RELU : SAE_ARCH_STANDARD_NEW;
    if (!saei_yaml_text(load, "activation", name, sizeof name) || strcmp(name, "relu") == 0
        || strcmp(name, "jump_relu") == 0 || strcmp(name, "jumprelu") == 0) {
        if (*name == 'j' && !jump)
            return saei_load_fail(load, SAE_ERR_FORMAT, "activation in config.yaml is %s, and "
                                  "there is no activation_function.threshold", name);
        return SAE_OK;
    }
    if (strcmp(name, "topk") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "activation in config.yaml is %s, allowed "
                              "are relu, jump_relu, topk", saei_quote(name, quoted));
    if (saei_yaml_text(load, "k", number, sizeof number)
        && (!saei_text_number(number, strlen(number), &k) || k != floor(k) || !(k >= 1)
            || !(k <= INT32_MAX)))
        return saei_load_fail(load, SAE_ERR_FORMAT, "k in config.yaml is %s, allowed are whole "
                              "numbers from 1", saei_quote(number, quoted));
    if (!(k >= 1) && saei_yaml_text(load, "scan", scan, sizeof scan)
        && strcmp(scan, "facebook/crv-8b-instruct-transcoders") == 0)
        k = 128; /* which the program knows by that name alone */
    if (!(k >= 1)) k = (double)load->desc.k;
    if (!(k >= 1))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "activation in config.yaml is topk, and "
                              "nothing says k: give sae_load_desc.k");
    desc->arch = SAE_ARCH_TOP_K;
    desc->activation = SAE_ACTIVATION_SIGNED; /* there is no relu beside topk */
    desc->no_b_dec_subtraction = true;
    desc->k = (size_t)k;
    return SAE_OK;
}

static sae_result saei_tracer_read(saei_load *load, sae_dictionary **out) {
    const bool jump = saei_load_find(load, "activation_function.threshold") != NULL;
    char text[128];
    saei_draft draft;
    sae_dictionary *dict;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_tracer_activation(load, jump, &draft.desc));
    saei_draft_must(&draft, "W_enc", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_dec", SAEI_SLOT_W_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    draft.desc.skip = saei_draft_may(&draft, "W_skip", SAEI_SLOT_W_SKIP) != NULL;
    saei_draft_may(&draft, "activation_function.threshold",
                   draft.desc.arch == SAE_ARCH_JUMP_RELU ? SAEI_SLOT_AUX0 : SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft))
        return saei_draft_misfit(&draft, "a transcoder of circuit-tracer");
    SAEI_TRY(saei_draft_sizes(&draft));
    if (draft.desc.k > draft.desc.dict_size)
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %zu, allowed are 1 to the number of "
                              "latents, %zu", draft.desc.k, draft.desc.dict_size);
    SAEI_TRY(saei_draft_make(&draft, &dict));
    for (size_t i = 0; dict->aux0 && i < dict->desc.dict_size; i++)
        if (dict->aux0[i] < 0) dict->desc.activation = SAE_ACTIVATION_SIGNED; /* it has no relu */
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name, "transcoder");
    if (saei_yaml_text(load, "model_name", text, sizeof text))
        saei_origin_text(dict->origin.model, sizeof dict->origin.model, text);
    dict->origin.layer = saei_tracer_layer(load->file);
    if (saei_yaml_text(load, "feature_input_hook", text, sizeof text))
        saei_origin_place(&dict->origin, text, "");
    *out = dict;
    return SAE_OK;
}
