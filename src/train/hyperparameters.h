#pragma once
#include "schemes.h"

/* ==== >>trainer: hyperparameters ============================================================== */
/* One row each, in the order of sae_trainer_desc. From the rows follow the defaults, the checks,
   the settings a backup belongs to, reading and writing by name, and the list for options and
   bindings. Which trainers have one stands in >>trainer: schemes. */

typedef enum saei_field_type {
    SAEI_FIELD_KIND, SAEI_FIELD_ARCH, SAEI_FIELD_SIZE, SAEI_FIELD_STEPS, SAEI_FIELD_REAL,
    SAEI_FIELD_LIST, SAEI_FIELD_GROUP_SIZES, SAEI_FIELD_SPARSITY, SAEI_FIELD_NORM, SAEI_FIELD_TEXT,
    SAEI_FIELD_INTEGER, SAEI_FIELD_NOTHING, SAEI_FIELD_SWITCH,
    SAEI_FIELD_OPTIMIZER
} saei_field_type;

/* What a literal 0 and a literal null (none) mean for a number. In a desc 0 is the default, so that
   the two must be spelled otherwise there: OFF is SAE_NONE for steps, -1 for real numbers. */
typedef enum saei_meaning { SAEI_REFUSED, SAEI_LITERAL, SAEI_OFF, SAEI_DEFAULT } saei_meaning;

enum { /* of a row */
    SAEI_EVERY = 1,       /* all trainers have it */
    SAEI_OWN = 2,         /* trainers that lack it refuse it; else they leave it alone */
    SAEI_IN_RUN = 4,      /* fewer than steps */
    SAEI_SHARE = 8,       /* at most 1 */
    SAEI_CONTINUOUS = 16, /* SAE_NONE is spelled "continuous" */
    SAEI_NO_SETTING = 32  /* a backup does not depend on it, or another row tells */
};

typedef struct saei_field {
    const char *key;     /* the reference's name of it */
    const char *name;    /* in sae_trainer_desc; "": it only becomes another's */
    saei_field_type type;
    saei_meaning zero, null;
    unsigned flags;
    double value;        /* default, where a row alone can say it; -1: SAE_NONE */
    const char *initial; /* default, for people */
    size_t offset;       /* in sae_trainer_desc */
} saei_field;

#define SAEI_AT(field) offsetof(sae_trainer_desc, field)
#define SAEI_ROW(name, type, zero, null, flags, ...)                                               \
    { #name, #name, SAEI_FIELD_##type, SAEI_##zero, SAEI_##null, flags, __VA_ARGS__, SAEI_AT(name) }
#define SAEI_ROW_AS(key, name, at, type, zero, null, flags, ...)                                   \
    { key, name, SAEI_FIELD_##type, SAEI_##zero, SAEI_##null, flags, __VA_ARGS__, SAEI_AT(at) }
#define SAEI_IS(number) number, #number
#define SAEI_IS_NONE -1, "none"
#define SAEI_SAID(text) 0, text

static const saei_field saei_fields[] = {
    SAEI_ROW_AS("trainer_class", "kind", kind, KIND, REFUSED, REFUSED, SAEI_EVERY,
                SAEI_SAID("top_k")),
    SAEI_ROW_AS("dict_class", "arch", arch, ARCH, REFUSED, DEFAULT, SAEI_EVERY,
                SAEI_SAID("by the trainer")),
    SAEI_ROW(activation_dim, SIZE, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("the data's")),
    SAEI_ROW(dict_size, SIZE, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("required")),
    SAEI_ROW(batch_size, SIZE, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("the data's, 2048")),
    SAEI_ROW(steps, STEPS, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("required")),
    SAEI_ROW(seed, STEPS, LITERAL, DEFAULT, SAEI_EVERY, SAEI_IS(0)),
    SAEI_ROW(lr, REAL, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("by the trainer")),
    SAEI_ROW(warmup_steps, STEPS, OFF, REFUSED, SAEI_EVERY | SAEI_IN_RUN,
             SAEI_SAID("1000; steps / 10 in runs of at most 1000 steps")),
    SAEI_ROW(decay_start, STEPS, OFF, OFF, SAEI_EVERY, SAEI_IS_NONE),
    SAEI_ROW(sparsity_warmup_steps, STEPS, OFF, OFF, SAEI_IN_RUN,
             SAEI_SAID("2000; steps / 5 in runs of at most 2000 steps")),
    SAEI_ROW(resample_steps, STEPS, OFF, OFF, SAEI_OWN | SAEI_IN_RUN, SAEI_IS_NONE),
    SAEI_ROW(l1_penalty, REAL, OFF, DEFAULT, 0, SAEI_IS(0.1)),
    SAEI_ROW(sparsity_function, SPARSITY, REFUSED, DEFAULT, SAEI_OWN,
             SAEI_SAID("l1; p_anneal Lp, gated_anneal Lp^p")),
    SAEI_ROW(k, SIZE, REFUSED, DEFAULT, 0, SAEI_SAID("required")),
    SAEI_ROW(k_anneal_steps, STEPS, OFF, OFF, SAEI_IN_RUN, SAEI_IS_NONE),
    SAEI_ROW(auxk_alpha, REAL, OFF, DEFAULT, 0, SAEI_IS(1.0 / 32)),
    SAEI_ROW(top_k_aux, SIZE, REFUSED, DEFAULT, 0, SAEI_SAID("output_dim / 2")),
    SAEI_ROW(dead_feature_threshold, STEPS, REFUSED, DEFAULT, 0, SAEI_IS(10000000)),
    SAEI_ROW(threshold_beta, REAL, OFF, DEFAULT, SAEI_SHARE, SAEI_IS(0.999)),
    SAEI_ROW(threshold_start_step, STEPS, OFF, REFUSED, 0, SAEI_IS(1000)),
    SAEI_ROW(group_fractions, LIST, REFUSED, DEFAULT, 0,
             SAEI_SAID("required, for example 0.25,0.75")),
    SAEI_ROW(group_weights, LIST, REFUSED, DEFAULT, SAEI_NO_SETTING, SAEI_SAID("all the same")),
    SAEI_ROW_AS("group_sizes", "", group_fractions, GROUP_SIZES, REFUSED, DEFAULT, SAEI_NO_SETTING,
                SAEI_SAID("by group_fractions")),
    SAEI_ROW(bandwidth, REAL, REFUSED, DEFAULT, 0, SAEI_IS(0.001)),
    SAEI_ROW(sparsity_penalty, REAL, OFF, DEFAULT, 0, SAEI_IS(1)),
    SAEI_ROW(target_l0, REAL, REFUSED, DEFAULT, 0, SAEI_IS(20)),
    SAEI_ROW(initial_sparsity_penalty, REAL, OFF, DEFAULT, 0, SAEI_IS(0.1)),
    SAEI_ROW(anneal_start, STEPS, OFF, REFUSED, 0, SAEI_IS(15000)),
    SAEI_ROW(anneal_end, STEPS, REFUSED, DEFAULT, 0, SAEI_SAID("steps")),
    SAEI_ROW(p_start, REAL, REFUSED, DEFAULT, 0, SAEI_IS(1)),
    SAEI_ROW(p_end, REAL, LITERAL, DEFAULT, 0, SAEI_SAID("0 (with Lp it must be above)")),
    SAEI_ROW(n_sparsity_updates, STEPS, REFUSED, REFUSED, SAEI_CONTINUOUS, SAEI_IS(10)),
    SAEI_ROW(sparsity_queue_length, SIZE, REFUSED, DEFAULT, 0, SAEI_IS(10)),
    SAEI_ROW_AS("reconstruction_loss", "reconstruction_norm", reconstruction_norm, NORM, REFUSED,
                DEFAULT, SAEI_OWN, SAEI_SAID("mse")),
    SAEI_ROW(ghost_threshold, STEPS, REFUSED, OFF, SAEI_OWN, SAEI_IS_NONE),
    SAEI_ROW(init, TEXT, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("new weights")),
    SAEI_ROW_AS("device", "", kind, NOTHING, REFUSED, DEFAULT, SAEI_NO_SETTING,
                SAEI_SAID("for config.json")),
    SAEI_ROW(layer, INTEGER, LITERAL, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(lm_name, TEXT, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(wandb_name, TEXT, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(submodule_name, TEXT, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(output_dim, SIZE, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("the target's, the data's")),
    SAEI_ROW(skip_connection, SWITCH, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("false")),
    SAEI_ROW(apply_b_dec_to_input, SWITCH, REFUSED, DEFAULT, SAEI_EVERY,
             SAEI_SAID("as the class; false where output_dim is not activation_dim")),
    SAEI_ROW(optimizer, OPTIMIZER, REFUSED, DEFAULT, 0, SAEI_SAID("signum")),
    SAEI_ROW(lr_warmup_steps, STEPS, OFF, OFF, 0, SAEI_IS(1000)),
    SAEI_ROW(k_decay_steps, STEPS, OFF, OFF, 0, SAEI_IS_NONE),
    SAEI_ROW(finetune, SWITCH, REFUSED, DEFAULT, 0, SAEI_SAID("false"))
};
enum { SAEI_NUM_FIELDS = sizeof saei_fields / sizeof saei_fields[0] };

static const char *const saei_optimizer_names[] = { "adam", "signum" }; /* from 1 on */
static const char *const saei_sparsity_names[] = { "l1", "entropy", "Lp", "Lp^p" }; /* from 1 on */

static bool saei_has_field(const saei_scheme *scheme, const saei_field *f) {
    return (f->flags & SAEI_EVERY) || saei_scheme_names(scheme, f->key);
}

/* The annealers' configs call initial_sparsity_penalty sparsity_penalty. */
static size_t saei_field_offset(const saei_field *f, sae_trainer_kind kind) {
    const saei_scheme *scheme = saei_scheme_of(kind);
    bool penalty = f->offset == SAEI_AT(sparsity_penalty) && scheme;
    return penalty && (scheme->traits & SAEI_ANNEALED) ? SAEI_AT(initial_sparsity_penalty)
                                                       : f->offset;
}

/* The values a row takes, as messages put it. */
static const char *saei_allowed(const saei_field *f) {
    bool zero = f->zero != SAEI_REFUSED, none = f->null == SAEI_OFF;
    switch (f->type) {
    case SAEI_FIELD_SIZE:
    case SAEI_FIELD_STEPS:
        if (f->flags & SAEI_CONTINUOUS) return "a whole number >= 1, or continuous";
        if (zero) return none ? "a whole number, or none" : "a whole number";
        return none ? "a whole number >= 1, or none" : "a whole number >= 1";
    case SAEI_FIELD_REAL:
        if (f->flags & SAEI_SHARE) return "a number from 0 to 1";
        return zero ? "a number >= 0" : "a number > 0";
#define SAE_X(kind, value, arch, name, reference, older) name ", "
    case SAEI_FIELD_KIND: return SAE_TRAINERS(SAE_X) "or the reference's class";
#undef SAE_X
    case SAEI_FIELD_ARCH: return "a class of the reference, as AutoEncoder";
    case SAEI_FIELD_LIST: return "a list of 1 to 64 numbers > 0";
    case SAEI_FIELD_GROUP_SIZES: return "a list of 1 to 64 whole numbers";
    case SAEI_FIELD_SPARSITY: return "l1, entropy, Lp or Lp^p";
    case SAEI_FIELD_NORM: return "mse or norm";
    case SAEI_FIELD_INTEGER: return "a whole number";
    case SAEI_FIELD_SWITCH: return "true or false";
    case SAEI_FIELD_OPTIMIZER: return "adam or signum";
    case SAEI_FIELD_TEXT:
    case SAEI_FIELD_NOTHING: break;
    }
    return "a text";
}

SAE_API bool sae_hyperparameter_get(size_t index, sae_hyperparameter *out) {
    const saei_field *f = &saei_fields[index < SAEI_NUM_FIELDS ? index : 0];
    bool whole = f->type == SAEI_FIELD_SIZE || f->type == SAEI_FIELD_STEPS
                 || f->type == SAEI_FIELD_INTEGER;
    bool list = f->type == SAEI_FIELD_LIST || f->type == SAEI_FIELD_GROUP_SIZES;
    if (index >= SAEI_NUM_FIELDS || !out) return false;
    out->name = f->key;
    out->field = f->name;
    out->type = whole                       ? SAE_HYPERPARAMETER_WHOLE
                : f->type == SAEI_FIELD_REAL ? SAE_HYPERPARAMETER_REAL
                : list                       ? SAE_HYPERPARAMETER_LIST
                                             : SAE_HYPERPARAMETER_TEXT;
    out->initial = f->initial;
    out->allowed = saei_allowed(f);
    out->trainers = 0;
    for (size_t i = 0; i < SAEI_NUM_SCHEMES; i++)
        if (saei_has_field(&saei_schemes[i], f)) out->trainers |= 1u << saei_schemes[i].kind;
    return true;
}

/* ---- defaults ---- */

static void saei_default_steps(uint64_t *field, uint64_t value) {
    if (!*field) *field = value ? value : SAE_NONE;
}
static void saei_default_number(double *field, double value) {
    if (*field == 0) *field = value;
}

/* The default of apply_b_dec_to_input. */
static bool saei_applies_b_dec(const sae_trainer_desc *h) {
    sae_dictionary_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.arch = h->arch;
    return h->kind != SAE_TRAINER_SPARSIFY && saei_subtracts(&desc)
           && (!h->output_dim || h->output_dim == h->activation_dim);
}

SAE_API void sae_trainer_defaults(sae_trainer_desc *desc) {
    const saei_scheme *scheme = saei_scheme_of(desc->kind);
    uint64_t steps = desc->steps;
    double scale = (double)desc->dict_size / 16384;
    if (!scheme) return; /* kind is refused later */
    desc->kind = scheme->kind;
    if (!desc->arch) desc->arch = saei_trainer_arch(desc->kind);
    if (!(scheme->traits & SAEI_SCALED) || !(scale > 0)) scale = 1;
    if (!desc->optimizer)
        desc->optimizer =
            scheme->traits & SAEI_SPARSIFY ? SAE_OPTIMIZER_SIGNUM : SAE_OPTIMIZER_ADAM;
    if (!desc->finetune) desc->finetune = -1;
    saei_default_number(&desc->lr, (desc->optimizer == SAE_OPTIMIZER_SIGNUM ? 5e-3 : scheme->lr)
                                       / sqrt(scale));
    /* The reference's 1000 and 2000, which it refuses in runs that are not longer; there a tenth
       and a fifth of the run. */
    saei_default_steps(&desc->warmup_steps, steps > 1000 ? 1000 : steps / 10);
    saei_default_steps(&desc->sparsity_warmup_steps,
                       !saei_scheme_names(scheme, "sparsity_warmup_steps") ? SAE_NONE
                       : steps > 2000                                      ? 2000 : steps / 5);
    if (!desc->sparsity_function) desc->sparsity_function = scheme->sparsity;
    if (!desc->output_dim) desc->output_dim = desc->activation_dim;
    if (!desc->skip_connection) desc->skip_connection = -1;
    if (!desc->apply_b_dec_to_input) desc->apply_b_dec_to_input = saei_applies_b_dec(desc) ? 1 : -1;
    if (!desc->top_k_aux) desc->top_k_aux = saei_max(desc->output_dim / 2, 1);
    for (size_t i = 0; i < desc->num_groups && i < SAE_MAX_GROUPS; i++)
        saei_default_number(&desc->group_weights[i], 1.0 / (double)desc->num_groups);
    saei_default_steps(&desc->anneal_end, steps);
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const saei_field *f = &saei_fields[i];
        void *at = (char *)desc + f->offset;
        if (f->value == 0) continue;
        if (f->type == SAEI_FIELD_REAL) saei_default_number((double *)at, f->value);
        if (f->type == SAEI_FIELD_SIZE && !*(size_t *)at) *(size_t *)at = (size_t)f->value;
        if (f->type == SAEI_FIELD_STEPS)
            saei_default_steps((uint64_t *)at, f->value < 0 ? SAE_NONE : (uint64_t)f->value);
    }
}
