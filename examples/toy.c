/*  Toy: does a dictionary find the features that made the data?

        cc -O2 -fopenmp -I. examples/toy.c -lm -o toy && ./toy

    The features are 256 random directions in 64 dimensions; each row is a sum of four of them, some
    frequent, some rare, each with a strength of its own. Only the rows are trained on. Prints
        explained 0.9..., and of 256 features ... are found (cosine above 0.9)
        found among the frequent half ..., among the rare half ...
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FEATURES = 256, DIM = 64, LATENTS = 512, K = 4, BATCH = 512, STEPS = 1500 };

static float feature[FEATURES][DIM];

static double uniform(uint64_t *state) { /* splitmix64; 0..1 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

static void make_features(uint64_t *state) {
    for (int i = 0; i < FEATURES; i++) {
        double norm = 0;
        for (int j = 0; j < DIM; j++) {
            feature[i][j] = (float)(uniform(state) + uniform(state) + uniform(state) - 1.5);
            norm += (double)feature[i][j] * feature[i][j];
        }
        for (int j = 0; j < DIM; j++) feature[i][j] /= (float)sqrt(norm);
    }
}

static void next_batch(uint64_t *state, float *x) {
    memset(x, 0, BATCH * DIM * sizeof *x);
    for (size_t i = 0; i < K * BATCH; i++) {
        double u = uniform(state);
        size_t which = (size_t)(u * sqrt(u) * FEATURES); /* low numbers are more frequent */
        float strength = (float)(1 + uniform(state));
        for (size_t j = 0; j < DIM; j++) x[i / K * DIM + j] += strength * feature[which][j];
    }
}

/* Whether some decoder row points along the feature. */
static bool is_found(const sae_dictionary *dict, const float *direction) {
    for (size_t i = 0; i < LATENTS; i++) {
        const float *w = sae_dictionary_decoder_row(dict, i);
        double dot = 0, norm = 0;
        for (size_t j = 0; j < DIM; j++) {
            dot += (double)w[j] * (double)direction[j];
            norm += (double)w[j] * (double)w[j];
        }
        if (dot > 0.9 * sqrt(norm)) return true;
    }
    return false;
}

int main(void) {
    static float x[BATCH * DIM];
    sae_trainer_desc desc = { .kind = SAE_TRAINER_TOP_K, .activation_dim = DIM,
                              .dict_size = LATENTS, .batch_size = BATCH, .steps = STEPS, .k = K,
                              .lr = 1e-3, .decay_start = STEPS * 3 / 4 };
    uint64_t state = 1;
    sae_context *ctx = NULL;
    sae_trainer *trainer = NULL;
    sae_stats stats = { 0 };
    sae_result result;

    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    make_features(&state);
    result = sae_trainer_create(ctx, &desc, &trainer);
    for (int step = 0; step < STEPS && result == SAE_OK; step++) {
        next_batch(&state, x);
        result = sae_trainer_step(trainer, x, NULL, BATCH);
    }
    if (result == SAE_OK) result = sae_trainer_stats(trainer, &stats);
    if (result == SAE_OK) {
        const sae_dictionary *dict = sae_trainer_dictionary(trainer);
        int found[2] = { 0, 0 };
        for (int i = 0; i < FEATURES; i++) found[i >= FEATURES / 2] += is_found(dict, feature[i]);
        printf("explained %.3f, and of %d features %d are found (cosine above 0.9)\n"
               "found among the frequent half %d, among the rare half %d\n",
               stats.frac_variance_explained, FEATURES, found[0] + found[1], found[0], found[1]);
    } else {
        fprintf(stderr, "%s\n", sae_error(ctx));
    }
    sae_trainer_destroy(trainer);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
