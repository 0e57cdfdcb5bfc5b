/*  Proves: Adam, ConstrainedAdam, clipping and the projections, as the trainers do them (the backend's
    operations), the schedules, the random numbers and the elementary functions.
    Oracle: tests/oracle.h in double; the published known answers of Random123 for Philox4x32-10; libm
    for exp, log, pow. (golden/functions/{schedules,decoder_constraint} are in test_golden.)
    Tolerance: 2e-6 of the largest parameter over 50 steps (float32 rounding); 0 for known answers and
    for schedules that are ratios of integers; 2 units in the last place for exp and log, and for pow
    2 + 3 |p ln x| of them: the relative error of p ln x (a log and a product) becomes an absolute one
    in the exponent. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include "oracle.h"

static void fill(check_rng *rng, float *a, double *b, size_t n, double scale) {
    for (size_t i = 0; i < n; i++) {
        a[i] = (float)(scale * check_normal(rng));
        if (b) b[i] = (double)a[i];
    }
}

/* fill of [rows][ld], zeros from column dim on. */
static void fill_rows(check_rng *rng, float *a, double *b, const sae_work *w, double scale) {
    for (size_t i = 0; i < w->shape.dict_size; i++) {
        size_t at = i * w->shape.ld;
        memset(a + at, 0, w->shape.ld * sizeof *a);
        memset(b + at, 0, w->shape.ld * sizeof *b);
        fill(rng, a + at, b + at, w->shape.d, scale);
    }
}

static void near_doubles(const char *what, const float *got, const double *want, size_t n,
                         double tolerance) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        if (!(e <= worst)) worst = e;
        if (fabs(want[i]) > largest) largest = fabs(want[i]);
    }
    CHECK(worst <= tolerance * largest, "%s off by %.1e of %.1e", what, worst, largest);
}

static void test_adam(sae_context *ctx, double beta1, size_t count) {
    const sae_backend *ops = sae_cpu_backend();
    const sae_adam_desc adam = { 3e-3, beta1, 0.999, 1e-8 };
    float w[600], g[600], first[600], second[600];
    double wd[600], gd[600], fd[600], sd[600];
    check_rng rng = { 11 };
    sae_work work = common_work(ctx, 16, 1);
    memset(first, 0, sizeof first);
    memset(second, 0, sizeof second);
    memset(fd, 0, sizeof fd);
    memset(sd, 0, sizeof sd);
    fill(&rng, w, wd, count, 0.3);
    for (uint64_t t = 1; t <= 50; t++) {
        fill(&rng, g, gd, count, t % 7 ? 0.01 : 10);
        if (t % 5 == 0) g[0] = 0, gd[0] = 0;
        ops->adam(&work, &adam, t, NULL, 1, w, g, beta1 == 0 && t % 2 ? NULL : first, second, count);
        if (beta1 == 0) memset(first, 0, sizeof first);
        oracle_adam(adam.lr, beta1, 0.999, t, wd, gd, fd, sd, count);
    }
    near_doubles("Adam", w, wd, count, 2e-6);
    near_doubles("second moments", second, sd, count, 2e-6);
    if (beta1 != 0) near_doubles("first moments", first, fd, count, 2e-6);
    /* an update with lr 0 moves the moments alone */
    {
        sae_adam_desc still = adam;
        float before[600];
        still.lr = 0;
        memcpy(before, w, sizeof before);
        ops->adam(&work, &still, 51, NULL, 1, w, g, first, second, count);
        CHECK(!memcmp(before, w, count * sizeof *w), "lr 0 moves parameters");
    }
    common_work_end(&work);
}

/* fused: adam_rows, which takes the three steps in one reading. */
static void test_constrained(sae_context *ctx, size_t rows, size_t dim, bool fused) {
    const sae_adam_desc adam = { 5e-3, 0.9, 0.999, 1e-8 };
    const sae_backend *ops = sae_cpu_backend();
    sae_work work = common_work(ctx, dim, rows);
    size_t ld = work.shape.ld, n = rows * ld;
    float *w = (float *)calloc(4 * n, sizeof *w), *g = w + n, *first = g + n, *second = first + n;
    double *wd = oracle_doubles(4 * n), *gd = wd + n, *fd = gd + n, *sd = fd + n;
    check_rng rng = { 13 };
    fill_rows(&rng, w, wd, &work, 1);
    oracle_unit_rows(wd, rows, ld, 0);
    ops->normalize_rows(&work, rows, 0, w);
    near_doubles("unit rows", w, wd, n, 1e-6);
    for (uint64_t t = 1; t <= 30; t++) {
        fill_rows(&rng, g, gd, &work, 0.1);
        if (fused)
            ops->adam_rows(&work, &adam, t, NULL, 1, 0, 0, NULL, rows, w, g, first, second);
        else {
            ops->remove_parallel(&work, w, rows, 0, NULL, g);
            ops->adam(&work, &adam, t, NULL, 1, w, g, first, second, n);
            ops->normalize_rows(&work, rows, 0, w);
        }
        oracle_remove_parallel(wd, gd, rows, ld, 0);
        near_doubles("projected gradient", g, gd, n, 5e-5);
        oracle_adam(adam.lr, adam.beta1, adam.beta2, t, wd, gd, fd, sd, n);
        oracle_unit_rows(wd, rows, ld, 0);
    }
    near_doubles("ConstrainedAdam", w, wd, n, dim == 1 ? 1e-6 : 2e-5);
    for (size_t i = 0; i < rows; i++) {
        double s = 0;
        for (size_t j = 0; j < ld; j++) s += (double)w[i * ld + j] * (double)w[i * ld + j];
        CHECK(fabs(sqrt(s) - 1) < 1e-6, "row %d has norm %.9g", (int)i, sqrt(s));
    }
    /* what is removed is gone: a second pass finds nothing */
    fill_rows(&rng, g, gd, &work, 1);
    oracle_remove_parallel(wd, gd, rows, ld, 1e-6);
    ops->remove_parallel(&work, w, rows, 1e-6f, NULL, g);
    if (dim > 1) near_doubles("remove_parallel", g, gd, n, 1e-4);
    common_work_end(&work);
    free(w);
    free(wd);
}

/* The first moments after one step are the clipped gradient times 1 - beta1. */
static void test_clip(sae_context *ctx, double scale, double max_norm) {
    enum { N = 11 * 16 };
    const sae_adam_desc adam = { 0, 0.5, 0.999, 1e-8 };
    const sae_backend *ops = sae_cpu_backend();
    float g[N], w[N] = { 0 }, first[N] = { 0 }, second[N] = { 0 };
    double gd[N], norm, squares, factor;
    check_rng rng = { 17 };
    sae_work work = common_work(ctx, N, 1);
    fill(&rng, g, gd, N, scale);
    norm = sqrt(oracle_dot(gd, gd, N));
    ops->sum_squares(&work, g, N, &squares);
    CHECK_REL(sqrt(squares), norm, 1e-6, "norm");
    ops->adam(&work, &adam, 1, &squares, max_norm, w, g, first, second, N);
    factor = 0.5 * fmin(1, max_norm / (norm + 1e-6));
    for (size_t i = 0; i < N; i++) gd[i] *= factor;
    near_doubles("clipped", first, gd, N, 1e-6);
    common_work_end(&work);
}

static void test_schedules(void) {
    const sae_schedule decay = { 100, 10, 70, 0, 0 }, plain = { 50, 0, 0, 0, 0 };
    const sae_schedule again = { 60, 5, 0, 20, 0 }, sparse = { 60, 0, 0, 0, 15 };
    for (uint64_t t = 0; t < 100; t++) {
        double want = t < 10 ? (double)t / 10 : t >= 70 ? (double)(100 - t) / 30 : 1;
        CHECK(sae_lr_factor(&decay, t) == want, "decay at %d", (int)t);
        CHECK(sae_lr_factor(&plain, t) == 1, "none at %d", (int)t);
        want = fmin((double)(t % 20) / 5, 1);
        CHECK(sae_lr_factor(&again, t) == want, "resampling at %d", (int)t);
        want = fmin((double)t / 15, 1);
        CHECK(sae_sparsity_factor(&sparse, t) == want, "sparsity at %d", (int)t);
        CHECK(sae_sparsity_factor(&plain, t) == 1, "no sparsity warmup at %d", (int)t);
    }
    CHECK(sae_lr_factor(&decay, 100) == 0, "the end of a decay");
}

static void test_philox(void) {
    static const uint32_t counters[3][4] = {
        { 0, 0, 0, 0 },
        { 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu },
        { 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u },
    };
    static const uint32_t keys[3][2] = {
        { 0, 0 }, { 0xffffffffu, 0xffffffffu }, { 0xa4093822u, 0x299f31d0u },
    };
    static const uint32_t answers[3][4] = {
        { 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u },
        { 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu },
        { 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u },
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        saei_philox(counters[i], keys[i], out);
        CHECK(!memcmp(out, answers[i], sizeof out), "answer %d is %08x %08x %08x %08x", (int)i,
              (unsigned)out[0], (unsigned)out[1], (unsigned)out[2], (unsigned)out[3]);
    }
    {
        saei_random a = saei_random_of(1, 1), b = saei_random_of(1, 2), c = saei_random_of(2, 1);
        const uint64_t five = saei_random_bits(&a, 5), four = saei_random_bits(&a, 4);
        CHECK(five != saei_random_bits(&b, 5), "streams are not apart");
        CHECK(five != saei_random_bits(&c, 5), "seeds are not apart");
        CHECK(four != five, "the two draws of a block are not apart");
        CHECK(five != saei_random_bits(&a, 5 + (1ull << 33)), "long counters");
        CHECK(five == saei_random_bits(&a, 5), "a draw depends on those before it");
    }
}

/* Moments of n draws: each estimate lies within 5 of its standard deviations. */
static void test_normal(void) {
    enum { DRAWS = 200000 };
    saei_random normal = saei_random_of(42, 1), uniform = saei_random_of(42, 2);
    double n = DRAWS, s1 = 0, s2 = 0, s3 = 0, s4 = 0, u1 = 0, u2 = 0, tail = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double z = saei_random_normal(&normal, i), u = saei_random_uniform(&uniform, i);
        CHECK(u > 0 && u < 1, "a uniform number %g", u);
        s1 += z;
        s2 += z * z;
        s3 += z * z * z;
        s4 += z * z * z * z;
        tail += fabs(z) > 1.959963985;
        u1 += u;
        u2 += (u - 0.5) * (u - 0.5);
    }
    CHECK(fabs(s1 / n) < 5 / sqrt(n), "mean %g", s1 / n);
    CHECK(fabs(s2 / n - 1) < 5 * sqrt(2 / n), "variance %g", s2 / n);
    CHECK(fabs(s3 / n) < 5 * sqrt(15 / n), "third moment %g", s3 / n);
    CHECK(fabs(s4 / n - 3) < 5 * sqrt(96 / n), "fourth moment %g", s4 / n);
    CHECK(fabs(tail / n - 0.05) < 5 * sqrt(0.0475 / n), "tails %g", tail / n);
    CHECK(fabs(u1 / n - 0.5) < 5 * sqrt(1 / (12 * n)), "uniform mean %g", u1 / n);
    CHECK(fabs(u2 / n - 1.0 / 12) < 5 * sqrt(1 / (180 * n)), "uniform variance %g", u2 / n);
}

static double ulps(double got, double want) {
    double step = nextafter(fabs(want), HUGE_VAL) - fabs(want);
    if (got == want || (got != got && want != want)) return 0;
    return fabs(got - want) / step;
}

static void test_functions(void) {
    check_rng rng = { 23 };
    double worst_exp = 0, worst_log = 0, worst_pow = 0;
    for (int i = 0; i < 200000; i++) {
        double x = 1400 * (check_uniform(&rng) - 0.5), y, p;
        if (i % 3 == 0) x /= 300;
        if (i % 7 == 0) x /= 3e5;
        if (fabs(x) < 708) worst_exp = fmax(worst_exp, ulps(saei_exp(x), exp(x)));
        y = exp(x / 2);
        if (i % 5 == 0) y = 1 + (check_uniform(&rng) - 0.5) / 100;
        worst_log = fmax(worst_log, ulps(saei_ln(y), log(y)));
        y = 20 * check_uniform(&rng);
        p = 2 * check_uniform(&rng) - 0.8;
        worst_pow = fmax(worst_pow, ulps(saei_pow(y, p), pow(y, p)) /
                                        (1 + 1.5 * fabs(p * log(y))));
    }
    CHECK(worst_exp <= 2, "exp off by %.2f ulp", worst_exp);
    CHECK(worst_log <= 2, "log off by %.2f ulp", worst_log);
    CHECK(worst_pow <= 2, "pow off by %.2f ulp", worst_pow);
    CHECK(saei_exp(0) == 1 && saei_exp(1000) == HUGE_VAL && saei_exp(-1000) == 0, "exp's ends");
    CHECK(saei_exp(-HUGE_VAL) == 0 && saei_exp(HUGE_VAL) == HUGE_VAL, "exp of infinity");
    CHECK(saei_exp(NAN) != saei_exp(NAN), "exp of NaN");
    CHECK(fabs(saei_exp(-744) - 9.88131291682493e-324) <= 5e-324, "exp's subnormals");
    CHECK(fabs(saei_exp(-710) / exp(-710) - 1) < 1e-10, "exp's subnormals");
    CHECK(ulps(saei_exp(709.7), exp(709.7)) <= 2, "exp's largest");
    CHECK(saei_ln(1) == 0 && saei_ln(0) == -HUGE_VAL && saei_ln(HUGE_VAL) == HUGE_VAL,
          "log's ends");
    CHECK(saei_ln(-1) != saei_ln(-1), "log of a negative number");
    CHECK(ulps(saei_ln(5e-324), log(5e-324)) <= 2, "log of a subnormal");
    CHECK(saei_pow(0, 0.5) == 0 && saei_pow(3, 0) == 1 && saei_pow(0, 0) == 1
              && saei_pow(7, 1) == 7,
          "pow's ends");
}

int main(void) {
    sae_context *ctx;
    CHECK(sae_context_create(NULL, &ctx) == SAE_OK, "no context");
    check_test = "adam";
    test_adam(ctx, 0.9, 600);
    test_adam(ctx, 0, 600);
    test_adam(ctx, 0.9, 17);
    test_adam(ctx, 0, 1);
    check_test = "constrained adam";
    for (int fused = 0; fused < 2; fused++) {
        test_constrained(ctx, 33, 24, fused);
        test_constrained(ctx, 9, 7, fused);
        test_constrained(ctx, 5, 2, fused);
    }
    check_test = "clip";
    test_clip(ctx, 1, 1);
    test_clip(ctx, 1e-4, 1);
    test_clip(ctx, 5, 0.25);
    check_test = "schedules";
    test_schedules();
    check_test = "philox";
    test_philox();
    check_test = "normal";
    test_normal();
    check_test = "functions";
    test_functions();
    sae_context_destroy(ctx);
    return check_end();
}
