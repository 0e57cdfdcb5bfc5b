/* Fuzzes the JSON reader, from memory, and config.json through sae_config_open. Seeds: .json. */
#include "fuzz.h"

FUZZ(json) {
    sae_context *ctx = fuzz_context(size, 0);
    sae_json *root = NULL;
    sae_config *config = NULL;
    char path[128];
    fuzz_limit += 512 * size; /* a node and a trainer's desc for two bytes of input, "{}" */
    if (fuzz_ok(ctx, saei_json_parse(ctx, "fuzz.json", (const char *)data, size, &root))) {
        FUZZ_REQUIRE(root && fuzz_json_walk(root) <= size);
        sae_json_close(root);
        snprintf(path, sizeof path, "%s/config.json", fuzz_folder_of_process());
        fuzz_write(path, data, size);
        if (fuzz_ok(ctx, sae_config_open(ctx, path, &config)))
            for (size_t i = 0; i < sae_config_count(config); i++) {
                sae_trainer_desc desc = *sae_config_get(config, i);
                sae_trainer_defaults(&desc);
            }
        sae_config_close(config);
        unlink(path);
    }
    sae_context_destroy(ctx);
}
