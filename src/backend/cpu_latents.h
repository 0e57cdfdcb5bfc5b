#pragma once
#include "cpu_values.h"
#include "cpu_decode.h"

/* ==== >>cpu: by latent ======================================================================== */

/* Where `row` holds bits. */
static uint64_t *saei_index_words(const sae_index *index) {
    return (uint64_t *)(void *)index->row;
}

/* [parts][m]: how many of a part's rows, t->stride each, have a latent. */
static void saei_count_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    uint32_t *counts = t->s.counts + part * t->m;
    const uint64_t *words = saei_index_words(t->index);
    size_t r = part * t->stride, end = saei_part_end(part, t->stride, c->rows);
    memset(counts, 0, t->m * sizeof *counts);
    for (; t->index->bits && r < end; r += 64)
        for (size_t i = 0; i < t->m; i++)
            counts[i] += (uint32_t)saei_count_bits(words[r / 64 * t->m + i]);
    for (; r < end; r++)
        for (size_t j = 0; j < c->count[r]; j++) counts[c->latent[r * c->stride + j]]++;
}

static void saei_place_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    uint32_t *offsets = t->s.counts + part * t->m;
    size_t r = part * t->stride, end = saei_part_end(part, t->stride, c->rows);
    for (; r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            uint32_t i = c->latent[j];
            size_t at = t->index->begin[i] + offsets[i]++;
            if (!t->index->bits) t->index->row[at] = (uint32_t)r;
            for (size_t v = 0; v < t->which; v++) t->index->value[v][at] = t->values[v][j];
        }
}

/* -- dense lists: which latents fire is written as bits first, by row and by latent, and counted;
   then the values are moved, from one entry in 5 on 64 latents of all rows at a time, 16 rows by 16
   latents together. Half dense W1 with two values, two cores: 33 ms entry by entry, 11 so -- */

/* to[i], bit r = from[r], bit i: halves, quarters, ... change places. */
static void saei_turn_bits(const uint64_t from[64], uint64_t to[64]) {
    uint64_t mask = 0xFFFFFFFFu;
    memcpy(to, from, 64 * sizeof *to);
    for (size_t h = 32; h; h /= 2, mask ^= mask << h)
        for (size_t i = 0; i < 64; i = (i + h + 1) & ~h) {
            uint64_t swap = (to[i] >> h ^ to[i + h]) & mask;
            to[i] ^= swap << h;
            to[i + h] ^= swap;
        }
}

/* The index's bits of 64 rows. */
static void saei_turn_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t panels = saei_ceil_div(t->m, 64);
    size_t count = saei_part_end(part, 64, t->code->rows) - part * 64;
    const uint64_t *fires = t->fires + part * 64 * panels;
    uint64_t *words = saei_index_words(t->index) + part * t->m, rows[64], latents[64];
    memset(rows, 0, sizeof rows);
    for (size_t p = 0; p < panels; p++) {
        for (size_t r = 0; r < count; r++) rows[r] = fires[r * panels + p];
        saei_turn_bits(rows, latents);
        memcpy(words + p * 64, latents, saei_min(64, t->m - p * 64) * sizeof *words);
    }
}

/* Asks for what row r, at entry `stand`, has of 64 latents if about half of them fire. */
static void saei_place_fetch(const saei_task *t, size_t r, size_t stand) {
    const sae_code *c = t->code;
    size_t at = r * c->stride + stand, end = saei_min(at + 48, r * c->stride + c->count[r]);
    for (; at < end; at += 16)
        for (size_t v = 0; v < t->which; v++) SAEI_PREFETCH(t->values[v] + at);
}

/* A part goes through t->lo latents and remembers where each row stands. */
static void saei_place_latents_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    uint32_t *stands = t->s.counts + part * c->rows;
    size_t lo = part * t->lo, end = saei_min(lo + t->lo, t->m), to[64];
    size_t panels = saei_ceil_div(t->m, 64);
    for (size_t r = 0; r < c->rows; r++)
        stands[r] = (uint32_t)saei_fires_before(t->fires + r * panels, lo / 64);
    for (; lo < end; lo += 64) {
        size_t hi = saei_min(lo + 64, end);
        memset(to, 0, sizeof to);
        memcpy(to, t->index->begin + lo, (hi - lo) * sizeof *to);
        for (size_t r0 = 0; r0 < c->rows; r0 += 16) {
            uint32_t fires[4][16];
            size_t from[16];
            memset(fires, 0, sizeof fires);
            memset(from, 0, sizeof from);
            for (size_t r = r0; r < saei_min(r0 + 16, c->rows); r++) {
                uint64_t bits = t->fires[r * panels + lo / 64];
                if (r + 16 < c->rows) saei_place_fetch(t, r + 16, stands[r + 16]);
                from[r - r0] = r * c->stride + stands[r];
                stands[r] += (uint32_t)saei_count_bits(bits);
                for (size_t g = 0; g < 4; g++)
                    fires[g][r - r0] = (uint32_t)(bits >> 16 * g) & 0xFFFF;
            }
            for (size_t g = 0; lo + 16 * g < hi; g++)
                t->kernels->regroup(fires[g], from, t->values, t->which, t->index->value,
                                    to + 16 * g);
        }
    }
}

static void saei_cpu_index(const sae_work *w, const sae_code *code, const float *const *values,
                           size_t count, sae_index *index) {
    saei_task t = saei_task_of(w);
    size_t entries = saei_code_entries(code), total = 0;
    t.code = code;
    t.index = index;
    t.values = values;
    t.which = count;
    index->rows = code->rows;
    index->bits = saei_is_dense(&t, entries, code->rows)
                  && 2 * saei_ceil_div(code->rows, 64) * t.m <= index->capacity;
    if (index->bits) {
        saei_fires_begin(&t);
        saei_parallel(w->ctx, saei_ceil_div(code->rows, 64), saei_turn_part, &t);
    }
    saei_code_parts(&t, code->rows);
    saei_parallel(w->ctx, t.parts, saei_count_part, &t);
    for (size_t i = 0; i < t.m; i++) {
        uint32_t before = 0; /* a part's entries of latent i come after those of the parts before */
        index->begin[i] = total;
        for (size_t part = 0; part < t.parts; part++) {
            uint32_t here = t.s.counts[part * t.m + i];
            t.s.counts[part * t.m + i] = before;
            before += here;
        }
        total += before;
    }
    index->begin[t.m] = total;
    if (index->bits && (double)entries * 5 >= (double)code->rows * (double)t.m) {
        size_t parts = saei_min(4 * (size_t)w->ctx->threads, SAEI_SORT_PARTS);
        t.lo = saei_ceil_div(saei_ceil_div(t.m, parts), 64) * 64;
        saei_parallel(w->ctx, saei_ceil_div(t.m, t.lo), saei_place_latents_part, &t);
    } else saei_parallel(w->ctx, t.parts, saei_place_part, &t);
}

/* out = sum_j value[j] x[row[j]] in blocks of SAE_ROW_BLOCK rows; spare [ld]. */
static void saei_rows_sum(const saei_kernels *kernels, size_t ld, size_t count, const uint32_t *row,
                          const float *value, const float *x, float *spare, float *out) {
    memset(out, 0, ld * sizeof *out);
    for (size_t j = 0; j < count; ) {
        uint32_t block = row[j] / SAE_ROW_BLOCK;
        size_t end = j;
        while (end < count && row[end] / SAE_ROW_BLOCK == block) end++;
        if (j == 0) kernels->add_rows(ld, end, row, value, x, ld, out);
        else {
            memset(spare, 0, ld * sizeof *spare);
            kernels->add_rows(ld, end - j, row + j, value + j, x, ld, spare);
            kernels->axpy(ld, 1, spare, out, out);
        }
        j = end;
    }
}

static void saei_latent_rows_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    float *sum = t->s.rows + worker * 3 * t->ld, *spare = sum + t->ld;
    size_t first = t->lo + part * SAEI_LATENT_PART;
    for (size_t i = first; i < saei_min(first + SAEI_LATENT_PART, t->hi); i++) {
        size_t begin = t->index->begin[i], count = t->index->begin[i + 1] - begin;
        float *out = t->out + i * t->ld;
        if (!count) {
            if (!t->add) memset(out, 0, t->ld * sizeof *out);
            continue;
        }
        saei_rows_sum(t->kernels, t->ld, count, t->index->row + begin,
                      t->index->value[t->which] + begin, t->x, spare, sum);
        if (t->add) t->kernels->axpy(t->ld, t->a, sum, out, out);
        else t->kernels->scale(t->ld, t->a, sum, out);
    }
}

static void saei_dense_latents_part(void *arg, size_t part, size_t worker) {
    saei_task *t = (saei_task *)arg;
    size_t i0 = t->lo + part * t->stride, count = saei_min(t->stride, t->hi - i0);
    size_t at[SAEI_DENSE_TARGETS];
    const size_t *begin = t->index->begin + i0;
    const uint64_t *words = saei_index_words(t->index) + i0;
    float *spare = t->s.dense + worker * SAEI_DENSE_TARGETS * t->ld;
    float *out = t->out + i0 * t->ld, *sum = t->add ? spare + t->stride * t->ld : out;
    memcpy(at, begin, count * sizeof *at);
    memset(sum, 0, count * t->ld * sizeof *sum);
    for (size_t lo = 0; lo < t->n; lo += SAE_ROW_BLOCK) {
        size_t before[SAEI_DENSE_TARGETS], hi = saei_min(lo + SAE_ROW_BLOCK, t->n);
        memcpy(before, at, count * sizeof *at);
        if (lo) memset(spare, 0, count * t->ld * sizeof *spare);
        for (size_t r = lo; r < hi; r += SAEI_DENSE_ROWS)
            saei_dense_add(t, count, at, begin + 1, words + r / SAEI_DENSE_ROWS * t->m,
                           t->index->value[t->which], r, saei_min(SAEI_DENSE_ROWS, hi - r),
                           lo ? spare : sum);
        for (size_t i = 0; lo && i < count; i++) { /* as in saei_rows_sum: nothing of no entry */
            float *row = sum + i * t->ld;
            if (before[i] == begin[i]) memcpy(row, spare + i * t->ld, t->ld * sizeof *row);
            else if (at[i] > before[i]) t->kernels->axpy(t->ld, 1, spare + i * t->ld, row, row);
        }
    }
    for (size_t i = 0; i < count; i++, sum += t->ld, out += t->ld) {
        if (begin[i + 1] == begin[i]) continue;
        if (t->add) t->kernels->axpy(t->ld, t->a, sum, out, out);
        else t->kernels->scale(t->ld, t->a, sum, out);
    }
}

static void saei_cpu_latent_rows(const sae_work *w, const sae_index *index, size_t which,
                                 const float *x, size_t lo, size_t hi, float alpha, bool add,
                                 float *out) {
    saei_task t = saei_task_of(w);
    sae_index copy = *index;
    t.index = &copy;
    t.which = which;
    t.m = index->dict_size;
    t.x = x;
    t.lo = lo;
    t.hi = hi;
    t.a = alpha;
    t.add = add;
    t.out = out;
    t.n = index->rows;
    if (index->bits) {
        saei_dense_pack(&t, x, t.n, SAE_ROW_BLOCK);
        t.stride = saei_dense_targets(&t, hi - lo) / (add ? 2 : 1); /* both sums in the scratch */
        saei_parallel_workers(w->ctx, saei_ceil_div(hi - lo, t.stride), saei_dense_latents_part,
                              &t);
        return;
    }
    saei_parallel_workers(w->ctx, saei_ceil_div(hi - lo, SAEI_LATENT_PART), saei_latent_rows_part,
                          &t);
}

/* The sums of latents [i, i + 4), each in the order of its list, side by side. */
static void saei_latent_sum4(const sae_index *index, const float *v, size_t i, double sum[4]) {
    const size_t *begin = index->begin + i;
    const float *v0 = v + begin[0], *v1 = v + begin[1], *v2 = v + begin[2], *v3 = v + begin[3];
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t least = SIZE_MAX;
    for (size_t c = 0; c < 4; c++) least = saei_min(least, begin[c + 1] - begin[c]);
    for (size_t j = 0; j < least; j++) {
        s0 += (double)v0[j];
        s1 += (double)v1[j];
        s2 += (double)v2[j];
        s3 += (double)v3[j];
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    for (size_t c = 0; c < 4; c++)
        for (size_t j = begin[c] + least; j < begin[c + 1]; j++) sum[c] += (double)v[j];
}

/* t->s.sums[i]: the sums of the value t->which, 64 latents a part. */
static void saei_latent_sums_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const float *v = t->index->value[t->which];
    size_t i = part * 64, end = saei_part_end(part, 64, t->m);
    for (; i + 4 <= end; i += 4) saei_latent_sum4(t->index, v, i, t->s.sums + i);
    for (; i < end; i++) {
        t->s.sums[i] = 0;
        for (size_t j = t->index->begin[i]; j < t->index->begin[i + 1]; j++)
            t->s.sums[i] += (double)v[j];
    }
}

static const double *saei_latent_sums(const sae_work *w, const sae_index *index, size_t which) {
    saei_task t = saei_task_of(w);
    sae_index copy = *index;
    t.index = &copy;
    t.which = which;
    t.m = index->dict_size;
    saei_parallel(w->ctx, saei_ceil_div(t.m, 64), saei_latent_sums_part, &t);
    return t.s.sums;
}

static void saei_put_sums(const double *sum, size_t m, bool add, float *out) {
    for (size_t i = 0; i < m; i++) out[i] = add ? out[i] + (float)sum[i] : (float)sum[i];
}

static void saei_cpu_latent_sums(const sae_work *w, const sae_index *index, size_t which, bool add,
                                 float *out) {
    saei_put_sums(saei_latent_sums(w, index, which), index->dict_size, add, out);
}

/* t->s.sums of t->lo latents a part, from the rows as they lie. Half dense W1, two cores: 1.2 ms,
   where moving the values by latent and adding them takes 5.7. */
static void saei_code_sums_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    const sae_code *c = t->code;
    size_t lo = part * t->lo, hi = saei_min(lo + t->lo, t->m), words = saei_ceil_div(t->m, 64);
    double *sums = t->s.sums;
    memset(sums + lo, 0, (saei_ceil_div(hi, 64) * 64 - lo) * sizeof *sums);
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = r * c->stride, begin, end;
        if (c->bits) {
            const uint64_t *fires = c->fires + r * words;
            at += saei_fires_before(fires, lo / 64);
            t->kernels->add_fires(saei_ceil_div(hi - lo, 64), fires + lo / 64, t->x + at,
                                  sums + lo);
            continue;
        }
        end = at + saei_code_range(c, r, lo, hi, &begin);
        for (size_t j = at + begin; j < end; j++) sums[c->latent[j]] += (double)t->x[j];
    }
}

static void saei_cpu_code_sums(const sae_work *w, const sae_code *code, const float *values,
                               size_t m, bool add, float *out) {
    saei_task t = saei_task_of(w);
    size_t parts = (size_t)w->ctx->threads;
    t.code = code;
    t.x = values;
    t.m = m;
    t.lo = saei_ceil_div(saei_ceil_div(m, parts), 64) * 64;
    saei_parallel(w->ctx, saei_ceil_div(m, t.lo), saei_code_sums_part, &t);
    saei_put_sums(t.s.sums, m, add, out);
}

static void saei_cpu_fired(const sae_work *w, const sae_index *index, int which, uint64_t step,
                           uint64_t *since) {
    const double *sum = which < 0 ? NULL : saei_latent_sums(w, index, (size_t)which);
    for (size_t i = 0; i < index->dict_size; i++) {
        bool fired = sum ? sum[i] > 0 : index->begin[i + 1] > index->begin[i];
        since[i] = fired ? 0 : since[i] + step;
    }
}

static void saei_cpu_list_silent(const sae_work *w, const uint64_t *since, uint64_t threshold,
                                 size_t m, uint32_t *list, uint32_t *count) {
    uint32_t found = 0;
    (void)w;
    for (size_t i = 0; i < m; i++)
        if (since[i] >= threshold) list[found++] = (uint32_t)i;
    *count = found;
}

/* -- sums -- */

/* partial[part] = sum of s_r x_r over one block of rows (s NULL: 1), in double: these sums are the
   bias's gradient, which every pre-activation feels. */
static void saei_block_sum_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    double *out = t->s.partial + part * t->ld;
    memset(out, 0, t->ld * sizeof *out);
    for (size_t r = part * SAE_ROW_BLOCK; r < saei_part_end(part, SAE_ROW_BLOCK, t->n); r++) {
        const float *row = t->x + r * t->ld;
        double s = t->y ? (double)t->y[r] : 1;
        if (s != 0) t->kernels->add_double(t->ld, s, row, out);
    }
}

/* The blocks' sums added in order into partial[0]. */
static const double *saei_block_sum(const sae_work *w, const float *x, const float *s, size_t n) {
    saei_task t = saei_task_of(w);
    size_t parts = saei_ceil_div(n, SAE_ROW_BLOCK);
    t.x = x;
    t.y = s;
    t.n = n;
    saei_parallel(w->ctx, parts, saei_block_sum_part, &t);
    for (size_t part = 1; part < parts; part++)
        for (size_t c = 0; c < t.ld; c++) t.s.partial[c] += t.s.partial[part * t.ld + c];
    return t.s.partial;
}

static void saei_cpu_column_sums(const sae_work *w, const float *x, size_t n, float alpha,
                                 float *out) {
    const double *sum = saei_block_sum(w, x, NULL, n);
    for (size_t c = 0; c < w->shape.ld; c++) out[c] = (float)((double)alpha * sum[c]);
}

static void saei_cpu_weighted_sum(const sae_work *w, const float *W, const float *s, size_t m,
                                  float alpha, float *out) {
    const double *sum = saei_block_sum(w, W, s, m);
    for (size_t c = 0; c < w->shape.ld; c++)
        out[c] = (float)((double)out[c] + (double)alpha * sum[c]);
}

static void saei_sum_squares_part(void *arg, size_t part) {
    saei_task *t = (saei_task *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, t->n) - at;
    t->s.sums[part] = t->kernels->dot(n, t->x + at, t->x + at);
}

static void saei_cpu_sum_squares(const sae_work *w, const float *x, size_t count, double *out) {
    saei_task t = saei_task_of(w);
    size_t parts = saei_ceil_div(count, SAEI_CHUNK);
    t.x = x;
    t.n = count;
    saei_parallel(w->ctx, parts, saei_sum_squares_part, &t);
    *out = saei_sum_doubles(t.s.sums, parts);
}

static void saei_cpu_count_nonzero(const sae_work *w, const sae_code *code, double *mean) {
    uint64_t total = 0;
    (void)w;
    for (size_t r = 0; r < code->rows; r++)
        for (size_t j = 0; j < code->count[r]; j++) total += code->value[r * code->stride + j] != 0;
    *mean = (double)total / (double)code->rows;
}
