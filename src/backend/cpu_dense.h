#pragma once
#include "cpu.h"

/* ==== >>cpu: the dense phase ================================================================== */
/* A fresh dictionary without a k fires half of its latents. Then a list's rows are no longer few
   and far between: every sum reads the whole matrix, from the L3. So the matrix is copied into
   panels of 64 x 128 that lie in the L1 while 256 lists go over them, each from where it stopped;
   the lists are read as bits. The order of every sum is the one of add_rows, and so are the bits.
   W1, half dense, two cores of 540 GFLOP/s: a sum over all lists is 4.3 G multiply-adds, 16 ms at
   the FMA peak; predicted 21, as an entry's 8 FMAs take 9 loads, and a visit of 32 entries 24 more
   and 8 stores; measured 22 to 26, the dots 28. */

/* Whether panels pay: at one entry in 16 of n m. */
static bool saei_is_dense(const sae_work *w, size_t entries, size_t n) {
    return (double)entries * 16 >= (double)n * (double)w->shape.dict_size;
}

/* Lists of one part: many, as it reads all panels, but every thread should have four parts. */
static size_t saei_dense_targets(const sae_work *w, size_t lists) {
    size_t most = SAEI_DENSE_TARGETS;
    return lists >= 4 * most * (size_t)w->ctx->threads ? most : most / 2;
}

/* A matrix M [n][ld] in panels, those of a block of rows one after the other; none crosses
   blocks. */
typedef struct saei_dense_matrix {
    const float *M;
    size_t n, ld, block;
    float *panels;
} saei_dense_matrix;

/* One panel's rows. */
static void saei_dense_pack_part(void *arg, size_t part) {
    saei_dense_matrix *d = (saei_dense_matrix *)arg;
    size_t each = saei_ceil_div(d->block, SAEI_DENSE_ROWS);
    size_t lo = part / each * d->block + part % each * SAEI_DENSE_ROWS;
    size_t end = saei_part_end(part / each, d->block, d->n);
    size_t count = lo < end ? saei_min(SAEI_DENSE_ROWS, end - lo) : 0;
    for (size_t c = 0; c < d->ld; c += SAEI_DENSE_COLUMNS) {
        size_t width = saei_min(SAEI_DENSE_COLUMNS, d->ld - c);
        for (size_t r = 0; r < count; r++)
            memcpy(d->panels + lo * d->ld + c * count + r * width, d->M + (lo + r) * d->ld + c,
                   width * sizeof(float));
    }
}

/* Panels of M [n][ld] in blocks of `block` rows. */
static saei_dense_matrix saei_dense_pack(const sae_work *w, const float *M, size_t n,
                                         size_t block) {
    saei_dense_matrix d;
    d.M = M;
    d.n = n;
    d.ld = w->shape.ld;
    d.block = block;
    d.panels = saei_cpu_scratch_of(w).panels;
    saei_parallel(w->ctx, saei_ceil_div(n, block) * saei_ceil_div(block, SAEI_DENSE_ROWS),
                  saei_dense_pack_part, &d);
    return d;
}

/* bits[p * stride]: which of the latents from 64 p on row r of the code has, of m. */
static void saei_active_bits_row(const saei_kernels *kernels, const sae_code *c, size_t m, size_t r,
                                 size_t stride, uint64_t *bits) {
    const uint32_t *latent = c->latent + r * c->stride;
    size_t words = saei_ceil_div(m, 64);
    if (c->has_active_bits) {
        for (size_t w = 0; w < words; w++) bits[w * stride] = c->active_bits[r * words + w];
        return;
    }
    for (size_t w = 0, at = 0; w < words; w++) {
        SAEI_PREFETCH(latent + at + 256); /* where `at` will be is known late */
        SAEI_PREFETCH(latent + at + 272);
        at += kernels->mark(latent + at, c->count[r] - at, (uint32_t)(w * 64), &bits[w * stride]);
    }
}

/* The entries of a row before its word `words`. */
static size_t saei_entries_before(const uint64_t *bits, size_t words) {
    size_t count = 0;
    for (size_t w = 0; w < words; w++) count += saei_count_bits(bits[w]);
    return count;
}

typedef struct saei_active_bits_job {
    const saei_kernels *kernels;
    const sae_code *code;
    size_t m;
    uint64_t *bits; /* [rows][ceil(m / 64)] */
} saei_active_bits_job;

static void saei_active_bits_part(void *arg, size_t part) {
    saei_active_bits_job *j = (saei_active_bits_job *)arg;
    size_t words = saei_ceil_div(j->m, 64);
    for (size_t r = part * 16, end = saei_part_end(part, 16, j->code->rows); r < end; r++)
        saei_active_bits_row(j->kernels, j->code, j->m, r, 1, j->bits + r * words);
}

/* The lists as bits: the code's, or made from its lists. */
static const uint64_t *saei_active_bits(const sae_work *w, const sae_code *code) {
    saei_active_bits_job j;
    if (code->has_active_bits) return code->active_bits;
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.m = w->shape.dict_size;
    j.bits = saei_cpu_scratch_of(w).active_bits;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_active_bits_part, &j);
    return j.bits;
}

/* out[i] += sum of value[j] M[first + b] over the entries j of list i from at[i] on, one for each
   bit b of bits[i], of which the panel has `count`; at moves on. What the next panel will want of
   the values, which end at end[i], is fetched. */
static void saei_dense_add(const saei_kernels *kernels, const saei_dense_matrix *d, size_t targets,
                           size_t *at, const size_t *end, const uint64_t *bits, const float *value,
                           size_t first, size_t count, float *out) {
    size_t stop[SAEI_DENSE_TARGETS] = { 0 };
    for (size_t i = 0; i < targets; i++) {
        stop[i] = at[i] + saei_count_bits(bits[i]);
        for (size_t j = stop[i]; j < saei_min(2 * stop[i] - at[i] + 16, end[i]); j += 16)
            SAEI_PREFETCH(value + j); /* as many as here, about */
    }
    for (size_t c = 0; c < d->ld; c += SAEI_DENSE_COLUMNS)
        kernels->add_panel(saei_min(SAEI_DENSE_COLUMNS, d->ld - c), targets, at, bits, value,
                           d->panels + first * d->ld + c * count, out + c, d->ld);
    memcpy(at, stop, targets * sizeof *at);
}

/* out[j] = alpha e[i].M[b] for the entries j of list i from at[i] on, one for each bit b of marks
   [panels][SAEI_DENSE_TARGETS], M as panels in one block: the dot order. The sixteen running sums
   of a dot are kept in lanes [targets][SAEI_DENSE_ROWS][16] from one panel to the next. */
static void saei_dense_dots(const saei_kernels *kernels, const saei_dense_matrix *d, size_t targets,
                            size_t *at, const uint64_t *marks, const float *e, float alpha,
                            float *lanes, float *out) {
    for (size_t first = 0; first < d->n; first += SAEI_DENSE_ROWS, marks += SAEI_DENSE_TARGETS) {
        size_t count = saei_min(SAEI_DENSE_ROWS, d->n - first);
        for (size_t c = 0; c < d->ld; c += SAEI_DENSE_COLUMNS)
            kernels->dot_panel(saei_min(SAEI_DENSE_COLUMNS, d->ld - c), targets, at, marks, e + c,
                               d->ld, d->panels + first * d->ld + c * count, lanes, c == 0, alpha,
                               c + SAEI_DENSE_COLUMNS < d->ld ? NULL : out);
        for (size_t i = 0; i < targets; i++) at[i] += saei_count_bits(marks[i]);
    }
}
