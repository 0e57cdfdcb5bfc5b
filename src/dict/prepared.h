#pragma once
#include "../kernels/screen.h"
#include "rows.h"

/* ==== >>dictionary: prepared encode =========================================================== */
/* The screen for inference: W_enc's int16 panels, kept with the dictionary, and one slot
   per thread, in which a block of rows is centred, screened and listed. A block without a free
   slot, or with more latents than the slot's lists hold, is encoded by the exact path, to the same
   bits; after several of the latter the screen is no longer used. See bench/RESULTS.md. */

enum {
    SAEI_PREPARED_ROWS = 64, /* of one slot */
    SAEI_PREPARED_OVERRUNS = 8
};

typedef struct saei_prepared_slot {
    bool taken;
    float warm;       /* as sae_encode_args.warm */
    float *x;         /* [SAEI_PREPARED_ROWS][ld] */
    uint32_t *count;  /* [SAEI_PREPARED_ROWS] */
    uint32_t *latent; /* [SAEI_PREPARED_ROWS][stride] */
    float *pre;       /* alike */
    double *least;    /* one */
    size_t *begin;    /* [SAEI_PREPARED_ROWS + 1] of finished lists, which start at latent, pre */
    float *top_value; /* [SAEI_PREPARED_ROWS + 1][capacity] */
    uint32_t *top_latent;
    int16_t *words;   /* [SAEI_ENCODE_ROWS][ld] */
} saei_prepared_slot;

struct saei_prepared {
    int lock;               /* of taken and overruns */
    unsigned overruns;
    size_t num_slots, stride, capacity;
    float *panels, *screen; /* as in saei_encode_room; screen: saei_screen_floats */
    uint32_t *refused;
    int16_t *words;
    saei_prepared_slot *slots;
};

/* Sets p's pieces in base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_prepared_layout(const sae_dictionary *dict, unsigned char *b,
                                   saei_prepared *p) {
    size_t at = 0, m = dict->desc.dict_size, panels = saei_ceil_div(m, SAEI_PANEL), width;
    size_t rows = SAEI_PREPARED_ROWS, k = dict->rule == SAE_RULE_TOP_K ? dict->desc.k : m / 20;
    p->num_slots = (size_t)dict->ctx->threads;
    p->stride = saei_align16(saei_min(k, m)) + SAEI_PANEL + SAEI_LIST_PADDING;
    p->capacity = saei_align16(saei_min(4 * k, m) + 4 * SAEI_PANEL);
    if (!saei_mul(panels * SAEI_PANEL, dict->ld, &width)) return SIZE_MAX;
    saei_place(&at, 1, sizeof(saei_prepared));
    p->panels = (float *)saei_piece(b, &at, width / 2, sizeof(float));
    p->screen = (float *)saei_piece(b, &at, saei_screen_floats(m), sizeof(float));
    p->refused = (uint32_t *)saei_piece(b, &at, panels, sizeof(uint32_t));
    p->slots = (saei_prepared_slot *)saei_piece(b, &at, p->num_slots, sizeof(saei_prepared_slot));
    for (size_t i = 0; i < p->num_slots; i++) {
        saei_prepared_slot none, *s = &none;
        if (b) s = &p->slots[i];
        memset(s, 0, sizeof *s);
        s->x = (float *)saei_piece(b, &at, rows * dict->ld, sizeof(float));
        s->count = (uint32_t *)saei_piece(b, &at, rows, sizeof(uint32_t));
        s->latent = (uint32_t *)saei_piece(b, &at, rows * p->stride, sizeof(uint32_t));
        s->pre = (float *)saei_piece(b, &at, rows * p->stride, sizeof(float));
        s->least = (double *)saei_piece(b, &at, 1, sizeof(double));
        s->begin = (size_t *)saei_piece(b, &at, rows + 1, sizeof(size_t));
        s->top_value = (float *)saei_piece(b, &at, (rows + 1) * p->capacity, sizeof(float));
        s->top_latent = (uint32_t *)saei_piece(b, &at, (rows + 1) * p->capacity, sizeof(uint32_t));
    }
    p->words = (int16_t *)saei_piece(b, &at, p->num_slots * SAEI_ENCODE_ROWS * dict->ld,
                                     sizeof(int16_t));
    for (size_t i = 0; b && i < p->num_slots; i++)
        p->slots[i].words = p->words + i * SAEI_ENCODE_ROWS * dict->ld;
    return at;
}

/* The job of one slot; a: what is asked. */
static saei_encode_job saei_prepared_job(const sae_dictionary *dict, const saei_prepared *p,
                                         const saei_prepared_slot *slot,
                                         const sae_encode_args *a) {
    saei_encode_job job;
    memset(&job, 0, sizeof job);
    job.ctx = dict->ctx;
    job.kernels = dict->ctx->kernels;
    job.args = a;
    job.m = a->m;
    job.k = saei_min(a->k, a->m);
    job.room.panels = p->panels;
    job.room.refused = p->refused;
    job.room.capacity = p->capacity;
    job.room.words = slot->words;
    job.room.value = slot->top_value;
    job.room.latent = slot->top_latent;
    job.room.least = slot->least;
    saei_screen_place(&job.room, job.m, p->screen);
    return job;
}

static sae_encode_args saei_prepared_args(const sae_dictionary *dict, const float *x, size_t n) {
    sae_select select = dict->rule == SAE_RULE_TOP_K            ? SAE_SELECT_TOP_K
                        : dict->desc.arch == SAE_ARCH_JUMP_RELU ? SAE_SELECT_WINDOW
                        : dict->desc.arch == SAE_ARCH_GATED     ? SAE_SELECT_GATE
                        : saei_arch_selects(dict->desc.arch)    ? SAE_SELECT_BATCH_TOP_K
                                                                : SAE_SELECT_POSITIVE;
    sae_encode_args a = saei_encode_args_of(dict, select, x, n);
    a.theta = dict->aux0; /* of WINDOW, with bandwidth 0: p > theta */
    return a;
}

static bool saei_prepares(const sae_dictionary *dict) {
    return dict->ctx->kernels->screen && dict->desc.arch != SAE_ARCH_IDENTITY
           && dict->desc.arch != SAE_ARCH_MATCHING_PURSUIT && !dict->desc.activation
           && !saei_is_shaped(&dict->desc)
           && saei_screen_fits(dict->desc.activation_dim, dict->desc.dict_size)
           && !(dict->rule == SAE_RULE_TOP_K
                && (dict->desc.arch != SAE_ARCH_TOP_K
                    || dict->desc.k * 20 > dict->desc.dict_size));
}

SAE_API sae_result sae_dictionary_prepare(sae_dictionary *dict) {
    saei_prepared plan, *p;
    sae_encode_args a;
    saei_encode_job job;
    size_t bytes;
    if (!dict) return SAE_ERR_INVALID;
    if (dict->prepared || !saei_prepares(dict)) return SAE_OK;
    memset(&plan, 0, sizeof plan);
    bytes = saei_prepared_layout(dict, NULL, &plan);
    p = bytes == SIZE_MAX ? NULL : (saei_prepared *)saei_alloc(dict->ctx, bytes, 1);
    if (!p)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "sae_dictionary_prepare: no memory for %zu bytes",
                         bytes);
    memset(p, 0, bytes);
    saei_prepared_layout(dict, (unsigned char *)p, p);
    a = saei_prepared_args(dict, NULL, 0);
    job = saei_prepared_job(dict, p, &p->slots[0], &a); /* its words: those of all workers */
    if (saei_screen_pack(&job)) dict->prepared = p;
    else saei_free(dict->ctx, p);
    return SAE_OK;
}

/* The rows one pass takes of those that are left. */
static size_t saei_infer_block(const saei_infer *q, size_t left) {
    const size_t prepared = SAEI_PREPARED_ROWS, plain = SAEI_BLOCK_ROWS;
    return saei_min(left, q->dict->prepared ? prepared : plain);
}

static void saei_prepared_leave(saei_prepared *p, saei_prepared_slot *slot, bool overrun) {
    saei_lock(&p->lock);
    slot->taken = false;
    p->overruns += overrun;
    saei_unlock(&p->lock);
}

static saei_prepared_slot *saei_prepared_take(const saei_infer *q) {
    saei_prepared *p = q->dict->prepared;
    saei_prepared_slot *slot = NULL;
    if (!p || q->W || q->list || q->n < SAEI_TILE_ROWS || !saei_prepares(q->dict))
        return NULL;
    saei_lock(&p->lock);
    for (size_t i = 0; p->overruns < SAEI_PREPARED_OVERRUNS && i < p->num_slots && !slot; i++)
        if (!p->slots[i].taken) slot = &p->slots[i];
    if (slot) slot->taken = true;
    saei_unlock(&p->lock);
    return slot;
}

/* The lists of a slot, as screening left them, to f != 0 one after the other. */
static void saei_prepared_finish(const sae_dictionary *dict, size_t rows, size_t stride,
                                 saei_prepared_slot *slot) {
    size_t active = saei_active_latents(dict), at = 0;
    if (dict->rule == SAE_RULE_TOP_K) active = dict->desc.dict_size;
    slot->begin[0] = 0;
    for (size_t r = 0; r < rows; r++) {
        for (size_t j = r * stride; j < r * stride + slot->count[r]; j++) {
            uint32_t i = slot->latent[j];
            float f = slot->pre[j];
            if (dict->desc.arch == SAE_ARCH_GATED)
                f = saei_gate_value((float)saei_exp(dict->aux0[i]), f, dict->aux1[i]);
            if (!(f > 0) || i >= active) continue;
            slot->latent[at] = i;
            slot->pre[at++] = f;
        }
        slot->begin[r + 1] = at;
    }
}

/* f of rows <= SAEI_PREPARED_ROWS rows from r0, as lists in a slot, to be given back; NULL: take
   the exact path. */
static saei_prepared_slot *saei_prepared_rows(const saei_infer *q, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    saei_prepared_slot *slot = saei_prepared_take(q);
    saei_prepared *p = dict->prepared;
    size_t d = dict->desc.activation_dim;
    bool overrun = false;
    sae_encode_args a;
    saei_encode_job job;
    sae_code code;
    if (!slot) return NULL;
    for (size_t r = 0; r < rows; r++) {
        float *to = slot->x + r * dict->ld;
        saei_norm norms[SAEI_SMALL_ROWS / 2];
        const float *x;
        saei_infer_norms(q, r0 + r, 1, norms);
        x = saei_infer_row(q, r0 + r, 0, d, norms, to);
        if (x != to) memcpy(to, x, d * sizeof *x);
    }
    memset(&code, 0, sizeof code);
    code.rows = rows;
    code.stride = p->stride;
    code.count = slot->count;
    code.latent = slot->latent;
    code.pre = slot->pre;
    a = saei_prepared_args(dict, slot->x, rows);
    job = saei_prepared_job(dict, p, slot, &a);
    job.code = &code;
    if (a.select == SAE_SELECT_TOP_K) job.cut = slot->warm;
    if (a.select == SAE_SELECT_BATCH_TOP_K) job.cut = dict->threshold > 0 ? dict->threshold : 0;
    job.part_rows = rows;
    saei_screen_rows(&job, 0, 0); /* the slot is the memory of one worker */
    slot->warm = 0.97f * (float)*slot->least;
    for (size_t r = 0; r < rows; r++) overrun |= slot->count[r] > p->stride;
    if (!overrun) saei_prepared_finish(dict, rows, p->stride, slot);
    else saei_prepared_leave(p, slot, true);
    return overrun ? NULL : slot;
}

/* A slot's rows to where they were asked for, and the slot given back. */
static void saei_prepared_give(const saei_infer *q, size_t r0, size_t rows,
                               saei_prepared_slot *slot) {
    size_t m = q->count;
    for (size_t r = 0; r < rows; r++) {
        size_t begin = slot->begin[r], count = slot->begin[r + 1] - begin;
        const uint32_t *latent = slot->latent + begin;
        const float *value = slot->pre + begin;
        if (q->dense) {
            float *f = q->dense + (r0 + r) * m;
            memset(f, 0, m * sizeof *f);
            for (size_t j = 0; j < count; j++) f[latent[j]] = value[j];
        }
        if (q->sparse) {
            size_t to = q->exact ? q->sparse->row_begin[r0 + r] : (r0 + r) * q->share;
            if (q->exact || count <= q->share) {
                memcpy(q->sparse->latent + to, latent, count * sizeof *latent);
                memcpy(q->sparse->value + to, value, count * sizeof *value);
            }
            if (!q->exact) q->sparse->row_begin[r0 + r + 1] = count;
        }
    }
    saei_prepared_leave(q->dict->prepared, slot, false);
}

/* Rows by the exact path. */
static SAEI_NOINLINE void saei_infer_exact(const saei_infer *q, size_t r0, size_t rows) {
    saei_small_block small;
    saei_room room = saei_infer_room(q->dict, &small);
    bool top = q->sparse && q->dict->rule == SAE_RULE_TOP_K;
    for (size_t r = 0, some; r < rows; r += some) {
        some = saei_min(room.rows, rows - r);
        saei_infer_norms(q, r0 + r, some, room.norms);
        if (top && q->dict->desc.activation) saei_infer_varied_rows(q, &room, r0 + r, some);
        else if (top) saei_infer_top_rows(q, &room, r0 + r, some);
        else saei_infer_rows(q, &room, r0 + r, some);
    }
    saei_room_leave(&room);
}

static void saei_infer_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    size_t end = saei_part_end(part, SAEI_BLOCK_ROWS, q->n), rows;
    for (size_t r = part * SAEI_BLOCK_ROWS; r < end; r += rows) {
        saei_prepared_slot *slot;
        rows = saei_infer_block(q, end - r);
        slot = saei_prepared_rows(q, r, rows);
        if (slot) saei_prepared_give(q, r, rows, slot);
        else saei_infer_exact(q, r, rows);
    }
}

static void saei_infer_run(saei_infer *q) {
    saei_parallel(q->dict->ctx, saei_ceil_div(q->n, SAEI_BLOCK_ROWS), saei_infer_part, q);
}
