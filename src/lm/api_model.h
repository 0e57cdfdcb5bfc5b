#pragma once
#include "../api/model.h"
#include "../api/files.h"

/* ==== >>lm: api: model ======================================================================== */

typedef struct sae_lm sae_lm;

typedef struct sae_lm_config {
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
} sae_lm_config;

/* The model lives in memory from here on, as float32; ctx must outlive it. Errors:
   SAE_ERR_NOT_FOUND (a file, a shard), SAE_ERR_FORMAT (damaged, or tensors that do not fit
   config.json), SAE_ERR_UNSUPPORTED (another family, another activation or rotary kind),
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_lm_open(sae_context *ctx, const char *folder, sae_lm **out);
SAE_API void sae_lm_close(sae_lm *model); /* NULL is fine */
SAE_API sae_lm_config sae_lm_config_of(const sae_lm *model);

/* ==== >>lm: api: submodules =================================================================== */

/* Places in the model by their names there, N a layer:
     gpt_neox.embed_in                        out
     gpt_neox.layers.N                        in, out: the residual stream
     gpt_neox.layers.N.attention              in (after its layer norm), out
     gpt_neox.layers.N.attention.dense        in (the heads' outputs side by side), out
     gpt_neox.layers.N.mlp                    in (after its layer norm), out
     gpt_neox.layers.N.mlp.dense_h_to_4h      in, out (before the activation function)
     gpt_neox.layers.N.mlp.dense_4h_to_h      in (the neurons), out
     gpt_neox.final_layer_norm                in, out */
typedef enum sae_lm_module {
    SAE_LM_EMBED_IN, SAE_LM_LAYER, SAE_LM_ATTENTION, SAE_LM_ATTENTION_DENSE, SAE_LM_MLP,
    SAE_LM_MLP_UP, SAE_LM_MLP_DOWN, SAE_LM_FINAL_NORM
} sae_lm_module;

typedef struct sae_lm_site {
    sae_lm_module module;
    size_t layer;
    bool input; /* what goes into the submodule; default: what comes out */
} sae_lm_site;

/* Errors: SAE_ERR_NOT_FOUND (no such submodule; the message lists those there are), SAE_ERR_INVALID
   (the input of gpt_neox.embed_in). */
SAE_API sae_result sae_lm_site_find(const sae_lm *model, const char *submodule, bool input,
                                    sae_lm_site *out);
SAE_API size_t sae_lm_site_dim(const sae_lm *model, sae_lm_site site); /* floats a row */

/* ==== >>lm: api: forward pass ================================================================= */

/* Sees the rows of the whole batch at a site, x [contexts * ctx, dim of the site], in the middle of
   the pass, and may change them in place: the model goes on with what they are then. A layer's
   input or output changed is the residual stream changed; a submodule's input changed is seen by
   that submodule alone. Called once a pass from the calling thread (so sae_forward and the like may
   use all threads). An error ends the pass and is returned. */
typedef struct sae_lm_hook {
    sae_lm_site site;
    sae_result (*call)(void *user, float *x, size_t rows, size_t dim);
    void *user;
} sae_lm_hook;

typedef struct sae_lm_forward_desc {
    const int32_t *tokens;  /* required [contexts,ctx]; each below vocab_size, negative: padding, at
                               the end of a context */
    size_t contexts, ctx;   /* required */
    struct sae_lm_cache *cache; /* NULL: none. Else contexts is 1: the tokens come behind those in
                               the cache, see them, and are added to it */
    const sae_lm_hook *hooks; /* several at one site are called in this order */
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
} sae_lm_forward_desc;

/* Runs the batch. Memory grows to the largest batch seen: about contexts * ctx * (10 d + mlp_dim)
   floats (short contexts more), and 256 vocab_size where losses or logits are wanted. One call at a
   time. The bits do not depend on threads, on instruction sets, or on which
   contexts stand together. Errors: SAE_ERR_INVALID (a token outside the vocabulary, sizes),
   SAE_ERR_OUT_OF_MEMORY, a hook's own. */
SAE_API sae_result sae_lm_forward(sae_lm *model, const sae_lm_forward_desc *desc);

/* out [n,d] = final_layer_norm(x); in place is fine. */
SAE_API void sae_lm_final_norm(const sae_lm *model, const float *x, size_t n, float *out);
/* logits [n,vocab_size] = embed_out x, without the norm: of a decoder's rows, say. */
SAE_API sae_result sae_lm_unembed(const sae_lm *model, const float *x, size_t n, float *logits);
SAE_API const float *sae_lm_final_norm_weight(const sae_lm *model); /* [d] */
/* -ln softmax(logits)[token] and, if given, all log-probabilities [size]. */
SAE_API double sae_lm_loss(const float *logits, size_t size, size_t token,
                           float *log_probabilities);
