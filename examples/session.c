/*  Session: a dictionary kept in the memory of the context's backend, with room for batches.

        cc -O2 -fopenmp -I. examples/session.c -lm -o session && ./session [DICTIONARY]

    On the CPU it gives what sae_encode_sparse and sae_forward give, bit for bit; on a GPU (build
    with -DSAE_CUDA, as README.md says) the same calls work there, on rows that may lie there too.
    Without an argument it makes a small dictionary. Prints
        AutoEncoderTopK, 64 -> 1024, on the CPU
        batch 0: 8.0 latents per row, reconstruction ...
        ...
        the same bits as without a session
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 512, BATCHES = 3 };

typedef struct buffers { /* of one batch, for the life of the program */
    float *x, *x_hat, *check;
    sae_sparse code;
} buffers;

static bool take_memory(buffers *b, const sae_dictionary_desc *info) {
    size_t d = info->activation_dim, m = info->dict_size;
    b->x = (float *)calloc(BATCH * d, sizeof(float));
    b->x_hat = (float *)calloc(BATCH * info->output_dim, sizeof(float));
    b->check = (float *)calloc(BATCH * info->output_dim, sizeof(float));
    b->code.row_begin = (size_t *)calloc(BATCH + 1, sizeof(size_t));
    b->code.latent = (uint32_t *)calloc(BATCH * m, sizeof(uint32_t));
    b->code.value = (float *)calloc(BATCH * m, sizeof(float));
    b->code.capacity = BATCH * m; /* enough for any class */
    return b->x && b->x_hat && b->check && b->code.row_begin && b->code.latent && b->code.value;
}

static sae_result run(const sae_dictionary *dict, sae_session *session, buffers *b) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t bytes = BATCH * info.output_dim * sizeof(float);
    uint32_t noise = 1;
    bool same = true;
    for (int batch = 0; batch < BATCHES; batch++) {
        sae_rows rows = { .data = b->x }; /* .dtype, .stride, .on_device: wherever they lie */
        sae_result result;
        for (size_t i = 0; i < BATCH * info.activation_dim; i++) {
            noise = noise * 1664525u + 1013904223u;
            b->x[i] = (float)(noise >> 8) / 8388608.0f - 1.0f;
        }
        result = sae_session_encode(session, &rows, BATCH, &b->code);
        if (result == SAE_OK) result = sae_session_forward(session, &rows, BATCH, b->x_hat);
        if (result == SAE_OK) result = sae_forward(dict, b->x, BATCH, b->check, NULL);
        if (result != SAE_OK) return result;
        same = same && memcmp(b->x_hat, b->check, bytes) == 0;
        printf("batch %d: %.1f latents per row, reconstruction %.3f %.3f ...\n", batch,
               (double)b->code.row_begin[BATCH] / BATCH, b->x_hat[0], b->x_hat[1]);
    }
    printf("%s bits as without a session\n", same ? "the same" : "OTHER");
    return SAE_OK;
}

int main(int argc, char **argv) {
    sae_dictionary_desc own = { .arch = SAE_ARCH_TOP_K, .activation_dim = 64, .dict_size = 1024,
                                .k = 8 };
    sae_context_desc desc = { 0 };
    sae_context *ctx = NULL;
    sae_dictionary *dict = NULL;
    sae_session *session = NULL;
    static buffers b;
    sae_result result;
#ifdef SAE_CUDA
    desc.backend = sae_cuda_backend();
#endif
    if (sae_context_create(&desc, &ctx) != SAE_OK) return 1;
    result = argc > 1 ? sae_dictionary_load(ctx, NULL, argv[1], &dict)
                      : sae_dictionary_create(ctx, &own, &dict);
    if (result == SAE_OK) result = sae_session_create(dict, BATCH, &session);
    if (result == SAE_OK) {
        sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
        printf("%s, %zu -> %zu, on %s\n", sae_arch_name(info.arch), info.activation_dim,
               info.dict_size, desc.backend ? "a GPU" : "the CPU");
        result = take_memory(&b, &info) ? run(dict, session, &b) : SAE_ERR_OUT_OF_MEMORY;
    }
    if (result != SAE_OK) fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(ctx));
    sae_session_destroy(session);
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    free(b.x), free(b.x_hat), free(b.check);
    free(b.code.row_begin), free(b.code.latent), free(b.code.value);
    return result == SAE_OK ? 0 : 1;
}
