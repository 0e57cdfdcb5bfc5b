/*  Custom source: activations come from a callback, as from a model run next to the training.

        cc -O2 -fopenmp -I. examples/custom_source.c -lm -o custom_source && ./custom_source [OUT]

    The callback gives rows as long as it likes; the buffer shuffles what it holds. Prints
        step    0 ...
        ...
        the source gave ... rows in ... calls
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>
#include <string.h>

enum { DIM = 48, FEATURES = 192 };

/* Stands for a model: every row is four of its features, each a fixed direction. */
typedef struct model {
    float direction[FEATURES * DIM];
    uint32_t state;
    size_t rows, calls;
} model;

static uint32_t draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void model_start(model *m) {
    uint32_t state = 11;
    memset(m, 0, sizeof *m);
    for (size_t i = 0; i < FEATURES * DIM; i++)
        m->direction[i] = (float)draw(&state) / 8388608.0f - 1.0f;
    m->state = 1;
}

/* Fills up to max_rows rows. Fewer is fine; 0 means the end, a negative sae_result a failure. */
static int64_t model_read(void *user, float *x, float *target, size_t max_rows) {
    model *m = (model *)user;
    size_t n = max_rows < 512 ? max_rows : 512;
    (void)target; /* has_target is false */
    memset(x, 0, n * DIM * sizeof *x);
    for (size_t r = 0; r < n; r++)
        for (int k = 0; k < 4; k++) {
            const float *w = m->direction + draw(&m->state) % FEATURES * DIM;
            for (size_t j = 0; j < DIM; j++) x[r * DIM + j] += w[j];
        }
    m->rows += n;
    m->calls++;
    return (int64_t)n;
}

/* From the first row again, with the same rows: a resumed run needs it. */
static sae_result model_rewind(void *user) {
    ((model *)user)->state = 1;
    return SAE_OK;
}

static void on_log(void *user, size_t trainer, const sae_stats *s) {
    (void)user;
    (void)trainer;
    printf("step %4.0f  loss %8.3f  L0 %5.1f  variance explained %.3f\n", (double)s->step, s->loss,
           s->l0, s->frac_variance_explained);
}

int main(int argc, char **argv) {
    static model source;
    sae_trainer_desc trainer = { .kind = SAE_TRAINER_BATCH_TOP_K };
    sae_train_desc train = { 0 };
    sae_context *ctx;
    sae_result result;
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    model_start(&source);

    trainer.dict_size = 512;
    trainer.k = 8;
    trainer.lr = 1e-3;
    trainer.warmup_steps = 100;
    train.buffer.source.read = model_read;
    train.buffer.source.rewind = model_rewind;
    train.buffer.source.user = &source;
    train.buffer.source.dim = DIM;
    train.buffer.rows = 8192;
    train.buffer.batch_size = 256;
    train.trainers = &trainer;
    train.num_trainers = 1;
    train.steps = 1001;
    train.save_dir = argc > 1 ? argv[1] : "build/custom_source_out";
    train.flat = true;
    train.log_steps = 250;
    train.log = on_log;

    result = sae_train(ctx, &train);
    if (result != SAE_OK) fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(ctx));
    printf("the source gave %zu rows in %zu calls\n", source.rows, source.calls);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
