#pragma once
#include "text.h"

/* ==== >>io: paths ============================================================================= */

static bool saei_is_separator(char c) {
#if defined(_WIN32)
    if (c == '\\') return true;
#endif
    return c == '/';
}

/* Up to and with the last separator of the first `length` characters; 0 if there is none. */
static size_t saei_folder_length(const char *path, size_t length) {
    while (length > 0 && !saei_is_separator(path[length - 1])) length--;
    return length;
}

/* What follows the last separator. */
static const char *saei_path_base(const char *path) {
    return path + saei_folder_length(path, strlen(path));
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
