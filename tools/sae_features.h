/*  sae_features.h - what the features of a dictionary mean, by what they do in a language model.

    DO THIS
        #include "sae.h" and "sae_lm.h", then
        #define FEATURES_IMPLEMENTATION     in exactly ONE .c file, before
        #include "sae_features.h"
    and include it without the #define everywhere else.

    WHAT IT DOES
        The model's loss with a dictionary in the way (the reference's loss_recovered). One pass
        over a text that keeps, for each feature, how often and how strongly it fires, on which
        tokens, and the contexts where it fires most; then what its decoder row says by itself
        (neighbours, logits, a map) and what the model does when it is taken away or added. Memory
        does not grow with the text: about 5 KB a feature. The same input gives the same figures
        for any number of threads.

    LETTERS
        m features, d the width they write, V tokens of the vocabulary. A feature's value is |f|,
        its magnitude; they differ only in dictionaries with signed latents.

    CONTENTS (search for the tag)
        >>features: api       places, losses, the pass, decoder rows, effects
        >>features: losses    the model's loss with a dictionary in the way
        >>features: pass      collecting
        >>features: decoder   neighbours, logits, the map
        >>features: effects   ablating and steering
*/
#ifndef FEATURES_H_INCLUDED
#define FEATURES_H_INCLUDED

#ifdef __cplusplus
extern "C" {
#endif

/* ==== >>features: api ========================================================================= */

/* Where a dictionary sits: which rows it reads, and in place of which it gives its own. */
typedef struct features_place {
    sae_lm_site in, out;        /* the same, but for transcoders */
    size_t in_from, out_from;   /* the first of its columns in a wider row: of one head among all */
    int64_t positions[3];       /* of a context whose rows are its own, as in sae_origin */
    bool skips;                 /* rows of the token `skipped` are not */
    int32_t skipped;
    bool centred;               /* rows are taken less their mean */
} features_place;

typedef struct features_where {
    const char *submodule; /* required */
    const char *io;        /* the reference's: "in", "out" (default), "in_and_out" (transcoders) */
    const char *gives;     /* it gives what comes out of this submodule; NULL: as io says */
    bool gives_input;      /* what goes into it */
    bool one_head;         /* of a place with heads side by side the rows of this one alone */
    size_t head;
} features_where;

/* The dictionary's widths are held against the submodules'. Errors: SAE_ERR_NOT_FOUND (the message
   lists the submodules), SAE_ERR_INVALID (io, head), SAE_ERR_MISMATCH. */
SAE_API sae_result features_place_find(sae_context *ctx, const sae_lm *model,
                                       const sae_dictionary *dict, const features_where *where,
                                       features_place *out);
/* Whether the row of position `at` of a context of ctx tokens is the dictionary's. */
SAE_API bool features_place_has(const features_place *place, int32_t token, size_t at, size_t ctx);

typedef struct features_text {
    const int32_t *tokens; /* [contexts,ctx]; negative: padding, at the end of a context */
    size_t contexts, ctx;
} features_text;

/* Called now and then with how much is done, 0..1; false stops with SAE_ERR_CANCELLED. May be
   NULL. */
typedef struct features_progress {
    bool (*call)(void *user, double done);
    void *user;
} features_progress;

/* Mean -ln p of the next token over all predictions inside the contexts: as the model is, with
   x_hat in place of the activations, with zeros there; of every row that is the dictionary's. */
typedef struct features_losses {
    double original, reconstructed, zero;
    double frac_recovered; /* (reconstructed - zero) / (original - zero) */
    uint64_t tokens;       /* all tokens of the contexts, without padding */
} features_losses;

/* For num dictionaries at one place: 2 + num passes. out [num]. */
SAE_API sae_result features_loss_recovered(sae_context *ctx, sae_lm *model,
                                           const features_text *text, features_place place,
                                           const sae_dictionary *const *dicts, size_t num,
                                           const features_progress *progress,
                                           features_losses *out);

/* A dictionary at a place: sae_evaluate of the rows there, and the losses above. */
typedef struct features_metrics {
    sae_metrics rows;
    features_losses losses;
} features_metrics;

/* The dictionary's rows are taken in whole batches (of batch_size, default 2048, or of all where
   there are fewer). *rows: how many were judged. out [num]. */
typedef struct features_judge_desc {
    size_t batch_size;
    bool remove_bos; /* from the rows; the losses are over all tokens */
    int64_t bos_token;
} features_judge_desc;
SAE_API sae_result features_judge(sae_context *ctx, sae_lm *model, const features_text *text,
                                  features_place place, const sae_dictionary *const *dicts,
                                  size_t num, const features_judge_desc *desc,
                                  const features_progress *progress, features_metrics *out,
                                  uint64_t *rows);

/* ---- the pass ---- */

#define FEATURES_BARS 50      /* of a histogram */
#define FEATURES_MAX_KEPT 64  /* examples of a feature, of either kind */
#define FEATURES_BEFORE 20
#define FEATURES_AFTER 8

typedef struct features_desc {
    const sae_dictionary *dict; /* required; must outlive it */
    features_place place;
    size_t ctx;          /* required: tokens of a context */
    size_t vocab_size;   /* required */
    size_t examples;     /* contexts with the largest values; default 8 */
    size_t samples;      /* contexts drawn from all in which it fires; default 4 */
    size_t before, after; /* tokens kept around an example's token; default FEATURES_BEFORE, ... */
    size_t rows;         /* kept for features_pursuit; default 128 */
    uint64_t seed;       /* of the drawing */
    bool remove_bos;     /* rows of bos_token are left out */
    int64_t bos_token;
} features_desc;

typedef struct features features;

/* Errors: SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED (IdentityDict), SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result features_create(sae_context *ctx, const features_desc *desc, features **out);
SAE_API void features_destroy(features *f); /* NULL is fine */

/* One pass of the model over the text for num dictionaries, each at its place. */
SAE_API sae_result features_collect(sae_lm *model, const features_text *text,
                                    features *const *list, size_t num,
                                    const features_progress *progress);

typedef struct features_stats {
    uint64_t count;  /* rows in which it fires */
    double density;  /* of all rows */
    double mean;     /* of its values where it fires */
    double max;
    double energy;   /* sum of squares over all rows, times the squared norm of its decoder row */
    double spread;   /* exp(entropy) of its value by token: 1 if it fires on one token alone, n if
                        evenly on n */
} features_stats;
SAE_API features_stats features_get(const features *f, size_t latent);
SAE_API uint64_t features_rows(const features *f); /* rows seen */
SAE_API double features_l0(const features *f);     /* mean count of f != 0 */

/* The features that fire, most energy first, ties to the lower; at most max. Returns how many. */
SAE_API size_t features_rank(const features *f, uint32_t *latents, size_t max);

/* Bars of equal width from 0; returns how many, up to FEATURES_BARS. */
SAE_API size_t features_histogram(const features *f, size_t latent, uint32_t *counts,
                                  double *width);

typedef struct features_token {
    int32_t token;
    uint32_t count; /* times it is in the text */
    double mean;    /* of the feature over these, where it does not fire included */
} features_token;
/* The tokens with the largest mean, of those that are at least min_count times in the text. Exact
   while a feature fires on at most 8 tokens of each of 32 classes; beyond that the tokens of little
   value are forgotten. Returns how many. */
SAE_API size_t features_tokens(const features *f, size_t latent, uint32_t min_count,
                               features_token *out, size_t max);

typedef struct features_example {
    size_t context, at;  /* token `at` of the context: the largest of it, or the one drawn */
    float value;         /* f there, with its sign */
    size_t begin, end;   /* tokens of the context for which values are kept */
    const float *values; /* [end - begin] magnitudes; owned by features */
} features_example;
/* Largest value first; or those drawn. Returns how many: at most desc's examples, or samples, for
   which out has room. */
SAE_API size_t features_examples(const features *f, size_t latent, bool drawn,
                                 features_example *out);

/* What gradient pursuit makes of the rows kept, with as many latents a row as the dictionary's mean
   L0, beside what the encoder makes: shares of the variance explained. */
typedef struct features_pursued {
    size_t rows, l0;
    double encoder, pursuit;
} features_pursued;
SAE_API sae_result features_pursuit(const features *f, features_pursued *out);

/* ---- decoder rows ---- */

/* The `count` features whose decoder rows have the largest cosine with each of `latents`. out,
   cosine [num,count]; where there are fewer, the rest is UINT32_MAX. */
SAE_API sae_result features_neighbours(sae_context *ctx, const sae_dictionary *dict,
                                       const uint32_t *latents, size_t num, size_t count,
                                       uint32_t *out, float *cosine);

typedef struct features_logit {
    int32_t token;
    float value;
} features_logit;

typedef struct features_logits_of {
    double mean, deviation; /* over the vocabulary */
    double peak;            /* (largest - mean) / deviation: how far its first token stands out */
    float low, high;        /* ends of the histogram */
    uint32_t bars[FEATURES_BARS];
} features_logits_of;

/* Do rows at this place reach the unembedding by the residual stream alone? */
SAE_API bool features_place_has_logits(const sae_lm *model, features_place place);
/* The decoder rows straight through the linear part of the final norm (less their mean where it is
   a layer norm, times its weights) and the unembedding, without a cap. top, bottom [num,count],
   stats [num]. */
SAE_API sae_result features_logits(sae_context *ctx, const sae_lm *model, features_place place,
                                   const sae_dictionary *dict, const uint32_t *latents, size_t num,
                                   size_t count, features_logit *top, features_logit *bottom,
                                   features_logits_of *stats);

/* A map of decoder rows, xy [num,2] in 0..1: starts from their two principal components, then each
   is drawn to its eight neighbours by cosine and pushed from others drawn at random, as UMAP does
   with a = b = 1. Near means alike; far means nothing. */
SAE_API sae_result features_map(sae_context *ctx, const sae_dictionary *dict,
                                const uint32_t *latents, size_t num, float *xy);

/* ---- effects ---- */

#define FEATURES_MAX_CHANGES 16

typedef struct features_change {
    int32_t token;
    float before, after; /* mean probability of being next */
} features_change;

typedef struct features_effect {
    size_t contexts; /* over which the means go; 0: not measured */
    double kl;       /* mean KL(before || after) of the next token, nats */
    double loss;     /* mean rise of -ln p of the token that did come */
    features_change up[FEATURES_MAX_CHANGES], down[FEATURES_MAX_CHANGES]; /* largest change first */
} features_effect;

/* Takes each feature away at one token of up to `contexts` of its examples (those with the shortest
   way there), what the dictionary does not reconstruct staying, and compares what comes next.
   changes: how many of up and down. out [num]. */
SAE_API sae_result features_ablate(const features *f, sae_lm *model, const features_text *text,
                                   const uint32_t *latents, size_t num, size_t contexts,
                                   size_t changes, const features_progress *progress,
                                   features_effect *out);
/* Adds each feature at its largest value to the last token of `contexts` openings of `length`
   tokens, the same for all features, taken evenly from the text. */
SAE_API sae_result features_steer(const features *f, sae_lm *model, const features_text *text,
                                  const uint32_t *latents, size_t num, size_t contexts,
                                  size_t length, size_t changes, const features_progress *progress,
                                  features_effect *out);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* FEATURES_H_INCLUDED */

/* ============================================================================================== */
#ifdef FEATURES_IMPLEMENTATION

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FEATURES_TRY(call)                                                                         \
    do {                                                                                           \
        sae_result features_result_ = (call);                                                      \
        if (features_result_ != SAE_OK) return features_result_;                                   \
    } while (0)

enum {
    FEATURES_BATCH_TOKENS = 2048,
    FEATURES_SETS = 32, /* classes of tokens kept for a feature, and ways of each */
    FEATURES_WAYS = 8,
    FEATURES_ENTRIES = 4 << 20, /* latents encoded at a time, if not bounded */
    FEATURES_NEAR = 8,          /* neighbours that draw, on the map */
    FEATURES_ROUNDS = 200       /* of the map */
};

static size_t features_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t features_max(size_t a, size_t b) { return a > b ? a : b; }

/* Memory for count times size bytes, at least one; NULL: no memory. */
static void *features_alloc(size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return NULL;
    return malloc(features_max(count * size, 1));
}

static void *features_zeroed(size_t count, size_t size) {
    return calloc(features_max(count, 1), features_max(size, 1));
}

/* A draw from a counter: splitmix64's mixing. */
static uint64_t features_random(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool features_tell(const features_progress *progress, size_t done, size_t all) {
    return !progress || !progress->call
           || progress->call(progress->user, all ? (double)done / (double)all : 1);
}

/* The sum in sixteen parts, in a fixed order. */
static float features_dot(const float *a, const float *b, size_t n) {
    float s[16] = { 0 };
    size_t i = 0, j;
    for (; i + 16 <= n; i += 16)
        for (j = 0; j < 16; j++) s[j] += a[i + j] * b[i + j];
    for (; i < n; i++) s[0] += a[i] * b[i];
    for (j = 8; j; j /= 2)
        for (i = 0; i < j; i++) s[i] += s[i + j];
    return s[0];
}

/* ==== >>features: losses ====================================================================== */

static bool features_same_site(sae_lm_site a, sae_lm_site b) {
    return a.module == b.module && a.layer == b.layer && a.input == b.input;
}

static bool features_apart(const features_place *p) {
    return !features_same_site(p->in, p->out) || p->in_from != p->out_from;
}

/* How many heads stand side by side there; 0: none do. */
static size_t features_heads(const sae_lm *model, sae_lm_site site) {
    bool z = site.module == SAE_LM_O_PROJ && site.input;
    bool qkv = site.module == SAE_LM_Q_PROJ || site.module == SAE_LM_K_PROJ
               || site.module == SAE_LM_V_PROJ;
    return z || qkv ? sae_lm_site_dim(model, site) / sae_lm_config_of(model).head_dim : 0;
}

/* The columns of one head at a site that has all of them side by side. */
static sae_result features_head(sae_context *ctx, const sae_lm *model, const features_where *where,
                                sae_lm_site site, size_t *from, size_t *width) {
    size_t dim = sae_lm_config_of(model).head_dim, heads = features_heads(model, site);
    if (!heads)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "features_place_find: head is %zu, %s has no heads: hook_z has",
                                where->head, where->submodule);
    if (where->head >= heads)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "features_place_find: head is %zu, %s has %zu, counted from 0",
                                where->head, where->submodule, heads);
    *from = where->head * dim;
    *width = dim;
    return SAE_OK;
}

SAE_API sae_result features_place_find(sae_context *ctx, const sae_lm *model,
                                       const sae_dictionary *dict, const features_where *where,
                                       features_place *out) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    const char *io = where->io ? where->io : "out", *gives = where->gives;
    bool in = strcmp(io, "in") == 0, both = strcmp(io, "in_and_out") == 0;
    features_place place;
    size_t width;
    memset(&place, 0, sizeof place);
    if (!in && !both && strcmp(io, "out") != 0)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "features_place_find: io is %s, allowed are in, out, "
                                "in_and_out",
                                io);
    FEATURES_TRY(sae_lm_site_find(model, where->submodule, in || both, &place.in));
    FEATURES_TRY(sae_lm_site_find(model, gives ? gives : where->submodule,
                                  gives ? where->gives_input : in, &place.out));
    width = sae_lm_site_dim(model, place.in);
    if (where->one_head)
        FEATURES_TRY(features_head(ctx, model, where, place.in, &place.in_from, &width));
    if (width != info.activation_dim)
        return sae_context_fail(ctx, SAE_ERR_MISMATCH,
                                "features_place_find: the dictionary takes rows of %zu, "
                                "%s %s rows of %zu%s",
                                info.activation_dim, where->submodule,
                                place.in.input ? "takes" : "gives", width,
                                features_heads(model, place.in) && !where->one_head
                                        && info.activation_dim == sae_lm_config_of(model).head_dim
                                    ? " (a head alone must be given)"
                                    : "");
    if (features_same_site(place.in, place.out)) {
        place.out_from = place.in_from;
    } else width = sae_lm_site_dim(model, place.out);
    if (width != info.output_dim)
        return sae_context_fail(ctx, SAE_ERR_MISMATCH,
                                "features_place_find: the dictionary gives rows of %zu, "
                                "%s gives rows of %zu",
                                info.output_dim, gives ? gives : where->submodule, width);
    *out = place;
    return SAE_OK;
}

SAE_API bool features_place_has(const features_place *p, int32_t token, size_t at, size_t ctx) {
    int64_t position = (int64_t)at, first = p->positions[0], end = p->positions[1];
    if (token < 0 || (p->skips && token == p->skipped)) return false;
    if (!p->positions[2]) return true;
    if (first < 0) first = first + (int64_t)ctx > 0 ? first + (int64_t)ctx : 0;
    if (end < 0) end += (int64_t)ctx;
    return position >= first && position < end && (position - first) % p->positions[2] == 0;
}

/* Columns from .. from + width of rows [n,dim] as rows of their own. */
static void features_cut(const features_place *p, const float *x, size_t n, size_t dim, size_t from,
                         size_t width, float *out) {
    size_t r, j;
    for (r = 0; r < n; r++, out += width) {
        double mean = 0;
        memcpy(out, x + r * dim + from, width * sizeof *out);
        for (j = 0; j < width && p->centred; j++) mean += (double)out[j];
        mean /= (double)width;
        for (j = 0; j < width && p->centred; j++) out[j] = (float)((double)out[j] - mean);
    }
}

/* What stands in for the activations. */
typedef struct features_patch {
    const features_place *place;
    const int32_t *tokens;      /* of the batch, contexts of ctx */
    size_t ctx, width, given;   /* floats the dictionary takes, and gives */
    const sae_dictionary *dict; /* NULL: zeros */
    float *x;                   /* the dictionary's rows at place.in, one after the other */
    float *x_hat;
} features_patch;

static bool features_patch_has(const features_patch *p, size_t row) {
    return features_place_has(p->place, p->tokens[row], row % p->ctx, p->ctx);
}

static sae_result features_patch_see(void *user, float *x, size_t rows, size_t dim) {
    features_patch *p = (features_patch *)user;
    float *to = p->x;
    size_t r;
    for (r = 0; r < rows; r++) {
        if (!features_patch_has(p, r)) continue;
        features_cut(p->place, x + r * dim, 1, dim, p->place->in_from, p->width, to);
        to += p->width;
    }
    return SAE_OK;
}

static sae_result features_patch_put(void *user, float *x, size_t rows, size_t dim) {
    features_patch *p = (features_patch *)user;
    size_t n = 0, r;
    if (p->dict && !features_apart(p->place)) FEATURES_TRY(features_patch_see(user, x, rows, dim));
    for (r = 0; r < rows; r++) n += features_patch_has(p, r);
    if (p->dict && n) FEATURES_TRY(sae_forward(p->dict, p->x, n, p->x_hat, NULL));
    for (r = n = 0; r < rows; r++) {
        float *row = x + r * dim + p->place->out_from;
        if (!features_patch_has(p, r)) continue;
        if (p->dict) memcpy(row, p->x_hat + n++ * p->given, p->given * sizeof *x);
        else memset(row, 0, p->given * sizeof *x);
    }
    return SAE_OK;
}

/* Contexts of a batch of about FEATURES_BATCH_TOKENS tokens. */
static size_t features_batch(const features_text *text) {
    size_t n = text->ctx < FEATURES_BATCH_TOKENS ? FEATURES_BATCH_TOKENS / text->ctx : 1;
    return features_min(n, features_max(text->contexts, 1));
}

/* The mean loss over the text with the hooks in place. */
static sae_result features_loss(sae_lm *model, const features_text *text, features_patch *patch,
                                const sae_lm_hook *hooks, size_t num_hooks, double *sums,
                                size_t *counts, const features_progress *progress, size_t pass,
                                size_t passes, double *out) {
    size_t batch = features_batch(text), at, i;
    double sum = 0, count = 0;
    for (at = 0; at < text->contexts; at += batch) {
        sae_lm_forward_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.tokens = text->tokens + at * text->ctx;
        desc.contexts = features_min(batch, text->contexts - at);
        desc.ctx = text->ctx;
        desc.hooks = hooks;
        desc.num_hooks = num_hooks;
        desc.loss = sums;
        desc.predictions = counts;
        patch->tokens = desc.tokens;
        FEATURES_TRY(sae_lm_forward(model, &desc));
        for (i = 0; i < desc.contexts; i++) {
            sum += sums[i];
            count += (double)counts[i];
        }
        if (!features_tell(progress, pass * text->contexts + at + desc.contexts,
                           passes * text->contexts))
            return SAE_ERR_CANCELLED;
    }
    *out = sum / count;
    return SAE_OK;
}

SAE_API sae_result features_loss_recovered(sae_context *ctx, sae_lm *model,
                                           const features_text *text, features_place place,
                                           const sae_dictionary *const *dicts, size_t num,
                                           const features_progress *progress,
                                           features_losses *out) {
    size_t batch = features_batch(text), rows = batch * text->ctx, i;
    size_t hooks_used = features_apart(&place) ? 2 : 1;
    features_patch patch;
    sae_lm_hook hooks[2];
    double original = 0, zero = 0, *sums = (double *)features_alloc(batch, sizeof *sums);
    size_t *counts = (size_t *)features_alloc(batch, sizeof *counts);
    uint64_t tokens = 0;
    sae_result result = SAE_OK;
    if (!num) return SAE_OK;
    memset(&patch, 0, sizeof patch);
    memset(hooks, 0, sizeof hooks);
    patch.place = &place;
    patch.ctx = text->ctx;
    patch.width = sae_dictionary_get_desc(dicts[0])->activation_dim;
    patch.given = sae_dictionary_get_desc(dicts[0])->output_dim;
    patch.x_hat = (float *)features_alloc(rows, patch.given * sizeof(float));
    patch.x = (float *)features_alloc(rows, patch.width * sizeof(float));
    hooks[0].site = place.in;
    hooks[0].call = features_patch_see;
    hooks[hooks_used - 1].site = place.out;
    hooks[hooks_used - 1].call = features_patch_put;
    hooks[0].user = hooks[1].user = &patch;
    for (i = 0; i < text->contexts * text->ctx; i++) tokens += text->tokens[i] >= 0;
    if (!sums || !counts || !patch.x_hat || !patch.x)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_loss_recovered: no memory");
    else if (text->ctx < 2 || !text->contexts)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "features_loss_recovered: %zu contexts of %zu tokens: "
                                  "nothing to predict",
                                  text->contexts, text->ctx);
    if (result == SAE_OK)
        result = features_loss(model, text, &patch, NULL, 0, sums, counts, progress, 0, num + 2,
                               &original);
    if (result == SAE_OK)
        result = features_loss(model, text, &patch, hooks, hooks_used, sums, counts, progress, 1,
                               num + 2, &zero);
    for (i = 0; i < num && result == SAE_OK; i++) {
        patch.dict = dicts[i];
        out[i].original = original;
        out[i].zero = zero;
        out[i].tokens = tokens;
        result = features_loss(model, text, &patch, hooks, hooks_used, sums, counts, progress,
                               i + 2, num + 2, &out[i].reconstructed);
        out[i].frac_recovered = (out[i].reconstructed - zero) / (original - zero);
    }
    free(sums);
    free(counts);
    free(patch.x);
    free(patch.x_hat);
    return result;
}

/* The dictionary's rows of a text as a source, out of those of whole sites. */
typedef struct features_feed {
    sae_context *ctx;
    const features_text *text;
    const features_place *place;
    sae_lm_source *source;
    sae_source_desc from;
    size_t width, dim[2];   /* of the dictionary's rows; of the sites' */
    float *rows[2];         /* [FEATURES_BATCH_TOKENS,dim] in, out */
} features_feed;

static int64_t features_feed_read(void *user, float *x, float *target, size_t max) {
    features_feed *f = (features_feed *)user;
    const features_place *p = f->place;
    size_t n = 0, i;
    int64_t got = 1;
    max = features_min(max, FEATURES_BATCH_TOKENS);
    while (!n && got > 0) {
        got = f->from.read(f->from.user, f->rows[0], f->rows[1], max);
        if (got < 0) return got;
        for (i = 0; i < (size_t)got; i++) {
            uint64_t at = sae_lm_source_place(f->source, 0, i);
            if (!features_place_has(p, f->text->tokens[at], (size_t)(at % f->text->ctx),
                                    f->text->ctx))
                continue;
            features_cut(p, f->rows[0] + i * f->dim[0], 1, f->dim[0], p->in_from, f->width,
                         x + n * f->width);
            if (target && f->rows[1])
                features_cut(p, f->rows[1] + i * f->dim[1], 1, f->dim[1], p->out_from, f->width,
                             target + n * f->width);
            n++;
        }
    }
    return (int64_t)n;
}

static sae_result features_feed_rewind(void *user) {
    features_feed *f = (features_feed *)user;
    return f->from.rewind(f->from.user);
}

static void features_feed_close(features_feed *f) {
    sae_lm_source_destroy(f->source);
    free(f->rows[0]);
    free(f->rows[1]);
}

static sae_result features_feed_open(features_feed *f, sae_lm *model,
                                     const features_judge_desc *desc) {
    sae_lm_source_desc from;
    bool apart = features_apart(f->place);
    memset(&from, 0, sizeof from);
    from.model = model;
    from.tokens = f->text->tokens;
    from.contexts = f->text->contexts;
    from.ctx = f->text->ctx;
    from.sites = &f->place->in;
    from.num_sites = 1;
    from.targets = apart ? &f->place->out : NULL;
    from.remove_bos = desc->remove_bos;
    from.bos_token = desc->bos_token;
    f->dim[0] = sae_lm_site_dim(model, f->place->in);
    f->dim[1] = sae_lm_site_dim(model, f->place->out);
    f->rows[0] = (float *)features_alloc(FEATURES_BATCH_TOKENS, f->dim[0] * sizeof(float));
    if (apart)
        f->rows[1] = (float *)features_alloc(FEATURES_BATCH_TOKENS, f->dim[1] * sizeof(float));
    if (!f->rows[0] || (apart && !f->rows[1]))
        return sae_context_fail(f->ctx, SAE_ERR_OUT_OF_MEMORY, "features_judge: no memory");
    FEATURES_TRY(sae_lm_source_create(f->ctx, &from, &f->source));
    f->from = sae_lm_source_rows(f->source, 0);
    return SAE_OK;
}

static sae_source_desc features_feed_rows(features_feed *f) {
    sae_source_desc rows;
    memset(&rows, 0, sizeof rows);
    rows.read = features_feed_read;
    rows.rewind = features_feed_rewind;
    rows.has_target = f->rows[1] != NULL;
    rows.dim = f->width;
    rows.user = f;
    return rows;
}

SAE_API sae_result features_judge(sae_context *ctx, sae_lm *model, const features_text *text,
                                  features_place place, const sae_dictionary *const *dicts,
                                  size_t num, const features_judge_desc *desc,
                                  const features_progress *progress, features_metrics *out,
                                  uint64_t *rows) {
    features_losses *losses = (features_losses *)features_zeroed(num, sizeof *losses);
    features_feed feed;
    sae_evaluate_desc how;
    sae_result result = SAE_OK;
    uint64_t count = 0;
    size_t i;
    if (!losses) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_judge: no memory");
    memset(&feed, 0, sizeof feed);
    memset(&how, 0, sizeof how);
    feed.ctx = ctx;
    feed.text = text;
    feed.place = &place;
    for (i = 0; i < text->contexts * text->ctx; i++)
        count += features_place_has(&place, text->tokens[i], i % text->ctx, text->ctx)
                 && !(desc->remove_bos && (int64_t)text->tokens[i] == desc->bos_token);
    how.buffer.batch_size = desc->batch_size ? desc->batch_size : 2048;
    if (how.buffer.batch_size > count) how.buffer.batch_size = (size_t)count;
    how.buffer.sequential = true;
    if (!count)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "features_judge: the text has no rows of the dictionary");
    else how.batches = count / how.buffer.batch_size;
    if (result == SAE_OK)
        result = features_loss_recovered(ctx, model, text, place, dicts, num, progress, losses);
    if (result == SAE_OK && num) {
        feed.width = sae_dictionary_get_desc(dicts[0])->activation_dim;
        result = features_feed_open(&feed, model, desc);
    }
    for (i = 0; i < num && result == SAE_OK; i++) {
        how.buffer.source = features_feed_rows(&feed);
        result = features_feed_rewind(&feed);
        if (result == SAE_OK) result = sae_evaluate(dicts[i], &how, &out[i].rows);
        out[i].losses = losses[i];
    }
    *rows = how.batches * how.buffer.batch_size;
    features_feed_close(&feed);
    free(losses);
    return result;
}

/* ==== >>features: pass ======================================================================== */

typedef struct features_slot { /* a token and the sum of a feature's values on it */
    int32_t token;             /* -1: free */
    float sum;
} features_slot;

typedef struct features_kept { /* an example; its values lie in the array of their own */
    uint32_t context, at;
    float value;
} features_kept;

struct features {
    sae_context *ctx;
    features_desc desc;
    size_t m, width;      /* values of an example: before + 1 + after */
    size_t kept;          /* examples + samples of a feature */
    uint64_t rows, fired; /* rows seen; latents that fired */
    /* by feature */
    uint64_t *count, *contexts; /* [m] rows, contexts in which it fires */
    double *sum, *squares;      /* [m] */
    float *max;                 /* [m] */
    float *bar_width;           /* [m] 0: none yet */
    uint32_t *bars;             /* [m,FEATURES_BARS] */
    features_slot *slots;       /* [m,FEATURES_SETS,FEATURES_WAYS] */
    features_kept *examples;    /* [m,kept]: the largest, then those drawn */
    float *values;              /* [m,kept,width] */
    uint32_t *token_count;      /* [vocab_size] */
    /* rows for features_pursuit */
    float *sample, *target; /* [desc.rows,d], [desc.rows,output_dim] */
    size_t sampled;
    uint64_t stride; /* every so many rows */
    /* the batch at hand */
    const int32_t *tokens;
    size_t first_context, batch_contexts, chunk; /* chunk: contexts encoded at a time */
    float *seen; /* the dictionary's columns of the rows at place.in */
    float *made; /* those at place.out, of a transcoder; else NULL */
    sae_sparse code;
    uint32_t *touched, *first, *stamp; /* [m] features of the context, their entries */
    uint32_t num_touched, now;
    uint16_t *entry_at;   /* [ctx * m at most] by feature */
    float *entry_value;
    size_t entries;
};

static size_t features_row_entries(const features_desc *desc) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(desc->dict);
    bool rows_k = info.arch == SAE_ARCH_TOP_K
                  && sae_dictionary_rule(desc->dict) == SAE_RULE_TOP_K;
    return rows_k ? info.k : info.dict_size;
}

static sae_result features_plan(features *f) {
    const features_desc *desc = &f->desc;
    sae_dictionary_desc info = *sae_dictionary_get_desc(desc->dict);
    size_t batch = desc->ctx < FEATURES_BATCH_TOKENS ? FEATURES_BATCH_TOKENS / desc->ctx : 1, i;
    size_t per_context, entries;
    bool apart = features_apart(&desc->place);
    per_context = features_row_entries(desc) * desc->ctx; /* below 2^48: ctx is below 2^16 */
    f->chunk = features_min(features_max((size_t)FEATURES_ENTRIES / per_context, 1), batch);
    entries = f->code.capacity = f->chunk * per_context;
    f->code.row_begin = (size_t *)features_alloc(f->chunk * desc->ctx + 1, sizeof(size_t));
    f->code.latent = (uint32_t *)features_alloc(entries, sizeof *f->code.latent);
    f->code.value = (float *)features_alloc(entries, sizeof *f->code.value);
    f->entry_at = (uint16_t *)features_alloc(per_context, sizeof *f->entry_at);
    f->entry_value = (float *)features_alloc(per_context, sizeof *f->entry_value);
    f->touched = (uint32_t *)features_alloc(f->m, sizeof *f->touched);
    f->first = (uint32_t *)features_alloc(f->m, sizeof *f->first);
    f->stamp = (uint32_t *)features_zeroed(f->m, sizeof *f->stamp);
    f->count = (uint64_t *)features_zeroed(f->m, sizeof *f->count);
    f->contexts = (uint64_t *)features_zeroed(f->m, sizeof *f->contexts);
    f->sum = (double *)features_zeroed(f->m, sizeof *f->sum);
    f->squares = (double *)features_zeroed(f->m, sizeof *f->squares);
    f->max = (float *)features_zeroed(f->m, sizeof *f->max);
    f->bar_width = (float *)features_zeroed(f->m, sizeof *f->bar_width);
    f->bars = (uint32_t *)features_zeroed(f->m, FEATURES_BARS * sizeof *f->bars);
    f->slots = (features_slot *)features_alloc(f->m,
                                           FEATURES_SETS * FEATURES_WAYS * sizeof *f->slots);
    f->examples = (features_kept *)features_zeroed(f->m, f->kept * sizeof *f->examples);
    f->values = (float *)features_zeroed(f->m, f->kept * f->width * sizeof *f->values);
    f->token_count = (uint32_t *)features_zeroed(desc->vocab_size, sizeof *f->token_count);
    f->sample = (float *)features_alloc(desc->rows, info.activation_dim * sizeof(float));
    f->target = (float *)features_alloc(desc->rows, info.output_dim * sizeof(float));
    f->seen = (float *)features_alloc(batch * desc->ctx, info.activation_dim * sizeof(float));
    if (apart)
        f->made = (float *)features_alloc(batch * desc->ctx, info.output_dim * sizeof(float));
    if (!f->code.row_begin || !f->code.latent || !f->code.value || !f->entry_at || !f->entry_value
        || !f->touched || !f->first || !f->stamp || !f->count || !f->contexts || !f->sum
        || !f->squares || !f->max || !f->bar_width || !f->bars || !f->slots || !f->examples
        || !f->values || !f->token_count || !f->sample || !f->target || !f->seen
        || (apart && !f->made))
        return sae_context_fail(f->ctx, SAE_ERR_OUT_OF_MEMORY, "features_create: no memory");
    for (i = 0; i < f->m * FEATURES_SETS * FEATURES_WAYS; i++) f->slots[i].token = -1;
    return SAE_OK;
}

SAE_API sae_result features_create(sae_context *ctx, const features_desc *desc, features **out) {
    features *f;
    sae_result result;
    if (!desc->dict || !desc->ctx || desc->ctx > 65535 || !desc->vocab_size)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "features_create: dict is NULL, ctx is not 1..65535, or "
                                "vocab_size is 0");
    if (desc->examples > FEATURES_MAX_KEPT || desc->samples > FEATURES_MAX_KEPT)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "features_create: examples, samples are %zu, %zu, "
                                "allowed is at most %d",
                                desc->examples, desc->samples, FEATURES_MAX_KEPT);
    if (sae_dictionary_get_desc(desc->dict)->arch == SAE_ARCH_IDENTITY)
        return sae_context_fail(ctx, SAE_ERR_UNSUPPORTED,
                                "features_create: IdentityDict has no features");
    f = (features *)features_zeroed(1, sizeof *f);
    if (!f) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_create: no memory");
    f->ctx = ctx;
    f->desc = *desc;
    if (!f->desc.examples) f->desc.examples = 8;
    if (!f->desc.samples) f->desc.samples = 4;
    if (!f->desc.before) f->desc.before = FEATURES_BEFORE;
    if (!f->desc.after) f->desc.after = FEATURES_AFTER;
    if (!f->desc.rows) f->desc.rows = 128;
    f->m = sae_dictionary_get_desc(desc->dict)->dict_size;
    f->kept = f->desc.examples + f->desc.samples;
    f->width = f->desc.before + 1 + f->desc.after;
    f->stride = 1;
    result = features_plan(f);
    if (result == SAE_OK) *out = f;
    else features_destroy(f);
    return result;
}

SAE_API void features_destroy(features *f) {
    if (!f) return;
    free(f->code.row_begin);
    free(f->code.latent);
    free(f->code.value);
    free(f->entry_at);
    free(f->entry_value);
    free(f->touched);
    free(f->first);
    free(f->stamp);
    free(f->count);
    free(f->contexts);
    free(f->sum);
    free(f->squares);
    free(f->max);
    free(f->bar_width);
    free(f->bars);
    free(f->slots);
    free(f->examples);
    free(f->values);
    free(f->token_count);
    free(f->sample);
    free(f->target);
    free(f->seen);
    free(f->made);
    free(f);
}

/* Counts v; the bars grow by pairs until it fits. */
static void features_bar(features *f, size_t latent, float v) {
    uint32_t *bars = f->bars + latent * FEATURES_BARS;
    float *width = f->bar_width + latent, at;
    size_t i;
    if (!(*width > 0)) *width = v / (FEATURES_BARS / 2);
    if (!(*width > 0)) return; /* v is below all measure */
    while (v >= *width * FEATURES_BARS && *width < 1e30f) {
        for (i = 0; i < FEATURES_BARS / 2; i++) bars[i] = bars[2 * i] + bars[2 * i + 1];
        memset(bars + FEATURES_BARS / 2, 0, FEATURES_BARS / 2 * sizeof *bars);
        *width *= 2;
    }
    at = v / *width;
    bars[at < FEATURES_BARS - 1 ? (size_t)at : FEATURES_BARS - 1]++; /* NaN: the last */
}

static void features_count_token(features *f, size_t latent, int32_t token, float v) {
    size_t set = (uint32_t)token * 2654435761u >> 27, i, least = 0; /* 32 sets */
    features_slot *s = f->slots + (latent * FEATURES_SETS + set) * FEATURES_WAYS;
    for (i = 0; i < FEATURES_WAYS; i++) {
        if (s[i].token == token || s[i].token < 0) break;
        if (s[i].sum < s[least].sum) least = i;
    }
    if (i < FEATURES_WAYS && s[i].token == token) {
        s[i].sum += v;
    } else {
        if (i == FEATURES_WAYS) i = least;
        s[i].token = token;
        s[i].sum = v;
    }
}

/* Example number `place` of the feature becomes token `at` of the context; n entries ascend. */
static void features_keep(features *f, size_t latent, size_t place, size_t context, size_t at,
                          float value, const uint16_t *where, const float *v, size_t n) {
    features_kept *kept = f->examples + latent * f->kept + place;
    float *values = f->values + (latent * f->kept + place) * f->width;
    size_t i, before = f->desc.before;
    kept->context = (uint32_t)context;
    kept->at = (uint32_t)at;
    kept->value = value;
    memset(values, 0, f->width * sizeof *values);
    for (i = 0; i < n; i++)
        if (where[i] + before >= at && where[i] <= at + f->desc.after)
            values[where[i] + before - at] = fabsf(v[i]);
}

/* The entries of one feature in one context. */
static void features_add(features *f, size_t latent, size_t context, const int32_t *tokens,
                         const uint16_t *where, const float *v, size_t n) {
    features_kept *kept = f->examples + latent * f->kept;
    size_t top = f->desc.examples, have = features_min((size_t)f->contexts[latent], top);
    size_t peak = 0, i;
    uint64_t draw, slot;
    for (i = 0; i < n; i++) {
        float a = fabsf(v[i]);
        f->count[latent]++;
        f->sum[latent] += (double)a;
        f->squares[latent] += (double)a * (double)a;
        if (a > f->max[latent]) f->max[latent] = a;
        if (a > fabsf(v[peak])) peak = i;
        features_bar(f, latent, a);
        features_count_token(f, latent, tokens[where[i]], a);
    }
    if (have < top || fabsf(v[peak]) > fabsf(kept[top - 1].value)) { /* into its place by value */
        float *values = f->values + latent * f->kept * f->width;
        size_t at = have < top ? have : top - 1;
        for (; at > 0 && fabsf(v[peak]) > fabsf(kept[at - 1].value); at--) {
            kept[at] = kept[at - 1];
            memcpy(values + at * f->width, values + (at - 1) * f->width,
                   f->width * sizeof *values);
        }
        features_keep(f, latent, at, context, where[peak], v[peak], where, v, n);
    }
    draw = features_random(f->desc.seed + latent * 0x100000001b3u, f->contexts[latent]);
    f->contexts[latent]++;
    slot = f->contexts[latent] <= f->desc.samples ? f->contexts[latent] - 1
                                                  : draw % f->contexts[latent];
    if (slot < f->desc.samples) { /* a reservoir; of the context any token where it fires */
        i = (size_t)((draw >> 32) % n);
        features_keep(f, latent, top + (size_t)slot, context, where[i], v[i], where, v, n);
    }
}

/* Entries of the rows of one context, sorted by feature, and each feature's share added. */
static void features_context(features *f, size_t context, const int32_t *tokens,
                             const size_t *row_begin) {
    const uint32_t *latent = f->code.latent;
    size_t i, r, base = 0;
    f->now++;
    f->num_touched = 0;
    for (i = row_begin[0]; i < row_begin[f->desc.ctx]; i++) {
        if (f->stamp[latent[i]] != f->now) {
            f->stamp[latent[i]] = f->now;
            f->touched[f->num_touched++] = latent[i];
            f->first[latent[i]] = 0;
        }
        f->first[latent[i]]++;
    }
    for (i = 0; i < f->num_touched; i++) { /* counts become places behind each feature's last */
        base += f->first[f->touched[i]];
        f->first[f->touched[i]] = (uint32_t)base;
    }
    for (r = f->desc.ctx; r-- > 0;)
        for (i = row_begin[r]; i < row_begin[r + 1]; i++) {
            size_t to = --f->first[latent[i]];
            f->entry_at[to] = (uint16_t)r;
            f->entry_value[to] = f->code.value[i];
        }
    for (i = 0; i < f->num_touched; i++) {
        size_t begin = f->first[f->touched[i]];
        size_t end = i + 1 < f->num_touched ? f->first[f->touched[i + 1]] : base;
        features_add(f, f->touched[i], context, tokens, f->entry_at + begin,
                     f->entry_value + begin, end - begin);
    }
}

/* Whether a row counts: the dictionary has it, and it is not left out. */
static bool features_counts(const features *f, const int32_t *tokens, size_t row) {
    size_t ctx = f->desc.ctx;
    return features_place_has(&f->desc.place, tokens[row], row % ctx, ctx)
           && !(f->desc.remove_bos && (int64_t)tokens[row] == f->desc.bos_token);
}

/* A row's latents taken back, where the row does not count. */
static void features_drop_others(features *f, const int32_t *tokens, size_t rows) {
    size_t r, i, to = 0, begin = f->code.row_begin[0];
    for (r = 0; r < rows; r++) {
        size_t end = f->code.row_begin[r + 1];
        bool counts = features_counts(f, tokens, r);
        for (i = begin; counts && i < end; i++) {
            f->code.latent[to] = f->code.latent[i];
            f->code.value[to++] = f->code.value[i];
        }
        begin = end;
        f->code.row_begin[r + 1] = to;
    }
    f->fired += to;
}

static void features_sample_rows(features *f, const float *x, const float *y, size_t row) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(f->desc.dict);
    if (f->rows % f->stride == 0 && f->sampled < f->desc.rows) {
        memcpy(f->sample + f->sampled * info.activation_dim, x + row * info.activation_dim,
               info.activation_dim * sizeof *x);
        memcpy(f->target + f->sampled * info.output_dim, y + row * info.output_dim,
               info.output_dim * sizeof *y);
        f->sampled++;
    }
    f->rows++;
}

static sae_result features_see(void *user, float *x, size_t rows, size_t dim) {
    features *f = (features *)user;
    features_cut(&f->desc.place, x, rows, dim, f->desc.place.in_from,
                 sae_dictionary_get_desc(f->desc.dict)->activation_dim, f->seen);
    return SAE_OK;
}

/* The rows of the batch at the place; y is what the dictionary should give. */
static sae_result features_rows_seen(void *user, float *y, size_t rows, size_t dim) {
    features *f = (features *)user;
    sae_dictionary_desc info = *sae_dictionary_get_desc(f->desc.dict);
    size_t ctx = f->desc.ctx, d = info.activation_dim, at, n, i;
    const float *x = f->seen, *made = f->made ? f->made : x;
    if (f->made)
        features_cut(&f->desc.place, y, rows, dim, f->desc.place.out_from, info.output_dim,
                     f->made);
    else FEATURES_TRY(features_see(user, y, rows, dim));
    for (i = 0; i < rows; i++)
        if (features_counts(f, f->tokens, i)) {
            features_sample_rows(f, x, made, i);
            if ((size_t)f->tokens[i] < f->desc.vocab_size) f->token_count[f->tokens[i]]++;
        }
    for (at = 0; at < f->batch_contexts; at += n) {
        const int32_t *tokens = f->tokens + at * ctx;
        n = features_min(f->chunk, f->batch_contexts - at);
        FEATURES_TRY(sae_encode_sparse(f->desc.dict, x + at * ctx * d, n * ctx, &f->code));
        features_drop_others(f, tokens, n * ctx);
        for (i = 0; i < n; i++)
            features_context(f, f->first_context + at + i, tokens + i * ctx,
                             f->code.row_begin + i * ctx);
    }
    return SAE_OK;
}

SAE_API sae_result features_collect(sae_lm *model, const features_text *text,
                                    features *const *list, size_t num,
                                    const features_progress *progress) {
    size_t batch = features_batch(text), at, i, num_hooks = 0;
    sae_context *ctx = num ? list[0]->ctx : NULL;
    sae_result result = SAE_OK;
    sae_lm_hook *hooks;
    if (!num || !text->contexts) return SAE_OK;
    hooks = (sae_lm_hook *)features_zeroed(2 * num, sizeof *hooks);
    if (!hooks) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_collect: no memory");
    for (i = 0; i < num; i++) {
        features *f = list[i];
        if (f->desc.ctx != text->ctx)
            result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                      "features_collect: ctx is %zu, the text's is %zu",
                                      f->desc.ctx, text->ctx);
        f->stride = features_max(text->contexts * text->ctx / f->desc.rows, 1);
        if (f->made) {
            hooks[num_hooks].site = f->desc.place.in;
            hooks[num_hooks].call = features_see;
            hooks[num_hooks++].user = f;
        }
        hooks[num_hooks].site = f->desc.place.out;
        hooks[num_hooks].call = features_rows_seen;
        hooks[num_hooks++].user = f;
    }
    for (at = 0; at < text->contexts && result == SAE_OK; at += batch) {
        sae_lm_forward_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.tokens = text->tokens + at * text->ctx;
        desc.contexts = features_min(batch, text->contexts - at);
        desc.ctx = text->ctx;
        desc.hooks = hooks;
        desc.num_hooks = num_hooks;
        for (i = 0; i < num; i++) {
            list[i]->tokens = desc.tokens;
            list[i]->first_context = at;
            list[i]->batch_contexts = desc.contexts;
        }
        result = sae_lm_forward(model, &desc);
        if (result == SAE_OK && !features_tell(progress, at + desc.contexts, text->contexts))
            result = SAE_ERR_CANCELLED;
    }
    free(hooks);
    return result;
}

static double features_squared_norm(const features *f, size_t latent) {
    const float *w = sae_dictionary_decoder_row(f->desc.dict, latent);
    size_t d = sae_dictionary_get_desc(f->desc.dict)->output_dim;
    return w ? (double)features_dot(w, w, d) : 1;
}

SAE_API uint64_t features_rows(const features *f) { return f->rows; }

SAE_API double features_l0(const features *f) {
    return f->rows ? (double)f->fired / (double)f->rows : 0;
}

SAE_API features_stats features_get(const features *f, size_t latent) {
    features_stats s;
    const features_slot *slots = f->slots + latent * FEATURES_SETS * FEATURES_WAYS;
    double total = 0, entropy = 0;
    size_t i;
    memset(&s, 0, sizeof s);
    s.count = f->count[latent];
    if (!s.count) return s;
    s.density = (double)s.count / (double)f->rows;
    s.mean = f->sum[latent] / (double)s.count;
    s.max = (double)f->max[latent];
    s.energy = f->squares[latent] * features_squared_norm(f, latent);
    for (i = 0; i < FEATURES_SETS * FEATURES_WAYS; i++)
        if (slots[i].token >= 0) total += (double)slots[i].sum;
    for (i = 0; i < FEATURES_SETS * FEATURES_WAYS; i++)
        if (slots[i].token >= 0 && slots[i].sum > 0) {
            double p = (double)slots[i].sum / total;
            entropy -= p * log(p);
        }
    s.spread = exp(entropy);
    return s;
}

typedef struct features_ranked {
    double energy;
    uint32_t latent;
} features_ranked;

static int features_by_energy(const void *a, const void *b) {
    const features_ranked *x = (const features_ranked *)a, *y = (const features_ranked *)b;
    if (x->energy != y->energy) return x->energy < y->energy ? 1 : -1;
    return x->latent < y->latent ? -1 : x->latent > y->latent;
}

SAE_API size_t features_rank(const features *f, uint32_t *latents, size_t max) {
    features_ranked *all = (features_ranked *)features_alloc(f->m, sizeof *all);
    size_t n = 0, i;
    if (!all) return 0;
    for (i = 0; i < f->m; i++)
        if (f->count[i]) {
            all[n].latent = (uint32_t)i;
            all[n++].energy = f->squares[i] * features_squared_norm(f, i);
        }
    qsort(all, n, sizeof *all, features_by_energy);
    n = features_min(n, max);
    for (i = 0; i < n; i++) latents[i] = all[i].latent;
    free(all);
    return n;
}

SAE_API size_t features_histogram(const features *f, size_t latent, uint32_t *counts,
                                  double *width) {
    size_t n = FEATURES_BARS;
    memcpy(counts, f->bars + latent * FEATURES_BARS, FEATURES_BARS * sizeof *counts);
    *width = (double)f->bar_width[latent];
    while (n && !counts[n - 1]) n--;
    return n;
}

SAE_API size_t features_tokens(const features *f, size_t latent, uint32_t min_count,
                               features_token *out, size_t max) {
    const features_slot *slots = f->slots + latent * FEATURES_SETS * FEATURES_WAYS;
    size_t n = 0, i, at;
    for (i = 0; i < FEATURES_SETS * FEATURES_WAYS; i++) {
        features_token t;
        t.token = slots[i].token;
        if (t.token < 0 || (size_t)t.token >= f->desc.vocab_size) continue;
        t.count = f->token_count[t.token];
        if (!t.count || t.count < min_count) continue;
        t.mean = (double)slots[i].sum / (double)t.count;
        for (at = n; at > 0 && (t.mean > out[at - 1].mean
                                || (t.mean == out[at - 1].mean && t.token < out[at - 1].token));
             at--)
            if (at < max) out[at] = out[at - 1];
        if (at < max) out[at] = t;
        if (n < max) n++;
    }
    return n;
}

SAE_API size_t features_examples(const features *f, size_t latent, bool drawn,
                                 features_example *out) {
    size_t top = f->desc.examples, first = drawn ? top : 0, i;
    size_t n = features_min((size_t)f->contexts[latent], drawn ? f->desc.samples : top);
    for (i = 0; i < n; i++) {
        const features_kept *kept = f->examples + latent * f->kept + first + i;
        size_t before = features_min(kept->at, f->desc.before);
        out[i].context = kept->context;
        out[i].at = kept->at;
        out[i].value = kept->value;
        out[i].begin = kept->at - before;
        out[i].end = features_min(kept->at + f->desc.after + 1, f->desc.ctx);
        out[i].values = f->values + (latent * f->kept + first + i) * f->width
                        + (f->desc.before - before);
    }
    return n;
}

/* 1 - sum |y - x_hat|^2 / sum |y - mean|^2 over n rows. */
static double features_explained(const float *y, const float *x_hat, size_t n, size_t d) {
    double errors = 0, squares = 0;
    size_t i, j;
    for (j = 0; j < d; j++) {
        double mean = 0;
        for (i = 0; i < n; i++) mean += (double)y[i * d + j];
        mean /= (double)n;
        for (i = 0; i < n; i++) {
            double v = (double)y[i * d + j], e = v - (double)x_hat[i * d + j];
            errors += e * e;
            squares += (v - mean) * (v - mean);
        }
    }
    return 1 - errors / squares;
}

SAE_API sae_result features_pursuit(const features *f, features_pursued *out) {
    const sae_dictionary *dict = f->desc.dict;
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t n = f->sampled, d = info.output_dim, i, j;
    float *x_hat, *centred, *code, *b_dec;
    sae_result result = SAE_OK;
    memset(out, 0, sizeof *out);
    out->l0 = features_min((size_t)(features_l0(f) + 0.5), info.dict_size);
    if (info.output_dim != info.activation_dim || info.input_norm || info.skip)
        return sae_context_fail(f->ctx, SAE_ERR_UNSUPPORTED,
                                "features_pursuit: the dictionary does more than "
                                "add up its rows");
    if (n < 2 || !out->l0) return SAE_OK;
    x_hat = (float *)features_alloc(n, d * sizeof *x_hat);
    centred = (float *)features_alloc(n, d * sizeof *centred);
    code = (float *)features_zeroed(n, info.dict_size * sizeof *code);
    b_dec = (float *)features_alloc(d, sizeof *b_dec);
    if (!x_hat || !centred || !code || !b_dec)
        result = sae_context_fail(f->ctx, SAE_ERR_OUT_OF_MEMORY, "features_pursuit: no memory");
    if (result == SAE_OK) result = sae_decode(dict, code, 1, b_dec); /* of no latents at all */
    if (result == SAE_OK) result = sae_forward(dict, f->sample, n, x_hat, NULL);
    if (result == SAE_OK) {
        out->encoder = features_explained(f->target, x_hat, n, d);
        for (i = 0; i < n; i++)
            for (j = 0; j < d; j++) centred[i * d + j] = f->target[i * d + j] - b_dec[j];
        result = sae_grad_pursuit(dict, centred, n, out->l0, code);
    }
    if (result == SAE_OK) result = sae_decode(dict, code, n, x_hat);
    if (result == SAE_OK) {
        out->pursuit = features_explained(f->target, x_hat, n, d);
        out->rows = n;
    }
    free(x_hat);
    free(centred);
    free(code);
    free(b_dec);
    return result;
}

/* ==== >>features: decoder ===================================================================== */

typedef struct features_near {
    const float *rows; /* [m,d] of norm 1 */
    const uint32_t *latents;
    size_t m, d, num, count;
    uint32_t *out;
    float *cosine;
} features_near;

static void features_near_one(void *arg, size_t part) {
    const features_near *p = (const features_near *)arg;
    uint32_t self = p->latents[part], *out = p->out + part * p->count;
    float *cosine = p->cosine + part * p->count;
    size_t n = 0, i, at;
    for (i = 0; i < p->count; i++) {
        out[i] = UINT32_MAX;
        cosine[i] = 0;
    }
    for (i = 0; i < p->m; i++) {
        float c;
        if (i == self) continue;
        c = features_dot(p->rows + self * p->d, p->rows + i * p->d, p->d);
        if (n == p->count && !(c > cosine[n - 1])) continue;
        if (n < p->count) n++;
        for (at = n - 1; at > 0 && c > cosine[at - 1]; at--) {
            cosine[at] = cosine[at - 1];
            out[at] = out[at - 1];
        }
        cosine[at] = c;
        out[at] = (uint32_t)i;
    }
}

/* Decoder rows of norm 1, [num,d]; latents NULL: all. NULL: no memory. */
static float *features_unit_rows(const sae_dictionary *dict, const uint32_t *latents,
                                 size_t num) {
    size_t d = sae_dictionary_get_desc(dict)->output_dim, i, j;
    float *rows = (float *)features_alloc(num, d * sizeof *rows);
    for (i = 0; rows && i < num; i++) {
        const float *w = sae_dictionary_decoder_row(dict, latents ? latents[i] : i);
        float norm = w ? sqrtf(features_dot(w, w, d)) : 0;
        for (j = 0; j < d; j++) rows[i * d + j] = norm > 0 ? w[j] / norm : 0;
    }
    return rows;
}

SAE_API sae_result features_neighbours(sae_context *ctx, const sae_dictionary *dict,
                                       const uint32_t *latents, size_t num, size_t count,
                                       uint32_t *out, float *cosine) {
    features_near p;
    float *rows;
    p.m = sae_dictionary_get_desc(dict)->dict_size;
    p.d = sae_dictionary_get_desc(dict)->output_dim;
    p.latents = latents;
    p.num = num;
    p.count = count;
    p.out = out;
    p.cosine = cosine;
    if (!num || !count) return SAE_OK;
    p.rows = rows = features_unit_rows(dict, NULL, p.m);
    if (!rows)
        return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_neighbours: no memory");
    sae_context_parallel(ctx, num, features_near_one, &p);
    free(rows);
    return SAE_OK;
}

SAE_API bool features_place_has_logits(const sae_lm *model, features_place place) {
    return sae_lm_site_is_residual(model, place.out);
}

/* The count largest of sign * v [n] into out, the lower index first among equals. */
static void features_largest(const float *v, size_t n, float sign, size_t count,
                             features_logit *out) {
    size_t have = 0, i, at;
    for (i = 0; i < n; i++) {
        float a = sign * v[i];
        if (have == count && !(a > sign * out[have - 1].value)) continue;
        if (have < count) have++;
        for (at = have - 1; at > 0 && a > sign * out[at - 1].value; at--) out[at] = out[at - 1];
        out[at].token = (int32_t)i;
        out[at].value = v[i];
    }
}

static void features_logit_stats(const float *v, size_t n, features_logits_of *s) {
    double mean = 0, square = 0;
    size_t i;
    memset(s, 0, sizeof *s);
    s->low = s->high = v[0];
    for (i = 0; i < n; i++) {
        mean += (double)v[i];
        if (v[i] < s->low) s->low = v[i];
        if (v[i] > s->high) s->high = v[i];
    }
    s->mean = mean / (double)n;
    for (i = 0; i < n; i++) square += ((double)v[i] - s->mean) * ((double)v[i] - s->mean);
    s->deviation = sqrt(square / (double)n);
    s->peak = s->deviation > 0 ? ((double)s->high - s->mean) / s->deviation : 0;
    for (i = 0; i < n && s->high > s->low; i++) {
        size_t bar = (size_t)((v[i] - s->low) / (s->high - s->low) * FEATURES_BARS);
        s->bars[bar < FEATURES_BARS ? bar : FEATURES_BARS - 1]++;
    }
}

SAE_API sae_result features_logits(sae_context *ctx, const sae_lm *model, features_place place,
                                   const sae_dictionary *dict, const uint32_t *latents, size_t num,
                                   size_t count, features_logit *top, features_logit *bottom,
                                   features_logits_of *stats) {
    enum { BLOCK = 64 };
    size_t d = sae_lm_config_of(model).dim, vocab = sae_lm_config_of(model).vocab_size, at, i, j;
    const float *weight = sae_lm_final_norm_weight(model);
    bool behind = place.out.module == SAE_LM_FINAL_NORM && !place.out.input;
    bool centred = !sae_lm_config_of(model).rms_norm && !behind;
    float *rows, *logits;
    sae_result result = SAE_OK;
    if (!features_place_has_logits(model, place))
        return sae_context_fail(ctx, SAE_ERR_UNSUPPORTED,
                                "features_logits: the place does not write into the "
                                "residual stream");
    if (count > vocab)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "features_logits: count is %zu, the vocabulary %zu", count, vocab);
    rows = (float *)features_alloc(BLOCK, d * sizeof *rows);
    logits = (float *)features_alloc(BLOCK, vocab * sizeof *logits);
    if (!rows || !logits)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_logits: no memory");
    for (at = 0; at < num && result == SAE_OK; at += BLOCK) {
        size_t n = features_min(BLOCK, num - at);
        for (i = 0; i < n; i++) {
            const float *w = sae_dictionary_decoder_row(dict, latents[at + i]);
            double mean = 0;
            for (j = 0; j < d && centred; j++) mean += (double)w[j];
            mean /= (double)d;
            for (j = 0; j < d; j++)
                rows[i * d + j] = behind ? w[j] : (float)((double)w[j] - mean) * weight[j];
        }
        result = sae_lm_unembed(model, rows, n, logits);
        for (i = 0; i < n && result == SAE_OK; i++) {
            features_largest(logits + i * vocab, vocab, 1, count, top + (at + i) * count);
            features_largest(logits + i * vocab, vocab, -1, count, bottom + (at + i) * count);
            features_logit_stats(logits + i * vocab, vocab, &stats[at + i]);
        }
    }
    free(rows);
    free(logits);
    return result;
}

/* The first two principal components of rows [num,d] (made zero-mean), by iteration of the rows'
   own products; xy [num,2]. axes [2,d] is scratch. */
static void features_principal(float *rows, size_t num, size_t d, double *axes, float *xy) {
    size_t i, j, a, round;
    for (j = 0; j < d; j++) {
        double mean = 0;
        for (i = 0; i < num; i++) mean += (double)rows[i * d + j];
        mean /= (double)num;
        for (i = 0; i < num; i++) rows[i * d + j] = (float)((double)rows[i * d + j] - mean);
    }
    for (a = 0; a < 2; a++) {
        double *axis = axes + a * d, *next = axes + (2 + a) * d;
        for (j = 0; j < d; j++)
            axis[j] = (double)(features_random(7 + a, j) >> 11) / 9007199254740992.0 - 0.5;
        for (round = 0; round < 40; round++) {
            double norm = 0, along = 0;
            memset(next, 0, d * sizeof *next);
            for (i = 0; i < num; i++) {
                double dot = 0;
                for (j = 0; j < d; j++) dot += (double)rows[i * d + j] * axis[j];
                for (j = 0; j < d; j++) next[j] += dot * (double)rows[i * d + j];
                xy[2 * i + a] = (float)dot;
            }
            for (j = 0; j < d && a; j++) along += next[j] * axes[j];
            for (j = 0; j < d && a; j++) next[j] -= along * axes[j];
            for (j = 0; j < d; j++) norm += next[j] * next[j];
            for (j = 0; j < d && norm > 0; j++) axis[j] = next[j] / sqrt(norm);
        }
    }
}

/* To 0..1, the longer side; each side centred. */
static void features_fit(float *xy, size_t num) {
    float low[2] = { 1e30f, 1e30f }, high[2] = { -1e30f, -1e30f }, side;
    size_t i, a;
    for (i = 0; i < 2 * num; i++) {
        a = i % 2;
        if (xy[i] < low[a]) low[a] = xy[i];
        if (xy[i] > high[a]) high[a] = xy[i];
    }
    for (a = 0; a < 2; a++) {
        side = high[a] > low[a] ? high[a] - low[a] : 1;
        for (i = a; i < 2 * num; i += 2) xy[i] = (xy[i] - low[a]) / side;
    }
}

SAE_API sae_result features_map(sae_context *ctx, const sae_dictionary *dict,
                                const uint32_t *latents, size_t num, float *xy) {
    size_t d = sae_dictionary_get_desc(dict)->output_dim, count = FEATURES_NEAR, i, j, round;
    float *rows = features_unit_rows(dict, latents, num), *cosine, size = 10;
    uint32_t *near, *all;
    double *axes = (double *)features_alloc(4, d * sizeof *axes);
    features_near p;
    if (!num) return SAE_OK;
    near = (uint32_t *)features_alloc(num, count * sizeof *near);
    all = (uint32_t *)features_alloc(num, sizeof *all);
    cosine = (float *)features_alloc(num, count * sizeof *cosine);
    if (!rows || !axes || !near || !all || !cosine) {
        free(rows);
        free(axes);
        free(near);
        free(all);
        free(cosine);
        return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "features_map: no memory");
    }
    for (i = 0; i < num; i++) all[i] = (uint32_t)i;
    p.rows = rows;
    p.latents = all;
    p.m = p.num = num;
    p.d = d;
    p.count = count;
    p.out = near;
    p.cosine = cosine;
    sae_context_parallel(ctx, num, features_near_one, &p);
    features_principal(rows, num, d, axes, xy);
    features_fit(xy, num);
    for (i = 0; i < 2 * num; i++) xy[i] *= size;
    for (round = 0; round < FEATURES_ROUNDS; round++) { /* UMAP's forces with a = b = 1 */
        float step = 1 - (float)round / FEATURES_ROUNDS;
        for (i = 0; i < num * count; i++) {
            float *u = xy + 2 * (i / count), *v, dx, dy, q, g;
            if (near[i] == UINT32_MAX || !(cosine[i] > 0)) continue;
            v = xy + 2 * near[i];
            dx = u[0] - v[0], dy = u[1] - v[1];
            q = cosine[i] / cosine[i - i % count]; /* the nearest draws with 1 */
            g = step * q * q * -2 / (1 + dx * dx + dy * dy);
            dx *= g, dy *= g;
            u[0] += dx, u[1] += dy, v[0] -= dx, v[1] -= dy;
            for (j = 0; j < 2; j++) {
                v = xy + 2 * (features_random(round, 3 * i + j) % num);
                dx = u[0] - v[0], dy = u[1] - v[1];
                q = dx * dx + dy * dy;
                g = step * 2 / ((0.001f + q) * (1 + q));
                dx *= g, dy *= g;
                if (v == u) continue;
                u[0] += dx > 4 ? 4 : dx < -4 ? -4 : dx;
                u[1] += dy > 4 ? 4 : dy < -4 ? -4 : dy;
            }
        }
    }
    features_fit(xy, num);
    free(rows);
    free(axes);
    free(near);
    free(all);
    free(cosine);
    return SAE_OK;
}

/* ==== >>features: effects ===================================================================== */

typedef struct features_job { /* a feature added with `amount` at the last of at + 1 tokens */
    size_t context, at;
    float amount;
} features_job;

typedef struct features_effects { /* one batch of whole features, `each` jobs of every one */
    const features *f;
    const features_text *text;
    const uint32_t *latents; /* of the batch */
    const features_job *jobs;
    const size_t *used;      /* [num] jobs of each that count */
    size_t num, each, length, vocab, changes;
    int32_t *tokens;  /* [num * each,length] */
    size_t *rows;     /* [num * each] where the last tokens stand */
    float *clean, *changed; /* [num * each,vocab] logits, then log-probabilities */
    float *to;              /* the one being filled */
    float *delta, *before;  /* [num,vocab] */
    bool same, ready;       /* same: clean holds `each` rows, for all features; ready: it does */
    features_effect *out;
} features_effects;

static sae_result features_take_logits(void *user, const float *logits, size_t first,
                                       size_t count) {
    features_effects *e = (features_effects *)user;
    memcpy(e->to + first * e->vocab, logits, count * e->vocab * sizeof *logits);
    return SAE_OK;
}

/* x += amount * the feature's direction, at the last token of each job. */
static sae_result features_add_direction(void *user, float *x, size_t rows, size_t dim) {
    features_effects *e = (features_effects *)user;
    const sae_dictionary *dict = e->f->desc.dict;
    bool apart = e->f->made != NULL;
    size_t i, j, d = sae_dictionary_get_desc(dict)->output_dim;
    (void)rows;
    for (i = 0; i < e->num * e->each; i++) {
        sae_steering s;
        float *row = x + e->rows[i] * dim + e->f->desc.place.out_from;
        s.latent = e->latents[i / e->each];
        s.mode = SAE_STEER_ADD;
        s.value = e->jobs[i].amount;
        if (apart) {
            const float *w = sae_dictionary_decoder_row(dict, s.latent);
            for (j = 0; j < d; j++) row[j] += s.value * w[j];
        } else {
            FEATURES_TRY(sae_steer(dict, row, 1, &s, 1));
        }
    }
    return SAE_OK;
}

/* The mean changes of one feature over its jobs. */
static void features_effect_one(void *arg, size_t part) {
    features_effects *e = (features_effects *)arg;
    features_effect *out = e->out + part;
    float *delta = e->delta + part * e->vocab, *before = e->before + part * e->vocab;
    size_t used = e->used[part], i, t;
    features_logit most[FEATURES_MAX_CHANGES];
    memset(out, 0, sizeof *out);
    memset(delta, 0, e->vocab * sizeof *delta);
    memset(before, 0, e->vocab * sizeof *before);
    if (!used) return;
    for (i = 0; i < used; i++) {
        size_t row = part * e->each + i;
        const features_job *job = e->jobs + row;
        const int32_t *next = e->text->tokens + job->context * e->text->ctx + job->at + 1;
        const float *p = e->clean + (e->same ? i : row) * e->vocab;
        float *q = e->changed + row * e->vocab;
        sae_lm_loss(q, e->vocab, 0, q);
        for (t = 0; t < e->vocab; t++) {
            float a = expf(p[t]);
            out->kl += (double)a * ((double)p[t] - (double)q[t]);
            before[t] += a / (float)used;
            delta[t] += (expf(q[t]) - a) / (float)used;
        }
        if (job->at + 1 < e->text->ctx && *next >= 0 && (size_t)*next < e->vocab)
            out->loss += (double)p[*next] - (double)q[*next];
    }
    out->contexts = used;
    out->kl /= (double)used;
    out->loss /= (double)used;
    for (i = 0; i < 2; i++) {
        features_change *to = i ? out->down : out->up;
        features_largest(delta, e->vocab, i ? -1.0f : 1.0f, e->changes, most);
        for (t = 0; t < e->changes; t++) {
            to[t].token = most[t].token;
            to[t].before = before[most[t].token];
            to[t].after = to[t].before + most[t].value;
        }
    }
}

static sae_result features_effects_forward(features_effects *e, sae_lm *model, size_t jobs,
                                           const sae_lm_hook *hook, float *to) {
    sae_lm_forward_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tokens = e->tokens;
    desc.contexts = jobs;
    desc.ctx = e->length;
    desc.hooks = hook;
    desc.num_hooks = hook ? 1 : 0;
    desc.logits = features_take_logits;
    desc.user = e;
    desc.rows = e->rows;
    desc.num_rows = jobs;
    e->to = to;
    return sae_lm_forward(model, &desc);
}

/* The tokens of the batch, each job's behind the other, padded to the longest. */
static void features_effects_tokens(features_effects *e) {
    size_t i, t;
    e->length = 1;
    for (i = 0; i < e->num * e->each; i++)
        if (e->jobs[i].at + 1 > e->length) e->length = e->jobs[i].at + 1;
    for (i = 0; i < e->num * e->each; i++) {
        const int32_t *tokens = e->text->tokens + e->jobs[i].context * e->text->ctx;
        for (t = 0; t < e->length; t++)
            e->tokens[i * e->length + t] = t <= e->jobs[i].at ? tokens[t] : -1;
        e->rows[i] = i * e->length + e->jobs[i].at;
    }
}

static void features_log_row(void *arg, size_t part) {
    features_effects *e = (features_effects *)arg;
    float *row = e->clean + part * e->vocab;
    sae_lm_loss(row, e->vocab, 0, row);
}

static sae_result features_effects_batch(features_effects *e, sae_lm *model) {
    size_t jobs = e->num * e->each, clean = e->same ? e->each : jobs;
    sae_lm_hook hook;
    memset(&hook, 0, sizeof hook);
    hook.site = e->f->desc.place.out;
    hook.call = features_add_direction;
    hook.user = e;
    features_effects_tokens(e);
    if (!e->same || !e->ready) {
        e->ready = true;
        FEATURES_TRY(features_effects_forward(e, model, clean, NULL, e->clean));
        sae_context_parallel(e->f->ctx, clean, features_log_row, e);
    }
    FEATURES_TRY(features_effects_forward(e, model, jobs, &hook, e->changed));
    sae_context_parallel(e->f->ctx, e->num, features_effect_one, e);
    return SAE_OK;
}

/* Features in the order of `order` [num], jobs [num,each] and used [num] by place in latents. */
static sae_result features_effects_run(features_effects *e, sae_lm *model,
                                       const uint32_t *latents, const features_job *jobs,
                                       const size_t *used, const size_t *order, size_t num,
                                       const features_progress *progress, features_effect *out) {
    sae_context *ctx = e->f->ctx;
    size_t longest = e->text->ctx, per = features_max(64 / e->each, 1), at, i;
    uint32_t *some = (uint32_t *)features_alloc(per, sizeof *some);
    features_job *some_jobs = (features_job *)features_alloc(per * e->each, sizeof *some_jobs);
    size_t *some_used = (size_t *)features_alloc(per, sizeof *some_used);
    features_effect *effects = (features_effect *)features_alloc(per, sizeof *effects);
    sae_result result = SAE_OK;
    e->latents = some;
    e->jobs = some_jobs;
    e->used = some_used;
    e->out = effects;
    e->tokens = (int32_t *)features_alloc(per * e->each, longest * sizeof *e->tokens);
    e->rows = (size_t *)features_alloc(per * e->each, sizeof *e->rows);
    e->clean = (float *)features_alloc(per * e->each, e->vocab * sizeof(float));
    e->changed = (float *)features_alloc(per * e->each, e->vocab * sizeof(float));
    e->delta = (float *)features_alloc(per, e->vocab * sizeof(float));
    e->before = (float *)features_alloc(per, e->vocab * sizeof(float));
    if (!some || !some_jobs || !some_used || !effects || !e->tokens || !e->rows || !e->clean
        || !e->changed || !e->delta || !e->before)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                                  "features_ablate, features_steer: no memory");
    for (at = 0; at < num && result == SAE_OK; at += e->num) {
        e->num = features_min(per, num - at);
        for (i = 0; i < e->num; i++) {
            size_t from = order[at + i];
            some[i] = latents[from];
            some_used[i] = used[from];
            memcpy(some_jobs + i * e->each, jobs + from * e->each, e->each * sizeof *jobs);
        }
        result = features_effects_batch(e, model);
        for (i = 0; i < e->num && result == SAE_OK; i++) out[order[at + i]] = effects[i];
        if (result == SAE_OK && !features_tell(progress, at + e->num, num))
            result = SAE_ERR_CANCELLED;
    }
    free(some);
    free(some_jobs);
    free(some_used);
    free(effects);
    free(e->tokens);
    free(e->rows);
    free(e->clean);
    free(e->changed);
    free(e->delta);
    free(e->before);
    return result;
}

/* Up to `each` of the feature's examples: those nearest to the start of their contexts that have at
   least 8 tokens, then those that come nearest to it. */
static size_t features_short_ways(const features *f, size_t latent, size_t each,
                                  features_job *jobs) {
    features_example all[FEATURES_MAX_KEPT];
    size_t n = features_examples(f, latent, false, all), used = 0, i, best;
    bool taken[FEATURES_MAX_KEPT] = { false };
    for (; used < each && used < n; used++) {
        best = n;
        for (i = 0; i < n; i++) {
            bool better;
            if (taken[i]) continue;
            if (best == n) better = true;
            else if ((all[i].at >= 7) != (all[best].at >= 7)) better = all[i].at >= 7;
            else better = all[i].at >= 7 ? all[i].at < all[best].at : all[i].at > all[best].at;
            if (better) best = i;
        }
        taken[best] = true;
        jobs[used].context = all[best].context;
        jobs[used].at = all[best].at;
        jobs[used].amount = -all[best].value;
    }
    for (i = used; i < each && used; i++) { /* not counted, so anything short */
        jobs[i] = jobs[0];
        jobs[i].amount = 0;
    }
    return used;
}

typedef struct features_length {
    size_t at, place;
} features_length;

static int features_by_length(const void *a, const void *b) {
    const features_length *x = (const features_length *)a, *y = (const features_length *)b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static sae_result features_effects_of(const features *f, sae_lm *model,
                                      const features_text *text, const uint32_t *latents,
                                      size_t num, size_t contexts, size_t length, size_t changes,
                                      const features_progress *progress, features_effect *out) {
    features_effects e;
    features_job *jobs = (features_job *)features_zeroed(num * contexts, sizeof *jobs);
    features_length *lengths = (features_length *)features_alloc(num, sizeof *lengths);
    size_t *used = (size_t *)features_zeroed(num, sizeof *used);
    size_t *order = (size_t *)features_alloc(num, sizeof *order), i, c;
    sae_result result = SAE_OK;
    memset(&e, 0, sizeof e);
    e.f = f;
    e.text = text;
    e.each = contexts;
    e.vocab = f->desc.vocab_size;
    e.changes = features_min(features_min(changes, FEATURES_MAX_CHANGES), e.vocab);
    e.same = length > 0;
    if (!jobs || !lengths || !used || !order)
        result = sae_context_fail(f->ctx, SAE_ERR_OUT_OF_MEMORY,
                                  "features_ablate, features_steer: no memory");
    for (i = 0; i < num && result == SAE_OK; i++) {
        features_job *mine = jobs + i * contexts;
        if (!length) used[i] = features_short_ways(f, latents[i], contexts, mine);
        for (c = 0; c < contexts && length; c++) {
            mine[c].context = (2 * c + 1) * text->contexts / (2 * contexts);
            mine[c].at = features_min(length, text->ctx) - 1;
            mine[c].amount = f->max[latents[i]];
            used[i] = contexts;
        }
        lengths[i].at = 0;
        lengths[i].place = i;
        for (c = 0; c < contexts; c++) lengths[i].at = features_max(lengths[i].at, mine[c].at);
    }
    if (result == SAE_OK) {
        qsort(lengths, num, sizeof *lengths, features_by_length);
        for (i = 0; i < num; i++) order[i] = lengths[i].place;
        result = features_effects_run(&e, model, latents, jobs, used, order, num, progress, out);
    }
    free(jobs);
    free(lengths);
    free(used);
    free(order);
    return result;
}

SAE_API sae_result features_ablate(const features *f, sae_lm *model, const features_text *text,
                                   const uint32_t *latents, size_t num, size_t contexts,
                                   size_t changes, const features_progress *progress,
                                   features_effect *out) {
    if (!num || !contexts) return SAE_OK;
    return features_effects_of(f, model, text, latents, num, contexts, 0, changes, progress, out);
}

SAE_API sae_result features_steer(const features *f, sae_lm *model, const features_text *text,
                                  const uint32_t *latents, size_t num, size_t contexts,
                                  size_t length, size_t changes, const features_progress *progress,
                                  features_effect *out) {
    if (!num || !contexts || !length) return SAE_OK;
    return features_effects_of(f, model, text, latents, num, contexts, length, changes, progress,
                               out);
}

#endif /* FEATURES_IMPLEMENTATION */
