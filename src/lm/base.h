#pragma once
#include "../api/model.h"

/* ==== >>lm: base ============================================================================== */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define LMI_X86 1
#include <immintrin.h>
#endif

#define LMI_TRY(call)                                                                              \
    do {                                                                                           \
        sae_result lmi_try_result = (call);                                                        \
        if (lmi_try_result != SAE_OK) return lmi_try_result;                                       \
    } while (0)

static size_t lmi_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t lmi_max(size_t a, size_t b) { return a > b ? a : b; }
static size_t lmi_parts(size_t n, size_t each) { return n / each + (n % each != 0); }

static bool lmi_mul(size_t a, size_t b, size_t *out) {
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

/* items [capacity] of size bytes with room for count; false, and all as it was: no memory. */
static bool lmi_grow(void **items, size_t *capacity, size_t count, size_t size) {
    size_t most = *capacity > SIZE_MAX / 4 ? SIZE_MAX / 2 : 2 * *capacity, bytes;
    void *grown;
    if (count <= *capacity) return true;
    most = lmi_max(lmi_max(count, most), 16);
    grown = lmi_mul(most, size, &bytes) ? realloc(*items, bytes) : NULL;
    if (!grown) return false;
    *items = grown;
    *capacity = most;
    return true;
}

/* "folder/name" in fresh memory (free); NULL: none left. */
static char *lmi_join(const char *folder, const char *name) {
    size_t n = strlen(folder), m = strlen(name);
    char *path = (char *)malloc(n + m + 2);
    if (!path) return NULL;
    memcpy(path, folder, n);
    if (n && folder[n - 1] != '/') path[n++] = '/';
    memcpy(path + n, name, m + 1);
    return path;
}

static bool lmi_is_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* Whether the path names a .gguf, by what is in it; by its ending where nothing is there. */
static bool lmi_names_gguf(const char *path) {
    size_t n = strlen(path);
    char head[4] = { 0, 0, 0, 0 };
    FILE *f;
    if (n > 5 && strcmp(path + n - 5, ".gguf") == 0) return true;
    f = fopen(path, "rb");
    if (!f) return false;
    n = fread(head, 1, sizeof head, f);
    fclose(f);
    return n == sizeof head && memcmp(head, "GGUF", sizeof head) == 0;
}
