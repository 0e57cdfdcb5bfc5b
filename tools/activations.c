/* sae: activations; and a language model's rows to train on. */
#include "tool.h"

struct text_rows {
    sae_lm *model;
    sae_tokenizer *tokenizer;
    sae_contexts contexts;
    sae_lm_site site, target;
    sae_lm_source *source;
    bool has_target;
    int64_t bos; /* the token whose rows are left out; -2: none */
};

void text_rows_close(text_rows *r) {
    if (!r) return;
    sae_lm_source_destroy(r->source);
    sae_contexts_free(&r->contexts);
    sae_tokenizer_close(r->tokenizer);
    sae_lm_close(r->model);
}

size_t text_rows_layer(const text_rows *r) { return r->site.layer; }

int text_rows_open(const common *c, text_rows **out, sae_source_desc *source) {
    text_rows *r = (text_rows *)keep_alloc(1, sizeof *r);
    const char *io = c->io ? c->io : "out";
    bool both = strcmp(io, "in_and_out") == 0, text = c->text.count != 0;
    sae_lm_source_desc desc;
    size_t i;
    int status;
    *out = r; /* closed by the caller, whatever comes */
    if (!c->model)
        return fail_usage("--model is missing: a folder with config.json, model.safetensors, "
                          "tokenizer.json");
    if (!c->submodule) return fail_usage("--submodule is missing, for example gpt_neox.layers.3");
    if (!both && strcmp(io, "in") && strcmp(io, "out"))
        return fail_usage("--io is %s, allowed are in, out, in_and_out", io);
    if (sae_lm_open(tool.ctx, c->model, &r->model) != SAE_OK
        || sae_lm_site_find(r->model, c->submodule, strcmp(io, "out") != 0, &r->site) != SAE_OK
        || (both && sae_lm_site_find(r->model, c->submodule, false, &r->target) != SAE_OK))
        return fail_library();
    for (i = 0; i < c->text.count && ends_with(c->text.items[i], ".npy"); i++) {}
    if (text && i < c->text.count
        && sae_tokenizer_open(tool.ctx, c->model, &r->tokenizer) != SAE_OK)
        return fail_library();
    status = read_contexts(c, r->tokenizer, &r->contexts);
    if (status != DONE) return status;
    mark_padding(r->model, &r->contexts);
    memset(&desc, 0, sizeof desc);
    desc.model = r->model;
    desc.tokens = r->contexts.tokens;
    desc.contexts = r->contexts.contexts;
    desc.ctx = r->contexts.ctx;
    desc.sites = &r->site;
    desc.num_sites = 1;
    r->has_target = both;
    if (both) desc.targets = &r->target;
    desc.remove_bos = c->remove_bos;
    desc.bos_token = sae_lm_config_of(r->model).bos_token;
    r->bos = c->remove_bos && desc.bos_token >= 0 ? desc.bos_token : -2;
    if (sae_lm_source_create(tool.ctx, &desc, &r->source) != SAE_OK) return fail_library();
    *source = sae_lm_source_rows(r->source, 0);
    return DONE;
}

/* A shard that is being filled: a .npy grows, a .safetensors is gathered. */
typedef struct shard_writer {
    npy_writer npy;
    unsigned char *gathered; /* [size] rows */
    uint64_t size, rows;
    const char *path;
    size_t width, element;
    bool safetensors;
} shard_writer;

static int shard_open(shard_writer *w, const char *path, uint64_t rows, bool half) {
    w->path = path;
    w->rows = 0;
    if (!w->safetensors) return npy_create(&w->npy, path, ".tmp", half ? "<f2" : "<f4", w->width);
    if (rows > w->size) {
        w->gathered = (unsigned char *)keep_alloc((size_t)rows, w->width * w->element);
        w->size = rows;
    }
    return DONE;
}

static int shard_put(shard_writer *w, const void *data, size_t rows) {
    size_t row = w->width * w->element;
    if (!w->safetensors) return npy_put(&w->npy, data, w->element, rows);
    memcpy(w->gathered + w->rows * row, data, rows * row);
    w->rows += rows;
    return DONE;
}

static int shard_close(shard_writer *w) {
    sae_tensor t;
    if (!w->safetensors) return npy_finish(&w->npy, false);
    set_tensor(&t, "activations", w->element == 2 ? SAE_F16 : SAE_F32, w->rows, w->width,
               w->gathered);
    if (sae_tensor_file_write(tool.ctx, w->path, &t, 1) != SAE_OK) return fail_library();
    return DONE;
}

/* OUT, with ".in" or ".out" and the number of the shard before its ending. */
static const char *shard_name(const char *out, const char *which, uint64_t shard,
                              uint64_t shards) {
    const char *dot = strrchr(out, '.');
    char *name = (char *)keep_alloc(strlen(out) + 64, 1);
    int stem = (int)(dot - out);
    if (shards == 1) sprintf(name, "%.*s%s%s", stem, out, which, dot);
    else
        sprintf(name, "%.*s%s-%05.0f-of-%05.0f%s", stem, out, which, (double)shard + 1,
                (double)shards, dot);
    return name;
}

typedef struct activation_options {
    common c;
    const char *tokens_out;
    uint64_t shard_rows;
} activation_options;

/* How many rows there will be, and the ids of their tokens. */
static uint64_t kept_tokens(const text_rows *r, int32_t *ids) {
    uint64_t kept = 0;
    size_t i, n = r->contexts.contexts * r->contexts.ctx;
    for (i = 0; i < n; i++) {
        int32_t id = r->contexts.tokens[i];
        if (id < 0 || id == r->bos) continue;
        if (ids) ids[kept] = id;
        kept++;
    }
    return kept;
}

static int write_activations(const activation_options *o, text_rows *r, sae_source_desc *source,
                             uint64_t total) {
    enum { BLOCK = 2048 };
    bool half = o->c.dtype && strstr(o->c.dtype, "16") != NULL;
    float *x[2];
    uint16_t *narrow = (uint16_t *)keep_alloc(BLOCK * source->dim, sizeof *narrow);
    uint64_t each = o->shard_rows ? o->shard_rows : total, shards = (total + each - 1) / each;
    uint64_t shard, left;
    shard_writer w[2];
    size_t s, streams = r->has_target ? 2 : 1, i;
    int status = DONE;
    memset(w, 0, sizeof w);
    for (s = 0; s < 2; s++) {
        x[s] = (float *)keep_alloc(BLOCK * source->dim, sizeof(float));
        w[s].safetensors = ends_with(o->c.out, ".safetensors");
        w[s].width = source->dim;
        w[s].element = half ? 2 : 4;
    }
    for (shard = 0; shard < shards && status == DONE; shard++) {
        left = total - shard * each < each ? total - shard * each : each;
        for (s = 0; s < streams && status == DONE; s++)
            status = shard_open(&w[s], shard_name(o->c.out, streams == 1 ? "" : s ? ".out" : ".in",
                                                  shard, shards), left, half);
        while (left && status == DONE) {
            int64_t got = source->read(source->user, x[0], x[1], left < BLOCK ? left : BLOCK);
            if (got <= 0) status = got < 0 ? fail_library() : fail("rows end too soon");
            for (s = 0; s < streams && status == DONE; s++) {
                for (i = 0; half && i < (size_t)got * source->dim; i++)
                    narrow[i] = to_half(x[s][i]);
                status = shard_put(&w[s], half ? (const void *)narrow : x[s], (size_t)got);
            }
            left -= status == DONE ? (uint64_t)got : 0;
            if (status == DONE && total > 65536)
                show_share((void *)"running the model",
                           (double)(shard * each + each - left) / (double)total);
        }
        for (s = 0; s < streams && status == DONE; s++) status = shard_close(&w[s]);
    }
    for (s = 0; s < streams; s++) npy_abandon(&w[s].npy);
    return status;
}

static int check_activations(activation_options *o) {
    common *c = &o->c;
    const char *dot = c->out ? strrchr(c->out, '.') : NULL;
    if (c->words.count) return fail_usage("%s belongs to no option", c->words.items[0]);
    if (!c->out) return fail_usage("--out is missing");
    if (!c->text.count == !c->tokens)
        return fail_usage("--text is missing (or --tokens, in its place)");
    if (!dot || (strcmp(dot, ".npy") && strcmp(dot, ".safetensors")))
        return fail_usage("--out is %s, allowed are .npy and .safetensors", c->out);
    if (c->dtype && strcmp(c->dtype, "f32") && strcmp(c->dtype, "float32")
        && strcmp(c->dtype, "f16") && strcmp(c->dtype, "float16"))
        return fail_usage("--dtype is %s, allowed are f32, f16", c->dtype);
    if (need_folder("out", c->out) != DONE) return FAILED;
    if (o->tokens_out && need_folder("tokens-out", o->tokens_out) != DONE) return FAILED;
    return keep_apart("--out", c->out, c);
}

int verb_activations(int argc, char **argv) {
    activation_options o;
    text_rows *r = NULL;
    sae_source_desc source;
    uint64_t total = 0;
    int status;
    memset(&o, 0, sizeof o);
    const option options[] = {
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text }, { "tokens", TEXT, &o.c.tokens },
        { "submodule", TEXT, &o.c.submodule }, { "io", TEXT, &o.c.io }, { "out", TEXT, &o.c.out },
        { "ctx", SIZE, &o.c.ctx }, { "dtype", TEXT, &o.c.dtype },
        { "tokens-out", TEXT, &o.tokens_out }, { "shard-rows", SIZE, &o.shard_rows },
        { "remove-bos", FLAG, &o.c.remove_bos }, { "threads", COUNT, &o.c.threads },
        { "device", TEXT, &o.c.device }, { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &o.c.words, NULL);
    if (status == DONE) status = check_activations(&o);
    if (status == DONE) status = start_program(&o.c);
    if (status == DONE) status = text_rows_open(&o.c, &r, &source);
    if (status == DONE && !(total = kept_tokens(r, NULL)))
        status = fail("all tokens are padding or bos: there are no rows");
    if (status == DONE) status = write_activations(&o, r, &source, total);
    if (status == DONE && o.tokens_out) { /* by contexts where every token has its row */
        int32_t *ids = (int32_t *)keep_alloc((size_t)total, sizeof *ids);
        bool whole = total == r->contexts.contexts * r->contexts.ctx;
        kept_tokens(r, ids);
        status = write_ids(o.tokens_out, ids, whole ? r->contexts.contexts : total,
                           whole ? r->contexts.ctx : 0);
    }
    if (status == DONE && !tool.quiet)
        printf("%s: %.0f rows of %zu, %zu contexts of %zu tokens, %zu tokens left over\n", o.c.out,
               (double)total, source.dim, r->contexts.contexts, r->contexts.ctx,
               r->contexts.dropped);
    text_rows_close(r);
    return status;
}
