/*  Proves: inference of every class: encode, its sparse and partial forms, decode, forward, ghosts,
    scaling, normalising, active groups, rules, ties, edge cases, and many threads at once.
    Oracle: dense loops in double precision below, written from the table of classes.
    Tolerance: 2e-6 times (d + active latents) units of the row's scale, i.e. 1e-5 of the largest
    value; choices (which latents) must be equal, inputs are random so that no choice is within 1e-5 of
    its threshold but where a test says so. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include <pthread.h>

enum { N = 37 };
static sae_context *ctx;

static sae_dictionary *make(sae_arch arch, size_t d, size_t m, size_t k, uint64_t seed) {
    sae_dictionary_desc desc;
    sae_dictionary *dict = NULL;
    memset(&desc, 0, sizeof desc);
    desc.arch = arch;
    desc.activation_dim = d;
    desc.dict_size = arch == SAE_ARCH_IDENTITY ? d : m;
    if (arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA)
        desc.k = k;
    if (arch == SAE_ARCH_MATRYOSHKA) {
        desc.num_groups = 3;
        desc.group_sizes[0] = m / 4;
        desc.group_sizes[1] = m / 3;
        desc.group_sizes[2] = m - m / 4 - m / 3;
    }
    desc.seed = seed;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return NULL);
    common_shake(dict, seed, 0, 0.02);
    if (desc.k) dict->threshold = 0.3f;
    return dict;
}

/* p, the values before any choice [n,m], and f by the dictionary's rule. */
static void naive_encode(const sae_dictionary *dict, const float *x, size_t n, double *f) {
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size, limit = m;
    sae_arch arch = dict->desc.arch;
    bool subtract =
        arch != SAE_ARCH_STANDARD_NEW && (arch != SAE_ARCH_JUMP_RELU || dict->desc.subtract_b_dec);
    bool chooses =
        arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA;
    if (arch == SAE_ARCH_IDENTITY) {
        for (size_t q = 0; q < n * d; q++) f[q] = (double)x[q];
        return;
    }
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < m; i++) {
            double u = 0, v;
            for (size_t j = 0; j < d; j++)
                u += (double)dict->W_enc[i * dict->ld + j] *
                     ((double)x[r * d + j] - (subtract ? (double)dict->b_dec[j] : 0));
            v = u + (double)dict->b_enc[i];
            if (arch == SAE_ARCH_GATED) {
                double mag = exp((double)dict->aux0[i]) * u + (double)dict->aux1[i];
                v = v > 0 && mag > 0 ? mag : 0;
            } else if (arch == SAE_ARCH_JUMP_RELU) {
                v = v > (double)dict->aux0[i] && v > 0 ? v : 0;
            } else if (v < 0) v = 0;
            f[r * m + i] = v;
        }
    if (!chooses) return;
    if (dict->rule == SAE_RULE_THRESHOLD) {
        for (size_t q = 0; q < n * m; q++)
            if (!(f[q] > (double)dict->threshold)) f[q] = 0;
    } else {
        size_t group = arch == SAE_ARCH_TOP_K ? 1 : n, k = dict->desc.k * group, width = m * group;
        bool *taken = (bool *)malloc(width * sizeof *taken);
        for (size_t r = 0; r < n; r += group) {
            double *row = f + r * m;
            memset(taken, 0, width * sizeof *taken);
            for (size_t a = 0; a < k; a++) {
                size_t best = width;
                for (size_t i = 0; i < width; i++)
                    if (!taken[i] && (best == width || row[i] > row[best])) best = i;
                if (best < width) taken[best] = true;
            }
            for (size_t i = 0; i < width; i++)
                if (!taken[i]) row[i] = 0;
        }
        free(taken);
    }
    if (arch == SAE_ARCH_MATRYOSHKA) {
        limit = 0;
        for (size_t g = 0; g < dict->active_groups; g++) limit += dict->desc.group_sizes[g];
        for (size_t r = 0; r < n; r++)
            for (size_t i = limit; i < m; i++) f[r * m + i] = 0;
    }
}

static void naive_decode(const sae_dictionary *dict, const double *f, size_t n, double *out) {
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size;
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < d; j++) {
            double v = dict->desc.arch == SAE_ARCH_IDENTITY ? f[r * d + j] : (double)dict->b_dec[j];
            for (size_t i = 0; dict->desc.arch != SAE_ARCH_IDENTITY && i < m; i++)
                v += f[r * m + i] * (double)dict->W_dec[i * dict->ld + j];
            out[r * d + j] = v;
        }
}

static void near_rows(const char *what, const float *got, const double *want, size_t n,
                      double tolerance) {
    double worst = 0, largest = 0;
    size_t choices = 0;
    for (size_t q = 0; q < n; q++) {
        double e = fabs((double)got[q] - want[q]);
        if (!(e <= worst)) worst = e;
        if (fabs(want[q]) > largest) largest = fabs(want[q]);
        choices += (got[q] != 0) != (want[q] != 0);
    }
    CHECK(worst <= tolerance * fmax(largest, 1e-3), "%s off by %.1e of %.1e", what, worst, largest);
    CHECK(choices == 0 || !strncmp(what, "x_", 2), "%s: %d other choices", what, (int)choices);
}

typedef struct sparse_buffer {
    sae_sparse s;
} sparse_buffer;
static void sparse_open(sparse_buffer *b, size_t n, size_t capacity) {
    b->s.row_begin = (size_t *)malloc((n + 1) * sizeof(size_t));
    b->s.latent = (uint32_t *)malloc((capacity + 1) * sizeof(uint32_t));
    b->s.value = (float *)malloc((capacity + 1) * sizeof(float));
    b->s.capacity = capacity;
}
static void sparse_close(sparse_buffer *b) {
    free(b->s.row_begin);
    free(b->s.latent);
    free(b->s.value);
}

/* All inference calls of one dictionary against the naive ones and against each other. */
static void run(sae_dictionary *dict, uint64_t seed) {
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size, count;
    bool batch = dict->rule == SAE_RULE_TOP_K && dict->desc.arch != SAE_ARCH_TOP_K;
    bool chooses = dict->desc.k != 0;
    float *x = (float *)malloc(N * d * sizeof *x), *f = (float *)malloc(N * m * sizeof *f);
    float *f2 = (float *)malloc(N * m * sizeof *f), *x_hat = (float *)malloc(N * d * sizeof *x);
    float *x2 = (float *)malloc(N * d * sizeof *x), *part = (float *)malloc(N * m * sizeof *f);
    double *fd = (double *)malloc(N * m * sizeof *fd), *xd = (double *)malloc(N * d * sizeof *xd);
    uint32_t *subset = (uint32_t *)malloc(m * sizeof *subset);
    sparse_buffer sparse;
    check_rng rng = { seed };
    size_t at;
    sparse_open(&sparse, N, N * m);
    check_activations(seed, x, N, d);
    naive_encode(dict, x, N, fd);
    naive_decode(dict, fd, N, xd);

    CHECK_OK(ctx, sae_encode(dict, x, N, f), goto end);
    near_rows("f", f, fd, N * m, 1e-5);
    CHECK_OK(ctx, sae_decode(dict, f, N, x_hat), goto end);
    near_rows("x_hat", x_hat, xd, N * d, 1e-5);
    memset(f2, 0x7f, N * m * sizeof *f2);
    CHECK_OK(ctx, sae_forward(dict, x, N, x2, f2), goto end);
    CHECK(!memcmp(f, f2, N * m * sizeof *f), "forward's f is not encode's");
    CHECK(!memcmp(x_hat, x2, N * d * sizeof *x), "forward's x_hat is not decode's");
    memset(x2, 0x7f, N * d * sizeof *x2);
    CHECK_OK(ctx, sae_forward(dict, x, N, x2, NULL), goto end);
    CHECK(!memcmp(x_hat, x2, N * d * sizeof *x), "x_hat depends on f being asked for");

    /* rows one at a time */
    if (!batch) {
        for (size_t r = 0; r < N; r++) {
            CHECK_OK(ctx, sae_encode(dict, x + r * d, 1, f2 + r * m), goto end);
            CHECK_OK(ctx, sae_decode(dict, f2 + r * m, 1, x2 + r * d), goto end);
        }
        CHECK(!memcmp(f, f2, N * m * sizeof *f), "f depends on n");
        CHECK(!memcmp(x_hat, x2, N * d * sizeof *x), "x_hat depends on n");
    }

    /* lists */
    CHECK_OK(ctx, sae_encode_sparse(dict, x, N, &sparse.s), goto end);
    CHECK(sparse.s.row_begin[0] == 0, "the first row begins at %d", (int)sparse.s.row_begin[0]);
    for (size_t r = 0; r < N; r++) {
        at = sparse.s.row_begin[r];
        for (size_t i = 0; i < m; i++) {
            bool listed = at < sparse.s.row_begin[r + 1] && sparse.s.latent[at] == i;
            CHECK(listed == (f[r * m + i] != 0), "row %d latent %d %s", (int)r, (int)i,
                  listed ? "listed" : "missing");
            if (listed) {
                CHECK(!memcmp(&sparse.s.value[at], &f[r * m + i], sizeof(float)), "listed value");
                at++;
            }
        }
        CHECK(at == sparse.s.row_begin[r + 1], "row %d has more than its latents", (int)r);
    }
    CHECK_OK(ctx, sae_decode_sparse(dict, &sparse.s, N, x2), goto end);
    CHECK(!memcmp(x_hat, x2, N * d * sizeof *x), "decode_sparse is not decode");
    count = sparse.s.row_begin[N];
    if (count > 0) { /* exactly enough room, then too little */
        bool row_top_k = dict->rule == SAE_RULE_TOP_K && dict->desc.arch == SAE_ARCH_TOP_K;
        sparse.s.capacity = row_top_k ? N * dict->desc.k : count;
        CHECK_OK(ctx, sae_encode_sparse(dict, x, N, &sparse.s), goto end);
        if (dict->rule != SAE_RULE_TOP_K) {
            sparse.s.capacity = count - 1;
            CHECK(sae_encode_sparse(dict, x, N, &sparse.s) == SAE_ERR_INVALID, "too little room");
        }
    }

    /* some latents */
    count = 0;
    for (size_t i = m; i-- > 0;)
        if (check_uniform(&rng) < 0.4) subset[count++] = (uint32_t)i;
    if (count) {
        CHECK_OK(ctx, sae_encode_subset(dict, x, N, subset, count, part), goto end);
        for (size_t r = 0; r < N; r++)
            for (size_t i = 0; i < count; i++) {
                float want = f[r * m + subset[i]];
                if (chooses && dict->rule == SAE_RULE_TOP_K) {
                    sae_rule rule = dict->rule; /* the threshold rule is what a subset gets */
                    float all[2000];
                    CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD), goto end);
                    CHECK_OK(ctx, sae_encode(dict, x + r * d, 1, all), goto end);
                    CHECK_OK(ctx, sae_dictionary_set_rule(dict, rule), goto end);
                    want = all[subset[i]];
                }
                CHECK(!memcmp(&want, &part[r * count + i], sizeof want),
                      "subset: row %d latent %d is %g, want %g", (int)r, (int)subset[i],
                      (double)part[r * count + i], (double)want);
            }
    }

    /* output_features */
    memcpy(f2, f, N * m * sizeof *f);
    sae_output_features(dict, N, f2);
    for (size_t q = 0; q < N * m; q++)
        if (dict->desc.arch == SAE_ARCH_STANDARD_NEW) {
            double s = 0;
            for (size_t j = 0; j < d; j++)
                s += pow((double)dict->W_dec[q % m * dict->ld + j], 2);
            fd[q] *= sqrt(s);
        }
    near_rows("output features", f2, fd, N * m, 1e-5);
end:
    sparse_close(&sparse);
    free(x);
    free(f);
    free(f2);
    free(x_hat);
    free(x2);
    free(part);
    free(fd);
    free(xd);
    free(subset);
}

static void all_classes(void) {
    static const size_t sizes[][3] = { { 20, 64, 5 }, { 7, 33, 3 }, { 16, 16, 4 }, { 33, 130, 130 },
                                       { 1, 1, 1 }, { 64, 700, 12 } };
    char name[128];
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_IDENTITY; arch++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            sae_dictionary *dict;
            if (arch == SAE_ARCH_MATRYOSHKA && sizes[i][1] < 4) continue;
            snprintf(name, sizeof name, "%s d %d m %d", sae_arch_name((sae_arch)arch),
                     (int)sizes[i][0], (int)sizes[i][1]);
            check_test = name;
            dict = make((sae_arch)arch, sizes[i][0], sizes[i][1], sizes[i][2], 3 + i);
            if (!dict) continue;
            run(dict, 10 + i);
            if (dict->desc.k) {
                CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD), (void)0);
                run(dict, 20 + i);
                CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_TOP_K), (void)0);
                run(dict, 30 + i);
                dict->threshold = -1; /* never set: everything passes */
                CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD), (void)0);
                run(dict, 40 + i);
            } else {
                CHECK(sae_dictionary_set_rule(dict, SAE_RULE_TOP_K) == SAE_ERR_INVALID, "top_k rule");
            }
            if (arch == SAE_ARCH_MATRYOSHKA) {
                dict->threshold = 0.2f;
                for (size_t g = 1; g <= 3; g++) {
                    CHECK_OK(ctx, sae_dictionary_set_active_groups(dict, g), continue);
                    CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD), (void)0);
                    run(dict, 50 + g);
                    CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_TOP_K), (void)0);
                    run(dict, 60 + g);
                }
                CHECK(sae_dictionary_set_active_groups(dict, 4) == SAE_ERR_INVALID, "4 of 3 groups");
                CHECK_OK(ctx, sae_dictionary_set_active_groups(dict, 0), (void)0);
                CHECK(dict->active_groups == 3, "0 is not all");
            }
            if (arch == SAE_ARCH_JUMP_RELU) {
                dict->desc.subtract_b_dec = true;
                run(dict, 70 + i);
            }
            sae_dictionary_destroy(dict);
        }
    check_test = NULL;
}

/* W_enc = W_dec = identity, no biases: p = relu(x). */
static sae_dictionary *plain(sae_arch arch, size_t d, size_t k) {
    sae_dictionary *dict = make(arch, d, d, k, 1);
    memset(dict->params, 0, dict->num_params * sizeof(float));
    for (size_t i = 0; i < d; i++)
        dict->W_enc[i * dict->ld + i] = dict->W_dec[i * dict->ld + i] = 1;
    return dict;
}

static void ties(void) {
    static const float x[2 * 8] = { 1, 2, 2, 2, 0, -1, 2, 3, 0, 5, 5, -2, 5, 5, 5, 5 };
    static const float want_row[2 * 8] = { 0, 2, 2, 0, 0, 0, 0, 3, 0, 5, 5, 0, 5, 0, 0, 0 };
    static const float want_batch[2 * 8] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 0, 5, 5, 5, 5 };
    static const float few[8] = { -1, 0, 4, -2, 0, 0, 0, -3 };
    static const float want_few[8] = { 0, 0, 4, 0, 0, 0, 0, 0 };
    float f[16];
    sae_sparse s;
    size_t row_begin[3];
    uint32_t latent[16];
    float value[16];
    sae_dictionary *dict;

    check_test = "ties";
    dict = plain(SAE_ARCH_TOP_K, 8, 3);
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(!memcmp(f, want_row, sizeof f), "ties of a row do not go to the lower index");
    CHECK_OK(ctx, sae_encode(dict, few, 1, f), (void)0);
    CHECK(!memcmp(f, want_few, sizeof want_few), "fewer than k positives");
    s.row_begin = row_begin;
    s.latent = latent;
    s.value = value;
    s.capacity = 6;
    CHECK_OK(ctx, sae_encode_sparse(dict, few, 1, &s), (void)0);
    CHECK(row_begin[1] == 1 && latent[0] == 2 && value[0] == 4, "fewer than k positives, listed");
    sae_dictionary_destroy(dict);

    dict = plain(SAE_ARCH_BATCH_TOP_K, 8, 3);
    CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_TOP_K), (void)0);
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(!memcmp(f, want_batch, sizeof f), "the 6 largest of the batch");
    dict->desc.k = 2; /* 4 of them: ties over rows go to the lower row, then the lower latent */
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(f[9] == 5 && f[10] == 5 && f[12] == 5 && f[13] == 5 && f[14] == 0 && f[15] == 0
              && f[7] == 0, "ties of the batch do not go to the lower index");
    sae_dictionary_destroy(dict);

    dict = plain(SAE_ARCH_BATCH_TOP_K, 8, 3);
    dict->threshold = 2;
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(f[1] == 0 && f[7] == 3 && f[9] == 5, "p = threshold must not pass");
    dict->threshold = 0;
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(f[0] == 1 && f[5] == 0 && f[4] == 0, "threshold 0");
    sae_dictionary_destroy(dict);

    dict = plain(SAE_ARCH_JUMP_RELU, 8, 0);
    for (size_t i = 0; i < 8; i++) dict->aux0[i] = 2;
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(f[1] == 0 && f[7] == 3 && f[0] == 0 && f[9] == 5, "p = threshold_i must not pass");
    for (size_t i = 0; i < 8; i++) dict->aux0[i] = -1.5f;
    CHECK_OK(ctx, sae_encode(dict, x, 2, f), (void)0);
    CHECK(f[0] == 1 && f[5] == 0 && f[11] == 0, "a negative threshold lets negatives pass");
    sae_dictionary_destroy(dict);

    /* A row of NaN leaves the others alone. */
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_JUMP_RELU; arch++) {
        float a[3 * 20], clean[3 * 64], dirty[3 * 64];
        sae_dictionary *any = make((sae_arch)arch, 20, 64, 5, 2);
        check_test = sae_arch_name((sae_arch)arch);
        check_activations(1, a, 3, 20);
        CHECK_OK(ctx, sae_encode(any, a, 3, clean), (void)0);
        a[25] = NAN;
        CHECK_OK(ctx, sae_encode(any, a, 3, dirty), (void)0);
        CHECK(!memcmp(clean, dirty, 64 * sizeof(float)), "NaN in row 1 changes row 0");
        CHECK(!memcmp(clean + 128, dirty + 128, 64 * sizeof(float)), "NaN in row 1 changes row 2");
        a[25] = -INFINITY;
        CHECK_OK(ctx, sae_encode(any, a, 3, dirty), (void)0);
        CHECK(!memcmp(clean, dirty, 64 * sizeof(float)), "infinity in row 1 changes row 0");
        sae_dictionary_destroy(any);
    }
    check_test = NULL;
}

static void ghosts(void) {
    enum { D = 20, M = 64 };
    sae_dictionary *dict = make(SAE_ARCH_STANDARD, D, M, 0, 4);
    float x[N * D], out[N * D];
    double want[N * D];
    uint8_t mask[M];
    check_test = "ghosts";
    check_activations(3, x, N, D);
    for (size_t i = 0; i < M; i++) mask[i] = (uint8_t)(i % 3 == 0 ? i + 1 : 0);
    CHECK_OK(ctx, sae_forward_ghost(dict, x, N, mask, out), (void)0);
    memset(want, 0, sizeof want);
    for (size_t r = 0; r < N; r++)
        for (size_t i = 0; i < M; i++) {
            double u = (double)dict->b_enc[i];
            if (!mask[i]) continue;
            for (size_t j = 0; j < D; j++)
                u += (double)dict->W_enc[i * dict->ld + j] *
                     ((double)x[r * D + j] - (double)dict->b_dec[j]);
            for (size_t j = 0; j < D; j++)
                want[r * D + j] += exp(u) * (double)dict->W_dec[i * dict->ld + j];
        }
    near_rows("x_ghost", out, want, N * D, 1e-5);
    sae_dictionary_destroy(dict);
    dict = make(SAE_ARCH_TOP_K, D, M, 3, 4);
    CHECK(sae_forward_ghost(dict, x, N, mask, out) == SAE_ERR_INVALID, "ghosts of a TopK");
    sae_dictionary_destroy(dict);
    check_test = NULL;
}

/* scale_biases(s): the dictionary of x s from that of x, so f and x_hat become s times theirs. */
static void scaling(void) {
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_JUMP_RELU; arch++) {
        enum { D = 20, M = 64 };
        sae_dictionary *dict = make((sae_arch)arch, D, M, 5, 8);
        float x[N * D], f[N * M], x_hat[N * D];
        double fd[N * M], xd[N * D];
        float norm = 0;
        check_test = sae_arch_name((sae_arch)arch);
        check_activations(9, x, N, D);
        naive_encode(dict, x, N, fd);
        naive_decode(dict, fd, N, xd);
        for (size_t q = 0; q < N * D; q++) x[q] *= 4, xd[q] *= 4;
        for (size_t q = 0; q < N * M; q++) fd[q] *= 4;
        CHECK_OK(ctx, sae_dictionary_scale_biases(dict, 4), (void)0);
        CHECK_OK(ctx, sae_forward(dict, x, N, x_hat, f), (void)0);
        near_rows("scaled f", f, fd, N * M, 1e-5);
        near_rows("x_hat scaled", x_hat, xd, N * D, 1e-5);
        CHECK(sae_dictionary_scale_biases(dict, 0) == SAE_ERR_INVALID, "scale 0");
        CHECK(sae_dictionary_scale_biases(dict, -1) == SAE_ERR_INVALID, "scale -1");
        CHECK(sae_dictionary_scale_biases(dict, NAN) == SAE_ERR_INVALID, "scale NaN");
        CHECK(sae_dictionary_scale_biases(dict, INFINITY) == SAE_ERR_INVALID, "scale infinity");
        if (dict->desc.k) {
            CHECK(sae_dictionary_threshold(dict) == 1.2f
                      || fabsf(sae_dictionary_threshold(dict) - 1.2f) < 1e-6f,
                  "threshold %g", (double)sae_dictionary_threshold(dict));
            dict->threshold = -1;
            CHECK_OK(ctx, sae_dictionary_scale_biases(dict, 2), (void)0);
            CHECK(sae_dictionary_threshold(dict) == -1, "the unset threshold was scaled");
        } else CHECK(sae_dictionary_threshold(dict) == 0, "a threshold where there is none");

        /* normalize_decoder: STANDARD alone, x_hat unchanged */
        CHECK_OK(ctx, sae_forward(dict, x, N, x_hat, f), (void)0);
        for (size_t i = 0; i < M; i++)
            for (size_t j = 0; j < D; j++)
                dict->W_dec[i * dict->ld + j] *= (float)(1 + (double)(i % 5));
        CHECK_OK(ctx, sae_forward(dict, x, N, x_hat, NULL), (void)0);
        for (size_t q = 0; q < N * D; q++) xd[q] = (double)x_hat[q];
        CHECK_OK(ctx, sae_dictionary_normalize_decoder(dict), (void)0);
        CHECK_OK(ctx, sae_forward(dict, x, N, x_hat, NULL), (void)0);
        near_rows("x_hat normalised", x_hat, xd, N * D, 1e-5);
        for (size_t j = 0; j < D; j++)
            norm += dict->W_dec[3 * dict->ld + j] * dict->W_dec[3 * dict->ld + j];
        if (arch == SAE_ARCH_STANDARD) CHECK(fabsf(norm - 1) < 1e-5f, "norm %g", (double)norm);
        else CHECK(fabsf(norm - 1) > 1e-3f || norm > 1.5f, "another class was normalised");
        sae_dictionary_destroy(dict);
    }
    check_test = "normalize_decoder";
    { /* nothing happens when all norms are near 1 already */
        sae_dictionary *dict = make(SAE_ARCH_STANDARD, 20, 64, 0, 8);
        sae_work w = common_work(ctx, 20, 64);
        uint64_t before;
        sae_cpu_backend()->normalize_rows(&w, 64, 0, dict->W_dec);
        common_work_end(&w);
        for (size_t j = 0; j < 20; j++) dict->W_dec[j] *= 1.000005f;
        before = common_hash(dict);
        CHECK_OK(ctx, sae_dictionary_normalize_decoder(dict), (void)0);
        CHECK(common_hash(dict) == before, "norms within 1e-5 were normalised");
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* forward without f keeps up to 1024 entries of a top-k on the stack: the same bits on both sides. */
static void many_latents(void) {
    static const size_t ks[] = { 1, 31, 33, 512, 1023, 1024, 1025, 1100 };
    enum { D = 21, M = 1100 };
    float *x = (float *)malloc(N * D * sizeof *x), *f = (float *)malloc(N * M * sizeof *f);
    float x_hat[N * D], without[N * D];
    check_activations(3, x, N, D);
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        sae_dictionary *dict = make(SAE_ARCH_TOP_K, D, M, ks[i], 6);
        if (!dict) break;
        for (size_t j = 0; i % 2 && j < M; j++) dict->b_enc[j] = 3; /* all positive: k are kept */
        CHECK_OK(ctx, sae_forward(dict, x, N, x_hat, f), (void)0);
        CHECK_OK(ctx, sae_forward(dict, x, N, without, NULL), (void)0);
        CHECK(!memcmp(x_hat, without, sizeof x_hat), "k %d: x_hat depends on f being asked for",
              (int)ks[i]);
        sae_dictionary_destroy(dict);
    }
    free(x);
    free(f);
}

/* Rows of the matrices, info, names. */
static void looking(void) {
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_IDENTITY; arch++) {
        sae_dictionary *dict = make((sae_arch)arch, 20, 64, 5, 8);
        sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
        size_t m = info.dict_size;
        check_test = sae_arch_name((sae_arch)arch);
        CHECK((int)info.arch == arch && info.activation_dim == 20, "info");
        CHECK(m == (arch == SAE_ARCH_IDENTITY ? 20 : 64), "m is %d", (int)m);
        CHECK(info.k == (dict->desc.k ? 5 : 0), "k is %d", (int)info.k);
        if (arch == SAE_ARCH_IDENTITY) {
            CHECK(!sae_dictionary_decoder_row(dict, 0), "a decoder row from nowhere");
        } else {
            CHECK(sae_dictionary_decoder_row(dict, 3) == dict->W_dec + 3 * dict->ld, "decoder row");
            CHECK(sae_dictionary_encoder_row(dict, 3) == dict->W_enc + 3 * dict->ld, "encoder row");
            CHECK(!sae_dictionary_decoder_row(dict, m) && !sae_dictionary_encoder_row(dict, m),
                  "a row past the end");
        }
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* The initialisations, as the reference's traces begin: AutoEncoder's b_enc is uniform within
   1/sqrt(d), every other bias 0. */
static void starts(void) {
    enum { D = 24, M = 400 };
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_JUMP_RELU; arch++) {
        sae_dictionary_desc desc;
        sae_dictionary *dict, *again;
        double norm_want = arch == SAE_ARCH_STANDARD || arch == SAE_ARCH_STANDARD_NEW ? 0.1 : 1;
        double mean = 0, fourth = 0, bias = 0, bias_square = 0, width = 1 / sqrt((double)D);
        memset(&desc, 0, sizeof desc);
        desc.arch = (sae_arch)arch;
        desc.activation_dim = D;
        desc.dict_size = M;
        if (arch >= SAE_ARCH_TOP_K && arch <= SAE_ARCH_MATRYOSHKA) desc.k = 4;
        if (arch == SAE_ARCH_MATRYOSHKA) desc.num_groups = 1, desc.group_sizes[0] = M;
        desc.seed = 3;
        check_test = sae_arch_name((sae_arch)arch);
        CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), continue);
        for (size_t i = 0; i < M; i++) {
            double s = 0;
            for (size_t j = 0; j < D; j++) {
                double w = (double)dict->W_dec[i * dict->ld + j];
                s += w * w;
                mean += w / (M * D * norm_want);
                fourth += pow(w / norm_want * sqrt((double)D), 4) / (M * D);
                CHECK(dict->W_enc[i * dict->ld + j] == dict->W_dec[i * dict->ld + j], "not tied");
            }
            CHECK(fabs(sqrt(s) - norm_want) < 1e-5, "norm %g", sqrt(s));
            bias += (double)dict->b_enc[i] / width / M;
            bias_square += pow((double)dict->b_enc[i] / width, 2) / M;
            if (arch != SAE_ARCH_STANDARD) CHECK(dict->b_enc[i] == 0, "b_enc");
            else CHECK(fabs((double)dict->b_enc[i]) <= width * (1 + 1e-6), "b_enc");
            if (arch == SAE_ARCH_JUMP_RELU) CHECK(dict->aux0[i] == 0.001f, "threshold");
            if (arch == SAE_ARCH_GATED) CHECK(dict->aux0[i] == 0 && dict->aux1[i] == 0, "r_mag");
        }
        for (size_t j = 0; j < D; j++) CHECK(dict->b_dec[j] == 0, "b_dec");
        if (arch == SAE_ARCH_STANDARD) { /* five standard deviations of each estimate */
            CHECK(fabs(bias) < 5 * sqrt(1.0 / 3 / M), "mean of b_enc %g", bias);
            CHECK(fabs(bias_square - 1.0 / 3) < 5 * sqrt(4.0 / 45 / M), "its square %g", bias_square);
        }
        CHECK(fabs(mean) < 5 / sqrt((double)M * D * D), "mean %g", mean);
        /* normal on the sphere: 3 d/(d+2) = 2.77; uniform coordinates: about 1.8 d.../1 */
        if (arch <= SAE_ARCH_GATED) CHECK(fabs(fourth - 2.77) < 0.2, "kurtosis %g", fourth);
        else CHECK(fabs(fourth - 1.82) < 0.2, "kurtosis %g, of uniform about 1.8", fourth);
        CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &again), continue);
        CHECK(common_hash(again) == common_hash(dict), "the same seed, other numbers");
        sae_dictionary_destroy(again);
        desc.seed = 4;
        CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &again), continue);
        CHECK(common_hash(again) != common_hash(dict), "another seed, the same numbers");
        sae_dictionary_destroy(again);
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* Several threads on one const dictionary. */
typedef struct job {
    const sae_dictionary *dict;
    const float *x, *f, *x_hat;
    int wrong;
} job;
static void *work(void *arg) {
    job *j = (job *)arg;
    size_t d = j->dict->desc.activation_dim, m = j->dict->desc.dict_size;
    float *f = (float *)malloc(N * m * sizeof *f), *x_hat = (float *)malloc(N * d * sizeof *x_hat);
    for (int round = 0; round < 20; round++) {
        memset(f, 0, N * m * sizeof *f);
        if (sae_forward(j->dict, j->x, N, x_hat, f) != SAE_OK) j->wrong++;
        if (memcmp(f, j->f, N * m * sizeof *f) || memcmp(x_hat, j->x_hat, N * d * sizeof *x_hat))
            j->wrong++;
        if (sae_encode(j->dict, NULL, N, f) == SAE_OK) j->wrong++; /* messages at once, too */
    }
    free(f);
    free(x_hat);
    return NULL;
}
static void threads(void) {
    enum { THREADS = 6, D = 20, M = 64 };
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_JUMP_RELU; arch++) {
        sae_dictionary *dict = make((sae_arch)arch, D, M, 5, 8);
        float x[N * D], f[N * M], x_hat[N * D];
        pthread_t id[THREADS];
        job jobs[THREADS];
        check_test = sae_arch_name((sae_arch)arch);
        check_activations(11, x, N, D);
        CHECK_OK(ctx, sae_forward(dict, x, N, x_hat, f), (void)0);
        CHECK_OK(ctx, sae_dictionary_prepare(dict), (void)0); /* slots for fewer than THREADS */
        for (int i = 0; i < THREADS; i++) {
            job j = { dict, x, f, x_hat, 0 };
            jobs[i] = j;
            pthread_create(&id[i], NULL, work, &jobs[i]);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(id[i], NULL);
            CHECK(jobs[i].wrong == 0, "thread %d went wrong %d times", i, jobs[i].wrong);
        }
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* The same bits prepared or not: sparse and dense rows, a row of zeros, one without a norm, ties, lists
   that overrun; after the rule or the parameters change it is unprepared, not wrong. */
static void prepared_case(sae_arch arch, size_t d, size_t m, size_t n, float shift) {
    sae_dictionary *dict = make(arch, d, m, 7, 90 + d);
    float *x = (float *)malloc(n * d * sizeof *x), *f[2], *x_hat[2];
    sparse_buffer lists[2];
    sae_rule rule = dict->rule;
    sae_context_desc best = { .instruction_set = "avx512vnni" }; /* it prepares where there is this */
    sae_context *screening = NULL;
    const bool screens = sae_context_create(&best, &screening) == SAE_OK;
    sae_context_destroy(screening);
    for (size_t i = 0; i < m; i++) dict->b_enc[i] += shift;
    if (arch == SAE_ARCH_JUMP_RELU)
        for (size_t i = 0; i < m; i++) dict->aux0[i] += i % 3 ? 0.1f : -0.1f;
    for (size_t i = 10; i + 1 < m; i += 9) { /* equal latents */
        memcpy(dict->W_enc + (i + 1) * dict->ld, dict->W_enc + i * dict->ld, d * sizeof *x);
        dict->b_enc[i + 1] = dict->b_enc[i];
    }
    check_activations(5, x, n, d);
    memset(x, 0, d * sizeof *x);
    if (n > 4)
        for (size_t c = 0; c < d; c++) x[3 * d + c] = (float)(c % 2 ? 3e18 : -2e18);
    for (int i = 0; i < 2; i++) {
        f[i] = (float *)malloc(n * m * sizeof **f);
        x_hat[i] = (float *)malloc(n * d * sizeof **x_hat);
        sparse_open(&lists[i], n, n * m);
    }
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < 2; i++) {
            if (i) CHECK_OK(ctx, sae_dictionary_prepare(dict), goto end);
            CHECK(!i || !screens || dict->prepared || dict->rule == SAE_RULE_TOP_K,
                  "nothing prepared");
            for (int again = 0; again < 2; again++) { /* with the guess of the call before */
                memset(f[i], 0x7f, n * m * sizeof **f);
                CHECK_OK(ctx, sae_encode(dict, x, n, f[i]), goto end);
                CHECK_OK(ctx, sae_encode_sparse(dict, x, n, &lists[i].s), goto end);
                CHECK_OK(ctx, sae_forward(dict, x, n, x_hat[i], NULL), goto end);
            }
        }
        CHECK(!memcmp(f[0], f[1], n * m * sizeof **f), "encode, turn %d, n %d", turn, (int)n);
        CHECK(!memcmp(x_hat[0], x_hat[1], n * d * sizeof **x_hat), "forward, turn %d", turn);
        CHECK(!memcmp(lists[0].s.row_begin, lists[1].s.row_begin, (n + 1) * sizeof(size_t)),
              "row_begin, turn %d", turn);
        CHECK(!memcmp(lists[0].s.latent, lists[1].s.latent,
                      lists[0].s.row_begin[n] * sizeof(uint32_t)), "latents, turn %d", turn);
        CHECK(!memcmp(lists[0].s.value, lists[1].s.value,
                      lists[0].s.row_begin[n] * sizeof(float)), "values, turn %d", turn);
        if (turn == 0 && dict->desc.k) {
            rule = rule == SAE_RULE_TOP_K ? SAE_RULE_THRESHOLD : SAE_RULE_TOP_K;
            CHECK_OK(ctx, sae_dictionary_set_rule(dict, rule), goto end);
            CHECK(!dict->prepared, "the rule changed");
        } else {
            CHECK_OK(ctx, sae_dictionary_scale_biases(dict, 1.5f), goto end);
            CHECK(!dict->prepared, "the biases changed");
        }
    }
end:
    for (int i = 0; i < 2; i++) {
        free(f[i]);
        free(x_hat[i]);
        sparse_close(&lists[i]);
    }
    free(x);
    sae_dictionary_destroy(dict);
}
static void prepared(void) {
    static const size_t shapes[][3] = { { 20, 64, 5 }, { 48, 200, 70 }, { 130, 1000, 200 } };
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_JUMP_RELU; arch++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            check_test = sae_arch_name((sae_arch)arch);
            prepared_case((sae_arch)arch, shapes[i][0], shapes[i][1], shapes[i][2], 0);
            prepared_case((sae_arch)arch, shapes[i][0], shapes[i][1], shapes[i][2], -1.5f);
        }
    check_test = NULL;
}

int main(void) {
    if (!(ctx = check_context(1))) return check_end();
    all_classes();
    ties();
    ghosts();
    scaling();
    many_latents();
    looking();
    starts();
    prepared();
    threads();
    sae_context_destroy(ctx);
    return check_end();
}
