/*  Proves: a run made step by step (sae_training_*) writes the files of sae_train, byte for byte,
    left and resumed at any step, here or there; after every error a run stands where the contract
    says, and where it may go on, goes on to the same bytes. The buffer alone says what its files
    hold; sae_trainer_step_rows takes rows as they lie; sae_evaluate scales a batch as its option
    says. Oracle: sae_train undisturbed; sae_trainer_step and sae_evaluate on the same numbers.
    Tolerance: none, but 1e-5 for the scaled batch. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include <signal.h>
#include <sys/resource.h>

enum { D = 12, M = 40, BATCH = 16, ROWS = 200, TOTAL = 23 };
static float rows[ROWS * D];
static char whole[300], parts[300], other[300];

#define EXPECT(call, want, given)                                                                  \
    do {                                                                                           \
        sae_result e_;                                                                             \
        sae_context_fail(ctx, SAE_OK, "%s", "");                                                   \
        e_ = (call);                                                                               \
        CHECK(e_ == (want), "%s gives %s (%s), want %s", #call, sae_result_name(e_),               \
              sae_error(ctx), #want);                                                              \
        CHECK(strstr(sae_error(ctx), given), "%s: \"%s\" does not name \"%s\"", #call,             \
              sae_error(ctx), given);                                                              \
    } while (0)

/* ---- folders --------------------------------------------------------------------------------- */

/* Every file of a is in b, with the same bytes; how many there are. */
static size_t files_of(const char *a, const char *b) {
    DIR *dir = opendir(a);
    struct dirent *e;
    size_t count = 0;
    while (dir && (e = readdir(dir)) != NULL) {
        char from[600], to[600];
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(from, sizeof from, "%s/%s", a, e->d_name);
        snprintf(to, sizeof to, "%s/%s", b, e->d_name);
        if (stat(from, &st)) continue;
        if (S_ISDIR(st.st_mode)) {
            count += files_of(from, to);
        } else {
            size_t n = 0, k = 0;
            char *x = check_read(from, &n), *y = check_read(to, &k);
            CHECK(x && y && n == k && !memcmp(x, y, n), "%s and %s differ", from, to);
            CHECK(n && !strstr(from, ".tmp"), "%s is half written", from);
            free(x);
            free(y);
            count++;
        }
    }
    if (dir) closedir(dir);
    return count;
}
static void same_folders(const char *a, const char *b) {
    size_t n = files_of(a, b), k = files_of(b, a);
    CHECK(n == k && n, "%d files in %s, %d in %s", (int)n, a, (int)k, b);
}
static const char *backup_of(const char *folder) {
    return check_path("%s/backup.safetensors", folder);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static const uint64_t save_steps[] = { 0, 8 };
static sae_trainer_desc trainers[2];
static uint64_t stop_at;
static int logged;

static bool on_progress(void *user, const sae_progress *p) {
    (void)user;
    return p->step != stop_at;
}
static void on_log(void *user, size_t trainer, const sae_stats *stats) {
    (void)user;
    logged += (int)(trainer + 1) * 1000 + (int)stats->step;
}

/* Two trainers of a kind; everything a run can do is in it. */
static sae_train_desc run_of(sae_trainer_kind kind, const char *folder) {
    sae_train_desc d;
    for (size_t i = 0; i < 2; i++) {
        trainers[i] = common_trainer(kind, 0, M, 0, 0);
        trainers[i].seed = 7 + i;
        if (kind == SAE_TRAINER_STANDARD) trainers[i].resample_steps = 6;
        if (trainers[i].k)
            trainers[i].dead_feature_threshold = 3 * BATCH, trainers[i].auxk_alpha = 0.1;
    }
    memset(&d, 0, sizeof d);
    d.buffer.source.data = rows, d.buffer.source.rows = ROWS, d.buffer.source.dim = D;
    d.buffer.batch_size = BATCH;
    d.buffer.seed = 3;
    d.trainers = trainers, d.num_trainers = 2;
    d.steps = TOTAL;
    d.normalize_activations = true;
    d.save_dir = folder;
    d.save_steps = save_steps, d.num_save_steps = 2;
    d.backup_steps = 5;
    d.log_steps = 4, d.log = on_log;
    return d;
}

/* Steps until so many are done; false after a failure. */
static bool step_to(sae_context *ctx, sae_training *t, uint64_t step) {
    const sae_progress *p = sae_training_progress(t);
    while (p->step < step) {
        uint64_t before = p->step;
        CHECK_OK(ctx, sae_training_step(t), return false);
        CHECK(p->step == before + 1, "a step leads from %d to %d", (int)before, (int)p->step);
    }
    return true;
}

static bool make_whole(sae_context *ctx, const sae_train_desc *desc) {
    sae_train_desc d = *desc;
    d.save_dir = whole;
    d.resume = false;
    check_remove(whole);
    CHECK_OK(ctx, sae_train(ctx, &d), return false);
    return true;
}

/* All in one go; what is written by a save is what a stopped sae_train writes. */
static void one_go(sae_context *ctx, sae_trainer_kind kind) {
    sae_train_desc d = run_of(kind, parts);
    const sae_progress *p;
    sae_training *t;
    int want;
    logged = 0;
    if (!make_whole(ctx, &d)) return;
    want = logged;
    logged = 0;
    check_remove(parts);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    p = sae_training_progress(t);
    CHECK(p->step == 0 && p->steps == TOTAL && p->start_step == 0 && p->num_trainers == 2
              && p->norm_factor > 0 && p->norm_factor != 1 && !p->finished, "the progress at 0");
    if (step_to(ctx, t, 11)) {
        CHECK(p->rows == 11 * BATCH && sae_trainer_steps_done(p->trainers[1]) == 11,
              "%d rows are seen", (int)p->rows);
        CHECK_OK(ctx, sae_training_save(t), (void)0);
        d.save_dir = other, d.progress = on_progress, stop_at = 11;
        check_remove(other);
        EXPECT(sae_train(ctx, &d), SAE_ERR_CANCELLED, "sae_train: progress stopped it after 11");
        same_folders(other, parts);
        logged -= want - 2 * (12 + 16 + 20 + 22) - 4 * 3000; /* what it logged up to there */
    }
    if (step_to(ctx, t, TOTAL)) CHECK_OK(ctx, sae_training_finish(t), (void)0);
    CHECK(p->finished && p->step == TOTAL, "finished at %d", (int)p->step);
    CHECK(logged == want, "another log: %d, want %d", logged, want);
    sae_training_destroy(t);
    same_folders(whole, parts);
}

/* Left at odd steps, with and without a save, and resumed by turns here and in sae_train. */
static void by_turns(sae_context *ctx, sae_trainer_kind kind) {
    static const struct {
        uint64_t from, to; /* where the resumed run begins, how far it goes */
        bool loop, save;   /* by sae_train, which always saves; saved by hand */
    } turns[] = { { 0, 0, false, true },   { 0, 1, false, true },   { 1, 4, true, true },
                  { 4, 7, false, false },  { 5, 8, false, true },   { 8, 9, true, true },
                  { 9, 14, false, false }, { 10, 13, false, true }, { 13, 22, true, true },
                  { 22, 23, false, true }, { 23, 23, false, false } };
    sae_train_desc d = run_of(kind, parts);
    const size_t last = sizeof turns / sizeof *turns - 1;
    check_remove(parts);
    d.resume = true;
    d.progress = on_progress;
    for (size_t i = 0; i <= last; i++) {
        sae_training *t;
        stop_at = turns[i].to;
        if (turns[i].loop) {
            EXPECT(sae_train(ctx, &d), SAE_ERR_CANCELLED, "sae_train");
            continue;
        }
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        CHECK(sae_training_progress(t)->start_step == turns[i].from,
              "turn %d begins at %d, want %d", (int)i, (int)sae_training_progress(t)->start_step,
              (int)turns[i].from);
        if (step_to(ctx, t, turns[i].to) && turns[i].save)
            CHECK_OK(ctx, sae_training_save(t), (void)0);
        if (i == last) CHECK_OK(ctx, sae_training_finish(t), (void)0);
        sae_training_destroy(t);
    }
    same_folders(whole, parts);
    check_remove(parts); /* and the other way: begun here, ended by sae_train */
    {
        sae_training *t;
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        if (step_to(ctx, t, 17)) CHECK_OK(ctx, sae_training_save(t), (void)0);
        sae_training_destroy(t);
    }
    stop_at = 0;
    CHECK_OK(ctx, sae_train(ctx, &d), return);
    same_folders(whole, parts);
}

/* ---- where a run stands ---------------------------------------------------------------------- */

static void wrong_calls(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_TOP_K, NULL), bad;
    sae_training *t = NULL;
    const sae_progress *p;
    d.num_save_steps = 0, d.backup_steps = 0;
    CHECK(sae_training_create(NULL, &d, &t) == SAE_ERR_INVALID, "no context");
    EXPECT(sae_training_create(ctx, NULL, &t), SAE_ERR_INVALID, "sae_training_create: desc");
    EXPECT(sae_training_create(ctx, &d, NULL), SAE_ERR_INVALID, "sae_training_create: out");
    bad = d, bad.steps = 0;
    EXPECT(sae_training_create(ctx, &bad, &t), SAE_ERR_INVALID, "sae_training_create: steps");
    EXPECT(sae_train(ctx, &bad), SAE_ERR_INVALID, "sae_train: steps");
    bad = d, bad.resume = true;
    EXPECT(sae_training_create(ctx, &bad, &t), SAE_ERR_INVALID, "save_dir");
    CHECK(t == NULL, "out is touched");
    CHECK(sae_training_step(NULL) == SAE_ERR_INVALID && sae_training_save(NULL) == SAE_ERR_INVALID
              && sae_training_finish(NULL) == SAE_ERR_INVALID && !sae_training_progress(NULL),
          "of no training");
    sae_training_destroy(NULL);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    p = sae_training_progress(t);
    EXPECT(sae_training_save(t), SAE_ERR_INVALID, "sae_training_save: save_dir is NULL");
    EXPECT(sae_training_finish(t), SAE_ERR_INVALID, "sae_training_finish: no step");
    if (step_to(ctx, t, TOTAL)) {
        EXPECT(sae_training_step(t), SAE_ERR_INVALID, "sae_training_step: 23 of 23");
        CHECK(p->step == TOTAL && !p->finished, "a step too many is counted");
        CHECK_OK(ctx, sae_training_finish(t), (void)0);
        CHECK(p->finished, "not finished");
        EXPECT(sae_training_step(t), SAE_ERR_INVALID, "finished");
    }
    sae_training_destroy(t);
}

/* A finished run: nothing to do, nothing is touched. Finished early: another run's to resume. */
static void finished(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_GATED, parts);
    sae_training *t;
    if (!make_whole(ctx, &d)) return;
    check_remove(parts);
    CHECK_OK(ctx, sae_train(ctx, &d), return);
    d.resume = true;
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    CHECK(sae_training_progress(t)->finished && sae_training_progress(t)->step == TOTAL
              && sae_training_progress(t)->start_step == TOTAL, "a finished run is not seen");
    EXPECT(sae_training_step(t), SAE_ERR_INVALID, "finished");
    EXPECT(sae_training_save(t), SAE_ERR_INVALID, "sae_training_save: the run is finished");
    CHECK_OK(ctx, sae_training_finish(t), (void)0);
    sae_training_destroy(t);
    same_folders(whole, parts);
    check_remove(parts);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    if (step_to(ctx, t, 6)) CHECK_OK(ctx, sae_training_finish(t), (void)0);
    CHECK(sae_training_progress(t)->finished, "not finished at 6");
    CHECK_OK(ctx, sae_training_finish(t), (void)0);
    EXPECT(sae_training_step(t), SAE_ERR_INVALID, "6 of 23 steps are done and the run is finished");
    EXPECT(sae_training_save(t), SAE_ERR_INVALID, "finished");
    sae_training_destroy(t);
    CHECK(!check_exists(backup_of(parts)), "the backup of a finished run is still there");
    EXPECT(sae_training_create(ctx, &d, &t), SAE_ERR_MISMATCH,
           "sae_training_create: " /* of the first trainer's folder */);
}

/* Left without a finish, and without a backup: only config.json is there, and a new run begins. */
static void left(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_P_ANNEAL, parts);
    sae_training *t;
    if (!make_whole(ctx, &d)) return;
    check_remove(parts);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    step_to(ctx, t, 4);
    sae_training_destroy(t);
    CHECK(!check_exists(check_path("%s/trainer_0/ae.pt", parts))
              && !check_exists(backup_of(parts))
              && check_exists(check_path("%s/trainer_0/config.json", parts)),
          "a run that was left has other files");
    d.resume = true;
    CHECK_OK(ctx, sae_train(ctx, &d), return);
    same_folders(whole, parts);
}

/* The desc is copied: what it points to may go. */
static void copies(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_BATCH_TOP_K, parts);
    char folder[300], io[] = "in";
    uint64_t steps[] = { 0, 8 };
    sae_training *t;
    d.io = io;
    if (!make_whole(ctx, &d)) return;
    check_remove(parts);
    snprintf(folder, sizeof folder, "%s", parts);
    d.save_dir = folder, d.save_steps = steps;
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    memset(folder, 'x', strlen(folder));
    memset(io, 'x', 2);
    memset(steps, 0xff, sizeof steps);
    memset(trainers, 0xff, sizeof trainers);
    memset(&d, 0xff, sizeof d);
    if (step_to(ctx, t, TOTAL)) CHECK_OK(ctx, sae_training_finish(t), (void)0);
    sae_training_destroy(t);
    same_folders(whole, parts);
}

/* A backup of an earlier run goes with the first step, unless this run has replaced it; a foreign
   file of that name is refused. */
static void replaces(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_STANDARD, parts);
    sae_training *t;
    check_remove(parts);
    for (int by_hand = 0; by_hand < 2; by_hand++) {
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        if (step_to(ctx, t, 2)) CHECK_OK(ctx, sae_training_save(t), (void)0);
        sae_training_destroy(t);
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        CHECK(check_exists(backup_of(parts)), "the earlier backup is gone before the first step");
        if (by_hand) CHECK_OK(ctx, sae_training_save(t), (void)0);
        step_to(ctx, t, 1);
        CHECK(check_exists(backup_of(parts)) == (by_hand != 0), "a backup after the first step");
        sae_training_destroy(t);
    }
    CHECK(check_write(backup_of(parts), "notes", 5), "cannot write");
    EXPECT(sae_training_create(ctx, &d, &t), SAE_ERR_INVALID, "is no backup");
}

/* The rows end early. */
static void end_of_data(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_MATRYOSHKA, whole);
    const uint64_t most = (ROWS + BATCH - 1) / BATCH;
    sae_training *t;
    d.buffer.single_pass = true;
    check_remove(whole);
    check_remove(parts);
    EXPECT(sae_train(ctx, &d), SAE_ERR_END_OF_DATA, "what was trained is saved");
    d.save_dir = parts, d.resume = true;
    for (int turn = 0; turn < 2; turn++) {
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        step_to(ctx, t, most);
        EXPECT(sae_training_step(t), SAE_ERR_END_OF_DATA, "no more rows");
        EXPECT(sae_training_step(t), SAE_ERR_END_OF_DATA, "no more rows");
        CHECK(sae_training_progress(t)->step == most, "it stands at %d",
              (int)sae_training_progress(t)->step);
        CHECK_OK(ctx, turn ? sae_training_finish(t) : sae_training_save(t), (void)0);
        sae_training_destroy(t);
    }
    same_folders(whole, parts);
}

/* ---- what may fail, and go on ---------------------------------------------------------------- */

/* A source whose reads fail now and then, and may be asked again. */
typedef struct flaky {
    size_t at, calls;
    bool fails;
} flaky;
static int64_t flaky_read(void *user, float *x, float *target, size_t max_rows) {
    flaky *f = (flaky *)user;
    size_t n = ROWS - f->at < max_rows ? ROWS - f->at : max_rows;
    (void)target;
    if (f->fails && f->calls++ % 3 == 1) return SAE_ERR_IO;
    memcpy(x, rows + f->at * D, n * D * sizeof *x);
    f->at += n;
    return (int64_t)n;
}
static sae_result flaky_rewind(void *user) {
    flaky *f = (flaky *)user;
    if (f->fails && f->calls++ % 3 == 1) return SAE_ERR_IO;
    f->at = 0;
    return SAE_OK;
}
static void reads_fail(sae_context *ctx) {
    flaky f = { 0, 0, false };
    sae_train_desc d = run_of(SAE_TRAINER_JUMP_RELU, whole);
    size_t failures = 0;
    sae_training *t;
    memset(&d.buffer.source, 0, sizeof d.buffer.source);
    d.buffer.source.read = flaky_read, d.buffer.source.rewind = flaky_rewind;
    d.buffer.source.dim = D, d.buffer.source.user = &f;
    d.buffer.rows = 4 * BATCH;
    d.buffer.max_activation_norm_multiple = 1.1;
    d.normalize_activations = false;
    check_remove(whole);
    check_remove(parts);
    CHECK_OK(ctx, sae_train(ctx, &d), return);
    d.save_dir = parts, f.at = 0;
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    f.fails = true;
    while (sae_training_progress(t)->step < TOTAL && failures < 1000) {
        sae_result result = sae_training_step(t);
        CHECK(result == SAE_OK || (result == SAE_ERR_IO && strstr(sae_error(ctx), "SAE_ERR_IO")),
              "a read that fails gives %s: %s", sae_result_name(result), sae_error(ctx));
        failures += result != SAE_OK;
        if (failures % 2) CHECK_OK(ctx, sae_training_save(t), (void)0);
    }
    CHECK(failures > 5, "%d reads failed", (int)failures);
    CHECK_OK(ctx, sae_training_finish(t), (void)0);
    sae_training_destroy(t);
    same_folders(whole, parts);
}

/* A disk that is full at so many bytes a file: every call may be made again once there is room. */
static void full_disk(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_TOP_K, parts);
    struct rlimit limit, small;
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    d.num_trainers = 1;
    if (!make_whole(ctx, &d)) return;
    for (rlim_t room = 100; room < 30000; room *= 3) {
        size_t failures = 0, size = 0, now = 0;
        const sae_progress *p;
        sae_training *t;
        sae_result result;
        char *before, *after;
        check_remove(parts);
        small.rlim_cur = room;
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        p = sae_training_progress(t);
        while (p->step < TOTAL && failures < 100) {
            uint64_t at = p->step;
            before = check_read(backup_of(parts), &size);
            setrlimit(RLIMIT_FSIZE, &small);
            result = at % 4 == 2 ? sae_training_save(t) : SAE_OK;
            if (result == SAE_OK) result = sae_training_step(t);
            setrlimit(RLIMIT_FSIZE, &limit);
            if (result == SAE_OK) {
                free(before);
                continue;
            }
            failures++;
            CHECK(result == SAE_ERR_IO && strstr(sae_error(ctx), parts),
                  "room for %d bytes: %s: %s", (int)room, sae_result_name(result), sae_error(ctx));
            CHECK(p->step == at, "a step that failed is counted");
            files_of(parts, parts); /* nothing half written */
            after = check_read(backup_of(parts), &now);
            CHECK(!before == !after && (!before || (size == now && !memcmp(before, after, now))),
                  "the backup before is gone");
            free(before);
            free(after);
            if (at % 4 == 2) CHECK_OK(ctx, sae_training_save(t), (void)0);
            CHECK_OK(ctx, sae_training_step(t), break);
        }
        setrlimit(RLIMIT_FSIZE, &small);
        result = sae_training_finish(t);
        setrlimit(RLIMIT_FSIZE, &limit);
        if (result != SAE_OK) {
            failures++;
            CHECK(result == SAE_ERR_IO && !p->finished, "a finish that failed gives %s",
                  sae_result_name(result));
            CHECK_OK(ctx, sae_training_finish(t), (void)0);
        }
        CHECK(failures || room > 9000, "room for %d bytes was enough", (int)room);
        sae_training_destroy(t);
        same_folders(whole, parts);
    }
}

/* Every allocation fails once: the call that met it may be made again. */
static void out_of_memory(void) {
    sae_train_desc d = run_of(SAE_TRAINER_BATCH_TOP_K, parts);
    bool failed = true;
    {
        sae_context *ctx = check_context(1);
        if (!ctx || !make_whole(ctx, &d)) return;
        sae_context_destroy(ctx);
    }
    d.resume = true;
    for (long at = 0; failed && at < 5000; at++) {
        sae_context *ctx = common_counted(NULL, 1);
        sae_training *t = NULL;
        long live = common_memory.live, calls;
        if (!ctx) return;
        check_remove(parts);
        common_memory.calls = 0;
        common_memory.fail_at = at, common_memory.fail_once = true;
        failed = false;
#define AGAIN(call)                                                                                \
    do {                                                                                           \
        sae_result r_ = (call);                                                                    \
        if (r_ == SAE_OK) break;                                                                   \
        CHECK(r_ == SAE_ERR_OUT_OF_MEMORY && !failed && sae_error(ctx)[0],                         \
              "failing at allocation %d %s gives %s: %s", (int)at, #call, sae_result_name(r_),     \
              sae_error(ctx));                                                                     \
        failed = true;                                                                             \
        CHECK_OK(ctx, (call), break);                                                              \
    } while (0)
        AGAIN(sae_training_create(ctx, &d, &t));
        if (t) {
            while (sae_training_progress(t)->step < 12) AGAIN(sae_training_step(t));
            AGAIN(sae_training_save(t));
            calls = common_memory.calls;
            while (sae_training_progress(t)->step < 15) AGAIN(sae_training_step(t));
            CHECK(common_memory.calls == calls, "steps without a backup take memory");
            while (sae_training_progress(t)->step < TOTAL) AGAIN(sae_training_step(t));
            AGAIN(sae_training_finish(t));
        }
        common_memory.fail_at = -1;
        sae_training_destroy(t);
        CHECK(common_memory.live == live, "failing at allocation %d leaks %d blocks", (int)at,
              (int)(common_memory.live - live));
        sae_context_destroy(ctx);
        same_folders(whole, parts);
    }
    CHECK(!failed, "allocations without an end");
}

/* ---- what ends a run ------------------------------------------------------------------------- */

static long status_left; /* status calls until one fails; negative: none does */
static sae_result failing_status(const sae_work *w) {
    if (status_left == 0)
        return sae_backend_fail(w->ctx, SAE_ERR_BACKEND, "test: the device fell off");
    if (status_left > 0) status_left--;
    return sae_cpu_backend()->status(w);
}
static void device_fails(void) {
    sae_backend fake = *sae_cpu_backend();
    sae_train_desc d = run_of(SAE_TRAINER_GATED_ANNEAL, parts);
    sae_context *ctx;
    sae_training *t;
    long left_over;
    uint64_t at;
    fake.name = "failing";
    fake.status = failing_status;
    status_left = -1;
    ctx = common_counted(&fake, 1);
    if (!ctx || !make_whole(ctx, &d)) return;
    for (left_over = 0; left_over < 4; left_over++) { /* the first or the second trainer fails */
        char *before, *after;
        size_t size = 0, now = 0;
        check_remove(parts);
        d.resume = false;
        CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
        if (!step_to(ctx, t, 12)) return;
        before = check_read(backup_of(parts), &size);
        status_left = left_over;
        while (sae_training_step(t) == SAE_OK) {}
        CHECK(strstr(sae_error(ctx), "fell off"), "%s", sae_error(ctx));
        at = sae_training_progress(t)->step;
        status_left = -1;
        EXPECT(sae_training_step(t), SAE_ERR_INVALID, "sae_training_step: an update failed");
        EXPECT(sae_training_save(t), SAE_ERR_INVALID, "sae_training_save: an update failed");
        EXPECT(sae_training_finish(t), SAE_ERR_INVALID, "sae_training_finish: an update failed");
        CHECK(sae_training_progress(t)->step == at && at < 15, "it stands at %d", (int)at);
        sae_training_destroy(t);
        after = check_read(backup_of(parts), &now);
        CHECK(before && after && size == now && !memcmp(before, after, now), "another backup");
        free(before);
        free(after);
        d.resume = true;
        CHECK_OK(ctx, sae_train(ctx, &d), return);
        same_folders(whole, parts);
    }
    sae_context_destroy(ctx);
}

static void diverges(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_STANDARD, parts);
    sae_result result = SAE_OK;
    sae_training *t;
    for (size_t i = 0; i < 2; i++) trainers[i].lr = 1e30, trainers[i].warmup_steps = SAE_NONE;
    d.log_steps = 1, d.backup_steps = 0, d.num_save_steps = 0;
    check_remove(parts);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &t), return);
    while (result == SAE_OK && sae_training_progress(t)->step < TOTAL)
        result = sae_training_step(t);
    CHECK(result == SAE_ERR_INVALID && strstr(sae_error(ctx), "sae_training_step: trainer 0 "),
          "%s: %s", sae_result_name(result), sae_error(ctx));
    EXPECT(sae_training_save(t), SAE_ERR_INVALID, "update failed");
    sae_training_destroy(t);
    CHECK(!check_exists(backup_of(parts)), "a backup of what diverged");
}

/* Two runs in one folder, which is not allowed: no crash, nothing half written. */
static void two_in_one(sae_context *ctx) {
    sae_train_desc d = run_of(SAE_TRAINER_TOP_K, parts);
    sae_training *a, *b;
    if (!make_whole(ctx, &d)) return;
    check_remove(parts);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &a), return);
    CHECK_OK(ctx, sae_training_create(ctx, &d, &b), return);
    for (uint64_t step = 1; step <= TOTAL; step++)
        if (!step_to(ctx, a, step) || !step_to(ctx, b, step)) break;
    CHECK_OK(ctx, sae_training_finish(a), (void)0);
    CHECK_OK(ctx, sae_training_save(b), (void)0);
    CHECK_OK(ctx, sae_training_finish(b), (void)0);
    sae_training_destroy(a);
    sae_training_destroy(b);
    same_folders(whole, parts);
}

/* ---- the parts of a run ---------------------------------------------------------------------- */

static void buffer_alone(sae_context *ctx) {
    const char *files[2];
    float first[40 * D];
    const float *x, *target;
    sae_buffer_desc b;
    sae_buffer *buffer;
    size_t n, seen = 0;
    for (size_t i = 0; i < 2; i++) { /* 40 and 25 rows */
        sae_tensor t;
        memset(&t, 0, sizeof t);
        t.name = "x", t.dtype = SAE_F32, t.ndim = 2;
        t.shape[0] = i ? 25 : 40, t.shape[1] = D;
        t.data = rows + i * 40 * D;
        files[i] = check_path("%s/rows_%d.npy", check_temp(), (int)i);
        CHECK_OK(ctx, sae_tensor_file_write(ctx, files[i], &t, 1), return);
    }
    memset(&b, 0, sizeof b);
    b.source.files = files, b.source.num_files = 2;
    b.batch_size = BATCH, b.single_pass = true, b.sequential = true;
    CHECK_OK(ctx, sae_buffer_create(ctx, &b, &buffer), return);
    CHECK(sae_buffer_dim(buffer) == D && sae_buffer_source_rows(buffer) == 65, "[%d,%d]",
          (int)sae_buffer_source_rows(buffer), (int)sae_buffer_dim(buffer));
    CHECK(sae_buffer_dim(NULL) == 0 && sae_buffer_source_rows(NULL) == 0, "of no buffer");
    for (int pass = 0; pass < 2; pass++) {
        for (seen = 0; sae_buffer_next(buffer, &x, &target, &n) == SAE_OK; seen += n)
            CHECK(!target && seen + n <= 65 && !memcmp(x, rows + seen * D, n * D * sizeof *x),
                  "other rows after %d", (int)seen);
        CHECK(seen == 65, "%d of 65 rows", (int)seen);
        CHECK_OK(ctx, sae_buffer_rewind(buffer), (void)0);
    }
    sae_buffer_destroy(buffer);
    b.sequential = b.single_pass = false;
    b.source.target_files = files, b.source.num_target_files = 2;
    CHECK_OK(ctx, sae_buffer_create(ctx, &b, &buffer), return);
    for (int pass = 0; pass < 2; pass++) { /* shuffled, the target row by row with the input */
        for (seen = 0; seen < 40 && sae_buffer_next(buffer, &x, &target, &n) == SAE_OK; seen += n) {
            CHECK(target && !memcmp(x, target, n * D * sizeof *x), "the target of other rows");
            if (seen + n > 40) n = 40 - seen;
            if (!pass) memcpy(first + seen * D, x, n * D * sizeof *x);
            else CHECK(!memcmp(first + seen * D, x, n * D * sizeof *x), "rewound: another order");
        }
        CHECK_OK(ctx, sae_buffer_rewind(buffer), (void)0);
    }
    CHECK(memcmp(first, rows, sizeof first) != 0, "the rows are not shuffled");
    sae_buffer_destroy(buffer);
}

/* The bits of v, which both types hold exactly. */
static uint16_t sixteen_bits(float v, sae_dtype dtype) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (dtype == SAE_BF16 || (bits & 0x7fffffff) == 0) return (uint16_t)(bits >> 16);
    return (uint16_t)((bits >> 16 & 0x8000) /* sign, exponent, mantissa */
                      | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
}

static bool same_parameters(sae_trainer *a, sae_trainer *b) {
    const sae_dictionary *p = sae_trainer_dictionary(a), *q = sae_trainer_dictionary(b);
    return p->num_params == q->num_params
           && !memcmp(p->params, q->params, p->num_params * sizeof *p->params);
}

/* The same rows and targets as float32 one after another, and as they may lie. */
static void rows_as_they_lie(sae_context *ctx, sae_trainer_kind kind) {
    enum { STRIDE = D + 5, STEPS = 6 };
    static const struct {
        sae_dtype dtype;
        size_t stride;
        bool on_device;
    } cases[] = { { SAE_DTYPE_DEFAULT, 0, false }, { SAE_F32, STRIDE, false },
                  { SAE_F16, D, false },           { SAE_F16, STRIDE, true },
                  { SAE_BF16, STRIDE, false },     { SAE_BF16, 0, true },
                  { SAE_F32, STRIDE, true } };
    enum { CASES = sizeof cases / sizeof *cases };
    sae_trainer_desc s = common_trainer(kind, D, M, BATCH, STEPS + 1);
    sae_trainer *plain, *lying[CASES];
    float x[2][BATCH * D];
    unsigned char *memory = (unsigned char *)sae_backend_alloc(ctx, 2 * BATCH * STRIDE * 4);
    check_rng rng = { 5 };
    CHECK_OK(ctx, sae_trainer_create(ctx, &s, &plain), return);
    for (size_t c = 0; c < CASES; c++)
        CHECK_OK(ctx, sae_trainer_create(ctx, &s, &lying[c]), return);
    for (size_t step = 0; step < STEPS; step++) {
        size_t n = BATCH - step % 3;
        const bool target = step % 2 && !s.num_layers; /* crosscoders have none */
        for (size_t i = 0; i < 2 * BATCH * D; i++) /* few bits: -2 to 2 in 64ths */
            x[i / (BATCH * D)][i % (BATCH * D)] = (float)((int)(check_bits(&rng) % 257) - 128) / 64;
        CHECK_OK(ctx, sae_trainer_step(plain, x[0], target ? x[1] : NULL, n), return);
        for (size_t c = 0; c < CASES; c++) {
            size_t stride = cases[c].stride ? cases[c].stride : D;
            size_t size = cases[c].dtype == SAE_F16 || cases[c].dtype == SAE_BF16 ? 2 : 4;
            sae_rows from[2];
            memset(memory, 0xff, 2 * BATCH * STRIDE * 4); /* NaN between the rows */
            memset(from, 0, sizeof from);
            for (size_t k = 0; k < 2; k++) {
                unsigned char *to = memory + k * BATCH * STRIDE * 4;
                from[k].data = to;
                from[k].dtype = cases[c].dtype;
                from[k].stride = cases[c].stride;
                from[k].on_device = cases[c].on_device;
                for (size_t i = 0; i < n * D; i++) {
                    uint16_t half = sixteen_bits(x[k][i], cases[c].dtype);
                    unsigned char *at = to + (i / D * stride + i % D) * size;
                    if (size == 2) memcpy(at, &half, 2);
                    else memcpy(at, &x[k][i], 4);
                }
            }
            CHECK_OK(ctx, sae_trainer_step_rows(lying[c], from, target ? from + 1 : NULL, n),
                     return);
            CHECK(same_parameters(plain, lying[c]), "case %d: other bits after step %d", (int)c,
                  (int)step);
        }
    }
    {
        sae_rows bad;
        memset(&bad, 0, sizeof bad);
        EXPECT(sae_trainer_step_rows(plain, NULL, NULL, 1), SAE_ERR_INVALID, "x is NULL");
        EXPECT(sae_trainer_step_rows(plain, &bad, NULL, 1), SAE_ERR_INVALID, "x is NULL");
        bad.data = x, bad.dtype = SAE_F64;
        EXPECT(sae_trainer_step_rows(plain, &bad, NULL, 1), SAE_ERR_INVALID, "F64");
        bad.dtype = SAE_F32, bad.stride = D - 1;
        EXPECT(sae_trainer_step_rows(plain, &bad, NULL, 1), SAE_ERR_INVALID, "stride is 11");
        bad.stride = 0;
        EXPECT(sae_trainer_step_rows(plain, &bad, NULL, BATCH + 1), SAE_ERR_INVALID, "17 rows");
        bad.data = NULL;
        {
            sae_rows good;
            memset(&good, 0, sizeof good);
            good.data = x;
            EXPECT(sae_trainer_step_rows(plain, &good, &bad, 1), SAE_ERR_INVALID, "target is NULL");
        }
        CHECK(same_parameters(plain, lying[0]), "an error changes the trainer");
    }
    sae_backend_free(ctx, memory);
    sae_trainer_destroy(plain);
    for (size_t c = 0; c < CASES; c++) sae_trainer_destroy(lying[c]);
}

/* Rows scaled by hand, batch by batch, give what normalize_batch gives. */
static void scaled_batches(sae_context *ctx) {
    static float x[2][ROWS * D], y[2][ROWS * D];
    sae_trainer_desc s = common_trainer(SAE_TRAINER_GATED, D, M, BATCH, 20);
    sae_dictionary_desc dd = common_dictionary(&s);
    sae_dictionary *dict;
    sae_evaluate_desc e;
    sae_metrics want, got;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
    common_shake(dict, 3, 0, 0.1);
    for (size_t i = 0; i < ROWS * D; i++) x[0][i] = 3 * rows[i], y[0][i] = rows[i] + 1;
    for (size_t at = 0; at + BATCH <= ROWS; at += BATCH) {
        double mean = 0;
        for (size_t i = at; i < at + BATCH; i++) {
            double sum = 0;
            for (size_t j = 0; j < D; j++) sum += (double)x[0][i * D + j] * (double)x[0][i * D + j];
            mean += sqrt(sum) / BATCH;
        }
        for (size_t i = at * D; i < (at + BATCH) * D; i++) {
            x[1][i] = (float)((double)x[0][i] / mean * sqrt(D));
            y[1][i] = (float)((double)y[0][i] / mean * sqrt(D));
        }
    }
    for (int target = 0; target < 2; target++) {
        memset(&e, 0, sizeof e);
        e.buffer.source.rows = ROWS, e.buffer.source.dim = D;
        e.buffer.batch_size = BATCH, e.buffer.sequential = true;
        e.buffer.source.data = x[1], e.buffer.source.target = target ? y[1] : NULL;
        CHECK_OK(ctx, sae_evaluate(dict, &e, &want), return);
        e.buffer.source.data = x[0], e.buffer.source.target = target ? y[0] : NULL;
        e.normalize_batch = true;
        CHECK_OK(ctx, sae_evaluate(dict, &e, &got), return);
#define SAE_X(name) CHECK_REL(got.name, want.name, 1e-5, #name);
        SAE_METRICS(SAE_X)
#undef SAE_X
        e.normalize_batch = false;
        CHECK_OK(ctx, sae_evaluate(dict, &e, &got), return);
        CHECK(fabs(got.l2_loss - want.l2_loss) > 0.01 * want.l2_loss, "nothing was scaled");
    }
    CHECK(sae_evaluate(NULL, &e, &got) == SAE_ERR_INVALID, "no dictionary");
    EXPECT(sae_evaluate(dict, NULL, &got), SAE_ERR_INVALID, "sae_evaluate: desc");
    EXPECT(sae_evaluate(dict, &e, NULL), SAE_ERR_INVALID, "sae_evaluate: desc");
    sae_dictionary_destroy(dict);
}

int main(void) {
    sae_context *ctx = check_context(1);
    signal(SIGXFSZ, SIG_IGN);
    check_activations(42, rows, ROWS, D);
    snprintf(whole, sizeof whole, "%s/whole", check_temp());
    snprintf(parts, sizeof parts, "%s/parts", check_temp());
    snprintf(other, sizeof other, "%s/other", check_temp());
    if (!ctx) return check_end();
    for (size_t k = 0; k < COMMON_KINDS; k++) {
        check_test = sae_trainer_name(common_kind(k));
        one_go(ctx, common_kind(k));
        by_turns(ctx, common_kind(k));
        rows_as_they_lie(ctx, common_kind(k));
    }
#define TEST(call) check_test = #call, call
    TEST(wrong_calls(ctx));
    TEST(finished(ctx));
    TEST(left(ctx));
    TEST(copies(ctx));
    TEST(replaces(ctx));
    TEST(end_of_data(ctx));
    TEST(reads_fail(ctx));
    TEST(full_disk(ctx));
    TEST(out_of_memory());
    TEST(device_fails());
    TEST(diverges(ctx));
    TEST(two_in_one(ctx));
    TEST(buffer_alone(ctx));
    TEST(scaled_batches(ctx));
    check_test = NULL;
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
