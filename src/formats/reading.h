#pragma once
#include "draft.h"

/* ==== >>files: what readers of other programs ask ============================================= */

/* The value of a key at the first level of load->yaml, a plain or quoted text, into out; false if
   it has none that fits. */
static bool saei_yaml_text(const saei_load *load, const char *key, char *out, size_t size) {
    const char *at = (const char *)load->yaml.data, *end = at + load->yaml.size;
    const size_t n = strlen(key);
    for (const char *next; at < end; at = next) {
        const char *stop = (const char *)memchr(at, '\n', (size_t)(end - at)), *from = at + n + 1;
        const char *mark;
        next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if ((size_t)(stop - at) <= n || memcmp(at, key, n) != 0 || at[n] != ':') continue;
        while (from < stop && (*from == ' ' || *from == '\t')) from++;
        if (from < stop && (*from == '"' || *from == '\'')) {
            mark = (const char *)memchr(from + 1, *from, (size_t)(stop - from - 1));
            if (!mark) return false;
            stop = mark;
            from++;
        } else {
            for (mark = from; mark < stop && (*mark != '#' || mark == from || mark[-1] != ' ');)
                mark++;
            for (stop = mark; stop > from && strchr(" \t\r", stop[-1]); stop--) {}
        }
        if (from == stop || (size_t)(stop - from) >= size || memchr(from, 0, (size_t)(stop - from)))
            return false;
        memcpy(out, from, (size_t)(stop - from));
        out[stop - from] = 0;
        return true;
    }
    return false;
}

/* The same, and it must be there and not 0. */
static sae_result saei_config_required(const saei_load *load, const char *key, size_t *out) {
    const sae_json *v = saei_config_value(load->config, key);
    *out = 0;
    SAEI_TRY(saei_config_size(load, key, out));
    if (*out) return SAE_OK;
    if (v) return saei_config_refused(load, key, v, "a whole number from 1");
    return saei_load_fail(load, SAE_ERR_FORMAT, "%s has no %s", load->config_name, key);
}

static void saei_origin_hook_out(sae_origin *o, const char *hook) {
    if (hook && strcmp(hook, o->hook) != 0)
        saei_origin_text(o->hook_out, sizeof o->hook_out, hook);
}

/* A hook of o->layer that is named inside its block, as TransformerLens spells it: "resid_post"
   becomes "blocks.3.hook_resid_post" with between "hook_". */
static void saei_origin_place(sae_origin *o, const char *name, const char *between) {
    if (!name || o->layer < 0 || strlen(name) > 48) saei_origin_text(o->hook, sizeof o->hook, name);
    else
        snprintf(o->hook, sizeof o->hook, "blocks.%lld.%s%s", (long long)o->layer, between, name);
}

/* The number of the layer in "blocks.3.hook_mlp_out", "layers.10.mlp", "layer_3"; -1: none. */
static int64_t saei_layer_of(const char *place) {
    static const char *const before[] = { "blocks.", "layers.", "layer_", "h." };
    for (size_t i = 0; place && i < sizeof before / sizeof before[0]; i++) {
        const char *at = strstr(place, before[i]);
        int64_t layer = 0;
        size_t digits = 0;
        if (!at) continue;
        at += strlen(before[i]);
        for (; at[digits] >= '0' && at[digits] <= '9' && digits < 9; digits++)
            layer = layer * 10 + (at[digits] - '0');
        if (digits) return layer;
    }
    return -1;
}

/* All numbers of a vector are 0. */
static bool saei_is_zero(const sae_tensor *t) {
    const int64_t size = (int64_t)sae_dtype_size(t->dtype);
    float v = 0;
    for (uint64_t i = 0; i < t->shape[0] && v == 0; i++)
        saei_convert_row(t->dtype, (const unsigned char *)t->data
                         + (int64_t)i * t->stride[0] * size, size, 1, &v);
    return v == 0;
}
