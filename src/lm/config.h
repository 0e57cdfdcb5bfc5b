#pragma once
#include "arithmetic.h"

/* ==== >>lm: config ============================================================================ */

typedef struct lmi_layer {
    float *norm[2][2]; /* input_layernorm, post_attention_layernorm: weight, bias [d] */
    sae_linear *qkv, *dense, *up, *down;
} lmi_layer;

enum { LMI_MAX_SHARDS = 1024, LMI_MAX_LAYERS = 4096 };

struct sae_lm {
    sae_context *ctx;
    const lmi_kernels *kernels;
    sae_lm_config info;
    lmi_act act;
    bool attention_bias;
    char *folder;
    sae_tensor_file *file[LMI_MAX_SHARDS];
    char *file_name[LMI_MAX_SHARDS];
    size_t num_files;
    const sae_tensor *embed; /* read row by row from the file */
    lmi_layer *layer;
    float *norm[2];          /* final_layer_norm */
    sae_linear *unembed;
    /* memory of a forward pass */
    float *memory, *rope;    /* rope [rope_ctx][pairs][cos, sin] */
    size_t memory_floats, rope_ctx;
};

/* What reading config.json needs to complain. */
typedef struct lmi_config {
    sae_context *ctx;
    const char *path;
    const sae_json *root;
} lmi_config;

/* A whole number from 1 to most; missing: otherwise, and if that is 0 it may not be missing. */
static sae_result lmi_config_size(const lmi_config *c, const char *key, size_t otherwise,
                                  size_t most, size_t *out) {
    const sae_json *v = sae_json_get(c->root, key);
    double number = v ? sae_json_number(v) : (double)otherwise;
    if (!v && !otherwise)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s: %s is missing",
                                c->path, key);
    if ((v && sae_json_kind_of(v) != SAE_JSON_NUMBER) || !(number >= 1)
        || number > (double)most || number != floor(number))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are whole numbers from 1 to %zu",
                        c->path, key, number, most);
    *out = (size_t)number;
    return SAE_OK;
}

/* A number above 0 (or from 0 on), or otherwise. */
static sae_result lmi_config_number(const lmi_config *c, const sae_json *object,
                                    const char *key, double least, double most, double *out) {
    const sae_json *v = sae_json_get(object, key);
    sae_json_kind kind = sae_json_kind_of(v);
    if (kind == SAE_JSON_NONE || kind == SAE_JSON_NULL) return SAE_OK;
    if (kind != SAE_JSON_NUMBER || !(sae_json_number(v) >= least) || sae_json_number(v) > most)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are numbers from %g to %g",
                        c->path, key, sae_json_number(v), least, most);
    *out = sae_json_number(v);
    return SAE_OK;
}

static void lmi_config_bool(const lmi_config *c, const char *key, bool *out) {
    const sae_json *v = sae_json_get(c->root, key);
    if (sae_json_kind_of(v) == SAE_JSON_BOOL) *out = sae_json_number(v) != 0;
}

/* Of a list (eos_token_id may be one) the first. */
static void lmi_config_token(const lmi_config *c, const char *key, int64_t *out) {
    const sae_json *v = sae_json_get(c->root, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY) v = sae_json_first(v);
    if (sae_json_kind_of(v) == SAE_JSON_NUMBER && sae_json_number(v) >= 0
        && sae_json_number(v) < 2147483648.0)
        *out = (int64_t)sae_json_number(v);
}

/* Old files: rotary_pct, rotary_emb_base, rope_scaling. New ones: rope_parameters. */
static sae_result lmi_config_rotary(sae_lm *m, const lmi_config *c) {
    const sae_json *rope = sae_json_get(c->root, "rope_parameters"), *type;
    sae_lm_config *info = &m->info;
    double share = 0.25, dims;
    info->rotary_base = 10000;
    if (sae_json_kind_of(rope) != SAE_JSON_OBJECT) rope = sae_json_get(c->root, "rope_scaling");
    type = sae_json_get(rope, "rope_type");
    if (!type) type = sae_json_get(rope, "type");
    if (sae_json_text(type) && strcmp(sae_json_text(type), "default") != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: the rotary kind is %s, supported is default", c->path,
                        sae_json_text(type));
    LMI_TRY(lmi_config_number(c, c->root, "rotary_pct", 0, 1, &share));
    LMI_TRY(lmi_config_number(c, c->root, "rotary_emb_base", 1, 1e12, &info->rotary_base));
    LMI_TRY(lmi_config_number(c, rope, "partial_rotary_factor", 0, 1, &share));
    LMI_TRY(lmi_config_number(c, rope, "rope_theta", 1, 1e12, &info->rotary_base));
    dims = floor((double)info->head_dim * share);
    info->rotary_dims = (size_t)dims;
    if (info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: all %zu dimensions of a head turn, supported is an "
                        "even number", c->path, info->head_dim);
    return SAE_OK;
}

static sae_result lmi_config_act(sae_lm *m, const lmi_config *c) {
    const sae_json *v = sae_json_get(c->root, "hidden_act");
    const char *name = v ? sae_json_text(v) : "gelu";
    char known[256];
    size_t n = 0;
    for (size_t i = 0; i < LMI_NUM_ACTS; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              lmi_acts[i].name);
        if (!name || strcmp(name, lmi_acts[i].name) != 0) continue;
        m->act = lmi_acts[i].act;
        snprintf(m->info.activation, sizeof m->info.activation, "%s", name);
        return SAE_OK;
    }
    return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                    "sae_lm_open: %s: hidden_act is %s, supported are %s", c->path,
                    name ? name : "no text", known);
}

static sae_result lmi_config_read(sae_lm *m, const lmi_config *c) {
    sae_lm_config *info = &m->info;
    const char *type = sae_json_text(sae_json_get(c->root, "model_type"));
    double eps = 1e-5, head_dim = 0;
    if (sae_json_kind_of(c->root) != SAE_JSON_OBJECT)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s is no JSON object",
                                c->path);
    if (!type || strcmp(type, "gpt_neox") != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: model_type is %s, supported is gpt_neox (GPT-NeoX, "
                        "Pythia)", c->path, type ? type : "missing");
    LMI_TRY(lmi_config_size(c, "num_hidden_layers", 0, LMI_MAX_LAYERS, &info->layers));
    LMI_TRY(lmi_config_size(c, "hidden_size", 0, 1 << 20, &info->dim));
    LMI_TRY(lmi_config_size(c, "num_attention_heads", 0, 1 << 20, &info->heads));
    LMI_TRY(lmi_config_size(c, "intermediate_size", 0, 1 << 22, &info->mlp_dim));
    LMI_TRY(lmi_config_size(c, "vocab_size", 0, INT32_MAX, &info->vocab_size));
    LMI_TRY(lmi_config_size(c, "max_position_embeddings", 2048, INT32_MAX, &info->max_ctx));
    if (info->dim % info->heads)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: hidden_size is %zu, allowed are multiples of "
                        "num_attention_heads, %zu", c->path, info->dim, info->heads);
    info->head_dim = info->dim / info->heads;
    LMI_TRY(lmi_config_number(c, c->root, "head_dim", 1, 1 << 20, &head_dim));
    if (head_dim != 0 && head_dim != (double)info->head_dim)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: head_dim is %g, supported is hidden_size / "
                        "num_attention_heads, %zu", c->path, head_dim, info->head_dim);
    LMI_TRY(lmi_config_number(c, c->root, "layer_norm_eps", 0, 1, &eps));
    info->norm_eps = eps;
    info->parallel_residual = m->attention_bias = true;
    lmi_config_bool(c, "use_parallel_residual", &info->parallel_residual);
    lmi_config_bool(c, "tie_word_embeddings", &info->tied);
    lmi_config_bool(c, "attention_bias", &m->attention_bias);
    info->bos_token = info->eos_token = info->pad_token = -1;
    lmi_config_token(c, "bos_token_id", &info->bos_token);
    lmi_config_token(c, "eos_token_id", &info->eos_token);
    lmi_config_token(c, "pad_token_id", &info->pad_token);
    LMI_TRY(lmi_config_act(m, c));
    return lmi_config_rotary(m, c);
}
