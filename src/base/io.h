#pragma once
#include "files.h"

/* ==== >>io: reading and writing through sae_io ================================================ */
/* who, here and below: the function named in messages. */

/* The bytes of a whole file: where sae_io maps, the map, else a copy. With neither file nor owned
   they are the caller's. */
typedef struct saei_map {
    const unsigned char *data;
    size_t size;
    void *file;  /* open as long as the map */
    void *owned; /* the copy */
} saei_map;

static void saei_map_close(const sae_context *ctx, saei_map *map) {
    if (map->file) ctx->io.close(map->file, ctx->io.user);
    saei_free(ctx, map->owned);
    memset(map, 0, sizeof *map);
}

/* The bytes of an open file into *map. */
static sae_result saei_map_fill(const sae_context *ctx, const char *who, const char *path,
                                saei_map *map) {
    const void *data = NULL;
    uint64_t size = 0;
    sae_result result = ctx->io.size(map->file, &size, ctx->io.user);
    if (result == SAE_OK && size > SIZE_MAX / 2)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: %s has %llu bytes, more than this "
                         "machine can address", who, path, (unsigned long long)size);
    if (result == SAE_OK && ctx->io.map) {
        result = ctx->io.map(map->file, &data, ctx->io.user);
    } else if (result == SAE_OK) {
        data = map->owned = saei_alloc(ctx, (size_t)size + 1, 1);
        if (!data)
            return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to read the %llu bytes of "
                             "%s", who, (unsigned long long)size, path);
        if (size) result = ctx->io.read(map->file, 0, map->owned, (size_t)size, ctx->io.user);
    }
    if (result != SAE_OK)
        return saei_fail(ctx, result, "%s: cannot read %s: %s", who, path,
                         saei_files_cause(ctx, result));
    map->data = (const unsigned char *)data;
    map->size = (size_t)size;
    return SAE_OK;
}

static sae_result saei_no_files(const sae_context *ctx, const char *who, const char *path) {
    return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: cannot open %s: this is a build with "
                     "SAE_NO_STDIO, and sae_context_desc.io has no open", who, path);
}

static sae_result saei_map_open(const sae_context *ctx, const char *who, const char *path,
                                saei_map *out) {
    saei_map map;
    sae_result result;
    memset(&map, 0, sizeof map);
    if (!ctx->io.open) return saei_no_files(ctx, who, path);
    result = ctx->io.open(path, false, &map.file, ctx->io.user);
    if (result == SAE_ERR_UNSUPPORTED)
        return saei_fail(ctx, SAE_ERR_IO, "%s: %s is a folder, not a file", who, path);
    if (result != SAE_OK)
        return saei_fail(ctx, result, "%s: cannot open %s: %s", who, path,
                         saei_files_cause(ctx, result));
    result = saei_map_fill(ctx, who, path, &map);
    if (result == SAE_OK) {
        if (!ctx->io.map) { /* what was copied needs no open file */
            ctx->io.close(map.file, ctx->io.user);
            map.file = NULL;
        }
        *out = map;
    } else {
        saei_map_close(ctx, &map);
    }
    return result;
}

/* The caller is done with [data, size] of the map for now: its memory may go elsewhere. */
static void saei_map_release(const sae_context *ctx, const saei_map *map, const void *data,
                             size_t size) {
    if (map->file) saei_files_release(&ctx->io, map->data, map->size, data, size);
}

typedef enum saei_path_kind { SAEI_PATH_NONE, SAEI_PATH_FILE, SAEI_PATH_FOLDER } saei_path_kind;

/* FOLDER only where sae_io knows of folders. Errors: what keeps a file from being opened. */
static sae_result saei_path_find(const sae_context *ctx, const char *who, const char *path,
                                 saei_path_kind *out) {
    void *file = NULL;
    sae_result result;
    if (!ctx->io.open) return saei_no_files(ctx, who, path);
    result = ctx->io.open(path, false, &file, ctx->io.user);
    if (result == SAE_OK) ctx->io.close(file, ctx->io.user);
    if (result != SAE_OK && result != SAE_ERR_NOT_FOUND && result != SAE_ERR_UNSUPPORTED)
        return saei_fail(ctx, result, "%s: cannot open %s: %s", who, path,
                         saei_files_cause(ctx, result));
    *out = result == SAE_OK              ? SAEI_PATH_FILE
           : result == SAE_ERR_NOT_FOUND ? SAEI_PATH_NONE
                                         : SAEI_PATH_FOLDER;
    return SAE_OK;
}

/* The names in a folder, sorted as people count: "a.2" before "a.10". Without those that begin with
   a point. text: their bytes; both in fresh memory. */
typedef struct saei_names {
    const void **names;
    size_t count;
    saei_text text;
} saei_names;

static bool saei_name_before(const void *a, const void *b) {
    const char *p = (const char *)a, *q = (const char *)b;
    for (; *p && *q; p++, q++) {
        if (*p >= '0' && *p <= '9' && *q >= '0' && *q <= '9') {
            size_t m, n;
            int order;
            while (*p == '0') p++;
            while (*q == '0') q++;
            m = strspn(p, "0123456789");
            n = strspn(q, "0123456789");
            order = m == n ? memcmp(p, q, n) : m < n ? -1 : 1;
            if (order) return order < 0;
            p += m;
            q += n;
            if (!*p || !*q) break;
        }
        if (*p != *q) return (unsigned char)*p < (unsigned char)*q;
    }
    return !*p && *q;
}

static void saei_names_add(const char *name, void *arg) {
    saei_names *all = (saei_names *)arg;
    if (*name == '.' || !saei_is_text(name, strlen(name))) return;
    saei_text_put(&all->text, name, strlen(name) + 1);
    all->count++;
}

static void saei_names_free(const sae_context *ctx, saei_names *all) {
    saei_free(ctx, all->names);
    saei_free(ctx, all->text.data);
    memset(all, 0, sizeof *all);
}

/* None where nobody can say. */
static sae_result saei_names_of(const sae_context *ctx, const char *who, const char *path,
                                saei_names *all) {
    sae_result result;
    const char *at;
    memset(all, 0, sizeof *all);
    all->text.ctx = ctx;
    if (!ctx->io.list) return SAE_OK;
    result = ctx->io.list(path, saei_names_add, all, ctx->io.user);
    if (result != SAE_OK)
        saei_fail(ctx, result, "%s: cannot list %s: %s", who, path, saei_files_cause(ctx, result));
    all->names = (const void **)saei_alloc(ctx, all->count, sizeof *all->names);
    if (result == SAE_OK && (all->text.failed || !all->names))
        result = saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the names in %s", who,
                           path);
    if (result != SAE_OK) {
        saei_names_free(ctx, all);
        return result;
    }
    at = all->text.data;
    for (size_t i = 0; i < all->count; i++, at += strlen(at) + 1) all->names[i] = at;
    saei_sort(all->names, all->count, saei_name_before);
    return SAE_OK;
}

#if !defined(SAE_NO_TRAIN) || !defined(SAE_NO_FORMATS)
/* With its parents, where folders must be made at all. */
static sae_result saei_make_folder(const sae_context *ctx, const char *who, const char *path) {
    sae_result result = SAE_OK;
    if (ctx->io.make_folder) result = ctx->io.make_folder(path, ctx->io.user);
    if (result == SAE_OK) return SAE_OK;
    return saei_fail(ctx, result, "%s: cannot make the folder %s: %s", who, path,
                     saei_files_cause(ctx, result));
}
#endif

/* ---- writing ---- */

/* Into PATH.tmp, synced, then renamed to PATH; or into memory. One of finish (commit) or abandon
   ends it. A PATH.tmp that is there is taken for that of a program that was killed and replaced,
   never written into. Of two that write one PATH at a time one fails, where sae_io's open or
   close finds out: the earlier on POSIX, the later on Windows. */
typedef struct saei_writer {
    const sae_context *ctx;
    const char *who; /* as given */
    char *path, *temporary;
    void *file;
    saei_text *memory; /* in the place of a file; fails by itself */
    char *held;      /* small pieces on their way to the file */
    size_t num_held;
    uint64_t size;   /* put so far */
    sae_result result; /* the first failure; the message names path and cause, as a full disk */
} saei_writer;

enum { SAEI_WRITER_HELD = 65536 };

static void saei_writer_free(saei_writer *w) {
    saei_free(w->ctx, w->path);
    saei_free(w->ctx, w->temporary);
    saei_free(w->ctx, w->held);
    memset(w, 0, sizeof *w);
}

static sae_result saei_writer_open(const sae_context *ctx, const char *who, const char *path,
                                   saei_writer *out) {
    saei_writer w;
    sae_result result;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.who = who;
    if (!ctx->io.write)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: cannot write %s: sae_context_desc.io has "
                         "no write", who, path);
    w.path = saei_strdup(ctx, path);
    w.temporary = saei_concat(ctx, path, ".tmp");
    w.held = (char *)saei_alloc(ctx, SAEI_WRITER_HELD, 1);
    if (!w.path || !w.temporary || !w.held) {
        saei_writer_free(&w);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", who, path);
    }
    result = ctx->io.open(w.temporary, true, &w.file, ctx->io.user);
    if (result == SAE_ERR_NOT_FOUND)
        saei_fail(ctx, result, "%s: cannot write %s: there is no such folder", who, path);
    else if (result != SAE_OK)
        saei_fail(ctx, result, "%s: cannot write %s: %s", who, w.temporary,
                  saei_files_cause(ctx, result));
    if (result == SAE_OK) *out = w;
    else saei_writer_free(&w);
    return result;
}

static void saei_writer_open_memory(const sae_context *ctx, const char *who, saei_text *memory,
                                    saei_writer *out) {
    memset(out, 0, sizeof *out);
    out->ctx = ctx;
    out->who = who;
    out->memory = memory;
}

static void saei_writer_note(saei_writer *w, sae_result result) {
    if (result == SAE_OK || w->result != SAE_OK) return;
    w->result = result;
    if (result == SAE_ERR_MISMATCH) w->result = SAE_ERR_IO;
    saei_fail(w->ctx, w->result, "%s: cannot write %s: %s", w->who, w->path,
              result == SAE_ERR_MISMATCH ? "another program began to write it too"
                                         : saei_files_cause(w->ctx, result));
}

static void saei_writer_flush(saei_writer *w) {
    if (w->result == SAE_OK && w->num_held)
        saei_writer_note(w, w->ctx->io.write(w->file, w->held, w->num_held, w->ctx->io.user));
    w->num_held = 0;
}

static void saei_writer_put(saei_writer *w, const void *data, size_t size) {
    if (w->result != SAE_OK || !size) return;
    w->size += size;
    if (w->memory) {
        saei_text_put(w->memory, data, size);
        return;
    }
    if (size > SAEI_WRITER_HELD - w->num_held) saei_writer_flush(w);
    if (size < SAEI_WRITER_HELD) {
        memcpy(w->held + w->num_held, data, size);
        w->num_held += size;
    } else if (w->result == SAE_OK) {
        saei_writer_note(w, w->ctx->io.write(w->file, data, size, w->ctx->io.user));
    }
}

/* Nothing is left of what was written. */
static void saei_writer_abandon(saei_writer *w) {
    const sae_io *io = &w->ctx->io;
    if (w->file && io->close(w->file, io->user) != SAE_ERR_MISMATCH)
        io->remove(w->temporary, io->user);
    saei_writer_free(w);
}

/* Fails if any put did, too; nothing is left of it then. */
static sae_result saei_writer_finish(saei_writer *w) {
    const sae_io *io = &w->ctx->io;
    sae_result result, closed;
    if (w->memory) {
        if (!w->memory->failed) return SAE_OK;
        return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the file", w->who);
    }
    saei_writer_flush(w);
    if (w->result == SAE_OK && io->sync) saei_writer_note(w, io->sync(w->file, io->user));
    closed = io->close(w->file, io->user);
    w->file = NULL;
    saei_writer_note(w, closed);
    if (w->result == SAE_OK)
        saei_writer_note(w, io->rename(w->temporary, w->path, io->user));
    if (w->result != SAE_OK && closed != SAE_ERR_MISMATCH) io->remove(w->temporary, io->user);
    result = w->result;
    saei_writer_free(w);
    return result;
}

#if !defined(SAE_NO_TRAIN) || !defined(SAE_NO_FORMATS)
/* The text into folder/name; it is freed. */
static sae_result saei_text_write(saei_text *t, const char *who, const char *folder,
                                  const char *name) {
    char *path = t->failed ? NULL : saei_path_join(t->ctx, folder, name);
    saei_writer writer;
    sae_result result = SAE_ERR_OUT_OF_MEMORY;
    if (path) result = saei_writer_open(t->ctx, who, path, &writer);
    else saei_fail(t->ctx, result, "%s: no memory for %s/%s", who, folder, name);
    if (result == SAE_OK) {
        saei_writer_put(&writer, t->data, t->size);
        result = saei_writer_finish(&writer);
    }
    saei_free(t->ctx, path);
    saei_free(t->ctx, t->data);
    return result;
}
#endif
