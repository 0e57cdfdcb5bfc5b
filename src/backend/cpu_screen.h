#pragma once
#include "cpu_select.h"

/* ==== >>cpu: screened encode ================================================================== */
/* The product takes 3/4 of a sparse step, and a few in a hundred of its results are used. So rows
   of x and W_enc are rounded to int16 with a scale each, x = q / s + dx and w = v / t + dw; the
   integer product q.v is exact (see quantize) and twice as fast as float's; and
       |p - (q.v / (s t) + bias)| <= |dx||w| + |x^||dw| + (d + 32) 2^-24 |x||w|,   x^ = q / s
   by Cauchy and Schwarz, the last term for the roundings of the canonical product and of the left
   side. What this bound cannot exclude is computed again in the canonical order, and only that
   decides: the bits are those of the plain path. W1: 1.02 candidates for each entry kept. With
   SAE_CBLAS a float product of the user's BLAS proposes instead, on every CPU.
   Two cores of 540 GFLOP/s: predicted 16 ms of product at the int16 peak + 8 of the rest, measured
   26; the plain path takes 42. See bench/RESULTS.md. */

/* What the bound needs of a row of x or W_enc; and its int16, unless a BLAS takes it as it is
   (t->z). A BLAS may take subnormal numbers for 0, and squares below 1e-45 are lost here. */
static void saei_screen_row(const saei_task *t, const float *x, int16_t *words, saei_quantized *q) {
    double norm;
    if (!t->z) {
        t->kernels->quantize(t->ld, x, words, q);
        return;
    }
    norm = sqrt(t->kernels->dot(t->ld, x, x));
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
    saei_task *t = (saei_task *)arg;
    const sae_encode_args *a = t->args;
    size_t first = part * SAEI_PANEL, count = saei_min(SAEI_PANEL, t->m - first);
    size_t all = saei_ceil_div(t->m, SAEI_PANEL) * SAEI_PANEL;
    int16_t *words = t->s.words + worker * SAEI_ENCODE_ROWS * t->ld;
    float *inverse = t->s.screen + first, *offset = inverse + all;
    float *facts = t->s.screen + 2 * all + part * SAEI_SCREEN_FACTS;
    const uint32_t *row[SAEI_PANEL];
    memset(facts, 0, SAEI_SCREEN_FACTS * sizeof *facts);
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        saei_quantized q;
        float size;
        row[j] = (const uint32_t *)(const void *)(words + j * t->ld);
        inverse[j] = 0;
        offset[j] = -FLT_MAX;
        if (j >= count) continue;
        saei_screen_row(t, a->W + (first + j) * t->ld, words + j * t->ld, &q);
        inverse[j] = q.inverse;
        offset[j] = a->bias[first + j];
        size = fabsf(offset[j]);
        if (a->select == SAE_SELECT_WINDOW) { /* p > theta - bandwidth / 2 as offset + u > 0 */
            offset[j] += 0.5f * fabsf(a->bandwidth) - a->theta[first + j];
            size += fabsf(a->theta[first + j]) + fabsf(a->bandwidth);
        }
        if (q.inverse < 0 || !(size < 1e15f)) t->s.counts[part] = 1;
        facts[0] = q.norm > facts[0] ? q.norm : facts[0];
        facts[1] = q.error > facts[1] ? q.error : facts[1];
        facts[2] = size > facts[2] ? size : facts[2];
    }
    if (t->z) return;
    t->kernels->pack(row, count, t->ld / 2,
                     (uint32_t *)(void *)t->s.packed + part * SAEI_PANEL * (t->ld / 2));
}

/* Where a row's candidates are kept. */
typedef struct saei_screen_list {
    uint32_t *latent;
    float *value;
    size_t count, stride;
} saei_screen_list;

/* Row r's list, with what a proposal must exceed, and what is taken off it to bound p from below.
   error: how far off it may be. False: the list was overrun; the row goes the plain way later. */
static bool saei_screen_ready(const saei_task *t, size_t r, float error, saei_top *top,
                              saei_screen_list *list, float *cut, float *shift) {
    const sae_code *code = t->code;
    bool top_k = t->args->select == SAE_SELECT_TOP_K;
    float at, e;
    if (top_k && top->count + 2 * SAEI_PANEL > t->s.capacity) {
        if (top->count > t->s.capacity) return false;
        saei_top_tighten(t->kernels, top, t->which);
    }
    at = top_k ? top->cut : t->args->select == SAE_SELECT_BATCH_TOP_K ? t->a : 0;
    e = (error + 2e-6f * fabsf(at)) * (1 + 4 * FLT_EPSILON);
    *cut = at - e;
    *shift = top_k ? e : 0;
    list->stride = top_k ? t->s.capacity : code->stride;
    list->latent = top_k ? top->latent : code->latent + r * list->stride;
    list->value = top_k ? top->value : code->pre + r * list->stride;
    list->count = top_k ? top->count : code->count[r];
    if (top_k && top->slack < 2.01f * e) top->slack = 2.01f * e; /* e below, e above, roundings */
    return true;
}

static void saei_screen_done(const saei_task *t, size_t r, size_t count, saei_top *top) {
    if (t->args->select == SAE_SELECT_TOP_K) top->count = count;
    else t->code->count[r] = (uint32_t)count;
}

/* The candidates of `rows` rows from r0 on, one tile, among a panel's latents. q, top: of these
   rows. */
static void saei_screen_keep(const saei_task *t, size_t r0, size_t rows, size_t first,
                             const int32_t *dot, const float *facts, const saei_quantized *q,
                             saei_top *top, const saei_top *spare) {
    const float rounding = (float)(t->d + 32) * 6e-8f;
    const float *inverse = t->s.screen + first;
    const float *offset = inverse + saei_ceil_div(t->m, SAEI_PANEL) * SAEI_PANEL;
    float scale[SAEI_TILE_ROWS], shift[SAEI_TILE_ROWS], cut[SAEI_TILE_ROWS];
    uint32_t *latent[SAEI_TILE_ROWS], length[SAEI_TILE_ROWS];
    float *value[SAEI_TILE_ROWS];
    bool taken[SAEI_TILE_ROWS];
    for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
        saei_screen_list list;
        float error = saei_screen_error(&q[i < rows ? i : 0], facts, rounding);
        taken[i] = i < rows
                   && saei_screen_ready(t, r0 + i, error, &top[i], &list, &cut[i], &shift[i]);
        scale[i] = taken[i] ? q[i].inverse : 0;
        if (taken[i] && list.count + SAEI_LIST_RESERVE > list.stride) { /* nearly full: alone */
            size_t count = t->kernels->keep_screened(
                dot + i * SAEI_PANEL, inverse, offset, scale[i], shift[i], cut[i], (uint32_t)first,
                list.latent, list.value, list.count, list.stride);
            saei_screen_done(t, r0 + i, count, &top[i]);
            taken[i] = false;
        }
        latent[i] = taken[i] ? list.latent : spare->latent;
        value[i] = taken[i] ? list.value : spare->value;
        length[i] = taken[i] ? (uint32_t)list.count : 0;
        if (taken[i]) continue;
        cut[i] = FLT_MAX; /* nothing is kept, and that in the spare list */
        shift[i] = 0;
    }
    t->kernels->keep_tile(dot, inverse, offset, scale, shift, cut, (uint32_t)first, latent, value,
                          length);
    for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
        if (taken[i]) saei_screen_done(t, r0 + i, length[i], &top[i]);
}

/* One row without screening, from W_enc as it lies. */
static void saei_encode_plain_row(const saei_task *t, size_t r, saei_top *top) {
    const sae_encode_args *a = t->args;
    const float *x = a->x + r * t->ld;
    size_t count = 0, at = r * t->code->stride;
    top->count = 0;
    top->cut = top->slack = 0;
    for (size_t first = 0; first < t->m; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, t->m - first);
        uint32_t list[SAEI_PANEL];
        float product[SAEI_PANEL], bias[SAEI_PANEL];
        memset(bias, 0, sizeof bias);
        memset(product, 0, sizeof product);
        memcpy(bias, a->bias + first, width * sizeof *bias);
        for (size_t j = 0; j < width; j++) list[j] = (uint32_t)(first + j);
        t->kernels->products(t->d, x, width, list, a->W, t->ld, false,
                             product);
        if (a->select == SAE_SELECT_TOP_K) saei_keep_top(t, first, width, product, bias, top);
        else
            for (size_t j = 0; j < width; j++) {
                float stored;
                if (!saei_selected(t, product[j], first + j, &stored)) continue;
                if (count < t->code->stride) {
                    t->code->latent[at + count] = list[j];
                    t->code->pre[at + count] = stored;
                }
                count++;
            }
    }
    t->code->count[r] = (uint32_t)count;
}

/* The canonical p of a row's candidates for TOP_K decides. Lowers *least to the k-th largest, a
   share of |x|, for the next guess. */
static void saei_screen_top_end(const saei_task *t, size_t r, const saei_quantized *q,
                                saei_top *top, saei_top *spare, double *least) {
    const sae_encode_args *a = t->args;
    size_t at = r * t->code->stride;
    bool sane = q->inverse >= 0, fits = top->count <= t->s.capacity;
    double guess;
    if (!sane || !fits || !saei_top_tighten(t->kernels, top, t->which))
        saei_encode_plain_row(t, r, top);
    else {
        spare->count = 0;
        spare->cut = 0;
        t->kernels->products(t->d, a->x + r * t->ld, top->count, top->latent, a->W, t->ld,
                             false, top->value);
        for (size_t j = 0; j < top->count; j++) {
            float p = top->value[j] + a->bias[top->latent[j]];
            if (!(p > 0)) continue;
            spare->latent[spare->count] = top->latent[j];
            spare->value[spare->count++] = p;
        }
        top = spare;
    }
    saei_top_finish(t->kernels, top, t->which);
    t->code->count[r] = (uint32_t)saei_top_write(top, t->which, t->m, NULL, t->code->latent + at,
                                                 t->code->pre + at);
    guess = sane && top->cut > 0 ? (double)(top->cut / q->norm) : 0;
    if (guess < *least) *least = guess;
}

/* The same for the other selections, which need no guess. A trainer's lists hold any row; prepared
   ones may be overrun, and have count > stride then. */
static void saei_screen_row_end(const saei_task *t, size_t r, const saei_quantized *q,
                                saei_top *top, saei_top *spare, double *least) {
    const sae_encode_args *a = t->args;
    size_t at = r * t->code->stride, kept = 0;
    if (a->select == SAE_SELECT_TOP_K) {
        saei_screen_top_end(t, r, q, top, spare, least);
        return;
    }
    *least = 0;
    if (!(q->inverse >= 0)) {
        saei_encode_plain_row(t, r, top);
        return;
    }
    if (t->code->count[r] > t->code->stride) return; /* overrun, as the caller sees */
    t->kernels->products(t->d, a->x + r * t->ld, t->code->count[r], t->code->latent + at, a->W,
                         t->ld, false, t->code->pre + at);
    for (size_t j = at; j < at + t->code->count[r]; j++) {
        uint32_t i = t->code->latent[j];
        float stored;
        if (!saei_selected(t, t->code->pre[j], i, &stored)) continue;
        t->code->latent[at + kept] = i;
        t->code->pre[at + kept++] = stored;
    }
    t->code->count[r] = (uint32_t)kept;
}

static void saei_screen_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const sae_encode_args *a = t->args;
    size_t r0 = part * t->stride, r1 = saei_part_end(part, t->stride, a->n);
    size_t all = saei_ceil_div(t->m, SAEI_PANEL) * SAEI_PANEL;
    const float *facts = t->s.screen + 2 * all;
    int16_t *words = t->s.words + worker * SAEI_ENCODE_ROWS * t->ld;
    saei_top top[SAEI_ENCODE_ROWS], spare = saei_tops(t, worker, r1 - r0, top);
    saei_quantized q[SAEI_ENCODE_ROWS];
    int32_t dot[SAEI_TILE_ROWS * SAEI_PANEL];
    memset(q, 0, sizeof q);
    for (size_t r = r0; r < r1; r++) {
        t->kernels->quantize(t->ld, a->x + r * t->ld, words + (r - r0) * t->ld, &q[r - r0]);
        t->code->count[r] = 0;
        if (a->select == SAE_SELECT_TOP_K) top[r - r0].cut = t->a * q[r - r0].norm;
    }
    for (size_t first = 0; first < t->m; first += SAEI_PANEL, facts += SAEI_SCREEN_FACTS)
        for (size_t g = r0; g < r1; g += SAEI_TILE_ROWS) {
            const int16_t *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = words + (saei_min(g + i, r1 - 1) - r0) * t->ld;
            t->kernels->screen(x, (const uint32_t *)(const void *)t->s.packed
                                      + first * (t->ld / 2), t->ld / 2, dot);
            saei_screen_keep(t, g, saei_min(SAEI_TILE_ROWS, r1 - g), first, dot, facts, &q[g - r0],
                             &top[g - r0], &spare);
        }
    t->s.sums[part] = HUGE_VAL;
    for (size_t r = r0; r < r1; r++)
        saei_screen_row_end(t, r, &q[r - r0], &top[r - r0], &spare, &t->s.sums[part]);
}

#if defined(SAE_CBLAS)
/* -- with a BLAS: blocks of its float products propose. They and the canonical ones are d u |x||w|
   from the true ones at most, u = 2^-24, whatever the order, fused or not, and a thousandth of that
   more for terms of u^2. 2.5 (d + 32) u |x||w| holds both with a fifth to spare. W1 on AVX2, two
   cores: 86 ms, OpenBLAS's product 69 of them; the plain path 92 -- */

/* The candidates of row r among a panel's latents. */
static void saei_blas_keep(const saei_task *t, size_t r, size_t first, const float *p, float error,
                           saei_top *top) {
    const float *offset = t->s.screen + saei_ceil_div(t->m, SAEI_PANEL) * SAEI_PANEL + first;
    saei_screen_list list;
    float cut, shift;
    size_t count;
    if (!saei_screen_ready(t, r, error, top, &list, &cut, &shift)) return;
    count = t->kernels->keep_above(p, offset, false, saei_min(SAEI_PANEL, t->m - first), cut,
                                   (uint32_t)first, list.latent, list.value, list.count,
                                   list.stride, NULL);
    for (size_t j = list.count; shift > 0 && j < saei_min(count, list.stride); j++)
        list.value[j] -= shift;
    saei_screen_done(t, r, count, top);
}

/* SAEI_BLAS_PART of rows [lo, hi), of which t->s.blas has the products with the latents from t->n
   on. */
static void saei_blas_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    const sae_encode_args *a = t->args;
    size_t r0 = t->lo + part * SAEI_BLAS_PART, r1 = saei_min(r0 + SAEI_BLAS_PART, t->hi);
    size_t all = saei_ceil_div(t->m, SAEI_PANEL) * SAEI_PANEL, threads = (size_t)t->w->ctx->threads;
    size_t lists = threads * SAEI_TOP_LISTS, end = saei_min(t->n + SAEI_BLAS_LATENTS, t->m);
    float rounding = (float)(t->d + 32) * 1.5e-7f;
    double *least = &t->s.sums[r0 / SAEI_BLAS_PART];
    saei_top spare = saei_top_list(t, worker * SAEI_TOP_LISTS);
    if (!t->n) *least = HUGE_VAL;
    for (size_t r = r0; r < r1; r++) {
        const float *facts = t->s.screen + 2 * all + t->n / SAEI_PANEL * SAEI_SCREEN_FACTS;
        const float *p = t->s.blas + (r - t->lo) * SAEI_BLAS_LATENTS;
        saei_quantized *q = &t->s.facts[r - t->lo];
        saei_top *top = &t->s.tops[r - t->lo];
        if (!t->n) {
            saei_screen_row(t, a->x + r * t->ld, NULL, q);
            *top = saei_top_list(t, lists + r - t->lo);
            if (a->select == SAE_SELECT_TOP_K) top->cut = t->a * q->norm;
            t->code->count[r] = 0;
        }
        for (size_t first = t->n; first < end && q->inverse >= 0;
             first += SAEI_PANEL, p += SAEI_PANEL, facts += SAEI_SCREEN_FACTS)
            saei_blas_keep(t, r, first, p, saei_screen_error(q, facts, rounding), top);
        if (end == t->m) saei_screen_row_end(t, r, q, top, &spare, least);
    }
}

static void saei_blas_encode(saei_task *t) {
    const sae_encode_args *a = t->args;
    for (t->lo = 0; t->lo < a->n; t->lo = t->hi) {
        t->hi = saei_min(t->lo + SAEI_BLAS_ROWS, a->n);
        for (t->n = 0; t->n < t->m; t->n += SAEI_BLAS_LATENTS) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(t->hi - t->lo),
                        (int)saei_min(SAEI_BLAS_LATENTS, t->m - t->n), (int)t->d, 1,
                        a->x + t->lo * t->ld, (int)t->ld, a->W + t->n * t->ld, (int)t->ld, 0,
                        t->s.blas, SAEI_BLAS_LATENTS);
            saei_parallel_workers(t->w->ctx, saei_ceil_div(t->hi - t->lo, SAEI_BLAS_PART),
                                  saei_blas_part, t);
        }
    }
}
#endif

/* Whether screening pays and holds; packs W_enc for it if so, or only measures it for a BLAS.
   known: entries a row expected. */
static bool saei_screen_begin(saei_task *t, double known) {
    const sae_encode_args *a = t->args;
    size_t panels = saei_ceil_div(t->m, SAEI_PANEL);
    t->z = SAEI_BLAS_ROWS > 0 ? t->s.blas : NULL;
    if ((!t->kernels->screen && !t->z) || a->list || a->select == SAE_SELECT_ALL || t->d > 16384
        || known * 20 > (double)t->m || a->n < SAEI_TILE_ROWS || panels > 65536)
        return false;
    memset(t->s.counts, 0, panels * sizeof *t->s.counts);
    saei_parallel_workers(t->w->ctx, panels, saei_screen_pack_part, t);
    for (size_t i = 0; i < panels; i++)
        if (t->s.counts[i]) return false;
    return true;
}

/* All rows through saei_encode_part, or screened for saei_screen_part; t->parts: how many sums are
   used. A task has many rows, as it reads all panels, but every thread should have four. */
static void saei_encode_rows(saei_task *t, sae_part_fn fn) {
    size_t share = saei_align16(t->args->n / (4 * (size_t)t->w->ctx->threads));
    t->stride = saei_min(saei_max(share, 32), SAEI_ENCODE_ROWS);
    t->parts = saei_ceil_div(t->args->n, t->stride);
#if defined(SAE_CBLAS)
    if (fn == saei_screen_part) {
        t->parts = saei_ceil_div(t->args->n, SAEI_BLAS_PART);
        saei_blas_encode(t);
        return;
    }
#endif
    saei_parallel_workers(t->w->ctx, t->parts, fn, t);
}

/* Leaves the `want` largest of the code's `total` positive values, ties to the lower index (row,
   then latent): a histogram over the upper, then the lower half of the bits finds the smallest
   value to keep. Returns it. */
static float saei_keep_batch(sae_code *code, size_t want, uint32_t *histogram) {
    uint32_t upper = 0, lower = 0, bits;
    size_t above = 0, ties;
    float cut;
    for (int half = 0; half < 2; half++) {
        uint32_t bucket = 65536;
        memset(histogram, 0, 65536 * sizeof *histogram);
        for (size_t r = 0; r < code->rows; r++) {
            const float *v = code->pre + r * code->stride;
            for (size_t j = 0; j < code->count[r]; j++) {
                memcpy(&bits, v + j, sizeof bits);
                if (!half) histogram[bits >> 16]++;
                else if (bits >> 16 == upper) histogram[bits & 0xFFFF]++;
            }
        }
        while (above + histogram[--bucket] < want) above += histogram[bucket];
        if (!half) upper = bucket;
        else lower = bucket;
    }
    ties = want - above;
    bits = upper << 16 | lower;
    memcpy(&cut, &bits, sizeof cut);
    for (size_t r = 0; r < code->rows; r++) {
        uint32_t *latent = code->latent + r * code->stride;
        float *v = code->pre + r * code->stride;
        uint32_t kept = 0;
        for (size_t j = 0; j < code->count[r]; j++) {
            bool tie = v[j] == cut && ties > 0;
            if (tie) ties--;
            if (v[j] > cut || tie) {
                latent[kept] = latent[j];
                v[kept++] = v[j];
            }
        }
        code->count[r] = kept;
    }
    return cut;
}

static void saei_cpu_encode(const sae_work *w, const sae_encode_args *a, sae_code *code) {
    saei_task t = saei_task_of(w);
    size_t total = saei_code_entries(code); /* of the last batch */
    sae_part_fn fn = saei_encode_part;
    double known;
    known = code->rows ? (double)total / (double)code->rows : (double)a->m;
    if (a->select == SAE_SELECT_TOP_K) known = (double)a->k;
    t.args = a;
    t.code = code;
    t.d = a->d;
    t.ld = a->ld;
    t.m = a->list ? *a->list_count : a->m;
    t.which = saei_min(a->k, t.m);
    code->rows = a->n;
    if (a->select == SAE_SELECT_BATCH_TOP_K || (a->select == SAE_SELECT_TOP_K && !a->list))
        t.a = *a->warm;
    if (a->select == SAE_SELECT_BATCH_TOP_K && !(t.a > 0)) known = (double)a->m;
    if (saei_screen_begin(&t, known)) fn = saei_screen_part;
    /* Bits cost little, and serve sums of lists that are not yet dense, too. */
    code->bits = code->fires && fn == saei_encode_part && !a->list && known * 32 > (double)t.m
                 && a->select != SAE_SELECT_TOP_K && a->select != SAE_SELECT_BATCH_TOP_K;
    if (fn == saei_encode_part)
        saei_parallel(w->ctx, saei_ceil_div(t.m, SAEI_PANEL), saei_pack_part, &t);
    saei_encode_rows(&t, fn);
    if (a->select == SAE_SELECT_TOP_K && fn == saei_screen_part) {
        double least = HUGE_VAL; /* over the rows, of the k-th largest p / |x| */
        for (size_t i = 0; i < t.parts; i++) least = t.s.sums[i] < least ? t.s.sums[i] : least;
        *a->warm = 0.97f * (float)least;
    }
    if (a->select != SAE_SELECT_BATCH_TOP_K) return;
    for (bool again = true;;) {
        total = saei_code_entries(code);
        if (total >= a->k * a->n || t.a <= 0) break;
        t.a = again && fn == saei_screen_part ? 0.7f * t.a : 0; /* the guess was too high */
        again = false;
        if (!(t.a > 0) && fn == saei_screen_part) {
            saei_parallel(w->ctx, saei_ceil_div(t.m, SAEI_PANEL), saei_pack_part, &t);
            fn = saei_encode_part;
        }
        saei_encode_rows(&t, fn);
    }
    *a->warm = total > a->k * a->n ? 0.96f * saei_keep_batch(code, a->k * a->n, t.s.counts) : 0;
}
