#pragma once
#include "saving.h"

/* ==== >>loop: steps =========================================================================== */

/* Whether the folders hold this very run, finished. Fails if one holds another's. */
static sae_result saei_loop_is_finished(sae_training *l, bool *finished) {
    size_t same = 0;
    for (size_t i = 0; i < l->num_trainers; i++)
        switch (saei_loop_folder_holds(l, l->folders[i])) {
        case SAEI_LOOP_NOTHING: break;
        case SAEI_LOOP_THIS: same++; break;
        case SAEI_LOOP_ANOTHER:
            return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                             "%s: %s holds a finished run of other settings or data, with which "
                             "resume cannot go on: take another save_dir, or leave resume out to "
                             "replace it", l->who, l->folders[i]);
        }
    *finished = same == l->num_trainers;
    return SAE_OK;
}

/* All that comes before the first step of this process. */
static sae_result saei_loop_begin(sae_training *l) {
    saei_path_kind kind = SAEI_PATH_NONE;
    bool backup;
    if (l->backup) SAEI_TRY(saei_path_find(l->ctx, l->who, l->backup, &kind));
    backup = kind == SAEI_PATH_FILE;
    if (l->desc.resume) {
        if (backup) return saei_loop_restore(l);
        SAEI_TRY(saei_loop_is_finished(l, &l->now.finished));
        if (l->now.finished) {
            saei_log(l->ctx, SAE_LOG_INFO, "%s: %s is finished, nothing to do", l->who,
                     l->desc.save_dir);
            l->now.step = l->now.start_step = l->desc.steps;
            return SAE_OK;
        }
        saei_log(l->ctx, SAE_LOG_WARNING, "%s: no backup to resume from, begins anew", l->who);
    } else if (backup) {
        if (!saei_loop_backup_is_ours(l))
            return saei_fail(l->ctx, SAE_ERR_INVALID,
                             "%s: %s is no backup of sae_train, which would be written there: move "
                             "it, or take another save_dir", l->who, l->backup);
        l->replaces = true;
    }
    if (l->desc.normalize_activations) SAEI_TRY(saei_loop_norm(l));
    return saei_loop_configs(l, 0, true);
}

/* The checkpoints and the backup that are due before the next update. */
static sae_result saei_loop_save_due(sae_training *l) {
    const sae_train_desc *d = &l->desc;
    uint64_t step = l->now.step;
    bool save = false;
    for (size_t i = 0; i < d->num_save_steps; i++) save |= d->save_steps[i] == step;
    if (save) SAEI_TRY(saei_loop_checkpoints(l));
    if (d->backup_steps && step > l->now.start_step && step % d->backup_steps == 0)
        SAEI_TRY(saei_loop_backup(l));
    return SAE_OK;
}

/* One update of every trainer on the next batch; with log, its stats are given to desc.log. */
static sae_result saei_loop_update(sae_training *l, const float *x, const float *target, size_t n,
                                   bool log) {
    size_t width = sae_buffer_dim(l->buffer);
    sae_stats stats;
    for (size_t i = 0; i < l->num_trainers; i++) {
        size_t from = l->buffer->desc.heads > 1 ? i * l->dim : 0;
        sae_rows rows[2];
        memset(rows, 0, sizeof rows);
        rows[0].data = x + from;
        rows[1].data = target ? target + from : NULL;
        rows[0].stride = rows[1].stride = width;
        SAEI_TRY(saei_trainer_step_rows(l->trainers[i], rows, target ? rows + 1 : NULL, n,
                                        l->now.norm_factor));
    }
    l->now.step++;
    l->now.rows += n;
    for (size_t i = 0; i < l->num_trainers; i++) {
        if (!log) {
            SAEI_TRY(saei_loop_check_step(l, i));
            continue;
        }
        SAEI_TRY(sae_trainer_stats(l->trainers[i], &stats));
        l->desc.log(l->desc.user, i, &stats);
        SAEI_TRY(saei_loop_check_finite(l, i, &stats));
    }
    return SAE_OK;
}

/* Fails with nothing changed, and may be called again, or sets failed. */
static sae_result saei_loop_step(sae_training *l) {
    const sae_train_desc *d = &l->desc;
    uint64_t step = l->now.step;
    bool log = d->log && d->log_steps && (step % d->log_steps == 0 || step + 1 == d->steps);
    const float *x = NULL, *target = NULL;
    sae_result result;
    size_t n = 0;
    SAEI_TRY(saei_loop_save_due(l));
    SAEI_TRY(sae_buffer_next(l->buffer, &x, &target, &n));
    result = saei_loop_update(l, x, target, n, log);
    l->failed = result != SAE_OK;
    if (result == SAE_OK && l->replaces) {
        saei_log(l->ctx, SAE_LOG_WARNING, "%s: removes %s, the backup of an earlier run", l->who,
                 l->backup);
        saei_loop_remove_backup(l);
        l->replaces = false;
    }
    return result;
}

/* ---- the object ---- */

static sae_result saei_training_create(sae_context *ctx, const char *who,
                                       const sae_train_desc *desc, sae_training **out) {
    sae_training *l;
    sae_result result;
    SAEI_TRY(saei_loop_check(ctx, who, desc));
    l = (sae_training *)saei_calloc(ctx, 1, sizeof *l);
    if (!l) {
        saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory", who);
        return SAE_ERR_OUT_OF_MEMORY; /* spelled out for static analysers */
    }
    l->ctx = ctx;
    l->fingerprint.ctx = l->about_buffer.ctx = l->about_run.ctx = ctx;
    l->who = who;
    l->num_trainers = l->now.num_trainers = desc->num_trainers;
    l->now.steps = desc->steps;
    l->now.norm_factor = 1;
    result = saei_loop_open(l, desc);
    if (result == SAE_OK) result = saei_loop_begin(l);
    if (result == SAE_OK) *out = l;
    else sae_training_destroy(l);
    return result;
}

SAE_API sae_result sae_training_create(sae_context *ctx, const sae_train_desc *desc,
                                       sae_training **out) {
    if (!ctx) return SAE_ERR_INVALID;
    if (!out) return saei_fail(ctx, SAE_ERR_INVALID, "sae_training_create: out is NULL");
    return saei_training_create(ctx, "sae_training_create", desc, out);
}

SAE_API const sae_progress *sae_training_progress(const sae_training *l) {
    return l ? &l->now : NULL;
}

/* What every call asks first. */
static sae_result saei_training_check(sae_training *l, const char *who) {
    if (!l) return SAE_ERR_INVALID;
    l->who = who;
    if (!l->failed) return SAE_OK;
    return saei_fail(l->ctx, SAE_ERR_INVALID, "%s: an update failed after %llu steps, after which "
                     "a run can only be resumed from its last backup, or begun anew", who,
                     (unsigned long long)l->now.step);
}

SAE_API sae_result sae_training_step(sae_training *l) {
    SAEI_TRY(saei_training_check(l, "sae_training_step"));
    if (l->now.finished || l->now.step == l->now.steps)
        return saei_fail(l->ctx, SAE_ERR_INVALID,
                         "sae_training_step: %llu of %llu steps are done%s",
                         (unsigned long long)l->now.step, (unsigned long long)l->now.steps,
                         l->now.finished ? " and the run is finished" : "");
    return saei_loop_step(l);
}

SAE_API sae_result sae_training_save(sae_training *l) {
    SAEI_TRY(saei_training_check(l, "sae_training_save"));
    if (!l->backup)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "sae_training_save: save_dir is NULL, a backup "
                         "needs one");
    if (l->now.finished)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "sae_training_save: the run is finished");
    return saei_loop_backup(l);
}

SAE_API sae_result sae_training_finish(sae_training *l) {
    SAEI_TRY(saei_training_check(l, "sae_training_finish"));
    if (!l->now.step)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "sae_training_finish: no step is done, at least "
                         "1 is needed");
    return saei_loop_finish(l);
}

/* ---- sae_train ---- */

/* When the data ends early, what was trained is saved all the same. */
static sae_result saei_train_run(sae_training *l) {
    const sae_train_desc *d = &l->desc;
    while (!l->now.finished && l->now.step < d->steps) {
        sae_result result = saei_loop_step(l);
        if (result == SAE_ERR_END_OF_DATA && l->now.step) {
            SAEI_TRY(saei_loop_finish(l));
            return saei_fail(l->ctx, result, "sae_train: the data ended after %llu of %llu steps%s",
                             (unsigned long long)l->now.step, (unsigned long long)d->steps,
                             l->folders ? "; what was trained is saved" : "");
        }
        if (result != SAE_OK) return result;
        if (!d->progress || d->progress(d->user, &l->now) || l->now.step == d->steps) continue;
        if (d->backup_steps) SAEI_TRY(saei_loop_backup(l));
        return saei_fail(l->ctx, SAE_ERR_CANCELLED,
                         "sae_train: progress stopped it after %llu of %llu steps",
                         (unsigned long long)l->now.step, (unsigned long long)d->steps);
    }
    return saei_loop_finish(l);
}

SAE_API sae_result sae_train(sae_context *ctx, const sae_train_desc *desc) {
    sae_training *training;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    SAEI_TRY(saei_training_create(ctx, "sae_train", desc, &training));
    result = saei_train_run(training);
    sae_training_destroy(training);
    return result;
}
