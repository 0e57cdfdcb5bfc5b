/*  Proves: encoding that is screened, by int16 or by a BLAS's products, chooses what the plain way chooses,
    with its bits, where that is hardest: equal and nearly equal products, cancelling sums, values on the
    threshold, rows of zeros, of subnormals, of huge numbers, with NaN.
    Oracle: the same call with a list of all latents, which no screen takes. Tolerance: none, memcmp.
    Built three times: as it is, with SAE_CBLAS and the BLAS that is there, and with worst/cblas.h. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

enum mood { NORMAL, TIES, NEAR, CANCEL, EDGE, ROWS, TINY, HUGE_WEIGHTS, NAN_WEIGHT, MOODS };
static const char *const mood_names[MOODS] = { "normal", "ties", "near ties", "cancellation", "on the edge",
                                               "odd rows", "tiny", "huge weights", "a NaN weight" };
static const char *const select_names[] = { "all", "positive", "gate", "window", "top_k",
                                            "batch_top_k" };

/* n, d, m, k with 20 k <= m: less than a panel over, several blocks of a BLAS in both directions */
static const size_t shapes[][4] = { { 9, 1, 100, 5 }, { 24, 33, 1100, 20 }, { 16, 260, 480, 24 },
                                    { 530, 5, 1030, 9 } };
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct problem {
    size_t n, d, ld, m;
    float *x, *W, *bias, *theta;
    uint32_t *list;
} problem;

static void *room(size_t count, size_t size) { return calloc(count + 64, size); }

static float next(float x, int ulps) {
    for (; ulps > 0; ulps--) x = nextafterf(x, INFINITY);
    for (; ulps < 0; ulps++) x = nextafterf(x, -INFINITY);
    return x;
}

static problem problem_new(const size_t shape[4], int mood, uint64_t seed) {
    problem p;
    check_rng rng;
    rng.state = seed;
    p.n = shape[0], p.d = shape[1], p.m = shape[2], p.ld = (p.d + 15) / 16 * 16;
    p.x = (float *)room(p.n * p.ld, sizeof(float));
    p.W = (float *)room(p.m * p.ld, sizeof(float));
    p.bias = (float *)room(p.m, sizeof(float));
    p.theta = (float *)room(p.m, sizeof(float));
    p.list = (uint32_t *)room(p.m, sizeof(uint32_t));
    for (size_t r = 0; r < p.n; r++)
        for (size_t c = 0; c < p.d; c++) {
            float v = (float)(4 * check_uniform(&rng) - 2);
            if (mood == TIES) v = floorf(v);
            if (mood == CANCEL) v = (c % 2 ? -3e4f : 3e4f) + v;
            if (mood == TINY) v *= 1e-23f;
            if (mood == ROWS) {
                if (r % 8 == 1) v = 0;
                if (r % 8 == 2) v *= 1e-39f;
                if (r % 8 == 3) v *= 1e16f;
                if (r % 8 == 4) v *= 1e20f;
                if (r % 8 == 5 && c == p.d / 2) v = r % 16 == 5 ? NAN : INFINITY;
                if (r % 8 == 6) v = -v * 1e-12f;
            }
            p.x[r * p.ld + c] = v;
        }
    for (size_t i = 0; i < p.m; i++) {
        float *w = p.W + i * p.ld;
        const float *first = p.W + i % 7 * p.ld;
        for (size_t c = 0; c < p.d; c++) {
            w[c] = (float)(2 * check_uniform(&rng) - 1);
            if (mood == TIES) w[c] = floorf(3 * w[c]);
            if (mood == CANCEL && c % 2) w[c] = w[c - 1];
            if (mood == NEAR && i >= 7) w[c] = next(first[c], (int)(check_bits(&rng) % 3) - 1);
            if (mood == HUGE_WEIGHTS) w[c] *= i % 5 ? 1e12f : 1e-12f;
        }
        p.bias[i] = (float)(0.2 * check_uniform(&rng) - 0.1);
        p.theta[i] = (float)(0.5 * check_uniform(&rng));
        if (mood == TIES) p.bias[i] = 0;
        if (mood == TINY) p.bias[i] = i % 2 ? -1e-25f : 0; /* the squares of x are below any float */
        if (mood == NEAR) p.bias[i] = 0.125f;
        if (mood == EDGE) { /* p or p - theta of one row is 0, or next to it */
            uint32_t zero = 0;
            float u;
            saei_kernels_select("portable")->products(p.d, p.x + i % p.n * p.ld, 1, &zero, w, p.ld, false,
                                                      &u);
            if (i % 2) p.bias[i] = next(-u, (int)(i / 2 % 5) - 2);
            p.theta[i] = i % 2 ? 0 : next(u + p.bias[i], (int)(i / 2 % 5) - 2);
            if (i % 8 == 0) p.theta[i] += 0.2f; /* the window's other end */
        }
        p.list[i] = (uint32_t)i;
    }
    if (mood == NAN_WEIGHT) p.W[p.m / 2 * p.ld] = NAN;
    return p;
}
static void problem_free(problem *p) {
    free(p->x);
    free(p->W);
    free(p->bias);
    free(p->theta);
    free(p->list);
}

static sae_code code_new(const problem *p) {
    sae_code c;
    memset(&c, 0, sizeof c);
    c.rows = p->n; /* with no latent: a screen pays */
    c.stride = p->m + SAEI_LIST_PADDING;
    c.count = (uint32_t *)room(p->n, sizeof(uint32_t));
    c.latent = (uint32_t *)room(p->n * c.stride, sizeof(uint32_t));
    c.pre = (float *)room(p->n * c.stride, sizeof(float));
    return c;
}
static void code_free(sae_code *c) {
    free(c->count);
    free(c->latent);
    free(c->pre);
}

static void compare(const char *what, const sae_code *got, const sae_code *want) {
    size_t wrong = 0;
    for (size_t r = 0; r < want->rows; r++) {
        size_t at = r * want->stride, count = want->count[r];
        wrong += got->count[r] != count
                 || memcmp(got->latent + at, want->latent + at, count * sizeof *want->latent)
                 || memcmp(got->pre + at, want->pre + at, count * sizeof *want->pre);
    }
    CHECK(!wrong, "%s: %d of %d rows are not the plain way's", what, (int)wrong, (int)want->rows);
}

/* A context and the scratch it works in, for one problem. */
typedef struct place {
    const char *set;
    sae_work w;
} place;
static place places[COMMON_SETS];
static size_t num_places;

static void encode(const problem *p, sae_select select, size_t k) {
    static const float guesses[] = { 0, 1e30f, 1e-30f, 0.3f };
    sae_code want = code_new(p), got = code_new(p);
    uint32_t count = (uint32_t)p->m;
    float warm = 0;
    sae_encode_args a;
    memset(&a, 0, sizeof a);
    a.x = p->x, a.W = p->W, a.bias = p->bias, a.n = p->n, a.d = p->d, a.ld = p->ld, a.m = p->m;
    a.list = p->list, a.list_count = &count;
    a.select = select;
    a.k = select == SAE_SELECT_TOP_K || select == SAE_SELECT_BATCH_TOP_K ? k : 0;
    a.theta = p->theta, a.bandwidth = 0.4f, a.warm = &warm;
    saei_cpu_encode(&places[num_places - 1].w, &a, &want);
    a.list = NULL;
    for (size_t i = 0; i < num_places; i++)
        for (size_t g = 0; g < (a.k ? sizeof guesses / sizeof *guesses : 1); g++) {
            warm = guesses[g];
#if defined(WORST_CBLAS_H)
            cblas_side = (int)((i + g + (size_t)select) % 3) - 1;
#endif
            for (int again = 0; again < (g ? 1 : 2); again++) { /* then with its own guess */
                char what[80];
                snprintf(what, sizeof what, "%s, %d threads, %s, guess %g", places[i].set,
                         places[i].w.ctx->threads, select_names[select], (double)warm);
                memset(got.count, 0, p->n * sizeof *got.count);
                saei_cpu_encode(&places[i].w, &a, &got);
                compare(what, &got, &want);
            }
        }
    code_free(&want);
    code_free(&got);
}

int main(void) {
    for (int s = 0; s < COMMON_SETS; s++) {
        sae_context_desc desc;
        sae_context *ctx;
        memset(&desc, 0, sizeof desc);
        desc.instruction_set = common_sets[s];
        desc.threads = 1 + s;
        if (sae_context_create(&desc, &ctx) != SAE_OK) {
            SKIP("this machine has no %s", common_sets[s]);
            continue;
        }
        places[num_places].set = common_sets[s];
        places[num_places++].w.ctx = ctx;
    }
#if !defined(SAE_CBLAS)
    if (!places[num_places - 1].w.ctx->kernels->screen)
        SKIP("this machine screens nothing without SAE_CBLAS");
#endif
    for (size_t s = 0; s < SHAPES; s++)
        for (int mood = 0; mood < MOODS; mood++) {
            problem p = problem_new(shapes[s], mood, 100 * s + (size_t)mood);
            char name[120];
            snprintf(name, sizeof name, "n %d d %d m %d, %s", (int)p.n, (int)p.d, (int)p.m,
                     mood_names[mood]);
            check_test = name;
            for (size_t i = 0; i < num_places; i++) {
                sae_work *w = &places[i].w;
                w->shape.batch = p.n, w->shape.d = p.d, w->shape.ld = p.ld;
                w->shape.dict_size = p.m, w->shape.k = shapes[s][3];
                w->scratch = saei_cpu_alloc(w, saei_cpu_scratch_bytes(w, &w->shape));
            }
            for (int select = SAE_SELECT_POSITIVE; select <= SAE_SELECT_BATCH_TOP_K; select++)
                encode(&p, (sae_select)select, shapes[s][3]);
            for (size_t i = 0; i < num_places; i++)
                saei_cpu_free(&places[i].w, places[i].w.scratch);
            problem_free(&p);
            check_test = NULL;
        }
    while (num_places) sae_context_destroy((sae_context *)(uintptr_t)places[--num_places].w.ctx);
#if defined(WORST_CBLAS_H)
    CHECK(cblas_calls && !cblas_misused, "%ld products, %ld misused", cblas_calls, cblas_misused);
#endif
    return check_end();
}
