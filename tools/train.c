/* sae: train. */
#include "tool.h"

typedef struct train_options {
    common c;
    list config, others;
    const char *trainer, *init, *order, *log, *save_steps, *norm_multiple, *seed;
    uint64_t steps, buffer_rows, log_steps, backup_steps, heads;
    bool normalize_activations, resume;
} train_options;

static int set_hyperparameter(sae_trainer_desc *desc, const char *name, const char *value,
                              const option *options, size_t count) {
    sae_result result = sae_trainer_desc_set(tool.ctx, desc, name, value ? value : "");
    if (result == SAE_ERR_NOT_FOUND) return unknown_option(name, options, count);
    if (!value) return fail_usage("--%s needs a value", name);
    if (result == SAE_ERR_INVALID)
        return fail_usage("--%s: %s", name, without_function(sae_error(tool.ctx)));
    return result == SAE_OK ? DONE : fail_library();
}

/* What no trainer can do without; who: the trainer's name. */
static int check_needs(const train_options *o, const sae_trainer_desc *desc) {
    const char *who = sae_trainer_name(desc->kind);
    if (!desc->kind && o->config.count)
        return fail_usage("--trainer is missing, and %s has no trainer_class", o->config.items[0]);
    if (!desc->kind) return fail_usage("--trainer is missing");
    if (!desc->dict_size) return fail_usage("--dict-size is missing");
    if (!desc->k && !is_ignored("k", desc, 1))
        return fail_usage("--k is missing: latents of a row, of %s", who);
    if (!desc->num_groups && !is_ignored("group_fractions", desc, 1))
        return fail_usage("--group-fractions is missing, for example 0.25,0.75");
    return DONE;
}

/* A warning for each hyperparameter of the command line that none of the trainers has. */
static void warn_ignored(const train_options *o, const sae_trainer_desc *descs, size_t num) {
    size_t i;
    for (i = 0; i < o->others.count; i += 2)
        if (is_ignored(o->others.items[i], descs, num))
            warning("%s has no %s: ignored", num == 1 ? sae_trainer_name(descs[0].kind)
                                                      : "none of the trainers",
                    o->others.items[i]);
}

static int unknown_trainer(const char *name) {
    size_t least = strlen(name) / 2 + 2, k;
    const char *best = NULL;
    for (k = 1; k <= SAE_NUM_TRAINERS; k++)
        nearer(name, sae_trainer_name((sae_trainer_kind)k), &best, &least);
    if (best) return fail_usage("--trainer %s is unknown; did you mean %s?", name, best);
    return fail_usage("--trainer %s is unknown; sae train --help lists them", name);
}

/* The command line over what a config says. */
static int lay_over(const train_options *o, const option *options, size_t count,
                    sae_trainer_desc *desc) {
    size_t j;
    if (o->trainer && !sae_trainer_from_name(o->trainer, &desc->kind))
        return unknown_trainer(o->trainer);
    for (j = 0; j < o->others.count; j += 2)
        sae_trainer_desc_set(tool.ctx, desc, o->others.items[j], o->others.items[j + 1]);
    if (o->seed) {
        int status = set_hyperparameter(desc, "seed", o->seed, options, count);
        if (status != DONE) return status;
    }
    if (o->init) desc->init = o->init;
    return check_needs(o, desc);
}

/* The trainers of all --config files, with the command line laid over each. */
static int collect_trainers(const train_options *o, const option *options, size_t count,
                            sae_config **configs, sae_trainer_desc **out, size_t *num) {
    sae_trainer_desc *descs, scratch;
    size_t total = 0, i, j;
    memset(&scratch, 0, sizeof scratch);
    for (j = 0; j < o->others.count; j += 2) { /* wrong usage shows before any file is opened */
        int status = set_hyperparameter(&scratch, o->others.items[j], o->others.items[j + 1],
                                        options, count);
        if (status != DONE) return status;
    }
    for (i = 0; i < o->config.count; i++) {
        if (sae_config_open(tool.ctx, o->config.items[i], &configs[i]) != SAE_OK)
            return fail_library();
        total += sae_config_count(configs[i]);
    }
    if (o->config.count && !total) return fail("%s holds no trainer", o->config.items[0]);
    descs = (sae_trainer_desc *)keep_alloc(total ? total : 1, sizeof *descs);
    *num = 0;
    for (i = 0; i < o->config.count; i++)
        for (j = 0; j < sae_config_count(configs[i]); j++)
            descs[(*num)++] = *sae_config_get(configs[i], j);
    if (!total) *num = 1;
    for (i = 0; i < *num; i++) {
        int status = lay_over(o, options, count, &descs[i]);
        if (status != DONE) return status;
    }
    warn_ignored(o, descs, *num);
    *out = descs;
    return DONE;
}

/* steps and batch size: from the command line, else from the configs, which must agree. */
static int agree_on_sizes(const train_options *o, sae_trainer_desc *descs, size_t num,
                          sae_train_desc *train) {
    size_t i;
    train->steps = o->steps;
    train->buffer.batch_size = (size_t)o->c.batch;
    for (i = 0; i < num; i++) {
        if (!o->steps && descs[i].steps && train->steps && descs[i].steps != train->steps)
            return fail_usage("the configs name different steps, --steps must say how many");
        if (!o->c.batch && descs[i].batch_size && train->buffer.batch_size
            && descs[i].batch_size != train->buffer.batch_size)
            return fail_usage("the configs name different batch sizes, --batch must say which");
        if (!o->steps && descs[i].steps) train->steps = descs[i].steps;
        if (!o->c.batch && descs[i].batch_size) train->buffer.batch_size = descs[i].batch_size;
    }
    if (!train->steps) return fail_usage("--steps is missing");
    for (i = 0; i < num; i++) {
        descs[i].steps = 0; /* sae_train fills both in */
        descs[i].batch_size = 0;
    }
    return DONE;
}

/* Says what of an earlier run in out is replaced, and what stays of it. */
static void warn_replaced(const sae_train_desc *desc) {
    size_t i;
    for (i = 0; !desc->resume && i < desc->num_trainers; i++) {
        char name[32] = "";
        const char *folder, *stays = "";
        if (!desc->flat) snprintf(name, sizeof name, "trainer_%zu", i);
        folder = desc->flat ? desc->save_dir : joined(desc->save_dir, name);
        if (!file_exists(joined(folder, "ae.pt"))) continue;
        if (is_folder(joined(folder, "checkpoints")))
            stays = "; what is in checkpoints/ stays and is of the earlier run, but for the steps "
                    "saved anew";
        warning("%s holds a finished run: its config.json, ae.pt, ae.safetensors will be "
                "replaced%s", folder, stays);
    }
}

/* What is wrong on the command line itself. */
static int check_options(const train_options *o) {
    const common *c = &o->c;
    if (!c->text.count && (c->model || c->submodules.count || c->io || c->bos))
        return fail_usage("--text is missing: what the model shall read");
    if (!c->data.count && !c->text.count)
        return fail_usage("--data is missing (or --model, --text and --submodule)");
    if (c->text.count && (c->data.count || c->target.count))
        return fail_usage("--text and --data do not go together: rows come from one of them");
    if (!c->out) return fail_usage("--out is missing");
    if (o->order && strcmp(o->order, "shuffle") && strcmp(o->order, "sequential"))
        return fail_usage("--order is %s, allowed are shuffle, sequential", o->order);
    return DONE;
}

enum { MOST_SAVE_STEPS = 4096 };

/* --save-steps and --max-activation-norm-multiple. */
static int parse_numbers(const train_options *o, uint64_t *save_steps, sae_train_desc *desc) {
    double *multiple = &desc->buffer.max_activation_norm_multiple;
    char *end;
    if (o->save_steps
        && !parse_counts(o->save_steps, save_steps, MOST_SAVE_STEPS, &desc->num_save_steps))
        return fail_usage("--save-steps is %s, allowed is a list of steps: 100,1000",
                          o->save_steps);
    desc->save_steps = save_steps;
    if (!o->norm_multiple) return DONE;
    *multiple = strtod(o->norm_multiple, &end);
    if (!*end && *multiple > 0) return DONE;
    return fail_usage("--max-activation-norm-multiple is %s, allowed is a number above 0",
                      o->norm_multiple);
}

static void warn_late_steps(const sae_train_desc *desc) {
    size_t i;
    for (i = 0; i < desc->num_save_steps; i++)
        if (desc->save_steps[i] >= desc->steps)
            warning("--save-steps %.0f: never comes, the last step is %.0f",
                    (double)desc->save_steps[i], (double)(desc->steps - 1));
}

/* The files that are named can be read and written. */
static int check_files(const train_options *o) {
    int status = DONE;
    if (o->log) status = need_folder("log", o->log);
    if (status == DONE && o->log) status = keep_apart("--log", o->log, &o->c);
    if (status == DONE) status = keep_apart("--out", o->c.out, &o->c);
    if (status == DONE) status = check_rows(&o->c);
    return status;
}

/* All that is checked before a model is opened. */
static int prepare(const train_options *o, sae_trainer_desc *trainers, size_t num,
                   sae_train_desc *desc) {
    uint64_t *save_steps = (uint64_t *)keep_alloc(MOST_SAVE_STEPS, sizeof *save_steps);
    int status = check_options(o);
    if (status == DONE) status = parse_numbers(o, save_steps, desc);
    if (status == DONE) status = agree_on_sizes(o, trainers, num, desc);
    if (status == DONE) status = fill_source(&o->c, &desc->buffer.source);
    if (status != DONE) return status;
    warn_late_steps(desc);
    return check_files(o);
}

/* Into the config.json of each trainer, so that eval finds the place again. */
static void note_place(const train_options *o, const text_rows *rows, size_t place,
                       sae_trainer_desc *trainers, size_t num, sae_train_desc *desc) {
    bool several = text_rows_count(rows) > 1;
    size_t i;
    for (i = 0; i < num; i++) {
        if (!trainers[i].lm_name) trainers[i].lm_name = o->c.model;
        if (!trainers[i].submodule_name || several)
            trainers[i].submodule_name = text_rows_name(rows, place);
        if (!trainers[i].layer || several)
            trainers[i].layer = (int64_t)text_rows_layer(rows, place);
    }
    desc->io = o->c.io;
    desc->ctx_len = text_rows_ctx(rows);
    desc->prepend_bos = o->c.bos;
}

static void fill_train_desc(const train_options *o, sae_trainer_desc *trainers, size_t num,
                            sae_train_desc *desc) {
    size_t i;
    if (o->heads > 1 && num == 1) { /* one dictionary a head */
        sae_trainer_desc *heads = (sae_trainer_desc *)keep_alloc((size_t)o->heads, sizeof *heads);
        for (i = 0; i < o->heads; i++) heads[i] = trainers[0];
        trainers = heads;
        num = (size_t)o->heads;
    }
    desc->trainers = trainers;
    desc->num_trainers = num;
    desc->buffer.rows = (size_t)o->buffer_rows;
    desc->buffer.sequential = o->order && strcmp(o->order, "sequential") == 0;
    desc->buffer.heads = (size_t)o->heads;
    desc->buffer.seed = trainers[0].seed;
    desc->normalize_activations = o->normalize_activations;
    desc->flat = num == 1;
    desc->backup_steps = o->backup_steps ? o->backup_steps : desc->steps + 1; /* for Ctrl-C alone */
    desc->resume = o->resume;
    desc->log_steps = o->log_steps ? o->log_steps : o->log ? 100 : 0;
}

/* One run for each place of a language model, in a folder of its name where there are several; one
   in all of rows from files. */
static int train_all(const train_options *o, text_rows *rows, const sae_trainer_desc *trainers,
                     size_t num, const sae_train_desc *all) {
    size_t places = rows ? text_rows_count(rows) : 1, i;
    sae_train_desc *descs = (sae_train_desc *)keep_alloc(places, sizeof *descs);
    const char **names = (const char **)keep_alloc(places, sizeof *names);
    for (i = 0; i < places; i++) {
        sae_trainer_desc *own = (sae_trainer_desc *)keep_alloc(num, sizeof *own);
        memcpy(own, trainers, num * sizeof *own);
        descs[i] = *all;
        names[i] = rows ? text_rows_name(rows, i) : "";
        if (rows) note_place(o, rows, i, own, num, &descs[i]);
        fill_train_desc(o, own, num, &descs[i]);
        descs[i].save_dir = places > 1 ? joined(o->c.out, names[i]) : o->c.out;
        warn_replaced(&descs[i]);
    }
    return run_trainings(descs, names, places, rows, o->log);
}

int verb_train(int argc, char **argv) {
    train_options o;
    sae_train_desc desc;
    sae_trainer_desc *trainers = NULL;
    sae_config **configs;
    text_rows *rows = NULL;
    size_t num = 0, i;
    int status;
    memset(&o, 0, sizeof o);
    memset(&desc, 0, sizeof desc);
    const option options[] = {
        { "data", LIST, &o.c.data }, { "target", LIST, &o.c.target },
        { "trainer", ONCE, &o.trainer }, { "config", LIST, &o.config },
        { "init", TEXT, &o.init }, { "out", TEXT, &o.c.out }, { "order", TEXT, &o.order },
        { "batch", SIZE, &o.c.batch }, { "steps", SIZE, &o.steps },
        { "buffer-rows", SIZE, &o.buffer_rows }, { "heads", SIZE, &o.heads },
        { "max-activation-norm-multiple", TEXT, &o.norm_multiple },
        { "normalize-activations", FLAG, &o.normalize_activations },
        { "log", TEXT, &o.log }, { "log-steps", SIZE, &o.log_steps },
        { "save-steps", TEXT, &o.save_steps }, { "backup-steps", COUNT, &o.backup_steps },
        { "resume", FLAG, &o.resume }, { "dim", SIZE, &o.c.dim }, { "dtype", TEXT, &o.c.dtype },
        { "tensor", TEXT, &o.c.tensor }, { "threads", COUNT, &o.c.threads },
        { "device", TEXT, &o.c.device }, { "seed", TEXT, &o.seed }, { "quiet", FLAG, &tool.quiet },
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text },
        { "submodule", EACH, &o.c.submodules }, { "io", TEXT, &o.c.io },
        { "ctx", SIZE, &o.c.ctx }, { "bos", FLAG, &o.c.bos },
        { "remove-bos", FLAG, &o.c.remove_bos }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &o.c.words, &o.others);
    if (status == DONE) status = start_program(&o.c);
    if (status != DONE) return status;
    if (o.c.words.count) return fail_usage("%s belongs to no option", o.c.words.items[0]);
    configs = (sae_config **)keep_alloc(o.config.count, sizeof *configs);
    status = collect_trainers(&o, options, COUNT_OF(options), configs, &trainers, &num);
    if (status == DONE) status = prepare(&o, trainers, num, &desc);
    if (status == DONE && o.c.text.count)
        status = text_rows_open(&o.c, &rows);
    if (status == DONE) status = train_all(&o, rows, trainers, num, &desc);
    text_rows_close(rows);
    for (i = 0; i < o.config.count; i++)
        if (configs[i]) sae_config_close(configs[i]);
    return status;
}
