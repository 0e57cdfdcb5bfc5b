#pragma once
#include "zip.h"

/* ==== >>tensors: .pt, the pickle ============================================================== */

/*  A zip of TOP/data.pkl (what is there: a pickle), TOP/data/KEY (the storages), TOP/version, and
    perhaps TOP/byteorder. The pickle is read by a machine that knows the opcodes of a state_dict,
    makes numbers, texts, containers and tensors, and calls nothing. */

typedef enum saei_pickle_type {
    SAEI_PICKLE_NONE, SAEI_PICKLE_BOOL, SAEI_PICKLE_INT, SAEI_PICKLE_FLOAT, SAEI_PICKLE_TEXT,
    SAEI_PICKLE_TUPLE, SAEI_PICKLE_LIST, SAEI_PICKLE_DICT, SAEI_PICKLE_GLOBAL, SAEI_PICKLE_STORAGE,
    SAEI_PICKLE_TENSOR
} saei_pickle_type;

typedef struct saei_pickle_value {
    saei_pickle_type type;
    uint32_t count, capacity;         /* items of TUPLE, LIST; DICT: twice the pairs; STORAGE: the
                                         zip entry, dtype */
    int64_t integer;                  /* BOOL, INT; FLOAT: its bits; STORAGE: bytes; GLOBAL: row;
                                         TENSOR: the zip entry */
    const void *data;                 /* TEXT; STORAGE: its bytes; TENSOR: a sae_tensor */
    struct saei_pickle_value **items; /* DICT: key, value, key, value */
} saei_pickle_value;

typedef enum saei_global {
    SAEI_GLOBAL_TENSOR_V1, SAEI_GLOBAL_TENSOR_V2, SAEI_GLOBAL_TENSOR_V3, SAEI_GLOBAL_PARAMETER,
    SAEI_GLOBAL_PARAMETER_STATE, SAEI_GLOBAL_DICT, SAEI_GLOBAL_SIZE, SAEI_GLOBAL_DEVICE,
    SAEI_GLOBAL_STORAGE, SAEI_GLOBAL_DTYPE
} saei_global;

/* All that a pickle may name. dtype 0 of a storage: untyped, counted in bytes. */
static const struct saei_global_row {
    const char *module, *name;
    saei_global kind;
    int dtype;
} saei_globals[] = {
    { "torch._utils", "_rebuild_tensor", SAEI_GLOBAL_TENSOR_V1, 0 },
    { "torch._utils", "_rebuild_tensor_v2", SAEI_GLOBAL_TENSOR_V2, 0 },
    { "torch._utils", "_rebuild_tensor_v3", SAEI_GLOBAL_TENSOR_V3, 0 },
    { "torch._utils", "_rebuild_parameter", SAEI_GLOBAL_PARAMETER, 0 },
    { "torch._utils", "_rebuild_parameter_with_state", SAEI_GLOBAL_PARAMETER_STATE, 0 },
    { "collections", "OrderedDict", SAEI_GLOBAL_DICT, 0 },
    { "torch", "Size", SAEI_GLOBAL_SIZE, 0 },
    { "torch", "device", SAEI_GLOBAL_DEVICE, 0 },
    { "torch.storage", "UntypedStorage", SAEI_GLOBAL_STORAGE, 0 },
    { "torch", "FloatStorage", SAEI_GLOBAL_STORAGE, SAE_F32 },
    { "torch", "HalfStorage", SAEI_GLOBAL_STORAGE, SAE_F16 },
    { "torch", "BFloat16Storage", SAEI_GLOBAL_STORAGE, SAE_BF16 },
    { "torch", "DoubleStorage", SAEI_GLOBAL_STORAGE, SAE_F64 },
    { "torch", "CharStorage", SAEI_GLOBAL_STORAGE, SAE_I8 },
    { "torch", "ByteStorage", SAEI_GLOBAL_STORAGE, SAE_U8 },
    { "torch", "ShortStorage", SAEI_GLOBAL_STORAGE, SAE_I16 },
    { "torch", "IntStorage", SAEI_GLOBAL_STORAGE, SAE_I32 },
    { "torch", "LongStorage", SAEI_GLOBAL_STORAGE, SAE_I64 },
    { "torch", "BoolStorage", SAEI_GLOBAL_STORAGE, SAE_BOOL },
    { "torch", "float32", SAEI_GLOBAL_DTYPE, SAE_F32 },
    { "torch", "float16", SAEI_GLOBAL_DTYPE, SAE_F16 },
    { "torch", "bfloat16", SAEI_GLOBAL_DTYPE, SAE_BF16 },
    { "torch", "float64", SAEI_GLOBAL_DTYPE, SAE_F64 },
    { "torch", "int8", SAEI_GLOBAL_DTYPE, SAE_I8 },
    { "torch", "uint8", SAEI_GLOBAL_DTYPE, SAE_U8 },
    { "torch", "int16", SAEI_GLOBAL_DTYPE, SAE_I16 },
    { "torch", "uint16", SAEI_GLOBAL_DTYPE, SAE_U16 },
    { "torch", "int32", SAEI_GLOBAL_DTYPE, SAE_I32 },
    { "torch", "uint32", SAEI_GLOBAL_DTYPE, SAE_U32 },
    { "torch", "int64", SAEI_GLOBAL_DTYPE, SAE_I64 },
    { "torch", "uint64", SAEI_GLOBAL_DTYPE, SAE_U64 },
    { "torch", "bool", SAEI_GLOBAL_DTYPE, SAE_BOOL },
};
enum {
    SAEI_NUM_GLOBALS = sizeof saei_globals / sizeof saei_globals[0],
    SAEI_PICKLE_SIZE = 1 << 24,     /* bytes of data.pkl */
    SAEI_PICKLE_MARKS = 1000,
    SAEI_PICKLE_DEPTH = 64,         /* of containers in containers */
    SAEI_PICKLE_NAME = 1000,        /* characters of a dotted name */
    SAEI_PICKLE_NAMES = 1 << 26,    /* and of all of them */
    SAEI_EXPANDED_ELEMENTS = 1 << 26 /* of a tensor that is larger than its storage */
};

typedef struct saei_pickle {
    sae_tensor_file *file;
    const saei_zip *zip;
    const char *top;                 /* "ae/" */
    const unsigned char *at, *end;
    size_t size;                     /* of data.pkl: bounds stack, memo and what is visited */
    saei_arena arena;                /* of the values */
    saei_pickle_value **stack, **memo;
    size_t depth, stack_size, memo_size;
    size_t marks[SAEI_PICKLE_MARKS], num_marks;
    size_t visits, name_bytes;
    char name[SAEI_PICKLE_NAME + 24];
} saei_pickle;

static sae_result saei_pickle_fail(const saei_pickle *u, const char *what) {
    return saei_damaged(u->file, "data.pkl: %s", what);
}

static sae_result saei_pickle_no_memory(const saei_pickle *u) {
    return saei_file_no_memory(u->file);
}

/* The next n bytes of the stream, NULL if there are fewer. */
static const unsigned char *saei_pickle_take(saei_pickle *u, size_t n) {
    const unsigned char *at = u->at;
    if ((size_t)(u->end - at) < n) return NULL;
    u->at += n;
    return at;
}

static sae_result saei_pickle_push(saei_pickle *u, saei_pickle_value *value) {
    if (u->depth == u->stack_size) return saei_pickle_fail(u, "the stack is too deep");
    u->stack[u->depth++] = value;
    return SAE_OK;
}

static saei_pickle_value *saei_pickle_make(saei_pickle *u, saei_pickle_type type) {
    saei_pickle_value *v = (saei_pickle_value *)saei_arena_alloc(&u->arena, 1, sizeof *v);
    if (!v) return NULL;
    memset(v, 0, sizeof *v);
    v->type = type;
    return v;
}

/* A fresh value on the stack. */
static sae_result saei_pickle_new(saei_pickle *u, saei_pickle_type type, saei_pickle_value **out) {
    *out = saei_pickle_make(u, type);
    return *out ? saei_pickle_push(u, *out) : saei_pickle_no_memory(u);
}

static sae_result saei_pickle_int(saei_pickle *u, saei_pickle_type type, int64_t integer) {
    saei_pickle_value *v;
    SAEI_TRY(saei_pickle_new(u, type, &v));
    v->integer = integer;
    return SAE_OK;
}

/* Values above the last MARK, or all. */
static size_t saei_pickle_above(const saei_pickle *u) {
    return u->depth - (u->num_marks ? u->marks[u->num_marks - 1] : 0);
}

/* The top value, taken off; NULL if there is none above the last MARK. */
static saei_pickle_value *saei_pickle_pop(saei_pickle *u) {
    return saei_pickle_above(u) ? u->stack[--u->depth] : NULL;
}

static sae_result saei_pickle_append(saei_pickle *u, saei_pickle_value *v,
                                     saei_pickle_value **items, size_t count) {
    size_t need = v->count + count;
    if (need > v->capacity) {
        size_t capacity = saei_max(need, 2 * (size_t)v->capacity);
        saei_pickle_value **grown =
            (saei_pickle_value **)saei_arena_alloc(&u->arena, capacity, sizeof *grown);
        if (!grown) return saei_pickle_no_memory(u);
        if (v->count) memcpy(grown, v->items, v->count * sizeof *grown);
        v->items = grown;
        v->capacity = (uint32_t)capacity;
    }
    if (count) memcpy(v->items + v->count, items, count * sizeof *items);
    v->count = (uint32_t)need;
    return SAE_OK;
}

/* The top count values become one tuple. */
static sae_result saei_pickle_tuple(saei_pickle *u, size_t count) {
    saei_pickle_value *v;
    if (count > saei_pickle_above(u)) return saei_pickle_fail(u, "the stack is empty");
    v = saei_pickle_make(u, SAEI_PICKLE_TUPLE);
    if (!v) return saei_pickle_no_memory(u);
    u->depth -= count;
    SAEI_TRY(saei_pickle_append(u, v, u->stack + u->depth, count));
    return saei_pickle_push(u, v);
}

/* Moves the top count values into the container under them: type LIST, or DICT (pairs). */
static sae_result saei_pickle_fill(saei_pickle *u, saei_pickle_type type, size_t count) {
    saei_pickle_value **items, *into;
    if (count > saei_pickle_above(u)) return saei_pickle_fail(u, "the stack is empty");
    u->depth -= count;
    items = u->stack + u->depth;
    into = saei_pickle_above(u) ? u->stack[u->depth - 1] : NULL;
    if (!into || into->type != type || (type == SAEI_PICKLE_DICT && count % 2))
        return saei_pickle_fail(u, "items for something that holds none");
    for (size_t i = 0; type == SAEI_PICKLE_DICT && i < count; i += 2)
        if (items[i]->type != SAEI_PICKLE_TEXT && items[i]->type != SAEI_PICKLE_INT)
            return saei_pickle_fail(u, "a dict key that is neither a text nor an integer");
    return saei_pickle_append(u, into, items, count);
}

static sae_result saei_pickle_text(saei_pickle *u, size_t length) {
    const unsigned char *text = saei_pickle_take(u, length);
    saei_pickle_value *v;
    if (!text) return saei_pickle_fail(u, "it ends inside a text");
    if (!saei_is_text(text, length)) return saei_pickle_fail(u, "a text that is not UTF-8");
    SAEI_TRY(saei_pickle_new(u, SAEI_PICKLE_TEXT, &v));
    v->data = saei_arena_text(&u->arena, text, length);
    return v->data ? SAE_OK : saei_pickle_no_memory(u);
}

/* GLOBAL: two lines, module and name. */
static sae_result saei_pickle_global(saei_pickle *u) {
    char parts[2][48], quoted[SAEI_QUOTE], whole[SAEI_QUOTE];
    for (int i = 0; i < 2; i++) {
        const void *newline = memchr(u->at, '\n', (size_t)(u->end - u->at));
        size_t n = newline ? (size_t)((const unsigned char *)newline - u->at) : 0;
        if (!newline) return saei_pickle_fail(u, "it ends inside a name");
        memcpy(parts[i], u->at, saei_min(n, 47));
        parts[i][saei_min(n, 47)] = 0;
        u->at += n + 1;
    }
    for (int i = 0; i < SAEI_NUM_GLOBALS; i++)
        if (strcmp(parts[0], saei_globals[i].module) == 0
            && strcmp(parts[1], saei_globals[i].name) == 0)
            return saei_pickle_int(u, SAEI_PICKLE_GLOBAL, i);
    snprintf(whole, sizeof whole, "%s.%s", parts[0], parts[1]);
    return saei_unsupported(u->file,
                            "data.pkl names %s, which is none of the tensors, containers and "
                            "numbers of a state_dict; nothing of it is run (a whole module? save "
                            "its state_dict())",
                            saei_quote(whole, quoted));
}

/* BINPERSID: ('storage', class, key, location, elements). */
static sae_result saei_pickle_storage(saei_pickle *u) {
    saei_pickle_value *id = saei_pickle_pop(u), **a, *v;
    const struct saei_global_row *row;
    saei_zip_entry *e;
    char name[SAEI_QUOTE * 3], quoted[SAEI_QUOTE];
    uint64_t size;
    if (!id || id->type != SAEI_PICKLE_TUPLE || id->count != 5)
        return saei_pickle_fail(u, "a storage that is not described by five values");
    a = id->items;
    if (a[0]->type != SAEI_PICKLE_TEXT || strcmp((const char *)a[0]->data, "storage") != 0
        || a[1]->type != SAEI_PICKLE_GLOBAL || a[2]->type != SAEI_PICKLE_TEXT
        || a[3]->type != SAEI_PICKLE_TEXT || a[4]->type != SAEI_PICKLE_INT || a[4]->integer < 0)
        return saei_pickle_fail(u, "a storage with values of the wrong kind");
    row = saei_globals + a[1]->integer;
    if (row->kind != SAEI_GLOBAL_STORAGE) return saei_pickle_fail(u, "a storage of no known class");
    snprintf(name, sizeof name, "%sdata/%.100s", u->top, (const char *)a[2]->data);
    saei_quote(name, quoted);
    e = (saei_zip_entry *)(uintptr_t)saei_name_find(u->zip->by_name, u->zip->count, name);
    if (!e) return saei_damaged(u->file, "there is no storage \"%s\" in the archive", quoted);
    SAEI_TRY(saei_zip_plain(u->file, e, true));
    size = row->dtype ? sae_dtype_size((sae_dtype)row->dtype) : 1;
    if ((uint64_t)a[4]->integer > e->size / size)
        return saei_damaged(u->file,
                            "the storage \"%s\" holds %zu bytes, its tensors need %llu elements of "
                            "%d",
                            quoted, e->size, (unsigned long long)a[4]->integer, (int)size);
    SAEI_TRY(saei_pickle_new(u, SAEI_PICKLE_STORAGE, &v));
    v->data = e->data;
    v->integer = a[4]->integer * (int64_t)size;
    v->capacity = (uint32_t)row->dtype;
    v->count = (uint32_t)(e - u->zip->entries);
    return SAE_OK;
}

static bool saei_pickle_sizes(const saei_pickle_value *tuple, int64_t out[SAE_MAX_DIMS]) {
    if (tuple->type != SAEI_PICKLE_TUPLE || tuple->count > SAE_MAX_DIMS) return false;
    for (uint32_t i = 0; i < tuple->count; i++) {
        out[i] = tuple->items[i]->integer;
        if (tuple->items[i]->type != SAEI_PICKLE_INT || out[i] < 0) return false;
    }
    return true;
}

/* a = storage, offset, size, stride. Every element must lie in the storage. */
static sae_result saei_pickle_tensor(saei_pickle *u, saei_pickle_value **a, int dtype) {
    sae_tensor *t = (sae_tensor *)saei_arena_alloc(&u->arena, 1, sizeof *t);
    int64_t shape[SAE_MAX_DIMS], strides[SAE_MAX_DIMS];
    uint64_t held, last;
    size_t elements;
    saei_pickle_value *v;
    if (!t) return saei_pickle_no_memory(u);
    memset(t, 0, sizeof *t);
    if (a[0]->type != SAEI_PICKLE_STORAGE || a[1]->type != SAEI_PICKLE_INT
        || a[2]->type != SAEI_PICKLE_TUPLE || a[3]->type != SAEI_PICKLE_TUPLE)
        return saei_pickle_fail(u, "a tensor with values of the wrong kind");
    if (!dtype) dtype = (int)a[0]->capacity;
    if (!dtype) return saei_pickle_fail(u, "a tensor without an element type");
    if (a[2]->count > SAE_MAX_DIMS)
        return saei_unsupported(u->file, "a tensor of %u dimensions, at most %d are supported",
                                (unsigned)a[2]->count, SAE_MAX_DIMS);
    t->dtype = (sae_dtype)dtype;
    t->ndim = a[2]->count;
    if (!saei_pickle_sizes(a[2], shape) || a[3]->count != t->ndim || a[1]->integer < 0)
        return saei_pickle_fail(u, "a tensor with a negative size or offset");
    for (size_t k = 0; k < t->ndim; k++) t->shape[k] = (uint64_t)shape[k];
    if (!saei_shape_layout(t, &elements)) return saei_pickle_fail(u, "a tensor that is too large");
    if (!saei_pickle_sizes(a[3], strides))
        return saei_pickle_fail(u, "a tensor with a negative stride");
    for (size_t k = 0; k < t->ndim; k++) /* where no step is taken the row-major one stays */
        if (elements && t->shape[k] > 1) t->stride[k] = strides[k];
    held = (uint64_t)a[0]->integer / sae_dtype_size(t->dtype);
    last = (uint64_t)a[1]->integer;
    for (size_t k = 0; k < t->ndim && elements; k++) {
        uint64_t steps = t->shape[k] - 1, stride = (uint64_t)t->stride[k];
        if (steps && stride > held / steps) last = held;
        else last = last > held ? last : last + steps * stride;
    }
    if (last >= held && elements)
        return saei_pickle_fail(u, "a tensor that reaches past the end of its storage");
    if (elements > held && elements > SAEI_EXPANDED_ELEMENTS)
        return saei_pickle_fail(u, "a tensor far larger than its storage");
    t->data = (const unsigned char *)a[0]->data;
    if (elements)
        t->data = (const unsigned char *)t->data + (size_t)a[1]->integer * sae_dtype_size(t->dtype);
    SAEI_TRY(saei_pickle_new(u, SAEI_PICKLE_TENSOR, &v));
    v->data = t;
    v->integer = a[0]->count;
    return SAE_OK;
}

/* REDUCE and NEWOBJ: what calling the global would give. */
static sae_result saei_pickle_reduce(saei_pickle *u) {
    saei_pickle_value *args = saei_pickle_pop(u), *f = saei_pickle_pop(u), *v, **a;
    uint32_t n;
    if (!args || !f || args->type != SAEI_PICKLE_TUPLE || f->type != SAEI_PICKLE_GLOBAL)
        return saei_pickle_fail(u, "a call of something that is no function");
    a = args->items;
    n = args->count;
    switch (saei_globals[f->integer].kind) {
    case SAEI_GLOBAL_TENSOR_V1:
        if (n == 4) return saei_pickle_tensor(u, a, 0);
        break;
    case SAEI_GLOBAL_TENSOR_V2:
        if (n == 6 || n == 7) return saei_pickle_tensor(u, a, 0);
        break;
    case SAEI_GLOBAL_TENSOR_V3:
        if ((n == 7 || n == 8) && a[6]->type == SAEI_PICKLE_GLOBAL
            && saei_globals[a[6]->integer].kind == SAEI_GLOBAL_DTYPE)
            return saei_pickle_tensor(u, a, saei_globals[a[6]->integer].dtype);
        break;
    case SAEI_GLOBAL_PARAMETER:
        if (n == 3 && a[0]->type == SAEI_PICKLE_TENSOR) return saei_pickle_push(u, a[0]);
        break;
    case SAEI_GLOBAL_PARAMETER_STATE:
        if (n == 4 && a[0]->type == SAEI_PICKLE_TENSOR) return saei_pickle_push(u, a[0]);
        break;
    case SAEI_GLOBAL_DICT:
        if (n == 0) return saei_pickle_new(u, SAEI_PICKLE_DICT, &v);
        break;
    case SAEI_GLOBAL_SIZE:
        if (n == 1 && a[0]->type == SAEI_PICKLE_TUPLE) return saei_pickle_push(u, a[0]);
        break;
    case SAEI_GLOBAL_DEVICE:
        if (n >= 1 && a[0]->type == SAEI_PICKLE_TEXT) return saei_pickle_push(u, a[0]);
        break;
    default: break;
    }
    return saei_damaged(u->file, "data.pkl: %s.%s with values that do not fit",
                        saei_globals[f->integer].module, saei_globals[f->integer].name);
}

/* Opcodes of numbers and texts. *done: it was one. */
static sae_result saei_pickle_constant(saei_pickle *u, unsigned op, bool *done) {
    static const struct {
        unsigned char op, operand;
    } table[] = { { 'J', 4 }, { 'K', 1 }, { 'M', 2 }, { 0x8a, 1 },
                  { 'G', 8 }, { 'X', 4 }, { 'U', 1 } };
    const unsigned char *p = NULL;
    uint64_t bits = 0;
    size_t length;
    *done = true;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].op == op && !(p = saei_pickle_take(u, table[i].operand)))
            return saei_pickle_fail(u, "it ends inside a value");
    switch (op) {
    case 'J': return saei_pickle_int(u, SAEI_PICKLE_INT, (int32_t)saei_le32(p));
    case 'K': return saei_pickle_int(u, SAEI_PICKLE_INT, p[0]);
    case 'M': return saei_pickle_int(u, SAEI_PICKLE_INT, (int64_t)saei_le16(p));
    case 0x8a: /* little endian, two's complement, as short as possible */
        length = p[0];
        if (length > 8) return saei_pickle_fail(u, "an integer of more than 64 bits");
        if (!(p = saei_pickle_take(u, length)))
            return saei_pickle_fail(u, "it ends inside a value");
        for (size_t i = 0; i < length; i++) bits |= (uint64_t)p[i] << 8 * i;
        if (length && length < 8 && p[length - 1] & 0x80) bits |= ~(uint64_t)0 << 8 * length;
        return saei_pickle_int(u, SAEI_PICKLE_INT, (int64_t)bits);
    case 'G':
        for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
        return saei_pickle_int(u, SAEI_PICKLE_FLOAT, (int64_t)bits);
    case 'X': return saei_pickle_text(u, saei_le32(p));
    case 'U': return saei_pickle_text(u, p[0]);
    case 0x88: return saei_pickle_int(u, SAEI_PICKLE_BOOL, 1);
    case 0x89: return saei_pickle_int(u, SAEI_PICKLE_BOOL, 0);
    case 'N': return saei_pickle_int(u, SAEI_PICKLE_NONE, 0);
    default: *done = false; return SAE_OK;
    }
}

/* BINPUT, LONG_BINPUT, BINGET, LONG_BINGET. */
static sae_result saei_pickle_memo(saei_pickle *u, unsigned op) {
    bool wide = op == 'r' || op == 'j', put = op == 'q' || op == 'r';
    const unsigned char *p = saei_pickle_take(u, wide ? 4 : 1);
    size_t slot;
    if (!p) return saei_pickle_fail(u, "it ends inside a value");
    slot = wide ? saei_le32(p) : p[0];
    if (put) {
        if (slot >= u->memo_size) return saei_pickle_fail(u, "a memo slot out of range");
        if (!saei_pickle_above(u)) return saei_pickle_fail(u, "the stack is empty");
        u->memo[slot] = u->stack[u->depth - 1];
        return SAE_OK;
    }
    if (slot >= u->memo_size || !u->memo[slot])
        return saei_pickle_fail(u, "a memo slot that was never set");
    return saei_pickle_push(u, u->memo[slot]);
}

static sae_result saei_pickle_step(saei_pickle *u, unsigned op) {
    saei_pickle_value *v;
    size_t count;
    bool done;
    SAEI_TRY(saei_pickle_constant(u, op, &done));
    if (done) return SAE_OK;
    switch (op) {
    case '(':
        if (u->num_marks == SAEI_PICKLE_MARKS) return saei_pickle_fail(u, "too many marks");
        u->marks[u->num_marks++] = u->depth;
        return SAE_OK;
    case 't': case 'u': case 'e': /* what lies above the last MARK */
        if (!u->num_marks) return saei_pickle_fail(u, "no mark on the stack");
        count = saei_pickle_above(u);
        u->num_marks--;
        if (op == 't') return saei_pickle_tuple(u, count);
        return saei_pickle_fill(u, op == 'u' ? SAEI_PICKLE_DICT : SAEI_PICKLE_LIST, count);
    case ')': return saei_pickle_tuple(u, 0);
    case 0x85: case 0x86: case 0x87: return saei_pickle_tuple(u, op - 0x84);
    case 's': return saei_pickle_fill(u, SAEI_PICKLE_DICT, 2);
    case 'a': return saei_pickle_fill(u, SAEI_PICKLE_LIST, 1);
    case '}': return saei_pickle_new(u, SAEI_PICKLE_DICT, &v);
    case ']': return saei_pickle_new(u, SAEI_PICKLE_LIST, &v);
    case 'q': case 'r': case 'h': case 'j': return saei_pickle_memo(u, op);
    case 'c': return saei_pickle_global(u);
    case 'Q': return saei_pickle_storage(u);
    case 'R': case 0x81: return saei_pickle_reduce(u);
    case 'b': /* BUILD: an OrderedDict's attributes (_metadata) are of no use here */
        if (!saei_pickle_pop(u) || !saei_pickle_above(u)
            || u->stack[u->depth - 1]->type != SAEI_PICKLE_DICT)
            return saei_pickle_fail(u, "attributes for something that is not an OrderedDict");
        return SAE_OK;
    default:
        return saei_unsupported(u->file,
                                "data.pkl: opcode 0x%02x, which torch.save does not write at "
                                "protocol 2",
                                op);
    }
}

/* Runs the stream; *out is the object it makes. */
static sae_result saei_pickle_run(saei_pickle *u, saei_pickle_value **out) {
    const unsigned char *head = saei_pickle_take(u, 2);
    if (!head || head[0] != 0x80)
        return saei_unsupported(u->file, "data.pkl is not a pickle of protocol 2");
    if (head[1] != 2 && head[1] != 3)
        return saei_unsupported(u->file,
                                "data.pkl has pickle protocol %d, known are 2 (what torch.save "
                                "writes) and 3",
                                head[1]);
    for (;;) {
        const unsigned char *op = saei_pickle_take(u, 1);
        if (!op) return saei_pickle_fail(u, "it ends too early");
        if (*op == '.') break;
        SAEI_TRY(saei_pickle_step(u, *op));
    }
    if (u->depth != 1 || u->num_marks) return saei_pickle_fail(u, "it does not make one object");
    *out = u->stack[0];
    return SAE_OK;
}
