#pragma once
#include "../tensor/open.h"
#include "reading.h"

/* ==== >>files: Llama Scope, Llamascopium ====================================================== */
/* lm-saes, later called Llamascopium. Of a row x, y = s_in x:
     p = y W_E + b_E [times sigmoid(y W_E_glu + b_E_glu)];  x_hat = (f W_D + b_D) / s_out
   The factors are folded into the weights; codes are in the program's units. */

/* What the configs of all versions say. */
typedef struct saei_scopium {
    const char *act;
    bool norm_gate; /* sparsity_include_decoder_norm */
    bool decoder_bias, glu, subtract, over_layers;
    bool dataset;   /* norm_activation dataset-wise: the factors lie somewhere */
    const char *in, *out; /* hooks */
} saei_scopium; /* over_layers: act is one of those that choose over all layers */

static sae_result saei_scopium_config(const saei_load *load, sae_dictionary_desc *desc,
                                      saei_scopium *s) {
    const sae_json *act = saei_config_value(load->config, "act_fn");
    const sae_json *norm = saei_config_value(load->config, "norm_activation");
    const char *way = norm && norm->type == SAE_JSON_STRING ? norm->string : "";
    s->norm_gate = s->decoder_bias = true;
    s->act = act && act->type == SAE_JSON_STRING ? act->string : act ? "" : "relu";
    s->in = saei_config_text(load->config, "hook_point_in");
    s->out = saei_config_text(load->config, "hook_point_out");
    if (!s->in) s->in = "";
    if (!s->out) s->out = s->in;
    SAEI_TRY(saei_config_bool(load, "sparsity_include_decoder_norm", &s->norm_gate));
    SAEI_TRY(saei_config_bool(load, "use_decoder_bias", &s->decoder_bias));
    SAEI_TRY(saei_config_bool(load, "use_glu_encoder", &s->glu));
    SAEI_TRY(saei_config_bool(load, "apply_decoder_bias_to_pre_encoder", &s->subtract));
    desc->glu = s->glu;
    if (strcmp(s->act, "relu") == 0) desc->arch = SAE_ARCH_STANDARD_NEW;
    else if (strcmp(s->act, "jumprelu") == 0) desc->arch = SAE_ARCH_JUMP_RELU;
    else if (strcmp(s->act, s->over_layers ? "layertopk" : "topk") == 0)
        desc->arch = SAE_ARCH_TOP_K;
    else if (strcmp(s->act, s->over_layers ? "batchlayertopk" : "batchtopk") == 0)
        desc->arch = SAE_ARCH_BATCH_TOP_K;
    else return saei_config_refused(load, "act_fn", act, "relu, jumprelu, topk, batchtopk");
    if (s->norm_gate && desc->arch != SAE_ARCH_STANDARD_NEW) desc->gate = SAE_GATE_NORM;
    s->dataset = strcmp(way, "dataset-wise") == 0;
    if (strcmp(way, "token-wise") == 0) desc->input_norm = SAE_INPUT_NORM_CONSTANT;
    else if (strcmp(way, "batch-wise") == 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "norm_activation in %s is batch-wise: "
                              "results would depend on the other rows of a batch",
                              load->config_name);
    else if (norm && !s->dataset && strcmp(way, "inference") != 0)
        return saei_config_refused(load, "norm_activation", norm, "dataset-wise, token-wise, "
                                   "inference");
    if (!saei_arch_selects(desc->arch)) return SAE_OK;
    desc->no_b_dec_subtraction = true;
    return saei_config_required(load, "top_k", &desc->k);
}

/* The factor sqrt(d) / norm. */
static sae_result saei_scopium_factor(const saei_load *load, double norm, size_t d,
                                      const char *what, float *out) {
    double s = sqrt((double)d) / norm;
    if (!(norm > 0) || !(norm <= FLT_MAX) || !(s <= FLT_MAX) || !((float)s > 0))
        return saei_load_fail(load, SAE_ERR_FORMAT, "%s is %g, allowed are numbers above 0", what,
                              norm);
    *out = (float)s;
    return SAE_OK;
}

/* b_dec in the encoder's input, if the config says so: its share goes into the biases. */
static void saei_scopium_centre(const saei_scopium *s, sae_dictionary *dict) {
    for (size_t i = 0; s->subtract && i < dict->desc.dict_size; i++) {
        double shift[2] = { 0, 0 };
        for (size_t c = 0; c < dict->desc.activation_dim; c++) {
            size_t at = i * dict->ld + c;
            shift[0] += (double)dict->W_enc[at] * (double)dict->b_dec[c];
            if (dict->W_glu) shift[1] += (double)dict->W_glu[at] * (double)dict->b_dec[c];
        }
        dict->b_enc[i] = (float)((double)dict->b_enc[i] - shift[0]);
        if (dict->W_glu) dict->b_glu[i] = (float)((double)dict->b_glu[i] - shift[1]);
    }
}

/* ---- Llama Scope: hyperparams.json ---- */

static bool saei_llama_probe(const saei_load *load) {
    return saei_config_value(load->root, "jump_relu_threshold")
           && saei_load_find(load, "encoder.weight");
}

static sae_result saei_llama_norm(const saei_load *load, const char *side, size_t d, float *out) {
    const sae_json *norms = saei_config_value(load->root, "dataset_average_activation_norm");
    const sae_json *norm = norms && norms->type == SAE_JSON_OBJECT
                               ? saei_config_value(norms, side) : NULL;
    char what[64];
    snprintf(what, sizeof what, "dataset_average_activation_norm.%s", side);
    if (!norm || norm->type != SAE_JSON_NUMBER)
        return saei_load_fail(load, SAE_ERR_FORMAT, "hyperparams.json has no number above 0 in %s",
                              what);
    return saei_scopium_factor(load, norm->number, d, what, out);
}

/* One threshold for all, of the units before the fold: of p norm(W_D[i]) s_out where the norms of
   the decoder are in the gate (formats of 2024 measured it so), else of p s_in. */
static sae_result saei_llama_read(saei_load *load, sae_dictionary **out) {
    const sae_json *threshold = saei_config_value(load->root, "jump_relu_threshold");
    const char *act = saei_config_text(load->root, "act_fn");
    char quoted[SAEI_QUOTE];
    float in = 1, undo = 1;
    saei_draft draft;
    saei_scopium s;
    sae_dictionary *dict;
    memset(&draft, 0, sizeof draft);
    memset(&s, 0, sizeof s);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND,
                              "there is no hyperparams.json beside the folder checkpoints");
    load->config = load->root;
    if (!act || strcmp(act, "jumprelu") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "act_fn in hyperparams.json is %s, allowed is jumprelu",
                              act ? saei_quote(act, quoted) : "missing");
    if (!threshold || threshold->type != SAE_JSON_NUMBER || !(fabs(threshold->number) <= FLT_MAX))
        return saei_load_fail(load, SAE_ERR_FORMAT, "hyperparams.json has no number "
                              "jump_relu_threshold");
    SAEI_TRY(saei_config_required(load, "d_model", &draft.desc.activation_dim));
    SAEI_TRY(saei_config_required(load, "d_sae", &draft.desc.dict_size));
    SAEI_TRY(saei_scopium_config(load, &draft.desc, &s));
    if (s.dataset || !saei_config_value(load->root, "norm_activation")) {
        SAEI_TRY(saei_llama_norm(load, "in", draft.desc.activation_dim, &in));
        undo = in;
        if (strcmp(s.in, s.out) != 0)
            SAEI_TRY(saei_llama_norm(load, "out", draft.desc.activation_dim, &undo));
    }
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.weight", SAEI_SLOT_W_DEC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.bias", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (s.glu) saei_draft_must(&draft, "encoder_glu.weight", SAEI_SLOT_W_GLU, NULL,
                               SAEI_SLOT_NOTHING);
    if (s.glu) saei_draft_must(&draft, "encoder_glu.bias", SAEI_SLOT_B_GLU, NULL,
                               SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "Llama Scope");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    saei_scopium_centre(&s, dict);
    saei_fold_scale(dict, in, undo);
    for (size_t i = 0; i < dict->desc.dict_size; i++)
        dict->aux0[i] = (float)(threshold->number * (s.norm_gate ? 1 : (double)in));
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name, "jumprelu");
    saei_origin_text(dict->origin.hook, sizeof dict->origin.hook, s.in);
    saei_origin_hook_out(&dict->origin, s.out);
    dict->origin.layer = saei_layer_of(dict->origin.hook);
    *out = dict;
    return SAE_OK;
}

/* ---- R1-distill (lm-saes 1) and Llamascopium 2: config.json ---- */

static bool saei_scopium_probe(const saei_load *load) {
    return saei_config_value(load->root, "d_model") && saei_config_value(load->root, "sae_type");
}

/* The scalar dataset_average_activation_norm.HOOK among the tensors. */
static sae_result saei_scopium_norm(const saei_load *load, const char *hook, size_t d, float *out) {
    char name[160], quoted[SAEI_QUOTE];
    const sae_tensor *t;
    float norm = 0;
    snprintf(name, sizeof name, "dataset_average_activation_norm.%.96s", hook);
    t = saei_load_find(load, name);
    if (!t || !saei_is_scalar(t))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "norm_activation in config.json is "
                              "dataset-wise, and no number %s among the tensors says the norm: the "
                              "scale of its input is not known", saei_quote(name, quoted));
    sae_tensor_to_f32(t, &norm);
    return saei_scopium_factor(load, (double)norm, d, "dataset_average_activation_norm", out);
}

/* d_model times expansion_factor, a float there. */
static sae_result saei_scopium_width(const saei_load *load, sae_dictionary_desc *desc) {
    const sae_json *factor = saei_config_value(load->config, "expansion_factor");
    double m;
    SAEI_TRY(saei_config_required(load, "d_model", &desc->activation_dim));
    if (!factor || factor->type != SAE_JSON_NUMBER)
        return saei_load_fail(load, SAE_ERR_FORMAT, "config.json has no number expansion_factor");
    m = floor((double)desc->activation_dim * factor->number);
    if (!(m >= 1 && m <= INT32_MAX))
        return saei_load_fail(load, SAE_ERR_FORMAT, "expansion_factor in config.json is %g, "
                              "d_model %zu: allowed are 1 to %d latents", factor->number,
                              desc->activation_dim, INT32_MAX);
    desc->dict_size = (size_t)m;
    return SAE_OK;
}

/* The names of both versions. */
static void saei_scopium_keys(saei_draft *draft, const saei_scopium *s, bool old) {
    static const struct {
        const char *old, *name;
        saei_slot old_slot, slot;
    } keys[] = {
        { "encoder.weight", "W_E", SAEI_SLOT_W_ENC, SAEI_SLOT_W_ENC_T },
        { "encoder.bias", "b_E", SAEI_SLOT_B_ENC, SAEI_SLOT_B_ENC },
        { "decoder.weight", "W_D", SAEI_SLOT_W_DEC_T, SAEI_SLOT_W_DEC },
        { "decoder.bias", "b_D", SAEI_SLOT_B_DEC, SAEI_SLOT_B_DEC },
        { "encoder_glu.weight", "W_E_glu", SAEI_SLOT_W_GLU, SAEI_SLOT_W_GLU_T },
        { "encoder_glu.bias", "b_E_glu", SAEI_SLOT_B_GLU, SAEI_SLOT_B_GLU },
        { "log_jumprelu_threshold", "activation_function.log_jumprelu_threshold", SAEI_SLOT_AUX0,
          SAEI_SLOT_AUX0 }
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        bool wanted = i < 3 || (i == 3 && s->decoder_bias) || ((i == 4 || i == 5) && s->glu)
                      || (i == 6 && draft->desc.arch == SAE_ARCH_JUMP_RELU);
        if (!wanted) continue;
        saei_draft_must(draft, old ? keys[i].old : keys[i].name,
                        old ? keys[i].old_slot : keys[i].slot, NULL, SAEI_SLOT_NOTHING);
    }
    draft->ignored = "dataset_average_activation_norm.";
}

static void saei_scopium_origin(const saei_load *load, const saei_scopium *s,
                                sae_dictionary *dict) {
    sae_origin *o = &dict->origin;
    saei_origin_text(o->class_name, sizeof o->class_name, s->act);
    saei_origin_text(o->hook, sizeof o->hook, s->in);
    saei_origin_hook_out(o, s->out);
    saei_origin_text(o->version, sizeof o->version,
                     saei_tensor_file_scalar(load->tensors, "version"));
    o->layer = saei_layer_of(o->hook);
}

/* Crosscoders: hooks h, each with a code f_h. p = sum_h (y_h W_E[h] + b_E[h]); the gate of hook h
   has the norms of W_D[h]; x_hat_h = (f_h W_D[h] + b_D[h]) / s_h. */
static sae_result saei_scopium_crosscoder(saei_load *load, sae_dictionary **out) {
    const sae_json *hooks = saei_config_value(load->root, "hook_points"), *hook;
    const size_t count = sae_json_count(hooks);
    saei_draft draft;
    saei_scopium s;
    sae_dictionary *dict;
    size_t d, l = 0;
    memset(&draft, 0, sizeof draft);
    memset(&s, 0, sizeof s);
    draft.load = load;
    SAEI_TRY(saei_scopium_width(load, &draft.desc));
    SAEI_TRY(saei_scopium_config(load, &draft.desc, &s));
    d = draft.desc.activation_dim;
    for (hook = sae_json_first(hooks); hook && sae_json_text(hook); hook = sae_json_next(hook)) {}
    if (!count || hook || hooks->type != SAE_JSON_ARRAY
        || !saei_mul(d, count, &draft.desc.activation_dim)
        || draft.desc.activation_dim > INT32_MAX || s.glu || s.subtract)
        return saei_load_fail(load, SAE_ERR_FORMAT, "as a crosscoder its config.json needs a list "
                              "of texts, hook_points, and neither use_glu_encoder nor "
                              "apply_decoder_bias_to_pre_encoder");
    draft.desc.layers = count;
    draft.desc.layer_codes = true;
    draft.desc.normalizer = s.dataset;
    if (draft.desc.arch == SAE_ARCH_BATCH_TOP_K) { /* k times rows times hooks, of all together */
        draft.desc.over_layers = true;
        if (!saei_mul(draft.desc.k, count, &draft.desc.k)) draft.desc.k = SIZE_MAX;
    }
    saei_draft_must(&draft, "W_E", SAEI_SLOT_W_ENC_LDM, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_E", SAEI_SLOT_B_ENC_LM, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_D", SAEI_SLOT_W_DEC_LMD, NULL, SAEI_SLOT_NOTHING);
    if (s.decoder_bias)
        saei_draft_must(&draft, "b_D", SAEI_SLOT_B_DEC_LD, NULL, SAEI_SLOT_NOTHING);
    if (draft.desc.arch == SAE_ARCH_JUMP_RELU)
        saei_draft_must(&draft, "activation_function.log_jumprelu_threshold", SAEI_SLOT_AUX0, NULL,
                        SAEI_SLOT_NOTHING);
    draft.ignored = "dataset_average_activation_norm.";
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "a crosscoder of Llamascopium");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    for (hook = sae_json_first(hooks); hook && s.dataset; hook = sae_json_next(hook), l++) {
        sae_result result = saei_scopium_norm(load, sae_json_text(hook), d, &dict->scale[l]);
        dict->output_scale[l] = dict->scale[l];
        if (result == SAE_OK) continue;
        sae_dictionary_destroy(dict);
        return result;
    }
    for (size_t i = 0; dict->aux0 && i < dict->desc.dict_size; i++)
        dict->aux0[i] = (float)saei_exp((double)dict->aux0[i]);
    if (dict->desc.arch == SAE_ARCH_BATCH_TOP_K) {
        dict->rule = SAE_RULE_TOP_K; /* has no threshold */
        dict->origin.k = draft.desc.k / count;
    }
    s.in = s.out = sae_json_text(sae_json_first(hooks));
    saei_scopium_origin(load, &s, dict);
    snprintf(dict->origin.class_name, sizeof dict->origin.class_name, "crosscoder, %.16s", s.act);
    dict->origin.layer = -1;
    *out = dict;
    return SAE_OK;
}

static sae_result saei_scopium_read(saei_load *load, sae_dictionary **out) {
    const char *type;
    char quoted[SAEI_QUOTE];
    float in = 1, undo = 1;
    saei_draft draft;
    saei_scopium s;
    sae_dictionary *dict;
    memset(&draft, 0, sizeof draft);
    memset(&s, 0, sizeof s);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no config.json beside %s",
                              saei_path_base(load->file));
    load->config = load->root;
    type = saei_config_text(load->root, "sae_type");
    if (type && strcmp(type, "crosscoder") == 0) return saei_scopium_crosscoder(load, out);
    if (type && strcmp(type, "clt") == 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "a cross-layer transcoder (sae_type in "
                              "config.json is clt), which sae_clt_open opens");
    if (!type || strcmp(type, "sae") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "sae_type in config.json is %s, allowed "
                              "are sae, crosscoder, clt",
                              type ? saei_quote(type, quoted) : "missing");
    SAEI_TRY(saei_scopium_width(load, &draft.desc));
    SAEI_TRY(saei_scopium_config(load, &draft.desc, &s));
    if (s.dataset) {
        SAEI_TRY(saei_scopium_norm(load, s.in, draft.desc.activation_dim, &in));
        SAEI_TRY(saei_scopium_norm(load, s.out, draft.desc.activation_dim, &undo));
    }
    saei_scopium_keys(&draft, &s, saei_load_find(load, "encoder.weight") != NULL);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "a dictionary of Llamascopium");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    saei_scopium_centre(&s, dict);
    saei_fold_scale(dict, in, undo);
    for (size_t i = 0; dict->aux0 && i < dict->desc.dict_size; i++) {
        double theta = saei_exp((double)dict->aux0[i]);
        dict->aux0[i] = (float)(s.norm_gate ? theta / (double)undo : theta);
    }
    if (dict->desc.arch == SAE_ARCH_BATCH_TOP_K) dict->rule = SAE_RULE_TOP_K; /* has no threshold */
    saei_scopium_origin(load, &s, dict);
    *out = dict;
    return SAE_OK;
}
