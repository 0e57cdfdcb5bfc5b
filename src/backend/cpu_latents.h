#pragma once
#include "cpu_dense.h"
#include "cpu_decode.h"

/* ==== >>cpu: by latent ======================================================================== */

/* Where `row` holds bits. */
static uint64_t *saei_index_words(const sae_index *index) {
    return (uint64_t *)(void *)index->row;
}

typedef struct saei_index_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *const *values;
    size_t num_values, m;
    sae_index *index;
    size_t part_rows;           /* of the counting sort */
    uint32_t *offsets;          /* [parts][m]: a part's entries of a latent; then where they go */
    size_t part_latents;        /* where the values are moved by latent */
    uint32_t *positions;        /* [parts][rows]: the entries of a row before a part's latents */
    const uint64_t *active_bits;/* [rows][ceil(m / 64)] */
} saei_index_job;

static void saei_count_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    const sae_code *c = job->code;
    size_t r = part * job->part_rows, end = saei_part_end(part, job->part_rows, c->rows);
    size_t m = job->m;
    uint32_t *counts = job->offsets + part * m;
    const uint64_t *words = saei_index_words(job->index);
    memset(counts, 0, m * sizeof *counts);
    for (; job->index->has_bits && r < end; r += 64)
        for (size_t i = 0; i < m; i++)
            counts[i] += (uint32_t)saei_count_bits(words[r / 64 * m + i]);
    for (; r < end; r++)
        for (size_t j = 0; j < c->count[r]; j++) counts[c->latent[r * c->stride + j]]++;
}

static void saei_place_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    const sae_code *c = job->code;
    sae_index *index = job->index;
    uint32_t *offsets = job->offsets + part * job->m;
    size_t r = part * job->part_rows, end = saei_part_end(part, job->part_rows, c->rows);
    for (; r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            uint32_t i = c->latent[j];
            size_t at = index->begin[i] + offsets[i]++;
            if (!index->has_bits) index->row[at] = (uint32_t)r;
            for (size_t v = 0; v < job->num_values; v++)
                index->value[v][at] = job->values[v][j];
        }
}

/* -- dense lists: which latents fire is written as bits first, by row and by latent, and counted;
   then the values are moved, from one entry in 5 on 64 latents of all rows at a time, 16 rows by 16
   latents together. Half dense W1 with two values, two cores: 33 ms entry by entry, 11 so -- */

/* to[i], bit r = from[r], bit i: halves, quarters, ... change places. */
static void saei_transpose_bits(const uint64_t from[64], uint64_t to[64]) {
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
static void saei_index_bits_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    size_t m = job->m, panels = saei_ceil_div(m, 64);
    size_t count = saei_part_end(part, 64, job->code->rows) - part * 64;
    const uint64_t *active = job->active_bits + part * 64 * panels;
    uint64_t *words = saei_index_words(job->index) + part * m, rows[64], latents[64];
    memset(rows, 0, sizeof rows);
    for (size_t p = 0; p < panels; p++) {
        for (size_t r = 0; r < count; r++) rows[r] = active[r * panels + p];
        saei_transpose_bits(rows, latents);
        memcpy(words + p * 64, latents, saei_min(64, m - p * 64) * sizeof *words);
    }
}

/* Prefetches row r's entries of the next 64 latents, from its entry `position` on: about half of
   them fire. */
static void saei_place_fetch(const saei_index_job *job, size_t r, size_t position) {
    const sae_code *c = job->code;
    size_t at = r * c->stride + position, end = saei_min(at + 48, r * c->stride + c->count[r]);
    for (; at < end; at += 16)
        for (size_t v = 0; v < job->num_values; v++) SAEI_PREFETCH(job->values[v] + at);
}

/* The values of a part's latents, row after row. */
static void saei_place_latents_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    const sae_code *c = job->code;
    uint32_t *positions = job->positions + part * c->rows;
    size_t lo = part * job->part_latents, end = saei_part_end(part, job->part_latents, job->m);
    size_t to[64], panels = saei_ceil_div(job->m, 64);
    for (size_t r = 0; r < c->rows; r++)
        positions[r] = (uint32_t)saei_entries_before(job->active_bits + r * panels, lo / 64);
    for (; lo < end; lo += 64) {
        size_t hi = saei_min(lo + 64, end);
        memset(to, 0, sizeof to);
        memcpy(to, job->index->begin + lo, (hi - lo) * sizeof *to);
        for (size_t r0 = 0; r0 < c->rows; r0 += 16) {
            uint32_t active[4][16];
            size_t from[16];
            memset(active, 0, sizeof active);
            memset(from, 0, sizeof from);
            for (size_t r = r0; r < saei_min(r0 + 16, c->rows); r++) {
                uint64_t bits = job->active_bits[r * panels + lo / 64];
                if (r + 16 < c->rows) saei_place_fetch(job, r + 16, positions[r + 16]);
                from[r - r0] = r * c->stride + positions[r];
                positions[r] += (uint32_t)saei_count_bits(bits);
                for (size_t g = 0; g < 4; g++)
                    active[g][r - r0] = (uint32_t)(bits >> 16 * g) & 0xFFFF;
            }
            for (size_t g = 0; lo + 16 * g < hi; g++)
                job->kernels->regroup(active[g], from, job->values, job->num_values,
                                      job->index->value, to + 16 * g);
        }
    }
}

/* From counts to places: index->begin, and where in a latent's entries each part's begin. */
static void saei_index_begin(saei_index_job *job, size_t parts) {
    size_t total = 0;
    for (size_t i = 0; i < job->m; i++) {
        uint32_t before = 0;
        job->index->begin[i] = total;
        for (size_t part = 0; part < parts; part++) {
            uint32_t here = job->offsets[part * job->m + i];
            job->offsets[part * job->m + i] = before;
            before += here;
        }
        total += before;
    }
    job->index->begin[job->m] = total;
}

static void saei_cpu_index(const sae_work *w, const sae_code *code, const float *const *values,
                           size_t count, sae_index *index) {
    size_t entries = saei_code_entries(code), m = w->shape.dict_size, parts;
    saei_index_job job;
    memset(&job, 0, sizeof job);
    job.kernels = w->ctx->kernels;
    job.code = code;
    job.values = values;
    job.num_values = count;
    job.m = m;
    job.index = index;
    job.offsets = job.positions = saei_cpu_scratch_of(w).integers; /* the one after the other */
    index->rows = code->rows;
    index->has_bits = saei_is_dense(w, entries, code->rows)
                      && 2 * saei_ceil_div(code->rows, 64) * m <= index->capacity;
    if (index->has_bits) {
        job.active_bits = saei_active_bits(w, code);
        saei_parallel(w->ctx, saei_ceil_div(code->rows, 64), saei_index_bits_part, &job);
    }
    job.part_rows = saei_code_part_rows(w->ctx, code->rows);
    parts = saei_ceil_div(code->rows, job.part_rows);
    saei_parallel(w->ctx, parts, saei_count_part, &job);
    saei_index_begin(&job, parts);
    if (index->has_bits && (double)entries * 5 >= (double)code->rows * (double)m) {
        size_t most = saei_min(4 * (size_t)w->ctx->threads, SAEI_SORT_PARTS);
        job.part_latents = saei_ceil_div(saei_ceil_div(m, most), 64) * 64;
        saei_parallel(w->ctx, saei_ceil_div(m, job.part_latents), saei_place_latents_part, &job);
    } else saei_parallel(w->ctx, parts, saei_place_part, &job);
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

typedef struct saei_latent_rows_job {
    const saei_kernels *kernels;
    const sae_index *index;
    const float *value, *x;
    size_t ld, lo, hi;
    float alpha;
    bool add;
    float *out;
    float *rows;              /* [workers][3][ld]: of each, a sum and a spare one */
    /* dense: */
    saei_dense_matrix matrix; /* x */
    size_t targets;           /* latents of a part */
    float *dense;             /* [workers][SAEI_DENSE_TARGETS][ld]: sums, spare ones */
} saei_latent_rows_job;

static void saei_latent_rows_part(void *arg, size_t part, size_t worker) {
    saei_latent_rows_job *job = (saei_latent_rows_job *)arg;
    size_t ld = job->ld, first = job->lo + part * SAEI_LATENT_PART;
    float *sum = job->rows + worker * 3 * ld, *spare = sum + ld;
    for (size_t i = first; i < saei_min(first + SAEI_LATENT_PART, job->hi); i++) {
        size_t begin = job->index->begin[i], count = job->index->begin[i + 1] - begin;
        float *out = job->out + i * ld;
        if (!count) {
            if (!job->add) memset(out, 0, ld * sizeof *out);
            continue;
        }
        saei_rows_sum(job->kernels, ld, count, job->index->row + begin, job->value + begin, job->x,
                      spare, sum);
        if (job->add) job->kernels->axpy(ld, job->alpha, sum, out, out);
        else job->kernels->scale(ld, job->alpha, sum, out);
    }
}

static void saei_dense_latents_part(void *arg, size_t part, size_t worker) {
    saei_latent_rows_job *job = (saei_latent_rows_job *)arg;
    const saei_kernels *kernels = job->kernels;
    size_t ld = job->ld, n = job->index->rows;
    size_t i0 = job->lo + part * job->targets, count = saei_min(job->targets, job->hi - i0);
    size_t at[SAEI_DENSE_TARGETS];
    const size_t *begin = job->index->begin + i0;
    const uint64_t *words = saei_index_words(job->index) + i0;
    float *spare = job->dense + worker * SAEI_DENSE_TARGETS * ld;
    float *out = job->out + i0 * ld, *sum = job->add ? spare + job->targets * ld : out;
    memcpy(at, begin, count * sizeof *at);
    memset(sum, 0, count * ld * sizeof *sum);
    for (size_t lo = 0; lo < n; lo += SAE_ROW_BLOCK) {
        size_t before[SAEI_DENSE_TARGETS], hi = saei_min(lo + SAE_ROW_BLOCK, n);
        memcpy(before, at, count * sizeof *at);
        if (lo) memset(spare, 0, count * ld * sizeof *spare);
        for (size_t r = lo; r < hi; r += SAEI_DENSE_ROWS)
            saei_dense_add(kernels, &job->matrix, count, at, begin + 1,
                           words + r / SAEI_DENSE_ROWS * job->index->dict_size, job->value, r,
                           saei_min(SAEI_DENSE_ROWS, hi - r), lo ? spare : sum);
        for (size_t i = 0; lo && i < count; i++) { /* as in saei_rows_sum: nothing of no entry */
            float *row = sum + i * ld;
            if (before[i] == begin[i]) memcpy(row, spare + i * ld, ld * sizeof *row);
            else if (at[i] > before[i]) kernels->axpy(ld, 1, spare + i * ld, row, row);
        }
    }
    for (size_t i = 0; i < count; i++, sum += ld, out += ld) {
        if (begin[i + 1] == begin[i]) continue;
        if (job->add) kernels->axpy(ld, job->alpha, sum, out, out);
        else kernels->scale(ld, job->alpha, sum, out);
    }
}

static void saei_cpu_latent_rows(const sae_work *w, const sae_index *index, size_t which,
                                 const float *x, size_t lo, size_t hi, float alpha, bool add,
                                 float *out) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_latent_rows_job j;
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.index = index;
    j.value = index->value[which];
    j.x = x;
    j.ld = w->shape.ld;
    j.lo = lo;
    j.hi = hi;
    j.alpha = alpha;
    j.add = add;
    j.out = out;
    j.rows = s.rows;
    j.dense = s.dense;
    if (index->has_bits) {
        j.matrix = saei_dense_pack(w, x, index->rows, SAE_ROW_BLOCK);
        j.targets = saei_dense_targets(w, hi - lo) / (add ? 2 : 1); /* both sums in the scratch */
        saei_parallel_workers(w->ctx, saei_ceil_div(hi - lo, j.targets), saei_dense_latents_part,
                              &j);
        return;
    }
    saei_parallel_workers(w->ctx, saei_ceil_div(hi - lo, SAEI_LATENT_PART), saei_latent_rows_part,
                          &j);
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

typedef struct saei_latent_sums_job {
    const sae_index *index;
    const float *value;
    double *sums; /* [m] */
} saei_latent_sums_job;

static void saei_latent_sums_part(void *arg, size_t part) {
    saei_latent_sums_job *job = (saei_latent_sums_job *)arg;
    const sae_index *index = job->index;
    const float *v = job->value;
    size_t i = part * 64, end = saei_part_end(part, 64, index->dict_size);
    for (; i + 4 <= end; i += 4) saei_latent_sum4(index, v, i, job->sums + i);
    for (; i < end; i++) {
        job->sums[i] = 0;
        for (size_t j = index->begin[i]; j < index->begin[i + 1]; j++)
            job->sums[i] += (double)v[j];
    }
}

/* Of value[which] of the index, in scratch memory. */
static const double *saei_latent_sums(const sae_work *w, const sae_index *index, size_t which) {
    saei_latent_sums_job j;
    j.index = index;
    j.value = index->value[which];
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(index->dict_size, 64), saei_latent_sums_part, &j);
    return j.sums;
}

static void saei_put_sums(const double *sum, size_t m, bool add, float *out) {
    for (size_t i = 0; i < m; i++) out[i] = add ? out[i] + (float)sum[i] : (float)sum[i];
}

static void saei_cpu_latent_sums(const sae_work *w, const sae_index *index, size_t which, bool add,
                                 float *out) {
    saei_put_sums(saei_latent_sums(w, index, which), index->dict_size, add, out);
}

typedef struct saei_code_sums_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *values;
    size_t m, part_latents; /* whole words of bits */
    double *sums;           /* [m] */
} saei_code_sums_job;

/* From the rows as they lie. Half dense W1, two cores: 1.2 ms, where moving the values by latent
   and adding them takes 5.7. */
static void saei_code_sums_part(void *arg, size_t part) {
    saei_code_sums_job *job = (saei_code_sums_job *)arg;
    const sae_code *c = job->code;
    size_t lo = part * job->part_latents, hi = saei_part_end(part, job->part_latents, job->m);
    size_t words = saei_ceil_div(job->m, 64);
    double *sums = job->sums;
    memset(sums + lo, 0, (saei_ceil_div(hi, 64) * 64 - lo) * sizeof *sums);
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = r * c->stride, begin, end;
        if (c->has_active_bits) {
            const uint64_t *active = c->active_bits + r * words;
            at += saei_entries_before(active, lo / 64);
            job->kernels->add_fires(saei_ceil_div(hi - lo, 64), active + lo / 64, job->values + at,
                                    sums + lo);
            continue;
        }
        end = at + saei_code_range(c, r, lo, hi, &begin);
        for (size_t j = at + begin; j < end; j++) sums[c->latent[j]] += (double)job->values[j];
    }
}

static void saei_cpu_code_sums(const sae_work *w, const sae_code *code, const float *values,
                               size_t m, bool add, float *out) {
    saei_code_sums_job j;
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.values = values;
    j.m = m;
    j.part_latents = saei_ceil_div(saei_ceil_div(m, (size_t)w->ctx->threads), 64) * 64;
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(m, j.part_latents), saei_code_sums_part, &j);
    saei_put_sums(j.sums, m, add, out);
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
