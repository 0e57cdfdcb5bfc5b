#pragma once
#include "dtype.h"
#include "file.h"

/* ==== >>tensors: writing ====================================================================== */

/* Row-major bytes of a tensor. */
static size_t saei_tensor_bytes(const sae_tensor *t) {
    size_t n = sae_dtype_size(t->dtype);
    for (size_t k = 0; k < t->ndim; k++) n *= (size_t)t->shape[k];
    return n;
}

static sae_result saei_write_check(const sae_context *ctx, const char *path,
                                   const sae_tensor *tensors, size_t count) {
    const char *who = "sae_tensor_file_write";
    const void **sorted;
    sae_result result = SAE_OK;
    char quoted[SAEI_QUOTE];
    if (count && !tensors)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: tensors is NULL, count is %zu", who, path,
                         count);
    sorted = (const void **)saei_alloc(ctx, count + 1, sizeof *sorted);
    if (!sorted)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", who, path);
    for (size_t i = 0; i < count && result == SAE_OK; i++) {
        sae_tensor t = tensors[i];
        size_t elements = 0;
        sorted[i] = tensors + i;
        if (!t.name || strlen(t.name) > 60000 || !saei_is_text(t.name, strlen(t.name)))
            result = saei_fail(ctx, SAE_ERR_INVALID,
                               "%s: %s: the name of tensor %zu is not a UTF-8 text of at most "
                               "60000 bytes",
                               who, path, i);
        else if ((unsigned)t.dtype >= SAEI_NUM_DTYPES || t.ndim > SAE_MAX_DIMS
                 || !saei_shape_layout(&t, &elements))
            result = saei_fail(ctx, SAE_ERR_INVALID,
                               "%s: %s: tensor \"%s\" has dtype %d and %zu dimensions; allowed are "
                               "0 to %d, and at most %d whose product fits",
                               who, path, saei_quote(t.name, quoted), (int)t.dtype, t.ndim,
                               SAEI_NUM_DTYPES - 1, SAE_MAX_DIMS);
        else if (elements && !t.data)
            result = saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: tensor \"%s\" has no data", who, path,
                               saei_quote(t.name, quoted));
    }
    if (result == SAE_OK) saei_sort(sorted, count, saei_name_less);
    for (size_t i = 1; i < count && result == SAE_OK; i++)
        if (strcmp(saei_name_of(sorted[i - 1]), saei_name_of(sorted[i])) == 0)
            result = saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: two tensors are named \"%s\"", who,
                               path, saei_quote(saei_name_of(sorted[i]), quoted));
    saei_free(ctx, sorted);
    return result;
}

static void saei_put_le(saei_text *t, uint64_t value, size_t bytes) {
    saei_text_put(t, &value, bytes); /* the machine is little endian */
}

/* What stands before the data, as numpy writes it: room to grow the first size to 21 digits, then
   spaces up to a multiple of 64. */
static void saei_npy_write_header(saei_text *h, const sae_tensor *t) {
    size_t start = h->size, begin, first = 0;
    saei_text_put(h, "\x93NUMPY\x01\x00\x00\x00", 10);
    begin = h->size;
    saei_text_add(h, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                  saei_dtypes[t->dtype].descr);
    for (size_t k = 0; k < t->ndim; k++) {
        size_t before = h->size;
        saei_text_add(h, "%llu", (unsigned long long)t->shape[k]);
        if (k == 0) first = h->size - before;
        if (k + 1 < t->ndim) saei_text_add(h, ", ");
        else if (k == 0) saei_text_add(h, ",");
    }
    saei_text_add(h, "), }");
    if (first) saei_text_add(h, "%*s", (int)(21 - first), "");
    saei_text_add(h, "%*s\n", (int)(64 - (h->size - start + 1) % 64), "");
    if (h->failed) return;
    h->data[begin - 2] = (char)(unsigned char)((h->size - begin) & 255);
    h->data[begin - 1] = (char)(unsigned char)((h->size - begin) >> 8);
}

/* Sizes and offsets from here on go into zip64 fields. */
#ifndef SAEI_ZIP64_LIMIT
#define SAEI_ZIP64_LIMIT 0xFFFFFFFFu
#endif

typedef struct saei_zip_writer {
    saei_writer *out;
    saei_text head, directory;
    uint64_t count;
    saei_crc_table crc;
} saei_zip_writer;

static uint32_t saei_zip_narrow(uint64_t value) {
    return value >= SAEI_ZIP64_LIMIT ? 0xFFFFFFFFu : (uint32_t)value;
}

/* What a local header and a directory entry share: from the version needed to the name's length. */
static void saei_zip_put_common(saei_text *t, const char *name, uint64_t size, uint32_t crc) {
    saei_put_le(t, 45, 2);          /* version needed: zip64 */
    saei_put_le(t, 0x0800, 2);      /* UTF-8 names */
    saei_put_le(t, 0, 2);           /* stored */
    saei_put_le(t, 0x00210000u, 4); /* midnight, 1 January 1980 */
    saei_put_le(t, crc, 4);
    saei_put_le(t, saei_zip_narrow(size), 4);
    saei_put_le(t, saei_zip_narrow(size), 4);
    saei_put_le(t, strlen(name), 2);
}

/* One stored entry of two pieces, on a multiple of 64 bytes by padding in the extra field "FB". */
static void saei_zip_put(saei_zip_writer *z, const char *name, const void *a, size_t a_size,
                         const void *b, size_t b_size) {
    saei_text *h = &z->head, *d = &z->directory;
    uint64_t offset = z->out->size, size = (uint64_t)a_size + b_size;
    size_t name_size = strlen(name), wide = size >= SAEI_ZIP64_LIMIT ? 20 : 0, far_size;
    size_t pad = (size_t)((64 - (offset + 34 + name_size + wide) % 64) % 64);
    uint32_t crc = saei_crc(&z->crc, saei_crc(&z->crc, 0, a, a_size), b, b_size);
    h->size = 0;
    saei_put_le(h, 0x04034b50, 4);
    saei_zip_put_common(h, name, size, crc);
    saei_put_le(h, wide + 4 + pad, 2);
    saei_text_put(h, name, name_size);
    if (wide) {
        saei_put_le(h, 1 | 16u << 16, 4);
        saei_put_le(h, size, 8);
        saei_put_le(h, size, 8);
    }
    saei_put_le(h, 0x4246, 2);
    saei_put_le(h, pad, 2);
    for (size_t i = 0; i < pad; i++) saei_text_put(h, "Z", 1);
    if (!h->failed) saei_writer_put(z->out, h->data, h->size);
    saei_writer_put(z->out, a, a_size);
    saei_writer_put(z->out, b, b_size);
    far_size = (wide ? 16u : 0u) + (offset >= SAEI_ZIP64_LIMIT ? 8u : 0u);
    saei_put_le(d, 0x02014b50, 4);
    saei_put_le(d, 45, 2);
    saei_zip_put_common(d, name, size, crc);
    saei_put_le(d, far_size ? far_size + 4 : 0, 2);
    saei_put_le(d, 0, 8); /* no comment, first disk, no attributes */
    saei_put_le(d, 0, 2);
    saei_put_le(d, saei_zip_narrow(offset), 4);
    saei_text_put(d, name, name_size);
    if (far_size) saei_put_le(d, 1 | (uint64_t)far_size << 16, 4);
    if (wide) {
        saei_put_le(d, size, 8);
        saei_put_le(d, size, 8);
    }
    if (offset >= SAEI_ZIP64_LIMIT) saei_put_le(d, offset, 8);
    z->count++;
}

/* The directory and the end records. */
static void saei_zip_end_write(saei_zip_writer *z) {
    saei_text *d = &z->directory;
    uint64_t at = z->out->size, size = d->size, end = at + size;
    if (z->count >= 0xFFFF || at >= SAEI_ZIP64_LIMIT || size >= SAEI_ZIP64_LIMIT) {
        saei_put_le(d, 0x06064b50, 4);
        saei_put_le(d, 44, 8);
        saei_put_le(d, 45 | 45u << 16, 4);
        saei_put_le(d, 0, 8);
        saei_put_le(d, z->count, 8);
        saei_put_le(d, z->count, 8);
        saei_put_le(d, size, 8);
        saei_put_le(d, at, 8);
        saei_put_le(d, 0x07064b50, 4);
        saei_put_le(d, 0, 4);
        saei_put_le(d, end, 8);
        saei_put_le(d, 1, 4);
    }
    saei_put_le(d, 0x06054b50, 4);
    saei_put_le(d, 0, 4);
    saei_put_le(d, z->count >= 0xFFFF ? 0xFFFF : z->count, 2);
    saei_put_le(d, z->count >= 0xFFFF ? 0xFFFF : z->count, 2);
    saei_put_le(d, saei_zip_narrow(size), 4);
    saei_put_le(d, saei_zip_narrow(at), 4);
    saei_put_le(d, 0, 2);
    if (!d->failed) saei_writer_put(z->out, d->data, d->size);
}

/* Shortest of BININT1, BININT2, BININT, LONG1. */
static void saei_pickle_put_int(saei_text *t, uint64_t value) {
    if (value < 256) saei_put_le(t, 'K' | value << 8, 2);
    else if (value < 65536) saei_put_le(t, 'M' | value << 8, 3);
    else if (value <= INT32_MAX) saei_put_le(t, 'J' | value << 8, 5);
    else {
        saei_put_le(t, 0x088a, 2);
        saei_put_le(t, value, 8);
    }
}

static void saei_pickle_put_text(saei_text *t, const char *text) {
    saei_text_put(t, "X", 1);
    saei_put_le(t, strlen(text), 4);
    saei_text_put(t, text, strlen(text));
}

/* EMPTY_TUPLE, TUPLE1..3, or MARK ... TUPLE. */
static void saei_pickle_put_sizes(saei_text *t, const uint64_t *shape, const int64_t *stride,
                                  size_t n) {
    static const char ops[] = ")\x85\x86\x87";
    if (n > 3) saei_text_put(t, "(", 1);
    for (size_t k = 0; k < n; k++) saei_pickle_put_int(t, shape ? shape[k] : (uint64_t)stride[k]);
    saei_text_put(t, n > 3 ? "t" : ops + n, 1);
}

/* {name: _rebuild_tensor_v2(storage i, 0, size, stride, False, OrderedDict()), ...} */
static void saei_torch_pickle(saei_text *p, const sae_tensor *tensors, size_t count) {
    saei_text_put(p, "\x80\x02}(", 4);
    for (size_t i = 0; i < count; i++) {
        sae_tensor t = tensors[i];
        size_t elements = 0;
        char key[24];
        saei_shape_layout(&t, &elements);
        snprintf(key, sizeof key, "%zu", i);
        saei_pickle_put_text(p, t.name);
        saei_text_add(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
        saei_pickle_put_text(p, "storage");
        saei_text_add(p, "ctorch\n%s\n", saei_dtypes[t.dtype].storage);
        saei_pickle_put_text(p, key);
        saei_pickle_put_text(p, "cpu");
        saei_pickle_put_int(p, elements);
        saei_text_put(p, "tQK\x00", 4);
        saei_pickle_put_sizes(p, t.shape, NULL, t.ndim);
        saei_pickle_put_sizes(p, NULL, t.stride, t.ndim);
        saei_text_add(p, "\x89" "ccollections\nOrderedDict\n)RtR");
    }
    saei_text_put(p, "u.", 2);
}

/* The base name without its last extension, as torch.save names the archive's folder. */
static size_t saei_stem_size(const char *base) {
    const char *dot = strrchr(base, '.');
    return dot && dot > base ? (size_t)(dot - base) : strlen(base);
}

static sae_result saei_torch_write(saei_zip_writer *z, const char *path, const sae_tensor *tensors,
                                   size_t count) {
    const sae_context *ctx = z->out->ctx;
    const char *base = saei_path_base(path);
    size_t stem = saei_stem_size(base);
    saei_text p, name;
    sae_result result = SAE_OK;
    for (size_t i = 0; i < count; i++)
        if (!saei_dtypes[tensors[i].dtype].storage)
            return saei_fail(ctx, SAE_ERR_UNSUPPORTED,
                             "sae_tensor_file_write: %s: .pt files have no %s", path,
                             sae_dtype_name(tensors[i].dtype));
    if (!saei_is_text(base, stem) || stem > 60000)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_tensor_file_write: %s: the name of a .pt file must be "
                         "UTF-8",
                         path);
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    name = p;
    saei_torch_pickle(&p, tensors, count);
    for (size_t i = 0; i < count + 3; i++) {
        name.size = 0;
        saei_text_put(&name, base, stem);
        if (i == 0) saei_text_add(&name, "/data.pkl");
        else if (i == 1) saei_text_add(&name, "/byteorder");
        else if (i == count + 2) saei_text_add(&name, "/version");
        else saei_text_add(&name, "/data/%zu", i - 2);
        if (name.failed || p.failed) break;
        if (i == 0) saei_zip_put(z, name.data, p.data, p.size, "", 0);
        else if (i == 1) saei_zip_put(z, name.data, "little", 6, "", 0);
        else if (i == count + 2) saei_zip_put(z, name.data, "3\n", 2, "", 0);
        else
            saei_zip_put(z, name.data, tensors[i - 2].data, saei_tensor_bytes(tensors + i - 2), "",
                         0);
    }
    if (p.failed || name.failed) z->head.failed = true;
    saei_free(ctx, p.data);
    saei_free(ctx, name.data);
    return result;
}

static void saei_npz_write(saei_zip_writer *z, const sae_tensor *tensors, size_t count) {
    saei_text name, header;
    memset(&name, 0, sizeof name);
    name.ctx = z->out->ctx;
    header = name;
    for (size_t i = 0; i < count; i++) {
        name.size = header.size = 0;
        saei_text_add(&name, "%s.npy", tensors[i].name);
        saei_npy_write_header(&header, tensors + i);
        if (name.failed || header.failed) break;
        saei_zip_put(z, name.data, header.data, header.size, tensors[i].data,
                     saei_tensor_bytes(tensors + i));
    }
    if (name.failed || header.failed) z->head.failed = true;
    saei_free(name.ctx, name.data);
    saei_free(name.ctx, header.data);
}

/* .npz or .pt into an open writer. */
static sae_result saei_zip_write(saei_writer *w, const char *path, bool torch,
                                 const sae_tensor *tensors, size_t count) {
    saei_zip_writer *z = (saei_zip_writer *)saei_calloc(w->ctx, 1, sizeof *z);
    sae_result result = SAE_OK;
    if (!z)
        return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", w->who, path);
    z->out = w;
    z->head.ctx = z->directory.ctx = w->ctx;
    saei_crc_tables(&z->crc);
    if (torch) result = saei_torch_write(z, path, tensors, count);
    else saei_npz_write(z, tensors, count);
    if (result == SAE_OK) saei_zip_end_write(z);
    if (result == SAE_OK && (z->head.failed || z->directory.failed))
        result =
            saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", w->who, path);
    saei_free(w->ctx, z->head.data);
    saei_free(w->ctx, z->directory.data);
    saei_free(w->ctx, z);
    return result;
}

/* safetensors' order: by this rank (wide types first, so that all lie aligned), then by name. */
static bool saei_safetensors_less(const void *a, const void *b) {
    static const unsigned char rank[] = { 3, 3, 7, 6, 2, 10, 11, 9, 8, 5, 4, 1, 0, 12 };
    const sae_tensor *x = (const sae_tensor *)a, *y = (const sae_tensor *)b;
    if (rank[x->dtype] != rank[y->dtype]) return rank[x->dtype] < rank[y->dtype];
    return strcmp(x->name, y->name) < 0;
}

static void saei_safetensors_header(saei_text *h, const void *const *sorted, size_t count,
                                    const char *const *keys, const char *const *values,
                                    size_t num_pairs) {
    uint64_t at = 0;
    saei_put_le(h, 0, 8);
    saei_text_add(h, "{\"__metadata__\":{\"format\":\"pt\"");
    for (size_t i = 0; i < num_pairs; i++) {
        saei_text_add(h, ",");
        saei_text_add_json_string(h, keys[i]);
        saei_text_add(h, ":");
        saei_text_add_json_string(h, values[i]);
    }
    saei_text_add(h, "}");
    for (size_t i = 0; i < count; i++) {
        const sae_tensor *t = (const sae_tensor *)sorted[i];
        uint64_t end = at + saei_tensor_bytes(t);
        saei_text_add(h, ",");
        saei_text_add_json_string(h, t->name);
        saei_text_add(h, ":{\"dtype\":\"%s\",\"shape\":[", sae_dtype_name(t->dtype));
        for (size_t k = 0; k < t->ndim; k++)
            saei_text_add(h, k ? ",%llu" : "%llu", (unsigned long long)t->shape[k]);
        saei_text_add(h, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                      (unsigned long long)end);
        at = end;
    }
    saei_text_add(h, "}");
    saei_text_add(h, "%*s", (int)((8 - h->size % 8) % 8), "");
    at = h->size - 8;
    if (!h->failed) memcpy(h->data, &at, 8);
}

/* .safetensors with __metadata__ {"format":"pt", keys[i]: values[i], ...}. */
static sae_result saei_safetensors_write(const sae_context *ctx, const char *path,
                                         const sae_tensor *tensors, size_t count,
                                         const char *const *keys, const char *const *values,
                                         size_t num_pairs) {
    const void **sorted;
    saei_text header;
    saei_writer w;
    sae_result result;
    SAEI_TRY(saei_write_check(ctx, path, tensors, count));
    for (size_t i = 0; i < count; i++)
        if (strcmp(tensors[i].name, "__metadata__") == 0)
            return saei_fail(ctx, SAE_ERR_INVALID,
                             "sae_tensor_file_write: %s: a tensor may not be named __metadata__",
                             path);
    memset(&header, 0, sizeof header);
    header.ctx = ctx;
    sorted = (const void **)saei_alloc(ctx, count + 1, sizeof *sorted);
    if (sorted) {
        for (size_t i = 0; i < count; i++) sorted[i] = tensors + i;
        saei_sort(sorted, count, saei_safetensors_less);
        saei_safetensors_header(&header, sorted, count, keys, values, num_pairs);
    }
    result = SAE_ERR_OUT_OF_MEMORY;
    if (!sorted || header.failed)
        saei_fail(ctx, result, "sae_tensor_file_write: no memory to write %s", path);
    else result = saei_writer_open(ctx, "sae_tensor_file_write", path, &w);
    if (result != SAE_OK) {
        saei_free(ctx, sorted);
        saei_free(ctx, header.data);
        return result;
    }
    saei_writer_put(&w, header.data, header.size);
    for (size_t i = 0; i < count; i++) {
        const sae_tensor *t = (const sae_tensor *)sorted[i];
        saei_writer_put(&w, t->data, saei_tensor_bytes(t));
    }
    saei_free(ctx, sorted);
    saei_free(ctx, header.data);
    return saei_writer_finish(&w);
}

static sae_result saei_npy_write(saei_writer *w, const sae_tensor *tensor) {
    saei_text header;
    memset(&header, 0, sizeof header);
    header.ctx = w->ctx;
    saei_npy_write_header(&header, tensor);
    if (!header.failed) {
        saei_writer_put(w, header.data, header.size);
        saei_writer_put(w, tensor->data, saei_tensor_bytes(tensor));
    }
    saei_free(w->ctx, header.data);
    return header.failed ? saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s",
                                     w->who, w->path)
                         : SAE_OK;
}

SAE_API sae_result sae_tensor_file_write(sae_context *ctx, const char *path,
                                         const sae_tensor *tensors, size_t count) {
    const char *who = "sae_tensor_file_write";
    saei_writer w;
    sae_tensor single;
    sae_result result;
    bool npy, npz;
    if (!ctx) return SAE_ERR_INVALID;
    if (!path) return saei_fail(ctx, SAE_ERR_INVALID, "%s: path is NULL", who);
    npy = saei_ends_with(path, ".npy");
    npz = saei_ends_with(path, ".npz");
    if (saei_ends_with(path, ".safetensors"))
        return saei_safetensors_write(ctx, path, tensors, count, NULL, NULL, 0);
    if (!npy && !npz && !saei_ends_with(path, ".pt") && !saei_ends_with(path, ".pth"))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: %s ends in none of .npy, .npz, .safetensors, .pt", who, path);
    if (npy && count != 1)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: count is %zu, a .npy holds 1 tensor", who,
                         path, count);
    if (npy && tensors) { /* its name is of no use there */
        single = tensors[0];
        single.name = "";
        tensors = &single;
    }
    SAEI_TRY(saei_write_check(ctx, path, tensors, count));
    SAEI_TRY(saei_writer_open(ctx, who, path, &w));
    result = npy ? saei_npy_write(&w, tensors) : saei_zip_write(&w, path, !npz, tensors, count);
    if (result == SAE_OK) return saei_writer_finish(&w);
    saei_writer_abandon(&w);
    return result;
}
