#pragma once
#include "model.h"

/* ==== >>lm: model: forward pass =============================================================== */

/* One pass. Parts of the row-wise steps are LMI_ROW_PART rows. */
enum { LMI_ROW_PART = 32, LMI_LOGIT_ROWS = 256 };

typedef struct lmi_run {
    sae_lm *m;
    const sae_lm_forward_desc *desc;
    const lmi_layer *layer;
    size_t n, ctx, hooks_left;
    bool logits, done; /* logits or losses are wanted; nothing is left to do */
    /* [n,d] but qkv [n,3 d] and wide [n,mlp_dim]; logit_x [256,d], logit [256,vocab_size] */
    float *x, *normed, *qkv, *heads, *mixed, *wide, *scratch, *logit_x, *logit;
    size_t head_floats;
    /* what the row-wise steps work on */
    const float *from, *const *norm;
    float *to;
    size_t count;
    size_t row[LMI_LOGIT_ROWS]; /* of the block of logits */
    double row_loss[LMI_LOGIT_ROWS];
} lmi_run;

static void lmi_row_parts(lmi_run *run, size_t rows, void (*fn)(void *arg, size_t part)) {
    run->count = rows;
    sae_context_parallel(run->m->ctx, lmi_parts(rows, LMI_ROW_PART), fn, run);
}

static void lmi_norm_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++)
        run->m->kernels->norm(d, run->from + r * d, run->norm[0], run->norm[1],
                              run->m->info.norm_eps, run->to + r * d);
}

static void lmi_norm_rows(lmi_run *run, float *const norm[2], const float *from, float *to) {
    run->norm = (const float *const *)norm;
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_norm_part);
}

static void lmi_act_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t wide = run->m->info.mlp_dim, first = part * LMI_ROW_PART;
    size_t end = lmi_min(first + LMI_ROW_PART, run->count);
    run->m->kernels->activate(run->m->act, (end - first) * wide, run->to + first * wide);
}

/* to += from, or, as a parallel layer adds, to = (from + mixed) + to */
static void lmi_add_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->info.dim, first = part * LMI_ROW_PART * d;
    size_t count = lmi_min((part + 1) * LMI_ROW_PART, run->count) * d - first;
    float *to = run->to + first;
    run->m->kernels->add(count, run->from + first, to, to);
}

static void lmi_add_rows(lmi_run *run, const float *from, float *to) {
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_add_part);
}

static void lmi_embed_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    sae_tensor row = *run->m->embed;
    row.ndim = 1;
    row.shape[0] = d;
    row.stride[0] = run->m->embed->stride[1];
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        int64_t token = run->desc->tokens[r] < 0 ? 0 : run->desc->tokens[r];
        row.data = (const char *)run->m->embed->data
                   + token * run->m->embed->stride[0] * (int64_t)sae_dtype_size(row.dtype);
        sae_tensor_to_f32(&row, run->x + r * d);
    }
}

/* Turns pairs (i, i + pairs) of a head's first dimensions by the angles of the position. */
static void lmi_rope(float *x, const float *rope, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = rope[2 * i], s = rope[2 * i + 1];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void lmi_head_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    const sae_lm_config *info = &run->m->info;
    size_t context = part / info->heads, head = part % info->heads, d = info->dim;
    size_t pairs = (info->rotary_dims + 1) / 2, hd = info->head_dim;
    float *q = run->qkv + context * run->ctx * 3 * d + head * 3 * hd;
    lmi_head h;
    for (size_t t = 0; t < run->ctx; t++) {
        lmi_rope(q + t * 3 * d, run->m->rope + t * 2 * pairs, pairs);
        lmi_rope(q + t * 3 * d + hd, run->m->rope + t * 2 * pairs, pairs);
    }
    h.q = q;
    h.k = q + hd;
    h.v = q + 2 * hd;
    h.stride = 3 * d;
    h.ctx = run->ctx;
    h.head_dim = hd;
    h.scale = (float)(1 / sqrt((double)hd));
    h.scratch = run->scratch + part * run->head_floats;
    h.out = run->heads + context * run->ctx * d + head * hd;
    h.out_stride = d;
    run->m->kernels->attend(&h);
}

/* Calls the hooks of a site; run->done: nothing is wanted behind it. */
static sae_result lmi_at(lmi_run *run, sae_lm_module module, size_t layer, bool input, float *x) {
    sae_lm_site site;
    site.module = module;
    site.layer = layer;
    site.input = input;
    for (size_t i = 0; i < run->desc->num_hooks; i++) {
        const sae_lm_hook *h = &run->desc->hooks[i];
        if (h->site.module != module || h->site.layer != layer || h->site.input != input) continue;
        if (h->call)
            LMI_TRY(h->call(h->user, x, run->n, sae_lm_site_dim(run->m, site)));
        run->hooks_left--;
    }
    run->done = !run->hooks_left && !run->logits;
    return SAE_OK;
}

#define LMI_AT(module, layer, input, x)                                                            \
    do {                                                                                           \
        sae_result lmi_at_result = lmi_at(run, module, layer, input, x);                           \
        if (lmi_at_result != SAE_OK || run->done) return lmi_at_result;                            \
    } while (0)

/* normed -> mixed */
static sae_result lmi_run_attention(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    LMI_AT(SAE_LM_ATTENTION, i, true, run->normed);
    LMI_TRY(sae_linear_apply(l->qkv, run->normed, run->n, run->qkv));
    sae_context_parallel(run->m->ctx, run->desc->contexts * run->m->info.heads, lmi_head_part,
                         run);
    LMI_AT(SAE_LM_ATTENTION_DENSE, i, true, run->heads);
    LMI_TRY(sae_linear_apply(l->dense, run->heads, run->n, run->mixed));
    LMI_AT(SAE_LM_ATTENTION_DENSE, i, false, run->mixed);
    LMI_AT(SAE_LM_ATTENTION, i, false, run->mixed);
    return SAE_OK;
}

/* normed -> heads, which are not needed any more */
static sae_result lmi_run_mlp(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    LMI_AT(SAE_LM_MLP, i, true, run->normed);
    LMI_AT(SAE_LM_MLP_UP, i, true, run->normed);
    LMI_TRY(sae_linear_apply(l->up, run->normed, run->n, run->wide));
    LMI_AT(SAE_LM_MLP_UP, i, false, run->wide);
    run->to = run->wide;
    lmi_row_parts(run, run->n, lmi_act_part);
    LMI_AT(SAE_LM_MLP_DOWN, i, true, run->wide);
    LMI_TRY(sae_linear_apply(l->down, run->wide, run->n, run->heads));
    LMI_AT(SAE_LM_MLP_DOWN, i, false, run->heads);
    LMI_AT(SAE_LM_MLP, i, false, run->heads);
    return SAE_OK;
}

/* The blocks; the residual stream is x. */
static sae_result lmi_run_layers(lmi_run *run) {
    sae_lm *m = run->m;
    lmi_row_parts(run, run->n, lmi_embed_part);
    LMI_AT(SAE_LM_EMBED_IN, 0, false, run->x);
    for (size_t i = 0; i < m->info.layers; i++) {
        const lmi_layer *l = &m->layer[i];
        LMI_AT(SAE_LM_LAYER, i, true, run->x);
        lmi_norm_rows(run, l->norm[0], run->x, run->normed);
        LMI_TRY(lmi_run_attention(run, i));
        if (run->done) return SAE_OK;
        if (!m->info.parallel_residual) lmi_add_rows(run, run->mixed, run->x);
        lmi_norm_rows(run, l->norm[1], run->x, run->normed);
        LMI_TRY(lmi_run_mlp(run, i));
        if (run->done) return SAE_OK;
        if (m->info.parallel_residual) lmi_add_rows(run, run->mixed, run->heads);
        lmi_add_rows(run, run->heads, run->x);
        LMI_AT(SAE_LM_LAYER, i, false, run->x);
    }
    LMI_AT(SAE_LM_FINAL_NORM, 0, true, run->x);
    lmi_norm_rows(run, m->norm, run->x, run->normed);
    LMI_AT(SAE_LM_FINAL_NORM, 0, false, run->normed);
    return SAE_OK;
}

/* -- logits and losses, in blocks of rows -- */

/* Whether row r of the batch predicts a token. */
static bool lmi_predicts(const lmi_run *run, size_t r) {
    return (r + 1) % run->ctx && run->desc->tokens[r] >= 0 && run->desc->tokens[r + 1] >= 0;
}

static void lmi_loss_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t size = run->m->info.vocab_size, r = run->row[part];
    run->row_loss[part] = 0;
    if (lmi_predicts(run, r))
        run->row_loss[part] = sae_lm_loss(run->logit + part * size, size,
                                          (size_t)run->desc->tokens[r + 1], NULL);
}

static sae_result lmi_run_logits(lmi_run *run) {
    const sae_lm_forward_desc *desc = run->desc;
    size_t d = run->m->info.dim, total = desc->rows ? desc->num_rows : run->n;
    size_t *row = run->row;
    for (size_t c = 0; c < desc->contexts; c++) {
        if (desc->loss) desc->loss[c] = 0;
        if (desc->predictions) desc->predictions[c] = 0;
    }
    for (size_t at = 0, count; at < total; at += count) {
        count = lmi_min(LMI_LOGIT_ROWS, total - at);
        for (size_t j = 0; j < count; j++) {
            row[j] = desc->rows ? desc->rows[at + j] : at + j;
            memcpy(run->logit_x + j * d, run->normed + row[j] * d, d * sizeof(float));
        }
        LMI_TRY(sae_linear_apply(run->m->unembed, run->logit_x, count, run->logit));
        if (desc->loss) sae_context_parallel(run->m->ctx, count, lmi_loss_part, run);
        for (size_t j = 0; j < count; j++) {
            size_t c = row[j] / run->ctx;
            if (desc->loss) desc->loss[c] += run->row_loss[j];
            if (desc->predictions) desc->predictions[c] += lmi_predicts(run, row[j]);
        }
        if (desc->logits) LMI_TRY(desc->logits(desc->user, run->logit, at, count));
    }
    return SAE_OK;
}

/* -- checks and memory -- */

static sae_result lmi_run_check(sae_lm *m, const sae_lm_forward_desc *desc, size_t *rows) {
    size_t n;
    if (!desc || !desc->tokens || !desc->contexts || !desc->ctx
        || !lmi_mul(desc->contexts, desc->ctx, &n) || n > INT32_MAX || desc->ctx > 1000000)
        return sae_context_fail(
            m->ctx, SAE_ERR_INVALID,
            "sae_lm_forward: contexts is %zu, ctx is %zu, tokens "
            "may not be NULL, allowed are up to 2^31 tokens, ctx from 1 to 1000000",
            desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    for (size_t i = 0; i < n; i++)
        if (desc->tokens[i] >= 0 && (size_t)desc->tokens[i] >= m->info.vocab_size)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: token %zu of the batch is %ld, "
                                    "allowed are those below vocab_size, %zu",
                                    i, (long)desc->tokens[i], m->info.vocab_size);
    for (size_t i = 0; i < desc->num_hooks; i++) {
        const sae_lm_site s = desc->hooks[i].site;
        bool of_layer = s.module != SAE_LM_EMBED_IN && s.module != SAE_LM_FINAL_NORM;
        if (s.module > SAE_LM_FINAL_NORM || s.layer >= (of_layer ? m->info.layers : 1)
            || (s.module == SAE_LM_EMBED_IN && s.input))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: hook %zu has a site that "
                                    "sae_lm_site_find does not give",
                                    i);
    }
    for (size_t i = 0; desc->rows && i < desc->num_rows; i++)
        if (desc->rows[i] >= n)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: rows[%zu] is %zu, allowed are "
                                    "those below %zu",
                                    i, desc->rows[i], n);
    *rows = n;
    return SAE_OK;
}

/* Cuts the memory of a pass; floats, each piece on 64 bytes. base NULL: only counts. */
static size_t lmi_run_layout(lmi_run *run, float *base) {
    const sae_lm_config *info = &run->m->info;
    size_t n = run->n, block = run->logits ? lmi_min(n, LMI_LOGIT_ROWS) : 0, at = 0, bytes;
    size_t parts = run->desc->contexts * info->heads;
    struct {
        float **piece;
        size_t rows, width;
    } cut[9];
    run->head_floats = lmi_head_scratch(run->ctx, info->head_dim);
    if (run->desc->rows) block = lmi_max(block, LMI_LOGIT_ROWS);
#define LMI_CUT(i, name, a, b) cut[i].piece = &run->name, cut[i].rows = a, cut[i].width = b
    LMI_CUT(0, x, n, info->dim);
    LMI_CUT(1, normed, n, info->dim);
    LMI_CUT(2, qkv, n, 3 * info->dim);
    LMI_CUT(3, heads, n, info->dim);
    LMI_CUT(4, mixed, n, info->dim);
    LMI_CUT(5, wide, n, info->mlp_dim);
    LMI_CUT(6, scratch, parts, run->head_floats);
    LMI_CUT(7, logit_x, block, info->dim);
    LMI_CUT(8, logit, block, info->vocab_size);
#undef LMI_CUT
    for (size_t i = 0; i < 9; i++) {
        if (base) *cut[i].piece = base + at;
        if (!lmi_mul(cut[i].rows, cut[i].width, &bytes) || bytes > SIZE_MAX / 64 - at) return 0;
        at += (bytes + 15) / 16 * 16;
    }
    return at;
}

static sae_result lmi_run_memory(lmi_run *run) {
    sae_lm *m = run->m;
    size_t floats = lmi_run_layout(run, NULL), pairs = (m->info.rotary_dims + 1) / 2, skip;
    if (floats > m->memory_floats || !floats) {
        free(m->memory);
        m->memory_floats = 0;
        m->memory = floats ? (float *)malloc((floats + 16) * sizeof(float)) : NULL;
        if (!m->memory)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_lm_forward: no memory for %zu contexts "
                                    "of %zu tokens",
                                    run->desc->contexts, run->ctx);
        m->memory_floats = floats;
    }
    skip = (64 - ((uintptr_t)m->memory & 63)) % 64 / sizeof(float);
    lmi_run_layout(run, m->memory + skip);
    if (run->ctx > m->rope_ctx) {
        free(m->rope);
        m->rope_ctx = 0;
        m->rope = (float *)malloc((run->ctx * 2 * pairs + 1) * sizeof(float));
        if (!m->rope)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_forward: no memory");
        m->rope_ctx = run->ctx;
        for (size_t i = 0; i < pairs; i++) {
            /* in float where transformers has float: 1 / base^(2 i / n), times the position */
            float power = (float)(2 * i) / (float)m->info.rotary_dims;
            float frequency = 1 / (float)lmi_exp((double)power * lmi_ln(m->info.rotary_base));
            for (size_t t = 0; t < run->ctx; t++) {
                float *rope = m->rope + (t * pairs + i) * 2;
                lmi_sin_cos((double)((float)t * frequency), &rope[1], &rope[0]);
            }
        }
    }
    return SAE_OK;
}

SAE_API sae_result sae_lm_forward(sae_lm *model, const sae_lm_forward_desc *desc) {
    lmi_run whole, *run = &whole;
    if (!model) return SAE_ERR_INVALID;
    memset(run, 0, sizeof *run);
    LMI_TRY(lmi_run_check(model, desc, &run->n));
    run->m = model;
    run->desc = desc;
    run->ctx = desc->ctx;
    run->hooks_left = desc->num_hooks;
    run->logits = desc->loss || desc->logits || desc->predictions;
    LMI_TRY(lmi_run_memory(run));
    if (!run->logits && !run->hooks_left) return SAE_OK;
    LMI_TRY(lmi_run_layers(run));
    return run->logits ? lmi_run_logits(run) : SAE_OK;
}

SAE_API void sae_lm_final_norm(const sae_lm *model, const float *x, size_t n, float *out) {
    size_t d = model->info.dim;
    for (size_t r = 0; r < n; r++)
        model->kernels->norm(d, x + r * d, model->norm[0], model->norm[1], model->info.norm_eps,
                             out + r * d);
}

SAE_API sae_result sae_lm_unembed(const sae_lm *model, const float *x, size_t n, float *logits) {
    return sae_linear_apply(model->unembed, x, n, logits);
}

SAE_API const float *sae_lm_final_norm_weight(const sae_lm *model) { return model->norm[0]; }
