/* sae: a training run: its log, its progress, what is said at its end. */
#include "tool.h"

#include <signal.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    interrupted = 1;
    signal(number, SIG_DFL); /* a second one ends it at once */
}

static const struct {
    const char *name;
    size_t offset;
} log_fields[] = {
    { "loss", offsetof(sae_stats, loss) },
    { "l2_loss", offsetof(sae_stats, l2_loss) },
    { "sparsity_loss", offsetof(sae_stats, sparsity_loss) },
    { "aux_loss", offsetof(sae_stats, aux_loss) },
    { "auxk_loss", offsetof(sae_stats, auxk_loss) },
    { "pre_norm_auxk_loss", offsetof(sae_stats, pre_norm_auxk_loss) },
    { "dead_features", offsetof(sae_stats, dead_features) },
    { "effective_l0", offsetof(sae_stats, effective_l0) },
    { "l0", offsetof(sae_stats, l0) },
    { "frac_variance_explained", offsetof(sae_stats, frac_variance_explained) },
    { "threshold", offsetof(sae_stats, threshold) },
    { "p", offsetof(sae_stats, p) },
    { "next_p", offsetof(sae_stats, next_p) },
    { "sparsity_coeff", offsetof(sae_stats, sparsity_coeff) },
    { "ghosts", offsetof(sae_stats, ghosts) },
    { "lr", offsetof(sae_stats, lr) },
    { "grad_norm", offsetof(sae_stats, grad_norm) }
};

typedef struct training { /* of one place */
    sae_training *run;
    const sae_train_desc *desc;
    const sae_progress *now; /* of run */
    const char *name;        /* of the place, where there are several; else "" */
    const char *log_path;
    FILE *log;
    bool log_failed;
    sae_stats *last; /* of each trainer */
} training;

static struct { /* the line of progress */
    bool terminal, drawn;
    double at, rate;
    uint64_t rows;
} shown;

static double stat_value(const sae_stats *s, size_t field) {
    double value;
    memcpy(&value, (const char *)s + log_fields[field].offset, sizeof value);
    return value;
}

static void put_log_line(FILE *out, const sae_stats *s, size_t trainer, size_t num_trainers) {
    size_t i;
    fprintf(out, "{\"step\": %.0f", (double)s->step);
    if (num_trainers > 1) fprintf(out, ", \"trainer\": %zu", trainer);
    for (i = 0; i < sizeof log_fields / sizeof log_fields[0]; i++) {
        double value = stat_value(s, i);
        if (isfinite(value)) fprintf(out, ", \"%s\": %.9g", log_fields[i].name, value);
    }
    fprintf(out, "}\n");
}

/* Opens the log; after a resume it keeps the whole lines of the steps before this run's first. */
static bool open_log(training *t) {
    char *temporary = with_ending(t->log_path, ".tmp"), line[4096];
    FILE *old = t->desc->resume ? fopen(t->log_path, "rb") : NULL;
    t->log = fopen(temporary, "wb");
    while (old && t->log && fgets(line, (int)sizeof line, old)) {
        const char *at = strstr(line, "\"step\": ");
        bool whole = line[0] == '{' && line[strlen(line) - 1] == '\n';
        if (whole && at && strtod(at + 8, NULL) < (double)t->now->start_step) fputs(line, t->log);
    }
    if (old) fclose(old);
    if (!t->log || fflush(t->log) != 0) return false;
    if (replace_file(temporary, t->log_path)) return true;
    remove(temporary);
    return false;
}

static void on_log(void *user, size_t trainer, const sae_stats *stats) {
    training *t = (training *)user;
    if (t->log_path) {
        if (!t->log && !open_log(t)) t->log_failed = true;
        if (!t->log || t->log_failed) return;
        put_log_line(t->log, stats, trainer, t->desc->num_trainers);
        if (fflush(t->log) != 0) t->log_failed = true;
    } else if (!tool.quiet) {
        if (shown.drawn) fprintf(stderr, "\r\x1b[K");
        shown.drawn = false;
        printf("step %.0f", (double)stats->step);
        if (t->name[0]) printf(" %s", t->name);
        if (t->desc->num_trainers > 1) printf(" trainer %zu", trainer);
        printf(" loss %.6g l0 %.1f variance explained %.4f lr %.3g\n", stats->loss, stats->l0,
               stats->frac_variance_explained, stats->lr);
        fflush(stdout);
    }
}

static void time_text(double seconds, char *out, size_t size) {
    unsigned long s = seconds > 0 && seconds < 1e8 ? (unsigned long)seconds : 0;
    if (s >= 3600) snprintf(out, size, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    else snprintf(out, size, "%lu:%02lu", s / 60, s % 60);
}

static void show_progress(const sae_progress *p, size_t num, double now) {
    char bar[21], left[32], rate[32], more[32] = "";
    sae_stats s;
    double done = p->steps ? (double)p->step / (double)p->steps : 1, recent;
    double steps_left = (double)(p->steps - p->step), row_rate;
    size_t i;
    memset(&s, 0, sizeof s);
    if (sae_trainer_stats(p->trainers[0], &s) != SAE_OK) return;
    if (now - shown.at >= 0.1 || shown.rate == 0) {
        recent = (double)(p->rows - shown.rows) / (now - shown.at + 1e-9);
        shown.rate = shown.rate > 0 ? 0.7 * shown.rate + 0.3 * recent : recent;
    }
    row_rate = (double)p->rows / (double)(p->step - p->start_step ? p->step - p->start_step : 1);
    for (i = 0; i < 20; i++) bar[i] = (double)i < done * 20 ? '#' : '-';
    bar[20] = 0;
    time_text(steps_left * row_rate / (shown.rate > 0 ? shown.rate : 1), left, sizeof left);
    if (shown.rate >= 1e4) snprintf(rate, sizeof rate, "%.1fk", shown.rate / 1e3);
    else snprintf(rate, sizeof rate, "%.0f", shown.rate);
    if (num > 1) snprintf(more, sizeof more, " (1 of %zu)", num);
    if (shown.terminal)
        fprintf(stderr,
                "\r[%s] %3.0f%% step %.0f/%.0f  %s tok/s  loss %.4g  L0 %.1f%s  %s left\x1b[K", bar,
                100 * done, (double)p->step, (double)p->steps, rate, s.loss, s.l0, more, left);
    else
        fprintf(stderr, "step %.0f/%.0f  %s tok/s  loss %.4g  L0 %.1f%s  %s left\n",
                (double)p->step, (double)p->steps, rate, s.loss, s.l0, more, left);
    fflush(stderr);
    shown.drawn = shown.terminal;
    shown.at = now;
    shown.rows = p->rows;
}

/* After a step of the last place; dictionaries: of all places together. */
static void after_step(const training *t, size_t dictionaries) {
    const sae_progress *p = t->now;
    double now;
    if (tool.quiet) return;
    now = now_seconds();
    if (p->step == p->start_step + 1) { /* the first step's set-up is not its speed */
        shown.at = now;
        shown.rows = p->rows;
    }
    if (shown.terminal ? now - shown.at >= 0.2 || p->step == p->steps : now - shown.at >= 10)
        show_progress(p, dictionaries, now);
}

/* The one that has come least far and is not done; NULL: all are. */
static training *next_to_step(training *all, size_t num) {
    training *next = NULL;
    size_t i;
    for (i = 0; i < num; i++) {
        const sae_progress *p = all[i].now;
        if (!p->finished && p->step < p->steps && (!next || p->step < next->now->step))
            next = &all[i];
    }
    return next;
}

/* All places, step by step in turn, so that they share one reading of the text. */
static sae_result step_all(training *all, size_t num, size_t dictionaries) {
    training *t;
    sae_result result = SAE_OK;
    while (result == SAE_OK && (t = next_to_step(all, num)) != NULL) {
        if (interrupted || all[0].log_failed) return SAE_ERR_CANCELLED;
        result = sae_training_step(t->run);
        if (result == SAE_OK && t->log_path && !t->log && !open_log(t)) t->log_failed = true;
        if (t->log_failed) all[0].log_failed = true;
        if (result == SAE_OK && t + 1 == all + num) after_step(t, dictionaries);
    }
    return result;
}

/* What is written at the end: finished runs; where it was stopped, backups. */
static sae_result leave_all(training *all, size_t num, sae_result result) {
    bool ended = result == SAE_ERR_END_OF_DATA && all[0].now->step;
    sae_result left = SAE_OK;
    size_t i;
    if (result != SAE_OK && result != SAE_ERR_CANCELLED && !ended) return result;
    for (i = 0; i < num && left == SAE_OK; i++) {
        const sae_progress *p = all[i].now;
        if (p->finished) continue;
        left = result == SAE_ERR_CANCELLED ? sae_training_save(all[i].run)
                                           : sae_training_finish(all[i].run);
    }
    if (left != SAE_OK || !ended) return left != SAE_OK ? left : result;
    return sae_context_fail(tool.ctx, result,
                            "the data ended after %.0f of %.0f steps; what was trained is saved",
                            (double)all[0].now->step, (double)all[0].now->steps);
}

/* Folder of trainer i. */
static const char *folder_of_run(const sae_train_desc *desc, size_t i) {
    char name[32];
    snprintf(name, sizeof name, "trainer_%zu", i);
    return desc->flat ? desc->save_dir : joined(desc->save_dir, name);
}

static void say_results(training *t) {
    const sae_train_desc *desc = t->desc;
    bool stepped = t->now->step > t->now->start_step;
    size_t i;
    for (i = 0; stepped && i < desc->num_trainers; i++) {
        const sae_dictionary *dict = sae_trainer_dictionary(t->now->trainers[i]);
        if (dict && sae_dictionary_rule(dict) == SAE_RULE_THRESHOLD
            && sae_dictionary_threshold(dict) < 0)
            warn_threshold(&desc->trainers[i]);
    }
    if (tool.quiet) return;
    if (!stepped) printf("%s: finished before, nothing left to do\n", desc->save_dir);
    for (i = 0; stepped && i < desc->num_trainers; i++)
        printf("%s: %s, loss %.5g, L0 %.1f, variance explained %.4f\n", folder_of_run(desc, i),
               sae_trainer_name(desc->trainers[i].kind), t->last[i].loss, t->last[i].l0,
               t->last[i].frac_variance_explained);
}

/* Of several places each has its own: LOG.PLACE.jsonl. */
static const char *log_of(const char *path, const char *name) {
    const char *dot = path ? strrchr(path, '.') : NULL;
    char *own;
    if (!path || !name[0]) return path;
    if (!dot || strchr(dot, '/')) dot = path + strlen(path);
    own = (char *)keep_alloc(strlen(path) + strlen(name) + 2, 1);
    sprintf(own, "%.*s.%s%s", (int)(dot - path), path, name, dot);
    return own;
}

/* A place is asked for when its turn comes, so that what another skips to resume is not kept for
   it. */
static sae_result open_all(training *all, sae_train_desc *descs, const char *const *names,
                           size_t num, text_rows *rows, const char *log_path) {
    sae_result result = SAE_OK;
    size_t i;
    for (i = 0; i < num && result == SAE_OK; i++) {
        training *t = &all[i];
        t->desc = &descs[i];
        t->name = num > 1 ? names[i] : "";
        t->log_path = log_of(log_path, t->name);
        t->last = (sae_stats *)keep_alloc(descs[i].num_trainers, sizeof *t->last);
        if (rows) descs[i].buffer.source = text_rows_source(rows, i);
        descs[i].log = on_log;
        descs[i].user = t;
        result = sae_training_create(tool.ctx, &descs[i], &t->run);
        if (result == SAE_OK) t->now = sae_training_progress(t->run);
    }
    return result;
}

int run_trainings(sae_train_desc *descs, const char *const *names, size_t num, text_rows *rows,
                  const char *log_path) {
    training *all = (training *)keep_alloc(num, sizeof *all);
    const char *log_failed = NULL;
    size_t i, k, dictionaries = num * descs[0].num_trainers;
    sae_result result;
    if (log_path && check_replaceable(log_path) != DONE) return FAILED;
    if (check_memory(descs, num) != DONE) return FAILED;
    shown.terminal = isatty(fileno(stderr)) != 0;
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    result = open_all(all, descs, names, num, rows, log_path);
    if (result == SAE_OK) result = leave_all(all, num, step_all(all, num, dictionaries));
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (shown.drawn) fprintf(stderr, "\n");
    for (i = 0; i < num; i++) {
        training *t = &all[i];
        if (result == SAE_OK && t->log_path && !t->log && !open_log(t)) t->log_failed = true;
        if (t->log && fclose(t->log) != 0) t->log_failed = true;
        if (t->log_failed && !log_failed) log_failed = t->log_path;
        for (k = 0; t->now && t->now->step > t->now->start_step && k < t->desc->num_trainers; k++)
            sae_trainer_stats(t->now->trainers[k], &t->last[k]);
    }
    if (log_failed) fail("%s: writing failed", log_failed);
    else if (result == SAE_ERR_CANCELLED)
        fail("stopped after step %.0f of %.0f; the same command with --resume goes on from there",
             (double)all[0].now->step, (double)all[0].now->steps);
    else if (result != SAE_OK) fail_library();
    for (i = 0; i < num && result == SAE_OK && !log_failed; i++) say_results(&all[i]);
    for (i = 0; i < num; i++) sae_training_destroy(all[i].run);
    if (log_failed) return FAILED;
    return result == SAE_OK ? DONE : result == SAE_ERR_CANCELLED ? INTERRUPTED : FAILED;
}
