#pragma once
#include "forward.h"

/* ==== >>lm: generation ======================================================================== */

SAE_API sae_result sae_lm_cache_create(sae_lm *lm, size_t capacity, sae_lm_cache **out) {
    sae_lm_cache *c;
    const sae_lm_config *info;
    size_t store, floats;
    if (!lm) return SAE_ERR_INVALID;
    info = &lm->shape.info;
    if (!capacity || capacity > INT32_MAX || !out)
        return sae_context_fail(lm->ctx, SAE_ERR_INVALID,
                                "sae_lm_cache_create: capacity is %zu, out may not be NULL, "
                                "allowed are 1 to 2^31 - 1 tokens", capacity);
    c = (sae_lm_cache *)calloc(1, sizeof *c);
    store = lmi_store_floats(capacity, info->head_dim);
    if (c && store && lmi_mul(store, info->layers * info->kv_heads, &floats)
        && floats <= SIZE_MAX / sizeof(float))
        c->data = (float *)calloc(floats, sizeof(float));
    if (!c || !c->data) {
        free(c);
        return sae_context_fail(lm->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_lm_cache_create: no memory for %zu tokens", capacity);
    }
    c->m = lm;
    c->capacity = capacity;
    *out = c;
    return SAE_OK;
}

SAE_API void sae_lm_cache_destroy(sae_lm_cache *cache) {
    if (cache) free(cache->data);
    free(cache);
}

SAE_API size_t sae_lm_cache_count(const sae_lm_cache *cache) { return cache->count; }

SAE_API void sae_lm_cache_truncate(sae_lm_cache *cache, size_t count) {
    cache->count = lmi_min(cache->count, count);
}

/* ---- the next token ---- */

/* Number i of a seed, in [0, 1): splitmix64's hash of the counter. */
static double lmi_random(uint64_t seed, uint64_t i) {
    uint64_t x = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    return (double)(x >> 11) * (1.0 / 9007199254740992.0);
}

/* The pass of the newest tokens leaves the last row's logits here. */
typedef struct lmi_choice {
    const sae_lm_generate_desc *desc;
    float *logits;     /* a copy [vocab]; NULL where greedy */
    uint32_t *heap;    /* [vocab] */
    size_t size;
    uint64_t drawn;
    int32_t next;
} lmi_choice;

/* Whether id a comes before b: the larger logit, of equal ones the lower id. */
static bool lmi_before(const float *logits, uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void lmi_sift(const float *logits, uint32_t *heap, size_t n, size_t at) {
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        uint32_t swap = heap[at];
        if (child + 1 < n && lmi_before(logits, heap[child + 1], heap[child])) child++;
        if (!lmi_before(logits, heap[child], swap)) return;
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

/* exp((x - most) / temperature) */
static double lmi_odds(const lmi_choice *c, double x, double most) {
    x = (x - most) / c->desc->temperature;
    return x > -700 ? lmi_exp(x) : 0;
}

/* Draws from softmax(logits / temperature), the likeliest first, among those that together reach
   top_p. */
static void lmi_draw(lmi_choice *c) {
    double top = c->desc->top_p > 0 ? c->desc->top_p : 1, all = 0, kept = 0, most, u;
    size_t n = c->size, left = n;
    for (size_t i = 0; i < n; i++) c->heap[i] = (uint32_t)i;
    for (size_t i = n / 2; i-- > 0;) lmi_sift(c->logits, c->heap, n, i);
    most = (double)c->logits[c->heap[0]];
    for (size_t i = 0; i < n; i++) all += lmi_odds(c, (double)c->logits[i], most);
    /* the heap gives them in order, to the back of its array */
    while (left > 0 && kept < top * all) {
        uint32_t first = c->heap[0];
        kept += lmi_odds(c, (double)c->logits[first], most);
        c->heap[0] = c->heap[--left];
        c->heap[left] = first;
        lmi_sift(c->logits, c->heap, left, 0);
    }
    u = lmi_random(c->desc->seed, c->drawn++) * kept;
    for (size_t i = n; i-- > left;) {
        c->next = (int32_t)c->heap[i];
        u -= lmi_odds(c, (double)c->logits[c->heap[i]], most);
        if (u < 0) return;
    }
}

static sae_result lmi_choose(void *user, const float *logits, size_t first, size_t count) {
    lmi_choice *c = (lmi_choice *)user;
    (void)first;
    (void)count;
    if (c->logits) {
        memcpy(c->logits, logits, c->size * sizeof *logits);
        lmi_draw(c);
        return SAE_OK;
    }
    c->next = 0;
    for (size_t i = 1; i < c->size; i++)
        if (logits[i] > logits[c->next]) c->next = (int32_t)i;
    return SAE_OK;
}

/* ---- the loop ---- */

enum { LMI_PROMPT_ROWS = 512 }; /* of a prompt that run at once */

static sae_result lmi_generate_check(const sae_lm *m, const sae_lm_generate_desc *d,
                                     const sae_tokens *out) {
    if (!d || !out || !d->prompt || !d->num_prompt || (d->num_stop && !d->stop))
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: num_prompt is %zu, prompt and out may not be "
                                "NULL, allowed is from 1", d ? d->num_prompt : 0);
    if (!(d->temperature >= 0) || d->temperature > 1e6 || !(d->top_p >= 0) || d->top_p > 1)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: temperature is %g, top_p %g, allowed are from 0 "
                                "to 1e6 and from 0 to 1", d->temperature, d->top_p);
    if (d->num_prompt > INT32_MAX || d->count > INT32_MAX)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: num_prompt is %zu, count %zu, allowed are below "
                                "2^31", d->num_prompt, d->count);
    if (m->shape.info.fixed_ctx && d->count && d->num_prompt + d->count - 1 > m->shape.info.max_ctx)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: num_prompt is %zu, count %zu, and the model's "
                                "positions are learned: allowed are %zu tokens and one more",
                                d->num_prompt, d->count, m->shape.info.max_ctx);
    return SAE_OK;
}

static sae_result lmi_generate_add(const sae_lm *m, sae_tokens *out, int32_t id) {
    if (!lmi_grow((void **)&out->id, &out->capacity, out->count + 1, sizeof *out->id))
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_generate: no memory");
    out->id[out->count++] = id;
    return SAE_OK;
}

static sae_result lmi_generate(sae_lm *m, lmi_choice *c, sae_lm_cache *cache, sae_tokens *out) {
    const sae_lm_generate_desc *d = c->desc;
    sae_lm_forward_desc run;
    size_t last;
    memset(&run, 0, sizeof run);
    run.contexts = 1;
    run.cache = cache;
    run.hooks = d->hooks;
    run.num_hooks = d->num_hooks;
    run.user = c;
    for (size_t at = 0; at < d->num_prompt; at += run.ctx) {
        run.tokens = d->prompt + at;
        run.ctx = lmi_min(LMI_PROMPT_ROWS, d->num_prompt - at);
        last = run.ctx - 1;
        run.rows = &last;
        run.num_rows = 1;
        run.logits = at + run.ctx == d->num_prompt ? lmi_choose : NULL;
        LMI_TRY(sae_lm_forward(m, &run));
    }
    for (size_t i = 0;;) {
        int32_t id = c->next;
        LMI_TRY(lmi_generate_add(m, out, id));
        if (d->token) LMI_TRY(d->token(d->user, id));
        for (size_t j = 0; j < d->num_stop; j++)
            if (d->stop[j] == id) return SAE_OK;
        if (++i == d->count) return SAE_OK;
        run.tokens = &id;
        run.ctx = 1;
        last = 0;
        LMI_TRY(sae_lm_forward(m, &run));
    }
}

SAE_API sae_result sae_lm_generate(sae_lm *lm, const sae_lm_generate_desc *desc, sae_tokens *out) {
    lmi_choice c;
    sae_lm_cache *cache = NULL;
    sae_result result;
    if (!lm) return SAE_ERR_INVALID;
    LMI_TRY(lmi_generate_check(lm, desc, out));
    if (!desc->count) return SAE_OK;
    memset(&c, 0, sizeof c);
    c.desc = desc;
    c.size = lm->shape.info.vocab_size;
    if (desc->temperature > 0) {
        c.logits = (float *)malloc(c.size * sizeof *c.logits);
        c.heap = (uint32_t *)malloc(c.size * sizeof *c.heap);
    }
    if (desc->temperature > 0 && (!c.logits || !c.heap))
        result = sae_context_fail(lm->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_generate: no memory");
    else result = sae_lm_cache_create(lm, desc->num_prompt + desc->count - 1, &cache);
    if (result == SAE_OK) result = lmi_generate(lm, &c, cache, out);
    sae_lm_cache_destroy(cache);
    free(c.logits);
    free(c.heap);
    return result;
}
