#pragma once
#include "../formats/names.h"

/* ==== >>trainer: defaults and checks ========================================================== */

static void saei_default_steps(uint64_t *field, uint64_t value) {
    if (!*field) *field = value ? value : SAE_NONE;
}
static void saei_default_number(double *field, double value) {
    if (*field == 0) *field = value;
}

SAE_API void sae_trainer_defaults(sae_trainer_desc *desc) {
    sae_trainer_kind kind;
    uint64_t steps = desc->steps;
    double scale = (double)desc->dict_size / 16384;
    if (!desc->kind) desc->kind = SAE_TRAINER_TOP_K;
    kind = desc->kind;
    desc->arch = saei_trainer_arch(desc);
    saei_default_number(&desc->lr, saei_is_top_k(kind) ? 2e-4 / sqrt(scale > 0 ? scale : 1)
                                   : kind == SAE_TRAINER_GATED ? 5e-5
                                   : kind == SAE_TRAINER_GATED_ANNEAL ? 3e-4
                                   : kind == SAE_TRAINER_JUMP_RELU ? 7e-5 : 1e-3);
    /* The reference's 1000 and 2000, which it refuses in runs that are not longer; there a tenth
       and a fifth of the run. */
    saei_default_steps(&desc->warmup_steps, steps > 1000 ? 1000 : steps / 10);
    saei_default_steps(&desc->decay_start, SAE_NONE);
    saei_default_steps(&desc->sparsity_warmup_steps,
                       saei_is_top_k(kind) ? SAE_NONE : steps > 2000 ? 2000 : steps / 5);
    saei_default_steps(&desc->resample_steps, SAE_NONE);
    saei_default_steps(&desc->k_anneal_steps, SAE_NONE);
    saei_default_steps(&desc->ghost_threshold, SAE_NONE);
    saei_default_number(&desc->l1_penalty, 0.1);
    if (!desc->sparsity_function)
        desc->sparsity_function = kind == SAE_TRAINER_P_ANNEAL ? SAE_SPARSITY_LP
                                  : kind == SAE_TRAINER_GATED_ANNEAL ? SAE_SPARSITY_LP_P
                                                                     : SAE_SPARSITY_L1;
    saei_default_number(&desc->auxk_alpha, 1.0 / 32);
    if (!desc->top_k_aux) desc->top_k_aux = saei_max(desc->activation_dim / 2, 1);
    saei_default_steps(&desc->dead_feature_threshold, 10000000);
    saei_default_number(&desc->threshold_beta, 0.999);
    saei_default_steps(&desc->threshold_start_step, 1000);
    for (size_t i = 0; i < desc->num_groups && i < SAE_MAX_GROUPS; i++)
        saei_default_number(&desc->group_weights[i], 1.0 / (double)desc->num_groups);
    saei_default_number(&desc->bandwidth, 0.001);
    saei_default_number(&desc->sparsity_penalty, 1);
    saei_default_number(&desc->target_l0, 20);
    saei_default_number(&desc->initial_sparsity_penalty, 0.1);
    saei_default_steps(&desc->anneal_start, 15000);
    saei_default_steps(&desc->anneal_end, steps);
    saei_default_number(&desc->p_start, 1);
    saei_default_steps(&desc->n_sparsity_updates, 10);
    if (!desc->sparsity_queue_length) desc->sparsity_queue_length = 10;
}

/* The sentinels of a desc as plain numbers. */
static uint64_t saei_steps_of(uint64_t field) { return field == SAE_NONE ? 0 : field; }
static double saei_number_of(double field) { return field < 0 ? 0 : field; }

static sae_result saei_steps_check(const sae_context *ctx, const sae_trainer_desc *h) {
    uint64_t warmup = saei_steps_of(h->warmup_steps), decay = saei_steps_of(h->decay_start);
    uint64_t sparsity = saei_steps_of(h->sparsity_warmup_steps);
    uint64_t resample = saei_steps_of(h->resample_steps);
    unsigned long long steps = (unsigned long long)h->steps;
    const char *who = "sae_trainer_create";
    if (!h->steps || h->steps > INT64_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: steps is %llu, allowed are 1 to 2^63 - 1", who,
                         steps);
    if (warmup >= h->steps)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: warmup_steps is %llu, allowed are 0 to steps - 1, %llu", who,
                         (unsigned long long)warmup, steps - 1);
    if (sparsity >= h->steps)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: sparsity_warmup_steps is %llu, allowed are 0 to "
                         "steps - 1, %llu",
                         who, (unsigned long long)sparsity, steps - 1);
    if (decay && resample)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: decay_start is %llu and resample_steps %llu, only one "
                         "of them is allowed",
                         who, (unsigned long long)decay, (unsigned long long)resample);
    if (decay && (decay >= h->steps || decay <= warmup || decay <= sparsity))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: decay_start is %llu, it must lie after warmup_steps "
                         "(%llu) and sparsity_warmup_steps (%llu) and before steps (%llu)",
                         who, (unsigned long long)decay, (unsigned long long)warmup,
                         (unsigned long long)sparsity, steps);
    if (resample >= h->steps)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: resample_steps is %llu, allowed are 0 (none) to "
                         "steps - 1, %llu",
                         who, (unsigned long long)resample, steps - 1);
    if (resample && h->kind != SAE_TRAINER_STANDARD && !saei_is_annealer(h->kind))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: resample_steps is %llu, but %s does not resample "
                         "(standard, p_anneal and gated_anneal do)",
                         who, (unsigned long long)resample, sae_trainer_name(h->kind));
    return SAE_OK;
}

/* Every number is finite, every group's share lies in 0 to 1. */
static sae_result saei_finite_check(const sae_context *ctx, const sae_trainer_desc *h) {
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        { "lr", h->lr }, { "l1_penalty", h->l1_penalty }, { "auxk_alpha", h->auxk_alpha },
        { "threshold_beta", h->threshold_beta }, { "bandwidth", h->bandwidth },
        { "sparsity_penalty", h->sparsity_penalty }, { "target_l0", h->target_l0 },
        { "initial_sparsity_penalty", h->initial_sparsity_penalty }, { "p_start", h->p_start },
        { "p_end", h->p_end },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(fabs(numbers[i].value) <= FLT_MAX))
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "sae_trainer_create: %s is %g, allowed are finite "
                             "numbers",
                             numbers[i].name, numbers[i].value);
    for (size_t i = 0; i < saei_min(h->num_groups, SAE_MAX_GROUPS); i++) {
        if (!(h->group_fractions[i] >= 0 && h->group_fractions[i] <= 1))
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "sae_trainer_create: group_fractions[%zu] is %g, "
                             "allowed are 0 to 1",
                             i, h->group_fractions[i]);
        if (!(fabs(h->group_weights[i]) <= FLT_MAX))
            return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_create: group_weights[%zu] is %g, "
                             "allowed are finite numbers", i, h->group_weights[i]);
    }
    return SAE_OK;
}

static sae_result saei_numbers_check(const sae_context *ctx, const sae_trainer_desc *h) {
    const char *who = "sae_trainer_create";
    double sum = 0;
    SAEI_TRY(saei_finite_check(ctx, h));
    if (h->sparsity_queue_length > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: sparsity_queue_length is %zu, allowed are 1 to %d", who,
                         h->sparsity_queue_length, INT32_MAX);
    if (!(h->lr > 0) || h->lr > FLT_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: lr is %g, allowed are finite numbers above 0",
                         who, h->lr);
    if (saei_is_top_k(h->kind)) {
        uint64_t anneal = saei_steps_of(h->k_anneal_steps);
        if (anneal >= h->steps)
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: k_anneal_steps is %llu, allowed are 0 (none) to "
                             "steps - 1, %llu",
                             who, (unsigned long long)anneal, (unsigned long long)h->steps - 1);
        if (anneal && h->activation_dim <= h->k)
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: k is %zu; annealing it starts from activation_dim, "
                             "%zu, which must be larger",
                             who, h->k, h->activation_dim);
        if (!(saei_number_of(h->threshold_beta) <= 1))
            return saei_fail(ctx, SAE_ERR_INVALID, "%s: threshold_beta is %g, allowed are 0 to 1",
                             who, h->threshold_beta);
    }
    if (h->kind == SAE_TRAINER_MATRYOSHKA) {
        if (!h->num_groups || h->num_groups > SAE_MAX_GROUPS)
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: num_groups is %zu (group_fractions), allowed are 1 "
                             "to %d",
                             who, h->num_groups, SAE_MAX_GROUPS);
        for (size_t i = 0; i < h->num_groups; i++) sum += h->group_fractions[i];
        if (!(fabs(sum - 1) <= 1e-9))
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: group_fractions sum to %.9g, they must sum to 1", who, sum);
    }
    if (h->kind == SAE_TRAINER_JUMP_RELU && (!(h->bandwidth > 0) || !(h->target_l0 > 0)))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: bandwidth is %g and target_l0 %g, both must be above 0", who,
                         h->bandwidth, h->target_l0);
    if (saei_is_annealer(h->kind)) {
        if (h->sparsity_function != SAE_SPARSITY_LP && h->sparsity_function != SAE_SPARSITY_LP_P)
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: sparsity_function is %d, the annealers allow "
                             "SAE_SPARSITY_LP (Lp) and SAE_SPARSITY_LP_P (Lp^p)",
                             who, (int)h->sparsity_function);
        if (!(h->p_start > 0) || h->p_end < 0)
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: p_start is %g and p_end %g, allowed are p_start "
                             "above 0 and p_end from 0",
                             who, h->p_start, h->p_end);
        if (h->sparsity_function == SAE_SPARSITY_LP && !(h->p_end > 0))
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "%s: p_end is %g with sparsity_function Lp, which takes "
                             "the power 1/p: give a p_end above 0, or take Lp^p",
                             who, h->p_end);
    } else if (h->sparsity_function != SAE_SPARSITY_L1
               && (h->kind != SAE_TRAINER_STANDARD || h->sparsity_function != SAE_SPARSITY_ENTROPY))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: sparsity_function is %d, which %s does not have", who,
                         (int)h->sparsity_function, sae_trainer_name(h->kind));
    if ((h->reconstruction_norm || h->ghost_threshold != SAE_NONE)
        && h->kind != SAE_TRAINER_STANDARD)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: reconstruction_norm and ghost_threshold are options of "
                         "standard, the trainer is %s",
                         who, sae_trainer_name(h->kind));
    if (h->ghost_threshold != SAE_NONE && !h->reconstruction_norm)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: ghost_threshold is %llu, ghost gradients need "
                         "reconstruction_norm", who, (unsigned long long)h->ghost_threshold);
    return SAE_OK;
}
