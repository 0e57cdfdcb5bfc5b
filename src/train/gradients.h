#pragma once
#include "trainer.h"

/* ==== >>trainer: gradients ==================================================================== */
/* Each saei_grads_* computes the gradients of one batch into t->grad. Notation of the papers
   named; e = x_hat - y. Every gradient of the squared error is 2/n e: alpha below. */

/* Before rows of W_dec are read: those of the latents in code, or of all (NULL). */
static void saei_catch_up(sae_trainer *t, const sae_code *code) {
    if (t->lazy.enabled)
        t->ops->catch_up(&t->out, code, &t->lazy, t->desc.dict_size, t->param.W_dec, t->first.W_dec,
                         t->second.W_dec);
}

/* After an update. Finding deferrable rows costs a scan of all lists: it goes on while at least an
   eighth of the rows are deferred; otherwise it is tried again every eighth time. */
static void saei_lazy_adam_update(sae_trainer *t, const sae_adam_desc *adam, uint64_t step) {
    sae_lazy_adam *lazy = &t->lazy;
    size_t at = lazy->updates % SAE_LAZY_ADAM_UPDATES;
    bool scanned = lazy->enabled;
    uint32_t deferred;
    lazy->adam[at] = *adam;
    lazy->t[at] = step + 1;
    lazy->updates++;
    if (lazy->updates % SAE_LAZY_ADAM_UPDATES) return;
    saei_catch_up(t, NULL);
    lazy->enabled = lazy->updates / SAE_LAZY_ADAM_UPDATES % 8 == 0;
    if (scanned) {
        t->ops->download(&t->w, &deferred, lazy->num_deferred, sizeof deferred);
        lazy->enabled = deferred && 8 * (size_t)deferred >= t->desc.dict_size;
    } else lazy->begun = lazy->updates;
}

static void saei_encode_batch(sae_trainer *t, sae_select select, size_t k, sae_code *code,
                              bool listed) {
    sae_encode_args a = saei_encode_args_of(&t->view, select, t->xc, t->n);
    a.W = t->param.W_enc; /* those of the view are the host's */
    a.bias = t->param.b_enc;
    a.list = listed ? t->list : NULL;
    a.list_count = t->list_count;
    a.k = k;
    a.theta = select == SAE_SELECT_WINDOW ? t->param.aux0 : NULL;
    a.bandwidth = (float)t->desc.bandwidth;
    a.warm = t->warm;
    t->ops->encode(&t->w, &a, code);
    saei_catch_up(t, code);
}

/* By latent (f, dL/dp), and `others` values that are only summed, see saei_sums. */
static void saei_index_batch(sae_trainer *t, const sae_code *code, size_t others) {
    const float *values[5];
    values[0] = code->value;
    values[1] = code->grad;
    for (size_t i = 0; i < 3; i++) values[2 + i] = code->extra[i];
    t->ops->index(&t->w, code, values, t->ops->code_sums ? 2 : 2 + others, &t->index);
}

/* out[i] = the sum of extra[which] over the entries of latent i. */
static void saei_sums(sae_trainer *t, size_t which, float *out) {
    saei_op_code_sums(t->ops, &t->w, &t->code, t->code.extra[which], &t->index, 2 + which, out);
}

/* From an index of (f, dL/dp): dW_dec = alpha sum f e, dW_enc = sum dL/dp xc,
   db_enc = sum dL/dp. */
static void saei_latent_grads(sae_trainer *t, const float *e, float alpha, bool add) {
    size_t m = t->desc.dict_size;
    t->ops->latent_rows(&t->out, &t->index, 0, e, 0, m, alpha, add, t->grad.W_dec);
    t->ops->latent_rows(&t->w, &t->index, 1, t->xc, 0, m, 1, add, t->grad.W_enc);
    t->ops->latent_sums(&t->w, &t->index, 1, add, t->grad.b_enc);
}

/* What is added to x_hat beside the latents: b_dec and W_skip x. */
static void saei_output_grad(sae_trainer *t, const float *e, float alpha) {
    t->ops->column_sums(&t->out, e, t->n, alpha, t->grad.b_dec);
    if (t->param.W_skip)
        t->ops->skip_grad(&t->w, t->x, e, t->n, t->view.desc.output_dim, alpha, t->grad.W_skip);
}

/* b_dec is added to x_hat and, in most classes, subtracted from the encoder's input:
   db_dec = alpha sum e - sum_i (sum dL/dp_i) W_enc_i. */
static void saei_bias_grad(sae_trainer *t, const float *e, float alpha, const float *dp_sums) {
    saei_output_grad(t, e, alpha);
    if (saei_subtracts(&t->view.desc))
        t->ops->weighted_sum(&t->w, t->param.W_enc, dp_sums, t->desc.dict_size, -1, t->grad.b_dec);
}

/* e = x_hat - y and its mean square norm; grad = alpha e.W_dec of the entries, 0 where relu_of is
   not positive. */
static void saei_reconstruct(sae_trainer *t, const float *values, float alpha, const float *relu_of,
                             float *e, double *loss, float *grad) {
    saei_op_reconstruct(t->ops, &t->out, &t->code, values, t->param.W_dec, t->param.b_dec, t->fit,
                        alpha, relu_of, e, loss, grad);
}

/* Ghost gradients (Anthropic, January 2024 update): latents silent for long are pulled towards the
   residual through exp(p). Adds to the gradients of an index already used. */
static void saei_ghost_grads(sae_trainer *t) {
    t->ops->exp_values(&t->w, &t->aux);
    t->ops->decode(&t->out, &t->aux, t->aux.value, t->param.W_dec, 0, t->desc.dict_size, NULL, 0,
                   t->r);
    t->ops->ghost_residual(&t->out, t->r, t->e, t->n, t->list_count, t->r,
                           t->scalars + SAEI_S_GHOST);
    t->ops->dots(&t->out, &t->aux, t->r, t->param.W_dec, 0, t->desc.dict_size, 1, NULL,
                 t->aux.grad);
    t->ops->exp_grad(&t->w, &t->aux);
    saei_index_batch(t, &t->aux, 0);
    saei_latent_grads(t, t->r, 1, true);
}

static bool saei_has_trait(const sae_trainer *t, unsigned trait) {
    return (t->scheme->traits & trait) != 0;
}

/* Penalty of the annealers (Karvonen et al. 2024, p-annealing) on values, into grad. Once there is
   a next p, the penalties at p and at the next p go to the queue. */
static void saei_anneal_penalty(sae_trainer *t, const float *values, float *grad) {
    sae_penalty kind =
        t->desc.sparsity_function == SAE_SPARSITY_LP ? SAE_PENALTY_LP : SAE_PENALTY_LP_P;
    size_t length = t->desc.sparsity_queue_length, slot = (size_t)t->now.queue_size % length;
    bool queued = t->now.next_p >= 0;
    if (queued) t->penalty = t->queue + slot;
    t->ops->penalty(&t->w, kind, t->now.p, t->now.sparsity_coeff * t->scale, NULL, &t->code, values,
                    grad, t->penalty);
    if (!queued) return;
    t->ops->penalty(&t->w, kind, t->now.next_p, 0, NULL, &t->code, values, NULL,
                    t->queue + length + slot);
    t->now.queue_size += 1;
}

/* STANDARD (Bricken et al. 2023), STANDARD_APRIL (Conerly et al. 2024), P_ANNEAL:
   mean |e|^2 (or mean |e|) + coefficient * s(t) * penalty(f). */
static void saei_grads_standard(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    bool weighted = saei_has_trait(t, SAEI_WEIGHTED), ghost = h->ghost_threshold != SAE_NONE;
    int power = h->arch == SAE_ARCH_STANDARD_NEW ? 2 : 1; /* NEW hands out f |w|, counted again */
    double coef = saei_number_of(h->l1_penalty) * t->scale;
    float alpha = (float)(h->reconstruction_norm ? 1.0 / (double)t->n : 2.0 / (double)t->n);
    size_t m = h->dict_size;
    float *e = t->e;
    saei_encode_batch(t, SAE_SELECT_POSITIVE, 0, &t->code, false);
    if (!h->reconstruction_norm)
        saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.grad);
    else {
        ops->decode(&t->out, &t->code, t->code.value, t->param.W_dec, 0, m, t->param.b_dec, 0,
                    t->e);
        ops->residual(&t->out, t->e, t->fit, t->n, t->e, t->scalars + SAEI_S_L2);
        ops->axpy(&t->out, t->n * t->view.ld_out, 1, t->e, NULL, t->r);
        ops->unit_rows(&t->out, t->n, t->r, t->scalars + SAEI_S_L2);
        e = t->r;
        ops->dots(&t->out, &t->code, e, t->param.W_dec, 0, m, alpha, NULL, t->code.grad);
    }
    if (saei_has_trait(t, SAEI_ANNEALED)) saei_anneal_penalty(t, t->code.value, t->code.grad);
    else {
        if (weighted) {
            ops->row_norms(&t->out, t->param.W_dec, m, t->norms);
            ops->norm_weight(&t->w, t->norms, power, m, t->weight);
        }
        ops->penalty(&t->w, h->sparsity_function == SAE_SPARSITY_ENTROPY ? SAE_PENALTY_ENTROPY
                                                                         : SAE_PENALTY_L1,
                     1, coef, weighted ? t->weight : NULL, &t->code, t->code.value, t->code.grad,
                     t->scalars + SAEI_S_SPARSITY);
    }
    saei_index_batch(t, &t->code, 0);
    if (ghost) { /* the counters as they stood before this batch */
        ops->list_silent(&t->w, t->since, h->ghost_threshold + 1, m, t->list, t->list_count);
        saei_encode_batch(t, SAE_SELECT_ALL, 0, &t->aux, true);
    }
    ops->fired(&t->w, &t->index, -1, 1, t->since);
    saei_latent_grads(t, e, alpha, false);
    if (weighted) {
        ops->latent_sums(&t->w, &t->index, 0, false, t->sums);
        ops->norm_grad(&t->out, t->param.W_dec, t->norms, t->sums, power,
                       (float)(coef / (double)t->n), m, t->grad.W_dec);
    }
    saei_output_grad(t, e, alpha); /* e may lie where ghost gradients work */
    if (ghost) saei_ghost_grads(t);
    if (saei_subtracts(&t->view.desc))
        ops->weighted_sum(&t->w, t->param.W_enc, t->grad.b_enc, m, -1, t->grad.b_dec);
}

/* GATED (Rajamanoharan et al. 2024a): mean |e|^2 + coefficient * s(t) * penalty(relu(gate)) +
   mean |x_hat(relu(gate)) - x|^2 with the decoder held fixed in the last. */
static void saei_grads_gated(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    float alpha = (float)(2.0 / (double)t->n);
    saei_encode_batch(t, SAE_SELECT_GATE, 0, &t->code, false);
    ops->gate(&t->w, t->param.b_enc, t->param.aux0, t->param.aux1, &t->code);
    saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.extra[0]);
    saei_reconstruct(t, t->code.gate, alpha, NULL, t->r, t->scalars + SAEI_S_AUX, t->code.extra[1]);
    if (saei_has_trait(t, SAEI_ANNEALED))
        saei_anneal_penalty(t, t->code.gate, t->code.extra[1]);
    else
        ops->penalty(&t->w, SAE_PENALTY_L1, 1, saei_number_of(h->l1_penalty) * t->scale, NULL,
                     &t->code, t->code.gate, t->code.extra[1], t->scalars + SAEI_S_SPARSITY);
    ops->gate_grad(&t->w, t->param.aux0, &t->code);
    saei_index_batch(t, &t->code, 3);
    ops->fired(&t->w, &t->index, 0, 1, t->since);
    saei_latent_grads(t, t->e, alpha, false);
    ops->latent_sums(&t->w, &t->index, 1, false, t->sums);
    saei_sums(t, 1, t->grad.b_enc);
    saei_sums(t, 0, t->grad.aux1);
    saei_sums(t, 2, t->grad.aux0);
    saei_bias_grad(t, t->e, alpha, t->sums);
}

/* What the latents in t->aux miss of e, whose gradient is left alone: auxk_alpha times the share of
   its variance. Adds to the gradients of an index already used. */
static void saei_auxk_grads(sae_trainer *t) {
    const sae_backend *ops = t->ops;
    const size_t m = t->desc.dict_size;
    ops->decode(&t->out, &t->aux, t->aux.value, t->param.W_dec, 0, m, NULL, 0, t->r);
    ops->auxk_residual(&t->out, t->r, t->e, t->n, t->list_count,
                       saei_number_of(t->desc.auxk_alpha), t->r, t->scalars + SAEI_S_PRE_NORM,
                       t->scalars + SAEI_S_NORM);
    ops->dots(&t->out, &t->aux, t->r, t->param.W_dec, 0, m, 1, t->aux.value, t->aux.grad);
    saei_index_batch(t, &t->aux, 0);
    saei_latent_grads(t, t->r, 1, true);
}

/* Matryoshka (Bussmann et al. 2025): L = mean_g w_g mean |e_g|^2, e_g the residual after groups
   1..g. A latent of group g sees S_g = sum over h >= g of w_h / G e_h. Fills t->groups with S and
   t->e with the last residual. */
static void saei_matryoshka_residuals(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    size_t rows = t->n * t->view.ld_out, stride = h->batch_size * t->view.ld_out, lo = 0;
    for (size_t g = 0; g < h->num_groups; g++) {
        size_t hi = lo + t->view.desc.group_sizes[g];
        t->ops->decode(&t->out, &t->code, t->code.value, t->param.W_dec, lo, hi,
                       g ? t->r : t->param.b_dec, g ? t->view.ld_out : 0, t->r);
        t->ops->residual(&t->out, t->r, t->fit, t->n, t->groups + g * stride,
                         t->scalars + SAEI_S_GROUPS + g);
        lo = hi;
    }
    t->ops->axpy(&t->out, rows, 1, t->groups + (h->num_groups - 1) * stride, NULL, t->e);
    for (size_t g = h->num_groups; g-- > 0; )
        t->ops->axpy(&t->out, rows, (float)(h->group_weights[g] / (double)h->num_groups),
                     t->groups + g * stride, NULL, t->groups + g * stride);
    for (size_t g = h->num_groups - 1; g-- > 0; )
        t->ops->axpy(&t->out, rows, 1, t->groups + g * stride, t->groups + (g + 1) * stride,
                     t->groups + g * stride);
}

/* TOP_K (Gao et al. 2024), BATCH_TOP_K (Bussmann et al. 2024), MATRYOSHKA: mean |e|^2 +
   auxk_alpha auxk, where auxk reconstructs e from the dead latents. */
static void saei_grads_top_k(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    bool rows = saei_has_trait(t, SAEI_EACH_ROW), nested = saei_has_trait(t, SAEI_NESTED);
    size_t m = h->dict_size, stride = h->batch_size * t->view.ld_out, lo = 0;
    float alpha = (float)(2.0 / (double)t->n);
    saei_encode_batch(t, rows ? SAE_SELECT_TOP_K : SAE_SELECT_BATCH_TOP_K, (size_t)t->now.k,
                      &t->code, false);
    if ((uint64_t)t->now.step > saei_steps_of(h->threshold_start_step))
        ops->update_threshold(&t->w, &t->code, rows, saei_number_of(h->threshold_beta),
                              t->threshold);
    if (nested) saei_matryoshka_residuals(t);
    else
        saei_reconstruct(t, t->code.value, alpha, t->code.value, t->e, t->scalars + SAEI_S_L2,
                         t->code.grad);
    for (size_t g = 0; nested && g < h->num_groups; g++) {
        size_t hi = lo + t->view.desc.group_sizes[g];
        ops->dots(&t->out, &t->code, t->groups + g * stride, t->param.W_dec, lo, hi, alpha,
                  t->code.value, t->code.grad);
        lo = hi;
    }
    saei_index_batch(t, &t->code, 0);
    ops->fired(&t->w, &t->index, rows ? -1 : 0, t->n, t->since);
    if (!nested) saei_latent_grads(t, t->e, alpha, false);
    else {
        lo = 0;
        for (size_t g = 0; g < h->num_groups; g++) {
            size_t hi = lo + t->view.desc.group_sizes[g];
            ops->latent_rows(&t->out, &t->index, 0, t->groups + g * stride, lo, hi, alpha, false,
                             t->grad.W_dec);
            lo = hi;
        }
        ops->latent_rows(&t->w, &t->index, 1, t->xc, 0, m, 1, false, t->grad.W_enc);
        ops->latent_sums(&t->w, &t->index, 1, false, t->grad.b_enc);
    }
    /* No latent can be dead before that many rows were seen. */
    if (t->now.rows_seen + (double)t->n >= (double)h->dead_feature_threshold) {
        ops->list_silent(&t->w, t->since, h->dead_feature_threshold, m, t->list, t->list_count);
        if (t->aux.stride) {
            saei_encode_batch(t, SAE_SELECT_TOP_K, t->aux.stride, &t->aux, true);
            saei_auxk_grads(t);
        }
    }
    saei_bias_grad(t, nested ? t->groups : t->e, alpha, t->grad.b_enc);
}

/* JUMP_RELU (Rajamanoharan et al. 2024b, with an L0 target): mean |e|^2 + c s(t) (L0/target - 1)^2,
   gradients of the thresholds by the straight-through rectangle. As in the reference the L0 term's
   rectangle is taken at f, after the jump. */
static void saei_grads_jump_relu(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    float alpha = (float)(2.0 / (double)t->n), bandwidth = (float)h->bandwidth;
    double coef = saei_number_of(h->sparsity_penalty) * t->scale;
    size_t m = h->dict_size;
    saei_encode_batch(t, SAE_SELECT_WINDOW, 0, &t->code, false);
    ops->jump(&t->w, t->param.aux0, &t->code);
    saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.grad);
    ops->jump_grad(&t->w, t->param.aux0, bandwidth, coef, h->target_l0, &t->code,
                   t->scalars + SAEI_S_L0, t->scalars + SAEI_S_SPARSITY);
    saei_index_batch(t, &t->code, 1);
    ops->fired(&t->w, &t->index, 0, t->n, t->since);
    saei_latent_grads(t, t->e, alpha, false);
    saei_sums(t, 0, t->grad.aux0);
    ops->jump_rest(&t->w, t->param.aux0, bandwidth, coef, h->target_l0, t->scalars + SAEI_S_L0,
                   &t->index, t->n, t->grad.aux0);
    saei_bias_grad(t, t->e, alpha, t->grad.b_enc);
    if (t->now.rows_seen + (double)t->n > (double)h->dead_feature_threshold)
        ops->list_silent(&t->w, t->since, h->dead_feature_threshold + 1, m, t->list, t->list_count);
}

/* ---- losses ---- */

static double saei_loss_standard(const sae_trainer *t, const double *v, sae_stats *s) {
    bool ghost = t->desc.ghost_threshold != SAE_NONE;
    double coef = saei_has_trait(t, SAEI_ANNEALED) ? t->coef : saei_number_of(t->desc.l1_penalty);
    double loss = s->l2_loss + coef * t->scale * s->sparsity_loss;
    return ghost ? loss + v[SAEI_S_GHOST] : loss;
}

static double saei_loss_gated(const sae_trainer *t, const double *v, sae_stats *s) {
    s->aux_loss = v[SAEI_S_AUX];
    return saei_loss_standard(t, v, s) + s->aux_loss;
}

static double saei_loss_top_k(const sae_trainer *t, const double *v, sae_stats *s) {
    const sae_trainer_desc *h = &t->desc;
    bool nested = saei_has_trait(t, SAEI_NESTED);
    if (nested) s->l2_loss = 0;
    for (size_t g = 0; nested && g < h->num_groups; g++)
        s->l2_loss += h->group_weights[g] / (double)h->num_groups * v[SAEI_S_GROUPS + g];
    s->sparsity_loss = NAN;
    s->auxk_loss = v[SAEI_S_NORM];
    s->pre_norm_auxk_loss = v[SAEI_S_PRE_NORM];
    s->effective_l0 = nested ? (double)h->k : t->used_k;
    return s->l2_loss + saei_number_of(h->auxk_alpha) * s->auxk_loss;
}

static double saei_loss_jump_relu(const sae_trainer *t, const double *v, sae_stats *s) {
    (void)t;
    (void)v;
    return s->l2_loss + s->sparsity_loss;
}
