#pragma once
#include "model.h"

/* ==== >>lm: places ============================================================================ */

enum { LMI_IN = 1, LMI_OUT = 2 };

/* Which of a module's sides can be looked at, in any layer; 0: the model has no such module. */
static int lmi_module_sides(const sae_lm *m, sae_lm_module module) {
    uint32_t has = m->shape.has;
    switch (module) {
    case SAE_LM_EMBED: case SAE_LM_FINAL_NORMALIZED: case SAE_LM_ATTENTION_NORMALIZED:
    case SAE_LM_MLP_NORMALIZED: case SAE_LM_Q_PROJ: case SAE_LM_K_PROJ: case SAE_LM_V_PROJ:
        return LMI_OUT;
    case SAE_LM_QKV_PROJ: return has & LMI_FUSED ? LMI_OUT : 0;
    case SAE_LM_RESID_MID: return has & LMI_PARALLEL ? 0 : LMI_OUT;
    case SAE_LM_GATE_PROJ: return has & LMI_GATED ? LMI_OUT : 0;
    case SAE_LM_UP_PROJ: return has & LMI_GATED ? LMI_OUT : LMI_IN | LMI_OUT;
    case SAE_LM_ATTENTION_POST_NORM: case SAE_LM_MLP_POST_NORM:
        return has & LMI_POST_NORMS ? LMI_IN | LMI_OUT : 0;
    case SAE_LM_FINAL_NORM: case SAE_LM_LAYER: case SAE_LM_ATTENTION_NORM: case SAE_LM_ATTENTION:
    case SAE_LM_O_PROJ: case SAE_LM_MLP_NORM: case SAE_LM_MLP: case SAE_LM_DOWN_PROJ:
        return LMI_IN | LMI_OUT;
    case SAE_LM_NUM_MODULES: break;
    }
    return 0;
}

static bool lmi_module_of_layer(sae_lm_module module) { return module >= SAE_LM_LAYER; }

static int lmi_site_sides(const sae_lm *m, const sae_lm_site *s) {
    bool neurons = s->module == SAE_LM_GATE_PROJ || s->module == SAE_LM_UP_PROJ
                   || s->module == SAE_LM_DOWN_PROJ;
    if (s->layer >= (lmi_module_of_layer(s->module) ? m->shape.info.layers : 1)) return 0;
    if (neurons && m->shape.layer[s->layer].experts) return 0;
    return lmi_module_sides(m, s->module);
}

SAE_API size_t sae_lm_site_dim(const sae_lm *m, sae_lm_site site) {
    const sae_lm_config *info = &m->shape.info;
    size_t heads = info->heads * info->head_dim, kv = info->kv_heads * info->head_dim;
    switch (site.module) {
    case SAE_LM_QKV_PROJ: return heads + 2 * kv;
    case SAE_LM_Q_PROJ: return heads;
    case SAE_LM_K_PROJ: case SAE_LM_V_PROJ: return kv;
    case SAE_LM_O_PROJ: return site.input ? heads : info->dim;
    case SAE_LM_GATE_PROJ: return m->shape.dense_dim;
    case SAE_LM_UP_PROJ: return site.input ? info->dim : m->shape.dense_dim;
    case SAE_LM_DOWN_PROJ: return site.input ? m->shape.dense_dim : info->dim;
    default: return info->dim;
    }
}

SAE_API bool sae_lm_site_is_residual(const sae_lm *m, sae_lm_site site) {
    bool last = !(m->shape.has & LMI_POST_NORMS);
    switch (site.module) {
    case SAE_LM_EMBED: case SAE_LM_LAYER: case SAE_LM_RESID_MID: case SAE_LM_FINAL_NORM:
        return true;
    case SAE_LM_ATTENTION: case SAE_LM_O_PROJ: case SAE_LM_MLP: case SAE_LM_DOWN_PROJ:
        return last && !site.input;
    case SAE_LM_ATTENTION_POST_NORM: case SAE_LM_MLP_POST_NORM: return !site.input;
    default: return false;
    }
}

/* TransformerLens' names; of a layer behind "blocks.N.". post: the module where there are post
   norms. */
static const struct {
    const char *name;
    sae_lm_module module, post;
    bool input;
} lmi_hook_names[] = {
    { "hook_embed", SAE_LM_EMBED, SAE_LM_EMBED, false },
    { "ln_final.hook_normalized", SAE_LM_FINAL_NORMALIZED, SAE_LM_FINAL_NORMALIZED, false },
    { "hook_resid_pre", SAE_LM_LAYER, SAE_LM_LAYER, true },
    { "hook_resid_mid", SAE_LM_RESID_MID, SAE_LM_RESID_MID, false },
    { "hook_resid_post", SAE_LM_LAYER, SAE_LM_LAYER, false },
    { "hook_attn_out", SAE_LM_ATTENTION, SAE_LM_ATTENTION_POST_NORM, false },
    { "hook_mlp_out", SAE_LM_MLP, SAE_LM_MLP_POST_NORM, false },
    { "attn.hook_q", SAE_LM_Q_PROJ, SAE_LM_Q_PROJ, false },
    { "attn.hook_k", SAE_LM_K_PROJ, SAE_LM_K_PROJ, false },
    { "attn.hook_v", SAE_LM_V_PROJ, SAE_LM_V_PROJ, false },
    { "attn.hook_z", SAE_LM_O_PROJ, SAE_LM_O_PROJ, true },
    { "ln1.hook_normalized", SAE_LM_ATTENTION_NORMALIZED, SAE_LM_ATTENTION_NORMALIZED, false },
    { "ln2.hook_normalized", SAE_LM_MLP_NORMALIZED, SAE_LM_MLP_NORMALIZED, false },
    { "mlp.hook_in", SAE_LM_MLP, SAE_LM_MLP, true },
    { "mlp.hook_pre", SAE_LM_GATE_PROJ, SAE_LM_GATE_PROJ, false }, /* UP_PROJ without a gate */
    { "mlp.hook_pre_linear", SAE_LM_UP_PROJ, SAE_LM_UP_PROJ, false },
    { "mlp.hook_post", SAE_LM_DOWN_PROJ, SAE_LM_DOWN_PROJ, true }
};
enum { LMI_NUM_HOOK_NAMES = sizeof lmi_hook_names / sizeof lmi_hook_names[0] };

static bool lmi_hook_name_here(const sae_lm *m, size_t i, sae_lm_site *site) {
    bool gated = (m->shape.has & LMI_GATED) != 0;
    site->module = m->shape.has & LMI_POST_NORMS ? lmi_hook_names[i].post
                                                 : lmi_hook_names[i].module;
    site->input = lmi_hook_names[i].input;
    if (site->module == SAE_LM_UP_PROJ && !gated) return false;
    if (site->module == SAE_LM_GATE_PROJ && !gated) site->module = SAE_LM_UP_PROJ;
    return lmi_site_sides(m, site) != 0;
}

/* "N" or "N." in front of *name, which is moved behind it. */
static bool lmi_layer_number(const char **name, size_t *layer) {
    size_t digits = 0;
    *layer = 0;
    for (; **name >= '0' && **name <= '9' && digits < 6; ++*name, digits++)
        *layer = *layer * 10 + (size_t)(**name - '0');
    if (digits && **name == '.' && (*name)[1]) ++*name;
    else if (**name) return false;
    return digits > 0;
}

static bool lmi_skip(const char **name, const char *prefix) {
    size_t n = strlen(prefix);
    if (strncmp(*name, prefix, n) != 0) return false;
    *name += n;
    return true;
}

static bool lmi_hook_find(const sae_lm *m, const char *name, sae_lm_site *site) {
    bool of_layer = lmi_skip(&name, "blocks.");
    site->layer = 0;
    if (of_layer && !lmi_layer_number(&name, &site->layer)) return false;
    for (size_t i = 0; i < LMI_NUM_HOOK_NAMES; i++)
        if (strcmp(name, lmi_hook_names[i].name) == 0)
            return of_layer == lmi_module_of_layer(lmi_hook_names[i].module)
                   && lmi_hook_name_here(m, i, site);
    return false;
}

static bool lmi_path_find(const sae_lm *m, const char *name, sae_lm_site *site) {
    const lmi_naming *naming = m->shape.naming;
    bool of_layer;
    if (lmi_skip(&name, naming->base)) {
        if (m->shape.has & LMI_TEXT_CONFIG) lmi_skip(&name, "language_model.");
    } else if (m->shape.has & LMI_TEXT_CONFIG && lmi_skip(&name, "language_model."))
        lmi_skip(&name, naming->base);
    site->layer = 0;
    of_layer = lmi_skip(&name, naming->layers);
    if (of_layer && !lmi_layer_number(&name, &site->layer)) return false;
    site->module = SAE_LM_LAYER;
    if (of_layer && !*name) return lmi_site_sides(m, site) != 0;
    for (int i = 0; i < SAE_LM_NUM_MODULES; i++) {
        const char *own = lmi_part_name(naming, i);
        site->module = (sae_lm_module)i;
        if (own && strcmp(own, name) == 0)
            return of_layer == lmi_module_of_layer(site->module) && lmi_site_sides(m, site) != 0;
    }
    return false;
}

/* "model.embed_tokens, model.norm, model.layers.N, model.layers.N.{...}, hook_embed, ..." */
static const char *lmi_site_list(const sae_lm *m, char *out, size_t size) {
    const lmi_naming *naming = m->shape.naming;
    const char *between = "";
    size_t n = 0;
    sae_lm_site s;
    memset(&s, 0, sizeof s);
#define LMI_PUT(...) n += (size_t)snprintf(out + (n < size ? n : size - 1),                        \
                                           n < size ? size - n : 1, __VA_ARGS__)
    LMI_PUT("%s%s, %s%sN, %s%sN.{", naming->base, lmi_part_name(naming, SAE_LM_EMBED), naming->base,
            naming->layers, naming->base, naming->layers);
    for (int i = SAE_LM_LAYER + 1; i < SAE_LM_NUM_MODULES; i++) {
        const char *name = lmi_part_name(naming, i);
        s.module = (sae_lm_module)i;
        if (!name || !lmi_site_sides(m, &s)) continue;
        LMI_PUT("%s%s", between, name);
        between = ", ";
    }
    LMI_PUT("}, %s%s", naming->base, lmi_part_name(naming, SAE_LM_FINAL_NORM));
    for (size_t i = 0; i < LMI_NUM_HOOK_NAMES; i++) {
        bool of_layer = lmi_module_of_layer(lmi_hook_names[i].module);
        if (i == 2) LMI_PUT(", blocks.N.{"), between = "";
        if (!lmi_hook_name_here(m, i, &s)) continue;
        LMI_PUT("%s%s", of_layer ? between : ", ", lmi_hook_names[i].name);
        between = ", ";
    }
    LMI_PUT("}");
#undef LMI_PUT
    return out;
}

SAE_API sae_result sae_lm_site_find(const sae_lm *m, const char *name, bool input,
                                    sae_lm_site *out) {
    sae_lm_site site;
    bool hook;
    char list[900];
    if (!m) return SAE_ERR_INVALID;
    if (!name || !out)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: name and out may not be NULL");
    memset(&site, 0, sizeof site);
    hook = lmi_hook_find(m, name, &site);
    if (hook && input)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: %s is an output, it has no input", name);
    if (!hook && !lmi_path_find(m, name, &site)) {
        size_t n = strlen(name), mlp_in = strlen("hook_mlp_in");
        if (n >= mlp_in && strcmp(name + n - mlp_in, "hook_mlp_in") == 0)
            return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                            "sae_lm_site_find: %s is one place to TransformerLens and another to "
                            "Gemma Scope: give the module's name", name);
        return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                        "sae_lm_site_find: there is no place %.80s; there are %s with N from 0 to "
                        "%zu", name, lmi_site_list(m, list, sizeof list), m->shape.info.layers - 1);
    }
    if (!hook) {
        site.input = input;
        if (!(lmi_site_sides(m, &site) & (input ? LMI_IN : LMI_OUT)))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                            "sae_lm_site_find: the input of %s cannot be looked at here; allowed "
                            "is its output", name);
    }
    *out = site;
    return SAE_OK;
}

static const char *lmi_hook_of(const sae_lm *m, sae_lm_site site) {
    sae_lm_site s = site;
    for (size_t i = 0; i < LMI_NUM_HOOK_NAMES; i++)
        if (lmi_hook_name_here(m, i, &s) && s.module == site.module && s.input == site.input)
            return lmi_hook_names[i].name;
    return NULL;
}

SAE_API const char *sae_lm_site_name(const sae_lm *m, sae_lm_site site, bool hook, char *out,
                                     size_t size) {
    const lmi_naming *naming = m->shape.naming;
    bool of_layer = lmi_module_of_layer(site.module);
    const char *own = hook ? lmi_hook_of(m, site) : lmi_part_name(naming, (int)site.module);
    if (!hook && site.module == SAE_LM_LAYER) own = "";
    if (!own) snprintf(out, size, "%s", "");
    else if (!of_layer) snprintf(out, size, "%s%s", hook ? "" : naming->base, own);
    else snprintf(out, size, "%s%s%zu%s%s", hook ? "" : naming->base,
                  hook ? "blocks." : naming->layers, site.layer, *own ? "." : "", own);
    return out;
}
