/*  Proves: .gguf files open with the names, shapes, numbers and metadata that the gguf package gives
    them, from a path and from memory; what is damaged, cut short or lies ends in an error with a
    sentence, and in no more memory than the file can fill; what cannot take blocks refuses them.
    Oracle: tests/fixtures/gguf, which make_gguf_fixtures.py wrote with the gguf package (types.npz:
    the numbers by gguf.quants); for blocks of any bytes a naive reading of each type's definition,
    one element at a time.
    Tolerance: none; a NaN is a NaN. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

static sae_context *ctx;
static size_t limit, in_use, peak; /* bytes: of one allocation; of all, now and at most */

static void *watched_alloc(size_t size, void *user) {
    size_t *memory;
    (void)user;
    if (limit && size > limit) {
        CHECK(false, "%zu bytes are asked for at once, %zu make sense", size, limit);
        return NULL;
    }
    memory = (size_t *)malloc(size + 16);
    *memory = size;
    in_use += size;
    if (in_use > peak) peak = in_use;
    return memory + 2;
}

static void watched_free(void *memory, void *user) {
    (void)user;
    in_use -= ((size_t *)memory)[-2];
    free((size_t *)memory - 2);
}

static size_t count_of(const sae_tensor *t) {
    size_t n = 1;
    for (size_t k = 0; k < t->ndim; k++) n *= (size_t)t->shape[k];
    return n;
}

static bool same_float(float a, float b) { return (a != a && b != b) || !memcmp(&a, &b, 4); }

/* ---- the types as they are defined ---- */

static float half(const unsigned char *p) {
    int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY)
              : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                             : ldexpf((float)fraction, -24);
    return bits >> 15 ? -x : x;
}

/* Bits from .. from + n of p, counted from the lowest of its first byte. */
static int bits_of(const unsigned char *p, int from, int n) {
    int value = 0;
    for (int i = 0; i < n; i++) value |= (p[(from + i) / 8] >> (from + i) % 8 & 1) << i;
    return value;
}

/* Half of a byte: of 2 n elements the first n are low halves. */
static int nibble(const unsigned char *p, int e, int n) { return bits_of(p, e % n * 8 + e / n * 4, 4); }

static float q4_k_like(const unsigned char *b, int e, int q) {
    const unsigned char *s = b + 4;
    int g = e / 32, h = g % 4;
    int scale = g < 4 ? bits_of(s + h, 0, 6) : bits_of(s + 8 + h, 0, 4) + 16 * bits_of(s + h, 6, 2);
    int least = g < 4 ? bits_of(s + 4 + h, 0, 6)
                      : bits_of(s + 8 + h, 4, 4) + 16 * bits_of(s + 4 + h, 6, 2);
    volatile float x = half(b) * (float)scale, y = half(b + 2) * (float)least, product = x * (float)q;
    return product - y;
}

static float naive(sae_dtype type, const unsigned char *b, int e) {
    static const int iq4[] = { -127, -104, -83, -65, -49, -35, -22, -10,
                               1, 13, 25, 38, 53, 69, 89, 113 };
    static const float fp4[] = { 0, .5f, 1, 1.5f, 2, 3, 4, 6 };
    int h = e / 128, s = e % 128 / 32, l = e % 32, g = e / 16, q, scale;
    volatile float x, y; /* no fused multiply-add */
    switch (type) {
    case SAE_Q4_0: return half(b) * (float)(nibble(b + 2, e, 16) - 8);
    case SAE_Q4_1: x = half(b) * (float)nibble(b + 4, e, 16); return x + half(b + 2);
    case SAE_Q5_0:
        return half(b) * (float)(nibble(b + 6, e, 16) + 16 * bits_of(b + 2, e, 1) - 16);
    case SAE_Q5_1:
        x = half(b) * (float)(nibble(b + 8, e, 16) + 16 * bits_of(b + 4, e, 1));
        return x + half(b + 2);
    case SAE_Q8_0: return half(b) * (float)(b[2 + e] < 128 ? b[2 + e] : b[2 + e] - 256);
    case SAE_Q2_K:
        x = half(b + 80) * (float)bits_of(b + g, 0, 4);
        x = x * (float)bits_of(b + 16 + 32 * h + l, 2 * s, 2);
        y = half(b + 82) * (float)bits_of(b + g, 4, 4);
        return x - y;
    case SAE_Q3_K:
        scale = nibble(b + 96, g, 8) + 16 * bits_of(b + 104 + g % 4, g / 4 * 2, 2) - 32;
        q = bits_of(b + 32 + 32 * h + l, 2 * s, 2) - (bits_of(b + l, 4 * h + s, 1) ? 0 : 4);
        x = half(b + 108) * (float)scale;
        return x * (float)q;
    case SAE_Q4_K: return q4_k_like(b, e, nibble(b + 16 + e / 64 * 32, e % 64, 32));
    case SAE_Q5_K:
        q = nibble(b + 48 + e / 64 * 32, e % 64, 32) + 16 * bits_of(b + 16 + l, e / 32, 1);
        return q4_k_like(b, e, q);
    case SAE_Q6_K:
        q = nibble(b + 64 * h, e % 128, 64) + 16 * bits_of(b + 128 + 32 * h + l, 2 * s, 2) - 32;
        x = half(b + 208) * (float)(b[192 + g] < 128 ? b[192 + g] : b[192 + g] - 256);
        return x * (float)q;
    case SAE_IQ4_NL: return half(b) * (float)iq4[nibble(b + 2, e, 16)];
    case SAE_IQ4_XS:
        scale = bits_of(b + 4, e / 32 * 4, 4) + 16 * bits_of(b + 2, e / 32 * 2, 2) - 32;
        x = half(b) * (float)scale;
        return x * (float)iq4[nibble(b + 8 + e / 32 * 16, l, 16)];
    case SAE_MXFP4: /* 2^(b - 127) of a sign, 2 bits of exponent, 1 of fraction */
        q = nibble(b + 1, e, 16);
        x = q % 8 ? (float)ldexp((double)fp4[q % 8], b[0] - 127) : 0;
        return q > 8 ? -x : x;
    default: return NAN;
    }
}

/* Blocks of any bytes, whole tensors and pieces of rows. */
static void any_blocks(void) {
    enum { ROWS = 6, BLOCKS = 50 };
    check_rng rng = { 3 };
    for (int type = SAE_Q4_0; type <= SAE_MXFP4; type++) {
        size_t size = sae_dtype_size((sae_dtype)type), block = sae_dtype_block((sae_dtype)type);
        size_t cols = BLOCKS * block, wrong = 0, finite = 0, row = BLOCKS * size;
        unsigned char *data = (unsigned char *)malloc(ROWS * row);
        float *out = (float *)malloc((ROWS * cols + 1) * sizeof *out);
        sae_tensor t;
        check_test = sae_dtype_name((sae_dtype)type);
        for (size_t i = 0; i < ROWS * row; i++) data[i] = (unsigned char)check_bits(&rng);
        memset(&t, 0, sizeof t);
        t.dtype = (sae_dtype)type;
        t.ndim = 3;
        t.shape[0] = 2, t.shape[1] = 3, t.shape[2] = cols;
        t.stride[0] = 3 * (int64_t)cols, t.stride[1] = (int64_t)cols, t.stride[2] = 1;
        t.data = data;
        out[ROWS * cols] = 7;
        sae_tensor_to_f32(&t, out);
        for (size_t i = 0; i < ROWS * cols; i++) {
            float want = naive((sae_dtype)type, data + i / block * size, (int)(i % block));
            wrong += !same_float(out[i], want);
            finite += fabsf(want) <= FLT_MAX;
        }
        CHECK(!wrong, "%zu wrong", wrong);
        CHECK(finite > ROWS * cols / 2, "only %zu finite", finite);
        CHECK(out[ROWS * cols] == 7, "written past the end");
        /* every other row of the first two planes' last two: strides */
        t.ndim = 2;
        t.shape[0] = 3, t.shape[1] = 2 * block;
        t.stride[0] = 2 * (int64_t)cols, t.stride[1] = 1;
        t.data = data + row;
        sae_tensor_to_f32(&t, out);
        for (size_t i = wrong = 0; i < 6 * block; i++)
            wrong += !same_float(out[i], naive((sae_dtype)type,
                                               data + (1 + i / (2 * block) * 2) * row
                                                   + i % (2 * block) / block * size,
                                               (int)(i % block)));
        CHECK(!wrong, "%zu wrong with strides", wrong);
        out[3 * block] = 7;
        saei_dtype_row_to_f32((sae_dtype)type, data, 5 * block, 3 * block, out);
        for (size_t i = wrong = 0; i < 3 * block; i++)
            wrong += !same_float(out[i], naive((sae_dtype)type, data + (5 + i / block) * size,
                                               (int)(i % block)));
        CHECK(!wrong && out[3 * block] == 7, "%zu wrong of a piece", wrong);
        free(data);
        free(out);
    }
    check_test = NULL;
}

/* ---- files of the gguf package ---- */

static const char *fixture(const char *name) {
    return check_path("%s/tests/fixtures/gguf/%s", check_root(), name);
}

/* Opens a fixture from its path, or from memory of exactly its size, which is *bytes. */
static sae_tensor_file *open_fixture(const char *name, bool memory, char **bytes) {
    sae_tensor_file *file = NULL;
    size_t size = 0;
    char *data = check_read(fixture(name), &size);
    *bytes = (char *)malloc(size + 1);
    CHECK(data != NULL, "no %s", name);
    if (data) memcpy(*bytes, data, size);
    free(data);
    if (memory) CHECK_OK(ctx, sae_tensor_file_open_memory(ctx, *bytes, size, &file), return NULL);
    else CHECK_OK(ctx, sae_tensor_file_open(ctx, fixture(name), &file), return NULL);
    return file;
}

static void types(bool memory) {
    sae_tensor_file *want_file = NULL, *file;
    char *bytes;
    CHECK_OK(ctx, sae_tensor_file_open(ctx, fixture("types.npz"), &want_file), return);
    file = open_fixture("types.gguf", memory, &bytes);
    CHECK(sae_tensor_file_count(file) == 22 && sae_tensor_file_count(want_file) == 22,
          "%zu tensors", sae_tensor_file_count(file));
    for (size_t i = 0; file && i < sae_tensor_file_count(file); i++) {
        const sae_tensor *t = sae_tensor_file_get(file, i);
        const sae_tensor *w = sae_tensor_file_find(want_file, t->name);
        size_t n = count_of(t), wrong = 0;
        float *got, *want;
        check_test = t->name;
        CHECK(strcmp(t->name, "four") ? !strcmp(sae_dtype_name(t->dtype), t->name)
                                      : t->dtype == SAE_F32, "is %s", sae_dtype_name(t->dtype));
        CHECK(w && w->ndim == t->ndim && !memcmp(w->shape, t->shape, t->ndim * sizeof *t->shape),
              "another shape");
        CHECK_OK(ctx, sae_tensor_file_check(file, t), continue);
        if (!w || count_of(w) != n) continue;
        got = (float *)malloc(n * sizeof *got);
        want = (float *)malloc(n * sizeof *want);
        sae_tensor_to_f32(t, got);
        sae_tensor_to_f32(w, want);
        for (size_t k = 0; k < n; k++) wrong += memcmp(got + k, want + k, 4) != 0;
        CHECK(!wrong, "%zu of %zu numbers differ", wrong, n);
        free(got);
        free(want);
    }
    check_test = NULL;
    sae_tensor_file_close(file);
    sae_tensor_file_close(want_file);
    free(bytes);
}

static void same_json(const sae_json *a, const sae_json *b, const char *path) {
    const sae_json *x = sae_json_first(a), *y = sae_json_first(b);
    sae_json_kind kind = sae_json_kind_of(a);
    CHECK(kind == sae_json_kind_of(b), "%s: kind %d, want %d", path, (int)kind,
          (int)sae_json_kind_of(b));
    CHECK(sae_json_count(a) == sae_json_count(b), "%s: count %zu, want %zu", path,
          sae_json_count(a), sae_json_count(b));
    CHECK(sae_json_number(a) == sae_json_number(b), "%s: %.17g, want %.17g", path,
          sae_json_number(a), sae_json_number(b));
    if (kind == SAE_JSON_STRING && sae_json_kind_of(b) == kind)
        CHECK(!strcmp(sae_json_text(a), sae_json_text(b)), "%s: \"%s\", want \"%s\"", path,
              sae_json_text(a), sae_json_text(b));
    for (; x && y; x = sae_json_next(x), y = sae_json_next(y)) {
        const char *key = sae_json_key(y);
        if (key) CHECK(sae_json_key(x) && !strcmp(sae_json_key(x), key), "%s: key %s", path, key);
        same_json(x, y, key ? key : path);
    }
    CHECK(!x && !y, "%s: children are missing", path);
}

static void metadata(bool memory) {
    sae_json *want = NULL;
    char *bytes;
    sae_tensor_file *file = open_fixture("metadata.gguf", memory, &bytes);
    CHECK_OK(ctx, sae_json_open(ctx, fixture("metadata.json"), &want), return);
    CHECK(sae_json_count(want) == 41, "%zu pairs", sae_json_count(want));
    same_json(sae_tensor_file_metadata(file), want, "metadata");
    sae_json_close(want);
    sae_tensor_file_close(file);
    free(bytes);
}

/* Types known by name alone are listed, and refused when they are asked for. */
static void named(bool memory) {
    static const char *const names[] = { "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
                                         "IQ3_S", "TQ1_0", "TQ2_0", "NVFP4", "other" };
    char *bytes;
    sae_tensor_file *file = open_fixture("named.gguf", memory, &bytes);
    const sae_tensor *good = sae_tensor_file_find(file, "good");
    float six[6], out[512];
    CHECK(sae_tensor_file_count(file) == 12, "%zu tensors", sae_tensor_file_count(file));
    for (size_t i = 0; file && i < 11; i++) {
        const sae_tensor *t = sae_tensor_file_get(file, i);
        CHECK(!strcmp(sae_dtype_name(t->dtype), names[i]), "%s is %s", t->name,
              sae_dtype_name(t->dtype));
        CHECK(!t->data && !sae_dtype_size(t->dtype) && sae_dtype_block(t->dtype) == 1
                  && t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == (i == 9 ? 64u : 256u),
              "%s: data, size or shape", t->name);
        CHECK(sae_tensor_file_check(file, t) == SAE_ERR_UNSUPPORTED
                  && strstr(sae_error(ctx), t->name) && strstr(sae_error(ctx), names[i]),
              "%s: %s", t->name, sae_error(ctx));
        out[511] = 0;
        sae_tensor_to_f32(t, out);
        CHECK(out[0] != out[0] && (i == 9 || out[511] != out[511]), "%s has numbers", t->name);
    }
    CHECK_OK(ctx, sae_tensor_file_check(file, NULL), (void)0);
    CHECK(good && good->shape[0] == 2 && good->shape[1] == 3, "alignment 64: no tensor");
    if (good) sae_tensor_to_f32(good, six);
    for (int i = 0; good && i < 6; i++) CHECK(six[i] == (float)i, "[%d] is %g", i, (double)six[i]);
    sae_tensor_file_close(file);
    free(bytes);
}

/* ---- files made here ---- */

typedef struct build {
    unsigned char data[4096];
    size_t size;
    struct { const char *label; size_t at; } labels[64];
    size_t num_labels;
} build;

static void put(build *b, const char *label, uint64_t value, size_t bytes) {
    b->labels[b->num_labels].label = label;
    b->labels[b->num_labels++].at = b->size;
    for (size_t i = 0; i < bytes; i++) b->data[b->size++] = (unsigned char)(value >> 8 * i);
}

static void put_text(build *b, const char *label, const char *text) {
    put(b, label, strlen(text), 8);
    memcpy(b->data + b->size, text, strlen(text));
    b->size += strlen(text);
}

static size_t label(const build *b, const char *name) {
    for (size_t i = 0; i < b->num_labels; i++)
        if (!strcmp(b->labels[i].label, name)) return b->labels[i].at;
    CHECK(false, "no label %s", name);
    return 0;
}

/* Two tensors, F32 [2,4] and Q8_0 [2,32], and a pair of each shape of value. */
static void build_base(build *b) {
    memset(b, 0, sizeof *b);
    put(b, "magic", 0x46554747, 4);
    put(b, "version", 3, 4);
    put(b, "tensors", 2, 8);
    put(b, "pairs", 6, 8);
    put_text(b, "key length", "general.alignment");
    put(b, "alignment type", 4, 4);
    put(b, "alignment", 32, 4);
    put_text(b, "", "text");
    put(b, "type", 8, 4);
    put_text(b, "text length", "abcd");
    put_text(b, "", "flag");
    put(b, "", 7, 4);
    put(b, "flag", 1, 1);
    put_text(b, "", "list");
    put(b, "", 9, 4);
    put(b, "list type", 4, 4);
    put(b, "list count", 3, 8);
    for (unsigned i = 0; i < 3; i++) put(b, "", i, 4);
    put_text(b, "", "words");
    put(b, "", 9, 4);
    put(b, "", 8, 4);
    put(b, "words count", 2, 8);
    put_text(b, "word length", "x");
    put_text(b, "", "yz");
    put_text(b, "twin", "tex_");
    put(b, "", 12, 4);
    put(b, "f64", 0x3FF8000000000000u, 8);
    put_text(b, "name length", "t1");
    put(b, "dims", 2, 4);
    put(b, "columns", 4, 8);
    put(b, "rows", 2, 8);
    put(b, "tensor type", 0, 4);
    put(b, "offset", 0, 8);
    put_text(b, "name 2", "t2");
    put(b, "", 2, 4);
    put(b, "columns 2", 32, 8);
    put(b, "rows 2", 2, 8);
    put(b, "tensor type 2", 8, 4);
    put(b, "offset 2", 32, 8);
    while (b->size % 32) put(b, "pad", 0, 1), b->num_labels--;
    put(b, "data", 0, 0);
    for (unsigned i = 0; i < 32 + 68; i++) b->data[b->size++] = (unsigned char)(i * 37);
}

/* Opens the bytes both ways, the memory of exactly their size, with what may be allocated bounded;
   both must say the same. Reads all there is. */
static sae_result open_bytes(const void *data, size_t size) {
    const char *path = check_path("%s/x.gguf", check_temp());
    sae_tensor_file *file[2] = { NULL, NULL };
    sae_result result[2];
    unsigned char *exact = (unsigned char *)malloc(size ? size : 1);
    memcpy(exact, data, size);
    CHECK(check_write(path, data, size), "cannot write %s", path);
    limit = 65536 + 64 * size;
    result[0] = sae_tensor_file_open(ctx, path, &file[0]);
    result[1] = sae_tensor_file_open_memory(ctx, exact, size, &file[1]);
    CHECK(result[0] == result[1], "%s from a path, %s from memory", sae_result_name(result[0]),
          sae_result_name(result[1]));
    for (size_t k = 0; k < 2; k++) {
        CHECK((result[k] == SAE_OK) == (file[k] != NULL), "an error and a file");
        if (result[k] != SAE_OK) CHECK(strlen(sae_error(ctx)) > 20, "no sentence");
        for (size_t i = 0; i < sae_tensor_file_count(file[k]); i++) {
            const sae_tensor *t = sae_tensor_file_get(file[k], i);
            float *out;
            if (count_of(t) > 1 << 20) continue;
            out = (float *)malloc(count_of(t) * sizeof *out + 1);
            sae_tensor_to_f32(t, out);
            free(out);
        }
        sae_tensor_file_close(file[k]);
    }
    limit = 0;
    free(exact);
    return result[0];
}

static void cut(const unsigned char *data, size_t size, size_t needed) {
    for (size_t n = 0; n <= size; n++) {
        sae_result result = open_bytes(data, n);
        if ((result == SAE_OK) != (n >= needed)) {
            CHECK(false, "cut to %zu of %zu bytes it gives %s", n, needed, sae_result_name(result));
            return;
        }
    }
    CHECK(size >= needed, "nothing was cut");
}

/* A file cut anywhere before its last number is an error. */
static void cuts(void) {
    static const char *const names[] = { "metadata.gguf", "types.gguf" };
    build b;
    build_base(&b);
    cut(b.data, b.size, b.size);
    for (size_t i = 0; i < 2; i++) {
        size_t size = 0, needed = 0;
        char *data = check_read(fixture(names[i]), &size);
        sae_tensor_file *file = NULL;
        check_test = names[i];
        CHECK_OK(ctx, sae_tensor_file_open_memory(ctx, data, size, &file), continue);
        for (size_t k = 0; k < sae_tensor_file_count(file); k++) {
            const sae_tensor *t = sae_tensor_file_get(file, k);
            size_t end = (size_t)((const char *)t->data - data)
                         + count_of(t) / sae_dtype_block(t->dtype) * sae_dtype_size(t->dtype);
            if (end > needed) needed = end;
        }
        sae_tensor_file_close(file);
        cut((unsigned char *)data, size, needed);
        free(data);
    }
    check_test = NULL;
}

typedef struct lie {
    const char *label;
    uint64_t value;
    size_t bytes;
    const char *says;
} lie;

static const lie lies[] = {
    { "version", 1, 4, "version 1" }, { "version", 4, 4, "version 4" },
    { "version", 0x03000000, 4, "big-endian" }, { "version", 0, 4, "version 0" },
    { "tensors", UINT64_MAX, 8, "promises" }, { "tensors", (uint64_t)1 << 60, 8, "promises" },
    { "tensors", 3, 8, "" }, { "pairs", (uint64_t)1 << 60, 8, "" }, { "pairs", 7, 8, "" },
    { "pairs", UINT64_MAX, 8, "" }, { "pairs", 5, 8, "" },
    { "key length", UINT64_MAX, 8, "asks for" }, { "key length", (uint64_t)1 << 63, 8, "asks for" },
    { "key length", 4000, 8, "asks for" }, { "alignment type", 13, 4, "unknown type 13" },
    { "alignment type", UINT32_MAX, 4, "unknown type" }, { "alignment type", 6, 4, "power of two" },
    { "alignment", 0, 4, "power of two" }, { "alignment", 24, 4, "power of two" },
    { "alignment", 0x80000000u, 4, "tensor \"t1\"" }, { "alignment", 64, 4, "tensor \"t2\"" },
    { "alignment", UINT32_MAX, 4, "power of two" }, { "text length", UINT64_MAX, 8, "asks for" },
    { "text length", (uint64_t)1 << 60, 8, "asks for" }, { "text length", 5, 8, "" },
    { "flag", 2, 1, "bool" }, { "list type", 13, 4, "unknown type" },
    { "list type", 9, 4, "" }, { "list type", 8, 4, "" },
    { "list count", UINT64_MAX, 8, "too short" }, { "list count", (uint64_t)1 << 60, 8, "too short" },
    { "list count", (uint64_t)1 << 62, 8, "too short" }, { "list count", 4, 8, "" },
    { "words count", UINT64_MAX, 8, "too short" }, { "words count", (uint64_t)1 << 61, 8, "too short" },
    { "words count", 40, 8, "" }, { "word length", UINT64_MAX, 8, "asks for" },
    { "name length", UINT64_MAX, 8, "asks for" }, { "dims", 9, 4, "9 dimensions" },
    { "dims", UINT32_MAX, 4, "dimensions" }, { "columns", UINT64_MAX, 8, "too large" },
    { "columns", (uint64_t)1 << 62, 8, "too large" }, { "columns", (uint64_t)1 << 40, 8, "tensor \"t1\"" },
    { "rows", (uint64_t)1 << 61, 8, "too large" }, { "rows", 100, 8, "tensor \"t1\"" },
    { "columns", 0x100000000u, 8, "tensor \"t1\"" }, { "columns 2", 33, 8, "multiple of 32" },
    { "columns 2", 16, 8, "multiple of 32" }, { "rows 2", 3, 8, "tensor \"t2\"" },
    { "rows 2", UINT64_MAX, 8, "too large" }, { "rows 2", (uint64_t)1 << 58, 8, "too large" },
    { "tensor type 2", 14, 4, "multiple of 256" }, { "offset", UINT64_MAX, 8, "tensor \"t1\"" },
    { "offset", UINT64_MAX - 31, 8, "tensor \"t1\"" }, { "offset", 16, 8, "aligned" },
    { "offset", 128, 8, "tensor \"t1\"" }, { "offset 2", 64, 8, "tensor \"t2\"" },
    { "offset 2", (uint64_t)1 << 63, 8, "tensor \"t2\"" }, { "name 2", 2 | (uint64_t)1 << 32, 8, "" },
};

static void patch(build *b, const char *name, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        b->data[label(b, name) + i] = (unsigned char)(value >> 8 * i);
}

static void tells_lies(void) {
    build base, b;
    build_base(&base);
    CHECK(open_bytes(base.data, base.size) == SAE_OK, "the base: %s", sae_error(ctx));
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        sae_result result;
        b = base;
        patch(&b, lies[i].label, lies[i].value, lies[i].bytes);
        result = open_bytes(b.data, b.size);
        CHECK(result == SAE_ERR_FORMAT || result == SAE_ERR_UNSUPPORTED, "%s %llu: %s",
              lies[i].label, (unsigned long long)lies[i].value, sae_result_name(result));
        CHECK(strstr(sae_error(ctx), lies[i].says), "%s %llu: %s", lies[i].label,
              (unsigned long long)lies[i].value, sae_error(ctx));
    }
    /* two sizes that are each possible, and not together */
    b = base;
    patch(&b, "columns", (uint64_t)1 << 32, 8);
    patch(&b, "rows", (uint64_t)1 << 32, 8);
    CHECK(open_bytes(b.data, b.size) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "too large"), "%s",
          sae_error(ctx));
    /* the same, with a 0 that would hide it */
    patch(&b, "columns", (uint64_t)1 << 62, 8);
    patch(&b, "rows", 0, 8);
    CHECK(open_bytes(b.data, b.size) == SAE_ERR_FORMAT, "%s", sae_error(ctx));
    b = base; /* names */
    b.data[label(&b, "twin") + 11] = 't';
    CHECK(open_bytes(b.data, b.size) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "\"text\" is there"),
          "a key twice: %s", sae_error(ctx));
    b = base;
    b.data[label(&b, "name 2") + 9] = '1';
    CHECK(open_bytes(b.data, b.size) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "twice"),
          "a tensor twice: %s", sae_error(ctx));
    b = base;
    b.data[label(&b, "name 2") + 8] = 0;
    CHECK(open_bytes(b.data, b.size) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "NUL"),
          "a tensor's name: %s", sae_error(ctx));
    b = base;
    b.data[label(&b, "twin") + 9] = 0xff;
    CHECK(open_bytes(b.data, b.size) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "UTF-8"),
          "a key: %s", sae_error(ctx));
    b = base; /* every byte of the header: whatever comes of it */
    for (size_t i = 4; i < label(&base, "data"); i++)
        for (int k = 0; k < 4; k++) {
            b.data[i] = (unsigned char)(k == 0 ? 0 : k == 1 ? 255 : base.data[i] ^ (k == 2 ? 1 : 128));
            open_bytes(b.data, b.size);
            b.data[i] = base.data[i];
        }
}

/* What is allowed though it is odd. */
static void oddities(void) {
    build base, b;
    sae_tensor_file *file = NULL;
    const sae_tensor *t1, *t2;
    const sae_json *text;
    build_base(&base);
    b = base;
    patch(&b, "version", 2, 4);
    patch(&b, "offset 2", 0, 8); /* it overlaps the first */
    memcpy(b.data + label(&b, "text length") + 8, "a\0\xff" "d", 4);
    patch(&b, "alignment type", 5, 4);
    CHECK(open_bytes(b.data, b.size) == SAE_OK, "%s", sae_error(ctx));
    CHECK_OK(ctx, sae_tensor_file_open_memory(ctx, b.data, b.size, &file), return);
    t1 = sae_tensor_file_find(file, "t1");
    t2 = sae_tensor_file_find(file, "t2");
    CHECK(t1 && t2 && t1->data == t2->data && t1->data == b.data + label(&b, "data"), "no overlap");
    CHECK(t1 && t1->ndim == 2 && t1->shape[0] == 2 && t1->shape[1] == 4 && t1->stride[0] == 4
              && t1->stride[1] == 1, "the shape of t1");
    text = sae_json_get(sae_tensor_file_metadata(file), "text");
    CHECK(sae_json_count(text) == 4 && !memcmp(sae_json_text(text), "a\0\xff" "d", 5),
          "a text with NUL: %zu bytes", sae_json_count(text));
    CHECK(sae_json_number(sae_json_get(sae_tensor_file_metadata(file), "tex_")) == 1.5, "a float64");
    sae_tensor_file_close(file);
    b = base; /* an empty tensor, a scalar, at the end; an empty list; no tensors and no padding */
    patch(&b, "rows 2", 0, 8);
    patch(&b, "rows", 1, 8);
    patch(&b, "columns", 1, 8);
    CHECK(open_bytes(b.data, b.size) == SAE_OK, "%s", sae_error(ctx));
    patch(&b, "tensors", 0, 8);
    CHECK(open_bytes(b.data, label(&b, "name length")) == SAE_OK, "%s", sae_error(ctx));
    patch(&b, "pairs", 0, 8);
    CHECK(open_bytes(b.data, 24) == SAE_OK, "%s", sae_error(ctx));
    b = base;
    patch(&b, "tensor type", 57, 4); /* of the future */
    CHECK(open_bytes(b.data, b.size) == SAE_OK, "%s", sae_error(ctx));
}

/* Numbers that are no JSON, and arrays in arrays. */
static void odd_values(void) {
    sae_tensor_file *file = NULL;
    const sae_json *v;
    for (unsigned depth = 63; depth <= 65; depth++) {
        build b;
        memset(&b, 0, sizeof b);
        put(&b, "", 0x46554747, 4);
        put(&b, "", 3, 4);
        put(&b, "", 0, 8);
        put(&b, "", 3, 8);
        put_text(&b, "", "most");
        put(&b, "", 10, 4);
        put(&b, "", UINT64_MAX, 8);
        put_text(&b, "", "nan");
        put(&b, "", 6, 4);
        put(&b, "", 0x7FC00000, 4);
        put_text(&b, "", "deep");
        put(&b, "", 9, 4);
        b.num_labels = 0;
        for (unsigned i = 1; i < depth; i++) {
            put(&b, "", 9, 4);
            put(&b, "", 1, 8);
            b.num_labels = 0;
        }
        put(&b, "", 0, 4);
        put(&b, "", 0, 8);
        CHECK((open_bytes(b.data, b.size) == SAE_OK) == (depth <= 63), "depth %u: %s", depth,
              sae_error(ctx));
        if (depth > 63) continue;
        CHECK_OK(ctx, sae_tensor_file_open_memory(ctx, b.data, b.size, &file), return);
        v = sae_tensor_file_metadata(file);
        CHECK(sae_json_number(sae_json_get(v, "most")) == 18446744073709551615.0, "2^64 - 1");
        CHECK(isnan(sae_json_number(sae_json_get(v, "nan"))), "a NaN");
        v = sae_json_get(v, "deep");
        for (unsigned i = 1; i < depth; i++) v = sae_json_first(v);
        CHECK(sae_json_kind_of(v) == SAE_JSON_ARRAY && !sae_json_count(v) && !sae_json_first(v),
              "the innermost");
        sae_tensor_file_close(file);
    }
}

static unsigned char *put_at(unsigned char *at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) *at++ = (unsigned char)(value >> 8 * i);
    return at;
}

static unsigned char *put_array(unsigned char *at, const char *key, unsigned type, uint64_t count) {
    at = put_at(at, strlen(key), 8);
    memcpy(at, key, strlen(key));
    at = put_at(at + strlen(key), 9, 4);
    return put_at(put_at(at, type, 4), count, 8);
}

/* A vocabulary as large as they come: its tree takes what it should. */
static void vocabulary(void) {
    enum { TOKENS = 262144, MOST = 20000000 };
    unsigned char *data = (unsigned char *)malloc(MOST), *at = data;
    size_t before, i = 0;
    sae_tensor_file *file = NULL;
    const sae_json *tokens, *scores, *types_, *x, *y, *z;
    at = put_at(put_at(put_at(put_at(at, 0x46554747, 4), 3, 4), 0, 8), 3, 8);
    at = put_array(at, "tokens", 8, TOKENS);
    for (i = 0; i < TOKENS; i++) {
        char text[32];
        size_t n = (size_t)snprintf(text, sizeof text, "token%zu", i);
        at = put_at(at, n, 8);
        memcpy(at, text, n);
        at += n;
    }
    at = put_array(at, "scores", 6, TOKENS);
    for (i = 0; i < TOKENS; i++) {
        float score = -(float)i;
        memcpy(at, &score, 4);
        at += 4;
    }
    at = put_array(at, "types", 5, TOKENS);
    for (i = 0; i < TOKENS; i++) at = put_at(at, i % 7, 4);
    before = in_use;
    peak = 0;
    CHECK_OK(ctx, sae_tensor_file_open_memory(ctx, data, (size_t)(at - data), &file), return);
    CHECK(peak - before < (size_t)3 * TOKENS * (sizeof(void *) * 3 + 16) + 14 * TOKENS + 65536,
          "%zu bytes for %d values", peak - before, 3 * TOKENS);
    tokens = sae_json_get(sae_tensor_file_metadata(file), "tokens");
    scores = sae_json_get(sae_tensor_file_metadata(file), "scores");
    types_ = sae_json_get(sae_tensor_file_metadata(file), "types");
    CHECK(sae_json_count(tokens) == TOKENS && sae_json_count(scores) == TOKENS
              && sae_json_count(types_) == TOKENS, "other counts");
    x = sae_json_first(tokens), y = sae_json_first(scores), z = sae_json_first(types_);
    for (i = 0; x && y && z && i < TOKENS; i++) {
        char text[32];
        snprintf(text, sizeof text, "token%zu", i);
        if (strcmp(sae_json_text(x), text) || sae_json_number(y) != -(double)i
            || sae_json_number(z) != (double)(i % 7))
            break;
        x = sae_json_next(x), y = sae_json_next(y), z = sae_json_next(z);
    }
    CHECK(i == TOKENS && !x && !y && !z, "token %zu", i);
    sae_tensor_file_close(file);
    free(data);
}

/* ---- what takes no blocks ---- */

static void refusals(void) {
    static const char *const names[] = { "x.npy", "x.npz", "x.safetensors", "x.pt" };
    static const unsigned char bytes[68] = { 0 };
    static const float row[32] = { 0 };
    sae_dictionary_desc dd;
    sae_dictionary *dict = NULL;
    sae_tensor t;
    sae_rows rows;
    build b;
    float f[4];
    memset(&t, 0, sizeof t);
    t.name = "blocks";
    t.dtype = SAE_Q8_0;
    t.ndim = 2;
    t.shape[0] = 2, t.shape[1] = 32, t.stride[0] = 32, t.stride[1] = 1;
    t.data = bytes;
    for (size_t i = 0; i < 6; i++) {
        const char *name = i < 4 ? names[i] : names[2];
        void *data = NULL;
        size_t size;
        t.dtype = i == 4 ? SAE_OTHER : i == 5 ? (sae_dtype)(SAE_OTHER + 1) : SAE_Q8_0;
        CHECK(sae_tensor_file_write(ctx, check_path("%s/%s", check_temp(), name), &t, 1)
                  == (i < 5 ? SAE_ERR_UNSUPPORTED : SAE_ERR_INVALID), "%s: written", name);
        CHECK(strstr(sae_error(ctx), i < 4 ? "Q8_0" : i < 5 ? "other" : "dtype"), "%s",
              sae_error(ctx));
        CHECK(sae_tensor_file_write_memory(ctx, name, &t, 1, &data, &size) != SAE_OK && !data,
              "%s: written", name);
    }
    t.dtype = SAE_F32;
    t.data = row;
    CHECK(sae_tensor_file_write(ctx, check_path("%s/x.gguf", check_temp()), &t, 1)
              == SAE_ERR_INVALID, "a .gguf is written: %s", sae_error(ctx));
    memset(&dd, 0, sizeof dd);
    dd.arch = SAE_ARCH_STANDARD_NEW;
    dd.activation_dim = 32;
    dd.dict_size = 4;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
    memset(&rows, 0, sizeof rows);
    rows.data = bytes;
    rows.dtype = SAE_Q8_0;
    CHECK(sae_encode_rows(dict, &rows, 1, f) == SAE_ERR_INVALID && strstr(sae_error(ctx), "Q8_0"),
          "rows: %s", sae_error(ctx));
    sae_dictionary_destroy(dict);
    dict = NULL;
    build_base(&b);
    CHECK(sae_dictionary_load_memory(ctx, NULL, b.data, b.size, &dict) != SAE_OK && !dict
              && strstr(sae_error(ctx), "no dictionary"), "a dictionary: %s", sae_error(ctx));
}

/* A dictionary's tensors in a .gguf: numbers are numbers, blocks are refused by name. */
static void dictionary(uint64_t type) {
    static const char *const names[] = { "encoder.weight", "decoder.weight", "encoder.bias", "bias" };
    sae_dictionary *dict = NULL;
    sae_load_desc desc;
    sae_result result;
    build b;
    memset(&b, 0, sizeof b);
    memset(&desc, 0, sizeof desc);
    put(&b, "", 0x46554747, 4);
    put(&b, "", 3, 4);
    put(&b, "", 4, 8);
    put(&b, "", 0, 8);
    for (size_t i = 0; i < 4; i++) {
        put_text(&b, "", names[i]);
        put(&b, "", i < 2 ? 2 : 1, 4);
        put(&b, "", 32, 8);
        if (i < 2) put(&b, "", 32, 8);
        put(&b, "", i ? 1 : type, 4);
        put(&b, "", 0, 8);
    }
    b.size = (b.size + 31) / 32 * 32 + 2048;
    desc.raw = true;
    result = sae_dictionary_load_memory(ctx, &desc, b.data, b.size, &dict);
    if (type == 1) CHECK(result == SAE_OK && dict, "F16: %s", sae_error(ctx));
    else CHECK(result != SAE_OK && !dict && strstr(sae_error(ctx), "Q8_0"), "%s", sae_error(ctx));
    sae_dictionary_destroy(dict);
}

#ifndef SAE_NO_TRAIN
static void activations(void) {
    const char *const path = fixture("types.gguf");
    sae_source_desc source;
    sae_buffer *buffer = NULL;
    sae_buffer_desc desc;
    memset(&source, 0, sizeof source);
    memset(&desc, 0, sizeof desc);
    source.files = &path;
    source.num_files = 1;
    source.dim = 16;
    desc.source = source;
    desc.batch_size = 1;
    CHECK(sae_buffer_create(ctx, &desc, &buffer) == SAE_ERR_FORMAT && strstr(sae_error(ctx), ".gguf"),
          "activations: %s", sae_error(ctx));
    sae_buffer_destroy(buffer);
}
#endif

static void other_metadata(void) {
    static const float row[3] = { 1, 2, 3 };
    sae_tensor t;
    memset(&t, 0, sizeof t);
    t.name = "x";
    t.dtype = SAE_F32;
    t.ndim = 1;
    t.shape[0] = 3, t.stride[0] = 1;
    t.data = row;
    for (size_t i = 0; i < 2; i++) {
        sae_tensor_file *file = NULL;
        void *data = NULL;
        size_t size = 0;
        const sae_json *format;
        CHECK_OK(ctx, sae_tensor_file_write_memory(ctx, i ? "x.npz" : "x.safetensors", &t, 1, &data,
                                                   &size), return);
        CHECK_OK(ctx, sae_tensor_file_open_memory(ctx, data, size, &file), return);
        format = sae_json_get(sae_tensor_file_metadata(file), "format");
        if (i) CHECK(!sae_tensor_file_metadata(file), "an .npz has metadata");
        else CHECK(format && !strcmp(sae_json_text(format), "pt"), "no __metadata__");
        sae_tensor_file_close(file);
        sae_context_free(ctx, data);
    }
    CHECK(!sae_tensor_file_metadata(NULL), "metadata of NULL");
}

int main(void) {
    sae_context_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.allocator.alloc = watched_alloc;
    desc.allocator.free = watched_free;
    desc.threads = 1;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context");
    any_blocks();
    for (int memory = 0; memory < 2; memory++) {
        types(memory);
        metadata(memory);
        named(memory);
    }
    cuts();
    tells_lies();
    oddities();
    odd_values();
    vocabulary();
    refusals();
    dictionary(1);
    dictionary(8);
#ifndef SAE_NO_TRAIN
    activations();
#endif
    other_metadata();
    sae_context_destroy(ctx);
    CHECK(in_use == 0, "%zu bytes are not given back", in_use);
    check_remove(check_temp());
    return check_end();
}
