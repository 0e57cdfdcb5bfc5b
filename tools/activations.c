/* sae: activations; and a language model's rows to train on. */
#include "tool.h"

struct text_rows {
    language l;
    size_t num;         /* places */
    const char **names; /* as they were given */
    sae_lm_site *sites, *targets;
    sae_lm_source *source;
    bool has_targets, remove_bos;
};

void text_rows_close(text_rows *r) {
    if (!r) return;
    sae_lm_source_destroy(r->source);
    language_close(&r->l);
}

size_t text_rows_count(const text_rows *r) { return r->num; }
const char *text_rows_name(const text_rows *r, size_t place) { return r->names[place]; }
size_t text_rows_layer(const text_rows *r, size_t place) { return r->sites[place].layer; }
size_t text_rows_ctx(const text_rows *r) { return r->l.text.ctx; }
sae_source_desc text_rows_source(const text_rows *r, size_t place) {
    return sae_lm_source_rows(r->source, place);
}

/* The sites that --submodule and --io name. */
static int find_places(const common *c, text_rows *r) {
    const char *io = c->io ? c->io : "out";
    size_t i, j;
    r->num = c->submodules.count;
    r->names = c->submodules.items;
    r->sites = (sae_lm_site *)keep_alloc(r->num, sizeof *r->sites);
    r->targets = (sae_lm_site *)keep_alloc(r->num, sizeof *r->targets);
    r->has_targets = strcmp(io, "in_and_out") == 0;
    for (i = 0; i < r->num; i++) {
        const char *own_io = c->io, *name = place_name(r->names[i], &own_io);
        bool out = !own_io || strcmp(own_io, "out") == 0;
        for (j = 0; j < i; j++)
            if (strcmp(r->names[i], r->names[j]) == 0)
                return fail_usage("--submodule %s is given twice", r->names[i]);
        if (sae_lm_site_find(r->l.model, name, !out, &r->sites[i]) != SAE_OK
            || (r->has_targets
                && sae_lm_site_find(r->l.model, name, false, &r->targets[i]) != SAE_OK))
            return fail_library();
    }
    return DONE;
}

int text_rows_open(const common *c, text_rows **out) {
    text_rows *r = (text_rows *)keep_alloc(1, sizeof *r);
    sae_lm_source_desc desc;
    reading how;
    int status;
    *out = r; /* closed by the caller, whatever comes */
    if (!c->model)
        return fail_usage("--model is missing: a folder with config.json, model.safetensors, "
                          "tokenizer.json");
    if (!c->submodules.count)
        return fail_usage("--submodule is missing, for example blocks.3.hook_resid_post");
    if (c->io && strcmp(c->io, "in") && strcmp(c->io, "out") && strcmp(c->io, "in_and_out"))
        return fail_usage("--io is %s, allowed are in, out, in_and_out", c->io);
    status = choose_reading(c, NULL, NULL, 0, &how);
    if (status == DONE) status = language_open(c, &r->l);
    if (status == DONE) status = find_places(c, r);
    if (status == DONE) status = language_read(c, &how, &r->l);
    if (status != DONE) return status;
    memset(&desc, 0, sizeof desc);
    desc.model = r->l.model;
    desc.tokens = r->l.text.tokens;
    desc.contexts = r->l.text.contexts;
    desc.ctx = r->l.text.ctx;
    desc.sites = r->sites;
    desc.num_sites = r->num;
    if (r->has_targets) desc.targets = r->targets;
    r->remove_bos = desc.remove_bos = c->remove_bos;
    desc.bos_token = r->l.bos;
    if (sae_lm_source_create(tool.ctx, &desc, &r->source) != SAE_OK) return fail_library();
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

typedef struct activation_options {
    common c;
    const char *tokens_out;
    uint64_t shard_rows;
} activation_options;

/* How many rows there will be, and the ids of their tokens. */
static uint64_t kept_tokens(const text_rows *r, int32_t *ids) {
    uint64_t kept = 0;
    size_t i, n = r->l.text.contexts * r->l.text.ctx;
    for (i = 0; i < n; i++) {
        int32_t id = r->l.text.tokens[i];
        if (id < 0 || (r->remove_bos && id == r->l.bos)) continue;
        if (ids) ids[kept] = id;
        kept++;
    }
    return kept;
}

typedef struct stream { /* one of the files: a place's input, or its output */
    shard_writer w;
    const char *name;   /* F.PLACE.in.npy */
    const float *rows;  /* of the batch at hand */
    uint64_t overflows; /* values of float32 that float16 has not */
} stream;

/* OUT, with the number of the shard before its ending. */
static const char *shard_name(const char *out, uint64_t shard, uint64_t shards) {
    const char *dot = strrchr(out, '.');
    char *name = (char *)keep_alloc(strlen(out) + 64, 1);
    if (shards == 1) return out;
    sprintf(name, "%.*s-%05.0f-of-%05.0f%s", (int)(dot - out), out, (double)shard + 1,
            (double)shards, dot);
    return name;
}

/* OUT, with the place before its ending, where there are several, and ".in" or ".out", where there
   are both. */
static const char *stream_name(const char *out, const char *place, const char *which) {
    const char *dot = strrchr(out, '.');
    char *name = (char *)keep_alloc(strlen(out) + strlen(place) + 8, 1), *at;
    sprintf(name, "%.*s%s%s%s%s", (int)(dot - out), out, *place ? "." : "", place, which, dot);
    for (at = name + (dot - out); *at; at++)
        if (*at == '/') *at = '_';
    return name;
}

static size_t open_streams(const activation_options *o, const text_rows *r, stream *all) {
    static const char *const which[] = { "", ".in", ".out" };
    size_t sides = r->has_targets ? 2 : 1, i, s;
    bool half = o->c.dtype && strstr(o->c.dtype, "16") != NULL;
    for (i = 0; i < r->num; i++)
        for (s = 0; s < sides; s++) {
            stream *at = &all[i * sides + s];
            at->name = stream_name(o->c.out, r->num > 1 ? r->names[i] : "",
                                   which[sides == 1 ? 0 : 1 + s]);
            at->w.safetensors = ends_with(o->c.out, ".safetensors");
            at->w.width = sae_lm_site_dim(r->l.model, s ? r->targets[i] : r->sites[i]);
            at->w.element = half ? 2 : 4;
        }
    return r->num * sides;
}

/* n rows of the batch from row `first` on. */
static int put_rows(stream *s, size_t first, size_t n, uint16_t *narrow) {
    const float *x = s->rows + first * s->w.width;
    size_t i;
    if (s->w.element == 4) return shard_put(&s->w, x, n);
    for (i = 0; i < n * s->w.width; i++) {
        narrow[i] = to_half(x[i]);
        s->overflows += half_overflows(x[i]);
    }
    return shard_put(&s->w, narrow, n);
}

/* The next batch of the model: rows of every stream; *n 0 at the end. */
static int next_rows(text_rows *r, stream *all, const float **x, const float **targets,
                     size_t *n) {
    size_t sides = r->has_targets ? 2 : 1, i;
    if (sae_lm_source_next(r->source, x, r->has_targets ? targets : NULL, NULL, n) != SAE_OK)
        return fail_library();
    for (i = 0; i < r->num; i++) {
        all[i * sides].rows = x[i];
        if (r->has_targets) all[i * sides + 1].rows = targets[i];
    }
    return DONE;
}

static int write_activations(const activation_options *o, text_rows *r, uint64_t total) {
    uint64_t each = o->shard_rows ? o->shard_rows : total, shards = (total + each - 1) / each;
    stream *all = (stream *)keep_alloc(2 * r->num, sizeof *all);
    const float **x = (const float **)keep_alloc(2 * r->num, sizeof *x);
    size_t streams = open_streams(o, r, all), widest = 0, n = 0, at = 0, part, s;
    uint64_t done = 0;
    uint16_t *narrow;
    int status = DONE;
    for (s = 0; s < streams; s++) widest = all[s].w.width > widest ? all[s].w.width : widest;
    enum { PART = 2048 };
    narrow = (uint16_t *)keep_alloc(PART * widest, sizeof *narrow);
    while (done < total && status == DONE) {
        uint64_t left = each - done % each;
        if (done % each == 0)
            for (s = 0; s < streams && status == DONE; s++)
                status = shard_open(&all[s].w, shard_name(all[s].name, done / each, shards),
                                    total - done < each ? total - done : each,
                                    all[s].w.element == 2);
        if (status == DONE && at == n) {
            status = next_rows(r, all, x, x + r->num, &n);
            at = 0;
            if (status == DONE && !n) status = fail("rows end too soon");
        }
        part = n - at < PART ? n - at : PART;
        if (part > left) part = (size_t)left;
        for (s = 0; s < streams && status == DONE; s++)
            status = put_rows(&all[s], at, part, narrow);
        at += part;
        done += part;
        if (status == DONE && total > 65536)
            show_share((void *)"running the model", (double)done / (double)total);
        if (done % each == 0 || done == total)
            for (s = 0; s < streams && status == DONE; s++) status = shard_close(&all[s].w);
    }
    for (s = 0; s < streams; s++) {
        npy_abandon(&all[s].w.npy);
        if (status == DONE && all[s].overflows) warn_overflow(all[s].name, all[s].overflows);
    }
    return status;
}

static void say_written(const activation_options *o, const text_rows *r, uint64_t total) {
    size_t i;
    for (i = 0; i < r->num && !tool.quiet; i++)
        printf("%s: %.0f rows of %zu, %zu contexts of %zu tokens, %zu tokens left over\n",
               stream_name(o->c.out, r->num > 1 ? r->names[i] : "", ""), (double)total,
               sae_lm_site_dim(r->l.model, r->sites[i]), r->l.contexts.contexts,
               r->l.contexts.ctx, r->l.contexts.dropped);
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
    uint64_t total = 0;
    int status;
    memset(&o, 0, sizeof o);
    const option options[] = {
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text }, { "tokens", TEXT, &o.c.tokens },
        { "submodule", EACH, &o.c.submodules }, { "io", TEXT, &o.c.io }, { "out", TEXT, &o.c.out },
        { "ctx", SIZE, &o.c.ctx }, { "dtype", TEXT, &o.c.dtype },
        { "tokens-out", TEXT, &o.tokens_out }, { "shard-rows", SIZE, &o.shard_rows },
        { "bos", FLAG, &o.c.bos }, { "remove-bos", FLAG, &o.c.remove_bos },
        { "threads", COUNT, &o.c.threads },
        { "device", TEXT, &o.c.device }, { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &o.c.words, NULL);
    if (status == DONE) status = check_activations(&o);
    if (status == DONE) status = start_program(&o.c);
    if (status == DONE) status = text_rows_open(&o.c, &r);
    if (status == DONE && !(total = kept_tokens(r, NULL)))
        status = fail("all tokens are padding or bos: there are no rows");
    if (status == DONE) status = write_activations(&o, r, total);
    if (status == DONE && o.tokens_out) { /* by contexts where every token has its row */
        int32_t *ids = (int32_t *)keep_alloc((size_t)total, sizeof *ids);
        bool whole = total == r->l.text.contexts * r->l.text.ctx;
        kept_tokens(r, ids);
        status = write_ids(o.tokens_out, ids, whole ? r->l.text.contexts : total,
                           whole ? r->l.text.ctx : 0);
    }
    if (status == DONE) say_written(&o, r, total);
    text_rows_close(r);
    return status;
}
