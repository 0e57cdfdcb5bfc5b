#pragma once
#include "write.h"

/* ==== >>tensors: .npy ========================================================================= */

/*  \x93NUMPY | u8 major, minor | header length: u16 (1.0) or u32 (2.0, 3.0) | header | data
    header: the Python dict {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } + '\n'  */

typedef struct saei_npy {
    const char *at, *end;
    char descr[16];
    bool has_descr, has_order, has_shape, fortran, structured;
} saei_npy;

static bool saei_npy_word(saei_npy *s, const char *word) {
    size_t n = strlen(word);
    while (s->at < s->end && strchr(" \t\r\n\f", *s->at) && *s->at) s->at++;
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return false;
    s->at += n;
    return true;
}

static bool saei_npy_string(saei_npy *s, char out[16]) {
    char quote;
    size_t n = 0;
    if (!saei_npy_word(s, "'") && !saei_npy_word(s, "\"")) return false;
    quote = s->at[-1];
    for (; s->at < s->end && *s->at != quote && n < 15; s->at++) {
        if (*s->at < 32 || *s->at > 126 || *s->at == '\\') return false;
        out[n++] = *s->at;
    }
    if (s->at >= s->end || *s->at != quote) return false;
    s->at++;
    out[n] = 0;
    return true;
}

/* (), (5,), (3, 4), (3, 4,), (5L,) */
static bool saei_npy_shape(saei_npy *s, sae_tensor *t) {
    bool comma = false;
    t->ndim = 0;
    if (!saei_npy_word(s, "(")) return false;
    while (!saei_npy_word(s, ")")) {
        uint64_t dim = 0;
        const char *start;
        if (t->ndim > 0 && !comma) return false;
        saei_npy_word(s, "");
        for (start = s->at; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
            if (dim > (uint64_t)INT64_MAX / 10 - 1) return false;
            dim = dim * 10 + (uint64_t)(*s->at - '0');
        }
        if (s->at == start || t->ndim == SAE_MAX_DIMS) return false;
        t->shape[t->ndim++] = dim;
        if (s->at < s->end && *s->at == 'L') s->at++;
        comma = saei_npy_word(s, ",");
    }
    return t->ndim != 1 || comma;
}

static bool saei_npy_header(saei_npy *s, sae_tensor *t) {
    char key[16];
    if (!saei_npy_word(s, "{")) return false;
    while (!saei_npy_word(s, "}")) {
        if (!saei_npy_string(s, key) || !saei_npy_word(s, ":")) return false;
        if (strcmp(key, "descr") == 0 && !s->has_descr) {
            s->has_descr = true;
            s->structured = saei_npy_word(s, "[");
            if (s->structured) return true;
            if (!saei_npy_string(s, s->descr)) return false;
        } else if (strcmp(key, "fortran_order") == 0 && !s->has_order) {
            s->has_order = true;
            s->fortran = saei_npy_word(s, "True");
            if (!s->fortran && !saei_npy_word(s, "False")) return false;
        } else if (strcmp(key, "shape") == 0 && !s->has_shape) {
            s->has_shape = true;
            if (!saei_npy_shape(s, t)) return false;
        } else {
            return false;
        }
        if (!saei_npy_word(s, ",")) {
            if (!saei_npy_word(s, "}")) return false;
            break;
        }
    }
    saei_npy_word(s, "");
    return s->at == s->end && s->has_descr && s->has_order && s->has_shape;
}

/* SAE_DTYPE_DEFAULT where there is none for it. */
static sae_dtype saei_npy_dtype(const char *descr, bool *swap) {
    const char *type = *descr && strchr("<>|=", *descr) ? descr + 1 : descr;
    *swap = *descr == '>' && type[0] && strcmp(type + 1, "1") != 0;
    for (int i = 1; i < SAEI_PLAIN_DTYPES; i++)
        if (strcmp(type, saei_dtypes[i].descr + 1) == 0 && !(*swap && i == SAE_BF16))
            return (sae_dtype)i;
    return SAE_DTYPE_DEFAULT;
}

static void saei_swap_bytes(const unsigned char *in, unsigned char *out, size_t n, size_t size) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < size; j++) out[i * size + j] = in[i * size + size - 1 - j];
}

static bool saei_looks_npy(const unsigned char *d, size_t n) {
    return n >= 6 && memcmp(d, "\x93NUMPY", 6) == 0;
}

/* data [size] is a whole .npy; label names it in messages ("" for a plain file); entry, if any,
   holds it. */
static sae_result saei_npy_read(sae_tensor_file *file, const char *name, const char *label,
                                const unsigned char *data, size_t size, saei_zip_entry *entry) {
    size_t start, length, elements, bytes;
    saei_npy s;
    sae_tensor t;
    bool swap;
    memset(&s, 0, sizeof s);
    memset(&t, 0, sizeof t);
    t.name = name;
    if (size < 10 || !saei_looks_npy(data, size))
        return saei_damaged(file, "%sno .npy header", label);
    if (data[6] < 1 || data[6] > 3 || data[7] != 0)
        return saei_unsupported(file, "%s.npy version %d.%d, known are 1.0, 2.0, 3.0", label,
                                data[6], data[7]);
    start = data[6] == 1 ? 10 : 12;
    length = size < start ? SIZE_MAX : data[6] == 1 ? saei_le16(data + 8) : saei_le32(data + 8);
    if (size < start || length > size - start || length > 1048576)
        return saei_damaged(file, "%sthe .npy header is cut short", label);
    s.at = (const char *)data + start;
    s.end = s.at + length;
    if (!saei_npy_header(&s, &t))
        return saei_damaged(file,
                            "%sthe .npy header is not a dict of exactly descr, fortran_order and "
                            "shape (a tuple of at most %d sizes)",
                            label, SAE_MAX_DIMS);
    if (!s.structured && strchr(s.descr, 'O'))
        return saei_unsupported(file, "%san object array: it holds pickles, which are not run",
                                label);
    t.dtype = s.structured ? SAE_DTYPE_DEFAULT : saei_npy_dtype(s.descr, &swap);
    if (t.dtype == SAE_DTYPE_DEFAULT)
        return saei_unsupported(file,
                                "%s.npy descr is %s, known are f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1 "
                                "and V2 (bfloat16)",
                                label, s.structured ? "a list (a structured type)" : s.descr);
    if (!saei_shape_layout(&t, &elements))
        return saei_damaged(file, "%sthe .npy shape is too large", label);
    bytes = elements * sae_dtype_size(t.dtype);
    if (bytes != size - start - length)
        return saei_damaged(file, "%sthe .npy header promises %zu bytes of data, there are %zu",
                            label, bytes, size - start - length);
    t.data = data + start + length;
    if (s.fortran) {
        int64_t stride = 1;
        for (size_t k = 0; k < t.ndim; k++) {
            t.stride[k] = stride;
            stride *= (int64_t)(t.shape[k] ? t.shape[k] : 1);
        }
    }
    if (swap && elements) {
        unsigned char *owned = (unsigned char *)saei_arena_alloc(&file->arena, bytes, 1);
        if (!owned) return saei_file_no_memory(file);
        if (entry) SAEI_TRY(saei_zip_check(file, entry));
        saei_swap_bytes((const unsigned char *)t.data, owned, elements, sae_dtype_size(t.dtype));
        t.data = owned;
    }
    return saei_file_add(file, &t, entry);
}

static sae_result saei_npy_file(sae_tensor_file *file) {
    return saei_npy_read(file, "", "", file->map.data, file->map.size, NULL);
}

/* ---- writing ---- */

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

static sae_result saei_npy_write(saei_writer *w, const saei_content *c) {
    saei_text header;
    memset(&header, 0, sizeof header);
    header.ctx = w->ctx;
    saei_npy_write_header(&header, c->tensors);
    if (!header.failed) {
        saei_writer_put(w, header.data, header.size);
        saei_writer_put(w, c->tensors->data, saei_tensor_bytes(c->tensors));
    }
    saei_free(w->ctx, header.data);
    return header.failed ? saei_content_no_memory(w, c) : SAE_OK;
}
