#pragma once
#include "../backend/cpu_table.h"
#include "../dict/params.h"
#include "buffer.h"

/* ==== >>metrics =============================================================================== */

enum { SAEI_EVALUATE_ENTRIES = 4 << 20 }; /* latents encoded at a time, if not bounded */

typedef struct saei_evaluator {
    sae_context *ctx;
    const sae_evaluate_desc *desc;
    const sae_dictionary *dict;
    sae_buffer *buffer;
    sae_buffer *targets;        /* of another width than the input, row by row with it; or NULL */
    size_t d, out, m, n, chunk; /* n rows of the batch, encoded chunk by chunk */
    sae_sparse code;
    float *scaled[2], *x_hat; /* [batch,d], [batch,out]; scaled only with normalize_batch */
    float *norms;             /* [m] decoder norms of STANDARD_NEW, whose features carry them */
    double *active;           /* [m] sums of the latents */
    double *columns;          /* [2,out] */
    double l1, l0;            /* of the batch, summed */
    float *units;             /* [batch,out] rows in the units of a CrossCoder's normalizer */
    double *layers;           /* [layers + 1] of desc->layers; or NULL */
    sae_metrics sum;
} saei_evaluator;

static sae_result saei_evaluate_plan(saei_evaluator *v) {
    const sae_dictionary *dict = v->dict;
    size_t batch = v->buffer->desc.batch_size, capacity;
    bool carries = dict->desc.arch == SAE_ARCH_STANDARD_NEW && !dict->desc.layer_codes
                   && !dict->code;
    bool top_k = dict->rule == SAE_RULE_TOP_K && dict->desc.arch != SAE_ARCH_TOP_K;
    v->d = dict->desc.activation_dim;
    v->out = saei_output_dim(&dict->desc);
    v->m = sae_dictionary_num_latents(dict);
    if (!v->targets && v->buffer->num_streams == 2 && v->buffer->stream[1].dim != v->out)
        return saei_fail(v->ctx, SAE_ERR_MISMATCH, "sae_evaluate: the target has rows of %zu, the "
                         "dictionary gives %zu", v->buffer->stream[1].dim, v->out);
    if (sae_buffer_dim(v->buffer) != v->d)
        return saei_fail(v->ctx, SAE_ERR_MISMATCH, "sae_evaluate: the data has rows of %zu, the "
                         "dictionary takes %zu", sae_buffer_dim(v->buffer), v->d);
    v->chunk = batch; /* batch top-k chooses over the whole batch */
    if (!top_k) v->chunk = saei_min(batch, saei_max((size_t)SAEI_EVALUATE_ENTRIES / v->m, 1));
    capacity = sae_dictionary_capacity(dict, v->chunk);
    if (capacity == SIZE_MAX)
        return saei_fail(v->ctx, SAE_ERR_INVALID, "sae_evaluate: batch_size is %zu, too large",
                         batch);
    v->code.capacity = capacity;
    v->code.row_begin = (size_t *)saei_alloc(v->ctx, v->chunk + 1, sizeof *v->code.row_begin);
    v->code.latent = (uint32_t *)saei_alloc(v->ctx, capacity, sizeof *v->code.latent);
    v->code.value = (float *)saei_alloc(v->ctx, capacity, sizeof *v->code.value);
    v->x_hat = (float *)saei_alloc(v->ctx, batch * v->out, sizeof *v->x_hat);
    v->active = (double *)saei_calloc(v->ctx, v->m, sizeof *v->active);
    v->columns = (double *)saei_alloc(v->ctx, 2 * v->out, sizeof *v->columns);
    if (carries)
        v->norms = (float *)saei_alloc(v->ctx, v->m, sizeof *v->norms);
    if (dict->normalizes) v->units = (float *)saei_alloc(v->ctx, batch * v->out, sizeof(float));
    if (dict->code && v->desc->layers)
        v->layers = (double *)saei_calloc(v->ctx, dict->desc.layers + 1, sizeof(double));
    if (v->desc->normalize_batch) {
        v->scaled[0] = (float *)saei_alloc(v->ctx, batch * v->d, sizeof(float));
        v->scaled[1] = (float *)saei_alloc(v->ctx, batch * v->out, sizeof(float));
    }
    if (!v->code.row_begin || !v->code.latent || !v->code.value || !v->x_hat || !v->active
        || !v->columns || (carries && !v->norms) || (dict->normalizes && !v->units)
        || (dict->code && v->desc->layers && !v->layers)
        || (v->desc->normalize_batch && (!v->scaled[0] || !v->scaled[1])))
        return saei_fail(v->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_evaluate: no memory");
    for (size_t i = 0; v->norms && i < v->m; i++) {
        const float *w = dict->W_dec + i * dict->ld_out;
        double sum = 0;
        for (size_t j = 0; j < v->out; j++) sum += (double)w[j] * (double)w[j];
        v->norms[i] = (float)sqrt(sum);
    }
    return SAE_OK;
}

static void saei_evaluate_close(saei_evaluator *v) {
    saei_free(v->ctx, v->code.row_begin);
    saei_free(v->ctx, v->code.latent);
    saei_free(v->ctx, v->code.value);
    saei_free(v->ctx, v->x_hat);
    saei_free(v->ctx, v->active);
    saei_free(v->ctx, v->columns);
    saei_free(v->ctx, v->norms);
    saei_free(v->ctx, v->units);
    saei_free(v->ctx, v->layers);
    saei_free(v->ctx, v->scaled[0]);
    saei_free(v->ctx, v->scaled[1]);
    sae_buffer_destroy(v->buffer);
    sae_buffer_destroy(v->targets);
}

/* x / mean norm(x) * sqrt(d); the target is scaled likewise. */
static void saei_evaluate_scale(saei_evaluator *v, const float **x, const float **target) {
    const float *from[2];
    double total = 0;
    float mean, root = (float)sqrt((double)v->d);
    from[0] = *x;
    from[1] = *target;
    for (size_t i = 0; i < v->n; i++) {
        double sum = 0;
        for (size_t j = 0; j < v->d; j++) {
            double value = (double)(*x)[i * v->d + j];
            sum += value * value;
        }
        total += sqrt(sum);
    }
    mean = (float)(total / (double)v->n);
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; from[s] && i < v->n * (s ? v->out : v->d); i++)
            v->scaled[s][i] = from[s][i] / mean * root;
    *x = v->scaled[0];
    if (*target) *target = v->scaled[1];
}

/* x_hat of the batch, with l1, l0 and active of its latents. */
static sae_result saei_evaluate_forward(saei_evaluator *v, const float *x) {
    sae_result result = SAE_OK;
    v->l1 = v->l0 = 0;
    if (v->dict->desc.arch == SAE_ARCH_IDENTITY) {
        memcpy(v->x_hat, x, v->n * v->d * sizeof *x);
        for (size_t i = 0; i < v->n * v->d; i++) {
            v->l1 += fabs((double)x[i]);
            v->l0 += x[i] != 0;
            v->active[i % v->d] += (double)x[i];
        }
        return SAE_OK;
    }
    for (size_t at = 0, n; at < v->n; at += n) {
        n = saei_min(v->chunk, v->n - at);
        result = sae_encode_sparse(v->dict, x + at * v->d, n, &v->code);
        if (result == SAE_OK)
            result = sae_decode_sparse(v->dict, &v->code, n, v->x_hat + at * v->out);
        if (result == SAE_OK)
            result = sae_decode_finish(v->dict, x + at * v->d, n, v->x_hat + at * v->out);
        if (result != SAE_OK) return result;
        for (size_t i = 0; i < v->code.row_begin[n]; i++) {
            uint32_t latent = v->code.latent[i];
            float f = v->norms ? v->code.value[i] * v->norms[latent] : v->code.value[i];
            v->l1 += fabs((double)f);
            v->l0 += f != 0;
            v->active[latent] += (double)f;
        }
    }
    return SAE_OK;
}

/* Sum over columns from..to of the unbiased variance of y, or of y - x_hat. In another order than
   the backend's, which takes blocks of rows and an e that was rounded to floats. */
static double saei_evaluate_variance(saei_evaluator *v, const float *y, const float *x_hat,
                                     size_t from, size_t to) {
    double *mean = v->columns, *square = v->columns + v->out, total = 0;
    memset(v->columns, 0, 2 * v->out * sizeof *v->columns);
    for (size_t i = 0; i < v->n; i++)
        for (size_t j = from; j < to; j++)
            mean[j] += (double)y[i * v->out + j] - (x_hat ? (double)x_hat[i * v->out + j] : 0);
    for (size_t j = from; j < to; j++) mean[j] /= (double)v->n;
    for (size_t i = 0; i < v->n; i++)
        for (size_t j = from; j < to; j++) {
            double e = (double)y[i * v->out + j] - (x_hat ? (double)x_hat[i * v->out + j] : 0);
            square[j] += (e - mean[j]) * (e - mean[j]);
        }
    for (size_t j = from; j < to; j++) total += square[j];
    return v->n > 1 ? total / (double)(v->n - 1) : (double)NAN;
}

/* y and x_hat in the units of the normalizer; that of y is returned. */
static const float *saei_evaluate_units(saei_evaluator *v, const float *y) {
    const sae_dictionary *dict = v->dict;
    const size_t d = v->out / dict->desc.layers;
    for (size_t i = 0; i < v->n * v->out; i++) {
        const size_t c = i % v->out, l = c / d;
        v->units[i] = (y[i] - dict->mean[c]) * dict->scale[l];
        v->x_hat[i] = (v->x_hat[i] - dict->mean[c]) * dict->output_scale[l];
    }
    return v->units;
}

/* The sum over rows of mean_l norm(e_l); and what v->layers wants. */
static double saei_evaluate_layers(saei_evaluator *v, const float *y) {
    const size_t layers = v->dict->desc.layers, d = v->out / layers;
    double l2 = 0, mse = 0;
    for (size_t i = 0; i < v->n * layers; i++) {
        double square = 0;
        for (size_t c = i * d; c < (i + 1) * d; c++) {
            double e = (double)y[c] - (double)v->x_hat[c];
            square += e * e;
        }
        l2 += sqrt(square);
        mse += square;
    }
    if (v->layers) v->layers[0] += mse / ((double)v->n * (double)layers);
    for (size_t l = 0; v->layers && l < layers; l++)
        v->layers[1 + l] += 1 - saei_evaluate_variance(v, y, v->x_hat, l * d, (l + 1) * d)
                                    / saei_evaluate_variance(v, y, NULL, l * d, (l + 1) * d);
    return l2 / (double)layers;
}

static sae_result saei_evaluate_batch(saei_evaluator *v, const float *x, const float *target) {
    const float *y;
    double l2 = 0, cossim = 0, ratio = 0, squares = 0, dots = 0, count = (double)v->n;
    if (v->desc->normalize_batch) saei_evaluate_scale(v, &x, &target);
    y = target ? target : x;
    SAEI_TRY(saei_evaluate_forward(v, x));
    if (v->units) y = saei_evaluate_units(v, y);
    if (v->dict->code) l2 = saei_evaluate_layers(v, y);
    for (size_t i = 0; i < v->n; i++) {
        const float *a = y + i * v->out, *b = v->x_hat + i * v->out;
        double aa = 0, bb = 0, ab = 0, ee = 0;
        for (size_t j = 0; j < v->out; j++) {
            double p = (double)a[j], q = (double)b[j], e = p - q;
            aa += p * p;
            bb += q * q;
            ab += p * q;
            ee += e * e;
        }
        if (!v->dict->code) l2 += sqrt(ee);
        cossim += ab / (sqrt(aa) * sqrt(bb));
        ratio += sqrt(bb) / sqrt(aa);
        squares += bb;
        dots += ab;
    }
    v->sum.l2_loss += l2 / count;
    v->sum.l1_loss += v->l1 / count;
    v->sum.l0 += v->l0 / (v->dict->code && v->dict->thresholds
                              ? count * (double)v->dict->desc.layers : count);
    v->sum.cossim += cossim / count;
    v->sum.l2_ratio += ratio / count;
    v->sum.relative_reconstruction_bias += squares / dots;
    v->sum.frac_variance_explained += 1 - saei_evaluate_variance(v, y, v->x_hat, 0, v->out) /
                                              saei_evaluate_variance(v, y, NULL, 0, v->out);
    return SAE_OK;
}

/* One pass over the data, whole batches only (or a single short one). */
static sae_result saei_evaluate_run(saei_evaluator *v) {
    uint64_t done = 0, want = v->desc->batches;
    size_t batch = v->buffer->desc.batch_size;
    double alive = 0, count;
    const float *x, *target;
    SAEI_TRY(saei_evaluate_plan(v));
    while (!want || done < want) {
        sae_result result = sae_buffer_next(v->buffer, &x, &target, &v->n);
        size_t targets = v->n;
        if (result == SAE_OK && v->targets)
            result = sae_buffer_next(v->targets, &target, NULL, &targets);
        bool end = result == SAE_ERR_END_OF_DATA || (result == SAE_OK && done && v->n < batch);
        if (end && want)
            return saei_fail(v->ctx, SAE_ERR_END_OF_DATA,
                             "sae_evaluate: batches is %llu, the source "
                             "has %llu of %zu rows",
                             (unsigned long long)want, (unsigned long long)done, batch);
        if (end && done) break;
        if (result != SAE_OK) return result;
        SAEI_TRY(saei_evaluate_batch(v, x, target));
        done++;
    }
    count = (double)done;
    for (size_t i = 0; i < v->m; i++) alive += v->active[i] != 0;
#define SAE_X(name) v->sum.name /= count;
    SAE_METRICS(SAE_X)
#undef SAE_X
    for (size_t l = 0; v->layers && l <= v->dict->desc.layers; l++) v->layers[l] /= count;
    v->sum.frac_alive = alive / (double)v->m;
    return SAE_OK;
}

/* Where x_hat is not as wide as the input, the targets get a buffer of their own; both go in the
   order of the files. */
static sae_result saei_evaluate_targets(saei_evaluator *v, sae_buffer_desc *buffer) {
    size_t d = v->dict->desc.activation_dim, out = saei_output_dim(&v->dict->desc);
    sae_source_desc *source = &buffer->source;
    sae_buffer_desc targets;
    if (d == out) return SAE_OK;
    if (source->read || (!source->target && !source->num_target_files))
        return saei_fail(v->ctx, SAE_ERR_INVALID,
                         "sae_evaluate: the dictionary gives %zu numbers for "
                         "%zu: the source needs a target in memory or files",
                         out, d);
    buffer->sequential = true;
    targets = *buffer;
    targets.source.data = source->target;
    targets.source.files = source->target_files;
    targets.source.num_files = source->num_target_files;
    targets.source.dim = source->target_dim ? source->target_dim : source->dim ? out : 0;
    source->target_dim = targets.source.target_dim = 0;
    source->target = targets.source.target = NULL;
    source->target_files = targets.source.target_files = NULL;
    source->num_target_files = targets.source.num_target_files = 0;
    SAEI_TRY(saei_buffer_new(v->ctx, &targets, true, &v->targets));
    if (sae_buffer_dim(v->targets) == out) return SAE_OK;
    return saei_fail(v->ctx, SAE_ERR_MISMATCH, "sae_evaluate: the target has rows of %zu, the "
                     "dictionary gives %zu", sae_buffer_dim(v->targets), out);
}

SAE_API sae_result sae_evaluate(const sae_dictionary *dict, const sae_evaluate_desc *desc,
                                sae_metrics *out) {
    sae_context *ctx;
    saei_evaluator v;
    sae_buffer_desc buffer;
    sae_result result;
    if (!dict) return SAE_ERR_INVALID;
    ctx = dict->ctx;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_evaluate: desc or out is NULL");
    memset(&v, 0, sizeof v);
    v.ctx = ctx;
    v.desc = desc;
    v.dict = dict;
    buffer = desc->buffer;
    buffer.single_pass = true;
    result = saei_evaluate_targets(&v, &buffer);
    if (result == SAE_OK) result = saei_buffer_new(ctx, &buffer, true, &v.buffer);
    if (result == SAE_OK && v.targets
        && sae_buffer_source_rows(v.targets) != sae_buffer_source_rows(v.buffer))
        result = saei_fail(ctx, SAE_ERR_MISMATCH,
                           "sae_evaluate: the target has %llu rows, the input "
                           "%llu",
                           (unsigned long long)sae_buffer_source_rows(v.targets),
                           (unsigned long long)sae_buffer_source_rows(v.buffer));
    if (result == SAE_OK) result = saei_evaluate_run(&v);
    if (result == SAE_OK) *out = v.sum;
    if (result == SAE_OK && v.layers)
        memcpy(desc->layers, v.layers, (dict->desc.layers + 1) * sizeof *v.layers);
    saei_evaluate_close(&v);
    return result;
}

SAE_API sae_result sae_geometric_median(sae_context *ctx, const float *x, size_t n, size_t d,
                                        float *out) {
    const sae_backend *cpu = sae_cpu_backend();
    sae_work w;
    size_t bytes, ld = saei_align16(d);
    float *rows;
    bool good;
    if (!ctx) return SAE_ERR_INVALID;
    if (!x || !out || !n || !d || n > INT32_MAX || d > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_geometric_median: n is %zu, d is %zu (or an array is "
                         "NULL), allowed are 1 to %d",
                         n, d, INT32_MAX);
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.shape.batch = n;
    w.shape.d = d;
    w.shape.ld = ld;
    w.shape.dict_size = 1;
    bytes = cpu->scratch_bytes(&w, &w.shape);
    w.scratch = bytes == SIZE_MAX ? NULL : saei_alloc(ctx, bytes, 1);
    rows = (float *)saei_calloc(ctx, n + 1, ld * sizeof(float));
    good = w.scratch && rows;
    if (good) {
        for (size_t r = 0; r < n; r++) memcpy(rows + (r + 1) * ld, x + r * d, d * sizeof *x);
        cpu->geometric_median(&w, rows + ld, n, rows);
        memcpy(out, rows, d * sizeof *out);
    }
    saei_free(ctx, w.scratch);
    saei_free(ctx, rows);
    if (good) return SAE_OK;
    return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_geometric_median: no memory for %zu rows", n);
}
