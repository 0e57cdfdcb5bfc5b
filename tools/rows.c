/* sae: rows of activations in blocks from files, and .npy files written in blocks. */
#include "tool.h"

void reader_close(reader *r) {
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

static int reader_open_tensor(reader *r, const char *path, size_t *width) {
    size_t i, found = 0;
    const sae_tensor *t = NULL;
    if (sae_tensor_file_open(tool.ctx, path, &r->open) != SAE_OK) return fail_library();
    if (r->tensor && ends_with(path, ".safetensors")) {
        t = sae_tensor_file_find(r->open, r->tensor);
        if (!t) return fail("%s has no tensor %s", path, r->tensor);
    }
    for (i = 0; !t && i < sae_tensor_file_count(r->open); i++) {
        const sae_tensor *candidate = sae_tensor_file_get(r->open, i);
        if (candidate->ndim == 2 && ++found == 1) r->all = *candidate;
    }
    if (!t && found > 1)
        return fail("%s holds %zu tensors with two dimensions; --tensor NAME says which", path,
                    found);
    if (!t && found == 0) {
        if (sae_tensor_file_count(r->open) != 1)
            return fail("%s holds no tensor [rows,dim]", path);
        t = sae_tensor_file_get(r->open, 0);
    }
    if (t) r->all = *t;
    if (sae_tensor_file_check(r->open, NULL) != SAE_OK) return fail_library();
    if (r->all.ndim != 2) {
        char shape[200];
        shape_text(&r->all, shape);
        return fail("%s: %s is %s, it must be [rows,dim]", path,
                    r->all.name[0] ? r->all.name : "its array", shape);
    }
    r->count = r->all.shape[0];
    *width = (size_t)r->all.shape[1];
    return DONE;
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

/* Opens each file once, to know width and rows, and then the first. */
int reader_create(reader *r, const list *files, const common *c) {
    int status = parse_dtype(c->dtype, &r->raw_dtype);
    if (status != DONE) return status;
    r->files = files;
    r->tensor = c->tensor;
    r->raw_dim = (size_t)c->dim;
    while (r->next < files->count) {
        status = reader_open_next(r);
        if (status != DONE) return status;
        r->rows += r->count;
    }
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
    if (r->num_bad)
        fail("warning: %.0f row%s with NaN or infinity, first row %.0f of %s: %s latents mean "
             "nothing", (double)r->num_bad, r->num_bad == 1 ? "" : "s", (double)r->bad_row,
             r->bad_file, r->num_bad == 1 ? "its" : "their");
}

/* Up to max rows into x [max,width]; *n 0 at the end. */
int reader_next(reader *r, float *x, size_t max, size_t *n) {
    size_t element = sae_dtype_size(r->raw ? r->raw_dtype : r->all.dtype);
    *n = 0;
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
#if defined(_WIN32)
    if (good && !keep) remove(w->path);
#endif
    if (good && !keep && rename(w->temporary, w->path) != 0) good = false;
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
