#pragma once
#include "text.h"

/* ==== >>io: paths, maps, writing ============================================================== */

/* A whole file, mapped (or read, where there is no mmap). */
typedef struct saei_map {
    const unsigned char *data;
    size_t size;
    void *handle;
} saei_map;
/* who, here and below: the function named in messages. */
typedef enum saei_path_kind { SAEI_PATH_NONE, SAEI_PATH_FILE, SAEI_PATH_FOLDER } saei_path_kind;

static saei_path_kind saei_path_exists(const char *path) {
#if defined(_WIN32)
    DWORD attributes = GetFileAttributesA(path);
    if (attributes == INVALID_FILE_ATTRIBUTES) return SAEI_PATH_NONE;
    return attributes & FILE_ATTRIBUTE_DIRECTORY ? SAEI_PATH_FOLDER : SAEI_PATH_FILE;
#else
    struct stat st;
    if (stat(path, &st) != 0) return SAEI_PATH_NONE;
    return S_ISDIR(st.st_mode) ? SAEI_PATH_FOLDER : SAEI_PATH_FILE;
#endif
}

static bool saei_is_separator(char c) {
#if defined(_WIN32)
    if (c == '\\') return true;
#endif
    return c == '/';
}

/* Behind the last separator. */
static const char *saei_path_base(const char *path) {
    const char *base = path;
    for (const char *c = path; *c; c++)
        if (saei_is_separator(*c)) base = c + 1;
    return base;
}

static bool saei_ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), e = strlen(ending);
    return n >= e && strcmp(text + n - e, ending) == 0;
}

/* a and b in one fresh string (saei_free), NULL if there is no memory. */
static char *saei_concat(const sae_context *ctx, const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    char *out = (char *)saei_alloc(ctx, na + nb + 1, 1);
    if (!out) return NULL;
    memcpy(out, a, na);
    memcpy(out + na, b, nb + 1);
    return out;
}

/* "folder/name" in fresh memory (saei_free), NULL if there is none. */
static char *saei_path_join(const sae_context *ctx, const char *folder, const char *name) {
    size_t n = strlen(folder);
    bool slash = n > 0 && !saei_is_separator(folder[n - 1]);
    char *parent = saei_concat(ctx, folder, slash ? "/" : "");
    char *out = parent ? saei_concat(ctx, parent, name) : NULL;
    saei_free(ctx, parent);
    return out;
}

/* With its parents. who, here and below: the function named in messages. */
static sae_result saei_make_folder(const sae_context *ctx, const char *who, const char *path) {
    char *part = saei_concat(ctx, path, "");
    sae_result result = SAE_OK;
    if (!part)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the path %s", who, path);
    for (size_t i = 1, n = strlen(path); i <= n && n && result == SAE_OK; i++) {
        int failed;
        if (i < n && !saei_is_separator(part[i])) continue;
        part[i] = 0;
        if (saei_path_exists(part) != SAEI_PATH_FOLDER) {
#if defined(_WIN32)
            failed = _mkdir(part);
#else
            failed = mkdir(part, 0777);
#endif
            const int why = errno; /* saei_path_exists sets its own */
            if (failed && saei_path_exists(part) != SAEI_PATH_FOLDER)
                result = saei_fail(ctx, SAE_ERR_IO, "%s: cannot make the folder %s: %s", who, part,
                                   strerror(why));
        }
        if (i < n) part[i] = path[i];
    }
    saei_free(ctx, part);
    return result;
}

#if defined(_WIN32)
static sae_result saei_map_open(const sae_context *ctx, const char *who, const char *path,
                                saei_map *out) {
    FILE *f;
    long long size;
    unsigned char *data = NULL;
    bool whole;
    if (saei_path_exists(path) == SAEI_PATH_FOLDER)
        return saei_fail(ctx, SAE_ERR_IO, "%s: %s is a folder, not a file", who, path);
    f = fopen(path, "rb");
    if (!f)
        return saei_fail(ctx, errno == ENOENT ? SAE_ERR_NOT_FOUND : SAE_ERR_IO,
                         "%s: cannot open %s: %s", who, path, strerror(errno));
    size = _fseeki64(f, 0, SEEK_END) == 0 ? _ftelli64(f) : -1;
    if (size < 0 || (unsigned long long)size > SIZE_MAX - 1 || _fseeki64(f, 0, SEEK_SET) != 0) {
        fclose(f);
        return saei_fail(ctx, SAE_ERR_IO, "%s: cannot read %s: its size is not told", who, path);
    }
    data = (unsigned char *)saei_alloc(ctx, (size_t)size + 1, 1);
    whole = data && fread(data, 1, (size_t)size, f) == (size_t)size;
    fclose(f);
    if (!whole) {
        saei_free(ctx, data);
        if (!data)
            return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                             "%s: no memory to read the %lld bytes of %s", who, size, path);
        return saei_fail(ctx, SAE_ERR_IO, "%s: cannot read the %lld bytes of %s", who, size, path);
    }
    out->data = data;
    out->size = (size_t)size;
    out->handle = data;
    return SAE_OK;
}

static void saei_map_close(const sae_context *ctx, saei_map *map) {
    saei_free(ctx, map->handle);
    memset(map, 0, sizeof *map);
}
#else
static sae_result saei_map_open(const sae_context *ctx, const char *who, const char *path,
                                saei_map *out) {
    struct stat st;
    void *data = NULL;
    int fd = open(path, O_RDONLY | O_NONBLOCK | SAEI_CLOEXEC); /* a FIFO may not keep us waiting */
    if (fd < 0)
        return saei_fail(ctx, errno == ENOENT || errno == ENOTDIR ? SAE_ERR_NOT_FOUND : SAE_ERR_IO,
                         "%s: cannot open %s: %s", who, path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uintmax_t)st.st_size > SIZE_MAX) {
        close(fd);
        return saei_fail(ctx, SAE_ERR_IO, "%s: %s is %s", who, path,
                         saei_path_exists(path) == SAEI_PATH_FOLDER ? "a folder, not a file"
                                                                    : "not a regular file");
    }
    if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            int cause = errno;
            close(fd);
            return saei_fail(ctx, cause == ENOMEM ? SAE_ERR_OUT_OF_MEMORY : SAE_ERR_IO,
                             "%s: cannot map %s: %s", who, path, strerror(cause));
        }
    }
    close(fd);
    out->data = (const unsigned char *)data;
    out->size = (size_t)st.st_size;
    out->handle = data;
    return SAE_OK;
}

static void saei_map_close(const sae_context *ctx, saei_map *map) {
    (void)ctx;
    if (map->handle) munmap(map->handle, map->size);
    memset(map, 0, sizeof *map);
}
static char *saei_path_join(const sae_context *ctx, const char *folder, const char *name);

/* Writing: into PATH.tmp, synced, then renamed to PATH. One of finish (commit) or abandon. A
   PATH.tmp that is there is taken for a killed write's and removed, never written into: what it
   links to stays. Of two that write one PATH at a time the later wins and the other is told, where
   the system numbers its files; elsewhere they are the caller's to avoid. */
typedef struct saei_writer {
    const sae_context *ctx;
    const char *who; /* as given */
    char *path, *temporary;
    FILE *file;
    uint64_t number[2]; /* the temporary's own, of device and file; 0, 0 where there are none */
    uint64_t size;   /* written so far */
    bool failed;     /* sticky; the message names path and cause (for example a full disk) */
} saei_writer;
#endif

/* The numbers that tell the file apart from any other; 0, 0 if there is none. */
static void saei_file_number(const char *path, uint64_t number[2]) {
    number[0] = number[1] = 0;
#if !defined(_WIN32)
    struct stat st;
    if (stat(path, &st) != 0) return;
    number[0] = (uint64_t)st.st_dev;
    number[1] = (uint64_t)st.st_ino;
#else
    (void)path;
#endif
}

/* Whether the temporary is still the one that was opened. */
static bool saei_writer_owns(const saei_writer *w) {
    uint64_t now[2];
    saei_file_number(w->temporary, now);
    return now[0] == w->number[0] && now[1] == w->number[1];
}

static sae_result saei_writer_open(const sae_context *ctx, const char *who, const char *path,
                                   saei_writer *out) {
    saei_writer w;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.who = who;
    w.path = saei_concat(ctx, path, "");
    w.temporary = saei_concat(ctx, path, ".tmp");
    if (!w.path || !w.temporary) {
        saei_free(ctx, w.path);
        saei_free(ctx, w.temporary);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", who, path);
    }
    if (saei_path_exists(w.temporary) == SAEI_PATH_FILE) remove(w.temporary);
#if defined(_WIN32)
    w.file = fopen(w.temporary, "wb");
#else
    w.file = fopen(w.temporary, "wbx"); /* x: fails where there is one */
#endif
    if (!w.file) {
        bool folder = errno != ENOENT;
        sae_result result = folder ? SAE_ERR_IO : SAE_ERR_NOT_FOUND;
        saei_fail(ctx, result, "%s: cannot write %s: %s", who, folder ? w.temporary : path,
                  folder ? strerror(errno) : "there is no such folder");
        saei_free(ctx, w.path);
        saei_free(ctx, w.temporary);
        return result;
    }
    saei_file_number(w.temporary, w.number);
    *out = w;
    return SAE_OK;
}

static void saei_writer_fail(saei_writer *w) {
    if (!w->failed)
        saei_fail(w->ctx, SAE_ERR_IO, "%s: cannot write %s: %s", w->who, w->path, strerror(errno));
    w->failed = true;
}

static void saei_writer_put(saei_writer *w, const void *data, size_t size) {
    if (w->failed || !size) return;
    if (fwrite(data, 1, size, w->file) != size) saei_writer_fail(w);
    w->size += size;
}

static void saei_writer_abandon(saei_writer *w) {
    bool mine = w->temporary && saei_writer_owns(w);
    if (w->file) fclose(w->file);
    if (mine) remove(w->temporary);
    saei_free(w->ctx, w->path);
    saei_free(w->ctx, w->temporary);
    memset(w, 0, sizeof *w);
}

/* Brings a file's or a folder's content to the disk. */
static bool saei_sync(const char *path, bool folder) {
#if defined(_WIN32)
    (void)path;
    (void)folder;
    return true;
#else
    int fd = open(path, (folder ? O_RDONLY : O_WRONLY) | SAEI_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    int cause = errno;
    if (fd >= 0) close(fd);
    errno = cause;
    return good;
#endif
}

/* The temporary is gone if it fails. */
static sae_result saei_writer_finish(saei_writer *w) {
    char *end;
    if (!w->failed && fflush(w->file) != 0) saei_writer_fail(w);
#if defined(_WIN32)
    if (!w->failed && _commit(_fileno(w->file)) != 0) saei_writer_fail(w);
#endif
    if (!w->failed && !saei_writer_owns(w)) {
        saei_fail(w->ctx, SAE_ERR_IO, "%s: cannot write %s: another program began to write it too",
                  w->who, w->path);
        w->failed = true;
    }
    if (fclose(w->file) != 0) saei_writer_fail(w);
    w->file = NULL;
    if (!w->failed && !saei_sync(w->temporary, false)) saei_writer_fail(w);
    if (w->failed) {
        saei_writer_abandon(w);
        return SAE_ERR_IO;
    }
#if defined(_WIN32)
    if (!MoveFileExA(w->temporary, w->path, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
        errno = EACCES, saei_writer_fail(w);
#else
    if (rename(w->temporary, w->path) != 0) saei_writer_fail(w);
#endif
    if (w->failed) {
        saei_writer_abandon(w);
        return SAE_ERR_IO;
    }
    end = w->path + (saei_path_base(w->path) - w->path);
    if (end == w->path) {
        saei_sync(".", true);
    } else {
        *end = 0; /* where a folder cannot be synced, the rename is as safe as it gets */
        saei_sync(w->path, true);
    }
    saei_free(w->ctx, w->path);
    saei_free(w->ctx, w->temporary);
    memset(w, 0, sizeof *w);
    return SAE_OK;
}

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

/* Gives mapped memory [data, size] back; it is read from the file again where it is touched. Whole
   pages inside it only. Memory that is not a mapping (no handle) stays, and so does all where the
   system has no such call, and a file of up to 64 MB: every release stops the other threads. */
static void saei_map_release(const saei_map *map, const void *data, size_t size) {
#if defined(MADV_DONTNEED) && defined(_SC_PAGESIZE)
    long page = sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)data, end = begin + size, low = (uintptr_t)map->data;
    if (page <= 0 || !map->handle || begin < low || end > low + map->size || end < begin
        || map->size <= (size_t)64 << 20)
        return;
    begin = (begin + (uintptr_t)page - 1) / (uintptr_t)page * (uintptr_t)page;
    end = end / (uintptr_t)page * (uintptr_t)page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
#else
    (void)map;
    (void)data;
    (void)size;
#endif
}
