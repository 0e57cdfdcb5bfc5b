#pragma once
#include "export.h"
#include "reading.h"

/* ==== >>files: SAELens ======================================================================== */

typedef enum saei_lens_kind { SAEI_LENS_SAE, SAEI_LENS_TRANSCODER, SAEI_LENS_SKIP } saei_lens_kind;

/* The architectures that are one of ours. STANDARD means either of the two. */
static const struct {
    const char *name;
    sae_arch arch;
    sae_activation latents;
    saei_lens_kind kind;
} saei_lens_archs[] = {
    { "standard", SAE_ARCH_STANDARD, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "topk", SAE_ARCH_TOP_K, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "abstopk", SAE_ARCH_TOP_K, SAE_ACTIVATION_MAGNITUDE, SAEI_LENS_SAE },
    { "gated", SAE_ARCH_GATED, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "jumprelu", SAE_ARCH_JUMP_RELU, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "batchtopk", SAE_ARCH_BATCH_TOP_K, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "matryoshka_batchtopk", SAE_ARCH_MATRYOSHKA, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "transcoder", SAE_ARCH_STANDARD_NEW, SAE_ACTIVATION_POSITIVE, SAEI_LENS_TRANSCODER },
    { "skip_transcoder", SAE_ARCH_STANDARD_NEW, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SKIP },
    { "jumprelu_transcoder", SAE_ARCH_JUMP_RELU, SAE_ACTIVATION_POSITIVE, SAEI_LENS_TRANSCODER },
    { "jumprelu_skip_transcoder", SAE_ARCH_JUMP_RELU, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SKIP },
    { "matching_pursuit", SAE_ARCH_MATCHING_PURSUIT, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE }
};
enum { SAEI_NUM_LENS_ARCHS = sizeof saei_lens_archs / sizeof saei_lens_archs[0] };

/* What cfg.json says. */
typedef struct saei_lens_cfg {
    size_t arch; /* in the table */
    bool flat;   /* of before 6.0, or read as such: without a version */
    bool rescale, scaled; /* rescale_acts_by_decoder_norm, finetuning_scaling_factor */
    bool no_b_dec; /* apply_b_dec_to_input is false */
    const sae_json *meta;
} saei_lens_cfg;

static bool saei_lens_probe(const saei_load *load) {
    return saei_config_value(load->root, "d_sae") && !saei_config_value(load->root, "d_model")
           && saei_load_find(load, "W_dec");
}

static sae_result saei_lens_arch(const saei_load *load, saei_lens_cfg *cfg) {
    const char *version = saei_config_text(load->root, "sae_lens_version"), *name, *activation;
    const sae_json *kwargs = sae_json_get(load->root, "activation_fn_kwargs");
    char quoted[SAEI_QUOTE];
    cfg->meta = sae_json_get(load->root, "metadata");
    if (!cfg->meta || cfg->meta->type != SAE_JSON_OBJECT) cfg->meta = load->root;
    if (!version || !*version) version = saei_config_text(cfg->meta, "sae_lens_version");
    cfg->flat = !version || (version[0] < '6' && (version[1] == '.' || !version[0]));
    name = saei_config_text(load->root, "architecture");
    if (cfg->flat) {
        bool top_k;
        activation = saei_config_text(load->root, "activation_fn_str");
        if (!activation) activation = saei_config_text(load->root, "activation_fn");
        top_k = activation && strcmp(activation, "topk") == 0;
        if (activation && !top_k && strcmp(activation, "relu") != 0)
            return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "activation_fn in cfg.json is %s, "
                                  "allowed are relu, topk", saei_quote(activation, quoted));
        if (top_k && saei_config_value(kwargs, "k")) name = "topk";
        else if (!name) name = "standard";
        if (top_k && strcmp(name, "standard") == 0)
            return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "activation_fn in cfg.json is topk, "
                                  "and activation_fn_kwargs does not say k");
    }
    for (size_t i = 0; name && i < SAEI_NUM_LENS_ARCHS; i++)
        if (strcmp(name, saei_lens_archs[i].name) == 0) {
            cfg->arch = i;
            return SAE_OK;
        }
    return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "architecture in cfg.json is %s, allowed are "
                          "standard, topk, abstopk, gated, jumprelu, batchtopk, "
                          "matryoshka_batchtopk, transcoder, skip_transcoder, jumprelu_transcoder, "
                          "jumprelu_skip_transcoder, matching_pursuit",
                          name ? saei_quote(name, quoted) : "missing");
}

/* What activation_scaler.json, beside a checkpoint of SAELens' trainer, says of its input. */
static sae_result saei_lens_scaler(const saei_load *load, bool *there, double *factor,
                                   bool *whitened) {
    char *path = saei_config_path(load, "activation_scaler.json", false);
    saei_path_kind kind = SAEI_PATH_NONE;
    const sae_json *v;
    sae_json *root = NULL;
    sae_result result = path ? SAE_OK : saei_load_no_memory(load);
    *there = *whitened = false;
    *factor = 0;
    if (result == SAE_OK && !load->data)
        result = saei_path_find(load->ctx, load->who, path, &kind);
    if (result == SAE_OK && kind == SAEI_PATH_FILE)
        result = saei_json_load(load->ctx, load->who, path, &root);
    v = saei_config_value(root, "scaling_factor");
    if (v && v->type == SAE_JSON_NUMBER) *factor = v->number;
    v = saei_config_value(root, "has_whitening");
    *whitened = v && v->type == SAE_JSON_BOOL && v->number != 0;
    *there = root != NULL;
    sae_json_close(root);
    saei_free(load->ctx, path);
    return result;
}

/* A norm that SAELens' trainer folds into the weights at the end, and its loaders do not know:
   whether that has been done only activation_scaler.json can tell. */
static sae_result saei_lens_folded(const saei_load *load, const char *norm) {
    bool there, whitened;
    double factor;
    SAEI_TRY(saei_lens_scaler(load, &there, &factor, &whitened));
    if (load->desc.input_scale > 0) return SAE_OK;
    if (whitened)
        saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s: activation_scaler.json "
                 "beside it says that in training x was whitened (activation_whitening."
                 "safetensors): the weights are for such x, and x is taken as it is", load->who,
                 load->file);
    else if (factor > 0 && factor != 1)
        saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s: activation_scaler.json "
                 "beside it says that in training x was multiplied by %.9g: the weights are for "
                 "such x, and x is taken as it is, as SAELens does; sae_load_desc.input_scale %.9g "
                 "folds it in", load->who, load->file, factor, factor);
    else if (!there)
        saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s: normalize_activations is "
                 "%s, and nothing tells whether that was folded into the weights: x is taken as it "
                 "is; if they are for x times a factor, give it as sae_load_desc.input_scale",
                 load->who,
                 load->config_path, norm);
    return SAE_OK;
}

static sae_result saei_lens_norm(const saei_load *load, const saei_lens_cfg *cfg,
                                 sae_input_norm *out) {
    const sae_json *v = sae_json_get(load->root, "normalize_activations");
    bool none = v && v->type == SAE_JSON_NULL;
    *out = SAE_INPUT_NORM_NONE;
    if (!v || (cfg->flat && none)) return SAE_OK;
    if (cfg->flat && v->type == SAE_JSON_BOOL)
        return v->number != 0 ? saei_lens_folded(load, "true") : SAE_OK;
    if (v->type == SAE_JSON_STRING) {
        if (strcmp(v->string, "none") == 0) return SAE_OK;
        if (strcmp(v->string, "constant_norm_rescale") == 0) *out = SAE_INPUT_NORM_CONSTANT;
        if (strcmp(v->string, "layer_norm") == 0) *out = SAE_INPUT_NORM_LAYER;
        if (*out) return SAE_OK;
        if (strcmp(v->string, "expected_average_only_in") == 0
            || strcmp(v->string, "covariance_whitening") == 0)
            return saei_lens_folded(load, v->string);
    }
    return saei_config_refused(load, "normalize_activations", v, "none, layer_norm, "
                               "constant_norm_rescale, expected_average_only_in, "
                               "covariance_whitening");
}

/* k of the top-k architectures, where SAELens' default is 100; batch top-k takes fractions. */
static sae_result saei_lens_k(const saei_load *load, const saei_lens_cfg *cfg,
                              sae_dictionary_desc *desc) {
    const sae_json *k = saei_config_value(load->root, "k");
    const sae_json *kwargs = sae_json_get(load->root, "activation_fn_kwargs");
    double value = 100;
    bool batch = desc->arch != SAE_ARCH_TOP_K;
    if (cfg->flat && saei_config_value(kwargs, "k")) k = saei_config_value(kwargs, "k");
    if (k && (k->type != SAE_JSON_NUMBER || (!batch && !k->is_integer) || !(k->number >= 1)))
        return saei_config_refused(load, "k", k, batch ? "a number from 1"
                                                       : "a whole number from 1");
    if (k) value = k->number;
    if (!(value <= (double)desc->dict_size))
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %g%s, allowed are 1 to d_sae, %zu", value,
                              k ? "" : " (SAELens' default, cfg.json says none)", desc->dict_size);
    desc->k = (size_t)value;
    desc->k_fraction = value - floor(value);
    return SAE_OK;
}

/* matryoshka_widths [18, 36, 72] are groups of 18, 18, 36; what they do not say is one group. They
   matter to training alone. */
static void saei_lens_groups(const saei_load *load, sae_dictionary_desc *desc) {
    const sae_json *widths = saei_config_value(load->root, "matryoshka_widths");
    size_t end = 0;
    desc->num_groups = 0;
    for (const sae_json *w = sae_json_first(widths); w; w = sae_json_next(w)) {
        if (w->type != SAE_JSON_NUMBER || !w->is_integer || w->number <= (double)end
            || w->number > (double)desc->dict_size || desc->num_groups == SAE_MAX_GROUPS - 1) {
            end = desc->num_groups = 0;
            break;
        }
        desc->group_sizes[desc->num_groups++] = (size_t)w->number - end;
        end = (size_t)w->number;
    }
    if (end < desc->dict_size) desc->group_sizes[desc->num_groups++] = desc->dict_size - end;
}

static sae_result saei_lens_dtype(const saei_load *load) {
    static const char *const names[] = { "float32", "float16", "bfloat16", "float64" };
    const sae_json *v = saei_config_value(load->root, "dtype");
    const char *name = v && v->type == SAE_JSON_STRING ? v->string : "";
    if (!v) return SAE_OK;
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    for (size_t i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) return SAE_OK;
    return saei_config_refused(load, "dtype", v, "float32, float16, bfloat16, float64");
}

/* Of matching_pursuit. */
static sae_result saei_lens_pursuit(const saei_load *load, sae_dictionary_desc *desc) {
    const sae_json *least = saei_config_value(load->root, "residual_threshold");
    bool stop = true;
    desc->no_b_dec_subtraction = false; /* without apply_b_dec_to_input there is no b_dec at all */
    if (least && (least->type != SAE_JSON_NUMBER || !(fabs(least->number) <= FLT_MAX)))
        return saei_config_refused(load, "residual_threshold", least, "a number");
    desc->residual_threshold = !least ? 1e-2 : least->number > 0 ? least->number : 0;
    if (saei_config_value(load->root, "max_iterations"))
        SAEI_TRY(saei_config_required(load, "max_iterations", &desc->max_iterations));
    SAEI_TRY(saei_config_bool(load, "stop_on_duplicate_support", &stop));
    desc->repeats = !stop;
    if (desc->input_norm)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "normalize_activations in cfg.json is not "
                              "none, which is all that is known with matching_pursuit");
    return SAE_OK;
}

static sae_result saei_lens_desc(const saei_load *load, saei_lens_cfg *cfg,
                                 sae_dictionary_desc *desc) {
    bool subtract = true;
    saei_lens_kind kind;
    SAEI_TRY(saei_lens_arch(load, cfg));
    kind = saei_lens_archs[cfg->arch].kind;
    desc->arch = saei_lens_archs[cfg->arch].arch;
    desc->activation = saei_lens_archs[cfg->arch].latents;
    SAEI_TRY(saei_config_required(load, "d_in", &desc->activation_dim));
    SAEI_TRY(saei_config_required(load, "d_sae", &desc->dict_size));
    SAEI_TRY(saei_lens_dtype(load));
    SAEI_TRY(saei_lens_norm(load, cfg, &desc->input_norm));
    SAEI_TRY(saei_config_bool(load, "apply_b_dec_to_input", &subtract));
    cfg->scaled = false;
    SAEI_TRY(saei_config_bool(load, "finetuning_scaling_factor", &cfg->scaled));
    if (kind != SAEI_LENS_SAE && subtract)
        return saei_load_fail(load, SAE_ERR_FORMAT, "apply_b_dec_to_input in cfg.json is true (or "
                              "missing), allowed is false for a %s",
                              saei_lens_archs[cfg->arch].name);
    if (desc->arch == SAE_ARCH_JUMP_RELU) desc->subtract_b_dec = subtract;
    else if (desc->arch == SAE_ARCH_STANDARD && !subtract) desc->arch = SAE_ARCH_STANDARD_NEW;
    else if (desc->arch != SAE_ARCH_STANDARD_NEW) desc->no_b_dec_subtraction = !subtract;
    if (kind != SAEI_LENS_SAE) {
        SAEI_TRY(saei_config_required(load, "d_out", &desc->output_dim));
        desc->output_normalized = desc->input_norm != SAE_INPUT_NORM_NONE;
        desc->skip = kind == SAEI_LENS_SKIP;
    }
    cfg->no_b_dec = !subtract;
    if (desc->arch == SAE_ARCH_MATCHING_PURSUIT) return saei_lens_pursuit(load, desc);
    if (!saei_arch_selects(desc->arch)) return SAE_OK;
    cfg->rescale = desc->arch != SAE_ARCH_TOP_K; /* the defaults of SAELens' classes */
    SAEI_TRY(saei_config_bool(load, "rescale_acts_by_decoder_norm", &cfg->rescale));
    if (desc->arch == SAE_ARCH_MATRYOSHKA) saei_lens_groups(load, desc);
    return saei_lens_k(load, cfg, desc);
}

/* A scaling_factor of ones, which SAELens wrote for a time, means nothing; another one belongs to
   finetuning_scaling_factor. */
static sae_result saei_lens_scale(saei_draft *draft, bool scaled) {
    size_t key = 0, m = draft->desc.dict_size;
    const sae_tensor *t;
    bool ones = true;
    float *scale;
    sae_result result;
    while (key < draft->count && draft->keys[key].slot != SAEI_SLOT_SCALE) key++;
    t = key < draft->count ? draft->keys[key].tensor : NULL;
    if (!t) return SAE_OK;
    SAEI_TRY(saei_draft_check(draft, key));
    scale = (float *)saei_alloc(draft->load->ctx, m, sizeof *scale);
    if (!scale)
        return saei_load_fail(draft->load, SAE_ERR_OUT_OF_MEMORY, "no memory for %s", t->name);
    result = saei_draft_read(draft, t, -1, false, scale, 0);
    for (size_t i = 0; i < m && result == SAE_OK; i++)
        ones = ones && fabsf(scale[i] - 1) <= 1e-8f + 1e-5f;
    saei_free(draft->load->ctx, scale);
    SAEI_TRY(result);
    if (ones) draft->keys[key].slot = SAEI_SLOT_NOTHING;
    else if (!scaled)
        return saei_load_fail(draft->load, SAE_ERR_UNSUPPORTED, "%s is not all ones, and "
                              "finetuning_scaling_factor in cfg.json is not true", t->name);
    return SAE_OK;
}

static void saei_lens_keys(saei_draft *draft) {
    sae_arch arch = draft->desc.arch;
    bool gated = arch == SAE_ARCH_GATED, tied = arch == SAE_ARCH_MATCHING_PURSUIT;
    if (!tied) saei_draft_must(draft, "W_enc", SAEI_SLOT_W_ENC_T, NULL, SAEI_SLOT_NOTHING);
    if (!tied)
        saei_draft_must(draft, gated ? "b_gate" : "b_enc", SAEI_SLOT_B_ENC, NULL,
                        SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "W_dec", SAEI_SLOT_W_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (gated) {
        saei_draft_must(draft, "r_mag", SAEI_SLOT_AUX0, NULL, SAEI_SLOT_NOTHING);
        saei_draft_must(draft, "b_mag", SAEI_SLOT_AUX1, NULL, SAEI_SLOT_NOTHING);
    }
    if (arch == SAE_ARCH_JUMP_RELU)
        saei_draft_must(draft, "threshold", SAEI_SLOT_AUX0, "log_threshold", SAEI_SLOT_AUX0);
    if (arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA)
        saei_draft_must(draft, "topk_threshold", SAEI_SLOT_THRESHOLD, NULL, SAEI_SLOT_NOTHING);
    if (draft->desc.skip)
        saei_draft_must(draft, "W_skip", SAEI_SLOT_W_SKIP, NULL, SAEI_SLOT_NOTHING);
    saei_draft_may(draft, "scaling_factor", SAEI_SLOT_SCALE);
}

/* Of model_from_pretrained_kwargs those that change what the model's places give. */
static const char *const saei_lens_options[] = { "center_writing_weights", "fold_value_biases" };

/* seqpos_slice: the arguments of Python's slice(), [end], [first, end] or [first, end, step]. */
static sae_result saei_lens_positions(const saei_load *load, const sae_json *v, sae_origin *o) {
    const sae_json *at = v && v->type == SAE_JSON_ARRAY ? sae_json_first(v) : NULL;
    int64_t given[3], unset[] = { 0, INT64_MAX, 1 };
    size_t count = 0;
    for (; at && count < 3; at = sae_json_next(at), count++) {
        bool whole = at->type == SAE_JSON_NUMBER && at->is_integer && at->number <= INT32_MAX
                     && at->number >= (count < 2 ? INT32_MIN : 1);
        if (at->type == SAE_JSON_NULL) given[count] = unset[sae_json_count(v) == 1 ? 1 : count];
        else if (whole) given[count] = (int64_t)at->number;
        else break;
    }
    if (v && (v->type != SAE_JSON_ARRAY || at || !count))
        return saei_config_refused(load, "seqpos_slice", v, "a list of one to three whole numbers "
                                   "or null, the step from 1");
    if (!v) return SAE_OK;
    memcpy(o->positions, unset, sizeof unset);
    if (count == 1) o->positions[1] = given[0];
    else memcpy(o->positions, given, count * sizeof *given);
    if (memcmp(o->positions, unset, sizeof unset) == 0) memset(o->positions, 0, sizeof unset);
    return SAE_OK;
}

/* What cfg.json says of the dictionary's use. */
static sae_result saei_lens_use(const saei_load *load, const saei_lens_cfg *cfg, sae_origin *o) {
    const sae_json *kwargs = sae_json_get(cfg->meta, "model_from_pretrained_kwargs");
    const sae_json *head = saei_config_value(cfg->meta, "hook_head_index");
    const sae_json *bos = saei_config_value(cfg->meta, "prepend_bos");
    const sae_json *special = saei_config_value(cfg->meta, "exclude_special_tokens"), *v;
    if (!head) head = saei_config_value(cfg->meta, "hook_point_head_index");
    if (head && (head->type != SAE_JSON_NUMBER || !head->is_integer || head->number < 0
                 || head->number > INT32_MAX))
        return saei_config_refused(load, "hook_head_index", head, "a whole number");
    if (head) o->one_head = true, o->head = (size_t)head->number;
    if (bos && bos->type != SAE_JSON_BOOL)
        return saei_config_refused(load, "prepend_bos", bos, "true or false");
    o->prepend_bos = bos ? (bos->number != 0 ? 1 : -1) : cfg->flat ? 1 : 0;
    o->no_special = special && (special->type == SAE_JSON_ARRAY ? sae_json_count(special) > 0
                                                                : special->number != 0);
    for (size_t i = 0; i < 2; i++) {
        v = sae_json_get(kwargs, saei_lens_options[i]);
        if (v && v->type == SAE_JSON_BOOL && v->number != 0)
            snprintf(o->model_options + strlen(o->model_options), 40, "%s%s",
                     *o->model_options ? ", " : "", saei_lens_options[i]);
    }
    return saei_lens_positions(load, saei_config_value(cfg->meta, "seqpos_slice"), o);
}

static void saei_lens_origin(const saei_load *load, const saei_lens_cfg *cfg, sae_origin *o) {
    const sae_json *layer = saei_config_value(load->root, "hook_layer");
    const sae_json *context = saei_config_value(cfg->meta, "context_size");
    const char *hook = saei_config_text(cfg->meta, "hook_name");
    const char *version = saei_config_text(cfg->meta, "sae_lens_version");
    if (!hook) hook = saei_config_text(cfg->meta, "hook_point");
    if (!layer) layer = saei_config_value(load->root, "hook_point_layer");
    if (!version) version = saei_config_text(cfg->meta, "sae_lens_training_version");
    saei_origin_text(o->class_name, sizeof o->class_name, saei_lens_archs[cfg->arch].name);
    saei_origin_text(o->model, sizeof o->model, saei_config_text(cfg->meta, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, hook);
    saei_origin_hook_out(o, saei_config_text(cfg->meta, "hook_name_out"));
    saei_origin_text(o->dataset, sizeof o->dataset, saei_config_text(cfg->meta, "dataset_path"));
    saei_origin_text(o->version, sizeof o->version, version);
    o->layer = layer && layer->is_integer ? (int64_t)layer->number : saei_layer_of(hook);
    if (context && context->is_integer && context->number > 0)
        o->context_size = (size_t)context->number;
}

static sae_result saei_lens_read(saei_load *load, sae_dictionary **out) {
    saei_lens_cfg cfg;
    saei_draft draft;
    sae_dictionary *dict;
    sae_result result;
    memset(&cfg, 0, sizeof cfg);
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no cfg.json beside "
                              "sae_weights.safetensors");
    load->config = load->root;
    SAEI_TRY(saei_lens_desc(load, &cfg, &draft.desc));
    saei_lens_keys(&draft);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, saei_lens_archs[cfg.arch].name);
    SAEI_TRY(saei_lens_scale(&draft, cfg.scaled));
    SAEI_TRY(saei_draft_make(&draft, &dict));
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU && !saei_load_find(load, "threshold"))
        for (size_t i = 0; i < dict->desc.dict_size; i++)
            dict->aux0[i] = (float)saei_exp((double)dict->aux0[i]);
    if (cfg.rescale) saei_fold_decoder_rescale(dict); /* p times the norm */
    if (dict->desc.arch == SAE_ARCH_MATCHING_PURSUIT && cfg.no_b_dec)
        memset(dict->b_dec, 0, dict->ld_out * sizeof *dict->b_dec);
    if (saei_arch_selects(dict->desc.arch)) dict->rule = SAE_RULE_TOP_K; /* also over the batch */
    saei_lens_origin(load, &cfg, &dict->origin);
    result = saei_lens_use(load, &cfg, &dict->origin);
    if (result == SAE_OK) *out = dict;
    else sae_dictionary_destroy(dict);
    return result;
}

/* ---- writing ---- */

static bool saei_export_is_transcoder(const saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    return h->output_dim != h->activation_dim || h->skip || h->output_normalized
           || strstr(e->dict->origin.class_name, "transcoder") != NULL;
}

static sae_result saei_export_lens_fit(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    bool batch = h->arch == SAE_ARCH_BATCH_TOP_K || h->arch == SAE_ARCH_MATRYOSHKA;
    if (h->arch == SAE_ARCH_IDENTITY) return saei_export_refused(e, "identity");
    SAEI_TRY(saei_export_one_place(e));
    if (h->activation == SAE_ACTIVATION_GROUP_MAX) return saei_export_refused(e, "group max");
    if (h->activation == SAE_ACTIVATION_SIGNED)
        return saei_export_refused(e, "latents below 0 but those of abstopk");
    if (batch) SAEI_TRY(saei_export_batch(e));
    if (batch || e->dict->rule == SAE_RULE_THRESHOLD) SAEI_TRY(saei_export_jump_relu(e));
    h = &e->dict->desc;
    if (!saei_export_is_transcoder(e)) return SAE_OK;
    if (h->arch != SAE_ARCH_STANDARD_NEW && h->arch != SAE_ARCH_JUMP_RELU) {
        if (h->output_dim != h->activation_dim || h->skip || h->output_normalized)
            return saei_export_refused(e, "transcoder or skip connection with top-k or gated "
                                          "latents");
        return SAE_OK;
    }
    if (saei_subtracts(h))
        return saei_export_refused(e, "transcoder that takes b_dec from its input");
    if (h->input_norm && !h->output_normalized && h->skip)
        return saei_export_refused(e, "skip connection beside an output in the input's norm");
    return SAE_OK;
}

static const char *saei_export_lens_arch(const saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    if (h->arch == SAE_ARCH_MATCHING_PURSUIT) return "matching_pursuit";
    bool jump = h->arch == SAE_ARCH_JUMP_RELU, norm = h->input_norm && !h->output_normalized;
    if (h->arch == SAE_ARCH_TOP_K) return h->activation ? "abstopk" : "topk";
    if (h->arch == SAE_ARCH_GATED) return "gated";
    if (h->arch == SAE_ARCH_STANDARD) return "standard";
    if (h->skip) return jump ? "jumprelu_skip_transcoder" : "skip_transcoder";
    if (saei_export_is_transcoder(e) && !norm && !saei_subtracts(h))
        return jump ? "jumprelu_transcoder" : "transcoder";
    return jump ? "jumprelu" : "standard";
}

/* hook_name as TransformerLens spells it. */
static void saei_export_lens_hook(const saei_export *e, char *out, size_t size) {
    const sae_origin *o = &e->origin;
    const char *hook = o->hook;
    bool own = strncmp(hook, "blocks.", 7) == 0 || strncmp(hook, "hook_", 5) == 0;
    bool mlp = saei_ends_with(hook, ".mlp") || strstr(hook, "mlp") != NULL;
    if (own || o->layer < 0) snprintf(out, size, "%s", hook);
    else snprintf(out, size, "blocks.%lld.hook_%s", (long long)o->layer,
                  mlp ? "mlp_out" : strstr(hook, "attn") ? "attn_out" : "resid_post");
}

/* What saei_lens_use reads. */
static void saei_export_lens_use(const saei_export *e, saei_text *t) {
    const sae_origin *o = &e->origin;
    const int64_t *at = o->positions;
    if (*o->hook_out) {
        saei_text_add(t, ", ");
        saei_export_pair(t, "hook_name_out", o->hook_out);
    }
    if (o->one_head) saei_text_add(t, ", \"hook_head_index\": %zu, ", o->head);
    else saei_text_add(t, ", \"hook_head_index\": null, ");
    if (o->context_size) saei_text_add(t, "\"context_size\": %zu, ", o->context_size);
    if (o->prepend_bos)
        saei_text_add(t, "\"prepend_bos\": %s, ", o->prepend_bos > 0 ? "true" : "false");
    if (o->no_special) saei_text_add(t, "\"exclude_special_tokens\": true, ");
    if (!at[2]) return;
    saei_text_add(t, "\"seqpos_slice\": [%lld, ", (long long)at[0]);
    if (at[1] == INT64_MAX) saei_text_add(t, "null, %lld], ", (long long)at[2]);
    else saei_text_add(t, "%lld, %lld], ", (long long)at[1], (long long)at[2]);
}

static sae_result saei_export_lens_cfg(const saei_export *e, const char *arch) {
    static const char *const norms[] = { "none", "constant_norm_rescale", "layer_norm" };
    const sae_dictionary_desc *h = &e->dict->desc;
    const sae_origin *o = &e->origin;
    char hook[96];
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = e->ctx;
    saei_export_lens_hook(e, hook, sizeof hook);
    saei_text_add(&t, "{\"architecture\": \"%s\", \"d_in\": %zu, \"d_sae\": %zu, "
                  "\"dtype\": \"float32\", \"device\": \"cpu\", "
                  "\"apply_b_dec_to_input\": %s, \"normalize_activations\": \"%s\", "
                  "\"reshape_activations\": \"%s\", ", arch, h->activation_dim, h->dict_size,
                  saei_subtracts(h) || h->arch == SAE_ARCH_MATCHING_PURSUIT ? "true" : "false",
                  norms[h->input_norm],
                  saei_ends_with(hook, "hook_z") ? "hook_z" : "none");
    if (h->k)
        saei_text_add(&t, "\"k\": %zu, \"rescale_acts_by_decoder_norm\": false, ", h->k);
    if (h->arch == SAE_ARCH_MATCHING_PURSUIT)
        saei_text_add(&t, "\"residual_threshold\": %.17g, \"stop_on_duplicate_support\": %s, "
                      "\"max_iterations\": %zu, ", h->residual_threshold,
                      h->repeats ? "false" : "true",
                      h->max_iterations ? h->max_iterations : h->activation_dim);
    if (strstr(arch, "transcoder")) saei_text_add(&t, "\"d_out\": %zu, ", h->output_dim);
    saei_text_add(&t, "\"metadata\": {\"sae_lens_version\": \"6.0.0\", "
                  "\"sae_lens_training_version\": null, ");
    saei_export_pair(&t, "model_name", saei_path_base(o->model));
    saei_text_add(&t, ", ");
    saei_export_pair(&t, "hook_name", hook);
    saei_export_lens_use(e, &t);
    saei_export_pair(&t, "dataset_path", o->dataset);
    saei_text_add(&t, ", \"model_from_pretrained_kwargs\": {");
    for (size_t i = 0, n = 0; i < 2; i++)
        if (strstr(o->model_options, saei_lens_options[i]))
            saei_text_add(&t, "%s\"%s\": true", n++ ? ", " : "", saei_lens_options[i]);
    saei_text_add(&t, "}, ");
    saei_export_made_by(e, &t);
    saei_text_add(&t, "}}\n");
    return saei_export_text(e, "cfg.json", &t);
}

static sae_result saei_export_lens(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    const char *arch = saei_export_lens_arch(e);
    bool gated = h->arch == SAE_ARCH_GATED;
    saei_key keys[SAEI_MAX_KEYS];
    size_t count = 0;
    if (h->arch != SAE_ARCH_MATCHING_PURSUIT) {
        keys[count].name = "W_enc", keys[count++].slot = SAEI_SLOT_W_ENC_T;
        keys[count].name = gated ? "b_gate" : "b_enc", keys[count++].slot = SAEI_SLOT_B_ENC;
    }
    keys[count].name = "W_dec", keys[count++].slot = SAEI_SLOT_W_DEC;
    keys[count].name = "b_dec", keys[count++].slot = SAEI_SLOT_B_DEC;
    if (gated) {
        keys[count].name = "r_mag", keys[count++].slot = SAEI_SLOT_AUX0;
        keys[count].name = "b_mag", keys[count++].slot = SAEI_SLOT_AUX1;
    }
    if (h->arch == SAE_ARCH_JUMP_RELU)
        keys[count].name = "threshold", keys[count++].slot = SAEI_SLOT_AUX0;
    if (h->skip) keys[count].name = "W_skip", keys[count++].slot = SAEI_SLOT_W_SKIP;
    SAEI_NOTE(e, SAE_LOG_INFO, "architecture %s", arch);
    SAEI_TRY(saei_export_tensors(e, "sae_weights.safetensors", keys, count));
    if (e->desc->log_sparsity) {
        char *path = saei_path_join(e->ctx, e->folder, "sparsity.safetensors");
        sae_tensor t;
        sae_result result = SAE_ERR_OUT_OF_MEMORY;
        memset(&t, 0, sizeof t);
        t.name = "sparsity";
        t.dtype = SAE_F32;
        t.ndim = 1;
        t.shape[0] = h->dict_size;
        t.data = e->desc->log_sparsity;
        if (path) result = sae_tensor_file_write(e->ctx, path, &t, 1);
        else saei_fail(e->ctx, result, "sae_dictionary_export: no memory for sparsity.safetensors");
        saei_free(e->ctx, path);
        SAEI_TRY(result);
    }
    return saei_export_lens_cfg(e, arch);
}
