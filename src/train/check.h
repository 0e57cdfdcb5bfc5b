#pragma once
#include "hyperparameters.h"

/* ==== >>trainer: checks ======================================================================= */

/* What is checked: a desc with its defaults set. */
typedef struct saei_check {
    const sae_context *ctx;
    const char *who;
    const sae_trainer_desc *h;
    const saei_scheme *scheme;
} saei_check;

/* The names of the trainers that have f, in out. */
static void saei_field_trainers(const saei_field *f, char *out, size_t size) {
    size_t used = 0;
    *out = 0;
    for (size_t i = 0; i < SAEI_NUM_SCHEMES && used < size; i++)
        if (saei_has_field(&saei_schemes[i], f))
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "",
                                     sae_trainer_name(saei_schemes[i].kind));
}

/* A row that only its trainers may set. */
static sae_result saei_own_check(const saei_check *c, const saei_field *f) {
    const sae_trainer_desc *h = c->h;
    const void *at = (const char *)h + f->offset;
    char names[256];
    unsigned long long x = f->type == SAEI_FIELD_SPARSITY ? (unsigned long long)h->sparsity_function
                           : f->type == SAEI_FIELD_NORM   ? h->reconstruction_norm
                                                          : *(const uint64_t *)at;
    bool set = f->type == SAEI_FIELD_SPARSITY ? h->sparsity_function != c->scheme->sparsity
               : f->type == SAEI_FIELD_NORM   ? x != 0
                                              : x != SAE_NONE;
    if (!set || saei_has_field(c->scheme, f)) return SAE_OK;
    saei_field_trainers(f, names, sizeof names);
    return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %llu, which %s does not have; it belongs "
                     "to %s", c->who, f->name, x, sae_trainer_name(h->kind), names);
}

static sae_result saei_real_check(const saei_check *c, const saei_field *f) {
    double x = *(const double *)(const void *)((const char *)c->h + f->offset);
    if (!(fabs(x) <= FLT_MAX))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %g, allowed are finite numbers",
                         c->who, f->name, x);
    if (!saei_has_field(c->scheme, f)) return SAE_OK;
    if ((f->zero == SAEI_REFUSED && !(x > 0)) || (f->zero == SAEI_LITERAL && x < 0)
        || ((f->flags & SAEI_SHARE) && x > 1))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %g, allowed is %s", c->who, f->name, x,
                         saei_allowed(f));
    return SAE_OK;
}

static sae_result saei_whole_check(const saei_check *c, const saei_field *f) {
    const void *at = (const char *)c->h + f->offset;
    bool size = f->type == SAEI_FIELD_SIZE;
    uint64_t x = size ? *(const size_t *)at : *(const uint64_t *)at;
    uint64_t most = size ? INT32_MAX : f->offset == SAEI_AT(steps) ? INT64_MAX : UINT64_MAX;
    bool least = f->zero == SAEI_REFUSED && saei_has_field(c->scheme, f);
    if ((f->flags & SAEI_IN_RUN) && saei_steps_of(x) >= c->h->steps)
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: %s is %llu, allowed are 0 to steps - 1, %llu", c->who, f->name,
                         (unsigned long long)saei_steps_of(x), (unsigned long long)c->h->steps - 1);
    if (x > most || (least && !x))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %llu, allowed are %d to %llu", c->who,
                         f->name, (unsigned long long)x, least, (unsigned long long)most);
    return SAE_OK;
}

static sae_result saei_fields_check(const saei_check *c) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const saei_field *f = &saei_fields[i];
        if (f->type == SAEI_FIELD_REAL) SAEI_TRY(saei_real_check(c, f));
        if (f->type == SAEI_FIELD_SIZE || f->type == SAEI_FIELD_STEPS)
            SAEI_TRY(saei_whole_check(c, f));
        if (f->flags & SAEI_OWN) SAEI_TRY(saei_own_check(c, f));
    }
    return SAE_OK;
}

/* ---- what hyperparameters ask of each other ---- */

static sae_result saei_decay_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    uint64_t warmup = saei_steps_of(h->warmup_steps), decay = saei_steps_of(h->decay_start);
    uint64_t sparsity = saei_steps_of(h->sparsity_warmup_steps);
    uint64_t resample = saei_steps_of(h->resample_steps);
    if (decay && resample)
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: decay_start is %llu and resample_steps %llu, only one of them is "
                         "allowed", c->who, (unsigned long long)decay,
                         (unsigned long long)resample);
    if (decay && (decay >= h->steps || decay <= warmup || decay <= sparsity))
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: decay_start is %llu, it must lie after warmup_steps (%llu) and "
                         "sparsity_warmup_steps (%llu) and before steps (%llu)", c->who,
                         (unsigned long long)decay, (unsigned long long)warmup,
                         (unsigned long long)sparsity, (unsigned long long)h->steps);
    return SAE_OK;
}

static sae_result saei_groups_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    double sum = 0;
    for (size_t i = 0; i < saei_min(h->num_groups, SAE_MAX_GROUPS); i++) {
        sum += h->group_fractions[i];
        if (!(h->group_fractions[i] >= 0 && h->group_fractions[i] <= 1))
            return saei_fail(c->ctx, SAE_ERR_INVALID,
                             "%s: group_fractions[%zu] is %g, allowed are 0 to 1", c->who, i,
                             h->group_fractions[i]);
        if (!(fabs(h->group_weights[i]) <= FLT_MAX))
            return saei_fail(c->ctx, SAE_ERR_INVALID,
                             "%s: group_weights[%zu] is %g, allowed are finite numbers", c->who, i,
                             h->group_weights[i]);
    }
    if (!(c->scheme->traits & SAEI_NESTED)) return SAE_OK;
    if (!h->num_groups || h->num_groups > SAE_MAX_GROUPS)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: num_groups is %zu (group_fractions), "
                         "allowed are 1 to %d", c->who, h->num_groups, SAE_MAX_GROUPS);
    if (!(fabs(sum - 1) <= 1e-9))
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: group_fractions sum to %.9g, they must sum to 1", c->who, sum);
    return SAE_OK;
}

static sae_result saei_sparsity_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    sae_sparsity_function f = h->sparsity_function;
    bool powers = f == SAE_SPARSITY_LP || f == SAE_SPARSITY_LP_P;
    bool annealed = (c->scheme->traits & SAEI_ANNEALED) != 0;
    if (annealed ? !powers : f != SAE_SPARSITY_L1 && f != SAE_SPARSITY_ENTROPY)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: sparsity_function is %d, %s allows %s",
                         c->who, (int)f, sae_trainer_name(h->kind),
                         annealed ? "SAE_SPARSITY_LP (Lp) and SAE_SPARSITY_LP_P (Lp^p)"
                                  : "SAE_SPARSITY_L1 (l1) and SAE_SPARSITY_ENTROPY (entropy)");
    if (f == SAE_SPARSITY_LP && !(h->p_end > 0))
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: p_end is %g with sparsity_function Lp, which takes the power 1/p: "
                         "give a p_end above 0, or take Lp^p", c->who, h->p_end);
    return SAE_OK;
}

/* Of a crosscoder. */
static sae_result saei_code_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    if (h->activation_dim % h->num_layers)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: num_layers is %zu, it must divide "
                         "activation_dim, the %zu columns of a row", c->who, h->num_layers,
                         h->activation_dim);
    if (h->code_normalization < SAE_CODE_CROSSCODER || h->code_normalization > SAE_CODE_DECOUPLED)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: code_normalization is %d, allowed are 1 to "
                         "%d", c->who, (int)h->code_normalization, (int)SAE_CODE_DECOUPLED);
    if (h->code_normalization == SAE_CODE_MIXED
        && !(saei_number_of(h->code_normalization_alpha_sae) > 0)
        && !(saei_number_of(h->code_normalization_alpha_cc) > 0))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: code_normalization_alpha_sae and _cc are "
                         "0, with MIXED one of them must be above", c->who);
    if ((c->scheme->traits & SAEI_TOP_K) && (h->k_max < h->k || h->k_max > h->dict_size))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: k_max is %zu, allowed are k, %zu, to "
                         "dict_size, %zu", c->who, h->k_max, h->k, h->dict_size);
    if ((c->scheme->traits & SAEI_TOP_K) && h->k > h->dict_size)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: k is %zu, allowed are 1 to dict_size, %zu",
                         c->who, h->k, h->dict_size);
    if (h->output_dim != h->activation_dim || h->skip_connection > 0 || h->apply_b_dec_to_input > 0)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: output_dim is %zu, skip_connection %s, "
                         "apply_b_dec_to_input %s: a crosscoder gives rows as wide as its input, "
                         "%zu, without either", c->who, h->output_dim,
                         h->skip_connection > 0 ? "true" : "false",
                         h->apply_b_dec_to_input > 0 ? "true" : "false", h->activation_dim);
    return SAE_OK;
}

/* Of transcoders: every trainer has them; the formulas ask nothing of y's width but in these. */
static sae_result saei_transcoder_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    if ((c->scheme->traits & SAEI_SPARSIFY)
        && (h->output_dim != h->activation_dim || h->apply_b_dec_to_input > 0))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: output_dim is %zu, activation_dim %zu, "
                         "apply_b_dec_to_input %s: sparsify's transcoders give rows as wide as the "
                         "input, from which b_dec is not taken", c->who, h->output_dim,
                         h->activation_dim, h->apply_b_dec_to_input > 0 ? "true" : "false");
    if (h->optimizer != SAE_OPTIMIZER_ADAM
        && (h->optimizer != SAE_OPTIMIZER_SIGNUM || !(c->scheme->traits & SAEI_SPARSIFY)))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: optimizer is %d, allowed is %d (adam) and, "
                         "with sparsify, %d (signum)", c->who, (int)h->optimizer,
                         (int)SAE_OPTIMIZER_ADAM, (int)SAE_OPTIMIZER_SIGNUM);
    if ((c->scheme->traits & SAEI_SPARSIFY) && h->optimizer == SAE_OPTIMIZER_ADAM
        && saei_steps_of(h->lr_warmup_steps) >= h->steps && h->steps > 0)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: lr_warmup_steps is %llu, allowed with adam "
                         "are 0 to steps - 1, %llu", c->who, (unsigned long long)h->lr_warmup_steps,
                         (unsigned long long)h->steps - 1);
    if (h->apply_b_dec_to_input > 0 && h->output_dim != h->activation_dim)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: apply_b_dec_to_input is true, and b_dec is "
                         "as wide as output_dim, %zu: it cannot be taken from an input of %zu",
                         c->who, h->output_dim, h->activation_dim);
    if (h->apply_b_dec_to_input > 0 && h->arch == SAE_ARCH_STANDARD_NEW)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: apply_b_dec_to_input is true, "
                         "AutoEncoderNew never takes b_dec from its input", c->who);
    if (saei_steps_of(h->resample_steps)
        && (h->output_dim != h->activation_dim || h->skip_connection > 0))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: resample_steps is %llu, which makes rows of "
                         "W_dec from the input: allowed where output_dim, %zu, is activation_dim, "
                         "%zu, without a skip_connection", c->who,
                         (unsigned long long)h->resample_steps, h->output_dim, h->activation_dim);
    return SAE_OK;
}

/* A desc whose defaults are set. */
static sae_result saei_desc_check(const sae_context *ctx, const char *who,
                                  const sae_trainer_desc *h) {
    sae_arch arch = saei_trainer_arch(h->kind);
    saei_check c;
    c.ctx = ctx;
    c.who = who;
    c.h = h;
    c.scheme = saei_scheme_of(h->kind);
    if (!c.scheme)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: kind is %d, allowed are 1 to %d", who,
                         (int)h->kind, (int)SAE_NUM_TRAINERS);
    if (h->arch != arch
        && !((c.scheme->traits & SAEI_WEIGHTED) && h->arch == SAE_ARCH_STANDARD_NEW))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: arch is %s, %s trains %s%s", who,
                         sae_arch_name(h->arch), sae_trainer_name(h->kind), sae_arch_name(arch),
                         c.scheme->traits & SAEI_WEIGHTED ? " and AutoEncoderNew" : "");
    SAEI_TRY(saei_fields_check(&c));
    SAEI_TRY(saei_decay_check(&c));
    SAEI_TRY(saei_groups_check(&c));
    SAEI_TRY(saei_sparsity_check(&c));
    if (c.scheme->traits & SAEI_LAYERS) SAEI_TRY(saei_code_check(&c));
    if ((c.scheme->traits & SAEI_TOP_K) && saei_steps_of(h->k_anneal_steps)
        && h->activation_dim <= h->k)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k is %zu; annealing it starts from "
                         "activation_dim, %zu, which must be larger", who, h->k,
                         h->activation_dim);
    SAEI_TRY(saei_transcoder_check(&c));
    if (h->ghost_threshold != SAE_NONE && !h->reconstruction_norm)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: ghost_threshold is %llu, ghost gradients need "
                         "reconstruction_norm", who, (unsigned long long)h->ghost_threshold);
    return SAE_OK;
}
