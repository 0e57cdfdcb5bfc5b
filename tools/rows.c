/* sae: rows of activations in blocks from files, and .npy files written in blocks. */
#include "tool.h"

void reader_close(reader *r) {
    size_t i;
    for (i = 0; i < r->sides; i++) reader_close(&r->side[i]);
    sae_tensor_file_close(r->open);
    if (r->raw) fclose(r->raw);
    r->open = NULL;
    r->raw = NULL;
}

/* "[2,3,4]" */
static void shape_text(const sae_tensor *t, char out[200]) {
    size_t n = 0, i;
    out[0] = 0;
    for (i = 0; i < t->ndim && n < 170; i++)
        n += (size_t)snprintf(out + n, 200 - n, "%s%.0f", i ? "," : "[", (double)t->shape[i]);
    snprintf(out + n, 200 - n, t->ndim ? "]" : "[]");
}

static bool is_float(const sae_tensor *t) {
    return t->dtype >= SAE_F32 && t->dtype <= SAE_F64;
}

/* The tensor of the open file that is rows, where none is named: the one of two dimensions, of
   floats if there are such; else the one of three. */
static const sae_tensor *reader_pick(const reader *r, const char *path) {
    size_t count = sae_tensor_file_count(r->open), i, way, found;
    const sae_tensor *t = NULL;
    for (way = 0; way < 4; way++) {
        size_t ndim = way < 2 ? 2 : 3;
        for (i = found = 0; i < count; i++) {
            const sae_tensor *candidate = sae_tensor_file_get(r->open, i);
            if (candidate->ndim != ndim || is_float(candidate) != (way % 2 == 0)) continue;
            if (found++ == 0) t = candidate;
        }
        if (found == 1) return t;
        if (found > 1) {
            fail("%s holds %zu tensors with %s dimensions; --tensor NAME says which", path, found,
                 ndim == 2 ? "two" : "three");
            return NULL;
        }
    }
    if (count == 1) return sae_tensor_file_get(r->open, 0);
    fail("%s holds no tensor [rows,dim]", path);
    return NULL;
}

/* A tensor of tokens [positions,contexts] as r->all's first axes: both are positions. */
static bool has_tokens(const reader *r) {
    size_t i;
    for (i = 0; i < sae_tensor_file_count(r->open); i++) {
        const sae_tensor *t = sae_tensor_file_get(r->open, i);
        if (t->ndim == 2 && !is_float(t) && t->shape[0] == r->all.shape[0]
            && t->shape[1] == r->all.shape[1])
            return true;
    }
    return false;
}

/* r->all of three dimensions: heads or layers side by side, [batch,context,dim], or the one layer
   that --data-layer names. */
static int reader_shape(reader *r, const char *path, size_t *width) {
    sae_tensor *t = &r->all;
    const uint64_t middle = t->shape[1], last = t->shape[2];
    char shape[200];
    uint64_t layer;
    shape_text(t, shape);
    r->odd = true;
    if (r->data_layer) {
        if (!parse_count(r->data_layer, &layer) || layer >= middle)
            return fail("--data-layer is %s, %s has layers 0 to %.0f: it is %s", r->data_layer,
                        path, (double)middle - 1, shape);
        t->data = (const unsigned char *)t->data
                  + (int64_t)layer * t->stride[1] * (int64_t)sae_dtype_size(t->dtype);
    } else if (middle * last == r->want) {
        *width = (size_t)(middle * last);
        return DONE;
    } else if (last == r->want && has_tokens(r)) {
        if (t->stride[0] != (int64_t)middle * t->stride[1])
            return fail("%s: %s is not contiguous", path, shape);
        t->shape[0] *= middle;
        t->stride[0] = t->stride[1];
    } else if (last == r->want)
        return fail("%s is %s, of %.0f layers, and the dictionary takes one: --data-layer N says "
                    "which, 0 to %.0f", path, shape, (double)middle, (double)middle - 1);
    else
        return fail("%s: %s is %s, it must be [rows,dim]%s", path,
                    t->name[0] ? t->name : "its array", shape,
                    r->want ? ", or [rows,heads,dim] of heads that are together as wide as the "
                              "dictionary" : "");
    t->shape[1] = t->shape[2];
    t->stride[1] = t->stride[2];
    t->ndim = 2;
    *width = (size_t)last;
    return DONE;
}

static int reader_open_tensor(reader *r, const char *path, size_t *width) {
    const sae_tensor *t = NULL;
    int status = DONE;
    if (sae_tensor_file_open(tool.ctx, path, &r->open) != SAE_OK) return fail_library();
    if (r->tensor && ends_with(path, ".safetensors")) {
        t = sae_tensor_file_find(r->open, r->tensor);
        if (!t) return fail("%s has no tensor %s", path, r->tensor);
    } else if (!(t = reader_pick(r, path))) return FAILED;
    r->all = *t;
    if (sae_tensor_file_check(r->open, NULL) != SAE_OK) return fail_library();
    if (r->all.ndim == 3 && (r->want || r->data_layer)) status = reader_shape(r, path, width);
    else if (r->all.ndim != 2) {
        char shape[200];
        shape_text(&r->all, shape);
        return fail("%s: %s is %s, it must be [rows,dim]", path,
                    r->all.name[0] ? r->all.name : "its array", shape);
    } else *width = (size_t)r->all.shape[1];
    r->count = r->all.shape[0];
    return status;
}

static int reader_open_raw(reader *r, const char *path, size_t *width) {
    size_t row = r->raw_dim * sae_dtype_size(r->raw_dtype);
    int64_t size;
    r->raw = fopen(path, "rb");
    if (!r->raw) return fail("%s: cannot be opened", path);
    if (seek_end(r->raw) != 0 || (size = file_tell(r->raw)) < 0)
        return fail("%s: has no size", path);
    rewind(r->raw);
    if ((uint64_t)size % row != 0)
        return fail("%s: %.0f bytes are no multiple of a row's %zu", path, (double)size, row);
    r->count = (uint64_t)size / row;
    *width = r->raw_dim;
    return DONE;
}

/* What can be rows at all, said before anything is read. */
static int check_rows_file(const char *path, size_t raw_dim) {
    static const char *const boxes[] = { ".pt", ".pth", ".npz" };
    size_t i;
    if (is_folder(path)) return fail("%s is a folder", path);
    for (i = 0; i < 3; i++)
        if (ends_with(path, boxes[i]))
            return fail("%s is a %s: sae tensors %s --out DIR makes .npy files of it", path,
                        boxes[i], path);
    if (raw_dim || ends_with(path, ".npy") || ends_with(path, ".safetensors")) return DONE;
    if (!file_exists(path)) return fail("%s: there is no such file", path);
    return fail("%s is none of .npy, .safetensors: raw values need --dim and --dtype", path);
}

static int reader_open_next(reader *r) {
    const char *path = r->files->items[r->next++];
    size_t width = 0;
    int status = check_rows_file(path, r->raw_dim);
    reader_close(r);
    if (status != DONE) return status;
    if (ends_with(path, ".npy") || ends_with(path, ".safetensors"))
        status = reader_open_tensor(r, path, &width);
    else
        status = reader_open_raw(r, path, &width);
    if (status != DONE) return status;
    if (r->width && width != r->width)
        return fail("%s: rows are %zu wide, those of %s are %zu wide", path, width,
                    r->files->items[0], r->width);
    r->width = width;
    r->at = 0;
    return DONE;
}

/* Files that are narrower than what is wanted, and together as wide: one of each layer. */
static int reader_open_sides(reader *r, const list *files, const common *c) {
    size_t i;
    r->side = (reader *)keep_alloc(files->count, sizeof *r->side);
    for (i = 0; i < files->count; i++) {
        list *one = (list *)keep_alloc(1, sizeof *one);
        int status;
        one->items = &files->items[i];
        one->count = 1;
        status = reader_create(&r->side[i], one, c);
        if (status != DONE) return status;
        r->sides = i + 1;
        if (r->side[i].rows != r->side[0].rows)
            return fail("%s has %.0f rows, %s has %.0f: files of layers side by side have equally "
                        "many", files->items[i], (double)r->side[i].rows, files->items[0],
                        (double)r->side[0].rows);
    }
    r->rows = r->side[0].rows;
    r->width = r->want;
    r->odd = true;
    return DONE;
}

/* Opens each file once, to know width and rows, and then the first. */
int reader_create(reader *r, const list *files, const common *c) {
    int status = parse_dtype(c->dtype, &r->raw_dtype);
    if (status != DONE) return status;
    r->files = files;
    r->tensor = c->tensor;
    r->data_layer = c->data_layer;
    r->raw_dim = (size_t)c->dim;
    while (r->next < files->count) {
        status = reader_open_next(r);
        if (status != DONE) return status;
        r->rows += r->count;
    }
    if (files->count > 1 && r->width != r->want && r->width * files->count == r->want) {
        reader_close(r);
        return reader_open_sides(r, files, c);
    }
    return reader_rewind(r);
}

int reader_rewind(reader *r) {
    size_t i;
    int status = DONE;
    for (i = 0; i < r->sides && status == DONE; i++) status = reader_rewind(&r->side[i]);
    if (r->sides) return status;
    r->next = 0;
    return reader_open_next(r);
}

/* Counts the rows with NaN or infinity among n that start at row first of the open file. */
static void reader_count_bad(reader *r, const float *x, size_t n, uint64_t first) {
    size_t i, j;
    for (i = 0; i < n; i++) {
        float sum = 0; /* of all times 0: NaN where one is not finite */
        for (j = 0; j < r->width; j++) sum += x[i * r->width + j] * 0.0f;
        if (sum == 0) continue;
        if (r->num_bad++) continue;
        r->bad_row = first + i;
        r->bad_file = r->files->items[r->next - 1];
    }
}

/* Their other rows are given all the same, so this is no failure; --quiet does not hide it. */
void reader_warn_bad(const reader *r) {
    size_t i;
    for (i = 0; i < r->sides; i++) reader_warn_bad(&r->side[i]);
    if (r->num_bad)
        fail("warning: %.0f row%s with NaN or infinity, first row %.0f of %s: %s latents mean "
             "nothing", (double)r->num_bad, r->num_bad == 1 ? "" : "s", (double)r->bad_row,
             r->bad_file, r->num_bad == 1 ? "its" : "their");
}

/* reader_next of files side by side. */
static int reader_next_sides(reader *r, float *x, size_t max, size_t *n) {
    size_t width = r->width / r->sides, i, k, some = 0;
    if (max > r->capacity) {
        r->capacity = max;
        r->part = (float *)keep_alloc(max * width, sizeof *r->part);
    }
    for (i = 0; i < r->sides; i++) {
        int status = reader_next(&r->side[i], r->part, max, &some);
        if (status != DONE) return status;
        for (k = 0; k < some; k++)
            memcpy(x + k * r->width + i * width, r->part + k * width, width * sizeof *x);
    }
    *n = some;
    return DONE;
}

/* Up to max rows into x [max,width]; *n 0 at the end. */
int reader_next(reader *r, float *x, size_t max, size_t *n) {
    size_t element = sae_dtype_size(r->raw ? r->raw_dtype : r->all.dtype);
    *n = 0;
    if (r->sides) return reader_next_sides(r, x, max, n);
    while (*n < max) {
        size_t part = max - *n;
        sae_tensor rows = r->all;
        if (r->at == r->count) {
            int status;
            if (r->next == r->files->count) return DONE;
            status = reader_open_next(r);
            if (status != DONE) return status;
            element = sae_dtype_size(r->raw ? r->raw_dtype : r->all.dtype);
            continue;
        }
        if (part > r->count - r->at) part = (size_t)(r->count - r->at);
        if (r->raw) {
            size_t bytes = part * r->width * element;
            if (bytes > r->capacity) r->bytes = (unsigned char *)keep_alloc(r->capacity = bytes, 1);
            if (fread(r->bytes, 1, bytes, r->raw) != bytes)
                return fail("%s: reading failed", r->files->items[r->next - 1]);
            memset(&rows, 0, sizeof rows);
            rows.name = "";
            rows.dtype = r->raw_dtype;
            rows.ndim = 2;
            rows.shape[1] = r->width;
            rows.stride[0] = (int64_t)r->width;
            rows.stride[1] = 1;
            rows.data = r->bytes;
        } else {
            rows.data = (const unsigned char *)rows.data +
                        (int64_t)r->at * rows.stride[0] * (int64_t)element;
        }
        rows.shape[0] = part;
        sae_tensor_to_f32(&rows, x + *n * r->width);
        reader_count_bad(r, x + *n * r->width, part, r->at);
        *n += part;
        r->at += part;
    }
    return DONE;
}

/* ---- rows for the library ---- */

static int64_t source_read(void *user, float *x, float *target, size_t max_rows) {
    size_t n = 0;
    (void)target;
    return reader_next((reader *)user, x, max_rows, &n) == DONE ? (int64_t)n : (int64_t)SAE_ERR_IO;
}
static sae_result source_rewind(void *user) {
    return reader_rewind((reader *)user) == DONE ? SAE_OK : SAE_ERR_IO;
}

/* Rows that the library's own reading of files does not know. */
void reader_source(reader *r, sae_source_desc *source) {
    memset(source, 0, sizeof *source);
    source->dim = r->width;
    source->read = source_read;
    source->rewind = source_rewind;
    source->user = r;
}

/* Opens and closes every file of --data and --target, so that what is wrong shows before work. */
int check_rows(const common *c) {
    const list *lists[2];
    int i, status = DONE;
    lists[0] = &c->data;
    lists[1] = &c->target;
    for (i = 0; i < 2 && status == DONE; i++) {
        reader r;
        memset(&r, 0, sizeof r);
        if (lists[i]->count) status = reader_create(&r, lists[i], c);
        reader_close(&r);
    }
    return status;
}

/* A file that is there, of a kind that dictionaries consist of. */
static bool is_weights(const char *path) {
    static const char *const ends[] = { ".pt", ".safetensors", ".npz", ".json", ".bin" };
    struct stat about;
    size_t i;
    for (i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends_with(path, ends[i])) return stat(path, &about) == 0;
    return false;
}

/* Writing over what is being read is refused: a file, or one of a folder's. */
int keep_apart(const char *what, const char *out, const common *c) {
    const list *lists[4];
    size_t i, j;
    lists[0] = &c->data;
    lists[1] = &c->target;
    lists[2] = &c->words;
    lists[3] = &c->text;
    for (i = 0; i < 4; i++)
        for (j = 0; j < lists[i]->count; j++) {
            const char *in = lists[i]->items[j];
            bool part = is_weights(out) && is_folder(in) && same_file(folder_of(out), in);
            if (same_file(out, in) || part)
                return fail("%s is %s, which is read: it would be lost", what, out);
        }
    return DONE;
}

static bool npy_put_header(npy_writer *w) {
    char text[128], shape[80];
    size_t n;
    if (w->group)
        snprintf(shape, sizeof shape, "(%.0f, %zu, %zu)", (double)(w->rows / w->group), w->group,
                 w->width);
    else if (w->width)
        snprintf(shape, sizeof shape, "(%.0f, %.0f)", (double)w->rows, (double)w->width);
    else snprintf(shape, sizeof shape, "(%.0f,)", (double)w->rows);
    memset(text, ' ', sizeof text);
    memcpy(text, "\x93NUMPY\x01\x00\x76\x00", 10); /* 118 bytes follow */
    n = (size_t)snprintf(text + 10, sizeof text - 10,
                         "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", w->descr, shape);
    text[10 + n] = ' ';
    text[127] = '\n';
    return fwrite(text, 1, sizeof text, w->file) == sizeof text;
}

int npy_create(npy_writer *w, const char *path, const char *ending, const char *descr,
               size_t width) {
    w->path = path;
    w->temporary = with_ending(path, ending);
    w->descr = descr;
    w->width = width;
    w->rows = 0;
    if (check_replaceable(path) != DONE) return FAILED;
    w->file = fopen(w->temporary, "wb");
    if (!w->file || !npy_put_header(w)) return fail("%s: cannot be written", path);
    return DONE;
}

int npy_put(npy_writer *w, const void *data, size_t element, size_t rows) {
    size_t count = rows * (w->width ? w->width : 1);
    if (fwrite(data, element, count, w->file) != count)
        return fail("%s: writing failed (is the disk full?)", w->path);
    w->rows += rows;
    return DONE;
}

void npy_abandon(npy_writer *w) {
    if (!w->file) return;
    fclose(w->file);
    remove(w->temporary);
    w->file = NULL;
}

/* The header again with the rows there are; keep: under the temporary's name. */
int npy_finish(npy_writer *w, bool keep) {
    bool good = fseek(w->file, 0, SEEK_SET) == 0 && npy_put_header(w) && synced(w->file);
    if (fclose(w->file) != 0) good = false;
    w->file = NULL;
    if (good && !keep && !replace_file(w->temporary, w->path)) good = false;
    if (good) return DONE;
    remove(w->temporary);
    return fail("%s: writing failed (is the disk full?)", w->path);
}

void set_tensor(sae_tensor *t, const char *name, sae_dtype dtype, uint64_t rows,
                uint64_t columns, const void *data) {
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = dtype;
    t->ndim = columns ? 2 : 1;
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->stride[0] = columns ? (int64_t)columns : 1;
    t->stride[1] = 1;
    t->data = data;
}

/* A number that float16 has not; --quiet does not hide it. */
bool half_overflows(float value) { return fabsf(value) >= 65520.0f && fabsf(value) < INFINITY; }

void warn_overflow(const char *path, uint64_t count) {
    fail("warning: %s: %.0f value%s above 65504, the largest of float16, became infinite", path,
         (double)count, count == 1 ? "" : "s");
}

/* To half precision, to the nearest, ties to even, as numpy does it. */
uint16_t to_half(float value) {
    uint32_t bits, sign;
    float size = fabsf(value);
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000u;
    if (value != value) return (uint16_t)(sign | 0x7E00u);
    if (size >= 65536.0f) return (uint16_t)(sign | 0x7C00u);
    if (size < 6.103515625e-5f) { /* below 2^-14: multiples of 2^-24, as 0.5 + size has them */
        size += 0.5f;
        memcpy(&bits, &size, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3F000000u));
    }
    bits &= 0x7FFFFFFFu;
    bits += 0xFFFu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}
