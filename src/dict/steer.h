#pragma once
#include "forward.h"

/* ==== >>steer ================================================================================= */

/* Numbers on the stack of a block that found no room; entries of a list. */
enum {
    SAEI_STEER_FLOATS = SAE_MAX_STEERINGS,
    SAEI_STEER_COUNTERS = 256, /* one for each row at least */
    SAEI_STEER_ENTRIES = 128
};

typedef struct saei_steer_job {
    const sae_dictionary *dict;
    const sae_steering *list;
    size_t count;
    bool needs_f, ranks; /* some mode asks for f; f depends on its rank in the row */
    sae_rows x;          /* written, too */
    size_t n;
} saei_steer_job;

/* Where the parts of a job work. */
typedef struct saei_steer_room {
    saei_room room;
    float *f;         /* [rows][count]: of the latents named */
    size_t entries;   /* of f */
    uint32_t *before; /* latents of the row that stand before each */
    size_t counters;  /* of before */
} saei_steer_room;

/* What a top-k rule compares. */
static float saei_steer_key(const sae_dictionary *dict, float f) {
    return dict->desc.activation == SAE_ACTIVATION_MAGNITUDE ? fabsf(f) : f;
}

/* Counts for each f [rows][count] of steerings [begin, end) the latents of its row, or of its
   group, that stand before it; ties to the lower index. */
static void saei_steer_count(const saei_steer_job *job, const saei_infer *q,
                             const saei_steer_room *w, size_t r0, size_t rows, size_t begin,
                             size_t end) {
    const sae_dictionary *dict = job->dict;
    bool maxima = dict->desc.activation == SAE_ACTIVATION_GROUP_MAX;
    bool grouped = maxima || saei_choices(&dict->desc) > 1;
    size_t m = saei_num_codes(&dict->desc);
    size_t group = maxima ? m / dict->desc.k : m / saei_choices(&dict->desc);
    memset(w->before, 0, rows * (end - begin) * sizeof *w->before);
    for (size_t first = 0; first < m; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, m - first);
        saei_infer_product(q, &w->room, r0, rows, first, width);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < width; j++) {
                size_t i = first + j;
                float v = saei_infer_value(dict, i, w->room.product[r * SAEI_PANEL + j], true);
                float key = saei_steer_key(dict, v);
                uint32_t *before = w->before + r * (end - begin);
                if (v == 0 && !saei_is_signed(&dict->desc)) continue;
                for (size_t s = begin; s < end; s++, before++) {
                    float held = saei_steer_key(dict, w->f[r * job->count + s]);
                    size_t latent = job->list[s].latent;
                    if (grouped && latent / group != i / group) continue;
                    *before += key > held || (key == held && i < latent);
                }
            }
    }
}

/* Of f [rows][count], values before the choice, leaves what is among the k largest of its row, or
   the largest of its group. */
static void saei_steer_rank(const saei_steer_job *job, const saei_infer *q,
                            const saei_steer_room *w, size_t r0, size_t rows) {
    const sae_dictionary_desc *h = &job->dict->desc;
    size_t most = h->activation == SAE_ACTIVATION_GROUP_MAX ? 1 : h->k;
    size_t share = saei_min(job->count, w->counters / rows), end;
    for (size_t begin = 0; begin < job->count; begin = end) {
        end = saei_min(begin + share, job->count);
        saei_steer_count(job, q, w, r0, rows, begin, end);
        for (size_t r = 0; r < rows; r++)
            for (size_t s = begin; s < end; s++)
                if (w->before[r * (end - begin) + s - begin] >= most) w->f[r * job->count + s] = 0;
    }
}

/* f [rows][count] of the latents named, as sae_encode gives them. */
static void saei_steer_encode(const saei_steer_job *job, const saei_steer_room *w, size_t r0,
                              size_t rows) {
    const sae_dictionary *dict = job->dict;
    size_t count = job->count, active = saei_active_latents(dict), candidates = 0;
    uint32_t list[SAEI_PANEL];
    saei_infer q;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = job->x;
    saei_infer_norms(&q, r0, rows, w->room.norms);
    for (size_t first = 0; first < count; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, count - first);
        for (size_t j = 0; j < width; j++) list[j] = job->list[first + j].latent;
        q.list = list;
        saei_infer_product(&q, &w->room, r0, rows, 0, width);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < width; j++) {
                float v = saei_infer_value(dict, list[j], w->room.product[r * SAEI_PANEL + j],
                                           job->ranks);
                w->f[r * count + first + j] = list[j] < active ? v : 0;
                candidates += list[j] < active && v != 0;
            }
    }
    q.list = NULL;
    if (job->ranks && candidates) saei_steer_rank(job, &q, w, r0, rows);
    for (size_t i = 0; dict->gate && i < rows * count; i++)
        w->f[i] = saei_ungate(dict, job->list[i % count].latent, w->f[i]);
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

/* Column c of row r becomes v; 16 bit are rounded to the nearest, ties to even. */
static void saei_steer_put(const sae_rows *x, size_t r, size_t c, float v) {
    unsigned char *to = (unsigned char *)(uintptr_t)saei_rows_at(x, r, c);
    uint16_t bits;
    if (x->dtype == SAE_F32) {
        *(float *)(void *)to = v;
        return;
    }
    bits = x->dtype == SAE_F16 ? saei_half_bits(v) : saei_bf16_bits(v);
    memcpy(to, &bits, sizeof bits);
}

/* x += add for n columns of row r from c on. */
static void saei_steer_add(const sae_rows *x, size_t r, size_t c, size_t n, const float *add) {
    float *at = (float *)(uintptr_t)saei_rows_at(x, r, c), own;
    for (size_t k = 0; x->dtype == SAE_F32 && k < n; k++) at[k] += add[k];
    for (size_t k = 0; x->dtype != SAE_F32 && k < n; k++)
        saei_steer_put(x, r, c + k, *saei_row_floats(x, r, c + k, 1, &own) + add[k]);
}

/* IDENTITY: the row's columns are the latents. A column named twice is rounded once. */
static void saei_steer_columns(const saei_steer_job *job, const float *f, size_t r) {
    for (size_t j = 0; j < job->count; j++) {
        size_t c = job->list[j].latent;
        bool seen = false, moved = false;
        float own, v = *saei_row_floats(&job->x, r, c, 1, &own);
        for (size_t i = 0; i < j && !seen; i++) seen = job->list[i].latent == c;
        for (size_t i = j; i < job->count && !seen; i++)
            if (job->list[i].latent == c && f[i] != 0) {
                v += f[i];
                moved = true;
            }
        if (moved) saei_steer_put(&job->x, r, c, v);
    }
}

/* sum [width] of what f [count] adds to columns c on, of layer l where layers have codes of their
   own. */
static SAEI_NOINLINE void saei_steer_sum(const saei_steer_job *job, const float *f, size_t l,
                                         size_t c, size_t width, float *sum) {
    uint32_t latent[SAEI_STEER_ENTRIES];
    float value[SAEI_STEER_ENTRIES];
    size_t held = 0;
    memset(sum, 0, width * sizeof *sum);
    for (size_t j = 0; j < job->count; j++) {
        if (f[j] != 0) {
            latent[held] = job->list[j].latent;
            value[held++] = f[j];
        }
        if (held < SAEI_STEER_ENTRIES && j + 1 < job->count) continue;
        saei_decode_list(job->dict, latent, value, held, l, c, width, sum);
        held = 0;
    }
}

/* One row; f [count] becomes what is added of each. Latents in the order of the list; scale
   [layers] brings what is decoded to the units of x. */
static SAEI_NOINLINE void saei_steer_row(const saei_steer_job *job, float *f, const float *scale,
                                         size_t r) {
    const sae_dictionary *dict = job->dict;
    const bool apart = dict->desc.layers > 1, normed = dict->desc.input_norm != 0;
    const size_t d = dict->desc.activation_dim, part = apart ? d / dict->desc.layers : d;
    float sum[SAEI_DECODE_COLUMNS];
    size_t any = 0;
    for (size_t j = 0; j < job->count; j++) {
        f[j] = saei_steer_change(job->list + j, f[j]) * (apart ? 1 : *scale);
        any += f[j] != 0;
    }
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        saei_steer_columns(job, f, r);
        return;
    }
    for (size_t c = 0, n; any && c < d; c += n) {
        size_t l = c / part, width;
        n = saei_min(SAEI_DECODE_COLUMNS, (l + 1) * part - c);
        width = apart ? n : saei_align16(n); /* rows end in zeros */
        saei_steer_sum(job, f, l, c, width, sum);
        for (size_t k = 0; apart && normed && k < n; k++) sum[k] *= scale[l];
        for (size_t k = 0; dict->output_scale && k < n; k++) sum[k] /= dict->output_scale[l];
        saei_steer_add(&job->x, r, c, n, sum);
    }
}

/* Rows r0 to end. */
static void saei_steer_rows(const saei_steer_job *job, const saei_steer_room *w, size_t r0,
                            size_t end) {
    const sae_dictionary_desc *h = &job->dict->desc;
    size_t count = job->count, most = saei_min(w->room.rows, w->entries / count);
    float own;
    memset(w->f, 0, saei_min(most, end - r0) * count * sizeof *w->f);
    for (size_t r = r0, rows; r < end; r += rows) {
        rows = saei_min(most, end - r);
        for (size_t s = 0; h->arch == SAE_ARCH_IDENTITY && s < rows * count; s++)
            w->f[s] = *saei_row_floats(&job->x, r + s / count, job->list[s % count].latent, 1,
                                       &own);
        if (job->needs_f && h->arch != SAE_ARCH_IDENTITY) saei_steer_encode(job, w, r, rows);
        for (size_t i = 0; i < rows; i++) {
            bool normed = h->input_norm && !h->output_normalized;
            float one = 1, scale[SAEI_SMALL_ROWS / 2];
            for (size_t l = 0; h->input_norm && l < h->layers; l++)
                scale[l] = normed ? saei_row_norm(job->dict, &job->x, r + i, l).scale : 1;
            saei_steer_row(job, w->f + i * count, h->input_norm ? scale : &one, r + i);
        }
    }
}

static SAEI_NOINLINE void saei_steer_small(const saei_steer_job *job, saei_steer_room *w,
                                           size_t r0, size_t end) {
    float f[SAEI_STEER_FLOATS];
    uint32_t before[SAEI_STEER_COUNTERS];
    w->f = f;
    w->before = before;
    w->entries = SAEI_STEER_FLOATS;
    w->counters = SAEI_STEER_COUNTERS;
    saei_steer_rows(job, w, r0, end);
}

static void saei_steer_part(void *arg, size_t part) {
    const saei_steer_job *job = (const saei_steer_job *)arg;
    size_t r0 = part * SAEI_BLOCK_ROWS, end = saei_part_end(part, SAEI_BLOCK_ROWS, job->n);
    saei_small_block small;
    saei_steer_room w;
    w.room = saei_infer_room(job->dict, &small);
    w.f = w.room.value;
    w.before = w.room.latent;
    w.entries = w.counters = w.room.entries;
    if (w.room.block) saei_steer_rows(job, &w, r0, end);
    else saei_steer_small(job, &w, r0, end);
    saei_room_leave(&w.room);
}

static sae_result saei_steer_check(const sae_dictionary *dict, const char *who,
                                   const sae_steering *list, size_t count) {
    if (count > SAE_MAX_STEERINGS)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: count is %zu, allowed are 0 to %d", who,
                         count, SAE_MAX_STEERINGS);
    for (size_t j = 0; j < count; j++) {
        if (list[j].latent >= saei_num_codes(&dict->desc))
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].latent is %lu, allowed are 0 to %zu", who, j,
                             (unsigned long)list[j].latent, saei_num_codes(&dict->desc) - 1);
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

static sae_result saei_steer(const sae_dictionary *dict, const char *who, const sae_rows *x,
                             size_t n, const sae_steering *list, size_t count) {
    saei_steer_job job;
    SAEI_TRY(saei_infer_check_rows(dict, who, x, list || !count ? NULL : "steerings", n, 0,
                                   &job.x));
    if (!n) return SAE_OK;
    SAEI_TRY(saei_steer_check(dict, who, list, count));
    if (dict->desc.skip || saei_output_dim(&dict->desc) != dict->desc.activation_dim)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "%s: a transcoder's directions belong to its output, not to x", who);
    job.dict = dict;
    job.list = list;
    job.count = count;
    job.needs_f = false;
    job.ranks = dict->rule == SAE_RULE_TOP_K;
    job.n = n;
    for (size_t j = 0; j < count; j++)
        if (list[j].mode > SAE_STEER_ADD) job.needs_f = true;
    if (job.needs_f && dict->desc.arch == SAE_ARCH_MATCHING_PURSUIT)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "%s: a latent of MatchingPursuitSAE "
                         "depends on all others; allowed is SAE_STEER_ADD alone", who);
    if (job.needs_f && saei_is_batch_top_k(dict) && n > 1)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "%s: n is %zu under SAE_RULE_TOP_K of %s, which chooses over all rows "
                         "together; allowed are n = 1, SAE_RULE_THRESHOLD, or SAE_STEER_ADD alone",
                         who, n, sae_arch_name(dict->desc.arch));
    if (count) saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_steer_part, &job);
    return SAE_OK;
}

SAE_API sae_result sae_steer(const sae_dictionary *dict, float *x, size_t n,
                             const sae_steering *steerings, size_t count) {
    sae_rows rows;
    return saei_steer(dict, "sae_steer", saei_rows_of(x, &rows), n, steerings, count);
}
SAE_API sae_result sae_steer_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                  const sae_steering *steerings, size_t count) {
    return saei_steer(dict, "sae_steer_rows", x, n, steerings, count);
}
