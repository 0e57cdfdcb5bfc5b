/*  Proves: sae_features.h and page.h on a small model: losses with a dictionary in the way, what the one
    pass keeps, and that a page holds its texts as text.

    Oracle: the losses PyTorch gives with the same model, text and dictionaries (make_features_fixtures.py,
    tolerance 1e-5: float32 sums in another order); for the pass, the latents of
    all rows taken at once and looked through naively (tolerance 1e-5, for the same reason); for the page, a reading of its bytes. Needs no Python. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"
#define FEATURES_IMPLEMENTATION
#include "tools/sae_features.h"
#define PAGE_IMPLEMENTATION
#include "tools/page.h"
#include "check.h"

enum { CTX = 32, D = 24, M = 40 };

static sae_context *ctx;
static sae_lm *model;
static sae_tokenizer *tokenizer;
static sae_contexts contexts;
static features_text text;

static sae_dictionary *open_dictionary(const char *name) {
    sae_dictionary *dict = NULL;
    CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, check_path("tests/fixtures/%s", name), &dict),
             return NULL);
    return dict;
}

static sae_result find_place(const sae_dictionary *dict, const char *submodule, const char *io,
                             features_place *out) {
    features_where where;
    memset(&where, 0, sizeof where);
    where.submodule = submodule;
    where.io = io;
    return features_place_find(ctx, model, dict, &where, out);
}

static features_place place_of(const sae_dictionary *dict) {
    features_place place;
    memset(&place, 0, sizeof place);
    CHECK_OK(ctx, find_place(dict, "gpt_neox.layers.0", "out", &place), return place);
    return place;
}

static void test_losses(void) {
    static const char *const kinds[] = { "top_k", "jumprelu" };
    const sae_dictionary *dicts[2];
    features_losses losses[2];
    features_metrics metrics[2];
    features_judge_desc how;
    sae_json *root = NULL;
    uint64_t rows = 0;
    int i;
    check_test = "losses";
    memset(&how, 0, sizeof how);
    CHECK_OK(ctx, sae_json_open(ctx, check_path("tests/fixtures/lm/expected.json"), &root), return);
    dicts[0] = open_dictionary("lm/top_k");
    dicts[1] = open_dictionary("lm/jumprelu");
    if (!dicts[0] || !dicts[1]) return;
    CHECK_OK(ctx, features_loss_recovered(ctx, model, &text, place_of(dicts[0]), dicts, 2, NULL,
                                          losses), return);
    CHECK_OK(ctx, features_judge(ctx, model, &text, place_of(dicts[0]), dicts, 2, &how, NULL,
                                 metrics, &rows), return);
    CHECK(rows == text.contexts * CTX, "%.0f rows judged", (double)rows);
    for (i = 0; i < 2; i++) {
        const sae_json *want = sae_json_get(sae_json_get(root, "runs"), kinds[i]);
        double got[4];
        static const char *const keys[] = { "loss_original", "loss_reconstructed", "loss_zero",
                                            "frac_recovered" };
        int k;
        got[0] = losses[i].original;
        got[1] = losses[i].reconstructed;
        got[2] = losses[i].zero;
        got[3] = losses[i].frac_recovered;
        for (k = 0; k < 4; k++)
            CHECK(fabs(got[k] - sae_json_number(sae_json_get(want, keys[k]))) < 1e-5,
                  "%s: %s is %.7f, want %.7f", kinds[i], keys[k], got[k],
                  sae_json_number(sae_json_get(want, keys[k])));
        CHECK(losses[i].tokens == (uint64_t)sae_json_number(sae_json_get(root, "tokens")), "tokens");
        CHECK(metrics[i].losses.reconstructed == losses[i].reconstructed
              && metrics[i].losses.zero == losses[i].zero, "judge gives the same losses");
        CHECK(metrics[i].rows.l0 > 1 && metrics[i].rows.l0 < 12, "L0 is %.2f",
              metrics[i].rows.l0);
        sae_dictionary_destroy((sae_dictionary *)dicts[i]);
    }
    sae_json_close(root);
}

/* All rows at the place, and their latents. */
static sae_result keep_rows(void *user, float *x, size_t rows, size_t dim) {
    memcpy(user, x, rows * dim * sizeof *x);
    return SAE_OK;
}

static float *all_latents(const sae_dictionary *dict) {
    size_t rows = text.contexts * CTX;
    float *x = (float *)malloc(rows * D * sizeof *x), *f = (float *)malloc(rows * M * sizeof *f);
    sae_lm_hook hook;
    sae_lm_forward_desc desc;
    memset(&hook, 0, sizeof hook);
    memset(&desc, 0, sizeof desc);
    hook.site = place_of(dict).out;
    hook.call = keep_rows;
    hook.user = x;
    desc.tokens = text.tokens;
    desc.contexts = text.contexts;
    desc.ctx = CTX;
    desc.hooks = &hook;
    desc.num_hooks = 1;
    CHECK_OK(ctx, sae_lm_forward(model, &desc), return NULL);
    CHECK_OK(ctx, sae_encode(dict, x, rows, f), return NULL);
    free(x);
    return f;
}

static void check_feature(const features *p, const float *f, size_t latent) {
    size_t rows = text.contexts * CTX, r, c, n, i;
    uint64_t count = 0, bars = 0;
    double sum = 0, max = 0, width, best[8] = { 0 };
    uint32_t bar[FEATURES_BARS];
    features_stats s = features_get(p, latent);
    features_example examples[FEATURES_MAX_KEPT];
    for (r = 0; r < rows; r++) {
        double v = (double)f[r * M + latent];
        count += v != 0;
        sum += v;
        if (v > max) max = v;
    }
    CHECK(s.count == count, "feature %zu fires %.0f times, want %.0f", latent, (double)s.count,
          (double)count);
    if (!count) return;
    CHECK_REL(s.mean, sum / (double)count, 1e-5, "mean");
    CHECK_REL(s.max, max, 1e-6, "max");
    n = features_histogram(p, latent, bar, &width);
    for (i = 0; i < n; i++) bars += bar[i];
    CHECK(bars == count && (double)n * width >= max && (double)(n - 1) * width <= max * 1.0001,
          "a histogram of %zu bars of %g holds %.0f", n, width, (double)bars);
    for (c = 0; c < text.contexts; c++) { /* the largest value of each context, the eight largest */
        double peak = 0;
        for (r = c * CTX; r < (c + 1) * CTX; r++)
            if ((double)f[r * M + latent] > peak) peak = (double)f[r * M + latent];
        for (i = 8; i-- > 0 && peak > best[i];) {
            if (i < 7) best[i + 1] = best[i];
            best[i] = peak;
        }
    }
    n = features_examples(p, latent, false, examples);
    for (i = 0; i < 8; i++)
        CHECK(i < n ? (double)examples[i].value == best[i] : best[i] == 0,
              "example %zu of feature %zu", i, latent);
    n += features_examples(p, latent, true, examples + n);
    for (i = 0; i < n; i++)
        for (r = examples[i].begin; r < examples[i].end; r++)
            CHECK(examples[i].values[r - examples[i].begin]
                      == f[(examples[i].context * CTX + r) * M + latent],
                  "value of token %zu of an example", r);
}

/* Top tokens by mean: naive, over every token of the vocabulary. */
static void check_tokens(const features *p, const float *f, size_t latent) {
    size_t vocab = sae_lm_config_of(model).vocab_size, rows = text.contexts * CTX, r, t;
    double *sum = (double *)calloc(vocab, sizeof *sum), best = 0;
    uint32_t *count = (uint32_t *)calloc(vocab, sizeof *count);
    features_token got[4];
    size_t n = features_tokens(p, latent, 2, got, 4);
    for (r = 0; r < rows; r++) {
        sum[text.tokens[r]] += (double)f[r * M + latent];
        count[text.tokens[r]]++;
    }
    for (t = 0; t < vocab; t++)
        if (count[t] >= 2 && sum[t] / count[t] > best) best = sum[t] / count[t];
    if (best > 0) CHECK_REL(n ? got[0].mean : 0, best, 1e-5, "mean of the first token");
    for (t = 0; t + 1 < n; t++) CHECK(got[t].mean >= got[t + 1].mean, "tokens in order");
    free(sum);
    free(count);
}

static void test_pass(void) {
    sae_dictionary *dict = open_dictionary("lm/top_k");
    features_desc desc;
    features *p = NULL;
    uint32_t latents[M];
    features_pursued pursued;
    float *f;
    size_t i, n;
    double last = 1e30;
    check_test = "pass";
    if (!dict) return;
    memset(&desc, 0, sizeof desc);
    desc.dict = dict;
    desc.place = place_of(dict);
    desc.ctx = CTX;
    desc.vocab_size = sae_lm_config_of(model).vocab_size;
    CHECK_OK(ctx, features_create(ctx, &desc, &p), return);
    CHECK_OK(ctx, features_collect(model, &text, &p, 1, NULL), return);
    f = all_latents(dict);
    if (!f) return;
    CHECK(features_rows(p) == text.contexts * CTX, "rows");
    for (i = 0; i < M; i++) {
        check_feature(p, f, i);
        check_tokens(p, f, i);
    }
    n = features_rank(p, latents, M);
    for (i = 0; i < n; i++) {
        CHECK(features_get(p, latents[i]).energy <= last, "ranked by energy");
        last = features_get(p, latents[i]).energy;
    }
    CHECK_OK(ctx, features_pursuit(p, &pursued), return);
    CHECK(pursued.rows > 100 && pursued.pursuit > 0.3 && pursued.pursuit < 1
          && pursued.encoder < 1, "pursuit explains %.3f, the encoder %.3f", pursued.pursuit,
          pursued.encoder);
    free(f);
    features_destroy(p);
    sae_dictionary_destroy(dict);
}

static void test_strings(void) {
    static const struct {
        const char *text, *want;
        size_t size;
    } cases[] = {
        { "</script>", "\"\\u003c/script\\u003e\"", 9 },
        { "a\"b\\c'd&", "\"a\\\"b\\\\c\\u0027d\\u0026\"", 8 },
        { "\x01\n\x7f", "\"\\u0001\\u000a\\u007f\"", 3 },
        { "\0x", "\"\\u0000x\"", 2 },
        { "\xe2\x80\xa8\xe2\x80\xa9", "\"\\u2028\\u2029\"", 6 },
        { "\xe6\x97\xa5", "\"\xe6\x97\xa5\"", 3 },
        { "\xe6\x97", "\"\\u003c0xE6>\\u003c0x97>\"", 2 },
        { "\xc0\xaf", "\"\\u003c0xC0>\\u003c0xAF>\"", 2 },         /* overlong */
        { "\xed\xa0\x80", "\"\\u003c0xED>\\u003c0xA0>\\u003c0x80>\"", 3 }, /* a surrogate */
        { "\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\"", 4 }
    };
    char path[900];
    size_t i;
    check_test = "strings";
    snprintf(path, sizeof path, "%s/string", check_temp());
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        FILE *out = fopen(path, "wb");
        size_t size = 0;
        char *got;
        page_put_string(out, cases[i].text, cases[i].size);
        fclose(out);
        got = check_read(path, &size);
        CHECK(got && strcmp(got, cases[i].want) == 0, "%s, want %s", got ? got : "", cases[i].want);
        free(got);
    }
}

/* One page with both dictionaries: its data end where they should, and are JSON. */
static void test_page(void) {
    static const char *const kinds[] = { "top_k", "jumprelu" };
    sae_dictionary *dicts[2];
    features *passes[2] = { NULL, NULL };
    page_run runs[2];
    page_desc desc;
    char path[900], json[900];
    char *page, *data, *end;
    uint32_t latents[M];
    size_t size = 0;
    sae_json *root = NULL;
    FILE *file;
    int i;
    check_test = "page";
    memset(runs, 0, sizeof runs);
    memset(&desc, 0, sizeof desc);
    dicts[0] = open_dictionary("lm/top_k");
    dicts[1] = open_dictionary("lm/jumprelu");
    if (!dicts[0] || !dicts[1]) return;
    for (i = 0; i < 2; i++) {
        features_desc how;
        memset(&how, 0, sizeof how);
        how.dict = dicts[i];
        how.place = place_of(dicts[i]);
        how.ctx = CTX;
        how.vocab_size = sae_lm_config_of(model).vocab_size;
        CHECK_OK(ctx, features_create(ctx, &how, &passes[i]), return);
        runs[i].name = kinds[i];
        runs[i].trainer = "";
        runs[i].submodule = "gpt_neox.layers.0";
        runs[i].io = "out";
        runs[i].f = passes[i];
        runs[i].dict = dicts[i];
        runs[i].place = how.place;
        runs[i].metrics.losses.original = (double)NAN;
        runs[i].log_trainer = -1;
    }
    CHECK_OK(ctx, features_collect(model, &text, passes, 2, NULL), return);
    desc.model = model;
    desc.tokenizer = tokenizer;
    desc.model_name = "</script><script>window.hacked = 2</script>";
    desc.text_name = "\"'\x01\xff";
    desc.text = text;
    desc.runs = runs;
    desc.num_runs = 2;
    snprintf(path, sizeof path, "%s/page.html", check_temp());
    CHECK_OK(ctx, page_write(ctx, &desc, path), return);
    page = check_read(path, &size);
    CHECK(page && strlen(page) == size, "no NUL on the page");
    data = page ? strstr(page, "id=\"data\">\n") : NULL;
    CHECK(data != NULL, "the page holds data");
    if (data) {
        data += strlen("id=\"data\">\n");
        end = strstr(data, "</script>");
        CHECK(end && !memchr(data, '<', (size_t)(end - data)), "nothing in the data ends a script");
        snprintf(json, sizeof json, "%s/data.json", check_temp());
        file = fopen(json, "wb");
        fwrite(data, 1, (size_t)(end - data), file);
        fclose(file);
        CHECK_OK(ctx, sae_json_open(ctx, json, &root), return);
        CHECK(sae_json_count(sae_json_get(root, "runs")) == 2, "two runs");
        CHECK(strcmp(sae_json_text(sae_json_get(root, "model")), desc.model_name) == 0,
              "the model's name comes back as it was");
        sae_json_close(root);
    }
    for (i = 0; i < 2; i++) {
        snprintf(json, sizeof json, "%s/page.%d.json", check_temp(), i);
        CHECK_OK(ctx, sae_json_open(ctx, json, &root), return);
        CHECK(sae_json_count(sae_json_get(root, "features")) == features_rank(passes[i], latents, M),
              "every feature that fires is in Neuronpedia's file");
        sae_json_close(root);
    }
    CHECK(page_write(ctx, &desc, "no/such/folder/page.html") == SAE_ERR_IO
          && strstr(sae_error(ctx), "no/such/folder"), "a folder that is missing: %s",
          sae_error(ctx));
    for (i = 0; i < 2; i++) {
        features_destroy(passes[i]);
        sae_dictionary_destroy(dicts[i]);
    }
    free(page);
}

static void test_places(void) {
    sae_dictionary *dict = open_dictionary("lm/top_k");
    features_place place;
    features_losses losses;
    const sae_dictionary *list[1];
    features_text none = text;
    check_test = "places";
    if (!dict) return;
    list[0] = dict;
    CHECK(find_place(dict, "gpt_neox.layers.9", "out", &place) == SAE_ERR_NOT_FOUND
          && strstr(sae_error(ctx), "gpt_neox.layers"), "%s", sae_error(ctx));
    CHECK(find_place(dict, "gpt_neox.layers.0", "side", &place) == SAE_ERR_INVALID
          && strstr(sae_error(ctx), "in_and_out"), "%s", sae_error(ctx));
    CHECK(find_place(dict, "gpt_neox.layers.0.mlp.dense_4h_to_h", "in", &place)
          == SAE_ERR_MISMATCH && strstr(sae_error(ctx), "48") && strstr(sae_error(ctx), "24"), "%s",
          sae_error(ctx));
    none.contexts = 0;
    CHECK(features_loss_recovered(ctx, model, &none, place_of(dict), list, 1, NULL, &losses)
          == SAE_ERR_INVALID, "%s", sae_error(ctx));
    sae_dictionary_destroy(dict);
}

/* ---- parts of rows ---- */

/* Which rows and columns are the dictionary's, said one by one. */
typedef struct view {
    size_t from, width;
    bool centred, has[CTX];
    int32_t skipped;
    const sae_dictionary *dict; /* NULL: zeros */
    float *rows;                /* those seen, one after the other; NULL: not kept */
    size_t num;
} view;

static sae_result naive_patch(void *user, float *x, size_t rows, size_t dim) {
    view *v = (view *)user;
    size_t r, j;
    for (r = 0; r < rows; r++) {
        float own[D], back[D] = { 0 }, *at = x + r * dim + v->from;
        double mean = 0;
        if (!v->has[r % CTX] || text.tokens[r] == v->skipped) continue;
        for (j = 0; j < v->width; j++) mean += (double)at[j];
        mean = v->centred ? mean / (double)v->width : 0;
        for (j = 0; j < v->width; j++) own[j] = (float)((double)at[j] - mean);
        if (v->rows) memcpy(v->rows + v->num++ * v->width, own, v->width * sizeof *own);
        if (v->dict && sae_forward(v->dict, own, 1, back, NULL) != SAE_OK) return SAE_ERR_INVALID;
        memcpy(at, back, v->width * sizeof *back);
    }
    return SAE_OK;
}

static double naive_loss(sae_lm_site site, view *v) {
    double *sums = (double *)calloc(text.contexts, sizeof *sums), sum = 0;
    sae_lm_forward_desc desc;
    sae_lm_hook hook;
    size_t i;
    memset(&desc, 0, sizeof desc);
    memset(&hook, 0, sizeof hook);
    hook.site = site;
    hook.call = naive_patch;
    hook.user = v;
    desc.tokens = text.tokens;
    desc.contexts = text.contexts;
    desc.ctx = CTX;
    desc.hooks = &hook;
    desc.num_hooks = v != NULL;
    desc.loss = sums;
    CHECK_OK(ctx, sae_lm_forward(model, &desc), return 0);
    for (i = 0; i < text.contexts; i++) sum += sums[i];
    free(sums);
    return sum / (double)(text.contexts * (CTX - 1));
}

/* Losses, metrics and counts of a place against the same said row by row: the same bits. */
static void check_view(const sae_dictionary *dict, features_place place, view v) {
    const sae_dictionary *list[1];
    features_judge_desc judge;
    features_metrics got;
    features_desc desc;
    features *f = NULL;
    sae_evaluate_desc how;
    sae_metrics rows;
    sae_sparse code;
    uint64_t judged = 0;
    size_t m = sae_dictionary_get_desc(dict)->dict_size;
    list[0] = dict;
    memset(&judge, 0, sizeof judge);
    memset(&how, 0, sizeof how);
    memset(&desc, 0, sizeof desc);
    judge.batch_size = 100000;
    CHECK_OK(ctx, features_judge(ctx, model, &text, place, list, 1, &judge, NULL, &got, &judged),
             return);
    CHECK(got.losses.original == naive_loss(place.in, NULL), "the model's own loss");
    v.dict = NULL;
    v.rows = NULL;
    CHECK(got.losses.zero == naive_loss(place.in, &v), "zeros");
    v.dict = dict;
    v.rows = (float *)malloc(text.contexts * CTX * v.width * sizeof *v.rows);
    CHECK(got.losses.reconstructed == naive_loss(place.in, &v), "the reconstruction");
    CHECK(judged == v.num && v.num > 0, "%.0f rows judged, want %zu", (double)judged, v.num);
    how.buffer.source.data = v.rows;
    how.buffer.source.rows = how.buffer.batch_size = v.num;
    how.buffer.source.dim = v.width;
    how.buffer.sequential = true;
    CHECK_OK(ctx, sae_evaluate(dict, &how, &rows), return);
    CHECK(memcmp(&rows, &got.rows, sizeof rows) == 0, "metrics: l0 %.9g, want %.9g", got.rows.l0,
          rows.l0);
    desc.dict = dict;
    desc.place = place;
    desc.ctx = CTX;
    desc.vocab_size = sae_lm_config_of(model).vocab_size;
    CHECK_OK(ctx, features_create(ctx, &desc, &f), return);
    CHECK_OK(ctx, features_collect(model, &text, &f, 1, NULL), return);
    code.row_begin = (size_t *)malloc((v.num + 1) * sizeof *code.row_begin);
    code.capacity = v.num * m;
    code.latent = (uint32_t *)malloc(code.capacity * sizeof *code.latent);
    code.value = (float *)malloc(code.capacity * sizeof *code.value);
    CHECK_OK(ctx, sae_encode_sparse(dict, v.rows, v.num, &code), return);
    CHECK(features_rows(f) == v.num
              && features_l0(f) == (double)code.row_begin[v.num] / (double)v.num,
          "%.0f rows of L0 %g in the pass, want %zu of %g", (double)features_rows(f),
          features_l0(f), v.num, (double)code.row_begin[v.num] / (double)v.num);
    features_destroy(f);
    free(code.row_begin);
    free(code.latent);
    free(code.value);
    free(v.rows);
}

static view whole_view(size_t width) {
    view v;
    size_t i;
    memset(&v, 0, sizeof v);
    v.width = width;
    v.skipped = -1;
    for (i = 0; i < CTX; i++) v.has[i] = true;
    return v;
}

static void test_parts(void) {
    static const struct {
        int64_t slice[3];
        size_t first, end, step; /* the same positions, counted */
    } slices[] = {
        { { 0, 0, 0 }, 0, CTX, 1 }, { { 1, INT64_MAX, 1 }, 1, CTX, 1 }, { { 5, -5, 1 }, 5, CTX - 5, 1 },
        { { -4, INT64_MAX, 1 }, CTX - 4, CTX, 1 }, { { 0, 7, 3 }, 0, 7, 3 },
        { { -100, 100, 2 }, 0, CTX, 2 }
    };
    sae_dictionary *dict = open_dictionary("lm/top_k"), *head = NULL;
    sae_dictionary_desc desc;
    features_where where;
    features_place place, same;
    size_t s, i;
    view v;
    check_test = "parts of rows";
    memset(&desc, 0, sizeof desc);
    memset(&where, 0, sizeof where);
    desc.arch = SAE_ARCH_TOP_K;
    desc.activation_dim = D / 2;
    desc.dict_size = 30;
    desc.k = 3;
    desc.seed = 4;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &head), return);
    for (s = 0; s < sizeof slices / sizeof slices[0]; s++) { /* positions */
        place = place_of(dict);
        memcpy(place.positions, slices[s].slice, sizeof place.positions);
        v = whole_view(D);
        for (i = 0; i < CTX; i++)
            v.has[i] = i >= slices[s].first && i < slices[s].end
                       && (i - slices[s].first) % slices[s].step == 0;
        check_view(dict, place, v);
    }
    place = place_of(dict); /* a token, and rows less their mean */
    place.skips = true;
    place.skipped = v.skipped = text.tokens[3];
    place.centred = true;
    v = whole_view(D);
    v.skipped = text.tokens[3];
    v.centred = true;
    check_view(dict, place, v);
    where.submodule = "blocks.1.attn.hook_z"; /* one head */
    where.one_head = true;
    for (where.head = 0; where.head < 2; where.head++) {
        CHECK_OK(ctx, features_place_find(ctx, model, head, &where, &place), return);
        v = whole_view(D / 2);
        v.from = where.head * D / 2;
        check_view(head, place, v);
    }
    where.head = 1;
    where.submodule = "gpt_neox.layers.1.attention.dense";
    where.io = "in";
    CHECK_OK(ctx, features_place_find(ctx, model, head, &where, &same), return);
    CHECK(memcmp(&place, &same, sizeof place) == 0, "one place under two names");
    where.head = 2;
    CHECK(features_place_find(ctx, model, head, &where, &place) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "head is 2"), "%s", sae_error(ctx));
    where.submodule = "gpt_neox.layers.1";
    CHECK(features_place_find(ctx, model, head, &where, &place) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "no heads"), "%s", sae_error(ctx));
    where.submodule = "gpt_neox.layers.1.attention.dense";
    where.one_head = false;
    CHECK(features_place_find(ctx, model, head, &where, &place) == SAE_ERR_MISMATCH, "%s",
          sae_error(ctx));
    sae_dictionary_destroy(dict);
    sae_dictionary_destroy(head);
}

/* Logits of decoder rows for a layer norm, a norm without mean, its weights from 0 or from 1, and a
   cap: what the norm and the unembedding themselves make of the row, less what they make of
   nothing, times the size that the norm took from it. */
static void test_logits(void) {
    static const char *const families[] = { "parallel", "llama", "gemma2", "gpt2" };
    size_t k, i, j;
    check_test = "logits";
    for (k = 0; k < 4; k++) {
        sae_lm *lm = NULL;
        sae_dictionary *dict = NULL;
        sae_dictionary_desc desc;
        features_where where;
        features_place place;
        features_logit top[6], bottom[6];
        features_logits_of stats[2];
        uint32_t latents[2] = { 3, 0 };
        float *row, *got;
        sae_lm_config info;
        CHECK_OK(ctx, sae_lm_open(ctx, check_path("%s/tests/lm/%s", check_root(), families[k]), &lm),
                 continue);
        info = sae_lm_config_of(lm);
        memset(&desc, 0, sizeof desc);
        memset(&where, 0, sizeof where);
        desc.arch = SAE_ARCH_TOP_K;
        desc.activation_dim = info.dim;
        desc.dict_size = 5;
        desc.k = 2;
        where.submodule = "blocks.1.hook_mlp_out";
        CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return);
        CHECK_OK(ctx, features_place_find(ctx, lm, dict, &where, &place), return);
        CHECK(features_place_has_logits(lm, place), "%s: the stream has logits", families[k]);
        CHECK_OK(ctx, features_logits(ctx, lm, place, dict, latents, 2, 3, top, bottom, stats),
                 return);
        row = (float *)calloc(2, info.dim * sizeof *row);
        got = (float *)malloc(2 * info.vocab_size * sizeof *got);
        for (i = 0; i < 2; i++) {
            const float *w = sae_dictionary_decoder_row(dict, latents[i]);
            double mean = 0, square = 0, worst = 0, range = (double)stats[i].high - (double)stats[i].low;
            for (j = 0; j < info.dim; j++) mean += (double)w[j] / (double)info.dim;
            if (info.rms_norm) mean = 0;
            for (j = 0; j < info.dim; j++)
                square += ((double)w[j] - mean) * ((double)w[j] - mean) / (double)info.dim;
            memset(row, 0, info.dim * sizeof *row); /* nothing, then the row */
            memcpy(row + info.dim, w, info.dim * sizeof *row);
            sae_lm_final_norm(lm, row, 2, row);
            CHECK_OK(ctx, sae_lm_unembed(lm, row, 2, got), return);
            for (j = 0; j < info.vocab_size; j++)
                got[j] = (float)((double)(got[info.vocab_size + j] - got[j])
                                 * sqrt(square + info.norm_eps));
            for (j = 0; j < 3; j++) {
                const features_logit *a = &top[3 * i + j], *b = &bottom[3 * i + j];
                worst = fmax(worst, fabs((double)(got[a->token] - a->value)));
                worst = fmax(worst, fabs((double)(got[b->token] - b->value)));
            }
            CHECK(worst < 1e-4 * range, "%s: logits off by %g of %g", families[k], worst, range);
            for (j = 0; j < info.vocab_size; j++)
                CHECK(got[j] <= top[3 * i].value + 1e-4 * range
                          && got[j] >= bottom[3 * i].value - 1e-4 * range,
                      "%s: token %zu stands outside", families[k], j);
        }
        free(row);
        free(got);
        sae_dictionary_destroy(dict);
        sae_lm_close(lm);
    }
}

/* Every place has the name under which it was found. */
static void test_names(void) {
    static const char *const names[][2] = { /* of the module, of the hook */
        { "gpt_neox.embed_in", "hook_embed" }, { "gpt_neox.layers.1", "blocks.1.hook_resid_post" },
        { "gpt_neox.layers.0.mlp", "blocks.0.hook_mlp_out" }, { "", "blocks.1.ln2.hook_normalized" },
        { "gpt_neox.layers.1.attention.dense", "" }, { "gpt_neox.final_layer_norm", "" }
    };
    char name[64];
    sae_lm_site site;
    size_t i, k;
    check_test = "names";
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        for (k = 0; k < 2; k++) {
            if (!names[i][k][0]) continue;
            CHECK_OK(ctx, sae_lm_site_find(model, names[i][k], false, &site), continue);
            CHECK(strcmp(sae_lm_site_name(model, site, false, name, sizeof name), names[i][0]) == 0,
                  "%s is %s", names[i][k], name);
            CHECK(strcmp(sae_lm_site_name(model, site, true, name, sizeof name), names[i][1]) == 0,
                  "%s is %s", names[i][k], name);
        }
    CHECK_OK(ctx, sae_lm_site_find(model, "gpt_neox.layers.1", true, &site), return);
    CHECK(strcmp(sae_lm_site_name(model, site, true, name, sizeof name),
                 "blocks.1.hook_resid_pre") == 0, "%s", name);
}

int main(void) {
    const char *path = check_path("tests/fixtures/lm/model");
    const char *files[1];
    sae_contexts_desc read;
    files[0] = check_path("tests/fixtures/lm/text.txt");
    ctx = check_context(2);
    CHECK_OK(ctx, sae_lm_open(ctx, path, &model), return check_end());
    CHECK_OK(ctx, sae_tokenizer_open(ctx, path, &tokenizer), return check_end());
    memset(&read, 0, sizeof read);
    read.tokenizer = tokenizer;
    read.files = files;
    read.num_files = 1;
    read.length = CTX;
    CHECK_OK(ctx, sae_contexts_read(ctx, &read, &contexts), return check_end());
    text.tokens = contexts.tokens;
    text.contexts = contexts.contexts;
    text.ctx = CTX;
    test_losses();
    test_pass();
    test_strings();
    test_page();
    test_places();
    test_parts();
    test_names();
    test_logits();
    sae_contexts_free(&contexts);
    sae_tokenizer_close(tokenizer);
    sae_lm_close(model);
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
