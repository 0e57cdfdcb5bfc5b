#pragma once
#include "run.h"

/* ==== >>lm: forward pass: attention =========================================================== */

/* Frequency i of a rotary kind over `dims` dimensions, in float where transformers has float:
   1 / base^(2 i / dims), then scaled. */
static float lmi_frequency(const lmi_rope *rope, size_t i, size_t dims) {
    float power = (float)(2 * i) / (float)dims;
    float f = 1 / (float)lmi_exp((double)power * lmi_ln(rope->base));
    float factor = (float)rope->factor, wave, s;
    if (rope->divisors) f /= rope->divisors[i];
    if (rope->kind == LMI_ROPE_PLAIN) return f;
    if (rope->kind == LMI_ROPE_LINEAR) return f / factor;
    wave = 6.28318530718f / f;
    if (wave < (float)(rope->original / rope->high)) return f;
    if (wave > (float)(rope->original / rope->low)) return f / factor;
    s = ((float)rope->original / wave - (float)rope->low) / (float)(rope->high - rope->low);
    return (1 - s) * f / factor + s * f;
}

/* Angles of the positions below rows, kept for later passes. */
static sae_result lmi_angles(sae_lm *m, size_t rows) {
    size_t dims = m->shape.info.rotary_dims, pairs = (dims + 1) / 2, most;
    int kinds = m->shape.has & LMI_LOCAL_ROPE ? 2 : 1;
    if (!pairs || rows <= m->angle_rows) return SAE_OK;
    most = lmi_max(rows, m->angle_rows + m->angle_rows / 2);
    for (int k = 0; k < kinds; k++) {
        size_t floats;
        float *angles = lmi_mul(most, 2 * pairs, &floats) && floats <= SIZE_MAX / sizeof(float)
                            ? (float *)realloc(m->angles[k], floats * sizeof *angles) : NULL;
        if (!angles)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_forward: no memory");
        m->angles[k] = angles;
        for (size_t i = 0; i < pairs; i++) {
            float frequency = lmi_frequency(&m->shape.rope[k], i, dims);
            for (size_t t = m->angle_rows; t < most; t++)
                lmi_sin_cos((double)((float)t * frequency), &angles[(2 * t + 1) * pairs + i],
                            &angles[2 * t * pairs + i]);
        }
    }
    m->angle_rows = most;
    return SAE_OK;
}

/* A head's row as attention takes it: in transformers' order, norm, then rotary. */
static void lmi_head_row(const sae_lm *m, const lmi_norm *norm, size_t rope, size_t position,
                         const float *from, float *to) {
    const sae_lm_config *info = &m->shape.info;
    size_t pairs = (info->rotary_dims + 1) / 2;
    const float *angles = pairs ? m->angles[rope] + position * 2 * pairs : NULL;
    if (norm->weight) lmi_norm_row(m, norm, info->head_dim, from, to);
    else if (m->shape.has & LMI_PAIRED) lmi_unpair(info->head_dim, from, to);
    else memcpy(to, from, info->head_dim * sizeof *to);
    if (pairs) m->kernels->turn(pairs, angles, angles + pairs, to);
}

static float *lmi_store(const lmi_run *run, size_t item, size_t slot) {
    const sae_lm_cache *cache = run->desc->cache;
    if (cache)
        return cache->data + (run->at_layer * run->items + item) * run->store_floats;
    return run->stores + (run->packed ? item : slot) * run->store_floats;
}

/* Puts the new keys and values of an item, a (context, kv head), where attention reads them. */
static void lmi_pack(const lmi_run *run, size_t item, float *store, float *row) {
    const sae_lm *m = run->m;
    const sae_lm_config *info = &m->shape.info;
    const lmi_layer *l = &m->layer[run->at_layer];
    size_t hd = info->head_dim, deep = lmi_round(hd), end = run->past + run->ctx;
    size_t keys = run->desc->cache ? run->desc->cache->capacity : run->ctx;
    size_t first = item / info->kv_heads * run->ctx, head = item % info->kv_heads;
    float *values = store + lmi_round(keys) * hd;
    for (size_t t = 0; t < run->ctx; t++) {
        size_t at = run->past + t;
        float *key = store + at / LMI_COLUMNS * LMI_COLUMNS * hd + at % LMI_COLUMNS;
        lmi_head_row(m, &l->k_norm, m->shape.layer[run->at_layer].rope, at,
                     run->k.at + (first + t) * run->k.row + head * run->k.head, row);
        for (size_t c = 0; c < hd; c++) key[c * LMI_COLUMNS] = row[c];
        memcpy(values + at * deep, run->v.at + (first + t) * run->v.row + head * run->v.head,
               hd * sizeof *values);
        for (size_t c = hd; c < deep; c++) values[at * deep + c] = 0;
    }
    for (size_t at = end; at < lmi_round(end); at++)
        for (size_t c = 0; c < hd; c++)
            store[at / LMI_COLUMNS * LMI_COLUMNS * hd + c * LMI_COLUMNS + at % LMI_COLUMNS] = 0;
}

/* Rows 8 tile .. of an item: row r is position r / group of the pass and head r % group of those
   that read this kv head. */
static void lmi_attend_tile(const lmi_run *run, size_t item, size_t tile, const float *store,
                            float *scratch) {
    const sae_lm *m = run->m;
    const sae_lm_config *info = &m->shape.info;
    const lmi_layer_shape *shape = &m->shape.layer[run->at_layer];
    size_t hd = info->head_dim, group = info->heads / info->kv_heads;
    size_t keys = run->desc->cache ? run->desc->cache->capacity : run->ctx;
    size_t first = item / info->kv_heads * run->ctx, head = item % info->kv_heads * group;
    float *q = scratch;
    lmi_tile t;
    t.rows = lmi_min(LMI_ROWS, run->ctx * group - tile * LMI_ROWS);
    t.q = q;
    t.mixed = q + LMI_ROWS * hd;
    t.p = t.mixed + LMI_ROWS * lmi_round(hd);
    t.keys = store;
    t.values = store + lmi_round(keys) * hd;
    t.head_dim = hd;
    t.scale = shape->scale;
    t.cap = m->shape.attention_cap;
    for (size_t r = 0; r < t.rows; r++) {
        size_t row = tile * LMI_ROWS + r, h = head + row % group;
        size_t at = run->past + row / group;
        lmi_head_row(m, &m->layer[run->at_layer].q_norm, shape->rope, at,
                     run->q.at + (first + row / group) * run->q.row + h * run->q.head, q + r * hd);
        t.end[r] = at + 1;
        t.first[r] = shape->window && at + 1 > shape->window ? at + 1 - shape->window : 0;
        t.out[r] = run->heads + ((first + row / group) * info->heads + h) * hd;
    }
    m->kernels->attend(&t);
}

static void lmi_pack_part(void *arg, size_t part) {
    const lmi_run *run = (const lmi_run *)arg;
    for (size_t item = part; item < run->items; item += run->slots)
        lmi_pack(run, item, lmi_store(run, item, part),
                 run->scratch + part * run->scratch_floats);
}

static void lmi_attend_part(void *arg, size_t part) {
    const lmi_run *run = (const lmi_run *)arg;
    const sae_lm_config *info = &run->m->shape.info;
    size_t tiles = lmi_parts(run->ctx * (info->heads / info->kv_heads), LMI_ROWS);
    float *scratch = run->scratch + part * run->scratch_floats;
    if (run->packed) {
        for (size_t i = part; i < run->items * tiles; i += run->slots)
            lmi_attend_tile(run, i / tiles, i % tiles, lmi_store(run, i / tiles, part), scratch);
        return;
    }
    for (size_t item = part; item < run->items; item += run->slots) {
        float *store = lmi_store(run, item, part);
        lmi_pack(run, item, store, scratch);
        for (size_t i = 0; i < tiles; i++) lmi_attend_tile(run, item, i, store, scratch);
    }
}

static void lmi_set_heads(lmi_heads *h, float *at, size_t row, size_t head) {
    h->at = at;
    h->row = row;
    h->head = head;
}

/* Rows of qkv from all q, all k, all v to [heads][q,k,v][hd]. */
static void lmi_by_head(lmi_run *run, size_t heads, size_t hd) {
    for (size_t r = 0; r < run->n; r++) {
        float *row = run->qkv + r * 3 * heads * hd;
        memcpy(run->heads, row, 3 * heads * hd * sizeof *row);
        for (size_t i = 0; i < 3 * heads; i++)
            memcpy(row + i * hd, run->heads + (i % 3 * heads + i / 3) * hd, hd * sizeof *row);
    }
}

/* qkv = the queries, keys and values of normed. */
static sae_result lmi_run_qkv(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    const sae_lm_config *info = &run->m->shape.info;
    size_t hd = info->head_dim, wide = info->heads * hd, narrow = info->kv_heads * hd;
    float *q = run->qkv, *k, *v;
    if (l->qkv) {
        bool apart = (run->m->shape.has & LMI_APART) != 0;
        bool by_head = (run->m->shape.has & LMI_BY_HEAD) != 0;
        size_t row = wide + 2 * narrow, head;
        LMI_TRY(sae_linear_apply(l->qkv, run->normed, run->n, q));
        if (by_head && apart && lmi_hooks_at(run, SAE_LM_QKV_PROJ, i, false))
            lmi_by_head(run, info->heads, hd);
        else by_head = by_head && !apart;
        head = by_head ? 3 * hd : hd;
        LMI_AT(SAE_LM_QKV_PROJ, i, false, q);
        lmi_set_heads(&run->q, q, row, head);
        lmi_set_heads(&run->k, q + (by_head ? hd : wide), row, head);
        lmi_set_heads(&run->v, q + (by_head ? 2 * hd : wide + narrow), row, head);
    } else {
        k = q + run->n * wide;
        v = k + run->n * narrow;
        LMI_TRY(sae_linear_apply(l->q, run->normed, run->n, q));
        LMI_TRY(sae_linear_apply(l->k, run->normed, run->n, k));
        LMI_TRY(sae_linear_apply(l->v, run->normed, run->n, v));
        lmi_set_heads(&run->q, q, wide, hd);
        lmi_set_heads(&run->k, k, narrow, hd);
        lmi_set_heads(&run->v, v, narrow, hd);
    }
    LMI_STEP(lmi_at_heads(run, SAE_LM_Q_PROJ, i, info->heads, &run->q));
    LMI_STEP(lmi_at_heads(run, SAE_LM_K_PROJ, i, info->kv_heads, &run->k));
    return lmi_at_heads(run, SAE_LM_V_PROJ, i, info->kv_heads, &run->v);
}

/* normed -> mixed */
static sae_result lmi_run_attention(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    run->at_layer = i;
    LMI_AT(SAE_LM_ATTENTION, i, true, run->normed);
    LMI_STEP(lmi_run_qkv(run, i));
    if (run->packed)
        sae_context_parallel(run->m->ctx, lmi_min(run->slots, run->items), lmi_pack_part, run);
    sae_context_parallel(run->m->ctx, run->slots, lmi_attend_part, run);
    LMI_AT(SAE_LM_O_PROJ, i, true, run->heads);
    LMI_TRY(sae_linear_apply(l->o, run->heads, run->n, run->mixed));
    LMI_AT(SAE_LM_O_PROJ, i, false, run->mixed);
    LMI_AT(SAE_LM_ATTENTION, i, false, run->mixed);
    return SAE_OK;
}
