#pragma once
#include "gradients.h"

/* ==== >>trainer: sparsify ===================================================================== */
/* The rule of EleutherAI's sparsify for transcoders. No norms, no clipping. */

/* k of step t: from min(m, 10 d) down to k over k_decay_steps, halves to even. */
static double saei_sparsify_k(const sae_trainer_desc *h, uint64_t t) {
    uint64_t over = saei_steps_of(h->k_decay_steps), u = t > 0 ? t - 1 : 0;
    double first = (double)saei_min(h->dict_size, 10 * h->activation_dim), share, k;
    if (u >= over) return (double)h->k;
    share = (double)u / (double)over;
    k = rint(first * (1 - share) + (double)h->k * share);
    return k < 1 ? 1 : k;
}

/* The learning rate of step t. */
static double saei_sparsify_lr(const sae_trainer_desc *h, uint64_t t) {
    uint64_t warmup = saei_steps_of(h->lr_warmup_steps);
    if (h->optimizer == SAE_OPTIMIZER_SIGNUM) return h->lr;
    if (t < warmup) return h->lr * ((double)t / (double)warmup);
    return h->lr * ((double)(h->steps - t) / (double)(h->steps - warmup));
}

/* Before the first step: b_enc = -W_enc mean(x), b_dec = mean(y), unless the start is to stay. */
static void saei_sparsify_begin(sae_trainer *t) {
    const sae_backend *ops = t->ops;
    size_t m = t->desc.dict_size;
    if (t->desc.finetune <= 0) {
        float share = (float)(1 / (double)t->n);
        ops->column_sums(&t->w, t->x, t->n, share, t->r);
        ops->zero(&t->w, t->sums, m * sizeof(float));
        ops->skip(&t->w, t->r, 1, t->param.W_enc, m, t->sums, t->param.b_enc);
        ops->column_sums(&t->out, t->y, t->n, share, t->param.b_dec);
    }
    if (t->desc.optimizer != SAE_OPTIMIZER_SIGNUM) return;
    ops->axpy(&t->w, t->view.num_params, 1, t->param.all, NULL, t->first.all);
    ops->axpy(&t->w, t->view.num_params, 1, t->param.all, NULL, t->second.all);
}

/* The dead latents' reconstruction of e, with b_dec: its gradient goes to W_dec and b_dec alone.
   Leaves in t->r what b_dec sees in place of e. */
static bool saei_sparsify_auxk(sae_trainer *t, double variance, float alpha) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    const size_t rows = t->n * t->view.ld_out, half = saei_max(h->activation_dim / 2, 1);
    const float *values[1];
    uint32_t dead;
    double share, squares;
    ops->download(&t->w, &dead, t->list_count, sizeof dead);
    if (!dead || !t->aux.stride) return false;
    share = dead < half ? (double)dead / (double)half : 1;
    saei_encode_batch(t, SAE_SELECT_TOP_K, t->aux.stride, &t->aux, true);
    ops->decode(&t->out, &t->aux, t->aux.value, t->param.W_dec, 0, h->dict_size, t->param.b_dec, 0,
                t->r);
    ops->axpy(&t->out, rows, 1, t->e, t->r, t->r);
    ops->sum_squares(&t->out, t->r, rows, t->scalars + SAEI_S_SCRATCH);
    ops->download(&t->w, &squares, t->scalars + SAEI_S_SCRATCH, sizeof squares);
    squares *= share / variance;
    ops->upload(&t->w, t->scalars + SAEI_S_NORM, &squares, sizeof squares);
    share *= saei_number_of(h->auxk_alpha);
    values[0] = t->aux.value;
    ops->index(&t->w, &t->aux, values, 1, &t->index);
    ops->latent_rows(&t->out, &t->index, 0, t->r, 0, h->dict_size, (float)share * alpha, true,
                     t->grad.W_dec);
    ops->axpy(&t->out, rows, (float)share, t->r, t->e, t->r);
    return true;
}

/* SPARSIFY: fvu + auxk_alpha auxk, of a top-k of each row. Gradients of fvu are 2 e / variance. */
static void saei_grads_sparsify(sae_trainer *t) {
    const sae_backend *ops = t->ops;
    double variance = 0, none = 0, squares;
    bool auxk;
    float alpha;
    ops->variance(&t->out, t->y, t->n, t->scalars + SAEI_S_SCRATCH);
    ops->download(&t->w, &variance, t->scalars + SAEI_S_SCRATCH, sizeof variance);
    variance *= (double)t->n - 1; /* what it divides by */
    alpha = variance > 0 ? (float)(2 / variance) : 0;
    ops->upload(&t->w, t->scalars + SAEI_S_NORM, &none, sizeof none);
    ops->list_silent(&t->w, t->since, t->desc.dead_feature_threshold + 1, t->desc.dict_size,
                     t->list, t->list_count);
    saei_encode_batch(t, SAE_SELECT_TOP_K, (size_t)t->now.k, &t->code, false);
    saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.grad);
    saei_index_batch(t, &t->code, 0);
    ops->fired(&t->w, &t->index, -1, t->n, t->since);
    saei_latent_grads(t, t->e, alpha, false);
    auxk = alpha > 0 && saei_sparsify_auxk(t, variance, alpha);
    ops->column_sums(&t->out, auxk ? t->r : t->e, t->n, alpha, t->grad.b_dec);
    if (t->param.W_skip)
        ops->skip_grad(&t->w, t->x, t->e, t->n, t->desc.output_dim, alpha, t->grad.W_skip);
    ops->download(&t->w, &squares, t->scalars + SAEI_S_L2, sizeof squares);
    squares = variance > 0 ? squares * (double)t->n / variance : 0;
    ops->upload(&t->w, t->scalars + SAEI_S_FVU, &squares, sizeof squares);
}

static double saei_loss_sparsify(const sae_trainer *t, const double *v, sae_stats *s) {
    s->sparsity_loss = NAN;
    s->auxk_loss = v[SAEI_S_NORM];
    s->fvu = v[SAEI_S_FVU];
    s->k = s->effective_l0 = t->used_k;
    return s->fvu + saei_number_of(t->desc.auxk_alpha) * s->auxk_loss;
}
