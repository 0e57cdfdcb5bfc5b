/*  Buffer: shuffled batches of rows from files that need not fit in memory, without a trainer.

        cc -O2 -fopenmp -I. examples/buffer.c -lm -o buffer && ./buffer [FILE.npy...]

    For a training loop of your own, here or in another framework. Without an argument it writes two
    small files and reads them. Prints
        10000 rows of 16
        batch 0: 512 rows, the first of them ...
        ...
        20 batches, 10000 rows, mean of the first column ...
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>

enum { FILES = 2, ROWS = 5000, DIM = 16 };
static const char *const own[FILES] = { "buffer_0.npy", "buffer_1.npy" };

/* Row r of all files has r in each column. */
static sae_result write_files(sae_context *ctx) {
    static float rows[ROWS * DIM];
    for (size_t f = 0; f < FILES; f++) {
        sae_tensor t = { .name = "", .dtype = SAE_F32, .ndim = 2, .shape = { ROWS, DIM },
                         .stride = { DIM, 1 }, .data = rows };
        sae_result result;
        for (size_t i = 0; i < ROWS * DIM; i++) rows[i] = (float)(f * ROWS + i / DIM);
        result = sae_tensor_file_write(ctx, own[f], &t, 1);
        if (result != SAE_OK) return result;
    }
    return SAE_OK;
}

static sae_result read_all(sae_buffer *buffer) {
    size_t dim = sae_buffer_dim(buffer), batches = 0, rows = 0, n;
    const float *x, *target; /* owned by the buffer, until the next call */
    double sum = 0;
    sae_result result;
    printf("%.0f rows of %zu\n", (double)sae_buffer_source_rows(buffer), dim);
    while ((result = sae_buffer_next(buffer, &x, &target, &n)) == SAE_OK) {
        for (size_t r = 0; r < n; r++) sum += x[r * dim];
        if (batches < 3) printf("batch %zu: %zu rows, the first of them %g ...\n", batches, n, *x);
        batches++;
        rows += n;
    }
    if (result != SAE_ERR_END_OF_DATA) return result;
    printf("%zu batches, %zu rows, mean of the first column %.1f\n", batches, rows,
           sum / (double)rows);
    return SAE_OK;
}

int main(int argc, char **argv) {
    bool given = argc > 1;
    sae_buffer_desc desc = {
        .source = { .files = given ? (const char *const *)argv + 1 : own,
                    .num_files = given ? (size_t)(argc - 1) : FILES },
        .batch_size = 512,
        .rows = 4096,        /* held at a time, and shuffled among each other */
        .single_pass = true, /* else pass after pass, without an end */
        .seed = 1
    };
    sae_context *ctx = NULL;
    sae_buffer *buffer = NULL;
    sae_result result = SAE_OK;

    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    if (!given) result = write_files(ctx);
    if (result == SAE_OK) result = sae_buffer_create(ctx, &desc, &buffer);
    if (result == SAE_OK) result = read_all(buffer);
    if (result != SAE_OK) fprintf(stderr, "%s\n", sae_error(ctx));
    sae_buffer_destroy(buffer);
    for (int f = 0; f < FILES && !given; f++) remove(own[f]);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
