#pragma once
#include "../base/json.h"
#include "../tensor/open.h"
#include "loop.h"

/* ==== >>loop: backup and resume =============================================================== */

/* A run's weights: as .pt and as .safetensors, or as that alone where no .pt is written. */
#ifdef SAE_NO_FORMATS
enum { SAEI_LOOP_PT = 0 };
#else
enum { SAEI_LOOP_PT = 1 };
#endif

/* A file that need not be there. */
static void saei_remove(const sae_context *ctx, const char *path) {
    if (ctx->io.remove) ctx->io.remove(path, ctx->io.user);
}

/* __metadata__ of an open .safetensors; NULL if it has none or no such key. */
static const char *saei_tensor_file_metadata(const sae_tensor_file *file, const char *key) {
    const sae_json *value = sae_json_get(file->metadata, key);
    return value ? value->string : NULL;
}

/* For what may fail without being an error: nothing is logged, and the last error stays. */
static sae_context saei_loop_quiet(const sae_training *l) {
    sae_context quiet = *l->ctx;
    quiet.logger.log = NULL;
    quiet.lock = 0;
    return quiet;
}

static bool saei_loop_exists(sae_training *l, const char *folder, const char *name) {
    const sae_context quiet = saei_loop_quiet(l);
    char *path = saei_path_join(l->ctx, folder, name);
    saei_path_kind kind = SAEI_PATH_NONE;
    if (path && saei_path_find(&quiet, l->who, path, &kind) != SAE_OK) kind = SAEI_PATH_NONE;
    saei_free(l->ctx, path);
    return kind == SAEI_PATH_FILE;
}

typedef enum saei_loop_found {
    SAEI_LOOP_NOTHING,
    SAEI_LOOP_THIS,
    SAEI_LOOP_ANOTHER
} saei_loop_found;

/* Of the fingerprint, as config.json has it. */
static void saei_loop_hash(const sae_training *l, char out[20]) {
    uint64_t hash = saei_hash(SAEI_HASH_START, l->fingerprint.data, l->fingerprint.size);
    snprintf(out, 20, "%016llx", (unsigned long long)hash);
}

/* Whose finished run a folder holds: of these settings and data, or of others. */
static saei_loop_found saei_loop_folder_holds(sae_training *l, const char *folder) {
    char hash[20], *path;
    sae_json *root = NULL;
    const sae_json *own, *steps, *print;
    saei_loop_found found = SAEI_LOOP_NOTHING;
    const sae_context quiet = saei_loop_quiet(l);
    if (!saei_loop_exists(l, folder, "config.json")
        || (!saei_loop_exists(l, folder, "sae.safetensors")
            && ((SAEI_LOOP_PT && !saei_loop_exists(l, folder, "ae.pt"))
                || !saei_loop_exists(l, folder, "ae.safetensors"))))
        return found;
    path = saei_path_join(l->ctx, folder, "config.json");
    if (path && saei_json_load(&quiet, l->who, path, &root) == SAE_OK) {
        saei_loop_hash(l, hash);
        own = sae_json_get(root, "sae.h");
        steps = own ? sae_json_get(own, "finished_steps") : NULL;
        print = own ? sae_json_get(own, "fingerprint") : NULL;
        if (steps && steps->is_integer && steps->number > 0)
            found = (uint64_t)steps->number == l->desc.steps && print
                            && print->type == SAE_JSON_STRING && strcmp(print->string, hash) == 0
                        ? SAEI_LOOP_THIS
                        : SAEI_LOOP_ANOTHER;
        sae_json_close(root);
    }
    saei_free(l->ctx, path);
    return found;
}

static void saei_loop_remove_backup(sae_training *l) {
    char *temporary = saei_path_join(l->ctx, l->desc.save_dir, "backup.safetensors.tmp");
    saei_remove(l->ctx, l->backup);
    if (temporary) saei_remove(l->ctx, temporary); /* of a write that was killed */
    saei_free(l->ctx, temporary);
}

/* Whether the file at l->backup is a backup, of whatever run. */
static bool saei_loop_backup_is_ours(sae_training *l) {
    sae_tensor_file *file = NULL;
    bool ours = sae_tensor_file_open(l->ctx, l->backup, &file) == SAE_OK
                && saei_tensor_file_metadata(file, "settings");
    sae_tensor_file_close(file);
    return ours;
}

/* One file for all: tensors "trainer_I.NAME" and "buffer.NAME"; step, the norm factor's bits and
   the settings as metadata. Written under another name, synced, renamed: whenever the program is
   killed, one whole backup is there. */
static sae_result saei_loop_backup(sae_training *l) {
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
            SAEI_TRY(saei_trainer_state_get(l->trainers[i], l->who, t, &count));
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
    snprintf(step, sizeof step, "%llu", (unsigned long long)l->now.step);
    memcpy(&bits, &l->now.norm_factor, sizeof bits);
    snprintf(factor, sizeof factor, "%08lx", (unsigned long)bits);
    values[0] = SAE_VERSION;
    values[1] = step;
    values[2] = factor;
    values[3] = l->fingerprint.data;
    content.tensors = l->tensors;
    content.count = total;
    SAEI_TRY(saei_content_write(l->ctx, &content, NULL));
    l->replaces = false; /* an earlier run's is gone */
    return SAE_OK;
}

/* Fails, naming the first line that differs. */
static sae_result saei_loop_compare(sae_training *l, const char *settings) {
    const char *a = settings, *b = l->fingerprint.data;
    if (strcmp(a, b) == 0) return SAE_OK;
    for (;;) {
        size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");
        if (na != nb || memcmp(a, b, na) != 0)
            return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                             "%s: %s belongs to other settings: it has \"%.*s\", now it is "
                             "\"%.*s\"", l->who, l->backup, (int)saei_min(na, 120), a,
                             (int)saei_min(nb, 120), b);
        if (!a[na] || !b[nb]) break;
        a += na + 1;
        b += nb + 1;
    }
    return saei_fail(l->ctx, SAE_ERR_MISMATCH, "%s: %s belongs to other settings", l->who,
                     l->backup);
}

static sae_result saei_loop_restore_from(sae_training *l, const sae_tensor_file *file) {
    const char *step = saei_tensor_file_metadata(file, "step");
    const char *factor = saei_tensor_file_metadata(file, "norm_factor");
    const char *settings = saei_tensor_file_metadata(file, "settings");
    char prefix[40], *end;
    unsigned long long at;
    uint32_t bits;
    if (!step || !factor || !settings)
        return saei_fail(l->ctx, SAE_ERR_FORMAT, "%s: %s is no backup of sae_train", l->who,
                         l->backup);
    SAEI_TRY(saei_loop_compare(l, settings));
    errno = 0;
    at = strtoull(step, &end, 10);
    if (errno || *end || end == step || at > l->desc.steps)
        return saei_fail(l->ctx, SAE_ERR_FORMAT, "%s: %s is damaged: step is \"%.40s\"", l->who,
                         l->backup, step);
    bits = (uint32_t)strtoul(factor, &end, 16);
    memcpy(&l->now.norm_factor, &bits, sizeof bits);
    if (*end || end == factor || !(l->now.norm_factor > 0) || l->now.norm_factor > FLT_MAX)
        return saei_fail(l->ctx, SAE_ERR_FORMAT,
                         "%s: %s is damaged: norm_factor is \"%.40s\"", l->who, l->backup,
                         factor);
    for (size_t i = 0; i < l->num_trainers; i++) {
        snprintf(prefix, sizeof prefix, "trainer_%zu.", i);
        SAEI_TRY(saei_trainer_state_set(l->trainers[i], l->who, file, prefix));
    }
    SAEI_TRY(saei_buffer_state_set(l->buffer, l->who, file, "buffer."));
    l->now.step = l->now.start_step = at;
    return SAE_OK;
}

static sae_result saei_loop_restore(sae_training *l) {
    sae_tensor_file *file;
    sae_result result;
    SAEI_TRY(sae_tensor_file_open(l->ctx, l->backup, &file));
    result = saei_loop_restore_from(l, file);
    sae_tensor_file_close(file);
    if (result == SAE_OK)
        saei_log(l->ctx, SAE_LOG_INFO, "%s: goes on at step %llu of %llu", l->who,
                 (unsigned long long)l->now.step, (unsigned long long)l->desc.steps);
    return result;
}
