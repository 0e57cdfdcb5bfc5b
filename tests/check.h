/*  check.h - the harness of all tests: count, report, find files, make numbers.

    A test is a program. CHECK counts a condition and prints a line when it does not hold; SKIP says
    loudly what could not be tested; `return check_end();` prints the last line and gives the exit
    code. Include it behind sae.h (with SAE_IMPLEMENTATION). */
#ifndef CHECK_H
#define CHECK_H

#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK_UNUSED __attribute__((unused))

static long check_passed, check_failed;
static const char *check_test; /* what runs now; printed in front of a failure */

CHECK_UNUSED static void check_report(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
CHECK_UNUSED static void check_report(const char *file, int line, const char *format, ...) {
    va_list args;
    const char *slash = strrchr(file, '/');
    if (++check_failed > 200) return; /* enough said */
    printf("%s:%d: ", slash ? slash + 1 : file, line);
    if (check_test) printf("%s: ", check_test);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}

/* CHECK(condition, "what was seen: %d", n) */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (condition) check_passed++;                                                             \
        else check_report(__FILE__, __LINE__, __VA_ARGS__);                                        \
    } while (0)

/* The call must give SAE_OK; otherwise the message is printed and `leave` is executed: no do-while,
   which a `break` or `continue` would leave in place of the caller's loop. */
#define CHECK_OK(ctx, call, leave)                                                                 \
    __extension__({                                                                                \
        sae_result check_result_ = (call);                                                         \
        if (check_result_ == SAE_OK) check_passed++;                                               \
        else {                                                                                     \
            check_report(__FILE__, __LINE__, "%s gives %s: %s", #call,                             \
                         sae_result_name(check_result_), sae_error(ctx));                          \
            leave;                                                                                 \
        }                                                                                          \
    })

/* got within tolerance * max(1e-12, |want|); two NaNs agree. */
#define CHECK_REL(got, want, tolerance, what)                                                      \
    do {                                                                                           \
        double check_g_ = (got), check_w_ = (want);                                                \
        CHECK(check_near(check_g_, check_w_, (tolerance)), "%s is %.9g, want %.9g", what,          \
              check_g_, check_w_);                                                                 \
    } while (0)

CHECK_UNUSED static bool check_near(double got, double want, double tolerance) {
    double scale = fabs(want) > 1e-12 ? fabs(want) : 1e-12;
    if (got != got || want != want) return got != got && want != want;
    return fabs(got - want) <= tolerance * scale;
}

CHECK_UNUSED static void check_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
CHECK_UNUSED static void check_skip(const char *format, ...) {
    va_list args;
    printf("SKIPPED: ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}
#define SKIP check_skip

CHECK_UNUSED static int check_end(void) {
    printf("%ld passed, %ld failed\n", check_passed, check_failed);
    return check_failed ? 1 : 0;
}

/* A context with so many threads (0: all), or NULL and a failure. Tests of numbers take one: bits do
   not depend on it (test_bits), and small problems are faster so. */
CHECK_UNUSED static sae_context *check_context(int threads) {
    sae_context_desc desc;
    sae_context *ctx = NULL;
    memset(&desc, 0, sizeof desc);
    desc.threads = threads;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context with %d threads", threads);
    return ctx;
}

/* ---- numbers: splitmix64, nothing of sae.h's ------------------------------------------------- */

typedef struct check_rng { uint64_t state; } check_rng;
CHECK_UNUSED static uint64_t check_bits(check_rng *rng) {
    uint64_t z = (rng->state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
CHECK_UNUSED static double check_uniform(check_rng *rng) { /* in (0, 1) */
    return ((double)(check_bits(rng) >> 11) + 0.5) / 9007199254740992.0;
}
/* CHECK_PLAIN_NUMBERS, defined before: about normal by sums alone, the same bits with every libm. */
CHECK_UNUSED static double check_normal(check_rng *rng) {
#ifdef CHECK_PLAIN_NUMBERS
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += check_uniform(rng);
    return sum;
#else
    double u = check_uniform(rng), v = check_uniform(rng);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
#endif
}

/* Rows like activations: a few directions shared by all rows, of uneven strength, a mean, noise. */
CHECK_UNUSED static void check_activations(uint64_t seed, float *x, size_t n, size_t d) {
    enum { DIRECTIONS = 24 };
    check_rng rng = { 1234 }; /* the directions do not depend on seed */
    double *w = (double *)malloc((DIRECTIONS + 1) * d * sizeof *w);
    for (size_t i = 0; i < (DIRECTIONS + 1) * d; i++) w[i] = check_normal(&rng) / sqrt((double)d);
    rng.state = seed * 7919 + 17;
    for (size_t r = 0; r < n; r++) {
        double a[DIRECTIONS];
        for (size_t i = 0; i < DIRECTIONS; i++)
            a[i] = check_uniform(&rng) < 0.25 ? 1 + 2 * check_uniform(&rng) : 0;
        for (size_t j = 0; j < d; j++) {
            double v = w[DIRECTIONS * d + j] + 0.05 * check_normal(&rng);
            for (size_t i = 0; i < DIRECTIONS; i++) v += a[i] * w[i * d + j];
            x[r * d + j] = (float)v;
        }
    }
    free(w);
}

/* FNV-1a, 64 bits. */
CHECK_UNUSED static uint64_t check_hash(uint64_t hash, const void *data, size_t size) {
    const unsigned char *p = (const unsigned char *)data;
    if (!hash) hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < size; i++) hash = (hash ^ p[i]) * 0x100000001b3ull;
    return hash;
}

/* ---- files ----------------------------------------------------------------------------------- */

CHECK_UNUSED static bool check_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

/* "ROOT/rest" in one of a few static buffers. */
CHECK_UNUSED static const char *check_path(const char *format, ...)
    __attribute__((format(printf, 1, 2)));
CHECK_UNUSED static const char *check_path(const char *format, ...) {
    static char buffers[64][1024];
    static int next;
    char *at = buffers[next++ & 63];
    va_list args;
    va_start(args, format);
    vsnprintf(at, sizeof buffers[0], format, args);
    va_end(args);
    return at;
}

/* The project's root: SAE_ROOT, or the folder above, or this one: where tests/check.h is. */
CHECK_UNUSED static const char *check_root(void) {
    static const char *const places[] = { ".", "..", "../.." };
    const char *root = getenv("SAE_ROOT");
    if (root) return root;
    for (size_t i = 0; i < 3; i++)
        if (check_exists(check_path("%s/tests/check.h", places[i]))) return places[i];
    return ".";
}
CHECK_UNUSED static const char *check_shared(void) {
    return check_path("%s/../shared", check_root());
}

/* A fresh folder for this run, removed with everything in it by check_remove. */
CHECK_UNUSED static const char *check_temp(void) {
    static char folder[256];
    if (!folder[0]) {
        /* in memory where there is such a place: every file sae.h writes is synced */
        const char *base = getenv("TMPDIR");
        if (!base) base = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
        snprintf(folder, sizeof folder, "%s/sae_test_XXXXXX", base);
        if (!mkdtemp(folder)) {
            printf("cannot make %s\n", folder);
            exit(1);
        }
    }
    return folder;
}
CHECK_UNUSED static void check_remove(const char *path) {
    struct stat s;
    if (lstat(path, &s)) return;
    if (S_ISDIR(s.st_mode)) {
        DIR *dir = opendir(path);
        struct dirent *e;
        while (dir && (e = readdir(dir)) != NULL)
            if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
                char child[1300];
                snprintf(child, sizeof child, "%s/%s", path, e->d_name);
                check_remove(child);
            }
        if (dir) closedir(dir);
        rmdir(path);
    } else unlink(path);
}

/* A whole file, malloc'd, with a NUL behind; NULL if it cannot be read. */
CHECK_UNUSED static char *check_read(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    long n;
    if (!f) return NULL;
    if (!fseek(f, 0, SEEK_END) && (n = ftell(f)) >= 0 && !fseek(f, 0, SEEK_SET)) {
        text = (char *)malloc((size_t)n + 1);
        if (text && fread(text, 1, (size_t)n, f) != (size_t)n) {
            free(text);
            text = NULL;
        }
        if (text) {
            text[n] = 0;
            if (size) *size = (size_t)n;
        }
    }
    fclose(f);
    return text;
}
CHECK_UNUSED static bool check_write(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    bool ok;
    if (!f) return false;
    ok = fwrite(data, 1, size, f) == size;
    return fclose(f) == 0 && ok;
}

/* Tensor `name` of a file as float32, malloc'd; its number of elements in *count, its rows in
   *rows. NULL (and a failure counted) if it is not there. */
CHECK_UNUSED static float *check_tensor(sae_context *ctx, const char *path, const char *name,
                                        size_t *count, size_t *rows) {
    sae_tensor_file *file;
    const sae_tensor *t;
    size_t n = 1;
    float *out;
    if (sae_tensor_file_open(ctx, path, &file) != SAE_OK) {
        CHECK(false, "cannot open %s: %s", path, sae_error(ctx));
        return NULL;
    }
    t = name ? sae_tensor_file_find(file, name) : sae_tensor_file_get(file, 0);
    if (!t) {
        CHECK(false, "%s has no tensor %s", path, name ? name : "");
        sae_tensor_file_close(file);
        return NULL;
    }
    for (size_t i = 0; i < t->ndim; i++) n *= (size_t)t->shape[i];
    out = (float *)malloc((n + 1) * sizeof *out);
    sae_tensor_to_f32(t, out);
    if (count) *count = n;
    if (rows) *rows = t->ndim ? (size_t)t->shape[0] : 1;
    sae_tensor_file_close(file);
    return out;
}

/* The largest |got - want|, and the largest |want|. */
CHECK_UNUSED static double check_distance(const float *got, const float *want, size_t n,
                                          double *largest) {
    double worst = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]);
        if (!(e <= worst)) worst = e; /* NaN too */
        if (fabs((double)want[i]) > top) top = fabs((double)want[i]);
    }
    if (largest) *largest = top;
    return worst;
}
#endif /* CHECK_H */
