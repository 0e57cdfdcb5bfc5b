/*  neox.h - GPT-NeoX language models (the Pythia family) and their tokenizer, on sae.h.

    DO THIS
        #include "sae.h"                with SAE_IMPLEMENTATION in one file of the program, then
        #define NEOX_IMPLEMENTATION     in exactly ONE .c file, before
        #include "neox.h"
    and include it without the #define everywhere else.

    WHAT IT DOES
        Opens a folder as transformers writes it: config.json, model.safetensors (or its shards by
        model.safetensors.index.json, or an old pytorch_model.bin), tokenizer.json; float16,
        bfloat16, float32 or float64. Runs batches of contexts, shows and lets change the
        activations at any submodule, gives logits and next-token losses. Byte-level BPE, encode and
        decode.

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
        >>neox: kernels    layer norm, activations, attention, softmax; by instruction set
        >>neox: arithmetic exp, ln, sine and cosine with the same bits everywhere; the loss
        >>neox: config     config.json
        >>neox: weights    tensors of one file or of shards
        >>neox: model      open, submodules, forward pass, unembedding
        >>neox: text       UTF-8, classes of characters, NFC
        >>neox: tokenizer  tokenizer.json, splitting, merging, decoding
        >>neox: contexts   text files and token files
        >>neox: source     contexts through the model as a source of activations
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

/* The model lives in memory from here on, as float32; ctx must outlive it. Errors:
   SAE_ERR_NOT_FOUND (a file, a shard), SAE_ERR_FORMAT (damaged, or tensors that do not fit
   config.json), SAE_ERR_UNSUPPORTED (another family, another activation or rotary kind),
   SAE_ERR_OUT_OF_MEMORY. */
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

/* Errors: SAE_ERR_NOT_FOUND (no such submodule; the message lists those there are), SAE_ERR_INVALID
   (the input of gpt_neox.embed_in). */
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

/* Runs the batch. Memory grows to the largest batch seen: about contexts * ctx * (10 d + mlp_dim)
   floats (short contexts more), and 256 vocab_size where losses or logits are wanted. One call at a
   time. The bits do not depend on threads, on instruction sets, or on which
   contexts stand together. Errors: SAE_ERR_INVALID (a token outside the vocabulary, sizes),
   SAE_ERR_OUT_OF_MEMORY, a hook's own. */
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

/* folder holds tokenizer.json, or is that file. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_FORMAT,
   SAE_ERR_UNSUPPORTED (another kind of model, normalizer or pre-tokenizer, named in the message),
   SAE_ERR_OUT_OF_MEMORY. */
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

/* Appends the ids of text [size], and what the file's post-processor puts before and behind them;
   special tokens match in plain text. Bytes that are no UTF-8 stay what they are; a byte without a
   token becomes unk_token, or is left out where there is none. One call at a time (words are
   remembered). Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result neox_encode(neox_tokenizer *tokenizer, const char *text, size_t size,
                               neox_tokens *out);
/* Appends the bytes of ids; special tokens as they are written. Errors: SAE_ERR_INVALID (no such
   id), SAE_ERR_OUT_OF_MEMORY. */
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

/* Each file is tokenised whole and cut into contexts of `length` tokens, the remainder dropped. A
   .npy of whole numbers holds ids: [n] is cut alike, [contexts,length] keeps its contexts, if its
   length is the one asked for (0: that of the first file; of text 128; 1 takes any apart).
   tokenizer may be NULL if all are .npy. *out is overwritten. Errors: SAE_ERR_NOT_FOUND,
   SAE_ERR_IO, SAE_ERR_FORMAT, SAE_ERR_INVALID (not one whole context; another length),
   SAE_ERR_OUT_OF_MEMORY. */
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
/* desc may go, but for the tokens. Errors: SAE_ERR_INVALID, SAE_ERR_MISMATCH (site and target of
   different widths), SAE_ERR_OUT_OF_MEMORY. */
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

/* ============================================================================================== *
 *                                        IMPLEMENTATION                                          *
 * ============================================================================================== */
#ifdef NEOX_IMPLEMENTATION
#if !defined(NEOXI_KERNEL_PASS) && !defined(NEOXI_IMPLEMENTED)
#define NEOXI_IMPLEMENTED

/* As in sae.h: every multiply-add that shall be fused is written as one, nothing else may be. */
#if defined(__FAST_MATH__)
#error "neox.h: compile the file with NEOX_IMPLEMENTATION without -ffast-math / -Ofast"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define NEOXI_X86 1
#include <immintrin.h>
#endif

#include "neox_unicode.h"

#define NEOXI_TRY(call)                                                                            \
    do {                                                                                           \
        sae_result neoxi_try_result = (call);                                                      \
        if (neoxi_try_result != SAE_OK) return neoxi_try_result;                                   \
    } while (0)

static size_t neoxi_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t neoxi_max(size_t a, size_t b) { return a > b ? a : b; }
static size_t neoxi_parts(size_t n, size_t each) { return n / each + (n % each != 0); }

static bool neoxi_mul(size_t a, size_t b, size_t *out) {
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

/* items [capacity] of size bytes with room for count; false, and all as it was: no memory. */
static bool neoxi_grow(void **items, size_t *capacity, size_t count, size_t size) {
    size_t most = *capacity > SIZE_MAX / 4 ? SIZE_MAX / 2 : 2 * *capacity, bytes;
    void *grown;
    if (count <= *capacity) return true;
    most = neoxi_max(neoxi_max(count, most), 16);
    grown = neoxi_mul(most, size, &bytes) ? realloc(*items, bytes) : NULL;
    if (!grown) return false;
    *items = grown;
    *capacity = most;
    return true;
}

/* "folder/name" in fresh memory (free); NULL: none left. */
static char *neoxi_join(const char *folder, const char *name) {
    size_t n = strlen(folder), m = strlen(name);
    char *path = (char *)malloc(n + m + 2);
    if (!path) return NULL;
    memcpy(path, folder, n);
    if (n && folder[n - 1] != '/') path[n++] = '/';
    memcpy(path + n, name, m + 1);
    return path;
}

static bool neoxi_is_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* ==== >>neox: kernels ========================================================================= */
/* The loops that take the time next to the products, which are sae_linear's. As there: 16 lanes
   whatever the machine has, the code once at NEOXI_KERNEL_PASS, compiled for each instruction set,
   the same bits from all. Rename the file? Then define NEOX_HEADER_NAME to its new name. */
#ifndef NEOX_HEADER_NAME
#define NEOX_HEADER_NAME "neox.h"
#endif

enum { NEOXI_ROWS = 8, NEOXI_COLUMNS = 32 }; /* of a block of attention's products */

/* The activation functions of transformers that are known here, under their names there. */
typedef enum neoxi_act {
    NEOXI_GELU, NEOXI_GELU_TANH, NEOXI_GELU_QUICK, NEOXI_RELU, NEOXI_RELU2, NEOXI_SILU,
    NEOXI_LINEAR
} neoxi_act;

static const struct {
    const char *name;
    neoxi_act act;
} neoxi_acts[] = {
    { "gelu", NEOXI_GELU }, { "gelu_python", NEOXI_GELU }, { "gelu_new", NEOXI_GELU_TANH },
    { "gelu_fast", NEOXI_GELU_TANH }, { "gelu_pytorch_tanh", NEOXI_GELU_TANH },
    { "gelu_python_tanh", NEOXI_GELU_TANH }, { "gelu_accurate", NEOXI_GELU_TANH },
    { "quick_gelu", NEOXI_GELU_QUICK }, { "relu", NEOXI_RELU }, { "relu2", NEOXI_RELU2 },
    { "silu", NEOXI_SILU }, { "swish", NEOXI_SILU }, { "linear", NEOXI_LINEAR }
};
enum { NEOXI_NUM_ACTS = sizeof neoxi_acts / sizeof neoxi_acts[0] };

/* One head of one context: rows q, k, v [ctx] of head_dim, each stride floats behind the one
   before; out likewise. */
typedef struct neoxi_head {
    const float *q, *k, *v;
    size_t stride, ctx, head_dim;
    float scale;
    float *scratch; /* neoxi_head_scratch floats, on 64 bytes */
    float *out;
    size_t out_stride;
} neoxi_head;

typedef struct neoxi_kernels {
    /* out = (x - mean) / sqrt(variance + eps) weight + bias over n; out may be x */
    void (*norm)(size_t n, const float *x, const float *weight, const float *bias, double eps,
                 float *out);
    void (*activate)(neoxi_act act, size_t n, float *x);
    void (*add)(size_t n, const float *a, const float *x, float *out); /* out = a + x */
    void (*attend)(const neoxi_head *h);
    /* largest = max x; returns sum exp(x - largest) */
    double (*sum_exp)(size_t n, const float *x, float *largest);
} neoxi_kernels;

static size_t neoxi_round(size_t n) {
    return (n + NEOXI_COLUMNS - 1) / NEOXI_COLUMNS * NEOXI_COLUMNS;
}

/* k turned [head_dim][ctx'], v [ctx][head_dim'], 8 rows of weights [ctx'], 8 of out [head_dim']. */
static size_t neoxi_head_scratch(size_t ctx, size_t head_dim) {
    size_t wide = neoxi_round(ctx), deep = neoxi_round(head_dim);
    return head_dim * wide + ctx * deep + NEOXI_ROWS * (wide + deep);
}

#define NEOXI_KERNEL_PASS 1
#define NEOXI_FN(name) name##_portable
#include NEOX_HEADER_NAME
#undef NEOXI_FN
#undef NEOXI_KERNEL_PASS

#if defined(NEOXI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define NEOXI_KERNEL_PASS 2
#define NEOXI_FN(name) name##_avx2
#include NEOX_HEADER_NAME
#undef NEOXI_FN
#undef NEOXI_KERNEL_PASS
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif
#define NEOXI_KERNEL_PASS 3
#define NEOXI_FN(name) name##_avx512
#include NEOX_HEADER_NAME
#undef NEOXI_FN
#undef NEOXI_KERNEL_PASS
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* NEOXI_X86 */

#define NEOXI_TABLE(set)                                                                           \
    static const neoxi_kernels neoxi_kernels_##set = {                                             \
        neoxi_norm_##set, neoxi_activate_##set, neoxi_add_##set, neoxi_attend_##set,               \
        neoxi_sum_exp_##set                                                                        \
    }
NEOXI_TABLE(portable);
#if defined(NEOXI_X86)
NEOXI_TABLE(avx2);
NEOXI_TABLE(avx512);
#endif

static const neoxi_kernels *neoxi_kernels_select(void) {
#if defined(NEOXI_X86)
    if (__builtin_cpu_supports("avx512f")) return &neoxi_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &neoxi_kernels_avx2;
#endif
    return &neoxi_kernels_portable;
}

/* ==== >>neox: arithmetic ====================================================================== */
/* Functions with the same bits everywhere, in double, about one unit in the last place. */

/* e^x, |x| < 700: x = n ln2 + r, Taylor to r^13. */
static double neoxi_exp(double x) {
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
static double neoxi_ln(double x) {
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
static void neoxi_sin_cos(double x, float *sine, float *cosine) {
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

SAE_API double neox_loss(const float *logits, size_t size, size_t token,
                         float *log_probabilities) {
    float largest;
    double sum = neoxi_kernels_select()->sum_exp(size, logits, &largest);
    double all = (double)largest + neoxi_ln(sum);
    if (log_probabilities)
        for (size_t i = 0; i < size; i++)
            log_probabilities[i] = (float)((double)logits[i] - all);
    return all - (double)logits[token];
}

/* ==== >>neox: config ========================================================================== */

typedef struct neoxi_layer {
    float *norm[2][2]; /* input_layernorm, post_attention_layernorm: weight, bias [d] */
    sae_linear *qkv, *dense, *up, *down;
} neoxi_layer;

enum { NEOXI_MAX_SHARDS = 1024, NEOXI_MAX_LAYERS = 4096 };

struct neox_model {
    sae_context *ctx;
    const neoxi_kernels *kernels;
    neox_info info;
    neoxi_act act;
    bool attention_bias;
    char *folder;
    sae_tensor_file *file[NEOXI_MAX_SHARDS];
    char *file_name[NEOXI_MAX_SHARDS];
    size_t num_files;
    const sae_tensor *embed; /* read row by row from the file */
    neoxi_layer *layer;
    float *norm[2];          /* final_layer_norm */
    sae_linear *unembed;
    /* memory of a forward pass */
    float *memory, *rope;    /* rope [rope_ctx][pairs][cos, sin] */
    size_t memory_floats, rope_ctx;
};

/* What reading config.json needs to complain. */
typedef struct neoxi_config {
    sae_context *ctx;
    const char *path;
    const sae_json *root;
} neoxi_config;

/* A whole number from 1 to most; missing: otherwise, and if that is 0 it may not be missing. */
static sae_result neoxi_config_size(const neoxi_config *c, const char *key, size_t otherwise,
                                    size_t most, size_t *out) {
    const sae_json *v = sae_json_get(c->root, key);
    double number = v ? sae_json_number(v) : (double)otherwise;
    if (!v && !otherwise)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT, "neox_model_open: %s: %s is missing",
                                c->path, key);
    if ((v && sae_json_kind_of(v) != SAE_JSON_NUMBER) || !(number >= 1)
        || number > (double)most || number != floor(number))
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "neox_model_open: %s: %s is %.9g, allowed are whole numbers from 1 to %zu",
                        c->path, key, number, most);
    *out = (size_t)number;
    return SAE_OK;
}

/* A number above 0 (or from 0 on), or otherwise. */
static sae_result neoxi_config_number(const neoxi_config *c, const sae_json *object,
                                      const char *key, double least, double most, double *out) {
    const sae_json *v = sae_json_get(object, key);
    sae_json_kind kind = sae_json_kind_of(v);
    if (kind == SAE_JSON_NONE || kind == SAE_JSON_NULL) return SAE_OK;
    if (kind != SAE_JSON_NUMBER || !(sae_json_number(v) >= least) || sae_json_number(v) > most)
        return sae_context_fail(c->ctx, SAE_ERR_FORMAT,
                        "neox_model_open: %s: %s is %.9g, allowed are numbers from %g to %g",
                        c->path, key, sae_json_number(v), least, most);
    *out = sae_json_number(v);
    return SAE_OK;
}

static void neoxi_config_bool(const neoxi_config *c, const char *key, bool *out) {
    const sae_json *v = sae_json_get(c->root, key);
    if (sae_json_kind_of(v) == SAE_JSON_BOOL) *out = sae_json_number(v) != 0;
}

/* Of a list (eos_token_id may be one) the first. */
static void neoxi_config_token(const neoxi_config *c, const char *key, int64_t *out) {
    const sae_json *v = sae_json_get(c->root, key);
    if (sae_json_kind_of(v) == SAE_JSON_ARRAY) v = sae_json_first(v);
    if (sae_json_kind_of(v) == SAE_JSON_NUMBER && sae_json_number(v) >= 0
        && sae_json_number(v) < 2147483648.0)
        *out = (int64_t)sae_json_number(v);
}

/* Old files: rotary_pct, rotary_emb_base, rope_scaling. New ones: rope_parameters. */
static sae_result neoxi_config_rotary(neox_model *m, const neoxi_config *c) {
    const sae_json *rope = sae_json_get(c->root, "rope_parameters"), *type;
    neox_info *info = &m->info;
    double share = 0.25, dims;
    info->rotary_base = 10000;
    if (sae_json_kind_of(rope) != SAE_JSON_OBJECT) rope = sae_json_get(c->root, "rope_scaling");
    type = sae_json_get(rope, "rope_type");
    if (!type) type = sae_json_get(rope, "type");
    if (sae_json_text(type) && strcmp(sae_json_text(type), "default") != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "neox_model_open: %s: the rotary kind is %s, supported is default", c->path,
                        sae_json_text(type));
    NEOXI_TRY(neoxi_config_number(c, c->root, "rotary_pct", 0, 1, &share));
    NEOXI_TRY(neoxi_config_number(c, c->root, "rotary_emb_base", 1, 1e12, &info->rotary_base));
    NEOXI_TRY(neoxi_config_number(c, rope, "partial_rotary_factor", 0, 1, &share));
    NEOXI_TRY(neoxi_config_number(c, rope, "rope_theta", 1, 1e12, &info->rotary_base));
    dims = floor((double)info->head_dim * share);
    info->rotary_dims = (size_t)dims;
    if (info->rotary_dims % 2 && info->rotary_dims == info->head_dim)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "neox_model_open: %s: all %zu dimensions of a head turn, supported is an "
                        "even number", c->path, info->head_dim);
    return SAE_OK;
}

static sae_result neoxi_config_act(neox_model *m, const neoxi_config *c) {
    const sae_json *v = sae_json_get(c->root, "hidden_act");
    const char *name = v ? sae_json_text(v) : "gelu";
    char known[256];
    size_t n = 0;
    for (size_t i = 0; i < NEOXI_NUM_ACTS; i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              neoxi_acts[i].name);
        if (!name || strcmp(name, neoxi_acts[i].name) != 0) continue;
        m->act = neoxi_acts[i].act;
        snprintf(m->info.activation, sizeof m->info.activation, "%s", name);
        return SAE_OK;
    }
    return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                    "neox_model_open: %s: hidden_act is %s, supported are %s", c->path,
                    name ? name : "no text", known);
}

static sae_result neoxi_config_read(neox_model *m, const neoxi_config *c) {
    neox_info *info = &m->info;
    const char *type = sae_json_text(sae_json_get(c->root, "model_type"));
    double eps = 1e-5, head_dim = 0;
    if (sae_json_kind_of(c->root) != SAE_JSON_OBJECT)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "neox_model_open: %s is no JSON object",
                                c->path);
    if (!type || strcmp(type, "gpt_neox") != 0)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "neox_model_open: %s: model_type is %s, supported is gpt_neox (GPT-NeoX, "
                        "Pythia)", c->path, type ? type : "missing");
    NEOXI_TRY(neoxi_config_size(c, "num_hidden_layers", 0, NEOXI_MAX_LAYERS, &info->layers));
    NEOXI_TRY(neoxi_config_size(c, "hidden_size", 0, 1 << 20, &info->dim));
    NEOXI_TRY(neoxi_config_size(c, "num_attention_heads", 0, 1 << 20, &info->heads));
    NEOXI_TRY(neoxi_config_size(c, "intermediate_size", 0, 1 << 22, &info->mlp_dim));
    NEOXI_TRY(neoxi_config_size(c, "vocab_size", 0, INT32_MAX, &info->vocab_size));
    NEOXI_TRY(neoxi_config_size(c, "max_position_embeddings", 2048, INT32_MAX, &info->max_ctx));
    if (info->dim % info->heads)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                        "neox_model_open: %s: hidden_size is %zu, allowed are multiples of "
                        "num_attention_heads, %zu", c->path, info->dim, info->heads);
    info->head_dim = info->dim / info->heads;
    NEOXI_TRY(neoxi_config_number(c, c->root, "head_dim", 1, 1 << 20, &head_dim));
    if (head_dim != 0 && head_dim != (double)info->head_dim)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                        "neox_model_open: %s: head_dim is %g, supported is hidden_size / "
                        "num_attention_heads, %zu", c->path, head_dim, info->head_dim);
    NEOXI_TRY(neoxi_config_number(c, c->root, "layer_norm_eps", 0, 1, &eps));
    info->norm_eps = eps;
    info->parallel_residual = m->attention_bias = true;
    neoxi_config_bool(c, "use_parallel_residual", &info->parallel_residual);
    neoxi_config_bool(c, "tie_word_embeddings", &info->tied);
    neoxi_config_bool(c, "attention_bias", &m->attention_bias);
    info->bos_token = info->eos_token = info->pad_token = -1;
    neoxi_config_token(c, "bos_token_id", &info->bos_token);
    neoxi_config_token(c, "eos_token_id", &info->eos_token);
    neoxi_config_token(c, "pad_token_id", &info->pad_token);
    NEOXI_TRY(neoxi_config_act(m, c));
    return neoxi_config_rotary(m, c);
}

/* ==== >>neox: weights ========================================================================= */

static sae_result neoxi_no_memory(const neox_model *m) {
    return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "neox_model_open: no memory for %s",
                            m->folder);
}

/* Opens folder/name, once. why: the tensor that is said to be in there, or NULL. */
static sae_result neoxi_file_open(neox_model *m, const char *name, const char *why) {
    char *path;
    sae_result result;
    for (size_t i = 0; i < m->num_files; i++)
        if (strcmp(m->file_name[i], name) == 0) return SAE_OK;
    if (strchr(name, '/') || strchr(name, '\\') || !name[0])
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "neox_model_open: model.safetensors.index.json names "
                                "the file %s, allowed are names in the folder",
                                name);
    if (m->num_files == NEOXI_MAX_SHARDS)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "neox_model_open: %s has more than %d shards", m->folder,
                                (int)NEOXI_MAX_SHARDS);
    path = neoxi_join(m->folder, name);
    m->file_name[m->num_files] = (char *)malloc(strlen(name) + 1);
    if (!path || !m->file_name[m->num_files]) {
        free(path);
        free(m->file_name[m->num_files]);
        return neoxi_no_memory(m);
    }
    strcpy(m->file_name[m->num_files], name);
    if (why && !neoxi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "neox_model_open: the shard %s is missing; "
                                  "model.safetensors.index.json has %s in it",
                                  path, why);
    else result = sae_tensor_file_open(m->ctx, path, &m->file[m->num_files]);
    free(path);
    if (result == SAE_OK) m->num_files++;
    else free(m->file_name[m->num_files]);
    return result;
}

static sae_result neoxi_shards_open(neox_model *m, const char *path) {
    sae_json *root;
    const sae_json *map, *entry;
    sae_result result = SAE_OK;
    NEOXI_TRY(sae_json_open(m->ctx, path, &root));
    map = sae_json_get(root, "weight_map");
    if (sae_json_kind_of(map) != SAE_JSON_OBJECT)
        result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                  "neox_model_open: %s: weight_map is missing", path);
    for (entry = sae_json_first(map); entry && result == SAE_OK; entry = sae_json_next(entry)) {
        const char *name = sae_json_text(entry);
        if (!name)
            result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                      "neox_model_open: %s: the file of %s is no text", path,
                                      sae_json_key(entry));
        else result = neoxi_file_open(m, name, sae_json_key(entry));
    }
    sae_json_close(root);
    return result;
}

/* One file, else shards, else what PyTorch wrote before there was the other. */
static sae_result neoxi_files_open(neox_model *m) {
    static const char *const single[] = { "model.safetensors", "pytorch_model.bin" };
    char *path;
    bool there;
    for (size_t i = 0; i < 2; i++) {
        sae_result result;
        path = neoxi_join(m->folder, single[i]);
        if (!path) return neoxi_no_memory(m);
        there = neoxi_is_file(path);
        free(path);
        if (there) return neoxi_file_open(m, single[i], NULL);
        if (i) break;
        path = neoxi_join(m->folder, "model.safetensors.index.json");
        if (!path) return neoxi_no_memory(m);
        there = neoxi_is_file(path);
        result = there ? neoxi_shards_open(m, path) : SAE_OK;
        free(path);
        if (there) return result;
    }
    return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                            "neox_model_open: %s holds no model.safetensors and no "
                            "model.safetensors.index.json",
                            m->folder);
}

static const sae_tensor *neoxi_tensor(const neox_model *m, const char *name) {
    const sae_tensor *t = NULL;
    for (size_t i = 0; i < m->num_files && !t; i++) t = sae_tensor_file_find(m->file[i], name);
    return t;
}

/* The tensor of that name, [rows,columns], or [columns] where rows is 0. */
static sae_result neoxi_find(const neox_model *m, const char *name, size_t rows, size_t columns,
                             const sae_tensor **out) {
    const sae_tensor *t = neoxi_tensor(m, name);
    char shape[21 * SAE_MAX_DIMS + 1] = "";
    size_t n = 0, dims = rows ? 2 : 1;
    if (!t)
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT, "neox_model_open: %s has no tensor %s",
                                m->folder, name);
    for (size_t i = 0; i < t->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? "," : "",
                              (unsigned long long)t->shape[i]);
    if (t->ndim != dims || t->shape[dims - 1] != columns || (rows && t->shape[0] != rows)) {
        char want[64];
        if (rows) snprintf(want, sizeof want, "%zu,%zu", rows, columns);
        else snprintf(want, sizeof want, "%zu", columns);
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "neox_model_open: %s: %s is [%s], by config.json it is "
                                "[%s]",
                                m->folder, name, shape, want);
    }
    if (t->dtype != SAE_F32 && t->dtype != SAE_F16 && t->dtype != SAE_BF16 && t->dtype != SAE_F64)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "neox_model_open: %s: %s is %s, supported are "
                                "F32, F16, BF16, F64",
                                m->folder, name, sae_dtype_name(t->dtype));
    *out = t;
    return SAE_OK;
}

/* Fresh memory (free) with the tensor's numbers. */
static sae_result neoxi_read(const neox_model *m, const char *name, size_t rows, size_t columns,
                             float **out) {
    const sae_tensor *t;
    size_t count;
    float *data = NULL;
    NEOXI_TRY(neoxi_find(m, name, rows, columns, &t));
    if (neoxi_mul(rows ? rows : 1, columns, &count) && count <= SIZE_MAX / sizeof *data)
        data = (float *)malloc(count * sizeof *data);
    if (!data) return neoxi_no_memory(m);
    sae_tensor_to_f32(t, data);
    *out = data;
    return SAE_OK;
}

/* NAME.weight [outputs,inputs] and, if biased, NAME.bias. */
static sae_result neoxi_read_linear(const neox_model *m, const char *name, bool biased,
                                    size_t inputs, size_t outputs, sae_linear **out) {
    char key[160];
    float *weight = NULL, *bias = NULL;
    sae_result result;
    snprintf(key, sizeof key, "%s.weight", name);
    result = neoxi_read(m, key, outputs, inputs, &weight);
    snprintf(key, sizeof key, "%s.bias", name);
    if (result == SAE_OK && biased) result = neoxi_read(m, key, 0, outputs, &bias);
    if (result == SAE_OK) result = sae_linear_create(m->ctx, weight, bias, inputs, outputs, out);
    free(weight);
    free(bias);
    return result;
}

static sae_result neoxi_read_norm(const neox_model *m, const char *name, float *out[2]) {
    char key[160];
    snprintf(key, sizeof key, "%s.weight", name);
    NEOXI_TRY(neoxi_read(m, key, 0, m->info.dim, &out[0]));
    snprintf(key, sizeof key, "%s.bias", name);
    return neoxi_read(m, key, 0, m->info.dim, &out[1]);
}

static sae_result neoxi_read_layer(neox_model *m, size_t i) {
    neoxi_layer *l = &m->layer[i];
    size_t d = m->info.dim, wide = m->info.mlp_dim;
    char name[128], *end;
    end = name + snprintf(name, 64, "gpt_neox.layers.%zu.", i);
    strcpy(end, "input_layernorm");
    NEOXI_TRY(neoxi_read_norm(m, name, l->norm[0]));
    strcpy(end, "post_attention_layernorm");
    NEOXI_TRY(neoxi_read_norm(m, name, l->norm[1]));
    strcpy(end, "attention.query_key_value");
    NEOXI_TRY(neoxi_read_linear(m, name, m->attention_bias, d, 3 * d, &l->qkv));
    strcpy(end, "attention.dense");
    NEOXI_TRY(neoxi_read_linear(m, name, m->attention_bias, d, d, &l->dense));
    strcpy(end, "mlp.dense_h_to_4h");
    NEOXI_TRY(neoxi_read_linear(m, name, true, d, wide, &l->up));
    strcpy(end, "mlp.dense_4h_to_h");
    return neoxi_read_linear(m, name, true, wide, d, &l->down);
}

static sae_result neoxi_read_weights(neox_model *m) {
    static const char embed_in[] = "gpt_neox.embed_in.weight";
    const char *unembed = "embed_out.weight";
    float *weight;
    sae_result result;
    NEOXI_TRY(neoxi_find(m, embed_in, m->info.vocab_size, m->info.dim, &m->embed));
    m->info.dtype = m->embed->dtype;
    m->layer = (neoxi_layer *)calloc(m->info.layers, sizeof *m->layer);
    if (!m->layer) return neoxi_no_memory(m);
    for (size_t i = 0; i < m->info.layers; i++) NEOXI_TRY(neoxi_read_layer(m, i));
    NEOXI_TRY(neoxi_read_norm(m, "gpt_neox.final_layer_norm", m->norm));
    if (!neoxi_tensor(m, unembed)) unembed = "lm_head.weight";
    if (m->info.tied) unembed = embed_in;
    NEOXI_TRY(neoxi_read(m, unembed, m->info.vocab_size, m->info.dim, &weight));
    result = sae_linear_create(m->ctx, weight, NULL, m->info.dim, m->info.vocab_size, &m->unembed);
    free(weight);
    return result;
}

/* ==== >>neox: model: open and submodules ====================================================== */

static sae_result neoxi_open(neox_model *m, const char *folder) {
    neoxi_config c;
    char *path;
    sae_json *root = NULL;
    sae_result result;
    m->folder = neoxi_join(folder, "");
    path = neoxi_join(folder, "config.json");
    if (!m->folder || !path) {
        free(path);
        return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "neox_model_open: no memory");
    }
    if (strlen(m->folder) > 1) m->folder[strlen(m->folder) - 1] = 0; /* the slash */
    c.ctx = m->ctx;
    c.path = path;
    if (!neoxi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "neox_model_open: %s is not there; a model is a "
                                  "folder with config.json, model.safetensors, tokenizer.json",
                                  path);
    else result = sae_json_open(m->ctx, path, &root);
    c.root = root;
    if (result == SAE_OK) result = neoxi_config_read(m, &c);
    sae_json_close(root);
    free(path);
    NEOXI_TRY(result);
    NEOXI_TRY(neoxi_files_open(m));
    return neoxi_read_weights(m);
}

SAE_API sae_result neox_model_open(sae_context *ctx, const char *folder, neox_model **out) {
    neox_model *m;
    sae_result result;
    if (!ctx || !folder || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "neox_model_open: folder and out may not be NULL");
    m = (neox_model *)calloc(1, sizeof *m);
    if (!m) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "neox_model_open: no memory");
    m->ctx = ctx;
    m->kernels = neoxi_kernels_select();
    result = neoxi_open(m, folder);
    if (result == SAE_OK) *out = m;
    else neox_model_close(m);
    return result;
}

SAE_API void neox_model_close(neox_model *m) {
    if (!m) return;
    for (size_t i = 0; m->layer && i < m->info.layers; i++) {
        neoxi_layer *l = &m->layer[i];
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

SAE_API neox_info neox_model_info(const neox_model *model) { return model->info; }

/* Submodules of a layer behind "gpt_neox.layers.N". */
static const struct {
    const char *name;
    neox_module module;
} neoxi_submodules[] = {
    { "", NEOX_LAYER }, { ".attention", NEOX_ATTENTION },
    { ".attention.dense", NEOX_ATTENTION_DENSE }, { ".mlp", NEOX_MLP },
    { ".mlp.dense_h_to_4h", NEOX_MLP_UP }, { ".mlp.dense_4h_to_h", NEOX_MLP_DOWN }
};
enum { NEOXI_NUM_SUBMODULES = sizeof neoxi_submodules / sizeof neoxi_submodules[0] };

static bool neoxi_site_of(const neox_model *m, const char *name, neox_site *site) {
    static const char layers[] = "gpt_neox.layers.";
    size_t n = sizeof layers - 1, layer = 0, digits = 0;
    site->layer = 0;
    if (strcmp(name, "gpt_neox.embed_in") == 0) site->module = NEOX_EMBED_IN;
    else if (strcmp(name, "gpt_neox.final_layer_norm") == 0) site->module = NEOX_FINAL_NORM;
    else {
        if (strncmp(name, layers, n) != 0) return false;
        for (name += n; *name >= '0' && *name <= '9' && digits < 6; name++, digits++)
            layer = layer * 10 + (size_t)(*name - '0');
        if (!digits || layer >= m->info.layers) return false;
        site->layer = layer;
        for (n = 0; n < NEOXI_NUM_SUBMODULES; n++)
            if (strcmp(name, neoxi_submodules[n].name) == 0) break;
        if (n == NEOXI_NUM_SUBMODULES) return false;
        site->module = neoxi_submodules[n].module;
    }
    return true;
}

SAE_API sae_result neox_site_find(const neox_model *m, const char *submodule, bool input,
                                  neox_site *out) {
    neox_site site;
    if (!m) return SAE_ERR_INVALID;
    if (!submodule || !out)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "neox_site_find: submodule and out may not be NULL");
    if (!neoxi_site_of(m, submodule, &site))
        return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                        "neox_site_find: there is no submodule %s; there are gpt_neox.embed_in, "
                        "gpt_neox.layers.N, gpt_neox.layers.N.attention, "
                        "gpt_neox.layers.N.attention.dense, gpt_neox.layers.N.mlp, "
                        "gpt_neox.layers.N.mlp.dense_h_to_4h, gpt_neox.layers.N.mlp.dense_4h_to_h "
                        "with N from 0 to %zu, and gpt_neox.final_layer_norm", submodule,
                        m->info.layers - 1);
    site.input = input;
    if (input && site.module == NEOX_EMBED_IN)
        return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                "neox_site_find: the input of gpt_neox.embed_in is "
                                "tokens; allowed is its output");
    *out = site;
    return SAE_OK;
}

SAE_API size_t neox_site_dim(const neox_model *model, neox_site site) {
    bool neurons = site.module == (site.input ? NEOX_MLP_DOWN : NEOX_MLP_UP);
    return neurons ? model->info.mlp_dim : model->info.dim;
}

/* ==== >>neox: model: forward pass ============================================================= */

/* One pass. Parts of the row-wise steps are NEOXI_ROW_PART rows. */
enum { NEOXI_ROW_PART = 32, NEOXI_LOGIT_ROWS = 256 };

typedef struct neoxi_run {
    neox_model *m;
    const neox_forward_desc *desc;
    const neoxi_layer *layer;
    size_t n, ctx, hooks_left;
    bool logits, done; /* logits or losses are wanted; nothing is left to do */
    /* [n,d] but qkv [n,3 d] and wide [n,mlp_dim]; logit_x [256,d], logit [256,vocab_size] */
    float *x, *normed, *qkv, *heads, *mixed, *wide, *scratch, *logit_x, *logit;
    size_t head_floats;
    /* what the row-wise steps work on */
    const float *from, *const *norm;
    float *to;
    size_t count;
    size_t row[NEOXI_LOGIT_ROWS]; /* of the block of logits */
    double row_loss[NEOXI_LOGIT_ROWS];
} neoxi_run;

static void neoxi_row_parts(neoxi_run *run, size_t rows, void (*fn)(void *arg, size_t part)) {
    run->count = rows;
    sae_context_parallel(run->m->ctx, neoxi_parts(rows, NEOXI_ROW_PART), fn, run);
}

static void neoxi_norm_part(void *arg, size_t part) {
    neoxi_run *run = (neoxi_run *)arg;
    size_t d = run->m->info.dim, end = neoxi_min((part + 1) * NEOXI_ROW_PART, run->count);
    for (size_t r = part * NEOXI_ROW_PART; r < end; r++)
        run->m->kernels->norm(d, run->from + r * d, run->norm[0], run->norm[1],
                              run->m->info.norm_eps, run->to + r * d);
}

static void neoxi_norm_rows(neoxi_run *run, float *const norm[2], const float *from, float *to) {
    run->norm = (const float *const *)norm;
    run->from = from;
    run->to = to;
    neoxi_row_parts(run, run->n, neoxi_norm_part);
}

static void neoxi_act_part(void *arg, size_t part) {
    neoxi_run *run = (neoxi_run *)arg;
    size_t wide = run->m->info.mlp_dim, first = part * NEOXI_ROW_PART;
    size_t end = neoxi_min(first + NEOXI_ROW_PART, run->count);
    run->m->kernels->activate(run->m->act, (end - first) * wide, run->to + first * wide);
}

/* to += from, or, as a parallel layer adds, to = (from + mixed) + to */
static void neoxi_add_part(void *arg, size_t part) {
    neoxi_run *run = (neoxi_run *)arg;
    size_t d = run->m->info.dim, first = part * NEOXI_ROW_PART * d;
    size_t count = neoxi_min((part + 1) * NEOXI_ROW_PART, run->count) * d - first;
    float *to = run->to + first;
    run->m->kernels->add(count, run->from + first, to, to);
}

static void neoxi_add_rows(neoxi_run *run, const float *from, float *to) {
    run->from = from;
    run->to = to;
    neoxi_row_parts(run, run->n, neoxi_add_part);
}

static void neoxi_embed_part(void *arg, size_t part) {
    neoxi_run *run = (neoxi_run *)arg;
    size_t d = run->m->info.dim, end = neoxi_min((part + 1) * NEOXI_ROW_PART, run->count);
    sae_tensor row = *run->m->embed;
    row.ndim = 1;
    row.shape[0] = d;
    row.stride[0] = run->m->embed->stride[1];
    for (size_t r = part * NEOXI_ROW_PART; r < end; r++) {
        int64_t token = run->desc->tokens[r] < 0 ? 0 : run->desc->tokens[r];
        row.data = (const char *)run->m->embed->data
                   + token * run->m->embed->stride[0] * (int64_t)sae_dtype_size(row.dtype);
        sae_tensor_to_f32(&row, run->x + r * d);
    }
}

/* Turns pairs (i, i + pairs) of a head's first dimensions by the angles of the position. */
static void neoxi_rope(float *x, const float *rope, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = rope[2 * i], s = rope[2 * i + 1];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void neoxi_head_part(void *arg, size_t part) {
    neoxi_run *run = (neoxi_run *)arg;
    const neox_info *info = &run->m->info;
    size_t context = part / info->heads, head = part % info->heads, d = info->dim;
    size_t pairs = (info->rotary_dims + 1) / 2, hd = info->head_dim;
    float *q = run->qkv + context * run->ctx * 3 * d + head * 3 * hd;
    neoxi_head h;
    for (size_t t = 0; t < run->ctx; t++) {
        neoxi_rope(q + t * 3 * d, run->m->rope + t * 2 * pairs, pairs);
        neoxi_rope(q + t * 3 * d + hd, run->m->rope + t * 2 * pairs, pairs);
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
static sae_result neoxi_at(neoxi_run *run, neox_module module, size_t layer, bool input, float *x) {
    neox_site site;
    site.module = module;
    site.layer = layer;
    site.input = input;
    for (size_t i = 0; i < run->desc->num_hooks; i++) {
        const neox_hook *h = &run->desc->hooks[i];
        if (h->site.module != module || h->site.layer != layer || h->site.input != input) continue;
        if (h->call)
            NEOXI_TRY(h->call(h->user, x, run->n, neox_site_dim(run->m, site)));
        run->hooks_left--;
    }
    run->done = !run->hooks_left && !run->logits;
    return SAE_OK;
}

#define NEOXI_AT(module, layer, input, x)                                                          \
    do {                                                                                           \
        sae_result neoxi_at_result = neoxi_at(run, module, layer, input, x);                       \
        if (neoxi_at_result != SAE_OK || run->done) return neoxi_at_result;                        \
    } while (0)

/* normed -> mixed */
static sae_result neoxi_run_attention(neoxi_run *run, size_t i) {
    const neoxi_layer *l = &run->m->layer[i];
    NEOXI_AT(NEOX_ATTENTION, i, true, run->normed);
    NEOXI_TRY(sae_linear_apply(l->qkv, run->normed, run->n, run->qkv));
    sae_context_parallel(run->m->ctx, run->desc->contexts * run->m->info.heads, neoxi_head_part,
                         run);
    NEOXI_AT(NEOX_ATTENTION_DENSE, i, true, run->heads);
    NEOXI_TRY(sae_linear_apply(l->dense, run->heads, run->n, run->mixed));
    NEOXI_AT(NEOX_ATTENTION_DENSE, i, false, run->mixed);
    NEOXI_AT(NEOX_ATTENTION, i, false, run->mixed);
    return SAE_OK;
}

/* normed -> heads, which are not needed any more */
static sae_result neoxi_run_mlp(neoxi_run *run, size_t i) {
    const neoxi_layer *l = &run->m->layer[i];
    NEOXI_AT(NEOX_MLP, i, true, run->normed);
    NEOXI_AT(NEOX_MLP_UP, i, true, run->normed);
    NEOXI_TRY(sae_linear_apply(l->up, run->normed, run->n, run->wide));
    NEOXI_AT(NEOX_MLP_UP, i, false, run->wide);
    run->to = run->wide;
    neoxi_row_parts(run, run->n, neoxi_act_part);
    NEOXI_AT(NEOX_MLP_DOWN, i, true, run->wide);
    NEOXI_TRY(sae_linear_apply(l->down, run->wide, run->n, run->heads));
    NEOXI_AT(NEOX_MLP_DOWN, i, false, run->heads);
    NEOXI_AT(NEOX_MLP, i, false, run->heads);
    return SAE_OK;
}

/* The blocks; the residual stream is x. */
static sae_result neoxi_run_layers(neoxi_run *run) {
    neox_model *m = run->m;
    neoxi_row_parts(run, run->n, neoxi_embed_part);
    NEOXI_AT(NEOX_EMBED_IN, 0, false, run->x);
    for (size_t i = 0; i < m->info.layers; i++) {
        const neoxi_layer *l = &m->layer[i];
        NEOXI_AT(NEOX_LAYER, i, true, run->x);
        neoxi_norm_rows(run, l->norm[0], run->x, run->normed);
        NEOXI_TRY(neoxi_run_attention(run, i));
        if (run->done) return SAE_OK;
        if (!m->info.parallel_residual) neoxi_add_rows(run, run->mixed, run->x);
        neoxi_norm_rows(run, l->norm[1], run->x, run->normed);
        NEOXI_TRY(neoxi_run_mlp(run, i));
        if (run->done) return SAE_OK;
        if (m->info.parallel_residual) neoxi_add_rows(run, run->mixed, run->heads);
        neoxi_add_rows(run, run->heads, run->x);
        NEOXI_AT(NEOX_LAYER, i, false, run->x);
    }
    NEOXI_AT(NEOX_FINAL_NORM, 0, true, run->x);
    neoxi_norm_rows(run, m->norm, run->x, run->normed);
    NEOXI_AT(NEOX_FINAL_NORM, 0, false, run->normed);
    return SAE_OK;
}

/* -- logits and losses, in blocks of rows -- */

/* Whether row r of the batch predicts a token. */
static bool neoxi_predicts(const neoxi_run *run, size_t r) {
    return (r + 1) % run->ctx && run->desc->tokens[r] >= 0 && run->desc->tokens[r + 1] >= 0;
}

static void neoxi_loss_part(void *arg, size_t part) {
    neoxi_run *run = (neoxi_run *)arg;
    size_t size = run->m->info.vocab_size, r = run->row[part];
    run->row_loss[part] = 0;
    if (neoxi_predicts(run, r))
        run->row_loss[part] = neox_loss(run->logit + part * size, size,
                                        (size_t)run->desc->tokens[r + 1], NULL);
}

static sae_result neoxi_run_logits(neoxi_run *run) {
    const neox_forward_desc *desc = run->desc;
    size_t d = run->m->info.dim, total = desc->rows ? desc->num_rows : run->n;
    size_t *row = run->row;
    for (size_t c = 0; c < desc->contexts; c++) {
        if (desc->loss) desc->loss[c] = 0;
        if (desc->predictions) desc->predictions[c] = 0;
    }
    for (size_t at = 0, count; at < total; at += count) {
        count = neoxi_min(NEOXI_LOGIT_ROWS, total - at);
        for (size_t j = 0; j < count; j++) {
            row[j] = desc->rows ? desc->rows[at + j] : at + j;
            memcpy(run->logit_x + j * d, run->normed + row[j] * d, d * sizeof(float));
        }
        NEOXI_TRY(sae_linear_apply(run->m->unembed, run->logit_x, count, run->logit));
        if (desc->loss) sae_context_parallel(run->m->ctx, count, neoxi_loss_part, run);
        for (size_t j = 0; j < count; j++) {
            size_t c = row[j] / run->ctx;
            if (desc->loss) desc->loss[c] += run->row_loss[j];
            if (desc->predictions) desc->predictions[c] += neoxi_predicts(run, row[j]);
        }
        if (desc->logits) NEOXI_TRY(desc->logits(desc->user, run->logit, at, count));
    }
    return SAE_OK;
}

/* -- checks and memory -- */

static sae_result neoxi_run_check(neox_model *m, const neox_forward_desc *desc, size_t *rows) {
    size_t n;
    if (!desc || !desc->tokens || !desc->contexts || !desc->ctx
        || !neoxi_mul(desc->contexts, desc->ctx, &n) || n > INT32_MAX || desc->ctx > 1000000)
        return sae_context_fail(
            m->ctx, SAE_ERR_INVALID,
            "neox_forward: contexts is %zu, ctx is %zu, tokens "
            "may not be NULL, allowed are up to 2^31 tokens, ctx from 1 to 1000000",
            desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    for (size_t i = 0; i < n; i++)
        if (desc->tokens[i] >= 0 && (size_t)desc->tokens[i] >= m->info.vocab_size)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "neox_forward: token %zu of the batch is %ld, "
                                    "allowed are those below vocab_size, %zu",
                                    i, (long)desc->tokens[i], m->info.vocab_size);
    for (size_t i = 0; i < desc->num_hooks; i++) {
        const neox_site s = desc->hooks[i].site;
        bool of_layer = s.module != NEOX_EMBED_IN && s.module != NEOX_FINAL_NORM;
        if (s.module > NEOX_FINAL_NORM || s.layer >= (of_layer ? m->info.layers : 1)
            || (s.module == NEOX_EMBED_IN && s.input))
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "neox_forward: hook %zu has a site that "
                                    "neox_site_find does not give",
                                    i);
    }
    for (size_t i = 0; desc->rows && i < desc->num_rows; i++)
        if (desc->rows[i] >= n)
            return sae_context_fail(m->ctx, SAE_ERR_INVALID,
                                    "neox_forward: rows[%zu] is %zu, allowed are "
                                    "those below %zu",
                                    i, desc->rows[i], n);
    *rows = n;
    return SAE_OK;
}

/* Cuts the memory of a pass; floats, each piece on 64 bytes. base NULL: only counts. */
static size_t neoxi_run_layout(neoxi_run *run, float *base) {
    const neox_info *info = &run->m->info;
    size_t n = run->n, block = run->logits ? neoxi_min(n, NEOXI_LOGIT_ROWS) : 0, at = 0, bytes;
    size_t parts = run->desc->contexts * info->heads;
    struct {
        float **piece;
        size_t rows, width;
    } cut[9];
    run->head_floats = neoxi_head_scratch(run->ctx, info->head_dim);
    if (run->desc->rows) block = neoxi_max(block, NEOXI_LOGIT_ROWS);
#define NEOXI_CUT(i, name, a, b) cut[i].piece = &run->name, cut[i].rows = a, cut[i].width = b
    NEOXI_CUT(0, x, n, info->dim);
    NEOXI_CUT(1, normed, n, info->dim);
    NEOXI_CUT(2, qkv, n, 3 * info->dim);
    NEOXI_CUT(3, heads, n, info->dim);
    NEOXI_CUT(4, mixed, n, info->dim);
    NEOXI_CUT(5, wide, n, info->mlp_dim);
    NEOXI_CUT(6, scratch, parts, run->head_floats);
    NEOXI_CUT(7, logit_x, block, info->dim);
    NEOXI_CUT(8, logit, block, info->vocab_size);
#undef NEOXI_CUT
    for (size_t i = 0; i < 9; i++) {
        if (base) *cut[i].piece = base + at;
        if (!neoxi_mul(cut[i].rows, cut[i].width, &bytes) || bytes > SIZE_MAX / 64 - at) return 0;
        at += (bytes + 15) / 16 * 16;
    }
    return at;
}

static sae_result neoxi_run_memory(neoxi_run *run) {
    neox_model *m = run->m;
    size_t floats = neoxi_run_layout(run, NULL), pairs = (m->info.rotary_dims + 1) / 2, skip;
    if (floats > m->memory_floats || !floats) {
        free(m->memory);
        m->memory_floats = 0;
        m->memory = floats ? (float *)malloc((floats + 16) * sizeof(float)) : NULL;
        if (!m->memory)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "neox_forward: no memory for %zu contexts "
                                    "of %zu tokens",
                                    run->desc->contexts, run->ctx);
        m->memory_floats = floats;
    }
    skip = (64 - ((uintptr_t)m->memory & 63)) % 64 / sizeof(float);
    neoxi_run_layout(run, m->memory + skip);
    if (run->ctx > m->rope_ctx) {
        free(m->rope);
        m->rope_ctx = 0;
        m->rope = (float *)malloc((run->ctx * 2 * pairs + 1) * sizeof(float));
        if (!m->rope)
            return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "neox_forward: no memory");
        m->rope_ctx = run->ctx;
        for (size_t i = 0; i < pairs; i++) {
            /* in float where transformers has float: 1 / base^(2 i / n), times the position */
            float power = (float)(2 * i) / (float)m->info.rotary_dims;
            float frequency = 1 / (float)neoxi_exp((double)power * neoxi_ln(m->info.rotary_base));
            for (size_t t = 0; t < run->ctx; t++) {
                float *rope = m->rope + (t * pairs + i) * 2;
                neoxi_sin_cos((double)((float)t * frequency), &rope[1], &rope[0]);
            }
        }
    }
    return SAE_OK;
}

SAE_API sae_result neox_forward(neox_model *model, const neox_forward_desc *desc) {
    neoxi_run whole, *run = &whole;
    if (!model) return SAE_ERR_INVALID;
    memset(run, 0, sizeof *run);
    NEOXI_TRY(neoxi_run_check(model, desc, &run->n));
    run->m = model;
    run->desc = desc;
    run->ctx = desc->ctx;
    run->hooks_left = desc->num_hooks;
    run->logits = desc->loss || desc->logits || desc->predictions;
    NEOXI_TRY(neoxi_run_memory(run));
    if (!run->logits && !run->hooks_left) return SAE_OK;
    NEOXI_TRY(neoxi_run_layers(run));
    return run->logits ? neoxi_run_logits(run) : SAE_OK;
}

SAE_API void neox_final_norm(const neox_model *model, const float *x, size_t n, float *out) {
    size_t d = model->info.dim;
    for (size_t r = 0; r < n; r++)
        model->kernels->norm(d, x + r * d, model->norm[0], model->norm[1], model->info.norm_eps,
                             out + r * d);
}

SAE_API sae_result neox_unembed(const neox_model *model, const float *x, size_t n, float *logits) {
    return sae_linear_apply(model->unembed, x, n, logits);
}

SAE_API const float *neox_final_norm_weight(const neox_model *model) { return model->norm[0]; }

/* ==== >>neox: text ============================================================================ */

enum { NEOXI_OTHER, NEOXI_LETTER, NEOXI_NUMBER, NEOXI_SPACE }; /* classes of characters */
#define NEOXI_COUNT(table) (sizeof table / sizeof table[0])

/* The code point at s (left > 0) and its length; a byte that is no UTF-8 gives UINT32_MAX, 1. */
static uint32_t neoxi_code(const unsigned char *s, size_t left, size_t *length) {
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

static size_t neoxi_put_code(uint32_t c, unsigned char *out) {
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

static int neoxi_class(uint32_t c) {
    size_t lo = 0, hi = NEOXI_COUNT(neoxi_classes);
    if (c < 0x80)
        return (c | 32) - 'a' < 26 ? NEOXI_LETTER : c - '0' < 10 ? NEOXI_NUMBER
             : c == ' ' || c - 9 < 5 ? NEOXI_SPACE : NEOXI_OTHER;
    if (c == UINT32_MAX) return NEOXI_OTHER;
    while (lo < hi) { /* the last boundary at or below c is lo - 1 */
        size_t mid = (lo + hi) / 2;
        if (neoxi_classes[mid] >> 2 <= c) lo = mid + 1;
        else hi = mid;
    }
    return lo ? (int)(neoxi_classes[lo - 1] & 3) : NEOXI_OTHER;
}

/* Canonical combining class. */
static uint32_t neoxi_mark(uint32_t c) {
    size_t lo = 0, hi = NEOXI_COUNT(neoxi_marks) / 3;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (neoxi_marks[3 * mid + 1] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo < NEOXI_COUNT(neoxi_marks) / 3 && neoxi_marks[3 * lo] <= c ? neoxi_marks[3 * lo + 2]
                                                                          : 0;
}

/* Hangul: a syllable is 0xAC00 + (lead 21 + vowel) 28 + tail. */
enum {
    NEOXI_SYLLABLE = 0xAC00, NEOXI_LEAD = 0x1100, NEOXI_VOWEL = 0x1161, NEOXI_TAIL = 0x11A7,
    NEOXI_LEADS = 19, NEOXI_VOWELS = 21, NEOXI_TAILS = 28
};

/* Whether c may join what stands before it. */
static bool neoxi_joins(uint32_t c) {
    if (c - NEOXI_VOWEL < NEOXI_VOWELS || c - NEOXI_TAIL - 1 < NEOXI_TAILS - 1) return true;
    if (neoxi_mark(c)) return true;
    for (size_t i = 0; i < NEOXI_COUNT(neoxi_seconds); i++)
        if (neoxi_seconds[i] == c) return true;
    return false;
}

/* The character that a and b make; 0: none. */
static uint32_t neoxi_compose(uint32_t a, uint32_t b) {
    size_t lo = 0, hi = NEOXI_COUNT(neoxi_composed);
    if (a - NEOXI_LEAD < NEOXI_LEADS && b - NEOXI_VOWEL < NEOXI_VOWELS)
        return NEOXI_SYLLABLE
               + ((a - NEOXI_LEAD) * NEOXI_VOWELS + b - NEOXI_VOWEL) * NEOXI_TAILS;
    if (a - NEOXI_SYLLABLE < NEOXI_LEADS * NEOXI_VOWELS * NEOXI_TAILS
        && (a - NEOXI_SYLLABLE) % NEOXI_TAILS == 0 && b - NEOXI_TAIL - 1 < NEOXI_TAILS - 1)
        return a + b - NEOXI_TAIL;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const uint32_t *p = neoxi_pairs + 3 * neoxi_composed[mid];
        if (p[1] == a && p[2] == b) return p[0];
        if (p[1] < a || (p[1] == a && p[2] < b)) lo = mid + 1;
        else hi = mid;
    }
    return 0;
}

/* Characters waiting for the marks behind them: decomposed, marks in order as they come. */
typedef struct neoxi_cluster {
    uint32_t *code;
    size_t count, capacity;
} neoxi_cluster;

static bool neoxi_decompose(neoxi_cluster *k, uint32_t c) {
    size_t lo = 0, hi = NEOXI_COUNT(neoxi_pairs) / 3, i;
    uint32_t s = c - NEOXI_SYLLABLE, order;
    if (s < NEOXI_LEADS * NEOXI_VOWELS * NEOXI_TAILS)
        return neoxi_decompose(k, NEOXI_LEAD + s / (NEOXI_VOWELS * NEOXI_TAILS))
               && neoxi_decompose(k, NEOXI_VOWEL + s / NEOXI_TAILS % NEOXI_VOWELS)
               && (s % NEOXI_TAILS == 0 || neoxi_decompose(k, NEOXI_TAIL + s % NEOXI_TAILS));
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (neoxi_pairs[3 * mid] < c) lo = mid + 1;
        else hi = mid;
    }
    if (lo < NEOXI_COUNT(neoxi_pairs) / 3 && neoxi_pairs[3 * lo] == c) /* at most 3 deep */
        return neoxi_decompose(k, neoxi_pairs[3 * lo + 1])
               && (!neoxi_pairs[3 * lo + 2] || neoxi_decompose(k, neoxi_pairs[3 * lo + 2]));
    if (!neoxi_grow((void **)&k->code, &k->capacity, k->count + 1, sizeof *k->code)) return false;
    order = neoxi_mark(c);
    for (i = k->count++; order && i > 0 && neoxi_mark(k->code[i - 1]) > order; i--)
        k->code[i] = k->code[i - 1];
    k->code[i] = c;
    return true;
}

static bool neoxi_text_add(neox_text *t, const void *data, size_t size) {
    if (size > SIZE_MAX - 1 - t->size
        || !neoxi_grow((void **)&t->data, &t->capacity, t->size + size + 1, 1))
        return false;
    if (size) memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
    return true;
}

/* Joins what can be joined, and writes it. */
static bool neoxi_cluster_end(neoxi_cluster *k, neox_text *out) {
    size_t starter = SIZE_MAX, kept = 0;
    uint32_t last = 0; /* class of the mark kept last behind the starter */
    for (size_t i = 0; i < k->count; i++) {
        uint32_t c = k->code[i], order = neoxi_mark(c), made = 0;
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last < order))
            made = neoxi_compose(k->code[starter], c);
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
        if (!neoxi_text_add(out, bytes, neoxi_put_code(k->code[i], bytes))) return false;
    }
    k->count = 0;
    return true;
}

/* Appends the NFC of text. A character below U+0300 with another behind it is as it should be, and
   is copied; others wait in k for what may join them. */
static bool neoxi_nfc(const unsigned char *s, size_t size, neoxi_cluster *k, neox_text *out) {
    size_t plain = 0; /* [plain, at) is to be copied; empty while something waits */
    k->count = 0;
    for (size_t at = 0, length, next; at < size; at = next) {
        uint32_t c = neoxi_code(s + at, size - at, &length);
        next = at + length;
        if (c == UINT32_MAX || (c < 0x300 && (next == size || s[next] < 0xCC))) {
            if (!neoxi_cluster_end(k, out)) return false;
            continue;
        }
        if (!neoxi_text_add(out, s + plain, at - plain)) return false;
        if (!neoxi_joins(c) && !neoxi_cluster_end(k, out)) return false;
        if (!neoxi_decompose(k, c)) return false;
        plain = next;
    }
    return neoxi_cluster_end(k, out) && neoxi_text_add(out, s + plain, size - plain);
}

/* ==== >>neox: tokenizer: tables =============================================================== */

enum { NEOXI_MAX_ID = 1 << 21, NEOXI_CACHE_WORDS = 1 << 16, NEOXI_CACHE_BYTES = 48 };

typedef struct neoxi_token {
    size_t at;     /* of its bytes in the arena */
    uint32_t size;
    bool there;    /* the id exists */
    bool plain;    /* written in the alphabet of bytes: merges make it */
} neoxi_token;

typedef struct neoxi_merge {
    int32_t left, right; /* left -1: an empty slot */
    int32_t rank, made;
} neoxi_merge;

typedef struct neoxi_added {
    size_t at; /* of its text in the arena; normalized ones: of its NFC */
    size_t size;
    int32_t id;
    bool lstrip, rstrip, normalized;
} neoxi_added;

/* A word seen before and its ids. */
typedef struct neoxi_word {
    uint64_t hash;
    uint32_t at, size, first, count; /* size 0: an empty slot */
} neoxi_word;

struct neox_tokenizer {
    sae_context *ctx;
    char *path;
    neox_text arena;           /* bytes of all tokens */
    neoxi_token *token;        /* [size] */
    size_t size;
    int32_t *slot;             /* [slots] plain tokens by their bytes; -1: empty */
    size_t slots;
    neoxi_merge *merge;        /* [merges] by (left, right) */
    size_t merges;
    int32_t byte_id[256];      /* -1: no such token */
    neoxi_added *added;        /* longest first */
    size_t num_added;
    bool starts[2][256];       /* [normalized][byte]: an added token begins so */
    bool nfc, prefix_space, no_regex, ignore_merges, fuse_unknown;
    int32_t unknown;           /* -1: bytes without a token are left out, as tokenizers does */
    neox_tokens before, after; /* what the post-processor adds */
    /* memory of encoding */
    neox_text normal, spaced;
    neoxi_cluster cluster;
    neox_tokens symbols;
    void *heap, *links;
    size_t heap_room, link_room;
    neoxi_word *word;          /* [2 NEOXI_CACHE_WORDS] */
    size_t words;
    neox_text word_bytes;
    neox_tokens word_ids;
};

static uint64_t neoxi_hash(const void *data, size_t size) { /* FNV-1a, 64 bit */
    const unsigned char *s = (const unsigned char *)data;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < size; i++) h = (h ^ s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static bool neoxi_tokens_add(neox_tokens *t, int32_t id) {
    if (!neoxi_grow((void **)&t->id, &t->capacity, t->count + 1, sizeof *t->id)) return false;
    t->id[t->count++] = id;
    return true;
}

static sae_result neoxi_tokenizer_memory(const neox_tokenizer *t) {
    return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "neox_tokenizer: no memory for %s",
                            t->path);
}

/* "neox_tokenizer_open: PATH: ..." */
static sae_result neoxi_refuse(const neox_tokenizer *t, sae_result result, const char *format,
                               ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sae_context_fail(t->ctx, result, "neox_tokenizer_open: %s: %s", t->path, text);
}

/* The byte that a character of GPT-2's alphabet stands for: printable ones for themselves, the
   others in their order from U+0100 on; -1: none. */
static int neoxi_alphabet(uint32_t c) {
    int n = 0;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = b - 33 < 94 || b - 161 < 12 || b - 174 < 82;
        if (printable ? b == c : 256u + (uint32_t)n == c) return (int)b;
        n += !printable;
    }
    return -1;
}

/* The bytes that text means, into out (size of text is room enough); false: not in the alphabet. */
static bool neoxi_bytes(const char *text, size_t size, const int16_t *alphabet, char *out,
                        size_t *length) {
    size_t n = 0, step;
    for (size_t at = 0; at < size; at += step) {
        uint32_t c = neoxi_code((const unsigned char *)text + at, size - at, &step);
        if (c >= 512 || alphabet[c] < 0) return false;
        out[n++] = (char)(unsigned char)alphabet[c];
    }
    *length = n;
    return n > 0;
}

static int32_t neoxi_plain_find(const neox_tokenizer *t, const char *bytes, size_t size) {
    size_t at = (size_t)neoxi_hash(bytes, size) & (t->slots - 1);
    for (; t->slot[at] >= 0; at = (at + 1) & (t->slots - 1)) {
        const neoxi_token *token = &t->token[t->slot[at]];
        if (token->size == size && memcmp(t->arena.data + token->at, bytes, size) == 0)
            return t->slot[at];
    }
    return -1;
}

static neoxi_merge *neoxi_merge_slot(const neox_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & (t->merges - 1);
    while (t->merge[at].left >= 0 && (t->merge[at].left != left || t->merge[at].right != right))
        at = (at + 1) & (t->merges - 1);
    return &t->merge[at];
}

static size_t neoxi_power_of_two(size_t least) {
    size_t n = 16;
    while (n < least) n *= 2;
    return n;
}

/* ==== >>neox: tokenizer: tokenizer.json ======================================================= */

typedef struct neoxi_reader {
    neox_tokenizer *t;
    const sae_json *root, *model, *vocab, *merges, *added;
    int16_t alphabet[512];
    char *bytes; /* room for the longest text */
} neoxi_reader;

static bool neoxi_is_true(const sae_json *object, const char *key) {
    return sae_json_number(sae_json_get(object, key)) != 0;
}

static bool neoxi_is_null(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

static const char *neoxi_type(const sae_json *v) {
    const char *type = sae_json_text(sae_json_get(v, "type"));
    return type ? type : "no text";
}

/* fn for v, or for the parts of v where it is a Sequence; list: where they are. */
static sae_result neoxi_each(neoxi_reader *r, const sae_json *v, const char *list,
                             sae_result (*fn)(neoxi_reader *r, const sae_json *v)) {
    const sae_json *part;
    if (neoxi_is_null(v)) return SAE_OK;
    if (strcmp(neoxi_type(v), "Sequence") != 0) return fn(r, v);
    for (part = sae_json_first(sae_json_get(v, list)); part; part = sae_json_next(part))
        NEOXI_TRY(fn(r, part));
    return SAE_OK;
}

static sae_result neoxi_normalizer(neoxi_reader *r, const sae_json *v) {
    if (strcmp(neoxi_type(v), "NFC") != 0)
        return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                            "the normalizer is %s, supported is NFC or none", neoxi_type(v));
    r->t->nfc = true;
    return SAE_OK;
}

static sae_result neoxi_pre_tokenizer(neoxi_reader *r, const sae_json *v) {
    const sae_json *regex = sae_json_get(v, "use_regex");
    if (strcmp(neoxi_type(v), "ByteLevel") != 0)
        return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                            "the pre_tokenizer is %s, supported is ByteLevel", neoxi_type(v));
    r->t->prefix_space = neoxi_is_true(v, "add_prefix_space");
    r->t->no_regex = regex && sae_json_number(regex) == 0;
    return SAE_OK;
}

static sae_result neoxi_template(neoxi_reader *r, const sae_json *v) {
    const sae_json *specials = sae_json_get(v, "special_tokens"), *piece, *id;
    bool behind = false;
    if (r->t->before.count || r->t->after.count)
        return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED,
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
            if (!(number >= 0 && number < NEOXI_MAX_ID && number == floor(number))) number = -1;
            if (!neoxi_tokens_add(behind ? &r->t->after : &r->t->before, (int32_t)number))
                return neoxi_tokenizer_memory(r->t); /* -1 is refused by neoxi_read_rest */
        }
    }
    return SAE_OK;
}

static sae_result neoxi_post_processor(neoxi_reader *r, const sae_json *v) {
    if (strcmp(neoxi_type(v), "TemplateProcessing") == 0) return neoxi_template(r, v);
    if (strcmp(neoxi_type(v), "ByteLevel") == 0) return SAE_OK; /* changes no ids */
    return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                        "the post_processor is %s, supported are ByteLevel, "
                        "TemplateProcessing or none",
                        neoxi_type(v));
}

/* What of the model there is no room for here. */
static sae_result neoxi_read_kind(neoxi_reader *r) {
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const sae_json *type = sae_json_get(r->model, "type");
    if (sae_json_kind_of(r->root) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->model) != SAE_JSON_OBJECT)
        return neoxi_refuse(r->t, SAE_ERR_FORMAT, "there is no object model in it");
    if (type && strcmp(neoxi_type(r->model), "BPE") != 0)
        return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED, "the model is %s, supported is BPE",
                            neoxi_type(r->model));
    for (size_t i = 0; i < 2; i++) {
        const char *text = sae_json_text(sae_json_get(r->model, affixes[i]));
        if (text && text[0])
            return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED, "%s is %s, supported is none",
                                affixes[i], text);
    }
    if (sae_json_number(sae_json_get(r->model, "dropout")) > 0)
        return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED, "dropout is %g, supported is none",
                            sae_json_number(sae_json_get(r->model, "dropout")));
    if (sae_json_kind_of(r->vocab) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return neoxi_refuse(r->t, SAE_ERR_FORMAT, "model.vocab or model.merges is missing");
    r->t->ignore_merges = neoxi_is_true(r->model, "ignore_merges");
    r->t->fuse_unknown = neoxi_is_true(r->model, "fuse_unk");
    if (neoxi_is_null(sae_json_get(r->root, "pre_tokenizer")))
        return neoxi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                            "the pre_tokenizer is none, supported is ByteLevel");
    NEOXI_TRY(neoxi_each(r, sae_json_get(r->root, "normalizer"), "normalizers", neoxi_normalizer));
    NEOXI_TRY(neoxi_each(r, sae_json_get(r->root, "pre_tokenizer"), "pretokenizers",
                         neoxi_pre_tokenizer));
    return neoxi_each(r, sae_json_get(r->root, "post_processor"), "processors",
                      neoxi_post_processor);
}

/* Ids, and the longest text. */
static sae_result neoxi_read_sizes(neoxi_reader *r) {
    size_t longest = 16;
    for (int pass = 0; pass < 2; pass++) {
        const sae_json *v = sae_json_first(pass ? r->added : r->vocab);
        for (; v; v = sae_json_next(v)) {
            const sae_json *id = pass ? sae_json_get(v, "id") : v;
            const char *text = pass ? sae_json_text(sae_json_get(v, "content")) : sae_json_key(v);
            double number = sae_json_number(id);
            if (!text || sae_json_kind_of(id) != SAE_JSON_NUMBER || !(number >= 0)
                || number >= NEOXI_MAX_ID || number != floor(number))
                return neoxi_refuse(r->t, SAE_ERR_FORMAT, "the token %s has the id %g, allowed are "
                                    "whole numbers from 0 to %d", text ? text : "(no text)", number,
                                    NEOXI_MAX_ID - 1);
            r->t->size = neoxi_max(r->t->size, (size_t)number + 1);
            longest = neoxi_max(longest, strlen(text));
        }
    }
    r->t->slots = neoxi_power_of_two(2 * sae_json_count(r->vocab) + 2);
    r->t->merges = neoxi_power_of_two(2 * sae_json_count(r->merges) + 2);
    r->bytes = (char *)malloc(2 * longest + 1);
    r->t->token = (neoxi_token *)calloc(r->t->size + 1, sizeof *r->t->token);
    r->t->slot = (int32_t *)malloc(r->t->slots * sizeof *r->t->slot);
    r->t->merge = (neoxi_merge *)malloc(r->t->merges * sizeof *r->t->merge);
    r->t->word = (neoxi_word *)calloc(2 * NEOXI_CACHE_WORDS, sizeof *r->t->word);
    if (!r->bytes || !r->t->token || !r->t->slot || !r->t->merge || !r->t->word
        || !neoxi_text_add(&r->t->arena, "", 0))
        return neoxi_tokenizer_memory(r->t);
    for (size_t i = 0; i < r->t->slots; i++) r->t->slot[i] = -1;
    for (size_t i = 0; i < r->t->merges; i++) r->t->merge[i].left = -1;
    return SAE_OK;
}

static bool neoxi_set_token(neox_tokenizer *t, size_t id, const char *bytes, size_t size,
                            bool plain) {
    neoxi_token *token = &t->token[id];
    token->at = t->arena.size;
    token->size = (uint32_t)size;
    token->there = true;
    token->plain = plain;
    return size <= UINT32_MAX && neoxi_text_add(&t->arena, bytes, size);
}

static sae_result neoxi_read_vocab(neoxi_reader *r) {
    neox_tokenizer *t = r->t;
    for (const sae_json *v = sae_json_first(r->vocab); v; v = sae_json_next(v)) {
        const char *text = sae_json_key(v);
        size_t id = (size_t)sae_json_number(v), size = strlen(text), at;
        bool plain = neoxi_bytes(text, size, r->alphabet, r->bytes, &size);
        if (t->token[id].there)
            return neoxi_refuse(t, SAE_ERR_FORMAT, "two tokens have the id %zu", id);
        if (!neoxi_set_token(t, id, plain ? r->bytes : text, size, plain))
            return neoxi_tokenizer_memory(t);
        if (!plain) continue;
        at = (size_t)neoxi_hash(r->bytes, size) & (t->slots - 1);
        while (t->slot[at] >= 0) at = (at + 1) & (t->slots - 1);
        t->slot[at] = (int32_t)id;
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)(unsigned char)b;
        t->byte_id[b] = neoxi_plain_find(t, &byte, 1);
    }
    return SAE_OK;
}

static sae_result neoxi_read_merges(neoxi_reader *r) {
    neox_tokenizer *t = r->t;
    int32_t rank = 0;
    for (const sae_json *v = sae_json_first(r->merges); v; v = sae_json_next(v), rank++) {
        const char *whole = sae_json_text(v), *part[2] = { NULL, NULL };
        size_t size[2] = { 0, 0 }, n[2];
        int32_t id[3] = { -1, -1, -1 };
        neoxi_merge *slot;
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
        if (part[0] && part[1] && neoxi_max(size[0], size[1]) <= UINT16_MAX) {
            char *bytes = (char *)realloc(r->bytes, size[0] + size[1] + 1);
            if (!bytes) return neoxi_tokenizer_memory(t);
            r->bytes = bytes;
            if (neoxi_bytes(part[0], size[0], r->alphabet, bytes, &n[0])
                && neoxi_bytes(part[1], size[1], r->alphabet, bytes + n[0], &n[1])) {
                id[0] = neoxi_plain_find(t, bytes, n[0]);
                id[1] = neoxi_plain_find(t, bytes + n[0], n[1]);
                id[2] = neoxi_plain_find(t, bytes, n[0] + n[1]);
            }
        }
        if (id[0] < 0 || id[1] < 0 || id[2] < 0)
            return neoxi_refuse(t, SAE_ERR_FORMAT, "merge %ld, \"%.40s\" and \"%.40s\", is not of "
                                "tokens of the vocabulary", (long)rank, part[0] ? part[0] : "",
                                part[1] ? part[1] : "");
        slot = neoxi_merge_slot(t, id[0], id[1]);
        slot->left = id[0];
        slot->right = id[1];
        slot->rank = rank;
        slot->made = id[2];
    }
    return SAE_OK;
}

static int neoxi_longer(const void *a, const void *b) {
    const neoxi_added *x = (const neoxi_added *)a, *y = (const neoxi_added *)b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static sae_result neoxi_read_added(neoxi_reader *r) {
    neox_tokenizer *t = r->t;
    t->added = (neoxi_added *)calloc(sae_json_count(r->added) + 1, sizeof *t->added);
    if (!t->added) return neoxi_tokenizer_memory(t);
    for (const sae_json *v = sae_json_first(r->added); v; v = sae_json_next(v)) {
        const char *text = sae_json_text(sae_json_get(v, "content"));
        neoxi_added *a = &t->added[t->num_added];
        a->id = (int32_t)sae_json_number(sae_json_get(v, "id"));
        a->lstrip = neoxi_is_true(v, "lstrip");
        a->rstrip = neoxi_is_true(v, "rstrip");
        a->normalized = neoxi_is_true(v, "normalized");
        if (neoxi_is_true(v, "single_word"))
            return neoxi_refuse(t, SAE_ERR_UNSUPPORTED,
                                "the added token %s is single_word, which is "
                                "not supported",
                                text);
        if (!text[0]) continue;
        if (!neoxi_set_token(t, (size_t)a->id, text, strlen(text), false))
            return neoxi_tokenizer_memory(t);
        a->at = t->arena.size;
        if (a->normalized && t->nfc
            ? !neoxi_nfc((const unsigned char *)text, strlen(text), &t->cluster, &t->arena)
            : !neoxi_text_add(&t->arena, text, strlen(text)))
            return neoxi_tokenizer_memory(t);
        a->size = t->arena.size - a->at;
        t->starts[a->normalized][(unsigned char)t->arena.data[a->at]] = true;
        t->num_added++;
    }
    qsort(t->added, t->num_added, sizeof *t->added, neoxi_longer);
    return SAE_OK;
}

/* Ids that files give outside the vocabulary. */
static sae_result neoxi_read_rest(neoxi_reader *r) {
    neox_tokenizer *t = r->t;
    const char *unknown = sae_json_text(sae_json_get(r->model, "unk_token"));
    t->unknown = -1;
    if (unknown) {
        const sae_json *v = sae_json_get(r->vocab, unknown);
        if (!v)
            return neoxi_refuse(t, SAE_ERR_FORMAT, "unk_token %s is not in the vocabulary",
                                unknown);
        t->unknown = (int32_t)sae_json_number(v);
    }
    for (int i = 0; i < 2; i++) {
        const neox_tokens *ids = i ? &t->after : &t->before;
        for (size_t j = 0; j < ids->count; j++)
            if (ids->id[j] < 0 || (size_t)ids->id[j] >= t->size || !t->token[ids->id[j]].there)
                return neoxi_refuse(t, SAE_ERR_FORMAT,
                                    "the post_processor adds the id %ld, which is "
                                    "no token's",
                                    (long)ids->id[j]);
    }
    return SAE_OK;
}

static sae_result neoxi_tokenizer_read(neox_tokenizer *t) {
    neoxi_reader r;
    sae_json *root;
    sae_result result;
    memset(&r, 0, sizeof r);
    NEOXI_TRY(sae_json_open(t->ctx, t->path, &root));
    r.t = t;
    r.root = root;
    r.model = sae_json_get(root, "model");
    r.vocab = sae_json_get(r.model, "vocab");
    r.merges = sae_json_get(r.model, "merges");
    r.added = sae_json_get(root, "added_tokens");
    for (uint32_t c = 0; c < 512; c++) r.alphabet[c] = (int16_t)neoxi_alphabet(c);
    result = neoxi_read_kind(&r);
    if (result == SAE_OK) result = neoxi_read_sizes(&r);
    if (result == SAE_OK) result = neoxi_read_vocab(&r);
    if (result == SAE_OK) result = neoxi_read_merges(&r);
    if (result == SAE_OK) result = neoxi_read_added(&r);
    if (result == SAE_OK) result = neoxi_read_rest(&r);
    free(r.bytes);
    sae_json_close(root);
    return result;
}

SAE_API sae_result neox_tokenizer_open(sae_context *ctx, const char *folder,
                                       neox_tokenizer **out) {
    neox_tokenizer *t;
    size_t n = folder ? strlen(folder) : 0;
    sae_result result;
    if (!ctx || !folder || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "neox_tokenizer_open: folder and out may not be NULL");
    t = (neox_tokenizer *)calloc(1, sizeof *t);
    if (!t) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "neox_tokenizer_open: no memory");
    t->ctx = ctx;
    t->path = n > 5 && strcmp(folder + n - 5, ".json") == 0 ? neoxi_join("", folder)
                                                            : neoxi_join(folder, "tokenizer.json");
    if (!t->path)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "neox_tokenizer_open: no memory");
    else if (!neoxi_is_file(t->path))
        result = sae_context_fail(ctx, SAE_ERR_NOT_FOUND, "neox_tokenizer_open: %s is not there",
                                  t->path);
    else result = neoxi_tokenizer_read(t);
    if (result == SAE_OK) *out = t;
    else neox_tokenizer_close(t);
    return result;
}

SAE_API void neox_tokenizer_close(neox_tokenizer *t) {
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
    neox_tokens_free(&t->before);
    neox_tokens_free(&t->after);
    neox_tokens_free(&t->symbols);
    neox_tokens_free(&t->word_ids);
    neox_text_free(&t->arena);
    neox_text_free(&t->normal);
    neox_text_free(&t->spaced);
    neox_text_free(&t->word_bytes);
    free(t);
}

SAE_API size_t neox_tokenizer_size(const neox_tokenizer *tokenizer) { return tokenizer->size; }

SAE_API void neox_tokens_free(neox_tokens *tokens) {
    free(tokens->id);
    memset(tokens, 0, sizeof *tokens);
}

SAE_API void neox_text_free(neox_text *text) {
    free(text->data);
    memset(text, 0, sizeof *text);
}

/* ==== >>neox: tokenizer: encode =============================================================== */

/* -- merging the symbols of a word -- */

/* Few symbols: the best pair is looked for each time. Returns how many are left. */
static size_t neoxi_merge_few(const neox_tokenizer *t, int32_t *id, size_t n) {
    neoxi_merge pair[NEOXI_CACHE_BYTES];
    for (size_t i = 0; i + 1 < n; i++) pair[i] = *neoxi_merge_slot(t, id[i], id[i + 1]);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i].left >= 0 && (best == SIZE_MAX || pair[i].rank < pair[best].rank)) best = i;
        if (best == SIZE_MAX) return n;
        id[best] = pair[best].made;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (n > best + 1) memmove(pair + best, pair + best + 1, (n - best - 1) * sizeof *pair);
        if (best + 1 < n) pair[best] = *neoxi_merge_slot(t, id[best], id[best + 1]);
        if (best > 0) pair[best - 1] = *neoxi_merge_slot(t, id[best - 1], id[best]);
    }
}

/* Many: a heap of pairs by rank, then place; entries whose pair is no more are passed over. */
typedef struct neoxi_entry {
    int32_t rank, left, right, made;
    uint32_t at;
} neoxi_entry;

typedef struct neoxi_link {
    uint32_t before, behind; /* UINT32_MAX: none */
} neoxi_link;

static bool neoxi_sooner(const neoxi_entry *a, const neoxi_entry *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void neoxi_heap_push(neoxi_entry *heap, size_t *count, const neoxi_entry *entry) {
    size_t i = (*count)++;
    for (; i > 0 && neoxi_sooner(entry, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = *entry;
}

static neoxi_entry neoxi_heap_pop(neoxi_entry *heap, size_t *count) {
    neoxi_entry top = heap[0], last = heap[--*count];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && neoxi_sooner(&heap[child + 1], &heap[child])) child++;
        if (!neoxi_sooner(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void neoxi_heap_pair(const neox_tokenizer *t, const int32_t *id, uint32_t at,
                            uint32_t behind, neoxi_entry *heap, size_t *count) {
    const neoxi_merge *m = neoxi_merge_slot(t, id[at], id[behind]);
    neoxi_entry entry;
    if (m->left < 0) return;
    entry.rank = m->rank;
    entry.left = m->left;
    entry.right = m->right;
    entry.made = m->made;
    entry.at = at;
    neoxi_heap_push(heap, count, &entry);
}

/* Returns how many are left; SIZE_MAX: no memory. At most 3 n entries: n - 1, and 2 a merge. */
static size_t neoxi_merge_many(neox_tokenizer *t, int32_t *id, size_t n) {
    size_t count = 0, kept = 0, room;
    neoxi_entry *heap;
    neoxi_link *link;
    if (n >= UINT32_MAX / 4 || !neoxi_mul(n, 3, &room)
        || !neoxi_grow(&t->heap, &t->heap_room, room, sizeof *heap)
        || !neoxi_grow(&t->links, &t->link_room, n, sizeof *link))
        return SIZE_MAX;
    heap = (neoxi_entry *)t->heap;
    link = (neoxi_link *)t->links;
    for (size_t i = 0; i < n; i++) {
        link[i].before = i ? (uint32_t)(i - 1) : UINT32_MAX;
        link[i].behind = i + 1 < n ? (uint32_t)(i + 1) : UINT32_MAX;
    }
    for (size_t i = 0; i + 1 < n; i++)
        neoxi_heap_pair(t, id, (uint32_t)i, (uint32_t)(i + 1), heap, &count);
    while (count) {
        neoxi_entry top = neoxi_heap_pop(heap, &count);
        uint32_t behind = link[top.at].behind;
        if (behind == UINT32_MAX || id[top.at] != top.left || id[behind] != top.right) continue;
        id[top.at] = top.made;
        id[behind] = -1;
        link[top.at].behind = link[behind].behind;
        if (link[behind].behind != UINT32_MAX) {
            link[link[behind].behind].before = top.at;
            neoxi_heap_pair(t, id, top.at, link[behind].behind, heap, &count);
        }
        if (link[top.at].before != UINT32_MAX)
            neoxi_heap_pair(t, id, link[top.at].before, top.at, heap, &count);
    }
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0) id[kept++] = id[i];
    return kept;
}

/* Characters without a token: the unknown token for each, or for a run of them, or nothing. */
static bool neoxi_symbols(neox_tokenizer *t, const unsigned char *s, size_t size) {
    bool unknown = false;
    t->symbols.count = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t id = t->byte_id[s[i]];
        if (id < 0) {
            if (t->unknown < 0 || (unknown && t->fuse_unknown)) continue;
            id = t->unknown;
            unknown = true;
        } else unknown = false;
        if (!neoxi_tokens_add(&t->symbols, id)) return false;
    }
    return true;
}

/* The word's ids, into symbols. */
static bool neoxi_merge_word(neox_tokenizer *t, const unsigned char *s, size_t size) {
    int32_t whole = t->ignore_merges ? neoxi_plain_find(t, (const char *)s, size) : -1;
    size_t n;
    if (whole >= 0) {
        t->symbols.count = 0;
        return neoxi_tokens_add(&t->symbols, whole);
    }
    if (!neoxi_symbols(t, s, size)) return false;
    n = t->symbols.count;
    n = n <= NEOXI_CACHE_BYTES ? neoxi_merge_few(t, t->symbols.id, n)
                               : neoxi_merge_many(t, t->symbols.id, n);
    if (n == SIZE_MAX) return false;
    t->symbols.count = n;
    return true;
}

static bool neoxi_ids_add(neox_tokens *out, const int32_t *id, size_t count) {
    if (!neoxi_grow((void **)&out->id, &out->capacity, out->count + count, sizeof *id))
        return false;
    if (count) memcpy(out->id + out->count, id, count * sizeof *id);
    out->count += count;
    return true;
}

/* Words seen before are looked up; where the table is full they are merged again. */
static bool neoxi_encode_word(neox_tokenizer *t, const unsigned char *s, size_t size,
                              neox_tokens *out) {
    uint64_t hash;
    size_t at, probes = 0;
    neoxi_word *w;
    if (size > NEOXI_CACHE_BYTES)
        return neoxi_merge_word(t, s, size) && neoxi_ids_add(out, t->symbols.id, t->symbols.count);
    hash = neoxi_hash(s, size);
    at = (size_t)hash & (2 * NEOXI_CACHE_WORDS - 1);
    for (w = &t->word[at]; w->size; w = &t->word[at]) {
        if (w->hash == hash && w->size == size
            && memcmp(t->word_bytes.data + w->at, s, size) == 0)
            return neoxi_ids_add(out, t->word_ids.id + w->first, w->count);
        at = (at + 1) & (2 * NEOXI_CACHE_WORDS - 1);
        if (++probes == 32) break;
    }
    if (!neoxi_merge_word(t, s, size)
        || !neoxi_ids_add(out, t->symbols.id, t->symbols.count))
        return false;
    if (w->size || t->words == NEOXI_CACHE_WORDS) return true;
    w->at = (uint32_t)t->word_bytes.size;
    w->first = (uint32_t)t->word_ids.count;
    w->count = (uint32_t)t->symbols.count;
    w->hash = hash;
    if (!neoxi_text_add(&t->word_bytes, s, size)
        || !neoxi_ids_add(&t->word_ids, t->symbols.id, t->symbols.count))
        return false;
    w->size = (uint32_t)size;
    t->words++;
    return true;
}

/* -- splitting -- */

/* Bytes of the characters of one class at s, at least 0. */
static size_t neoxi_run_of(const unsigned char *s, size_t left, int kind, size_t *last) {
    size_t at = 0, length;
    while (at < left && neoxi_class(neoxi_code(s + at, left - at, &length)) == kind) {
        if (last) *last = at;
        at += length;
    }
    return at;
}

/* Length of the next word, left > 0: GPT-2's
   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t neoxi_word_length(const unsigned char *s, size_t left) {
    size_t space = s[0] == ' ' && left > 1, length, last = 0, end;
    int kind;
    if (s[0] == '\'' && left > 1) {
        if (strchr("stmd", s[1]) && s[1]) return 2;
        if (left > 2 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e')
                         || (s[1] == 'l' && s[2] == 'l')))
            return 3;
    }
    kind = neoxi_class(neoxi_code(s + space, left - space, &length));
    if (kind != NEOXI_SPACE) return space + neoxi_run_of(s + space, left - space, kind, NULL);
    end = neoxi_run_of(s, left, NEOXI_SPACE, &last);
    return end == left || last == 0 ? end : last; /* the last one goes with the next word */
}

static bool neoxi_encode_words(neox_tokenizer *t, const unsigned char *s, size_t size,
                               neox_tokens *out) {
    if (t->prefix_space && size && s[0] != ' ') {
        t->spaced.size = 0;
        if (!neoxi_text_add(&t->spaced, " ", 1) || !neoxi_text_add(&t->spaced, s, size))
            return false;
        s = (const unsigned char *)t->spaced.data;
        size++;
    }
    while (size) {
        size_t length = t->no_regex ? size : neoxi_word_length(s, size);
        if (!neoxi_encode_word(t, s, length, out)) return false;
        s += length;
        size -= length;
    }
    return true;
}

/* The longest added token at s; NULL: none. */
static const neoxi_added *neoxi_added_at(const neox_tokenizer *t, bool normalized,
                                         const unsigned char *s, size_t left) {
    if (!t->starts[normalized][s[0]]) return NULL;
    for (size_t i = 0; i < t->num_added; i++) {
        const neoxi_added *a = &t->added[i];
        if (a->normalized == normalized && a->size <= left
            && memcmp(t->arena.data + a->at, s, a->size) == 0)
            return a;
    }
    return NULL;
}

/* Where the white space that ends at `end` begins, not before begin. */
static size_t neoxi_strip(const unsigned char *s, size_t begin, size_t end) {
    size_t at = begin, kept = begin, length;
    for (; at < end; at += length) {
        bool space = neoxi_class(neoxi_code(s + at, end - at, &length)) == NEOXI_SPACE;
        if (!space) kept = at + length;
    }
    return kept;
}

/* Cuts text at the added tokens of one kind; what lies between goes on: NFC and the other kind, or
   words. */
static bool neoxi_encode_text(neox_tokenizer *t, const unsigned char *s, size_t size,
                              bool normalized, neox_tokens *out) {
    size_t begin = 0, at = 0;
    for (;;) {
        const neoxi_added *a = NULL;
        size_t end;
        while (at < size && !(a = neoxi_added_at(t, normalized, s + at, size - at))) at++;
        end = a && a->lstrip ? neoxi_strip(s, begin, at) : at;
        if (end > begin) {
            if (normalized) {
                if (!neoxi_encode_words(t, s + begin, end - begin, out)) return false;
            } else if (!t->nfc) {
                if (!neoxi_encode_text(t, s + begin, end - begin, true, out)) return false;
            } else {
                t->normal.size = 0;
                if (!neoxi_nfc(s + begin, end - begin, &t->cluster, &t->normal)
                    || !neoxi_encode_text(t, (const unsigned char *)t->normal.data, t->normal.size,
                                          true, out))
                    return false;
            }
        }
        if (!a) return true;
        if (!neoxi_tokens_add(out, a->id)) return false;
        at += a->size;
        if (a->rstrip) at += neoxi_run_of(s + at, size - at, NEOXI_SPACE, NULL);
        begin = at;
    }
}

SAE_API sae_result neox_encode(neox_tokenizer *t, const char *text, size_t size,
                               neox_tokens *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!text && size))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "neox_encode: text and out may not be NULL");
    before = out->count;
    if (!neoxi_ids_add(out, t->before.id, t->before.count)
        || !neoxi_encode_text(t, (const unsigned char *)text, size, false, out)
        || !neoxi_ids_add(out, t->after.id, t->after.count)) {
        out->count = before;
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY,
                                "neox_encode: no memory for the tokens of %zu "
                                "bytes",
                                size);
    }
    return SAE_OK;
}

/* ==== >>neox: tokenizer: decode =============================================================== */

SAE_API const char *neox_token_bytes(const neox_tokenizer *t, int32_t id, size_t *size) {
    if (!t || id < 0 || (size_t)id >= t->size || !t->token[id].there) return NULL;
    if (size) *size = t->token[id].size;
    return t->arena.data + t->token[id].at;
}

SAE_API int32_t neox_token_find(const neox_tokenizer *t, const char *text, size_t size) {
    if (!t || !text) return -1;
    for (size_t i = 0; i < t->num_added; i++) {
        const neoxi_token *token = &t->token[t->added[i].id];
        if (token->size == size && memcmp(t->arena.data + token->at, text, size) == 0)
            return t->added[i].id;
    }
    return size ? neoxi_plain_find(t, text, size) : -1;
}

SAE_API sae_result neox_decode(const neox_tokenizer *t, const int32_t *ids, size_t count,
                               neox_text *out) {
    size_t before;
    if (!t) return SAE_ERR_INVALID;
    if (!out || (!ids && count))
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "neox_decode: ids and out may not be NULL");
    before = out->size;
    for (size_t i = 0; i < count; i++) {
        size_t size = 0;
        const char *bytes = neox_token_bytes(t, ids[i], &size);
        bool added = bytes && neoxi_text_add(out, bytes, size);
        if (added) continue;
        out->size = before;
        if (bytes) return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "neox_decode: no memory");
        return sae_context_fail(t->ctx, SAE_ERR_INVALID,
                                "neox_decode: ids[%zu] is %ld, which is no token's; "
                                "ids go from 0 to %zu",
                                i, (long)ids[i], t->size - 1);
    }
    if (count == 0 && !neoxi_text_add(out, "", 0))
        return sae_context_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "neox_decode: no memory");
    return SAE_OK;
}

/* ==== >>neox: contexts ======================================================================== */

SAE_API void neox_contexts_free(neox_contexts *contexts) {
    free(contexts->tokens);
    memset(contexts, 0, sizeof *contexts);
}

static sae_result neoxi_file_read(sae_context *ctx, const char *path, neox_text *out) {
    FILE *f = fopen(path, "rb");
    size_t got = 0;
    bool bad;
    if (!f)
        return sae_context_fail(ctx, SAE_ERR_NOT_FOUND, "neox_contexts_read: cannot open %s", path);
    do {
        out->size += got;
        if (!neoxi_grow((void **)&out->data, &out->capacity, out->size + 65536, 1)) {
            fclose(f);
            return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                                    "neox_contexts_read: no memory for %s", path);
        }
        got = fread(out->data + out->size, 1, 65536, f);
    } while (got);
    bad = ferror(f) != 0;
    fclose(f);
    if (bad) return sae_context_fail(ctx, SAE_ERR_IO, "neox_contexts_read: cannot read %s", path);
    return SAE_OK;
}

static bool neoxi_is_npy(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".npy") == 0;
}

/* Element i of a tensor of whole numbers, -1 for anything below 0; false: no such kind. */
static bool neoxi_whole(const sae_tensor *t, int64_t at, int64_t *out) {
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
static sae_result neoxi_ids_read(sae_context *ctx, const char *path, neox_tokens *out,
                                 size_t *width) {
    sae_tensor_file *file;
    const sae_tensor *t;
    sae_result result = SAE_OK;
    size_t rows, columns;
    NEOXI_TRY(sae_tensor_file_open(ctx, path, &file));
    t = sae_tensor_file_get(file, 0);
    if (!t || t->ndim < 1 || t->ndim > 2 || t->dtype < SAE_I8 || t->dtype > SAE_U64) {
        result = sae_context_fail(ctx, SAE_ERR_FORMAT,
                                  "neox_contexts_read: %s has %zu dimensions of %s, "
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
            neoxi_whole(t, (t->ndim == 2 ? (int64_t)r * t->stride[0] : 0)
                        + (int64_t)c * t->stride[t->ndim - 1], &id);
            if (id > INT32_MAX)
                result = sae_context_fail(ctx, SAE_ERR_FORMAT,
                                          "neox_contexts_read: %s: id %zu is larger than "
                                          "2^31 - 1",
                                          path, r * columns + c);
            else if (!neoxi_tokens_add(out, (int32_t)id))
                result =
                    sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "neox_contexts_read: no memory");
        }
    sae_tensor_file_close(file);
    return result;
}

/* The ids of one file into all, whole contexts of them. */
static sae_result neoxi_contexts_add(sae_context *ctx, neox_tokenizer *tokenizer, const char *path,
                                     size_t *length, neox_contexts *all, neox_tokens *kept) {
    neox_tokens ids = { NULL, 0, 0 };
    neox_text text = { NULL, 0, 0 };
    size_t width = 0, use;
    sae_result result;
    if (neoxi_is_npy(path)) result = neoxi_ids_read(ctx, path, &ids, &width);
    else if (!tokenizer)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "neox_contexts_read: %s is text, and tokenizer is NULL", path);
    else {
        result = neoxi_file_read(ctx, path, &text);
        if (result == SAE_OK) result = neox_encode(tokenizer, text.data, text.size, &ids);
    }
    if (result == SAE_OK && width && *length > 1 && width != *length)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "neox_contexts_read: %s has contexts of %zu tokens, "
                                  "wanted are %zu",
                                  path, width, *length);
    if (!*length) *length = width ? width : 128;
    if (result == SAE_OK) {
        use = ids.count / *length * *length;
        if (!neoxi_ids_add(kept, ids.id, use))
            result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "neox_contexts_read: no memory");
        all->contexts += use / *length;
        all->dropped += ids.count - use;
    }
    neox_tokens_free(&ids);
    neox_text_free(&text);
    return result;
}

SAE_API sae_result neox_contexts_read(sae_context *ctx, neox_tokenizer *tokenizer,
                                      const char *const *files, size_t num_files, size_t length,
                                      neox_contexts *out) {
    neox_contexts all = { NULL, 0, 0, 0 };
    neox_tokens kept = { NULL, 0, 0 };
    sae_result result = SAE_OK;
    if (!ctx || !files || !num_files || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "neox_contexts_read: num_files is %zu, files and out may "
                                "not be NULL, allowed is from 1",
                                num_files);
    for (size_t i = 0; i < num_files && result == SAE_OK; i++)
        result = neoxi_contexts_add(ctx, tokenizer, files[i], &length, &all, &kept);
    if (result == SAE_OK && !all.contexts)
        result = sae_context_fail(ctx, SAE_ERR_INVALID,
                                  "neox_contexts_read: %s%s has %zu tokens, wanted is at "
                                  "least one context of %zu",
                                  files[0], num_files > 1 ? ", ..." : "", all.dropped, length);
    if (result != SAE_OK) {
        neox_tokens_free(&kept);
        return result;
    }
    all.tokens = kept.id;
    all.ctx = length;
    *out = all;
    return SAE_OK;
}

/* ==== >>neox: source ========================================================================== */

struct neox_source {
    sae_context *ctx;
    neox_source_desc desc; /* its target, if there is one, is the one below */
    neox_site target;
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
static sae_result neoxi_source_keep(neox_source *s, float *x, size_t rows, size_t which) {
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
static sae_result neoxi_source_x(void *user, float *x, size_t rows, size_t dim) {
    (void)dim;
    return neoxi_source_keep((neox_source *)user, x, rows, 0);
}
static sae_result neoxi_source_target(void *user, float *x, size_t rows, size_t dim) {
    (void)dim;
    return neoxi_source_keep((neox_source *)user, x, rows, 1);
}

/* The next batch of contexts through the model; 0 contexts: the end. */
static sae_result neoxi_source_run(neox_source *s) {
    neox_hook hook[2];
    neox_forward_desc run;
    s->count = s->given = 0;
    if (s->desc.read) {
        int64_t got = s->desc.read(s->desc.user, s->tokens, s->desc.batch);
        if (got < 0) return (sae_result)got;
        s->contexts = neoxi_min((size_t)got, s->desc.batch);
        s->batch = s->tokens;
    } else {
        s->contexts = (size_t)neoxi_min((size_t)(s->desc.contexts - s->seen), s->desc.batch);
        s->batch = s->desc.tokens + s->seen * s->desc.ctx;
    }
    if (!s->contexts) return SAE_OK;
    memset(&run, 0, sizeof run);
    memset(hook, 0, sizeof hook);
    hook[0].site = s->desc.site;
    hook[0].call = neoxi_source_x;
    if (s->desc.target) hook[1].site = *s->desc.target;
    hook[1].call = neoxi_source_target;
    hook[0].user = hook[1].user = s;
    run.tokens = s->batch;
    run.contexts = s->contexts;
    run.ctx = s->desc.ctx;
    run.hooks = hook;
    run.num_hooks = s->desc.target ? 2 : 1;
    NEOXI_TRY(neox_forward(s->desc.model, &run));
    s->seen += s->contexts;
    return SAE_OK;
}

static int64_t neoxi_source_read(void *user, float *x, float *target, size_t max_rows) {
    neox_source *s = (neox_source *)user;
    size_t n;
    while (s->given == s->count) { /* a batch may have nothing but padding */
        sae_result result = neoxi_source_run(s);
        if (result != SAE_OK) return result;
        if (!s->contexts) return 0;
    }
    n = neoxi_min(max_rows, s->count - s->given);
    memcpy(x, s->rows[0] + s->given * s->dim, n * s->dim * sizeof *x);
    if (target && s->desc.target)
        memcpy(target, s->rows[1] + s->given * s->dim, n * s->dim * sizeof *x);
    s->served = s->given;
    s->given += n;
    return (int64_t)n;
}

static sae_result neoxi_source_rewind(void *user) {
    neox_source *s = (neox_source *)user;
    if (s->desc.read) {
        if (!s->desc.rewind)
            return sae_context_fail(s->ctx, SAE_ERR_UNSUPPORTED,
                                    "neox_source: its read has no rewind");
        NEOXI_TRY(s->desc.rewind(s->desc.user));
    }
    s->seen = 0;
    s->count = s->given = s->served = 0;
    return SAE_OK;
}

SAE_API sae_result neox_source_create(sae_context *ctx, const neox_source_desc *desc,
                                      neox_source **out) {
    neox_source *s;
    size_t rows, floats, target;
    if (!ctx || !desc || !out || !desc->model || !desc->ctx || !desc->read == !desc->tokens
        || (desc->tokens && !desc->contexts))
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "neox_source_create: contexts is %zu, ctx is %zu, "
                                "allowed are a model, sizes from 1, and one of tokens and read",
                                desc ? desc->contexts : 0, desc ? desc->ctx : 0);
    target = desc->target ? neox_site_dim(desc->model, *desc->target) : 0;
    if (desc->target && target != neox_site_dim(desc->model, desc->site))
        return sae_context_fail(ctx, SAE_ERR_MISMATCH,
                                "neox_source_create: site has %zu dimensions, target "
                                "%zu; both must be the same",
                                neox_site_dim(desc->model, desc->site), target);
    s = (neox_source *)calloc(1, sizeof *s);
    if (!s) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "neox_source_create: no memory");
    s->ctx = ctx;
    s->desc = *desc;
    if (desc->target) s->target = *desc->target, s->desc.target = &s->target;
    s->dim = neox_site_dim(desc->model, desc->site);
    if (!s->desc.batch) s->desc.batch = neoxi_max(1, 2048 / desc->ctx);
    if (desc->tokens) s->desc.batch = neoxi_min(s->desc.batch, desc->contexts);
    if (neoxi_mul(s->desc.batch, desc->ctx, &rows) && neoxi_mul(rows, s->dim, &floats)
        && floats <= SIZE_MAX / sizeof(float) && rows <= SIZE_MAX / sizeof(uint64_t)) {
        s->rows[0] = (float *)malloc(floats * sizeof(float));
        if (desc->target) s->rows[1] = (float *)malloc(floats * sizeof(float));
        s->place = (uint64_t *)malloc(rows * sizeof *s->place);
        if (desc->read) s->tokens = (int32_t *)malloc(rows * sizeof *s->tokens);
    }
    if (!s->rows[0] || (desc->target && !s->rows[1]) || !s->place || (desc->read && !s->tokens)) {
        sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "neox_source_create: no memory for batches of %zu "
                         "contexts of %zu tokens",
                         s->desc.batch, desc->ctx);
        neox_source_destroy(s);
        return SAE_ERR_OUT_OF_MEMORY;
    }
    *out = s;
    return SAE_OK;
}

SAE_API void neox_source_destroy(neox_source *s) {
    if (!s) return;
    free(s->tokens);
    free(s->rows[0]);
    free(s->rows[1]);
    free(s->place);
    free(s);
}

SAE_API sae_source_desc neox_source_rows(neox_source *s) {
    sae_source_desc source;
    memset(&source, 0, sizeof source);
    source.read = neoxi_source_read;
    source.rewind = s->desc.read && !s->desc.rewind ? NULL : neoxi_source_rewind;
    source.has_target = s->desc.target != NULL;
    source.dim = s->dim;
    source.user = s;
    return source;
}

SAE_API uint64_t neox_source_place(const neox_source *s, size_t row) {
    return s->place[s->served + row];
}

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif

#elif defined(NEOXI_KERNEL_PASS) /* the body of >>neox: kernels, once for each instruction set */

/* ==== >>neox: kernels: the body, once for each instruction set ================================ */

#define neoxi_v NEOXI_FN(neoxi_v)
#define neoxi_vload NEOXI_FN(neoxi_vload)
#define neoxi_vstore NEOXI_FN(neoxi_vstore)
#define neoxi_vset NEOXI_FN(neoxi_vset)
#define neoxi_vfma NEOXI_FN(neoxi_vfma)
#define neoxi_vmul NEOXI_FN(neoxi_vmul)
#define neoxi_vadd NEOXI_FN(neoxi_vadd)
#define neoxi_vsub NEOXI_FN(neoxi_vsub)
#define neoxi_vdiv NEOXI_FN(neoxi_vdiv)
#define neoxi_vmin NEOXI_FN(neoxi_vmin)
#define neoxi_vmax NEOXI_FN(neoxi_vmax)
#define neoxi_vpower NEOXI_FN(neoxi_vpower)
#define neoxi_vsum NEOXI_FN(neoxi_vsum)
#define neoxi_vexp NEOXI_FN(neoxi_vexp)
#define neoxi_verf NEOXI_FN(neoxi_verf)
#define neoxi_vact NEOXI_FN(neoxi_vact)
#define neoxi_vpart NEOXI_FN(neoxi_vpart)
#define neoxi_block NEOXI_FN(neoxi_block)
#define neoxi_softmax NEOXI_FN(neoxi_softmax)

/* min and max give b where a or b is NaN or both are zeros, as the instructions do. power: of
   1.5 2^23 + n the number 2^n. */
#if NEOXI_KERNEL_PASS == 3

typedef __m512 neoxi_v;
static inline neoxi_v neoxi_vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void neoxi_vstore(float *p, neoxi_v a) { _mm512_storeu_ps(p, a); }
static inline neoxi_v neoxi_vset(float a) { return _mm512_set1_ps(a); }
static inline neoxi_v neoxi_vfma(neoxi_v a, neoxi_v b, neoxi_v c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline neoxi_v neoxi_vmul(neoxi_v a, neoxi_v b) { return _mm512_mul_ps(a, b); }
static inline neoxi_v neoxi_vadd(neoxi_v a, neoxi_v b) { return _mm512_add_ps(a, b); }
static inline neoxi_v neoxi_vsub(neoxi_v a, neoxi_v b) { return _mm512_sub_ps(a, b); }
static inline neoxi_v neoxi_vdiv(neoxi_v a, neoxi_v b) { return _mm512_div_ps(a, b); }
/* maskz with a full mask: GCC 12 warns of an undefined operand in the plain forms */
static inline neoxi_v neoxi_vmin(neoxi_v a, neoxi_v b) {
    return _mm512_maskz_min_ps(0xFFFF, a, b);
}
static inline neoxi_v neoxi_vmax(neoxi_v a, neoxi_v b) {
    return _mm512_maskz_max_ps(0xFFFF, a, b);
}
static inline neoxi_v neoxi_vpower(neoxi_v a) {
    __m512i n = _mm512_maskz_slli_epi32(0xFFFF, _mm512_castps_si512(a), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3F800000)));
}

#elif NEOXI_KERNEL_PASS == 2

typedef struct neoxi_v {
    __m256 a, b;
} neoxi_v;
static inline neoxi_v neoxi_vload(const float *p) {
    neoxi_v r;
    r.a = _mm256_loadu_ps(p);
    r.b = _mm256_loadu_ps(p + 8);
    return r;
}
static inline void neoxi_vstore(float *p, neoxi_v x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline neoxi_v neoxi_vset(float a) {
    neoxi_v r;
    r.a = r.b = _mm256_set1_ps(a);
    return r;
}
static inline neoxi_v neoxi_vfma(neoxi_v x, neoxi_v y, neoxi_v z) {
    z.a = _mm256_fmadd_ps(x.a, y.a, z.a);
    z.b = _mm256_fmadd_ps(x.b, y.b, z.b);
    return z;
}
#define NEOXI_LANES(fn, op)                                                                        \
    static inline neoxi_v fn(neoxi_v x, neoxi_v y) {                                               \
        x.a = op(x.a, y.a);                                                                        \
        x.b = op(x.b, y.b);                                                                        \
        return x;                                                                                  \
    }
NEOXI_LANES(neoxi_vmul, _mm256_mul_ps)
NEOXI_LANES(neoxi_vadd, _mm256_add_ps)
NEOXI_LANES(neoxi_vsub, _mm256_sub_ps)
NEOXI_LANES(neoxi_vdiv, _mm256_div_ps)
NEOXI_LANES(neoxi_vmin, _mm256_min_ps)
NEOXI_LANES(neoxi_vmax, _mm256_max_ps)
#undef NEOXI_LANES
static inline neoxi_v neoxi_vpower(neoxi_v x) {
    __m256i one = _mm256_set1_epi32(0x3F800000);
    __m256i a = _mm256_slli_epi32(_mm256_castps_si256(x.a), 23);
    __m256i b = _mm256_slli_epi32(_mm256_castps_si256(x.b), 23);
    x.a = _mm256_castsi256_ps(_mm256_add_epi32(a, one));
    x.b = _mm256_castsi256_ps(_mm256_add_epi32(b, one));
    return x;
}

#else

typedef struct neoxi_v {
    float f[16];
} neoxi_v;
static inline neoxi_v neoxi_vload(const float *p) {
    neoxi_v r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
static inline void neoxi_vstore(float *p, neoxi_v x) { memcpy(p, x.f, sizeof x.f); }
#define NEOXI_LANES(head, expression)                                                              \
    static inline neoxi_v head {                                                                   \
        neoxi_v r;                                                                                 \
        for (int i = 0; i < 16; i++) r.f[i] = expression;                                          \
        return r;                                                                                  \
    }
NEOXI_LANES(neoxi_vset(float a), a)
NEOXI_LANES(neoxi_vfma(neoxi_v x, neoxi_v y, neoxi_v z), fmaf(x.f[i], y.f[i], z.f[i]))
NEOXI_LANES(neoxi_vmul(neoxi_v x, neoxi_v y), x.f[i] * y.f[i])
NEOXI_LANES(neoxi_vadd(neoxi_v x, neoxi_v y), x.f[i] + y.f[i])
NEOXI_LANES(neoxi_vsub(neoxi_v x, neoxi_v y), x.f[i] - y.f[i])
NEOXI_LANES(neoxi_vdiv(neoxi_v x, neoxi_v y), x.f[i] / y.f[i])
NEOXI_LANES(neoxi_vmin(neoxi_v x, neoxi_v y), x.f[i] < y.f[i] ? x.f[i] : y.f[i])
NEOXI_LANES(neoxi_vmax(neoxi_v x, neoxi_v y), x.f[i] > y.f[i] ? x.f[i] : y.f[i])
#undef NEOXI_LANES
static inline neoxi_v neoxi_vpower(neoxi_v x) {
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, &x.f[i], sizeof bits);
        bits = (bits << 23) + 0x3F800000u;
        memcpy(&x.f[i], &bits, sizeof bits);
    }
    return x;
}

#endif

/* Lanes 8, 4, 2, 1 apart, in double. */
static double neoxi_vsum(neoxi_v a) {
    double sum[16];
    float f[16];
    neoxi_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

/* The first n < 16 of p, the other lanes rest. */
static neoxi_v neoxi_vpart(const float *p, size_t n, float rest) {
    float f[16];
    for (size_t i = 0; i < 16; i++) f[i] = i < n ? p[i] : rest;
    return neoxi_vload(f);
}

/* e^x in float, about 1 unit in the last place; below -87 that of -87 (1.6e-38), above 88 that of
   88: x = n ln2 + r, Taylor to r^7. */
static inline neoxi_v neoxi_vexp(neoxi_v x) {
    const neoxi_v magic = neoxi_vset(12582912.0f);
    neoxi_v n, r, y;
    x = neoxi_vmin(neoxi_vmax(x, neoxi_vset(-87.0f)), neoxi_vset(88.0f));
    n = neoxi_vfma(x, neoxi_vset(1.44269504f), magic);
    r = neoxi_vsub(n, magic);
    x = neoxi_vfma(r, neoxi_vset(-0.693359375f), x);
    r = neoxi_vfma(r, neoxi_vset(2.12194440e-4f), x);
    y = neoxi_vset(1.0f / 5040);
    y = neoxi_vfma(y, r, neoxi_vset(1.0f / 720));
    y = neoxi_vfma(y, r, neoxi_vset(1.0f / 120));
    y = neoxi_vfma(y, r, neoxi_vset(1.0f / 24));
    y = neoxi_vfma(y, r, neoxi_vset(1.0f / 6));
    y = neoxi_vfma(y, r, neoxi_vset(0.5f));
    y = neoxi_vfma(y, r, neoxi_vset(1));
    y = neoxi_vfma(y, r, neoxi_vset(1));
    return neoxi_vmul(y, neoxi_vpower(n));
}

/* erf z = z P(z^2) / Q(z^2), fitted to 2e-8 of it for |z| <= 3.92 (beyond, erf is 1 in float); with
   the rounding 4e-7. */
static inline neoxi_v neoxi_verf(neoxi_v z) {
    static const float P[] = { 2.0500785922195064e-06f, 0.00028488485259003937f,
                               0.003765694098547101f, 0.05274895951151848f, 0.19040821492671967f,
                               1.1283791065216064f };
    static const float Q[] = { 3.8091737224021927e-05f, 0.0011625549523159862f,
                               0.014969369396567345f, 0.1141098365187645f, 0.5020776391029358f,
                               1.0f };
    neoxi_v t, p = neoxi_vset(P[0]), q = neoxi_vset(Q[0]);
    z = neoxi_vmin(neoxi_vmax(z, neoxi_vset(-3.92f)), neoxi_vset(3.92f));
    t = neoxi_vmul(z, z);
    for (int i = 1; i < 6; i++) {
        p = neoxi_vfma(p, t, neoxi_vset(P[i]));
        q = neoxi_vfma(q, t, neoxi_vset(Q[i]));
    }
    z = neoxi_vdiv(neoxi_vmul(z, p), q);
    return neoxi_vmin(neoxi_vmax(z, neoxi_vset(-1)), neoxi_vset(1));
}

static inline neoxi_v neoxi_vact(neoxi_act act, neoxi_v x) {
    const neoxi_v one = neoxi_vset(1), zero = neoxi_vset(0);
    neoxi_v y = x;
    switch (act) {
    case NEOXI_GELU: /* x (1 + erf(x / sqrt 2)) / 2 */
        y = neoxi_verf(neoxi_vmul(x, neoxi_vset(0.70710678118f)));
        return neoxi_vmul(neoxi_vmul(x, neoxi_vset(0.5f)), neoxi_vadd(one, y));
    case NEOXI_GELU_TANH: /* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)) */
        y = neoxi_vfma(neoxi_vmul(x, x), neoxi_vset(0.044715f), one);
        y = neoxi_vmul(neoxi_vmul(x, y), neoxi_vset(-1.5957691216f));
        return neoxi_vdiv(x, neoxi_vadd(one, neoxi_vexp(y)));
    case NEOXI_GELU_QUICK:
        return neoxi_vdiv(x, neoxi_vadd(one, neoxi_vexp(neoxi_vmul(x, neoxi_vset(-1.702f)))));
    case NEOXI_SILU:
        return neoxi_vdiv(x, neoxi_vadd(one, neoxi_vexp(neoxi_vsub(zero, x))));
    case NEOXI_RELU: return neoxi_vmax(x, zero);
    case NEOXI_RELU2:
        y = neoxi_vmax(x, zero);
        return neoxi_vmul(y, y);
    case NEOXI_LINEAR: break;
    }
    return y;
}

static void NEOXI_FN(neoxi_activate)(neoxi_act act, size_t n, float *x) {
    size_t i = 0;
    if (act == NEOXI_GELU) /* the one that matters, without the switch inside */
        for (; i + 16 <= n; i += 16)
            neoxi_vstore(x + i, neoxi_vact(NEOXI_GELU, neoxi_vload(x + i)));
    for (; i + 16 <= n; i += 16) neoxi_vstore(x + i, neoxi_vact(act, neoxi_vload(x + i)));
    if (i < n) {
        float f[16];
        neoxi_vstore(f, neoxi_vact(act, neoxi_vpart(x + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void NEOXI_FN(neoxi_add)(size_t n, const float *a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        neoxi_vstore(out + i, neoxi_vadd(neoxi_vload(a + i), neoxi_vload(x + i)));
    for (; i < n; i++) out[i] = a[i] + x[i];
}

static void NEOXI_FN(neoxi_norm)(size_t n, const float *x, const float *weight, const float *bias,
                                 double eps, float *out) {
    neoxi_v sum = neoxi_vset(0), square = neoxi_vset(0), mean, factor;
    size_t whole = n / 16 * 16, i;
    float m, f;
    for (i = 0; i < whole; i += 16) sum = neoxi_vadd(sum, neoxi_vload(x + i));
    if (i < n) sum = neoxi_vadd(sum, neoxi_vpart(x + i, n - i, 0));
    m = (float)(neoxi_vsum(sum) / (double)n);
    mean = neoxi_vset(m);
    for (i = 0; i < whole; i += 16) {
        neoxi_v d = neoxi_vsub(neoxi_vload(x + i), mean);
        square = neoxi_vfma(d, d, square);
    }
    if (i < n) {
        neoxi_v d = neoxi_vsub(neoxi_vpart(x + i, n - i, m), mean);
        square = neoxi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(neoxi_vsum(square) / (double)n + eps));
    factor = neoxi_vset(f);
    for (i = 0; i < whole; i += 16) {
        neoxi_v d = neoxi_vmul(neoxi_vsub(neoxi_vload(x + i), mean), factor);
        neoxi_vstore(out + i, neoxi_vfma(d, neoxi_vload(weight + i), neoxi_vload(bias + i)));
    }
    for (; i < n; i++) out[i] = fmaf((x[i] - m) * f, weight[i], bias[i]);
}

/* Sums of 1024 floats in 16 lanes, these in double. */
static double NEOXI_FN(neoxi_sum_exp)(size_t n, const float *x, float *largest) {
    neoxi_v most = neoxi_vset(x[0]), high;
    float f[16];
    double sum = 0;
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) most = neoxi_vmax(neoxi_vload(x + i), most);
    if (i < n) most = neoxi_vmax(neoxi_vpart(x + i, n - i, x[0]), most);
    neoxi_vstore(f, most);
    *largest = f[0];
    for (int j = 1; j < 16; j++)
        if (f[j] > *largest) *largest = f[j];
    high = neoxi_vset(*largest);
    for (size_t at = 0; at < n; at += 1024) {
        size_t end = at + 1024 < n ? at + 1024 : n;
        neoxi_v s = neoxi_vset(0);
        for (i = at; i + 16 <= end; i += 16)
            s = neoxi_vadd(s, neoxi_vexp(neoxi_vsub(neoxi_vload(x + i), high)));
        sum += neoxi_vsum(s);
    }
    for (i = n / 16 * 16; i < n; i++) {
        neoxi_vstore(f, neoxi_vexp(neoxi_vset(x[i] - *largest)));
        sum += (double)f[0];
    }
    return sum;
}

/* out [8][32] at ld_out = sum over k < n of a[r][k] b[k][0..32): one chain of fma each. */
#if NEOXI_KERNEL_PASS == 3
static void neoxi_block(const float *const a[NEOXI_ROWS], size_t n, const float *b, size_t ld_b,
                        float *out, size_t ld_out) {
#define NEOXI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define NEOXI_BEGIN(i)                                                                             \
    const float *a##i = a[i];                                                                      \
    neoxi_v s##i = neoxi_vset(0), t##i = neoxi_vset(0);
#define NEOXI_STEP(i)                                                                              \
    {                                                                                              \
        neoxi_v v = neoxi_vset(a##i[k]);                                                           \
        s##i = neoxi_vfma(v, low, s##i);                                                           \
        t##i = neoxi_vfma(v, high, t##i);                                                          \
    }
#define NEOXI_END(i)                                                                               \
    neoxi_vstore(out + i * ld_out, s##i);                                                          \
    neoxi_vstore(out + i * ld_out + 16, t##i);
    NEOXI_ALL(NEOXI_BEGIN)
    for (size_t k = 0; k < n; k++, b += ld_b) {
        neoxi_v low = neoxi_vload(b), high = neoxi_vload(b + 16);
        NEOXI_ALL(NEOXI_STEP)
    }
    NEOXI_ALL(NEOXI_END)
#undef NEOXI_ALL
#undef NEOXI_BEGIN
#undef NEOXI_STEP
#undef NEOXI_END
}
#else
static void neoxi_block(const float *const a[NEOXI_ROWS], size_t n, const float *b, size_t ld_b,
                        float *out, size_t ld_out) {
    for (size_t r = 0; r < NEOXI_ROWS; r += 4)
        for (size_t c = 0; c < NEOXI_COLUMNS; c += 16) {
            neoxi_v s0 = neoxi_vset(0), s1 = s0, s2 = s0, s3 = s0;
            for (size_t k = 0; k < n; k++) {
                neoxi_v v = neoxi_vload(b + k * ld_b + c);
                s0 = neoxi_vfma(neoxi_vset(a[r][k]), v, s0);
                s1 = neoxi_vfma(neoxi_vset(a[r + 1][k]), v, s1);
                s2 = neoxi_vfma(neoxi_vset(a[r + 2][k]), v, s2);
                s3 = neoxi_vfma(neoxi_vset(a[r + 3][k]), v, s3);
            }
            neoxi_vstore(out + r * ld_out + c, s0);
            neoxi_vstore(out + (r + 1) * ld_out + c, s1);
            neoxi_vstore(out + (r + 2) * ld_out + c, s2);
            neoxi_vstore(out + (r + 3) * ld_out + c, s3);
        }
}
#endif

/* p[j] = exp(scale (p[j] - max)) over the first n, zeros up to wide (a multiple of 16); returns
   their sum. */
static float neoxi_softmax(float *p, size_t n, size_t wide, float scale) {
    neoxi_v most, sum = neoxi_vset(0), s = neoxi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = n; j < wide; j++) p[j] = p[0];
    most = neoxi_vload(p);
    for (j = 16; j < wide; j += 16) most = neoxi_vmax(neoxi_vload(p + j), most);
    neoxi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = neoxi_vset(m);
    for (j = 0; j + 16 <= n; j += 16) {
        neoxi_v e = neoxi_vexp(neoxi_vmul(s, neoxi_vsub(neoxi_vload(p + j), most)));
        sum = neoxi_vadd(sum, e);
        neoxi_vstore(p + j, e);
    }
    if (j < n) {
        neoxi_v e = neoxi_vexp(neoxi_vmul(s, neoxi_vsub(neoxi_vload(p + j), most)));
        neoxi_vstore(f, e);
        e = neoxi_vpart(f, n - j, 0);
        sum = neoxi_vadd(sum, e);
        neoxi_vstore(p + j, e);
        j += 16;
    }
    for (; j < wide; j++) p[j] = 0;
    return (float)neoxi_vsum(sum);
}

/* Causal attention, 8 queries at a time; keys behind the last of them are not looked at. */
static void NEOXI_FN(neoxi_attend)(const neoxi_head *h) {
    size_t wide = neoxi_round(h->ctx), deep = neoxi_round(h->head_dim), d = h->head_dim;
    float *keys = h->scratch, *values = keys + d * wide, *p = values + h->ctx * deep;
    float *mixed = p + NEOXI_ROWS * wide;
    for (size_t t = 0; t < wide; t++)
        for (size_t c = 0; c < d; c++)
            keys[c * wide + t] = t < h->ctx ? h->k[t * h->stride + c] : 0;
    for (size_t t = 0; t < h->ctx; t++)
        for (size_t c = 0; c < deep; c++)
            values[t * deep + c] = c < d ? h->v[t * h->stride + c] : 0;
    for (size_t i = 0; i < h->ctx; i += NEOXI_ROWS) {
        size_t rows = neoxi_min(h->ctx - i, NEOXI_ROWS), seen = i + rows;
        const float *at[NEOXI_ROWS];
        float sum[NEOXI_ROWS];
        for (size_t r = 0; r < NEOXI_ROWS; r++)
            at[r] = h->q + (i + (r < rows ? r : rows - 1)) * h->stride;
        for (size_t j = 0; j < seen; j += NEOXI_COLUMNS)
            neoxi_block(at, d, keys + j, wide, p + j, wide);
        for (size_t r = 0; r < rows; r++)
            sum[r] = neoxi_softmax(p + r * wide, i + r + 1, neoxi_round(seen), h->scale);
        for (size_t r = 0; r < NEOXI_ROWS; r++) at[r] = p + (r < rows ? r : rows - 1) * wide;
        for (size_t c = 0; c < d; c += NEOXI_COLUMNS)
            neoxi_block(at, seen, values + c, deep, mixed + c, deep);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < d; c++)
                h->out[(i + r) * h->out_stride + c] = mixed[r * deep + c] / sum[r];
    }
}

#undef neoxi_v
#undef neoxi_vload
#undef neoxi_vstore
#undef neoxi_vset
#undef neoxi_vfma
#undef neoxi_vmul
#undef neoxi_vadd
#undef neoxi_vsub
#undef neoxi_vdiv
#undef neoxi_vmin
#undef neoxi_vmax
#undef neoxi_vpower
#undef neoxi_vsum
#undef neoxi_vexp
#undef neoxi_verf
#undef neoxi_vact
#undef neoxi_vpart
#undef neoxi_block
#undef neoxi_softmax

#endif /* NEOXI_KERNEL_PASS */
#endif /* NEOX_IMPLEMENTATION */
