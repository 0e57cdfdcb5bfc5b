#pragma once
#include "../api/model.h"
#include "../api/files.h"

/* ==== >>lm: api: model ======================================================================== */

typedef struct sae_lm sae_lm;

typedef struct sae_lm_config {
    char family[24];        /* model_type: "gpt2", "llama", "gemma3_text", ... */
    size_t layers, heads;
    size_t kv_heads;        /* heads of keys and values; head h reads h / (heads / kv_heads) */
    size_t head_dim;        /* heads * head_dim need not be dim */
    size_t dim;             /* d: width of the residual stream */
    size_t mlp_dim;         /* of one expert, where there are experts */
    size_t experts, experts_per_token; /* 0: every layer has one MLP */
    size_t vocab_size;      /* of the logits; may be more than the tokenizer has */
    size_t max_ctx;         /* trained for; longer contexts run, unless */
    bool fixed_ctx;         /* positions are learned: longer contexts are refused */
    size_t window;          /* keys that layers with a sliding window see; 0: no layer has one */
    size_t rotary_dims;     /* of each head, the first; 0: none */
    double rotary_base, norm_eps;
    bool rms_norm;          /* x / rms(x) weight; else layer norm */
    bool parallel_residual; /* x + attention(norm x) + mlp(norm x); else one after the other */
    bool tied;              /* the unembedding is the embedding */
    int64_t bos_token, eos_token, pad_token; /* of config.json or the family; -1: none */
    char activation[24];    /* hidden_act */
    sae_dtype dtype;        /* of the embedding in the file */
} sae_lm_config;

/* A folder of transformers, or a .gguf of llama.cpp (of several, NAME-00001-of-N.gguf): the model
   is the same by the same names, also where rows of q, k or qkv stand in another order in the
   .gguf. The files stay mapped and matrices stay in them, in their own type; what is computed is
   float32. ctx must outlive the model. Errors: SAE_ERR_NOT_FOUND (a file, a shard), SAE_ERR_FORMAT
   (damaged, or tensors that do not fit config.json or the metadata), SAE_ERR_UNSUPPORTED (another
   family, the message lists those there are; another activation or rotary kind; in a folder
   quantised weights, in a .gguf types of less than Q2_K and tensors that are not known),
   SAE_ERR_OUT_OF_MEMORY.
   A .gguf does not say: of Mistral its window; of Gemma 2 and 3 another scale of the scores than
   published models have; which is Mistral and which Llama (family is "llama"). */
SAE_API sae_result sae_lm_open(sae_context *ctx, const char *path, sae_lm **out);
SAE_API void sae_lm_close(sae_lm *model); /* NULL is fine */
SAE_API sae_lm_config sae_lm_config_of(const sae_lm *model);

/* ==== >>lm: api: places ======================================================================= */

/* Modules of a model, most of them in every layer. What goes in and what comes out: */
typedef enum sae_lm_module {
    SAE_LM_EMBED,               /*     out  the embedding; of Gemma times sqrt(d) */
    SAE_LM_FINAL_NORM,          /* in, out */
    SAE_LM_FINAL_NORMALIZED,    /*     out  in the middle of that norm: before its weight */
    SAE_LM_LAYER,               /* in, out  the residual stream */
    SAE_LM_ATTENTION_NORM,      /* in, out */
    SAE_LM_ATTENTION_NORMALIZED,/*     out */
    SAE_LM_ATTENTION,           /* in, out */
    SAE_LM_QKV_PROJ,            /*     out  where one matrix makes all three */
    SAE_LM_Q_PROJ,              /*     out  heads side by side, before rotary */
    SAE_LM_K_PROJ,              /*     out  kv_heads side by side */
    SAE_LM_V_PROJ,              /*     out */
    SAE_LM_O_PROJ,              /* in, out  in: the heads' outputs side by side */
    SAE_LM_ATTENTION_POST_NORM, /* in, out  Gemma 2, 3: a norm of what is added to the stream */
    SAE_LM_RESID_MID,           /*     out  the residual stream between attention and MLP */
    SAE_LM_MLP_NORM,            /* in, out */
    SAE_LM_MLP_NORMALIZED,      /*     out */
    SAE_LM_MLP,                 /* in, out */
    SAE_LM_GATE_PROJ,           /*     out  before the activation function */
    SAE_LM_UP_PROJ,             /*     out  without a gate: before the activation function */
    SAE_LM_DOWN_PROJ,           /* in, out  in: the neurons */
    SAE_LM_MLP_POST_NORM,       /* in, out  Gemma 2, 3 */
    SAE_LM_NUM_MODULES
} sae_lm_module;

typedef struct sae_lm_site {
    sae_lm_module module;
    size_t layer;
    bool input; /* what goes into the module; default: what comes out */
} sae_lm_site;

/* A place by its name, N a layer:
     as transformers names modules, with or without what is in front of the layers:
       gpt_neox.layers.N.mlp, transformer.h.N.attn.c_proj, model.layers.N.self_attn.o_proj,
       layers.N, model.language_model.layers.N (Gemma 3 of 4B and up), ...
     as TransformerLens names hooks, which are outputs; what each is in a family, shared with it:
       hook_embed, blocks.N.hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out,
       hook_mlp_out (of Gemma 2, 3 behind the post norms: what is added to the stream),
       attn.hook_q, hook_k, hook_v, hook_z, ln1.hook_normalized, ln2.hook_normalized, mlp.hook_in,
       mlp.hook_pre, mlp.hook_pre_linear, mlp.hook_post, ln_final.hook_normalized
   Errors: SAE_ERR_NOT_FOUND (no such place; the message lists those there are), SAE_ERR_INVALID
   (the input of a module that has none here, or of a hook's name). */
SAE_API sae_result sae_lm_site_find(const sae_lm *model, const char *name, bool input,
                                    sae_lm_site *out);
SAE_API size_t sae_lm_site_dim(const sae_lm *model, sae_lm_site site); /* floats a row */
/* The name of a place: of the module, or (hook) of TransformerLens' hook; "" where it has none.
   Cut to size, in out, which is returned. */
SAE_API const char *sae_lm_site_name(const sae_lm *model, sae_lm_site site, bool hook, char *out,
                                     size_t size);
/* Whether rows there are the residual stream or are added to it as they are: then a decoder's row
   times the norm's weight and the unembedding says which tokens it speaks for. */
SAE_API bool sae_lm_site_is_residual(const sae_lm *model, sae_lm_site site);

/* ==== >>lm: api: forward pass ================================================================= */

/* Sees the rows of the whole batch at a site, x [contexts * ctx, dim of the site], in the middle of
   the pass, and may change them in place: the model goes on with what they are then. The residual
   stream changed (a layer's input or output, RESID_MID, EMBED) is changed for all that follows; a
   module's input changed is seen by that module alone. Called once a pass from the calling thread
   (so sae_forward and the like may use all threads). An error ends the pass and is returned. */
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
                               the cache, see them, and are added to it once all layers have run;
                               padding is refused */
    const sae_lm_hook *hooks; /* several at one site are called in this order */
    size_t num_hooks;
    /* What is wanted at the end. With nothing of it, and no cache, the pass stops behind the last
       hook. */
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

/* Runs the batch. Memory grows to the largest batch seen: about contexts * ctx floats, times 3 d
   and the larger of mlp_dim (twice it with a gate) and (2 heads + 2 kv_heads) head_dim, and 256
   vocab_size where losses or logits are wanted. One call at a time. The bits do not depend on
   threads, on instruction sets, on which contexts stand together, or on what came from a cache.
   Errors: SAE_ERR_INVALID (a token outside the vocabulary, sizes, positions beyond learned ones),
   SAE_ERR_OUT_OF_MEMORY, a hook's own. */
SAE_API sae_result sae_lm_forward(sae_lm *model, const sae_lm_forward_desc *desc);

/* out [n,d] = the final norm of x; in place is fine. */
SAE_API void sae_lm_final_norm(const sae_lm *model, const float *x, size_t n, float *out);
/* logits [n,vocab_size] = unembedding x, without the norm and without Gemma 2's cap: of a decoder's
   rows, say. */
SAE_API sae_result sae_lm_unembed(const sae_lm *model, const float *x, size_t n, float *logits);
SAE_API const float *sae_lm_final_norm_weight(const sae_lm *model); /* [d]; of Gemma 1 + weight */
/* -ln softmax(logits)[token] and, if given, all log-probabilities [size]. */
SAE_API double sae_lm_loss(const float *logits, size_t size, size_t token,
                           float *log_probabilities);
