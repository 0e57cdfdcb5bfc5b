/*  Proves: sae_lm.h on one tiny model of every family but GPT-NeoX (test_lm.c): logits; rows at every place, by
    transformers' names and TransformerLens'; losses with a place's rows changed; the other spelling of config.json,
    other names of tensors, old buffers; the same bits whatever the threads, the instruction set, the company in the
    batch, and what came from a cache; greedy and drawn generation; sources of several sites; and that every tensor left
    out or misshapen, and every setting that is not known, is refused in a sentence that names it.
    Oracle: transformers, tests/lm, made by tests/make_lm_fixtures.py.
    Tolerance: 1e-5 of the range of logits, of the largest entry of rows, of a loss (float32 sums in another order). */
#define SAE_IMPLEMENTATION
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"
#include "check.h"

static const char *const families[] = { "gpt2", "gpt_neo", "llama", "mistral", "mixtral", "qwen2", "qwen3",
                                        "qwen3_moe", "gemma", "gemma2", "gemma3", "gemma3mm" };
enum { FAMILIES = sizeof families / sizeof families[0], CONTEXTS = 2, CTX = 24, ROWS = CONTEXTS * CTX };
static sae_context *ctx;

typedef struct golden {
    sae_lm *model;
    sae_tensor_file *file;
    int32_t ids[ROWS];
    size_t vocab;
} golden;

static const char *place(const char *folder, const char *name) {
    return check_path("%s/tests/lm/%s/%s", check_root(), folder, name);
}

/* A tensor of the fixture as float32, malloc'd. */
static float *array(const golden *g, const char *name, size_t *count) {
    const sae_tensor *t = sae_tensor_file_find(g->file, name);
    size_t n = 1;
    float *out;
    CHECK(t != NULL, "golden.safetensors has no %s", name);
    if (!t) return NULL;
    for (size_t i = 0; i < t->ndim; i++) n *= (size_t)t->shape[i];
    if (count) *count = n;
    out = (float *)malloc((n + 1) * sizeof *out);
    sae_tensor_to_f32(t, out);
    return out;
}

/* int32 of the fixture; how many. */
static size_t whole(const golden *g, const char *name, int32_t *out, size_t most) {
    const sae_tensor *t = sae_tensor_file_find(g->file, name);
    size_t n = 1;
    CHECK(t && t->dtype == SAE_I32, "golden.safetensors has no %s", name);
    if (!t) return 0;
    for (size_t i = 0; i < t->ndim; i++) n *= (size_t)t->shape[i];
    n = n < most ? n : most;
    memcpy(out, t->data, n * sizeof *out);
    return n;
}

static bool open_golden(sae_context *c, const char *folder, golden *g) {
    memset(g, 0, sizeof *g);
    CHECK_OK(c, sae_lm_open(c, place(folder, ""), &g->model), return false);
    CHECK_OK(c, sae_tensor_file_open(c, place(folder, "golden.safetensors"), &g->file), return false);
    whole(g, "ids", g->ids, ROWS);
    g->vocab = sae_lm_config_of(g->model).vocab_size;
    return true;
}

static void close_golden(golden *g) {
    sae_lm_close(g->model);
    sae_tensor_file_close(g->file);
}

/* The largest difference, of the range or (about 0) of the largest entry. */
static double off(const float *got, const float *want, size_t n, bool about_zero) {
    float low = want[0], high = want[0], worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (want[i] < low) low = want[i];
        if (want[i] > high) high = want[i];
        if (!(fabsf(got[i] - want[i]) <= worst)) worst = fabsf(got[i] - want[i]);
    }
    if (about_zero) return (double)worst / (double)fmaxf(fabsf(low), fabsf(high));
    return (double)worst / (double)(high - low);
}

typedef struct taken { /* logits or rows */
    float *data;
    size_t width, rows;
    bool change; /* x becomes x / 2 + x^2 / 4 */
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
    if (t->data) memcpy(t->data + t->rows * dim, x, rows * dim * sizeof *x);
    for (size_t i = 0; i < rows * dim && t->change; i++) x[i] = x[i] * 0.5f + x[i] * x[i] * 0.25f;
    t->rows += rows;
    t->width = dim;
    t->calls++;
    return SAE_OK;
}

static sae_lm_forward_desc batch_of(const int32_t *ids, size_t contexts, size_t length) {
    sae_lm_forward_desc d;
    memset(&d, 0, sizeof d);
    d.tokens = ids;
    d.contexts = contexts;
    d.ctx = length;
    return d;
}

/* Logits [contexts * length,vocab], malloc'd; NULL: failed. */
static float *logits_of(sae_context *c, sae_lm *model, const int32_t *ids, size_t contexts, size_t length) {
    sae_lm_forward_desc d = batch_of(ids, contexts, length);
    taken t;
    memset(&t, 0, sizeof t);
    t.width = sae_lm_config_of(model).vocab_size;
    t.data = (float *)malloc(contexts * length * t.width * sizeof *t.data);
    d.logits = take_logits;
    d.user = &t;
    CHECK_OK(c, sae_lm_forward(model, &d), free(t.data); return NULL);
    CHECK(t.rows == contexts * length, "%zu rows of logits", t.rows);
    return t.data;
}

/* ---- what transformers gives ---- */

static void test_logits(const golden *g) {
    float *got = logits_of(ctx, g->model, g->ids, CONTEXTS, CTX), *want = array(g, "logits", NULL);
    if (got && want)
        CHECK(off(got, want, ROWS * g->vocab, false) < 1e-5, "logits off by %.2g of the range",
              off(got, want, ROWS * g->vocab, false));
    free(got);
    free(want);
}

/* "NAME|in", "NAME|out": rows there, the pass stopping behind. */
static void test_rows(const golden *g) {
    int32_t rows[ROWS];
    size_t num = whole(g, "rows", rows, ROWS), places = 0;
    for (size_t i = 0; i < sae_tensor_file_count(g->file); i++) {
        const char *name = sae_tensor_file_get(g->file, i)->name, *bar = strchr(name, '|');
        char submodule[160];
        sae_lm_hook hook;
        sae_lm_forward_desc d = batch_of(g->ids, CONTEXTS, CTX);
        taken t;
        float *want, *got;
        size_t dim, count = 0;
        if (!bar) continue;
        places++;
        snprintf(submodule, sizeof submodule, "%.*s", (int)(bar - name), name);
        memset(&hook, 0, sizeof hook);
        memset(&t, 0, sizeof t);
        CHECK_OK(ctx, sae_lm_site_find(g->model, submodule, bar[1] == 'i', &hook.site), continue);
        dim = sae_lm_site_dim(g->model, hook.site);
        want = array(g, name, &count);
        CHECK(count == num * dim, "%s is %zu wide, wanted %zu", name, dim, count / num);
        t.data = (float *)malloc(ROWS * dim * sizeof *t.data);
        got = (float *)malloc(num * dim * sizeof *got);
        hook.call = take_rows;
        hook.user = &t;
        d.hooks = &hook;
        d.num_hooks = 1;
        CHECK_OK(ctx, sae_lm_forward(g->model, &d), (void)0);
        CHECK(t.calls == 1 && t.rows == ROWS && t.width == dim, "%s: %d calls, %zu rows of %zu", name, t.calls, t.rows,
              t.width);
        for (size_t r = 0; r < num; r++)
            memcpy(got + r * dim, t.data + (size_t)rows[r] * dim, dim * sizeof *got);
        if (count == num * dim)
            CHECK(off(got, want, count, true) < 1e-5, "%s: off by %.2g of the largest", name,
                  off(got, want, count, true));
        free(want);
        free(got);
        free(t.data);
    }
    CHECK(places > 25, "%zu places", places);
}

static double mean_loss(const golden *g, sae_lm_hook *hook) {
    sae_lm_forward_desc d = batch_of(g->ids, CONTEXTS, CTX);
    double loss[CONTEXTS], sum = 0;
    d.loss = loss;
    d.hooks = hook;
    d.num_hooks = hook != NULL;
    CHECK_OK(ctx, sae_lm_forward(g->model, &d), return NAN);
    for (size_t i = 0; i < CONTEXTS; i++) sum += loss[i];
    return sum / (CONTEXTS * (CTX - 1));
}

/* losses.txt: "loss", then places whose rows are changed. */
static void test_changes(const golden *g, const char *folder) {
    float *want = array(g, "losses", NULL);
    char line[256];
    FILE *f = fopen(place(folder, "losses.txt"), "rb");
    CHECK(f != NULL, "no losses.txt");
    for (size_t i = 0; f && fgets(line, sizeof line, f); i++) {
        char *bar = strchr(line, '|');
        sae_lm_hook hook;
        taken t;
        double loss;
        line[strcspn(line, "\n")] = 0;
        memset(&hook, 0, sizeof hook);
        memset(&t, 0, sizeof t);
        t.change = true;
        hook.call = take_rows;
        hook.user = &t;
        if (bar) {
            *bar++ = 0;
            CHECK_OK(ctx, sae_lm_site_find(g->model, line, *bar == 'i', &hook.site), continue);
        }
        loss = mean_loss(g, bar ? &hook : NULL);
        CHECK(check_near(loss, (double)want[i], 1e-5), "%s %s: loss %.7g, wanted %.7g", line, bar ? bar : "", loss,
              (double)want[i]);
        if (bar) CHECK(!check_near(loss, (double)want[0], 1e-6), "%s changed changes nothing", line);
    }
    if (f) fclose(f);
    free(want);
}

/* ---- bits ---- */

static void test_company(const golden *g) {
    float *all = logits_of(ctx, g->model, g->ids, CONTEXTS, CTX), *one, *part;
    size_t row = g->vocab * sizeof *all;
    for (size_t c = 0; c < CONTEXTS && all; c++) {
        one = logits_of(ctx, g->model, g->ids + c * CTX, 1, CTX);
        CHECK(one && !memcmp(one, all + c * CTX * g->vocab, CTX * row), "context %zu alone: other bits", c);
        part = logits_of(ctx, g->model, g->ids + c * CTX, 1, 13);
        CHECK(part && !memcmp(part, all + c * CTX * g->vocab, 13 * row), "what follows changes context %zu", c);
        free(one);
        free(part);
    }
    free(all);
}

/* Threads, instruction sets of sae.h, and the kernels here; many contexts, so that slots are shared. */
static void test_bits(const char *folder) {
    static const char *const sets[] = { "portable", "avx2", "avx512", NULL };
    enum { MANY = 70 };
    float *first = NULL;
    for (int i = 0; i < 4; i++)
        for (int threads = 1; threads < 4; threads += 2) {
            sae_context_desc desc;
            sae_context *c = NULL;
            golden g;
            float *logits = NULL;
            int32_t *ids = (int32_t *)malloc(MANY * CTX * sizeof *ids);
            memset(&desc, 0, sizeof desc);
            desc.threads = threads;
            desc.instruction_set = sets[i];
            if (sae_context_create(&desc, &c) != SAE_OK) { /* not this CPU's */
                free(ids);
                continue;
            }
            if (open_golden(c, folder, &g)) {
                if (i == 0) g.model->kernels = &lmi_kernels_portable;
#if defined(LMI_X86)
                if (i == 1) g.model->kernels = &lmi_kernels_avx2;
#endif
                for (size_t j = 0; j < MANY * CTX; j++) ids[j] = g.ids[j % ROWS];
                logits = logits_of(c, g.model, ids, MANY, CTX);
                if (!first) first = logits;
                else
                    CHECK(logits && !memcmp(first, logits, MANY * CTX * g.vocab * sizeof *logits),
                          "%s, %d threads: other bits", sets[i] ? sets[i] : "best", threads);
                for (size_t j = ROWS; first && j < MANY * CTX; j += ROWS)
                    if (memcmp(first, first + j * g.vocab, ROWS * g.vocab * sizeof *first)) {
                        CHECK(false, "context %zu of many has other bits", j / CTX);
                        break;
                    }
            }
            if (logits != first) free(logits);
            close_golden(&g);
            sae_context_destroy(c);
            free(ids);
        }
    free(first);
}

/* A context in pieces through a cache: logits and rows of a hook are those of a whole pass. */
static void test_cache(const golden *g) {
    static const size_t pieces[] = { 1, 7, 2, 1, 13 };
    float *want = logits_of(ctx, g->model, g->ids, 1, CTX), *got, *rows[2];
    sae_lm_cache *cache = NULL;
    sae_lm_hook hook;
    size_t layers = sae_lm_config_of(g->model).layers, dim;
    int32_t padding[2] = { 1, -1 };
    sae_lm_forward_desc d;
    taken t, x;
    memset(&hook, 0, sizeof hook);
    hook.call = take_rows;
    hook.user = &x;
    hook.site.module = SAE_LM_LAYER;
    hook.site.layer = layers - 1;
    dim = sae_lm_site_dim(g->model, hook.site);
    for (int i = 0; i < 2; i++) rows[i] = (float *)malloc(CTX * dim * sizeof **rows);
    memset(&x, 0, sizeof x);
    x.data = rows[0];
    d = batch_of(g->ids, 1, CTX);
    d.hooks = &hook;
    d.num_hooks = 1;
    CHECK_OK(ctx, sae_lm_forward(g->model, &d), (void)0);
    got = (float *)malloc(CTX * g->vocab * sizeof *got);
    CHECK_OK(ctx, sae_lm_cache_create(g->model, CTX, &cache), return);
    for (int round = 0; round < 2; round++) {
        size_t at = round ? 8 : 0, i = round ? 2 : 0; /* the second time from the third piece on */
        if (round) sae_lm_cache_truncate(cache, 8);
        CHECK(sae_lm_cache_count(cache) == at, "%zu tokens", sae_lm_cache_count(cache));
        for (; i < 5; i++) {
            d = batch_of(g->ids + at, 1, pieces[i]);
            d.cache = cache;
            d.logits = take_logits;
            d.user = &t;
            d.hooks = &hook;
            d.num_hooks = 1;
            memset(&t, 0, sizeof t);
            memset(&x, 0, sizeof x);
            x.data = rows[1] + at * dim;
            t.data = got + at * g->vocab;
            t.width = g->vocab;
            if (i == 1) d.logits = NULL; /* the layers run all the same */
            CHECK_OK(ctx, sae_lm_forward(g->model, &d), break);
            if (i == 1) memcpy(t.data, want + at * g->vocab, pieces[i] * g->vocab * sizeof *got);
            at += pieces[i];
        }
        CHECK(want && !memcmp(got, want, CTX * g->vocab * sizeof *got), "logits of a cache: other bits");
        CHECK(!memcmp(rows[0], rows[1], CTX * dim * sizeof **rows), "rows of a cache: other bits");
    }
    d = batch_of(g->ids, 1, 1);
    d.cache = cache;
    CHECK(sae_lm_forward(g->model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "24"), "a full cache: %s",
          sae_error(ctx));
    sae_lm_cache_truncate(cache, 3);
    d = batch_of(padding, 1, 2);
    d.cache = cache;
    CHECK(sae_lm_forward(g->model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "-1"), "padding: %s",
          sae_error(ctx));
    d = batch_of(g->ids, 2, 1);
    d.cache = cache;
    CHECK(sae_lm_forward(g->model, &d) == SAE_ERR_INVALID, "two contexts in a cache");
    CHECK(sae_lm_cache_count(cache) == 3, "%zu tokens after refusals", sae_lm_cache_count(cache));
    sae_lm_cache_destroy(cache);
    free(want);
    free(got);
    free(rows[0]);
    free(rows[1]);
}

/* ---- generation ---- */

static sae_result see_token(void *user, int32_t id) {
    int32_t **at = (int32_t **)user;
    *(*at)++ = id;
    return SAE_OK;
}
static sae_result stop_at_once(void *user, int32_t id) {
    (void)user;
    (void)id;
    return SAE_ERR_CANCELLED;
}

static void test_generate(const golden *g) {
    enum { LONG = 600, COUNT = 8 };
    int32_t prompt[ROWS], want[COUNT], seen[COUNT + 1], *at = seen, *text;
    sae_lm_generate_desc d;
    sae_tokens out = { NULL, 0, 0 };
    sae_lm_hook hook;
    taken x;
    size_t first = 0;
    bool fixed = sae_lm_config_of(g->model).fixed_ctx;
    memset(&d, 0, sizeof d);
    d.prompt = prompt;
    d.num_prompt = whole(g, "prompt", prompt, ROWS);
    d.count = whole(g, "greedy", want, COUNT);
    d.token = see_token;
    d.user = &at;
    CHECK_OK(ctx, sae_lm_generate(g->model, &d, &out), return);
    CHECK(out.count == COUNT && !memcmp(out.id, want, sizeof want), "other tokens than transformers'");
    CHECK(at == seen + COUNT && !memcmp(seen, want, sizeof want), "token() saw others");
    /* a stop; what it appends to; a hook's rows: of the prompt, then one a token, but for the last */
    d.stop = want + 2;
    d.num_stop = 1;
    while (want[first] != want[2]) first++;
    memset(&hook, 0, sizeof hook);
    memset(&x, 0, sizeof x);
    hook.site.module = SAE_LM_LAYER;
    hook.call = take_rows;
    hook.user = &x;
    d.hooks = &hook;
    d.num_hooks = 1;
    at = seen;
    CHECK_OK(ctx, sae_lm_generate(g->model, &d, &out), return);
    CHECK(out.count == COUNT + first + 1 && !memcmp(out.id + COUNT, want, (first + 1) * sizeof *want),
          "%zu tokens, stopped at number %zu", out.count, first);
    CHECK(x.rows == d.num_prompt + first, "a hook saw %zu rows", x.rows);
    d.token = stop_at_once;
    CHECK(sae_lm_generate(g->model, &d, &out) == SAE_ERR_CANCELLED && out.count == COUNT + first + 2,
          "a callback's error: %s", sae_error(ctx));
    d.token = NULL;
    d.num_hooks = d.num_stop = 0;
    /* greedy is greedy by whole passes, also behind a prompt that runs in pieces */
    text = (int32_t *)malloc((LONG + COUNT) * sizeof *text);
    for (size_t i = 0; i < LONG; i++) text[i] = g->ids[i * 7 % ROWS];
    d.prompt = text;
    d.num_prompt = fixed ? 10 : LONG;
    out.count = 0;
    CHECK_OK(ctx, sae_lm_generate(g->model, &d, &out), return);
    for (size_t i = 0; i < COUNT && out.count == COUNT; i++) {
        size_t n = d.num_prompt + i;
        float *logits = logits_of(ctx, g->model, text, 1, n), *last = logits + (n - 1) * g->vocab;
        int32_t best = 0;
        for (size_t j = 1; j < g->vocab; j++)
            if (last[j] > last[best]) best = (int32_t)j;
        CHECK(best == out.id[i], "token %zu is %d, of a whole pass %d", i, out.id[i], best);
        text[n] = out.id[i];
        free(logits);
    }
    free(text);
    sae_tokens_free(&out);
}

/* Drawn tokens: with top_p against the plain way to choose, and how often each comes. */
static void test_draws(const golden *g) {
    enum { DRAWS = 4000 };
    sae_lm_generate_desc d;
    sae_tokens out = { NULL, 0, 0 };
    float *logits = logits_of(ctx, g->model, g->ids, 1, 6), *last = logits + 5 * g->vocab;
    double *p = (double *)malloc(g->vocab * sizeof *p), all = 0, kept = 0, chi = 0;
    size_t *count = (size_t *)calloc(g->vocab, sizeof *count), choices = 0, order[64];
    static const double tops[] = { 1, 0.7, 1e-9 };
    memset(&d, 0, sizeof d);
    d.prompt = g->ids;
    d.num_prompt = 6;
    d.count = 1;
    d.temperature = 2.5;
    for (size_t i = 0; i < g->vocab; i++) all += p[i] = exp((double)last[i] / d.temperature);
    for (size_t i = 0; i < g->vocab; i++) { /* the likeliest first */
        size_t at = i;
        for (; at > 0 && last[i] > last[order[at - 1]]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    for (int k = 0; k < 3; k++) {
        d.top_p = tops[k];
        kept = chi = 0;
        for (choices = 0; choices < g->vocab && kept < tops[k] * all * (1 - 1e-12); choices++)
            kept += p[order[choices]];
        memset(count, 0, g->vocab * sizeof *count);
        for (size_t i = 0; i < DRAWS; i++) {
            out.count = 0;
            d.seed = i * 31 + 5;
            CHECK_OK(ctx, sae_lm_generate(g->model, &d, &out), return);
            count[out.id[0]]++;
        }
        for (size_t i = 0; i < g->vocab; i++) {
            double want = i < choices ? DRAWS * p[order[i]] / kept : 0, had = (double)count[order[i]];
            if (i >= choices) CHECK(had == 0, "top_p %g draws token %zu", tops[k], order[i]);
            else chi += (had - want) * (had - want) / want;
        }
        CHECK(chi < (double)choices + 5 * sqrt(2.0 * (double)choices), "top_p %g: chi square %.1f of %zu", tops[k],
              chi, choices);
        CHECK(k < 2 || choices == 1, "top_p 1e-9 leaves %zu", choices);
    }
    d.top_p = 1.5;
    CHECK(sae_lm_generate(g->model, &d, &out) == SAE_ERR_INVALID && strstr(sae_error(ctx), "1.5"), "%s", sae_error(ctx));
    d.top_p = 0;
    d.temperature = NAN;
    CHECK(sae_lm_generate(g->model, &d, &out) == SAE_ERR_INVALID, "temperature NaN");
    d.temperature = 0;
    d.num_prompt = 0;
    CHECK(sae_lm_generate(g->model, &d, &out) == SAE_ERR_INVALID, "no prompt");
    sae_tokens_free(&out);
    free(logits);
    free(p);
    free(count);
}

/* ---- other files ---- */

enum { MOST = 400 };
static sae_tensor edited[MOST];
static char names[MOST][160];

/* A folder with this config.json and the tensors of `edited`. */
static const char *write_model(const char *config, size_t size, size_t count) {
    const char *folder = check_path("%s/model", check_temp());
    mkdir(folder, 0777);
    check_write(check_path("%s/config.json", folder), config, size);
    CHECK_OK(ctx, sae_tensor_file_write(ctx, check_path("%s/model.safetensors", folder), edited, count), (void)0);
    return folder;
}

/* The tensors of a family into `edited`, under names that may be changed. */
static size_t take_tensors(const char *family, sae_tensor_file **file) {
    size_t n = 0;
    CHECK_OK(ctx, sae_tensor_file_open(ctx, place(family, "model.safetensors"), file), return 0);
    for (; n < sae_tensor_file_count(*file) && n < MOST; n++) {
        edited[n] = *sae_tensor_file_get(*file, n);
        snprintf(names[n], sizeof names[n], "%s", edited[n].name);
        edited[n].name = names[n];
    }
    return n;
}

/* Every name's beginning: `from` becomes `to`. */
static void rename_all(size_t n, const char *from, const char *to) {
    for (size_t i = 0; i < n; i++) {
        char name[160];
        if (strncmp(names[i], from, strlen(from)) != 0) continue;
        snprintf(name, sizeof name, "%s%s", to, names[i] + strlen(from));
        snprintf(names[i], sizeof names[i], "%s", name);
    }
}

static void same_bits(const golden *g, const char *folder, const char *what) {
    float *want = logits_of(ctx, g->model, g->ids, CONTEXTS, CTX), *got = NULL;
    sae_lm *model = NULL;
    CHECK_OK(ctx, sae_lm_open(ctx, folder, &model), free(want); return);
    got = logits_of(ctx, model, g->ids, CONTEXTS, CTX);
    CHECK(got && want && !memcmp(got, want, ROWS * g->vocab * sizeof *got), "%s: other bits", what);
    free(got);
    free(want);
    sae_lm_close(model);
}

static void test_files(const golden *g, const char *family) {
    static float zeros[64];
    sae_tensor_file *file = NULL;
    size_t size = 0, other_size = 0, n;
    char *config = check_read(place(family, "config.json"), &size);
    char *other = check_read(place(family, "other.json"), &other_size);
    bool gpt = sae_lm_config_of(g->model).fixed_ctx, multi = !strcmp(family, "gemma3mm");
    const char *base = gpt ? "transformer." : multi ? "model.language_model." : "model.";
    n = take_tensors(family, &file);
    if (multi && strncmp(names[0], "language_model", 14) == 0) base = "language_model.model.";
    same_bits(g, write_model(other, other_size, n), "the other spelling of config.json");
    /* buffers of old files; a head in the file of a tied model */
    for (size_t i = 0; i < 3; i++) {
        sae_tensor *t = &edited[n + i];
        memset(t, 0, sizeof *t);
        snprintf(names[n + i], sizeof names[n], "%s%s", base,
                 i == 0 ? (gpt ? "h.0.attn.bias" : "layers.0.self_attn.rotary_emb.inv_freq")
                        : i == 1 ? (gpt ? "h.0.attn.masked_bias" : "rotary_emb.inv_freq") : "odds.and.ends");
        t->name = names[n + i];
        t->ndim = 1;
        t->shape[0] = i + 1;
        t->stride[0] = 1;
        t->data = zeros;
    }
    same_bits(g, write_model(config, size, n + 3), "with old buffers");
    rename_all(n, base, "");
    same_bits(g, write_model(config, size, n), "names without what is in front");
    rename_all(n, "", "");
    sae_tensor_file_close(file);
    if (multi) {
        n = take_tensors(family, &file);
        rename_all(n, base, strcmp(base, "model.language_model.") ? "model.language_model." : "language_model.model.");
        same_bits(g, write_model(config, size, n), "the other form of a model of text and images");
        sae_tensor_file_close(file);
    }
    free(config);
    free(other);
}

/* Each tensor left out, then of another shape: refused, and named. */
static void test_missing(const char *family) {
    sae_tensor_file *file = NULL;
    size_t size = 0, n, refused = 0;
    char *config = check_read(place(family, "config.json"), &size);
    n = take_tensors(family, &file);
    for (size_t i = 0; i < n; i++)
        for (int shape = 0; shape < 2; shape++) {
            sae_tensor keep = edited[i];
            sae_lm *model = NULL;
            const char *folder;
            sae_result result;
            if (strstr(keep.name, "vision") || strstr(keep.name, "multi_modal")) continue;
            if (shape) {
                edited[i].ndim = 1;
                edited[i].shape[0] = keep.ndim == 2 ? keep.shape[0] * keep.shape[1] : keep.shape[0] / 2;
                edited[i].stride[0] = 1;
                folder = write_model(config, size, n);
            } else {
                edited[i] = edited[n - 1];
                folder = write_model(config, size, n - 1);
            }
            result = sae_lm_open(ctx, folder, &model);
            edited[i] = keep;
            /* where all names begin otherwise, another prefix is asked for; the end is the same */
            CHECK(result == SAE_ERR_FORMAT && !model && strstr(sae_error(ctx), strrchr(keep.name, '.') - 3)
                      && (strstr(keep.name, "embed") || strstr(keep.name, "wte") || strstr(sae_error(ctx), keep.name)),
                  "%s %s: %s, %s", keep.name, shape ? "misshapen" : "missing", sae_result_name(result), sae_error(ctx));
            refused += result != SAE_OK;
            sae_lm_close(model);
        }
    CHECK(refused >= 20, "%zu refused", refused);
    sae_tensor_file_close(file);
    free(config);
}

/* Settings that are not known, put in front of the others in config.json. The key stands once: what is there already
   gets another name. */
static void test_settings(void) {
    static const struct {
        const char *family, *key, *value;
        sae_result result;
        const char *says[3];
    } cases[] = {
        { "llama", "model_type", "\"mamba\"", SAE_ERR_UNSUPPORTED, { "mamba", "llama", "gemma3_text" } },
        { "llama", "model_type", "7", SAE_ERR_UNSUPPORTED, { "model_type", "missing", "gpt_neox" } },
        { "llama", "quantization_config", "{\"quant_method\": \"gptq\"}", SAE_ERR_UNSUPPORTED, { "gptq", "quant", "BF16" } },
        { "gemma3mm", "quantization_config", "{}", SAE_ERR_UNSUPPORTED, { "quant", "quant", "quant" } },
        { "llama", "hidden_act", "\"swoosh\"", SAE_ERR_UNSUPPORTED, { "swoosh", "hidden_act", "silu" } },
        { "gpt2", "activation_function", "null", SAE_OK, { "", "", "" } },
        { "llama", "rope_scaling", "{\"rope_type\": \"spiral\"}", SAE_ERR_UNSUPPORTED, { "spiral", "linear", "llama3" } },
        { "llama", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4}", SAE_ERR_UNSUPPORTED, { "yarn", "linear", "llama3" } },
        { "llama", "rope_scaling", "{\"type\": \"linear\"}", SAE_ERR_FORMAT, { "factor", "missing", "linear" } },
        { "llama", "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 4, \"low_freq_factor\": 4, "
          "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 9}", SAE_ERR_FORMAT, { "high_freq_factor", "4", "low" } },
        { "llama", "rope_parameters", "{\"rope_type\": \"spiral\", \"rope_theta\": 10000}", SAE_ERR_UNSUPPORTED, { "spiral", "", "" } },
        { "llama", "num_key_value_heads", "3", SAE_ERR_FORMAT, { "num_key_value_heads", "3", "4" } },
        { "llama", "num_attention_heads", "0", SAE_ERR_FORMAT, { "num_attention_heads", "0", "1" } },
        { "llama", "num_hidden_layers", "3", SAE_ERR_FORMAT, { "layers.2", "", "" } },
        { "llama", "hidden_size", "48", SAE_ERR_FORMAT, { "48", "24", "" } },
        { "llama", "head_dim", "1e300", SAE_ERR_FORMAT, { "head_dim", "", "" } },
        { "llama", "tie_word_embeddings", "false", SAE_ERR_FORMAT, { "lm_head.weight", "", "" } },
        { "llama", "attention_bias", "true", SAE_ERR_FORMAT, { "q_proj.bias", "", "" } },
        { "llama", "mlp_bias", "true", SAE_ERR_FORMAT, { "gate_proj.bias", "", "" } },
        { "gemma2", "use_bidirectional_attention", "true", SAE_ERR_UNSUPPORTED, { "use_bidirectional_attention", "", "" } },
        { "gemma2", "layer_types", "[\"full_attention\"]", SAE_ERR_FORMAT, { "layer_types", "1", "3" } },
        { "gemma2", "layer_types", "[\"full_attention\", \"linear_attention\", \"full_attention\"]", SAE_ERR_UNSUPPORTED,
          { "linear_attention", "layer 1", "" } },
        { "gpt2", "add_cross_attention", "true", SAE_ERR_UNSUPPORTED, { "add_cross_attention", "", "" } },
        { "gpt_neo", "attention_types", "[[[], 1e300], [[\"global\"], 1e300]]", SAE_ERR_FORMAT, { "attention_types", "2", "" } },
        { "mixtral", "num_experts_per_tok", "5", SAE_ERR_FORMAT, { "num_experts_per_tok", "5", "4" } }
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_tensor_file *file = NULL;
        sae_lm *model = NULL;
        size_t n = take_tensors(cases[i].family, &file);
        char *config = check_read(place(cases[i].family, "config.json"), NULL), *at, key[80];
        char *text = (char *)malloc(strlen(config) + 1024);
        sae_result result;
        bool says = true;
        snprintf(key, sizeof key, "\"%s\"", cases[i].key);
        at = strstr(config, key);
        if (at) at[1] = '_';
        sprintf(text, "{ %s: %s,%s", key, cases[i].value, strchr(config, '{') + 1);
        result = sae_lm_open(ctx, write_model(text, strlen(text), n), &model);
        for (int j = 0; j < 3 && result != SAE_OK; j++) says = says && strstr(sae_error(ctx), cases[i].says[j]);
        CHECK(result == cases[i].result && says && !strchr(sae_error(ctx), '\n'), "%s with %s %s: %s, %s", cases[i].family,
              cases[i].key, cases[i].value, sae_result_name(result), sae_error(ctx));
        sae_lm_close(model);
        sae_tensor_file_close(file);
        free(config);
        free(text);
    }
}

/* What is asked of a model that opened. */
static void test_requests(void) {
    static const struct {
        const char *family, *name;
        bool input;
        const char *says;
    } cases[] = {
        { "gemma2", "gpt_neox.layers.1", false, "model.layers.N" }, { "gemma2", "model.layers.99", false, "0 to 2" },
        { "gemma2", "model.layers.1.", false, "model.layers.N" }, { "gemma2", "layers.1x", false, "model.layers.N" },
        { "gpt2", "model.layers.0", false, "transformer.h.N" }, { "gpt2", "transformer.h.0.self_attn", false, "c_attn" },
        { "llama", "blocks.0.hook_nonsense", false, "hook_resid_mid" }, { "llama", "blocks.9.hook_z", false, "blocks" },
        { "llama", "blocks.0.hook_mlp_in", false, "Gemma Scope" }, { "llama", "blocks.0.hook_resid_post", true, "an output" },
        { "llama", "model.layers.0.pre_feedforward_layernorm", false, "post_attention_layernorm" },
        { "llama", "model.embed_tokens", true, "allowed is its output" }, { "llama", "lm_head", false, "model.norm" },
        { "gemma3", "model.language_model.layers.0", false, "model.layers.N" },
        { "mixtral", "model.layers.0.mlp.down_proj", false, "hook_mlp_out" },
        { "mixtral", "blocks.1.mlp.hook_post", false, "hook_mlp_out" },
        { "gemma3mm", "vision_tower.encoder", false, "model.layers.N" }
    };
    golden g;
    int32_t bad[3] = { 1, -1, 2 };
    sae_lm_forward_desc d;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_lm_site site;
        sae_result result;
        if (!open_golden(ctx, cases[i].family, &g)) continue;
        result = sae_lm_site_find(g.model, cases[i].name, cases[i].input, &site);
        CHECK(result != SAE_OK && strstr(sae_error(ctx), cases[i].says) && strlen(sae_error(ctx)) < 1000, "%s: %s",
              cases[i].name, sae_error(ctx));
        close_golden(&g);
    }
    if (!open_golden(ctx, "gpt2", &g)) return;
    d = batch_of(g.ids, 1, 25);
    CHECK(sae_lm_forward(g.model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "24"), "25 positions of 24: %s",
          sae_error(ctx));
    d = batch_of(bad, 1, 3);
    CHECK(sae_lm_forward(g.model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "-1"), "padding in the middle: %s",
          sae_error(ctx));
    bad[1] = 41;
    CHECK(sae_lm_forward(g.model, &d) == SAE_ERR_INVALID && strstr(sae_error(ctx), "41"), "id 41 of 41: %s",
          sae_error(ctx));
    close_golden(&g);
}

/* ---- source ---- */

/* Two sites of a model in one reading, their streams read apart, back to the start, and all at once. */
static void test_source(const golden *g) {
    enum { DIM = 32 };
    sae_lm_site sites[2];
    sae_lm_source_desc d;
    sae_lm_source *source = NULL;
    sae_source_desc rows[2];
    float *want[2], *got = (float *)malloc(ROWS * DIM * sizeof *got);
    const float *x[2];
    const uint64_t *places;
    size_t n, at;
    CHECK_OK(ctx, sae_lm_site_find(g->model, "blocks.0.hook_resid_post", false, &sites[0]), return);
    CHECK_OK(ctx, sae_lm_site_find(g->model, "blocks.1.attn.hook_z", false, &sites[1]), return);
    memset(&d, 0, sizeof d);
    d.model = g->model;
    d.tokens = g->ids;
    d.contexts = 6;
    d.ctx = 8;
    d.sites = sites;
    d.num_sites = 2;
    d.batch = 2;
    for (size_t i = 0; i < 2; i++) { /* as one pass over all gives them */
        sae_lm_forward_desc run = batch_of(g->ids, 6, 8);
        sae_lm_hook hook;
        taken t;
        memset(&t, 0, sizeof t);
        hook.site = sites[i];
        hook.call = take_rows;
        hook.user = &t;
        t.data = want[i] = (float *)malloc(ROWS * DIM * sizeof(float));
        run.hooks = &hook;
        run.num_hooks = 1;
        CHECK_OK(ctx, sae_lm_forward(g->model, &run), (void)0);
    }
    CHECK_OK(ctx, sae_lm_source_create(ctx, &d, &source), return);
    for (size_t i = 0; i < 2; i++) rows[i] = sae_lm_source_rows(source, i);
    memset(sites, 0, sizeof sites); /* were copied */
    for (int pass = 0; pass < 3; pass++)
        for (size_t i = 0; i < 2; i++) { /* one far ahead of the other; the last pass leaves off in the middle */
            int64_t had;
            size_t dim = rows[i].dim, most = pass == 2 ? 20 : ROWS;
            CHECK(dim <= DIM, "rows of %zu", dim);
            for (at = 0; at < most && (had = rows[i].read(rows[i].user, got, NULL, 7)) > 0; at += (size_t)had) {
                CHECK(!memcmp(got, want[i] + at * dim, (size_t)had * dim * sizeof *got), "pass %d, site %zu: row %zu",
                      pass, i, at);
                CHECK(sae_lm_source_place(source, i, 0) == at, "row %zu is of place %zu", at,
                      (size_t)sae_lm_source_place(source, i, 0));
            }
            if (pass < 2) CHECK(at == ROWS && rows[i].read(rows[i].user, got, NULL, 7) == 0, "%zu rows", at);
            CHECK_OK(ctx, rows[i].rewind(rows[i].user), (void)0);
        }
    CHECK_OK(ctx, sae_lm_source_rewind(source), (void)0);
    for (at = 0;; at += n) {
        CHECK_OK(ctx, sae_lm_source_next(source, x, NULL, &places, &n), break);
        if (!n) break;
        for (size_t i = 0; i < 2; i++)
            CHECK(!memcmp(x[i], want[i] + at * rows[i].dim, n * rows[i].dim * sizeof(float)) && places[0] == at,
                  "all at once, site %zu: row %zu", i, at);
    }
    CHECK(at == ROWS, "%zu rows", at);
    sae_lm_source_destroy(source);
    free(want[0]);
    free(want[1]);
    free(got);
}

typedef struct reader {
    const int32_t *ids;
    size_t given;
} reader;
static int64_t read_contexts(void *user, int32_t *tokens, size_t max) {
    reader *r = (reader *)user;
    size_t n = 6 - r->given < max ? 6 - r->given : max;
    memcpy(tokens, r->ids + r->given * 8, n * 8 * sizeof *tokens);
    r->given += n;
    return (int64_t)n;
}
static sae_result rewind_contexts(void *user) {
    ((reader *)user)->given = 0;
    return SAE_OK;
}

/* The same from a callback, which cannot go back for one alone. */
static void test_reader(const golden *g) {
    sae_lm_site sites[2];
    sae_lm_source_desc d;
    sae_lm_source *source = NULL;
    sae_source_desc rows[2];
    reader r;
    float *x = (float *)malloc(ROWS * 24 * sizeof *x);
    int64_t n[2] = { 0, 0 };
    r.ids = g->ids;
    r.given = 0;
    memset(&d, 0, sizeof d);
    memset(sites, 0, sizeof sites);
    sites[0].module = SAE_LM_LAYER;
    sites[1].module = SAE_LM_FINAL_NORM;
    d.model = g->model;
    d.read = read_contexts;
    d.rewind = rewind_contexts;
    d.user = &r;
    d.ctx = 8;
    d.sites = sites;
    d.num_sites = 2;
    d.batch = 4;
    CHECK_OK(ctx, sae_lm_source_create(ctx, &d, &source), return);
    for (size_t i = 0; i < 2; i++) rows[i] = sae_lm_source_rows(source, i);
    for (int64_t had; (had = rows[0].read(rows[0].user, x, NULL, ROWS)) > 0;) n[0] += had;
    CHECK_OK(ctx, rows[0].rewind(rows[0].user), (void)0);
    CHECK(rows[0].read(rows[0].user, x, NULL, ROWS) == SAE_ERR_UNSUPPORTED, "one goes back alone");
    for (int64_t had; (had = rows[1].read(rows[1].user, x, NULL, ROWS)) > 0;) n[1] += had;
    CHECK(n[0] == ROWS && n[1] == ROWS, "%d and %d rows", (int)n[0], (int)n[1]);
    CHECK(rows[0].read(rows[0].user, x, NULL, ROWS) == 32, "no second pass");
    CHECK_OK(ctx, rows[1].rewind(rows[1].user), (void)0);
    CHECK(rows[1].read(rows[1].user, x, NULL, ROWS) == 32, "the other does not follow");
    sae_lm_source_destroy(source);
    free(x);
}

int main(void) {
    ctx = check_context(1); /* small; test_bits has more threads */
    for (size_t i = 0; i < FAMILIES; i++) {
        golden g;
        check_test = families[i];
        if (!open_golden(ctx, families[i], &g)) continue;
        test_logits(&g);
        test_rows(&g);
        test_changes(&g, families[i]);
        test_company(&g);
        test_bits(families[i]);
        test_cache(&g);
        test_generate(&g);
        test_source(&g);
        test_files(&g, families[i]);
        test_missing(families[i]);
        if (i == 0) test_reader(&g);
        if (!strcmp(families[i], "qwen3")) test_draws(&g);
        close_golden(&g);
    }
    check_test = "settings";
    test_settings();
    check_test = "requests";
    test_requests();
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
