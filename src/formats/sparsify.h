#pragma once
#include "export.h"
#include "reading.h"

/* ==== >>files: sparsify ======================================================================= */

static bool saei_sparsify_probe(const saei_load *load) {
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
    if (strcmp(name, "batchtopk") == 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "a transcoder of clt-training with batch "
                              "top-k, which sae_clt_open opens");
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
        saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s: signed is true, which "
                 "sparsify no longer knows: latents are positive, as it takes them today",
                 load->who,
                 load->config_path);
    return SAE_OK;
}

/* A layer of clt-training alone (n_targets 0) has a post-encoder, nothing where it is 0. */
static sae_result saei_sparsify_post(saei_draft *draft) {
    const saei_load *load = draft->load;
    const sae_tensor *post = saei_draft_may(draft, "post_enc", SAEI_SLOT_NOTHING);
    size_t targets = 0;
    bool scaled = false, normalized = false;
    SAEI_TRY(saei_config_size(load, "n_targets", &targets));
    SAEI_TRY(saei_config_bool(load, "post_encoder_scale", &scaled));
    SAEI_TRY(saei_config_bool(load, "normalize_io", &normalized));
    if (targets)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "the folder of one layer of "
                              "clt-training's cross-layer transcoder (n_targets in cfg.json is "
                              "%zu), which sae_clt_open opens by the folder above", targets);
    if (scaled || normalized || (post && (post->ndim != 1 || !sae_dtype_size(post->dtype)
                                          || !saei_is_zero(post))))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "a transcoder of clt-training with a "
                              "post-encoder or norms (post_enc, post_encoder_scale, normalize_io), "
                              "which sae_clt_open opens");
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
    SAEI_TRY(saei_sparsify_post(&draft));
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

/* ---- writing ---- */

static sae_result saei_export_sparsify_fit(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    if (h->arch != SAE_ARCH_TOP_K || e->dict->rule != SAE_RULE_TOP_K)
        return saei_export_refused(e, "latents but the k largest of a row and group max");
    SAEI_TRY(saei_export_one_place(e));
    if (h->activation == SAE_ACTIVATION_SIGNED || h->activation == SAE_ACTIVATION_MAGNITUDE)
        return saei_export_refused(e, "latents below 0");
    if (h->input_norm) return saei_export_refused(e, "normalisation of the input");
    if (h->output_dim != h->activation_dim)
        return saei_export_refused(e, "output of another width than the input");
    return SAE_OK;
}

static sae_result saei_export_sparsify(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    static const saei_key keys[] = {
        { "encoder.weight", SAEI_SLOT_W_ENC }, { "encoder.bias", SAEI_SLOT_B_ENC },
        { "W_dec", SAEI_SLOT_W_DEC }, { "b_dec", SAEI_SLOT_B_DEC }, { "W_skip", SAEI_SLOT_W_SKIP }
    };
    const char *activation = h->activation == SAE_ACTIVATION_GROUP_MAX ? "groupmax" : "topk";
    bool whole = h->dict_size % h->activation_dim == 0;
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = e->ctx;
    SAEI_NOTE(e, SAE_LOG_INFO, "activation %s", activation);
    SAEI_TRY(saei_export_tensors(e, "sae.safetensors", keys, h->skip ? 5 : 4));
    saei_text_add(&t,
                  "{\"activation\": \"%s\", \"expansion_factor\": %zu, "
                  "\"normalize_decoder\": %s, \"num_latents\": %zu, \"k\": %zu, "
                  "\"multi_topk\": false, \"skip_connection\": %s, \"transcode\": %s, "
                  "\"d_in\": %zu, ",
                  activation, whole ? h->dict_size / h->activation_dim : 32,
                  saei_decoder_is_unit(e->dict) ? "true" : "false", h->dict_size, h->k,
                  h->skip ? "true" : "false", h->no_b_dec_subtraction ? "true" : "false",
                  h->activation_dim);
    saei_export_made_by(e, &t);
    saei_text_add(&t, "}\n");
    return saei_export_text(e, "cfg.json", &t);
}
