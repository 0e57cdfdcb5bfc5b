#pragma once
#include "set.h"

/* ==== >>trainer: reading config.json ========================================================== */

struct sae_config {
    sae_context *ctx;
    sae_json *root; /* the descs' texts lie here */
    sae_trainer_desc *descs;
    size_t count;
};

/* A text that says none is one, where the field is a text. */
static saei_value saei_json_as_value(const sae_json *v, const saei_field *f) {
    saei_value out;
    out.list = NULL;
    out.none = v->type == SAE_JSON_NULL
               || (v->type == SAE_JSON_STRING && f->type != SAEI_FIELD_TEXT
                   && saei_is_none(v->string));
    switch (v->type) {
    case SAE_JSON_NONE:
    case SAE_JSON_NULL: out.text = "null"; return out;
    case SAE_JSON_BOOL: out.text = v->number != 0 ? "true" : "false"; return out;
    case SAE_JSON_NUMBER:
    case SAE_JSON_STRING: out.text = v->string; return out;
    case SAE_JSON_ARRAY: out.text = "a list"; break;
    case SAE_JSON_OBJECT: out.text = "an object"; break;
    }
    out.list = v;
    return out;
}

/* Whether activation_dim in the file is that of one layer, of several. */
static bool saei_config_layers(const sae_trainer_desc *desc) {
    const saei_scheme *scheme = saei_scheme_of(desc->kind);
    return scheme && (scheme->traits & SAEI_LAYERS) && desc->num_layers > 1;
}

/* One trainer object. Its kind comes first: what sparsity_penalty means depends on it. */
static sae_result saei_config_trainer(const saei_setter *s, const sae_json *object,
                                      sae_trainer_desc *desc) {
    const sae_json *kind = sae_json_get(object, "trainer_class");
    char nearest[64], quoted[SAEI_QUOTE];
    size_t known = 0;
    if (!kind) kind = sae_json_get(object, "trainer");
    if (kind)
        SAEI_TRY(saei_field_set(s, desc, saei_fields, saei_json_as_value(kind, saei_fields)));
    for (const sae_json *c = sae_json_first(object); c; c = sae_json_next(c)) {
        const saei_field *f = saei_field_of_key(c->key, nearest);
        if (!f) {
            saei_log(s->ctx, SAE_LOG_WARNING, "%s: %s: %s is not known and skipped%s%s", s->who,
                     s->path, saei_quote(c->key, quoted), *nearest ? "; near is " : "", nearest);
            continue;
        }
        known++;
        if (f->type == SAEI_FIELD_KIND) continue;
        if (f->type == SAEI_FIELD_GROUP_SIZES && saei_config_value(object, "group_fractions"))
            continue;
        if (saei_field_offset(f, desc->kind) != f->offset
            && saei_config_value(object, "initial_sparsity_penalty"))
            continue;
        SAEI_TRY(saei_field_set(s, desc, f, saei_json_as_value(c, f)));
    }
    if (saei_config_layers(desc)
        && !saei_mul(desc->activation_dim, desc->num_layers, &desc->activation_dim))
        return saei_fail(s->ctx, SAE_ERR_INVALID, "%s: %s: activation_dim and num_layers are too "
                         "large", s->who, s->path);
    return known ? SAE_OK
                 : saei_fail(s->ctx, SAE_ERR_FORMAT, "%s: %s holds no trainer", s->who, s->path);
}

static sae_result saei_config_read(sae_config *config, const char *path) {
    const sae_json *item = config->root;
    saei_setter s;
    s.ctx = config->ctx;
    s.who = "sae_config_open";
    s.path = path;
    config->count = 1;
    if (item->type == SAE_JSON_ARRAY) {
        config->count = item->count;
        item = sae_json_first(item);
    }
    if (!config->count)
        return saei_fail(config->ctx, SAE_ERR_FORMAT, "sae_config_open: %s is an empty list", path);
    config->descs =
        (sae_trainer_desc *)saei_calloc(config->ctx, config->count, sizeof *config->descs);
    if (!config->descs)
        return saei_fail(config->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_config_open: %s: no memory",
                         path);
    for (size_t i = 0; i < config->count; i++, item = sae_json_next(item)) {
        const sae_json *object = item, *inner = sae_json_get(item, "trainer");
        if (inner && inner->type != SAE_JSON_STRING) object = inner;
        if (object->type != SAE_JSON_OBJECT) {
            return saei_fail(config->ctx, SAE_ERR_FORMAT,
                             "sae_config_open: %s: %s is not a JSON object", path,
                             inner ? "trainer" : "it");
        }
        SAEI_TRY(saei_config_trainer(&s, object, &config->descs[i]));
    }
    return SAE_OK;
}

SAE_API sae_result sae_config_open(sae_context *ctx, const char *path, sae_config **out) {
    sae_config *config;
    sae_result result;
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_config_open: ctx, path or out is NULL");
    config = (sae_config *)saei_calloc(ctx, 1, sizeof *config);
    if (!config)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_config_open: %s: no memory", path);
    config->ctx = ctx;
    result = saei_json_load(ctx, "sae_config_open", path, &config->root);
    if (result == SAE_OK) result = saei_config_read(config, path);
    if (result != SAE_OK) {
        sae_config_close(config);
        return result;
    }
    *out = config;
    return SAE_OK;
}

SAE_API void sae_config_close(sae_config *config) {
    sae_context *ctx;
    if (!config) return;
    ctx = config->ctx;
    saei_free(ctx, config->descs);
    sae_json_close(config->root);
    saei_free(ctx, config);
}

SAE_API size_t sae_config_count(const sae_config *config) { return config ? config->count : 0; }

SAE_API const sae_trainer_desc *sae_config_get(const sae_config *config, size_t index) {
    return config && index < config->count ? &config->descs[index] : NULL;
}

/* ==== >>trainer: writing config.json ========================================================== */

static void saei_write_list(saei_text *t, const sae_trainer_desc *desc, const saei_field *f) {
    const double *list =
        f->offset == SAEI_AT(group_weights) ? desc->group_weights : desc->group_fractions;
    size_t left = desc->dict_size;
    char number[32];
    saei_text_add(t, "[");
    for (size_t i = 0; i < desc->num_groups; i++) {
        saei_text_add(t, "%s\n            ", i ? "," : "");
        if (f->type == SAEI_FIELD_GROUP_SIZES) { /* as the reference cuts them */
            size_t size = i + 1 < desc->num_groups
                              ? saei_min(left, (size_t)(list[i] * (double)desc->dict_size))
                              : left;
            saei_text_add(t, "%zu", size);
            left -= size;
        } else {
            saei_number_text(list[i], number);
            saei_text_add(t, "%s", number);
        }
    }
    saei_text_add(t, "\n        ]");
}

static void saei_write_string(saei_text *t, const char *string) {
    if (string) saei_text_add_json_string(t, string);
    else saei_text_add(t, "null");
}

static bool saei_switch_is_default(const sae_trainer_desc *desc, const saei_field *f) {
    const int value = *(const int *)(const void *)((const char *)desc + f->offset);
    bool apply = f->offset == SAEI_AT(apply_b_dec_to_input);
    bool transcoder = desc->output_dim != desc->activation_dim || desc->skip_connection > 0;
    if (f->offset == SAEI_AT(finetune)) return value <= 0;
    return !value || (!transcoder && (value > 0) == (apply && saei_applies_b_dec(desc)));
}

/* The value of a field. With t NULL nothing is written; returns false for null, which readers take
   as they take a missing key. */
static bool saei_write_field(saei_text *t, const sae_trainer_desc *desc, const saei_field *f) {
    const void *at = (const char *)desc + saei_field_offset(f, desc->kind);
    const char *string = NULL;
    uint64_t whole = 0;
    char number[32];
    double x;
    switch (f->type) {
    case SAEI_FIELD_KIND:
        string = sae_trainer_class(desc->kind);
        break;
    case SAEI_FIELD_ARCH:
        string = sae_arch_name(desc->arch);
        if (desc->kind == SAE_TRAINER_CROSSCODER) string = "CrossCoder";
        if (desc->kind == SAE_TRAINER_BATCH_TOP_K_CROSSCODER) string = "BatchTopKCrossCoder";
        break;
    case SAEI_FIELD_CODE:
        if (desc->code_normalization) string = saei_code_names[desc->code_normalization - 1];
        break;
    case SAEI_FIELD_FLAG:
        if (t) saei_text_add(t, *(const bool *)at ? "true" : "false");
        return true;
    case SAEI_FIELD_NOTHING: string = "cpu"; break;
    case SAEI_FIELD_TEXT:
        string = *(const char *const *)at;
        if (!string && f->offset == SAEI_AT(lm_name))
            string = "unknown"; /* the reference's must be there */
        break;
    case SAEI_FIELD_SPARSITY:
        if (desc->sparsity_function) string = saei_sparsity_names[desc->sparsity_function - 1];
        break;
    case SAEI_FIELD_OPTIMIZER:
        if (desc->optimizer) string = saei_optimizer_names[desc->optimizer - 1];
        break;
    case SAEI_FIELD_NORM: string = desc->reconstruction_norm ? "norm" : NULL; break;
    case SAEI_FIELD_LIST:
    case SAEI_FIELD_GROUP_SIZES:
        if (t && desc->num_groups) saei_write_list(t, desc, f);
        if (t && !desc->num_groups) saei_text_add(t, "null");
        return desc->num_groups > 0;
    case SAEI_FIELD_INTEGER:
        if (t) saei_text_add(t, "%lld", (long long)*(const int64_t *)at);
        return true;
    case SAEI_FIELD_REAL:
        x = *(const double *)at;
        if (x == 0 && f->zero != SAEI_LITERAL) break; /* not set */
        saei_number_text(x < 0 ? 0 : x, number);
        if (t) saei_text_add(t, "%s", number);
        return true;
    case SAEI_FIELD_SWITCH: /* none where readers find the same without it */
        if (saei_switch_is_default(desc, f)) break;
        if (t) saei_text_add(t, "%s", *(const int *)at > 0 ? "true" : "false");
        return true;
    case SAEI_FIELD_SIZE:
    case SAEI_FIELD_STEPS:
        if (f->offset == SAEI_AT(output_dim) && desc->output_dim == desc->activation_dim
            && desc->skip_connection <= 0)
            break;
        whole = f->type == SAEI_FIELD_SIZE ? *(const size_t *)at : *(const uint64_t *)at;
        if (f->offset == SAEI_AT(activation_dim) && saei_config_layers(desc))
            whole /= desc->num_layers;
        if (whole == 0 && f->zero != SAEI_LITERAL) break; /* not set */
        if (whole == SAE_NONE && (f->flags & SAEI_CONTINUOUS)) string = "continuous";
        if (whole == SAE_NONE && f->zero != SAEI_LITERAL) {
            if (string || f->null == SAEI_OFF) break;
            whole = 0;
        }
        if (t) saei_text_add(t, "%llu", (unsigned long long)whole);
        return true;
    }
    if (t) saei_write_string(t, string);
    return string != NULL;
}

static void saei_write_pair(saei_text *t, const sae_trainer_desc *desc, const saei_field *f,
                            bool first) {
    saei_text_add(t, "%s\n        \"%s\": ", first ? "" : ",", f->key);
    saei_write_field(t, desc, f);
}

/* Writes folder/config.json: {"trainer": {...}, "buffer": {...}, "sae.h": {...}} from a desc whose
   defaults are set. buffer and own are the texts of JSON objects ("{}" for none). */
static sae_result saei_config_write(const sae_context *ctx, const char *who, const char *folder,
                                    const sae_trainer_desc *desc, const char *buffer,
                                    const char *own) {
    bool written[SAEI_NUM_FIELDS] = { false };
    const saei_scheme *scheme = saei_scheme_of(desc->kind);
    const char *at = scheme->hyperparameters, *word;
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = ctx;
    saei_text_add(&t, "{\n    \"trainer\": {");
    for (size_t n; (n = saei_next_word(&at, &word)) > 0 && *word != '+'; ) {
        const saei_field *f = saei_field_find(word, n);
        saei_write_pair(&t, desc, f, word == scheme->hyperparameters);
        written[f - saei_fields] = true;
    }
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) { /* what the reference leaves out */
        const saei_field *f = &saei_fields[i];
        if (!written[i] && saei_has_field(scheme, f) && saei_write_field(NULL, desc, f))
            saei_write_pair(&t, desc, f, false);
    }
    saei_text_add(&t, "\n    },\n    \"buffer\": %s,\n    \"sae.h\": %s\n}\n",
                  buffer ? buffer : "{}", own ? own : "{}");
    return saei_text_write(&t, who, folder, "config.json");
}

/* ==== >>trainer: settings as text ============================================================= */

static void saei_text_add_real(saei_text *t, double value) {
    char text[32];
    saei_number_text(value, text);
    saei_text_add(t, "%s", text);
}

/* What of a desc decides the result, one setting a line: a backup belongs to these. */
static void saei_trainer_settings(saei_text *t, size_t index, const sae_trainer_desc *desc) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const saei_field *f = &saei_fields[i];
        const void *at = (const char *)desc + f->offset;
        unsigned long long whole = 0;
        if (f->flags & SAEI_NO_SETTING) continue;
        switch (f->type) {
        case SAEI_FIELD_KIND: whole = desc->kind; break;
        case SAEI_FIELD_ARCH: whole = desc->arch; break;
        case SAEI_FIELD_SPARSITY: whole = desc->sparsity_function; break;
        case SAEI_FIELD_NORM: whole = desc->reconstruction_norm; break;
        case SAEI_FIELD_CODE: whole = desc->code_normalization; break;
        case SAEI_FIELD_FLAG: whole = *(const bool *)at; break;
        case SAEI_FIELD_OPTIMIZER: whole = desc->optimizer; break;
        case SAEI_FIELD_SWITCH: whole = *(const int *)at > 0; break;
        case SAEI_FIELD_SIZE: whole = *(const size_t *)at; break;
        case SAEI_FIELD_STEPS: whole = *(const uint64_t *)at; break;
        case SAEI_FIELD_REAL:
            saei_text_add(t, "trainer_%zu.%s=", index, f->name);
            saei_text_add_real(t, *(const double *)at);
            saei_text_add(t, "\n");
            continue;
        case SAEI_FIELD_LIST: /* with group_weights */
            saei_text_add(t, "trainer_%zu.num_groups=%zu\n", index, desc->num_groups);
            for (size_t g = 0; g < desc->num_groups && g < SAE_MAX_GROUPS; g++) {
                saei_text_add(t, "trainer_%zu.group_fractions[i]=", index);
                saei_text_add_real(t, desc->group_fractions[g]);
                saei_text_add(t, "\ntrainer_%zu.group_weights[i]=", index);
                saei_text_add_real(t, desc->group_weights[g]);
                saei_text_add(t, "\n");
            }
            continue;
        case SAEI_FIELD_TEXT:
            saei_text_add(t, "trainer_%zu.%s=%s\n", index, f->name,
                          *(const char *const *)at ? "given" : "none");
            continue;
        case SAEI_FIELD_GROUP_SIZES:
        case SAEI_FIELD_INTEGER:
        case SAEI_FIELD_NOTHING: continue;
        }
        saei_text_add(t, "trainer_%zu.%s=%llu\n", index, f->name, whole);
    }
}
