/*  sae_lm.h - language models and their tokenizers in one C header, on sae.h.

    MIT licence, see the end of this file.

    DO THIS
        #define SAE_IMPLEMENTATION      in exactly ONE .c or .cpp file, before
        #include "sae.h"
        #define SAE_LM_IMPLEMENTATION   in exactly ONE, maybe the same, before
        #include "sae_lm.h"
    and include both without the #defines everywhere else. C99 and later, C++11 and later.

    WHAT IT DOES
        Opens a folder as transformers writes it: config.json, model.safetensors (or its shards by
        model.safetensors.index.json, or an old pytorch_model.bin), tokenizer.json; float16,
        bfloat16, float32 or float64. Or a .gguf as llama.cpp has it, also of blocks (Q4_K, ...).
        Runs batches of contexts, shows and lets change the activations at any submodule, gives
        logits and next-token losses. BPE of bytes and of SentencePiece, encode and decode.

    WHAT IT DOES NOT
        No training, no padding on the left. Nothing is printed, no global state, no exit; errors
        are sae_results with the sentence in sae_error(ctx). Files are taken for hostile.

    STEP BY STEP
        sae_lm *lm;
        sae_tokenizer *tokenizer;
        const char *files[] = { "text.txt" };
        sae_contexts_desc read = { 0 };
        sae_contexts text = { 0 };
        sae_lm_hook hook = { 0 };                     // hook.call sees, and may change, x
        sae_lm_forward_desc desc = { 0 };
        sae_lm_open(ctx, "pythia-70m", &lm);
        sae_tokenizer_open(ctx, "pythia-70m", &tokenizer);
        read.tokenizer = tokenizer;
        read.files = files;
        read.num_files = 1;
        sae_contexts_read(ctx, &read, &text);         // of 128 tokens each
        sae_lm_site_find(lm, "gpt_neox.layers.3", false, &hook.site);
        desc.tokens = text.tokens;
        desc.contexts = 16;
        desc.ctx = 128;
        desc.hooks = &hook;
        desc.num_hooks = 1;
        sae_lm_forward(lm, &desc);

    LETTERS
        A batch is [contexts,ctx] tokens; row r is position r % ctx of context r / ctx. d is the
        width of the residual stream. Matrices are row-major float32.

    CONTENTS (search for the tag)
        >>lm: api        model, submodules, forward pass, tokenizer, contexts, source, generation
        >>lm: kernels    norms, activations, attention, softmax; by instruction set
        >>lm: arithmetic exp, ln, sine and cosine with the same bits everywhere; the loss
        >>lm: config     config.json
        >>lm: weights    tensors of one file or of shards
        >>lm: model      open, submodules, forward pass, unembedding
        >>lm: text       UTF-8, classes of characters, NFC
        >>lm: tokenizer  tokenizer.json, splitting, merging, decoding
        >>lm: contexts   text files and token files
        >>lm: source     contexts through the model as a source of activations
*/
#ifndef SAE_LM_H_INCLUDED
#define SAE_LM_H_INCLUDED

#ifndef SAE_H_INCLUDED
#include "sae.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ==== >>lm: api: model ================================================ src/lm/api_model.h ==== */

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

/* ==== >>lm: api: places =============================================== src/lm/api_model.h ==== */

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

/* ==== >>lm: api: forward pass ========================================= src/lm/api_model.h ==== */

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

/* ==== >>lm: api: tokenizer ============================================= src/lm/api_text.h ==== */

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

/* ==== >>lm: api: contexts ============================================== src/lm/api_text.h ==== */

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

/* ==== >>lm: api: generation ======================================== src/lm/api_generate.h ==== */

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

#ifndef SAE_NO_TRAIN

/* ==== >>lm: api: source ============================================== src/lm/api_source.h ==== */

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

#endif

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* SAE_LM_H_INCLUDED */

/* ============================================================================================== *
 *                                        IMPLEMENTATION                                          *
 * ============================================================================================== */
#if defined(SAE_LM_IMPLEMENTATION) && !defined(SAE_LM_IMPLEMENTED)
#define SAE_LM_IMPLEMENTED

/* As in sae.h: every multiply-add that shall be fused is written as one, nothing else may be. */
#if defined(__FAST_MATH__)
#error "sae_lm.h: compile the file with SAE_LM_IMPLEMENTATION without -ffast-math / -Ofast"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

/* ==== >>lm: base =========================================================== src/lm/base.h ==== */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define LMI_X86 1
#include <immintrin.h>
#endif

#define LMI_TRY(call)                                                                              \
    do {                                                                                           \
        sae_result lmi_try_result = (call);                                                        \
        if (lmi_try_result != SAE_OK) return lmi_try_result;                                       \
    } while (0)

static size_t lmi_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t lmi_max(size_t a, size_t b) { return a > b ? a : b; }
static size_t lmi_parts(size_t n, size_t each) { return n / each + (n % each != 0); }

static bool lmi_mul(size_t a, size_t b, size_t *out) {
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

/* items [capacity] of size bytes with room for count; false, and all as it was: no memory. */
static bool lmi_grow(void **items, size_t *capacity, size_t count, size_t size) {
    size_t most = *capacity > SIZE_MAX / 4 ? SIZE_MAX / 2 : 2 * *capacity, bytes;
    void *grown;
    if (count <= *capacity) return true;
    most = lmi_max(lmi_max(count, most), 16);
    grown = lmi_mul(most, size, &bytes) ? realloc(*items, bytes) : NULL;
    if (!grown) return false;
    *items = grown;
    *capacity = most;
    return true;
}

/* "folder/name" in fresh memory (free); NULL: none left. */
static char *lmi_join(const char *folder, const char *name) {
    size_t n = strlen(folder), m = strlen(name);
    char *path = (char *)malloc(n + m + 2);
    if (!path) return NULL;
    memcpy(path, folder, n);
    if (n && folder[n - 1] != '/') path[n++] = '/';
    memcpy(path + n, name, m + 1);
    return path;
}

static bool lmi_is_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* Whether the path names a .gguf, by what is in it; by its ending where nothing is there. */
static bool lmi_names_gguf(const char *path) {
    size_t n = strlen(path);
    char head[4] = { 0, 0, 0, 0 };
    FILE *f;
    if (n > 5 && strcmp(path + n - 5, ".gguf") == 0) return true;
    f = fopen(path, "rb");
    if (!f) return false;
    n = fread(head, 1, sizeof head, f);
    fclose(f);
    return n == sizeof head && memcmp(head, "GGUF", sizeof head) == 0;
}

/* ==== >>lm: kernels ===================================================== src/lm/kernels.h ==== */
/* The loops that take the time next to the products, which are sae_linear's. As there: 16 lanes
   whatever the machine has, compiled for each instruction set, the same bits from all. A set has a
   file of its own, which names its lanes and pastes the kernels written over them (*.inl). */
enum { LMI_ROWS = 8, LMI_COLUMNS = 32 }; /* of a block of attention's products */

/* The activation functions of transformers that are known here, under their names there. */
typedef enum lmi_act {
    LMI_GELU, LMI_GELU_TANH, LMI_GELU_QUICK, LMI_RELU, LMI_RELU2, LMI_SILU,
    LMI_LINEAR
} lmi_act;

static const struct {
    const char *name;
    lmi_act act;
} lmi_acts[] = {
    { "gelu", LMI_GELU }, { "gelu_python", LMI_GELU }, { "gelu_new", LMI_GELU_TANH },
    { "gelu_fast", LMI_GELU_TANH }, { "gelu_pytorch_tanh", LMI_GELU_TANH },
    { "gelu_python_tanh", LMI_GELU_TANH }, { "gelu_accurate", LMI_GELU_TANH },
    { "quick_gelu", LMI_GELU_QUICK }, { "relu", LMI_RELU }, { "relu2", LMI_RELU2 },
    { "silu", LMI_SILU }, { "swish", LMI_SILU }, { "linear", LMI_LINEAR }
};
enum { LMI_NUM_ACTS = sizeof lmi_acts / sizeof lmi_acts[0] };

/* Up to 8 queries q [rows,head_dim] against the keys [blocks][head_dim][32] and values
   [keys][lmi_round(head_dim)] of one head: query r sees keys first[r] to end[r] - 1, at least one.
   With a cap scores are cap tanh(score / cap). */
typedef struct lmi_tile {
    const float *q, *keys, *values;
    size_t head_dim, rows, first[LMI_ROWS], end[LMI_ROWS];
    float scale, cap;
    float *p;             /* [8] of lmi_round(keys seen + 31) */
    float *mixed;         /* [8,lmi_round(head_dim)] */
    float *out[LMI_ROWS]; /* [head_dim] each */
} lmi_tile;

typedef struct lmi_kernels {
    /* out = (x - mean) / sqrt(variance + eps) weight + bias over n; out may be x */
    void (*norm)(size_t n, const float *x, const float *weight, const float *bias, double eps,
                 float *out);
    /* out = x / sqrt(mean x^2 + eps) weight over n; out may be x */
    void (*rms_norm)(size_t n, const float *x, const float *weight, double eps, float *out);
    void (*activate)(lmi_act act, size_t n, float *x);
    void (*gate)(lmi_act act, size_t n, float *x, const float *up); /* x = act(x) up */
    void (*add)(size_t n, const float *a, const float *x, float *out); /* out = a + x */
    void (*cap)(size_t n, float cap, float *x); /* x = cap tanh(x / cap) */
    /* turns pairs (i, i + pairs) of x by angles */
    void (*turn)(size_t pairs, const float *cosine, const float *sine, float *x);
    void (*attend)(const lmi_tile *t);
    /* largest = max x; returns sum exp(x - largest) */
    double (*sum_exp)(size_t n, const float *x, float *largest);
} lmi_kernels;

static size_t lmi_round(size_t n) {
    return (n + LMI_COLUMNS - 1) / LMI_COLUMNS * LMI_COLUMNS;
}

/* min and max give b where a or b is NaN or both are zeros, as the instructions do. power: of
   1.5 2^23 + n the number 2^n. */

/* ==== >>lm: kernels: portable ========================================== src/lm/portable.h ==== */
#define LMI_FN(name) name##_portable

/* ---- src/lm/names.inl ---- */

/* The lanes and kernels of the set whose text this is. */
#define lmi_v LMI_FN(lmi_v)
#define lmi_vload LMI_FN(lmi_vload)
#define lmi_vstore LMI_FN(lmi_vstore)
#define lmi_vset LMI_FN(lmi_vset)
#define lmi_vfma LMI_FN(lmi_vfma)
#define lmi_vmul LMI_FN(lmi_vmul)
#define lmi_vadd LMI_FN(lmi_vadd)
#define lmi_vsub LMI_FN(lmi_vsub)
#define lmi_vdiv LMI_FN(lmi_vdiv)
#define lmi_vmin LMI_FN(lmi_vmin)
#define lmi_vmax LMI_FN(lmi_vmax)
#define lmi_vpower LMI_FN(lmi_vpower)
#define lmi_vsum LMI_FN(lmi_vsum)
#define lmi_vexp LMI_FN(lmi_vexp)
#define lmi_verf LMI_FN(lmi_verf)
#define lmi_vact LMI_FN(lmi_vact)
#define lmi_vcap LMI_FN(lmi_vcap)
#define lmi_vpart LMI_FN(lmi_vpart)
#define lmi_block LMI_FN(lmi_block)
#define lmi_softmax LMI_FN(lmi_softmax)

typedef struct lmi_v {
    float f[16];
} lmi_v;
static inline lmi_v lmi_vload(const float *p) {
    lmi_v r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
static inline void lmi_vstore(float *p, lmi_v x) { memcpy(p, x.f, sizeof x.f); }
#define LMI_LANES(head, expression)                                                                \
    static inline lmi_v head {                                                                     \
        lmi_v r;                                                                                   \
        for (int i = 0; i < 16; i++) r.f[i] = expression;                                          \
        return r;                                                                                  \
    }
LMI_LANES(lmi_vset(float a), a)
LMI_LANES(lmi_vfma(lmi_v x, lmi_v y, lmi_v z), fmaf(x.f[i], y.f[i], z.f[i]))
LMI_LANES(lmi_vmul(lmi_v x, lmi_v y), x.f[i] * y.f[i])
LMI_LANES(lmi_vadd(lmi_v x, lmi_v y), x.f[i] + y.f[i])
LMI_LANES(lmi_vsub(lmi_v x, lmi_v y), x.f[i] - y.f[i])
LMI_LANES(lmi_vdiv(lmi_v x, lmi_v y), x.f[i] / y.f[i])
LMI_LANES(lmi_vmin(lmi_v x, lmi_v y), x.f[i] < y.f[i] ? x.f[i] : y.f[i])
LMI_LANES(lmi_vmax(lmi_v x, lmi_v y), x.f[i] > y.f[i] ? x.f[i] : y.f[i])
#undef LMI_LANES
static inline lmi_v lmi_vpower(lmi_v x) {
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, &x.f[i], sizeof bits);
        bits = (bits << 23) + 0x3F800000u;
        memcpy(&x.f[i], &bits, sizeof bits);
    }
    return x;
}

/* ---- src/lm/common.inl ---- */

/* Lanes 8, 4, 2, 1 apart, in double. */
static double lmi_vsum(lmi_v a) {
    double sum[16];
    float f[16];
    lmi_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

/* The first n < 16 of p, the other lanes rest. */
static lmi_v lmi_vpart(const float *p, size_t n, float rest) {
    float f[16];
    for (size_t i = 0; i < 16; i++) f[i] = i < n ? p[i] : rest;
    return lmi_vload(f);
}

/* e^x in float, about 1 unit in the last place; below -87 that of -87 (1.6e-38), above 88 that of
   88: x = n ln2 + r, Taylor to r^7. */
static inline lmi_v lmi_vexp(lmi_v x) {
    const lmi_v magic = lmi_vset(12582912.0f);
    lmi_v n, r, y;
    x = lmi_vmin(lmi_vmax(x, lmi_vset(-87.0f)), lmi_vset(88.0f));
    n = lmi_vfma(x, lmi_vset(1.44269504f), magic);
    r = lmi_vsub(n, magic);
    x = lmi_vfma(r, lmi_vset(-0.693359375f), x);
    r = lmi_vfma(r, lmi_vset(2.12194440e-4f), x);
    y = lmi_vset(1.0f / 5040);
    y = lmi_vfma(y, r, lmi_vset(1.0f / 720));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 120));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 24));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 6));
    y = lmi_vfma(y, r, lmi_vset(0.5f));
    y = lmi_vfma(y, r, lmi_vset(1));
    y = lmi_vfma(y, r, lmi_vset(1));
    return lmi_vmul(y, lmi_vpower(n));
}

/* erf z = z P(z^2) / Q(z^2), fitted to 2e-8 of it for |z| <= 3.92 (beyond, erf is 1 in float); with
   the rounding 4e-7. */
static inline lmi_v lmi_verf(lmi_v z) {
    static const float P[] = { 2.0500785922195064e-06f, 0.00028488485259003937f,
                               0.003765694098547101f, 0.05274895951151848f, 0.19040821492671967f,
                               1.1283791065216064f };
    static const float Q[] = { 3.8091737224021927e-05f, 0.0011625549523159862f,
                               0.014969369396567345f, 0.1141098365187645f, 0.5020776391029358f,
                               1.0f };
    lmi_v t, p = lmi_vset(P[0]), q = lmi_vset(Q[0]);
    z = lmi_vmin(lmi_vmax(z, lmi_vset(-3.92f)), lmi_vset(3.92f));
    t = lmi_vmul(z, z);
    for (int i = 1; i < 6; i++) {
        p = lmi_vfma(p, t, lmi_vset(P[i]));
        q = lmi_vfma(q, t, lmi_vset(Q[i]));
    }
    z = lmi_vdiv(lmi_vmul(z, p), q);
    return lmi_vmin(lmi_vmax(z, lmi_vset(-1)), lmi_vset(1));
}

static inline lmi_v lmi_vact(lmi_act act, lmi_v x) {
    const lmi_v one = lmi_vset(1), zero = lmi_vset(0);
    lmi_v y = x;
    switch (act) {
    case LMI_GELU: /* x (1 + erf(x / sqrt 2)) / 2 */
        y = lmi_verf(lmi_vmul(x, lmi_vset(0.70710678118f)));
        return lmi_vmul(lmi_vmul(x, lmi_vset(0.5f)), lmi_vadd(one, y));
    case LMI_GELU_TANH: /* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)) */
        y = lmi_vfma(lmi_vmul(x, x), lmi_vset(0.044715f), one);
        y = lmi_vmul(lmi_vmul(x, y), lmi_vset(-1.5957691216f));
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(y)));
    case LMI_GELU_QUICK:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vmul(x, lmi_vset(-1.702f)))));
    case LMI_SILU:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vsub(zero, x))));
    case LMI_RELU: return lmi_vmax(x, zero);
    case LMI_RELU2:
        y = lmi_vmax(x, zero);
        return lmi_vmul(y, y);
    case LMI_LINEAR: break;
    }
    return y;
}

static void LMI_FN(lmi_activate)(lmi_act act, size_t n, float *x) {
    size_t i = 0;
    if (act == LMI_GELU) /* the one that matters, without the switch inside */
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vact(LMI_GELU, lmi_vload(x + i)));
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vact(act, lmi_vload(x + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vact(act, lmi_vpart(x + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_gate)(lmi_act act, size_t n, float *x, const float *up) {
    size_t i = 0;
    if (act == LMI_SILU)
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vmul(lmi_vact(LMI_SILU, lmi_vload(x + i)), lmi_vload(up + i)));
    for (; i + 16 <= n; i += 16)
        lmi_vstore(x + i, lmi_vmul(lmi_vact(act, lmi_vload(x + i)), lmi_vload(up + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vmul(lmi_vact(act, lmi_vpart(x + i, n - i, 0)),
                               lmi_vpart(up + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

/* cap tanh(x / cap) = cap (1 - 2 / (exp(2 x / cap) + 1)) */
static inline lmi_v lmi_vcap(lmi_v x, lmi_v cap) {
    lmi_v e = lmi_vexp(lmi_vmul(lmi_vdiv(x, cap), lmi_vset(2)));
    e = lmi_vdiv(lmi_vset(2), lmi_vadd(e, lmi_vset(1)));
    return lmi_vmul(cap, lmi_vsub(lmi_vset(1), e));
}

static void LMI_FN(lmi_cap)(size_t n, float cap, float *x) {
    lmi_v c = lmi_vset(cap);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vcap(lmi_vload(x + i), c));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vcap(lmi_vpart(x + i, n - i, 0), c));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_turn)(size_t pairs, const float *cosine, const float *sine, float *x) {
    size_t i = 0;
    for (; i + 16 <= pairs; i += 16) {
        lmi_v a = lmi_vload(x + i), b = lmi_vload(x + pairs + i);
        lmi_v c = lmi_vload(cosine + i), s = lmi_vload(sine + i);
        lmi_vstore(x + i, lmi_vsub(lmi_vmul(a, c), lmi_vmul(b, s)));
        lmi_vstore(x + pairs + i, lmi_vadd(lmi_vmul(b, c), lmi_vmul(a, s)));
    }
    for (; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = cosine[i], s = sine[i];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void LMI_FN(lmi_add)(size_t n, const float *a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        lmi_vstore(out + i, lmi_vadd(lmi_vload(a + i), lmi_vload(x + i)));
    for (; i < n; i++) out[i] = a[i] + x[i];
}

static void LMI_FN(lmi_norm)(size_t n, const float *x, const float *weight, const float *bias,
                             double eps, float *out) {
    lmi_v sum = lmi_vset(0), square = lmi_vset(0), mean, factor;
    size_t whole = n / 16 * 16, i;
    float m, f;
    for (i = 0; i < whole; i += 16) sum = lmi_vadd(sum, lmi_vload(x + i));
    if (i < n) sum = lmi_vadd(sum, lmi_vpart(x + i, n - i, 0));
    m = (float)(lmi_vsum(sum) / (double)n);
    mean = lmi_vset(m);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vsub(lmi_vload(x + i), mean);
        square = lmi_vfma(d, d, square);
    }
    if (i < n) {
        lmi_v d = lmi_vsub(lmi_vpart(x + i, n - i, m), mean);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vmul(lmi_vsub(lmi_vload(x + i), mean), factor);
        lmi_vstore(out + i, lmi_vfma(d, lmi_vload(weight + i), lmi_vload(bias + i)));
    }
    for (; i < n; i++) out[i] = fmaf((x[i] - m) * f, weight[i], bias[i]);
}

static void LMI_FN(lmi_rms_norm)(size_t n, const float *x, const float *weight, double eps,
                                 float *out) {
    lmi_v square = lmi_vset(0), factor;
    size_t whole = n / 16 * 16, i;
    float f;
    for (i = 0; i < whole; i += 16)
        square = lmi_vfma(lmi_vload(x + i), lmi_vload(x + i), square);
    if (i < n) {
        lmi_v d = lmi_vpart(x + i, n - i, 0);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16)
        lmi_vstore(out + i, lmi_vmul(lmi_vmul(lmi_vload(x + i), factor), lmi_vload(weight + i)));
    for (; i < n; i++) out[i] = x[i] * f * weight[i];
}

/* Sums of 1024 floats in 16 lanes, these in double. */
static double LMI_FN(lmi_sum_exp)(size_t n, const float *x, float *largest) {
    lmi_v most = lmi_vset(x[0]), high;
    float f[16];
    double sum = 0;
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) most = lmi_vmax(lmi_vload(x + i), most);
    if (i < n) most = lmi_vmax(lmi_vpart(x + i, n - i, x[0]), most);
    lmi_vstore(f, most);
    *largest = f[0];
    for (int j = 1; j < 16; j++)
        if (f[j] > *largest) *largest = f[j];
    high = lmi_vset(*largest);
    for (size_t at = 0; at < n; at += 1024) {
        size_t end = at + 1024 < n ? at + 1024 : n;
        lmi_v s = lmi_vset(0);
        for (i = at; i + 16 <= end; i += 16)
            s = lmi_vadd(s, lmi_vexp(lmi_vsub(lmi_vload(x + i), high)));
        sum += lmi_vsum(s);
    }
    for (i = n / 16 * 16; i < n; i++) {
        lmi_vstore(f, lmi_vexp(lmi_vset(x[i] - *largest)));
        sum += (double)f[0];
    }
    return sum;
}

/* ---- src/lm/block.inl ---- */

/* out [8][32] at ld_out = sum over k < n of a[r][k] b[k][0..32): one chain of fma each. */
static void lmi_block(const float *const a[LMI_ROWS], size_t n, const float *b, size_t ld_b,
                      float *out, size_t ld_out) {
    for (size_t r = 0; r < LMI_ROWS; r += 4)
        for (size_t c = 0; c < LMI_COLUMNS; c += 16) {
            lmi_v s0 = lmi_vset(0), s1 = s0, s2 = s0, s3 = s0;
            for (size_t k = 0; k < n; k++) {
                lmi_v v = lmi_vload(b + k * ld_b + c);
                s0 = lmi_vfma(lmi_vset(a[r][k]), v, s0);
                s1 = lmi_vfma(lmi_vset(a[r + 1][k]), v, s1);
                s2 = lmi_vfma(lmi_vset(a[r + 2][k]), v, s2);
                s3 = lmi_vfma(lmi_vset(a[r + 3][k]), v, s3);
            }
            lmi_vstore(out + r * ld_out + c, s0);
            lmi_vstore(out + (r + 1) * ld_out + c, s1);
            lmi_vstore(out + (r + 2) * ld_out + c, s2);
            lmi_vstore(out + (r + 3) * ld_out + c, s3);
        }
}

/* ---- src/lm/attention.inl ---- */

/* p[j] = exp(scale (p[j] - max)) over first <= j < n, zeros elsewhere up to wide (a multiple of
   16); returns their sum, in lanes j mod 16, so that zeros in front or behind change no bit. */
static float lmi_softmax(float *p, size_t first, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = 0; j < first; j++) p[j] = p[first];
    for (j = n; j < wide; j++) p[j] = p[first];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j < wide; j += 16) {
        lmi_v e = lmi_vset(0);
        if (j + 16 > first && j < n) {
            e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
            if (j < first || j + 16 > n) {
                lmi_vstore(f, e);
                for (size_t i = 0; i < 16; i++)
                    if (j + i < first || j + i >= n) f[i] = 0;
                e = lmi_vload(f);
            }
            sum = lmi_vadd(sum, e);
        }
        lmi_vstore(p + j, e);
    }
    return (float)lmi_vsum(sum);
}

static void LMI_FN(lmi_attend)(const lmi_tile *t) {
    size_t d = t->head_dim, deep = lmi_round(d), low = t->first[0], high = 0, wide, c, j, r;
    const float *at[LMI_ROWS];
    float sum[LMI_ROWS], scale = t->scale;
    for (r = 0; r < LMI_ROWS; r++) {
        size_t row = r < t->rows ? r : t->rows - 1;
        at[r] = t->q + row * d;
        low = lmi_min(low, t->first[row]);
        high = lmi_max(high, t->end[row]);
    }
    low = low / LMI_COLUMNS * LMI_COLUMNS;
    wide = lmi_round(high - low);
    for (j = low; j < high; j += LMI_COLUMNS)
        lmi_block(at, d, t->keys + j * d, LMI_COLUMNS, t->p + (j - low), wide);
    if (t->cap > 0) {
        lmi_v s = lmi_vset(scale), cap = lmi_vset(t->cap);
        for (j = 0; j < t->rows * wide; j += 16)
            lmi_vstore(t->p + j, lmi_vcap(lmi_vmul(lmi_vload(t->p + j), s), cap));
        scale = 1;
    }
    for (r = 0; r < t->rows; r++)
        sum[r] = lmi_softmax(t->p + r * wide, t->first[r] - low, t->end[r] - low, wide, scale);
    for (r = 0; r < LMI_ROWS; r++) at[r] = t->p + (r < t->rows ? r : t->rows - 1) * wide;
    for (c = 0; c < d; c += LMI_COLUMNS)
        lmi_block(at, high - low, t->values + low * deep + c, deep, t->mixed + c, deep);
    for (r = 0; r < t->rows; r++)
        for (c = 0; c < d; c++) t->out[r][c] = t->mixed[r * deep + c] / sum[r];
}

/* ---- src/lm/end.inl ---- */

#undef LMI_FN
#undef lmi_v
#undef lmi_vload
#undef lmi_vstore
#undef lmi_vset
#undef lmi_vfma
#undef lmi_vmul
#undef lmi_vadd
#undef lmi_vsub
#undef lmi_vdiv
#undef lmi_vmin
#undef lmi_vmax
#undef lmi_vpower
#undef lmi_vsum
#undef lmi_vexp
#undef lmi_verf
#undef lmi_vact
#undef lmi_vcap
#undef lmi_vpart
#undef lmi_block
#undef lmi_softmax

/* ==== >>lm: kernels: AVX2 ================================================== src/lm/avx2.h ==== */
#if defined(LMI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LMI_FN(name) name##_avx2

/* ---- src/lm/names.inl ---- */

/* The lanes and kernels of the set whose text this is. */
#define lmi_v LMI_FN(lmi_v)
#define lmi_vload LMI_FN(lmi_vload)
#define lmi_vstore LMI_FN(lmi_vstore)
#define lmi_vset LMI_FN(lmi_vset)
#define lmi_vfma LMI_FN(lmi_vfma)
#define lmi_vmul LMI_FN(lmi_vmul)
#define lmi_vadd LMI_FN(lmi_vadd)
#define lmi_vsub LMI_FN(lmi_vsub)
#define lmi_vdiv LMI_FN(lmi_vdiv)
#define lmi_vmin LMI_FN(lmi_vmin)
#define lmi_vmax LMI_FN(lmi_vmax)
#define lmi_vpower LMI_FN(lmi_vpower)
#define lmi_vsum LMI_FN(lmi_vsum)
#define lmi_vexp LMI_FN(lmi_vexp)
#define lmi_verf LMI_FN(lmi_verf)
#define lmi_vact LMI_FN(lmi_vact)
#define lmi_vcap LMI_FN(lmi_vcap)
#define lmi_vpart LMI_FN(lmi_vpart)
#define lmi_block LMI_FN(lmi_block)
#define lmi_softmax LMI_FN(lmi_softmax)

typedef struct lmi_v {
    __m256 a, b;
} lmi_v;
static inline lmi_v lmi_vload(const float *p) {
    lmi_v r;
    r.a = _mm256_loadu_ps(p);
    r.b = _mm256_loadu_ps(p + 8);
    return r;
}
static inline void lmi_vstore(float *p, lmi_v x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline lmi_v lmi_vset(float a) {
    lmi_v r;
    r.a = r.b = _mm256_set1_ps(a);
    return r;
}
static inline lmi_v lmi_vfma(lmi_v x, lmi_v y, lmi_v z) {
    z.a = _mm256_fmadd_ps(x.a, y.a, z.a);
    z.b = _mm256_fmadd_ps(x.b, y.b, z.b);
    return z;
}
#define LMI_LANES(fn, op)                                                                          \
    static inline lmi_v fn(lmi_v x, lmi_v y) {                                                     \
        x.a = op(x.a, y.a);                                                                        \
        x.b = op(x.b, y.b);                                                                        \
        return x;                                                                                  \
    }
LMI_LANES(lmi_vmul, _mm256_mul_ps)
LMI_LANES(lmi_vadd, _mm256_add_ps)
LMI_LANES(lmi_vsub, _mm256_sub_ps)
LMI_LANES(lmi_vdiv, _mm256_div_ps)
LMI_LANES(lmi_vmin, _mm256_min_ps)
LMI_LANES(lmi_vmax, _mm256_max_ps)
#undef LMI_LANES
static inline lmi_v lmi_vpower(lmi_v x) {
    __m256i one = _mm256_set1_epi32(0x3F800000);
    __m256i a = _mm256_slli_epi32(_mm256_castps_si256(x.a), 23);
    __m256i b = _mm256_slli_epi32(_mm256_castps_si256(x.b), 23);
    x.a = _mm256_castsi256_ps(_mm256_add_epi32(a, one));
    x.b = _mm256_castsi256_ps(_mm256_add_epi32(b, one));
    return x;
}

/* ---- src/lm/common.inl ---- */

/* Lanes 8, 4, 2, 1 apart, in double. */
static double lmi_vsum(lmi_v a) {
    double sum[16];
    float f[16];
    lmi_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

/* The first n < 16 of p, the other lanes rest. */
static lmi_v lmi_vpart(const float *p, size_t n, float rest) {
    float f[16];
    for (size_t i = 0; i < 16; i++) f[i] = i < n ? p[i] : rest;
    return lmi_vload(f);
}

/* e^x in float, about 1 unit in the last place; below -87 that of -87 (1.6e-38), above 88 that of
   88: x = n ln2 + r, Taylor to r^7. */
static inline lmi_v lmi_vexp(lmi_v x) {
    const lmi_v magic = lmi_vset(12582912.0f);
    lmi_v n, r, y;
    x = lmi_vmin(lmi_vmax(x, lmi_vset(-87.0f)), lmi_vset(88.0f));
    n = lmi_vfma(x, lmi_vset(1.44269504f), magic);
    r = lmi_vsub(n, magic);
    x = lmi_vfma(r, lmi_vset(-0.693359375f), x);
    r = lmi_vfma(r, lmi_vset(2.12194440e-4f), x);
    y = lmi_vset(1.0f / 5040);
    y = lmi_vfma(y, r, lmi_vset(1.0f / 720));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 120));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 24));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 6));
    y = lmi_vfma(y, r, lmi_vset(0.5f));
    y = lmi_vfma(y, r, lmi_vset(1));
    y = lmi_vfma(y, r, lmi_vset(1));
    return lmi_vmul(y, lmi_vpower(n));
}

/* erf z = z P(z^2) / Q(z^2), fitted to 2e-8 of it for |z| <= 3.92 (beyond, erf is 1 in float); with
   the rounding 4e-7. */
static inline lmi_v lmi_verf(lmi_v z) {
    static const float P[] = { 2.0500785922195064e-06f, 0.00028488485259003937f,
                               0.003765694098547101f, 0.05274895951151848f, 0.19040821492671967f,
                               1.1283791065216064f };
    static const float Q[] = { 3.8091737224021927e-05f, 0.0011625549523159862f,
                               0.014969369396567345f, 0.1141098365187645f, 0.5020776391029358f,
                               1.0f };
    lmi_v t, p = lmi_vset(P[0]), q = lmi_vset(Q[0]);
    z = lmi_vmin(lmi_vmax(z, lmi_vset(-3.92f)), lmi_vset(3.92f));
    t = lmi_vmul(z, z);
    for (int i = 1; i < 6; i++) {
        p = lmi_vfma(p, t, lmi_vset(P[i]));
        q = lmi_vfma(q, t, lmi_vset(Q[i]));
    }
    z = lmi_vdiv(lmi_vmul(z, p), q);
    return lmi_vmin(lmi_vmax(z, lmi_vset(-1)), lmi_vset(1));
}

static inline lmi_v lmi_vact(lmi_act act, lmi_v x) {
    const lmi_v one = lmi_vset(1), zero = lmi_vset(0);
    lmi_v y = x;
    switch (act) {
    case LMI_GELU: /* x (1 + erf(x / sqrt 2)) / 2 */
        y = lmi_verf(lmi_vmul(x, lmi_vset(0.70710678118f)));
        return lmi_vmul(lmi_vmul(x, lmi_vset(0.5f)), lmi_vadd(one, y));
    case LMI_GELU_TANH: /* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)) */
        y = lmi_vfma(lmi_vmul(x, x), lmi_vset(0.044715f), one);
        y = lmi_vmul(lmi_vmul(x, y), lmi_vset(-1.5957691216f));
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(y)));
    case LMI_GELU_QUICK:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vmul(x, lmi_vset(-1.702f)))));
    case LMI_SILU:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vsub(zero, x))));
    case LMI_RELU: return lmi_vmax(x, zero);
    case LMI_RELU2:
        y = lmi_vmax(x, zero);
        return lmi_vmul(y, y);
    case LMI_LINEAR: break;
    }
    return y;
}

static void LMI_FN(lmi_activate)(lmi_act act, size_t n, float *x) {
    size_t i = 0;
    if (act == LMI_GELU) /* the one that matters, without the switch inside */
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vact(LMI_GELU, lmi_vload(x + i)));
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vact(act, lmi_vload(x + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vact(act, lmi_vpart(x + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_gate)(lmi_act act, size_t n, float *x, const float *up) {
    size_t i = 0;
    if (act == LMI_SILU)
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vmul(lmi_vact(LMI_SILU, lmi_vload(x + i)), lmi_vload(up + i)));
    for (; i + 16 <= n; i += 16)
        lmi_vstore(x + i, lmi_vmul(lmi_vact(act, lmi_vload(x + i)), lmi_vload(up + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vmul(lmi_vact(act, lmi_vpart(x + i, n - i, 0)),
                               lmi_vpart(up + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

/* cap tanh(x / cap) = cap (1 - 2 / (exp(2 x / cap) + 1)) */
static inline lmi_v lmi_vcap(lmi_v x, lmi_v cap) {
    lmi_v e = lmi_vexp(lmi_vmul(lmi_vdiv(x, cap), lmi_vset(2)));
    e = lmi_vdiv(lmi_vset(2), lmi_vadd(e, lmi_vset(1)));
    return lmi_vmul(cap, lmi_vsub(lmi_vset(1), e));
}

static void LMI_FN(lmi_cap)(size_t n, float cap, float *x) {
    lmi_v c = lmi_vset(cap);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vcap(lmi_vload(x + i), c));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vcap(lmi_vpart(x + i, n - i, 0), c));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_turn)(size_t pairs, const float *cosine, const float *sine, float *x) {
    size_t i = 0;
    for (; i + 16 <= pairs; i += 16) {
        lmi_v a = lmi_vload(x + i), b = lmi_vload(x + pairs + i);
        lmi_v c = lmi_vload(cosine + i), s = lmi_vload(sine + i);
        lmi_vstore(x + i, lmi_vsub(lmi_vmul(a, c), lmi_vmul(b, s)));
        lmi_vstore(x + pairs + i, lmi_vadd(lmi_vmul(b, c), lmi_vmul(a, s)));
    }
    for (; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = cosine[i], s = sine[i];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void LMI_FN(lmi_add)(size_t n, const float *a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        lmi_vstore(out + i, lmi_vadd(lmi_vload(a + i), lmi_vload(x + i)));
    for (; i < n; i++) out[i] = a[i] + x[i];
}

static void LMI_FN(lmi_norm)(size_t n, const float *x, const float *weight, const float *bias,
                             double eps, float *out) {
    lmi_v sum = lmi_vset(0), square = lmi_vset(0), mean, factor;
    size_t whole = n / 16 * 16, i;
    float m, f;
    for (i = 0; i < whole; i += 16) sum = lmi_vadd(sum, lmi_vload(x + i));
    if (i < n) sum = lmi_vadd(sum, lmi_vpart(x + i, n - i, 0));
    m = (float)(lmi_vsum(sum) / (double)n);
    mean = lmi_vset(m);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vsub(lmi_vload(x + i), mean);
        square = lmi_vfma(d, d, square);
    }
    if (i < n) {
        lmi_v d = lmi_vsub(lmi_vpart(x + i, n - i, m), mean);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vmul(lmi_vsub(lmi_vload(x + i), mean), factor);
        lmi_vstore(out + i, lmi_vfma(d, lmi_vload(weight + i), lmi_vload(bias + i)));
    }
    for (; i < n; i++) out[i] = fmaf((x[i] - m) * f, weight[i], bias[i]);
}

static void LMI_FN(lmi_rms_norm)(size_t n, const float *x, const float *weight, double eps,
                                 float *out) {
    lmi_v square = lmi_vset(0), factor;
    size_t whole = n / 16 * 16, i;
    float f;
    for (i = 0; i < whole; i += 16)
        square = lmi_vfma(lmi_vload(x + i), lmi_vload(x + i), square);
    if (i < n) {
        lmi_v d = lmi_vpart(x + i, n - i, 0);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16)
        lmi_vstore(out + i, lmi_vmul(lmi_vmul(lmi_vload(x + i), factor), lmi_vload(weight + i)));
    for (; i < n; i++) out[i] = x[i] * f * weight[i];
}

/* Sums of 1024 floats in 16 lanes, these in double. */
static double LMI_FN(lmi_sum_exp)(size_t n, const float *x, float *largest) {
    lmi_v most = lmi_vset(x[0]), high;
    float f[16];
    double sum = 0;
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) most = lmi_vmax(lmi_vload(x + i), most);
    if (i < n) most = lmi_vmax(lmi_vpart(x + i, n - i, x[0]), most);
    lmi_vstore(f, most);
    *largest = f[0];
    for (int j = 1; j < 16; j++)
        if (f[j] > *largest) *largest = f[j];
    high = lmi_vset(*largest);
    for (size_t at = 0; at < n; at += 1024) {
        size_t end = at + 1024 < n ? at + 1024 : n;
        lmi_v s = lmi_vset(0);
        for (i = at; i + 16 <= end; i += 16)
            s = lmi_vadd(s, lmi_vexp(lmi_vsub(lmi_vload(x + i), high)));
        sum += lmi_vsum(s);
    }
    for (i = n / 16 * 16; i < n; i++) {
        lmi_vstore(f, lmi_vexp(lmi_vset(x[i] - *largest)));
        sum += (double)f[0];
    }
    return sum;
}

/* ---- src/lm/block.inl ---- */

/* out [8][32] at ld_out = sum over k < n of a[r][k] b[k][0..32): one chain of fma each. */
static void lmi_block(const float *const a[LMI_ROWS], size_t n, const float *b, size_t ld_b,
                      float *out, size_t ld_out) {
    for (size_t r = 0; r < LMI_ROWS; r += 4)
        for (size_t c = 0; c < LMI_COLUMNS; c += 16) {
            lmi_v s0 = lmi_vset(0), s1 = s0, s2 = s0, s3 = s0;
            for (size_t k = 0; k < n; k++) {
                lmi_v v = lmi_vload(b + k * ld_b + c);
                s0 = lmi_vfma(lmi_vset(a[r][k]), v, s0);
                s1 = lmi_vfma(lmi_vset(a[r + 1][k]), v, s1);
                s2 = lmi_vfma(lmi_vset(a[r + 2][k]), v, s2);
                s3 = lmi_vfma(lmi_vset(a[r + 3][k]), v, s3);
            }
            lmi_vstore(out + r * ld_out + c, s0);
            lmi_vstore(out + (r + 1) * ld_out + c, s1);
            lmi_vstore(out + (r + 2) * ld_out + c, s2);
            lmi_vstore(out + (r + 3) * ld_out + c, s3);
        }
}

/* ---- src/lm/attention.inl ---- */

/* p[j] = exp(scale (p[j] - max)) over first <= j < n, zeros elsewhere up to wide (a multiple of
   16); returns their sum, in lanes j mod 16, so that zeros in front or behind change no bit. */
static float lmi_softmax(float *p, size_t first, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = 0; j < first; j++) p[j] = p[first];
    for (j = n; j < wide; j++) p[j] = p[first];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j < wide; j += 16) {
        lmi_v e = lmi_vset(0);
        if (j + 16 > first && j < n) {
            e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
            if (j < first || j + 16 > n) {
                lmi_vstore(f, e);
                for (size_t i = 0; i < 16; i++)
                    if (j + i < first || j + i >= n) f[i] = 0;
                e = lmi_vload(f);
            }
            sum = lmi_vadd(sum, e);
        }
        lmi_vstore(p + j, e);
    }
    return (float)lmi_vsum(sum);
}

static void LMI_FN(lmi_attend)(const lmi_tile *t) {
    size_t d = t->head_dim, deep = lmi_round(d), low = t->first[0], high = 0, wide, c, j, r;
    const float *at[LMI_ROWS];
    float sum[LMI_ROWS], scale = t->scale;
    for (r = 0; r < LMI_ROWS; r++) {
        size_t row = r < t->rows ? r : t->rows - 1;
        at[r] = t->q + row * d;
        low = lmi_min(low, t->first[row]);
        high = lmi_max(high, t->end[row]);
    }
    low = low / LMI_COLUMNS * LMI_COLUMNS;
    wide = lmi_round(high - low);
    for (j = low; j < high; j += LMI_COLUMNS)
        lmi_block(at, d, t->keys + j * d, LMI_COLUMNS, t->p + (j - low), wide);
    if (t->cap > 0) {
        lmi_v s = lmi_vset(scale), cap = lmi_vset(t->cap);
        for (j = 0; j < t->rows * wide; j += 16)
            lmi_vstore(t->p + j, lmi_vcap(lmi_vmul(lmi_vload(t->p + j), s), cap));
        scale = 1;
    }
    for (r = 0; r < t->rows; r++)
        sum[r] = lmi_softmax(t->p + r * wide, t->first[r] - low, t->end[r] - low, wide, scale);
    for (r = 0; r < LMI_ROWS; r++) at[r] = t->p + (r < t->rows ? r : t->rows - 1) * wide;
    for (c = 0; c < d; c += LMI_COLUMNS)
        lmi_block(at, high - low, t->values + low * deep + c, deep, t->mixed + c, deep);
    for (r = 0; r < t->rows; r++)
        for (c = 0; c < d; c++) t->out[r][c] = t->mixed[r * deep + c] / sum[r];
}

/* ---- src/lm/end.inl ---- */

#undef LMI_FN
#undef lmi_v
#undef lmi_vload
#undef lmi_vstore
#undef lmi_vset
#undef lmi_vfma
#undef lmi_vmul
#undef lmi_vadd
#undef lmi_vsub
#undef lmi_vdiv
#undef lmi_vmin
#undef lmi_vmax
#undef lmi_vpower
#undef lmi_vsum
#undef lmi_vexp
#undef lmi_verf
#undef lmi_vact
#undef lmi_vcap
#undef lmi_vpart
#undef lmi_block
#undef lmi_softmax

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* LMI_X86 */

/* ==== >>lm: kernels: AVX-512 ============================================= src/lm/avx512.h ==== */
#if defined(LMI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif
#define LMI_FN(name) name##_avx512

/* ---- src/lm/names.inl ---- */

/* The lanes and kernels of the set whose text this is. */
#define lmi_v LMI_FN(lmi_v)
#define lmi_vload LMI_FN(lmi_vload)
#define lmi_vstore LMI_FN(lmi_vstore)
#define lmi_vset LMI_FN(lmi_vset)
#define lmi_vfma LMI_FN(lmi_vfma)
#define lmi_vmul LMI_FN(lmi_vmul)
#define lmi_vadd LMI_FN(lmi_vadd)
#define lmi_vsub LMI_FN(lmi_vsub)
#define lmi_vdiv LMI_FN(lmi_vdiv)
#define lmi_vmin LMI_FN(lmi_vmin)
#define lmi_vmax LMI_FN(lmi_vmax)
#define lmi_vpower LMI_FN(lmi_vpower)
#define lmi_vsum LMI_FN(lmi_vsum)
#define lmi_vexp LMI_FN(lmi_vexp)
#define lmi_verf LMI_FN(lmi_verf)
#define lmi_vact LMI_FN(lmi_vact)
#define lmi_vcap LMI_FN(lmi_vcap)
#define lmi_vpart LMI_FN(lmi_vpart)
#define lmi_block LMI_FN(lmi_block)
#define lmi_softmax LMI_FN(lmi_softmax)

typedef __m512 lmi_v;
static inline lmi_v lmi_vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void lmi_vstore(float *p, lmi_v a) { _mm512_storeu_ps(p, a); }
static inline lmi_v lmi_vset(float a) { return _mm512_set1_ps(a); }
static inline lmi_v lmi_vfma(lmi_v a, lmi_v b, lmi_v c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline lmi_v lmi_vmul(lmi_v a, lmi_v b) { return _mm512_mul_ps(a, b); }
static inline lmi_v lmi_vadd(lmi_v a, lmi_v b) { return _mm512_add_ps(a, b); }
static inline lmi_v lmi_vsub(lmi_v a, lmi_v b) { return _mm512_sub_ps(a, b); }
static inline lmi_v lmi_vdiv(lmi_v a, lmi_v b) { return _mm512_div_ps(a, b); }
/* maskz with a full mask: GCC 12 warns of an undefined operand in the plain forms */
static inline lmi_v lmi_vmin(lmi_v a, lmi_v b) {
    return _mm512_maskz_min_ps(0xFFFF, a, b);
}
static inline lmi_v lmi_vmax(lmi_v a, lmi_v b) {
    return _mm512_maskz_max_ps(0xFFFF, a, b);
}
static inline lmi_v lmi_vpower(lmi_v a) {
    __m512i n = _mm512_maskz_slli_epi32(0xFFFF, _mm512_castps_si512(a), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3F800000)));
}

/* ---- src/lm/common.inl ---- */

/* Lanes 8, 4, 2, 1 apart, in double. */
static double lmi_vsum(lmi_v a) {
    double sum[16];
    float f[16];
    lmi_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

/* The first n < 16 of p, the other lanes rest. */
static lmi_v lmi_vpart(const float *p, size_t n, float rest) {
    float f[16];
    for (size_t i = 0; i < 16; i++) f[i] = i < n ? p[i] : rest;
    return lmi_vload(f);
}

/* e^x in float, about 1 unit in the last place; below -87 that of -87 (1.6e-38), above 88 that of
   88: x = n ln2 + r, Taylor to r^7. */
static inline lmi_v lmi_vexp(lmi_v x) {
    const lmi_v magic = lmi_vset(12582912.0f);
    lmi_v n, r, y;
    x = lmi_vmin(lmi_vmax(x, lmi_vset(-87.0f)), lmi_vset(88.0f));
    n = lmi_vfma(x, lmi_vset(1.44269504f), magic);
    r = lmi_vsub(n, magic);
    x = lmi_vfma(r, lmi_vset(-0.693359375f), x);
    r = lmi_vfma(r, lmi_vset(2.12194440e-4f), x);
    y = lmi_vset(1.0f / 5040);
    y = lmi_vfma(y, r, lmi_vset(1.0f / 720));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 120));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 24));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 6));
    y = lmi_vfma(y, r, lmi_vset(0.5f));
    y = lmi_vfma(y, r, lmi_vset(1));
    y = lmi_vfma(y, r, lmi_vset(1));
    return lmi_vmul(y, lmi_vpower(n));
}

/* erf z = z P(z^2) / Q(z^2), fitted to 2e-8 of it for |z| <= 3.92 (beyond, erf is 1 in float); with
   the rounding 4e-7. */
static inline lmi_v lmi_verf(lmi_v z) {
    static const float P[] = { 2.0500785922195064e-06f, 0.00028488485259003937f,
                               0.003765694098547101f, 0.05274895951151848f, 0.19040821492671967f,
                               1.1283791065216064f };
    static const float Q[] = { 3.8091737224021927e-05f, 0.0011625549523159862f,
                               0.014969369396567345f, 0.1141098365187645f, 0.5020776391029358f,
                               1.0f };
    lmi_v t, p = lmi_vset(P[0]), q = lmi_vset(Q[0]);
    z = lmi_vmin(lmi_vmax(z, lmi_vset(-3.92f)), lmi_vset(3.92f));
    t = lmi_vmul(z, z);
    for (int i = 1; i < 6; i++) {
        p = lmi_vfma(p, t, lmi_vset(P[i]));
        q = lmi_vfma(q, t, lmi_vset(Q[i]));
    }
    z = lmi_vdiv(lmi_vmul(z, p), q);
    return lmi_vmin(lmi_vmax(z, lmi_vset(-1)), lmi_vset(1));
}

static inline lmi_v lmi_vact(lmi_act act, lmi_v x) {
    const lmi_v one = lmi_vset(1), zero = lmi_vset(0);
    lmi_v y = x;
    switch (act) {
    case LMI_GELU: /* x (1 + erf(x / sqrt 2)) / 2 */
        y = lmi_verf(lmi_vmul(x, lmi_vset(0.70710678118f)));
        return lmi_vmul(lmi_vmul(x, lmi_vset(0.5f)), lmi_vadd(one, y));
    case LMI_GELU_TANH: /* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)) */
        y = lmi_vfma(lmi_vmul(x, x), lmi_vset(0.044715f), one);
        y = lmi_vmul(lmi_vmul(x, y), lmi_vset(-1.5957691216f));
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(y)));
    case LMI_GELU_QUICK:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vmul(x, lmi_vset(-1.702f)))));
    case LMI_SILU:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vsub(zero, x))));
    case LMI_RELU: return lmi_vmax(x, zero);
    case LMI_RELU2:
        y = lmi_vmax(x, zero);
        return lmi_vmul(y, y);
    case LMI_LINEAR: break;
    }
    return y;
}

static void LMI_FN(lmi_activate)(lmi_act act, size_t n, float *x) {
    size_t i = 0;
    if (act == LMI_GELU) /* the one that matters, without the switch inside */
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vact(LMI_GELU, lmi_vload(x + i)));
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vact(act, lmi_vload(x + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vact(act, lmi_vpart(x + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_gate)(lmi_act act, size_t n, float *x, const float *up) {
    size_t i = 0;
    if (act == LMI_SILU)
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vmul(lmi_vact(LMI_SILU, lmi_vload(x + i)), lmi_vload(up + i)));
    for (; i + 16 <= n; i += 16)
        lmi_vstore(x + i, lmi_vmul(lmi_vact(act, lmi_vload(x + i)), lmi_vload(up + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vmul(lmi_vact(act, lmi_vpart(x + i, n - i, 0)),
                               lmi_vpart(up + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

/* cap tanh(x / cap) = cap (1 - 2 / (exp(2 x / cap) + 1)) */
static inline lmi_v lmi_vcap(lmi_v x, lmi_v cap) {
    lmi_v e = lmi_vexp(lmi_vmul(lmi_vdiv(x, cap), lmi_vset(2)));
    e = lmi_vdiv(lmi_vset(2), lmi_vadd(e, lmi_vset(1)));
    return lmi_vmul(cap, lmi_vsub(lmi_vset(1), e));
}

static void LMI_FN(lmi_cap)(size_t n, float cap, float *x) {
    lmi_v c = lmi_vset(cap);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vcap(lmi_vload(x + i), c));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vcap(lmi_vpart(x + i, n - i, 0), c));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_turn)(size_t pairs, const float *cosine, const float *sine, float *x) {
    size_t i = 0;
    for (; i + 16 <= pairs; i += 16) {
        lmi_v a = lmi_vload(x + i), b = lmi_vload(x + pairs + i);
        lmi_v c = lmi_vload(cosine + i), s = lmi_vload(sine + i);
        lmi_vstore(x + i, lmi_vsub(lmi_vmul(a, c), lmi_vmul(b, s)));
        lmi_vstore(x + pairs + i, lmi_vadd(lmi_vmul(b, c), lmi_vmul(a, s)));
    }
    for (; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = cosine[i], s = sine[i];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void LMI_FN(lmi_add)(size_t n, const float *a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        lmi_vstore(out + i, lmi_vadd(lmi_vload(a + i), lmi_vload(x + i)));
    for (; i < n; i++) out[i] = a[i] + x[i];
}

static void LMI_FN(lmi_norm)(size_t n, const float *x, const float *weight, const float *bias,
                             double eps, float *out) {
    lmi_v sum = lmi_vset(0), square = lmi_vset(0), mean, factor;
    size_t whole = n / 16 * 16, i;
    float m, f;
    for (i = 0; i < whole; i += 16) sum = lmi_vadd(sum, lmi_vload(x + i));
    if (i < n) sum = lmi_vadd(sum, lmi_vpart(x + i, n - i, 0));
    m = (float)(lmi_vsum(sum) / (double)n);
    mean = lmi_vset(m);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vsub(lmi_vload(x + i), mean);
        square = lmi_vfma(d, d, square);
    }
    if (i < n) {
        lmi_v d = lmi_vsub(lmi_vpart(x + i, n - i, m), mean);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vmul(lmi_vsub(lmi_vload(x + i), mean), factor);
        lmi_vstore(out + i, lmi_vfma(d, lmi_vload(weight + i), lmi_vload(bias + i)));
    }
    for (; i < n; i++) out[i] = fmaf((x[i] - m) * f, weight[i], bias[i]);
}

static void LMI_FN(lmi_rms_norm)(size_t n, const float *x, const float *weight, double eps,
                                 float *out) {
    lmi_v square = lmi_vset(0), factor;
    size_t whole = n / 16 * 16, i;
    float f;
    for (i = 0; i < whole; i += 16)
        square = lmi_vfma(lmi_vload(x + i), lmi_vload(x + i), square);
    if (i < n) {
        lmi_v d = lmi_vpart(x + i, n - i, 0);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16)
        lmi_vstore(out + i, lmi_vmul(lmi_vmul(lmi_vload(x + i), factor), lmi_vload(weight + i)));
    for (; i < n; i++) out[i] = x[i] * f * weight[i];
}

/* Sums of 1024 floats in 16 lanes, these in double. */
static double LMI_FN(lmi_sum_exp)(size_t n, const float *x, float *largest) {
    lmi_v most = lmi_vset(x[0]), high;
    float f[16];
    double sum = 0;
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) most = lmi_vmax(lmi_vload(x + i), most);
    if (i < n) most = lmi_vmax(lmi_vpart(x + i, n - i, x[0]), most);
    lmi_vstore(f, most);
    *largest = f[0];
    for (int j = 1; j < 16; j++)
        if (f[j] > *largest) *largest = f[j];
    high = lmi_vset(*largest);
    for (size_t at = 0; at < n; at += 1024) {
        size_t end = at + 1024 < n ? at + 1024 : n;
        lmi_v s = lmi_vset(0);
        for (i = at; i + 16 <= end; i += 16)
            s = lmi_vadd(s, lmi_vexp(lmi_vsub(lmi_vload(x + i), high)));
        sum += lmi_vsum(s);
    }
    for (i = n / 16 * 16; i < n; i++) {
        lmi_vstore(f, lmi_vexp(lmi_vset(x[i] - *largest)));
        sum += (double)f[0];
    }
    return sum;
}

/* out [8][32] at ld_out = sum over k < n of a[r][k] b[k][0..32): one chain of fma each. */
static void lmi_block(const float *const a[LMI_ROWS], size_t n, const float *b, size_t ld_b,
                      float *out, size_t ld_out) {
#define LMI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LMI_BEGIN(i)                                                                               \
    const float *a##i = a[i];                                                                      \
    lmi_v s##i = lmi_vset(0), t##i = lmi_vset(0);
#define LMI_STEP(i)                                                                                \
    {                                                                                              \
        lmi_v v = lmi_vset(a##i[k]);                                                               \
        s##i = lmi_vfma(v, low, s##i);                                                             \
        t##i = lmi_vfma(v, high, t##i);                                                            \
    }
#define LMI_END(i)                                                                                 \
    lmi_vstore(out + i * ld_out, s##i);                                                            \
    lmi_vstore(out + i * ld_out + 16, t##i);
    LMI_ALL(LMI_BEGIN)
    for (size_t k = 0; k < n; k++, b += ld_b) {
        lmi_v low = lmi_vload(b), high = lmi_vload(b + 16);
        LMI_ALL(LMI_STEP)
    }
    LMI_ALL(LMI_END)
#undef LMI_ALL
#undef LMI_BEGIN
#undef LMI_STEP
#undef LMI_END
}

/* ---- src/lm/attention.inl ---- */

/* p[j] = exp(scale (p[j] - max)) over first <= j < n, zeros elsewhere up to wide (a multiple of
   16); returns their sum, in lanes j mod 16, so that zeros in front or behind change no bit. */
static float lmi_softmax(float *p, size_t first, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = 0; j < first; j++) p[j] = p[first];
    for (j = n; j < wide; j++) p[j] = p[first];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j < wide; j += 16) {
        lmi_v e = lmi_vset(0);
        if (j + 16 > first && j < n) {
            e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
            if (j < first || j + 16 > n) {
                lmi_vstore(f, e);
                for (size_t i = 0; i < 16; i++)
                    if (j + i < first || j + i >= n) f[i] = 0;
                e = lmi_vload(f);
            }
            sum = lmi_vadd(sum, e);
        }
        lmi_vstore(p + j, e);
    }
    return (float)lmi_vsum(sum);
}

static void LMI_FN(lmi_attend)(const lmi_tile *t) {
    size_t d = t->head_dim, deep = lmi_round(d), low = t->first[0], high = 0, wide, c, j, r;
    const float *at[LMI_ROWS];
    float sum[LMI_ROWS], scale = t->scale;
    for (r = 0; r < LMI_ROWS; r++) {
        size_t row = r < t->rows ? r : t->rows - 1;
        at[r] = t->q + row * d;
        low = lmi_min(low, t->first[row]);
        high = lmi_max(high, t->end[row]);
    }
    low = low / LMI_COLUMNS * LMI_COLUMNS;
    wide = lmi_round(high - low);
    for (j = low; j < high; j += LMI_COLUMNS)
        lmi_block(at, d, t->keys + j * d, LMI_COLUMNS, t->p + (j - low), wide);
    if (t->cap > 0) {
        lmi_v s = lmi_vset(scale), cap = lmi_vset(t->cap);
        for (j = 0; j < t->rows * wide; j += 16)
            lmi_vstore(t->p + j, lmi_vcap(lmi_vmul(lmi_vload(t->p + j), s), cap));
        scale = 1;
    }
    for (r = 0; r < t->rows; r++)
        sum[r] = lmi_softmax(t->p + r * wide, t->first[r] - low, t->end[r] - low, wide, scale);
    for (r = 0; r < LMI_ROWS; r++) at[r] = t->p + (r < t->rows ? r : t->rows - 1) * wide;
    for (c = 0; c < d; c += LMI_COLUMNS)
        lmi_block(at, high - low, t->values + low * deep + c, deep, t->mixed + c, deep);
    for (r = 0; r < t->rows; r++)
        for (c = 0; c < d; c++) t->out[r][c] = t->mixed[r * deep + c] / sum[r];
}

/* ---- src/lm/end.inl ---- */

#undef LMI_FN
#undef lmi_v
#undef lmi_vload
#undef lmi_vstore
#undef lmi_vset
#undef lmi_vfma
#undef lmi_vmul
#undef lmi_vadd
#undef lmi_vsub
#undef lmi_vdiv
#undef lmi_vmin
#undef lmi_vmax
#undef lmi_vpower
#undef lmi_vsum
#undef lmi_vexp
#undef lmi_verf
#undef lmi_vact
#undef lmi_vcap
#undef lmi_vpart
#undef lmi_block
#undef lmi_softmax

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* LMI_X86 */

/* ==== >>lm: kernels: choice ================================================= src/lm/isa.h ==== */
#define LMI_TABLE(set)                                                                             \
    static const lmi_kernels lmi_kernels_##set = {                                                 \
        lmi_norm_##set, lmi_rms_norm_##set, lmi_activate_##set, lmi_gate_##set, lmi_add_##set,     \
        lmi_cap_##set, lmi_turn_##set, lmi_attend_##set, lmi_sum_exp_##set                         \
    }
LMI_TABLE(portable);
#if defined(LMI_X86)
LMI_TABLE(avx2);
LMI_TABLE(avx512);
#endif

static const lmi_kernels *lmi_kernels_select(void) {
#if defined(LMI_X86)
    if (__builtin_cpu_supports("avx512f")) return &lmi_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &lmi_kernels_avx2;
#endif
    return &lmi_kernels_portable;
}

/* ==== >>lm: arithmetic =============================================== src/lm/arithmetic.h ==== */
/* Functions with the same bits everywhere, in double, about one unit in the last place. */

/* e^x, |x| < 700: x = n ln2 + r, Taylor to r^13. */
static double lmi_exp(double x) {
    double n = floor(x * 1.4426950408889634 + 0.5), r, y = 1;
    uint64_t bits;
    r = fma(-n, 6.93147180369123816490e-01, x);
    r = fma(-n, 1.90821492927058770002e-10, r);
    for (int k = 13; k > 0; k--) y = fma(y, r / k, 1);
    bits = (uint64_t)((int)n + 1023) << 52;
    memcpy(&r, &bits, sizeof r);
    return y * r;
}

/* ln x, x > 0 and normal: x = 2^e f, f in [sqrt(1/2), sqrt(2)), ln f = 2 atanh((f-1)/(f+1)). */
static double lmi_ln(double x) {
    double s, z, y = 0, f;
    uint64_t bits;
    int e;
    memcpy(&bits, &x, sizeof bits);
    e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    memcpy(&f, &bits, sizeof f);
    if (f > 1.4142135623730951) {
        f *= 0.5;
        e++;
    }
    s = (f - 1) / (f + 1);
    z = s * s;
    for (int i = 23; i >= 3; i -= 2) y = fma(y, z, 1.0 / i);
    y = fma(y * z, 2 * s, 2 * s);
    return fma(e, 6.93147180369123816490e-01, fma(e, 1.90821492927058770002e-10, y));
}

/* sine and cosine of x >= 0, below 1e6: x = n pi/2 + r, Taylor to r^19. */
static void lmi_sin_cos(double x, float *sine, float *cosine) {
    double n = floor(x * 0.63661977236758134 + 0.5), r, z, s = 1, c = 1;
    int quadrant = (int)(n - 4 * floor(n / 4));
    r = fma(-n, 1.5707963267341256142, x);
    r = fma(-n, 6.0771005065061922e-11, r);
    z = r * r;
    for (int k = 18; k > 0; k -= 2) {
        s = fma(-z / (k * (k + 1)), s, 1);
        c = fma(-z / (k * (k - 1)), c, 1);
    }
    s *= r;
    *sine = (float)(quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c);
    *cosine = (float)(quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s);
}

SAE_API double sae_lm_loss(const float *logits, size_t size, size_t token,
                           float *log_probabilities) {
    float largest;
    double sum = lmi_kernels_select()->sum_exp(size, logits, &largest);
    double all = (double)largest + lmi_ln(sum);
    if (log_probabilities)
        for (size_t i = 0; i < size; i++)
            log_probabilities[i] = (float)((double)logits[i] - all);
    return all - (double)logits[token];
}

/* ==== >>lm: families =================================================== src/lm/families.h ==== */
/* A model is a description (lmi_shape) and tensors by name. A row of lmi_families says what models
   of a model_type have, where config.json is silent; a naming says what their tensors are called,
   which is how transformers calls the modules. A .gguf has one naming for all, gguf.h the rows.
   Nothing behind these two files asks for a family. */

/* What has a name: the modules of sae_lm_module, and parts that are no place to look at. */
enum {
    LMI_POSITIONS = SAE_LM_NUM_MODULES, LMI_UNEMBED, LMI_Q_NORM, LMI_K_NORM, LMI_ROUTER,
    LMI_EXPERT_GATE, LMI_EXPERT_UP, LMI_EXPERT_DOWN,
    LMI_EXPERT_GATE_UP, /* the first two in one */
    LMI_NUM_PARTS
};

typedef struct lmi_name {
    int part;
    const char *name; /* # stands for the number of an expert */
} lmi_name;

typedef struct lmi_naming {
    const char *base;   /* in front of all but the unembedding */
    const char *layers; /* in front of a layer's number, its names behind it */
    const struct lmi_naming *like; /* where names that are not here come from */
    const lmi_name *names;
    size_t count;
} lmi_naming;
#define LMI_NAMES(names) names, sizeof(names) / sizeof((names)[0])

static const lmi_name lmi_neox_names[] = {
    { SAE_LM_EMBED, "embed_in" },
    { SAE_LM_FINAL_NORM, "final_layer_norm" },
    { LMI_UNEMBED, "embed_out" },
    { SAE_LM_ATTENTION_NORM, "input_layernorm" },
    { SAE_LM_ATTENTION, "attention" },
    { SAE_LM_QKV_PROJ, "attention.query_key_value" },
    { SAE_LM_O_PROJ, "attention.dense" },
    { SAE_LM_MLP_NORM, "post_attention_layernorm" },
    { SAE_LM_MLP, "mlp" },
    { SAE_LM_UP_PROJ, "mlp.dense_h_to_4h" },
    { SAE_LM_DOWN_PROJ, "mlp.dense_4h_to_h" }
};
static const lmi_naming lmi_neox = { "gpt_neox.", "layers.", NULL, LMI_NAMES(lmi_neox_names) };

static const lmi_name lmi_gpt2_names[] = {
    { SAE_LM_EMBED, "wte" },
    { LMI_POSITIONS, "wpe" },
    { SAE_LM_FINAL_NORM, "ln_f" },
    { LMI_UNEMBED, "lm_head" },
    { SAE_LM_ATTENTION_NORM, "ln_1" },
    { SAE_LM_ATTENTION, "attn" },
    { SAE_LM_QKV_PROJ, "attn.c_attn" },
    { SAE_LM_O_PROJ, "attn.c_proj" },
    { SAE_LM_MLP_NORM, "ln_2" },
    { SAE_LM_MLP, "mlp" },
    { SAE_LM_UP_PROJ, "mlp.c_fc" },
    { SAE_LM_DOWN_PROJ, "mlp.c_proj" }
};
static const lmi_naming lmi_gpt2 = { "transformer.", "h.", NULL, LMI_NAMES(lmi_gpt2_names) };

static const lmi_name lmi_gpt_neo_names[] = {
    { SAE_LM_Q_PROJ, "attn.attention.q_proj" },
    { SAE_LM_K_PROJ, "attn.attention.k_proj" },
    { SAE_LM_V_PROJ, "attn.attention.v_proj" },
    { SAE_LM_O_PROJ, "attn.attention.out_proj" }
};
static const lmi_naming lmi_gpt_neo = { "transformer.", "h.", &lmi_gpt2,
                                        LMI_NAMES(lmi_gpt_neo_names) };

static const lmi_name lmi_llama_names[] = {
    { SAE_LM_EMBED, "embed_tokens" },
    { SAE_LM_FINAL_NORM, "norm" },
    { LMI_UNEMBED, "lm_head" },
    { SAE_LM_ATTENTION_NORM, "input_layernorm" },
    { SAE_LM_ATTENTION, "self_attn" },
    { SAE_LM_Q_PROJ, "self_attn.q_proj" },
    { SAE_LM_K_PROJ, "self_attn.k_proj" },
    { SAE_LM_V_PROJ, "self_attn.v_proj" },
    { LMI_Q_NORM, "self_attn.q_norm" },
    { LMI_K_NORM, "self_attn.k_norm" },
    { SAE_LM_O_PROJ, "self_attn.o_proj" },
    { SAE_LM_MLP_NORM, "post_attention_layernorm" },
    { SAE_LM_MLP, "mlp" },
    { SAE_LM_GATE_PROJ, "mlp.gate_proj" },
    { SAE_LM_UP_PROJ, "mlp.up_proj" },
    { SAE_LM_DOWN_PROJ, "mlp.down_proj" },
    { LMI_ROUTER, "mlp.gate" },
    { LMI_EXPERT_GATE, "mlp.experts.#.gate_proj" },
    { LMI_EXPERT_UP, "mlp.experts.#.up_proj" },
    { LMI_EXPERT_DOWN, "mlp.experts.#.down_proj" }
};
static const lmi_naming lmi_llama = { "model.", "layers.", NULL, LMI_NAMES(lmi_llama_names) };

static const lmi_name lmi_mixtral_names[] = {
    { LMI_ROUTER, "block_sparse_moe.gate" },
    { LMI_EXPERT_GATE, "block_sparse_moe.experts.#.w1" },
    { LMI_EXPERT_UP, "block_sparse_moe.experts.#.w3" },
    { LMI_EXPERT_DOWN, "block_sparse_moe.experts.#.w2" }
};
static const lmi_naming lmi_mixtral = { "model.", "layers.", &lmi_llama,
                                        LMI_NAMES(lmi_mixtral_names) };

static const lmi_name lmi_gemma2_names[] = {
    { SAE_LM_ATTENTION_POST_NORM, "post_attention_layernorm" },
    { SAE_LM_MLP_NORM, "pre_feedforward_layernorm" },
    { SAE_LM_MLP_POST_NORM, "post_feedforward_layernorm" }
};
static const lmi_naming lmi_gemma2 = { "model.", "layers.", &lmi_llama,
                                       LMI_NAMES(lmi_gemma2_names) };

/* Tensors of a .gguf; those of experts hold all of them, [experts,outputs,inputs]. */
static const lmi_name lmi_gguf_names[] = {
    { SAE_LM_EMBED, "token_embd" },
    { LMI_POSITIONS, "position_embd" },
    { SAE_LM_FINAL_NORM, "output_norm" },
    { LMI_UNEMBED, "output" },
    { SAE_LM_ATTENTION_NORM, "attn_norm" },
    { SAE_LM_QKV_PROJ, "attn_qkv" },
    { SAE_LM_Q_PROJ, "attn_q" },
    { SAE_LM_K_PROJ, "attn_k" },
    { SAE_LM_V_PROJ, "attn_v" },
    { LMI_Q_NORM, "attn_q_norm" },
    { LMI_K_NORM, "attn_k_norm" },
    { SAE_LM_O_PROJ, "attn_output" },
    { SAE_LM_ATTENTION_POST_NORM, "post_attention_norm" },
    { SAE_LM_MLP_NORM, "ffn_norm" },
    { SAE_LM_GATE_PROJ, "ffn_gate" },
    { SAE_LM_UP_PROJ, "ffn_up" },
    { SAE_LM_DOWN_PROJ, "ffn_down" },
    { LMI_ROUTER, "ffn_gate_inp" },
    { LMI_EXPERT_GATE, "ffn_gate_exps" },
    { LMI_EXPERT_UP, "ffn_up_exps" },
    { LMI_EXPERT_DOWN, "ffn_down_exps" },
    { LMI_EXPERT_GATE_UP, "ffn_gate_up_exps" },
    { SAE_LM_MLP_POST_NORM, "post_ffw_norm" }
};
static const lmi_naming lmi_gguf = { "", "blk.", NULL, LMI_NAMES(lmi_gguf_names) };

/* What a model has. */
enum {
    LMI_RMS = 1 << 0,          /* norms without mean and bias */
    LMI_ONE_PLUS = 1 << 1,     /* their weight is 1 + the tensor */
    LMI_POST_NORMS = 1 << 2,   /* norms behind attention and MLP too */
    LMI_QK_NORM = 1 << 3,      /* each head of q and k has a norm */
    LMI_LEARNED = 1 << 4,      /* positions; else rotary */
    LMI_GATED = 1 << 5,        /* down(act(gate x) up x); else down(act(up x)) */
    LMI_EXPERTS = 1 << 6,
    LMI_EMBED_SCALE = 1 << 7,  /* the embedding times sqrt(d) */
    LMI_QKV_BIAS = 1 << 8, LMI_O_BIAS = 1 << 9, LMI_MLP_BIAS = 1 << 10,
    LMI_FUSED = 1 << 11,       /* one matrix for q, k, v */
    LMI_BY_HEAD = 1 << 12,     /* it is [heads][q,k,v][head_dim]; else all q, all k, all v */
    LMI_IN_OUT = 1 << 13,      /* matrices stand [in,out] in the file */
    LMI_PARALLEL = 1 << 14, LMI_TIED = 1 << 15,
    /* and what its config.json says */
    LMI_BIAS_KEYS = 1 << 16,   /* attention_bias, mlp_bias */
    LMI_CAPS = 1 << 17,        /* attn_logit_softcapping 50, final_logit_softcapping 30 */
    LMI_NO_CAPS = 1 << 18,     /* the same, default none */
    LMI_SCALAR = 1 << 19,      /* query_pre_attn_scalar in place of head_dim */
    LMI_UNSCALED = 1 << 20,    /* scores are not scaled */
    LMI_MLP_4D = 1 << 21,      /* the MLP's default width */
    LMI_TOP_NORM = 1 << 22,    /* norm_topk_prob is always true */
    LMI_USE_WINDOW = 1 << 23,  /* windows count only where use_sliding_window is true */
    LMI_FROM_LAYER = 1 << 24,  /* and from max_window_layers on */
    LMI_LOCAL_ROPE = 1 << 25,  /* layers with a window have rope_local_base_freq */
    LMI_MEANS_TANH = 1 << 26,  /* "gelu" */
    LMI_TEXT_CONFIG = 1 << 27, /* all of it stands in text_config */
    /* and what is otherwise in a .gguf: */
    LMI_PAIRED = 1 << 28,      /* in heads of q and k, what rotary turns together lies together */
    LMI_APART = 1 << 29        /* all q, all k, all v, be it LMI_BY_HEAD for those who look */
};

typedef struct lmi_family {
    const char *type, *title; /* model_type; the names people know */
    const lmi_naming *naming;
    uint32_t has;
    const char *act_keys, *act;
    double eps, theta, rotary_share;
    size_t heads, kv_heads, head_dim, vocab_size; /* 0: required, heads, d / heads, required */
    size_t max_ctx;
    size_t window;       /* keys */
    const char *windows; /* of the layers in turn, over and over: s has a window, f sees all */
    int64_t bos, eos, pad;
} lmi_family;

#define LMI_LLAMA (LMI_RMS | LMI_GATED)
#define LMI_GEMMA (LMI_LLAMA | LMI_ONE_PLUS | LMI_EMBED_SCALE | LMI_TIED | LMI_BIAS_KEYS)
static const lmi_family lmi_families[] = {
    { "gpt_neox", "GPT-NeoX, Pythia", &lmi_neox,
      LMI_QKV_BIAS | LMI_O_BIAS | LMI_MLP_BIAS | LMI_FUSED | LMI_BY_HEAD | LMI_PARALLEL
      | LMI_BIAS_KEYS,
      "hidden_act", "gelu", 1e-5, 1e4, 0.25, 0, 0, 0, 0, 2048, 0, "f", -1, -1, -1 },
    { "gpt2", "GPT-2", &lmi_gpt2,
      LMI_LEARNED | LMI_QKV_BIAS | LMI_O_BIAS | LMI_MLP_BIAS | LMI_FUSED | LMI_IN_OUT | LMI_TIED
      | LMI_MLP_4D,
      "activation_function", "gelu_new", 1e-5, 0, 0, 0, 0, 0, 0, 1024, 0, "f", 50256, 50256,
      -1 },
    { "gpt_neo", "GPT-Neo, TinyStories", &lmi_gpt_neo,
      LMI_LEARNED | LMI_O_BIAS | LMI_MLP_BIAS | LMI_TIED | LMI_MLP_4D | LMI_UNSCALED,
      "activation_function", "gelu_new", 1e-5, 0, 0, 0, 0, 0, 0, 2048, 256, "fs", 50256, 50256,
      -1 },
    { "llama", "Llama", &lmi_llama, LMI_LLAMA | LMI_BIAS_KEYS,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 0, 0, 0, 2048, 0, "f", 1, 2, -1 },
    { "mistral", "Mistral", &lmi_llama, LMI_LLAMA,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 8, 0, 0, 131072, 4096, "s", 1, 2, -1 },
    { "mixtral", "Mixtral", &lmi_mixtral, LMI_LLAMA | LMI_EXPERTS | LMI_TOP_NORM,
      "hidden_act", "silu", 1e-5, 1e6, 1, 0, 8, 0, 0, 131072, 0, "s", 1, 2, -1 },
    { "qwen2", "Qwen2, 2.5", &lmi_llama,
      LMI_LLAMA | LMI_QKV_BIAS | LMI_USE_WINDOW | LMI_FROM_LAYER,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 32, 0, 0, 32768, 4096, "s", -1, -1, -1 },
    { "qwen3", "Qwen3", &lmi_llama,
      LMI_LLAMA | LMI_QK_NORM | LMI_BIAS_KEYS | LMI_USE_WINDOW | LMI_FROM_LAYER,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 32, 128, 0, 32768, 4096, "s", -1, -1, -1 },
    { "qwen3_moe", "Qwen3-MoE", &lmi_llama,
      LMI_LLAMA | LMI_QK_NORM | LMI_BIAS_KEYS | LMI_USE_WINDOW | LMI_EXPERTS,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 4, 0, 0, 32768, 4096, "s", -1, -1, -1 },
    { "gemma", "Gemma", &lmi_llama, LMI_GEMMA | LMI_MEANS_TANH,
      "hidden_activation|hidden_act", "gelu_pytorch_tanh", 1e-6, 1e4, 1, 16, 16, 256, 256000, 8192,
      0, "f", 2, 1, 0 },
    { "gemma2", "Gemma 2", &lmi_gemma2, LMI_GEMMA | LMI_POST_NORMS | LMI_CAPS | LMI_SCALAR,
      "hidden_activation", "gelu_pytorch_tanh", 1e-6, 1e4, 1, 8, 4, 256, 256000, 8192, 4096, "sf",
      2, 1, 0 },
    { "gemma3_text", "Gemma 3", &lmi_gemma2,
      LMI_GEMMA | LMI_POST_NORMS | LMI_QK_NORM | LMI_NO_CAPS | LMI_SCALAR | LMI_LOCAL_ROPE,
      "hidden_activation", "gelu_pytorch_tanh", 1e-6, 1e6, 1, 8, 4, 256, 262208, 131072, 4096,
      "sssssf", 2, 1, 0 },
    { "gemma3", "its text", &lmi_gemma2,
      LMI_GEMMA | LMI_POST_NORMS | LMI_QK_NORM | LMI_NO_CAPS | LMI_SCALAR | LMI_LOCAL_ROPE
      | LMI_TEXT_CONFIG,
      "hidden_activation", "gelu_pytorch_tanh", 1e-6, 1e6, 1, 8, 4, 256, 262208, 131072, 4096,
      "sssssf", 2, 1, 0 }
};
enum { LMI_NUM_FAMILIES = sizeof lmi_families / sizeof lmi_families[0] };

static const lmi_family *lmi_family_find(const char *type) {
    for (size_t i = 0; i < LMI_NUM_FAMILIES; i++)
        if (strcmp(type, lmi_families[i].type) == 0) return &lmi_families[i];
    return NULL;
}

/* "gpt_neox (GPT-NeoX, Pythia), gpt2 (GPT-2), ..." */
static const char *lmi_family_list(char *out, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < LMI_NUM_FAMILIES && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%s (%s)", i ? ", " : "", lmi_families[i].type,
                              lmi_families[i].title);
    return out;
}

static const char *lmi_part_name(const lmi_naming *naming, int part) {
    for (; naming; naming = naming->like)
        for (size_t i = 0; i < naming->count; i++)
            if (naming->names[i].part == part) return naming->names[i].name;
    return NULL;
}

/* ---- the description ---- */

enum { LMI_MAX_LAYERS = 4096 };
enum { LMI_ROPE_PLAIN, LMI_ROPE_LINEAR, LMI_ROPE_LLAMA3 };
typedef struct lmi_rope {
    int kind;
    double base, factor, low, high, original; /* of LLAMA3: low_freq_factor, ... */
    float *divisors; /* [rotary_dims / 2] of the frequencies, from a .gguf; NULL: none */
} lmi_rope;

typedef struct lmi_layer_shape {
    size_t window; /* 0: sees all keys before it */
    float scale;   /* of the scores */
    uint8_t rope;  /* which of the two */
    bool experts;
} lmi_layer_shape;

typedef struct lmi_shape {
    sae_lm_config info;
    uint32_t has; /* the first group of flags */
    const lmi_naming *naming, *tensors; /* of modules, of tensors in the file */
    lmi_act act;
    float attention_cap, logit_cap; /* 0: none */
    size_t dense_dim; /* the MLP's width in layers without experts */
    bool top_norm;    /* weights of the experts taken sum to 1 */
    lmi_rope rope[2];
    lmi_layer_shape *layer; /* [layers] */
} lmi_shape;

/* ==== >>lm: config ======================================================= src/lm/config.h ==== */
/* config.json into a description. Keys are read once for all families, each under all its
   spellings: "a|b" is a, else b. */

/* What reading needs to complain. */
typedef struct lmi_config {
    sae_context *ctx;
    const char *path;
    const sae_json *root, *outer; /* the same, but for models of text and images */
    const lmi_family *family;
    const char *arch; /* of a .gguf: in front of its keys */
} lmi_config;

/* The value of the first of the keys that is there; *name, if given, is that key in `text`. */
static const sae_json *lmi_config_get(const sae_json *object, const char *keys, char text[64]) {
    while (*keys) {
        size_t n = strcspn(keys, "|");
        const sae_json *v;
        snprintf(text, 64, "%.*s", (int)n, keys);
        v = sae_json_get(object, text);
        if (v) return v;
        keys += n + (keys[n] == '|');
    }
    return NULL;
}

static bool lmi_config_none(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

/* A whole number from 1 to most; missing or null: otherwise, and if that is 0 it is required. */
static sae_result lmi_config_size(const lmi_config *c, const char *keys, size_t otherwise,
                                  size_t most, size_t *out) {
    char key[64] = "";
    const sae_json *v = lmi_config_get(c->root, keys, key);
    double number = sae_json_number(v);
    if (lmi_config_none(v)) {
        if (!otherwise)
            return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s: %s is missing",
                                    c->path, keys);
        *out = otherwise;
        return SAE_OK;
    }
    if (sae_json_kind_of(v) != SAE_JSON_NUMBER || !(number >= 1) || number > (double)most
        || number != floor(number))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are whole numbers from 1 to %zu",
                        c->path, key, number, most);
    *out = (size_t)number;
    return SAE_OK;
}

/* A number in a range; *out stays where it is missing or null. */
static sae_result lmi_config_number(const lmi_config *c, const sae_json *object, const char *keys,
                                    double least, double most, double *out) {
    char key[64] = "";
    const sae_json *v = lmi_config_get(object, keys, key);
    if (lmi_config_none(v)) return SAE_OK;
    if (sae_json_kind_of(v) != SAE_JSON_NUMBER || !(sae_json_number(v) >= least)
        || sae_json_number(v) > most)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are numbers from %g to %g",
                        c->path, key, sae_json_number(v), least, most);
    *out = sae_json_number(v);
    return SAE_OK;
}

static bool lmi_config_bool(const sae_json *object, const char *key, bool otherwise) {
    const sae_json *v = sae_json_get(object, key);
    return sae_json_kind_of(v) == SAE_JSON_BOOL ? sae_json_number(v) != 0 : otherwise;
}

static void lmi_config_flag(const lmi_config *c, const char *key, uint32_t flag, uint32_t *has) {
    bool on = lmi_config_bool(c->root, key, (*has & flag) != 0);
    *has = on ? *has | flag : *has & ~flag;
}

/* Of a list (eos_token_id may be one) the first. */
static int64_t lmi_config_token(const lmi_config *c, const char *key, int64_t otherwise) {
    const sae_json *v = sae_json_get(c->root, key);
    if (!v) v = sae_json_get(c->outer, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY) v = sae_json_first(v);
    if (sae_json_kind_of(v) == SAE_JSON_NUMBER && sae_json_number(v) >= 0
        && sae_json_number(v) < 2147483648.0)
        return (int64_t)sae_json_number(v);
    return v ? -1 : otherwise;
}

static sae_result lmi_config_act(const lmi_config *c, lmi_shape *s) {
    char known[256], key[64] = "";
    const sae_json *v = lmi_config_get(c->root, c->family->act_keys, key);
    const char *name = c->family->act;
    size_t n = 0;
    if (lmi_config_none(v)) { /* a null in front of another spelling */
        const char *other = strchr(c->family->act_keys, '|');
        if (other) v = lmi_config_get(c->root, other + 1, key);
    }
    if (!lmi_config_none(v)) name = sae_json_text(v);
    for (size_t i = 0; i < LMI_NUM_ACTS; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              lmi_acts[i].name);
        if (!name || strcmp(name, lmi_acts[i].name) != 0) continue;
        s->act = lmi_acts[i].act;
        if (c->family->has & LMI_MEANS_TANH && s->act == LMI_GELU) s->act = LMI_GELU_TANH;
        snprintf(s->info.activation, sizeof s->info.activation, "%s", name);
        return SAE_OK;
    }
    return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                    "sae_lm_open: %s: %s is %s, supported are %s", c->path, key,
                    name ? name : "no text", known);
}

/* What stands in rope_scaling, or in rope_parameters or one of the objects in there. */
static sae_result lmi_config_scaling(const lmi_config *c, const sae_json *v, lmi_rope *rope,
                                     double *share) {
    static const char *const keys[] = { "factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings" };
    char key[64];
    const char *type = sae_json_text(lmi_config_get(v, "rope_type|type", key));
    double *const to[] = { &rope->factor, &rope->low, &rope->high, &rope->original };
    size_t needed = 0;
    LMI_TRY(lmi_config_number(c, v, "rope_theta", 1, 1e12, &rope->base));
    LMI_TRY(lmi_config_number(c, v, "partial_rotary_factor", 0, 1, share));
    if (!type || strcmp(type, "default") == 0) return SAE_OK;
    if (strcmp(type, "linear") == 0) rope->kind = LMI_ROPE_LINEAR, needed = 1;
    else if (strcmp(type, "llama3") == 0) rope->kind = LMI_ROPE_LLAMA3, needed = 4;
    else
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: rope_type is %s, supported are default, linear, llama3",
                        c->path, type);
    for (size_t i = 0; i < needed; i++) {
        *to[i] = 0;
        LMI_TRY(lmi_config_number(c, v, keys[i], 1e-6, 1e9, to[i]));
        if (!(*to[i] > 0))
            return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                            "sae_lm_open: %s: %s is missing, which rope_type %s needs", c->path,
                            keys[i], type);
    }
    if (rope->kind == LMI_ROPE_LLAMA3 && !(rope->high > rope->low))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: high_freq_factor is %g, allowed is more than "
                        "low_freq_factor, %g", c->path, rope->high, rope->low);
    return SAE_OK;
}

/* Old files: rotary_pct, rotary_emb_base or rope_theta, rope_scaling. New ones: rope_parameters, of
   Gemma 3 one object for each kind of layer. */
static sae_result lmi_config_rotary(const lmi_config *c, lmi_shape *s) {
    const sae_json *v = sae_json_get(c->root, "rope_parameters");
    const sae_json *full = sae_json_get(v, "full_attention");
    const sae_json *local = sae_json_get(v, "sliding_attention");
    sae_lm_config *info = &s->info;
    double share = c->family->rotary_share, ignored = 1;
    s->rope[0].base = c->family->theta;
    s->rope[1].base = 1e4;
    if (s->has & LMI_LEARNED) return SAE_OK;
    LMI_TRY(lmi_config_number(c, c->root, "rotary_pct", 0, 1, &share));
    LMI_TRY(lmi_config_number(c, c->root, "rope_theta|rotary_emb_base", 1, 1e12,
                              &s->rope[0].base));
    LMI_TRY(lmi_config_number(c, c->root, "rope_local_base_freq", 1, 1e12, &s->rope[1].base));
    if (sae_json_kind_of(v) != SAE_JSON_OBJECT) v = sae_json_get(c->root, "rope_scaling");
    LMI_TRY(lmi_config_scaling(c, full || local ? full : v, &s->rope[0], &share));
    if (s->has & LMI_LOCAL_ROPE) LMI_TRY(lmi_config_scaling(c, local, &s->rope[1], &ignored));
    info->rotary_base = s->rope[0].base;
    info->rotary_dims = (size_t)floor((double)info->head_dim * share);
    if (info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: all %zu dimensions of a head turn, supported is an "
                        "even number", c->path, info->head_dim);
    return SAE_OK;
}

/* Which layers have a window, s, and which none, f: layer_types, or GPT-Neo's attention_layers or
   attention_types, [[["global", "local"], 12], ...]. */
static sae_result lmi_config_kind(const lmi_config *c, const sae_json *v, size_t *layer,
                                  char *kinds, size_t layers) {
    const char *kind = sae_json_text(v);
    bool window = kind && (!strcmp(kind, "sliding_attention") || !strcmp(kind, "local"));
    if (!window && (!kind || (strcmp(kind, "full_attention") && strcmp(kind, "global"))))
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: layer %zu is %s, supported are full_attention and "
                        "sliding_attention", c->path, *layer, kind ? kind : "no text");
    if (*layer < layers) kinds[*layer] = window ? 's' : 'f';
    ++*layer;
    return SAE_OK;
}

static sae_result lmi_config_kinds(const lmi_config *c, char *kinds, size_t layers) {
    char key[64] = "";
    const char *pattern = c->family->windows;
    const sae_json *list = lmi_config_get(c->root, "layer_types|attention_layers", key);
    size_t every = strlen(pattern), count = 0;
    if (every > 2) /* of Gemma 3: the last of so many is full */
        LMI_TRY(lmi_config_size(c, "sliding_window_pattern|_sliding_window_pattern", every, 1 << 20,
                                &every));
    for (size_t i = 0; i < layers; i++)
        kinds[i] = strlen(pattern) > 2 ? (i + 1) % every ? 's' : 'f' : pattern[i % every];
    if (sae_json_kind_of(list) == SAE_JSON_ARRAY) {
        for (const sae_json *v = sae_json_first(list); v; v = sae_json_next(v))
            LMI_TRY(lmi_config_kind(c, v, &count, kinds, layers));
    } else {
        list = lmi_config_get(c->root, "attention_types", key);
        if (sae_json_kind_of(list) != SAE_JSON_ARRAY) return SAE_OK;
        for (const sae_json *v = sae_json_first(list); v; v = sae_json_next(v)) {
            const sae_json *run = sae_json_first(v);
            double times = sae_json_first(run) ? sae_json_number(sae_json_next(run)) : 0;
            for (double i = 0; i < times && count <= layers; i++)
                for (const sae_json *k = sae_json_first(run); k; k = sae_json_next(k))
                    LMI_TRY(lmi_config_kind(c, k, &count, kinds, layers));
        }
    }
    if (count != layers)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s names %zu layers, there are %zu", c->path, key, count,
                        layers);
    return SAE_OK;
}

/* Windows, scales and experts of each layer. */
static sae_result lmi_config_layers(const lmi_config *c, lmi_shape *s) {
    const sae_json *v, *dense = sae_json_get(c->root, "mlp_only_layers");
    char key[64], kinds[LMI_MAX_LAYERS];
    size_t window = c->family->window, from = 0, step = 1, layers = s->info.layers;
    double scalar = (double)s->info.head_dim, scale;
    bool by_layer = lmi_config_bool(c->root, "scale_attn_by_inverse_layer_idx", false);
    s->layer = (lmi_layer_shape *)calloc(layers, sizeof *s->layer);
    if (!s->layer) return sae_context_fail(c->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    if (c->family->has & LMI_SCALAR) {
        scalar = 256;
        LMI_TRY(lmi_config_number(c, c->root, "query_pre_attn_scalar", 1e-6, 1e9, &scalar));
    }
    scale = 1 / sqrt(scalar);
    if (c->family->has & LMI_UNSCALED || !lmi_config_bool(c->root, "scale_attn_weights", true))
        scale = 1;
    v = lmi_config_get(c->root, "sliding_window|window_size", key);
    if (v && lmi_config_none(v)) window = 0;
    else if (strcmp(c->family->windows, "f") != 0 && v)
        LMI_TRY(lmi_config_size(c, "sliding_window|window_size", 0, INT32_MAX, &window));
    if (c->family->has & LMI_USE_WINDOW && !lmi_config_bool(c->root, "use_sliding_window", false))
        window = 0;
    if (c->family->has & LMI_FROM_LAYER && !sae_json_get(c->root, "layer_types")) {
        double first = 28;
        LMI_TRY(lmi_config_number(c, c->root, "max_window_layers", 0, INT32_MAX, &first));
        from = (size_t)first;
    }
    if (strcmp(c->family->windows, "f") == 0) memset(kinds, 'f', layers);
    else LMI_TRY(lmi_config_kinds(c, kinds, layers));
    if (s->has & LMI_EXPERTS)
        LMI_TRY(lmi_config_size(c, "decoder_sparse_step", 1, 1 << 20, &step));
    for (size_t i = 0; i < layers; i++) {
        bool local = kinds[i] == 's' && i >= from;
        s->layer[i].window = local ? window : 0;
        s->layer[i].rope = local && s->has & LMI_LOCAL_ROPE;
        s->layer[i].scale = (float)(by_layer ? scale / (double)(i + 1) : scale);
        s->layer[i].experts = s->has & LMI_EXPERTS && (i + 1) % step == 0;
        if (s->layer[i].window) s->info.window = window;
        for (v = sae_json_first(dense); v && s->layer[i].experts; v = sae_json_next(v))
            s->layer[i].experts = sae_json_number(v) != (double)i;
    }
    return SAE_OK;
}

static sae_result lmi_config_sizes(const lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    const lmi_family *f = c->family;
    size_t dim, wide;
    LMI_TRY(lmi_config_size(c, "num_hidden_layers|n_layer|num_layers", 0, LMI_MAX_LAYERS,
                            &info->layers));
    LMI_TRY(lmi_config_size(c, "hidden_size|n_embd", 0, 1 << 20, &info->dim));
    LMI_TRY(lmi_config_size(c, "num_attention_heads|n_head|num_heads", f->heads, 1 << 16,
                            &info->heads));
    LMI_TRY(lmi_config_size(c, "vocab_size", f->vocab_size, INT32_MAX, &info->vocab_size));
    LMI_TRY(lmi_config_size(c, "max_position_embeddings|n_positions", f->max_ctx, INT32_MAX,
                            &info->max_ctx));
    LMI_TRY(lmi_config_size(c, "intermediate_size|n_inner",
                            f->has & LMI_MLP_4D ? 4 * info->dim : 0, 1 << 22, &info->mlp_dim));
    s->dense_dim = info->mlp_dim;
    info->kv_heads = info->heads;
    if (sae_json_kind_of(sae_json_get(c->root, "num_key_value_heads")) != SAE_JSON_NULL)
        LMI_TRY(lmi_config_size(c, "num_key_value_heads", f->kv_heads ? f->kv_heads : info->heads,
                                1 << 16, &info->kv_heads));
    if (info->heads % info->kv_heads)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: num_key_value_heads is %zu, allowed are divisors of "
                        "num_attention_heads, %zu", c->path, info->kv_heads, info->heads);
    dim = sae_json_kind_of(sae_json_get(c->root, "head_dim")) == SAE_JSON_NULL ? 0 : f->head_dim;
    if (!dim) dim = info->dim / info->heads;
    if (!dim || (info->dim % info->heads && !f->head_dim
                 && lmi_config_none(sae_json_get(c->root, "head_dim"))))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: hidden_size is %zu, without head_dim allowed are "
                        "multiples of num_attention_heads, %zu", c->path, info->dim, info->heads);
    LMI_TRY(lmi_config_size(c, "head_dim", dim, 1 << 12, &info->head_dim));
    if (!(s->has & LMI_EXPERTS)) return SAE_OK;
    LMI_TRY(lmi_config_size(c, "num_local_experts|num_experts", 0, 1 << 12, &info->experts));
    LMI_TRY(lmi_config_size(c, "num_experts_per_tok", 0, info->experts, &info->experts_per_token));
    wide = info->mlp_dim;
    LMI_TRY(lmi_config_size(c, "moe_intermediate_size", wide, 1 << 22, &info->mlp_dim));
    s->top_norm = f->has & LMI_TOP_NORM || lmi_config_bool(c->root, "norm_topk_prob", false);
    return SAE_OK;
}

/* Things that would change the numbers and are not known here. */
static sae_result lmi_config_refuse(const lmi_config *c) {
    static const char *const keys[] = { "add_cross_attention", "use_bidirectional_attention" };
    const sae_json *q = sae_json_get(c->outer, "quantization_config");
    if (lmi_config_none(q)) q = sae_json_get(c->root, "quantization_config");
    if (!lmi_config_none(q)) {
        const char *by = sae_json_text(sae_json_get(q, "quant_method"));
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: the weights are quantised (quantization_config%s%s), "
                        "supported are F32, F16, BF16, F64", c->path, by ? ": " : "",
                        by ? by : "");
    }
    for (size_t i = 0; i < 2; i++)
        if (lmi_config_bool(c->root, keys[i], false))
            return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                            "sae_lm_open: %s: %s is true, supported is false", c->path, keys[i]);
    return SAE_OK;
}

static sae_result lmi_config_family(lmi_config *c, lmi_shape *s) {
    const char *type = sae_json_text(sae_json_get(c->root, "model_type"));
    char list[600];
    c->outer = c->root;
    if (sae_json_kind_of(c->root) != SAE_JSON_OBJECT)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s is no JSON object",
                                c->path);
    c->family = type ? lmi_family_find(type) : NULL;
    if (!c->family)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: model_type is %s, supported are %s", c->path,
                        type ? type : "missing", lmi_family_list(list, sizeof list));
    if (c->family->has & LMI_TEXT_CONFIG
        && sae_json_kind_of(sae_json_get(c->root, "text_config")) == SAE_JSON_OBJECT)
        c->root = sae_json_get(c->root, "text_config");
    s->has = c->family->has;
    s->naming = s->tensors = c->family->naming;
    snprintf(s->info.family, sizeof s->info.family, "%s", type);
    return SAE_OK;
}

/* s is all zero; s->layer is the caller's to free, whatever comes. */
static sae_result lmi_config_read(lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    double cap[2] = { 0, 0 };
    LMI_TRY(lmi_config_family(c, s));
    LMI_TRY(lmi_config_refuse(c));
    LMI_TRY(lmi_config_sizes(c, s));
    info->norm_eps = c->family->eps;
    LMI_TRY(lmi_config_number(c, c->root, "rms_norm_eps|layer_norm_eps|layer_norm_epsilon", 0, 1,
                              &info->norm_eps));
    if (s->has & LMI_BIAS_KEYS) {
        lmi_config_flag(c, "attention_bias", LMI_QKV_BIAS, &s->has);
        lmi_config_flag(c, "attention_bias", LMI_O_BIAS, &s->has);
        lmi_config_flag(c, "mlp_bias", LMI_MLP_BIAS, &s->has);
    }
    lmi_config_flag(c, "use_parallel_residual", LMI_PARALLEL, &s->has);
    if (c->root != c->outer && !sae_json_get(c->root, "tie_word_embeddings"))
        info->tied = lmi_config_bool(c->outer, "tie_word_embeddings", (s->has & LMI_TIED) != 0);
    else info->tied = lmi_config_bool(c->root, "tie_word_embeddings", (s->has & LMI_TIED) != 0);
    if (s->has & (LMI_CAPS | LMI_NO_CAPS)) {
        static const char *const keys[] = { "attn_logit_softcapping", "final_logit_softcapping" };
        for (size_t i = 0; i < 2; i++) {
            bool given = sae_json_get(c->root, keys[i]) != NULL;
            if (s->has & LMI_CAPS && !given) cap[i] = i ? 30 : 50;
            LMI_TRY(lmi_config_number(c, c->root, keys[i], 1e-6, 1e9, &cap[i]));
        }
    }
    s->attention_cap = (float)cap[0];
    s->logit_cap = (float)cap[1];
    info->rms_norm = (s->has & LMI_RMS) != 0;
    info->fixed_ctx = (s->has & LMI_LEARNED) != 0;
    info->parallel_residual = (s->has & LMI_PARALLEL) != 0;
    info->bos_token = lmi_config_token(c, "bos_token_id", c->family->bos);
    info->eos_token = lmi_config_token(c, "eos_token_id", c->family->eos);
    info->pad_token = lmi_config_token(c, "pad_token_id", c->family->pad);
    LMI_TRY(lmi_config_act(c, s));
    LMI_TRY(lmi_config_rotary(c, s));
    return lmi_config_layers(c, s);
}

/* ==== >>lm: weights: files ================================================ src/lm/files.h ==== */

typedef struct lmi_mlp {
    sae_linear *gate, *up, *down; /* gate NULL: none */
} lmi_mlp;

typedef struct lmi_norm {
    float *weight, *bias; /* [n]; bias NULL: RMSNorm. weight NULL: no norm here */
} lmi_norm;

typedef struct lmi_layer {
    lmi_norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, q_norm, k_norm;
    sae_linear *qkv;         /* NULL: q, k, v */
    sae_linear *q, *k, *v, *o;
    lmi_mlp *mlp;            /* [1], or the experts */
    sae_linear *router;      /* NULL: one MLP */
} lmi_layer;

enum { LMI_MAX_SHARDS = 1024 };

struct sae_lm {
    sae_context *ctx;
    const lmi_kernels *kernels;
    lmi_shape shape;
    char *folder;
    sae_tensor_file *file[LMI_MAX_SHARDS];
    char *file_name[LMI_MAX_SHARDS];
    size_t num_files;
    char prefix[64];            /* in front of the tensors' names, in place of the naming's base */
    const sae_tensor *embed;    /* read row by row from the file */
    const sae_tensor *position; /* likewise; NULL: rotary */
    lmi_layer *layer;
    lmi_norm norm;
    float *ones;                /* [2 d]: d ones, d zeros: a norm without weights */
    sae_linear *unembed;
    float *memory;              /* of a forward pass */
    size_t memory_floats;
    float *angles[2];           /* [angle_rows][cosines, sines][pairs] of each rotary kind */
    size_t angle_rows;
};

static sae_result lmi_no_memory(const sae_lm *m) {
    return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory for %s",
                            m->folder);
}

/* Opens folder/name, once. why: the tensor that is said to be in there, or NULL. */
static sae_result lmi_file_open(sae_lm *m, const char *name, const char *why) {
    char *path;
    sae_result result;
    for (size_t i = 0; i < m->num_files; i++)
        if (strcmp(m->file_name[i], name) == 0) return SAE_OK;
    if (strchr(name, '/') || strchr(name, '\\') || !name[0])
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: model.safetensors.index.json names "
                                "the file %s, allowed are names in the folder",
                                name);
    if (m->num_files == LMI_MAX_SHARDS)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s has more than %d shards", m->folder,
                                (int)LMI_MAX_SHARDS);
    path = lmi_join(m->folder, name);
    m->file_name[m->num_files] = (char *)malloc(strlen(name) + 1);
    if (!path || !m->file_name[m->num_files]) {
        free(path);
        free(m->file_name[m->num_files]);
        return lmi_no_memory(m);
    }
    strcpy(m->file_name[m->num_files], name);
    if (why && !lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: the shard %s is missing; "
                                  "model.safetensors.index.json has %s in it",
                                  path, why);
    else result = sae_tensor_file_open(m->ctx, path, &m->file[m->num_files]);
    free(path);
    if (result == SAE_OK) m->num_files++;
    else free(m->file_name[m->num_files]);
    return result;
}

static sae_result lmi_shards_open(sae_lm *m, const char *path) {
    sae_json *root;
    const sae_json *map, *entry;
    sae_result result = SAE_OK;
    LMI_TRY(sae_json_open(m->ctx, path, &root));
    map = sae_json_get(root, "weight_map");
    if (sae_json_kind_of(map) != SAE_JSON_OBJECT)
        result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                  "sae_lm_open: %s: weight_map is missing", path);
    for (entry = sae_json_first(map); entry && result == SAE_OK; entry = sae_json_next(entry)) {
        const char *name = sae_json_text(entry);
        if (!name)
            result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                      "sae_lm_open: %s: the file of %s is no text", path,
                                      sae_json_key(entry));
        else result = lmi_file_open(m, name, sae_json_key(entry));
    }
    sae_json_close(root);
    return result;
}

/* One file, else shards, else what PyTorch wrote before there was the other. */
static sae_result lmi_files_open(sae_lm *m) {
    static const char *const single[] = { "model.safetensors", "pytorch_model.bin" };
    char *path;
    bool there;
    for (size_t i = 0; i < 2; i++) {
        sae_result result;
        path = lmi_join(m->folder, single[i]);
        if (!path) return lmi_no_memory(m);
        there = lmi_is_file(path);
        free(path);
        if (there) return lmi_file_open(m, single[i], NULL);
        if (i) break;
        path = lmi_join(m->folder, "model.safetensors.index.json");
        if (!path) return lmi_no_memory(m);
        there = lmi_is_file(path);
        result = there ? lmi_shards_open(m, path) : SAE_OK;
        free(path);
        if (there) return result;
    }
    return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                            "sae_lm_open: %s holds no model.safetensors and no "
                            "model.safetensors.index.json",
                            m->folder);
}

/* ==== >>lm: weights: tensors ============================================ src/lm/weights.h ==== */

enum { LMI_NAME_SIZE = 160 };

static const sae_tensor *lmi_tensor(const sae_lm *m, const char *name) {
    const sae_tensor *t = NULL;
    for (size_t i = 0; i < m->num_files && !t; i++) t = sae_tensor_file_find(m->file[i], name);
    return t;
}

/* The tensor's name: prefix, layer, part, ending (".weight"). layer and expert are of parts that
   are not the whole model's. */
static const char *lmi_tensor_name(const sae_lm *m, int part, size_t layer, size_t expert,
                                   const char *ending, char out[LMI_NAME_SIZE]) {
    const lmi_naming *naming = m->shape.tensors;
    const char *name = lmi_part_name(naming, part), *mark = name ? strchr(name, '#') : NULL;
    bool whole = part == SAE_LM_EMBED || part == SAE_LM_FINAL_NORM || part == LMI_POSITIONS
                 || part == LMI_UNEMBED;
    size_t n = 0;
    if (part != LMI_UNEMBED)
        n = (size_t)snprintf(out, LMI_NAME_SIZE, "%s", m->prefix);
    if (!whole)
        n += (size_t)snprintf(out + n, LMI_NAME_SIZE - n, "%s%zu.", naming->layers, layer);
    if (mark)
        snprintf(out + n, LMI_NAME_SIZE - n, "%.*s%zu%s%s", (int)(mark - name), name, expert,
                 mark + 1, ending);
    else snprintf(out + n, LMI_NAME_SIZE - n, "%s%s", name ? name : "?", ending);
    return out;
}

static bool lmi_is_gguf(const sae_lm *m) { return m->shape.tensors == &lmi_gguf; }

/* Matrices are of plain floats, in a .gguf of blocks too. */
static sae_result lmi_check_type(const sae_lm *m, const sae_tensor *t, const char *name) {
    char known[160] = "F32, F16, BF16, F64";
    size_t n = strlen(known);
    if (t->dtype <= SAE_F64 || sae_dtype_block(t->dtype) > 1) return SAE_OK;
    for (int i = SAE_BOOL + 1; lmi_is_gguf(m) && sae_dtype_block((sae_dtype)i) > 1; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, ", %s", sae_dtype_name((sae_dtype)i));
    return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                            "sae_lm_open: %s: %s is %s, supported are %s", m->folder, name,
                            sae_dtype_name(t->dtype), known);
}

/* Checks that t, called name, is [rows,columns], or [columns] where rows is 0. */
static sae_result lmi_check(const sae_lm *m, const sae_tensor *t, const char *name, size_t rows,
                            size_t columns) {
    char shape[21 * SAE_MAX_DIMS + 1] = "";
    size_t n = 0, dims = rows ? 2 : 1;
    if (!t)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s has no tensor %s",
                                m->folder, name);
    for (size_t i = 0; i < t->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? "," : "",
                              (unsigned long long)t->shape[i]);
    if (t->ndim != dims || t->shape[dims - 1] != columns || (rows && t->shape[0] != rows)) {
        char want[96];
        if (t->ndim == 3) snprintf(want, sizeof want, "%zu,%zu,%zu", m->shape.info.experts, rows,
                                   columns);
        else if (rows) snprintf(want, sizeof want, "%zu,%zu", rows, columns);
        else snprintf(want, sizeof want, "%zu", columns);
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: %s: %s is [%s], by %s it is [%s]", m->folder, name,
                                shape, lmi_is_gguf(m) ? "its metadata" : "config.json", want);
    }
    return lmi_check_type(m, t, name);
}

/* A vector's numbers in fresh memory (free). */
static sae_result lmi_read_vector(const sae_lm *m, const char *name, size_t n, float **out) {
    const sae_tensor *t = lmi_tensor(m, name);
    float *data;
    LMI_TRY(lmi_check(m, t, name, 0, n));
    data = n <= SIZE_MAX / sizeof *data ? (float *)malloc(n * sizeof *data) : NULL;
    if (!data) return lmi_no_memory(m);
    sae_tensor_to_f32(t, data);
    *out = data;
    return SAE_OK;
}

/* Where row `index` of the first dimension begins; NULL: the type is known by name alone. */
static const void *lmi_row_of(const sae_tensor *t, uint64_t index) {
    const size_t blocks = (size_t)t->stride[0] / sae_dtype_block(t->dtype);
    if (!t->data) return NULL;
    return (const char *)t->data + (size_t)index * blocks * sae_dtype_size(t->dtype);
}

/* The matrix of a part; where one tensor holds all experts', *view is that of one. NULL: there is
   none. */
static const sae_tensor *lmi_matrix(const sae_lm *m, int part, size_t layer, size_t expert,
                                    char name[LMI_NAME_SIZE], sae_tensor *view) {
    const sae_tensor *t = lmi_tensor(m, lmi_tensor_name(m, part, layer, expert, ".weight", name));
    const sae_tensor *both = NULL;
    if (!t && (part == LMI_EXPERT_GATE || part == LMI_EXPERT_UP)) {
        char other[LMI_NAME_SIZE];
        both = lmi_tensor(m, lmi_tensor_name(m, LMI_EXPERT_GATE_UP, layer, 0, ".weight", other));
        if (both) strcpy(name, other);
    }
    if (both) t = both;
    if (!t || t->ndim != 3 || t->shape[0] != m->shape.info.experts) return t;
    *view = *t;
    view->ndim = 2;
    for (size_t i = 0; i < 2; i++) {
        view->shape[i] = t->shape[i + 1];
        view->stride[i] = t->stride[i + 1];
    }
    view->data = lmi_row_of(t, expert);
    if (both && view->shape[0] % 2 == 0) {
        view->shape[0] /= 2;
        if (part == LMI_EXPERT_UP) view->data = lmi_row_of(view, view->shape[0]);
    }
    return view;
}

/* y = x W^T + bias of the part: `weight` [outputs,inputs], which stays in the file, and, if biased,
   `bias`. */
static sae_result lmi_read_linear(const sae_lm *m, int part, size_t layer, size_t expert,
                                  bool biased, size_t inputs, size_t outputs, sae_linear **out) {
    char name[LMI_NAME_SIZE];
    const sae_tensor *t;
    sae_tensor view;
    float *bias = NULL;
    bool in_out = (m->shape.has & LMI_IN_OUT) != 0;
    sae_result result;
    t = lmi_matrix(m, part, layer, expert, name, &view);
    LMI_TRY(lmi_check(m, t, name, in_out ? inputs : outputs, in_out ? outputs : inputs));
    if (biased)
        LMI_TRY(lmi_read_vector(m, lmi_tensor_name(m, part, layer, expert, ".bias", name), outputs,
                                &bias));
    result = sae_linear_create_tensor(m->ctx, t, bias, in_out, out);
    free(bias);
    return result;
}

static sae_result lmi_read_norm(const sae_lm *m, int part, size_t layer, size_t n, lmi_norm *out) {
    char name[LMI_NAME_SIZE];
    lmi_tensor_name(m, part, layer, 0, ".weight", name);
    LMI_TRY(lmi_read_vector(m, name, n, &out->weight));
    for (size_t i = 0; i < n && m->shape.has & LMI_ONE_PLUS; i++) out->weight[i] += 1;
    if (m->shape.has & LMI_RMS) return SAE_OK;
    return lmi_read_vector(m, lmi_tensor_name(m, part, layer, 0, ".bias", name), n, &out->bias);
}

/* ---- a layer ---- */

static sae_result lmi_read_attention(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    const sae_lm_config *info = &m->shape.info;
    size_t d = info->dim, wide = info->heads * info->head_dim;
    size_t narrow = info->kv_heads * info->head_dim;
    bool biased = (m->shape.has & LMI_QKV_BIAS) != 0;
    if (m->shape.has & LMI_FUSED)
        LMI_TRY(lmi_read_linear(m, SAE_LM_QKV_PROJ, i, 0, biased, d, wide + 2 * narrow, &l->qkv));
    else {
        LMI_TRY(lmi_read_linear(m, SAE_LM_Q_PROJ, i, 0, biased, d, wide, &l->q));
        LMI_TRY(lmi_read_linear(m, SAE_LM_K_PROJ, i, 0, biased, d, narrow, &l->k));
        LMI_TRY(lmi_read_linear(m, SAE_LM_V_PROJ, i, 0, biased, d, narrow, &l->v));
    }
    if (m->shape.has & LMI_QK_NORM) {
        LMI_TRY(lmi_read_norm(m, LMI_Q_NORM, i, info->head_dim, &l->q_norm));
        LMI_TRY(lmi_read_norm(m, LMI_K_NORM, i, info->head_dim, &l->k_norm));
    }
    return lmi_read_linear(m, SAE_LM_O_PROJ, i, 0, (m->shape.has & LMI_O_BIAS) != 0, wide, d,
                           &l->o);
}

static sae_result lmi_read_mlp(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    bool experts = m->shape.layer[i].experts, biased = (m->shape.has & LMI_MLP_BIAS) != 0;
    size_t d = m->shape.info.dim, count = experts ? m->shape.info.experts : 1;
    size_t wide = experts ? m->shape.info.mlp_dim : m->shape.dense_dim;
    int gate = SAE_LM_GATE_PROJ, up = SAE_LM_UP_PROJ, down = SAE_LM_DOWN_PROJ;
    l->mlp = (lmi_mlp *)calloc(count, sizeof *l->mlp);
    if (!l->mlp) return lmi_no_memory(m);
    if (experts) LMI_TRY(lmi_read_linear(m, LMI_ROUTER, i, 0, false, d, count, &l->router));
    if (experts) gate = LMI_EXPERT_GATE, up = LMI_EXPERT_UP, down = LMI_EXPERT_DOWN;
    for (size_t e = 0; e < count; e++) {
        lmi_mlp *p = &l->mlp[e];
        if (m->shape.has & LMI_GATED)
            LMI_TRY(lmi_read_linear(m, gate, i, e, biased, d, wide, &p->gate));
        LMI_TRY(lmi_read_linear(m, up, i, e, biased, d, wide, &p->up));
        LMI_TRY(lmi_read_linear(m, down, i, e, biased, wide, d, &p->down));
    }
    return SAE_OK;
}

static sae_result lmi_read_layer(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    size_t d = m->shape.info.dim;
    LMI_TRY(lmi_read_norm(m, SAE_LM_ATTENTION_NORM, i, d, &l->attention_norm));
    LMI_TRY(lmi_read_attention(m, i));
    LMI_TRY(lmi_read_norm(m, SAE_LM_MLP_NORM, i, d, &l->mlp_norm));
    LMI_TRY(lmi_read_mlp(m, i));
    if (!(m->shape.has & LMI_POST_NORMS)) return SAE_OK;
    LMI_TRY(lmi_read_norm(m, SAE_LM_ATTENTION_POST_NORM, i, d, &l->attention_post_norm));
    return lmi_read_norm(m, SAE_LM_MLP_POST_NORM, i, d, &l->mlp_post_norm);
}

static void lmi_free_layer(lmi_layer *l, size_t mlps) {
    lmi_norm *const norm[] = { &l->attention_norm, &l->attention_post_norm, &l->mlp_norm,
                               &l->mlp_post_norm, &l->q_norm, &l->k_norm };
    sae_linear *const linear[] = { l->qkv, l->q, l->k, l->v, l->o, l->router };
    for (size_t i = 0; i < 6; i++) {
        free(norm[i]->weight);
        free(norm[i]->bias);
        sae_linear_destroy(linear[i]);
    }
    for (size_t e = 0; l->mlp && e < mlps; e++) {
        sae_linear_destroy(l->mlp[e].gate);
        sae_linear_destroy(l->mlp[e].up);
        sae_linear_destroy(l->mlp[e].down);
    }
    free(l->mlp);
}

/* ---- the whole ---- */

/* What stands in front of the names: the base, nothing (a bare model was saved), or, of a model of
   text and images, one of two more. */
static void lmi_find_prefix(sae_lm *m) {
    static const char *const forms[] = { "%s", "", "language_model.%s", "%slanguage_model." };
    const char *base = m->shape.tensors->base, *end;
    char name[LMI_NAME_SIZE];
    for (size_t i = 0; i < 4; i++) {
        end = strstr(forms[i], "%s");
        if (end) snprintf(m->prefix, sizeof m->prefix, "%.*s%s%s", (int)(end - forms[i]), forms[i],
                          base, end + 2);
        else m->prefix[0] = 0;
        if (lmi_tensor(m, lmi_tensor_name(m, SAE_LM_EMBED, 0, 0, ".weight", name))) return;
    }
    snprintf(m->prefix, sizeof m->prefix, "%s", base);
}

/* The unembedding: the embedding where they are tied, whatever else the file holds; else under its
   own name or another program's. */
static sae_result lmi_read_unembed(sae_lm *m) {
    static const char *const others[] = { "lm_head.weight", "language_model.lm_head.weight" };
    const sae_lm_config *info = &m->shape.info;
    char name[LMI_NAME_SIZE];
    const sae_tensor *t;
    lmi_tensor_name(m, LMI_UNEMBED, 0, 0, ".weight", name);
    t = info->tied ? m->embed : lmi_tensor(m, name);
    for (size_t i = 0; i < 2 && !t; i++) t = lmi_tensor(m, others[i]);
    LMI_TRY(lmi_check(m, t, name, info->vocab_size, info->dim));
    return sae_linear_create_tensor(m->ctx, t, NULL, false, &m->unembed);
}

static sae_result lmi_read_weights(sae_lm *m) {
    sae_lm_config *info = &m->shape.info;
    char name[LMI_NAME_SIZE];
    lmi_find_prefix(m);
    lmi_tensor_name(m, SAE_LM_EMBED, 0, 0, ".weight", name);
    m->embed = lmi_tensor(m, name);
    LMI_TRY(lmi_check(m, m->embed, name, info->vocab_size, info->dim));
    info->dtype = m->embed->dtype;
    if (m->shape.has & LMI_LEARNED) {
        lmi_tensor_name(m, LMI_POSITIONS, 0, 0, ".weight", name);
        m->position = lmi_tensor(m, name);
        LMI_TRY(lmi_check(m, m->position, name, info->max_ctx, info->dim));
    }
    m->layer = (lmi_layer *)calloc(info->layers, sizeof *m->layer);
    m->ones = (float *)calloc(2 * info->dim, sizeof *m->ones);
    if (!m->layer || !m->ones) return lmi_no_memory(m);
    for (size_t i = 0; i < info->dim; i++) m->ones[i] = 1;
    for (size_t i = 0; i < info->layers; i++) LMI_TRY(lmi_read_layer(m, i));
    LMI_TRY(lmi_read_norm(m, SAE_LM_FINAL_NORM, 0, info->dim, &m->norm));
    return lmi_read_unembed(m);
}

/* ==== >>lm: gguf: model ==================================================== src/lm/gguf.h ==== */
/* A .gguf as llama.cpp's converter writes it, into the same description. The converter has added
   the 1 to Gemma's norms, laid GPT-2's matrices [out,in] and GPT-NeoX' q, k and v apart, and, where
   llama.cpp turns neighbours, paired the rows of q and k. What it leaves out is llama.cpp's own
   knowledge: the pattern of windows, which models scale scores otherwise. */

typedef struct lmi_gguf_arch {
    const char *arch, *type; /* general.architecture; the family, whose names modules have */
    uint32_t has;
    size_t window;           /* keys, where the file does not say */
    size_t wide;             /* models of so many layers scale by sqrt(d / heads) */
} lmi_gguf_arch;

/* Of two rows for one architecture that with experts is for files that have them. */
static const lmi_gguf_arch lmi_gguf_archs[] = {
    { "gptneox", "gpt_neox", LMI_APART, 0, 0 },
    { "gpt2", "gpt2", 0, 0, 0 },
    { "llama", "llama", LMI_PAIRED, 0, 0 }, /* Mistral too */
    { "llama", "mixtral", LMI_PAIRED, 0, 0 },
    { "qwen2", "qwen2", 0, 0, 0 },
    { "qwen3", "qwen3", 0, 0, 0 },
    { "qwen3moe", "qwen3_moe", 0, 0, 0 },
    { "gemma", "gemma", 0, 0, 0 },
    { "gemma2", "gemma2", 0, 4096, 46 },
    { "gemma3", "gemma3_text", LMI_TEXT_CONFIG, 0, 62 }
};
enum { LMI_NUM_GGUF_ARCHS = sizeof lmi_gguf_archs / sizeof lmi_gguf_archs[0] };

/* ---- metadata ---- */

static const sae_json *lmi_gguf_get(const lmi_config *c, const char *name, char key[64]) {
    snprintf(key, 64, "%s.%s", c->arch, name);
    return sae_json_get(c->root, key);
}

static sae_result lmi_gguf_size(const lmi_config *c, const char *name, size_t otherwise,
                                size_t most, size_t *out) {
    char key[64];
    const sae_json *v = lmi_gguf_get(c, name, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s: %s has a number for each layer, supported is one "
                                "for all", c->path, key);
    return lmi_config_size(c, key, otherwise, most, out);
}

static sae_result lmi_gguf_number(const lmi_config *c, const char *name, double least, double most,
                                  double *out) {
    char key[64];
    lmi_gguf_get(c, name, key);
    return lmi_config_number(c, c->root, key, least, most, out);
}

/* The shortest decimal number that a float is nearest to: 1e-5 of 9.99999975e-6. */
static double lmi_gguf_decimal(double x) {
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if ((float)strtod(text, NULL) == (float)x) return strtod(text, NULL);
    }
    return x;
}

/* "gptneox, gpt2, llama, ..." */
static const char *lmi_gguf_list(char *out, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < LMI_NUM_GGUF_ARCHS && n < size; i++)
        if (!i || strcmp(lmi_gguf_archs[i].arch, lmi_gguf_archs[i - 1].arch) != 0)
            n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", lmi_gguf_archs[i].arch);
    return out;
}

static sae_result lmi_gguf_family(lmi_config *c, lmi_shape *s, const lmi_gguf_arch **row) {
    char list[160], key[64];
    bool experts;
    c->arch = sae_json_text(sae_json_get(c->root, "general.architecture"));
    experts = c->arch && sae_json_number(lmi_gguf_get(c, "expert_count", key)) > 0;
    *row = NULL;
    for (size_t i = 0; c->arch && i < LMI_NUM_GGUF_ARCHS; i++) {
        const lmi_family *f = lmi_family_find(lmi_gguf_archs[i].type);
        if (strcmp(c->arch, lmi_gguf_archs[i].arch) != 0) continue;
        if (*row && experts != ((f->has & LMI_EXPERTS) != 0)) continue;
        *row = &lmi_gguf_archs[i];
        c->family = f;
    }
    if (!*row)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: general.architecture is %.60s, supported are %s", c->path,
                        c->arch ? c->arch : "missing", lmi_gguf_list(list, sizeof list));
    s->has = (c->family->has & ~(uint32_t)(LMI_ONE_PLUS | LMI_IN_OUT)) | (*row)->has;
    s->naming = c->family->naming;
    s->tensors = &lmi_gguf;
    snprintf(s->info.family, sizeof s->info.family, "%s", c->family->type);
    snprintf(s->info.activation, sizeof s->info.activation, "%s", c->family->act);
    for (size_t i = 0; i < LMI_NUM_ACTS; i++)
        if (strcmp(c->family->act, lmi_acts[i].name) == 0) s->act = lmi_acts[i].act;
    return SAE_OK;
}

/* What only the tensors say: biases, whether q, k and v are one, and how many tokens there are. */
static sae_result lmi_gguf_tensors(const lmi_config *c, sae_lm *m) {
    static const struct {
        int part;
        const char *ending;
        uint32_t has;
    } signs[] = {
        { SAE_LM_QKV_PROJ, ".weight", LMI_FUSED | LMI_APART },
        { SAE_LM_Q_PROJ, ".bias", LMI_QKV_BIAS }, { SAE_LM_QKV_PROJ, ".bias", LMI_QKV_BIAS },
        { SAE_LM_O_PROJ, ".bias", LMI_O_BIAS }, { SAE_LM_UP_PROJ, ".bias", LMI_MLP_BIAS }
    };
    const uint32_t biases = LMI_QKV_BIAS | LMI_O_BIAS | LMI_MLP_BIAS;
    lmi_shape *s = &m->shape;
    const sae_tensor *t;
    char name[LMI_NAME_SIZE];
    if (s->has & LMI_BIAS_KEYS) s->has &= ~biases;
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (lmi_tensor(m, lmi_tensor_name(m, signs[i].part, 0, 0, signs[i].ending, name)))
            s->has |= signs[i].has;
    s->info.tied = !lmi_tensor(m, lmi_tensor_name(m, LMI_UNEMBED, 0, 0, ".weight", name));
    t = lmi_tensor(m, lmi_tensor_name(m, SAE_LM_EMBED, 0, 0, ".weight", name));
    if (!t || t->ndim != 2) return lmi_check(m, t, name, 1, s->info.dim);
    if (t->shape[0] < 1 || t->shape[0] > INT32_MAX)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: %s: %s has %llu rows, allowed are 1 to 2^31 - 1",
                                c->path, name, (unsigned long long)t->shape[0]);
    s->info.vocab_size = (size_t)t->shape[0];
    return SAE_OK;
}

static sae_result lmi_gguf_sizes(const lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    size_t dim, values;
    LMI_TRY(lmi_gguf_size(c, "block_count", 0, LMI_MAX_LAYERS, &info->layers));
    LMI_TRY(lmi_gguf_size(c, "embedding_length", 0, 1 << 20, &info->dim));
    LMI_TRY(lmi_gguf_size(c, "attention.head_count", 0, 1 << 16, &info->heads));
    LMI_TRY(lmi_gguf_size(c, "attention.head_count_kv", info->heads, 1 << 16, &info->kv_heads));
    LMI_TRY(lmi_gguf_size(c, "context_length", 0, INT32_MAX, &info->max_ctx));
    LMI_TRY(lmi_gguf_size(c, "feed_forward_length", 0, 1 << 22, &s->dense_dim));
    info->mlp_dim = s->dense_dim;
    if (info->heads % info->kv_heads)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: attention.head_count_kv is %zu, allowed are divisors of "
                        "attention.head_count, %zu", c->path, info->kv_heads, info->heads);
    dim = info->dim % info->heads ? 0 : info->dim / info->heads;
    LMI_TRY(lmi_gguf_size(c, "attention.key_length", dim, 1 << 12, &info->head_dim));
    LMI_TRY(lmi_gguf_size(c, "attention.value_length", dim, 1 << 12, &values));
    if (values != info->head_dim)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: attention.value_length is %zu, supported is that of "
                        "keys, %zu", c->path, values, info->head_dim);
    if (!(s->has & LMI_EXPERTS)) return SAE_OK;
    LMI_TRY(lmi_gguf_size(c, "expert_count", 0, 1 << 12, &info->experts));
    LMI_TRY(lmi_gguf_size(c, "expert_used_count", 0, info->experts, &info->experts_per_token));
    s->top_norm = true;
    return lmi_gguf_size(c, "expert_feed_forward_length", info->mlp_dim, 1 << 22, &info->mlp_dim);
}

/* rope_freqs.weight: Llama 3's scaling, worked out. */
static sae_result lmi_gguf_divisors(const lmi_config *c, sae_lm *m) {
    static const char name[] = "rope_freqs.weight";
    lmi_rope *rope = &m->shape.rope[0];
    size_t count = m->shape.info.rotary_dims / 2;
    if (!lmi_tensor(m, name)) return SAE_OK;
    LMI_TRY(lmi_read_vector(m, name, count, &rope->divisors));
    for (size_t i = 0; i < count; i++)
        if (!(rope->divisors[i] >= 1e-6f && rope->divisors[i] <= 1e9f))
            return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                            "sae_lm_open: %s: %s[%zu] is %g, allowed are numbers from 1e-6 to 1e9",
                            c->path, name, i, (double)rope->divisors[i]);
    return SAE_OK;
}

static sae_result lmi_gguf_rotary(const lmi_config *c, sae_lm *m) {
    lmi_shape *s = &m->shape;
    sae_lm_config *info = &s->info;
    lmi_rope *rope = s->rope;
    char key[64];
    const char *type = sae_json_text(lmi_gguf_get(c, "rope.scaling.type", key));
    rope[0].base = rope[1].base = 1e4;
    if (s->has & LMI_LEARNED) return SAE_OK;
    LMI_TRY(lmi_gguf_number(c, "rope.freq_base", 1, 1e12, &rope[0].base));
    LMI_TRY(lmi_gguf_number(c, "rope.freq_base_swa", 1, 1e12, &rope[1].base));
    LMI_TRY(lmi_gguf_number(c, "rope.scale_linear", 0, 1e9, &rope[0].factor)); /* of 2023 */
    LMI_TRY(lmi_gguf_number(c, "rope.scaling.factor", 0, 1e9, &rope[0].factor));
    if (type && strcmp(type, "none") != 0 && strcmp(type, "linear") != 0)
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: %s is %.40s, supported are none, linear and the tensor "
                        "rope_freqs.weight", c->path, key, type);
    if (rope[0].factor > 0 && (!type || strcmp(type, "none") != 0)) rope[0].kind = LMI_ROPE_LINEAR;
    info->rotary_base = rope[0].base;
    LMI_TRY(lmi_gguf_size(c, "rope.dimension_count", info->head_dim, info->head_dim,
                          &info->rotary_dims));
    if ((info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        || (s->has & LMI_PAIRED && info->rotary_dims != info->head_dim))
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: %zu of the %zu dimensions of a head turn, supported is "
                        "%s", c->path, info->rotary_dims, info->head_dim,
                        s->has & LMI_PAIRED ? "all, an even number" : "an even number");
    return lmi_gguf_divisors(c, m);
}

/* Layers with a window: all; or, Gemma's, all but each n-th. sliding_window_pattern is that n, or a
   bool for each layer. Layers whose tensors are there have experts. */
static sae_result lmi_gguf_layers(const lmi_config *c, const lmi_gguf_arch *row, sae_lm *m) {
    lmi_shape *s = &m->shape;
    sae_lm_config *info = &s->info;
    double window = (double)row->window, scale = 0, wide = (double)(info->dim / info->heads);
    size_t every = strlen(c->family->windows);
    char key[64], name[LMI_NAME_SIZE];
    const sae_json *pattern = lmi_gguf_get(c, "attention.sliding_window_pattern", key), *v;
    LMI_TRY(lmi_gguf_number(c, "attention.sliding_window", 0, INT32_MAX, &window));
    LMI_TRY(lmi_gguf_number(c, "attention.scale", 0, 1e9, &scale));
    if (every == 1) every = 0;
    if (sae_json_kind_of(pattern) == SAE_JSON_NUMBER)
        LMI_TRY(lmi_gguf_size(c, "attention.sliding_window_pattern", 1, INT32_MAX, &every));
    if (sae_json_kind_of(pattern) == SAE_JSON_ARRAY && sae_json_count(pattern) < info->layers)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is of %zu layers, there are %zu", c->path, key,
                        sae_json_count(pattern), info->layers);
    if (!(scale > 0))
        scale = 1 / sqrt(info->layers == row->wide ? wide : (double)info->head_dim);
    s->layer = (lmi_layer_shape *)calloc(info->layers, sizeof *s->layer);
    if (!s->layer) return sae_context_fail(c->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    v = sae_json_first(pattern);
    for (size_t i = 0; i < info->layers; i++) {
        bool local = v ? sae_json_number(v) != 0 : !every || (i + 1) % every != 0;
        v = v ? sae_json_next(v) : NULL;
        s->layer[i].window = local ? (size_t)window : 0;
        s->layer[i].rope = s->layer[i].window && s->has & LMI_LOCAL_ROPE;
        s->layer[i].scale = (float)scale;
        for (int k = 0; k < 2 && s->has & LMI_EXPERTS && !s->layer[i].experts; k++) {
            lmi_tensor_name(m, k ? LMI_EXPERT_DOWN : LMI_ROUTER, i, 0, ".weight", name);
            s->layer[i].experts = lmi_tensor(m, name) != NULL;
        }
        if (s->layer[i].window) info->window = (size_t)window;
    }
    return SAE_OK;
}

static sae_result lmi_gguf_rest(const lmi_config *c, lmi_shape *s) {
    sae_lm_config *info = &s->info;
    char key[64];
    bool rms = (s->has & LMI_RMS) != 0;
    const char *eps = rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    double cap[2] = { 0, 0 };
    if (lmi_config_none(lmi_gguf_get(c, eps, key)))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s: %s is missing", c->path,
                                key);
    LMI_TRY(lmi_gguf_number(c, eps, 0, 1, &info->norm_eps));
    info->norm_eps = lmi_gguf_decimal(info->norm_eps);
    lmi_gguf_get(c, "use_parallel_residual", key);
    lmi_config_flag(c, key, LMI_PARALLEL, &s->has);
    lmi_gguf_get(c, "attention.causal", key);
    if (!lmi_config_bool(c->root, key, true))
        return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: %s is false, supported is true", c->path, key);
    if (s->has & LMI_CAPS) cap[0] = 50, cap[1] = 30;
    if (s->has & (LMI_CAPS | LMI_NO_CAPS)) {
        LMI_TRY(lmi_gguf_number(c, "attn_logit_softcapping", 0, 1e9, &cap[0]));
        LMI_TRY(lmi_gguf_number(c, "final_logit_softcapping", 0, 1e9, &cap[1]));
    }
    s->attention_cap = (float)cap[0];
    s->logit_cap = (float)cap[1];
    info->rms_norm = rms;
    info->fixed_ctx = (s->has & LMI_LEARNED) != 0;
    info->parallel_residual = (s->has & LMI_PARALLEL) != 0;
    info->bos_token = lmi_config_token(c, "tokenizer.ggml.bos_token_id", -1);
    info->eos_token = lmi_config_token(c, "tokenizer.ggml.eos_token_id", -1);
    info->pad_token = lmi_config_token(c, "tokenizer.ggml.padding_token_id", -1);
    return SAE_OK;
}

/* ---- tensors ---- */

/* Whether the model reads a part's weight, or bias. */
static bool lmi_gguf_reads(const lmi_shape *s, int part, size_t layer, bool bias) {
    uint32_t has = s->has;
    bool experts = s->layer[layer].experts;
    switch (part) {
    case SAE_LM_EMBED: case LMI_UNEMBED: return !bias;
    case LMI_POSITIONS: return !bias && has & LMI_LEARNED;
    case SAE_LM_FINAL_NORM: case SAE_LM_ATTENTION_NORM: case SAE_LM_MLP_NORM:
        return !bias || !(has & LMI_RMS);
    case SAE_LM_QKV_PROJ: return has & LMI_FUSED && (!bias || has & LMI_QKV_BIAS);
    case SAE_LM_Q_PROJ: case SAE_LM_K_PROJ: case SAE_LM_V_PROJ:
        return !(has & LMI_FUSED) && (!bias || has & LMI_QKV_BIAS);
    case SAE_LM_O_PROJ: return !bias || has & LMI_O_BIAS;
    case LMI_Q_NORM: case LMI_K_NORM: return !bias && has & LMI_QK_NORM;
    case SAE_LM_ATTENTION_POST_NORM: case SAE_LM_MLP_POST_NORM:
        return !bias && has & LMI_POST_NORMS;
    case SAE_LM_GATE_PROJ:
        return has & LMI_GATED && !experts && (!bias || has & LMI_MLP_BIAS);
    case SAE_LM_UP_PROJ: case SAE_LM_DOWN_PROJ: return !experts && (!bias || has & LMI_MLP_BIAS);
    default: return experts && !bias;
    }
}

static bool lmi_gguf_known(const lmi_shape *s, const char *name) {
    size_t layer = 0, n;
    bool of_layer = strncmp(name, lmi_gguf.layers, strlen(lmi_gguf.layers)) == 0;
    if (strcmp(name, "rope_freqs.weight") == 0) return s->rope[0].divisors != NULL;
    if (of_layer) {
        name += strlen(lmi_gguf.layers);
        for (n = 0; name[n] >= '0' && name[n] <= '9' && n < 6; n++)
            layer = layer * 10 + (size_t)(name[n] - '0');
        if (!n || name[n] != '.' || layer >= s->info.layers) return false;
        name += n + 1;
    }
    for (size_t i = 0; i < lmi_gguf.count; i++) {
        int part = lmi_gguf.names[i].part;
        bool whole = part == SAE_LM_EMBED || part == SAE_LM_FINAL_NORM || part == LMI_POSITIONS
                     || part == LMI_UNEMBED;
        n = strlen(lmi_gguf.names[i].name);
        if (whole == of_layer || strncmp(name, lmi_gguf.names[i].name, n) != 0) continue;
        if (strcmp(name + n, ".weight") == 0) return lmi_gguf_reads(s, part, layer, false);
        if (strcmp(name + n, ".bias") == 0) return lmi_gguf_reads(s, part, layer, true);
    }
    return false;
}

/* What the description has no place for would change the numbers. */
static sae_result lmi_gguf_all_known(const lmi_config *c, const sae_lm *m) {
    for (size_t f = 0; f < m->num_files; f++)
        for (size_t i = 0; i < sae_tensor_file_count(m->file[f]); i++) {
            const char *name = sae_tensor_file_get(m->file[f], i)->name;
            if (!lmi_gguf_known(&m->shape, name))
                return sae_context_fail(c->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s: general.architecture is %s, which has no tensor "
                                "%.80s here", c->path, c->arch, name);
        }
    return SAE_OK;
}

/* ---- files ---- */

static sae_result lmi_gguf_add(sae_lm *m, const char *path) {
    LMI_TRY(sae_tensor_file_open(m->ctx, path, &m->file[m->num_files]));
    m->num_files++;
    return SAE_OK;
}

/* The file, and where it says that it is NAME-00001-of-00003.gguf the others. */
static sae_result lmi_gguf_files(sae_lm *m, const char *path) {
    const sae_json *root;
    double count, number;
    char end[32], *part;
    size_t n = strlen(path), tail;
    LMI_TRY(lmi_gguf_add(m, path));
    root = sae_tensor_file_metadata(m->file[0]);
    count = sae_json_number(sae_json_get(root, "split.count"));
    number = sae_json_number(sae_json_get(root, "split.no"));
    if (!(count > 1)) return SAE_OK;
    tail = (size_t)snprintf(end, sizeof end, "-00001-of-%05.0f.gguf", count <= 99999 ? count : 0.0);
    if (number != 0 || count > LMI_MAX_SHARDS || n < tail || strcmp(path + n - tail, end) != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s is part %.9g of %.9g, supported is the first, "
                        "NAME%s, of at most %d", path, number + 1, count, end, (int)LMI_MAX_SHARDS);
    part = lmi_join("", path);
    if (!part) return lmi_no_memory(m);
    for (int i = 2; i <= (int)count; i++) {
        sae_result result;
        snprintf(end, sizeof end, "-%05d", i);
        memcpy(part + n - tail, end, strlen(end));
        result = lmi_gguf_add(m, part);
        if (result == SAE_OK) continue;
        free(part);
        return result;
    }
    free(part);
    return SAE_OK;
}

static sae_result lmi_gguf_open(sae_lm *m, const char *path) {
    const lmi_gguf_arch *row;
    lmi_config c;
    m->folder = lmi_join("", path);
    if (!m->folder)
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    LMI_TRY(lmi_gguf_files(m, path));
    memset(&c, 0, sizeof c);
    c.ctx = m->ctx;
    c.path = path;
    c.root = c.outer = sae_tensor_file_metadata(m->file[0]);
    LMI_TRY(lmi_gguf_family(&c, &m->shape, &row));
    LMI_TRY(lmi_gguf_sizes(&c, &m->shape));
    LMI_TRY(lmi_gguf_tensors(&c, m));
    LMI_TRY(lmi_gguf_rotary(&c, m));
    LMI_TRY(lmi_gguf_layers(&c, row, m));
    LMI_TRY(lmi_gguf_rest(&c, &m->shape));
    LMI_TRY(lmi_read_weights(m));
    return lmi_gguf_all_known(&c, m);
}

/* ==== >>lm: model ========================================================= src/lm/model.h ==== */

static sae_result lmi_open(sae_lm *m, const char *folder) {
    lmi_config c;
    char *path;
    sae_json *root = NULL;
    sae_result result;
    m->folder = lmi_join(folder, "");
    path = lmi_join(folder, "config.json");
    if (!m->folder || !path) {
        free(path);
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    }
    if (strlen(m->folder) > 1) m->folder[strlen(m->folder) - 1] = 0; /* the slash */
    memset(&c, 0, sizeof c);
    c.ctx = m->ctx;
    c.path = path;
    if (!lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: %s is not there; a model is a "
                                  "folder with config.json, model.safetensors, tokenizer.json",
                                  path);
    else result = sae_json_open(m->ctx, path, &root);
    c.root = root;
    if (result == SAE_OK) result = lmi_config_read(&c, &m->shape);
    sae_json_close(root);
    free(path);
    LMI_TRY(result);
    LMI_TRY(lmi_files_open(m));
    return lmi_read_weights(m);
}

SAE_API sae_result sae_lm_open(sae_context *ctx, const char *path, sae_lm **out) {
    sae_lm *m;
    sae_result result;
    if (!ctx || !path || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_open: path and out may not be NULL");
    m = (sae_lm *)calloc(1, sizeof *m);
    if (!m) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    m->ctx = ctx;
    m->kernels = lmi_kernels_select();
    result = lmi_names_gguf(path) ? lmi_gguf_open(m, path) : lmi_open(m, path);
    if (result == SAE_OK) *out = m;
    else sae_lm_close(m);
    return result;
}

SAE_API void sae_lm_close(sae_lm *m) {
    if (!m) return;
    for (size_t i = 0; m->layer && i < m->shape.info.layers; i++)
        lmi_free_layer(&m->layer[i], m->shape.layer[i].experts ? m->shape.info.experts : 1);
    for (size_t i = 0; i < m->num_files; i++) {
        sae_tensor_file_close(m->file[i]);
        free(m->file_name[i]);
    }
    sae_linear_destroy(m->unembed);
    free(m->norm.weight);
    free(m->norm.bias);
    free(m->ones);
    free(m->layer);
    free(m->shape.layer);
    free(m->shape.rope[0].divisors);
    free(m->folder);
    free(m->memory);
    free(m->angles[0]);
    free(m->angles[1]);
    free(m);
}

SAE_API sae_lm_config sae_lm_config_of(const sae_lm *model) { return model->shape.info; }

/* ==== >>lm: places ======================================================== src/lm/sites.h ==== */

enum { LMI_IN = 1, LMI_OUT = 2 };

/* Which of a module's sides can be looked at, in any layer; 0: the model has no such module. */
static int lmi_module_sides(const sae_lm *m, sae_lm_module module) {
    uint32_t has = m->shape.has;
    switch (module) {
    case SAE_LM_EMBED: case SAE_LM_FINAL_NORMALIZED: case SAE_LM_ATTENTION_NORMALIZED:
    case SAE_LM_MLP_NORMALIZED: case SAE_LM_Q_PROJ: case SAE_LM_K_PROJ: case SAE_LM_V_PROJ:
        return LMI_OUT;
    case SAE_LM_QKV_PROJ: return has & LMI_FUSED ? LMI_OUT : 0;
    case SAE_LM_RESID_MID: return has & LMI_PARALLEL ? 0 : LMI_OUT;
    case SAE_LM_GATE_PROJ: return has & LMI_GATED ? LMI_OUT : 0;
    case SAE_LM_UP_PROJ: return has & LMI_GATED ? LMI_OUT : LMI_IN | LMI_OUT;
    case SAE_LM_ATTENTION_POST_NORM: case SAE_LM_MLP_POST_NORM:
        return has & LMI_POST_NORMS ? LMI_IN | LMI_OUT : 0;
    case SAE_LM_FINAL_NORM: case SAE_LM_LAYER: case SAE_LM_ATTENTION_NORM: case SAE_LM_ATTENTION:
    case SAE_LM_O_PROJ: case SAE_LM_MLP_NORM: case SAE_LM_MLP: case SAE_LM_DOWN_PROJ:
        return LMI_IN | LMI_OUT;
    case SAE_LM_NUM_MODULES: break;
    }
    return 0;
}

static bool lmi_module_of_layer(sae_lm_module module) { return module >= SAE_LM_LAYER; }

static int lmi_site_sides(const sae_lm *m, const sae_lm_site *s) {
    bool neurons = s->module == SAE_LM_GATE_PROJ || s->module == SAE_LM_UP_PROJ
                   || s->module == SAE_LM_DOWN_PROJ;
    if (s->layer >= (lmi_module_of_layer(s->module) ? m->shape.info.layers : 1)) return 0;
    if (neurons && m->shape.layer[s->layer].experts) return 0;
    return lmi_module_sides(m, s->module);
}

SAE_API size_t sae_lm_site_dim(const sae_lm *m, sae_lm_site site) {
    const sae_lm_config *info = &m->shape.info;
    size_t heads = info->heads * info->head_dim, kv = info->kv_heads * info->head_dim;
    switch (site.module) {
    case SAE_LM_QKV_PROJ: return heads + 2 * kv;
    case SAE_LM_Q_PROJ: return heads;
    case SAE_LM_K_PROJ: case SAE_LM_V_PROJ: return kv;
    case SAE_LM_O_PROJ: return site.input ? heads : info->dim;
    case SAE_LM_GATE_PROJ: return m->shape.dense_dim;
    case SAE_LM_UP_PROJ: return site.input ? info->dim : m->shape.dense_dim;
    case SAE_LM_DOWN_PROJ: return site.input ? m->shape.dense_dim : info->dim;
    default: return info->dim;
    }
}

SAE_API bool sae_lm_site_is_residual(const sae_lm *m, sae_lm_site site) {
    bool last = !(m->shape.has & LMI_POST_NORMS);
    switch (site.module) {
    case SAE_LM_EMBED: case SAE_LM_LAYER: case SAE_LM_RESID_MID: case SAE_LM_FINAL_NORM:
        return true;
    case SAE_LM_ATTENTION: case SAE_LM_O_PROJ: case SAE_LM_MLP: case SAE_LM_DOWN_PROJ:
        return last && !site.input;
    case SAE_LM_ATTENTION_POST_NORM: case SAE_LM_MLP_POST_NORM: return !site.input;
    default: return false;
    }
}

/* TransformerLens' names; of a layer behind "blocks.N.". post: the module where there are post
   norms. */
static const struct {
    const char *name;
    sae_lm_module module, post;
    bool input;
} lmi_hook_names[] = {
    { "hook_embed", SAE_LM_EMBED, SAE_LM_EMBED, false },
    { "ln_final.hook_normalized", SAE_LM_FINAL_NORMALIZED, SAE_LM_FINAL_NORMALIZED, false },
    { "hook_resid_pre", SAE_LM_LAYER, SAE_LM_LAYER, true },
    { "hook_resid_mid", SAE_LM_RESID_MID, SAE_LM_RESID_MID, false },
    { "hook_resid_post", SAE_LM_LAYER, SAE_LM_LAYER, false },
    { "hook_attn_out", SAE_LM_ATTENTION, SAE_LM_ATTENTION_POST_NORM, false },
    { "hook_mlp_out", SAE_LM_MLP, SAE_LM_MLP_POST_NORM, false },
    { "attn.hook_q", SAE_LM_Q_PROJ, SAE_LM_Q_PROJ, false },
    { "attn.hook_k", SAE_LM_K_PROJ, SAE_LM_K_PROJ, false },
    { "attn.hook_v", SAE_LM_V_PROJ, SAE_LM_V_PROJ, false },
    { "attn.hook_z", SAE_LM_O_PROJ, SAE_LM_O_PROJ, true },
    { "ln1.hook_normalized", SAE_LM_ATTENTION_NORMALIZED, SAE_LM_ATTENTION_NORMALIZED, false },
    { "ln2.hook_normalized", SAE_LM_MLP_NORMALIZED, SAE_LM_MLP_NORMALIZED, false },
    { "mlp.hook_in", SAE_LM_MLP, SAE_LM_MLP, true },
    { "mlp.hook_pre", SAE_LM_GATE_PROJ, SAE_LM_GATE_PROJ, false }, /* UP_PROJ without a gate */
    { "mlp.hook_pre_linear", SAE_LM_UP_PROJ, SAE_LM_UP_PROJ, false },
    { "mlp.hook_post", SAE_LM_DOWN_PROJ, SAE_LM_DOWN_PROJ, true }
};
enum { LMI_NUM_HOOK_NAMES = sizeof lmi_hook_names / sizeof lmi_hook_names[0] };

static bool lmi_hook_name_here(const sae_lm *m, size_t i, sae_lm_site *site) {
    bool gated = (m->shape.has & LMI_GATED) != 0;
    site->module = m->shape.has & LMI_POST_NORMS ? lmi_hook_names[i].post
                                                 : lmi_hook_names[i].module;
    site->input = lmi_hook_names[i].input;
    if (site->module == SAE_LM_UP_PROJ && !gated) return false;
    if (site->module == SAE_LM_GATE_PROJ && !gated) site->module = SAE_LM_UP_PROJ;
    return lmi_site_sides(m, site) != 0;
}

/* "N" or "N." in front of *name, which is moved behind it. */
static bool lmi_layer_number(const char **name, size_t *layer) {
    size_t digits = 0;
    *layer = 0;
    for (; **name >= '0' && **name <= '9' && digits < 6; ++*name, digits++)
        *layer = *layer * 10 + (size_t)(**name - '0');
    if (digits && **name == '.' && (*name)[1]) ++*name;
    else if (**name) return false;
    return digits > 0;
}

static bool lmi_skip(const char **name, const char *prefix) {
    size_t n = strlen(prefix);
    if (strncmp(*name, prefix, n) != 0) return false;
    *name += n;
    return true;
}

static bool lmi_hook_find(const sae_lm *m, const char *name, sae_lm_site *site) {
    bool of_layer = lmi_skip(&name, "blocks.");
    site->layer = 0;
    if (of_layer && !lmi_layer_number(&name, &site->layer)) return false;
    for (size_t i = 0; i < LMI_NUM_HOOK_NAMES; i++)
        if (strcmp(name, lmi_hook_names[i].name) == 0)
            return of_layer == lmi_module_of_layer(lmi_hook_names[i].module)
                   && lmi_hook_name_here(m, i, site);
    return false;
}

static bool lmi_path_find(const sae_lm *m, const char *name, sae_lm_site *site) {
    const lmi_naming *naming = m->shape.naming;
    bool of_layer;
    if (lmi_skip(&name, naming->base)) {
        if (m->shape.has & LMI_TEXT_CONFIG) lmi_skip(&name, "language_model.");
    } else if (m->shape.has & LMI_TEXT_CONFIG && lmi_skip(&name, "language_model."))
        lmi_skip(&name, naming->base);
    site->layer = 0;
    of_layer = lmi_skip(&name, naming->layers);
    if (of_layer && !lmi_layer_number(&name, &site->layer)) return false;
    site->module = SAE_LM_LAYER;
    if (of_layer && !*name) return lmi_site_sides(m, site) != 0;
    for (int i = 0; i < SAE_LM_NUM_MODULES; i++) {
        const char *own = lmi_part_name(naming, i);
        site->module = (sae_lm_module)i;
        if (own && strcmp(own, name) == 0)
            return of_layer == lmi_module_of_layer(site->module) && lmi_site_sides(m, site) != 0;
    }
    return false;
}

/* "model.embed_tokens, model.norm, model.layers.N, model.layers.N.{...}, hook_embed, ..." */
static const char *lmi_site_list(const sae_lm *m, char *out, size_t size) {
    const lmi_naming *naming = m->shape.naming;
    const char *between = "";
    size_t n = 0;
    sae_lm_site s;
    memset(&s, 0, sizeof s);
#define LMI_PUT(...) n += (size_t)snprintf(out + (n < size ? n : size - 1),                        \
                                           n < size ? size - n : 1, __VA_ARGS__)
    LMI_PUT("%s%s, %s%sN, %s%sN.{", naming->base, lmi_part_name(naming, SAE_LM_EMBED), naming->base,
            naming->layers, naming->base, naming->layers);
    for (int i = SAE_LM_LAYER + 1; i < SAE_LM_NUM_MODULES; i++) {
        const char *name = lmi_part_name(naming, i);
        s.module = (sae_lm_module)i;
        if (!name || !lmi_site_sides(m, &s)) continue;
        LMI_PUT("%s%s", between, name);
        between = ", ";
    }
    LMI_PUT("}, %s%s", naming->base, lmi_part_name(naming, SAE_LM_FINAL_NORM));
    for (size_t i = 0; i < LMI_NUM_HOOK_NAMES; i++) {
        bool of_layer = lmi_module_of_layer(lmi_hook_names[i].module);
        if (i == 2) LMI_PUT(", blocks.N.{"), between = "";
        if (!lmi_hook_name_here(m, i, &s)) continue;
        LMI_PUT("%s%s", of_layer ? between : ", ", lmi_hook_names[i].name);
        between = ", ";
    }
    LMI_PUT("}");
#undef LMI_PUT
    return out;
}

SAE_API sae_result sae_lm_site_find(const sae_lm *m, const char *name, bool input,
                                    sae_lm_site *out) {
    sae_lm_site site;
    bool hook;
    char list[900];
    if (!m) return SAE_ERR_INVALID;
    if (!name || !out)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: name and out may not be NULL");
    memset(&site, 0, sizeof site);
    hook = lmi_hook_find(m, name, &site);
    if (hook && input)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: %s is an output, it has no input", name);
    if (!hook && !lmi_path_find(m, name, &site)) {
        size_t n = strlen(name), mlp_in = strlen("hook_mlp_in");
        if (n >= mlp_in && strcmp(name + n - mlp_in, "hook_mlp_in") == 0)
            return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                            "sae_lm_site_find: %s is one place to TransformerLens and another to "
                            "Gemma Scope: give the module's name", name);
        return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                        "sae_lm_site_find: there is no place %.80s; there are %s with N from 0 to "
                        "%zu", name, lmi_site_list(m, list, sizeof list), m->shape.info.layers - 1);
    }
    if (!hook) {
        site.input = input;
        if (!(lmi_site_sides(m, &site) & (input ? LMI_IN : LMI_OUT)))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                            "sae_lm_site_find: the input of %s cannot be looked at here; allowed "
                            "is its output", name);
    }
    *out = site;
    return SAE_OK;
}

static const char *lmi_hook_of(const sae_lm *m, sae_lm_site site) {
    sae_lm_site s = site;
    for (size_t i = 0; i < LMI_NUM_HOOK_NAMES; i++)
        if (lmi_hook_name_here(m, i, &s) && s.module == site.module && s.input == site.input)
            return lmi_hook_names[i].name;
    return NULL;
}

SAE_API const char *sae_lm_site_name(const sae_lm *m, sae_lm_site site, bool hook, char *out,
                                     size_t size) {
    const lmi_naming *naming = m->shape.naming;
    bool of_layer = lmi_module_of_layer(site.module);
    const char *own = hook ? lmi_hook_of(m, site) : lmi_part_name(naming, (int)site.module);
    if (!hook && site.module == SAE_LM_LAYER) own = "";
    if (!own) snprintf(out, size, "%s", "");
    else if (!of_layer) snprintf(out, size, "%s%s", hook ? "" : naming->base, own);
    else snprintf(out, size, "%s%s%zu%s%s", hook ? "" : naming->base,
                  hook ? "blocks." : naming->layers, site.layer, *own ? "." : "", own);
    return out;
}

/* ==== >>lm: forward pass: memory and hooks ================================== src/lm/run.h ==== */

/* Parts of the row-wise steps are LMI_ROW_PART rows; of attention up to LMI_SLOTS workers. */
enum { LMI_ROW_PART = 32, LMI_LOGIT_ROWS = 256, LMI_SLOTS = 64 };

struct sae_lm_cache {
    sae_lm *m;
    size_t capacity, count;
    float *data; /* [layers][kv_heads] stores of capacity keys and values */
};

/* Heads side by side or wherever a fused matrix leaves them. */
typedef struct lmi_heads {
    float *at;
    size_t row, head; /* floats from one row, one head to the next */
} lmi_heads;

/* One pass: positions past .. past + ctx - 1 of each context. */
typedef struct lmi_run {
    sae_lm *m;
    const sae_lm_forward_desc *desc;
    size_t n, ctx, past, hooks_left;
    bool logits, done; /* logits or losses are wanted; nothing is left to do */
    float *x, *normed, *mixed; /* [n,d] */
    float *made;               /* what the MLP gave: normed or mixed */
    /* while attention runs: qkv [n,(heads + 2 kv_heads) head_dim], rows [n,heads head_dim];
       stores: of every (context, kv head), or, if there are more of these, of every slot */
    float *qkv, *heads, *stores, *scratch;
    lmi_heads q, k, v;
    size_t store_floats, scratch_floats, items, slots;
    bool packed; /* every item has a store of its own */
    /* while an MLP runs: [n,widest MLP]; of experts besides [256,d] twice, [n,experts] */
    float *wide, *gate, *gathered, *given, *routes;
    uint32_t *expert; /* [n,experts_per_token], ascending; routes holds their weights then */
    /* while logits are made: [block,d], [block,vocab_size] */
    float *logit_x, *logit;
    /* what the steps work on */
    size_t at_layer, count, width;
    const float *from;
    float *to;
    const lmi_norm *norm;
    size_t row[LMI_LOGIT_ROWS]; /* of the block of logits; rows of an expert */
    double row_loss[LMI_LOGIT_ROWS];
} lmi_run;

static void lmi_row_parts(lmi_run *run, size_t rows, void (*fn)(void *arg, size_t part)) {
    run->count = rows;
    sae_context_parallel(run->m->ctx, lmi_parts(rows, LMI_ROW_PART), fn, run);
}

/* ---- memory ---- */

/* Keys [blocks][head_dim][32] and values [keys][lmi_round(head_dim)] of one head. */
static size_t lmi_store_floats(size_t keys, size_t head_dim) {
    size_t deep = lmi_round(head_dim), rows;
    if (keys > SIZE_MAX / 2 / sizeof(float) - LMI_COLUMNS
        || !lmi_mul(lmi_round(keys), 2 * deep * sizeof(float), &rows))
        return 0;
    return lmi_round(keys) * head_dim + keys * deep;
}

/* One piece [rows,width] behind *at, on 64 bytes; false: too large. base NULL: only counts. */
static bool lmi_run_cut(float *base, size_t *at, float **piece, size_t rows, size_t width) {
    size_t floats;
    if (base) *piece = base + *at;
    if (!lmi_mul(rows, width, &floats) || floats > SIZE_MAX / 64 - *at) return false;
    *at += (floats + 15) / 16 * 16;
    return true;
}

static bool lmi_run_cut_attention(lmi_run *run, float *base, size_t *at) {
    const sae_lm_config *info = &run->m->shape.info;
    const sae_lm_cache *cache = run->desc->cache;
    size_t hd = info->head_dim, deep = lmi_round(hd), keys = cache ? cache->capacity : run->ctx;
    size_t heads = info->heads * hd, kv = info->kv_heads * hd, n = run->n;
    size_t tiles = lmi_parts(run->ctx * (info->heads / info->kv_heads), LMI_ROWS), parts;
    run->items = run->desc->contexts * info->kv_heads;
    run->slots = LMI_SLOTS; /* 16 where they would take more than 16 MiB */
    if (keys > (1 << 22) / 8 / LMI_SLOTS) run->slots = 16;
    run->packed = run->items <= run->slots || cache;
    if (!lmi_mul(run->items, run->packed ? tiles : 1, &parts)) return false;
    run->slots = lmi_min(run->slots, parts);
    run->store_floats = lmi_store_floats(keys, hd);
    run->scratch_floats = LMI_ROWS * (hd + deep + lmi_round(keys)) + lmi_round(hd);
    if (!run->store_floats) return false;
    if (!lmi_run_cut(base, at, &run->qkv, n, heads + 2 * kv)
        || !lmi_run_cut(base, at, &run->heads, lmi_max(n, 3), heads) /* at least a row of qkv */
        || !lmi_run_cut(base, at, &run->scratch, run->slots, run->scratch_floats))
        return false;
    if (cache) return true;
    return lmi_run_cut(base, at, &run->stores, run->packed ? run->items : run->slots,
                   run->store_floats);
}

static bool lmi_run_cut_mlp(lmi_run *run, float *base, size_t *at) {
    const lmi_shape *s = &run->m->shape;
    size_t n = run->n, wide = lmi_max(s->dense_dim, s->info.mlp_dim);
    size_t k = s->info.experts_per_token; /* numbers of experts are as wide as floats */
    float *expert = NULL;
    if (!lmi_run_cut(base, at, &run->wide, n, wide)) return false;
    if (s->has & LMI_GATED && !lmi_run_cut(base, at, &run->gate, n, wide)) return false;
    if (!(s->has & LMI_EXPERTS)) return true;
    if (!lmi_run_cut(base, at, &run->gathered, lmi_min(n, LMI_LOGIT_ROWS), s->info.dim)
        || !lmi_run_cut(base, at, &run->given, lmi_min(n, LMI_LOGIT_ROWS), s->info.dim)
        || !lmi_run_cut(base, at, &run->routes, n, s->info.experts)
        || !lmi_run_cut(base, at, &expert, n, k))
        return false;
    run->expert = (uint32_t *)(void *)expert;
    return true;
}

/* Cuts the memory of a pass; what runs at different times shares its place. Returns its floats, 0:
   too large. */
static size_t lmi_run_layout(lmi_run *run, float *base) {
    const sae_lm_config *info = &run->m->shape.info;
    const size_t *rows = run->desc->rows;
    size_t block = lmi_min(rows ? run->desc->num_rows : run->n, LMI_LOGIT_ROWS), n = run->n;
    size_t at = 0, attention, mlp, logits;
    if (!lmi_run_cut(base, &at, &run->x, n, info->dim)
        || !lmi_run_cut(base, &at, &run->normed, n, info->dim)
        || !lmi_run_cut(base, &at, &run->mixed, n, info->dim))
        return 0;
    attention = mlp = logits = at;
    if (!lmi_run_cut_attention(run, base, &attention) || !lmi_run_cut_mlp(run, base, &mlp)
        || (run->logits && (!lmi_run_cut(base, &logits, &run->logit_x, block, info->dim)
                            || !lmi_run_cut(base, &logits, &run->logit, block, info->vocab_size))))
        return 0;
    return lmi_max(attention, lmi_max(mlp, logits));
}

static sae_result lmi_run_memory(lmi_run *run) {
    sae_lm *m = run->m;
    size_t floats = lmi_run_layout(run, NULL), skip;
    if (floats > m->memory_floats || !floats) {
        free(m->memory);
        m->memory_floats = 0;
        m->memory = floats ? (float *)malloc((floats + 16) * sizeof(float)) : NULL;
        if (!m->memory)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_lm_forward: no memory for %zu contexts "
                                    "of %zu tokens",
                                    run->desc->contexts, run->ctx);
        m->memory_floats = floats;
    }
    skip = (64 - ((uintptr_t)m->memory & 63)) % 64 / sizeof(float);
    lmi_run_layout(run, m->memory + skip);
    return SAE_OK;
}

/* ---- hooks ---- */

/* How many hooks there are at a site. */
static size_t lmi_hooks_at(const lmi_run *run, sae_lm_module module, size_t layer, bool input) {
    size_t count = 0;
    for (size_t i = 0; i < run->desc->num_hooks; i++) {
        const sae_lm_site *s = &run->desc->hooks[i].site;
        count += s->module == module && s->layer == layer && s->input == input;
    }
    return count;
}

/* Calls the hooks of a site; run->done: nothing is wanted behind it. */
static sae_result lmi_at(lmi_run *run, sae_lm_module module, size_t layer, bool input, float *x) {
    sae_lm_site site;
    site.module = module;
    site.layer = layer;
    site.input = input;
    for (size_t i = 0; i < run->desc->num_hooks; i++) {
        const sae_lm_hook *h = &run->desc->hooks[i];
        if (h->site.module != module || h->site.layer != layer || h->site.input != input) continue;
        if (h->call)
            LMI_TRY(h->call(h->user, x, run->n, sae_lm_site_dim(run->m, site)));
        run->hooks_left--;
    }
    run->done = !run->hooks_left && !run->logits && !run->desc->cache;
    return SAE_OK;
}

/* A step that may end the pass. */
#define LMI_STEP(call)                                                                             \
    do {                                                                                           \
        sae_result lmi_step_result = (call);                                                       \
        if (lmi_step_result != SAE_OK || run->done) return lmi_step_result;                        \
    } while (0)
#define LMI_AT(module, layer, input, x) LMI_STEP(lmi_at(run, module, layer, input, x))

/* A head of a .gguf whose pairs lie together, and one whose halves do. */
static void lmi_unpair(size_t dim, const float *from, float *to) {
    for (size_t i = 0; i < dim / 2; i++) {
        to[i] = from[2 * i];
        to[dim / 2 + i] = from[2 * i + 1];
    }
}

static void lmi_pair(size_t dim, const float *from, float *to) {
    for (size_t i = 0; i < dim / 2; i++) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[dim / 2 + i];
    }
}

/* The same for heads that do not stand side by side, or in another order: of a copy, in
   run->heads. */
static sae_result lmi_at_heads(lmi_run *run, sae_lm_module module, size_t layer, size_t heads,
                               const lmi_heads *h) {
    size_t hd = run->m->shape.info.head_dim, dim = heads * hd;
    bool paired = run->m->shape.has & LMI_PAIRED && module != SAE_LM_V_PROJ;
    if (!lmi_hooks_at(run, module, layer, false)) return SAE_OK;
    if (h->row == dim && !paired) return lmi_at(run, module, layer, false, h->at);
    for (size_t i = 0; i < run->n * heads; i++) {
        const float *from = h->at + i / heads * h->row + i % heads * h->head;
        if (paired) lmi_unpair(hd, from, run->heads + i * hd);
        else memcpy(run->heads + i * hd, from, hd * sizeof(float));
    }
    LMI_TRY(lmi_at(run, module, layer, false, run->heads));
    for (size_t i = 0; i < run->n * heads; i++) {
        float *to = h->at + i / heads * h->row + i % heads * h->head;
        if (paired) lmi_pair(hd, run->heads + i * hd, to);
        else memcpy(to, run->heads + i * hd, hd * sizeof(float));
    }
    return SAE_OK;
}

/* ---- norms ---- */

static void lmi_norm_row(const sae_lm *m, const lmi_norm *norm, size_t n, const float *x,
                         float *out) {
    double eps = m->shape.info.norm_eps;
    if (m->shape.has & LMI_RMS) m->kernels->rms_norm(n, x, norm->weight, eps, out);
    else m->kernels->norm(n, x, norm->weight, norm->bias, eps, out);
}

static void lmi_norm_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++)
        lmi_norm_row(run->m, run->norm, d, run->from + r * d, run->to + r * d);
}

/* to = norm(from), which may be the same rows, with the hooks there. from is not changed. */
static sae_result lmi_run_norm(lmi_run *run, sae_lm_module module, sae_lm_module normalized,
                               size_t layer, const lmi_norm *norm, const float *from, float *to) {
    size_t d = run->m->shape.info.dim;
    bool middle = lmi_hooks_at(run, normalized, layer, false) > 0;
    lmi_norm plain;
    plain.weight = run->m->ones;
    plain.bias = run->m->ones + d;
    if (lmi_hooks_at(run, module, layer, true)) {
        if (from != to) memcpy(to, from, run->n * d * sizeof *to);
        from = to;
        LMI_AT(module, layer, true, to);
    }
    run->norm = middle ? &plain : norm;
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_norm_part);
    if (middle) {
        LMI_AT(normalized, layer, false, to);
        for (size_t i = 0; i < run->n * d; i++)
            to[i] = norm->bias ? fmaf(to[i], norm->weight[i % d], norm->bias[i % d])
                               : to[i] * norm->weight[i % d];
    }
    LMI_AT(module, layer, false, to);
    return SAE_OK;
}

/* ==== >>lm: forward pass: attention =================================== src/lm/attention.h ==== */

/* Frequency i of a rotary kind over `dims` dimensions, in float where transformers has float:
   1 / base^(2 i / dims), then scaled. */
static float lmi_frequency(const lmi_rope *rope, size_t i, size_t dims) {
    float power = (float)(2 * i) / (float)dims;
    float f = 1 / (float)lmi_exp((double)power * lmi_ln(rope->base));
    float factor = (float)rope->factor, wave, s;
    if (rope->divisors) f /= rope->divisors[i];
    if (rope->kind == LMI_ROPE_PLAIN) return f;
    if (rope->kind == LMI_ROPE_LINEAR) return f / factor;
    wave = 6.28318530718f / f;
    if (wave < (float)(rope->original / rope->high)) return f;
    if (wave > (float)(rope->original / rope->low)) return f / factor;
    s = ((float)rope->original / wave - (float)rope->low) / (float)(rope->high - rope->low);
    return (1 - s) * f / factor + s * f;
}

/* Angles of the positions below rows, kept for later passes. */
static sae_result lmi_angles(sae_lm *m, size_t rows) {
    size_t dims = m->shape.info.rotary_dims, pairs = (dims + 1) / 2, most;
    int kinds = m->shape.has & LMI_LOCAL_ROPE ? 2 : 1;
    if (!pairs || rows <= m->angle_rows) return SAE_OK;
    most = lmi_max(rows, m->angle_rows + m->angle_rows / 2);
    for (int k = 0; k < kinds; k++) {
        size_t floats;
        float *angles = lmi_mul(most, 2 * pairs, &floats) && floats <= SIZE_MAX / sizeof(float)
                            ? (float *)realloc(m->angles[k], floats * sizeof *angles) : NULL;
        if (!angles)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_forward: no memory");
        m->angles[k] = angles;
        for (size_t i = 0; i < pairs; i++) {
            float frequency = lmi_frequency(&m->shape.rope[k], i, dims);
            for (size_t t = m->angle_rows; t < most; t++)
                lmi_sin_cos((double)((float)t * frequency), &angles[(2 * t + 1) * pairs + i],
                            &angles[2 * t * pairs + i]);
        }
    }
    m->angle_rows = most;
    return SAE_OK;
}

/* A head's row as attention takes it: in transformers' order, norm, then rotary. */
static void lmi_head_row(const sae_lm *m, const lmi_norm *norm, size_t rope, size_t position,
                         const float *from, float *to) {
    const sae_lm_config *info = &m->shape.info;
    size_t pairs = (info->rotary_dims + 1) / 2;
    const float *angles = pairs ? m->angles[rope] + position * 2 * pairs : NULL;
    if (norm->weight) lmi_norm_row(m, norm, info->head_dim, from, to);
    else if (m->shape.has & LMI_PAIRED) lmi_unpair(info->head_dim, from, to);
    else memcpy(to, from, info->head_dim * sizeof *to);
    if (pairs) m->kernels->turn(pairs, angles, angles + pairs, to);
}

static float *lmi_store(const lmi_run *run, size_t item, size_t slot) {
    const sae_lm_cache *cache = run->desc->cache;
    if (cache)
        return cache->data + (run->at_layer * run->items + item) * run->store_floats;
    return run->stores + (run->packed ? item : slot) * run->store_floats;
}

/* Puts the new keys and values of an item, a (context, kv head), where attention reads them. */
static void lmi_pack(const lmi_run *run, size_t item, float *store, float *row) {
    const sae_lm *m = run->m;
    const sae_lm_config *info = &m->shape.info;
    const lmi_layer *l = &m->layer[run->at_layer];
    size_t hd = info->head_dim, deep = lmi_round(hd), end = run->past + run->ctx;
    size_t keys = run->desc->cache ? run->desc->cache->capacity : run->ctx;
    size_t first = item / info->kv_heads * run->ctx, head = item % info->kv_heads;
    float *values = store + lmi_round(keys) * hd;
    for (size_t t = 0; t < run->ctx; t++) {
        size_t at = run->past + t;
        float *key = store + at / LMI_COLUMNS * LMI_COLUMNS * hd + at % LMI_COLUMNS;
        lmi_head_row(m, &l->k_norm, m->shape.layer[run->at_layer].rope, at,
                     run->k.at + (first + t) * run->k.row + head * run->k.head, row);
        for (size_t c = 0; c < hd; c++) key[c * LMI_COLUMNS] = row[c];
        memcpy(values + at * deep, run->v.at + (first + t) * run->v.row + head * run->v.head,
               hd * sizeof *values);
        for (size_t c = hd; c < deep; c++) values[at * deep + c] = 0;
    }
    for (size_t at = end; at < lmi_round(end); at++)
        for (size_t c = 0; c < hd; c++)
            store[at / LMI_COLUMNS * LMI_COLUMNS * hd + c * LMI_COLUMNS + at % LMI_COLUMNS] = 0;
}

/* Rows 8 tile .. of an item: row r is position r / group of the pass and head r % group of those
   that read this kv head. */
static void lmi_attend_tile(const lmi_run *run, size_t item, size_t tile, const float *store,
                            float *scratch) {
    const sae_lm *m = run->m;
    const sae_lm_config *info = &m->shape.info;
    const lmi_layer_shape *shape = &m->shape.layer[run->at_layer];
    size_t hd = info->head_dim, group = info->heads / info->kv_heads;
    size_t keys = run->desc->cache ? run->desc->cache->capacity : run->ctx;
    size_t first = item / info->kv_heads * run->ctx, head = item % info->kv_heads * group;
    float *q = scratch;
    lmi_tile t;
    t.rows = lmi_min(LMI_ROWS, run->ctx * group - tile * LMI_ROWS);
    t.q = q;
    t.mixed = q + LMI_ROWS * hd;
    t.p = t.mixed + LMI_ROWS * lmi_round(hd);
    t.keys = store;
    t.values = store + lmi_round(keys) * hd;
    t.head_dim = hd;
    t.scale = shape->scale;
    t.cap = m->shape.attention_cap;
    for (size_t r = 0; r < t.rows; r++) {
        size_t row = tile * LMI_ROWS + r, h = head + row % group;
        size_t at = run->past + row / group;
        lmi_head_row(m, &m->layer[run->at_layer].q_norm, shape->rope, at,
                     run->q.at + (first + row / group) * run->q.row + h * run->q.head, q + r * hd);
        t.end[r] = at + 1;
        t.first[r] = shape->window && at + 1 > shape->window ? at + 1 - shape->window : 0;
        t.out[r] = run->heads + ((first + row / group) * info->heads + h) * hd;
    }
    m->kernels->attend(&t);
}

static void lmi_pack_part(void *arg, size_t part) {
    const lmi_run *run = (const lmi_run *)arg;
    for (size_t item = part; item < run->items; item += run->slots)
        lmi_pack(run, item, lmi_store(run, item, part),
                 run->scratch + part * run->scratch_floats);
}

static void lmi_attend_part(void *arg, size_t part) {
    const lmi_run *run = (const lmi_run *)arg;
    const sae_lm_config *info = &run->m->shape.info;
    size_t tiles = lmi_parts(run->ctx * (info->heads / info->kv_heads), LMI_ROWS);
    float *scratch = run->scratch + part * run->scratch_floats;
    if (run->packed) {
        for (size_t i = part; i < run->items * tiles; i += run->slots)
            lmi_attend_tile(run, i / tiles, i % tiles, lmi_store(run, i / tiles, part), scratch);
        return;
    }
    for (size_t item = part; item < run->items; item += run->slots) {
        float *store = lmi_store(run, item, part);
        lmi_pack(run, item, store, scratch);
        for (size_t i = 0; i < tiles; i++) lmi_attend_tile(run, item, i, store, scratch);
    }
}

static void lmi_set_heads(lmi_heads *h, float *at, size_t row, size_t head) {
    h->at = at;
    h->row = row;
    h->head = head;
}

/* Rows of qkv from all q, all k, all v to [heads][q,k,v][hd]. */
static void lmi_by_head(lmi_run *run, size_t heads, size_t hd) {
    for (size_t r = 0; r < run->n; r++) {
        float *row = run->qkv + r * 3 * heads * hd;
        memcpy(run->heads, row, 3 * heads * hd * sizeof *row);
        for (size_t i = 0; i < 3 * heads; i++)
            memcpy(row + i * hd, run->heads + (i % 3 * heads + i / 3) * hd, hd * sizeof *row);
    }
}

/* qkv = the queries, keys and values of normed. */
static sae_result lmi_run_qkv(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    const sae_lm_config *info = &run->m->shape.info;
    size_t hd = info->head_dim, wide = info->heads * hd, narrow = info->kv_heads * hd;
    float *q = run->qkv, *k, *v;
    if (l->qkv) {
        bool apart = (run->m->shape.has & LMI_APART) != 0;
        bool by_head = (run->m->shape.has & LMI_BY_HEAD) != 0;
        size_t row = wide + 2 * narrow, head;
        LMI_TRY(sae_linear_apply(l->qkv, run->normed, run->n, q));
        if (by_head && apart && lmi_hooks_at(run, SAE_LM_QKV_PROJ, i, false))
            lmi_by_head(run, info->heads, hd);
        else by_head = by_head && !apart;
        head = by_head ? 3 * hd : hd;
        LMI_AT(SAE_LM_QKV_PROJ, i, false, q);
        lmi_set_heads(&run->q, q, row, head);
        lmi_set_heads(&run->k, q + (by_head ? hd : wide), row, head);
        lmi_set_heads(&run->v, q + (by_head ? 2 * hd : wide + narrow), row, head);
    } else {
        k = q + run->n * wide;
        v = k + run->n * narrow;
        LMI_TRY(sae_linear_apply(l->q, run->normed, run->n, q));
        LMI_TRY(sae_linear_apply(l->k, run->normed, run->n, k));
        LMI_TRY(sae_linear_apply(l->v, run->normed, run->n, v));
        lmi_set_heads(&run->q, q, wide, hd);
        lmi_set_heads(&run->k, k, narrow, hd);
        lmi_set_heads(&run->v, v, narrow, hd);
    }
    LMI_STEP(lmi_at_heads(run, SAE_LM_Q_PROJ, i, info->heads, &run->q));
    LMI_STEP(lmi_at_heads(run, SAE_LM_K_PROJ, i, info->kv_heads, &run->k));
    return lmi_at_heads(run, SAE_LM_V_PROJ, i, info->kv_heads, &run->v);
}

/* normed -> mixed */
static sae_result lmi_run_attention(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    run->at_layer = i;
    LMI_AT(SAE_LM_ATTENTION, i, true, run->normed);
    LMI_STEP(lmi_run_qkv(run, i));
    if (run->packed)
        sae_context_parallel(run->m->ctx, lmi_min(run->slots, run->items), lmi_pack_part, run);
    sae_context_parallel(run->m->ctx, run->slots, lmi_attend_part, run);
    LMI_AT(SAE_LM_O_PROJ, i, true, run->heads);
    LMI_TRY(sae_linear_apply(l->o, run->heads, run->n, run->mixed));
    LMI_AT(SAE_LM_O_PROJ, i, false, run->mixed);
    LMI_AT(SAE_LM_ATTENTION, i, false, run->mixed);
    return SAE_OK;
}

/* ==== >>lm: forward pass: MLPs ============================================== src/lm/mlp.h ==== */

static void lmi_act_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t first = part * LMI_ROW_PART * run->width;
    size_t count = lmi_min((part + 1) * LMI_ROW_PART, run->count) * run->width - first;
    lmi_act act = run->m->shape.act;
    if (run->from) run->m->kernels->gate(act, count, run->to + first, run->from + first);
    else run->m->kernels->activate(act, count, run->to + first);
}

/* to [rows,width] = act(to), times from if that is not NULL. */
static void lmi_act_rows(lmi_run *run, size_t rows, size_t width, const float *from, float *to) {
    run->width = width;
    run->from = from;
    run->to = to;
    lmi_row_parts(run, rows, lmi_act_part);
}

/* normed -> normed */
static sae_result lmi_run_mlp(lmi_run *run, size_t i) {
    const lmi_mlp *p = run->m->layer[i].mlp;
    size_t wide = run->m->shape.dense_dim;
    float *neurons = run->wide;
    LMI_AT(SAE_LM_MLP, i, true, run->normed);
    if (p->gate) {
        neurons = run->gate;
        LMI_TRY(sae_linear_apply(p->gate, run->normed, run->n, run->gate));
        LMI_AT(SAE_LM_GATE_PROJ, i, false, run->gate);
    }
    LMI_AT(SAE_LM_UP_PROJ, i, true, run->normed);
    LMI_TRY(sae_linear_apply(p->up, run->normed, run->n, run->wide));
    LMI_AT(SAE_LM_UP_PROJ, i, false, run->wide);
    lmi_act_rows(run, run->n, wide, p->gate ? run->wide : NULL, neurons);
    LMI_AT(SAE_LM_DOWN_PROJ, i, true, neurons);
    LMI_TRY(sae_linear_apply(p->down, neurons, run->n, run->normed));
    run->made = run->normed;
    LMI_AT(SAE_LM_DOWN_PROJ, i, false, run->made);
    LMI_AT(SAE_LM_MLP, i, false, run->made);
    return SAE_OK;
}

/* ---- mixture of experts ---- */

/* Of each row: softmax over all experts, the largest k of it (the lower expert of equal ones) as
   numbers, ascending, in `expert` and their weights in the first k of routes. */
static void lmi_route_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    const lmi_shape *s = &run->m->shape;
    size_t count = s->info.experts, k = s->info.experts_per_token;
    size_t end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        float *p = run->routes + r * count, most = p[0], all = 0, taken = 0;
        uint32_t *expert = run->expert + r * k;
        for (size_t e = 1; e < count; e++) most = p[e] > most ? p[e] : most;
        for (size_t e = 0; e < count; e++) {
            double x = (double)p[e] - (double)most;
            p[e] = x > -600 ? (float)lmi_exp(x) : 0;
            all += p[e];
        }
        for (size_t j = 0; j < k; j++) { /* the j-th largest */
            size_t best = count;
            for (size_t e = 0; e < count; e++) {
                bool had = false;
                for (size_t i = 0; i < j; i++) had = had || expert[i] == e;
                if (!had && (best == count || p[e] > p[best])) best = e;
            }
            expert[j] = (uint32_t)best;
        }
        for (size_t j = 1; j < k; j++) /* ascending */
            for (size_t i = j; i > 0 && expert[i] < expert[i - 1]; i--) {
                uint32_t swap = expert[i];
                expert[i] = expert[i - 1], expert[i - 1] = swap;
            }
        for (size_t j = 0; j < k; j++) { /* expert[j] >= j: nothing is read that was written */
            p[j] = p[expert[j]] / all;
            taken += p[j];
        }
        for (size_t j = 0; j < k && s->top_norm; j++) p[j] /= taken;
    }
}

/* One block of rows through expert e: from rows of normed, weighted into mixed. */
static sae_result lmi_run_expert(lmi_run *run, const lmi_mlp *p, const float *weight,
                                 size_t count) {
    size_t d = run->m->shape.info.dim;
    float *neurons = run->wide;
    for (size_t j = 0; j < count; j++)
        memcpy(run->gathered + j * d, run->normed + run->row[j] * d, d * sizeof(float));
    LMI_TRY(sae_linear_apply(p->up, run->gathered, count, run->wide));
    if (p->gate) {
        neurons = run->gate;
        LMI_TRY(sae_linear_apply(p->gate, run->gathered, count, run->gate));
    }
    lmi_act_rows(run, count, run->m->shape.info.mlp_dim, p->gate ? run->wide : NULL, neurons);
    LMI_TRY(sae_linear_apply(p->down, neurons, count, run->given));
    for (size_t j = 0; j < count; j++) {
        float *to = run->mixed + run->row[j] * d;
        for (size_t c = 0; c < d; c++) to[c] += weight[j] * run->given[j * d + c];
    }
    return SAE_OK;
}

/* normed -> mixed; each row's experts are added in ascending order. */
static sae_result lmi_run_experts(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    const sae_lm_config *info = &run->m->shape.info;
    size_t k = info->experts_per_token;
    float weight[LMI_LOGIT_ROWS];
    LMI_AT(SAE_LM_MLP, i, true, run->normed);
    LMI_TRY(sae_linear_apply(l->router, run->normed, run->n, run->routes));
    lmi_row_parts(run, run->n, lmi_route_part);
    memset(run->mixed, 0, run->n * info->dim * sizeof(float));
    for (size_t e = 0; e < info->experts; e++) {
        size_t count = 0;
        for (size_t j = 0; j < run->n * k; j++) {
            if (run->expert[j] != e) continue;
            run->row[count] = j / k;
            weight[count++] = run->routes[j / k * info->experts + j % k];
            if (count < LMI_LOGIT_ROWS) continue;
            LMI_TRY(lmi_run_expert(run, &l->mlp[e], weight, count));
            count = 0;
        }
        if (count) LMI_TRY(lmi_run_expert(run, &l->mlp[e], weight, count));
    }
    run->made = run->mixed;
    LMI_AT(SAE_LM_MLP, i, false, run->made);
    return SAE_OK;
}

/* ==== >>lm: forward pass ================================================ src/lm/forward.h ==== */

/* to += from */
static void lmi_add_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, first = part * LMI_ROW_PART * d;
    size_t count = lmi_min((part + 1) * LMI_ROW_PART, run->count) * d - first;
    float *to = run->to + first;
    run->m->kernels->add(count, run->from + first, to, to);
}

static void lmi_add_rows(lmi_run *run, const float *from, float *to) {
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_add_part);
}

/* Row `index` of a matrix in the file. */
static void lmi_table_row(const sae_tensor *table, size_t index, float *out) {
    sae_tensor row = *table;
    row.ndim = 1;
    row.shape[0] = table->shape[1];
    row.stride[0] = table->stride[1];
    row.data = lmi_row_of(table, index);
    sae_tensor_to_f32(&row, out);
}

static void lmi_embed_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    float scale = (float)sqrt((double)d);
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        int32_t token = run->desc->tokens[r];
        float *x = run->x + r * d;
        lmi_table_row(run->m->embed, token < 0 ? 0 : (size_t)token, x);
        for (size_t i = 0; run->m->shape.has & LMI_EMBED_SCALE && i < d; i++) x[i] *= scale;
    }
}

/* x += the embedding of the positions, read into normed. */
static void lmi_position_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->shape.info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        float *x = run->x + r * d, *position = run->normed + r * d;
        lmi_table_row(run->m->position, run->past + r % run->ctx, position);
        run->m->kernels->add(d, position, x, x);
    }
}

static sae_result lmi_run_layer(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    uint32_t has = run->m->shape.has;
    LMI_AT(SAE_LM_LAYER, i, true, run->x);
    LMI_STEP(lmi_run_norm(run, SAE_LM_ATTENTION_NORM, SAE_LM_ATTENTION_NORMALIZED, i,
                          &l->attention_norm, run->x, run->normed));
    LMI_STEP(lmi_run_attention(run, i));
    if (has & LMI_POST_NORMS)
        LMI_STEP(lmi_run_norm(run, SAE_LM_ATTENTION_POST_NORM, SAE_LM_NUM_MODULES, i,
                              &l->attention_post_norm, run->mixed, run->mixed));
    if (!(has & LMI_PARALLEL)) {
        lmi_add_rows(run, run->mixed, run->x);
        LMI_AT(SAE_LM_RESID_MID, i, false, run->x);
    }
    LMI_STEP(lmi_run_norm(run, SAE_LM_MLP_NORM, SAE_LM_MLP_NORMALIZED, i, &l->mlp_norm, run->x,
                          run->normed));
    if (l->router) LMI_STEP(lmi_run_experts(run, i));
    else LMI_STEP(lmi_run_mlp(run, i));
    if (has & LMI_POST_NORMS)
        LMI_STEP(lmi_run_norm(run, SAE_LM_MLP_POST_NORM, SAE_LM_NUM_MODULES, i, &l->mlp_post_norm,
                              run->made, run->made));
    if (has & LMI_PARALLEL) lmi_add_rows(run, run->mixed, run->made);
    lmi_add_rows(run, run->made, run->x);
    LMI_AT(SAE_LM_LAYER, i, false, run->x);
    return SAE_OK;
}

/* The residual stream is x; the final norm's rows are normed. */
static sae_result lmi_run_layers(lmi_run *run) {
    lmi_row_parts(run, run->n, lmi_embed_part);
    LMI_AT(SAE_LM_EMBED, 0, false, run->x);
    if (run->m->position) lmi_row_parts(run, run->n, lmi_position_part);
    for (size_t i = 0; i < run->m->shape.info.layers; i++) LMI_STEP(lmi_run_layer(run, i));
    if (!run->logits && !run->hooks_left) return SAE_OK;
    return lmi_run_norm(run, SAE_LM_FINAL_NORM, SAE_LM_FINAL_NORMALIZED, 0, &run->m->norm, run->x,
                        run->normed);
}

/* -- logits and losses, in blocks of rows -- */

/* Whether row r of the batch predicts a token. */
static bool lmi_predicts(const lmi_run *run, size_t r) {
    return (r + 1) % run->ctx && run->desc->tokens[r] >= 0 && run->desc->tokens[r + 1] >= 0;
}

static void lmi_logit_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t vocab = run->m->shape.info.vocab_size, r = run->row[part];
    float *logits = run->logit + part * vocab;
    if (run->m->shape.logit_cap > 0)
        run->m->kernels->cap(vocab, run->m->shape.logit_cap, logits);
    run->row_loss[part] = 0;
    if (run->desc->loss && lmi_predicts(run, r))
        run->row_loss[part] = sae_lm_loss(logits, vocab, (size_t)run->desc->tokens[r + 1], NULL);
}

static sae_result lmi_run_logits(lmi_run *run) {
    const sae_lm_forward_desc *desc = run->desc;
    size_t d = run->m->shape.info.dim, total = desc->rows ? desc->num_rows : run->n;
    size_t *row = run->row;
    for (size_t c = 0; c < desc->contexts; c++) {
        if (desc->loss) desc->loss[c] = 0;
        if (desc->predictions) desc->predictions[c] = 0;
    }
    for (size_t at = 0, count; at < total; at += count) {
        count = lmi_min(LMI_LOGIT_ROWS, total - at);
        for (size_t j = 0; j < count; j++) {
            row[j] = desc->rows ? desc->rows[at + j] : at + j;
            memcpy(run->logit_x + j * d, run->normed + row[j] * d, d * sizeof(float));
        }
        LMI_TRY(sae_linear_apply(run->m->unembed, run->logit_x, count, run->logit));
        if (desc->loss || run->m->shape.logit_cap > 0)
            sae_context_parallel(run->m->ctx, count, lmi_logit_part, run);
        for (size_t j = 0; j < count; j++) {
            size_t c = row[j] / run->ctx;
            if (desc->loss) desc->loss[c] += run->row_loss[j];
            if (desc->predictions) desc->predictions[c] += lmi_predicts(run, row[j]);
        }
        if (desc->logits) LMI_TRY(desc->logits(desc->user, run->logit, at, count));
    }
    return SAE_OK;
}

/* -- checks -- */

static sae_result lmi_check_tokens(const sae_lm *m, const sae_lm_forward_desc *desc, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int32_t token = desc->tokens[i];
        if (token >= 0 && (size_t)token >= m->shape.info.vocab_size)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: token %zu of the batch is %ld, "
                                    "allowed are those below vocab_size, %zu",
                                    i, (long)token, m->shape.info.vocab_size);
        if (token < 0 && (desc->cache || ((i + 1) % desc->ctx && desc->tokens[i + 1] >= 0)))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: token %zu of the batch is %ld, which is "
                                    "padding, allowed %s", i, (long)token,
                                    desc->cache ? "nowhere with a cache"
                                                : "at the end of a context alone");
    }
    return SAE_OK;
}

static sae_result lmi_check_positions(const sae_lm *m, const sae_lm_forward_desc *desc) {
    const sae_lm_cache *cache = desc->cache;
    size_t past = cache ? cache->count : 0;
    if (cache && (cache->m != m || desc->contexts != 1))
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_forward: contexts is %zu, with a cache allowed is 1 of "
                                "the cache's own model", desc->contexts);
    if (cache && desc->ctx > cache->capacity - past)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_forward: ctx is %zu, the cache holds %zu tokens of %zu",
                                desc->ctx, past, cache->capacity);
    if (m->shape.info.fixed_ctx && past + desc->ctx > m->shape.info.max_ctx)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_forward: position %zu is not in the model, whose positions "
                                "are learned: allowed are contexts of at most %zu tokens",
                                past + desc->ctx - 1, m->shape.info.max_ctx);
    return SAE_OK;
}

static sae_result lmi_run_check(sae_lm *m, const sae_lm_forward_desc *desc, size_t *rows) {
    size_t n;
    if (!desc || !desc->tokens || !desc->contexts || !desc->ctx
        || !lmi_mul(desc->contexts, desc->ctx, &n) || n > INT32_MAX || desc->ctx > 1000000)
        return sae_context_fail(
            m->ctx, SAE_ERR_INVALID,
            "sae_lm_forward: contexts is %zu, ctx is %zu, tokens "
            "may not be NULL, allowed are up to 2^31 tokens, ctx from 1 to 1000000",
            desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    LMI_TRY(lmi_check_positions(m, desc));
    LMI_TRY(lmi_check_tokens(m, desc, n));
    for (size_t i = 0; i < desc->num_hooks; i++)
        if (!(lmi_site_sides(m, &desc->hooks[i].site)
              & (desc->hooks[i].site.input ? LMI_IN : LMI_OUT)))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: hook %zu has a site that "
                                    "sae_lm_site_find does not give",
                                    i);
    for (size_t i = 0; desc->rows && i < desc->num_rows; i++)
        if (desc->rows[i] >= n)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: rows[%zu] is %zu, allowed are "
                                    "those below %zu",
                                    i, desc->rows[i], n);
    *rows = n;
    return SAE_OK;
}

SAE_API sae_result sae_lm_forward(sae_lm *model, const sae_lm_forward_desc *desc) {
    lmi_run whole, *run = &whole;
    if (!model) return SAE_ERR_INVALID;
    memset(run, 0, sizeof *run);
    LMI_TRY(lmi_run_check(model, desc, &run->n));
    run->m = model;
    run->desc = desc;
    run->ctx = desc->ctx;
    run->past = desc->cache ? desc->cache->count : 0;
    run->hooks_left = desc->num_hooks;
    run->logits = desc->loss || desc->logits || desc->predictions;
    LMI_TRY(lmi_run_memory(run));
    LMI_TRY(lmi_angles(model, run->past + run->ctx));
    if (!run->logits && !run->hooks_left && !desc->cache) return SAE_OK;
    LMI_TRY(lmi_run_layers(run));
    if (run->logits) LMI_TRY(lmi_run_logits(run));
    if (desc->cache) desc->cache->count += run->ctx;
    return SAE_OK;
}

/* -- parts by themselves -- */

SAE_API void sae_lm_final_norm(const sae_lm *model, const float *x, size_t n, float *out) {
    size_t d = model->shape.info.dim;
    for (size_t r = 0; r < n; r++)
        lmi_norm_row(model, &model->norm, d, x + r * d, out + r * d);
}

SAE_API sae_result sae_lm_unembed(const sae_lm *model, const float *x, size_t n, float *logits) {
    return sae_linear_apply(model->unembed, x, n, logits);
}

SAE_API const float *sae_lm_final_norm_weight(const sae_lm *model) { return model->norm.weight; }

/* ==== >>lm: generation ================================================= src/lm/generate.h ==== */

SAE_API sae_result sae_lm_cache_create(sae_lm *lm, size_t capacity, sae_lm_cache **out) {
    sae_lm_cache *c;
    const sae_lm_config *info;
    size_t store, floats;
    if (!lm) return SAE_ERR_INVALID;
    info = &lm->shape.info;
    if (!capacity || capacity > INT32_MAX || !out)
        return sae_context_fail(lm->ctx, SAE_ERR_INVALID,
                                "sae_lm_cache_create: capacity is %zu, out may not be NULL, "
                                "allowed are 1 to 2^31 - 1 tokens", capacity);
    c = (sae_lm_cache *)calloc(1, sizeof *c);
    store = lmi_store_floats(capacity, info->head_dim);
    if (c && store && lmi_mul(store, info->layers * info->kv_heads, &floats)
        && floats <= SIZE_MAX / sizeof(float))
        c->data = (float *)calloc(floats, sizeof(float));
    if (!c || !c->data) {
        free(c);
        return sae_context_fail(lm->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_lm_cache_create: no memory for %zu tokens", capacity);
    }
    c->m = lm;
    c->capacity = capacity;
    *out = c;
    return SAE_OK;
}

SAE_API void sae_lm_cache_destroy(sae_lm_cache *cache) {
    if (cache) free(cache->data);
    free(cache);
}

SAE_API size_t sae_lm_cache_count(const sae_lm_cache *cache) { return cache->count; }

SAE_API void sae_lm_cache_truncate(sae_lm_cache *cache, size_t count) {
    cache->count = lmi_min(cache->count, count);
}

/* ---- the next token ---- */

/* Number i of a seed, in [0, 1): splitmix64's hash of the counter. */
static double lmi_random(uint64_t seed, uint64_t i) {
    uint64_t x = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    return (double)(x >> 11) * (1.0 / 9007199254740992.0);
}

/* The pass of the newest tokens leaves the last row's logits here. */
typedef struct lmi_choice {
    const sae_lm_generate_desc *desc;
    float *logits;     /* a copy [vocab]; NULL where greedy */
    uint32_t *heap;    /* [vocab] */
    size_t size;
    uint64_t drawn;
    int32_t next;
} lmi_choice;

/* Whether id a comes before b: the larger logit, of equal ones the lower id. */
static bool lmi_before(const float *logits, uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void lmi_sift(const float *logits, uint32_t *heap, size_t n, size_t at) {
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        uint32_t swap = heap[at];
        if (child + 1 < n && lmi_before(logits, heap[child + 1], heap[child])) child++;
        if (!lmi_before(logits, heap[child], swap)) return;
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

/* exp((x - most) / temperature) */
static double lmi_odds(const lmi_choice *c, double x, double most) {
    x = (x - most) / c->desc->temperature;
    return x > -700 ? lmi_exp(x) : 0;
}

/* Draws from softmax(logits / temperature), the likeliest first, among those that together reach
   top_p. */
static void lmi_draw(lmi_choice *c) {
    double top = c->desc->top_p > 0 ? c->desc->top_p : 1, all = 0, kept = 0, most, u;
    size_t n = c->size, left = n;
    for (size_t i = 0; i < n; i++) c->heap[i] = (uint32_t)i;
    for (size_t i = n / 2; i-- > 0;) lmi_sift(c->logits, c->heap, n, i);
    most = (double)c->logits[c->heap[0]];
    for (size_t i = 0; i < n; i++) all += lmi_odds(c, (double)c->logits[i], most);
    /* the heap gives them in order, to the back of its array */
    while (left > 0 && kept < top * all) {
        uint32_t first = c->heap[0];
        kept += lmi_odds(c, (double)c->logits[first], most);
        c->heap[0] = c->heap[--left];
        c->heap[left] = first;
        lmi_sift(c->logits, c->heap, left, 0);
    }
    u = lmi_random(c->desc->seed, c->drawn++) * kept;
    for (size_t i = n; i-- > left;) {
        c->next = (int32_t)c->heap[i];
        u -= lmi_odds(c, (double)c->logits[c->heap[i]], most);
        if (u < 0) return;
    }
}

static sae_result lmi_choose(void *user, const float *logits, size_t first, size_t count) {
    lmi_choice *c = (lmi_choice *)user;
    (void)first;
    (void)count;
    if (c->logits) {
        memcpy(c->logits, logits, c->size * sizeof *logits);
        lmi_draw(c);
        return SAE_OK;
    }
    c->next = 0;
    for (size_t i = 1; i < c->size; i++)
        if (logits[i] > logits[c->next]) c->next = (int32_t)i;
    return SAE_OK;
}

/* ---- the loop ---- */

enum { LMI_PROMPT_ROWS = 512 }; /* of a prompt that run at once */

static sae_result lmi_generate_check(const sae_lm *m, const sae_lm_generate_desc *d,
                                     const sae_tokens *out) {
    if (!d || !out || !d->prompt || !d->num_prompt || (d->num_stop && !d->stop))
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: num_prompt is %zu, prompt and out may not be "
                                "NULL, allowed is from 1", d ? d->num_prompt : 0);
    if (!(d->temperature >= 0) || d->temperature > 1e6 || !(d->top_p >= 0) || d->top_p > 1)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: temperature is %g, top_p %g, allowed are from 0 "
                                "to 1e6 and from 0 to 1", d->temperature, d->top_p);
    if (d->num_prompt > INT32_MAX || d->count > INT32_MAX)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: num_prompt is %zu, count %zu, allowed are below "
                                "2^31", d->num_prompt, d->count);
    if (m->shape.info.fixed_ctx && d->count && d->num_prompt + d->count - 1 > m->shape.info.max_ctx)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_generate: num_prompt is %zu, count %zu, and the model's "
                                "positions are learned: allowed are %zu tokens and one more",
                                d->num_prompt, d->count, m->shape.info.max_ctx);
    return SAE_OK;
}

static sae_result lmi_generate_add(const sae_lm *m, sae_tokens *out, int32_t id) {
    if (!lmi_grow((void **)&out->id, &out->capacity, out->count + 1, sizeof *out->id))
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_generate: no memory");
    out->id[out->count++] = id;
    return SAE_OK;
}

static sae_result lmi_generate(sae_lm *m, lmi_choice *c, sae_lm_cache *cache, sae_tokens *out) {
    const sae_lm_generate_desc *d = c->desc;
    sae_lm_forward_desc run;
    size_t last;
    memset(&run, 0, sizeof run);
    run.contexts = 1;
    run.cache = cache;
    run.hooks = d->hooks;
    run.num_hooks = d->num_hooks;
    run.user = c;
    for (size_t at = 0; at < d->num_prompt; at += run.ctx) {
        run.tokens = d->prompt + at;
        run.ctx = lmi_min(LMI_PROMPT_ROWS, d->num_prompt - at);
        last = run.ctx - 1;
        run.rows = &last;
        run.num_rows = 1;
        run.logits = at + run.ctx == d->num_prompt ? lmi_choose : NULL;
        LMI_TRY(sae_lm_forward(m, &run));
    }
    for (size_t i = 0;;) {
        int32_t id = c->next;
        LMI_TRY(lmi_generate_add(m, out, id));
        if (d->token) LMI_TRY(d->token(d->user, id));
        for (size_t j = 0; j < d->num_stop; j++)
            if (d->stop[j] == id) return SAE_OK;
        if (++i == d->count) return SAE_OK;
        run.tokens = &id;
        run.ctx = 1;
        last = 0;
        LMI_TRY(sae_lm_forward(m, &run));
    }
}

SAE_API sae_result sae_lm_generate(sae_lm *lm, const sae_lm_generate_desc *desc, sae_tokens *out) {
    lmi_choice c;
    sae_lm_cache *cache = NULL;
    sae_result result;
    if (!lm) return SAE_ERR_INVALID;
    LMI_TRY(lmi_generate_check(lm, desc, out));
    if (!desc->count) return SAE_OK;
    memset(&c, 0, sizeof c);
    c.desc = desc;
    c.size = lm->shape.info.vocab_size;
    if (desc->temperature > 0) {
        c.logits = (float *)malloc(c.size * sizeof *c.logits);
        c.heap = (uint32_t *)malloc(c.size * sizeof *c.heap);
    }
    if (desc->temperature > 0 && (!c.logits || !c.heap))
        result = sae_context_fail(lm->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_generate: no memory");
    else result = sae_lm_cache_create(lm, desc->num_prompt + desc->count - 1, &cache);
    if (result == SAE_OK) result = lmi_generate(lm, &c, cache, out);
    sae_lm_cache_destroy(cache);
    free(c.logits);
    free(c.heap);
    return result;
}

#include <stdint.h>

/* ==== >>lm: unicode: classes ==================================== src/lm/unicode_classes.h ==== */
/* Written by tools/make_unicode.py: Unicode 16.0, as the package tokenizers has it. */

/* of each character the sets it is in, as in text.h */
static const unsigned char lmi_ascii[] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 64, 64, 64, 64, 64, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 64, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 160, 160, 160, 160, 160, 160, 160, 160,
    160, 160, 1, 1, 1, 1, 1, 1, 1, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130,
    130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 130, 1, 1, 1, 1, 129, 1, 132, 132,
    132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132, 132,
    132, 132, 132, 132, 132, 1, 1, 1, 1, 1
};

/* code << 4 | class, from there on and from U+0080: 1 upper or title case, 2 lower case,
   3 other letter, 4 mark, 5 number, 6 white space, 0 other; + 8: \w */
static const uint32_t lmi_classes[] = {
    2134, 2144, 2566, 2576, 2731, 2736, 2853, 2880, 2906, 2912, 2965, 2987, 2992, 3013, 3056, 3081,
    3440, 3465, 3578, 3952, 3978, 4105, 4122, 4137, 4154, 4169, 4186, 4201, 4218, 4233, 4250, 4265,
    4282, 4297, 4314, 4329, 4346, 4361, 4378, 4393, 4410, 4425, 4442, 4457, 4474, 4489, 4506, 4521,
    4538, 4553, 4570, 4585, 4602, 4617, 4634, 4649, 4666, 4681, 4698, 4713, 4730, 4745, 4762, 4777,
    4794, 4809, 4826, 4841, 4858, 4873, 4890, 4905, 4922, 4937, 4954, 4969, 4986, 5017, 5034, 5049,
    5066, 5081, 5098, 5113, 5130, 5145, 5162, 5177, 5194, 5209, 5226, 5241, 5258, 5289, 5306, 5321,
    5338, 5353, 5370, 5385, 5402, 5417, 5434, 5449, 5466, 5481, 5498, 5513, 5530, 5545, 5562, 5577,
    5594, 5609, 5626, 5641, 5658, 5673, 5690, 5705, 5722, 5737, 5754, 5769, 5786, 5801, 5818, 5833,
    5850, 5865, 5882, 5897, 5914, 5929, 5946, 5961, 5978, 5993, 6010, 6025, 6058, 6073, 6090, 6105,
    6122, 6169, 6202, 6217, 6234, 6249, 6282, 6297, 6346, 6377, 6442, 6457, 6490, 6505, 6554, 6601,
    6634, 6649, 6682, 6697, 6714, 6729, 6746, 6761, 6794, 6809, 6826, 6857, 6874, 6889, 6922, 6937,
    6986, 7001, 7018, 7033, 7066, 7099, 7113, 7130, 7179, 7241, 7274, 7289, 7322, 7337, 7370, 7385,
    7402, 7417, 7434, 7449, 7466, 7481, 7498, 7513, 7530, 7545, 7562, 7577, 7594, 7609, 7626, 7657,
    7674, 7689, 7706, 7721, 7738, 7753, 7770, 7785, 7802, 7817, 7834, 7849, 7866, 7881, 7898, 7913,
    7930, 7961, 7994, 8009, 8026, 8041, 8090, 8105, 8122, 8137, 8154, 8169, 8186, 8201, 8218, 8233,
    8250, 8265, 8282, 8297, 8314, 8329, 8346, 8361, 8378, 8393, 8410, 8425, 8442, 8457, 8474, 8489,
    8506, 8521, 8538, 8553, 8570, 8585, 8602, 8617, 8634, 8649, 8666, 8681, 8698, 8713, 8730, 8745,
    8762, 8777, 8794, 8809, 8826, 8841, 8858, 8873, 8890, 8905, 8922, 8937, 8954, 8969, 8986, 9001,
    9018, 9129, 9162, 9177, 9210, 9241, 9258, 9273, 9338, 9353, 9370, 9385, 9402, 9417, 9434, 9449,
    9466, 10571, 10586, 11019, 11296, 11371, 11552, 11787, 11856, 11979, 11984, 12011, 12016, 12300,
    14089, 14106, 14121, 14138, 14155, 14160, 14185, 14202, 14208, 14251, 14266, 14304, 14329,
    14336, 14441, 14448, 14473, 14512, 14537, 14544, 14569, 14602, 14617, 14880, 14905, 15050,
    15609, 15626, 15657, 15706, 15753, 15770, 15785, 15802, 15817, 15834, 15849, 15866, 15881,
    15898, 15913, 15930, 15945, 15962, 15977, 15994, 16009, 16026, 16041, 16058, 16073, 16090,
    16105, 16122, 16201, 16218, 16224, 16249, 16266, 16281, 16314, 16345, 17162, 17929, 17946,
    17961, 17978, 17993, 18010, 18025, 18042, 18057, 18074, 18089, 18106, 18121, 18138, 18153,
    18170, 18185, 18202, 18217, 18234, 18249, 18266, 18281, 18298, 18313, 18330, 18345, 18362,
    18377, 18394, 18409, 18426, 18441, 18458, 18464, 18492, 18601, 18618, 18633, 18650, 18665,
    18682, 18697, 18714, 18729, 18746, 18761, 18778, 18793, 18810, 18825, 18842, 18857, 18874,
    18889, 18906, 18921, 18938, 18953, 18970, 18985, 19002, 19017, 19034, 19049, 19066, 19081,
    19098, 19113, 19130, 19145, 19162, 19177, 19194, 19209, 19226, 19241, 19258, 19273, 19290,
    19305, 19322, 19337, 19354, 19369, 19386, 19401, 19418, 19433, 19450, 19465, 19498, 19513,
    19530, 19545, 19562, 19577, 19594, 19609, 19626, 19641, 19658, 19673, 19690, 19721, 19738,
    19753, 19770, 19785, 19802, 19817, 19834, 19849, 19866, 19881, 19898, 19913, 19930, 19945,
    19962, 19977, 19994, 20009, 20026, 20041, 20058, 20073, 20090, 20105, 20122, 20137, 20154,
    20169, 20186, 20201, 20218, 20233, 20250, 20265, 20282, 20297, 20314, 20329, 20346, 20361,
    20378, 20393, 20410, 20425, 20442, 20457, 20474, 20489, 20506, 20521, 20538, 20553, 20570,
    20585, 20602, 20617, 20634, 20649, 20666, 20681, 20698, 20713, 20730, 20745, 20762, 20777,
    20794, 20809, 20826, 20841, 20858, 20873, 20890, 20905, 20922, 20937, 20954, 20969, 20986,
    21001, 21018, 21033, 21050, 21065, 21082, 21097, 21114, 21129, 21146, 21161, 21178, 21193,
    21210, 21225, 21242, 21248, 21273, 21872, 21915, 21920, 22026, 22672, 22812, 23520, 23548,
    23552, 23580, 23600, 23628, 23648, 23676, 23680, 23819, 24240, 24315, 24368, 24844, 25008,
    25099, 25788, 26125, 26272, 26347, 26380, 26395, 27968, 27995, 28012, 28112, 28156, 28251,
    28284, 28304, 28332, 28395, 28429, 28587, 28624, 28667, 28672, 28939, 28956, 28971, 29452,
    29872, 29915, 31340, 31515, 31520, 31757, 31915, 32444, 32587, 32608, 32683, 32688, 32732,
    32736, 32779, 33132, 33195, 33212, 33355, 33372, 33419, 33436, 33504, 33803, 34204, 34240,
    34315, 34480, 34571, 34944, 34971, 35056, 35196, 35339, 36012, 36384, 36412, 36939, 37804,
    37851, 37868, 38155, 38172, 38283, 38444, 38464, 38509, 38656, 38683, 38940, 38976, 39003,
    39120, 39163, 39184, 39227, 39568, 39595, 39696, 39723, 39728, 39787, 39840, 39884, 39899,
    39916, 40016, 40060, 40080, 40124, 40171, 40176, 40316, 40320, 40395, 40416, 40443, 40492,
    40512, 40557, 40715, 40736, 40773, 40864, 40907, 40912, 40940, 40944, 40988, 41024, 41051,
    41136, 41211, 41232, 41275, 41616, 41643, 41744, 41771, 41792, 41819, 41840, 41867, 41888,
    41932, 41936, 41964, 42032, 42108, 42128, 42172, 42208, 42268, 42272, 42395, 42448, 42475,
    42480, 42605, 42764, 42795, 42844, 42848, 43036, 43072, 43099, 43232, 43259, 43296, 43323,
    43664, 43691, 43792, 43819, 43840, 43867, 43936, 43980, 43995, 44012, 44128, 44156, 44192,
    44220, 44256, 44299, 44304, 44555, 44588, 44608, 44653, 44800, 44955, 44972, 45056, 45084,
    45120, 45147, 45264, 45307, 45328, 45371, 45712, 45739, 45840, 45867, 45888, 45915, 45984,
    46028, 46043, 46060, 46160, 46204, 46224, 46268, 46304, 46428, 46464, 46539, 46560, 46587,
    46636, 46656, 46701, 46848, 46875, 46885, 46976, 47148, 47163, 47168, 47195, 47280, 47339,
    47376, 47403, 47456, 47515, 47536, 47563, 47568, 47595, 47616, 47675, 47696, 47755, 47792,
    47851, 48032, 48108, 48176, 48236, 48272, 48300, 48352, 48395, 48400, 48508, 48512, 48749,
    48901, 48944, 49164, 49243, 49360, 49387, 49424, 49451, 49808, 49835, 50080, 50124, 50139,
    50156, 50256, 50284, 50320, 50348, 50400, 50524, 50544, 50571, 50608, 50651, 50656, 50699,
    50732, 50752, 50797, 50944, 51077, 51184, 51211, 51228, 51264, 51291, 51408, 51435, 51472,
    51499, 51856, 51883, 52032, 52059, 52128, 52172, 52187, 52204, 52304, 52332, 52368, 52396,
    52448, 52572, 52592, 52699, 52720, 52747, 52780, 52800, 52845, 52992, 53019, 53052, 53056,
    53260, 53323, 53456, 53483, 53520, 53547, 54204, 54235, 54252, 54352, 54380, 54416, 54444,
    54507, 54512, 54603, 54652, 54661, 54779, 54828, 54848, 54893, 55045, 55184, 55211, 55296,
    55324, 55360, 55387, 55664, 55723, 56096, 56123, 56256, 56283, 56288, 56331, 56432, 56492,
    56496, 56572, 56656, 56684, 56688, 56716, 56832, 56941, 57088, 57132, 57152, 57371, 58140,
    58155, 58188, 58288, 58379, 58492, 58608, 58637, 58784, 59419, 59440, 59467, 59472, 59499,
    59568, 59595, 59968, 59995, 60000, 60027, 60188, 60203, 60236, 60379, 60384, 60427, 60496,
    60523, 60528, 60556, 60656, 60685, 60832, 60875, 60928, 61451, 61456, 61836, 61856, 61965,
    62117, 62272, 62300, 62304, 62332, 62336, 62364, 62368, 62444, 62475, 62592, 62619, 63184,
    63260, 63568, 63596, 63627, 63708, 63872, 63900, 64464, 64620, 64624, 65547, 66236, 66555,
    66573, 66720, 66827, 66924, 66987, 67052, 67099, 67116, 67163, 67196, 67307, 67356, 67419,
    67628, 67819, 67836, 67853, 68012, 68064, 68105, 68704, 68729, 68736, 68825, 68832, 68874,
    69552, 69579, 69594, 69643, 74896, 74923, 74976, 75019, 75120, 75147, 75152, 75179, 75232,
    75275, 75920, 75947, 76000, 76043, 76560, 76587, 76640, 76683, 76784, 76811, 76816, 76843,
    76896, 76939, 77168, 77195, 78096, 78123, 78176, 78219, 79280, 79324, 79360, 79509, 79824,
    79883, 80128, 80393, 81760, 81802, 81888, 81947, 91856, 91899, 92166, 92187, 92592, 92683,
    93872, 93933, 93979, 94096, 94219, 94508, 94560, 94715, 95020, 95056, 95243, 95532, 95552,
    95755, 95952, 95979, 96016, 96044, 96064, 96267, 97100, 97600, 97659, 97664, 97739, 97756,
    97760, 97805, 97952, 98053, 98208, 98492, 98528, 98556, 98573, 98720, 98827, 100240, 100363,
    100444, 100475, 101020, 101035, 101040, 101131, 102240, 102411, 102896, 102924, 103104, 103180,
    103360, 103533, 103691, 104160, 104203, 104272, 104459, 105152, 105227, 105632, 105741, 105893,
    105904, 106507, 106876, 106944, 107019, 107868, 108016, 108044, 108496, 108540, 108557, 108704,
    108813, 108960, 109179, 109184, 109324, 109808, 110604, 110683, 111436, 111707, 111824, 111885,
    112032, 112316, 112448, 112652, 112699, 113180, 113387, 113421, 113579, 114284, 114496, 114699,
    115276, 115584, 115725, 115872, 115931, 115981, 116139, 116704, 116746, 116889, 116906, 116912,
    117001, 117680, 117721, 117760, 118028, 118064, 118092, 118427, 118492, 118507, 118604, 118619,
    118652, 118699, 118704, 118794, 119499, 120506, 120715, 120730, 121275, 121868, 122889, 122906,
    122921, 122938, 122953, 122970, 122985, 123002, 123017, 123034, 123049, 123066, 123081, 123098,
    123113, 123130, 123145, 123162, 123177, 123194, 123209, 123226, 123241, 123258, 123273, 123290,
    123305, 123322, 123337, 123354, 123369, 123386, 123401, 123418, 123433, 123450, 123465, 123482,
    123497, 123514, 123529, 123546, 123561, 123578, 123593, 123610, 123625, 123642, 123657, 123674,
    123689, 123706, 123721, 123738, 123753, 123770, 123785, 123802, 123817, 123834, 123849, 123866,
    123881, 123898, 123913, 123930, 123945, 123962, 123977, 123994, 124009, 124026, 124041, 124058,
    124073, 124090, 124105, 124122, 124137, 124154, 124169, 124186, 124201, 124218, 124233, 124250,
    124265, 124282, 124297, 124314, 124329, 124346, 124361, 124378, 124393, 124410, 124425, 124442,
    124457, 124474, 124489, 124506, 124521, 124538, 124553, 124570, 124585, 124602, 124617, 124634,
    124649, 124666, 124681, 124698, 124713, 124730, 124745, 124762, 124777, 124794, 124809, 124826,
    124841, 124858, 124873, 124890, 124905, 124922, 124937, 124954, 124969, 124986, 125001, 125018,
    125033, 125050, 125065, 125082, 125097, 125114, 125129, 125146, 125161, 125178, 125193, 125210,
    125225, 125242, 125257, 125274, 125417, 125434, 125449, 125466, 125481, 125498, 125513, 125530,
    125545, 125562, 125577, 125594, 125609, 125626, 125641, 125658, 125673, 125690, 125705, 125722,
    125737, 125754, 125769, 125786, 125801, 125818, 125833, 125850, 125865, 125882, 125897, 125914,
    125929, 125946, 125961, 125978, 125993, 126010, 126025, 126042, 126057, 126074, 126089, 126106,
    126121, 126138, 126153, 126170, 126185, 126202, 126217, 126234, 126249, 126266, 126281, 126298,
    126313, 126330, 126345, 126362, 126377, 126394, 126409, 126426, 126441, 126458, 126473, 126490,
    126505, 126522, 126537, 126554, 126569, 126586, 126601, 126618, 126633, 126650, 126665, 126682,
    126697, 126714, 126729, 126746, 126761, 126778, 126793, 126810, 126825, 126842, 126857, 126874,
    126889, 126906, 126921, 126938, 126953, 126970, 127113, 127242, 127328, 127369, 127456, 127498,
    127625, 127754, 127881, 128010, 128096, 128137, 128224, 128266, 128384, 128409, 128416, 128441,
    128448, 128473, 128480, 128505, 128522, 128649, 128778, 128992, 129034, 129161, 129290, 129417,
    129546, 129673, 129802, 129872, 129898, 129929, 130000, 130026, 130032, 130090, 130128, 130154,
    130185, 130256, 130314, 130368, 130410, 130441, 130496, 130570, 130697, 130768, 130858, 130896,
    130922, 130953, 131024, 131078, 131248, 131272, 131296, 131718, 131744, 131830, 131840, 132088,
    132112, 132424, 132432, 132598, 132608, 132869, 132891, 132896, 132933, 133024, 133115, 133125,
    133280, 133387, 133584, 134412, 134928, 135209, 135216, 135289, 135296, 135338, 135353, 135402,
    135433, 135482, 135488, 135513, 135520, 135577, 135648, 135753, 135760, 135785, 135792, 135817,
    135824, 135849, 135904, 135930, 135945, 136010, 136027, 136090, 136096, 136138, 136169, 136192,
    136281, 136298, 136352, 136426, 136432, 136453, 136717, 137273, 137290, 137309, 137365, 137376,
    148997, 149952, 150376, 151205, 151552, 161637, 162112, 180233, 181002, 181769, 181786, 181801,
    181850, 181881, 181898, 181913, 181930, 181945, 181962, 181977, 182042, 182057, 182074, 182105,
    182122, 182219, 182249, 182298, 182313, 182330, 182345, 182362, 182377, 182394, 182409, 182426,
    182441, 182458, 182473, 182490, 182505, 182522, 182537, 182554, 182569, 182586, 182601, 182618,
    182633, 182650, 182665, 182682, 182697, 182714, 182729, 182746, 182761, 182778, 182793, 182810,
    182825, 182842, 182857, 182874, 182889, 182906, 182921, 182938, 182953, 182970, 182985, 183002,
    183017, 183034, 183049, 183066, 183081, 183098, 183113, 183130, 183145, 183162, 183177, 183194,
    183209, 183226, 183241, 183258, 183273, 183290, 183305, 183322, 183337, 183354, 183369, 183386,
    183401, 183418, 183433, 183450, 183465, 183482, 183497, 183514, 183529, 183546, 183561, 183578,
    183593, 183610, 183625, 183642, 183657, 183674, 183689, 183706, 183721, 183738, 183753, 183770,
    183785, 183802, 183817, 183834, 183849, 183866, 183888, 183993, 184010, 184025, 184042, 184060,
    184105, 184122, 184128, 184277, 184288, 184330, 184928, 184954, 184960, 185050, 185056, 185099,
    185984, 186107, 186112, 186364, 186379, 186736, 186891, 186992, 187019, 187120, 187147, 187248,
    187275, 187376, 187403, 187504, 187531, 187632, 187659, 187760, 187787, 187888, 187916, 188416,
    189179, 189184, 196614, 196624, 196699, 196733, 196736, 197149, 197292, 197376, 197403, 197472,
    197517, 197563, 197584, 197659, 199024, 199068, 199088, 199131, 199168, 199195, 200624, 200651,
    200704, 200795, 201472, 201499, 202992, 203045, 203104, 203275, 203776, 204555, 204800, 205317,
    205472, 205957, 206080, 206101, 206336, 206853, 207008, 207637, 207872, 213003, 318464, 319499,
    674000, 675083, 675808, 675851, 680144, 680203, 680461, 680619, 680640, 680969, 680986, 681001,
    681018, 681033, 681050, 681065, 681082, 681097, 681114, 681129, 681146, 681161, 681178, 681193,
    681210, 681225, 681242, 681257, 681274, 681289, 681306, 681321, 681338, 681353, 681370, 681385,
    681402, 681417, 681434, 681449, 681466, 681481, 681498, 681513, 681530, 681545, 681562, 681577,
    681594, 681609, 681626, 681641, 681658, 681673, 681690, 681707, 681724, 681776, 681804, 681952,
    681979, 681993, 682010, 682025, 682042, 682057, 682074, 682089, 682106, 682121, 682138, 682153,
    682170, 682185, 682202, 682217, 682234, 682249, 682266, 682281, 682298, 682313, 682330, 682345,
    682362, 682377, 682394, 682409, 682426, 682443, 682476, 682507, 683629, 683788, 683808, 684411,
    684544, 684585, 684602, 684617, 684634, 684649, 684666, 684681, 684698, 684713, 684730, 684745,
    684762, 684777, 684794, 684841, 684858, 684873, 684890, 684905, 684922, 684937, 684954, 684969,
    684986, 685001, 685018, 685033, 685050, 685065, 685082, 685097, 685114, 685129, 685146, 685161,
    685178, 685193, 685210, 685225, 685242, 685257, 685274, 685289, 685306, 685321, 685338, 685353,
    685370, 685385, 685402, 685417, 685434, 685449, 685466, 685481, 685498, 685513, 685530, 685545,
    685562, 685577, 685594, 685609, 685626, 685641, 685658, 685673, 685690, 685705, 685722, 685737,
    685754, 685769, 685786, 685801, 685818, 685835, 685850, 685977, 685994, 686009, 686026, 686041,
    686074, 686089, 686106, 686121, 686138, 686153, 686170, 686185, 686202, 686219, 686224, 686265,
    686282, 686297, 686314, 686331, 686345, 686362, 686377, 686394, 686441, 686458, 686473, 686490,
    686505, 686522, 686537, 686554, 686569, 686586, 686601, 686618, 686633, 686650, 686665, 686682,
    686697, 686714, 686729, 686746, 686761, 686842, 686857, 686938, 686953, 686970, 686985, 687002,
    687017, 687034, 687049, 687066, 687081, 687098, 687113, 687130, 687145, 687162, 687177, 687242,
    687257, 687274, 687289, 687322, 687328, 687369, 687386, 687392, 687418, 687424, 687450, 687465,
    687482, 687497, 687514, 687529, 687546, 687561, 687568, 687915, 687961, 687978, 687995, 688042,
    688059, 688172, 688187, 688236, 688251, 688316, 688331, 688700, 688768, 688844, 688848, 688901,
    688992, 689163, 689984, 690188, 690219, 691020, 691296, 691469, 691616, 691724, 692011, 692096,
    692155, 692160, 692187, 692220, 692237, 692395, 692844, 692960, 693003, 693372, 693568, 693771,
    694224, 694284, 694347, 695100, 695312, 695547, 695565, 695712, 695819, 695900, 695915, 696077,
    696235, 696304, 696331, 696988, 697200, 697355, 697404, 697419, 697548, 697568, 697613, 697760,
    697867, 698224, 698283, 698300, 698347, 699148, 699163, 699180, 699227, 699260, 699291, 699372,
    699403, 699420, 699435, 699440, 699835, 699872, 699915, 700092, 700160, 700203, 700252, 700272,
    700443, 700528, 700571, 700656, 700699, 700784, 700939, 701040, 701067, 701168, 701194, 701872,
    701899, 701962, 702107, 702112, 702218, 703499, 704060, 704176, 704204, 704224, 704269, 704416,
    704523, 883264, 883467, 883824, 883899, 884672, 1019915, 1025760, 1025803, 1027488, 1028106,
    1028208, 1028410, 1028480, 1028571, 1028588, 1028603, 1028752, 1028779, 1028976, 1029003,
    1029072, 1029099, 1029104, 1029131, 1029152, 1029179, 1029200, 1029227, 1030944, 1031483,
    1037280, 1037579, 1038592, 1038635, 1039488, 1040139, 1040320, 1040396, 1040640, 1040908,
    1041152, 1041208, 1041232, 1041624, 1041664, 1042187, 1042256, 1042283, 1044432, 1044749,
    1044896, 1045017, 1045424, 1045496, 1045504, 1045530, 1045936, 1046123, 1047536, 1047595,
    1047680, 1047723, 1047808, 1047851, 1047936, 1047979, 1048016, 1048587, 1048768, 1048795,
    1049200, 1049227, 1049520, 1049547, 1049568, 1049595, 1049824, 1049867, 1050080, 1050635,
    1052592, 1052789, 1053504, 1053709, 1054549, 1054608, 1054885, 1054912, 1056732, 1056736,
    1058827, 1059280, 1059339, 1060112, 1060364, 1060373, 1060800, 1060875, 1061381, 1061440,
    1061595, 1061917, 1061931, 1062061, 1062064, 1062155, 1062764, 1062832, 1062923, 1063392,
    1063435, 1064000, 1064075, 1064192, 1064221, 1064288, 1064969, 1065610, 1066251, 1067488,
    1067533, 1067680, 1067785, 1068352, 1068426, 1068992, 1069067, 1069696, 1069835, 1070656,
    1070857, 1071024, 1071049, 1071280, 1071305, 1071408, 1071433, 1071456, 1071482, 1071648,
    1071674, 1071904, 1071930, 1072032, 1072058, 1072080, 1072139, 1072960, 1073163, 1078128,
    1078283, 1078624, 1078795, 1078912, 1079307, 1079392, 1079419, 1080080, 1080107, 1080240,
    1081355, 1081440, 1081483, 1081488, 1081515, 1082208, 1082235, 1082256, 1082315, 1082320,
    1082363, 1082720, 1082757, 1082891, 1083248, 1083285, 1083403, 1083888, 1084021, 1084160,
    1084939, 1085232, 1085259, 1085280, 1085365, 1085451, 1085797, 1085888, 1085963, 1086368,
    1087499, 1088384, 1088453, 1088491, 1088517, 1088768, 1088805, 1089547, 1089564, 1089600,
    1089628, 1089648, 1089740, 1089803, 1089856, 1089883, 1089920, 1089947, 1090400, 1090444,
    1090480, 1090556, 1090565, 1090704, 1091083, 1091541, 1091568, 1091595, 1092053, 1092096,
    1092619, 1092736, 1092763, 1093212, 1093232, 1093301, 1093376, 1093643, 1094496, 1094667,
    1095008, 1095045, 1095179, 1095472, 1095557, 1095691, 1095968, 1096341, 1096448, 1097739,
    1098896, 1099785, 1100592, 1100810, 1101616, 1101733, 1101835, 1102412, 1102464, 1102605,
    1102752, 1102861, 1103019, 1103113, 1103456, 1103516, 1103584, 1103611, 1103626, 1103968,
    1107461, 1107952, 1107979, 1108640, 1108668, 1108688, 1108747, 1108768, 1109035, 1109072,
    1109964, 1110027, 1110485, 1110651, 1110656, 1110795, 1111148, 1111317, 1111376, 1111819,
    1112108, 1112160, 1112843, 1113173, 1113280, 1113611, 1113968, 1114124, 1114171, 1115020,
    1115248, 1115429, 1115757, 1115916, 1115931, 1115964, 1115995, 1116000, 1116156, 1116219,
    1116940, 1117104, 1117228, 1117232, 1117451, 1117840, 1117965, 1118112, 1118220, 1118267,
    1118844, 1119056, 1119085, 1119232, 1119307, 1119324, 1119355, 1119360, 1119499, 1120060,
    1120064, 1120107, 1120112, 1120268, 1120315, 1121084, 1121307, 1121360, 1121436, 1121488,
    1121516, 1121549, 1121707, 1121712, 1121739, 1121744, 1121813, 1122128, 1122315, 1122592,
    1122619, 1123020, 1123200, 1123308, 1123323, 1123356, 1123360, 1124363, 1124464, 1124491,
    1124496, 1124523, 1124576, 1124603, 1124832, 1124859, 1125008, 1125131, 1125884, 1126064,
    1126157, 1126304, 1126412, 1126464, 1126491, 1126608, 1126651, 1126672, 1126715, 1127056,
    1127083, 1127184, 1127211, 1127232, 1127259, 1127328, 1127356, 1127387, 1127404, 1127504,
    1127548, 1127568, 1127612, 1127648, 1127691, 1127696, 1127804, 1127808, 1127899, 1127980,
    1128000, 1128044, 1128144, 1128204, 1128272, 1128459, 1128608, 1128635, 1128640, 1128683,
    1128688, 1128715, 1129312, 1129339, 1129356, 1129488, 1129516, 1129520, 1129564, 1129568,
    1129596, 1129648, 1129676, 1129755, 1129772, 1129787, 1129792, 1130012, 1130032, 1130507,
    1131356, 1131643, 1131696, 1131789, 1131936, 1132012, 1132027, 1132064, 1132555, 1133324,
    1133643, 1133664, 1133691, 1133696, 1133837, 1133984, 1136651, 1137404, 1137504, 1137548,
    1137680, 1138059, 1138124, 1138144, 1138699, 1139468, 1139728, 1139787, 1139792, 1139981,
    1140128, 1140747, 1141436, 1141643, 1141648, 1141773, 1141920, 1142029, 1142336, 1142795,
    1143216, 1143260, 1143488, 1143565, 1143717, 1143744, 1143819, 1143920, 1146891, 1147596,
    1147824, 1149449, 1149962, 1150477, 1150629, 1150768, 1150971, 1151088, 1151131, 1151136,
    1151179, 1151296, 1151323, 1151344, 1151371, 1151756, 1151840, 1151868, 1151888, 1151932,
    1151995, 1152012, 1152027, 1152044, 1152064, 1152269, 1152416, 1153547, 1153664, 1153707,
    1154332, 1154432, 1154476, 1154587, 1154592, 1154619, 1154636, 1154640, 1155083, 1155100,
    1155259, 1155900, 1156011, 1156028, 1156080, 1156220, 1156224, 1156363, 1156380, 1156555,
    1157292, 1157536, 1157595, 1157600, 1157899, 1159056, 1162251, 1162768, 1163021, 1163168,
    1163275, 1163408, 1163435, 1164028, 1164144, 1164172, 1164299, 1164304, 1164557, 1164709,
    1165008, 1165099, 1165568, 1165612, 1165952, 1165980, 1166192, 1167371, 1167472, 1167499,
    1167520, 1167547, 1168156, 1168240, 1168300, 1168304, 1168332, 1168352, 1168380, 1168491,
    1168508, 1168512, 1168653, 1168800, 1168907, 1168992, 1169019, 1169040, 1169067, 1169580,
    1169648, 1169676, 1169696, 1169724, 1169803, 1169808, 1169933, 1170080, 1175051, 1175356,
    1175408, 1175564, 1175595, 1175612, 1175627, 1175824, 1175851, 1176396, 1176496, 1176556,
    1176624, 1176845, 1177004, 1177008, 1178379, 1178384, 1178629, 1178960, 1179659, 1194400,
    1196045, 1197808, 1198091, 1201216, 1243403, 1244944, 1245195, 1262336, 1262604, 1262619,
    1262716, 1262944, 1263115, 1327024, 1327115, 1336432, 1445899, 1446380, 1446669, 1446816,
    1474571, 1483664, 1483787, 1484272, 1484301, 1484448, 1484555, 1485808, 1485837, 1485984,
    1486091, 1486560, 1486604, 1486672, 1486859, 1487628, 1487728, 1487883, 1487936, 1488141,
    1488288, 1488309, 1488416, 1488443, 1488768, 1488859, 1489152, 1496075, 1496784, 1496845,
    1496992, 1500169, 1500682, 1501189, 1501552, 1503243, 1504432, 1504508, 1504523, 1504540,
    1505408, 1505532, 1505595, 1505792, 1506827, 1506848, 1506875, 1506892, 1506896, 1507084,
    1507104, 1507339, 1605504, 1605643, 1625440, 1626107, 1626256, 1769227, 1769280, 1769307,
    1769408, 1769435, 1769456, 1769483, 1774128, 1774379, 1774384, 1774859, 1774896, 1774939,
    1774944, 1775179, 1775232, 1775371, 1781696, 1818635, 1820336, 1820427, 1820624, 1820683,
    1820816, 1820939, 1821088, 1821148, 1821168, 1888013, 1888160, 1896460, 1897184, 1897228,
    1897584, 1906268, 1906336, 1906396, 1906480, 1906620, 1906736, 1906780, 1906880, 1907372,
    1907424, 1909804, 1909840, 1911813, 1912128, 1912325, 1912640, 1914373, 1914768, 1916937,
    1917354, 1917769, 1918186, 1918288, 1918314, 1918601, 1919018, 1919433, 1919440, 1919465,
    1919488, 1919529, 1919536, 1919577, 1919600, 1919641, 1919696, 1919721, 1919850, 1919904,
    1919930, 1919936, 1919962, 1920064, 1920090, 1920265, 1920682, 1921097, 1921120, 1921145,
    1921200, 1921241, 1921360, 1921385, 1921488, 1921514, 1921929, 1921952, 1921977, 1922032,
    1922057, 1922128, 1922153, 1922160, 1922217, 1922320, 1922346, 1922761, 1923178, 1923593,
    1924010, 1924425, 1924842, 1925257, 1925674, 1926089, 1926506, 1926921, 1927338, 1927776,
    1927817, 1928208, 1928234, 1928624, 1928650, 1928745, 1929136, 1929162, 1929552, 1929578,
    1929673, 1930064, 1930090, 1930480, 1930506, 1930601, 1930992, 1931018, 1931408, 1931434,
    1931529, 1931920, 1931946, 1932336, 1932362, 1932457, 1932474, 1932480, 1932525, 1933312,
    1941516, 1942384, 1942460, 1943248, 1943388, 1943392, 1943628, 1943632, 1943996, 1944064,
    1944092, 1944320, 1961994, 1962155, 1962170, 1962480, 1962586, 1962672, 1966092, 1966192,
    1966220, 1966480, 1966524, 1966624, 1966652, 1966672, 1966700, 1966768, 1966859, 1967840,
    1968380, 1968384, 1970187, 1970896, 1970956, 1971067, 1971168, 1971213, 1971360, 1971435,
    1971440, 1976587, 1977068, 1977072, 1977355, 1978060, 1978125, 1978272, 1985803, 1986252,
    1986317, 1986464, 1989899, 1990380, 1990411, 1990429, 1990576, 1998347, 1998448, 1998475,
    1998528, 1998555, 1998576, 1998603, 1998832, 1998859, 2002000, 2002037, 2002188, 2002288,
    2002953, 2003498, 2004044, 2004155, 2004160, 2004237, 2004384, 2017045, 2017984, 2018005,
    2018048, 2018069, 2018128, 2019349, 2020064, 2020085, 2020320, 2023435, 2023488, 2023515,
    2023936, 2023963, 2023984, 2024011, 2024016, 2024059, 2024064, 2024091, 2024240, 2024267,
    2024320, 2024347, 2024352, 2024379, 2024384, 2024491, 2024496, 2024571, 2024576, 2024603,
    2024608, 2024635, 2024640, 2024667, 2024704, 2024731, 2024752, 2024779, 2024784, 2024827,
    2024832, 2024859, 2024864, 2024891, 2024896, 2024923, 2024928, 2024955, 2024960, 2024987,
    2025008, 2025035, 2025040, 2025083, 2025136, 2025163, 2025264, 2025291, 2025344, 2025371,
    2025424, 2025451, 2025456, 2025483, 2025632, 2025659, 2025920, 2026011, 2026048, 2026075,
    2026144, 2026171, 2026432, 2035717, 2035920, 2036488, 2036896, 2037000, 2037408, 2037512,
    2037920, 2080525, 2080672, 2097163, 2780672, 2781195, 2847648, 2847755, 2851296, 2851339,
    2943520, 2943755, 3063312, 3063563, 3073504, 3112971, 3121632, 3145739, 3224752, 3224843,
    3291904, 14684172, 14688000
};

#include <stdint.h>

/* ==== >>lm: unicode: NFC ============================================ src/lm/unicode_nfc.h ==== */
/* Written by tools/make_unicode.py: Unicode 9.0, as the package tokenizers has it. */

/* first, last, combining class */
static const uint32_t lmi_marks[] = {
    768, 788, 230, 789, 789, 232, 790, 793, 220, 794, 794, 232, 795, 795, 216, 796, 800, 220, 801,
    802, 202, 803, 806, 220, 807, 808, 202, 809, 819, 220, 820, 824, 1, 825, 828, 220, 829, 836,
    230, 837, 837, 240, 838, 838, 230, 839, 841, 220, 842, 844, 230, 845, 846, 220, 848, 850, 230,
    851, 854, 220, 855, 855, 230, 856, 856, 232, 857, 858, 220, 859, 859, 230, 860, 860, 233, 861,
    862, 234, 863, 863, 233, 864, 865, 234, 866, 866, 233, 867, 879, 230, 1155, 1159, 230, 1425,
    1425, 220, 1426, 1429, 230, 1430, 1430, 220, 1431, 1433, 230, 1434, 1434, 222, 1435, 1435, 220,
    1436, 1441, 230, 1442, 1447, 220, 1448, 1449, 230, 1450, 1450, 220, 1451, 1452, 230, 1453, 1453,
    222, 1454, 1454, 228, 1455, 1455, 230, 1456, 1456, 10, 1457, 1457, 11, 1458, 1458, 12, 1459,
    1459, 13, 1460, 1460, 14, 1461, 1461, 15, 1462, 1462, 16, 1463, 1463, 17, 1464, 1464, 18, 1465,
    1466, 19, 1467, 1467, 20, 1468, 1468, 21, 1469, 1469, 22, 1471, 1471, 23, 1473, 1473, 24, 1474,
    1474, 25, 1476, 1476, 230, 1477, 1477, 220, 1479, 1479, 18, 1552, 1559, 230, 1560, 1560, 30,
    1561, 1561, 31, 1562, 1562, 32, 1611, 1611, 27, 1612, 1612, 28, 1613, 1613, 29, 1614, 1614, 30,
    1615, 1615, 31, 1616, 1616, 32, 1617, 1617, 33, 1618, 1618, 34, 1619, 1620, 230, 1621, 1622,
    220, 1623, 1627, 230, 1628, 1628, 220, 1629, 1630, 230, 1631, 1631, 220, 1648, 1648, 35, 1750,
    1756, 230, 1759, 1762, 230, 1763, 1763, 220, 1764, 1764, 230, 1767, 1768, 230, 1770, 1770, 220,
    1771, 1772, 230, 1773, 1773, 220, 1809, 1809, 36, 1840, 1840, 230, 1841, 1841, 220, 1842, 1843,
    230, 1844, 1844, 220, 1845, 1846, 230, 1847, 1849, 220, 1850, 1850, 230, 1851, 1852, 220, 1853,
    1853, 230, 1854, 1854, 220, 1855, 1857, 230, 1858, 1858, 220, 1859, 1859, 230, 1860, 1860, 220,
    1861, 1861, 230, 1862, 1862, 220, 1863, 1863, 230, 1864, 1864, 220, 1865, 1866, 230, 2027, 2033,
    230, 2034, 2034, 220, 2035, 2035, 230, 2070, 2073, 230, 2075, 2083, 230, 2085, 2087, 230, 2089,
    2093, 230, 2137, 2139, 220, 2260, 2273, 230, 2275, 2275, 220, 2276, 2277, 230, 2278, 2278, 220,
    2279, 2280, 230, 2281, 2281, 220, 2282, 2284, 230, 2285, 2287, 220, 2288, 2288, 27, 2289, 2289,
    28, 2290, 2290, 29, 2291, 2293, 230, 2294, 2294, 220, 2295, 2296, 230, 2297, 2298, 220, 2299,
    2303, 230, 2364, 2364, 7, 2381, 2381, 9, 2385, 2385, 230, 2386, 2386, 220, 2387, 2388, 230,
    2492, 2492, 7, 2509, 2509, 9, 2620, 2620, 7, 2637, 2637, 9, 2748, 2748, 7, 2765, 2765, 9, 2876,
    2876, 7, 2893, 2893, 9, 3021, 3021, 9, 3149, 3149, 9, 3157, 3157, 84, 3158, 3158, 91, 3260,
    3260, 7, 3277, 3277, 9, 3405, 3405, 9, 3530, 3530, 9, 3640, 3641, 103, 3642, 3642, 9, 3656,
    3659, 107, 3768, 3769, 118, 3784, 3787, 122, 3864, 3865, 220, 3893, 3893, 220, 3895, 3895, 220,
    3897, 3897, 216, 3953, 3953, 129, 3954, 3954, 130, 3956, 3956, 132, 3962, 3965, 130, 3968, 3968,
    130, 3970, 3971, 230, 3972, 3972, 9, 3974, 3975, 230, 4038, 4038, 220, 4151, 4151, 7, 4153,
    4154, 9, 4237, 4237, 220, 4957, 4959, 230, 5908, 5908, 9, 5940, 5940, 9, 6098, 6098, 9, 6109,
    6109, 230, 6313, 6313, 228, 6457, 6457, 222, 6458, 6458, 230, 6459, 6459, 220, 6679, 6679, 230,
    6680, 6680, 220, 6752, 6752, 9, 6773, 6780, 230, 6783, 6783, 220, 6832, 6836, 230, 6837, 6842,
    220, 6843, 6844, 230, 6845, 6845, 220, 6964, 6964, 7, 6980, 6980, 9, 7019, 7019, 230, 7020,
    7020, 220, 7021, 7027, 230, 7082, 7083, 9, 7142, 7142, 7, 7154, 7155, 9, 7223, 7223, 7, 7376,
    7378, 230, 7380, 7380, 1, 7381, 7385, 220, 7386, 7387, 230, 7388, 7391, 220, 7392, 7392, 230,
    7394, 7400, 1, 7405, 7405, 220, 7412, 7412, 230, 7416, 7417, 230, 7616, 7617, 230, 7618, 7618,
    220, 7619, 7625, 230, 7626, 7626, 220, 7627, 7628, 230, 7629, 7629, 234, 7630, 7630, 214, 7631,
    7631, 220, 7632, 7632, 202, 7633, 7669, 230, 7675, 7675, 230, 7676, 7676, 233, 7677, 7677, 220,
    7678, 7678, 230, 7679, 7679, 220, 8400, 8401, 230, 8402, 8403, 1, 8404, 8407, 230, 8408, 8410,
    1, 8411, 8412, 230, 8417, 8417, 230, 8421, 8422, 1, 8423, 8423, 230, 8424, 8424, 220, 8425,
    8425, 230, 8426, 8427, 1, 8428, 8431, 220, 8432, 8432, 230, 11503, 11505, 230, 11647, 11647, 9,
    11744, 11775, 230, 12330, 12330, 218, 12331, 12331, 228, 12332, 12332, 232, 12333, 12333, 222,
    12334, 12335, 224, 12441, 12442, 8, 42607, 42607, 230, 42612, 42621, 230, 42654, 42655, 230,
    42736, 42737, 230, 43014, 43014, 9, 43204, 43204, 9, 43232, 43249, 230, 43307, 43309, 220,
    43347, 43347, 9, 43443, 43443, 7, 43456, 43456, 9, 43696, 43696, 230, 43698, 43699, 230, 43700,
    43700, 220, 43703, 43704, 230, 43710, 43711, 230, 43713, 43713, 230, 43766, 43766, 9, 44013,
    44013, 9, 64286, 64286, 26, 65056, 65062, 230, 65063, 65069, 220, 65070, 65071, 230, 66045,
    66045, 220, 66272, 66272, 220, 66422, 66426, 230, 68109, 68109, 220, 68111, 68111, 230, 68152,
    68152, 230, 68153, 68153, 1, 68154, 68154, 220, 68159, 68159, 9, 68325, 68325, 230, 68326,
    68326, 220, 69702, 69702, 9, 69759, 69759, 9, 69817, 69817, 9, 69818, 69818, 7, 69888, 69890,
    230, 69939, 69940, 9, 70003, 70003, 7, 70080, 70080, 9, 70090, 70090, 7, 70197, 70197, 9, 70198,
    70198, 7, 70377, 70377, 7, 70378, 70378, 9, 70460, 70460, 7, 70477, 70477, 9, 70502, 70508, 230,
    70512, 70516, 230, 70722, 70722, 9, 70726, 70726, 7, 70850, 70850, 9, 70851, 70851, 7, 71103,
    71103, 9, 71104, 71104, 7, 71231, 71231, 9, 71350, 71350, 9, 71351, 71351, 7, 71467, 71467, 9,
    72767, 72767, 9, 92912, 92916, 1, 92976, 92982, 230, 113822, 113822, 1, 119141, 119142, 216,
    119143, 119145, 1, 119149, 119149, 226, 119150, 119154, 216, 119163, 119170, 220, 119173,
    119177, 230, 119178, 119179, 220, 119210, 119213, 230, 119362, 119364, 230, 122880, 122886, 230,
    122888, 122904, 230, 122907, 122913, 230, 122915, 122916, 230, 122918, 122922, 230, 125136,
    125142, 220, 125252, 125257, 230, 125258, 125258, 7
};

/* code, first, second (0: none): canonical decompositions but Hangul's */
static const uint32_t lmi_pairs[] = {
    192, 65, 768, 193, 65, 769, 194, 65, 770, 195, 65, 771, 196, 65, 776, 197, 65, 778, 199, 67,
    807, 200, 69, 768, 201, 69, 769, 202, 69, 770, 203, 69, 776, 204, 73, 768, 205, 73, 769, 206,
    73, 770, 207, 73, 776, 209, 78, 771, 210, 79, 768, 211, 79, 769, 212, 79, 770, 213, 79, 771,
    214, 79, 776, 217, 85, 768, 218, 85, 769, 219, 85, 770, 220, 85, 776, 221, 89, 769, 224, 97,
    768, 225, 97, 769, 226, 97, 770, 227, 97, 771, 228, 97, 776, 229, 97, 778, 231, 99, 807, 232,
    101, 768, 233, 101, 769, 234, 101, 770, 235, 101, 776, 236, 105, 768, 237, 105, 769, 238, 105,
    770, 239, 105, 776, 241, 110, 771, 242, 111, 768, 243, 111, 769, 244, 111, 770, 245, 111, 771,
    246, 111, 776, 249, 117, 768, 250, 117, 769, 251, 117, 770, 252, 117, 776, 253, 121, 769, 255,
    121, 776, 256, 65, 772, 257, 97, 772, 258, 65, 774, 259, 97, 774, 260, 65, 808, 261, 97, 808,
    262, 67, 769, 263, 99, 769, 264, 67, 770, 265, 99, 770, 266, 67, 775, 267, 99, 775, 268, 67,
    780, 269, 99, 780, 270, 68, 780, 271, 100, 780, 274, 69, 772, 275, 101, 772, 276, 69, 774, 277,
    101, 774, 278, 69, 775, 279, 101, 775, 280, 69, 808, 281, 101, 808, 282, 69, 780, 283, 101, 780,
    284, 71, 770, 285, 103, 770, 286, 71, 774, 287, 103, 774, 288, 71, 775, 289, 103, 775, 290, 71,
    807, 291, 103, 807, 292, 72, 770, 293, 104, 770, 296, 73, 771, 297, 105, 771, 298, 73, 772, 299,
    105, 772, 300, 73, 774, 301, 105, 774, 302, 73, 808, 303, 105, 808, 304, 73, 775, 308, 74, 770,
    309, 106, 770, 310, 75, 807, 311, 107, 807, 313, 76, 769, 314, 108, 769, 315, 76, 807, 316, 108,
    807, 317, 76, 780, 318, 108, 780, 323, 78, 769, 324, 110, 769, 325, 78, 807, 326, 110, 807, 327,
    78, 780, 328, 110, 780, 332, 79, 772, 333, 111, 772, 334, 79, 774, 335, 111, 774, 336, 79, 779,
    337, 111, 779, 340, 82, 769, 341, 114, 769, 342, 82, 807, 343, 114, 807, 344, 82, 780, 345, 114,
    780, 346, 83, 769, 347, 115, 769, 348, 83, 770, 349, 115, 770, 350, 83, 807, 351, 115, 807, 352,
    83, 780, 353, 115, 780, 354, 84, 807, 355, 116, 807, 356, 84, 780, 357, 116, 780, 360, 85, 771,
    361, 117, 771, 362, 85, 772, 363, 117, 772, 364, 85, 774, 365, 117, 774, 366, 85, 778, 367, 117,
    778, 368, 85, 779, 369, 117, 779, 370, 85, 808, 371, 117, 808, 372, 87, 770, 373, 119, 770, 374,
    89, 770, 375, 121, 770, 376, 89, 776, 377, 90, 769, 378, 122, 769, 379, 90, 775, 380, 122, 775,
    381, 90, 780, 382, 122, 780, 416, 79, 795, 417, 111, 795, 431, 85, 795, 432, 117, 795, 461, 65,
    780, 462, 97, 780, 463, 73, 780, 464, 105, 780, 465, 79, 780, 466, 111, 780, 467, 85, 780, 468,
    117, 780, 469, 220, 772, 470, 252, 772, 471, 220, 769, 472, 252, 769, 473, 220, 780, 474, 252,
    780, 475, 220, 768, 476, 252, 768, 478, 196, 772, 479, 228, 772, 480, 550, 772, 481, 551, 772,
    482, 198, 772, 483, 230, 772, 486, 71, 780, 487, 103, 780, 488, 75, 780, 489, 107, 780, 490, 79,
    808, 491, 111, 808, 492, 490, 772, 493, 491, 772, 494, 439, 780, 495, 658, 780, 496, 106, 780,
    500, 71, 769, 501, 103, 769, 504, 78, 768, 505, 110, 768, 506, 197, 769, 507, 229, 769, 508,
    198, 769, 509, 230, 769, 510, 216, 769, 511, 248, 769, 512, 65, 783, 513, 97, 783, 514, 65, 785,
    515, 97, 785, 516, 69, 783, 517, 101, 783, 518, 69, 785, 519, 101, 785, 520, 73, 783, 521, 105,
    783, 522, 73, 785, 523, 105, 785, 524, 79, 783, 525, 111, 783, 526, 79, 785, 527, 111, 785, 528,
    82, 783, 529, 114, 783, 530, 82, 785, 531, 114, 785, 532, 85, 783, 533, 117, 783, 534, 85, 785,
    535, 117, 785, 536, 83, 806, 537, 115, 806, 538, 84, 806, 539, 116, 806, 542, 72, 780, 543, 104,
    780, 550, 65, 775, 551, 97, 775, 552, 69, 807, 553, 101, 807, 554, 214, 772, 555, 246, 772, 556,
    213, 772, 557, 245, 772, 558, 79, 775, 559, 111, 775, 560, 558, 772, 561, 559, 772, 562, 89,
    772, 563, 121, 772, 832, 768, 0, 833, 769, 0, 835, 787, 0, 836, 776, 769, 884, 697, 0, 894, 59,
    0, 901, 168, 769, 902, 913, 769, 903, 183, 0, 904, 917, 769, 905, 919, 769, 906, 921, 769, 908,
    927, 769, 910, 933, 769, 911, 937, 769, 912, 970, 769, 938, 921, 776, 939, 933, 776, 940, 945,
    769, 941, 949, 769, 942, 951, 769, 943, 953, 769, 944, 971, 769, 970, 953, 776, 971, 965, 776,
    972, 959, 769, 973, 965, 769, 974, 969, 769, 979, 978, 769, 980, 978, 776, 1024, 1045, 768,
    1025, 1045, 776, 1027, 1043, 769, 1031, 1030, 776, 1036, 1050, 769, 1037, 1048, 768, 1038, 1059,
    774, 1049, 1048, 774, 1081, 1080, 774, 1104, 1077, 768, 1105, 1077, 776, 1107, 1075, 769, 1111,
    1110, 776, 1116, 1082, 769, 1117, 1080, 768, 1118, 1091, 774, 1142, 1140, 783, 1143, 1141, 783,
    1217, 1046, 774, 1218, 1078, 774, 1232, 1040, 774, 1233, 1072, 774, 1234, 1040, 776, 1235, 1072,
    776, 1238, 1045, 774, 1239, 1077, 774, 1242, 1240, 776, 1243, 1241, 776, 1244, 1046, 776, 1245,
    1078, 776, 1246, 1047, 776, 1247, 1079, 776, 1250, 1048, 772, 1251, 1080, 772, 1252, 1048, 776,
    1253, 1080, 776, 1254, 1054, 776, 1255, 1086, 776, 1258, 1256, 776, 1259, 1257, 776, 1260, 1069,
    776, 1261, 1101, 776, 1262, 1059, 772, 1263, 1091, 772, 1264, 1059, 776, 1265, 1091, 776, 1266,
    1059, 779, 1267, 1091, 779, 1268, 1063, 776, 1269, 1095, 776, 1272, 1067, 776, 1273, 1099, 776,
    1570, 1575, 1619, 1571, 1575, 1620, 1572, 1608, 1620, 1573, 1575, 1621, 1574, 1610, 1620, 1728,
    1749, 1620, 1730, 1729, 1620, 1747, 1746, 1620, 2345, 2344, 2364, 2353, 2352, 2364, 2356, 2355,
    2364, 2392, 2325, 2364, 2393, 2326, 2364, 2394, 2327, 2364, 2395, 2332, 2364, 2396, 2337, 2364,
    2397, 2338, 2364, 2398, 2347, 2364, 2399, 2351, 2364, 2507, 2503, 2494, 2508, 2503, 2519, 2524,
    2465, 2492, 2525, 2466, 2492, 2527, 2479, 2492, 2611, 2610, 2620, 2614, 2616, 2620, 2649, 2582,
    2620, 2650, 2583, 2620, 2651, 2588, 2620, 2654, 2603, 2620, 2888, 2887, 2902, 2891, 2887, 2878,
    2892, 2887, 2903, 2908, 2849, 2876, 2909, 2850, 2876, 2964, 2962, 3031, 3018, 3014, 3006, 3019,
    3015, 3006, 3020, 3014, 3031, 3144, 3142, 3158, 3264, 3263, 3285, 3271, 3270, 3285, 3272, 3270,
    3286, 3274, 3270, 3266, 3275, 3274, 3285, 3402, 3398, 3390, 3403, 3399, 3390, 3404, 3398, 3415,
    3546, 3545, 3530, 3548, 3545, 3535, 3549, 3548, 3530, 3550, 3545, 3551, 3907, 3906, 4023, 3917,
    3916, 4023, 3922, 3921, 4023, 3927, 3926, 4023, 3932, 3931, 4023, 3945, 3904, 4021, 3955, 3953,
    3954, 3957, 3953, 3956, 3958, 4018, 3968, 3960, 4019, 3968, 3969, 3953, 3968, 3987, 3986, 4023,
    3997, 3996, 4023, 4002, 4001, 4023, 4007, 4006, 4023, 4012, 4011, 4023, 4025, 3984, 4021, 4134,
    4133, 4142, 6918, 6917, 6965, 6920, 6919, 6965, 6922, 6921, 6965, 6924, 6923, 6965, 6926, 6925,
    6965, 6930, 6929, 6965, 6971, 6970, 6965, 6973, 6972, 6965, 6976, 6974, 6965, 6977, 6975, 6965,
    6979, 6978, 6965, 7680, 65, 805, 7681, 97, 805, 7682, 66, 775, 7683, 98, 775, 7684, 66, 803,
    7685, 98, 803, 7686, 66, 817, 7687, 98, 817, 7688, 199, 769, 7689, 231, 769, 7690, 68, 775,
    7691, 100, 775, 7692, 68, 803, 7693, 100, 803, 7694, 68, 817, 7695, 100, 817, 7696, 68, 807,
    7697, 100, 807, 7698, 68, 813, 7699, 100, 813, 7700, 274, 768, 7701, 275, 768, 7702, 274, 769,
    7703, 275, 769, 7704, 69, 813, 7705, 101, 813, 7706, 69, 816, 7707, 101, 816, 7708, 552, 774,
    7709, 553, 774, 7710, 70, 775, 7711, 102, 775, 7712, 71, 772, 7713, 103, 772, 7714, 72, 775,
    7715, 104, 775, 7716, 72, 803, 7717, 104, 803, 7718, 72, 776, 7719, 104, 776, 7720, 72, 807,
    7721, 104, 807, 7722, 72, 814, 7723, 104, 814, 7724, 73, 816, 7725, 105, 816, 7726, 207, 769,
    7727, 239, 769, 7728, 75, 769, 7729, 107, 769, 7730, 75, 803, 7731, 107, 803, 7732, 75, 817,
    7733, 107, 817, 7734, 76, 803, 7735, 108, 803, 7736, 7734, 772, 7737, 7735, 772, 7738, 76, 817,
    7739, 108, 817, 7740, 76, 813, 7741, 108, 813, 7742, 77, 769, 7743, 109, 769, 7744, 77, 775,
    7745, 109, 775, 7746, 77, 803, 7747, 109, 803, 7748, 78, 775, 7749, 110, 775, 7750, 78, 803,
    7751, 110, 803, 7752, 78, 817, 7753, 110, 817, 7754, 78, 813, 7755, 110, 813, 7756, 213, 769,
    7757, 245, 769, 7758, 213, 776, 7759, 245, 776, 7760, 332, 768, 7761, 333, 768, 7762, 332, 769,
    7763, 333, 769, 7764, 80, 769, 7765, 112, 769, 7766, 80, 775, 7767, 112, 775, 7768, 82, 775,
    7769, 114, 775, 7770, 82, 803, 7771, 114, 803, 7772, 7770, 772, 7773, 7771, 772, 7774, 82, 817,
    7775, 114, 817, 7776, 83, 775, 7777, 115, 775, 7778, 83, 803, 7779, 115, 803, 7780, 346, 775,
    7781, 347, 775, 7782, 352, 775, 7783, 353, 775, 7784, 7778, 775, 7785, 7779, 775, 7786, 84, 775,
    7787, 116, 775, 7788, 84, 803, 7789, 116, 803, 7790, 84, 817, 7791, 116, 817, 7792, 84, 813,
    7793, 116, 813, 7794, 85, 804, 7795, 117, 804, 7796, 85, 816, 7797, 117, 816, 7798, 85, 813,
    7799, 117, 813, 7800, 360, 769, 7801, 361, 769, 7802, 362, 776, 7803, 363, 776, 7804, 86, 771,
    7805, 118, 771, 7806, 86, 803, 7807, 118, 803, 7808, 87, 768, 7809, 119, 768, 7810, 87, 769,
    7811, 119, 769, 7812, 87, 776, 7813, 119, 776, 7814, 87, 775, 7815, 119, 775, 7816, 87, 803,
    7817, 119, 803, 7818, 88, 775, 7819, 120, 775, 7820, 88, 776, 7821, 120, 776, 7822, 89, 775,
    7823, 121, 775, 7824, 90, 770, 7825, 122, 770, 7826, 90, 803, 7827, 122, 803, 7828, 90, 817,
    7829, 122, 817, 7830, 104, 817, 7831, 116, 776, 7832, 119, 778, 7833, 121, 778, 7835, 383, 775,
    7840, 65, 803, 7841, 97, 803, 7842, 65, 777, 7843, 97, 777, 7844, 194, 769, 7845, 226, 769,
    7846, 194, 768, 7847, 226, 768, 7848, 194, 777, 7849, 226, 777, 7850, 194, 771, 7851, 226, 771,
    7852, 7840, 770, 7853, 7841, 770, 7854, 258, 769, 7855, 259, 769, 7856, 258, 768, 7857, 259,
    768, 7858, 258, 777, 7859, 259, 777, 7860, 258, 771, 7861, 259, 771, 7862, 7840, 774, 7863,
    7841, 774, 7864, 69, 803, 7865, 101, 803, 7866, 69, 777, 7867, 101, 777, 7868, 69, 771, 7869,
    101, 771, 7870, 202, 769, 7871, 234, 769, 7872, 202, 768, 7873, 234, 768, 7874, 202, 777, 7875,
    234, 777, 7876, 202, 771, 7877, 234, 771, 7878, 7864, 770, 7879, 7865, 770, 7880, 73, 777, 7881,
    105, 777, 7882, 73, 803, 7883, 105, 803, 7884, 79, 803, 7885, 111, 803, 7886, 79, 777, 7887,
    111, 777, 7888, 212, 769, 7889, 244, 769, 7890, 212, 768, 7891, 244, 768, 7892, 212, 777, 7893,
    244, 777, 7894, 212, 771, 7895, 244, 771, 7896, 7884, 770, 7897, 7885, 770, 7898, 416, 769,
    7899, 417, 769, 7900, 416, 768, 7901, 417, 768, 7902, 416, 777, 7903, 417, 777, 7904, 416, 771,
    7905, 417, 771, 7906, 416, 803, 7907, 417, 803, 7908, 85, 803, 7909, 117, 803, 7910, 85, 777,
    7911, 117, 777, 7912, 431, 769, 7913, 432, 769, 7914, 431, 768, 7915, 432, 768, 7916, 431, 777,
    7917, 432, 777, 7918, 431, 771, 7919, 432, 771, 7920, 431, 803, 7921, 432, 803, 7922, 89, 768,
    7923, 121, 768, 7924, 89, 803, 7925, 121, 803, 7926, 89, 777, 7927, 121, 777, 7928, 89, 771,
    7929, 121, 771, 7936, 945, 787, 7937, 945, 788, 7938, 7936, 768, 7939, 7937, 768, 7940, 7936,
    769, 7941, 7937, 769, 7942, 7936, 834, 7943, 7937, 834, 7944, 913, 787, 7945, 913, 788, 7946,
    7944, 768, 7947, 7945, 768, 7948, 7944, 769, 7949, 7945, 769, 7950, 7944, 834, 7951, 7945, 834,
    7952, 949, 787, 7953, 949, 788, 7954, 7952, 768, 7955, 7953, 768, 7956, 7952, 769, 7957, 7953,
    769, 7960, 917, 787, 7961, 917, 788, 7962, 7960, 768, 7963, 7961, 768, 7964, 7960, 769, 7965,
    7961, 769, 7968, 951, 787, 7969, 951, 788, 7970, 7968, 768, 7971, 7969, 768, 7972, 7968, 769,
    7973, 7969, 769, 7974, 7968, 834, 7975, 7969, 834, 7976, 919, 787, 7977, 919, 788, 7978, 7976,
    768, 7979, 7977, 768, 7980, 7976, 769, 7981, 7977, 769, 7982, 7976, 834, 7983, 7977, 834, 7984,
    953, 787, 7985, 953, 788, 7986, 7984, 768, 7987, 7985, 768, 7988, 7984, 769, 7989, 7985, 769,
    7990, 7984, 834, 7991, 7985, 834, 7992, 921, 787, 7993, 921, 788, 7994, 7992, 768, 7995, 7993,
    768, 7996, 7992, 769, 7997, 7993, 769, 7998, 7992, 834, 7999, 7993, 834, 8000, 959, 787, 8001,
    959, 788, 8002, 8000, 768, 8003, 8001, 768, 8004, 8000, 769, 8005, 8001, 769, 8008, 927, 787,
    8009, 927, 788, 8010, 8008, 768, 8011, 8009, 768, 8012, 8008, 769, 8013, 8009, 769, 8016, 965,
    787, 8017, 965, 788, 8018, 8016, 768, 8019, 8017, 768, 8020, 8016, 769, 8021, 8017, 769, 8022,
    8016, 834, 8023, 8017, 834, 8025, 933, 788, 8027, 8025, 768, 8029, 8025, 769, 8031, 8025, 834,
    8032, 969, 787, 8033, 969, 788, 8034, 8032, 768, 8035, 8033, 768, 8036, 8032, 769, 8037, 8033,
    769, 8038, 8032, 834, 8039, 8033, 834, 8040, 937, 787, 8041, 937, 788, 8042, 8040, 768, 8043,
    8041, 768, 8044, 8040, 769, 8045, 8041, 769, 8046, 8040, 834, 8047, 8041, 834, 8048, 945, 768,
    8049, 940, 0, 8050, 949, 768, 8051, 941, 0, 8052, 951, 768, 8053, 942, 0, 8054, 953, 768, 8055,
    943, 0, 8056, 959, 768, 8057, 972, 0, 8058, 965, 768, 8059, 973, 0, 8060, 969, 768, 8061, 974,
    0, 8064, 7936, 837, 8065, 7937, 837, 8066, 7938, 837, 8067, 7939, 837, 8068, 7940, 837, 8069,
    7941, 837, 8070, 7942, 837, 8071, 7943, 837, 8072, 7944, 837, 8073, 7945, 837, 8074, 7946, 837,
    8075, 7947, 837, 8076, 7948, 837, 8077, 7949, 837, 8078, 7950, 837, 8079, 7951, 837, 8080, 7968,
    837, 8081, 7969, 837, 8082, 7970, 837, 8083, 7971, 837, 8084, 7972, 837, 8085, 7973, 837, 8086,
    7974, 837, 8087, 7975, 837, 8088, 7976, 837, 8089, 7977, 837, 8090, 7978, 837, 8091, 7979, 837,
    8092, 7980, 837, 8093, 7981, 837, 8094, 7982, 837, 8095, 7983, 837, 8096, 8032, 837, 8097, 8033,
    837, 8098, 8034, 837, 8099, 8035, 837, 8100, 8036, 837, 8101, 8037, 837, 8102, 8038, 837, 8103,
    8039, 837, 8104, 8040, 837, 8105, 8041, 837, 8106, 8042, 837, 8107, 8043, 837, 8108, 8044, 837,
    8109, 8045, 837, 8110, 8046, 837, 8111, 8047, 837, 8112, 945, 774, 8113, 945, 772, 8114, 8048,
    837, 8115, 945, 837, 8116, 940, 837, 8118, 945, 834, 8119, 8118, 837, 8120, 913, 774, 8121, 913,
    772, 8122, 913, 768, 8123, 902, 0, 8124, 913, 837, 8126, 953, 0, 8129, 168, 834, 8130, 8052,
    837, 8131, 951, 837, 8132, 942, 837, 8134, 951, 834, 8135, 8134, 837, 8136, 917, 768, 8137, 904,
    0, 8138, 919, 768, 8139, 905, 0, 8140, 919, 837, 8141, 8127, 768, 8142, 8127, 769, 8143, 8127,
    834, 8144, 953, 774, 8145, 953, 772, 8146, 970, 768, 8147, 912, 0, 8150, 953, 834, 8151, 970,
    834, 8152, 921, 774, 8153, 921, 772, 8154, 921, 768, 8155, 906, 0, 8157, 8190, 768, 8158, 8190,
    769, 8159, 8190, 834, 8160, 965, 774, 8161, 965, 772, 8162, 971, 768, 8163, 944, 0, 8164, 961,
    787, 8165, 961, 788, 8166, 965, 834, 8167, 971, 834, 8168, 933, 774, 8169, 933, 772, 8170, 933,
    768, 8171, 910, 0, 8172, 929, 788, 8173, 168, 768, 8174, 901, 0, 8175, 96, 0, 8178, 8060, 837,
    8179, 969, 837, 8180, 974, 837, 8182, 969, 834, 8183, 8182, 837, 8184, 927, 768, 8185, 908, 0,
    8186, 937, 768, 8187, 911, 0, 8188, 937, 837, 8189, 180, 0, 8192, 8194, 0, 8193, 8195, 0, 8486,
    937, 0, 8490, 75, 0, 8491, 197, 0, 8602, 8592, 824, 8603, 8594, 824, 8622, 8596, 824, 8653,
    8656, 824, 8654, 8660, 824, 8655, 8658, 824, 8708, 8707, 824, 8713, 8712, 824, 8716, 8715, 824,
    8740, 8739, 824, 8742, 8741, 824, 8769, 8764, 824, 8772, 8771, 824, 8775, 8773, 824, 8777, 8776,
    824, 8800, 61, 824, 8802, 8801, 824, 8813, 8781, 824, 8814, 60, 824, 8815, 62, 824, 8816, 8804,
    824, 8817, 8805, 824, 8820, 8818, 824, 8821, 8819, 824, 8824, 8822, 824, 8825, 8823, 824, 8832,
    8826, 824, 8833, 8827, 824, 8836, 8834, 824, 8837, 8835, 824, 8840, 8838, 824, 8841, 8839, 824,
    8876, 8866, 824, 8877, 8872, 824, 8878, 8873, 824, 8879, 8875, 824, 8928, 8828, 824, 8929, 8829,
    824, 8930, 8849, 824, 8931, 8850, 824, 8938, 8882, 824, 8939, 8883, 824, 8940, 8884, 824, 8941,
    8885, 824, 9001, 12296, 0, 9002, 12297, 0, 10972, 10973, 824, 12364, 12363, 12441, 12366, 12365,
    12441, 12368, 12367, 12441, 12370, 12369, 12441, 12372, 12371, 12441, 12374, 12373, 12441,
    12376, 12375, 12441, 12378, 12377, 12441, 12380, 12379, 12441, 12382, 12381, 12441, 12384,
    12383, 12441, 12386, 12385, 12441, 12389, 12388, 12441, 12391, 12390, 12441, 12393, 12392,
    12441, 12400, 12399, 12441, 12401, 12399, 12442, 12403, 12402, 12441, 12404, 12402, 12442,
    12406, 12405, 12441, 12407, 12405, 12442, 12409, 12408, 12441, 12410, 12408, 12442, 12412,
    12411, 12441, 12413, 12411, 12442, 12436, 12358, 12441, 12446, 12445, 12441, 12460, 12459,
    12441, 12462, 12461, 12441, 12464, 12463, 12441, 12466, 12465, 12441, 12468, 12467, 12441,
    12470, 12469, 12441, 12472, 12471, 12441, 12474, 12473, 12441, 12476, 12475, 12441, 12478,
    12477, 12441, 12480, 12479, 12441, 12482, 12481, 12441, 12485, 12484, 12441, 12487, 12486,
    12441, 12489, 12488, 12441, 12496, 12495, 12441, 12497, 12495, 12442, 12499, 12498, 12441,
    12500, 12498, 12442, 12502, 12501, 12441, 12503, 12501, 12442, 12505, 12504, 12441, 12506,
    12504, 12442, 12508, 12507, 12441, 12509, 12507, 12442, 12532, 12454, 12441, 12535, 12527,
    12441, 12536, 12528, 12441, 12537, 12529, 12441, 12538, 12530, 12441, 12542, 12541, 12441,
    63744, 35912, 0, 63745, 26356, 0, 63746, 36554, 0, 63747, 36040, 0, 63748, 28369, 0, 63749,
    20018, 0, 63750, 21477, 0, 63751, 40860, 0, 63752, 40860, 0, 63753, 22865, 0, 63754, 37329, 0,
    63755, 21895, 0, 63756, 22856, 0, 63757, 25078, 0, 63758, 30313, 0, 63759, 32645, 0, 63760,
    34367, 0, 63761, 34746, 0, 63762, 35064, 0, 63763, 37007, 0, 63764, 27138, 0, 63765, 27931, 0,
    63766, 28889, 0, 63767, 29662, 0, 63768, 33853, 0, 63769, 37226, 0, 63770, 39409, 0, 63771,
    20098, 0, 63772, 21365, 0, 63773, 27396, 0, 63774, 29211, 0, 63775, 34349, 0, 63776, 40478, 0,
    63777, 23888, 0, 63778, 28651, 0, 63779, 34253, 0, 63780, 35172, 0, 63781, 25289, 0, 63782,
    33240, 0, 63783, 34847, 0, 63784, 24266, 0, 63785, 26391, 0, 63786, 28010, 0, 63787, 29436, 0,
    63788, 37070, 0, 63789, 20358, 0, 63790, 20919, 0, 63791, 21214, 0, 63792, 25796, 0, 63793,
    27347, 0, 63794, 29200, 0, 63795, 30439, 0, 63796, 32769, 0, 63797, 34310, 0, 63798, 34396, 0,
    63799, 36335, 0, 63800, 38706, 0, 63801, 39791, 0, 63802, 40442, 0, 63803, 30860, 0, 63804,
    31103, 0, 63805, 32160, 0, 63806, 33737, 0, 63807, 37636, 0, 63808, 40575, 0, 63809, 35542, 0,
    63810, 22751, 0, 63811, 24324, 0, 63812, 31840, 0, 63813, 32894, 0, 63814, 29282, 0, 63815,
    30922, 0, 63816, 36034, 0, 63817, 38647, 0, 63818, 22744, 0, 63819, 23650, 0, 63820, 27155, 0,
    63821, 28122, 0, 63822, 28431, 0, 63823, 32047, 0, 63824, 32311, 0, 63825, 38475, 0, 63826,
    21202, 0, 63827, 32907, 0, 63828, 20956, 0, 63829, 20940, 0, 63830, 31260, 0, 63831, 32190, 0,
    63832, 33777, 0, 63833, 38517, 0, 63834, 35712, 0, 63835, 25295, 0, 63836, 27138, 0, 63837,
    35582, 0, 63838, 20025, 0, 63839, 23527, 0, 63840, 24594, 0, 63841, 29575, 0, 63842, 30064, 0,
    63843, 21271, 0, 63844, 30971, 0, 63845, 20415, 0, 63846, 24489, 0, 63847, 19981, 0, 63848,
    27852, 0, 63849, 25976, 0, 63850, 32034, 0, 63851, 21443, 0, 63852, 22622, 0, 63853, 30465, 0,
    63854, 33865, 0, 63855, 35498, 0, 63856, 27578, 0, 63857, 36784, 0, 63858, 27784, 0, 63859,
    25342, 0, 63860, 33509, 0, 63861, 25504, 0, 63862, 30053, 0, 63863, 20142, 0, 63864, 20841, 0,
    63865, 20937, 0, 63866, 26753, 0, 63867, 31975, 0, 63868, 33391, 0, 63869, 35538, 0, 63870,
    37327, 0, 63871, 21237, 0, 63872, 21570, 0, 63873, 22899, 0, 63874, 24300, 0, 63875, 26053, 0,
    63876, 28670, 0, 63877, 31018, 0, 63878, 38317, 0, 63879, 39530, 0, 63880, 40599, 0, 63881,
    40654, 0, 63882, 21147, 0, 63883, 26310, 0, 63884, 27511, 0, 63885, 36706, 0, 63886, 24180, 0,
    63887, 24976, 0, 63888, 25088, 0, 63889, 25754, 0, 63890, 28451, 0, 63891, 29001, 0, 63892,
    29833, 0, 63893, 31178, 0, 63894, 32244, 0, 63895, 32879, 0, 63896, 36646, 0, 63897, 34030, 0,
    63898, 36899, 0, 63899, 37706, 0, 63900, 21015, 0, 63901, 21155, 0, 63902, 21693, 0, 63903,
    28872, 0, 63904, 35010, 0, 63905, 35498, 0, 63906, 24265, 0, 63907, 24565, 0, 63908, 25467, 0,
    63909, 27566, 0, 63910, 31806, 0, 63911, 29557, 0, 63912, 20196, 0, 63913, 22265, 0, 63914,
    23527, 0, 63915, 23994, 0, 63916, 24604, 0, 63917, 29618, 0, 63918, 29801, 0, 63919, 32666, 0,
    63920, 32838, 0, 63921, 37428, 0, 63922, 38646, 0, 63923, 38728, 0, 63924, 38936, 0, 63925,
    20363, 0, 63926, 31150, 0, 63927, 37300, 0, 63928, 38584, 0, 63929, 24801, 0, 63930, 20102, 0,
    63931, 20698, 0, 63932, 23534, 0, 63933, 23615, 0, 63934, 26009, 0, 63935, 27138, 0, 63936,
    29134, 0, 63937, 30274, 0, 63938, 34044, 0, 63939, 36988, 0, 63940, 40845, 0, 63941, 26248, 0,
    63942, 38446, 0, 63943, 21129, 0, 63944, 26491, 0, 63945, 26611, 0, 63946, 27969, 0, 63947,
    28316, 0, 63948, 29705, 0, 63949, 30041, 0, 63950, 30827, 0, 63951, 32016, 0, 63952, 39006, 0,
    63953, 20845, 0, 63954, 25134, 0, 63955, 38520, 0, 63956, 20523, 0, 63957, 23833, 0, 63958,
    28138, 0, 63959, 36650, 0, 63960, 24459, 0, 63961, 24900, 0, 63962, 26647, 0, 63963, 29575, 0,
    63964, 38534, 0, 63965, 21033, 0, 63966, 21519, 0, 63967, 23653, 0, 63968, 26131, 0, 63969,
    26446, 0, 63970, 26792, 0, 63971, 27877, 0, 63972, 29702, 0, 63973, 30178, 0, 63974, 32633, 0,
    63975, 35023, 0, 63976, 35041, 0, 63977, 37324, 0, 63978, 38626, 0, 63979, 21311, 0, 63980,
    28346, 0, 63981, 21533, 0, 63982, 29136, 0, 63983, 29848, 0, 63984, 34298, 0, 63985, 38563, 0,
    63986, 40023, 0, 63987, 40607, 0, 63988, 26519, 0, 63989, 28107, 0, 63990, 33256, 0, 63991,
    31435, 0, 63992, 31520, 0, 63993, 31890, 0, 63994, 29376, 0, 63995, 28825, 0, 63996, 35672, 0,
    63997, 20160, 0, 63998, 33590, 0, 63999, 21050, 0, 64000, 20999, 0, 64001, 24230, 0, 64002,
    25299, 0, 64003, 31958, 0, 64004, 23429, 0, 64005, 27934, 0, 64006, 26292, 0, 64007, 36667, 0,
    64008, 34892, 0, 64009, 38477, 0, 64010, 35211, 0, 64011, 24275, 0, 64012, 20800, 0, 64013,
    21952, 0, 64016, 22618, 0, 64018, 26228, 0, 64021, 20958, 0, 64022, 29482, 0, 64023, 30410, 0,
    64024, 31036, 0, 64025, 31070, 0, 64026, 31077, 0, 64027, 31119, 0, 64028, 38742, 0, 64029,
    31934, 0, 64030, 32701, 0, 64032, 34322, 0, 64034, 35576, 0, 64037, 36920, 0, 64038, 37117, 0,
    64042, 39151, 0, 64043, 39164, 0, 64044, 39208, 0, 64045, 40372, 0, 64046, 37086, 0, 64047,
    38583, 0, 64048, 20398, 0, 64049, 20711, 0, 64050, 20813, 0, 64051, 21193, 0, 64052, 21220, 0,
    64053, 21329, 0, 64054, 21917, 0, 64055, 22022, 0, 64056, 22120, 0, 64057, 22592, 0, 64058,
    22696, 0, 64059, 23652, 0, 64060, 23662, 0, 64061, 24724, 0, 64062, 24936, 0, 64063, 24974, 0,
    64064, 25074, 0, 64065, 25935, 0, 64066, 26082, 0, 64067, 26257, 0, 64068, 26757, 0, 64069,
    28023, 0, 64070, 28186, 0, 64071, 28450, 0, 64072, 29038, 0, 64073, 29227, 0, 64074, 29730, 0,
    64075, 30865, 0, 64076, 31038, 0, 64077, 31049, 0, 64078, 31048, 0, 64079, 31056, 0, 64080,
    31062, 0, 64081, 31069, 0, 64082, 31117, 0, 64083, 31118, 0, 64084, 31296, 0, 64085, 31361, 0,
    64086, 31680, 0, 64087, 32244, 0, 64088, 32265, 0, 64089, 32321, 0, 64090, 32626, 0, 64091,
    32773, 0, 64092, 33261, 0, 64093, 33401, 0, 64094, 33401, 0, 64095, 33879, 0, 64096, 35088, 0,
    64097, 35222, 0, 64098, 35585, 0, 64099, 35641, 0, 64100, 36051, 0, 64101, 36104, 0, 64102,
    36790, 0, 64103, 36920, 0, 64104, 38627, 0, 64105, 38911, 0, 64106, 38971, 0, 64107, 24693, 0,
    64108, 148206, 0, 64109, 33304, 0, 64112, 20006, 0, 64113, 20917, 0, 64114, 20840, 0, 64115,
    20352, 0, 64116, 20805, 0, 64117, 20864, 0, 64118, 21191, 0, 64119, 21242, 0, 64120, 21917, 0,
    64121, 21845, 0, 64122, 21913, 0, 64123, 21986, 0, 64124, 22618, 0, 64125, 22707, 0, 64126,
    22852, 0, 64127, 22868, 0, 64128, 23138, 0, 64129, 23336, 0, 64130, 24274, 0, 64131, 24281, 0,
    64132, 24425, 0, 64133, 24493, 0, 64134, 24792, 0, 64135, 24910, 0, 64136, 24840, 0, 64137,
    24974, 0, 64138, 24928, 0, 64139, 25074, 0, 64140, 25140, 0, 64141, 25540, 0, 64142, 25628, 0,
    64143, 25682, 0, 64144, 25942, 0, 64145, 26228, 0, 64146, 26391, 0, 64147, 26395, 0, 64148,
    26454, 0, 64149, 27513, 0, 64150, 27578, 0, 64151, 27969, 0, 64152, 28379, 0, 64153, 28363, 0,
    64154, 28450, 0, 64155, 28702, 0, 64156, 29038, 0, 64157, 30631, 0, 64158, 29237, 0, 64159,
    29359, 0, 64160, 29482, 0, 64161, 29809, 0, 64162, 29958, 0, 64163, 30011, 0, 64164, 30237, 0,
    64165, 30239, 0, 64166, 30410, 0, 64167, 30427, 0, 64168, 30452, 0, 64169, 30538, 0, 64170,
    30528, 0, 64171, 30924, 0, 64172, 31409, 0, 64173, 31680, 0, 64174, 31867, 0, 64175, 32091, 0,
    64176, 32244, 0, 64177, 32574, 0, 64178, 32773, 0, 64179, 33618, 0, 64180, 33775, 0, 64181,
    34681, 0, 64182, 35137, 0, 64183, 35206, 0, 64184, 35222, 0, 64185, 35519, 0, 64186, 35576, 0,
    64187, 35531, 0, 64188, 35585, 0, 64189, 35582, 0, 64190, 35565, 0, 64191, 35641, 0, 64192,
    35722, 0, 64193, 36104, 0, 64194, 36664, 0, 64195, 36978, 0, 64196, 37273, 0, 64197, 37494, 0,
    64198, 38524, 0, 64199, 38627, 0, 64200, 38742, 0, 64201, 38875, 0, 64202, 38911, 0, 64203,
    38923, 0, 64204, 38971, 0, 64205, 39698, 0, 64206, 40860, 0, 64207, 141386, 0, 64208, 141380, 0,
    64209, 144341, 0, 64210, 15261, 0, 64211, 16408, 0, 64212, 16441, 0, 64213, 152137, 0, 64214,
    154832, 0, 64215, 163539, 0, 64216, 40771, 0, 64217, 40846, 0, 64285, 1497, 1460, 64287, 1522,
    1463, 64298, 1513, 1473, 64299, 1513, 1474, 64300, 64329, 1473, 64301, 64329, 1474, 64302, 1488,
    1463, 64303, 1488, 1464, 64304, 1488, 1468, 64305, 1489, 1468, 64306, 1490, 1468, 64307, 1491,
    1468, 64308, 1492, 1468, 64309, 1493, 1468, 64310, 1494, 1468, 64312, 1496, 1468, 64313, 1497,
    1468, 64314, 1498, 1468, 64315, 1499, 1468, 64316, 1500, 1468, 64318, 1502, 1468, 64320, 1504,
    1468, 64321, 1505, 1468, 64323, 1507, 1468, 64324, 1508, 1468, 64326, 1510, 1468, 64327, 1511,
    1468, 64328, 1512, 1468, 64329, 1513, 1468, 64330, 1514, 1468, 64331, 1493, 1465, 64332, 1489,
    1471, 64333, 1499, 1471, 64334, 1508, 1471, 69786, 69785, 69818, 69788, 69787, 69818, 69803,
    69797, 69818, 69934, 69937, 69927, 69935, 69938, 69927, 70475, 70471, 70462, 70476, 70471,
    70487, 70843, 70841, 70842, 70844, 70841, 70832, 70846, 70841, 70845, 71098, 71096, 71087,
    71099, 71097, 71087, 119134, 119127, 119141, 119135, 119128, 119141, 119136, 119135, 119150,
    119137, 119135, 119151, 119138, 119135, 119152, 119139, 119135, 119153, 119140, 119135, 119154,
    119227, 119225, 119141, 119228, 119226, 119141, 119229, 119227, 119150, 119230, 119228, 119150,
    119231, 119227, 119151, 119232, 119228, 119151, 194560, 20029, 0, 194561, 20024, 0, 194562,
    20033, 0, 194563, 131362, 0, 194564, 20320, 0, 194565, 20398, 0, 194566, 20411, 0, 194567,
    20482, 0, 194568, 20602, 0, 194569, 20633, 0, 194570, 20711, 0, 194571, 20687, 0, 194572, 13470,
    0, 194573, 132666, 0, 194574, 20813, 0, 194575, 20820, 0, 194576, 20836, 0, 194577, 20855, 0,
    194578, 132380, 0, 194579, 13497, 0, 194580, 20839, 0, 194581, 20877, 0, 194582, 132427, 0,
    194583, 20887, 0, 194584, 20900, 0, 194585, 20172, 0, 194586, 20908, 0, 194587, 20917, 0,
    194588, 168415, 0, 194589, 20981, 0, 194590, 20995, 0, 194591, 13535, 0, 194592, 21051, 0,
    194593, 21062, 0, 194594, 21106, 0, 194595, 21111, 0, 194596, 13589, 0, 194597, 21191, 0,
    194598, 21193, 0, 194599, 21220, 0, 194600, 21242, 0, 194601, 21253, 0, 194602, 21254, 0,
    194603, 21271, 0, 194604, 21321, 0, 194605, 21329, 0, 194606, 21338, 0, 194607, 21363, 0,
    194608, 21373, 0, 194609, 21375, 0, 194610, 21375, 0, 194611, 21375, 0, 194612, 133676, 0,
    194613, 28784, 0, 194614, 21450, 0, 194615, 21471, 0, 194616, 133987, 0, 194617, 21483, 0,
    194618, 21489, 0, 194619, 21510, 0, 194620, 21662, 0, 194621, 21560, 0, 194622, 21576, 0,
    194623, 21608, 0, 194624, 21666, 0, 194625, 21750, 0, 194626, 21776, 0, 194627, 21843, 0,
    194628, 21859, 0, 194629, 21892, 0, 194630, 21892, 0, 194631, 21913, 0, 194632, 21931, 0,
    194633, 21939, 0, 194634, 21954, 0, 194635, 22294, 0, 194636, 22022, 0, 194637, 22295, 0,
    194638, 22097, 0, 194639, 22132, 0, 194640, 20999, 0, 194641, 22766, 0, 194642, 22478, 0,
    194643, 22516, 0, 194644, 22541, 0, 194645, 22411, 0, 194646, 22578, 0, 194647, 22577, 0,
    194648, 22700, 0, 194649, 136420, 0, 194650, 22770, 0, 194651, 22775, 0, 194652, 22790, 0,
    194653, 22810, 0, 194654, 22818, 0, 194655, 22882, 0, 194656, 136872, 0, 194657, 136938, 0,
    194658, 23020, 0, 194659, 23067, 0, 194660, 23079, 0, 194661, 23000, 0, 194662, 23142, 0,
    194663, 14062, 0, 194664, 14076, 0, 194665, 23304, 0, 194666, 23358, 0, 194667, 23358, 0,
    194668, 137672, 0, 194669, 23491, 0, 194670, 23512, 0, 194671, 23527, 0, 194672, 23539, 0,
    194673, 138008, 0, 194674, 23551, 0, 194675, 23558, 0, 194676, 24403, 0, 194677, 23586, 0,
    194678, 14209, 0, 194679, 23648, 0, 194680, 23662, 0, 194681, 23744, 0, 194682, 23693, 0,
    194683, 138724, 0, 194684, 23875, 0, 194685, 138726, 0, 194686, 23918, 0, 194687, 23915, 0,
    194688, 23932, 0, 194689, 24033, 0, 194690, 24034, 0, 194691, 14383, 0, 194692, 24061, 0,
    194693, 24104, 0, 194694, 24125, 0, 194695, 24169, 0, 194696, 14434, 0, 194697, 139651, 0,
    194698, 14460, 0, 194699, 24240, 0, 194700, 24243, 0, 194701, 24246, 0, 194702, 24266, 0,
    194703, 172946, 0, 194704, 24318, 0, 194705, 140081, 0, 194706, 140081, 0, 194707, 33281, 0,
    194708, 24354, 0, 194709, 24354, 0, 194710, 14535, 0, 194711, 144056, 0, 194712, 156122, 0,
    194713, 24418, 0, 194714, 24427, 0, 194715, 14563, 0, 194716, 24474, 0, 194717, 24525, 0,
    194718, 24535, 0, 194719, 24569, 0, 194720, 24705, 0, 194721, 14650, 0, 194722, 14620, 0,
    194723, 24724, 0, 194724, 141012, 0, 194725, 24775, 0, 194726, 24904, 0, 194727, 24908, 0,
    194728, 24910, 0, 194729, 24908, 0, 194730, 24954, 0, 194731, 24974, 0, 194732, 25010, 0,
    194733, 24996, 0, 194734, 25007, 0, 194735, 25054, 0, 194736, 25074, 0, 194737, 25078, 0,
    194738, 25104, 0, 194739, 25115, 0, 194740, 25181, 0, 194741, 25265, 0, 194742, 25300, 0,
    194743, 25424, 0, 194744, 142092, 0, 194745, 25405, 0, 194746, 25340, 0, 194747, 25448, 0,
    194748, 25475, 0, 194749, 25572, 0, 194750, 142321, 0, 194751, 25634, 0, 194752, 25541, 0,
    194753, 25513, 0, 194754, 14894, 0, 194755, 25705, 0, 194756, 25726, 0, 194757, 25757, 0,
    194758, 25719, 0, 194759, 14956, 0, 194760, 25935, 0, 194761, 25964, 0, 194762, 143370, 0,
    194763, 26083, 0, 194764, 26360, 0, 194765, 26185, 0, 194766, 15129, 0, 194767, 26257, 0,
    194768, 15112, 0, 194769, 15076, 0, 194770, 20882, 0, 194771, 20885, 0, 194772, 26368, 0,
    194773, 26268, 0, 194774, 32941, 0, 194775, 17369, 0, 194776, 26391, 0, 194777, 26395, 0,
    194778, 26401, 0, 194779, 26462, 0, 194780, 26451, 0, 194781, 144323, 0, 194782, 15177, 0,
    194783, 26618, 0, 194784, 26501, 0, 194785, 26706, 0, 194786, 26757, 0, 194787, 144493, 0,
    194788, 26766, 0, 194789, 26655, 0, 194790, 26900, 0, 194791, 15261, 0, 194792, 26946, 0,
    194793, 27043, 0, 194794, 27114, 0, 194795, 27304, 0, 194796, 145059, 0, 194797, 27355, 0,
    194798, 15384, 0, 194799, 27425, 0, 194800, 145575, 0, 194801, 27476, 0, 194802, 15438, 0,
    194803, 27506, 0, 194804, 27551, 0, 194805, 27578, 0, 194806, 27579, 0, 194807, 146061, 0,
    194808, 138507, 0, 194809, 146170, 0, 194810, 27726, 0, 194811, 146620, 0, 194812, 27839, 0,
    194813, 27853, 0, 194814, 27751, 0, 194815, 27926, 0, 194816, 27966, 0, 194817, 28023, 0,
    194818, 27969, 0, 194819, 28009, 0, 194820, 28024, 0, 194821, 28037, 0, 194822, 146718, 0,
    194823, 27956, 0, 194824, 28207, 0, 194825, 28270, 0, 194826, 15667, 0, 194827, 28363, 0,
    194828, 28359, 0, 194829, 147153, 0, 194830, 28153, 0, 194831, 28526, 0, 194832, 147294, 0,
    194833, 147342, 0, 194834, 28614, 0, 194835, 28729, 0, 194836, 28702, 0, 194837, 28699, 0,
    194838, 15766, 0, 194839, 28746, 0, 194840, 28797, 0, 194841, 28791, 0, 194842, 28845, 0,
    194843, 132389, 0, 194844, 28997, 0, 194845, 148067, 0, 194846, 29084, 0, 194847, 148395, 0,
    194848, 29224, 0, 194849, 29237, 0, 194850, 29264, 0, 194851, 149000, 0, 194852, 29312, 0,
    194853, 29333, 0, 194854, 149301, 0, 194855, 149524, 0, 194856, 29562, 0, 194857, 29579, 0,
    194858, 16044, 0, 194859, 29605, 0, 194860, 16056, 0, 194861, 16056, 0, 194862, 29767, 0,
    194863, 29788, 0, 194864, 29809, 0, 194865, 29829, 0, 194866, 29898, 0, 194867, 16155, 0,
    194868, 29988, 0, 194869, 150582, 0, 194870, 30014, 0, 194871, 150674, 0, 194872, 30064, 0,
    194873, 139679, 0, 194874, 30224, 0, 194875, 151457, 0, 194876, 151480, 0, 194877, 151620, 0,
    194878, 16380, 0, 194879, 16392, 0, 194880, 30452, 0, 194881, 151795, 0, 194882, 151794, 0,
    194883, 151833, 0, 194884, 151859, 0, 194885, 30494, 0, 194886, 30495, 0, 194887, 30495, 0,
    194888, 30538, 0, 194889, 16441, 0, 194890, 30603, 0, 194891, 16454, 0, 194892, 16534, 0,
    194893, 152605, 0, 194894, 30798, 0, 194895, 30860, 0, 194896, 30924, 0, 194897, 16611, 0,
    194898, 153126, 0, 194899, 31062, 0, 194900, 153242, 0, 194901, 153285, 0, 194902, 31119, 0,
    194903, 31211, 0, 194904, 16687, 0, 194905, 31296, 0, 194906, 31306, 0, 194907, 31311, 0,
    194908, 153980, 0, 194909, 154279, 0, 194910, 154279, 0, 194911, 31470, 0, 194912, 16898, 0,
    194913, 154539, 0, 194914, 31686, 0, 194915, 31689, 0, 194916, 16935, 0, 194917, 154752, 0,
    194918, 31954, 0, 194919, 17056, 0, 194920, 31976, 0, 194921, 31971, 0, 194922, 32000, 0,
    194923, 155526, 0, 194924, 32099, 0, 194925, 17153, 0, 194926, 32199, 0, 194927, 32258, 0,
    194928, 32325, 0, 194929, 17204, 0, 194930, 156200, 0, 194931, 156231, 0, 194932, 17241, 0,
    194933, 156377, 0, 194934, 32634, 0, 194935, 156478, 0, 194936, 32661, 0, 194937, 32762, 0,
    194938, 32773, 0, 194939, 156890, 0, 194940, 156963, 0, 194941, 32864, 0, 194942, 157096, 0,
    194943, 32880, 0, 194944, 144223, 0, 194945, 17365, 0, 194946, 32946, 0, 194947, 33027, 0,
    194948, 17419, 0, 194949, 33086, 0, 194950, 23221, 0, 194951, 157607, 0, 194952, 157621, 0,
    194953, 144275, 0, 194954, 144284, 0, 194955, 33281, 0, 194956, 33284, 0, 194957, 36766, 0,
    194958, 17515, 0, 194959, 33425, 0, 194960, 33419, 0, 194961, 33437, 0, 194962, 21171, 0,
    194963, 33457, 0, 194964, 33459, 0, 194965, 33469, 0, 194966, 33510, 0, 194967, 158524, 0,
    194968, 33509, 0, 194969, 33565, 0, 194970, 33635, 0, 194971, 33709, 0, 194972, 33571, 0,
    194973, 33725, 0, 194974, 33767, 0, 194975, 33879, 0, 194976, 33619, 0, 194977, 33738, 0,
    194978, 33740, 0, 194979, 33756, 0, 194980, 158774, 0, 194981, 159083, 0, 194982, 158933, 0,
    194983, 17707, 0, 194984, 34033, 0, 194985, 34035, 0, 194986, 34070, 0, 194987, 160714, 0,
    194988, 34148, 0, 194989, 159532, 0, 194990, 17757, 0, 194991, 17761, 0, 194992, 159665, 0,
    194993, 159954, 0, 194994, 17771, 0, 194995, 34384, 0, 194996, 34396, 0, 194997, 34407, 0,
    194998, 34409, 0, 194999, 34473, 0, 195000, 34440, 0, 195001, 34574, 0, 195002, 34530, 0,
    195003, 34681, 0, 195004, 34600, 0, 195005, 34667, 0, 195006, 34694, 0, 195007, 17879, 0,
    195008, 34785, 0, 195009, 34817, 0, 195010, 17913, 0, 195011, 34912, 0, 195012, 34915, 0,
    195013, 161383, 0, 195014, 35031, 0, 195015, 35038, 0, 195016, 17973, 0, 195017, 35066, 0,
    195018, 13499, 0, 195019, 161966, 0, 195020, 162150, 0, 195021, 18110, 0, 195022, 18119, 0,
    195023, 35488, 0, 195024, 35565, 0, 195025, 35722, 0, 195026, 35925, 0, 195027, 162984, 0,
    195028, 36011, 0, 195029, 36033, 0, 195030, 36123, 0, 195031, 36215, 0, 195032, 163631, 0,
    195033, 133124, 0, 195034, 36299, 0, 195035, 36284, 0, 195036, 36336, 0, 195037, 133342, 0,
    195038, 36564, 0, 195039, 36664, 0, 195040, 165330, 0, 195041, 165357, 0, 195042, 37012, 0,
    195043, 37105, 0, 195044, 37137, 0, 195045, 165678, 0, 195046, 37147, 0, 195047, 37432, 0,
    195048, 37591, 0, 195049, 37592, 0, 195050, 37500, 0, 195051, 37881, 0, 195052, 37909, 0,
    195053, 166906, 0, 195054, 38283, 0, 195055, 18837, 0, 195056, 38327, 0, 195057, 167287, 0,
    195058, 18918, 0, 195059, 38595, 0, 195060, 23986, 0, 195061, 38691, 0, 195062, 168261, 0,
    195063, 168474, 0, 195064, 19054, 0, 195065, 19062, 0, 195066, 38880, 0, 195067, 168970, 0,
    195068, 19122, 0, 195069, 169110, 0, 195070, 38923, 0, 195071, 38923, 0, 195072, 38953, 0,
    195073, 169398, 0, 195074, 39138, 0, 195075, 19251, 0, 195076, 39209, 0, 195077, 39335, 0,
    195078, 39362, 0, 195079, 39422, 0, 195080, 19406, 0, 195081, 170800, 0, 195082, 39698, 0,
    195083, 40000, 0, 195084, 40189, 0, 195085, 19662, 0, 195086, 19693, 0, 195087, 40295, 0,
    195088, 172238, 0, 195089, 19704, 0, 195090, 172293, 0, 195091, 172558, 0, 195092, 172689, 0,
    195093, 40635, 0, 195094, 19798, 0, 195095, 40697, 0, 195096, 40702, 0, 195097, 40709, 0,
    195098, 40719, 0, 195099, 40726, 0, 195100, 40763, 0, 195101, 173568, 0
};

/* of lmi_pairs those that compose, by first and second */
static const uint16_t lmi_composed[] = {
    912, 909, 913, 0, 1, 2, 3, 53, 55, 238, 4, 572, 5, 165, 208, 210, 570, 415, 57, 417, 419, 421,
    59, 61, 63, 65, 6, 425, 67, 427, 431, 433, 429, 7, 8, 9, 598, 69, 71, 73, 10, 596, 77, 212, 214,
    594, 240, 75, 439, 441, 445, 198, 79, 447, 81, 83, 187, 85, 87, 449, 453, 236, 451, 455, 457,
    11, 12, 13, 89, 91, 93, 97, 14, 610, 167, 216, 218, 612, 95, 459, 98, 463, 189, 465, 100, 467,
    102, 106, 469, 104, 475, 473, 477, 479, 481, 200, 108, 15, 483, 112, 485, 110, 489, 487, 16, 17,
    18, 19, 114, 116, 246, 20, 616, 118, 169, 220, 222, 161, 614, 191, 499, 501, 120, 503, 124, 224,
    226, 505, 122, 509, 126, 128, 511, 132, 513, 232, 130, 521, 136, 523, 234, 134, 527, 525, 21,
    22, 23, 138, 140, 142, 24, 640, 144, 146, 171, 228, 230, 163, 638, 529, 148, 533, 531, 539, 541,
    543, 545, 150, 549, 547, 551, 553, 555, 652, 25, 152, 658, 250, 557, 154, 656, 654, 155, 559,
    157, 159, 561, 563, 26, 27, 28, 29, 54, 56, 239, 30, 573, 31, 166, 209, 211, 571, 416, 58, 418,
    420, 422, 60, 62, 64, 66, 32, 426, 68, 428, 432, 434, 430, 33, 34, 35, 599, 70, 72, 74, 36, 597,
    78, 213, 215, 595, 241, 76, 440, 442, 446, 199, 80, 448, 82, 84, 188, 86, 88, 450, 454, 237,
    452, 456, 458, 565, 37, 38, 39, 90, 92, 94, 40, 611, 168, 217, 219, 613, 96, 460, 99, 197, 464,
    190, 466, 101, 468, 103, 107, 470, 105, 476, 474, 478, 480, 482, 201, 109, 41, 484, 113, 486,
    111, 490, 488, 42, 43, 44, 45, 115, 117, 247, 46, 617, 119, 170, 221, 223, 162, 615, 192, 500,
    502, 121, 504, 125, 225, 227, 506, 123, 510, 127, 129, 512, 133, 514, 233, 131, 522, 566, 137,
    524, 235, 135, 528, 526, 47, 48, 49, 139, 141, 143, 50, 641, 145, 147, 172, 229, 231, 164, 639,
    530, 149, 534, 532, 540, 542, 544, 546, 151, 550, 548, 567, 552, 554, 556, 653, 51, 153, 659,
    251, 558, 52, 657, 568, 655, 156, 560, 158, 160, 562, 564, 875, 258, 835, 576, 574, 580, 578,
    181, 202, 204, 185, 423, 602, 600, 606, 604, 461, 620, 618, 624, 622, 491, 244, 493, 242, 206,
    179, 175, 173, 177, 577, 575, 581, 579, 182, 203, 205, 186, 424, 603, 601, 607, 605, 462, 621,
    619, 625, 623, 492, 245, 494, 243, 207, 180, 176, 174, 178, 586, 584, 590, 588, 587, 585, 591,
    589, 435, 437, 436, 438, 495, 497, 496, 498, 515, 516, 517, 518, 535, 536, 537, 538, 569, 630,
    628, 634, 632, 636, 631, 629, 635, 633, 637, 644, 642, 648, 646, 650, 645, 643, 649, 647, 651,
    195, 193, 194, 183, 184, 443, 444, 248, 249, 196, 831, 259, 830, 829, 668, 669, 833, 841, 261,
    682, 683, 843, 262, 696, 697, 845, 857, 263, 856, 855, 268, 712, 713, 883, 264, 726, 727, 874,
    872, 265, 871, 870, 269, 740, 885, 266, 752, 753, 887, 826, 838, 760, 270, 823, 822, 660, 661,
    827, 825, 762, 271, 676, 677, 764, 272, 688, 689, 839, 837, 766, 273, 850, 849, 275, 704, 705,
    853, 768, 277, 720, 721, 866, 867, 770, 278, 863, 862, 276, 732, 733, 868, 772, 279, 744, 745,
    881, 879, 851, 267, 854, 864, 274, 869, 880, 280, 281, 285, 302, 304, 284, 282, 306, 283, 300,
    310, 312, 287, 314, 289, 316, 286, 318, 324, 288, 326, 328, 330, 332, 322, 303, 305, 293, 291,
    307, 292, 301, 311, 313, 296, 315, 290, 317, 295, 319, 325, 297, 327, 329, 331, 333, 323, 294,
    298, 299, 308, 309, 320, 321, 334, 335, 337, 336, 338, 340, 341, 339, 342, 343, 344, 353, 354,
    365, 364, 366, 369, 370, 372, 371, 373, 374, 377, 375, 376, 378, 379, 381, 380, 382, 383, 385,
    384, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 471, 472, 507, 508, 519, 520,
    582, 592, 583, 593, 608, 609, 626, 627, 662, 664, 666, 774, 663, 665, 667, 775, 776, 777, 778,
    779, 780, 781, 670, 672, 674, 782, 671, 673, 675, 783, 784, 785, 786, 787, 788, 789, 678, 680,
    679, 681, 684, 686, 685, 687, 690, 692, 694, 790, 691, 693, 695, 791, 792, 793, 794, 795, 796,
    797, 698, 700, 702, 798, 699, 701, 703, 799, 800, 801, 802, 803, 804, 805, 706, 708, 710, 707,
    709, 711, 714, 716, 718, 715, 717, 719, 722, 724, 723, 725, 728, 730, 729, 731, 734, 736, 738,
    735, 737, 739, 741, 742, 743, 746, 748, 750, 806, 747, 749, 751, 807, 808, 809, 810, 811, 812,
    813, 754, 756, 758, 814, 755, 757, 759, 815, 816, 817, 818, 819, 820, 821, 824, 836, 878, 828,
    846, 847, 848, 840, 882, 859, 860, 861, 894, 895, 896, 897, 899, 898, 900, 901, 902, 903, 904,
    905, 906, 907, 908, 911, 910, 914, 915, 916, 917, 918, 919, 920, 921, 930, 931, 922, 923, 924,
    925, 932, 933, 926, 927, 928, 929, 934, 935, 936, 937, 966, 941, 942, 943, 944, 945, 946, 947,
    948, 949, 950, 951, 952, 953, 954, 955, 956, 957, 958, 959, 960, 961, 962, 963, 964, 965, 967,
    993, 968, 969, 970, 971, 972, 973, 974, 975, 976, 977, 978, 979, 980, 981, 982, 983, 984, 985,
    986, 987, 988, 989, 990, 991, 992, 994, 995, 996, 997, 998, 1493, 1494, 1495, 1496, 1497, 1498,
    1499, 1501, 1500, 1502, 1503, 1504
};

/* second ones that are no marks */
static const uint32_t lmi_seconds[] = {
    2494, 2519, 2878, 2902, 2903, 3006, 3031, 3266, 3285, 3286, 3390, 3415, 3535, 3551, 4142, 6965,
    69927, 70462, 70487, 70832, 70842, 70845, 71087
};

/* ==== >>lm: text =========================================================== src/lm/text.h ==== */

/* Sets of characters. Each is in one of the first seven, which are 1 << class, and may be a WORD,
   \w, too. */
enum {
    LMI_OTHER = 1, LMI_UPPER = 2, LMI_LOWER = 4, LMI_UNCASED = 8, LMI_MARK = 16, LMI_NUMBER = 32,
    LMI_SPACE = 64, LMI_WORD = 128, LMI_LETTER = LMI_UPPER | LMI_LOWER | LMI_UNCASED
};
#define LMI_COUNT(table) (sizeof table / sizeof table[0])

/* The code point at s (left > 0) and its length; a byte that is no UTF-8 gives UINT32_MAX, 1. */
static uint32_t lmi_code(const unsigned char *s, size_t left, size_t *length) {
    uint32_t c = s[0];
    size_t n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    *length = 1;
    if (n == 1) return c;
    if (!n || n > left) return UINT32_MAX;
    c &= 0x7Fu >> n;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return UINT32_MAX;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if ((n == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000)))
        || (n == 4 && (c < 0x10000 || c > 0x10FFFF)))
        return UINT32_MAX;
    *length = n;
    return c;
}

static size_t lmi_put_code(uint32_t c, unsigned char *out) {
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (unsigned char)(0xC0 | c >> 6);
        out[1] = (unsigned char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (unsigned char)(0xE0 | c >> 12);
        out[1] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (unsigned char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (unsigned char)(0xF0 | c >> 18);
    out[1] = (unsigned char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (unsigned char)(0x80 | (c & 0x3F));
    return 4;
}

/* The sets that c is in; UINT32_MAX is LMI_OTHER. */
static unsigned lmi_class(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_classes);
    unsigned k = 0;
    if (c < 0x80) return lmi_ascii[c];
    if (c == UINT32_MAX) return LMI_OTHER;
    while (lo < hi) { /* the last boundary at or below c is lo - 1 */
        size_t mid = (lo + hi) / 2;
        if (lmi_classes[mid] >> 4 <= c) lo = mid + 1;
        else hi = mid;
    }
    if (lo) k = lmi_classes[lo - 1] & 15;
    return 1u << (k & 7) | (k & 8) << 4;
}

/* Canonical combining class. */
static uint32_t lmi_mark(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_marks) / 3;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (lmi_marks[3 * mid + 1] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo < LMI_COUNT(lmi_marks) / 3 && lmi_marks[3 * lo] <= c ? lmi_marks[3 * lo + 2]
                                                                          : 0;
}

/* Hangul: a syllable is 0xAC00 + (lead 21 + vowel) 28 + tail. */
enum {
    LMI_SYLLABLE = 0xAC00, LMI_LEAD = 0x1100, LMI_VOWEL = 0x1161, LMI_TAIL = 0x11A7,
    LMI_LEADS = 19, LMI_VOWELS = 21, LMI_TAILS = 28
};

/* c, first, second (0: none) that it is made of; NULL: of itself. */
static const uint32_t *lmi_parts_of(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_pairs) / 3;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (lmi_pairs[3 * mid] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo < LMI_COUNT(lmi_pairs) / 3 && lmi_pairs[3 * lo] == c ? &lmi_pairs[3 * lo] : NULL;
}

/* Whether c, or what it is made of, may join what stands before it. */
static bool lmi_joins(uint32_t c) {
    const uint32_t *parts = lmi_parts_of(c);
    if (parts) return lmi_joins(parts[1]); /* at most 3 deep */
    if (c - LMI_VOWEL < LMI_VOWELS || c - LMI_TAIL - 1 < LMI_TAILS - 1) return true;
    if (lmi_mark(c)) return true;
    for (size_t i = 0; i < LMI_COUNT(lmi_seconds); i++)
        if (lmi_seconds[i] == c) return true;
    return false;
}

/* The character that a and b make; 0: none. */
static uint32_t lmi_compose(uint32_t a, uint32_t b) {
    size_t lo = 0, hi = LMI_COUNT(lmi_composed);
    if (a - LMI_LEAD < LMI_LEADS && b - LMI_VOWEL < LMI_VOWELS)
        return LMI_SYLLABLE
               + ((a - LMI_LEAD) * LMI_VOWELS + b - LMI_VOWEL) * LMI_TAILS;
    if (a - LMI_SYLLABLE < LMI_LEADS * LMI_VOWELS * LMI_TAILS
        && (a - LMI_SYLLABLE) % LMI_TAILS == 0 && b - LMI_TAIL - 1 < LMI_TAILS - 1)
        return a + b - LMI_TAIL;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const uint32_t *p = lmi_pairs + 3 * lmi_composed[mid];
        if (p[1] == a && p[2] == b) return p[0];
        if (p[1] < a || (p[1] == a && p[2] < b)) lo = mid + 1;
        else hi = mid;
    }
    return 0;
}

/* Characters waiting for the marks behind them, decomposed. */
typedef struct lmi_cluster {
    uint32_t *code, *sorted;
    size_t count, capacity, room; /* room: of sorted */
} lmi_cluster;

static bool lmi_decompose(lmi_cluster *k, uint32_t c) {
    uint32_t s = c - LMI_SYLLABLE;
    const uint32_t *parts;
    if (s < LMI_LEADS * LMI_VOWELS * LMI_TAILS)
        return lmi_decompose(k, LMI_LEAD + s / (LMI_VOWELS * LMI_TAILS))
               && lmi_decompose(k, LMI_VOWEL + s / LMI_TAILS % LMI_VOWELS)
               && (s % LMI_TAILS == 0 || lmi_decompose(k, LMI_TAIL + s % LMI_TAILS));
    parts = lmi_parts_of(c);
    if (parts) /* at most 3 deep */
        return lmi_decompose(k, parts[1]) && (!parts[2] || lmi_decompose(k, parts[2]));
    if (!lmi_grow((void **)&k->code, &k->capacity, k->count + 1, sizeof *k->code)) return false;
    k->code[k->count++] = c;
    return true;
}

/* Marks that stand together, by class, those of one class as they come. */
static bool lmi_sort_marks(lmi_cluster *k, uint32_t *mark, size_t count) {
    for (size_t i = 0; i < count; i++) mark[i] |= lmi_mark(mark[i]) << 24;
    if (count <= 64) {
        for (size_t i = 1, to; i < count; i++) {
            uint32_t c = mark[i];
            for (to = i; to > 0 && mark[to - 1] >> 24 > c >> 24; to--) mark[to] = mark[to - 1];
            mark[to] = c;
        }
    } else {
        size_t n = 0;
        if (!lmi_grow((void **)&k->sorted, &k->room, count, sizeof *k->sorted)) return false;
        for (uint32_t order = 1; n < count; order++)
            for (size_t i = 0; i < count; i++)
                if (mark[i] >> 24 == order) k->sorted[n++] = mark[i];
        memcpy(mark, k->sorted, count * sizeof *mark);
    }
    for (size_t i = 0; i < count; i++) mark[i] &= 0xFFFFFF;
    return true;
}

static bool lmi_text_add(sae_text *t, const void *data, size_t size) {
    if (size > SIZE_MAX - 1 - t->size
        || !lmi_grow((void **)&t->data, &t->capacity, t->size + size + 1, 1))
        return false;
    if (size) memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
    return true;
}

/* Joins what can be joined, and writes it. */
static bool lmi_cluster_end(lmi_cluster *k, sae_text *out) {
    size_t starter = SIZE_MAX, kept = 0;
    uint32_t last = 0; /* class of the mark kept last behind the starter */
    for (size_t i = 0, marks = 0; i <= k->count; i++) {
        if (i < k->count && lmi_mark(k->code[i])) marks++;
        else if (marks > 1 && !lmi_sort_marks(k, k->code + i - marks, marks)) return false;
        else marks = 0;
    }
    for (size_t i = 0; i < k->count; i++) {
        uint32_t c = k->code[i], order = lmi_mark(c), made = 0;
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last < order))
            made = lmi_compose(k->code[starter], c);
        if (made) {
            k->code[starter] = made;
            continue;
        }
        if (!order) {
            starter = kept;
            last = 0;
        } else last = order;
        k->code[kept++] = c;
    }
    for (size_t i = 0; i < kept; i++) {
        unsigned char bytes[4];
        if (!lmi_text_add(out, bytes, lmi_put_code(k->code[i], bytes))) return false;
    }
    k->count = 0;
    return true;
}

/* Appends the NFC of text. A character below U+0300 with another behind it is as it should be, and
   is copied; others wait in k for what may join them. */
static bool lmi_nfc(const unsigned char *s, size_t size, lmi_cluster *k, sae_text *out) {
    size_t plain = 0; /* [plain, at) is to be copied; empty while something waits */
    k->count = 0;
    for (size_t at = 0, length, next; at < size; at = next) {
        uint32_t c = lmi_code(s + at, size - at, &length);
        next = at + length;
        if (c == UINT32_MAX || (c < 0x300 && (next == size || s[next] < 0xCC))) {
            if (!lmi_cluster_end(k, out)) return false;
            continue;
        }
        if (!lmi_text_add(out, s + plain, at - plain)) return false;
        if (!lmi_joins(c) && !lmi_cluster_end(k, out)) return false;
        if (!lmi_decompose(k, c)) return false;
        plain = next;
    }
    return lmi_cluster_end(k, out) && lmi_text_add(out, s + plain, size - plain);
}

/* ==== >>lm: tokenizer: tables ========================================= src/lm/tokenizer.h ==== */
/* What a tokenizer is, whatever file told it. The road of a text:
     added tokens [0] are found in it; what lies between is normalised by the steps;
     added tokens [1] are found in that; what lies between is cut into words by the splitter;
     a word's bytes or characters are looked up, and merged while a pair of them has a merge. */

enum {
    LMI_MAX_ID = 1 << 21, LMI_MAX_STEPS = 8, LMI_CACHE_WORDS = 1 << 16, LMI_CACHE_BYTES = 48
};

typedef struct lmi_span { /* bytes of the arena */
    uint32_t at, size;
} lmi_span;

typedef struct lmi_token {
    lmi_span piece; /* what merges and words are made of */
    lmi_span text;  /* what it decodes to */
    bool there;     /* the id exists */
    bool plain;     /* of the vocabulary: words are looked up in these */
    bool stands_in; /* for what has no token: its piece is nothing that a text was looked up by */
} lmi_token;

typedef struct lmi_merge {
    int32_t left, right; /* left -1: an empty slot */
    int32_t rank, made;
} lmi_merge;

typedef struct lmi_added {
    lmi_span span;    /* what it matches */
    const char *text; /* the same, once the arena grows no more */
    int32_t id;
    bool lstrip, rstrip, single_word;
} lmi_added;

typedef enum lmi_normal_kind { LMI_NFC, LMI_REPLACE, LMI_PREPEND } lmi_normal_kind;
typedef struct lmi_normal_step {
    lmi_normal_kind kind;
    lmi_span from, to; /* NFC has none, PREPEND has to */
} lmi_normal_step;

typedef enum lmi_prefix { LMI_PREFIX_NEVER, LMI_PREFIX_FIRST, LMI_PREFIX_ALWAYS } lmi_prefix;
typedef enum lmi_cut { LMI_CUT_NOT, LMI_CUT_PATTERN, LMI_CUT_BEFORE, LMI_CUT_BEHIND } lmi_cut;
/* The parts of a pattern, in the order in which they are tried. */
enum {
    LMI_ENDINGS, LMI_WORDS, LMI_NUMBERS, LMI_OTHERS, LMI_LINES, LMI_SPACES, LMI_PARTS
};

typedef struct lmi_splitter {
    lmi_cut cut;
    lmi_span mark;                 /* LMI_CUT_BEFORE, _BEHIND: cut at each of these */
    unsigned char part[LMI_PARTS]; /* LMI_CUT_PATTERN: which spelling of each */
    lmi_span blank, space;         /* each blank becomes space first; empty: they stay */
    lmi_prefix prefix;             /* put in front of what does not begin with it: */
    lmi_span prefix_text;
} lmi_splitter;

/* A word seen before and its ids. */
typedef struct lmi_word {
    uint64_t hash;
    uint32_t at, size, first, count; /* size 0: an empty slot */
} lmi_word;

struct sae_tokenizer {
    sae_context *ctx;
    char *path;
    sae_text arena;
    lmi_token *token;      /* [size] */
    size_t size;
    int32_t *slot;         /* [slots] plain tokens by their pieces; -1: empty */
    size_t slots;
    lmi_merge *merge;      /* [merges] by (left, right) */
    size_t merges;
    lmi_added *added[2];   /* by their bytes; [0] match text as it comes, [1] normalised */
    size_t num_added[2];
    uint32_t starts[2][257]; /* where those that begin with a byte begin, and end */
    lmi_normal_step step[LMI_MAX_STEPS];
    size_t num_steps;
    lmi_splitter splitter;
    bool bytes;            /* words are made of bytes, not of characters */
    bool byte_fallback;    /* a character without a token becomes its bytes' tokens */
    bool ignore_merges, fuse_unknown;
    int32_t unknown;       /* -1: what has no token is left out, as tokenizers does */
    int32_t byte_id[256];  /* of a byte; -1: none */
    int32_t ascii_id[128]; /* of a character */
    unsigned char *seam;   /* [2^seam_bits bits] 0: no merge joins the two characters. NULL: words
                              are not cut further */
    unsigned seam_bits;
    /* decoding: texts of tokens joined, then this */
    lmi_span first_drops;  /* taken out of the first token, in place of its text */
    lmi_span first_space;
    size_t strip_start, strip_stop; /* so many of strip_text come off the ends */
    lmi_span strip_text;
    sae_tokens bos;
    /* memory of encoding */
    sae_text normal[2], spaced;
    lmi_cluster cluster;
    sae_tokens symbols;
    uint64_t *heap;
    struct lmi_link *link;
    size_t heap_room, link_room;
    lmi_word *word;        /* [2 LMI_CACHE_WORDS] */
    size_t words;
    sae_text word_bytes;
    sae_tokens word_ids;
};

static uint64_t lmi_hash(const void *data, size_t size) { /* FNV-1a, 64 bit */
    const unsigned char *s = (const unsigned char *)data;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < size; i++) h = (h ^ s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static bool lmi_ids_add(sae_tokens *out, const int32_t *id, size_t count) {
    if (!lmi_grow((void **)&out->id, &out->capacity, out->count + count, sizeof *id)) return false;
    if (count) memcpy(out->id + out->count, id, count * sizeof *id);
    out->count += count;
    return true;
}

static bool lmi_tokens_add(sae_tokens *t, int32_t id) { return lmi_ids_add(t, &id, 1); }

/* -- spans -- */

static const char *lmi_span_data(const sae_tokenizer *t, lmi_span span) {
    return t->arena.data + span.at;
}

static const unsigned char *lmi_span_bytes(const sae_tokenizer *t, lmi_span span) {
    return (const unsigned char *)lmi_span_data(t, span);
}

static bool lmi_span_is(const sae_tokenizer *t, lmi_span span, const void *data, size_t size) {
    return span.size == size && memcmp(lmi_span_data(t, span), data, size) == 0;
}

static bool lmi_span_begins(const sae_tokenizer *t, lmi_span span, const void *data, size_t size) {
    return span.size <= size && memcmp(lmi_span_data(t, span), data, span.size) == 0;
}

static bool lmi_span_add(sae_tokenizer *t, const void *data, size_t size, lmi_span *out) {
    if (size > UINT32_MAX || t->arena.size > UINT32_MAX - size) return false;
    out->at = (uint32_t)t->arena.size;
    out->size = (uint32_t)size;
    return lmi_text_add(&t->arena, data, size);
}

/* Appends s with each `from` (not empty) as `to`. */
static bool lmi_replace(const sae_tokenizer *t, lmi_span from, lmi_span to, const char *s,
                        size_t size, sae_text *out) {
    const char *pattern = lmi_span_data(t, from);
    size_t kept = 0, at = 0;
    while (at < size) {
        const char *next = (const char *)memchr(s + at, pattern[0], size - at);
        if (!next) break;
        at = (size_t)(next - s);
        if (!lmi_span_begins(t, from, next, size - at)) {
            at++;
            continue;
        }
        if (!lmi_text_add(out, s + kept, at - kept)
            || !lmi_text_add(out, lmi_span_data(t, to), to.size))
            return false;
        at += from.size;
        kept = at;
    }
    return lmi_text_add(out, s + kept, size - kept);
}

/* -- looking up -- */

static int32_t lmi_piece_find(const sae_tokenizer *t, const void *piece, size_t size) {
    size_t at = (size_t)lmi_hash(piece, size) & (t->slots - 1);
    for (; t->slot[at] >= 0; at = (at + 1) & (t->slots - 1))
        if (lmi_span_is(t, t->token[t->slot[at]].piece, piece, size)) return t->slot[at];
    return -1;
}

static lmi_merge *lmi_merge_slot(const sae_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & (t->merges - 1);
    while (t->merge[at].left >= 0 && (t->merge[at].left != left || t->merge[at].right != right))
        at = (at + 1) & (t->merges - 1);
    return &t->merge[at];
}

/* -- building -- */

static sae_result lmi_tokenizer_memory(const sae_tokenizer *t) {
    return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer: no memory for %s",
                            t->path);
}

/* "sae_tokenizer_open: PATH: ..." */
static sae_result lmi_refuse(const sae_tokenizer *t, sae_result result, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sae_context_fail(t->ctx, result, "sae_tokenizer_open: %s: %s", t->path, text);
}

static size_t lmi_power_of_two(size_t least) {
    size_t n = 16;
    while (n < least) n *= 2;
    return n;
}

/* Room for so many merges, none yet. */
static bool lmi_merges_room(sae_tokenizer *t, size_t merges) {
    if (merges > SIZE_MAX / 64) return false;
    free(t->merge);
    t->merges = lmi_power_of_two(2 * merges + 2);
    t->merge = (lmi_merge *)malloc(t->merges * sizeof *t->merge);
    for (size_t i = 0; t->merge && i < t->merges; i++) t->merge[i].left = -1;
    return t->merge != NULL;
}

/* Room for ids below size, so many plain tokens and so many merges. */
static bool lmi_tokenizer_room(sae_tokenizer *t, size_t size, size_t plain, size_t merges) {
    if (size > LMI_MAX_ID || plain > SIZE_MAX / 64 || !lmi_merges_room(t, merges)) return false;
    t->size = size;
    t->slots = lmi_power_of_two(2 * plain + 2);
    t->token = (lmi_token *)calloc(size + 1, sizeof *t->token);
    t->slot = (int32_t *)malloc(t->slots * sizeof *t->slot);
    t->word = (lmi_word *)calloc(2 * LMI_CACHE_WORDS, sizeof *t->word);
    if (!t->token || !t->slot || !t->word) return false;
    for (size_t i = 0; i < t->slots; i++) t->slot[i] = -1;
    return true;
}

/* The token id < t->size is written so; plain: it is looked up by its piece. */
static bool lmi_token_set(sae_tokenizer *t, int32_t id, const char *piece, size_t size,
                          const char *text, size_t text_size, bool plain) {
    lmi_token *token = &t->token[id];
    size_t at = (size_t)lmi_hash(piece, size) & (t->slots - 1);
    if (!lmi_span_add(t, piece, size, &token->piece)) return false;
    token->text = token->piece;
    if ((size != text_size || memcmp(piece, text, size) != 0)
        && !lmi_span_add(t, text, text_size, &token->text))
        return false;
    token->there = true;
    token->plain = plain;
    if (!plain) return true;
    while (t->slot[at] >= 0) at = (at + 1) & (t->slots - 1);
    t->slot[at] = id;
    return true;
}

/* The last of several merges of a pair counts, as in tokenizers. */
static void lmi_merge_set(sae_tokenizer *t, int32_t left, int32_t right, int32_t made,
                          int32_t rank) {
    lmi_merge *slot = lmi_merge_slot(t, left, right);
    slot->left = left;
    slot->right = right;
    slot->rank = rank;
    slot->made = made;
}

static int lmi_added_before(const void *a, const void *b) {
    const lmi_added *x = (const lmi_added *)a, *y = (const lmi_added *)b;
    int order = memcmp(x->text, y->text, lmi_min(x->span.size, y->span.size));
    if (order) return order;
    if (x->span.size != y->span.size) return x->span.size < y->span.size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* -- seams: where a long word may be cut with nothing changed -- */

static size_t lmi_seam_at(const sae_tokenizer *t, uint32_t left, uint32_t right) {
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(key >> (64 - t->seam_bits));
}

static uint32_t lmi_last_code(const unsigned char *s, size_t size) {
    uint32_t c = UINT32_MAX;
    for (size_t at = 0, length; at < size; at += length) c = lmi_code(s + at, size - at, &length);
    return c;
}

/* No merge, no seam: characters only meet where some merge's parts do. None where merges have parts
   that are no characters of the text. */
static bool lmi_find_seams(sae_tokenizer *t) {
    size_t length;
    if (t->bytes || t->ignore_merges) return true;
    t->seam_bits = 10;
    while ((size_t)1 << t->seam_bits < 4 * t->merges) t->seam_bits++;
    t->seam = (unsigned char *)calloc((size_t)1 << (t->seam_bits - 3), 1);
    if (!t->seam) return false;
    for (size_t i = 0; i < t->merges; i++) {
        const lmi_merge *m = &t->merge[i];
        const lmi_token *left, *right;
        size_t bit;
        if (m->left < 0) continue;
        left = &t->token[m->left];
        right = &t->token[m->right];
        if (left->stands_in || right->stands_in) {
            free(t->seam);
            t->seam = NULL;
            return true;
        }
        bit = lmi_seam_at(t, lmi_last_code(lmi_span_bytes(t, left->piece), left->piece.size),
                          lmi_code(lmi_span_bytes(t, right->piece), right->piece.size, &length));
        t->seam[bit / 8] |= (unsigned char)(1 << bit % 8);
    }
    return true;
}

/* All tokens, merges and added tokens are there: the tables over them. */
static bool lmi_tokenizer_finish(sae_tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        char name[8];
        unsigned char byte = (unsigned char)b;
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        t->byte_id[b] = t->bytes ? lmi_piece_find(t, &byte, 1)
                      : t->byte_fallback ? lmi_piece_find(t, name, 6) : -1;
        if (b < 128) t->ascii_id[b] = lmi_piece_find(t, &byte, 1);
        if (!t->bytes && t->byte_id[b] >= 0) t->token[t->byte_id[b]].stands_in = true;
    }
    if (t->unknown >= 0) t->token[t->unknown].stands_in = true;
    for (int kind = 0; kind < 2; kind++) {
        lmi_added *a = t->added[kind];
        size_t n = t->num_added[kind], i = 0;
        for (size_t k = 0; k < n; k++) a[k].text = lmi_span_data(t, a[k].span);
        if (n) qsort(a, n, sizeof *a, lmi_added_before);
        for (uint32_t c = 0; c < 257; c++) {
            while (i < n && (unsigned char)a[i].text[0] < c) i++;
            t->starts[kind][c] = (uint32_t)i;
        }
    }
    return lmi_find_seams(t);
}

/* ==== >>lm: tokenizer: normalising ==================================== src/lm/normalize.h ==== */

static bool lmi_normal_run(sae_tokenizer *t, const lmi_normal_step *step, const char *s,
                           size_t size, sae_text *out) {
    if (step->kind == LMI_NFC) return lmi_nfc((const unsigned char *)s, size, &t->cluster, out);
    if (step->kind == LMI_REPLACE) return lmi_replace(t, step->from, step->to, s, size, out);
    return (!size || lmi_text_add(out, lmi_span_data(t, step->to), step->to.size))
           && lmi_text_add(out, s, size);
}

/* s and size become what the steps make of them: theirs, or in t->normal. */
static bool lmi_normalize(sae_tokenizer *t, const unsigned char **s, size_t *size) {
    for (size_t i = 0; i < t->num_steps; i++) {
        sae_text *out = &t->normal[i % 2];
        out->size = 0;
        if (!lmi_normal_run(t, &t->step[i], (const char *)*s, *size, out)) return false;
        *s = (const unsigned char *)out->data;
        *size = out->size;
    }
    return true;
}

/* The same before words are cut: blanks become marks, and a prefix is put in front of what has
   none; first: at the beginning of the text. */
static bool lmi_mark_spaces(sae_tokenizer *t, bool first, const unsigned char **s, size_t *size) {
    const lmi_splitter *p = &t->splitter;
    bool prefix = (p->prefix == LMI_PREFIX_ALWAYS || (p->prefix == LMI_PREFIX_FIRST && first))
                  && !lmi_span_begins(t, p->prefix_text, *s, *size)
                  && !(p->space.size && lmi_span_begins(t, p->blank, *s, *size));
    if (!prefix && !p->space.size) return true;
    t->spaced.size = 0;
    if (prefix && !lmi_text_add(&t->spaced, lmi_span_data(t, p->prefix_text), p->prefix_text.size))
        return false;
    if (p->space.size
        ? !lmi_replace(t, p->blank, p->space, (const char *)*s, *size, &t->spaced)
        : !lmi_text_add(&t->spaced, *s, *size))
        return false;
    *s = (const unsigned char *)t->spaced.data;
    *size = t->spaced.size;
    return true;
}

/* ==== >>lm: tokenizer: splitting ========================================== src/lm/split.h ==== */

/* -- patterns -- */

enum { LMI_WORDS_SPACE, LMI_WORDS_HEAD, LMI_WORDS_MARKS, LMI_WORDS_CASED, LMI_WORDS_CASED_ENDING };
enum { LMI_OTHERS_BARE, LMI_OTHERS_LINES, LMI_OTHERS_SLASH };

/* Published patterns are these parts in this order. `spelling` is what the part becomes. */
#define LMI_HEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define LMI_UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LMI_LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LMI_ENDING "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
static const struct {
    int part;
    unsigned char spelling;
    const char *text;
} lmi_parts_known[] = {
    { LMI_ENDINGS, 2, LMI_ENDING "|" },
    { LMI_ENDINGS, 2, "'(?i:[sdmt]|ll|ve|re)|" },
    { LMI_ENDINGS, 1, "'s|'t|'re|'ve|'m|'ll|'d|" },
    { LMI_ENDINGS, 1, "'(?:[sdmt]|ll|ve|re)|" },
    { LMI_ENDINGS, 0, "" },
    { LMI_WORDS, LMI_WORDS_SPACE, " ?\\p{L}+|" },
    { LMI_WORDS, LMI_WORDS_HEAD, LMI_HEAD "\\p{L}+|" },
    { LMI_WORDS, LMI_WORDS_HEAD, LMI_HEAD "+\\p{L}+|" },
    { LMI_WORDS, LMI_WORDS_MARKS, LMI_HEAD "[\\p{L}\\p{M}]+|" },
    { LMI_WORDS, LMI_WORDS_CASED_ENDING,
      LMI_HEAD LMI_UP "*" LMI_LOW "+" LMI_ENDING "?|" LMI_HEAD LMI_UP "+" LMI_LOW "*" LMI_ENDING
      "?|" },
    { LMI_WORDS, LMI_WORDS_CASED,
      LMI_HEAD LMI_UP "*" LMI_LOW "+|" LMI_HEAD LMI_UP "+" LMI_LOW "*|" },
    { LMI_NUMBERS, 0, " ?\\p{N}+|" }, /* else how many digits at most */
    { LMI_NUMBERS, 3, "\\p{N}{1,3}|" },
    { LMI_NUMBERS, 1, "\\p{N}|" },
    { LMI_OTHERS, LMI_OTHERS_SLASH, " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" },
    { LMI_OTHERS, LMI_OTHERS_LINES, " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" },
    { LMI_OTHERS, LMI_OTHERS_LINES, " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" },
    { LMI_OTHERS, LMI_OTHERS_LINES, " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" }, /* _WORDS_MARKS */
    { LMI_OTHERS, LMI_OTHERS_BARE, " ?[^\\s\\p{L}\\p{N}]+|" },
    { LMI_LINES, 1, "\\s*[\\r\\n]+|" },
    { LMI_LINES, 0, "" },
    { LMI_SPACES, 1, "\\s+(?!\\S)|\\s+" },
};
#undef LMI_HEAD
#undef LMI_UP
#undef LMI_LOW
#undef LMI_ENDING

/* GPT-2's, which ByteLevel has for its own. */
static const char lmi_pattern_gpt2[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| "
                                       "?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* false: not made of the parts above. */
static bool lmi_pattern_read(const char *pattern, lmi_splitter *out) {
    bool marks = false, without_marks = false;
    for (int part = 0; part < LMI_PARTS; part++) {
        size_t i = 0, n;
        for (; i < LMI_COUNT(lmi_parts_known); i++) {
            n = strlen(lmi_parts_known[i].text);
            if (lmi_parts_known[i].part == part
                && strncmp(pattern, lmi_parts_known[i].text, n) == 0)
                break;
        }
        if (i == LMI_COUNT(lmi_parts_known)) return false;
        out->part[part] = lmi_parts_known[i].spelling;
        if (part == LMI_WORDS) marks = out->part[part] == LMI_WORDS_MARKS;
        if (part == LMI_OTHERS) without_marks = strstr(lmi_parts_known[i].text, "\\p{M}") != NULL;
        pattern += strlen(lmi_parts_known[i].text);
    }
    out->cut = LMI_CUT_PATTERN;
    return *pattern == 0 && marks == without_marks;
}

/* -- words -- */

/* Bytes of the characters of a set at s, at least 0. */
static size_t lmi_run_of(const unsigned char *s, size_t left, unsigned set) {
    size_t at = 0, length;
    for (; at < left; at += length) {
        if (s[at] < 128) {
            length = 1;
            if (!(lmi_ascii[s[at]] & set)) break;
        } else if (!(lmi_class(lmi_code(s + at, left - at, &length)) & set)) break;
    }
    return at;
}

/* 's 't 're 've 'm 'll 'd, any: in capitals too; U+017F is an s then. */
static size_t lmi_ending(const unsigned char *s, size_t left, bool any) {
    unsigned char a, b, fold = any ? 32 : 0;
    if (left < 2 || s[0] != '\'') return 0;
    a = s[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (any && left > 2 && s[1] == 0xC5 && s[2] == 0xBF) return 3;
    if (left < 3) return 0;
    b = s[2] | fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* upper* lower+ at s; where nothing is in lower and not `lower`, upper+. Marks and letters without
   case are in both. */
static size_t lmi_cased(const unsigned char *s, size_t left, bool lower) {
    size_t at = 0, low = 0, length, n; /* low: behind the last one that is in lower, too */
    for (; at < left; at += length) {
        unsigned k = lmi_class(lmi_code(s + at, left - at, &length));
        if (!(k & (LMI_UPPER | LMI_UNCASED | LMI_MARK))) break;
        if (k & (LMI_UNCASED | LMI_MARK)) low = at + length;
    }
    n = lmi_run_of(s + at, left - at, LMI_LOWER | LMI_UNCASED | LMI_MARK);
    return n ? at + n : lower ? low : at;
}

/* Words that a capital begins; head: length of the character that may stand in front. */
static size_t lmi_cased_word(const unsigned char *s, size_t left, size_t head) {
    size_t n;
    if (head && (n = lmi_cased(s + head, left - head, true)) != 0) return head + n;
    if ((n = lmi_cased(s, left, true)) != 0) return n; /* a mark may be head and first */
    if (head && (n = lmi_cased(s + head, left - head, false)) != 0) return head + n;
    return lmi_cased(s, left, false);
}

/* The part LMI_WORDS at s, whose first character is of the sets k and so long; 0: no word. */
static size_t lmi_letters(int spelling, const unsigned char *s, size_t left, unsigned k,
                          size_t length) {
    unsigned set = LMI_LETTER | (spelling == LMI_WORDS_MARKS ? LMI_MARK : 0);
    size_t head, n;
    if (spelling == LMI_WORDS_SPACE) head = s[0] == ' ';
    else head = (k & (LMI_LETTER | LMI_NUMBER)) || s[0] == '\r' || s[0] == '\n' ? 0 : length;
    if (spelling == LMI_WORDS_CASED || spelling == LMI_WORDS_CASED_ENDING) {
        n = lmi_cased_word(s, left, head);
        return n && spelling == LMI_WORDS_CASED_ENDING ? n + lmi_ending(s + n, left - n, true) : n;
    }
    n = lmi_run_of(s + head, left - head, set);
    return n ? head + n : head && (k & set) ? lmi_run_of(s, left, set) : 0;
}

/* White space at s: up to its last line's end where lines are cut off; all of it at the text's end,
   else all but the last character, which goes with the next word. */
static size_t lmi_spaces(const unsigned char *s, size_t left, bool lines) {
    size_t at = 0, line = 0, last = 0, length;
    for (; at < left; at += length) {
        if (!(lmi_class(lmi_code(s + at, left - at, &length)) & LMI_SPACE)) break;
        if (s[at] == '\r' || s[at] == '\n') line = at + 1;
        last = at;
    }
    return lines && line ? line : at == left || !last ? at : last;
}

/* Length of the next word of a pattern, left > 0. */
static size_t lmi_pattern_length(const unsigned char *part, const unsigned char *s, size_t left) {
    size_t length, n, space = s[0] == ' ';
    unsigned k = lmi_class(lmi_code(s, left, &length));
    unsigned others = LMI_OTHER | (part[LMI_WORDS] == LMI_WORDS_MARKS ? 0 : LMI_MARK);
    if (part[LMI_ENDINGS] && (n = lmi_ending(s, left, part[LMI_ENDINGS] == 2)) != 0) return n;
    if ((n = lmi_letters(part[LMI_WORDS], s, left, k, length)) != 0) return n;
    if (!part[LMI_NUMBERS]) {
        n = lmi_run_of(s + space, left - space, LMI_NUMBER);
        if (n) return space + n;
    } else if (k & LMI_NUMBER) {
        n = length;
        for (int digits = 1; digits < part[LMI_NUMBERS] && n < left; digits++) {
            if (!(lmi_class(lmi_code(s + n, left - n, &length)) & LMI_NUMBER)) break;
            n += length;
        }
        return n;
    }
    n = lmi_run_of(s + space, left - space, others);
    if (!n) return lmi_spaces(s, left, part[LMI_LINES] != 0);
    for (n += space; part[LMI_OTHERS] != LMI_OTHERS_BARE && n < left; n++)
        if (s[n] != '\r' && s[n] != '\n' && (s[n] != '/' || part[LMI_OTHERS] != LMI_OTHERS_SLASH))
            break;
    return n;
}

/* Length of the next word, left > 0. */
static size_t lmi_word_length(const sae_tokenizer *t, const unsigned char *s, size_t left) {
    const lmi_splitter *p = &t->splitter;
    size_t at = p->cut == LMI_CUT_BEFORE;
    if (p->cut == LMI_CUT_PATTERN) return lmi_pattern_length(p->part, s, left);
    if (p->cut == LMI_CUT_NOT) return left;
    for (; at < left; at++)
        if (lmi_span_begins(t, p->mark, s + at, left - at))
            return p->cut == LMI_CUT_BEFORE ? at : at + p->mark.size;
    return left;
}

/* ==== >>lm: tokenizer: merging ============================================ src/lm/merge.h ==== */
/* Of all pairs side by side that have a merge, the one of the lowest rank, of equal ones the
   leftmost, becomes one symbol; and so on until none is left. */

/* Few symbols: the best pair is looked for each time. Returns how many are left. */
static size_t lmi_merge_few(const sae_tokenizer *t, int32_t *id, size_t n) {
    lmi_merge pair[LMI_CACHE_BYTES];
    for (size_t i = 0; i + 1 < n; i++) pair[i] = *lmi_merge_slot(t, id[i], id[i + 1]);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i].left >= 0 && (best == SIZE_MAX || pair[i].rank < pair[best].rank)) best = i;
        if (best == SIZE_MAX) return n;
        id[best] = pair[best].made;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (n > best + 1) memmove(pair + best, pair + best + 1, (n - best - 1) * sizeof *pair);
        if (best + 1 < n) pair[best] = *lmi_merge_slot(t, id[best], id[best + 1]);
        if (best > 0) pair[best - 1] = *lmi_merge_slot(t, id[best - 1], id[best]);
    }
}

/* Many: a heap of rank << 32 | place; entries whose pair is another by now are passed over. */
typedef struct lmi_link {
    uint32_t before, behind; /* UINT32_MAX: none */
} lmi_link;

static void lmi_heap_push(uint64_t *heap, size_t *count, uint64_t entry) {
    size_t i = (*count)++;
    for (; i > 0 && entry < heap[(i - 1) / 2]; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
}

static uint64_t lmi_heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0], last = heap[--*count];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void lmi_heap_pair(const sae_tokenizer *t, const int32_t *id, size_t at, size_t behind,
                          uint64_t *heap, size_t *count) {
    const lmi_merge *m = lmi_merge_slot(t, id[at], id[behind]);
    if (m->left >= 0) lmi_heap_push(heap, count, (uint64_t)(uint32_t)m->rank << 32 | at);
}

/* Returns how many are left; SIZE_MAX: no memory. At most 3 n entries: n - 1, and 2 a merge. */
static size_t lmi_merge_many(sae_tokenizer *t, int32_t *id, size_t n) {
    size_t count = 0, kept = 0, room;
    uint64_t *heap;
    lmi_link *link;
    if (n >= UINT32_MAX || !lmi_mul(n, 3, &room)
        || !lmi_grow((void **)&t->heap, &t->heap_room, room, sizeof *heap)
        || !lmi_grow((void **)&t->link, &t->link_room, n, sizeof *link))
        return SIZE_MAX;
    heap = t->heap;
    link = t->link;
    for (size_t i = 0; i < n; i++) {
        link[i].before = i ? (uint32_t)(i - 1) : UINT32_MAX;
        link[i].behind = i + 1 < n ? (uint32_t)(i + 1) : UINT32_MAX;
    }
    for (size_t i = 0; i + 1 < n; i++) lmi_heap_pair(t, id, i, i + 1, heap, &count);
    while (count) {
        uint64_t top = lmi_heap_pop(heap, &count);
        uint32_t at = (uint32_t)top, behind = link[at].behind;
        const lmi_merge *m;
        if (id[at] < 0 || behind == UINT32_MAX) continue; /* taken in; the last */
        m = lmi_merge_slot(t, id[at], id[behind]);
        if (m->left < 0 || (uint32_t)m->rank != top >> 32) continue;
        id[at] = m->made;
        id[behind] = -1;
        link[at].behind = link[behind].behind;
        if (link[at].behind != UINT32_MAX) {
            link[link[at].behind].before = at;
            lmi_heap_pair(t, id, at, link[at].behind, heap, &count);
        }
        if (link[at].before != UINT32_MAX)
            lmi_heap_pair(t, id, link[at].before, at, heap, &count);
    }
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0) id[kept++] = id[i];
    return kept;
}

/* The id of the character s [size]; -1: none. */
static int32_t lmi_char_id(const sae_tokenizer *t, const unsigned char *s, size_t size) {
    return s[0] < 128 ? t->ascii_id[s[0]] : lmi_piece_find(t, s, size);
}

/* All bytes of a character without a token of its own as tokens; *all false: one has none. */
static bool lmi_fall_back(sae_tokenizer *t, const unsigned char *s, size_t size, bool *all) {
    *all = t->byte_fallback;
    for (size_t i = 0; i < size; i++) *all = *all && t->byte_id[s[i]] >= 0;
    for (size_t i = 0; i < size && *all; i++)
        if (!lmi_tokens_add(&t->symbols, t->byte_id[s[i]])) return false;
    return true;
}

/* A word's symbols. Those without a token become the unknown one, each or a run of them, or
   nothing. It comes in front of the next symbol that has a token, behind bytes fallen back to, as
   in tokenizers. */
static bool lmi_symbols(sae_tokenizer *t, const unsigned char *s, size_t size) {
    bool unknown = false, all = false;
    size_t length = 1;
    t->symbols.count = 0;
    for (size_t i = 0; i < size; i += length) {
        int32_t id;
        if (!t->bytes) lmi_code(s + i, size - i, &length);
        id = t->bytes ? t->byte_id[s[i]] : lmi_char_id(t, s + i, length);
        if (id < 0 && !t->bytes) {
            if (!lmi_fall_back(t, s + i, length, &all)) return false;
            if (all) continue;
        }
        if (unknown && (id >= 0 || !t->fuse_unknown)) {
            if (!lmi_tokens_add(&t->symbols, t->unknown)) return false;
            unknown = false;
        }
        if (id < 0) unknown = t->unknown >= 0;
        else if (!lmi_tokens_add(&t->symbols, id)) return false;
    }
    return !unknown || lmi_tokens_add(&t->symbols, t->unknown);
}

/* The word's ids, into symbols. */
static bool lmi_merge_word(sae_tokenizer *t, const unsigned char *s, size_t size) {
    int32_t whole = t->ignore_merges ? lmi_piece_find(t, s, size) : -1;
    size_t n;
    if (whole >= 0) {
        t->symbols.count = 0;
        return lmi_tokens_add(&t->symbols, whole);
    }
    if (!lmi_symbols(t, s, size)) return false;
    n = t->symbols.count;
    n = n <= LMI_CACHE_BYTES ? lmi_merge_few(t, t->symbols.id, n)
                             : lmi_merge_many(t, t->symbols.id, n);
    if (n == SIZE_MAX) return false;
    t->symbols.count = n;
    return true;
}

/* ==== >>lm: tokenizer: encode ============================================ src/lm/encode.h ==== */

/* -- words -- */

/* Words seen before are looked up; where the table is full they are merged again. */
static bool lmi_encode_word(sae_tokenizer *t, const unsigned char *s, size_t size,
                            sae_tokens *out) {
    uint64_t hash;
    size_t at, probes = 0;
    lmi_word *w;
    if (size > LMI_CACHE_BYTES)
        return lmi_merge_word(t, s, size) && lmi_ids_add(out, t->symbols.id, t->symbols.count);
    hash = lmi_hash(s, size);
    at = (size_t)hash & (2 * LMI_CACHE_WORDS - 1);
    for (w = &t->word[at]; w->size; w = &t->word[at]) {
        if (w->hash == hash && w->size == size
            && memcmp(t->word_bytes.data + w->at, s, size) == 0)
            return lmi_ids_add(out, t->word_ids.id + w->first, w->count);
        at = (at + 1) & (2 * LMI_CACHE_WORDS - 1);
        if (++probes == 32) break;
    }
    if (!lmi_merge_word(t, s, size)
        || !lmi_ids_add(out, t->symbols.id, t->symbols.count))
        return false;
    if (w->size || t->words == LMI_CACHE_WORDS) return true;
    w->at = (uint32_t)t->word_bytes.size;
    w->first = (uint32_t)t->word_ids.count;
    w->count = (uint32_t)t->symbols.count;
    w->hash = hash;
    if (!lmi_text_add(&t->word_bytes, s, size)
        || !lmi_ids_add(&t->word_ids, t->symbols.id, t->symbols.count))
        return false;
    w->size = (uint32_t)size;
    t->words++;
    return true;
}

/* Bytes of a long word up to its first seam. Both characters there have tokens: what has none may
   be left out, or be one with its like. */
static size_t lmi_seam_length(const sae_tokenizer *t, const unsigned char *s, size_t left) {
    size_t before = 0, at, length;
    uint32_t last = lmi_code(s, left, &at);
    while (at < left) {
        uint32_t c = lmi_code(s + at, left - at, &length);
        size_t bit = lmi_seam_at(t, last, c);
        if (!(t->seam[bit / 8] >> bit % 8 & 1) && lmi_char_id(t, s + at, length) >= 0
            && lmi_char_id(t, s + before, at - before) >= 0)
            return at;
        last = c;
        before = at;
        at += length;
    }
    return left;
}

static bool lmi_encode_words(sae_tokenizer *t, const unsigned char *s, size_t size, bool first,
                             sae_tokens *out) {
    if (!lmi_mark_spaces(t, first, &s, &size)) return false;
    while (size) {
        size_t word = lmi_word_length(t, s, size), length;
        for (; word; s += length, word -= length, size -= length) {
            length = word > LMI_CACHE_BYTES && t->seam ? lmi_seam_length(t, s, word) : word;
            if (!lmi_encode_word(t, s, length, out)) return false;
        }
    }
    return true;
}

/* -- added tokens -- */

/* The longest one of a kind at s; NULL: none. */
static const lmi_added *lmi_added_at(const sae_tokenizer *t, int kind, const unsigned char *s,
                                     size_t left) {
    const lmi_added *added = t->added[kind], *best = NULL;
    size_t lo = t->starts[kind][s[0]], hi = t->starts[kind][s[0] + 1];
    for (size_t same = 1; lo < hi; same++) { /* [lo,hi) begin with s [same] */
        size_t a = lo, b = hi;
        if (added[lo].span.size == same) best = &added[lo];
        while (lo < hi && added[lo].span.size == same) lo++;
        if (lo == hi || same == left) break;
        a = lo;
        while (a < b) { /* the first one whose next byte is not below s[same] */
            size_t mid = (a + b) / 2;
            if ((unsigned char)added[mid].text[same] < s[same]) a = mid + 1;
            else b = mid;
        }
        lo = a;
        b = hi;
        while (a < b) { /* the first one above */
            size_t mid = (a + b) / 2;
            if ((unsigned char)added[mid].text[same] <= s[same]) a = mid + 1;
            else b = mid;
        }
        hi = a;
    }
    return best;
}

/* Where the white space that ends at `end` begins, not before begin. */
static size_t lmi_strip(const unsigned char *s, size_t begin, size_t end) {
    size_t at = begin, kept = begin, length;
    for (; at < end; at += length)
        if (!(lmi_class(lmi_code(s + at, end - at, &length)) & LMI_SPACE)) kept = at + length;
    return kept;
}

/* Whether a token at [start,stop) of s [size] stands between characters of words. */
static bool lmi_in_word(const unsigned char *s, size_t size, size_t start, size_t stop) {
    size_t length = 0, n;
    if (stop < size && (lmi_class(lmi_code(s + stop, size - stop, &length)) & LMI_WORD))
        return true;
    for (n = lmi_min(start, 4); n > 0; n--) { /* the character in front */
        uint32_t c = lmi_code(s + start - n, n, &length);
        if (length == n) return (lmi_class(c) & LMI_WORD) != 0;
    }
    return false;
}

static bool lmi_encode_between(sae_tokenizer *t, int kind, const unsigned char *s, size_t size,
                               bool first, sae_tokens *out);

/* Takes the added tokens of one kind out of a text; what lies between goes on. */
static bool lmi_encode_text(sae_tokenizer *t, int kind, const unsigned char *s, size_t size,
                            bool first, sae_tokens *out) {
    const uint32_t *starts = t->starts[kind];
    size_t begin = 0, at = 0;
    for (;;) {
        const lmi_added *a = NULL;
        size_t start, stop;
        while (at < size
               && (starts[s[at]] == starts[s[at] + 1]
                   || !(a = lmi_added_at(t, kind, s + at, size - at))))
            at++;
        if (!a) break;
        start = at;
        stop = at += a->span.size;
        if (a->single_word && lmi_in_word(s, size, start, stop)) continue;
        if (a->lstrip && start > begin) start = lmi_strip(s, begin, start);
        if (a->rstrip) stop += lmi_run_of(s + stop, size - stop, LMI_SPACE);
        if (start > begin
            && !lmi_encode_between(t, kind, s + begin, start - begin, first && !begin, out))
            return false;
        if (!lmi_tokens_add(out, a->id)) return false;
        begin = stop;
    }
    return begin == size
           || lmi_encode_between(t, kind, s + begin, size - begin, first && !begin, out);
}

static bool lmi_encode_between(sae_tokenizer *t, int kind, const unsigned char *s, size_t size,
                               bool first, sae_tokens *out) {
    if (kind) return lmi_encode_words(t, s, size, first, out);
    return lmi_normalize(t, &s, &size) && lmi_encode_text(t, 1, s, size, first, out);
}

SAE_API const int32_t *sae_tokenizer_bos(const sae_tokenizer *t, size_t *count) {
    *count = t->bos.count;
    return t->bos.id;
}

SAE_API sae_result sae_tokenizer_encode(sae_tokenizer *t, const char *text, size_t size, bool bos,
                                        sae_tokens *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!text && size))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_encode: text and out may not be NULL");
    before = out->count;
    if ((bos && !lmi_ids_add(out, t->bos.id, t->bos.count))
        || !lmi_encode_text(t, 0, (const unsigned char *)text, size, true, out)) {
        out->count = before;
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_tokenizer_encode: no memory for the tokens of %zu bytes",
                                size);
    }
    return SAE_OK;
}

/* ==== >>lm: tokenizer: decode ============================================ src/lm/decode.h ==== */

SAE_API const char *sae_tokenizer_token(const sae_tokenizer *t, int32_t id, size_t *size) {
    if (!t || id < 0 || (size_t)id >= t->size || !t->token[id].there) return NULL;
    if (size) *size = t->token[id].text.size;
    return lmi_span_data(t, t->token[id].text);
}

SAE_API int32_t sae_tokenizer_find(const sae_tokenizer *t, const char *text, size_t size) {
    int32_t found;
    if (!t || !text) return -1;
    for (int kind = 0; kind < 2; kind++)
        for (size_t i = 0; i < t->num_added[kind]; i++) {
            const lmi_added *a = &t->added[kind][i];
            if (lmi_span_is(t, a->span, text, size)
                || lmi_span_is(t, t->token[a->id].text, text, size))
                return a->id;
        }
    found = size ? lmi_piece_find(t, text, size) : -1;
    if (found >= 0 && lmi_span_is(t, t->token[found].text, text, size)) return found;
    for (size_t id = 0; id < t->size && !t->bytes; id++)
        if (t->token[id].plain && lmi_span_is(t, t->token[id].text, text, size)) return (int32_t)id;
    return -1;
}

/* The text of token number i among those decoded. */
static bool lmi_decode_token(const sae_tokenizer *t, int32_t id, size_t i, sae_text *out) {
    const lmi_token *token = &t->token[id];
    const char *piece = lmi_span_data(t, token->piece);
    lmi_span nothing = { 0, 0 };
    for (size_t at = 0; i == 0 && t->first_drops.size && at < token->piece.size; at++)
        if (lmi_span_begins(t, t->first_drops, piece + at, token->piece.size - at))
            return lmi_replace(t, t->first_drops, nothing, piece, token->piece.size, out);
    return lmi_text_add(out, lmi_span_data(t, token->text), token->text.size);
}

/* Takes the decoder's Strip off both ends of what was appended behind `before`. */
static void lmi_decode_strip(const sae_tokenizer *t, size_t before, sae_text *out) {
    size_t n = t->strip_text.size, start = 0;
    char *s = out->data + before;
    while (start < t->strip_start && lmi_span_begins(t, t->strip_text, s + start * n,
                                                out->size - before - start * n))
        start++;
    memmove(s, s + start * n, out->size - before - start * n + 1);
    out->size -= start * n;
    for (size_t stop = 0; stop < t->strip_stop && out->size - before >= n; stop++) {
        if (memcmp(out->data + out->size - n, lmi_span_data(t, t->strip_text), n) != 0) break;
        out->size -= n;
        out->data[out->size] = 0;
    }
}

SAE_API sae_result sae_tokenizer_decode(const sae_tokenizer *t, const int32_t *ids, size_t count,
                                        sae_text *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!ids && count))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_decode: ids and out may not be NULL");
    before = out->size;
    for (size_t i = 0; i < count; i++) {
        bool there = sae_tokenizer_token(t, ids[i], NULL) != NULL;
        if (there && lmi_decode_token(t, ids[i], i, out)) continue;
        out->size = before;
        if (there)
            return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_tokenizer_decode: no memory");
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_decode: ids[%zu] is %ld, which is no token's; "
                                "ids go from 0 to %zu",
                                i, (long)ids[i], t->size - 1);
    }
    if (!lmi_text_add(out, "", 0))
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_decode: no memory");
    lmi_decode_strip(t, before, out);
    return SAE_OK;
}

/* ==== >>lm: tokenizer: tokenizer.json ============================ src/lm/tokenizer_json.h ==== */

typedef struct lmi_tokenizer_file {
    sae_tokenizer *t;
    const sae_json *root, *model, *vocab, *merges, *added;
    int16_t alphabet[512];   /* GPT-2's: the byte of a character */
    lmi_normal_step decode[LMI_MAX_STEPS]; /* LMI_REPLACE alone: from a piece to its text */
    size_t num_decode;
    bool decode_bytes;       /* "<0x41>" is a byte */
    int decoders;            /* the last kind seen, in the order they may come in */
    sae_text piece, text[2]; /* of the token at hand */
} lmi_tokenizer_file;

static bool lmi_is_true(const sae_json *object, const char *key) {
    return sae_json_number(sae_json_get(object, key)) != 0;
}

static bool lmi_is_null(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

static const char *lmi_text_of(const sae_json *object, const char *key) {
    const char *text = sae_json_text(sae_json_get(object, key));
    return text ? text : "";
}

static const char *lmi_type(const sae_json *v) {
    const char *type = lmi_text_of(v, "type");
    return type[0] ? type : "no text";
}

/* fn for v, or for the parts of v where it is a Sequence; list: where they are. */
static sae_result lmi_each_part(lmi_tokenizer_file *r, const sae_json *v, const char *list,
                           sae_result (*fn)(lmi_tokenizer_file *r, const sae_json *v)) {
    const sae_json *part;
    if (lmi_is_null(v)) return SAE_OK;
    if (strcmp(lmi_type(v), "Sequence") != 0) return fn(r, v);
    for (part = sae_json_first(sae_json_get(v, list)); part; part = sae_json_next(part))
        LMI_TRY(fn(r, part));
    return SAE_OK;
}

static sae_result lmi_span_of(lmi_tokenizer_file *r, const char *text, lmi_span *out) {
    return lmi_span_add(r->t, text, strlen(text), out) ? SAE_OK : lmi_tokenizer_memory(r->t);
}

/* -- normalizer, pre_tokenizer, decoder, post_processor -- */

/* {"pattern": {"String": from}, "content": to} */
static sae_result lmi_read_replace(lmi_tokenizer_file *r, const char *of, const sae_json *v,
                                   lmi_normal_step *out) {
    const sae_json *pattern = sae_json_get(v, "pattern");
    const char *from = sae_json_text(sae_json_get(pattern, "String"));
    const char *to = sae_json_text(sae_json_get(v, "content"));
    if (!from || !from[0] || !to)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the %s replaces the pattern %.60s, supported is a String", of,
                          lmi_text_of(pattern, "Regex"));
    out->kind = LMI_REPLACE;
    LMI_TRY(lmi_span_of(r, from, &out->from));
    return lmi_span_of(r, to, &out->to);
}

static sae_result lmi_normalizer(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_normal_step *step = &r->t->step[r->t->num_steps];
    const char *type = lmi_type(v);
    if (r->t->num_steps == LMI_MAX_STEPS)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "the normalizer has more than %d steps",
                          LMI_MAX_STEPS);
    if (strcmp(type, "NFC") == 0) step->kind = LMI_NFC;
    else if (strcmp(type, "Prepend") == 0) {
        step->kind = LMI_PREPEND;
        LMI_TRY(lmi_span_of(r, lmi_text_of(v, "prepend"), &step->to));
    } else if (strcmp(type, "Replace") == 0) {
        LMI_TRY(lmi_read_replace(r, "normalizer", v, step));
    } else {
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the normalizer is %s, supported are NFC, Replace, Prepend, none and "
                          "Sequences of them",
                          type);
    }
    r->t->num_steps++;
    return SAE_OK;
}

/* An Isolated Split by a pattern leaves no text out and joins nothing; a Removed and inverted one
   neither, as the patterns match every character. */
static sae_result lmi_pre_split(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_splitter *p = &r->t->splitter;
    const sae_json *pattern = sae_json_get(v, "pattern");
    const char *regex = sae_json_text(sae_json_get(pattern, "Regex"));
    const char *string = sae_json_text(sae_json_get(pattern, "String"));
    const char *behavior = lmi_text_of(v, "behavior");
    bool invert = lmi_is_true(v, "invert");
    if (regex) {
        if (strcmp(behavior, "Isolated") != 0 && !(strcmp(behavior, "Removed") == 0 && invert))
            return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                              "the pre_tokenizer's Split is %s, supported with a pattern is "
                              "Isolated",
                              behavior);
        if (lmi_pattern_read(regex, p)) return SAE_OK;
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer's pattern is %.300s, supported are those of GPT-2, "
                          "Llama 3, Qwen 2 and 3, GPT-4o",
                          regex);
    }
    if (!string || !string[0] || strcmp(behavior, "MergedWithPrevious") != 0 || invert)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer's Split is %s, supported with a String is "
                          "MergedWithPrevious",
                          behavior);
    p->cut = LMI_CUT_BEHIND;
    return lmi_span_of(r, string, &p->mark);
}

static sae_result lmi_byte_level(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_splitter *p = &r->t->splitter;
    const sae_json *regex = sae_json_get(v, "use_regex");
    bool own = !regex || sae_json_number(regex) != 0, prefix = lmi_is_true(v, "add_prefix_space");
    if (p->cut && (own || prefix || p->cut != LMI_CUT_PATTERN))
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer has a ByteLevel behind another, supported is that "
                          "with use_regex and add_prefix_space false behind a Split by a pattern");
    r->t->bytes = true;
    if (own) lmi_pattern_read(lmi_pattern_gpt2, p);
    p->prefix = prefix ? LMI_PREFIX_ALWAYS : LMI_PREFIX_NEVER;
    return lmi_span_of(r, " ", &p->prefix_text);
}

static sae_result lmi_metaspace(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_splitter *p = &r->t->splitter;
    const sae_json *scheme = sae_json_get(v, "prepend_scheme"), *split = sae_json_get(v, "split");
    const sae_json *add = sae_json_get(v, "add_prefix_space");
    const char *text = scheme ? lmi_text_of(v, "prepend_scheme") : "always";
    const char *mark = lmi_text_of(v, "replacement");
    if (!lmi_is_null(add) && sae_json_number(add) == 0) text = "never";
    p->prefix = strcmp(text, "always") == 0 ? LMI_PREFIX_ALWAYS
              : strcmp(text, "first") == 0 ? LMI_PREFIX_FIRST : LMI_PREFIX_NEVER;
    if ((p->prefix == LMI_PREFIX_NEVER && strcmp(text, "never") != 0) || !mark[0])
        return lmi_refuse(r->t, SAE_ERR_FORMAT,
                          "Metaspace has the prepend_scheme %s and the replacement \"%s\", allowed "
                          "are always, first and never, and a character",
                          text, mark);
    LMI_TRY(lmi_span_of(r, " ", &p->blank));
    LMI_TRY(lmi_span_of(r, mark, &p->space));
    p->prefix_text = p->mark = p->space;
    if (lmi_is_null(split) || sae_json_number(split) != 0) p->cut = LMI_CUT_BEFORE;
    return SAE_OK;
}

static sae_result lmi_pre_tokenizer(lmi_tokenizer_file *r, const sae_json *v) {
    const char *type = lmi_type(v);
    bool behind = r->t->bytes || r->t->splitter.cut || r->t->splitter.space.size;
    if (strcmp(type, "ByteLevel") == 0 && !r->t->bytes && !r->t->splitter.space.size)
        return lmi_byte_level(r, v);
    if (strcmp(type, "Split") == 0 && !behind) return lmi_pre_split(r, v);
    if (strcmp(type, "Metaspace") == 0 && !behind) return lmi_metaspace(r, v);
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                      "the pre_tokenizer is %s%s, supported are ByteLevel, a Split, both, "
                      "Metaspace or none",
                      type, behind ? " behind another" : "");
}

/* Replace and Metaspace change a token alone; then ByteFallback, Fuse, and Strip of the whole. */
static sae_result lmi_decoder(lmi_tokenizer_file *r, const sae_json *v) {
    static const char *const kinds[] = { "ByteLevel",    "Replace", "Metaspace",
                                         "ByteFallback", "Fuse",    "Strip" };
    sae_tokenizer *t = r->t;
    lmi_normal_step *step = &r->decode[r->num_decode];
    const char *type = lmi_type(v);
    int kind = 0;
    double start = sae_json_number(sae_json_get(v, "start"));
    double stop = sae_json_number(sae_json_get(v, "stop"));
    while (kind < 6 && strcmp(kinds[kind], type) != 0) kind++;
    if (kind == 6 || t->bytes != (kind == 0) || kind < r->decoders
        || (kind == 2 && r->decoders) || (kind == 5 && r->decoders != 4)
        || r->num_decode == LMI_MAX_STEPS)
        return lmi_refuse(t, SAE_ERR_UNSUPPORTED,
                          "the decoder is %s%s, supported are ByteLevel with a ByteLevel "
                          "pre_tokenizer, else Replace or Metaspace, ByteFallback, Fuse and Strip "
                          "in this order",
                          type, r->decoders ? " behind another" : "");
    r->decoders = kind;
    if (kind == 1) {
        LMI_TRY(lmi_read_replace(r, "decoder", v, step));
        r->num_decode++;
    } else if (kind == 2) {
        step->kind = LMI_REPLACE;
        LMI_TRY(lmi_span_of(r, lmi_text_of(v, "replacement"), &step->from));
        LMI_TRY(lmi_span_of(r, " ", &step->to));
        if (!step->from.size)
            return lmi_refuse(t, SAE_ERR_FORMAT, "the decoder Metaspace has no replacement");
        if (strcmp(lmi_text_of(v, "prepend_scheme"), "never") != 0) t->first_drops = step->from;
        r->num_decode++;
    } else if (kind == 3) {
        r->decode_bytes = true;
    } else if (kind == 5) {
        LMI_TRY(lmi_span_of(r, lmi_text_of(v, "content"), &t->strip_text));
        if (!t->strip_text.size || !(start >= 0 && start < 1e6) || !(stop >= 0 && stop < 1e6))
            return lmi_refuse(t, SAE_ERR_FORMAT, "the decoder Strip takes %g and %g times \"%s\" "
                              "off, allowed are counts from 0 and a character", start, stop,
                              lmi_text_of(v, "content"));
        t->strip_start = (size_t)start;
        t->strip_stop = (size_t)stop;
    }
    return SAE_OK;
}

/* The tokens in front of the text are bos; those behind it nobody asks for. */
static sae_result lmi_template(lmi_tokenizer_file *r, const sae_json *v) {
    const sae_json *specials = sae_json_get(v, "special_tokens"), *piece, *id;
    if (r->t->bos.count)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the post_processor has two templates, supported is one");
    for (piece = sae_json_first(sae_json_get(v, "single")); piece; piece = sae_json_next(piece)) {
        const sae_json *special = sae_json_get(piece, "SpecialToken");
        const char *name = sae_json_text(sae_json_get(special, "id"));
        if (!special) break;
        id = name ? sae_json_first(sae_json_get(sae_json_get(specials, name), "ids")) : NULL;
        for (; id; id = sae_json_next(id)) {
            double number = sae_json_kind_of(id) == SAE_JSON_NUMBER ? sae_json_number(id) : -1;
            if (!(number >= 0 && number < LMI_MAX_ID && number == floor(number))) number = -1;
            if (!lmi_tokens_add(&r->t->bos, (int32_t)number)) /* -1 is refused by lmi_read_rest */
                return lmi_tokenizer_memory(r->t);
        }
    }
    return SAE_OK;
}

static sae_result lmi_post_processor(lmi_tokenizer_file *r, const sae_json *v) {
    if (strcmp(lmi_type(v), "TemplateProcessing") == 0) return lmi_template(r, v);
    if (strcmp(lmi_type(v), "ByteLevel") == 0) return SAE_OK; /* changes no ids */
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                      "the post_processor is %s, supported are ByteLevel, TemplateProcessing or "
                      "none",
                      lmi_type(v));
}

/* What of the model there is no room for here. */
static sae_result lmi_read_kind(lmi_tokenizer_file *r) {
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const sae_json *type = sae_json_get(r->model, "type");
    sae_tokenizer *t = r->t;
    if (sae_json_kind_of(r->root) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->model) != SAE_JSON_OBJECT)
        return lmi_refuse(t, SAE_ERR_FORMAT, "there is no object model in it");
    if (type && strcmp(lmi_type(r->model), "BPE") != 0)
        return lmi_refuse(t, SAE_ERR_UNSUPPORTED, "the model is %s, supported is BPE",
                          lmi_type(r->model));
    for (size_t i = 0; i < 2; i++) {
        const char *text = lmi_text_of(r->model, affixes[i]);
        if (text[0])
            return lmi_refuse(t, SAE_ERR_UNSUPPORTED, "%s is %s, supported is none", affixes[i],
                              text);
    }
    if (sae_json_number(sae_json_get(r->model, "dropout")) > 0)
        return lmi_refuse(t, SAE_ERR_UNSUPPORTED, "dropout is %g, supported is none",
                          sae_json_number(sae_json_get(r->model, "dropout")));
    if (sae_json_kind_of(r->vocab) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return lmi_refuse(t, SAE_ERR_FORMAT, "model.vocab or model.merges is missing");
    t->ignore_merges = lmi_is_true(r->model, "ignore_merges");
    t->fuse_unknown = lmi_is_true(r->model, "fuse_unk");
    LMI_TRY(lmi_each_part(r, sae_json_get(r->root, "normalizer"), "normalizers", lmi_normalizer));
    LMI_TRY(lmi_each_part(r, sae_json_get(r->root, "pre_tokenizer"), "pretokenizers",
                     lmi_pre_tokenizer));
    LMI_TRY(lmi_each_part(r, sae_json_get(r->root, "decoder"), "decoders", lmi_decoder));
    t->byte_fallback = !t->bytes && lmi_is_true(r->model, "byte_fallback");
    return lmi_each_part(r, sae_json_get(r->root, "post_processor"), "processors",
                         lmi_post_processor);
}

/* -- vocabulary, merges, added tokens -- */

/* The byte that a character of GPT-2's alphabet stands for: printable ones for themselves, the
   others in their order from U+0100 on; -1: none. */
static int lmi_alphabet(uint32_t c) {
    int n = 0;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = b - 33 < 94 || b - 161 < 12 || b - 174 < 82;
        if (printable ? b == c : 256u + (uint32_t)n == c) return (int)b;
        n += !printable;
    }
    return -1;
}

/* Appends the piece that a text of the file is, in bytes where it is in their alphabet. *plain
   false: it is not. false: no memory. */
static bool lmi_piece_add(const lmi_tokenizer_file *r, const char *text, size_t size, sae_text *out,
                          bool *plain) {
    size_t before = out->size, step;
    *plain = size > 0;
    if (!r->t->bytes) return lmi_text_add(out, text, size);
    for (size_t at = 0; at < size && *plain; at += step) {
        uint32_t c = lmi_code((const unsigned char *)text + at, size - at, &step);
        char byte = c < 512 ? (char)(unsigned char)r->alphabet[c] : 0;
        *plain = c < 512 && r->alphabet[c] >= 0;
        if (*plain && !lmi_text_add(out, &byte, 1)) return false;
    }
    if (*plain) return true;
    out->size = before;
    return lmi_text_add(out, text, size);
}

/* The token's text into *text, *size: what the decoder makes of its piece. */
static bool lmi_decoded(lmi_tokenizer_file *r, const char *piece, size_t n, const char **text,
                        size_t *size) {
    static const char digits[] = "0123456789ABCDEF0123456789abcdef";
    *text = piece;
    *size = n;
    for (size_t i = 0; i < r->num_decode; i++) {
        sae_text *out = &r->text[i % 2];
        out->size = 0;
        if (!lmi_replace(r->t, r->decode[i].from, r->decode[i].to, *text, *size, out)) return false;
        *text = out->data;
        *size = out->size;
    }
    if (r->decode_bytes && *size == 6 && memcmp(*text, "<0x", 3) == 0 && (*text)[5] == '>') {
        const char *high = strchr(digits, (*text)[3]), *low = strchr(digits, (*text)[4]);
        char byte;
        if (!high || !low || !*high || !*low) return true;
        byte = (char)(unsigned char)((high - digits) % 16 * 16 + (low - digits) % 16);
        r->text[0].size = 0;
        if (!lmi_text_add(&r->text[0], &byte, 1)) return false;
        *text = r->text[0].data;
        *size = 1;
    }
    return true;
}

/* The id of v, from 0 to LMI_MAX_ID - 1; -1: none. */
static int32_t lmi_id_of(const sae_json *v) {
    double number = sae_json_kind_of(v) == SAE_JSON_NUMBER ? sae_json_number(v) : -1;
    return number >= 0 && number < LMI_MAX_ID && number == floor(number) ? (int32_t)number : -1;
}

/* The largest id. */
static sae_result lmi_read_sizes(lmi_tokenizer_file *r) {
    size_t size = 0;
    for (int pass = 0; pass < 2; pass++) {
        const sae_json *v = sae_json_first(pass ? r->added : r->vocab);
        for (; v; v = sae_json_next(v)) {
            const sae_json *id = pass ? sae_json_get(v, "id") : v;
            const char *text = pass ? sae_json_text(sae_json_get(v, "content")) : sae_json_key(v);
            if (!text || lmi_id_of(id) < 0)
                return lmi_refuse(r->t, SAE_ERR_FORMAT,
                                  "the token %.60s has the id %g, allowed are whole numbers from 0 "
                                  "to %d",
                                  text ? text : "(no text)", sae_json_number(id), LMI_MAX_ID - 1);
            size = lmi_max(size, (size_t)lmi_id_of(id) + 1);
        }
    }
    if (!size) return lmi_refuse(r->t, SAE_ERR_FORMAT, "the vocabulary is empty");
    return lmi_tokenizer_room(r->t, size, sae_json_count(r->vocab), sae_json_count(r->merges))
               ? SAE_OK : lmi_tokenizer_memory(r->t);
}

static sae_result lmi_read_vocab(lmi_tokenizer_file *r) {
    sae_tokenizer *t = r->t;
    for (const sae_json *v = sae_json_first(r->vocab); v; v = sae_json_next(v)) {
        int32_t id = lmi_id_of(v);
        const char *text;
        size_t size;
        bool plain;
        if (t->token[id].there)
            return lmi_refuse(t, SAE_ERR_FORMAT, "two tokens have the id %ld, %.60s is the second",
                              (long)id, sae_json_key(v));
        r->piece.size = 0;
        if (!lmi_piece_add(r, sae_json_key(v), strlen(sae_json_key(v)), &r->piece, &plain)
            || !lmi_decoded(r, r->piece.data, r->piece.size, &text, &size)
            || !lmi_token_set(t, id, r->piece.data, r->piece.size, text, size, plain))
            return lmi_tokenizer_memory(t);
    }
    return SAE_OK;
}

/* "l r" or ["l", "r"]: its two texts and sizes; false: something else. */
static bool lmi_merge_parts(const sae_json *v, const char **part, size_t *size) {
    const char *whole = sae_json_text(v), *space = whole ? strchr(whole, ' ') : NULL;
    if (space) {
        part[0] = whole;
        part[1] = space + 1;
        size[0] = (size_t)(space - whole);
        size[1] = strlen(part[1]);
        return !strchr(part[1], ' ');
    }
    if (sae_json_kind_of(v) != SAE_JSON_ARRAY || sae_json_count(v) != 2) return false;
    part[0] = sae_json_text(sae_json_first(v));
    part[1] = sae_json_text(sae_json_next(sae_json_first(v)));
    for (int i = 0; i < 2 && part[i]; i++) size[i] = strlen(part[i]);
    return part[0] && part[1];
}

/* The ids of left, right and made; -1: one is no token. false: no memory. */
static bool lmi_merge_ids(lmi_tokenizer_file *r, const char **part, const size_t *size,
                          int32_t *id) {
    bool left = false, right = false;
    size_t middle;
    r->piece.size = 0;
    if (!lmi_piece_add(r, part[0], size[0], &r->piece, &left)) return false;
    middle = r->piece.size;
    if (!lmi_piece_add(r, part[1], size[1], &r->piece, &right)) return false;
    if (!left || !right) return true;
    id[0] = lmi_piece_find(r->t, r->piece.data, middle);
    id[1] = lmi_piece_find(r->t, r->piece.data + middle, r->piece.size - middle);
    id[2] = lmi_piece_find(r->t, r->piece.data, r->piece.size);
    return true;
}

static sae_result lmi_read_merges(lmi_tokenizer_file *r) {
    int32_t rank = 0;
    for (const sae_json *v = sae_json_first(r->merges); v; v = sae_json_next(v), rank++) {
        const char *part[2] = { NULL, NULL };
        size_t size[2] = { 0, 0 };
        int32_t id[3] = { -1, -1, -1 };
        if (lmi_merge_parts(v, part, size) && !lmi_merge_ids(r, part, size, id))
            return lmi_tokenizer_memory(r->t);
        if (id[0] < 0 || id[1] < 0 || id[2] < 0)
            return lmi_refuse(r->t, SAE_ERR_FORMAT,
                              "merge %ld, \"%.40s\" and \"%.40s\", is not of tokens of the "
                              "vocabulary",
                              (long)rank, part[0] ? part[0] : "", part[1] ? part[1] : "");
        lmi_merge_set(r->t, id[0], id[1], id[2], rank);
    }
    return SAE_OK;
}

/* Its id is the vocabulary's, where it is in there, and no other token's. */
static sae_result lmi_added_check(lmi_tokenizer_file *r, int32_t id, const char *content,
                                  int32_t known) {
    const lmi_token *token = &r->t->token[id];
    bool other = known < 0 && token->there
                 && !lmi_span_is(r->t, token->piece, content, strlen(content));
    if (!other && (known < 0 || known == id)) return SAE_OK;
    return lmi_refuse(r->t, SAE_ERR_FORMAT, "the added token %.60s has the id %ld, %s", content,
                      (long)id, other ? "which is another token's"
                                      : "in the vocabulary it has another");
}

/* One added token; content is not empty. Special or not, it is found in plain text. */
static sae_result lmi_read_added_token(lmi_tokenizer_file *r, const sae_json *v,
                                       const char *content) {
    sae_tokenizer *t = r->t;
    int kind = lmi_is_true(v, "normalized");
    lmi_added *a = &t->added[kind][t->num_added[kind]];
    const unsigned char *match = (const unsigned char *)content;
    size_t size = strlen(content), text_size;
    const char *text;
    int32_t known;
    bool plain, good;
    a->id = lmi_id_of(sae_json_get(v, "id"));
    a->lstrip = lmi_is_true(v, "lstrip");
    a->rstrip = lmi_is_true(v, "rstrip");
    a->single_word = lmi_is_true(v, "single_word");
    r->piece.size = 0;
    if (!lmi_piece_add(r, content, size, &r->piece, &plain)) return lmi_tokenizer_memory(t);
    known = plain ? lmi_piece_find(t, r->piece.data, r->piece.size) : -1;
    LMI_TRY(lmi_added_check(r, a->id, content, known));
    if (kind && !lmi_normalize(t, &match, &size)) return lmi_tokenizer_memory(t);
    if (!size) return SAE_OK; /* it matches nothing */
    good = lmi_span_add(t, match, size, &a->span)
           && lmi_decoded(r, (const char *)match, size, &text, &text_size)
           && (known < 0 ? lmi_token_set(t, a->id, content, strlen(content), text, text_size, false)
                         : lmi_span_add(t, text, text_size, &t->token[known].text));
    t->num_added[kind] += good;
    return good ? SAE_OK : lmi_tokenizer_memory(t);
}

static sae_result lmi_read_added(lmi_tokenizer_file *r) {
    size_t count = sae_json_count(r->added);
    for (int kind = 0; kind < 2; kind++) {
        r->t->added[kind] = (lmi_added *)calloc(count + 1, sizeof(lmi_added));
        if (!r->t->added[kind]) return lmi_tokenizer_memory(r->t);
    }
    for (const sae_json *v = sae_json_first(r->added); v; v = sae_json_next(v)) {
        const char *content = sae_json_text(sae_json_get(v, "content"));
        if (content[0]) LMI_TRY(lmi_read_added_token(r, v, content));
    }
    return SAE_OK;
}

/* Ids that files give outside the vocabulary. */
static sae_result lmi_read_rest(lmi_tokenizer_file *r) {
    sae_tokenizer *t = r->t;
    const char *unknown = sae_json_text(sae_json_get(r->model, "unk_token"));
    t->unknown = -1;
    if (unknown) {
        t->unknown = lmi_id_of(sae_json_get(r->vocab, unknown));
        if (t->unknown < 0)
            return lmi_refuse(t, SAE_ERR_FORMAT, "unk_token %.60s is not in the vocabulary",
                              unknown);
    }
    for (size_t i = 0; i < t->bos.count; i++)
        if (!sae_tokenizer_token(t, t->bos.id[i], NULL))
            return lmi_refuse(t, SAE_ERR_FORMAT, "the post_processor adds the id %ld, which is no "
                              "token's", (long)t->bos.id[i]);
    return lmi_tokenizer_finish(t) ? SAE_OK : lmi_tokenizer_memory(t);
}

/* Fills t from the file t->path. */
static sae_result lmi_tokenizer_read_json(sae_tokenizer *t) {
    lmi_tokenizer_file r;
    sae_json *root;
    sae_result result;
    memset(&r, 0, sizeof r);
    LMI_TRY(sae_json_open(t->ctx, t->path, &root));
    r.t = t;
    r.root = root;
    r.model = sae_json_get(root, "model");
    r.vocab = sae_json_get(r.model, "vocab");
    r.merges = sae_json_get(r.model, "merges");
    r.added = sae_json_get(root, "added_tokens");
    for (uint32_t c = 0; c < 512; c++) r.alphabet[c] = (int16_t)lmi_alphabet(c);
    result = lmi_read_kind(&r);
    if (result == SAE_OK) result = lmi_read_sizes(&r);
    if (result == SAE_OK) result = lmi_read_vocab(&r);
    if (result == SAE_OK) result = lmi_read_merges(&r);
    if (result == SAE_OK) result = lmi_read_added(&r);
    if (result == SAE_OK) result = lmi_read_rest(&r);
    sae_text_free(&r.piece);
    sae_text_free(&r.text[0]);
    sae_text_free(&r.text[1]);
    sae_json_close(root);
    return result;
}

/* ==== >>lm: tokenizer: .gguf ===================================== src/lm/tokenizer_gguf.h ==== */
/* tokenizer.ggml.model "gpt2": BPE of bytes with a list of merges; "llama": as SentencePiece, any
   two neighbours that make a token may merge, the token of the highest score first. What the file
   does not say is taken as the tokenizers of these names have it: patterns, NFC, ignore_merges. */

/* By the number of a token's type; others are as normal ones. */
enum {
    LMI_GGUF_UNKNOWN = 2, LMI_GGUF_CONTROL, LMI_GGUF_USER_DEFINED, LMI_GGUF_UNUSED, LMI_GGUF_BYTE
};

typedef struct lmi_gguf_pre {
    const char *name; /* tokenizer.ggml.pre */
    unsigned char part[LMI_PARTS];
    bool nfc, ignore_merges;
} lmi_gguf_pre;
#define LMI_GPT2 { 1, LMI_WORDS_SPACE, 0, LMI_OTHERS_BARE, 0, 1 }
#define LMI_LLAMA3 { 2, LMI_WORDS_HEAD, 3, LMI_OTHERS_LINES, 1, 1 }
#define LMI_QWEN2 { 2, LMI_WORDS_HEAD, 1, LMI_OTHERS_LINES, 1, 1 }
#define LMI_GPT4O { 0, LMI_WORDS_CASED_ENDING, 3, LMI_OTHERS_SLASH, 1, 1 }
static const lmi_gguf_pre lmi_gguf_pres[] = {
    { "gpt-2", LMI_GPT2, false, false },
    { "olmo", LMI_GPT2, true, false }, /* GPT-NeoX, Pythia */
    { "mpt", LMI_GPT2, true, false },
    { "llama-bpe", LMI_LLAMA3, false, true },
    { "llama3", LMI_LLAMA3, false, true },
    { "llama-v3", LMI_LLAMA3, false, true },
    { "qwen2", LMI_QWEN2, true, false },
    { "deepseek-r1-qwen", LMI_QWEN2, true, false },
    { "qwen35", { 2, LMI_WORDS_MARKS, 1, LMI_OTHERS_LINES, 1, 1 }, true, false },
    { "gpt-4o", LMI_GPT4O, false, false },
    { "llama4", LMI_GPT4O, false, false },
    { "tekken", { 0, LMI_WORDS_CASED, 1, LMI_OTHERS_SLASH, 1, 1 }, false, true }
};
#undef LMI_GPT2
#undef LMI_LLAMA3
#undef LMI_QWEN2
#undef LMI_GPT4O

/* Files of before there were names, by what architecture they are of. */
static const char *const lmi_gguf_older[][2] = {
    { "gptneox", "olmo" }, { "llama", "llama-bpe" }, { "qwen2", "qwen2" }, { "qwen3", "qwen2" },
    { "qwen3moe", "qwen2" }
};

static sae_result lmi_gguf_pattern(lmi_tokenizer_file *r) {
    const char *name = lmi_text_of(r->root, "tokenizer.ggml.pre");
    const char *arch = lmi_text_of(r->root, "general.architecture");
    char known[256] = "";
    size_t n = 0;
    if (!name[0] || strcmp(name, "default") == 0) {
        name = "gpt-2";
        for (size_t i = 0; i < LMI_COUNT(lmi_gguf_older); i++)
            if (strcmp(arch, lmi_gguf_older[i][0]) == 0) name = lmi_gguf_older[i][1];
    }
    for (size_t i = 0; i < LMI_COUNT(lmi_gguf_pres); i++) {
        const lmi_gguf_pre *pre = &lmi_gguf_pres[i];
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", pre->name);
        if (strcmp(name, pre->name) != 0) continue;
        memcpy(r->t->splitter.part, pre->part, sizeof pre->part);
        r->t->splitter.cut = LMI_CUT_PATTERN;
        r->t->ignore_merges = pre->ignore_merges;
        if (pre->nfc) r->t->step[r->t->num_steps++].kind = LMI_NFC;
        return SAE_OK;
    }
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "tokenizer.ggml.pre is %.60s, supported are %s",
                      name, known);
}

/* Spaces are U+2581, one more in front unless add_space_prefix is false. */
static sae_result lmi_gguf_spaces(lmi_tokenizer_file *r) {
    static const char mark[] = "\xE2\x96\x81";
    const sae_json *prefix = sae_json_get(r->root, "tokenizer.ggml.add_space_prefix");
    sae_tokenizer *t = r->t;
    lmi_normal_step *step;
    if (!prefix || sae_json_number(prefix) != 0) {
        step = &t->step[t->num_steps++];
        step->kind = LMI_PREPEND;
        LMI_TRY(lmi_span_of(r, mark, &step->to));
        LMI_TRY(lmi_span_of(r, " ", &t->strip_text));
        t->strip_start = 1;
    }
    step = &t->step[t->num_steps++];
    step->kind = LMI_REPLACE;
    LMI_TRY(lmi_span_of(r, " ", &step->from));
    LMI_TRY(lmi_span_of(r, mark, &step->to));
    step = &r->decode[r->num_decode++];
    step->kind = LMI_REPLACE;
    LMI_TRY(lmi_span_of(r, mark, &step->from));
    LMI_TRY(lmi_span_of(r, " ", &step->to));
    r->decode_bytes = true;
    t->byte_fallback = t->fuse_unknown = true;
    return SAE_OK;
}

/* A list of the metadata with an entry for each token. */
static sae_result lmi_gguf_list_of(const lmi_tokenizer_file *r, const char *key,
                                   const sae_json **out) {
    const sae_json *v = sae_json_get(r->root, key);
    if (sae_json_kind_of(v) != SAE_JSON_ARRAY || sae_json_count(v) < r->t->size)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "%s has %zu entries, there are %zu tokens", key,
                          sae_json_kind_of(v) == SAE_JSON_ARRAY ? sae_json_count(v) : 0,
                          r->t->size);
    *out = sae_json_first(v);
    return SAE_OK;
}

/* One token. What is special, or user-defined, is found in plain text. */
static sae_result lmi_gguf_token(lmi_tokenizer_file *r, int32_t id, int type, const char *text,
                                 size_t size) {
    sae_tokenizer *t = r->t;
    bool found = type >= LMI_GGUF_UNKNOWN && type <= LMI_GGUF_USER_DEFINED && size;
    bool plain = size && !found && type != LMI_GGUF_UNUSED, good = true;
    const char *decoded;
    size_t length;
    r->piece.size = 0;
    if (plain) good = lmi_piece_add(r, text, size, &r->piece, &plain);
    else good = lmi_text_add(&r->piece, text, size);
    good = good && lmi_decoded(r, r->piece.data, r->piece.size, &decoded, &length)
           && lmi_token_set(t, id, r->piece.data, r->piece.size, decoded, length, plain);
    if (good && found) {
        lmi_added *a = &t->added[0][t->num_added[0]++];
        a->id = id;
        good = lmi_span_add(t, text, size, &a->span);
    }
    return good ? SAE_OK : lmi_tokenizer_memory(t);
}

/* All tokens; type [size] is filled. */
static sae_result lmi_gguf_vocab(lmi_tokenizer_file *r, unsigned char *type) {
    sae_tokenizer *t = r->t;
    const sae_json *v = sae_json_first(r->vocab), *k = NULL;
    if (sae_json_get(r->root, "tokenizer.ggml.token_type"))
        LMI_TRY(lmi_gguf_list_of(r, "tokenizer.ggml.token_type", &k));
    for (size_t i = 0; i < t->size; i++, v = sae_json_next(v), k = k ? sae_json_next(k) : NULL) {
        double number = sae_json_number(k);
        if (!sae_json_text(v))
            return lmi_refuse(t, SAE_ERR_FORMAT, "tokenizer.ggml.tokens[%zu] is no text", i);
        type[i] = number > 0 && number <= LMI_GGUF_BYTE ? (unsigned char)number : 0;
        LMI_TRY(lmi_gguf_token(r, (int32_t)i, type[i], sae_json_text(v), sae_json_count(v)));
    }
    return SAE_OK;
}

/* -- merges by scores -- */

typedef struct lmi_gguf_score {
    double score;
    int32_t id;
} lmi_gguf_score;

static int lmi_gguf_sooner(const void *a, const void *b) {
    const lmi_gguf_score *x = (const lmi_gguf_score *)a, *y = (const lmi_gguf_score *)b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* A token's two parts that may merge into it, split in front of byte `at`; false: one is none. */
static bool lmi_gguf_parts(const sae_tokenizer *t, const unsigned char *type, int32_t id, size_t at,
                           int32_t part[2]) {
    lmi_span piece = t->token[id].piece;
    const char *s = lmi_span_data(t, piece);
    if (((unsigned char)s[at] & 0xC0) == 0x80) return false;
    part[0] = lmi_piece_find(t, s, at);
    if (part[0] < 0 || type[part[0]] == LMI_GGUF_BYTE) return false;
    part[1] = lmi_piece_find(t, s + at, piece.size - at);
    return part[1] >= 0 && type[part[1]] != LMI_GGUF_BYTE;
}

/* Tokens of equal scores have equal ranks: the leftmost of them merges first. */
static sae_result lmi_gguf_merges(lmi_tokenizer_file *r, const unsigned char *type,
                                  lmi_gguf_score *order) {
    sae_tokenizer *t = r->t;
    const sae_json *v;
    size_t tokens = 0, pairs = 0;
    int32_t part[2];
    LMI_TRY(lmi_gguf_list_of(r, "tokenizer.ggml.scores", &v));
    for (size_t i = 0; i < t->size; i++, v = sae_json_next(v)) {
        double score = sae_json_number(v);
        if (!t->token[i].plain || type[i] == LMI_GGUF_BYTE) continue;
        if (sae_json_kind_of(v) != SAE_JSON_NUMBER || !(fabs(score) < 1e300))
            return lmi_refuse(t, SAE_ERR_FORMAT, "tokenizer.ggml.scores[%zu] is %g, allowed are "
                              "finite numbers", i, score);
        order[tokens].score = score;
        order[tokens++].id = (int32_t)i;
    }
    if (tokens) qsort(order, tokens, sizeof *order, lmi_gguf_sooner);
    for (int pass = 0; pass < 2; pass++) {
        int32_t rank = 0;
        for (size_t i = 0; i < tokens; i++) {
            int32_t id = order[i].id;
            rank += i && order[i].score != order[i - 1].score;
            for (size_t at = 1; at < t->token[id].piece.size; at++) {
                if (!lmi_gguf_parts(t, type, id, at, part)) continue;
                if (pass) lmi_merge_set(t, part[0], part[1], id, rank);
                else pairs++;
            }
        }
        if (!pass && !lmi_merges_room(t, pairs)) return lmi_tokenizer_memory(t);
    }
    return SAE_OK;
}

/* -- the file -- */

/* An id of the metadata, `otherwise` where it has none. */
static sae_result lmi_gguf_id(const lmi_tokenizer_file *r, const char *key, int32_t otherwise,
                              int32_t *out) {
    const sae_json *v = sae_json_get(r->root, key);
    *out = v ? lmi_id_of(v) : (size_t)otherwise < r->t->size ? otherwise : -1;
    if (!v || (*out >= 0 && (size_t)*out < r->t->size)) return SAE_OK;
    return lmi_refuse(r->t, SAE_ERR_FORMAT, "%s is %g, allowed are the ids from 0 to %zu", key,
                      sae_json_number(v), r->t->size - 1);
}

static sae_result lmi_gguf_read(lmi_tokenizer_file *r, bool scores) {
    sae_tokenizer *t = r->t;
    unsigned char *type;
    lmi_gguf_score *order;
    int32_t bos;
    sae_result result;
    t->unknown = -1;
    if (scores) LMI_TRY(lmi_gguf_spaces(r));
    else LMI_TRY(lmi_gguf_pattern(r));
    if (scores) LMI_TRY(lmi_gguf_id(r, "tokenizer.ggml.unknown_token_id", 0, &t->unknown));
    LMI_TRY(lmi_gguf_id(r, "tokenizer.ggml.bos_token_id", scores ? 1 : -1, &bos));
    if (bos >= 0 && !lmi_tokens_add(&t->bos, bos)) return lmi_tokenizer_memory(t);
    t->added[0] = (lmi_added *)calloc(t->size, sizeof(lmi_added));
    type = (unsigned char *)malloc(t->size);
    order = (lmi_gguf_score *)calloc(scores ? t->size : 1, sizeof *order);
    if (!t->added[0] || !type || !order) result = lmi_tokenizer_memory(t);
    else result = lmi_gguf_vocab(r, type);
    if (result == SAE_OK)
        result = scores ? lmi_gguf_merges(r, type, order) : lmi_read_merges(r);
    free(type);
    free(order);
    if (result != SAE_OK) return result;
    return lmi_tokenizer_finish(t) ? SAE_OK : lmi_tokenizer_memory(t);
}

/* What kind there is, and how much of it. */
static sae_result lmi_gguf_kind(lmi_tokenizer_file *r) {
    const char *model = lmi_text_of(r->root, "tokenizer.ggml.model");
    bool scores = strcmp(model, "llama") == 0;
    size_t size = sae_json_count(r->vocab);
    r->t->bytes = strcmp(model, "gpt2") == 0;
    if (!model[0] || strcmp(model, "no_vocab") == 0 || strcmp(model, "none") == 0)
        return lmi_refuse(r->t, SAE_ERR_NOT_FOUND, "there is no tokenizer in it");
    if (!scores && !r->t->bytes)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "tokenizer.ggml.model is %.60s, supported are gpt2 and llama", model);
    if (sae_json_kind_of(r->vocab) != SAE_JSON_ARRAY || !size || size > LMI_MAX_ID)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "tokenizer.ggml.tokens has %zu entries, allowed "
                          "are 1 to %d", sae_json_kind_of(r->vocab) == SAE_JSON_ARRAY ? size : 0,
                          LMI_MAX_ID);
    if (r->t->bytes && sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "tokenizer.ggml.merges is missing");
    if (!lmi_tokenizer_room(r->t, size, size, r->t->bytes ? sae_json_count(r->merges) : 0))
        return lmi_tokenizer_memory(r->t);
    return lmi_gguf_read(r, scores);
}

/* Fills t from the file t->path. */
static sae_result lmi_tokenizer_read_gguf(sae_tokenizer *t) {
    sae_tensor_file *file;
    lmi_tokenizer_file r;
    sae_result result;
    memset(&r, 0, sizeof r);
    LMI_TRY(sae_tensor_file_open(t->ctx, t->path, &file));
    r.t = t;
    r.root = sae_tensor_file_metadata(file);
    r.vocab = sae_json_get(r.root, "tokenizer.ggml.tokens");
    r.merges = sae_json_get(r.root, "tokenizer.ggml.merges");
    for (uint32_t c = 0; c < 512; c++) r.alphabet[c] = (int16_t)lmi_alphabet(c);
    result = lmi_gguf_kind(&r);
    sae_text_free(&r.piece);
    sae_text_free(&r.text[0]);
    sae_text_free(&r.text[1]);
    sae_tensor_file_close(file);
    return result;
}

/* ==== >>lm: tokenizer: open ====================================== src/lm/tokenizer_open.h ==== */

/* NAME in the folder that the tokenizer's file is in; free. NULL: no memory. */
static char *lmi_path_beside(const sae_tokenizer *t, const char *name) {
    size_t n = strlen(t->path), m = strlen(name);
    char *path = (char *)malloc(n + m + 2);
    if (!path) return NULL;
    while (n && t->path[n - 1] != '/') n--;
    memcpy(path, t->path, n);
    memcpy(path + n, name, m + 1);
    return path;
}

/* *root: of a file beside it, NULL where there is none. */
static sae_result lmi_json_beside(const sae_tokenizer *t, const char *name, sae_json **root) {
    char *path = lmi_path_beside(t, name);
    sae_result result = SAE_OK;
    *root = NULL;
    if (!path) return lmi_tokenizer_memory(t);
    if (lmi_is_file(path)) result = sae_json_open(t->ctx, path, root);
    free(path);
    return result;
}

/* Where the post-processor puts nothing in front: bos_token of tokenizer_config.json, null being
   none; where that says nothing about it, bos_token_id of config.json. */
static sae_result lmi_read_bos(sae_tokenizer *t) {
    sae_json *root;
    const sae_json *v;
    const char *text;
    int32_t id = -1;
    bool said;
    if (t->bos.count) return SAE_OK;
    LMI_TRY(lmi_json_beside(t, "tokenizer_config.json", &root));
    v = sae_json_get(root, "bos_token");
    said = v != NULL;
    text = sae_json_text(sae_json_kind_of(v) == SAE_JSON_OBJECT ? sae_json_get(v, "content") : v);
    if (text) id = sae_tokenizer_find(t, text, strlen(text));
    sae_json_close(root);
    if (!said) {
        LMI_TRY(lmi_json_beside(t, "config.json", &root));
        id = lmi_id_of(sae_json_get(root, "bos_token_id"));
        if (!sae_tokenizer_token(t, id, NULL)) id = -1;
        sae_json_close(root);
    }
    return id < 0 || lmi_tokens_add(&t->bos, id) ? SAE_OK : lmi_tokenizer_memory(t);
}

/* t->path is not there: what is? */
static sae_result lmi_no_tokenizer(const sae_tokenizer *t) {
    static const char *const others[] = { "tokenizer.model", "vocab.json", "merges.txt",
                                          "spiece.model", "vocab.txt" };
    char found[128] = "";
    for (size_t i = 0; i < LMI_COUNT(others); i++) {
        char *path = lmi_path_beside(t, others[i]);
        size_t n = strlen(found);
        if (path && lmi_is_file(path))
            snprintf(found + n, sizeof found - n, "%s%s", n ? ", " : "", others[i]);
        free(path);
    }
    return sae_context_fail(t->ctx, SAE_ERR_NOT_FOUND,
                            "sae_tokenizer_open: %s is not there%s%s%s", t->path,
                            found[0] ? "; beside it is " : "", found,
                            found[0] ? ", which is not read: transformers' "
                                       "AutoTokenizer.from_pretrained(FOLDER).save_pretrained("
                                       "FOLDER) makes tokenizer.json of it" : "");
}

SAE_API sae_result sae_tokenizer_open(sae_context *ctx, const char *path, sae_tokenizer **out) {
    sae_tokenizer *t;
    size_t n = path ? strlen(path) : 0;
    bool gguf;
    sae_result result;
    if (!ctx || !path || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_open: path and out may not be NULL");
    t = (sae_tokenizer *)calloc(1, sizeof *t);
    if (!t) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    t->ctx = ctx;
    gguf = lmi_names_gguf(path);
    t->path = gguf || (n > 5 && strcmp(path + n - 5, ".json") == 0)
                  ? lmi_join("", path) : lmi_join(path, "tokenizer.json");
    if (!t->path || !lmi_text_add(&t->arena, "", 0))
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    else if (gguf) result = lmi_tokenizer_read_gguf(t);
    else if (!lmi_is_file(t->path)) result = lmi_no_tokenizer(t);
    else {
        result = lmi_tokenizer_read_json(t);
        if (result == SAE_OK) result = lmi_read_bos(t);
    }
    if (result == SAE_OK) *out = t;
    else sae_tokenizer_close(t);
    return result;
}

SAE_API void sae_tokenizer_close(sae_tokenizer *t) {
    if (!t) return;
    free(t->path);
    free(t->token);
    free(t->slot);
    free(t->merge);
    free(t->seam);
    free(t->cluster.code);
    free(t->cluster.sorted);
    free(t->heap);
    free(t->link);
    free(t->word);
    for (int i = 0; i < 2; i++) {
        free(t->added[i]);
        sae_text_free(&t->normal[i]);
    }
    sae_tokens_free(&t->bos);
    sae_tokens_free(&t->symbols);
    sae_tokens_free(&t->word_ids);
    sae_text_free(&t->arena);
    sae_text_free(&t->spaced);
    sae_text_free(&t->word_bytes);
    free(t);
}

SAE_API size_t sae_tokenizer_size(const sae_tokenizer *tokenizer) { return tokenizer->size; }

SAE_API void sae_tokens_free(sae_tokens *tokens) {
    free(tokens->id);
    memset(tokens, 0, sizeof *tokens);
}

SAE_API void sae_text_free(sae_text *text) {
    free(text->data);
    memset(text, 0, sizeof *text);
}

/* ==== >>lm: contexts =================================================== src/lm/contexts.h ==== */

SAE_API void sae_contexts_free(sae_contexts *contexts) {
    free(contexts->tokens);
    memset(contexts, 0, sizeof *contexts);
}

static sae_result lmi_file_read(sae_context *ctx, const char *path, sae_text *out) {
    FILE *f = fopen(path, "rb");
    size_t got = 0;
    bool bad;
    if (!f)
        return sae_context_fail(ctx, SAE_ERR_NOT_FOUND, "sae_contexts_read: cannot open %s", path);
    do {
        out->size += got;
        if (!lmi_grow((void **)&out->data, &out->capacity, out->size + 65536, 1)) {
            fclose(f);
            return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_contexts_read: no memory for %s", path);
        }
        got = fread(out->data + out->size, 1, 65536, f);
    } while (got);
    bad = ferror(f) != 0;
    fclose(f);
    if (bad) return sae_context_fail(ctx, SAE_ERR_IO, "sae_contexts_read: cannot read %s", path);
    return SAE_OK;
}

static bool lmi_is_npy(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".npy") == 0;
}

/* Element i of a tensor of whole numbers, -1 for anything below 0; false: no such kind. */
static bool lmi_whole(const sae_tensor *t, int64_t at, int64_t *out) {
    const unsigned char *p = (const unsigned char *)t->data
                             + at * (int64_t)sae_dtype_size(t->dtype);
    uint64_t bits = 0;
    size_t size = sae_dtype_size(t->dtype);
    if (t->dtype < SAE_I8 || t->dtype > SAE_U64) return false;
    for (size_t i = 0; i < size; i++) bits |= (uint64_t)p[i] << 8 * i;
    if (t->dtype == SAE_I8 || t->dtype == SAE_I16 || t->dtype == SAE_I32 || t->dtype == SAE_I64)
        *out = bits >> (8 * size - 1) ? -1 : (int64_t)bits;
    else *out = bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    return true;
}

/* Appends the ids of a .npy; *width: its contexts' length, 0 where it has one dimension. */
static sae_result lmi_ids_read(sae_context *ctx, const char *path, sae_tokens *out,
                               size_t *width) {
    sae_tensor_file *file;
    const sae_tensor *t;
    sae_result result = SAE_OK;
    size_t rows, columns;
    LMI_TRY(sae_tensor_file_open(ctx, path, &file));
    t = sae_tensor_file_get(file, 0);
    if (!t || t->ndim < 1 || t->ndim > 2 || t->dtype < SAE_I8 || t->dtype > SAE_U64) {
        result = sae_context_fail(ctx, SAE_ERR_FORMAT,
                                  "sae_contexts_read: %s has %zu dimensions of %s, "
                                  "allowed are 1 or 2 of whole numbers",
                                  path, t ? t->ndim : 0, t ? sae_dtype_name(t->dtype) : "nothing");
        sae_tensor_file_close(file);
        return result;
    }
    columns = (size_t)t->shape[t->ndim - 1];
    rows = !columns ? 0 : t->ndim == 2 ? (size_t)t->shape[0] : 1; /* 2^60 empty rows cost a byte */
    *width = t->ndim == 2 ? columns : 0;
    for (size_t r = 0; r < rows && result == SAE_OK; r++)
        for (size_t c = 0; c < columns && result == SAE_OK; c++) {
            int64_t id = 0;
            lmi_whole(t, (t->ndim == 2 ? (int64_t)r * t->stride[0] : 0)
                      + (int64_t)c * t->stride[t->ndim - 1], &id);
            if (id > INT32_MAX)
                result = sae_context_fail(ctx, SAE_ERR_FORMAT,
                                          "sae_contexts_read: %s: id %zu is larger than "
                                          "2^31 - 1",
                                          path, r * columns + c);
            else if (!lmi_tokens_add(out, (int32_t)id))
                result =
                    sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_contexts_read: no memory");
        }
    sae_tensor_file_close(file);
    return result;
}

static sae_result lmi_contexts_memory(sae_context *ctx) {
    return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_contexts_read: no memory");
}

/* Whole contexts of ids into kept; whole: they are contexts already. */
static sae_result lmi_contexts_cut(sae_context *ctx, const sae_contexts_desc *desc, bool whole,
                                   size_t length, const sae_tokens *ids, sae_contexts *all,
                                   sae_tokens *kept) {
    size_t head = whole ? 0 : desc->num_bos, step = length - head, count;
    if (length <= head)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_contexts_read: length is %zu, with num_bos %zu allowed is "
                                "from %zu",
                                length, head, head + 1);
    count = ids->count / step;
    if (!head && !lmi_ids_add(kept, ids->id, count * step)) return lmi_contexts_memory(ctx);
    for (size_t i = 0; head && i < count; i++)
        if (!lmi_ids_add(kept, desc->bos, head) || !lmi_ids_add(kept, ids->id + i * step, step))
            return lmi_contexts_memory(ctx);
    all->contexts += count;
    all->dropped += ids->count - count * step;
    return SAE_OK;
}

/* The contexts of one file; *length 0: not known yet. */
static sae_result lmi_contexts_add(sae_context *ctx, const sae_contexts_desc *desc,
                                   const char *path, size_t *length, sae_contexts *all,
                                   sae_tokens *kept) {
    sae_tokens ids = { NULL, 0, 0 };
    sae_text text = { NULL, 0, 0 };
    size_t width = 0;
    bool apart = *length == 1 && !desc->num_bos;
    sae_result result;
    if (lmi_is_npy(path)) result = lmi_ids_read(ctx, path, &ids, &width);
    else if (!desc->tokenizer)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s is text, and tokenizer is NULL", path);
    else {
        result = lmi_file_read(ctx, path, &text);
        if (result == SAE_OK)
            result = sae_tokenizer_encode(desc->tokenizer, text.data, text.size, false, &ids);
    }
    if (result == SAE_OK && width && *length && width != *length && !apart)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s has contexts of %zu tokens, "
                                  "wanted are %zu",
                                  path, width, *length);
    if (!*length) *length = width ? width : 128;
    if (result == SAE_OK)
        result = lmi_contexts_cut(ctx, desc, width && !apart, *length, &ids, all, kept);
    sae_tokens_free(&ids);
    sae_text_free(&text);
    return result;
}

SAE_API sae_result sae_contexts_read(sae_context *ctx, const sae_contexts_desc *desc,
                                     sae_contexts *out) {
    sae_contexts all = { NULL, 0, 0, 0 };
    sae_tokens kept = { NULL, 0, 0 };
    sae_result result = SAE_OK;
    size_t length;
    if (!ctx || !desc || !desc->files || !desc->num_files || (!desc->bos && desc->num_bos) || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_contexts_read: num_files is %zu, num_bos %zu; desc, files, "
                                "bos and out may not be NULL, num_files is from 1",
                                desc ? desc->num_files : 0, desc ? desc->num_bos : 0);
    length = desc->length;
    for (size_t i = 0; i < desc->num_files && result == SAE_OK; i++)
        result = lmi_contexts_add(ctx, desc, desc->files[i], &length, &all, &kept);
    if (result == SAE_OK && !all.contexts)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "sae_contexts_read: %s%s has %zu tokens, wanted is at "
                                  "least one context of %zu",
                                  desc->files[0], desc->num_files > 1 ? ", ..." : "", all.dropped,
                                  length);
    if (result != SAE_OK) {
        sae_tokens_free(&kept);
        return result;
    }
    all.tokens = kept.id;
    all.ctx = length;
    *out = all;
    return SAE_OK;
}

#ifndef SAE_NO_TRAIN

/* ==== >>lm: source ======================================================= src/lm/source.h ==== */

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

#endif

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif
#endif /* SAE_LM_IMPLEMENTATION */

/*
    MIT License

    Copyright (c) 2026 the sae.h authors

    Permission is hereby granted, free of charge, to any person obtaining a copy
    of this software and associated documentation files (the "Software"), to deal
    in the Software without restriction, including without limitation the rights
    to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
    copies of the Software, and to permit persons to whom the Software is
    furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all
    copies or substantial portions of the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
    IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
    FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
    AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
    LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
    OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
    SOFTWARE.
*/
