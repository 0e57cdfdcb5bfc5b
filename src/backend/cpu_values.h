#pragma once
#include "../base/math.h"
#include "cpu.h"

/* ==== >>cpu: values of entries ================================================================ */

static void saei_exp_latents(const saei_task *t, const float *r_mag) {
    for (size_t i = 0; i < t->w->shape.dict_size; i++) t->s.latents[i] = (float)saei_exp(r_mag[i]);
}

static void saei_gate_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        t->kernels->gate(c->count[r], r * c->stride, t->x, t->s.latents, t->y, c);
}

static void saei_cpu_gate(const sae_work *w, const float *gate_bias, const float *r_mag,
                          const float *mag_bias, sae_code *code) {
    saei_task t = saei_task_of(w);
    saei_exp_latents(&t, r_mag);
    t.x = gate_bias;
    t.y = mag_bias;
    t.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_gate_part, &t);
}

static void saei_jump_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            c->value[j] = c->pre[j] > t->x[c->latent[j]] ? c->pre[j] : 0;
}

static void saei_cpu_jump(const sae_work *w, const float *theta, sae_code *code) {
    saei_task t = saei_task_of(w);
    t.x = theta;
    t.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_jump_part, &t);
}

static void saei_exp_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            if (t->kind) c->grad[j] *= c->value[j];
            else c->value[j] = (float)saei_exp((double)c->pre[j]);
        }
}

static void saei_cpu_exp_values(const sae_work *w, sae_code *code) {
    saei_task t = saei_task_of(w);
    t.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_exp_part, &t);
}

static void saei_cpu_exp_grad(const sae_work *w, sae_code *code) {
    saei_task t = saei_task_of(w);
    t.code = code;
    t.kind = 1;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_exp_part, &t);
}

/* ==== >>cpu: the dense phase ================================================================== */
/* A fresh dictionary without a k fires half of its latents. Then a list's rows are no longer few
   and far between: every sum reads the whole matrix, from the L3. So the matrix is copied into
   panels of 64 x 128 that lie in the L1 while 256 lists go over them, each from where it stopped;
   the lists are read as bits. The order of every sum is the one of add_rows, and so are the bits.
   W1, half dense, two cores of 540 GFLOP/s: a sum over all lists is 4.3 G multiply-adds, 16 ms at
   the FMA peak; predicted 21, as an entry's 8 FMAs take 9 loads, and a visit of 32 entries 24 more
   and 8 stores; measured 22 to 26, the dots 28. */

/* Whether panels pay: at one entry in 16 of n m. */
static bool saei_is_dense(const saei_task *t, size_t entries, size_t n) {
    return (double)entries * 16 >= (double)n * (double)t->w->shape.dict_size;
}

/* Lists of one task: many, as it reads all panels, but every thread should have four tasks. */
static size_t saei_dense_targets(const saei_task *t, size_t lists) {
    size_t most = SAEI_DENSE_TARGETS;
    return lists >= 4 * most * (size_t)t->w->ctx->threads ? most : most / 2;
}

/* Panels of rows [lo, hi) of t->x: one task for SAEI_DENSE_ROWS of them. t->stride: rows of a
   block; panels do not cross blocks. */
static void saei_dense_pack_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t each = saei_ceil_div(t->stride, SAEI_DENSE_ROWS);
    size_t lo = part / each * t->stride + part % each * SAEI_DENSE_ROWS;
    size_t end = saei_min((part / each + 1) * t->stride, t->n);
    size_t count = lo < end ? saei_min(SAEI_DENSE_ROWS, end - lo) : 0;
    for (size_t c = 0; c < t->ld; c += SAEI_DENSE_COLUMNS) {
        size_t width = saei_min(SAEI_DENSE_COLUMNS, t->ld - c);
        for (size_t r = 0; r < count; r++)
            memcpy(t->s.packed + lo * t->ld + c * count + r * width, t->x + (lo + r) * t->ld + c,
                   width * sizeof(float));
    }
}

/* Panels of M [n][ld] in blocks of `block` rows. */
static void saei_dense_pack(const saei_task *task, const float *M, size_t n, size_t block) {
    saei_task t = *task;
    t.x = M;
    t.n = n;
    t.stride = block;
    saei_parallel(t.w->ctx,
                  saei_ceil_div(n, block) * saei_ceil_div(block, SAEI_DENSE_ROWS),
                  saei_dense_pack_part, &t);
}

/* bits[p * stride]: which of the latents from 64 p on row r of the code has. */
static void saei_fires_row(const saei_task *t, size_t r, size_t stride, uint64_t *bits) {
    const sae_code *c = t->code;
    const uint32_t *latent = c->latent + r * c->stride;
    size_t words = saei_ceil_div(t->w->shape.dict_size, 64);
    if (c->bits) {
        for (size_t w = 0; w < words; w++) bits[w * stride] = c->fires[r * words + w];
        return;
    }
    for (size_t w = 0, at = 0; w < words; w++) {
        SAEI_PREFETCH(latent + at + 256); /* where `at` will be is known late */
        SAEI_PREFETCH(latent + at + 272);
        at += t->kernels->mark(latent + at, c->count[r] - at, (uint32_t)(w * 64),
                               &bits[w * stride]);
    }
}

/* The entries of a row before its word `words`. */
static size_t saei_fires_before(const uint64_t *fires, size_t words) {
    size_t count = 0;
    for (size_t w = 0; w < words; w++) count += saei_count_bits(fires[w]);
    return count;
}

static void saei_fires_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t words = saei_ceil_div(t->w->shape.dict_size, 64);
    for (size_t r = part * 16, end = saei_part_end(part, 16, t->code->rows); r < end; r++)
        saei_fires_row(t, r, 1, t->s.fires + r * words);
}

/* t->fires: the code's, or from its lists. */
static void saei_fires_begin(saei_task *t) {
    t->fires = t->code->bits ? t->code->fires : t->s.fires;
    if (!t->code->bits)
        saei_parallel(t->w->ctx, saei_ceil_div(t->code->rows, 16), saei_fires_part, t);
}

/* out[i] += sum of value[j] M[first + b] over the entries j of list i from at[i] on, one for each
   bit b of bits[i], of which the panel has `count`; at moves on. What the next panel will want of
   the values, which end at end[i], is fetched. */
static void saei_dense_add(const saei_task *t, size_t targets, size_t *at, const size_t *end,
                           const uint64_t *bits, const float *value, size_t first, size_t count,
                           float *out) {
    size_t stop[SAEI_DENSE_TARGETS] = { 0 };
    for (size_t i = 0; i < targets; i++) {
        stop[i] = at[i] + saei_count_bits(bits[i]);
        for (size_t j = stop[i]; j < saei_min(2 * stop[i] - at[i] + 16, end[i]); j += 16)
            SAEI_PREFETCH(value + j); /* as many as here, about */
    }
    for (size_t c = 0; c < t->ld; c += SAEI_DENSE_COLUMNS)
        t->kernels->add_panel(saei_min(SAEI_DENSE_COLUMNS, t->ld - c), targets, at, bits, value,
                              t->s.packed + first * t->ld + c * count, out + c, t->ld);
    memcpy(at, stop, targets * sizeof *at);
}

/* out[j] = alpha e[i].M[b] for the entries j of list i from at[i] on, one for each bit b of marks
   [panels][SAEI_DENSE_TARGETS], M [n] as panels in one block: the dot order. The sixteen running
   sums of a dot wait in t->s.lanes from one panel to the next. */
static void saei_dense_dots(const saei_task *t, size_t targets, size_t *at, const uint64_t *marks,
                            const float *e, size_t n, float alpha, size_t worker, float *out) {
    float *lanes = t->s.lanes + worker * SAEI_DENSE_TARGETS * SAEI_DENSE_ROWS * 16;
    for (size_t first = 0; first < n; first += SAEI_DENSE_ROWS, marks += SAEI_DENSE_TARGETS) {
        size_t count = saei_min(SAEI_DENSE_ROWS, n - first);
        for (size_t c = 0; c < t->ld; c += SAEI_DENSE_COLUMNS)
            t->kernels->dot_panel(saei_min(SAEI_DENSE_COLUMNS, t->ld - c), targets, at, marks,
                                  e + c, t->ld, t->s.packed + first * t->ld + c * count, lanes,
                                  c == 0, alpha, c + SAEI_DENSE_COLUMNS < t->ld ? NULL : out);
        for (size_t i = 0; i < targets; i++) at[i] += saei_count_bits(marks[i]);
    }
}
