#pragma once
#include "step.h"

/* ==== >>trainer: statistics =================================================================== */

static float saei_trainer_threshold(const sae_trainer *t) {
    float threshold;
    t->ops->download(&t->w, &threshold, t->threshold, sizeof threshold);
    return threshold;
}

SAE_API const sae_dictionary *sae_trainer_dictionary(sae_trainer *t) {
    saei_catch_up(t, NULL);
    if (!t->ops->host_memory)
        t->ops->download(&t->w, t->view.params, t->param.all, t->view.num_params * sizeof(float));
    if (saei_has_trait(t, SAEI_TOP_K)) {
        t->view.threshold = saei_trainer_threshold(t);
        t->view.desc.k = t->view.origin.k = (size_t)t->now.k;
    }
    return &t->view;
}

SAE_API const sae_trainer_desc *sae_trainer_get_desc(const sae_trainer *t) {
    return t ? &t->desc : NULL;
}
SAE_API uint64_t sae_trainer_steps_done(const sae_trainer *t) { return (uint64_t)t->now.step; }

/* The last step's loss and its parts, into s; v: all scalars. */
static void saei_trainer_loss(const sae_trainer *t, double v[SAEI_S_COUNT], sae_stats *s) {
    t->ops->download(&t->w, v, t->scalars, SAEI_S_COUNT * sizeof *v);
    t->ops->download(&t->w, &s->sparsity_loss, t->penalty, sizeof(double));
    s->l2_loss = v[SAEI_S_L2];
    s->loss = t->scheme->loss(t, v, s);
}

SAE_API sae_result sae_trainer_stats(sae_trainer *t, sae_stats *out) {
    sae_stats s;
    double v[SAEI_S_COUNT], variance, total;
    uint32_t silent = 0;
    double *field = &s.loss; /* all but step are doubles */
    if (!t) return SAE_ERR_INVALID;
    if (!out) return saei_fail(t->ctx, SAE_ERR_INVALID, "sae_trainer_stats: out is NULL");
    SAEI_TRY(saei_trainer_check(t, true));
    for (size_t i = 0; i < (sizeof s - offsetof(sae_stats, loss)) / sizeof(double); i++)
        field[i] = NAN;
    s.step = (uint64_t)t->now.step - (t->now.step > 0);
    if (t->n) {
        if (!t->l0_known) t->ops->count_nonzero(&t->w, &t->code, t->scalars + SAEI_S_NONZERO);
        t->l0_known = true;
        saei_trainer_loss(t, v, &s);
        t->ops->download(&t->w, &silent, t->list_count, sizeof silent);
        s.l0 = v[SAEI_S_NONZERO];
        t->ops->variance(&t->w, t->y, t->n, t->scalars + SAEI_S_SCRATCH);
        t->ops->download(&t->w, &total, t->scalars + SAEI_S_SCRATCH, sizeof total);
        t->ops->variance(&t->w, t->e, t->n, t->scalars + SAEI_S_SCRATCH);
        t->ops->download(&t->w, &variance, t->scalars + SAEI_S_SCRATCH, sizeof variance);
        s.frac_variance_explained = 1 - variance / total;
        t->ops->sum_squares(&t->w, t->grad.all, t->view.num_params, t->scalars + SAEI_S_SQUARES);
        t->ops->download(&t->w, &total, t->scalars + SAEI_S_SQUARES, sizeof total);
        s.grad_norm = sqrt(total);
        s.lr = t->lr;
        if (saei_has_trait(t, SAEI_DEAD)) s.dead_features = silent;
        if (t->desc.ghost_threshold != SAE_NONE) s.ghosts = silent;
    }
    if (saei_has_trait(t, SAEI_TOP_K)) s.threshold = (double)saei_trainer_threshold(t);
    if (saei_has_trait(t, SAEI_ANNEALED)) {
        s.p = t->now.p;
        s.next_p = t->now.next_p >= 0 ? t->now.next_p : NAN;
        s.sparsity_coeff = t->now.sparsity_coeff;
    }
    SAEI_TRY(t->ops->status(&t->w));
    *out = s;
    return SAE_OK;
}
