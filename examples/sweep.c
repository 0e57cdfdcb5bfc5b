/*  Sweep: several trainers over one pass of data that need not fit in memory. One desc with a list.

        cc -O2 -fopenmp -I. examples/sweep.c -lm -o sweep && ./sweep [FOLDER]

    The data are shards on disk, here small ones it writes itself; the buffer holds a few thousand
    rows of them at a time. Prints the shards, then a line per trainer as it goes, then
        FOLDER/trainer_0: top_k, k 8: variance explained ..., L0 8.0
        ...
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>
#include <string.h>

enum { SHARDS = 4, ROWS = 4096, DIM = 32, TRAINERS = 4 };
static float shard[ROWS * DIM];
static char paths[SHARDS][512];

/* Each row is the sum of three of 128 fixed random directions. */
static void fill_shard(uint32_t *state) {
    static float directions[128 * DIM];
    uint32_t s = 99;
    for (size_t i = 0; i < 128 * DIM; i++) {
        s = s * 1664525u + 1013904223u;
        directions[i] = (float)(s >> 8) / 8388608.0f - 1.0f;
    }
    memset(shard, 0, sizeof shard);
    for (size_t r = 0; r < ROWS; r++)
        for (int n = 0; n < 3; n++) {
            *state = *state * 1664525u + 1013904223u;
            for (size_t j = 0; j < DIM; j++)
                shard[r * DIM + j] += directions[(*state >> 25) * DIM + j];
        }
}

static sae_result write_shards(sae_context *ctx, const char *folder) {
    uint32_t state = 7;
    for (int i = 0; i < SHARDS; i++) {
        sae_tensor t = { .name = "", .dtype = SAE_F32, .ndim = 2, .shape = { ROWS, DIM },
                         .stride = { DIM, 1 }, .data = shard };
        sae_result result;
        fill_shard(&state);
        snprintf(paths[i], sizeof paths[i], "%s_shard_%d.npy", folder, i);
        result = sae_tensor_file_write(ctx, paths[i], &t, 1);
        if (result != SAE_OK) return result;
        printf("wrote %s: %d rows of %d\n", paths[i], ROWS, DIM);
    }
    return SAE_OK;
}

static void on_log(void *user, size_t trainer, const sae_stats *s) {
    (void)user;
    printf("step %4.0f trainer %zu loss %8.4f L0 %6.1f\n", (double)s->step, trainer, s->loss,
           s->l0);
}

static sae_result show(sae_context *ctx, const sae_train_desc *train, size_t i) {
    char path[600];
    sae_evaluate_desc desc = { 0 };
    sae_dictionary *dict;
    sae_metrics m;
    sae_result result;
    desc.buffer = train->buffer;
    desc.batches = 8;
    snprintf(path, sizeof path, "%s/trainer_%zu", train->save_dir, i);
    result = sae_dictionary_load(ctx, NULL, path, &dict);
    if (result != SAE_OK) return result;
    result = sae_evaluate(dict, &desc, &m);
    if (result == SAE_OK)
        printf("%s: %s, variance explained %.3f, L0 %.1f\n", path,
               sae_trainer_name(train->trainers[i].kind), m.frac_variance_explained, m.l0);
    sae_dictionary_destroy(dict);
    return result;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "build/sweep_out";
    const char *files[SHARDS] = { paths[0], paths[1], paths[2], paths[3] };
    sae_trainer_desc trainers[TRAINERS] = {
        { .kind = SAE_TRAINER_TOP_K, .dict_size = 256, .k = 4 },
        { .kind = SAE_TRAINER_TOP_K, .dict_size = 256, .k = 8 },
        { .kind = SAE_TRAINER_BATCH_TOP_K, .dict_size = 256, .k = 8, .threshold_start_step = 100 },
        { .kind = SAE_TRAINER_JUMP_RELU, .dict_size = 256, .target_l0 = 8, .lr = 1e-3 },
    };
    sae_train_desc train = { 0 };
    sae_context *ctx;
    sae_result result;

    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    train.buffer.source.files = files;
    train.buffer.source.num_files = SHARDS;
    train.buffer.rows = 4096; /* of 16384: the rest stays on disk until its turn */
    train.buffer.batch_size = 256;
    train.trainers = trainers;
    train.num_trainers = TRAINERS;
    train.steps = 1000;
    train.save_dir = folder;
    train.log_steps = 250;
    train.log = on_log;

    result = write_shards(ctx, folder);
    if (result == SAE_OK) result = sae_train(ctx, &train);
    for (size_t i = 0; i < TRAINERS && result == SAE_OK; i++) result = show(ctx, &train, i);
    if (result != SAE_OK) fprintf(stderr, "%s\n", sae_error(ctx));
    for (int i = 0; i < SHARDS; i++) remove(paths[i]);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
