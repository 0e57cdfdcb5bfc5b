#pragma once
#include "reading.h"

/* ==== >>files: crosscoders ==================================================================== */

/* ---- science-of-finetuning/dictionary_learning ---- */

static bool saei_finetuning_probe(const saei_load *load) {
    const sae_tensor *enc = saei_load_find(load, "encoder.weight");
    return enc && enc->ndim == 3 && saei_load_find(load, "decoder.weight");
}

/* A number of the config: the hub's, with the constructor's arguments, or a trainer's. */
static double saei_finetuning_number(const saei_load *load, const char *key, double other) {
    const sae_json *v = saei_config_value(load->root, key);
    if (!v) v = saei_config_value(sae_json_get(load->root, "trainer"), key);
    return v && v->type == SAE_JSON_NUMBER ? v->number : other;
}

/* code_normalization_id, by which BatchTopK weighs its choice: 1 to 5, absent in older files. */
static sae_result saei_finetuning_code(const saei_load *load, uint64_t *id) {
    const sae_tensor *t = saei_load_find(load, "code_normalization_id");
    *id = 1;
    if (!t || (saei_is_scalar(t) && saei_tensor_whole(t, 0, id) && *id >= 1 && *id <= 5))
        return SAE_OK;
    return saei_load_fail(load, SAE_ERR_FORMAT, "code_normalization_id is %lld, allowed are 1 "
                          "(CROSSCODER), 2 (SAE), 3 (MIXED), 4 (NONE), 5 (DECOUPLED)",
                          saei_is_scalar(t) ? (long long)*id : -1);
}

/* Whether a tensor of a few numbers is there and none is NaN. */
static bool saei_finetuning_known(const saei_load *load, const char *name, size_t count) {
    const sae_tensor *t = saei_load_find(load, name);
    bool known = t && t->ndim == 2 && t->shape[0] && t->shape[0] <= count
                 && t->shape[1] == count / t->shape[0] && sae_dtype_block(t->dtype) == 1;
    for (size_t i = 0; known && i < count; i++) {
        float v;
        int64_t at = (int64_t)(i / t->shape[1]) * t->stride[0]
                     + (int64_t)(i % t->shape[1]) * t->stride[1];
        saei_convert_row(t->dtype, (const unsigned char *)t->data
                         + at * (int64_t)sae_dtype_size(t->dtype), 0, 1, &v);
        known = v == v;
    }
    return known;
}

/* L, d and m by the encoder's shape. */
static sae_result saei_layers_sizes(const saei_load *load, const char *name,
                                    sae_dictionary_desc *desc) {
    const sae_tensor *t = saei_load_find(load, name);
    size_t d;
    if (!t || t->ndim != 3 || !t->shape[0] || !t->shape[1] || !t->shape[2]
        || t->shape[0] > INT32_MAX || t->shape[1] > INT32_MAX || t->shape[2] > INT32_MAX
        || !saei_mul((size_t)t->shape[0], (size_t)t->shape[1], &d) || d > INT32_MAX)
        return saei_load_fail(load, SAE_ERR_FORMAT, "%s is no [layers,d,m] of 1 to %d each", name,
                              INT32_MAX);
    desc->layers = (size_t)t->shape[0];
    desc->activation_dim = d;
    desc->dict_size = (size_t)t->shape[2];
    return SAE_OK;
}

static sae_result saei_finetuning_desc(saei_draft *draft, uint64_t id) {
    static const sae_gate gates[] = { SAE_GATE_NONE, SAE_GATE_NORM_SUM, SAE_GATE_NORM,
                                      SAE_GATE_MIXED, SAE_GATE_NONE, SAE_GATE_NORM };
    const saei_load *load = draft->load;
    const sae_tensor *k = saei_load_find(load, "k");
    sae_dictionary_desc *desc = &draft->desc;
    uint64_t value = 0;
    SAEI_TRY(saei_layers_sizes(load, "encoder.weight", desc));
    desc->normalizer = saei_finetuning_known(load, "activation_mean", desc->activation_dim)
                       && saei_finetuning_known(load, "activation_std", desc->activation_dim);
    desc->arch = SAE_ARCH_STANDARD_NEW; /* the plain class does not look at the id */
    if (!k && !saei_load_find(load, "threshold")) return SAE_OK;
    if (!k || !saei_is_scalar(k) || !saei_tensor_whole(k, 0, &value) || value < 1
        || value > desc->dict_size)
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %llu, allowed are 1 to the number of "
                              "latents, %zu", (unsigned long long)value, desc->dict_size);
    desc->arch = SAE_ARCH_BATCH_TOP_K;
    desc->no_b_dec_subtraction = true;
    desc->k = (size_t)value;
    desc->gate = gates[id];
    desc->layer_codes = id == 5;
    if (desc->gate != SAE_GATE_MIXED) return SAE_OK;
    desc->gate_norm = saei_finetuning_number(load, "code_normalization_alpha_sae", 1);
    desc->gate_norm_sum = saei_finetuning_number(load, "code_normalization_alpha_cc", 0.1);
    return SAE_OK;
}

static void saei_finetuning_keys(saei_draft *draft) {
    const bool norm = draft->desc.normalizer, batch = draft->desc.arch == SAE_ARCH_BATCH_TOP_K;
    saei_draft_must(draft, "encoder.weight", SAEI_SLOT_W_ENC_LDM, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "encoder.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "decoder.weight", SAEI_SLOT_W_DEC_LMD, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "decoder.bias", SAEI_SLOT_B_DEC_LD, NULL, SAEI_SLOT_NOTHING);
    saei_draft_may(draft, "code_normalization_id", SAEI_SLOT_NOTHING);
    saei_draft_may(draft, "target_rms", SAEI_SLOT_TARGET_RMS);
    saei_draft_may(draft, "activation_std", norm ? SAEI_SLOT_SPREAD_LD : SAEI_SLOT_NOTHING);
    if (norm) {
        saei_draft_must(draft, "activation_mean", SAEI_SLOT_MEAN_LD, NULL, SAEI_SLOT_NOTHING);
        saei_draft_must(draft, "activation_global_scale", SAEI_SLOT_LAYER_SCALE, NULL,
                        SAEI_SLOT_NOTHING);
    } else {
        saei_draft_may(draft, "activation_mean", SAEI_SLOT_NOTHING);
        saei_draft_may(draft, "activation_global_scale", SAEI_SLOT_NOTHING);
    }
    if (!batch) return;
    saei_draft_must(draft, "k", SAEI_SLOT_K, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "threshold", draft->desc.layer_codes ? SAEI_SLOT_LAYER_THRESHOLD
                                                                 : SAEI_SLOT_THRESHOLD,
                    NULL, SAEI_SLOT_NOTHING);
}

/* One code for all layers: relu(sum_l y_l W_l + b), y_l = (x_l - mean_l) g_l; what is decoded is
   divided by g_l + 1e-8. DECOUPLED: one relu, and for each layer a choice and so a code. */
static sae_result saei_finetuning_read(saei_load *load, sae_dictionary **out) {
    static const char *const names[] = { "", "CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED" };
    uint64_t id;
    char name[48];
    saei_draft draft;
    sae_dictionary *dict;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_finetuning_code(load, &id));
    SAEI_TRY(saei_finetuning_desc(&draft, id));
    saei_finetuning_keys(&draft);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "a CrossCoder");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    dict->code = (int)id;
    dict->normalizes = dict->scale != NULL;
    if (!saei_load_find(load, "target_rms")) dict->target_rms = 1;
    for (size_t l = 0; dict->scale && l < dict->desc.layers; l++)
        dict->output_scale[l] = dict->scale[l] + 1e-8f;
    snprintf(name, sizeof name, "%s %s",
             draft.desc.k ? "BatchTopKCrossCoder" : "CrossCoder", names[id]);
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name, name);
    *out = dict;
    return SAE_OK;
}

/* ---- ckkissane ---- */

static bool saei_ckkissane_probe(const saei_load *load) {
    const sae_tensor *enc = saei_load_find(load, "W_enc"), *dec = saei_load_find(load, "W_dec");
    return enc && dec && enc->ndim == 3 && dec->ndim == 3 && saei_load_find(load, "b_dec");
}

/* Two layers (or models), one code; nothing is subtracted. */
static sae_result saei_ckkissane_read(saei_load *load, sae_dictionary **out) {
    size_t d = 0, m = 0;
    sae_origin *o;
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root) SAEI_TRY(saei_load_config(load, "*_cfg.json"));
    load->config = load->root;
    SAEI_TRY(saei_layers_sizes(load, "W_enc", &draft.desc));
    SAEI_TRY(saei_config_size(load, "d_in", &d));
    SAEI_TRY(saei_config_size(load, "dict_size", &m));
    if ((d && d * draft.desc.layers != draft.desc.activation_dim)
        || (m && m != draft.desc.dict_size))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "W_enc is of %zu layers of %zu dimensions "
                              "and %zu latents, in %s d_in is %zu and dict_size %zu",
                              draft.desc.layers, draft.desc.activation_dim / draft.desc.layers,
                              draft.desc.dict_size, load->config_name, d, m);
    draft.desc.arch = SAE_ARCH_STANDARD_NEW;
    saei_draft_must(&draft, "W_enc", SAEI_SLOT_W_ENC_LDM, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_dec", SAEI_SLOT_W_DEC_MLD, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_dec", SAEI_SLOT_B_DEC_LD, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "a crosscoder");
    SAEI_TRY(saei_draft_make(&draft, out));
    o = &(*out)->origin;
    saei_origin_text(o->class_name, sizeof o->class_name, "CrossCoder");
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, saei_config_text(load->root, "hook_point"));
    o->layer = saei_layer_of(o->hook);
    return SAE_OK;
}
