#pragma once
#include "../tensor/open.h"
#include "../train/config.h"
#include "loop.h"

/* ==== >>loop: resume ========================================================================== */

/* For what may fail without being an error: nothing is logged, and the last error stays. */
static sae_context saei_loop_quiet(const saei_loop *l) {
    sae_context quiet = *l->ctx;
    quiet.logger.log = NULL;
    quiet.lock = 0;
    return quiet;
}

static bool saei_loop_exists(saei_loop *l, const char *folder, const char *name) {
    const sae_context quiet = saei_loop_quiet(l);
    char *path = saei_path_join(l->ctx, folder, name);
    saei_path_kind kind = SAEI_PATH_NONE;
    if (path && saei_path_find(&quiet, "sae_train", path, &kind) != SAE_OK) kind = SAEI_PATH_NONE;
    saei_free(l->ctx, path);
    return kind == SAEI_PATH_FILE;
}

typedef enum saei_loop_found {
    SAEI_LOOP_NOTHING,
    SAEI_LOOP_THIS,
    SAEI_LOOP_ANOTHER
} saei_loop_found;

/* Whose finished run a folder holds: of these settings and data, or of others. */
static saei_loop_found saei_loop_folder_holds(saei_loop *l, const char *folder) {
    char hash[20], *path;
    sae_json *root = NULL;
    const sae_json *own, *steps, *print;
    saei_loop_found found = SAEI_LOOP_NOTHING;
    const sae_context quiet = saei_loop_quiet(l);
    if (!saei_loop_exists(l, folder, "config.json") || !saei_loop_exists(l, folder, "ae.pt")
        || !saei_loop_exists(l, folder, "ae.safetensors"))
        return found;
    path = saei_path_join(l->ctx, folder, "config.json");
    if (path && saei_json_load(&quiet, "sae_train", path, &root) == SAE_OK) {
        snprintf(hash, sizeof hash, "%016llx",
                 (unsigned long long)saei_hash(SAEI_HASH_START, l->fingerprint.data,
                                               l->fingerprint.size));
        own = sae_json_get(root, "sae.h");
        steps = own ? sae_json_get(own, "finished_steps") : NULL;
        print = own ? sae_json_get(own, "fingerprint") : NULL;
        if (steps && steps->is_integer && steps->integer > 0)
            found = (uint64_t)steps->integer == l->desc->steps && print
                            && print->type == SAE_JSON_STRING && strcmp(print->string, hash) == 0
                        ? SAEI_LOOP_THIS
                        : SAEI_LOOP_ANOTHER;
        sae_json_close(root);
    }
    saei_free(l->ctx, path);
    return found;
}

static void saei_loop_remove_backup(saei_loop *l) {
    char *temporary = saei_path_join(l->ctx, l->desc->save_dir, "backup.safetensors.tmp");
    saei_remove(l->ctx, l->backup);
    if (temporary) saei_remove(l->ctx, temporary); /* of a write that was killed */
    saei_free(l->ctx, temporary);
}

/* Whether the file at l->backup was written by sae_train. */
static bool saei_loop_backup_is_ours(saei_loop *l) {
    sae_tensor_file *file = NULL;
    bool ours = sae_tensor_file_open(l->ctx, l->backup, &file) == SAE_OK
                && saei_tensor_file_metadata(file, "settings");
    sae_tensor_file_close(file);
    return ours;
}

/* config.json of all. "buffer" has the reference's keys, as other programs ask for them; where
   nobody says how long contexts are, rows count as contexts of 128, the reference's default. keep:
   not where a finished run lies, which stays whole until there is another. */
static sae_result saei_loop_configs(saei_loop *l, uint64_t finished, bool keep) {
    const sae_buffer_desc *b = &l->buffer->desc;
    saei_text *t = &l->about_buffer, *own = &l->about_run;
    size_t ctx_len = l->desc->ctx_len ? l->desc->ctx_len : 128;
    const char *io = l->desc->io ? l->desc->io : l->buffer->num_streams == 2 ? "in_and_out" : "out";
    for (size_t i = 0; l->folders && i < l->num_trainers; i++) {
        sae_trainer_desc d = sae_trainer_info(l->trainers[i]);
        if (keep && saei_loop_folder_holds(l, l->folders[i]) != SAEI_LOOP_NOTHING) continue;
        t->size = own->size = 0;
        saei_text_add(t, "{\"d_submodule\": %zu, \"io\": ", l->dim);
        saei_text_add_json_string(t, io);
        saei_text_add(t, ", \"n_ctxs\": %zu, \"ctx_len\": %zu, \"refresh_batch_size\": 512, "
                      "\"out_batch_size\": %zu, \"device\": \"cpu\"}",
                      saei_ceil_div(b->rows, ctx_len), ctx_len, b->batch_size);
        saei_text_add(own, "{\"version\": \"" SAE_VERSION "\", \"norm_factor\": ");
        if (l->desc->normalize_activations) saei_text_add_real(own, (double)l->factor);
        else saei_text_add(own, "null");
        saei_text_add(own, ", \"seed\": %llu, \"buffer_seed\": %llu, \"steps\": %llu, "
                      "\"finished_steps\": %llu, \"fingerprint\": \"%016llx\"}",
                      (unsigned long long)d.seed, (unsigned long long)b->seed,
                      (unsigned long long)l->desc->steps, (unsigned long long)finished,
                      (unsigned long long)saei_hash(SAEI_HASH_START, l->fingerprint.data,
                                                    l->fingerprint.size));
        if (t->failed || own->failed)
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                             "sae_train: no memory for %s/config.json", l->folders[i]);
        SAEI_TRY(saei_config_write(l->ctx, l->folders[i], &d, t->data, own->data));
    }
    return SAE_OK;
}

/* ---- backup and resume ---- */

/* One file for all: tensors "trainer_I.NAME" and "buffer.NAME"; step, the norm factor's bits and
   the settings as metadata. Beside, synced, renamed: at any moment there is a whole one. */
static sae_result saei_loop_backup(saei_loop *l) {
    static const char *const keys[] = { "version", "step", "norm_factor", "settings" };
    const char *values[4];
    saei_content content = { l->backup, NULL, 0, keys, values, 4 };
    char step[24], factor[12], prefix[40];
    size_t total = 0, count = 0, of = l->num_trainers;
    uint32_t bits;
    SAEI_TRY(saei_loop_check_weights(l));
    for (size_t i = 0; i <= of; i++) {
        sae_tensor *t = l->tensors + total;
        if (i < of) {
            SAEI_TRY(saei_trainer_state_get(l->trainers[i], t, &count));
            snprintf(prefix, sizeof prefix, "trainer_%zu.", i);
        } else {
            saei_buffer_state_get(l->buffer, t, &count);
            snprintf(prefix, sizeof prefix, "buffer.");
        }
        for (size_t j = 0; j < count; j++) {
            snprintf(l->names[total + j], sizeof *l->names, "%s%.48s", prefix, t[j].name);
            t[j].name = l->names[total + j];
        }
        total += count;
    }
    snprintf(step, sizeof step, "%llu", (unsigned long long)l->step);
    memcpy(&bits, &l->factor, sizeof bits);
    snprintf(factor, sizeof factor, "%08lx", (unsigned long)bits);
    values[0] = SAE_VERSION;
    values[1] = step;
    values[2] = factor;
    values[3] = l->fingerprint.data;
    content.tensors = l->tensors;
    content.count = total;
    return saei_content_write(l->ctx, &content, NULL);
}

/* Fails, naming the first line that differs. */
static sae_result saei_loop_compare(saei_loop *l, const char *settings) {
    const char *a = settings, *b = l->fingerprint.data;
    if (strcmp(a, b) == 0) return SAE_OK;
    for (;;) {
        size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");
        if (na != nb || memcmp(a, b, na) != 0)
            return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                             "sae_train: %s belongs to other settings: it "
                             "has \"%.*s\", now it is \"%.*s\"",
                             l->backup, (int)saei_min(na, 120), a, (int)saei_min(nb, 120), b);
        if (!a[na] || !b[nb]) break;
        a += na + 1;
        b += nb + 1;
    }
    return saei_fail(l->ctx, SAE_ERR_MISMATCH, "sae_train: %s belongs to other settings",
                     l->backup);
}

static sae_result saei_loop_restore_from(saei_loop *l, const sae_tensor_file *file) {
    const char *step = saei_tensor_file_metadata(file, "step");
    const char *factor = saei_tensor_file_metadata(file, "norm_factor");
    const char *settings = saei_tensor_file_metadata(file, "settings");
    char prefix[40], *end;
    unsigned long long at;
    uint32_t bits;
    if (!step || !factor || !settings)
        return saei_fail(l->ctx, SAE_ERR_FORMAT, "sae_train: %s is no backup of sae_train",
                         l->backup);
    SAEI_TRY(saei_loop_compare(l, settings));
    errno = 0;
    at = strtoull(step, &end, 10);
    if (errno || *end || end == step || at > l->desc->steps)
        return saei_fail(l->ctx, SAE_ERR_FORMAT, "sae_train: %s is damaged: step is \"%.40s\"",
                         l->backup, step);
    bits = (uint32_t)strtoul(factor, &end, 16);
    memcpy(&l->factor, &bits, sizeof bits);
    if (*end || end == factor || !(l->factor > 0) || l->factor > FLT_MAX)
        return saei_fail(l->ctx, SAE_ERR_FORMAT,
                         "sae_train: %s is damaged: norm_factor is \"%.40s\"", l->backup, factor);
    for (size_t i = 0; i < l->num_trainers; i++) {
        snprintf(prefix, sizeof prefix, "trainer_%zu.", i);
        SAEI_TRY(saei_trainer_state_set(l->trainers[i], file, prefix));
    }
    SAEI_TRY(saei_buffer_state_set(l->buffer, file, "buffer."));
    l->step = l->start = at;
    return SAE_OK;
}

static sae_result saei_loop_restore(saei_loop *l) {
    sae_tensor_file *file;
    sae_result result;
    SAEI_TRY(sae_tensor_file_open(l->ctx, l->backup, &file));
    result = saei_loop_restore_from(l, file);
    sae_tensor_file_close(file);
    if (result == SAE_OK)
        saei_log(l->ctx, SAE_LOG_INFO, "sae_train: goes on at step %llu of %llu",
                 (unsigned long long)l->step, (unsigned long long)l->desc->steps);
    return result;
}

/* Fresh, or from the backup; *done when there is nothing left to do. */
static sae_result saei_loop_begin(saei_loop *l, bool *done) {
    saei_path_kind kind = SAEI_PATH_NONE;
    bool backup;
    *done = false;
    if (l->backup) SAEI_TRY(saei_path_find(l->ctx, "sae_train", l->backup, &kind));
    backup = kind == SAEI_PATH_FILE;
    if (l->desc->resume) {
        size_t same = 0;
        if (backup) return saei_loop_restore(l);
        for (size_t i = 0; i < l->num_trainers; i++)
            switch (saei_loop_folder_holds(l, l->folders[i])) {
            case SAEI_LOOP_NOTHING: break;
            case SAEI_LOOP_THIS: same++; break;
            case SAEI_LOOP_ANOTHER:
                return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                                 "sae_train: %s holds a finished run of other settings or data, "
                                 "with which resume cannot go on: take another save_dir, or leave "
                                 "resume out to replace it", l->folders[i]);
            }
        if (same == l->num_trainers) {
            saei_log(l->ctx, SAE_LOG_INFO, "sae_train: %s is finished, nothing to do",
                     l->desc->save_dir);
            *done = true;
            return SAE_OK;
        }
        saei_log(l->ctx, SAE_LOG_WARNING, "sae_train: no backup to resume from, begins anew");
    } else if (backup) {
        if (!saei_loop_backup_is_ours(l))
            return saei_fail(l->ctx, SAE_ERR_INVALID,
                             "sae_train: %s is no backup of sae_train, which "
                             "would be written there: move it, or take another save_dir",
                             l->backup);
        l->replaces = true;
    }
    if (l->desc->normalize_activations) SAEI_TRY(saei_loop_norm(l));
    return saei_loop_configs(l, 0, true);
}

/* ---- steps ---- */

static sae_result saei_loop_step(saei_loop *l) {
    const sae_train_desc *d = l->desc;
    size_t n = 0, width = sae_buffer_dim(l->buffer);
    bool log = d->log && d->log_steps && (l->step % d->log_steps == 0 || l->step + 1 == d->steps);
    const float *x = NULL, *target = NULL;
    sae_stats stats;
    SAEI_TRY(sae_buffer_next(l->buffer, &x, &target, &n));
    for (size_t i = 0; i < l->num_trainers; i++) {
        size_t from = l->buffer->desc.heads > 1 ? i * l->dim : 0;
        sae_rows rows[2];
        memset(rows, 0, sizeof rows);
        rows[0].data = x + from;
        rows[1].data = target ? target + from : NULL;
        rows[0].stride = rows[1].stride = width;
        SAEI_TRY(saei_trainer_step_rows(l->trainers[i], rows, target ? rows + 1 : NULL, n,
                                        l->factor));
    }
    l->step++;
    l->rows += n;
    for (size_t i = 0; log && i < l->num_trainers; i++) {
        SAEI_TRY(sae_trainer_stats(l->trainers[i], &stats));
        d->log(d->user, i, &stats);
        SAEI_TRY(saei_loop_check_finite(l, i, &stats));
    }
    return SAE_OK;
}

static sae_result saei_loop_progress(saei_loop *l) {
    sae_progress p;
    if (!l->desc->progress) return SAE_OK;
    p.step = l->step;
    p.steps = l->desc->steps;
    p.start_step = l->start;
    p.rows = l->rows;
    p.num_trainers = l->num_trainers;
    p.trainers = l->trainers;
    if (l->desc->progress(l->desc->user, &p) || l->step == l->desc->steps) return SAE_OK;
    if (l->desc->backup_steps) SAEI_TRY(saei_loop_backup(l));
    return saei_fail(l->ctx, SAE_ERR_CANCELLED, "sae_train: progress stopped it after %llu of %llu "
                     "steps", (unsigned long long)l->step, (unsigned long long)l->desc->steps);
}

static sae_result saei_loop_finish(saei_loop *l) {
    SAEI_TRY(saei_loop_check_weights(l));
    if (!l->folders) return SAE_OK;
    SAEI_TRY(saei_loop_configs(l, 0, false)); /* from here on the folder tells of this run */
    for (size_t i = 0; i < l->num_trainers; i++)
        SAEI_TRY(saei_loop_save(l, i, l->folders[i], "ae.pt", "ae.safetensors"));
    SAEI_TRY(saei_loop_configs(l, l->step, false));
    saei_loop_remove_backup(l);
    return SAE_OK;
}

/* When the data ends early, what was trained is saved all the same. */
static sae_result saei_loop_run(saei_loop *l) {
    const sae_train_desc *d = l->desc;
    sae_result result;
    bool done;
    SAEI_TRY(saei_loop_begin(l, &done));
    if (done) return SAE_OK;
    while (l->step < d->steps) {
        bool save = false;
        for (size_t i = 0; i < d->num_save_steps; i++) save |= d->save_steps[i] == l->step;
        if (save) SAEI_TRY(saei_loop_checkpoints(l));
        if (d->backup_steps && l->step > l->start && l->step % d->backup_steps == 0)
            SAEI_TRY(saei_loop_backup(l));
        result = saei_loop_step(l);
        if (result == SAE_ERR_END_OF_DATA && l->step) {
            SAEI_TRY(saei_loop_finish(l));
            return saei_fail(l->ctx, result, "sae_train: the data ended after %llu of %llu steps%s",
                             (unsigned long long)l->step, (unsigned long long)d->steps,
                             l->folders ? "; what was trained is saved" : "");
        }
        if (result != SAE_OK) return result;
        if (l->replaces) {
            saei_log(l->ctx, SAE_LOG_WARNING, "sae_train: removes %s, the backup of an earlier run",
                     l->backup);
            saei_loop_remove_backup(l);
            l->replaces = false;
        }
        SAEI_TRY(saei_loop_progress(l));
    }
    return saei_loop_finish(l);
}

SAE_API sae_result sae_train(sae_context *ctx, const sae_train_desc *desc) {
    saei_loop loop;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    SAEI_TRY(saei_loop_check(ctx, desc));
    memset(&loop, 0, sizeof loop);
    loop.ctx = ctx;
    loop.fingerprint.ctx = loop.about_buffer.ctx = loop.about_run.ctx = ctx;
    loop.desc = desc;
    loop.num_trainers = desc->num_trainers;
    loop.factor = 1;
    result = saei_loop_open(&loop);
    if (result == SAE_OK) result = saei_loop_run(&loop);
    saei_loop_close(&loop);
    return result;
}
