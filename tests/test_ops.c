/*  Proves: every operation of the sae_backend table does what >>backend says, for any shape, and gives
    the same bits for every instruction set and number of threads.
    Oracle: oracle_ops.h, one plain version of each operation on host memory. Tolerance: none (==)
    where >>backend fixes the order of rounding: the comparisons called `same`. Where an operation
    computes exp, pow or a quotient of sums the oracle is in double, and `near` allows the relative
    error written at each call, a few roundings of float32. Another backend can be run through the same
    table: operations_of takes any and reaches its memory through alloc, upload and download alone.
    The last check: no operation of the table was left out. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include "oracle_ops.h"

/* ---- a rig: one backend, one shape ------------------------------------------------------------ */

enum mood { NORMAL, TIES, ZEROS, SILENT, MOODS }; /* SILENT: biases so low that nothing fires */
static const char *const mood_names[MOODS] = { "", " ties", " zeros", " silent" };

typedef struct rig {
    const sae_backend *ops;
    sae_work w;
    size_t n, d, ld, m, mp, k; /* mp: m rounded up to 16 */
    int mood;
    bool left_out; /* the backend does without the operation */
    check_rng rng;
    void *device[512], *host[512];
    size_t num_device, num_host;
    uint64_t hash; /* of every result */
    uint64_t *notes; /* the hash after each comparison: this run's, the first one's */
    const uint64_t *first_notes;
    size_t num_notes;
    char other[80]; /* the first comparison whose bits were not the first run's */
} rig;
enum { NOTES = 256 };

/* Calling an operation through OP marks it as tested. */
static bool touched[sizeof(sae_backend)];
#define OP(g, name) (touched[offsetof(sae_backend, name)] = true, (g)->ops->name)

static void *host_bytes(rig *g, size_t bytes) {
    void *p = calloc(bytes + 64, 1);
    g->host[g->num_host++] = p;
    return p;
}
static float *floats(rig *g, size_t count) { return (float *)host_bytes(g, count * sizeof(float)); }
static double *doubles(rig *g, size_t count) {
    return (double *)host_bytes(g, count * sizeof(double));
}
static void *device_bytes(rig *g, size_t bytes) {
    void *p = OP(g, alloc)(&g->w, bytes ? bytes : 1);
    CHECK(p != NULL, "no device memory");
    g->device[g->num_device++] = p;
    return p;
}
static void *up_bytes(rig *g, const void *host, size_t bytes) {
    void *p = device_bytes(g, bytes);
    OP(g, upload)(&g->w, p, host, bytes);
    return p;
}
static float *up(rig *g, const float *host, size_t count) {
    return (float *)up_bytes(g, host, count * sizeof(float));
}
static void down_bytes(rig *g, void *host, const void *device, size_t bytes) {
    OP(g, download)(&g->w, host, device, bytes);
}
static float *down(rig *g, const float *device, size_t count) {
    float *p = floats(g, count);
    down_bytes(g, p, device, count * sizeof(float));
    return p;
}
static double down_double(rig *g, const double *device) {
    double x;
    down_bytes(g, &x, device, sizeof x);
    return x;
}

static void rig_open(rig *g, const sae_backend *ops, const sae_context *ctx, const size_t shape[4],
                     int mood) {
    size_t scratch;
    memset(g, 0, sizeof *g);
    g->ops = ops;
    g->n = shape[0], g->d = shape[1], g->m = shape[2], g->k = shape[3];
    g->ld = (g->d + 15) / 16 * 16;
    g->mp = (g->m + 15) / 16 * 16;
    g->mood = mood;
    g->w.ctx = ctx;
    g->w.shape.batch = g->n, g->w.shape.d = g->d, g->w.shape.ld = g->ld;
    g->w.shape.dict_size = g->m, g->w.shape.k = g->k;
    CHECK(OP(g, open)(ctx, &g->w.state) == SAE_OK, "open");
    scratch = OP(g, scratch_bytes)(&g->w, &g->w.shape);
    CHECK(scratch != SIZE_MAX, "scratch");
    g->w.scratch = device_bytes(g, scratch);
}
static void rig_close(rig *g) {
    CHECK(OP(g, status)(&g->w) == SAE_OK, "status: %s", sae_error(g->w.ctx));
    while (g->num_device) OP(g, free)(&g->w, g->device[--g->num_device]);
    while (g->num_host) free(g->host[--g->num_host]);
    OP(g, close)(g->w.ctx, g->w.state);
}

/* ---- numbers --------------------------------------------------------------------------------- */

static float number(rig *g) {
    double x = 0;
    if (g->mood == ZEROS) return 0;
    for (int i = 0; i < 4; i++) x += 1.7 * (check_uniform(&g->rng) - 0.5); /* about a normal deviate */
    return g->mood == TIES ? (float)(floor(2 * x) / 2) : (float)x;
}
static size_t below(rig *g, size_t n) { return (size_t)(check_bits(&g->rng) % n); }
static float *matrix(rig *g, size_t rows) {
    float *x = floats(g, rows * g->ld);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < g->d; c++) x[r * g->ld + c] = number(g);
    return x;
}
/* Over latents, around `centre`. */
static float *vector(rig *g, double centre) {
    float *x = floats(g, g->mp);
    for (size_t i = 0; i < g->m; i++) x[i] = (float)centre + 0.3f * number(g);
    return x;
}

/* Lists of random latents (some rows none, some all) with random numbers on every entry; values are
   >= 0, some 0. */
static sae_code code_new(rig *g) {
    size_t room = g->n * g->m + 16;
    sae_code c;
    memset(&c, 0, sizeof c);
    c.rows = g->n, c.stride = g->m;
    c.count = (uint32_t *)host_bytes(g, g->n * sizeof(uint32_t));
    c.latent = (uint32_t *)host_bytes(g, room * sizeof(uint32_t));
    c.pre = floats(g, room), c.value = floats(g, room), c.gate = floats(g, room);
    c.grad = floats(g, room);
    for (int i = 0; i < 3; i++) c.extra[i] = floats(g, room);
    for (size_t r = 0; r < g->n; r++) {
        double share = g->mood == SILENT ? 0 : r % 5 == 1 ? 1 : r % 5 == 2 ? 0 : 0.3;
        for (size_t i = 0; i < g->m; i++) {
            size_t at = r * c.stride + c.count[r];
            if (!(check_uniform(&g->rng) < share)) continue;
            c.count[r]++;
            c.latent[at] = (uint32_t)i;
            c.pre[at] = number(g);
            c.value[at] = c.pre[at] > 0 ? c.pre[at] : 0;
            c.grad[at] = number(g);
            for (int k = 0; k < 3; k++) c.extra[k][at] = number(g);
        }
    }
    return c;
}
static sae_code code_up(rig *g, const sae_code *h) {
    size_t room = h->rows * h->stride + 16;
    sae_code c = *h;
    c.count = (uint32_t *)up_bytes(g, h->count, h->rows * sizeof(uint32_t));
    c.latent = (uint32_t *)up_bytes(g, h->latent, room * sizeof(uint32_t));
    c.pre = up(g, h->pre, room), c.value = up(g, h->value, room), c.gate = up(g, h->gate, room);
    c.grad = up(g, h->grad, room);
    for (int i = 0; i < 3; i++) c.extra[i] = up(g, h->extra[i], room);
    return c;
}
/* The lists as bits, as an encode may leave them too: [rows][words]. */
static uint64_t *fires_of(rig *g, const sae_code *h, size_t *bytes) {
    size_t words = (g->m + 63) / 64;
    uint64_t *bits = (uint64_t *)host_bytes(g, *bytes = h->rows * words * sizeof *bits);
    for (size_t r = 0; r < h->rows; r++)
        for (size_t j = 0; j < h->count[r]; j++) {
            uint32_t i = h->latent[r * h->stride + j];
            bits[r * words + i / 64] |= (uint64_t)1 << i % 64;
        }
    return bits;
}
static void fires_up(rig *g, const sae_code *h, sae_code *c) {
    size_t bytes;
    uint64_t *bits = fires_of(g, h, &bytes);
    c->active_bits = (uint64_t *)up_bytes(g, bits, bytes);
    c->has_active_bits = true;
}
static float *entries_down(rig *g, const sae_code *c, const float *values) {
    return down(g, values, c->rows * c->stride + 16);
}

static sae_index index_new(rig *g, bool device) {
    size_t room = g->n * g->m + 1;
    sae_index x;
    memset(&x, 0, sizeof x);
    x.dict_size = g->m, x.capacity = room;
    x.begin = (size_t *)(device ? device_bytes(g, (g->m + 1) * sizeof(size_t))
                                : host_bytes(g, (g->m + 1) * sizeof(size_t)));
    x.row = (uint32_t *)(device ? device_bytes(g, room * 4) : host_bytes(g, room * 4));
    for (int v = 0; v < SAE_INDEX_VALUES; v++)
        x.value[v] = (float *)(device ? device_bytes(g, room * 4) : host_bytes(g, room * 4));
    return x;
}
/* The same entries on both sides, with five values each. */
static void index_both(rig *g, const sae_code *code, sae_index *host, sae_index *device) {
    const float *values[SAE_INDEX_VALUES] = { code->pre, code->value, code->grad, code->extra[0],
                                              code->extra[1] };
    *host = index_new(g, false);
    *device = index_new(g, true);
    oracle_op_index(code, values, SAE_INDEX_VALUES, host);
    OP(g, upload)(&g->w, device->begin, host->begin, (g->m + 1) * sizeof(size_t));
    OP(g, upload)(&g->w, device->row, host->row, host->capacity * 4);
    for (int v = 0; v < SAE_INDEX_VALUES; v++)
        OP(g, upload)(&g->w, device->value[v], host->value[v], host->capacity * 4);
}

/* ---- comparisons ----------------------------------------------------------------------------- */

static void note(rig *g, const char *what, const void *data, size_t size) {
    g->hash = check_hash(g->hash, data, size);
    if (g->num_notes == NOTES) return;
    g->notes[g->num_notes] = g->hash;
    if (g->first_notes && g->first_notes[g->num_notes] != g->hash && !g->other[0])
        snprintf(g->other, sizeof g->other, "%s (comparison %d)", what, (int)g->num_notes);
    g->num_notes++;
}

static void same(rig *g, const char *what, const float *got, const float *want, size_t count) {
    size_t wrong = 0, first = 0;
    note(g, what, got, count * sizeof *got);
    for (size_t i = 0; i < count; i++)
        if (got[i] != want[i] && !wrong++) first = i;
    CHECK(!wrong, "%s: %d of %d differ, [%d] is %.9g, want %.9g", what, (int)wrong, (int)count,
          (int)first, (double)got[first], (double)want[first]);
}
static void same_number(rig *g, const char *what, double got, double want) {
    note(g, what, &got, sizeof got);
    CHECK(got == want, "%s is %.17g, want %.17g", what, got, want);
}
static void near_number(rig *g, const char *what, double got, double want, double tolerance) {
    note(g, what, &got, sizeof got);
    CHECK(fabs(got - want) <= tolerance * fmax(fabs(want), 1e-12), "%s is %.17g, want %.17g", what,
          got, want);
}
/* Each within tolerance of its own size plus a tenth of it of the largest. */
static void near(rig *g, const char *what, const float *got, const double *want, size_t count,
                 double tolerance) {
    double largest = 0;
    size_t wrong = 0, first = 0;
    note(g, what, got, count * sizeof *got);
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * (fabs(want[i]) + 0.1 * largest))
            && !wrong++)
            first = i;
    CHECK(!wrong, "%s: %d of %d differ, [%d] is %.9g, want %.9g", what, (int)wrong, (int)count,
          (int)first, (double)got[first], want[first]);
}
/* Of a code's entries alone, one after the other. */
static size_t entries(const sae_code *c, const float *from, float *to) {
    size_t count = 0;
    ORACLE_OP_ENTRIES(c, r, j) to[count++] = from[j];
    return count;
}
static void same_entries(rig *g, const char *what, const sae_code *c, const float *got,
                         const float *want) {
    float *a = floats(g, c->rows * c->stride), *b = floats(g, c->rows * c->stride);
    size_t count = entries(c, got, a);
    entries(c, want, b);
    same(g, what, a, b, count);
}
static void near_entries(rig *g, const char *what, const sae_code *c, const float *got,
                         const double *want, double tolerance) {
    float *a = floats(g, c->rows * c->stride);
    double *b = doubles(g, c->rows * c->stride);
    size_t count = entries(c, got, a), at = 0;
    ORACLE_OP_ENTRIES(c, r, j) b[at++] = want[j];
    near(g, what, a, b, count, tolerance);
}
static float *copy(rig *g, const float *x, size_t count) {
    float *y = floats(g, count);
    memcpy(y, x, count * sizeof *y);
    return y;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void op_memory(rig *g) {
    size_t count = g->n * g->ld + 3;
    float *x = floats(g, count), *got;
    float *a = (float *)device_bytes(g, count * sizeof *a);
    sae_shape huge = g->w.shape;
    CHECK(!g->ops->host_memory || (uintptr_t)a % 64 == 0, "memory at %p", (void *)a);
    same(g, "fresh memory", down(g, a, count), x, count);
    for (size_t i = 0; i < count; i++) x[i] = number(g);
    OP(g, upload)(&g->w, a, x, count * sizeof *a);
    same(g, "up and down", down(g, a, count), x, count);
    OP(g, upload)(&g->w, a, x, 0);
    OP(g, zero)(&g->w, a + 1, (count - 2) * sizeof *a);
    got = down(g, a, count);
    CHECK(got[0] == x[0] && got[count - 1] == x[count - 1], "zero went too far");
    memset(x + 1, 0, (count - 2) * sizeof *x);
    same(g, "zeroed", got, x, count);
    huge.dict_size = SIZE_MAX / 8, huge.ld = SIZE_MAX / 8 / 16 * 16, huge.d = huge.ld;
    CHECK(OP(g, scratch_bytes)(&g->w, &huge) == SIZE_MAX, "room for more than there can be");
    CHECK(g->ops->name && g->ops->name[0], "no name");
}

/* ---- batch ----------------------------------------------------------------------------------- */

static void op_load_rows(rig *g) {
    size_t stride = g->d + 3;
    float *host = floats(g, g->n * stride), *want = floats(g, g->n * g->ld);
    float *x = (float *)device_bytes(g, g->n * g->ld * sizeof *x);
    uint32_t flags[2] = { 9, 9 }, *bad = (uint32_t *)up_bytes(g, flags, sizeof flags);
    static const float odd[] = { NAN, INFINITY, -INFINITY };
    sae_rows rows;
    sae_tensor word;
    memset(&rows, 0, sizeof rows);
    memset(&word, 0, sizeof word);
    rows.data = host;
    rows.stride = stride;
    for (size_t i = 0; i < g->n * stride; i++) host[i] = number(g);
    for (int k = 0; k < 2; k++) {
        OP(g, load_rows)(&g->w, &rows, g->n, k ? 0.7f : 1, x, bad);
        oracle_op_load_rows(host, stride, g->n, g->d, g->ld, k ? 0.7f : 1, want, flags + 1);
        down_bytes(g, flags, bad, sizeof flags[0]);
        same(g, "rows", down(g, x, g->n * g->ld), want, g->n * g->ld);
        CHECK(flags[0] == 9 && flags[1] == 9, "bad is %u, want it untouched", flags[0]);
    }
    for (int k = 0; k < 3; k++) {
        size_t at = below(g, g->n) * stride + below(g, g->d);
        float kept = host[at];
        host[at] = odd[k];
        OP(g, load_rows)(&g->w, &rows, g->n, 2, x, bad);
        down_bytes(g, flags, bad, sizeof flags[0]);
        CHECK(flags[0] == 1, "%g: bad is %u", (double)odd[k], flags[0]);
        flags[0] = 0;
        OP(g, upload)(&g->w, bad, flags, sizeof flags[0]);
        host[at] = kept;
    }
    for (int half = 0; half < 2; half++) { /* 16 bits, from the host and from the device */
        uint16_t *words = (uint16_t *)host_bytes(g, g->n * stride * sizeof *words);
        for (size_t i = 0; i < g->n * stride; i++) {
            words[i] = (uint16_t)check_bits(&g->rng);
            if (half && (words[i] >> 10 & 31) == 31) words[i] ^= 1 << 10; /* finite */
            if (!half && (words[i] >> 7 & 255) == 255) words[i] ^= 1 << 7;
        }
        word.dtype = half ? SAE_F16 : SAE_BF16;
        word.ndim = 1;
        word.shape[0] = g->n * stride;
        word.stride[0] = 1;
        word.data = words;
        sae_tensor_to_f32(&word, host);
        oracle_op_load_rows(host, stride, g->n, g->d, g->ld, 3, want, flags + 1);
        for (int device = 0; device < 2; device++) {
            rows.dtype = half ? SAE_F16 : SAE_BF16;
            rows.on_device = device;
            rows.data = device ? up_bytes(g, words, g->n * stride * sizeof *words) : words;
            OP(g, load_rows)(&g->w, &rows, g->n, 3, x, bad);
            same(g, "16-bit rows", down(g, x, g->n * g->ld), want, g->n * g->ld);
        }
    }
    down_bytes(g, flags, bad, sizeof flags[0]);
    CHECK(flags[0] == 0, "bad is %u after finite rows", flags[0]);
}
static void op_subtract(rig *g) {
    float *x = matrix(g, g->n), *b = matrix(g, 1), *want = floats(g, g->n * g->ld);
    float *dx = up(g, x, g->n * g->ld), *db = up(g, b, g->ld);
    float *out = (float *)device_bytes(g, g->n * g->ld * sizeof *out);
    oracle_op_subtract(x, b, g->n, g->ld, want);
    OP(g, subtract)(&g->w, dx, db, g->n, out);
    same(g, "difference", down(g, out, g->n * g->ld), want, g->n * g->ld);
}
static void op_axpy(rig *g) {
    size_t counts[] = { 1, 15, 16, 33, g->n * g->ld, 16384 + 5 };
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        size_t count = counts[k];
        float *x = floats(g, count), *y = floats(g, count), *want = floats(g, count), *dx, *dy, *out;
        if (g->num_device > 400) return;
        for (size_t i = 0; i < count; i++) x[i] = number(g), y[i] = number(g);
        dx = up(g, x, count), dy = up(g, y, count);
        out = (float *)device_bytes(g, count * sizeof *out);
        oracle_op_axpy(count, -0.3f, x, NULL, want);
        OP(g, axpy)(&g->w, count, -0.3f, dx, NULL, out);
        same(g, "a x", down(g, out, count), want, count);
        oracle_op_axpy(count, 1.7f, x, y, want);
        OP(g, axpy)(&g->w, count, 1.7f, dx, dy, out);
        same(g, "a x + y", down(g, out, count), want, count);
        OP(g, axpy)(&g->w, count, 1.7f, dx, dy, dy);
        same(g, "into y", down(g, dy, count), want, count);
        OP(g, upload)(&g->w, dy, y, count * sizeof *y);
        OP(g, axpy)(&g->w, count, 1.7f, dx, dy, dx);
        same(g, "into x", down(g, dx, count), want, count);
    }
}

/* ---- forward --------------------------------------------------------------------------------- */

static size_t bits_left; /* encodes that left bits */
static void encode_once(rig *g, sae_encode_args *h, sae_encode_args *a, sae_code *want, sae_code *got,
                        const char *what) {
    uint32_t *count = (uint32_t *)host_bytes(g, g->n * sizeof *count), *latent;
    float *pre;
    oracle_op_encode(h, want);
    OP(g, encode)(&g->w, a, got);
    CHECK(got->rows == a->n, "%s: %d rows", what, (int)got->rows);
    down_bytes(g, count, got->count, a->n * sizeof *count);
    latent = (uint32_t *)host_bytes(g, (g->n * got->stride + 16) * sizeof *latent);
    down_bytes(g, latent, got->latent, g->n * got->stride * sizeof *latent);
    pre = down(g, got->pre, g->n * got->stride);
    for (size_t r = 0; r < a->n; r++)
        if (count[r] != want->count[r]
            || memcmp(latent + r * got->stride, want->latent + r * want->stride,
                      count[r] * sizeof *latent)) {
            CHECK(false, "%s: row %d has %u latents or others, want %u", what, (int)r, count[r],
                  want->count[r]);
            return;
        }
    if (got->has_active_bits) {
        size_t bytes;
        uint64_t *bits = fires_of(g, want, &bytes), *left = (uint64_t *)host_bytes(g, bytes);
        down_bytes(g, left, got->active_bits, bytes);
        CHECK(!memcmp(left, bits, bytes), "%s: bits that are not the lists", what);
        bits_left++;
    }
    note(g, "counts", count, a->n * sizeof *count);
    ORACLE_OP_ENTRIES(want, r, j) {
        g->hash = check_hash(g->hash, latent + j, sizeof *latent);
    }
    same_entries(g, what, want, pre, want->pre);
}
static void op_encode(rig *g) {
    static const char *const names[] = { "all", "positive", "gate", "window", "top_k",
                                         "batch_top_k" };
    float *x = matrix(g, g->n), *W = matrix(g, g->m), *bias = vector(g, 0.1);
    float *theta = vector(g, g->mood == TIES ? -0.5 : 0.2), warm[2] = { 0, 0 };
    uint32_t *list = (uint32_t *)host_bytes(g, g->mp * 4), count = 0;
    sae_encode_args h, a;
    if (g->mood == SILENT)
        for (size_t i = 0; i < g->m; i++) bias[i] = -1000, theta[i] = 2;
    memset(&h, 0, sizeof h);
    h.x = x, h.W = W, h.bias = bias, h.n = g->n, h.d = g->d, h.ld = g->ld, h.m = g->m;
    h.theta = theta, h.bandwidth = 0.4f;
    a = h;
    a.x = up(g, x, g->n * g->ld), a.W = up(g, W, g->m * g->ld), a.bias = up(g, bias, g->mp);
    a.theta = up(g, theta, g->mp), a.warm = up(g, warm, 2);
    a.list = (uint32_t *)device_bytes(g, g->mp * 4);
    a.list_count = (uint32_t *)device_bytes(g, 4);
    for (int s = SAE_SELECT_ALL; s <= SAE_SELECT_BATCH_TOP_K; s++) {
        bool top = s == SAE_SELECT_TOP_K;
        sae_code want = code_new(g), got;
        if (top) want.stride = g->k;
        got = code_up(g, &want);
        got.active_bits = (uint64_t *)device_bytes(g, g->n * ((g->m + 63) / 64) * sizeof(uint64_t));
        h.select = a.select = (sae_select)s;
        h.k = a.k = top || s == SAE_SELECT_BATCH_TOP_K ? g->k : 0;
        for (int kind = 0; kind < 6; kind++) { /* all; a list of none, one, some, all; fewer rows */
            const uint32_t *dlist = a.list, *dcount = a.list_count;
            char what[64];
            snprintf(what, sizeof what, "%s, list %d", names[s], kind);
            h.n = a.n = kind == 5 ? g->n - g->n / 3 : g->n;
            count = 0;
            for (size_t i = 0; i < g->m; i++)
                if (kind == 4 || (kind == 3 && i % 3 == 1) || (kind == 2 && i == g->m / 2))
                    list[count++] = (uint32_t)i;
            h.list = list, h.list_count = &count;
            OP(g, upload)(&g->w, (void *)(uintptr_t)dlist, list, g->m * 4);
            OP(g, upload)(&g->w, (void *)(uintptr_t)dcount, &count, 4);
            if (kind == 0 || kind == 5) h.list = NULL, a.list = NULL;
            encode_once(g, &h, &a, &want, &got, what);
            a.list = dlist;
        }
        if (s != SAE_SELECT_BATCH_TOP_K) continue;
        /* whatever was guessed before, the same are chosen */
        h.n = a.n = g->n;
        h.list = NULL, a.list = NULL;
        for (int k = 0; k < 4; k++) {
            static const float guesses[] = { 0, 1e30f, 1e-30f, 0.5f };
            OP(g, upload)(&g->w, a.warm, guesses + k, sizeof(float));
            encode_once(g, &h, &a, &want, &got, "batch_top_k, guessing");
            encode_once(g, &h, &a, &want, &got, "batch_top_k, its own guess");
        }
    }
}

static void op_gate(rig *g) {
    sae_code h = code_new(g), c = code_up(g, &h);
    float *gate_bias = vector(g, 0), *r_mag = vector(g, 0.2), *mag_bias = vector(g, 0.1);
    float *gate = floats(g, g->n * g->m + 16);
    double *value = doubles(g, g->n * g->m + 16);
    oracle_op_gate(gate_bias, r_mag, mag_bias, &h, gate, value);
    OP(g, gate)(&g->w, up(g, gate_bias, g->mp), up(g, r_mag, g->mp), up(g, mag_bias, g->mp), &c);
    same_entries(g, "gate", &h, entries_down(g, &c, c.gate), gate);
    near_entries(g, "magnitude", &h, entries_down(g, &c, c.value), value, 2e-6);
}
static void op_jump(rig *g) {
    for (int k = 0; k < 2; k++) { /* thresholds around 0.3, then below 0 */
        sae_code h = code_new(g), c = code_up(g, &h);
        float *theta = vector(g, k ? -1 : 0.3);
        oracle_op_jump(theta, &h);
        OP(g, jump)(&g->w, up(g, theta, g->mp), &c);
        same_entries(g, "jump", &h, entries_down(g, &c, c.value), h.value);
    }
}
static void op_exp(rig *g) {
    sae_code h = code_new(g), c = code_up(g, &h);
    double *want = doubles(g, g->n * g->m + 16);
    float *value, *grad = floats(g, g->n * g->m + 16);
    ORACLE_OP_ENTRIES(&h, r, j) want[j] = exp((double)h.pre[j]);
    OP(g, exp_values)(&g->w, &c);
    value = entries_down(g, &c, c.value);
    near_entries(g, "exp", &h, value, want, 1e-7);
    OP(g, exp_grad)(&g->w, &c);
    ORACLE_OP_ENTRIES(&h, r, j) grad[j] = h.grad[j] * value[j];
    same_entries(g, "exp grad", &h, entries_down(g, &c, c.grad), grad);
}
static void op_decode(rig *g) {
    sae_code h = code_new(g), c = code_up(g, &h);
    size_t size = g->n * g->ld;
    float *W = matrix(g, g->m), *base = matrix(g, g->n), *want = floats(g, size);
    float *dW = up(g, W, g->m * g->ld), *dbase = up(g, base, size), *out = up(g, base, size);
    size_t ranges[][2] = { { 0, g->m }, { g->m / 3, 2 * g->m / 3 }, { 0, g->m / 2 },
                           { g->m / 2, g->m }, { 0, 0 } };
    for (size_t k = 0; k < sizeof ranges / sizeof *ranges; k++) {
        size_t lo = ranges[k][0], hi = ranges[k][1];
        oracle_op_decode(&h, h.pre, W, g->ld, lo, hi, NULL, 0, want);
        OP(g, decode)(&g->w, &c, c.pre, dW, lo, hi, NULL, 0, out);
        same(g, "decode", down(g, out, size), want, size);
        oracle_op_decode(&h, h.value, W, g->ld, lo, hi, base, 0, want);
        OP(g, decode)(&g->w, &c, c.value, dW, lo, hi, dbase, 0, out);
        same(g, "decode on a row", down(g, out, size), want, size);
        oracle_op_decode(&h, h.value, W, g->ld, lo, hi, base, g->ld, want);
        OP(g, decode)(&g->w, &c, c.value, dW, lo, hi, dbase, g->ld, out);
        same(g, "decode on a matrix", down(g, out, size), want, size);
        OP(g, upload)(&g->w, out, base, size * sizeof *out);
        OP(g, decode)(&g->w, &c, c.value, dW, lo, hi, out, g->ld, out);
        same(g, "decode in place", down(g, out, size), want, size);
    }
}
static void op_residual(rig *g) {
    size_t size = g->n * g->ld;
    float *x_hat = matrix(g, g->n), *y = matrix(g, g->n), *want = floats(g, size);
    float *dx = up(g, x_hat, size), *dy = up(g, y, size), *e = up(g, y, size);
    double *loss = (double *)device_bytes(g, sizeof *loss), want_loss;
    oracle_op_residual(x_hat, y, g->n, g->ld, want, &want_loss);
    OP(g, residual)(&g->w, dx, dy, g->n, e, loss);
    same(g, "residual", down(g, e, size), want, size);
    same_number(g, "loss", down_double(g, loss), want_loss);
    OP(g, residual)(&g->w, dx, dy, g->n, dx, loss);
    same(g, "residual in place", down(g, dx, size), want, size);
    memset(want + g->n / 2 * g->ld, 0, g->ld * sizeof *want); /* a zero row */
    OP(g, upload)(&g->w, e, want, size * sizeof *want);
    oracle_op_unit_rows(g->n, g->ld, want, &want_loss);
    OP(g, unit_rows)(&g->w, g->n, e, loss);
    same(g, "unit rows", down(g, e, size), want, size);
    same_number(g, "mean norm", down_double(g, loss), want_loss);
}
static void op_auxk(rig *g) {
    size_t size = g->n * g->ld;
    float *x_aux = matrix(g, g->n), *e = matrix(g, g->n), *de = up(g, e, size);
    float *dx = up(g, x_aux, size), *r = up(g, e, size);
    double *s = (double *)device_bytes(g, 2 * sizeof *s), *want = doubles(g, size), pre, norm;
    for (uint32_t dead = 0; dead < 2; dead++) {
        uint32_t *count = (uint32_t *)up_bytes(g, &dead, sizeof dead);
        oracle_op_auxk(x_aux, e, g->n, g->d, g->ld, dead, 1.0 / 32, want, &pre, &norm);
        OP(g, auxk_residual)(&g->w, dx, de, g->n, count, 1.0 / 32, r, s, s + 1);
        near(g, "auxk residual", down(g, r, size), want, size, 1e-6);
        near_number(g, "pre_norm", down_double(g, s), pre, 1e-6);
        near_number(g, "norm", down_double(g, s + 1), norm, 1e-6);
        if (!dead) continue;
        OP(g, auxk_residual)(&g->w, dx, de, g->n, count, 1.0 / 32, dx, s, s + 1);
        near(g, "auxk in place", down(g, dx, size), want, size, 1e-6);
    }
}
static void op_ghost(rig *g) {
    size_t size = g->n * g->ld;
    float *x_g = matrix(g, g->n), *e = matrix(g, g->n), *de = up(g, e, size);
    float *dx = up(g, x_g, size), *out = up(g, e, size);
    double *loss = (double *)device_bytes(g, sizeof *loss), *want = doubles(g, size), want_loss;
    for (uint32_t dead = 0; dead < 4; dead += 3) {
        uint32_t *count = (uint32_t *)up_bytes(g, &dead, sizeof dead);
        oracle_op_ghost(x_g, e, g->n, g->ld, dead, want, &want_loss);
        OP(g, ghost_residual)(&g->w, dx, de, g->n, count, out, loss);
        near(g, "ghost gradient", down(g, out, size), want, size, 1e-5);
        near_number(g, "ghost loss", down_double(g, loss), want_loss, 1e-6);
    }
}

/* ---- penalties and gradients of entries ------------------------------------------------------ */

static void op_penalty(rig *g) {
    static const struct {
        sae_penalty kind;
        double p;
        bool weighted;
    } kinds[] = {
        { SAE_PENALTY_L1, 0, false },   { SAE_PENALTY_L1, 0, true },
        { SAE_PENALTY_LP_P, 1, false }, { SAE_PENALTY_LP_P, 0.5, false },
        { SAE_PENALTY_LP_P, 0, false }, { SAE_PENALTY_LP, 1, false },
        { SAE_PENALTY_LP, 0.3, false }, { SAE_PENALTY_ENTROPY, 0, false },
    };
    size_t room = g->n * g->m + 16;
    sae_code h = code_new(g), c = code_up(g, &h);
    float *weight = vector(g, 1), *dweight = up(g, weight, g->mp), *zero = floats(g, room);
    double *loss = (double *)device_bytes(g, sizeof *loss), *want = doubles(g, room), want_loss;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        char what[64];
        snprintf(what, sizeof what, "penalty %d, p %g", (int)kinds[k].kind, kinds[k].p);
        oracle_op_penalty(kinds[k].kind, kinds[k].p, 0.7, kinds[k].weighted ? weight : NULL, &h,
                          h.value, g->m, want, &want_loss);
        OP(g, upload)(&g->w, c.grad, zero, room * sizeof *zero);
        OP(g, penalty)(&g->w, kinds[k].kind, kinds[k].p, 0.7, kinds[k].weighted ? dweight : NULL,
                       &c, c.value, c.grad, loss);
        near_number(g, what, down_double(g, loss), want_loss, 1e-9);
        near_entries(g, what, &h, entries_down(g, &c, c.grad), want, 1e-6);
        OP(g, upload)(&g->w, c.grad, h.grad, room * sizeof *zero); /* it adds to what is there */
        OP(g, penalty)(&g->w, kinds[k].kind, kinds[k].p, 0.7, kinds[k].weighted ? dweight : NULL,
                       &c, c.value, c.grad, loss);
        ORACLE_OP_ENTRIES(&h, r, j) want[j] += (double)h.grad[j];
        near_entries(g, what, &h, entries_down(g, &c, c.grad), want, 1e-6);
        OP(g, penalty)(&g->w, kinds[k].kind, kinds[k].p, 0.7, kinds[k].weighted ? dweight : NULL,
                       &c, c.value, NULL, loss);
        near_number(g, "without gradient", down_double(g, loss), want_loss, 1e-9);
    }
}
static void op_dots(rig *g) {
    size_t room = g->n * g->m + 16;
    sae_code h = code_new(g), c = code_up(g, &h);
    float *e = matrix(g, g->n), *W = matrix(g, g->m);
    float *de = up(g, e, g->n * g->ld), *dW = up(g, W, g->m * g->ld);
    size_t ranges[][2] = { { 0, g->m }, { g->m / 3, 2 * g->m / 3 }, { g->m / 2, g->m } };
    for (size_t k = 0; k < 6; k++) {
        size_t lo = ranges[k % 3][0], hi = ranges[k % 3][1];
        bool relu = k >= 3;
        float *want = copy(g, h.grad, room);
        OP(g, upload)(&g->w, c.grad, h.grad, room * sizeof *want);
        oracle_op_dots(&h, e, W, g->ld, lo, hi, -1.3f, relu ? h.pre : NULL, want);
        OP(g, dots)(&g->w, &c, de, dW, lo, hi, -1.3f, relu ? c.pre : NULL, c.grad);
        same_entries(g, "dots", &h, entries_down(g, &c, c.grad), want);
    }
}
static void op_gate_grad(rig *g) {
    size_t room = g->n * g->m + 16;
    sae_code h = code_new(g), c = code_up(g, &h);
    float *r_mag = vector(g, -0.2);
    double *mag = doubles(g, room), *r_grad = doubles(g, room), *grad = doubles(g, room);
    oracle_op_gate_grad(r_mag, &h, mag, r_grad, grad);
    OP(g, gate_grad)(&g->w, up(g, r_mag, g->mp), &c);
    near_entries(g, "dL/dmag", &h, entries_down(g, &c, c.extra[0]), mag, 0);
    near_entries(g, "dL/dr", &h, entries_down(g, &c, c.extra[2]), r_grad, 1e-6);
    near_entries(g, "dL/du", &h, entries_down(g, &c, c.grad), grad, 2e-6);
}
static void op_jump_grad(rig *g) {
    size_t room = g->n * g->m + 16;
    double *d = (double *)device_bytes(g, 2 * sizeof *d), l0, loss, *theta_grad = doubles(g, room);
    float *grad = floats(g, room);
    for (int k = 0; k < 3; k++) { /* thresholds above 0, on both sides, below 0 */
        sae_code h = code_new(g), c;
        float *theta = vector(g, k == 0 ? 0.8 : k == 1 ? 0 : -0.9), *dtheta, *base, *got;
        float bandwidth = 0.6f;
        sae_index host, index;
        double *want = doubles(g, g->mp), slope;
        if (g->num_device > 400) break;
        oracle_op_jump(theta, &h); /* values by the thresholds */
        c = code_up(g, &h);
        dtheta = up(g, theta, g->mp);
        oracle_op_jump_grad(theta, bandwidth, 0.4, 3, &h, g->m, theta_grad, grad, &l0, &loss);
        OP(g, jump_grad)(&g->w, dtheta, bandwidth, 0.4, 3, &c, d, d + 1);
        same_number(g, "l0", down_double(g, d), l0);
        near_number(g, "L0 loss", down_double(g, d + 1), loss, 1e-12);
        near_entries(g, "dL/dtheta", &h, entries_down(g, &c, c.extra[0]), theta_grad, 1e-6);
        same_entries(g, "dL/dp", &h, entries_down(g, &c, c.grad), grad);

        index_both(g, &h, &host, &index);
        base = vector(g, 0);
        slope = oracle_op_jump_slope(0.4, 3, l0, g->n, bandwidth);
        for (size_t i = 0; i < g->m; i++) {
            want[i] = (double)base[i];
            if (oracle_op_window(0, theta[i], bandwidth))
                want[i] += (double)(g->n - (host.begin[i + 1] - host.begin[i])) * slope;
        }
        got = up(g, base, g->mp);
        OP(g, jump_rest)(&g->w, dtheta, bandwidth, 0.4, 3, d, &index, g->n, got);
        near(g, "theta of unlisted rows", down(g, got, g->mp), want, g->mp, 1e-6);
    }
}

/* ---- by latent ------------------------------------------------------------------------------- */

/* The rows of an index's entries, which may be given as bits. */
static uint32_t *rows_down(rig *g, const sae_index *index, size_t total) {
    size_t words = (g->n + 63) / 64 * g->m, at = 0;
    uint32_t *row = (uint32_t *)host_bytes(g, (total + 1) * sizeof *row);
    uint64_t *bits;
    if (!index->has_bits) {
        down_bytes(g, row, index->row, total * sizeof *row);
        return row;
    }
    bits = (uint64_t *)host_bytes(g, words * sizeof *bits);
    down_bytes(g, bits, index->row, words * sizeof *bits);
    for (size_t i = 0; i < g->m; i++)
        for (size_t r = 0; r < (g->n + 63) / 64 * 64; r++)
            if (bits[r / 64 * g->m + i] >> r % 64 & 1 && at < total) row[at++] = (uint32_t)r;
    CHECK(at == total, "%d bits of %d entries", (int)at, (int)total);
    return row;
}
static void op_index(rig *g) {
    sae_code h = code_new(g), c = code_up(g, &h);
    sae_index want = index_new(g, false), got = index_new(g, true);
    const float *hv[] = { h.pre, h.value, h.grad, h.extra[0], h.extra[1] };
    const float *dv[] = { c.pre, c.value, c.grad, c.extra[0], c.extra[1] };
    size_t *begin = (size_t *)host_bytes(g, (g->m + 1) * sizeof *begin), total;
    uint32_t *row;
    for (size_t count = 0; count <= SAE_INDEX_VALUES; count++) {
        if (count == 3) fires_up(g, &h, &c);
        oracle_op_index(&h, hv, count, &want);
        OP(g, index)(&g->w, &c, dv, count, &got);
        total = want.begin[g->m];
        down_bytes(g, begin, got.begin, (g->m + 1) * sizeof *begin);
        row = rows_down(g, &got, total);
        CHECK(!memcmp(begin, want.begin, (g->m + 1) * sizeof *begin), "begins with %d values",
              (int)count);
        CHECK(!memcmp(row, want.row, total * 4), "rows with %d values", (int)count);
        note(g, "rows", row, total * 4);
        for (size_t v = 0; v < count; v++)
            same(g, "indexed values", down(g, got.value[v], want.capacity), want.value[v], total);
    }
}
static void op_latent_rows(rig *g) {
    sae_code h = code_new(g), c = code_up(g, &h);
    sae_index host, index;
    const float *values[] = { c.pre, c.value, c.grad };
    size_t size = g->m * g->ld, ranges[][2] = { { 0, g->m }, { g->m / 3, 2 * g->m / 3 } };
    float *x = matrix(g, g->n), *start = matrix(g, g->m), *dx = up(g, x, g->n * g->ld);
    float *out = up(g, start, size);
    index_both(g, &h, &host, &index);
    for (int k = 0; k < 8; k++) {
        size_t lo = ranges[k / 2 % 2][0], hi = ranges[k / 2 % 2][1];
        bool add = k % 2;
        float *want = copy(g, start, size);
        if (k == 4) OP(g, index)(&g->w, &c, values, 3, &index); /* as the backend itself makes it */
        OP(g, upload)(&g->w, out, start, size * sizeof *out);
        oracle_op_latent_rows(&host, 2, x, g->ld, lo, hi, 0.7f, add, want);
        OP(g, latent_rows)(&g->w, &index, 2, dx, lo, hi, 0.7f, add, out);
        same(g, add ? "rows added" : "rows", down(g, out, size), want, size);
    }
}
static void op_latent_sums(rig *g) {
    sae_code h = code_new(g);
    sae_index host, index;
    float *start = vector(g, 0), *out = up(g, start, g->mp);
    uint64_t *since = (uint64_t *)host_bytes(g, g->mp * 8), *got, *dsince, thresholds[] = { 0, 5, 900 };
    uint32_t *list = (uint32_t *)device_bytes(g, g->mp * 4), *count = (uint32_t *)device_bytes(g, 4);
    uint32_t *listed = (uint32_t *)host_bytes(g, g->mp * 4), found, n;
    index_both(g, &h, &host, &index);
    for (int add = 0; add < 2; add++) {
        float *want = copy(g, start, g->mp);
        for (size_t i = 0; i < g->m; i++) {
            float sum = (float)oracle_op_latent_sum(&host, 0, i);
            want[i] = add ? want[i] + sum : sum;
        }
        for (int k = 0; k < 2; k++) { /* from the lists, as bits too; or as it is without */
            sae_code c = code_up(g, &h);
            if (k) fires_up(g, &h, &c);
            OP(g, upload)(&g->w, out, start, g->mp * sizeof *out);
            if (g->ops->code_sums) OP(g, code_sums)(&g->w, &c, c.pre, g->m, add, out);
            else OP(g, latent_sums)(&g->w, &index, 0, add, out);
            same(g, "sums of entries", down(g, out, g->mp), want, g->m);
        }
        OP(g, upload)(&g->w, out, start, g->mp * sizeof *out);
        OP(g, latent_sums)(&g->w, &index, 0, add, out);
        same(g, "sums", down(g, out, g->mp), want, g->mp);
    }
    got = (uint64_t *)host_bytes(g, g->mp * 8);
    for (int which = -1; which < 2; which++) { /* entries; pre, which may sum below 0; value */
        for (size_t i = 0; i < g->m; i++) since[i] = below(g, 10);
        dsince = (uint64_t *)up_bytes(g, since, g->mp * 8);
        OP(g, fired)(&g->w, &index, which, 7, dsince);
        down_bytes(g, got, dsince, g->mp * 8);
        for (size_t i = 0; i < g->m; i++) {
            bool fired = which < 0 ? host.begin[i + 1] > host.begin[i]
                                   : oracle_op_latent_sum(&host, (size_t)which, i) > 0;
            since[i] = fired ? 0 : since[i] + 7;
        }
        CHECK(!memcmp(got, since, g->mp * 8), "fired by %d", which);
        note(g, "rows since", got, g->mp * 8);
    }
    for (int k = 0; k < 3; k++) {
        OP(g, list_silent)(&g->w, dsince, thresholds[k], g->m, list, count);
        down_bytes(g, &n, count, 4);
        down_bytes(g, listed, list, g->mp * 4);
        found = 0;
        for (size_t i = 0; i < g->m; i++)
            if (since[i] >= thresholds[k]) {
                CHECK(found < n && listed[found] == i, "latent %d is not listed", (int)i);
                found++;
            }
        CHECK(found == n, "%u silent, want %u", n, found);
    }
}

/* ---- sums ------------------------------------------------------------------------------------ */

static void op_sums(rig *g) {
    float *x = matrix(g, g->n), *W = matrix(g, g->m), *s = vector(g, 0), *b = matrix(g, 1);
    float *dx = up(g, x, g->n * g->ld), *dW = up(g, W, g->m * g->ld), *ds = up(g, s, g->mp);
    float *out = up(g, b, g->ld), *want = copy(g, b, g->ld);
    double *d = (double *)device_bytes(g, sizeof *d), scatter;
    sae_code h = code_new(g), c = code_up(g, &h);
    size_t nonzero = 0, counts[] = { 16, g->n * g->ld, 16384, 16384 * 2 + 48 };
    s[g->m / 2] = 0;
    OP(g, upload)(&g->w, ds, s, g->mp * sizeof *s);
    oracle_op_rows_sum(W, s, g->m, g->ld, 0.3f, true, want);
    OP(g, weighted_sum)(&g->w, dW, ds, g->m, 0.3f, out);
    same(g, "weighted sum", down(g, out, g->ld), want, g->ld);
    oracle_op_rows_sum(x, NULL, g->n, g->ld, -0.7f, false, want);
    OP(g, column_sums)(&g->w, dx, g->n, -0.7f, out);
    same(g, "column sums", down(g, out, g->ld), want, g->ld);
    for (size_t k = 0; k < 4; k++) {
        float *y = floats(g, counts[k]);
        for (size_t i = 0; i < counts[k]; i++) y[i] = number(g);
        OP(g, sum_squares)(&g->w, up(g, y, counts[k]), counts[k], d);
        same_number(g, "sum of squares", down_double(g, d), oracle_op_sum_squares(y, counts[k]));
    }
    scatter = oracle_op_scatter(x, g->n, g->d, g->ld);
    OP(g, variance)(&g->w, dx, g->n, d);
    near_number(g, "variance", down_double(g, d), g->n > 1 ? scatter / (double)(g->n - 1) : 0, 1e-10);
    ORACLE_OP_ENTRIES(&h, r, j) nonzero += h.value[j] != 0;
    OP(g, count_nonzero)(&g->w, &c, d);
    same_number(g, "mean count", down_double(g, d), (double)nonzero / (double)g->n);
}

/* Only the CPU has every operation: the others refuse a trainer that needs one they lack. */
static bool lacks(rig *g, bool there) {
    CHECK(there || g->ops != sae_cpu_backend(), "the CPU lacks it");
    g->left_out = !there;
    return !there;
}

/* W [m][ld]: m outputs. */
static void op_skip(rig *g) {
    size_t room = g->n * g->mp;
    float *x = matrix(g, g->n), *W = matrix(g, g->m), *y = floats(g, room), *e = floats(g, room);
    float *want = floats(g, room), *grad = floats(g, g->m * g->ld);
    float *dx = up(g, x, g->n * g->ld), *dW = up(g, W, g->m * g->ld), *out = up(g, want, room);
    float *dgrad = up(g, grad, g->m * g->ld);
    if (lacks(g, g->ops->skip != NULL)) return;
    for (size_t r = 0; r < g->n; r++)
        for (size_t o = 0; o < g->m; o++) {
            y[r * g->mp + o] = number(g), e[r * g->mp + o] = number(g);
            want[r * g->mp + o] =
                y[r * g->mp + o] + (float)-oracle_op_dot(x + r * g->ld, W + o * g->ld, g->ld);
        }
    OP(g, skip)(&g->w, dx, g->n, dW, g->m, up(g, y, room), out);
    same(g, "y - W x", down(g, out, room), want, room);
    for (size_t o = 0; o < g->m; o++)
        for (size_t c = 0; c < g->ld; c++) {
            float sum = 0;
            for (size_t at = 0; at < g->n; at += 1024) {
                float part = 0;
                for (size_t r = at; r < g->n && r < at + 1024; r++)
                    part = fmaf(e[r * g->mp + o], x[r * g->ld + c], part);
                sum += part;
            }
            grad[o * g->ld + c] = -0.7f * sum;
        }
    OP(g, skip_grad)(&g->w, dx, up(g, e, room), g->n, g->m, -0.7f, dgrad);
    same(g, "sum e x", down(g, dgrad, g->m * g->ld), grad, g->m * g->ld);
}

static void op_signum(rig *g) {
    size_t count = g->n * g->ld;
    float *grad = matrix(g, g->n), *z = matrix(g, g->n), *a = matrix(g, g->n);
    float *p = floats(g, count), *dg = up(g, grad, count);
    float *dz = up(g, z, count), *da = up(g, a, count), *dp = up(g, p, count);
    if (lacks(g, g->ops->signum != NULL)) return;
    for (size_t i = 0; i < count; i++) {
        z[i] -= grad[i] > 0 ? 0.01f : grad[i] < 0 ? -0.01f : 0;
        a[i] = fmaf(0.25f, z[i] - a[i], a[i]);
        p[i] = fmaf(0.05f, z[i] - a[i], a[i]);
    }
    OP(g, signum)(&g->w, 0.01f, 0.25f, 0.05f, dg, dz, da, dp, count);
    same(g, "z", down(g, dz, count), z, count);
    same(g, "average", down(g, da, count), a, count);
    same(g, "parameters", down(g, dp, count), p, count);
}

/* ---- weights --------------------------------------------------------------------------------- */

static void op_norms(rig *g) {
    size_t size = g->m * g->ld;
    float *W = matrix(g, g->m), *start = matrix(g, g->m), *sums = vector(g, 1), *dW, *norms, *weight;
    float *want = floats(g, g->mp), *grad, *dsums = up(g, sums, g->mp);
    double *near_want = doubles(g, size);
    memset(W + g->m / 2 * g->ld, 0, g->ld * sizeof *W); /* a zero row */
    dW = up(g, W, size);
    norms = (float *)device_bytes(g, g->mp * sizeof *norms);
    weight = (float *)device_bytes(g, g->mp * sizeof *norms);
    for (size_t i = 0; i < g->m; i++)
        want[i] = (float)sqrt(oracle_op_dot(W + i * g->ld, W + i * g->ld, g->ld));
    OP(g, row_norms)(&g->w, dW, g->m, norms);
    same(g, "norms", down(g, norms, g->mp), want, g->mp);
    for (int power = 1; power <= 2; power++) {
        float *squared = copy(g, want, g->mp);
        for (size_t i = 0; power == 2 && i < g->m; i++) squared[i] = want[i] * want[i];
        OP(g, norm_weight)(&g->w, norms, power, g->m, weight);
        same(g, "weights", down(g, weight, g->mp), squared, g->mp);
        for (size_t q = 0; q < size; q++) {
            size_t i = q / g->ld;
            double factor = power == 2 ? 2 : want[i] > 0 ? 1 / (double)want[i] : 0;
            near_want[q] = (double)start[q] + 0.2 * factor * (double)sums[i] * (double)W[q];
        }
        grad = up(g, start, size);
        OP(g, norm_grad)(&g->w, dW, norms, dsums, power, 0.2f, g->m, grad);
        near(g, "norm gradient", down(g, grad, size), near_want, size, 2e-6);
    }
    for (int k = 0; k < 2; k++) { /* eps 0, then one that matters */
        float eps = k ? 0.1f : 0;
        for (size_t i = 0; i < g->m; i++) {
            const float *row = W + i * g->ld, *gr = start + i * g->ld;
            double norm = 0, dot = 0;
            for (size_t c = 0; c < g->ld; c++) norm += (double)row[c] * (double)row[c];
            norm = sqrt(norm) + (double)eps;
            for (size_t c = 0; c < g->ld; c++) dot += (double)gr[c] * (double)row[c];
            for (size_t c = 0; c < g->ld; c++)
                near_want[i * g->ld + c] =
                    (double)gr[c] - (norm > 0 ? dot / norm / norm * (double)row[c] : 0);
        }
        grad = up(g, start, size);
        OP(g, remove_parallel)(&g->w, dW, g->m, eps, NULL, grad);
        near(g, "parallel part removed", down(g, grad, size), near_want, size, 3e-6);
        for (size_t q = 0; q < size; q++) {
            double norm = (double)want[q / g->ld] + (double)eps;
            near_want[q] = norm > 0 ? (double)W[q] / norm : 0;
        }
        grad = up(g, W, size);
        OP(g, normalize_rows)(&g->w, g->m, eps, grad);
        near(g, "rows of norm 1", down(g, grad, size), near_want, size, 1e-6);
    }
}
static void op_adam(rig *g) {
    size_t size = g->m * g->ld;
    sae_adam_desc adam = { 1e-2, 0.9, 0.999, 1e-8 };
    for (int k = 0; k < 4; k++) { /* plain; clipped; hardly clipped; beta1 0 */
        float *param = matrix(g, g->m), *grad = matrix(g, g->m), *dp = up(g, param, size);
        float *dg = up(g, grad, size), *df, *ds;
        double *p = doubles(g, size), *first = doubles(g, size), *second = doubles(g, size);
        double squares = oracle_op_sum_squares(grad, size), scale = 1;
        double *dsquares = (double *)up_bytes(g, &squares, sizeof squares);
        double max_norm = k == 1 ? 0.5 * sqrt(squares) : 2 * sqrt(squares) + 1;
        df = k == 3 ? NULL : (float *)device_bytes(g, size * sizeof *df);
        ds = (float *)device_bytes(g, size * sizeof *ds);
        adam.beta1 = k == 3 ? 0 : 0.9;
        for (size_t i = 0; i < size; i++) p[i] = (double)param[i];
        if (k == 1 || k == 2) scale = fmin(1, max_norm / (sqrt(squares) + 1e-6));
        for (uint64_t t = 1; t <= 3; t++) {
            oracle_op_adam(&adam, t, scale, p, grad, k == 3 ? NULL : first, second, size);
            OP(g, adam)(&g->w, &adam, t, k == 1 || k == 2 ? dsquares : NULL, max_norm, dp, dg, df, ds,
                        size);
        }
        near(g, "parameters", down(g, dp, size), p, size, 1e-5);
        if (df) near(g, "first moments", down(g, df, size), first, size, 2e-6);
        near(g, "second moments", down(g, ds, size), second, size, 2e-6);
    }
}
/* The optional operations against the ones they stand for, bit for bit. */
static void op_fused(rig *g) {
    size_t size = g->m * g->ld, rows = g->n * g->ld, room = g->n * g->m + 16;
    sae_code h = code_new(g), c = code_up(g, &h);
    float *W = up(g, matrix(g, g->m), size), *base = up(g, matrix(g, 1), g->ld), *grad[2];
    float *y = up(g, matrix(g, g->n), rows), *e[2];
    double *loss = (double *)device_bytes(g, 2 * sizeof *loss);
    sae_adam_desc adam = { 1e-2, 0.9, 0.999, 1e-8 };
    for (int k = 0; k < 2; k++) {
        e[k] = (float *)device_bytes(g, rows * sizeof(float));
        grad[k] = up(g, h.grad, room);
    }
    if (g->n % 2) fires_up(g, &h, &c);
    OP(g, reconstruct)(&g->w, &c, c.value, W, base, y, 0.7f, c.value, e[0], loss, grad[0]);
    OP(g, decode)(&g->w, &c, c.value, W, 0, g->m, base, 0, e[1]);
    OP(g, residual)(&g->w, e[1], y, g->n, e[1], loss + 1);
    OP(g, dots)(&g->w, &c, e[1], W, 0, g->m, 0.7f, c.value, grad[1]);
    same(g, "e", down(g, e[0], rows), down(g, e[1], rows), rows);
    same_number(g, "loss", down_double(g, loss), down_double(g, loss + 1));
    same_entries(g, "grad", &h, entries_down(g, &c, grad[0]), entries_down(g, &c, grad[1]));
    for (int k = 0; k < 2; k++) { /* with the projection and its own beta1; without */
        float *start = matrix(g, g->m), *slope = matrix(g, g->m), *p[2], *d[2], *first[2], *second[2];
        for (int i = 0; i < 2; i++) {
            p[i] = up(g, start, size);
            d[i] = up(g, slope, size);
            first[i] = (float *)device_bytes(g, size * sizeof(float));
            second[i] = (float *)device_bytes(g, size * sizeof(float));
        }
        OP(g, adam_rows)(&g->w, &adam, 1, NULL, 1, k ? -1 : 0, k ? 1e-6f : 0, NULL, g->m, p[0], d[0],
                         first[0], second[0]);
        if (!k) OP(g, remove_parallel)(&g->w, p[1], g->m, 0, NULL, d[1]);
        OP(g, adam)(&g->w, &adam, 1, NULL, 1, p[1], d[1], first[1], second[1], size);
        OP(g, normalize_rows)(&g->w, g->m, k ? 1e-6f : 0, p[1]);
        same(g, "gradient", down(g, d[0], size), down(g, d[1], size), size);
        same(g, "parameters", down(g, p[0], size), down(g, p[1], size), size);
        same(g, "first moments", down(g, first[0], size), down(g, first[1], size), size);
        same(g, "second moments", down(g, second[0], size), down(g, second[1], size), size);
    }
}
/* Rows that wait, through 60 updates of few latents, against all rows in every update: bit for bit. */
/* Sums of layers: of pieces of 256 columns, each a dot of whole vectors. */
static double layer_squares(rig *g, const float *x, size_t n) {
    double sum = 0;
    float piece[256];
    (void)g;
    for (size_t c = 0; c < n; c += 256) {
        size_t some = n - c < 256 ? n - c : 256;
        memset(piece, 0, 256 * sizeof *piece);
        memcpy(piece, x + c, some * sizeof *piece);
        sum += oracle_op_dot(piece, piece, (some + 15) / 16 * 16);
    }
    return sum;
}

static void op_layers(rig *g) {
    const size_t layers = g->d % 3 == 0 ? 3 : g->d % 2 == 0 ? 2 : 1, d = g->d / layers;
    const size_t size = g->n * g->ld;
    float *x = matrix(g, g->n), *y = matrix(g, g->n), *mean = floats(g, g->ld), scale[3];
    float *want = floats(g, size), *unit = floats(g, size), *dx, *dy, *e, *u;
    double *loss = (double *)device_bytes(g, sizeof *loss), sum = 0;
    if (lacks(g, g->ops->layer_errors != NULL)) return;
    for (size_t c = 0; c < g->d; c++) mean[c] = number(g);
    for (size_t l = 0; l < layers; l++) scale[l] = 0.5f + (float)l;
    dx = up(g, x, size);
    dy = up(g, y, size);
    for (size_t r = 0; r < g->n; r++)
        for (size_t c = 0; c < g->d; c++)
            want[r * g->ld + c] = (x[r * g->ld + c] - mean[c]) * scale[c / d];
    OP(g, center_layers)(&g->w, g->n, layers, up(g, mean, g->ld), up(g, scale, layers), dx);
    same(g, "centred", down(g, dx, size), want, size);
    e = up(g, y, size);
    u = up(g, y, size);
    for (int squared = 0; squared < 2; squared++) {
        sum = 0;
        for (size_t r = 0; r < g->n; r++)
            for (size_t l = 0; l < layers; l++) {
                size_t at = r * g->ld + l * d;
                double square;
                float norm;
                for (size_t c = at; c < at + d; c++) x[c] = want[c] - y[c];
                square = layer_squares(g, x + at, d);
                norm = (float)sqrt(square);
                sum += (squared ? square : sqrt(square)) / (double)(g->n * layers);
                for (size_t c = at; c < at + d; c++)
                    unit[c] = squared ? x[c] : norm > 0 ? x[c] / norm : 0;
            }
        OP(g, layer_errors)(&g->w, dx, dy, g->n, layers, layers, squared, e, u, loss);
        same(g, "errors of layers", down(g, e, size), x, size);
        same(g, "units of layers", down(g, u, size), unit, size);
        CHECK(check_near(down_double(g, loss), sum, 1e-12), "loss of layers");
    }
    for (size_t l = 0; l < layers; l++) /* one after the other */
        OP(g, layer_errors)(&g->w, dx, dy, g->n, layers, l, true, e, u, loss);
    same(g, "errors of each layer", down(g, e, size), x, size);
    CHECK(check_near(down_double(g, loss), sum, 1e-12), "loss of each layer");
    for (size_t q = 0; q < size; q++)
        if (q % g->ld < (layers - 1) * d) unit[q] = 0;
    same(g, "units of the last layer", down(g, u, size), unit, size);
}

static void op_layer_weights(rig *g) {
    const size_t layers = g->d % 3 == 0 ? 3 : g->d % 2 == 0 ? 2 : 1, d = g->d / layers;
    const size_t size = g->m * g->ld;
    float *W = matrix(g, g->m), *sums = vector(g, 0.5), *bias = vector(g, 0);
    float *want = floats(g, g->mp), *grad = floats(g, size), *weighed = floats(g, size);
    float *dW = up(g, W, size), *out = up(g, want, g->mp), *dgrad = up(g, grad, size);
    float *dweighed = up(g, weighed, size), *dbias = up(g, bias, g->mp);
    double *square = doubles(g, g->m * layers);
    sae_code h = code_new(g), c;
    if (lacks(g, g->ops->layer_norms != NULL)) return;
    for (size_t q = 0; q < g->m * layers; q++)
        square[q] = layer_squares(g, W + q / layers * g->ld + q % layers * d, d);
    for (size_t only = 0; only <= layers; only++) {
        for (size_t i = 0; i < g->m; i++) {
            double all = 0, sum = 0;
            for (size_t l = 0; l < layers; l++) {
                all += square[i * layers + l];
                sum += sqrt(square[i * layers + l]);
            }
            want[i] = (float)(only < layers ? sqrt(square[i * layers + only])
                                            : 0.7 * sqrt(all) + 0.3 * sum);
        }
        OP(g, layer_norms)(&g->w, dW, g->m, layers, only, 0.7, 0.3, out);
        same(g, "norms of layers", down(g, out, g->mp), want, g->mp);
    }
    for (size_t i = 0; i < g->m; i++) {
        double all = 0;
        for (size_t l = 0; l < layers; l++) all += square[i * layers + l];
        for (size_t c2 = 0; c2 < g->d; c2++) {
            double own = square[i * layers + c2 / d];
            double slope = (all > 0 ? 0.7 / sqrt(all) : 0) + (own > 0 ? 0.3 / sqrt(own) : 0);
            float factor = (float)((double)0.2f * (double)sums[i] * slope);
            grad[i * g->ld + c2] = fmaf(factor, W[i * g->ld + c2], 0);
            weighed[i * g->ld + c2] = want[i] * W[i * g->ld + c2];
        }
        bias[i] *= want[i];
    }
    OP(g, layer_norm_grad)(&g->w, dW, g->m, layers, 0.7, 0.3, up(g, sums, g->mp), 0.2f, dgrad);
    same(g, "gradient of the norms", down(g, dgrad, size), grad, size);
    OP(g, weigh_rows)(&g->w, dW, dbias, out, g->m, dweighed, dbias);
    same(g, "weighed rows", down(g, dweighed, size), weighed, size);
    same(g, "weighed biases", down(g, dbias, g->mp), bias, g->mp);
    c = code_up(g, &h);
    OP(g, unweigh)(&g->w, out, &c);
    for (size_t r = 0; r < h.rows; r++)
        for (size_t k = r * h.stride; k < r * h.stride + h.count[r]; k++) {
            float v = h.value[k] != 0 ? h.value[k] / want[h.latent[k]] : h.value[k], got;
            down_bytes(g, &got, c.value + k, sizeof got);
            CHECK(got == v || (got != got && v != v), "unweighed %g, want %g", (double)got, (double)v);
        }
}

static void op_layer_latents(rig *g) {
    const size_t layers = g->d % 3 == 0 ? 3 : g->d % 2 == 0 ? 2 : 1, d = g->d / layers;
    const size_t size = g->m * g->ld;
    float *x = matrix(g, g->n), *dx = up(g, x, g->n * g->ld), *median, *each;
    uint64_t *since = (uint64_t *)host_bytes(g, g->mp * sizeof *since), *dsince;
    float *enc[3], *dec[3], *bias[3], *got, *before = matrix(g, g->m);
    double *count = (double *)device_bytes(g, sizeof *count), alive = 0;
    size_t dead = 0, used = 0;
    sae_code h = code_new(g), c = code_up(g, &h);
    if (lacks(g, g->ops->layer_median != NULL)) return;
    median = up(g, before, g->ld);
    OP(g, layer_median)(&g->w, dx, g->n, layers, median);
    if (layers == 1) { /* the other operation's */
        each = up(g, before, g->ld);
        OP(g, geometric_median)(&g->w, dx, g->n, each);
        median = down(g, median, g->ld);
        each = down(g, each, g->ld);
        for (size_t k = 0; k < g->d; k++)
            CHECK(fabsf(median[k] - each[k]) <= 1e-4f, "median %g, want %g", (double)median[k],
                  (double)each[k]);
    }
    for (size_t i = 0; i < g->m; i++) since[i] = i % 3;
    dsince = (uint64_t *)up_bytes(g, since, g->mp * sizeof *since);
    OP(g, count_quiet)(&g->w, &c, NULL, 0.25f, g->m, dsince);
    for (size_t i = 0; i < g->m; i++) {
        uint64_t now;
        since[i]++;
        for (size_t r = 0; r < h.rows; r++)
            for (size_t k = r * h.stride; k < r * h.stride + h.count[r]; k++)
                if (h.latent[k] == i && h.value[k] > 0.25f) since[i] = 0;
        down_bytes(g, &now, dsince + i, sizeof now);
        CHECK(now == since[i], "quiet for %d, want %d", (int)now, (int)since[i]);
        dead += since[i] > 1;
        if (since[i] <= 1) alive += sqrt(layer_squares(g, before + i * g->ld, d));
    }
    for (int k = 0; k < 3; k++) {
        enc[k] = up(g, before, size);
        dec[k] = up(g, before, size);
        bias[k] = up(g, before, g->mp);
    }
    OP(g, layer_resample)(&g->w, dx, dx, g->n, layers, dsince, 1, g->m, 3, 4, enc, dec, bias, count);
    CHECK(down_double(g, count) == (double)(dead < g->n ? dead : g->n), "resampled");
    got = down(g, enc[0], size);
    for (size_t i = 0; i < g->m; i++) {
        bool restarted = since[i] > 1 && used < g->n;
        double norm = sqrt(layer_squares(g, got + i * g->ld, d));
        double want = 0.05 * alive / (double)(g->m - dead), most = 0;
        used += restarted;
        if (!restarted) {
            CHECK(!memcmp(got + i * g->ld, before + i * g->ld, g->ld * sizeof *got), "row %d",
                  (int)i);
            continue;
        }
        for (size_t r = 0; r < g->n && dead < g->m; r++) /* 0.05 mean norm times one of the rows */
            most = fmax(most, want * sqrt(layer_squares(g, x + r * g->ld, d)));
        CHECK(norm <= most * (1 + 1e-5), "a row of %g, the largest is %g", norm, most);
    }
}

static void op_catch_up(rig *g) {
    size_t size = g->m * g->ld;
    sae_adam_desc adam = { 1e-2, 0.9, 0.999, 1e-8 };
    bool waits = g->ops->catch_up != NULL; /* else both sides are the plain one */
    for (int k = 0; k < 2; k++) { /* projected with adam; alone, as where the gradient is clipped */
        sae_code h = code_new(g), c;
        float *start = matrix(g, g->m), *p[2], *first[2], *second[2], *grad[2];
        uint32_t waiting;
        sae_lazy_adam lazy;
        memset(&lazy, 0, sizeof lazy);
        memset(h.count, 0, g->n * sizeof *h.count);
        c = code_up(g, &h);
        lazy.enabled = waits;
        lazy.unit = k ? 1e-6f : 0;
        lazy.last_active = (uint64_t *)device_bytes(g, g->m * sizeof *lazy.last_active);
        lazy.applied = (uint64_t *)device_bytes(g, g->m * sizeof *lazy.applied);
        lazy.num_deferred = (uint32_t *)device_bytes(g, sizeof *lazy.num_deferred);
        for (int i = 0; i < 2; i++) {
            p[i] = up(g, start, size);
            first[i] = (float *)device_bytes(g, size * sizeof(float));
            second[i] = (float *)device_bytes(g, size * sizeof(float));
            grad[i] = (float *)device_bytes(g, size * sizeof(float));
        }
        for (uint64_t u = 0; u < 60; u++) {
            float *slope = (float *)calloc(size, sizeof *slope);
            size_t at = lazy.updates % SAE_LAZY_ADAM_UPDATES, r = (size_t)u % g->n, m = g->m;
            memset(h.count, 0, g->n * sizeof *h.count);
            for (size_t i = 0; i < m; i++) { /* some often, some once, some never */
                bool fires = i % 5 == 0 ? u % 3 == 0 : i % 5 < 4 && (i + u) % 23 == 0;
                if (!fires) continue;
                h.latent[r * h.stride + h.count[r]++] = (uint32_t)i;
                for (size_t j = 0; j < g->d; j++) slope[i * g->ld + j] = number(g);
            }
            OP(g, upload)(&g->w, c.count, h.count, g->n * sizeof *h.count);
            OP(g, upload)(&g->w, c.latent, h.latent, g->n * h.stride * sizeof *h.latent);
            for (int i = 0; i < 2; i++) OP(g, upload)(&g->w, grad[i], slope, size * sizeof *slope);
            free(slope);
            if (u >= 50) fires_up(g, &h, &c);
            if (waits) OP(g, catch_up)(&g->w, &c, &lazy, m, p[0], first[0], second[0]);
            for (int i = 0; i < 2; i++) {
                const sae_lazy_adam *l = i || !waits ? NULL : &lazy;
                if (k) OP(g, remove_parallel)(&g->w, p[i], m, 1e-6f, l, grad[i]);
                OP(g, adam_rows)(&g->w, &adam, u + 1, NULL, 1, k ? -1 : 0, lazy.unit, l, m, p[i],
                                 grad[i], first[i], second[i]);
            }
            lazy.adam[at] = adam;
            lazy.t[at] = u + 1;
            lazy.updates++;
            adam.lr *= 0.97;
            if (lazy.updates % SAE_LAZY_ADAM_UPDATES && u != 59) continue;
            if (waits) OP(g, catch_up)(&g->w, NULL, &lazy, m, p[0], first[0], second[0]);
            down_bytes(g, &waiting, lazy.num_deferred, sizeof waiting);
            CHECK(waiting > 0 || m < 5 || !waits, "no row waited");
            same(g, "rows that waited", down(g, p[0], size), down(g, p[1], size), size);
        }
        same(g, "their first moments", down(g, first[0], size), down(g, first[1], size), size);
        same(g, "their second moments", down(g, second[0], size), down(g, second[1], size), size);
    }
}
static void op_threshold(rig *g) {
    sae_code h = code_new(g), c = code_up(g, &h);
    static const float starts[] = { -1, 0, 0.4f };
    for (int k = 0; k < 6; k++) {
        float *threshold = up(g, starts + k / 2, 1);
        double want = oracle_op_threshold(&h, k % 2, 0.9, (double)starts[k / 2]);
        OP(g, update_threshold)(&g->w, &c, k % 2, 0.9, threshold);
        near_number(g, k % 2 ? "threshold by row" : "threshold", (double)*down(g, threshold, 1), want,
                    1e-6);
    }
}
static void op_median(rig *g) {
    float *x = matrix(g, g->n), *out = (float *)device_bytes(g, g->ld * sizeof *out);
    double *want = doubles(g, g->ld);
    oracle_op_median(x, g->n, g->d, g->ld, want);
    OP(g, geometric_median)(&g->w, up(g, x, g->n * g->ld), g->n, out);
    /* both stop once a round moves less than 1e-5; one may go a round further */
    near(g, "geometric median", down(g, out, g->ld), want, g->ld, 1e-3);
}

/* The draw: row r has key Exp(1) / norm(e_r) from the counter-based generator; the smallest keys
   win, rows of norm 0 come last. */
static void op_resample(rig *g) {
    enum { BIASES = 2 };
    size_t size = g->m * g->ld;
    const uint64_t seed = 99, step = 40, threshold = 4;
    float *x = matrix(g, g->n), *e = matrix(g, g->n), *enc[3], *dec[3], *bias[BIASES][3], *denc[3];
    float *ddec[3], *dbias[BIASES][3];
    uint64_t *since = (uint64_t *)host_bytes(g, g->mp * 8);
    size_t dead = 0, living = 0, used = 0;
    saei_random random = saei_random_of(seed, SAEI_STREAM_RESAMPLE);
    uint8_t *taken = (uint8_t *)host_bytes(g, g->n);
    double alive = 0;
    memset(e + g->n / 2 * g->ld, 0, g->ld * sizeof *e);
    for (size_t i = 0; i < g->m; i++) {
        since[i] = g->mood == TIES ? 9 : g->mood == SILENT ? 3 : below(g, 8);
        dead += since[i] > threshold;
    }
    for (int k = 0; k < 3; k++) {
        enc[k] = matrix(g, g->m), dec[k] = matrix(g, g->m);
        denc[k] = up(g, enc[k], size), ddec[k] = up(g, dec[k], size);
        for (int b = 0; b < BIASES; b++) {
            bias[b][k] = vector(g, 1);
            dbias[b][k] = up(g, bias[b][k], g->mp);
        }
    }
    dbias[1][1] = NULL; /* a first moment that is not kept */
    for (size_t i = 0; i < g->m; i++)
        if (since[i] <= threshold) {
            alive += sqrt(oracle_op_dot(enc[0] + i * g->ld, enc[0] + i * g->ld, g->ld));
            living++;
        }
    if (living) alive /= (double)living;
    for (size_t i = 0; i < g->m && used < g->n; i++) {
        double least = INFINITY, norm;
        size_t row = g->n;
        if (since[i] <= threshold) continue;
        for (size_t r = 0; r < g->n; r++) {
            double weight = sqrt(oracle_op_dot(e + r * g->ld, e + r * g->ld, g->ld));
            double u = saei_random_uniform(&random, (step << 32) + r);
            double key = weight > 0 ? -log(u) / weight : INFINITY;
            if (!taken[r] && (key < least || row == g->n)) least = key, row = r;
        }
        taken[row] = 1;
        used++;
        norm = sqrt(oracle_op_dot(x + row * g->ld, x + row * g->ld, g->ld));
        for (size_t c = 0; c < g->ld; c++) {
            enc[0][i * g->ld + c] = (float)((double)x[row * g->ld + c] * alive * 0.2);
            dec[0][i * g->ld + c] = norm > 0 ? (float)((double)x[row * g->ld + c] / norm) : 0;
            for (int k = 1; k < 3; k++) enc[k][i * g->ld + c] = dec[k][i * g->ld + c] = 0;
        }
        for (int b = 0; b < BIASES; b++)
            for (int k = 0; k < 3; k++) bias[b][k][i] = 0;
    }
    OP(g, resample)(&g->w, up(g, x, g->n * g->ld), up(g, e, g->n * g->ld), g->n,
                    (uint64_t *)up_bytes(g, since, g->mp * 8), threshold, g->m, seed, step, denc, ddec,
                    (float *const(*)[3])dbias, BIASES);
    for (int k = 0; k < 3; k++) {
        double *want = doubles(g, size);
        for (size_t q = 0; q < size; q++) want[q] = (double)enc[k][q];
        near(g, "encoder after resampling", down(g, denc[k], size), want, size, k ? 0 : 1e-6);
        for (size_t q = 0; q < size; q++) want[q] = (double)dec[k][q];
        near(g, "decoder after resampling", down(g, ddec[k], size), want, size, k ? 0 : 1e-6);
        for (int b = 0; b < BIASES; b++)
            if (dbias[b][k])
                same(g, "bias after resampling", down(g, dbias[b][k], g->mp), bias[b][k], g->mp);
    }
    CHECK(used == (dead < g->n ? dead : g->n), "resampled %d of %d", (int)used, (int)dead);
}

/* ---- the table ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(rig *g);
} operations[] = {
    { "memory", op_memory },           { "load_rows", op_load_rows },
    { "subtract", op_subtract },       { "axpy", op_axpy },
    { "encode", op_encode },           { "gate", op_gate },
    { "jump", op_jump },               { "exp", op_exp },
    { "decode", op_decode },           { "residual, unit_rows", op_residual },
    { "auxk_residual", op_auxk },      { "ghost_residual", op_ghost },
    { "penalty", op_penalty },         { "dots", op_dots },
    { "gate_grad", op_gate_grad },     { "jump_grad, jump_rest", op_jump_grad },
    { "index", op_index },             { "latent_rows", op_latent_rows },
    { "latent_sums, fired, list_silent", op_latent_sums },
    { "sums", op_sums },               { "norms", op_norms },
    { "adam", op_adam },               { "update_threshold", op_threshold },
    { "geometric_median", op_median }, { "resample", op_resample },
    { "reconstruct, adam_rows", op_fused }, { "catch_up", op_catch_up },
    { "skip, skip_grad", op_skip },    { "signum", op_signum },
    { "layers", op_layers },           { "layer_weights", op_layer_weights },
    { "layer_latents", op_layer_latents },
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

/* n, d, m, k: one of everything; no multiple of 16 or 48; more than one block of 1024 rows, latents */
static const size_t shapes[][4] = {
    { 1, 1, 1, 1 },     { 1, 16, 48, 5 },   { 3, 7, 5, 5 },     { 9, 17, 47, 20 },
    { 37, 20, 64, 5 },  { 64, 33, 49, 8 },  { 65, 16, 130, 3 }, { 130, 40, 97, 12 },
    { 2, 5, 1100, 9 },  { 1030, 18, 20, 3 }, { 2049, 7, 10, 2 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static uint64_t hashes[OPERATIONS][SHAPES][MOODS]; /* of the first run, and after each comparison */
static uint64_t notes[OPERATIONS][SHAPES][MOODS][NOTES];

/* Runs every operation of a backend; `first` notes its bits, later runs must give the same. */
static void operations_of(const sae_backend *backend, const sae_context *ctx, const char *what,
                          bool first, int moods) {
    static uint64_t scratch_notes[NOTES];
    const char *only = getenv("TEST_OPS"); /* those with this in their name */
    for (size_t o = 0; o < OPERATIONS; o++)
        for (size_t s = 0; s < SHAPES; s++)
            for (int mood = 0; mood < moods; mood++) {
                char name[160];
                rig g;
                if (only && !strstr(operations[o].name, only)) continue;
                snprintf(name, sizeof name, "%s, %s, n %d d %d m %d k %d%s", operations[o].name, what,
                         (int)shapes[s][0], (int)shapes[s][1], (int)shapes[s][2], (int)shapes[s][3],
                         mood_names[mood]);
                check_test = name;
                rig_open(&g, backend, ctx, shapes[s], mood);
                g.notes = first ? notes[o][s][mood] : scratch_notes;
                g.first_notes = first ? NULL : notes[o][s][mood];
                g.rng.state = 1000 * o + 10 * s + (size_t)mood;
                operations[o].run(&g);
                if (first) hashes[o][s][mood] = g.hash;
                else if (!g.left_out)
                    CHECK(g.hash == hashes[o][s][mood], "other bits than the first run's: %s",
                          g.other[0] ? g.other : "later on");
                rig_close(&g);
                check_test = NULL;
            }
}

#ifndef TEST_WITHOUT_MAIN
int main(void) {
    static const int threads[] = { 1, 3 };
    bool first = true;
    for (size_t s = 0; s < COMMON_SETS; s++)
        for (size_t t = 0; t < 2; t++) {
            sae_context_desc desc;
            sae_context *ctx;
            char what[32];
            memset(&desc, 0, sizeof desc);
            desc.instruction_set = common_sets[s];
            desc.threads = threads[t];
            if (sae_context_create(&desc, &ctx) != SAE_OK) {
                if (!t) SKIP("this machine has no %s", common_sets[s]);
                continue;
            }
            snprintf(what, sizeof what, "%s, %d threads", common_sets[s], threads[t]);
            /* with several threads one: how the work is cut does not depend on the numbers */
            operations_of(sae_cpu_backend(), ctx, what, first, threads[t] > 1 ? 1 : MOODS);
            first = false;
            sae_context_destroy(ctx);
        }
    CHECK(bits_left > 0 || getenv("TEST_OPS"), "no encode left bits");
#define TOUCHED(result, name, need, parameters, arguments)                                         \
    CHECK(touched[offsetof(sae_backend, name)] || !sae_cpu_backend()->name || getenv("TEST_OPS"),  \
          "operation %s was never called", #name);
    SAE_BACKEND_CONTROL(TOUCHED)
    SAE_BACKEND_OPERATIONS(TOUCHED)
#undef TOUCHED
    return check_end();
}
#endif
