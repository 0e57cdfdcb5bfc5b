#pragma once
#include "base.h"

/* ==== >>api: core ============================================================================= */
/* For programs that load a dictionary, encode, decode and steer. Rules for every part
   of the API: a call that can fail returns a sae_result; sae_error() has the sentence with the
   function, the field, the value given and the values allowed. After a failure arrays for results
   are unspecified, all other out-parameters untouched. A NULL object is SAE_ERR_INVALID to such
   calls, nothing to do for destroy, close and free; other getters want a live one. A desc begins as
   zeros (`= {0}` in C, `= {}` in C++); zero means the default. */

#define SAE_RESULTS(X)                                                                             \
    X(SAE_OK, 0, "ok")                                                                             \
    X(SAE_ERR_INVALID, -1, "a value that is not allowed")                                          \
    X(SAE_ERR_MISMATCH, -2, "shapes that disagree")                                                \
    X(SAE_ERR_NOT_FINITE, -3, "NaN or infinite activations")                                       \
    X(SAE_ERR_OUT_OF_MEMORY, -4, "the allocator gave no memory")                                   \
    X(SAE_ERR_NOT_FOUND, -5, "no such file or folder")                                             \
    X(SAE_ERR_IO, -6, "reading or writing failed")                                                 \
    X(SAE_ERR_FORMAT, -7, "a file that is damaged or not what it says")                            \
    X(SAE_ERR_UNSUPPORTED, -8, "a file or request outside what is supported")                      \
    X(SAE_ERR_END_OF_DATA, -9, "the source has no more rows")                                      \
    X(SAE_ERR_CANCELLED, -10, "a callback asked to stop")                                          \
    X(SAE_ERR_BACKEND, -11, "the backend failed")

typedef enum sae_result {
#define SAE_X(name, value, text) name = value,
    SAE_RESULTS(SAE_X)
#undef SAE_X
} sae_result;

SAE_API const char *sae_result_name(sae_result result);
SAE_API const char *sae_version(void); /* SAE_VERSION where the library was compiled */

/* ---- context ---- */

/* What the other objects share. One thread at a time may create, load or train with it; inference
   on a const dictionary is safe from any number of threads. Objects go before their context. */
typedef struct sae_context sae_context;

typedef struct sae_allocator { /* called from any thread; free never with NULL */
    void *(*alloc)(size_t size, void *user); /* NULL: no memory; aligned for any type */
    void (*free)(void *memory, void *user);
    void *user;
} sae_allocator;

typedef enum sae_log_level { SAE_LOG_ERROR, SAE_LOG_WARNING, SAE_LOG_INFO } sae_log_level;

typedef struct sae_logger {
    /* From any thread. result: of an error; SAE_OK with the other levels. */
    void (*log)(sae_log_level level, sae_result result, const char *message, void *user);
    void *user;
} sae_logger;

/* The caller's threads. run calls fn(arg, part, worker) once for every part < parts, in any order
   and on any threads, and returns when all have returned. worker is below the desc's `threads`, and
   no two parts that one run has at work at a time share it: a busy pool may do all parts on its
   caller as worker 0. run is called from several threads at once, and from inside a part. */
typedef void (*sae_part_fn)(void *arg, size_t part, size_t worker);
typedef struct sae_pool {
    void (*run)(size_t parts, sae_part_fn fn, void *arg, void *user);
    void *user;
} sae_pool;

typedef struct sae_io sae_io;           /* >>api: files */
typedef struct sae_backend sae_backend; /* >>backend */

typedef struct sae_context_desc {
    sae_allocator allocator;    /* default: malloc and free */
    sae_logger logger;          /* default: silent */
    sae_pool pool;              /* default: OpenMP where sae.h is compiled with it, else the calling
                                   thread alone */
    int threads;                /* at most 1024; default: all (OpenMP's choice). Required with a
                                   pool: the number of its workers. No result depends on it */
    const sae_io *io;           /* copied; default: the system's files, mapped (with SAE_NO_STDIO:
                                   memory alone) */
    const sae_backend *backend; /* of training and sessions; default: the CPU */
    const void *backend_desc;   /* for it, for example a sae_cuda_desc; must outlive ctx */
    const char *instruction_set; /* default: the best this CPU has; "portable", "avx2", "avx512",
                                    "avx512vnni" or "neon" forces one. No result depends on it */
} sae_context_desc;

/* desc may be NULL. Errors, which only desc->logger can explain: SAE_ERR_INVALID,
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_context_create(const sae_context_desc *desc, sae_context **out);
SAE_API void sae_context_destroy(sae_context *ctx);

/* About the last failed call, "" if none failed; valid until the next failure. Where several
   threads may fail at once, take a copy (cut to size, NUL-terminated). */
SAE_API const char *sae_error(const sae_context *ctx);
SAE_API void sae_error_copy(const sae_context *ctx, char *out, size_t size);

/* ---- what a dictionary is ---- */

/* dictionary_learning's classes. All decode as x_hat = sum_i f_i W_dec[i] + b_dec. Encode:
     STANDARD      f = relu(W_enc (x - b_dec) + b_enc)                               AutoEncoder
     STANDARD_NEW  f = relu(W_enc x + b_enc)                                         AutoEncoderNew
     GATED         u = W_enc (x - b_dec); f = [u + gate_bias > 0] relu(exp(r_mag) u + mag_bias)
     TOP_K         p = relu(W_enc (x - b_dec) + b_enc); the k largest of the row     AutoEncoderTopK
     BATCH_TOP_K   the same p; p where p > threshold                                 BatchTopKSAE
     MATRYOSHKA    as BATCH_TOP_K; latents past the active groups are 0    MatryoshkaBatchTopKSAE
     JUMP_RELU     p = W_enc x + b_enc; f = relu(p [p > threshold_i])           JumpReluAutoEncoder
     IDENTITY      f = x, x_hat = f                                                  IdentityDict
   Other programs' dictionaries are one of these with variations (see the desc), or
     MATCHING_PURSUIT   SAELens' matching_pursuit, which has neither W_enc nor b_enc: r = x - b_dec;
                   then again and again, of the i with the largest v = relu(r.W_dec[i]): f_i += v,
                   r -= v W_dec[i]. A row ends after max_iterations, where norm(r) <
                   residual_threshold, or where the same latents are not 0 as the time before */
#define SAE_ARCHS(X)                                                                               \
    X(SAE_ARCH_STANDARD, 1, "AutoEncoder")                                                         \
    X(SAE_ARCH_STANDARD_NEW, 2, "AutoEncoderNew")                                                  \
    X(SAE_ARCH_GATED, 3, "GatedAutoEncoder")                                                       \
    X(SAE_ARCH_TOP_K, 4, "AutoEncoderTopK")                                                        \
    X(SAE_ARCH_BATCH_TOP_K, 5, "BatchTopKSAE")                                                     \
    X(SAE_ARCH_MATRYOSHKA, 6, "MatryoshkaBatchTopKSAE")                                            \
    X(SAE_ARCH_JUMP_RELU, 7, "JumpReluAutoEncoder")                                                \
    X(SAE_ARCH_IDENTITY, 8, "IdentityDict")                                                        \
    X(SAE_ARCH_MATCHING_PURSUIT, 9, "MatchingPursuitSAE")

typedef enum sae_arch {
    SAE_ARCH_DEFAULT = 0, /* where a desc may leave it open */
#define SAE_X(name, value, text) name = value,
    SAE_ARCHS(SAE_X)
#undef SAE_X
} sae_arch;

enum { /* archs are 1 to SAE_NUM_ARCHS */
#define SAE_X(name, value, text) +1
    SAE_NUM_ARCHS = SAE_ARCHS(SAE_X)
#undef SAE_X
};

/* How latents are computed from the pre-activations p. */
typedef enum sae_activation {
    SAE_ACTIVATION_POSITIVE = 0, /* as the class says */
    SAE_ACTIVATION_SIGNED,    /* STANDARD, STANDARD_NEW: f = p; TOP_K: the k largest p, no relu */
    SAE_ACTIVATION_MAGNITUDE, /* TOP_K: the p of the k largest |p|, no relu */
    SAE_ACTIVATION_GROUP_MAX  /* TOP_K: the largest relu(p) of each of k groups of m/k neighbours */
} sae_activation;

/* What is done to a row before anything else, and undone on x_hat. */
typedef enum sae_input_norm {
    SAE_INPUT_NORM_NONE = 0,
    SAE_INPUT_NORM_CONSTANT, /* x sqrt(d) / norm(x);  x_hat norm(x) / sqrt(d) */
    SAE_INPUT_NORM_LAYER     /* (x - mean(x)) / (std(x) + 1e-5), std over d - 1;
                                x_hat std(x) + mean(x) */
} sae_input_norm;

/* The weight w of a latent in the choice: which latents fire is decided on p w, relu(p w) and so
   on, and f = (p w) / w; where w is 0 the latent never fires. Norms are of W_dec as it stands. */
typedef enum sae_gate {
    SAE_GATE_NONE = 0,  /* w = 1 */
    SAE_GATE_NORM,      /* norm(W_dec[i]); with layer_codes of each layer's part */
    SAE_GATE_NORM_SUM,  /* sum over the layers of the norm of W_dec[i]'s part */
    SAE_GATE_MIXED      /* gate_norm times NORM (of all layers) + gate_norm_sum times NORM_SUM */
} sae_gate;

#define SAE_MAX_GROUPS 64 /* of a Matryoshka dictionary */

typedef struct sae_dictionary_desc {
    sae_arch arch;                   /* required */
    size_t activation_dim;           /* required: d */
    size_t dict_size;                /* required: m; IDENTITY: d */
    size_t k;                        /* TOP_K, BATCH_TOP_K, MATRYOSHKA: required, 1..m */
    size_t group_sizes[SAE_MAX_GROUPS]; /* MATRYOSHKA: required, sums to m */
    size_t num_groups;
    bool subtract_b_dec;             /* JUMP_RELU: p = W_enc (x - b_dec) + b_enc */
    uint64_t seed;                   /* of the initialisation */
    /* Variations, for the files of other programs; all 0: the class as it stands above. x is the
       row as input_norm leaves it, raw x the row as given. Trainers take none of them. */
    bool no_b_dec_subtraction;       /* the other classes: p = W_enc x + b_enc */
    sae_activation activation;
    double k_fraction;               /* batch top-k keeps floor((k + k_fraction) n); 0 <= it < 1 */
    sae_input_norm input_norm;
    bool output_normalized;          /* input_norm is not undone on x_hat */
    size_t output_dim;               /* of x_hat, W_dec, b_dec (transcoders); default d */
    bool skip;                       /* x_hat += W_skip raw x, W_skip [output_dim,d] */
    sae_gate gate;                   /* STANDARD, STANDARD_NEW, JUMP_RELU, TOP_K, BATCH_TOP_K; as
                                        glu and layer_codes */
    double gate_norm, gate_norm_sum; /* of MIXED; both 0: 1.0 and 0.1 */
    bool glu;                        /* p is multiplied by 1 / (1 + exp(-(W_glu x + b_glu))) */
    /* Crosscoders: rows, d and output_dim are of `layers` places in a model, one after the other,
       equally wide. */
    size_t layers;                   /* default 1; divides d and output_dim */
    bool normalizer;                 /* x_l = (raw x_l - mean_l) scale_l in layer l, and what is
                                        decoded becomes x_hat_l / output_scale_l + mean_l */
    bool layer_codes;                /* each layer has codes of its own: f [n,layers m], layer after
                                        layer, f_l from the one p and from the gate's weights, the
                                        threshold (batch classes) and the top-k of layer l;
                                        x_hat_l = sum_i f_li W_dec[i]_l + b_dec_l */
    bool over_layers;                /* layer_codes: the top-k is of all layers together */
    double residual_threshold;       /* MATCHING_PURSUIT: default 0, none */
    size_t max_iterations;           /* default d */
    bool repeats;                    /* it goes on where the same latents are not 0 as before */
} sae_dictionary_desc;

/* ---- dictionaries ---- */

typedef struct sae_dictionary sae_dictionary;
typedef struct sae_load_desc sae_load_desc; /* >>api: files */

/* Opens a folder, or the file of the weights in it, of any program in SAE_FORMATS. What the format
   keeps beside the weights (decoder norms, a known scale of the activations) is folded into them;
   what does not fit is refused. desc may be NULL. Errors:
   SAE_ERR_NOT_FOUND, SAE_ERR_FORMAT, SAE_ERR_UNSUPPORTED, SAE_ERR_MISMATCH, SAE_ERR_OUT_OF_MEMORY,
   SAE_ERR_IO. */
SAE_API sae_result sae_dictionary_load(sae_context *ctx, const sae_load_desc *desc,
                                       const char *path, sae_dictionary **out);
/* The same of one file's bytes (.safetensors, .pt, .npz), which are not needed afterwards. TOP_K
   and BATCH_TOP_K of dictionary_learning look alike: such bytes want desc->arch, or desc->config.
   */
SAE_API sae_result sae_dictionary_load_memory(sae_context *ctx, const sae_load_desc *desc,
                                              const void *data, size_t size, sae_dictionary **out);

/* The reference's state_dict, .pt or .safetensors by the path's ending; a crash leaves the old
   file. Errors: SAE_ERR_INVALID, SAE_ERR_IO, SAE_ERR_NOT_FOUND, SAE_ERR_OUT_OF_MEMORY,
   SAE_ERR_UNSUPPORTED (a dictionary with variations). */
SAE_API sae_result sae_dictionary_save(const sae_dictionary *dict, const char *path);
/* *data [*size] becomes the bytes that a file called name would have, for sae_context_free. */
SAE_API sae_result sae_dictionary_save_memory(const sae_dictionary *dict, const char *name,
                                              void **data, size_t *size);
SAE_API void sae_context_free(sae_context *ctx, void *memory);

/* Initialised as the reference initialises the class: directions of equal length drawn for W_dec,
   W_enc the same; biases 0, but for STANDARD's b_enc, uniform within 1/sqrt(d); threshold -1,
   JUMP_RELU's 0.001. Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_dictionary_create(sae_context *ctx, const sae_dictionary_desc *desc,
                                         sae_dictionary **out);
SAE_API sae_result sae_dictionary_copy(const sae_dictionary *dict, sae_dictionary **out);
SAE_API void sae_dictionary_destroy(sae_dictionary *dict);

/* What it is, owned by dict: the desc it was made from (seed 0 if it came from a file), output_dim
   filled in. */
SAE_API const sae_dictionary_desc *sae_dictionary_get_desc(const sae_dictionary *dict);
SAE_API const char *sae_arch_name(sae_arch arch); /* the reference's class name */

/* W_dec[i], output_dim floats, the direction of latent i; and W_enc[i], d floats. Owned by dict;
   NULL if i >= m or the class has none. With layer_codes latent l dict_size + i has the row of
   latent i, of which its own layer's part is its direction. */
SAE_API const float *sae_dictionary_decoder_row(const sae_dictionary *dict, size_t latent);
SAE_API const float *sae_dictionary_encoder_row(const sae_dictionary *dict, size_t latent);

/* How TOP_K, BATCH_TOP_K and MATRYOSHKA choose at inference. */
typedef enum sae_rule {
    SAE_RULE_DEFAULT = 0, /* TOP_K: top_k; the batch classes: threshold */
    SAE_RULE_TOP_K,       /* TOP_K: k of each row; the batch classes: k times rows of the batch */
    SAE_RULE_THRESHOLD    /* p > threshold; a threshold of -1 ("never set") lets everything pass */
} sae_rule;
/* Errors: SAE_ERR_INVALID (does not fit the class). The getter gives DEFAULT for the other classes.
   */
SAE_API sae_result sae_dictionary_set_rule(sae_dictionary *dict, sae_rule rule);
SAE_API sae_rule sae_dictionary_rule(const sae_dictionary *dict);
/* The scalar threshold (-1: never set) of these three classes; 0 for the others. */
SAE_API float sae_dictionary_threshold(const sae_dictionary *dict);

/* Makes encode, encode_sparse and forward of 8 rows or more faster, with the same bits: twice and
   more for sparse latents on CPUs with AVX-512 VNNI; on others nothing happens. Keeps W_enc in 16
   bits as well, 2 m d bytes, and scratch memory per thread. After several batches with more than
   about m/20 latents per row it turns itself off. Ends when the parameters or the rule
   change. No other thread may use dict during the call.
   Errors: SAE_ERR_OUT_OF_MEMORY (the dictionary is as it was). */
SAE_API sae_result sae_dictionary_prepare(sae_dictionary *dict);

/* ---- encode, decode ---- */

typedef enum sae_dtype {
    SAE_DTYPE_DEFAULT = 0, /* F32 */
    SAE_F32, SAE_F16, SAE_BF16, SAE_F64,
    SAE_I8, SAE_U8, SAE_I16, SAE_U16, SAE_I32, SAE_U32, SAE_I64, SAE_U64, SAE_BOOL,
    /* GGUF's types of few bits: blocks of elements that share their scales (sae_dtype_block) */
    SAE_Q4_0, SAE_Q4_1, SAE_Q5_0, SAE_Q5_1, SAE_Q8_0, SAE_Q2_K, SAE_Q3_K, SAE_Q4_K, SAE_Q5_K,
    SAE_Q6_K, SAE_IQ4_NL, SAE_IQ4_XS, SAE_MXFP4,
    /* and those that are known by name alone: their size is 0, their tensors have no data */
    SAE_IQ1_S, SAE_IQ1_M, SAE_IQ2_XXS, SAE_IQ2_XS, SAE_IQ2_S, SAE_IQ3_XXS, SAE_IQ3_S, SAE_TQ1_0,
    SAE_TQ2_0, SAE_NVFP4, SAE_OTHER
} sae_dtype;

/* Rows of activations wherever they lie. */
typedef struct sae_rows {
    const void *data;  /* required: [n,d] */
    sae_dtype dtype;   /* F32 (default), F16, BF16 */
    size_t stride;     /* elements from one row to the next; default d */
    bool on_device;    /* trainers and sessions: in the backend's memory, ready in the order of its
                          stream, and free again in that order. Default: host memory */
} sae_rows;

/* Latents of n rows as lists. Row r occupies [row_begin[r], row_begin[r+1]) of latent and value;
   latents ascend inside a row; only f != 0 is listed. The caller owns all three arrays. */
typedef struct sae_sparse {
    size_t *row_begin; /* [n + 1] */
    uint32_t *latent;  /* [capacity] */
    float *value;      /* [capacity] */
    size_t capacity;   /* for encode: sae_dictionary_capacity(dict, n) is enough */
} sae_sparse;

/* Entries of a row of f, "m" below: dict_size, or layers times dict_size with layer_codes. */
SAE_API size_t sae_dictionary_num_latents(const sae_dictionary *dict);
/* Entries that the lists of n rows may need: n*k under SAE_RULE_TOP_K (the batch classes:
   floor((k + k_fraction) n)), times layers where each chooses its own k; else n*m. SIZE_MAX: more
   than can be counted. */
SAE_API size_t sae_dictionary_capacity(const sae_dictionary *dict, size_t n);

/* Inference. Any number of threads may call at once. x [n,d] and the outputs
   are the caller's and may not overlap; outputs are densely packed, x_hat is [n,output_dim].
   Each call takes float rows one after the other or, as _rows, rows of any kind in host memory,
   with the bits that the rows converted to float32 would give. Bits do not depend on n, threads or
   instruction set (but batch top-k chooses over the n rows together). Rows with NaN or infinity
   give unspecified latents in these rows alone. n = 0 does nothing and takes NULL for every array
   (lists that are given get row_begin[0] = 0).
   A call uses at most 16 KB of stack on every thread that works for it and allocates nothing, but
   for SAE_RULE_TOP_K: the batch classes 8 n m + 4 n + 2^18 bytes; forward without f, when k > 512,
   1024 (k + 1) bytes per thread; and for MATCHING_PURSUIT and layer_codes: 4 (d + m) bytes a row,
   of at most 256 rows at a time. The context keeps
   scratch memory for as many calls at once as it has threads, at least 4; further ones are slower.
   Errors: SAE_ERR_INVALID (NULL, n too large, capacity too small: the message says how much),
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_encode(const sae_dictionary *dict, const float *x, size_t n, float *f);
SAE_API sae_result sae_encode_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                   float *f);
SAE_API sae_result sae_encode_sparse(const sae_dictionary *dict, const float *x, size_t n,
                                     sae_sparse *out);
SAE_API sae_result sae_encode_sparse_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          sae_sparse *out);
SAE_API sae_result sae_decode(const sae_dictionary *dict, const float *f, size_t n, float *x_hat);
SAE_API sae_result sae_decode_sparse(const sae_dictionary *dict, const sae_sparse *sparse, size_t n,
                                     float *x_hat);
/* What decode cannot know without x: puts the row's norm back (input_norm) and adds W_skip x. x_hat
   is decode's, changed in place; nothing happens to dictionaries with neither. */
SAE_API sae_result sae_decode_finish(const sae_dictionary *dict, const float *x, size_t n,
                                     float *x_hat);
SAE_API sae_result sae_decode_finish_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          float *x_hat);
/* encode, decode, finish; f may be NULL. */
SAE_API sae_result sae_forward(const sae_dictionary *dict, const float *x, size_t n, float *x_hat,
                               float *f);
SAE_API sae_result sae_forward_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                    float *x_hat, float *f);

/* ---- steer ---- */

/* What latent i shall become, from f_i, what sae_encode gives for it now:
     ADD f_i + value     SET value     SCALE f_i value     ABLATE 0 */
typedef enum sae_steer_mode {
    SAE_STEER_DEFAULT = 0, /* ADD */
    SAE_STEER_ADD, SAE_STEER_SET, SAE_STEER_SCALE, SAE_STEER_ABLATE
} sae_steer_mode;

typedef struct sae_steering {
    uint32_t latent; /* < m */
    sae_steer_mode mode;
    float value;     /* finite; ABLATE ignores it */
} sae_steering;

#define SAE_MAX_STEERINGS 1024 /* of one call */

/* x [n,d] += sum over the list of (target_i - f_i) W_dec[i], in place: what the dictionary does not
   reconstruct stays in x. All f are of x before the call; a latent named twice counts twice;
   directions overlap, so that f of the steered x is near the targets, not equal to them. Under
   SAE_RULE_TOP_K f = 0 outside the k of a row. Directions are in the row's own
   units where input_norm is undone on x_hat. 16-bit rows are rounded to the nearest, ties to even.
   Threads, stack, memory, no rows as for inference. Cost per row: count * d, and m * d more where a
   mode other than ADD meets a top-k rule.
   Errors: SAE_ERR_INVALID (NULL, a latent >= m, a mode or value not allowed, too many),
   SAE_ERR_UNSUPPORTED (batch top-k with n > 1 and a mode other than ADD; skip, or another
   output_dim). x is untouched then. */
SAE_API sae_result sae_steer(const sae_dictionary *dict, float *x, size_t n,
                             const sae_steering *steerings, size_t count);
SAE_API sae_result sae_steer_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                  const sae_steering *steerings, size_t count); /* writes x->data */
