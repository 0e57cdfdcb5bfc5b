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
        bfloat16, float32 or float64. Runs batches of contexts, shows and lets change the
        activations at any submodule, gives logits and next-token losses. Byte-level BPE, encode and
        decode.

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

/* ==== >>lm: api: submodules =========================================== src/lm/api_model.h ==== */

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

/* ==== >>lm: api: forward pass ========================================= src/lm/api_model.h ==== */

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

/* ==== >>lm: api: tokenizer ============================================= src/lm/api_text.h ==== */

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

/* What stands in front of a text [*count], 0 where there is none: the tokens that the file's
   post-processor puts there, else bos_token of the tokenizer_config.json beside it. */
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
/* Room for `capacity` tokens: 2 layers capacity kv_heads head_dim floats. Errors: SAE_ERR_INVALID,
   SAE_ERR_OUT_OF_MEMORY. */
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

/* One head of one context: rows q, k, v [ctx] of head_dim, each stride floats behind the one
   before; out likewise. */
typedef struct lmi_head {
    const float *q, *k, *v;
    size_t stride, ctx, head_dim;
    float scale;
    float *scratch; /* lmi_head_scratch floats, on 64 bytes */
    float *out;
    size_t out_stride;
} lmi_head;

typedef struct lmi_kernels {
    /* out = (x - mean) / sqrt(variance + eps) weight + bias over n; out may be x */
    void (*norm)(size_t n, const float *x, const float *weight, const float *bias, double eps,
                 float *out);
    void (*activate)(lmi_act act, size_t n, float *x);
    void (*add)(size_t n, const float *a, const float *x, float *out); /* out = a + x */
    void (*attend)(const lmi_head *h);
    /* largest = max x; returns sum exp(x - largest) */
    double (*sum_exp)(size_t n, const float *x, float *largest);
} lmi_kernels;

static size_t lmi_round(size_t n) {
    return (n + LMI_COLUMNS - 1) / LMI_COLUMNS * LMI_COLUMNS;
}

/* k turned [head_dim][ctx'], v [ctx][head_dim'], 8 rows of weights [ctx'], 8 of out [head_dim']. */
static size_t lmi_head_scratch(size_t ctx, size_t head_dim) {
    size_t wide = lmi_round(ctx), deep = lmi_round(head_dim);
    return head_dim * wide + ctx * deep + LMI_ROWS * (wide + deep);
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

/* p[j] = exp(scale (p[j] - max)) over the first n, zeros up to wide (a multiple of 16); returns
   their sum. */
static float lmi_softmax(float *p, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = n; j < wide; j++) p[j] = p[0];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j + 16 <= n; j += 16) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
    }
    if (j < n) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        lmi_vstore(f, e);
        e = lmi_vpart(f, n - j, 0);
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
        j += 16;
    }
    for (; j < wide; j++) p[j] = 0;
    return (float)lmi_vsum(sum);
}

/* Causal attention, 8 queries at a time; keys behind the last of them are not looked at. */
static void LMI_FN(lmi_attend)(const lmi_head *h) {
    size_t wide = lmi_round(h->ctx), deep = lmi_round(h->head_dim), d = h->head_dim;
    float *keys = h->scratch, *values = keys + d * wide, *p = values + h->ctx * deep;
    float *mixed = p + LMI_ROWS * wide;
    for (size_t t = 0; t < wide; t++)
        for (size_t c = 0; c < d; c++)
            keys[c * wide + t] = t < h->ctx ? h->k[t * h->stride + c] : 0;
    for (size_t t = 0; t < h->ctx; t++)
        for (size_t c = 0; c < deep; c++)
            values[t * deep + c] = c < d ? h->v[t * h->stride + c] : 0;
    for (size_t i = 0; i < h->ctx; i += LMI_ROWS) {
        size_t rows = lmi_min(h->ctx - i, LMI_ROWS), seen = i + rows;
        const float *at[LMI_ROWS];
        float sum[LMI_ROWS];
        for (size_t r = 0; r < LMI_ROWS; r++)
            at[r] = h->q + (i + (r < rows ? r : rows - 1)) * h->stride;
        for (size_t j = 0; j < seen; j += LMI_COLUMNS)
            lmi_block(at, d, keys + j, wide, p + j, wide);
        for (size_t r = 0; r < rows; r++)
            sum[r] = lmi_softmax(p + r * wide, i + r + 1, lmi_round(seen), h->scale);
        for (size_t r = 0; r < LMI_ROWS; r++) at[r] = p + (r < rows ? r : rows - 1) * wide;
        for (size_t c = 0; c < d; c += LMI_COLUMNS)
            lmi_block(at, seen, values + c, deep, mixed + c, deep);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < d; c++)
                h->out[(i + r) * h->out_stride + c] = mixed[r * deep + c] / sum[r];
    }
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

/* p[j] = exp(scale (p[j] - max)) over the first n, zeros up to wide (a multiple of 16); returns
   their sum. */
static float lmi_softmax(float *p, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = n; j < wide; j++) p[j] = p[0];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j + 16 <= n; j += 16) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
    }
    if (j < n) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        lmi_vstore(f, e);
        e = lmi_vpart(f, n - j, 0);
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
        j += 16;
    }
    for (; j < wide; j++) p[j] = 0;
    return (float)lmi_vsum(sum);
}

/* Causal attention, 8 queries at a time; keys behind the last of them are not looked at. */
static void LMI_FN(lmi_attend)(const lmi_head *h) {
    size_t wide = lmi_round(h->ctx), deep = lmi_round(h->head_dim), d = h->head_dim;
    float *keys = h->scratch, *values = keys + d * wide, *p = values + h->ctx * deep;
    float *mixed = p + LMI_ROWS * wide;
    for (size_t t = 0; t < wide; t++)
        for (size_t c = 0; c < d; c++)
            keys[c * wide + t] = t < h->ctx ? h->k[t * h->stride + c] : 0;
    for (size_t t = 0; t < h->ctx; t++)
        for (size_t c = 0; c < deep; c++)
            values[t * deep + c] = c < d ? h->v[t * h->stride + c] : 0;
    for (size_t i = 0; i < h->ctx; i += LMI_ROWS) {
        size_t rows = lmi_min(h->ctx - i, LMI_ROWS), seen = i + rows;
        const float *at[LMI_ROWS];
        float sum[LMI_ROWS];
        for (size_t r = 0; r < LMI_ROWS; r++)
            at[r] = h->q + (i + (r < rows ? r : rows - 1)) * h->stride;
        for (size_t j = 0; j < seen; j += LMI_COLUMNS)
            lmi_block(at, d, keys + j, wide, p + j, wide);
        for (size_t r = 0; r < rows; r++)
            sum[r] = lmi_softmax(p + r * wide, i + r + 1, lmi_round(seen), h->scale);
        for (size_t r = 0; r < LMI_ROWS; r++) at[r] = p + (r < rows ? r : rows - 1) * wide;
        for (size_t c = 0; c < d; c += LMI_COLUMNS)
            lmi_block(at, seen, values + c, deep, mixed + c, deep);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < d; c++)
                h->out[(i + r) * h->out_stride + c] = mixed[r * deep + c] / sum[r];
    }
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

/* p[j] = exp(scale (p[j] - max)) over the first n, zeros up to wide (a multiple of 16); returns
   their sum. */
static float lmi_softmax(float *p, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = n; j < wide; j++) p[j] = p[0];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j + 16 <= n; j += 16) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
    }
    if (j < n) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        lmi_vstore(f, e);
        e = lmi_vpart(f, n - j, 0);
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
        j += 16;
    }
    for (; j < wide; j++) p[j] = 0;
    return (float)lmi_vsum(sum);
}

/* Causal attention, 8 queries at a time; keys behind the last of them are not looked at. */
static void LMI_FN(lmi_attend)(const lmi_head *h) {
    size_t wide = lmi_round(h->ctx), deep = lmi_round(h->head_dim), d = h->head_dim;
    float *keys = h->scratch, *values = keys + d * wide, *p = values + h->ctx * deep;
    float *mixed = p + LMI_ROWS * wide;
    for (size_t t = 0; t < wide; t++)
        for (size_t c = 0; c < d; c++)
            keys[c * wide + t] = t < h->ctx ? h->k[t * h->stride + c] : 0;
    for (size_t t = 0; t < h->ctx; t++)
        for (size_t c = 0; c < deep; c++)
            values[t * deep + c] = c < d ? h->v[t * h->stride + c] : 0;
    for (size_t i = 0; i < h->ctx; i += LMI_ROWS) {
        size_t rows = lmi_min(h->ctx - i, LMI_ROWS), seen = i + rows;
        const float *at[LMI_ROWS];
        float sum[LMI_ROWS];
        for (size_t r = 0; r < LMI_ROWS; r++)
            at[r] = h->q + (i + (r < rows ? r : rows - 1)) * h->stride;
        for (size_t j = 0; j < seen; j += LMI_COLUMNS)
            lmi_block(at, d, keys + j, wide, p + j, wide);
        for (size_t r = 0; r < rows; r++)
            sum[r] = lmi_softmax(p + r * wide, i + r + 1, lmi_round(seen), h->scale);
        for (size_t r = 0; r < LMI_ROWS; r++) at[r] = p + (r < rows ? r : rows - 1) * wide;
        for (size_t c = 0; c < d; c += LMI_COLUMNS)
            lmi_block(at, seen, values + c, deep, mixed + c, deep);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < d; c++)
                h->out[(i + r) * h->out_stride + c] = mixed[r * deep + c] / sum[r];
    }
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
        lmi_norm_##set, lmi_activate_##set, lmi_add_##set, lmi_attend_##set,                       \
        lmi_sum_exp_##set                                                                          \
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

/* ==== >>lm: config ======================================================= src/lm/config.h ==== */

typedef struct lmi_layer {
    float *norm[2][2]; /* input_layernorm, post_attention_layernorm: weight, bias [d] */
    sae_linear *qkv, *dense, *up, *down;
} lmi_layer;

enum { LMI_MAX_SHARDS = 1024, LMI_MAX_LAYERS = 4096 };

struct sae_lm {
    sae_context *ctx;
    const lmi_kernels *kernels;
    sae_lm_config info;
    lmi_act act;
    bool attention_bias;
    char *folder;
    sae_tensor_file *file[LMI_MAX_SHARDS];
    char *file_name[LMI_MAX_SHARDS];
    size_t num_files;
    const sae_tensor *embed; /* read row by row from the file */
    lmi_layer *layer;
    float *norm[2];          /* final_layer_norm */
    sae_linear *unembed;
    /* memory of a forward pass */
    float *memory, *rope;    /* rope [rope_ctx][pairs][cos, sin] */
    size_t memory_floats, rope_ctx;
};

/* What reading config.json needs to complain. */
typedef struct lmi_config {
    sae_context *ctx;
    const char *path;
    const sae_json *root;
} lmi_config;

/* A whole number from 1 to most; missing: otherwise, and if that is 0 it may not be missing. */
static sae_result lmi_config_size(const lmi_config *c, const char *key, size_t otherwise,
                                  size_t most, size_t *out) {
    const sae_json *v = sae_json_get(c->root, key);
    double number = v ? sae_json_number(v) : (double)otherwise;
    if (!v && !otherwise)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s: %s is missing",
                                c->path, key);
    if ((v && sae_json_kind_of(v) != SAE_JSON_NUMBER) || !(number >= 1)
        || number > (double)most || number != floor(number))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are whole numbers from 1 to %zu",
                        c->path, key, number, most);
    *out = (size_t)number;
    return SAE_OK;
}

/* A number above 0 (or from 0 on), or otherwise. */
static sae_result lmi_config_number(const lmi_config *c, const sae_json *object,
                                    const char *key, double least, double most, double *out) {
    const sae_json *v = sae_json_get(object, key);
    sae_json_kind kind = sae_json_kind_of(v);
    if (kind == SAE_JSON_NONE || kind == SAE_JSON_NULL) return SAE_OK;
    if (kind != SAE_JSON_NUMBER || !(sae_json_number(v) >= least) || sae_json_number(v) > most)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: %s is %.9g, allowed are numbers from %g to %g",
                        c->path, key, sae_json_number(v), least, most);
    *out = sae_json_number(v);
    return SAE_OK;
}

static void lmi_config_bool(const lmi_config *c, const char *key, bool *out) {
    const sae_json *v = sae_json_get(c->root, key);
    if (sae_json_kind_of(v) == SAE_JSON_BOOL) *out = sae_json_number(v) != 0;
}

/* Of a list (eos_token_id may be one) the first. */
static void lmi_config_token(const lmi_config *c, const char *key, int64_t *out) {
    const sae_json *v = sae_json_get(c->root, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY) v = sae_json_first(v);
    if (sae_json_kind_of(v) == SAE_JSON_NUMBER && sae_json_number(v) >= 0
        && sae_json_number(v) < 2147483648.0)
        *out = (int64_t)sae_json_number(v);
}

/* Old files: rotary_pct, rotary_emb_base, rope_scaling. New ones: rope_parameters. */
static sae_result lmi_config_rotary(sae_lm *m, const lmi_config *c) {
    const sae_json *rope = sae_json_get(c->root, "rope_parameters"), *type;
    sae_lm_config *info = &m->info;
    double share = 0.25, dims;
    info->rotary_base = 10000;
    if (sae_json_kind_of(rope) != SAE_JSON_OBJECT) rope = sae_json_get(c->root, "rope_scaling");
    type = sae_json_get(rope, "rope_type");
    if (!type) type = sae_json_get(rope, "type");
    if (sae_json_text(type) && strcmp(sae_json_text(type), "default") != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: the rotary kind is %s, supported is default", c->path,
                        sae_json_text(type));
    LMI_TRY(lmi_config_number(c, c->root, "rotary_pct", 0, 1, &share));
    LMI_TRY(lmi_config_number(c, c->root, "rotary_emb_base", 1, 1e12, &info->rotary_base));
    LMI_TRY(lmi_config_number(c, rope, "partial_rotary_factor", 0, 1, &share));
    LMI_TRY(lmi_config_number(c, rope, "rope_theta", 1, 1e12, &info->rotary_base));
    dims = floor((double)info->head_dim * share);
    info->rotary_dims = (size_t)dims;
    if (info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: all %zu dimensions of a head turn, supported is an "
                        "even number", c->path, info->head_dim);
    return SAE_OK;
}

static sae_result lmi_config_act(sae_lm *m, const lmi_config *c) {
    const sae_json *v = sae_json_get(c->root, "hidden_act");
    const char *name = v ? sae_json_text(v) : "gelu";
    char known[256];
    size_t n = 0;
    for (size_t i = 0; i < LMI_NUM_ACTS; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              lmi_acts[i].name);
        if (!name || strcmp(name, lmi_acts[i].name) != 0) continue;
        m->act = lmi_acts[i].act;
        snprintf(m->info.activation, sizeof m->info.activation, "%s", name);
        return SAE_OK;
    }
    return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                    "sae_lm_open: %s: hidden_act is %s, supported are %s", c->path,
                    name ? name : "no text", known);
}

static sae_result lmi_config_read(sae_lm *m, const lmi_config *c) {
    sae_lm_config *info = &m->info;
    const char *type = sae_json_text(sae_json_get(c->root, "model_type"));
    double eps = 1e-5, head_dim = 0;
    if (sae_json_kind_of(c->root) != SAE_JSON_OBJECT)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s is no JSON object",
                                c->path);
    if (!type || strcmp(type, "gpt_neox") != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: model_type is %s, supported is gpt_neox (GPT-NeoX, "
                        "Pythia)", c->path, type ? type : "missing");
    LMI_TRY(lmi_config_size(c, "num_hidden_layers", 0, LMI_MAX_LAYERS, &info->layers));
    LMI_TRY(lmi_config_size(c, "hidden_size", 0, 1 << 20, &info->dim));
    LMI_TRY(lmi_config_size(c, "num_attention_heads", 0, 1 << 20, &info->heads));
    LMI_TRY(lmi_config_size(c, "intermediate_size", 0, 1 << 22, &info->mlp_dim));
    LMI_TRY(lmi_config_size(c, "vocab_size", 0, INT32_MAX, &info->vocab_size));
    LMI_TRY(lmi_config_size(c, "max_position_embeddings", 2048, INT32_MAX, &info->max_ctx));
    if (info->dim % info->heads)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                        "sae_lm_open: %s: hidden_size is %zu, allowed are multiples of "
                        "num_attention_heads, %zu", c->path, info->dim, info->heads);
    info->head_dim = info->dim / info->heads;
    LMI_TRY(lmi_config_number(c, c->root, "head_dim", 1, 1 << 20, &head_dim));
    if (head_dim != 0 && head_dim != (double)info->head_dim)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "sae_lm_open: %s: head_dim is %g, supported is hidden_size / "
                        "num_attention_heads, %zu", c->path, head_dim, info->head_dim);
    LMI_TRY(lmi_config_number(c, c->root, "layer_norm_eps", 0, 1, &eps));
    info->norm_eps = eps;
    info->parallel_residual = m->attention_bias = true;
    lmi_config_bool(c, "use_parallel_residual", &info->parallel_residual);
    lmi_config_bool(c, "tie_word_embeddings", &info->tied);
    lmi_config_bool(c, "attention_bias", &m->attention_bias);
    info->bos_token = info->eos_token = info->pad_token = -1;
    lmi_config_token(c, "bos_token_id", &info->bos_token);
    lmi_config_token(c, "eos_token_id", &info->eos_token);
    lmi_config_token(c, "pad_token_id", &info->pad_token);
    LMI_TRY(lmi_config_act(m, c));
    return lmi_config_rotary(m, c);
}

/* ==== >>lm: weights ===================================================== src/lm/weights.h ==== */

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

static const sae_tensor *lmi_tensor(const sae_lm *m, const char *name) {
    const sae_tensor *t = NULL;
    for (size_t i = 0; i < m->num_files && !t; i++) t = sae_tensor_file_find(m->file[i], name);
    return t;
}

/* The tensor of that name, [rows,columns], or [columns] where rows is 0. */
static sae_result lmi_find(const sae_lm *m, const char *name, size_t rows, size_t columns,
                           const sae_tensor **out) {
    const sae_tensor *t = lmi_tensor(m, name);
    char shape[21 * SAE_MAX_DIMS + 1] = "";
    size_t n = 0, dims = rows ? 2 : 1;
    if (!t)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "sae_lm_open: %s has no tensor %s",
                                m->folder, name);
    for (size_t i = 0; i < t->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? "," : "",
                              (unsigned long long)t->shape[i]);
    if (t->ndim != dims || t->shape[dims - 1] != columns || (rows && t->shape[0] != rows)) {
        char want[64];
        if (rows) snprintf(want, sizeof want, "%zu,%zu", rows, columns);
        else snprintf(want, sizeof want, "%zu", columns);
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: %s: %s is [%s], by config.json it is "
                                "[%s]",
                                m->folder, name, shape, want);
    }
    if (t->dtype != SAE_F32 && t->dtype != SAE_F16 && t->dtype != SAE_BF16 && t->dtype != SAE_F64)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s: %s is %s, supported are "
                                "F32, F16, BF16, F64",
                                m->folder, name, sae_dtype_name(t->dtype));
    *out = t;
    return SAE_OK;
}

/* Fresh memory (free) with the tensor's numbers. */
static sae_result lmi_read(const sae_lm *m, const char *name, size_t rows, size_t columns,
                           float **out) {
    const sae_tensor *t;
    size_t count;
    float *data = NULL;
    LMI_TRY(lmi_find(m, name, rows, columns, &t));
    if (lmi_mul(rows ? rows : 1, columns, &count) && count <= SIZE_MAX / sizeof *data)
        data = (float *)malloc(count * sizeof *data);
    if (!data) return lmi_no_memory(m);
    sae_tensor_to_f32(t, data);
    *out = data;
    return SAE_OK;
}

/* NAME.weight [outputs,inputs] and, if biased, NAME.bias. */
static sae_result lmi_read_linear(const sae_lm *m, const char *name, bool biased,
                                  size_t inputs, size_t outputs, sae_linear **out) {
    char key[160];
    float *weight = NULL, *bias = NULL;
    sae_result result;
    snprintf(key, sizeof key, "%s.weight", name);
    result = lmi_read(m, key, outputs, inputs, &weight);
    snprintf(key, sizeof key, "%s.bias", name);
    if (result == SAE_OK && biased) result = lmi_read(m, key, 0, outputs, &bias);
    if (result == SAE_OK) result = sae_linear_create(m->ctx, weight, bias, inputs, outputs, out);
    free(weight);
    free(bias);
    return result;
}

static sae_result lmi_read_norm(const sae_lm *m, const char *name, float *out[2]) {
    char key[160];
    snprintf(key, sizeof key, "%s.weight", name);
    LMI_TRY(lmi_read(m, key, 0, m->info.dim, &out[0]));
    snprintf(key, sizeof key, "%s.bias", name);
    return lmi_read(m, key, 0, m->info.dim, &out[1]);
}

static sae_result lmi_read_layer(sae_lm *m, size_t i) {
    lmi_layer *l = &m->layer[i];
    size_t d = m->info.dim, wide = m->info.mlp_dim;
    char name[128], *end;
    end = name + snprintf(name, 64, "gpt_neox.layers.%zu.", i);
    strcpy(end, "input_layernorm");
    LMI_TRY(lmi_read_norm(m, name, l->norm[0]));
    strcpy(end, "post_attention_layernorm");
    LMI_TRY(lmi_read_norm(m, name, l->norm[1]));
    strcpy(end, "attention.query_key_value");
    LMI_TRY(lmi_read_linear(m, name, m->attention_bias, d, 3 * d, &l->qkv));
    strcpy(end, "attention.dense");
    LMI_TRY(lmi_read_linear(m, name, m->attention_bias, d, d, &l->dense));
    strcpy(end, "mlp.dense_h_to_4h");
    LMI_TRY(lmi_read_linear(m, name, true, d, wide, &l->up));
    strcpy(end, "mlp.dense_4h_to_h");
    return lmi_read_linear(m, name, true, wide, d, &l->down);
}

static sae_result lmi_read_weights(sae_lm *m) {
    static const char embed_in[] = "gpt_neox.embed_in.weight";
    const char *unembed = "embed_out.weight";
    float *weight;
    sae_result result;
    LMI_TRY(lmi_find(m, embed_in, m->info.vocab_size, m->info.dim, &m->embed));
    m->info.dtype = m->embed->dtype;
    m->layer = (lmi_layer *)calloc(m->info.layers, sizeof *m->layer);
    if (!m->layer) return lmi_no_memory(m);
    for (size_t i = 0; i < m->info.layers; i++) LMI_TRY(lmi_read_layer(m, i));
    LMI_TRY(lmi_read_norm(m, "gpt_neox.final_layer_norm", m->norm));
    if (!lmi_tensor(m, unembed)) unembed = "lm_head.weight";
    if (m->info.tied) unembed = embed_in;
    LMI_TRY(lmi_read(m, unembed, m->info.vocab_size, m->info.dim, &weight));
    result = sae_linear_create(m->ctx, weight, NULL, m->info.dim, m->info.vocab_size, &m->unembed);
    free(weight);
    return result;
}

/* ==== >>lm: model: open and submodules ==================================== src/lm/model.h ==== */

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
    c.ctx = m->ctx;
    c.path = path;
    if (!lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: %s is not there; a model is a "
                                  "folder with config.json, model.safetensors, tokenizer.json",
                                  path);
    else result = sae_json_open(m->ctx, path, &root);
    c.root = root;
    if (result == SAE_OK) result = lmi_config_read(m, &c);
    sae_json_close(root);
    free(path);
    LMI_TRY(result);
    LMI_TRY(lmi_files_open(m));
    return lmi_read_weights(m);
}

SAE_API sae_result sae_lm_open(sae_context *ctx, const char *folder, sae_lm **out) {
    sae_lm *m;
    sae_result result;
    if (!ctx || !folder || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_open: folder and out may not be NULL");
    m = (sae_lm *)calloc(1, sizeof *m);
    if (!m) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory");
    m->ctx = ctx;
    m->kernels = lmi_kernels_select();
    result = lmi_open(m, folder);
    if (result == SAE_OK) *out = m;
    else sae_lm_close(m);
    return result;
}

SAE_API void sae_lm_close(sae_lm *m) {
    if (!m) return;
    for (size_t i = 0; m->layer && i < m->info.layers; i++) {
        lmi_layer *l = &m->layer[i];
        for (size_t j = 0; j < 4; j++) free(l->norm[j / 2][j % 2]);
        sae_linear_destroy(l->qkv);
        sae_linear_destroy(l->dense);
        sae_linear_destroy(l->up);
        sae_linear_destroy(l->down);
    }
    for (size_t i = 0; i < m->num_files; i++) {
        sae_tensor_file_close(m->file[i]);
        free(m->file_name[i]);
    }
    sae_linear_destroy(m->unembed);
    free(m->norm[0]);
    free(m->norm[1]);
    free(m->layer);
    free(m->folder);
    free(m->memory);
    free(m->rope);
    free(m);
}

SAE_API sae_lm_config sae_lm_config_of(const sae_lm *model) { return model->info; }

/* Submodules of a layer behind "gpt_neox.layers.N". */
static const struct {
    const char *name;
    sae_lm_module module;
} lmi_submodules[] = {
    { "", SAE_LM_LAYER }, { ".attention", SAE_LM_ATTENTION },
    { ".attention.dense", SAE_LM_ATTENTION_DENSE }, { ".mlp", SAE_LM_MLP },
    { ".mlp.dense_h_to_4h", SAE_LM_MLP_UP }, { ".mlp.dense_4h_to_h", SAE_LM_MLP_DOWN }
};
enum { LMI_NUM_SUBMODULES = sizeof lmi_submodules / sizeof lmi_submodules[0] };

static bool lmi_site_of(const sae_lm *m, const char *name, sae_lm_site *site) {
    static const char layers[] = "gpt_neox.layers.";
    size_t n = sizeof layers - 1, layer = 0, digits = 0;
    site->layer = 0;
    if (strcmp(name, "gpt_neox.embed_in") == 0) site->module = SAE_LM_EMBED_IN;
    else if (strcmp(name, "gpt_neox.final_layer_norm") == 0) site->module = SAE_LM_FINAL_NORM;
    else {
        if (strncmp(name, layers, n) != 0) return false;
        for (name += n; *name >= '0' && *name <= '9' && digits < 6; name++, digits++)
            layer = layer * 10 + (size_t)(*name - '0');
        if (!digits || layer >= m->info.layers) return false;
        site->layer = layer;
        for (n = 0; n < LMI_NUM_SUBMODULES; n++)
            if (strcmp(name, lmi_submodules[n].name) == 0) break;
        if (n == LMI_NUM_SUBMODULES) return false;
        site->module = lmi_submodules[n].module;
    }
    return true;
}

SAE_API sae_result sae_lm_site_find(const sae_lm *m, const char *submodule, bool input,
                                    sae_lm_site *out) {
    sae_lm_site site;
    if (!m) return SAE_ERR_INVALID;
    if (!submodule || !out)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: submodule and out may not be NULL");
    if (!lmi_site_of(m, submodule, &site))
        return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                        "sae_lm_site_find: there is no submodule %s; there are gpt_neox.embed_in, "
                        "gpt_neox.layers.N, gpt_neox.layers.N.attention, "
                        "gpt_neox.layers.N.attention.dense, gpt_neox.layers.N.mlp, "
                        "gpt_neox.layers.N.mlp.dense_h_to_4h, gpt_neox.layers.N.mlp.dense_4h_to_h "
                        "with N from 0 to %zu, and gpt_neox.final_layer_norm", submodule,
                        m->info.layers - 1);
    site.input = input;
    if (input && site.module == SAE_LM_EMBED_IN)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "sae_lm_site_find: the input of gpt_neox.embed_in is "
                                "tokens; allowed is its output");
    *out = site;
    return SAE_OK;
}

SAE_API size_t sae_lm_site_dim(const sae_lm *model, sae_lm_site site) {
    bool neurons = site.module == (site.input ? SAE_LM_MLP_DOWN : SAE_LM_MLP_UP);
    return neurons ? model->info.mlp_dim : model->info.dim;
}

/* ==== >>lm: model: forward pass ========================================= src/lm/forward.h ==== */

/* One pass. Parts of the row-wise steps are LMI_ROW_PART rows. */
enum { LMI_ROW_PART = 32, LMI_LOGIT_ROWS = 256 };

typedef struct lmi_run {
    sae_lm *m;
    const sae_lm_forward_desc *desc;
    const lmi_layer *layer;
    size_t n, ctx, hooks_left;
    bool logits, done; /* logits or losses are wanted; nothing is left to do */
    /* [n,d] but qkv [n,3 d] and wide [n,mlp_dim]; logit_x [256,d], logit [256,vocab_size] */
    float *x, *normed, *qkv, *heads, *mixed, *wide, *scratch, *logit_x, *logit;
    size_t head_floats;
    /* what the row-wise steps work on */
    const float *from, *const *norm;
    float *to;
    size_t count;
    size_t row[LMI_LOGIT_ROWS]; /* of the block of logits */
    double row_loss[LMI_LOGIT_ROWS];
} lmi_run;

static void lmi_row_parts(lmi_run *run, size_t rows, void (*fn)(void *arg, size_t part)) {
    run->count = rows;
    sae_context_parallel(run->m->ctx, lmi_parts(rows, LMI_ROW_PART), fn, run);
}

static void lmi_norm_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++)
        run->m->kernels->norm(d, run->from + r * d, run->norm[0], run->norm[1],
                              run->m->info.norm_eps, run->to + r * d);
}

static void lmi_norm_rows(lmi_run *run, float *const norm[2], const float *from, float *to) {
    run->norm = (const float *const *)norm;
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_norm_part);
}

static void lmi_act_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t wide = run->m->info.mlp_dim, first = part * LMI_ROW_PART;
    size_t end = lmi_min(first + LMI_ROW_PART, run->count);
    run->m->kernels->activate(run->m->act, (end - first) * wide, run->to + first * wide);
}

/* to += from, or, as a parallel layer adds, to = (from + mixed) + to */
static void lmi_add_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->info.dim, first = part * LMI_ROW_PART * d;
    size_t count = lmi_min((part + 1) * LMI_ROW_PART, run->count) * d - first;
    float *to = run->to + first;
    run->m->kernels->add(count, run->from + first, to, to);
}

static void lmi_add_rows(lmi_run *run, const float *from, float *to) {
    run->from = from;
    run->to = to;
    lmi_row_parts(run, run->n, lmi_add_part);
}

static void lmi_embed_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t d = run->m->info.dim, end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    sae_tensor row = *run->m->embed;
    row.ndim = 1;
    row.shape[0] = d;
    row.stride[0] = run->m->embed->stride[1];
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        int64_t token = run->desc->tokens[r] < 0 ? 0 : run->desc->tokens[r];
        row.data = (const char *)run->m->embed->data
                   + token * run->m->embed->stride[0] * (int64_t)sae_dtype_size(row.dtype);
        sae_tensor_to_f32(&row, run->x + r * d);
    }
}

/* Turns pairs (i, i + pairs) of a head's first dimensions by the angles of the position. */
static void lmi_rope(float *x, const float *rope, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = rope[2 * i], s = rope[2 * i + 1];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void lmi_head_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    const sae_lm_config *info = &run->m->info;
    size_t context = part / info->heads, head = part % info->heads, d = info->dim;
    size_t pairs = (info->rotary_dims + 1) / 2, hd = info->head_dim;
    float *q = run->qkv + context * run->ctx * 3 * d + head * 3 * hd;
    lmi_head h;
    for (size_t t = 0; t < run->ctx; t++) {
        lmi_rope(q + t * 3 * d, run->m->rope + t * 2 * pairs, pairs);
        lmi_rope(q + t * 3 * d + hd, run->m->rope + t * 2 * pairs, pairs);
    }
    h.q = q;
    h.k = q + hd;
    h.v = q + 2 * hd;
    h.stride = 3 * d;
    h.ctx = run->ctx;
    h.head_dim = hd;
    h.scale = (float)(1 / sqrt((double)hd));
    h.scratch = run->scratch + part * run->head_floats;
    h.out = run->heads + context * run->ctx * d + head * hd;
    h.out_stride = d;
    run->m->kernels->attend(&h);
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
    run->done = !run->hooks_left && !run->logits;
    return SAE_OK;
}

#define LMI_AT(module, layer, input, x)                                                            \
    do {                                                                                           \
        sae_result lmi_at_result = lmi_at(run, module, layer, input, x);                           \
        if (lmi_at_result != SAE_OK || run->done) return lmi_at_result;                            \
    } while (0)

/* normed -> mixed */
static sae_result lmi_run_attention(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    LMI_AT(SAE_LM_ATTENTION, i, true, run->normed);
    LMI_TRY(sae_linear_apply(l->qkv, run->normed, run->n, run->qkv));
    sae_context_parallel(run->m->ctx, run->desc->contexts * run->m->info.heads, lmi_head_part,
                         run);
    LMI_AT(SAE_LM_ATTENTION_DENSE, i, true, run->heads);
    LMI_TRY(sae_linear_apply(l->dense, run->heads, run->n, run->mixed));
    LMI_AT(SAE_LM_ATTENTION_DENSE, i, false, run->mixed);
    LMI_AT(SAE_LM_ATTENTION, i, false, run->mixed);
    return SAE_OK;
}

/* normed -> heads, which are not needed any more */
static sae_result lmi_run_mlp(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    LMI_AT(SAE_LM_MLP, i, true, run->normed);
    LMI_AT(SAE_LM_MLP_UP, i, true, run->normed);
    LMI_TRY(sae_linear_apply(l->up, run->normed, run->n, run->wide));
    LMI_AT(SAE_LM_MLP_UP, i, false, run->wide);
    run->to = run->wide;
    lmi_row_parts(run, run->n, lmi_act_part);
    LMI_AT(SAE_LM_MLP_DOWN, i, true, run->wide);
    LMI_TRY(sae_linear_apply(l->down, run->wide, run->n, run->heads));
    LMI_AT(SAE_LM_MLP_DOWN, i, false, run->heads);
    LMI_AT(SAE_LM_MLP, i, false, run->heads);
    return SAE_OK;
}

/* The blocks; the residual stream is x. */
static sae_result lmi_run_layers(lmi_run *run) {
    sae_lm *m = run->m;
    lmi_row_parts(run, run->n, lmi_embed_part);
    LMI_AT(SAE_LM_EMBED_IN, 0, false, run->x);
    for (size_t i = 0; i < m->info.layers; i++) {
        const lmi_layer *l = &m->layer[i];
        LMI_AT(SAE_LM_LAYER, i, true, run->x);
        lmi_norm_rows(run, l->norm[0], run->x, run->normed);
        LMI_TRY(lmi_run_attention(run, i));
        if (run->done) return SAE_OK;
        if (!m->info.parallel_residual) lmi_add_rows(run, run->mixed, run->x);
        lmi_norm_rows(run, l->norm[1], run->x, run->normed);
        LMI_TRY(lmi_run_mlp(run, i));
        if (run->done) return SAE_OK;
        if (m->info.parallel_residual) lmi_add_rows(run, run->mixed, run->heads);
        lmi_add_rows(run, run->heads, run->x);
        LMI_AT(SAE_LM_LAYER, i, false, run->x);
    }
    LMI_AT(SAE_LM_FINAL_NORM, 0, true, run->x);
    lmi_norm_rows(run, m->norm, run->x, run->normed);
    LMI_AT(SAE_LM_FINAL_NORM, 0, false, run->normed);
    return SAE_OK;
}

/* -- logits and losses, in blocks of rows -- */

/* Whether row r of the batch predicts a token. */
static bool lmi_predicts(const lmi_run *run, size_t r) {
    return (r + 1) % run->ctx && run->desc->tokens[r] >= 0 && run->desc->tokens[r + 1] >= 0;
}

static void lmi_loss_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t size = run->m->info.vocab_size, r = run->row[part];
    run->row_loss[part] = 0;
    if (lmi_predicts(run, r))
        run->row_loss[part] = sae_lm_loss(run->logit + part * size, size,
                                          (size_t)run->desc->tokens[r + 1], NULL);
}

static sae_result lmi_run_logits(lmi_run *run) {
    const sae_lm_forward_desc *desc = run->desc;
    size_t d = run->m->info.dim, total = desc->rows ? desc->num_rows : run->n;
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
        if (desc->loss) sae_context_parallel(run->m->ctx, count, lmi_loss_part, run);
        for (size_t j = 0; j < count; j++) {
            size_t c = row[j] / run->ctx;
            if (desc->loss) desc->loss[c] += run->row_loss[j];
            if (desc->predictions) desc->predictions[c] += lmi_predicts(run, row[j]);
        }
        if (desc->logits) LMI_TRY(desc->logits(desc->user, run->logit, at, count));
    }
    return SAE_OK;
}

/* -- checks and memory -- */

static sae_result lmi_run_check(sae_lm *m, const sae_lm_forward_desc *desc, size_t *rows) {
    size_t n;
    if (!desc || !desc->tokens || !desc->contexts || !desc->ctx
        || !lmi_mul(desc->contexts, desc->ctx, &n) || n > INT32_MAX || desc->ctx > 1000000)
        return sae_context_fail(
            m->ctx, SAE_ERR_INVALID,
            "sae_lm_forward: contexts is %zu, ctx is %zu, tokens "
            "may not be NULL, allowed are up to 2^31 tokens, ctx from 1 to 1000000",
            desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    for (size_t i = 0; i < n; i++)
        if (desc->tokens[i] >= 0 && (size_t)desc->tokens[i] >= m->info.vocab_size)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: token %zu of the batch is %ld, "
                                    "allowed are those below vocab_size, %zu",
                                    i, (long)desc->tokens[i], m->info.vocab_size);
    for (size_t i = 0; i < desc->num_hooks; i++) {
        const sae_lm_site s = desc->hooks[i].site;
        bool of_layer = s.module != SAE_LM_EMBED_IN && s.module != SAE_LM_FINAL_NORM;
        if (s.module > SAE_LM_FINAL_NORM || s.layer >= (of_layer ? m->info.layers : 1)
            || (s.module == SAE_LM_EMBED_IN && s.input))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: hook %zu has a site that "
                                    "sae_lm_site_find does not give",
                                    i);
    }
    for (size_t i = 0; desc->rows && i < desc->num_rows; i++)
        if (desc->rows[i] >= n)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "sae_lm_forward: rows[%zu] is %zu, allowed are "
                                    "those below %zu",
                                    i, desc->rows[i], n);
    *rows = n;
    return SAE_OK;
}

/* Cuts the memory of a pass; floats, each piece on 64 bytes. base NULL: only counts. */
static size_t lmi_run_layout(lmi_run *run, float *base) {
    const sae_lm_config *info = &run->m->info;
    size_t n = run->n, block = run->logits ? lmi_min(n, LMI_LOGIT_ROWS) : 0, at = 0, bytes;
    size_t parts = run->desc->contexts * info->heads;
    struct {
        float **piece;
        size_t rows, width;
    } cut[9];
    run->head_floats = lmi_head_scratch(run->ctx, info->head_dim);
    if (run->desc->rows) block = lmi_max(block, LMI_LOGIT_ROWS);
#define LMI_CUT(i, name, a, b) cut[i].piece = &run->name, cut[i].rows = a, cut[i].width = b
    LMI_CUT(0, x, n, info->dim);
    LMI_CUT(1, normed, n, info->dim);
    LMI_CUT(2, qkv, n, 3 * info->dim);
    LMI_CUT(3, heads, n, info->dim);
    LMI_CUT(4, mixed, n, info->dim);
    LMI_CUT(5, wide, n, info->mlp_dim);
    LMI_CUT(6, scratch, parts, run->head_floats);
    LMI_CUT(7, logit_x, block, info->dim);
    LMI_CUT(8, logit, block, info->vocab_size);
#undef LMI_CUT
    for (size_t i = 0; i < 9; i++) {
        if (base) *cut[i].piece = base + at;
        if (!lmi_mul(cut[i].rows, cut[i].width, &bytes) || bytes > SIZE_MAX / 64 - at) return 0;
        at += (bytes + 15) / 16 * 16;
    }
    return at;
}

static sae_result lmi_run_memory(lmi_run *run) {
    sae_lm *m = run->m;
    size_t floats = lmi_run_layout(run, NULL), pairs = (m->info.rotary_dims + 1) / 2, skip;
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
    if (run->ctx > m->rope_ctx) {
        free(m->rope);
        m->rope_ctx = 0;
        m->rope = (float *)malloc((run->ctx * 2 * pairs + 1) * sizeof(float));
        if (!m->rope)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_forward: no memory");
        m->rope_ctx = run->ctx;
        for (size_t i = 0; i < pairs; i++) {
            /* in float where transformers has float: 1 / base^(2 i / n), times the position */
            float power = (float)(2 * i) / (float)m->info.rotary_dims;
            float frequency = 1 / (float)lmi_exp((double)power * lmi_ln(m->info.rotary_base));
            for (size_t t = 0; t < run->ctx; t++) {
                float *rope = m->rope + (t * pairs + i) * 2;
                lmi_sin_cos((double)((float)t * frequency), &rope[1], &rope[0]);
            }
        }
    }
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
    run->hooks_left = desc->num_hooks;
    run->logits = desc->loss || desc->logits || desc->predictions;
    LMI_TRY(lmi_run_memory(run));
    if (!run->logits && !run->hooks_left) return SAE_OK;
    LMI_TRY(lmi_run_layers(run));
    return run->logits ? lmi_run_logits(run) : SAE_OK;
}

SAE_API void sae_lm_final_norm(const sae_lm *model, const float *x, size_t n, float *out) {
    size_t d = model->info.dim;
    for (size_t r = 0; r < n; r++)
        model->kernels->norm(d, x + r * d, model->norm[0], model->norm[1], model->info.norm_eps,
                             out + r * d);
}

SAE_API sae_result sae_lm_unembed(const sae_lm *model, const float *x, size_t n, float *logits) {
    return sae_linear_apply(model->unembed, x, n, logits);
}

SAE_API const float *sae_lm_final_norm_weight(const sae_lm *model) { return model->norm[0]; }

#include <stdint.h>

/* ==== >>lm: unicode: classes ==================================== src/lm/unicode_classes.h ==== */
/* Written by tools/make_unicode.py: Unicode 16.0, as the package tokenizers has it. */

/* code << 2 | class, from there on: 1 letter, 2 number, 3 white space, 0 other; from U+0080 */
static const uint32_t lmi_classes[] = {
    535, 536, 643, 644, 681, 684, 714, 720, 725, 728, 742, 745, 748, 754, 764, 769, 860, 865, 988,
    993, 2824, 2841, 2888, 2945, 2964, 2993, 2996, 3001, 3004, 3521, 3540, 3545, 3552, 3561, 3576,
    3581, 3584, 3609, 3612, 3617, 3628, 3633, 3636, 3641, 3720, 3725, 4056, 4061, 4616, 4649, 5312,
    5317, 5468, 5477, 5480, 5505, 5668, 5953, 6060, 6077, 6092, 6273, 6444, 6530, 6568, 6585, 6592,
    6597, 6992, 6997, 7000, 7061, 7068, 7097, 7106, 7145, 7156, 7165, 7168, 7233, 7236, 7241, 7360,
    7477, 7832, 7877, 7880, 7938, 7977, 8108, 8145, 8152, 8169, 8172, 8193, 8280, 8297, 8300, 8337,
    8340, 8353, 8356, 8449, 8548, 8577, 8620, 8641, 8736, 8741, 8764, 8833, 9000, 9233, 9448, 9461,
    9464, 9537, 9540, 9569, 9608, 9626, 9664, 9669, 9732, 9749, 9780, 9789, 9796, 9805, 9892, 9897,
    9924, 9929, 9932, 9945, 9960, 9973, 9976, 10041, 10044, 10097, 10104, 10109, 10120, 10138,
    10177, 10184, 10194, 10216, 10225, 10228, 10261, 10284, 10301, 10308, 10317, 10404, 10409,
    10436, 10441, 10448, 10453, 10460, 10465, 10472, 10597, 10612, 10617, 10620, 10650, 10688,
    10697, 10708, 10773, 10808, 10813, 10824, 10829, 10916, 10921, 10948, 10953, 10960, 10965,
    10984, 10997, 11000, 11073, 11076, 11137, 11144, 11162, 11200, 11237, 11240, 11285, 11316,
    11325, 11332, 11341, 11428, 11433, 11460, 11465, 11472, 11477, 11496, 11509, 11512, 11633,
    11640, 11645, 11656, 11674, 11712, 11717, 11722, 11744, 11789, 11792, 11797, 11820, 11833,
    11844, 11849, 11864, 11877, 11884, 11889, 11892, 11897, 11904, 11917, 11924, 11937, 11948,
    11961, 12008, 12097, 12100, 12186, 12236, 12309, 12340, 12345, 12356, 12361, 12452, 12457,
    12520, 12533, 12536, 12641, 12652, 12661, 12664, 12673, 12680, 12698, 12736, 12770, 12796,
    12801, 12804, 12821, 12852, 12857, 12868, 12873, 12964, 12969, 13008, 13013, 13032, 13045,
    13048, 13173, 13180, 13185, 13192, 13210, 13248, 13253, 13260, 13329, 13364, 13369, 13380,
    13385, 13548, 13557, 13560, 13625, 13628, 13649, 13660, 13666, 13693, 13704, 13722, 13796,
    13801, 13824, 13845, 13916, 13929, 14024, 14029, 14064, 14069, 14072, 14081, 14108, 14234,
    14272, 14341, 14532, 14537, 14544, 14593, 14620, 14658, 14696, 14853, 14860, 14865, 14868,
    14873, 14892, 14897, 14992, 14997, 15000, 15005, 15044, 15049, 15056, 15093, 15096, 15105,
    15124, 15129, 15132, 15170, 15208, 15217, 15232, 15361, 15364, 15490, 15568, 15617, 15648,
    15653, 15796, 15905, 15924, 16385, 16556, 16637, 16642, 16680, 16705, 16728, 16745, 16760,
    16773, 16776, 16789, 16796, 16825, 16836, 16853, 16904, 16953, 16956, 16962, 17000, 17025,
    17176, 17181, 17184, 17205, 17208, 17217, 17388, 17393, 18724, 18729, 18744, 18753, 18780,
    18785, 18788, 18793, 18808, 18817, 18980, 18985, 19000, 19009, 19140, 19145, 19160, 19169,
    19196, 19201, 19204, 19209, 19224, 19233, 19292, 19297, 19524, 19529, 19544, 19553, 19820,
    19878, 19956, 19969, 20032, 20097, 20440, 20449, 20472, 20485, 22964, 22973, 23043, 23045,
    23148, 23169, 23468, 23482, 23493, 23524, 23553, 23624, 23677, 23752, 23809, 23880, 23937,
    23988, 23993, 24004, 24065, 24272, 24413, 24416, 24433, 24436, 24450, 24488, 24514, 24552,
    24642, 24680, 24705, 25060, 25089, 25108, 25117, 25252, 25257, 25260, 25281, 25560, 25601,
    25724, 25882, 25921, 26040, 26049, 26068, 26113, 26288, 26305, 26408, 26434, 26476, 26625,
    26716, 26753, 26964, 27138, 27176, 27202, 27240, 27293, 27296, 27669, 27856, 27925, 27956,
    27970, 28008, 28173, 28292, 28345, 28354, 28393, 28568, 28673, 28816, 28930, 28968, 28981,
    28994, 29033, 29176, 29185, 29228, 29249, 29420, 29429, 29440, 29605, 29620, 29625, 29648,
    29653, 29660, 29673, 29676, 29697, 30464, 30721, 31832, 31841, 31864, 31873, 32024, 32033,
    32056, 32065, 32096, 32101, 32104, 32109, 32112, 32117, 32120, 32125, 32248, 32257, 32468,
    32473, 32500, 32505, 32508, 32521, 32532, 32537, 32564, 32577, 32592, 32601, 32624, 32641,
    32692, 32713, 32724, 32729, 32756, 32771, 32812, 32931, 32936, 32959, 32960, 33151, 33152,
    33218, 33221, 33224, 33234, 33256, 33277, 33282, 33320, 33345, 33396, 33801, 33804, 33821,
    33824, 33833, 33872, 33877, 33880, 33893, 33912, 33937, 33940, 33945, 33948, 33953, 33956,
    33961, 33976, 33981, 34024, 34033, 34048, 34069, 34088, 34105, 34108, 34114, 34317, 34326,
    34344, 37250, 37488, 37802, 37888, 40410, 40528, 45057, 45972, 45997, 46012, 46025, 46032,
    46070, 46072, 46081, 46232, 46237, 46240, 46261, 46264, 46273, 46496, 46525, 46528, 46593,
    46684, 46721, 46748, 46753, 46780, 46785, 46812, 46817, 46844, 46849, 46876, 46881, 46908,
    46913, 46940, 46945, 46972, 47293, 47296, 49155, 49156, 49173, 49182, 49184, 49286, 49320,
    49349, 49368, 49378, 49389, 49396, 49413, 49756, 49781, 49792, 49797, 50156, 50161, 50176,
    50197, 50368, 50373, 50748, 50762, 50776, 50817, 50944, 51137, 51200, 51330, 51368, 51490,
    51520, 51526, 51584, 51714, 51752, 51910, 51968, 53249, 79616, 79873, 168500, 168769, 168952,
    168961, 170036, 170049, 170114, 170153, 170160, 170241, 170428, 170493, 170616, 170625, 170906,
    170944, 171101, 171136, 171145, 171556, 171565, 171832, 171841, 171848, 171853, 171856, 171861,
    171892, 171977, 172040, 172045, 172056, 172061, 172076, 172081, 172172, 172226, 172248, 172289,
    172496, 172553, 172752, 172866, 172904, 173001, 173024, 173037, 173040, 173045, 173052, 173058,
    173097, 173208, 173249, 173340, 173441, 173556, 173585, 173772, 173885, 173890, 173928, 173953,
    173972, 173977, 174018, 174057, 174076, 174081, 174244, 174337, 174348, 174353, 174384, 174402,
    174440, 174465, 174556, 174569, 174572, 174585, 174784, 174789, 174792, 174805, 174812, 174821,
    174840, 174849, 174852, 174857, 174860, 174957, 174968, 174977, 175020, 175049, 175060, 175109,
    175132, 175141, 175164, 175173, 175196, 175233, 175260, 175265, 175292, 175297, 175468, 175473,
    175528, 175553, 176012, 176066, 176104, 176129, 220816, 220865, 220956, 220973, 221168, 254977,
    256440, 256449, 256872, 257025, 257052, 257101, 257120, 257141, 257144, 257149, 257188, 257193,
    257244, 257249, 257268, 257273, 257276, 257281, 257288, 257293, 257300, 257305, 257736, 257869,
    259320, 259393, 259648, 259657, 259872, 260033, 260080, 260545, 260564, 260569, 261108, 261186,
    261224, 261253, 261356, 261381, 261484, 261529, 261884, 261897, 261920, 261929, 261952, 261961,
    261984, 261993, 262004, 262145, 262192, 262197, 262300, 262305, 262380, 262385, 262392, 262397,
    262456, 262465, 262520, 262657, 263148, 263198, 263376, 263426, 263652, 263722, 263728, 264705,
    264820, 264833, 265028, 265094, 265200, 265217, 265346, 265360, 265397, 265478, 265481, 265514,
    265516, 265537, 265688, 265729, 265848, 265857, 266000, 266017, 266048, 266054, 266072, 266241,
    266872, 266882, 266920, 266945, 267088, 267105, 267248, 267265, 267424, 267457, 267664, 267713,
    267756, 267761, 267820, 267825, 267852, 267857, 267864, 267869, 267912, 267917, 267976, 267981,
    268008, 268013, 268020, 268033, 268240, 268289, 269532, 269569, 269656, 269697, 269728, 269825,
    269848, 269853, 270020, 270025, 270060, 270337, 270360, 270369, 270372, 270377, 270552, 270557,
    270564, 270577, 270580, 270589, 270680, 270690, 270721, 270812, 270822, 270849, 270972, 271006,
    271040, 271233, 271308, 271313, 271320, 271342, 271361, 271450, 271472, 271489, 271592, 271873,
    272096, 272114, 272121, 272130, 272192, 272202, 272385, 272388, 272449, 272464, 272469, 272480,
    272485, 272600, 272642, 272676, 272769, 272886, 272892, 272897, 273014, 273024, 273153, 273184,
    273189, 273300, 273326, 273344, 273409, 273624, 273665, 273752, 273762, 273793, 273868, 273890,
    273921, 273992, 274086, 274112, 274433, 274724, 274945, 275148, 275201, 275404, 275434, 275457,
    275600, 275650, 275688, 275714, 275753, 275864, 275901, 275992, 276866, 276988, 276993, 277160,
    277185, 277192, 277257, 277268, 277505, 277622, 277661, 277664, 277697, 277784, 277830, 277844,
    277953, 278024, 278209, 278294, 278320, 278401, 278492, 278541, 278752, 278858, 278976, 278981,
    278988, 278997, 279000, 279053, 279232, 279361, 279460, 279490, 279528, 279565, 279708, 279770,
    279808, 279825, 279828, 279837, 279840, 279873, 280012, 280025, 280028, 280077, 280268, 280325,
    280340, 280386, 280425, 280428, 280433, 280436, 280454, 280532, 280577, 280648, 280653, 280752,
    280829, 280836, 281089, 281116, 281121, 281124, 281129, 281144, 281149, 281208, 281213, 281252,
    281281, 281468, 281538, 281576, 281621, 281652, 281661, 281668, 281677, 281764, 281769, 281796,
    281801, 281808, 281813, 281832, 281845, 281848, 281921, 281924, 281973, 281992, 282113, 282152,
    282157, 282160, 282169, 282172, 282177, 282328, 282333, 282336, 282437, 282440, 282445, 282448,
    282625, 282836, 282909, 282924, 282946, 282984, 283005, 283016, 283137, 283328, 283409, 283416,
    283421, 283424, 283458, 283496, 284161, 284348, 284513, 284528, 284673, 284864, 284945, 284948,
    284994, 285032, 285185, 285356, 285409, 285412, 285442, 285480, 285506, 285584, 285697, 285804,
    285890, 285936, 285953, 285980, 286721, 286896, 287361, 287618, 287692, 287741, 287772, 287781,
    287784, 287793, 287824, 287829, 287836, 287841, 287936, 287997, 288000, 288005, 288008, 288066,
    288104, 288385, 288416, 288425, 288580, 288645, 288648, 288653, 288656, 288769, 288772, 288813,
    288972, 289001, 289004, 289089, 289092, 289137, 289320, 289397, 289400, 289473, 289764, 290561,
    290692, 290754, 290792, 290817, 290852, 290857, 291004, 291073, 291076, 291138, 291252, 291273,
    291392, 291841, 291868, 291873, 291880, 291885, 292036, 292121, 292124, 292162, 292200, 292225,
    292248, 292253, 292260, 292265, 292392, 292449, 292452, 292482, 292520, 293761, 293836, 293897,
    293900, 293905, 293956, 293961, 294096, 294210, 294248, 294593, 294596, 294658, 294740, 294913,
    298600, 299010, 299452, 299521, 300304, 310849, 311236, 311297, 315584, 315653, 315676, 315777,
    331756, 331777, 334108, 361473, 361592, 361666, 361704, 368641, 370916, 370945, 371068, 371074,
    371112, 371137, 371452, 371458, 371496, 371521, 371640, 371713, 371904, 371969, 371984, 372034,
    372072, 372078, 372104, 372109, 372192, 372213, 372288, 374017, 374196, 374210, 374248, 375041,
    375298, 375388, 375809, 376108, 376129, 376132, 376397, 376448, 376705, 376712, 376717, 376720,
    376833, 401376, 401409, 406360, 406525, 406564, 442305, 442320, 442325, 442352, 442357, 442364,
    442369, 443532, 443593, 443596, 443713, 443724, 443733, 443736, 443793, 443808, 443841, 445424,
    454657, 455084, 455105, 455156, 455169, 455204, 455233, 455272, 472002, 472040, 477954, 478032,
    478082, 478160, 478594, 478692, 479233, 479572, 479577, 479860, 479865, 479872, 479881, 479884,
    479893, 479900, 479909, 479924, 479929, 479976, 479981, 479984, 479989, 480016, 480021, 480280,
    480285, 480300, 480309, 480340, 480345, 480372, 480377, 480488, 480493, 480508, 480513, 480532,
    480537, 480540, 480553, 480580, 480585, 481944, 481953, 482052, 482057, 482156, 482161, 482284,
    482289, 482388, 482393, 482516, 482521, 482620, 482625, 482748, 482753, 482852, 482857, 482980,
    482985, 483084, 483089, 483120, 483130, 483328, 490497, 490620, 490645, 490668, 491713, 491960,
    492545, 492724, 492765, 492792, 492802, 492840, 492857, 492860, 494145, 494264, 494337, 494512,
    494530, 494568, 496449, 496560, 496578, 496616, 497473, 497592, 497601, 497606, 497644, 499585,
    499612, 499617, 499632, 499637, 499644, 499649, 499708, 499713, 500500, 500510, 500544, 500737,
    501008, 501037, 501040, 501058, 501096, 504262, 504496, 504502, 504512, 504518, 504532, 504838,
    505016, 505022, 505080, 505857, 505872, 505877, 505984, 505989, 505996, 506001, 506004, 506013,
    506016, 506021, 506060, 506065, 506080, 506085, 506088, 506093, 506096, 506121, 506124, 506141,
    506144, 506149, 506152, 506157, 506160, 506165, 506176, 506181, 506188, 506193, 506196, 506205,
    506208, 506213, 506216, 506221, 506224, 506229, 506232, 506237, 506240, 506245, 506252, 506257,
    506260, 506269, 506284, 506289, 506316, 506321, 506336, 506341, 506356, 506361, 506364, 506369,
    506408, 506413, 506480, 506501, 506512, 506517, 506536, 506541, 506608, 508930, 508980, 520130,
    520168, 524289, 695168, 695297, 711912, 711937, 712824, 712833, 735880, 735937, 765828, 765889,
    768376, 778241, 780408, 786433, 806188, 806209, 822976
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

enum { LMI_OTHER, LMI_LETTER, LMI_NUMBER, LMI_SPACE }; /* classes of characters */
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

static int lmi_class(uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_classes);
    if (c < 0x80)
        return (c | 32) - 'a' < 26 ? LMI_LETTER : c - '0' < 10 ? LMI_NUMBER
             : c == ' ' || c - 9 < 5 ? LMI_SPACE : LMI_OTHER;
    if (c == UINT32_MAX) return LMI_OTHER;
    while (lo < hi) { /* the last boundary at or below c is lo - 1 */
        size_t mid = (lo + hi) / 2;
        if (lmi_classes[mid] >> 2 <= c) lo = mid + 1;
        else hi = mid;
    }
    return lo ? (int)(lmi_classes[lo - 1] & 3) : LMI_OTHER;
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

/* Whether c may join what stands before it. */
static bool lmi_joins(uint32_t c) {
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

/* Characters waiting for the marks behind them: decomposed, marks in order as they come. */
typedef struct lmi_cluster {
    uint32_t *code;
    size_t count, capacity;
} lmi_cluster;

static bool lmi_decompose(lmi_cluster *k, uint32_t c) {
    size_t lo = 0, hi = LMI_COUNT(lmi_pairs) / 3, i;
    uint32_t s = c - LMI_SYLLABLE, order;
    if (s < LMI_LEADS * LMI_VOWELS * LMI_TAILS)
        return lmi_decompose(k, LMI_LEAD + s / (LMI_VOWELS * LMI_TAILS))
               && lmi_decompose(k, LMI_VOWEL + s / LMI_TAILS % LMI_VOWELS)
               && (s % LMI_TAILS == 0 || lmi_decompose(k, LMI_TAIL + s % LMI_TAILS));
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (lmi_pairs[3 * mid] < c) lo = mid + 1;
        else hi = mid;
    }
    if (lo < LMI_COUNT(lmi_pairs) / 3 && lmi_pairs[3 * lo] == c) /* at most 3 deep */
        return lmi_decompose(k, lmi_pairs[3 * lo + 1])
               && (!lmi_pairs[3 * lo + 2] || lmi_decompose(k, lmi_pairs[3 * lo + 2]));
    if (!lmi_grow((void **)&k->code, &k->capacity, k->count + 1, sizeof *k->code)) return false;
    order = lmi_mark(c);
    for (i = k->count++; order && i > 0 && lmi_mark(k->code[i - 1]) > order; i--)
        k->code[i] = k->code[i - 1];
    k->code[i] = c;
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

enum { LMI_MAX_ID = 1 << 21, LMI_CACHE_WORDS = 1 << 16, LMI_CACHE_BYTES = 48 };

typedef struct lmi_token {
    size_t at;     /* of its bytes in the arena */
    uint32_t size;
    bool there;    /* the id exists */
    bool plain;    /* written in the alphabet of bytes: merges make it */
} lmi_token;

typedef struct lmi_merge {
    int32_t left, right; /* left -1: an empty slot */
    int32_t rank, made;
} lmi_merge;

typedef struct lmi_added {
    size_t at; /* of its text in the arena; normalized ones: of its NFC */
    size_t size;
    int32_t id;
    bool lstrip, rstrip, normalized;
} lmi_added;

/* A word seen before and its ids. */
typedef struct lmi_word {
    uint64_t hash;
    uint32_t at, size, first, count; /* size 0: an empty slot */
} lmi_word;

struct sae_tokenizer {
    sae_context *ctx;
    char *path;
    sae_text arena;           /* bytes of all tokens */
    lmi_token *token;        /* [size] */
    size_t size;
    int32_t *slot;             /* [slots] plain tokens by their bytes; -1: empty */
    size_t slots;
    lmi_merge *merge;        /* [merges] by (left, right) */
    size_t merges;
    int32_t byte_id[256];      /* -1: no such token */
    lmi_added *added;        /* longest first */
    size_t num_added;
    bool starts[2][256];       /* [normalized][byte]: an added token begins so */
    bool nfc, prefix_space, no_regex, ignore_merges, fuse_unknown;
    int32_t unknown;           /* -1: bytes without a token are left out, as tokenizers does */
    sae_tokens before, after; /* what the post-processor adds */
    /* memory of encoding */
    sae_text normal, spaced;
    lmi_cluster cluster;
    sae_tokens symbols;
    void *heap, *links;
    size_t heap_room, link_room;
    lmi_word *word;          /* [2 LMI_CACHE_WORDS] */
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

static bool lmi_tokens_add(sae_tokens *t, int32_t id) {
    if (!lmi_grow((void **)&t->id, &t->capacity, t->count + 1, sizeof *t->id)) return false;
    t->id[t->count++] = id;
    return true;
}

static sae_result lmi_tokenizer_memory(const sae_tokenizer *t) {
    return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer: no memory for %s",
                            t->path);
}

/* "sae_tokenizer_open: PATH: ..." */
static sae_result lmi_refuse(const sae_tokenizer *t, sae_result result, const char *format,
                             ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sae_context_fail(t->ctx, result, "sae_tokenizer_open: %s: %s", t->path, text);
}

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

/* The bytes that text means, into out (size of text is room enough); false: not in the alphabet. */
static bool lmi_bytes(const char *text, size_t size, const int16_t *alphabet, char *out,
                      size_t *length) {
    size_t n = 0, step;
    for (size_t at = 0; at < size; at += step) {
        uint32_t c = lmi_code((const unsigned char *)text + at, size - at, &step);
        if (c >= 512 || alphabet[c] < 0) return false;
        out[n++] = (char)(unsigned char)alphabet[c];
    }
    *length = n;
    return n > 0;
}

static int32_t lmi_plain_find(const sae_tokenizer *t, const char *bytes, size_t size) {
    size_t at = (size_t)lmi_hash(bytes, size) & (t->slots - 1);
    for (; t->slot[at] >= 0; at = (at + 1) & (t->slots - 1)) {
        const lmi_token *token = &t->token[t->slot[at]];
        if (token->size == size && memcmp(t->arena.data + token->at, bytes, size) == 0)
            return t->slot[at];
    }
    return -1;
}

static lmi_merge *lmi_merge_slot(const sae_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & (t->merges - 1);
    while (t->merge[at].left >= 0 && (t->merge[at].left != left || t->merge[at].right != right))
        at = (at + 1) & (t->merges - 1);
    return &t->merge[at];
}

static size_t lmi_power_of_two(size_t least) {
    size_t n = 16;
    while (n < least) n *= 2;
    return n;
}

/* ==== >>lm: tokenizer: tokenizer.json ============================ src/lm/tokenizer_json.h ==== */

typedef struct lmi_reader {
    sae_tokenizer *t;
    const sae_json *root, *model, *vocab, *merges, *added;
    int16_t alphabet[512];
    char *bytes; /* room for the longest text */
} lmi_reader;

static bool lmi_is_true(const sae_json *object, const char *key) {
    return sae_json_number(sae_json_get(object, key)) != 0;
}

static bool lmi_is_null(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

static const char *lmi_type(const sae_json *v) {
    const char *type = sae_json_text(sae_json_get(v, "type"));
    return type ? type : "no text";
}

/* fn for v, or for the parts of v where it is a Sequence; list: where they are. */
static sae_result lmi_each(lmi_reader *r, const sae_json *v, const char *list,
                           sae_result (*fn)(lmi_reader *r, const sae_json *v)) {
    const sae_json *part;
    if (lmi_is_null(v)) return SAE_OK;
    if (strcmp(lmi_type(v), "Sequence") != 0) return fn(r, v);
    for (part = sae_json_first(sae_json_get(v, list)); part; part = sae_json_next(part))
        LMI_TRY(fn(r, part));
    return SAE_OK;
}

static sae_result lmi_normalizer(lmi_reader *r, const sae_json *v) {
    if (strcmp(lmi_type(v), "NFC") != 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the normalizer is %s, supported is NFC or none", lmi_type(v));
    r->t->nfc = true;
    return SAE_OK;
}

static sae_result lmi_pre_tokenizer(lmi_reader *r, const sae_json *v) {
    const sae_json *regex = sae_json_get(v, "use_regex");
    if (strcmp(lmi_type(v), "ByteLevel") != 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer is %s, supported is ByteLevel", lmi_type(v));
    r->t->prefix_space = lmi_is_true(v, "add_prefix_space");
    r->t->no_regex = regex && sae_json_number(regex) == 0;
    return SAE_OK;
}

static sae_result lmi_template(lmi_reader *r, const sae_json *v) {
    const sae_json *specials = sae_json_get(v, "special_tokens"), *piece, *id;
    bool behind = false;
    if (r->t->before.count || r->t->after.count)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the post_processor has two templates, supported is one");
    for (piece = sae_json_first(sae_json_get(v, "single")); piece; piece = sae_json_next(piece)) {
        const sae_json *special = sae_json_get(piece, "SpecialToken");
        const char *name = sae_json_text(sae_json_get(special, "id"));
        if (!special) {
            behind = true;
            continue;
        }
        id = name ? sae_json_first(sae_json_get(sae_json_get(specials, name), "ids")) : NULL;
        for (; id; id = sae_json_next(id)) {
            double number = sae_json_kind_of(id) == SAE_JSON_NUMBER ? sae_json_number(id) : -1;
            if (!(number >= 0 && number < LMI_MAX_ID && number == floor(number))) number = -1;
            if (!lmi_tokens_add(behind ? &r->t->after : &r->t->before, (int32_t)number))
                return lmi_tokenizer_memory(r->t); /* -1 is refused by lmi_read_rest */
        }
    }
    return SAE_OK;
}

static sae_result lmi_post_processor(lmi_reader *r, const sae_json *v) {
    if (strcmp(lmi_type(v), "TemplateProcessing") == 0) return lmi_template(r, v);
    if (strcmp(lmi_type(v), "ByteLevel") == 0) return SAE_OK; /* changes no ids */
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                      "the post_processor is %s, supported are ByteLevel, "
                      "TemplateProcessing or none",
                      lmi_type(v));
}

/* What of the model there is no room for here. */
static sae_result lmi_read_kind(lmi_reader *r) {
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const sae_json *type = sae_json_get(r->model, "type");
    if (sae_json_kind_of(r->root) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->model) != SAE_JSON_OBJECT)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "there is no object model in it");
    if (type && strcmp(lmi_type(r->model), "BPE") != 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "the model is %s, supported is BPE",
                          lmi_type(r->model));
    for (size_t i = 0; i < 2; i++) {
        const char *text = sae_json_text(sae_json_get(r->model, affixes[i]));
        if (text && text[0])
            return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "%s is %s, supported is none",
                              affixes[i], text);
    }
    if (sae_json_number(sae_json_get(r->model, "dropout")) > 0)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "dropout is %g, supported is none",
                          sae_json_number(sae_json_get(r->model, "dropout")));
    if (sae_json_kind_of(r->vocab) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "model.vocab or model.merges is missing");
    r->t->ignore_merges = lmi_is_true(r->model, "ignore_merges");
    r->t->fuse_unknown = lmi_is_true(r->model, "fuse_unk");
    if (lmi_is_null(sae_json_get(r->root, "pre_tokenizer")))
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer is none, supported is ByteLevel");
    LMI_TRY(lmi_each(r, sae_json_get(r->root, "normalizer"), "normalizers", lmi_normalizer));
    LMI_TRY(lmi_each(r, sae_json_get(r->root, "pre_tokenizer"), "pretokenizers",
                     lmi_pre_tokenizer));
    return lmi_each(r, sae_json_get(r->root, "post_processor"), "processors",
                    lmi_post_processor);
}

/* Ids, and the longest text. */
static sae_result lmi_read_sizes(lmi_reader *r) {
    size_t longest = 16;
    for (int pass = 0; pass < 2; pass++) {
        const sae_json *v = sae_json_first(pass ? r->added : r->vocab);
        for (; v; v = sae_json_next(v)) {
            const sae_json *id = pass ? sae_json_get(v, "id") : v;
            const char *text = pass ? sae_json_text(sae_json_get(v, "content")) : sae_json_key(v);
            double number = sae_json_number(id);
            if (!text || sae_json_kind_of(id) != SAE_JSON_NUMBER || !(number >= 0)
                || number >= LMI_MAX_ID || number != floor(number))
                return lmi_refuse(r->t, SAE_ERR_FORMAT, "the token %s has the id %g, allowed are "
                                  "whole numbers from 0 to %d", text ? text : "(no text)", number,
                                  LMI_MAX_ID - 1);
            r->t->size = lmi_max(r->t->size, (size_t)number + 1);
            longest = lmi_max(longest, strlen(text));
        }
    }
    r->t->slots = lmi_power_of_two(2 * sae_json_count(r->vocab) + 2);
    r->t->merges = lmi_power_of_two(2 * sae_json_count(r->merges) + 2);
    r->bytes = (char *)malloc(2 * longest + 1);
    r->t->token = (lmi_token *)calloc(r->t->size + 1, sizeof *r->t->token);
    r->t->slot = (int32_t *)malloc(r->t->slots * sizeof *r->t->slot);
    r->t->merge = (lmi_merge *)malloc(r->t->merges * sizeof *r->t->merge);
    r->t->word = (lmi_word *)calloc(2 * LMI_CACHE_WORDS, sizeof *r->t->word);
    if (!r->bytes || !r->t->token || !r->t->slot || !r->t->merge || !r->t->word
        || !lmi_text_add(&r->t->arena, "", 0))
        return lmi_tokenizer_memory(r->t);
    for (size_t i = 0; i < r->t->slots; i++) r->t->slot[i] = -1;
    for (size_t i = 0; i < r->t->merges; i++) r->t->merge[i].left = -1;
    return SAE_OK;
}

static bool lmi_set_token(sae_tokenizer *t, size_t id, const char *bytes, size_t size,
                          bool plain) {
    lmi_token *token = &t->token[id];
    token->at = t->arena.size;
    token->size = (uint32_t)size;
    token->there = true;
    token->plain = plain;
    return size <= UINT32_MAX && lmi_text_add(&t->arena, bytes, size);
}

static sae_result lmi_read_vocab(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    for (const sae_json *v = sae_json_first(r->vocab); v; v = sae_json_next(v)) {
        const char *text = sae_json_key(v);
        size_t id = (size_t)sae_json_number(v), size = strlen(text), at;
        bool plain = lmi_bytes(text, size, r->alphabet, r->bytes, &size);
        if (t->token[id].there)
            return lmi_refuse(t, SAE_ERR_FORMAT, "two tokens have the id %zu", id);
        if (!lmi_set_token(t, id, plain ? r->bytes : text, size, plain))
            return lmi_tokenizer_memory(t);
        if (!plain) continue;
        at = (size_t)lmi_hash(r->bytes, size) & (t->slots - 1);
        while (t->slot[at] >= 0) at = (at + 1) & (t->slots - 1);
        t->slot[at] = (int32_t)id;
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)(unsigned char)b;
        t->byte_id[b] = lmi_plain_find(t, &byte, 1);
    }
    return SAE_OK;
}

static sae_result lmi_read_merges(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    int32_t rank = 0;
    for (const sae_json *v = sae_json_first(r->merges); v; v = sae_json_next(v), rank++) {
        const char *whole = sae_json_text(v), *part[2] = { NULL, NULL };
        size_t size[2] = { 0, 0 }, n[2];
        int32_t id[3] = { -1, -1, -1 };
        lmi_merge *slot;
        if (whole && strchr(whole, ' ')) { /* "l r" */
            part[0] = whole;
            part[1] = strchr(whole, ' ') + 1;
            size[0] = (size_t)(part[1] - whole) - 1;
            size[1] = strlen(part[1]);
        } else if (sae_json_kind_of(v) == SAE_JSON_ARRAY && sae_json_count(v) == 2) {
            part[0] = sae_json_text(sae_json_first(v));
            part[1] = sae_json_text(sae_json_next(sae_json_first(v)));
            for (int i = 0; i < 2; i++) size[i] = part[i] ? strlen(part[i]) : 0;
        }
        /* a part may be longer than any token, and so than the room for it */
        if (part[0] && part[1] && lmi_max(size[0], size[1]) <= UINT16_MAX) {
            char *bytes = (char *)realloc(r->bytes, size[0] + size[1] + 1);
            if (!bytes) return lmi_tokenizer_memory(t);
            r->bytes = bytes;
            if (lmi_bytes(part[0], size[0], r->alphabet, bytes, &n[0])
                && lmi_bytes(part[1], size[1], r->alphabet, bytes + n[0], &n[1])) {
                id[0] = lmi_plain_find(t, bytes, n[0]);
                id[1] = lmi_plain_find(t, bytes + n[0], n[1]);
                id[2] = lmi_plain_find(t, bytes, n[0] + n[1]);
            }
        }
        if (id[0] < 0 || id[1] < 0 || id[2] < 0)
            return lmi_refuse(t, SAE_ERR_FORMAT, "merge %ld, \"%.40s\" and \"%.40s\", is not of "
                              "tokens of the vocabulary", (long)rank, part[0] ? part[0] : "",
                              part[1] ? part[1] : "");
        slot = lmi_merge_slot(t, id[0], id[1]);
        slot->left = id[0];
        slot->right = id[1];
        slot->rank = rank;
        slot->made = id[2];
    }
    return SAE_OK;
}

static int lmi_longer(const void *a, const void *b) {
    const lmi_added *x = (const lmi_added *)a, *y = (const lmi_added *)b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static sae_result lmi_read_added(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    t->added = (lmi_added *)calloc(sae_json_count(r->added) + 1, sizeof *t->added);
    if (!t->added) return lmi_tokenizer_memory(t);
    for (const sae_json *v = sae_json_first(r->added); v; v = sae_json_next(v)) {
        const char *text = sae_json_text(sae_json_get(v, "content"));
        lmi_added *a = &t->added[t->num_added];
        a->id = (int32_t)sae_json_number(sae_json_get(v, "id"));
        a->lstrip = lmi_is_true(v, "lstrip");
        a->rstrip = lmi_is_true(v, "rstrip");
        a->normalized = lmi_is_true(v, "normalized");
        if (lmi_is_true(v, "single_word"))
            return lmi_refuse(t, SAE_ERR_UNSUPPORTED,
                              "the added token %s is single_word, which is "
                              "not supported",
                              text);
        if (!text[0]) continue;
        if (!lmi_set_token(t, (size_t)a->id, text, strlen(text), false))
            return lmi_tokenizer_memory(t);
        a->at = t->arena.size;
        if (a->normalized && t->nfc
            ? !lmi_nfc((const unsigned char *)text, strlen(text), &t->cluster, &t->arena)
            : !lmi_text_add(&t->arena, text, strlen(text)))
            return lmi_tokenizer_memory(t);
        a->size = t->arena.size - a->at;
        t->starts[a->normalized][(unsigned char)t->arena.data[a->at]] = true;
        t->num_added++;
    }
    qsort(t->added, t->num_added, sizeof *t->added, lmi_longer);
    return SAE_OK;
}

/* Ids that files give outside the vocabulary. */
static sae_result lmi_read_rest(lmi_reader *r) {
    sae_tokenizer *t = r->t;
    const char *unknown = sae_json_text(sae_json_get(r->model, "unk_token"));
    t->unknown = -1;
    if (unknown) {
        const sae_json *v = sae_json_get(r->vocab, unknown);
        if (!v)
            return lmi_refuse(t, SAE_ERR_FORMAT, "unk_token %s is not in the vocabulary",
                              unknown);
        t->unknown = (int32_t)sae_json_number(v);
    }
    for (int i = 0; i < 2; i++) {
        const sae_tokens *ids = i ? &t->after : &t->before;
        for (size_t j = 0; j < ids->count; j++)
            if (ids->id[j] < 0 || (size_t)ids->id[j] >= t->size || !t->token[ids->id[j]].there)
                return lmi_refuse(t, SAE_ERR_FORMAT,
                                  "the post_processor adds the id %ld, which is "
                                  "no token's",
                                  (long)ids->id[j]);
    }
    return SAE_OK;
}

static sae_result lmi_tokenizer_read(sae_tokenizer *t) {
    lmi_reader r;
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
    free(r.bytes);
    sae_json_close(root);
    return result;
}

SAE_API sae_result sae_tokenizer_open(sae_context *ctx, const char *folder,
                                      sae_tokenizer **out) {
    sae_tokenizer *t;
    size_t n = folder ? strlen(folder) : 0;
    sae_result result;
    if (!ctx || !folder || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_open: folder and out may not be NULL");
    t = (sae_tokenizer *)calloc(1, sizeof *t);
    if (!t) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    t->ctx = ctx;
    t->path = n > 5 && strcmp(folder + n - 5, ".json") == 0 ? lmi_join("", folder)
                                                            : lmi_join(folder, "tokenizer.json");
    if (!t->path)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    else if (!lmi_is_file(t->path))
        result = sae_context_fail(ctx, SAE_ERR_NOT_FOUND, "sae_tokenizer_open: %s is not there",
                                  t->path);
    else result = lmi_tokenizer_read(t);
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
    free(t->added);
    free(t->cluster.code);
    free(t->heap);
    free(t->links);
    free(t->word);
    sae_tokens_free(&t->before);
    sae_tokens_free(&t->after);
    sae_tokens_free(&t->symbols);
    sae_tokens_free(&t->word_ids);
    sae_text_free(&t->arena);
    sae_text_free(&t->normal);
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

/* ==== >>lm: tokenizer: encode ============================================ src/lm/encode.h ==== */

/* -- merging the symbols of a word -- */

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

/* Many: a heap of pairs by rank, then place; entries whose pair is no more are passed over. */
typedef struct lmi_entry {
    int32_t rank, left, right, made;
    uint32_t at;
} lmi_entry;

typedef struct lmi_link {
    uint32_t before, behind; /* UINT32_MAX: none */
} lmi_link;

static bool lmi_sooner(const lmi_entry *a, const lmi_entry *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void lmi_heap_push(lmi_entry *heap, size_t *count, const lmi_entry *entry) {
    size_t i = (*count)++;
    for (; i > 0 && lmi_sooner(entry, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = *entry;
}

static lmi_entry lmi_heap_pop(lmi_entry *heap, size_t *count) {
    lmi_entry top = heap[0], last = heap[--*count];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && lmi_sooner(&heap[child + 1], &heap[child])) child++;
        if (!lmi_sooner(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void lmi_heap_pair(const sae_tokenizer *t, const int32_t *id, uint32_t at,
                          uint32_t behind, lmi_entry *heap, size_t *count) {
    const lmi_merge *m = lmi_merge_slot(t, id[at], id[behind]);
    lmi_entry entry;
    if (m->left < 0) return;
    entry.rank = m->rank;
    entry.left = m->left;
    entry.right = m->right;
    entry.made = m->made;
    entry.at = at;
    lmi_heap_push(heap, count, &entry);
}

/* Returns how many are left; SIZE_MAX: no memory. At most 3 n entries: n - 1, and 2 a merge. */
static size_t lmi_merge_many(sae_tokenizer *t, int32_t *id, size_t n) {
    size_t count = 0, kept = 0, room;
    lmi_entry *heap;
    lmi_link *link;
    if (n >= UINT32_MAX / 4 || !lmi_mul(n, 3, &room)
        || !lmi_grow(&t->heap, &t->heap_room, room, sizeof *heap)
        || !lmi_grow(&t->links, &t->link_room, n, sizeof *link))
        return SIZE_MAX;
    heap = (lmi_entry *)t->heap;
    link = (lmi_link *)t->links;
    for (size_t i = 0; i < n; i++) {
        link[i].before = i ? (uint32_t)(i - 1) : UINT32_MAX;
        link[i].behind = i + 1 < n ? (uint32_t)(i + 1) : UINT32_MAX;
    }
    for (size_t i = 0; i + 1 < n; i++)
        lmi_heap_pair(t, id, (uint32_t)i, (uint32_t)(i + 1), heap, &count);
    while (count) {
        lmi_entry top = lmi_heap_pop(heap, &count);
        uint32_t behind = link[top.at].behind;
        if (behind == UINT32_MAX || id[top.at] != top.left || id[behind] != top.right) continue;
        id[top.at] = top.made;
        id[behind] = -1;
        link[top.at].behind = link[behind].behind;
        if (link[behind].behind != UINT32_MAX) {
            link[link[behind].behind].before = top.at;
            lmi_heap_pair(t, id, top.at, link[behind].behind, heap, &count);
        }
        if (link[top.at].before != UINT32_MAX)
            lmi_heap_pair(t, id, link[top.at].before, top.at, heap, &count);
    }
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0) id[kept++] = id[i];
    return kept;
}

/* Characters without a token: the unknown token for each, or for a run of them, or nothing. */
static bool lmi_symbols(sae_tokenizer *t, const unsigned char *s, size_t size) {
    bool unknown = false;
    t->symbols.count = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t id = t->byte_id[s[i]];
        if (id < 0) {
            if (t->unknown < 0 || (unknown && t->fuse_unknown)) continue;
            id = t->unknown;
            unknown = true;
        } else unknown = false;
        if (!lmi_tokens_add(&t->symbols, id)) return false;
    }
    return true;
}

/* The word's ids, into symbols. */
static bool lmi_merge_word(sae_tokenizer *t, const unsigned char *s, size_t size) {
    int32_t whole = t->ignore_merges ? lmi_plain_find(t, (const char *)s, size) : -1;
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

static bool lmi_ids_add(sae_tokens *out, const int32_t *id, size_t count) {
    if (!lmi_grow((void **)&out->id, &out->capacity, out->count + count, sizeof *id))
        return false;
    if (count) memcpy(out->id + out->count, id, count * sizeof *id);
    out->count += count;
    return true;
}

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

/* -- splitting -- */

/* Bytes of the characters of one class at s, at least 0. */
static size_t lmi_run_of(const unsigned char *s, size_t left, int kind, size_t *last) {
    size_t at = 0, length;
    while (at < left && lmi_class(lmi_code(s + at, left - at, &length)) == kind) {
        if (last) *last = at;
        at += length;
    }
    return at;
}

/* Length of the next word, left > 0: GPT-2's
   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t lmi_word_length(const unsigned char *s, size_t left) {
    size_t space = s[0] == ' ' && left > 1, length, last = 0, end;
    int kind;
    if (s[0] == '\'' && left > 1) {
        if (strchr("stmd", s[1]) && s[1]) return 2;
        if (left > 2 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e')
                         || (s[1] == 'l' && s[2] == 'l')))
            return 3;
    }
    kind = lmi_class(lmi_code(s + space, left - space, &length));
    if (kind != LMI_SPACE) return space + lmi_run_of(s + space, left - space, kind, NULL);
    end = lmi_run_of(s, left, LMI_SPACE, &last);
    return end == left || last == 0 ? end : last; /* the last one goes with the next word */
}

static bool lmi_encode_words(sae_tokenizer *t, const unsigned char *s, size_t size,
                             sae_tokens *out) {
    if (t->prefix_space && size && s[0] != ' ') {
        t->spaced.size = 0;
        if (!lmi_text_add(&t->spaced, " ", 1) || !lmi_text_add(&t->spaced, s, size))
            return false;
        s = (const unsigned char *)t->spaced.data;
        size++;
    }
    while (size) {
        size_t length = t->no_regex ? size : lmi_word_length(s, size);
        if (!lmi_encode_word(t, s, length, out)) return false;
        s += length;
        size -= length;
    }
    return true;
}

/* The longest added token at s; NULL: none. */
static const lmi_added *lmi_added_at(const sae_tokenizer *t, bool normalized,
                                     const unsigned char *s, size_t left) {
    if (!t->starts[normalized][s[0]]) return NULL;
    for (size_t i = 0; i < t->num_added; i++) {
        const lmi_added *a = &t->added[i];
        if (a->normalized == normalized && a->size <= left
            && memcmp(t->arena.data + a->at, s, a->size) == 0)
            return a;
    }
    return NULL;
}

/* Where the white space that ends at `end` begins, not before begin. */
static size_t lmi_strip(const unsigned char *s, size_t begin, size_t end) {
    size_t at = begin, kept = begin, length;
    for (; at < end; at += length) {
        bool space = lmi_class(lmi_code(s + at, end - at, &length)) == LMI_SPACE;
        if (!space) kept = at + length;
    }
    return kept;
}

/* Cuts text at the added tokens of one kind; what lies between goes on: NFC and the other kind, or
   words. */
static bool lmi_encode_text(sae_tokenizer *t, const unsigned char *s, size_t size,
                            bool normalized, sae_tokens *out) {
    size_t begin = 0, at = 0;
    for (;;) {
        const lmi_added *a = NULL;
        size_t end;
        while (at < size && !(a = lmi_added_at(t, normalized, s + at, size - at))) at++;
        end = a && a->lstrip ? lmi_strip(s, begin, at) : at;
        if (end > begin) {
            if (normalized) {
                if (!lmi_encode_words(t, s + begin, end - begin, out)) return false;
            } else if (!t->nfc) {
                if (!lmi_encode_text(t, s + begin, end - begin, true, out)) return false;
            } else {
                t->normal.size = 0;
                if (!lmi_nfc(s + begin, end - begin, &t->cluster, &t->normal)
                    || !lmi_encode_text(t, (const unsigned char *)t->normal.data, t->normal.size,
                                        true, out))
                    return false;
            }
        }
        if (!a) return true;
        if (!lmi_tokens_add(out, a->id)) return false;
        at += a->size;
        if (a->rstrip) at += lmi_run_of(s + at, size - at, LMI_SPACE, NULL);
        begin = at;
    }
}

SAE_API const int32_t *sae_tokenizer_bos(const sae_tokenizer *t, size_t *count) {
    *count = t->before.count;
    return t->before.id;
}

SAE_API sae_result sae_tokenizer_encode(sae_tokenizer *t, const char *text, size_t size, bool bos,
                                        sae_tokens *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!text && size))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_encode: text and out may not be NULL");
    before = out->count;
    if ((bos && !lmi_ids_add(out, t->before.id, t->before.count))
        || !lmi_encode_text(t, (const unsigned char *)text, size, false, out)) {
        out->count = before;
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "sae_tokenizer_encode: no memory for the tokens of %zu "
                                "bytes",
                                size);
    }
    return SAE_OK;
}

/* ==== >>lm: tokenizer: decode ============================================ src/lm/decode.h ==== */

SAE_API const char *sae_tokenizer_token(const sae_tokenizer *t, int32_t id, size_t *size) {
    if (!t || id < 0 || (size_t)id >= t->size || !t->token[id].there) return NULL;
    if (size) *size = t->token[id].size;
    return t->arena.data + t->token[id].at;
}

SAE_API int32_t sae_tokenizer_find(const sae_tokenizer *t, const char *text, size_t size) {
    if (!t || !text) return -1;
    for (size_t i = 0; i < t->num_added; i++) {
        const lmi_token *token = &t->token[t->added[i].id];
        if (token->size == size && memcmp(t->arena.data + token->at, text, size) == 0)
            return t->added[i].id;
    }
    return size ? lmi_plain_find(t, text, size) : -1;
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
        size_t size = 0;
        const char *bytes = sae_tokenizer_token(t, ids[i], &size);
        bool added = bytes && lmi_text_add(out, bytes, size);
        if (added) continue;
        out->size = before;
        if (bytes)
            return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "sae_tokenizer_decode: no memory");
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_decode: ids[%zu] is %ld, which is no token's; "
                                "ids go from 0 to %zu",
                                i, (long)ids[i], t->size - 1);
    }
    if (count == 0 && !lmi_text_add(out, "", 0))
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_decode: no memory");
    return SAE_OK;
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

struct sae_lm_source {
    sae_context *ctx;
    sae_lm_source_desc desc; /* its target, if there is one, is the one below */
    sae_lm_site target;
    size_t dim;
    int32_t *tokens;     /* [batch,ctx] of read */
    float *rows[2];      /* [batch ctx,dim]: x, target; what is left out is squeezed out */
    uint64_t *place;     /* [batch ctx] */
    size_t count, given; /* rows there are, and those already given away */
    size_t served;       /* of the last read: its first row */
    uint64_t seen;       /* contexts since the last rewind */
    const int32_t *batch;
    size_t contexts;     /* of the batch */
};

/* A hook: keeps the rows that count. */
static sae_result lmi_source_keep(sae_lm_source *s, float *x, size_t rows, size_t which) {
    size_t kept = 0;
    for (size_t r = 0; r < rows; r++) {
        int32_t token = s->batch[r];
        if (token < 0 || (s->desc.remove_bos && token == s->desc.bos_token)) continue;
        memcpy(s->rows[which] + kept * s->dim, x + r * s->dim, s->dim * sizeof *x);
        s->place[kept++] = s->seen * s->desc.ctx + r;
    }
    s->count = kept;
    return SAE_OK;
}
static sae_result lmi_source_x(void *user, float *x, size_t rows, size_t dim) {
    (void)dim;
    return lmi_source_keep((sae_lm_source *)user, x, rows, 0);
}
static sae_result lmi_source_target(void *user, float *x, size_t rows, size_t dim) {
    (void)dim;
    return lmi_source_keep((sae_lm_source *)user, x, rows, 1);
}

/* The next batch of contexts through the model; 0 contexts: the end. */
static sae_result lmi_source_run(sae_lm_source *s) {
    sae_lm_hook hook[2];
    sae_lm_forward_desc run;
    s->count = s->given = 0;
    if (s->desc.read) {
        int64_t got = s->desc.read(s->desc.user, s->tokens, s->desc.batch);
        if (got < 0) return (sae_result)got;
        s->contexts = lmi_min((size_t)got, s->desc.batch);
        s->batch = s->tokens;
    } else {
        s->contexts = (size_t)lmi_min((size_t)(s->desc.contexts - s->seen), s->desc.batch);
        s->batch = s->desc.tokens + s->seen * s->desc.ctx;
    }
    if (!s->contexts) return SAE_OK;
    memset(&run, 0, sizeof run);
    memset(hook, 0, sizeof hook);
    hook[0].site = s->desc.site;
    hook[0].call = lmi_source_x;
    if (s->desc.target) hook[1].site = *s->desc.target;
    hook[1].call = lmi_source_target;
    hook[0].user = hook[1].user = s;
    run.tokens = s->batch;
    run.contexts = s->contexts;
    run.ctx = s->desc.ctx;
    run.hooks = hook;
    run.num_hooks = s->desc.target ? 2 : 1;
    LMI_TRY(sae_lm_forward(s->desc.model, &run));
    s->seen += s->contexts;
    return SAE_OK;
}

static int64_t lmi_source_read(void *user, float *x, float *target, size_t max_rows) {
    sae_lm_source *s = (sae_lm_source *)user;
    size_t n;
    while (s->given == s->count) { /* a batch may have nothing but padding */
        sae_result result = lmi_source_run(s);
        if (result != SAE_OK) return result;
        if (!s->contexts) return 0;
    }
    n = lmi_min(max_rows, s->count - s->given);
    memcpy(x, s->rows[0] + s->given * s->dim, n * s->dim * sizeof *x);
    if (target && s->desc.target)
        memcpy(target, s->rows[1] + s->given * s->dim, n * s->dim * sizeof *x);
    s->served = s->given;
    s->given += n;
    return (int64_t)n;
}

static sae_result lmi_source_rewind(void *user) {
    sae_lm_source *s = (sae_lm_source *)user;
    if (s->desc.read) {
        if (!s->desc.rewind)
            return sae_context_fail(s->ctx, SAE_ERR_UNSUPPORTED,
                                    "sae_lm_source: its read has no rewind");
        LMI_TRY(s->desc.rewind(s->desc.user));
    }
    s->seen = 0;
    s->count = s->given = s->served = 0;
    return SAE_OK;
}

SAE_API sae_result sae_lm_source_create(sae_context *ctx, const sae_lm_source_desc *desc,
                                        sae_lm_source **out) {
    sae_lm_source *s;
    size_t rows, floats, target;
    if (!ctx || !desc || !out || !desc->model || !desc->ctx || !desc->read == !desc->tokens
        || (desc->tokens && !desc->contexts))
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_lm_source_create: contexts is %zu, ctx is %zu, "
                                "allowed are a model, sizes from 1, and one of tokens and read",
                                desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    target = desc->target ? sae_lm_site_dim(desc->model, *desc->target) : 0;
    if (desc->target && target != sae_lm_site_dim(desc->model, desc->site))
        return sae_context_fail(ctx, SAE_ERR_MISMATCH,
                                "sae_lm_source_create: site has %zu dimensions, target "
                                "%zu; both must be the same",
                                sae_lm_site_dim(desc->model, desc->site), target);
    s = (sae_lm_source *)calloc(1, sizeof *s);
    if (!s) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_source_create: no memory");
    s->ctx = ctx;
    s->desc = *desc;
    if (desc->target) s->target = *desc->target, s->desc.target = &s->target;
    s->dim = sae_lm_site_dim(desc->model, desc->site);
    if (!s->desc.batch) s->desc.batch = lmi_max(1, 2048 / desc->ctx);
    if (desc->tokens) s->desc.batch = lmi_min(s->desc.batch, desc->contexts);
    if (lmi_mul(s->desc.batch, desc->ctx, &rows) && lmi_mul(rows, s->dim, &floats)
        && floats <= SIZE_MAX / sizeof(float) && rows <= SIZE_MAX / sizeof(uint64_t)) {
        s->rows[0] = (float *)malloc(floats * sizeof(float));
        if (desc->target) s->rows[1] = (float *)malloc(floats * sizeof(float));
        s->place = (uint64_t *)malloc(rows * sizeof *s->place);
        if (desc->read) s->tokens = (int32_t *)malloc(rows * sizeof *s->tokens);
    }
    if (!s->rows[0] || (desc->target && !s->rows[1]) || !s->place || (desc->read && !s->tokens)) {
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
    if (!s) return;
    free(s->tokens);
    free(s->rows[0]);
    free(s->rows[1]);
    free(s->place);
    free(s);
}

SAE_API sae_source_desc sae_lm_source_rows(sae_lm_source *s) {
    sae_source_desc source;
    memset(&source, 0, sizeof source);
    source.read = lmi_source_read;
    source.rewind = s->desc.read && !s->desc.rewind ? NULL : lmi_source_rewind;
    source.has_target = s->desc.target != NULL;
    source.dim = s->dim;
    source.user = s;
    return source;
}

SAE_API uint64_t sae_lm_source_place(const sae_lm_source *s, size_t row) {
    return s->place[s->served + row];
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
