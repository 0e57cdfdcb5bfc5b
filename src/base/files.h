#pragma once
#include "path.h"

/* ==== >>io: the system's files ================================================================ */
/* sae_io for the files of the system, which a context has unless it is given another. user is the
   context, for its allocator. Failing calls leave the cause in errno, on Windows too. */

#if defined(SAE_NO_STDIO)
static void saei_files_use(sae_context *ctx) { (void)ctx; }
static const char *saei_files_cause(const sae_context *ctx, sae_result result) {
    (void)ctx;
    return sae_result_name(result);
}
static void saei_files_release(const sae_io *io, const void *all, size_t all_size, const void *data,
                               size_t size) {
    (void)io;
    (void)all;
    (void)all_size;
    (void)data;
    (void)size;
}
#else

/* An open file. number tells one that is written from any other: of device and file; 0, 0 where
   the system has no such numbers. */
typedef struct saei_file {
#if defined(_WIN32)
    HANDLE handle;
    wchar_t *path; /* of a file that is written */
#else
    int handle;
    char *path;
#endif
    const void *data; /* once it is mapped */
    uint64_t size;
    uint64_t number[2];
} saei_file;

enum { SAEI_FILE_PIECE = 1 << 30 }; /* bytes at most in one call to the system */

static sae_result saei_files_result(void) {
    return errno == ENOENT || errno == ENOTDIR ? SAE_ERR_NOT_FOUND
           : errno == ENOMEM                   ? SAE_ERR_OUT_OF_MEMORY
                                               : SAE_ERR_IO;
}

#if defined(_WIN32)
/* ---- Windows: paths are UTF-8 here and UTF-16 there ---- */

static sae_result saei_files_fail(void) {
    switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_BAD_NETPATH: errno = ENOENT; break;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_USER_MAPPED_FILE: errno = EACCES; break;
    case ERROR_ALREADY_EXISTS:
    case ERROR_FILE_EXISTS: errno = EEXIST; break;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL: errno = ENOSPC; break;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_COMMITMENT_LIMIT: errno = ENOMEM; break;
    default: errno = EIO; break;
    }
    return saei_files_result();
}

/* In fresh memory (saei_free); NULL, and errno set, where there is none or path is not UTF-8. */
static wchar_t *saei_files_wide(const sae_context *ctx, const char *path) {
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *wide = n > 0 ? (wchar_t *)saei_alloc(ctx, (size_t)n, sizeof *wide) : NULL;
    errno = n > 0 ? ENOMEM : EINVAL;
    if (wide) MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, n);
    return wide;
}

static void saei_files_number(HANDLE handle, uint64_t number[2]) {
    BY_HANDLE_FILE_INFORMATION info;
    number[0] = number[1] = 0;
    if (!GetFileInformationByHandle(handle, &info)) return;
    number[0] = info.dwVolumeSerialNumber;
    number[1] = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
}

/* Whether the name of a file that is written still leads to it. */
static bool saei_files_owns(const saei_file *f) {
    uint64_t now[2] = { 0, 0 };
    HANDLE there = CreateFileW(f->path, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                               NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (there == INVALID_HANDLE_VALUE) return false;
    saei_files_number(there, now);
    CloseHandle(there);
    return now[0] == f->number[0] && now[1] == f->number[1];
}

static sae_result saei_files_open_read(saei_file *f, wchar_t *wide) {
    LARGE_INTEGER size;
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY)
        return SAE_ERR_UNSUPPORTED;
    f->handle = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL,
                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (f->handle == INVALID_HANDLE_VALUE) return saei_files_fail();
    if (GetFileType(f->handle) == FILE_TYPE_DISK && GetFileSizeEx(f->handle, &size)) {
        f->size = (uint64_t)size.QuadPart;
        return SAE_OK;
    }
    CloseHandle(f->handle);
    errno = ESPIPE;
    return SAE_ERR_IO;
}

static sae_result saei_files_open_write(saei_file *f, wchar_t *wide) {
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && !(attributes & FILE_ATTRIBUTE_DIRECTORY))
        DeleteFileW(wide);
    f->handle = CreateFileW(wide, GENERIC_WRITE, FILE_SHARE_READ, NULL, CREATE_NEW,
                            FILE_ATTRIBUTE_NORMAL, NULL); /* of two, the first goes on writing */
    if (f->handle == INVALID_HANDLE_VALUE) return saei_files_fail();
    saei_files_number(f->handle, f->number);
    return SAE_OK;
}

static sae_result saei_files_open(const char *path, bool write, void **out, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    wchar_t *wide = saei_files_wide(ctx, path);
    saei_file *f = wide ? (saei_file *)saei_calloc(ctx, 1, sizeof *f) : NULL;
    sae_result result = f ? SAE_OK : saei_files_result();
    if (f) result = write ? saei_files_open_write(f, wide) : saei_files_open_read(f, wide);
    if (result == SAE_OK && write) f->path = wide;
    else saei_free(ctx, wide);
    if (result == SAE_OK) *out = f;
    else saei_free(ctx, f);
    return result;
}

static sae_result saei_files_map(void *file, const void **data, void *user) {
    saei_file *f = (saei_file *)file;
    HANDLE mapping;
    (void)user;
    if (f->size) {
        mapping = CreateFileMappingW(f->handle, NULL, PAGE_READONLY, 0, 0, NULL);
        if (!mapping) return saei_files_fail();
        f->data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
        CloseHandle(mapping); /* the view keeps it */
        if (!f->data) return saei_files_fail();
    }
    CloseHandle(f->handle); /* it too: many files may be mapped at a time */
    f->handle = NULL;
    *data = f->data;
    return SAE_OK;
}

static sae_result saei_files_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    unsigned char *at = (unsigned char *)out;
    (void)user;
    while (size) {
        DWORD n = (DWORD)saei_min(size, SAEI_FILE_PIECE), got = 0;
        OVERLAPPED where;
        memset(&where, 0, sizeof where);
        where.Offset = (DWORD)(offset & 0xFFFFFFFFu);
        where.OffsetHigh = (DWORD)(offset >> 32);
        if (!ReadFile(((saei_file *)file)->handle, at, n, &got, &where) || !got)
            return saei_files_fail();
        at += got;
        offset += got;
        size -= got;
    }
    return SAE_OK;
}

static sae_result saei_files_write(void *file, const void *data, size_t size, void *user) {
    const unsigned char *at = (const unsigned char *)data;
    (void)user;
    while (size) {
        DWORD n = (DWORD)saei_min(size, SAEI_FILE_PIECE), done = 0;
        if (!WriteFile(((saei_file *)file)->handle, at, n, &done, NULL) || !done)
            return saei_files_fail();
        at += done;
        size -= done;
    }
    return SAE_OK;
}

static sae_result saei_files_sync(void *file, void *user) {
    (void)user;
    return FlushFileBuffers(((saei_file *)file)->handle) ? SAE_OK : saei_files_fail();
}

static sae_result saei_files_close(void *file, void *user) {
    saei_file *f = (saei_file *)file;
    sae_result result = !f->path || saei_files_owns(f) ? SAE_OK : SAE_ERR_MISMATCH;
    if (f->data) UnmapViewOfFile(f->data);
    if (f->handle && !CloseHandle(f->handle)) result = saei_files_fail();
    saei_free((const sae_context *)user, f->path);
    saei_free((const sae_context *)user, f);
    return result;
}

static sae_result saei_files_rename(const char *from, const char *to, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    wchar_t *a = saei_files_wide(ctx, from), *b = a ? saei_files_wide(ctx, to) : NULL;
    sae_result result = b ? SAE_OK : saei_files_result();
    if (b && !MoveFileExW(a, b, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
        result = saei_files_fail();
    saei_free(ctx, a);
    saei_free(ctx, b);
    return result;
}

static sae_result saei_files_remove(const char *path, void *user) {
    wchar_t *wide = saei_files_wide((const sae_context *)user, path);
    sae_result result = wide && DeleteFileW(wide) ? SAE_OK : saei_files_fail();
    saei_free((const sae_context *)user, wide);
    return result;
}

/* One folder, whose parent is there. */
static sae_result saei_files_make_one(const sae_context *ctx, const char *path) {
    wchar_t *wide = saei_files_wide(ctx, path);
    sae_result result = wide ? SAE_OK : saei_files_result();
    DWORD attributes;
    if (wide && !CreateDirectoryW(wide, NULL)) {
        result = saei_files_fail();
        attributes = GetFileAttributesW(wide);
        if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY)
            result = SAE_OK;
    }
    saei_free(ctx, wide);
    return result;
}

static sae_result saei_files_list(const char *path, void (*entry)(const char *name, void *arg),
                                  void *arg, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    char *all = saei_concat(ctx, path, "/*");
    wchar_t *wide = all ? saei_files_wide(ctx, all) : NULL;
    WIN32_FIND_DATAW found;
    HANDLE find = wide ? FindFirstFileW(wide, &found) : INVALID_HANDLE_VALUE;
    sae_result result = !wide ? saei_files_result()
                        : find == INVALID_HANDLE_VALUE ? saei_files_fail() : SAE_OK;
    while (result == SAE_OK) {
        char name[3 * MAX_PATH + 1];
        if (WideCharToMultiByte(CP_UTF8, 0, found.cFileName, -1, name, (int)sizeof name, NULL, NULL)
            > 0)
            entry(name, arg);
        if (!FindNextFileW(find, &found)) break;
    }
    if (find != INVALID_HANDLE_VALUE) FindClose(find);
    saei_free(ctx, wide);
    saei_free(ctx, all);
    return result;
}

static void saei_files_give_back(const void *data, size_t size) {
    (void)data;
    (void)size;
}

#else
/* ---- POSIX ---- */

static bool saei_files_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Whether the name of a file that is written still leads to it. */
static bool saei_files_owns(const saei_file *f) {
    struct stat st;
    return stat(f->path, &st) == 0 && (uint64_t)st.st_dev == f->number[0]
           && (uint64_t)st.st_ino == f->number[1];
}

static sae_result saei_files_open_read(saei_file *f, const char *path) {
    struct stat st;
    f->handle = open(path, O_RDONLY | O_NONBLOCK | SAEI_CLOEXEC); /* do not wait for a FIFO */
    if (f->handle < 0) return saei_files_result();
    if (fstat(f->handle, &st) == 0 && S_ISREG(st.st_mode)) {
        f->size = (uint64_t)st.st_size;
        return SAE_OK;
    }
    close(f->handle);
    errno = ESPIPE;
    return saei_files_is_folder(path) ? SAE_ERR_UNSUPPORTED : SAE_ERR_IO;
}

/* A new file: what another leaves behind under its name is removed, never written into. */
static sae_result saei_files_open_write(const sae_context *ctx, saei_file *f, const char *path) {
    struct stat st;
    f->path = saei_strdup(ctx, path);
    errno = ENOMEM;
    if (!f->path) return saei_files_result();
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) unlink(path);
    f->handle = open(path, O_WRONLY | O_CREAT | O_EXCL | SAEI_CLOEXEC, 0666);
    if (f->handle >= 0 && fstat(f->handle, &st) == 0) {
        f->number[0] = (uint64_t)st.st_dev;
        f->number[1] = (uint64_t)st.st_ino;
        return SAE_OK;
    }
    return errno == ENOENT ? SAE_ERR_NOT_FOUND : SAE_ERR_IO;
}

static sae_result saei_files_open(const char *path, bool write, void **out, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    saei_file *f = (saei_file *)saei_calloc(ctx, 1, sizeof *f);
    sae_result result;
    int cause;
    if (!f) return SAE_ERR_OUT_OF_MEMORY;
    result = write ? saei_files_open_write(ctx, f, path) : saei_files_open_read(f, path);
    cause = errno;
    if (result == SAE_OK) {
        *out = f;
    } else {
        saei_free(ctx, f->path);
        saei_free(ctx, f);
    }
    errno = cause;
    return result;
}

static sae_result saei_files_map(void *file, const void **data, void *user) {
    saei_file *f = (saei_file *)file;
    void *all = NULL;
    (void)user;
    if (f->size) all = mmap(NULL, (size_t)f->size, PROT_READ, MAP_PRIVATE, f->handle, 0);
    if (all == MAP_FAILED) return saei_files_result();
    close(f->handle); /* the map stays, and there may be more maps than descriptors */
    f->handle = -1;
    *data = f->data = all;
    return SAE_OK;
}

static sae_result saei_files_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    saei_file *f = (saei_file *)file;
    unsigned char *at = (unsigned char *)out;
    (void)user;
    if (lseek(f->handle, (off_t)offset, SEEK_SET) < 0) return saei_files_result();
    while (size) {
        ssize_t n = read(f->handle, at, saei_min(size, SAEI_FILE_PIECE));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO; /* it was cut meanwhile */
        if (n <= 0) return SAE_ERR_IO;
        at += n;
        size -= (size_t)n;
    }
    return SAE_OK;
}

static sae_result saei_files_write(void *file, const void *data, size_t size, void *user) {
    const unsigned char *at = (const unsigned char *)data;
    (void)user;
    while (size) {
        ssize_t n = write(((saei_file *)file)->handle, at, saei_min(size, SAEI_FILE_PIECE));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return SAE_ERR_IO;
        at += n;
        size -= (size_t)n;
    }
    return SAE_OK;
}

static sae_result saei_files_sync(void *file, void *user) {
    (void)user;
    return fsync(((saei_file *)file)->handle) == 0 ? SAE_OK : SAE_ERR_IO;
}

static sae_result saei_files_close(void *file, void *user) {
    saei_file *f = (saei_file *)file;
    sae_result result = !f->path || saei_files_owns(f) ? SAE_OK : SAE_ERR_MISMATCH;
    int cause;
    if (f->data) munmap((void *)(uintptr_t)f->data, (size_t)f->size);
    if (f->handle >= 0 && close(f->handle) != 0 && result == SAE_OK) result = SAE_ERR_IO;
    cause = errno;
    saei_free((const sae_context *)user, f->path);
    saei_free((const sae_context *)user, f);
    errno = cause;
    return result;
}

/* What path names at the end of its links, there or not, in fresh memory; NULL: errno says why. */
static char *saei_files_behind(const sae_context *ctx, const char *path) {
    char *at = saei_strdup(ctx, path), *next, link[1024];
    for (int links = 0; at && links < 40; links++, at = next) {
        ssize_t n = readlink(at, link, sizeof link);
        size_t folder = saei_folder_length(at, strlen(at));
        if (n < 0) return at;
        if (n == (ssize_t)sizeof link) break;
        link[n] = 0;
        if (link[0] == '/') folder = 0;
        at[folder] = 0;
        next = saei_concat(ctx, at, link);
        saei_free(ctx, at);
    }
    saei_free(ctx, at);
    errno = at ? ELOOP : ENOMEM;
    return NULL;
}

/* Where it cannot be synced, the rename is as safe as it gets. path is cut. */
static void saei_files_sync_folder(char *path) {
    size_t n = saei_folder_length(path, strlen(path));
    int handle;
    path[n] = 0;
    handle = open(n ? path : ".", O_RDONLY | SAEI_CLOEXEC);
    if (handle < 0) return;
    fsync(handle);
    close(handle);
}

/* A link stays, and what it names is replaced; a device or a pipe is not. */
static sae_result saei_files_rename(const char *from, const char *to, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    sae_result result = SAE_OK;
    struct stat st;
    char *target;
    int cause;
    if (stat(to, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
        errno = ESPIPE;
        return SAE_ERR_IO;
    }
    target = saei_files_behind(ctx, to);
    if (!target || rename(from, target) != 0) result = saei_files_result();
    cause = errno;
    if (result == SAE_OK) saei_files_sync_folder(target);
    saei_free(ctx, target);
    errno = cause;
    return result;
}

static sae_result saei_files_remove(const char *path, void *user) {
    (void)user;
    return unlink(path) == 0 ? SAE_OK : saei_files_result();
}

/* One folder, whose parent is there. */
static sae_result saei_files_make_one(const sae_context *ctx, const char *path) {
    int cause;
    (void)ctx;
    if (mkdir(path, 0777) == 0) return SAE_OK;
    cause = errno;
    if (saei_files_is_folder(path)) return SAE_OK;
    errno = cause;
    return SAE_ERR_IO;
}

static sae_result saei_files_list(const char *path, void (*entry)(const char *name, void *arg),
                                  void *arg, void *user) {
    DIR *folder = opendir(path);
    const struct dirent *e;
    (void)user;
    if (!folder) return saei_files_result();
    while ((e = readdir(folder)) != NULL) entry(e->d_name, arg);
    closedir(folder);
    return SAE_OK;
}

/* Whole pages inside mapped memory, which is read from the file again where it is touched. */
static void saei_files_give_back(const void *data, size_t size) {
#if defined(MADV_DONTNEED) && defined(_SC_PAGESIZE)
    const long page = sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)data, end = begin + size;
    if (page <= 0) return;
    begin = (begin + (uintptr_t)page - 1) / (uintptr_t)page * (uintptr_t)page;
    end = end / (uintptr_t)page * (uintptr_t)page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
#else
    (void)data;
    (void)size;
#endif
}
#endif

/* ---- every system ---- */

static sae_result saei_files_size(void *file, uint64_t *size, void *user) {
    (void)user;
    *size = ((saei_file *)file)->size;
    return SAE_OK;
}

/* With its parents. */
static sae_result saei_files_make_folder(const char *path, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    char *part = saei_strdup(ctx, path);
    sae_result result = part ? SAE_OK : SAE_ERR_OUT_OF_MEMORY;
    for (size_t i = 1, n = strlen(path); result == SAE_OK && i <= n && n; i++) {
        if (i < n && !saei_is_separator(part[i])) continue;
        part[i] = 0;
        result = saei_files_make_one(ctx, part);
        if (i < n) part[i] = path[i];
    }
    saei_free(ctx, part);
    return result;
}

static void saei_files_use(sae_context *ctx) {
    static const sae_io files = { saei_files_open,  saei_files_size,   saei_files_read,
                                  saei_files_close, saei_files_map,    saei_files_write,
                                  saei_files_sync,  saei_files_rename, saei_files_remove,
                                  saei_files_make_folder, saei_files_list, NULL };
    ctx->io = files;
    ctx->io.user = ctx;
}

/* Why a call of ctx->io failed, for a message. */
static const char *saei_files_cause(const sae_context *ctx, sae_result result) {
    if (ctx->io.open != saei_files_open) return sae_result_name(result);
    if (result == SAE_ERR_OUT_OF_MEMORY) return "no memory";
    return errno == ESPIPE ? "not a regular file" : strerror(errno);
}

/* Gives memory of a mapped file [all, all_size] back, of it [data, size]. Nothing is done for
   memory that is no map of ours and for a file of up to 64 MB: every release stops the other
   threads. */
static void saei_files_release(const sae_io *io, const void *all, size_t all_size, const void *data,
                               size_t size) {
    uintptr_t begin = (uintptr_t)data, low = (uintptr_t)all;
    if (io->map != saei_files_map || all_size <= (size_t)64 << 20 || begin < low
        || begin - low > all_size || size > all_size - (begin - low))
        return;
    saei_files_give_back(data, size);
}
#endif
