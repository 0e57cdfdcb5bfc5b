#pragma once
#include "clt.h"

/* ==== >>clt: lists, decode, forward =========================================================== */

/* Rows that are encoded together: what is chosen together, else what fits. */
static size_t saei_clt_chunk(const sae_clt *clt, size_t n) {
    size_t fits = (size_t)SAEI_CHUNK_ENTRIES / (clt->desc.layers * clt->desc.dict_size);
    if (clt->desc.arch == SAE_ARCH_BATCH_TOP_K) return n;
    return saei_max(saei_min(saei_min(n, SAEI_CHUNK_ROWS), fits), 1);
}

/* What is not 0 of f [rows,m] behind the *at entries that are there; entries beyond the capacity
   are only counted. */
static void saei_clt_gather(const float *f, size_t rows, size_t m, size_t *begin, sae_sparse *out,
                            size_t *at) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < m; i++) {
            if (f[r * m + i] == 0) continue;
            if (*at < out->capacity) {
                out->latent[*at] = (uint32_t)i;
                out->value[*at] = f[r * m + i];
            }
            ++*at;
        }
        begin[r + 1] = *at;
    }
}

SAE_API sae_result sae_clt_encode_sparse(const sae_clt *clt, const float *x, size_t n,
                                         sae_sparse *out) {
    size_t m, d, chunk, at = 0;
    sae_result result = SAE_OK;
    float *f;
    SAEI_TRY(saei_clt_check(clt, "sae_clt_encode_sparse",
                            x && out && out->row_begin
                                && (!out->capacity || (out->latent && out->value)), n));
    m = clt->desc.layers * clt->desc.dict_size;
    d = clt->desc.layers * clt->desc.activation_dim;
    chunk = saei_clt_chunk(clt, n);
    out->row_begin[0] = 0;
    f = (float *)saei_alloc(clt->ctx, saei_max(chunk, 1) * m, sizeof *f);
    if (!f)
        return saei_fail(clt->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_clt_encode_sparse: no memory for "
                         "%zu rows of %zu latents", chunk, m);
    for (size_t r = 0; r < n && result == SAE_OK; r += chunk) {
        size_t rows = saei_min(chunk, n - r);
        result = saei_clt_encode(clt, "sae_clt_encode_sparse", x + r * d, rows, f);
        if (result == SAE_OK) saei_clt_gather(f, rows, m, out->row_begin + r, out, &at);
    }
    saei_free(clt->ctx, f);
    if (result != SAE_OK || at <= out->capacity) return result;
    return saei_fail(clt->ctx, SAE_ERR_INVALID, "sae_clt_encode_sparse: capacity is %zu entries, "
                     "%zu are needed", out->capacity, at);
}

/* What latent i of source l, at value f, adds to the row of target t. */
static void saei_clt_add(const sae_clt *clt, size_t l, size_t t, size_t i, float f, float *x_hat) {
    enum { COLUMNS = 256 };
    const saei_clt_block *b = &clt->blocks[l * clt->desc.layers + t];
    const size_t d = clt->desc.activation_dim;
    float row[COLUMNS];
    if (!b->W_dec.data) return;
    if (b->post && f > 0) f += b->post[i];
    if (b->post_scale) f *= b->post_scale[i];
    f *= b->share;
    for (size_t c = 0; c < d; c += COLUMNS) {
        size_t n = saei_min(COLUMNS, d - c);
        saei_clt_row(&b->W_dec, i, c, n, row);
        clt->ctx->kernels->axpy(n, f, row, x_hat + c, x_hat + c);
    }
}

/* One row: latents ascending, each into all its targets; then b_dec and the scale. */
static void saei_clt_decode_row(void *arg, size_t r) {
    const saei_clt_job *job = (const saei_clt_job *)arg;
    const sae_clt *clt = job->clt;
    const size_t layers = clt->desc.layers, d = clt->desc.activation_dim, m = clt->desc.dict_size;
    float *x_hat = job->x_hat + r * layers * d;
    memset(x_hat, 0, layers * d * sizeof *x_hat);
    for (size_t j = job->code->row_begin[r]; j < job->code->row_begin[r + 1]; j++) {
        size_t code = job->code->latent[j];
        for (size_t t = 0; t < layers; t++)
            saei_clt_add(clt, code / m, t, code % m, job->code->value[j], x_hat + t * d);
    }
    for (size_t t = 0; t < layers; t++)
        for (size_t c = 0; c < d; c++)
            x_hat[t * d + c] = (clt->layers[t].b_dec[c] + x_hat[t * d + c])
                               * clt->layers[t].out_scale;
}

SAE_API sae_result sae_clt_decode_sparse(const sae_clt *clt, const sae_sparse *code, size_t n,
                                         float *x_hat) {
    saei_clt_job job;
    SAEI_TRY(saei_clt_check(clt, "sae_clt_decode_sparse",
                            code && code->row_begin && (x_hat || !n), n));
    for (size_t r = 0; r < n; r++)
        if (code->row_begin[r + 1] < code->row_begin[r])
            return saei_fail(clt->ctx, SAE_ERR_INVALID, "sae_clt_decode_sparse: row_begin[%zu] is "
                             "%zu, less than the one before", r + 1, code->row_begin[r + 1]);
    for (size_t j = n ? code->row_begin[0] : 0; n && j < code->row_begin[n]; j++)
        if (!code->latent || !code->value
            || code->latent[j] >= clt->desc.layers * clt->desc.dict_size)
            return saei_fail(clt->ctx, SAE_ERR_INVALID, "sae_clt_decode_sparse: latent[%zu] is "
                             "not below %zu (or an array is NULL)", j,
                             clt->desc.layers * clt->desc.dict_size);
    memset(&job, 0, sizeof job);
    job.clt = clt;
    job.code = code;
    job.x_hat = x_hat;
    saei_parallel(clt->ctx, n, saei_clt_decode_row, &job);
    return SAE_OK;
}

/* The skips of a block of rows. */
static void saei_clt_skip_part(void *arg, size_t part) {
    const saei_clt_job *job = (const saei_clt_job *)arg;
    const sae_clt *clt = job->clt;
    const size_t layers = clt->desc.layers, d = clt->desc.activation_dim;
    const size_t end = saei_part_end(part, SAEI_BLOCK_ROWS, job->n);
    saei_small_block small;
    saei_room room = saei_room_take(clt->ctx, &small);
    for (size_t r = part * SAEI_BLOCK_ROWS, rows; r < end; r += rows) {
        rows = saei_min(room.rows, end - r);
        for (size_t b = 0; b < layers * layers; b++) {
            const size_t l = b / layers, t = b % layers;
            if (!clt->blocks[b].W_skip.data) continue;
            for (size_t first = 0; first < d; first += SAEI_PANEL) {
                size_t count = saei_min(SAEI_PANEL, d - first);
                saei_clt_product(clt, &clt->blocks[b].W_skip, &room, job->x, l, r, rows, first,
                                 count);
                for (size_t k = 0; k < rows; k++) {
                    float *y = job->x_hat + (r + k) * layers * d + t * d + first;
                    clt->ctx->kernels->axpy(count,
                                            clt->blocks[b].share * clt->layers[t].out_scale,
                                            room.product + k * SAEI_PANEL, y, y);
                }
            }
        }
    }
    saei_room_leave(&room);
}

SAE_API sae_result sae_clt_finish(const sae_clt *clt, const float *x, size_t n, float *x_hat) {
    saei_clt_job job;
    SAEI_TRY(saei_clt_check(clt, "sae_clt_finish", x && x_hat, n));
    memset(&job, 0, sizeof job);
    job.clt = clt;
    job.x = x;
    job.n = n;
    job.x_hat = x_hat;
    if (clt->skips)
        saei_parallel(clt->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_clt_skip_part, &job);
    return SAE_OK;
}

/* Of rows whose f [rows,m] is known. */
static sae_result saei_clt_forward_rows(const sae_clt *clt, const float *x, size_t rows,
                                        const float *f, float *x_hat) {
    const size_t m = clt->desc.layers * clt->desc.dict_size;
    sae_result result = SAE_ERR_OUT_OF_MEMORY;
    size_t at = 0;
    sae_sparse code;
    memset(&code, 0, sizeof code);
    for (size_t i = 0; i < rows * m; i++) code.capacity += f[i] != 0;
    code.row_begin = (size_t *)saei_calloc(clt->ctx, rows + 1, sizeof *code.row_begin);
    code.latent = (uint32_t *)saei_alloc(clt->ctx, code.capacity, sizeof *code.latent);
    code.value = (float *)saei_alloc(clt->ctx, code.capacity, sizeof *code.value);
    if (code.row_begin && code.latent && code.value) {
        saei_clt_gather(f, rows, m, code.row_begin, &code, &at);
        result = sae_clt_decode_sparse(clt, &code, rows, x_hat);
        if (result == SAE_OK) result = sae_clt_finish(clt, x, rows, x_hat);
    } else
        saei_fail(clt->ctx, result, "sae_clt_forward: no memory for %zu latents", code.capacity);
    saei_free(clt->ctx, code.row_begin);
    saei_free(clt->ctx, code.latent);
    saei_free(clt->ctx, code.value);
    return result;
}

SAE_API sae_result sae_clt_forward(const sae_clt *clt, const float *x, size_t n, float *x_hat,
                                   float *f) {
    size_t m, d, chunk;
    sae_result result = SAE_OK;
    float *own = NULL;
    SAEI_TRY(saei_clt_check(clt, "sae_clt_forward", x && x_hat, n));
    m = clt->desc.layers * clt->desc.dict_size;
    d = clt->desc.layers * clt->desc.activation_dim;
    chunk = saei_clt_chunk(clt, n);
    if (!f) own = (float *)saei_alloc(clt->ctx, saei_max(chunk, 1) * m, sizeof *own);
    if (!f && !own)
        return saei_fail(clt->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_clt_forward: no memory for %zu rows "
                         "of %zu latents", chunk, m);
    for (size_t r = 0; r < n && result == SAE_OK; r += chunk) {
        size_t rows = saei_min(chunk, n - r);
        float *to = f ? f + r * m : own;
        result = saei_clt_encode(clt, "sae_clt_forward", x + r * d, rows, to);
        if (result == SAE_OK)
            result = saei_clt_forward_rows(clt, x + r * d, rows, to, x_hat + r * d);
    }
    saei_free(clt->ctx, own);
    return result;
}

SAE_API bool sae_clt_decoder_row(const sae_clt *clt, size_t source, size_t latent, size_t target,
                                 float *out) {
    const saei_clt_matrix *m;
    if (!clt || !out || source >= clt->desc.layers || target >= clt->desc.layers
        || latent >= clt->desc.dict_size)
        return false;
    m = &clt->blocks[source * clt->desc.layers + target].W_dec;
    if (m->data) saei_clt_row(m, latent, 0, clt->desc.activation_dim, out);
    else memset(out, 0, clt->desc.activation_dim * sizeof *out);
    return true;
}
