#pragma once
#include "names.h"
#include "save.h"

/* ==== >>files: export ========================================================================= */

/* A copy of a dictionary on its way out, in the form that the format can say. */
typedef struct saei_export {
    sae_context *ctx;
    const sae_export_desc *desc;
    sae_origin origin;
    const char *folder;
    sae_dictionary *dict;
} saei_export;

static sae_result saei_export_refused(const saei_export *e, const char *why) {
    return saei_fail(e->ctx, SAE_ERR_UNSUPPORTED, "sae_dictionary_export: %s has no %s",
                     sae_format_name(e->desc->format), why);
}

#define SAEI_NOTE(e, level, ...) saei_log((e)->ctx, level, "sae_dictionary_export: " __VA_ARGS__)

/* b_dec into the encoder's input, or out of it, at the cost of its biases:
   W (x - b_dec) + b = W x + (b - W b_dec). */
static void saei_export_centre(sae_dictionary *dict, bool subtract) {
    size_t d = dict->desc.activation_dim;
    if (subtract == saei_subtracts(&dict->desc)) return;
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        const float *w = dict->W_enc + i * dict->ld;
        double shift = 0;
        for (size_t c = 0; c < d; c++) shift += (double)w[c] * (double)dict->b_dec[c];
        if (!subtract) shift = -shift;
        dict->b_enc[i] = (float)((double)dict->b_enc[i] + shift);
        if (dict->desc.arch == SAE_ARCH_GATED)
            dict->aux1[i] = (float)((double)dict->aux1[i]
                                    + saei_exp((double)dict->aux0[i]) * shift);
    }
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU) dict->desc.subtract_b_dec = subtract;
    else dict->desc.no_b_dec_subtraction = !subtract;
}

/* The same encoder and decoder with the scalar threshold for each latent. */
static sae_result saei_export_jump_relu(saei_export *e) {
    sae_dictionary *from = e->dict, *to = NULL;
    sae_dictionary_desc desc = from->desc;
    size_t m = desc.dict_size;
    desc.arch = SAE_ARCH_JUMP_RELU;
    desc.subtract_b_dec = saei_subtracts(&from->desc);
    desc.no_b_dec_subtraction = false;
    desc.k = desc.num_groups = 0;
    desc.k_fraction = 0;
    SAEI_TRY(saei_dictionary_new(e->ctx, "sae_dictionary_export", &desc, &to));
    memcpy(to->W_enc, from->W_enc, m * from->ld * sizeof(float));
    memcpy(to->W_dec, from->W_dec, m * from->ld_out * sizeof(float));
    memcpy(to->b_enc, from->b_enc, m * sizeof(float));
    memcpy(to->b_dec, from->b_dec, from->ld_out * sizeof(float));
    if (to->W_skip) memcpy(to->W_skip, from->W_skip, desc.output_dim * from->ld * sizeof(float));
    for (size_t i = 0; i < m; i++) to->aux0[i] = from->threshold;
    to->origin = from->origin;
    sae_dictionary_destroy(from);
    e->dict = to;
    SAEI_NOTE(e, SAE_LOG_INFO, "the threshold, %g, stands for each of the %zu latents",
              (double)to->aux0[0], m);
    return SAE_OK;
}

/* A batch class that chooses over the batch goes by its threshold elsewhere, if it has one. */
static sae_result saei_export_batch(const saei_export *e) {
    const sae_dictionary *dict = e->dict;
    if (dict->active_groups < dict->desc.num_groups)
        SAEI_NOTE(e, SAE_LOG_WARNING, "active_groups is %zu, all %zu groups are written",
                  dict->active_groups, dict->desc.num_groups);
    if (dict->rule != SAE_RULE_TOP_K) return SAE_OK;
    if (dict->threshold < 0)
        return saei_export_refused(e, "batch top-k at inference, and the threshold was never set");
    SAEI_NOTE(e, SAE_LOG_WARNING, "batch top-k at inference becomes the threshold, %g",
              (double)dict->threshold);
    return SAE_OK;
}

static sae_result saei_export_text(const saei_export *e, const char *name, saei_text *t) {
    return saei_text_write(t, "sae_dictionary_export", e->folder, name);
}

static sae_result saei_export_tensors(const saei_export *e, const char *name, const saei_key *keys,
                                      size_t count) {
    char *path = saei_path_join(e->ctx, e->folder, name);
    sae_result result;
    if (!path)
        return saei_fail(e->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_dictionary_export: no memory for %s",
                         name);
    result = saei_save_keys(e->dict, path, keys, count);
    saei_free(e->ctx, path);
    return result;
}

/* "key": "text", or null for "". */
static void saei_export_pair(saei_text *t, const char *key, const char *text) {
    saei_text_add(t, "\"%s\": ", key);
    if (*text) saei_text_add_json_string(t, text);
    else saei_text_add(t, "null");
}

/* What was lost on the way here, and what the classes of no program but ours have. */
static void saei_export_made_by(const saei_export *e, saei_text *t) {
    saei_text_add(t, "\"sae.h\": {\"version\": \"" SAE_VERSION "\", \"from\": \"%s\", ",
                  sae_format_name(e->dict->origin.format));
    saei_export_pair(t, "class", e->dict->origin.class_name);
    saei_text_add(t, "}");
}

/* ---- dictionary_learning ---- */

static sae_result saei_export_dl_fit(saei_export *e) {
    sae_dictionary *dict = e->dict;
    const sae_dictionary_desc *h = &dict->desc;
    bool foldable = h->arch == SAE_ARCH_STANDARD || h->arch == SAE_ARCH_GATED
                    || h->arch == SAE_ARCH_JUMP_RELU;
    if (h->output_dim != h->activation_dim || h->output_normalized)
        return saei_export_refused(e, "transcoders (only AutoEncoderNew and JumpReluAutoEncoder, "
                                      "whose output is as wide as the input)");
    if (h->skip) return saei_export_refused(e, "skip connection");
    if (h->input_norm) return saei_export_refused(e, "normalisation of the input");
    if (h->activation == SAE_ACTIVATION_GROUP_MAX) return saei_export_refused(e, "group max");
    if (h->activation) return saei_export_refused(e, "latents below 0");
    if (h->arch == SAE_ARCH_IDENTITY)
        return saei_export_refused(e, "file for IdentityDict: there is nothing to write");
    if (h->arch == SAE_ARCH_BATCH_TOP_K || h->arch == SAE_ARCH_MATRYOSHKA)
        SAEI_TRY(saei_export_batch(e));
    if (h->arch == SAE_ARCH_TOP_K && dict->rule == SAE_RULE_THRESHOLD)
        SAEI_NOTE(e, SAE_LOG_WARNING, "AutoEncoderTopK is opened with top-k, not the threshold");
    if (h->k_fraction > 0)
        SAEI_NOTE(e, SAE_LOG_WARNING, "k is %g, written as %zu", (double)h->k + h->k_fraction,
                  h->k);
    dict->desc.k_fraction = 0;
    if (h->no_b_dec_subtraction || h->subtract_b_dec) {
        SAEI_NOTE(e, SAE_LOG_INFO, "b_dec %s, its share moved into the encoder's biases",
                  h->no_b_dec_subtraction ? "goes into the encoder's input"
                                          : "leaves the encoder's input");
        saei_export_centre(dict, h->no_b_dec_subtraction);
    }
    if (e->desc->raw || h->arch == SAE_ARCH_STANDARD_NEW || saei_decoder_is_unit(dict))
        return SAE_OK;
    if (foldable && dict->origin.format != SAE_FORMAT_DICTIONARY_LEARNING) {
        SAEI_NOTE(e, SAE_LOG_INFO, "decoder rows brought to norm 1, the norms moved into the "
                  "encoder: latents are multiplied by them");
        saei_fold_decoder_norms(dict);
    } else SAEI_NOTE(e, SAE_LOG_WARNING, "decoder rows are not of norm 1, which SAEBench asks for; "
                     "they stay, as %s", foldable ? "dictionary_learning had them"
                                                  : "the choice of latents depends on them");
    return SAE_OK;
}

static sae_result saei_export_dl(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    const saei_layout *layout = saei_layout_of(h->arch);
    const char *trainer = sae_trainer_class(saei_trainer_of_arch(h->arch));
    const sae_origin *o = &e->origin;
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = e->ctx;
    if (o->layer < 0)
        SAEI_NOTE(e, SAE_LOG_WARNING, "the layer is not known, config.json says 0");
    if (!*o->model)
        SAEI_NOTE(e, SAE_LOG_WARNING, "the language model is not known, lm_name is \"unknown\"");
    SAEI_TRY(saei_export_tensors(e, "ae.pt", layout->keys, layout->count));
    saei_text_add(&t, "{\n    \"trainer\": {\n        \"trainer_class\": \"%s\",\n"
                  "        \"dict_class\": \"%s\",\n        \"activation_dim\": %zu,\n"
                  "        \"dict_size\": %zu,\n", trainer, sae_arch_name(h->arch),
                  h->activation_dim, h->dict_size);
    if (h->k) saei_text_add(&t, "        \"k\": %zu,\n", h->k);
    for (size_t g = 0; g < h->num_groups; g++)
        saei_text_add(&t, "%s%zu%s", g ? ", " : "        \"group_sizes\": [", h->group_sizes[g],
                      g + 1 < h->num_groups ? "" : "],\n");
    saei_text_add(&t, "        \"device\": \"cpu\",\n        \"layer\": %lld,\n        ",
                  (long long)(o->layer < 0 ? 0 : o->layer));
    saei_export_pair(&t, "lm_name", *o->model ? o->model : "unknown");
    saei_text_add(&t, ",\n        \"wandb_name\": \"%s\",\n        ", trainer);
    saei_export_pair(&t, "submodule_name", o->hook);
    saei_text_add(&t, "\n    },\n    \"buffer\": {\n        \"d_submodule\": %zu,\n"
                  "        \"io\": \"out\",\n        \"n_ctxs\": null,\n"
                  "        \"ctx_len\": %zu,\n        \"refresh_batch_size\": null,\n"
                  "        \"out_batch_size\": null,\n        \"device\": \"cpu\"\n    },\n"
                  "    ", h->activation_dim, o->context_size ? o->context_size : 128);
    saei_export_made_by(e, &t);
    saei_text_add(&t, "\n}\n");
    return saei_export_text(e, "config.json", &t);
}

/* ---- SAELens ---- */

static bool saei_export_is_transcoder(const saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    return h->output_dim != h->activation_dim || h->skip || h->output_normalized
           || strstr(e->dict->origin.class_name, "transcoder") != NULL;
}

static sae_result saei_export_lens_fit(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    bool batch = h->arch == SAE_ARCH_BATCH_TOP_K || h->arch == SAE_ARCH_MATRYOSHKA;
    if (h->arch == SAE_ARCH_IDENTITY) return saei_export_refused(e, "identity");
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
                  saei_subtracts(h) ? "true" : "false", norms[h->input_norm],
                  saei_ends_with(hook, "hook_z") ? "hook_z" : "none");
    if (h->k)
        saei_text_add(&t, "\"k\": %zu, \"rescale_acts_by_decoder_norm\": false, ", h->k);
    if (strstr(arch, "transcoder")) saei_text_add(&t, "\"d_out\": %zu, ", h->output_dim);
    saei_text_add(&t, "\"metadata\": {\"sae_lens_version\": \"6.0.0\", "
                  "\"sae_lens_training_version\": null, ");
    saei_export_pair(&t, "model_name", saei_path_base(o->model));
    saei_text_add(&t, ", ");
    saei_export_pair(&t, "hook_name", hook);
    saei_text_add(&t, ", \"hook_head_index\": null, ");
    if (o->context_size) saei_text_add(&t, "\"context_size\": %zu, ", o->context_size);
    saei_export_pair(&t, "dataset_path", o->dataset);
    saei_text_add(&t, ", \"model_from_pretrained_kwargs\": {}, ");
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
    keys[count].name = "W_enc", keys[count++].slot = SAEI_SLOT_W_ENC_T;
    keys[count].name = gated ? "b_gate" : "b_enc", keys[count++].slot = SAEI_SLOT_B_ENC;
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

/* ---- sparsify ---- */

static sae_result saei_export_sparsify_fit(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    if (h->arch != SAE_ARCH_TOP_K || e->dict->rule != SAE_RULE_TOP_K)
        return saei_export_refused(e, "latents but the k largest of a row and group max");
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

SAE_API sae_result sae_dictionary_export(const sae_dictionary *dict, const sae_export_desc *desc,
                                         const char *folder) {
    saei_export e;
    sae_result result;
    if (!dict || !desc || !folder)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_export: dict, desc or folder is NULL");
    if (desc->format < SAE_FORMAT_DICTIONARY_LEARNING || desc->format > SAE_FORMAT_SPARSIFY)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_export: format is %d, allowed are "
                         "%d (dictionary_learning), %d (sae_lens), %d (sparsify)",
                         (int)desc->format, (int)SAE_FORMAT_DICTIONARY_LEARNING,
                         (int)SAE_FORMAT_SAE_LENS, (int)SAE_FORMAT_SPARSIFY);
    memset(&e, 0, sizeof e);
    e.ctx = dict->ctx;
    e.desc = desc;
    e.folder = folder;
    e.origin = desc->origin ? *desc->origin : dict->origin;
    SAEI_TRY(saei_dictionary_copy(dict, "sae_dictionary_export", &e.dict));
    SAEI_NOTE(&e, SAE_LOG_INFO, "%s -> %s", sae_arch_name(dict->desc.arch),
              sae_format_name(desc->format));
    result = desc->format == SAE_FORMAT_SAE_LENS   ? saei_export_lens_fit(&e)
             : desc->format == SAE_FORMAT_SPARSIFY ? saei_export_sparsify_fit(&e)
                                                   : saei_export_dl_fit(&e);
    if (result == SAE_OK && !saei_all_finite(e.dict->params, e.dict->num_params))
        result = saei_fail(e.ctx, SAE_ERR_NOT_FINITE,
                           "sae_dictionary_export: a parameter is NaN or "
                           "infinite, or becomes so when others are moved into it");
    if (result == SAE_OK) result = saei_make_folder(e.ctx, "sae_dictionary_export", folder);
    if (result == SAE_OK)
        result = desc->format == SAE_FORMAT_SAE_LENS   ? saei_export_lens(&e)
                 : desc->format == SAE_FORMAT_SPARSIFY ? saei_export_sparsify(&e)
                                                       : saei_export_dl(&e);
    sae_dictionary_destroy(e.dict);
    return result;
}
