/*  Toy: can a dictionary find the features that made the data?

        make build/toy   or  cc -O2 -fopenmp -I. examples/toy.c -lm -o toy && ./toy [OUT]

    512 ground-truth features are random directions in 64 dimensions; feature i is present in a row
    with a probability falling as 1/i (about 5 a row), with a strength of its own. Three trainers
    share one stream of such rows. Prints a table of figures, each computed from fresh rows and from
   the directions: "match" is the mean over the features of the largest cosine with any decoder row,
    weighted by how often the feature occurs.
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    FEATURES = 512,
    DIM = 64,
    LATENTS = 1024,
    BATCH = 512,
    STEPS = 1200,
    TEST = 8192,
    TRAINERS = 3
};

typedef struct toy {
    float direction[FEATURES][DIM];
    double chance[FEATURES];
    uint64_t state, first_state;
} toy;

/* splitmix64 */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double uniform(uint64_t *state) {
    return (double)(draw(state) >> 11) / 9007199254740992.0;
}

static void toy_start(toy *t, uint64_t seed) {
    uint64_t state = 2024;
    double sum = 0;
    for (int i = 0; i < FEATURES; i++) {
        double norm = 0;
        for (int j = 0; j < DIM; j++) { /* a sum of uniforms is near enough to a normal deviate */
            double g = 0;
            for (int n = 0; n < 6; n++) g += uniform(&state) - 0.5;
            t->direction[i][j] = (float)g;
            norm += g * g;
        }
        for (int j = 0; j < DIM; j++) t->direction[i][j] /= (float)sqrt(norm);
        t->chance[i] = 1.0 / (i + 8);
        sum += t->chance[i];
    }
    for (int i = 0; i < FEATURES; i++) t->chance[i] *= 5 / sum;
    t->state = t->first_state = seed;
}

/* A row is the sum of the features present in it, each times its strength in 1..2. */
static int64_t toy_read(void *user, float *x, float *target, size_t max_rows) {
    toy *t = (toy *)user;
    (void)target;
    memset(x, 0, max_rows * DIM * sizeof *x);
    for (size_t r = 0; r < max_rows; r++)
        for (int i = 0; i < FEATURES; i++) {
            if (uniform(&t->state) >= t->chance[i]) continue;
            float strength = (float)(1 + uniform(&t->state));
            for (int j = 0; j < DIM; j++) x[r * DIM + (size_t)j] += strength * t->direction[i][j];
        }
    return (int64_t)max_rows;
}

static sae_result toy_rewind(void *user) {
    ((toy *)user)->state = ((toy *)user)->first_state;
    return SAE_OK;
}

static double match(const toy *t, const sae_dictionary *dict) {
    double sum = 0, weight = 0;
    for (int i = 0; i < FEATURES; i++) {
        double best = 0;
        for (size_t l = 0; l < LATENTS; l++) {
            const float *w = sae_dictionary_decoder_row(dict, l);
            double dot = 0, norm = 0;
            for (int j = 0; j < DIM; j++) {
                dot += (double)w[j] * (double)t->direction[i][j];
                norm += (double)w[j] * (double)w[j];
            }
            if (norm > 0 && dot / sqrt(norm) > best) best = dot / sqrt(norm);
        }
        sum += t->chance[i] * best;
        weight += t->chance[i];
    }
    return sum / weight;
}

static bool on_progress(void *user, const sae_progress *p) {
    (void)user;
    if (p->step % (STEPS / 4) == 0)
        fprintf(stderr, "training %zu dictionaries: %3.0f %%\n", p->num_trainers,
                100.0 * (double)p->step / (double)p->steps);
    return true;
}

static sae_result show(sae_context *ctx, const toy *t, const char *out, size_t i,
                       const char *name) {
    static toy fresh;
    char path[600];
    sae_evaluate_desc desc = { .buffer = { .source = { .read = toy_read, .rewind = toy_rewind,
                                                       .user = &fresh, .dim = DIM },
                                           .batch_size = BATCH, .sequential = true },
                               .batches = TEST / BATCH };
    sae_dictionary *dict;
    sae_metrics m;
    sae_result result;
    toy_start(&fresh, 999);
    snprintf(path, sizeof path, "%s/trainer_%zu", out, i);
    result = sae_dictionary_load(ctx, NULL, path, &dict);
    if (result != SAE_OK) return result;
    result = sae_evaluate(dict, &desc, &m);
    if (result == SAE_OK)
        printf("%-12s %10.4f %8.2f %8.2f %8.1f %8.3f   %s\n", name, m.frac_variance_explained, m.l0,
               m.l1_loss, 100 * m.frac_alive, match(t, dict), path);
    sae_dictionary_destroy(dict);
    return result;
}

int main(int argc, char **argv) {
    static toy source;
    const char *out = argc > 1 ? argv[1] : "build/toy_out";
    sae_trainer_desc trainers[TRAINERS] = {
        { .kind = SAE_TRAINER_TOP_K, .k = 6, .lr = 1e-3 },
        { .kind = SAE_TRAINER_BATCH_TOP_K, .k = 6, .lr = 1e-3 },
        { .kind = SAE_TRAINER_JUMP_RELU, .target_l0 = 6, .lr = 1e-3, .bandwidth = 0.05 },
    };
    sae_train_desc train = { .buffer = { .source = { .read = toy_read, .rewind = toy_rewind,
                                                     .user = &source, .dim = DIM },
                                         .batch_size = BATCH, .rows = 16 * BATCH },
                             .trainers = trainers, .num_trainers = TRAINERS, .steps = STEPS,
                             .save_dir = out, .progress = on_progress };
    sae_context *ctx;
    sae_result result;

    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    toy_start(&source, 1);
    for (int i = 0; i < TRAINERS; i++) {
        trainers[i].dict_size = LATENTS;
        trainers[i].warmup_steps = 100;
        trainers[i].sparsity_warmup_steps = 300;
        trainers[i].decay_start = STEPS * 3 / 4;
        trainers[i].threshold_start_step = 200;
    }
    printf("%d features in %d dimensions, %d latents, %d steps of %d rows\n", FEATURES, DIM,
           LATENTS, STEPS, BATCH);
    fflush(stdout);
    result = sae_train(ctx, &train);
    if (result == SAE_OK)
        printf("%-12s %10s %8s %8s %8s %8s   %s\n", "trainer", "explained", "L0", "L1", "% alive",
               "match", "files");
    for (size_t i = 0; i < TRAINERS && result == SAE_OK; i++)
        result = show(ctx, &source, out, i, sae_trainer_name(trainers[i].kind));
    if (result == SAE_OK)
        printf("explained: share of the variance; L0, L1: latents a row and their sum; match: mean "
               "cosine\nof a feature and the decoder row nearest to it\n");
    if (result != SAE_OK) fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(ctx));
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
