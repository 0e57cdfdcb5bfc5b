#pragma once
#include "clt_readers.h"

/* ==== >>files: clt-training =================================================================== */
/* A folder for each layer, sparsify's cfg.json and sae.safetensors: W_decs.j, b_decs.j,
   post_encs.j, post_enc_scales.j, W_skips.j of source i are for target i + j. A folder alone
   (n_targets 0) has them without number. */

typedef struct saei_training {
    size_t targets, sources; /* n_targets, n_sources */
    size_t k;
    bool skip, normalize, divide, tied, post_scale;
    const char *activation;
} saei_training;

/* What cfg.json, load->config, says; *m and *d too. */
static sae_result saei_training_config(const saei_load *load, saei_training *c, size_t *d,
                                       size_t *m) {
    const sae_json *activation = saei_config_value(load->config, "activation");
    const sae_json *coalesce = saei_config_value(load->config, "coalesce_topk");
    size_t expansion = 32;
    bool transcode = false, coalesced = false, secondary = false;
    memset(c, 0, sizeof *c);
    c->k = 32;
    *m = 0;
    SAEI_TRY(saei_config_required(load, "d_in", d));
    SAEI_TRY(saei_config_size(load, "num_latents", m));
    SAEI_TRY(saei_config_size(load, "expansion_factor", &expansion));
    SAEI_TRY(saei_config_size(load, "k", &c->k));
    SAEI_TRY(saei_config_size(load, "n_targets", &c->targets));
    SAEI_TRY(saei_config_size(load, "n_sources", &c->sources));
    SAEI_TRY(saei_config_bool(load, "skip_connection", &c->skip));
    SAEI_TRY(saei_config_bool(load, "transcode", &transcode));
    SAEI_TRY(saei_config_bool(load, "normalize_io", &c->normalize));
    SAEI_TRY(saei_config_bool(load, "divide_cross_layer", &c->divide));
    SAEI_TRY(saei_config_bool(load, "per_source_tied", &c->tied));
    SAEI_TRY(saei_config_bool(load, "secondary_target_tied", &secondary));
    SAEI_TRY(saei_config_bool(load, "post_encoder_scale", &c->post_scale));
    SAEI_TRY(saei_config_bool(load, "topk_coalesced", &coalesced));
    if (!*m && !saei_mul(*d, expansion, m)) *m = 0;
    c->activation = activation && activation->type == SAE_JSON_STRING ? activation->string : "topk";
    if (coalesce && (coalesce->type != SAE_JSON_STRING || strcmp(coalesce->string, "none") != 0))
        return saei_config_refused(load, "coalesce_topk", coalesce, "none");
    if (coalesced || secondary || !transcode)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "topk_coalesced is %s, "
                              "secondary_target_tied %s and transcode %s in cfg.json, allowed are "
                              "false, false and true", coalesced ? "true" : "false",
                              secondary ? "true" : "false", transcode ? "true" : "false");
    if (strcmp(c->activation, "topk") != 0 && strcmp(c->activation, "groupmax") != 0
        && strcmp(c->activation, "batchtopk") != 0)
        return saei_config_refused(load, "activation", activation, "topk, groupmax, batchtopk");
    return SAE_OK;
}

/* "W_decs.j", or "W_dec" of a folder alone. */
static const char *saei_training_key(const char *name, const saei_training *c, size_t j,
                                     char out[48]) {
    if (c->targets) snprintf(out, 48, "%ss.%zu", name, j);
    else snprintf(out, 48, "%s", name);
    return out;
}

/* How many sources write to target t. */
static size_t saei_training_sources(const saei_training *all, size_t t) {
    size_t count = 0;
    for (size_t i = 0; i <= t; i++) count += i + saei_max(all[i].targets, 1) > t;
    return count;
}

/* What source i gives to target i + j. */
static sae_result saei_training_block(saei_clt_draft *draft, const saei_training *all, size_t i,
                                      size_t j) {
    sae_clt *clt = draft->clt;
    const saei_training *c = &all[i];
    const size_t L = clt->desc.layers, d = clt->desc.activation_dim, m = clt->desc.dict_size;
    saei_clt_block *block = &clt->blocks[i * L + i + j];
    const sae_tensor *t = NULL;
    char key[48];
    const char *dec = c->tied ? "W_dec" : saei_training_key("W_dec", c, j, key);
    SAEI_TRY(saei_clt_tensor(draft, dec, 2, m, d, 0, &t));
    block->W_dec = saei_clt_matrix_of(t, false);
    if (j && all[i + j].divide) /* the share of the earlier sources */
        block->share = 1.0f / (float)saei_max(saei_training_sources(all, i + j) - 1, 1);
    saei_training_key("b_dec", c, j, key);
    SAEI_TRY(saei_clt_tensor(draft, key, 1, d, 0, 0, &t));
    SAEI_TRY(saei_clt_bias(draft, i + j, t, block->share));
    saei_training_key("post_enc", c, j, key);
    if (saei_clt_find(draft, key)) SAEI_TRY(saei_clt_vector_named(draft, key, m, &block->post));
    saei_training_key("post_enc_scale", c, j, key);
    if (c->post_scale) SAEI_TRY(saei_clt_vector_named(draft, key, m, &block->post_scale));
    if (!c->skip) return SAE_OK;
    saei_training_key("W_skip", c, j, key);
    SAEI_TRY(saei_clt_tensor(draft, key, 2, d, d, 0, &t));
    block->W_skip = saei_clt_matrix_of(t, false);
    return SAE_OK;
}

static sae_result saei_training_layer(saei_clt_draft *draft, const saei_training *all, size_t i,
                                      const char *file) {
    sae_clt *clt = draft->clt;
    const saei_training *c = &all[i];
    const size_t d = clt->desc.activation_dim, m = clt->desc.dict_size;
    saei_clt_layer *layer = &clt->layers[i];
    const sae_tensor *t = NULL;
    SAEI_TRY(saei_clt_file(draft, file));
    SAEI_TRY(saei_clt_tensor(draft, "encoder.weight", 2, m, d, 0, &t));
    layer->W_enc = saei_clt_matrix_of(t, false);
    if (i == 0) clt->origin.dtype = t->dtype;
    SAEI_TRY(saei_clt_vector_named(draft, "encoder.bias", m, &layer->b_enc));
    if (c->normalize) {
        double in, out, root = sqrt((double)d);
        SAEI_TRY(saei_clt_number(draft, "in_norm", &in));
        SAEI_TRY(saei_clt_number(draft, "out_norm", &out));
        if (!(in > 0) || !(root / in <= FLT_MAX) || !(out > 0))
            return saei_load_fail(draft->load, SAE_ERR_FORMAT, "in_norm is %g and out_norm %g in "
                                  "%s, allowed are numbers above 0", in, out, file);
        layer->in_scale = (float)(root / in);
        layer->out_scale = (float)(out / root);
    }
    for (size_t j = 0; j < saei_max(c->targets, 1); j++)
        SAEI_TRY(saei_training_block(draft, all, i, j));
    return SAE_OK;
}

/* The desc from what all the folders agree on. */
static sae_result saei_training_begin(saei_clt_draft *draft, const saei_training *all, size_t L,
                                      size_t d, size_t m) {
    const saei_load *load = draft->load;
    sae_clt_desc desc;
    memset(&desc, 0, sizeof desc);
    for (size_t i = 0; i < L; i++) {
        bool alone = !all[i].targets && L == 1;
        if (!alone && (all[i].sources != i || !all[i].targets || all[i].targets > L - i))
            return saei_load_fail(load, SAE_ERR_FORMAT, "of %zu folders number %zu has n_sources "
                                  "%zu and n_targets %zu in cfg.json, allowed are %zu and 1 to "
                                  "%zu: is a folder missing?", L, i, all[i].sources,
                                  all[i].targets, i, L - i);
        if (all[i].k != all[0].k || strcmp(all[i].activation, all[0].activation) != 0)
            return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "k or activation of folder number %zu "
                                  "differs from the first's", i);
    }
    desc.kind = L == 1 && !all[0].targets ? SAE_CLT_SET : SAE_CLT_CROSS_LAYER;
    desc.layers = L;
    desc.activation_dim = d;
    desc.dict_size = m;
    desc.k = all[0].k;
    desc.arch = SAE_ARCH_TOP_K;
    if (strcmp(all[0].activation, "groupmax") == 0) desc.activation = SAE_ACTIVATION_GROUP_MAX;
    if (strcmp(all[0].activation, "batchtopk") == 0) {
        desc.arch = SAE_ARCH_BATCH_TOP_K;
        desc.most = 4 * desc.k;
    }
    return saei_clt_begin(draft, &desc);
}

/* cfg.json of folder/name ("" for folder itself) into *root, which is the caller's; NULL: there is
   none. */
static sae_result saei_training_json(const saei_load *load, const char *name, sae_json **root) {
    char *folder = *name ? saei_path_join(load->ctx, load->path, name)
                         : saei_strdup(load->ctx, load->path);
    char *path = folder ? saei_path_join(load->ctx, folder, "cfg.json") : NULL;
    saei_path_kind kind = SAEI_PATH_NONE;
    sae_result result = path ? SAE_OK : saei_load_no_memory(load);
    *root = NULL;
    if (result == SAE_OK) result = saei_path_find(load->ctx, "sae_clt_open", path, &kind);
    if (result == SAE_OK && kind == SAEI_PATH_FILE)
        result = saei_json_load(load->ctx, "sae_clt_open", path, root);
    saei_free(load->ctx, folder);
    saei_free(load->ctx, path);
    return result;
}

/* The folders of layers in load->path, whose cfg.json has n_targets. */
static sae_result saei_training_folders(const saei_load *load, saei_names *names) {
    size_t kept = 0;
    sae_result result = saei_names_of(load->ctx, "sae_clt_open", load->path, names);
    for (size_t i = 0; result == SAE_OK && i < names->count; i++) {
        sae_json *root;
        result = saei_training_json(load, (const char *)names->names[i], &root);
        if (result == SAE_OK && saei_config_value(root, "n_targets"))
            names->names[kept++] = names->names[i];
        sae_json_close(root);
    }
    names->count = kept;
    return result;
}

/* All folders' configs, then their tensors; names NULL: load->path is one alone. */
static sae_result saei_training_open(saei_clt_draft *draft, const saei_names *names,
                                     saei_training *all, sae_json **roots) {
    saei_load *load = draft->load;
    const size_t L = names ? names->count : 1;
    size_t d = 0, m = 0, first_d = 0, first_m = 0;
    load->config_name = "cfg.json";
    for (size_t i = 0; i < L; i++) {
        SAEI_TRY(saei_training_json(load, names ? (const char *)names->names[i] : "", &roots[i]));
        load->config = roots[i];
        SAEI_TRY(saei_training_config(load, &all[i], &d, &m));
        if (i == 0) first_d = d, first_m = m;
        if (d != first_d || m != first_m)
            return saei_load_fail(load, SAE_ERR_MISMATCH, "folder %s is of %zu latents of %zu "
                                  "dimensions, the first of %zu of %zu",
                                  (const char *)names->names[i], m, d, first_m, first_d);
    }
    SAEI_TRY(saei_training_begin(draft, all, L, d, m));
    for (size_t i = 0; i < L; i++) {
        const char *folder = names ? (const char *)names->names[i] : "";
        const size_t size = strlen(folder) + 32;
        char *file = (char *)saei_arena_alloc(&draft->clt->arena, size, 1);
        if (!file) return saei_clt_no_memory(draft);
        snprintf(file, size, "%s%ssae.safetensors", folder, *folder ? "/" : "");
        SAEI_TRY(saei_training_layer(draft, all, i, file));
        if (i == 0) saei_origin_text(draft->clt->origin.hook, sizeof draft->clt->origin.hook,
                                     folder);
    }
    saei_origin_text(draft->clt->origin.class_name, sizeof draft->clt->origin.class_name,
                     all[0].activation);
    return SAE_OK;
}

static sae_result saei_training_read(saei_clt_draft *draft) {
    saei_load *load = draft->load;
    const bool alone = saei_config_value(load->root, "n_targets") != NULL;
    saei_names names;
    saei_training *all;
    sae_json **roots;
    sae_result result = SAE_OK;
    size_t L = 1;
    memset(&names, 0, sizeof names);
    if (!alone) result = saei_training_folders(load, &names);
    if (!alone) L = saei_max(names.count, 1);
    all = (saei_training *)saei_calloc(load->ctx, L, sizeof *all);
    roots = (sae_json **)saei_calloc(load->ctx, L, sizeof *roots);
    if (result == SAE_OK && (!all || !roots)) result = saei_clt_no_memory(draft);
    if (result == SAE_OK) result = saei_training_open(draft, alone ? NULL : &names, all, roots);
    for (size_t i = 0; roots && i < L; i++) sae_json_close(roots[i]);
    load->config = NULL;
    load->config_name = NULL;
    saei_free(load->ctx, all);
    saei_free(load->ctx, roots);
    saei_names_free(load->ctx, &names);
    return result;
}
