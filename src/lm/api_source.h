#pragma once
#include "../api/train.h"
#include "api_model.h"

/* ==== >>lm: api: source ======================================================================= */

/* Activations as sources of sae.h: contexts go through the model, batch by batch, and come out as
   rows at one site or, of the same pass, at several; padding is always left out. Give tokens in
   memory, or a callback. */
typedef struct sae_lm_source_desc {
    sae_lm *model;      /* required; the source is its only user meanwhile */
    const int32_t *tokens;  /* [contexts,ctx], must outlive the source */
    size_t contexts;
    size_t ctx;             /* required */
    /* In place of tokens: fills up to max contexts [ctx] of tokens; returns how many, 0 at the end,
       a negative sae_result to fail. rewind starts over; NULL: it cannot. */
    int64_t (*read)(void *user, int32_t *tokens, size_t max);
    sae_result (*rewind)(void *user);
    void *user;
    const sae_lm_site *sites;   /* required [num_sites] */
    size_t num_sites;           /* required */
    const sae_lm_site *targets; /* [num_sites] transcoders: what the dictionary at each must give;
                                   NULL: none */
    bool remove_bos;        /* leave out rows of bos_token */
    int64_t bos_token;
    size_t batch;           /* contexts that run together; default: about 2048 tokens */
} sae_lm_source_desc;

typedef struct sae_lm_source sae_lm_source;
/* desc may go, but for the tokens. Errors: SAE_ERR_INVALID, SAE_ERR_MISMATCH (site and target of
   different widths), SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_lm_source_create(sae_context *ctx, const sae_lm_source_desc *desc,
                                        sae_lm_source **out);
SAE_API void sae_lm_source_destroy(sae_lm_source *source);

/* The rows of site i, for sae_buffer_desc.source; valid while source lives. Every site's stream is
   read and rewound by itself, and all give the rows of the same tokens in the same order: what one
   stream has made the model run is kept for the others that were asked for here, until they have
   read it. So trainings of several sites that go forward in turn (sae_training_step) cost one
   reading of the text, and memory for as many rows as one is ahead of another: about what a buffer
   holds. A stream that is rewound begins the next pass over the text, where the others follow;
   with `read` that fails, SAE_ERR_UNSUPPORTED, while one of them has not read this pass to its
   end. */
SAE_API sae_source_desc sae_lm_source_rows(sae_lm_source *source, size_t site);
/* The token of row i of those that the last read of that site gave: its place among all tokens read
   since the last rewind (context * ctx + position). */
SAE_API uint64_t sae_lm_source_place(const sae_lm_source *source, size_t site, size_t row);

/* In place of the streams, all sites at once: the rows of the next batch of contexts, x[i] [*n, dim
   of site i], targets[i] likewise (may be NULL) and the rows' places [*n] (may be NULL), owned by
   the source until the next call. *n = 0: the end. */
SAE_API sae_result sae_lm_source_next(sae_lm_source *source, const float **x,
                                      const float **targets, const uint64_t **places, size_t *n);
/* From the first context again, all streams. Errors: SAE_ERR_UNSUPPORTED (read without rewind). */
SAE_API sae_result sae_lm_source_rewind(sae_lm_source *source);
