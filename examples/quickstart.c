/*  Quickstart: train a dictionary on rows in memory, judge it, use it; every error handled.

        cc -O2 -fopenmp -I. examples/quickstart.c -lm -o quickstart && ./quickstart [OUT]

    Prints
        8.0 of 256 latents active, variance explained 0.9...
        row 0: (its latents, as number=value)
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>

enum { ROWS = 4096, DIM = 32, LATENTS = 256, K = 8 };
static float rows[ROWS * DIM];

static void make_rows(void) { /* each row is the sum of three out of 64 fixed directions */
    for (uint32_t i = 0, s = 1; i < 3 * ROWS; i++) {
        s = s * 1664525u + 1013904223u;
        for (uint32_t j = 0; j < DIM; j++)
            rows[i / 3 * DIM + j] += ((s >> 26) * DIM + j) * 2654435761u >> 20 & 1 ? 1.0f : -1.0f;
    }
}

int main(int argc, char **argv) {
    const char *out = argc > 1 ? argv[1] : "build/quickstart_out";
    sae_trainer_desc trainer = {
        .kind = SAE_TRAINER_TOP_K, .dict_size = LATENTS, .k = K, .lr = 1e-3
    };
    sae_buffer_desc data = { .source = { .data = rows, .rows = ROWS, .dim = DIM },
                             .batch_size = 256 };
    sae_train_desc train = { .buffer = data, .trainers = &trainer, .num_trainers = 1, .steps = 1000,
                             .save_dir = out, .flat = true };
    sae_evaluate_desc judge = { .buffer = data };
    size_t row_begin[2];
    uint32_t latent[K];
    float value[K];
    sae_sparse code = { row_begin, latent, value, K };
    sae_context *ctx = NULL;
    sae_dictionary *dict = NULL;
    sae_metrics metrics;
    bool good;

    make_rows();
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    good = sae_train(ctx, &train) == SAE_OK
           && sae_dictionary_load(ctx, NULL, out, &dict) == SAE_OK
           && sae_evaluate(dict, &judge, &metrics) == SAE_OK
           && sae_encode_sparse(dict, rows, 1, &code) == SAE_OK;
    if (!good) fprintf(stderr, "%s\n", sae_error(ctx));
    if (good) {
        printf("%.1f of %d latents active, variance explained %.3f\nrow 0:", metrics.l0, LATENTS,
               metrics.frac_variance_explained);
        for (size_t i = 0; i < row_begin[1]; i++) printf(" %u=%.2f", latent[i], value[i]);
        printf("\nfiles: %s/{config.json,ae.pt,ae.safetensors}\n", out);
    }
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    return good ? 0 : 1;
}
