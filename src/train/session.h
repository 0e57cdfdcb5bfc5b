#pragma once
#include "../dict/infer.h"
#include "step.h"

/* ==== >>session =============================================================================== */

struct sae_session {
    sae_context *ctx;
    const sae_backend *ops;
    sae_work w;
    bool open, jump; /* jump: of what was selected, f = p > theta ? p : 0 */
    sae_select select;
    sae_dictionary dict; /* its parameters are on the device */
    sae_code code;
    float *params, *x, *xc, *x_hat, *theta, *warm;
    uint32_t *bad, *count; /* count: host [batch] */
    float *rows;           /* host [batch][ld] */
    void *blocks[16];
    size_t num_blocks;
};

static void *saei_session_device(sae_session *s, size_t count, size_t size) {
    size_t bytes;
    void *p = NULL;
    if (saei_mul(count, size, &bytes)) p = s->ops->alloc(&s->w, bytes);
    if (p) s->blocks[s->num_blocks++] = p;
    return p;
}

SAE_API void sae_session_destroy(sae_session *s) {
    if (!s) return;
    while (s->num_blocks) s->ops->free(&s->w, s->blocks[--s->num_blocks]);
    if (s->open) s->ops->close(s->ctx, s->w.state);
    saei_free(s->ctx, s->count);
    saei_free(s->ctx, s->rows);
    saei_free(s->ctx, s);
}

static bool saei_session_memory(sae_session *s) {
    size_t batch = s->w.shape.batch, ld = s->w.shape.ld, m = saei_align16(s->w.shape.dict_size);
    size_t rows, entries, scratch = s->ops->scratch_bytes(&s->w, &s->w.shape);
    bool gated = s->select == SAE_SELECT_GATE;
    s->code.stride = s->select == SAE_SELECT_TOP_K ? s->dict.desc.k : s->dict.desc.dict_size;
    if (scratch == SIZE_MAX || !saei_mul(batch, ld, &rows)
        || !saei_mul(batch, s->code.stride, &entries)
        || !saei_add(entries, SAEI_KEEP_SLACK, &entries))
        return false;
    s->w.scratch = saei_session_device(s, scratch, 1);
    s->params = (float *)saei_session_device(s, s->dict.num_params, sizeof(float));
    s->x = (float *)saei_session_device(s, rows, sizeof(float));
    s->xc = (float *)saei_session_device(s, rows, sizeof(float));
    s->x_hat = (float *)saei_session_device(s, rows, sizeof(float));
    s->theta = (float *)saei_session_device(s, m, sizeof(float));
    s->warm = (float *)saei_session_device(s, 1, sizeof(float));
    s->bad = (uint32_t *)saei_session_device(s, 1, sizeof(uint32_t));
    s->code.count = (uint32_t *)saei_session_device(s, batch, sizeof(uint32_t));
    s->code.latent = (uint32_t *)saei_session_device(s, entries, sizeof(uint32_t));
    s->code.pre = s->code.value = (float *)saei_session_device(s, entries, sizeof(float));
    if (s->jump || gated) s->code.value = (float *)saei_session_device(s, entries, sizeof(float));
    if (gated) s->code.gate = (float *)saei_session_device(s, entries, sizeof(float));
    s->count = (uint32_t *)saei_alloc(s->ctx, batch, sizeof(uint32_t));
    s->rows = (float *)saei_alloc(s->ctx, rows, sizeof(float));
    return s->w.scratch && s->params && s->x && s->xc && s->x_hat && s->theta && s->warm && s->bad
           && s->code.count && s->code.latent && s->code.pre && s->code.value
           && (!gated || s->code.gate) && s->count && s->rows;
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

SAE_API sae_result sae_session_create(const sae_dictionary *dict, size_t batch_size,
                                      sae_session **out) {
    sae_context *ctx;
    sae_session *s;
    float *theta;
    sae_result result;
    if (!dict) return SAE_ERR_INVALID;
    ctx = dict->ctx;
    if (!out || !batch_size || batch_size > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_session_create: batch_size is %zu (or out is "
                         "NULL), allowed are 1 to %d", batch_size, INT32_MAX);
    if (dict->desc.arch == SAE_ARCH_IDENTITY || !saei_is_plain(&dict->desc)
        || saei_active_latents(dict) != dict->desc.dict_size)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED,
                         "sae_session_create: dict is %s%s, allowed are the "
                         "other classes without variations, all groups active",
                         sae_arch_name(dict->desc.arch),
                         dict->desc.arch == SAE_ARCH_IDENTITY ? ""
                                                              : " with variations or inactive "
                                                                "groups");
    SAEI_TRY(saei_backend_check(ctx, "sae_session_create", saei_backend_of(ctx)));
    s = (sae_session *)saei_calloc(ctx, 1, sizeof *s);
    theta = (float *)saei_calloc(ctx, saei_align16(dict->desc.dict_size), sizeof(float));
    if (!s || !theta) {
        saei_free(ctx, s);
        saei_free(ctx, theta);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_session_create: no memory for a session");
    }
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
    result = s->ops->open(ctx, &s->w.state);
    s->open = result == SAE_OK;
    if (s->open && !saei_session_memory(s)) {
        result = s->ops->status(&s->w); /* a backend may know more */
        if (result == SAE_OK)
            result = saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_session_create: no memory for %zu "
                               "latents of %zu dimensions and batches of %zu rows",
                               dict->desc.dict_size, dict->desc.activation_dim, batch_size);
    }
    if (result == SAE_OK) {
        s->ops->upload(&s->w, s->params, dict->params, dict->num_params * sizeof(float));
        s->ops->upload(&s->w, s->theta, theta, dict->desc.dict_size * sizeof(float));
        saei_dictionary_place(&s->dict, s->params);
        result = s->ops->status(&s->w);
    }
    saei_free(ctx, theta);
    if (result == SAE_OK) *out = s;
    else sae_session_destroy(s);
    return result;
}

/* x to the device, and its code there. */
static sae_result saei_session_run(sae_session *s, const char *who, const sae_rows *x, size_t n) {
    sae_encode_args a;
    const sae_dictionary *dict = &s->dict;
    bool centred = saei_subtracts(&dict->desc);
    uint32_t bad = 0;
    if (!n || n > s->w.shape.batch)
        return saei_fail(s->ctx, SAE_ERR_INVALID,
                         "%s: n is %zu rows, allowed are 1 to batch_size, %zu", who, n,
                         s->w.shape.batch);
    SAEI_TRY(saei_rows_check(s->ctx, who, x, "x", s->w.shape.d));
    s->ops->zero(&s->w, s->bad, sizeof bad);
    s->ops->load_rows(&s->w, x, n, 1, s->x, s->bad);
    if (centred) s->ops->subtract(&s->w, s->x, dict->b_dec, n, s->xc);
    memset(&a, 0, sizeof a);
    a.x = centred ? s->xc : s->x;
    a.W = dict->W_enc;
    a.bias = dict->b_enc;
    a.n = n;
    a.d = s->w.shape.d;
    a.ld = s->w.shape.ld;
    a.m = s->w.shape.dict_size;
    a.select = s->select;
    a.k = dict->desc.k;
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
    size_t at = 0, kept = 0, total = 0;
    if (!s) return SAE_ERR_INVALID;
    if (!x || !out || !out->row_begin || (out->capacity && (!out->latent || !out->value)))
        return saei_fail(s->ctx, SAE_ERR_INVALID, "sae_session_encode: an array is NULL");
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
    out->row_begin[0] = 0;
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
