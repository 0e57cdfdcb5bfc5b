/*  Demo: from text to features.

        make demo   or   make build/demo && build/demo [MODEL TEXT] [OUT]

    A language model reads text; three dictionaries are trained on what it thinks behind one of its
    layers, on one stream; then they are judged by how much of the model's loss survives when they
    stand in its way, and a page shows what their features mean. The default model and text are in
    examples/model; the model was not trained on this text. Every tenth context is kept from the
    dictionaries, for judging.
*/
#include "sae.h"

#include "sae_lm.h"
#include "sae_features.h"
#include "page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <unistd.h>
#endif

enum { CTX = 128, LATENTS = 1024, BATCH = 1024, STEPS = 500, LOG_STEPS = 10, TRAINERS = 3 };

#define TRY(call)                                                                                  \
    do {                                                                                           \
        sae_result try_ = (call);                                                                  \
        if (try_ != SAE_OK) return try_;                                                           \
    } while (0)

typedef struct demo {
    sae_context *ctx;
    sae_lm *model;
    sae_tokenizer *tokenizer;
    sae_contexts contexts;
    sae_lm_source *source;
    float *rows; /* what comes out of it */
    features_text all, train, test; /* nine contexts of ten, and the tenth */
    int32_t *tokens;                /* of train, then of test */
    char submodule[64];
    int64_t layer;
    features_place place;
    sae_dictionary *dicts[TRAINERS];
    features *passes[TRAINERS];
    features_metrics metrics[TRAINERS];
    uint64_t judged;
    char log_path[600];
    FILE *log;
} demo;

/* One line that grows on a terminal; elsewhere a line for each quarter. */
static void show(const char *what, double before, double now, const char *more) {
    char bar[25];
    int i;
    if (!isatty(fileno(stderr))) {
        if ((int)(4 * now) > (int)(4 * before))
            fprintf(stderr, "%s: %3.0f %%  %s\n", what, 100 * now, more);
        return;
    }
    for (i = 0; i < 24; i++) bar[i] = i < now * 24 ? '#' : '-';
    bar[24] = 0;
    fprintf(stderr, "\r[%s] %3.0f %%  %s  %s\x1b[K%s", bar, 100 * now, what, more,
            now >= 1 ? "\r\x1b[K" : "");
}

typedef struct showing {
    const char *what;
    double before;
} showing;

static bool show_share(void *user, double done) {
    showing *s = (showing *)user;
    show(s->what, s->before, done, "");
    s->before = done;
    return true;
}

static bool on_progress(void *user, const sae_progress *p) {
    char more[80];
    sae_stats s;
    (void)user;
    if (p->step % 8 && p->step != p->steps) return true;
    if (sae_trainer_stats(p->trainers[0], &s) != SAE_OK) return true;
    snprintf(more, sizeof more, "loss %.3g, L0 %.0f", s.loss, s.l0);
    show("training three dictionaries", (double)(p->step < 8 ? 0 : p->step - 8) / (double)p->steps,
         (double)p->step / (double)p->steps, more);
    return true;
}

/* One JSON object a line, for the curves on the page. */
static void on_log(void *user, size_t trainer, const sae_stats *s) {
    demo *d = (demo *)user;
    if (d->log)
        fprintf(d->log, "{\"step\": %.0f, \"trainer\": %zu, \"loss\": %.6g, \"l0\": %.6g, "
                "\"frac_variance_explained\": %.6g, \"dead_features\": %.0f}\n", (double)s->step,
                trainer, s->loss, s->l0, s->frac_variance_explained,
                s->dead_features == s->dead_features ? s->dead_features : 0);
}

static sae_result split(demo *d) {
    size_t i, bytes = CTX * sizeof *d->tokens;
    d->test.contexts = d->all.contexts / 10;
    d->train.contexts = d->all.contexts - d->test.contexts;
    d->train.ctx = d->test.ctx = CTX;
    if (!d->test.contexts)
        return sae_context_fail(d->ctx, SAE_ERR_INVALID,
                                "the text has %zu contexts of %d tokens, ten are "
                                "needed",
                                d->all.contexts, CTX);
    d->tokens = (int32_t *)malloc(d->all.contexts * bytes);
    if (!d->tokens) return sae_context_fail(d->ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
    d->train.tokens = d->tokens;
    d->test.tokens = d->tokens + d->train.contexts * CTX;
    for (i = 0; i < d->all.contexts; i++) {
        size_t tenth = i / 10, to = i % 10 == 9 ? d->train.contexts + tenth : i - tenth;
        memcpy(d->tokens + to * CTX, d->all.tokens + i * CTX, bytes);
    }
    return SAE_OK;
}

/* The model, the text as contexts, and the rows behind the middle layer. */
static sae_result open_all(demo *d, const char *model, const char *text) {
    sae_lm_source_desc desc;
    sae_contexts_desc read;
    sae_lm_config info;
    memset(&desc, 0, sizeof desc);
    memset(&read, 0, sizeof read);
    TRY(sae_lm_open(d->ctx, model, &d->model));
    TRY(sae_tokenizer_open(d->ctx, model, &d->tokenizer));
    read.tokenizer = d->tokenizer;
    read.files = &text;
    read.num_files = 1;
    read.length = CTX;
    TRY(sae_contexts_read(d->ctx, &read, &d->contexts));
    info = sae_lm_config_of(d->model);
    d->all.tokens = d->contexts.tokens;
    d->all.contexts = d->contexts.contexts;
    d->all.ctx = CTX;
    TRY(split(d));
    d->layer = (int64_t)(info.layers / 2);
    d->place.in.module = SAE_LM_LAYER;
    d->place.in.layer = info.layers / 2;
    d->place.out = d->place.in;
    sae_lm_site_name(d->model, d->place.in, false, d->submodule, sizeof d->submodule);
    desc.model = d->model;
    desc.tokens = d->train.tokens;
    desc.contexts = d->train.contexts;
    desc.ctx = CTX;
    desc.sites = &d->place.in;
    desc.num_sites = 1;
    printf("%s: %zu layers of %zu; %s: %zu tokens, %zu of them kept for judging; at %s\n", model,
           info.layers, info.dim, text, d->all.contexts * CTX, d->test.contexts * CTX,
           d->submodule);
    fflush(stdout);
    return sae_lm_source_create(d->ctx, &desc, &d->source);
}

/* The rows are read several times, so they are kept: 128 MB. A source may also be given to the
   buffer as it is; then the model runs anew in every pass, in little memory. */
static sae_result read_rows(demo *d) {
    sae_source_desc source = sae_lm_source_rows(d->source, 0);
    size_t rows = d->train.contexts * CTX, done = 0, before;
    d->rows = (float *)malloc(rows * source.dim * sizeof *d->rows);
    if (!d->rows) return sae_context_fail(d->ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
    while (done < rows) {
        int64_t got = source.read(source.user, d->rows + done * source.dim, NULL, rows - done);
        if (got < 0) return (sae_result)got;
        if (got == 0)
            return sae_context_fail(d->ctx, SAE_ERR_END_OF_DATA, "the text ends too soon");
        before = done;
        done += (size_t)got;
        show("the model reads", (double)before / (double)rows, (double)done / (double)rows, "");
    }
    return SAE_OK;
}

static sae_result train(demo *d, const char *model, const char *out) {
    sae_trainer_desc trainers[TRAINERS] = {
        { .kind = SAE_TRAINER_TOP_K, .k = 20 },
        { .kind = SAE_TRAINER_BATCH_TOP_K, .k = 20 },
        { .kind = SAE_TRAINER_JUMP_RELU, .target_l0 = 20, .bandwidth = 0.03 },
    };
    sae_train_desc desc = { .trainers = trainers, .num_trainers = TRAINERS, .steps = STEPS,
                            .normalize_activations = true, .save_dir = out, .log = on_log,
                            .log_steps = LOG_STEPS, .progress = on_progress, .user = d };
    sae_result result;
    desc.buffer.source.data = d->rows;
    desc.buffer.source.rows = d->train.contexts * CTX;
    desc.buffer.source.dim = sae_lm_site_dim(d->model, d->place.in);
    desc.buffer.batch_size = BATCH;
    for (int i = 0; i < TRAINERS; i++) {
        trainers[i].dict_size = LATENTS;
        trainers[i].lm_name = model;
        trainers[i].layer = d->layer;
        trainers[i].lr = 4e-3;
        trainers[i].warmup_steps = STEPS / 20;
        trainers[i].sparsity_warmup_steps = STEPS / 4;
        trainers[i].decay_start = STEPS * 3 / 4;
        trainers[i].threshold_start_step = STEPS / 4;
        trainers[i].threshold_beta = 0.98; /* the run is short */
        trainers[i].dead_feature_threshold = 100 * BATCH;
        trainers[i].submodule_name = d->submodule;
    }
    snprintf(d->log_path, sizeof d->log_path, "%s.jsonl", out);
    d->log = fopen(d->log_path, "wb");
    result = sae_train(d->ctx, &desc);
    if (d->log) fclose(d->log);
    return result;
}

static sae_result judge(demo *d, const char *out) {
    features_judge_desc how = { .batch_size = BATCH };
    showing s = { "judging", 0 };
    features_progress progress = { show_share, &s };
    char path[600];
    for (int i = 0; i < TRAINERS; i++) {
        snprintf(path, sizeof path, "%s/trainer_%d", out, i);
        TRY(sae_dictionary_load(d->ctx, NULL, path, &d->dicts[i]));
    }
    TRY(features_judge(d->ctx, d->model, &d->test, d->place,
                       (const sae_dictionary *const *)d->dicts, TRAINERS, &how, &progress,
                       d->metrics, &d->judged));
    printf("%-14s %9s %8s %6s %8s %8s %12s\n", "", "Variance", "L1", "L0", "% alive", "CE diff",
           "% CE");
    printf("%-14s %9s %8s %6s %8s %8s %12s\n", "", "explained", "", "", "", "", "recovered");
    for (int i = 0; i < TRAINERS; i++) {
        const sae_metrics *m = &d->metrics[i].rows;
        const features_losses *l = &d->metrics[i].losses;
        static const char *const names[TRAINERS] = { "top_k", "batch_top_k", "jumprelu" };
        printf("%-14s %8.1f%% %8.2f %6.1f %7.1f%% %8.4f %11.1f%%\n", names[i],
               100 * m->frac_variance_explained, m->l1_loss, m->l0, 100 * m->frac_alive,
               l->reconstructed - l->original, 100 * l->frac_recovered);
    }
    printf("CE %.4f of the model, %.4f with zeros there; next tokens of %zu\n",
           d->metrics[0].losses.original, d->metrics[0].losses.zero, d->test.contexts * CTX);
    fflush(stdout);
    return SAE_OK;
}

static sae_result write_page(demo *d, const char *model, const char *text, const char *path) {
    static const char *const names[TRAINERS] = { "top_k", "batch_top_k", "jumprelu" };
    showing s = { "reading the text again", 0 };
    features_progress progress = { show_share, &s };
    page_run runs[TRAINERS];
    page_desc page;
    memset(runs, 0, sizeof runs);
    memset(&page, 0, sizeof page);
    for (int i = 0; i < TRAINERS; i++) {
        features_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.dict = d->dicts[i];
        desc.place = d->place;
        desc.ctx = CTX;
        desc.vocab_size = sae_lm_config_of(d->model).vocab_size;
        TRY(features_create(d->ctx, &desc, &d->passes[i]));
    }
    TRY(features_collect(d->model, &d->all, d->passes, TRAINERS, &progress));
    for (int i = 0; i < TRAINERS; i++) {
        runs[i].name = runs[i].trainer = names[i];
        runs[i].submodule = d->submodule;
        runs[i].io = "out";
        runs[i].f = d->passes[i];
        runs[i].dict = d->dicts[i];
        runs[i].place = d->place;
        runs[i].metrics = d->metrics[i];
        runs[i].eval_tokens = d->judged;
        runs[i].log = d->log_path;
        runs[i].log_trainer = i;
    }
    s.what = "what the features do";
    s.before = 0;
    page.model = d->model;
    page.tokenizer = d->tokenizer;
    page.model_name = model;
    page.text_name = strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
    page.text = d->all;
    page.runs = runs;
    page.num_runs = TRAINERS;
    page.max_features = TRAINERS * 800;
    page.ablate_contexts = 1;
    page.steer_contexts = 2;
    page.progress = progress;
    TRY(page_write(d->ctx, &page, path));
    printf("%s\n", path);
    return SAE_OK;
}

int main(int argc, char **argv) {
    static demo d;
    const char *model = argc > 2 ? argv[1] : "examples/model";
    const char *text = argc > 2 ? argv[2] : "examples/model/demo.txt";
    const char *out = argc == 2 || argc > 3 ? argv[argc - 1] : "build/demo_out";
    char page[600];
    sae_result result;
    if (sae_context_create(NULL, &d.ctx) != SAE_OK) return 1;
    snprintf(page, sizeof page, "%s.html", out);
    result = open_all(&d, model, text);
    if (result == SAE_OK) result = read_rows(&d);
    if (result == SAE_OK) result = train(&d, model, out);
    if (result == SAE_OK) result = judge(&d, out);
    if (result == SAE_OK) result = write_page(&d, model, text, page);
    if (result != SAE_OK) fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(d.ctx));
    for (int i = 0; i < TRAINERS; i++) {
        features_destroy(d.passes[i]);
        sae_dictionary_destroy(d.dicts[i]);
    }
    sae_lm_source_destroy(d.source);
    free(d.tokens);
    free(d.rows);
    sae_contexts_free(&d.contexts);
    sae_tokenizer_close(d.tokenizer);
    sae_lm_close(d.model);
    sae_context_destroy(d.ctx);
    return result == SAE_OK ? 0 : 1;
}
