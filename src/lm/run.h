#pragma once
#include "api_generate.h"
#include "sites.h"

/* ==== >>lm: forward pass: memory and hooks ==================================================== */

/* Parts of the row-wise steps are LMI_ROW_PART rows; of attention up to LMI_SLOTS workers. */
enum { LMI_ROW_PART = 32, LMI_LOGIT_ROWS = 256, LMI_SLOTS = 64 };

struct sae_lm_cache {
    sae_lm *m;
    size_t capacity, count;
    float *data; /* [layers][kv_heads] stores of capacity keys and values */
};

/* Heads side by side or wherever a fused matrix leaves them. */
typedef struct lmi_heads {
    float *at;
    size_t row, head; /* floats from one row, one head to the next */
} lmi_heads;

/* One pass: positions past .. past + ctx - 1 of each context. */
typedef struct lmi_run {
    sae_lm *m;
    const sae_lm_forward_desc *desc;
    size_t n, ctx, past, hooks_left;
    bool logits, done; /* logits or losses are wanted; nothing is left to do */
    float *x, *normed, *mixed; /* [n,d] */
    float *made;               /* what the MLP gave: normed or mixed */
    /* while attention runs: qkv [n,(heads + 2 kv_heads) head_dim], rows [n,heads head_dim];
       stores: of every (context, kv head), or, if there are more of these, of every slot */
    float *qkv, *heads, *stores, *scratch;
    lmi_heads q, k, v;
    size_t store_floats, scratch_floats, items, slots;
    bool packed; /* every item has a store of its own */
    /* while an MLP runs: [n,widest MLP]; of experts besides [256,d] twice, [n,experts] */
    float *wide, *gate, *gathered, *given, *routes;
    uint32_t *expert; /* [n,experts_per_token], ascending; routes holds their weights then */
    /* while logits are made: [block,d], [block,vocab_size] */
    float *logit_x, *logit;
    /* what the steps work on */
    size_t at_layer, count, width;
    const float *from;
    float *to;
    const lmi_norm *norm;
    size_t row[LMI_LOGIT_ROWS]; /* of the block of logits; rows of an expert */
    double row_loss[LMI_LOGIT_ROWS];
} lmi_run;

static void lmi_row_parts(lmi_run *run, size_t rows, void (*fn)(void *arg, size_t part)) {
    run->count = rows;
    sae_context_parallel(run->m->ctx, lmi_parts(rows, LMI_ROW_PART), fn, run);
}

/* ---- memory ---- */

/* Keys [blocks][head_dim][32] and values [keys][lmi_round(head_dim)] of one head. */
static size_t lmi_store_floats(size_t keys, size_t head_dim) {
    size_t deep = lmi_round(head_dim), rows;
    if (keys > SIZE_MAX / 2 / sizeof(float) - LMI_COLUMNS
        || !lmi_mul(lmi_round(keys), 2 * deep * sizeof(float), &rows))
        return 0;
    return lmi_round(keys) * head_dim + keys * deep;
}

/* One piece [rows,width] behind *at, on 64 bytes; false: too large. base NULL: only counts. */
static bool lmi_run_cut(float *base, size_t *at, float **piece, size_t rows, size_t width) {
    size_t floats;
    if (base) *piece = base + *at;
    if (!lmi_mul(rows, width, &floats) || floats > SIZE_MAX / 64 - *at) return false;
    *at += (floats + 15) / 16 * 16;
    return true;
}

static bool lmi_run_cut_attention(lmi_run *run, float *base, size_t *at) {
    const sae_lm_config *info = &run->m->shape.info;
    const sae_lm_cache *cache = run->desc->cache;
    size_t hd = info->head_dim, deep = lmi_round(hd), keys = cache ? cache->capacity : run->ctx;
    size_t heads = info->heads * hd, kv = info->kv_heads * hd, n = run->n;
    size_t tiles = lmi_parts(run->ctx * (info->heads / info->kv_heads), LMI_ROWS), parts;
    run->items = run->desc->contexts * info->kv_heads;
    run->slots = LMI_SLOTS; /* 16 where they would take more than 16 MiB */
    if (keys > (1 << 22) / 8 / LMI_SLOTS) run->slots = 16;
    run->packed = run->items <= run->slots || cache;
    if (!lmi_mul(run->items, run->packed ? tiles : 1, &parts)) return false;
    run->slots = lmi_min(run->slots, parts);
    run->store_floats = lmi_store_floats(keys, hd);
    run->scratch_floats = LMI_ROWS * (hd + deep + lmi_round(keys)) + lmi_round(hd);
    if (!run->store_floats) return false;
    if (!lmi_run_cut(base, at, &run->qkv, n, heads + 2 * kv)
        || !lmi_run_cut(base, at, &run->heads, lmi_max(n, 3), heads) /* at least a row of qkv */
        || !lmi_run_cut(base, at, &run->scratch, run->slots, run->scratch_floats))
        return false;
    if (cache) return true;
    return lmi_run_cut(base, at, &run->stores, run->packed ? run->items : run->slots,
                   run->store_floats);
}

static bool lmi_run_cut_mlp(lmi_run *run, float *base, size_t *at) {
    const lmi_shape *s = &run->m->shape;
    size_t n = run->n, wide = lmi_max(s->dense_dim, s->info.mlp_dim);
    size_t k = s->info.experts_per_token; /* numbers of experts are as wide as floats */
    float *expert = NULL;
    if (!lmi_run_cut(base, at, &run->wide, n, wide)) return false;
    if (s->has & LMI_GATED && !lmi_run_cut(base, at, &run->gate, n, wide)) return false;
    if (!(s->has & LMI_EXPERTS)) return true;
    if (!lmi_run_cut(base, at, &run->gathered, lmi_min(n, LMI_LOGIT_ROWS), s->info.dim)
        || !lmi_run_cut(base, at, &run->given, lmi_min(n, LMI_LOGIT_ROWS), s->info.dim)
        || !lmi_run_cut(base, at, &run->routes, n, s->info.experts)
        || !lmi_run_cut(base, at, &expert, n, k))
        return false;
    run->expert = (uint32_t *)(void *)expert;
    return true;
}

/* Cuts the memory of a pass; what runs at different times shares its place. Returns its floats, 0:
   too large. */
static size_t lmi_run_layout(lmi_run *run, float *base) {
    const sae_lm_config *info = &run->m->shape.info;
    const size_t *rows = run->desc->rows;
    size_t block = lmi_min(rows ? run->desc->num_rows : run->n, LMI_LOGIT_ROWS), n = run->n;
    size_t at = 0, attention, mlp, logits;
    if (!lmi_run_cut(base, &at, &run->x, n, info->dim)
        || !lmi_run_cut(base, &at, &run->normed, n, info->dim)
        || !lmi_run_cut(base, &at, &run->mixed, n, info->dim))
        return 0;
    attention = mlp = logits = at;
    if (!lmi_run_cut_attention(run, base, &attention) || !lmi_run_cut_mlp(run, base, &mlp)
        || (run->logits && (!lmi_run_cut(base, &logits, &run->logit_x, block, info->dim)
                            || !lmi_run_cut(base, &logits, &run->logit, block, info->vocab_size))))
        return 0;
    return lmi_max(attention, lmi_max(mlp, logits));
}

static sae_result lmi_run_memory(lmi_run *run) {
    sae_lm *m = run->m;
    size_t floats = lmi_run_layout(run, NULL), skip;
    if (floats > m->memory_floats || !floats) {
        free(m->memory);
        m->memory_floats = 0;
        m->memory = floats ? (float *)malloc((floats + 16) * sizeof(float)) : NULL;
        if (!m->memory)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_lm_forward: no memory for %zu contexts "
                                    "of %zu tokens",
                                    run->desc->contexts, run->ctx);
        m->memory_floats = floats;
    }
    skip = (64 - ((uintptr_t)m->memory & 63)) % 64 / sizeof(float);
    lmi_run_layout(run, m->memory + skip);
    return SAE_OK;
}

/* ---- hooks ---- */

/* How many hooks there are at a site. */
static size_t lmi_hooks_at(const lmi_run *run, sae_lm_module module, size_t layer, bool input) {
    size_t count = 0;
    for (size_t i = 0; i < run->desc->num_hooks; i++) {
        const sae_lm_site *s = &run->desc->hooks[i].site;
        count += s->module == module && s->layer == layer && s->input == input;
    }
    return count;
}

/* Calls the hooks of a site; run->done: nothing is wanted behind it. */
static sae_result lmi_at(lmi_run *run, sae_lm_module module, size_t layer, bool input, float *x) {
    sae_lm_site site;
    site.module = module;
    site.layer = layer;
    site.input = input;
    for (size_t i = 0; i < run->desc->num_hooks; i++) {
        const sae_lm_hook *h = &run->desc->hooks[i];
        if (h->site.module != module || h->site.layer != layer || h->site.input != input) continue;
        if (h->call)
            LMI_TRY(h->call(h->user, x, run->n, sae_lm_site_dim(run->m, site)));
        run->hooks_left--;
    }
    run->done = !run->hooks_left && !run->logits && !run->desc->cache;
    return SAE_OK;
}

/* A step that may end the pass. */
#define LMI_STEP(call)                                                                             \
    do {                                                                                           \
        sae_result lmi_step_result = (call);                                                       \
        if (lmi_step_result != SAE_OK || run->done) return lmi_step_result;                        \
    } while (0)
#define LMI_AT(module, layer, input, x) LMI_STEP(lmi_at(run, module, layer, input, x))

/* A head of a .gguf whose pairs lie together, and one whose halves do. */
static void lmi_unpair(size_t dim, const float *from, float *to) {
    for (size_t i = 0; i < dim / 2; i++) {
        to[i] = from[2 * i];
        to[dim / 2 + i] = from[2 * i + 1];
    }
}

static void lmi_pair(size_t dim, const float *from, float *to) {
    for (size_t i = 0; i < dim / 2; i++) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[dim / 2 + i];
    }
}

/* The same for heads that do not stand side by side, or in another order: of a copy, in
   run->heads. */
static sae_result lmi_at_heads(lmi_run *run, sae_lm_module module, size_t layer, size_t heads,
                               const lmi_heads *h) {
    size_t hd = run->m->shape.info.head_dim, dim = heads * hd;
    bool paired = run->m->shape.has & LMI_PAIRED && module != SAE_LM_V_PROJ;
    if (!lmi_hooks_at(run, module, layer, false)) return SAE_OK;
    if (h->row == dim && !paired) return lmi_at(run, module, layer, false, h->at);
    for (size_t i = 0; i < run->n * heads; i++) {
        const float *from = h->at + i / heads * h->row + i % heads * h->head;
        if (paired) lmi_unpair(hd, from, run->heads + i * hd);
        else memcpy(run->heads + i * hd, from, hd * sizeof(float));
    }
    LMI_TRY(lmi_at(run, module, layer, false, run->heads));
    for (size_t i = 0; i < run->n * heads; i++) {
        float *to = h->at + i / heads * h->row + i % heads * h->head;
        if (paired) lmi_pair(hd, run->heads + i * hd, to);
        else memcpy(to, run->heads + i * hd, hd * sizeof(float));
    }
    return SAE_OK;
}

/* ---- norms ---- */

static void lmi_norm_row(const sae_lm *m, const lmi_norm *norm, size_t n, const float *x,
                         float *out) {
    double eps = m->shape.info.norm_eps;
    if (m->shape.has & LMI_RMS) m->kernels->rms_norm(n, x, norm->weight, eps, out);
    else m->kernels->norm(n, x, norm->weight, norm->bias, eps, out);
}

static void lmi_norm_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++)
        lmi_norm_row(run->m, run->norm, d, run->from + r * d, run->to + r * d);
}

/* to = norm(from), which may be the same rows, with the hooks there. from is not changed. */
static sae_result lmi_run_norm(lmi_run *run, sae_lm_module module, sae_lm_module normalized,
                               size_t layer, const lmi_norm *norm, const float *from, float *to) {
    size_t d = run->m->shape.info.dim;
    bool middle = lmi_hooks_at(run, normalized, layer, false) > 0;
    lmi_norm plain;
    plain.weight = run->m->ones;
    plain.bias = run->m->ones + d;
    if (lmi_hooks_at(run, module, layer, true)) {
        if (from != to) memcpy(to, from, run->n * d * sizeof *to);
        from = to;
        LMI_AT(module, layer, true, to);
    }
    run->norm = middle ? &plain : norm;
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_norm_part);
    if (middle) {
        LMI_AT(normalized, layer, false, to);
        for (size_t i = 0; i < run->n * d; i++)
            to[i] = norm->bias ? fmaf(to[i], norm->weight[i % d], norm->bias[i % d])
                               : to[i] * norm->weight[i % d];
    }
    LMI_AT(module, layer, false, to);
    return SAE_OK;
}
