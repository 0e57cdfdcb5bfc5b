#pragma once
#include "../formats/names.h"
#include "../formats/layout.h"

/* ==== >>trainer: hyperparameters by name, reading config.json ================================= */

typedef enum saei_field_type {
    SAEI_FIELD_KIND, SAEI_FIELD_ARCH, SAEI_FIELD_SIZE, SAEI_FIELD_STEPS, SAEI_FIELD_REAL,
    SAEI_FIELD_LIST, SAEI_FIELD_GROUP_SIZES, SAEI_FIELD_SPARSITY, SAEI_FIELD_NORM, SAEI_FIELD_TEXT,
    SAEI_FIELD_INTEGER, SAEI_FIELD_NOTHING
} saei_field_type;

/* What a literal 0 and a literal null (none) mean for a number. In a desc 0 is the default, so that
   the two must be spelled otherwise there: OFF is SAE_NONE for steps, -1 for real numbers. */
typedef enum saei_meaning { SAEI_REFUSED, SAEI_LITERAL, SAEI_OFF, SAEI_DEFAULT } saei_meaning;

typedef struct saei_field {
    const char *name; /* the reference's */
    saei_field_type type;
    saei_meaning zero, null;
    unsigned kinds; /* bit 1 << sae_trainer_kind: the trainers that have it */
    size_t offset;  /* in sae_trainer_desc */
} saei_field;

#define SAEI_KIND(name) (1u << SAE_TRAINER_##name)
#define SAEI_ANNEAL (SAEI_KIND(P_ANNEAL) | SAEI_KIND(GATED_ANNEAL))
#define SAEI_L1 (SAEI_KIND(STANDARD) | SAEI_KIND(STANDARD_APRIL) | SAEI_KIND(GATED))
#define SAEI_TOP_KS (SAEI_KIND(TOP_K) | SAEI_KIND(BATCH_TOP_K) | SAEI_KIND(MATRYOSHKA))
#define SAEI_AT(field) offsetof(sae_trainer_desc, field)
#define SAEI_ROW(name, type, zero, null, kinds)                                                    \
    { #name, SAEI_FIELD_##type, SAEI_##zero, SAEI_##null, kinds, SAEI_AT(name) }

static const saei_field saei_fields[] = {
    { "trainer_class", SAEI_FIELD_KIND, SAEI_REFUSED, SAEI_REFUSED, ~0u, SAEI_AT(kind) },
    { "dict_class", SAEI_FIELD_ARCH, SAEI_REFUSED, SAEI_DEFAULT, ~0u, SAEI_AT(arch) },
    SAEI_ROW(activation_dim, SIZE, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(dict_size, SIZE, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(batch_size, SIZE, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(steps, STEPS, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(seed, STEPS, LITERAL, DEFAULT, ~0u),
    SAEI_ROW(lr, REAL, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(warmup_steps, STEPS, OFF, REFUSED, ~0u),
    SAEI_ROW(decay_start, STEPS, OFF, OFF, ~0u),
    SAEI_ROW(sparsity_warmup_steps, STEPS, OFF, OFF, SAEI_L1 | SAEI_ANNEAL | SAEI_KIND(JUMP_RELU)),
    SAEI_ROW(resample_steps, STEPS, OFF, OFF, SAEI_KIND(STANDARD) | SAEI_ANNEAL),
    SAEI_ROW(l1_penalty, REAL, OFF, DEFAULT, SAEI_L1),
    SAEI_ROW(sparsity_function, SPARSITY, REFUSED, DEFAULT, SAEI_KIND(STANDARD) | SAEI_ANNEAL),
    SAEI_ROW(k, SIZE, REFUSED, DEFAULT, SAEI_TOP_KS),
    SAEI_ROW(k_anneal_steps, STEPS, OFF, OFF, SAEI_TOP_KS),
    SAEI_ROW(auxk_alpha, REAL, OFF, DEFAULT, SAEI_TOP_KS),
    SAEI_ROW(top_k_aux, SIZE, REFUSED, DEFAULT, SAEI_TOP_KS),
    SAEI_ROW(dead_feature_threshold, STEPS, REFUSED, DEFAULT, SAEI_TOP_KS | SAEI_KIND(JUMP_RELU)),
    SAEI_ROW(threshold_beta, REAL, OFF, DEFAULT, SAEI_TOP_KS),
    SAEI_ROW(threshold_start_step, STEPS, OFF, REFUSED, SAEI_TOP_KS),
    SAEI_ROW(group_fractions, LIST, REFUSED, DEFAULT, SAEI_KIND(MATRYOSHKA)),
    SAEI_ROW(group_weights, LIST, REFUSED, DEFAULT, SAEI_KIND(MATRYOSHKA)),
    { "group_sizes", SAEI_FIELD_GROUP_SIZES, SAEI_REFUSED, SAEI_DEFAULT, SAEI_KIND(MATRYOSHKA),
      SAEI_AT(group_fractions) },
    SAEI_ROW(bandwidth, REAL, REFUSED, DEFAULT, SAEI_KIND(JUMP_RELU)),
    SAEI_ROW(sparsity_penalty, REAL, OFF, DEFAULT, SAEI_KIND(JUMP_RELU)),
    SAEI_ROW(target_l0, REAL, REFUSED, DEFAULT, SAEI_KIND(JUMP_RELU)),
    SAEI_ROW(initial_sparsity_penalty, REAL, OFF, DEFAULT, SAEI_ANNEAL),
    SAEI_ROW(anneal_start, STEPS, OFF, REFUSED, SAEI_ANNEAL),
    SAEI_ROW(anneal_end, STEPS, REFUSED, DEFAULT, SAEI_ANNEAL),
    SAEI_ROW(p_start, REAL, REFUSED, DEFAULT, SAEI_ANNEAL),
    SAEI_ROW(p_end, REAL, LITERAL, DEFAULT, SAEI_ANNEAL),
    SAEI_ROW(n_sparsity_updates, STEPS, REFUSED, REFUSED, SAEI_ANNEAL), /* or continuous */
    SAEI_ROW(sparsity_queue_length, SIZE, REFUSED, DEFAULT, SAEI_ANNEAL),
    { "reconstruction_loss", SAEI_FIELD_NORM, SAEI_REFUSED, SAEI_DEFAULT, SAEI_KIND(STANDARD),
      SAEI_AT(reconstruction_norm) },
    SAEI_ROW(ghost_threshold, STEPS, REFUSED, OFF, SAEI_KIND(STANDARD)),
    SAEI_ROW(init, TEXT, REFUSED, DEFAULT, ~0u),
    { "device", SAEI_FIELD_NOTHING, SAEI_REFUSED, SAEI_DEFAULT, 0, 0 },
    SAEI_ROW(layer, INTEGER, LITERAL, DEFAULT, ~0u),
    SAEI_ROW(lm_name, TEXT, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(wandb_name, TEXT, REFUSED, DEFAULT, ~0u),
    SAEI_ROW(submodule_name, TEXT, REFUSED, DEFAULT, ~0u)
};
enum { SAEI_NUM_FIELDS = sizeof saei_fields / sizeof saei_fields[0] };

static const char *const saei_sparsity_names[] = { "l1", "entropy", "Lp", "Lp^p" }; /* from 1 on */

/* The annealers' configs call initial_sparsity_penalty sparsity_penalty. */
static size_t saei_field_offset(const saei_field *f, sae_trainer_kind kind) {
    bool penalty = f->offset == SAEI_AT(sparsity_penalty) && f->type == SAEI_FIELD_REAL;
    return penalty && saei_is_annealer(kind) ? SAEI_AT(initial_sparsity_penalty) : f->offset;
}

static const saei_field *saei_field_find(const char *name, size_t length) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const char *s = saei_fields[i].name;
        if (strlen(s) == length && !strncmp(s, name, length)) return &saei_fields[i];
    }
    return NULL;
}

/* A value as text. list: an array or object of a config file (text is then what to call it). */
typedef struct saei_value {
    const char *text;
    const sae_json *list;
    bool none;
} saei_value;

/* Where a value stands, for messages. */
typedef struct saei_setter {
    const sae_context *ctx;
    const char *who, *path; /* path may be NULL */
} saei_setter;

static sae_result saei_set_fail(const saei_setter *s, const char *name, saei_value v,
                                const char *allowed) {
    char quoted[SAEI_QUOTE];
    return saei_fail(s->ctx, SAE_ERR_INVALID, "%s: %s%s%s is %s, allowed is %s", s->who,
                     s->path ? s->path : "", s->path ? ": " : "", name,
                     *v.text ? saei_quote(v.text, quoted) : "empty", allowed);
}

static bool saei_is_none(const char *text) {
    return !strcmp(text, "none") || !strcmp(text, "None") || !strcmp(text, "null");
}

/* Digits, or a number such as 1e5 that is whole. */
static bool saei_text_whole(const char *text, uint64_t *out) {
    uint64_t v = 0;
    double x;
    size_t i;
    for (i = 0; text[i] >= '0' && text[i] <= '9'; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (v > (UINT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    if (!i || text[i]) {
        if (!saei_text_number(text, strlen(text), &x)) return false;
        if (x < 0 || x > 9007199254740992.0 || x != floor(x)) return false;
        v = (uint64_t)x;
    }
    *out = v;
    return true;
}

static sae_result saei_set_whole(const saei_setter *s, const saei_field *f, saei_value v,
                                 uint64_t *out) {
    bool updates = f->offset == SAEI_AT(n_sparsity_updates), none = v.none;
    uint64_t limit = f->type == SAEI_FIELD_SIZE   ? (uint64_t)INT32_MAX
                     : f->offset == SAEI_AT(seed) ? UINT64_MAX
                                                  : SAE_NONE - 1;
    uint64_t x = 0;
    saei_meaning meaning = none ? f->null : SAEI_LITERAL;
    char allowed[64];
    if (updates && strcmp(v.text, "continuous") == 0) {
        *out = SAE_NONE;
        return SAE_OK;
    }
    if (!none && (v.list || !saei_text_whole(v.text, &x) || x > limit)) meaning = SAEI_REFUSED;
    else if (!none && !x) meaning = f->zero;
    if (meaning == SAEI_REFUSED) {
        snprintf(allowed, sizeof allowed, "a whole number%s%s",
                 f->zero == SAEI_REFUSED ? " >= 1" : "",
                 f->null == SAEI_OFF ? ", or none" : updates ? ", or continuous" : "");
        return saei_set_fail(s, f->name, v, allowed);
    }
    *out = meaning == SAEI_OFF ? SAE_NONE : x;
    return SAE_OK;
}

static sae_result saei_set_real(const saei_setter *s, const saei_field *f, saei_value v,
                                double *out) {
    double x = 0;
    if (!v.none
        && (v.list || !saei_text_number(v.text, strlen(v.text), &x) || x < 0
            || (x == 0 && f->zero == SAEI_REFUSED))) {
        return saei_set_fail(s, f->name, v,
                             f->zero == SAEI_REFUSED ? "a number > 0" : "a number >= 0");
    }
    *out = v.none ? 0 : x == 0 && f->zero == SAEI_OFF ? -1 : x;
    return SAE_OK;
}

/* Numbers of a list, in a config file or between commas. */
static sae_result saei_set_numbers(const saei_setter *s, const saei_field *f, saei_value v,
                                   double *out, size_t *count) {
    const char *allowed = "a list of 1 to 64 numbers";
    const sae_json *c = v.list ? v.list->child : NULL;
    const char *at = v.text;
    *count = 0;
    if (v.list && v.list->type != SAE_JSON_ARRAY) return saei_set_fail(s, f->name, v, allowed);
    while (v.list ? c != NULL : at != NULL) {
        size_t n = v.list ? 0 : strcspn(at, ",");
        double x = v.list ? c->number : 0;
        if (*count == SAE_MAX_GROUPS) return saei_set_fail(s, f->name, v, allowed);
        if (v.list ? c->type != SAE_JSON_NUMBER : !saei_text_number(at, n, &x))
            return saei_set_fail(s, f->name, v, allowed);
        if (!(x > 0 && x <= DBL_MAX)) return saei_set_fail(s, f->name, v, "a list of numbers > 0");
        out[(*count)++] = x;
        if (v.list) c = c->next;
        else at = at[n] ? at + n + 1 : NULL;
    }
    return *count ? SAE_OK : saei_set_fail(s, f->name, v, allowed);
}

/* The fractions from which sizes come back as (size_t)(fraction * sum); the last is the rest. */
static bool saei_fractions(const double *sizes, size_t count, double *out) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] != floor(sizes[i])) return false;
        sum += sizes[i];
    }
    if (sum > 9007199254740992.0) return false;
    for (size_t i = 0; i < count; i++) {
        out[i] = sizes[i] / sum;
        if (floor(out[i] * sum) < sizes[i]) out[i] += out[i] * DBL_EPSILON;
    }
    return true;
}

static sae_result saei_set_list(const saei_setter *s, const saei_field *f, saei_value v,
                                sae_trainer_desc *desc) {
    double list[SAE_MAX_GROUPS];
    size_t count = 0;
    bool weights = f->offset == SAEI_AT(group_weights);
    memset(list, 0, sizeof list);
    if (!v.none) SAEI_TRY(saei_set_numbers(s, f, v, list, &count));
    if (f->type == SAEI_FIELD_GROUP_SIZES) {
        if (!count) return SAE_OK;
        if (!saei_fractions(list, count, list))
            return saei_set_fail(s, f->name, v, "a list of whole numbers");
    }
    if (weights) {
        if (count && desc->group_fractions[0] > 0 && count != desc->num_groups)
            return saei_set_fail(s, f->name, v, "as many numbers as group_fractions has");
        memcpy(desc->group_weights, list, sizeof list);
        if (count) desc->num_groups = count;
        return SAE_OK;
    }
    if (count != desc->num_groups) memset(desc->group_weights, 0, sizeof desc->group_weights);
    memcpy(desc->group_fractions, list, sizeof list);
    desc->num_groups = count;
    return SAE_OK;
}

/* Names: of trainers, classes, losses; and the texts. */
static sae_result saei_set_name(const saei_setter *s, const saei_field *f, saei_value v,
                                sae_trainer_desc *desc, void *at) {
    sae_trainer_kind kind;
    sae_arch arch;
    bool none = v.none;
    if (v.list) return saei_set_fail(s, f->name, v, "a text");
    switch (f->type) {
    case SAEI_FIELD_KIND:
        if (saei_trainer_from_any_name(v.text, &kind)) {
            desc->kind = kind;
            return SAE_OK;
        }
        return saei_set_fail(s, f->name, v, "standard, standard_april, gated, gated_anneal, "
                             "p_anneal, top_k, batch_top_k, matryoshka_batch_top_k, jumprelu, or "
                             "the reference's class");
    case SAEI_FIELD_ARCH:
        arch = saei_arch_from_name(v.text);
        if (!arch && !none)
            return saei_set_fail(s, f->name, v, "a class of the reference, as AutoEncoder");
        desc->arch = arch;
        return SAE_OK;
    case SAEI_FIELD_SPARSITY:
        for (int i = 0; i <= (int)SAE_SPARSITY_LP_P; i++) {
            if (i ? strcmp(v.text, saei_sparsity_names[i - 1]) != 0 : !none) continue;
            desc->sparsity_function = (sae_sparsity_function)i;
            return SAE_OK;
        }
        return saei_set_fail(s, f->name, v, "l1, entropy, Lp or Lp^p");
    case SAEI_FIELD_NORM:
        if (!none && strcmp(v.text, "norm") && strcmp(v.text, "mse"))
            return saei_set_fail(s, f->name, v, "mse or norm");
        desc->reconstruction_norm = !strcmp(v.text, "norm");
        return SAE_OK;
    default:
        *(const char **)at = none ? NULL : v.text;
        return SAE_OK;
    }
}

/* One field from one value; desc is changed only if that succeeds. */
static sae_result saei_field_set(const saei_setter *s, sae_trainer_desc *desc, const saei_field *f,
                                 saei_value v) {
    void *at = (char *)desc + saei_field_offset(f, desc->kind);
    uint64_t whole;
    double x;
    switch (f->type) {
    case SAEI_FIELD_SIZE:
        SAEI_TRY(saei_set_whole(s, f, v, &whole));
        *(size_t *)at = (size_t)whole;
        return SAE_OK;
    case SAEI_FIELD_STEPS: return saei_set_whole(s, f, v, (uint64_t *)at);
    case SAEI_FIELD_REAL: return saei_set_real(s, f, v, (double *)at);
    case SAEI_FIELD_LIST:
    case SAEI_FIELD_GROUP_SIZES: return saei_set_list(s, f, v, desc);
    case SAEI_FIELD_INTEGER:
        x = 0;
        if (!v.none
            && (v.list || !saei_text_number(v.text, strlen(v.text), &x) || x != floor(x)
                || fabs(x) > 9007199254740992.0))
            return saei_set_fail(s, f->name, v, "a whole number");
        *(int64_t *)at = (int64_t)x;
        return SAE_OK;
    case SAEI_FIELD_NOTHING: return SAE_OK;
    case SAEI_FIELD_KIND:
    case SAEI_FIELD_ARCH:
    case SAEI_FIELD_SPARSITY:
    case SAEI_FIELD_NORM:
    case SAEI_FIELD_TEXT: break;
    }
    return saei_set_name(s, f, v, desc, at);
}

/* Letters to change, add or drop to make b of a (Levenshtein); both shorter than 64. */
static size_t saei_edit_distance(const char *a, const char *b) {
    size_t row[64], na = strlen(a), nb = strlen(b);
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = saei_min(change, saei_min(row[j], row[j - 1]) + 1);
        }
    }
    return row[nb];
}

/* key as the table spells it, into name; NULL if it is none (name is then the nearest, or ""). */
static const saei_field *saei_field_of_key(const char *key, char name[64]) {
    size_t n = strlen(key), best = 4;
    const saei_field *f;
    char spelled[64];
    name[0] = 0;
    if (n >= sizeof spelled) return NULL;
    for (size_t i = 0; i <= n; i++) spelled[i] = key[i] == '-' ? '_' : key[i];
    f = saei_field_find(strcmp(spelled, "trainer") ? spelled : "trainer_class",
                        strcmp(spelled, "trainer") ? n : strlen("trainer_class"));
    for (size_t i = 0; i < SAEI_NUM_FIELDS && !f; i++) {
        size_t distance = saei_edit_distance(spelled, saei_fields[i].name);
        if (distance >= best || distance * 2 > n) continue;
        best = distance;
        snprintf(name, 64, "%s", saei_fields[i].name);
    }
    return f;
}

SAE_API sae_result sae_trainer_desc_set(sae_context *ctx, sae_trainer_desc *desc, const char *key,
                                        const char *value) {
    char nearest[64], quoted[SAEI_QUOTE];
    const saei_field *f;
    saei_setter s;
    saei_value v;
    if (!desc || !key || !value)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_desc_set: desc, key or value is NULL");
    s.ctx = ctx;
    s.who = "sae_trainer_desc_set";
    s.path = NULL;
    v.text = value;
    v.list = NULL;
    v.none = saei_is_none(value);
    f = saei_field_of_key(key, nearest);
    if (f) return saei_field_set(&s, desc, f, v);
    return saei_fail(ctx, SAE_ERR_NOT_FOUND, "sae_trainer_desc_set: key is %s, which no trainer "
                     "has%s%s", saei_quote(key, quoted), *nearest ? "; near is " : "", nearest);
}

/* ---- config.json: reading ---- */
