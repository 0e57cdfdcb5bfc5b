#pragma once
#include "weights.h"

/* ==== >>lm: gguf: model ======================================================================= */
/* A .gguf as llama.cpp's converter writes it, into the same description. The converter has added
   the 1 to Gemma's norms, laid GPT-2's matrices [out,in] and GPT-NeoX' q, k and v apart, and, where
   llama.cpp turns neighbours, paired the rows of q and k. What it leaves out is llama.cpp's own
   knowledge: the pattern of windows, which models scale scores otherwise. */

typedef struct lmi_gguf_arch {
    const char *arch, *type; /* general.architecture; the family, whose names modules have */
    uint32_t has;
    size_t window;           /* keys, where the file does not say */
    size_t wide;             /* models of so many layers scale by sqrt(d / heads) */
} lmi_gguf_arch;

/* Of two rows for one architecture that with experts is for files that have them. */
static const lmi_gguf_arch lmi_gguf_archs[] = {
    { "gptneox", "gpt_neox", LMI_APART, 0, 0 },
    { "gpt2", "gpt2", 0, 0, 0 },
    { "llama", "llama", LMI_PAIRED, 0, 0 }, /* Mistral too */
    { "llama", "mixtral", LMI_PAIRED, 0, 0 },
    { "qwen2", "qwen2", 0, 0, 0 },
    { "qwen3", "qwen3", 0, 0, 0 },
    { "qwen3moe", "qwen3_moe", 0, 0, 0 },
    { "gemma", "gemma", 0, 0, 0 },
    { "gemma2", "gemma2", 0, 4096, 46 },
    { "gemma3", "gemma3_text", LMI_TEXT_CONFIG, 0, 62 }
};
enum { LMI_NUM_GGUF_ARCHS = sizeof lmi_gguf_archs / sizeof lmi_gguf_archs[0] };

/* ---- metadata ---- */

static const sae_json *lmi_gguf_get(const lmi_config *c, const char *name, char key[64]) {
    snprintf(key, 64, "%s.%s", c->arch, name);
    return sae_json_get(c->root, key);
}

static sae_result lmi_gguf_size(const lmi_config *c, const char *name, size_t otherwise,
                                size_t most, size_t *out) {
    char key[64];
    const sae_json *v = lmi_gguf_get(c, name, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s: %s has a number for each layer, supported is one "
                                "for all", c->path, key);
    return lmi_config_size(c, key, otherwise, most, out);
}

static sae_result lmi_gguf_number(const lmi_config *c, const char *name, double least, double most,
                                  double *out) {
    char key[64];
    lmi_gguf_get(c, name, key);
    return lmi_config_number(c, c->root, key, least, most, out);
}

/* The shortest decimal number that a float is nearest to: 1e-5 of 9.99999975e-6. */
static double lmi_gguf_decimal(double x) {
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if ((float)strtod(text, NULL) == (float)x) return strtod(text, NULL);
    }
    return x;
}

/* "gptneox, gpt2, llama, ..." */
static const char *lmi_gguf_list(char *out, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < LMI_NUM_GGUF_ARCHS && n < size; i++)
        if (!i || strcmp(lmi_gguf_archs[i].arch, lmi_gguf_archs[i - 1].arch) != 0)
            n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", lmi_gguf_archs[i].arch);
    return out;
}

static sae_result lmi_gguf_family(lmi_config *c, lmi_shape *s, const lmi_gguf_arch **row) {
    char list[160], key[64];
    bool experts;
    c->arch = sae_json_text(sae_json_get(c->root, "general.architecture"));
    experts = c->arch && sae_json_number(lmi_gguf_get(c, "expert_count", key)) > 0;
    *row = NULL;
    for (size_t i = 0; c->arch && i < LMI_NUM_GGUF_ARCHS; i++) {
        const lmi_family *f = lmi_family_find(lmi_gguf_archs[i].type);
        if (strcmp(c->arch, lmi_gguf_archs[i].arch) != 0) continue;
        if (*row && experts != ((f->has & LMI_EXPERTS) != 0)) continue;
        *row = &lmi_gguf_archs[i];
        c->family = f;
    }
    if (!*row)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: general.architecture is %.60s, supported are %s", c->path,
                        c->arch ? c->arch : "missing", lmi_gguf_list(list, sizeof list));
    s->has = (c->family->has & ~(uint32_t)(LMI_ONE_PLUS | LMI_IN_OUT)) | (*row)->has;
    s->naming = c->family->naming;
    s->tensors = &lmi_gguf;
    snprintf(s->info.family, sizeof s->info.family, "%s", c->family->type);
    snprintf(s->info.activation, sizeof s->info.activation, "%s", c->family->act);
    for (size_t i = 0; i < LMI_NUM_ACTS; i++)
        if (strcmp(c->family->act, lmi_acts[i].name) == 0) s->act = lmi_acts[i].act;
    return SAE_OK;
}

/* What only the tensors say: biases, whether q, k and v are one, and how many tokens there are. */
static sae_result lmi_gguf_tensors(const lmi_config *c, sae_lm *m) {
    static const struct {
        int part;
        const char *ending;
        uint32_t has;
    } signs[] = {
        { SAE_LM_QKV_PROJ, ".weight", LMI_FUSED | LMI_APART },
        { SAE_LM_Q_PROJ, ".bias", LMI_QKV_BIAS }, { SAE_LM_QKV_PROJ, ".bias", LMI_QKV_BIAS },
        { SAE_LM_O_PROJ, ".bias", LMI_O_BIAS }, { SAE_LM_UP_PROJ, ".bias", LMI_MLP_BIAS }
    };
    const uint32_t biases = LMI_QKV_BIAS | LMI_O_BIAS | LMI_MLP_BIAS;
    lmi_shape *s = &m->shape;
    const sae_tensor *t;
    char name[LMI_NAME_SIZE];
    if (s->has & LMI_BIAS_KEYS) s->has &= ~biases;
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (lmi_tensor(m, lmi_tensor_name(m, signs[i].part, 0, 0, signs[i].ending, name)))
            s->has |= signs[i].has;
    s->info.tied = !lmi_tensor(m, lmi_tensor_name(m, LMI_UNEMBED, 0, 0, ".weight", name));
    t = lmi_tensor(m, lmi_tensor_name(m, SAE_LM_EMBED, 0, 0, ".weight", name));
    if (!t || t->ndim != 2) return lmi_check(m, t, name, 1, s->info.dim);
    if (t->shape[0] < 1 || t->shape[0] > INT32_MAX)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: %s: %s has %llu rows, allowed are 1 to 2^31 - 1",
                                c->path, name, (unsigned long long)t->shape[0]);
    s->info.vocab_size = (size_t)t->shape[0];
    return SAE_OK;
}

static sae_result lmi_gguf_sizes(const lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    size_t dim, values;
    LMI_TRY(lmi_gguf_size(c, "block_count", 0, LMI_MAX_LAYERS, &info->layers));
    LMI_TRY(lmi_gguf_size(c, "embedding_length", 0, 1 << 20, &info->dim));
    LMI_TRY(lmi_gguf_size(c, "attention.head_count", 0, 1 << 16, &info->heads));
    LMI_TRY(lmi_gguf_size(c, "attention.head_count_kv", info->heads, 1 << 16, &info->kv_heads));
    LMI_TRY(lmi_gguf_size(c, "context_length", 0, INT32_MAX, &info->max_ctx));
    LMI_TRY(lmi_gguf_size(c, "feed_forward_length", 0, 1 << 22, &s->dense_dim));
    info->mlp_dim = s->dense_dim;
    if (info->heads % info->kv_heads)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: attention.head_count_kv is %zu, allowed are divisors of "
                        "attention.head_count, %zu", c->path, info->kv_heads, info->heads);
    dim = info->dim % info->heads ? 0 : info->dim / info->heads;
    LMI_TRY(lmi_gguf_size(c, "attention.key_length", dim, 1 << 12, &info->head_dim));
    LMI_TRY(lmi_gguf_size(c, "attention.value_length", dim, 1 << 12, &values));
    if (values != info->head_dim)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: attention.value_length is %zu, supported is that of "
                        "keys, %zu", c->path, values, info->head_dim);
    if (!(s->has & LMI_EXPERTS)) return SAE_OK;
    LMI_TRY(lmi_gguf_size(c, "expert_count", 0, 1 << 12, &info->experts));
    LMI_TRY(lmi_gguf_size(c, "expert_used_count", 0, info->experts, &info->experts_per_token));
    s->top_norm = true;
    return lmi_gguf_size(c, "expert_feed_forward_length", info->mlp_dim, 1 << 22, &info->mlp_dim);
}

/* rope_freqs.weight: Llama 3's scaling, worked out. */
static sae_result lmi_gguf_divisors(const lmi_config *c, sae_lm *m) {
    static const char name[] = "rope_freqs.weight";
    lmi_rope *rope = &m->shape.rope[0];
    size_t count = m->shape.info.rotary_dims / 2;
    if (!lmi_tensor(m, name)) return SAE_OK;
    LMI_TRY(lmi_read_vector(m, name, count, &rope->divisors));
    for (size_t i = 0; i < count; i++)
        if (!(rope->divisors[i] >= 1e-6f && rope->divisors[i] <= 1e9f))
            return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                            "sae_lm_open: %s: %s[%zu] is %g, allowed are numbers from 1e-6 to 1e9",
                            c->path, name, i, (double)rope->divisors[i]);
    return SAE_OK;
}

static sae_result lmi_gguf_rotary(const lmi_config *c, sae_lm *m) {
    lmi_shape *s = &m->shape;
    sae_lm_config *info = &s->info;
    lmi_rope *rope = s->rope;
    char key[64];
    const char *type = sae_json_text(lmi_gguf_get(c, "rope.scaling.type", key));
    rope[0].base = rope[1].base = 1e4;
    if (s->has & LMI_LEARNED) return SAE_OK;
    LMI_TRY(lmi_gguf_number(c, "rope.freq_base", 1, 1e12, &rope[0].base));
    LMI_TRY(lmi_gguf_number(c, "rope.freq_base_swa", 1, 1e12, &rope[1].base));
    LMI_TRY(lmi_gguf_number(c, "rope.scale_linear", 0, 1e9, &rope[0].factor)); /* of 2023 */
    LMI_TRY(lmi_gguf_number(c, "rope.scaling.factor", 0, 1e9, &rope[0].factor));
    if (type && strcmp(type, "none") != 0 && strcmp(type, "linear") != 0)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: %s is %.40s, supported are none, linear and the tensor "
                        "rope_freqs.weight", c->path, key, type);
    if (rope[0].factor > 0 && (!type || strcmp(type, "none") != 0)) rope[0].kind = LMI_ROPE_LINEAR;
    info->rotary_base = rope[0].base;
    LMI_TRY(lmi_gguf_size(c, "rope.dimension_count", info->head_dim, info->head_dim,
                          &info->rotary_dims));
    if ((info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        || (s->has & LMI_PAIRED && info->rotary_dims != info->head_dim))
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: %zu of the %zu dimensions of a head turn, supported is "
                        "%s", c->path, info->rotary_dims, info->head_dim,
                        s->has & LMI_PAIRED ? "all, an even number" : "an even number");
    return lmi_gguf_divisors(c, m);
}

/* Layers with a window: all; or, Gemma's, all but each n-th. sliding_window_pattern is that n, or a
   bool for each layer. Layers whose tensors are there have experts. */
static sae_result lmi_gguf_layers(const lmi_config *c, const lmi_gguf_arch *row, sae_lm *m) {
    lmi_shape *s = &m->shape;
    sae_lm_config *info = &s->info;
    double window = (double)row->window, scale = 0, wide = (double)(info->dim / info->heads);
    size_t every = strlen(c->family->windows);
    char key[64], name[LMI_NAME_SIZE];
    const sae_json *pattern = lmi_gguf_get(c, "attention.sliding_window_pattern", key), *v;
    LMI_TRY(lmi_gguf_number(c, "attention.sliding_window", 0, INT32_MAX, &window));
    LMI_TRY(lmi_gguf_number(c, "attention.scale", 0, 1e9, &scale));
    if (every == 1) every = 0;
    if (sae_json_kind_of(pattern) == SAE_JSON_NUMBER)
        LMI_TRY(lmi_gguf_size(c, "attention.sliding_window_pattern", 1, INT32_MAX, &every));
    if (sae_json_kind_of(pattern) == SAE_JSON_ARRAY && sae_json_count(pattern) < info->layers)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is of %zu layers, there are %zu", c->path, key,
                        sae_json_count(pattern), info->layers);
    if (!(scale > 0))
        scale = 1 / sqrt(info->layers == row->wide ? wide : (double)info->head_dim);
    s->layer = (lmi_layer_shape *)calloc(info->layers, sizeof *s->layer);
    if (!s->layer) return sae_context_fail(c->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    v = sae_json_first(pattern);
    for (size_t i = 0; i < info->layers; i++) {
        bool local = v ? sae_json_number(v) != 0 : !every || (i + 1) % every != 0;
        v = v ? sae_json_next(v) : NULL;
        s->layer[i].window = local ? (size_t)window : 0;
        s->layer[i].rope = s->layer[i].window && s->has & LMI_LOCAL_ROPE;
        s->layer[i].scale = (float)scale;
        for (int k = 0; k < 2 && s->has & LMI_EXPERTS && !s->layer[i].experts; k++) {
            lmi_tensor_name(m, k ? LMI_EXPERT_DOWN : LMI_ROUTER, i, 0, ".weight", name);
            s->layer[i].experts = lmi_tensor(m, name) != NULL;
        }
        if (s->layer[i].window) info->window = (size_t)window;
    }
    return SAE_OK;
}

static sae_result lmi_gguf_rest(const lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    char key[64];
    bool rms = (s->has & LMI_RMS) != 0;
    const char *eps = rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    double cap[2] = { 0, 0 };
    if (lmi_config_none(lmi_gguf_get(c, eps, key)))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s: %s is missing", c->path,
                                key);
    LMI_TRY(lmi_gguf_number(c, eps, 0, 1, &info->norm_eps));
    info->norm_eps = lmi_gguf_decimal(info->norm_eps);
    lmi_gguf_get(c, "use_parallel_residual", key);
    lmi_config_flag(c, key, LMI_PARALLEL, &s->has);
    lmi_gguf_get(c, "attention.causal", key);
    if (!lmi_config_bool(c->root, key, true))
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: %s is false, supported is true", c->path, key);
    if (s->has & LMI_CAPS) cap[0] = 50, cap[1] = 30;
    if (s->has & (LMI_CAPS | LMI_NO_CAPS)) {
        LMI_TRY(lmi_gguf_number(c, "attn_logit_softcapping", 0, 1e9, &cap[0]));
        LMI_TRY(lmi_gguf_number(c, "final_logit_softcapping", 0, 1e9, &cap[1]));
    }
    s->attention_cap = (float)cap[0];
    s->logit_cap = (float)cap[1];
    info->rms_norm = rms;
    info->fixed_ctx = (s->has & LMI_LEARNED) != 0;
    info->parallel_residual = (s->has & LMI_PARALLEL) != 0;
    info->bos_token = lmi_config_token(c, "tokenizer.ggml.bos_token_id", -1);
    info->eos_token = lmi_config_token(c, "tokenizer.ggml.eos_token_id", -1);
    info->pad_token = lmi_config_token(c, "tokenizer.ggml.padding_token_id", -1);
    return SAE_OK;
}

/* ---- tensors ---- */

/* Whether the model reads a part's weight, or bias. */
static bool lmi_gguf_reads(const lmi_shape *s, int part, size_t layer, bool bias) {
    uint32_t has = s->has;
    bool experts = s->layer[layer].experts;
    switch (part) {
    case SAE_LM_EMBED: case LMI_UNEMBED: return !bias;
    case LMI_POSITIONS: return !bias && has & LMI_LEARNED;
    case SAE_LM_FINAL_NORM: case SAE_LM_ATTENTION_NORM: case SAE_LM_MLP_NORM:
        return !bias || !(has & LMI_RMS);
    case SAE_LM_QKV_PROJ: return has & LMI_FUSED && (!bias || has & LMI_QKV_BIAS);
    case SAE_LM_Q_PROJ: case SAE_LM_K_PROJ: case SAE_LM_V_PROJ:
        return !(has & LMI_FUSED) && (!bias || has & LMI_QKV_BIAS);
    case SAE_LM_O_PROJ: return !bias || has & LMI_O_BIAS;
    case LMI_Q_NORM: case LMI_K_NORM: return !bias && has & LMI_QK_NORM;
    case SAE_LM_ATTENTION_POST_NORM: case SAE_LM_MLP_POST_NORM:
        return !bias && has & LMI_POST_NORMS;
    case SAE_LM_GATE_PROJ:
        return has & LMI_GATED && !experts && (!bias || has & LMI_MLP_BIAS);
    case SAE_LM_UP_PROJ: case SAE_LM_DOWN_PROJ: return !experts && (!bias || has & LMI_MLP_BIAS);
    default: return experts && !bias;
    }
}

static bool lmi_gguf_known(const lmi_shape *s, const char *name) {
    size_t layer = 0, n;
    bool of_layer = strncmp(name, lmi_gguf.layers, strlen(lmi_gguf.layers)) == 0;
    if (strcmp(name, "rope_freqs.weight") == 0) return s->rope[0].divisors != NULL;
    if (of_layer) {
        name += strlen(lmi_gguf.layers);
        for (n = 0; name[n] >= '0' && name[n] <= '9' && n < 6; n++)
            layer = layer * 10 + (size_t)(name[n] - '0');
        if (!n || name[n] != '.' || layer >= s->info.layers) return false;
        name += n + 1;
    }
    for (size_t i = 0; i < lmi_gguf.count; i++) {
        int part = lmi_gguf.names[i].part;
        bool whole = part == SAE_LM_EMBED || part == SAE_LM_FINAL_NORM || part == LMI_POSITIONS
                     || part == LMI_UNEMBED;
        n = strlen(lmi_gguf.names[i].name);
        if (whole == of_layer || strncmp(name, lmi_gguf.names[i].name, n) != 0) continue;
        if (strcmp(name + n, ".weight") == 0) return lmi_gguf_reads(s, part, layer, false);
        if (strcmp(name + n, ".bias") == 0) return lmi_gguf_reads(s, part, layer, true);
    }
    return false;
}

/* What the description has no place for would change the numbers. */
static sae_result lmi_gguf_all_known(const lmi_config *c, const sae_lm *m) {
    for (size_t f = 0; f < m->num_files; f++)
        for (size_t i = 0; i < sae_tensor_file_count(m->file[f]); i++) {
            const char *name = sae_tensor_file_get(m->file[f], i)->name;
            if (!lmi_gguf_known(&m->shape, name))
                return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s: general.architecture is %s, which has no tensor "
                                "%.80s here", c->path, c->arch, name);
        }
    return SAE_OK;
}

/* ---- files ---- */

static sae_result lmi_gguf_add(sae_lm *m, const char *path) {
    LMI_TRY(sae_tensor_file_open(m->ctx, path, &m->file[m->num_files]));
    m->num_files++;
    return SAE_OK;
}

/* The file, and where it says that it is NAME-00001-of-00003.gguf the others. */
static sae_result lmi_gguf_files(sae_lm *m, const char *path) {
    const sae_json *root;
    double count, number;
    char end[32], *part;
    size_t n = strlen(path), tail;
    LMI_TRY(lmi_gguf_add(m, path));
    root = sae_tensor_file_metadata(m->file[0]);
    count = sae_json_number(sae_json_get(root, "split.count"));
    number = sae_json_number(sae_json_get(root, "split.no"));
    if (!(count > 1)) return SAE_OK;
    tail = (size_t)snprintf(end, sizeof end, "-00001-of-%05.0f.gguf", count <= 99999 ? count : 0.0);
    if (number != 0 || count > LMI_MAX_SHARDS || n < tail || strcmp(path + n - tail, end) != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s is part %.9g of %.9g, supported is the first, "
                        "NAME%s, of at most %d", path, number + 1, count, end, (int)LMI_MAX_SHARDS);
    part = lmi_join("", path);
    if (!part) return lmi_no_memory(m);
    for (int i = 2; i <= (int)count; i++) {
        sae_result result;
        snprintf(end, sizeof end, "-%05d", i);
        memcpy(part + n - tail, end, strlen(end));
        result = lmi_gguf_add(m, part);
        if (result == SAE_OK) continue;
        free(part);
        return result;
    }
    free(part);
    return SAE_OK;
}

static sae_result lmi_gguf_open(sae_lm *m, const char *path) {
    const lmi_gguf_arch *row;
    lmi_config c;
    m->folder = lmi_join("", path);
    if (!m->folder)
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    LMI_TRY(lmi_gguf_files(m, path));
    memset(&c, 0, sizeof c);
    c.ctx = m->ctx;
    c.path = path;
    c.root = c.outer = sae_tensor_file_metadata(m->file[0]);
    LMI_TRY(lmi_gguf_family(&c, &m->shape, &row));
    LMI_TRY(lmi_gguf_sizes(&c, &m->shape));
    LMI_TRY(lmi_gguf_tensors(&c, m));
    LMI_TRY(lmi_gguf_rotary(&c, m));
    LMI_TRY(lmi_gguf_layers(&c, row, m));
    LMI_TRY(lmi_gguf_rest(&c, &m->shape));
    LMI_TRY(lmi_read_weights(m));
    return lmi_gguf_all_known(&c, m);
}
