/*  Proves: the CUDA backend gives the CPU backend's bits. Every operation of the table, over the cases of
    test_ops.c; every training scheme some steps, over the variants of test_bits.c (all parameters and the
    threshold); errors end in a result code and a message, and leave everything destroyable.
    Oracle: the CPU backend. Tolerance: none (==), for operations the hash of every result.
    Built by the host's compiler with tests/emu it needs no GPU, and runs under several seeds: orders of
    threads and blocks, garbage in fresh memory, errors of the 16-bit product, none of which may show.
    Built by nvcc (make test-cuda) it runs on a GPU. CUDA_TEST=ops1|ops2|train|errors|sessions runs a part,
    TEST_OPS=NAME the operations with that in their name. */
#define SAE_CUDA
#define SAE_IMPLEMENTATION
#ifndef __CUDACC__
#define SAE_CUDA_IMPLEMENTATION
#endif
#define CHECK_PLAIN_NUMBERS
#define TEST_WITHOUT_MAIN
#include "test_ops.c"
#include "test_bits.c"
#include "test_session.c"
#ifdef SAE_EMU
#include "emu.h"
#include <sys/wait.h>
#endif

/* Another run of the same program gives other orders; the seeds of one run are fixed. */
static void seed(uint64_t s) {
#ifdef SAE_EMU
    const char *base = getenv("SAE_EMU_SEED");
    emu_seed(s + (base ? 1000 * strtoull(base, NULL, 10) : 0));
#else
    (void)s;
#endif
}
enum {
#ifdef SAE_EMU
    SEEDS = 2
#else
    SEEDS = 1
#endif
};
static void guard(bool on) {
#ifdef SAE_EMU
    emu_guard(on);
#else
    (void)on;
#endif
}
/* What the emulation saw: a barrier left out, memory not given back. */
static void clean(const char *after) {
#ifdef SAE_EMU
    CHECK(!emu_fault()[0], "%s: %s", after, emu_fault());
    CHECK(emu_in_use() == 0, "%s: %zu bytes of device memory are left", after, emu_in_use());
#else
    (void)after;
#endif
}

static sae_context *context_of(const sae_backend *backend, const sae_cuda_desc *cuda = NULL) {
    sae_context_desc desc;
    sae_context *ctx = NULL;
    memset(&desc, 0, sizeof desc);
    desc.backend = backend;
    desc.backend_desc = cuda;
    desc.threads = 1;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context");
    return ctx;
}

/* ---- operations -------------------------------------------------------------------------------- */

/* In one seed encode screens and sums are sparse wherever they can be, in the next neither; lists of
   which nothing is known count as dense. The host is kept from device memory in the trainers' runs, which call every operation too. */
static void all_operations(int s) {
    const sae_cuda_desc ways[3] = { { 0, NULL, 0, 0 }, { 0, NULL, 1, -1 }, { 0, NULL, -1, 1 } };
    sae_context *cpu = context_of(NULL), *cuda = context_of(sae_cuda_backend(), &ways[s % 3]);
    char what[32];
    if (!cpu || !cuda) return;
    operations_of(sae_cpu_backend(), cpu, "cpu", true, MOODS);
    snprintf(what, sizeof what, "cuda, seed %d", s);
    guard(false);
    seed((uint64_t)s);
    operations_of(sae_cuda_backend(), cuda, what, false, MOODS);
    clean(what);
    guard(true);
    sae_context_destroy(cpu);
    sae_context_destroy(cuda);
}

/* ---- trainers ---------------------------------------------------------------------------------- */

/* Trainers between places need operations that this backend leaves out: it must say so. */
static bool is_refused(const sae_trainer_desc *s) {
    sae_context_desc cd;
    sae_context *own;
    sae_trainer *trainer;
    if (!s->output_dim && !s->num_layers && s->kind != SAE_TRAINER_SPARSIFY) return false;
    memset(&cd, 0, sizeof cd);
    cd.backend = sae_cuda_backend();
    CHECK(sae_context_create(&cd, &own) == SAE_OK, "no context");
    CHECK(sae_trainer_create(own, s, &trainer) == SAE_ERR_UNSUPPORTED
          && strstr(sae_error(own), "the backend \"cuda\" has no"), "not refused: %s", sae_error(own));
    sae_context_destroy(own);
    return true;
}

static void all_trainers(void) {
    static const size_t sizes[][4] = { /* d, m, batch, steps */
        { 40, 200, 64, STEPS }, { 13, 90, 2100, 3 }, { 40, 600, 300, 3 },
    };
    for (size_t i = 0; i < VARIANTS; i++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            const size_t *z = sizes[k];
            float *want, *got;
            size_t count = 0, other = 0;
            uint64_t hash, first;
            const sae_trainer_desc desc = settings(&variants[i], z[0], z[1], z[2]);
            check_test = variants[i].name;
            if (is_refused(&desc)) continue;
            train_backend = NULL;
            first = train(&variants[i], 1, NULL, z[0], z[1], z[2], z[3], &want, &count);
            if (k == 0) CHECK(first == variants[i].hash, "the CPU's own hash is another");
            train_backend = sae_cuda_backend();
            for (int s = 0; s < (k ? 1 : SEEDS); s++) {
                size_t wrong = 0, at = 0;
                seed(77 + (uint64_t)s);
                hash = train(&variants[i], 1, NULL, z[0], z[1], z[2], z[3], &got, &other);
                for (size_t j = 0; got && want && j < count && j < other; j++)
                    if (memcmp(got + j, want + j, sizeof *got) && !wrong++) at = j;
                CHECK(got && want && count == other && !wrong && hash == first,
                      "d %d m %d B %d: %d of %d parameters differ, [%d] is %.9g, want %.9g",
                      (int)z[0], (int)z[1], (int)z[2], (int)wrong, (int)count, (int)at,
                      got ? (double)got[at] : 0, want ? (double)want[at] : 0);
                free(got);
            }
            clean("training");
            free(want);
        }
    train_backend = NULL;
    check_test = NULL;
}

/* A trainer's statistics (losses, L0, dead latents) are the CPU's too. */
static void all_stats(void) {
    enum { D = 20, M = 64, B = 48 };
    static float x[B * D];
    for (size_t i = 0; i < VARIANTS; i++) {
        sae_trainer_desc s = settings(&variants[i], D, M, B);
        sae_stats stats[2][6];
        check_test = variants[i].name;
        if (is_refused(&s)) continue;
        memset(stats, 0, sizeof stats);
        for (int k = 0; k < 2; k++) {
            sae_context *ctx = context_of(k ? sae_cuda_backend() : NULL);
            sae_trainer *trainer = NULL;
            CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), (void)0);
            for (int t = 0; trainer && t < 6; t++) {
                check_activations((uint64_t)t, x, B, D);
                CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, B), break);
                CHECK_OK(ctx, sae_trainer_stats(trainer, &stats[k][t]), break);
            }
            sae_trainer_destroy(trainer);
            sae_context_destroy(ctx);
        }
        for (int t = 0; t < 6; t++) {
            const double *a = &stats[0][t].loss, *b = &stats[1][t].loss;
            size_t count = (sizeof stats[0][0] - offsetof(sae_stats, loss)) / sizeof(double);
            for (size_t j = 0; j < count; j++)
                CHECK(a[j] == b[j] || (a[j] != a[j] && b[j] != b[j]),
                      "step %d, number %d of the stats: %.17g, want %.17g", t, (int)j, b[j], a[j]);
        }
    }
    check_test = NULL;
}

/* ---- errors ------------------------------------------------------------------------------------ */

static bool says(const sae_context *ctx, const char *what) {
    return strstr(sae_error(ctx), what) != NULL;
}

/* NaN in a batch: the device comes to it later than the host; the next call that polls it reports the
   error, the weights are those before, and training goes on as if the batch had not been. */
static void bad_batches(void) {
    enum { D = 20, M = 64, B = 48 };
    static float x[B * D];
    for (size_t i = 0; i < COMMON_KINDS; i++) {
        sae_trainer_desc s = common_trainer(common_kind(i), D, M, B, 20);
        uint64_t hash[2] = { 0, 0 };
        check_test = sae_trainer_name(common_kind(i));
        if (is_refused(&s)) continue;
        if (s.k) s.auxk_alpha = 0.1, s.dead_feature_threshold = 3 * B;
        for (int bad = 0; bad < 2; bad++) {
            sae_context *ctx = context_of(bad ? sae_cuda_backend() : NULL);
            sae_trainer *trainer = NULL;
            sae_stats stats;
            CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), (void)0);
            for (int t = 0; trainer && t < 8; t++) {
                check_activations((uint64_t)t, x, B, D);
                if (bad && t == 4) {
                    sae_result result;
                    x[5 * D + 3] = NAN;
                    result = sae_trainer_step(trainer, x, NULL, B);
                    if (result == SAE_OK) result = sae_trainer_stats(trainer, &stats);
                    CHECK(result == SAE_ERR_NOT_FINITE && says(ctx, "the batch of step 4 holds NaN"),
                          "NaN gives %s: %s", sae_result_name(result), sae_error(ctx));
                    CHECK(sae_trainer_steps_done(trainer) == 4, "%d steps done",
                          (int)sae_trainer_steps_done(trainer));
                    check_activations((uint64_t)t, x, B, D);
                }
                CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, B), break);
            }
            if (trainer) hash[bad] = common_hash(sae_trainer_dictionary(trainer));
            sae_trainer_destroy(trainer);
            sae_context_destroy(ctx);
        }
        CHECK(hash[0] == hash[1], "other weights after a bad batch");
    }
    check_test = NULL;
}

/* A number of rows that no memory was planned for; a device there is none of. */
static void wrong_calls(void) {
    enum { D = 20, M = 64, B = 48 };
    static float x[(B + 1) * D];
    sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, D, M, B, 20);
    sae_context *ctx = context_of(sae_cuda_backend());
    sae_trainer *trainer = NULL;
    sae_cuda_desc cuda;
    sae_context_desc desc;
    CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), return);
    CHECK(sae_trainer_step(trainer, x, NULL, B + 1) == SAE_ERR_INVALID && says(ctx, "n is 49 rows"),
          "49 rows: %s", sae_error(ctx));
    CHECK(sae_trainer_step(trainer, x, NULL, 0) == SAE_ERR_INVALID, "no rows");
    CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, B), (void)0);
    sae_trainer_destroy(trainer);
    sae_context_destroy(ctx);
    memset(&cuda, 0, sizeof cuda);
    memset(&desc, 0, sizeof desc);
    cuda.device = 4321;
    desc.backend = sae_cuda_backend();
    desc.backend_desc = &cuda;
    trainer = NULL;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context");
    CHECK(sae_trainer_create(ctx, &s, &trainer) == SAE_ERR_INVALID && !trainer && says(ctx, "4321"),
          "device 4321: %s", sae_error(ctx));
    sae_context_destroy(ctx);
}

#ifdef SAE_EMU
enum { ERROR_STEPS = 3 };
/* Creates a trainer, trains and reads statistics, until something fails. */
static sae_result attempt(sae_context *ctx) {
    enum { D = 20, M = 64, B = 48 };
    static float x[B * D];
    sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, D, M, B, 20);
    sae_trainer *trainer = NULL;
    sae_stats stats;
    sae_result result;
    s.auxk_alpha = 0.1, s.dead_feature_threshold = B;
    result = sae_trainer_create(ctx, &s, &trainer);
    CHECK((result == SAE_OK) == (trainer != NULL), "a trainer in spite of an error, or none");
    for (int t = 0; result == SAE_OK && t < ERROR_STEPS; t++) {
        check_activations((uint64_t)t, x, B, D);
        result = sae_trainer_step(trainer, x, NULL, B);
    }
    if (result == SAE_OK) result = sae_trainer_stats(trainer, &stats);
    if (result == SAE_OK && !sae_trainer_dictionary(trainer)) result = SAE_ERR_BACKEND;
    sae_trainer_destroy(trainer);
    return result;
}
static void expect(const char *what, sae_result want, const char *a, const char *b) {
    sae_context *ctx = context_of(sae_cuda_backend());
    sae_result result = attempt(ctx);
    CHECK(result == want && says(ctx, a) && says(ctx, b), "%s gives %s: %s", what,
          sae_result_name(result), sae_error(ctx));
    sae_context_destroy(ctx);
    CHECK(emu_in_use() == 0, "%s: %zu bytes of device memory are left", what, emu_in_use());
    emu_reset();
}

static void failing_devices(void) {
    unsigned long calls;
    sae_context *ctx;
    emu_reset();
    emu_devices(0, 13000);
    expect("no device", SAE_ERR_BACKEND, "no CUDA", "device");
    emu_devices(1, 11000);
    expect("an old driver", SAE_ERR_BACKEND, "driver", "insufficient");
    emu_memory(100000);
    expect("little memory", SAE_ERR_OUT_OF_MEMORY, "need", "free");
    emu_memory((size_t)32 << 20 | 1 << 17); /* enough for what is taken first */
    expect("memory for a part", SAE_ERR_OUT_OF_MEMORY, "need", "free");
    emu_fail("launch", 9, cudaErrorIllegalAddress);
    expect("a kernel that faults", SAE_ERR_BACKEND, "illegal memory access", "device");
    emu_fail("cudaLaunchKernelEx", 30, cudaErrorNoKernelImageForDevice);
    expect("a device too old", SAE_ERR_BACKEND, "no kernel image", "device");
    ctx = context_of(sae_cuda_backend()); /* a whole run: how many calls, and that it is clean */
    CHECK_OK(ctx, attempt(ctx), (void)0);
    sae_context_destroy(ctx);
    calls = emu_calls(NULL);
    CHECK(emu_calls("cudaGraphLaunch") == ERROR_STEPS, "%lu graphs in %d steps",
          emu_calls("cudaGraphLaunch"), ERROR_STEPS);
    clean("a whole run");

    /* Each call in turn fails, once and then for good. A step's own recovery (a graph that cannot be
       updated) may succeed; everything else must be reported. */
    for (int sticky = 0; sticky < 2; sticky++) {
        unsigned long silent = 0, tried = 0;
        for (unsigned long n = 1; n <= calls; n += 1 + n / 40) {
            sae_result result;
            emu_reset();
            emu_fail(NULL, n, sticky ? cudaErrorLaunchFailure : cudaErrorInvalidValue);
            ctx = context_of(sae_cuda_backend());
            result = attempt(ctx);
            tried++;
            silent += result == SAE_OK;
            CHECK(result == SAE_OK || sae_error(ctx)[0], "call %lu fails without a message", n);
            CHECK(result == SAE_OK || result == SAE_ERR_BACKEND || result == SAE_ERR_OUT_OF_MEMORY,
                  "call %lu gives %s: %s", n, sae_result_name(result), sae_error(ctx));
            sae_context_destroy(ctx);
            CHECK(emu_in_use() == 0, "call %lu: %zu bytes of device memory are left", n, emu_in_use());
        }
        CHECK(silent * 4 < tried, "%lu of %lu failing calls were not reported", silent, tried);
        emu_reset();
    }
}
#endif

/* ---- parts ------------------------------------------------------------------------------------- */

static void part_ops1(void) { all_operations(1); }
static void part_ops2(void) {
    if (SEEDS > 1) all_operations(2);
}
static void part_train(void) {
    all_trainers();
    all_stats();
}
static void part_errors(void) {
    seed(5);
    bad_batches();
    clean("bad batches");
    wrong_calls();
#ifdef SAE_EMU
    failing_devices();
#endif
}
static void part_sessions(void) {
    sae_context *ctx = context_of(sae_cuda_backend());
    seed(9);
    sessions(ctx);
    sae_context_destroy(ctx);
    clean("sessions");
}
static const struct { const char *name; void (*run)(void); } parts[] = {
    { "ops1", part_ops1 }, { "ops2", part_ops2 }, { "train", part_train }, { "errors", part_errors },
    { "sessions", part_sessions },
};
enum { PARTS = sizeof parts / sizeof *parts };

#ifdef SAE_EMU
/* Each part in a process of its own, two at a time; what they print and count is put together. */
static void run_parts(void) {
    const char *temp = check_temp();
    pid_t child[PARTS];
    size_t begun = 0;
    for (size_t ended = 0; ended < PARTS; ended++) {
        char *text;
        const char *line;
        long passed = 0, failed = 1;
        int status = 0;
        for (; begun < PARTS && begun < ended + 2; begun++) {
            child[begun] = fork();
            if (child[begun]) continue;
            if (!freopen(check_path("%s/part_%d", temp, (int)begun), "w", stdout)) _exit(1);
            parts[begun].run();
            check_end();
            fflush(stdout);
            _exit(0);
        }
        waitpid(child[ended], &status, 0);
        text = check_read(check_path("%s/part_%d", temp, (int)ended), NULL);
        for (line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : "")
            if (sscanf(line, "%ld passed, %ld failed", &passed, &failed) != 2)
                printf("%.*s\n", (int)strcspn(line, "\n"), line);
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            printf("part %s ends with status %d\n", parts[ended].name, status), failed++;
        check_passed += passed;
        check_failed += failed;
        free(text);
    }
}
#endif

int main(void) {
    const char *part = getenv("CUDA_TEST");
#ifndef SAE_EMU
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        SKIP("there is no CUDA device");
        return check_end();
    }
#endif
#ifdef SAE_EMU
    if (!part) run_parts();
#endif
    for (size_t i = 0; i < PARTS; i++)
        if (part ? strstr(part, parts[i].name) != NULL : SEEDS == 1) parts[i].run();
    check_remove(check_temp());
    return check_end();
}
