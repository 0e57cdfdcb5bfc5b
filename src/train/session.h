#pragma once
#include "../dict/rows.h"
#include "step.h"

/* ==== >>session =============================================================================== */

struct sae_session {
    sae_context *ctx;
    const sae_backend *ops;
    sae_work w;
    saei_blocks blocks;
    bool jump; /* of what was selected, f = p > theta ? p : 0 */
    sae_select select;
    sae_dictionary dict; /* its parameters are on the device */
    sae_code code;
    float *params, *x, *xc, *x_hat, *theta, *warm;
    uint32_t *bad, *count; /* count: host [batch] */
    float *rows;           /* host [batch][ld] */
};

SAE_API void sae_session_destroy(sae_session *s) {
    if (!s) return;
    saei_blocks_close(&s->w, &s->blocks);
    saei_free(s->ctx, s->count);
    saei_free(s->ctx, s->rows);
    saei_free(s->ctx, s);
}

/* count * size bytes of the context's allocator; in a plan they are only counted. */
static bool saei_session_host(sae_session *s, size_t count, size_t size, void **out) {
    size_t bytes;
    if (!saei_mul(count, size, &bytes) || !saei_blocks_host(&s->blocks, bytes)) return false;
    if (!s->blocks.plan) *out = saei_alloc(s->ctx, bytes, 1);
    return s->blocks.plan || *out;
}

static bool saei_session_take(sae_session *s) {
    sae_work *w = &s->w;
    saei_blocks *b = &s->blocks;
    size_t batch = w->shape.batch, ld = w->shape.ld, m = saei_align16(w->shape.dict_size);
    size_t rows, entries, scratch = s->ops->scratch_bytes(w, &w->shape);
    bool gated = s->select == SAE_SELECT_GATE;
    void *count = NULL, *host = NULL;
    bool ok;
    s->code.stride = s->select == SAE_SELECT_TOP_K ? s->dict.desc.k : s->dict.desc.dict_size;
    if (scratch == SIZE_MAX || !saei_mul(batch, ld, &rows)
        || !saei_mul(batch, s->code.stride, &entries)
        || !saei_add(entries, SAEI_LIST_PADDING, &entries))
        return false;
    w->scratch = saei_blocks_take(w, b, scratch, 1);
    s->params = saei_floats(w, b, s->dict.num_params);
    s->x = saei_floats(w, b, rows);
    s->xc = saei_floats(w, b, rows);
    s->x_hat = saei_floats(w, b, rows);
    s->theta = saei_floats(w, b, m);
    s->warm = saei_floats(w, b, 1);
    s->bad = (uint32_t *)saei_blocks_take(w, b, 1, sizeof(uint32_t));
    s->code.count = (uint32_t *)saei_blocks_take(w, b, batch, sizeof(uint32_t));
    s->code.latent = (uint32_t *)saei_blocks_take(w, b, entries, sizeof(uint32_t));
    s->code.pre = s->code.value = saei_floats(w, b, entries);
    if (s->jump || gated) s->code.value = saei_floats(w, b, entries);
    if (gated) s->code.gate = saei_floats(w, b, entries);
    ok = saei_session_host(s, batch, sizeof(uint32_t), &count)
         && saei_session_host(s, rows, sizeof(float), &host);
    s->count = (uint32_t *)count;
    s->rows = (float *)host;
    return ok && w->scratch && s->params && s->x && s->xc && s->x_hat && s->theta && s->warm
           && s->bad && s->code.count && s->code.latent && s->code.pre && s->code.value
           && (!gated || s->code.gate);
}

/* Which operation chooses the latents as the dictionary does. */
static void saei_session_choose(sae_session *s, const sae_dictionary *dict, float *theta) {
    s->select = SAE_SELECT_POSITIVE;
    if (dict->desc.arch == SAE_ARCH_GATED) s->select = SAE_SELECT_GATE;
    if (dict->rule == SAE_RULE_TOP_K)
        s->select = dict->desc.arch == SAE_ARCH_TOP_K ? SAE_SELECT_TOP_K : SAE_SELECT_BATCH_TOP_K;
    s->jump = dict->desc.arch == SAE_ARCH_JUMP_RELU
              || (dict->rule == SAE_RULE_THRESHOLD && !(dict->threshold <= 0));
    if (!s->jump) return;
    s->select = SAE_SELECT_WINDOW; /* so narrow a window that only p = theta is added */
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        theta[i] = dict->aux0 && dict->desc.arch == SAE_ARCH_JUMP_RELU ? dict->aux0[i]
                                                                       : dict->threshold;
        if (theta[i] < 0) theta[i] = 0; /* f > 0 whatever theta */
    }
}

/* A session with its memory, or the plan of one, which can only be destroyed. theta: room for
   [m], see saei_session_choose. */
static sae_result saei_session_make(const sae_dictionary *dict, const char *who, size_t batch_size,
                                    bool plan, float *theta, sae_session **out) {
    sae_context *ctx = dict->ctx;
    sae_session *s = (sae_session *)saei_calloc(ctx, 1, sizeof *s);
    sae_result result;
    if (!s) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for a session", who);
    s->ctx = ctx;
    s->ops = saei_backend_of(ctx);
    s->dict = *dict;
    s->w.ctx = ctx;
    s->w.shape.batch = batch_size;
    s->w.shape.d = dict->desc.activation_dim;
    s->w.shape.ld = dict->ld;
    s->w.shape.dict_size = dict->desc.dict_size;
    saei_session_choose(s, dict, theta);
    s->w.shape.k = s->select == SAE_SELECT_TOP_K ? dict->desc.k : 0;
    s->blocks.plan = plan;
    result = saei_blocks_open(&s->w, who, &s->blocks);
    if (result == SAE_OK
        && (!saei_blocks_host(&s->blocks, sizeof *s) || !saei_session_take(s)))
        result = saei_blocks_fail(&s->w, who, "for");
    if (result == SAE_OK) *out = s;
    else sae_session_destroy(s);
    return result;
}

static sae_result saei_session_open(const sae_dictionary *dict, const char *who, size_t batch_size,
                                    bool plan, const void *given, sae_session **out) {
    sae_context *ctx = dict->ctx;
    sae_session *s = NULL;
    float *theta;
    sae_result result;
    if (!given || !batch_size || batch_size > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: batch_size is %zu (or out is NULL), allowed "
                         "are 1 to %d", who, batch_size, INT32_MAX);
    if (dict->desc.arch == SAE_ARCH_IDENTITY || !saei_is_plain(&dict->desc)
        || saei_active_latents(dict) != dict->desc.dict_size)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: dict is %s%s, allowed are the other "
                         "classes without variations, all groups active", who,
                         sae_arch_name(dict->desc.arch),
                         dict->desc.arch == SAE_ARCH_IDENTITY
                             ? "" : " with variations or inactive groups");
    theta = (float *)saei_calloc(ctx, saei_align16(dict->desc.dict_size), sizeof(float));
    if (!theta) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for thresholds", who);
    result = saei_session_make(dict, who, batch_size, plan, theta, &s);
    if (result == SAE_OK && !plan) {
        s->ops->upload(&s->w, s->params, dict->params, dict->num_params * sizeof(float));
        s->ops->upload(&s->w, s->theta, theta, dict->desc.dict_size * sizeof(float));
        saei_dictionary_place(&s->dict, s->params);
        result = s->ops->status(&s->w);
        if (result != SAE_OK) sae_session_destroy(s);
    }
    saei_free(ctx, theta);
    if (result == SAE_OK) *out = s;
    return result;
}

SAE_API sae_result sae_session_create(const sae_dictionary *dict, size_t batch_size,
                                      sae_session **out) {
    if (!dict) return SAE_ERR_INVALID;
    return saei_session_open(dict, "sae_session_create", batch_size, false, out, out);
}

SAE_API sae_result sae_session_memory(const sae_dictionary *dict, size_t batch_size,
                                      sae_memory *out) {
    sae_session *s = NULL;
    if (!dict) return SAE_ERR_INVALID;
    SAEI_TRY(saei_session_open(dict, "sae_session_memory", batch_size, true, out, &s));
    *out = s->blocks.memory;
    sae_session_destroy(s);
    return SAE_OK;
}

/* x to the device, and its code there. */
static sae_result saei_session_run(sae_session *s, const char *who, const sae_rows *x, size_t n) {
    sae_encode_args a;
    const sae_dictionary *dict = &s->dict;
    bool centred = saei_subtracts(&dict->desc);
    uint32_t bad = 0;
    if (n > s->w.shape.batch)
        return saei_fail(s->ctx, SAE_ERR_INVALID,
                         "%s: n is %zu rows, allowed are 0 to batch_size, %zu", who, n,
                         s->w.shape.batch);
    SAEI_TRY(saei_rows_check(s->ctx, who, x, "x", s->w.shape.d));
    s->ops->zero(&s->w, s->bad, sizeof bad);
    s->ops->load_rows(&s->w, x, n, 1, s->x, s->bad);
    if (centred) s->ops->subtract(&s->w, s->x, dict->b_dec, n, s->xc);
    a = saei_encode_args_of(dict, s->select, centred ? s->xc : s->x, n);
    a.theta = s->jump ? s->theta : NULL;
    a.bandwidth = 1e-30f;
    a.warm = s->warm;
    s->ops->encode(&s->w, &a, &s->code);
    if (s->jump) s->ops->jump(&s->w, s->theta, &s->code);
    if (s->select == SAE_SELECT_GATE)
        s->ops->gate(&s->w, dict->b_enc, dict->aux0, dict->aux1, &s->code);
    s->ops->download(&s->w, &bad, s->bad, sizeof bad);
    SAEI_TRY(s->ops->status(&s->w));
    if (bad)
        return saei_fail(s->ctx, SAE_ERR_NOT_FINITE,
                         "%s: x holds NaN or infinity, all values must be finite", who);
    return SAE_OK;
}

SAE_API sae_result sae_session_encode(sae_session *s, const sae_rows *x, size_t n,
                                      sae_sparse *out) {
    const char *missing = x ? saei_sparse_missing(out) : "x";
    size_t at = 0, kept = 0, total = 0;
    if (!s) return SAE_ERR_INVALID;
    if (n && missing)
        return saei_fail(s->ctx, SAE_ERR_INVALID, "sae_session_encode: %s is NULL", missing);
    if (out && out->row_begin) out->row_begin[0] = 0;
    if (!n) return SAE_OK;
    SAEI_TRY(saei_session_run(s, "sae_session_encode", x, n));
    s->ops->download(&s->w, s->count, s->code.count, n * sizeof *s->count);
    SAEI_TRY(s->ops->status(&s->w));
    for (size_t r = 0; r < n; r++) total += s->count[r];
    if (total > out->capacity)
        return saei_fail(s->ctx, SAE_ERR_INVALID,
                         "sae_session_encode: capacity is %zu, %zu are needed", out->capacity,
                         total);
    for (size_t r = 0; r < n; ) { /* rows that lie together come together */
        size_t first = r, count = s->count[r++];
        while (r < n && s->count[r - 1] == s->code.stride) count += s->count[r++];
        s->ops->download(&s->w, out->latent + at, s->code.latent + first * s->code.stride,
                         count * sizeof *out->latent);
        s->ops->download(&s->w, out->value + at, s->code.value + first * s->code.stride,
                         count * sizeof *out->value);
        at += count;
    }
    SAEI_TRY(s->ops->status(&s->w));
    at = 0;
    for (size_t r = 0; r < n; r++) { /* zeros are not listed */
        for (size_t j = 0; j < s->count[r]; j++, at++)
            if (out->value[at] != 0) {
                out->latent[kept] = out->latent[at];
                out->value[kept++] = out->value[at];
            }
        out->row_begin[r + 1] = kept;
    }
    return SAE_OK;
}

SAE_API sae_result sae_session_forward(sae_session *s, const sae_rows *x, size_t n, float *x_hat) {
    size_t d, ld;
    if (!s) return SAE_ERR_INVALID;
    if (!n) return SAE_OK;
    if (!x || !x_hat)
        return saei_fail(s->ctx, SAE_ERR_INVALID, "sae_session_forward: %s is NULL",
                         x ? "x_hat" : "x");
    SAEI_TRY(saei_session_run(s, "sae_session_forward", x, n));
    d = s->w.shape.d;
    ld = s->w.shape.ld;
    s->ops->decode(&s->w, &s->code, s->code.value, s->dict.W_dec, 0, s->w.shape.dict_size,
                   s->dict.b_dec, 0, s->x_hat);
    s->ops->download(&s->w, d == ld ? x_hat : s->rows, s->x_hat, n * ld * sizeof *x_hat);
    for (size_t r = 0; d != ld && r < n; r++)
        memcpy(x_hat + r * d, s->rows + r * ld, d * sizeof *x_hat);
    return s->ops->status(&s->w);
}
