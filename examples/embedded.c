/*  Embedded: a dictionary compiled into the program as an array, loaded from memory.

        cc -O2 -fopenmp -I. examples/embedded.c -lm -o embedded && ./embedded

    No file is opened; with SAE_NO_STDIO defined there is no code for them. embedded.inc is a
    .safetensors as numbers; yours becomes one by
            od -An -v -tx1 ae.safetensors | sed 's/ *\([0-9a-f][0-9a-f]\)/0x\1,/g' > embedded.inc
    (in C23, #embed "ae.safetensors" takes its place). Prints
        1032 bytes: AutoEncoderTopK, 4 -> 16, k 3
        latents of a row: ...
        its reconstruction: ...
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>

static const unsigned char bytes[] = {
#include "embedded.inc"
};

static sae_result show(const sae_dictionary *dict) {
    static const float x[4] = { 0.5f, -1.0f, 0.25f, 2.0f };
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t row_begin[2];
    uint32_t latent[16];
    float value[16], x_hat[4];
    sae_sparse code = { row_begin, latent, value, 16 };
    sae_result result = sae_encode_sparse(dict, x, 1, &code);
    if (result == SAE_OK) result = sae_decode_sparse(dict, &code, 1, x_hat);
    if (result != SAE_OK) return result;
    printf("%zu bytes: %s, %zu -> %zu, k %zu\nlatents of a row:", sizeof bytes,
           sae_arch_name(info.arch), info.activation_dim, info.dict_size, info.k);
    for (size_t i = 0; i < row_begin[1]; i++) printf(" %u=%.3f", latent[i], value[i]);
    printf("\nits reconstruction:");
    for (size_t j = 0; j < 4; j++) printf(" %.3f", x_hat[j]);
    printf("\n");
    return SAE_OK;
}

int main(void) {
    sae_load_desc desc = { .arch = SAE_ARCH_TOP_K }; /* the tensors alone may be BATCH_TOP_K's */
    sae_context *ctx = NULL;
    sae_dictionary *dict = NULL;
    sae_result result;
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    result = sae_dictionary_load_memory(ctx, &desc, bytes, sizeof bytes, &dict);
    if (result == SAE_OK) result = show(dict); /* the array is not needed any more */
    if (result != SAE_OK) fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(ctx));
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
