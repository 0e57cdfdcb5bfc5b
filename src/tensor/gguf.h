#pragma once
#include "../base/json.h"
#include "dtype.h"
#include "file.h"

/* ==== >>tensors: .gguf ======================================================================== */

/*  "GGUF" | u32 version | u64 tensors | u64 pairs
    | pairs: key, u32 type, value; an array: u32 type of its elements, u64 count, elements
    | tensors: name, u32 dimensions, u64 sizes (the last dimension's first), u32 type, u64 offset
    | to general.alignment (32) | data. Texts are a u64 length and bytes. */

/* By the number of a value's type. */
typedef enum saei_gguf_type {
    SAEI_GGUF_U8, SAEI_GGUF_I8, SAEI_GGUF_U16, SAEI_GGUF_I16, SAEI_GGUF_U32, SAEI_GGUF_I32,
    SAEI_GGUF_F32, SAEI_GGUF_BOOL, SAEI_GGUF_STRING, SAEI_GGUF_ARRAY, SAEI_GGUF_U64, SAEI_GGUF_I64,
    SAEI_GGUF_F64
} saei_gguf_type;

/* Bytes of a value, the least of a string or an array. */
static const unsigned char saei_gguf_sizes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8 };
enum { SAEI_GGUF_TYPES = sizeof saei_gguf_sizes, SAEI_GGUF_LEAST_TENSOR = 24 };

/* By the number of a tensor's type. */
static const unsigned char saei_gguf_dtypes[] = {
    SAE_F32,    SAE_F16,     SAE_Q4_0,   SAE_Q4_1,    SAE_OTHER, SAE_OTHER,  SAE_Q5_0,
    SAE_Q5_1,   SAE_Q8_0,    SAE_OTHER,  SAE_Q2_K,    SAE_Q3_K,  SAE_Q4_K,   SAE_Q5_K,
    SAE_Q6_K,   SAE_OTHER,   SAE_IQ2_XXS, SAE_IQ2_XS, SAE_IQ3_XXS, SAE_IQ1_S, SAE_IQ4_NL,
    SAE_IQ3_S,  SAE_IQ2_S,   SAE_IQ4_XS, SAE_I8,      SAE_I16,   SAE_I32,    SAE_I64,
    SAE_F64,    SAE_IQ1_M,   SAE_BF16,   SAE_OTHER,   SAE_OTHER, SAE_OTHER,  SAE_TQ1_0,
    SAE_TQ2_0,  SAE_OTHER,   SAE_OTHER,  SAE_OTHER,   SAE_MXFP4, SAE_NVFP4
};

typedef struct saei_gguf {
    sae_tensor_file *file;
    const unsigned char *at, *end;
    saei_json_tree tree;
} saei_gguf;

/* The next size bytes; NULL and *result set where the file has fewer. */
static const unsigned char *saei_gguf_take(saei_gguf *g, uint64_t size, sae_result *result) {
    const unsigned char *bytes = g->at;
    if (size <= (uint64_t)(g->end - g->at)) {
        g->at += size;
        return bytes;
    }
    *result = saei_damaged(g->file,
                           "the header asks for %llu bytes at byte %zu of a file of %zu",
                           (unsigned long long)size, (size_t)(g->at - g->file->map.data),
                           g->file->map.size);
    return NULL;
}

/* A length and so many bytes. */
static sae_result saei_gguf_bytes(saei_gguf *g, const unsigned char **bytes, size_t *size) {
    sae_result result = SAE_OK;
    const unsigned char *length = saei_gguf_take(g, 8, &result);
    if (length) *bytes = saei_gguf_take(g, saei_le64(length), &result);
    if (result == SAE_OK) *size = (size_t)saei_le64(length);
    return result;
}

/* The same, fit to be a key or a tensor's name. */
static sae_result saei_gguf_name(saei_gguf *g, const char *what, uint64_t index,
                                 const unsigned char **name, size_t *size) {
    SAEI_TRY(saei_gguf_bytes(g, name, size));
    if (saei_is_text(*name, *size)) return SAE_OK;
    return saei_damaged(g->file, "the name of %s %llu is not UTF-8 without NUL", what,
                        (unsigned long long)index);
}

static const char *saei_gguf_put(saei_gguf *g, const unsigned char *bytes, size_t size) {
    const size_t start = g->tree.num_chars;
    saei_json_put(&g->tree, bytes, size);
    return saei_json_put_end(&g->tree, start);
}

static double saei_gguf_number(saei_gguf_type type, const unsigned char *p) {
    float f;
    double d;
    switch (type) {
    case SAEI_GGUF_U8:
    case SAEI_GGUF_BOOL: return p[0];
    case SAEI_GGUF_I8: return (signed char)p[0];
    case SAEI_GGUF_U16: return (double)saei_le16(p);
    case SAEI_GGUF_I16: return (int16_t)saei_le16(p);
    case SAEI_GGUF_U32: return (double)saei_le32(p);
    case SAEI_GGUF_I32: return (int32_t)saei_le32(p);
    case SAEI_GGUF_U64: return (double)saei_le64(p);
    case SAEI_GGUF_I64: return (double)(int64_t)saei_le64(p);
    case SAEI_GGUF_F64: memcpy(&d, p, sizeof d); return d;
    case SAEI_GGUF_F32:
    case SAEI_GGUF_STRING:
    case SAEI_GGUF_ARRAY: break;
    }
    memcpy(&f, p, sizeof f);
    return (double)f;
}

static sae_result saei_gguf_value(saei_gguf *g, uint32_t type, sae_json *out, int depth);

static sae_result saei_gguf_array(saei_gguf *g, sae_json *out, int depth) {
    sae_result result = SAE_OK;
    const unsigned char *head = saei_gguf_take(g, 12, &result);
    const uint32_t type = head ? saei_le32(head) : 0;
    const uint64_t count = head ? saei_le64(head + 4) : 0;
    sae_json *last = NULL;
    if (!head) return result;
    if (type >= SAEI_GGUF_TYPES)
        return saei_damaged(g->file, "an array of values of the unknown type %u", (unsigned)type);
    if (depth == SAEI_JSON_DEPTH) return saei_unsupported(g->file, "arrays nested deeper than 64");
    if (count > (uint64_t)(g->end - g->at) / saei_gguf_sizes[type])
        return saei_damaged(g->file, "an array of %llu values, which the file is too short for",
                            (unsigned long long)count);
    if (count > SAEI_JSON_NODES - g->tree.num_nodes)
        return saei_unsupported(g->file, "more than 16777216 values in its metadata");
    for (uint64_t i = 0; i < count; i++) {
        last = saei_json_node(&g->tree, last);
        if (!last) return saei_unsupported(g->file, "more than 16777216 values in its metadata");
        SAEI_TRY(saei_gguf_value(g, type, last, depth + 1));
    }
    out->type = SAE_JSON_ARRAY;
    out->count = (uint32_t)count;
    return SAE_OK;
}

/* Fills *out, a fresh node. */
static sae_result saei_gguf_value(saei_gguf *g, uint32_t type, sae_json *out, int depth) {
    sae_result result = SAE_OK;
    const unsigned char *bytes = NULL;
    size_t size = 0;
    if (type >= SAEI_GGUF_TYPES)
        return saei_damaged(g->file, "a value of the unknown type %u", (unsigned)type);
    if (type == SAEI_GGUF_ARRAY) return saei_gguf_array(g, out, depth);
    if (type == SAEI_GGUF_STRING) {
        SAEI_TRY(saei_gguf_bytes(g, &bytes, &size));
        if (size > UINT32_MAX) return saei_unsupported(g->file, "a text of 4 GB in its metadata");
        out->type = SAE_JSON_STRING;
        out->string = saei_gguf_put(g, bytes, size);
        out->count = (uint32_t)size;
        return SAE_OK;
    }
    bytes = saei_gguf_take(g, saei_gguf_sizes[type], &result);
    if (!bytes) return result;
    if (type == SAEI_GGUF_BOOL && bytes[0] > 1)
        return saei_damaged(g->file, "a bool of %u, allowed are 0 and 1", (unsigned)bytes[0]);
    out->type = type == SAEI_GGUF_BOOL ? SAE_JSON_BOOL : SAE_JSON_NUMBER;
    out->number = saei_gguf_number((saei_gguf_type)type, bytes);
    out->is_integer = out->type == SAE_JSON_NUMBER && type != SAEI_GGUF_F32 && type != SAEI_GGUF_F64
                      && fabs(out->number) <= (double)saei_json_most;
    return SAE_OK;
}

/* All pairs into an object. */
static sae_result saei_gguf_pairs(saei_gguf *g, uint64_t count) {
    sae_json *root = saei_json_node(&g->tree, NULL), *last = NULL;
    for (uint64_t i = 0; i < count; i++) {
        const unsigned char *name = NULL, *type;
        size_t size = 0;
        sae_result result = SAE_OK;
        last = saei_json_node(&g->tree, last);
        if (!last) return saei_unsupported(g->file, "more than 16777216 values in its metadata");
        SAEI_TRY(saei_gguf_name(g, "key", i, &name, &size));
        last->key = saei_gguf_put(g, name, size);
        type = saei_gguf_take(g, 4, &result);
        if (!type) return result;
        SAEI_TRY(saei_gguf_value(g, saei_le32(type), last, 1));
    }
    root->type = SAE_JSON_OBJECT;
    root->count = (uint32_t)count;
    return SAE_OK;
}

/* The metadata: counted, then read. */
static sae_result saei_gguf_metadata(saei_gguf *g, uint64_t count) {
    sae_tensor_file *file = g->file;
    const unsigned char *begin = g->at;
    const char *twice;
    char quoted[SAEI_QUOTE];
    saei_json_keys keys;
    SAEI_TRY(saei_gguf_pairs(g, count));
    g->at = begin;
    keys.most = (size_t)count;
    SAEI_TRY(saei_json_make(file->ctx, file->who, file->path, &g->tree));
    file->header = g->tree.nodes;
    file->metadata = file->header;
    SAEI_TRY(saei_gguf_pairs(g, count));
    SAEI_TRY(saei_json_keys_make(file->ctx, file->who, file->path, &keys));
    twice = saei_json_twice(file->header, &keys);
    saei_free(file->ctx, keys.slots);
    if (!twice) return SAE_OK;
    return saei_damaged(file, "the key \"%s\" is there twice", saei_quote(twice, quoted));
}

/* Name, shape, type and place of tensor `index`; *offset is where it lies in the data. */
static sae_result saei_gguf_tensor(saei_gguf *g, uint64_t index, sae_tensor *t, uint64_t *offset) {
    sae_tensor_file *file = g->file;
    sae_result result = SAE_OK;
    const unsigned char *name = NULL, *p;
    char quoted[SAEI_QUOTE];
    size_t size = 0, elements;
    uint32_t dims, type;
    memset(t, 0, sizeof *t);
    SAEI_TRY(saei_gguf_name(g, "tensor", index, &name, &size));
    t->name = saei_arena_text(&file->arena, name, size);
    if (!t->name) return saei_file_no_memory(file);
    saei_quote(t->name, quoted);
    p = saei_gguf_take(g, 4, &result);
    if (!p) return result;
    dims = saei_le32(p);
    if (dims > SAE_MAX_DIMS)
        return saei_damaged(file, "tensor \"%s\" has %u dimensions, at most %d are supported",
                            quoted, (unsigned)dims, SAE_MAX_DIMS);
    p = saei_gguf_take(g, 8 * (uint64_t)dims + 12, &result);
    if (!p) return result;
    t->ndim = dims;
    for (size_t k = 0; k < dims; k++) t->shape[dims - 1 - k] = saei_le64(p + 8 * k);
    type = saei_le32(p + 8 * dims);
    *offset = saei_le64(p + 8 * dims + 4);
    t->dtype = type < sizeof saei_gguf_dtypes ? (sae_dtype)saei_gguf_dtypes[type] : SAE_OTHER;
    if (saei_shape_layout(t, &elements)) return SAE_OK;
    return saei_damaged(file, "tensor \"%s\" of %s has a shape that is too large, or rows that are "
                        "no multiple of %zu", quoted, sae_dtype_name(t->dtype),
                        sae_dtype_block(t->dtype));
}

static sae_result saei_gguf_alignment(const sae_tensor_file *file, size_t *out) {
    const sae_json *v = sae_json_get(file->metadata, "general.alignment");
    *out = 32;
    if (!v) return SAE_OK;
    if (v->is_integer && v->number >= 1 && v->number <= UINT32_MAX) *out = (size_t)v->number;
    else *out = 0;
    if (*out && !(*out & (*out - 1))) return SAE_OK;
    return saei_damaged(file, "general.alignment is no power of two");
}

/* Where the data of all tensors is, after the header. */
static sae_result saei_gguf_place(saei_gguf *g, const uint64_t *offsets) {
    sae_tensor_file *file = g->file;
    const size_t header = (size_t)(g->at - file->map.data);
    size_t alignment, begin, left;
    char quoted[SAEI_QUOTE];
    SAEI_TRY(saei_gguf_alignment(file, &alignment));
    begin = header + (alignment - header % alignment) % alignment;
    left = begin < file->map.size ? file->map.size - begin : 0;
    for (size_t i = 0; i < file->count; i++) {
        sae_tensor *t = &file->tensors[i].tensor;
        const size_t block = sae_dtype_block(t->dtype), size = sae_dtype_size(t->dtype);
        uint64_t bytes = size;
        for (size_t k = 0; k < t->ndim; k++)
            bytes *= k + 1 == t->ndim ? t->shape[k] / block : t->shape[k];
        if (offsets[i] % alignment || offsets[i] > left || bytes > left - offsets[i])
            return saei_damaged(file,
                                "tensor \"%s\" has %llu bytes at byte %llu of the data, which has "
                                "%zu, aligned to %zu",
                                saei_quote(t->name, quoted), (unsigned long long)bytes,
                                (unsigned long long)offsets[i], left, alignment);
        if (size) t->data = file->map.data + begin + offsets[i];
    }
    return SAE_OK;
}

static sae_result saei_gguf_read(sae_tensor_file *file) {
    const unsigned char *d = file->map.data;
    saei_gguf g;
    uint64_t tensors, pairs, *offsets;
    uint32_t version;
    memset(&g, 0, sizeof g);
    g.file = file;
    if (file->map.size < 24) return saei_damaged(file, "the GGUF header is cut short");
    version = saei_le32(d + 4);
    if (version != 2 && version != 3)
        return saei_unsupported(file, "GGUF version %u, known are 2 and 3%s", (unsigned)version,
                                version && !(version & 0xFFFF) ? " (this is a big-endian file)"
                                                               : "");
    tensors = saei_le64(d + 8);
    pairs = saei_le64(d + 16);
    g.at = d + 24;
    g.end = d + file->map.size;
    SAEI_TRY(saei_gguf_metadata(&g, pairs));
    if (tensors > (uint64_t)(g.end - g.at) / SAEI_GGUF_LEAST_TENSOR)
        return saei_damaged(file, "it promises %llu tensors, which it is too short for",
                            (unsigned long long)tensors);
    offsets = (uint64_t *)saei_arena_alloc(&file->arena, (size_t)tensors + 1, sizeof *offsets);
    if (!offsets) return saei_file_no_memory(file);
    for (size_t i = 0; i < tensors; i++) {
        sae_tensor t;
        SAEI_TRY(saei_gguf_tensor(&g, i, &t, &offsets[i]));
        SAEI_TRY(saei_file_add(file, &t, NULL));
    }
    return saei_gguf_place(&g, offsets);
}
