#pragma once
#include "gradients.h"

/* ==== >>trainer: crosscoders ================================================================== */
/* Lindsey et al. 2024, Minder et al. 2025. A crosscoder is a dictionary over rows of L layers, one
   after the other; e_l, W_dec[i]_l are the columns of layer l, n_li = norm(W_dec[i]_l). The weight
   w_i of latent i, by which it is penalised or chosen, follows from the n_li. */

/* The shares of norm(W_dec[i]) and of sum_l n_li in w; false: w is 1. */
static bool saei_code_shares(const sae_trainer_desc *h, double *norm, double *sum) {
    *norm = h->code_normalization == SAE_CODE_SAE ? 1 : 0;
    *sum = h->code_normalization == SAE_CODE_SAE ? 0 : 1;
    if (h->code_normalization == SAE_CODE_MIXED) {
        *norm = saei_number_of(h->code_normalization_alpha_sae);
        *sum = saei_number_of(h->code_normalization_alpha_cc);
    }
    return h->code_normalization != SAE_CODE_NONE;
}

/* w into t->weight, or the n_li of layer `only`. */
static void saei_code_weights(sae_trainer *t, size_t only) {
    double norm, sum;
    saei_code_shares(&t->desc, &norm, &sum);
    t->ops->layer_norms(&t->w, t->param.W_dec, t->desc.dict_size, t->desc.num_layers, only, norm,
                        sum, t->weight);
}

/* CROSSCODER: mean_nl norm(e_l), or mean_nl norm(e_l)^2, + l1_penalty mean_n sum_i f_i w_i, whose
   gradient flows into W_dec too. Latents are counted as quiet where f_i w_i <= 1e-4. */
static void saei_grads_crosscoder(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    const size_t m = h->dict_size, layers = h->num_layers;
    double norm, sum, coef = saei_number_of(h->l1_penalty);
    float alpha = (float)((h->use_mse_loss ? 2.0 : 1.0) / ((double)t->n * (double)layers));
    const float *weight = saei_code_shares(h, &norm, &sum) ? t->weight : NULL;
    saei_encode_batch(t, SAE_SELECT_POSITIVE, 0, &t->code, false);
    ops->decode(&t->w, &t->code, t->code.value, t->param.W_dec, 0, m, t->param.b_dec, 0, t->e);
    ops->layer_errors(&t->w, t->e, t->y, t->n, layers, layers, h->use_mse_loss, t->e, t->r,
                      t->scalars + SAEI_S_L2);
    ops->dots(&t->w, &t->code, t->r, t->param.W_dec, 0, m, alpha, NULL, t->code.grad);
    if (weight) saei_code_weights(t, layers);
    ops->penalty(&t->w, SAE_PENALTY_L1, 1, coef, weight, &t->code, t->code.value, t->code.grad,
                 t->scalars + SAEI_S_SPARSITY);
    saei_index_batch(t, &t->code, 0);
    ops->count_quiet(&t->w, &t->code, weight, 1e-4f, m, t->since);
    saei_latent_grads(t, t->r, alpha, false);
    if (weight) {
        ops->latent_sums(&t->w, &t->index, 0, false, t->sums);
        ops->layer_norm_grad(&t->w, t->param.W_dec, m, layers, norm, sum, t->sums,
                             (float)(coef / (double)t->n), t->grad.W_dec);
    }
    ops->column_sums(&t->w, t->r, t->n, alpha, t->grad.b_dec);
}

static double saei_loss_crosscoder(const sae_trainer *t, const double *v, sae_stats *s) {
    if (t->desc.resample_steps != SAE_NONE) s->resampled = v[SAEI_S_RESAMPLED];
    return s->l2_loss + saei_number_of(t->desc.l1_penalty) * s->sparsity_loss;
}

/* Latents chosen by f w, with their f as values; *threshold: of f w, or NULL. */
static void saei_choose_weighed(sae_trainer *t, sae_select select, size_t k, sae_code *code,
                                bool listed, float *threshold) {
    sae_encode_args a = saei_encode_args_of(&t->view, select, t->xc, t->n);
    bool weighed = t->desc.code_normalization != SAE_CODE_NONE;
    a.W = weighed ? t->weighed : t->param.W_enc;
    a.bias = weighed ? t->weighed_bias : t->param.b_enc;
    a.list = listed ? t->list : NULL;
    a.list_count = t->list_count;
    a.k = k;
    a.warm = t->warm;
    if (weighed)
        t->ops->weigh_rows(&t->w, t->param.W_enc, t->param.b_enc, t->weight, t->desc.dict_size,
                           t->weighed, t->weighed_bias);
    t->ops->encode(&t->w, &a, code);
    if (threshold)
        t->ops->update_threshold(&t->w, code, false, saei_number_of(t->desc.threshold_beta),
                                 threshold);
    if (weighed) t->ops->unweigh(&t->w, t->weight, code);
}

/* Of the dead latents the top_k_aux largest f w of each row. */
static void saei_grads_crosscoder_aux(sae_trainer *t) {
    t->ops->list_silent(&t->w, t->since, t->desc.dead_feature_threshold, t->desc.dict_size, t->list,
                        t->list_count);
    if (!t->aux.stride) return;
    saei_code_weights(t, t->desc.num_layers);
    saei_choose_weighed(t, SAE_SELECT_TOP_K, t->aux.stride, &t->aux, true, NULL);
    saei_auxk_grads(t);
}

/* BATCH_TOP_K_CROSSCODER: mean_nl norm(e_l) + auxk_alpha auxk, where the k n largest f_i w_i of the
   batch are kept; DECOUPLED: the k n largest f_i n_li of each layer, for that layer. */
static void saei_grads_crosscoder_top_k(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    const size_t m = h->dict_size, layers = h->num_layers;
    const bool apart = h->code_normalization == SAE_CODE_DECOUPLED;
    const float alpha = (float)(1 / ((double)t->n * (double)layers));
    const bool counts = (uint64_t)t->now.step > saei_steps_of(h->threshold_start_step);
    float *threshold = apart ? t->param.thresholds : t->threshold;
    for (size_t c = 0; c < (apart ? layers : 1); c++) {
        saei_code_weights(t, apart ? c : layers);
        saei_choose_weighed(t, SAE_SELECT_BATCH_TOP_K, (size_t)t->now.k, &t->code, false,
                            counts ? threshold + c : NULL);
        ops->decode(&t->w, &t->code, t->code.value, t->param.W_dec, 0, m, t->param.b_dec, 0, t->r);
        ops->layer_errors(&t->w, t->r, t->y, t->n, layers, apart ? c : layers, false, t->e, t->r,
                          t->scalars + SAEI_S_L2);
        ops->dots(&t->w, &t->code, t->r, t->param.W_dec, 0, m, alpha, t->code.value, t->code.grad);
        saei_index_batch(t, &t->code, 0);
        ops->fired(&t->w, &t->index, 0, c ? 0 : t->n, t->since);
        saei_latent_grads(t, t->r, alpha, c > 0);
    }
    if (apart) /* the directions of all layers */
        ops->layer_errors(&t->w, t->e, NULL, t->n, layers, layers, false, t->e, t->r,
                          t->scalars + SAEI_S_SCRATCH);
    ops->column_sums(&t->w, t->r, t->n, alpha, t->grad.b_dec);
    if (t->now.rows_seen + (double)t->n >= (double)h->dead_feature_threshold)
        saei_grads_crosscoder_aux(t);
}

static double saei_loss_crosscoder_top_k(const sae_trainer *t, const double *v, sae_stats *s) {
    s->sparsity_loss = NAN;
    s->auxk_loss = v[SAEI_S_NORM];
    s->pre_norm_auxk_loss = v[SAEI_S_PRE_NORM];
    s->effective_l0 = s->k_current_value = t->used_k;
    return s->l2_loss + saei_number_of(t->desc.auxk_alpha) * s->auxk_loss;
}

/* ---- around the gradients ---- */

/* Before the update of a step: the k of it, from k_max down to k; halves go to the even number. */
static void saei_begin_crosscoder(sae_trainer *t, uint64_t step) {
    const sae_trainer_desc *h = &t->desc;
    uint64_t over = saei_steps_of(h->k_annealing_steps);
    if (saei_has_trait(t, SAEI_TOP_K)) {
        double k = (double)h->k, most = (double)h->k_max;
        if (!over) k = most;
        else if (step < over) k = rint(most - (most - k) * (double)step / (double)over);
        t->now.k = k < 1 ? 1 : k;
    }
    if (t->view.normalizes)
        t->ops->center_layers(&t->w, t->n, h->num_layers, t->param.mean, t->param.scale, t->x);
    if (saei_has_trait(t, SAEI_MEDIAN) && step == 0)
        t->ops->layer_median(&t->w, t->x, t->n, h->num_layers, t->param.b_dec);
}
