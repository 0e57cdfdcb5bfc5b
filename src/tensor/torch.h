#pragma once
#include "../base/math.h"
#include "pickle.h"

/* ==== >>tensors: reading .pt, names and archive =============================================== */

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

/* The archive's own rules, before anything of the pickle is looked at. */
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
