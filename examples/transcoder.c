/*  Transcoder: learn y from x through sparse latents, where y is what a layer makes of x.

        cc -O2 -fopenmp -I. examples/transcoder.c -lm -o transcoder && ./transcoder [OUT]

    The layer is a small random MLP; the only difference from any other training is the target.
    Prints
        as a transcoder:   variance of y explained ...
        as an autoencoder: variance of y explained ...      (worse: it was asked for x)
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>

enum { ROWS = 4096, DIM = 32, HIDDEN = 64 };
static float x[ROWS * DIM], y[ROWS * DIM], w_in[HIDDEN * DIM], w_out[DIM * HIDDEN];

static float noise(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* y = W_out relu(W_in x) */
static void run_layer(const float *in, float *out) {
    for (size_t j = 0; j < DIM; j++) out[j] = 0;
    for (size_t h = 0; h < HIDDEN; h++) {
        float a = 0;
        for (size_t j = 0; j < DIM; j++) a += w_in[h * DIM + j] * in[j];
        for (size_t j = 0; j < DIM && a > 0; j++) out[j] += w_out[j * HIDDEN + h] * a * 0.25f;
    }
}

static void make_data(void) {
    uint32_t state = 5;
    for (size_t i = 0; i < HIDDEN * DIM; i++) {
        w_in[i] = noise(&state);
        w_out[i] = noise(&state);
    }
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t j = 0; j < DIM; j++) x[r * DIM + j] = noise(&state);
        run_layer(x + r * DIM, y + r * DIM);
    }
}

/* Trains with y as the target or without one, and judges how well y is given. */
static sae_result train_one(sae_context *ctx, const char *out, bool transcoder, double *explained) {
    sae_trainer_desc trainer = { .kind = SAE_TRAINER_TOP_K, .dict_size = 512, .k = 16, .lr = 1e-3,
                                 .warmup_steps = 100 };
    sae_train_desc train = { 0 };
    sae_evaluate_desc judge = { 0 };
    sae_dictionary *dict;
    sae_metrics metrics;
    sae_result result;
    train.buffer.source.data = x;
    train.buffer.source.target = transcoder ? y : NULL;
    train.buffer.source.rows = ROWS;
    train.buffer.source.dim = DIM;
    train.buffer.batch_size = 256;
    train.trainers = &trainer;
    train.num_trainers = 1;
    train.steps = 600;
    train.save_dir = out;
    train.flat = true;
    result = sae_train(ctx, &train);
    if (result == SAE_OK) result = sae_dictionary_load(ctx, NULL, out, &dict);
    if (result != SAE_OK) return result;
    judge.buffer = train.buffer;
    judge.buffer.source.target = y;
    result = sae_evaluate(dict, &judge, &metrics);
    sae_dictionary_destroy(dict);
    if (result == SAE_OK) *explained = metrics.frac_variance_explained;
    return result;
}

int main(int argc, char **argv) {
    const char *out = argc > 1 ? argv[1] : "build/transcoder_out";
    sae_context *ctx;
    sae_result result;
    double with = 0, without = 0;
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    make_data();
    result = train_one(ctx, out, false, &without);
    if (result == SAE_OK) result = train_one(ctx, out, true, &with);
    if (result == SAE_OK)
        printf("as a transcoder:   variance of y explained %.3f\n"
               "as an autoencoder: variance of y explained %.3f\n", with, without);
    else fprintf(stderr, "%s\n", sae_error(ctx));
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
