/*  fuzz.h - what the fuzzers share: a context that watches what a reader asks for, and the two ways
    a target is run. Each fuzz_NAME.c holds one target, FUZZ(NAME) { ... } over data [size].

    Built with -fsanitize=fuzzer it is libFuzzer's; tests/test_fuzz_corpus.c (FUZZ_REPLAY) takes all
    of them into one ordinary program that runs stored inputs. A finding is a crash, a sanitizer's
    report, a leak, a success that leaves no object, a failure without a sentence, or memory out of
    all proportion to the input: then it aborts. */
#ifndef FUZZ_H
#define FUZZ_H

#ifndef FUZZ_REPLAY
#define SAE_IMPLEMENTATION
#include "sae.h"
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* One allocation may be fuzz_limit bytes. Above it a reader that must not ask is stopped; where the
   input may truly ask for much (a dictionary of expanded tensors) there is none to be had. */
static size_t fuzz_limit;
static int fuzz_refuses;
static const char *fuzz_input; /* named where a replay stops */

static void *fuzz_alloc(size_t size, void *user) {
    (void)user;
    if (size > fuzz_limit && fuzz_refuses) return NULL;
    if (size > fuzz_limit) {
        fprintf(stderr, "%s: %zu bytes at once, at most %zu make sense for this input\n",
                fuzz_input ? fuzz_input : "input", size, fuzz_limit);
        abort();
    }
    return malloc(size);
}

static void fuzz_free(void *memory, void *user) {
    (void)user;
    free(memory);
}

/* A context for one input of `size` bytes. */
static sae_context *fuzz_context(size_t size, int refuses) {
    sae_context_desc desc;
    sae_context *ctx = NULL;
    memset(&desc, 0, sizeof desc);
    desc.allocator.alloc = fuzz_alloc;
    desc.allocator.free = fuzz_free;
    desc.threads = 1;
    fuzz_refuses = refuses;
    fuzz_limit = ((size_t)1 << 20) + 64 * size;
    FUZZ_REQUIRE(sae_context_create(&desc, &ctx) == SAE_OK);
    return ctx;
}

/* The call succeeded, or failed as it should: a known code, a sentence. */
static int fuzz_ok(const sae_context *ctx, sae_result result) {
    if (result == SAE_OK) return 1;
    FUZZ_REQUIRE(strcmp(sae_result_name(result), "unknown result") != 0);
    FUZZ_REQUIRE(strlen(sae_error(ctx)) > 10);
    return 0;
}

/* Reads every value of a tree; returns how many there are. */
static size_t fuzz_json_walk(const sae_json *value) {
    const char *text = sae_json_text(value);
    size_t n = 1, count = 0;
    if (text) FUZZ_REQUIRE(text[sae_json_count(value)] == 0 && strlen(text) <= sae_json_count(value));
    for (const sae_json *c = sae_json_first(value); c; c = sae_json_next(c), count++)
        n += fuzz_json_walk(c);
    FUZZ_REQUIRE(text || count == sae_json_count(value));
    return n;
}

/* Opens data as a tensor file from memory, reads every element and all metadata, looks up every name,
   and checks what opening left unchecked: a wrong CRC-32 is the result then. */
static sae_result fuzz_tensors(sae_context *ctx, const char *path, const uint8_t *data,
                               size_t size) {
    enum { MOST = 1 << 20 };
    saei_map map;
    sae_tensor_file *file = NULL;
    sae_result result;
    memset(&map, 0, sizeof map);
    map.data = data;
    map.size = size;
    result = saei_tensor_file_open_map(ctx, "fuzz", path, &map, &file);
    if (!fuzz_ok(ctx, result)) {
        FUZZ_REQUIRE(!file);
        return result;
    }
    FUZZ_REQUIRE(file);
    FUZZ_REQUIRE(fuzz_json_walk(sae_tensor_file_metadata(file)) <= size);
    for (size_t i = 0; i < sae_tensor_file_count(file); i++) {
        const sae_tensor *t = sae_tensor_file_get(file, i);
        size_t n = 1;
        float *out;
        FUZZ_REQUIRE(t && t->name && sae_tensor_file_find(file, t->name) == t);
        for (size_t k = 0; k < t->ndim; k++) FUZZ_REQUIRE(saei_mul(n, (size_t)t->shape[k], &n));
        if (n > MOST) continue;
        out = (float *)malloc(n * sizeof *out + 1);
        sae_tensor_to_f32(t, out);
        free(out);
    }
    if (!fuzz_ok(ctx, sae_tensor_file_check(file, NULL))) result = SAE_ERR_FORMAT;
    sae_tensor_file_close(file);
    return result;
}

/* Writes data to path; for targets that open by name. */
static void fuzz_write(const char *path, const uint8_t *data, size_t size) {
    FILE *f = fopen(path, "wb");
    FUZZ_REQUIRE(f);
    FUZZ_REQUIRE(size == 0 || fwrite(data, 1, size, f) == size);
    FUZZ_REQUIRE(fclose(f) == 0);
}

/* A folder of this process, in memory where there is such a place; removed when it ends. */
static char fuzz_folder_path[64];
static void fuzz_folder_remove(void) { rmdir(fuzz_folder_path); }
static const char *fuzz_folder_of_process(void) {
    if (!fuzz_folder_path[0]) {
        snprintf(fuzz_folder_path, sizeof fuzz_folder_path, "%s/sae_fuzz_XXXXXX",
                 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        FUZZ_REQUIRE(mkdtemp(fuzz_folder_path));
        atexit(fuzz_folder_remove);
    }
    return fuzz_folder_path;
}

#if defined(FUZZ_REPLAY)
#define FUZZ(name) static void fuzz_##name(const uint8_t *data, size_t size)
#else
#define FUZZ(name)                                                                                 \
    static void fuzz_##name(const uint8_t *data, size_t size);                                     \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {                                 \
        fuzz_##name(data, size);                                                                   \
        return 0;                                                                                  \
    }                                                                                              \
    static void fuzz_##name(const uint8_t *data, size_t size)
#endif
#endif /* FUZZ_H */
