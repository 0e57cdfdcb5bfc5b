#pragma once
#include "../backend/cpu_table.h"
#include "../backend/ops.h"

/* ==== >>trainer: memory on the backend ======================================================== */

/* What a trainer or a session holds of its backend: the state that open made, and blocks of its
   memory. With plan set nothing is taken, only counted. */
typedef struct saei_blocks {
    bool open, plan;
    size_t count;
    void *at[64];
    sae_memory memory; /* counted */
} saei_blocks;

/* Counts bytes of the context's allocator. */
static bool saei_blocks_host(saei_blocks *b, size_t bytes) {
    return saei_add(bytes, SAEI_ALLOC_EXTRA, &bytes)
           && saei_add(b->memory.host, bytes, &b->memory.host);
}

/* count * size bytes, zeros. NULL: there are none. A plan's are not to be touched. */
static void *saei_blocks_take(sae_work *w, saei_blocks *b, size_t count, size_t size) {
    const sae_backend *ops = saei_backend_of(w->ctx);
    size_t bytes, *device = &b->memory.device;
    void *p;
    if (b->count == sizeof b->at / sizeof *b->at || !saei_mul(count, size, &bytes)) return NULL;
    if (!(ops->host_memory ? saei_blocks_host(b, bytes) : saei_add(*device, bytes, device)))
        return NULL;
    if (b->plan) return b;
    p = ops->alloc(w, bytes);
    if (p) b->at[b->count++] = p;
    return p;
}

static float *saei_floats(sae_work *w, saei_blocks *b, size_t count) {
    return (float *)saei_blocks_take(w, b, count, sizeof(float));
}

static sae_result saei_blocks_open(sae_work *w, const char *who, saei_blocks *b) {
    const sae_backend *ops = saei_backend_of(w->ctx);
    sae_result result = saei_backend_check(w->ctx, who, ops);
    if (result == SAE_OK) result = ops->open(w->ctx, &w->state);
    b->open = result == SAE_OK;
    return result;
}

static void saei_blocks_close(sae_work *w, saei_blocks *b) {
    const sae_backend *ops = saei_backend_of(w->ctx);
    while (b->count) ops->free(w, b->at[--b->count]);
    if (b->open) ops->close(w->ctx, w->state);
}

/* There is no memory for what: the backend may know more. */
static sae_result saei_blocks_fail(const sae_work *w, const char *who, const char *what) {
    SAEI_TRY(saei_backend_of(w->ctx)->status(w));
    return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory %s %zu latents of %zu "
                     "dimensions with batches of %zu rows", who, what, w->shape.dict_size,
                     w->shape.d, w->shape.batch);
}
