/*  Proves: with SAE_NO_FORMATS the header opens, encodes and saves the reference's .safetensors, from a
    folder and from memory, and trains into such a folder; what is another
    program's is refused by a message that says what to do, above all where its tensors have our names.
    Oracle: f of the fixtures, which PyTorch wrote as .safetensors; a table of files and results.
    Tolerance: 1e-5 for f, which is the reference's, else none. */
#define SAE_NO_FORMATS
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"

enum { ROWS = 64, WIDTH = 16 };

static void check_encodes(sae_context *ctx, const sae_dictionary *dict, const char *name) {
    const sae_dictionary_desc *desc = sae_dictionary_get_desc(dict);
    size_t n = 0, count = 0, d = desc->activation_dim, m = desc->dict_size;
    const char *folder = check_path("%s/tests/fixtures/ours_%s", check_root(), name);
    float *x = check_tensor(ctx, check_path("%s/x.npy", folder), NULL, &n, NULL);
    float *f = check_tensor(ctx, check_path("%s/f.npy", folder), NULL, &count, NULL);
    float *got = (float *)malloc(count * sizeof *got);
    CHECK(x && f && got && n % d == 0 && count == n / d * m, "fixture %s", name);
    if (x && f && got && count == n / d * m) {
        CHECK(sae_encode(dict, x, n / d, got) == SAE_OK, "%s", sae_error(ctx));
        CHECK(check_distance(got, f, count, NULL) < 1e-5, "%s: other latents", name);
    }
    free(x);
    free(f);
    free(got);
}

/* A fixture as a folder, as a file, and from memory; saved it has the same bytes. */
static void check_own(sae_context *ctx, const char *name) {
    const char *folder = check_path("%s/tests/no_formats/%s", check_root(), name);
    sae_dictionary *dict = NULL, *again = NULL;
    void *data = NULL;
    size_t size = 0;
    check_test = name;
    CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, folder, &dict), return);
    check_encodes(ctx, dict, name);
    CHECK_OK(ctx, sae_dictionary_save_memory(dict, "ae.safetensors", &data, &size), return);
    {
        sae_load_desc load;
        size_t config_size = 0;
        char *config = check_read(check_path("%s/config.json", folder), &config_size);
        memset(&load, 0, sizeof load);
        load.config = config;
        load.config_size = config_size;
        CHECK_OK(ctx, sae_dictionary_load_memory(ctx, &load, data, size, &again), return);
        check_encodes(ctx, again, name);
        free(config);
    }
    sae_dictionary_destroy(again);
    sae_context_free(ctx, data);
    CHECK(sae_dictionary_save(dict, check_path("%s/ae.pt", check_temp())) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), ".safetensors"), "%s", sae_error(ctx));
    sae_dictionary_destroy(dict);
}

static void check_refused(sae_context *ctx, const char *path) {
    sae_dictionary *dict = NULL;
    check_test = path;
    path = check_path("%s/tests/%s", check_root(), path);
    CHECK(sae_dictionary_load(ctx, NULL, path, &dict) == SAE_ERR_UNSUPPORTED && !dict
              && strstr(sae_error(ctx), "SAE_NO_FORMATS")
              && strstr(sae_error(ctx), "sae convert"), "%s", sae_error(ctx));
    sae_dictionary_destroy(dict);
}

/* Tensors of JumpReLU have the same names in SAELens: the config beside them says whose they are. */
static void check_not_taken_for_ours(sae_context *ctx) {
    static const char lens[] = "{\"d_in\": 4, \"d_sae\": 8, \"architecture\": \"jumprelu\"}";
    const char *from = check_path("%s/tests/no_formats/jumprelu/ae.safetensors", check_root());
    sae_dictionary *dict = NULL;
    sae_load_desc load;
    size_t size = 0;
    char *data = check_read(from, &size);
    check_test = "SAELens's tensors";
    CHECK(data && check_write(check_path("%s/weights.safetensors", check_temp()), data, size)
              && check_write(check_path("%s/cfg.json", check_temp()), lens, sizeof lens - 1),
          "no files");
    CHECK(sae_dictionary_load(ctx, NULL, check_path("%s/weights.safetensors", check_temp()), &dict)
                  == SAE_ERR_UNSUPPORTED && !dict && strstr(sae_error(ctx), "SAE_NO_FORMATS"),
          "%s", sae_error(ctx));
    memset(&load, 0, sizeof load);
    load.config = lens;
    load.config_size = sizeof lens - 1;
    CHECK(sae_dictionary_load_memory(ctx, &load, data, size, &dict) == SAE_ERR_UNSUPPORTED && !dict
              && strstr(sae_error(ctx), "SAE_NO_FORMATS"), "%s", sae_error(ctx));
    free(data);
}

/* A run leaves ae.safetensors alone, and knows it again. */
static void check_run(sae_context *ctx) {
    static float x[ROWS * WIDTH];
    sae_train_desc desc;
    sae_trainer_desc trainer;
    sae_dictionary *dict = NULL;
    const char *out = check_path("%s/run", check_temp());
    check_test = "a run";
    check_activations(1, x, ROWS, WIDTH);
    memset(&desc, 0, sizeof desc);
    memset(&trainer, 0, sizeof trainer);
    trainer.kind = SAE_TRAINER_TOP_K;
    trainer.dict_size = 32;
    trainer.k = 4;
    desc.buffer.source.data = x;
    desc.buffer.source.rows = ROWS;
    desc.buffer.source.dim = WIDTH;
    desc.buffer.source.dtype = SAE_F32;
    desc.buffer.batch_size = 16;
    desc.trainers = &trainer;
    desc.num_trainers = 1;
    desc.steps = 8;
    desc.save_dir = out;
    desc.flat = true;
    CHECK_OK(ctx, sae_train(ctx, &desc), return);
    CHECK(check_exists(check_path("%s/ae.safetensors", out))
              && !check_exists(check_path("%s/ae.pt", out)), "other files");
    CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, out, &dict), return);
    sae_dictionary_destroy(dict);
    CHECK_OK(ctx, sae_train(ctx, &desc), return);
}

int main(void) {
    static const char *const others[] = { "fixtures/ours_top_k", "fixtures/ours_top_k/ae.pt",
                                          "formats/saelens/jumprelu_no_b_dec_in", "formats/sparsify/topk_num_latents/layers.3" };
    sae_context *ctx = check_context(1);
    sae_tensor_file *file = NULL;
    check_own(ctx, "top_k");
    check_own(ctx, "jumprelu");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) check_refused(ctx, others[i]);
    check_not_taken_for_ours(ctx);
    CHECK(sae_tensor_file_open_memory(ctx, "GGUF\3\0\0\0", 8, &file) == SAE_ERR_UNSUPPORTED && !file
              && strstr(sae_error(ctx), "SAE_NO_FORMATS"), "%s", sae_error(ctx));
    check_run(ctx);
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
