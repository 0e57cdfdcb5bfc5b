/*  Proves: sae_lm.h on two tiny models (parallel and sequential; float16 and bfloat16; one file and shards;
    new and old config.json): logits, losses, activations at every kind of site, losses with a site's
    rows set to 0 or scaled; ids and bytes of a text; the same bits for any number of threads, any
    instruction set and any company in the batch; padding and bos; early stop; the source; a training run
    from text; and that damaged files are refused, with a sentence, and do nothing worse.
    Oracle: transformers and tokenizers, tests/lm, made by tests/make_lm_fixtures.py.
    Tolerance: 1e-5 of the range, 1e-5 of a loss (float32 sums in another order); ids and bytes equal. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"
#include "check.h"

enum { CONTEXTS = 3, CTX = 17, ROWS = CONTEXTS * CTX };
static const char *const folders[] = { "parallel", "sequential" };
static sae_context *ctx;

/* What the fixture of one model holds. */
typedef struct golden {
    sae_lm *model;
    sae_tensor_file *file;
    int32_t ids[ROWS]; /* a file's need not be aligned */
    float *logits;
    float *losses;
} golden;

static float *array(const golden *g, const char *name) {
    const sae_tensor *t = sae_tensor_file_find(g->file, name);
    size_t count = 1;
    float *out;
    CHECK(t != NULL, "golden.npz has no %s", name);
    if (!t) return NULL;
    for (size_t i = 0; i < t->ndim; i++) count *= (size_t)t->shape[i];
    out = (float *)malloc(count * sizeof *out);
    sae_tensor_to_f32(t, out);
    return out;
}

static const char *place(const char *folder, const char *name) {
    return check_path("%s/tests/lm/%s/%s", check_root(), folder, name);
}

static bool open_golden(sae_context *c, const char *folder, golden *g) {
    memset(g, 0, sizeof *g);
    CHECK_OK(c, sae_lm_open(c, place(folder, ""), &g->model), return false);
    CHECK_OK(c, sae_tensor_file_open(c, place(folder, "golden.npz"), &g->file), return false);
    memcpy(g->ids, sae_tensor_file_find(g->file, "ids")->data, sizeof g->ids);
    g->logits = array(g, "logits");
    g->losses = array(g, "losses");
    return true;
}

static void close_golden(golden *g) {
    sae_lm_close(g->model);
    sae_tensor_file_close(g->file);
    free(g->logits);
    free(g->losses);
}

static double range_error(const float *got, const float *want, size_t n) {
    float low = want[0], high = want[0], worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (want[i] < low) low = want[i];
        if (want[i] > high) high = want[i];
        if (!(fabsf(got[i] - want[i]) <= worst)) worst = fabsf(got[i] - want[i]);
    }
    return (double)worst / (double)(high - low);
}

/* ---- forward ---- */

typedef struct taken { /* logits or rows */
    float *data;
    size_t width, rows;
    float scale, shift; /* of a hook that changes; scale 1: it looks */
    int calls;
} taken;

static sae_result take_logits(void *user, const float *logits, size_t first, size_t count) {
    taken *t = (taken *)user;
    memcpy(t->data + first * t->width, logits, count * t->width * sizeof *logits);
    t->rows += count;
    return SAE_OK;
}

static sae_result take_rows(void *user, float *x, size_t rows, size_t dim) {
    taken *t = (taken *)user;
    if (t->data) memcpy(t->data, x, rows * dim * sizeof *x);
    for (size_t i = 0; i < rows * dim && t->scale != 1; i++) x[i] = x[i] * t->scale + t->shift;
    t->rows = rows;
    t->width = dim;
    t->calls++;
    return SAE_OK;
}

static sae_lm_forward_desc batch_of(const golden *g) {
    sae_lm_forward_desc d;
    memset(&d, 0, sizeof d);
    d.tokens = g->ids;
    d.contexts = CONTEXTS;
    d.ctx = CTX;
    return d;
}

static double mean_loss(const golden *g, sae_lm_hook *hook) {
    sae_lm_forward_desc d = batch_of(g);
    double loss[CONTEXTS], sum = 0;
    size_t predictions[CONTEXTS], all = 0;
    d.loss = loss;
    d.predictions = predictions;
    d.hooks = hook;
    d.num_hooks = hook != NULL;
    CHECK_OK(ctx, sae_lm_forward(g->model, &d), return NAN);
    for (size_t i = 0; i < CONTEXTS; i++) {
        sum += loss[i];
        all += predictions[i];
    }
    CHECK(all == CONTEXTS * (CTX - 1), "%zu predictions", all);
    return sum / (double)all;
}

static void run_logits(sae_lm *model, sae_lm_forward_desc d, float *out) {
    taken t = { NULL, 0, 0, 1, 0, 0 };
    t.data = out;
    t.width = sae_lm_config_of(model).vocab_size;
    d.logits = take_logits;
    d.user = &t;
    CHECK_OK(ctx, sae_lm_forward(model, &d), return);
    CHECK(t.rows == (d.rows ? d.num_rows : d.contexts * d.ctx), "%zu rows of logits", t.rows);
}

/* Sites by the names in losses.txt: "SITE.in zero". */
static void test_sites(const golden *g, const char *folder) {
    char line[256], name[256];
    FILE *f = fopen(place(folder, "losses.txt"), "rb");
    CHECK(f && fgets(line, sizeof line, f), "no losses.txt");
    for (size_t i = 1; f && fgets(line, sizeof line, f); i++) {
        sae_lm_hook hook;
        taken t = { NULL, 0, 0, 1, 0, 0 };
        char *kind = strchr(line, ' '), *io;
        double loss;
        memset(&hook, 0, sizeof hook);
        *kind++ = 0;
        snprintf(name, sizeof name, "%s", line);
        io = strrchr(line, '.');
        *io++ = 0;
        CHECK_OK(ctx, sae_lm_site_find(g->model, line, strcmp(io, "in") == 0, &hook.site), continue);
        t.scale = kind[0] == 'z' ? 0.0f : 0.5f;
        t.shift = kind[0] == 'z' ? 0.0f : 0.25f;
        hook.call = take_rows;
        hook.user = &t;
        loss = mean_loss(g, &hook);
        CHECK(check_near(loss, (double)g->losses[i], 1e-5), "%s %s: loss %.7g, wanted %.7g", name,
              kind, loss, (double)g->losses[i]);
        if (kind[0] == 'z') { /* and what is there, the pass stopping behind it */
            sae_lm_forward_desc d = batch_of(g);
            float *want = array(g, name);
            size_t dim = sae_lm_site_dim(g->model, hook.site);
            t.data = (float *)malloc(ROWS * dim * sizeof *t.data);
            t.scale = 1;
            t.calls = 0;
            d.hooks = &hook;
            d.num_hooks = 1;
            CHECK_OK(ctx, sae_lm_forward(g->model, &d), continue);
            CHECK(t.calls == 1 && t.rows == ROWS && t.width == dim, "%s: %d calls, %zu rows of %zu",
                  name, t.calls, t.rows, t.width);
            CHECK(range_error(t.data, want, ROWS * dim) < 1e-5, "%s: off by %.2g of the range", name,
                  range_error(t.data, want, ROWS * dim));
            free(want);
            free(t.data);
        }
    }
    if (f) fclose(f);
}

static void test_forward(const char *folder) {
    golden g;
    float *logits, *other;
    sae_lm_forward_desc d;
    size_t vocab;
    static const size_t rows[] = { 40, 2, 2 };
    int32_t turned[ROWS], padded[ROWS];
    double loss[CONTEXTS], part = 0;
    size_t predictions[CONTEXTS];
    check_test = folder;
    if (!open_golden(ctx, folder, &g)) return;
    vocab = sae_lm_config_of(g.model).vocab_size;
    logits = (float *)malloc(ROWS * vocab * sizeof *logits);
    other = (float *)malloc(ROWS * vocab * sizeof *other);
    d = batch_of(&g);
    run_logits(g.model, d, logits);
    CHECK(range_error(logits, g.logits, ROWS * vocab) < 1e-5, "logits off by %.2g of the range",
          range_error(logits, g.logits, ROWS * vocab));
    CHECK(check_near(mean_loss(&g, NULL), (double)g.losses[0], 1e-5), "loss %.7g, wanted %.7g",
          mean_loss(&g, NULL), (double)g.losses[0]);
    test_sites(&g, folder);
    /* chosen rows; other company; one context alone */
    d.rows = rows;
    d.num_rows = 3;
    run_logits(g.model, d, other);
    for (size_t i = 0; i < 3; i++)
        CHECK(!memcmp(other + i * vocab, logits + rows[i] * vocab, vocab * sizeof *logits),
              "chosen row %zu differs", i);
    for (size_t i = 0; i < ROWS; i++) turned[i] = g.ids[(i + CTX) % ROWS];
    d = batch_of(&g);
    d.tokens = turned;
    run_logits(g.model, d, other);
    for (size_t i = 0; i < ROWS; i++)
        CHECK(!memcmp(other + i * vocab, logits + (i + CTX) % ROWS * vocab, vocab * sizeof *logits),
              "row %zu depends on its company", i);
    /* padding at the end of the second context changes nothing before it */
    memcpy(padded, g.ids, sizeof padded);
    for (size_t i = CTX + 9; i < 2 * CTX; i++) padded[i] = -1;
    d = batch_of(&g);
    d.tokens = padded;
    d.loss = loss;
    d.predictions = predictions;
    run_logits(g.model, d, other);
    CHECK(!memcmp(other, logits, (CTX + 9) * vocab * sizeof *logits), "padding changes rows before");
    CHECK(predictions[0] == CTX - 1 && predictions[1] == 8, "%zu, %zu predictions", predictions[0],
          predictions[1]);
    for (size_t i = CTX; i < CTX + 8; i++)
        part += sae_lm_loss(logits + i * vocab, vocab, (size_t)g.ids[i + 1], NULL);
    CHECK(check_near(loss[1], part, 1e-12), "loss %.9g of a padded context, wanted %.9g", loss[1],
          part);
    free(logits);
    free(other);
    close_golden(&g);
}

/* Threads, instruction sets of sae.h, and the kernels here. */
static void test_bits(const char *folder) {
    static const char *const sets[] = { "portable", "avx2", "avx512", NULL };
    float *first = NULL;
    check_test = folder;
    for (int i = 0; i < 4; i++)
        for (int threads = 1; threads < 4; threads += 2) {
            sae_context_desc desc;
            sae_context *c = NULL, *keep = ctx;
            golden g;
            float *logits;
            size_t bytes;
            memset(&desc, 0, sizeof desc);
            desc.threads = threads;
            desc.instruction_set = sets[i];
            if (sae_context_create(&desc, &c) != SAE_OK) continue; /* not this CPU's */
            ctx = c;
            if (open_golden(c, folder, &g)) {
                if (i == 0) g.model->kernels = &lmi_kernels_portable;
#if defined(LMI_X86)
                if (i == 1) g.model->kernels = &lmi_kernels_avx2;
#endif
                bytes = ROWS * sae_lm_config_of(g.model).vocab_size * sizeof *logits;
                logits = (float *)malloc(bytes);
                run_logits(g.model, batch_of(&g), logits);
                if (!first) first = logits;
                else {
                    CHECK(!memcmp(first, logits, bytes), "%s, %d threads: other bits",
                          sets[i] ? sets[i] : "best", threads);
                    free(logits);
                }
                close_golden(&g);
            }
            ctx = keep;
            sae_context_destroy(c);
        }
    free(first);
}

/* ---- tokenizer ---- */

static void test_tokenizer(void) {
    sae_tokenizer *t = NULL;
    sae_tokens ids = { NULL, 0, 0 }, again = { NULL, 0, 0 };
    sae_text back = { NULL, 0, 0 };
    sae_tensor_file *file = NULL;
    const sae_tensor *want;
    size_t size = 0, back_size = 0;
    char *text = check_read(check_path("%s/tests/lm/text.txt", check_root()), &size), *bytes;
    char *normal = check_read(check_path("%s/tests/lm/back.txt", check_root()), &back_size);
    check_rng rng = { 3 };
    check_test = "tokenizer";
    CHECK_OK(ctx, sae_tokenizer_open(ctx, place("parallel", ""), &t), return);
    CHECK_OK(ctx, sae_tensor_file_open(ctx, check_path("%s/tests/lm/text_ids.npy", check_root()),
                                       &file), return);
    want = sae_tensor_file_get(file, 0);
    CHECK_OK(ctx, sae_tokenizer_encode(t, text, size, false, &ids), return);
    CHECK(ids.count == want->shape[0] && !memcmp(ids.id, want->data, ids.count * sizeof *ids.id),
          "%zu ids, wanted %zu, or other ones", ids.count, (size_t)want->shape[0]);
    CHECK_OK(ctx, sae_tokenizer_encode(t, text, size, false, &again), return); /* from the words remembered */
    CHECK(again.count == ids.count && !memcmp(again.id, ids.id, ids.count * sizeof *ids.id),
          "other ids the second time");
    CHECK_OK(ctx, sae_tokenizer_decode(t, ids.id, ids.count, &back), return);
    CHECK(back.size == back_size && !memcmp(back.data, normal, back_size), "other bytes back");
    /* any bytes, and a word too long for the short way: bytes come back */
    for (size_t n = 0; n < 3; n++) {
        size = n == 2 ? 50000 : 4096;
        bytes = (char *)malloc(size);
        for (size_t i = 0; i < size; i++)
            bytes[i] = n == 2 ? "the cat"[i % 2 * 4 + i / 2 % 3] : (char)check_bits(&rng);
        for (size_t i = 0; i < size && n == 1; i++) /* nothing that NFC changes */
            if ((unsigned char)bytes[i] >= 0xC2) bytes[i] = (char)(bytes[i] & 0xBF);
        ids.count = back.size = 0;
        CHECK_OK(ctx, sae_tokenizer_encode(t, bytes, size, false, &ids), return);
        CHECK_OK(ctx, sae_tokenizer_decode(t, ids.id, ids.count, &back), return);
        if (n) CHECK(back.size == size && !memcmp(back.data, bytes, size), "bytes %zu: others back", n);
        free(bytes);
    }
    CHECK(sae_tokenizer_find(t, "<|padding|>", 11) == 1, "<|padding|> is not 1");
    CHECK(sae_tokenizer_find(t, "no such token", 13) == -1, "a token that is not there is found");
    CHECK(sae_tokenizer_token(t, -1, NULL) == NULL && sae_tokenizer_token(t, 1 << 30, NULL) == NULL,
          "bytes of no token");
    ids.id[0] = 99999;
    CHECK(sae_tokenizer_decode(t, ids.id, 1, &back) == SAE_ERR_INVALID && strstr(sae_error(ctx), "99999"),
          "id 99999: %s", sae_error(ctx));
    ids.count = 0;
    CHECK(sae_tokenizer_encode(t, "", 0, false, &ids) == SAE_OK && ids.count == 0, "the empty text has ids");
    sae_tokens_free(&ids);
    sae_tokens_free(&again);
    sae_text_free(&back);
    sae_tensor_file_close(file);
    sae_tokenizer_close(t);
    free(text);
    free(normal);
}

/* ---- source ---- */

static void test_source(void) {
    golden g;
    sae_lm_source_desc desc;
    sae_lm_source *source = NULL;
    sae_source_desc rows;
    sae_lm_site site, target;
    int32_t tokens[ROWS];
    float *want_in, *want_out, *x = (float *)malloc(ROWS * 32 * sizeof *x), *y, *again;
    size_t got = 0, kept = 0;
    int64_t n;
    check_test = "source";
    if (!open_golden(ctx, "parallel", &g)) return;
    y = (float *)malloc(ROWS * 32 * sizeof *y);
    again = (float *)malloc(ROWS * 32 * sizeof *again);
    want_in = array(&g, "gpt_neox.layers.1.mlp.in");
    want_out = array(&g, "gpt_neox.layers.1.mlp.out");
    memcpy(tokens, g.ids, sizeof tokens);
    for (size_t i = CTX - 3; i < CTX; i++) tokens[i] = -1;
    tokens[2 * CTX] = 0; /* bos: its context has other activations, but for the row left out */
    memset(&desc, 0, sizeof desc);
    desc.model = g.model;
    desc.tokens = tokens;
    desc.contexts = CONTEXTS;
    desc.ctx = CTX;
    desc.batch = 2;
    desc.remove_bos = true;
    sae_lm_site_find(g.model, "gpt_neox.layers.1.mlp", true, &site);
    sae_lm_site_find(g.model, "gpt_neox.layers.1.mlp", false, &target);
    desc.sites = &site;
    desc.num_sites = 1;
    desc.targets = &target;
    CHECK_OK(ctx, sae_lm_source_create(ctx, &desc, &source), return);
    memset(&target, 0, sizeof target); /* was copied */
    rows = sae_lm_source_rows(source, 0);
    CHECK(rows.dim == 32 && rows.has_target, "dim %zu", rows.dim);
    while ((n = rows.read(rows.user, x + got * 32, y + got * 32, 5)) > 0) {
        for (size_t i = 0; i < (size_t)n; i++, kept++) {
            size_t r = (size_t)sae_lm_source_place(source, 0, i);
            CHECK(tokens[r] > 0, "row %zu of token %d", r, (int)tokens[r]);
            if (r >= 2 * CTX) continue;
            CHECK(range_error(x + kept * 32, want_in + r * 32, 32) < 1e-4, "row %zu differs", r);
            CHECK(range_error(y + kept * 32, want_out + r * 32, 32) < 1e-4, "target %zu differs", r);
        }
        got += (size_t)n;
    }
    CHECK(n == 0 && got == ROWS - 4, "%zu rows, then %d", got, (int)n);
    CHECK_OK(ctx, rows.rewind(rows.user), return);
    for (got = 0; (n = rows.read(rows.user, again + got * 32, y, 7)) > 0;) got += (size_t)n;
    CHECK(!memcmp(x, again, got * 32 * sizeof *x), "other rows after a rewind");
    sae_lm_source_destroy(source);
    sae_lm_site_find(g.model, "gpt_neox.layers.1.mlp.dense_4h_to_h", true, &target);
    CHECK(sae_lm_source_create(ctx, &desc, &source) == SAE_ERR_MISMATCH && strstr(sae_error(ctx), "48"),
          "widths 32 and 48: %s", sae_error(ctx));
    free(want_in);
    free(want_out);
    free(x);
    free(y);
    free(again);
    close_golden(&g);
}

static sae_result read_contexts(sae_tokenizer *tokenizer, const char *file, size_t length,
                                const sae_tokens *bos, sae_contexts *out) {
    sae_contexts_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tokenizer = tokenizer;
    desc.files = &file;
    desc.num_files = 1;
    desc.length = length;
    desc.bos = bos ? bos->id : NULL;
    desc.num_bos = bos ? bos->count : 0;
    return sae_contexts_read(ctx, &desc, out);
}

/* Contexts with bos at their heads hold the ids of those without, in order. */
static void test_contexts(void) {
    sae_tokenizer *tokenizer = NULL;
    sae_contexts plain = { NULL, 0, 0, 0 }, headed = { NULL, 0, 0, 0 };
    int32_t two[] = { 1, 0 };
    sae_tokens bos = { NULL, 0, 0 };
    const char *file = check_path("%s/tests/lm/text.txt", check_root());
    const char *ids = check_path("%s/tests/lm/text_ids.npy", check_root());
    check_test = "contexts";
    bos.id = two;
    bos.count = 2;
    CHECK_OK(ctx, sae_tokenizer_open(ctx, place("parallel", ""), &tokenizer), return);
    for (int npy = 0; npy < 2; npy++) {
        const char *from = npy ? ids : file;
        sae_tokenizer *with = npy ? NULL : tokenizer;
        size_t differ = 0;
        CHECK_OK(ctx, read_contexts(with, from, 1, NULL, &plain), return);
        CHECK_OK(ctx, read_contexts(with, from, 16, &bos, &headed), return);
        CHECK(headed.contexts == plain.contexts / 14 && headed.dropped == plain.contexts % 14
                  && headed.ctx == 16, "%zu contexts of %zu, %zu dropped", headed.contexts,
              headed.ctx, headed.dropped);
        for (size_t i = 0; i < headed.contexts; i++)
            differ += headed.tokens[16 * i] != 1 || headed.tokens[16 * i + 1] != 0
                      || memcmp(headed.tokens + 16 * i + 2, plain.tokens + 14 * i, 14 * 4) != 0;
        CHECK(differ == 0, "%zu contexts with bos differ", differ);
        sae_contexts_free(&plain);
        sae_contexts_free(&headed);
    }
    CHECK(read_contexts(tokenizer, file, 2, &bos, &headed) == SAE_ERR_INVALID && !headed.tokens
              && strstr(sae_error(ctx), "from 3"), "%s", sae_error(ctx));
    sae_tokenizer_close(tokenizer);
}

/* Straight from text into a dictionary. */
static void test_train(void) {
    sae_lm *model = NULL;
    sae_tokenizer *tokenizer = NULL;
    sae_contexts text = { NULL, 0, 0, 0 };
    sae_lm_source_desc desc;
    sae_lm_source *source = NULL;
    sae_lm_site site;
    sae_trainer_desc trainer;
    sae_train_desc train;
    const char *file = check_path("%s/tests/lm/text.txt", check_root());
    check_test = "train";
    CHECK_OK(ctx, sae_lm_open(ctx, place("parallel", ""), &model), return);
    CHECK_OK(ctx, sae_tokenizer_open(ctx, place("parallel", ""), &tokenizer), return);
    CHECK(read_contexts(tokenizer, file, 4096, NULL, &text) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "4096"), "too short a text: %s", sae_error(ctx));
    CHECK_OK(ctx, read_contexts(tokenizer, file, 16, NULL, &text), return);
    memset(&desc, 0, sizeof desc);
    memset(&trainer, 0, sizeof trainer);
    memset(&train, 0, sizeof train);
    desc.model = model;
    desc.tokens = text.tokens;
    desc.contexts = text.contexts;
    desc.ctx = text.ctx;
    sae_lm_site_find(model, "gpt_neox.layers.1", false, &site);
    desc.sites = &site;
    desc.num_sites = 1;
    CHECK_OK(ctx, sae_lm_source_create(ctx, &desc, &source), return);
    train.buffer.source = sae_lm_source_rows(source, 0);
    train.buffer.batch_size = 16;
    train.buffer.rows = 64;
    trainer.kind = SAE_TRAINER_TOP_K;
    trainer.dict_size = 64;
    trainer.k = 4;
    train.trainers = &trainer;
    train.num_trainers = 1;
    train.steps = 30; /* several passes over the text */
    CHECK_OK(ctx, sae_train(ctx, &train), (void)0);
    sae_lm_source_destroy(source);
    sae_contexts_free(&text);
    sae_tokenizer_close(tokenizer);
    sae_lm_close(model);
}

/* ---- hostile files ---- */

/* Each byte in turn changed, and the file cut there: opened or refused, nothing worse. */
static void test_damage(const char *folder, const char *name, size_t steps) {
    const char *temp = check_temp(), *copy = check_path("%s/lm", temp);
    static const char *const all[] = { "config.json", "tokenizer.json", "model.safetensors",
                                       "model.safetensors.index.json" };
    size_t size = 0, refused = 0, tried = 0;
    char *whole = check_read(place(folder, name), &size);
    check_rng rng = { 11 };
    check_test = name;
    CHECK(whole != NULL, "no %s", name);
    if (!whole) return;
    check_remove(copy);
    mkdir(copy, 0777);
    for (size_t i = 0; i < 4; i++) {
        size_t bytes = 0;
        char *data = check_exists(place(folder, all[i])) ? check_read(place(folder, all[i]), &bytes)
                                                         : NULL;
        if (data) check_write(check_path("%s/%s", copy, all[i]), data, bytes);
        free(data);
    }
    for (size_t i = 0; i < steps; i++) {
        char *data = (char *)malloc(size);
        size_t at = (size_t)check_bits(&rng) % size, cut = i % 3 ? size : at;
        sae_lm *model = NULL;
        sae_tokenizer *tokenizer = NULL;
        sae_result a, b;
        memcpy(data, whole, size);
        data[at] = "09-{}[]\",:\x80 "[check_bits(&rng) % 12];
        check_write(check_path("%s/%s", copy, name), data, cut);
        a = sae_lm_open(ctx, copy, &model);
        b = strcmp(name, "tokenizer.json") ? SAE_OK : sae_tokenizer_open(ctx, copy, &tokenizer);
        CHECK((a == SAE_OK) == (model != NULL), "a model, and %s", sae_result_name(a));
        refused += a != SAE_OK || b != SAE_OK;
        tried++;
        sae_lm_close(model);
        sae_tokenizer_close(tokenizer);
        free(data);
    }
    CHECK(refused > tried / 3, "%zu of %zu refused", refused, tried);
    check_remove(copy);
    free(whole);
}

/* Small files made to be refused at once. */
static void test_crafted(void) {
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                               "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"post_processor\":{"
                               "\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
                               "\"id\":\"a\"}}],\"special_tokens\":{\"a\":{\"ids\":[%s]}}}}";
    static const char *const ids[] = { "0", "\"x\"", "1e300", "0.5", "-1", "7" };
    static const char shape[] = "{'descr': '<i4', 'fortran_order': False, "
                                "'shape': (1152921504606846976, 0)}";
    char npy[128];
    const char *file = check_path("%s/empty.npy", check_temp());
    sae_contexts text = { NULL, 0, 0, 0 };
    check_test = "crafted files";
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        const char *path = check_path("%s/tokenizer.json", check_temp());
        sae_tokenizer *t = NULL;
        char whole[512];
        int n = snprintf(whole, sizeof whole, json, ids[i]);
        check_write(path, whole, (size_t)n);
        CHECK(sae_tokenizer_open(ctx, path, &t) == (i ? SAE_ERR_FORMAT : SAE_OK) && !t == (i > 0)
                  && (!i || strstr(sae_error(ctx), "post_processor")), "ids [%s]: %s", ids[i],
              sae_error(ctx));
        sae_tokenizer_close(t);
    }
    memset(npy, ' ', sizeof npy); /* an .npy of 2^60 rows of nothing */
    memcpy(npy, "\x93NUMPY\1\0\x76\0", 10);
    memcpy(npy + 10, shape, sizeof shape - 1);
    npy[sizeof npy - 1] = '\n';
    check_write(file, npy, sizeof npy);
    CHECK(read_contexts(NULL, file, 0, NULL, &text) == SAE_ERR_INVALID && !text.tokens
              && strstr(sae_error(ctx), "0 tokens"), "%s", sae_error(ctx));
}

static sae_result never(void *user, float *x, size_t rows, size_t dim) {
    (void)user;
    (void)x;
    (void)rows;
    (void)dim;
    return SAE_ERR_CANCELLED;
}

static void test_refusals(void) {
    golden g;
    sae_lm_site site;
    sae_lm_forward_desc d;
    sae_lm_hook hook;
    int32_t bad = 5000;
    sae_lm *none = NULL;
    check_test = "refusals";
    if (!open_golden(ctx, "sequential", &g)) return;
    CHECK(sae_lm_site_find(g.model, "gpt_neox.layers.2", false, &site) == SAE_ERR_NOT_FOUND
              && strstr(sae_error(ctx), "0 to 1") && strstr(sae_error(ctx), "gpt_neox.layers.N.{input_layernorm, "),
          "%s", sae_error(ctx));
    CHECK(sae_lm_site_find(g.model, "gpt_neox.embed_in", true, &site) == SAE_ERR_INVALID,
          "%s", sae_error(ctx));
    d = batch_of(&g);
    d.tokens = &bad;
    d.contexts = d.ctx = 1;
    CHECK(sae_lm_forward(g.model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "5000")
              && strstr(sae_error(ctx), "97"), "%s", sae_error(ctx));
    d = batch_of(&g); /* the final norm is of no layer: a hook there would never be called */
    memset(&hook, 0, sizeof hook);
    hook.site.module = SAE_LM_FINAL_NORM;
    hook.call = never;
    d.hooks = &hook;
    d.num_hooks = 1;
    CHECK(sae_lm_forward(g.model, &d) == SAE_ERR_CANCELLED, "the hook was not called");
    hook.site.layer = 1;
    CHECK(sae_lm_forward(g.model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "hook 0"), "%s",
          sae_error(ctx));
    CHECK(sae_lm_open(ctx, check_root(), &none) == SAE_ERR_NOT_FOUND && !none
              && strstr(sae_error(ctx), "config.json"), "%s", sae_error(ctx));
    close_golden(&g);
}

int main(void) {
    ctx = check_context(2);
    for (size_t i = 0; i < 2; i++) {
        test_forward(folders[i]);
        test_bits(folders[i]);
    }
    test_tokenizer();
    test_source();
    test_contexts();
    test_train();
    test_refusals();
    test_crafted();
    test_damage("parallel", "config.json", 300);
    test_damage("parallel", "tokenizer.json", 300);
    test_damage("parallel", "model.safetensors", 60);
    test_damage("sequential", "model.safetensors.index.json", 60);
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
