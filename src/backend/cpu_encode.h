#pragma once
#include "cpu.h"

/* ==== >>cpu: encode =========================================================================== */
/* By exact products, or screened (>>kernels: the screen). With SAE_CBLAS a float product of the
   user's BLAS proposes instead of the int16 one, on every CPU. */

static void saei_pack_part(void *arg, size_t part) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    size_t first = part * SAEI_PANEL;
    saei_pack_panel(job->kernels, a->W, a->ld, a->d, a->list, first,
                    saei_min(SAEI_PANEL, job->m - first), job->room.panels + first * a->d);
}

/* Bits of 48 latents from `first`, a multiple of 48, into those of row r. */
static void saei_active_bits_put(const sae_code *code, size_t r, size_t m, size_t first,
                                 uint64_t bits) {
    uint64_t *word = code->active_bits + r * saei_ceil_div(m, 64) + first / 64;
    size_t shift = first % 64;
    word[0] |= bits << shift;
    if (shift > 64 - SAEI_PANEL && bits >> (64 - shift)) word[1] |= bits >> (64 - shift);
}

static void saei_keep_row(const saei_encode_job *job, size_t r, size_t first, size_t count,
                          const float *product, const float *bias, const float *theta) {
    const sae_encode_args *a = job->args;
    const sae_code *code = job->code;
    uint32_t *latent = code->latent + r * code->stride;
    float *pre = code->pre + r * code->stride;
    size_t before = code->count[r], after = before;
    uint64_t kept = ((uint64_t)1 << count) - 1;
    switch (a->select) {
    case SAE_SELECT_ALL:
        for (size_t j = 0; j < count; j++) {
            latent[after] = (uint32_t)(first + j);
            pre[after++] = product[j] + bias[j];
        }
        break;
    case SAE_SELECT_WINDOW:
        after = job->kernels->keep_window(product, bias, theta, a->bandwidth, count,
                                          (uint32_t)first, latent, pre, before, code->stride,
                                          &kept);
        break;
    case SAE_SELECT_GATE:
    case SAE_SELECT_POSITIVE:
    case SAE_SELECT_BATCH_TOP_K:
    case SAE_SELECT_TOP_K: /* through saei_keep_top */
        after = job->kernels->keep_above(product, bias, a->select == SAE_SELECT_GATE, count,
                                         job->cut, (uint32_t)first, latent, pre, before,
                                         code->stride, &kept);
        break;
    }
    if (code->has_active_bits) saei_active_bits_put(code, r, job->m, first, kept);
    if (a->list)
        for (size_t j = before; j < after; j++) latent[j] = a->list[latent[j]];
    code->count[r] = (uint32_t)after;
}

static void saei_encode_part(void *arg, size_t part, size_t worker) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    sae_code *code = job->code;
    size_t r0 = part * job->part_rows, r1 = saei_part_end(part, job->part_rows, a->n);
    bool top_k = a->select == SAE_SELECT_TOP_K;
    saei_top top[SAEI_ENCODE_ROWS];
    float product[SAEI_TILE_ROWS * SAEI_PANEL], bias[SAEI_PANEL], theta[SAEI_PANEL];
    saei_tops(job, worker, r1 - r0, top);
    memset(bias, 0, sizeof bias);
    for (size_t r = r0; r < r1; r++) code->count[r] = 0;
    if (code->has_active_bits) {
        size_t words = saei_ceil_div(job->m, 64);
        memset(code->active_bits + r0 * words, 0, (r1 - r0) * words * sizeof(uint64_t));
    }
    for (size_t first = 0; first < job->m; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, job->m - first);
        for (size_t j = 0; j < count; j++) {
            size_t i = a->list ? a->list[first + j] : first + j;
            bias[j] = a->bias[i];
            theta[j] = a->theta ? a->theta[i] : 0;
        }
        for (size_t g = r0; g < r1; g += SAEI_TILE_ROWS) {
            const float *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = a->x + saei_min(g + i, r1 - 1) * a->ld;
            job->kernels->tile(x, SAEI_TILE_ROWS, job->room.panels + first * a->d, a->d, false,
                               product, SAEI_PANEL);
            for (size_t r = g; r < saei_min(g + SAEI_TILE_ROWS, r1); r++) {
                const float *row = product + (r - g) * SAEI_PANEL;
                if (top_k) saei_keep_top(job, first, count, row, bias, &top[r - r0]);
                else saei_keep_row(job, r, first, count, row, bias, theta);
            }
        }
    }
    for (size_t r = r0; top_k && r < r1; r++) {
        size_t at = r * code->stride;
        saei_top_finish(job->kernels, &top[r - r0], job->k);
        code->count[r] = (uint32_t)saei_top_write(&top[r - r0], job->k, job->m, a->list,
                                                  code->latent + at, code->pre + at);
    }
}

#if defined(SAE_CBLAS)
/* -- with a BLAS: blocks of its float products propose. They and the canonical ones are d u |x||w|
   from the true ones at most, u = 2^-24, whatever the order, fused or not, and a thousandth of that
   more for terms of u^2. 2.5 (d + 32) u |x||w| holds both with a fifth to spare. W1 on AVX2, two
   cores: 86 ms, OpenBLAS's product 69 of them; the exact path 92 -- */

typedef struct saei_blas_job {
    saei_encode_job *encode;
    size_t lo, hi;         /* rows of the block */
    size_t first;          /* its first latent */
    float *products;       /* [SAEI_BLAS_ROWS][SAEI_BLAS_LATENTS] */
    saei_top *tops;        /* of the block's rows */
    saei_quantized *facts; /* alike */
} saei_blas_job;

/* The candidates of row r among a panel's latents. */
static void saei_blas_keep(const saei_encode_job *job, size_t r, size_t first, const float *p,
                           float error, saei_top *top) {
    saei_screen_list list;
    float cut, margin;
    size_t count;
    if (!saei_screen_ready(job, r, error, top, &list, &cut, &margin)) return;
    count = job->kernels->keep_above(p, job->room.offset + first, false,
                                     saei_min(SAEI_PANEL, job->m - first), cut, (uint32_t)first,
                                     list.latent, list.value, list.count, list.stride, NULL);
    for (size_t j = list.count; margin > 0 && j < saei_min(count, list.stride); j++)
        list.value[j] -= margin;
    saei_screen_done(job, r, count, top);
}

/* SAEI_BLAS_PART of the block's rows. */
static void saei_blas_part(void *arg, size_t part, size_t worker) {
    saei_blas_job *b = (saei_blas_job *)arg;
    saei_encode_job *job = b->encode;
    const sae_encode_args *a = job->args;
    size_t r0 = b->lo + part * SAEI_BLAS_PART, r1 = saei_min(r0 + SAEI_BLAS_PART, b->hi);
    size_t lists = (size_t)job->ctx->threads * SAEI_TOP_LISTS;
    size_t end = saei_min(b->first + SAEI_BLAS_LATENTS, job->m);
    float rounding = (float)(a->d + 32) * 1.5e-7f;
    double *least = &job->room.least[r0 / SAEI_BLAS_PART];
    saei_top spare = saei_top_list(job, worker * SAEI_TOP_LISTS);
    if (!b->first) *least = HUGE_VAL;
    for (size_t r = r0; r < r1; r++) {
        const float *facts = job->room.facts + b->first / SAEI_PANEL * SAEI_SCREEN_FACTS;
        const float *p = b->products + (r - b->lo) * SAEI_BLAS_LATENTS;
        saei_quantized *q = &b->facts[r - b->lo];
        saei_top *top = &b->tops[r - b->lo];
        if (!b->first) {
            saei_screen_row(job, a->x + r * a->ld, NULL, q);
            *top = saei_top_list(job, lists + r - b->lo);
            if (a->select == SAE_SELECT_TOP_K) top->lower_bound = job->cut * q->norm;
            job->code->count[r] = 0;
        }
        for (size_t first = b->first; first < end && q->inverse >= 0;
             first += SAEI_PANEL, p += SAEI_PANEL, facts += SAEI_SCREEN_FACTS)
            saei_blas_keep(job, r, first, p, saei_screen_error(q, facts, rounding), top);
        if (end == job->m) saei_screen_row_end(job, r, q, top, &spare, least);
    }
}

static void saei_blas_encode(saei_encode_job *job, const saei_cpu_scratch *s) {
    const sae_encode_args *a = job->args;
    saei_blas_job b;
    b.encode = job;
    b.products = s->products;
    b.tops = s->tops;
    b.facts = s->facts;
    for (b.lo = 0; b.lo < a->n; b.lo = b.hi) {
        b.hi = saei_min(b.lo + SAEI_BLAS_ROWS, a->n);
        for (b.first = 0; b.first < job->m; b.first += SAEI_BLAS_LATENTS) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(b.hi - b.lo),
                        (int)saei_min(SAEI_BLAS_LATENTS, job->m - b.first), (int)a->d, 1,
                        a->x + b.lo * a->ld, (int)a->ld, a->W + b.first * a->ld, (int)a->ld, 0,
                        b.products, SAEI_BLAS_LATENTS);
            saei_parallel_workers(job->ctx, saei_ceil_div(b.hi - b.lo, SAEI_BLAS_PART),
                                  saei_blas_part, &b);
        }
    }
}
#endif

/* Whether screening pays and holds; packs W_enc for it if so, or only measures it for a BLAS.
   known: entries a row is expected to have. */
static bool saei_screen_begin(saei_encode_job *job, double known) {
    const sae_encode_args *a = job->args;
    job->blas = SAEI_BLAS_ROWS > 0;
    if ((!job->kernels->screen && !job->blas) || a->list || a->select == SAE_SELECT_ALL
        || known * 20 > (double)job->m || a->n < SAEI_TILE_ROWS || !saei_screen_fits(a->d, job->m))
        return false;
    return saei_screen_pack(job);
}

/* All rows, screened or not; returns how many of room.least are used. A part has many rows, as it
   reads all panels, but every thread should have four. */
static size_t saei_encode_rows(saei_encode_job *job, const saei_cpu_scratch *s, bool screened) {
    size_t n = job->args->n, share = saei_align16(n / (4 * (size_t)job->ctx->threads)), parts;
    job->part_rows = saei_min(saei_max(share, 32), SAEI_ENCODE_ROWS);
    parts = saei_ceil_div(n, job->part_rows);
#if defined(SAE_CBLAS)
    if (screened) {
        saei_blas_encode(job, s);
        return saei_ceil_div(n, SAEI_BLAS_PART);
    }
#endif
    (void)s;
    saei_parallel_workers(job->ctx, parts, screened ? saei_screen_rows : saei_encode_part, job);
    return parts;
}

static void saei_encode_pack(saei_encode_job *job) {
    saei_parallel(job->ctx, saei_ceil_div(job->m, SAEI_PANEL), saei_pack_part, job);
}

static saei_encode_job saei_encode_job_of(const sae_work *w, const sae_encode_args *a,
                                          sae_code *code, const saei_cpu_scratch *s) {
    saei_encode_job job;
    memset(&job, 0, sizeof job);
    job.ctx = w->ctx;
    job.kernels = w->ctx->kernels;
    job.args = a;
    job.code = code;
    job.m = a->list ? *a->list_count : a->m;
    job.k = saei_min(a->k, job.m);
    job.room.panels = s->panels;
    job.room.words = s->words;
    job.room.value = s->value;
    job.room.latent = s->latent;
    job.room.capacity = s->capacity;
    job.room.refused = s->integers;
    job.room.least = s->doubles;
    saei_screen_place(&job.room, job.m, s->screen);
    return job;
}

/* BATCH_TOP_K: the rows have all that exceeds the cut, an estimate. If that is fewer than k * n,
   they are encoded again with a lower one, then with none. */
static void saei_encode_batch_top(saei_encode_job *job, const saei_cpu_scratch *s, bool screened) {
    const sae_encode_args *a = job->args;
    size_t total;
    for (bool again = true;;) {
        total = saei_code_entries(job->code);
        if (total >= a->k * a->n || job->cut <= 0) break;
        job->cut = again && screened ? 0.7f * job->cut : 0;
        again = false;
        if (!(job->cut > 0) && screened) {
            saei_encode_pack(job);
            screened = false;
        }
        saei_encode_rows(job, s, screened);
    }
    *a->warm = total > a->k * a->n ? 0.96f * saei_keep_batch(job->code, a->k * a->n, s->integers)
                                   : 0;
}

static void saei_cpu_encode(const sae_work *w, const sae_encode_args *a, sae_code *code) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_encode_job job = saei_encode_job_of(w, a, code, &s);
    size_t last = saei_code_entries(code), parts; /* last: of the batch before */
    double known = code->rows ? (double)last / (double)code->rows : (double)a->m;
    bool screened;
    if (a->select == SAE_SELECT_TOP_K) known = (double)a->k;
    code->rows = a->n;
    if (a->select == SAE_SELECT_BATCH_TOP_K || (a->select == SAE_SELECT_TOP_K && !a->list))
        job.cut = *a->warm;
    if (a->select == SAE_SELECT_BATCH_TOP_K && !(job.cut > 0)) known = (double)a->m;
    screened = saei_screen_begin(&job, known);
    /* Bits cost little, and serve sums of lists that are not yet dense, too. */
    code->has_active_bits = code->active_bits && !screened && !a->list
                            && known * 32 > (double)job.m && a->select != SAE_SELECT_TOP_K
                            && a->select != SAE_SELECT_BATCH_TOP_K;
    if (!screened) saei_encode_pack(&job);
    parts = saei_encode_rows(&job, &s, screened);
    if (a->select == SAE_SELECT_TOP_K && screened) {
        double least = HUGE_VAL; /* over the rows, of the k-th largest p / |x| */
        for (size_t i = 0; i < parts; i++)
            least = job.room.least[i] < least ? job.room.least[i] : least;
        *a->warm = 0.97f * (float)least;
    }
    if (a->select == SAE_SELECT_BATCH_TOP_K) saei_encode_batch_top(&job, &s, screened);
}
