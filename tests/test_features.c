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

static features_place place_of(const sae_dictionary *dict) {
    features_place place;
    memset(&place, 0, sizeof place);
    CHECK_OK(ctx, features_place_find(ctx, model, dict, "gpt_neox.layers.0", "out", &place),
             return place);
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
    CHECK(features_place_find(ctx, model, dict, "gpt_neox.layers.9", "out", &place) == SAE_ERR_NOT_FOUND
          && strstr(sae_error(ctx), "gpt_neox.layers"), "%s", sae_error(ctx));
    CHECK(features_place_find(ctx, model, dict, "gpt_neox.layers.0", "side", &place) == SAE_ERR_INVALID
          && strstr(sae_error(ctx), "in_and_out"), "%s", sae_error(ctx));
    CHECK(features_place_find(ctx, model, dict, "gpt_neox.layers.0.mlp.dense_4h_to_h", "in", &place)
          == SAE_ERR_MISMATCH && strstr(sae_error(ctx), "48") && strstr(sae_error(ctx), "24"), "%s",
          sae_error(ctx));
    none.contexts = 0;
    CHECK(features_loss_recovered(ctx, model, &none, place_of(dict), list, 1, NULL, &losses)
          == SAE_ERR_INVALID, "%s", sae_error(ctx));
    sae_dictionary_destroy(dict);
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
    sae_contexts_free(&contexts);
    sae_tokenizer_close(tokenizer);
    sae_lm_close(model);
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
