#pragma once
#include "../api/train.h"
#include "api_model.h"

/* ==== >>lm: api: source ======================================================================= */

/* Activations as a source of sae.h: contexts go through the model, batch by batch, and come out as
   rows; padding is always left out. Give tokens in memory, or a callback. */
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
    sae_lm_site site;         /* x */
    const sae_lm_site *target; /* transcoders: what the dictionary must give; NULL: none */
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
/* For sae_buffer_desc.source; valid while source lives. */
SAE_API sae_source_desc sae_lm_source_rows(sae_lm_source *source);
/* The token of row i of those that the last read gave: its place among all tokens read since the
   last rewind (context * ctx + position). */
SAE_API uint64_t sae_lm_source_place(const sae_lm_source *source, size_t row);
