#pragma once
#include "decode.h"

/* ==== >>steer ================================================================================= */

enum { SAEI_STEER_FLOATS = 2 * SAE_MAX_STEERINGS };

typedef struct saei_steer_job {
    const sae_dictionary *dict;
    const sae_steering *list;
    size_t count;
    uint32_t latents[SAE_MAX_STEERINGS]; /* of list */
    bool needs_f, ranks; /* some mode asks for f; f depends on its rank in the row */
    float *x;
    size_t n;
} saei_steer_job;

/* What a top-k rule compares. */
static float saei_steer_key(const sae_dictionary *dict, float f) {
    return dict->desc.activation == SAE_ACTIVATION_MAGNITUDE ? fabsf(f) : f;
}

/* Of f [rows][count], values before the choice, leaves what is among the k largest of its row, or
   the largest of its group; ties to the lower index: counts for each the latents before it. */
static void saei_steer_rank(const saei_steer_job *job, const float *x, size_t rows,
                            const saei_norm *norms, float *f) {
    const sae_dictionary *dict = job->dict;
    bool grouped = dict->desc.activation == SAE_ACTIVATION_GROUP_MAX;
    size_t m = dict->desc.dict_size, count = job->count;
    size_t group = grouped ? m / dict->desc.k : m, most = grouped ? 1 : dict->desc.k;
    float product[SAEI_INFER_ROWS * SAEI_PANEL];
    uint32_t before[SAEI_STEER_FLOATS];
    saei_infer q;
    memset(before, 0, sizeof before);
    memset(&q, 0, sizeof q);
    q.dict = dict;
    for (size_t first = 0; first < m; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, m - first);
        saei_infer_product(&q, x, rows, first, width, norms, product);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < width; j++) {
                size_t i = first + j;
                float v = saei_infer_value(dict, i, product[r * SAEI_PANEL + j], true);
                float key = saei_steer_key(dict, v);
                if (v == 0 && !saei_is_signed(&dict->desc)) continue;
                for (size_t s = 0; s < count; s++) {
                    float held = saei_steer_key(dict, f[r * count + s]);
                    size_t latent = job->latents[s];
                    if (latent / group != i / group) continue;
                    before[r * count + s] += key > held || (key == held && i < latent);
                }
            }
    }
    for (size_t s = 0; s < rows * count; s++)
        if (before[s] >= most) f[s] = 0;
}

/* f [rows][count] of the latents named, as sae_encode gives them. */
static void saei_steer_encode(const saei_steer_job *job, const float *x, size_t rows,
                              const saei_norm *norms, float *f) {
    const sae_dictionary *dict = job->dict;
    size_t count = job->count, active = saei_active_latents(dict), candidates = 0;
    float product[SAEI_INFER_ROWS * SAEI_PANEL];
    saei_infer q;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.list = job->latents;
    for (size_t first = 0; first < count; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, count - first);
        saei_infer_product(&q, x, rows, first, width, norms, product);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < width; j++) {
                size_t i = job->latents[first + j];
                float v = saei_infer_value(dict, i, product[r * SAEI_PANEL + j], job->ranks);
                f[r * count + first + j] = i < active ? v : 0;
                candidates += i < active && v != 0;
            }
    }
    if (job->ranks && candidates) saei_steer_rank(job, x, rows, norms, f);
}

static float saei_steer_change(const sae_steering *s, float f) {
    switch (s->mode) {
    case SAE_STEER_SET: return s->value - f;
    case SAE_STEER_SCALE: return s->value * f - f;
    case SAE_STEER_ABLATE: return -f;
    case SAE_STEER_DEFAULT:
    case SAE_STEER_ADD: break;
    }
    return s->value;
}

/* One row; f [count] becomes what is added of each. Latents in the order of the list; scale brings
   what is decoded to the units of x. */
static void saei_steer_row(const saei_steer_job *job, float *f, float scale, float *x) {
    const sae_dictionary *dict = job->dict;
    size_t d = dict->desc.activation_dim, held = 0;
    uint32_t latent[SAE_MAX_STEERINGS];
    float sum[SAEI_DECODE_COLUMNS];
    for (size_t j = 0; j < job->count; j++) {
        float change = saei_steer_change(job->list + j, f[j]) * scale;
        if (change == 0) continue;
        latent[held] = job->latents[j];
        f[held++] = change;
    }
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        for (size_t j = 0; j < held; j++) x[latent[j]] += f[j];
        return;
    }
    for (size_t c = 0; held && c < dict->ld_out; c += SAEI_DECODE_COLUMNS) {
        size_t width = saei_min(SAEI_DECODE_COLUMNS, dict->ld_out - c);
        memset(sum, 0, width * sizeof *sum);
        dict->ctx->kernels->add_rows(width, held, latent, f, dict->W_dec + c, dict->ld_out, sum);
        for (size_t k = 0; k < saei_min(width, d - c); k++) x[c + k] += sum[k];
    }
}

static void saei_steer_part(void *arg, size_t part) {
    const saei_steer_job *job = (const saei_steer_job *)arg;
    size_t d = job->dict->desc.activation_dim, count = job->count;
    size_t end = saei_part_end(part, SAEI_INFER_ROWS, job->n);
    size_t most = saei_min(SAEI_INFER_ROWS, SAEI_STEER_FLOATS / count);
    const sae_dictionary_desc *h = &job->dict->desc;
    saei_norm norms[SAEI_INFER_ROWS];
    float f[SAEI_STEER_FLOATS];
    memset(f, 0, sizeof f);
    for (size_t r = part * SAEI_INFER_ROWS; r < end; r += most) {
        size_t rows = saei_min(most, end - r);
        float *x = job->x + r * d;
        for (size_t i = 0; h->input_norm && i < rows; i++)
            norms[i] = saei_row_norm(job->dict, x + i * d);
        if (h->arch == SAE_ARCH_IDENTITY) {
            for (size_t s = 0; s < rows * count; s++)
                f[s] = x[s / count * d + job->latents[s % count]];
        } else if (job->needs_f) {
            saei_steer_encode(job, x, rows, norms, f);
        }
        for (size_t i = 0; i < rows; i++)
            saei_steer_row(job, f + i * count,
                           h->input_norm && !h->output_normalized ? norms[i].scale : 1, x + i * d);
    }
}

static sae_result saei_steer_check(const sae_dictionary *dict, const char *who,
                                   const sae_steering *list, size_t count) {
    if (count > SAE_MAX_STEERINGS)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: count is %zu, allowed are 0 to %d", who,
                         count, SAE_MAX_STEERINGS);
    for (size_t j = 0; j < count; j++) {
        if (list[j].latent >= dict->desc.dict_size)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].latent is %lu, allowed are 0 to %zu", who, j,
                             (unsigned long)list[j].latent, dict->desc.dict_size - 1);
        if ((int)list[j].mode < 0 || list[j].mode > SAE_STEER_ABLATE)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].mode is %d, allowed are SAE_STEER_ADD, "
                             "SAE_STEER_SET, SAE_STEER_SCALE, SAE_STEER_ABLATE",
                             who, j, (int)list[j].mode);
        if (!(list[j].value - list[j].value == 0) && list[j].mode != SAE_STEER_ABLATE)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].value is %g, allowed are finite numbers", who, j,
                             (double)list[j].value);
    }
    return SAE_OK;
}

SAE_API sae_result sae_steer(const sae_dictionary *dict, float *x, size_t n,
                             const sae_steering *steerings, size_t count) {
    saei_steer_job job;
    SAEI_TRY(saei_infer_check(dict, "sae_steer", (x || !n) && (steerings || !count), n, 0));
    SAEI_TRY(saei_steer_check(dict, "sae_steer", steerings, count));
    if (dict->desc.skip || saei_output_dim(&dict->desc) != dict->desc.activation_dim)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "sae_steer: a transcoder's directions belong to its output, not to x");
    job.dict = dict;
    job.list = steerings;
    job.count = count;
    job.needs_f = false;
    job.ranks = dict->rule == SAE_RULE_TOP_K;
    job.x = x;
    job.n = n;
    for (size_t j = 0; j < count; j++) {
        job.latents[j] = steerings[j].latent;
        if (steerings[j].mode > SAE_STEER_ADD) job.needs_f = true;
    }
    if (job.needs_f && saei_is_batch_top_k(dict) && n > 1)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "sae_steer: n is %zu under SAE_RULE_TOP_K of %s, which chooses over all "
                         "rows together; allowed are n = 1, SAE_RULE_THRESHOLD, or SAE_STEER_ADD "
                         "alone",
                         n, sae_arch_name(dict->desc.arch));
    if (count) saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_INFER_ROWS), saei_steer_part, &job);
    return SAE_OK;
}
