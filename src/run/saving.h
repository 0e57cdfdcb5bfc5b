#pragma once
#include "../formats/save.h"
#include "../train/config.h"
#include "resume.h"

/* ==== >>loop: the folders of a run ============================================================ */

#ifndef SAE_NO_FORMATS /* which lets no trainer of sparsify's begin that has a folder */
/* A dictionary of sparsify's trainer as its program saves it; dict is destroyed. */
static sae_result saei_loop_export(sae_training *l, sae_dictionary *dict, const char *folder) {
    sae_export_desc desc;
    sae_result result = SAE_OK;
    memset(&desc, 0, sizeof desc);
    desc.format = SAE_FORMAT_SPARSIFY;
    if (l->desc.normalize_activations)
        result = sae_dictionary_scale_biases(dict, l->now.norm_factor);
    if (result == SAE_OK) result = sae_dictionary_export(dict, &desc, folder);
    sae_dictionary_destroy(dict);
    return result;
}
#endif

/* The dictionary of trainer i in raw units, to folder/name, and to folder/second if given. */
static sae_result saei_loop_save(sae_training *l, size_t i, const char *folder, const char *name,
                                 const char *second) {
    sae_dictionary *copy = NULL;
    sae_result result = saei_dictionary_copy(sae_trainer_dictionary(l->trainers[i]), l->who, &copy);
    if (result != SAE_OK) return result;
#ifndef SAE_NO_FORMATS
    if (sae_trainer_get_desc(l->trainers[i])->kind == SAE_TRAINER_SPARSIFY && second)
        return saei_loop_export(l, copy, folder);
#endif
    if (l->desc.normalize_activations)
        result = sae_dictionary_scale_biases(copy, l->now.norm_factor);
    for (int k = 0; k < 2 && result == SAE_OK && (k == 0 || second); k++) {
        char *path = saei_path_join(l->ctx, folder, k ? second : name);
        if (path) result = saei_save_state_dict(copy, path, NULL, NULL);
        else result = saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the path %s/%s",
                                l->who, folder, k ? second : name);
        saei_free(l->ctx, path);
    }
    sae_dictionary_destroy(copy);
    return result;
}

static sae_result saei_loop_checkpoints(sae_training *l) {
    char name[40];
    SAEI_TRY(saei_loop_check_weights(l));
    snprintf(name, sizeof name, SAEI_LOOP_PT ? "ae_%llu.pt" : "ae_%llu.safetensors",
             (unsigned long long)l->now.step);
    for (size_t i = 0; i < l->num_trainers; i++) {
        char *folder = saei_path_join(l->ctx, l->folders[i], "checkpoints");
        sae_result result;
        if (!folder)
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                             "%s: no memory for the path %s/checkpoints", l->who, l->folders[i]);
        result = saei_make_folder(l->ctx, l->who, folder);
        if (result == SAE_OK) result = saei_loop_save(l, i, folder, name, NULL);
        saei_free(l->ctx, folder);
        if (result != SAE_OK) return result;
    }
    return SAE_OK;
}

/* config.json of all trainers. "buffer" has the reference's keys, as other programs ask for them;
   where nobody says how long contexts are, rows count as contexts of 128, the reference's default.
   keep: do not overwrite that of a finished run. */
static sae_result saei_loop_configs(sae_training *l, uint64_t finished, bool keep) {
    const sae_buffer_desc *b = &l->buffer->desc;
    saei_text *t = &l->about_buffer, *own = &l->about_run;
    size_t ctx_len = l->desc.ctx_len ? l->desc.ctx_len : 128;
    const char *io = l->desc.io ? l->desc.io : l->buffer->num_streams == 2 ? "in_and_out" : "out";
    char hash[20];
    saei_loop_hash(l, hash);
    for (size_t i = 0; l->folders && i < l->num_trainers; i++) {
        const sae_trainer_desc *d = sae_trainer_get_desc(l->trainers[i]);
        if (keep && saei_loop_folder_holds(l, l->folders[i]) != SAEI_LOOP_NOTHING) continue;
        t->size = own->size = 0;
        saei_text_add(t, "{\"d_submodule\": %zu, \"io\": ", l->dim);
        saei_text_add_json_string(t, io);
        saei_text_add(t, ", \"n_ctxs\": %zu, \"ctx_len\": %zu, \"refresh_batch_size\": 512, "
                      "\"out_batch_size\": %zu, \"device\": \"cpu\"}",
                      saei_ceil_div(b->rows, ctx_len), ctx_len, b->batch_size);
        saei_text_add(own, "{\"version\": \"" SAE_VERSION "\", \"norm_factor\": ");
        if (l->desc.normalize_activations) saei_text_add_real(own, (double)l->now.norm_factor);
        else saei_text_add(own, "null");
        if (b->heads > 1) saei_text_add(own, ", \"head\": %zu, \"heads\": %zu", i, b->heads);
        if (l->desc.prepend_bos) saei_text_add(own, ", \"prepend_bos\": true");
        saei_text_add(own, ", \"seed\": %llu, \"buffer_seed\": %llu, \"steps\": %llu, "
                      "\"finished_steps\": %llu, \"fingerprint\": \"%s\"}",
                      (unsigned long long)d->seed, (unsigned long long)b->seed,
                      (unsigned long long)l->desc.steps, (unsigned long long)finished, hash);
        if (t->failed || own->failed)
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %s/config.json",
                             l->who, l->folders[i]);
        SAEI_TRY(saei_config_write(l->ctx, l->who, l->folders[i], d, t->data, own->data));
    }
    return SAE_OK;
}

/* The dictionaries of all trainers as they stand; again does nothing. */
static sae_result saei_loop_finish(sae_training *l) {
    if (l->now.finished) return SAE_OK;
    SAEI_TRY(saei_loop_check_weights(l));
    if (l->folders) {
        SAEI_TRY(saei_loop_configs(l, 0, false)); /* until the weights are there: not finished */
        for (size_t i = 0; i < l->num_trainers; i++)
            SAEI_TRY(saei_loop_save(l, i, l->folders[i], SAEI_LOOP_PT ? "ae.pt" : "ae.safetensors",
                                    SAEI_LOOP_PT ? "ae.safetensors" : NULL));
        SAEI_TRY(saei_loop_configs(l, l->now.step, false));
        saei_loop_remove_backup(l);
    }
    l->now.finished = true;
    return SAE_OK;
}
