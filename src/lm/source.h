#pragma once
#include "api_source.h"
#include "forward.h"

/* ==== >>lm: source ============================================================================ */

/* A batch of contexts that has run: its rows at all sites, until every stream has read them. */
typedef struct lmi_batch {
    struct lmi_batch *next;
    uint64_t pass, first; /* which pass over the text, its first context there */
    size_t contexts, rows;
    bool *wanted;         /* [sites + 1] by that stream */
    uint64_t *place;      /* [batch ctx]: of row i its place in the text */
    float **x;            /* [2 sites]: x of each site, targets; [batch ctx,dim] each */
} lmi_batch;

/* Who reads: one of each site, and the last, which reads all sites at once. */
typedef struct lmi_stream {
    sae_lm_source *source;
    size_t site;
    bool open;         /* somebody asked for it */
    uint64_t pass, at; /* the next context */
    lmi_batch *batch;  /* being read; NULL: none */
    size_t given, served; /* rows of it that were read, the first row of the last read */
} lmi_stream;

struct sae_lm_source {
    sae_context *ctx;
    sae_lm_source_desc desc; /* its sites and targets are copies */
    size_t num_hooks;        /* num_sites, twice with targets */
    sae_lm_hook *hooks;
    struct lmi_keep *keeps;  /* what they know */
    lmi_stream *streams;     /* [sites + 1] */
    lmi_batch *kept, *spare;
    lmi_batch *running;
    int32_t *tokens;         /* [batch,ctx] of read */
    uint64_t read_pass, read_at; /* where read stands */
    bool read_ended;
};

typedef struct lmi_keep {
    sae_lm_source *source;
    size_t which;
} lmi_keep;

/* A hook: keeps the rows that count. */
static sae_result lmi_source_keep(void *user, float *x, size_t rows, size_t dim) {
    const lmi_keep *keep = (const lmi_keep *)user;
    const lmi_batch *b = keep->source->running;
    uint64_t first = b->first * keep->source->desc.ctx;
    (void)rows;
    for (size_t i = 0; i < b->rows; i++)
        memcpy(b->x[keep->which] + i * dim, x + (size_t)(b->place[i] - first) * dim,
               dim * sizeof *x);
    return SAE_OK;
}

static size_t lmi_source_dim(const sae_lm_source *s, size_t which) {
    return sae_lm_site_dim(s->desc.model, s->hooks[which].site);
}

static void lmi_batch_free(const sae_lm_source *s, lmi_batch *b) {
    for (size_t i = 0; b && b->x && i < s->num_hooks; i++) free(b->x[i]);
    if (b) {
        free(b->x);
        free(b->wanted);
        free(b->place);
    }
    free(b);
}

/* One that was read already, or a new one. NULL: no memory. */
static lmi_batch *lmi_batch_new(sae_lm_source *s) {
    lmi_batch *b = s->spare;
    size_t rows = s->desc.batch * s->desc.ctx, floats;
    bool good;
    if (b) {
        s->spare = b->next;
        return b;
    }
    b = (lmi_batch *)calloc(1, sizeof *b);
    if (!b) return NULL;
    b->wanted = (bool *)calloc(s->desc.num_sites + 1, sizeof *b->wanted);
    b->place = (uint64_t *)malloc(rows * sizeof *b->place);
    b->x = (float **)calloc(s->num_hooks, sizeof *b->x);
    good = b->wanted && b->place && b->x;
    for (size_t i = 0; good && i < s->num_hooks; i++) {
        good = lmi_mul(rows, lmi_source_dim(s, i), &floats) && floats <= SIZE_MAX / sizeof(float);
        if (good) b->x[i] = (float *)malloc(floats * sizeof(float));
        good = good && b->x[i];
    }
    if (good) return b;
    lmi_batch_free(s, b);
    return NULL;
}

/* The stream is done with its batch. */
static void lmi_batch_done(sae_lm_source *s, lmi_batch *b, size_t stream) {
    lmi_batch **link = &s->kept;
    b->wanted[stream] = false;
    for (size_t i = 0; i <= s->desc.num_sites; i++)
        if (b->wanted[i]) return;
    while (*link != b) link = &(*link)->next;
    *link = b->next;
    b->next = s->spare;
    s->spare = b;
}

/* Tokens of the next contexts, at most a batch, which the stream wants; *contexts 0: the end. */
static sae_result lmi_source_tokens(sae_lm_source *s, const lmi_stream *r, const int32_t **tokens,
                                    size_t *contexts) {
    int64_t got;
    *tokens = s->tokens;
    if (!s->desc.read) {
        *contexts = (size_t)lmi_min((size_t)(s->desc.contexts - r->at), s->desc.batch);
        *tokens = s->desc.tokens + r->at * s->desc.ctx;
        return SAE_OK;
    }
    if (r->pass > s->read_pass) {
        for (size_t i = 0; i <= s->desc.num_sites; i++) {
            const lmi_stream *other = &s->streams[i];
            if (other->open && other->pass <= s->read_pass
                && !(s->read_ended && other->at == s->read_at && !other->batch))
                return sae_context_fail(s->ctx, SAE_ERR_UNSUPPORTED,
                                        "sae_lm_source: one site's stream was rewound while "
                                        "another still reads; with read all go together");
        }
        LMI_TRY(s->desc.rewind(s->desc.user));
        s->read_pass = r->pass;
        s->read_at = 0;
        s->read_ended = false;
    }
    *contexts = 0;
    if (r->pass < s->read_pass || r->at != s->read_at)
        return sae_context_fail(s->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_source: context %llu was read before this site was asked "
                                "for", (unsigned long long)r->at);
    if (s->read_ended) return SAE_OK;
    got = s->desc.read(s->desc.user, s->tokens, s->desc.batch);
    if (got < 0) return (sae_result)got;
    *contexts = lmi_min((size_t)got, s->desc.batch);
    s->read_at += *contexts;
    s->read_ended = !*contexts;
    return SAE_OK;
}

/* Runs the batch that the stream wants next; *out NULL: the end. */
static sae_result lmi_source_run(sae_lm_source *s, const lmi_stream *r, lmi_batch **out) {
    const int32_t *tokens = NULL;
    size_t contexts = 0;
    lmi_batch *b;
    sae_lm_forward_desc run;
    sae_result result = SAE_OK;
    *out = NULL;
    LMI_TRY(lmi_source_tokens(s, r, &tokens, &contexts));
    if (!contexts) return SAE_OK;
    b = lmi_batch_new(s);
    if (!b)
        return sae_context_fail(s->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_lm_source: no memory for batches of %zu contexts of %zu "
                                "tokens; is one site read much further than another?",
                                s->desc.batch, s->desc.ctx);
    b->pass = r->pass;
    b->first = r->at;
    b->contexts = contexts;
    b->rows = 0;
    for (size_t i = 0; i < contexts * s->desc.ctx; i++)
        if (tokens[i] >= 0 && !(s->desc.remove_bos && tokens[i] == s->desc.bos_token))
            b->place[b->rows++] = b->first * s->desc.ctx + i;
    memset(&run, 0, sizeof run);
    run.tokens = tokens;
    run.contexts = contexts;
    run.ctx = s->desc.ctx;
    run.hooks = s->hooks;
    run.num_hooks = s->num_hooks;
    s->running = b;
    if (b->rows) result = sae_lm_forward(s->desc.model, &run);
    for (size_t i = 0; i <= s->desc.num_sites && result == SAE_OK; i++) {
        const lmi_stream *other = &s->streams[i];
        b->wanted[i] = other->open && (other->pass < b->pass
                                       || (other->pass == b->pass && other->at <= b->first));
    }
    b->next = result == SAE_OK ? s->kept : s->spare;
    if (result == SAE_OK) s->kept = b;
    else s->spare = b;
    *out = b;
    return result;
}

/* The batch with the stream's next rows, of which there is at least one; *out NULL: the end. */
static sae_result lmi_stream_batch(lmi_stream *r, lmi_batch **out) {
    sae_lm_source *s = r->source;
    while (!r->batch || r->given == r->batch->rows) { /* a batch may have nothing but padding */
        lmi_batch *b;
        if (r->batch) lmi_batch_done(s, r->batch, r->site);
        r->batch = NULL;
        for (b = s->kept; b && (b->pass != r->pass || b->first != r->at);) b = b->next;
        if (!b) LMI_TRY(lmi_source_run(s, r, &b));
        *out = b;
        if (!b) return SAE_OK;
        r->batch = b;
        r->at += b->contexts;
        r->given = r->served = 0;
    }
    *out = r->batch;
    return SAE_OK;
}

static int64_t lmi_source_read(void *user, float *x, float *target, size_t max_rows) {
    lmi_stream *r = (lmi_stream *)user;
    const sae_lm_source *s = r->source;
    size_t n, dim = lmi_source_dim(s, r->site);
    lmi_batch *b;
    sae_result result = lmi_stream_batch(r, &b);
    if (result != SAE_OK) return result;
    if (!b) return 0;
    n = lmi_min(max_rows, b->rows - r->given);
    memcpy(x, b->x[r->site] + r->given * dim, n * dim * sizeof *x);
    if (target && s->desc.targets)
        memcpy(target, b->x[s->desc.num_sites + r->site] + r->given * dim, n * dim * sizeof *x);
    r->served = r->given;
    r->given += n;
    return (int64_t)n;
}

/* The stream begins the next pass, unless it stands at the start of one. */
static sae_result lmi_stream_rewind(void *user) {
    lmi_stream *r = (lmi_stream *)user;
    sae_lm_source *s = r->source;
    lmi_batch *next;
    if (s->desc.read && !s->desc.rewind)
        return sae_context_fail(s->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_source: its read has no rewind");
    if (!r->at) return SAE_OK;
    for (lmi_batch *b = s->kept; b; b = next) { /* what it will not read now */
        next = b->next;
        if (b->wanted[r->site] && b->pass == r->pass) lmi_batch_done(s, b, r->site);
    }
    r->batch = NULL;
    r->pass++;
    r->at = 0;
    return SAE_OK;
}

/* ---- create ---- */

static bool lmi_source_take(sae_lm_source *s, const sae_lm_source_desc *desc) {
    size_t sites = desc->num_sites, rows;
    if (!lmi_mul(s->desc.batch, desc->ctx, &rows) || rows > SIZE_MAX / sizeof(uint64_t))
        return false;
    s->hooks = (sae_lm_hook *)calloc(s->num_hooks, sizeof *s->hooks);
    s->keeps = (lmi_keep *)calloc(s->num_hooks, sizeof *s->keeps);
    s->streams = (lmi_stream *)calloc(sites + 1, sizeof *s->streams);
    if (desc->read) s->tokens = (int32_t *)malloc(rows * sizeof *s->tokens);
    if (!s->hooks || !s->keeps || !s->streams || (desc->read && !s->tokens)) return false;
    for (size_t i = 0; i < s->num_hooks; i++) {
        s->keeps[i].source = s;
        s->keeps[i].which = i;
        s->hooks[i].site = i < sites ? desc->sites[i] : desc->targets[i - sites];
        s->hooks[i].call = lmi_source_keep;
        s->hooks[i].user = &s->keeps[i];
    }
    for (size_t i = 0; i <= sites; i++) {
        s->streams[i].source = s;
        s->streams[i].site = i;
    }
    s->spare = lmi_batch_new(s); /* so that a batch too large is refused here */
    if (s->spare) s->spare->next = NULL;
    return s->spare != NULL;
}

SAE_API sae_result sae_lm_source_create(sae_context *ctx, const sae_lm_source_desc *desc,
                                        sae_lm_source **out) {
    sae_lm_source *s;
    if (!ctx || !desc || !out || !desc->model || !desc->ctx || !desc->read == !desc->tokens
        || (desc->tokens && !desc->contexts) || !desc->sites || !desc->num_sites
        || desc->num_sites > 65536)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_source_create: contexts is %zu, ctx is %zu, num_sites is "
                                "%zu, allowed are a model, sizes from 1, and one of tokens and "
                                "read", desc ? desc->contexts : 0, desc ? desc->ctx : 0,
                                desc ? desc->num_sites : 0);
    for (size_t i = 0; desc->targets && i < desc->num_sites; i++) {
        size_t x = sae_lm_site_dim(desc->model, desc->sites[i]);
        size_t target = sae_lm_site_dim(desc->model, desc->targets[i]);
        if (x != target)
            return sae_context_fail(ctx, SAE_ERR_MISMATCH,
                                    "sae_lm_source_create: site %zu has %zu dimensions, its "
                                    "target %zu; both must be the same", i, x, target);
    }
    s = (sae_lm_source *)calloc(1, sizeof *s);
    if (!s) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_source_create: no memory");
    s->ctx = ctx;
    s->desc = *desc;
    s->num_hooks = desc->num_sites * (desc->targets ? 2 : 1);
    if (!s->desc.batch) s->desc.batch = lmi_max(1, 2048 / desc->ctx);
    if (desc->tokens) s->desc.batch = lmi_min(s->desc.batch, desc->contexts);
    if (!lmi_source_take(s, desc)) {
        sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "sae_lm_source_create: no memory for batches of %zu "
                         "contexts of %zu tokens",
                         s->desc.batch, desc->ctx);
        sae_lm_source_destroy(s);
        return SAE_ERR_OUT_OF_MEMORY;
    }
    *out = s;
    return SAE_OK;
}

SAE_API void sae_lm_source_destroy(sae_lm_source *s) {
    lmi_batch *next;
    if (!s) return;
    for (lmi_batch *b = s->kept; b; b = next) next = b->next, lmi_batch_free(s, b);
    for (lmi_batch *b = s->spare; b; b = next) next = b->next, lmi_batch_free(s, b);
    free(s->hooks);
    free(s->keeps);
    free(s->streams);
    free(s->tokens);
    free(s);
}

SAE_API sae_source_desc sae_lm_source_rows(sae_lm_source *s, size_t site) {
    sae_source_desc source;
    memset(&source, 0, sizeof source);
    if (site >= s->desc.num_sites) return source;
    s->streams[site].open = true;
    source.read = lmi_source_read;
    source.rewind = s->desc.read && !s->desc.rewind ? NULL : lmi_stream_rewind;
    source.has_target = s->desc.targets != NULL;
    source.dim = lmi_source_dim(s, site);
    source.user = &s->streams[site];
    return source;
}

SAE_API uint64_t sae_lm_source_place(const sae_lm_source *s, size_t site, size_t row) {
    const lmi_stream *r = &s->streams[site];
    return r->batch ? r->batch->place[r->served + row] : 0;
}

SAE_API sae_result sae_lm_source_next(sae_lm_source *s, const float **x, const float **targets,
                                      const uint64_t **places, size_t *n) {
    lmi_stream *r;
    lmi_batch *b;
    if (!s) return SAE_ERR_INVALID;
    if (!x || !n || (targets && !s->desc.targets))
        return sae_context_fail(s->ctx, SAE_ERR_INVALID,
                                "sae_lm_source_next: x and n may not be NULL, targets must be "
                                "where the source has none");
    r = &s->streams[s->desc.num_sites];
    r->open = true;
    LMI_TRY(lmi_stream_batch(r, &b));
    *n = 0;
    if (!b) return SAE_OK;
    for (size_t i = 0; i < s->desc.num_sites; i++) {
        x[i] = b->x[i];
        if (targets) targets[i] = b->x[s->desc.num_sites + i];
    }
    if (places) *places = b->place;
    *n = r->given = b->rows;
    return SAE_OK;
}

SAE_API sae_result sae_lm_source_rewind(sae_lm_source *s) {
    if (!s) return SAE_ERR_INVALID;
    for (size_t i = 0; i <= s->desc.num_sites; i++) LMI_TRY(lmi_stream_rewind(&s->streams[i]));
    return SAE_OK;
}
