#pragma once
#include "mlp.h"

/* ==== >>lm: forward pass ====================================================================== */

/* to += from */
static void lmi_add_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, first = part * LMI_ROW_PART * d;
    size_t count = lmi_min((part + 1) * LMI_ROW_PART, run->count) * d - first;
    float *to = run->to + first;
    run->m->kernels->add(count, run->from + first, to, to);
}

static void lmi_add_rows(lmi_run *run, const float *from, float *to) {
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_add_part);
}

/* Row `index` of a matrix in the file. */
static void lmi_table_row(const sae_tensor *table, size_t index, float *out) {
    sae_tensor row = *table;
    row.ndim = 1;
    row.shape[0] = table->shape[1];
    row.stride[0] = table->stride[1];
    row.data = lmi_row_of(table, index);
    sae_tensor_to_f32(&row, out);
}

static void lmi_embed_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    float scale = (float)sqrt((double)d);
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        int32_t token = run->desc->tokens[r];
        float *x = run->x + r * d;
        lmi_table_row(run->m->embed, token < 0 ? 0 : (size_t)token, x);
        for (size_t i = 0; run->m->shape.has & LMI_EMBED_SCALE && i < d; i++) x[i] *= scale;
    }
}

/* x += the embedding of the positions, read into normed. */
static void lmi_position_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        float *x = run->x + r * d, *position = run->normed + r * d;
        lmi_table_row(run->m->position, run->past + r % run->ctx, position);
        run->m->kernels->add(d, position, x, x);
    }
}

static sae_result lmi_run_layer(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    uint32_t has = run->m->shape.has;
    LMI_AT(SAE_LM_LAYER, i, true, run->x);
    LMI_STEP(lmi_run_norm(run, SAE_LM_ATTENTION_NORM, SAE_LM_ATTENTION_NORMALIZED, i,
                          &l->attention_norm, run->x, run->normed));
    LMI_STEP(lmi_run_attention(run, i));
    if (has & LMI_POST_NORMS)
        LMI_STEP(lmi_run_norm(run, SAE_LM_ATTENTION_POST_NORM, SAE_LM_NUM_MODULES, i,
                              &l->attention_post_norm, run->mixed, run->mixed));
    if (!(has & LMI_PARALLEL)) {
        lmi_add_rows(run, run->mixed, run->x);
        LMI_AT(SAE_LM_RESID_MID, i, false, run->x);
    }
    LMI_STEP(lmi_run_norm(run, SAE_LM_MLP_NORM, SAE_LM_MLP_NORMALIZED, i, &l->mlp_norm, run->x,
                          run->normed));
    if (l->router) LMI_STEP(lmi_run_experts(run, i));
    else LMI_STEP(lmi_run_mlp(run, i));
    if (has & LMI_POST_NORMS)
        LMI_STEP(lmi_run_norm(run, SAE_LM_MLP_POST_NORM, SAE_LM_NUM_MODULES, i, &l->mlp_post_norm,
                              run->made, run->made));
    if (has & LMI_PARALLEL) lmi_add_rows(run, run->mixed, run->made);
    lmi_add_rows(run, run->made, run->x);
    LMI_AT(SAE_LM_LAYER, i, false, run->x);
    return SAE_OK;
}

/* The residual stream is x; the final norm's rows are normed. */
static sae_result lmi_run_layers(lmi_run *run) {
    lmi_row_parts(run, run->n, lmi_embed_part);
    LMI_AT(SAE_LM_EMBED, 0, false, run->x);
    if (run->m->position) lmi_row_parts(run, run->n, lmi_position_part);
    for (size_t i = 0; i < run->m->shape.info.layers; i++) LMI_STEP(lmi_run_layer(run, i));
    if (!run->logits && !run->hooks_left) return SAE_OK;
    return lmi_run_norm(run, SAE_LM_FINAL_NORM, SAE_LM_FINAL_NORMALIZED, 0, &run->m->norm, run->x,
                        run->normed);
}

/* -- logits and losses, in blocks of rows -- */

/* Whether row r of the batch predicts a token. */
static bool lmi_predicts(const lmi_run *run, size_t r) {
    return (r + 1) % run->ctx && run->desc->tokens[r] >= 0 && run->desc->tokens[r + 1] >= 0;
}

static void lmi_logit_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t vocab = run->m->shape.info.vocab_size, r = run->row[part];
    float *logits = run->logit + part * vocab;
    if (run->m->shape.logit_cap > 0)
        run->m->kernels->cap(vocab, run->m->shape.logit_cap, logits);
    run->row_loss[part] = 0;
    if (run->desc->loss && lmi_predicts(run, r))
        run->row_loss[part] = sae_lm_loss(logits, vocab, (size_t)run->desc->tokens[r + 1], NULL);
}

static sae_result lmi_run_logits(lmi_run *run) {
    const sae_lm_forward_desc *desc = run->desc;
    size_t d = run->m->shape.info.dim, total = desc->rows ? desc->num_rows : run->n;
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
        if (desc->loss || run->m->shape.logit_cap > 0)
            sae_context_parallel(run->m->ctx, count, lmi_logit_part, run);
        for (size_t j = 0; j < count; j++) {
            size_t c = row[j] / run->ctx;
            if (desc->loss) desc->loss[c] += run->row_loss[j];
            if (desc->predictions) desc->predictions[c] += lmi_predicts(run, row[j]);
        }
        if (desc->logits) LMI_TRY(desc->logits(desc->user, run->logit, at, count));
    }
    return SAE_OK;
}

/* -- checks -- */

static sae_result lmi_check_tokens(const sae_lm *m, const sae_lm_forward_desc *desc, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int32_t token = desc->tokens[i];
        if (token >= 0 && (size_t)token >= m->shape.info.vocab_size)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: token %zu of the batch is %ld, "
                                    "allowed are those below vocab_size, %zu",
                                    i, (long)token, m->shape.info.vocab_size);
        if (token < 0 && (desc->cache || ((i + 1) % desc->ctx && desc->tokens[i + 1] >= 0)))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: token %zu of the batch is %ld, which is "
                                    "padding, allowed %s", i, (long)token,
                                    desc->cache ? "nowhere with a cache"
                                                : "at the end of a context alone");
    }
    return SAE_OK;
}

static sae_result lmi_check_positions(const sae_lm *m, const sae_lm_forward_desc *desc) {
    const sae_lm_cache *cache = desc->cache;
    size_t past = cache ? cache->count : 0;
    if (cache && (cache->m != m || desc->contexts != 1))
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_forward: contexts is %zu, with a cache allowed is 1 of "
                                "the cache's own model", desc->contexts);
    if (cache && desc->ctx > cache->capacity - past)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_forward: ctx is %zu, the cache holds %zu tokens of %zu",
                                desc->ctx, past, cache->capacity);
    if (m->shape.info.fixed_ctx && past + desc->ctx > m->shape.info.max_ctx)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_forward: position %zu is not in the model, whose positions "
                                "are learned: allowed are contexts of at most %zu tokens",
                                past + desc->ctx - 1, m->shape.info.max_ctx);
    return SAE_OK;
}

static sae_result lmi_run_check(sae_lm *m, const sae_lm_forward_desc *desc, size_t *rows) {
    size_t n;
    if (!desc || !desc->tokens || !desc->contexts || !desc->ctx
        || !lmi_mul(desc->contexts, desc->ctx, &n) || n > INT32_MAX || desc->ctx > 1000000)
        return sae_context_fail(
            m->ctx, SAE_ERR_INVALID,
            "sae_lm_forward: contexts is %zu, ctx is %zu, tokens "
            "may not be NULL, allowed are up to 2^31 tokens, ctx from 1 to 1000000",
            desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    LMI_TRY(lmi_check_positions(m, desc));
    LMI_TRY(lmi_check_tokens(m, desc, n));
    for (size_t i = 0; i < desc->num_hooks; i++)
        if (!(lmi_site_sides(m, &desc->hooks[i].site)
              & (desc->hooks[i].site.input ? LMI_IN : LMI_OUT)))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: hook %zu has a site that "
                                    "sae_lm_site_find does not give",
                                    i);
    for (size_t i = 0; desc->rows && i < desc->num_rows; i++)
        if (desc->rows[i] >= n)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: rows[%zu] is %zu, allowed are "
                                    "those below %zu",
                                    i, desc->rows[i], n);
    *rows = n;
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
    run->past = desc->cache ? desc->cache->count : 0;
    run->hooks_left = desc->num_hooks;
    run->logits = desc->loss || desc->logits || desc->predictions;
    LMI_TRY(lmi_run_memory(run));
    LMI_TRY(lmi_angles(model, run->past + run->ctx));
    if (!run->logits && !run->hooks_left && !desc->cache) return SAE_OK;
    LMI_TRY(lmi_run_layers(run));
    if (run->logits) LMI_TRY(lmi_run_logits(run));
    if (desc->cache) desc->cache->count += run->ctx;
    return SAE_OK;
}

/* -- parts by themselves -- */

SAE_API void sae_lm_final_norm(const sae_lm *model, const float *x, size_t n, float *out) {
    size_t d = model->shape.info.dim;
    for (size_t r = 0; r < n; r++)
        lmi_norm_row(model, &model->norm, d, x + r * d, out + r * d);
}

SAE_API sae_result sae_lm_unembed(const sae_lm *model, const float *x, size_t n, float *logits) {
    return sae_linear_apply(model->unembed, x, n, logits);
}

SAE_API const float *sae_lm_final_norm_weight(const sae_lm *model) { return model->norm.weight; }
