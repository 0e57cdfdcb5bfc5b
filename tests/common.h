/*  common.h - small trainers and dictionaries, an allocator that counts, and fixtures with their
    about.json, for several tests. Include behind check.h. */
#ifndef COMMON_H
#define COMMON_H
#include "inside.h"

/* ---- an allocator that counts, and fails when told to ----------------------------------------- */

typedef struct common_counts {
    long calls, live; /* blocks asked for, blocks held */
    size_t held, most; /* bytes */
    long fail_at;      /* that call and all after it fail; -1: none */
    bool fail_once;    /* that call alone */
} common_counts;
static common_counts common_memory = { 0, 0, 0, 0, -1, false };

CHECK_UNUSED static void *common_alloc(size_t size, void *user) {
    common_counts *c = &common_memory;
    long call = __atomic_fetch_add(&c->calls, 1, __ATOMIC_SEQ_CST);
    size_t held, most, *p;
    (void)user;
    if (c->fail_at >= 0 && (c->fail_once ? call == c->fail_at : call >= c->fail_at)) return NULL;
    p = (size_t *)malloc(size + 16);
    if (!p) return NULL;
    p[0] = size;
    memset(p + 2, 0xcd, size < 65536 ? size : 65536); /* nobody may count on zeros */
    __atomic_fetch_add(&c->live, 1, __ATOMIC_SEQ_CST);
    held = __atomic_add_fetch(&c->held, size, __ATOMIC_SEQ_CST);
    most = __atomic_load_n(&c->most, __ATOMIC_SEQ_CST);
    while (held > most
           && !__atomic_compare_exchange_n(&c->most, &most, held, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST)) {}
    return (char *)p + 16;
}
CHECK_UNUSED static void common_free(void *memory, void *user) {
    size_t *p = (size_t *)(void *)((char *)memory - 16);
    (void)user;
    __atomic_fetch_sub(&common_memory.live, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&common_memory.held, p[0], __ATOMIC_SEQ_CST);
    free(p);
}
CHECK_UNUSED static sae_context *common_counted(const sae_backend *backend, int threads) {
    sae_context_desc desc;
    sae_context *ctx = NULL;
    memset(&desc, 0, sizeof desc);
    desc.allocator.alloc = common_alloc;
    desc.allocator.free = common_free;
    desc.threads = threads;
    desc.backend = backend;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context");
    return ctx;
}

/* ---- fixtures: a folder with about.json, what a program computed beside it --------------------- */

/* FOLDER/about.json, NULL if there is none. */
CHECK_UNUSED static sae_json *common_about(sae_context *ctx, const char *folder) {
    const char *path = check_path("%s/about.json", folder);
    sae_json *root = NULL;
    if (check_exists(path)) CHECK_OK(ctx, sae_json_open(ctx, path, &root), return NULL);
    return root;
}
CHECK_UNUSED static const char *common_about_text(const sae_json *about, const char *key) {
    const char *text = sae_json_text(sae_json_get(about, key));
    return text ? text : "";
}

/* got [rows,width] against FOLDER/NAME.npy row by row: about's tolerance of the row's largest entry,
   at least 1. Rows where the program gives NaN, or that about names, are free. */
CHECK_UNUSED static void common_near(sae_context *ctx, const sae_json *about, const char *folder,
                                     const char *name, const float *got, size_t rows,
                                     size_t width) {
    size_t count;
    float *want = check_tensor(ctx, check_path("%s/%s.npy", folder, name), NULL, &count, NULL);
    double tolerance = sae_json_number(sae_json_get(about, "tolerance"));
    const sae_json *listed = sae_json_get(about, "nonfinite_rows");
    if (!want) return;
    CHECK(count == rows * width, "%s has %d values, ours %d", name, (int)count,
          (int)(rows * width));
    for (size_t r = 0; r < rows && count == rows * width; r++) {
        const float *w = want + r * width;
        bool free_row = false;
        double worst, largest;
        for (size_t j = 0; j < width; j++) free_row = free_row || !isfinite(w[j]);
        for (const sae_json *v = sae_json_first(listed); v; v = sae_json_next(v))
            free_row = free_row || sae_json_number(v) == (double)r;
        if (free_row) continue;
        worst = check_distance(got + r * width, w, width, &largest);
        CHECK(worst <= tolerance * fmax(1, largest), "%s row %d off by %.1e", name, (int)r, worst);
    }
    free(want);
}

/* fn(about, folder, path of what it opens) for every folder under root with an about.json; how many
   there are. */
typedef void (*common_fixture_fn)(const sae_json *about, const char *folder, const char *path);
CHECK_UNUSED static size_t common_fixtures(sae_context *ctx, const char *root,
                                           common_fixture_fn fn) {
    DIR *dir = opendir(root);
    struct dirent *e;
    size_t count = 0;
    while (dir && (e = readdir(dir)) != NULL) {
        char folder[1024], path[2048];
        sae_json *about;
        struct stat st;
        if (e->d_name[0] == '.') continue;
        snprintf(folder, sizeof folder, "%s/%s", root, e->d_name);
        if (stat(folder, &st) || !S_ISDIR(st.st_mode)) continue;
        count += common_fixtures(ctx, folder, fn);
        about = common_about(ctx, folder);
        if (!about) continue;
        check_test = folder;
        count++;
        snprintf(path, sizeof path, strcmp(common_about_text(about, "open"), ".") ? "%s/%s" : "%s",
                 folder, common_about_text(about, "open"));
        fn(about, folder, path);
        sae_json_close(about);
        check_test = NULL;
    }
    if (dir) closedir(dir);
    return count;
}

/* ---- trainers and dictionaries ----------------------------------------------------------------- */

/* The instruction sets there are kernels for on this kind of processor; not every one has all. */
#if defined(__aarch64__)
CHECK_UNUSED static const char *const common_sets[] = { "portable", "neon" };
#else
CHECK_UNUSED static const char *const common_sets[] = { "portable", "avx2", "avx512", "avx512vnni" };
#endif
enum { COMMON_SETS = sizeof common_sets / sizeof *common_sets };

/* The place in which the CPU backend's operations work on weights [m][ld] of dimension d, ld d in whole
   vectors of 16; until common_work_end. */
CHECK_UNUSED static sae_work common_work(sae_context *ctx, size_t d, size_t m) {
    const sae_backend *ops = sae_cpu_backend();
    sae_work w;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.shape.batch = 1;
    w.shape.d = d;
    w.shape.ld = (d + 15) / 16 * 16;
    w.shape.dict_size = m;
    CHECK(ops->open(ctx, &w.state) == SAE_OK, "open");
    w.scratch = ops->alloc(&w, ops->scratch_bytes(&w, &w.shape));
    CHECK(w.scratch, "no memory");
    return w;
}
CHECK_UNUSED static void common_work_end(sae_work *w) {
    sae_cpu_backend()->free(w, w->scratch);
    sae_cpu_backend()->close(w->ctx, w->state);
}

/* The number of trainers, and the kind of number i. */
enum { COMMON_KINDS = SAE_NUM_TRAINERS };
CHECK_UNUSED static sae_trainer_kind common_kind(size_t i) { return (sae_trainer_kind)(i + 1); }

/* Each trainer of SAE_TRAINERS has one of the cases, an array of things with a kind. */
#define COMMON_EVERY_TRAINER(cases)                                                                \
    for (size_t every_ = 0; every_ < COMMON_KINDS; every_++) {                                     \
        size_t at_ = 0;                                                                            \
        while (at_ < sizeof(cases) / sizeof *(cases) && (cases)[at_].kind != common_kind(every_))  \
            at_++;                                                                                 \
        CHECK(at_ < sizeof(cases) / sizeof *(cases), "the trainer %s has none of the " #cases,     \
              sae_trainer_name(common_kind(every_)));                                              \
    }

CHECK_UNUSED static sae_arch common_arch(const sae_trainer_desc *s) {
    if (s->arch) return s->arch;
    switch (s->kind) {
#define SAE_X(kind, value, arch, name, reference, older) case kind: return arch;
        SAE_TRAINERS(SAE_X)
#undef SAE_X
    case SAE_TRAINER_DEFAULT: break;
    }
    return SAE_ARCH_TOP_K;
}

/* Whether trainers of a kind have a hyperparameter. */
CHECK_UNUSED static bool common_has(sae_trainer_kind kind, const char *name) {
    sae_hyperparameter h;
    for (size_t i = 0; sae_hyperparameter_get(i, &h); i++)
        if (!strcmp(h.name, name)) return h.trainers >> kind & 1;
    return false;
}

/* Hyperparameters for about 20 steps, so that every schedule gets to do something. A trainer that
   needs others gets them here; CHECKs that they are enough. */
CHECK_UNUSED static sae_trainer_desc common_trainer(sae_trainer_kind kind, size_t d, size_t m,
                                                    size_t batch, uint64_t steps) {
    sae_trainer_desc s;
    memset(&s, 0, sizeof s);
    s.kind = kind;
    s.activation_dim = d;
    s.dict_size = m;
    s.batch_size = batch;
    s.steps = steps;
    s.seed = 5;
    s.lr = 2e-3;
    s.warmup_steps = 3;
    if (common_has(kind, "sparsity_warmup_steps")) s.sparsity_warmup_steps = 5;
    if (common_has(kind, "l1_penalty")) s.l1_penalty = 0.08;
    if (common_has(kind, "k")) s.k = d < 8 ? 2 : 5;
    if (common_has(kind, "threshold_beta")) {
        s.threshold_beta = 0.9;
        s.threshold_start_step = 4;
    }
    if (common_has(kind, "group_fractions")) {
        s.num_groups = 3;
        s.group_fractions[0] = 0.125;
        s.group_fractions[1] = 0.25;
        s.group_fractions[2] = 0.625;
    }
    if (common_has(kind, "initial_sparsity_penalty")) {
        s.initial_sparsity_penalty = 0.05;
        s.anneal_start = 6;
        s.p_end = 0.5;
        s.n_sparsity_updates = 4;
        s.sparsity_queue_length = 3;
    }
    if (common_has(kind, "lr_warmup_steps")) s.k_decay_steps = 6;
    if (common_has(kind, "num_layers")) s.num_layers = d % 2 ? 1 : 2;
    if (common_has(kind, "bandwidth")) {
        s.bandwidth = 0.3;
        s.target_l0 = 6;
    }
    return s;
}

CHECK_UNUSED static sae_dictionary_desc common_dictionary(const sae_trainer_desc *s) {
    sae_dictionary_desc dd;
    size_t rest = s->dict_size;
    memset(&dd, 0, sizeof dd);
    dd.arch = common_arch(s);
    dd.activation_dim = s->activation_dim;
    dd.dict_size = s->dict_size;
    if (dd.arch == SAE_ARCH_TOP_K || dd.arch == SAE_ARCH_BATCH_TOP_K
        || dd.arch == SAE_ARCH_MATRYOSHKA)
        dd.k = s->k;
    if (dd.arch == SAE_ARCH_MATRYOSHKA) {
        dd.num_groups = s->num_groups;
        for (size_t g = 0; g < s->num_groups; g++) {
            size_t size = (size_t)(s->group_fractions[g] * (double)s->dict_size);
            if (g + 1 == s->num_groups) size = rest;
            dd.group_sizes[g] = size;
            rest -= size;
        }
    }
    dd.seed = s->seed;
    dd.output_dim = s->output_dim;
    dd.skip = s->skip_connection > 0;
    if (s->output_dim && s->output_dim != s->activation_dim && dd.arch != SAE_ARCH_JUMP_RELU
        && dd.arch != SAE_ARCH_STANDARD_NEW)
        dd.no_b_dec_subtraction = true;
    if (s->num_layers) {
        static const sae_gate gates[] = { SAE_GATE_NORM_SUM, SAE_GATE_NORM_SUM, SAE_GATE_NORM,
                                          SAE_GATE_MIXED, SAE_GATE_NONE, SAE_GATE_NORM };
        dd.layers = s->num_layers;
        dd.normalizer = true;
        if (dd.k) {
            dd.no_b_dec_subtraction = true;
            dd.gate = gates[s->code_normalization];
            dd.layer_codes = s->code_normalization == SAE_CODE_DECOUPLED;
        }
    }
    return dd;
}

/* Moves every parameter away from the regularities of an initialisation; every weak-th latent (0:
   none) gets a bias so low that it never fires. */
CHECK_UNUSED static void common_shake(sae_dictionary *dict, uint64_t seed, size_t weak,
                                      double offset) {
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size;
    check_rng rng = { seed };
    for (size_t i = 0; i < m; i++) {
        if (!dict->W_enc) break;
        for (size_t j = 0; j < d; j++) {
            float *w = dict->W_enc + i * dict->ld + j;
            *w = (float)((double)*w * (1 + 0.2 * check_normal(&rng)));
        }
        dict->b_enc[i] = (float)(offset + 0.05 * check_normal(&rng));
        if (dict->desc.arch == SAE_ARCH_GATED) {
            dict->aux0[i] = (float)(0.1 * check_normal(&rng));
            dict->aux1[i] = (float)(0.05 * check_normal(&rng));
        }
        if (dict->desc.arch == SAE_ARCH_JUMP_RELU)
            dict->aux0[i] = (float)(0.1 + 0.1 * check_uniform(&rng));
        if (weak && i % weak == 0) dict->b_enc[i] = -4;
    }
    for (size_t j = 0; dict->b_dec && j < dict->desc.output_dim; j++)
        dict->b_dec[j] = (float)(0.1 * check_normal(&rng));
    for (size_t j = 0; dict->W_skip && j < dict->desc.output_dim; j++)
        for (size_t c = 0; c < d; c++)
            dict->W_skip[j * dict->ld + c] = (float)(0.1 * check_normal(&rng));
}

/* A shaken start for s in a file; s->init is set to it (path must live on). */
CHECK_UNUSED static bool common_start(sae_context *ctx, sae_trainer_desc *s, uint64_t seed,
                                      size_t weak, double offset, const char *path) {
    sae_dictionary_desc dd = common_dictionary(s);
    sae_dictionary *dict;
    bool ok = false;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return false);
    common_shake(dict, seed, weak, offset);
    if (s->num_layers) {
        dict->code = s->code_normalization ? (int)s->code_normalization : 1;
        dict->target_rms = 1;
    }
    CHECK_OK(ctx, sae_dictionary_save(dict, path), goto end);
    s->init = path;
    ok = true;
end:
    sae_dictionary_destroy(dict);
    return ok;
}

/* One parameter block of the struct: data, rows, row stride, columns. */
typedef struct common_block {
    const char *name;
    const float *data;
    size_t rows, stride, columns;
} common_block;
CHECK_UNUSED static size_t common_blocks(const sae_dictionary *dict, common_block out[7]) {
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size, n = 0;
    size_t width = dict->desc.output_dim;
    const common_block all[7] = {
        { "W_enc", dict->W_enc, m, dict->ld, d }, { "W_dec", dict->W_dec, m, dict->ld_out, width },
        { "b_enc", dict->b_enc, 1, m, m },        { "aux0", dict->aux0, 1, m, m },
        { "aux1", dict->aux1, 1, m, m },          { "b_dec", dict->b_dec, 1, width, width },
        { "W_skip", dict->W_skip, width, dict->ld, d },
    };
    for (size_t i = 0; i < 7; i++)
        if (all[i].data) out[n++] = all[i];
    return n;
}

/* FNV-1a of all parameters without padding, and of the threshold. */
CHECK_UNUSED static uint64_t common_hash(const sae_dictionary *dict) {
    common_block blocks[7];
    size_t n = common_blocks(dict, blocks);
    uint64_t hash = 0;
    for (size_t b = 0; b < n; b++)
        for (size_t r = 0; r < blocks[b].rows; r++)
            hash = check_hash(hash, blocks[b].data + r * blocks[b].stride,
                              blocks[b].columns * sizeof(float));
    return check_hash(hash, &dict->threshold, sizeof dict->threshold);
}
#endif /* COMMON_H */
