#pragma once
#include "../tensor/open.h"
#include "draft.h"
#include "names.h"

/* ==== >>files: dictionary_learning ============================================================ */

static bool saei_dl_probe(const saei_load *load) {
    for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++) {
        const char *name = sae_tensor_file_get(load->tensors, i)->name + strlen(load->prefix);
        if (strncmp(name, "ae.", 3) == 0) name += 3;
        for (size_t a = 0; a < SAEI_NUM_LAYOUTS; a++)
            for (size_t k = 0; k < saei_layouts[a].count; k++)
                if (strcmp(name, saei_layouts[a].keys[k].name) == 0) return true;
    }
    return false;
}

/* The trainer object in config.json; another program's config (it has none) counts as none. */
static sae_result saei_dl_config(saei_load *load) {
    const sae_json *trainer = sae_json_get(load->root, "trainer");
    if (trainer && trainer->type != SAE_JSON_OBJECT && trainer->type != SAE_JSON_STRING)
        return saei_load_fail(load, SAE_ERR_FORMAT, "trainer in config.json is not a JSON object");
    if (trainer && trainer->type == SAE_JSON_OBJECT) load->config = trainer;
    else if (sae_json_get(load->root, "dict_class")) load->config = load->root;
    else if (sae_json_get(load->root, "trainer_class")) load->config = load->root;
    return SAE_OK;
}

/* The keys of a class, and whether the file has exactly these. Files of 2024 have `decoder` [m,d]
   (July) and neither k nor threshold in the top-k classes; others call their b_dec bias. */
static bool saei_dl_fits(saei_draft *draft, const saei_layout *layout) {
    bool old = saei_is_top_k_class(layout->arch);
    draft->desc.arch = layout->arch;
    draft->count = 0;
    *draft->lacks = *draft->besides = 0;
    for (size_t k = 0; k < layout->count; k++) {
        const char *name = layout->keys[k].name;
        saei_slot slot = layout->keys[k].slot;
        if (old && (slot == SAEI_SLOT_K || slot == SAEI_SLOT_THRESHOLD))
            saei_draft_may(draft, name, slot);
        else if (old && slot == SAEI_SLOT_W_DEC_T)
            saei_draft_must(draft, name, slot, "decoder", SAEI_SLOT_W_DEC);
        else if (old && slot == SAEI_SLOT_B_DEC && saei_load_find(draft->load, "k"))
            saei_draft_must(draft, name, slot, "bias", slot);
        else saei_draft_must(draft, name, slot, NULL, slot);
    }
    draft->desc.skip = saei_draft_may(draft, "W_skip", SAEI_SLOT_W_SKIP) != NULL;
    return saei_draft_fits(draft);
}

/* The class that desc or the config names, DEFAULT if none does; *where says which. */
static sae_result saei_dl_named(const saei_load *load, sae_arch *out, const char **where) {
    const char *name = saei_config_text(load->config, "dict_class");
    char quoted[SAEI_QUOTE];
    sae_trainer_kind trainer;
    *out = load->desc.arch;
    *where = "sae_load_desc.arch";
    if (*out && !saei_layout_of(*out))
        return saei_load_fail(load, SAE_ERR_INVALID, "%s is %d, allowed is a sae_arch", *where,
                              (int)*out);
    if (*out || !load->config) return SAE_OK;
    if (name) {
        *where = "dict_class in config.json";
        *out = saei_arch_from_name(name);
        if (*out) return SAE_OK;
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "%s is %s, allowed are AutoEncoder, "
                              "AutoEncoderNew, GatedAutoEncoder, AutoEncoderTopK, BatchTopKSAE, "
                              "MatryoshkaBatchTopKSAE, JumpReluAutoEncoder, IdentityDict", *where,
                              saei_quote(name, quoted));
    }
    *where = "the class of trainer_class in config.json";
    name = saei_config_text(load->config, "trainer_class");
    if (name && saei_trainer_find(name, true, &trainer)) *out = saei_trainer_arch(trainer);
    saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s has no dict_class, the class is "
             "taken from %s", load->who, load->config_path, *out ? "trainer_class" : "the tensors");
    return SAE_OK;
}

/* The class, by name and by tensors. Where the config says AutoEncoder and the tensors are those of
   AutoEncoderNew, which the reference's own trainer does, the tensors are right. */
static sae_result saei_dl_class(saei_draft *draft) {
    const saei_load *load = draft->load;
    saei_draft as_named;
    const char *where;
    sae_arch named;
    bool fits = false;
    SAEI_TRY(saei_dl_named(load, &named, &where));
    if (named && saei_dl_fits(draft, saei_layout_of(named))) return SAE_OK;
    as_named = *draft;
    if (!sae_tensor_file_count(load->tensors))
        return saei_load_fail(load, SAE_ERR_FORMAT, "it holds no tensors");
    for (size_t i = 0; i < SAEI_NUM_LAYOUTS && !fits; i++)
        fits = saei_dl_fits(draft, &saei_layouts[i]);
    if (!named && fits && !saei_is_top_k_class(draft->desc.arch)) return SAE_OK;
    if (!named && fits)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "its tensors are those of AutoEncoderTopK and "
                              "of BatchTopKSAE, and no config.json says which: give "
                              "sae_load_desc.arch");
    if (!named) {
        *draft->besides = 0;
        for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++)
            saei_list_name(draft->besides, sae_tensor_file_get(load->tensors, i)->name);
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "no class has exactly its tensors: %s",
                              draft->besides);
    }
    if (!fits) return saei_draft_misfit(&as_named, sae_arch_name(named));
    if (named != SAE_ARCH_STANDARD || draft->desc.arch != SAE_ARCH_STANDARD_NEW || load->desc.arch)
        return saei_load_fail(load, SAE_ERR_MISMATCH, "%s is %s, but the tensors are those of %s",
                              where, sae_arch_name(named), sae_arch_name(draft->desc.arch));
    saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s says AutoEncoder, the tensors "
             "are those of AutoEncoderNew: taken as that", load->who, load->config_path);
    return SAE_OK;
}

/* k: the file's; of an old file that of config.json, else that of sae_load_desc. */
static sae_result saei_dl_k(saei_draft *draft, const sae_tensor *t) {
    const saei_load *load = draft->load;
    size_t config_k = 0, anneal = 0;
    uint64_t k;
    SAEI_TRY(saei_config_size(load, "k", &config_k));
    SAEI_TRY(saei_config_size(load, "k_anneal_steps", &anneal));
    k = config_k ? config_k : load->desc.k;
    if (t && (!saei_is_scalar(t) || !saei_tensor_whole(t, 0, &k)))
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is no whole number");
    if (!t && !k)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "neither it nor a config.json says k: give "
                              "sae_load_desc.k");
    if (k < 1 || k > draft->desc.dict_size)
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %llu, allowed are 1 to dict_size, %zu",
                              (unsigned long long)k, draft->desc.dict_size);
    if (config_k && k != config_k && !anneal) /* while k is annealed it is on its way to config's */
        return saei_load_fail(load, SAE_ERR_MISMATCH, "k is %llu, in config.json %zu",
                              (unsigned long long)k, config_k);
    draft->desc.k = (size_t)k;
    return SAE_OK;
}

static sae_result saei_dl_groups(saei_draft *draft, const sae_tensor *t) {
    uint64_t size, left = draft->desc.dict_size;
    bool good = t->ndim == 1 && t->shape[0] <= SAE_MAX_GROUPS;
    for (size_t g = 0; good && g < t->shape[0]; g++) {
        good = saei_tensor_whole(t, g, &size) && size >= 1 && size <= left;
        if (!good) break;
        draft->desc.group_sizes[draft->desc.num_groups++] = (size_t)size;
        left -= size;
    }
    if (good && !left) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT,
                          "group_sizes must be at most %d whole numbers "
                          ">= 1 whose sum is dict_size, %zu",
                          SAE_MAX_GROUPS, draft->desc.dict_size);
}

/* Another program's W_enc may be [m,d]: where d is m, names or a config must say whose it is. */
static bool saei_dl_is_untagged(const saei_draft *draft) {
    const saei_load *load = draft->load;
    return draft->desc.arch == SAE_ARCH_JUMP_RELU && !load->config && !load->desc.arch
           && draft->desc.activation_dim == draft->desc.dict_size
           && strncmp(saei_path_base(load->file), "ae", 2) != 0;
}

/* Whether b_dec is as wide as the decoder: a transcoder of another width, not a damaged file. */
static bool saei_dl_wide_bias(const saei_draft *draft) {
    for (size_t k = 0; k < draft->count; k++) {
        const sae_tensor *t = draft->keys[k].tensor;
        if (draft->keys[k].slot == SAEI_SLOT_B_DEC && t)
            return t->ndim == 1 && t->shape[0] == draft->desc.output_dim;
    }
    return false;
}

/* What a transcoder's config says beyond the class's. Without one, or of another width, the tensors
   say it: b_dec is not taken from an input of another width. */
static sae_result saei_dl_transcoder(saei_draft *draft) {
    const saei_load *load = draft->load;
    sae_dictionary_desc *desc = &draft->desc;
    size_t out = 0;
    bool apply, skip = desc->skip;
    SAEI_TRY(saei_config_size(load, "output_dim", &out));
    if (out && out != desc->output_dim)
        return saei_load_fail(load, SAE_ERR_MISMATCH, "the decoder gives %zu, output_dim in "
                              "config.json is %zu", desc->output_dim, out);
    if (!out && (load->config || !desc->skip) && desc->output_dim != desc->activation_dim
        && !saei_dl_wide_bias(draft))
        desc->output_dim = 0;
    if (desc->output_dim == desc->activation_dim) desc->output_dim = 0;
    SAEI_TRY(saei_config_bool(load, "skip_connection", &skip));
    if (skip != desc->skip)
        return saei_load_fail(load, SAE_ERR_MISMATCH, "skip_connection in config.json is %s, and "
                              "there is %s W_skip", skip ? "true" : "false",
                              desc->skip ? "a" : "no");
    apply = !desc->output_dim && saei_subtracts(desc);
    SAEI_TRY(saei_config_bool(load, "apply_b_dec_to_input", &apply));
    if (apply && (desc->output_dim || desc->arch == SAE_ARCH_STANDARD_NEW))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "apply_b_dec_to_input in config.json is "
                              "true, allowed where output_dim is activation_dim, with a class that "
                              "takes b_dec from its input");
    desc->subtract_b_dec = apply && desc->arch == SAE_ARCH_JUMP_RELU;
    desc->no_b_dec_subtraction = !apply && saei_subtracts(desc);
    return SAE_OK;
}

/* The desc of the dictionary. */
static sae_result saei_dl_desc(saei_draft *draft) {
    const saei_load *load = draft->load;
    sae_dictionary_desc *desc = &draft->desc;
    size_t d = 0, m = 0;
    SAEI_TRY(saei_config_size(load, "activation_dim", &d));
    SAEI_TRY(saei_config_size(load, "dict_size", &m));
    if (desc->arch == SAE_ARCH_IDENTITY) {
        desc->activation_dim = desc->dict_size = d;
        return d ? SAE_OK
                 : saei_load_fail(load, SAE_ERR_FORMAT,
                                  "IdentityDict needs activation_dim in "
                                  "config.json");
    }
    SAEI_TRY(saei_draft_sizes(draft));
    SAEI_TRY(saei_dl_transcoder(draft));
    if ((d && d != desc->activation_dim) || (m && m != desc->dict_size))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "activation_dim is %zu and dict_size %zu, in "
                              "config.json %zu and %zu", desc->activation_dim, desc->dict_size, d,
                              m);
    if (saei_dl_is_untagged(draft))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "W_enc is [%zu,%zu], and nothing says which "
                              "side the latents are on: no config.json, and activation_dim may be "
                              "dict_size",
                              desc->activation_dim, desc->dict_size);
    for (size_t k = 0; k < draft->count; k++) {
        SAEI_TRY(saei_draft_check(draft, k));
        if (draft->keys[k].slot == SAEI_SLOT_K)
            SAEI_TRY(saei_dl_k(draft, draft->keys[k].tensor));
        if (draft->keys[k].slot == SAEI_SLOT_GROUPS)
            SAEI_TRY(saei_dl_groups(draft, draft->keys[k].tensor));
    }
    return SAE_OK;
}

/* A nested file {step, ae, optimizer, config, norm_factor}, which the reference leaves when a run
   is cut off: *factor is norm_factor, by which the biases must still be multiplied; else 0. */
static sae_result saei_dl_nested(saei_load *load, float *factor) {
    const sae_tensor *t = sae_tensor_file_find(load->tensors, "norm_factor");
    const char *text = saei_tensor_file_scalar(load->tensors, "norm_factor");
    double value = 0;
    bool nested = false;
    for (size_t i = 0; i < sae_tensor_file_count(load->tensors) && !nested; i++)
        nested = strncmp(sae_tensor_file_get(load->tensors, i)->name, "ae.", 3) == 0;
    *factor = 0;
    if (!nested) return SAE_OK;
    load->prefix = "ae.";
    if (load->desc.raw) return SAE_OK;
    if (text && saei_text_number(text, strlen(text), &value)) *factor = (float)value;
    else if (t && saei_is_scalar(t)) sae_tensor_to_f32(t, factor);
    if (*factor > 0 && *factor <= FLT_MAX) return SAE_OK;
    return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "it is the backup of a run that was cut off, "
                          "without a norm_factor to scale its biases with");
}

static void saei_dl_origin(const saei_load *load, sae_dictionary *dict) {
    sae_origin *origin = &dict->origin;
    const sae_json *layer = saei_config_value(load->config, "layer");
    const sae_json *buffer = sae_json_get(load->root, "buffer");
    const sae_json *context = saei_config_value(buffer, "ctx_len");
    const sae_json *own = sae_json_get(load->root, "sae.h"), *head = saei_config_value(own, "head");
    const sae_json *bos = saei_config_value(own, "prepend_bos");
    saei_origin_text(origin->class_name, sizeof origin->class_name, sae_arch_name(dict->desc.arch));
    saei_origin_text(origin->model, sizeof origin->model,
                     saei_config_text(load->config, "lm_name"));
    saei_origin_text(origin->hook, sizeof origin->hook,
                     saei_config_text(load->config, "submodule_name"));
    if (layer && layer->is_integer) origin->layer = (int64_t)layer->number;
    if (context && context->is_integer && context->number > 0)
        origin->context_size = (size_t)context->number;
    origin->one_head = head && head->is_integer && head->number >= 0;
    if (origin->one_head) origin->head = (size_t)head->number;
    if (bos && bos->type == SAE_JSON_BOOL) origin->prepend_bos = bos->number != 0 ? 1 : -1;
}

static sae_result saei_dl_read(saei_load *load, sae_dictionary **out) {
    sae_dictionary *dict = NULL;
    sae_result result = SAE_OK;
    float factor;
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_dl_config(load));
    SAEI_TRY(saei_dl_nested(load, &factor));
    SAEI_TRY(saei_dl_class(&draft));
    SAEI_TRY(saei_dl_desc(&draft));
    SAEI_TRY(saei_draft_make(&draft, &dict));
    for (size_t k = 0; k < draft.count && result == SAE_OK; k++) {
        if (draft.keys[k].tensor || draft.keys[k].slot != SAEI_SLOT_THRESHOLD
            || dict->desc.arch != SAE_ARCH_BATCH_TOP_K)
            continue;
        saei_log(load->ctx, SAE_LOG_WARNING, "%s: %s is of 2024 and has no "
                 "threshold: its rule is batch top-k", load->who, load->file);
        result = sae_dictionary_set_rule(dict, SAE_RULE_TOP_K);
    }
    if (result == SAE_OK && factor > 0) result = sae_dictionary_scale_biases(dict, factor);
    if (result == SAE_OK && !load->desc.raw && !load->desc.raw_decoder_norms)
        result = sae_dictionary_normalize_decoder(dict);
    saei_dl_origin(load, dict);
    if (result == SAE_OK) *out = dict;
    else sae_dictionary_destroy(dict);
    return result;
}
