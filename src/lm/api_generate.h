#pragma once
#include "api_model.h"
#include "api_text.h"

/* ==== >>lm: api: generation =================================================================== */

/* The keys and values of one context, so that a pass over what follows need not run it again. Owned
   by the caller, for one model, which must outlive it. */
typedef struct sae_lm_cache sae_lm_cache;
/* Room for `capacity` tokens: 2 layers capacity kv_heads head_dim floats (capacity, and for values
   head_dim, rounded up to 32). Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_lm_cache_create(sae_lm *lm, size_t capacity, sae_lm_cache **out);
SAE_API void sae_lm_cache_destroy(sae_lm_cache *cache); /* NULL is fine */
SAE_API size_t sae_lm_cache_count(const sae_lm_cache *cache); /* tokens in it */
/* Forgets all tokens behind the first count; more than there are changes nothing. */
SAE_API void sae_lm_cache_truncate(sae_lm_cache *cache, size_t count);

typedef struct sae_lm_generate_desc {
    const int32_t *prompt;  /* required [num_prompt] */
    size_t num_prompt;      /* from 1 */
    size_t count;           /* tokens to add at most */
    double temperature;     /* 0 (default): the largest logit, of equal ones the lowest id; else
                               drawn from softmax(logits / temperature) */
    double top_p;           /* of it only the likeliest that together reach this; default 1 */
    uint64_t seed;          /* of the draws: the same tokens everywhere */
    const int32_t *stop;    /* [num_stop] tokens that end the text; they are the last of it */
    size_t num_stop;
    const sae_lm_hook *hooks; /* as in sae_lm_forward_desc: rows of the prompt, then of one token a
                                 time; the last token added is run through by no pass */
    size_t num_hooks;
    /* Each token as it comes; anything but SAE_OK ends it and is returned. NULL: none. */
    sae_result (*token)(void *user, int32_t id);
    void *user;
} sae_lm_generate_desc;

/* Appends the tokens that the model adds to the prompt. Greedy ids are those of whole passes
   without a cache, to the bit. Errors: SAE_ERR_INVALID (a token outside the vocabulary, sizes; more
   tokens than a model of learned positions has), SAE_ERR_OUT_OF_MEMORY, a hook's or token's own. */
SAE_API sae_result sae_lm_generate(sae_lm *lm, const sae_lm_generate_desc *desc, sae_tokens *out);
