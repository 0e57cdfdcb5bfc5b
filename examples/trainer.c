/*  Trainer: the training loop in your own hands: create, step, stats, dictionary.

        cc -O2 -fopenmp -I. examples/trainer.c -lm -o trainer && ./trainer [FILE]

    For batches that your program makes as it goes; nothing is read or written but what you ask for.
    With FILE (.safetensors or .pt) the dictionary is saved there. Prints
        step   0: loss ..., L0 8.0
        ...
        latents of a row: 5=1.31 ...
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>
#include <string.h>

enum { BATCH = 256, DIM = 32, LATENTS = 256, K = 8, STEPS = 800, DIRECTIONS = 128 };

static float directions[DIRECTIONS * DIM];

static uint32_t draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Stands for your model: each row is the sum of three fixed directions. */
static void next_batch(uint32_t *state, float *x) {
    memset(x, 0, BATCH * DIM * sizeof *x);
    for (size_t i = 0; i < 3 * BATCH; i++) {
        const float *direction = directions + draw(state) % DIRECTIONS * DIM;
        for (size_t j = 0; j < DIM; j++) x[i / 3 * DIM + j] += direction[j];
    }
}

static sae_result train(sae_trainer *trainer, uint32_t *state, float *x) {
    for (int step = 0; step < STEPS; step++) {
        sae_result result;
        sae_stats stats;
        next_batch(state, x);
        result = sae_trainer_step(trainer, x, NULL, BATCH); /* allocates nothing */
        if (result == SAE_OK && step % 200 == 0) {
            result = sae_trainer_stats(trainer, &stats);
            if (result == SAE_OK)
                printf("step %3d: loss %.3f, L0 %.1f, variance explained %.3f\n", step, stats.loss,
                       stats.l0, stats.frac_variance_explained);
        }
        if (result != SAE_OK) return result;
    }
    return SAE_OK;
}

/* The trainer's dictionary is a view: good for any call that takes one, until the next step. */
static sae_result show(sae_trainer *trainer, const float *row, const char *path) {
    const sae_dictionary *dict = sae_trainer_dictionary(trainer);
    size_t row_begin[2];
    uint32_t latent[LATENTS];
    float value[LATENTS];
    sae_sparse code = { row_begin, latent, value, LATENTS };
    sae_result result = sae_encode_sparse(dict, row, 1, &code);
    if (result != SAE_OK) return result;
    printf("latents of a row:");
    for (size_t i = 0; i < row_begin[1]; i++) printf(" %u=%.2f", latent[i], value[i]);
    printf("\n");
    return path ? sae_dictionary_save(dict, path) : SAE_OK;
}

int main(int argc, char **argv) {
    static float x[BATCH * DIM];
    sae_trainer_desc desc = { .kind = SAE_TRAINER_TOP_K, .activation_dim = DIM,
                              .dict_size = LATENTS, .batch_size = BATCH, .steps = STEPS, .k = K,
                              .lr = 1e-3 };
    uint32_t state = 1;
    sae_context *ctx = NULL;
    sae_trainer *trainer = NULL;
    sae_result result;

    for (size_t i = 0; i < DIRECTIONS * DIM; i++)
        directions[i] = (float)draw(&state) / 8388608.0f - 1.0f;
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    result = sae_trainer_create(ctx, &desc, &trainer);
    if (result == SAE_OK) result = train(trainer, &state, x);
    if (result == SAE_OK) result = show(trainer, x, argc > 1 ? argv[1] : NULL);
    if (result != SAE_OK) fprintf(stderr, "%s\n", sae_error(ctx));
    sae_trainer_destroy(trainer);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
