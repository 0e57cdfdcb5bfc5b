/*  Proves: sae_linear gives y = x W^T + bias in the one order it promises, whatever type W has and
    however it lies (copied, mapped, a view, transposed, at odd addresses), for any number of rows and
    threads and every instruction set; it allocates nothing then; the kernels that widen know every half
    and bfloat16.
    Oracle: one fmaf after the other over ascending inputs, of weights that were widened one by one, the
    bias added last. Tolerance: none, the same bits (NaN of any kind is NaN). */
#define SAE_IMPLEMENTATION
#define CHECK_PLAIN_NUMBERS
#include "sae.h"
#include "check.h"
#include "common.h"

/* ---- the oracle ------------------------------------------------------------------------------- */

/* sign, exponent bits, fraction bits of the top of a word */
static float plain_half(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double x = exponent == 31 ? (fraction ? NAN : HUGE_VAL)
               : exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return (float)(bits >> 15 ? -x : x);
}

static float plain_bf16(uint16_t bits) {
    int exponent = bits >> 7 & 255, fraction = bits & 127;
    double x = exponent == 255 ? (fraction ? NAN : HUGE_VAL)
               : exponent ? ldexp(128 + fraction, exponent - 134) : ldexp(fraction, -133);
    return (float)(bits >> 15 ? -x : x);
}

static float plain_weight(sae_dtype dtype, const unsigned char *at) {
    uint16_t bits;
    float x;
    double wide;
    memcpy(&bits, at, 2);
    if (dtype == SAE_F16) return plain_half(bits);
    if (dtype == SAE_BF16) return plain_bf16(bits);
    if (dtype == SAE_F64) {
        memcpy(&wide, at, 8);
        return (float)wide;
    }
    memcpy(&x, at, 4);
    return x;
}

/* Where a block of each type has its float16 numbers; -1: none more. MXFP4 has an exponent. */
static const struct block_type {
    sae_dtype dtype;
    int half[2];
} block_types[] = {
    { SAE_Q8_0, { 0, -1 } },   { SAE_Q4_0, { 0, -1 } },   { SAE_Q4_1, { 0, 2 } },
    { SAE_Q5_0, { 0, -1 } },   { SAE_Q5_1, { 0, 2 } },    { SAE_Q2_K, { 80, 82 } },
    { SAE_Q3_K, { 108, -1 } }, { SAE_Q4_K, { 0, 2 } },    { SAE_Q5_K, { 0, 2 } },
    { SAE_Q6_K, { 208, -1 } }, { SAE_IQ4_NL, { 0, -1 } }, { SAE_IQ4_XS, { 0, -1 } },
    { SAE_MXFP4, { -1, -1 } },
};

/* W [outputs,inputs] */
static void plain_linear(const float *x, const float *W, const float *bias, size_t n, size_t inputs,
                         size_t outputs, float *y) {
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < outputs; j++) {
            float sum = 0;
            for (size_t k = 0; k < inputs; k++) sum = fmaf(x[r * inputs + k], W[j * inputs + k], sum);
            y[r * outputs + j] = sum + (bias ? bias[j] : 0);
        }
}

/* ---- contexts ---------------------------------------------------------------------------------- */

static long allocations;
static void *counted_alloc(size_t size, void *user) {
    (void)user;
    allocations++;
    return malloc(size);
}
static void counted_free(void *memory, void *user) {
    (void)user;
    free(memory);
}

enum { MOST_CONTEXTS = COMMON_SETS + 2 };
static sae_context *contexts[MOST_CONTEXTS]; /* the first: one thread, the best set */
static size_t num_contexts;

static void make_contexts(void) {
    for (int i = -2; i < COMMON_SETS; i++) {
        sae_context_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.allocator.alloc = counted_alloc;
        desc.allocator.free = counted_free;
        desc.instruction_set = i < 0 ? NULL : common_sets[i];
        desc.threads = i == -2 ? 1 : i == -1 ? 3 : 2;
        if (sae_context_create(&desc, &contexts[num_contexts]) == SAE_OK) num_contexts++;
        else SKIP("this CPU has no %s", common_sets[i]);
    }
}

/* ---- layers ------------------------------------------------------------------------------------ */

enum layout { ROWS, VIEW, TRANSPOSED, COLUMN_VIEW, SCATTERED, BACKWARDS, LAYOUTS };
static const char *const layout_names[LAYOUTS] = { "rows", "a view of rows", "transposed",
                                                   "a view of the transposed", "scattered",
                                                   "rows backwards" };

typedef struct layer {
    sae_dtype dtype;
    int layout;
    size_t inputs, outputs;
    unsigned char *memory;
    sae_tensor W; /* as given to sae_linear */
    bool transposed;
    float *bias, *plain; /* [outputs]; [outputs,inputs] */
} layer;

static void put_weight(check_rng *rng, sae_dtype dtype, unsigned char *at) {
    double x = check_normal(rng);
    float narrow = (float)x;
    uint16_t bits = (uint16_t)check_bits(rng);
    if (dtype == SAE_F64) memcpy(at, &x, 8);
    else if (dtype == SAE_F32) memcpy(at, &narrow, 4);
    else {
        /* every sign and fraction; subnormal halves, no infinity */
        if (dtype == SAE_F16) bits = (uint16_t)((bits & 0x83FF) | (bits >> 10 & 31) % 17 << 10);
        else bits = (uint16_t)((bits & 0x807F) | (120 + (bits >> 7 & 15)) << 7);
        memcpy(at, &bits, 2);
    }
}

static void make_layer(layer *l, sae_dtype dtype, int layout, size_t inputs, size_t outputs) {
    check_rng rng = { inputs * 1000 + outputs + (uint64_t)dtype * 77 };
    size_t size = sae_dtype_size(dtype), odd = (inputs + outputs) % 4;
    ptrdiff_t by_output = (ptrdiff_t)inputs, by_input = 1, first = 0;
    if (layout == VIEW) by_output += 5, first = 3 * by_output + 2;
    if (layout == TRANSPOSED) by_output = 1, by_input = (ptrdiff_t)outputs;
    if (layout == COLUMN_VIEW) by_output = 1, by_input = (ptrdiff_t)outputs + 3, first = 2;
    if (layout == SCATTERED) by_output = 2, by_input = 2 * (ptrdiff_t)outputs + 1;
    if (layout == BACKWARDS) first = ((ptrdiff_t)outputs - 1) * by_output, by_output = -by_output;
    memset(l, 0, sizeof *l);
    l->dtype = dtype;
    l->layout = layout;
    l->inputs = inputs;
    l->outputs = outputs;
    l->transposed = layout == TRANSPOSED || layout == COLUMN_VIEW;
    l->memory = (unsigned char *)calloc((outputs + 5) * (inputs + 5) * 2 + 64, size);
    l->plain = (float *)malloc(inputs * outputs * sizeof(float));
    if (outputs % 3) l->bias = (float *)malloc(outputs * sizeof(float));
    l->W.dtype = dtype;
    l->W.ndim = 2;
    l->W.shape[l->transposed] = outputs;
    l->W.shape[!l->transposed] = inputs;
    l->W.stride[l->transposed] = by_output;
    l->W.stride[!l->transposed] = by_input;
    l->W.data = l->memory + odd + first * (ptrdiff_t)size;
    for (size_t j = 0; j < outputs; j++) {
        if (l->bias) l->bias[j] = (float)check_normal(&rng);
        for (size_t k = 0; k < inputs; k++) {
            ptrdiff_t offset = ((ptrdiff_t)j * by_output + (ptrdiff_t)k * by_input) * (ptrdiff_t)size;
            unsigned char *at = l->memory + odd + first * (ptrdiff_t)size + offset;
            put_weight(&rng, dtype, at);
            l->plain[j * inputs + k] = plain_weight(dtype, at);
        }
    }
}

static void free_layer(layer *l) {
    free(l->memory);
    free(l->bias);
    free(l->plain);
}

/* The same of blocks; what they mean is sae_tensor_to_f32's (tests/test_io.c), but for Q8_0. */
static void make_block_layer(layer *l, const struct block_type *type, int layout, size_t inputs,
                             size_t outputs) {
    check_rng rng = { inputs * 1000 + outputs + (uint64_t)type->dtype * 77 };
    const size_t block = sae_dtype_block(type->dtype), size = sae_dtype_size(type->dtype);
    const size_t rows = layout == TRANSPOSED ? inputs : outputs;
    const size_t cols = layout == TRANSPOSED ? outputs : inputs;
    const size_t stride = cols + (layout == VIEW ? 2 * block : 0);
    const size_t all = rows * stride / block + 1, odd = (inputs + outputs) / 32 % 4;
    memset(l, 0, sizeof *l);
    l->dtype = type->dtype;
    l->layout = layout;
    l->inputs = inputs;
    l->outputs = outputs;
    l->transposed = layout == TRANSPOSED;
    l->memory = (unsigned char *)malloc(all * size + odd);
    l->plain = (float *)malloc(inputs * outputs * sizeof(float));
    l->bias = (float *)malloc(outputs * sizeof(float));
    for (size_t j = 0; j < outputs; j++) l->bias[j] = (float)check_normal(&rng);
    for (size_t i = 0; i < all * size; i++) l->memory[odd + i] = (unsigned char)check_bits(&rng);
    for (size_t i = 0; i < all; i++) {
        unsigned char *at = l->memory + odd + i * size;
        for (int h = 0; h < 2 && type->half[h] >= 0; h++)
            at[type->half[h] + 1] = (unsigned char)((at[type->half[h] + 1] & 0x83) | 0x20);
        if (type->dtype == SAE_MXFP4) at[0] = (unsigned char)(at[0] % 16 + 120);
    }
    l->W.dtype = type->dtype;
    l->W.ndim = 2;
    l->W.shape[0] = rows;
    l->W.shape[1] = cols;
    l->W.stride[0] = (int64_t)stride;
    l->W.stride[1] = 1;
    l->W.data = l->memory + odd + (layout == VIEW ? size : 0);
    for (size_t r = 0; r < rows; r++) {
        float *row = (float *)malloc(cols * sizeof *row);
        sae_tensor one = l->W;
        one.shape[0] = 1;
        one.data = (const unsigned char *)l->W.data + r * stride / block * size;
        sae_tensor_to_f32(&one, row);
        for (size_t c = 0; c < cols; c++) {
            const unsigned char *at = (const unsigned char *)one.data + c / 32 * 34;
            if (type->dtype == SAE_Q8_0)
                row[c] = plain_half((uint16_t)(at[0] | at[1] << 8))
                         * (float)(signed char)at[2 + c % 32];
            l->plain[l->transposed ? c * inputs + r : r * inputs + c] = row[c];
        }
        free(row);
    }
}

enum { ROWS_MOST = 300, GUARD = 16 };
static float *x, *y, *want; /* rows, results, the oracle's */

/* n rows of a layer of context c against want. */
static void compare(const layer *l, const sae_linear *linear, size_t c, size_t n, const char *how) {
    size_t bytes = n * l->outputs * sizeof *y;
    long before = allocations;
    memset(y, 0x55, bytes + GUARD);
    CHECK_OK(contexts[c], sae_linear_apply(linear, x, n, y), return);
    CHECK(!memcmp(y, want, bytes), "%s, %s, %s: %zu inputs, %zu outputs, %zu rows: other bits, %s",
          sae_dtype_name(l->dtype), layout_names[l->layout], how, l->inputs, l->outputs, n,
          contexts[c]->kernels->name);
    for (size_t i = 0; i < GUARD; i++)
        if (((unsigned char *)y)[bytes + i] != 0x55) {
            CHECK(false, "%zu by %zu: writes behind y", l->inputs, l->outputs);
            break;
        }
    CHECK(allocations == before, "%ld allocations", allocations - before);
}

/* All blocks of a context taken, as by other calls: products work on the stack. */
static void take_blocks(sae_context *ctx, int taken) {
    for (size_t i = 0; i < ctx->num_blocks; i++) ctx->blocks[i].taken = taken;
}

static void run_layer(const layer *l) {
    static const size_t rows[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, ROWS_MOST };
    const bool full = l->layout <= TRANSPOSED && l->dtype <= SAE_Q8_0;
    size_t most = full ? ROWS_MOST : 9;
    check_activations(l->inputs, x, most, l->inputs);
    plain_linear(x, l->plain, l->bias, most, l->inputs, l->outputs, want);
    for (size_t c = 0; c < num_contexts; c++) {
        sae_linear *mapped, *packed;
        bool slow = !strcmp(contexts[c]->kernels->name, "portable");
        CHECK_OK(contexts[c], sae_linear_create_tensor(contexts[c], &l->W, l->bias, l->transposed,
                                                       &mapped), return);
        CHECK_OK(contexts[c], sae_linear_create(contexts[c], l->plain, l->bias, l->inputs,
                                                l->outputs, &packed), return);
        for (size_t i = 0; i < sizeof rows / sizeof *rows && rows[i] <= most; i++) {
            if (slow && rows[i] != 1 && rows[i] != 9) continue;
            compare(l, mapped, c, rows[i], "mapped");
            if (l->layout == ROWS) compare(l, packed, c, rows[i], "packed");
        }
        take_blocks(contexts[c], 1);
        compare(l, mapped, c, slow ? 3 : saei_min(most, 65), "mapped, on the stack");
        compare(l, packed, c, slow ? 3 : saei_min(most, 65), "packed, on the stack");
        take_blocks(contexts[c], 0);
        sae_linear_destroy(mapped);
        sae_linear_destroy(packed);
    }
}

static void same_bits(void) {
    static const size_t sizes[] = { 1, 7, 16, 47, 48, 49, 100, 513 };
    static const sae_dtype dtypes[] = { SAE_F32, SAE_F16, SAE_BF16, SAE_F64 };
    enum { SIZES = sizeof sizes / sizeof *sizes, MOST = 768 };
    check_test = "same bits";
    x = (float *)malloc(ROWS_MOST * MOST * sizeof *x);
    y = (float *)malloc(ROWS_MOST * MOST * sizeof *y + GUARD);
    want = (float *)malloc(ROWS_MOST * MOST * sizeof *want);
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++)
        for (size_t i = 0; i < SIZES; i++)
            for (size_t j = 0; j < SIZES; j++) {
                layer l;
                int layout = 0;
                for (; layout < LAYOUTS; layout++) {
                    if (layout && (i + j + t + (size_t)layout) % 3) continue; /* a third of them */
                    make_layer(&l, dtypes[t], layout, sizes[i], sizes[j]);
                    run_layer(&l);
                    free_layer(&l);
                }
            }
    for (size_t t = 0; t < sizeof block_types / sizeof *block_types; t++)
        for (size_t i = 1; i <= 5; i++) {
            static const size_t others[] = { 1, 16, 47, 49, 100 };
            size_t sizes_of[] = { 1, 2, 3, 8, 17 }, block = sae_dtype_block(block_types[t].dtype);
            size_t along = block == 32 ? sizes_of[i - 1] * 32 : (i + 1) / 2 * 256;
            for (int layout = 0; layout <= TRANSPOSED; layout++) {
                layer l;
                bool turned = layout == TRANSPOSED;
                if (block != 32 && turned && i % 2) continue;
                make_block_layer(&l, &block_types[t], layout, turned ? others[i - 1] : along,
                                 turned ? along : others[i - 1]);
                run_layer(&l);
                free_layer(&l);
            }
        }
    free(x);
    free(y);
    free(want);
}

/* ---- kernels ----------------------------------------------------------------------------------- */

static bool same_float(float a, float b) { return (a != a && b != b) || !memcmp(&a, &b, sizeof a); }

/* All halves and bfloat16s, by each set, from an odd address. */
static void all_words(void) {
    enum { ALL = 65536, STEP = 2048 };
    unsigned char *words = (unsigned char *)malloc(2 * ALL + 1);
    float *out = (float *)malloc(ALL * sizeof *out), *panel;
    panel = (float *)malloc(STEP * SAEI_PANEL * sizeof *panel);
    check_test = "all words";
    for (unsigned i = 0; i < ALL; i++) {
        words[1 + 2 * i] = (unsigned char)i;
        words[2 + 2 * i] = (unsigned char)(i >> 8);
    }
    for (size_t c = 0; c < num_contexts; c++)
        for (int b = 0; b < 2; b++) {
            const saei_kernels *kernels = contexts[c]->kernels;
            sae_dtype dtype = b ? SAE_BF16 : SAE_F16;
            int wrong = 0, wrong_panel = 0;
            kernels->widen(dtype, words + 1, ALL, out);
            for (unsigned i = 0; i < ALL; i++)
                wrong += !same_float(out[i], plain_weight(dtype, words + 1 + 2 * i));
            CHECK(!wrong, "%s of %s: %d wrong", kernels->name, sae_dtype_name(dtype), wrong);
            kernels->widen_panel(dtype, words + 1, 2 * STEP, ALL / STEP, STEP, 0, panel);
            for (unsigned i = 0; i < ALL; i++)
                wrong_panel += !same_float(panel[i % STEP * SAEI_PANEL + i / STEP],
                                           plain_weight(dtype, words + 1 + 2 * i));
            CHECK(!wrong_panel, "%s of %s, panel: %d wrong", kernels->name, sae_dtype_name(dtype),
                  wrong_panel);
        }
    free(words);
    free(out);
    free(panel);
}

/* ---- errors ------------------------------------------------------------------------------------ */

static void errors(void) {
    sae_context *ctx = contexts[0];
    sae_linear *untouched = (sae_linear *)(void *)&allocations, *out = untouched, *linear;
    float data[4] = { 1, 2, 3, 4 };
    sae_tensor good, bad;
    check_test = "errors";
    memset(&good, 0, sizeof good);
    good.ndim = 2;
    good.shape[0] = good.shape[1] = 2;
    good.stride[0] = 2;
    good.stride[1] = 1;
    good.data = data;
#define REFUSED(result, what, ...)                                                                 \
    do {                                                                                           \
        bad = good;                                                                                \
        __VA_ARGS__;                                                                               \
        CHECK(sae_linear_create_tensor(ctx, &bad, NULL, false, &out) == result, what);             \
        CHECK(out == untouched, what ": out is touched");                                          \
    } while (0)
    REFUSED(SAE_ERR_INVALID, "no data", bad.data = NULL);
    REFUSED(SAE_ERR_INVALID, "one dimension", bad.ndim = 1);
    REFUSED(SAE_ERR_INVALID, "three dimensions", bad.ndim = 3);
    REFUSED(SAE_ERR_INVALID, "no outputs", bad.shape[0] = 0);
    REFUSED(SAE_ERR_INVALID, "no inputs", bad.shape[1] = 0);
    REFUSED(SAE_ERR_INVALID, "too many", bad.shape[1] = (uint64_t)1 << 62);
    REFUSED(SAE_ERR_UNSUPPORTED, "integers", bad.dtype = SAE_I8);
    REFUSED(SAE_ERR_INVALID, "half a block", bad.dtype = SAE_Q8_0);
    REFUSED(SAE_ERR_INVALID, "a stride of half a block",
            (bad.dtype = SAE_Q8_0, bad.shape[1] = 32, bad.stride[0] = 48));
    REFUSED(SAE_ERR_INVALID, "blocks turned",
            (bad.dtype = SAE_Q8_0, bad.shape[1] = 32, bad.stride[0] = 1, bad.stride[1] = 32));
    REFUSED(SAE_ERR_UNSUPPORTED, "a type by name alone", bad.dtype = SAE_IQ1_S);
    REFUSED(SAE_ERR_UNSUPPORTED, "no dtype", bad.dtype = (sae_dtype)999);
    CHECK(strstr(sae_error(ctx), "sae_linear_create_tensor") != NULL, "says %s", sae_error(ctx));
    CHECK(sae_linear_create_tensor(ctx, NULL, NULL, false, &out) == SAE_ERR_INVALID, "no W");
    CHECK(sae_linear_create_tensor(ctx, &good, NULL, false, NULL) == SAE_ERR_INVALID, "no out");
    CHECK(sae_linear_create_tensor(NULL, &good, NULL, false, &out) == SAE_ERR_INVALID, "no ctx");
    CHECK_OK(ctx, sae_linear_create_tensor(ctx, &good, NULL, false, &linear), return);
    CHECK_OK(ctx, sae_linear_apply(linear, data, 0, data), (void)0);
    CHECK(sae_linear_apply(linear, NULL, 1, data) == SAE_ERR_INVALID, "no x");
    CHECK(sae_linear_apply(linear, data, SIZE_MAX / 4, data) == SAE_ERR_INVALID, "too many rows");
    sae_linear_destroy(linear);
}

int main(void) {
    make_contexts();
    if (num_contexts) {
        same_bits();
        all_words();
        errors();
    }
    for (size_t c = 0; c < num_contexts; c++) sae_context_destroy(contexts[c]);
    return check_end();
}
