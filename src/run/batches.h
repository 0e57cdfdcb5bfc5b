#pragma once
#include "../base/random.h"
#include "buffer.h"

/* ==== >>buffer: refill, batches, state ======================================================== */

static unsigned char *saei_buffer_held(const sae_buffer *b, size_t stream, size_t i) {
    const saei_stream *s = &b->stream[stream];
    return b->held[stream] + b->slot[i] * s->dim * sae_dtype_size(s->dtype);
}

static void saei_buffer_swap(sae_buffer *b, size_t i, size_t j) {
    size_t slot = b->slot[i];
    uint64_t id = b->id[i];
    b->slot[i] = b->slot[j];
    b->id[i] = b->id[j];
    b->slot[j] = slot;
    b->id[j] = id;
}

static sae_result saei_buffer_not_finite(const sae_buffer *b, size_t stream, uint64_t row) {
    const char *what = stream ? "target" : "input";
    const saei_slab *slab;
    if (b->source_rows) {
        slab = saei_stream_slab(&b->stream[stream], row);
        if (slab->name)
            return saei_fail(b->ctx, SAE_ERR_NOT_FINITE,
                             "sae_buffer_next: %s has NaN or infinity in "
                             "row %llu",
                             slab->name, (unsigned long long)(row - slab->begin));
    }
    return saei_fail(b->ctx, SAE_ERR_NOT_FINITE,
                     "sae_buffer_next: the %s has NaN or infinity in row "
                     "%llu",
                     what, (unsigned long long)row);
}

/* Appends rows from read; *got 0 at the end of its data. */
static sae_result saei_buffer_call(sae_buffer *b, size_t room, size_t *got) {
    const sae_source_desc *source = &b->desc.source;
    size_t want = saei_min(room, b->desc.batch_size);
    int64_t n = source->read(source->user, b->out[0], b->num_streams == 2 ? b->out[1] : NULL, want);
    if (n < 0) {
        if (n < (int64_t)SAE_ERR_BACKEND)
            return saei_fail(b->ctx, SAE_ERR_INVALID, "sae_buffer_next: read returned %lld, not a "
                             "sae_result", (long long)n);
        return saei_fail(b->ctx, (sae_result)n, "sae_buffer_next: read failed with %s",
                         sae_result_name((sae_result)n));
    }
    if ((uint64_t)n > want)
        return saei_fail(b->ctx, SAE_ERR_INVALID, "sae_buffer_next: read returned %lld rows, asked "
                         "were %zu", (long long)n, want);
    *got = (size_t)n;
    for (size_t s = 0; s < b->num_streams; s++)
        for (size_t i = 0, dim = b->stream[s].dim; i < *got; i++)
            memcpy(saei_buffer_held(b, s, b->count + i), b->out[s] + i * dim, dim * sizeof(float));
    return SAE_OK;
}

static sae_result saei_buffer_rewind_source(sae_buffer *b) {
    const sae_source_desc *source = &b->desc.source;
    sae_result result;
    if (source->read) {
        if (!source->rewind)
            return saei_fail(b->ctx, SAE_ERR_UNSUPPORTED, "sae_buffer_rewind: the source is a read "
                             "without rewind");
        result = source->rewind(source->user);
        if (result != SAE_OK)
            return saei_fail(b->ctx, result, "sae_buffer_rewind: rewind failed with %s",
                             sae_result_name(result));
    }
    b->position = 0;
    return SAE_OK;
}

/* Appends rows until the buffer is full, starting over at the source's end, or until ended. */
static sae_result saei_buffer_read(sae_buffer *b) {
    while (b->count < b->capacity && !b->ended) {
        size_t room = b->capacity - b->count, got = 0;
        if (b->desc.source.read) {
            SAEI_TRY(saei_buffer_call(b, room, &got));
        } else {
            uint64_t left = b->source_rows - b->position;
            got = left < room ? (size_t)left : room;
            for (size_t s = 0; s < b->num_streams; s++)
                for (size_t i = 0; i < got; i++)
                    saei_stream_row(&b->stream[s], b->position + i,
                                    saei_buffer_held(b, s, b->count + i));
        }
        for (size_t i = 0; i < got; i++) b->id[b->count + i] = b->position + i;
        b->count += got;
        b->position += got;
        if (got) continue;
        if (b->desc.single_pass) {
            b->ended = true;
            break;
        }
        if (b->position < b->desc.batch_size)
            return saei_fail(b->ctx, SAE_ERR_INVALID,
                             "sae_buffer_next: batch_size is %zu, the source "
                             "has only %llu rows",
                             b->desc.batch_size, (unsigned long long)b->position);
        if (b->desc.sequential) b->count = 0;
        SAEI_TRY(saei_buffer_rewind_source(b));
    }
    return SAE_OK;
}

/* The lower median of a [n], n > 0, as torch's; a is reordered. */
static double saei_lower_median(double *a, size_t n) {
    size_t low = 0, high = n - 1, k = (n - 1) / 2;
    while (low < high) {
        double pivot = a[low + (high - low) / 2], swap;
        size_t i = low, j = high;
        for (;;) {
            while (a[i] < pivot) i++;
            while (a[j] > pivot) j--;
            if (i >= j) break;
            swap = a[i];
            a[i++] = a[j];
            a[j--] = swap;
        }
        if (k <= j) high = j;
        else low = j + 1;
    }
    return a[k];
}

/* Drops those of the rows first .. count whose norm exceeds the multiple of their median. */
static sae_result saei_buffer_drop_large(sae_buffer *b, size_t first) {
    double multiple = b->desc.max_activation_norm_multiple, limit;
    const saei_stream *x = &b->stream[0];
    size_t n = b->count - first, keep = first;
    double *select;
    if (!b->norms || !n) return SAE_OK;
    select = b->norms + b->capacity;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        if (!saei_row_to_f32(saei_buffer_held(b, 0, first + i), x->dtype, x->dim, b->out[0])) {
            b->count = first;
            b->position = b->id[first];
            b->ended = false;
            return saei_buffer_not_finite(b, 0, b->id[first + i]);
        }
        for (size_t j = 0; j < x->dim; j++) sum += (double)b->out[0][j] * (double)b->out[0][j];
        b->norms[i] = select[i] = sqrt(sum);
    }
    limit = multiple * saei_lower_median(select, n);
    for (size_t i = 0; i < n; i++)
        if (!(b->norms[i] > limit)) saei_buffer_swap(b, keep++, first + i);
    b->count = keep;
    return SAE_OK;
}

static void saei_buffer_shuffle(sae_buffer *b) { /* Fisher-Yates; draws are without bias */
    saei_random random = saei_random_of(b->desc.seed, SAEI_STREAM_SHUFFLE);
    for (size_t i = b->count; i > 1; i--) {
        uint64_t limit = UINT64_MAX - UINT64_MAX % i, bits;
        do bits = saei_random_bits(&random, b->draws++);
        while (bits >= limit);
        saei_buffer_swap(b, i - 1, (size_t)(bits % i));
    }
}

static sae_result saei_buffer_refill(sae_buffer *b) {
    size_t unread = b->count - b->cursor;
    if (b->ended) return SAE_OK;
    if (!b->refilling) {
        for (size_t i = 0; i < unread; i++) saei_buffer_swap(b, i, b->cursor + i);
        b->count = b->fresh = unread;
        b->cursor = 0;
        b->refilling = true;
    }
    do {
        SAEI_TRY(saei_buffer_read(b));
        SAEI_TRY(saei_buffer_drop_large(b, b->fresh));
        b->fresh = b->count;
    } while (b->count < b->desc.batch_size && !b->ended);
    if (!b->desc.sequential) saei_buffer_shuffle(b);
    b->refilling = false;
    return SAE_OK;
}

/* ---- batches ---- */

typedef struct saei_gather {
    sae_buffer *buffer;
    size_t n;
} saei_gather;

static void saei_gather_part(void *arg, size_t part) {
    const saei_gather *g = (const saei_gather *)arg;
    sae_buffer *b = g->buffer;
    size_t end = saei_part_end(part, SAEI_GATHER_ROWS, g->n);
    bool good = true;
    for (size_t i = part * SAEI_GATHER_ROWS; i < end; i++)
        for (size_t s = 0; s < b->num_streams; s++)
            good &= saei_row_to_f32(saei_buffer_held(b, s, b->cursor + i), b->stream[s].dtype,
                                    b->stream[s].dim, b->out[s] + i * b->stream[s].dim);
    b->bad[part] = !good;
}

SAE_API sae_result sae_buffer_next(sae_buffer *b, const float **x, const float **target,
                                   size_t *n) {
    size_t take, parts;
    saei_gather gather;
    if (!b) return SAE_ERR_INVALID;
    if (!x || !n) return saei_fail(b->ctx, SAE_ERR_INVALID, "sae_buffer_next: x or n is NULL");
    if (b->refilling || b->count - b->cursor < b->low) SAEI_TRY(saei_buffer_refill(b));
    take = saei_min(b->count - b->cursor, b->desc.batch_size);
    if (!take)
        return saei_fail(b->ctx, SAE_ERR_END_OF_DATA,
                         "sae_buffer_next: the source has no more rows "
                         "after %llu batches",
                         (unsigned long long)b->batches);
    gather.buffer = b;
    gather.n = take;
    parts = saei_ceil_div(take, SAEI_GATHER_ROWS);
    saei_parallel(b->ctx, parts, saei_gather_part, &gather);
    for (size_t i = 0; i < take; i++) {
        if (!b->bad[i / SAEI_GATHER_ROWS]) continue;
        for (size_t s = 0; s < b->num_streams; s++)
            if (!saei_row_to_f32(saei_buffer_held(b, s, b->cursor + i), b->stream[s].dtype,
                                 b->stream[s].dim, b->out[s]))
                return saei_buffer_not_finite(b, s, b->id[b->cursor + i]);
    }
    b->cursor += take;
    b->batches++;
    *x = b->out[0];
    if (target) *target = b->num_streams == 2 ? b->out[1] : NULL;
    *n = take;
    return SAE_OK;
}

SAE_API sae_result sae_buffer_rewind(sae_buffer *b) {
    if (!b) return SAE_ERR_INVALID;
    if (b->position || b->batches || b->ended || b->desc.source.rewind)
        SAEI_TRY(saei_buffer_rewind_source(b));
    b->cursor = b->count = 0;
    b->draws = b->batches = 0;
    b->ended = b->refilling = false;
    return SAE_OK;
}

/* ---- state ---- */

/* What a resume needs: two tensors, "counters" and "ids" (of the unread rows, in order; only if
   there are any, and not for read, whose batches a resume reads again). Valid until the buffer's
   next call. */
enum { SAEI_BUFFER_TENSORS = 2 };
static void saei_buffer_state_get(sae_buffer *b, sae_tensor *out, size_t *count) {
    size_t unread = b->desc.source.read ? 0 : b->count - b->cursor;
    b->state[0] = b->batches;
    b->state[1] = b->position;
    b->state[2] = b->draws;
    b->state[3] = b->ended;
    b->state[4] = unread;
    memset(out, 0, SAEI_BUFFER_TENSORS * sizeof *out);
    out[0].name = "counters";
    out[0].data = b->state;
    out[0].shape[0] = sizeof b->state / sizeof *b->state;
    out[1].name = "ids";
    out[1].data = b->id + b->cursor;
    out[1].shape[0] = unread;
    for (size_t i = 0; i < 2; i++) {
        out[i].dtype = SAE_U64;
        out[i].ndim = 1;
        out[i].stride[0] = 1;
    }
    *count = unread ? 2 : 1;
}

/* PREFIXname as U64 [n]; NULL if it is not there or of another kind. */
static const unsigned char *saei_state_u64(const sae_tensor_file *file, const char *prefix,
                                           const char *name, uint64_t n) {
    char full[96];
    const sae_tensor *t;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    t = sae_tensor_file_find(file, full);
    if (!t || t->dtype != SAE_U64 || t->ndim != 1 || t->shape[0] != n) return NULL;
    return (const unsigned char *)t->data;
}

/* Puts a buffer of the same desc into that state. A read that cannot rewind must be at its
   start. */
static sae_result saei_buffer_state_set(sae_buffer *b, const char *who,
                                        const sae_tensor_file *file, const char *prefix) {
    uint64_t state[5];
    const unsigned char *from = saei_state_u64(file, prefix, "counters", 5), *ids = NULL;
    const float *x;
    size_t n;
    if (from) memcpy(state, from, sizeof state);
    if (from && state[4] && state[4] <= b->capacity)
        ids = saei_state_u64(file, prefix, "ids", state[4]);
    if (!from || (state[4] && !ids) || (b->source_rows && state[1] > b->source_rows))
        return saei_fail(b->ctx, SAE_ERR_FORMAT, "%s: the backup's buffer is damaged", who);
    SAEI_TRY(sae_buffer_rewind(b));
    if (b->desc.source.read) {
        for (uint64_t i = 0; i < state[0]; i++) SAEI_TRY(sae_buffer_next(b, &x, NULL, &n));
        return SAE_OK;
    }
    n = (size_t)state[4];
    for (size_t i = 0; i < n; i++) {
        memcpy(&b->id[i], ids + i * 8, 8);
        if (b->id[i] >= b->source_rows)
            return saei_fail(b->ctx, SAE_ERR_FORMAT, "%s: the backup's buffer is damaged", who);
        for (size_t s = 0; s < b->num_streams; s++)
            saei_stream_row(&b->stream[s], b->id[i], saei_buffer_held(b, s, i));
    }
    b->batches = state[0];
    b->position = state[1];
    b->draws = state[2];
    b->ended = state[3] != 0;
    b->count = n;
    return SAE_OK;
}
