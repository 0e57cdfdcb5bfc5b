#pragma once
#include "../base/json.h"
#include "write.h"

/* ==== >>tensors: .safetensors ================================================================= */

/*  u64 N | N bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
    "__metadata__": {"key": "value"}} | data. The tensors cover the data without hole or overlap. */

enum { SAEI_SAFETENSORS_HEADER = 100000000 };

static bool saei_probe_safetensors(const unsigned char *d, size_t n) {
    return n > 8 && d[8] == '{' && saei_le64(d) <= SAEI_SAFETENSORS_HEADER;
}

/* begin, end of a tensor, kept beside its index for sorting. */
typedef struct saei_extent {
    uint64_t begin, end;
    const char *name;
} saei_extent;

static bool saei_extent_less(const void *a, const void *b) {
    const saei_extent *x = (const saei_extent *)a, *y = (const saei_extent *)b;
    return x->begin < y->begin || (x->begin == y->begin && x->end < y->end);
}

static bool saei_json_sizes(const sae_json *array, uint64_t *out, size_t max) {
    size_t n = 0;
    if (!array || array->type != SAE_JSON_ARRAY || array->count > max) return false;
    for (const sae_json *c = sae_json_first(array); c; c = sae_json_next(c)) {
        if (c->type != SAE_JSON_NUMBER || !c->is_integer || c->number < 0) return false;
        out[n++] = (uint64_t)c->number;
    }
    return true;
}

static sae_result saei_safetensors_dtype(const sae_tensor_file *file, const char *tensor,
                                         const char *name, sae_dtype *out) {
    static const char *const others[] = { "F4",          "F6_E2M3",     "F6_E3M2",
                                          "F8_E5M2",     "F8_E4M3",     "F8_E8M0",
                                          "F8_E5M2FNUZ", "F8_E4M3FNUZ", "C64" };
    char quoted[SAEI_QUOTE];
    for (int i = 1; i < SAEI_PLAIN_DTYPES; i++) {
        if (strcmp(name, saei_dtypes[i].name) != 0) continue;
        *out = (sae_dtype)i;
        return SAE_OK;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(name, others[i]) == 0)
            return saei_unsupported(file, "tensor \"%s\" has dtype %s, which is not supported",
                                    tensor, name);
    return saei_damaged(file, "tensor \"%s\" has the unknown dtype \"%s\"", tensor,
                        saei_quote(name, quoted));
}

static sae_result saei_safetensors_entry(sae_tensor_file *file, const sae_json *entry,
                                         const unsigned char *data, size_t size,
                                         saei_extent *extent) {
    const sae_json *dtype = sae_json_get(entry, "dtype"), *shape = sae_json_get(entry, "shape");
    const sae_json *offsets = sae_json_get(entry, "data_offsets");
    uint64_t span[2];
    size_t elements;
    char quoted[SAEI_QUOTE];
    sae_tensor t;
    memset(&t, 0, sizeof t);
    saei_quote(entry->key, quoted);
    if (!dtype || dtype->type != SAE_JSON_STRING || !shape || shape->type != SAE_JSON_ARRAY
        || !offsets || offsets->type != SAE_JSON_ARRAY)
        return saei_damaged(file,
                            "tensor \"%s\" is not an object with dtype, shape and data_offsets",
                            quoted);
    t.name = entry->key;
    t.ndim = shape->count;
    SAEI_TRY(saei_safetensors_dtype(file, quoted, dtype->string, &t.dtype));
    if (t.ndim > SAE_MAX_DIMS)
        return saei_unsupported(file, "tensor \"%s\" has %zu dimensions, at most %d are supported",
                                quoted, t.ndim, SAE_MAX_DIMS);
    if (!saei_json_sizes(shape, t.shape, SAE_MAX_DIMS) || !saei_shape_layout(&t, &elements))
        return saei_damaged(file, "tensor \"%s\" has a shape that is not allowed", quoted);
    if (offsets->count != 2 || !saei_json_sizes(offsets, span, 2) || span[0] > span[1]
        || span[1] > size)
        return saei_damaged(file,
                            "tensor \"%s\" has data_offsets that do not lie in the file's %zu "
                            "bytes of data",
                            quoted, size);
    if (span[1] - span[0] != (uint64_t)elements * sae_dtype_size(t.dtype))
        return saei_damaged(file, "tensor \"%s\" has %zu elements of %s in %llu bytes", quoted,
                            elements, sae_dtype_name(t.dtype),
                            (unsigned long long)(span[1] - span[0]));
    t.data = data + span[0];
    extent->begin = span[0];
    extent->end = span[1];
    extent->name = t.name;
    return saei_file_add(file, &t, NULL);
}

static sae_result saei_safetensors_metadata(sae_tensor_file *file, const sae_json *metadata) {
    bool good = metadata->type == SAE_JSON_OBJECT;
    for (const sae_json *c = sae_json_first(metadata); good && c; c = sae_json_next(c))
        good = c->type == SAE_JSON_STRING;
    if (!good) return saei_damaged(file, "__metadata__ is not an object of strings");
    file->metadata = metadata;
    return SAE_OK;
}

static sae_result saei_safetensors_read(sae_tensor_file *file) {
    const unsigned char *data = file->map.data;
    size_t size = file->map.size, length, n = 0;
    uint64_t at = 0;
    saei_extent *extents;
    const void **sorted;
    char quoted[SAEI_QUOTE];
    if (size < 8 || saei_le64(data) > SAEI_SAFETENSORS_HEADER || saei_le64(data) > size - 8)
        return saei_damaged(file,
                            "the .safetensors header does not fit into the file or is longer than "
                            "%d bytes",
                            SAEI_SAFETENSORS_HEADER);
    length = (size_t)saei_le64(data);
    if (length == 0 || data[8] != '{')
        return saei_damaged(file, "the .safetensors header does not begin with '{'");
    while (length > 1 && data[8 + length - 1] == ' ') length--;
    SAEI_TRY(saei_json_parse(file->ctx, file->who, file->path, (const char *)data + 8, length,
                             &file->header));
    data += 8 + saei_le64(data);
    size -= (size_t)(data - file->map.data);
    extents =
        (saei_extent *)saei_arena_alloc(&file->arena, file->header->count + 1, sizeof *extents);
    sorted = (const void **)saei_arena_alloc(&file->arena, file->header->count + 1, sizeof *sorted);
    if (!extents || !sorted) return saei_file_no_memory(file);
    for (const sae_json *c = sae_json_first(file->header); c; c = sae_json_next(c)) {
        if (strcmp(c->key, "__metadata__") == 0) {
            SAEI_TRY(saei_safetensors_metadata(file, c));
            continue;
        }
        SAEI_TRY(saei_safetensors_entry(file, c, data, size, extents + n));
        sorted[n] = extents + n;
        n++;
    }
    saei_sort(sorted, n, saei_extent_less);
    for (size_t i = 0; i < n; i++) {
        const saei_extent *e = (const saei_extent *)sorted[i];
        if (e->begin != at)
            return saei_damaged(file,
                                "tensor \"%s\" begins at byte %llu of the data where %llu is "
                                "expected (%s)",
                                saei_quote(e->name, quoted), (unsigned long long)e->begin,
                                (unsigned long long)at, e->begin < at ? "an overlap" : "a hole");
        at = e->end;
    }
    if (at != size)
        return saei_damaged(file, "its tensors cover %llu bytes, there are %zu",
                            (unsigned long long)at, size);
    return SAE_OK;
}

/* ---- writing ---- */

/* safetensors' order: by this rank (wide types first, so that all lie aligned), then by name. */
static bool saei_safetensors_less(const void *a, const void *b) {
    static const unsigned char rank[] = { 3, 3, 7, 6, 2, 10, 11, 9, 8, 5, 4, 1, 0, 12 };
    const sae_tensor *x = (const sae_tensor *)a, *y = (const sae_tensor *)b;
    if (rank[x->dtype] != rank[y->dtype]) return rank[x->dtype] < rank[y->dtype];
    return strcmp(x->name, y->name) < 0;
}

static void saei_safetensors_header(saei_text *h, const void *const *sorted,
                                    const saei_content *c) {
    uint64_t at = 0;
    saei_put_le(h, 0, 8);
    saei_text_add(h, "{\"__metadata__\":{\"format\":\"pt\"");
    for (size_t i = 0; i < c->num_pairs; i++) {
        saei_text_add(h, ",");
        saei_text_add_json_string(h, c->keys[i]);
        saei_text_add(h, ":");
        saei_text_add_json_string(h, c->values[i]);
    }
    saei_text_add(h, "}");
    for (size_t i = 0; i < c->count; i++) {
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

/* With __metadata__ {"format":"pt", keys[i]: values[i], ...}. */
static sae_result saei_safetensors_write(saei_writer *w, const saei_content *c) {
    const void **sorted;
    saei_text header;
    sae_result result = SAE_OK;
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->tensors[i].name, "__metadata__") == 0)
            return saei_fail(w->ctx, SAE_ERR_INVALID,
                             "%s: %s: a tensor may not be named __metadata__", w->who, c->name);
    memset(&header, 0, sizeof header);
    header.ctx = w->ctx;
    sorted = (const void **)saei_alloc(w->ctx, c->count + 1, sizeof *sorted);
    if (sorted) {
        for (size_t i = 0; i < c->count; i++) sorted[i] = c->tensors + i;
        saei_sort(sorted, c->count, saei_safetensors_less);
        saei_safetensors_header(&header, sorted, c);
    }
    if (!sorted || header.failed) {
        result = saei_content_no_memory(w, c);
    } else {
        saei_writer_put(w, header.data, header.size);
        for (size_t i = 0; i < c->count; i++) {
            const sae_tensor *t = (const sae_tensor *)sorted[i];
            saei_writer_put(w, t->data, saei_tensor_bytes(t));
        }
    }
    saei_free(w->ctx, sorted);
    saei_free(w->ctx, header.data);
    return result;
}
