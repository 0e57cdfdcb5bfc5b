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

typedef struct training {
    const char *log_path;
    FILE *log, *early; /* early: lines before the first step of this run is known */
    bool resume, terminal, log_failed, drawn;
    size_t num_trainers;
    sae_stats *last; /* of each trainer */
    bool *no_threshold; /* alike: its dictionary chooses by a threshold, which was never set */
    double shown, rate;
    uint64_t shown_rows, step, steps;
} training;

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

/* Opens the log; after a resume it keeps the whole lines of the steps before first_step. */
static bool open_log(training *t, uint64_t first_step) {
    char *temporary = with_ending(t->log_path, ".tmp"), line[4096];
    FILE *old = t->resume ? fopen(t->log_path, "rb") : NULL;
    size_t n;
    t->log = fopen(temporary, "wb");
    while (old && t->log && fgets(line, (int)sizeof line, old)) {
        const char *at = strstr(line, "\"step\": ");
        bool whole = line[0] == '{' && line[strlen(line) - 1] == '\n';
        if (whole && at && strtod(at + 8, NULL) < (double)first_step) fputs(line, t->log);
    }
    if (old) fclose(old);
    if (t->log && t->early) {
        rewind(t->early);
        while ((n = fread(line, 1, sizeof line, t->early)) > 0) fwrite(line, 1, n, t->log);
    }
    if (t->early) fclose(t->early);
    t->early = NULL;
    if (!t->log || fflush(t->log) != 0) return false;
#if defined(_WIN32)
    remove(t->log_path);
#endif
    if (rename(temporary, t->log_path) == 0) return true;
    remove(temporary);
    return false;
}

static void on_log(void *user, size_t trainer, const sae_stats *stats) {
    training *t = (training *)user;
    if (trainer < t->num_trainers) t->last[trainer] = *stats;
    if (t->log_path) {
        if (!t->log && !t->early) t->early = tmpfile();
        if (t->log || t->early)
            put_log_line(t->log ? t->log : t->early, stats, trainer, t->num_trainers);
        if (t->log && fflush(t->log) != 0) t->log_failed = true;
    } else if (!tool.quiet) {
        if (t->drawn) fprintf(stderr, "\r\x1b[K");
        t->drawn = false;
        printf("step %.0f", (double)stats->step);
        if (t->num_trainers > 1) printf(" trainer %zu", trainer);
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

static void show_progress(training *t, const sae_progress *p, double now) {
    char bar[21], left[32], rate[32], more[32] = "";
    sae_stats s;
    double done = p->steps ? (double)p->step / (double)p->steps : 1, recent;
    double steps_left = (double)(p->steps - p->step), row_rate;
    size_t i;
    memset(&s, 0, sizeof s);
    if (sae_trainer_stats(p->trainers[0], &s) != SAE_OK) return;
    if (now - t->shown >= 0.1 || t->rate == 0) {
        recent = (double)(p->rows - t->shown_rows) / (now - t->shown + 1e-9);
        t->rate = t->rate > 0 ? 0.7 * t->rate + 0.3 * recent : recent;
    }
    row_rate = (double)p->rows / (double)(p->step - p->start_step ? p->step - p->start_step : 1);
    for (i = 0; i < 20; i++) bar[i] = (double)i < done * 20 ? '#' : '-';
    bar[20] = 0;
    time_text(steps_left * row_rate / (t->rate > 0 ? t->rate : 1), left, sizeof left);
    if (t->rate >= 1e4) snprintf(rate, sizeof rate, "%.1fk", t->rate / 1e3);
    else snprintf(rate, sizeof rate, "%.0f", t->rate);
    if (p->num_trainers > 1) snprintf(more, sizeof more, " (1 of %zu)", p->num_trainers);
    if (t->terminal)
        fprintf(stderr,
                "\r[%s] %3.0f%% step %.0f/%.0f  %s tok/s  loss %.4g  L0 %.1f%s  %s left\x1b[K", bar,
                100 * done, (double)p->step, (double)p->steps, rate, s.loss, s.l0, more, left);
    else
        fprintf(stderr, "step %.0f/%.0f  %s tok/s  loss %.4g  L0 %.1f%s  %s left\n",
                (double)p->step, (double)p->steps, rate, s.loss, s.l0, more, left);
    fflush(stderr);
    t->drawn = t->terminal;
    t->shown = now;
    t->shown_rows = p->rows;
}

static bool on_progress(void *user, const sae_progress *p) {
    training *t = (training *)user;
    double now;
    size_t i;
    t->step = p->step;
    t->steps = p->steps;
    if (t->log_path && !t->log && !open_log(t, p->start_step)) t->log_failed = true;
    if (p->step == p->steps)
        for (i = 0; i < p->num_trainers && i < t->num_trainers; i++) {
            const sae_dictionary *dict = sae_trainer_dictionary(p->trainers[i]);
            sae_trainer_stats(p->trainers[i], &t->last[i]);
            t->no_threshold[i] = dict && sae_dictionary_rule(dict) == SAE_RULE_THRESHOLD
                                 && sae_dictionary_threshold(dict) < 0;
        }
    if (interrupted || t->log_failed) return false;
    if (tool.quiet) return true;
    now = now_seconds();
    if (p->step == p->start_step + 1) { /* the first step's set-up is not its speed */
        t->shown = now;
        t->shown_rows = p->rows;
    }
    if (t->terminal ? now - t->shown >= 0.2 || p->step == p->steps : now - t->shown >= 10)
        show_progress(t, p, now);
    return true;
}

int run_training(sae_train_desc *desc, const char *log_path) {
    training t;
    sae_result result;
    size_t i;
    memset(&t, 0, sizeof t);
    t.log_path = log_path;
    t.resume = desc->resume;
    t.num_trainers = desc->num_trainers;
    t.terminal = isatty(fileno(stderr)) != 0;
    t.last = (sae_stats *)keep_alloc(desc->num_trainers, sizeof *t.last);
    t.no_threshold = (bool *)keep_alloc(desc->num_trainers, sizeof *t.no_threshold);
    desc->log = on_log;
    desc->progress = on_progress;
    desc->user = &t;
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    result = sae_train(tool.ctx, desc);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (t.drawn) fprintf(stderr, "\n");
    if (result == SAE_OK && t.log_path && !t.log && !open_log(&t, t.resume ? desc->steps : 0))
        t.log_failed = true; /* nothing was left to do */
    if (t.early) fclose(t.early);
    if (t.log && fclose(t.log) != 0) t.log_failed = true;
    if (t.log_failed) return fail("%s: writing failed", t.log_path);
    if (result == SAE_ERR_CANCELLED) {
        fail("stopped after step %.0f of %.0f; the same command with --resume goes on from there",
             (double)t.step, (double)t.steps);
        return INTERRUPTED;
    }
    if (result != SAE_OK) return fail_library();
    for (i = 0; t.step && i < desc->num_trainers; i++)
        if (t.no_threshold[i]) warn_threshold(&desc->trainers[i]);
    if (tool.quiet) return DONE;
    if (!t.step) printf("%s: finished before, nothing left to do\n", desc->save_dir);
    for (i = 0; t.step && i < desc->num_trainers; i++) {
        char name[32] = "";
        if (!desc->flat) snprintf(name, sizeof name, "trainer_%zu", i);
        printf("%s: %s, loss %.5g, L0 %.1f, variance explained %.4f\n",
               desc->flat ? desc->save_dir : joined(desc->save_dir, name),
               sae_trainer_name(desc->trainers[i].kind), t.last[i].loss, t.last[i].l0,
               t.last[i].frac_variance_explained);
    }
    return DONE;
}
