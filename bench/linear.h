/*  linear.h - bench linear: products of sae_linear, of one row and of many.

    Up to 16 rows: 640 MB of weights in turn, so that none is in a cache; their bytes a second
    beside those of reading alone. More: GFLOP/s beside the FMA peak. Both are measured anew before
    each kind of weights and shape. */
enum { LINEAR_BYTES = 640 << 20 };

/* Bytes a second of reading alone, 8 bytes at a time into four chains. */
static double read_gbytes(const uint64_t *from, size_t words, int threads) {
    size_t each = words / (size_t)threads / 8 * 8;
    double best = 0;
    uint64_t seen = 0;
    int repeat, t;
    for (repeat = 0; repeat < 5; repeat++) {
        double begun = now_ms(), rate;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) reduction(^ : seen)
#endif
        for (t = 0; t < threads; t++) {
            const uint64_t *at = from + each * (size_t)t, *end = at + each;
            uint64_t a = 0, b = 0, c = 0, d = 0;
            for (; at < end; at += 8) {
                a ^= at[0] ^ at[4];
                b ^= at[1] ^ at[5];
                c ^= at[2] ^ at[6];
                d ^= at[3] ^ at[7];
            }
            seen ^= a ^ b ^ c ^ d;
        }
        rate = 8.0 * (double)each * threads / (now_ms() - begun) / 1e6;
        if (rate > best && seen != 1) best = rate;
    }
    return best;
}

typedef struct linear_kind {
    const char *name;
    sae_dtype dtype;
    bool packed, transposed;
} linear_kind;

/* Floats of -1 to 1; blocks whose numbers and scales are all the same. */
static void linear_fill(sae_dtype dtype, unsigned char *data) {
    uint32_t state = 1;
    if (sae_dtype_block(dtype) > 1) {
        memset(data, 0x2C, LINEAR_BYTES);
        return;
    }
    for (size_t i = 0; i < LINEAR_BYTES; i += 4) {
        uint32_t bits;
        float x;
        state = state * 1664525u + 1013904223u;
        x = (float)(state >> 8) / 8388608.0f - 1;
        if (dtype == SAE_F32) memcpy(&bits, &x, sizeof bits);
        else if (dtype == SAE_BF16) bits = 0x00010001u * saei_bf16_bits(x);
        else bits = 0x00010001u * saei_half_bits(x);
        memcpy(data + i, &bits, sizeof bits);
    }
}

/* As many layers as there are weights for, each of so many bytes. */
static size_t linear_make(const linear_kind *kind, const unsigned char *data, size_t inputs,
                          size_t outputs, size_t bytes, sae_linear **layers) {
    const size_t count = LINEAR_BYTES / bytes;
    sae_tensor t;
    memset(&t, 0, sizeof t);
    t.dtype = kind->dtype;
    t.ndim = 2;
    t.shape[0] = kind->transposed ? inputs : outputs;
    t.shape[1] = kind->transposed ? outputs : inputs;
    t.stride[0] = (int64_t)t.shape[1];
    t.stride[1] = 1;
    for (size_t i = 0; i < count; i++) {
        t.data = data + i * bytes;
        if (kind->packed)
            check(sae_linear_create(ctx, (const float *)t.data, NULL, inputs, outputs, &layers[i]));
        else check(sae_linear_create_tensor(ctx, &t, NULL, kind->transposed, &layers[i]));
    }
    return count;
}

static void linear_time(const options *o, const linear_kind *kind, const unsigned char *data,
                        size_t inputs, size_t outputs) {
    static const size_t rows[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048 };
    enum { MOST = 2048, LAYERS = 512 };
    sae_linear *layers[LAYERS];
    size_t bytes = outputs * (inputs / sae_dtype_block(kind->dtype)) * sae_dtype_size(kind->dtype);
    size_t count = linear_make(kind, data, inputs, outputs, bytes, layers), i, r, s;
    float *x = floats(MOST * inputs), *y = floats(MOST * outputs);
    double *times = (double *)calloc(o->steps, sizeof *times), read;
    if (!times) die("no memory");
    for (i = 0; i < MOST * inputs; i++) x[i] = (float)(i * 2654435761u % 4096) / 2048.0f - 1;
    peak = peak_gflops(o->threads);
    read = read_gbytes((const uint64_t *)(const void *)data, LINEAR_BYTES / 8, o->threads);
    for (r = 0; r < sizeof rows / sizeof *rows; r++) {
        size_t n = rows[r], runs = n <= 16 ? count : 1;
        double ms, gbytes, gflops;
        for (s = 0; s <= o->steps; s++) { /* the first is the warm-up */
            double begun = now_ms();
            for (i = 0; i < runs; i++) check(sae_linear_apply(layers[(s + i) % count], x, n, y));
            if (s) times[s - 1] = (now_ms() - begun) / (double)runs;
        }
        ms = median(times, o->steps);
        gbytes = (double)bytes / ms / 1e6;
        gflops = 2.0 * (double)(n * inputs) * (double)outputs / ms / 1e6;
        printf("{\"linear\": \"%s\", \"inputs\": %zu, \"outputs\": %zu, \"rows\": %zu, "
               "\"ms\": %.3f, \"least_ms\": %.3f, \"gbytes\": %.1f, \"share_of_read\": %.2f, "
               "\"gflops\": %.1f, \"share_of_fma\": %.2f}\n",
               kind->name, inputs, outputs, n, ms, times[0], gbytes, gbytes / read, gflops,
               gflops / peak);
        fflush(stdout);
    }
    for (i = 0; i < count; i++) sae_linear_destroy(layers[i]);
    free(x);
    free(y);
    free(times);
}

static void bench_linear(const options *o) {
    static const linear_kind kinds[] = {
        { "f32, packed", SAE_F32, true, false },     { "f32", SAE_F32, false, false },
        { "bf16", SAE_BF16, false, false },          { "f16", SAE_F16, false, false },
        { "q8_0", SAE_Q8_0, false, false },          { "q4_0", SAE_Q4_0, false, false },
        { "q4_k", SAE_Q4_K, false, false },          { "q5_k", SAE_Q5_K, false, false },
        { "q6_k", SAE_Q6_K, false, false },          { "f32, transposed", SAE_F32, false, true },
        { "bf16, transposed", SAE_BF16, false, true },
    };
    static const size_t shapes[][2] = { { 2048, 2048 }, { 2048, 8192 }, { 8192, 2048 } };
    unsigned char *data = (unsigned char *)floats(LINEAR_BYTES / sizeof(float));
    char cpu[128];
    cpu_name(cpu, sizeof cpu);
    linear_fill(SAE_F32, data);
    printf("{\"roof\": \"fma\", \"gflops\": %.1f, \"cpu\": \"%s\", \"compiler\": \"%s\", "
           "\"threads\": %d}\n{\"roof\": \"read\", \"gbytes\": %.1f}\n",
           peak_gflops(o->threads), cpu, COMPILER, o->threads,
           read_gbytes((const uint64_t *)(const void *)data, LINEAR_BYTES / 8, o->threads));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (o->path && strcmp(o->path, kinds[i].name) != 0) continue;
        linear_fill(kinds[i].dtype, data);
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            linear_time(o, &kinds[i], data, shapes[s][0], shapes[s][1]);
    }
    free(data);
}
