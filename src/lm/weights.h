#pragma once
#include "files.h"

/* ==== >>lm: weights: tensors ================================================================== */

enum { LMI_NAME_SIZE = 160 };

static const sae_tensor *lmi_tensor(const sae_lm *m, const char *name) {
    const sae_tensor *t = NULL;
    for (size_t i = 0; i < m->num_files && !t; i++) t = sae_tensor_file_find(m->file[i], name);
    return t;
}

/* The tensor's name: prefix, layer, part, ending (".weight"). layer and expert are of parts that
   are not the whole model's. */
static const char *lmi_tensor_name(const sae_lm *m, int part, size_t layer, size_t expert,
                                   const char *ending, char out[LMI_NAME_SIZE]) {
    const lmi_naming *naming = m->shape.tensors;
    const char *name = lmi_part_name(naming, part), *mark = name ? strchr(name, '#') : NULL;
    bool whole = part == SAE_LM_EMBED || part == SAE_LM_FINAL_NORM || part == LMI_POSITIONS
                 || part == LMI_UNEMBED;
    size_t n = 0;
    if (part != LMI_UNEMBED)
        n = (size_t)snprintf(out, LMI_NAME_SIZE, "%s", m->prefix);
    if (!whole)
        n += (size_t)snprintf(out + n, LMI_NAME_SIZE - n, "%s%zu.", naming->layers, layer);
    if (mark)
        snprintf(out + n, LMI_NAME_SIZE - n, "%.*s%zu%s%s", (int)(mark - name), name, expert,
                 mark + 1, ending);
    else snprintf(out + n, LMI_NAME_SIZE - n, "%s%s", name ? name : "?", ending);
    return out;
}

static bool lmi_is_gguf(const sae_lm *m) { return m->shape.tensors == &lmi_gguf; }

/* Matrices are of plain floats, in a .gguf of blocks too. */
static sae_result lmi_check_type(const sae_lm *m, const sae_tensor *t, const char *name) {
    char known[160] = "F32, F16, BF16, F64";
    size_t n = strlen(known);
    if (t->dtype <= SAE_F64 || sae_dtype_block(t->dtype) > 1) return SAE_OK;
    for (int i = SAE_BOOL + 1; lmi_is_gguf(m) && sae_dtype_block((sae_dtype)i) > 1; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, ", %s", sae_dtype_name((sae_dtype)i));
    return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                            "sae_lm_open: %s: %s is %s, supported are %s", m->folder, name,
                            sae_dtype_name(t->dtype), known);
}

/* Checks that t, called name, is [rows,columns], or [columns] where rows is 0. */
static sae_result lmi_check(const sae_lm *m, const sae_tensor *t, const char *name, size_t rows,
                            size_t columns) {
    char shape[21 * SAE_MAX_DIMS + 1] = "";
    size_t n = 0, dims = rows ? 2 : 1;
    if (!t)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s has no tensor %s",
                                m->folder, name);
    for (size_t i = 0; i < t->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? "," : "",
                              (unsigned long long)t->shape[i]);
    if (t->ndim != dims || t->shape[dims - 1] != columns || (rows && t->shape[0] != rows)) {
        char want[96];
        if (t->ndim == 3) snprintf(want, sizeof want, "%zu,%zu,%zu", m->shape.info.experts, rows,
                                   columns);
        else if (rows) snprintf(want, sizeof want, "%zu,%zu", rows, columns);
        else snprintf(want, sizeof want, "%zu", columns);
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: %s: %s is [%s], by %s it is [%s]", m->folder, name,
                                shape, lmi_is_gguf(m) ? "its metadata" : "config.json", want);
    }
    return lmi_check_type(m, t, name);
}

/* A vector's numbers in fresh memory (free). */
static sae_result lmi_read_vector(const sae_lm *m, const char *name, size_t n, float **out) {
    const sae_tensor *t = lmi_tensor(m, name);
    float *data;
    LMI_TRY(lmi_check(m, t, name, 0, n));
    data = n <= SIZE_MAX / sizeof *data ? (float *)malloc(n * sizeof *data) : NULL;
    if (!data) return lmi_no_memory(m);
    sae_tensor_to_f32(t, data);
    *out = data;
    return SAE_OK;
}

/* Where row `index` of the first dimension begins; NULL: the type is known by name alone. */
static const void *lmi_row_of(const sae_tensor *t, uint64_t index) {
    const size_t blocks = (size_t)t->stride[0] / sae_dtype_block(t->dtype);
    if (!t->data) return NULL;
    return (const char *)t->data + (size_t)index * blocks * sae_dtype_size(t->dtype);
}

/* The matrix of a part; where one tensor holds all experts', *view is that of one. NULL: there is
   none. */
static const sae_tensor *lmi_matrix(const sae_lm *m, int part, size_t layer, size_t expert,
                                    char name[LMI_NAME_SIZE], sae_tensor *view) {
    const sae_tensor *t = lmi_tensor(m, lmi_tensor_name(m, part, layer, expert, ".weight", name));
    const sae_tensor *both = NULL;
    if (!t && (part == LMI_EXPERT_GATE || part == LMI_EXPERT_UP)) {
        char other[LMI_NAME_SIZE];
        both = lmi_tensor(m, lmi_tensor_name(m, LMI_EXPERT_GATE_UP, layer, 0, ".weight", other));
        if (both) strcpy(name, other);
    }
    if (both) t = both;
    if (!t || t->ndim != 3 || t->shape[0] != m->shape.info.experts) return t;
    *view = *t;
    view->ndim = 2;
    for (size_t i = 0; i < 2; i++) {
        view->shape[i] = t->shape[i + 1];
        view->stride[i] = t->stride[i + 1];
    }
    view->data = lmi_row_of(t, expert);
    if (both && view->shape[0] % 2 == 0) {
        view->shape[0] /= 2;
        if (part == LMI_EXPERT_UP) view->data = lmi_row_of(view, view->shape[0]);
    }
    return view;
}

/* y = x W^T + bias of the part: `weight` [outputs,inputs], which stays in the file, and, if biased,
   `bias`. */
static sae_result lmi_read_linear(const sae_lm *m, int part, size_t layer, size_t expert,
                                  bool biased, size_t inputs, size_t outputs, sae_linear **out) {
    char name[LMI_NAME_SIZE];
    const sae_tensor *t;
    sae_tensor view;
    float *bias = NULL;
    bool in_out = (m->shape.has & LMI_IN_OUT) != 0;
    sae_result result;
    t = lmi_matrix(m, part, layer, expert, name, &view);
    LMI_TRY(lmi_check(m, t, name, in_out ? inputs : outputs, in_out ? outputs : inputs));
    if (biased)
        LMI_TRY(lmi_read_vector(m, lmi_tensor_name(m, part, layer, expert, ".bias", name), outputs,
                                &bias));
    result = sae_linear_create_tensor(m->ctx, t, bias, in_out, out);
    free(bias);
    return result;
}

static sae_result lmi_read_norm(const sae_lm *m, int part, size_t layer, size_t n, lmi_norm *out) {
    char name[LMI_NAME_SIZE];
    lmi_tensor_name(m, part, layer, 0, ".weight", name);
    LMI_TRY(lmi_read_vector(m, name, n, &out->weight));
    for (size_t i = 0; i < n && m->shape.has & LMI_ONE_PLUS; i++) out->weight[i] += 1;
    if (m->shape.has & LMI_RMS) return SAE_OK;
    return lmi_read_vector(m, lmi_tensor_name(m, part, layer, 0, ".bias", name), n, &out->bias);
}

/* ---- a layer ---- */

static sae_result lmi_read_attention(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    const sae_lm_config *info = &m->shape.info;
    size_t d = info->dim, wide = info->heads * info->head_dim;
    size_t narrow = info->kv_heads * info->head_dim;
    bool biased = (m->shape.has & LMI_QKV_BIAS) != 0;
    if (m->shape.has & LMI_FUSED)
        LMI_TRY(lmi_read_linear(m, SAE_LM_QKV_PROJ, i, 0, biased, d, wide + 2 * narrow, &l->qkv));
    else {
        LMI_TRY(lmi_read_linear(m, SAE_LM_Q_PROJ, i, 0, biased, d, wide, &l->q));
        LMI_TRY(lmi_read_linear(m, SAE_LM_K_PROJ, i, 0, biased, d, narrow, &l->k));
        LMI_TRY(lmi_read_linear(m, SAE_LM_V_PROJ, i, 0, biased, d, narrow, &l->v));
    }
    if (m->shape.has & LMI_QK_NORM) {
        LMI_TRY(lmi_read_norm(m, LMI_Q_NORM, i, info->head_dim, &l->q_norm));
        LMI_TRY(lmi_read_norm(m, LMI_K_NORM, i, info->head_dim, &l->k_norm));
    }
    return lmi_read_linear(m, SAE_LM_O_PROJ, i, 0, (m->shape.has & LMI_O_BIAS) != 0, wide, d,
                           &l->o);
}

static sae_result lmi_read_mlp(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    bool experts = m->shape.layer[i].experts, biased = (m->shape.has & LMI_MLP_BIAS) != 0;
    size_t d = m->shape.info.dim, count = experts ? m->shape.info.experts : 1;
    size_t wide = experts ? m->shape.info.mlp_dim : m->shape.dense_dim;
    int gate = SAE_LM_GATE_PROJ, up = SAE_LM_UP_PROJ, down = SAE_LM_DOWN_PROJ;
    l->mlp = (lmi_mlp *)calloc(count, sizeof *l->mlp);
    if (!l->mlp) return lmi_no_memory(m);
    if (experts) LMI_TRY(lmi_read_linear(m, LMI_ROUTER, i, 0, false, d, count, &l->router));
    if (experts) gate = LMI_EXPERT_GATE, up = LMI_EXPERT_UP, down = LMI_EXPERT_DOWN;
    for (size_t e = 0; e < count; e++) {
        lmi_mlp *p = &l->mlp[e];
        if (m->shape.has & LMI_GATED)
            LMI_TRY(lmi_read_linear(m, gate, i, e, biased, d, wide, &p->gate));
        LMI_TRY(lmi_read_linear(m, up, i, e, biased, d, wide, &p->up));
        LMI_TRY(lmi_read_linear(m, down, i, e, biased, wide, d, &p->down));
    }
    return SAE_OK;
}

static sae_result lmi_read_layer(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    size_t d = m->shape.info.dim;
    LMI_TRY(lmi_read_norm(m, SAE_LM_ATTENTION_NORM, i, d, &l->attention_norm));
    LMI_TRY(lmi_read_attention(m, i));
    LMI_TRY(lmi_read_norm(m, SAE_LM_MLP_NORM, i, d, &l->mlp_norm));
    LMI_TRY(lmi_read_mlp(m, i));
    if (!(m->shape.has & LMI_POST_NORMS)) return SAE_OK;
    LMI_TRY(lmi_read_norm(m, SAE_LM_ATTENTION_POST_NORM, i, d, &l->attention_post_norm));
    return lmi_read_norm(m, SAE_LM_MLP_POST_NORM, i, d, &l->mlp_post_norm);
}

static void lmi_free_layer(lmi_layer *l, size_t mlps) {
    lmi_norm *const norm[] = { &l->attention_norm, &l->attention_post_norm, &l->mlp_norm,
                               &l->mlp_post_norm, &l->q_norm, &l->k_norm };
    sae_linear *const linear[] = { l->qkv, l->q, l->k, l->v, l->o, l->router };
    for (size_t i = 0; i < 6; i++) {
        free(norm[i]->weight);
        free(norm[i]->bias);
        sae_linear_destroy(linear[i]);
    }
    for (size_t e = 0; l->mlp && e < mlps; e++) {
        sae_linear_destroy(l->mlp[e].gate);
        sae_linear_destroy(l->mlp[e].up);
        sae_linear_destroy(l->mlp[e].down);
    }
    free(l->mlp);
}

/* ---- the whole ---- */

/* What stands in front of the names: the base, nothing (a bare model was saved), or, of a model of
   text and images, one of two more. */
static void lmi_find_prefix(sae_lm *m) {
    static const char *const forms[] = { "%s", "", "language_model.%s", "%slanguage_model." };
    const char *base = m->shape.tensors->base, *end;
    char name[LMI_NAME_SIZE];
    for (size_t i = 0; i < 4; i++) {
        end = strstr(forms[i], "%s");
        if (end) snprintf(m->prefix, sizeof m->prefix, "%.*s%s%s", (int)(end - forms[i]), forms[i],
                          base, end + 2);
        else m->prefix[0] = 0;
        if (lmi_tensor(m, lmi_tensor_name(m, SAE_LM_EMBED, 0, 0, ".weight", name))) return;
    }
    snprintf(m->prefix, sizeof m->prefix, "%s", base);
}

/* The unembedding: the embedding where they are tied, whatever else the file holds; else under its
   own name or another program's. */
static sae_result lmi_read_unembed(sae_lm *m) {
    static const char *const others[] = { "lm_head.weight", "language_model.lm_head.weight" };
    const sae_lm_config *info = &m->shape.info;
    char name[LMI_NAME_SIZE];
    const sae_tensor *t;
    lmi_tensor_name(m, LMI_UNEMBED, 0, 0, ".weight", name);
    t = info->tied ? m->embed : lmi_tensor(m, name);
    for (size_t i = 0; i < 2 && !t; i++) t = lmi_tensor(m, others[i]);
    LMI_TRY(lmi_check(m, t, name, info->vocab_size, info->dim));
    return sae_linear_create_tensor(m->ctx, t, NULL, false, &m->unembed);
}

static sae_result lmi_read_weights(sae_lm *m) {
    sae_lm_config *info = &m->shape.info;
    char name[LMI_NAME_SIZE];
    lmi_find_prefix(m);
    lmi_tensor_name(m, SAE_LM_EMBED, 0, 0, ".weight", name);
    m->embed = lmi_tensor(m, name);
    LMI_TRY(lmi_check(m, m->embed, name, info->vocab_size, info->dim));
    info->dtype = m->embed->dtype;
    if (m->shape.has & LMI_LEARNED) {
        lmi_tensor_name(m, LMI_POSITIONS, 0, 0, ".weight", name);
        m->position = lmi_tensor(m, name);
        LMI_TRY(lmi_check(m, m->position, name, info->max_ctx, info->dim));
    }
    m->layer = (lmi_layer *)calloc(info->layers, sizeof *m->layer);
    m->ones = (float *)calloc(2 * info->dim, sizeof *m->ones);
    if (!m->layer || !m->ones) return lmi_no_memory(m);
    for (size_t i = 0; i < info->dim; i++) m->ones[i] = 1;
    for (size_t i = 0; i < info->layers; i++) LMI_TRY(lmi_read_layer(m, i));
    LMI_TRY(lmi_read_norm(m, SAE_LM_FINAL_NORM, 0, info->dim, &m->norm));
    return lmi_read_unembed(m);
}
