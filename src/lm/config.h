#pragma once
#include "families.h"

/* ==== >>lm: config ============================================================================ */
/* config.json into a description. Keys are read once for all families, each under all its
   spellings: "a|b" is a, else b. */

/* What reading needs to complain. */
typedef struct lmi_config {
    sae_context *ctx;
    const char *path;
    const sae_json *root, *outer; /* the same, but for models of text and images */
    const lmi_family *family;
    const char *arch; /* of a .gguf: in front of its keys */
} lmi_config;

/* The value of the first of the keys that is there; *name, if given, is that key in `text`. */
static const sae_json *lmi_config_get(const sae_json *object, const char *keys, char text[64]) {
    while (*keys) {
        size_t n = strcspn(keys, "|");
        const sae_json *v;
        snprintf(text, 64, "%.*s", (int)n, keys);
        v = sae_json_get(object, text);
        if (v) return v;
        keys += n + (keys[n] == '|');
    }
    return NULL;
}

static bool lmi_config_none(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

/* A whole number from 1 to most; missing or null: otherwise, and if that is 0 it is required. */
static sae_result lmi_config_size(const lmi_config *c, const char *keys, size_t otherwise,
                                  size_t most, size_t *out) {
    char key[64] = "";
    const sae_json *v = lmi_config_get(c->root, keys, key);
    double number = sae_json_number(v);
    if (lmi_config_none(v)) {
        if (!otherwise)
            return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s: %s is missing",
                                    c->path, keys);
        *out = otherwise;
        return SAE_OK;
    }
    if (sae_json_kind_of(v) != SAE_JSON_NUMBER || !(number >= 1) || number > (double)most
        || number != floor(number))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are whole numbers from 1 to %zu",
                        c->path, key, number, most);
    *out = (size_t)number;
    return SAE_OK;
}

/* A number in a range; *out stays where it is missing or null. */
static sae_result lmi_config_number(const lmi_config *c, const sae_json *object, const char *keys,
                                    double least, double most, double *out) {
    char key[64] = "";
    const sae_json *v = lmi_config_get(object, keys, key);
    if (lmi_config_none(v)) return SAE_OK;
    if (sae_json_kind_of(v) != SAE_JSON_NUMBER || !(sae_json_number(v) >= least)
        || sae_json_number(v) > most)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are numbers from %g to %g",
                        c->path, key, sae_json_number(v), least, most);
    *out = sae_json_number(v);
    return SAE_OK;
}

static bool lmi_config_bool(const sae_json *object, const char *key, bool otherwise) {
    const sae_json *v = sae_json_get(object, key);
    return sae_json_kind_of(v) == SAE_JSON_BOOL ? sae_json_number(v) != 0 : otherwise;
}

static void lmi_config_flag(const lmi_config *c, const char *key, uint32_t flag, uint32_t *has) {
    bool on = lmi_config_bool(c->root, key, (*has & flag) != 0);
    *has = on ? *has | flag : *has & ~flag;
}

/* Of a list (eos_token_id may be one) the first. */
static int64_t lmi_config_token(const lmi_config *c, const char *key, int64_t otherwise) {
    const sae_json *v = sae_json_get(c->root, key);
    if (!v) v = sae_json_get(c->outer, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY) v = sae_json_first(v);
    if (sae_json_kind_of(v) == SAE_JSON_NUMBER && sae_json_number(v) >= 0
        && sae_json_number(v) < 2147483648.0)
        return (int64_t)sae_json_number(v);
    return v ? -1 : otherwise;
}

static sae_result lmi_config_act(const lmi_config *c, lmi_shape *s) {
    char known[256], key[64] = "";
    const sae_json *v = lmi_config_get(c->root, c->family->act_keys, key);
    const char *name = c->family->act;
    size_t n = 0;
    if (lmi_config_none(v)) { /* a null in front of another spelling */
        const char *other = strchr(c->family->act_keys, '|');
        if (other) v = lmi_config_get(c->root, other + 1, key);
    }
    if (!lmi_config_none(v)) name = sae_json_text(v);
    for (size_t i = 0; i < LMI_NUM_ACTS; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              lmi_acts[i].name);
        if (!name || strcmp(name, lmi_acts[i].name) != 0) continue;
        s->act = lmi_acts[i].act;
        if (c->family->has & LMI_MEANS_TANH && s->act == LMI_GELU) s->act = LMI_GELU_TANH;
        snprintf(s->info.activation, sizeof s->info.activation, "%s", name);
        return SAE_OK;
    }
    return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                    "sae_lm_open: %s: %s is %s, supported are %s", c->path, key,
                    name ? name : "no text", known);
}

/* What stands in rope_scaling, or in rope_parameters or one of the objects in there. */
static sae_result lmi_config_scaling(const lmi_config *c, const sae_json *v, lmi_rope *rope,
                                     double *share) {
    static const char *const keys[] = { "factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings" };
    char key[64];
    const char *type = sae_json_text(lmi_config_get(v, "rope_type|type", key));
    double *const to[] = { &rope->factor, &rope->low, &rope->high, &rope->original };
    size_t needed = 0;
    LMI_TRY(lmi_config_number(c, v, "rope_theta", 1, 1e12, &rope->base));
    LMI_TRY(lmi_config_number(c, v, "partial_rotary_factor", 0, 1, share));
    if (!type || strcmp(type, "default") == 0) return SAE_OK;
    if (strcmp(type, "linear") == 0) rope->kind = LMI_ROPE_LINEAR, needed = 1;
    else if (strcmp(type, "llama3") == 0) rope->kind = LMI_ROPE_LLAMA3, needed = 4;
    else
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: rope_type is %s, supported are default, linear, llama3",
                        c->path, type);
    for (size_t i = 0; i < needed; i++) {
        *to[i] = 0;
        LMI_TRY(lmi_config_number(c, v, keys[i], 1e-6, 1e9, to[i]));
        if (!(*to[i] > 0))
            return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                            "sae_lm_open: %s: %s is missing, which rope_type %s needs", c->path,
                            keys[i], type);
    }
    if (rope->kind == LMI_ROPE_LLAMA3 && !(rope->high > rope->low))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: high_freq_factor is %g, allowed is more than "
                        "low_freq_factor, %g", c->path, rope->high, rope->low);
    return SAE_OK;
}

/* Old files: rotary_pct, rotary_emb_base or rope_theta, rope_scaling. New ones: rope_parameters, of
   Gemma 3 one object for each kind of layer. */
static sae_result lmi_config_rotary(const lmi_config *c, lmi_shape *s) {
    const sae_json *v = sae_json_get(c->root, "rope_parameters");
    const sae_json *full = sae_json_get(v, "full_attention");
    const sae_json *local = sae_json_get(v, "sliding_attention");
    sae_lm_config *info = &s->info;
    double share = c->family->rotary_share, ignored = 1;
    s->rope[0].base = c->family->theta;
    s->rope[1].base = 1e4;
    if (s->has & LMI_LEARNED) return SAE_OK;
    LMI_TRY(lmi_config_number(c, c->root, "rotary_pct", 0, 1, &share));
    LMI_TRY(lmi_config_number(c, c->root, "rope_theta|rotary_emb_base", 1, 1e12,
                              &s->rope[0].base));
    LMI_TRY(lmi_config_number(c, c->root, "rope_local_base_freq", 1, 1e12, &s->rope[1].base));
    if (sae_json_kind_of(v) != SAE_JSON_OBJECT) v = sae_json_get(c->root, "rope_scaling");
    LMI_TRY(lmi_config_scaling(c, full || local ? full : v, &s->rope[0], &share));
    if (s->has & LMI_LOCAL_ROPE) LMI_TRY(lmi_config_scaling(c, local, &s->rope[1], &ignored));
    info->rotary_base = s->rope[0].base;
    info->rotary_dims = (size_t)floor((double)info->head_dim * share);
    if (info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: all %zu dimensions of a head turn, supported is an "
                        "even number", c->path, info->head_dim);
    return SAE_OK;
}

/* Which layers have a window, s, and which none, f: layer_types, or GPT-Neo's attention_layers or
   attention_types, [[["global", "local"], 12], ...]. */
static sae_result lmi_config_kind(const lmi_config *c, const sae_json *v, size_t *layer,
                                  char *kinds, size_t layers) {
    const char *kind = sae_json_text(v);
    bool window = kind && (!strcmp(kind, "sliding_attention") || !strcmp(kind, "local"));
    if (!window && (!kind || (strcmp(kind, "full_attention") && strcmp(kind, "global"))))
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: layer %zu is %s, supported are full_attention and "
                        "sliding_attention", c->path, *layer, kind ? kind : "no text");
    if (*layer < layers) kinds[*layer] = window ? 's' : 'f';
    ++*layer;
    return SAE_OK;
}

static sae_result lmi_config_kinds(const lmi_config *c, char *kinds, size_t layers) {
    char key[64] = "";
    const char *pattern = c->family->windows;
    const sae_json *list = lmi_config_get(c->root, "layer_types|attention_layers", key);
    size_t every = strlen(pattern), count = 0;
    if (every > 2) /* of Gemma 3: the last of so many is full */
        LMI_TRY(lmi_config_size(c, "sliding_window_pattern|_sliding_window_pattern", every, 1 << 20,
                                &every));
    for (size_t i = 0; i < layers; i++)
        kinds[i] = strlen(pattern) > 2 ? (i + 1) % every ? 's' : 'f' : pattern[i % every];
    if (sae_json_kind_of(list) == SAE_JSON_ARRAY) {
        for (const sae_json *v = sae_json_first(list); v; v = sae_json_next(v))
            LMI_TRY(lmi_config_kind(c, v, &count, kinds, layers));
    } else {
        list = lmi_config_get(c->root, "attention_types", key);
        if (sae_json_kind_of(list) != SAE_JSON_ARRAY) return SAE_OK;
        for (const sae_json *v = sae_json_first(list); v; v = sae_json_next(v)) {
            const sae_json *run = sae_json_first(v);
            double times = sae_json_first(run) ? sae_json_number(sae_json_next(run)) : 0;
            for (double i = 0; i < times && count <= layers; i++)
                for (const sae_json *k = sae_json_first(run); k; k = sae_json_next(k))
                    LMI_TRY(lmi_config_kind(c, k, &count, kinds, layers));
        }
    }
    if (count != layers)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s names %zu layers, there are %zu", c->path, key, count,
                        layers);
    return SAE_OK;
}

/* Windows, scales and experts of each layer. */
static sae_result lmi_config_layers(const lmi_config *c, lmi_shape *s) {
    const sae_json *v, *dense = sae_json_get(c->root, "mlp_only_layers");
    char key[64], kinds[LMI_MAX_LAYERS];
    size_t window = c->family->window, from = 0, step = 1, layers = s->info.layers;
    double scalar = (double)s->info.head_dim, scale;
    bool by_layer = lmi_config_bool(c->root, "scale_attn_by_inverse_layer_idx", false);
    s->layer = (lmi_layer_shape *)calloc(layers, sizeof *s->layer);
    if (!s->layer) return sae_context_fail(c->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    if (c->family->has & LMI_SCALAR) {
        scalar = 256;
        LMI_TRY(lmi_config_number(c, c->root, "query_pre_attn_scalar", 1e-6, 1e9, &scalar));
    }
    scale = 1 / sqrt(scalar);
    if (c->family->has & LMI_UNSCALED || !lmi_config_bool(c->root, "scale_attn_weights", true))
        scale = 1;
    v = lmi_config_get(c->root, "sliding_window|window_size", key);
    if (v && lmi_config_none(v)) window = 0;
    else if (strcmp(c->family->windows, "f") != 0 && v)
        LMI_TRY(lmi_config_size(c, "sliding_window|window_size", 0, INT32_MAX, &window));
    if (c->family->has & LMI_USE_WINDOW && !lmi_config_bool(c->root, "use_sliding_window", false))
        window = 0;
    if (c->family->has & LMI_FROM_LAYER && !sae_json_get(c->root, "layer_types")) {
        double first = 28;
        LMI_TRY(lmi_config_number(c, c->root, "max_window_layers", 0, INT32_MAX, &first));
        from = (size_t)first;
    }
    if (strcmp(c->family->windows, "f") == 0) memset(kinds, 'f', layers);
    else LMI_TRY(lmi_config_kinds(c, kinds, layers));
    if (s->has & LMI_EXPERTS)
        LMI_TRY(lmi_config_size(c, "decoder_sparse_step", 1, 1 << 20, &step));
    for (size_t i = 0; i < layers; i++) {
        bool local = kinds[i] == 's' && i >= from;
        s->layer[i].window = local ? window : 0;
        s->layer[i].rope = local && s->has & LMI_LOCAL_ROPE;
        s->layer[i].scale = (float)(by_layer ? scale / (double)(i + 1) : scale);
        s->layer[i].experts = s->has & LMI_EXPERTS && (i + 1) % step == 0;
        if (s->layer[i].window) s->info.window = window;
        for (v = sae_json_first(dense); v && s->layer[i].experts; v = sae_json_next(v))
            s->layer[i].experts = sae_json_number(v) != (double)i;
    }
    return SAE_OK;
}

static sae_result lmi_config_sizes(const lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    const lmi_family *f = c->family;
    size_t dim, wide;
    LMI_TRY(lmi_config_size(c, "num_hidden_layers|n_layer|num_layers", 0, LMI_MAX_LAYERS,
                            &info->layers));
    LMI_TRY(lmi_config_size(c, "hidden_size|n_embd", 0, 1 << 20, &info->dim));
    LMI_TRY(lmi_config_size(c, "num_attention_heads|n_head|num_heads", f->heads, 1 << 16,
                            &info->heads));
    LMI_TRY(lmi_config_size(c, "vocab_size", f->vocab_size, INT32_MAX, &info->vocab_size));
    LMI_TRY(lmi_config_size(c, "max_position_embeddings|n_positions", f->max_ctx, INT32_MAX,
                            &info->max_ctx));
    LMI_TRY(lmi_config_size(c, "intermediate_size|n_inner",
                            f->has & LMI_MLP_4D ? 4 * info->dim : 0, 1 << 22, &info->mlp_dim));
    s->dense_dim = info->mlp_dim;
    info->kv_heads = info->heads;
    if (sae_json_kind_of(sae_json_get(c->root, "num_key_value_heads")) != SAE_JSON_NULL)
        LMI_TRY(lmi_config_size(c, "num_key_value_heads", f->kv_heads ? f->kv_heads : info->heads,
                                1 << 16, &info->kv_heads));
    if (info->heads % info->kv_heads)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: num_key_value_heads is %zu, allowed are divisors of "
                        "num_attention_heads, %zu", c->path, info->kv_heads, info->heads);
    dim = sae_json_kind_of(sae_json_get(c->root, "head_dim")) == SAE_JSON_NULL ? 0 : f->head_dim;
    if (!dim) dim = info->dim / info->heads;
    if (!dim || (info->dim % info->heads && !f->head_dim
                 && lmi_config_none(sae_json_get(c->root, "head_dim"))))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: hidden_size is %zu, without head_dim allowed are "
                        "multiples of num_attention_heads, %zu", c->path, info->dim, info->heads);
    LMI_TRY(lmi_config_size(c, "head_dim", dim, 1 << 12, &info->head_dim));
    if (!(s->has & LMI_EXPERTS)) return SAE_OK;
    LMI_TRY(lmi_config_size(c, "num_local_experts|num_experts", 0, 1 << 12, &info->experts));
    LMI_TRY(lmi_config_size(c, "num_experts_per_tok", 0, info->experts, &info->experts_per_token));
    wide = info->mlp_dim;
    LMI_TRY(lmi_config_size(c, "moe_intermediate_size", wide, 1 << 22, &info->mlp_dim));
    s->top_norm = f->has & LMI_TOP_NORM || lmi_config_bool(c->root, "norm_topk_prob", false);
    return SAE_OK;
}

/* Things that would change the numbers and are not known here. */
static sae_result lmi_config_refuse(const lmi_config *c) {
    static const char *const keys[] = { "add_cross_attention", "use_bidirectional_attention" };
    const sae_json *q = sae_json_get(c->outer, "quantization_config");
    if (lmi_config_none(q)) q = sae_json_get(c->root, "quantization_config");
    if (!lmi_config_none(q)) {
        const char *by = sae_json_text(sae_json_get(q, "quant_method"));
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: the weights are quantised (quantization_config%s%s), "
                        "supported are F32, F16, BF16, F64", c->path, by ? ": " : "",
                        by ? by : "");
    }
    for (size_t i = 0; i < 2; i++)
        if (lmi_config_bool(c->root, keys[i], false))
            return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                            "sae_lm_open: %s: %s is true, supported is false", c->path, keys[i]);
    return SAE_OK;
}

static sae_result lmi_config_family(lmi_config *c, lmi_shape *s) {
    const char *type = sae_json_text(sae_json_get(c->root, "model_type"));
    char list[600];
    c->outer = c->root;
    if (sae_json_kind_of(c->root) != SAE_JSON_OBJECT)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s is no JSON object",
                                c->path);
    c->family = type ? lmi_family_find(type) : NULL;
    if (!c->family)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: model_type is %s, supported are %s", c->path,
                        type ? type : "missing", lmi_family_list(list, sizeof list));
    if (c->family->has & LMI_TEXT_CONFIG
        && sae_json_kind_of(sae_json_get(c->root, "text_config")) == SAE_JSON_OBJECT)
        c->root = sae_json_get(c->root, "text_config");
    s->has = c->family->has;
    s->naming = s->tensors = c->family->naming;
    snprintf(s->info.family, sizeof s->info.family, "%s", type);
    return SAE_OK;
}

/* s is all zero; s->layer is the caller's to free, whatever comes. */
static sae_result lmi_config_read(lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    double cap[2] = { 0, 0 };
    LMI_TRY(lmi_config_family(c, s));
    LMI_TRY(lmi_config_refuse(c));
    LMI_TRY(lmi_config_sizes(c, s));
    info->norm_eps = c->family->eps;
    LMI_TRY(lmi_config_number(c, c->root, "rms_norm_eps|layer_norm_eps|layer_norm_epsilon", 0, 1,
                              &info->norm_eps));
    if (s->has & LMI_BIAS_KEYS) {
        lmi_config_flag(c, "attention_bias", LMI_QKV_BIAS, &s->has);
        lmi_config_flag(c, "attention_bias", LMI_O_BIAS, &s->has);
        lmi_config_flag(c, "mlp_bias", LMI_MLP_BIAS, &s->has);
    }
    lmi_config_flag(c, "use_parallel_residual", LMI_PARALLEL, &s->has);
    if (c->root != c->outer && !sae_json_get(c->root, "tie_word_embeddings"))
        info->tied = lmi_config_bool(c->outer, "tie_word_embeddings", (s->has & LMI_TIED) != 0);
    else info->tied = lmi_config_bool(c->root, "tie_word_embeddings", (s->has & LMI_TIED) != 0);
    if (s->has & (LMI_CAPS | LMI_NO_CAPS)) {
        static const char *const keys[] = { "attn_logit_softcapping", "final_logit_softcapping" };
        for (size_t i = 0; i < 2; i++) {
            bool given = sae_json_get(c->root, keys[i]) != NULL;
            if (s->has & LMI_CAPS && !given) cap[i] = i ? 30 : 50;
            LMI_TRY(lmi_config_number(c, c->root, keys[i], 1e-6, 1e9, &cap[i]));
        }
    }
    s->attention_cap = (float)cap[0];
    s->logit_cap = (float)cap[1];
    info->rms_norm = (s->has & LMI_RMS) != 0;
    info->fixed_ctx = (s->has & LMI_LEARNED) != 0;
    info->parallel_residual = (s->has & LMI_PARALLEL) != 0;
    info->bos_token = lmi_config_token(c, "bos_token_id", c->family->bos);
    info->eos_token = lmi_config_token(c, "eos_token_id", c->family->eos);
    info->pad_token = lmi_config_token(c, "pad_token_id", c->family->pad);
    LMI_TRY(lmi_config_act(c, s));
    LMI_TRY(lmi_config_rotary(c, s));
    return lmi_config_layers(c, s);
}
