/*  neox.h - GPT-NeoX language models (the Pythia family) and their tokenizer, on sae.h.

    DO THIS
        #include "sae.h"                with SAE_IMPLEMENTATION in one file of the program, then
        #define NEOX_IMPLEMENTATION     in exactly ONE .c file, before
        #include "neox.h"
    and include it without the #define everywhere else.

    WHAT IT DOES
        Opens a folder as transformers writes it: config.json, model.safetensors (or its shards by
        model.safetensors.index.json), tokenizer.json; float32, float16 or bfloat16. Runs batches of
        contexts, shows and lets change the activations at any submodule, gives logits and
        next-token losses. Byte-level BPE, encode and decode.

    WHAT IT DOES NOT
        No generation with a key-value cache, no training, no other family of models, no padding on
        the left. Nothing is printed, no global state, no exit; errors are sae_results with the
        sentence in sae_error(ctx). Files are taken for hostile.

    STEP BY STEP
        neox_model *model;
        neox_tokenizer *tokenizer;
        neox_contexts text = { 0 };
        const char *files[] = { "text.txt" };
        neox_hook hook = { 0 };                       // hook.call sees, and may change, x
        neox_forward_desc desc = { 0 };
        neox_model_open(ctx, "pythia-70m", &model);
        neox_tokenizer_open(ctx, "pythia-70m", &tokenizer);
        neox_contexts_read(ctx, tokenizer, files, 1, 128, &text);
        neox_site_find(model, "gpt_neox.layers.3", false, &hook.site);
        desc.tokens = text.tokens;
        desc.contexts = 16;
        desc.ctx = 128;
        desc.hooks = &hook;
        desc.num_hooks = 1;
        neox_forward(model, &desc);

    LETTERS
        A batch is [contexts,ctx] tokens; row r is position r % ctx of context r / ctx. d is the
        width of the residual stream. Matrices are row-major float32.

    CONTENTS (search for the tag)
        >>neox: api        model, submodules, forward pass, tokenizer, contexts, source
        >>neox: kernels    layer norm, gelu, rotary part, attention, softmax; by instruction set
        >>neox: config     config.json
        >>neox: weights    tensors of one file or of shards
        >>neox: model      open, submodules, forward pass, unembedding
        >>neox: text       UTF-8, classes of characters, NFC
        >>neox: tokenizer  tokenizer.json, splitting, merging, decoding
        >>neox: contexts   text files and token files, source of activations
*/
#ifndef NEOX_H_INCLUDED
#define NEOX_H_INCLUDED

#ifdef __cplusplus
extern "C" {
#endif

/* ==== >>neox: api: model ====================================================================== */

typedef struct neox_model neox_model;

typedef struct neox_info {
    size_t layers, heads, head_dim;
    size_t dim;             /* d: heads * head_dim */
    size_t mlp_dim;
    size_t vocab_size;      /* of the logits; may be more than the tokenizer has */
    size_t max_ctx;         /* max_position_embeddings; longer contexts run, but were not trained */
    size_t rotary_dims;     /* of each head, the first */
    double rotary_base, norm_eps;
    bool parallel_residual; /* x + attention(norm x) + mlp(norm x); else one after the other */
    bool tied;              /* the unembedding is the embedding */
    int64_t bos_token, eos_token, pad_token; /* of config.json; -1: not there */
    char activation[24];    /* hidden_act */
    sae_dtype dtype;        /* of the weights in the file */
} neox_info;

/* The model lives in memory from here on, as float32; ctx must outlive it. Errors: SAE_NOT_FOUND (a
   file, a shard), SAE_FORMAT (damaged, or tensors that do not fit config.json), SAE_UNSUPPORTED
   (another family, another activation or rotary kind), SAE_OUT_OF_MEMORY. */
SAE_API sae_result neox_model_open(sae_context *ctx, const char *folder, neox_model **out);
SAE_API void neox_model_close(neox_model *model); /* NULL is fine */
SAE_API neox_info neox_model_info(const neox_model *model);

/* ==== >>neox: api: submodules ================================================================= */

/* Places in the model by their names there, N a layer:
     gpt_neox.embed_in                        out
     gpt_neox.layers.N                        in, out: the residual stream
     gpt_neox.layers.N.attention              in (after its layer norm), out
     gpt_neox.layers.N.attention.dense        in (the heads' outputs side by side), out
     gpt_neox.layers.N.mlp                    in (after its layer norm), out
     gpt_neox.layers.N.mlp.dense_h_to_4h      in, out (before the activation function)
     gpt_neox.layers.N.mlp.dense_4h_to_h      in (the neurons), out
     gpt_neox.final_layer_norm                in, out */
typedef enum neox_module {
    NEOX_EMBED_IN, NEOX_LAYER, NEOX_ATTENTION, NEOX_ATTENTION_DENSE, NEOX_MLP, NEOX_MLP_UP,
    NEOX_MLP_DOWN, NEOX_FINAL_NORM
} neox_module;

typedef struct neox_site {
    neox_module module;
    size_t layer;
    bool input; /* what goes into the submodule; default: what comes out */
} neox_site;

/* Errors: SAE_NOT_FOUND (no such submodule; the message lists those there are), SAE_INVALID (the
   input of gpt_neox.embed_in). */
SAE_API sae_result neox_site_find(const neox_model *model, const char *submodule, bool input,
                                  neox_site *out);
SAE_API size_t neox_site_dim(const neox_model *model, neox_site site); /* floats a row */

/* ==== >>neox: api: forward pass =============================================================== */

/* Sees the rows of the whole batch at a site, x [contexts * ctx, dim of the site], in the middle of
   the pass, and may change them in place: the model goes on with what they are then. A layer's
   input or output changed is the residual stream changed; a submodule's input changed is seen by
   that submodule alone. Called once a pass from the calling thread (so sae_forward and the like may
   use all threads). An error ends the pass and is returned. */
typedef struct neox_hook {
    neox_site site;
    sae_result (*call)(void *user, float *x, size_t rows, size_t dim);
    void *user;
} neox_hook;

typedef struct neox_forward_desc {
    const int32_t *tokens;  /* required [contexts,ctx]; each below vocab_size, negative: padding, at
                               the end of a context */
    size_t contexts, ctx;   /* required */
    const neox_hook *hooks; /* several at one site are called in this order */
    size_t num_hooks;
    /* What is wanted at the end. With nothing of it the pass stops behind the last hook. */
    double *loss;           /* [contexts] sum over the context's predictions of -ln p(next token) */
    size_t *predictions;    /* [contexts] how many: ctx - 1, less with padding; may be NULL */
    /* Logits in blocks, ascending: logits [count,vocab_size] of rows first .. first + count of the
       batch, or of `rows` (below). Owned by the model until it returns. */
    sae_result (*logits)(void *user, const float *logits, size_t first, size_t count);
    void *user;
    const size_t *rows;     /* [num_rows] logits of these rows alone, in this order; NULL: all.
                               loss, too, takes only them then: num_rows = 0 is none */
    size_t num_rows;
} neox_forward_desc;

/* Runs the batch. Memory grows to the largest batch seen: about contexts * ctx * (12 d + 2 mlp_dim)
   floats. One call at a time. The bits do not depend on threads, on instruction sets, or on which
   contexts stand together. Errors: SAE_INVALID (a token outside the vocabulary, sizes),
   SAE_OUT_OF_MEMORY, a hook's own. */
SAE_API sae_result neox_forward(neox_model *model, const neox_forward_desc *desc);

/* out [n,d] = final_layer_norm(x); in place is fine. */
SAE_API void neox_final_norm(const neox_model *model, const float *x, size_t n, float *out);
/* logits [n,vocab_size] = embed_out x, without the norm: of a decoder's rows, say. */
SAE_API sae_result neox_unembed(const neox_model *model, const float *x, size_t n, float *logits);
SAE_API const float *neox_final_norm_weight(const neox_model *model); /* [d] */
/* -ln softmax(logits)[token] and, if given, all log-probabilities [size]. */
SAE_API double neox_loss(const float *logits, size_t size, size_t token, float *log_probabilities);

/* ==== >>neox: api: tokenizer ================================================================== */

typedef struct neox_tokenizer neox_tokenizer;

/* folder holds tokenizer.json, or is that file. Errors: SAE_NOT_FOUND, SAE_FORMAT, SAE_UNSUPPORTED
   (another kind of model, normalizer or pre-tokenizer, named in the message),
   SAE_OUT_OF_MEMORY. */
SAE_API sae_result neox_tokenizer_open(sae_context *ctx, const char *folder,
                                       neox_tokenizer **out);
SAE_API void neox_tokenizer_close(neox_tokenizer *tokenizer);
SAE_API size_t neox_tokenizer_size(const neox_tokenizer *tokenizer); /* largest id + 1 */

/* Memory that grows, given back by neox_tokens_free / neox_text_free; all zero to begin with. */
typedef struct neox_tokens {
    int32_t *id;
    size_t count, capacity;
} neox_tokens;
typedef struct neox_text {
    char *data; /* NUL-terminated; may hold NULs */
    size_t size, capacity;
} neox_text;
SAE_API void neox_tokens_free(neox_tokens *tokens);
SAE_API void neox_text_free(neox_text *text);

/* Appends the ids of text [size]. Nothing is added that is not in the text; special tokens match in
   plain text. Bytes that are no UTF-8 stay what they are. One call at a time (words are
   remembered). Errors: SAE_OUT_OF_MEMORY, SAE_UNSUPPORTED (a byte that has no token). */
SAE_API sae_result neox_encode(neox_tokenizer *tokenizer, const char *text, size_t size,
                               neox_tokens *out);
/* Appends the bytes of ids; special tokens as they are written. Errors: SAE_INVALID (no such id),
   SAE_OUT_OF_MEMORY. */
SAE_API sae_result neox_decode(const neox_tokenizer *tokenizer, const int32_t *ids, size_t count,
                               neox_text *out);
/* The bytes of one token (part of a character, maybe), not NUL-terminated; NULL: no such id. */
SAE_API const char *neox_token_bytes(const neox_tokenizer *tokenizer, int32_t id, size_t *size);
/* The id of a token that is written so, added tokens first; -1: none. */
SAE_API int32_t neox_token_find(const neox_tokenizer *tokenizer, const char *text, size_t size);

/* ==== >>neox: api: contexts and source ======================================================== */

typedef struct neox_contexts { /* neox_contexts_free; all zero to begin with */
    int32_t *tokens; /* [contexts,ctx] */
    size_t contexts, ctx;
    size_t dropped;  /* tokens of the remainders */
} neox_contexts;

/* Each file is tokenised whole and cut into contexts of ctx tokens, the remainder dropped. A .npy
   of whole numbers holds ids: [n] is cut alike, [contexts,ctx] keeps its contexts, if its ctx is
   the one asked for (ctx 0: that of the file; of text 128). tokenizer may be NULL if all are .npy.
   Errors: SAE_NOT_FOUND, SAE_IO, SAE_FORMAT, SAE_INVALID (not one whole context; another ctx),
   SAE_OUT_OF_MEMORY. */
SAE_API sae_result neox_contexts_read(sae_context *ctx, neox_tokenizer *tokenizer,
                                      const char *const *files, size_t num_files, size_t length,
                                      neox_contexts *out);
SAE_API void neox_contexts_free(neox_contexts *contexts);

/* Activations as a source of sae.h: contexts go through the model, batch by batch, and come out as
   rows; padding is always left out. Give tokens in memory, or a callback. */
typedef struct neox_source_desc {
    neox_model *model;      /* required; the source is its only user meanwhile */
    const int32_t *tokens;  /* [contexts,ctx], must outlive the source */
    size_t contexts;
    size_t ctx;             /* required */
    /* In place of tokens: fills up to max contexts [ctx] of tokens; returns how many, 0 at the end,
       a negative sae_result to fail. rewind starts over; NULL: it cannot. */
    int64_t (*read)(void *user, int32_t *tokens, size_t max);
    sae_result (*rewind)(void *user);
    void *user;
    neox_site site;         /* x */
    const neox_site *target; /* transcoders: what the dictionary must give; NULL: none */
    bool remove_bos;        /* leave out rows of bos_token */
    int64_t bos_token;
    size_t batch;           /* contexts that run together; default: about 2048 tokens */
} neox_source_desc;

typedef struct neox_source neox_source;
SAE_API sae_result neox_source_create(sae_context *ctx, const neox_source_desc *desc,
                                      neox_source **out);
SAE_API void neox_source_destroy(neox_source *source);
/* For sae_buffer_desc.source; valid while source lives. */
SAE_API sae_source_desc neox_source_rows(neox_source *source);
/* The token of row i of those that the last read gave: its place among all tokens read since the
   last rewind (context * ctx + position). */
SAE_API uint64_t neox_source_place(const neox_source *source, size_t row);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* NEOX_H_INCLUDED */
