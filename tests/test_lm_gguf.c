/*  Proves: a model in a .gguf is the same as in its folder: the description, logits, rows at every place by both kinds
    of names, losses with a place's rows changed; in one file and in several, fused, in blocks; that tokenizers of both
    kinds give the same ids and bytes; and that a file which is cut at any byte, lacks a tensor, has one too many, of
    another shape or of a type that is not known, or says what is not supported, is refused in a sentence that names it.
    Oracle: the folder (tests/lm, itself held against transformers by test_lm.c and test_families.c), of which
    make_gguf_model.py made the .gguf with the gguf package; for blocks a folder of their numbers by that package; of
    SentencePiece's BPE a naive reading of its definition.
    Tolerance: none; where Llama 3's scaling comes worked out in float32, 2e-6 of the largest entry. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"
#include "check.h"

enum { CONTEXTS = 2, CTX = 13, ROWS = CONTEXTS * CTX, MAX_SITES = 512 };
static sae_context *ctx;

static const char *place(const char *name) {
    return check_path("%s/tests/lm/%s", check_root(), name);
}

static const char *gguf(const char *name) { return place(check_path("gguf/%s.gguf", name)); }

/* ---- files in memory, under any name ---- */

static const char *memory_data;
static size_t memory_size;

static sae_result memory_open(const char *path, bool write, void **file, void *user) {
    (void)path;
    (void)user;
    *file = &memory_size;
    return write ? SAE_ERR_IO : SAE_OK;
}
static sae_result memory_length(void *file, uint64_t *size, void *user) {
    (void)user;
    *size = *(size_t *)file;
    return SAE_OK;
}
static sae_result memory_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    (void)file;
    (void)user;
    memcpy(out, memory_data + offset, size);
    return SAE_OK;
}
static sae_result memory_close(void *file, void *user) {
    (void)file;
    (void)user;
    return SAE_OK;
}

/* A context whose every file is memory_data. */
static sae_context *memory_context(void) {
    static sae_io io;
    sae_context_desc desc;
    sae_context *c = NULL;
    memset(&desc, 0, sizeof desc);
    memset(&io, 0, sizeof io);
    io.open = memory_open;
    io.size = memory_length;
    io.read = memory_read;
    io.close = memory_close;
    desc.io = &io;
    desc.threads = 1;
    CHECK(sae_context_create(&desc, &c) == SAE_OK, "no context");
    return c;
}

/* A .gguf to be changed in place. */
typedef struct edited {
    char *data;
    size_t size;
} edited;

static edited edit(const char *name) {
    edited e;
    e.size = 0;
    e.data = check_read(gguf(name), &e.size);
    CHECK(e.data != NULL, "no %s", gguf(name));
    return e;
}

/* Where a text with its length in front stands; behind it. NULL: nowhere. */
static char *behind(const edited *e, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + 8 + n <= e->size; i++) {
        uint64_t length = 0;
        for (int k = 7; k >= 0; k--) length = length << 8 | (unsigned char)e->data[i + (size_t)k];
        if (length == n && !memcmp(e->data + i + 8, text, n)) return e->data + i + 8 + n;
    }
    CHECK(false, "no %s", text);
    return NULL;
}

static void put32(char *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (char)(value >> 8 * i);
}

/* ---- two models side by side ---- */

typedef struct rows {
    float *data;
    size_t count; /* floats */
    float scale;  /* 1: it looks */
} rows;

static sae_result take(void *user, float *x, size_t n, size_t dim) {
    rows *r = (rows *)user;
    r->data = (float *)realloc(r->data, n * dim * sizeof *x);
    memcpy(r->data, x, n * dim * sizeof *x);
    r->count = n * dim;
    for (size_t i = 0; i < n * dim && r->scale != 1; i++) x[i] = x[i] * r->scale + 0.25f * (float)(i % 3);
    return SAE_OK;
}

static sae_result take_logits(void *user, const float *logits, size_t first, size_t count) {
    rows *r = (rows *)user;
    size_t wide = r->count / ROWS;
    memcpy(r->data + first * wide, logits, count * wide * sizeof *logits);
    return SAE_OK;
}

/* Logits [ROWS,vocab] of a model, with hooks or none. */
static rows run(sae_lm *m, const int32_t *tokens, sae_lm_hook *hooks, size_t num_hooks) {
    sae_lm_forward_desc d;
    rows out;
    out.count = ROWS * sae_lm_config_of(m).vocab_size;
    out.data = (float *)calloc(out.count, sizeof(float));
    memset(&d, 0, sizeof d);
    d.tokens = tokens;
    d.contexts = CONTEXTS;
    d.ctx = CTX;
    d.hooks = hooks;
    d.num_hooks = num_hooks;
    d.logits = take_logits;
    d.user = &out;
    CHECK(sae_lm_forward(m, &d) == SAE_OK, "%s", sae_error(ctx));
    return out;
}

static void same_rows(const char *what, const rows *got, const rows *want, double tolerance) {
    double top, worst;
    CHECK(got->count == want->count && want->count, "%s: %zu numbers, want %zu", what, got->count,
          want->count);
    if (got->count != want->count) return;
    worst = check_distance(got->data, want->data, want->count, &top);
    CHECK(worst <= tolerance * top, "%s: off by %g of %g", what, worst, top);
}

/* Every place of a model by name, both kinds; which of them are inputs. */
static size_t places(const sae_lm *m, char (*name)[96], bool *input) {
    size_t n = 0;
    sae_lm_site s;
    for (int module = 0; module < SAE_LM_NUM_MODULES; module++)
        for (s.layer = 0; s.layer < (module >= SAE_LM_LAYER ? sae_lm_config_of(m).layers : 1); s.layer++)
            for (int in = 0; in < 2; in++)
                for (int hook = 0; hook < 2 && n < MAX_SITES; hook++) {
                    sae_lm_site found;
                    s.module = (sae_lm_module)module;
                    s.input = in != 0;
                    sae_lm_site_name(m, s, hook != 0, name[n], 96);
                    input[n] = in && !hook;
                    if (name[n][0] && sae_lm_site_find(m, name[n], input[n], &found) == SAE_OK) n++;
                }
    return n;
}

/* A model of a file or folder, and that of a folder with its places. */
static void same_model(const char *path, const char *folder, double tolerance) {
    static char name[MAX_SITES][96];
    static bool input[MAX_SITES];
    static sae_lm_hook hooks[2][MAX_SITES];
    static rows seen[2][MAX_SITES];
    sae_lm *m[2] = { NULL, NULL };
    sae_lm_config a, b;
    rows logits[2];
    check_rng rng = { 5 };
    int32_t tokens[ROWS];
    size_t count;
    CHECK_OK(ctx, sae_lm_open(ctx, path, &m[0]), return);
    CHECK_OK(ctx, sae_lm_open(ctx, folder, &m[1]), sae_lm_close(m[0]); return);
    a = sae_lm_config_of(m[0]), b = sae_lm_config_of(m[1]);
    CHECK(a.layers == b.layers && a.heads == b.heads && a.kv_heads == b.kv_heads && a.dim == b.dim
              && a.head_dim == b.head_dim && a.mlp_dim == b.mlp_dim && a.experts == b.experts
              && a.experts_per_token == b.experts_per_token && a.vocab_size == b.vocab_size,
          "sizes");
    CHECK(a.max_ctx == b.max_ctx && a.fixed_ctx == b.fixed_ctx && a.window == b.window, "contexts");
    CHECK(a.rotary_dims == b.rotary_dims && a.rotary_base == b.rotary_base
              && a.norm_eps == b.norm_eps, "rotary %zu %g, eps %g, want %zu %g, %g", a.rotary_dims,
          a.rotary_base, a.norm_eps, b.rotary_dims, b.rotary_base, b.norm_eps);
    CHECK(a.rms_norm == b.rms_norm && a.parallel_residual == b.parallel_residual && a.tied == b.tied,
          "kinds");
    CHECK(a.bos_token < 0 || (a.bos_token == b.bos_token && a.eos_token == b.eos_token), "tokens");
    for (size_t i = 0; i < ROWS; i++) tokens[i] = (int32_t)(check_bits(&rng) % b.vocab_size);
    count = places(m[1], name, input);
    CHECK(count > 20 * b.layers, "only %zu places", count);
    for (int k = 0; k < 2; k++) {
        memset(hooks[k], 0, sizeof hooks[k]);
        memset(seen[k], 0, sizeof seen[k]);
        for (size_t i = 0; i < count; i++) {
            CHECK(sae_lm_site_find(m[k], name[i], input[i], &hooks[k][i].site) == SAE_OK, "%s: %s",
                  name[i], sae_error(ctx));
            seen[k][i].scale = 1;
            hooks[k][i].call = take;
            hooks[k][i].user = &seen[k][i];
        }
        logits[k] = run(m[k], tokens, hooks[k], count);
    }
    same_rows("logits, looked at", &logits[0], &logits[1], tolerance);
    free(logits[0].data);
    logits[0] = run(m[0], tokens, NULL, 0);
    same_rows("logits", &logits[0], &logits[1], 2e-6); /* norms in two steps where looked at */
    for (size_t i = 0; i < count; i++) same_rows(name[i], &seen[0][i], &seen[1][i], tolerance);
    for (size_t i = 0; i < count; i++) { /* what a hook leaves there is what the model goes on with */
        if (strncmp(name[i], "blocks.", 7) == 0) continue;
        for (int k = 0; k < 2; k++) {
            seen[k][i].scale = 0.5f;
            free(logits[k].data);
            logits[k] = run(m[k], tokens, &hooks[k][i], 1);
        }
        same_rows(check_path("logits with %s changed", name[i]), &logits[0], &logits[1],
                  4 * tolerance);
    }
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < count; i++) free(seen[k][i].data);
        free(logits[k].data);
        sae_lm_close(m[k]);
    }
}

static void models(void) {
    static const char *const names[] = { "parallel", "sequential", "gpt2", "mistral", "mixtral", "qwen2", "qwen3",
                                         "qwen3_moe", "gemma", "gemma2", "gemma3", "gemma3mm" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        check_test = names[i];
        same_model(gguf(names[i]), place(names[i]), 0);
    }
    check_test = "llama";
    same_model(gguf("llama"), place("llama"), 2e-6);
    check_test = "fused";
    same_model(gguf("fused"), place("mixtral"), 0);
    check_test = "split";
    same_model(gguf("split-00001-of-00003"), place("gemma"), 0);
    check_test = "blocks";
    same_model(gguf("blocks"), place("gguf/blocks"), 0);
    check_test = NULL;
}

/* One token: a row of qkv needs more room than the heads of one row have. */
static void one_token(void) {
    rows seen[2];
    for (int k = 0; k < 2; k++) {
        sae_lm *m = NULL;
        sae_lm_hook hook;
        sae_lm_forward_desc d;
        int32_t token = 7;
        memset(&hook, 0, sizeof hook);
        memset(&d, 0, sizeof d);
        memset(&seen[k], 0, sizeof seen[k]);
        seen[k].scale = 1;
        CHECK_OK(ctx, sae_lm_open(ctx, k ? place("parallel") : gguf("parallel"), &m), return);
        CHECK_OK(ctx, sae_lm_site_find(m, "gpt_neox.layers.1.attention.query_key_value", false,
                                       &hook.site), return);
        hook.call = take;
        hook.user = &seen[k];
        d.tokens = &token;
        d.contexts = d.ctx = 1;
        d.hooks = &hook;
        d.num_hooks = 1;
        CHECK_OK(ctx, sae_lm_forward(m, &d), return);
        sae_lm_close(m);
    }
    same_rows("one token", &seen[0], &seen[1], 0);
    free(seen[0].data);
    free(seen[1].data);
}

/* By what is in it, whatever its name; and parts of several files. */
static void files(void) {
    const char *part = gguf("split-00001-of-00003"), *temp = check_temp();
    size_t size;
    char *data = check_read(gguf("gemma"), &size);
    sae_lm *m = NULL;
    check_write(check_path("%s/blob", temp), data, size);
    CHECK_OK(ctx, sae_lm_open(ctx, check_path("%s/blob", temp), &m), return);
    CHECK(!strcmp(sae_lm_config_of(m).family, "gemma"), "family %s", sae_lm_config_of(m).family);
    sae_lm_close(m);
    free(data);
    CHECK(sae_lm_open(ctx, gguf("split-00002-of-00003"), &m) == SAE_ERR_UNSUPPORTED
              && strstr(sae_error(ctx), "part 2 of 3"), "%s", sae_error(ctx));
    data = check_read(part, &size);
    check_write(check_path("%s/m-00001-of-00003.gguf", temp), data, size);
    CHECK(sae_lm_open(ctx, check_path("%s/m-00001-of-00003.gguf", temp), &m) == SAE_ERR_NOT_FOUND
              && strstr(sae_error(ctx), "m-00002-of-00003.gguf"), "%s", sae_error(ctx));
    check_write(check_path("%s/m.gguf", temp), data, size);
    CHECK(sae_lm_open(ctx, check_path("%s/m.gguf", temp), &m) == SAE_ERR_UNSUPPORTED
              && strstr(sae_error(ctx), "-00001-of-00003.gguf"), "%s", sae_error(ctx));
    free(data);
    CHECK(sae_lm_open(ctx, check_path("%s/none.gguf", temp), &m) == SAE_ERR_NOT_FOUND
              && strstr(sae_error(ctx), "none.gguf"), "%s", sae_error(ctx));
    check_write(check_path("%s/text.gguf", temp), "no such thing", 13);
    CHECK(sae_lm_open(ctx, check_path("%s/text.gguf", temp), &m) != SAE_OK
              && strstr(sae_error(ctx), "text.gguf"), "%s", sae_error(ctx));
}

/* ---- what the file leaves to llama.cpp ---- */

/* Scores of the largest Gemma 2 and 3; windows of layers where the file names a pattern or none. */
static void knowledge(void) {
    edited e = edit("gemma2");
    sae_context *c = memory_context();
    sae_tensor_file *file;
    sae_lm m;
    lmi_config config;
    const lmi_gguf_arch *row;
    behind(&e, "gemma2.attention.scale")[-1] = 'x'; /* the key is another then */
    memory_data = e.data;
    memory_size = e.size;
    CHECK_OK(c, sae_tensor_file_open(c, "m.gguf", &file), return);
    for (int large = 0; large < 2; large++) {
        memset(&m, 0, sizeof m);
        memset(&config, 0, sizeof config);
        config.ctx = m.ctx = c;
        config.path = "m.gguf";
        config.root = config.outer = sae_tensor_file_metadata(file);
        CHECK_OK(c, lmi_gguf_family(&config, &m.shape, &row), return);
        m.shape.info.layers = large ? 46 : 42;
        m.shape.info.dim = 4608;
        m.shape.info.heads = 32;
        m.shape.info.head_dim = 128;
        CHECK_OK(c, lmi_gguf_layers(&config, row, &m), return);
        CHECK(m.shape.layer[3].scale == (float)(1 / sqrt(large ? 144.0 : 128.0)), "scale %g",
              (double)m.shape.layer[3].scale);
        for (size_t i = 0; i < m.shape.info.layers; i++)
            CHECK(m.shape.layer[i].window == (i % 2 ? 0u : 6u), "layer %zu: window %zu", i,
                  m.shape.layer[i].window);
        free(m.shape.layer);
    }
    sae_tensor_file_close(file);
    sae_context_destroy(c);
    free(e.data);
}

/* ---- refusals ---- */

/* Opens what e holds; it must be refused, the sentence hold the file's name and `word`. */
static void refused(sae_context *c, const edited *e, sae_result want, const char *word) {
    sae_lm *m = (sae_lm *)(void *)c;
    sae_result result;
    memory_data = e->data;
    memory_size = e->size;
    result = sae_lm_open(c, "m.gguf", &m);
    CHECK(result != SAE_OK && (want == SAE_OK || result == want) && strstr(sae_error(c), "m.gguf")
              && strstr(sae_error(c), word), "%s: \"%s\", want %s and %s", sae_result_name(result),
          result == SAE_OK ? "" : sae_error(c), sae_result_name(want), word);
    CHECK(m == (sae_lm *)(void *)c, "out is touched");
    if (result == SAE_OK) sae_lm_close(m);
}

static void settings(void) {
    static const struct {
        const char *file, *key; /* value 0xFFFFFFFF: the key is left out */
        uint32_t value;
        sae_result result;
        const char *word;
    } cases[] = {
        { "gemma", "gemma.block_count", 3, SAE_ERR_FORMAT, "blk.2." },
        { "gemma", "gemma.block_count", 1, SAE_ERR_UNSUPPORTED, "blk.1." },
        { "gemma", "gemma.block_count", 0, SAE_ERR_FORMAT, "gemma.block_count" },
        { "gemma", "gemma.block_count", 5000, SAE_ERR_FORMAT, "gemma.block_count" },
        { "gemma", "gemma.embedding_length", 17, SAE_ERR_FORMAT, "by its metadata" },
        { "gemma", "gemma.feed_forward_length", 25, SAE_ERR_FORMAT, "ffn_" },
        { "gemma", "gemma.attention.head_count", 3, SAE_ERR_FORMAT, "attn_q.weight" },
        { "gemma", "gemma.attention.head_count_kv", 2, SAE_ERR_FORMAT, "attn_k.weight" },
        { "gemma", "gemma.attention.head_count_kv", 3, SAE_ERR_FORMAT, "divisors" },
        { "gemma", "gemma.attention.key_length", 11, SAE_ERR_UNSUPPORTED, "value_length" },
        { "gemma", "gemma.attention.layer_norm_rms_epsilon", 0xFFFFFFFF, SAE_ERR_FORMAT, "missing" },
        { "gemma", "gemma.context_length", 0xFFFFFFFF, SAE_ERR_FORMAT, "context_length is missing" },
        { "gemma", "gemma.attention.layer_norm_rms_epsilon", 0x7FC00000, SAE_ERR_FORMAT, "epsilon" },
        { "gemma", "general.architecture", 0xFFFFFFFF, SAE_ERR_UNSUPPORTED, "gptneox, gpt2, llama" },
        { "llama", "llama.rope.dimension_count", 4, SAE_ERR_UNSUPPORTED, "4 of the 8" },
        { "llama", "llama.rope.freq_base", 0, SAE_ERR_FORMAT, "freq_base" },
        { "mixtral", "llama.expert_used_count", 5, SAE_ERR_FORMAT, "expert_used_count" },
        { "mixtral", "llama.expert_count", 3, SAE_ERR_FORMAT, "[3," },
        { "mixtral", "llama.expert_count", 0xFFFFFFFF, SAE_ERR_FORMAT, "ffn_gate.weight" },
        { "gpt2", "gpt2.context_length", 25, SAE_ERR_FORMAT, "position_embd" },
        { "gemma2", "gemma2.attn_logit_softcapping", 0xBF800000, SAE_ERR_FORMAT, "softcapping" },
        { "gemma3", "gemma3.rope.scaling.factor", 0x7F800000, SAE_ERR_FORMAT, "factor" },
    };
    sae_context *c = memory_context();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        edited e = edit(cases[i].file);
        char *at = behind(&e, cases[i].key);
        check_test = cases[i].key;
        if (!at) continue;
        if (cases[i].value == 0xFFFFFFFF) at[-1] = '~';
        else put32(at + 4, cases[i].value);
        refused(c, &e, cases[i].result, cases[i].word);
        free(e.data);
    }
    check_test = "texts";
    {
        edited e = edit("gemma");
        memcpy(behind(&e, "general.architecture") + 12, "mamba", 5);
        refused(c, &e, SAE_ERR_UNSUPPORTED, "mamba, supported are gptneox");
        free(e.data);
        e = edit("gemma3");
        memcpy(behind(&e, "gemma3.rope.scaling.type") + 12, "yarn__", 6);
        refused(c, &e, SAE_ERR_UNSUPPORTED, "yarn__, supported are none, linear");
        free(e.data);
        e = edit("gemma3"); /* a number where a text should be, a list where a number */
        memcpy(behind(&e, "gemma3.rope.scaling.type") - 4, "tyqe", 4);
        memcpy(behind(&e, "gemma3.attention.sliding_window_pattern") - 7, "_____", 5);
        memory_data = e.data;
        memory_size = e.size;
        {
            sae_lm *m = NULL; /* unknown keys change nothing that is needed */
            CHECK_OK(c, sae_lm_open(c, "m.gguf", &m), (void)0);
            sae_lm_close(m);
        }
        free(e.data);
    }
    check_test = NULL;
    sae_context_destroy(c);
}

/* Every tensor of a file under another name, narrower, and of a type that is known by name alone. */
static void tensors(const char *file) {
    sae_context *c = memory_context();
    sae_tensor_file *open = NULL;
    check_test = file;
    CHECK_OK(ctx, sae_tensor_file_open(ctx, gguf(file), &open), return);
    for (size_t i = 0; i < sae_tensor_file_count(open); i++) {
        const sae_tensor *t = sae_tensor_file_get(open, i);
        bool blocks = sae_dtype_block(t->dtype) > 1;
        for (int how = 0; how < 3; how++) {
            edited e = edit(file);
            char *at = behind(&e, t->name);
            char word[96];
            if (!at) continue;
            snprintf(word, sizeof word, "%s", t->name);
            if (how == 0) {
                at[-2] = '_'; /* weig_t: that is not known, or one beside it is missing now */
                if (strncmp(word, "blk.", 4) == 0) word[strcspn(word + 4, ".") + 5] = 0;
                else word[strcspn(word, ".")] = 0;
            } else if (how == 1) put32(at + 4, (uint32_t)t->shape[t->ndim - 1] - (blocks ? 32 : 1));
            else put32(at + 4 + 8 * t->ndim, 19); /* IQ1_S */
            refused(c, &e, how == 1 && !blocks ? SAE_ERR_FORMAT : how == 2 ? SAE_ERR_UNSUPPORTED : SAE_OK, word);
            if (how == 2) CHECK(strstr(sae_error(c), "F32, F16, BF16, F64, Q4_0"), "%s", sae_error(c));
            free(e.data);
        }
    }
    sae_tensor_file_close(open);
    sae_context_destroy(c);
    check_test = NULL;
}

/* Cut at every byte, and bytes changed at random: a sentence, and nothing worse. */
static void damage(const char *file, bool tokenizer) {
    sae_context *c = memory_context();
    edited e = edit(file);
    check_rng rng = { 77 };
    size_t opened = 0;
    check_test = file;
    memory_data = e.data;
    for (size_t n = 0; n < e.size; n++) {
        sae_lm *m = NULL;
        char *exact = (char *)malloc(n + 1); /* so that a sanitizer sees what reads past its end */
        memcpy(exact, e.data, n);
        memory_data = exact;
        memory_size = n;
        CHECK(sae_lm_open(c, "m.gguf", &m) != SAE_OK && strstr(sae_error(c), "m.gguf"),
              "%zu bytes of %zu open", n, e.size);
        free(exact);
    }
    for (int i = 0; i < 4000; i++) {
        edited f = edit(file);
        sae_lm *m = NULL;
        sae_tokenizer *t = NULL;
        size_t header = (size_t)(behind(&f, "output_norm.weight") - f.data);
        f.data[check_bits(&rng) % header] = (char)check_bits(&rng);
        if (i % 2) f.data[check_bits(&rng) % header] ^= (char)(1 << check_bits(&rng) % 8);
        memory_data = f.data;
        memory_size = f.size;
        if (sae_lm_open(c, "m.gguf", &m) == SAE_OK) {
            int32_t tokens[5] = { 0, 1, 2, 1, 0 };
            double loss = 0;
            sae_lm_forward_desc d;
            memset(&d, 0, sizeof d);
            d.tokens = tokens;
            d.contexts = 1;
            d.ctx = 5;
            d.loss = &loss;
            opened += sae_lm_forward(m, &d) == SAE_OK;
            sae_lm_close(m);
        } else CHECK(strlen(sae_error(c)) > 10, "no sentence");
        if (tokenizer && sae_tokenizer_open(c, "m.gguf", &t) == SAE_OK) {
            sae_tokens ids = { NULL, 0, 0 };
            CHECK_OK(c, sae_tokenizer_encode(t, "The cat \xC3\xA9", 10, true, &ids), (void)0);
            sae_tokens_free(&ids);
            sae_tokenizer_close(t);
        }
        free(f.data);
    }
    CHECK(opened > 100, "%zu of 4000 open", opened);
    free(e.data);
    sae_context_destroy(c);
    check_test = NULL;
}

/* ---- tokenizers ---- */

static sae_tokens encoded(sae_tokenizer *t, const char *text, size_t size) {
    sae_tokens ids = { NULL, 0, 0 };
    CHECK_OK(ctx, sae_tokenizer_encode(t, text, size, false, &ids), (void)0);
    return ids;
}

static void same_ids(const char *what, const sae_tokens *got, const int32_t *want, size_t count) {
    CHECK(got->count == count && (!count || !memcmp(got->id, want, count * sizeof *want)),
          "%s: %zu ids, want %zu", what, got->count, count);
}

/* A BPE of bytes, and the folder's. */
static void byte_level(void) {
    sae_tokenizer *a = NULL, *b = NULL;
    size_t size = 0, count;
    char *text = check_read(place("text.txt"), &size);
    check_rng rng = { 9 };
    CHECK_OK(ctx, sae_tokenizer_open(ctx, gguf("parallel"), &a), return);
    CHECK_OK(ctx, sae_tokenizer_open(ctx, place("parallel"), &b), return);
    CHECK(sae_tokenizer_size(a) == 344, "%zu tokens", sae_tokenizer_size(a)); /* as many as rows */
    for (int i = 0; i < 40; i++) {
        sae_tokens x, y;
        sae_text back[2] = { { NULL, 0, 0 }, { NULL, 0, 0 } };
        for (size_t k = 0; i && k < size; k++) /* pieces of the text, then any bytes */
            if (check_bits(&rng) % 8 == 0) text[k] = (char)check_bits(&rng);
        x = encoded(a, text, size), y = encoded(b, text, size);
        same_ids("ids", &x, y.id, y.count);
        CHECK_OK(ctx, sae_tokenizer_decode(a, y.id, y.count, &back[0]), (void)0);
        CHECK_OK(ctx, sae_tokenizer_decode(b, y.id, y.count, &back[1]), (void)0);
        CHECK(back[0].size == back[1].size && !memcmp(back[0].data, back[1].data, back[0].size),
              "another text");
        sae_tokens_free(&x), sae_tokens_free(&y);
        sae_text_free(&back[0]), sae_text_free(&back[1]);
    }
    CHECK(sae_tokenizer_bos(a, &count)[0] == 0 && count == 1, "bos");
    free(text);
    sae_tokenizer_close(a);
    sae_tokenizer_close(b);
    CHECK(sae_tokenizer_open(ctx, gguf("gemma"), &a) == SAE_ERR_NOT_FOUND, "%s", sae_error(ctx));
}

/* SentencePiece's BPE as it is defined. */
typedef struct pieces {
    size_t count;
    const char *text[600];
    size_t size[600];
    int type[600];
    double score[600];
    bool prefix;
} pieces;

static void read_pieces(const sae_json *root, pieces *p) {
    const sae_json *v = sae_json_first(sae_json_get(root, "tokenizer.ggml.tokens"));
    const sae_json *s = sae_json_first(sae_json_get(root, "tokenizer.ggml.scores"));
    const sae_json *k = sae_json_first(sae_json_get(root, "tokenizer.ggml.token_type"));
    memset(p, 0, sizeof *p);
    for (; v; v = sae_json_next(v), s = sae_json_next(s), k = sae_json_next(k)) {
        p->text[p->count] = sae_json_text(v);
        p->size[p->count] = sae_json_count(v);
        p->score[p->count] = sae_json_number(s);
        p->type[p->count++] = (int)sae_json_number(k);
    }
    p->prefix = !sae_json_get(root, "tokenizer.ggml.add_space_prefix");
}

static int normal_piece(const pieces *p, const char *s, size_t size) {
    for (size_t i = 0; i < p->count; i++)
        if (p->type[i] == 1 && p->size[i] == size && !memcmp(p->text[i], s, size)) return (int)i;
    return -1;
}

/* A run of text between special tokens. */
static void naive_run(const pieces *p, const char *s, size_t size, int32_t *out, size_t *count) {
    static char text[8192];
    static size_t at[8192];
    size_t n = 0, symbols = 0;
    if (!size) return;
    if (p->prefix) memcpy(text, "\xE2\x96\x81", 3), n = 3;
    for (size_t i = 0; i < size; i++)
        if (s[i] == ' ') memcpy(text + n, "\xE2\x96\x81", 3), n += 3;
        else text[n++] = s[i];
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80) at[symbols++] = i;
    at[symbols] = n;
    for (;;) {
        size_t best = SIZE_MAX;
        double score = 0;
        for (size_t i = 0; i + 1 < symbols; i++) {
            int id = normal_piece(p, text + at[i], at[i + 2] - at[i]);
            if (id >= 0 && (best == SIZE_MAX || p->score[id] > score)) best = i, score = p->score[id];
        }
        if (best == SIZE_MAX) break;
        memmove(at + best + 1, at + best + 2, (symbols - best - 1) * sizeof *at);
        symbols--;
    }
    for (size_t i = 0; i < symbols; i++) {
        int id = normal_piece(p, text + at[i], at[i + 1] - at[i]);
        if (id >= 0) out[(*count)++] = id;
        else for (size_t k = at[i]; k < at[i + 1]; k++) out[(*count)++] = 3 + (unsigned char)text[k];
    }
}

static size_t naive_ids(const pieces *p, const char *s, size_t size, int32_t *out) {
    size_t begin = 0, count = 0;
    for (size_t i = 0; i < size;) {
        size_t best = SIZE_MAX;
        for (size_t k = 0; k < p->count; k++)
            if (p->type[k] >= 2 && p->type[k] <= 4 && p->size[k] <= size - i && !memcmp(s + i, p->text[k], p->size[k])
                && (best == SIZE_MAX || p->size[k] > p->size[best]))
                best = k;
        if (best == SIZE_MAX) {
            i++;
            continue;
        }
        naive_run(p, s + begin, i - begin, out, &count);
        out[count++] = (int32_t)best;
        begin = i += p->size[best];
    }
    naive_run(p, s + begin, size - begin, out, &count);
    return count;
}

static void sentencepiece(const char *file) {
    static const char *const bits[] = { " ", "  ", "\n", "\n\n", "\t", "<s>", "<turn>", "<unk>", "<unused0>", "<0x41>",
                                        "\xC3\xA9", "\xC3\xA9" "a", "\xE2\x96\x81", "\xF0\x9F\x98\x80", "the ",
                                        "7", "The" };
    static int32_t want[8192];
    sae_tensor_file *open = NULL;
    sae_tokenizer *t = NULL;
    pieces p;
    check_rng rng = { 21 };
    size_t count;
    check_test = file;
    CHECK_OK(ctx, sae_tensor_file_open(ctx, gguf(file), &open), return);
    CHECK_OK(ctx, sae_tokenizer_open(ctx, gguf(file), &t), return);
    read_pieces(sae_tensor_file_metadata(open), &p);
    CHECK(sae_tokenizer_bos(t, &count)[0] == 1 && count == 1, "bos");
    for (int i = 0; i < 300; i++) {
        char text[2048] = "", one[8];
        size_t size = 0;
        sae_tokens ids;
        sae_text back = { NULL, 0, 0 };
        for (size_t k = check_bits(&rng) % 60; k > 0 && size < 1900; k--) {
            size_t pick = check_bits(&rng) % 4;
            const char *s = one;
            snprintf(one, sizeof one, "%c", (char)('a' + check_bits(&rng) % 26));
            if (pick == 0) s = bits[check_bits(&rng) % (sizeof bits / sizeof bits[0])];
            if (pick == 1) s = p.text[263 + check_bits(&rng) % (p.count - 263)];
            size += (size_t)snprintf(text + size, sizeof text - size, "%s", s);
        }
        count = naive_ids(&p, text, size, want);
        ids = encoded(t, text, size);
        same_ids(text, &ids, want, count);
        CHECK_OK(ctx, sae_tokenizer_decode(t, want, count, &back), (void)0);
        if (!strstr(text, "\xE2\x96\x81") && !strstr(text, "<"))
            CHECK(back.size == size || (p.prefix && strstr(text, "\n\n")) || strstr(text, "   "),
                  "\"%s\" comes back as \"%s\"", text, back.data);
        sae_tokens_free(&ids);
        sae_text_free(&back);
    }
    sae_tokenizer_close(t);
    sae_tensor_file_close(open);
    check_test = NULL;
}

static void bad_tokenizers(void) {
    static const struct {
        const char *file, *key, *from, *to; /* a text of the value; to NULL: the key is left out */
        sae_result result;
        const char *word;
    } cases[] = {
        { "spm", "tokenizer.ggml.model", "llama", "bert_", SAE_ERR_UNSUPPORTED, "bert_, supported are gpt2 and llama" },
        { "spm", "tokenizer.ggml.model", NULL, NULL, SAE_ERR_NOT_FOUND, "no tokenizer" },
        { "spm", "tokenizer.ggml.scores", NULL, NULL, SAE_ERR_FORMAT, "tokenizer.ggml.scores has 0" },
        { "spm", "tokenizer.ggml.tokens", NULL, NULL, SAE_ERR_FORMAT, "tokenizer.ggml.tokens has 0" },
        { "spm", "tokenizer.ggml.bos_token_id", "\1", "\1\7", SAE_ERR_FORMAT, "bos_token_id is 1793" },
        { "parallel", "tokenizer.ggml.pre", "olmo", "bert", SAE_ERR_UNSUPPORTED, "bert, supported are gpt-2, olmo" },
        { "parallel", "tokenizer.ggml.merges", NULL, NULL, SAE_ERR_FORMAT, "merges is missing" },
    };
    sae_context *c = memory_context();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        edited e = edit(cases[i].file);
        char *at = behind(&e, cases[i].key);
        sae_tokenizer *t = NULL;
        check_test = cases[i].key;
        if (!at) continue;
        if (!cases[i].to) at[-1] = '~';
        else {
            for (at += 4; memcmp(at, cases[i].from, strlen(cases[i].from)); at++) {}
            memcpy(at, cases[i].to, strlen(cases[i].to));
        }
        memory_data = e.data;
        memory_size = e.size;
        CHECK(sae_tokenizer_open(c, "m.gguf", &t) == cases[i].result && strstr(sae_error(c), "m.gguf")
                  && strstr(sae_error(c), cases[i].word), "\"%s\", want %s", sae_error(c), cases[i].word);
        free(e.data);
    }
    check_test = NULL;
    sae_context_destroy(c);
}

int main(void) {
    static const char *const all[] = { "gemma", "gpt2", "llama", "mixtral", "qwen2", "qwen3_moe", "parallel", "blocks", "fused" };
    ctx = check_context(2);
    if (!ctx) return check_end();
    models();
    one_token();
    files();
    knowledge();
    settings();
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tensors(all[i]);
    damage("gemma", false);
    damage("parallel", true);
    byte_level();
    sentencepiece("spm");
    sentencepiece("spm_bare");
    bad_tokenizers();
    check_remove(check_temp());
    sae_context_destroy(ctx);
    return check_end();
}
