/* sae: features. */
#include "tool.h"

#include "page.h"

enum { MOST_RUNS = 32, JUDGED_CONTEXTS = 128 };

typedef struct feature_options {
    common c;
    list log;
    uint64_t features, contexts;
    bool no_effects;
} feature_options;

typedef struct feature_run {
    const char *path, *name;
    sae_dictionary *dict;
    position at;
    features *f;
} feature_run;

/* The dictionaries named; the folder of a sweep stands for all in it. */
static int list_runs(const feature_options *o, feature_run *runs, size_t *num) {
    size_t i, t;
    *num = 0;
    for (i = 0; i < o->c.words.count; i++) {
        const char *path = o->c.words.items[i];
        bool sweep = is_folder(joined(path, "trainer_0"))
                     && !file_exists(joined(path, "config.json"));
        for (t = 0; t == 0 || sweep; t++) {
            char name[32];
            snprintf(name, sizeof name, "trainer_%zu", t);
            if (sweep && !is_folder(joined(path, name))) break;
            if (*num == MOST_RUNS)
                return fail_usage("more than %d dictionaries: name fewer", (int)MOST_RUNS);
            runs[(*num)++].path = sweep ? joined(path, name) : path;
        }
    }
    return *num ? DONE : fail_usage("which dictionary? One or several folders come first");
}

/* Trainers' names where they differ, else the folders'. */
static void name_runs(feature_run *runs, size_t num) {
    bool differ = true;
    size_t i, j;
    for (i = 0; i < num; i++) {
        sae_config *config = config_beside(runs[i].path);
        runs[i].name = config && sae_config_get(config, 0)->kind
                           ? sae_trainer_name(sae_config_get(config, 0)->kind) : "";
        if (config) sae_config_close(config);
        for (j = 0; j < i; j++)
            if (strcmp(runs[i].name, runs[j].name) == 0) differ = false;
        if (!runs[i].name[0]) differ = false;
    }
    for (i = 0; i < num && !differ; i++) {
        char *copy = with_ending(runs[i].path, ""), *slash;
        size_t n = strlen(copy);
        while (n > 1 && copy[n - 1] == '/') copy[--n] = 0;
        slash = strrchr(copy, '/');
        runs[i].name = slash && slash[1] ? slash + 1 : copy;
    }
}

/* --log, else log.jsonl in the run's folder or FOLDER.jsonl beside it, or of the folder above; and
   whose lines are the run's. */
static void find_log(const feature_options *o, const feature_run *run, size_t index,
                     page_run *out) {
    const char *trainer = strstr(run->path, "trainer_"), *next;
    char *folder = with_ending(run->path, ""), *above;
    size_t n = strlen(folder), i;
    while (n > 1 && folder[n - 1] == '/') folder[--n] = 0;
    above = with_ending(folder_of(folder), "");
    n = strlen(above);
    while (n > 1 && above[n - 1] == '/') above[--n] = 0;
    out->log_trainer = -1;
    if (index < o->log.count) out->log = o->log.items[index];
    else if (o->log.count == 1) out->log = o->log.items[0];
    for (i = 0; i < 4 && !out->log; i++) {
        const char *path = i == 0   ? joined(run->path, "log.jsonl")
                           : i == 1 ? with_ending(folder, ".jsonl")
                           : i == 2 ? joined(above, "log.jsonl")
                                    : with_ending(above, ".jsonl");
        if (file_exists(path)) out->log = path;
    }
    while (trainer && (next = strstr(trainer + 1, "trainer_")) != NULL) trainer = next;
    if (trainer && strspn(trainer + 8, "0123456789"))
        out->log_trainer = (int64_t)strtol(trainer + 8, NULL, 10);
}

/* Up to JUDGED_CONTEXTS of the text's contexts, evenly. */
static features_text judged_text(const features_text *text) {
    features_text some = *text;
    int32_t *tokens;
    size_t i;
    if (text->contexts <= JUDGED_CONTEXTS) return some;
    tokens = (int32_t *)keep_alloc(JUDGED_CONTEXTS * text->ctx, sizeof *tokens);
    for (i = 0; i < JUDGED_CONTEXTS; i++)
        memcpy(tokens + i * text->ctx,
               text->tokens + i * text->contexts / JUDGED_CONTEXTS * text->ctx,
               text->ctx * sizeof *tokens);
    some.tokens = tokens;
    some.contexts = JUDGED_CONTEXTS;
    return some;
}

/* Opens every dictionary, finds its place, and reads the text as they want it. */
static int open_runs(const feature_options *o, language *l, feature_run *runs, size_t num) {
    const sae_dictionary *dicts[MOST_RUNS];
    const char *paths[MOST_RUNS];
    reading how;
    size_t i;
    int status = DONE;
    for (i = 0; i < num && status == DONE; i++) {
        common one = o->c;
        one.words.items = &runs[i].path;
        one.words.count = 1;
        status = load_dictionary(&one, false, &runs[i].dict);
        dicts[i] = runs[i].dict;
        paths[i] = runs[i].path;
    }
    if (status == DONE) status = choose_reading(&o->c, dicts, paths, num, &how);
    if (status == DONE) status = language_open(&o->c, l);
    if (status == DONE && !l->tokenizer)
        status = fail("%s has no tokenizer: the page shows tokens", o->c.model);
    for (i = 0; i < num && status == DONE; i++)
        status = find_position(&o->c, paths[i], dicts[i], l, &runs[i].at);
    if (status == DONE) status = language_read(&o->c, &how, l);
    if (status == DONE && o->contexts && o->contexts < l->text.contexts)
        l->text.contexts = (size_t)o->contexts;
    return status;
}

static int create_passes(const feature_options *o, const language *l, feature_run *runs,
                         size_t num) {
    size_t i;
    for (i = 0; i < num; i++) {
        features_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.dict = runs[i].dict;
        desc.place = runs[i].at.place;
        desc.ctx = l->text.ctx;
        desc.vocab_size = sae_lm_config_of(l->model).vocab_size;
        desc.remove_bos = o->c.remove_bos;
        desc.bos_token = l->bos;
        if (features_create(tool.ctx, &desc, &runs[i].f) != SAE_OK) return fail_library();
    }
    return DONE;
}

static int judge_runs(const feature_options *o, const language *l, const feature_run *runs,
                      page_run *shown, size_t num) {
    features_text text = judged_text(&l->text);
    features_judge_desc how;
    size_t i;
    memset(&how, 0, sizeof how);
    how.remove_bos = o->c.remove_bos;
    how.bos_token = l->bos;
    for (i = 0; i < num; i++) {
        const sae_dictionary *dict = runs[i].dict;
        features_progress progress = { show_share, NULL };
        char what[64];
        snprintf(what, sizeof what, "loss with dictionary %zu of %zu", i + 1, num);
        progress.user = what;
        if (features_judge(tool.ctx, l->model, &text, runs[i].at.place, &dict, 1, &how, &progress,
                           &shown[i].metrics, &shown[i].eval_tokens) != SAE_OK)
            return fail_library();
    }
    return DONE;
}

static int show_features(const feature_options *o, language *l, feature_run *runs, size_t num) {
    page_run *shown = (page_run *)keep_alloc(num, sizeof *shown);
    features **passes = (features **)keep_alloc(num, sizeof *passes);
    const char **names = (const char **)keep_alloc(num, sizeof *names);
    features_metrics *metrics = (features_metrics *)keep_alloc(num, sizeof *metrics);
    features_progress progress = { show_share, NULL };
    const char *text = strrchr(o->c.text.items[0], '/');
    page_desc desc;
    size_t i;
    int status;
    status = create_passes(o, l, runs, num);
    if (status == DONE) status = judge_runs(o, l, runs, shown, num);
    if (status != DONE) return status;
    for (i = 0; i < num; i++) passes[i] = runs[i].f;
    progress.user = (void *)"reading the text";
    if (features_collect(l->model, &l->text, passes, num, &progress) != SAE_OK)
        return fail_library();
    name_runs(runs, num);
    for (i = 0; i < num; i++) {
        shown[i].name = names[i] = runs[i].name;
        shown[i].trainer = "";
        shown[i].submodule = runs[i].at.submodule;
        shown[i].io = rows_text(&runs[i].at, (char *)keep_alloc(96, 1));
        shown[i].hook = sae_lm_site_name(l->model, runs[i].at.place.in, true,
                                         (char *)keep_alloc(64, 1), 64);
        shown[i].f = runs[i].f;
        shown[i].dict = runs[i].dict;
        shown[i].place = runs[i].at.place;
        metrics[i] = shown[i].metrics;
        find_log(o, &runs[i], i, &shown[i]);
    }
    memset(&desc, 0, sizeof desc);
    desc.model = l->model;
    desc.tokenizer = l->tokenizer;
    desc.model_name = o->c.model;
    desc.text_name = text && text[1] ? text + 1 : o->c.text.items[0];
    desc.text = l->text;
    desc.runs = shown;
    desc.num_runs = num;
    desc.max_features = (size_t)o->features;
    desc.ablate_contexts = desc.steer_contexts = o->no_effects ? SIZE_MAX : 0;
    desc.progress.call = show_share;
    desc.progress.user = (void *)"measuring features";
    if (page_write(tool.ctx, &desc, o->c.out) != SAE_OK) return fail_library();
    if (tool.quiet) return DONE;
    print_table(names, metrics, num);
    printf("%s\n", o->c.out);
    return DONE;
}

int verb_features(int argc, char **argv) {
    static feature_run runs[MOST_RUNS];
    feature_options o;
    language l;
    size_t num = 0, i;
    int status;
    memset(&o, 0, sizeof o);
    memset(&l, 0, sizeof l);
    o.c.head = NO_HEAD;
    const option options[] = {
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text }, { "out", TEXT, &o.c.out },
        { "ctx", SIZE, &o.c.ctx }, { "contexts", SIZE, &o.contexts },
        { "submodule", ONCE, &o.c.submodule }, { "io", TEXT, &o.c.io },
        { "head", COUNT, &o.c.head }, { "log", LIST, &o.log },
        { "bos", FLAG, &o.c.bos }, { "no-bos", FLAG, &o.c.no_bos },
        { "remove-bos", FLAG, &o.c.remove_bos },
        { "features", SIZE, &o.features }, { "no-effects", FLAG, &o.no_effects },
        { "raw", FLAG, &o.c.raw }, { "dict-class", TEXT, &o.c.dict_class }, { "k", SIZE, &o.c.k },
        { "use-top-k", FLAG, &o.c.use_top_k }, { "use-threshold", FLAG, &o.c.use_threshold },
        { "threads", COUNT, &o.c.threads }, { "device", TEXT, &o.c.device },
        { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &o.c.words, NULL);
    if (status == DONE) status = list_runs(&o, runs, &num);
    if (status == DONE && !o.c.out) status = fail_usage("--out is missing");
    if (status == DONE && is_folder(o.c.out))
        status = fail("--out is %s, a folder: name a file, PAGE.html", o.c.out);
    if (status == DONE) status = need_folder("out", o.c.out);
    if (status == DONE) status = keep_apart("--out", o.c.out, &o.c);
    if (status == DONE) status = start_program(&o.c);
    if (status == DONE) status = open_runs(&o, &l, runs, num);
    if (status == DONE) status = show_features(&o, &l, runs, num);
    for (i = 0; i < num; i++) {
        features_destroy(runs[i].f);
        sae_dictionary_destroy(runs[i].dict);
    }
    language_close(&l);
    return status;
}
