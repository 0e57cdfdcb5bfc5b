#pragma once
#include "api_source.h"
#include "forward.h"

/* ==== >>lm: source ============================================================================ */

struct sae_lm_source {
    sae_context *ctx;
    sae_lm_source_desc desc; /* its target, if there is one, is the one below */
    sae_lm_site target;
    size_t dim;
    int32_t *tokens;     /* [batch,ctx] of read */
    float *rows[2];      /* [batch ctx,dim]: x, target; what is left out is squeezed out */
    uint64_t *place;     /* [batch ctx] */
    size_t count, given; /* rows there are, and those already given away */
    size_t served;       /* of the last read: its first row */
    uint64_t seen;       /* contexts since the last rewind */
    const int32_t *batch;
    size_t contexts;     /* of the batch */
};

/* A hook: keeps the rows that count. */
static sae_result lmi_source_keep(sae_lm_source *s, float *x, size_t rows, size_t which) {
    size_t kept = 0;
    for (size_t r = 0; r < rows; r++) {
        int32_t token = s->batch[r];
        if (token < 0 || (s->desc.remove_bos && token == s->desc.bos_token)) continue;
        memcpy(s->rows[which] + kept * s->dim, x + r * s->dim, s->dim * sizeof *x);
        s->place[kept++] = s->seen * s->desc.ctx + r;
    }
    s->count = kept;
    return SAE_OK;
}
static sae_result lmi_source_x(void *user, float *x, size_t rows, size_t dim) {
    (void)dim;
    return lmi_source_keep((sae_lm_source *)user, x, rows, 0);
}
static sae_result lmi_source_target(void *user, float *x, size_t rows, size_t dim) {
    (void)dim;
    return lmi_source_keep((sae_lm_source *)user, x, rows, 1);
}

/* The next batch of contexts through the model; 0 contexts: the end. */
static sae_result lmi_source_run(sae_lm_source *s) {
    sae_lm_hook hook[2];
    sae_lm_forward_desc run;
    s->count = s->given = 0;
    if (s->desc.read) {
        int64_t got = s->desc.read(s->desc.user, s->tokens, s->desc.batch);
        if (got < 0) return (sae_result)got;
        s->contexts = lmi_min((size_t)got, s->desc.batch);
        s->batch = s->tokens;
    } else {
        s->contexts = (size_t)lmi_min((size_t)(s->desc.contexts - s->seen), s->desc.batch);
        s->batch = s->desc.tokens + s->seen * s->desc.ctx;
    }
    if (!s->contexts) return SAE_OK;
    memset(&run, 0, sizeof run);
    memset(hook, 0, sizeof hook);
    hook[0].site = s->desc.site;
    hook[0].call = lmi_source_x;
    if (s->desc.target) hook[1].site = *s->desc.target;
    hook[1].call = lmi_source_target;
    hook[0].user = hook[1].user = s;
    run.tokens = s->batch;
    run.contexts = s->contexts;
    run.ctx = s->desc.ctx;
    run.hooks = hook;
    run.num_hooks = s->desc.target ? 2 : 1;
    LMI_TRY(sae_lm_forward(s->desc.model, &run));
    s->seen += s->contexts;
    return SAE_OK;
}

static int64_t lmi_source_read(void *user, float *x, float *target, size_t max_rows) {
    sae_lm_source *s = (sae_lm_source *)user;
    size_t n;
    while (s->given == s->count) { /* a batch may have nothing but padding */
        sae_result result = lmi_source_run(s);
        if (result != SAE_OK) return result;
        if (!s->contexts) return 0;
    }
    n = lmi_min(max_rows, s->count - s->given);
    memcpy(x, s->rows[0] + s->given * s->dim, n * s->dim * sizeof *x);
    if (target && s->desc.target)
        memcpy(target, s->rows[1] + s->given * s->dim, n * s->dim * sizeof *x);
    s->served = s->given;
    s->given += n;
    return (int64_t)n;
}

static sae_result lmi_source_rewind(void *user) {
    sae_lm_source *s = (sae_lm_source *)user;
    if (s->desc.read) {
        if (!s->desc.rewind)
            return sae_context_fail(s->ctx, SAE_ERR_UNSUPPORTED,
                                    "sae_lm_source: its read has no rewind");
        LMI_TRY(s->desc.rewind(s->desc.user));
    }
    s->seen = 0;
    s->count = s->given = s->served = 0;
    return SAE_OK;
}

SAE_API sae_result sae_lm_source_create(sae_context *ctx, const sae_lm_source_desc *desc,
                                        sae_lm_source **out) {
    sae_lm_source *s;
    size_t rows, floats, target;
    if (!ctx || !desc || !out || !desc->model || !desc->ctx || !desc->read == !desc->tokens
        || (desc->tokens && !desc->contexts))
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_source_create: contexts is %zu, ctx is %zu, "
                                "allowed are a model, sizes from 1, and one of tokens and read",
                                desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    target = desc->target ? sae_lm_site_dim(desc->model, *desc->target) : 0;
    if (desc->target && target != sae_lm_site_dim(desc->model, desc->site))
        return sae_context_fail(ctx, SAE_ERR_MISMATCH,
                                "sae_lm_source_create: site has %zu dimensions, target "
                                "%zu; both must be the same",
                                sae_lm_site_dim(desc->model, desc->site), target);
    s = (sae_lm_source *)calloc(1, sizeof *s);
    if (!s) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_source_create: no memory");
    s->ctx = ctx;
    s->desc = *desc;
    if (desc->target) s->target = *desc->target, s->desc.target = &s->target;
    s->dim = sae_lm_site_dim(desc->model, desc->site);
    if (!s->desc.batch) s->desc.batch = lmi_max(1, 2048 / desc->ctx);
    if (desc->tokens) s->desc.batch = lmi_min(s->desc.batch, desc->contexts);
    if (lmi_mul(s->desc.batch, desc->ctx, &rows) && lmi_mul(rows, s->dim, &floats)
        && floats <= SIZE_MAX / sizeof(float) && rows <= SIZE_MAX / sizeof(uint64_t)) {
        s->rows[0] = (float *)malloc(floats * sizeof(float));
        if (desc->target) s->rows[1] = (float *)malloc(floats * sizeof(float));
        s->place = (uint64_t *)malloc(rows * sizeof *s->place);
        if (desc->read) s->tokens = (int32_t *)malloc(rows * sizeof *s->tokens);
    }
    if (!s->rows[0] || (desc->target && !s->rows[1]) || !s->place || (desc->read && !s->tokens)) {
        sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "sae_lm_source_create: no memory for batches of %zu "
                         "contexts of %zu tokens",
                         s->desc.batch, desc->ctx);
        sae_lm_source_destroy(s);
        return SAE_ERR_OUT_OF_MEMORY;
    }
    *out = s;
    return SAE_OK;
}

SAE_API void sae_lm_source_destroy(sae_lm_source *s) {
    if (!s) return;
    free(s->tokens);
    free(s->rows[0]);
    free(s->rows[1]);
    free(s->place);
    free(s);
}

SAE_API sae_source_desc sae_lm_source_rows(sae_lm_source *s) {
    sae_source_desc source;
    memset(&source, 0, sizeof source);
    source.read = lmi_source_read;
    source.rewind = s->desc.read && !s->desc.rewind ? NULL : lmi_source_rewind;
    source.has_target = s->desc.target != NULL;
    source.dim = s->dim;
    source.user = s;
    return source;
}

SAE_API uint64_t sae_lm_source_place(const sae_lm_source *s, size_t row) {
    return s->place[s->served + row];
}
