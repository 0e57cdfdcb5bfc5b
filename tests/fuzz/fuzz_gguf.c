/* Fuzzes the reader of .gguf, from memory. Seeds: .gguf files. */
#include "fuzz.h"

FUZZ(gguf) {
    sae_context *ctx = fuzz_context(size, 0);
    fuzz_tensors(ctx, "fuzz.gguf", data, size);
    sae_context_destroy(ctx);
}
