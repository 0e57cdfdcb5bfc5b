/*  Proves: what a program relies on that brings its own threads and memory. Every inference call, on
    every instruction set, class and rule, for few rows and many, of float, 16-bit and strided rows,
    prepared or not, with the context's working memory free or taken: the same bits; at most 16 KB of
    stack on the caller's and on the workers' threads; no memory but what sae.h names. A pool of the
    caller's that runs parts in reverse order, also from inside a part. Tensors by name, copies, sizes
    before creating, capacity, the rounding to 16 bit.
    Oracle: the call on float rows, one thread, portable kernels; stack: threads whose stacks are
    painted before; rounding: the nearer neighbour in double precision. Tolerance: none. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include <pthread.h>

/* ---- threads with painted stacks -------------------------------------------------------------- */

enum { STACK = 1 << 18, LIMIT = 16 * 1024, WORKERS = 3, PAINT = 0xA5 };
#if defined(__SANITIZE_ADDRESS__)
enum { MEASURED = 0 }; /* borders around arrays, and arrays elsewhere */
#else
enum { MEASURED = 1 };
#endif

typedef struct painted {
    pthread_t thread;
    unsigned char *stack, *base; /* base: where the work begins; it grows down from there */
    void (*fn)(void *arg);
    void *arg;
} painted;

static void *painted_main(void *arg) {
    painted *p = (painted *)arg;
    unsigned char here;
    p->base = &here;
    p->fn(p->arg);
    return NULL;
}

static bool painted_start(painted *p, void (*fn)(void *), void *arg) {
    pthread_attr_t attr;
    bool ok;
    p->fn = fn;
    p->arg = arg;
    if (posix_memalign((void **)&p->stack, 4096, STACK)) return false;
    memset(p->stack, PAINT, STACK);
    pthread_attr_init(&attr);
    pthread_attr_setstack(&attr, p->stack, STACK);
    ok = pthread_create(&p->thread, &attr, painted_main, p) == 0;
    pthread_attr_destroy(&attr);
    return ok;
}

/* The bytes below base that were written. */
static size_t painted_used(const painted *p) {
    size_t at = 0;
    while (at < STACK && p->stack[at] == PAINT) at++;
    return (size_t)(p->base - (p->stack + at));
}

/* ---- a pool ----------------------------------------------------------------------------------- */

static struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    painted threads[WORKERS];
    sae_part_fn fn;
    void *arg;
    size_t left, at_work; /* parts below left are not yet begun */
    unsigned long round;
    bool busy, stop;
    long runs, nested;
} pool;

/* Parts from the last to the first, until there are none; the lock is held. */
static void pool_work(size_t worker) {
    while (pool.left) {
        size_t part = --pool.left;
        pool.at_work++;
        pthread_mutex_unlock(&pool.lock);
        pool.fn(pool.arg, part, worker);
        pthread_mutex_lock(&pool.lock);
        if (--pool.at_work == 0 && !pool.left) pthread_cond_broadcast(&pool.done);
    }
}

static void pool_main(void *arg) {
    size_t worker = (size_t)((painted *)arg - pool.threads) + 1;
    pthread_mutex_lock(&pool.lock);
    while (!pool.stop) {
        pool_work(worker);
        pthread_cond_wait(&pool.wake, &pool.lock);
    }
    pthread_mutex_unlock(&pool.lock);
}

static void pool_run(size_t parts, sae_part_fn fn, void *arg, void *user) {
    (void)user;
    pthread_mutex_lock(&pool.lock);
    pool.runs++;
    if (pool.busy) { /* from another thread, or from inside a part: no one to help */
        pool.nested++;
        pthread_mutex_unlock(&pool.lock);
        while (parts-- > 0) fn(arg, parts, 0);
        return;
    }
    pool.busy = true;
    pool.fn = fn;
    pool.arg = arg;
    pool.left = parts;
    pthread_cond_broadcast(&pool.wake);
    pool_work(0);
    while (pool.at_work) pthread_cond_wait(&pool.done, &pool.lock);
    pool.busy = false;
    pthread_mutex_unlock(&pool.lock);
}

static bool pool_open(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
    for (size_t i = 0; i < WORKERS; i++)
        if (!painted_start(&pool.threads[i], pool_main, &pool.threads[i])) return false;
    return true;
}

/* The most stack one of the workers used, which are at rest. */
static size_t pool_stack(void) {
    size_t most = 0;
    for (size_t i = 0; i < WORKERS; i++) {
        size_t used = painted_used(&pool.threads[i]);
        if (used > most) most = used;
    }
    return most;
}

static void pool_close(void) {
    pthread_mutex_lock(&pool.lock);
    pool.stop = true;
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    for (size_t i = 0; i < WORKERS; i++) {
        pthread_join(pool.threads[i].thread, NULL);
        free(pool.threads[i].stack);
    }
}

static sae_context *context(const char *set, bool with_pool) {
    sae_context_desc desc;
    sae_context *ctx = NULL;
    memset(&desc, 0, sizeof desc);
    desc.allocator.alloc = common_alloc;
    desc.allocator.free = common_free;
    desc.instruction_set = set;
    desc.threads = with_pool ? WORKERS + 1 : 1;
    if (with_pool) desc.pool.run = pool_run;
    return sae_context_create(&desc, &ctx) == SAE_OK ? ctx : NULL;
}

/* ---- the calls -------------------------------------------------------------------------------- */

enum { D = 70, MOST_N = 150, NAMED = 61 };
enum { ENCODE, SPARSE, SUBSET, DECODE, DECODE_SPARSE, FINISH, FORWARD, STEER, STEER_ALL, CALLS };
static const char *const call_names[] = { "encode", "encode_sparse", "encode_subset", "decode",
                                          "decode_sparse", "decode_finish", "forward", "steer",
                                          "steer by all" };

/* One call; what it gives lies in out [size] bytes, zero where it gives nothing. */
typedef struct call {
    const sae_dictionary *dict;
    int which;
    sae_rows x;
    size_t n, count; /* count: of steerings */
    const float *f;  /* latents and lists to decode */
    const sae_sparse *lists;
    const uint32_t *named;
    const sae_steering *steerings;
    float *out;
    sae_sparse sparse;
    sae_result result;
    char *error;
} call;

static void call_run(void *arg) {
    call *c = (call *)arg;
    const sae_rows *x = &c->x;
    bool plain = !x->dtype && !x->stride;
    const float *v = (const float *)x->data;
    switch (c->which) {
    case ENCODE:
        c->result = plain ? sae_encode(c->dict, v, c->n, c->out)
                          : sae_encode_rows(c->dict, x, c->n, c->out);
        break;
    case SPARSE:
        c->result = plain ? sae_encode_sparse(c->dict, v, c->n, &c->sparse)
                          : sae_encode_sparse_rows(c->dict, x, c->n, &c->sparse);
        break;
    case SUBSET:
        c->result = plain ? sae_encode_subset(c->dict, v, c->n, c->named, NAMED, c->out)
                          : sae_encode_subset_rows(c->dict, x, c->n, c->named, NAMED, c->out);
        break;
    case DECODE: c->result = sae_decode(c->dict, c->f, c->n, c->out); break;
    case DECODE_SPARSE:
        c->result = sae_decode_sparse(c->dict, c->lists, c->n, c->out);
        break;
    case FINISH:
        c->result = plain ? sae_decode_finish(c->dict, v, c->n, c->out)
                          : sae_decode_finish_rows(c->dict, x, c->n, c->out);
        break;
    case FORWARD:
        c->result = plain ? sae_forward(c->dict, v, c->n, c->out, NULL)
                          : sae_forward_rows(c->dict, x, c->n, c->out, NULL);
        break;
    default: {
        float *own = (float *)(uintptr_t)x->data;
        c->result = plain ? sae_steer(c->dict, own, c->n, c->steerings, c->count)
                          : sae_steer_rows(c->dict, x, c->n, c->steerings, c->count);
    }
    }
}

/* What sae.h says a call may allocate. */
static size_t call_allows(const call *c) {
    const sae_dictionary_desc *h = sae_dictionary_get_desc(c->dict);
    bool top = sae_dictionary_rule(c->dict) == SAE_RULE_TOP_K, batch = h->arch != SAE_ARCH_TOP_K;
    size_t n = c->n, padding = 4 * 128, chunk = 128 * (size_t)c->dict->ctx->threads;
    if (!top || (c->which != ENCODE && c->which != SPARSE && c->which != FORWARD)) return 0;
    if (batch) return 8 * n * h->dict_size + 4 * n + (1 << 18) + padding;
    if (c->which != FORWARD || h->k <= 512) return 0;
    if (chunk > n) chunk = n;
    return chunk * (8 * h->k + 8) + padding;
}

/* ---- dictionaries ----------------------------------------------------------------------------- */

typedef struct kind {
    const char *name;
    sae_arch arch;
    size_t m, k;
    sae_rule rule;
    int variation; /* 1 to 3: sae_activation; 4, 5: sae_input_norm; 6: skip */
} kind;

static const kind kinds[] = {
    { "AutoEncoder", SAE_ARCH_STANDARD, 300, 0, SAE_RULE_DEFAULT, 0 },
    { "AutoEncoderNew", SAE_ARCH_STANDARD_NEW, 300, 0, SAE_RULE_DEFAULT, 0 },
    { "signed", SAE_ARCH_STANDARD, 300, 0, SAE_RULE_DEFAULT, 1 },
    { "constant norm", SAE_ARCH_STANDARD, 300, 0, SAE_RULE_DEFAULT, 4 },
    { "layer norm", SAE_ARCH_STANDARD_NEW, 300, 0, SAE_RULE_DEFAULT, 5 },
    { "skip", SAE_ARCH_STANDARD_NEW, 300, 0, SAE_RULE_DEFAULT, 6 },
    { "GatedAutoEncoder", SAE_ARCH_GATED, 300, 0, SAE_RULE_DEFAULT, 0 },
    { "JumpReluAutoEncoder", SAE_ARCH_JUMP_RELU, 300, 0, SAE_RULE_DEFAULT, 0 },
    { "AutoEncoderTopK", SAE_ARCH_TOP_K, 300, 9, SAE_RULE_TOP_K, 0 },
    { "top-k of many", SAE_ARCH_TOP_K, 700, 500, SAE_RULE_TOP_K, 0 },
    { "top-k of more", SAE_ARCH_TOP_K, 700, 600, SAE_RULE_TOP_K, 0 },
    { "top-k, threshold", SAE_ARCH_TOP_K, 300, 9, SAE_RULE_THRESHOLD, 0 },
    { "top-k signed", SAE_ARCH_TOP_K, 300, 10, SAE_RULE_TOP_K, 1 },
    { "top-k magnitude", SAE_ARCH_TOP_K, 700, 10, SAE_RULE_TOP_K, 2 },
    { "group max", SAE_ARCH_TOP_K, 300, 10, SAE_RULE_TOP_K, 3 },
    { "top-k, layer norm", SAE_ARCH_TOP_K, 300, 10, SAE_RULE_TOP_K, 5 },
    { "BatchTopKSAE", SAE_ARCH_BATCH_TOP_K, 300, 9, SAE_RULE_THRESHOLD, 0 },
    { "batch top-k, chosen", SAE_ARCH_BATCH_TOP_K, 300, 9, SAE_RULE_TOP_K, 0 },
    { "Matryoshka", SAE_ARCH_MATRYOSHKA, 300, 9, SAE_RULE_THRESHOLD, 0 },
    { "IdentityDict", SAE_ARCH_IDENTITY, D, 0, SAE_RULE_DEFAULT, 0 },
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static sae_dictionary_desc kind_desc(const kind *k) {
    sae_dictionary_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.arch = k->arch;
    desc.activation_dim = D;
    desc.dict_size = k->m;
    desc.k = k->k;
    desc.seed = 5;
    if (k->arch == SAE_ARCH_BATCH_TOP_K) desc.k_fraction = 0.75;
    if (k->arch == SAE_ARCH_MATRYOSHKA) {
        desc.num_groups = 2;
        desc.group_sizes[0] = 200;
        desc.group_sizes[1] = 100;
    }
    if (k->variation && k->variation < 4) desc.activation = (sae_activation)k->variation;
    if (k->variation == 4) desc.input_norm = SAE_INPUT_NORM_CONSTANT;
    if (k->variation == 5) desc.input_norm = SAE_INPUT_NORM_LAYER;
    desc.skip = k->variation == 6;
    return desc;
}

static sae_dictionary *kind_make(sae_context *ctx, const kind *k) {
    sae_dictionary_desc desc = kind_desc(k);
    sae_dictionary *dict = NULL;
    check_rng rng = { 77 };
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return NULL);
    common_shake(dict, 11, 0, 0.02);
    if (desc.k) dict->threshold = 0.2f;
    for (size_t i = 0; desc.skip && i < D; i++)
        for (size_t j = 0; j < D; j++) dict->W_skip[i * dict->ld + j] = (float)check_normal(&rng);
    if (k->rule) CHECK_OK(ctx, sae_dictionary_set_rule(dict, k->rule), return dict);
    if (desc.num_groups) CHECK_OK(ctx, sae_dictionary_set_active_groups(dict, 1), return dict);
    return dict;
}

/* ---- every call in every way ------------------------------------------------------------------ */

enum { ROWS_FLOAT, ROWS_WIDE, ROWS_HALF, ROWS_BF16, ROWS_KINDS };
static const char *const rows_names[] = { "float", "strided", "F16", "BF16" };
enum { WIDE = D + 7 };

static struct rows { /* each kind, and as float32 */
    float as_float[MOST_N * D], wide[MOST_N * WIDE];
    uint16_t bits[MOST_N * WIDE];
} rows_of[ROWS_KINDS];

static void rows_make(void) {
    static float x[MOST_N * D];
    check_activations(3, x, MOST_N, D);
    for (int kind = 0; kind < ROWS_KINDS; kind++)
        for (size_t i = 0; i < MOST_N * D; i++) {
            struct rows *r = &rows_of[kind];
            size_t at = i / D * WIDE + i % D;
            r->bits[at] = kind == ROWS_BF16 ? saei_bf16_bits(x[i]) : saei_half_bits(x[i]);
            r->as_float[i] = kind == ROWS_BF16   ? saei_bf16_value(r->bits[at])
                             : kind == ROWS_HALF ? saei_half_value(r->bits[at])
                                                 : x[i];
            r->wide[at] = x[i];
        }
}

/* own: room for a copy, as steering writes. */
static sae_rows rows_get(int kind, void *own) {
    sae_rows rows;
    memset(&rows, 0, sizeof rows);
    rows.data = own;
    if (kind) rows.stride = WIDE;
    if (kind == ROWS_HALF) rows.dtype = SAE_F16;
    if (kind == ROWS_BF16) rows.dtype = SAE_BF16;
    memcpy(own, kind == ROWS_FLOAT  ? (const void *)rows_of[kind].as_float
                : kind == ROWS_WIDE ? (const void *)rows_of[kind].wide
                                    : (const void *)rows_of[kind].bits,
           kind == ROWS_FLOAT ? sizeof rows_of[kind].as_float
           : kind == ROWS_WIDE ? sizeof rows_of[kind].wide : sizeof rows_of[kind].bits);
    return rows;
}

/* Floats of what a call gives. */
static size_t call_floats(int which, size_t m, size_t n) {
    return which == ENCODE ? n * m : which == SPARSE ? 2 * n * m + n + 1
           : which == SUBSET ? n * NAMED : n * D;
}

static size_t caller_most; /* stack used so far */

/* Runs c and puts what it gave into out as 32-bit words. */
static void call_collect(call *c, size_t m, uint32_t *out) {
    static size_t begin[MOST_N + 1];
    size_t words = call_floats(c->which, m, c->n);
    memset(out, 0, words * sizeof *out);
    c->out = (float *)(void *)out;
    if (c->which == SPARSE) {
        c->sparse.row_begin = begin;
        c->sparse.latent = out + c->n + 1;
        c->sparse.value = (float *)(void *)(out + c->n + 1 + c->n * m);
        c->sparse.capacity = sae_dictionary_capacity(c->dict, c->n);
    }
    if (c->which == FINISH)
        for (size_t i = 0; i < words; i++) c->out[i] = (float)(i % 13) - 6;
    {
        size_t held = __atomic_load_n(&common_memory.held, __ATOMIC_SEQ_CST), allowed, used;
        painted caller;
        common_memory.most = held;
        if (!painted_start(&caller, call_run, c)) {
            CHECK(false, "no thread");
            return;
        }
        pthread_join(caller.thread, NULL);
        used = painted_used(&caller);
        if (used > caller_most) caller_most = used;
        CHECK(!MEASURED || used <= LIMIT, "%s: %u bytes of the caller's stack",
              call_names[c->which], (unsigned)used);
        free(caller.stack);
        allowed = call_allows(c);
        CHECK(common_memory.most - held <= allowed, "%s: %u bytes allocated, %u are allowed",
              call_names[c->which], (unsigned)(common_memory.most - held), (unsigned)allowed);
        CHECK(common_memory.held == held, "%s kept memory", call_names[c->which]);
    }
    if (c->which == SPARSE && c->result == SAE_OK) {
        size_t used = begin[c->n];
        for (size_t r = 0; r <= c->n; r++) out[r] = (uint32_t)begin[r];
        for (size_t at = 0; at < 2; at++) /* what lies past the lists is the call's own */
            memset(out + c->n + 1 + at * c->n * m + used, 0, (c->n * m - used) * sizeof *out);
    }
    if (c->which >= STEER)
        for (size_t i = 0; i < c->n * D; i++) {
            size_t stride = c->x.stride ? c->x.stride : D, at = i / D * stride + i % D;
            if (c->x.dtype) out[i] = ((const uint16_t *)c->x.data)[at];
            else memcpy(out + i, (const float *)c->x.data + at, 4);
        }
}

typedef struct way {
    const char *set;
    bool pooled, prepared, taken; /* taken: other calls have the context's working memory */
    int rows;
} way;

static uint32_t named[NAMED];
static sae_steering steerings[SAE_MAX_STEERINGS];
static float dense_f[MOST_N * 700];
static sae_sparse dense_lists;

/* All calls of a kind, n rows, in one way, into want or compared with it. */
static void compare(const kind *k, sae_dictionary *dict, const way *w, size_t n,
                    uint32_t *const want[CALLS], bool first) {
    static unsigned char own[sizeof rows_of[0].wide];
    static uint32_t got[2 * MOST_N * 700 + MOST_N + 1];
    char what[160];
    for (int which = 0; which < CALLS; which++) {
        call c;
        if (which == STEER_ALL && n > 10) continue; /* takes long */
        size_t words = call_floats(which, k->m, n), at = 0;
        bool refused = which >= STEER
                       && (k->variation == 6
                           || (k->arch == SAE_ARCH_BATCH_TOP_K && k->rule == SAE_RULE_TOP_K
                               && n > 1));
        snprintf(what, sizeof what, "%s, %s rows, n %u, %s%s%s%s", k->name, rows_names[w->rows],
                 (unsigned)n, w->set, w->pooled ? ", pool" : "", w->prepared ? ", prepared" : "",
                 w->taken ? ", memory taken" : "");
        check_test = what;
        memset(&c, 0, sizeof c);
        c.dict = dict;
        c.which = which;
        c.n = n;
        c.x = rows_get(w->rows, own);
        c.f = dense_f;
        c.lists = &dense_lists;
        c.named = named;
        c.steerings = steerings;
        c.count = which == STEER ? 12 : SAE_MAX_STEERINGS;
        if (first) { /* as float32, one after the other */
            memcpy(own, rows_of[w->rows].as_float, sizeof rows_of[w->rows].as_float);
            c.x.stride = 0;
            c.x.dtype = SAE_DTYPE_DEFAULT;
        }
        call_collect(&c, k->m, first ? want[which] : got);
        CHECK(c.result == (refused ? SAE_ERR_UNSUPPORTED : SAE_OK), "%s gives %s: %s",
              call_names[which], sae_result_name(c.result), sae_error(dict->ctx));
        if (first && which >= STEER && w->rows > ROWS_WIDE)
            for (size_t i = 0; i < words; i++) {
                float v = saei_bits_float(want[which][i]);
                want[which][i] = w->rows == ROWS_HALF ? saei_half_bits(v) : saei_bf16_bits(v);
            }
        if (first) continue;
        while (at < words && got[at] == want[which][at]) at++;
        CHECK(at == words, "%s differs at word %u of %u", call_names[which], (unsigned)at,
              (unsigned)words);
    }
    check_test = NULL;
}

/* What decoding takes: the latents of the rows as float32. */
static void decode_inputs(const sae_dictionary *dict, size_t n, int rows) {
    dense_lists.capacity = n * dict->desc.dict_size;
    CHECK_OK(dict->ctx, sae_encode(dict, rows_of[rows].as_float, n, dense_f), return);
    CHECK_OK(dict->ctx, sae_encode_sparse(dict, rows_of[rows].as_float, n, &dense_lists), return);
}

static void every_way(const kind *k) {
    static const size_t sizes[] = { 1, 6, MOST_N };
    sae_context *plain = context("portable", false);
    sae_dictionary *reference = kind_make(plain, k);
    uint32_t *want[CALLS];
    for (int which = 0; which < CALLS; which++)
        want[which] = (uint32_t *)malloc(call_floats(which, k->m, MOST_N) * sizeof(uint32_t));
    for (size_t i = 0; i < NAMED; i++) named[i] = (uint32_t)(i * 31 % k->m);
    for (size_t i = 0; i < SAE_MAX_STEERINGS; i++) {
        steerings[i].latent = (uint32_t)(i * 37 % k->m);
        steerings[i].mode = (sae_steer_mode)(i % 5);
        steerings[i].value = 0.25f * (float)(i % 9) - 1;
    }
    for (int rows = 0; rows < ROWS_KINDS; rows++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            size_t n = sizes[s];
            way first = { "portable", false, false, false, rows };
            decode_inputs(reference, n, rows);
            compare(k, reference, &first, n, want, true);
            for (int set = 0; set < COMMON_SETS; set++)
                for (int more = 0; more < 4; more++) {
                    way w = { common_sets[set], more > 0, more == 2, more == 3, rows };
                    sae_context *ctx;
                    sae_dictionary *dict;
                    if (n < 10 && w.prepared) continue; /* too few rows for that */
                    if (rows > 0 && (!w.pooled || set % 2 != rows % 2)) continue; /* enough */
                    if (!(ctx = context(w.set, w.pooled))) continue; /* not on this CPU */
                    dict = kind_make(ctx, k);
                    if (w.prepared) CHECK_OK(ctx, sae_dictionary_prepare(dict), continue);
                    for (size_t i = 0; w.taken && i < ctx->num_blocks; i++) ctx->blocks[i].taken = 1;
                    compare(k, dict, &w, n, want, false);
                    sae_dictionary_destroy(dict);
                    sae_context_destroy(ctx);
                }
        }
    for (int which = 0; which < CALLS; which++) free(want[which]);
    sae_dictionary_destroy(reference);
    sae_context_destroy(plain);
}

/* ---- the pool --------------------------------------------------------------------------------- */

static size_t seen[64];
static sae_context *nest;
static void inner_part(void *arg, size_t part) {
    (void)part;
    __atomic_fetch_add((size_t *)arg, 1, __ATOMIC_SEQ_CST);
}
static void outer_part(void *arg, size_t part) {
    (void)arg;
    sae_context_parallel(nest, 5, inner_part, &seen[part]);
}

/* Training needs the workers' numbers for its scratch memory: the same bits as on one thread. */
static uint64_t trained(sae_context *ctx, sae_trainer_kind kind) {
    enum { B = 200, DIM = 48 };
    static float x[B * DIM];
    sae_trainer_desc desc = common_trainer(kind, DIM, 160, B, 6);
    sae_trainer *trainer = NULL;
    uint64_t hash;
    CHECK_OK(ctx, sae_trainer_create(ctx, &desc, &trainer), return 0);
    for (uint64_t step = 0; step < 6; step++) {
        check_activations(step + 1, x, B, DIM);
        CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, B), break);
    }
    hash = common_hash(sae_trainer_dictionary(trainer));
    sae_trainer_destroy(trainer);
    return hash;
}

static void pools(void) {
    sae_context *alone = context(NULL, false);
    nest = context(NULL, true);
    for (size_t i = 0; i < COMMON_KINDS; i++) {
        uint64_t one = trained(alone, common_kind(i)), many = trained(nest, common_kind(i));
        CHECK(one == many, "%s: other bits with a pool", sae_trainer_name(common_kind(i)));
    }
    sae_context_parallel(nest, 64, outer_part, NULL);
    for (size_t i = 0; i < 64; i++) CHECK(seen[i] == 5, "%d inner parts", (int)seen[i]);
    CHECK(pool.nested >= 64 && pool.runs > 1000, "%ld nested of %ld runs", pool.nested, pool.runs);
    sae_context_destroy(nest);
    sae_context_destroy(alone);
}

/* ---- tensors, copies, sizes, capacity ---------------------------------------------------------- */

static void tensors(sae_context *ctx, const kind *k) {
    sae_dictionary *from = kind_make(ctx, k), *to = NULL, *copy = NULL;
    sae_dictionary_desc desc = kind_desc(k);
    static float f[2][40 * 800];
    size_t count = sae_dictionary_num_tensors(from), held = common_memory.held, bytes = 0;
    sae_tensor t;
    check_test = k->name;
    desc.seed = 99;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &to), return);
    CHECK_OK(ctx, sae_dictionary_memory(&desc, &bytes), return);
    CHECK(bytes == common_memory.held - held, "%u bytes are said, %u asked for", (unsigned)bytes,
          (unsigned)(common_memory.held - held));
    if (k->rule) CHECK_OK(ctx, sae_dictionary_set_rule(to, k->rule), return);
    if (desc.num_groups) CHECK_OK(ctx, sae_dictionary_set_active_groups(to, 1), return);
    if (k->k) to->desc.k = k->arch == SAE_ARCH_TOP_K && k->variation == 3 ? 20 : k->k + 1;
    CHECK_OK(ctx, sae_dictionary_prepare(to), return);
    for (size_t i = 0; i < count; i++) {
        size_t elements = 1;
        float *values;
        CHECK(sae_dictionary_get_tensor(from, i, &t), "tensor %d is not there", (int)i);
        for (size_t j = 0; j < t.ndim; j++) elements *= (size_t)t.shape[j];
        values = (float *)malloc((elements + 1) * sizeof *values);
        sae_tensor_to_f32(&t, values);
        CHECK_OK(ctx, sae_dictionary_set_tensor(to, t.name, values, elements), continue);
        CHECK(sae_dictionary_set_tensor(to, t.name, values, elements + 1) == SAE_ERR_MISMATCH
                  && strstr(sae_error(ctx), t.name), "%s", sae_error(ctx));
        CHECK_OK(ctx, sae_dictionary_find_tensor(to, t.name, &t), continue);
        free(values);
    }
    CHECK(!sae_dictionary_get_tensor(from, count, &t), "one more tensor");
    CHECK(!count || !to->prepared, "still prepared");
    CHECK(sae_dictionary_find_tensor(to, "W_end", &t) == SAE_ERR_NOT_FOUND
              && strstr(sae_error(ctx), count ? "W_enc" : "none"), "%s", sae_error(ctx));
    CHECK_OK(ctx, sae_dictionary_copy(to, &copy), return);
    CHECK_OK(ctx, sae_forward(from, rows_of[0].as_float, 40, f[0], f[0] + 40 * D), return);
    CHECK_OK(ctx, sae_forward(copy, rows_of[0].as_float, 40, f[1], f[1] + 40 * D), return);
    CHECK(!memcmp(f[0], f[1], 40 * (D + k->m) * sizeof(float)), "another dictionary");
    sae_dictionary_destroy(copy);
    sae_dictionary_destroy(to);
    sae_dictionary_destroy(from);
    check_test = NULL;
}

static void set_k(sae_context *ctx) {
    static const float bad[] = { 0, -1, 1.5f, 301, NAN, 7 };
    sae_dictionary *dict = kind_make(ctx, &kinds[14]); /* groups: k divides 300 */
    float good = 15;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(sae_dictionary_set_tensor(dict, "k", &bad[i], 1) == SAE_ERR_INVALID
                  && dict->desc.k == 10 && strstr(sae_error(ctx), "k is"), "k %g: %s",
              (double)bad[i], sae_error(ctx));
    CHECK_OK(ctx, sae_dictionary_set_tensor(dict, "k", &good, 1), return);
    CHECK(sae_dictionary_get_desc(dict)->k == 15, "k was not set");
    sae_dictionary_destroy(dict);
}

/* n*k entries are too few where k has a fraction. */
static void capacity(sae_context *ctx) {
    sae_dictionary *dict = kind_make(ctx, &kinds[17]);
    size_t begin[9], enough = sae_dictionary_capacity(dict, 8);
    uint32_t latent[100];
    float value[100];
    sae_sparse s = { begin, latent, value, 8 * 9 };
    CHECK(enough == 78, "floor(9.75 * 8) is %d", (int)enough);
    CHECK(sae_encode_sparse(dict, rows_of[0].as_float, 8, &s) == SAE_ERR_INVALID, "n*k was enough");
    s.capacity = enough;
    CHECK_OK(ctx, sae_encode_sparse(dict, rows_of[0].as_float, 8, &s), return);
    CHECK(begin[8] == enough, "%d entries", (int)begin[8]);
    CHECK(sae_dictionary_capacity(dict, SIZE_MAX / 4) == SIZE_MAX, "too many rows");
    sae_dictionary_destroy(dict);
}

/* ---- 16 bit ----------------------------------------------------------------------------------- */

static uint16_t nearest(double x, float (*value)(uint16_t), unsigned inf) {
    unsigned lo = 0, hi = inf; /* x >= 0 is in [value(lo), value(hi)) */
    while (hi - lo > 1) {
        unsigned mid = lo + (hi - lo) / 2;
        if ((double)value((uint16_t)mid) <= x) lo = mid;
        else hi = mid;
    }
    {
        double below = (double)value((uint16_t)lo);
        double above = hi < inf ? (double)value((uint16_t)hi)
                                : 2 * below - (double)value((uint16_t)(lo - 1));
        if (x - below < above - x) return (uint16_t)lo;
        if (x - below > above - x) return (uint16_t)hi;
        return (uint16_t)(lo & 1 ? hi : lo);
    }
}

static void rounding(void) {
    check_rng rng = { 8 };
    long bad = 0;
    for (unsigned i = 0; i < 65536; i++) {
        float h = saei_half_value((uint16_t)i), b = saei_bf16_value((uint16_t)i);
        bad += h == h ? saei_half_bits(h) != i : !((saei_half_bits(h) & 0x7C00) == 0x7C00 &&
                                                   (saei_half_bits(h) & 0x3FF));
        bad += b == b ? saei_bf16_bits(b) != i : !((saei_bf16_bits(b) & 0x7F80) == 0x7F80 &&
                                                   (saei_bf16_bits(b) & 0x7F));
    }
    CHECK(bad == 0, "%ld of the numbers themselves", bad);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)check_bits(&rng);
        float x;
        if (i % 4 == 0) bits &= 0xFFFFF000u; /* ties */
        if (i % 4 == 1) bits = (bits & 0x8FFFFFFFu) | 0x30000000u; /* of a half's size */
        if (i % 4 == 2) bits &= 0xFFFF8000u;
        x = saei_bits_float(bits);
        if (!(fabsf(x) <= FLT_MAX)) continue;
        bad += saei_half_bits(fabsf(x)) != nearest(fabs((double)x), saei_half_value, 0x7C00);
        bad += saei_bf16_bits(fabsf(x)) != nearest(fabs((double)x), saei_bf16_value, 0x7F80);
        bad += saei_half_bits(-x) != (saei_half_bits(x) ^ 0x8000);
        bad += saei_bf16_bits(-x) != (saei_bf16_bits(x) ^ 0x8000);
    }
    CHECK(bad == 0, "%ld roundings", bad);
}

static void refused_rows(sae_context *ctx) {
    sae_dictionary *dict = kind_make(ctx, &kinds[0]);
    static float f[300];
    sae_rows rows;
    memset(&rows, 0, sizeof rows);
    rows.data = rows_of[0].as_float;
    rows.dtype = SAE_F64;
    CHECK(sae_encode_rows(dict, &rows, 1, f) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "sae_encode_rows: x.dtype"), "%s", sae_error(ctx));
    rows.dtype = SAE_F32;
    rows.stride = D - 1;
    CHECK(sae_encode_rows(dict, &rows, 1, f) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "x.stride is 69"), "%s", sae_error(ctx));
    rows.stride = SIZE_MAX / 2;
    CHECK(sae_encode_rows(dict, &rows, 3, f) == SAE_ERR_INVALID, "a stride past memory");
    rows.stride = 0;
    rows.on_device = true;
    CHECK(sae_encode_rows(dict, &rows, 1, f) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "on_device"), "%s", sae_error(ctx));
    CHECK(sae_encode_rows(dict, NULL, 1, f) == SAE_ERR_INVALID, "no rows");
    sae_dictionary_destroy(dict);
}

int main(void) {
    static size_t begin[MOST_N + 1];
    sae_context *ctx = context(NULL, false);
    size_t most;
    dense_lists.row_begin = begin;
    dense_lists.latent = (uint32_t *)malloc(MOST_N * 700 * sizeof(uint32_t));
    dense_lists.value = (float *)malloc(MOST_N * 700 * sizeof(float));
    rows_make();
    if (!ctx || !pool_open()) {
        CHECK(false, "no context or no threads");
        return check_end();
    }
    if (!MEASURED) check_skip("the stack is not measured under AddressSanitizer");
    rounding();
    for (size_t i = 0; i < KINDS; i++) tensors(ctx, &kinds[i]);
    set_k(ctx);
    capacity(ctx);
    refused_rows(ctx);
    for (size_t i = 0; i < KINDS; i++) every_way(&kinds[i]);
    most = pool_stack();
    CHECK(!MEASURED || most <= LIMIT, "%u bytes of a worker's stack", (unsigned)most);
    printf("the most stack: %u bytes of a caller's, %u of a worker's\n", (unsigned)caller_most,
           (unsigned)most);
    pools();
    pool_close();
    sae_context_destroy(ctx);
    free(dense_lists.latent);
    free(dense_lists.value);
    return check_end();
}
