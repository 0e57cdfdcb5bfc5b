/* Fuzzes the reader of .safetensors, from memory. Seeds: .safetensors files. */
#include "fuzz.h"

FUZZ(safetensors) {
    sae_context *ctx = fuzz_context(size, 0);
    fuzz_tensors(ctx, "fuzz.safetensors", data, size);
    sae_context_destroy(ctx);
}
