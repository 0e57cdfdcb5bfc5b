/* sae: encode --delphi: delphi's latent cache. */
#include "tool.h"

enum { CONTEXT = 256, SPLITS = 5 }; /* delphi's own defaults */

/* Latents begin..end of all rows: locations [n,3] of (context, position, latent - begin), and their
   activations as F16; u16 where that holds the numbers, else u32. Entries of at most 1e-5 are left
   out, as delphi does. */
static int delphi_split(const common *c, const sae_tensor parts[3], uint64_t begin, uint64_t end,
                        const sae_tensor *tokens, const char *folder) {
    const int64_t *row = (const int64_t *)parts[0].data;
    const uint32_t *latent = (const uint32_t *)parts[1].data;
    const float *value = (const float *)parts[2].data;
    uint64_t all = parts[0].shape[0], ctx = c->ctx ? c->ctx : CONTEXT, count = 0, i;
    bool wide = false;
    uint64_t overflows = 0;
    uint32_t *place;
    uint16_t *narrow, *half;
    sae_tensor tensors[3];
    char name[64];
    sae_result result;
    for (i = 0; i < all; i++) {
        if (latent[i] < begin || latent[i] >= end || !(fabsf(value[i]) > 1e-5f)) continue;
        if ((uint64_t)row[i] / ctx > 65535 || latent[i] - begin > 65535 || ctx > 65536) wide = true;
        count++;
    }
    place = (uint32_t *)calloc((size_t)count + 1, 3 * sizeof *place);
    half = (uint16_t *)calloc((size_t)count + 1, sizeof *half);
    if (!place || !half) {
        free(place);
        free(half);
        return fail("no memory for %.0f latents", (double)count);
    }
    narrow = (uint16_t *)place; /* in place: a narrow number never passes a wide one */
    for (i = 0, count = 0; i < all; i++) {
        uint32_t at[3];
        size_t j;
        if (latent[i] < begin || latent[i] >= end || !(fabsf(value[i]) > 1e-5f)) continue;
        at[0] = (uint32_t)((uint64_t)row[i] / ctx);
        at[1] = (uint32_t)((uint64_t)row[i] % ctx);
        at[2] = (uint32_t)(latent[i] - begin);
        for (j = 0; j < 3; j++) {
            if (wide) place[3 * count + j] = at[j];
            else narrow[3 * count + j] = (uint16_t)at[j];
        }
        half[count++] = to_half(value[i]);
        overflows += half_overflows(value[i]);
    }
    set_tensor(&tensors[0], "locations", wide ? SAE_U32 : SAE_U16, count, 3, place);
    set_tensor(&tensors[1], "activations", SAE_F16, count, 0, half);
    if (tokens) tensors[2] = *tokens;
    snprintf(name, sizeof name, "%.0f_%.0f.safetensors", (double)begin, (double)(end - 1));
    result = sae_tensor_file_write(tool.ctx, joined(folder, name), tensors, tokens ? 3 : 2);
    if (overflows && result == SAE_OK) warn_overflow(joined(folder, name), overflows);
    free(place);
    free(half);
    return result == SAE_OK ? DONE : fail_library();
}

static int delphi_config(const common *c, const sae_dictionary *dict, uint64_t rows,
                         const char *folder) {
    sae_origin origin = *sae_dictionary_origin(dict);
    const char *path = joined(folder, "config.json");
    FILE *out = fopen(path, "wb");
    if (!out) return fail("%s: cannot be written", path);
    fprintf(out, "{\n    \"dataset_repo\": ");
    put_json_string(out, origin.dataset);
    fprintf(out, ",\n    \"dataset_split\": \"\",\n    \"dataset_name\": \"\",\n"
                 "    \"dataset_column\": \"\",\n    \"batch_size\": 32,\n"
                 "    \"cache_ctx_len\": %.0f,\n    \"n_tokens\": %.0f,\n"
                 "    \"n_splits\": %.0f,\n    \"model_name\": ",
            (double)(c->ctx ? c->ctx : CONTEXT), (double)rows,
            (double)(c->splits ? c->splits : SPLITS));
    put_json_string(out, origin.model);
    fprintf(out, "\n}\n");
    return fclose(out) == 0 ? DONE : fail("%s: writing failed", path);
}

/* OUT/MODULE/BEGIN_END.safetensors, a file for each share of the latents, and config.json. */
int write_delphi(const common *c, const sae_dictionary *dict, const sae_tensor parts[3],
                 uint64_t rows) {
    sae_origin origin = *sae_dictionary_origin(dict);
    uint64_t m = sae_dictionary_num_latents(dict), splits = c->splits ? c->splits : SPLITS;
    uint64_t ctx = c->ctx ? c->ctx : CONTEXT, s;
    const char *module = c->module ? c->module : origin.hook;
    sae_tensor_file *file = NULL;
    sae_tensor tokens;
    char *folder;
    int status = DONE;
    if (!module[0])
        return fail_usage("--module is missing: the dictionary does not say where it sits");
    if (splits > m) splits = m;
    if (rows % ctx) return fail("%.0f rows are no multiple of --ctx %.0f", (double)rows,
                                (double)ctx);
    if (c->tokens) {
        if (sae_tensor_file_open(tool.ctx, c->tokens, &file) != SAE_OK) return fail_library();
        tokens = *sae_tensor_file_get(file, 0);
        if (tokens.ndim != 2 || tokens.shape[0] != rows / ctx || tokens.shape[1] != ctx)
            status = fail("%s must be [%.0f,%.0f], contexts and --ctx", c->tokens,
                          (double)(rows / ctx), (double)ctx);
        tokens.name = "tokens";
    }
    folder = joined(c->out, module);
    if (status == DONE && !make_folders(joined(folder, "")))
        status = fail("%s: cannot be made", folder);
    for (s = 0; s < splits && status == DONE; s++) /* the ends of torch.linspace(0, m).long() */
        status = delphi_split(c, parts, m * s / splits, m * (s + 1) / splits,
                              c->tokens ? &tokens : NULL, folder);
    if (status == DONE) status = delphi_config(c, dict, rows, folder);
    sae_tensor_file_close(file);
    return status;
}
