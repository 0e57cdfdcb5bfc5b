#pragma once
#include "circuit_tracer.h"
#include "clt_draft.h"
#include "llamascopium.h"

/* ==== >>files: cross-layer transcoders of four programs ======================================= */
/* circuit-tracer, Gemma Scope 2, CLT-Forge, Llamascopium. */

static sae_result saei_clt_there(const saei_load *load, const char *name, bool *there) {
    saei_path_kind kind = SAEI_PATH_NONE;
    char *path = saei_path_join(load->ctx, load->path, name);
    sae_result result;
    if (!path) return saei_load_no_memory(load);
    result = saei_path_find(load->ctx, "sae_clt_open", path, &kind);
    saei_free(load->ctx, path);
    *there = kind == SAEI_PATH_FILE;
    return result;
}

static sae_result saei_clt_numbered(const saei_load *load, const char *prefix, size_t n,
                                    const char *suffix, bool *there) {
    char name[64];
    snprintf(name, sizeof name, "%s%zu%s", prefix, n, suffix);
    return saei_clt_there(load, name, there);
}

/* How many files PREFIX0SUFFIX, PREFIX1SUFFIX, ... there are. That the next is missing while a
   later one is there is an error. */
static sae_result saei_clt_count(const saei_load *load, const char *prefix, const char *suffix,
                                 size_t *count) {
    enum { GAP = 32 };
    bool there = true;
    for (*count = 0; *count < 4096; ++*count) {
        SAEI_TRY(saei_clt_numbered(load, prefix, *count, suffix, &there));
        if (!there) break;
    }
    for (size_t i = *count + 1; i < *count + GAP; i++) {
        SAEI_TRY(saei_clt_numbered(load, prefix, i, suffix, &there));
        if (there)
            return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no %s%zu%s, but %s%zu%s",
                                  prefix, *count, suffix, prefix, i, suffix);
    }
    return SAE_OK;
}

static sae_result saei_clt_file_n(saei_clt_draft *draft, const char *prefix, size_t n,
                                  const char *suffix) {
    char *name = (char *)saei_arena_alloc(&draft->clt->arena, 64, 1);
    if (!name) return saei_clt_no_memory(draft);
    snprintf(name, 64, "%s%zu%s", prefix, n, suffix);
    return saei_clt_file(draft, name);
}

/* Thresholds of which one is below 0: circuit-tracer has no relu beside them. */
static void saei_clt_no_relu(sae_clt *clt, size_t l) {
    const float *theta = clt->layers[l].theta;
    for (size_t i = 0; i < clt->desc.dict_size; i++)
        if (theta[i] < 0) clt->desc.activation = SAE_ACTIVATION_SIGNED;
}

static void saei_tracer_origin(const saei_load *load, sae_clt *clt, const char *class_name) {
    sae_origin *o = &clt->origin;
    char text[128];
    saei_origin_text(o->class_name, sizeof o->class_name, class_name);
    if (saei_yaml_text(load, "model_name", text, sizeof text))
        saei_origin_text(o->model, sizeof o->model, text);
    if (saei_yaml_text(load, "feature_input_hook", text, sizeof text))
        saei_origin_text(o->hook, sizeof o->hook, text);
    if (saei_yaml_text(load, "feature_output_hook", text, sizeof text))
        saei_origin_hook_out(o, text);
}

/* ---- circuit-tracer: W_enc_i, W_dec_i [m,L-i,d], by source ---- */

static sae_result saei_tracer_clt_layer(saei_clt_draft *draft, size_t i, bool *jump) {
    sae_clt *clt = draft->clt;
    const size_t L = clt->desc.layers, d = clt->desc.activation_dim, m = clt->desc.dict_size;
    char key[32];
    const sae_tensor *t = NULL;
    saei_clt_layer *layer = &clt->layers[i];
    SAEI_TRY(saei_clt_file_n(draft, "W_enc_", i, ".safetensors"));
    snprintf(key, sizeof key, "W_enc_%zu", i);
    SAEI_TRY(saei_clt_tensor(draft, key, 2, m, d, 0, &t));
    layer->W_enc = saei_clt_matrix_of(t, false);
    if (i == 0) clt->origin.dtype = t->dtype;
    snprintf(key, sizeof key, "b_enc_%zu", i);
    SAEI_TRY(saei_clt_vector_named(draft, key, m, &layer->b_enc));
    snprintf(key, sizeof key, "b_dec_%zu", i);
    SAEI_TRY(saei_clt_vector_named(draft, key, d, &layer->b_dec));
    snprintf(key, sizeof key, "threshold_%zu", i);
    if (i == 0) *jump = saei_clt_find(draft, key) != NULL;
    if (*jump != (saei_clt_find(draft, key) != NULL))
        return saei_load_fail(draft->load, SAE_ERR_FORMAT, "some layers have thresholds, %s has %s",
                              draft->name, *jump ? "none" : "one");
    if (*jump) SAEI_TRY(saei_clt_vector_named(draft, key, m, &layer->theta));
    SAEI_TRY(saei_clt_file_n(draft, "W_dec_", i, ".safetensors"));
    snprintf(key, sizeof key, "W_dec_%zu", i);
    SAEI_TRY(saei_clt_tensor(draft, key, 3, m, L - i, d, &t));
    for (size_t to = i; to < L; to++) {
        sae_tensor block = saei_draft_layer(t, 1, to - i).tensor;
        clt->blocks[i * L + to].W_dec = saei_clt_matrix_of(&block, false);
    }
    return SAE_OK;
}

static sae_result saei_tracer_clt_read(saei_clt_draft *draft) {
    sae_clt_desc desc;
    size_t shape[3] = { 0, 0, 0 };
    bool jump = false;
    memset(&desc, 0, sizeof desc);
    SAEI_TRY(saei_clt_count(draft->load, "W_enc_", ".safetensors", &desc.layers));
    SAEI_TRY(saei_clt_file_n(draft, "W_enc_", 0, ".safetensors"));
    SAEI_TRY(saei_clt_shape(draft, "W_enc_0", 2, shape));
    desc.kind = SAE_CLT_CROSS_LAYER;
    desc.dict_size = shape[0];
    desc.activation_dim = shape[1];
    SAEI_TRY(saei_clt_begin(draft, &desc));
    for (size_t i = 0; i < desc.layers; i++) SAEI_TRY(saei_tracer_clt_layer(draft, i, &jump));
    draft->clt->desc.arch = jump ? SAE_ARCH_JUMP_RELU : SAE_ARCH_STANDARD_NEW;
    for (size_t i = 0; i < desc.layers && jump; i++) saei_clt_no_relu(draft->clt, i);
    saei_tracer_origin(draft->load, draft->clt, "cross_layer_transcoder");
    return SAE_OK;
}

/* ---- circuit-tracer: sets of transcoders, layer_N.safetensors ---- */

static sae_result saei_tracer_set_layer(saei_clt_draft *draft, size_t i) {
    sae_clt *clt = draft->clt;
    const size_t L = clt->desc.layers, d = clt->desc.activation_dim, m = clt->desc.dict_size;
    saei_clt_layer *layer = &clt->layers[i];
    saei_clt_block *block = &clt->blocks[i * L + i];
    const sae_tensor *t = NULL;
    SAEI_TRY(saei_clt_file_n(draft, "layer_", i, ".safetensors"));
    SAEI_TRY(saei_clt_tensor(draft, "W_enc", 2, m, d, 0, &t));
    layer->W_enc = saei_clt_matrix_of(t, false);
    if (i == 0) clt->origin.dtype = t->dtype;
    SAEI_TRY(saei_clt_tensor(draft, "W_dec", 2, m, d, 0, &t));
    block->W_dec = saei_clt_matrix_of(t, false);
    SAEI_TRY(saei_clt_vector_named(draft, "b_enc", m, &layer->b_enc));
    SAEI_TRY(saei_clt_vector_named(draft, "b_dec", d, &layer->b_dec));
    if (saei_clt_find(draft, "W_skip")) {
        SAEI_TRY(saei_clt_tensor(draft, "W_skip", 2, d, d, 0, &t));
        block->W_skip = saei_clt_matrix_of(t, false);
    }
    if (clt->desc.arch != SAE_ARCH_JUMP_RELU) return SAE_OK;
    SAEI_TRY(saei_clt_vector_named(draft, "activation_function.threshold", m, &layer->theta));
    saei_clt_no_relu(clt, i);
    return SAE_OK;
}

static sae_result saei_tracer_set_read(saei_clt_draft *draft) {
    sae_clt_desc desc;
    sae_dictionary_desc one;
    size_t shape[3] = { 0, 0, 0 };
    memset(&desc, 0, sizeof desc);
    memset(&one, 0, sizeof one);
    SAEI_TRY(saei_clt_count(draft->load, "layer_", ".safetensors", &desc.layers));
    SAEI_TRY(saei_clt_file_n(draft, "layer_", 0, ".safetensors"));
    SAEI_TRY(saei_clt_shape(draft, "W_enc", 2, shape));
    SAEI_TRY(saei_tracer_activation(draft->load, saei_clt_find(draft,
                                    "activation_function.threshold") != NULL, &one));
    desc.kind = SAE_CLT_SET;
    desc.dict_size = shape[0];
    desc.activation_dim = shape[1];
    desc.arch = one.arch;
    desc.activation = one.activation;
    desc.k = one.k;
    SAEI_TRY(saei_clt_begin(draft, &desc));
    for (size_t i = 0; i < desc.layers; i++) SAEI_TRY(saei_tracer_set_layer(draft, i));
    saei_tracer_origin(draft->load, draft->clt, "transcoder_set");
    return SAE_OK;
}

/* ---- Gemma Scope 2: params_layer_i, w_dec [m,L,d] to all ---- */

static sae_result saei_gemma_clt_layer(saei_clt_draft *draft, size_t i, bool affine) {
    sae_clt *clt = draft->clt;
    const size_t L = clt->desc.layers, d = clt->desc.activation_dim, m = clt->desc.dict_size;
    saei_clt_layer *layer = &clt->layers[i];
    const sae_tensor *t = NULL;
    SAEI_TRY(saei_clt_file_n(draft, "params_layer_", i, ".safetensors"));
    SAEI_TRY(saei_clt_tensor(draft, "w_enc", 2, d, m, 0, &t));
    layer->W_enc = saei_clt_matrix_of(t, true);
    if (i == 0) clt->origin.dtype = t->dtype;
    SAEI_TRY(saei_clt_tensor(draft, "w_dec", 3, m, L, d, &t));
    for (size_t to = 0; to < L; to++) {
        sae_tensor block = saei_draft_layer(t, 1, to).tensor;
        clt->blocks[i * L + to].W_dec = saei_clt_matrix_of(&block, false);
    }
    SAEI_TRY(saei_clt_vector_named(draft, "b_enc", m, &layer->b_enc));
    SAEI_TRY(saei_clt_vector_named(draft, "b_dec", d, &layer->b_dec));
    SAEI_TRY(saei_clt_vector_named(draft, "threshold", m, &layer->theta));
    if (affine != (saei_clt_find(draft, "affine_skip_connection") != NULL))
        return saei_load_fail(draft->load, SAE_ERR_MISMATCH, "affine_connection in config.json is "
                              "%s, and %s has %s affine_skip_connection",
                              affine ? "true" : "not true", draft->name, affine ? "no" : "an");
    if (!affine) return SAE_OK;
    SAEI_TRY(saei_clt_tensor(draft, "affine_skip_connection", 2, d, d, 0, &t));
    clt->blocks[i * L + i].W_skip = saei_clt_matrix_of(t, true);
    return SAE_OK;
}

static sae_result saei_gemma_clt_read(saei_clt_draft *draft) {
    const saei_load *load = draft->load;
    const char *type = saei_config_text(load->root, "type");
    const char *arch = saei_config_text(load->root, "architecture");
    char quoted[SAEI_QUOTE];
    size_t shape[3] = { 0, 0, 0 }, count;
    sae_clt_desc desc;
    sae_origin *o = &draft->clt->origin;
    bool affine = false;
    memset(&desc, 0, sizeof desc);
    draft->load->config = load->root;
    if (load->root && (!arch || strcmp(arch, "jump_relu") != 0))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "architecture in config.json is %s, "
                              "allowed is jump_relu", arch ? saei_quote(arch, quoted) : "missing");
    if (type && strcmp(type, "clt") != 0 && strcmp(type, "crosscoder") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "type in config.json is %s, allowed are "
                              "clt, crosscoder", saei_quote(type, quoted));
    SAEI_TRY(saei_clt_count(load, "params_layer_", ".safetensors", &count));
    SAEI_TRY(saei_clt_file_n(draft, "params_layer_", 0, ".safetensors"));
    SAEI_TRY(saei_clt_shape(draft, "w_dec", 3, shape));
    if (!load->root) affine = saei_clt_find(draft, "affine_skip_connection") != NULL;
    SAEI_TRY(saei_config_bool(load, "affine_connection", &affine));
    if (count != shape[1])
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "w_dec in params_layer_0.safetensors is to "
                              "%zu layers: there %s%zu.safetensors", shape[1],
                              count < shape[1] ? "is no params_layer_" : "may be no params_layer_",
                              count < shape[1] ? count : shape[1]);
    desc.kind = type && strcmp(type, "crosscoder") == 0 ? SAE_CLT_CROSSCODER : SAE_CLT_CROSS_LAYER;
    desc.layers = count;
    desc.dict_size = shape[0];
    desc.activation_dim = shape[2];
    desc.arch = SAE_ARCH_JUMP_RELU;
    SAEI_TRY(saei_clt_begin(draft, &desc));
    for (size_t i = 0; i < count; i++) SAEI_TRY(saei_gemma_clt_layer(draft, i, affine));
    saei_origin_text(o->class_name, sizeof o->class_name,
                     desc.kind == SAE_CLT_CROSSCODER ? "crosscoder" : "clt");
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, saei_config_text(load->root, "hf_hook_point_in"));
    saei_origin_hook_out(o, saei_config_text(load->root, "hf_hook_point_out"));
    return SAE_OK;
}

/* ---- CLT-Forge: clt_cfg.json, W_dec of pairs (0,0) (0,1) .. (1,1) .. ---- */

static sae_result saei_forge_layer(saei_clt_draft *draft, size_t i, bool cross,
                                   const sae_tensor *const t[5]) {
    sae_clt *clt = draft->clt;
    const size_t L = clt->desc.layers, m = clt->desc.dict_size;
    size_t pair = cross ? i * L - i * (i - 1) / 2 : i; /* i = 0: 0 */
    saei_clt_layer *layer = &clt->layers[i];
    sae_tensor part = saei_clt_part(t[0], i);
    layer->W_enc = saei_clt_matrix_of(&part, true);
    part = saei_clt_part(t[1], i);
    SAEI_TRY(saei_clt_vector(draft, &part, m, &layer->b_enc));
    part = saei_clt_part(t[2], i);
    SAEI_TRY(saei_clt_vector(draft, &part, m, &layer->theta));
    saei_clt_exp(layer->theta, m);
    for (size_t to = i; to < (cross ? L : i + 1); to++, pair++) {
        part = saei_clt_part(t[3], pair);
        clt->blocks[i * L + to].W_dec = saei_clt_matrix_of(&part, false);
        part = saei_clt_part(t[4], pair);
        SAEI_TRY(saei_clt_bias(draft, to, &part, 1)); /* that of a target: the sum over sources */
    }
    return SAE_OK;
}

/* x times ..._in, x_hat divided by ..._out, of each layer. */
static sae_result saei_forge_scales(saei_clt_draft *draft) {
    static const char *const names[] = { "estimated_norm_scaling_factor_in",
                                         "estimated_norm_scaling_factor_out" };
    sae_clt *clt = draft->clt;
    for (size_t side = 0; side < 2; side++) {
        float *scale;
        if (!saei_clt_find(draft, names[side])) continue;
        SAEI_TRY(saei_clt_vector_named(draft, names[side], clt->desc.layers, &scale));
        for (size_t l = 0; l < clt->desc.layers; l++) {
            if (!(scale[l] > 0) || !(1 / scale[l] <= FLT_MAX))
                return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s of layer %zu is %g, allowed "
                                      "are numbers above 0", names[side], l, (double)scale[l]);
            if (side) clt->layers[l].out_scale = 1 / scale[l];
            else clt->layers[l].in_scale = scale[l];
        }
    }
    return SAE_OK;
}

static sae_result saei_forge_read(saei_clt_draft *draft) {
    static const char *const names[] = { "W_enc", "b_enc", "log_threshold", "W_dec", "b_dec" };
    const sae_tensor *t[5] = { NULL, NULL, NULL, NULL, NULL };
    saei_load *load = draft->load;
    sae_clt_desc desc;
    size_t pairs;
    bool cross = true;
    memset(&desc, 0, sizeof desc);
    load->config = load->root;
    SAEI_TRY(saei_config_required(load, "n_layers", &desc.layers));
    SAEI_TRY(saei_config_required(load, "d_in", &desc.activation_dim));
    SAEI_TRY(saei_config_required(load, "d_latent", &desc.dict_size));
    SAEI_TRY(saei_config_bool(load, "cross_layer_decoders", &cross));
    desc.kind = SAE_CLT_CROSS_LAYER;
    desc.arch = SAE_ARCH_JUMP_RELU;
    SAEI_TRY(saei_clt_begin(draft, &desc));
    SAEI_TRY(saei_clt_file(draft, "clt_weights.safetensors"));
    pairs = cross ? desc.layers * (desc.layers + 1) / 2 : desc.layers;
    SAEI_TRY(saei_clt_tensor(draft, names[0], 3, desc.layers, desc.activation_dim, desc.dict_size,
                             &t[0]));
    SAEI_TRY(saei_clt_tensor(draft, names[1], 2, desc.layers, desc.dict_size, 0, &t[1]));
    SAEI_TRY(saei_clt_tensor(draft, names[2], 2, desc.layers, desc.dict_size, 0, &t[2]));
    SAEI_TRY(saei_clt_tensor(draft, names[3], 3, pairs, desc.dict_size, desc.activation_dim,
                             &t[3]));
    SAEI_TRY(saei_clt_tensor(draft, names[4], 2, pairs, desc.activation_dim, 0, &t[4]));
    for (size_t i = 0; i < desc.layers; i++) SAEI_TRY(saei_forge_layer(draft, i, cross, t));
    SAEI_TRY(saei_forge_scales(draft));
    draft->clt->origin.dtype = t[0]->dtype;
    saei_origin_text(draft->clt->origin.class_name, sizeof draft->clt->origin.class_name,
                     cross ? "cross_layer_decoders" : "clt, each layer alone");
    saei_origin_text(draft->clt->origin.model, sizeof draft->clt->origin.model,
                     saei_config_text(load->root, "model_name"));
    return SAE_OK;
}

/* ---- Llamascopium: W_D.t [t+1,m,d], by target ---- */

/* A hook of each layer, and sqrt(d) / its norm. */
static sae_result saei_scopium_hooks(saei_clt_draft *draft, const char *key, bool dataset,
                                     bool out) {
    const saei_load *load = draft->load;
    const sae_json *hooks = saei_config_value(load->root, key), *hook = sae_json_first(hooks);
    const size_t d = draft->clt->desc.activation_dim;
    for (size_t l = 0; l < draft->clt->desc.layers; l++, hook = sae_json_next(hook)) {
        saei_clt_layer *layer = &draft->clt->layers[l];
        char name[160];
        double norm;
        float scale = 1;
        if (!sae_json_text(hook))
            return saei_load_fail(load, SAE_ERR_FORMAT, "%s in config.json is no list of %zu texts",
                                  key, draft->clt->desc.layers);
        if (!dataset) continue;
        snprintf(name, sizeof name, "dataset_average_activation_norm.%.96s", sae_json_text(hook));
        SAEI_TRY(saei_clt_number(draft, name, &norm));
        SAEI_TRY(saei_scopium_factor(load, norm, d, "dataset_average_activation_norm", &scale));
        if (out) layer->out_scale = 1 / scale;
        else layer->in_scale = scale;
    }
    return SAE_OK;
}

/* act_fn of a clt knows two more. */
static sae_result saei_scopium_clt_desc(const saei_load *load, sae_clt_desc *desc,
                                        saei_scopium *s) {
    const char *act = saei_config_text(load->root, "act_fn");
    sae_dictionary_desc one;
    memset(&one, 0, sizeof one);
    desc->kind = SAE_CLT_CROSS_LAYER;
    SAEI_TRY(saei_scopium_width(load, &one));
    desc->activation_dim = one.activation_dim;
    desc->dict_size = one.dict_size;
    s->over_layers = act && (strcmp(act, "layertopk") == 0 || strcmp(act, "batchlayertopk") == 0);
    SAEI_TRY(saei_scopium_config(load, &one, s));
    if (one.input_norm)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "norm_activation in config.json is "
                              "token-wise: the norms of what a clt gives are not known");
    if (s->glu || s->subtract)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "use_glu_encoder or "
                              "apply_decoder_bias_to_pre_encoder is true in config.json, which a "
                              "clt has not");
    desc->arch = one.arch;
    desc->gate = one.gate != SAE_GATE_NONE;
    desc->k = one.k;
    desc->over_layers = s->over_layers;
    return SAE_OK;
}

static sae_result saei_scopium_clt_layer(saei_clt_draft *draft, const saei_scopium *s, size_t i,
                                         const sae_tensor *const t[3]) {
    sae_clt *clt = draft->clt;
    const size_t L = clt->desc.layers, d = clt->desc.activation_dim, m = clt->desc.dict_size;
    saei_clt_layer *layer = &clt->layers[i];
    sae_tensor part = saei_clt_part(t[0], i);
    const sae_tensor *dec = NULL;
    char key[32];
    layer->W_enc = saei_clt_matrix_of(&part, true);
    part = saei_clt_part(t[1], i);
    SAEI_TRY(saei_clt_vector(draft, &part, m, &layer->b_enc));
    if (t[2]) {
        part = saei_clt_part(t[2], i);
        SAEI_TRY(saei_clt_vector(draft, &part, m, &layer->theta));
        saei_clt_exp(layer->theta, m);
    }
    snprintf(key, sizeof key, "W_D.%zu", i);
    SAEI_TRY(saei_clt_tensor(draft, key, 3, i + 1, m, d, &dec));
    for (size_t from = 0; from <= i; from++) {
        part = saei_clt_part(dec, from);
        clt->blocks[from * L + i].W_dec = saei_clt_matrix_of(&part, false);
    }
    snprintf(key, sizeof key, "b_D.%zu", i);
    return s->decoder_bias ? saei_clt_vector_named(draft, key, d, &layer->b_dec) : SAE_OK;
}

static sae_result saei_scopium_clt_read(saei_clt_draft *draft) {
    static const char *const files[] = { "sae_weights.safetensors", "sae_weights.pt",
                                         "checkpoints/final.safetensors", "checkpoints/final.pt" };
    const char *theta = "activation_function.log_jumprelu_threshold";
    const sae_tensor *t[3] = { NULL, NULL, NULL };
    saei_load *load = draft->load;
    sae_clt_desc desc;
    saei_scopium s;
    size_t i = 0;
    bool there = false;
    memset(&desc, 0, sizeof desc);
    memset(&s, 0, sizeof s);
    load->config = load->root;
    SAEI_TRY(saei_scopium_clt_desc(load, &desc, &s));
    desc.layers = sae_json_count(saei_config_value(load->root, "hook_points_in"));
    SAEI_TRY(saei_clt_begin(draft, &desc));
    for (; i < 4; i++) {
        SAEI_TRY(saei_clt_there(load, files[i], &there));
        if (there) break;
    }
    if (!there)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is none of sae_weights.safetensors, "
                              "sae_weights.pt, checkpoints/final.safetensors, "
                              "checkpoints/final.pt");
    SAEI_TRY(saei_clt_file(draft, files[i]));
    SAEI_TRY(saei_clt_tensor(draft, "W_E", 3, desc.layers, desc.activation_dim, desc.dict_size,
                             &t[0]));
    SAEI_TRY(saei_clt_tensor(draft, "b_E", 2, desc.layers, desc.dict_size, 0, &t[1]));
    if (desc.arch == SAE_ARCH_JUMP_RELU)
        SAEI_TRY(saei_clt_tensor(draft, theta, 2, desc.layers, desc.dict_size, 0, &t[2]));
    for (i = 0; i < desc.layers; i++) SAEI_TRY(saei_scopium_clt_layer(draft, &s, i, t));
    SAEI_TRY(saei_scopium_hooks(draft, "hook_points_in", s.dataset, false));
    SAEI_TRY(saei_scopium_hooks(draft, "hook_points_out", s.dataset, true));
    draft->clt->origin.dtype = t[0]->dtype;
    snprintf(draft->clt->origin.class_name, sizeof draft->clt->origin.class_name, "clt, %.20s",
             s.act);
    saei_origin_text(draft->clt->origin.hook, sizeof draft->clt->origin.hook,
                     sae_json_text(sae_json_first(saei_config_value(load->root,
                                                                    "hook_points_in"))));
    saei_origin_hook_out(&draft->clt->origin,
                         sae_json_text(sae_json_first(saei_config_value(load->root,
                                                                        "hook_points_out"))));
    return SAE_OK;
}
