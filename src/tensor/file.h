#pragma once
#include "../api/files.h"
#include "../base/io.h"
#include "crc.h"

/* ==== >>tensors: an open file ================================================================= */

/* Small pieces of memory that go together. */
typedef struct saei_arena_block {
    struct saei_arena_block *next;
    size_t size, used;
} saei_arena_block;
typedef struct saei_arena {
    const sae_context *ctx;
    saei_arena_block *head;
} saei_arena;

static void *saei_arena_alloc(saei_arena *arena, size_t count, size_t size) {
    const size_t header = (sizeof(saei_arena_block) + 15) / 16 * 16, usual = 16384;
    saei_arena_block *block = arena->head;
    size_t bytes, whole;
    if (!saei_mul(count, size, &bytes) || bytes > SIZE_MAX - 1024) return NULL;
    bytes = (bytes + 15) / 16 * 16;
    if (!block || block->size - block->used < bytes) {
        whole = header + (bytes > usual / 4 ? bytes : usual);
        block = (saei_arena_block *)saei_alloc(arena->ctx, whole, 1);
        if (!block) return NULL;
        block->size = whole;
        block->used = header;
        if (bytes > usual / 4 && arena->head) { /* a large piece leaves the open block open */
            block->next = arena->head->next;
            arena->head->next = block;
        } else {
            block->next = arena->head;
            arena->head = block;
        }
    }
    block->used += bytes;
    return (char *)block + block->used - bytes;
}

static char *saei_arena_text(saei_arena *arena, const void *text, size_t size) {
    char *copy = (char *)saei_arena_alloc(arena, size + 1, 1);
    if (!copy) return NULL;
    if (size) memcpy(copy, text, size);
    copy[size] = 0;
    return copy;
}

static void saei_arena_free(saei_arena *arena) {
    while (arena->head) {
        saei_arena_block *block = arena->head;
        arena->head = block->next;
        saei_free(arena->ctx, block);
    }
}

typedef struct saei_scalar {
    const char *name, *text;
} saei_scalar;

/* An entry of a zip archive. */
typedef struct saei_zip_entry {
    const char *name;
    const unsigned char *data; /* packed, in the map */
    size_t packed, size;
    uint32_t crc;
    unsigned method;
    bool checked; /* data is plain and its CRC right, or there is none */
} saei_zip_entry;

typedef struct saei_file_tensor {
    sae_tensor tensor;     /* first: what users point to */
    saei_zip_entry *entry; /* that holds it; NULL: no zip */
} saei_file_tensor;

/* by_name and scalars_by_name are sorted. Everything but the map and the JSON sits in the arena. */
struct sae_tensor_file {
    sae_context *ctx;
    const char *who, *path; /* for messages */
    const char *ending;     /* that files of its kind have */
    saei_map map;
    saei_arena arena;
    saei_file_tensor *tensors;
    size_t count, capacity;
    const void **by_name;
    saei_scalar *scalars;
    size_t num_scalars, scalar_capacity;
    const void **scalars_by_name;
    sae_json *header;         /* .safetensors, .gguf */
    const sae_json *metadata; /* it, or in it; may be NULL */
    saei_crc_table crc;
};

static sae_result saei_file_fail(const sae_tensor_file *file, sae_result result, const char *format,
                                 va_list args) {
    char text[480];
    vsnprintf(text, sizeof text, format, args);
    return saei_fail(file->ctx, result, "%s: %s: %s", file->who, file->path, text);
}

static sae_result saei_damaged(const sae_tensor_file *file, const char *format, ...)
    SAEI_PRINTF(2, 3);
static sae_result saei_damaged(const sae_tensor_file *file, const char *format, ...) {
    va_list args;
    va_start(args, format);
    saei_file_fail(file, SAE_ERR_FORMAT, format, args);
    va_end(args);
    return SAE_ERR_FORMAT;
}

static sae_result saei_unsupported(const sae_tensor_file *file, const char *format, ...)
    SAEI_PRINTF(2, 3);
static sae_result saei_unsupported(const sae_tensor_file *file, const char *format, ...) {
    va_list args;
    va_start(args, format);
    saei_file_fail(file, SAE_ERR_UNSUPPORTED, format, args);
    va_end(args);
    return SAE_ERR_UNSUPPORTED;
}

static sae_result saei_file_no_memory(const sae_tensor_file *file) {
    return saei_fail(file->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %s", file->who,
                     file->path);
}

/* What the bytes begin as. */
static bool saei_looks_zip(const unsigned char *d, size_t n) {
    return n >= 4 && (memcmp(d, "PK\3\4", 4) == 0 || memcmp(d, "PK\5\6", 4) == 0);
}

static bool saei_looks_gguf(const unsigned char *d, size_t n) {
    return n >= 4 && memcmp(d, "GGUF", 4) == 0;
}

/* An array in the arena that doubles; NULL if there is no memory. */
static void *saei_file_grow(sae_tensor_file *file, void *items, size_t count, size_t *capacity,
                            size_t size) {
    void *grown;
    if (count < *capacity) return items;
    grown = saei_arena_alloc(&file->arena, count ? 2 * count : 16, size);
    if (!grown) return NULL;
    if (count) memcpy(grown, items, count * size);
    *capacity = count ? 2 * count : 16;
    return grown;
}

static sae_result saei_file_add(sae_tensor_file *file, const sae_tensor *tensor,
                                saei_zip_entry *entry) {
    saei_file_tensor *grown = (saei_file_tensor *)saei_file_grow(file, file->tensors, file->count,
                                                                 &file->capacity, sizeof *grown);
    if (!grown) return saei_file_no_memory(file);
    file->tensors = grown;
    file->tensors[file->count].tensor = *tensor;
    file->tensors[file->count++].entry = entry;
    return SAE_OK;
}

/* Whatever is sorted by name begins with it. */
static const char *saei_name_of(const void *item) {
    const char *name;
    memcpy(&name, item, sizeof name);
    return name;
}

static bool saei_name_less(const void *a, const void *b) {
    return strcmp(saei_name_of(a), saei_name_of(b)) < 0;
}

/* Pointers to the items, sorted; a name held twice is refused. */
static sae_result saei_file_index(sae_tensor_file *file, const void *items, size_t count,
                                  size_t size, const char *what, const void ***out) {
    char quoted[SAEI_QUOTE];
    const void **sorted = (const void **)saei_arena_alloc(&file->arena, count + 1, sizeof *sorted);
    if (!sorted) return saei_file_no_memory(file);
    for (size_t i = 0; i < count; i++) sorted[i] = (const char *)items + i * size;
    saei_sort(sorted, count, saei_name_less);
    for (size_t i = 1; i < count; i++)
        if (strcmp(saei_name_of(sorted[i - 1]), saei_name_of(sorted[i])) == 0)
            return saei_damaged(file, "%s \"%s\" is there twice", what,
                                saei_quote(saei_name_of(sorted[i]), quoted));
    *out = sorted;
    return SAE_OK;
}

static const void *saei_name_find(const void *const *sorted, size_t count, const char *name) {
    for (size_t low = 0, high = count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(saei_name_of(sorted[middle]), name);
        if (order == 0) return sorted[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

/* The CRC of a large piece of a file, its blocks side by side, and put together. The map's pages
   are given back. */
enum { SAEI_CRC_BLOCK = 1 << 20 };
typedef struct saei_crc_job {
    sae_tensor_file *file;
    const unsigned char *data;
    size_t size;
    uint32_t crc[64];
} saei_crc_job;

static void saei_crc_part(void *arg, size_t part) {
    saei_crc_job *job = (saei_crc_job *)arg;
    size_t at = part * SAEI_CRC_BLOCK, n = saei_min(job->size - at, SAEI_CRC_BLOCK);
    job->crc[part] = saei_crc(&job->file->crc, 0, job->data + at, n);
    saei_map_release(job->file->ctx, &job->file->map, job->data + at, n);
}

static uint32_t saei_crc_large(sae_tensor_file *file, const unsigned char *data, size_t size) {
    uint32_t crc = 0, whole = saei_crc_shift(SAEI_CRC_BLOCK);
    saei_crc_job job;
    job.file = file;
    while (size) {
        size_t parts;
        job.data = data;
        job.size = saei_min(size, (size_t)64 * SAEI_CRC_BLOCK);
        parts = saei_ceil_div(job.size, SAEI_CRC_BLOCK);
        saei_parallel(file->ctx, parts, saei_crc_part, &job);
        for (size_t i = 0; i < parts; i++) {
            size_t n = saei_min(job.size - i * SAEI_CRC_BLOCK, SAEI_CRC_BLOCK);
            crc = saei_crc_product(crc, n == SAEI_CRC_BLOCK ? whole : saei_crc_shift(n))
                  ^ job.crc[i];
        }
        data += job.size;
        size -= job.size;
    }
    return crc;
}

static sae_result saei_zip_damaged(const sae_tensor_file *file, const saei_zip_entry *e,
                                   const char *what) {
    char quoted[SAEI_QUOTE];
    return saei_damaged(file, "zip entry \"%s\" %s", saei_quote(e->name, quoted), what);
}

/* Holds crc, that of the entry's plain bytes, against what the archive says. */
static sae_result saei_zip_compare(const sae_tensor_file *file, saei_zip_entry *e, uint32_t crc) {
    if (crc != e->crc) return saei_zip_damaged(file, e, "is damaged: its CRC-32 is wrong");
    e->checked = true;
    return SAE_OK;
}

static sae_result saei_zip_check(sae_tensor_file *file, saei_zip_entry *e) {
    return e->checked ? SAE_OK : saei_zip_compare(file, e, saei_crc_large(file, e->data, e->size));
}
