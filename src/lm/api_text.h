#pragma once
#include "../api/model.h"

/* ==== >>lm: api: tokenizer ==================================================================== */

typedef struct sae_tokenizer sae_tokenizer;

/* A folder that holds tokenizer.json, that file, or a .gguf with a BPE of bytes (gpt2) or of
   SentencePiece (llama). A .gguf names its pattern (tokenizer.ggml.pre) and says nothing of NFC,
   ignore_merges or which pairs merge: these are as the tokenizer of that name has them, and pairs
   as SentencePiece takes them. Errors: SAE_ERR_NOT_FOUND (also a .gguf without a tokenizer),
   SAE_ERR_FORMAT, SAE_ERR_UNSUPPORTED (another kind of model, normalizer or pre-tokenizer, named in
   the message), SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_tokenizer_open(sae_context *ctx, const char *path, sae_tokenizer **out);
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

/* What stands in front of a text [*count], 0 where there is none: the tokens that the file's
   post-processor puts there, else bos_token of the tokenizer_config.json beside it; of a .gguf
   bos_token_id. */
SAE_API const int32_t *sae_tokenizer_bos(const sae_tokenizer *tokenizer, size_t *count);

/* Appends the ids of text [size]; with bos, behind sae_tokenizer_bos.
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

typedef struct sae_contexts_desc {
    sae_tokenizer *tokenizer;  /* of text; NULL: all files are .npy */
    const char *const *files;  /* required [num_files] */
    size_t num_files;
    size_t length;             /* tokens of a context; default: those of the first .npy of contexts,
                                  128 of text */
    const int32_t *bos;        /* [num_bos] at the head of each context, counted in its length:
                                  sae_tokenizer_bos. NULL: none */
    size_t num_bos;
} sae_contexts_desc;

/* Each file is tokenised whole and cut into contexts: bos and length - num_bos tokens of it, the
   remainder dropped. A .npy of whole numbers holds ids: [n] is cut alike, the contexts of
   [contexts,length] stay as they are, bos or no; their length must be the one asked for (1 without
   bos takes any apart). *out is overwritten. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_IO, SAE_ERR_FORMAT,
   SAE_ERR_INVALID (not one whole context; another length; no room behind bos),
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_contexts_read(sae_context *ctx, const sae_contexts_desc *desc,
                                     sae_contexts *out);
SAE_API void sae_contexts_free(sae_contexts *contexts);
