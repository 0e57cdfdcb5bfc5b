/*  llama.cpp as the engine: trains a dictionary on what a node of its graph holds, or steers there.

        make llama LLAMA=DIR            DIR: llama.cpp, built; or an installed libllama without it
        build/llama_cpp train MODEL.gguf l_out-3 TEXT.txt OUT [STEPS]
        build/llama_cpp rows MODEL.gguf l_out-3 TEXT.txt ROWS.npy
        build/llama_cpp steer MODEL.gguf l_out-3 DICTIONARY FEATURE=VALUE PROMPT

    For any model and any device llama.cpp has. l_out-N is the residual stream behind layer N; other
    names are those of llama.cpp's graph (attn_out-N, ffn_out-N, ...). Text is cut into contexts of
    128 tokens. llama.cpp asks of every node whether it is wanted; of that one the rows come to the
    host, and go back where a dictionary has changed them.
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <ggml-backend.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CTX = 128, NEW_TOKENS = 40, STEPS = 2000 };

typedef struct engine {
    struct llama_context *llama;
    const char *node;
    llama_token token[1 << 20]; /* of the text */
    int count, next;            /* how many; the first of the next context */
    float *x;                   /* [rows,dim] of the last pass, given away up to `given` */
    size_t dim, rows, given;
    const sae_dictionary *dict; /* steers, where there is one */
    sae_steering steering;
} engine;

/* Called for every node of the graph: whether it is wanted, then, if so, with its values. */
static bool on_node(struct ggml_tensor *t, bool ask, void *user) {
    engine *e = (engine *)user;
    size_t rows = (size_t)t->ne[1];
    if (ask || strcmp(t->name, e->node) != 0) return strcmp(t->name, e->node) == 0;
    if (t->type != GGML_TYPE_F32 || (size_t)t->ne[0] != e->dim || rows > CTX) return false;
    ggml_backend_tensor_get(t, e->x, 0, rows * e->dim * sizeof(float));
    e->rows = rows;
    if (!e->dict) return true;
    if (sae_steer(e->dict, e->x, rows, &e->steering, 1) != SAE_OK) return false;
    ggml_backend_tensor_set(t, e->x, 0, rows * e->dim * sizeof(float));
    return true;
}

/* Runs count tokens from position first on; all ask for logits: the last layer runs those alone. */
static bool run(engine *e, const llama_token *token, int count, int first) {
    struct llama_batch batch = llama_batch_init(count, 0, 1);
    bool done;
    for (batch.n_tokens = 0; batch.n_tokens < count; batch.n_tokens++) {
        int i = batch.n_tokens;
        batch.token[i] = token[i];
        batch.pos[i] = first + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    e->rows = e->given = 0;
    done = llama_decode(e->llama, batch) == 0 && e->rows == (size_t)count;
    llama_batch_free(batch);
    return done;
}

/* A source of rows: context after context of the text. */
static int64_t read_rows(void *user, float *x, float *target, size_t max_rows) {
    engine *e = (engine *)user;
    size_t n;
    (void)target;
    if (e->given == e->rows) {
        if (e->next + CTX > e->count) return 0;
        llama_memory_clear(llama_get_memory(e->llama), true);
        if (!run(e, e->token + e->next, CTX, 0)) return SAE_ERR_NOT_FOUND;
        e->next += CTX;
    }
    n = e->rows - e->given < max_rows ? e->rows - e->given : max_rows;
    memcpy(x, e->x + e->given * e->dim, n * e->dim * sizeof *x);
    e->given += n;
    return (int64_t)n;
}

static sae_result rewind_rows(void *user) {
    engine *e = (engine *)user;
    e->rows = e->given = 0;
    e->next = 0;
    return SAE_OK;
}

static sae_result train(sae_context *ctx, engine *e, const char *out, const char *steps) {
    sae_trainer_desc trainer = { .kind = SAE_TRAINER_TOP_K, .k = 16 };
    sae_train_desc desc = { 0 };
    trainer.dict_size = 8 * e->dim;
    desc.buffer.source.read = read_rows;
    desc.buffer.source.rewind = rewind_rows;
    desc.buffer.source.user = e;
    desc.buffer.source.dim = e->dim;
    desc.trainers = &trainer;
    desc.num_trainers = 1;
    desc.steps = steps ? strtoull(steps, NULL, 10) : STEPS;
    desc.save_dir = out;
    desc.flat = true;
    return sae_train(ctx, &desc);
}

/* The rows of up to 2^20 tokens, in order, as one tensor "rows" [n,dim]. */
static sae_result save_rows(sae_context *ctx, engine *e, const char *out) {
    size_t n = 0, whole = (size_t)(e->count / CTX * CTX);
    float *x = (float *)malloc(whole * e->dim * sizeof *x);
    sae_tensor t = { .name = "rows", .dtype = SAE_F32, .ndim = 2, .shape = { whole, e->dim } };
    int64_t got = 1;
    for (; x && n < whole && got > 0; n += (size_t)got)
        got = read_rows(e, x + n * e->dim, NULL, whole - n);
    t.data = x;
    got = x && n == whole ? sae_tensor_file_write(ctx, out, &t, 1) : SAE_ERR_NOT_FOUND;
    free(x);
    return (sae_result)got;
}

/* The likeliest tokens behind the prompt. */
static sae_result say(engine *e) {
    const struct llama_vocab *vocab = llama_model_get_vocab(llama_get_model(e->llama));
    int count = e->count, at = 0;
    llama_memory_clear(llama_get_memory(e->llama), true);
    for (int i = 0; i < NEW_TOKENS; i++, at = e->count, e->count++, count = 1) {
        const float *logits;
        char text[64];
        llama_token best = 0;
        int size;
        if (!run(e, e->token + at, count, at)) return SAE_ERR_NOT_FOUND;
        logits = llama_get_logits_ith(e->llama, -1);
        for (llama_token id = 1; id < llama_vocab_n_tokens(vocab); id++)
            if (logits[id] > logits[best]) best = id;
        if (llama_vocab_is_eog(vocab, best)) break;
        size = llama_token_to_piece(vocab, best, text, sizeof text, 0, false);
        printf("%.*s", size > 0 ? size : 0, text);
        e->token[e->count] = best;
    }
    printf("\n");
    return SAE_OK;
}

static void quiet(enum ggml_log_level level, const char *text, void *user) {
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

/* The model, and the text as tokens; false: said why. */
static bool start(engine *e, const char *model, const char *text, size_t size) {
    struct llama_context_params params = llama_context_default_params();
    struct llama_model *m;
    llama_log_set(quiet, NULL);
    m = llama_model_load_from_file(model, llama_model_default_params());
    params.n_batch = params.n_ubatch = params.n_ctx = 1024;
    params.cb_eval = on_node;
    params.cb_eval_user_data = e;
    e->llama = m ? llama_init_from_model(m, params) : NULL;
    if (!e->llama) return false;
    e->dim = (size_t)llama_model_n_embd(m);
    e->x = (float *)malloc(params.n_batch * e->dim * sizeof *e->x);
    e->count = llama_tokenize(llama_model_get_vocab(m), text, (int32_t)size, e->token,
                              sizeof e->token / sizeof e->token[0], false, true);
    return e->x && e->count > 0;
}

int main(int argc, char **argv) {
    static engine e;
    static char text[1 << 22];
    bool steer = argc == 7 && strcmp(argv[1], "steer") == 0;
    bool rows = argc == 6 && strcmp(argv[1], "rows") == 0;
    bool trains = (argc == 6 || argc == 7) && strcmp(argv[1], "train") == 0;
    size_t size = 0;
    FILE *f;
    sae_context *ctx;
    sae_result result;
    if (!steer && !rows && !trains) {
        fprintf(stderr, "usage: llama_cpp train MODEL.gguf NODE TEXT.txt OUT [STEPS]\n"
                        "       llama_cpp rows MODEL.gguf NODE TEXT.txt OUT.npy\n"
                        "       llama_cpp steer MODEL.gguf NODE DICTIONARY FEATURE=VALUE PROMPT\n");
        return 2;
    }
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    f = steer ? NULL : fopen(argv[4], "rb");
    if (f) size = fread(text, 1, sizeof text, f), fclose(f);
    e.node = argv[3];
    if (!start(&e, argv[2], steer ? argv[6] : text, steer ? strlen(argv[6]) : size)) {
        fprintf(stderr, "llama_cpp: %s does not load, or the text has no tokens\n", argv[2]);
        return 1;
    }
    if (rows) result = save_rows(ctx, &e, argv[5]);
    else if (trains) result = train(ctx, &e, argv[5], argc == 7 ? argv[6] : NULL);
    else {
        const char *value = strchr(argv[5], '=');
        int prompt = e.count;
        sae_dictionary *dict;
        e.steering.latent = (uint32_t)strtoul(argv[5], NULL, 10);
        e.steering.mode = SAE_STEER_SET;
        e.steering.value = value ? strtof(value + 1, NULL) : 0;
        result = sae_dictionary_load(ctx, NULL, argv[4], &dict);
        for (int with = 0; with < 2 && result == SAE_OK; with++) {
            printf("%s %s", with ? "with:   " : "without:", argv[6]);
            if (with) e.dict = dict;
            e.count = prompt;
            result = say(&e);
        }
        if (e.dict) sae_dictionary_destroy(dict);
    }
    if (result != SAE_OK)
        fprintf(stderr, "llama_cpp: %s\n", sae_error(ctx)[0] ? sae_error(ctx) : "no such node, or "
                "one whose rows are not the model's width in float32");
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
