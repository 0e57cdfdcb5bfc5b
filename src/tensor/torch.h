#pragma once
#include "../base/math.h"
#include "pickle.h"

/* ==== >>tensors: .pt, names and archive ======================================================= */

static sae_result saei_pickle_add_scalar(saei_pickle *u, const char *name, const char *text) {
    sae_tensor_file *file = u->file;
    saei_scalar *grown = (saei_scalar *)saei_file_grow(file, file->scalars, file->num_scalars,
                                                       &file->scalar_capacity, sizeof *grown);
    if (!grown) return saei_file_no_memory(file);
    file->scalars = grown;
    text = saei_arena_text(&file->arena, text, strlen(text));
    if (!text) return saei_file_no_memory(file);
    file->scalars[file->num_scalars].name = name;
    file->scalars[file->num_scalars++].text = text;
    return SAE_OK;
}

/* A value that holds no others, under the name in u->name. */
static sae_result saei_pickle_leaf(saei_pickle *u, const saei_pickle_value *v, size_t length) {
    char text[64];
    const char *name;
    u->name_bytes += length + 1;
    if (u->name_bytes > SAEI_PICKLE_NAMES) return saei_pickle_fail(u, "too many names");
    name = saei_arena_text(&u->file->arena, u->name, length);
    if (!name) return saei_file_no_memory(u->file);
    if (v->type == SAEI_PICKLE_TENSOR) {
        sae_tensor t = *(const sae_tensor *)v->data;
        t.name = name;
        return saei_file_add(u->file, &t, u->zip->entries + v->integer);
    }
    if (v->type == SAEI_PICKLE_TEXT) return saei_pickle_add_scalar(u, name, (const char *)v->data);
    if (v->type == SAEI_PICKLE_INT) snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else if (v->type == SAEI_PICKLE_FLOAT)
        saei_number_text(saei_from_bits((uint64_t)v->integer), text);
    else if (v->type == SAEI_PICKLE_BOOL) strcpy(text, v->integer ? "True" : "False");
    else if (v->type == SAEI_PICKLE_NONE) strcpy(text, "None");
    else if (v->type == SAEI_PICKLE_GLOBAL)
        snprintf(text, sizeof text, "%s.%s", saei_globals[v->integer].module,
                 saei_globals[v->integer].name);
    else return SAE_OK; /* a bare storage */
    return saei_pickle_add_scalar(u, name, text);
}

/* Gives what v holds, all the way down, names joined by dots: "optimizer.state.0.exp_avg". A value
   that holds itself runs into a limit. */
static sae_result saei_pickle_flatten(saei_pickle *u, const saei_pickle_value *v, size_t length,
                                      int depth) {
    bool dict = v->type == SAEI_PICKLE_DICT;
    if (!dict && v->type != SAEI_PICKLE_LIST && v->type != SAEI_PICKLE_TUPLE)
        return saei_pickle_leaf(u, v, length);
    if (depth == SAEI_PICKLE_DEPTH) return saei_pickle_fail(u, "containers nested deeper than 64");
    for (uint32_t i = 0; i < v->count; i += dict ? 2 : 1) {
        const saei_pickle_value *key = dict ? v->items[i] : NULL,
                                *item = v->items[dict ? i + 1 : i];
        char number[24];
        const char *part = number;
        size_t at = length, n;
        if (++u->visits > 4 * u->size)
            return saei_pickle_fail(u, "it holds the same over and over");
        if (key && key->type == SAEI_PICKLE_TEXT) part = (const char *)key->data;
        else snprintf(number, sizeof number, "%lld", key ? (long long)key->integer : (long long)i);
        n = strlen(part);
        if (n + 1 > SAEI_PICKLE_NAME - length)
            return saei_pickle_fail(u, "a name of more than 1000 characters");
        if (depth > 0) u->name[at++] = '.';
        memcpy(u->name + at, part, n);
        SAEI_TRY(saei_pickle_flatten(u, item, at + n, depth + 1));
    }
    return SAE_OK;
}

/* The archive's own rules, checked before the pickle is read. */
static sae_result saei_torch_check(sae_tensor_file *file, saei_zip *zip, const char *top) {
    const struct {
        const char *name;
        bool required;
    } parts[2] = { { "version", true }, { "byteorder", false } };
    size_t n = strlen(top);
    char quoted[SAEI_QUOTE], name[SAEI_QUOTE + 16], text[16];
    for (size_t i = 0; i < zip->count; i++) {
        const char *rest = zip->entries[i].name + n;
        if (strncmp(zip->entries[i].name, top, n) != 0)
            return saei_damaged(file, "entry \"%s\" of the archive lies outside its folder %s",
                                saei_quote(zip->entries[i].name, quoted), top);
        if (strcmp(rest, "constants.pkl") == 0 || strncmp(rest, "code/", 5) == 0)
            return saei_unsupported(file, "a TorchScript archive; a state_dict saved with "
                                          "torch.save is expected");
    }
    for (int i = 0; i < 2; i++) {
        saei_zip_entry *e;
        snprintf(name, sizeof name, "%s%s", top, parts[i].name);
        e = (saei_zip_entry *)(uintptr_t)saei_name_find(zip->by_name, zip->count, name);
        if (!e && !parts[i].required) continue;
        if (!e) return saei_damaged(file, "the archive has no entry %s", name);
        SAEI_TRY(saei_zip_plain(file, e, true));
        SAEI_TRY(saei_zip_check(file, e));
        memcpy(text, e->data, saei_min(e->size, 15));
        text[saei_min(e->size, 15)] = 0;
        text[strcspn(text, "\r\n")] = 0;
        saei_quote(text, quoted);
        if (i == 0 && (strspn(text, "0123456789") != strlen(text) || strlen(text) > 3
                       || strtol(text, NULL, 10) < 1 || strtol(text, NULL, 10) > 10))
            return saei_unsupported(file, "torch archive version %s, known are 1 to 10", quoted);
        if (i == 1 && strcmp(text, "little") != 0)
            return saei_unsupported(file, "byteorder is %s, known is little", quoted);
    }
    return SAE_OK;
}

/* The folder of a first-level data.pkl with its slash, into out; false if there is none. */
static bool saei_torch_top(const saei_zip *zip, char out[SAEI_QUOTE]) {
    for (size_t i = 0; i < zip->count; i++) {
        const char *slash = strchr(zip->entries[i].name, '/');
        size_t n = slash ? (size_t)(slash - zip->entries[i].name) + 1 : 0;
        if (!slash || strcmp(slash, "/data.pkl") != 0 || n >= SAEI_QUOTE) continue;
        memcpy(out, zip->entries[i].name, n);
        out[n] = 0;
        return true;
    }
    return false;
}

static sae_result saei_torch_unpickle(saei_pickle *u) {
    saei_pickle_value *top = NULL;
    u->stack_size = u->size;
    u->memo_size = u->size;
    u->stack = (saei_pickle_value **)saei_arena_alloc(&u->arena, u->size + 1, sizeof *u->stack);
    u->memo = (saei_pickle_value **)saei_arena_alloc(&u->arena, u->size + 1, sizeof *u->memo);
    if (!u->stack || !u->memo) return saei_pickle_no_memory(u);
    memset(u->memo, 0, u->size * sizeof *u->memo);
    SAEI_TRY(saei_pickle_run(u, &top));
    if (top->type != SAEI_PICKLE_DICT && top->type != SAEI_PICKLE_TENSOR)
        return saei_pickle_fail(u, "it holds neither a dict of tensors nor a tensor");
    return saei_pickle_flatten(u, top, 0, 0);
}

static sae_result saei_torch_read(sae_tensor_file *file, saei_zip *zip, const char *top) {
    char name[SAEI_QUOTE + 16];
    saei_zip_entry *e;
    saei_pickle *u;
    sae_result result;
    SAEI_TRY(saei_torch_check(file, zip, top));
    snprintf(name, sizeof name, "%sdata.pkl", top);
    e = (saei_zip_entry *)(uintptr_t)saei_name_find(zip->by_name, zip->count, name);
    if (e->size > SAEI_PICKLE_SIZE)
        return saei_unsupported(file, "data.pkl has %zu bytes, at most %d are read", e->size,
                                SAEI_PICKLE_SIZE);
    SAEI_TRY(saei_zip_plain(file, e, true));
    SAEI_TRY(saei_zip_check(file, e));
    u = (saei_pickle *)saei_arena_alloc(&file->arena, 1, sizeof *u);
    if (!u) return saei_file_no_memory(file);
    memset(u, 0, sizeof *u);
    u->file = file;
    u->zip = zip;
    u->top = top;
    u->at = e->data;
    u->end = e->data + e->size;
    u->size = e->size;
    u->arena.ctx = file->ctx;
    result = saei_torch_unpickle(u);
    saei_arena_free(&u->arena);
    return result;
}

/* ---- writing ---- */

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

static sae_result saei_torch_fill(saei_zip_writer *z, const saei_content *c) {
    const sae_context *ctx = z->out->ctx;
    const char *base = saei_path_base(c->name);
    size_t stem = saei_stem_size(base);
    saei_text p, name;
    bool failed;
    for (size_t i = 0; i < c->count; i++)
        if (!saei_dtypes[c->tensors[i].dtype].storage)
            return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: %s: .pt files have no %s", z->out->who,
                             c->name, sae_dtype_name(c->tensors[i].dtype));
    if (!saei_is_text(base, stem) || stem > 60000)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: the name of a .pt file must be UTF-8",
                         z->out->who, c->name);
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    name = p;
    saei_torch_pickle(&p, c->tensors, c->count);
    for (size_t i = 0; i < c->count + 3; i++) {
        name.size = 0;
        saei_text_put(&name, base, stem);
        if (i == 0) saei_text_add(&name, "/data.pkl");
        else if (i == 1) saei_text_add(&name, "/byteorder");
        else if (i == c->count + 2) saei_text_add(&name, "/version");
        else saei_text_add(&name, "/data/%zu", i - 2);
        if (name.failed || p.failed) break;
        if (i == 0) saei_zip_put(z, name.data, p.data, p.size, "", 0);
        else if (i == 1) saei_zip_put(z, name.data, "little", 6, "", 0);
        else if (i == c->count + 2) saei_zip_put(z, name.data, "3\n", 2, "", 0);
        else
            saei_zip_put(z, name.data, c->tensors[i - 2].data,
                         saei_tensor_bytes(c->tensors + (i - 2)), "", 0);
    }
    failed = p.failed || name.failed;
    saei_free(ctx, p.data);
    saei_free(ctx, name.data);
    return failed ? saei_content_no_memory(z->out, c) : SAE_OK;
}

static sae_result saei_torch_write(saei_writer *w, const saei_content *c) {
    return saei_zip_write(w, c, saei_torch_fill);
}
