/*  bench - times training steps and inference; prints one JSON line a trainer, or one line an op.

        build/bench DATA.npy [--trainers LIST] [--m 8192] [--batch 2048] [--k 64] [--l0 128]
                    [--warmup 10] [--steps 10] [--threads 2] [--profile] [--device cpu|cuda]
        build/bench ops [--d 512] [--m 8192] [--batch 2048] [--k 64] [--steps 10] [--threads 2]
                    [--device cpu|cuda]
        build/bench growth [--steps 10] [--threads 2]
        build/bench load DICTIONARY [--steps 10] [--threads 2]
        build/bench linear [KIND] [--steps 10] [--threads 2]
        build/bench lm MODEL [--contexts 16] [--ctx 128] [--warmup 1] [--steps 10] [--threads 2]

    Training: warm-up of real steps over the data in order, then the median of --steps more. The
    hyperparameters are those in trainers[] below. Density: a fresh dictionary fires half of its
    latents, a trained one far fewer; --l0 N starts the trainers that have no k so that each latent
    fires on N/m of the first batch's rows (by b_enc; gated: gate_bias; jumprelu: threshold). 0
    leaves the fresh start. --profile: on stderr, where a step's time goes. ops: the product
    kernels, two lines on what the machine can do, then one for each operation of a TopK step and of
    inference on random rows. roof is the least time: flop at the FMA peak or bytes at the stream's
    bandwidth, whichever is more; both are measured in the same process. growth: a TopK step's time
    and the memory it holds, as one of batch, m, d and k doubles. load: opening a dictionary of any
    format, from files that are in the page cache. linear: sae_linear_apply with weights of each
    type, of one row and of many. lm: a language model's forward pass on random tokens: batches, a
    prompt, and the tokens behind it one by one.

    build/bench-cuda (`make cuda`) has --device cuda: the rows lie on the device, each timed step is
    waited for; ms_stream is the mean of as many steps that are not. Its ops are a step's operations
    one by one, each waited for, less what waiting for nothing takes; roofs are those of peak.cu. A
    start by --l0 looks at the first 2048 rows.
*/
#define SAE_IMPLEMENTATION
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown"
#endif

typedef struct options {
    const char *data, *path, *trainers; /* path: the word behind data */
    size_t d, m, batch, k, l0, warmup, steps, contexts, ctx;
    int threads;
} options;

static sae_context *ctx;
static bool on_cuda;
#ifdef SAE_CUDA
/* peak.cu: bytes a second of a copy, float32 multiply-adds, 16-bit products with float32 sums */
int bench_cuda_peaks(double *gbytes, double *gflops, double *half_gflops, char *name, size_t size);
#endif

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void die(const char *message) {
    fprintf(stderr, "bench: %s\n", message);
    exit(1);
}

static void check(sae_result result) {
    if (result != SAE_OK) die(sae_error(ctx));
}

static float *floats(size_t count) {
    float *f = (float *)calloc(count ? count : 1, sizeof *f);
    if (!f) die("no memory");
    return f;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

static void cpu_name(char *out, size_t size) {
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, size, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *at = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !at) continue;
        at[strcspn(at, "\n\"\\")] = 0;
        snprintf(out, size, "%s", at + 2);
        break;
    }
    if (f) fclose(f);
}

/* ==== where a step's time goes ================================================================ */

/* The backend with a clock at every operation. */
#define X(result, name, need, parameters, arguments) OP_##name,
enum { SAE_BACKEND_OPERATIONS(X) OP_COUNT };
#undef X
static double op_ms[OP_COUNT], wait_ms; /* wait_ms: a launch and a wait for it, on a device */
static sae_backend plain, profiled;
#define X(result, name, need, parameters, arguments)                                               \
    static void timed_##name parameters {                                                          \
        double begun = now_ms();                                                                   \
        plain.name arguments;                                                                      \
        if (on_cuda) plain.status(w);                                                              \
        op_ms[OP_##name] += now_ms() - begun - wait_ms;                                            \
    }
SAE_BACKEND_OPERATIONS(X)
#undef X

/* A context whose operations are timed. */
static void profile(sae_context_desc *desc) {
    profiled = plain = *sae_cpu_backend();
#ifdef SAE_CUDA
    if (on_cuda) profiled = plain = *sae_cuda_backend();
    profiled.begin_step = profiled.end_step = NULL; /* one operation after the other, no graph */
#endif
#define X(result, name, need, parameters, arguments) if (plain.name) profiled.name = timed_##name;
    SAE_BACKEND_OPERATIONS(X)
#undef X
    desc->backend = &profiled;
}

static void print_profile(double steps) {
#define X(result, name, need, parameters, arguments) #name,
    static const char *const names[] = { SAE_BACKEND_OPERATIONS(X) };
#undef X
    int i;
    for (i = 0; i < OP_COUNT; i++)
        if (op_ms[i] > 0.005 * steps)
            fprintf(stderr, "  %-16s %8.2f ms\n", names[i], op_ms[i] / steps);
}

/* ==== training ================================================================================ */

/* The trainer's desc; false for an unknown name. Everything not set here is the default. */
static bool describe(const char *name, const options *o, size_t d, sae_trainer_desc *t) {
    static const double fractions[] = { 0.0625, 0.125, 0.25, 0.5625 };
    size_t i;
    memset(t, 0, sizeof *t);
    if (!sae_trainer_from_name(name, &t->kind)) return false;
    t->activation_dim = d;
    t->dict_size = o->m;
    t->batch_size = o->batch;
    t->steps = o->warmup + o->steps + 10 > 200 ? o->warmup + o->steps + 10 : 200;
    t->lr = 1e-4;
    t->warmup_steps = SAE_NONE;
    t->sparsity_warmup_steps = SAE_NONE;
    t->l1_penalty = 1;
    t->k = o->k;
    if (t->kind == SAE_TRAINER_MATRYOSHKA)
        for (i = 0; i < 4; i++) t->group_fractions[t->num_groups++] = fractions[i];
    if (t->kind == SAE_TRAINER_JUMP_RELU) {
        t->target_l0 = (double)o->k;
        t->bandwidth = 0.01;
    }
    if (t->kind == SAE_TRAINER_P_ANNEAL || t->kind == SAE_TRAINER_GATED_ANNEAL) {
        t->initial_sparsity_penalty = 1;
        t->anneal_start = 5;
        t->n_sparsity_updates = 10;
        if (t->kind == SAE_TRAINER_P_ANNEAL) t->p_end = 0.01; /* 0 is refused; never reached here */
    }
    return true;
}

static bool has_k(sae_trainer_kind kind) {
    return kind == SAE_TRAINER_TOP_K || kind == SAE_TRAINER_BATCH_TOP_K
           || kind == SAE_TRAINER_MATRYOSHKA;
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* A fresh dictionary's file with the bias or threshold that lets every latent fire on
   keep = B*l0/m rows of the first batch x [B,d]. */
static void write_start(const options *o, const sae_trainer_desc *t, const float *x,
                        const char *path) {
    static const char *const names[] = { "threshold", "gate_bias", "encoder.bias" };
    size_t rows = o->batch < 2048 ? o->batch : 2048, i, r, which, count;
    size_t keep = (size_t)((double)rows * (double)o->l0 / (double)o->m + 0.5);
    float *f = floats(rows * o->m), *column = floats(rows), *cut = floats(o->m);
    sae_dictionary_desc desc;
    sae_load_desc load;
    sae_dictionary *dict;
    sae_tensor_file *file;
    sae_tensor tensors[16];
    memset(&desc, 0, sizeof desc);
    memset(&load, 0, sizeof load);
    load.raw = true;
    desc.activation_dim = t->activation_dim;
    desc.dict_size = o->m;
    desc.arch = t->kind == SAE_TRAINER_JUMP_RELU ? SAE_ARCH_JUMP_RELU
              : t->kind == SAE_TRAINER_GATED || t->kind == SAE_TRAINER_GATED_ANNEAL ? SAE_ARCH_GATED
              : SAE_ARCH_STANDARD;
    which = desc.arch == SAE_ARCH_JUMP_RELU ? 0 : desc.arch == SAE_ARCH_GATED ? 1 : 2;
    check(sae_dictionary_create(ctx, &desc, &dict));
    check(sae_dictionary_save(dict, path)); /* f is to be the positive part of W_enc x: no bias */
    sae_dictionary_destroy(dict);
    check(sae_tensor_file_open(ctx, path, &file));
    count = sae_tensor_file_count(file);
    memset(cut, 0, o->m * sizeof *cut);
    for (i = 0; i < count; i++) {
        tensors[i] = *sae_tensor_file_get(file, i);
        if (strcmp(tensors[i].name, names[which]) == 0) tensors[i].data = cut;
    }
    check(sae_tensor_file_write(ctx, path, tensors, count));
    check(sae_dictionary_load(ctx, &load, path, &dict));
    check(sae_encode(dict, x, rows, f));
    if (keep < 1) keep = 1;
    if (keep > rows) keep = rows;
    for (i = 0; i < o->m; i++) {
        for (r = 0; r < rows; r++) column[r] = f[r * o->m + i];
        qsort(column, rows, sizeof *column, descending);
        cut[i] = column[keep - 1] - 1e-6f;
        if (which != 0) cut[i] = -cut[i];
    }
    check(sae_tensor_file_write(ctx, path, tensors, count));
    sae_tensor_file_close(file);
    sae_dictionary_destroy(dict);
    free(cut);
    free(column);
    free(f);
}

/* Mean count of f != 0 and the variance explained on x [n,d]. */
static void judge(const sae_dictionary *dict, const float *x, size_t n, double *l0, double *fve) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t d = info.activation_dim, m = info.dict_size, i, j;
    float *f = floats(n * m), *y = floats(n * d);
    double var_e = 0, var_x = 0, count = 0;
    check(sae_forward(dict, x, n, y, f));
    for (i = 0; i < n * m; i++) count += f[i] != 0;
    for (j = 0; j < d; j++) {
        double se = 0, sx = 0, e2 = 0, x2 = 0;
        for (i = 0; i < n; i++) {
            double a = x[i * d + j], e = a - (double)y[i * d + j];
            se += e;
            sx += a;
            e2 += e * e;
            x2 += a * a;
        }
        var_e += e2 - se * se / (double)n;
        var_x += x2 - sx * sx / (double)n;
    }
    *l0 = count / (double)n;
    *fve = 1 - var_e / var_x;
    free(f);
    free(y);
}

/* One step; rows on the device, and waited for if `wait`, where there is one. */
static void step_once(sae_trainer *trainer, const float *x, size_t d, size_t n, bool wait) {
    sae_rows rows;
    memset(&rows, 0, sizeof rows);
    rows.data = x;
    rows.stride = d;
    rows.on_device = on_cuda;
    check(sae_trainer_step_rows(trainer, &rows, NULL, n));
    if (wait && on_cuda) check(trainer->ops->status(&trainer->w));
}
/* x where the steps want it: on the device, in memory that put_away frees; or as it is. */
static const float *put_rows(sae_trainer *trainer, const float *x, size_t count) {
    void *device;
    if (!on_cuda) return x;
    device = trainer->ops->alloc(&trainer->w, count * sizeof *x);
    if (!device) check(trainer->ops->status(&trainer->w));
    trainer->ops->upload(&trainer->w, device, x, count * sizeof *x);
    return (const float *)device;
}
static void put_away(sae_trainer *trainer, const float *x) {
    if (on_cuda) trainer->ops->free(&trainer->w, (void *)(uintptr_t)x);
}

static void time_trainer(const char *name, const options *o, const float *data, size_t n,
                         size_t d) {
    sae_trainer_desc desc;
    sae_trainer *trainer;
    double *times = (double *)calloc(o->steps, sizeof *times), l0, fve, middle, begun, stream_ms;
    const float *rows;
    const char *folder = getenv("TMPDIR");
    char path[512], cpu[128];
    size_t s;
    snprintf(path, sizeof path, "%s/sae_bench_%.0f.safetensors", folder ? folder : "/tmp",
             1e3 * now_ms());
    if (!times) die("no memory");
    if (!describe(name, o, d, &desc)) die("--trainers: unknown name; see sae train --help");
    if (o->l0 && !has_k(desc.kind)) {
        write_start(o, &desc, data, path);
        desc.init = path;
    }
    check(sae_trainer_create(ctx, &desc, &trainer));
    if (desc.init) remove(path);
    rows = put_rows(trainer, data, n * d);
    for (s = 0; s < o->warmup + o->steps; s++) {
        size_t at = s * o->batch % (n - o->batch + 1);
        begun = now_ms();
        step_once(trainer, rows + at * d, d, o->batch, true);
        if (s >= o->warmup) times[s - o->warmup] = now_ms() - begun;
        if (s + 1 == o->warmup) memset(op_ms, 0, sizeof op_ms);
    }
    judge(sae_trainer_dictionary(trainer), data, on_cuda && o->batch > 1024 ? 1024 : o->batch, &l0,
          &fve);
    begun = now_ms();
    for (s = 0; on_cuda && s < o->steps; s++)
        step_once(trainer, rows + s * o->batch % (n - o->batch + 1) * d, d, o->batch,
                  s + 1 == o->steps);
    stream_ms = (now_ms() - begun) / (double)o->steps;
    put_away(trainer, rows);
    middle = median(times, o->steps);
    cpu_name(cpu, sizeof cpu);
    printf("{\"impl\": \"sae.h\", \"version\": \"%s\", \"compiler\": \"%s\", \"cpu\": \"%s\", "
           "\"device\": \"%s\", \"threads\": %d, \"precision\": \"fp32\", \"trainer\": \"%s\", "
           "\"d\": %zu, \"m\": %zu, \"batch\": %zu, \"k\": %zu, \"start_l0\": %zu, "
           "\"warmup\": %zu, \"steps\": %zu, \"ms_median\": %.3f, \"ms_min\": %.3f, "
           "\"rows_per_s\": %.0f, \"l0\": %.1f, \"fve\": %.4f",
           SAE_VERSION, COMPILER, cpu, on_cuda ? "cuda" : "cpu", o->threads,
           sae_trainer_name(desc.kind), d, o->m, o->batch, o->k, o->l0, o->warmup, o->steps, middle,
           times[0], (double)o->batch / middle * 1e3, l0, fve);
    if (on_cuda) printf(", \"ms_stream\": %.3f", stream_ms);
    printf("}\n");
    fflush(stdout);
    print_profile((double)o->steps);
    sae_trainer_destroy(trainer);
    free(times);
}

static void bench_training(const options *o) {
    sae_tensor_file *file;
    const sae_tensor *t;
    float *data;
    char names[512], *name;
    check(sae_tensor_file_open(ctx, o->data, &file));
    t = sae_tensor_file_count(file) == 1 ? sae_tensor_file_get(file, 0) : NULL;
    if (!t || t->ndim != 2) die("the data must be one array [rows,dim]");
    if (t->shape[0] < o->batch || !o->batch || !o->steps) die("fewer rows than a batch");
    data = floats((size_t)(t->shape[0] * t->shape[1]));
    sae_tensor_to_f32(t, data);
    snprintf(names, sizeof names, "%s", o->trainers);
    for (name = strtok(names, ","); name; name = strtok(NULL, ","))
        time_trainer(name, o, data, (size_t)t->shape[0], (size_t)t->shape[1]);
    sae_tensor_file_close(file);
    free(data);
}

/* ==== operations ============================================================================== */

/* The FMA peak: every thread runs 12 independent chains of vector multiply-adds that stay in
   registers, which is enough to keep two units of latency 4 busy. */
#if defined(__x86_64__) && defined(__GNUC__)
#define CHAINS(X) X(a) X(b) X(c) X(d) X(e) X(f) X(g) X(h) X(i) X(j) X(k) X(l)
#define PEAK(name, isa, type, set1, fmadd, store, lanes)                                           \
    __attribute__((target(isa), noinline)) static double name(size_t rounds) {                    \
        const type p = set1(0.999f), q = set1(0.001f);                                             \
        float out[lanes];                                                                          \
        size_t n;                                                                                  \
        double sum = 0;                                                                            \
        CHAINS(PEAK_DECLARE_##lanes)                                                               \
        for (n = 0; n < rounds; n++) { CHAINS(PEAK_STEP_##lanes) }                                 \
        CHAINS(PEAK_STORE_##lanes)                                                                 \
        return sum;                                                                                \
    }
#define PEAK_DECLARE_8(v) __m256 v = _mm256_set1_ps(1.0f);
/* The empty statement keeps the chains apart: they all compute the same. */
#define PEAK_STEP_8(v) v = _mm256_fmadd_ps(v, p, q); __asm__ volatile("" : "+x"(v));
#define PEAK_STORE_8(v) _mm256_storeu_ps(out, v); sum += out[0];
#define PEAK_DECLARE_16(v) __m512 v = _mm512_set1_ps(1.0f);
#define PEAK_STEP_16(v) v = _mm512_fmadd_ps(v, p, q); __asm__ volatile("" : "+v"(v));
#define PEAK_STORE_16(v) _mm512_storeu_ps(out, v); sum += out[0];
PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
PEAK(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
#endif

static double peak_gflops(int threads) {
    double best = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    const size_t rounds = 20000000;
    bool wide = __builtin_cpu_supports("avx512f");
    int repeat, t;
    if (!wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return 0;
    for (repeat = 0; repeat < 3; repeat++) {
        double begun = now_ms(), sum = 0, rate;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) reduction(+ : sum)
#endif
        for (t = 0; t < threads; t++) sum += wide ? peak_avx512(rounds) : peak_avx2(rounds);
        rate =
            (double)threads * (double)rounds * 12 * (wide ? 16 : 8) * 2 / (now_ms() - begun) / 1e6;
        if (rate > best && sum != 0) best = rate;
    }
#else
    (void)threads;
#endif
    return best;
}

/* Bytes a second of a + b -> b over memory no cache holds: 12 bytes an element. */
static double stream_gbytes(int threads) {
    const size_t each = (size_t)1 << 24;
    float *a = floats(each * (size_t)threads), *b = floats(each * (size_t)threads);
    double best = 0;
    int repeat, t;
    for (repeat = 0; repeat < 4; repeat++) {
        double begun = now_ms(), rate;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads)
#endif
        for (t = 0; t < threads; t++)
            saei_kernels_select(NULL)->axpy(each, 1, a + each * (size_t)t, b + each * (size_t)t,
                                            b + each * (size_t)t);
        rate = 12.0 * (double)each * threads / (now_ms() - begun) / 1e6;
        if (rate > best) best = rate;
    }
    free(a);
    free(b);
    return best;
}

static double peak, stream, half_peak; /* GFLOP/s, GB/s; of 16-bit products */

static void print_op(const char *name, const options *o, double ms, double flop, double bytes) {
    double by_flop = peak > 0 ? flop / peak / 1e6 : 0, by_bytes = bytes / stream / 1e6;
    printf("{\"op\": \"%s\", \"batch\": %zu, \"d\": %zu, \"m\": %zu, \"k\": %zu, \"ms\": %.3f, "
           "\"gflops\": %.1f, \"gbytes\": %.1f, \"roof_ms\": %.3f, \"share_of_roof\": %.3f}\n",
           name, o->batch, o->d, o->m, o->k, ms, flop / ms / 1e6, bytes / ms / 1e6,
           by_flop > by_bytes ? by_flop : by_bytes,
           (by_flop > by_bytes ? by_flop : by_bytes) / ms);
    fflush(stdout);
}

/* The product kernels alone, of every instruction set, on 128 rows against panels of m latents: one
   thread. */
static void bench_kernels(const options *o) {
    static const char *const sets[] = { "portable", "neon", "avx2", "avx512", "avx512vnni" };
    size_t ld = saei_align16(o->d), panels = o->m / SAEI_PANEL, p, g, i, s, set;
    float *x = floats(128 * ld), *W = floats(panels * SAEI_PANEL * ld), out[SAEI_TILE_ROWS * 48];
    int32_t dot[SAEI_TILE_ROWS * 48];
    double *times = (double *)calloc(o->steps, sizeof *times);
    options at = *o;
    at.batch = 128;
    if (!times) die("no memory");
    peak = peak_gflops(1);
    for (set = 0; set < sizeof sets / sizeof *sets; set++) {
        const saei_kernels *kernels = saei_kernels_select(sets[set]);
        char name[64];
        if (!kernels) continue;
        for (s = 0; s < o->steps; s++) {
            double begun = now_ms();
            for (p = 0; p < panels; p++)
                for (g = 0; g < 128; g += SAEI_TILE_ROWS) {
                    const float *row[SAEI_TILE_ROWS];
                    const int16_t *words[SAEI_TILE_ROWS];
                    for (i = 0; i < SAEI_TILE_ROWS; i++) {
                        row[i] = x + (g + i) * ld;
                        words[i] = (const int16_t *)(const void *)x + (g + i) * ld;
                    }
                    if (!kernels->screen)
                        kernels->tile(row, SAEI_TILE_ROWS, W + p * SAEI_PANEL * ld, ld, false, out,
                                      SAEI_PANEL);
                    else
                        kernels->screen(words, (const uint32_t *)(const void *)W
                                        + p * SAEI_PANEL * (ld / 2), ld / 2, dot);
                }
            times[s] = now_ms() - begun;
        }
        snprintf(name, sizeof name, "kernel: %s product, %s, 1 thread",
                 kernels->screen ? "int16" : "float", kernels->name);
        print_op(name, &at, median(times, o->steps),
                 2.0 * 128 * (double)ld * (double)(panels * SAEI_PANEL), 0);
    }
    free(times);
    free(x);
    free(W);
}

static float *random_rows(const options *o) {
    float *x = floats(o->batch * o->d);
    uint32_t state = 1;
    size_t i;
    for (i = 0; i < o->batch * o->d; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / 8388608.0f - 1;
    }
    return x;
}

/* What an operation that does next to nothing takes until the host knows of its end. */
static double time_wait(sae_trainer *trainer) {
    double times[64];
    for (int i = 0; i < 64; i++) {
        double begun = now_ms();
        trainer->ops->zero(&trainer->w, trainer->scalars, sizeof(double));
        trainer->ops->status(&trainer->w);
        times[i] = now_ms() - begun;
    }
    return median(times, 64);
}

/* The operations of a TopK step, medians over the steps. */
static void bench_step_ops(const options *o, const float *x) {
    const float *rows;
    double *times = (double *)calloc(o->steps * OP_COUNT, sizeof *times);
    double P = (double)o->m * (double)o->d, R = (double)o->batch * (double)o->d;
    double entries = (double)(o->batch * o->k), B = sizeof(float);
    struct { int op; double flop, bytes; } cost[] = {
        { OP_load_rows, 0, 2 * B * R }, { OP_subtract, R, 2 * B * R },
        { OP_encode, 2 * R * (double)o->m, B * (R + P) },
        { OP_reconstruct, 4 * entries * (double)o->d, B * (2 * R + P) },
        { OP_index, 0, 6 * B * entries },
        { OP_latent_rows, 4 * entries * (double)o->d, B * (2 * R + 2 * P) },
        { OP_weighted_sum, 2 * P, B * P }, { OP_remove_parallel, 6 * P, 3 * B * P },
        { OP_sum_squares, 4 * P, 2 * B * P }, { OP_adam, 12 * P, 7 * B * P },
        { OP_adam_rows, 15 * P, 7 * B * P } };
    sae_context_desc desc;
    sae_context *own;
    sae_trainer_desc h;
    sae_trainer *trainer;
    size_t s, i;
    if (!times) die("no memory");
    memset(&desc, 0, sizeof desc);
    desc.threads = o->threads;
    profile(&desc);
    if (sae_context_create(&desc, &own) != SAE_OK) die("no context");
    describe("top_k", o, o->d, &h);
    if (sae_trainer_create(own, &h, &trainer) != SAE_OK) die(sae_error(own));
    rows = put_rows(trainer, x, o->batch * o->d);
    if (on_cuda) wait_ms = time_wait(trainer);
    for (s = 0; s < o->steps + 3; s++) {
        memset(op_ms, 0, sizeof op_ms);
        step_once(trainer, rows, o->d, o->batch, true);
        for (i = 0; s >= 3 && i < OP_COUNT; i++) times[i * o->steps + s - 3] = op_ms[i];
    }
    for (i = 0; i < sizeof cost / sizeof *cost; i++) {
#define X(result, name, need, parameters, arguments) "step: " #name,
        static const char *const names[] = { SAE_BACKEND_OPERATIONS(X) };
#undef X
        double fma = peak, ms = median(times + (size_t)cost[i].op * o->steps, o->steps);
        if (on_cuda && ms <= 0) continue; /* not part of this step, or too short to be seen */
        if (on_cuda && cost[i].op == OP_encode) peak = half_peak;
        print_op(names[cost[i].op], o, ms, cost[i].flop, cost[i].bytes);
        peak = fma;
    }
    put_away(trainer, rows);
    sae_trainer_destroy(trainer);
    sae_context_destroy(own);
    free(times);
}

/* JUMP_RELU's thresholds, all the same, so that about 128 latents of a row pass: a trained
   density. */
static void set_thresholds(sae_dictionary *dict, const options *o, const float *x, float *f) {
    size_t passing = 0, want = 128 * 16, step;
    float lo = 0, hi = 1e6f;
    check(sae_encode(dict, x, 16, f));
    for (step = 0; step < 64; step++) {
        float middle = 0.5f * (lo + hi);
        size_t i;
        for (passing = i = 0; i < 16 * o->m; i++) passing += f[i] > middle;
        if (passing > want) lo = middle;
        else hi = middle;
    }
    for (step = 0; step < o->m; step++) dict->aux0[step] = lo;
}

static void bench_inference(const options *o, const float *x, double *times) {
    static const char *const names[3] = { "sae_encode", "sae_encode_sparse", "sae_decode_sparse" };
    float *f = floats(o->batch * o->m), *y = floats(o->batch * o->d);
    double P = (double)o->m * (double)o->d, flop = 2 * (double)o->batch * P;
    sae_dictionary_desc desc;
    int arch, call, prepared;
    memset(&desc, 0, sizeof desc);
    desc.activation_dim = o->d;
    desc.dict_size = o->m;
    for (arch = 0; arch < 2; arch++) {
        sae_dictionary *dict;
        sae_sparse code;
        size_t i, rows;
        desc.arch = arch ? SAE_ARCH_JUMP_RELU : SAE_ARCH_TOP_K;
        desc.k = arch ? 0 : o->k;
        check(sae_dictionary_create(ctx, &desc, &dict));
        if (arch) set_thresholds(dict, o, x, f);
        code.row_begin = (size_t *)calloc(o->batch + 1, sizeof *code.row_begin);
        code.latent = (uint32_t *)calloc(o->batch * o->m, sizeof *code.latent);
        code.value = floats(code.capacity = o->batch * o->m);
        if (!code.row_begin || !code.latent) die("no memory");
        for (prepared = 0; prepared < 2; prepared++) {
            if (prepared) check(sae_dictionary_prepare(dict));
            for (rows = o->batch; rows; rows = rows > 1 && !prepared ? 1 : 0)
                for (call = 0; call < 3 - prepared; call++) {
                    options at = *o;
                    double share = (double)rows / (double)o->batch;
                    char name[64];
                    at.batch = rows;
                    for (i = 0; i <= o->steps; i++) { /* the first of each is the warm-up */
                        double begun = now_ms();
                        if (call == 0) check(sae_encode(dict, x, rows, f));
                        if (call == 1) check(sae_encode_sparse(dict, x, rows, &code));
                        if (call == 2) check(sae_decode_sparse(dict, &code, rows, y));
                        if (i) times[i - 1] = now_ms() - begun;
                    }
                    snprintf(name, sizeof name, "%s, %s%s", names[call],
                             arch ? "jumprelu" : "top_k", prepared ? ", prepared" : "");
                    print_op(name, &at, median(times, o->steps),
                             call < 2 ? flop * share
                                      : 2.0 * (double)code.row_begin[rows] * (double)o->d,
                             4 * (call == 0 ? P + share * flop / 2 / (double)o->d
                                  : call == 1 ? P : P * share));
                }
        }
        sae_dictionary_destroy(dict);
        free(code.row_begin);
        free(code.latent);
        free(code.value);
    }
    free(f);
    free(y);
}

static void bench_ops(const options *o) {
    float *x = random_rows(o);
    double *times = (double *)calloc(o->steps, sizeof *times);
    char cpu[128];
    if (!times || !o->steps) die("no steps");
#ifdef SAE_CUDA
    if (on_cuda) {
        if (bench_cuda_peaks(&stream, &peak, &half_peak, cpu, sizeof cpu)) die("no CUDA device");
        printf("{\"roof\": \"copy\", \"gbytes\": %.1f, \"device\": \"%s\"}\n"
               "{\"roof\": \"float32\", \"gflops\": %.1f}\n"
               "{\"roof\": \"16-bit product\", \"gflops\": %.1f}\n",
               stream, cpu, peak, half_peak);
        bench_step_ops(o, x);
        printf("{\"wait_ms\": %.4f}\n", wait_ms);
        free(times);
        free(x);
        return;
    }
#endif
    cpu_name(cpu, sizeof cpu);
    stream = 1;
    bench_kernels(o);
    peak = peak_gflops(o->threads);
    stream = stream_gbytes(o->threads);
    printf("{\"roof\": \"fma\", \"gflops\": %.1f, \"cpu\": \"%s\", \"compiler\": \"%s\", "
           "\"threads\": %d}\n{\"roof\": \"stream\", \"gbytes\": %.1f}\n",
           peak, cpu, COMPILER, o->threads, stream);
    bench_step_ops(o, x);
    bench_inference(o, x, times);
    free(times);
    free(x);
}

#include "linear.h"
#include "lm.h"

/* ==== growth ================================================================================== */

static size_t held, most; /* bytes */

static void *counted_alloc(size_t size, void *user) {
    size_t *p = (size_t *)malloc(size + 16);
    (void)user;
    if (!p) return NULL;
    *p = size;
    held += size;
    if (held > most) most = held;
    return p + 16 / sizeof *p;
}
static void counted_free(void *memory, void *user) {
    size_t *p = (size_t *)memory - 16 / sizeof *p;
    (void)user;
    held -= *p;
    free(p);
}

static void bench_growth(const options *start) {
    int which, doubling;
    for (which = 0; which < 4; which++)
        for (doubling = -2; doubling <= 2; doubling++) {
            static const char *const names[] = { "batch", "m", "d", "k" };
            options o = *start;
            size_t *grown = which == 0 ? &o.batch : which == 1 ? &o.m : which == 2 ? &o.d : &o.k, s;
            double *times = (double *)calloc(o.steps, sizeof *times);
            sae_context_desc desc;
            sae_context *own;
            sae_trainer_desc h;
            sae_trainer *trainer;
            float *x;
            *grown = doubling < 0 ? *grown >> -doubling : *grown << doubling;
            x = random_rows(&o);
            if (!times) die("no memory");
            memset(&desc, 0, sizeof desc);
            desc.threads = o.threads;
            desc.allocator.alloc = counted_alloc;
            desc.allocator.free = counted_free;
            held = most = 0;
            if (sae_context_create(&desc, &own) != SAE_OK) die("no context");
            describe("top_k", &o, o.d, &h);
            if (sae_trainer_create(own, &h, &trainer) != SAE_OK) die(sae_error(own));
            for (s = 0; s < o.steps + 2; s++) {
                double begun = now_ms();
                if (sae_trainer_step(trainer, x, NULL, o.batch) != SAE_OK) die(sae_error(own));
                if (s >= 2) times[s - 2] = now_ms() - begun;
            }
            printf("{\"growth\": \"%s\", \"batch\": %zu, \"d\": %zu, \"m\": %zu, \"k\": %zu, "
                   "\"ms_median\": %.3f, \"peak_MiB\": %.1f}\n",
                   names[which], o.batch, o.d, o.m, o.k, median(times, o.steps),
                   (double)most / 1048576);
            fflush(stdout);
            sae_trainer_destroy(trainer);
            sae_context_destroy(own);
            free(times);
            free(x);
        }
}

/* ==== load ==================================================================================== */

/* The most this process ever held in memory, mapped files included; 0: not told. (getrusage tells
   that of the process it was forked from where that is more.) */
static double peak_bytes(void) {
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kib) == 1) break;
    if (f) fclose(f);
    return 1024 * kib;
}

static void bench_load(const options *o) {
    double *times = (double *)calloc(o->steps, sizeof *times), params = 0, ms;
    sae_context_desc desc;
    sae_context *own;
    if (!times || !o->path) die(times ? "load needs a dictionary" : "no memory");
    memset(&desc, 0, sizeof desc);
    desc.threads = o->threads;
    desc.allocator.alloc = counted_alloc;
    desc.allocator.free = counted_free;
    held = most = 0;
    if (sae_context_create(&desc, &own) != SAE_OK) die("no context");
    for (size_t s = 0; s < o->steps; s++) {
        double begun = now_ms();
        sae_dictionary *dict;
        if (sae_dictionary_load(own, NULL, o->path, &dict) != SAE_OK) die(sae_error(own));
        times[s] = now_ms() - begun;
        params = 4 * (double)dict->num_params;
        sae_dictionary_destroy(dict);
    }
    ms = median(times, o->steps);
    printf("{\"load\": \"%s\", \"MB\": %.1f, \"ms_median\": %.1f, \"GB_s\": %.2f, "
           "\"allocated_by_size\": %.3f, \"peak_by_size\": %.3f}\n",
           o->path, params / 1e6, ms, params / 1e6 / ms, (double)most / params,
           peak_bytes() / params);
    sae_context_destroy(own);
    free(times);
}

/* ==== main ==================================================================================== */

int main(int argc, char **argv) {
    static const char all[] =
        "standard,standard_april,gated,gated_anneal,p_anneal,top_k,batch_top_k,"
        "matryoshka_batch_top_k,jumprelu";
    options o = { NULL, NULL, NULL, 512, 8192, 2048, 64, 128, 10, 10, 16, 128, 2 };
    sae_context_desc desc;
    bool profiling = false;
    int i;
    o.trainers = all;
    memset(&desc, 0, sizeof desc);
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        size_t *number = !strcmp(name, "--d") ? &o.d : !strcmp(name, "--m") ? &o.m
                       : !strcmp(name, "--batch") ? &o.batch : !strcmp(name, "--k") ? &o.k
                       : !strcmp(name, "--l0") ? &o.l0 : !strcmp(name, "--warmup") ? &o.warmup
                       : !strcmp(name, "--steps") ? &o.steps
                       : !strcmp(name, "--contexts") ? &o.contexts
                       : !strcmp(name, "--ctx") ? &o.ctx : NULL;
        if (!strcmp(name, "--profile")) {
            profiling = true;
            continue;
        }
        if (name[0] != '-') {
            if (o.data) o.path = name;
            else o.data = name;
            continue;
        }
        if (number) *number = (size_t)strtoull(value, NULL, 10);
        else if (!strcmp(name, "--threads")) o.threads = atoi(value);
        else if (!strcmp(name, "--trainers")) o.trainers = value;
        else if (!strcmp(name, "--device") && !strcmp(value, "cpu")) {}
#ifdef SAE_CUDA
        else if (!strcmp(name, "--device") && !strcmp(value, "cuda")) on_cuda = true;
#endif
        else if (!strcmp(name, "--device"))
            die("--device: this program has cpu; build/bench-cuda (make cuda) has cuda too");
        else {
            fprintf(stderr, "bench: unknown option %s; the head of bench/bench.c lists them\n",
                    name);
            return 2;
        }
        i++;
    }
    if (!o.data) {
        fprintf(stderr, "usage: bench DATA.npy [options], bench ops, bench growth, bench load "
                        "DICTIONARY, bench linear, or bench lm MODEL\n");
        return 2;
    }
    desc.threads = o.threads;
#ifdef SAE_CUDA
    if (on_cuda) desc.backend = sae_cuda_backend();
#endif
    if (profiling) profile(&desc);
    if (sae_context_create(&desc, &ctx) != SAE_OK) die("no context");
    if (strcmp(o.data, "ops") == 0) bench_ops(&o);
    else if (strcmp(o.data, "growth") == 0) bench_growth(&o);
    else if (strcmp(o.data, "load") == 0) bench_load(&o);
    else if (strcmp(o.data, "linear") == 0) bench_linear(&o);
    else if (strcmp(o.data, "lm") == 0) bench_lm(&o);
    else bench_training(&o);
    sae_context_destroy(ctx);
    return 0;
}
