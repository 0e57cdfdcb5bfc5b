#pragma once
#include "select.h"

/* ==== >>kernels: the screen =================================================================== */
/* The product of rows with W_enc takes 3/4 of a sparse step, and a few in a hundred of its results
   are used. So rows of x and W_enc are rounded to int16 with a scale each, x = q / s + dx and
   w = v / t + dw; the integer product q.v is exact (see quantize) and twice as fast as float's; and
       |p - (q.v / (s t) + bias)| <= |dx||w| + |x^||dw| + (d + 32) 2^-24 |x||w|,   x^ = q / s
   by Cauchy and Schwarz, the last term for the roundings of the canonical product and of the left
   side. What this bound cannot exclude is computed again in the canonical order, and only that
   decides: the bits are those of the exact path. W1: 1.02 candidates for each entry kept.
   Two cores of 540 GFLOP/s: predicted 16 ms of product at the int16 peak + 8 of the rest, measured
   26; the exact path takes 42. See bench/RESULTS.md.
   Its users: the CPU backend's encode and prepared dictionaries. They fill in a job, pack W_enc
   once by saei_screen_pack, and send rows through saei_screen_rows. */

enum {
    SAEI_ENCODE_ROWS = 128, /* at most: rows of one part */
    SAEI_TOP_LISTS = SAEI_ENCODE_ROWS + 1, /* of candidates: a spare one, and one for each row */
    SAEI_SCREEN_FACTS = 3   /* of a panel: most |w|, |dw|, |offset| */
};

/* The memory of an encode. What is "of a worker" lies [workers] times one after the other. */
typedef struct saei_encode_room {
    float *panels;     /* W_enc: [panels][d][48]; screened: int16 pairs [panels][ld / 2][48] */
    int16_t *words;    /* of a worker: [SAEI_ENCODE_ROWS][ld], of rows or of a panel's latents */
    float *value;      /* of a worker: [SAEI_TOP_LISTS][capacity], candidates */
    uint32_t *latent;  /* alike */
    size_t capacity;   /* of a row's list of candidates, a multiple of 16 */
    float *factor, *offset; /* screened: [panels 48], of each latent */
    float *facts;      /* screened: [panels][SAEI_SCREEN_FACTS] */
    uint32_t *refused; /* screened: [panels], 1: some latent has no finite, sane norm */
    double *least;     /* screened: [parts], the smallest k-th largest p / |x| of a row */
} saei_encode_room;

/* What the parts of an encode share. */
typedef struct saei_encode_job {
    const sae_context *ctx;
    const saei_kernels *kernels;
    const sae_encode_args *args;
    sae_code *code;
    saei_encode_room room;
    size_t m, k;      /* latents there are (of a list: in it), of which k at most are taken */
    size_t part_rows; /* rows of a part, SAEI_ENCODE_ROWS at most */
    float cut;        /* p must exceed it; screened TOP_K: an estimate, as a share of |x| */
    bool blas;        /* a BLAS's float products propose, not int16 ones */
} saei_encode_job;

/* Floats that saei_screen_place wants for m latents, and where they go. */
static size_t saei_screen_floats(size_t m) {
    return saei_ceil_div(m, SAEI_PANEL) * (2 * SAEI_PANEL + SAEI_SCREEN_FACTS);
}
static void saei_screen_place(saei_encode_room *room, size_t m, float *memory) {
    size_t all = saei_ceil_div(m, SAEI_PANEL) * SAEI_PANEL;
    room->factor = memory;
    room->offset = memory + all;
    room->facts = memory + 2 * all;
}

static saei_top saei_top_list(const saei_encode_job *job, size_t which) {
    saei_top top;
    memset(&top, 0, sizeof top);
    top.value = job->room.value + which * job->room.capacity;
    top.latent = job->room.latent + which * job->room.capacity;
    return top;
}

/* A worker's lists of candidates, for `rows` rows; returns the spare one. */
static saei_top saei_tops(const saei_encode_job *job, size_t worker, size_t rows, saei_top *top) {
    size_t spare = worker * SAEI_TOP_LISTS;
    for (size_t i = 0; i < rows; i++) top[i] = saei_top_list(job, spare + 1 + i);
    return saei_top_list(job, spare);
}

/* Whether p = u + bias is selected, and what is stored of it. */
static bool saei_selected(const saei_encode_job *job, float u, size_t i, float *stored) {
    const sae_encode_args *a = job->args;
    float p = u + a->bias[i];
    *stored = a->select == SAE_SELECT_GATE ? u : p;
    if (a->select != SAE_SELECT_WINDOW) return p > job->cut;
    return p > a->theta[i] || saei_rectangle(p, a->theta[i], a->bandwidth);
}

/* The candidates for TOP_K among a panel's exact products. */
static void saei_keep_top(const saei_encode_job *job, size_t first, size_t count,
                          const float *product, const float *bias, saei_top *top) {
    size_t capacity = job->room.capacity;
    if (top->count + 2 * SAEI_PANEL > capacity) saei_top_finish(job->kernels, top, job->k);
    top->count = job->kernels->keep_above(product, bias, false, count, top->lower_bound,
                                          (uint32_t)first, top->latent, top->value, top->count,
                                          capacity, NULL);
}

/* -- W_enc -- */

/* What the bound needs of a row of x or W_enc; and its int16, unless a BLAS takes it as it is. A
   BLAS may take subnormal numbers for 0, and squares below 1e-45 are lost here. */
static void saei_screen_row(const saei_encode_job *job, const float *x, int16_t *words,
                            saei_quantized *q) {
    size_t ld = job->args->ld;
    double norm;
    if (!job->blas) {
        job->kernels->quantize(ld, x, words, q);
        return;
    }
    norm = sqrt(job->kernels->dot(ld, x, x));
    q->norm = (float)(norm * 1.0001 + 1e-20);
    q->error = 1e-35f;
    q->inverse = norm < 1e15 ? 1.0f : -1.0f; /* also where norm is NaN */
}

/* How far p may be from what is proposed for it, for a row and a panel's facts; rounding: of the
   sums alone, a share of |x||w|. */
static float saei_screen_error(const saei_quantized *q, const float *facts, float rounding) {
    return (q->error + rounding * q->norm) * facts[0] + (q->norm + q->error) * facts[1]
           + 2e-6f * facts[2] + 1e-30f;
}

static void saei_screen_pack_part(void *arg, size_t part, size_t worker) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    const saei_encode_room *room = &job->room;
    size_t first = part * SAEI_PANEL, count = saei_min(SAEI_PANEL, job->m - first);
    int16_t *words = room->words + worker * SAEI_ENCODE_ROWS * a->ld;
    float *inverse = room->factor + first, *offset = room->offset + first;
    float *facts = room->facts + part * SAEI_SCREEN_FACTS;
    const uint32_t *row[SAEI_PANEL];
    memset(facts, 0, SAEI_SCREEN_FACTS * sizeof *facts);
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        saei_quantized q;
        float size;
        row[j] = (const uint32_t *)(const void *)(words + j * a->ld);
        inverse[j] = 0;
        offset[j] = -FLT_MAX;
        if (j >= count) continue;
        saei_screen_row(job, a->W + (first + j) * a->ld, words + j * a->ld, &q);
        inverse[j] = q.inverse;
        offset[j] = a->bias[first + j];
        size = fabsf(offset[j]);
        if (a->select == SAE_SELECT_WINDOW) { /* p > theta - bandwidth / 2 as offset + u > 0 */
            offset[j] += 0.5f * fabsf(a->bandwidth) - a->theta[first + j];
            size += fabsf(a->theta[first + j]) + fabsf(a->bandwidth);
        }
        if (q.inverse < 0 || !(size < 1e15f)) room->refused[part] = 1;
        facts[0] = q.norm > facts[0] ? q.norm : facts[0];
        facts[1] = q.error > facts[1] ? q.error : facts[1];
        facts[2] = size > facts[2] ? size : facts[2];
    }
    if (job->blas) return;
    job->kernels->pack(row, count, a->ld / 2,
                       (uint32_t *)(void *)room->panels + part * SAEI_PANEL * (a->ld / 2));
}

/* Makes the panels and what the bound needs of them. False: some weight or bias has no finite,
   sane size, so that nothing can be excluded. */
static bool saei_screen_pack(saei_encode_job *job) {
    size_t panels = saei_ceil_div(job->m, SAEI_PANEL);
    memset(job->room.refused, 0, panels * sizeof *job->room.refused);
    saei_parallel_workers(job->ctx, panels, saei_screen_pack_part, job);
    for (size_t i = 0; i < panels; i++)
        if (job->room.refused[i]) return false;
    return true;
}

/* Whether there can be a screen for m latents of d dimensions. */
static bool saei_screen_fits(size_t d, size_t m) {
    return d <= 16384 && saei_ceil_div(m, SAEI_PANEL) <= 65536;
}

/* -- rows -- */

/* Where a row's candidates are kept. */
typedef struct saei_screen_list {
    uint32_t *latent;
    float *value;
    size_t count, stride;
} saei_screen_list;

/* Prepares row r's list: its cut, and the margin that makes a screened value a lower bound of p.
   error: how far off a screened value may be. False: the list is full; the row is redone
   exactly. */
static bool saei_screen_ready(const saei_encode_job *job, size_t r, float error, saei_top *top,
                              saei_screen_list *list, float *cut, float *margin) {
    const sae_code *code = job->code;
    sae_select select = job->args->select;
    bool top_k = select == SAE_SELECT_TOP_K;
    float at, e;
    if (top_k && top->count + 2 * SAEI_PANEL > job->room.capacity) {
        if (top->count > job->room.capacity) return false;
        saei_top_tighten(job->kernels, top, job->k);
    }
    at = top_k ? top->lower_bound : select == SAE_SELECT_BATCH_TOP_K ? job->cut : 0;
    e = (error + 2e-6f * fabsf(at)) * (1 + 4 * FLT_EPSILON);
    *cut = at - e;
    *margin = top_k ? e : 0;
    list->stride = top_k ? job->room.capacity : code->stride;
    list->latent = top_k ? top->latent : code->latent + r * list->stride;
    list->value = top_k ? top->value : code->pre + r * list->stride;
    list->count = top_k ? top->count : code->count[r];
    if (top_k && top->error_bound < 2.01f * e)
        top->error_bound = 2.01f * e; /* e below, e above, roundings */
    return true;
}

static void saei_screen_done(const saei_encode_job *job, size_t r, size_t count, saei_top *top) {
    if (job->args->select == SAE_SELECT_TOP_K) top->count = count;
    else job->code->count[r] = (uint32_t)count;
}

/* The candidates of `rows` rows from r0 on, one tile, among a panel's latents. q, top: of these
   rows. */
static void saei_screen_keep(const saei_encode_job *job, size_t r0, size_t rows, size_t first,
                             const int32_t *dot, const saei_quantized *q, saei_top *top,
                             const saei_top *spare) {
    const float rounding = (float)(job->args->d + 32) * 6e-8f;
    const float *facts = job->room.facts + first / SAEI_PANEL * SAEI_SCREEN_FACTS;
    const float *inverse = job->room.factor + first, *offset = job->room.offset + first;
    float scale[SAEI_TILE_ROWS], margin[SAEI_TILE_ROWS], cut[SAEI_TILE_ROWS];
    uint32_t *latent[SAEI_TILE_ROWS], length[SAEI_TILE_ROWS];
    float *value[SAEI_TILE_ROWS];
    bool taken[SAEI_TILE_ROWS];
    for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
        saei_screen_list list;
        float error = saei_screen_error(&q[i < rows ? i : 0], facts, rounding);
        taken[i] = i < rows
                   && saei_screen_ready(job, r0 + i, error, &top[i], &list, &cut[i], &margin[i]);
        scale[i] = taken[i] ? q[i].inverse : 0;
        if (taken[i] && list.count + SAEI_LIST_RESERVE > list.stride) { /* nearly full: alone */
            size_t count = job->kernels->keep_screened(
                dot + i * SAEI_PANEL, inverse, offset, scale[i], margin[i], cut[i], (uint32_t)first,
                list.latent, list.value, list.count, list.stride);
            saei_screen_done(job, r0 + i, count, &top[i]);
            taken[i] = false;
        }
        latent[i] = taken[i] ? list.latent : spare->latent;
        value[i] = taken[i] ? list.value : spare->value;
        length[i] = taken[i] ? (uint32_t)list.count : 0;
        if (taken[i]) continue;
        cut[i] = FLT_MAX; /* nothing is kept, and that in the spare list */
        margin[i] = 0;
    }
    job->kernels->keep_tile(dot, inverse, offset, scale, margin, cut, (uint32_t)first, latent,
                            value, length);
    for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
        if (taken[i]) saei_screen_done(job, r0 + i, length[i], &top[i]);
}

/* One row without screening, from W_enc as it lies. */
static void saei_encode_exact_row(const saei_encode_job *job, size_t r, saei_top *top) {
    const sae_encode_args *a = job->args;
    const float *x = a->x + r * a->ld;
    size_t count = 0, at = r * job->code->stride;
    top->count = 0;
    top->lower_bound = top->error_bound = 0;
    for (size_t first = 0; first < job->m; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, job->m - first);
        uint32_t list[SAEI_PANEL];
        float product[SAEI_PANEL], bias[SAEI_PANEL];
        memset(bias, 0, sizeof bias);
        memset(product, 0, sizeof product);
        memcpy(bias, a->bias + first, width * sizeof *bias);
        for (size_t j = 0; j < width; j++) list[j] = (uint32_t)(first + j);
        job->kernels->products(a->d, x, width, list, a->W, a->ld, false, product);
        if (a->select == SAE_SELECT_TOP_K) saei_keep_top(job, first, width, product, bias, top);
        else
            for (size_t j = 0; j < width; j++) {
                float stored;
                if (!saei_selected(job, product[j], first + j, &stored)) continue;
                if (count < job->code->stride) {
                    job->code->latent[at + count] = list[j];
                    job->code->pre[at + count] = stored;
                }
                count++;
            }
    }
    job->code->count[r] = (uint32_t)count;
}

/* The canonical p of a row's candidates for TOP_K decides. Lowers *least to the k-th largest, a
   share of |x|, for the next estimate. */
static void saei_screen_top_end(const saei_encode_job *job, size_t r, const saei_quantized *q,
                                saei_top *top, saei_top *spare, double *least) {
    const sae_encode_args *a = job->args;
    size_t at = r * job->code->stride;
    bool sane = q->inverse >= 0, fits = top->count <= job->room.capacity;
    double share;
    if (!sane || !fits || !saei_top_tighten(job->kernels, top, job->k))
        saei_encode_exact_row(job, r, top);
    else {
        spare->count = 0;
        spare->lower_bound = 0;
        job->kernels->products(a->d, a->x + r * a->ld, top->count, top->latent, a->W, a->ld,
                               false, top->value);
        for (size_t j = 0; j < top->count; j++) {
            float p = top->value[j] + a->bias[top->latent[j]];
            if (!(p > 0)) continue;
            spare->latent[spare->count] = top->latent[j];
            spare->value[spare->count++] = p;
        }
        top = spare;
    }
    saei_top_finish(job->kernels, top, job->k);
    job->code->count[r] = (uint32_t)saei_top_write(top, job->k, job->m, NULL,
                                                   job->code->latent + at, job->code->pre + at);
    share = sane && top->lower_bound > 0 ? (double)(top->lower_bound / q->norm) : 0;
    if (share < *least) *least = share;
}

/* The same for the other selections, which need no estimate. A trainer's lists hold any row;
   prepared ones may be overrun, and have count > stride then. */
static void saei_screen_row_end(const saei_encode_job *job, size_t r, const saei_quantized *q,
                                saei_top *top, saei_top *spare, double *least) {
    const sae_encode_args *a = job->args;
    sae_code *code = job->code;
    size_t at = r * code->stride, kept = 0;
    if (a->select == SAE_SELECT_TOP_K) {
        saei_screen_top_end(job, r, q, top, spare, least);
        return;
    }
    *least = 0;
    if (!(q->inverse >= 0)) {
        saei_encode_exact_row(job, r, top);
        return;
    }
    if (code->count[r] > code->stride) return; /* overrun, as the caller sees */
    job->kernels->products(a->d, a->x + r * a->ld, code->count[r], code->latent + at, a->W, a->ld,
                           false, code->pre + at);
    for (size_t j = at; j < at + code->count[r]; j++) {
        uint32_t i = code->latent[j];
        float stored;
        if (!saei_selected(job, code->pre[j], i, &stored)) continue;
        code->latent[at + kept] = i;
        code->pre[at + kept++] = stored;
    }
    code->count[r] = (uint32_t)kept;
}

/* Part `part` of the rows, from packed panels to the code. worker: whose memory it works in. */
static void saei_screen_rows(void *arg, size_t part, size_t worker) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    size_t r0 = part * job->part_rows, r1 = saei_part_end(part, job->part_rows, a->n);
    int16_t *words = job->room.words + worker * SAEI_ENCODE_ROWS * a->ld;
    const uint32_t *panels = (const uint32_t *)(const void *)job->room.panels;
    double *least = &job->room.least[part];
    saei_top top[SAEI_ENCODE_ROWS], spare = saei_tops(job, worker, r1 - r0, top);
    saei_quantized q[SAEI_ENCODE_ROWS];
    int32_t dot[SAEI_TILE_ROWS * SAEI_PANEL];
    memset(q, 0, sizeof q);
    for (size_t r = r0; r < r1; r++) {
        job->kernels->quantize(a->ld, a->x + r * a->ld, words + (r - r0) * a->ld, &q[r - r0]);
        job->code->count[r] = 0;
        if (a->select == SAE_SELECT_TOP_K)
            top[r - r0].lower_bound = job->cut * q[r - r0].norm;
    }
    for (size_t first = 0; first < job->m; first += SAEI_PANEL)
        for (size_t g = r0; g < r1; g += SAEI_TILE_ROWS) {
            const int16_t *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = words + (saei_min(g + i, r1 - 1) - r0) * a->ld;
            job->kernels->screen(x, panels + first * (a->ld / 2), a->ld / 2, dot);
            saei_screen_keep(job, g, saei_min(SAEI_TILE_ROWS, r1 - g), first, dot, &q[g - r0],
                             &top[g - r0], &spare);
        }
    *least = HUGE_VAL;
    for (size_t r = r0; r < r1; r++)
        saei_screen_row_end(job, r, &q[r - r0], &top[r - r0], &spare, least);
}
