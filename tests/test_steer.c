/*  Proves: sae_steer on every class, rule, mode: the rows move by sum (target - f) W_dec, rows whose
    latents are at their targets keep their bits, f is that of sae_encode (top-k: 0 outside the k, ties
    too), the same bits for any number of threads and rows, no allocation, const dictionary from four
    threads at once; every error; and the bytes of a control vector.
    Oracle: f of sae_encode on the dense matrix, the sum in double precision below; for the file, bytes
    written down from the GGUF specification (and read once with the gguf package, with equal result).
    Tolerance: 1e-5 of the largest entry of the row, float32 sums of up to 60 terms; bits elsewhere. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include <pthread.h>

enum { N = 71, D = 43, M = 150, MOST = 64 };
static sae_context *ctx;

/* number: of a variation of other programs' files, 0 for none. */
static sae_dictionary *make_varied(sae_arch arch, int number) {
    sae_dictionary_desc desc;
    sae_dictionary *dict = NULL;
    memset(&desc, 0, sizeof desc);
    desc.arch = arch;
    desc.activation_dim = D;
    desc.dict_size = arch == SAE_ARCH_IDENTITY ? D : M;
    if (arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA)
        desc.k = 9;
    if (arch == SAE_ARCH_MATRYOSHKA) {
        desc.num_groups = 2;
        desc.group_sizes[0] = M / 2;
        desc.group_sizes[1] = M - M / 2;
    }
    desc.seed = 3;
    if (number >= 1 && number <= 3) desc.activation = (sae_activation)number;
    if (number == SAE_ACTIVATION_GROUP_MAX) desc.k = 10; /* divides M */
    if (number == 4) desc.input_norm = SAE_INPUT_NORM_CONSTANT;
    if (number == 5) desc.input_norm = SAE_INPUT_NORM_LAYER;
    desc.no_b_dec_subtraction = number > 3;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return NULL);
    common_shake(dict, 11, 0, 0.02);
    if (desc.k) dict->threshold = 0.2f;
    if (arch == SAE_ARCH_MATRYOSHKA)
        CHECK_OK(ctx, sae_dictionary_set_active_groups(dict, 1), return dict);
    return dict;
}

static sae_dictionary *make(sae_arch arch) { return make_varied(arch, 0); }

/* What brings a decoded direction to the units of the row. */
static double naive_scale(const sae_dictionary *dict, const float *x) {
    double sum = 0, square = 0;
    bool layer = dict->desc.input_norm == SAE_INPUT_NORM_LAYER;
    if (!dict->desc.input_norm) return 1;
    for (size_t c = 0; c < D; c++) sum += (double)x[c];
    for (size_t c = 0; c < D; c++) {
        double v = (double)x[c] - (layer ? sum / D : 0);
        square += v * v;
    }
    return sqrt(square / (layer ? D - 1 : D));
}

/* x [n,d] as it must be, in double. */
static void naive_steer(const sae_dictionary *dict, const float *x, size_t n, const float *f,
                        const sae_steering *s, size_t count, double *out) {
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size;
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < d; c++) {
            double sum = (double)x[r * d + c];
            for (size_t j = 0; j < count; j++) {
                double now = (double)f[r * m + s[j].latent], value = (double)s[j].value, target;
                double w = dict->W_dec ? (double)dict->W_dec[s[j].latent * dict->ld_out + c]
                                       : s[j].latent == c;
                target = s[j].mode == SAE_STEER_SET ? value
                       : s[j].mode == SAE_STEER_SCALE ? now * value
                       : s[j].mode == SAE_STEER_ABLATE ? 0 : now + value;
                sum += (target - now) * w * naive_scale(dict, x + r * d);
            }
            out[r * d + c] = sum;
        }
}

static void compare(const float *got, const double *want, size_t n, size_t d, const char *what) {
    for (size_t r = 0; r < n; r++) {
        double top = 1e-3, worst = 0;
        for (size_t c = 0; c < d; c++) {
            double e = fabs((double)got[r * d + c] - want[r * d + c]);
            if (!(e <= worst)) worst = e;
            if (fabs(want[r * d + c]) > top) top = fabs(want[r * d + c]);
        }
        CHECK(worst <= 1e-5 * top, "%s: row %zu is off by %g of %g", what, r, worst, top);
    }
}

/* Steers copies of x all at once and row by row, and judges both. */
static void judge(const sae_dictionary *dict, const float *x, size_t n, const float *f,
                  const sae_steering *s, size_t count, const char *what) {
    size_t d = dict->desc.activation_dim;
    float *whole = (float *)malloc(n * d * sizeof *whole);
    float *single = (float *)malloc(n * d * sizeof *single);
    double *want = (double *)malloc(n * d * sizeof *want);
    memcpy(whole, x, n * d * sizeof *whole);
    memcpy(single, x, n * d * sizeof *single);
    naive_steer(dict, x, n, f, s, count, want);
    common_memory.calls = 0;
    CHECK_OK(dict->ctx, sae_steer(dict, whole, n, s, count), goto end);
    for (size_t r = 0; r < n; r++)
        CHECK_OK(dict->ctx, sae_steer(dict, single + r * d, 1, s, count), goto end);
    CHECK(common_memory.calls == 0, "%s: %ld allocations", what, common_memory.calls);
    CHECK(memcmp(whole, single, n * d * sizeof *whole) == 0, "%s: bits depend on n", what);
    compare(whole, want, n, d, what);
end:
    free(whole);
    free(single);
    free(want);
}

static void test_class(sae_arch arch, sae_rule rule, int variation) {
    static const sae_steer_mode modes[] = { SAE_STEER_DEFAULT, SAE_STEER_ADD, SAE_STEER_SET,
                                            SAE_STEER_SCALE, SAE_STEER_ABLATE };
    char what[96];
    sae_steering s[MOST];
    sae_dictionary *dict = make_varied(arch, variation);
    size_t m = dict->desc.dict_size;
    float *x = (float *)malloc(N * D * sizeof *x), *f = (float *)malloc(N * M * sizeof *f);
    check_rng rng = { 5 };
    if (rule) CHECK_OK(ctx, sae_dictionary_set_rule(dict, rule), goto end);
    check_activations(2, x, N, D);
    memset(x + 5 * D, 0, D * sizeof *x);
    if (arch == SAE_ARCH_TOP_K) /* ties: two latents with the same weights */
        for (size_t i = 0; i < 40; i += 2) {
            memcpy(dict->W_enc + (i + 1) * dict->ld, dict->W_enc + i * dict->ld,
                   D * sizeof(float));
            dict->b_enc[i + 1] = dict->b_enc[i];
        }
    CHECK_OK(ctx, sae_encode(dict, x, N, f), goto end);
    for (size_t i = 0; i < 5; i++)
        for (size_t count = 1; count <= MOST; count = count < 4 ? count + 1 : count * 4) {
            for (size_t j = 0; j < count; j++) {
                s[j].latent = (uint32_t)(check_bits(&rng) % m);
                s[j].mode = count > 2 ? modes[(i + j) % 5] : modes[i];
                s[j].value = (float)(4 * check_uniform(&rng) - 2);
            }
            snprintf(what, sizeof what, "%s %d, mode %d, %zu latents", sae_arch_name(arch),
                     variation, (int)modes[i], count);
            judge(dict, x, N, f, s, count, what);
        }
    { /* every latent ablated: what is left is the error and the bias */
        float *left = (float *)malloc(N * D * sizeof *left);
        float *x_hat = (float *)malloc(N * D * sizeof *x_hat);
        double *want = (double *)malloc(N * D * sizeof *want);
        sae_steering all[M];
        for (size_t i = 0; i < m; i++) {
            all[i].latent = (uint32_t)i;
            all[i].mode = SAE_STEER_ABLATE;
            all[i].value = NAN;
        }
        memcpy(left, x, N * D * sizeof *left);
        CHECK_OK(ctx, sae_decode(dict, f, N, x_hat), goto all_end);
        for (size_t r = 0; r < N; r++) /* the sum alone, in the row's units */
            for (size_t c = 0; c < D; c++) {
                float *v = x_hat + r * D + c;
                *v = (float)(((double)*v - (dict->b_dec ? (double)dict->b_dec[c] : 0)) *
                             naive_scale(dict, x + r * D));
            }
        for (size_t i = 0; i < N * D; i++)
            want[i] = (double)x[i] - (double)x_hat[i];
        common_memory.calls = 0;
        CHECK_OK(ctx, sae_steer(dict, left, N, all, m), goto all_end);
        CHECK(common_memory.calls == 0, "%ld allocations with all latents", common_memory.calls);
        compare(left, want, N, D, sae_arch_name(arch));
all_end:
        free(left);
        free(x_hat);
        free(want);
    }
end:
    free(x);
    free(f);
    sae_dictionary_destroy(dict);
}

/* Rows in which the latent is silent keep their bits; its target reached, too. */
static void test_untouched(void) {
    sae_dictionary *dict = make(SAE_ARCH_TOP_K);
    float x[N * D], y[N * D], *f = (float *)malloc(N * M * sizeof *f);
    sae_steering s = { 0, SAE_STEER_ABLATE, 0 };
    size_t same = 0, silent = 0;
    check_activations(4, x, N, D);
    x[3] = -0.0f;
    memcpy(y, x, sizeof x);
    CHECK_OK(ctx, sae_encode(dict, x, N, f), goto end);
    for (size_t i = 0, most = 0; i < M; i++) { /* the one that fires most often, not always */
        size_t fires = 0;
        for (size_t r = 0; r < N; r++) fires += f[r * M + i] > 0;
        if (fires == N || fires <= most) continue;
        most = fires;
        s.latent = (uint32_t)i;
    }
    CHECK_OK(ctx, sae_steer(dict, y, N, &s, 1), goto end);
    for (size_t r = 0; r < N; r++) {
        bool kept = memcmp(x + r * D, y + r * D, D * sizeof *x) == 0;
        if (f[r * M + s.latent] == 0) {
            silent++;
            same += kept;
        } else {
            CHECK(!kept, "row %zu was not moved", r);
        }
    }
    CHECK(same == silent && silent > 0 && silent < N, "%zu of %zu silent rows kept", same, silent);
    s.mode = SAE_STEER_SCALE; /* by 1 */
    s.value = 1;
    memcpy(y, x, sizeof x);
    CHECK_OK(ctx, sae_steer(dict, y, N, &s, 1), goto end);
    CHECK(memcmp(x, y, sizeof x) == 0, "scaling by 1 changed bits");
    CHECK_OK(ctx, sae_steer(dict, y, N, NULL, 0), goto end);
    CHECK_OK(ctx, sae_steer(dict, NULL, 0, &s, 1), goto end);
    CHECK(memcmp(x, y, sizeof x) == 0, "no steering changed bits");
end:
    free(f);
    sae_dictionary_destroy(dict);
}

typedef struct user {
    const sae_dictionary *dict;
    float x[N * D];
} user;
static void *use(void *arg) {
    user *u = (user *)arg;
    sae_steering s[2] = { { 3, SAE_STEER_SET, 2 }, { 50, SAE_STEER_SCALE, 3 } };
    for (int i = 0; i < 20; i++) sae_steer(u->dict, u->x, N, s, 2);
    return NULL;
}
static void test_threads(void) {
    sae_dictionary *dict = make(SAE_ARCH_TOP_K);
    user *users = (user *)malloc(5 * sizeof *users);
    pthread_t ids[4];
    for (size_t i = 0; i < 5; i++) {
        users[i].dict = dict;
        check_activations(8, users[i].x, N, D);
    }
    for (size_t i = 0; i < 4; i++) pthread_create(&ids[i], NULL, use, &users[i]);
    for (size_t i = 0; i < 4; i++) pthread_join(ids[i], NULL);
    use(&users[4]);
    for (size_t i = 0; i < 4; i++)
        CHECK(memcmp(users[i].x, users[4].x, sizeof users[i].x) == 0, "thread %zu differs", i);
    free(users);
    sae_dictionary_destroy(dict);
}

#define REFUSED(call, code, text)                                                                  \
    do {                                                                                           \
        sae_result got_ = (call);                                                                  \
        CHECK(got_ == (code) && strstr(sae_error(ctx), text), "%s gives %s: %s", #call,            \
              sae_result_name(got_), sae_error(ctx));                                              \
        CHECK(memcmp(x, before, sizeof x) == 0, "%s changed x", #call);                            \
    } while (0)

static void test_errors(void) {
    sae_dictionary *dict = make(SAE_ARCH_BATCH_TOP_K), *identity = make(SAE_ARCH_IDENTITY);
    static sae_steering many[SAE_MAX_STEERINGS + 1];
    float x[2 * D], before[2 * D];
    sae_steering s = { 0, SAE_STEER_SET, 1 };
    const char *path = check_path("%s/refused.gguf", check_temp());
    check_activations(1, x, 2, D);
    memcpy(before, x, sizeof x);
    CHECK(sae_steer(NULL, x, 1, &s, 1) == SAE_ERR_INVALID, "no dictionary");
    REFUSED(sae_steer(dict, NULL, 1, &s, 1), SAE_ERR_INVALID, "NULL");
    REFUSED(sae_steer(dict, x, 1, NULL, 1), SAE_ERR_INVALID, "NULL");
    REFUSED(sae_steer(dict, x, 1, many, SAE_MAX_STEERINGS + 1), SAE_ERR_INVALID, "1025");
    CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_TOP_K), return);
    REFUSED(sae_steer(dict, x, 2, &s, 1), SAE_ERR_UNSUPPORTED, "SAE_RULE_THRESHOLD");
    s.mode = (sae_steer_mode)9;
    REFUSED(sae_steer(dict, x, 1, &s, 1), SAE_ERR_INVALID, "steerings[0].mode is 9");
    s.mode = SAE_STEER_ADD;
    s.value = NAN;
    REFUSED(sae_steer(dict, x, 1, &s, 1), SAE_ERR_INVALID, "steerings[0].value");
    s.value = 1;
    s.latent = M;
    REFUSED(sae_steer(dict, x, 1, &s, 1), SAE_ERR_INVALID, "steerings[0].latent is 150");
    REFUSED(sae_steer_export(dict, &s, 1, 1, NULL, path), SAE_ERR_INVALID, "latent is 150");
    s.latent = 0;
    REFUSED(sae_steer_export(dict, &s, 1, 0, NULL, path), SAE_ERR_INVALID, "layer is 0");
    REFUSED(sae_steer_export(dict, &s, 1, 1, NULL, NULL), SAE_ERR_INVALID, "NULL");
    REFUSED(sae_steer_export(dict, &s, 0, 1, NULL, path), SAE_ERR_INVALID, "count is 0");
    REFUSED(sae_steer_export(identity, &s, 1, 1, NULL, path), SAE_ERR_UNSUPPORTED, "no directions");
    REFUSED(sae_steer_export(dict, &s, 1, 1, NULL, "/nonexistent/f.gguf"), SAE_ERR_NOT_FOUND,
            "/nonexistent");
    s.mode = SAE_STEER_SET;
    REFUSED(sae_steer_export(dict, &s, 1, 1, NULL, path), SAE_ERR_INVALID, "only adds");
    CHECK(!check_exists(path), "a refused export left a file");
    {
        sae_dictionary_desc skip = *sae_dictionary_get_desc(dict);
        sae_dictionary *transcoder;
        skip.skip = true;
        CHECK_OK(ctx, sae_dictionary_create(ctx, &skip, &transcoder), return);
        REFUSED(sae_steer(transcoder, x, 1, &s, 1), SAE_ERR_UNSUPPORTED, "transcoder");
        sae_dictionary_destroy(transcoder);
    }
    sae_dictionary_destroy(dict);
    sae_dictionary_destroy(identity);
}

static void test_control_vector(void) {
    static const unsigned char want[] =
        "GGUF" "\3\0\0\0" "\1\0\0\0\0\0\0\0" "\3\0\0\0\0\0\0\0"
        "\x14\0\0\0\0\0\0\0" "general.architecture" "\x08\0\0\0"
        "\x0d\0\0\0\0\0\0\0" "controlvector"
        "\x18\0\0\0\0\0\0\0" "controlvector.model_hint" "\x08\0\0\0" "\5\0\0\0\0\0\0\0" "llama"
        "\x19\0\0\0\0\0\0\0" "controlvector.layer_count" "\4\0\0\0" "\1\0\0\0"
        "\x0c\0\0\0\0\0\0\0" "direction.12" "\1\0\0\0" "\3\0\0\0\0\0\0\0" "\0\0\0\0"
        "\0\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0\0\0\0\0\0" /* to 32 bytes */
        "\0\0\x80\x3f" "\0\0\0\xc0" "\0\0\xe0\x40"                        /* 1, -2, 7 */
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";                          /* and the last NUL */
    const char *path = check_path("%s/vector.gguf", check_temp());
    sae_dictionary_desc desc;
    sae_dictionary *dict;
    sae_steering s[2] = { { 0, SAE_STEER_ADD, 2 }, { 1, SAE_STEER_DEFAULT, -1 } };
    size_t size = 0;
    char *got;
    memset(&desc, 0, sizeof desc);
    desc.arch = SAE_ARCH_STANDARD_NEW;
    desc.activation_dim = 3;
    desc.dict_size = 2;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return);
    for (size_t c = 0; c < 3; c++) {
        static const float rows[2][3] = { { 1, 0.5f, 3 }, { 1, 3, -1 } };
        dict->W_dec[c] = rows[0][c];
        dict->W_dec[dict->ld_out + c] = rows[1][c];
    }
    CHECK_OK(ctx, sae_steer_export(dict, s, 2, 12, "llama", path), goto end);
    got = check_read(path, &size);
    CHECK(got && size % 32 == 0 && size == sizeof want, "%zu bytes, want %zu", size, sizeof want);
    for (size_t i = 0; got && i < size && i < sizeof want; i++)
        CHECK((unsigned char)got[i] == want[i], "byte %zu is %d, want %d", i,
              (unsigned char)got[i], want[i]);
    free(got);
end:
    sae_dictionary_destroy(dict);
}

int main(void) {
    for (int threads = 1; threads <= 3; threads += 2) {
        ctx = common_counted(NULL, threads);
        for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_IDENTITY; arch++)
            test_class((sae_arch)arch, SAE_RULE_DEFAULT, 0);
        test_class(SAE_ARCH_TOP_K, SAE_RULE_THRESHOLD, 0);
        test_class(SAE_ARCH_STANDARD, SAE_RULE_DEFAULT, SAE_ACTIVATION_SIGNED);
        for (int variation = 1; variation <= 5; variation++)
            test_class(SAE_ARCH_TOP_K, SAE_RULE_DEFAULT, variation);
        sae_context_destroy(ctx);
    }
    ctx = common_counted(NULL, 1);
    test_untouched();
    test_threads();
    test_errors();
    test_control_vector();
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
