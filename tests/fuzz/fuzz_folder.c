/* Fuzzes sae_dictionary_load and sae_clt_open on a folder, and, where it opens, inference and opening
   some latents. The input is a letter (the file names: see the table), the length of the config in
   decimal, a new line, the config, the weights. Seeds: folders with a config and weights, written so by run.sh. */
#include "fuzz.h"

static const char *const fuzz_folder_files[][2] = {
    { "config.json", "ae.pt" },                 /* a */
    { "config.json", "ae.safetensors" },        /* b */
    { "cfg.json", "sae_weights.safetensors" },  /* c */
    { "cfg.json", "sae.safetensors" },          /* d */
    { "config.json", "params.safetensors" },    /* e */
    { "config.json", "params.npz" },            /* f */
    { "hyperparams.json", "checkpoints/final.safetensors" }, /* g */
    { "config.yaml", "layer_0.safetensors" },   /* h */
    { "config.json", "sae_weights.safetensors" }, /* i */
    { "config.json", "sae_weights.pt" },        /* j */
    { "config.json", "model.safetensors" },     /* k */
    { "config.json", "model.pt" },              /* l */
    { "cfg.json", "cc_weights.pt" },            /* m */
    { "config.json", "layer0.sae.pt" },         /* n */
    { "a_cfg.json", "a.pt" },                   /* o */
    { "clt_cfg.json", "clt_weights.safetensors" },  /* p */
    { "config.json", "params_layer_0.safetensors" }, /* q */
    { "W_enc_0.safetensors", "W_dec_0.safetensors" }, /* r */
};

/* Encodes, and decodes, three rows: as many as catch a tile's end. */
static void fuzz_folder_use(const sae_dictionary *dict) {
    enum { ROWS = 3 };
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t d = info.activation_dim, m = sae_dictionary_num_latents(dict), d_out = info.output_dim;
    float *x, *f, *x_hat;
    if (d > 4096 || d_out > 4096 || m > 65536 || d * m > 1 << 20) return;
    x = (float *)malloc(ROWS * d * sizeof *x);
    x_hat = (float *)malloc(ROWS * d_out * sizeof *x);
    f = (float *)malloc(ROWS * m * sizeof *f);
    for (size_t i = 0; i < ROWS * d; i++) x[i] = (float)(i % 7) - 3;
    fuzz_ok(dict->ctx, sae_encode(dict, x, ROWS, f));
    fuzz_ok(dict->ctx, sae_forward(dict, x, ROWS, x_hat, f));
    free(x);
    free(f);
    free(x_hat);
}

/* A cross-layer transcoder in the folder: three rows of it. */
static void fuzz_folder_layers(sae_context *ctx, const char *folder) {
    enum { ROWS = 3 };
    sae_clt *clt = NULL;
    size_t d, m;
    float *x, *f, *x_hat;
    if (!fuzz_ok(ctx, sae_clt_open(ctx, NULL, folder, &clt))) {
        FUZZ_REQUIRE(!clt);
        return;
    }
    d = sae_clt_get_desc(clt)->layers * sae_clt_get_desc(clt)->activation_dim;
    m = sae_clt_get_desc(clt)->layers * sae_clt_get_desc(clt)->dict_size;
    if (d <= 4096 && m <= 65536 && d * m <= 1 << 20) {
        x = (float *)malloc(ROWS * d * sizeof *x);
        x_hat = (float *)malloc(ROWS * d * sizeof *x);
        f = (float *)malloc(ROWS * m * sizeof *f);
        for (size_t i = 0; i < ROWS * d; i++) x[i] = (float)(i % 7) - 3;
        fuzz_limit = (size_t)64 << 20;
        fuzz_ok(ctx, sae_clt_forward(clt, x, ROWS, x_hat, f));
        free(x);
        free(f);
        free(x_hat);
    }
    sae_clt_close(clt);
}

/* The middle third of its m latents. */
static void fuzz_folder_part(sae_context *ctx, const char *folder, size_t m) {
    sae_load_desc part;
    sae_dictionary *dict = NULL;
    memset(&part, 0, sizeof part);
    part.first_latent = m / 3;
    part.num_latents = (m + 2) / 3;
    if (fuzz_ok(ctx, sae_dictionary_load(ctx, &part, folder, &dict)))
        FUZZ_REQUIRE(sae_dictionary_get_desc(dict)->dict_size == part.num_latents);
    sae_dictionary_destroy(dict);
}

FUZZ(folder) {
    const size_t kinds = sizeof fuzz_folder_files / sizeof fuzz_folder_files[0];
    const char *folder = fuzz_folder_of_process();
    char config[128], weights[128], inner[128];
    size_t length = 0, at = 1, kind;
    sae_dictionary *dict = NULL;
    sae_context *ctx;
    if (size < 3) return;
    kind = (size_t)(data[0] - 'a') % kinds;
    for (; at < size && at < 9 && data[at] >= '0' && data[at] <= '9'; at++)
        length = 10 * length + (size_t)(data[at] - '0');
    if (at == size || data[at++] != '\n' || length > size - at) return;
    snprintf(config, sizeof config, "%s/%s", folder, fuzz_folder_files[kind][0]);
    snprintf(weights, sizeof weights, "%s/%s", folder, fuzz_folder_files[kind][1]);
    snprintf(inner, sizeof inner, "%s/checkpoints", folder);
    if (strchr(fuzz_folder_files[kind][1], '/')) mkdir(inner, 0777);
    if (length) fuzz_write(config, data + at, length);
    fuzz_write(weights, data + at + length, size - at - length);
    ctx = fuzz_context(16 * size, 1);
    if (fuzz_ok(ctx, sae_dictionary_load(ctx, NULL, folder, &dict))) {
        FUZZ_REQUIRE(dict);
        fuzz_limit = (size_t)64 << 20;
        fuzz_folder_use(dict);
        fuzz_folder_part(ctx, folder, sae_dictionary_get_desc(dict)->dict_size);
    }
    sae_dictionary_destroy(dict);
    fuzz_limit = ((size_t)1 << 20) + 64 * 16 * size;
    if (sae_clt_recognize(ctx, folder)) fuzz_folder_layers(ctx, folder);
    sae_context_destroy(ctx);
    unlink(config);
    unlink(weights);
    rmdir(inner);
}
