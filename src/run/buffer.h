#pragma once
#include "../api/train.h"
#include "../tensor/open.h"

/* ==== >>buffer: sources and create ============================================================ */
/* A slab is one matrix in a file or in the caller's memory, a stream is slabs end to end, and the
   buffer holds rows of one or two streams (input and target) in the type they have in the source.
   The rows held form a sequence; those from cursor on are unread. A refill moves the unread ones to
   the front, appends new rows of the source and shuffles the whole, so a batch costs O(batch). */

enum { SAEI_BUFFER_BYTES = 256 << 20, SAEI_GATHER_ROWS = 64 };

typedef struct saei_slab {
    char *name;                /* the file's path; NULL: memory */
    const unsigned char *data; /* element (0,0); need not be aligned */
    int64_t row_stride, col_stride; /* in bytes */
    sae_dtype dtype;
    uint64_t begin, rows;      /* rows begin .. begin + rows of the stream */
    sae_tensor_file *file;     /* keeps data mapped: a container */
    saei_map map;              /* or a raw file */
} saei_slab;

typedef struct saei_stream {
    saei_slab *slabs;
    size_t num_slabs;
    uint64_t rows;
    size_t dim;
    sae_dtype dtype; /* as held: the slabs' own if all agree on F32, F16 or BF16, else F32 */
} saei_stream;

struct sae_buffer {
    sae_context *ctx;
    sae_buffer_desc desc; /* defaults set; the file lists in it are not used after create */
    saei_stream stream[2];     /* input, target; of read: dim and dtype only */
    size_t num_streams;
    uint64_t source_rows;      /* 0: not known (read) */
    size_t capacity, low;      /* rows held at most; refilled when fewer than low are unread */
    unsigned char *held[2];    /* [capacity,dim] of the stream's dtype */
    uint64_t *id;              /* [capacity] row number in the source, in the order of batches */
    size_t *slot;              /* [capacity] where that row lies in held: a permutation */
    size_t cursor, count;      /* cursor .. count are unread */
    float *out[2];             /* [batch_size,dim] */
    double *norms;             /* [2,capacity] with max_activation_norm_multiple, else NULL */
    uint8_t *bad;              /* [parts of a batch] */
    uint64_t position;         /* rows taken from the source in this pass */
    uint64_t draws, batches;   /* random numbers used, batches given */
    bool ended;
    bool refilling;            /* a refill failed and goes on with the next call */
    size_t fresh;              /* of a refill: rows from here on may yet be dropped */
    uint64_t state[5];         /* what saei_buffer_state_get points to */
};

static sae_result saei_buffer_fail(const sae_context *ctx, sae_result result, const char *format,
                                   ...) SAEI_PRINTF(3, 4);
static sae_result saei_buffer_fail(const sae_context *ctx, sae_result result, const char *format,
                                   ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return saei_fail(ctx, result, "sae_buffer_create: %s", text);
}

/* ---- slabs and streams ---- */

/* n contiguous values to float32; false if one of them is NaN or infinite. */
static bool saei_row_to_f32(const unsigned char *from, sae_dtype dtype, size_t n, float *out) {
    saei_convert_row(dtype, from, (int64_t)sae_dtype_size(dtype), n, out);
    return saei_all_finite(out, n);
}

static const saei_slab *saei_stream_slab(const saei_stream *s, uint64_t row) {
    size_t low = 0, high = s->num_slabs;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->slabs[middle].begin <= row) low = middle;
        else high = middle;
    }
    return &s->slabs[low];
}

/* Row `row` of the stream, in the stream's dtype. */
static void saei_stream_row(const saei_stream *s, uint64_t row, unsigned char *out) {
    const saei_slab *slab = saei_stream_slab(s, row);
    int64_t offset = (int64_t)(row - slab->begin) * slab->row_stride;
    const unsigned char *from = slab->data + (ptrdiff_t)offset;
    size_t size = sae_dtype_size(slab->dtype);
    if (slab->dtype != s->dtype) { /* then it is float32, in held or in out: aligned */
        saei_convert_row(slab->dtype, from, slab->col_stride, s->dim, (float *)(void *)out);
    } else if (slab->col_stride == (int64_t)size) {
        memcpy(out, from, s->dim * size);
    } else {
        for (size_t i = 0; i < s->dim; i++)
            memcpy(out + i * size, from + (ptrdiff_t)((int64_t)i * slab->col_stride), size);
    }
}

static void saei_stream_close(const sae_context *ctx, saei_stream *s) {
    for (size_t i = 0; i < s->num_slabs; i++) {
        sae_tensor_file_close(s->slabs[i].file);
        saei_map_close(ctx, &s->slabs[i].map);
        saei_free(ctx, s->slabs[i].name);
    }
    saei_free(ctx, s->slabs);
    memset(s, 0, sizeof *s);
}

/* The tensor of a container that holds the rows: the one named, else the only one of two axes. */
static sae_result saei_slab_tensor(const sae_context *ctx, const saei_slab *slab, const char *name,
                                   const sae_tensor **out) {
    const sae_tensor *found = NULL;
    size_t count = sae_tensor_file_count(slab->file), fit = 0;
    if (name && !saei_ends_with(slab->name, ".npy")) {
        found = sae_tensor_file_find(slab->file, name);
        if (!found)
            return saei_buffer_fail(ctx, SAE_ERR_NOT_FOUND, "%s holds no tensor \"%s\"", slab->name,
                                    name);
        if (found->ndim != 2)
            return saei_buffer_fail(ctx, SAE_ERR_UNSUPPORTED,
                                    "tensor \"%s\" of %s has %zu axes, allowed are 2 (rows, dim)",
                                    name, slab->name, found->ndim);
    } else {
        for (size_t i = 0; i < count; i++) {
            const sae_tensor *t = sae_tensor_file_get(slab->file, i);
            if (t->ndim != 2) continue;
            if (!found) found = t;
            fit++;
        }
        if (!found)
            return saei_buffer_fail(ctx, SAE_ERR_UNSUPPORTED,
                                    "%s holds no array of 2 axes (rows, dim)", slab->name);
        if (fit > 1)
            return saei_buffer_fail(ctx, SAE_ERR_INVALID, "%s holds %zu tensors of 2 axes: tensor "
                                    "must name one (for example \"%s\")", slab->name, fit,
                                    found->name);
    }
    if (found->dtype != SAE_F32 && found->dtype != SAE_F16 && found->dtype != SAE_BF16
        && found->dtype != SAE_F64)
        return saei_buffer_fail(ctx, SAE_ERR_UNSUPPORTED,
                                "%s holds %s, allowed are F32, F16, BF16, F64", slab->name,
                                sae_dtype_name(found->dtype));
    *out = found;
    return SAE_OK;
}

/* Stricter than reading one is, so that no raw values pass for it. */
static bool saei_looks_safetensors(const unsigned char *d, size_t n) {
    return n >= 10 && saei_le64(d) >= 2 && saei_le64(d) <= SAEI_SAFETENSORS_HEADER
           && saei_le64(d) <= n - 8 && d[8] == '{' && memchr("\"} \t\r\n", d[9], 6) != NULL;
}

/* A container under another name is refused: its header would be taken for activations. */
static sae_result saei_slab_raw_check(const sae_context *ctx, const saei_slab *slab) {
    const unsigned char *d = slab->map.data;
    size_t n = slab->map.size;
    const char *kind = saei_looks_npy(d, n)           ? ".npy"
                       : saei_looks_safetensors(d, n) ? ".safetensors"
                                                      : NULL;
    if (kind)
        return saei_buffer_fail(ctx, SAE_ERR_FORMAT, "%s looks like a %s file, and by its name it "
                                "would be read as raw values: let the name end in %s", slab->name,
                                kind, kind);
    if (saei_looks_zip(d, n) || saei_looks_gguf(d, n))
        return saei_buffer_fail(ctx, SAE_ERR_FORMAT, "%s looks like a %s, allowed are .npy, "
                                ".safetensors and raw values: save the array as .npy", slab->name,
                                saei_looks_gguf(d, n) ? ".gguf" : "zip archive (.pt, .npz)");
    return SAE_OK;
}

/* Opens one file; *dim is the width of its rows. After an error saei_stream_close cleans up. */
static sae_result saei_slab_open(sae_context *ctx, const char *path, const sae_source_desc *source,
                                 saei_slab *slab, uint64_t *dim) {
    const sae_tensor *t = NULL;
    size_t size, row;
    slab->name = saei_strdup(ctx, path);
    if (!slab->name)
        return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory for the name %s", path);
    if (saei_ends_with(path, ".npy") || saei_ends_with(path, ".safetensors")) {
        SAEI_TRY(sae_tensor_file_open(ctx, path, &slab->file));
        SAEI_TRY(saei_slab_tensor(ctx, slab, source->tensor, &t));
        size = sae_dtype_size(t->dtype);
        slab->data = (const unsigned char *)t->data;
        slab->dtype = t->dtype;
        slab->rows = t->shape[0];
        slab->row_stride = t->stride[0] * (int64_t)size;
        slab->col_stride = t->stride[1] * (int64_t)size;
        *dim = t->shape[1];
        return SAE_OK;
    }
    SAEI_TRY(saei_map_open(ctx, "sae_buffer_create", path, &slab->map));
    SAEI_TRY(saei_slab_raw_check(ctx, slab));
    if (!source->dim)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "dim is 0, but %s holds raw values, which "
                                "do not say how wide a row is (.npy and .safetensors do)", path);
    slab->dtype = source->dtype;
    size = sae_dtype_size(slab->dtype);
    if (!saei_mul(source->dim, size, &row) || row > PTRDIFF_MAX)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "dim is %zu, too large", source->dim);
    if (slab->map.size % row)
        return saei_buffer_fail(ctx, SAE_ERR_FORMAT,
                                "%s has %zu bytes, not a multiple of a row's %zu (%zu of %s)", path,
                                slab->map.size, row, source->dim, sae_dtype_name(slab->dtype));
    slab->data = slab->map.data;
    slab->rows = slab->map.size / row;
    slab->row_stride = (int64_t)row;
    slab->col_stride = (int64_t)size;
    *dim = source->dim;
    return SAE_OK;
}

static sae_result saei_stream_files(sae_context *ctx, const sae_source_desc *source,
                                    const char *const *files, size_t num_files, saei_stream *s) {
    uint64_t dim = 0;
    s->slabs = (saei_slab *)saei_calloc(ctx, num_files, sizeof *s->slabs);
    if (!s->slabs)
        return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory for %zu files", num_files);
    s->num_slabs = num_files;
    for (size_t i = 0; i < num_files; i++) {
        saei_slab *slab = &s->slabs[i];
        if (!files[i])
            return saei_buffer_fail(ctx, SAE_ERR_INVALID, "file %zu is NULL", i);
        SAEI_TRY(saei_slab_open(ctx, files[i], source, slab, &dim));
        if (dim == 0 || dim > SIZE_MAX / 8 || slab->rows > (uint64_t)INT64_MAX - s->rows)
            return saei_buffer_fail(ctx, SAE_ERR_FORMAT, "%s has the shape [%llu,%llu]", files[i],
                                    (unsigned long long)slab->rows, (unsigned long long)dim);
        if (source->dim && dim != source->dim)
            return saei_buffer_fail(ctx, SAE_ERR_MISMATCH, "dim is %zu, %s has rows of %llu",
                                    source->dim, files[i], (unsigned long long)dim);
        if (i && dim != s->dim)
            return saei_buffer_fail(ctx, SAE_ERR_MISMATCH, "%s has rows of %zu, %s of %llu",
                                    files[0], s->dim, files[i], (unsigned long long)dim);
        s->dim = (size_t)dim;
        slab->begin = s->rows;
        s->rows += slab->rows;
        if (i && slab->dtype != s->dtype) s->dtype = SAE_F32;
        else s->dtype = slab->dtype;
        if (s->dtype == SAE_F64) s->dtype = SAE_F32;
    }
    return SAE_OK;
}

static sae_result saei_stream_memory(sae_context *ctx, const sae_source_desc *source,
                                     const void *data, saei_stream *s) {
    size_t size = sae_dtype_size(source->dtype), row, all;
    s->slabs = (saei_slab *)saei_calloc(ctx, 1, sizeof *s->slabs);
    if (!s->slabs) return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
    s->num_slabs = 1;
    if (!source->dim || !saei_mul(source->dim, size, &row) || !saei_mul(row, source->rows, &all)
        || all > PTRDIFF_MAX)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "data is [%zu,%zu] of %s", source->rows,
                                source->dim, sae_dtype_name(source->dtype));
    s->slabs->data = (const unsigned char *)data;
    s->slabs->dtype = s->dtype = source->dtype;
    s->slabs->rows = s->rows = source->rows;
    s->slabs->row_stride = (int64_t)row;
    s->slabs->col_stride = (int64_t)size;
    s->dim = source->dim;
    return SAE_OK;
}

/* ---- create ---- */

static sae_result saei_buffer_open_source(sae_buffer *b) {
    sae_context *ctx = b->ctx;
    sae_source_desc *source = &b->desc.source;
    saei_stream *x = &b->stream[0], *y = &b->stream[1];
    sae_source_desc target;
    if ((source->data != NULL) + (source->num_files != 0) + (source->read != NULL) != 1
        || (source->num_files && !source->files)
        || (source->num_target_files && !source->target_files))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "the source needs exactly one of data, files, read");
    if ((source->target && !source->data) || (source->num_target_files && !source->num_files)
        || (source->has_target && !source->read))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "the target must come the way the input "
                                "does: target with data, target_files with files, has_target with "
                                "read");
    if (!source->dtype) source->dtype = SAE_F32;
    if (source->dtype != SAE_F32 && source->dtype != SAE_F16 && source->dtype != SAE_BF16)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "dtype is %d (%s), allowed are F32, F16, BF16", (int)source->dtype,
                                sae_dtype_name(source->dtype));
    target = *source; /* as the target is read */
    if (source->target_dim) target.dim = source->target_dim;
    b->num_streams = source->target || source->num_target_files || source->has_target ? 2 : 1;
    if (source->read) {
        if (!source->dim)
            return saei_buffer_fail(ctx, SAE_ERR_INVALID, "dim is 0, with read it must be given");
        x->dim = source->dim;
        y->dim = target.dim;
        x->dtype = y->dtype = SAE_F32;
        if (!source->rewind) b->desc.single_pass = true;
        return SAE_OK;
    }
    if (source->data) {
        SAEI_TRY(saei_stream_memory(ctx, source, source->data, x));
        if (source->target) SAEI_TRY(saei_stream_memory(ctx, &target, source->target, y));
    } else {
        SAEI_TRY(saei_stream_files(ctx, source, source->files, source->num_files, x));
        if (source->num_target_files)
            SAEI_TRY(saei_stream_files(ctx, &target, source->target_files,
                                       source->num_target_files, y));
    }
    b->source_rows = x->rows;
    if (!x->rows)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "the source has no rows");
    if (b->num_streams == 2 && y->rows != x->rows)
        return saei_buffer_fail(ctx, SAE_ERR_MISMATCH,
                                "the input is [%llu,%zu], the target [%llu,%zu]; their rows "
                                "must agree",
                                (unsigned long long)x->rows, x->dim, (unsigned long long)y->rows,
                                y->dim);
    return SAE_OK;
}

/* Sets capacity and low, takes the memory. */
static sae_result saei_buffer_plan(sae_buffer *b) {
    sae_context *ctx = b->ctx;
    sae_buffer_desc *d = &b->desc;
    size_t dim = b->stream[0].dim, row = 0, twice, size;
    for (size_t s = 0; s < b->num_streams; s++) {
        dim = saei_max(dim, b->stream[s].dim);
        row += b->stream[s].dim * sae_dtype_size(b->stream[s].dtype);
    }
    if (!saei_mul(d->batch_size, 2, &twice) || !saei_mul(twice, dim, &size)
        || !saei_mul(size, 4 * sizeof(float), &size))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "batch_size is %zu, too large for rows of %zu", d->batch_size, dim);
    if (d->rows && d->rows < twice && !d->sequential)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "rows is %zu, allowed is 0 or at least "
                                "twice the batch_size of %zu", d->rows, d->batch_size);
    b->capacity = d->sequential ? d->batch_size
                  : d->rows     ? d->rows
                                : saei_max((size_t)SAEI_BUFFER_BYTES / saei_max(row, 1), twice);
    b->low = saei_max(b->capacity / 2, d->batch_size);
    if (!d->sequential && b->source_rows && b->source_rows <= b->capacity) {
        b->capacity = saei_max((size_t)b->source_rows, 1);
        b->low = d->batch_size; /* all rows are held: each pass gives each once, but for a rest */
    }
    d->rows = b->capacity;
    for (size_t s = 0; s < b->num_streams; s++) {
        size = b->stream[s].dim * sae_dtype_size(b->stream[s].dtype);
        b->held[s] = (unsigned char *)saei_alloc(ctx, b->capacity, size);
        b->out[s] = (float *)saei_alloc(ctx, d->batch_size * b->stream[s].dim, sizeof(float));
        if (!b->held[s] || !b->out[s]) break;
    }
    b->id = (uint64_t *)saei_alloc(ctx, b->capacity, sizeof *b->id);
    b->slot = (size_t *)saei_alloc(ctx, b->capacity, sizeof *b->slot);
    b->bad = (uint8_t *)saei_alloc(ctx, saei_ceil_div(d->batch_size, SAEI_GATHER_ROWS), 1);
    if (d->max_activation_norm_multiple > 0)
        b->norms = (double *)saei_alloc(ctx, b->capacity, 2 * sizeof *b->norms);
    if (!b->out[b->num_streams - 1] || !b->held[b->num_streams - 1] || !b->id || !b->slot
        || !b->bad || (d->max_activation_norm_multiple > 0 && !b->norms))
        return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory for %zu rows of %zu",
                                b->capacity, dim);
    for (size_t i = 0; i < b->capacity; i++) b->slot[i] = i;
    return SAE_OK;
}

static sae_result saei_buffer_init(sae_buffer *b, bool clamp) {
    sae_context *ctx = b->ctx;
    sae_buffer_desc *d = &b->desc;
    double multiple = d->max_activation_norm_multiple;
    if (!d->batch_size) d->batch_size = 2048;
    if (!d->heads) d->heads = 1;
    SAEI_TRY(saei_buffer_open_source(b));
    if (b->stream[0].dim % d->heads || b->stream[b->num_streams - 1].dim % d->heads)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "heads is %zu, which does not divide the rows' %zu", d->heads,
                                b->stream[0].dim);
    if (multiple != multiple || (multiple != 0 && multiple < 1))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "max_activation_norm_multiple is %g, "
                                "allowed is 0 (none) or at least 1", multiple);
    if (multiple > 0 && d->sequential)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "max_activation_norm_multiple is %g, it needs the shuffled order",
                                multiple);
    if (b->source_rows && b->source_rows < d->batch_size) {
        if (!d->single_pass && !clamp)
            return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                    "batch_size is %zu, the source has only %llu rows",
                                    d->batch_size, (unsigned long long)b->source_rows);
        d->batch_size = (size_t)b->source_rows;
        if (!d->sequential) d->rows = 0;
    }
    return saei_buffer_plan(b);
}

/* clamp: limit batch_size to the source's rows. */
static sae_result saei_buffer_new(sae_context *ctx, const sae_buffer_desc *desc, bool clamp,
                                  sae_buffer **out) {
    sae_buffer *b;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "desc or out is NULL");
    b = (sae_buffer *)saei_calloc(ctx, 1, sizeof *b);
    if (!b) {
        saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
        return SAE_ERR_OUT_OF_MEMORY; /* spelled out for static analysers */
    }
    b->ctx = ctx;
    b->desc = *desc;
    result = saei_buffer_init(b, clamp);
    if (result != SAE_OK) {
        sae_buffer_destroy(b);
        return result;
    }
    *out = b;
    return SAE_OK;
}

SAE_API sae_result sae_buffer_create(sae_context *ctx, const sae_buffer_desc *desc,
                                     sae_buffer **out) {
    return saei_buffer_new(ctx, desc, false, out);
}

SAE_API void sae_buffer_destroy(sae_buffer *b) {
    if (!b) return;
    for (size_t s = 0; s < 2; s++) {
        saei_stream_close(b->ctx, &b->stream[s]);
        saei_free(b->ctx, b->held[s]);
        saei_free(b->ctx, b->out[s]);
    }
    saei_free(b->ctx, b->id);
    saei_free(b->ctx, b->slot);
    saei_free(b->ctx, b->norms);
    saei_free(b->ctx, b->bad);
    saei_free(b->ctx, b);
}

SAE_API size_t sae_buffer_dim(const sae_buffer *b) { return b ? b->stream[0].dim : 0; }
SAE_API size_t sae_buffer_target_dim(const sae_buffer *b) {
    return b && b->num_streams == 2 ? b->stream[1].dim : 0;
}
SAE_API uint64_t sae_buffer_source_rows(const sae_buffer *b) { return b ? b->source_rows : 0; }
