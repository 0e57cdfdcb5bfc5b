#pragma once
#include "prepared.h"

/* ==== >>dictionary: matching pursuit ========================================================== */

enum { SAEI_MATCHING_ROWS = 16 }; /* of one part */

typedef struct saei_matching {
    const sae_dictionary *dict;
    sae_rows x;
    size_t n;
    float *f;        /* [n,m] */
    float *residual; /* [n,d], of each part its rows that go on first */
} saei_matching;

/* The largest product of each residual with a latent, and the latent; 0 where none is above 0. */
static void saei_matching_best(const saei_matching *job, const saei_room *room, size_t r0,
                               size_t rows, float *best, uint32_t *latent) {
    const size_t m = job->dict->desc.dict_size;
    saei_infer q;
    memset(&q, 0, sizeof q);
    q.dict = job->dict;
    q.x.data = job->residual;
    q.x.dtype = SAE_F32;
    q.x.stride = job->dict->desc.activation_dim;
    for (size_t r = 0; r < rows; r++) best[r] = 0;
    for (size_t first = 0; first < m; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, m - first);
        saei_infer_product(&q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < count; j++)
                if (room->product[r * SAEI_PANEL + j] > best[r]) {
                    best[r] = room->product[r * SAEI_PANEL + j];
                    latent[r] = (uint32_t)(first + j);
                }
    }
}

/* One step of a row: whether it goes on. */
static bool saei_matching_step(const saei_matching *job, float v, uint32_t latent, float *f,
                               float *r) {
    const sae_dictionary *dict = job->dict;
    const size_t d = dict->desc.activation_dim;
    const double least = dict->desc.residual_threshold;
    bool known;
    if (!(v > 0)) return false; /* nothing would change any more */
    known = f[latent] != 0;
    f[latent] += v;
    dict->ctx->kernels->axpy(d, -v, dict->W_dec + latent * dict->ld_out, r, r);
    if (known && !dict->desc.repeats) return false;
    return !(least > 0) || sqrt(saei_squares(dict->ctx->kernels, r, d)) >= least;
}

static void saei_matching_part(void *arg, size_t part) {
    const saei_matching *job = (const saei_matching *)arg;
    const sae_dictionary *dict = job->dict;
    const size_t d = dict->desc.activation_dim, m = dict->desc.dict_size;
    const size_t r0 = part * SAEI_MATCHING_ROWS, end = saei_min(r0 + SAEI_MATCHING_ROWS, job->n);
    const size_t most = dict->desc.max_iterations ? dict->desc.max_iterations : d;
    size_t row[SAEI_MATCHING_ROWS], rows = end - r0;
    uint32_t latent[SAEI_MATCHING_ROWS];
    float best[SAEI_MATCHING_ROWS];
    saei_small_block small;
    saei_room room = saei_room_take(dict->ctx, &small);
    memset(job->f + r0 * m, 0, rows * m * sizeof *job->f);
    memset(latent, 0, sizeof latent);
    for (size_t r = 0; r < rows; r++) {
        float *to = job->residual + (r0 + r) * d;
        const float *x = saei_row_floats(&job->x, r0 + r, 0, d, to);
        dict->ctx->kernels->axpy(d, -1, dict->b_dec, x, to);
        row[r] = r0 + r;
    }
    for (size_t step = 0; rows && step < most; step++) {
        size_t left = 0;
        saei_matching_best(job, &room, r0, rows, best, latent);
        for (size_t r = 0; r < rows; r++) {
            float *at = job->residual + (r0 + r) * d;
            if (!saei_matching_step(job, best[r], latent[r], job->f + row[r] * m, at)) continue;
            if (left < r) memcpy(job->residual + (r0 + left) * d, at, d * sizeof *at);
            row[left++] = row[r];
        }
        rows = left;
    }
    saei_room_leave(&room);
}

/* f [n,m] of rows whose residuals go to residual [n,d]. */
static void saei_matching_run(const sae_dictionary *dict, const sae_rows *x, size_t n, float *f,
                              float *residual) {
    saei_matching job;
    job.dict = dict;
    job.x = *x;
    job.n = n;
    job.f = f;
    job.residual = residual;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_MATCHING_ROWS), saei_matching_part, &job);
}
