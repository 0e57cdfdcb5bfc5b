/*  Engine: load a dictionary once, then encode and steer one row a frame: no allocation per frame,
    all memory from the engine's own allocator, which counts.

        cc -O2 -I. examples/engine.c -lm -o engine && ./engine [DICTIONARY]

    Without an argument it makes a small dictionary, saves it and opens that file. Prints
        loaded: AutoEncoderTopK, 64 -> 512, ... allocations
        frame 0: 8 latents, strongest ..., its value after steering ...
        ...
        60 frames: 0 allocations
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t allocations;

static void *engine_alloc(size_t size, void *user) {
    (void)user;
    allocations++;
    return malloc(size);
}

static void engine_free(void *memory, void *user) {
    (void)user;
    free(memory);
}

static void engine_log(sae_log_level level, sae_result result, const char *message,
                       void *user) {
    (void)result;
    (void)user;
    fprintf(stderr, "[sae %d] %s\n", (int)level, message);
}

/* For a bare checkout: a fresh dictionary in a file. */
static sae_result make_dictionary(sae_context *ctx, const char *path) {
    sae_dictionary_desc desc = { .arch = SAE_ARCH_TOP_K, .activation_dim = 64, .dict_size = 512,
                                 .k = 8 };
    sae_dictionary *dict;
    sae_result result = sae_dictionary_create(ctx, &desc, &dict);
    if (result != SAE_OK) return result;
    result = sae_dictionary_save(dict, path);
    sae_dictionary_destroy(dict);
    return result;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "engine_demo.safetensors";
    sae_context_desc desc = { .allocator = { engine_alloc, engine_free, NULL },
                              .logger = { engine_log, NULL },
                              .threads = 1 }; /* of this context; any number may call with dict */
    sae_load_desc load = { 0 };
    sae_context *ctx;
    sae_dictionary *dict = NULL;
    sae_result result = SAE_OK;

    if (sae_context_create(&desc, &ctx) != SAE_OK) return 1;
    if (argc < 2) {
        load.arch = SAE_ARCH_TOP_K; /* the file alone does not tell TOP_K from BATCH_TOP_K */
        result = make_dictionary(ctx, path);
    }
    if (result == SAE_OK) result = sae_dictionary_load(ctx, &load, path, &dict);
    if (argc < 2) remove(path);
    if (result != SAE_OK) {
        fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(ctx));
        sae_context_destroy(ctx);
        return 1;
    }

    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t d = info.activation_dim, m = info.dict_size, row_begin[2];
    float *memory = (float *)malloc((d + 2 * m) * sizeof *memory); /* for all frames */
    float *x = memory, *value = x + d;
    uint32_t *latent = (uint32_t *)(value + m), noise = 1;
    sae_sparse code = { row_begin, latent, value, m };
    if (!memory) return 1;
    printf("loaded: %s, %zu -> %zu, %zu allocations\n", sae_arch_name(info.arch), d, m,
           allocations);
    allocations = 0;

    for (int frame = 0; frame < 60 && result == SAE_OK; frame++) {
        size_t count, best = 0;
        float after;
        for (size_t i = 0; i < d; i++) { /* stands for the activations of this frame */
            noise = noise * 1664525u + 1013904223u;
            x[i] = (float)(noise >> 8) / 8388608.0f - 1.0f;
        }
        result = sae_encode_sparse(dict, x, 1, &code);
        count = result == SAE_OK ? row_begin[1] : 0;
        for (size_t i = 1; i < count; i++)
            if (value[i] > value[best]) best = i;
        if (count == 0) continue;
        uint32_t chosen = latent[best];
        float before = value[best];
        sae_steering steering = { chosen, SAE_STEER_ADD, 5.0f };
        result = sae_steer(dict, x, 1, &steering, 1);
        if (result == SAE_OK) result = sae_encode_subset(dict, x, 1, &chosen, 1, &after);
        if (result != SAE_OK) break;
        if (frame < 3)
            printf("frame %d: %zu latents, strongest %u at %.3f, after steering by 5 at %.3f\n",
                   frame, count, chosen, before, after);
    }
    if (result != SAE_OK) fprintf(stderr, "%s\n", sae_error(ctx));
    else printf("60 frames: %zu allocations\n", allocations);
    free(memory);
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
