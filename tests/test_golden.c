/*  Proves: sae.h follows the traces of the real reference: losses, logged values and final tensors of
    every trainer, inference and evaluation of its files, and single functions.
    Oracle: traces of dictionary_learning on PyTorch: whole ones in ../shared/golden where that is, else
    the first 12 steps in tests/golden (its README says how they were cut). tests/oracle.h is held
    against the same losses.
    Tolerance: losses 1e-4 relative, final tensors 1e-4 of their largest entry, inference 2e-5 of the
    largest entry, evaluation 1e-4, functions 1e-5: the reference is float32 itself and differs between
    PyTorch versions by 3e-7 in the losses. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include "oracle.h"

static sae_context *ctx;

/* A parsed JSON file, NULL and a failure where it is none; the caller closes it. */
static sae_json *json_file(const char *path) {
    sae_json *root = NULL;
    CHECK_OK(ctx, sae_json_open(ctx, path, &root), return NULL);
    return root;
}
/* NaN where the key is missing or null. */
static double json_number(const sae_json *object, const char *key) {
    const sae_json *v = sae_json_get(object, key);
    return sae_json_kind_of(v) == SAE_JSON_NUMBER ? sae_json_number(v) : NAN;
}

/* Every tensor of the file `want` against the file `got`. */
static void compare_files(const char *got, const char *want, double tolerance) {
    sae_tensor_file *a = NULL, *b = NULL;
    CHECK_OK(ctx, sae_tensor_file_open(ctx, got, &a), return);
    CHECK_OK(ctx, sae_tensor_file_open(ctx, want, &b), goto end);
    CHECK(sae_tensor_file_count(a) == sae_tensor_file_count(b), "%d tensors, want %d",
          (int)sae_tensor_file_count(a), (int)sae_tensor_file_count(b));
    for (size_t i = 0; i < sae_tensor_file_count(b); i++) {
        const sae_tensor *w = sae_tensor_file_get(b, i), *g = sae_tensor_file_find(a, w->name);
        size_t n = 1;
        float *gv, *wv;
        double worst, largest;
        CHECK(g != NULL, "no tensor %s", w->name);
        if (!g) continue;
        CHECK(g->ndim == w->ndim && !memcmp(g->shape, w->shape, w->ndim * sizeof *w->shape),
              "%s has another shape", w->name);
        CHECK(g->dtype == w->dtype, "%s is %s, want %s", w->name, sae_dtype_name(g->dtype),
              sae_dtype_name(w->dtype));
        if (g->ndim != w->ndim || memcmp(g->shape, w->shape, w->ndim * sizeof *w->shape)) continue;
        for (size_t k = 0; k < w->ndim; k++) n *= (size_t)w->shape[k];
        gv = (float *)malloc((n + 1) * sizeof *gv);
        wv = (float *)malloc((n + 1) * sizeof *wv);
        sae_tensor_to_f32(g, gv);
        sae_tensor_to_f32(w, wv);
        worst = check_distance(gv, wv, n, &largest);
        CHECK(worst <= tolerance * fmax(largest, 1e-12), "final %s off by %.1e", w->name,
              worst / fmax(largest, 1e-12));
        free(gv);
        free(wv);
    }
end:
    sae_tensor_file_close(a);
    sae_tensor_file_close(b);
}

/* The values of a log line against those of steps.jsonl; false after a failure. */
static bool compare_line(const sae_json *want, const sae_stats *g) {
    const struct { const char *key; double got, tolerance; } values[] = {
        { "p", g->p, 1e-5 },
        { "next_p", g->next_p, 1e-5 },
        { "sparsity_coeff", g->sparsity_coeff, 1e-3 },
        { "dead_features", g->dead_features, 0 },
        { "ghosts", g->ghosts, 0 },
        { "threshold", g->threshold, 1e-4 },
        { "effective_l0", g->effective_l0, 0 },
        { "pre_norm_auxk_loss", g->pre_norm_auxk_loss, 1e-3 },
    };
    double loss = json_number(want, "loss");
    long before = check_failed;
    CHECK(check_near(g->loss, loss, 1e-4), "step %d loss %.9g, want %.9g", (int)g->step, g->loss,
          loss);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        double w = json_number(want, values[i].key);
        if (w != w) continue;
        CHECK(fabs(values[i].got - w) <= values[i].tolerance * fmax(1, fabs(w)),
              "step %d %s %.9g, want %.9g", (int)g->step, values[i].key, values[i].got, w);
    }
    return check_failed == before;
}

/* steps.jsonl, line by line. */
typedef struct trace {
    sae_json *root; /* its lines as an array */
    size_t count;
    const sae_json *line[256];
} trace;
static bool trace_open(trace *t, const char *path) {
    const char *copy = check_path("%s/steps.json", check_temp());
    size_t size = 0;
    char *text = check_read(path, &size), *array = (char *)malloc(size + 3);
    bool ok;
    memset(t, 0, sizeof *t);
    CHECK(text != NULL, "cannot read %s", path);
    while (size && text[size - 1] == '\n') size--;
    array[0] = '[';
    for (size_t i = 0; i < size; i++) array[i + 1] = text[i] == '\n' ? ',' : text[i];
    array[size + 1] = ']';
    ok = check_write(copy, array, size + 2) && (t->root = json_file(copy)) != NULL;
    free(text);
    free(array);
    for (const sae_json *v = sae_json_first(t->root); v && t->count < 256; v = sae_json_next(v))
        t->line[t->count++] = v;
    return ok;
}
static void trace_close(trace *t) { sae_json_close(t->root); }

/* The oracle on the same trace. */
static void oracle_run(const sae_trainer_desc *s, const float *x, const float *y, const trace *t) {
    size_t d = s->activation_dim, m = s->dict_size, n = s->batch_size, at = 0;
    double *xd = oracle_doubles(n * d), *yd = oracle_doubles(n * d);
    sae_load_desc load = { common_arch(s), s->k, true, false, 0, 0, NULL, 0, NULL, 0 };
    common_block blocks[7];
    sae_dictionary *dict;
    oracle o;
    oracle_init(&o, s);
    CHECK_OK(ctx, sae_dictionary_load(ctx, &load, s->init, &dict), goto end);
    for (size_t b = 0, count = common_blocks(dict, blocks); b < count; b++) {
        at = !strcmp(blocks[b].name, "W_enc")   ? 0
             : !strcmp(blocks[b].name, "W_dec") ? m * d
             : !strcmp(blocks[b].name, "b_enc") ? 2 * m * d
             : !strcmp(blocks[b].name, "aux0")  ? 2 * m * d + m
             : !strcmp(blocks[b].name, "aux1")  ? 2 * m * d + 2 * m
                                                : 2 * m * d + 3 * m;
        for (size_t r = 0; r < blocks[b].rows; r++)
            for (size_t j = 0; j < blocks[b].columns; j++)
                o.theta[at++] = (double)blocks[b].data[r * blocks[b].stride + j];
    }
    sae_dictionary_destroy(dict);
    for (size_t step = 0; step < t->count && step < 12; step++) {
        double want = json_number(t->line[step], "loss");
        for (size_t q = 0; q < n * d; q++) {
            xd[q] = (double)x[step * n * d + q];
            if (y) yd[q] = (double)y[step * n * d + q];
        }
        oracle_step(&o, xd, y ? yd : NULL, n);
        CHECK(check_near(o.stats.loss, want, 1e-5), "oracle: step %d loss %.9g, want %.9g",
              (int)step, o.stats.loss, want);
    }
end:
    oracle_free(&o);
    free(xd);
    free(yd);
}

/* Inference and evaluation of the reference's own dictionary after the last step. */
static void inference(const char *folder, const sae_trainer_desc *s, bool whole) {
    sae_load_desc load = { SAE_ARCH_DEFAULT, 0, true, false, 0, 0, NULL, 0, NULL, 0 };
    sae_dictionary *dict = NULL;
    const char *forward = check_path("%s/forward.npz", folder);
    float *x, *f, *x_hat, *gf = NULL, *gx = NULL;
    size_t count, rows, tested, d = s->activation_dim, m = s->dict_size;
    double worst, largest;
    sae_result result;
    if (!check_exists(forward)) return;
    if (whole) {
        const char *copy = check_path("%s/reference", check_temp());
        size_t size;
        char *data;
        check_remove(copy);
        mkdir(copy, 0777);
        data = check_read(check_path("%s/ae.pt", folder), &size);
        CHECK(data && check_write(check_path("%s/ae.pt", copy), data, size), "ae.pt");
        free(data);
        data = check_read(check_path("%s/config.json", folder), &size);
        CHECK(data && check_write(check_path("%s/config.json", copy), data, size), "config.json");
        free(data);
        result = sae_dictionary_load(ctx, &load, copy, &dict);
    } else {
        load.arch = common_arch(s);
        result = sae_dictionary_load(ctx, &load, check_path("%s/final.safetensors", folder), &dict);
    }
    CHECK(result == SAE_OK, "loading gives %s: %s", sae_result_name(result), sae_error(ctx));
    if (result != SAE_OK) return;
    x = check_tensor(ctx, forward, "x", &count, &rows);
    f = check_tensor(ctx, forward, "f", NULL, &tested);
    x_hat = check_tensor(ctx, forward, "x_hat", NULL, NULL);
    if (x && f && x_hat) {
        gf = (float *)malloc(rows * m * sizeof *gf);
        gx = (float *)malloc(rows * d * sizeof *gx);
        CHECK_OK(ctx, sae_encode(dict, x, rows, gf), goto end);
        sae_output_features(dict, rows, gf); /* what the reference's forward returns as f */
        worst = check_distance(gf, f, tested * m, &largest);
        CHECK(worst <= 2e-5 * largest, "f off by %.1e of %.1e", worst, largest);
        CHECK_OK(ctx, sae_forward(dict, x, rows, gx, NULL), goto end);
        worst = check_distance(gx, x_hat, tested * d, &largest);
        CHECK(worst <= 2e-5 * largest, "x_hat off by %.1e of %.1e", worst, largest);
        if (check_exists(check_path("%s/eval.json", folder))) {
            sae_json *want = json_file(check_path("%s/eval.json", folder));
            sae_evaluate_desc e;
            sae_metrics got;
            memset(&e, 0, sizeof e);
            e.buffer.source.data = x;
            e.buffer.source.rows = rows;
            e.buffer.source.dim = d;
            e.buffer.source.dtype = SAE_F32;
            e.buffer.sequential = true;
            e.buffer.batch_size = rows / 2;
            e.batches = 2;
            CHECK_OK(ctx, sae_evaluate(dict, &e, &got), goto end);
#define SAE_X(name)                                                                                \
    if (json_number(want, #name) == json_number(want, #name))                                      \
        CHECK(fabs(got.name - json_number(want, #name)) <=                                         \
                  1e-4 * fmax(1, fabs(json_number(want, #name))),                                  \
              "eval " #name " %.7g, want %.7g", got.name, json_number(want, #name));
            SAE_METRICS(SAE_X)
#undef SAE_X
            sae_json_close(want);
        }
    }
end:
    free(x);
    free(f);
    free(x_hat);
    free(gf);
    free(gx);
    sae_dictionary_destroy(dict);
}

/* The desc of a case, its batch size filled in. The config must stay open. */
static bool read_case(const char *folder, sae_config **config, sae_trainer_desc *s, bool *loop) {
    const char *path = check_path("%s/config.json", folder);
    sae_json *root = json_file(path);
    const sae_json *trainer = root ? sae_json_get(root, "trainer") : NULL;
    double batch = json_number(trainer, "batch_size");
    *loop = root && sae_json_get(root, "run") != NULL;
    sae_json_close(root);
    CHECK_OK(ctx, sae_config_open(ctx, path, config), return false);
    *s = *sae_config_get(*config, 0);
    s->batch_size = (size_t)batch;
    return true;
}

static void train_case(const char *folder, bool whole) {
    sae_config *config = NULL;
    sae_trainer_desc s;
    sae_trainer *trainer = NULL;
    trace t = { NULL, 0, { NULL } };
    const char *init = check_path("%s/init.safetensors", folder);
    const char *out = check_path("%s/final.safetensors", check_temp());
    const char *target = check_path("%s/target.npy", folder);
    float *x = NULL, *y = NULL;
    size_t count;
    bool loop, good = true;
    if (!read_case(folder, &config, &s, &loop)) return;
    s.init = init;
    if (!trace_open(&t, check_path("%s/steps.jsonl", folder))) goto end;
    if (!s.steps) s.steps = 40; /* the Gated config does not tell */
    x = check_tensor(ctx, check_path("%s/data.npy", folder), NULL, &count, NULL);
    if (check_exists(target)) y = check_tensor(ctx, target, NULL, NULL, NULL);
    if (!x) goto end;
    CHECK(count >= t.count * s.batch_size * s.activation_dim, "too few rows");
    oracle_run(&s, x, y, &t);
    CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), goto end);
    for (size_t step = 0; step < t.count && good; step++) {
        size_t at = step * s.batch_size * s.activation_dim;
        sae_stats stats;
        CHECK_OK(ctx, sae_trainer_step(trainer, x + at, y ? y + at : NULL, s.batch_size), goto end);
        CHECK_OK(ctx, sae_trainer_stats(trainer, &stats), goto end);
        good = compare_line(t.line[step], &stats);
    }
    /* exp_entropy: one pre-activation (step 23, row 26, latent 19) is 2e-8 in exact arithmetic, and the
       gradient of the entropy jumps there: in double precision data changed by 2e-7 moves the final
       encoder by up to 5e-3 of its largest entry. Its losses are compared, its tensors are not. */
    if (whole && good && !strstr(folder, "exp_entropy")) {
        CHECK_OK(ctx, sae_dictionary_save(sae_trainer_dictionary(trainer), out), goto end);
        compare_files(out, check_path("%s/final.safetensors", folder), 1e-4);
    }
end:
    sae_trainer_destroy(trainer);
    trace_close(&t);
    sae_config_close(config);
    free(x);
    free(y);
}

/* The run_* cases: whole runs of the training loop with normalize_activations. */
typedef struct loop_log { const trace *t; size_t next; bool good; } loop_log;
static void on_log(void *user, size_t trainer, const sae_stats *stats) {
    loop_log *l = (loop_log *)user;
    CHECK(trainer == 0, "trainer %d", (int)trainer);
    if (!l->good || l->next >= l->t->count) return;
    l->good = compare_line(l->t->line[l->next], stats) && stats->step == l->next;
    l->next++;
}
static void loop_case(const char *folder) {
    sae_config *config = NULL;
    sae_trainer_desc s;
    sae_train_desc d;
    trace t = { NULL, 0, { NULL } };
    const char *init = check_path("%s/init.safetensors", folder);
    const char *data = check_path("%s/data.npy", folder);
    const char *out = check_path("%s/run", check_temp());
    const uint64_t save_steps[] = { 10, 60 };
    loop_log l;
    bool loop;
    if (!read_case(folder, &config, &s, &loop)) return;
    if (!trace_open(&t, check_path("%s/steps.jsonl", folder))) goto end;
    s.init = init;
    memset(&d, 0, sizeof d);
    d.buffer.source.files = &data;
    d.buffer.source.num_files = 1;
    d.buffer.batch_size = s.batch_size;
    d.buffer.sequential = true;
    d.trainers = &s;
    d.num_trainers = 1;
    d.steps = t.count;
    d.normalize_activations = true;
    d.save_dir = out;
    d.flat = true;
    d.save_steps = save_steps;
    d.num_save_steps = 2;
    d.log_steps = 1;
    d.log = on_log;
    l.t = &t;
    l.next = 0;
    l.good = true;
    d.user = &l;
    check_remove(out);
    CHECK_OK(ctx, sae_train(ctx, &d), goto end);
    CHECK(l.next == t.count || !l.good, "%d log lines, want %d", (int)l.next, (int)t.count);
    compare_files(check_path("%s/ae.safetensors", out), check_path("%s/final.safetensors", folder),
                  1e-4);
    compare_files(check_path("%s/ae.pt", out), check_path("%s/final.safetensors", folder), 1e-4);
    for (size_t i = 0; i < 2; i++) {
        sae_load_desc load = { common_arch(&s), 0, true, false, 0, 0, NULL, 0, NULL, 0 };
        const char *forward = check_path("%s/forward_%d.npz", folder, (int)save_steps[i]);
        sae_dictionary *dict;
        size_t rows;
        float *x = check_tensor(ctx, forward, "x", NULL, &rows);
        float *want = check_tensor(ctx, forward, "x_hat", NULL, NULL), *got;
        double worst, largest;
        CHECK_OK(ctx, sae_dictionary_load(ctx, &load, check_path("%s/checkpoints/ae_%d.pt", out,
                                          (int)save_steps[i]), &dict), continue);
        got = (float *)malloc(rows * s.activation_dim * sizeof *got);
        CHECK_OK(ctx, sae_forward(dict, x, rows, got, NULL), continue);
        worst = check_distance(got, want, rows * s.activation_dim, &largest);
        CHECK(worst <= 1e-3 * largest, "checkpoint %d off by %.1e", (int)save_steps[i],
              worst / largest);
        sae_dictionary_destroy(dict);
        free(x);
        free(want);
        free(got);
    }
end:
    check_remove(out);
    trace_close(&t);
    sae_config_close(config);
}

/* ---- functions/ ------------------------------------------------------------------------------ */

static float *array(const char *file, const char *name, size_t *count) {
    return check_tensor(ctx, file, name, count, NULL);
}
static void near_array(const char *what, const float *got, const float *want, size_t n) {
    double largest, worst;
    if (!got || !want) return;
    worst = check_distance(got, want, n, &largest);
    CHECK(worst <= 1e-5 * fmax(1, largest), "%s off by %.1e of %.1e", what, worst, largest);
}
/* out [m][ld] from w [d,m] */
static void put_transposed(float *out, size_t ld, const float *w, size_t d, size_t m) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < d; j++) out[i * ld + j] = w[j * m + i];
}
static void put_rows(float *out, size_t ld, const float *w, size_t d, size_t m) {
    for (size_t i = 0; i < m; i++) memcpy(out + i * ld, w + i * d, d * sizeof *w);
}
static sae_dictionary *new_dictionary(sae_arch arch, size_t d, size_t m, size_t k,
                                      const float *groups, size_t num_groups) {
    sae_dictionary_desc desc;
    sae_dictionary *dict = NULL;
    memset(&desc, 0, sizeof desc);
    desc.arch = arch;
    desc.activation_dim = d;
    desc.dict_size = m;
    desc.k = k;
    desc.num_groups = num_groups;
    for (size_t i = 0; i < num_groups; i++) desc.group_sizes[i] = (size_t)groups[i];
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return NULL);
    return dict;
}
static sae_dictionary *standard_from(const char *file, size_t d, size_t m) {
    sae_dictionary *dict = new_dictionary(SAE_ARCH_STANDARD, d, m, 0, NULL, 0);
    float *bias = array(file, "bias", NULL), *we = array(file, "encoder_weight", NULL);
    float *be = array(file, "encoder_bias", NULL), *wd = array(file, "decoder_weight", NULL);
    if (dict && bias && we && be && wd) {
        memcpy(dict->b_dec, bias, d * sizeof *bias);
        memcpy(dict->b_enc, be, m * sizeof *be);
        put_rows(dict->W_enc, dict->ld, we, d, m);
        put_transposed(dict->W_dec, dict->ld, wd, d, m);
    }
    free(bias);
    free(we);
    free(be);
    free(wd);
    return dict;
}
static void same_standard(const sae_dictionary *dict, const char *file, const char *prefix,
                          size_t d, size_t m) {
    float *a = (float *)malloc(m * d * sizeof *a), *b = (float *)malloc(m * d * sizeof *b), *w;
    w = array(file, check_path("%s_bias", prefix), NULL);
    near_array("bias", dict->b_dec, w, d);
    free(w);
    w = array(file, check_path("%s_encoder_bias", prefix), NULL);
    near_array("encoder.bias", dict->b_enc, w, m);
    free(w);
    w = array(file, check_path("%s_encoder_weight", prefix), NULL);
    for (size_t i = 0; i < m; i++) memcpy(a + i * d, dict->W_enc + i * dict->ld, d * sizeof *a);
    near_array("encoder.weight", a, w, m * d);
    free(w);
    w = array(file, check_path("%s_decoder_weight", prefix), NULL);
    for (size_t i = 0; i < m; i++) memcpy(a + i * d, dict->W_dec + i * dict->ld, d * sizeof *a);
    if (w) put_transposed(b, d, w, d, m);
    near_array("decoder.weight", a, b, m * d);
    free(w);
    free(a);
    free(b);
}

static void functions(const char *folder) {
    enum { D = 24, M = 96 };
    const char *file;
    size_t count, n;
    float *a, *b, *c, *g, *out = (float *)malloc(1000 * M * sizeof *out);
    enum { LD = 32 };
    float *rows = (float *)calloc(M * LD, sizeof *rows), *grads = (float *)calloc(M * LD, sizeof *rows);
    sae_work w;
    sae_dictionary *dict;

    check_test = "geometric_median";
    file = check_path("%s/geometric_median.npz", folder);
    a = array(file, "points", &count);
    b = array(file, "median", &n);
    CHECK_OK(ctx, sae_geometric_median(ctx, a, count / n, n, out), (void)0);
    near_array("median", out, b, n);
    free(a);
    free(b);

    check_test = "decoder_constraint";
    file = check_path("%s/decoder_constraint.npz", folder);
    a = array(file, "W", NULL);
    g = array(file, "G", NULL);
    w = common_work(ctx, D, M);
    put_transposed(rows, LD, a, D, M);
    put_transposed(grads, LD, g, D, M);
    free(a);
    free(g);
    a = array(file, "projected", NULL);
    memset(out, 0, M * LD * sizeof *out);
    put_transposed(out, LD, a, D, M);
    sae_cpu_backend()->remove_parallel(&w, rows, M, 1e-6f, NULL, grads);
    near_array("projected", grads, out, M * LD);
    free(a);
    a = array(file, "unit", NULL);
    put_transposed(out, LD, a, D, M);
    sae_cpu_backend()->normalize_rows(&w, M, FLT_EPSILON, rows);
    near_array("unit", rows, out, M * LD);
    common_work_end(&w);
    free(a);

    check_test = "ghost_forward";
    file = check_path("%s/ghost_forward.npz", folder);
    dict = standard_from(file, D, M);
    if (dict) {
        uint8_t mask[M];
        a = array(file, "x", &count);
        n = count / D;
        g = array(file, "ghost_mask", NULL);
        for (size_t i = 0; i < M; i++) mask[i] = g[i] != 0;
        CHECK_OK(ctx, sae_forward_ghost(dict, a, n, mask, out), (void)0);
        b = array(file, "x_ghost", NULL);
        near_array("x_ghost", out, b, n * D);
        free(b);
        free(g);
        g = (float *)malloc(n * M * sizeof *g);
        CHECK_OK(ctx, sae_forward(dict, a, n, out, g), (void)0);
        b = array(file, "x_hat", NULL);
        c = array(file, "f", NULL);
        near_array("x_hat", out, b, n * D);
        near_array("f", g, c, n * M);
        free(a);
        free(b);
        free(c);
        free(g);
        sae_dictionary_destroy(dict);
    }

    check_test = "grad_pursuit";
    file = check_path("%s/grad_pursuit.npz", folder);
    dict = new_dictionary(SAE_ARCH_STANDARD, D, M, 0, NULL, 0);
    if (dict) {
        static const size_t l0[] = { 1, 5, 12 };
        a = array(file, "signal", &count);
        b = array(file, "dictionary", NULL);
        put_transposed(dict->W_dec, dict->ld, b, D, M);
        for (size_t i = 0; i < 3; i++) {
            c = array(file, check_path("weights_%d", (int)l0[i]), NULL);
            CHECK_OK(ctx, sae_grad_pursuit(dict, a, count / D, l0[i], out), (void)0);
            near_array(check_path("weights_%d", (int)l0[i]), out, c, count / D * M);
            free(c);
        }
        free(a);
        free(b);
        sae_dictionary_destroy(dict);
    }

    check_test = "matryoshka_groups";
    file = check_path("%s/matryoshka_groups.npz", folder);
    a = array(file, "k", NULL);
    g = array(file, "group_sizes", &count);
    dict = new_dictionary(SAE_ARCH_MATRYOSHKA, D, M, (size_t)a[0], g, count);
    free(a);
    free(g);
    if (dict) {
        a = array(file, "W_enc", NULL);
        put_transposed(dict->W_enc, dict->ld, a, D, M);
        free(a);
        a = array(file, "W_dec", NULL);
        put_rows(dict->W_dec, dict->ld, a, D, M);
        free(a);
        a = array(file, "b_enc", NULL);
        memcpy(dict->b_enc, a, M * sizeof *a);
        free(a);
        a = array(file, "b_dec", NULL);
        memcpy(dict->b_dec, a, D * sizeof *a);
        free(a);
        a = array(file, "threshold", NULL);
        dict->threshold = a[0];
        free(a);
        a = array(file, "x", &count);
        n = count / D;
        g = (float *)malloc(n * M * sizeof *g);
        for (size_t k = 1; k <= 3; k++) {
            CHECK_OK(ctx, sae_dictionary_set_active_groups(dict, k), continue);
            CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD), continue);
            CHECK_OK(ctx, sae_forward(dict, a, n, out, g), continue);
            b = array(file, check_path("f_%d", (int)k), NULL);
            c = array(file, check_path("x_hat_%d", (int)k), NULL);
            near_array("f", g, b, n * M);
            near_array("x_hat", out, c, n * D);
            free(b);
            free(c);
            CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_TOP_K), continue);
            CHECK_OK(ctx, sae_encode(dict, a, n, g), continue);
            b = array(file, check_path("f_top_k_%d", (int)k), NULL);
            near_array("f_top_k", g, b, n * M);
            free(b);
        }
        free(a);
        free(g);
        sae_dictionary_destroy(dict);
    }

    check_test = "scale_and_normalize";
    file = check_path("%s/scale_and_normalize.npz", folder);
    dict = standard_from(file, D, M);
    if (dict) {
        a = array(file, "scale", NULL);
        CHECK_OK(ctx, sae_dictionary_scale_biases(dict, a[0]), (void)0);
        free(a);
        same_standard(dict, file, "scaled", D, M);
        CHECK_OK(ctx, sae_dictionary_normalize_decoder(dict), (void)0);
        same_standard(dict, file, "normalized", D, M);
        sae_dictionary_destroy(dict);
    }

    check_test = "schedules";
    file = check_path("%s/schedules.npz", folder);
    {
        const struct { const char *name; sae_schedule s; bool sparsity; } schedules[] = {
            { "lr_warmup10_decay70_of100", { 100, 10, 70, 0, 0 }, false },
            { "lr_warmup0_of50", { 50, 0, 0, 0, 0 }, false },
            { "lr_warmup5_resample20_of60", { 60, 5, 0, 20, 0 }, false },
            { "sparsity_15_of60", { 60, 0, 0, 0, 15 }, true },
            { "sparsity_none_of20", { 20, 0, 0, 0, 0 }, true },
        };
        for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
            a = array(file, schedules[i].name, &count);
            for (size_t t = 0; a && t < count; t++) {
                double got = schedules[i].sparsity ? sae_sparsity_factor(&schedules[i].s, t)
                                                   : sae_lr_factor(&schedules[i].s, t);
                CHECK(fabs(got - (double)a[t]) < 1e-7, "%s at %d is %g, want %g", schedules[i].name,
                      (int)t, got, (double)a[t]);
            }
            free(a);
        }
    }
    check_test = NULL;
    free(out);
    free(rows);
    free(grads);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(void) {
    char root[512], *names[256];
    bool whole = check_exists(check_path("%s/golden", check_shared()));
    size_t count = 0;
    DIR *dir;
    struct dirent *e;
    if (!whole) {
        SKIP("no ../shared/golden: only the first 12 steps of 10 cases, no whole runs");
    }
    snprintf(root, sizeof root, whole ? "%s/../shared/golden" : "%s/tests/golden", check_root());
    if (!(ctx = check_context(1))) return check_end();
    dir = opendir(root);
    CHECK(dir != NULL, "cannot open %s", root);
    while (dir && (e = readdir(dir)) != NULL && count < 256)
        if (check_exists(check_path("%s/%s/steps.jsonl", root, e->d_name)))
            names[count++] = strdup(e->d_name);
    if (dir) closedir(dir);
    qsort(names, count, sizeof *names, by_name);
    CHECK(count >= 10, "only %d cases", (int)count);
    for (size_t i = 0; i < count; i++) {
        char path[1024];
        sae_config *config;
        sae_trainer_desc s;
        bool loop;
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        check_test = names[i];
        if (!read_case(path, &config, &s, &loop)) continue;
        if (loop) loop_case(path);
        else train_case(path, whole);
        inference(path, &s, whole);
        sae_config_close(config);
        free(names[i]);
    }
    functions(strcat(root, "/functions"));
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
