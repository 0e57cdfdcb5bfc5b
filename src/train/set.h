#pragma once
#include "../formats/layout.h"
#include "check.h"

/* ==== >>trainer: hyperparameters by name ====================================================== */

static const saei_field *saei_field_find(const char *name, size_t length) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const char *s = saei_fields[i].key;
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

static sae_result saei_set_refuse(const saei_setter *s, const saei_field *f, saei_value v,
                                  const char *allowed) {
    char quoted[SAEI_QUOTE];
    return saei_fail(s->ctx, SAE_ERR_INVALID, "%s: %s%s%s is %s, allowed is %s", s->who,
                     s->path ? s->path : "", s->path ? ": " : "", f->key,
                     *v.text ? saei_quote(v.text, quoted) : "empty", allowed);
}
static sae_result saei_set_fail(const saei_setter *s, const saei_field *f, saei_value v) {
    return saei_set_refuse(s, f, v, saei_allowed(f));
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
    uint64_t limit = f->type == SAEI_FIELD_SIZE   ? (uint64_t)INT32_MAX
                     : f->offset == SAEI_AT(seed) ? UINT64_MAX
                                                  : SAE_NONE - 1;
    uint64_t x = 0;
    saei_meaning meaning = v.none ? f->null : SAEI_LITERAL;
    if ((f->flags & SAEI_CONTINUOUS) && strcmp(v.text, "continuous") == 0) {
        *out = SAE_NONE;
        return SAE_OK;
    }
    if (!v.none && (v.list || !saei_text_whole(v.text, &x) || x > limit)) meaning = SAEI_REFUSED;
    else if (!v.none && !x) meaning = f->zero;
    if (meaning == SAEI_REFUSED) return saei_set_fail(s, f, v);
    *out = meaning == SAEI_OFF ? SAE_NONE : x;
    return SAE_OK;
}

static sae_result saei_set_real(const saei_setter *s, const saei_field *f, saei_value v,
                                double *out) {
    double x = 0;
    if (!v.none
        && (v.list || !saei_text_number(v.text, strlen(v.text), &x) || x < 0
            || (x == 0 && f->zero == SAEI_REFUSED) || (x > 1 && (f->flags & SAEI_SHARE))))
        return saei_set_fail(s, f, v);
    *out = v.none ? 0 : x == 0 && f->zero == SAEI_OFF ? -1 : x;
    return SAE_OK;
}

/* Numbers of a list, in a config file or between commas. */
static sae_result saei_set_numbers(const saei_setter *s, const saei_field *f, saei_value v,
                                   double *out, size_t *count) {
    const sae_json *c = sae_json_first(v.list);
    const char *at = v.text;
    *count = 0;
    if (v.list && v.list->type != SAE_JSON_ARRAY) return saei_set_fail(s, f, v);
    while (v.list ? c != NULL : at != NULL) {
        size_t n = v.list ? 0 : strcspn(at, ",");
        double x = v.list ? c->number : 0;
        if (*count == SAE_MAX_GROUPS) return saei_set_fail(s, f, v);
        if (v.list ? c->type != SAE_JSON_NUMBER : !saei_text_number(at, n, &x))
            return saei_set_fail(s, f, v);
        if (!(x > 0 && x <= DBL_MAX)) return saei_set_fail(s, f, v);
        out[(*count)++] = x;
        if (v.list) c = sae_json_next(c);
        else at = at[n] ? at + n + 1 : NULL;
    }
    return *count ? SAE_OK : saei_set_fail(s, f, v);
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
            return saei_set_fail(s, f, v);
    }
    if (weights) {
        if (count && desc->group_fractions[0] > 0 && count != desc->num_groups)
            return saei_set_refuse(s, f, v, "as many numbers as group_fractions has");
        memcpy(desc->group_weights, list, sizeof list);
        if (count) desc->num_groups = count;
        return SAE_OK;
    }
    if (count != desc->num_groups) memset(desc->group_weights, 0, sizeof desc->group_weights);
    memcpy(desc->group_fractions, list, sizeof list);
    desc->num_groups = count;
    return SAE_OK;
}

/* Of `count` names, counted from 1; 0: it is none of them. */
static int saei_name_number(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name)) return i + 1;
    return 0;
}

/* Names: of trainers, classes, losses; and the texts. */
static sae_result saei_set_name(const saei_setter *s, const saei_field *f, saei_value v,
                                sae_trainer_desc *desc, void *at) {
    sae_trainer_kind kind;
    sae_arch arch;
    bool none = v.none;
    int which;
    if (v.list) return saei_set_fail(s, f, v);
    switch (f->type) {
    case SAEI_FIELD_KIND:
        if (!saei_trainer_find(v.text, true, &kind)) return saei_set_fail(s, f, v);
        desc->kind = kind;
        return SAE_OK;
    case SAEI_FIELD_ARCH:
        arch = saei_arch_from_name(v.text);
        if (!strcmp(v.text, "CrossCoder")) arch = SAE_ARCH_STANDARD_NEW;
        if (!strcmp(v.text, "BatchTopKCrossCoder")) arch = SAE_ARCH_BATCH_TOP_K;
        if (!strcmp(v.text, "SparseCoder")) arch = SAE_ARCH_TOP_K;
        if (!arch && !none) return saei_set_fail(s, f, v);
        desc->arch = arch;
        return SAE_OK;
    case SAEI_FIELD_SPARSITY:
        which = saei_name_number(saei_sparsity_names, (int)SAE_SPARSITY_LP_P, v.text);
        if (!which && !none) return saei_set_fail(s, f, v);
        desc->sparsity_function = (sae_sparsity_function)which;
        return SAE_OK;
    case SAEI_FIELD_OPTIMIZER:
        which = saei_name_number(saei_optimizer_names, (int)SAE_OPTIMIZER_SIGNUM, v.text);
        if (!which && !none) return saei_set_fail(s, f, v);
        desc->optimizer = (sae_optimizer)which;
        return SAE_OK;
    case SAEI_FIELD_NORM:
        if (!none && strcmp(v.text, "norm") && strcmp(v.text, "mse"))
            return saei_set_fail(s, f, v);
        desc->reconstruction_norm = !strcmp(v.text, "norm");
        return SAE_OK;
    case SAEI_FIELD_CODE: /* NONE is one of them */
        which = saei_name_number(saei_code_names, (int)SAEI_NUM_CODES, v.text);
        if (!which && strcmp(v.text, "null") != 0) return saei_set_fail(s, f, v);
        desc->code_normalization = (sae_code_normalization)which;
        return SAE_OK;
    case SAEI_FIELD_FLAG:
        if (!none && strcmp(v.text, "true") && strcmp(v.text, "false"))
            return saei_set_fail(s, f, v);
        *(bool *)at = !strcmp(v.text, "true");
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
            return saei_set_fail(s, f, v);
        *(int64_t *)at = (int64_t)x;
        return SAE_OK;
    case SAEI_FIELD_NOTHING: return SAE_OK;
    case SAEI_FIELD_SWITCH:
        if (v.none) *(int *)at = 0;
        else if (!v.list && !strcmp(v.text, "true")) *(int *)at = 1;
        else if (!v.list && !strcmp(v.text, "false")) *(int *)at = -1;
        else return saei_set_fail(s, f, v);
        return SAE_OK;
    case SAEI_FIELD_KIND:
    case SAEI_FIELD_ARCH:
    case SAEI_FIELD_SPARSITY:
    case SAEI_FIELD_NORM:
    case SAEI_FIELD_CODE:
    case SAEI_FIELD_FLAG:
    case SAEI_FIELD_OPTIMIZER:
    case SAEI_FIELD_TEXT: break;
    }
    return saei_set_name(s, f, v, desc, at);
}

SAE_API size_t sae_edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[3][64];
    if (n > 63 || m > 63) return 64;
    for (size_t j = 0; j <= m; j++) row[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            now[j] = saei_min(last[j - 1] + (a[i - 1] != b[j - 1]),
                              saei_min(last[j], now[j - 1]) + 1);
            if (swapped) now[j] = saei_min(now[j], before[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

/* key as the table spells it, into name; NULL if it is none (name is then the nearest, or ""). */
static const saei_field *saei_field_of_key(const char *key, char name[64]) {
    size_t n = strlen(key), best = 4;
    const saei_field *f;
    char spelled[64];
    name[0] = 0;
    if (n >= sizeof spelled) return NULL;
    for (size_t i = 0; i <= n; i++) spelled[i] = key[i] == '-' ? '_' : key[i];
    if (!strcmp(spelled, "trainer")) snprintf(spelled, sizeof spelled, "trainer_class");
    if (!strcmp(spelled, "layers")) snprintf(spelled, sizeof spelled, "num_layers");
    f = saei_field_find(spelled, strlen(spelled));
    for (size_t i = 0; i < SAEI_NUM_FIELDS && !f; i++) {
        size_t distance = sae_edit_distance(spelled, saei_fields[i].key);
        if (distance >= best || distance * 2 > n) continue;
        best = distance;
        snprintf(name, 64, "%s", saei_fields[i].key);
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
