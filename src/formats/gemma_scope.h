#pragma once
#include "sae_lens.h"

/* ==== >>files: Gemma Scope, Gemma Scope 2 ===================================================== */

static bool saei_gemma_probe(const saei_load *load) {
    return strcmp(load->tensors->ending, ".npz") == 0 && saei_load_find(load, "threshold")
           && (saei_load_find(load, "W_enc") || saei_load_find(load, "w_enc"));
}

static bool saei_gemma_2_probe(const saei_load *load) {
    return saei_load_find(load, "w_enc") && saei_load_find(load, "w_dec")
           && saei_load_find(load, "threshold");
}

/* JumpReLU on x as it is. Both spell W_enc [d,m], W_dec [m,output_dim]. */
static sae_result saei_gemma_draft(saei_draft *draft, const char *as) {
    draft->desc.arch = SAE_ARCH_JUMP_RELU;
    saei_draft_must(draft, "W_enc", SAEI_SLOT_W_ENC_T, "w_enc", SAEI_SLOT_W_ENC_T);
    saei_draft_must(draft, "W_dec", SAEI_SLOT_W_DEC, "w_dec", SAEI_SLOT_W_DEC);
    saei_draft_must(draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "threshold", SAEI_SLOT_AUX0, NULL, SAEI_SLOT_NOTHING);
    draft->desc.skip = saei_draft_may(draft, "affine_skip_connection", SAEI_SLOT_W_SKIP_T) != NULL;
    saei_draft_may(draft, "scaling_factor", SAEI_SLOT_SCALE);
    if (!saei_draft_fits(draft)) return saei_draft_misfit(draft, as);
    return saei_draft_sizes(draft);
}

/* A folder of that name on the way to the file. */
static bool saei_path_passes(const char *path, const char *name) {
    const size_t n = strlen(name);
    for (const char *at = path; (at = strstr(at, name)) != NULL; at++)
        if ((at == path || saei_is_separator(at[-1])) && saei_is_separator(at[n])) return true;
    return false;
}

/* Those of embeddings were trained on what the model multiplies by sqrt(d) before its first block:
   W_enc / sqrt(d) and W_dec sqrt(d) are for the model's own. Only the folder's name says so. */
static void saei_gemma_embedding(sae_dictionary *dict) {
    const float root = (float)sqrt((double)dict->desc.activation_dim);
    const saei_kernels *kernels = dict->ctx->kernels;
    const size_t m = dict->desc.dict_size;
    kernels->divide(m * dict->ld, dict->W_enc, root, dict->W_enc);
    kernels->scale(m * dict->ld_out, root, dict->W_dec, dict->W_dec);
}

static sae_result saei_gemma_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_gemma_draft(&draft, "Gemma Scope"));
    SAEI_TRY(saei_lens_scale(&draft, false));
    SAEI_TRY(saei_draft_make(&draft, out));
    if (saei_path_passes(load->file, "embedding") && !load->desc.raw) saei_gemma_embedding(*out);
    saei_origin_text((*out)->origin.class_name, sizeof (*out)->origin.class_name, "jumprelu");
    (*out)->origin.layer = saei_layer_of(load->path);
    return SAE_OK;
}

static sae_result saei_gemma_2_read(saei_load *load, sae_dictionary **out) {
    const char *arch = saei_config_text(load->root, "architecture"), *class_name = "jumprelu";
    const char *type = saei_config_text(load->root, "type");
    const sae_tensor *w_dec = saei_load_find(load, "w_dec");
    char quoted[SAEI_QUOTE];
    bool affine;
    saei_draft draft;
    sae_origin *o;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    load->config = load->root;
    if (w_dec && w_dec->ndim == 3)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "a cross-layer transcoder: w_dec has three "
                              "dimensions");
    if (load->root && (!arch || strcmp(arch, "jump_relu") != 0))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "architecture in config.json is %s, allowed "
                              "is jump_relu",
                              arch ? saei_quote(arch, quoted) : "missing");
    SAEI_TRY(saei_gemma_draft(&draft, "Gemma Scope 2"));
    affine = draft.desc.skip;
    if (load->root) {
        affine = false;
        SAEI_TRY(saei_config_bool(load, "affine_connection", &affine));
    }
    if (affine != draft.desc.skip && (draft.desc.skip || !type || strcmp(type, "sae") != 0))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "affine_connection in config.json is %s, and "
                              "there is %s affine_skip_connection", affine ? "true" : "not true",
                              affine ? "no" : "an");
    SAEI_TRY(saei_lens_scale(&draft, false));
    SAEI_TRY(saei_draft_make(&draft, out));
    o = &(*out)->origin;
    if (type && strcmp(type, "transcoder") == 0) class_name = "jumprelu_transcoder";
    if (draft.desc.skip) class_name = "jumprelu_skip_transcoder";
    saei_origin_text(o->class_name, sizeof o->class_name, class_name);
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, saei_config_text(load->root, "hf_hook_point_in"));
    saei_origin_hook_out(o, saei_config_text(load->root, "hf_hook_point_out"));
    o->layer = saei_layer_of(o->hook);
    return SAE_OK;
}
