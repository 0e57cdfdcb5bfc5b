#pragma once
#include "names.h"
#include "save.h"

/* ==== >>files: what all exports share ========================================================= */

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

/* The same where p is to be multiplied by the norm: where that is 0, so is p, and the latent never
   fires. */
static void saei_fold_decoder_rescale(sae_dictionary *dict) {
    saei_fold_decoder_norms(dict);
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        const float *row = dict->W_dec + i * dict->ld_out;
        if (dict->ctx->kernels->dot(dict->ld_out, row, row) > 0) continue;
        memset(dict->W_enc + i * dict->ld, 0, dict->ld * sizeof(float));
        dict->b_enc[i] = 0;
    }
}

/* A choice by p times the decoder's norm in other words: of JumpReLU thresholds for p itself, which
   leaves the latents as they are; else the norms go into the encoder, and the latents with them. */
static void saei_export_ungate(saei_export *e) {
    sae_dictionary *dict = e->dict;
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU) {
        SAEI_NOTE(e, SAE_LOG_INFO, "thresholds of p times the decoder's norm become those of p");
        for (size_t i = 0; i < dict->desc.dict_size; i++) {
            float theta = dict->gate[i] > 0 ? dict->aux0[i] / dict->gate[i] : FLT_MAX;
            dict->aux0[i] = theta <= FLT_MAX ? theta : FLT_MAX;
        }
    } else {
        SAEI_NOTE(e, SAE_LOG_INFO, "the decoder's norms, which choose among latents, are moved "
                  "into the encoder: latents are multiplied by them");
        saei_fold_decoder_rescale(dict);
    }
    dict->desc.gate = SAE_GATE_NONE;
    dict->gate = NULL;
}

/* What no other program's dictionaries of one place have. */
static sae_result saei_export_one_place(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    if (h->layers > 1) return saei_export_refused(e, "dictionary of several layers");
    if (h->glu) return saei_export_refused(e, "gated linear unit (glu) in the encoder");
    if (h->normalizer) return saei_export_refused(e, "normalizer of its input");
    if (h->gate) saei_export_ungate(e);
    return SAE_OK;
}

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
    result = saei_save_keys(e->dict, path, keys, count, NULL, NULL);
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
