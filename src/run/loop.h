#pragma once
#include "../train/stats.h"
#include "../train/config.h"
#include "../train/state.h"
#include "batches.h"

/* ==== >>loop: the object ====================================================================== */

enum { SAEI_NORM_BATCHES = 101 }; /* the reference asks for 100 and reads one more */

struct sae_training {
    sae_context *ctx;
    const char *who;          /* the public function that messages name */
    sae_train_desc desc;      /* save_dir, io and save_steps are copies, trainers is NULL */
    sae_buffer *buffer;
    size_t num_trainers, dim, target_dim; /* dims of one trainer's rows */
    sae_trainer **trainers;
    char **folders;           /* of each trainer; NULL without save_dir */
    char *backup;             /* path of the backup; NULL without save_dir */
    sae_tensor *tensors;      /* of a backup */
    char (*names)[96];
    saei_text fingerprint;    /* every setting that decides the result, one per line */
    saei_text about_buffer, about_run; /* for config.json */
    sae_progress now;
    bool replaces;            /* the backup is an earlier run's: removed after the first step */
    bool failed;              /* an update failed half way: the trainers are not at one step */
};

/* ---- settings as text ---- */

static uint64_t saei_hash(uint64_t hash, const void *data, size_t size) { /* FNV-1a */
    const unsigned char *p = (const unsigned char *)data;
    while (size--) hash = (hash ^ *p++) * 0x100000001B3ull;
    return hash;
}
#define SAEI_HASH_START 0xCBF29CE484222325ull

/* Shapes, types and the first row of each part of the data: not names, which may move. */
static void saei_print_source(saei_text *t, sae_buffer *b) {
    size_t bytes;
    for (size_t s = 0; s < b->num_streams; s++) {
        const saei_stream *stream = &b->stream[s];
        saei_text_add(t, "%s.dim=%zu\n", s ? "target" : "data", stream->dim);
        bytes = stream->dim * sae_dtype_size(stream->dtype);
        for (size_t i = 0; i < stream->num_slabs; i++) {
            const saei_slab *slab = &stream->slabs[i];
            uint64_t hash = SAEI_HASH_START;
            if (slab->rows) {
                saei_stream_row(stream, slab->begin, (unsigned char *)b->out[s]);
                hash = saei_hash(hash, b->out[s], bytes);
            }
            saei_text_add(t, "%s.%zu=%llu rows of %s, the first %016llx\n",
                          s ? "target" : "data", i, (unsigned long long)slab->rows,
                          sae_dtype_name(slab->dtype), (unsigned long long)hash);
        }
    }
}

static void saei_loop_fingerprint(sae_training *l) {
    const sae_buffer_desc *b = &l->buffer->desc;
    saei_text *t = &l->fingerprint;
    saei_text_add(t, "version=" SAE_VERSION "\n");
    saei_text_add(t, "steps=%llu\n", (unsigned long long)l->desc.steps);
    saei_text_add(t, "normalize_activations=%d\n", (int)l->desc.normalize_activations);
    saei_text_add(t, "buffer.batch_size=%zu\nbuffer.rows=%zu\nbuffer.heads=%zu\n", b->batch_size,
                  b->rows, b->heads);
    saei_text_add(t, "buffer.sequential=%d\nbuffer.single_pass=%d\nbuffer.seed=%llu\n",
                  (int)b->sequential, (int)b->single_pass, (unsigned long long)b->seed);
    saei_text_add(t, "buffer.max_activation_norm_multiple=");
    saei_text_add_real(t, b->max_activation_norm_multiple);
    saei_text_add(t, "\n");
    saei_print_source(t, l->buffer);
    saei_text_add(t, "trainers=%zu\n", l->num_trainers);
    for (size_t i = 0; i < l->num_trainers; i++)
        saei_trainer_settings(t, i, sae_trainer_get_desc(l->trainers[i]));
}

/* ---- set up ---- */

static sae_result saei_loop_check(sae_context *ctx, const char *who, const sae_train_desc *d) {
    size_t heads;
    if (!d) return saei_fail(ctx, SAE_ERR_INVALID, "%s: desc is NULL", who);
    if (!d->trainers || !d->num_trainers)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: num_trainers is 0 or trainers is NULL", who);
    if (!d->steps)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: steps is 0, allowed is 1 or more", who);
    heads = d->buffer.heads;
    if (heads > 1 && d->num_trainers != heads)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: num_trainers is %zu, with %zu heads there must be one for each", who,
                         d->num_trainers, heads);
    if (d->flat && d->num_trainers > 1)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: flat is set, allowed is that with one trainer; there are %zu", who,
                         d->num_trainers);
    if (d->num_save_steps && !d->save_steps)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: save_steps is NULL, num_save_steps %zu", who,
                         d->num_save_steps);
    if (!d->save_dir && (d->num_save_steps || d->backup_steps || d->resume))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: save_steps, backup_steps and resume need a save_dir, which is NULL",
                         who);
    return SAE_OK;
}

/* The caller's desc with copies of what is read after create. */
static sae_result saei_loop_copy(sae_training *l, const sae_train_desc *from) {
    size_t n = from->num_save_steps;
    uint64_t *steps = n ? (uint64_t *)saei_alloc(l->ctx, n, sizeof *steps) : NULL;
    l->desc = *from;
    l->desc.trainers = NULL;
    l->desc.save_dir = from->save_dir ? saei_strdup(l->ctx, from->save_dir) : NULL;
    l->desc.io = from->io ? saei_strdup(l->ctx, from->io) : NULL;
    l->desc.save_steps = steps;
    if ((from->save_dir && !l->desc.save_dir) || (from->io && !l->desc.io) || (n && !steps))
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for save_dir, io and %zu "
                         "save_steps", l->who, n);
    if (n) memcpy(steps, from->save_steps, n * sizeof *steps);
    return SAE_OK;
}

static sae_result saei_loop_trainer(sae_training *l, size_t i, sae_trainer_desc d) {
    const sae_buffer_desc *b = &l->buffer->desc;
    size_t width = l->target_dim ? l->target_dim : l->dim;
    if (!d.activation_dim) d.activation_dim = l->dim;
    if (!d.batch_size) d.batch_size = b->batch_size;
    if (!d.steps) d.steps = l->desc.steps;
    if (d.activation_dim != l->dim)
        return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                         "%s: activation_dim of trainer %zu is %zu, the data has rows of %zu",
                         l->who, i, d.activation_dim, l->dim);
    if (!d.output_dim) d.output_dim = width;
    if (d.output_dim != width)
        return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                         "%s: output_dim of trainer %zu is %zu, the %s has rows of %zu", l->who, i,
                         d.output_dim, l->target_dim ? "target" : "data", width);
    if (d.batch_size < b->batch_size)
        return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                         "%s: batch_size of trainer %zu is %zu, the buffer's is %zu", l->who, i,
                         d.batch_size, b->batch_size);
    sae_trainer_defaults(&d);
    SAEI_TRY(sae_trainer_create(l->ctx, &d, &l->trainers[i]));
    if (l->desc.normalize_activations && l->trainers[i]->view.normalizes)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "%s: normalize_activations is set, but trainer "
                         "%zu has a normalizer of its own, from %s", l->who, i, d.init);
    return SAE_OK;
}

static sae_result saei_loop_folders(sae_training *l) {
    const char *root = l->desc.save_dir;
    char name[40];
    if (!root) return SAE_OK;
    l->folders = (char **)saei_calloc(l->ctx, l->num_trainers, sizeof *l->folders);
    l->backup = saei_path_join(l->ctx, root, "backup.safetensors");
    if (!l->folders || !l->backup)
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for the paths of %zu trainers", l->who, l->num_trainers);
    for (size_t i = 0; i < l->num_trainers; i++) {
        snprintf(name, sizeof name, "trainer_%zu", i);
        l->folders[i] = l->desc.flat ? saei_strdup(l->ctx, root)
                                     : saei_path_join(l->ctx, root, name);
        if (!l->folders[i])
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the path %s/%s",
                             l->who, root, name);
        SAEI_TRY(saei_make_folder(l->ctx, l->who, l->folders[i]));
    }
    return SAE_OK;
}

static sae_result saei_loop_open(sae_training *l, const sae_train_desc *desc) {
    size_t n = l->num_trainers, most = n * SAEI_STATE_TENSORS + SAEI_BUFFER_TENSORS;
    SAEI_TRY(saei_loop_copy(l, desc));
    SAEI_TRY(sae_buffer_create(l->ctx, &desc->buffer, &l->buffer));
    l->dim = sae_buffer_dim(l->buffer) / l->buffer->desc.heads;
    l->target_dim = sae_buffer_target_dim(l->buffer) / l->buffer->desc.heads;
    l->trainers = (sae_trainer **)saei_calloc(l->ctx, n, sizeof *l->trainers);
    l->tensors = (sae_tensor *)saei_calloc(l->ctx, most, sizeof *l->tensors);
    l->names = (char(*)[96])saei_calloc(l->ctx, most, sizeof *l->names);
    if (!l->trainers || !l->tensors || !l->names)
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the names of %zu "
                         "tensors", l->who, most);
    l->now.trainers = l->trainers;
    for (size_t i = 0; i < n; i++) SAEI_TRY(saei_loop_trainer(l, i, desc->trainers[i]));
    saei_loop_fingerprint(l);
    if (l->fingerprint.failed)
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for the settings of %zu trainers", l->who, n);
    return saei_loop_folders(l);
}

SAE_API void sae_training_destroy(sae_training *l) {
    if (!l) return;
    for (size_t i = 0; l->trainers && i < l->num_trainers; i++) sae_trainer_destroy(l->trainers[i]);
    for (size_t i = 0; l->folders && i < l->num_trainers; i++) saei_free(l->ctx, l->folders[i]);
    sae_buffer_destroy(l->buffer);
    saei_free(l->ctx, l->trainers);
    saei_free(l->ctx, l->folders);
    saei_free(l->ctx, l->backup);
    saei_free(l->ctx, l->tensors);
    saei_free(l->ctx, l->names);
    saei_free(l->ctx, l->desc.save_dir);
    saei_free(l->ctx, l->desc.io);
    saei_free(l->ctx, l->desc.save_steps);
    saei_free(l->ctx, l->fingerprint.data);
    saei_free(l->ctx, l->about_buffer.data);
    saei_free(l->ctx, l->about_run.data);
    saei_free(l->ctx, l);
}

/* norm_factor = sqrt(mean over the first batches of their mean squared norm); rewinds the buffer.
   DEVIATION: with heads the norm is that of one head's rows; the reference's sum runs over the
   wrong axis there. */
static sae_result saei_loop_norm(sae_training *l) {
    double total = 0, mean;
    size_t batches = 0, n, width = sae_buffer_dim(l->buffer), heads = l->buffer->desc.heads;
    const float *x;
    for (; batches < SAEI_NORM_BATCHES; batches++) {
        double sum = 0;
        sae_result result = sae_buffer_next(l->buffer, &x, NULL, &n);
        if (result == SAE_ERR_END_OF_DATA && batches) break;
        if (result != SAE_OK) return result;
        for (size_t i = 0; i < n * width; i++) sum += (double)x[i] * (double)x[i];
        total += sum / ((double)n * (double)heads);
    }
    mean = total / (double)batches;
    l->now.norm_factor = (float)sqrt(mean);
    if (!(l->now.norm_factor > 0) || l->now.norm_factor > FLT_MAX)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "%s: normalize_activations finds a mean squared "
                         "norm of %g, allowed is a positive number", l->who, mean);
    return sae_buffer_rewind(l->buffer);
}

/* ---- diverged ---- */

/* Fails for a trainer whose loss of a step is not finite. */
static sae_result saei_loop_check_finite(sae_training *l, size_t i, const sae_stats *stats) {
    const sae_trainer *t = l->trainers[i];
    if (fabs(stats->loss) <= DBL_MAX) return SAE_OK;
    if (saei_has_trait(t, SAEI_ANNEALED) && !(fabs(t->now.sparsity_coeff) <= DBL_MAX))
        return saei_fail(l->ctx, SAE_ERR_INVALID,
                         "%s: trainer %zu (%s) diverged at step %llu: no latent fired in the steps "
                         "over which the penalty is scaled anew, so its coefficient is 0 / 0 (a "
                         "smaller penalty keeps latents alive)", l->who, i,
                         sae_trainer_name(t->desc.kind), (unsigned long long)stats->step);
    return saei_fail(l->ctx, SAE_ERR_INVALID,
                     "%s: trainer %zu (%s) diverged: its loss at step %llu is %s, allowed are "
                     "finite losses (try a smaller lr than %g)", l->who, i,
                     sae_trainer_name(t->desc.kind), (unsigned long long)stats->step,
                     stats->loss > 0 ? "infinite" : "NaN", t->desc.lr);
}

enum { SAEI_LOOP_LOOK = 32 }; /* steps of a device between two looks at the loss, which wait */

/* The same for a step that is not logged: at once where the scalars are the host's. */
static sae_result saei_loop_check_step(sae_training *l, size_t i) {
    const sae_trainer *t = l->trainers[i];
    double v[SAEI_S_COUNT];
    sae_stats stats;
    if (!t->ops->host_memory && l->now.step % SAEI_LOOP_LOOK) return SAE_OK;
    stats.step = (uint64_t)t->now.step - 1;
    saei_trainer_loss(t, v, &stats);
    return saei_loop_check_finite(l, i, &stats);
}

static sae_result saei_loop_check_weights(sae_training *l) {
    sae_stats stats;
    for (size_t i = 0; i < l->num_trainers; i++) {
        const sae_dictionary *dict = sae_trainer_dictionary(l->trainers[i]);
        if (l->now.step > l->now.start_step) { /* else there are no stats yet */
            SAEI_TRY(sae_trainer_stats(l->trainers[i], &stats));
            SAEI_TRY(saei_loop_check_finite(l, i, &stats));
        }
        if (!saei_all_finite(dict->params, dict->num_params))
            return saei_fail(l->ctx, SAE_ERR_INVALID,
                             "%s: trainer %zu diverged: its weights before step %llu hold NaN or "
                             "infinity", l->who, i, (unsigned long long)l->now.step);
    }
    return SAE_OK;
}
