#pragma once
#include "../api/model.h"

/* ==== >>lm: api: tokenizer ==================================================================== */

typedef struct sae_tokenizer sae_tokenizer;

/* folder holds tokenizer.json, or is that file. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_FORMAT,
   SAE_ERR_UNSUPPORTED (another kind of model, normalizer or pre-tokenizer, named in the message),
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_tokenizer_open(sae_context *ctx, const char *folder,
                                      sae_tokenizer **out);
SAE_API void sae_tokenizer_close(sae_tokenizer *tokenizer);
SAE_API size_t sae_tokenizer_size(const sae_tokenizer *tokenizer); /* largest id + 1 */

/* Memory that grows, given back by sae_tokens_free / sae_text_free; all zero to begin with. */
typedef struct sae_tokens {
    int32_t *id;
    size_t count, capacity;
} sae_tokens;
typedef struct sae_text {
    char *data; /* NUL-terminated; may hold NULs */
    size_t size, capacity;
} sae_text;
SAE_API void sae_tokens_free(sae_tokens *tokens);
SAE_API void sae_text_free(sae_text *text);

/* Appends the ids of text [size]; with bos, behind what the file's post-processor puts in front.
   Special tokens match in plain text. Bytes that are no UTF-8 stay what they are; a byte without a
   token becomes unk_token, or is left out where there is none. One call at a time (words are
   remembered). Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_tokenizer_encode(sae_tokenizer *tokenizer, const char *text, size_t size,
                                        bool bos, sae_tokens *out);
/* Appends the bytes of ids; special tokens as they are written. Errors: SAE_ERR_INVALID (no such
   id), SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_tokenizer_decode(const sae_tokenizer *tokenizer, const int32_t *ids,
                                        size_t count, sae_text *out);
/* The bytes of one token (part of a character, maybe), not NUL-terminated; NULL: no such id. */
SAE_API const char *sae_tokenizer_token(const sae_tokenizer *tokenizer, int32_t id, size_t *size);
/* The id of a token that is written so, added tokens first; -1: none. */
SAE_API int32_t sae_tokenizer_find(const sae_tokenizer *tokenizer, const char *text, size_t size);

/* ==== >>lm: api: contexts ===================================================================== */

typedef struct sae_contexts { /* sae_contexts_free; all zero to begin with */
    int32_t *tokens; /* [contexts,ctx] */
    size_t contexts, ctx;
    size_t dropped;  /* tokens of the remainders */
} sae_contexts;

/* Each file is tokenised whole and cut into contexts of `length` tokens, the remainder dropped. A
   .npy of whole numbers holds ids: [n] is cut alike, [contexts,length] keeps its contexts, if its
   length is the one asked for (0: that of the first file; of text 128; 1 takes any apart).
   tokenizer may be NULL if all are .npy. *out is overwritten. Errors: SAE_ERR_NOT_FOUND,
   SAE_ERR_IO, SAE_ERR_FORMAT, SAE_ERR_INVALID (not one whole context; another length),
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_contexts_read(sae_context *ctx, sae_tokenizer *tokenizer,
                                     const char *const *files, size_t num_files, size_t length,
                                     sae_contexts *out);
SAE_API void sae_contexts_free(sae_contexts *contexts);
