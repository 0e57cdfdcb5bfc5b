#pragma once
#include "dictionary_learning.h"
#include "export.h"

/* ==== >>files: dictionary_learning, written =================================================== */

static sae_result saei_export_dl_fit(saei_export *e) {
    sae_dictionary *dict = e->dict;
    const sae_dictionary_desc *h = &dict->desc;
    bool foldable = h->arch == SAE_ARCH_STANDARD || h->arch == SAE_ARCH_GATED
                    || h->arch == SAE_ARCH_JUMP_RELU;
    if (h->output_dim != h->activation_dim || h->output_normalized)
        return saei_export_refused(e, "transcoders (only AutoEncoderNew and JumpReluAutoEncoder, "
                                      "whose output is as wide as the input)");
    if (h->arch == SAE_ARCH_MATCHING_PURSUIT) return saei_export_refused(e, "matching pursuit");
    SAEI_TRY(saei_export_one_place(e));
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

/* The first trainer of such dictionaries. AutoEncoderNew is STANDARD_APRIL's, on request. */
static sae_trainer_kind saei_trainer_of_arch(sae_arch arch) {
    if (arch == SAE_ARCH_STANDARD_NEW) return SAE_TRAINER_STANDARD_APRIL;
    for (size_t i = 0; i < SAE_NUM_TRAINERS; i++)
        if (saei_trainers[i].arch == arch) return saei_trainers[i].kind;
    return SAE_TRAINER_DEFAULT;
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
    SAEI_TRY(saei_export_tensors(e, e->desc->safetensors ? "ae.safetensors" : "ae.pt",
                                 layout->keys, layout->count));
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
