/*  sae.h - sparse autoencoders ("dictionaries") in one C header: train, save, load, run, judge.

    SAE_VERSION "0.2.0" - MIT licence, see the end of this file.

    DO THIS
        #define SAE_IMPLEMENTATION      in exactly ONE .c or .cpp file, before
        #include "sae.h"
    and include it without the #define everywhere else. Link with -lm. With -fopenmp it uses all
    cores; without, one. C99 and later, C++11 and later. No other dependency.
    Options, defined in that one file too:
        SAE_CBLAS    training takes the encoder's product from your BLAS: <cblas.h>, or the header
                     SAE_CBLAS_HEADER names; link with -lopenblas, or -framework Accelerate. It
                     only proposes latents, so the bits stay the same; but it must sum floats as
                     floats by the ordinary algorithm, not as bf16 or tf32, nor Strassen's way.
        SAE_ZLIB     opens compressed archives; link with -lz
        SAE_NO_TRAIN leaves out all that trains and measures, here and in every file that includes
                     sae.h: trainers, sessions, buffer, loop, metrics and backends. What is left
                     loads, encodes, decodes, steers, saves
        SAE_NO_STDIO leaves the system's files out: memory and sae_context_desc.io alone

    WHAT IT DOES
        Re-implements the Python package dictionary_learning
        (github.com/saprmarks/dictionary_learning) number for number: its dictionaries, trainers,
        optimizers, schedules, activation buffer, training loop, evaluation and files. A dictionary
        trained here opens there, and the other way round. The same run gives the same bits for any
        number of threads, any compiler and optimisation level, and after a resume.
        Opens dictionaries of SAELens, sparsify, Gemma Scope, Llama Scope and openai too, with
        their numbers, and writes folders that dictionary_learning, SAELens and sparsify open.

    WHAT IT DOES NOT
        It runs no language model (bring activations, or a callback that makes them), draws no
        pictures, keeps no global state, never prints, aborts or exits, executes no pickle code.

    STEP BY STEP: train
        sae_context *ctx;
        sae_context_create(NULL, &ctx);
        sae_trainer_desc trainer = { SAE_TRAINER_TOP_K };
        trainer.dict_size = 4096;
        trainer.k = 32;
        const char *files[] = { "activations.npy" };
        sae_train_desc desc = { 0 };
        desc.buffer.source.files = files;
        desc.buffer.source.num_files = 1;
        desc.trainers = &trainer;
        desc.num_trainers = 1;
        desc.steps = 10000;
        desc.save_dir = "out";
        if (sae_train(ctx, &desc) != SAE_OK) fprintf(stderr, "%s\n", sae_error(ctx));

    STEP BY STEP: use, with a row x [d] and room for x_hat [d]
        sae_dictionary *dict;
        size_t row_begin[2];
        uint32_t latent[32];
        float value[32];
        sae_sparse code = { row_begin, latent, value, 32 };  // sae_dictionary_capacity(dict, 1)
        if (sae_dictionary_load(ctx, NULL, "out/trainer_0", &dict) == SAE_OK) {
            sae_encode_sparse(dict, x, 1, &code);  // const dict: from any number of threads
            sae_decode_sparse(dict, &code, 1, x_hat);
            sae_dictionary_destroy(dict);
        }
        sae_context_destroy(ctx);

    LETTERS
        n or B rows (tokens) of a batch, d activation_dim, m dict_size, k active latents per row,
        x [n,d] input, f [n,m] latents, x_hat [n,d] reconstruction, e = x_hat - x. Matrices are
        row-major, everything is float32 unless a line says otherwise.

    CONTENTS (search for the tag)
        What you call; each part stands on the core alone, unless it says otherwise
        >>api: core  results, context, dictionaries, encode, decode, steer: ten minutes
        >>api: dictionaries in full   parameters read and set, sizes, control vectors
        >>api: files            where files are, formats, export, tensors of any container
        >>api: programs with a model  linear layers, threads, errors, JSON
        >>api: schedules        and >>api: trainers, >>api: sessions, >>api: the activation buffer,
                     >>api: the training loop, >>api: metrics: what trains; on the files
        >>api: the reference's experiments
        >>backend    the list of operations that a backend implements, and its contract
        >>cuda       NVIDIA GPUs: the desc and the table of sae_cuda.cuh
        How it is done; each part stands on those above it
        >>math       exp, log, pow with the same bits everywhere; Philox RNG, normal deviates
        >>platform   allocator, errors, locks, threads, checked sizes
        >>text       sorting, UTF-8, numbers, text that grows
        >>io         paths; the system's files, mapped; files written whole or not at all
        >>json       reading and writing JSON
        >>tensors    .npy, .npz, .safetensors, .pt: reading and writing
        >>kernels    vector code, the same text for each instruction set
        >>context    sae_context_create
        >>dictionary create, encode, decode, scale, normalise; linear layers
        >>steer      latents set, added to, scaled, ablated in place
        >>files      dictionaries of dictionary_learning and of other programs; control vectors
        >>operations a backend's table checked; what stands in for optional operations
        >>cpu        the CPU backend
        >>trainer    schedules, the training schemes and hyperparameters, one row each; config.json
        >>session    a dictionary on the backend
        >>buffer     sources of activations and the shuffling buffer
        >>loop       sae_train and sae_training: logging, checkpoints, backup, resume
        >>metrics    sae_evaluate, gradient pursuit

    This file is made from the sources in src/ (make headers): change it there.
*/
#ifndef SAE_H_INCLUDED
#define SAE_H_INCLUDED

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef SAE_API
#define SAE_API extern /* define it to static or to a dllexport attribute, as you need */
#endif

/* Lets compilers hold printf's arguments against its format. */
#if defined(__MINGW32__)
#define SAE_PRINTF(format_index, first) __attribute__((format(gnu_printf, format_index, first)))
#elif defined(__GNUC__)
#define SAE_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define SAE_PRINTF(format_index, first)
#endif

#define SAE_VERSION_MAJOR 0
#define SAE_VERSION_MINOR 2
#define SAE_VERSION_PATCH 0
#define SAE_VERSION_NUMBER                                                                         \
    (SAE_VERSION_MAJOR * 10000 + SAE_VERSION_MINOR * 100 + SAE_VERSION_PATCH)
#define SAE_VERSION "0.2.0"

#ifdef __cplusplus
extern "C" {
#endif

/* ==== >>api: core ========================================================= src/api/core.h ==== */
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
   Other programs' dictionaries are one of these with variations (see the desc). */
#define SAE_ARCHS(X)                                                                               \
    X(SAE_ARCH_STANDARD, 1, "AutoEncoder")                                                         \
    X(SAE_ARCH_STANDARD_NEW, 2, "AutoEncoderNew")                                                  \
    X(SAE_ARCH_GATED, 3, "GatedAutoEncoder")                                                       \
    X(SAE_ARCH_TOP_K, 4, "AutoEncoderTopK")                                                        \
    X(SAE_ARCH_BATCH_TOP_K, 5, "BatchTopKSAE")                                                     \
    X(SAE_ARCH_MATRYOSHKA, 6, "MatryoshkaBatchTopKSAE")                                            \
    X(SAE_ARCH_JUMP_RELU, 7, "JumpReluAutoEncoder")                                                \
    X(SAE_ARCH_IDENTITY, 8, "IdentityDict")

typedef enum sae_arch {
    SAE_ARCH_DEFAULT = 0, /* where a desc may leave it open */
#define SAE_X(name, value, text) name = value,
    SAE_ARCHS(SAE_X)
#undef SAE_X
} sae_arch;

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
   NULL if i >= m or the class has none. */
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
    SAE_I8, SAE_U8, SAE_I16, SAE_U16, SAE_I32, SAE_U32, SAE_I64, SAE_U64, SAE_BOOL
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

/* Entries that the lists of n rows may need: n*k under SAE_RULE_TOP_K (the batch classes:
   floor((k + k_fraction) n)), else n*m. SIZE_MAX: more than can be counted. */
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
   1024 (k + 1) bytes per thread. The context keeps
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

/* ==== >>api: dictionaries in full =================================== src/api/dictionary.h ==== */
/* Parameters read and set, sizes, latents by number, control vectors. */

SAE_API size_t sae_dtype_size(sae_dtype dtype);
SAE_API const char *sae_dtype_name(sae_dtype dtype); /* "F32" */

#define SAE_MAX_DIMS 8
typedef struct sae_tensor {
    const char *name;            /* "" for .npy */
    sae_dtype dtype;
    size_t ndim;
    uint64_t shape[SAE_MAX_DIMS];
    int64_t stride[SAE_MAX_DIMS]; /* in elements; as the file has them */
    const void *data;            /* the first element; little endian; need not be aligned */
} sae_tensor;
/* All elements as float32 in row-major order, out [product of shape]. */
SAE_API void sae_tensor_to_f32(const sae_tensor *tensor, float *out);

/* All parameters, where they lie in dict, to be read: valid until dict is destroyed; their rows may
   be further apart than they are long (stride).
     W_enc [m,d], W_dec [m,output_dim], b_dec [output_dim]   all but IDENTITY, which has no tensor
     b_enc [m]                                               all but GATED
     gate_bias, r_mag, mag_bias [m]                          GATED
     threshold [m]                                           JUMP_RELU
     threshold, k, one number each                           TOP_K, BATCH_TOP_K, MATRYOSHKA
     W_skip [output_dim,d]                                   where desc.skip is set
   False: no tensor of that index. */
SAE_API size_t sae_dictionary_num_tensors(const sae_dictionary *dict);
SAE_API bool sae_dictionary_get_tensor(const sae_dictionary *dict, size_t index, sae_tensor *out);
/* Errors: SAE_ERR_INVALID, SAE_ERR_NOT_FOUND (the message has the names). */
SAE_API sae_result sae_dictionary_find_tensor(const sae_dictionary *dict, const char *name,
                                              sae_tensor *out);
/* Copies count float32 numbers, all of the tensor, row-major, into it. What sae_dictionary_prepare
   made is dropped, and no other thread may use dict meanwhile. Errors: SAE_ERR_INVALID (also a k
   that is none), SAE_ERR_NOT_FOUND, SAE_ERR_MISMATCH (count). */
SAE_API sae_result sae_dictionary_set_tensor(sae_dictionary *dict, const char *name,
                                             const float *values, size_t count);

/* Multiplies every bias and threshold by scale: adapts the dictionary to inputs multiplied by
   scale. A scalar threshold below 0 is left as it is. Errors: SAE_ERR_INVALID (not finite, or
   <= 0), SAE_ERR_UNSUPPORTED (an input_norm). */
SAE_API sae_result sae_dictionary_scale_biases(sae_dictionary *dict, float scale);

/* STANDARD: W_dec rows to norm 1, the norms moved into W_enc rows and b_enc; x_hat is unchanged.
   As the reference: nothing happens when all norms are within 1e-5 (+1e-8) of 1 already; other
   classes are left alone. */
SAE_API sae_result sae_dictionary_normalize_decoder(sae_dictionary *dict);

/* Latents of MATRYOSHKA past the first active_groups groups are 0; default 0: all groups. Errors:
   SAE_ERR_INVALID (another class, or more groups than there are). */
SAE_API sae_result sae_dictionary_set_active_groups(sae_dictionary *dict, size_t active_groups);

/* What sae_dictionary_create would ask of the allocator. Errors: SAE_ERR_INVALID. */
SAE_API sae_result sae_dictionary_memory(const sae_dictionary_desc *desc, size_t *bytes);

/* f [n,count] of the latents named (each < m). Rules that compare a latent with others (top-k) do
   not apply: these classes give p > max(threshold, 0), or relu(p) while the threshold is unset, or
   p where latents are signed. */
SAE_API sae_result sae_encode_subset(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint32_t *latents, size_t count, float *f);
SAE_API sae_result sae_encode_subset_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          const uint32_t *latents, size_t count, float *f);

/* Writes the sum of value_i W_dec[i] (modes ADD alone) as a control vector of llama.cpp: a GGUF
   file with the one tensor "direction.LAYER". llama.cpp adds it, times the scale on its command
   line, to the output of block `layer`; blocks count from 0, but it steers no block 0. The residual
   stream after block L is resid_post L, and hidden_states[L + 1] in Hugging Face's counting.
   model_hint (NULL: "") names the model's architecture for the reader.
   Errors: SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED (IdentityDict, an input_norm), SAE_ERR_NOT_FOUND
   (the folder), SAE_ERR_OUT_OF_MEMORY, SAE_ERR_IO. */
SAE_API sae_result sae_steer_export(const sae_dictionary *dict, const sae_steering *steerings,
                                    size_t count, size_t layer, const char *model_hint,
                                    const char *path);

/* ==== >>api: files ======================================================= src/api/files.h ==== */

/* ---- where files are ---- */

/* Where files are read and written: an archive, a virtual file system, memory. Paths are passed on
   as they were given to the library, folder and name joined by "/"; a folder is a prefix of paths.
   Called from the thread that called the library, on one file at a time. Return SAE_OK or an error,
   which the caller gets. */
struct sae_io {
    /* Opens a file to be read, or (write) a new one in the place of one that is there. Errors:
       SAE_ERR_NOT_FOUND (no such file; to write: no such folder, unless folders need no making);
       SAE_ERR_UNSUPPORTED if it is a folder, where that is known. */
    sae_result (*open)(const char *path, bool write, void **file, void *user);
    sae_result (*size)(void *file, uint64_t *size, void *user);
    sae_result (*read)(void *file, uint64_t offset, void *out, size_t size, void *user); /* all */
    /* Of a written file, SAE_ERR_MISMATCH: another program has put its own file there meanwhile.
       The file is closed in any case. */
    sae_result (*close)(void *file, void *user);
    /* Optional: *data becomes all bytes of the file, valid until close and read by any thread; read
       is not called then. NULL: files are read into memory of the context's allocator. */
    sae_result (*map)(void *file, const void **data, void *user);
    /* To write: NULL together where nothing is written. A file is written as PATH.tmp from its
       beginning, synced, closed, then renamed to PATH (which it replaces) or removed. */
    sae_result (*write)(void *file, const void *data, size_t size, void *user);
    sae_result (*sync)(void *file, void *user); /* optional */
    sae_result (*rename)(const char *from, const char *to, void *user);
    sae_result (*remove)(const char *path, void *user);
    sae_result (*make_folder)(const char *path, void *user); /* optional; with its parents */
    void *user;
};

/* ---- trainers, as files name them ---- */

/* One row a trainer: its number, the dictionary it trains, its NAME on the command line and in
   messages, the reference's class, and that class's name in 2024. */
#define SAE_TRAINERS(X)                                                                            \
    X(SAE_TRAINER_STANDARD, 1, SAE_ARCH_STANDARD, "standard",                                      \
      "StandardTrainer", "StandardTrainer")                                                        \
    X(SAE_TRAINER_STANDARD_APRIL, 2, SAE_ARCH_STANDARD, "standard_april",                          \
      "StandardTrainerAprilUpdate", "StandardTrainerAprilUpdate")                                  \
    X(SAE_TRAINER_GATED, 3, SAE_ARCH_GATED, "gated",                                               \
      "GatedSAETrainer", "GatedSAETrainer")                                                        \
    X(SAE_TRAINER_GATED_ANNEAL, 4, SAE_ARCH_GATED, "gated_anneal",                                 \
      "GatedAnnealTrainer", "GatedAnnealTrainer")                                                  \
    X(SAE_TRAINER_P_ANNEAL, 5, SAE_ARCH_STANDARD, "p_anneal",                                      \
      "PAnnealTrainer", "PAnnealTrainer")                                                          \
    X(SAE_TRAINER_TOP_K, 6, SAE_ARCH_TOP_K, "top_k",                                               \
      "TopKTrainer", "TrainerTopK")                                                                \
    X(SAE_TRAINER_BATCH_TOP_K, 7, SAE_ARCH_BATCH_TOP_K, "batch_top_k",                             \
      "BatchTopKTrainer", "TrainerBatchTopK")                                                      \
    X(SAE_TRAINER_MATRYOSHKA, 8, SAE_ARCH_MATRYOSHKA, "matryoshka_batch_top_k",                    \
      "MatryoshkaBatchTopKTrainer", "MatroyshkaBatchTopKTrainer")                                  \
    X(SAE_TRAINER_JUMP_RELU, 9, SAE_ARCH_JUMP_RELU, "jumprelu",                                    \
      "JumpReluTrainer", "TrainerJumpRelu")

typedef enum sae_trainer_kind {
    SAE_TRAINER_DEFAULT = 0, /* SAE_TRAINER_TOP_K */
#define SAE_X(kind, value, arch, name, reference, older) kind = value,
    SAE_TRAINERS(SAE_X)
#undef SAE_X
} sae_trainer_kind;

enum { /* kinds are 1 to SAE_NUM_TRAINERS */
#define SAE_X(kind, value, arch, name, reference, older) +1
    SAE_NUM_TRAINERS = SAE_TRAINERS(SAE_X)
#undef SAE_X
};

SAE_API const char *sae_trainer_name(sae_trainer_kind kind);
SAE_API const char *sae_trainer_class(sae_trainer_kind kind);
/* From either name; false (out untouched) if it is neither. */
SAE_API bool sae_trainer_from_name(const char *name, sae_trainer_kind *out);

/* ---- formats of dictionaries ---- */

/* Whose files are opened, and what their folders hold. */
#define SAE_FORMATS(X)                                                                             \
    X(SAE_FORMAT_DICTIONARY_LEARNING, 1, "dictionary_learning") /* ae.pt + config.json */          \
    X(SAE_FORMAT_SAE_LENS, 2, "sae_lens")           /* sae_weights.safetensors + cfg.json */       \
    X(SAE_FORMAT_SPARSIFY, 3, "sparsify")           /* sae.safetensors + cfg.json */               \
    X(SAE_FORMAT_GEMMA_SCOPE, 4, "gemma_scope")     /* params.npz */                               \
    X(SAE_FORMAT_GEMMA_SCOPE_2, 5, "gemma_scope_2") /* params.safetensors + config.json */         \
    X(SAE_FORMAT_LLAMA_SCOPE, 6, "llama_scope")     /* checkpoints/final.safetensors +             \
                                                       hyperparams.json */                         \
    X(SAE_FORMAT_OPENAI, 7, "openai")               /* the .pt alone */

typedef enum sae_format {
    SAE_FORMAT_NONE = 0,
#define SAE_X(name, value, text) name = value,
    SAE_FORMATS(SAE_X)
#undef SAE_X
} sae_format;

SAE_API const char *sae_format_name(sae_format format);
/* False (out untouched) if there is no such format. */
SAE_API bool sae_format_from_name(const char *name, sae_format *out);

/* Of sae_dictionary_load and sae_dictionary_load_memory. Of dictionary_learning any .pt or
   .safetensors with its tensors opens, a crashed run's nested ae.pt too. */
struct sae_load_desc {
    sae_arch arch;  /* dictionary_learning: default: from config.json, else from the tensors' names.
                       A folder that does not tell TOP_K from BATCH_TOP_K is refused unless given */
    size_t k;       /* for old files that hold none */
    bool raw;       /* take the tensors as they are; default: as the reference's loader does
                       (STANDARD of dictionary_learning is brought to unit decoder norms) */
    bool raw_decoder_norms; /* keep STANDARD's decoder norms; all other conversions happen */
    size_t first_latent, num_latents; /* only these latents, as a dictionary of num_latents; default
                       0 and 0: all; num_latents 0 or past the end: up to the end. Of a large mapped
                       file just their rows or columns are read (their CRC-32 then is not). Top-k
                       chooses among them alone; group max needs all */
    const void *config; /* the text of the config file, config_size bytes; default: that of the file
                           next to the weights, from memory none */
    size_t config_size;
    const char *name; /* from memory: what the file is called, as a path would say it, for what only
                         a name tells: the format, where tensors do not; hook and layer. May be
                         NULL */
};

/* Where a dictionary came from. Texts are "" where the file does not say. */
typedef struct sae_origin {
    sae_format format;    /* NONE: it was made here */
    char class_name[48];  /* as that program calls it: "jumprelu_transcoder" */
    sae_dtype dtype;      /* of the encoder in the file */
    char model[96];       /* the language model */
    char hook[96];        /* the place in it: "blocks.3.hook_resid_post", "layers.3.mlp" */
    char dataset[96];
    char version[32];     /* of that program */
    int64_t layer;        /* -1: not known */
    size_t context_size;  /* 0: not known */
    size_t dict_size, k;  /* of the file, all of whose latents may not be here (sae_load_desc) */
    size_t first_latent;
} sae_origin;
/* Lives as long as dict. */
SAE_API const sae_origin *sae_dictionary_origin(const sae_dictionary *dict);

typedef struct sae_export_desc {
    sae_format format;         /* required: DICTIONARY_LEARNING, SAE_LENS or SPARSIFY */
    const sae_origin *origin;  /* model, hook, layer, ...; default: the dictionary's own */
    const float *log_sparsity; /* SAE_LENS: [m] log10(how often each latent fires + 1e-10), into
                                  sparsity.safetensors; NULL: no such file */
    bool raw;                  /* DICTIONARY_LEARNING: leave the decoder's norms */
} sae_export_desc;

/* Writes a folder that the other program opens with the same numbers, float32:
     dictionary_learning  the eight classes, but IdentityDict. Decoder rows are brought to norm 1,
                          as SAEBench wants them, where the class stays the same function
                          (AutoEncoder, Gated, JumpReLU: f_i becomes f_i norm_i) and the file was
                          not its own. b_dec in or out of the encoder's input moves into its biases.
     sae_lens             the layout of 6.x. BATCH_TOP_K and MATRYOSHKA become jumprelu, by their
                          threshold.
     sparsify             TOP_K, with skip, group max, or without b_dec in the input.
   What the format cannot say is refused with the reason, before anything is written. What was
   mapped, and what is lost, is told to the logger (SAE_LOG_INFO, SAE_LOG_WARNING). Takes memory for
   one more dictionary. Errors: SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED, SAE_ERR_NOT_FINITE,
   SAE_ERR_OUT_OF_MEMORY, SAE_ERR_IO. */
SAE_API sae_result sae_dictionary_export(const sae_dictionary *dict, const sae_export_desc *desc,
                                         const char *folder);

/* ---- tensors of any container ---- */

/* Tensors of any container: .npy, .npz, .safetensors, .pt. The file stays mapped while open (in
   memory, where sae_io cannot map).
   Errors: SAE_ERR_NOT_FOUND, SAE_ERR_IO, SAE_ERR_FORMAT, SAE_ERR_UNSUPPORTED,
   SAE_ERR_OUT_OF_MEMORY. */
typedef struct sae_tensor_file sae_tensor_file;
SAE_API sae_result sae_tensor_file_open(sae_context *ctx, const char *path, sae_tensor_file **out);
/* A file of any of these kinds whose bytes are in memory; they are read in place and must outlive
   *out. */
SAE_API sae_result sae_tensor_file_open_memory(sae_context *ctx, const void *data, size_t size,
                                               sae_tensor_file **out);
SAE_API void sae_tensor_file_close(sae_tensor_file *file);
SAE_API size_t sae_tensor_file_count(const sae_tensor_file *file);
SAE_API const sae_tensor *sae_tensor_file_get(const sae_tensor_file *file, size_t index);
SAE_API const sae_tensor *sae_tensor_file_find(const sae_tensor_file *file, const char *name);
/* The CRC-32 of a tensor's bytes in .npz and .pt, of all tensors if it is NULL. Opening a mapped
   file reads only what is small (it may be larger than memory); sae_dictionary_load checks what it
   reads whole.
   Errors: SAE_ERR_FORMAT (damaged), SAE_ERR_INVALID. */
SAE_API sae_result sae_tensor_file_check(sae_tensor_file *file, const sae_tensor *tensor);
/* Row-major tensors (strides are ignored) into one file, the kind by the path's ending: .npy (one
   tensor), .npz, .safetensors, .pt. Errors: SAE_ERR_INVALID, SAE_ERR_NOT_FOUND (the folder),
   SAE_ERR_UNSUPPORTED, SAE_ERR_OUT_OF_MEMORY, SAE_ERR_IO. */
SAE_API sae_result sae_tensor_file_write(sae_context *ctx, const char *path,
                                         const sae_tensor *tensors, size_t count);
/* The same into memory: the bytes that a file of that name would have, for sae_context_free. */
SAE_API sae_result sae_tensor_file_write_memory(sae_context *ctx, const char *name,
                                                const sae_tensor *tensors, size_t count,
                                                void **data, size_t *size);

/* ==== >>api: programs with a model ======================================= src/api/model.h ==== */

/* For programs that run a model and its dictionaries side by side (tools/neox.h does). */

/* A linear layer, y = x W^T + bias. */
typedef struct sae_linear sae_linear;
/* W [outputs,inputs] and bias [outputs] (NULL: none) are copied, W in the order in which the
   product reads it: outputs rounded up to 48, times inputs floats. Errors: SAE_ERR_INVALID,
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_linear_create(sae_context *ctx, const float *W, const float *bias,
                                     size_t inputs, size_t outputs, sae_linear **out);
SAE_API void sae_linear_destroy(sae_linear *linear);
/* y [n,outputs] of x [n,inputs], which may not overlap; nothing is allocated. Each number is one
   chain of fma over ascending inputs, the bias added last: its bits do not depend on n,
   threads or instruction set. Errors: SAE_ERR_INVALID. */
SAE_API sae_result sae_linear_apply(const sae_linear *linear, const float *x, size_t n, float *y);

/* fn(arg, part) for every part below parts, on as many threads as the context has, in any order. */
SAE_API void sae_context_parallel(sae_context *ctx, size_t parts,
                                  void (*fn)(void *arg, size_t part), void *arg);

/* Sets the sentence that sae_error gives, tells the logger, and returns result: so that callbacks
   and code on top fail as the header does. */
SAE_API sae_result sae_context_fail(sae_context *ctx, sae_result result, const char *format, ...)
    SAE_PRINTF(3, 4);

/* A JSON file, read whole: UTF-8, depth 64, 2^20 values, no key twice in an object. Getters take
   NULL, which is a value that is not there. */
typedef struct sae_json sae_json;
typedef enum sae_json_kind {
    SAE_JSON_NONE, SAE_JSON_NULL, SAE_JSON_BOOL, SAE_JSON_NUMBER, SAE_JSON_STRING, SAE_JSON_ARRAY,
    SAE_JSON_OBJECT
} sae_json_kind;
/* *out is the root, the whole tree is owned by it. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_IO,
   SAE_ERR_FORMAT, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_json_open(sae_context *ctx, const char *path, sae_json **out);
SAE_API void sae_json_close(sae_json *root);
SAE_API sae_json_kind sae_json_kind_of(const sae_json *value);
SAE_API const sae_json *sae_json_get(const sae_json *object, const char *key); /* NULL: none */
SAE_API size_t sae_json_count(const sae_json *value);           /* of an array's or object's */
SAE_API const sae_json *sae_json_first(const sae_json *value);  /* child; NULL: none */
SAE_API const sae_json *sae_json_next(const sae_json *child);   /* its sibling; NULL: none */
SAE_API const char *sae_json_key(const sae_json *child);        /* in an object; else NULL */
SAE_API const char *sae_json_text(const sae_json *value);       /* of a string; else NULL */
SAE_API double sae_json_number(const sae_json *value);          /* of a number; 1 of true; else 0 */

#ifndef SAE_NO_TRAIN

/* ==== >>api: schedules =================================================== src/api/train.h ==== */

#define SAE_NONE UINT64_MAX /* in a step count: explicitly none, where 0 would mean the default */

/* Factor of the learning rate for the update of step t (counted from 0):
     t / warmup_steps while t < warmup_steps; then 1; from decay_start on
     (steps - t) / (steps - decay_start).
   With resample_steps instead: min((t mod resample_steps) / warmup_steps, 1).
   Here 0 simply means none. */
typedef struct sae_schedule {
    uint64_t steps, warmup_steps, decay_start, resample_steps, sparsity_warmup_steps;
} sae_schedule;
SAE_API double sae_lr_factor(const sae_schedule *schedule, uint64_t t);
SAE_API double sae_sparsity_factor(const sae_schedule *schedule, uint64_t t); /* min(t/warmup, 1) */

/* ==== >>api: trainers ==================================================== src/api/train.h ==== */

typedef enum sae_sparsity_function {
    SAE_SPARSITY_DEFAULT = 0, /* L1; P_ANNEAL: LP; GATED_ANNEAL: LP_P */
    SAE_SPARSITY_L1,          /* mean sum_i f_i */
    SAE_SPARSITY_ENTROPY,     /* STANDARD: mean of -sum q log(q + 1e-8), q = f / (sum f + 1e-8) */
    SAE_SPARSITY_LP,          /* the annealers: mean (sum f^p)^(1/p) */
    SAE_SPARSITY_LP_P         /* the annealers: mean sum f^p */
} sae_sparsity_function;

/* Hyperparameters under the reference's names. Zero means the reference's default, given after
   each; SAE_NONE switches a step count off; a negative number means 0 where 0 makes sense
   (l1_penalty, auxk_alpha, sparsity_penalty, threshold_beta). */
typedef struct sae_trainer_desc {
    sae_trainer_kind kind;
    sae_arch arch;            /* STANDARD_APRIL may take SAE_ARCH_STANDARD_NEW; else leave 0 */
    size_t activation_dim;    /* required (sae_train fills it in from the data) */
    size_t dict_size;         /* required */
    size_t batch_size;        /* required: the most rows of one step (sae_train fills it in) */
    uint64_t steps;           /* required (sae_train fills it in) */
    uint64_t seed;
    double lr;                /* STANDARD* 1e-3, GATED 5e-5, GATED_ANNEAL 3e-4, P_ANNEAL 1e-3,
                                 TOP_K family 2e-4 / sqrt(m / 16384), JUMP_RELU 7e-5 */
    uint64_t warmup_steps;           /* 1000 (steps / 10 in runs of at most 1000 steps); of lr */
    uint64_t decay_start;            /* none */
    uint64_t sparsity_warmup_steps;  /* 2000 (steps / 5 in runs of at most 2000 steps), where there
                                        is a sparsity penalty */
    uint64_t resample_steps;         /* none; STANDARD, P_ANNEAL, GATED_ANNEAL */
    double l1_penalty;               /* 0.1; STANDARD, STANDARD_APRIL, GATED */
    sae_sparsity_function sparsity_function;
    /* the TOP_K family */
    size_t k;                        /* required */
    uint64_t k_anneal_steps;         /* none */
    double auxk_alpha;               /* 1/32 */
    size_t top_k_aux;                /* d / 2 */
    uint64_t dead_feature_threshold; /* 10000000 tokens; JUMP_RELU logs with it */
    double threshold_beta;           /* 0.999 */
    uint64_t threshold_start_step;   /* 1000 */
    double group_fractions[SAE_MAX_GROUPS]; /* MATRYOSHKA: required, sum to 1 */
    double group_weights[SAE_MAX_GROUPS];   /* MATRYOSHKA: 1 / num_groups each */
    size_t num_groups;
    /* JUMP_RELU */
    double bandwidth;                /* 0.001 */
    double sparsity_penalty;         /* 1 */
    double target_l0;                /* 20 */
    /* the annealers */
    double initial_sparsity_penalty; /* 0.1 */
    uint64_t anneal_start;           /* 15000; SAE_NONE: from step 0 */
    uint64_t anneal_end;             /* steps */
    double p_start;                  /* 1 */
    double p_end;                    /* 0, which LP refuses: it would divide by it */
    uint64_t n_sparsity_updates;     /* 10; SAE_NONE: continuous, anneal_end - anneal_start + 1 */
    size_t sparsity_queue_length;    /* 10 */
    /* experiments of the reference, on STANDARD */
    bool reconstruction_norm;        /* loss mean norm(e) in place of mean norm(e)^2 */
    uint64_t ghost_threshold;        /* none: latents silent for more than this many batches get
                                        ghost gradients */
    /* where it starts */
    const char *init;                /* a file or folder with a state_dict; default: as the class */
    /* written into config.json, for other programs */
    const char *lm_name, *submodule_name, *wandb_name;
    int64_t layer;                   /* counted from 0, which is the default; -1: of no layer */
} sae_trainer_desc;

/* Sets every field left at 0 to its default, in place. activation_dim, dict_size and steps must be
   known. Idempotent. */
SAE_API void sae_trainer_defaults(sae_trainer_desc *desc);

/* What there is to set by sae_trainer_desc_set, for options, forms and bindings: rows 0, 1, ... in
   the order of sae_trainer_desc. The texts are constants. */
typedef enum sae_hyperparameter_type {
    SAE_HYPERPARAMETER_WHOLE, SAE_HYPERPARAMETER_REAL, SAE_HYPERPARAMETER_LIST,
    SAE_HYPERPARAMETER_TEXT
} sae_hyperparameter_type;
typedef struct sae_hyperparameter {
    const char *name;     /* of sae_trainer_desc_set, config.json and the reference */
    const char *field;    /* of sae_trainer_desc; "" where it only becomes another's */
    sae_hyperparameter_type type;
    const char *initial;  /* the default, in words where it depends on others */
    const char *allowed;  /* "a whole number >= 1, or none" */
    uint32_t trainers;    /* bit 1 << kind of each trainer that has it */
} sae_hyperparameter;
/* false (out untouched) after the last row. */
SAE_API bool sae_hyperparameter_get(size_t index, sae_hyperparameter *out);
/* For "did you mean": letters to change, add, drop or swap with their neighbour to make b of a; 64
   where one is longer than 63. */
SAE_API size_t sae_edit_distance(const char *a, const char *b);

typedef struct sae_trainer sae_trainer;

/* Bytes that an object holds while it lives: of its context's allocator, and of its backend's own
   memory. What a backend keeps for itself (handles, a BLAS library's workspace) is not counted. */
typedef struct sae_memory {
    size_t host, device;
} sae_memory;
/* What sae_trainer_create would take, by the same plan, without taking it. While it creates, it
   needs room for the parameters on the host once more; a backup likewise, for the optimizer's
   state too, where the backend's memory is its own. Errors: those of sae_trainer_create, but init
   is not read. */
SAE_API sae_result sae_trainer_memory(sae_context *ctx, const sae_trainer_desc *desc,
                                      sae_memory *out);

/* Memory is planned and taken here; steps allocate nothing. The texts of desc are copied; init, if
   given, is read here. Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY, SAE_ERR_BACKEND, and those
   of reading init. */
SAE_API sae_result sae_trainer_create(sae_context *ctx, const sae_trainer_desc *desc,
                                      sae_trainer **out);
SAE_API void sae_trainer_destroy(sae_trainer *trainer);

/* One update on x [n,d], 1 <= n <= batch_size; target [n,d] is what x_hat is compared with (NULL:
   x). Both are host memory, free again on return. Errors: SAE_ERR_INVALID, SAE_ERR_NOT_FINITE (the
   trainer is as it was, but stats of the update before are gone), SAE_ERR_BACKEND. */
SAE_API sae_result sae_trainer_step(sae_trainer *trainer, const float *x, const float *target,
                                    size_t n);

/* As sae_trainer_step; target may be NULL. A backend that works while the host goes on (CUDA) may
   report NaN or infinity one or two steps late, or at the next call that reads the trainer: it then
   is as it was before the step the message names, later ones did nothing. */
SAE_API sae_result sae_trainer_step_rows(sae_trainer *trainer, const sae_rows *x,
                                         const sae_rows *target, size_t n);

/* Of the last update. Fields that the trainer does not have are NaN. */
typedef struct sae_stats {
    uint64_t step;                 /* of that update, from 0 */
    double loss;                   /* the whole, as minimised */
    double l2_loss;                /* mean sum e^2, or mean norm(e) with reconstruction_norm */
    double sparsity_loss;          /* before its coefficient (L1, Lp, entropy) */
    double aux_loss;               /* GATED*: mean sum (x - x_hat_gate)^2 */
    double auxk_loss;              /* normalised; before auxk_alpha */
    double pre_norm_auxk_loss;     /* -1: no dead latents */
    double dead_features;
    double effective_l0;
    double l0;                     /* mean count of f != 0 in the batch */
    double frac_variance_explained;
    double threshold;
    double p, next_p, sparsity_coeff;
    double ghosts;
    double lr;                     /* used by that update */
    double grad_norm;              /* before clipping */
} sae_stats;
SAE_API sae_result sae_trainer_stats(sae_trainer *trainer, sae_stats *out);

/* The dictionary being trained: a view owned by the trainer, in the units of its input. Call it
   again after each step: an old pointer is not updated. */
SAE_API const sae_dictionary *sae_trainer_dictionary(sae_trainer *trainer);
/* With all defaults set and texts of its own; valid until the trainer is destroyed. */
SAE_API const sae_trainer_desc *sae_trainer_get_desc(const sae_trainer *trainer);
SAE_API uint64_t sae_trainer_steps_done(const sae_trainer *trainer);

/* Hyperparameters by name. key is a field's name as the reference spells it, with - or _
   ("l1_penalty", "warmup-steps"); value is text: a number, "none" / "null", a comma list, a name.
   Keys of the reference that carry nothing for training ("device", "wandb_name", ...) are accepted.
   Set trainer_class first: sparsity_penalty means initial_sparsity_penalty to the annealers.
   Errors: SAE_ERR_NOT_FOUND (no such key), SAE_ERR_INVALID (value; the message says what is
   allowed). Texts (lm_name, submodule_name, init) are not copied: value must outlive desc. */
SAE_API sae_result sae_trainer_desc_set(sae_context *ctx, sae_trainer_desc *desc, const char *key,
                                        const char *value);

/* A config.json: {"trainer": {...}, ...}, a bare trainer object, or a list of either. */
typedef struct sae_config sae_config;
/* Unknown keys are logged as warnings and skipped. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_FORMAT,
   SAE_ERR_INVALID (unknown trainer or value). */
SAE_API sae_result sae_config_open(sae_context *ctx, const char *path, sae_config **out);
SAE_API void sae_config_close(sae_config *config); /* its descs' texts go with it */
SAE_API size_t sae_config_count(const sae_config *config);
/* The descs lie in one array: sae_config_get(config, 0) may be given to sae_train. */
SAE_API const sae_trainer_desc *sae_config_get(const sae_config *config, size_t index);

/* ==== >>api: sessions ==================================================== src/api/train.h ==== */

/* A dictionary in the memory of its context's backend, with room for batches: encodes and
   reconstructs there, with the bits of sae_encode_sparse and sae_forward. One thread at a time. */
typedef struct sae_session sae_session;

/* A copy of dict as it stands; batch_size: the most rows of a call. All memory is taken here.
   Errors: SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED (IDENTITY, variations for other programs' files,
   inactive groups), SAE_ERR_OUT_OF_MEMORY, SAE_ERR_BACKEND. */
SAE_API sae_result sae_session_create(const sae_dictionary *dict, size_t batch_size,
                                      sae_session **out);
SAE_API void sae_session_destroy(sae_session *session);
/* What sae_session_create would hold, by the same plan, without taking it. Errors: the same. */
SAE_API sae_result sae_session_memory(const sae_dictionary *dict, size_t batch_size,
                                      sae_memory *out);
/* As sae_encode_sparse and sae_forward (without f), of x wherever it lies; the results come to host
   memory, and the call waits for them. n = 0 to batch_size rows. Errors: also SAE_ERR_NOT_FINITE
   and SAE_ERR_BACKEND. */
SAE_API sae_result sae_session_encode(sae_session *session, const sae_rows *x, size_t n,
                                      sae_sparse *out);
SAE_API sae_result sae_session_forward(sae_session *session, const sae_rows *x, size_t n,
                                       float *x_hat);

/* ==== >>api: the activation buffer ======================================= src/api/train.h ==== */

/* Rows of activations: exactly one of data, files, read. target_*: the rows a transcoder must give,
   row by row with the input's. */
typedef struct sae_source_desc {
    const void *data, *target;          /* memory, [rows,dim] of dtype; must outlive the buffer */
    size_t rows;
    size_t dim;                         /* of data, of raw files, of read */
    sae_dtype dtype;                    /* likewise: F32, F16 or BF16 */
    const char *const *files;           /* .npy, .safetensors, anything else: raw. One stream */
    const char *const *target_files;
    size_t num_files, num_target_files;
    const char *tensor;                 /* of .safetensors with several: its name */
    /* Fills up to max_rows rows of float32 [dim] into x, and into target if that is not NULL;
       returns how many, 0 at the end of data, a negative sae_result to fail. rewind starts over. */
    int64_t (*read)(void *user, float *x, float *target, size_t max_rows);
    sae_result (*rewind)(void *user);   /* NULL: cannot be rewound */
    bool has_target;                    /* read fills target too */
    void *user;
} sae_source_desc;

typedef struct sae_buffer_desc {
    sae_source_desc source;
    size_t batch_size;      /* default 2048 */
    size_t rows;            /* held for shuffling; default: all, at most 256 MiB */
    bool sequential;        /* in order, over and over; a batch never spans the end */
    bool single_pass;       /* SAE_ERR_END_OF_DATA after the last row; default: pass after pass */
    double max_activation_norm_multiple; /* drops rows whose norm exceeds this multiple of the
                                            median; default: none */
    size_t heads;           /* rows are [heads, dim/heads], one trainer each; default 1 */
    uint64_t seed;          /* of the shuffling */
} sae_buffer_desc;

typedef struct sae_buffer sae_buffer;

/* Files are mapped and may be larger than memory; where sae_io has no map they are read whole.
   Errors: SAE_ERR_INVALID, SAE_ERR_MISMATCH (files of different widths, targets of another count),
   SAE_ERR_NOT_FOUND, SAE_ERR_FORMAT, SAE_ERR_UNSUPPORTED, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_buffer_create(sae_context *ctx, const sae_buffer_desc *desc,
                                     sae_buffer **out);
SAE_API void sae_buffer_destroy(sae_buffer *buffer);
/* The next batch: *x [*n,dim] and *target (NULL if the source has none), owned by the buffer until
   the next call. *n is batch_size, or less in the last batch of a single shuffled pass.
   Errors: SAE_ERR_END_OF_DATA, SAE_ERR_NOT_FINITE (file and row in the message), SAE_ERR_IO, read's
   own. */
SAE_API sae_result sae_buffer_next(sae_buffer *buffer, const float **x, const float **target,
                                   size_t *n);
/* From the first batch again, with the same shuffling. Errors: SAE_ERR_UNSUPPORTED (read without
   rewind). */
SAE_API sae_result sae_buffer_rewind(sae_buffer *buffer);
/* What the source holds, which files say by themselves: the width of a row, and how many rows there
   are (0: not known, of read). */
SAE_API size_t sae_buffer_dim(const sae_buffer *buffer);
SAE_API uint64_t sae_buffer_source_rows(const sae_buffer *buffer);

/* ==== >>api: the training loop =========================================== src/api/train.h ==== */

typedef struct sae_progress {
    uint64_t step, steps;       /* step updates of steps are done */
    uint64_t start_step;        /* where this run began: > 0 after a resume */
    uint64_t rows;              /* seen since start_step */
    size_t num_trainers;
    sae_trainer *const *trainers;
    float norm_factor;          /* rows are divided by it; 1 without normalize_activations */
    bool finished;              /* all is written; also where resume finds a finished run, whose
                                   dictionaries are in its folder: these trainers are untrained */
} sae_progress;

typedef struct sae_train_desc {
    sae_buffer_desc buffer;
    const sae_trainer_desc *trainers; /* several share one pass over the data */
    size_t num_trainers;
    uint64_t steps;                   /* required */
    bool normalize_activations;       /* divide by sqrt(mean squared norm) of the first 101 batches;
                                         biases are multiplied by it in everything saved */
    const char *save_dir;             /* default: none. Trainer i goes to save_dir/trainer_i */
    bool flat;                        /* one trainer alone: to save_dir itself */
    const uint64_t *save_steps;       /* checkpoints/ae_STEP.pt, before that step's update */
    size_t num_save_steps;
    uint64_t backup_steps;            /* default: none; every so many steps, enough to resume */
    bool resume;                      /* from the last backup; from the start if there is none */
    uint64_t log_steps;               /* call log every so many steps; default: never */
    void (*log)(void *user, size_t trainer, const sae_stats *stats);
    bool (*progress)(void *user, const sae_progress *progress); /* after each step; false stops */
    void *user;
    /* written into config.json, for other programs */
    const char *io;                   /* "in", "out", "in_and_out"; default: by the target */
    size_t ctx_len;                   /* tokens of a context; default 128 */
} sae_train_desc;

/* Trains all of them and writes config.json, ae.pt, ae.safetensors of each. Stopped by progress it
   writes a backup (where backup_steps is set) and returns SAE_ERR_CANCELLED. Same bits after any
   resume. Errors: those of creating, stepping, saving; SAE_ERR_MISMATCH when a backup, or without
   one the finished run in the folder of a trainer, belongs to other settings or data;
   SAE_ERR_INVALID for trainers whose training diverged into NaN (the message says when);
   SAE_ERR_END_OF_DATA when the rows end before the steps do, after saving what was trained. A
   backup is save_dir/backup.safetensors, gone once the run is finished; a run without resume
   removes one that an earlier run left, and refuses (SAE_ERR_INVALID) a file of that name that is
   no backup. */
SAE_API sae_result sae_train(sae_context *ctx, const sae_train_desc *desc);

/* The same run step by step, with the same files and bits:
       sae_training_create(ctx, &desc, &t);
       const sae_progress *p = sae_training_progress(t);
       while (p->step < p->steps && sae_training_step(t) == SAE_OK) ...
       sae_training_finish(t);
       sae_training_destroy(t);
   It may be left after any step and resumed later, here or by sae_train. One thread at a time, and
   one run at a time in a save_dir. */
typedef struct sae_training sae_training;

/* All that comes before the first step: trainers, folders, and with resume the last backup. desc is
   copied, but not the rows in memory that its buffer names. desc.log is called by steps,
   desc.progress by sae_train alone. Errors: as sae_train's. */
SAE_API sae_result sae_training_create(sae_context *ctx, const sae_train_desc *desc,
                                       sae_training **out);
/* Leaves the files as the last step, save or finish left them. */
SAE_API void sae_training_destroy(sae_training *training);
/* Where it stands: owned by training, and kept up to date. Look at its trainers, do not step
   them. */
SAE_API const sae_progress *sae_training_progress(const sae_training *training);
/* The checkpoints and the backup that are due, then one update of every trainer. Errors: when
   reading rows or writing files fails, and with SAE_ERR_END_OF_DATA, nothing was updated and it may
   be called again; when an update fails, or finds a loss that is not finite, this and all later
   calls fail (SAE_ERR_INVALID) and the last backup is what is left. SAE_ERR_INVALID, with nothing
   changed, when all steps are done. */
SAE_API sae_result sae_training_step(sae_training *training);
/* Writes the backup now, from which desc.resume goes on. Errors: SAE_ERR_INVALID (no save_dir;
   finished; diverged), SAE_ERR_IO: the backup before is whole, and training may go on. */
SAE_API sae_result sae_training_save(sae_training *training);
/* Writes what sae_train writes at the end, of as many steps as are done (at least one), and removes
   the backup. Then there are no more steps. Errors: as save's; it may be called again. */
SAE_API sae_result sae_training_finish(sae_training *training);

/* ==== >>api: metrics ===================================================== src/api/train.h ==== */

/* The reference's evaluate(): each the mean over the batches. */
#define SAE_METRICS(X)                                                                             \
    X(l2_loss)                      /* mean norm(e) */                                             \
    X(l1_loss)                      /* mean sum |f| */                                             \
    X(l0)                           /* mean count of f != 0 */                                     \
    X(frac_variance_explained)      /* 1 - sum var(e) / sum var(x), unbiased, per column */        \
    X(cossim)                       /* mean cos(x, x_hat) */                                       \
    X(l2_ratio)                     /* mean norm(x_hat) / norm(x) */                               \
    X(relative_reconstruction_bias) /* mean norm(x_hat)^2 / mean x.x_hat */                        \
    X(frac_alive)                   /* share of latents whose sum over all batches is not 0 */

typedef struct sae_metrics {
#define SAE_X(name) double name;
    SAE_METRICS(SAE_X)
#undef SAE_X
} sae_metrics;

typedef struct sae_evaluate_desc {
    sae_buffer_desc buffer;  /* a target is what x_hat is compared with; it may be of another width
                                than the input (output_dim), then in memory or files */
    uint64_t batches;        /* default: as many as one pass has */
    bool normalize_batch;    /* x / mean norm * sqrt(d), as the reference's option */
} sae_evaluate_desc;

/* Errors: those of the buffer, SAE_ERR_MISMATCH (widths), SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_evaluate(const sae_dictionary *dict, const sae_evaluate_desc *desc,
                                sae_metrics *out);

/* Geometric median of n rows x [n,d] by Weiszfeld's iteration from the mean: at most 100 rounds,
   stops when it moves less than 1e-5. out [d]. Errors: SAE_ERR_OUT_OF_MEMORY, SAE_ERR_INVALID. */
SAE_API sae_result sae_geometric_median(sae_context *ctx, const float *x, size_t n, size_t d,
                                        float *out);
/* Gradient pursuit: f [n,m] >= 0 with at most target_l0 latents per row so that f W_dec is near
   x [n,d] (no bias). Errors: SAE_ERR_OUT_OF_MEMORY, SAE_ERR_INVALID. */
SAE_API sae_result sae_grad_pursuit(const sae_dictionary *dict, const float *x, size_t n,
                                    size_t target_l0, float *f);

/* ==== >>api: the reference's experiments ================================= src/api/train.h ==== */

/* STANDARD: x_ghost = sum over latents with mask[i] != 0 of exp(pre_i) W_dec[i], without bias. */
SAE_API sae_result sae_forward_ghost(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint8_t *mask, float *x_ghost);
/* The reference's output_features: f, but for STANDARD_NEW f_i * norm(W_dec[i]). In place. */
SAE_API void sae_output_features(const sae_dictionary *dict, size_t n, float *f);

#endif

/* ==== >>backend ======================================================== src/api/backend.h ==== */

/* A backend is one table of operations on its own ("device") memory; trainers are written over it
   and name no backend. The CPU backend is built in; sae_context_desc.backend names another.

   Contract. Pointers marked D are device memory. Operations are asynchronous, run in the order they
   were called, return nothing and never fail by themselves: an error is kept and returned by every
   status() from then on. Nothing inside a step needs a value back on the host: scalars (losses,
   norms, counts) are written to device memory and read when somebody asks. Matrices are row-major
   with row stride ld, a multiple of 16; floats between d and ld are zero and stay zero. Vectors
   over latents are padded with zeros to a multiple of 16.

   Canonical order, so that every backend gives the same bits:
     product   dot of a row of x with a row of W_enc: one chain of fma over ascending columns,
               from 0
     rows      sums over latents (decode) or batch rows (gradients): one chain of fma over ascending
               indices, from 0 (a base is added last); sums over more than 1024 rows run in blocks
               of 1024 rows, added in order
     dot       dots and norms along d: 16 lanes (lane l takes columns l, l+16, ...), chains of fma,
               then the lanes are added in double 8, 4, 2, 1 apart
     scalars   sums over rows of the batch, and column_sums and weighted_sum: in double, ascending,
               likewise in blocks of 1024 rows where there are more (products of two floats are
               exact in double), and the columns' sums and squares in variance. sum_squares: a dot
               of every 16384 floats, added the same way
     entries   latent_sums and fired: in double, ascending, one chain
     ties      in any top-k: the lower index */

#define SAE_ROW_BLOCK 1024

/* Latents of the batch as lists: row r has count[r] entries at r*stride. */
typedef struct sae_code {
    size_t rows, stride;
    uint32_t *count;  /* D [rows] */
    uint32_t *latent; /* D [rows][stride], ascending in a row; all float arrays alike */
    float *pre;       /* D pre-activation p (GATED: u) */
    float *value;     /* D f; may be the array pre */
    float *gate;      /* D GATED: u + gate_bias */
    float *grad;      /* D dL/dp (GATED: dL/du) */
    float *extra[3];  /* D further gradients of GATED and JUMP_RELU */
    uint64_t *active_bits; /* optional: the lists as bitmaps. D [rows][ceil(m / 64)], latent i in
                              bit i % 64 of word i / 64 */
    bool has_active_bits;  /* set by every encode: whether it filled active_bits */
} sae_code;

typedef enum sae_select {
    SAE_SELECT_ALL,        /* every listed latent; value = p */
    SAE_SELECT_POSITIVE,   /* p > 0 */
    SAE_SELECT_GATE,       /* u + gate_bias > 0, pre = u, bias is gate_bias */
    SAE_SELECT_WINDOW,     /* p > theta, or |(p - theta) / bandwidth| < 1/2 */
    SAE_SELECT_TOP_K,      /* the k largest relu(p) of a row, zeros included */
    SAE_SELECT_BATCH_TOP_K /* the k * n largest relu(p) > 0 of the batch */
} sae_select;

typedef struct sae_encode_args {
    const float *x;             /* D [n][ld] */
    const float *W, *bias;      /* D [m][ld], [m] */
    size_t n, d, ld, m;
    const uint32_t *list;       /* D only these latents, ascending; NULL: all */
    const uint32_t *list_count; /* D one number */
    sae_select select;
    size_t k;                   /* at most list_count are taken */
    const float *theta;         /* D [m] */
    float bandwidth;
    float *warm;                /* D one float: a guess at the threshold, updated; no bit depends
                                   on it */
} sae_encode_args;

#ifndef SAE_NO_TRAIN
/* A code's entries by latent (a stable counting sort): those of latent i are begin[i]..begin[i+1],
   their rows ascending. Where many fire, index may give the rows as bitmaps instead: then `row`
   holds uint64_t [ceil(rows / 64)][m], bit r % 64 of word [r / 64][i] is set where latent i has row
   r. Check has_bits before reading row. */
#define SAE_INDEX_VALUES 5
typedef struct sae_index {
    size_t dict_size, capacity, rows; /* rows of the code it was made from; 0: not known */
    bool has_bits;                    /* set by every index: whether row holds bitmaps */
    size_t *begin;                    /* D [m + 1] */
    uint32_t *row;                    /* D [capacity], or bitmaps */
    float *value[SAE_INDEX_VALUES];   /* D [capacity] each, as many as were asked for */
} sae_index;

typedef enum sae_penalty {
    SAE_PENALTY_L1,     /* sum w_i f_i, w = weight or 1 */
    SAE_PENALTY_LP_P,   /* sum f^p */
    SAE_PENALTY_LP,     /* (sum f^p)^(1/p) */
    SAE_PENALTY_ENTROPY /* -sum q log(q + 1e-8), q = f / (sum f + 1e-8); 0 where sum f = 0 */
} sae_penalty;

/* Upper bounds of every call, fixed when a trainer or session is created. */
typedef struct sae_shape {
    size_t batch, d, ld, dict_size, k;
} sae_shape;

/* The workspace that every operation is passed: made once by a trainer or session. */
typedef struct sae_work {
    const sae_context *ctx;
    void *state;   /* of backend->open */
    void *scratch; /* D, backend->scratch_bytes(shape) */
    sae_shape shape;
} sae_work;

/* Adam (Kingma & Ba 2015) as PyTorch's: eps outside the root, bias-corrected, no weight decay. */
typedef struct sae_adam_desc {
    double lr;
    double beta1; /* 0: there are no first moments */
    double beta2;
    double eps;
} sae_adam_desc;

/* Lazy Adam: rows of W_dec without a gradient are updated later. Nobody reads the rows of silent
   latents, and what Adam does to them meanwhile follows from the steps alone; the bits are the
   same. The update of row i is deferred, and its gradient is 0, if
     enabled && updates >= begun + SAE_LAZY_ADAM_QUIET
             && updates >= last_active[i] + SAE_LAZY_ADAM_QUIET.
   The trainer writes all but what the pointers point at: it counts updates, notes Adam's numbers,
   and calls catch_up at every SAE_LAZY_ADAM_UPDATES-th update at least, so that no row misses more.
   adam_rows sets applied[i] = updates + 1 for each row it updates, enabled or not; catch_up sets
   applied, and last_active[i] = updates for the latents of a code. */
#define SAE_LAZY_ADAM_QUIET 8
#define SAE_LAZY_ADAM_UPDATES 32
typedef struct sae_lazy_adam {
    bool enabled;           /* else all rows take part in all updates */
    float unit;             /* as in adam_rows */
    uint64_t updates;       /* how many there were */
    uint64_t begun;         /* enabled since this one: what last_active says is older */
    sae_adam_desc adam[SAE_LAZY_ADAM_UPDATES]; /* of update u: [u % SAE_LAZY_ADAM_UPDATES] */
    uint64_t t[SAE_LAZY_ADAM_UPDATES];         /* alike */
    uint64_t *last_active;  /* D [m]: the update before which latent i was last listed */
    uint64_t *applied;      /* D [m]: how many updates have been applied to row i */
    uint32_t *num_deferred; /* D one number: how many rows catch_up found deferred */
} sae_lazy_adam;

/* The operations. A row is X(result, name, need, parameters, arguments) and declares
       result name parameters
   which the struct below has as a pointer; arguments repeats the parameters' names, so that a row
   is enough to write a function that calls it (to time it, say). All the rest follows from the
   rows: the tables of the backends here are filled by name, and a table whose required operation is
   NULL is refused when a trainer or session is created. */
enum {
    SAE_OP_REQUIRED,
    SAE_OP_GUARDED,         /* required, and held back once a guard has fired */
    SAE_OP_OPTIONAL,        /* may be NULL */
    SAE_OP_OPTIONAL_GUARDED
};

/* Memory, and the course of a step; of no result. */
#define SAE_BACKEND_CONTROL(X)                                                                     \
    /* open and close make and end the backend's state for one trainer or session */               \
    X(sae_result, open, SAE_OP_REQUIRED, (const sae_context *ctx, void **state), (ctx, state))     \
    X(void, close, SAE_OP_REQUIRED, (const sae_context *ctx, void *state), (ctx, state))           \
    /* zeroed, 64-byte aligned; NULL: none left */                                                 \
    X(void *, alloc, SAE_OP_REQUIRED, (const sae_work *w, size_t bytes), (w, bytes))               \
    X(void, free, SAE_OP_REQUIRED, (const sae_work *w, void *memory), (w, memory))                 \
    /* SIZE_MAX: too large */                                                                      \
    X(size_t, scratch_bytes, SAE_OP_REQUIRED,                                                      \
      (const sae_work *w, const sae_shape *shape), (w, shape))                                     \
    X(void, upload, SAE_OP_REQUIRED,                                                               \
      (const sae_work *w, void *device, const void *host, size_t bytes), (w, device, host, bytes)) \
    /* waits for everything before it */                                                           \
    X(void, download, SAE_OP_REQUIRED,                                                             \
      (const sae_work *w, void *host, const void *device, size_t bytes), (w, host, device, bytes)) \
    X(void, zero, SAE_OP_REQUIRED,                                                                 \
      (const sae_work *w, void *device, size_t bytes), (w, device, bytes))                         \
    /* waits; the first error since open */                                                        \
    X(sae_result, status, SAE_OP_REQUIRED, (const sae_work *w), (w))                               \
    /* Around the operations of a step. Every step makes the same calls with other numbers, so a   \
       backend may record them as a graph. */                                                      \
    X(void, begin_step, SAE_OP_OPTIONAL, (const sae_work *w), (w))                                 \
    X(void, end_step, SAE_OP_OPTIONAL, (const sae_work *w), (w))                                   \
    /* status as far as it is known, without waiting */                                            \
    X(sae_result, poll, SAE_OP_OPTIONAL, (const sae_work *w), (w))                                 \
    /* If *bad, what outlives a step (weights, moments, counters, threshold) is left alone by the  \
       guarded operations from here on, until tripped() has said so. */                            \
    X(void, guard, SAE_OP_OPTIONAL,                                                                \
      (const sae_work *w, const uint32_t *bad, uint64_t step), (w, bad, step))                     \
    /* Whether a guard is known to have fired, and at which step first; then guards start anew */  \
    X(bool, tripped, SAE_OP_OPTIONAL, (const sae_work *w, uint64_t *step), (w, step))

/* Rows of the batch. */
#define SAE_BACKEND_BATCH(X)                                                                       \
    /* x[r][c] = rows[r][c] / divisor; *bad = 1 if any is not finite (else untouched). Host memory \
       is free again on return */                                                                  \
    X(void, load_rows, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, const sae_rows *rows, size_t n, float divisor, float *x, uint32_t *bad), \
      (w, rows, n, divisor, x, bad))                                                               \
    /* out[r] = x[r] - b */                                                                        \
    X(void, subtract, SAE_OP_REQUIRED,                                                             \
      (const sae_work *w, const float *x, const float *b, size_t n, float *out),                   \
      (w, x, b, n, out))                                                                           \
    /* out = a x + y over count floats; y may be NULL (0) and out may be x or y */                 \
    X(void, axpy, SAE_OP_REQUIRED,                                                                 \
      (const sae_work *w, size_t count, float a, const float *x, const float *y, float *out),      \
      (w, count, a, x, y, out))

/* From rows to latents and back. */
#define SAE_BACKEND_FORWARD(X)                                                                     \
    /* the latents that args.select names, of each row: code's count, latent and pre */            \
    X(void, encode, SAE_OP_REQUIRED,                                                               \
      (const sae_work *w, const sae_encode_args *args, sae_code *code), (w, args, code))           \
    /* gate = u + gate_bias, value = relu(exp(r_mag) u + mag_bias) */                              \
    X(void, gate, SAE_OP_REQUIRED,                                                                 \
      (const sae_work *w, const float *gate_bias, const float *r_mag, const float *mag_bias,       \
       sae_code *code), (w, gate_bias, r_mag, mag_bias, code))                                     \
    /* value = p > theta ? p : 0 */                                                                \
    X(void, jump, SAE_OP_REQUIRED,                                                                 \
      (const sae_work *w, const float *theta, sae_code *code), (w, theta, code))                   \
    /* value = exp(pre) */                                                                         \
    X(void, exp_values, SAE_OP_REQUIRED, (const sae_work *w, sae_code *code), (w, code))           \
    /* grad *= value */                                                                            \
    X(void, exp_grad, SAE_OP_REQUIRED, (const sae_work *w, sae_code *code), (w, code))             \
    /* out[r] = base + sum of values[j] W[latent j] over entries with lo <= latent < hi; base is   \
       NULL (0), one row (base_stride 0) or a matrix (base_stride ld); it may be out */            \
    X(void, decode, SAE_OP_REQUIRED,                                                               \
      (const sae_work *w, const sae_code *code, const float *values, const float *W, size_t lo,    \
       size_t hi, const float *base, size_t base_stride, float *out),                              \
      (w, code, values, W, lo, hi, base, base_stride, out))                                        \
    /* e = x_hat - y; loss = mean_r sum e^2; e may be x_hat */                                     \
    X(void, residual, SAE_OP_REQUIRED,                                                             \
      (const sae_work *w, const float *x_hat, const float *y, size_t n, float *e, double *loss),   \
      (w, x_hat, y, n, e, loss))                                                                   \
    /* rows of e to norm 1 (zero rows stay); loss = mean norm */                                   \
    X(void, unit_rows, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, size_t n, float *e, double *loss), (w, n, e, loss))                      \
    /* auxk: r = x_aux + e; pre_norm = mean sum r^2; denominator = mean sum (e - column means)^2;  \
       norm = pre_norm / denominator; r *= 2 alpha / (n denominator); all 0 where norm is not      \
       finite; without any dead latent (*list_count == 0) pre_norm = -1, norm = 0, r = 0. r may be \
       x_aux */                                                                                    \
    X(void, auxk_residual, SAE_OP_REQUIRED,                                                        \
      (const sae_work *w, const float *x_aux, const float *e, size_t n,                            \
       const uint32_t *list_count, double alpha, float *r, double *pre_norm, double *norm),        \
      (w, x_aux, e, n, list_count, alpha, r, pre_norm, norm))                                      \
    /* ghosts: x_g rows scaled by s = norm(e) / (2 norm(x_g) + 1e-8); r = -e - s x_g;              \
       ghost = mean norm(r); out = dL/dx_g of ghost * c, c = mse / (ghost + 1e-8) with mse = mean  \
       norm(e): -(r / norm(r)) s c / n; loss = ghost * c. Nothing (0) if *list_count == 0 */       \
    X(void, ghost_residual, SAE_OP_REQUIRED,                                                       \
      (const sae_work *w, const float *x_g, const float *e, size_t n,                              \
       const uint32_t *list_count, float *out, double *loss),                                      \
      (w, x_g, e, n, list_count, out, loss))

/* Penalties, gradients of entries. */
#define SAE_BACKEND_ENTRIES(X)                                                                     \
    /* loss = mean_r penalty of values; if grad: grad += coef/n dpenalty/dvalue where value > 0 */ \
    X(void, penalty, SAE_OP_REQUIRED,                                                              \
      (const sae_work *w, sae_penalty kind, double p, double coef, const float *weight,            \
       const sae_code *code, const float *values, float *grad, double *loss),                      \
      (w, kind, p, coef, weight, code, values, grad, loss))                                        \
    /* grad[j] = alpha e[r].W[latent j], 0 where relu_of[j] <= 0 (relu_of may be NULL); lo, hi as  \
       in decode */                                                                                \
    X(void, dots, SAE_OP_REQUIRED,                                                                 \
      (const sae_work *w, const sae_code *code, const float *e, const float *W, size_t lo,         \
       size_t hi, float alpha, const float *relu_of, float *grad),                                 \
      (w, code, e, W, lo, hi, alpha, relu_of, grad))                                               \
    /* in: extra[0] = dL/df, extra[1] = dL/dgate. out: extra[0] = dL/dmag (0 unless f > 0),        \
       extra[2] = extra[0] exp(r_mag) u, grad = exp(r_mag) extra[0] + extra[1] */                  \
    X(void, gate_grad, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, const float *r_mag, sae_code *code), (w, r_mag, code))                   \
    /* in: grad = dL/df. out: extra[0] = dL/dtheta of the entry, grad = dL/dp. The L0 term:        \
       loss = coef (l0/target - 1)^2, l0 = mean count of f > theta */                              \
    X(void, jump_grad, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, const float *theta, float bandwidth, double coef, double target,         \
       sae_code *code, double *l0, double *loss),                                                  \
      (w, theta, bandwidth, coef, target, code, l0, loss))                                         \
    /* theta_grad += the L0 term's share of rows where f = 0 without being listed */               \
    X(void, jump_rest, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, const float *theta, float bandwidth, double coef, double target,         \
       const double *l0, const sae_index *index, size_t n, float *theta_grad),                     \
      (w, theta, bandwidth, coef, target, l0, index, n, theta_grad))

/* By latent. */
#define SAE_BACKEND_LATENTS(X)                                                                     \
    /* the code's entries by latent, with `count` of its float arrays as index.value */            \
    X(void, index, SAE_OP_REQUIRED,                                                                \
      (const sae_work *w, const sae_code *code, const float *const *values, size_t count,          \
       sae_index *index), (w, code, values, count, index))                                         \
    /* out[i] = alpha sum value[which][j] x[row j], + out[i] if add; latents lo..hi */             \
    X(void, latent_rows, SAE_OP_REQUIRED,                                                          \
      (const sae_work *w, const sae_index *index, size_t which, const float *x, size_t lo,         \
       size_t hi, float alpha, bool add, float *out),                                              \
      (w, index, which, x, lo, hi, alpha, add, out))                                               \
    /* out[i] = sum value[which][j], + out[i] if add */                                            \
    X(void, latent_sums, SAE_OP_REQUIRED,                                                          \
      (const sae_work *w, const sae_index *index, size_t which, bool add, float *out),             \
      (w, index, which, add, out))                                                                 \
    /* since[i] += step, or 0 where latent i fired: has entries (which < 0) or a positive sum of   \
       value[which] */                                                                             \
    X(void, fired, SAE_OP_GUARDED,                                                                 \
      (const sae_work *w, const sae_index *index, int which, uint64_t step, uint64_t *since),      \
      (w, index, which, step, since))                                                              \
    /* latents with since >= threshold, ascending */                                               \
    X(void, list_silent, SAE_OP_REQUIRED,                                                          \
      (const sae_work *w, const uint64_t *since, uint64_t threshold, size_t m, uint32_t *list,     \
       uint32_t *count), (w, since, threshold, m, list, count))

/* Sums over rows and columns. */
#define SAE_BACKEND_SUMS(X)                                                                        \
    /* out = alpha sum_r x_r */                                                                    \
    X(void, column_sums, SAE_OP_REQUIRED,                                                          \
      (const sae_work *w, const float *x, size_t n, float alpha, float *out),                      \
      (w, x, n, alpha, out))                                                                       \
    /* out += alpha sum_i s_i W_i */                                                               \
    X(void, weighted_sum, SAE_OP_REQUIRED,                                                         \
      (const sae_work *w, const float *W, const float *s, size_t m, float alpha, float *out),      \
      (w, W, s, m, alpha, out))                                                                    \
    /* of count floats */                                                                          \
    X(void, sum_squares, SAE_OP_REQUIRED,                                                          \
      (const sae_work *w, const float *x, size_t count, double *out), (w, x, count, out))          \
    /* of each column, with n - 1; their sum */                                                    \
    X(void, variance, SAE_OP_REQUIRED,                                                             \
      (const sae_work *w, const float *x, size_t n, double *out), (w, x, n, out))                  \
    /* entries with value != 0 of a row, the mean over the rows */                                 \
    X(void, count_nonzero, SAE_OP_REQUIRED,                                                        \
      (const sae_work *w, const sae_code *code, double *mean), (w, code, mean))

/* Weights and their updates. */
#define SAE_BACKEND_WEIGHTS(X)                                                                     \
    /* out[i] = norm of W_i */                                                                     \
    X(void, row_norms, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, const float *W, size_t m, float *out), (w, W, m, out))                   \
    /* the decoder's share of the penalty sum_i norms_i^power f_i, power 1 or 2:                   \
       weight_i = norms_i^power */                                                                 \
    X(void, norm_weight, SAE_OP_REQUIRED,                                                          \
      (const sae_work *w, const float *norms, int power, size_t m, float *weight),                 \
      (w, norms, power, m, weight))                                                                \
    /* grad_i += coef power norms_i^(power-2) sums_i W_i */                                        \
    X(void, norm_grad, SAE_OP_REQUIRED,                                                            \
      (const sae_work *w, const float *W, const float *norms, const float *sums, int power,        \
       float coef, size_t m, float *grad), (w, W, norms, sums, power, coef, m, grad))              \
    /* grad_i less its part along W_i, whose norm is taken as norm(W_i) + eps.                     \
       lazy: NULL, or deferred rows are left out; they have no gradient */                         \
    X(void, remove_parallel, SAE_OP_REQUIRED,                                                      \
      (const sae_work *w, const float *W, size_t m, float eps, const sae_lazy_adam *lazy,          \
       float *grad), (w, W, m, eps, lazy, grad))                                                   \
    /* W_i /= norm(W_i) + eps */                                                                   \
    X(void, normalize_rows, SAE_OP_GUARDED,                                                        \
      (const sae_work *w, size_t m, float eps, float *W), (w, m, eps, W))                          \
    /* grads first multiplied by min(1, max_norm / (sqrt(*sum_squares) + 1e-6)) unless NULL */     \
    X(void, adam, SAE_OP_GUARDED,                                                                  \
      (const sae_work *w, const sae_adam_desc *adam, uint64_t t, const double *sum_squares,        \
       double max_norm, float *param, const float *grad, float *first, float *second,              \
       size_t count), (w, adam, t, sum_squares, max_norm, param, grad, first, second, count))      \
    /* by_row: mean over rows of the smallest positive value; else: the smallest positive value of \
       all, 0 if none. threshold = that if threshold < 0, else beta threshold + (1 - beta) that */ \
    X(void, update_threshold, SAE_OP_GUARDED,                                                      \
      (const sae_work *w, const sae_code *code, bool by_row, double beta, float *threshold),       \
      (w, code, by_row, beta, threshold))                                                          \
    /* Weiszfeld's algorithm, from the mean, at most 100 rounds */                                 \
    X(void, geometric_median, SAE_OP_GUARDED,                                                      \
      (const sae_work *w, const float *x, size_t n, float *out), (w, x, n, out))                   \
    /* Draws c = min(dead, n) rows of x with probability ~ norm(e), without replacement, and       \
       restarts the first c dead latents (since > threshold) with them:                            \
         W_enc = x 0.2 mean norm of the living rows, W_dec = x / norm(x), biases 0, moments 0.     \
       enc, dec, biases[i]: param, first, second (first may be NULL) */                            \
    X(void, resample, SAE_OP_GUARDED,                                                              \
      (const sae_work *w, const float *x, const float *e, size_t n, const uint64_t *since,         \
       uint64_t threshold, size_t m, uint64_t seed, uint64_t step, float *const enc[3],            \
       float *const dec[3], float *const (*biases)[3], size_t num_biases),                         \
      (w, x, e, n, since, threshold, m, seed, step, enc, dec, biases, num_biases))

/* Several operations in one reading of memory, with the same bits. NULL: one after the other. */
#define SAE_BACKEND_FUSED(X)                                                                       \
    /* index and latent_sums of these values of entries; where it is there, the trainers index     \
       only value and grad */                                                                      \
    X(void, code_sums, SAE_OP_OPTIONAL,                                                            \
      (const sae_work *w, const sae_code *code, const float *values, size_t m, bool add,           \
       float *out), (w, code, values, m, add, out))                                                \
    /* decode (values, all latents, base [ld]), residual and dots */                               \
    X(void, reconstruct, SAE_OP_OPTIONAL,                                                          \
      (const sae_work *w, const sae_code *code, const float *values, const float *W,               \
       const float *base, const float *y, float alpha, const float *relu_of, float *e,             \
       double *loss, float *grad), (w, code, values, W, base, y, alpha, relu_of, e, loss, grad))   \
    /* remove_parallel if project >= 0 (its eps), adam, normalize_rows if unit >= 0 (its eps), of  \
       param [m][ld]; grad is left projected. lazy as there; sets applied of the rows it updates */\
    X(void, adam_rows, SAE_OP_OPTIONAL_GUARDED,                                                    \
      (const sae_work *w, const sae_adam_desc *adam, uint64_t t, const double *sum_squares,        \
       double max_norm, float project, float unit, const sae_lazy_adam *lazy, size_t m,            \
       float *param, float *grad, float *first, float *second),                                    \
      (w, adam, t, sum_squares, max_norm, project, unit, lazy, m, param, grad, first, second))     \
    /* Applies to the rows of the latents that code lists the updates that they missed, each an    \
       adam_rows with a gradient of zeros, and defers them no more. code NULL: to all rows, which  \
       stay deferred. The operation NULL: no update is ever deferred. */                           \
    X(void, catch_up, SAE_OP_OPTIONAL,                                                             \
      (const sae_work *w, const sae_code *code, const sae_lazy_adam *lazy, size_t m, float *param, \
       float *first, float *second), (w, code, lazy, m, param, first, second))

/* All that compute. */
#define SAE_BACKEND_OPERATIONS(X)                                                                  \
    SAE_BACKEND_BATCH(X)                                                                           \
    SAE_BACKEND_FORWARD(X)                                                                         \
    SAE_BACKEND_ENTRIES(X)                                                                         \
    SAE_BACKEND_LATENTS(X)                                                                         \
    SAE_BACKEND_SUMS(X)                                                                            \
    SAE_BACKEND_WEIGHTS(X)                                                                         \
    SAE_BACKEND_FUSED(X)

#define SAEI_MEMBER(result, name, need, parameters, arguments) result(*name) parameters;
struct sae_backend {
    const char *name;
    bool host_memory; /* device pointers can be read by the host */
    SAE_BACKEND_CONTROL(SAEI_MEMBER)
    SAE_BACKEND_OPERATIONS(SAEI_MEMBER)
};
#undef SAEI_MEMBER

/* The built-in table: what sae_context_desc.backend NULL means, and a start for one of your own. */
SAE_API const sae_backend *sae_cpu_backend(void);

/* For those who write a backend. Memory on 64-byte boundaries from the context's allocator, not
   zeroed; NULL: none left. */
SAE_API void *sae_backend_alloc(const sae_context *ctx, size_t bytes);
SAE_API void sae_backend_free(const sae_context *ctx, void *memory); /* NULL is fine */
/* Keeps the sentence for sae_error (cut after 1023 bytes) and returns result. */
SAE_API sae_result sae_backend_fail(const sae_context *ctx, sae_result result, const char *text);
SAE_API const void *sae_context_backend_desc(const sae_context *ctx); /* of sae_context_desc */
#endif /* SAE_NO_TRAIN */

#ifdef SAE_CUDA
#define SAEI_CUDA_DECLARED

/* ==== >>cuda ============================================================== src/api/cuda.h ==== */

/* NVIDIA GPUs: sae_cuda.cuh. Either compile the one file with SAE_IMPLEMENTATION by nvcc, with
   SAE_CUDA defined too; or leave that file to any C compiler and add one .cu file:
       #define SAE_CUDA
       #define SAE_CUDA_IMPLEMENTATION
       #include "sae.h"
   Link with cudart and cublasLt. Weights, losses and files are those of the CPU, bit for bit. */
typedef struct sae_cuda_desc {
    int device;   /* its CUDA number; default 0. Calls leave it current for their thread */
    void *stream; /* cudaStream_t that everything runs on; default: a stream of its own */
    int screen;   /* encode first by a 16-bit product that proposes candidates. Default 0: where it
                     pays; 1: always; -1: never. No bit of a result depends on it */
    int dense;    /* sum over lists of latents as if they were dense matrices. Values as screen */
} sae_cuda_desc;

/* The table for sae_context_desc.backend; sae_cuda_desc goes into backend_desc. Creating a trainer
   or session fails with SAE_ERR_BACKEND where there is no device or no driver, with SAE_ERR_INVALID
   where there is no device of that number. */
SAE_API const sae_backend *sae_cuda_backend(void);

#endif

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* SAE_H_INCLUDED */

/* ============================================================================================== *
 *                                        IMPLEMENTATION                                          *
 * ============================================================================================== */
/* A file says what it wants before it includes sae.h for the first time. */
#if defined(SAE_CUDA_IMPLEMENTATION) && !defined(SAE_CUDA)
#error "sae.h: SAE_CUDA_IMPLEMENTATION needs SAE_CUDA to be defined too"
#elif defined(SAE_CUDA) && !defined(SAEI_CUDA_DECLARED)
#error "sae.h: SAE_CUDA must be defined where this file includes sae.h for the first time"
#elif defined(SAEI_IMPLEMENTED) && defined(SAE_IMPLEMENTATION) && !defined(SAEI_LIBRARY_IMPLEMENTED)
#error "sae.h: SAE_IMPLEMENTATION must be defined with SAE_CUDA_IMPLEMENTATION, or in another file"
#elif defined(SAEI_IMPLEMENTED) && defined(SAE_CUDA_IMPLEMENTATION)                                \
    && !defined(SAE_CUDA_CUH_INCLUDED)
#error "sae.h: SAE_CUDA_IMPLEMENTATION must be defined with SAE_IMPLEMENTATION, or in another file"
#endif
#if (defined(SAE_IMPLEMENTATION) || (defined(SAE_CUDA) && defined(SAE_CUDA_IMPLEMENTATION)))       \
    && !defined(SAEI_IMPLEMENTED)
#define SAEI_IMPLEMENTED

/* Floating point: every multiply-add that shall be fused is written as one, nothing else may be. */
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)          \
    || defined(_M_FP_FAST)
#error "sae.h: compile the file with SAE_IMPLEMENTATION without -ffast-math / -Ofast"
#endif
#if defined(__CUDACC__) /* it hands GCC's pragmas on, with a warning; 187: = inside an expression */
#pragma nv_diag_suppress 1675, 187
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#if defined(__OPTIMIZE__)
#define SAEI_FOR_SIZE
#endif
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

/* ==== >>math ============================================================= src/base/math.h ==== */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* For the host and for a GPU. Functions whose last bit differs between C libraries may not touch a
   result. These use only + - * / sqrt and fma, which IEEE 754 fixes, so they give the same bits
   everywhere. A GPU's compiler would fuse a product and a sum unless it is told not to: hence
   SAEI_TIMES. They are inlined into kernels, where fma is one instruction and not a call. */
#if defined(__CUDACC__) || defined(SAEI_EMULATED_CUDA)
#define SAEI_INLINE __host__ __device__ static inline
#elif defined(__GNUC__)
#define SAEI_INLINE static inline __attribute__((always_inline))
#else
#define SAEI_INLINE static inline
#endif
#if defined(__CUDA_ARCH__)
#define SAEI_TIMES(a, b) __dmul_rn(a, b)
#else
#define SAEI_TIMES(a, b) ((a) * (b))
#endif

/* -- whole numbers -- */

SAEI_INLINE size_t saei_min(size_t a, size_t b) { return a < b ? a : b; }
SAEI_INLINE size_t saei_max(size_t a, size_t b) { return a > b ? a : b; }
SAEI_INLINE size_t saei_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
SAEI_INLINE size_t saei_align16(size_t a) { return (a + 15) / 16 * 16; } /* in whole vectors */

/* -- exp, ln, pow -- */

SAEI_INLINE double saei_from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* e^x to about one unit in the last place: x = n ln2 + r, |r| <= ln2/2, Taylor to r^13. */
SAEI_INLINE double saei_exp(double x) {
    const double coef[] = { 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                            1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                            1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0 };
    double n, r, y;
    int e;
    if (x != x) return x;
    if (x > 709.78) return HUGE_VAL;
    if (x < -745.2) return 0;
    n = floor(fma(x, 1.4426950408889634, 0.5));
    r = fma(-n, 6.93147180369123816490e-01, x);
    r = fma(-n, 1.90821492927058770002e-10, r);
    y = coef[0];
    for (int i = 1; i < 14; i++) y = fma(y, r, coef[i]);
    e = (int)n;
    if (e < -1000)
        return SAEI_TIMES(SAEI_TIMES(y, saei_from_bits((uint64_t)(e + 1023 + 200) << 52)),
                          6.223015277861142e-61);
    if (e > 1023)
        return SAEI_TIMES(SAEI_TIMES(y, 2.0), saei_from_bits((uint64_t)(e - 1 + 1023) << 52));
    return SAEI_TIMES(y, saei_from_bits((uint64_t)(e + 1023) << 52));
}

/* ln x to about one unit in the last place: x = 2^e f, f in [sqrt(1/2), sqrt(2)),
   ln f = 2 atanh(s), s = (f-1)/(f+1). */
SAEI_INLINE double saei_ln(double x) {
    uint64_t bits;
    double f, s, z, y;
    int e = 0;
    if (x != x || x < 0) return (double)NAN;
    if (x == 0) return -HUGE_VAL;
    if (x > DBL_MAX) return x;
    if (x < DBL_MIN) {
        x = SAEI_TIMES(x, 18014398509481984.0); /* 2^54 */
        e = -54;
    }
    memcpy(&bits, &x, sizeof bits);
    e += (int)(bits >> 52) - 1023;
    f = saei_from_bits((bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    if (f > 1.4142135623730951) {
        f = SAEI_TIMES(f, 0.5);
        e++;
    }
    s = (f - 1) / (f + 1);
    z = SAEI_TIMES(s, s);
    y = 0;
    for (int i = 23; i >= 3; i -= 2) y = fma(y, z, 1.0 / i);
    y = fma(SAEI_TIMES(y, z), SAEI_TIMES(2.0, s), SAEI_TIMES(2.0, s));
    return fma((double)e, 6.93147180369123816490e-01,
               fma((double)e, 1.90821492927058770002e-10, y));
}

SAEI_INLINE double saei_pow(double x, double p) { /* x >= 0 */
    if (p == 0 || x == 1) return 1;
    if (p == 1) return x;
    if (x == 0) return p > 0 ? 0 : HUGE_VAL;
    return saei_exp(SAEI_TIMES(p, saei_ln(x)));
}

/* -- random bits -- */

/* Philox4x32-10 (Salmon et al. 2011): out = function of (counter, key), so that a draw needs no
   state and is the same on every backend. Known answers in tests/. */
SAEI_INLINE void saei_philox(const uint32_t counter[4], const uint32_t key[2],
                             uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}
/* Streams keep draws for different purposes apart under one seed. */
enum {
    SAEI_STREAM_INIT = 1, SAEI_STREAM_SHUFFLE = 2, SAEI_STREAM_RESAMPLE = 3,
    SAEI_STREAM_INIT_BIAS = 4
};

/* Block `block` of a stream under a seed: draws 2 block and 2 block + 1. */
SAEI_INLINE void saei_draw_block(uint64_t seed, uint32_t stream, uint64_t block, uint32_t out[4]) {
    uint32_t counter[4], key[2];
    counter[0] = (uint32_t)block;
    counter[1] = (uint32_t)(block >> 32);
    counter[2] = stream;
    counter[3] = 0;
    key[0] = (uint32_t)seed;
    key[1] = (uint32_t)(seed >> 32);
    saei_philox(counter, key, out);
}
/* Draw i, 64 random bits, of the block i / 2. */
SAEI_INLINE uint64_t saei_draw_bits(const uint32_t block[4], uint64_t i) {
    return i & 1 ? (uint64_t)block[3] << 32 | block[2] : (uint64_t)block[1] << 32 | block[0];
}
/* 64 random bits as a number in the open interval (0, 1): an odd multiple of 2^-53. */
SAEI_INLINE double saei_draw_uniform(uint64_t bits) {
    return SAEI_TIMES((double)(bits >> 11 | 1), 1.1102230246251565e-16);
}

#ifndef SAE_NO_TRAIN

/* ==== >>math: Adam ======================================================= src/base/adam.h ==== */

typedef struct saei_adam_factors {
    float keep1, keep2;      /* 1 - beta1, 1 - beta2 */
    float beta2, root2;      /* root2 = sqrt(1 - beta2^t) */
    float step, eps, scale;  /* step = lr / (1 - beta1^t); scale multiplies the gradient */
} saei_adam_factors;

/* beta^t by multiplication, so that no pow() touches the result. */
static inline double saei_power_of(double beta, uint64_t t) {
    double result = 1;
    for (; t; t >>= 1, beta *= beta)
        if (t & 1) result *= beta;
    return result;
}

/* What update t (from 1 on) multiplies by, for every backend. */
static inline saei_adam_factors saei_adam_step_of(const sae_adam_desc *adam, uint64_t t,
                                                  double scale) {
    saei_adam_factors c;
    c.keep1 = (float)(1 - adam->beta1);
    c.keep2 = (float)(1 - adam->beta2);
    c.beta2 = (float)adam->beta2;
    c.root2 = (float)sqrt(1 - saei_power_of(adam->beta2, t));
    c.step = (float)(adam->lr / (1 - saei_power_of(adam->beta1, t)));
    c.eps = (float)adam->eps;
    c.scale = (float)scale;
    return c;
}

/* What brings gradients whose squares add up to sum_squares to the norm max_norm, at most 1. */
SAEI_INLINE double saei_clip_factor(double sum_squares, double max_norm) {
    double factor = max_norm / (sqrt(sum_squares) + 1e-6);
    return factor < 1 ? factor : 1;
}

#endif

#ifdef SAE_IMPLEMENTATION
#define SAEI_LIBRARY_IMPLEMENTED

/* ==== >>system ========================================================= src/base/system.h ==== */
#if defined(__MINGW32__) && !defined(__USE_MINGW_ANSI_STDIO)
#define __USE_MINGW_ANSI_STDIO 1 /* %zu, %lld and the length that snprintf would need */
#endif
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_MSC_VER)
#include <intrin.h>
#elif !defined(__GNUC__) && defined(__cplusplus)
#include <atomic>
#elif !defined(__GNUC__)
#include <stdatomic.h>
#endif
#if defined(SAE_NO_STDIO)
/* nothing of the system's: no files, no maps */
#elif defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#if defined(O_CLOEXEC)
#define SAEI_CLOEXEC O_CLOEXEC
#else
#define SAEI_CLOEXEC 0
#endif
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(SAE_CBLAS)
#if defined(SAE_CBLAS_HEADER)
#include SAE_CBLAS_HEADER
#else
#include <cblas.h>
#endif
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD > 0 && FLT_EVAL_METHOD != 16
#error "sae.h: floats are evaluated wider than they are; on 32-bit x86 add -msse2 -mfpmath=sse"
#endif
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define SAEI_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__)
#define SAEI_NEON 1
#include <arm_neon.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ==== >>math: random numbers =========================================== src/base/random.h ==== */
/* A stream of draws under a seed. Draw i is half of what block i / 2 gives; the block last used is
   kept for its other half. */
typedef struct saei_random {
    uint64_t seed, block;
    uint32_t stream, out[4];
    bool kept;
} saei_random;

static saei_random saei_random_of(uint64_t seed, uint32_t stream) {
    saei_random r;
    memset(&r, 0, sizeof r);
    r.seed = seed;
    r.stream = stream;
    return r;
}

/* Draw number i: 64 random bits. */
static uint64_t saei_random_bits(saei_random *r, uint64_t i) {
    if (!r->kept || r->block != i >> 1) {
        r->block = i >> 1;
        r->kept = true;
        saei_draw_block(r->seed, r->stream, r->block, r->out);
    }
    return saei_draw_bits(r->out, i);
}

/* In the open interval (0, 1). */
static double saei_random_uniform(saei_random *r, uint64_t i) {
    return saei_draw_uniform(saei_random_bits(r, i));
}

/* Standard normal by the inverse distribution function, algorithm AS 241 PPND16 (Wichura 1988). */
static double saei_polynomial(const double *c, int degree, double x) {
    double y = c[degree];
    while (degree-- > 0) y = fma(y, x, c[degree]);
    return y;
}
static double saei_random_normal(saei_random *random, uint64_t i) {
    static const double a[] = { 3.3871328727963666080e0, 1.3314166789178437745e2,
                                1.9715909503065514427e3, 1.3731693765509461125e4,
                                4.5921953931549871457e4, 6.7265770927008700853e4,
                                3.3430575583588128105e4, 2.5090809287301226727e3 };
    static const double b[] = { 1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
                                5.3941960214247511077e3, 2.1213794301586595867e4,
                                3.9307895800092710610e4, 2.8729085735721942674e4,
                                5.2264952788528545610e3 };
    static const double c[] = { 1.42343711074968357734e0, 4.63033784615654529590e0,
                                5.76949722146069140550e0, 3.64784832476320460504e0,
                                1.27045825245236838258e0, 2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4 };
    static const double d[] = { 1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
                                6.89767334985100004550e-1, 1.48103976427480074590e-1,
                                1.51986665636164571966e-2, 5.47593808499534494600e-4,
                                1.05075007164441684324e-9 };
    static const double e[] = { 6.65790464350110377720e0, 5.46378491116411436990e0,
                                1.78482653991729133580e0, 2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7 };
    static const double f[] = { 1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
                                1.48753612908506148525e-2, 7.86869131145613259100e-4,
                                1.84631831751005468180e-5, 1.42151175831644588870e-7,
                                2.04426310338993978564e-15 };
    double p = saei_random_uniform(random, i), q = p - 0.5, r, x;
    if (fabs(q) <= 0.425) {
        r = fma(-q, q, 0.180625);
        return q * saei_polynomial(a, 7, r) / saei_polynomial(b, 7, r);
    }
    r = sqrt(-saei_ln(q < 0 ? p : 1 - p));
    if (r <= 5) x = saei_polynomial(c, 7, r - 1.6) / saei_polynomial(d, 7, r - 1.6);
    else x = saei_polynomial(e, 7, r - 5) / saei_polynomial(f, 7, r - 5);
    return q < 0 ? -x : x;
}

/* ==== >>platform ===================================================== src/base/platform.h ==== */

#define SAEI_PRINTF SAE_PRINTF
#if defined(__GNUC__)
#define SAEI_PREFETCH(p) __builtin_prefetch(p)
#else
#define SAEI_PREFETCH(p) (void)(p)
#endif

#define SAEI_TRY(call)                                                                             \
    do {                                                                                           \
        sae_result saei_try_result = (call);                                                       \
        if (saei_try_result != SAE_OK) return saei_try_result;                                     \
    } while (0)

#if defined(__GNUC__)
#define SAEI_NOINLINE __attribute__((noinline))
#elif defined(_MSC_VER)
#define SAEI_NOINLINE __declspec(noinline)
#else
#define SAEI_NOINLINE
#endif

typedef struct saei_kernels saei_kernels; /* >>kernels */
typedef struct saei_block saei_block;     /* >>context */

struct sae_context {
    sae_allocator allocator;
    sae_logger logger;
    sae_io io;
    sae_pool pool;
    int threads; /* >= 1: workers of a parallel call */
    const sae_backend *backend; /* NULL: the CPU */
    const void *backend_desc;
    const saei_kernels *kernels;
    saei_block *blocks; /* [num_blocks]: inference works in them */
    size_t num_blocks;
    int lock; /* guards error: a spin lock, held for a memcpy */
    char error[1024];
};

/* Takes *lock or gives it back (to 0); returns what it was. */
static int saei_lock_exchange(int *lock, int to) {
#if defined(__GNUC__)
    return __atomic_exchange_n(lock, to, to ? __ATOMIC_ACQUIRE : __ATOMIC_RELEASE);
#elif defined(_MSC_VER)
    return (int)_InterlockedExchange((volatile long *)lock, to);
#elif defined(__cplusplus)
    return reinterpret_cast<std::atomic<int> *>(lock)->exchange(to);
#elif __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_ATOMICS__)
    return atomic_exchange((_Atomic int *)lock, to);
#else
#error "sae.h: this compiler has no atomic exchange that is known here: compile as C11 or C++11"
#endif
}

/* False where another has it. */
static bool saei_try_lock(int *lock) { return !saei_lock_exchange(lock, 1); }

static void saei_lock(int *lock) {
    while (saei_lock_exchange(lock, 1)) {}
}

static void saei_unlock(int *lock) { saei_lock_exchange(lock, 0); }

static void saei_log(const sae_context *ctx, sae_log_level level, const char *format, ...)
    SAEI_PRINTF(3, 4);
static void saei_log(const sae_context *ctx, sae_log_level level, const char *format, ...) {
    char text[1024];
    va_list args;
    if (!ctx || !ctx->logger.log) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ctx->logger.log(level, SAE_OK, text, ctx->logger.user);
}

/* Records the sentence and returns result, so that `return saei_fail(ctx, SAE_ERR_INVALID, ...)`
   reads as one step. ctx is const because inference fails through it too; a lock guards the
   message. */
static sae_result saei_fail(const sae_context *ctx, sae_result result, const char *format, ...)
    SAEI_PRINTF(3, 4);
static sae_result saei_fail(const sae_context *ctx, sae_result result, const char *format, ...) {
    char text[1024];
    sae_context *c = (sae_context *)(uintptr_t)ctx;
    va_list args;
    if (!ctx) return result;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    saei_lock(&c->lock);
    memcpy(c->error, text, sizeof text);
    saei_unlock(&c->lock);
    if (ctx->logger.log) ctx->logger.log(SAE_LOG_ERROR, result, text, ctx->logger.user);
    return result;
}

/* Sizes: false when the true result does not fit. */
static bool saei_mul(size_t a, size_t b, size_t *out) {
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}
static bool saei_add(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) return false;
    *out = a + b;
    return true;
}

/* Where the next `count` things of `size` bytes go in a block of which *at bytes are used; on
   64-byte boundaries. *at SIZE_MAX: more than there can be. */
static size_t saei_place(size_t *at, size_t count, size_t size) {
    size_t here = *at, bytes;
    if (here == SIZE_MAX || !saei_mul(count, size, &bytes) || !saei_add(here, bytes, &bytes)
        || bytes > SIZE_MAX - 63) {
        *at = SIZE_MAX;
        return 0;
    }
    *at = (bytes + 63) & ~(size_t)63;
    return here;
}

/* The place itself in a block at base; NULL while there is none and only *at moves on. */
static void *saei_piece(unsigned char *base, size_t *at, size_t count, size_t size) {
    size_t here = saei_place(at, count, size);
    return base ? base + here : NULL;
}

static uint32_t saei_float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static float saei_bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static uint64_t saei_to_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Whether none of n floats, at any address, is NaN or infinite. */
static bool saei_all_finite(const void *x, size_t n) {
    uint32_t bits, bad = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, (const unsigned char *)x + i * sizeof bits, sizeof bits);
        bad |= (uint32_t)((bits & 0x7F800000u) == 0x7F800000u);
    }
    return !bad;
}

/* Asks for huge pages inside a large block, where the system has them: a page fault costs as much
   as filling the page, large dictionaries are walked by columns too, and a step reads rows in no
   order (15 % of such a reading). */
static void saei_hint_huge(void *memory, size_t size) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = (uintptr_t)1 << 21;
    uintptr_t begin = (uintptr_t)memory / page * page + page, end = (uintptr_t)memory + size;
    if (size < 2 * page) return;
    madvise((void *)begin, (size_t)(end / page * page - begin), MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}

/* Memory on 64-byte boundaries from the caller's allocator; the original pointer sits in front.
   NULL when there is none (also for count * size too large). Not zeroed. */
enum { SAEI_ALLOC_EXTRA = 64 + sizeof(void *) };
static void *saei_alloc(const sae_context *ctx, size_t count, size_t size) {
    size_t bytes;
    unsigned char *base, *at;
    if (!saei_mul(count, size, &bytes) || !saei_add(bytes, SAEI_ALLOC_EXTRA, &bytes))
        return NULL;
    base = (unsigned char *)ctx->allocator.alloc(bytes, ctx->allocator.user);
    if (!base) return NULL;
    saei_hint_huge(base, bytes);
    at = base + sizeof(void *);
    at += (64 - ((uintptr_t)at & 63)) & 63;
    memcpy(at - sizeof(void *), &base, sizeof base);
    return at;
}

static void *saei_calloc(const sae_context *ctx, size_t count, size_t size) {
    void *p = saei_alloc(ctx, count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

static SAEI_NOINLINE void saei_free(const sae_context *ctx, const void *memory) {
    void *base;
    if (!memory) return;
    memcpy(&base, (const unsigned char *)memory - sizeof(void *), sizeof base);
    ctx->allocator.free(base, ctx->allocator.user);
}

#ifndef SAE_NO_TRAIN
SAE_API void *sae_backend_alloc(const sae_context *ctx, size_t bytes) {
    return saei_alloc(ctx, bytes, 1);
}
SAE_API void sae_backend_free(const sae_context *ctx, void *memory) { saei_free(ctx, memory); }
SAE_API sae_result sae_backend_fail(const sae_context *ctx, sae_result result, const char *text) {
    return saei_fail(ctx, result, "%s", text);
}
SAE_API const void *sae_context_backend_desc(const sae_context *ctx) { return ctx->backend_desc; }
#endif

static char *saei_strdup(const sae_context *ctx, const char *text) {
    size_t n = strlen(text) + 1;
    char *p = (char *)saei_alloc(ctx, n, 1);
    if (p) memcpy(p, text, n);
    return p;
}

/* fn(arg, part, worker) for every part in 0..parts, on as many workers as the context has: worker
   is below ctx->threads, and no two parts that run at the same time have the same. The parts are
   fixed by the caller, so no result can depend on the number of threads. */
static void saei_parallel_workers(const sae_context *ctx, size_t parts, sae_part_fn fn, void *arg) {
    if (parts > 1 && ctx->pool.run) {
        ctx->pool.run(parts, fn, arg, ctx->pool.user);
        return;
    }
#if defined(_OPENMP)
    if (parts > 1 && ctx->threads > 1) {
        long long i, n = (long long)parts;
#pragma omp parallel for schedule(dynamic, 1) num_threads(ctx->threads)
        for (i = 0; i < n; i++) fn(arg, (size_t)i, (size_t)omp_get_thread_num());
        return;
    }
#endif
    for (size_t i = 0; i < parts; i++) fn(arg, i, 0);
}

/* The same for parts that need no memory of their worker's. */
typedef void (*saei_part_fn)(void *arg, size_t part);
typedef struct saei_parts {
    saei_part_fn fn;
    void *arg;
} saei_parts;
static void saei_parts_run(void *arg, size_t part, size_t worker) {
    const saei_parts *parts = (const saei_parts *)arg;
    (void)worker;
    parts->fn(parts->arg, part);
}
static SAEI_NOINLINE void saei_parallel(const sae_context *ctx, size_t parts, saei_part_fn fn,
                                        void *arg) {
    saei_parts job;
    job.fn = fn;
    job.arg = arg;
    saei_parallel_workers(ctx, parts, saei_parts_run, &job);
}

/* The end of part `part` when count things go in parts of `size`; it begins at part * size. */
static size_t saei_part_end(size_t part, size_t size, size_t count) {
    return saei_min((part + 1) * size, count);
}

static void *saei_default_alloc(size_t size, void *user) {
    (void)user;
    return malloc(size);
}
static void saei_default_free(void *memory, void *user) {
    (void)user;
    free(memory);
}

SAE_API const char *sae_version(void) { return SAE_VERSION; }

SAE_API const char *sae_result_name(sae_result result) {
    switch (result) {
#define SAE_X(name, value, text) case name: return #name;
        SAE_RESULTS(SAE_X)
#undef SAE_X
    }
    return "unknown result";
}

SAE_API const char *sae_error(const sae_context *ctx) { return ctx ? ctx->error : ""; }

SAE_API void sae_error_copy(const sae_context *ctx, char *out, size_t size) {
    sae_context *c = (sae_context *)(uintptr_t)ctx;
    if (!out || !size) return;
    out[0] = 0;
    if (!ctx) return;
    saei_lock(&c->lock);
    memcpy(out, c->error, saei_min(size, sizeof c->error));
    saei_unlock(&c->lock);
    out[saei_min(size, sizeof c->error) - 1] = 0;
}

SAE_API void sae_context_parallel(sae_context *ctx, size_t parts,
                                  void (*fn)(void *arg, size_t part), void *arg) {
    if (ctx && fn) saei_parallel(ctx, parts, fn, arg);
}

SAE_API sae_result sae_context_fail(sae_context *ctx, sae_result result, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return saei_fail(ctx, result, "%s", text);
}

/* ==== >>text ============================================================= src/base/text.h ==== */

/* Sorts pointers by less(a, b) (a heap sort: n log n whatever the input, no memory, not stable). */
typedef bool (*saei_less)(const void *a, const void *b);
static void saei_sort(const void **items, size_t n, saei_less less) {
    for (size_t start = n / 2, end = n; end > 1;) {
        const void *item;
        size_t hole, child;
        if (start > 0) {
            item = items[--start];
        } else {
            item = items[--end];
            items[end] = items[0];
        }
        for (hole = start; (child = 2 * hole + 1) < end; hole = child) {
            if (child + 1 < end && less(items[child], items[child + 1])) child++;
            if (!less(item, items[child])) break;
            items[hole] = items[child];
        }
        items[hole] = item;
    }
}

/* The length of the UTF-8 sequence at s, 0 if it is none (too long, a surrogate, past U+10FFFF). */
static size_t saei_utf8(const unsigned char *s, size_t left) {
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3
                  : s[0] < 0xF5 ? 4 : 0;
    if (length > left) return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if (length == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F))) return 0;
    if (length == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))) return 0;
    return length;
}

/* True where text is UTF-8 without NUL: what may become a name. */
static bool saei_is_text(const void *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0, length; i < size; i += length) {
        length = s[i] ? saei_utf8(s + i, size - i) : 0;
        if (!length) return false;
    }
    return true;
}

/* A file's text made fit for a message: one line, cut after 100 bytes. Returns out. */
enum { SAEI_QUOTE = 104 };
static const char *saei_quote(const char *text, char out[SAEI_QUOTE]) {
    size_t n = 0;
    for (; n < SAEI_QUOTE - 4 && text[n]; n++)
        out[n] = (unsigned char)text[n] < 32 || text[n] == 127 ? '?' : text[n];
    if (text[n]) {
        while (n && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = 0;
    return out;
}

/* digits (no point, at most 19 may be counted in mantissa) times 10^exponent, correctly rounded and
   whatever the locale: strtod sees no decimal point. */
static double saei_decimal(const char *digits, uint64_t mantissa, bool exact, int exponent) {
    static const double powers[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                     1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                     1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    char text[640];
    if (exact && mantissa <= 9007199254740992u) {
        if (exponent >= 0 && exponent <= 22) return (double)mantissa * powers[exponent];
        if (exponent < 0 && exponent >= -22) return (double)mantissa / powers[-exponent];
    }
    snprintf(text, sizeof text, "%se%d", digits, exponent);
    return strtod(text, NULL);
}

/* The number in JSON's notation at text: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?. Returns the
   characters it takes, 0 if there is none (or one of more than 500 digits). */
static size_t saei_parse_number(const char *text, size_t size, double *number, int64_t *integer,
                                bool *is_integer) {
    char digits[504];
    size_t at = 0, n = 0, start, point = 0;
    uint64_t mantissa = 0;
    long exponent = 0, sign = 1;
    bool negative = size > 0 && text[0] == '-', exact = true, whole = true;
    if (negative) at++;
    for (start = at; at < size && text[at] >= '0' && text[at] <= '9' && n < 500; at++)
        digits[n++] = text[at];
    if (at == start || (text[start] == '0' && at - start > 1)) return 0;
    if (at < size && text[at] == '.') {
        whole = false;
        for (start = ++at; at < size && text[at] >= '0' && text[at] <= '9' && n < 500; at++)
            digits[n++] = text[at];
        if (at == start) return 0;
        point = at - start;
    }
    if (n >= 500) return 0;
    digits[n] = 0;
    if (at < size && (text[at] == 'e' || text[at] == 'E')) {
        whole = false;
        at++;
        if (at < size && (text[at] == '+' || text[at] == '-')) sign = text[at++] == '-' ? -1 : 1;
        for (start = at; at < size && text[at] >= '0' && text[at] <= '9'; at++)
            if (exponent < 100000) exponent = exponent * 10 + (text[at] - '0');
        if (at == start) return 0;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned digit = (unsigned)(digits[i] - '0');
        if (mantissa > (UINT64_MAX - digit) / 10) exact = false;
        else if (exact) mantissa = mantissa * 10 + digit;
    }
    *number = saei_decimal(digits, mantissa, exact, (int)(sign * exponent - (long)point));
    if (negative) *number = -*number;
    *is_integer = whole && exact && mantissa <= (uint64_t)INT64_MAX + (negative ? 1 : 0);
    *integer = 0;
    if (*is_integer) *integer = negative ? (int64_t)(0 - mantissa) : (int64_t)mantissa;
    return at;
}

/* The shortest text that reads back as x, as Python's json writes it: 0.001, 1e-05, 2.0, NaN. */
static void saei_number_text(double x, char out[32]) {
    char text[40], digits[24], back[40];
    int n = 0, exponent = 0, point;
    bool scientific;
    char *p = out;
    if (x != x || x > DBL_MAX || x < -DBL_MAX) {
        strcpy(out, x != x ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        char *e;
        snprintf(text, sizeof text, "%.*e", precision, fabs(x));
        e = strchr(text, 'e');
        exponent = (int)strtol(e + 1, NULL, 10);
        n = 0;
        for (const char *c = text; c < e; c++)
            if (*c >= '0' && *c <= '9') digits[n++] = *c;
        digits[n] = 0;
        snprintf(back, sizeof back, "%se%d", digits, exponent - n + 1);
        if (strtod(back, NULL) == fabs(x)) break;
    }
    if (saei_to_bits(x) >> 63) *p++ = '-';
    scientific = exponent < -4 || exponent >= 16;
    point = scientific ? 0 : exponent; /* it follows the digit of that index */
    for (int i = point < 0 ? point : 0; i < n || i <= point; i++) {
        *p++ = i >= 0 && i < n ? digits[i] : '0';
        if (i == point && (n > 1 || !scientific)) *p++ = '.';
    }
    if (p[-1] == '.') *p++ = '0';
    if (scientific) {
        *p++ = 'e';
        *p++ = exponent < 0 ? '-' : '+';
        exponent = abs(exponent);
        if (exponent >= 100) *p++ = (char)('0' + exponent / 100);
        *p++ = (char)('0' + exponent / 10 % 10);
        *p++ = (char)('0' + exponent % 10);
    }
    *p = 0;
}

/* Text that grows, for JSON. */
typedef struct saei_text {
    const sae_context *ctx;
    char *data; /* NUL-terminated once anything was added; saei_free */
    size_t size, capacity;
    bool failed; /* out of memory */
} saei_text;
/* Room for size more characters and a NUL. */
static bool saei_text_reserve(saei_text *t, size_t size) {
    size_t need;
    char *grown;
    if (t->failed) return false;
    if (!saei_add(t->size, size, &need) || !saei_add(need, 1, &need)) return !(t->failed = true);
    if (need <= t->capacity) return true;
    need = saei_max(need, saei_max(256, t->capacity > SIZE_MAX / 2 ? 0 : 2 * t->capacity));
    grown = (char *)saei_alloc(t->ctx, need, 1);
    if (!grown) return !(t->failed = true);
    if (t->data) memcpy(grown, t->data, t->size);
    saei_free(t->ctx, t->data);
    t->data = grown;
    t->capacity = need;
    return true;
}

static SAEI_NOINLINE void saei_text_put(saei_text *t, const void *data, size_t size) {
    if (!saei_text_reserve(t, size)) return;
    if (size) memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

static void saei_text_add(saei_text *t, const char *format, ...) {
    va_list args, again;
    int length;
    va_start(args, format);
    va_copy(again, args);
    length = vsnprintf(NULL, 0, format, args);
    if (length < 0) t->failed = true;
    else if (saei_text_reserve(t, (size_t)length)) {
        vsnprintf(t->data + t->size, (size_t)length + 1, format, again);
        t->size += (size_t)length;
    }
    va_end(again);
    va_end(args);
}

/* Quoted and escaped. */
static void saei_text_add_json_string(saei_text *t, const char *string) {
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const unsigned char *s = (const unsigned char *)string;
    size_t left = strlen(string);
    saei_text_put(t, "\"", 1);
    while (left > 0) {
        const char *simple = strchr(plain, *s);
        size_t length = saei_utf8(s, left);
        if (simple) saei_text_add(t, "\\%c", letter[simple - plain]);
        else if (*s < 0x20) saei_text_add(t, "\\u%04x", *s);
        else if (length) saei_text_put(t, s, length);
        else saei_text_put(t, "\\ufffd", 6); /* a byte that is not UTF-8 */
        s += length ? length : 1;
        left -= length ? length : 1;
    }
    saei_text_put(t, "\"", 1);
}

/* ==== >>io: paths ======================================================== src/base/path.h ==== */

static bool saei_is_separator(char c) {
#if defined(_WIN32)
    if (c == '\\') return true;
#endif
    return c == '/';
}

/* Up to and with the last separator of the first `length` characters; 0 if there is none. */
static size_t saei_folder_length(const char *path, size_t length) {
    while (length > 0 && !saei_is_separator(path[length - 1])) length--;
    return length;
}

/* What follows the last separator. */
static const char *saei_path_base(const char *path) {
    return path + saei_folder_length(path, strlen(path));
}

static bool saei_ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), e = strlen(ending);
    return n >= e && strcmp(text + n - e, ending) == 0;
}

/* a and b in one fresh string (saei_free), NULL if there is no memory. */
static char *saei_concat(const sae_context *ctx, const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    char *out = (char *)saei_alloc(ctx, na + nb + 1, 1);
    if (!out) return NULL;
    memcpy(out, a, na);
    memcpy(out + na, b, nb + 1);
    return out;
}

/* "folder/name" in fresh memory (saei_free), NULL if there is none. */
static char *saei_path_join(const sae_context *ctx, const char *folder, const char *name) {
    size_t n = strlen(folder);
    bool slash = n > 0 && !saei_is_separator(folder[n - 1]);
    char *parent = saei_concat(ctx, folder, slash ? "/" : "");
    char *out = parent ? saei_concat(ctx, parent, name) : NULL;
    saei_free(ctx, parent);
    return out;
}

/* ==== >>io: the system's files ========================================== src/base/files.h ==== */
/* sae_io for the files of the system, which a context has unless it is given another. user is the
   context, for its allocator. Failing calls leave the cause in errno, on Windows too. */

#if defined(SAE_NO_STDIO)
static void saei_files_use(sae_context *ctx) { (void)ctx; }
static const char *saei_files_cause(const sae_context *ctx, sae_result result) {
    (void)ctx;
    return sae_result_name(result);
}
static void saei_files_release(const sae_io *io, const void *all, size_t all_size, const void *data,
                               size_t size) {
    (void)io;
    (void)all;
    (void)all_size;
    (void)data;
    (void)size;
}
#else

/* An open file. number tells one that is written from any other: of device and file; 0, 0 where
   the system has no such numbers. */
typedef struct saei_file {
#if defined(_WIN32)
    HANDLE handle;
    wchar_t *path; /* of a file that is written */
#else
    int handle;
    char *path;
#endif
    const void *data; /* once it is mapped */
    uint64_t size;
    uint64_t number[2];
} saei_file;

enum { SAEI_FILE_PIECE = 1 << 30 }; /* bytes at most in one call to the system */

static sae_result saei_files_result(void) {
    return errno == ENOENT || errno == ENOTDIR ? SAE_ERR_NOT_FOUND
           : errno == ENOMEM                   ? SAE_ERR_OUT_OF_MEMORY
                                               : SAE_ERR_IO;
}

#if defined(_WIN32)
/* ---- Windows: paths are UTF-8 here and UTF-16 there ---- */

static sae_result saei_files_fail(void) {
    switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_BAD_NETPATH: errno = ENOENT; break;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_USER_MAPPED_FILE: errno = EACCES; break;
    case ERROR_ALREADY_EXISTS:
    case ERROR_FILE_EXISTS: errno = EEXIST; break;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL: errno = ENOSPC; break;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_COMMITMENT_LIMIT: errno = ENOMEM; break;
    default: errno = EIO; break;
    }
    return saei_files_result();
}

/* In fresh memory (saei_free); NULL, and errno set, where there is none or path is not UTF-8. */
static wchar_t *saei_files_wide(const sae_context *ctx, const char *path) {
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *wide = n > 0 ? (wchar_t *)saei_alloc(ctx, (size_t)n, sizeof *wide) : NULL;
    errno = n > 0 ? ENOMEM : EINVAL;
    if (wide) MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, n);
    return wide;
}

static void saei_files_number(HANDLE handle, uint64_t number[2]) {
    BY_HANDLE_FILE_INFORMATION info;
    number[0] = number[1] = 0;
    if (!GetFileInformationByHandle(handle, &info)) return;
    number[0] = info.dwVolumeSerialNumber;
    number[1] = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
}

/* Whether the name of a file that is written still leads to it. */
static bool saei_files_owns(const saei_file *f) {
    uint64_t now[2] = { 0, 0 };
    HANDLE there = CreateFileW(f->path, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                               NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (there == INVALID_HANDLE_VALUE) return false;
    saei_files_number(there, now);
    CloseHandle(there);
    return now[0] == f->number[0] && now[1] == f->number[1];
}

static sae_result saei_files_open_read(saei_file *f, wchar_t *wide) {
    LARGE_INTEGER size;
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY)
        return SAE_ERR_UNSUPPORTED;
    f->handle = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL,
                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (f->handle == INVALID_HANDLE_VALUE) return saei_files_fail();
    if (GetFileType(f->handle) == FILE_TYPE_DISK && GetFileSizeEx(f->handle, &size)) {
        f->size = (uint64_t)size.QuadPart;
        return SAE_OK;
    }
    CloseHandle(f->handle);
    errno = ESPIPE;
    return SAE_ERR_IO;
}

static sae_result saei_files_open_write(saei_file *f, wchar_t *wide) {
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && !(attributes & FILE_ATTRIBUTE_DIRECTORY))
        DeleteFileW(wide);
    f->handle = CreateFileW(wide, GENERIC_WRITE, FILE_SHARE_READ, NULL, CREATE_NEW,
                            FILE_ATTRIBUTE_NORMAL, NULL); /* of two, the first goes on writing */
    if (f->handle == INVALID_HANDLE_VALUE) return saei_files_fail();
    saei_files_number(f->handle, f->number);
    return SAE_OK;
}

static sae_result saei_files_open(const char *path, bool write, void **out, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    wchar_t *wide = saei_files_wide(ctx, path);
    saei_file *f = wide ? (saei_file *)saei_calloc(ctx, 1, sizeof *f) : NULL;
    sae_result result = f ? SAE_OK : saei_files_result();
    if (f) result = write ? saei_files_open_write(f, wide) : saei_files_open_read(f, wide);
    if (result == SAE_OK && write) f->path = wide;
    else saei_free(ctx, wide);
    if (result == SAE_OK) *out = f;
    else saei_free(ctx, f);
    return result;
}

static sae_result saei_files_map(void *file, const void **data, void *user) {
    saei_file *f = (saei_file *)file;
    HANDLE mapping;
    (void)user;
    if (f->size) {
        mapping = CreateFileMappingW(f->handle, NULL, PAGE_READONLY, 0, 0, NULL);
        if (!mapping) return saei_files_fail();
        f->data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
        CloseHandle(mapping); /* the view keeps it */
        if (!f->data) return saei_files_fail();
    }
    CloseHandle(f->handle); /* it too: many files may be mapped at a time */
    f->handle = NULL;
    *data = f->data;
    return SAE_OK;
}

static sae_result saei_files_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    unsigned char *at = (unsigned char *)out;
    (void)user;
    while (size) {
        DWORD n = (DWORD)saei_min(size, SAEI_FILE_PIECE), got = 0;
        OVERLAPPED where;
        memset(&where, 0, sizeof where);
        where.Offset = (DWORD)(offset & 0xFFFFFFFFu);
        where.OffsetHigh = (DWORD)(offset >> 32);
        if (!ReadFile(((saei_file *)file)->handle, at, n, &got, &where) || !got)
            return saei_files_fail();
        at += got;
        offset += got;
        size -= got;
    }
    return SAE_OK;
}

static sae_result saei_files_write(void *file, const void *data, size_t size, void *user) {
    const unsigned char *at = (const unsigned char *)data;
    (void)user;
    while (size) {
        DWORD n = (DWORD)saei_min(size, SAEI_FILE_PIECE), done = 0;
        if (!WriteFile(((saei_file *)file)->handle, at, n, &done, NULL) || !done)
            return saei_files_fail();
        at += done;
        size -= done;
    }
    return SAE_OK;
}

static sae_result saei_files_sync(void *file, void *user) {
    (void)user;
    return FlushFileBuffers(((saei_file *)file)->handle) ? SAE_OK : saei_files_fail();
}

static sae_result saei_files_close(void *file, void *user) {
    saei_file *f = (saei_file *)file;
    sae_result result = !f->path || saei_files_owns(f) ? SAE_OK : SAE_ERR_MISMATCH;
    if (f->data) UnmapViewOfFile(f->data);
    if (f->handle && !CloseHandle(f->handle)) result = saei_files_fail();
    saei_free((const sae_context *)user, f->path);
    saei_free((const sae_context *)user, f);
    return result;
}

static sae_result saei_files_rename(const char *from, const char *to, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    wchar_t *a = saei_files_wide(ctx, from), *b = a ? saei_files_wide(ctx, to) : NULL;
    sae_result result = b ? SAE_OK : saei_files_result();
    if (b && !MoveFileExW(a, b, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
        result = saei_files_fail();
    saei_free(ctx, a);
    saei_free(ctx, b);
    return result;
}

static sae_result saei_files_remove(const char *path, void *user) {
    wchar_t *wide = saei_files_wide((const sae_context *)user, path);
    sae_result result = wide && DeleteFileW(wide) ? SAE_OK : saei_files_fail();
    saei_free((const sae_context *)user, wide);
    return result;
}

/* One folder, whose parent is there. */
static sae_result saei_files_make_one(const sae_context *ctx, const char *path) {
    wchar_t *wide = saei_files_wide(ctx, path);
    sae_result result = wide ? SAE_OK : saei_files_result();
    DWORD attributes;
    if (wide && !CreateDirectoryW(wide, NULL)) {
        result = saei_files_fail();
        attributes = GetFileAttributesW(wide);
        if (attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY)
            result = SAE_OK;
    }
    saei_free(ctx, wide);
    return result;
}

static void saei_files_give_back(const void *data, size_t size) {
    (void)data;
    (void)size;
}

#else
/* ---- POSIX ---- */

static bool saei_files_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Whether the name of a file that is written still leads to it. */
static bool saei_files_owns(const saei_file *f) {
    struct stat st;
    return stat(f->path, &st) == 0 && (uint64_t)st.st_dev == f->number[0]
           && (uint64_t)st.st_ino == f->number[1];
}

static sae_result saei_files_open_read(saei_file *f, const char *path) {
    struct stat st;
    f->handle = open(path, O_RDONLY | O_NONBLOCK | SAEI_CLOEXEC); /* do not wait for a FIFO */
    if (f->handle < 0) return saei_files_result();
    if (fstat(f->handle, &st) == 0 && S_ISREG(st.st_mode)) {
        f->size = (uint64_t)st.st_size;
        return SAE_OK;
    }
    close(f->handle);
    errno = ESPIPE;
    return saei_files_is_folder(path) ? SAE_ERR_UNSUPPORTED : SAE_ERR_IO;
}

/* A new file: what another leaves behind under its name is removed, never written into. */
static sae_result saei_files_open_write(const sae_context *ctx, saei_file *f, const char *path) {
    struct stat st;
    f->path = saei_strdup(ctx, path);
    errno = ENOMEM;
    if (!f->path) return saei_files_result();
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) unlink(path);
    f->handle = open(path, O_WRONLY | O_CREAT | O_EXCL | SAEI_CLOEXEC, 0666);
    if (f->handle >= 0 && fstat(f->handle, &st) == 0) {
        f->number[0] = (uint64_t)st.st_dev;
        f->number[1] = (uint64_t)st.st_ino;
        return SAE_OK;
    }
    return errno == ENOENT ? SAE_ERR_NOT_FOUND : SAE_ERR_IO;
}

static sae_result saei_files_open(const char *path, bool write, void **out, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    saei_file *f = (saei_file *)saei_calloc(ctx, 1, sizeof *f);
    sae_result result;
    int cause;
    if (!f) return SAE_ERR_OUT_OF_MEMORY;
    result = write ? saei_files_open_write(ctx, f, path) : saei_files_open_read(f, path);
    cause = errno;
    if (result == SAE_OK) {
        *out = f;
    } else {
        saei_free(ctx, f->path);
        saei_free(ctx, f);
    }
    errno = cause;
    return result;
}

static sae_result saei_files_map(void *file, const void **data, void *user) {
    saei_file *f = (saei_file *)file;
    void *all = NULL;
    (void)user;
    if (f->size) all = mmap(NULL, (size_t)f->size, PROT_READ, MAP_PRIVATE, f->handle, 0);
    if (all == MAP_FAILED) return saei_files_result();
    close(f->handle); /* the map stays, and there may be more maps than descriptors */
    f->handle = -1;
    *data = f->data = all;
    return SAE_OK;
}

static sae_result saei_files_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    saei_file *f = (saei_file *)file;
    unsigned char *at = (unsigned char *)out;
    (void)user;
    if (lseek(f->handle, (off_t)offset, SEEK_SET) < 0) return saei_files_result();
    while (size) {
        ssize_t n = read(f->handle, at, saei_min(size, SAEI_FILE_PIECE));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO; /* it was cut meanwhile */
        if (n <= 0) return SAE_ERR_IO;
        at += n;
        size -= (size_t)n;
    }
    return SAE_OK;
}

static sae_result saei_files_write(void *file, const void *data, size_t size, void *user) {
    const unsigned char *at = (const unsigned char *)data;
    (void)user;
    while (size) {
        ssize_t n = write(((saei_file *)file)->handle, at, saei_min(size, SAEI_FILE_PIECE));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return SAE_ERR_IO;
        at += n;
        size -= (size_t)n;
    }
    return SAE_OK;
}

static sae_result saei_files_sync(void *file, void *user) {
    (void)user;
    return fsync(((saei_file *)file)->handle) == 0 ? SAE_OK : SAE_ERR_IO;
}

static sae_result saei_files_close(void *file, void *user) {
    saei_file *f = (saei_file *)file;
    sae_result result = !f->path || saei_files_owns(f) ? SAE_OK : SAE_ERR_MISMATCH;
    int cause;
    if (f->data) munmap((void *)(uintptr_t)f->data, (size_t)f->size);
    if (f->handle >= 0 && close(f->handle) != 0 && result == SAE_OK) result = SAE_ERR_IO;
    cause = errno;
    saei_free((const sae_context *)user, f->path);
    saei_free((const sae_context *)user, f);
    errno = cause;
    return result;
}

/* The folder is synced with it; where it cannot be, the rename is as safe as it gets. */
static sae_result saei_files_rename(const char *from, const char *to, void *user) {
    size_t n = saei_folder_length(to, strlen(to));
    char *folder;
    int handle;
    if (rename(from, to) != 0) return saei_files_result();
    folder = saei_strdup((const sae_context *)user, n ? to : ".");
    if (!folder) return SAE_OK;
    if (n) folder[n] = 0;
    handle = open(folder, O_RDONLY | SAEI_CLOEXEC);
    if (handle >= 0) {
        fsync(handle);
        close(handle);
    }
    saei_free((const sae_context *)user, folder);
    return SAE_OK;
}

static sae_result saei_files_remove(const char *path, void *user) {
    (void)user;
    return unlink(path) == 0 ? SAE_OK : saei_files_result();
}

/* One folder, whose parent is there. */
static sae_result saei_files_make_one(const sae_context *ctx, const char *path) {
    int cause;
    (void)ctx;
    if (mkdir(path, 0777) == 0) return SAE_OK;
    cause = errno;
    if (saei_files_is_folder(path)) return SAE_OK;
    errno = cause;
    return SAE_ERR_IO;
}

/* Whole pages inside mapped memory, which is read from the file again where it is touched. */
static void saei_files_give_back(const void *data, size_t size) {
#if defined(MADV_DONTNEED) && defined(_SC_PAGESIZE)
    const long page = sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)data, end = begin + size;
    if (page <= 0) return;
    begin = (begin + (uintptr_t)page - 1) / (uintptr_t)page * (uintptr_t)page;
    end = end / (uintptr_t)page * (uintptr_t)page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
#else
    (void)data;
    (void)size;
#endif
}
#endif

/* ---- every system ---- */

static sae_result saei_files_size(void *file, uint64_t *size, void *user) {
    (void)user;
    *size = ((saei_file *)file)->size;
    return SAE_OK;
}

/* With its parents. */
static sae_result saei_files_make_folder(const char *path, void *user) {
    const sae_context *ctx = (const sae_context *)user;
    char *part = saei_strdup(ctx, path);
    sae_result result = part ? SAE_OK : SAE_ERR_OUT_OF_MEMORY;
    for (size_t i = 1, n = strlen(path); result == SAE_OK && i <= n && n; i++) {
        if (i < n && !saei_is_separator(part[i])) continue;
        part[i] = 0;
        result = saei_files_make_one(ctx, part);
        if (i < n) part[i] = path[i];
    }
    saei_free(ctx, part);
    return result;
}

static void saei_files_use(sae_context *ctx) {
    static const sae_io files = { saei_files_open,  saei_files_size,   saei_files_read,
                                  saei_files_close, saei_files_map,    saei_files_write,
                                  saei_files_sync,  saei_files_rename, saei_files_remove,
                                  saei_files_make_folder, NULL };
    ctx->io = files;
    ctx->io.user = ctx;
}

/* Why a call of ctx->io failed, for a message. */
static const char *saei_files_cause(const sae_context *ctx, sae_result result) {
    if (ctx->io.open != saei_files_open) return sae_result_name(result);
    if (result == SAE_ERR_OUT_OF_MEMORY) return "no memory";
    return errno == ESPIPE ? "not a regular file" : strerror(errno);
}

/* Gives memory of a mapped file [all, all_size] back, of it [data, size]. Nothing is done for
   memory that is no map of ours and for a file of up to 64 MB: every release stops the other
   threads. */
static void saei_files_release(const sae_io *io, const void *all, size_t all_size, const void *data,
                               size_t size) {
    uintptr_t begin = (uintptr_t)data, low = (uintptr_t)all;
    if (io->map != saei_files_map || all_size <= (size_t)64 << 20 || begin < low
        || begin - low > all_size || size > all_size - (begin - low))
        return;
    saei_files_give_back(data, size);
}
#endif

/* ==== >>io: reading and writing through sae_io ============================= src/base/io.h ==== */
/* who, here and below: the function named in messages. */

/* The bytes of a whole file: where sae_io maps, the map, else a copy. With neither file nor owned
   they are the caller's. */
typedef struct saei_map {
    const unsigned char *data;
    size_t size;
    void *file;  /* open as long as the map */
    void *owned; /* the copy */
} saei_map;

static void saei_map_close(const sae_context *ctx, saei_map *map) {
    if (map->file) ctx->io.close(map->file, ctx->io.user);
    saei_free(ctx, map->owned);
    memset(map, 0, sizeof *map);
}

/* The bytes of an open file into *map. */
static sae_result saei_map_fill(const sae_context *ctx, const char *who, const char *path,
                                saei_map *map) {
    const void *data = NULL;
    uint64_t size = 0;
    sae_result result = ctx->io.size(map->file, &size, ctx->io.user);
    if (result == SAE_OK && size > SIZE_MAX / 2)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: %s has %llu bytes, more than this "
                         "machine can address", who, path, (unsigned long long)size);
    if (result == SAE_OK && ctx->io.map) {
        result = ctx->io.map(map->file, &data, ctx->io.user);
    } else if (result == SAE_OK) {
        data = map->owned = saei_alloc(ctx, (size_t)size + 1, 1);
        if (!data)
            return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to read the %llu bytes of "
                             "%s", who, (unsigned long long)size, path);
        if (size) result = ctx->io.read(map->file, 0, map->owned, (size_t)size, ctx->io.user);
    }
    if (result != SAE_OK)
        return saei_fail(ctx, result, "%s: cannot read %s: %s", who, path,
                         saei_files_cause(ctx, result));
    map->data = (const unsigned char *)data;
    map->size = (size_t)size;
    return SAE_OK;
}

static sae_result saei_no_files(const sae_context *ctx, const char *who, const char *path) {
    return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: cannot open %s: this is a build with "
                     "SAE_NO_STDIO, and sae_context_desc.io has no open", who, path);
}

static sae_result saei_map_open(const sae_context *ctx, const char *who, const char *path,
                                saei_map *out) {
    saei_map map;
    sae_result result;
    memset(&map, 0, sizeof map);
    if (!ctx->io.open) return saei_no_files(ctx, who, path);
    result = ctx->io.open(path, false, &map.file, ctx->io.user);
    if (result == SAE_ERR_UNSUPPORTED)
        return saei_fail(ctx, SAE_ERR_IO, "%s: %s is a folder, not a file", who, path);
    if (result != SAE_OK)
        return saei_fail(ctx, result, "%s: cannot open %s: %s", who, path,
                         saei_files_cause(ctx, result));
    result = saei_map_fill(ctx, who, path, &map);
    if (result == SAE_OK) {
        if (!ctx->io.map) { /* what was copied needs no open file */
            ctx->io.close(map.file, ctx->io.user);
            map.file = NULL;
        }
        *out = map;
    } else {
        saei_map_close(ctx, &map);
    }
    return result;
}

/* The caller is done with [data, size] of the map for now: its memory may go elsewhere. */
static void saei_map_release(const sae_context *ctx, const saei_map *map, const void *data,
                             size_t size) {
    if (map->file) saei_files_release(&ctx->io, map->data, map->size, data, size);
}

typedef enum saei_path_kind { SAEI_PATH_NONE, SAEI_PATH_FILE, SAEI_PATH_FOLDER } saei_path_kind;

/* FOLDER only where sae_io knows of folders. Errors: what keeps a file from being opened. */
static sae_result saei_path_find(const sae_context *ctx, const char *who, const char *path,
                                 saei_path_kind *out) {
    void *file = NULL;
    sae_result result;
    if (!ctx->io.open) return saei_no_files(ctx, who, path);
    result = ctx->io.open(path, false, &file, ctx->io.user);
    if (result == SAE_OK) ctx->io.close(file, ctx->io.user);
    if (result != SAE_OK && result != SAE_ERR_NOT_FOUND && result != SAE_ERR_UNSUPPORTED)
        return saei_fail(ctx, result, "%s: cannot open %s: %s", who, path,
                         saei_files_cause(ctx, result));
    *out = result == SAE_OK              ? SAEI_PATH_FILE
           : result == SAE_ERR_NOT_FOUND ? SAEI_PATH_NONE
                                         : SAEI_PATH_FOLDER;
    return SAE_OK;
}

/* With its parents, where folders must be made at all. */
static sae_result saei_make_folder(const sae_context *ctx, const char *who, const char *path) {
    sae_result result = SAE_OK;
    if (ctx->io.make_folder) result = ctx->io.make_folder(path, ctx->io.user);
    if (result == SAE_OK) return SAE_OK;
    return saei_fail(ctx, result, "%s: cannot make the folder %s: %s", who, path,
                     saei_files_cause(ctx, result));
}

/* ---- writing ---- */

/* Into PATH.tmp, synced, then renamed to PATH; or into memory. One of finish (commit) or abandon
   ends it. A PATH.tmp that is there is taken for that of a program that was killed and replaced,
   never written into. Of two that write one PATH at a time one fails, where sae_io's open or
   close finds out: the earlier on POSIX, the later on Windows. */
typedef struct saei_writer {
    const sae_context *ctx;
    const char *who; /* as given */
    char *path, *temporary;
    void *file;
    saei_text *memory; /* in the place of a file; fails by itself */
    char *held;      /* small pieces on their way to the file */
    size_t num_held;
    uint64_t size;   /* put so far */
    sae_result result; /* the first failure; the message names path and cause, as a full disk */
} saei_writer;

enum { SAEI_WRITER_HELD = 65536 };

static void saei_writer_free(saei_writer *w) {
    saei_free(w->ctx, w->path);
    saei_free(w->ctx, w->temporary);
    saei_free(w->ctx, w->held);
    memset(w, 0, sizeof *w);
}

static sae_result saei_writer_open(const sae_context *ctx, const char *who, const char *path,
                                   saei_writer *out) {
    saei_writer w;
    sae_result result;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.who = who;
    if (!ctx->io.write)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: cannot write %s: sae_context_desc.io has "
                         "no write", who, path);
    w.path = saei_strdup(ctx, path);
    w.temporary = saei_concat(ctx, path, ".tmp");
    w.held = (char *)saei_alloc(ctx, SAEI_WRITER_HELD, 1);
    if (!w.path || !w.temporary || !w.held) {
        saei_writer_free(&w);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", who, path);
    }
    result = ctx->io.open(w.temporary, true, &w.file, ctx->io.user);
    if (result == SAE_ERR_NOT_FOUND)
        saei_fail(ctx, result, "%s: cannot write %s: there is no such folder", who, path);
    else if (result != SAE_OK)
        saei_fail(ctx, result, "%s: cannot write %s: %s", who, w.temporary,
                  saei_files_cause(ctx, result));
    if (result == SAE_OK) *out = w;
    else saei_writer_free(&w);
    return result;
}

static void saei_writer_open_memory(const sae_context *ctx, const char *who, saei_text *memory,
                                    saei_writer *out) {
    memset(out, 0, sizeof *out);
    out->ctx = ctx;
    out->who = who;
    out->memory = memory;
}

static void saei_writer_note(saei_writer *w, sae_result result) {
    if (result == SAE_OK || w->result != SAE_OK) return;
    w->result = result;
    if (result == SAE_ERR_MISMATCH) w->result = SAE_ERR_IO;
    saei_fail(w->ctx, w->result, "%s: cannot write %s: %s", w->who, w->path,
              result == SAE_ERR_MISMATCH ? "another program began to write it too"
                                         : saei_files_cause(w->ctx, result));
}

static void saei_writer_flush(saei_writer *w) {
    if (w->result == SAE_OK && w->num_held)
        saei_writer_note(w, w->ctx->io.write(w->file, w->held, w->num_held, w->ctx->io.user));
    w->num_held = 0;
}

static void saei_writer_put(saei_writer *w, const void *data, size_t size) {
    if (w->result != SAE_OK || !size) return;
    w->size += size;
    if (w->memory) {
        saei_text_put(w->memory, data, size);
        return;
    }
    if (size > SAEI_WRITER_HELD - w->num_held) saei_writer_flush(w);
    if (size < SAEI_WRITER_HELD) {
        memcpy(w->held + w->num_held, data, size);
        w->num_held += size;
    } else if (w->result == SAE_OK) {
        saei_writer_note(w, w->ctx->io.write(w->file, data, size, w->ctx->io.user));
    }
}

/* Nothing is left of what was written. */
static void saei_writer_abandon(saei_writer *w) {
    const sae_io *io = &w->ctx->io;
    if (w->file && io->close(w->file, io->user) != SAE_ERR_MISMATCH)
        io->remove(w->temporary, io->user);
    saei_writer_free(w);
}

/* Fails if any put did, too; nothing is left of it then. */
static sae_result saei_writer_finish(saei_writer *w) {
    const sae_io *io = &w->ctx->io;
    sae_result result, closed;
    if (w->memory) {
        if (!w->memory->failed) return SAE_OK;
        return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the file", w->who);
    }
    saei_writer_flush(w);
    if (w->result == SAE_OK && io->sync) saei_writer_note(w, io->sync(w->file, io->user));
    closed = io->close(w->file, io->user);
    w->file = NULL;
    saei_writer_note(w, closed);
    if (w->result == SAE_OK)
        saei_writer_note(w, io->rename(w->temporary, w->path, io->user));
    if (w->result != SAE_OK && closed != SAE_ERR_MISMATCH) io->remove(w->temporary, io->user);
    result = w->result;
    saei_writer_free(w);
    return result;
}

/* The text into folder/name; it is freed. */
static sae_result saei_text_write(saei_text *t, const char *who, const char *folder,
                                  const char *name) {
    char *path = t->failed ? NULL : saei_path_join(t->ctx, folder, name);
    saei_writer writer;
    sae_result result = SAE_ERR_OUT_OF_MEMORY;
    if (path) result = saei_writer_open(t->ctx, who, path, &writer);
    else saei_fail(t->ctx, result, "%s: no memory for %s/%s", who, folder, name);
    if (result == SAE_OK) {
        saei_writer_put(&writer, t->data, t->size);
        result = saei_writer_finish(&writer);
    }
    saei_free(t->ctx, path);
    saei_free(t->ctx, t->data);
    return result;
}

/* ==== >>json ============================================================= src/base/json.h ==== */

struct sae_json {
    sae_json_kind type;
    const char *key;               /* inside an object, else NULL; UTF-8, NUL-terminated */
    const char *string;            /* STRING: UTF-8; NUMBER: its text */
    double number;                 /* NUMBER (NaN, Infinity too); BOOL: 0 or 1 */
    int64_t integer;               /* where is_integer */
    bool is_integer;
    size_t count;                  /* children of ARRAY, OBJECT */
    const struct sae_json *child; /* the first */
    const struct sae_json *next;  /* sibling */
};
/* The parser runs twice over the text: first nodes is NULL and it counts, then it fills a block
   of exactly that size: nodes | keys (room to sort the largest object's) | chars. */
typedef struct saei_json_parser {
    const sae_context *ctx;
    const char *name;
    const unsigned char *begin, *at, *end;
    sae_json *nodes;
    const void **keys;
    char *chars;
    size_t num_nodes, num_keys, num_chars;
    int depth;
} saei_json_parser;

enum { SAEI_JSON_DEPTH = 64, SAEI_JSON_NODES = 1 << 20 };

static sae_result saei_json_fail(const saei_json_parser *p, const char *what) {
    size_t line = 1, column = 1;
    for (const unsigned char *c = p->begin; c < p->at; c++) {
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    return saei_fail(p->ctx, SAE_ERR_FORMAT, "%s: JSON, line %zu, column %zu: %s", p->name, line,
                     column, what);
}

static void saei_json_space(saei_json_parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\r' || *p->at == '\t'))
        p->at++;
}

static bool saei_json_word(saei_json_parser *p, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

static void saei_json_put(saei_json_parser *p, unsigned byte) {
    if (p->chars) p->chars[p->num_chars] = (char)(unsigned char)byte;
    p->num_chars++;
}

static bool saei_json_hex4(saei_json_parser *p, unsigned *out) {
    unsigned code = 0;
    if (p->end - p->at < 4) return false;
    for (int i = 0; i < 4; i++) {
        unsigned c = *p->at++;
        if (c >= '0' && c <= '9') code = code * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') code = code * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') code = code * 16 + (c - 'A' + 10);
        else return false;
    }
    *out = code;
    return true;
}

/* What follows a backslash. */
static sae_result saei_json_escape(saei_json_parser *p) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    unsigned code, low;
    const char *simple = p->at < p->end && *p->at ? strchr(from, *p->at) : NULL;
    if (simple) {
        p->at++;
        saei_json_put(p, (unsigned char)to[simple - from]);
        return SAE_OK;
    }
    if (!saei_json_word(p, "u")) return saei_json_fail(p, "an unknown escape");
    if (!saei_json_hex4(p, &code)) return saei_json_fail(p, "\\u needs four hexadecimal digits");
    if (code == 0) return saei_json_fail(p, "\\u0000 is not supported");
    if (code >= 0xD800 && code < 0xE000) {
        if (code >= 0xDC00 || !saei_json_word(p, "\\u") || !saei_json_hex4(p, &low)
            || low < 0xDC00 || low > 0xDFFF)
            return saei_json_fail(p, "a lone surrogate");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
        saei_json_put(p, code);
    } else {
        if (code < 0x800) {
            saei_json_put(p, 0xC0 | code >> 6);
        } else {
            if (code < 0x10000) {
                saei_json_put(p, 0xE0 | code >> 12);
            } else {
                saei_json_put(p, 0xF0 | code >> 18);
                saei_json_put(p, 0x80 | (code >> 12 & 0x3F));
            }
            saei_json_put(p, 0x80 | (code >> 6 & 0x3F));
        }
        saei_json_put(p, 0x80 | (code & 0x3F));
    }
    return SAE_OK;
}

static sae_result saei_json_string(saei_json_parser *p, const char **out) {
    size_t start = p->num_chars;
    if (!saei_json_word(p, "\"")) return saei_json_fail(p, "a string in double quotes is expected");
    for (;;) {
        size_t length;
        if (p->at >= p->end) return saei_json_fail(p, "the text ends inside a string");
        if (saei_json_word(p, "\"")) break;
        if (saei_json_word(p, "\\")) {
            SAEI_TRY(saei_json_escape(p));
            continue;
        }
        if (*p->at < 0x20) return saei_json_fail(p, "a control character inside a string");
        length = saei_utf8(p->at, (size_t)(p->end - p->at));
        if (!length) return saei_json_fail(p, "a string that is not UTF-8");
        while (length-- > 0) saei_json_put(p, *p->at++);
    }
    saei_json_put(p, 0);
    *out = p->chars ? p->chars + start : "";
    return SAE_OK;
}

static bool saei_json_key_less(const void *a, const void *b) {
    return strcmp(((const sae_json *)a)->key, ((const sae_json *)b)->key) < 0;
}

static sae_result saei_json_unique(saei_json_parser *p, const sae_json *object) {
    char quoted[SAEI_QUOTE], text[SAEI_QUOTE + 32];
    size_t n = 0;
    for (const sae_json *c = object->child; c; c = c->next) p->keys[n++] = c;
    saei_sort(p->keys, n, saei_json_key_less);
    for (size_t i = 1; i < n; i++) {
        const char *key = ((const sae_json *)p->keys[i])->key;
        if (strcmp(((const sae_json *)p->keys[i - 1])->key, key) != 0) continue;
        snprintf(text, sizeof text, "the key \"%s\" twice", saei_quote(key, quoted));
        return saei_json_fail(p, text);
    }
    return SAE_OK;
}

static sae_result saei_json_value(saei_json_parser *p, sae_json *out);

/* From after the opening bracket up to and with the closing one. */
static sae_result saei_json_children(saei_json_parser *p, sae_json *out) {
    bool object = out->type == SAE_JSON_OBJECT;
    const char *close = object ? "}" : "]";
    sae_json *last = NULL, counted;
    memset(&counted, 0, sizeof counted);
    if (++p->depth > SAEI_JSON_DEPTH) return saei_json_fail(p, "nested deeper than 64");
    saei_json_space(p);
    if (!saei_json_word(p, close)) {
        for (;;) {
            sae_json *child = p->nodes ? p->nodes + p->num_nodes : &counted;
            if (++p->num_nodes > SAEI_JSON_NODES)
                return saei_json_fail(p, "more than 1048576 values");
            memset(child, 0, sizeof *child);
            if (object) {
                saei_json_space(p);
                SAEI_TRY(saei_json_string(p, &child->key));
                saei_json_space(p);
                if (!saei_json_word(p, ":")) return saei_json_fail(p, "':' is expected");
            }
            SAEI_TRY(saei_json_value(p, child));
            if (p->nodes) {
                if (last) last->next = child;
                else out->child = child;
                last = child;
            }
            out->count++;
            saei_json_space(p);
            if (saei_json_word(p, close)) break;
            if (!saei_json_word(p, ","))
                return saei_json_fail(p,
                                      object ? "',' or '}' is expected" : "',' or ']' is expected");
        }
    }
    p->depth--;
    if (object && out->count > p->num_keys) p->num_keys = out->count;
    return object && p->nodes ? saei_json_unique(p, out) : SAE_OK;
}

/* Fills *out, which is all zero but for its key. */
static sae_result saei_json_value(saei_json_parser *p, sae_json *out) {
    size_t length;
    saei_json_space(p);
    if (p->at >= p->end) return saei_json_fail(p, "the text ends where a value is expected");
    if (*p->at == '"') {
        out->type = SAE_JSON_STRING;
        return saei_json_string(p, &out->string);
    }
    if (*p->at == '{' || *p->at == '[') {
        out->type = *p->at++ == '{' ? SAE_JSON_OBJECT : SAE_JSON_ARRAY;
        return saei_json_children(p, out);
    }
    if (saei_json_word(p, "null")) {
        out->type = SAE_JSON_NULL;
        return SAE_OK;
    }
    if (saei_json_word(p, "true") || saei_json_word(p, "false")) {
        out->type = SAE_JSON_BOOL;
        out->number = p->at[-2] == 'u';
        return SAE_OK;
    }
    out->type = SAE_JSON_NUMBER;
    if (saei_json_word(p, "NaN")) out->number = NAN, out->string = "NaN";
    else if (saei_json_word(p, "Infinity")) out->number = HUGE_VAL, out->string = "Infinity";
    else if (saei_json_word(p, "-Infinity")) out->number = -HUGE_VAL, out->string = "-Infinity";
    if (out->string) return SAE_OK;
    length = saei_parse_number((const char *)p->at, (size_t)(p->end - p->at), &out->number,
                               &out->integer, &out->is_integer);
    if (!length) return saei_json_fail(p, "a value is expected");
    out->string = p->chars ? p->chars + p->num_chars : "";
    while (length-- > 0) saei_json_put(p, *p->at++);
    saei_json_put(p, 0);
    return SAE_OK;
}

static sae_result saei_json_pass(saei_json_parser *p, sae_json *root) {
    p->at = p->begin;
    p->depth = 0;
    p->num_nodes = 1;
    p->num_chars = 0;
    memset(root, 0, sizeof *root);
    SAEI_TRY(saei_json_value(p, root));
    saei_json_space(p);
    return p->at == p->end ? SAE_OK : saei_json_fail(p, "something after the value");
}

/* In front of the root: whose memory it is. */
enum { SAEI_JSON_FRONT = 16 };

/* Parses text [size] (need not end in NUL) into *root, all in one block, for sae_json_close. name
   is the file's, for messages. Limits: depth 64, 2^20 values (80 MB; a header of 130,000 tensors
   stays below), no duplicate keys, valid UTF-8, no lone surrogates, nothing but white space after
   it. Errors: SAE_ERR_FORMAT, SAE_ERR_OUT_OF_MEMORY. */
static sae_result saei_json_parse(const sae_context *ctx, const char *name, const char *text,
                                  size_t size, sae_json **root) {
    saei_json_parser p;
    sae_json counted;
    size_t bytes, keys, all;
    char *block;
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    p.name = name;
    p.begin = (const unsigned char *)text;
    p.end = p.begin + size;
    SAEI_TRY(saei_json_pass(&p, &counted));
    if (!saei_mul(p.num_nodes, sizeof(sae_json), &bytes)
        || !saei_mul(p.num_keys, sizeof(void *), &keys) || !saei_add(bytes, keys, &keys)
        || !saei_add(keys, p.num_chars, &all) || !saei_add(all, SAEI_JSON_FRONT, &all)
        || !(block = (char *)saei_alloc(ctx, all, 1)))
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu JSON values", name,
                         p.num_nodes);
    memcpy(block, &ctx, sizeof ctx);
    block += SAEI_JSON_FRONT;
    p.nodes = (sae_json *)(void *)block;
    p.keys = (const void **)(void *)(block + bytes);
    p.chars = block + keys;
    if (saei_json_pass(&p, p.nodes) != SAE_OK) { /* the same key twice */
        sae_json_close(p.nodes);
        return SAE_ERR_FORMAT;
    }
    *root = p.nodes;
    return SAE_OK;
}

SAE_API void sae_json_close(sae_json *root) {
    const sae_context *ctx;
    if (!root) return;
    memcpy(&ctx, (char *)root - SAEI_JSON_FRONT, sizeof ctx);
    saei_free(ctx, (char *)root - SAEI_JSON_FRONT);
}

/* A whole file. who: the function named in messages. */
static sae_result saei_json_load(const sae_context *ctx, const char *who, const char *path,
                                 sae_json **root) {
    saei_map map;
    sae_result result;
    SAEI_TRY(saei_map_open(ctx, who, path, &map));
    result = saei_json_parse(ctx, path, (const char *)map.data, map.size, root);
    saei_map_close(ctx, &map);
    return result;
}

SAE_API sae_result sae_json_open(sae_context *ctx, const char *path, sae_json **out) {
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_json_open: path and out may not be NULL");
    return saei_json_load(ctx, "sae_json_open", path, out);
}

SAE_API sae_json_kind sae_json_kind_of(const sae_json *value) {
    return value ? value->type : SAE_JSON_NONE;
}

SAE_API const sae_json *sae_json_get(const sae_json *object, const char *key) {
    if (!object || !key || object->type != SAE_JSON_OBJECT) return NULL;
    for (const sae_json *c = object->child; c; c = c->next)
        if (strcmp(c->key, key) == 0) return c;
    return NULL;
}

SAE_API size_t sae_json_count(const sae_json *value) { return value ? value->count : 0; }

SAE_API const sae_json *sae_json_first(const sae_json *value) {
    return value && value->count ? value->child : NULL;
}

SAE_API const sae_json *sae_json_next(const sae_json *child) { return child ? child->next : NULL; }

SAE_API const char *sae_json_key(const sae_json *child) { return child ? child->key : NULL; }

SAE_API const char *sae_json_text(const sae_json *value) {
    return value && value->type == SAE_JSON_STRING ? value->string : NULL;
}

SAE_API double sae_json_number(const sae_json *value) {
    return value && (value->type == SAE_JSON_NUMBER || value->type == SAE_JSON_BOOL)
               ? value->number : 0;
}

/* ==== >>tensors: element types ======================================== src/tensor/dtype.h ==== */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "sae.h: files are read in place, which needs a little-endian machine"
#endif

/* One row a type: sae_dtype, bytes, safetensors' name, numpy's descr, torch's storage class. */
typedef struct saei_dtype_row {
    size_t size;
    const char *name, *descr, *storage;
} saei_dtype_row;
static const saei_dtype_row saei_dtypes[] = {
    { 4, "F32", "<f4", "FloatStorage" },  { 4, "F32", "<f4", "FloatStorage" },
    { 2, "F16", "<f2", "HalfStorage" },   { 2, "BF16", "<V2", "BFloat16Storage" },
    { 8, "F64", "<f8", "DoubleStorage" }, { 1, "I8", "|i1", "CharStorage" },
    { 1, "U8", "|u1", "ByteStorage" },    { 2, "I16", "<i2", "ShortStorage" },
    { 2, "U16", "<u2", NULL },            { 4, "I32", "<i4", "IntStorage" },
    { 4, "U32", "<u4", NULL },            { 8, "I64", "<i8", "LongStorage" },
    { 8, "U64", "<u8", NULL },            { 1, "BOOL", "|b1", "BoolStorage" },
};
enum { SAEI_NUM_DTYPES = sizeof saei_dtypes / sizeof saei_dtypes[0] };

SAE_API size_t sae_dtype_size(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].size : 0;
}

SAE_API const char *sae_dtype_name(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].name : "unknown";
}

static float saei_bf16_value(uint16_t bits) {
    return saei_bits_float((uint32_t)bits << 16);
}

/* Exact; subnormals are fraction * 2^-24. */
static float saei_half_value(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31u;
    uint32_t fraction = bits & 1023u, wide;
    if (exponent == 0) {
        float x = (float)fraction * 5.9604644775390625e-8f;
        return sign ? -x : x;
    }
    wide = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | fraction << 13;
    return saei_bits_float(wide);
}

/* To the nearest, ties to even; NaN stays one. */
static uint16_t saei_bf16_bits(float x) {
    uint32_t bits = saei_float_bits(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

static uint16_t saei_half_bits(float x) {
    uint32_t bits = saei_float_bits(x), sign = bits >> 16 & 0x8000u, whole, rest, half;
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (bits >> 13 & 0x3FFu));
    if (bits >= 0x47800000u) return (uint16_t)(sign | 0x7C00u); /* 65536 and more */
    if (bits < 0x38800000u) { /* below the normal ones: units of 2^-24 */
        uint32_t shift = 126u - (bits >> 23), fraction = (bits & 0x7FFFFFu) | 0x800000u;
        if (shift > 24) return (uint16_t)sign;
        whole = fraction >> shift;
        half = 1u << (shift - 1);
        rest = fraction & ((half << 1) - 1);
    } else {
        whole = (bits >> 13) - (112u << 10);
        half = 0x1000u;
        rest = bits & 0x1FFFu;
    }
    whole += rest > half || (rest == half && (whole & 1u));
    return (uint16_t)(sign | whole);
}

#define SAEI_CONVERT(type, expression)                                                             \
    for (size_t i = 0; i < n; i++) {                                                               \
        type v;                                                                                    \
        memcpy(&v, src + (int64_t)i * step, sizeof v);                                             \
        out[i] = (expression);                                                                     \
    }

/* n elements that lie `step` bytes apart. */
static void saei_convert_row(sae_dtype dtype, const unsigned char *src, int64_t step, size_t n,
                            float *out) {
    switch (dtype) {
    case SAE_F16: SAEI_CONVERT(uint16_t, saei_half_value(v)) break;
    case SAE_BF16: SAEI_CONVERT(uint16_t, saei_bf16_value(v)) break;
    case SAE_F64: SAEI_CONVERT(double, (float)v) break;
    case SAE_I8: SAEI_CONVERT(int8_t, (float)v) break;
    case SAE_U8: SAEI_CONVERT(uint8_t, (float)v) break;
    case SAE_I16: SAEI_CONVERT(int16_t, (float)v) break;
    case SAE_U16: SAEI_CONVERT(uint16_t, (float)v) break;
    case SAE_I32: SAEI_CONVERT(int32_t, (float)v) break;
    case SAE_U32: SAEI_CONVERT(uint32_t, (float)v) break;
    case SAE_I64: SAEI_CONVERT(int64_t, (float)v) break;
    case SAE_U64: SAEI_CONVERT(uint64_t, (float)v) break;
    case SAE_BOOL: SAEI_CONVERT(uint8_t, v ? 1.0f : 0.0f) break;
    default:
        if (step == 4) memcpy(out, src, n * 4);
        else
            for (size_t i = 0; i < n; i++) memcpy(out + i, src + (int64_t)i * step, 4);
    }
}
#undef SAEI_CONVERT

/* A [rows,cols] matrix with steps in bytes. Blocks of 64 columns by 16 rows, so that each cache
   line of a transposed one is read once. */
static void saei_matrix_to_f32(sae_dtype dtype, const unsigned char *src, size_t rows, size_t cols,
                               int64_t row_step, int64_t col_step, float *out) {
    size_t wide = col_step == (int64_t)sae_dtype_size(dtype) ? cols : 64;
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < cols; c += wide)
            for (size_t i = r; i < saei_min(rows, r + 16); i++)
                saei_convert_row(dtype, src + (int64_t)i * row_step + (int64_t)c * col_step,
                                 col_step, saei_min(wide, cols - c), out + i * cols + c);
}

SAE_API void sae_tensor_to_f32(const sae_tensor *tensor, float *out) {
    const int64_t size = (int64_t)sae_dtype_size(tensor->dtype);
    uint64_t index[SAE_MAX_DIMS] = { 0 };
    size_t outer = tensor->ndim > 2 ? tensor->ndim - 2 : 0, n = tensor->ndim;
    size_t cols = n >= 1 ? (size_t)tensor->shape[n - 1] : 1;
    size_t rows = n >= 2 ? (size_t)tensor->shape[n - 2] : 1;
    int64_t col_step = n >= 1 ? tensor->stride[n - 1] * size : size;
    int64_t row_step = n >= 2 ? tensor->stride[n - 2] * size : 0;
    const unsigned char *src = (const unsigned char *)tensor->data;
    for (size_t k = 0; k < n; k++)
        if (tensor->shape[k] == 0) return;
    if (cols == 1) col_step = size;
    if (col_step == size && (rows == 1 || row_step == (int64_t)cols * size)) {
        cols *= rows;
        rows = 1;
    }
    for (;;) {
        size_t k = outer;
        int64_t offset = 0;
        for (size_t j = 0; j < outer; j++) offset += (int64_t)index[j] * tensor->stride[j] * size;
        saei_matrix_to_f32(tensor->dtype, src + offset, rows, cols, row_step, col_step, out);
        out += rows * cols;
        while (k > 0 && ++index[k - 1] == tensor->shape[k - 1]) index[--k] = 0;
        if (k == 0) return;
    }
}

/* Elements of a shape, and its row-major strides. False where the bytes, with every dimension of 0
   taken as 1, do not fit. */
static bool saei_shape_layout(sae_tensor *t, size_t *elements) {
    uint64_t limit = (uint64_t)(SIZE_MAX >> 1) / sae_dtype_size(t->dtype), n = 1;
    bool empty = false;
    for (size_t k = t->ndim; k-- > 0;) {
        uint64_t dim = t->shape[k] ? t->shape[k] : 1;
        t->stride[k] = (int64_t)n;
        if (n > limit / dim) return false;
        n *= dim;
        if (!t->shape[k]) empty = true;
    }
    *elements = empty ? 0 : (size_t)n;
    return true;
}

/* ==== >>tensors: CRC-32 ================================================= src/tensor/crc.h ==== */

/* Numbers in files are little endian, as the machine is. */
static uint32_t saei_le16(const unsigned char *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static uint32_t saei_le32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static uint64_t saei_le64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* a b modulo CRC-32's polynomial; bit 31 is x^0. */
static uint32_t saei_crc_product(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        if (a & bit) product ^= b;
        b = b & 1 ? b >> 1 ^ 0xEDB88320u : b >> 1;
    }
    return product;
}

/* x^(8 size): what size more bytes multiply a CRC by. */
static uint32_t saei_crc_shift(size_t size) {
    uint32_t power = 0x80000000u, square = 0x00800000u; /* 1, x^8 */
    for (; size; size >>= 1) {
        if (size & 1) power = saei_crc_product(power, square);
        square = saei_crc_product(square, square);
    }
    return power;
}

/* CRC-32 as in zip. word[j] carries a byte over j more; fold: what 64 bits are multiplied by to be
   carried over 64 and over 16 bytes. */
typedef struct saei_crc_table {
    uint32_t word[8][256];
    uint64_t fold[4];
    bool folds; /* the CPU has carry-less products */
} saei_crc_table;

static void saei_crc_tables(saei_crc_table *t) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
        t->word[0][i] = c;
    }
    for (int j = 1; j < 8; j++)
        for (int i = 0; i < 256; i++)
            t->word[j][i] = t->word[j - 1][i] >> 8 ^ t->word[0][t->word[j - 1][i] & 255];
    /* Bit 63 is x^0 and a product has 127 bits, not 128: x^n stands as x^(n - 32), one bit up. The
       first half of 16 bytes is carried 8 further than the second. */
    t->fold[0] = (uint64_t)saei_crc_shift(64 + 4) << 1;
    t->fold[1] = (uint64_t)saei_crc_shift(64 - 4) << 1;
    t->fold[2] = (uint64_t)saei_crc_shift(16 + 4) << 1;
    t->fold[3] = (uint64_t)saei_crc_shift(16 - 4) << 1;
#if defined(SAEI_X86)
    t->folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse2");
#else
    t->folds = false;
#endif
}

/* Eight bytes a step. crc without the inversions before and after. */
static uint32_t saei_crc_words(const saei_crc_table *t, uint32_t crc, const unsigned char *p,
                               size_t size) {
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t a = saei_le32(p) ^ crc, b = saei_le32(p + 4);
        crc = t->word[7][a & 255] ^ t->word[6][a >> 8 & 255] ^ t->word[5][a >> 16 & 255]
              ^ t->word[4][a >> 24] ^ t->word[3][b & 255] ^ t->word[2][b >> 8 & 255]
              ^ t->word[1][b >> 16 & 255] ^ t->word[0][b >> 24];
    }
    for (; size > 0; p++, size--) crc = crc >> 8 ^ t->word[0][(crc ^ *p) & 255];
    return crc;
}

#if defined(SAEI_X86)
/* Carried over to where next stands, and added to it. */
__attribute__((target("pclmul,sse2"))) static inline __m128i saei_crc_fold(__m128i x, __m128i by,
                                                                           __m128i next) {
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00),
                                       _mm_clmulepi64_si128(x, by, 0x11)), next);
}

/* Whole 64 bytes, at least one, and 16 bytes out that have the same CRC. */
__attribute__((target("pclmul,sse2")))
static void saei_crc_blocks(const saei_crc_table *t, uint32_t crc, const unsigned char *p,
                            size_t blocks, unsigned char out[16]) {
    const __m128i *at = (const __m128i *)(const void *)p;
    const __m128i by64 = _mm_loadu_si128((const __m128i *)(const void *)t->fold);
    const __m128i by16 = _mm_loadu_si128((const __m128i *)(const void *)(t->fold + 2));
    __m128i a = _mm_xor_si128(_mm_loadu_si128(at), _mm_cvtsi32_si128((int)crc));
    __m128i b = _mm_loadu_si128(at + 1), c = _mm_loadu_si128(at + 2), d = _mm_loadu_si128(at + 3);
    for (at += 4; --blocks; at += 4) {
        a = saei_crc_fold(a, by64, _mm_loadu_si128(at));
        b = saei_crc_fold(b, by64, _mm_loadu_si128(at + 1));
        c = saei_crc_fold(c, by64, _mm_loadu_si128(at + 2));
        d = saei_crc_fold(d, by64, _mm_loadu_si128(at + 3));
    }
    a = saei_crc_fold(saei_crc_fold(saei_crc_fold(a, by16, b), by16, c), by16, d);
    _mm_storeu_si128((__m128i *)(void *)out, a);
}
#endif

/* crc is that of what came before, 0 at the start. */
static uint32_t saei_crc(const saei_crc_table *t, uint32_t crc, const void *data, size_t size) {
    const unsigned char *p = (const unsigned char *)data;
    crc = ~crc;
#if defined(SAEI_X86)
    if (t->folds && size >= 64) {
        unsigned char rest[16];
        saei_crc_blocks(t, crc, p, size / 64, rest);
        crc = saei_crc_words(t, 0, rest, 16);
        p += size / 64 * 64;
        size %= 64;
    }
#endif
    return ~saei_crc_words(t, crc, p, size);
}

/* What opens and writes files is much, and waits for the disk: for size. */
#if defined(SAEI_FOR_SIZE)
#pragma GCC push_options
#pragma GCC optimize("Os", "fp-contract=off")
#endif

/* ==== >>tensors: an open file ========================================== src/tensor/file.h ==== */

/* Small pieces of memory that go together. */
typedef struct saei_arena_block {
    struct saei_arena_block *next;
    size_t size, used;
} saei_arena_block;
typedef struct saei_arena {
    const sae_context *ctx;
    saei_arena_block *head;
} saei_arena;

static void *saei_arena_alloc(saei_arena *arena, size_t count, size_t size) {
    const size_t header = (sizeof(saei_arena_block) + 15) / 16 * 16, usual = 16384;
    saei_arena_block *block = arena->head;
    size_t bytes, whole;
    if (!saei_mul(count, size, &bytes) || bytes > SIZE_MAX - 1024) return NULL;
    bytes = (bytes + 15) / 16 * 16;
    if (!block || block->size - block->used < bytes) {
        whole = header + (bytes > usual / 4 ? bytes : usual);
        block = (saei_arena_block *)saei_alloc(arena->ctx, whole, 1);
        if (!block) return NULL;
        block->size = whole;
        block->used = header;
        if (bytes > usual / 4 && arena->head) { /* a large piece leaves the open block open */
            block->next = arena->head->next;
            arena->head->next = block;
        } else {
            block->next = arena->head;
            arena->head = block;
        }
    }
    block->used += bytes;
    return (char *)block + block->used - bytes;
}

static char *saei_arena_text(saei_arena *arena, const void *text, size_t size) {
    char *copy = (char *)saei_arena_alloc(arena, size + 1, 1);
    if (!copy) return NULL;
    if (size) memcpy(copy, text, size);
    copy[size] = 0;
    return copy;
}

static void saei_arena_free(saei_arena *arena) {
    while (arena->head) {
        saei_arena_block *block = arena->head;
        arena->head = block->next;
        saei_free(arena->ctx, block);
    }
}

typedef struct saei_scalar {
    const char *name, *text;
} saei_scalar;

/* An entry of a zip archive. */
typedef struct saei_zip_entry {
    const char *name;
    const unsigned char *data; /* packed, in the map */
    size_t packed, size;
    uint32_t crc;
    unsigned method;
    bool checked; /* data is plain and its CRC right, or there is none */
} saei_zip_entry;

typedef struct saei_file_tensor {
    sae_tensor tensor;     /* first: what users point to */
    saei_zip_entry *entry; /* that holds it; NULL: no zip */
} saei_file_tensor;

/* by_name and scalars_by_name are sorted. Everything but the map and the JSON sits in the arena. */
struct sae_tensor_file {
    sae_context *ctx;
    const char *who, *path; /* for messages */
    const char *ending;     /* that files of its kind have */
    saei_map map;
    saei_arena arena;
    saei_file_tensor *tensors;
    size_t count, capacity;
    const void **by_name;
    saei_scalar *scalars;
    size_t num_scalars, scalar_capacity;
    const void **scalars_by_name;
    sae_json *header;         /* .safetensors */
    const sae_json *metadata; /* in it; may be NULL */
    saei_crc_table crc;
};

static sae_result saei_file_fail(const sae_tensor_file *file, sae_result result, const char *format,
                                 va_list args) {
    char text[480];
    vsnprintf(text, sizeof text, format, args);
    return saei_fail(file->ctx, result, "%s: %s: %s", file->who, file->path, text);
}

static sae_result saei_damaged(const sae_tensor_file *file, const char *format, ...)
    SAEI_PRINTF(2, 3);
static sae_result saei_damaged(const sae_tensor_file *file, const char *format, ...) {
    va_list args;
    va_start(args, format);
    saei_file_fail(file, SAE_ERR_FORMAT, format, args);
    va_end(args);
    return SAE_ERR_FORMAT;
}

static sae_result saei_unsupported(const sae_tensor_file *file, const char *format, ...)
    SAEI_PRINTF(2, 3);
static sae_result saei_unsupported(const sae_tensor_file *file, const char *format, ...) {
    va_list args;
    va_start(args, format);
    saei_file_fail(file, SAE_ERR_UNSUPPORTED, format, args);
    va_end(args);
    return SAE_ERR_UNSUPPORTED;
}

static sae_result saei_file_no_memory(const sae_tensor_file *file) {
    return saei_fail(file->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tensor_file_open: no memory for %s",
                     file->path);
}

/* An array in the arena that doubles; NULL if there is no memory. */
static void *saei_file_grow(sae_tensor_file *file, void *items, size_t count, size_t *capacity,
                            size_t size) {
    void *grown;
    if (count < *capacity) return items;
    grown = saei_arena_alloc(&file->arena, count ? 2 * count : 16, size);
    if (!grown) return NULL;
    if (count) memcpy(grown, items, count * size);
    *capacity = count ? 2 * count : 16;
    return grown;
}

static sae_result saei_file_add(sae_tensor_file *file, const sae_tensor *tensor,
                                saei_zip_entry *entry) {
    saei_file_tensor *grown = (saei_file_tensor *)saei_file_grow(file, file->tensors, file->count,
                                                                 &file->capacity, sizeof *grown);
    if (!grown) return saei_file_no_memory(file);
    file->tensors = grown;
    file->tensors[file->count].tensor = *tensor;
    file->tensors[file->count++].entry = entry;
    return SAE_OK;
}

/* Whatever is sorted by name begins with it. */
static const char *saei_name_of(const void *item) {
    const char *name;
    memcpy(&name, item, sizeof name);
    return name;
}

static bool saei_name_less(const void *a, const void *b) {
    return strcmp(saei_name_of(a), saei_name_of(b)) < 0;
}

/* Pointers to the items, sorted; a name held twice is refused. */
static sae_result saei_file_index(sae_tensor_file *file, const void *items, size_t count,
                                  size_t size, const char *what, const void ***out) {
    char quoted[SAEI_QUOTE];
    const void **sorted = (const void **)saei_arena_alloc(&file->arena, count + 1, sizeof *sorted);
    if (!sorted) return saei_file_no_memory(file);
    for (size_t i = 0; i < count; i++) sorted[i] = (const char *)items + i * size;
    saei_sort(sorted, count, saei_name_less);
    for (size_t i = 1; i < count; i++)
        if (strcmp(saei_name_of(sorted[i - 1]), saei_name_of(sorted[i])) == 0)
            return saei_damaged(file, "%s \"%s\" is there twice", what,
                                saei_quote(saei_name_of(sorted[i]), quoted));
    *out = sorted;
    return SAE_OK;
}

static const void *saei_name_find(const void *const *sorted, size_t count, const char *name) {
    for (size_t low = 0, high = count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(saei_name_of(sorted[middle]), name);
        if (order == 0) return sorted[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

/* The CRC of a large piece of a file, its blocks side by side, and put together. The map's pages
   are given back. */
enum { SAEI_CRC_BLOCK = 1 << 20 };
typedef struct saei_crc_job {
    sae_tensor_file *file;
    const unsigned char *data;
    size_t size;
    uint32_t crc[64];
} saei_crc_job;

static void saei_crc_part(void *arg, size_t part) {
    saei_crc_job *job = (saei_crc_job *)arg;
    size_t at = part * SAEI_CRC_BLOCK, n = saei_min(job->size - at, SAEI_CRC_BLOCK);
    job->crc[part] = saei_crc(&job->file->crc, 0, job->data + at, n);
    saei_map_release(job->file->ctx, &job->file->map, job->data + at, n);
}

static uint32_t saei_crc_large(sae_tensor_file *file, const unsigned char *data, size_t size) {
    uint32_t crc = 0, whole = saei_crc_shift(SAEI_CRC_BLOCK);
    saei_crc_job job;
    job.file = file;
    while (size) {
        size_t parts;
        job.data = data;
        job.size = saei_min(size, (size_t)64 * SAEI_CRC_BLOCK);
        parts = saei_ceil_div(job.size, SAEI_CRC_BLOCK);
        saei_parallel(file->ctx, parts, saei_crc_part, &job);
        for (size_t i = 0; i < parts; i++) {
            size_t n = saei_min(job.size - i * SAEI_CRC_BLOCK, SAEI_CRC_BLOCK);
            crc = saei_crc_product(crc, n == SAEI_CRC_BLOCK ? whole : saei_crc_shift(n))
                  ^ job.crc[i];
        }
        data += job.size;
        size -= job.size;
    }
    return crc;
}

static sae_result saei_zip_damaged(const sae_tensor_file *file, const saei_zip_entry *e,
                                   const char *what) {
    char quoted[SAEI_QUOTE];
    return saei_damaged(file, "zip entry \"%s\" %s", saei_quote(e->name, quoted), what);
}

/* Holds crc, that of the entry's plain bytes, against what the archive says. */
static sae_result saei_zip_compare(const sae_tensor_file *file, saei_zip_entry *e, uint32_t crc) {
    if (crc != e->crc) return saei_zip_damaged(file, e, "is damaged: its CRC-32 is wrong");
    e->checked = true;
    return SAE_OK;
}

static sae_result saei_zip_check(sae_tensor_file *file, saei_zip_entry *e) {
    return e->checked ? SAE_OK : saei_zip_compare(file, e, saei_crc_large(file, e->data, e->size));
}

/* ==== >>tensors: what is written ====================================== src/tensor/write.h ==== */

/* Row-major bytes of a tensor. */
static size_t saei_tensor_bytes(const sae_tensor *t) {
    size_t n = sae_dtype_size(t->dtype);
    for (size_t k = 0; k < t->ndim; k++) n *= (size_t)t->shape[k];
    return n;
}

static sae_result saei_write_check(const sae_context *ctx, const char *path,
                                   const sae_tensor *tensors, size_t count) {
    const char *who = "sae_tensor_file_write";
    const void **sorted;
    sae_result result = SAE_OK;
    char quoted[SAEI_QUOTE];
    if (count && !tensors)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: tensors is NULL, count is %zu", who, path,
                         count);
    sorted = (const void **)saei_alloc(ctx, count + 1, sizeof *sorted);
    if (!sorted)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", who, path);
    for (size_t i = 0; i < count && result == SAE_OK; i++) {
        sae_tensor t = tensors[i];
        size_t elements = 0;
        sorted[i] = tensors + i;
        if (!t.name || strlen(t.name) > 60000 || !saei_is_text(t.name, strlen(t.name)))
            result = saei_fail(ctx, SAE_ERR_INVALID,
                               "%s: %s: the name of tensor %zu is not a UTF-8 text of at most "
                               "60000 bytes",
                               who, path, i);
        else if ((unsigned)t.dtype >= SAEI_NUM_DTYPES || t.ndim > SAE_MAX_DIMS
                 || !saei_shape_layout(&t, &elements))
            result = saei_fail(ctx, SAE_ERR_INVALID,
                               "%s: %s: tensor \"%s\" has dtype %d and %zu dimensions; allowed are "
                               "0 to %d, and at most %d whose product fits",
                               who, path, saei_quote(t.name, quoted), (int)t.dtype, t.ndim,
                               SAEI_NUM_DTYPES - 1, SAE_MAX_DIMS);
        else if (elements && !t.data)
            result = saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: tensor \"%s\" has no data", who, path,
                               saei_quote(t.name, quoted));
    }
    if (result == SAE_OK) saei_sort(sorted, count, saei_name_less);
    for (size_t i = 1; i < count && result == SAE_OK; i++)
        if (strcmp(saei_name_of(sorted[i - 1]), saei_name_of(sorted[i])) == 0)
            result = saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: two tensors are named \"%s\"", who,
                               path, saei_quote(saei_name_of(sorted[i]), quoted));
    saei_free(ctx, sorted);
    return result;
}

/* Tensors on their way into a file. */
typedef struct saei_content {
    const char *name; /* of the file: for messages, and for what depends on it */
    const sae_tensor *tensors;
    size_t count;
    const char *const *keys, *const *values; /* .safetensors: more pairs of its __metadata__ */
    size_t num_pairs;
} saei_content;

static sae_result saei_content_no_memory(const saei_writer *w, const saei_content *c) {
    return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory to write %s", w->who, c->name);
}

static void saei_put_le(saei_text *t, uint64_t value, size_t bytes) {
    saei_text_put(t, &value, bytes); /* the machine is little endian */
}

/* ==== >>tensors: .npy =================================================== src/tensor/npy.h ==== */

/*  \x93NUMPY | u8 major, minor | header length: u16 (1.0) or u32 (2.0, 3.0) | header | data
    header: the Python dict {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } + '\n'  */

typedef struct saei_npy {
    const char *at, *end;
    char descr[16];
    bool has_descr, has_order, has_shape, fortran, structured;
} saei_npy;

static bool saei_npy_word(saei_npy *s, const char *word) {
    size_t n = strlen(word);
    while (s->at < s->end && strchr(" \t\r\n\f", *s->at) && *s->at) s->at++;
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return false;
    s->at += n;
    return true;
}

static bool saei_npy_string(saei_npy *s, char out[16]) {
    char quote;
    size_t n = 0;
    if (!saei_npy_word(s, "'") && !saei_npy_word(s, "\"")) return false;
    quote = s->at[-1];
    for (; s->at < s->end && *s->at != quote && n < 15; s->at++) {
        if (*s->at < 32 || *s->at > 126 || *s->at == '\\') return false;
        out[n++] = *s->at;
    }
    if (s->at >= s->end || *s->at != quote) return false;
    s->at++;
    out[n] = 0;
    return true;
}

/* (), (5,), (3, 4), (3, 4,), (5L,) */
static bool saei_npy_shape(saei_npy *s, sae_tensor *t) {
    bool comma = false;
    t->ndim = 0;
    if (!saei_npy_word(s, "(")) return false;
    while (!saei_npy_word(s, ")")) {
        uint64_t dim = 0;
        const char *start;
        if (t->ndim > 0 && !comma) return false;
        saei_npy_word(s, "");
        for (start = s->at; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
            if (dim > (uint64_t)INT64_MAX / 10 - 1) return false;
            dim = dim * 10 + (uint64_t)(*s->at - '0');
        }
        if (s->at == start || t->ndim == SAE_MAX_DIMS) return false;
        t->shape[t->ndim++] = dim;
        if (s->at < s->end && *s->at == 'L') s->at++;
        comma = saei_npy_word(s, ",");
    }
    return t->ndim != 1 || comma;
}

static bool saei_npy_header(saei_npy *s, sae_tensor *t) {
    char key[16];
    if (!saei_npy_word(s, "{")) return false;
    while (!saei_npy_word(s, "}")) {
        if (!saei_npy_string(s, key) || !saei_npy_word(s, ":")) return false;
        if (strcmp(key, "descr") == 0 && !s->has_descr) {
            s->has_descr = true;
            s->structured = saei_npy_word(s, "[");
            if (s->structured) return true;
            if (!saei_npy_string(s, s->descr)) return false;
        } else if (strcmp(key, "fortran_order") == 0 && !s->has_order) {
            s->has_order = true;
            s->fortran = saei_npy_word(s, "True");
            if (!s->fortran && !saei_npy_word(s, "False")) return false;
        } else if (strcmp(key, "shape") == 0 && !s->has_shape) {
            s->has_shape = true;
            if (!saei_npy_shape(s, t)) return false;
        } else {
            return false;
        }
        if (!saei_npy_word(s, ",")) {
            if (!saei_npy_word(s, "}")) return false;
            break;
        }
    }
    saei_npy_word(s, "");
    return s->at == s->end && s->has_descr && s->has_order && s->has_shape;
}

/* SAE_DTYPE_DEFAULT where there is none for it. */
static sae_dtype saei_npy_dtype(const char *descr, bool *swap) {
    const char *type = *descr && strchr("<>|=", *descr) ? descr + 1 : descr;
    *swap = *descr == '>' && type[0] && strcmp(type + 1, "1") != 0;
    for (int i = 1; i < SAEI_NUM_DTYPES; i++)
        if (strcmp(type, saei_dtypes[i].descr + 1) == 0 && !(*swap && i == SAE_BF16))
            return (sae_dtype)i;
    return SAE_DTYPE_DEFAULT;
}

static void saei_swap_bytes(const unsigned char *in, unsigned char *out, size_t n, size_t size) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < size; j++) out[i * size + j] = in[i * size + size - 1 - j];
}

static bool saei_looks_npy(const unsigned char *d, size_t n) {
    return n >= 6 && memcmp(d, "\x93NUMPY", 6) == 0;
}

/* data [size] is a whole .npy; label names it in messages ("" for a plain file); entry, if any,
   holds it. */
static sae_result saei_npy_read(sae_tensor_file *file, const char *name, const char *label,
                                const unsigned char *data, size_t size, saei_zip_entry *entry) {
    size_t start, length, elements, bytes;
    saei_npy s;
    sae_tensor t;
    bool swap;
    memset(&s, 0, sizeof s);
    memset(&t, 0, sizeof t);
    t.name = name;
    if (size < 10 || !saei_looks_npy(data, size))
        return saei_damaged(file, "%sno .npy header", label);
    if (data[6] < 1 || data[6] > 3 || data[7] != 0)
        return saei_unsupported(file, "%s.npy version %d.%d, known are 1.0, 2.0, 3.0", label,
                                data[6], data[7]);
    start = data[6] == 1 ? 10 : 12;
    length = size < start ? SIZE_MAX : data[6] == 1 ? saei_le16(data + 8) : saei_le32(data + 8);
    if (size < start || length > size - start || length > 1048576)
        return saei_damaged(file, "%sthe .npy header is cut short", label);
    s.at = (const char *)data + start;
    s.end = s.at + length;
    if (!saei_npy_header(&s, &t))
        return saei_damaged(file,
                            "%sthe .npy header is not a dict of exactly descr, fortran_order and "
                            "shape (a tuple of at most %d sizes)",
                            label, SAE_MAX_DIMS);
    if (!s.structured && strchr(s.descr, 'O'))
        return saei_unsupported(file, "%san object array: it holds pickles, which are not run",
                                label);
    t.dtype = s.structured ? SAE_DTYPE_DEFAULT : saei_npy_dtype(s.descr, &swap);
    if (t.dtype == SAE_DTYPE_DEFAULT)
        return saei_unsupported(file,
                                "%s.npy descr is %s, known are f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1 "
                                "and V2 (bfloat16)",
                                label, s.structured ? "a list (a structured type)" : s.descr);
    if (!saei_shape_layout(&t, &elements))
        return saei_damaged(file, "%sthe .npy shape is too large", label);
    bytes = elements * sae_dtype_size(t.dtype);
    if (bytes != size - start - length)
        return saei_damaged(file, "%sthe .npy header promises %zu bytes of data, there are %zu",
                            label, bytes, size - start - length);
    t.data = data + start + length;
    if (s.fortran) {
        int64_t stride = 1;
        for (size_t k = 0; k < t.ndim; k++) {
            t.stride[k] = stride;
            stride *= (int64_t)(t.shape[k] ? t.shape[k] : 1);
        }
    }
    if (swap && elements) {
        unsigned char *owned = (unsigned char *)saei_arena_alloc(&file->arena, bytes, 1);
        if (!owned) return saei_file_no_memory(file);
        if (entry) SAEI_TRY(saei_zip_check(file, entry));
        saei_swap_bytes((const unsigned char *)t.data, owned, elements, sae_dtype_size(t.dtype));
        t.data = owned;
    }
    return saei_file_add(file, &t, entry);
}

static sae_result saei_npy_file(sae_tensor_file *file) {
    return saei_npy_read(file, "", "", file->map.data, file->map.size, NULL);
}

/* ---- writing ---- */

/* What stands before the data, as numpy writes it: room to grow the first size to 21 digits, then
   spaces up to a multiple of 64. */
static void saei_npy_write_header(saei_text *h, const sae_tensor *t) {
    size_t start = h->size, begin, first = 0;
    saei_text_put(h, "\x93NUMPY\x01\x00\x00\x00", 10);
    begin = h->size;
    saei_text_add(h, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                  saei_dtypes[t->dtype].descr);
    for (size_t k = 0; k < t->ndim; k++) {
        size_t before = h->size;
        saei_text_add(h, "%llu", (unsigned long long)t->shape[k]);
        if (k == 0) first = h->size - before;
        if (k + 1 < t->ndim) saei_text_add(h, ", ");
        else if (k == 0) saei_text_add(h, ",");
    }
    saei_text_add(h, "), }");
    if (first) saei_text_add(h, "%*s", (int)(21 - first), "");
    saei_text_add(h, "%*s\n", (int)(64 - (h->size - start + 1) % 64), "");
    if (h->failed) return;
    h->data[begin - 2] = (char)(unsigned char)((h->size - begin) & 255);
    h->data[begin - 1] = (char)(unsigned char)((h->size - begin) >> 8);
}

static sae_result saei_npy_write(saei_writer *w, const saei_content *c) {
    saei_text header;
    memset(&header, 0, sizeof header);
    header.ctx = w->ctx;
    saei_npy_write_header(&header, c->tensors);
    if (!header.failed) {
        saei_writer_put(w, header.data, header.size);
        saei_writer_put(w, c->tensors->data, saei_tensor_bytes(c->tensors));
    }
    saei_free(w->ctx, header.data);
    return header.failed ? saei_content_no_memory(w, c) : SAE_OK;
}

/* ==== >>tensors: .safetensors =================================== src/tensor/safetensors.h ==== */

/*  u64 N | N bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
    "__metadata__": {"key": "value"}} | data. The tensors cover the data without hole or overlap. */

enum { SAEI_SAFETENSORS_HEADER = 100000000 };

static bool saei_probe_safetensors(const unsigned char *d, size_t n) {
    return n > 8 && d[8] == '{' && saei_le64(d) <= SAEI_SAFETENSORS_HEADER;
}

/* begin, end of a tensor, kept beside its index for sorting. */
typedef struct saei_extent {
    uint64_t begin, end;
    const char *name;
} saei_extent;

static bool saei_extent_less(const void *a, const void *b) {
    const saei_extent *x = (const saei_extent *)a, *y = (const saei_extent *)b;
    return x->begin < y->begin || (x->begin == y->begin && x->end < y->end);
}

static bool saei_json_sizes(const sae_json *array, uint64_t *out, size_t max) {
    size_t n = 0;
    if (!array || array->type != SAE_JSON_ARRAY || array->count > max) return false;
    for (const sae_json *c = array->child; c; c = c->next) {
        if (c->type != SAE_JSON_NUMBER || !c->is_integer || c->integer < 0) return false;
        out[n++] = (uint64_t)c->integer;
    }
    return true;
}

static sae_result saei_safetensors_dtype(const sae_tensor_file *file, const char *tensor,
                                         const char *name, sae_dtype *out) {
    static const char *const others[] = { "F4",          "F6_E2M3",     "F6_E3M2",
                                          "F8_E5M2",     "F8_E4M3",     "F8_E8M0",
                                          "F8_E5M2FNUZ", "F8_E4M3FNUZ", "C64" };
    char quoted[SAEI_QUOTE];
    for (int i = 1; i < SAEI_NUM_DTYPES; i++) {
        if (strcmp(name, saei_dtypes[i].name) != 0) continue;
        *out = (sae_dtype)i;
        return SAE_OK;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(name, others[i]) == 0)
            return saei_unsupported(file, "tensor \"%s\" has dtype %s, which is not supported",
                                    tensor, name);
    return saei_damaged(file, "tensor \"%s\" has the unknown dtype \"%s\"", tensor,
                        saei_quote(name, quoted));
}

static sae_result saei_safetensors_entry(sae_tensor_file *file, const sae_json *entry,
                                         const unsigned char *data, size_t size,
                                         saei_extent *extent) {
    const sae_json *dtype = sae_json_get(entry, "dtype"), *shape = sae_json_get(entry, "shape");
    const sae_json *offsets = sae_json_get(entry, "data_offsets");
    uint64_t span[2];
    size_t elements;
    char quoted[SAEI_QUOTE];
    sae_tensor t;
    memset(&t, 0, sizeof t);
    saei_quote(entry->key, quoted);
    if (!dtype || dtype->type != SAE_JSON_STRING || !shape || shape->type != SAE_JSON_ARRAY
        || !offsets || offsets->type != SAE_JSON_ARRAY)
        return saei_damaged(file,
                            "tensor \"%s\" is not an object with dtype, shape and data_offsets",
                            quoted);
    t.name = entry->key;
    t.ndim = shape->count;
    SAEI_TRY(saei_safetensors_dtype(file, quoted, dtype->string, &t.dtype));
    if (t.ndim > SAE_MAX_DIMS)
        return saei_unsupported(file, "tensor \"%s\" has %zu dimensions, at most %d are supported",
                                quoted, t.ndim, SAE_MAX_DIMS);
    if (!saei_json_sizes(shape, t.shape, SAE_MAX_DIMS) || !saei_shape_layout(&t, &elements))
        return saei_damaged(file, "tensor \"%s\" has a shape that is not allowed", quoted);
    if (offsets->count != 2 || !saei_json_sizes(offsets, span, 2) || span[0] > span[1]
        || span[1] > size)
        return saei_damaged(file,
                            "tensor \"%s\" has data_offsets that do not lie in the file's %zu "
                            "bytes of data",
                            quoted, size);
    if (span[1] - span[0] != (uint64_t)elements * sae_dtype_size(t.dtype))
        return saei_damaged(file, "tensor \"%s\" has %zu elements of %s in %llu bytes", quoted,
                            elements, sae_dtype_name(t.dtype),
                            (unsigned long long)(span[1] - span[0]));
    t.data = data + span[0];
    extent->begin = span[0];
    extent->end = span[1];
    extent->name = t.name;
    return saei_file_add(file, &t, NULL);
}

static sae_result saei_safetensors_metadata(sae_tensor_file *file, const sae_json *metadata) {
    bool good = metadata->type == SAE_JSON_OBJECT;
    for (const sae_json *c = metadata->child; good && c; c = c->next)
        good = c->type == SAE_JSON_STRING;
    if (!good) return saei_damaged(file, "__metadata__ is not an object of strings");
    file->metadata = metadata;
    return SAE_OK;
}

static sae_result saei_safetensors_read(sae_tensor_file *file) {
    const unsigned char *data = file->map.data;
    size_t size = file->map.size, length, n = 0;
    uint64_t at = 0;
    saei_extent *extents;
    const void **sorted;
    char quoted[SAEI_QUOTE];
    if (size < 8 || saei_le64(data) > SAEI_SAFETENSORS_HEADER || saei_le64(data) > size - 8)
        return saei_damaged(file,
                            "the .safetensors header does not fit into the file or is longer than "
                            "%d bytes",
                            SAEI_SAFETENSORS_HEADER);
    length = (size_t)saei_le64(data);
    if (length == 0 || data[8] != '{')
        return saei_damaged(file, "the .safetensors header does not begin with '{'");
    while (length > 1 && data[8 + length - 1] == ' ') length--;
    SAEI_TRY(saei_json_parse(file->ctx, file->path, (const char *)data + 8, length, &file->header));
    data += 8 + saei_le64(data);
    size -= (size_t)(data - file->map.data);
    extents =
        (saei_extent *)saei_arena_alloc(&file->arena, file->header->count + 1, sizeof *extents);
    sorted = (const void **)saei_arena_alloc(&file->arena, file->header->count + 1, sizeof *sorted);
    if (!extents || !sorted) return saei_file_no_memory(file);
    for (const sae_json *c = file->header->child; c; c = c->next) {
        if (strcmp(c->key, "__metadata__") == 0) {
            SAEI_TRY(saei_safetensors_metadata(file, c));
            continue;
        }
        SAEI_TRY(saei_safetensors_entry(file, c, data, size, extents + n));
        sorted[n] = extents + n;
        n++;
    }
    saei_sort(sorted, n, saei_extent_less);
    for (size_t i = 0; i < n; i++) {
        const saei_extent *e = (const saei_extent *)sorted[i];
        if (e->begin != at)
            return saei_damaged(file,
                                "tensor \"%s\" begins at byte %llu of the data where %llu is "
                                "expected (%s)",
                                saei_quote(e->name, quoted), (unsigned long long)e->begin,
                                (unsigned long long)at, e->begin < at ? "an overlap" : "a hole");
        at = e->end;
    }
    if (at != size)
        return saei_damaged(file, "its tensors cover %llu bytes, there are %zu",
                            (unsigned long long)at, size);
    return SAE_OK;
}

/* ---- writing ---- */

/* safetensors' order: by this rank (wide types first, so that all lie aligned), then by name. */
static bool saei_safetensors_less(const void *a, const void *b) {
    static const unsigned char rank[] = { 3, 3, 7, 6, 2, 10, 11, 9, 8, 5, 4, 1, 0, 12 };
    const sae_tensor *x = (const sae_tensor *)a, *y = (const sae_tensor *)b;
    if (rank[x->dtype] != rank[y->dtype]) return rank[x->dtype] < rank[y->dtype];
    return strcmp(x->name, y->name) < 0;
}

static void saei_safetensors_header(saei_text *h, const void *const *sorted,
                                    const saei_content *c) {
    uint64_t at = 0;
    saei_put_le(h, 0, 8);
    saei_text_add(h, "{\"__metadata__\":{\"format\":\"pt\"");
    for (size_t i = 0; i < c->num_pairs; i++) {
        saei_text_add(h, ",");
        saei_text_add_json_string(h, c->keys[i]);
        saei_text_add(h, ":");
        saei_text_add_json_string(h, c->values[i]);
    }
    saei_text_add(h, "}");
    for (size_t i = 0; i < c->count; i++) {
        const sae_tensor *t = (const sae_tensor *)sorted[i];
        uint64_t end = at + saei_tensor_bytes(t);
        saei_text_add(h, ",");
        saei_text_add_json_string(h, t->name);
        saei_text_add(h, ":{\"dtype\":\"%s\",\"shape\":[", sae_dtype_name(t->dtype));
        for (size_t k = 0; k < t->ndim; k++)
            saei_text_add(h, k ? ",%llu" : "%llu", (unsigned long long)t->shape[k]);
        saei_text_add(h, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                      (unsigned long long)end);
        at = end;
    }
    saei_text_add(h, "}");
    saei_text_add(h, "%*s", (int)((8 - h->size % 8) % 8), "");
    at = h->size - 8;
    if (!h->failed) memcpy(h->data, &at, 8);
}

/* With __metadata__ {"format":"pt", keys[i]: values[i], ...}. */
static sae_result saei_safetensors_write(saei_writer *w, const saei_content *c) {
    const void **sorted;
    saei_text header;
    sae_result result = SAE_OK;
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->tensors[i].name, "__metadata__") == 0)
            return saei_fail(w->ctx, SAE_ERR_INVALID,
                             "%s: %s: a tensor may not be named __metadata__", w->who, c->name);
    memset(&header, 0, sizeof header);
    header.ctx = w->ctx;
    sorted = (const void **)saei_alloc(w->ctx, c->count + 1, sizeof *sorted);
    if (sorted) {
        for (size_t i = 0; i < c->count; i++) sorted[i] = c->tensors + i;
        saei_sort(sorted, c->count, saei_safetensors_less);
        saei_safetensors_header(&header, sorted, c);
    }
    if (!sorted || header.failed) {
        result = saei_content_no_memory(w, c);
    } else {
        saei_writer_put(w, header.data, header.size);
        for (size_t i = 0; i < c->count; i++) {
            const sae_tensor *t = (const sae_tensor *)sorted[i];
            saei_writer_put(w, t->data, saei_tensor_bytes(t));
        }
    }
    saei_free(w->ctx, sorted);
    saei_free(w->ctx, header.data);
    return result;
}

/* ==== >>tensors: zip archives =========================================== src/tensor/zip.h ==== */

/*  Read from the back: end record (PK\5\6), before it perhaps the zip64 locator and end record,
    then the central directory they point to, an entry of which points to a local header. */

static bool saei_looks_zip(const unsigned char *d, size_t n) {
    return n >= 4 && (saei_le32(d) == 0x04034b50 || saei_le32(d) == 0x06054b50);
}

typedef struct saei_zip {
    saei_zip_entry *entries;
    size_t count;
    const void **by_name;
} saei_zip;

/* The central directory: where, how long, how many entries. */
static sae_result saei_zip_end(const sae_tensor_file *file, size_t *at, size_t *size,
                               uint64_t *count) {
    const unsigned char *d = file->map.data, *end, *wide;
    size_t n = file->map.size, i;
    uint64_t offset, length, wide_at;
    if (n < 22) return saei_damaged(file, "a zip archive cut short");
    for (i = n - 22;; i--) {
        if (saei_le32(d + i) == 0x06054b50 && i + 22 + saei_le16(d + i + 20) == n) break;
        if (i == 0 || n - i >= 22 + 65535)
            return saei_damaged(file, "the zip archive has no end record: the file is cut short or "
                                      "damaged");
    }
    end = d + i;
    *count = saei_le16(end + 10);
    length = saei_le32(end + 12);
    offset = saei_le32(end + 16);
    if (i >= 20 && saei_le32(end - 20) == 0x07064b50) {
        wide_at = saei_le64(end - 12);
        if (i < 76 || wide_at > i - 76 || saei_le32(d + wide_at) != 0x06064b50)
            return saei_damaged(file, "the zip64 locator does not point to an end record");
        wide = d + wide_at;
        if ((*count != 0xFFFF && *count != saei_le64(wide + 32))
            || (length != 0xFFFFFFFFu && length != saei_le64(wide + 40))
            || (offset != 0xFFFFFFFFu && offset != saei_le64(wide + 48)))
            return saei_damaged(file, "the two end records of the zip archive disagree");
        *count = saei_le64(wide + 32);
        length = saei_le64(wide + 40);
        offset = saei_le64(wide + 48);
        i = (size_t)wide_at;
    }
    if (offset > i || length > i - offset || *count > length / 46)
        return saei_damaged(file, "the zip archive's directory lies outside the file");
    *at = (size_t)offset;
    *size = (size_t)length;
    return SAE_OK;
}

/* The zip64 extra field holds, in this order, those of size, packed and offset that are all ones in
   the directory entry. */
static bool saei_zip_wide(const unsigned char *extra, size_t left, uint64_t *size, uint64_t *packed,
                          uint64_t *offset) {
    uint64_t *fields[3];
    size_t n = 0, length, used = 0;
    if (*size == 0xFFFFFFFFu) fields[n++] = size;
    if (*packed == 0xFFFFFFFFu) fields[n++] = packed;
    if (*offset == 0xFFFFFFFFu) fields[n++] = offset;
    for (; n > 0 && left >= 4; extra += 4 + length, left -= 4 + length) {
        length = saei_le16(extra + 2);
        if (length > left - 4) return false;
        if (saei_le16(extra) != 1) continue;
        for (; used < n && 8 * used + 8 <= length; used++)
            *fields[used] = saei_le64(extra + 4 + 8 * used);
        return used == n;
    }
    return n == 0;
}

static sae_result saei_zip_local(const sae_tensor_file *file, saei_zip_entry *e, uint64_t offset,
                                 uint64_t packed, uint64_t size, size_t limit) {
    const unsigned char *d = file->map.data;
    size_t name_length = strlen(e->name), skip;
    if (limit < 30 || offset > limit - 30 || saei_le32(d + offset) != 0x04034b50)
        return saei_zip_damaged(file, e, "has no local header");
    skip = 30 + saei_le16(d + offset + 26) + saei_le16(d + offset + 28);
    if (skip > limit - offset || packed > limit - offset - skip)
        return saei_zip_damaged(file, e, "lies outside the file");
    if (saei_le16(d + offset + 26) != name_length
        || memcmp(d + offset + 30, e->name, name_length) != 0)
        return saei_zip_damaged(file, e, "has another name in its local header");
    if ((e->method == 0 && packed != size) || size > SIZE_MAX / 2)
        return saei_zip_damaged(file, e, "has two sizes");
    e->data = d + offset + skip;
    e->packed = (size_t)packed;
    e->size = (size_t)size;
    return SAE_OK;
}

static sae_result saei_zip_open(sae_tensor_file *file, saei_zip *zip) {
    size_t at = 0, left = 0, n = 0;
    uint64_t count = 0;
    memset(zip, 0, sizeof *zip);
    SAEI_TRY(saei_zip_end(file, &at, &left, &count));
    zip->entries = (saei_zip_entry *)saei_arena_alloc(&file->arena, (size_t)count + 1,
                                                      sizeof *zip->entries);
    if (!zip->entries) return saei_file_no_memory(file);
    for (; n < count; n++) {
        const unsigned char *d = file->map.data + at;
        saei_zip_entry *e = zip->entries + n;
        size_t name_length, extra_length, whole;
        uint64_t size, packed, offset;
        if (left < 46 || saei_le32(d) != 0x02014b50)
            return saei_damaged(file, "the zip archive's directory is damaged");
        name_length = saei_le16(d + 28);
        extra_length = saei_le16(d + 30);
        whole = 46 + name_length + extra_length + saei_le16(d + 32);
        packed = saei_le32(d + 20);
        size = saei_le32(d + 24);
        offset = saei_le32(d + 42);
        if (whole > left || !saei_is_text(d + 46, name_length)
            || !saei_zip_wide(d + 46 + name_length, extra_length, &size, &packed, &offset))
            return saei_damaged(file, "the zip archive's directory is damaged");
        memset(e, 0, sizeof *e);
        e->name = saei_arena_text(&file->arena, d + 46, name_length);
        if (!e->name) return saei_file_no_memory(file);
        e->method = saei_le16(d + 10);
        e->crc = saei_le32(d + 16);
        if (saei_le16(d + 8) & 1) return saei_unsupported(file, "the zip archive is encrypted");
        SAEI_TRY(saei_zip_local(file, e, offset, packed, size, at));
        at += whole;
        left -= whole;
    }
    zip->count = n;
    return saei_file_index(file, zip->entries, n, sizeof *zip->entries, "zip entry", &zip->by_name);
}

#if defined(SAE_ZLIB)
#include <zlib.h>
static void *saei_zlib_alloc(void *ctx, unsigned items, unsigned size) {
    return saei_alloc((const sae_context *)ctx, items, size);
}
static void saei_zlib_free(void *ctx, void *memory) { saei_free((const sae_context *)ctx, memory); }

static bool saei_inflate(const sae_context *ctx, const saei_zip_entry *e, unsigned char *out) {
    z_stream z;
    size_t in_left = e->packed, out_left = e->size;
    int status = Z_OK;
    unsigned char spare;
    memset(&z, 0, sizeof z);
    z.zalloc = saei_zlib_alloc;
    z.zfree = saei_zlib_free;
    z.opaque = (void *)(uintptr_t)ctx;
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return false;
    z.next_in = (unsigned char *)(uintptr_t)e->data;
    z.next_out = out ? out : &spare;
    while (status == Z_OK) {
        uInt in = (uInt)saei_min(in_left, 1u << 30), room = (uInt)saei_min(out_left, 1u << 30);
        z.avail_in = in;
        z.avail_out = room;
        status = inflate(&z, Z_NO_FLUSH);
        in_left -= in - z.avail_in;
        out_left -= room - z.avail_out;
        if (status == Z_OK && z.avail_in == in && z.avail_out == room) break;
    }
    inflateEnd(&z);
    return status == Z_STREAM_END && in_left == 0 && out_left == 0;
}
#endif

/* Makes e->data the entry's plain bytes. The CRC-32 of small and of compressed entries is checked
   now, that of others when they are read (saei_zip_check). torch may leave it out as 0. */
enum { SAEI_CRC_AT_ONCE = 4096 };
static sae_result saei_zip_plain(sae_tensor_file *file, saei_zip_entry *e, bool zero_is_none) {
    char quoted[SAEI_QUOTE];
    bool unpacked = false;
    if (e->checked) return SAE_OK;
    saei_quote(e->name, quoted);
#if defined(SAE_ZLIB)
    if (e->method == 8) {
        unsigned char *plain;
        if (e->size / 1032 > e->packed)
            return saei_zip_damaged(file, e, "promises too much");
        plain = (unsigned char *)saei_arena_alloc(&file->arena, e->size + 1, 1);
        if (!plain) return saei_file_no_memory(file);
        if (!saei_inflate(file->ctx, e, plain))
            return saei_zip_damaged(file, e, "does not unpack");
        e->data = plain;
        e->method = 0;
        unpacked = true;
    }
#endif
    if (e->method == 8)
        return saei_unsupported(file,
                                "zip entry \"%s\" is compressed (DEFLATE), which needs a build "
                                "with SAE_ZLIB; or store it plain (numpy.savez, torch.save)",
                                quoted);
    if (e->method != 0)
        return saei_unsupported(file,
                                "zip entry \"%s\" is compressed by method %u, known is 0 (stored)",
                                quoted, e->method);
    e->checked = zero_is_none && e->crc == 0;
    return unpacked || e->size <= SAEI_CRC_AT_ONCE ? saei_zip_check(file, e) : SAE_OK;
}

/* ---- writing ---- */

/* Sizes and offsets from here on go into zip64 fields. */
#ifndef SAEI_ZIP64_LIMIT
#define SAEI_ZIP64_LIMIT 0xFFFFFFFFu
#endif

typedef struct saei_zip_writer {
    saei_writer *out;
    saei_text head, directory;
    uint64_t count;
    saei_crc_table crc;
} saei_zip_writer;

static uint32_t saei_zip_narrow(uint64_t value) {
    return value >= SAEI_ZIP64_LIMIT ? 0xFFFFFFFFu : (uint32_t)value;
}

/* What a local header and a directory entry share: from the version needed to the name's length. */
static void saei_zip_put_common(saei_text *t, const char *name, uint64_t size, uint32_t crc) {
    saei_put_le(t, 45, 2);          /* version needed: zip64 */
    saei_put_le(t, 0x0800, 2);      /* UTF-8 names */
    saei_put_le(t, 0, 2);           /* stored */
    saei_put_le(t, 0x00210000u, 4); /* midnight, 1 January 1980 */
    saei_put_le(t, crc, 4);
    saei_put_le(t, saei_zip_narrow(size), 4);
    saei_put_le(t, saei_zip_narrow(size), 4);
    saei_put_le(t, strlen(name), 2);
}

/* One stored entry of two pieces, on a multiple of 64 bytes by padding in the extra field "FB". */
static void saei_zip_put(saei_zip_writer *z, const char *name, const void *a, size_t a_size,
                         const void *b, size_t b_size) {
    saei_text *h = &z->head, *d = &z->directory;
    uint64_t offset = z->out->size, size = (uint64_t)a_size + b_size;
    size_t name_size = strlen(name), wide = size >= SAEI_ZIP64_LIMIT ? 20 : 0, far_size;
    size_t pad = (size_t)((64 - (offset + 34 + name_size + wide) % 64) % 64);
    uint32_t crc = saei_crc(&z->crc, saei_crc(&z->crc, 0, a, a_size), b, b_size);
    h->size = 0;
    saei_put_le(h, 0x04034b50, 4);
    saei_zip_put_common(h, name, size, crc);
    saei_put_le(h, wide + 4 + pad, 2);
    saei_text_put(h, name, name_size);
    if (wide) {
        saei_put_le(h, 1 | 16u << 16, 4);
        saei_put_le(h, size, 8);
        saei_put_le(h, size, 8);
    }
    saei_put_le(h, 0x4246, 2);
    saei_put_le(h, pad, 2);
    for (size_t i = 0; i < pad; i++) saei_text_put(h, "Z", 1);
    if (!h->failed) saei_writer_put(z->out, h->data, h->size);
    saei_writer_put(z->out, a, a_size);
    saei_writer_put(z->out, b, b_size);
    far_size = (wide ? 16u : 0u) + (offset >= SAEI_ZIP64_LIMIT ? 8u : 0u);
    saei_put_le(d, 0x02014b50, 4);
    saei_put_le(d, 45, 2);
    saei_zip_put_common(d, name, size, crc);
    saei_put_le(d, far_size ? far_size + 4 : 0, 2);
    saei_put_le(d, 0, 8); /* no comment, first disk, no attributes */
    saei_put_le(d, 0, 2);
    saei_put_le(d, saei_zip_narrow(offset), 4);
    saei_text_put(d, name, name_size);
    if (far_size) saei_put_le(d, 1 | (uint64_t)far_size << 16, 4);
    if (wide) {
        saei_put_le(d, size, 8);
        saei_put_le(d, size, 8);
    }
    if (offset >= SAEI_ZIP64_LIMIT) saei_put_le(d, offset, 8);
    z->count++;
}

/* The directory and the end records. */
static void saei_zip_end_write(saei_zip_writer *z) {
    saei_text *d = &z->directory;
    uint64_t at = z->out->size, size = d->size, end = at + size;
    if (z->count >= 0xFFFF || at >= SAEI_ZIP64_LIMIT || size >= SAEI_ZIP64_LIMIT) {
        saei_put_le(d, 0x06064b50, 4);
        saei_put_le(d, 44, 8);
        saei_put_le(d, 45 | 45u << 16, 4);
        saei_put_le(d, 0, 8);
        saei_put_le(d, z->count, 8);
        saei_put_le(d, z->count, 8);
        saei_put_le(d, size, 8);
        saei_put_le(d, at, 8);
        saei_put_le(d, 0x07064b50, 4);
        saei_put_le(d, 0, 4);
        saei_put_le(d, end, 8);
        saei_put_le(d, 1, 4);
    }
    saei_put_le(d, 0x06054b50, 4);
    saei_put_le(d, 0, 4);
    saei_put_le(d, z->count >= 0xFFFF ? 0xFFFF : z->count, 2);
    saei_put_le(d, z->count >= 0xFFFF ? 0xFFFF : z->count, 2);
    saei_put_le(d, saei_zip_narrow(size), 4);
    saei_put_le(d, saei_zip_narrow(at), 4);
    saei_put_le(d, 0, 2);
    if (!d->failed) saei_writer_put(z->out, d->data, d->size);
}

/* An archive into an open writer; fill puts the entries. */
static sae_result saei_zip_write(saei_writer *w, const saei_content *c,
                                 sae_result (*fill)(saei_zip_writer *z, const saei_content *c)) {
    saei_zip_writer *z = (saei_zip_writer *)saei_calloc(w->ctx, 1, sizeof *z);
    sae_result result;
    if (!z) return saei_content_no_memory(w, c);
    z->out = w;
    z->head.ctx = z->directory.ctx = w->ctx;
    saei_crc_tables(&z->crc);
    result = fill(z, c);
    if (result == SAE_OK) saei_zip_end_write(z);
    if (result == SAE_OK && (z->head.failed || z->directory.failed))
        result = saei_content_no_memory(w, c);
    saei_free(w->ctx, z->head.data);
    saei_free(w->ctx, z->directory.data);
    saei_free(w->ctx, z);
    return result;
}

/* ==== >>tensors: .npz =================================================== src/tensor/npz.h ==== */

static sae_result saei_npz_read(sae_tensor_file *file, saei_zip *zip) {
    for (size_t i = 0; i < zip->count; i++) {
        saei_zip_entry *e = zip->entries + i;
        char quoted[SAEI_QUOTE], label[SAEI_QUOTE + 16];
        const char *name;
        if (!saei_ends_with(e->name, ".npy")) continue;
        SAEI_TRY(saei_zip_plain(file, e, false));
        name = saei_arena_text(&file->arena, e->name, strlen(e->name) - 4);
        if (!name) return saei_file_no_memory(file);
        snprintf(label, sizeof label, "array \"%s\": ", saei_quote(name, quoted));
        SAEI_TRY(saei_npy_read(file, name, label, e->data, e->size, e));
    }
    return SAE_OK;
}

static sae_result saei_npz_fill(saei_zip_writer *z, const saei_content *c) {
    saei_text name, header;
    sae_result result = SAE_OK;
    memset(&name, 0, sizeof name);
    name.ctx = z->out->ctx;
    header = name;
    for (size_t i = 0; i < c->count; i++) {
        name.size = header.size = 0;
        saei_text_add(&name, "%s.npy", c->tensors[i].name);
        saei_npy_write_header(&header, c->tensors + i);
        if (name.failed || header.failed) break;
        saei_zip_put(z, name.data, header.data, header.size, c->tensors[i].data,
                     saei_tensor_bytes(c->tensors + i));
    }
    if (name.failed || header.failed) result = saei_content_no_memory(z->out, c);
    saei_free(name.ctx, name.data);
    saei_free(header.ctx, header.data);
    return result;
}

static sae_result saei_npz_write(saei_writer *w, const saei_content *c) {
    return saei_zip_write(w, c, saei_npz_fill);
}

/* ==== >>tensors: .pt, the pickle ===================================== src/tensor/pickle.h ==== */

/*  A zip of TOP/data.pkl (what is there: a pickle), TOP/data/KEY (the storages), TOP/version, and
    perhaps TOP/byteorder. The pickle is read by a machine that knows the opcodes of a state_dict,
    makes numbers, texts, containers and tensors, and calls nothing. */

typedef enum saei_pickle_type {
    SAEI_PICKLE_NONE, SAEI_PICKLE_BOOL, SAEI_PICKLE_INT, SAEI_PICKLE_FLOAT, SAEI_PICKLE_TEXT,
    SAEI_PICKLE_TUPLE, SAEI_PICKLE_LIST, SAEI_PICKLE_DICT, SAEI_PICKLE_GLOBAL, SAEI_PICKLE_STORAGE,
    SAEI_PICKLE_TENSOR
} saei_pickle_type;

typedef struct saei_pickle_value {
    saei_pickle_type type;
    uint32_t count, capacity;         /* items of TUPLE, LIST; DICT: twice the pairs; STORAGE: the
                                         zip entry, dtype */
    int64_t integer;                  /* BOOL, INT; FLOAT: its bits; STORAGE: bytes; GLOBAL: row;
                                         TENSOR: the zip entry */
    const void *data;                 /* TEXT; STORAGE: its bytes; TENSOR: a sae_tensor */
    struct saei_pickle_value **items; /* DICT: key, value, key, value */
} saei_pickle_value;

typedef enum saei_global {
    SAEI_GLOBAL_TENSOR_V1, SAEI_GLOBAL_TENSOR_V2, SAEI_GLOBAL_TENSOR_V3, SAEI_GLOBAL_PARAMETER,
    SAEI_GLOBAL_PARAMETER_STATE, SAEI_GLOBAL_DICT, SAEI_GLOBAL_SIZE, SAEI_GLOBAL_DEVICE,
    SAEI_GLOBAL_STORAGE, SAEI_GLOBAL_DTYPE
} saei_global;

/* All that a pickle may name. dtype 0 of a storage: untyped, counted in bytes. */
static const struct saei_global_row {
    const char *module, *name;
    saei_global kind;
    int dtype;
} saei_globals[] = {
    { "torch._utils", "_rebuild_tensor", SAEI_GLOBAL_TENSOR_V1, 0 },
    { "torch._utils", "_rebuild_tensor_v2", SAEI_GLOBAL_TENSOR_V2, 0 },
    { "torch._utils", "_rebuild_tensor_v3", SAEI_GLOBAL_TENSOR_V3, 0 },
    { "torch._utils", "_rebuild_parameter", SAEI_GLOBAL_PARAMETER, 0 },
    { "torch._utils", "_rebuild_parameter_with_state", SAEI_GLOBAL_PARAMETER_STATE, 0 },
    { "collections", "OrderedDict", SAEI_GLOBAL_DICT, 0 },
    { "torch", "Size", SAEI_GLOBAL_SIZE, 0 },
    { "torch", "device", SAEI_GLOBAL_DEVICE, 0 },
    { "torch.storage", "UntypedStorage", SAEI_GLOBAL_STORAGE, 0 },
    { "torch", "FloatStorage", SAEI_GLOBAL_STORAGE, SAE_F32 },
    { "torch", "HalfStorage", SAEI_GLOBAL_STORAGE, SAE_F16 },
    { "torch", "BFloat16Storage", SAEI_GLOBAL_STORAGE, SAE_BF16 },
    { "torch", "DoubleStorage", SAEI_GLOBAL_STORAGE, SAE_F64 },
    { "torch", "CharStorage", SAEI_GLOBAL_STORAGE, SAE_I8 },
    { "torch", "ByteStorage", SAEI_GLOBAL_STORAGE, SAE_U8 },
    { "torch", "ShortStorage", SAEI_GLOBAL_STORAGE, SAE_I16 },
    { "torch", "IntStorage", SAEI_GLOBAL_STORAGE, SAE_I32 },
    { "torch", "LongStorage", SAEI_GLOBAL_STORAGE, SAE_I64 },
    { "torch", "BoolStorage", SAEI_GLOBAL_STORAGE, SAE_BOOL },
    { "torch", "float32", SAEI_GLOBAL_DTYPE, SAE_F32 },
    { "torch", "float16", SAEI_GLOBAL_DTYPE, SAE_F16 },
    { "torch", "bfloat16", SAEI_GLOBAL_DTYPE, SAE_BF16 },
    { "torch", "float64", SAEI_GLOBAL_DTYPE, SAE_F64 },
    { "torch", "int8", SAEI_GLOBAL_DTYPE, SAE_I8 },
    { "torch", "uint8", SAEI_GLOBAL_DTYPE, SAE_U8 },
    { "torch", "int16", SAEI_GLOBAL_DTYPE, SAE_I16 },
    { "torch", "uint16", SAEI_GLOBAL_DTYPE, SAE_U16 },
    { "torch", "int32", SAEI_GLOBAL_DTYPE, SAE_I32 },
    { "torch", "uint32", SAEI_GLOBAL_DTYPE, SAE_U32 },
    { "torch", "int64", SAEI_GLOBAL_DTYPE, SAE_I64 },
    { "torch", "uint64", SAEI_GLOBAL_DTYPE, SAE_U64 },
    { "torch", "bool", SAEI_GLOBAL_DTYPE, SAE_BOOL },
};
enum {
    SAEI_NUM_GLOBALS = sizeof saei_globals / sizeof saei_globals[0],
    SAEI_PICKLE_SIZE = 1 << 24,     /* bytes of data.pkl */
    SAEI_PICKLE_MARKS = 1000,
    SAEI_PICKLE_DEPTH = 64,         /* of containers in containers */
    SAEI_PICKLE_NAME = 1000,        /* characters of a dotted name */
    SAEI_PICKLE_NAMES = 1 << 26,    /* and of all of them */
    SAEI_EXPANDED_ELEMENTS = 1 << 26 /* of a tensor that is larger than its storage */
};

typedef struct saei_pickle {
    sae_tensor_file *file;
    const saei_zip *zip;
    const char *top;                 /* "ae/" */
    const unsigned char *at, *end;
    size_t size;                     /* of data.pkl: bounds stack, memo and what is visited */
    saei_arena arena;                /* of the values */
    saei_pickle_value **stack, **memo;
    size_t depth, stack_size, memo_size;
    size_t marks[SAEI_PICKLE_MARKS], num_marks;
    size_t visits, name_bytes;
    char name[SAEI_PICKLE_NAME + 24];
} saei_pickle;

static sae_result saei_pickle_fail(const saei_pickle *u, const char *what) {
    return saei_damaged(u->file, "data.pkl: %s", what);
}

static sae_result saei_pickle_no_memory(const saei_pickle *u) {
    return saei_file_no_memory(u->file);
}

/* The next n bytes of the stream, NULL if there are fewer. */
static const unsigned char *saei_pickle_take(saei_pickle *u, size_t n) {
    const unsigned char *at = u->at;
    if ((size_t)(u->end - at) < n) return NULL;
    u->at += n;
    return at;
}

static sae_result saei_pickle_push(saei_pickle *u, saei_pickle_value *value) {
    if (u->depth == u->stack_size) return saei_pickle_fail(u, "the stack is too deep");
    u->stack[u->depth++] = value;
    return SAE_OK;
}

static saei_pickle_value *saei_pickle_make(saei_pickle *u, saei_pickle_type type) {
    saei_pickle_value *v = (saei_pickle_value *)saei_arena_alloc(&u->arena, 1, sizeof *v);
    if (!v) return NULL;
    memset(v, 0, sizeof *v);
    v->type = type;
    return v;
}

/* A fresh value on the stack. */
static sae_result saei_pickle_new(saei_pickle *u, saei_pickle_type type, saei_pickle_value **out) {
    *out = saei_pickle_make(u, type);
    return *out ? saei_pickle_push(u, *out) : saei_pickle_no_memory(u);
}

static sae_result saei_pickle_int(saei_pickle *u, saei_pickle_type type, int64_t integer) {
    saei_pickle_value *v;
    SAEI_TRY(saei_pickle_new(u, type, &v));
    v->integer = integer;
    return SAE_OK;
}

/* Values above the last MARK, or all. */
static size_t saei_pickle_above(const saei_pickle *u) {
    return u->depth - (u->num_marks ? u->marks[u->num_marks - 1] : 0);
}

/* The top value, taken off; NULL if there is none above the last MARK. */
static saei_pickle_value *saei_pickle_pop(saei_pickle *u) {
    return saei_pickle_above(u) ? u->stack[--u->depth] : NULL;
}

static sae_result saei_pickle_append(saei_pickle *u, saei_pickle_value *v,
                                     saei_pickle_value **items, size_t count) {
    size_t need = v->count + count;
    if (need > v->capacity) {
        size_t capacity = saei_max(need, 2 * (size_t)v->capacity);
        saei_pickle_value **grown =
            (saei_pickle_value **)saei_arena_alloc(&u->arena, capacity, sizeof *grown);
        if (!grown) return saei_pickle_no_memory(u);
        if (v->count) memcpy(grown, v->items, v->count * sizeof *grown);
        v->items = grown;
        v->capacity = (uint32_t)capacity;
    }
    if (count) memcpy(v->items + v->count, items, count * sizeof *items);
    v->count = (uint32_t)need;
    return SAE_OK;
}

/* The top count values become one tuple. */
static sae_result saei_pickle_tuple(saei_pickle *u, size_t count) {
    saei_pickle_value *v;
    if (count > saei_pickle_above(u)) return saei_pickle_fail(u, "the stack is empty");
    v = saei_pickle_make(u, SAEI_PICKLE_TUPLE);
    if (!v) return saei_pickle_no_memory(u);
    u->depth -= count;
    SAEI_TRY(saei_pickle_append(u, v, u->stack + u->depth, count));
    return saei_pickle_push(u, v);
}

/* Moves the top count values into the container under them: type LIST, or DICT (pairs). */
static sae_result saei_pickle_fill(saei_pickle *u, saei_pickle_type type, size_t count) {
    saei_pickle_value **items, *into;
    if (count > saei_pickle_above(u)) return saei_pickle_fail(u, "the stack is empty");
    u->depth -= count;
    items = u->stack + u->depth;
    into = saei_pickle_above(u) ? u->stack[u->depth - 1] : NULL;
    if (!into || into->type != type || (type == SAEI_PICKLE_DICT && count % 2))
        return saei_pickle_fail(u, "items for something that holds none");
    for (size_t i = 0; type == SAEI_PICKLE_DICT && i < count; i += 2)
        if (items[i]->type != SAEI_PICKLE_TEXT && items[i]->type != SAEI_PICKLE_INT)
            return saei_pickle_fail(u, "a dict key that is neither a text nor an integer");
    return saei_pickle_append(u, into, items, count);
}

static sae_result saei_pickle_text(saei_pickle *u, size_t length) {
    const unsigned char *text = saei_pickle_take(u, length);
    saei_pickle_value *v;
    if (!text) return saei_pickle_fail(u, "it ends inside a text");
    if (!saei_is_text(text, length)) return saei_pickle_fail(u, "a text that is not UTF-8");
    SAEI_TRY(saei_pickle_new(u, SAEI_PICKLE_TEXT, &v));
    v->data = saei_arena_text(&u->arena, text, length);
    return v->data ? SAE_OK : saei_pickle_no_memory(u);
}

/* GLOBAL: two lines, module and name. */
static sae_result saei_pickle_global(saei_pickle *u) {
    char parts[2][48], quoted[SAEI_QUOTE], whole[SAEI_QUOTE];
    for (int i = 0; i < 2; i++) {
        const void *newline = memchr(u->at, '\n', (size_t)(u->end - u->at));
        size_t n = newline ? (size_t)((const unsigned char *)newline - u->at) : 0;
        if (!newline) return saei_pickle_fail(u, "it ends inside a name");
        memcpy(parts[i], u->at, saei_min(n, 47));
        parts[i][saei_min(n, 47)] = 0;
        u->at += n + 1;
    }
    for (int i = 0; i < SAEI_NUM_GLOBALS; i++)
        if (strcmp(parts[0], saei_globals[i].module) == 0
            && strcmp(parts[1], saei_globals[i].name) == 0)
            return saei_pickle_int(u, SAEI_PICKLE_GLOBAL, i);
    snprintf(whole, sizeof whole, "%s.%s", parts[0], parts[1]);
    return saei_unsupported(u->file,
                            "data.pkl names %s, which is none of the tensors, containers and "
                            "numbers of a state_dict; nothing of it is run (a whole module? save "
                            "its state_dict())",
                            saei_quote(whole, quoted));
}

/* BINPERSID: ('storage', class, key, location, elements). */
static sae_result saei_pickle_storage(saei_pickle *u) {
    saei_pickle_value *id = saei_pickle_pop(u), **a, *v;
    const struct saei_global_row *row;
    saei_zip_entry *e;
    char name[SAEI_QUOTE * 3], quoted[SAEI_QUOTE];
    uint64_t size;
    if (!id || id->type != SAEI_PICKLE_TUPLE || id->count != 5)
        return saei_pickle_fail(u, "a storage that is not described by five values");
    a = id->items;
    if (a[0]->type != SAEI_PICKLE_TEXT || strcmp((const char *)a[0]->data, "storage") != 0
        || a[1]->type != SAEI_PICKLE_GLOBAL || a[2]->type != SAEI_PICKLE_TEXT
        || a[3]->type != SAEI_PICKLE_TEXT || a[4]->type != SAEI_PICKLE_INT || a[4]->integer < 0)
        return saei_pickle_fail(u, "a storage with values of the wrong kind");
    row = saei_globals + a[1]->integer;
    if (row->kind != SAEI_GLOBAL_STORAGE) return saei_pickle_fail(u, "a storage of no known class");
    snprintf(name, sizeof name, "%sdata/%.100s", u->top, (const char *)a[2]->data);
    saei_quote(name, quoted);
    e = (saei_zip_entry *)(uintptr_t)saei_name_find(u->zip->by_name, u->zip->count, name);
    if (!e) return saei_damaged(u->file, "there is no storage \"%s\" in the archive", quoted);
    SAEI_TRY(saei_zip_plain(u->file, e, true));
    size = row->dtype ? sae_dtype_size((sae_dtype)row->dtype) : 1;
    if ((uint64_t)a[4]->integer > e->size / size)
        return saei_damaged(u->file,
                            "the storage \"%s\" holds %zu bytes, its tensors need %llu elements of "
                            "%d",
                            quoted, e->size, (unsigned long long)a[4]->integer, (int)size);
    SAEI_TRY(saei_pickle_new(u, SAEI_PICKLE_STORAGE, &v));
    v->data = e->data;
    v->integer = a[4]->integer * (int64_t)size;
    v->capacity = (uint32_t)row->dtype;
    v->count = (uint32_t)(e - u->zip->entries);
    return SAE_OK;
}

static bool saei_pickle_sizes(const saei_pickle_value *tuple, int64_t out[SAE_MAX_DIMS]) {
    if (tuple->type != SAEI_PICKLE_TUPLE || tuple->count > SAE_MAX_DIMS) return false;
    for (uint32_t i = 0; i < tuple->count; i++) {
        out[i] = tuple->items[i]->integer;
        if (tuple->items[i]->type != SAEI_PICKLE_INT || out[i] < 0) return false;
    }
    return true;
}

/* a = storage, offset, size, stride. Every element must lie in the storage. */
static sae_result saei_pickle_tensor(saei_pickle *u, saei_pickle_value **a, int dtype) {
    sae_tensor *t = (sae_tensor *)saei_arena_alloc(&u->arena, 1, sizeof *t);
    int64_t shape[SAE_MAX_DIMS], strides[SAE_MAX_DIMS];
    uint64_t held, last;
    size_t elements;
    saei_pickle_value *v;
    if (!t) return saei_pickle_no_memory(u);
    memset(t, 0, sizeof *t);
    if (a[0]->type != SAEI_PICKLE_STORAGE || a[1]->type != SAEI_PICKLE_INT
        || a[2]->type != SAEI_PICKLE_TUPLE || a[3]->type != SAEI_PICKLE_TUPLE)
        return saei_pickle_fail(u, "a tensor with values of the wrong kind");
    if (!dtype) dtype = (int)a[0]->capacity;
    if (!dtype) return saei_pickle_fail(u, "a tensor without an element type");
    if (a[2]->count > SAE_MAX_DIMS)
        return saei_unsupported(u->file, "a tensor of %u dimensions, at most %d are supported",
                                (unsigned)a[2]->count, SAE_MAX_DIMS);
    t->dtype = (sae_dtype)dtype;
    t->ndim = a[2]->count;
    if (!saei_pickle_sizes(a[2], shape) || a[3]->count != t->ndim || a[1]->integer < 0)
        return saei_pickle_fail(u, "a tensor with a negative size or offset");
    for (size_t k = 0; k < t->ndim; k++) t->shape[k] = (uint64_t)shape[k];
    if (!saei_shape_layout(t, &elements)) return saei_pickle_fail(u, "a tensor that is too large");
    if (!saei_pickle_sizes(a[3], strides))
        return saei_pickle_fail(u, "a tensor with a negative stride");
    for (size_t k = 0; k < t->ndim; k++) /* where no step is taken the row-major one stays */
        if (elements && t->shape[k] > 1) t->stride[k] = strides[k];
    held = (uint64_t)a[0]->integer / sae_dtype_size(t->dtype);
    last = (uint64_t)a[1]->integer;
    for (size_t k = 0; k < t->ndim && elements; k++) {
        uint64_t steps = t->shape[k] - 1, stride = (uint64_t)t->stride[k];
        if (steps && stride > held / steps) last = held;
        else last = last > held ? last : last + steps * stride;
    }
    if (last >= held && elements)
        return saei_pickle_fail(u, "a tensor that reaches past the end of its storage");
    if (elements > held && elements > SAEI_EXPANDED_ELEMENTS)
        return saei_pickle_fail(u, "a tensor far larger than its storage");
    t->data = (const unsigned char *)a[0]->data;
    if (elements)
        t->data = (const unsigned char *)t->data + (size_t)a[1]->integer * sae_dtype_size(t->dtype);
    SAEI_TRY(saei_pickle_new(u, SAEI_PICKLE_TENSOR, &v));
    v->data = t;
    v->integer = a[0]->count;
    return SAE_OK;
}

/* REDUCE and NEWOBJ: what calling the global would give. */
static sae_result saei_pickle_reduce(saei_pickle *u) {
    saei_pickle_value *args = saei_pickle_pop(u), *f = saei_pickle_pop(u), *v, **a;
    uint32_t n;
    if (!args || !f || args->type != SAEI_PICKLE_TUPLE || f->type != SAEI_PICKLE_GLOBAL)
        return saei_pickle_fail(u, "a call of something that is no function");
    a = args->items;
    n = args->count;
    switch (saei_globals[f->integer].kind) {
    case SAEI_GLOBAL_TENSOR_V1:
        if (n == 4) return saei_pickle_tensor(u, a, 0);
        break;
    case SAEI_GLOBAL_TENSOR_V2:
        if (n == 6 || n == 7) return saei_pickle_tensor(u, a, 0);
        break;
    case SAEI_GLOBAL_TENSOR_V3:
        if ((n == 7 || n == 8) && a[6]->type == SAEI_PICKLE_GLOBAL
            && saei_globals[a[6]->integer].kind == SAEI_GLOBAL_DTYPE)
            return saei_pickle_tensor(u, a, saei_globals[a[6]->integer].dtype);
        break;
    case SAEI_GLOBAL_PARAMETER:
        if (n == 3 && a[0]->type == SAEI_PICKLE_TENSOR) return saei_pickle_push(u, a[0]);
        break;
    case SAEI_GLOBAL_PARAMETER_STATE:
        if (n == 4 && a[0]->type == SAEI_PICKLE_TENSOR) return saei_pickle_push(u, a[0]);
        break;
    case SAEI_GLOBAL_DICT:
        if (n == 0) return saei_pickle_new(u, SAEI_PICKLE_DICT, &v);
        break;
    case SAEI_GLOBAL_SIZE:
        if (n == 1 && a[0]->type == SAEI_PICKLE_TUPLE) return saei_pickle_push(u, a[0]);
        break;
    case SAEI_GLOBAL_DEVICE:
        if (n >= 1 && a[0]->type == SAEI_PICKLE_TEXT) return saei_pickle_push(u, a[0]);
        break;
    default: break;
    }
    return saei_damaged(u->file, "data.pkl: %s.%s with values that do not fit",
                        saei_globals[f->integer].module, saei_globals[f->integer].name);
}

/* Opcodes of numbers and texts. *done: it was one. */
static sae_result saei_pickle_constant(saei_pickle *u, unsigned op, bool *done) {
    static const struct {
        unsigned char op, operand;
    } table[] = { { 'J', 4 }, { 'K', 1 }, { 'M', 2 }, { 0x8a, 1 },
                  { 'G', 8 }, { 'X', 4 }, { 'U', 1 } };
    const unsigned char *p = NULL;
    uint64_t bits = 0;
    size_t length;
    *done = true;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].op == op && !(p = saei_pickle_take(u, table[i].operand)))
            return saei_pickle_fail(u, "it ends inside a value");
    switch (op) {
    case 'J': return saei_pickle_int(u, SAEI_PICKLE_INT, (int32_t)saei_le32(p));
    case 'K': return saei_pickle_int(u, SAEI_PICKLE_INT, p[0]);
    case 'M': return saei_pickle_int(u, SAEI_PICKLE_INT, (int64_t)saei_le16(p));
    case 0x8a: /* little endian, two's complement, as short as possible */
        length = p[0];
        if (length > 8) return saei_pickle_fail(u, "an integer of more than 64 bits");
        if (!(p = saei_pickle_take(u, length)))
            return saei_pickle_fail(u, "it ends inside a value");
        for (size_t i = 0; i < length; i++) bits |= (uint64_t)p[i] << 8 * i;
        if (length && length < 8 && p[length - 1] & 0x80) bits |= ~(uint64_t)0 << 8 * length;
        return saei_pickle_int(u, SAEI_PICKLE_INT, (int64_t)bits);
    case 'G':
        for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
        return saei_pickle_int(u, SAEI_PICKLE_FLOAT, (int64_t)bits);
    case 'X': return saei_pickle_text(u, saei_le32(p));
    case 'U': return saei_pickle_text(u, p[0]);
    case 0x88: return saei_pickle_int(u, SAEI_PICKLE_BOOL, 1);
    case 0x89: return saei_pickle_int(u, SAEI_PICKLE_BOOL, 0);
    case 'N': return saei_pickle_int(u, SAEI_PICKLE_NONE, 0);
    default: *done = false; return SAE_OK;
    }
}

/* BINPUT, LONG_BINPUT, BINGET, LONG_BINGET. */
static sae_result saei_pickle_memo(saei_pickle *u, unsigned op) {
    bool wide = op == 'r' || op == 'j', put = op == 'q' || op == 'r';
    const unsigned char *p = saei_pickle_take(u, wide ? 4 : 1);
    size_t slot;
    if (!p) return saei_pickle_fail(u, "it ends inside a value");
    slot = wide ? saei_le32(p) : p[0];
    if (put) {
        if (slot >= u->memo_size) return saei_pickle_fail(u, "a memo slot out of range");
        if (!saei_pickle_above(u)) return saei_pickle_fail(u, "the stack is empty");
        u->memo[slot] = u->stack[u->depth - 1];
        return SAE_OK;
    }
    if (slot >= u->memo_size || !u->memo[slot])
        return saei_pickle_fail(u, "a memo slot that was never set");
    return saei_pickle_push(u, u->memo[slot]);
}

static sae_result saei_pickle_step(saei_pickle *u, unsigned op) {
    saei_pickle_value *v;
    size_t count;
    bool done;
    SAEI_TRY(saei_pickle_constant(u, op, &done));
    if (done) return SAE_OK;
    switch (op) {
    case '(':
        if (u->num_marks == SAEI_PICKLE_MARKS) return saei_pickle_fail(u, "too many marks");
        u->marks[u->num_marks++] = u->depth;
        return SAE_OK;
    case 't': case 'u': case 'e': /* what lies above the last MARK */
        if (!u->num_marks) return saei_pickle_fail(u, "no mark on the stack");
        count = saei_pickle_above(u);
        u->num_marks--;
        if (op == 't') return saei_pickle_tuple(u, count);
        return saei_pickle_fill(u, op == 'u' ? SAEI_PICKLE_DICT : SAEI_PICKLE_LIST, count);
    case ')': return saei_pickle_tuple(u, 0);
    case 0x85: case 0x86: case 0x87: return saei_pickle_tuple(u, op - 0x84);
    case 's': return saei_pickle_fill(u, SAEI_PICKLE_DICT, 2);
    case 'a': return saei_pickle_fill(u, SAEI_PICKLE_LIST, 1);
    case '}': return saei_pickle_new(u, SAEI_PICKLE_DICT, &v);
    case ']': return saei_pickle_new(u, SAEI_PICKLE_LIST, &v);
    case 'q': case 'r': case 'h': case 'j': return saei_pickle_memo(u, op);
    case 'c': return saei_pickle_global(u);
    case 'Q': return saei_pickle_storage(u);
    case 'R': case 0x81: return saei_pickle_reduce(u);
    case 'b': /* BUILD: an OrderedDict's attributes (_metadata) are of no use here */
        if (!saei_pickle_pop(u) || !saei_pickle_above(u)
            || u->stack[u->depth - 1]->type != SAEI_PICKLE_DICT)
            return saei_pickle_fail(u, "attributes for something that is not an OrderedDict");
        return SAE_OK;
    default:
        return saei_unsupported(u->file,
                                "data.pkl: opcode 0x%02x, which torch.save does not write at "
                                "protocol 2",
                                op);
    }
}

/* Runs the stream; *out is the object it makes. */
static sae_result saei_pickle_run(saei_pickle *u, saei_pickle_value **out) {
    const unsigned char *head = saei_pickle_take(u, 2);
    if (!head || head[0] != 0x80)
        return saei_unsupported(u->file, "data.pkl is not a pickle of protocol 2");
    if (head[1] != 2 && head[1] != 3)
        return saei_unsupported(u->file,
                                "data.pkl has pickle protocol %d, known are 2 (what torch.save "
                                "writes) and 3",
                                head[1]);
    for (;;) {
        const unsigned char *op = saei_pickle_take(u, 1);
        if (!op) return saei_pickle_fail(u, "it ends too early");
        if (*op == '.') break;
        SAEI_TRY(saei_pickle_step(u, *op));
    }
    if (u->depth != 1 || u->num_marks) return saei_pickle_fail(u, "it does not make one object");
    *out = u->stack[0];
    return SAE_OK;
}

/* ==== >>tensors: .pt, names and archive =============================== src/tensor/torch.h ==== */

static sae_result saei_pickle_add_scalar(saei_pickle *u, const char *name, const char *text) {
    sae_tensor_file *file = u->file;
    saei_scalar *grown = (saei_scalar *)saei_file_grow(file, file->scalars, file->num_scalars,
                                                       &file->scalar_capacity, sizeof *grown);
    if (!grown) return saei_file_no_memory(file);
    file->scalars = grown;
    text = saei_arena_text(&file->arena, text, strlen(text));
    if (!text) return saei_file_no_memory(file);
    file->scalars[file->num_scalars].name = name;
    file->scalars[file->num_scalars++].text = text;
    return SAE_OK;
}

/* A value that holds no others, under the name in u->name. */
static sae_result saei_pickle_leaf(saei_pickle *u, const saei_pickle_value *v, size_t length) {
    char text[64];
    const char *name;
    u->name_bytes += length + 1;
    if (u->name_bytes > SAEI_PICKLE_NAMES) return saei_pickle_fail(u, "too many names");
    name = saei_arena_text(&u->file->arena, u->name, length);
    if (!name) return saei_file_no_memory(u->file);
    if (v->type == SAEI_PICKLE_TENSOR) {
        sae_tensor t = *(const sae_tensor *)v->data;
        t.name = name;
        return saei_file_add(u->file, &t, u->zip->entries + v->integer);
    }
    if (v->type == SAEI_PICKLE_TEXT) return saei_pickle_add_scalar(u, name, (const char *)v->data);
    if (v->type == SAEI_PICKLE_INT) snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else if (v->type == SAEI_PICKLE_FLOAT)
        saei_number_text(saei_from_bits((uint64_t)v->integer), text);
    else if (v->type == SAEI_PICKLE_BOOL) strcpy(text, v->integer ? "True" : "False");
    else if (v->type == SAEI_PICKLE_NONE) strcpy(text, "None");
    else if (v->type == SAEI_PICKLE_GLOBAL)
        snprintf(text, sizeof text, "%s.%s", saei_globals[v->integer].module,
                 saei_globals[v->integer].name);
    else return SAE_OK; /* a bare storage */
    return saei_pickle_add_scalar(u, name, text);
}

/* Gives what v holds, all the way down, names joined by dots: "optimizer.state.0.exp_avg". A value
   that holds itself runs into a limit. */
static sae_result saei_pickle_flatten(saei_pickle *u, const saei_pickle_value *v, size_t length,
                                      int depth) {
    bool dict = v->type == SAEI_PICKLE_DICT;
    if (!dict && v->type != SAEI_PICKLE_LIST && v->type != SAEI_PICKLE_TUPLE)
        return saei_pickle_leaf(u, v, length);
    if (depth == SAEI_PICKLE_DEPTH) return saei_pickle_fail(u, "containers nested deeper than 64");
    for (uint32_t i = 0; i < v->count; i += dict ? 2 : 1) {
        const saei_pickle_value *key = dict ? v->items[i] : NULL,
                                *item = v->items[dict ? i + 1 : i];
        char number[24];
        const char *part = number;
        size_t at = length, n;
        if (++u->visits > 4 * u->size)
            return saei_pickle_fail(u, "it holds the same over and over");
        if (key && key->type == SAEI_PICKLE_TEXT) part = (const char *)key->data;
        else snprintf(number, sizeof number, "%lld", key ? (long long)key->integer : (long long)i);
        n = strlen(part);
        if (n + 1 > SAEI_PICKLE_NAME - length)
            return saei_pickle_fail(u, "a name of more than 1000 characters");
        if (depth > 0) u->name[at++] = '.';
        memcpy(u->name + at, part, n);
        SAEI_TRY(saei_pickle_flatten(u, item, at + n, depth + 1));
    }
    return SAE_OK;
}

/* The archive's own rules, checked before the pickle is read. */
static sae_result saei_torch_check(sae_tensor_file *file, saei_zip *zip, const char *top) {
    const struct {
        const char *name;
        bool required;
    } parts[2] = { { "version", true }, { "byteorder", false } };
    size_t n = strlen(top);
    char quoted[SAEI_QUOTE], name[SAEI_QUOTE + 16], text[16];
    for (size_t i = 0; i < zip->count; i++) {
        const char *rest = zip->entries[i].name + n;
        if (strncmp(zip->entries[i].name, top, n) != 0)
            return saei_damaged(file, "entry \"%s\" of the archive lies outside its folder %s",
                                saei_quote(zip->entries[i].name, quoted), top);
        if (strcmp(rest, "constants.pkl") == 0 || strncmp(rest, "code/", 5) == 0)
            return saei_unsupported(file, "a TorchScript archive; a state_dict saved with "
                                          "torch.save is expected");
    }
    for (int i = 0; i < 2; i++) {
        saei_zip_entry *e;
        snprintf(name, sizeof name, "%s%s", top, parts[i].name);
        e = (saei_zip_entry *)(uintptr_t)saei_name_find(zip->by_name, zip->count, name);
        if (!e && !parts[i].required) continue;
        if (!e) return saei_damaged(file, "the archive has no entry %s", name);
        SAEI_TRY(saei_zip_plain(file, e, true));
        SAEI_TRY(saei_zip_check(file, e));
        memcpy(text, e->data, saei_min(e->size, 15));
        text[saei_min(e->size, 15)] = 0;
        text[strcspn(text, "\r\n")] = 0;
        saei_quote(text, quoted);
        if (i == 0 && (strspn(text, "0123456789") != strlen(text) || strlen(text) > 3
                       || strtol(text, NULL, 10) < 1 || strtol(text, NULL, 10) > 10))
            return saei_unsupported(file, "torch archive version %s, known are 1 to 10", quoted);
        if (i == 1 && strcmp(text, "little") != 0)
            return saei_unsupported(file, "byteorder is %s, known is little", quoted);
    }
    return SAE_OK;
}

/* The folder of a first-level data.pkl with its slash, into out; false if there is none. */
static bool saei_torch_top(const saei_zip *zip, char out[SAEI_QUOTE]) {
    for (size_t i = 0; i < zip->count; i++) {
        const char *slash = strchr(zip->entries[i].name, '/');
        size_t n = slash ? (size_t)(slash - zip->entries[i].name) + 1 : 0;
        if (!slash || strcmp(slash, "/data.pkl") != 0 || n >= SAEI_QUOTE) continue;
        memcpy(out, zip->entries[i].name, n);
        out[n] = 0;
        return true;
    }
    return false;
}

static sae_result saei_torch_unpickle(saei_pickle *u) {
    saei_pickle_value *top = NULL;
    u->stack_size = u->size;
    u->memo_size = u->size;
    u->stack = (saei_pickle_value **)saei_arena_alloc(&u->arena, u->size + 1, sizeof *u->stack);
    u->memo = (saei_pickle_value **)saei_arena_alloc(&u->arena, u->size + 1, sizeof *u->memo);
    if (!u->stack || !u->memo) return saei_pickle_no_memory(u);
    memset(u->memo, 0, u->size * sizeof *u->memo);
    SAEI_TRY(saei_pickle_run(u, &top));
    if (top->type != SAEI_PICKLE_DICT && top->type != SAEI_PICKLE_TENSOR)
        return saei_pickle_fail(u, "it holds neither a dict of tensors nor a tensor");
    return saei_pickle_flatten(u, top, 0, 0);
}

static sae_result saei_torch_read(sae_tensor_file *file, saei_zip *zip, const char *top) {
    char name[SAEI_QUOTE + 16];
    saei_zip_entry *e;
    saei_pickle *u;
    sae_result result;
    SAEI_TRY(saei_torch_check(file, zip, top));
    snprintf(name, sizeof name, "%sdata.pkl", top);
    e = (saei_zip_entry *)(uintptr_t)saei_name_find(zip->by_name, zip->count, name);
    if (e->size > SAEI_PICKLE_SIZE)
        return saei_unsupported(file, "data.pkl has %zu bytes, at most %d are read", e->size,
                                SAEI_PICKLE_SIZE);
    SAEI_TRY(saei_zip_plain(file, e, true));
    SAEI_TRY(saei_zip_check(file, e));
    u = (saei_pickle *)saei_arena_alloc(&file->arena, 1, sizeof *u);
    if (!u) return saei_file_no_memory(file);
    memset(u, 0, sizeof *u);
    u->file = file;
    u->zip = zip;
    u->top = top;
    u->at = e->data;
    u->end = e->data + e->size;
    u->size = e->size;
    u->arena.ctx = file->ctx;
    result = saei_torch_unpickle(u);
    saei_arena_free(&u->arena);
    return result;
}

/* ---- writing ---- */

/* Shortest of BININT1, BININT2, BININT, LONG1. */
static void saei_pickle_put_int(saei_text *t, uint64_t value) {
    if (value < 256) saei_put_le(t, 'K' | value << 8, 2);
    else if (value < 65536) saei_put_le(t, 'M' | value << 8, 3);
    else if (value <= INT32_MAX) saei_put_le(t, 'J' | value << 8, 5);
    else {
        saei_put_le(t, 0x088a, 2);
        saei_put_le(t, value, 8);
    }
}

static void saei_pickle_put_text(saei_text *t, const char *text) {
    saei_text_put(t, "X", 1);
    saei_put_le(t, strlen(text), 4);
    saei_text_put(t, text, strlen(text));
}

/* EMPTY_TUPLE, TUPLE1..3, or MARK ... TUPLE. */
static void saei_pickle_put_sizes(saei_text *t, const uint64_t *shape, const int64_t *stride,
                                  size_t n) {
    static const char ops[] = ")\x85\x86\x87";
    if (n > 3) saei_text_put(t, "(", 1);
    for (size_t k = 0; k < n; k++) saei_pickle_put_int(t, shape ? shape[k] : (uint64_t)stride[k]);
    saei_text_put(t, n > 3 ? "t" : ops + n, 1);
}

/* {name: _rebuild_tensor_v2(storage i, 0, size, stride, False, OrderedDict()), ...} */
static void saei_torch_pickle(saei_text *p, const sae_tensor *tensors, size_t count) {
    saei_text_put(p, "\x80\x02}(", 4);
    for (size_t i = 0; i < count; i++) {
        sae_tensor t = tensors[i];
        size_t elements = 0;
        char key[24];
        saei_shape_layout(&t, &elements);
        snprintf(key, sizeof key, "%zu", i);
        saei_pickle_put_text(p, t.name);
        saei_text_add(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
        saei_pickle_put_text(p, "storage");
        saei_text_add(p, "ctorch\n%s\n", saei_dtypes[t.dtype].storage);
        saei_pickle_put_text(p, key);
        saei_pickle_put_text(p, "cpu");
        saei_pickle_put_int(p, elements);
        saei_text_put(p, "tQK\x00", 4);
        saei_pickle_put_sizes(p, t.shape, NULL, t.ndim);
        saei_pickle_put_sizes(p, NULL, t.stride, t.ndim);
        saei_text_add(p, "\x89" "ccollections\nOrderedDict\n)RtR");
    }
    saei_text_put(p, "u.", 2);
}

/* The base name without its last extension, as torch.save names the archive's folder. */
static size_t saei_stem_size(const char *base) {
    const char *dot = strrchr(base, '.');
    return dot && dot > base ? (size_t)(dot - base) : strlen(base);
}

static sae_result saei_torch_fill(saei_zip_writer *z, const saei_content *c) {
    const sae_context *ctx = z->out->ctx;
    const char *base = saei_path_base(c->name);
    size_t stem = saei_stem_size(base);
    saei_text p, name;
    bool failed;
    for (size_t i = 0; i < c->count; i++)
        if (!saei_dtypes[c->tensors[i].dtype].storage)
            return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: %s: .pt files have no %s", z->out->who,
                             c->name, sae_dtype_name(c->tensors[i].dtype));
    if (!saei_is_text(base, stem) || stem > 60000)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: the name of a .pt file must be UTF-8",
                         z->out->who, c->name);
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    name = p;
    saei_torch_pickle(&p, c->tensors, c->count);
    for (size_t i = 0; i < c->count + 3; i++) {
        name.size = 0;
        saei_text_put(&name, base, stem);
        if (i == 0) saei_text_add(&name, "/data.pkl");
        else if (i == 1) saei_text_add(&name, "/byteorder");
        else if (i == c->count + 2) saei_text_add(&name, "/version");
        else saei_text_add(&name, "/data/%zu", i - 2);
        if (name.failed || p.failed) break;
        if (i == 0) saei_zip_put(z, name.data, p.data, p.size, "", 0);
        else if (i == 1) saei_zip_put(z, name.data, "little", 6, "", 0);
        else if (i == c->count + 2) saei_zip_put(z, name.data, "3\n", 2, "", 0);
        else
            saei_zip_put(z, name.data, c->tensors[i - 2].data,
                         saei_tensor_bytes(c->tensors + (i - 2)), "", 0);
    }
    failed = p.failed || name.failed;
    saei_free(ctx, p.data);
    saei_free(ctx, name.data);
    return failed ? saei_content_no_memory(z->out, c) : SAE_OK;
}

static sae_result saei_torch_write(saei_writer *w, const saei_content *c) {
    return saei_zip_write(w, c, saei_torch_fill);
}

/* ==== >>tensors: every container ======================================= src/tensor/open.h ==== */

static sae_result saei_zip_file(sae_tensor_file *file) {
    saei_zip zip;
    char top[SAEI_QUOTE];
    SAEI_TRY(saei_zip_open(file, &zip));
    file->ending = ".pt";
    if (saei_torch_top(&zip, top)) return saei_torch_read(file, &zip, top);
    file->ending = ".npz";
    for (size_t i = 0; i < zip.count; i++)
        if (saei_ends_with(zip.entries[i].name, ".npy")) return saei_npz_read(file, &zip);
    return saei_damaged(file, "a zip archive without data.pkl (torch.save) and without .npy "
                              "(numpy.savez)");
}

/* The containers: known by their content when they are read, by the ending of the name when they
   are written. */
typedef struct saei_container {
    const char *ending;
    bool nameless; /* holds one tensor, without a name */
    bool (*probe)(const unsigned char *data, size_t size);
    sae_result (*read)(sae_tensor_file *file);
    sae_result (*write)(saei_writer *w, const saei_content *content);
} saei_container;

static const saei_container saei_containers[] = {
    { ".npy", true, saei_looks_npy, saei_npy_file, saei_npy_write },
    { ".npz", false, saei_looks_zip, saei_zip_file, saei_npz_write },
    { ".safetensors", false, saei_probe_safetensors, saei_safetensors_read,
      saei_safetensors_write },
    { ".pt", false, saei_looks_zip, saei_zip_file, saei_torch_write },
    { ".pth", false, saei_looks_zip, saei_zip_file, saei_torch_write }
};
enum { SAEI_NUM_CONTAINERS = sizeof saei_containers / sizeof saei_containers[0] };

static sae_result saei_tensor_file_read(sae_tensor_file *file) {
    static const unsigned char legacy[] = { 0x80, 2, 0x8a, 10, 'l', 0xfc, 0x9c, 'F', 0xf9 };
    const unsigned char *d = file->map.data;
    size_t n = file->map.size;
    if (n == 0) return saei_damaged(file, "the file is empty");
    for (size_t i = 0; i < SAEI_NUM_CONTAINERS; i++)
        if (saei_containers[i].probe(d, n)) {
            file->ending = saei_containers[i].ending;
            return saei_containers[i].read(file);
        }
    if (n >= 11 && memcmp(d, "version htt", 11) == 0)
        return saei_damaged(file, "a Git LFS pointer: the file itself was not downloaded (git lfs "
                                  "pull)");
    if (saei_ends_with(file->path, ".safetensors")) return saei_safetensors_read(file);
    if (n >= sizeof legacy && memcmp(d, legacy, sizeof legacy) == 0)
        return saei_unsupported(file, "torch.save's format from before torch 1.6; re-save it with "
                                      "torch >= 1.6");
    if (n >= 2 && d[0] == 0x80 && d[1] >= 2 && d[1] <= 5)
        return saei_unsupported(file, "a bare pickle, which is not run; re-save it with torch.save "
                                      "(torch >= 1.6) or as .safetensors");
    return saei_damaged(file, "not a file of a known kind: .npy, .npz, .safetensors, .pt (torch >= "
                              "1.6)");
}

SAE_API void sae_tensor_file_close(sae_tensor_file *file) {
    if (!file) return;
    sae_json_close(file->header);
    saei_arena_free(&file->arena);
    saei_map_close(file->ctx, &file->map);
    saei_free(file->ctx, file);
}

/* The file whose bytes are in *map, which is the file's from here on; bytes of the caller's must
   outlive it. path is for messages, and says the kind where the bytes do not. */
static sae_result saei_tensor_file_open_map(sae_context *ctx, const char *path, saei_map *map,
                                            sae_tensor_file **out) {
    sae_tensor_file *file = (sae_tensor_file *)saei_calloc(ctx, 1, sizeof *file);
    sae_result result;
    if (!file) {
        saei_map_close(ctx, map);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tensor_file_open: no memory for %s",
                         path);
    }
    file->ctx = ctx;
    file->who = "sae_tensor_file_open";
    file->path = path;
    file->arena.ctx = ctx;
    file->map = *map;
    saei_crc_tables(&file->crc);
    result = saei_tensor_file_read(file);
    if (result == SAE_OK)
        result = saei_file_index(file, file->tensors, file->count, sizeof *file->tensors, "tensor",
                                 &file->by_name);
    if (result == SAE_OK)
        result = saei_file_index(file, file->scalars, file->num_scalars, sizeof *file->scalars,
                                 "value", &file->scalars_by_name);
    file->path = saei_arena_text(&file->arena, path, strlen(path));
    if (result == SAE_OK && !file->path)
        result =
            saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tensor_file_open: no memory for %s", path);
    if (result != SAE_OK) {
        sae_tensor_file_close(file);
        return result;
    }
    *out = file;
    return SAE_OK;
}

SAE_API sae_result sae_tensor_file_open(sae_context *ctx, const char *path, sae_tensor_file **out) {
    saei_map map;
    if (!ctx) return SAE_ERR_INVALID;
    if (!path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_open: path or out is NULL");
    SAEI_TRY(saei_map_open(ctx, "sae_tensor_file_open", path, &map));
    return saei_tensor_file_open_map(ctx, path, &map, out);
}

SAE_API sae_result sae_tensor_file_open_memory(sae_context *ctx, const void *data, size_t size,
                                               sae_tensor_file **out) {
    saei_map map;
    if (!ctx) return SAE_ERR_INVALID;
    if (!data || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_open_memory: data or out is NULL");
    memset(&map, 0, sizeof map);
    map.data = (const unsigned char *)data;
    map.size = size;
    return saei_tensor_file_open_map(ctx, "memory", &map, out);
}

SAE_API size_t sae_tensor_file_count(const sae_tensor_file *file) { return file ? file->count : 0; }

SAE_API const sae_tensor *sae_tensor_file_get(const sae_tensor_file *file, size_t index) {
    return file && index < file->count ? &file->tensors[index].tensor : NULL;
}

SAE_API const sae_tensor *sae_tensor_file_find(const sae_tensor_file *file, const char *name) {
    if (!file || !name) return NULL;
    return (const sae_tensor *)saei_name_find(file->by_name, file->count, name);
}

SAE_API sae_result sae_tensor_file_check(sae_tensor_file *file, const sae_tensor *tensor) {
    if (!file) return SAE_ERR_INVALID;
    for (size_t i = 0; i < file->count; i++) {
        saei_file_tensor *t = file->tensors + i;
        if (tensor && tensor != &t->tensor) continue;
        file->who = "sae_tensor_file_check";
        if (t->entry) SAEI_TRY(saei_zip_check(file, t->entry));
        if (tensor) return SAE_OK;
    }
    if (!tensor) return SAE_OK;
    return saei_fail(file->ctx, SAE_ERR_INVALID,
                     "sae_tensor_file_check: tensor is not of this file");
}

/* The text of a value of a .pt that is not a tensor, by its dotted name, as Python prints it: "50",
   "0.5", "True", "None", "TopK". NULL if there is none. */
static const char *saei_tensor_file_scalar(const sae_tensor_file *file, const char *name) {
    const saei_scalar *s =
        (const saei_scalar *)saei_name_find(file->scalars_by_name, file->num_scalars, name);
    return s ? s->text : NULL;
}

/* ---- writing ---- */

static const saei_container *saei_container_of(const char *name) {
    for (size_t i = 0; i < SAEI_NUM_CONTAINERS; i++)
        if (saei_ends_with(name, saei_containers[i].ending)) return &saei_containers[i];
    return NULL;
}

/* Into the file c->name, or into memory (not NULL); the name says the kind. */
static sae_result saei_content_write(const sae_context *ctx, const saei_content *c,
                                     saei_text *memory) {
    const char *who = "sae_tensor_file_write";
    const saei_container *kind = saei_container_of(c->name);
    saei_content content = *c;
    sae_tensor single;
    saei_writer w;
    sae_result result;
    size_t bytes = 4096;
    if (!kind)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: %s ends in none of .npy, .npz, .safetensors, .pt", who, c->name);
    if (kind->nameless && c->count != 1)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: count is %zu, a %s holds 1 tensor", who,
                         c->name, c->count, kind->ending);
    if (kind->nameless && c->tensors) {
        single = c->tensors[0];
        single.name = "";
        content.tensors = &single;
    }
    SAEI_TRY(saei_write_check(ctx, c->name, content.tensors, c->count));
    if (memory) {
        for (size_t i = 0; i < c->count; i++)
            bytes += saei_tensor_bytes(content.tensors + i) + 2 * strlen(content.tensors[i].name)
                     + 512;
        saei_text_reserve(memory, bytes); /* about what it takes: it need not grow by doubling */
        saei_writer_open_memory(ctx, who, memory, &w);
    } else SAEI_TRY(saei_writer_open(ctx, who, c->name, &w));
    result = kind->write(&w, &content);
    if (result == SAE_OK) return saei_writer_finish(&w);
    saei_writer_abandon(&w);
    return result;
}

/* The same into fresh memory, for sae_context_free. */
static sae_result saei_content_memory(const sae_context *ctx, const saei_content *c, void **data,
                                      size_t *size) {
    saei_text memory;
    sae_result result;
    memset(&memory, 0, sizeof memory);
    memory.ctx = ctx;
    result = saei_content_write(ctx, c, &memory);
    if (result == SAE_OK) {
        *data = memory.data;
        *size = memory.size;
    } else {
        saei_free(ctx, memory.data);
    }
    return result;
}

SAE_API sae_result sae_tensor_file_write(sae_context *ctx, const char *path,
                                         const sae_tensor *tensors, size_t count) {
    saei_content content = { path, tensors, count, NULL, NULL, 0 };
    if (!ctx) return SAE_ERR_INVALID;
    if (!path) return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_write: path is NULL");
    return saei_content_write(ctx, &content, NULL);
}

SAE_API sae_result sae_tensor_file_write_memory(sae_context *ctx, const char *name,
                                                const sae_tensor *tensors, size_t count,
                                                void **data, size_t *size) {
    saei_content content = { name, tensors, count, NULL, NULL, 0 };
    if (!ctx) return SAE_ERR_INVALID;
    if (!name || !data || !size)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_tensor_file_write_memory: name, data or size is NULL");
    return saei_content_memory(ctx, &content, data, size);
}

SAE_API void sae_context_free(sae_context *ctx, void *memory) {
    if (ctx) saei_free(ctx, memory);
}

#if defined(SAEI_FOR_SIZE)
#pragma GCC pop_options
#endif

/* ==== >>kernels ====================================================== src/kernels/table.h ==== */
/* The loops that take the time, written with 16 lanes whatever the machine has and compiled for
   each instruction set; the best one is chosen at run time. All give the same bits: each element
   sees the same operations in the same order. A set has a file of its own, which names its lanes
   and pastes the kernels written over them (*.inl); AVX-512 has its own versions of most.
   Figures are of W1: d 512, m 8192, 2048 rows, k 64; see bench/RESULTS.md for the machine. */
#define SAEI_PANEL 48     /* latents of a packed panel [dim][48] */
#define SAEI_TILE_ROWS 8  /* rows that go through a panel together */
#define SAEI_DENSE_COLUMNS 128 /* a panel of the dense phase: 64 rows of 128 floats lie in the L1 */
#define SAEI_DENSE_ROWS 64
#define SAEI_LIST_PADDING 16 /* entries of a row's list after its end that may be overwritten */
/* Free entries a row's list needs before a panel: what it may add and overwrite. */
#define SAEI_LIST_RESERVE (SAEI_PANEL + SAEI_LIST_PADDING)

/* A row as int16 for screening: x = q * inverse + delta. All three are rounded up. */
typedef struct saei_quantized {
    float inverse;      /* 0: q is all zeros; negative: the row has no finite, sane norm */
    float norm, error;  /* |x|, |delta| */
} saei_quantized;

/* The kernels of an instruction set, X(set, result, name, parameters) each: the table's members;
   saei_NAME_SET fills them (isa.h). */
#define SAEI_KERNELS(X, set)                                                                       \
    /* out[k][48] = row[j][k] for 48 rows of dim words, rows from count on as zeros */             \
    X(set, void, pack, (const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,           \
      uint32_t *out))                                                                              \
    /* out[r][0..48) = sum_k x[r][k] panel[k][0..48), 8 rows (+ out if add): the product order */  \
    X(set, void, tile, (const float *const x[SAEI_TILE_ROWS], const float *panel, size_t dim,      \
      bool add, float *out))                                                                       \
    /* out[j] = x.M[row[j]] (+ out[j] if add): the product order */                                \
    X(set, void, products, (size_t n, const float *x, size_t count, const uint32_t *row,           \
      const float *M, size_t ld, bool add, float *out))                                            \
    /* How many of n values are >= cut; and those only, in their order, with their latents. */     \
    X(set, size_t, count_from, (const float *value, size_t n, float cut))                          \
    X(set, size_t, keep_from, (uint32_t *latent, float *value, size_t n, float cut))               \
    /* p[j] = u[j] + bias[j] (NULL: 0). Appends base + j and p[j], or u[j] if raw, for p[j] > cut, \
       and for p[j] > theta[j] or |(p[j] - theta[j]) / bandwidth| < 1/2, j < count; returns as     \
       keep_screened. Entries up to stride may be overwritten. *kept: bit j for each; NULL where   \
       count > 64. */                                                                              \
    X(set, size_t, keep_above, (const float *u, const float *bias, bool raw, size_t count,         \
      float cut, uint32_t base, uint32_t *latent, float *value, size_t length, size_t stride,      \
      uint64_t *kept))                                                                             \
    X(set, size_t, keep_window, (const float *u, const float *bias, const float *theta,            \
      float bandwidth, size_t count, uint32_t base, uint32_t *latent, float *value,                \
      size_t length, size_t stride, uint64_t *kept))                                               \
    /* out += sum_j value[j] M[row[j]], ascending j: the rows order. n is a multiple of 16. */     \
    X(set, void, add_rows, (size_t n, size_t count, const uint32_t *row, const float *value,       \
      const float *M, size_t ld, float *out))                                                      \
    X(set, double, dot, (size_t n, const float *a, const float *b))                                \
    /* to = from, floats that need not be aligned; false where one is NaN or infinite. Transposed: \
       to[c * ld + r] = row[r][c] for r < 16, c < n. */                                            \
    X(set, bool, copy, (size_t n, const void *from, float *to))                                    \
    X(set, bool, copy_transposed, (const void *const row[16], size_t n, float *to, size_t ld))     \
    /* x > cut ? x : 0 */                                                                          \
    X(set, void, over, (size_t n, const float *x, const float *cut, float *out))                   \
    /* a x + y */                                                                                  \
    X(set, void, axpy, (size_t n, float a, const float *x, const float *y, float *out))            \
    /* a x */                                                                                      \
    X(set, void, scale, (size_t n, float a, const float *x, float *out))                           \
    /* x / a */                                                                                    \
    X(set, void, divide, (size_t n, const float *x, float a, float *out))

/* Screening; NULL where the set gains nothing by it. */
#define SAEI_SCREEN_KERNELS(X, set)                                                                \
    /* int16 rows of n values, n even, and the integer tile [8][48] over panels of pairs. */       \
    X(set, void, quantize, (size_t n, const float *x, int16_t *out, saei_quantized *q))            \
    X(set, void, screen, (const int16_t *const x[SAEI_TILE_ROWS], const uint32_t *panel,           \
      size_t pairs, int32_t *out))                                                                 \
    /* For each row r of a tile: p = scale[r] inverse[j] dot[r][j] + offset[j]; base + j and p -   \
       shift[r] of all p > cut[r], j < 48, go to latent[r], value[r] from entry length[r] on, and  \
       length[r] grows. A list has SAEI_LIST_RESERVE free entries, which may all be overwritten.   \
       Rows must not share a list, except rows whose cut rejects everything. */                    \
    X(set, void, keep_tile, (const int32_t *dot, const float *inverse, const float *offset,        \
      const float *scale, const float *shift, const float *cut, uint32_t base,                     \
      uint32_t *const *latent, float *const *value, uint32_t *length))                             \
    /* The same of one row, whose list of stride entries may be full: returns the new length,      \
       beyond stride where not all were written. */                                                \
    X(set, size_t, keep_screened, (const int32_t *dot, const float *inverse, const float *offset,  \
      float scale, float shift, float cut, uint32_t base, uint32_t *latent, float *value,          \
      size_t length, size_t stride))

/* What only training needs. */
#define SAEI_TRAIN_KERNELS(X, set)                                                                 \
    /* Of sorted, ascending from first or later, no two alike: how many are < first + 64, and in   \
       *bits, bit sorted[j] - first of each. */                                                    \
    X(set, size_t, mark, (const uint32_t *sorted, size_t n, uint32_t first, uint64_t *bits))       \
    /* Row r of 16 has, from entry from[r] on, one entry for each bit l < 16 of fires[r],          \
       ascending. To out[v][to[l]...], v < count, go values[v] of the entries of bit l, rows       \
       ascending; from and to move on. */                                                          \
    X(set, void, regroup, (const uint32_t fires[16], size_t from[16], const float *const *values,  \
      size_t count, float *const *out, size_t to[16]))                                             \
    /* sums[64 w + b] += value[j], one entry j for each bit b of fires[w], w < words, ascending */ \
    X(set, void, add_fires, (size_t words, const uint64_t *fires, const float *value,              \
      double *sums))                                                                               \
    /* List i < targets has, from entry at[i] on, an entry j for each bit b of bits[i], ascending: \
       it is of row b of the panel, of n floats, a multiple of 16, n <= SAEI_DENSE_COLUMNS.        \
       add_panel: out[i] += sum_j value[j] panel[b], the rows order; rows of out are ld apart.     \
       dot_panel: the sixteen running sums of e[i].panel[b], from 0 if `begin`, go on in lanes, 16 \
       for each entry of each list, one after the other; where out is not NULL they are finished:  \
       out[j] = alpha e[i].panel[b], the dot order. Rows of e are ld apart. */                     \
    X(set, void, add_panel, (size_t n, size_t targets, const size_t *at, const uint64_t *bits,     \
      const float *value, const float *panel, float *out, size_t ld))                              \
    X(set, void, dot_panel, (size_t n, size_t targets, const size_t *at, const uint64_t *bits,     \
      const float *e, size_t ld, const float *panel, float *lanes, bool begin, float alpha,        \
      float *out))                                                                                 \
    /* out[j] = alpha e.M[row[j]]: the dot order */                                                \
    X(set, void, dots, (size_t n, const float *e, size_t count, const uint32_t *row,               \
      const float *M, size_t ld, float alpha, float *out))                                         \
    /* out += a x */                                                                               \
    X(set, void, add_double, (size_t n, double a, const float *x, double *out))                    \
    /* x > 0 ? x^p : 0 */                                                                          \
    X(set, void, powers, (size_t n, const float *x, double p, double *out))                        \
    /* The operations gate and gate_grad on n entries from entry at on. */                         \
    X(set, void, gate, (size_t n, size_t at, const float *gate_bias, const float *exp_r,           \
      const float *mag_bias, const sae_code *c))                                                   \
    X(set, void, gate_grad, (size_t n, size_t at, const float *exp_r, const sae_code *c))          \
    X(set, void, adam, (const saei_adam_factors *c, size_t n, float *p, const float *g, float *m,  \
      float *v))

#if defined(SAE_NO_TRAIN)
#undef SAEI_TRAIN_KERNELS
#define SAEI_TRAIN_KERNELS(X, set)
#endif

#define SAEI_MEMBER(set, result, name, parameters) result (*name) parameters;
struct saei_kernels {
    const char *name;
    SAEI_KERNELS(SAEI_MEMBER, any)
    SAEI_SCREEN_KERNELS(SAEI_MEMBER, any)
    SAEI_TRAIN_KERNELS(SAEI_MEMBER, any)
};
#undef SAEI_MEMBER

#ifndef SAE_NO_TRAIN
static size_t saei_lowest_bit(uint64_t bits) { /* not 0 */
#if defined(__GNUC__)
    return (size_t)__builtin_ctzll(bits);
#else
    size_t at = 0;
    for (; !(bits & 0xFF); bits >>= 8) at += 8;
    for (; !(bits & 1); bits >>= 1) at++;
    return at;
#endif
}

static size_t saei_count_bits(uint64_t bits) {
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    return (size_t)(((bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
}
#endif

static float saei_gate_value(float exp_r, float u, float mag_bias) {
    float v = exp_r * u + mag_bias;
    return v > 0 ? v : 0;
}

/* The rectangle of the straight-through estimator: whether |(x - theta) / bandwidth| < 1/2. */
static bool saei_rectangle(float x, float theta, float bandwidth) {
    float z = (x - theta) / bandwidth;
    return z > -0.5f && z < 0.5f;
}

/* `count` <= 48 rows of W from `first` on, or those that list names, as a panel [d][48]. */
static void saei_pack_panel(const saei_kernels *kernels, const float *W, size_t ld, size_t d,
                            const uint32_t *list, size_t first, size_t count, float *panel) {
    const uint32_t *row[SAEI_PANEL];
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        size_t i = first + saei_min(j, count - 1);
        row[j] = (const uint32_t *)(const void *)(W + (list ? list[i] : i) * ld);
    }
    kernels->pack(row, count, d, (uint32_t *)(void *)panel);
}

/* ==== >>kernels: portable ========================================= src/kernels/portable.h ==== */
#define SAEI_FN(name) name##_portable

/* ---- src/kernels/names.inl ---- */

/* The lanes of the set whose text this is: 16 floats, however many registers they take. */
#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

typedef struct saei_v {
    float f[16];
} saei_v;
static inline saei_v saei_vload(const float *p) {
    saei_v r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
static inline void saei_vstore(float *p, saei_v x) { memcpy(p, x.f, sizeof x.f); }
#define SAEI_LANES(head, expression)                                                               \
    static inline saei_v head {                                                                    \
        saei_v r;                                                                                  \
        for (int i = 0; i < 16; i++) r.f[i] = expression;                                          \
        return r;                                                                                  \
    }
SAEI_LANES(saei_vset(float a), a)
SAEI_LANES(saei_vfma(saei_v x, saei_v y, saei_v z), fmaf(x.f[i], y.f[i], z.f[i]))
SAEI_LANES(saei_vmul(saei_v x, saei_v y), x.f[i] * y.f[i])
SAEI_LANES(saei_vadd(saei_v x, saei_v y), x.f[i] + y.f[i])
SAEI_LANES(saei_vsub(saei_v x, saei_v y), x.f[i] - y.f[i])
SAEI_LANES(saei_vdiv(saei_v x, saei_v y), x.f[i] / y.f[i])
SAEI_LANES(saei_vsqrt(saei_v x), sqrtf(x.f[i]))
#undef SAEI_LANES

/* ---- src/kernels/sum.inl ---- */

/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
    double sum[16];
    float f[16];
    saei_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

/* 4 rows x 16 latents at a time. */
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], const float *panel, size_t dim,
                               bool add, float *out) {
    for (size_t r = 0; r < SAEI_TILE_ROWS; r += 4)
        for (size_t c = 0; c < SAEI_PANEL; c += 16) {
            float *o = out + r * SAEI_PANEL + c;
            const float *x0 = x[r], *x1 = x[r + 1], *x2 = x[r + 2], *x3 = x[r + 3], *p = panel + c;
            saei_v a0 = add ? saei_vload(o) : saei_vset(0);
            saei_v a1 = add ? saei_vload(o + SAEI_PANEL) : saei_vset(0);
            saei_v a2 = add ? saei_vload(o + 2 * SAEI_PANEL) : saei_vset(0);
            saei_v a3 = add ? saei_vload(o + 3 * SAEI_PANEL) : saei_vset(0);
            for (size_t k = 0; k < dim; k++, p += SAEI_PANEL) {
                saei_v v = saei_vload(p);
                a0 = saei_vfma(saei_vset(x0[k]), v, a0);
                a1 = saei_vfma(saei_vset(x1[k]), v, a1);
                a2 = saei_vfma(saei_vset(x2[k]), v, a2);
                a3 = saei_vfma(saei_vset(x3[k]), v, a3);
            }
            saei_vstore(o, a0);
            saei_vstore(o + SAEI_PANEL, a1);
            saei_vstore(o + 2 * SAEI_PANEL, a2);
            saei_vstore(o + 3 * SAEI_PANEL, a3);
        }
}

/* ---- src/kernels/transposed.inl ---- */

static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    float bad = 0;
    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, (const float *)row[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

/* ---- src/kernels/common.inl ---- */

/* Kernels of every instruction set, over its lanes. */
/* The kernel add_rows, 64 columns at a time. */
static void SAEI_FN(saei_add_columns)(size_t n, size_t count, const uint32_t *row,
                                      const float *value, const float *M, size_t ld, float *out) {
    size_t c = 0;
    for (; c + 64 <= n; c += 64) {
        saei_v a0 = saei_vload(out + c), a1 = saei_vload(out + c + 16);
        saei_v a2 = saei_vload(out + c + 32), a3 = saei_vload(out + c + 48);
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            saei_v v = saei_vset(value[j]);
            a0 = saei_vfma(v, saei_vload(m), a0);
            a1 = saei_vfma(v, saei_vload(m + 16), a1);
            a2 = saei_vfma(v, saei_vload(m + 32), a2);
            a3 = saei_vfma(v, saei_vload(m + 48), a3);
        }
        saei_vstore(out + c, a0);
        saei_vstore(out + c + 16, a1);
        saei_vstore(out + c + 32, a2);
        saei_vstore(out + c + 48, a3);
    }
    for (; c < n; c += 16) {
        saei_v a = saei_vload(out + c);
        for (size_t j = 0; j < count; j++)
            a = saei_vfma(saei_vset(value[j]), saei_vload(M + row[j] * ld + c), a);
        saei_vstore(out + c, a);
    }
}

static double SAEI_FN(saei_dot)(size_t n, const float *a, const float *b) {
    saei_v s = saei_vset(0);
    for (size_t i = 0; i < n; i += 16) s = saei_vfma(saei_vload(a + i), saei_vload(b + i), s);
    return saei_vsum(s);
}

static void SAEI_FN(saei_axpy)(size_t n, float a, const float *x, const float *y, float *out) {
    saei_v va = saei_vset(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        saei_vstore(out + i, saei_vfma(va, saei_vload(x + i), saei_vload(y + i)));
    for (; i < n; i++) out[i] = fmaf(a, x[i], y[i]);
}

static void SAEI_FN(saei_scale)(size_t n, float a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vmul(saei_vset(a), saei_vload(x + i)));
    for (; i < n; i++) out[i] = a * x[i];
}

static void SAEI_FN(saei_divide)(size_t n, const float *x, float a, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vdiv(saei_vload(x + i), saei_vset(a)));
    for (; i < n; i++) out[i] = x[i] / a;
}

/* x 0 is 0 but for NaN and infinity. */
static bool SAEI_FN(saei_copy)(size_t n, const void *from, float *to) {
    const float *at = (const float *)from;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    float lane[16], bad = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vload(at + i);
        sum = saei_vadd(sum, saei_vmul(x, zero));
        saei_vstore(to + i, x);
    }
    saei_vstore(lane, sum);
    for (; i < n; i++) {
        memcpy(to + i, at + i, sizeof *to);
        bad += to[i] * 0;
    }
    for (i = 0; i < 16; i++) bad += lane[i];
    return bad == 0;
}

/* ---- src/kernels/plain.inl ---- */

/* Kernels of the sets that have no version of their own: all but AVX-512. */
static void SAEI_FN(saei_pack)(const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,
                               uint32_t *out) {
    for (size_t k = 0; k < dim; k++, out += SAEI_PANEL)
        for (size_t j = 0; j < SAEI_PANEL; j++) out[j] = j < count ? row[j][k] : 0;
}

static void SAEI_FN(saei_products)(size_t n, const float *x, size_t count, const uint32_t *row,
                                   const float *M, size_t ld, bool add, float *out) {
    /* eight chains by name: in an array they lie in memory at -O2, four times slower */
#define SAEI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const float *m##i = M + row[j + i < count ? j + i : count - 1] * ld;                           \
    float s##i = add && j + i < count ? out[j + i] : 0;
#define SAEI_ADD(i) s##i = fmaf(x[k], m##i[k], s##i);
#define SAEI_END(i)                                                                                \
    if (j + i < count) out[j + i] = s##i;
    for (size_t j = 0; j < count; j += 8) {
        SAEI_ALL(SAEI_BEGIN)
        for (size_t k = 0; k < n; k++) {
            SAEI_ALL(SAEI_ADD)
        }
        SAEI_ALL(SAEI_END)
    }
#undef SAEI_ALL
#undef SAEI_BEGIN
#undef SAEI_ADD
#undef SAEI_END
}

static size_t SAEI_FN(saei_count_from)(const float *value, size_t n, float cut) {
    size_t count = 0;
    for (size_t j = 0; j < n; j++) count += value[j] >= cut;
    return count;
}

static size_t SAEI_FN(saei_keep_from)(uint32_t *latent, float *value, size_t n, float cut) {
    size_t kept = 0;
    for (size_t j = 0; j < n; j++)
        if (value[j] >= cut) {
            latent[kept] = latent[j];
            value[kept++] = value[j];
        }
    return kept;
}

static size_t SAEI_FN(saei_keep_above)(const float *u, const float *bias, bool raw, size_t count,
                                       float cut, uint32_t base, uint32_t *latent, float *value,
                                       size_t length, size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
        float p = bias ? u[j] + bias[j] : u[j];
        if (!(p > cut)) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = raw ? u[j] : p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static size_t SAEI_FN(saei_keep_window)(const float *u, const float *bias, const float *theta,
                                        float bandwidth, size_t count, uint32_t base,
                                        uint32_t *latent, float *value, size_t length,
                                        size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
        float p = u[j] + bias[j], w = (p - theta[j]) / bandwidth;
        if (!(p > theta[j] || (w > -0.5f && w < 0.5f))) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    SAEI_FN(saei_add_columns)(n, count, row, value, M, ld, out);
}

static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}

/* ---- src/kernels/common_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs of every instruction set. */
/* Four to six latents at a time, so that their chains hide each other's latency: 53 cycles a dot of
   512 from the L1, of which 40 are loads (one alone 92; eight 83: too many streams for the L1). */
#define SAEI_DOT_BEGIN(i)                                                                          \
    const float *m##i = M + row[j + i] * ld;                                                       \
    saei_v s##i = saei_vset(0);
#define SAEI_DOT_STEP(i) s##i = saei_vfma(v, saei_vload(m##i + k), s##i);
#define SAEI_DOT_END(i) out[j + i] = (float)((double)alpha * saei_vsum(s##i));
#define SAEI_DOTS(ALL)                                                                             \
    ALL(SAEI_DOT_BEGIN)                                                                            \
    for (size_t k = 0; k < n; k += 16) {                                                           \
        saei_v v = saei_vload(e + k);                                                              \
        ALL(SAEI_DOT_STEP)                                                                         \
    }                                                                                              \
    ALL(SAEI_DOT_END)
#define SAEI_1(X) X(0)
#define SAEI_2(X) SAEI_1(X) X(1)
#define SAEI_3(X) SAEI_2(X) X(2)
#define SAEI_4(X) SAEI_3(X) X(3)
#define SAEI_5(X) SAEI_4(X) X(4)
#define SAEI_6(X) SAEI_5(X) X(5)
static void SAEI_FN(saei_dots)(size_t n, const float *e, size_t count, const uint32_t *row,
                               const float *M, size_t ld, float alpha, float *out) {
    for (size_t j = 0, group; j < count; j += group) {
        group = count - j > 6 ? 4 : count - j;
        switch (group) {
        case 1: { SAEI_DOTS(SAEI_1) } break;
        case 2: { SAEI_DOTS(SAEI_2) } break;
        case 3: { SAEI_DOTS(SAEI_3) } break;
        case 4: { SAEI_DOTS(SAEI_4) } break;
        case 5: { SAEI_DOTS(SAEI_5) } break;
        default: { SAEI_DOTS(SAEI_6) } break;
        }
    }
}
#undef SAEI_DOT_BEGIN
#undef SAEI_DOT_STEP
#undef SAEI_DOT_END
#undef SAEI_DOTS
#undef SAEI_1
#undef SAEI_2
#undef SAEI_3
#undef SAEI_4
#undef SAEI_5
#undef SAEI_6

/* out += sum_j v[j] of the panel's rows named in bits, ascending. */
static inline void SAEI_FN(saei_add_list)(size_t n, uint64_t bits, const float *v,
                                          const float *panel, float *out) {
    for (; bits; bits &= bits - 1, v++) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v x = saei_vset(*v);
        for (size_t c = 0; c < n; c += 16)
            saei_vstore(out + c, saei_vfma(x, saei_vload(m + c), saei_vload(out + c)));
    }
}

/* The running sums of e with the panel's rows named in bits, 16 lanes each; returns their end. */
static inline float *SAEI_FN(saei_dot_list)(size_t n, uint64_t bits, const float *e,
                                            const float *panel, float *lanes, bool begin) {
    for (; bits; bits &= bits - 1, lanes += 16) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
        for (size_t c = 0; c < n; c += 16)
            s = saei_vfma(saei_vload(e + c), saei_vload(m + c), s);
        saei_vstore(lanes, s);
    }
    return lanes;
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where PyTorch rounds. m is not kept (NULL) when beta1 is 0: then it is g. */
static void SAEI_FN(saei_adam)(const saei_adam_factors *c, size_t n, float *p, const float *g,
                               float *m, float *v) {
    saei_v keep1 = saei_vset(c->keep1), keep2 = saei_vset(c->keep2), beta2 = saei_vset(c->beta2);
    saei_v root2 = saei_vset(c->root2), eps = saei_vset(c->eps), step = saei_vset(-c->step);
    saei_v scale = saei_vset(c->scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vmul(saei_vload(g + i), scale), m1 = x, v1;
        if (m) {
            m1 = saei_vload(m + i);
            m1 = saei_vfma(keep1, saei_vsub(x, m1), m1);
            saei_vstore(m + i, m1);
        }
        v1 = saei_vfma(saei_vmul(keep2, x), x, saei_vmul(beta2, saei_vload(v + i)));
        saei_vstore(v + i, v1);
        v1 = saei_vadd(saei_vdiv(saei_vsqrt(v1), root2), eps);
        saei_vstore(p + i, saei_vadd(saei_vload(p + i), saei_vdiv(saei_vmul(step, m1), v1)));
    }
    for (; i < n; i++) {
        float x = g[i] * c->scale, m1 = x;
        if (m) m1 = m[i] = fmaf(c->keep1, x - m[i], m[i]);
        v[i] = fmaf(c->keep2 * x, x, c->beta2 * v[i]);
        p[i] += -c->step * m1 / (sqrtf(v[i]) / c->root2 + c->eps);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/plain_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs, where there is no version of its own: all but AVX-512. */
static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
    size_t j = 0;
    for (*bits = 0; j < n && sorted[j] - first < 64; j++)
        *bits |= (uint64_t)1 << (sorted[j] - first);
    return j;
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t l = 0; l < 16; l++) {
            if (!(fires[r] >> l & 1)) continue;
            for (size_t v = 0; v < count; v++) out[v][to[l]] = values[v][from[r]];
            from[r]++;
            to[l]++;
        }
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64)
        for (uint64_t left = fires[w]; left; left &= left - 1)
            sums[saei_lowest_bit(left)] += (double)value[j++];
}

static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld)
        SAEI_FN(saei_add_list)(n, bits[i], value + at[i], panel, out);
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *end = SAEI_FN(saei_dot_list)(n, bits[i], e, panel, lanes, begin);
        if (out)
            for (size_t j = at[i]; lanes < end; j++, lanes += 16)
                out[j] = (float)((double)alpha * saei_vsum(saei_vload(lanes)));
        lanes = end;
    }
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    for (size_t i = 0; i < n; i++) out[i] += a * (double)x[i];
}

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/end.inl ---- */

#undef SAEI_FN
#undef saei_v
#undef saei_vload
#undef saei_vstore
#undef saei_vset
#undef saei_vfma
#undef saei_vmul
#undef saei_vadd
#undef saei_vsub
#undef saei_vdiv
#undef saei_vsqrt
#undef saei_vsum

/* ==== >>kernels: NEON ================================================= src/kernels/neon.h ==== */
#if defined(SAEI_NEON)
#define SAEI_FN(name) name##_neon

/* ---- src/kernels/names.inl ---- */

/* The lanes of the set whose text this is: 16 floats, however many registers they take. */
#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

typedef struct saei_v {
    float32x4_t f[4];
} saei_v;
#define SAEI_LANES(head, expression)                                                               \
    static inline saei_v head {                                                                    \
        saei_v r;                                                                                  \
        for (int i = 0; i < 4; i++) r.f[i] = expression;                                           \
        return r;                                                                                  \
    }
SAEI_LANES(saei_vload(const float *p), vld1q_f32(p + 4 * i))
SAEI_LANES(saei_vset(float a), vdupq_n_f32(a))
SAEI_LANES(saei_vfma(saei_v x, saei_v y, saei_v z), vfmaq_f32(z.f[i], x.f[i], y.f[i]))
SAEI_LANES(saei_vmul(saei_v x, saei_v y), vmulq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vadd(saei_v x, saei_v y), vaddq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vsub(saei_v x, saei_v y), vsubq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vdiv(saei_v x, saei_v y), vdivq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vsqrt(saei_v x), vsqrtq_f32(x.f[i]))
#undef SAEI_LANES
static inline void saei_vstore(float *p, saei_v x) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.f[i]);
}

/* ---- src/kernels/sum.inl ---- */

/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
    double sum[16];
    float f[16];
    saei_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

#define SAEI_COLUMNS(X, row) X(row, 0) X(row, 1) X(row, 2) X(row, 3) X(row, 4) X(row, 5)
#define SAEI_WIDE float32x4_t
#define SAEI_LOAD vld1q_f32
#define SAEI_STORE vst1q_f32
#define SAEI_SET vdupq_n_f32
#define SAEI_FMA(t, p, sum) vfmaq_f32(sum, t, p)

/* ---- src/kernels/tile_wide.inl ---- */

/* 4 rows x 24 latents at a time, the accumulators in registers: 12 of 8 lanes and 3 of the panel,
   or 24 of 4 lanes and 6. Predicted for AVX2: 12 FMAs for 7 loads, the FMA peak; see
   bench/RESULTS.md. */
#define SAEI_LANES (sizeof(SAEI_WIDE) / sizeof(float))
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], const float *panel, size_t dim,
                               bool add, float *out) {
#define SAEI_BEGIN(i, c)                                                                           \
    SAEI_WIDE s##i##c = add ? SAEI_LOAD(o + i * SAEI_PANEL + c * SAEI_LANES) : SAEI_SET(0);
#define SAEI_PART(i, c) SAEI_WIDE p##c = SAEI_LOAD(p + c * SAEI_LANES);
#define SAEI_STEP(i, c) s##i##c = SAEI_FMA(t, p##c, s##i##c);
#define SAEI_END(i, c) SAEI_STORE(o + i * SAEI_PANEL + c * SAEI_LANES, s##i##c);
#define SAEI_ROW(i)                                                                                \
    {                                                                                              \
        SAEI_WIDE t = SAEI_SET(x##i[k]);                                                           \
        SAEI_COLUMNS(SAEI_STEP, i)                                                                 \
    }
#define SAEI_ROWS(X) SAEI_COLUMNS(X, 0) SAEI_COLUMNS(X, 1) SAEI_COLUMNS(X, 2) SAEI_COLUMNS(X, 3)
    for (size_t k0 = 0; k0 < dim; k0 += 128, panel += 128 * SAEI_PANEL, add = true)
        for (size_t g = 0; g < 4; g++) { /* a block of the panel stays in the L1 for both rows */
            size_t c = g / 2 * 24, r = g % 2 * 4, end = dim - k0 < 128 ? dim - k0 : 128;
            const float *x0 = x[r] + k0, *x1 = x[r + 1] + k0, *x2 = x[r + 2] + k0;
            const float *x3 = x[r + 3] + k0, *p = panel + c;
            float *o = out + r * SAEI_PANEL + c;
            SAEI_ROWS(SAEI_BEGIN)
            for (size_t k = 0; k < end; k++, p += SAEI_PANEL) {
                SAEI_COLUMNS(SAEI_PART, 0)
                SAEI_ROW(0) SAEI_ROW(1) SAEI_ROW(2) SAEI_ROW(3)
            }
            SAEI_ROWS(SAEI_END)
        }
#undef SAEI_BEGIN
#undef SAEI_PART
#undef SAEI_STEP
#undef SAEI_END
#undef SAEI_ROW
#undef SAEI_ROWS
}
#undef SAEI_LANES
#undef SAEI_COLUMNS
#undef SAEI_WIDE
#undef SAEI_LOAD
#undef SAEI_STORE
#undef SAEI_SET
#undef SAEI_FMA

/* ---- src/kernels/transposed.inl ---- */

static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    float bad = 0;
    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, (const float *)row[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

/* ---- src/kernels/common.inl ---- */

/* Kernels of every instruction set, over its lanes. */
/* The kernel add_rows, 64 columns at a time. */
static void SAEI_FN(saei_add_columns)(size_t n, size_t count, const uint32_t *row,
                                      const float *value, const float *M, size_t ld, float *out) {
    size_t c = 0;
    for (; c + 64 <= n; c += 64) {
        saei_v a0 = saei_vload(out + c), a1 = saei_vload(out + c + 16);
        saei_v a2 = saei_vload(out + c + 32), a3 = saei_vload(out + c + 48);
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            saei_v v = saei_vset(value[j]);
            a0 = saei_vfma(v, saei_vload(m), a0);
            a1 = saei_vfma(v, saei_vload(m + 16), a1);
            a2 = saei_vfma(v, saei_vload(m + 32), a2);
            a3 = saei_vfma(v, saei_vload(m + 48), a3);
        }
        saei_vstore(out + c, a0);
        saei_vstore(out + c + 16, a1);
        saei_vstore(out + c + 32, a2);
        saei_vstore(out + c + 48, a3);
    }
    for (; c < n; c += 16) {
        saei_v a = saei_vload(out + c);
        for (size_t j = 0; j < count; j++)
            a = saei_vfma(saei_vset(value[j]), saei_vload(M + row[j] * ld + c), a);
        saei_vstore(out + c, a);
    }
}

static double SAEI_FN(saei_dot)(size_t n, const float *a, const float *b) {
    saei_v s = saei_vset(0);
    for (size_t i = 0; i < n; i += 16) s = saei_vfma(saei_vload(a + i), saei_vload(b + i), s);
    return saei_vsum(s);
}

static void SAEI_FN(saei_axpy)(size_t n, float a, const float *x, const float *y, float *out) {
    saei_v va = saei_vset(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        saei_vstore(out + i, saei_vfma(va, saei_vload(x + i), saei_vload(y + i)));
    for (; i < n; i++) out[i] = fmaf(a, x[i], y[i]);
}

static void SAEI_FN(saei_scale)(size_t n, float a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vmul(saei_vset(a), saei_vload(x + i)));
    for (; i < n; i++) out[i] = a * x[i];
}

static void SAEI_FN(saei_divide)(size_t n, const float *x, float a, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vdiv(saei_vload(x + i), saei_vset(a)));
    for (; i < n; i++) out[i] = x[i] / a;
}

/* x 0 is 0 but for NaN and infinity. */
static bool SAEI_FN(saei_copy)(size_t n, const void *from, float *to) {
    const float *at = (const float *)from;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    float lane[16], bad = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vload(at + i);
        sum = saei_vadd(sum, saei_vmul(x, zero));
        saei_vstore(to + i, x);
    }
    saei_vstore(lane, sum);
    for (; i < n; i++) {
        memcpy(to + i, at + i, sizeof *to);
        bad += to[i] * 0;
    }
    for (i = 0; i < 16; i++) bad += lane[i];
    return bad == 0;
}

/* ---- src/kernels/plain.inl ---- */

/* Kernels of the sets that have no version of their own: all but AVX-512. */
static void SAEI_FN(saei_pack)(const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,
                               uint32_t *out) {
    for (size_t k = 0; k < dim; k++, out += SAEI_PANEL)
        for (size_t j = 0; j < SAEI_PANEL; j++) out[j] = j < count ? row[j][k] : 0;
}

static void SAEI_FN(saei_products)(size_t n, const float *x, size_t count, const uint32_t *row,
                                   const float *M, size_t ld, bool add, float *out) {
    /* eight chains by name: in an array they lie in memory at -O2, four times slower */
#define SAEI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const float *m##i = M + row[j + i < count ? j + i : count - 1] * ld;                           \
    float s##i = add && j + i < count ? out[j + i] : 0;
#define SAEI_ADD(i) s##i = fmaf(x[k], m##i[k], s##i);
#define SAEI_END(i)                                                                                \
    if (j + i < count) out[j + i] = s##i;
    for (size_t j = 0; j < count; j += 8) {
        SAEI_ALL(SAEI_BEGIN)
        for (size_t k = 0; k < n; k++) {
            SAEI_ALL(SAEI_ADD)
        }
        SAEI_ALL(SAEI_END)
    }
#undef SAEI_ALL
#undef SAEI_BEGIN
#undef SAEI_ADD
#undef SAEI_END
}

static size_t SAEI_FN(saei_count_from)(const float *value, size_t n, float cut) {
    size_t count = 0;
    for (size_t j = 0; j < n; j++) count += value[j] >= cut;
    return count;
}

static size_t SAEI_FN(saei_keep_from)(uint32_t *latent, float *value, size_t n, float cut) {
    size_t kept = 0;
    for (size_t j = 0; j < n; j++)
        if (value[j] >= cut) {
            latent[kept] = latent[j];
            value[kept++] = value[j];
        }
    return kept;
}

static size_t SAEI_FN(saei_keep_above)(const float *u, const float *bias, bool raw, size_t count,
                                       float cut, uint32_t base, uint32_t *latent, float *value,
                                       size_t length, size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
        float p = bias ? u[j] + bias[j] : u[j];
        if (!(p > cut)) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = raw ? u[j] : p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static size_t SAEI_FN(saei_keep_window)(const float *u, const float *bias, const float *theta,
                                        float bandwidth, size_t count, uint32_t base,
                                        uint32_t *latent, float *value, size_t length,
                                        size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
        float p = u[j] + bias[j], w = (p - theta[j]) / bandwidth;
        if (!(p > theta[j] || (w > -0.5f && w < 0.5f))) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    SAEI_FN(saei_add_columns)(n, count, row, value, M, ld, out);
}

static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}

/* ---- src/kernels/common_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs of every instruction set. */
/* Four to six latents at a time, so that their chains hide each other's latency: 53 cycles a dot of
   512 from the L1, of which 40 are loads (one alone 92; eight 83: too many streams for the L1). */
#define SAEI_DOT_BEGIN(i)                                                                          \
    const float *m##i = M + row[j + i] * ld;                                                       \
    saei_v s##i = saei_vset(0);
#define SAEI_DOT_STEP(i) s##i = saei_vfma(v, saei_vload(m##i + k), s##i);
#define SAEI_DOT_END(i) out[j + i] = (float)((double)alpha * saei_vsum(s##i));
#define SAEI_DOTS(ALL)                                                                             \
    ALL(SAEI_DOT_BEGIN)                                                                            \
    for (size_t k = 0; k < n; k += 16) {                                                           \
        saei_v v = saei_vload(e + k);                                                              \
        ALL(SAEI_DOT_STEP)                                                                         \
    }                                                                                              \
    ALL(SAEI_DOT_END)
#define SAEI_1(X) X(0)
#define SAEI_2(X) SAEI_1(X) X(1)
#define SAEI_3(X) SAEI_2(X) X(2)
#define SAEI_4(X) SAEI_3(X) X(3)
#define SAEI_5(X) SAEI_4(X) X(4)
#define SAEI_6(X) SAEI_5(X) X(5)
static void SAEI_FN(saei_dots)(size_t n, const float *e, size_t count, const uint32_t *row,
                               const float *M, size_t ld, float alpha, float *out) {
    for (size_t j = 0, group; j < count; j += group) {
        group = count - j > 6 ? 4 : count - j;
        switch (group) {
        case 1: { SAEI_DOTS(SAEI_1) } break;
        case 2: { SAEI_DOTS(SAEI_2) } break;
        case 3: { SAEI_DOTS(SAEI_3) } break;
        case 4: { SAEI_DOTS(SAEI_4) } break;
        case 5: { SAEI_DOTS(SAEI_5) } break;
        default: { SAEI_DOTS(SAEI_6) } break;
        }
    }
}
#undef SAEI_DOT_BEGIN
#undef SAEI_DOT_STEP
#undef SAEI_DOT_END
#undef SAEI_DOTS
#undef SAEI_1
#undef SAEI_2
#undef SAEI_3
#undef SAEI_4
#undef SAEI_5
#undef SAEI_6

/* out += sum_j v[j] of the panel's rows named in bits, ascending. */
static inline void SAEI_FN(saei_add_list)(size_t n, uint64_t bits, const float *v,
                                          const float *panel, float *out) {
    for (; bits; bits &= bits - 1, v++) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v x = saei_vset(*v);
        for (size_t c = 0; c < n; c += 16)
            saei_vstore(out + c, saei_vfma(x, saei_vload(m + c), saei_vload(out + c)));
    }
}

/* The running sums of e with the panel's rows named in bits, 16 lanes each; returns their end. */
static inline float *SAEI_FN(saei_dot_list)(size_t n, uint64_t bits, const float *e,
                                            const float *panel, float *lanes, bool begin) {
    for (; bits; bits &= bits - 1, lanes += 16) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
        for (size_t c = 0; c < n; c += 16)
            s = saei_vfma(saei_vload(e + c), saei_vload(m + c), s);
        saei_vstore(lanes, s);
    }
    return lanes;
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where PyTorch rounds. m is not kept (NULL) when beta1 is 0: then it is g. */
static void SAEI_FN(saei_adam)(const saei_adam_factors *c, size_t n, float *p, const float *g,
                               float *m, float *v) {
    saei_v keep1 = saei_vset(c->keep1), keep2 = saei_vset(c->keep2), beta2 = saei_vset(c->beta2);
    saei_v root2 = saei_vset(c->root2), eps = saei_vset(c->eps), step = saei_vset(-c->step);
    saei_v scale = saei_vset(c->scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vmul(saei_vload(g + i), scale), m1 = x, v1;
        if (m) {
            m1 = saei_vload(m + i);
            m1 = saei_vfma(keep1, saei_vsub(x, m1), m1);
            saei_vstore(m + i, m1);
        }
        v1 = saei_vfma(saei_vmul(keep2, x), x, saei_vmul(beta2, saei_vload(v + i)));
        saei_vstore(v + i, v1);
        v1 = saei_vadd(saei_vdiv(saei_vsqrt(v1), root2), eps);
        saei_vstore(p + i, saei_vadd(saei_vload(p + i), saei_vdiv(saei_vmul(step, m1), v1)));
    }
    for (; i < n; i++) {
        float x = g[i] * c->scale, m1 = x;
        if (m) m1 = m[i] = fmaf(c->keep1, x - m[i], m[i]);
        v[i] = fmaf(c->keep2 * x, x, c->beta2 * v[i]);
        p[i] += -c->step * m1 / (sqrtf(v[i]) / c->root2 + c->eps);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/plain_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs, where there is no version of its own: all but AVX-512. */
static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
    size_t j = 0;
    for (*bits = 0; j < n && sorted[j] - first < 64; j++)
        *bits |= (uint64_t)1 << (sorted[j] - first);
    return j;
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t l = 0; l < 16; l++) {
            if (!(fires[r] >> l & 1)) continue;
            for (size_t v = 0; v < count; v++) out[v][to[l]] = values[v][from[r]];
            from[r]++;
            to[l]++;
        }
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64)
        for (uint64_t left = fires[w]; left; left &= left - 1)
            sums[saei_lowest_bit(left)] += (double)value[j++];
}

static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld)
        SAEI_FN(saei_add_list)(n, bits[i], value + at[i], panel, out);
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *end = SAEI_FN(saei_dot_list)(n, bits[i], e, panel, lanes, begin);
        if (out)
            for (size_t j = at[i]; lanes < end; j++, lanes += 16)
                out[j] = (float)((double)alpha * saei_vsum(saei_vload(lanes)));
        lanes = end;
    }
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    for (size_t i = 0; i < n; i++) out[i] += a * (double)x[i];
}

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/end.inl ---- */

#undef SAEI_FN
#undef saei_v
#undef saei_vload
#undef saei_vstore
#undef saei_vset
#undef saei_vfma
#undef saei_vmul
#undef saei_vadd
#undef saei_vsub
#undef saei_vdiv
#undef saei_vsqrt
#undef saei_vsum

#endif /* SAEI_NEON */

/* ==== >>kernels: AVX2 ================================================= src/kernels/avx2.h ==== */
#if defined(SAEI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,popcnt,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,popcnt,bmi")
#endif
#define SAEI_FN(name) name##_avx2

/* ---- src/kernels/names.inl ---- */

/* The lanes of the set whose text this is: 16 floats, however many registers they take. */
#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

typedef struct saei_v {
    __m256 a, b;
} saei_v;
static inline saei_v saei_vload(const float *p) {
    saei_v r;
    r.a = _mm256_loadu_ps(p);
    r.b = _mm256_loadu_ps(p + 8);
    return r;
}
static inline void saei_vstore(float *p, saei_v x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline saei_v saei_vset(float a) {
    saei_v r;
    r.a = r.b = _mm256_set1_ps(a);
    return r;
}
static inline saei_v saei_vfma(saei_v x, saei_v y, saei_v z) {
    z.a = _mm256_fmadd_ps(x.a, y.a, z.a);
    z.b = _mm256_fmadd_ps(x.b, y.b, z.b);
    return z;
}
static inline saei_v saei_vsqrt(saei_v x) {
    x.a = _mm256_sqrt_ps(x.a);
    x.b = _mm256_sqrt_ps(x.b);
    return x;
}
#define SAEI_LANES(fn, op)                                                                         \
    static inline saei_v fn(saei_v x, saei_v y) {                                                  \
        x.a = op(x.a, y.a);                                                                        \
        x.b = op(x.b, y.b);                                                                        \
        return x;                                                                                  \
    }
SAEI_LANES(saei_vmul, _mm256_mul_ps)
SAEI_LANES(saei_vadd, _mm256_add_ps)
SAEI_LANES(saei_vsub, _mm256_sub_ps)
SAEI_LANES(saei_vdiv, _mm256_div_ps)
#undef SAEI_LANES

/* ---- src/kernels/sum.inl ---- */

/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
    double sum[16];
    float f[16];
    saei_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

#define SAEI_COLUMNS(X, row) X(row, 0) X(row, 1) X(row, 2)
#define SAEI_WIDE __m256
#define SAEI_LOAD _mm256_loadu_ps
#define SAEI_STORE _mm256_storeu_ps
#define SAEI_SET _mm256_set1_ps
#define SAEI_FMA(t, p, sum) _mm256_fmadd_ps(t, p, sum)

/* ---- src/kernels/tile_wide.inl ---- */

/* 4 rows x 24 latents at a time, the accumulators in registers: 12 of 8 lanes and 3 of the panel,
   or 24 of 4 lanes and 6. Predicted for AVX2: 12 FMAs for 7 loads, the FMA peak; see
   bench/RESULTS.md. */
#define SAEI_LANES (sizeof(SAEI_WIDE) / sizeof(float))
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], const float *panel, size_t dim,
                               bool add, float *out) {
#define SAEI_BEGIN(i, c)                                                                           \
    SAEI_WIDE s##i##c = add ? SAEI_LOAD(o + i * SAEI_PANEL + c * SAEI_LANES) : SAEI_SET(0);
#define SAEI_PART(i, c) SAEI_WIDE p##c = SAEI_LOAD(p + c * SAEI_LANES);
#define SAEI_STEP(i, c) s##i##c = SAEI_FMA(t, p##c, s##i##c);
#define SAEI_END(i, c) SAEI_STORE(o + i * SAEI_PANEL + c * SAEI_LANES, s##i##c);
#define SAEI_ROW(i)                                                                                \
    {                                                                                              \
        SAEI_WIDE t = SAEI_SET(x##i[k]);                                                           \
        SAEI_COLUMNS(SAEI_STEP, i)                                                                 \
    }
#define SAEI_ROWS(X) SAEI_COLUMNS(X, 0) SAEI_COLUMNS(X, 1) SAEI_COLUMNS(X, 2) SAEI_COLUMNS(X, 3)
    for (size_t k0 = 0; k0 < dim; k0 += 128, panel += 128 * SAEI_PANEL, add = true)
        for (size_t g = 0; g < 4; g++) { /* a block of the panel stays in the L1 for both rows */
            size_t c = g / 2 * 24, r = g % 2 * 4, end = dim - k0 < 128 ? dim - k0 : 128;
            const float *x0 = x[r] + k0, *x1 = x[r + 1] + k0, *x2 = x[r + 2] + k0;
            const float *x3 = x[r + 3] + k0, *p = panel + c;
            float *o = out + r * SAEI_PANEL + c;
            SAEI_ROWS(SAEI_BEGIN)
            for (size_t k = 0; k < end; k++, p += SAEI_PANEL) {
                SAEI_COLUMNS(SAEI_PART, 0)
                SAEI_ROW(0) SAEI_ROW(1) SAEI_ROW(2) SAEI_ROW(3)
            }
            SAEI_ROWS(SAEI_END)
        }
#undef SAEI_BEGIN
#undef SAEI_PART
#undef SAEI_STEP
#undef SAEI_END
#undef SAEI_ROW
#undef SAEI_ROWS
}
#undef SAEI_LANES
#undef SAEI_COLUMNS
#undef SAEI_WIDE
#undef SAEI_LOAD
#undef SAEI_STORE
#undef SAEI_SET
#undef SAEI_FMA

/* r[c] = column k + c of 8 rows. */
static inline void SAEI_FN(saei_transpose_8)(const float *const row[8], size_t k, __m256 r[8]) {
    __m256 pair[8], quad[8];
    for (size_t i = 0; i < 8; i += 2) {
        __m256 a = _mm256_loadu_ps(row[i] + k), b = _mm256_loadu_ps(row[i + 1] + k);
        pair[i] = _mm256_unpacklo_ps(a, b);     /* columns 0, 1 and 4, 5 of both rows */
        pair[i + 1] = _mm256_unpackhi_ps(a, b); /* 2, 3 and 6, 7 */
    }
    for (size_t i = 0; i < 8; i += 4) /* quad[i + c]: columns c and c + 4 of rows i to i + 3 */
        for (size_t c = 0; c < 2; c++) {
            quad[i + 2 * c] = _mm256_shuffle_ps(pair[i + c], pair[i + c + 2], 0x44);
            quad[i + 2 * c + 1] = _mm256_shuffle_ps(pair[i + c], pair[i + c + 2], 0xEE);
        }
    for (size_t c = 0; c < 4; c++) {
        r[c] = _mm256_permute2f128_ps(quad[c], quad[4 + c], 0x20);
        r[c + 4] = _mm256_permute2f128_ps(quad[c], quad[4 + c], 0x31);
    }
}

static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    const float *at[16];
    float lane[16], bad = 0;
    size_t c = 0;
    for (size_t i = 0; i < 16; i++) at[i] = (const float *)row[i];
    const __m256 zero = _mm256_setzero_ps();
    __m256 sum = zero;
    for (; c + 8 <= n; c += 8)
        for (size_t half = 0; half < 16; half += 8) {
            __m256 r[8];
            SAEI_FN(saei_transpose_8)(at + half, c, r);
            for (size_t i = 0; i < 8; i++) {
                sum = _mm256_add_ps(sum, _mm256_mul_ps(r[i], zero));
                _mm256_storeu_ps(to + (c + i) * ld + half, r[i]);
            }
        }
    _mm256_storeu_ps(lane, sum);
    for (size_t i = 0; i < 8; i++) bad += lane[i];
    for (; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, at[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

/* ---- src/kernels/common.inl ---- */

/* Kernels of every instruction set, over its lanes. */
/* The kernel add_rows, 64 columns at a time. */
static void SAEI_FN(saei_add_columns)(size_t n, size_t count, const uint32_t *row,
                                      const float *value, const float *M, size_t ld, float *out) {
    size_t c = 0;
    for (; c + 64 <= n; c += 64) {
        saei_v a0 = saei_vload(out + c), a1 = saei_vload(out + c + 16);
        saei_v a2 = saei_vload(out + c + 32), a3 = saei_vload(out + c + 48);
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            saei_v v = saei_vset(value[j]);
            a0 = saei_vfma(v, saei_vload(m), a0);
            a1 = saei_vfma(v, saei_vload(m + 16), a1);
            a2 = saei_vfma(v, saei_vload(m + 32), a2);
            a3 = saei_vfma(v, saei_vload(m + 48), a3);
        }
        saei_vstore(out + c, a0);
        saei_vstore(out + c + 16, a1);
        saei_vstore(out + c + 32, a2);
        saei_vstore(out + c + 48, a3);
    }
    for (; c < n; c += 16) {
        saei_v a = saei_vload(out + c);
        for (size_t j = 0; j < count; j++)
            a = saei_vfma(saei_vset(value[j]), saei_vload(M + row[j] * ld + c), a);
        saei_vstore(out + c, a);
    }
}

static double SAEI_FN(saei_dot)(size_t n, const float *a, const float *b) {
    saei_v s = saei_vset(0);
    for (size_t i = 0; i < n; i += 16) s = saei_vfma(saei_vload(a + i), saei_vload(b + i), s);
    return saei_vsum(s);
}

static void SAEI_FN(saei_axpy)(size_t n, float a, const float *x, const float *y, float *out) {
    saei_v va = saei_vset(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        saei_vstore(out + i, saei_vfma(va, saei_vload(x + i), saei_vload(y + i)));
    for (; i < n; i++) out[i] = fmaf(a, x[i], y[i]);
}

static void SAEI_FN(saei_scale)(size_t n, float a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vmul(saei_vset(a), saei_vload(x + i)));
    for (; i < n; i++) out[i] = a * x[i];
}

static void SAEI_FN(saei_divide)(size_t n, const float *x, float a, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vdiv(saei_vload(x + i), saei_vset(a)));
    for (; i < n; i++) out[i] = x[i] / a;
}

/* x 0 is 0 but for NaN and infinity. */
static bool SAEI_FN(saei_copy)(size_t n, const void *from, float *to) {
    const float *at = (const float *)from;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    float lane[16], bad = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vload(at + i);
        sum = saei_vadd(sum, saei_vmul(x, zero));
        saei_vstore(to + i, x);
    }
    saei_vstore(lane, sum);
    for (; i < n; i++) {
        memcpy(to + i, at + i, sizeof *to);
        bad += to[i] * 0;
    }
    for (i = 0; i < 16; i++) bad += lane[i];
    return bad == 0;
}

/* ---- src/kernels/plain.inl ---- */

/* Kernels of the sets that have no version of their own: all but AVX-512. */
static void SAEI_FN(saei_pack)(const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,
                               uint32_t *out) {
    for (size_t k = 0; k < dim; k++, out += SAEI_PANEL)
        for (size_t j = 0; j < SAEI_PANEL; j++) out[j] = j < count ? row[j][k] : 0;
}

static void SAEI_FN(saei_products)(size_t n, const float *x, size_t count, const uint32_t *row,
                                   const float *M, size_t ld, bool add, float *out) {
    /* eight chains by name: in an array they lie in memory at -O2, four times slower */
#define SAEI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const float *m##i = M + row[j + i < count ? j + i : count - 1] * ld;                           \
    float s##i = add && j + i < count ? out[j + i] : 0;
#define SAEI_ADD(i) s##i = fmaf(x[k], m##i[k], s##i);
#define SAEI_END(i)                                                                                \
    if (j + i < count) out[j + i] = s##i;
    for (size_t j = 0; j < count; j += 8) {
        SAEI_ALL(SAEI_BEGIN)
        for (size_t k = 0; k < n; k++) {
            SAEI_ALL(SAEI_ADD)
        }
        SAEI_ALL(SAEI_END)
    }
#undef SAEI_ALL
#undef SAEI_BEGIN
#undef SAEI_ADD
#undef SAEI_END
}

static size_t SAEI_FN(saei_count_from)(const float *value, size_t n, float cut) {
    size_t count = 0;
    for (size_t j = 0; j < n; j++) count += value[j] >= cut;
    return count;
}

static size_t SAEI_FN(saei_keep_from)(uint32_t *latent, float *value, size_t n, float cut) {
    size_t kept = 0;
    for (size_t j = 0; j < n; j++)
        if (value[j] >= cut) {
            latent[kept] = latent[j];
            value[kept++] = value[j];
        }
    return kept;
}

static size_t SAEI_FN(saei_keep_above)(const float *u, const float *bias, bool raw, size_t count,
                                       float cut, uint32_t base, uint32_t *latent, float *value,
                                       size_t length, size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
        float p = bias ? u[j] + bias[j] : u[j];
        if (!(p > cut)) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = raw ? u[j] : p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static size_t SAEI_FN(saei_keep_window)(const float *u, const float *bias, const float *theta,
                                        float bandwidth, size_t count, uint32_t base,
                                        uint32_t *latent, float *value, size_t length,
                                        size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
        float p = u[j] + bias[j], w = (p - theta[j]) / bandwidth;
        if (!(p > theta[j] || (w > -0.5f && w < 0.5f))) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    SAEI_FN(saei_add_columns)(n, count, row, value, M, ld, out);
}

static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}

/* ---- src/kernels/common_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs of every instruction set. */
/* Four to six latents at a time, so that their chains hide each other's latency: 53 cycles a dot of
   512 from the L1, of which 40 are loads (one alone 92; eight 83: too many streams for the L1). */
#define SAEI_DOT_BEGIN(i)                                                                          \
    const float *m##i = M + row[j + i] * ld;                                                       \
    saei_v s##i = saei_vset(0);
#define SAEI_DOT_STEP(i) s##i = saei_vfma(v, saei_vload(m##i + k), s##i);
#define SAEI_DOT_END(i) out[j + i] = (float)((double)alpha * saei_vsum(s##i));
#define SAEI_DOTS(ALL)                                                                             \
    ALL(SAEI_DOT_BEGIN)                                                                            \
    for (size_t k = 0; k < n; k += 16) {                                                           \
        saei_v v = saei_vload(e + k);                                                              \
        ALL(SAEI_DOT_STEP)                                                                         \
    }                                                                                              \
    ALL(SAEI_DOT_END)
#define SAEI_1(X) X(0)
#define SAEI_2(X) SAEI_1(X) X(1)
#define SAEI_3(X) SAEI_2(X) X(2)
#define SAEI_4(X) SAEI_3(X) X(3)
#define SAEI_5(X) SAEI_4(X) X(4)
#define SAEI_6(X) SAEI_5(X) X(5)
static void SAEI_FN(saei_dots)(size_t n, const float *e, size_t count, const uint32_t *row,
                               const float *M, size_t ld, float alpha, float *out) {
    for (size_t j = 0, group; j < count; j += group) {
        group = count - j > 6 ? 4 : count - j;
        switch (group) {
        case 1: { SAEI_DOTS(SAEI_1) } break;
        case 2: { SAEI_DOTS(SAEI_2) } break;
        case 3: { SAEI_DOTS(SAEI_3) } break;
        case 4: { SAEI_DOTS(SAEI_4) } break;
        case 5: { SAEI_DOTS(SAEI_5) } break;
        default: { SAEI_DOTS(SAEI_6) } break;
        }
    }
}
#undef SAEI_DOT_BEGIN
#undef SAEI_DOT_STEP
#undef SAEI_DOT_END
#undef SAEI_DOTS
#undef SAEI_1
#undef SAEI_2
#undef SAEI_3
#undef SAEI_4
#undef SAEI_5
#undef SAEI_6

/* out += sum_j v[j] of the panel's rows named in bits, ascending. */
static inline void SAEI_FN(saei_add_list)(size_t n, uint64_t bits, const float *v,
                                          const float *panel, float *out) {
    for (; bits; bits &= bits - 1, v++) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v x = saei_vset(*v);
        for (size_t c = 0; c < n; c += 16)
            saei_vstore(out + c, saei_vfma(x, saei_vload(m + c), saei_vload(out + c)));
    }
}

/* The running sums of e with the panel's rows named in bits, 16 lanes each; returns their end. */
static inline float *SAEI_FN(saei_dot_list)(size_t n, uint64_t bits, const float *e,
                                            const float *panel, float *lanes, bool begin) {
    for (; bits; bits &= bits - 1, lanes += 16) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
        for (size_t c = 0; c < n; c += 16)
            s = saei_vfma(saei_vload(e + c), saei_vload(m + c), s);
        saei_vstore(lanes, s);
    }
    return lanes;
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where PyTorch rounds. m is not kept (NULL) when beta1 is 0: then it is g. */
static void SAEI_FN(saei_adam)(const saei_adam_factors *c, size_t n, float *p, const float *g,
                               float *m, float *v) {
    saei_v keep1 = saei_vset(c->keep1), keep2 = saei_vset(c->keep2), beta2 = saei_vset(c->beta2);
    saei_v root2 = saei_vset(c->root2), eps = saei_vset(c->eps), step = saei_vset(-c->step);
    saei_v scale = saei_vset(c->scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vmul(saei_vload(g + i), scale), m1 = x, v1;
        if (m) {
            m1 = saei_vload(m + i);
            m1 = saei_vfma(keep1, saei_vsub(x, m1), m1);
            saei_vstore(m + i, m1);
        }
        v1 = saei_vfma(saei_vmul(keep2, x), x, saei_vmul(beta2, saei_vload(v + i)));
        saei_vstore(v + i, v1);
        v1 = saei_vadd(saei_vdiv(saei_vsqrt(v1), root2), eps);
        saei_vstore(p + i, saei_vadd(saei_vload(p + i), saei_vdiv(saei_vmul(step, m1), v1)));
    }
    for (; i < n; i++) {
        float x = g[i] * c->scale, m1 = x;
        if (m) m1 = m[i] = fmaf(c->keep1, x - m[i], m[i]);
        v[i] = fmaf(c->keep2 * x, x, c->beta2 * v[i]);
        p[i] += -c->step * m1 / (sqrtf(v[i]) / c->root2 + c->eps);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/plain_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs, where there is no version of its own: all but AVX-512. */
static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
    size_t j = 0;
    for (*bits = 0; j < n && sorted[j] - first < 64; j++)
        *bits |= (uint64_t)1 << (sorted[j] - first);
    return j;
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t l = 0; l < 16; l++) {
            if (!(fires[r] >> l & 1)) continue;
            for (size_t v = 0; v < count; v++) out[v][to[l]] = values[v][from[r]];
            from[r]++;
            to[l]++;
        }
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64)
        for (uint64_t left = fires[w]; left; left &= left - 1)
            sums[saei_lowest_bit(left)] += (double)value[j++];
}

static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld)
        SAEI_FN(saei_add_list)(n, bits[i], value + at[i], panel, out);
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *end = SAEI_FN(saei_dot_list)(n, bits[i], e, panel, lanes, begin);
        if (out)
            for (size_t j = at[i]; lanes < end; j++, lanes += 16)
                out[j] = (float)((double)alpha * saei_vsum(saei_vload(lanes)));
        lanes = end;
    }
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    for (size_t i = 0; i < n; i++) out[i] += a * (double)x[i];
}

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/end.inl ---- */

#undef SAEI_FN
#undef saei_v
#undef saei_vload
#undef saei_vstore
#undef saei_vset
#undef saei_vfma
#undef saei_vmul
#undef saei_vadd
#undef saei_vsub
#undef saei_vdiv
#undef saei_vsqrt
#undef saei_vsum

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* SAEI_X86 */

/* ==== >>kernels: AVX-512 ============================================ src/kernels/avx512.h ==== */
#if defined(SAEI_X86)

/* ---- src/kernels/begin_avx512.inl ---- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,popcnt,bmi"))),               \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,popcnt,bmi")
#endif
#define SAEI_FN(name) name##_avx512

/* ---- src/kernels/names.inl ---- */

/* The lanes of the set whose text this is: 16 floats, however many registers they take. */
#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

typedef __m512 saei_v;
static inline saei_v saei_vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void saei_vstore(float *p, saei_v a) { _mm512_storeu_ps(p, a); }
static inline saei_v saei_vset(float a) { return _mm512_set1_ps(a); }
static inline saei_v saei_vfma(saei_v a, saei_v b, saei_v c) { return _mm512_fmadd_ps(a, b, c); }
static inline saei_v saei_vmul(saei_v a, saei_v b) { return _mm512_mul_ps(a, b); }
static inline saei_v saei_vadd(saei_v a, saei_v b) { return _mm512_add_ps(a, b); }
static inline saei_v saei_vsub(saei_v a, saei_v b) { return _mm512_sub_ps(a, b); }
static inline saei_v saei_vdiv(saei_v a, saei_v b) { return _mm512_div_ps(a, b); }
static inline saei_v saei_vsqrt(saei_v a) { return _mm512_maskz_sqrt_ps(0xFFFF, a); }

/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
    /* maskz with a full mask: GCC 12 warns of an undefined operand in the plain forms and casts */
    __m512d wide = _mm512_castps_pd(a), eight;
    __m256d low = _mm512_maskz_extractf64x4_pd(0xFF, wide, 0), four;
    __m256d high = _mm512_maskz_extractf64x4_pd(0xFF, wide, 1);
    __m128d two;
    eight = _mm512_add_pd(_mm512_maskz_cvtps_pd(0xFF, _mm256_castpd_ps(low)),
                          _mm512_maskz_cvtps_pd(0xFF, _mm256_castpd_ps(high)));
    four = _mm256_add_pd(_mm512_maskz_extractf64x4_pd(0xFF, eight, 0),
                         _mm512_maskz_extractf64x4_pd(0xFF, eight, 1));
    two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* 16 rows of 16 words at k to r[c] = column k + c of the 16 rows: whole cache lines are read, as
   rows of a power of two in length share few sets of a cache. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_transpose)(
    const float *const at[16], size_t k, saei_v r[16]) {
#define SAEI_ALL(X) X(0) X(1) X(2) X(3)
#define SAEI_LOAD(q)                                                                               \
    saei_v a##q = saei_vload(at[4 * q] + k), b##q = saei_vload(at[4 * q + 1] + k),                 \
           c##q = saei_vload(at[4 * q + 2] + k), d##q = saei_vload(at[4 * q + 3] + k);
/* w, x, y, z of quad q: lanes 4 g + i hold column 4 g + 0, 1, 2, 3 of row 4 q + i */
#define SAEI_QUAD(q)                                                                               \
    __m512d e##q = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xFFFF, a##q, b##q));                 \
    __m512d f##q = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xFFFF, a##q, b##q));                 \
    __m512d g##q = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xFFFF, c##q, d##q));                 \
    __m512d h##q = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xFFFF, c##q, d##q));                 \
    saei_v w##q = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xFF, e##q, g##q));                    \
    saei_v x##q = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xFF, e##q, g##q));                    \
    saei_v y##q = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xFF, f##q, h##q));                    \
    saei_v z##q = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xFF, f##q, h##q));
/* a 4 x 4 transposition of quarters: columns c, c + 4, c + 8, c + 12 */
#define SAEI_QUARTERS(v, c)                                                                        \
    {                                                                                              \
        saei_v lo = _mm512_maskz_shuffle_f32x4(0xFFFF, v##0, v##1, 0x88);                          \
        saei_v hi = _mm512_maskz_shuffle_f32x4(0xFFFF, v##2, v##3, 0x88);                          \
        saei_v lp = _mm512_maskz_shuffle_f32x4(0xFFFF, v##0, v##1, 0xDD);                          \
        saei_v hp = _mm512_maskz_shuffle_f32x4(0xFFFF, v##2, v##3, 0xDD);                          \
        r[c] = _mm512_maskz_shuffle_f32x4(0xFFFF, lo, hi, 0x88);                                   \
        r[c + 8] = _mm512_maskz_shuffle_f32x4(0xFFFF, lo, hi, 0xDD);                               \
        r[c + 4] = _mm512_maskz_shuffle_f32x4(0xFFFF, lp, hp, 0x88);                               \
        r[c + 12] = _mm512_maskz_shuffle_f32x4(0xFFFF, lp, hp, 0xDD);                              \
    }
    SAEI_ALL(SAEI_LOAD)
    SAEI_ALL(SAEI_QUAD)
    SAEI_QUARTERS(w, 0)
    SAEI_QUARTERS(x, 1)
    SAEI_QUARTERS(y, 2)
    SAEI_QUARTERS(z, 3)
#undef SAEI_ALL
#undef SAEI_LOAD
#undef SAEI_QUAD
#undef SAEI_QUARTERS
}

static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    const float *at[16];
    float lane[16], bad = 0;
    size_t c = 0;
    for (size_t i = 0; i < 16; i++) at[i] = (const float *)row[i];
    /* whole cache lines need not be read before they are written */
    const bool lines = (uintptr_t)to % 64 == 0 && ld % 16 == 0;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    for (; c + 16 <= n; c += 16) {
        saei_v r[16];
        SAEI_FN(saei_transpose)(at, c, r);
        for (size_t i = 0; i < 16; i++) {
            sum = saei_vadd(sum, saei_vmul(r[i], zero));
            if (lines) _mm512_stream_ps(to + (c + i) * ld, r[i]);
            else saei_vstore(to + (c + i) * ld, r[i]);
        }
    }
    if (lines) _mm_sfence();
    saei_vstore(lane, sum);
    for (size_t i = 0; i < 16; i++) bad += lane[i];
    for (; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, at[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

/* ---- src/kernels/common.inl ---- */

/* Kernels of every instruction set, over its lanes. */
/* The kernel add_rows, 64 columns at a time. */
static void SAEI_FN(saei_add_columns)(size_t n, size_t count, const uint32_t *row,
                                      const float *value, const float *M, size_t ld, float *out) {
    size_t c = 0;
    for (; c + 64 <= n; c += 64) {
        saei_v a0 = saei_vload(out + c), a1 = saei_vload(out + c + 16);
        saei_v a2 = saei_vload(out + c + 32), a3 = saei_vload(out + c + 48);
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            saei_v v = saei_vset(value[j]);
            a0 = saei_vfma(v, saei_vload(m), a0);
            a1 = saei_vfma(v, saei_vload(m + 16), a1);
            a2 = saei_vfma(v, saei_vload(m + 32), a2);
            a3 = saei_vfma(v, saei_vload(m + 48), a3);
        }
        saei_vstore(out + c, a0);
        saei_vstore(out + c + 16, a1);
        saei_vstore(out + c + 32, a2);
        saei_vstore(out + c + 48, a3);
    }
    for (; c < n; c += 16) {
        saei_v a = saei_vload(out + c);
        for (size_t j = 0; j < count; j++)
            a = saei_vfma(saei_vset(value[j]), saei_vload(M + row[j] * ld + c), a);
        saei_vstore(out + c, a);
    }
}

static double SAEI_FN(saei_dot)(size_t n, const float *a, const float *b) {
    saei_v s = saei_vset(0);
    for (size_t i = 0; i < n; i += 16) s = saei_vfma(saei_vload(a + i), saei_vload(b + i), s);
    return saei_vsum(s);
}

static void SAEI_FN(saei_axpy)(size_t n, float a, const float *x, const float *y, float *out) {
    saei_v va = saei_vset(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        saei_vstore(out + i, saei_vfma(va, saei_vload(x + i), saei_vload(y + i)));
    for (; i < n; i++) out[i] = fmaf(a, x[i], y[i]);
}

static void SAEI_FN(saei_scale)(size_t n, float a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vmul(saei_vset(a), saei_vload(x + i)));
    for (; i < n; i++) out[i] = a * x[i];
}

static void SAEI_FN(saei_divide)(size_t n, const float *x, float a, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vdiv(saei_vload(x + i), saei_vset(a)));
    for (; i < n; i++) out[i] = x[i] / a;
}

/* x 0 is 0 but for NaN and infinity. */
static bool SAEI_FN(saei_copy)(size_t n, const void *from, float *to) {
    const float *at = (const float *)from;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    float lane[16], bad = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vload(at + i);
        sum = saei_vadd(sum, saei_vmul(x, zero));
        saei_vstore(to + i, x);
    }
    saei_vstore(lane, sum);
    for (; i < n; i++) {
        memcpy(to + i, at + i, sizeof *to);
        bad += to[i] * 0;
    }
    for (i = 0; i < 16; i++) bad += lane[i];
    return bad == 0;
}

/* ---- src/kernels/common_train.inl ---- */

#ifndef SAE_NO_TRAIN
/* What only training needs of every instruction set. */
/* Four to six latents at a time, so that their chains hide each other's latency: 53 cycles a dot of
   512 from the L1, of which 40 are loads (one alone 92; eight 83: too many streams for the L1). */
#define SAEI_DOT_BEGIN(i)                                                                          \
    const float *m##i = M + row[j + i] * ld;                                                       \
    saei_v s##i = saei_vset(0);
#define SAEI_DOT_STEP(i) s##i = saei_vfma(v, saei_vload(m##i + k), s##i);
#define SAEI_DOT_END(i) out[j + i] = (float)((double)alpha * saei_vsum(s##i));
#define SAEI_DOTS(ALL)                                                                             \
    ALL(SAEI_DOT_BEGIN)                                                                            \
    for (size_t k = 0; k < n; k += 16) {                                                           \
        saei_v v = saei_vload(e + k);                                                              \
        ALL(SAEI_DOT_STEP)                                                                         \
    }                                                                                              \
    ALL(SAEI_DOT_END)
#define SAEI_1(X) X(0)
#define SAEI_2(X) SAEI_1(X) X(1)
#define SAEI_3(X) SAEI_2(X) X(2)
#define SAEI_4(X) SAEI_3(X) X(3)
#define SAEI_5(X) SAEI_4(X) X(4)
#define SAEI_6(X) SAEI_5(X) X(5)
static void SAEI_FN(saei_dots)(size_t n, const float *e, size_t count, const uint32_t *row,
                               const float *M, size_t ld, float alpha, float *out) {
    for (size_t j = 0, group; j < count; j += group) {
        group = count - j > 6 ? 4 : count - j;
        switch (group) {
        case 1: { SAEI_DOTS(SAEI_1) } break;
        case 2: { SAEI_DOTS(SAEI_2) } break;
        case 3: { SAEI_DOTS(SAEI_3) } break;
        case 4: { SAEI_DOTS(SAEI_4) } break;
        case 5: { SAEI_DOTS(SAEI_5) } break;
        default: { SAEI_DOTS(SAEI_6) } break;
        }
    }
}
#undef SAEI_DOT_BEGIN
#undef SAEI_DOT_STEP
#undef SAEI_DOT_END
#undef SAEI_DOTS
#undef SAEI_1
#undef SAEI_2
#undef SAEI_3
#undef SAEI_4
#undef SAEI_5
#undef SAEI_6

/* out += sum_j v[j] of the panel's rows named in bits, ascending. */
static inline void SAEI_FN(saei_add_list)(size_t n, uint64_t bits, const float *v,
                                          const float *panel, float *out) {
    for (; bits; bits &= bits - 1, v++) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v x = saei_vset(*v);
        for (size_t c = 0; c < n; c += 16)
            saei_vstore(out + c, saei_vfma(x, saei_vload(m + c), saei_vload(out + c)));
    }
}

/* The running sums of e with the panel's rows named in bits, 16 lanes each; returns their end. */
static inline float *SAEI_FN(saei_dot_list)(size_t n, uint64_t bits, const float *e,
                                            const float *panel, float *lanes, bool begin) {
    for (; bits; bits &= bits - 1, lanes += 16) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
        for (size_t c = 0; c < n; c += 16)
            s = saei_vfma(saei_vload(e + c), saei_vload(m + c), s);
        saei_vstore(lanes, s);
    }
    return lanes;
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where PyTorch rounds. m is not kept (NULL) when beta1 is 0: then it is g. */
static void SAEI_FN(saei_adam)(const saei_adam_factors *c, size_t n, float *p, const float *g,
                               float *m, float *v) {
    saei_v keep1 = saei_vset(c->keep1), keep2 = saei_vset(c->keep2), beta2 = saei_vset(c->beta2);
    saei_v root2 = saei_vset(c->root2), eps = saei_vset(c->eps), step = saei_vset(-c->step);
    saei_v scale = saei_vset(c->scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vmul(saei_vload(g + i), scale), m1 = x, v1;
        if (m) {
            m1 = saei_vload(m + i);
            m1 = saei_vfma(keep1, saei_vsub(x, m1), m1);
            saei_vstore(m + i, m1);
        }
        v1 = saei_vfma(saei_vmul(keep2, x), x, saei_vmul(beta2, saei_vload(v + i)));
        saei_vstore(v + i, v1);
        v1 = saei_vadd(saei_vdiv(saei_vsqrt(v1), root2), eps);
        saei_vstore(p + i, saei_vadd(saei_vload(p + i), saei_vdiv(saei_vmul(step, m1), v1)));
    }
    for (; i < n; i++) {
        float x = g[i] * c->scale, m1 = x;
        if (m) m1 = m[i] = fmaf(c->keep1, x - m[i], m[i]);
        v[i] = fmaf(c->keep2 * x, x, c->beta2 * v[i]);
        p[i] += -c->step * m1 / (sqrtf(v[i]) / c->root2 + c->eps);
    }
}
#endif /* SAE_NO_TRAIN */

/* ---- src/kernels/end.inl ---- */

#undef SAEI_FN
#undef saei_v
#undef saei_vload
#undef saei_vstore
#undef saei_vset
#undef saei_vfma
#undef saei_vmul
#undef saei_vadd
#undef saei_vsub
#undef saei_vdiv
#undef saei_vsqrt
#undef saei_vsum

/* ---- src/kernels/end_target.inl ---- */

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif /* SAEI_X86 */

/* ==== >>kernels: AVX-512, encode ============================= src/kernels/avx512_encode.h ==== */
#if defined(SAEI_X86)

/* ---- src/kernels/begin_avx512.inl ---- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,popcnt,bmi"))),               \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,popcnt,bmi")
#endif
#define SAEI_FN(name) name##_avx512

/* ---- src/kernels/names.inl ---- */

/* The lanes of the set whose text this is: 16 floats, however many registers they take. */
#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

/* 8 rows x 48 latents in 24 registers; the panel is read once, x by broadcast. Predicted: 24 FMAs
   for 11 loads, the FMA peak; measured 98 % of it resident, 94 to 97 % over all panels of W1. */
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], const float *panel, size_t dim,
                               bool add, float *out) {
#define SAEI_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const float *x##i = x[i];                                                                      \
    saei_v a##i = add ? saei_vload(out + i * 48) : saei_vset(0),                                   \
           b##i = add ? saei_vload(out + i * 48 + 16) : saei_vset(0),                              \
           c##i = add ? saei_vload(out + i * 48 + 32) : saei_vset(0);
#define SAEI_STEP(i)                                                                               \
    {                                                                                              \
        saei_v t = saei_vset(x##i[k]);                                                             \
        a##i = saei_vfma(t, p0, a##i);                                                             \
        b##i = saei_vfma(t, p1, b##i);                                                             \
        c##i = saei_vfma(t, p2, c##i);                                                             \
    }
#define SAEI_END(i)                                                                                \
    saei_vstore(out + i * 48, a##i);                                                               \
    saei_vstore(out + i * 48 + 16, b##i);                                                          \
    saei_vstore(out + i * 48 + 32, c##i);
    SAEI_ROWS(SAEI_BEGIN)
    for (size_t k = 0; k < dim; k++, panel += SAEI_PANEL) {
        saei_v p0 = saei_vload(panel), p1 = saei_vload(panel + 16), p2 = saei_vload(panel + 32);
        SAEI_ROWS(SAEI_STEP)
    }
    SAEI_ROWS(SAEI_END)
#undef SAEI_ROWS
#undef SAEI_BEGIN
#undef SAEI_STEP
#undef SAEI_END
}

/* Whole blocks through the transposition: 2.0 ms for W1's 16 MB on one core (word by word 6.8). */
static void SAEI_FN(saei_pack)(const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,
                               uint32_t *out) {
    size_t blocks = count == SAEI_PANEL ? dim / 16 * 16 : 0;
    const float *at[SAEI_PANEL];
    for (size_t j = 0; j < SAEI_PANEL; j++) at[j] = (const float *)(const void *)row[j];
    for (size_t k = 0; k < blocks; k += 16)
        for (size_t j = 0; j < SAEI_PANEL; j += 16) {
            saei_v r[16];
            SAEI_FN(saei_transpose)(at + j, k, r);
            for (size_t c = 0; c < 16; c++)
                saei_vstore((float *)(void *)(out + (k + c) * SAEI_PANEL + j), r[c]);
        }
    for (size_t k = blocks; k < dim; k++)
        for (size_t j = 0; j < SAEI_PANEL; j++) out[k * SAEI_PANEL + j] = j < count ? row[j][k] : 0;
}

#define SAEI_ADD(c) s = saei_vfma(r[c], saei_vset(x[k + c]), s);
/* 16 latents at a time, transposed in registers; the next 16 are prefetched meanwhile. 64 of
   each of 2048 rows, from 16 MB, on one core: predicted 5.1 ms by 64 shuffles for 256 products,
   measured 9.4 (6.4 from the L2); two groups at once (8.5) lose in the L1 what they gain. */
static void SAEI_FN(saei_products)(size_t n, const float *x, size_t count, const uint32_t *row,
                                   const float *M, size_t ld, bool add, float *out) {
    for (size_t j = 0; j < count; j += 16) {
        const float *at[16], *next[16];
        float sums[16];
        saei_v s, r[16];
        for (size_t i = 0; i < 16; i++) {
            sums[i] = add && j + i < count ? out[j + i] : 0;
            at[i] = M + row[j + i < count ? j + i : count - 1] * ld;
            next[i] = M + row[j + 16 + i < count ? j + 16 + i : count - 1] * ld;
        }
        s = saei_vload(sums);
        for (size_t k = 0; k < n; k += 16) {
            SAEI_FN(saei_transpose)(at, k, r);
            if (j + 16 < count)
                for (size_t i = 0; i < 16; i++)
                    _mm_prefetch((const char *)(next[i] + k), _MM_HINT_T1);
            if (k + 16 <= n) {
                SAEI_ADD(0) SAEI_ADD(1) SAEI_ADD(2) SAEI_ADD(3) SAEI_ADD(4) SAEI_ADD(5)
                SAEI_ADD(6) SAEI_ADD(7) SAEI_ADD(8) SAEI_ADD(9) SAEI_ADD(10) SAEI_ADD(11)
                SAEI_ADD(12) SAEI_ADD(13) SAEI_ADD(14) SAEI_ADD(15)
            } else
                for (size_t c = 0; c < n - k; c++) s = saei_vfma(r[c], saei_vset(x[k + c]), s);
        }
        saei_vstore(sums, s);
        for (size_t i = 0; i < 16 && j + i < count; i++) out[j + i] = sums[i];
    }
}
#undef SAEI_ADD

/* q = round(x scale) with |q| at most 46340 = sqrt(2^31), so that by Cauchy and Schwarz no partial
   sum of a product of two such rows leaves int32. */
static void SAEI_FN(saei_quantize)(size_t n, const float *x, int16_t *out, saei_quantized *q) {
    saei_v sum = saei_vset(0), most = saei_vset(0), delta = saei_vset(0), inverse;
    double norm, scale;
    float lanes[16], top = 0;
    for (size_t k = 0; k < n; k += 16) {
        saei_v v = saei_vload(x + k);
        sum = saei_vfma(v, v, sum);
        most = _mm512_maskz_max_ps(0xFFFF, most, _mm512_abs_ps(v));
    }
    saei_vstore(lanes, most);
    for (int i = 0; i < 16; i++) top = lanes[i] > top ? lanes[i] : top;
    norm = sqrt(saei_vsum(sum));
    q->norm = (float)(norm * 1.0001);
    q->error = 0;
    q->inverse = norm < 1e15 ? 0.0f : -1.0f; /* also where norm is NaN */
    if (!(norm > 1e-15 && norm < 1e15)) {
        q->norm += 1e-20f; /* squares below 1e-45 are lost */
        q->error = q->norm;
        memset(out, 0, n * sizeof *out);
        return;
    }
    scale = (46340 - 0.5 * sqrt((double)n) - 8) / norm;
    if (scale * (double)top > 32000) scale = 32000 / (double)top;
    q->inverse = (float)(1 / scale);
    inverse = saei_vset(q->inverse);
    for (size_t k = 0; k < n; k += 16) {
        saei_v v = saei_vload(x + k);
        __m512i r = _mm512_maskz_cvtps_epi32(0xFFFF, saei_vmul(v, saei_vset((float)scale)));
        saei_v d = saei_vfma(saei_vsub(saei_vset(0), _mm512_maskz_cvtepi32_ps(0xFFFF, r)), inverse,
                             v);
        delta = saei_vfma(d, d, delta);
        _mm256_storeu_si256((__m256i *)(void *)(out + k), _mm512_maskz_cvtepi32_epi16(0xFFFF, r));
    }
    q->error = (float)(sqrt(saei_vsum(delta)) * 1.0001 + norm * 1e-7);
}

__attribute__((target("avx512f,avx512vnni"))) static void SAEI_FN(saei_screen)(
    const int16_t *const x[SAEI_TILE_ROWS], const uint32_t *panel, size_t pairs, int32_t *out) {
#define SAEI_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const char *x##i = (const char *)x[i];                                                         \
    __m512i a##i = _mm512_setzero_si512(), b##i = a##i, c##i = a##i;
#define SAEI_STEP(i)                                                                               \
    {                                                                                              \
        int pair;                                                                                  \
        __m512i t;                                                                                 \
        memcpy(&pair, x##i + 4 * k, sizeof pair);                                                  \
        t = _mm512_set1_epi32(pair);                                                               \
        a##i = _mm512_dpwssd_epi32(a##i, t, p0);                                                   \
        b##i = _mm512_dpwssd_epi32(b##i, t, p1);                                                   \
        c##i = _mm512_dpwssd_epi32(c##i, t, p2);                                                   \
    }
#define SAEI_END(i)                                                                                \
    _mm512_storeu_si512((void *)(out + i * 48), a##i);                                             \
    _mm512_storeu_si512((void *)(out + i * 48 + 16), b##i);                                        \
    _mm512_storeu_si512((void *)(out + i * 48 + 32), c##i);
    SAEI_ROWS(SAEI_BEGIN)
    for (size_t k = 0; k < pairs; k++, panel += SAEI_PANEL) {
        __m512i p0 = _mm512_loadu_si512((const void *)panel);
        __m512i p1 = _mm512_loadu_si512((const void *)(panel + 16));
        __m512i p2 = _mm512_loadu_si512((const void *)(panel + 32));
        SAEI_ROWS(SAEI_STEP)
    }
    SAEI_ROWS(SAEI_END)
#undef SAEI_ROWS
#undef SAEI_BEGIN
#undef SAEI_STEP
#undef SAEI_END
}

/* base, base + 1, ... base + 15 */
static inline __m512i SAEI_FN(saei_lanes)(uint32_t base) {
    return _mm512_add_epi32(
        _mm512_set1_epi32((int)base),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* Without a branch on the values: one vector in three has a candidate, which no CPU foresees. */
static void SAEI_FN(saei_keep_tile)(const int32_t *dot, const float *inverse, const float *offset,
                                    const float *scale, const float *shift, const float *cut,
                                    uint32_t base, uint32_t *const *latent, float *const *value,
                                    uint32_t *length) {
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (int j = 0; j < SAEI_PANEL; j += 16, lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16))) {
        saei_v factor = saei_vload(inverse + j), shifted = saei_vload(offset + j);
        for (int r = 0; r < SAEI_TILE_ROWS; r++) {
            saei_v p = _mm512_maskz_cvtepi32_ps(
                0xFFFF, _mm512_loadu_si512((const void *)(dot + r * SAEI_PANEL + j)));
            __mmask16 keep;
            p = saei_vfma(saei_vmul(p, factor), saei_vset(scale[r]), shifted);
            keep = _mm512_cmp_ps_mask(p, saei_vset(cut[r]), _CMP_GT_OQ);
            p = saei_vsub(p, saei_vset(shift[r]));
            saei_vstore(value[r] + length[r], _mm512_maskz_compress_ps(keep, p));
            _mm512_storeu_si512((void *)(latent[r] + length[r]),
                                _mm512_maskz_compress_epi32(keep, lane));
            length[r] += (uint32_t)__builtin_popcount((unsigned)keep);
        }
    }
}

static size_t SAEI_FN(saei_keep_screened)(const int32_t *dot, const float *inverse,
                                          const float *offset, float scale, float shift, float cut,
                                          uint32_t base, uint32_t *latent, float *value,
                                          size_t length, size_t stride) {
    for (size_t j = 0; j < SAEI_PANEL; j += 16) {
        saei_v p = _mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_loadu_si512((const void *)(dot + j)));
        __mmask16 keep;
        p = saei_vfma(saei_vmul(p, saei_vload(inverse + j)), saei_vset(scale),
                      saei_vload(offset + j));
        keep = _mm512_cmp_ps_mask(p, saei_vset(cut), _CMP_GT_OQ);
        if (!keep) continue;
        {
            __m512i at = SAEI_FN(saei_lanes)(base + (uint32_t)j);
            size_t more = (size_t)__builtin_popcount((unsigned)keep);
            p = _mm512_maskz_compress_ps(keep, saei_vsub(p, saei_vset(shift)));
            at = _mm512_maskz_compress_epi32(keep, at);
            if (length + 16 <= stride) {
                saei_vstore(value + length, p);
                _mm512_storeu_si512((void *)(latent + length), at);
            } else if (length + more <= stride) {
                __mmask16 first = (__mmask16)((1u << more) - 1);
                _mm512_mask_storeu_ps(value + length, first, p);
                _mm512_mask_storeu_epi32((void *)(latent + length), first, at);
            }
            length += more;
        }
    }
    return length;
}

static size_t SAEI_FN(saei_count_from)(const float *value, size_t n, float cut) {
    size_t count = 0, j = 0;
    for (; j + 16 <= n; j += 16)
        count += (size_t)__builtin_popcount(
            (unsigned)_mm512_cmp_ps_mask(saei_vload(value + j), saei_vset(cut), _CMP_GE_OQ));
    for (; j < n; j++) count += value[j] >= cut;
    return count;
}

static size_t SAEI_FN(saei_keep_from)(uint32_t *latent, float *value, size_t n, float cut) {
    size_t kept = 0, j = 0;
    for (; j + 16 <= n; j += 16) { /* writes never pass what was read */
        saei_v v = saei_vload(value + j);
        __m512i l = _mm512_loadu_si512((const void *)(latent + j));
        __mmask16 keep = _mm512_cmp_ps_mask(v, saei_vset(cut), _CMP_GE_OQ);
        saei_vstore(value + kept, _mm512_maskz_compress_ps(keep, v));
        _mm512_storeu_si512((void *)(latent + kept), _mm512_maskz_compress_epi32(keep, l));
        kept += (size_t)__builtin_popcount((unsigned)keep);
    }
    for (; j < n; j++)
        if (value[j] >= cut) {
            latent[kept] = latent[j];
            value[kept++] = value[j];
        }
    return kept;
}

/* Writes 16 entries from length on, those of keep first; returns the length with these. */
static inline size_t SAEI_FN(saei_append)(__mmask16 keep, saei_v p, __m512i lane, uint32_t *latent,
                                          float *value, size_t length) {
    if (!keep) return length;
    saei_vstore(value + length, _mm512_maskz_compress_ps(keep, p));
    _mm512_storeu_si512((void *)(latent + length), _mm512_maskz_compress_epi32(keep, lane));
    return length + (size_t)__builtin_popcount((unsigned)keep);
}

static size_t SAEI_FN(saei_keep_above)(const float *u, const float *bias, bool raw, size_t count,
                                       float cut, uint32_t base, uint32_t *latent, float *value,
                                       size_t length, size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    size_t j = 0;
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (; j + 16 <= count && length + SAEI_LIST_PADDING <= stride; j += 16) {
        saei_v v = saei_vload(u + j), p = bias ? saei_vadd(v, saei_vload(bias + j)) : v;
        __mmask16 keep = _mm512_cmp_ps_mask(p, saei_vset(cut), _CMP_GT_OQ);
        bits |= (uint64_t)keep << (j & 63);
        length = SAEI_FN(saei_append)(keep, raw ? v : p, lane, latent, value, length);
        lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16));
    }
    for (; j < count; j++) {
        float p = bias ? u[j] + bias[j] : u[j];
        if (!(p > cut)) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = raw ? u[j] : p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static size_t SAEI_FN(saei_keep_window)(const float *u, const float *bias, const float *theta,
                                        float bandwidth, size_t count, uint32_t base,
                                        uint32_t *latent, float *value, size_t length,
                                        size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    size_t j = 0;
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (; j + 16 <= count && length + SAEI_LIST_PADDING <= stride; j += 16) {
        saei_v p = saei_vadd(saei_vload(u + j), saei_vload(bias + j));
        saei_v above = saei_vload(theta + j);
        saei_v w = saei_vdiv(saei_vsub(p, above), saei_vset(bandwidth));
        __mmask16 keep = _mm512_cmp_ps_mask(p, above, _CMP_GT_OQ)
                         | (_mm512_cmp_ps_mask(w, saei_vset(-0.5f), _CMP_GT_OQ)
                            & _mm512_cmp_ps_mask(w, saei_vset(0.5f), _CMP_LT_OQ));
        bits |= (uint64_t)keep << (j & 63);
        length = SAEI_FN(saei_append)(keep, p, lane, latent, value, length);
        lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16));
    }
    for (; j < count; j++) {
        float p = u[j] + bias[j], w = (p - theta[j]) / bandwidth;
        if (!(p > theta[j] || (w > -0.5f && w < 0.5f))) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v v = saei_vload(x + i);
        __mmask16 keep = _mm512_cmp_ps_mask(v, saei_vload(cut + i), _CMP_GT_OQ);
        saei_vstore(out + i, _mm512_maskz_mov_ps(keep, v));
    }
    for (; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    size_t c = 0;
    /* 256 columns at a time, so that the rows, far apart and in no order, are read in 1 KB pieces;
       the piece of four rows later is fetched meanwhile. 131072 rows of 2 KB from 16 MB, one core:
       predicted 4.5 ms at the L3's 59 GB/s, measured 6.3 to 7.9 (64 columns at a time: 10.6). */
#define SAEI_ALL(X)                                                                                \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define SAEI_LOAD(i) saei_v a##i = saei_vload(out + c + 16 * i);
#define SAEI_ADD(i)                                                                                \
    _mm_prefetch((const char *)(next + 16 * i), _MM_HINT_T0);                                      \
    a##i = saei_vfma(v, saei_vload(m + 16 * i), a##i);
#define SAEI_PUT(i) saei_vstore(out + c + 16 * i, a##i);
    for (; c + 256 <= n; c += 256) {
        SAEI_ALL(SAEI_LOAD)
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            const float *next = M + row[j + 4 < count ? j + 4 : count - 1] * ld + c;
            saei_v v = saei_vset(value[j]);
            SAEI_ALL(SAEI_ADD)
        }
        SAEI_ALL(SAEI_PUT)
    }
#undef SAEI_ALL
#undef SAEI_LOAD
#undef SAEI_ADD
#undef SAEI_PUT
    SAEI_FN(saei_add_columns)(n - c, count, row, value, M + c, ld, out + c);
}

/* ---- src/kernels/end.inl ---- */

#undef SAEI_FN
#undef saei_v
#undef saei_vload
#undef saei_vstore
#undef saei_vset
#undef saei_vfma
#undef saei_vmul
#undef saei_vadd
#undef saei_vsub
#undef saei_vdiv
#undef saei_vsqrt
#undef saei_vsum

/* ---- src/kernels/end_target.inl ---- */

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif /* SAEI_X86 */

/* ==== >>kernels: AVX-512, training ============================ src/kernels/avx512_train.h ==== */
#if defined(SAEI_X86) && !defined(SAE_NO_TRAIN)

/* ---- src/kernels/begin_avx512.inl ---- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,popcnt,bmi"))),               \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,popcnt,bmi")
#endif
#define SAEI_FN(name) name##_avx512

/* ---- src/kernels/names.inl ---- */

/* The lanes of the set whose text this is: 16 floats, however many registers they take. */
#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

static inline uint64_t SAEI_FN(saei_or_lanes)(__m512i v) {
    __m256i four = _mm256_or_si256(_mm512_maskz_extracti64x4_epi64(0xFF, v, 0),
                                   _mm512_maskz_extracti64x4_epi64(0xFF, v, 1));
    __m128i two = _mm_or_si128(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    uint64_t one;
    _mm_storel_epi64((__m128i *)(void *)&one, _mm_or_si128(two, _mm_unpackhi_epi64(two, two)));
    return (one | one >> 32) & 0xFFFFFFFFu;
}

static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
    /* A shift by 32 or more gives 0: what belongs to the other half adds nothing. */
    __m512i one = _mm512_set1_epi32(1), low = _mm512_setzero_si512(), high = low;
    size_t count = 0;
    for (size_t j = 0; j < 64; j += 16) {
        size_t left = n < j ? 0 : n - j;
        __mmask16 in = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xFFFF;
        __m512i at = _mm512_maskz_loadu_epi32(in, (const void *)(sorted + j));
        at = _mm512_sub_epi32(at, _mm512_set1_epi32((int)first));
        in = _mm512_mask_cmplt_epu32_mask(in, at, _mm512_set1_epi32(64));
        low = _mm512_or_si512(low, _mm512_maskz_sllv_epi32(in, one, at));
        at = _mm512_sub_epi32(at, _mm512_set1_epi32(32));
        high = _mm512_or_si512(high, _mm512_maskz_sllv_epi32(in, one, at));
        count += (size_t)__builtin_popcount((unsigned)in);
    }
    *bits = SAEI_FN(saei_or_lanes)(low) | SAEI_FN(saei_or_lanes)(high) << 32;
    return count;
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
    __m512i rows = _mm512_loadu_si512((const void *)fires);
    const float *at[16];
    float tile[16][16];
    __mmask16 takes[16], puts[16], reads[16];
    for (int l = 0; l < 16; l++) {
        reads[l] = (__mmask16)((1u << __builtin_popcount(fires[l])) - 1);
        takes[l] = _mm512_test_epi32_mask(rows, _mm512_set1_epi32(1 << l));
        puts[l] = (__mmask16)((1u << __builtin_popcount((unsigned)takes[l])) - 1);
        at[l] = tile[l];
    }
    for (size_t v = 0; v < count; v++) {
        saei_v r[16];
        for (int l = 0; l < 16; l++) __builtin_prefetch(out[v] + to[l] + 32, 1);
        for (int i = 0; i < 16; i++)
            saei_vstore(tile[i], _mm512_maskz_expand_ps(
                                     (__mmask16)fires[i],
                                     _mm512_maskz_loadu_ps(reads[i], values[v] + from[i])));
        SAEI_FN(saei_transpose)(at, 0, r);
        for (int l = 0; l < 16; l++)
            _mm512_mask_storeu_ps(out[v] + to[l], puts[l],
                                  _mm512_maskz_compress_ps(takes[l], r[l]));
    }
    for (int l = 0; l < 16; l++) {
        to[l] += (size_t)__builtin_popcount((unsigned)takes[l]);
        from[l] += (size_t)__builtin_popcount(fires[l]);
    }
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64) {
        for (size_t g = 0; g < 64; g += 16) { /* what does not fire adds 0 */
            __mmask16 here = (__mmask16)(fires[w] >> g);
            size_t count = (size_t)__builtin_popcount((unsigned)here);
            saei_v v = _mm512_maskz_expand_ps(
                here, _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), value + j));
            __m512d wide = _mm512_castps_pd(v);
            __m256 low = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, wide, 0));
            __m256 high = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, wide, 1));
            double *s = sums + g;
            _mm512_storeu_pd(s, _mm512_add_pd(_mm512_loadu_pd(s),
                                              _mm512_maskz_cvtps_pd(0xFF, low)));
            _mm512_storeu_pd(s + 8, _mm512_add_pd(_mm512_loadu_pd(s + 8),
                                                  _mm512_maskz_cvtps_pd(0xFF, high)));
            j += count;
        }
    }
}

/* Prefetches the next panel, which lies after this one: 128 bytes at each of 256 lists, 256 where
   there are fewer. -10 % of a sum's time over 16 MB of panels. */
static inline void SAEI_FN(saei_panel_ahead)(const float *panel, size_t lists, size_t list) {
    const size_t bytes = lists > 128 ? 128 : 256;
    const char *part = (const char *)(panel + SAEI_DENSE_ROWS * 128) + bytes * list;
    for (size_t k = 0; k < bytes; k += 64) _mm_prefetch(part + k, _MM_HINT_T1);
}

/* Eight columns of registers for each row. The list as bits leaves both load ports to the panel:
   with its indices, 14 FMAs' time an entry of 8, with bits 10; the FMA peak would be 8. */
static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld) {
        const float *v = value + at[i];
#define SAEI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) /* in dot_panel too */
#define SAEI_LOAD(k)                                                                               \
    saei_v a##k = saei_vload(out + 16 * k);                                                        \
    _mm_prefetch((const char *)(next + 16 * k), _MM_HINT_T0);
#define SAEI_ADD(k) a##k = saei_vfma(x, saei_vload(m + 16 * k), a##k);
#define SAEI_PUT(k) saei_vstore(out + 16 * k, a##k);
        if (n == 128) {
            const float *next = i + 1 < targets ? out + ld : out;
            _mm_prefetch((const char *)(value + at[i + 2 < targets ? i + 2 : i]), _MM_HINT_T0);
            SAEI_FN(saei_panel_ahead)(panel, targets, i);
            SAEI_ALL(SAEI_LOAD)
            for (uint64_t left = bits[i]; left; left &= left - 1) {
                const float *m = panel + (size_t)__builtin_ctzll(left) * 128;
                saei_v x = saei_vset(*v++);
                SAEI_ALL(SAEI_ADD)
            }
            SAEI_ALL(SAEI_PUT)
            continue;
        }
#undef SAEI_LOAD
#undef SAEI_ADD
#undef SAEI_PUT
        SAEI_FN(saei_add_list)(n, bits[i], v, panel, out);
    }
}

/* out[j] = alpha times the sum of lanes[j][16], as saei_vsum, eight sums side by side. */
static void SAEI_FN(saei_finish_dots)(size_t count, const float *lanes, double alpha, float *out) {
    size_t j = 0;
#define SAEI_HALVES(i)                                                                             \
    _mm512_add_pd(_mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(lanes + 16 * (j + i))),              \
                  _mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(lanes + 16 * (j + i) + 8)))
#define SAEI_FOLD(a, b) /* lanes 4 apart, then 2, each of two sums */                              \
    _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xFF, a, b, 0x44),                                    \
                  _mm512_maskz_shuffle_f64x2(0xFF, a, b, 0xEE))
#define SAEI_FOLD2(a, b)                                                                           \
    _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xFF, a, b, 0x88),                                    \
                  _mm512_maskz_shuffle_f64x2(0xFF, a, b, 0xDD))
    __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (; j + 8 <= count; j += 8) {
        __m512d a = SAEI_HALVES(0), b = SAEI_HALVES(1), c = SAEI_HALVES(2), d = SAEI_HALVES(3);
        __m512d e = SAEI_HALVES(4), f = SAEI_HALVES(5), g = SAEI_HALVES(6), h = SAEI_HALVES(7), s;
        a = SAEI_FOLD(a, b);
        c = SAEI_FOLD(c, d);
        e = SAEI_FOLD(e, f);
        g = SAEI_FOLD(g, h);
        a = SAEI_FOLD2(a, c); /* quarter i: two lanes of sum i */
        e = SAEI_FOLD2(e, g);
        s = _mm512_add_pd(_mm512_maskz_unpacklo_pd(0xFF, a, e),
                          _mm512_maskz_unpackhi_pd(0xFF, a, e));
        s = _mm512_mul_pd(_mm512_maskz_permutexvar_pd(0xFF, order, s), _mm512_set1_pd(alpha));
        _mm256_storeu_ps(out + j, _mm512_maskz_cvtpd_ps(0xFF, s));
    }
#undef SAEI_HALVES
#undef SAEI_FOLD
#undef SAEI_FOLD2
    for (; j < count; j++) out[j] = (float)(alpha * saei_vsum(saei_vload(lanes + 16 * j)));
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *const from = lanes;
        size_t count;
#define SAEI_LOAD(k)                                                                               \
    saei_v e##k = saei_vload(e + 16 * k);                                                          \
    _mm_prefetch((const char *)(next + 16 * k), _MM_HINT_T0);
#define SAEI_ADD(k) s = saei_vfma(e##k, saei_vload(m + 16 * k), s);
        if (n == 128) {
            const float *next = i + 1 < targets ? e + ld : e;
            SAEI_FN(saei_panel_ahead)(panel, targets, i);
            SAEI_ALL(SAEI_LOAD)
            for (uint64_t left = bits[i]; left; left &= left - 1, lanes += 16) {
                const float *m = panel + (size_t)__builtin_ctzll(left) * 128;
                saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
                SAEI_ALL(SAEI_ADD)
                saei_vstore(lanes, s);
            }
        } else
#undef SAEI_ALL
#undef SAEI_LOAD
#undef SAEI_ADD
            lanes = SAEI_FN(saei_dot_list)(n, bits[i], e, panel, lanes, begin);
        count = out ? (size_t)(lanes - from) / 16 : 0;
        SAEI_FN(saei_finish_dots)(count, from, (double)alpha, out ? out + at[i] : out);
    }
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm512_storeu_pd(out + i,
                         _mm512_fmadd_pd(_mm512_set1_pd(a),
                                         _mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(x + i)),
                                         _mm512_loadu_pd(out + i)));
    for (; i < n; i++) out[i] += a * (double)x[i];
}

/* out = x^p for eight x > 0, as saei_pow with its roundings: exp(p ln x). False where one is
   not, is infinite, or |p ln x| may exceed 690: nothing is written. */
static inline bool SAEI_FN(saei_power_8)(__m256 x, double p, double *out) {
    const __m512d one = _mm512_set1_pd(1), big = _mm512_set1_pd(6.93147180369123816490e-01);
    const __m512d small = _mm512_set1_pd(1.90821492927058770002e-10);
    const double coef[] = { 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                            1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6,
                            0.5, 1.0, 1.0 };
    __m512i bits = _mm512_castpd_si512(_mm512_maskz_cvtps_pd(0xFF, x)), wide;
    __m256i e = _mm512_maskz_cvtepi64_epi32(0xFF, _mm512_maskz_srli_epi64(0xFF, bits, 52));
    __m512d f, s, z, y, n, r;
    __mmask8 upper;
    bits = _mm512_and_si512(bits, _mm512_set1_epi64(0xFFFFFFFFFFFFFll));
    f = _mm512_castsi512_pd(_mm512_or_si512(bits, _mm512_set1_epi64(0x3FF0000000000000ll)));
    upper = _mm512_cmp_pd_mask(f, _mm512_set1_pd(1.4142135623730951), _CMP_GT_OQ);
    f = _mm512_mask_mul_pd(f, upper, f, _mm512_set1_pd(0.5));
    n = _mm512_maskz_cvtepi32_pd(0xFF, _mm256_sub_epi32(e, _mm256_set1_epi32(1023)));
    n = _mm512_mask_add_pd(n, upper, n, one);
    s = _mm512_div_pd(_mm512_sub_pd(f, one), _mm512_add_pd(f, one));
    z = _mm512_mul_pd(s, s);
    y = _mm512_set1_pd(1.0 / 23);
    for (int i = 21; i >= 3; i -= 2) y = _mm512_fmadd_pd(y, z, _mm512_set1_pd(1.0 / i));
    s = _mm512_add_pd(s, s);
    y = _mm512_fmadd_pd(_mm512_mul_pd(y, z), s, s);
    y = _mm512_fmadd_pd(n, big, _mm512_fmadd_pd(n, small, y)); /* ln x */
    y = _mm512_mul_pd(_mm512_set1_pd(p), y);
    if ((_mm512_cmp_pd_mask(y, _mm512_set1_pd(690), _CMP_LT_OQ)
         & _mm512_cmp_pd_mask(y, _mm512_set1_pd(-690), _CMP_GT_OQ)
         & _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ))
         & _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ))) != 0xFF)
        return false;
    n = _mm512_maskz_roundscale_pd(
        0xFF, _mm512_fmadd_pd(y, _mm512_set1_pd(1.4426950408889634), _mm512_set1_pd(0.5)), 0x09);
    r = _mm512_fnmadd_pd(n, small, _mm512_fnmadd_pd(n, big, y));
    y = _mm512_set1_pd(1.0 / 6227020800);
    for (size_t i = 0; i < sizeof coef / sizeof *coef; i++)
        y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(coef[i]));
    e = _mm256_add_epi32(_mm512_maskz_cvttpd_epi32(0xFF, n), _mm256_set1_epi32(1023));
    wide = _mm512_maskz_slli_epi64(0xFF, _mm512_maskz_cvtepi32_epi64(0xFF, e), 52);
    _mm512_storeu_pd(out, _mm512_mul_pd(y, _mm512_castsi512_pd(wide)));
    return true;
}

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    size_t i = 0;
    for (; p != 0 && p != 1 && i + 8 <= n; i += 8)
        if (!SAEI_FN(saei_power_8)(_mm256_loadu_ps(x + i), p, out + i))
            for (size_t j = i; j < i + 8; j++)
                out[j] = x[j] > 0 ? saei_pow((double)x[j], p) : 0;
    for (; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

#define SAEI_GATHER(p, i) _mm512_mask_i32gather_ps(saei_vset(0), 0xFFFF, i, p, 4)
static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    size_t j = at;
    for (; j + 16 <= at + n; j += 16) {
        __m512i i = _mm512_loadu_si512((const void *)(c->latent + j));
        saei_v u = saei_vload(c->pre + j);
        saei_v v = saei_vadd(saei_vmul(SAEI_GATHER(exp_r, i), u), SAEI_GATHER(mag_bias, i));
        saei_vstore(c->gate + j, saei_vadd(u, SAEI_GATHER(gate_bias, i)));
        saei_vstore(c->value + j,
                    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, saei_vset(0), _CMP_GT_OQ), v));
    }
    for (; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    size_t j = at;
    for (; j + 16 <= at + n; j += 16) {
        saei_v e = SAEI_GATHER(exp_r, _mm512_loadu_si512((const void *)(c->latent + j)));
        __mmask16 on = _mm512_cmp_ps_mask(saei_vload(c->value + j), saei_vset(0), _CMP_GT_OQ);
        saei_v mag = _mm512_maskz_loadu_ps(on, c->extra[0] + j);
        saei_vstore(c->extra[0] + j, mag);
        saei_vstore(c->extra[2] + j, saei_vmul(saei_vmul(mag, e), saei_vload(c->pre + j)));
        saei_vstore(c->grad + j, saei_vfma(e, mag, saei_vload(c->extra[1] + j)));
    }
    for (; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}
#undef SAEI_GATHER

/* ---- src/kernels/end.inl ---- */

#undef SAEI_FN
#undef saei_v
#undef saei_vload
#undef saei_vstore
#undef saei_vset
#undef saei_vfma
#undef saei_vmul
#undef saei_vadd
#undef saei_vsub
#undef saei_vdiv
#undef saei_vsqrt
#undef saei_vsum

/* ---- src/kernels/end_target.inl ---- */

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif /* SAEI_X86, SAE_NO_TRAIN */

/* ==== >>kernels: the tables ============================================ src/kernels/isa.h ==== */
#define SAEI_OF_SET(set, result, name, parameters) saei_##name##_##set,
#define SAEI_NOT_THERE(set, result, name, parameters) NULL,
#define SAEI_KERNEL_TABLE(name, set, screening)                                                    \
    static const saei_kernels saei_kernels_##name = {                                              \
        #name, SAEI_KERNELS(SAEI_OF_SET, set) SAEI_SCREEN_KERNELS(screening, set)                  \
            SAEI_TRAIN_KERNELS(SAEI_OF_SET, set)                                                   \
    }
SAEI_KERNEL_TABLE(portable, portable, SAEI_NOT_THERE);
#if defined(SAEI_NEON)
SAEI_KERNEL_TABLE(neon, neon, SAEI_NOT_THERE);
#endif
#if defined(SAEI_X86)
SAEI_KERNEL_TABLE(avx2, avx2, SAEI_NOT_THERE);
SAEI_KERNEL_TABLE(avx512, avx512, SAEI_NOT_THERE);
SAEI_KERNEL_TABLE(avx512vnni, avx512, SAEI_OF_SET);
#endif
#undef SAEI_OF_SET
#undef SAEI_NOT_THERE
#undef SAEI_KERNEL_TABLE

static const saei_kernels *saei_kernels_select(const char *name) {
#if defined(SAEI_X86)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
    if ((!name || !strcmp(name, "avx512vnni")) && avx512 && __builtin_cpu_supports("avx512vnni"))
        return &saei_kernels_avx512vnni;
    if ((!name || !strcmp(name, "avx512")) && avx512) return &saei_kernels_avx512;
    if ((!name || !strcmp(name, "avx2")) && avx2) return &saei_kernels_avx2;
#elif defined(SAEI_NEON)
    if (!name || !strcmp(name, "neon")) return &saei_kernels_neon;
#endif
    if (!name || !strcmp(name, "portable")) return &saei_kernels_portable;
    return NULL;
}

/* ==== >>kernels: the k largest ====================================== src/kernels/select.h ==== */

/* Candidates of one row for its k largest, latents ascending. */
typedef struct saei_top {
    float *value;      /* p; screened: p is at least this */
    uint32_t *latent;
    size_t count;
    float lower_bound; /* at least k candidates are >= it (or an estimate); 0: none is known yet */
    float error_bound; /* screened: p is at most value + error_bound */
} saei_top;

/* The largest cut that at least k (1 <= k <= n) of n positive values reach, or one that exactly k
   reach; least is a positive lower bound of it. Halves the range of the bits: about 10 readings of
   the list, no branch on its values (a quickselect of 200 keys took 2.5 us, this 0.4). */
static float saei_kth_largest(const saei_kernels *kernels, const float *value, size_t n, size_t k,
                              float least) {
    uint32_t lo = saei_float_bits(least), hi = 0x7F800000u;
    float most = 0;
    for (size_t j = 0; j < n; j++) most = value[j] > most ? value[j] : most;
    if (saei_float_bits(most) < hi) hi = saei_float_bits(most);
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        size_t reach = kernels->count_from(value, n, saei_bits_float(mid));
        if (reach == k) return saei_bits_float(mid);
        if (reach > k) lo = mid;
        else hi = mid - 1;
    }
    return saei_bits_float(lo);
}

/* Raises the lower bound and drops what cannot be among the k largest. False: the bound, an
   estimate so far, is not known to be reached by k. */
static bool saei_top_tighten(const saei_kernels *kernels, saei_top *top, size_t k) {
    float least = top->lower_bound > 0 ? top->lower_bound : saei_bits_float(1);
    if (kernels->count_from(top->value, top->count, least) < k) return false;
    top->lower_bound = saei_kth_largest(kernels, top->value, top->count, k, least);
    top->count = kernels->keep_from(top->latent, top->value, top->count,
                                    (top->lower_bound - top->error_bound) * (1 - 2 * FLT_EPSILON));
    return true;
}

/* Exact values: keeps the k largest, ties to the lower latent; what does not exceed the lower bound
   is none of them. */
static void saei_top_finish(const saei_kernels *kernels, saei_top *top, size_t k) {
    size_t kept = 0, above;
    float kth;
    top->lower_bound = 0;
    for (size_t j = 0; top->count == k && j < k; j++)
        if (!j || top->value[j] < top->lower_bound) top->lower_bound = top->value[j];
    if (top->count <= k) return;
    kth = saei_kth_largest(kernels, top->value, top->count, k, saei_bits_float(1));
    top->lower_bound = kth;
    top->count = kernels->keep_from(top->latent, top->value, top->count, kth);
    if (top->count == k) return;
    above = kernels->count_from(top->value, top->count, saei_bits_float(saei_float_bits(kth) + 1));
    for (size_t j = 0; j < top->count; j++) {
        bool tie = top->value[j] == kth;
        if (tie && above == k) continue;
        above += tie;
        top->latent[kept] = top->latent[j];
        top->value[kept++] = top->value[j];
    }
    top->count = kept;
}

/* The row's entries: the k chosen, and where there are fewer the first latents without a positive
   value, as zeros, of m. latent and value have room for k. */
static size_t saei_top_write(const saei_top *top, size_t k, size_t m, const uint32_t *list,
                             uint32_t *latent, float *value) {
    size_t zeros = saei_min(k, m) - top->count, at = 0, j = 0;
    for (size_t i = 0; j < top->count || zeros; i++) {
        if (!zeros) i = top->latent[j];
        if (j < top->count && top->latent[j] == i) value[at] = top->value[j++];
        else if (zeros) {
            value[at] = 0;
            zeros--;
        }
        latent[at++] = list ? list[i] : (uint32_t)i;
    }
    return at;
}

/* Leaves the `want` largest of the code's `total` positive values, ties to the lower index (row,
   then latent): a histogram [65536] over the upper, then the lower half of the bits finds the
   smallest value to keep. Returns it. */
static float saei_keep_batch(sae_code *code, size_t want, uint32_t *histogram) {
    uint32_t upper = 0, lower = 0;
    size_t above = 0, ties;
    float cut;
    for (int half = 0; half < 2; half++) {
        uint32_t bucket = 65536;
        memset(histogram, 0, 65536 * sizeof *histogram);
        for (size_t r = 0; r < code->rows; r++) {
            const float *v = code->pre + r * code->stride;
            for (size_t j = 0; j < code->count[r]; j++) {
                uint32_t bits = saei_float_bits(v[j]);
                if (!half) histogram[bits >> 16]++;
                else if (bits >> 16 == upper) histogram[bits & 0xFFFF]++;
            }
        }
        while (above + histogram[--bucket] < want) above += histogram[bucket];
        if (!half) upper = bucket;
        else lower = bucket;
    }
    ties = want - above;
    cut = saei_bits_float(upper << 16 | lower);
    for (size_t r = 0; r < code->rows; r++) {
        uint32_t *latent = code->latent + r * code->stride;
        float *v = code->pre + r * code->stride;
        uint32_t kept = 0;
        for (size_t j = 0; j < code->count[r]; j++) {
            bool tie = v[j] == cut && ties > 0;
            if (tie) ties--;
            if (v[j] > cut || tie) {
                latent[kept] = latent[j];
                v[kept++] = v[j];
            }
        }
        code->count[r] = kept;
    }
    return cut;
}

/* ==== >>kernels: the screen ========================================= src/kernels/screen.h ==== */
/* The product of rows with W_enc takes 3/4 of a sparse step, and a few in a hundred of its results
   are used. So rows of x and W_enc are rounded to int16 with a scale each, x = q / s + dx and
   w = v / t + dw; the integer product q.v is exact (see quantize) and twice as fast as float's; and
       |p - (q.v / (s t) + bias)| <= |dx||w| + |x^||dw| + (d + 32) 2^-24 |x||w|,   x^ = q / s
   by Cauchy and Schwarz, the last term for the roundings of the canonical product and of the left
   side. What this bound cannot exclude is computed again in the canonical order, and only that
   decides: the bits are those of the exact path. W1: 1.02 candidates for each entry kept.
   Two cores of 540 GFLOP/s: predicted 16 ms of product at the int16 peak + 8 of the rest, measured
   26; the exact path takes 42. See bench/RESULTS.md.
   Its users: the CPU backend's encode and prepared dictionaries. They fill in a job, pack W_enc
   once by saei_screen_pack, and send rows through saei_screen_rows. */

enum {
    SAEI_ENCODE_ROWS = 128, /* at most: rows of one part */
    SAEI_TOP_LISTS = SAEI_ENCODE_ROWS + 1, /* of candidates: a spare one, and one for each row */
    SAEI_SCREEN_FACTS = 3   /* of a panel: most |w|, |dw|, |offset| */
};

/* The memory of an encode. What is "of a worker" lies [workers] times one after the other. */
typedef struct saei_encode_room {
    float *panels;     /* W_enc: [panels][d][48]; screened: int16 pairs [panels][ld / 2][48] */
    int16_t *words;    /* of a worker: [SAEI_ENCODE_ROWS][ld], of rows or of a panel's latents */
    float *value;      /* of a worker: [SAEI_TOP_LISTS][capacity], candidates */
    uint32_t *latent;  /* alike */
    size_t capacity;   /* of a row's list of candidates, a multiple of 16 */
    float *factor, *offset; /* screened: [panels 48], of each latent */
    float *facts;      /* screened: [panels][SAEI_SCREEN_FACTS] */
    uint32_t *refused; /* screened: [panels], 1: some latent has no finite, sane norm */
    double *least;     /* screened: [parts], the smallest k-th largest p / |x| of a row */
} saei_encode_room;

/* What the parts of an encode share. */
typedef struct saei_encode_job {
    const sae_context *ctx;
    const saei_kernels *kernels;
    const sae_encode_args *args;
    sae_code *code;
    saei_encode_room room;
    size_t m, k;      /* latents there are (of a list: in it), of which k at most are taken */
    size_t part_rows; /* rows of a part, SAEI_ENCODE_ROWS at most */
    float cut;        /* p must exceed it; screened TOP_K: an estimate, as a share of |x| */
    bool blas;        /* a BLAS's float products propose, not int16 ones */
} saei_encode_job;

/* Floats that saei_screen_place wants for m latents, and where they go. */
static size_t saei_screen_floats(size_t m) {
    return saei_ceil_div(m, SAEI_PANEL) * (2 * SAEI_PANEL + SAEI_SCREEN_FACTS);
}
static void saei_screen_place(saei_encode_room *room, size_t m, float *memory) {
    size_t all = saei_ceil_div(m, SAEI_PANEL) * SAEI_PANEL;
    room->factor = memory;
    room->offset = memory + all;
    room->facts = memory + 2 * all;
}

static saei_top saei_top_list(const saei_encode_job *job, size_t which) {
    saei_top top;
    memset(&top, 0, sizeof top);
    top.value = job->room.value + which * job->room.capacity;
    top.latent = job->room.latent + which * job->room.capacity;
    return top;
}

/* A worker's lists of candidates, for `rows` rows; returns the spare one. */
static saei_top saei_tops(const saei_encode_job *job, size_t worker, size_t rows, saei_top *top) {
    size_t spare = worker * SAEI_TOP_LISTS;
    for (size_t i = 0; i < rows; i++) top[i] = saei_top_list(job, spare + 1 + i);
    return saei_top_list(job, spare);
}

/* Whether p = u + bias is selected, and what is stored of it. */
static bool saei_selected(const saei_encode_job *job, float u, size_t i, float *stored) {
    const sae_encode_args *a = job->args;
    float p = u + a->bias[i];
    *stored = a->select == SAE_SELECT_GATE ? u : p;
    if (a->select != SAE_SELECT_WINDOW) return p > job->cut;
    return p > a->theta[i] || saei_rectangle(p, a->theta[i], a->bandwidth);
}

/* The candidates for TOP_K among a panel's exact products. */
static void saei_keep_top(const saei_encode_job *job, size_t first, size_t count,
                          const float *product, const float *bias, saei_top *top) {
    size_t capacity = job->room.capacity;
    if (top->count + 2 * SAEI_PANEL > capacity) saei_top_finish(job->kernels, top, job->k);
    top->count = job->kernels->keep_above(product, bias, false, count, top->lower_bound,
                                          (uint32_t)first, top->latent, top->value, top->count,
                                          capacity, NULL);
}

/* -- W_enc -- */

/* What the bound needs of a row of x or W_enc; and its int16, unless a BLAS takes it as it is. A
   BLAS may take subnormal numbers for 0, and squares below 1e-45 are lost here. */
static void saei_screen_row(const saei_encode_job *job, const float *x, int16_t *words,
                            saei_quantized *q) {
    size_t ld = job->args->ld;
    double norm;
    if (!job->blas) {
        job->kernels->quantize(ld, x, words, q);
        return;
    }
    norm = sqrt(job->kernels->dot(ld, x, x));
    q->norm = (float)(norm * 1.0001 + 1e-20);
    q->error = 1e-35f;
    q->inverse = norm < 1e15 ? 1.0f : -1.0f; /* also where norm is NaN */
}

/* How far p may be from what is proposed for it, for a row and a panel's facts; rounding: of the
   sums alone, a share of |x||w|. */
static float saei_screen_error(const saei_quantized *q, const float *facts, float rounding) {
    return (q->error + rounding * q->norm) * facts[0] + (q->norm + q->error) * facts[1]
           + 2e-6f * facts[2] + 1e-30f;
}

static void saei_screen_pack_part(void *arg, size_t part, size_t worker) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    const saei_encode_room *room = &job->room;
    size_t first = part * SAEI_PANEL, count = saei_min(SAEI_PANEL, job->m - first);
    int16_t *words = room->words + worker * SAEI_ENCODE_ROWS * a->ld;
    float *inverse = room->factor + first, *offset = room->offset + first;
    float *facts = room->facts + part * SAEI_SCREEN_FACTS;
    const uint32_t *row[SAEI_PANEL];
    memset(facts, 0, SAEI_SCREEN_FACTS * sizeof *facts);
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        saei_quantized q;
        float size;
        row[j] = (const uint32_t *)(const void *)(words + j * a->ld);
        inverse[j] = 0;
        offset[j] = -FLT_MAX;
        if (j >= count) continue;
        saei_screen_row(job, a->W + (first + j) * a->ld, words + j * a->ld, &q);
        inverse[j] = q.inverse;
        offset[j] = a->bias[first + j];
        size = fabsf(offset[j]);
        if (a->select == SAE_SELECT_WINDOW) { /* p > theta - bandwidth / 2 as offset + u > 0 */
            offset[j] += 0.5f * fabsf(a->bandwidth) - a->theta[first + j];
            size += fabsf(a->theta[first + j]) + fabsf(a->bandwidth);
        }
        if (q.inverse < 0 || !(size < 1e15f)) room->refused[part] = 1;
        facts[0] = q.norm > facts[0] ? q.norm : facts[0];
        facts[1] = q.error > facts[1] ? q.error : facts[1];
        facts[2] = size > facts[2] ? size : facts[2];
    }
    if (job->blas) return;
    job->kernels->pack(row, count, a->ld / 2,
                       (uint32_t *)(void *)room->panels + part * SAEI_PANEL * (a->ld / 2));
}

/* Makes the panels and what the bound needs of them. False: some weight or bias has no finite,
   sane size, so that nothing can be excluded. */
static bool saei_screen_pack(saei_encode_job *job) {
    size_t panels = saei_ceil_div(job->m, SAEI_PANEL);
    memset(job->room.refused, 0, panels * sizeof *job->room.refused);
    saei_parallel_workers(job->ctx, panels, saei_screen_pack_part, job);
    for (size_t i = 0; i < panels; i++)
        if (job->room.refused[i]) return false;
    return true;
}

/* Whether there can be a screen for m latents of d dimensions. */
static bool saei_screen_fits(size_t d, size_t m) {
    return d <= 16384 && saei_ceil_div(m, SAEI_PANEL) <= 65536;
}

/* -- rows -- */

/* Where a row's candidates are kept. */
typedef struct saei_screen_list {
    uint32_t *latent;
    float *value;
    size_t count, stride;
} saei_screen_list;

/* Prepares row r's list: its cut, and the margin that makes a screened value a lower bound of p.
   error: how far off a screened value may be. False: the list is full; the row is redone
   exactly. */
static bool saei_screen_ready(const saei_encode_job *job, size_t r, float error, saei_top *top,
                              saei_screen_list *list, float *cut, float *margin) {
    const sae_code *code = job->code;
    sae_select select = job->args->select;
    bool top_k = select == SAE_SELECT_TOP_K;
    float at, e;
    if (top_k && top->count + 2 * SAEI_PANEL > job->room.capacity) {
        if (top->count > job->room.capacity) return false;
        saei_top_tighten(job->kernels, top, job->k);
    }
    at = top_k ? top->lower_bound : select == SAE_SELECT_BATCH_TOP_K ? job->cut : 0;
    e = (error + 2e-6f * fabsf(at)) * (1 + 4 * FLT_EPSILON);
    *cut = at - e;
    *margin = top_k ? e : 0;
    list->stride = top_k ? job->room.capacity : code->stride;
    list->latent = top_k ? top->latent : code->latent + r * list->stride;
    list->value = top_k ? top->value : code->pre + r * list->stride;
    list->count = top_k ? top->count : code->count[r];
    if (top_k && top->error_bound < 2.01f * e)
        top->error_bound = 2.01f * e; /* e below, e above, roundings */
    return true;
}

static void saei_screen_done(const saei_encode_job *job, size_t r, size_t count, saei_top *top) {
    if (job->args->select == SAE_SELECT_TOP_K) top->count = count;
    else job->code->count[r] = (uint32_t)count;
}

/* The candidates of `rows` rows from r0 on, one tile, among a panel's latents. q, top: of these
   rows. */
static void saei_screen_keep(const saei_encode_job *job, size_t r0, size_t rows, size_t first,
                             const int32_t *dot, const saei_quantized *q, saei_top *top,
                             const saei_top *spare) {
    const float rounding = (float)(job->args->d + 32) * 6e-8f;
    const float *facts = job->room.facts + first / SAEI_PANEL * SAEI_SCREEN_FACTS;
    const float *inverse = job->room.factor + first, *offset = job->room.offset + first;
    float scale[SAEI_TILE_ROWS], margin[SAEI_TILE_ROWS], cut[SAEI_TILE_ROWS];
    uint32_t *latent[SAEI_TILE_ROWS], length[SAEI_TILE_ROWS];
    float *value[SAEI_TILE_ROWS];
    bool taken[SAEI_TILE_ROWS];
    for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
        saei_screen_list list;
        float error = saei_screen_error(&q[i < rows ? i : 0], facts, rounding);
        taken[i] = i < rows
                   && saei_screen_ready(job, r0 + i, error, &top[i], &list, &cut[i], &margin[i]);
        scale[i] = taken[i] ? q[i].inverse : 0;
        if (taken[i] && list.count + SAEI_LIST_RESERVE > list.stride) { /* nearly full: alone */
            size_t count = job->kernels->keep_screened(
                dot + i * SAEI_PANEL, inverse, offset, scale[i], margin[i], cut[i], (uint32_t)first,
                list.latent, list.value, list.count, list.stride);
            saei_screen_done(job, r0 + i, count, &top[i]);
            taken[i] = false;
        }
        latent[i] = taken[i] ? list.latent : spare->latent;
        value[i] = taken[i] ? list.value : spare->value;
        length[i] = taken[i] ? (uint32_t)list.count : 0;
        if (taken[i]) continue;
        cut[i] = FLT_MAX; /* nothing is kept, and that in the spare list */
        margin[i] = 0;
    }
    job->kernels->keep_tile(dot, inverse, offset, scale, margin, cut, (uint32_t)first, latent,
                            value, length);
    for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
        if (taken[i]) saei_screen_done(job, r0 + i, length[i], &top[i]);
}

/* One row without screening, from W_enc as it lies. */
static void saei_encode_exact_row(const saei_encode_job *job, size_t r, saei_top *top) {
    const sae_encode_args *a = job->args;
    const float *x = a->x + r * a->ld;
    size_t count = 0, at = r * job->code->stride;
    top->count = 0;
    top->lower_bound = top->error_bound = 0;
    for (size_t first = 0; first < job->m; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, job->m - first);
        uint32_t list[SAEI_PANEL];
        float product[SAEI_PANEL], bias[SAEI_PANEL];
        memset(bias, 0, sizeof bias);
        memset(product, 0, sizeof product);
        memcpy(bias, a->bias + first, width * sizeof *bias);
        for (size_t j = 0; j < width; j++) list[j] = (uint32_t)(first + j);
        job->kernels->products(a->d, x, width, list, a->W, a->ld, false, product);
        if (a->select == SAE_SELECT_TOP_K) saei_keep_top(job, first, width, product, bias, top);
        else
            for (size_t j = 0; j < width; j++) {
                float stored;
                if (!saei_selected(job, product[j], first + j, &stored)) continue;
                if (count < job->code->stride) {
                    job->code->latent[at + count] = list[j];
                    job->code->pre[at + count] = stored;
                }
                count++;
            }
    }
    job->code->count[r] = (uint32_t)count;
}

/* The canonical p of a row's candidates for TOP_K decides. Lowers *least to the k-th largest, a
   share of |x|, for the next estimate. */
static void saei_screen_top_end(const saei_encode_job *job, size_t r, const saei_quantized *q,
                                saei_top *top, saei_top *spare, double *least) {
    const sae_encode_args *a = job->args;
    size_t at = r * job->code->stride;
    bool sane = q->inverse >= 0, fits = top->count <= job->room.capacity;
    double share;
    if (!sane || !fits || !saei_top_tighten(job->kernels, top, job->k))
        saei_encode_exact_row(job, r, top);
    else {
        spare->count = 0;
        spare->lower_bound = 0;
        job->kernels->products(a->d, a->x + r * a->ld, top->count, top->latent, a->W, a->ld,
                               false, top->value);
        for (size_t j = 0; j < top->count; j++) {
            float p = top->value[j] + a->bias[top->latent[j]];
            if (!(p > 0)) continue;
            spare->latent[spare->count] = top->latent[j];
            spare->value[spare->count++] = p;
        }
        top = spare;
    }
    saei_top_finish(job->kernels, top, job->k);
    job->code->count[r] = (uint32_t)saei_top_write(top, job->k, job->m, NULL,
                                                   job->code->latent + at, job->code->pre + at);
    share = sane && top->lower_bound > 0 ? (double)(top->lower_bound / q->norm) : 0;
    if (share < *least) *least = share;
}

/* The same for the other selections, which need no estimate. A trainer's lists hold any row;
   prepared ones may be overrun, and have count > stride then. */
static void saei_screen_row_end(const saei_encode_job *job, size_t r, const saei_quantized *q,
                                saei_top *top, saei_top *spare, double *least) {
    const sae_encode_args *a = job->args;
    sae_code *code = job->code;
    size_t at = r * code->stride, kept = 0;
    if (a->select == SAE_SELECT_TOP_K) {
        saei_screen_top_end(job, r, q, top, spare, least);
        return;
    }
    *least = 0;
    if (!(q->inverse >= 0)) {
        saei_encode_exact_row(job, r, top);
        return;
    }
    if (code->count[r] > code->stride) return; /* overrun, as the caller sees */
    job->kernels->products(a->d, a->x + r * a->ld, code->count[r], code->latent + at, a->W, a->ld,
                           false, code->pre + at);
    for (size_t j = at; j < at + code->count[r]; j++) {
        uint32_t i = code->latent[j];
        float stored;
        if (!saei_selected(job, code->pre[j], i, &stored)) continue;
        code->latent[at + kept] = i;
        code->pre[at + kept++] = stored;
    }
    code->count[r] = (uint32_t)kept;
}

/* Part `part` of the rows, from packed panels to the code. worker: whose memory it works in. */
static void saei_screen_rows(void *arg, size_t part, size_t worker) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    size_t r0 = part * job->part_rows, r1 = saei_part_end(part, job->part_rows, a->n);
    int16_t *words = job->room.words + worker * SAEI_ENCODE_ROWS * a->ld;
    const uint32_t *panels = (const uint32_t *)(const void *)job->room.panels;
    double *least = &job->room.least[part];
    saei_top top[SAEI_ENCODE_ROWS], spare = saei_tops(job, worker, r1 - r0, top);
    saei_quantized q[SAEI_ENCODE_ROWS];
    int32_t dot[SAEI_TILE_ROWS * SAEI_PANEL];
    memset(q, 0, sizeof q);
    for (size_t r = r0; r < r1; r++) {
        job->kernels->quantize(a->ld, a->x + r * a->ld, words + (r - r0) * a->ld, &q[r - r0]);
        job->code->count[r] = 0;
        if (a->select == SAE_SELECT_TOP_K)
            top[r - r0].lower_bound = job->cut * q[r - r0].norm;
    }
    for (size_t first = 0; first < job->m; first += SAEI_PANEL)
        for (size_t g = r0; g < r1; g += SAEI_TILE_ROWS) {
            const int16_t *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = words + (saei_min(g + i, r1 - 1) - r0) * a->ld;
            job->kernels->screen(x, panels + first * (a->ld / 2), a->ld / 2, dot);
            saei_screen_keep(job, g, saei_min(SAEI_TILE_ROWS, r1 - g), first, dot, &q[g - r0],
                             &top[g - r0], &spare);
        }
    *least = HUGE_VAL;
    for (size_t r = r0; r < r1; r++)
        saei_screen_row_end(job, r, &q[r - r0], &top[r - r0], &spare, least);
}

/* ==== >>context ==================================================== src/kernels/context.h ==== */
/* There is no context yet to keep the sentence. */
static sae_result saei_context_refuse(const sae_context_desc *d, sae_result result,
                                      const char *format, ...) SAE_PRINTF(3, 4);
static sae_result saei_context_refuse(const sae_context_desc *d, sae_result result,
                                      const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (d->logger.log) d->logger.log(SAE_LOG_ERROR, result, text, d->logger.user);
    return result;
}

enum { SAEI_MAX_THREADS = 1024 };

/* -- working memory of inference -- */

enum {
    SAEI_BLOCK_ROWS = 128, SAEI_BLOCK_DEPTH = 64, /* a panel is packed once for 128 rows */
    SAEI_BLOCK_LISTS = 4096,
    SAEI_SMALL_ROWS = 16, SAEI_SMALL_DEPTH = 8,
    SAEI_LEAST_BLOCKS = 4
};

/* input_norm of a row: x = (raw x - shift) / divisor, and x_hat scale + shift undoes it. */
typedef struct saei_norm {
    float shift, divisor, scale;
} saei_norm;

/* What a block of rows needs. A context has one for each thread; a call takes one that is free for
   the time of a block. */
struct saei_block {
    int taken;
    float product[SAEI_BLOCK_ROWS * SAEI_PANEL], panel[SAEI_BLOCK_DEPTH * SAEI_PANEL];
    float centred[SAEI_TILE_ROWS * SAEI_BLOCK_DEPTH];
    saei_norm norms[SAEI_BLOCK_ROWS];
    size_t found[SAEI_BLOCK_ROWS], begin[SAEI_BLOCK_ROWS + 1];
    uint32_t latent[SAEI_BLOCK_LISTS];
    float value[SAEI_BLOCK_LISTS];
};

/* The same for the stack of a call that finds none free: fewer rows at a time, the same bits. */
typedef struct saei_small_block {
    float product[SAEI_SMALL_ROWS * SAEI_PANEL], panel[SAEI_SMALL_DEPTH * SAEI_PANEL];
    float centred[SAEI_TILE_ROWS * SAEI_SMALL_DEPTH];
    saei_norm norms[SAEI_SMALL_ROWS];
    size_t found[SAEI_SMALL_ROWS], begin[SAEI_SMALL_ROWS + 1];
} saei_small_block;

/* One of the two. */
typedef struct saei_room {
    size_t rows, depth;   /* of a block; of a packed panel */
    float *product;       /* [rows][48] */
    float *panel;         /* [depth][48], or depth 48 floats of a row */
    float *centred;       /* [8][depth] */
    saei_norm *norms;     /* [rows] */
    size_t *found;        /* [rows] */
    size_t *begin;        /* [rows + 1] */
    size_t entries;       /* of lists; on the stack: 0 */
    uint32_t *latent;
    float *value;
    saei_block *block;    /* NULL: on the stack */
} saei_room;

static saei_room saei_room_take(const sae_context *ctx, saei_small_block *small) {
    saei_room room = { SAEI_SMALL_ROWS, SAEI_SMALL_DEPTH, small->product, small->panel,
                       small->centred,  small->norms,     small->found,   small->begin,
                       0,               NULL,             NULL,           NULL };
    for (size_t i = 0; i < ctx->num_blocks; i++) {
        saei_block *b = &ctx->blocks[i];
        saei_room large = { SAEI_BLOCK_ROWS,  SAEI_BLOCK_DEPTH, b->product, b->panel, b->centred,
                            b->norms,         b->found,         b->begin,
                            SAEI_BLOCK_LISTS, b->latent,        b->value,   b };
        if (saei_try_lock(&b->taken)) return large;
    }
    return room;
}

static void saei_room_leave(saei_room *room) {
    if (room->block) saei_unlock(&room->block->taken);
}

/* What reads is there, and of what writes all or nothing. */
static bool saei_io_whole(const sae_io *io) {
    return io->open && io->size && io->read && io->close && !io->write == !io->rename
           && !io->write == !io->remove;
}

SAE_API sae_result sae_context_create(const sae_context_desc *desc, sae_context **out) {
    sae_context_desc zero, *d = &zero;
    const saei_kernels *kernels;
    const sae_io *io;
    sae_context *ctx;
    if (desc) zero = *desc;
    else memset(&zero, 0, sizeof zero);
    io = d->io;
    if (!out) return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: out is NULL");
    if (!d->allocator.alloc != !d->allocator.free)
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: allocator.%s is NULL, "
                                   "allowed are both alloc and free or none",
                                   d->allocator.alloc ? "free" : "alloc");
    if (d->threads < (d->pool.run ? 1 : 0) || d->threads > SAEI_MAX_THREADS)
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: threads is %d, allowed "
                                   "are %s to %d", d->threads,
                                   d->pool.run ? "with a pool the number of its workers, 1"
                                               : "0 (all)", SAEI_MAX_THREADS);
    if (!d->allocator.alloc) {
        d->allocator.alloc = saei_default_alloc;
        d->allocator.free = saei_default_free;
    }
    if (io && !saei_io_whole(io))
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: io has some callbacks "
                                   "of a kind, allowed are all of open, size, read, close, and "
                                   "with them all of write, rename, remove or none");
    kernels = saei_kernels_select(d->instruction_set);
    if (!kernels)
        return saei_context_refuse(d, SAE_ERR_INVALID,
                                   "sae_context_create: instruction_set is %.32s, "
                                   "which this CPU lacks, allowed are NULL, portable, and what it "
                                   "has of avx2, avx512, avx512vnni, neon", d->instruction_set);
    ctx = (sae_context *)d->allocator.alloc(sizeof *ctx, d->allocator.user);
    if (!ctx)
        return saei_context_refuse(d, SAE_ERR_OUT_OF_MEMORY,
                                   "sae_context_create: no memory for a context");
    memset(ctx, 0, sizeof *ctx);
    ctx->allocator = d->allocator;
    ctx->logger = d->logger;
    if (io) ctx->io = *io;
    else saei_files_use(ctx);
    ctx->pool = d->pool;
    ctx->threads = d->pool.run ? d->threads : 1;
#if defined(_OPENMP)
    if (!d->pool.run) ctx->threads = d->threads ? d->threads : omp_get_max_threads();
    if (ctx->threads > SAEI_MAX_THREADS) ctx->threads = SAEI_MAX_THREADS;
#endif
    ctx->backend = d->backend;
    ctx->backend_desc = d->backend_desc;
    ctx->kernels = kernels;
    ctx->num_blocks = saei_max((size_t)ctx->threads, SAEI_LEAST_BLOCKS);
    ctx->blocks = (saei_block *)saei_alloc(ctx, ctx->num_blocks, sizeof *ctx->blocks);
    if (!ctx->blocks) {
        sae_context_destroy(ctx);
        return saei_context_refuse(d, SAE_ERR_OUT_OF_MEMORY,
                                   "sae_context_create: no memory for a context");
    }
    for (size_t i = 0; i < ctx->num_blocks; i++) ctx->blocks[i].taken = 0;
    *out = ctx;
    return SAE_OK;
}

SAE_API void sae_context_destroy(sae_context *ctx) {
    if (!ctx) return;
    saei_free(ctx, ctx->blocks);
    ctx->allocator.free(ctx, ctx->allocator.user);
}

/* ==== >>dictionary ================================================= src/dict/dictionary.h ==== */

/* All parameters sit in one block, latent-major, rows padded with zeros to whole vectors, so that
   an optimizer runs over one array and every per-latent job is local to a row:
     W_enc [m][ld] | W_dec [m][ld_out] | b_enc [m'] | aux0 [m'] | aux1 [m'] | b_dec [ld_out]
     | W_skip [output_dim][ld]
   with ld, ld_out, m' = d, output_dim, m rounded up to 16. b_enc is gate_bias of GATED; aux0 is
   r_mag of GATED and threshold of JUMP_RELU; aux1 is mag_bias of GATED. Arrays a class does not
   have take no room. */
typedef struct saei_prepared saei_prepared; /* >>dictionary: prepared encode */

struct sae_dictionary {
    sae_context *ctx;
    sae_dictionary_desc desc;
    sae_rule rule;        /* never DEFAULT for the classes that have a choice */
    size_t active_groups; /* MATRYOSHKA: 1..num_groups */
    size_t ld, ld_out;    /* row strides of W_enc, W_skip; of W_dec */
    float threshold;      /* scalar: TOP_K, BATCH_TOP_K, MATRYOSHKA; -1 until set */
    float *params;        /* [num_params] */
    size_t num_params;
    float *W_enc, *W_dec, *b_enc, *aux0, *aux1, *b_dec; /* into params; NULL if not there */
    float *W_skip;
    sae_origin origin;
    bool borrowed;        /* params belong to a trainer */
    saei_prepared *prepared; /* of sae_dictionary_prepare, or NULL */
};

/* ==== >>dictionary: parameters ========================================= src/dict/params.h ==== */

SAE_API const char *sae_arch_name(sae_arch arch) {
    switch (arch) {
#define SAE_X(name, value, text) case name: return text;
        SAE_ARCHS(SAE_X)
#undef SAE_X
    case SAE_ARCH_DEFAULT: break;
    }
    return "default";
}

/* An encode of rows x [n][ld] by dict; what only some selections need is left to be added. */
static sae_encode_args saei_encode_args_of(const sae_dictionary *dict, sae_select select,
                                           const float *x, size_t n) {
    sae_encode_args a;
    memset(&a, 0, sizeof a);
    a.x = x;
    a.W = dict->W_enc;
    a.bias = dict->b_enc;
    a.n = n;
    a.d = dict->desc.activation_dim;
    a.ld = dict->ld;
    a.m = dict->desc.dict_size;
    a.select = select;
    a.k = dict->desc.k;
    return a;
}

static bool saei_arch_selects(sae_arch arch) { /* has k, threshold and a rule */
    return arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA;
}

/* The input of the encoder is x - b_dec. */
static bool saei_subtracts(const sae_dictionary_desc *desc) {
    return ((desc->arch == SAE_ARCH_STANDARD || desc->arch == SAE_ARCH_GATED
             || saei_arch_selects(desc->arch))
            && !desc->no_b_dec_subtraction)
           || (desc->arch == SAE_ARCH_JUMP_RELU && desc->subtract_b_dec);
}

static size_t saei_output_dim(const sae_dictionary_desc *desc) {
    return desc->output_dim ? desc->output_dim : desc->activation_dim;
}

/* One of dictionary_learning's eight classes as it is. */
static bool saei_is_plain(const sae_dictionary_desc *desc) {
    return !desc->no_b_dec_subtraction && !desc->activation && !desc->input_norm && !desc->skip
           && desc->k_fraction == 0 && saei_output_dim(desc) == desc->activation_dim;
}

/* The variations of desc that its class does not have. */
static sae_result saei_variations_check(const sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc) {
    const sae_arch arch = desc->arch;
    const char *name = sae_arch_name(arch);
    bool relu = arch == SAE_ARCH_STANDARD || arch == SAE_ARCH_STANDARD_NEW;
    if (desc->activation < SAE_ACTIVATION_POSITIVE || desc->activation > SAE_ACTIVATION_GROUP_MAX
        || (desc->activation && arch != SAE_ARCH_TOP_K
            && !(relu && desc->activation == SAE_ACTIVATION_SIGNED)))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: activation is %d, allowed are 0, with AutoEncoder and "
                         "AutoEncoderNew 1, with AutoEncoderTopK 1 to 3; arch is %s",
                         who, (int)desc->activation, name);
    if (desc->activation == SAE_ACTIVATION_GROUP_MAX && desc->dict_size % desc->k)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: k is %zu, group max needs a divisor of dict_size, "
                         "%zu",
                         who, desc->k, desc->dict_size);
    if (desc->k_fraction != 0
        && (!(desc->k_fraction > 0 && desc->k_fraction < 1)
            || (arch != SAE_ARCH_BATCH_TOP_K && arch != SAE_ARCH_MATRYOSHKA)))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k_fraction is %g, allowed are 0 and, with the "
                         "batch classes, numbers below 1; arch is %s", who, desc->k_fraction, name);
    if (desc->input_norm < SAE_INPUT_NORM_NONE || desc->input_norm > SAE_INPUT_NORM_LAYER)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: input_norm is %d, allowed are 0 to %d", who,
                         (int)desc->input_norm, (int)SAE_INPUT_NORM_LAYER);
    if (desc->output_dim > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: output_dim is %zu, allowed are 0 to %d", who,
                         desc->output_dim, INT32_MAX);
    if (desc->subtract_b_dec && arch != SAE_ARCH_JUMP_RELU)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: subtract_b_dec is a field of JumpReluAutoEncoder, "
                         "arch is %s",
                         who, name);
    if (desc->no_b_dec_subtraction && (arch == SAE_ARCH_JUMP_RELU || arch == SAE_ARCH_STANDARD_NEW))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: no_b_dec_subtraction is set, but %s keeps b_dec anyway", who, name);
    if (arch == SAE_ARCH_IDENTITY && !saei_is_plain(desc))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: IdentityDict has no variations", who);
    if (saei_output_dim(desc) == desc->activation_dim) return SAE_OK;
    if (saei_subtracts(desc) || (desc->input_norm && !desc->output_normalized))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: output_dim is %zu and activation_dim %zu: x can "
                         "neither lose b_dec (no_b_dec_subtraction) nor x_hat get its norm back "
                         "(output_normalized)",
                         who, desc->output_dim, desc->activation_dim);
    return SAE_OK;
}

static sae_result saei_dictionary_check(const sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc) {
    size_t sum = 0;
    if (desc->arch < SAE_ARCH_STANDARD || desc->arch > SAE_ARCH_IDENTITY)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: arch is %d, allowed are SAE_ARCH_STANDARD (%d) to "
                         "SAE_ARCH_IDENTITY (%d)",
                         who, (int)desc->arch, (int)SAE_ARCH_STANDARD, (int)SAE_ARCH_IDENTITY);
    if (!desc->activation_dim || desc->activation_dim > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: activation_dim is %zu, allowed are 1 to %d",
                         who, desc->activation_dim, INT32_MAX);
    if (!desc->dict_size || desc->dict_size > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: dict_size is %zu, allowed are 1 to %d", who,
                         desc->dict_size, INT32_MAX);
    if (desc->arch == SAE_ARCH_IDENTITY && desc->dict_size != desc->activation_dim)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: dict_size is %zu, IdentityDict has activation_dim, %zu", who,
                         desc->dict_size, desc->activation_dim);
    if (saei_arch_selects(desc->arch) && (!desc->k || desc->k > desc->dict_size))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k is %zu, allowed are 1 to dict_size, %zu", who,
                         desc->k, desc->dict_size);
    SAEI_TRY(saei_variations_check(ctx, who, desc));
    if (desc->arch != SAE_ARCH_MATRYOSHKA && desc->num_groups)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: num_groups is %zu, only MatryoshkaBatchTopKSAE has "
                         "groups; arch is %s",
                         who, desc->num_groups, sae_arch_name(desc->arch));
    if (desc->arch != SAE_ARCH_MATRYOSHKA) return SAE_OK;
    if (!desc->num_groups || desc->num_groups > SAE_MAX_GROUPS)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: num_groups is %zu, allowed are 1 to %d", who,
                         desc->num_groups, SAE_MAX_GROUPS);
    for (size_t i = 0; i < desc->num_groups; i++) {
        if (!desc->group_sizes[i] || desc->group_sizes[i] > desc->dict_size)
            return saei_fail(ctx, SAE_ERR_INVALID, "%s: group_sizes[%zu] is %zu, allowed are 1 to "
                             "dict_size, %zu", who, i, desc->group_sizes[i], desc->dict_size);
        sum += desc->group_sizes[i];
    }
    if (sum != desc->dict_size)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: group_sizes sum to %zu, dict_size is %zu", who,
                         sum, desc->dict_size);
    return SAE_OK;
}

/* Floats of the parameter block; SIZE_MAX if there can be no such block. */
static size_t saei_param_count(const sae_dictionary_desc *desc) {
    size_t ld = saei_align16(desc->activation_dim), m = saei_align16(desc->dict_size), matrices,
           all, out = saei_output_dim(desc), ld_out = saei_align16(out), skip = 0;
    if (desc->arch == SAE_ARCH_IDENTITY) return 0;
    if (!saei_mul(desc->dict_size, ld + ld_out, &matrices)
        || !saei_add(matrices, 3 * m + ld_out, &all)
        || (desc->skip && (!saei_mul(out, ld, &skip) || !saei_add(all, skip, &all)))
        || all > SIZE_MAX / 8)
        return SIZE_MAX;
    return all - (desc->arch == SAE_ARCH_GATED ? 0 : desc->arch == SAE_ARCH_JUMP_RELU ? m : 2 * m);
}

/* Points the named arrays of dict into a block of its layout. */
static void saei_dictionary_place(sae_dictionary *dict, float *params) {
    size_t m = saei_align16(dict->desc.dict_size);
    float *at = params;
    dict->params = params;
    dict->ld_out = saei_align16(saei_output_dim(&dict->desc));
    if (!params) return;
    dict->W_enc = at;
    at += dict->desc.dict_size * dict->ld;
    dict->W_dec = at;
    at += dict->desc.dict_size * dict->ld_out;
    dict->b_enc = at;
    at += m;
    if (dict->desc.arch == SAE_ARCH_GATED || dict->desc.arch == SAE_ARCH_JUMP_RELU) {
        dict->aux0 = at;
        at += m;
    }
    if (dict->desc.arch == SAE_ARCH_GATED) {
        dict->aux1 = at;
        at += m;
    }
    dict->b_dec = at;
    if (dict->desc.skip) dict->W_skip = at + dict->ld_out;
}

/* All parameters to 0, but not the rows of W_enc and W_dec, only what pads them. */
static void saei_dictionary_clear_rest(sae_dictionary *dict) {
    const size_t m = dict->desc.dict_size, matrices = m * (dict->ld + dict->ld_out);
    const size_t d = dict->desc.activation_dim, out = dict->desc.output_dim;
    if (!dict->params) return;
    for (size_t i = 0; i < m && d < dict->ld; i++)
        memset(dict->W_enc + i * dict->ld + d, 0, (dict->ld - d) * sizeof(float));
    for (size_t i = 0; i < m && out < dict->ld_out; i++)
        memset(dict->W_dec + i * dict->ld_out + out, 0, (dict->ld_out - out) * sizeof(float));
    memset(dict->params + matrices, 0, (dict->num_params - matrices) * sizeof(float));
}

/* saei_dictionary_new, but for the rows of W_enc and W_dec, which the caller fills: a large one
   costs as much to clear as to copy. */
static sae_result saei_dictionary_unset(sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc, sae_dictionary **out) {
    sae_dictionary *dict;
    float *params = NULL;
    size_t count;
    SAEI_TRY(saei_dictionary_check(ctx, who, desc));
    count = saei_param_count(desc);
    dict = (sae_dictionary *)saei_calloc(ctx, 1, sizeof *dict);
    if (dict && count) params = (float *)saei_alloc(ctx, count, sizeof(float));
    if (!dict || (count && !params)) {
        saei_free(ctx, dict);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for a dictionary of %zu latents of "
                         "%zu dimensions",
                         who, desc->dict_size, desc->activation_dim);
    }
    dict->ctx = ctx;
    dict->desc = *desc;
    dict->desc.output_dim = saei_output_dim(desc);
    dict->ld = saei_align16(desc->activation_dim);
    dict->num_params = count;
    dict->threshold = saei_arch_selects(desc->arch) ? -1.0f : 0.0f;
    dict->rule = desc->arch == SAE_ARCH_TOP_K ? SAE_RULE_TOP_K
                 : saei_arch_selects(desc->arch) ? SAE_RULE_THRESHOLD : SAE_RULE_DEFAULT;
    dict->active_groups = desc->num_groups;
    dict->origin.layer = -1;
    dict->origin.dict_size = desc->dict_size;
    dict->origin.k = desc->k;
    saei_dictionary_place(dict, params);
    saei_dictionary_clear_rest(dict);
    *out = dict;
    return SAE_OK;
}

/* Allocates with all parameters zero, threshold -1. Checks desc as sae_dictionary_create does;
   `who` is the function named in messages. */
static sae_result saei_dictionary_new(sae_context *ctx, const char *who,
                                      const sae_dictionary_desc *desc, sae_dictionary **out) {
    SAEI_TRY(saei_dictionary_unset(ctx, who, desc, out));
    if ((*out)->params) memset((*out)->params, 0, (*out)->num_params * sizeof(float));
    return SAE_OK;
}

static sae_result saei_dictionary_copy(const sae_dictionary *dict, const char *who,
                                       sae_dictionary **out) {
    sae_dictionary *copy = NULL;
    SAEI_TRY(saei_dictionary_unset(dict->ctx, who, &dict->desc, &copy));
    if (dict->num_params) memcpy(copy->params, dict->params, dict->num_params * sizeof(float));
    copy->threshold = dict->threshold;
    copy->rule = dict->rule;
    copy->active_groups = dict->active_groups;
    copy->origin = dict->origin;
    *out = copy;
    return SAE_OK;
}

/* Rows of W_dec drawn, brought to the class's norm, and copied to W_enc (as far as they go, where
   output_dim differs); W_skip is 0. All classes but STANDARD and GATED draw uniformly; the draw's
   width does not matter, as the norms are set after it. */
static void saei_dictionary_init_part(void *arg, size_t part) {
    sae_dictionary *dict = (sae_dictionary *)arg;
    const sae_dictionary_desc *h = &dict->desc;
    bool normal = h->arch == SAE_ARCH_STANDARD || h->arch == SAE_ARCH_STANDARD_NEW
                  || h->arch == SAE_ARCH_GATED;
    float length = normal && h->arch != SAE_ARCH_GATED ? 0.1f : 1.0f;
    size_t d = h->output_dim, end = saei_min((part + 1) * 64, h->dict_size);
    saei_random random = saei_random_of(h->seed, SAEI_STREAM_INIT);
    for (size_t i = part * 64; i < end; i++) {
        float *row = dict->W_dec + i * dict->ld_out, norm;
        for (size_t c = 0; c < d; c++) {
            uint64_t draw = (uint64_t)i * d + c;
            row[c] = (float)(normal ? saei_random_normal(&random, draw)
                                    : 2 * saei_random_uniform(&random, draw) - 1);
        }
        norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        for (size_t c = 0; c < d; c++) row[c] = row[c] / norm * length;
        memcpy(dict->W_enc + i * dict->ld, row, saei_min(d, h->activation_dim) * sizeof *row);
    }
}

static void saei_dictionary_init(sae_dictionary *dict) {
    const sae_dictionary_desc *h = &dict->desc;
    if (h->arch == SAE_ARCH_IDENTITY) return;
    saei_parallel(dict->ctx, saei_ceil_div(h->dict_size, 64), saei_dictionary_init_part, dict);
    if (h->arch == SAE_ARCH_STANDARD) { /* what torch.nn.Linear begins with; the others zero it */
        saei_random random = saei_random_of(h->seed, SAEI_STREAM_INIT_BIAS);
        double width = 1 / sqrt((double)h->activation_dim);
        for (size_t i = 0; i < h->dict_size; i++)
            dict->b_enc[i] = (float)(width * (2 * saei_random_uniform(&random, i) - 1));
    }
    if (h->arch == SAE_ARCH_JUMP_RELU)
        for (size_t i = 0; i < h->dict_size; i++) dict->aux0[i] = 0.001f;
}

SAE_API sae_result sae_dictionary_create(sae_context *ctx, const sae_dictionary_desc *desc,
                                         sae_dictionary **out) {
    sae_dictionary *dict = NULL;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_dictionary_create: %s is NULL",
                         desc ? "out" : "desc");
    SAEI_TRY(saei_dictionary_new(ctx, "sae_dictionary_create", desc, &dict));
    saei_dictionary_init(dict);
    *out = dict;
    return SAE_OK;
}

static void saei_prepared_drop(sae_dictionary *dict) {
    saei_free(dict->ctx, dict->prepared);
    dict->prepared = NULL;
}

SAE_API void sae_dictionary_destroy(sae_dictionary *dict) {
    if (!dict || dict->borrowed) return;
    saei_prepared_drop(dict);
    saei_free(dict->ctx, dict->params);
    saei_free(dict->ctx, dict);
}

SAE_API const sae_dictionary_desc *sae_dictionary_get_desc(const sae_dictionary *dict) {
    return &dict->desc;
}

SAE_API const sae_origin *sae_dictionary_origin(const sae_dictionary *dict) {
    return &dict->origin;
}

SAE_API sae_result sae_dictionary_set_rule(sae_dictionary *dict, sae_rule rule) {
    if (!dict) return SAE_ERR_INVALID;
    if (rule < SAE_RULE_DEFAULT || rule > SAE_RULE_THRESHOLD
        || (rule != SAE_RULE_DEFAULT && !saei_arch_selects(dict->desc.arch)))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_set_rule: rule is %d; only the "
                         "top-k classes have a choice (1 top_k, 2 threshold), this is %s",
                         (int)rule, sae_arch_name(dict->desc.arch));
    if (rule == SAE_RULE_THRESHOLD && dict->desc.activation)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_set_rule: rule is 2 (threshold), "
                         "signed latents and group max have none");
    if (rule == SAE_RULE_DEFAULT && saei_arch_selects(dict->desc.arch))
        rule = dict->desc.arch == SAE_ARCH_TOP_K ? SAE_RULE_TOP_K : SAE_RULE_THRESHOLD;
    if (rule != dict->rule) saei_prepared_drop(dict);
    dict->rule = rule;
    return SAE_OK;
}

SAE_API sae_rule sae_dictionary_rule(const sae_dictionary *dict) { return dict->rule; }

SAE_API sae_result sae_dictionary_set_active_groups(sae_dictionary *dict, size_t active_groups) {
    if (!dict) return SAE_ERR_INVALID;
    if (active_groups > dict->desc.num_groups)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_set_active_groups: active_groups is "
                         "%zu, allowed are 0 (all) to %zu",
                         active_groups, dict->desc.num_groups);
    dict->active_groups = active_groups ? active_groups : dict->desc.num_groups;
    return SAE_OK;
}

SAE_API float sae_dictionary_threshold(const sae_dictionary *dict) { return dict->threshold; }

SAE_API const float *sae_dictionary_decoder_row(const sae_dictionary *dict, size_t latent) {
    if (!dict || !dict->W_dec || latent >= dict->desc.dict_size) return NULL;
    return dict->W_dec + latent * dict->ld_out;
}
SAE_API const float *sae_dictionary_encoder_row(const sae_dictionary *dict, size_t latent) {
    return dict && dict->W_enc && latent < dict->desc.dict_size ? dict->W_enc + latent * dict->ld
                                                                : NULL;
}

SAE_API sae_result sae_dictionary_scale_biases(sae_dictionary *dict, float scale) {
    size_t m;
    if (!dict) return SAE_ERR_INVALID;
    if (!(scale > 0) || scale > FLT_MAX)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_scale_biases: scale is %g, allowed "
                         "are finite numbers above 0",
                         (double)scale);
    if (dict->desc.input_norm)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "sae_dictionary_scale_biases: the dictionary "
                         "has an input_norm, which takes rows of any scale already");
    m = dict->desc.dict_size;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) return SAE_OK;
    saei_prepared_drop(dict);
    for (size_t i = 0; i < m; i++) dict->b_enc[i] *= scale;
    for (size_t c = 0; c < saei_output_dim(&dict->desc); c++) dict->b_dec[c] *= scale;
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU)
        for (size_t i = 0; i < m; i++) dict->aux0[i] *= scale;
    if (dict->desc.arch == SAE_ARCH_GATED)
        for (size_t i = 0; i < m; i++) dict->aux1[i] *= scale; /* r_mag is no bias */
    if (saei_arch_selects(dict->desc.arch) && dict->threshold >= 0) dict->threshold *= scale;
    return SAE_OK;
}

/* Work over all latents in parts of 64. */
enum { SAEI_PART_LATENTS = 64 };
static void saei_each_latent(const sae_dictionary *dict, saei_part_fn fn, void *arg) {
    saei_parallel(dict->ctx, saei_ceil_div(dict->desc.dict_size, SAEI_PART_LATENTS), fn, arg);
}

typedef struct saei_unit_job {
    const sae_dictionary *dict;
    int lock;
    bool found; /* a row of another norm */
} saei_unit_job;

static void saei_unit_part(void *arg, size_t part) {
    saei_unit_job *job = (saei_unit_job *)arg;
    const sae_dictionary *dict = job->dict;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    bool close = true;
    for (; i < end && close; i++) {
        const float *row = dict->W_dec + i * dict->ld_out;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        close = fabsf(norm - 1) <= 1e-8f + 1e-5f;
    }
    if (close) return;
    saei_lock(&job->lock);
    job->found = true;
    saei_unlock(&job->lock);
}

static bool saei_decoder_is_unit(const sae_dictionary *dict) {
    saei_unit_job job = { dict, 0, false };
    saei_each_latent(dict, saei_unit_part, &job);
    return !job.found;
}

static void saei_fold_decoder_part(void *arg, size_t part) {
    sae_dictionary *dict = (sae_dictionary *)arg;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    for (; i < end; i++) {
        float *dec = dict->W_dec + i * dict->ld_out, *enc = dict->W_enc + i * dict->ld;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, dec, dec));
        if (!(norm > 0)) continue; /* a latent without direction stays without effect */
        dict->ctx->kernels->divide(dict->ld_out, dec, norm, dec);
        dict->ctx->kernels->scale(dict->ld, norm, enc, enc);
        dict->b_enc[i] *= norm;
        if (dict->desc.arch == SAE_ARCH_JUMP_RELU) dict->aux0[i] *= norm;
        if (dict->desc.arch == SAE_ARCH_GATED) dict->aux1[i] *= norm;
    }
}

/* W_dec rows to norm 1, the norms moved into the encoder: f_i becomes f_i norm_i, x_hat stays
   (but for choices among latents, as top-k, that compare the new f). */
static void saei_fold_decoder_norms(sae_dictionary *dict) {
    saei_prepared_drop(dict);
    saei_each_latent(dict, saei_fold_decoder_part, dict);
}

SAE_API sae_result sae_dictionary_normalize_decoder(sae_dictionary *dict) {
    if (!dict) return SAE_ERR_INVALID;
    if (dict->desc.arch == SAE_ARCH_STANDARD && !saei_decoder_is_unit(dict))
        saei_fold_decoder_norms(dict);
    return SAE_OK;
}

/* ==== >>dictionary: tensors =========================================== src/dict/tensors.h ==== */

enum { SAEI_DICTIONARY_TENSORS = 8 }; /* at most */

/* The next of the list: [rows,cols] with rows ld apart, [cols] where rows is 0, one number where
   cols is 0, too. */
static void saei_tensor_add(sae_tensor *list, size_t *count, const char *name, const void *data,
                            size_t rows, size_t cols, size_t ld) {
    sae_tensor *t = &list[(*count)++];
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = SAE_F32;
    t->data = data;
    if (rows) {
        t->shape[t->ndim] = rows;
        t->stride[t->ndim++] = (int64_t)ld;
    }
    if (!cols) return;
    t->shape[t->ndim] = cols;
    t->stride[t->ndim++] = 1;
}

/* All of a dictionary, where they lie; how many. */
static size_t saei_dictionary_tensors(const sae_dictionary *dict,
                                      sae_tensor list[SAEI_DICTIONARY_TENSORS]) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t count = 0, d = h->activation_dim, m = h->dict_size, out = saei_output_dim(h);
    bool gated = h->arch == SAE_ARCH_GATED;
    if (!dict->params) return 0;
    saei_tensor_add(list, &count, "W_enc", dict->W_enc, m, d, dict->ld);
    saei_tensor_add(list, &count, "W_dec", dict->W_dec, m, out, dict->ld_out);
    saei_tensor_add(list, &count, gated ? "gate_bias" : "b_enc", dict->b_enc, 0, m, 0);
    saei_tensor_add(list, &count, "b_dec", dict->b_dec, 0, out, 0);
    if (gated) saei_tensor_add(list, &count, "r_mag", dict->aux0, 0, m, 0);
    if (gated) saei_tensor_add(list, &count, "mag_bias", dict->aux1, 0, m, 0);
    if (h->arch == SAE_ARCH_JUMP_RELU)
        saei_tensor_add(list, &count, "threshold", dict->aux0, 0, m, 0);
    if (dict->W_skip) saei_tensor_add(list, &count, "W_skip", dict->W_skip, out, d, dict->ld);
    if (!saei_arch_selects(h->arch)) return count;
    saei_tensor_add(list, &count, "threshold", &dict->threshold, 0, 0, 0);
    saei_tensor_add(list, &count, "k", &h->k, 0, 0, 0);
    list[count - 1].dtype = sizeof h->k == 8 ? SAE_U64 : SAE_U32;
    return count;
}

SAE_API size_t sae_dictionary_num_tensors(const sae_dictionary *dict) {
    sae_tensor list[SAEI_DICTIONARY_TENSORS];
    return dict ? saei_dictionary_tensors(dict, list) : 0;
}

SAE_API bool sae_dictionary_get_tensor(const sae_dictionary *dict, size_t index, sae_tensor *out) {
    sae_tensor list[SAEI_DICTIONARY_TENSORS];
    if (!dict || !out || index >= saei_dictionary_tensors(dict, list)) return false;
    *out = list[index];
    return true;
}

static sae_result saei_dictionary_find(const sae_dictionary *dict, const char *who,
                                       const char *name, sae_tensor *out) {
    sae_tensor list[SAEI_DICTIONARY_TENSORS];
    size_t count = saei_dictionary_tensors(dict, list);
    char names[128] = "none";
    for (size_t i = 0, at = 0; i < count; i++) {
        if (!strcmp(list[i].name, name)) {
            *out = list[i];
            return SAE_OK;
        }
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", list[i].name);
    }
    return saei_fail(dict->ctx, SAE_ERR_NOT_FOUND, "%s: name is \"%.40s\", %s has %s", who, name,
                     sae_arch_name(dict->desc.arch), names);
}

SAE_API sae_result sae_dictionary_find_tensor(const sae_dictionary *dict, const char *name,
                                              sae_tensor *out) {
    if (!dict) return SAE_ERR_INVALID;
    if (!name || !out)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_find_tensor: %s is NULL",
                         name ? "out" : "name");
    return saei_dictionary_find(dict, "sae_dictionary_find_tensor", name, out);
}

static sae_result saei_dictionary_set_k(sae_dictionary *dict, float value) {
    sae_dictionary_desc desc = dict->desc;
    if (!(value >= 1 && value <= (float)desc.dict_size) || value != (float)(size_t)value)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_set_tensor: k is %g, allowed "
                         "are whole numbers from 1 to dict_size, %zu", (double)value,
                         desc.dict_size);
    desc.k = (size_t)value;
    SAEI_TRY(saei_dictionary_check(dict->ctx, "sae_dictionary_set_tensor", &desc));
    saei_prepared_drop(dict);
    dict->desc.k = desc.k;
    if (!dict->origin.format) dict->origin.k = desc.k;
    return SAE_OK;
}

SAE_API sae_result sae_dictionary_set_tensor(sae_dictionary *dict, const char *name,
                                             const float *values, size_t count) {
    sae_tensor t;
    size_t rows, cols, ld;
    float *to;
    if (!dict) return SAE_ERR_INVALID;
    if (!name || !values)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_set_tensor: %s is NULL",
                         name ? "values" : "name");
    SAEI_TRY(saei_dictionary_find(dict, "sae_dictionary_set_tensor", name, &t));
    cols = t.ndim ? (size_t)t.shape[t.ndim - 1] : 1;
    rows = t.ndim == 2 ? (size_t)t.shape[0] : 1;
    ld = t.ndim == 2 ? (size_t)t.stride[0] : cols;
    if (count != rows * cols)
        return saei_fail(dict->ctx, SAE_ERR_MISMATCH,
                         "sae_dictionary_set_tensor: count is %zu, %s has %zu numbers", count, name,
                         rows * cols);
    if (t.dtype != SAE_F32) return saei_dictionary_set_k(dict, *values);
    saei_prepared_drop(dict);
    to = (float *)(uintptr_t)t.data; /* dict's own */
    for (size_t r = 0; r < rows; r++) memcpy(to + r * ld, values + r * cols, cols * sizeof *to);
    return SAE_OK;
}

SAE_API sae_result sae_dictionary_copy(const sae_dictionary *dict, sae_dictionary **out) {
    if (!dict) return SAE_ERR_INVALID;
    if (!out) return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_dictionary_copy: out is NULL");
    return saei_dictionary_copy(dict, "sae_dictionary_copy", out);
}

SAE_API sae_result sae_dictionary_memory(const sae_dictionary_desc *desc, size_t *bytes) {
    size_t count;
    if (!desc || !bytes) return SAE_ERR_INVALID;
    SAEI_TRY(saei_dictionary_check(NULL, "sae_dictionary_memory", desc));
    count = saei_param_count(desc);
    if (count == SIZE_MAX) return SAE_ERR_INVALID;
    *bytes = SAEI_ALLOC_EXTRA + sizeof(sae_dictionary);
    if (count) *bytes += SAEI_ALLOC_EXTRA + count * sizeof(float);
    return SAE_OK;
}

/* ==== >>dictionary: pre-activations ===================================== src/dict/infer.h ==== */

/* What the parts of one inference call share. */
typedef struct saei_infer {
    const sae_dictionary *dict;
    sae_rows x;            /* defaults set */
    const float *W;        /* NULL: W_enc; or W_skip, with x raw */
    size_t n, count;       /* rows; latents looked at */
    const uint32_t *list;  /* NULL: all */
    bool top_k;            /* leave relu(p) for a selection that follows: */
    size_t k;              /* of each row; 0: the batch's, by the caller */
    float *dense;          /* [n,count], or NULL */
    sae_sparse *sparse;    /* or NULL */
    size_t share;          /* sparse: row r writes to [r*share, (r+1)*share); top_k: k */
    bool exact;            /* sparse: row_begin[r] is known, write there */
    float *x_hat;          /* forward without f */
} saei_infer;

/* Float rows as *out; NULL where x is. */
static const sae_rows *saei_rows_of(const float *x, sae_rows *out) {
    memset(out, 0, sizeof *out);
    out->data = x;
    return x ? out : NULL;
}

static const unsigned char *saei_rows_at(const sae_rows *x, size_t r, size_t c) {
    return (const unsigned char *)x->data + (r * x->stride + c) * sae_dtype_size(x->dtype);
}

/* Columns c .. c + n of row r as float32: where they lie, or in out. */
static const float *saei_row_floats(const sae_rows *x, size_t r, size_t c, size_t n, float *out) {
    const unsigned char *at = saei_rows_at(x, r, c);
    if (x->dtype == SAE_F32) return (const float *)(const void *)at;
    saei_convert_row(x->dtype, at, 2, n, out);
    return out;
}

/* DEVIATION: a row of zeros stays one under CONSTANT, where SAELens divides 0 by 0. */
static saei_norm saei_row_norm(const sae_dictionary *dict, const sae_rows *x, size_t r) {
    enum { COLUMNS = 64 };
    size_t d = dict->desc.activation_dim;
    bool layer = dict->desc.input_norm == SAE_INPUT_NORM_LAYER;
    double sums[2] = { 0, 0 }, mean = 0; /* of x, of (x - mean)^2 */
    float own[COLUMNS];
    saei_norm norm = { 0, 1, 1 };
    if (!dict->desc.input_norm) return norm;
    for (size_t pass = layer ? 0 : 1; pass < 2; pass++) {
        for (size_t c = 0; c < d; c += COLUMNS) {
            size_t n = saei_min(COLUMNS, d - c);
            const float *v = saei_row_floats(x, r, c, n, own);
            for (size_t i = 0; !pass && i < n; i++) sums[0] += (double)v[i];
            for (size_t i = 0; pass && i < n; i++)
                sums[1] += ((double)v[i] - mean) * ((double)v[i] - mean);
        }
        mean = sums[0] / (double)d;
    }
    if (layer) {
        norm.shift = (float)mean;
        norm.scale = d > 1 ? (float)sqrt(sums[1] / (double)(d - 1)) : 0;
        norm.divisor = norm.scale + 1e-5f;
    } else {
        norm.scale = (float)sqrt(sums[1] / (double)d);
        if (norm.scale != 0) norm.divisor = norm.scale;
    }
    return norm;
}

/* The norms of a block of rows, once for all its panels. */
static void saei_infer_norms(const saei_infer *q, size_t r0, size_t rows, saei_norm *norms) {
    for (size_t r = 0; q->dict->desc.input_norm && r < rows; r++)
        norms[r] = saei_row_norm(q->dict, &q->x, r0 + r);
}

/* Columns c .. c + n of row r as the product takes them: where they lie, or in out. W_skip takes
   rows as they are. norm: of the row, where the dictionary has an input_norm. */
static const float *saei_infer_row(const saei_infer *q, size_t r, size_t c, size_t n,
                                   const saei_norm *norm, float *out) {
    const sae_dictionary *dict = q->dict;
    const float *x = saei_row_floats(&q->x, r, c, n, out);
    if (q->W) return x;
    if (dict->desc.input_norm) {
        for (size_t k = 0; k < n; k++) out[k] = (x[k] - norm->shift) / norm->divisor;
        x = out;
    }
    if (!saei_subtracts(&dict->desc)) return x;
    dict->ctx->kernels->axpy(n, -1, dict->b_dec + c, x, out);
    return out;
}

/* saei_infer_product of so few rows that packing would not pay. */
static void saei_infer_few(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                           size_t first, size_t count) {
    const sae_dictionary *dict = q->dict;
    const float *W = q->W ? q->W : dict->W_enc;
    size_t d = dict->desc.activation_dim, most = room->depth * SAEI_PANEL;
    uint32_t list[SAEI_PANEL];
    if (q->x.dtype == SAE_F32 && (q->W || (!dict->desc.input_norm && !saei_subtracts(&dict->desc))))
        most = d;
    for (size_t j = 0; j < count; j++)
        list[j] = q->list ? q->list[first + j] : (uint32_t)(first + j);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < d; c += most) {
            size_t n = saei_min(most, d - c);
            const float *x = saei_infer_row(q, r0 + r, c, n, &room->norms[r], room->panel);
            dict->ctx->kernels->products(n, x, count, list, W + c, dict->ld, c > 0,
                                         room->product + r * SAEI_PANEL);
        }
}

/* room->product [rows][48] = W_enc (x or x - b_dec) of rows r0 on, for up to 48 latents from
   `first`, in the product order. room->norms: of the rows. */
static void saei_infer_product(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                               size_t first, size_t count) {
    const sae_dictionary *dict = q->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    const float *W = q->W ? q->W : dict->W_enc;
    size_t d = dict->desc.activation_dim;
    if (rows * 2 <= SAEI_TILE_ROWS) {
        saei_infer_few(q, room, r0, rows, first, count);
        return;
    }
    for (size_t c = 0; c < d; c += room->depth) {
        size_t depth = saei_min(room->depth, d - c);
        saei_pack_panel(kernels, W + c, dict->ld, depth, q->list, first, count, room->panel);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *at[SAEI_TILE_ROWS], *last = room->centred;
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++) {
                if (g + i < rows)
                    last = saei_infer_row(q, r0 + g + i, c, depth, &room->norms[g + i],
                                          room->centred + i * room->depth);
                at[i] = last; /* past the rows: the last of them again */
            }
            kernels->tile(at, room->panel, depth, c > 0, room->product + g * SAEI_PANEL);
        }
    }
}

static bool saei_is_signed(const sae_dictionary_desc *desc) {
    return desc->activation == SAE_ACTIVATION_SIGNED
           || desc->activation == SAE_ACTIVATION_MAGNITUDE;
}

/* f of one latent from its product with x; top_k leaves the selection to the caller. */
static float saei_infer_value(const sae_dictionary *dict, size_t i, float product, bool top_k) {
    float p = product + dict->b_enc[i];
    switch (dict->desc.arch) {
    case SAE_ARCH_GATED:
        return p > 0 ? saei_gate_value((float)saei_exp(dict->aux0[i]), product, dict->aux1[i]) : 0;
    case SAE_ARCH_JUMP_RELU: return p > dict->aux0[i] && p > 0 ? p : 0;
    case SAE_ARCH_TOP_K:
    case SAE_ARCH_BATCH_TOP_K:
    case SAE_ARCH_MATRYOSHKA:
        if (saei_is_signed(&dict->desc)) return p;
        if (!top_k && !(p > dict->threshold)) return 0;
        return p > 0 ? p : 0;
    case SAE_ARCH_STANDARD:
    case SAE_ARCH_STANDARD_NEW:
    case SAE_ARCH_IDENTITY:
    case SAE_ARCH_DEFAULT: break;
    }
    return p > 0 || saei_is_signed(&dict->desc) ? p : 0;
}

/* The first latent past the active groups. */
static size_t saei_active_latents(const sae_dictionary *dict) {
    size_t end = 0;
    if (dict->desc.arch != SAE_ARCH_MATRYOSHKA) return dict->desc.dict_size;
    for (size_t g = 0; g < dict->active_groups; g++) end += dict->desc.group_sizes[g];
    return end;
}

/* saei_infer_value of a panel, GATED apart: f = p > cut ? p : 0 with p = product + bias. */
static void saei_infer_cuts(const saei_infer *q, size_t first, size_t count, float *bias,
                            float *cut) {
    const sae_dictionary *dict = q->dict;
    size_t active = saei_active_latents(dict);
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        size_t i = q->list ? q->list[first + saei_min(j, count - 1)]
                           : first + saei_min(j, count - 1);
        float theta = dict->desc.arch == SAE_ARCH_JUMP_RELU ? dict->aux0[i]
                      : saei_arch_selects(dict->desc.arch) && !q->top_k ? dict->threshold : 0;
        bias[j] = dict->b_enc[i];
        cut[j] = theta < 0 ? 0 : theta;
        if (i >= active && !q->top_k) cut[j] = HUGE_VALF;
    }
}

/* ==== >>dictionary: top-k of rows ======================================= src/dict/top_k.h ==== */

/* [latent, value] as a heap whose root is the worst: the smallest value, of equals the highest
   latent. */
static bool saei_heap_worse(uint32_t la, float va, uint32_t lb, float vb) {
    return va < vb || (va == vb && la > lb);
}

static void saei_heap_sink(uint32_t *latent, float *value, size_t size, size_t at) {
    uint32_t l = latent[at];
    float v = value[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size
            && saei_heap_worse(latent[child + 1], value[child + 1], latent[child], value[child]))
            child++;
        if (!saei_heap_worse(latent[child], value[child], l, v)) break;
        latent[at] = latent[child];
        value[at] = value[child];
        at = child;
    }
    latent[at] = l;
    value[at] = v;
}

/* Sorts by latent, in place: a heap again, the highest latent at its root. */
static void saei_sort_by_latent(uint32_t *latent, float *value, size_t size) {
    size_t start = size / 2, end = size;
    while (end > 1) {
        size_t at;
        uint32_t l;
        float v;
        if (start) start--;
        else {
            end--;
            l = latent[0];
            v = value[0];
            latent[0] = latent[end];
            value[0] = value[end];
            latent[end] = l;
            value[end] = v;
        }
        l = latent[start];
        v = value[start];
        for (at = start;;) {
            size_t child = 2 * at + 1;
            if (child >= end) break;
            if (child + 1 < end && latent[child + 1] > latent[child]) child++;
            if (latent[child] <= l) break;
            latent[at] = latent[child];
            value[at] = value[child];
            at = child;
        }
        latent[at] = l;
        value[at] = v;
    }
}

/* Adds an entry to the list of the k largest, *held of them: a heap as soon as it is full. */
static void saei_heap_add(uint32_t *latent, float *value, size_t k, size_t *held, uint32_t l,
                          float v) {
    size_t at = *held;
    if (at < k) {
        latent[at] = l;
        value[at] = v;
        *held = at + 1;
        for (at = k / 2; *held == k && at-- > 0; ) saei_heap_sink(latent, value, k, at);
    } else if (v > value[0]) {
        latent[0] = l;
        value[0] = v;
        saei_heap_sink(latent, value, k, 0);
    }
}

/* Rows of a TOP_K dictionary into [r*k, r*k + count), count to row_begin[r + 1]. */
static void saei_infer_top_rows(const saei_infer *q, const saei_room *room, size_t r0,
                                size_t rows) {
    const saei_kernels *kernels = q->dict->ctx->kernels;
    size_t k = q->k, *held = room->found, above;
    float bias[SAEI_PANEL];
    memset(held, 0, rows * sizeof *held);
    memset(bias, 0, sizeof bias);
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        memcpy(bias, q->dict->b_enc + first, count * sizeof *bias);
        for (size_t r = 0; r < rows; r++) {
            uint32_t *latent = q->sparse->latent + (r0 + r) * k;
            float *value = q->sparse->value + (r0 + r) * k;
            float f[SAEI_PANEL + SAEI_LIST_PADDING];
            uint32_t at[SAEI_PANEL + SAEI_LIST_PADDING];
            above = kernels->keep_above(room->product + r * SAEI_PANEL, bias, false, count,
                                        held[r] == k ? value[0] : 0, (uint32_t)first, at, f, 0,
                                        SAEI_PANEL + SAEI_LIST_PADDING, NULL);
            for (size_t j = 0; j < above; j++)
                saei_heap_add(latent, value, k, &held[r], at[j], f[j]);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        saei_sort_by_latent(q->sparse->latent + (r0 + r) * k, q->sparse->value + (r0 + r) * k,
                            held[r]);
        q->sparse->row_begin[r0 + r + 1] = held[r];
    }
}

/* A number that orders p as SIGNED (0: NaN) or MAGNITUDE chooses. -0 is 0. */
static uint32_t saei_varied_key(sae_activation kind, float p) {
    uint32_t bits = saei_float_bits(p + 0.0f);
    if (p != p) return 0;
    if (kind == SAE_ACTIVATION_MAGNITUDE) return bits & 0x7FFFFFFFu;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Row r's list [latent, value] of varied choices, *held of at most k, gets a panel's values. */
static void saei_infer_varied_panel(const saei_infer *q, size_t first, size_t count,
                                    const float *product, uint32_t *latent, float *value,
                                    size_t *held) {
    const sae_activation kind = q->dict->desc.activation;
    size_t k = q->k, group = q->count / k;
    for (size_t j = 0; j < count; j++) {
        size_t i = first + j;
        float f = saei_infer_value(q->dict, i, product[j], true);
        uint32_t name = (uint32_t)i << 1 | (f < 0);
        if (kind == SAE_ACTIVATION_MAGNITUDE) f = fabsf(f);
        if (kind == SAE_ACTIVATION_GROUP_MAX) {
            bool opens = i % group == 0;
            if (!opens && !(f > value[*held - 1])) continue;
            *held += opens;
            latent[*held - 1] = name;
            value[*held - 1] = f;
        } else if (f == f) saei_heap_add(latent, value, k, held, name, f);
    }
}

/* The same for signed latents and group max. The heap holds keys that compare as the choice does,
   |p| or p; the lowest bit of a latent is then the sign of p. */
static void saei_infer_varied_rows(const saei_infer *q, const saei_room *room, size_t r0,
                                   size_t rows) {
    const sae_activation kind = q->dict->desc.activation;
    size_t k = q->k, *held = room->found;
    memset(held, 0, rows * sizeof *held);
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++)
            saei_infer_varied_panel(q, first, count, room->product + r * SAEI_PANEL,
                                    q->sparse->latent + (r0 + r) * k,
                                    q->sparse->value + (r0 + r) * k, &held[r]);
    }
    for (size_t r = 0; r < rows; r++) {
        uint32_t *latent = q->sparse->latent + (r0 + r) * k;
        float *value = q->sparse->value + (r0 + r) * k;
        size_t kept = 0;
        if (kind != SAE_ACTIVATION_GROUP_MAX) saei_sort_by_latent(latent, value, held[r]);
        for (size_t j = 0; j < held[r]; j++) {
            if (value[j] == 0) continue;
            value[kept] = kind == SAE_ACTIVATION_MAGNITUDE && latent[j] & 1 ? -value[j] : value[j];
            latent[kept++] = latent[j] >> 1;
        }
        q->sparse->row_begin[r0 + r + 1] = kept;
    }
}

/* Keeps of each row of p [n,m] what the signed choices and group max keep. */
static void saei_dense_varied_row(const saei_infer *q, size_t r) {
    const sae_activation kind = q->dict->desc.activation;
    size_t m = q->count, k = q->k, group = m / k;
    float *f = q->dense + r * m;
    uint64_t lo = 0, hi = (uint64_t)1 << 32; /* the k-th largest key is in [lo, hi) */
    size_t above = 0;
    for (size_t g = 0; kind == SAE_ACTIVATION_GROUP_MAX && g < m; g += group) {
        size_t best = g;
        for (size_t i = g + 1; i < g + group; i++)
            if (f[i] > f[best]) best = i;
        for (size_t i = g; i < g + group; i++)
            if (i != best) f[i] = 0;
    }
    if (kind == SAE_ACTIVATION_GROUP_MAX) return;
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        size_t count = 0;
        for (size_t i = 0; i < m; i++) count += saei_varied_key(kind, f[i]) >= mid;
        if (count >= k) lo = mid;
        else hi = mid;
    }
    for (size_t i = 0; i < m; i++) above += saei_varied_key(kind, f[i]) > lo;
    for (size_t i = 0; i < m; i++) {
        uint32_t key = saei_varied_key(kind, f[i]);
        if (key == lo && above < k) above++;
        else if (key <= lo) f[i] = 0;
    }
}

/* Keeps the k largest of row r of relu(p) [n,m], ties to the lower index: the k-th value is
   found by halving the range of its bits. */
static void saei_dense_top_row(const saei_infer *q, size_t r) {
    size_t m = q->count, k = q->k;
    float *f = q->dense + r * m;
    uint32_t lo = 0, hi = 0x7F800000u; /* the k-th largest has bits in [lo, hi] */
    size_t above = 0;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        size_t count = q->dict->ctx->kernels->count_from(f, m, saei_bits_float(mid));
        if (count >= k) lo = mid;
        else hi = mid - 1;
    }
    for (size_t i = 0; i < m; i++) above += saei_float_bits(f[i]) > lo;
    for (size_t i = 0; i < m; i++) {
        uint32_t bits = saei_float_bits(f[i]);
        if (bits == lo && above < k) above++;
        else if (bits <= lo) f[i] = 0;
    }
}

/* ==== >>dictionary: encode rows ========================================== src/dict/rows.h ==== */
/* What is not 0 of a panel's f to row r's list, while it has room. */
static void saei_infer_append(const saei_infer *q, size_t r, size_t first, size_t count,
                              const float *f, size_t *found) {
    uint32_t latent[SAEI_PANEL + SAEI_LIST_PADDING];
    float value[SAEI_PANEL + SAEI_LIST_PADDING];
    size_t kept = 0;
    size_t at = (q->exact ? q->sparse->row_begin[r] : r * q->share) + *found;
    size_t room = q->exact ? SAEI_PANEL : *found < q->share ? q->share - *found : 0;
    if (!saei_is_signed(&q->dict->desc))
        kept = q->dict->ctx->kernels->keep_above(f, NULL, false, count, 0, (uint32_t)first, latent,
                                                 value, 0, SAEI_PANEL + SAEI_LIST_PADDING, NULL);
    else
        for (size_t j = 0; j < count; j++)
            if (f[j] != 0) {
                latent[kept] = (uint32_t)(first + j);
                value[kept++] = f[j];
            }
    for (size_t j = 0; j < kept && j < room; j++) {
        q->sparse->latent[at + j] = q->list ? q->list[latent[j]] : latent[j];
        q->sparse->value[at + j] = value[j];
    }
    *found += kept;
}

static void saei_infer_rows(const saei_infer *q, const saei_room *room, size_t r0, size_t rows) {
    float bias[SAEI_PANEL], cut[SAEI_PANEL];
    size_t *found = room->found;
    bool plain = q->dict->desc.arch != SAE_ARCH_GATED && !saei_is_signed(&q->dict->desc);
    size_t active = saei_active_latents(q->dict);
    memset(found, 0, rows * sizeof *found);
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        saei_infer_cuts(q, first, count, bias, cut);
        for (size_t r = 0; r < rows; r++) {
            const float *product = room->product + r * SAEI_PANEL;
            float f[SAEI_PANEL];
            if (plain) {
                q->dict->ctx->kernels->axpy(SAEI_PANEL, 1, product, bias, f);
                q->dict->ctx->kernels->over(SAEI_PANEL, f, cut, f);
            }
            for (size_t j = 0; !plain && j < count; j++) {
                size_t i = q->list ? q->list[first + j] : first + j;
                f[j] = saei_infer_value(q->dict, i, product[j], q->top_k);
                if (i >= active && !q->top_k) f[j] = 0;
            }
            if (q->dense) memcpy(q->dense + (r0 + r) * q->count + first, f, count * sizeof *f);
            if (q->sparse) saei_infer_append(q, r0 + r, first, count, f, &found[r]);
        }
    }
    for (size_t r = 0; q->sparse && !q->exact && r < rows; r++)
        q->sparse->row_begin[r0 + r + 1] = found[r]; /* a count, for now */
    for (size_t r = r0; q->dense && q->top_k && q->k && r < r0 + rows; r++) {
        if (q->dict->desc.activation) saei_dense_varied_row(q, r);
        else saei_dense_top_row(q, r);
    }
}

/* missing: the array that is NULL, NULL where none is; that of no rows is not missed. */
static sae_result saei_infer_check(const sae_dictionary *dict, const char *who,
                                   const char *missing, size_t n, size_t width) {
    size_t all;
    if (!dict) return SAE_ERR_INVALID;
    if (n && missing)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: %s is NULL", who, missing);
    width = saei_max(width, saei_output_dim(&dict->desc));
    if (!saei_mul(n, saei_max(width, dict->desc.activation_dim), &all) || all > SIZE_MAX / 8)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: n is %zu rows, too many to address", who,
                         n);
    return SAE_OK;
}

/* The same for a call with rows of x, missing: among its other arrays; *out is x with the defaults
   set. */
static sae_result saei_infer_check_rows(const sae_dictionary *dict, const char *who,
                                        const sae_rows *x, const char *missing, size_t n,
                                        size_t width, sae_rows *out) {
    SAEI_TRY(saei_infer_check(dict, who, !x ? "x" : !x->data ? "x.data" : missing, n, width));
    memset(out, 0, sizeof *out);
    if (x) *out = *x;
    if (!out->dtype) out->dtype = SAE_F32;
    if (!out->stride) out->stride = dict->desc.activation_dim;
    if (out->dtype > SAE_BF16 || out->dtype < SAE_F32)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: x.dtype is %d (%s), allowed are F32, F16 "
                         "and BF16", who, (int)out->dtype, sae_dtype_name(out->dtype));
    if (out->stride < dict->desc.activation_dim || (n && out->stride > SIZE_MAX / 8 / n))
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: x.stride is %zu, allowed are "
                         "activation_dim, %zu, and more that memory can hold", who, out->stride,
                         dict->desc.activation_dim);
    if (out->on_device)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: x.on_device is set, allowed are rows in "
                         "host memory; a session takes those of a device", who);
    return SAE_OK;
}

/* What is NULL of lists to be written, which are an argument called out; NULL where nothing is. */
static const char *saei_sparse_missing(const sae_sparse *out) {
    if (!out) return "out";
    if (!out->row_begin) return "out.row_begin";
    if (!out->capacity) return NULL;
    return !out->latent ? "out.latent" : !out->value ? "out.value" : NULL;
}

/* Lists of whole rows, each at its own place, moved together. */
static void saei_sparse_compact(sae_sparse *s, size_t n, size_t share) {
    size_t at = 0;
    s->row_begin[0] = 0;
    for (size_t r = 0; r < n; r++) {
        size_t count = s->row_begin[r + 1];
        if (count) {
            memmove(s->latent + at, s->latent + r * share, count * sizeof *s->latent);
            memmove(s->value + at, s->value + r * share, count * sizeof *s->value);
        }
        at += count;
        s->row_begin[r + 1] = at;
    }
}

/* ==== >>dictionary: prepared encode ================================== src/dict/prepared.h ==== */
/* The screen for inference: W_enc's int16 panels, kept with the dictionary, and one slot
   per thread, in which a block of rows is centred, screened and listed. A block without a free
   slot, or with more latents than the slot's lists hold, is encoded by the exact path, to the same
   bits; after several of the latter the screen is no longer used. See bench/RESULTS.md. */

enum {
    SAEI_PREPARED_ROWS = 64, /* of one slot */
    SAEI_PREPARED_OVERRUNS = 8
};

typedef struct saei_prepared_slot {
    bool taken;
    float warm;       /* as sae_encode_args.warm */
    float *x;         /* [SAEI_PREPARED_ROWS][ld] */
    uint32_t *count;  /* [SAEI_PREPARED_ROWS] */
    uint32_t *latent; /* [SAEI_PREPARED_ROWS][stride] */
    float *pre;       /* alike */
    double *least;    /* one */
    size_t *begin;    /* [SAEI_PREPARED_ROWS + 1] of finished lists, which start at latent, pre */
    float *top_value; /* [SAEI_PREPARED_ROWS + 1][capacity] */
    uint32_t *top_latent;
    int16_t *words;   /* [SAEI_ENCODE_ROWS][ld] */
} saei_prepared_slot;

struct saei_prepared {
    int lock;               /* of taken and overruns */
    unsigned overruns;
    size_t num_slots, stride, capacity;
    float *panels, *screen; /* as in saei_encode_room; screen: saei_screen_floats */
    uint32_t *refused;
    int16_t *words;
    saei_prepared_slot *slots;
};

/* Sets p's pieces in base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_prepared_layout(const sae_dictionary *dict, unsigned char *b,
                                   saei_prepared *p) {
    size_t at = 0, m = dict->desc.dict_size, panels = saei_ceil_div(m, SAEI_PANEL), width;
    size_t rows = SAEI_PREPARED_ROWS, k = dict->rule == SAE_RULE_TOP_K ? dict->desc.k : m / 20;
    p->num_slots = (size_t)dict->ctx->threads;
    p->stride = saei_align16(saei_min(k, m)) + SAEI_PANEL + SAEI_LIST_PADDING;
    p->capacity = saei_align16(saei_min(4 * k, m) + 4 * SAEI_PANEL);
    if (!saei_mul(panels * SAEI_PANEL, dict->ld, &width)) return SIZE_MAX;
    saei_place(&at, 1, sizeof(saei_prepared));
    p->panels = (float *)saei_piece(b, &at, width / 2, sizeof(float));
    p->screen = (float *)saei_piece(b, &at, saei_screen_floats(m), sizeof(float));
    p->refused = (uint32_t *)saei_piece(b, &at, panels, sizeof(uint32_t));
    p->slots = (saei_prepared_slot *)saei_piece(b, &at, p->num_slots, sizeof(saei_prepared_slot));
    for (size_t i = 0; i < p->num_slots; i++) {
        saei_prepared_slot none, *s = &none;
        if (b) s = &p->slots[i];
        memset(s, 0, sizeof *s);
        s->x = (float *)saei_piece(b, &at, rows * dict->ld, sizeof(float));
        s->count = (uint32_t *)saei_piece(b, &at, rows, sizeof(uint32_t));
        s->latent = (uint32_t *)saei_piece(b, &at, rows * p->stride, sizeof(uint32_t));
        s->pre = (float *)saei_piece(b, &at, rows * p->stride, sizeof(float));
        s->least = (double *)saei_piece(b, &at, 1, sizeof(double));
        s->begin = (size_t *)saei_piece(b, &at, rows + 1, sizeof(size_t));
        s->top_value = (float *)saei_piece(b, &at, (rows + 1) * p->capacity, sizeof(float));
        s->top_latent = (uint32_t *)saei_piece(b, &at, (rows + 1) * p->capacity, sizeof(uint32_t));
    }
    p->words = (int16_t *)saei_piece(b, &at, p->num_slots * SAEI_ENCODE_ROWS * dict->ld,
                                     sizeof(int16_t));
    for (size_t i = 0; b && i < p->num_slots; i++)
        p->slots[i].words = p->words + i * SAEI_ENCODE_ROWS * dict->ld;
    return at;
}

/* The job of one slot; a: what is asked. */
static saei_encode_job saei_prepared_job(const sae_dictionary *dict, const saei_prepared *p,
                                         const saei_prepared_slot *slot,
                                         const sae_encode_args *a) {
    saei_encode_job job;
    memset(&job, 0, sizeof job);
    job.ctx = dict->ctx;
    job.kernels = dict->ctx->kernels;
    job.args = a;
    job.m = a->m;
    job.k = saei_min(a->k, a->m);
    job.room.panels = p->panels;
    job.room.refused = p->refused;
    job.room.capacity = p->capacity;
    job.room.words = slot->words;
    job.room.value = slot->top_value;
    job.room.latent = slot->top_latent;
    job.room.least = slot->least;
    saei_screen_place(&job.room, job.m, p->screen);
    return job;
}

static sae_encode_args saei_prepared_args(const sae_dictionary *dict, const float *x, size_t n) {
    sae_select select = dict->rule == SAE_RULE_TOP_K            ? SAE_SELECT_TOP_K
                        : dict->desc.arch == SAE_ARCH_JUMP_RELU ? SAE_SELECT_WINDOW
                        : dict->desc.arch == SAE_ARCH_GATED     ? SAE_SELECT_GATE
                        : saei_arch_selects(dict->desc.arch)    ? SAE_SELECT_BATCH_TOP_K
                                                                : SAE_SELECT_POSITIVE;
    sae_encode_args a = saei_encode_args_of(dict, select, x, n);
    a.theta = dict->aux0; /* of WINDOW, with bandwidth 0: p > theta */
    return a;
}

static bool saei_prepares(const sae_dictionary *dict) {
    return dict->ctx->kernels->screen && dict->desc.arch != SAE_ARCH_IDENTITY
           && !dict->desc.activation
           && saei_screen_fits(dict->desc.activation_dim, dict->desc.dict_size)
           && !(dict->rule == SAE_RULE_TOP_K
                && (dict->desc.arch != SAE_ARCH_TOP_K
                    || dict->desc.k * 20 > dict->desc.dict_size));
}

SAE_API sae_result sae_dictionary_prepare(sae_dictionary *dict) {
    saei_prepared plan, *p;
    sae_encode_args a;
    saei_encode_job job;
    size_t bytes;
    if (!dict) return SAE_ERR_INVALID;
    if (dict->prepared || !saei_prepares(dict)) return SAE_OK;
    memset(&plan, 0, sizeof plan);
    bytes = saei_prepared_layout(dict, NULL, &plan);
    p = bytes == SIZE_MAX ? NULL : (saei_prepared *)saei_alloc(dict->ctx, bytes, 1);
    if (!p)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "sae_dictionary_prepare: no memory for %zu bytes",
                         bytes);
    memset(p, 0, bytes);
    saei_prepared_layout(dict, (unsigned char *)p, p);
    a = saei_prepared_args(dict, NULL, 0);
    job = saei_prepared_job(dict, p, &p->slots[0], &a); /* its words: those of all workers */
    if (saei_screen_pack(&job)) dict->prepared = p;
    else saei_free(dict->ctx, p);
    return SAE_OK;
}

/* The rows one pass takes of those that are left. */
static size_t saei_infer_block(const saei_infer *q, size_t left) {
    const size_t prepared = SAEI_PREPARED_ROWS, plain = SAEI_BLOCK_ROWS;
    return saei_min(left, q->dict->prepared ? prepared : plain);
}

static void saei_prepared_leave(saei_prepared *p, saei_prepared_slot *slot, bool overrun) {
    saei_lock(&p->lock);
    slot->taken = false;
    p->overruns += overrun;
    saei_unlock(&p->lock);
}

static saei_prepared_slot *saei_prepared_take(const saei_infer *q) {
    saei_prepared *p = q->dict->prepared;
    saei_prepared_slot *slot = NULL;
    if (!p || q->W || q->list || q->n < SAEI_TILE_ROWS || !saei_prepares(q->dict))
        return NULL;
    saei_lock(&p->lock);
    for (size_t i = 0; p->overruns < SAEI_PREPARED_OVERRUNS && i < p->num_slots && !slot; i++)
        if (!p->slots[i].taken) slot = &p->slots[i];
    if (slot) slot->taken = true;
    saei_unlock(&p->lock);
    return slot;
}

/* The lists of a slot, as screening left them, to f != 0 one after the other. */
static void saei_prepared_finish(const sae_dictionary *dict, size_t rows, size_t stride,
                                 saei_prepared_slot *slot) {
    size_t active = saei_active_latents(dict), at = 0;
    if (dict->rule == SAE_RULE_TOP_K) active = dict->desc.dict_size;
    slot->begin[0] = 0;
    for (size_t r = 0; r < rows; r++) {
        for (size_t j = r * stride; j < r * stride + slot->count[r]; j++) {
            uint32_t i = slot->latent[j];
            float f = slot->pre[j];
            if (dict->desc.arch == SAE_ARCH_GATED)
                f = saei_gate_value((float)saei_exp(dict->aux0[i]), f, dict->aux1[i]);
            if (!(f > 0) || i >= active) continue;
            slot->latent[at] = i;
            slot->pre[at++] = f;
        }
        slot->begin[r + 1] = at;
    }
}

/* f of rows <= SAEI_PREPARED_ROWS rows from r0, as lists in a slot, to be given back; NULL: take
   the exact path. */
static saei_prepared_slot *saei_prepared_rows(const saei_infer *q, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    saei_prepared_slot *slot = saei_prepared_take(q);
    saei_prepared *p = dict->prepared;
    size_t d = dict->desc.activation_dim;
    bool overrun = false;
    sae_encode_args a;
    saei_encode_job job;
    sae_code code;
    if (!slot) return NULL;
    for (size_t r = 0; r < rows; r++) {
        float *to = slot->x + r * dict->ld;
        saei_norm norm = saei_row_norm(dict, &q->x, r0 + r);
        const float *x = saei_infer_row(q, r0 + r, 0, d, &norm, to);
        if (x != to) memcpy(to, x, d * sizeof *x);
    }
    memset(&code, 0, sizeof code);
    code.rows = rows;
    code.stride = p->stride;
    code.count = slot->count;
    code.latent = slot->latent;
    code.pre = slot->pre;
    a = saei_prepared_args(dict, slot->x, rows);
    job = saei_prepared_job(dict, p, slot, &a);
    job.code = &code;
    if (a.select == SAE_SELECT_TOP_K) job.cut = slot->warm;
    if (a.select == SAE_SELECT_BATCH_TOP_K) job.cut = dict->threshold > 0 ? dict->threshold : 0;
    job.part_rows = rows;
    saei_screen_rows(&job, 0, 0); /* the slot is the memory of one worker */
    slot->warm = 0.97f * (float)*slot->least;
    for (size_t r = 0; r < rows; r++) overrun |= slot->count[r] > p->stride;
    if (!overrun) saei_prepared_finish(dict, rows, p->stride, slot);
    else saei_prepared_leave(p, slot, true);
    return overrun ? NULL : slot;
}

/* A slot's rows to where they were asked for, and the slot given back. */
static void saei_prepared_give(const saei_infer *q, size_t r0, size_t rows,
                               saei_prepared_slot *slot) {
    size_t m = q->count;
    for (size_t r = 0; r < rows; r++) {
        size_t begin = slot->begin[r], count = slot->begin[r + 1] - begin;
        const uint32_t *latent = slot->latent + begin;
        const float *value = slot->pre + begin;
        if (q->dense) {
            float *f = q->dense + (r0 + r) * m;
            memset(f, 0, m * sizeof *f);
            for (size_t j = 0; j < count; j++) f[latent[j]] = value[j];
        }
        if (q->sparse) {
            size_t to = q->exact ? q->sparse->row_begin[r0 + r] : (r0 + r) * q->share;
            if (q->exact || count <= q->share) {
                memcpy(q->sparse->latent + to, latent, count * sizeof *latent);
                memcpy(q->sparse->value + to, value, count * sizeof *value);
            }
            if (!q->exact) q->sparse->row_begin[r0 + r + 1] = count;
        }
    }
    saei_prepared_leave(q->dict->prepared, slot, false);
}

/* Rows by the exact path. */
static SAEI_NOINLINE void saei_infer_exact(const saei_infer *q, size_t r0, size_t rows) {
    saei_small_block small;
    saei_room room = saei_room_take(q->dict->ctx, &small);
    bool top = q->sparse && q->dict->rule == SAE_RULE_TOP_K;
    for (size_t r = 0, some; r < rows; r += some) {
        some = saei_min(room.rows, rows - r);
        saei_infer_norms(q, r0 + r, some, room.norms);
        if (top && q->dict->desc.activation) saei_infer_varied_rows(q, &room, r0 + r, some);
        else if (top) saei_infer_top_rows(q, &room, r0 + r, some);
        else saei_infer_rows(q, &room, r0 + r, some);
    }
    saei_room_leave(&room);
}

static void saei_infer_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    size_t end = saei_part_end(part, SAEI_BLOCK_ROWS, q->n), rows;
    for (size_t r = part * SAEI_BLOCK_ROWS; r < end; r += rows) {
        saei_prepared_slot *slot;
        rows = saei_infer_block(q, end - r);
        slot = saei_prepared_rows(q, r, rows);
        if (slot) saei_prepared_give(q, r, rows, slot);
        else saei_infer_exact(q, r, rows);
    }
}

static void saei_infer_run(saei_infer *q) {
    saei_parallel(q->dict->ctx, saei_ceil_div(q->n, SAEI_BLOCK_ROWS), saei_infer_part, q);
}

/* ==== >>dictionary: sae_encode ========================================= src/dict/encode.h ==== */
/* Batch top-k over all n rows: lists of positive relu(p) in fresh memory, *code to be freed by
   saei_batch_free. */
static void saei_batch_free(const sae_context *ctx, sae_code *code, float *dense) {
    saei_free(ctx, code->latent);
    saei_free(ctx, code->count);
    saei_free(ctx, dense);
}

static sae_result saei_batch_top_k(const sae_dictionary *dict, const char *who,
                                   const sae_rows *x, size_t n, sae_code *code, float **dense) {
    const sae_context *ctx = dict->ctx;
    size_t m = dict->desc.dict_size, active = saei_active_latents(dict), total = 0, keep;
    uint32_t *histogram = (uint32_t *)saei_alloc(ctx, 65536, sizeof *histogram);
    saei_infer q;
    memset(code, 0, sizeof *code);
    memset(&q, 0, sizeof q);
    code->rows = n;
    code->stride = m;
    code->count = (uint32_t *)saei_alloc(ctx, n, sizeof(uint32_t));
    code->latent = (uint32_t *)saei_alloc(ctx, n * m, sizeof(uint32_t));
    code->pre = code->value = *dense = (float *)saei_alloc(ctx, n * m, sizeof(float));
    if (!histogram || !code->count || !code->latent || !*dense) {
        saei_free(ctx, histogram);
        saei_batch_free(ctx, code, *dense);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for batch top-k over %zu rows of %zu "
                         "latents",
                         who, n, m);
    }
    q.dict = dict;
    q.x = *x;
    q.n = n;
    q.count = m;
    q.top_k = true;
    q.dense = *dense;
    saei_infer_run(&q);
    for (size_t r = 0; r < n; r++) {
        uint32_t kept = 0;
        for (size_t i = 0; i < m; i++)
            if ((*dense)[r * m + i] > 0) {
                code->latent[r * m + kept] = (uint32_t)i;
                (*dense)[r * m + kept++] = (*dense)[r * m + i];
            }
        code->count[r] = kept;
        total += kept;
    }
    keep = (size_t)(((double)dict->desc.k + dict->desc.k_fraction) * (double)n);
    if (total > keep) saei_keep_batch(code, keep, histogram);
    for (size_t r = 0; r < n; r++)
        while (code->count[r] && code->latent[r * m + code->count[r] - 1] >= active)
            code->count[r]--;
    saei_free(ctx, histogram);
    return SAE_OK;
}

static bool saei_is_batch_top_k(const sae_dictionary *dict) {
    return dict->rule == SAE_RULE_TOP_K && dict->desc.arch != SAE_ARCH_TOP_K;
}

/* IDENTITY: f = x. */
static void saei_copy_rows(const sae_rows *x, size_t n, size_t d, float *out) {
    for (size_t r = 0; r < n; r++) {
        const float *row = saei_row_floats(x, r, 0, d, out + r * d);
        if (row != out + r * d) memcpy(out + r * d, row, d * sizeof *out);
    }
}

static sae_result saei_encode(const sae_dictionary *dict, const char *who, const sae_rows *rows,
                              size_t n, float *f) {
    saei_infer q;
    sae_rows x;
    size_t m;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, f ? NULL : "f", n,
                                   dict ? dict->desc.dict_size : 0, &x));
    if (!n) return SAE_OK;
    m = dict->desc.dict_size;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        saei_copy_rows(&x, n, m, f);
        return SAE_OK;
    }
    if (saei_is_batch_top_k(dict)) {
        sae_code code;
        float *dense;
        SAEI_TRY(saei_batch_top_k(dict, who, &x, n, &code, &dense));
        memset(f, 0, n * m * sizeof *f);
        for (size_t r = 0; r < n; r++)
            for (size_t j = r * m; j < r * m + code.count[r]; j++)
                f[r * m + code.latent[j]] = code.value[j];
        saei_batch_free(dict->ctx, &code, dense);
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = m;
    q.dense = f;
    q.top_k = dict->rule == SAE_RULE_TOP_K;
    q.k = dict->desc.k;
    saei_infer_run(&q);
    return SAE_OK;
}

SAE_API sae_result sae_encode(const sae_dictionary *dict, const float *x, size_t n, float *f) {
    sae_rows rows;
    return saei_encode(dict, "sae_encode", saei_rows_of(x, &rows), n, f);
}
SAE_API sae_result sae_encode_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                   float *f) {
    return saei_encode(dict, "sae_encode_rows", x, n, f);
}

SAE_API size_t sae_dictionary_capacity(const sae_dictionary *dict, size_t n) {
    size_t m = dict->desc.dict_size, most = m, all;
    double share = (double)dict->desc.k + dict->desc.k_fraction; /* as saei_batch_top_k has it */
    if (dict->rule == SAE_RULE_TOP_K) most = dict->desc.k;
    if (!saei_mul(n, most, &all)) return SIZE_MAX;
    if (saei_is_batch_top_k(dict)) all = saei_min((size_t)(share * (double)n), n * m);
    return all;
}

static sae_result saei_capacity(const sae_dictionary *dict, const char *who, size_t needed,
                                const sae_sparse *out) {
    if (needed <= out->capacity) return SAE_OK;
    return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: capacity is %zu entries, %zu are needed", who,
                     out->capacity, needed);
}

static sae_result saei_encode_sparse_copy(const sae_dictionary *dict, const char *who,
                                          const sae_code *code, sae_sparse *out) {
    size_t total = 0;
    for (size_t r = 0; r < code->rows; r++) total += code->count[r];
    SAEI_TRY(saei_capacity(dict, who, total, out));
    out->row_begin[0] = 0;
    for (size_t r = 0, at = 0; r < code->rows; r++) {
        memcpy(out->latent + at, code->latent + r * code->stride,
               code->count[r] * sizeof(uint32_t));
        memcpy(out->value + at, code->value + r * code->stride, code->count[r] * sizeof(float));
        out->row_begin[r + 1] = at += code->count[r];
    }
    return SAE_OK;
}

static sae_result saei_encode_sparse_identity(const sae_dictionary *dict, const char *who,
                                              const sae_rows *x, size_t n, sae_sparse *out) {
    size_t d = dict->desc.activation_dim, total = 0;
    float own;
    for (size_t i = 0; i < n * d; i++) total += *saei_row_floats(x, i / d, i % d, 1, &own) != 0;
    SAEI_TRY(saei_capacity(dict, who, total, out));
    out->row_begin[0] = total = 0;
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < d; i++) {
            float f = *saei_row_floats(x, r, i, 1, &own);
            if (f == 0) continue;
            out->latent[total] = (uint32_t)i;
            out->value[total++] = f;
        }
        out->row_begin[r + 1] = total;
    }
    return SAE_OK;
}

/* The lists of a rule whose rows are chosen alone. */
static sae_result saei_encode_lists(const sae_dictionary *dict, const char *who, const sae_rows *x,
                                    size_t n, sae_sparse *out) {
    saei_infer q;
    size_t most = 0, total = 0;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = *x;
    q.n = n;
    q.count = dict->desc.dict_size;
    q.sparse = out;
    if (dict->rule == SAE_RULE_TOP_K) {
        q.k = q.share = dict->desc.k;
        SAEI_TRY(saei_capacity(dict, who, n * q.k, out));
        saei_infer_run(&q);
        saei_sparse_compact(out, n, q.share);
        return SAE_OK;
    }
    q.share = out->capacity / n; /* an even share each; where that is too little, a second pass */
    saei_infer_run(&q);
    for (size_t r = 0; r < n; r++) {
        most = saei_max(most, out->row_begin[r + 1]);
        total += out->row_begin[r + 1];
    }
    SAEI_TRY(saei_capacity(dict, who, total, out));
    if (most <= q.share) saei_sparse_compact(out, n, q.share);
    else {
        for (size_t r = 0; r < n; r++) out->row_begin[r + 1] += out->row_begin[r];
        q.exact = true;
        saei_infer_run(&q);
    }
    return SAE_OK;
}

static sae_result saei_encode_sparse(const sae_dictionary *dict, const char *who,
                                     const sae_rows *rows, size_t n, sae_sparse *out) {
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, saei_sparse_missing(out), n,
                                   dict ? dict->desc.dict_size : 0, &x));
    if (out && out->row_begin) out->row_begin[0] = 0;
    if (!n) return SAE_OK;
    if (dict->desc.arch == SAE_ARCH_IDENTITY)
        return saei_encode_sparse_identity(dict, who, &x, n, out);
    if (saei_is_batch_top_k(dict)) {
        sae_code code;
        float *dense;
        sae_result result;
        SAEI_TRY(saei_batch_top_k(dict, who, &x, n, &code, &dense));
        result = saei_encode_sparse_copy(dict, who, &code, out);
        saei_batch_free(dict->ctx, &code, dense);
        return result;
    }
    return saei_encode_lists(dict, who, &x, n, out);
}

SAE_API sae_result sae_encode_sparse(const sae_dictionary *dict, const float *x, size_t n,
                                     sae_sparse *out) {
    sae_rows rows;
    return saei_encode_sparse(dict, "sae_encode_sparse", saei_rows_of(x, &rows), n, out);
}
SAE_API sae_result sae_encode_sparse_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          sae_sparse *out) {
    return saei_encode_sparse(dict, "sae_encode_sparse_rows", x, n, out);
}

static sae_result saei_encode_subset(const sae_dictionary *dict, const char *who,
                                     const sae_rows *rows, size_t n, const uint32_t *latents,
                                     size_t count, float *f) {
    saei_infer q;
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, !latents ? "latents" : !f ? "f" : NULL,
                                   count ? n : 0, count, &x));
    if (!n || !count) return SAE_OK;
    for (size_t j = 0; j < count; j++)
        if (latents[j] >= dict->desc.dict_size)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: latents[%zu] is %u, allowed are 0 to %zu", who, j,
                             (unsigned)latents[j], dict->desc.dict_size - 1);
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        float own;
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0; j < count; j++)
                f[r * count + j] = *saei_row_floats(&x, r, latents[j], 1, &own);
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = x;
    q.n = n;
    q.count = count;
    q.list = latents;
    q.dense = f;
    saei_infer_run(&q);
    return SAE_OK;
}

SAE_API sae_result sae_encode_subset(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint32_t *latents, size_t count, float *f) {
    sae_rows rows;
    return saei_encode_subset(dict, "sae_encode_subset", saei_rows_of(x, &rows), n, latents, count,
                              f);
}
SAE_API sae_result sae_encode_subset_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          const uint32_t *latents, size_t count, float *f) {
    return saei_encode_subset(dict, "sae_encode_subset_rows", x, n, latents, count, f);
}

/* ==== >>dictionary: decode ============================================= src/dict/decode.h ==== */

enum { SAEI_DECODE_COLUMNS = 512, SAEI_DECODE_ENTRIES = 256 };

typedef struct saei_decoding {
    const sae_dictionary *dict;
    const float *f;         /* dense, or */
    const sae_sparse *code; /* sparse, or */
    const sae_code *lists;  /* with a stride */
    float *x_hat;
} saei_decoding;

/* sum += what row f [m] adds to `width` columns of x_hat from c on. */
static SAEI_NOINLINE void saei_decode_dense(const sae_dictionary *dict, const float *f, size_t c,
                                            size_t width, float *sum) {
    size_t m = dict->desc.dict_size, held = 0;
    float value[SAEI_DECODE_ENTRIES];
    uint32_t latent[SAEI_DECODE_ENTRIES];
    for (size_t i = 0; i < m; i++) {
        if (f[i] != 0) {
            latent[held] = (uint32_t)i;
            value[held++] = f[i];
        }
        if (held < SAEI_DECODE_ENTRIES && i + 1 < m) continue;
        dict->ctx->kernels->add_rows(width, held, latent, value, dict->W_dec + c, dict->ld_out,
                                     sum);
        held = 0;
    }
}

/* One row: latents ascending, then b_dec, in blocks of columns on the stack. */
static void saei_decode_row(void *arg, size_t r) {
    saei_decoding *q = (saei_decoding *)arg;
    const sae_dictionary *dict = q->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    size_t d = saei_output_dim(&dict->desc), m = dict->desc.dict_size, ld = dict->ld_out;
    float sum[SAEI_DECODE_COLUMNS];
    for (size_t c = 0; c < ld; c += SAEI_DECODE_COLUMNS) {
        size_t width = saei_min(SAEI_DECODE_COLUMNS, ld - c);
        memset(sum, 0, width * sizeof *sum);
        if (q->lists) {
            size_t at = r * q->lists->stride;
            kernels->add_rows(width, q->lists->count[r], q->lists->latent + at,
                              q->lists->value + at, dict->W_dec + c, ld, sum);
        } else if (q->code) {
            size_t begin = q->code->row_begin[r], end = q->code->row_begin[r + 1];
            kernels->add_rows(width, end - begin, q->code->latent + begin, q->code->value + begin,
                              dict->W_dec + c, ld, sum);
        } else saei_decode_dense(dict, q->f + r * m, c, width, sum);
        for (size_t k = 0; k < saei_min(width, d - c); k++)
            q->x_hat[r * d + c + k] = dict->b_dec[c + k] + sum[k];
    }
}

SAE_API sae_result sae_decode(const sae_dictionary *dict, const float *f, size_t n, float *x_hat) {
    saei_decoding q;
    SAEI_TRY(saei_infer_check(dict, "sae_decode", !f ? "f" : !x_hat ? "x_hat" : NULL, n,
                              dict ? dict->desc.dict_size : 0));
    if (!n) return SAE_OK;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        memcpy(x_hat, f, n * dict->desc.activation_dim * sizeof *f);
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.f = f;
    q.x_hat = x_hat;
    saei_parallel(dict->ctx, n, saei_decode_row, &q);
    return SAE_OK;
}

SAE_API sae_result sae_decode_sparse(const sae_dictionary *dict, const sae_sparse *code, size_t n,
                                     float *x_hat) {
    saei_decoding q;
    SAEI_TRY(saei_infer_check(dict, "sae_decode_sparse",
                              !code              ? "sparse"
                              : !code->row_begin ? "sparse.row_begin"
                              : !x_hat           ? "x_hat"
                                                 : NULL,
                              n, 0));
    if (!n) return SAE_OK;
    if (code->row_begin[n] > code->row_begin[0] && (!code->latent || !code->value))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_decode_sparse: sparse.row_begin lists %zu entries, but sparse.%s is "
                         "NULL", code->row_begin[n] - code->row_begin[0],
                         code->latent ? "value" : "latent");
    for (size_t r = 0; r < n; r++)
        if (code->row_begin[r + 1] < code->row_begin[r])
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_decode_sparse: row_begin[%zu] is %zu, less "
                             "than the one before",
                             r + 1, code->row_begin[r + 1]);
    for (size_t j = code->row_begin[0]; j < code->row_begin[n]; j++)
        if (code->latent[j] >= dict->desc.dict_size)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_decode_sparse: latent[%zu] is %u, allowed "
                             "are 0 to %zu",
                             j, (unsigned)code->latent[j], dict->desc.dict_size - 1);
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        size_t d = dict->desc.activation_dim;
        memset(x_hat, 0, n * d * sizeof *x_hat);
        for (size_t r = 0; r < n; r++)
            for (size_t j = code->row_begin[r]; j < code->row_begin[r + 1]; j++)
                x_hat[r * d + code->latent[j]] = code->value[j];
        return SAE_OK;
    }
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.code = code;
    q.x_hat = x_hat;
    saei_parallel(dict->ctx, n, saei_decode_row, &q);
    return SAE_OK;
}

/* Rows r0 on: the norm put back, W_skip x added. */
static SAEI_NOINLINE void saei_finish_rows(const saei_infer *q, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    size_t out = saei_output_dim(&dict->desc);
    saei_small_block small;
    saei_room room = saei_room_take(dict->ctx, &small);
    for (size_t r = r0; dict->desc.input_norm && !dict->desc.output_normalized && r < r0 + rows;
         r++) {
        saei_norm norm = saei_row_norm(dict, &q->x, r);
        float *y = q->dense + r * out;
        for (size_t c = 0; c < out; c++) y[c] = y[c] * norm.scale + norm.shift;
    }
    for (size_t r = r0, some; dict->W_skip && r < r0 + rows; r += some) {
        some = saei_min(room.rows, r0 + rows - r);
        for (size_t first = 0; first < out; first += SAEI_PANEL) {
            size_t count = saei_min(SAEI_PANEL, out - first);
            saei_infer_product(q, &room, r, some, first, count);
            for (size_t i = 0; i < some; i++)
                for (size_t j = 0; j < count; j++)
                    q->dense[(r + i) * out + first + j] += room.product[i * SAEI_PANEL + j];
        }
    }
    saei_room_leave(&room);
}

static void saei_finish_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    size_t r0 = part * SAEI_BLOCK_ROWS;
    saei_finish_rows(q, r0, saei_part_end(part, SAEI_BLOCK_ROWS, q->n) - r0);
}

/* What sae_decode_finish does, x checked. */
static void saei_finish(const sae_dictionary *dict, const sae_rows *x, size_t n, float *x_hat) {
    saei_infer q;
    if (!dict->W_skip && (!dict->desc.input_norm || dict->desc.output_normalized)) return;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = *x;
    q.W = dict->W_skip;
    q.n = n;
    q.dense = x_hat;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_finish_part, &q);
}

static sae_result saei_decode_finish(const sae_dictionary *dict, const char *who,
                                     const sae_rows *rows, size_t n, float *x_hat) {
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, x_hat ? NULL : "x_hat", n, 0, &x));
    if (n) saei_finish(dict, &x, n, x_hat);
    return SAE_OK;
}

SAE_API sae_result sae_decode_finish(const sae_dictionary *dict, const float *x, size_t n,
                                     float *x_hat) {
    sae_rows rows;
    return saei_decode_finish(dict, "sae_decode_finish", saei_rows_of(x, &rows), n, x_hat);
}
SAE_API sae_result sae_decode_finish_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          float *x_hat) {
    return saei_decode_finish(dict, "sae_decode_finish_rows", x, n, x_hat);
}

/* ==== >>dictionary: forward =========================================== src/dict/forward.h ==== */
/* Without f nothing of [n,m] is held. */

enum { SAEI_FORWARD_LISTS = 512 }; /* entries on the stack of a block that found no room */

/* The latents of a panel go into x_hat before the next panel is looked at, in ascending order;
   b_dec comes last, as in decode. */
static void saei_forward_rows(const saei_infer *q, const saei_room *room, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    size_t d = saei_output_dim(&dict->desc), whole = d / 16 * 16, ld = dict->ld_out;
    size_t active = saei_active_latents(dict);
    float value[SAEI_PANEL];
    uint32_t latent[SAEI_PANEL];
    memset(q->x_hat + r0 * d, 0, rows * d * sizeof(float));
    for (size_t first = 0; first < active; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, active - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++) {
            const float *product = room->product + r * SAEI_PANEL;
            float *out = q->x_hat + (r0 + r) * d;
            size_t held = 0;
            for (size_t j = 0; j < count; j++) {
                float f = saei_infer_value(dict, first + j, product[j], false);
                if (f == 0) continue;
                latent[held] = (uint32_t)(first + j);
                value[held++] = f;
            }
            dict->ctx->kernels->add_rows(whole, held, latent, value, dict->W_dec, ld, out);
            for (size_t c = whole; c < d; c++)
                for (size_t j = 0; j < held; j++)
                    out[c] = fmaf(value[j], dict->W_dec[latent[j] * ld + c], out[c]);
        }
    }
    for (size_t r = r0; r < r0 + rows; r++)
        for (size_t c = 0; c < d; c++) q->x_hat[r * d + c] = dict->b_dec[c] + q->x_hat[r * d + c];
}

/* x_hat of rows r0 on from their lists. */
static void saei_forward_lists(const saei_infer *q, size_t r0, size_t rows, sae_sparse *lists) {
    saei_decoding decoding;
    memset(&decoding, 0, sizeof decoding);
    decoding.dict = q->dict;
    decoding.code = lists;
    decoding.x_hat = q->x_hat + r0 * saei_output_dim(&q->dict->desc);
    for (size_t r = 0; r < rows; r++) saei_decode_row(&decoding, r);
}

/* TOP_K: as many rows at a time as their lists find room for. */
static void saei_forward_top_rows(const saei_infer *all, const saei_room *room, size_t r0,
                                  size_t rows, sae_sparse *lists) {
    saei_infer q = *all;
    q.x.data = saei_rows_at(&q.x, r0, 0);
    q.n = rows;
    q.sparse = lists;
    if (q.dict->desc.activation) saei_infer_varied_rows(&q, room, 0, rows);
    else saei_infer_top_rows(&q, room, 0, rows);
    saei_sparse_compact(lists, rows, q.share);
    saei_forward_lists(all, r0, rows, lists);
}

/* lists: with room for the k of one row at least. */
static void saei_forward_block(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                               sae_sparse *lists) {
    bool top_k = q->dict->rule == SAE_RULE_TOP_K;
    size_t most = top_k ? saei_min(room->rows, lists->capacity / q->k) : room->rows;
    for (size_t r = 0, some; r < rows; r += some) {
        some = saei_min(most, rows - r);
        saei_infer_norms(q, r0 + r, some, room->norms);
        if (top_k) saei_forward_top_rows(q, room, r0 + r, some, lists);
        else saei_forward_rows(q, room, r0 + r, some);
    }
}

static SAEI_NOINLINE void saei_forward_small(const saei_infer *q, const saei_room *room, size_t r0,
                                             size_t rows) {
    uint32_t latent[SAEI_FORWARD_LISTS];
    float value[SAEI_FORWARD_LISTS];
    sae_sparse lists = { room->begin, latent, value, SAEI_FORWARD_LISTS };
    saei_forward_block(q, room, r0, rows, &lists);
}

static SAEI_NOINLINE void saei_forward_exact(const saei_infer *q, size_t r0, size_t rows) {
    saei_small_block small;
    saei_room room = saei_room_take(q->dict->ctx, &small);
    sae_sparse lists = { room.begin, room.latent, room.value, room.entries };
    if (room.block) saei_forward_block(q, &room, r0, rows, &lists);
    else saei_forward_small(q, &room, r0, rows);
    saei_room_leave(&room);
}

static void saei_forward_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    size_t end = saei_part_end(part, SAEI_BLOCK_ROWS, q->n), rows;
    for (size_t r = part * SAEI_BLOCK_ROWS; r < end; r += rows) {
        saei_prepared_slot *slot;
        rows = saei_infer_block(q, end - r);
        slot = saei_prepared_rows(q, r, rows);
        if (slot) {
            sae_sparse lists;
            memset(&lists, 0, sizeof lists);
            lists.row_begin = slot->begin;
            lists.latent = slot->latent;
            lists.value = slot->pre;
            saei_forward_lists(q, r, rows, &lists);
            saei_prepared_leave(q->dict->prepared, slot, false);
        } else saei_forward_exact(q, r, rows);
    }
}

/* Batch top-k needs the latents of all rows at once; they are here already. */
static sae_result saei_forward_batch(const sae_dictionary *dict, const char *who,
                                     const sae_rows *x, size_t n, float *x_hat) {
    saei_decoding decoding;
    sae_code code;
    float *dense;
    SAEI_TRY(saei_batch_top_k(dict, who, x, n, &code, &dense));
    memset(&decoding, 0, sizeof decoding);
    decoding.dict = dict;
    decoding.lists = &code;
    decoding.x_hat = x_hat;
    saei_parallel(dict->ctx, n, saei_decode_row, &decoding);
    saei_batch_free(dict->ctx, &code, dense);
    return SAE_OK;
}

/* Top-k of more latents than a block has room for: lists in fresh memory. */
static sae_result saei_forward_many(const sae_dictionary *dict, const char *who, const sae_rows *x,
                                    size_t n, float *x_hat) {
    const sae_context *ctx = dict->ctx;
    size_t chunk = saei_min(n, (size_t)SAEI_BLOCK_ROWS * (size_t)ctx->threads), all;
    sae_result result = SAE_OK;
    sae_sparse lists;
    memset(&lists, 0, sizeof lists);
    if (saei_mul(chunk, dict->desc.k, &all)) {
        lists.capacity = all;
        lists.row_begin = (size_t *)saei_alloc(ctx, chunk + 1, sizeof(size_t));
        lists.latent = (uint32_t *)saei_alloc(ctx, all, sizeof(uint32_t));
        lists.value = (float *)saei_alloc(ctx, all, sizeof(float));
    }
    if (!lists.row_begin || !lists.latent || !lists.value)
        result = saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu rows of %zu latents",
                           who, chunk, dict->desc.k);
    for (size_t r = 0; r < n && result == SAE_OK; r += chunk) {
        size_t rows = saei_min(chunk, n - r);
        sae_rows some = *x;
        some.data = saei_rows_at(x, r, 0);
        result = saei_encode_lists(dict, who, &some, rows, &lists);
        if (result == SAE_OK)
            result = sae_decode_sparse(dict, &lists, rows,
                                       x_hat + r * saei_output_dim(&dict->desc));
    }
    saei_free(ctx, lists.row_begin);
    saei_free(ctx, lists.latent);
    saei_free(ctx, lists.value);
    return result;
}

static sae_result saei_forward(const sae_dictionary *dict, const char *who, const sae_rows *rows,
                               size_t n, float *x_hat, float *f) {
    saei_infer q;
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, x_hat ? NULL : "x_hat", n,
                                   dict ? dict->desc.dict_size : 0, &x));
    if (!n) return SAE_OK;
    if (f) {
        SAEI_TRY(saei_encode(dict, who, &x, n, f));
        SAEI_TRY(sae_decode(dict, f, n, x_hat));
    } else if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        saei_copy_rows(&x, n, dict->desc.activation_dim, x_hat);
    } else if (saei_is_batch_top_k(dict)) {
        SAEI_TRY(saei_forward_batch(dict, who, &x, n, x_hat));
    } else if (dict->rule == SAE_RULE_TOP_K && dict->desc.k > SAEI_FORWARD_LISTS) {
        SAEI_TRY(saei_forward_many(dict, who, &x, n, x_hat));
    } else {
        memset(&q, 0, sizeof q);
        q.dict = dict;
        q.x = x;
        q.n = n;
        q.count = dict->desc.dict_size;
        q.x_hat = x_hat;
        q.k = q.share = dict->desc.k;
        saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_forward_part, &q);
    }
    saei_finish(dict, &x, n, x_hat);
    return SAE_OK;
}

SAE_API sae_result sae_forward(const sae_dictionary *dict, const float *x, size_t n, float *x_hat,
                               float *f) {
    sae_rows rows;
    return saei_forward(dict, "sae_forward", saei_rows_of(x, &rows), n, x_hat, f);
}
SAE_API sae_result sae_forward_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                    float *x_hat, float *f) {
    return saei_forward(dict, "sae_forward_rows", x, n, x_hat, f);
}

/* ==== >>steer =========================================================== src/dict/steer.h ==== */

/* Numbers on the stack of a block that found no room; entries of a list. */
enum {
    SAEI_STEER_FLOATS = SAE_MAX_STEERINGS,
    SAEI_STEER_COUNTERS = 256, /* one for each row at least */
    SAEI_STEER_ENTRIES = 128
};

typedef struct saei_steer_job {
    const sae_dictionary *dict;
    const sae_steering *list;
    size_t count;
    bool needs_f, ranks; /* some mode asks for f; f depends on its rank in the row */
    sae_rows x;          /* written, too */
    size_t n;
} saei_steer_job;

/* Where the parts of a job work. */
typedef struct saei_steer_room {
    saei_room room;
    float *f;         /* [rows][count]: of the latents named */
    size_t entries;   /* of f */
    uint32_t *before; /* latents of the row that stand before each */
    size_t counters;  /* of before */
} saei_steer_room;

/* What a top-k rule compares. */
static float saei_steer_key(const sae_dictionary *dict, float f) {
    return dict->desc.activation == SAE_ACTIVATION_MAGNITUDE ? fabsf(f) : f;
}

/* Counts for each f [rows][count] of steerings [begin, end) the latents of its row, or of its
   group, that stand before it; ties to the lower index. */
static void saei_steer_count(const saei_steer_job *job, const saei_infer *q,
                             const saei_steer_room *w, size_t r0, size_t rows, size_t begin,
                             size_t end) {
    const sae_dictionary *dict = job->dict;
    bool grouped = dict->desc.activation == SAE_ACTIVATION_GROUP_MAX;
    size_t m = dict->desc.dict_size, group = grouped ? m / dict->desc.k : m;
    memset(w->before, 0, rows * (end - begin) * sizeof *w->before);
    for (size_t first = 0; first < m; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, m - first);
        saei_infer_product(q, &w->room, r0, rows, first, width);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < width; j++) {
                size_t i = first + j;
                float v = saei_infer_value(dict, i, w->room.product[r * SAEI_PANEL + j], true);
                float key = saei_steer_key(dict, v);
                uint32_t *before = w->before + r * (end - begin);
                if (v == 0 && !saei_is_signed(&dict->desc)) continue;
                for (size_t s = begin; s < end; s++, before++) {
                    float held = saei_steer_key(dict, w->f[r * job->count + s]);
                    size_t latent = job->list[s].latent;
                    if (grouped && latent / group != i / group) continue;
                    *before += key > held || (key == held && i < latent);
                }
            }
    }
}

/* Of f [rows][count], values before the choice, leaves what is among the k largest of its row, or
   the largest of its group. */
static void saei_steer_rank(const saei_steer_job *job, const saei_infer *q,
                            const saei_steer_room *w, size_t r0, size_t rows) {
    const sae_dictionary_desc *h = &job->dict->desc;
    size_t most = h->activation == SAE_ACTIVATION_GROUP_MAX ? 1 : h->k;
    size_t share = saei_min(job->count, w->counters / rows), end;
    for (size_t begin = 0; begin < job->count; begin = end) {
        end = saei_min(begin + share, job->count);
        saei_steer_count(job, q, w, r0, rows, begin, end);
        for (size_t r = 0; r < rows; r++)
            for (size_t s = begin; s < end; s++)
                if (w->before[r * (end - begin) + s - begin] >= most) w->f[r * job->count + s] = 0;
    }
}

/* f [rows][count] of the latents named, as sae_encode gives them. */
static void saei_steer_encode(const saei_steer_job *job, const saei_steer_room *w, size_t r0,
                              size_t rows) {
    const sae_dictionary *dict = job->dict;
    size_t count = job->count, active = saei_active_latents(dict), candidates = 0;
    uint32_t list[SAEI_PANEL];
    saei_infer q;
    memset(&q, 0, sizeof q);
    q.dict = dict;
    q.x = job->x;
    saei_infer_norms(&q, r0, rows, w->room.norms);
    for (size_t first = 0; first < count; first += SAEI_PANEL) {
        size_t width = saei_min(SAEI_PANEL, count - first);
        for (size_t j = 0; j < width; j++) list[j] = job->list[first + j].latent;
        q.list = list;
        saei_infer_product(&q, &w->room, r0, rows, 0, width);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < width; j++) {
                float v = saei_infer_value(dict, list[j], w->room.product[r * SAEI_PANEL + j],
                                           job->ranks);
                w->f[r * count + first + j] = list[j] < active ? v : 0;
                candidates += list[j] < active && v != 0;
            }
    }
    q.list = NULL;
    if (job->ranks && candidates) saei_steer_rank(job, &q, w, r0, rows);
}

static float saei_steer_change(const sae_steering *s, float f) {
    switch (s->mode) {
    case SAE_STEER_SET: return s->value - f;
    case SAE_STEER_SCALE: return s->value * f - f;
    case SAE_STEER_ABLATE: return -f;
    case SAE_STEER_DEFAULT:
    case SAE_STEER_ADD: break;
    }
    return s->value;
}

/* Column c of row r becomes v; 16 bit are rounded to the nearest, ties to even. */
static void saei_steer_put(const sae_rows *x, size_t r, size_t c, float v) {
    unsigned char *to = (unsigned char *)(uintptr_t)saei_rows_at(x, r, c);
    uint16_t bits;
    if (x->dtype == SAE_F32) {
        *(float *)(void *)to = v;
        return;
    }
    bits = x->dtype == SAE_F16 ? saei_half_bits(v) : saei_bf16_bits(v);
    memcpy(to, &bits, sizeof bits);
}

/* x += add for n columns of row r from c on. */
static void saei_steer_add(const sae_rows *x, size_t r, size_t c, size_t n, const float *add) {
    float *at = (float *)(uintptr_t)saei_rows_at(x, r, c), own;
    for (size_t k = 0; x->dtype == SAE_F32 && k < n; k++) at[k] += add[k];
    for (size_t k = 0; x->dtype != SAE_F32 && k < n; k++)
        saei_steer_put(x, r, c + k, *saei_row_floats(x, r, c + k, 1, &own) + add[k]);
}

/* IDENTITY: the row's columns are the latents. A column named twice is rounded once. */
static void saei_steer_columns(const saei_steer_job *job, const float *f, size_t r) {
    for (size_t j = 0; j < job->count; j++) {
        size_t c = job->list[j].latent;
        bool seen = false, moved = false;
        float own, v = *saei_row_floats(&job->x, r, c, 1, &own);
        for (size_t i = 0; i < j && !seen; i++) seen = job->list[i].latent == c;
        for (size_t i = j; i < job->count && !seen; i++)
            if (job->list[i].latent == c && f[i] != 0) {
                v += f[i];
                moved = true;
            }
        if (moved) saei_steer_put(&job->x, r, c, v);
    }
}

/* One row; f [count] becomes what is added of each. Latents in the order of the list; scale brings
   what is decoded to the units of x. */
static SAEI_NOINLINE void saei_steer_row(const saei_steer_job *job, float *f, float scale,
                                         size_t r) {
    const sae_dictionary *dict = job->dict;
    size_t d = dict->desc.activation_dim, any = 0;
    uint32_t latent[SAEI_STEER_ENTRIES];
    float value[SAEI_STEER_ENTRIES], sum[SAEI_DECODE_COLUMNS];
    for (size_t j = 0; j < job->count; j++) {
        f[j] = saei_steer_change(job->list + j, f[j]) * scale;
        any += f[j] != 0;
    }
    if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        saei_steer_columns(job, f, r);
        return;
    }
    for (size_t c = 0; any && c < dict->ld_out; c += SAEI_DECODE_COLUMNS) {
        size_t width = saei_min(SAEI_DECODE_COLUMNS, dict->ld_out - c), held = 0;
        memset(sum, 0, width * sizeof *sum);
        for (size_t j = 0; j < job->count; j++) {
            if (f[j] != 0) {
                latent[held] = job->list[j].latent;
                value[held++] = f[j];
            }
            if (held < SAEI_STEER_ENTRIES && j + 1 < job->count) continue;
            dict->ctx->kernels->add_rows(width, held, latent, value, dict->W_dec + c,
                                         dict->ld_out, sum);
            held = 0;
        }
        saei_steer_add(&job->x, r, c, saei_min(width, d - c), sum);
    }
}

/* Rows r0 to end. */
static void saei_steer_rows(const saei_steer_job *job, const saei_steer_room *w, size_t r0,
                            size_t end) {
    const sae_dictionary_desc *h = &job->dict->desc;
    size_t count = job->count, most = saei_min(w->room.rows, w->entries / count);
    float own;
    memset(w->f, 0, saei_min(most, end - r0) * count * sizeof *w->f);
    for (size_t r = r0, rows; r < end; r += rows) {
        rows = saei_min(most, end - r);
        for (size_t s = 0; h->arch == SAE_ARCH_IDENTITY && s < rows * count; s++)
            w->f[s] = *saei_row_floats(&job->x, r + s / count, job->list[s % count].latent, 1,
                                       &own);
        if (job->needs_f && h->arch != SAE_ARCH_IDENTITY) saei_steer_encode(job, w, r, rows);
        for (size_t i = 0; i < rows; i++) {
            float scale = h->input_norm && !h->output_normalized
                              ? saei_row_norm(job->dict, &job->x, r + i).scale : 1;
            saei_steer_row(job, w->f + i * count, scale, r + i);
        }
    }
}

static SAEI_NOINLINE void saei_steer_small(const saei_steer_job *job, saei_steer_room *w,
                                           size_t r0, size_t end) {
    float f[SAEI_STEER_FLOATS];
    uint32_t before[SAEI_STEER_COUNTERS];
    w->f = f;
    w->before = before;
    w->entries = SAEI_STEER_FLOATS;
    w->counters = SAEI_STEER_COUNTERS;
    saei_steer_rows(job, w, r0, end);
}

static void saei_steer_part(void *arg, size_t part) {
    const saei_steer_job *job = (const saei_steer_job *)arg;
    size_t r0 = part * SAEI_BLOCK_ROWS, end = saei_part_end(part, SAEI_BLOCK_ROWS, job->n);
    saei_small_block small;
    saei_steer_room w;
    w.room = saei_room_take(job->dict->ctx, &small);
    w.f = w.room.value;
    w.before = w.room.latent;
    w.entries = w.counters = w.room.entries;
    if (w.room.block) saei_steer_rows(job, &w, r0, end);
    else saei_steer_small(job, &w, r0, end);
    saei_room_leave(&w.room);
}

static sae_result saei_steer_check(const sae_dictionary *dict, const char *who,
                                   const sae_steering *list, size_t count) {
    if (count > SAE_MAX_STEERINGS)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "%s: count is %zu, allowed are 0 to %d", who,
                         count, SAE_MAX_STEERINGS);
    for (size_t j = 0; j < count; j++) {
        if (list[j].latent >= dict->desc.dict_size)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].latent is %lu, allowed are 0 to %zu", who, j,
                             (unsigned long)list[j].latent, dict->desc.dict_size - 1);
        if ((int)list[j].mode < 0 || list[j].mode > SAE_STEER_ABLATE)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].mode is %d, allowed are SAE_STEER_ADD, "
                             "SAE_STEER_SET, SAE_STEER_SCALE, SAE_STEER_ABLATE",
                             who, j, (int)list[j].mode);
        if (!(list[j].value - list[j].value == 0) && list[j].mode != SAE_STEER_ABLATE)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "%s: steerings[%zu].value is %g, allowed are finite numbers", who, j,
                             (double)list[j].value);
    }
    return SAE_OK;
}

static sae_result saei_steer(const sae_dictionary *dict, const char *who, const sae_rows *x,
                             size_t n, const sae_steering *list, size_t count) {
    saei_steer_job job;
    SAEI_TRY(saei_infer_check_rows(dict, who, x, list || !count ? NULL : "steerings", n, 0,
                                   &job.x));
    if (!n) return SAE_OK;
    SAEI_TRY(saei_steer_check(dict, who, list, count));
    if (dict->desc.skip || saei_output_dim(&dict->desc) != dict->desc.activation_dim)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "%s: a transcoder's directions belong to its output, not to x", who);
    job.dict = dict;
    job.list = list;
    job.count = count;
    job.needs_f = false;
    job.ranks = dict->rule == SAE_RULE_TOP_K;
    job.n = n;
    for (size_t j = 0; j < count; j++)
        if (list[j].mode > SAE_STEER_ADD) job.needs_f = true;
    if (job.needs_f && saei_is_batch_top_k(dict) && n > 1)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "%s: n is %zu under SAE_RULE_TOP_K of %s, which chooses over all rows "
                         "together; allowed are n = 1, SAE_RULE_THRESHOLD, or SAE_STEER_ADD alone",
                         who, n, sae_arch_name(dict->desc.arch));
    if (count) saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_steer_part, &job);
    return SAE_OK;
}

SAE_API sae_result sae_steer(const sae_dictionary *dict, float *x, size_t n,
                             const sae_steering *steerings, size_t count) {
    sae_rows rows;
    return saei_steer(dict, "sae_steer", saei_rows_of(x, &rows), n, steerings, count);
}
SAE_API sae_result sae_steer_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                  const sae_steering *steerings, size_t count) {
    return saei_steer(dict, "sae_steer_rows", x, n, steerings, count);
}

/* ==== >>dictionary: linear layers ====================================== src/dict/linear.h ==== */

struct sae_linear {
    const sae_context *ctx;
    size_t inputs, outputs, panels;
    float *packed; /* [panels][inputs][48] */
    float *bias;   /* [panels 48] */
};

enum { SAEI_LINEAR_ROWS = 64, SAEI_LINEAR_PANELS = 8, SAEI_LINEAR_DEPTH = 512 }; /* of one part */

typedef struct saei_linear_task {
    const sae_linear *linear;
    const float *W, *x;
    float *y;
    size_t n;
} saei_linear_task;

static void saei_linear_pack_part(void *arg, size_t part) {
    saei_linear_task *t = (saei_linear_task *)arg;
    const sae_linear *l = t->linear;
    size_t first = part * SAEI_PANEL;
    saei_pack_panel(l->ctx->kernels, t->W, l->inputs, l->inputs, NULL, first,
                    saei_min(SAEI_PANEL, l->outputs - first), l->packed + first * l->inputs);
}

SAE_API sae_result sae_linear_create(sae_context *ctx, const float *W, const float *bias,
                                     size_t inputs, size_t outputs, sae_linear **out) {
    saei_linear_task task;
    sae_linear *l;
    size_t panels, width, floats;
    if (!ctx || !W || !out || !inputs || !outputs)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_linear_create: inputs is %zu, outputs %zu, W and "
                         "out may not be NULL, allowed are sizes from 1",
                         inputs, outputs);
    panels = outputs / SAEI_PANEL + (outputs % SAEI_PANEL != 0);
    l = (sae_linear *)saei_calloc(ctx, 1, sizeof *l);
    if (l) l->ctx = ctx;
    if (l && saei_mul(panels, SAEI_PANEL, &width) && saei_mul(width, inputs, &floats)) {
        l->packed = (float *)saei_alloc(ctx, floats, sizeof(float));
        l->bias = (float *)saei_calloc(ctx, width, sizeof(float));
    }
    if (!l || !l->packed || !l->bias) {
        sae_linear_destroy(l);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_linear_create: no memory for %zu by %zu "
                         "weights", outputs, inputs);
    }
    l->inputs = inputs;
    l->outputs = outputs;
    l->panels = panels;
    if (bias) memcpy(l->bias, bias, outputs * sizeof *bias);
    memset(&task, 0, sizeof task);
    task.linear = l;
    task.W = W;
    saei_parallel(ctx, panels, saei_linear_pack_part, &task);
    *out = l;
    return SAE_OK;
}

SAE_API void sae_linear_destroy(sae_linear *linear) {
    if (!linear) return;
    saei_free(linear->ctx, linear->packed);
    saei_free(linear->ctx, linear->bias);
    saei_free(linear->ctx, linear);
}

/* y of up to 64 rows and 48 outputs: the panel is read in blocks that lie in the L2. */
static void saei_linear_panel(const saei_linear_task *t, size_t r0, size_t rows, size_t panel) {
    const sae_linear *l = t->linear;
    const float *packed = l->packed + panel * SAEI_PANEL * l->inputs;
    size_t first = panel * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
    float product[SAEI_LINEAR_ROWS * SAEI_PANEL];
    for (size_t k = 0; k < l->inputs; k += SAEI_LINEAR_DEPTH) {
        size_t depth = saei_min(SAEI_LINEAR_DEPTH, l->inputs - k);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = t->x + (r0 + saei_min(g + i, rows - 1)) * l->inputs + k;
            l->ctx->kernels->tile(x, packed + k * SAEI_PANEL, depth, k > 0,
                                  product + g * SAEI_PANEL);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        float *y = t->y + (r0 + r) * l->outputs + first;
        l->ctx->kernels->axpy(count, 1, product + r * SAEI_PANEL, l->bias + first, y);
    }
}

static void saei_linear_part(void *arg, size_t part) {
    saei_linear_task *t = (saei_linear_task *)arg;
    size_t blocks = saei_ceil_div(t->n, SAEI_LINEAR_ROWS), r0 = part % blocks * SAEI_LINEAR_ROWS;
    size_t panel = part / blocks * SAEI_LINEAR_PANELS;
    size_t end = saei_min(panel + SAEI_LINEAR_PANELS, t->linear->panels);
    for (; panel < end; panel++)
        saei_linear_panel(t, r0, saei_min(SAEI_LINEAR_ROWS, t->n - r0), panel);
}

SAE_API sae_result sae_linear_apply(const sae_linear *linear, const float *x, size_t n, float *y) {
    saei_linear_task t;
    size_t most;
    if (!linear) return SAE_ERR_INVALID;
    if (!x || !y || !saei_mul(n, saei_max(linear->inputs, linear->outputs), &most)
        || most > SIZE_MAX / sizeof(float))
        return saei_fail(linear->ctx, SAE_ERR_INVALID,
                         "sae_linear_apply: n is %zu, x and y may not be "
                         "NULL, allowed are rows that fit in memory",
                         n);
    t.linear = linear;
    t.W = NULL;
    t.x = x;
    t.y = y;
    t.n = n;
    saei_parallel(linear->ctx, saei_ceil_div(n, SAEI_LINEAR_ROWS)
                  * saei_ceil_div(linear->panels, SAEI_LINEAR_PANELS), saei_linear_part, &t);
    return SAE_OK;
}

/* What opens and writes files is much, and waits for the disk: for size. */
#if defined(SAEI_FOR_SIZE)
#pragma GCC push_options
#pragma GCC optimize("Os", "fp-contract=off")
#endif

/* ==== >>files: names of trainers ===================================== src/formats/names.h ==== */

typedef struct saei_trainer_row {
    sae_trainer_kind kind;
    sae_arch arch; /* of the dictionary it trains */
    const char *name, *reference, *older;
} saei_trainer_row;

static const saei_trainer_row saei_trainers[SAE_NUM_TRAINERS] = {
#define SAE_X(kind, value, arch, name, reference, older) { kind, arch, name, reference, older },
    SAE_TRAINERS(SAE_X)
#undef SAE_X
};

/* NULL: it is none. DEFAULT is none either. */
static const saei_trainer_row *saei_trainer_row_of(sae_trainer_kind kind) {
    for (size_t i = 0; i < SAE_NUM_TRAINERS; i++)
        if (saei_trainers[i].kind == kind) return &saei_trainers[i];
    return NULL;
}

SAE_API const char *sae_trainer_name(sae_trainer_kind kind) {
    const saei_trainer_row *row = saei_trainer_row_of(kind);
    return row ? row->name : "default";
}

SAE_API const char *sae_trainer_class(sae_trainer_kind kind) {
    const saei_trainer_row *row = saei_trainer_row_of(kind);
    return row ? row->reference : "default";
}

/* older: the class names of 2024 too. */
static bool saei_trainer_find(const char *name, bool older, sae_trainer_kind *out) {
    for (size_t i = 0; i < SAE_NUM_TRAINERS; i++) {
        const saei_trainer_row *row = &saei_trainers[i];
        if (strcmp(name, row->name) && strcmp(name, row->reference)
            && (!older || strcmp(name, row->older)))
            continue;
        *out = row->kind;
        return true;
    }
    return false;
}

SAE_API bool sae_trainer_from_name(const char *name, sae_trainer_kind *out) {
    return name && out && saei_trainer_find(name, false, out);
}

/* The dictionary a kind trains, where nothing else is said. */
static sae_arch saei_trainer_arch(sae_trainer_kind kind) {
    const saei_trainer_row *row = saei_trainer_row_of(kind ? kind : SAE_TRAINER_TOP_K);
    return row ? row->arch : SAE_ARCH_STANDARD;
}

/* The first trainer of such dictionaries. AutoEncoderNew is STANDARD_APRIL's, on request. */
static sae_trainer_kind saei_trainer_of_arch(sae_arch arch) {
    if (arch == SAE_ARCH_STANDARD_NEW) return SAE_TRAINER_STANDARD_APRIL;
    for (size_t i = 0; i < SAE_NUM_TRAINERS; i++)
        if (saei_trainers[i].arch == arch) return saei_trainers[i].kind;
    return SAE_TRAINER_DEFAULT;
}

/* ==== >>files: names, places, config files ========================== src/formats/layout.h ==== */

/* Where a tensor of a file goes. _T: the file holds it transposed; it is transposed on loading. */
typedef enum saei_slot {
    SAEI_SLOT_W_ENC, SAEI_SLOT_W_ENC_T, SAEI_SLOT_W_DEC, SAEI_SLOT_W_DEC_T, SAEI_SLOT_B_ENC,
    SAEI_SLOT_AUX0, SAEI_SLOT_AUX1, SAEI_SLOT_B_DEC, SAEI_SLOT_K, SAEI_SLOT_THRESHOLD,
    SAEI_SLOT_GROUPS, SAEI_SLOT_W_SKIP, SAEI_SLOT_W_SKIP_T,
    SAEI_SLOT_SCALE,   /* [m], latents are multiplied by it when they are decoded */
    SAEI_SLOT_NOTHING  /* known, and of no use */
} saei_slot;

typedef struct saei_key {
    const char *name;
    saei_slot slot;
} saei_key;

/* The reference's names in the reference's order, for reading and for writing. */
enum { SAEI_MAX_KEYS = 10 };
typedef struct saei_layout {
    sae_arch arch;
    size_t count;
    saei_key keys[7];
} saei_layout;

static const saei_layout saei_layouts[] = {
    { SAE_ARCH_STANDARD, 4,
      { { "bias", SAEI_SLOT_B_DEC }, { "encoder.weight", SAEI_SLOT_W_ENC },
        { "encoder.bias", SAEI_SLOT_B_ENC }, { "decoder.weight", SAEI_SLOT_W_DEC_T } } },
    { SAE_ARCH_STANDARD_NEW, 4,
      { { "encoder.weight", SAEI_SLOT_W_ENC }, { "encoder.bias", SAEI_SLOT_B_ENC },
        { "decoder.weight", SAEI_SLOT_W_DEC_T }, { "decoder.bias", SAEI_SLOT_B_DEC } } },
    { SAE_ARCH_GATED, 6,
      { { "decoder_bias", SAEI_SLOT_B_DEC }, { "r_mag", SAEI_SLOT_AUX0 },
        { "gate_bias", SAEI_SLOT_B_ENC }, { "mag_bias", SAEI_SLOT_AUX1 },
        { "encoder.weight", SAEI_SLOT_W_ENC }, { "decoder.weight", SAEI_SLOT_W_DEC_T } } },
    { SAE_ARCH_TOP_K, 6,
      { { "b_dec", SAEI_SLOT_B_DEC }, { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_THRESHOLD },
        { "decoder.weight", SAEI_SLOT_W_DEC_T }, { "encoder.weight", SAEI_SLOT_W_ENC },
        { "encoder.bias", SAEI_SLOT_B_ENC } } },
    { SAE_ARCH_BATCH_TOP_K, 6,
      { { "b_dec", SAEI_SLOT_B_DEC }, { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_THRESHOLD },
        { "decoder.weight", SAEI_SLOT_W_DEC_T }, { "encoder.weight", SAEI_SLOT_W_ENC },
        { "encoder.bias", SAEI_SLOT_B_ENC } } },
    { SAE_ARCH_MATRYOSHKA, 7,
      { { "W_enc", SAEI_SLOT_W_ENC_T }, { "b_enc", SAEI_SLOT_B_ENC }, { "W_dec", SAEI_SLOT_W_DEC },
        { "b_dec", SAEI_SLOT_B_DEC }, { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_THRESHOLD },
        { "group_sizes", SAEI_SLOT_GROUPS } } },
    { SAE_ARCH_JUMP_RELU, 5,
      { { "W_enc", SAEI_SLOT_W_ENC_T }, { "b_enc", SAEI_SLOT_B_ENC }, { "W_dec", SAEI_SLOT_W_DEC },
        { "b_dec", SAEI_SLOT_B_DEC }, { "threshold", SAEI_SLOT_AUX0 } } },
    { SAE_ARCH_IDENTITY, 0, { { NULL, SAEI_SLOT_B_DEC } } }
};
enum { SAEI_NUM_LAYOUTS = sizeof saei_layouts / sizeof saei_layouts[0] };

/* What a reader works on. Names of tensors all begin with prefix: "ae." in a crashed run's nested
   file, else "". */
typedef struct saei_load {
    sae_context *ctx;
    sae_load_desc desc;
    const char *path; /* as given: for messages */
    const void *data; /* of the file, [size], where it lies in memory; NULL: it is at path */
    size_t size;
    char *file;       /* of the tensors; "" where memory has no name */
    sae_tensor_file *tensors;
    const char *prefix;
    const char *config_name; /* "config.json" */
    char *config_path;
    sae_json *root;         /* of the config file, an object; NULL: there is none */
    const sae_json *config; /* the object in it that describes the dictionary; NULL: none */
} saei_load;

/* Room for a list of names in a message. */
enum { SAEI_NAMES = 320 };

/* A dictionary on its way in: its desc, and which tensor goes where. */
typedef struct saei_draft {
    const saei_load *load;
    sae_dictionary_desc desc;
    size_t count;
    struct {
        const char *name;
        saei_slot slot;
        const sae_tensor *tensor; /* NULL: the file has none */
    } keys[SAEI_MAX_KEYS];
    char lacks[SAEI_NAMES], besides[SAEI_NAMES]; /* names, for messages */
    size_t part; /* latents that are read; 0: all, as desc says */
} saei_draft;

static sae_result saei_load_fail(const saei_load *load, sae_result result, const char *format, ...)
    SAEI_PRINTF(3, 4);
static sae_result saei_load_fail(const saei_load *load, sae_result result, const char *format,
                                 ...) {
    char text[800];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return saei_fail(load->ctx, result, "sae_dictionary_load: %s: %s", load->path, text);
}

static sae_result saei_load_no_memory(const saei_load *load) {
    return saei_load_fail(load, SAE_ERR_OUT_OF_MEMORY, "no memory for its name");
}

static const saei_layout *saei_layout_of(sae_arch arch) {
    for (size_t i = 0; i < SAEI_NUM_LAYOUTS; i++)
        if (saei_layouts[i].arch == arch) return &saei_layouts[i];
    return NULL;
}

static bool saei_is_top_k_class(sae_arch arch) {
    return arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K;
}

/* The class by the reference's name, of today or of 2024; DEFAULT if it is none. */
static sae_arch saei_arch_from_name(const char *name) {
    static const struct {
        const char *name;
        sae_arch arch;
    } names[] = {
#define SAE_X(arch, value, text) { text, arch },
        SAE_ARCHS(SAE_X)
#undef SAE_X
        { "MatroyshkaBatchTopKSAE", SAE_ARCH_MATRYOSHKA }
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i].name) == 0) return names[i].arch;
    return SAE_ARCH_DEFAULT;
}

static const struct {
    const char *name;
    sae_format format;
} saei_format_names[] = {
#define SAE_X(format, value, text) { text, format },
    SAE_FORMATS(SAE_X)
#undef SAE_X
};
enum { SAEI_NUM_FORMATS = sizeof saei_format_names / sizeof saei_format_names[0] };

SAE_API const char *sae_format_name(sae_format format) {
    for (size_t i = 0; i < SAEI_NUM_FORMATS; i++)
        if (saei_format_names[i].format == format) return saei_format_names[i].name;
    return "none";
}

SAE_API bool sae_format_from_name(const char *name, sae_format *out) {
    if (!name || !out) return false;
    for (size_t i = 0; i < SAEI_NUM_FORMATS; i++) {
        if (strcmp(name, saei_format_names[i].name) != 0) continue;
        *out = saei_format_names[i].format;
        return true;
    }
    return false;
}

/* The whole of text is a finite number, in JSON's notation or beginning with the point. */
static bool saei_text_number(const char *text, size_t size, double *out) {
    char zero[64];
    int64_t integer;
    bool is_integer;
    size_t used;
    if (size && size < sizeof zero - 1 && text[0] == '.') {
        zero[0] = '0';
        memcpy(zero + 1, text, size++);
        text = zero;
    }
    used = saei_parse_number(text, size, out, &integer, &is_integer);
    return size && used == size && fabs(*out) <= DBL_MAX;
}

/* ---- the config file beside a dictionary ---- */

/* sae_load_desc.config, else the file `name` beside load->file, or one folder up if that folder is
   `checkpoints`, into root. There need not be one. */
static sae_result saei_load_config(saei_load *load, const char *name) {
    size_t folder = saei_folder_length(load->file, strlen(load->file));
    size_t parent = folder ? saei_folder_length(load->file, folder - 1) : 0;
    size_t size = folder + strlen(name) + 1;
    bool inside = folder - parent == 12 && strncmp(load->file + parent, "checkpoints", 11) == 0;
    saei_path_kind kind = SAEI_PATH_NONE;
    if (load->config_name && strcmp(load->config_name, name) == 0) return SAE_OK;
    saei_free(load->ctx, load->config_path);
    sae_json_close(load->root);
    load->root = NULL;
    load->config_name = NULL;
    load->config_path = (char *)saei_alloc(load->ctx, size, 1);
    if (!load->config_path) return saei_load_no_memory(load);
    load->config_name = name;
    snprintf(load->config_path, size, "%.*s%s", (int)folder, load->file, name);
    if (load->desc.config) {
        SAEI_TRY(saei_json_parse(load->ctx, load->config_path, (const char *)load->desc.config,
                                 load->desc.config_size, &load->root));
    } else if (!load->data) {
        SAEI_TRY(saei_path_find(load->ctx, "sae_dictionary_load", load->config_path, &kind));
        if (inside && kind != SAEI_PATH_FILE) {
            snprintf(load->config_path, size, "%.*s%s", (int)parent, load->file, name);
            SAEI_TRY(saei_path_find(load->ctx, "sae_dictionary_load", load->config_path, &kind));
        }
        if (kind == SAEI_PATH_FILE)
            SAEI_TRY(saei_json_load(load->ctx, "sae_dictionary_load", load->config_path,
                                    &load->root));
    }
    if (!load->root || load->root->type == SAE_JSON_OBJECT) return SAE_OK;
    return saei_load_fail(load, SAE_ERR_FORMAT, "%s is not a JSON object", name);
}

/* The value of a key; NULL where it is absent or null. */
static const sae_json *saei_config_value(const sae_json *object, const char *key) {
    const sae_json *v = sae_json_get(object, key);
    return v && v->type != SAE_JSON_NULL ? v : NULL;
}

static const char *saei_config_text(const sae_json *object, const char *key) {
    return sae_json_text(sae_json_get(object, key));
}

static sae_result saei_config_refused(const saei_load *load, const char *key, const sae_json *v,
                                      const char *allowed) {
    static const char *const kinds[] = { "null", "a bool", "a number", "a text", "a list",
                                         "an object" };
    char quoted[SAEI_QUOTE];
    const char *given = v->string ? saei_quote(v->string, quoted) : kinds[v->type];
    if (v->type == SAE_JSON_BOOL) given = v->number != 0 ? "true" : "false";
    return saei_load_fail(load, SAE_ERR_FORMAT, "%s in %s is %s, allowed is %s", key,
                          load->config_name, given, allowed);
}

/* A whole number of load->config; *out stays where it is absent or null. */
static sae_result saei_config_size(const saei_load *load, const char *key, size_t *out) {
    const sae_json *v = saei_config_value(load->config, key);
    if (!v) return SAE_OK;
    if (v->type != SAE_JSON_NUMBER || !v->is_integer || v->integer < 0 || v->integer > INT32_MAX)
        return saei_config_refused(load, key, v, "a whole number");
    *out = (size_t)v->integer;
    return SAE_OK;
}

/* The same, and it must be there and not 0. */
static sae_result saei_config_required(const saei_load *load, const char *key, size_t *out) {
    const sae_json *v = saei_config_value(load->config, key);
    *out = 0;
    SAEI_TRY(saei_config_size(load, key, out));
    if (*out) return SAE_OK;
    if (v) return saei_config_refused(load, key, v, "a whole number from 1");
    return saei_load_fail(load, SAE_ERR_FORMAT, "%s has no %s", load->config_name, key);
}

static sae_result saei_config_bool(const saei_load *load, const char *key, bool *out) {
    const sae_json *v = saei_config_value(load->config, key);
    if (!v) return SAE_OK;
    if (v->type != SAE_JSON_BOOL) return saei_config_refused(load, key, v, "true or false");
    *out = v->number != 0;
    return SAE_OK;
}

/* Text cut to fit, at a whole character; NULL is "". */
static void saei_origin_text(char *out, size_t size, const char *text) {
    size_t n = 0;
    if (text) n = strlen(text);
    if (n >= size)
        for (n = size - 1; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80; n--) {}
    if (n) memcpy(out, text, n);
    out[n] = 0;
}

/* The number of the layer in "blocks.3.hook_mlp_out", "layers.10.mlp", "layer_3"; -1: none. */
static int64_t saei_layer_of(const char *place) {
    static const char *const before[] = { "blocks.", "layers.", "layer_", "h." };
    for (size_t i = 0; place && i < sizeof before / sizeof before[0]; i++) {
        const char *at = strstr(place, before[i]);
        int64_t layer = 0;
        size_t digits = 0;
        if (!at) continue;
        at += strlen(before[i]);
        for (; at[digits] >= '0' && at[digits] <= '9' && digits < 9; digits++)
            layer = layer * 10 + (at[digits] - '0');
        if (digits) return layer;
    }
    return -1;
}

/* ==== >>files: tensors into a dictionary ============================= src/formats/draft.h ==== */

/* Adds a name from a file to a list for a message; "..." stands for those that find no room. */
static void saei_list_name(char list[SAEI_NAMES], const char *name) {
    char quoted[SAEI_QUOTE];
    size_t at = strlen(list);
    if (at + SAEI_QUOTE + 8 <= SAEI_NAMES)
        snprintf(list + at, SAEI_NAMES - at, "%s%s", at ? ", " : "", saei_quote(name, quoted));
    else if (!saei_ends_with(list, ", ..."))
        snprintf(list + at, SAEI_NAMES - at, ", ...");
}

/* The tensor `key` under the prefix; NULL if there is none. */
static const sae_tensor *saei_load_find(const saei_load *load, const char *key) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", load->prefix, key);
    return sae_tensor_file_find(load->tensors, name);
}

/* The file may hold a tensor of that name, for that place. */
static const sae_tensor *saei_draft_may(saei_draft *draft, const char *name, saei_slot slot) {
    const sae_tensor *t = saei_load_find(draft->load, name);
    if (draft->count == SAEI_MAX_KEYS) return NULL;
    draft->keys[draft->count].name = name;
    draft->keys[draft->count].slot = slot;
    draft->keys[draft->count++].tensor = t;
    return t;
}

/* It must hold one: under name, or under another (NULL: none) for another place. */
static void saei_draft_must(saei_draft *draft, const char *name, saei_slot slot,
                            const char *other, saei_slot other_slot) {
    if (saei_load_find(draft->load, name) || !other || !saei_load_find(draft->load, other)) {
        if (!saei_draft_may(draft, name, slot)) saei_list_name(draft->lacks, name);
    } else saei_draft_may(draft, other, other_slot);
}

/* True where the file has what it must have and nothing besides. */
static bool saei_draft_fits(saei_draft *draft) {
    const saei_load *load = draft->load;
    const size_t prefix = strlen(load->prefix);
    for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++) {
        const sae_tensor *t = sae_tensor_file_get(load->tensors, i);
        bool known = strncmp(t->name, load->prefix, prefix) != 0;
        for (size_t k = 0; k < draft->count; k++) known = known || t == draft->keys[k].tensor;
        if (!known) saei_list_name(draft->besides, t->name + prefix);
    }
    return !*draft->lacks && !*draft->besides;
}

static sae_result saei_draft_misfit(const saei_draft *draft, const char *as) {
    return saei_load_fail(draft->load, SAE_ERR_FORMAT, "as %s it%s%s%s%s%s", as,
                          *draft->lacks ? " lacks " : "", draft->lacks,
                          *draft->lacks && *draft->besides ? "," : "",
                          *draft->besides ? " has besides " : "", draft->besides);
}

static bool saei_is_scalar(const sae_tensor *t) {
    return t->ndim == 0 || (t->ndim == 1 && t->shape[0] == 1);
}

/* Element `index` of a tensor of whole numbers; false for other types and for negative ones. */
static bool saei_tensor_whole(const sae_tensor *t, size_t index, uint64_t *out) {
    size_t size = sae_dtype_size(t->dtype);
    const unsigned char *p = (const unsigned char *)t->data;
    bool negative = t->dtype == SAE_I8 || t->dtype == SAE_I16 || t->dtype == SAE_I32
                    || t->dtype == SAE_I64;
    *out = 0;
    if (!negative && t->dtype != SAE_U8 && t->dtype != SAE_U16 && t->dtype != SAE_U32
        && t->dtype != SAE_U64)
        return false;
    if (t->ndim) p += (int64_t)index * t->stride[0] * (int64_t)size;
    for (size_t i = 0; i < size; i++) *out |= (uint64_t)p[i] << (8 * i);
    return !negative || !(*out >> (8 * size - 1));
}

/* The shape that desc asks of a slot: rows 0 for a vector of cols. */
static void saei_slot_shape(const sae_dictionary_desc *desc, saei_slot slot, uint64_t *rows,
                            uint64_t *cols) {
    uint64_t d = desc->activation_dim, m = desc->dict_size, out = saei_output_dim(desc);
    *rows = 0;
    *cols = m;
    if (slot == SAEI_SLOT_W_ENC) *rows = m, *cols = d;
    if (slot == SAEI_SLOT_W_ENC_T) *rows = d;
    if (slot == SAEI_SLOT_W_DEC) *rows = m, *cols = out;
    if (slot == SAEI_SLOT_W_DEC_T) *rows = out;
    if (slot == SAEI_SLOT_W_SKIP) *rows = out, *cols = d;
    if (slot == SAEI_SLOT_W_SKIP_T) *rows = d, *cols = out;
    if (slot == SAEI_SLOT_B_DEC) *cols = out;
    if (slot == SAEI_SLOT_THRESHOLD) *cols = 1;
}

/* Type and shape of tensor `key` against the desc. */
static sae_result saei_draft_check(const saei_draft *draft, size_t key) {
    const sae_tensor *t = draft->keys[key].tensor;
    const saei_slot slot = draft->keys[key].slot;
    uint64_t rows, cols, span;
    char got[128] = "", want[32] = "";
    if (!t || slot == SAEI_SLOT_K || slot == SAEI_SLOT_GROUPS || slot == SAEI_SLOT_NOTHING)
        return SAE_OK;
    if (t->dtype != SAE_F32 && t->dtype != SAE_F16 && t->dtype != SAE_BF16 && t->dtype != SAE_F64)
        return saei_load_fail(draft->load, SAE_ERR_UNSUPPORTED,
                              "%s is %s, allowed are F32, F16, BF16, "
                              "F64",
                              t->name, sae_dtype_name(t->dtype));
    if (slot == SAEI_SLOT_THRESHOLD && saei_is_scalar(t)) return SAE_OK;
    saei_slot_shape(&draft->desc, slot, &rows, &cols);
    if (rows ? t->ndim != 2 || t->shape[0] != rows || t->shape[1] != cols
             : t->ndim != 1 || t->shape[0] != cols) {
        for (size_t i = 0; i < t->ndim && i < 4; i++)
            snprintf(got + strlen(got), 24, "%s%llu", i ? "," : "",
                     (unsigned long long)t->shape[i]);
        if (rows) snprintf(want, sizeof want, "%llu,", (unsigned long long)rows);
        return saei_load_fail(draft->load, SAE_ERR_MISMATCH,
                              "%s has the shape [%s], must be [%s%llu]", t->name, got, want,
                              (unsigned long long)cols);
    }
    if (!rows) return SAE_OK;
    span = (rows - 1) * (uint64_t)t->stride[0] + (cols - 1) * (uint64_t)t->stride[1] + 1;
    if (rows <= span / cols) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT,
                          "entries of %s lie on each other: strides %lld, "
                          "%lld",
                          t->name, (long long)t->stride[0], (long long)t->stride[1]);
}

/* Sets d and m from the encoder's tensor, and output_dim from the decoder's. */
static sae_result saei_draft_sizes(saei_draft *draft) {
    for (size_t k = 0; k < draft->count; k++) {
        const sae_tensor *t = draft->keys[k].tensor;
        const saei_slot slot = draft->keys[k].slot;
        bool enc = slot == SAEI_SLOT_W_ENC || slot == SAEI_SLOT_W_ENC_T;
        size_t latents = slot == SAEI_SLOT_W_ENC || slot == SAEI_SLOT_W_DEC ? 0 : 1;
        if (!t || (!enc && slot != SAEI_SLOT_W_DEC && slot != SAEI_SLOT_W_DEC_T)) continue;
        if (t->ndim != 2 || !t->shape[0] || !t->shape[1] || t->shape[0] > INT32_MAX
            || t->shape[1] > INT32_MAX)
            return saei_load_fail(draft->load, SAE_ERR_FORMAT,
                                  "%s is no matrix of 1 to %d rows and "
                                  "columns",
                                  t->name, INT32_MAX);
        if (enc) draft->desc.dict_size = (size_t)t->shape[latents];
        *(enc ? &draft->desc.activation_dim : &draft->desc.output_dim) =
            (size_t)t->shape[1 - latents];
    }
    return SAE_OK;
}

/* view [rows,cols] into dst, whose rows lie ld apart. Bands of 64 follow the file, so that its
   pages can be given back as they are done with; a band's bytes are in the cache for their CRC. */
enum { SAEI_FILE_TILE = 64 };
typedef struct saei_read_job {
    const sae_tensor_file *file;
    const saei_kernels *kernels;
    sae_tensor view;
    float *dst;
    size_t ld;
    bool by_columns; /* columns lie further apart in the file than rows */
    uint32_t *crc;   /* of each band; NULL: not asked for */
    int lock;
    bool not_finite;
} saei_read_job;

/* Rows of n values become columns of dst; false where one is not finite. */
static bool saei_read_transposed(const saei_read_job *job, const void *const *row, size_t rows,
                                 size_t n, float *dst) {
    bool finite = true;
    size_t i = 0;
    for (; i + 16 <= rows; i += 16)
        finite = job->kernels->copy_transposed(row + i, n, dst + i, job->ld) && finite;
    for (; i < rows; i++) {
        for (size_t c = 0; c < n; c++)
            memcpy(dst + c * job->ld + i, (const unsigned char *)row[i] + 4 * c, 4);
        finite = saei_all_finite(row[i], n) && finite;
    }
    return finite;
}

static void saei_read_band(void *arg, size_t band) {
    saei_read_job *job = (saei_read_job *)arg;
    float tile[SAEI_FILE_TILE * SAEI_FILE_TILE];
    const void *row[SAEI_FILE_TILE];
    const size_t size = sae_dtype_size(job->view.dtype), lead = job->by_columns ? 1 : 0;
    const size_t first = band * SAEI_FILE_TILE, length = (size_t)job->view.shape[1 - lead];
    const size_t rows = saei_min((size_t)job->view.shape[lead] - first, SAEI_FILE_TILE);
    const int64_t step = job->view.stride[lead] * (int64_t)size;
    const int64_t inner = job->view.stride[1 - lead] * (int64_t)size;
    const unsigned char *src = (const unsigned char *)job->view.data + (int64_t)first * step;
    const size_t bytes = (size_t)step * rows;
    bool whole = inner == (int64_t)size, finite = true;
    bool direct = whole && job->view.dtype == SAE_F32;
    size_t wide = direct && !lead ? length : (size_t)SAEI_FILE_TILE;
    if (job->crc) job->crc[band] = saei_crc(&job->file->crc, 0, src, bytes);
    for (size_t at = 0; at < length; at += wide) {
        size_t n = saei_min(length - at, wide);
        for (size_t i = 0; i < rows; i++) {
            const unsigned char *from = src + (int64_t)i * step + (int64_t)at * inner;
            row[i] = direct ? (const void *)from : (const void *)(tile + i * n);
        }
        if (!direct)
            saei_matrix_to_f32(job->view.dtype, src + (int64_t)at * inner, rows, n, step, inner,
                               tile);
        if (lead)
            finite = saei_read_transposed(job, row, rows, n, job->dst + at * job->ld + first)
                     && finite;
        else
            for (size_t i = 0; i < rows; i++)
                finite = job->kernels->copy(n, row[i], job->dst + (first + i) * job->ld + at)
                         && finite;
    }
    if (whole) saei_map_release(job->file->ctx, &job->file->map, src, bytes);
    if (finite) return;
    saei_lock(&job->lock);
    job->not_finite = true;
    saei_unlock(&job->lock);
}

/* The CRC of the entry around what the bands of the job were, against the archive's. */
static sae_result saei_read_compare(const saei_read_job *job, sae_tensor_file *file,
                                    saei_zip_entry *e, size_t band_bytes, size_t bytes) {
    const size_t begin = (size_t)((const unsigned char *)job->view.data - e->data);
    const uint32_t shift = saei_crc_shift(band_bytes);
    uint32_t crc = saei_crc_large(file, e->data, begin);
    for (size_t at = 0, band = 0; at < bytes; at += band_bytes, band++) {
        size_t n = saei_min(band_bytes, bytes - at);
        crc = saei_crc_product(crc, n == band_bytes ? shift : saei_crc_shift(n)) ^ job->crc[band];
    }
    crc = saei_crc_product(crc, saei_crc_shift(e->size - begin - bytes))
          ^ saei_crc_large(file, e->data + begin + bytes, e->size - begin - bytes);
    return saei_zip_compare(file, e, crc);
}

/* Runs the job. The CRC of the zip entry that holds the tensor is checked with it: band by band
   while it is read where the tensor is most of the entry, else before. */
static sae_result saei_read_run(sae_tensor_file *file, saei_read_job *job, saei_zip_entry *e) {
    const size_t lead = job->by_columns ? 1 : 0, rows = (size_t)job->view.shape[lead];
    const size_t length = (size_t)job->view.shape[1 - lead];
    const size_t row_bytes = length * sae_dtype_size(job->view.dtype);
    const size_t bands = saei_ceil_div(rows, SAEI_FILE_TILE);
    sae_result result = SAE_OK;
    if (e && !e->checked && rows && job->view.stride[1 - lead] == 1
        && job->view.stride[lead] == (int64_t)length && row_bytes * rows > e->size / 2)
        job->crc = (uint32_t *)saei_alloc(file->ctx, bands, sizeof *job->crc);
    if (e && !job->crc) SAEI_TRY(saei_zip_check(file, e));
    saei_parallel(file->ctx, bands, saei_read_band, job);
    if (job->crc)
        result = saei_read_compare(job, file, e, row_bytes * saei_min(rows, SAEI_FILE_TILE),
                                   row_bytes * rows);
    saei_free(file->ctx, job->crc);
    return result;
}

/* The latents asked for of a tensor whose axis `axis` they are (-1: it has none). */
static sae_tensor saei_draft_part(const saei_draft *draft, const sae_tensor *t, int axis) {
    sae_tensor part = *t;
    if (axis < 0 || !draft->part) return part;
    part.data = (const unsigned char *)t->data
                + (int64_t)draft->load->desc.first_latent * t->stride[axis]
                      * (int64_t)sae_dtype_size(t->dtype);
    part.shape[axis] = draft->part;
    return part;
}

/* A tensor into rows of dst that lie ld apart, transposed where flip says; a vector is a
   matrix of one row. */
static sae_result saei_draft_read(const saei_draft *draft, const sae_tensor *tensor, int axis,
                                  bool flip, float *dst, size_t ld) {
    const sae_tensor part = saei_draft_part(draft, tensor, axis), *t = &part;
    const bool cut = axis >= 0 && part.shape[axis] != tensor->shape[axis];
    sae_tensor_file *file = draft->load->tensors;
    saei_read_job job;
    memset(&job, 0, sizeof job);
    job.file = file;
    job.kernels = draft->load->ctx->kernels;
    job.view = *t;
    job.ld = ld;
    job.dst = dst;
    job.view.ndim = 2;
    job.view.shape[0] = t->ndim == 2 ? t->shape[flip ? 1 : 0] : 1;
    job.view.shape[1] = t->ndim == 2 ? t->shape[flip ? 0 : 1] : t->ndim ? t->shape[0] : 1;
    job.view.stride[0] = t->ndim == 2 ? t->stride[flip ? 1 : 0] : (int64_t)job.view.shape[1];
    job.view.stride[1] = t->ndim == 2 ? t->stride[flip ? 0 : 1] : t->ndim ? t->stride[0] : 1;
    job.by_columns = t->ndim == 2 && job.view.stride[1] > job.view.stride[0];
    if (job.view.shape[job.by_columns] == 1) /* no step is taken along it: its stride is anything */
        job.view.stride[job.by_columns] = (int64_t)job.view.shape[!job.by_columns];
    file->who = "sae_dictionary_load";
    SAEI_TRY(saei_read_run(file, &job,
                           cut ? NULL : ((const saei_file_tensor *)(const void *)tensor)->entry));
    if (!job.not_finite) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT, "%s holds NaN or infinity", tensor->name);
}

/* W_dec[i] *= scale[i]: SAELens' finetuning_scaling_factor. */
static sae_result saei_draft_scale(const saei_draft *draft, const sae_tensor *t,
                                   sae_dictionary *dict) {
    float *scale = (float *)saei_alloc(dict->ctx, dict->desc.dict_size, sizeof *scale);
    sae_result result;
    if (!scale)
        return saei_load_fail(draft->load, SAE_ERR_OUT_OF_MEMORY, "no memory for %s", t->name);
    result = saei_draft_read(draft, t, 0, false, scale, 0);
    for (size_t i = 0; result == SAE_OK && i < dict->desc.dict_size; i++)
        for (size_t c = 0; c < dict->ld_out; c++) dict->W_dec[i * dict->ld_out + c] *= scale[i];
    saei_free(dict->ctx, scale);
    return result;
}

/* Tensor `key` into its place. */
static sae_result saei_draft_place(const saei_draft *draft, size_t key, sae_dictionary *dict) {
    const sae_tensor *t = draft->keys[key].tensor;
    const size_t ld = dict->ld, ld_out = dict->ld_out;
    if (!t) return SAE_OK;
    switch (draft->keys[key].slot) {
    case SAEI_SLOT_W_ENC: return saei_draft_read(draft, t, 0, false, dict->W_enc, ld);
    case SAEI_SLOT_W_ENC_T: return saei_draft_read(draft, t, 1, true, dict->W_enc, ld);
    case SAEI_SLOT_W_DEC: return saei_draft_read(draft, t, 0, false, dict->W_dec, ld_out);
    case SAEI_SLOT_W_DEC_T: return saei_draft_read(draft, t, 1, true, dict->W_dec, ld_out);
    case SAEI_SLOT_W_SKIP: return saei_draft_read(draft, t, -1, false, dict->W_skip, ld);
    case SAEI_SLOT_W_SKIP_T: return saei_draft_read(draft, t, -1, true, dict->W_skip, ld);
    case SAEI_SLOT_B_ENC: return saei_draft_read(draft, t, 0, false, dict->b_enc, 0);
    case SAEI_SLOT_AUX0: return saei_draft_read(draft, t, 0, false, dict->aux0, 0);
    case SAEI_SLOT_AUX1: return saei_draft_read(draft, t, 0, false, dict->aux1, 0);
    case SAEI_SLOT_B_DEC: return saei_draft_read(draft, t, -1, false, dict->b_dec, 0);
    case SAEI_SLOT_THRESHOLD: return saei_draft_read(draft, t, -1, false, &dict->threshold, 0);
    case SAEI_SLOT_SCALE: return saei_draft_scale(draft, t, dict); /* after W_dec in the keys */
    case SAEI_SLOT_K:
    case SAEI_SLOT_GROUPS:
    case SAEI_SLOT_NOTHING: break;
    }
    return SAE_OK;
}

/* The desc of the latents asked for: draft->part of them, 0 for all. k and the groups are cut to
   what is there. */
static sae_result saei_draft_cut(saei_draft *draft, sae_dictionary_desc *desc) {
    const saei_load *load = draft->load;
    const size_t m = draft->desc.dict_size, first = load->desc.first_latent;
    size_t end, begin = 0, groups = 0;
    *desc = draft->desc;
    if (!first && !load->desc.num_latents) return SAE_OK;
    if (first >= m)
        return saei_load_fail(load, SAE_ERR_INVALID,
                              "sae_load_desc.first_latent is %zu, allowed are 0 "
                              "to %zu",
                              first, m - 1);
    end = load->desc.num_latents && load->desc.num_latents < m - first
              ? first + load->desc.num_latents : m;
    if (end - first == m) return SAE_OK;
    if (desc->arch == SAE_ARCH_IDENTITY || desc->activation == SAE_ACTIVATION_GROUP_MAX)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "sae_load_desc asks for %zu of its %zu "
                              "latents: %s needs them all", end - first, m,
                              desc->activation ? "group max" : "IdentityDict");
    draft->part = desc->dict_size = end - first;
    desc->k = saei_min(desc->k, desc->dict_size);
    for (size_t g = 0; g < desc->num_groups; g++) {
        size_t low = saei_max(begin, first), high = saei_min(begin + desc->group_sizes[g], end);
        begin += desc->group_sizes[g];
        if (low < high) desc->group_sizes[groups++] = high - low;
    }
    for (size_t g = groups; g < desc->num_groups; g++) desc->group_sizes[g] = 0;
    desc->num_groups = groups;
    return SAE_OK;
}

/* The dictionary of a draft whose desc is complete: every tensor checked, then read. */
static sae_result saei_draft_make(saei_draft *draft, sae_dictionary **out) {
    sae_dictionary *dict;
    sae_dictionary_desc desc;
    sae_result result = SAE_OK;
    for (size_t k = 0; k < draft->count; k++) SAEI_TRY(saei_draft_check(draft, k));
    SAEI_TRY(saei_draft_cut(draft, &desc));
    SAEI_TRY(saei_dictionary_unset(draft->load->ctx, "sae_dictionary_load", &desc, &dict));
    dict->origin.dict_size = draft->desc.dict_size;
    dict->origin.k = draft->desc.k;
    dict->origin.first_latent = draft->part ? draft->load->desc.first_latent : 0;
    for (size_t k = 0; k < draft->count && result == SAE_OK; k++) {
        const saei_slot slot = draft->keys[k].slot;
        result = saei_draft_place(draft, k, dict);
        if (slot == SAEI_SLOT_W_ENC || slot == SAEI_SLOT_W_ENC_T)
            dict->origin.dtype = draft->keys[k].tensor->dtype;
    }
    if (result == SAE_OK) *out = dict;
    else sae_dictionary_destroy(dict);
    return result;
}

/* ==== >>files: saving ================================================= src/formats/save.h ==== */

/* src [m][ld] into dst [m][d], or transposed into dst [d][m], a band of latents at a time. */
typedef struct saei_write_job {
    const float *src;
    float *dst;
    size_t m, d, ld;
    bool transposed;
} saei_write_job;

static void saei_write_band(void *arg, size_t band) {
    const saei_write_job *job = (const saei_write_job *)arg;
    size_t first = band * SAEI_FILE_TILE, last = saei_min(job->m, first + SAEI_FILE_TILE);
    if (!job->transposed) {
        for (size_t i = first; i < last; i++)
            memcpy(job->dst + i * job->d, job->src + i * job->ld, job->d * sizeof(float));
        return;
    }
    for (size_t c = 0; c < job->d; c += 16) {
        size_t end = saei_min(job->d, c + 16);
        for (size_t j = c; j < end; j++)
            for (size_t i = first; i < last; i++)
                job->dst[j * job->m + i] = job->src[i * job->ld + j];
    }
}

/* A matrix [rows,columns] as the file has it: in place if it lies so already, else a copy in
   *copy. */
static sae_result saei_save_matrix(const sae_dictionary *dict, const float *src, size_t rows,
                                   size_t columns, bool transposed, sae_tensor *t, float **copy) {
    saei_write_job job;
    size_t count;
    job.src = src;
    job.m = rows;
    job.d = columns;
    job.ld = saei_align16(columns);
    job.transposed = transposed;
    t->ndim = 2;
    t->shape[0] = transposed ? job.d : job.m;
    t->shape[1] = transposed ? job.m : job.d;
    t->data = src;
    if (!transposed && job.ld == job.d) return SAE_OK;
    if (saei_mul(job.m, job.d, &count))
        *copy = (float *)saei_alloc(dict->ctx, count, sizeof(float));
    if (!*copy)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_dictionary_save: no memory for %s",
                         t->name);
    job.dst = *copy;
    saei_parallel(dict->ctx, saei_ceil_div(job.m, SAEI_FILE_TILE), saei_write_band, &job);
    t->data = *copy;
    return SAE_OK;
}

/* Tensor `slot` of dict. k and groups: room for what the dictionary holds as size_t. */
static sae_result saei_save_tensor(const sae_dictionary *dict, saei_slot slot, int32_t *k,
                                   int64_t *groups, sae_tensor *t, float **copy) {
    const sae_dictionary_desc *desc = &dict->desc;
    const size_t d = desc->activation_dim, m = desc->dict_size, out = saei_output_dim(desc);
    t->dtype = slot == SAEI_SLOT_K ? SAE_I32 : slot == SAEI_SLOT_GROUPS ? SAE_I64 : SAE_F32;
    t->ndim = 1;
    t->shape[0] = desc->dict_size;
    switch (slot) {
    case SAEI_SLOT_W_ENC:
    case SAEI_SLOT_W_ENC_T:
        return saei_save_matrix(dict, dict->W_enc, m, d, slot == SAEI_SLOT_W_ENC_T, t, copy);
    case SAEI_SLOT_W_DEC:
    case SAEI_SLOT_W_DEC_T:
        return saei_save_matrix(dict, dict->W_dec, m, out, slot == SAEI_SLOT_W_DEC_T, t, copy);
    case SAEI_SLOT_W_SKIP:
    case SAEI_SLOT_W_SKIP_T:
        return saei_save_matrix(dict, dict->W_skip, out, d, slot == SAEI_SLOT_W_SKIP_T, t, copy);
    case SAEI_SLOT_B_ENC: t->data = dict->b_enc; break;
    case SAEI_SLOT_AUX0: t->data = dict->aux0; break;
    case SAEI_SLOT_AUX1: t->data = dict->aux1; break;
    case SAEI_SLOT_B_DEC:
        t->shape[0] = out;
        t->data = dict->b_dec;
        break;
    case SAEI_SLOT_K:
        *k = (int32_t)desc->k;
        t->ndim = 0;
        t->data = k;
        break;
    case SAEI_SLOT_THRESHOLD:
        t->ndim = 0;
        t->data = &dict->threshold;
        break;
    case SAEI_SLOT_GROUPS:
        for (size_t g = 0; g < desc->num_groups; g++) groups[g] = (int64_t)desc->group_sizes[g];
        t->shape[0] = desc->num_groups;
        t->data = groups;
        break;
    case SAEI_SLOT_SCALE:
    case SAEI_SLOT_NOTHING: break;
    }
    return SAE_OK;
}

/* Tensors of the dictionary under these names into the file `name`, or into memory, *data [*size],
   where data is not NULL. */
static sae_result saei_save_keys(const sae_dictionary *dict, const char *name, const saei_key *keys,
                                 size_t count, void **data, size_t *size) {
    sae_tensor tensors[SAEI_MAX_KEYS];
    saei_content content = { name, tensors, count, NULL, NULL, 0 };
    float *copies[SAEI_MAX_KEYS] = { NULL };
    int64_t groups[SAE_MAX_GROUPS];
    sae_result result = SAE_OK;
    int32_t k;
    memset(tensors, 0, sizeof tensors);
    for (size_t i = 0; i < count && result == SAE_OK; i++) {
        tensors[i].name = keys[i].name;
        result = saei_save_tensor(dict, keys[i].slot, &k, groups, &tensors[i], &copies[i]);
    }
    if (result == SAE_OK)
        result = data ? saei_content_memory(dict->ctx, &content, data, size)
                      : saei_content_write(dict->ctx, &content, NULL);
    for (size_t i = 0; i < SAEI_MAX_KEYS; i++) saei_free(dict->ctx, copies[i]);
    return result;
}

/* The reference's state_dict. */
static sae_result saei_save_all(const sae_dictionary *dict, const char *who, const char *name,
                                void **data, size_t *size) {
    const saei_layout *layout;
    if (!saei_is_plain(&dict->desc) || dict->desc.subtract_b_dec)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "%s: the dictionary is %s with variations (or subtract_b_dec), which the "
                         "reference's state_dict cannot say; sae_dictionary_export writes it in "
                         "other forms", who, sae_arch_name(dict->desc.arch));
    layout = saei_layout_of(dict->desc.arch);
    return saei_save_keys(dict, name, layout->keys, layout->count, data, size);
}

SAE_API sae_result sae_dictionary_save(const sae_dictionary *dict, const char *path) {
    if (!dict || !path)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_save: dict or path is NULL");
    return saei_save_all(dict, "sae_dictionary_save", path, NULL, NULL);
}

SAE_API sae_result sae_dictionary_save_memory(const sae_dictionary *dict, const char *name,
                                              void **data, size_t *size) {
    if (!dict || !name || !data || !size)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_save_memory: dict, name, data or size is NULL");
    return saei_save_all(dict, "sae_dictionary_save_memory", name, data, size);
}

/* ==== >>files: what all exports share =============================== src/formats/export.h ==== */

/* A copy of a dictionary on its way out, in the form that the format can say. */
typedef struct saei_export {
    sae_context *ctx;
    const sae_export_desc *desc;
    sae_origin origin;
    const char *folder;
    sae_dictionary *dict;
} saei_export;

static sae_result saei_export_refused(const saei_export *e, const char *why) {
    return saei_fail(e->ctx, SAE_ERR_UNSUPPORTED, "sae_dictionary_export: %s has no %s",
                     sae_format_name(e->desc->format), why);
}

#define SAEI_NOTE(e, level, ...) saei_log((e)->ctx, level, "sae_dictionary_export: " __VA_ARGS__)

/* b_dec into the encoder's input, or out of it, at the cost of its biases:
   W (x - b_dec) + b = W x + (b - W b_dec). */
static void saei_export_centre(sae_dictionary *dict, bool subtract) {
    size_t d = dict->desc.activation_dim;
    if (subtract == saei_subtracts(&dict->desc)) return;
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        const float *w = dict->W_enc + i * dict->ld;
        double shift = 0;
        for (size_t c = 0; c < d; c++) shift += (double)w[c] * (double)dict->b_dec[c];
        if (!subtract) shift = -shift;
        dict->b_enc[i] = (float)((double)dict->b_enc[i] + shift);
        if (dict->desc.arch == SAE_ARCH_GATED)
            dict->aux1[i] = (float)((double)dict->aux1[i]
                                    + saei_exp((double)dict->aux0[i]) * shift);
    }
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU) dict->desc.subtract_b_dec = subtract;
    else dict->desc.no_b_dec_subtraction = !subtract;
}

/* The same encoder and decoder with the scalar threshold for each latent. */
static sae_result saei_export_jump_relu(saei_export *e) {
    sae_dictionary *from = e->dict, *to = NULL;
    sae_dictionary_desc desc = from->desc;
    size_t m = desc.dict_size;
    desc.arch = SAE_ARCH_JUMP_RELU;
    desc.subtract_b_dec = saei_subtracts(&from->desc);
    desc.no_b_dec_subtraction = false;
    desc.k = desc.num_groups = 0;
    desc.k_fraction = 0;
    SAEI_TRY(saei_dictionary_new(e->ctx, "sae_dictionary_export", &desc, &to));
    memcpy(to->W_enc, from->W_enc, m * from->ld * sizeof(float));
    memcpy(to->W_dec, from->W_dec, m * from->ld_out * sizeof(float));
    memcpy(to->b_enc, from->b_enc, m * sizeof(float));
    memcpy(to->b_dec, from->b_dec, from->ld_out * sizeof(float));
    if (to->W_skip) memcpy(to->W_skip, from->W_skip, desc.output_dim * from->ld * sizeof(float));
    for (size_t i = 0; i < m; i++) to->aux0[i] = from->threshold;
    to->origin = from->origin;
    sae_dictionary_destroy(from);
    e->dict = to;
    SAEI_NOTE(e, SAE_LOG_INFO, "the threshold, %g, stands for each of the %zu latents",
              (double)to->aux0[0], m);
    return SAE_OK;
}

/* A batch class that chooses over the batch goes by its threshold elsewhere, if it has one. */
static sae_result saei_export_batch(const saei_export *e) {
    const sae_dictionary *dict = e->dict;
    if (dict->active_groups < dict->desc.num_groups)
        SAEI_NOTE(e, SAE_LOG_WARNING, "active_groups is %zu, all %zu groups are written",
                  dict->active_groups, dict->desc.num_groups);
    if (dict->rule != SAE_RULE_TOP_K) return SAE_OK;
    if (dict->threshold < 0)
        return saei_export_refused(e, "batch top-k at inference, and the threshold was never set");
    SAEI_NOTE(e, SAE_LOG_WARNING, "batch top-k at inference becomes the threshold, %g",
              (double)dict->threshold);
    return SAE_OK;
}

static sae_result saei_export_text(const saei_export *e, const char *name, saei_text *t) {
    return saei_text_write(t, "sae_dictionary_export", e->folder, name);
}

static sae_result saei_export_tensors(const saei_export *e, const char *name, const saei_key *keys,
                                      size_t count) {
    char *path = saei_path_join(e->ctx, e->folder, name);
    sae_result result;
    if (!path)
        return saei_fail(e->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_dictionary_export: no memory for %s",
                         name);
    result = saei_save_keys(e->dict, path, keys, count, NULL, NULL);
    saei_free(e->ctx, path);
    return result;
}

/* "key": "text", or null for "". */
static void saei_export_pair(saei_text *t, const char *key, const char *text) {
    saei_text_add(t, "\"%s\": ", key);
    if (*text) saei_text_add_json_string(t, text);
    else saei_text_add(t, "null");
}

/* What was lost on the way here, and what the classes of no program but ours have. */
static void saei_export_made_by(const saei_export *e, saei_text *t) {
    saei_text_add(t, "\"sae.h\": {\"version\": \"" SAE_VERSION "\", \"from\": \"%s\", ",
                  sae_format_name(e->dict->origin.format));
    saei_export_pair(t, "class", e->dict->origin.class_name);
    saei_text_add(t, "}");
}

/* ==== >>files: dictionary_learning ===================== src/formats/dictionary_learning.h ==== */

static bool saei_dl_probe(const saei_load *load) {
    for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++) {
        const char *name = sae_tensor_file_get(load->tensors, i)->name;
        if (strncmp(name, "ae.", 3) == 0) name += 3;
        for (size_t a = 0; a < SAEI_NUM_LAYOUTS; a++)
            for (size_t k = 0; k < saei_layouts[a].count; k++)
                if (strcmp(name, saei_layouts[a].keys[k].name) == 0) return true;
    }
    return false;
}

/* The trainer object in config.json; another program's config (it has none) counts as none. */
static sae_result saei_dl_config(saei_load *load) {
    const sae_json *trainer = sae_json_get(load->root, "trainer");
    if (trainer && trainer->type != SAE_JSON_OBJECT && trainer->type != SAE_JSON_STRING)
        return saei_load_fail(load, SAE_ERR_FORMAT, "trainer in config.json is not a JSON object");
    if (trainer && trainer->type == SAE_JSON_OBJECT) load->config = trainer;
    else if (sae_json_get(load->root, "dict_class")) load->config = load->root;
    else if (sae_json_get(load->root, "trainer_class")) load->config = load->root;
    return SAE_OK;
}

/* The keys of a class, and whether the file has exactly these. Files of 2024 have `decoder` [m,d]
   (July) and neither k nor threshold in the top-k classes; others call their b_dec bias. */
static bool saei_dl_fits(saei_draft *draft, const saei_layout *layout) {
    bool old = saei_is_top_k_class(layout->arch);
    draft->desc.arch = layout->arch;
    draft->count = 0;
    *draft->lacks = *draft->besides = 0;
    for (size_t k = 0; k < layout->count; k++) {
        const char *name = layout->keys[k].name;
        saei_slot slot = layout->keys[k].slot;
        if (old && (slot == SAEI_SLOT_K || slot == SAEI_SLOT_THRESHOLD))
            saei_draft_may(draft, name, slot);
        else if (old && slot == SAEI_SLOT_W_DEC_T)
            saei_draft_must(draft, name, slot, "decoder", SAEI_SLOT_W_DEC);
        else if (old && slot == SAEI_SLOT_B_DEC && saei_load_find(draft->load, "k"))
            saei_draft_must(draft, name, slot, "bias", slot);
        else saei_draft_must(draft, name, slot, NULL, slot);
    }
    return saei_draft_fits(draft);
}

/* The class that desc or the config names, DEFAULT if none does; *where says which. */
static sae_result saei_dl_named(const saei_load *load, sae_arch *out, const char **where) {
    const char *name = saei_config_text(load->config, "dict_class");
    char quoted[SAEI_QUOTE];
    sae_trainer_kind trainer;
    *out = load->desc.arch;
    *where = "sae_load_desc.arch";
    if (*out && !saei_layout_of(*out))
        return saei_load_fail(load, SAE_ERR_INVALID, "%s is %d, allowed is a sae_arch", *where,
                              (int)*out);
    if (*out || !load->config) return SAE_OK;
    if (name) {
        *where = "dict_class in config.json";
        *out = saei_arch_from_name(name);
        if (*out) return SAE_OK;
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "%s is %s, allowed are AutoEncoder, "
                              "AutoEncoderNew, GatedAutoEncoder, AutoEncoderTopK, BatchTopKSAE, "
                              "MatryoshkaBatchTopKSAE, JumpReluAutoEncoder, IdentityDict", *where,
                              saei_quote(name, quoted));
    }
    *where = "the class of trainer_class in config.json";
    name = saei_config_text(load->config, "trainer_class");
    if (name && saei_trainer_find(name, true, &trainer)) *out = saei_trainer_arch(trainer);
    saei_log(load->ctx, SAE_LOG_WARNING, "sae_dictionary_load: %s has no dict_class, the class is "
             "taken from %s", load->config_path, *out ? "trainer_class" : "the tensors");
    return SAE_OK;
}

/* The class, by name and by tensors. Where the config says AutoEncoder and the tensors are those of
   AutoEncoderNew, which the reference's own trainer does, the tensors are right. */
static sae_result saei_dl_class(saei_draft *draft) {
    const saei_load *load = draft->load;
    saei_draft as_named;
    const char *where;
    sae_arch named;
    bool fits = false;
    SAEI_TRY(saei_dl_named(load, &named, &where));
    if (named && saei_dl_fits(draft, saei_layout_of(named))) return SAE_OK;
    as_named = *draft;
    if (!sae_tensor_file_count(load->tensors))
        return saei_load_fail(load, SAE_ERR_FORMAT, "it holds no tensors");
    for (size_t i = 0; i < SAEI_NUM_LAYOUTS && !fits; i++)
        fits = saei_dl_fits(draft, &saei_layouts[i]);
    if (!named && fits && !saei_is_top_k_class(draft->desc.arch)) return SAE_OK;
    if (!named && fits)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "its tensors are those of AutoEncoderTopK and "
                              "of BatchTopKSAE, and no config.json says which: give "
                              "sae_load_desc.arch");
    if (!named) {
        *draft->besides = 0;
        for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++)
            saei_list_name(draft->besides, sae_tensor_file_get(load->tensors, i)->name);
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "no class has exactly its tensors: %s",
                              draft->besides);
    }
    if (!fits) return saei_draft_misfit(&as_named, sae_arch_name(named));
    if (named != SAE_ARCH_STANDARD || draft->desc.arch != SAE_ARCH_STANDARD_NEW || load->desc.arch)
        return saei_load_fail(load, SAE_ERR_MISMATCH, "%s is %s, but the tensors are those of %s",
                              where, sae_arch_name(named), sae_arch_name(draft->desc.arch));
    saei_log(load->ctx, SAE_LOG_WARNING, "sae_dictionary_load: %s says AutoEncoder, the tensors "
             "are those of AutoEncoderNew: taken as that", load->config_path);
    return SAE_OK;
}

/* k: the file's; of an old file that of config.json, else that of sae_load_desc. */
static sae_result saei_dl_k(saei_draft *draft, const sae_tensor *t) {
    const saei_load *load = draft->load;
    size_t config_k = 0, anneal = 0;
    uint64_t k;
    SAEI_TRY(saei_config_size(load, "k", &config_k));
    SAEI_TRY(saei_config_size(load, "k_anneal_steps", &anneal));
    k = config_k ? config_k : load->desc.k;
    if (t && (!saei_is_scalar(t) || !saei_tensor_whole(t, 0, &k)))
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is no whole number");
    if (!t && !k)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "neither it nor a config.json says k: give "
                              "sae_load_desc.k");
    if (k < 1 || k > draft->desc.dict_size)
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %llu, allowed are 1 to dict_size, %zu",
                              (unsigned long long)k, draft->desc.dict_size);
    if (config_k && k != config_k && !anneal) /* while k is annealed it is on its way to config's */
        return saei_load_fail(load, SAE_ERR_MISMATCH, "k is %llu, in config.json %zu",
                              (unsigned long long)k, config_k);
    draft->desc.k = (size_t)k;
    return SAE_OK;
}

static sae_result saei_dl_groups(saei_draft *draft, const sae_tensor *t) {
    uint64_t size, left = draft->desc.dict_size;
    bool good = t->ndim == 1 && t->shape[0] <= SAE_MAX_GROUPS;
    for (size_t g = 0; good && g < t->shape[0]; g++) {
        good = saei_tensor_whole(t, g, &size) && size >= 1 && size <= left;
        if (!good) break;
        draft->desc.group_sizes[draft->desc.num_groups++] = (size_t)size;
        left -= size;
    }
    if (good && !left) return SAE_OK;
    return saei_load_fail(draft->load, SAE_ERR_FORMAT,
                          "group_sizes must be at most %d whole numbers "
                          ">= 1 whose sum is dict_size, %zu",
                          SAE_MAX_GROUPS, draft->desc.dict_size);
}

/* Another program's W_enc may be [m,d]: where d is m, names or a config must say whose it is. */
static bool saei_dl_is_untagged(const saei_draft *draft) {
    const saei_load *load = draft->load;
    return draft->desc.arch == SAE_ARCH_JUMP_RELU && !load->config && !load->desc.arch
           && draft->desc.activation_dim == draft->desc.dict_size
           && strncmp(saei_path_base(load->file), "ae", 2) != 0;
}

/* The desc of the dictionary. */
static sae_result saei_dl_desc(saei_draft *draft) {
    const saei_load *load = draft->load;
    sae_dictionary_desc *desc = &draft->desc;
    size_t d = 0, m = 0;
    SAEI_TRY(saei_config_size(load, "activation_dim", &d));
    SAEI_TRY(saei_config_size(load, "dict_size", &m));
    if (desc->arch == SAE_ARCH_IDENTITY) {
        desc->activation_dim = desc->dict_size = d;
        return d ? SAE_OK
                 : saei_load_fail(load, SAE_ERR_FORMAT,
                                  "IdentityDict needs activation_dim in "
                                  "config.json");
    }
    SAEI_TRY(saei_draft_sizes(draft));
    desc->output_dim = 0;
    if ((d && d != desc->activation_dim) || (m && m != desc->dict_size))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "activation_dim is %zu and dict_size %zu, in "
                              "config.json %zu and %zu", desc->activation_dim, desc->dict_size, d,
                              m);
    if (saei_dl_is_untagged(draft))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "W_enc is [%zu,%zu], and nothing says which "
                              "side the latents are on: no config.json, and activation_dim may be "
                              "dict_size",
                              desc->activation_dim, desc->dict_size);
    for (size_t k = 0; k < draft->count; k++) {
        SAEI_TRY(saei_draft_check(draft, k));
        if (draft->keys[k].slot == SAEI_SLOT_K)
            SAEI_TRY(saei_dl_k(draft, draft->keys[k].tensor));
        if (draft->keys[k].slot == SAEI_SLOT_GROUPS)
            SAEI_TRY(saei_dl_groups(draft, draft->keys[k].tensor));
    }
    return SAE_OK;
}

/* A nested file {step, ae, optimizer, config, norm_factor}, which the reference leaves when a run
   is cut off: *factor is norm_factor, by which the biases must still be multiplied; else 0. */
static sae_result saei_dl_nested(saei_load *load, float *factor) {
    const sae_tensor *t = sae_tensor_file_find(load->tensors, "norm_factor");
    const char *text = saei_tensor_file_scalar(load->tensors, "norm_factor");
    double value = 0;
    bool nested = false;
    for (size_t i = 0; i < sae_tensor_file_count(load->tensors) && !nested; i++)
        nested = strncmp(sae_tensor_file_get(load->tensors, i)->name, "ae.", 3) == 0;
    *factor = 0;
    if (!nested) return SAE_OK;
    load->prefix = "ae.";
    if (load->desc.raw) return SAE_OK;
    if (text && saei_text_number(text, strlen(text), &value)) *factor = (float)value;
    else if (t && saei_is_scalar(t)) sae_tensor_to_f32(t, factor);
    if (*factor > 0 && *factor <= FLT_MAX) return SAE_OK;
    return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "it is the backup of a run that was cut off, "
                          "without a norm_factor to scale its biases with");
}

static void saei_dl_origin(const saei_load *load, sae_dictionary *dict) {
    sae_origin *origin = &dict->origin;
    const sae_json *layer = saei_config_value(load->config, "layer");
    const sae_json *buffer = sae_json_get(load->root, "buffer");
    const sae_json *context = saei_config_value(buffer, "ctx_len");
    saei_origin_text(origin->class_name, sizeof origin->class_name, sae_arch_name(dict->desc.arch));
    saei_origin_text(origin->model, sizeof origin->model,
                     saei_config_text(load->config, "lm_name"));
    saei_origin_text(origin->hook, sizeof origin->hook,
                     saei_config_text(load->config, "submodule_name"));
    if (layer && layer->is_integer) origin->layer = layer->integer;
    if (context && context->is_integer && context->integer > 0)
        origin->context_size = (size_t)context->integer;
}

static sae_result saei_dl_read(saei_load *load, sae_dictionary **out) {
    sae_dictionary *dict = NULL;
    sae_result result = SAE_OK;
    float factor;
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_dl_config(load));
    SAEI_TRY(saei_dl_nested(load, &factor));
    SAEI_TRY(saei_dl_class(&draft));
    SAEI_TRY(saei_dl_desc(&draft));
    SAEI_TRY(saei_draft_make(&draft, &dict));
    for (size_t k = 0; k < draft.count && result == SAE_OK; k++) {
        if (draft.keys[k].tensor || draft.keys[k].slot != SAEI_SLOT_THRESHOLD
            || dict->desc.arch != SAE_ARCH_BATCH_TOP_K)
            continue;
        saei_log(load->ctx, SAE_LOG_WARNING, "sae_dictionary_load: %s is of 2024 and has no "
                 "threshold: its rule is batch top-k", load->file);
        result = sae_dictionary_set_rule(dict, SAE_RULE_TOP_K);
    }
    if (result == SAE_OK && factor > 0) result = sae_dictionary_scale_biases(dict, factor);
    if (result == SAE_OK && !load->desc.raw && !load->desc.raw_decoder_norms)
        result = sae_dictionary_normalize_decoder(dict);
    saei_dl_origin(load, dict);
    if (result == SAE_OK) *out = dict;
    else sae_dictionary_destroy(dict);
    return result;
}

/* ---- writing ---- */

static sae_result saei_export_dl_fit(saei_export *e) {
    sae_dictionary *dict = e->dict;
    const sae_dictionary_desc *h = &dict->desc;
    bool foldable = h->arch == SAE_ARCH_STANDARD || h->arch == SAE_ARCH_GATED
                    || h->arch == SAE_ARCH_JUMP_RELU;
    if (h->output_dim != h->activation_dim || h->output_normalized)
        return saei_export_refused(e, "transcoders (only AutoEncoderNew and JumpReluAutoEncoder, "
                                      "whose output is as wide as the input)");
    if (h->skip) return saei_export_refused(e, "skip connection");
    if (h->input_norm) return saei_export_refused(e, "normalisation of the input");
    if (h->activation == SAE_ACTIVATION_GROUP_MAX) return saei_export_refused(e, "group max");
    if (h->activation) return saei_export_refused(e, "latents below 0");
    if (h->arch == SAE_ARCH_IDENTITY)
        return saei_export_refused(e, "file for IdentityDict: there is nothing to write");
    if (h->arch == SAE_ARCH_BATCH_TOP_K || h->arch == SAE_ARCH_MATRYOSHKA)
        SAEI_TRY(saei_export_batch(e));
    if (h->arch == SAE_ARCH_TOP_K && dict->rule == SAE_RULE_THRESHOLD)
        SAEI_NOTE(e, SAE_LOG_WARNING, "AutoEncoderTopK is opened with top-k, not the threshold");
    if (h->k_fraction > 0)
        SAEI_NOTE(e, SAE_LOG_WARNING, "k is %g, written as %zu", (double)h->k + h->k_fraction,
                  h->k);
    dict->desc.k_fraction = 0;
    if (h->no_b_dec_subtraction || h->subtract_b_dec) {
        SAEI_NOTE(e, SAE_LOG_INFO, "b_dec %s, its share moved into the encoder's biases",
                  h->no_b_dec_subtraction ? "goes into the encoder's input"
                                          : "leaves the encoder's input");
        saei_export_centre(dict, h->no_b_dec_subtraction);
    }
    if (e->desc->raw || h->arch == SAE_ARCH_STANDARD_NEW || saei_decoder_is_unit(dict))
        return SAE_OK;
    if (foldable && dict->origin.format != SAE_FORMAT_DICTIONARY_LEARNING) {
        SAEI_NOTE(e, SAE_LOG_INFO, "decoder rows brought to norm 1, the norms moved into the "
                  "encoder: latents are multiplied by them");
        saei_fold_decoder_norms(dict);
    } else SAEI_NOTE(e, SAE_LOG_WARNING, "decoder rows are not of norm 1, which SAEBench asks for; "
                     "they stay, as %s", foldable ? "dictionary_learning had them"
                                                  : "the choice of latents depends on them");
    return SAE_OK;
}

static sae_result saei_export_dl(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    const saei_layout *layout = saei_layout_of(h->arch);
    const char *trainer = sae_trainer_class(saei_trainer_of_arch(h->arch));
    const sae_origin *o = &e->origin;
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = e->ctx;
    if (o->layer < 0)
        SAEI_NOTE(e, SAE_LOG_WARNING, "the layer is not known, config.json says 0");
    if (!*o->model)
        SAEI_NOTE(e, SAE_LOG_WARNING, "the language model is not known, lm_name is \"unknown\"");
    SAEI_TRY(saei_export_tensors(e, "ae.pt", layout->keys, layout->count));
    saei_text_add(&t, "{\n    \"trainer\": {\n        \"trainer_class\": \"%s\",\n"
                  "        \"dict_class\": \"%s\",\n        \"activation_dim\": %zu,\n"
                  "        \"dict_size\": %zu,\n", trainer, sae_arch_name(h->arch),
                  h->activation_dim, h->dict_size);
    if (h->k) saei_text_add(&t, "        \"k\": %zu,\n", h->k);
    for (size_t g = 0; g < h->num_groups; g++)
        saei_text_add(&t, "%s%zu%s", g ? ", " : "        \"group_sizes\": [", h->group_sizes[g],
                      g + 1 < h->num_groups ? "" : "],\n");
    saei_text_add(&t, "        \"device\": \"cpu\",\n        \"layer\": %lld,\n        ",
                  (long long)(o->layer < 0 ? 0 : o->layer));
    saei_export_pair(&t, "lm_name", *o->model ? o->model : "unknown");
    saei_text_add(&t, ",\n        \"wandb_name\": \"%s\",\n        ", trainer);
    saei_export_pair(&t, "submodule_name", o->hook);
    saei_text_add(&t, "\n    },\n    \"buffer\": {\n        \"d_submodule\": %zu,\n"
                  "        \"io\": \"out\",\n        \"n_ctxs\": null,\n"
                  "        \"ctx_len\": %zu,\n        \"refresh_batch_size\": null,\n"
                  "        \"out_batch_size\": null,\n        \"device\": \"cpu\"\n    },\n"
                  "    ", h->activation_dim, o->context_size ? o->context_size : 128);
    saei_export_made_by(e, &t);
    saei_text_add(&t, "\n}\n");
    return saei_export_text(e, "config.json", &t);
}

/* ==== >>files: SAELens ============================================ src/formats/sae_lens.h ==== */

typedef enum saei_lens_kind { SAEI_LENS_SAE, SAEI_LENS_TRANSCODER, SAEI_LENS_SKIP } saei_lens_kind;

/* The architectures that are one of ours. STANDARD means either of the two. */
static const struct {
    const char *name;
    sae_arch arch;
    sae_activation latents;
    saei_lens_kind kind;
} saei_lens_archs[] = {
    { "standard", SAE_ARCH_STANDARD, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "topk", SAE_ARCH_TOP_K, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "abstopk", SAE_ARCH_TOP_K, SAE_ACTIVATION_MAGNITUDE, SAEI_LENS_SAE },
    { "gated", SAE_ARCH_GATED, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "jumprelu", SAE_ARCH_JUMP_RELU, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "batchtopk", SAE_ARCH_BATCH_TOP_K, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "matryoshka_batchtopk", SAE_ARCH_MATRYOSHKA, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SAE },
    { "transcoder", SAE_ARCH_STANDARD_NEW, SAE_ACTIVATION_POSITIVE, SAEI_LENS_TRANSCODER },
    { "skip_transcoder", SAE_ARCH_STANDARD_NEW, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SKIP },
    { "jumprelu_transcoder", SAE_ARCH_JUMP_RELU, SAE_ACTIVATION_POSITIVE, SAEI_LENS_TRANSCODER },
    { "jumprelu_skip_transcoder", SAE_ARCH_JUMP_RELU, SAE_ACTIVATION_POSITIVE, SAEI_LENS_SKIP }
};
enum { SAEI_NUM_LENS_ARCHS = sizeof saei_lens_archs / sizeof saei_lens_archs[0] };

/* What cfg.json says. */
typedef struct saei_lens_cfg {
    size_t arch; /* in the table */
    bool flat;   /* of before 6.0, or read as such: without a version */
    bool rescale, scaled; /* rescale_acts_by_decoder_norm, finetuning_scaling_factor */
    const sae_json *meta;
} saei_lens_cfg;

static bool saei_lens_probe(const saei_load *load) {
    return saei_config_value(load->root, "d_sae") && saei_load_find(load, "W_dec");
}

static sae_result saei_lens_arch(const saei_load *load, saei_lens_cfg *cfg) {
    const char *version = saei_config_text(load->root, "sae_lens_version"), *name, *activation;
    const sae_json *kwargs = sae_json_get(load->root, "activation_fn_kwargs");
    char quoted[SAEI_QUOTE];
    cfg->meta = sae_json_get(load->root, "metadata");
    if (!cfg->meta || cfg->meta->type != SAE_JSON_OBJECT) cfg->meta = load->root;
    if (!version || !*version) version = saei_config_text(cfg->meta, "sae_lens_version");
    cfg->flat = !version || (version[0] < '6' && (version[1] == '.' || !version[0]));
    name = saei_config_text(load->root, "architecture");
    if (cfg->flat) {
        activation = saei_config_text(load->root, "activation_fn_str");
        if (!activation) activation = saei_config_text(load->root, "activation_fn");
        if (activation && strcmp(activation, "topk") == 0 && saei_config_value(kwargs, "k"))
            name = "topk";
        else if (!name) name = "standard";
    }
    for (size_t i = 0; name && i < SAEI_NUM_LENS_ARCHS; i++)
        if (strcmp(name, saei_lens_archs[i].name) == 0) {
            cfg->arch = i;
            return SAE_OK;
        }
    return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "architecture in cfg.json is %s, allowed are "
                          "standard, topk, abstopk, gated, jumprelu, batchtopk, "
                          "matryoshka_batchtopk, transcoder, skip_transcoder, jumprelu_transcoder, "
                          "jumprelu_skip_transcoder", name ? saei_quote(name, quoted) : "missing");
}

static sae_result saei_lens_norm(const saei_load *load, const saei_lens_cfg *cfg,
                                 sae_input_norm *out) {
    const sae_json *v = sae_json_get(load->root, "normalize_activations");
    bool none = v && v->type == SAE_JSON_NULL;
    *out = SAE_INPUT_NORM_NONE;
    if (!v || (cfg->flat && (none || v->type == SAE_JSON_BOOL))) return SAE_OK;
    if (v->type == SAE_JSON_STRING) {
        if (strcmp(v->string, "none") == 0) return SAE_OK;
        if (strcmp(v->string, "constant_norm_rescale") == 0) *out = SAE_INPUT_NORM_CONSTANT;
        if (strcmp(v->string, "layer_norm") == 0) *out = SAE_INPUT_NORM_LAYER;
        if (*out) return SAE_OK;
        if (strcmp(v->string, "expected_average_only_in") == 0
            || strcmp(v->string, "covariance_whitening") == 0) {
            saei_log(load->ctx, SAE_LOG_WARNING, "sae_dictionary_load: %s: normalize_activations "
                     "is %s, which SAELens folds into the weights before it saves them: x is taken "
                     "as it is", load->config_path, v->string);
            return SAE_OK;
        }
    }
    return saei_config_refused(load, "normalize_activations", v, "none, layer_norm, "
                               "constant_norm_rescale, expected_average_only_in, "
                               "covariance_whitening");
}

/* k of the top-k architectures, where SAELens' default is 100; batch top-k takes fractions. */
static sae_result saei_lens_k(const saei_load *load, const saei_lens_cfg *cfg,
                              sae_dictionary_desc *desc) {
    const sae_json *k = saei_config_value(load->root, "k");
    const sae_json *kwargs = sae_json_get(load->root, "activation_fn_kwargs");
    double value = 100;
    bool batch = desc->arch != SAE_ARCH_TOP_K;
    if (cfg->flat && saei_config_value(kwargs, "k")) k = saei_config_value(kwargs, "k");
    if (k && (k->type != SAE_JSON_NUMBER || (!batch && !k->is_integer) || !(k->number >= 1)))
        return saei_config_refused(load, "k", k, batch ? "a number from 1"
                                                       : "a whole number from 1");
    if (k) value = k->number;
    if (!(value <= (double)desc->dict_size))
        return saei_load_fail(load, SAE_ERR_FORMAT, "k is %g%s, allowed are 1 to d_sae, %zu", value,
                              k ? "" : " (SAELens' default, cfg.json says none)", desc->dict_size);
    desc->k = (size_t)value;
    desc->k_fraction = value - floor(value);
    return SAE_OK;
}

/* matryoshka_widths [18, 36, 72] are groups of 18, 18, 36; what they do not say is one group. They
   matter to training alone. */
static void saei_lens_groups(const saei_load *load, sae_dictionary_desc *desc) {
    const sae_json *widths = saei_config_value(load->root, "matryoshka_widths");
    size_t end = 0;
    desc->num_groups = 0;
    for (const sae_json *w = widths ? widths->child : NULL; w; w = w->next) {
        if (w->type != SAE_JSON_NUMBER || !w->is_integer || w->integer <= (int64_t)end
            || w->integer > (int64_t)desc->dict_size || desc->num_groups == SAE_MAX_GROUPS - 1) {
            end = desc->num_groups = 0;
            break;
        }
        desc->group_sizes[desc->num_groups++] = (size_t)w->integer - end;
        end = (size_t)w->integer;
    }
    if (end < desc->dict_size) desc->group_sizes[desc->num_groups++] = desc->dict_size - end;
}

static sae_result saei_lens_dtype(const saei_load *load) {
    static const char *const names[] = { "float32", "float16", "bfloat16", "float64" };
    const sae_json *v = saei_config_value(load->root, "dtype");
    const char *name = v && v->type == SAE_JSON_STRING ? v->string : "";
    if (!v) return SAE_OK;
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    for (size_t i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) return SAE_OK;
    return saei_config_refused(load, "dtype", v, "float32, float16, bfloat16, float64");
}

static sae_result saei_lens_desc(const saei_load *load, saei_lens_cfg *cfg,
                                 sae_dictionary_desc *desc) {
    bool subtract = true;
    saei_lens_kind kind;
    SAEI_TRY(saei_lens_arch(load, cfg));
    kind = saei_lens_archs[cfg->arch].kind;
    desc->arch = saei_lens_archs[cfg->arch].arch;
    desc->activation = saei_lens_archs[cfg->arch].latents;
    SAEI_TRY(saei_config_required(load, "d_in", &desc->activation_dim));
    SAEI_TRY(saei_config_required(load, "d_sae", &desc->dict_size));
    SAEI_TRY(saei_lens_dtype(load));
    SAEI_TRY(saei_lens_norm(load, cfg, &desc->input_norm));
    SAEI_TRY(saei_config_bool(load, "apply_b_dec_to_input", &subtract));
    cfg->scaled = false;
    SAEI_TRY(saei_config_bool(load, "finetuning_scaling_factor", &cfg->scaled));
    if (kind != SAEI_LENS_SAE && subtract)
        return saei_load_fail(load, SAE_ERR_FORMAT, "apply_b_dec_to_input in cfg.json is true (or "
                              "missing), allowed is false for a %s",
                              saei_lens_archs[cfg->arch].name);
    if (desc->arch == SAE_ARCH_JUMP_RELU) desc->subtract_b_dec = subtract;
    else if (desc->arch == SAE_ARCH_STANDARD && !subtract) desc->arch = SAE_ARCH_STANDARD_NEW;
    else if (desc->arch != SAE_ARCH_STANDARD_NEW) desc->no_b_dec_subtraction = !subtract;
    if (kind != SAEI_LENS_SAE) {
        SAEI_TRY(saei_config_required(load, "d_out", &desc->output_dim));
        desc->output_normalized = desc->input_norm != SAE_INPUT_NORM_NONE;
        desc->skip = kind == SAEI_LENS_SKIP;
    }
    if (!saei_arch_selects(desc->arch)) return SAE_OK;
    cfg->rescale = desc->arch != SAE_ARCH_TOP_K; /* the defaults of SAELens' classes */
    SAEI_TRY(saei_config_bool(load, "rescale_acts_by_decoder_norm", &cfg->rescale));
    if (desc->arch == SAE_ARCH_MATRYOSHKA) saei_lens_groups(load, desc);
    return saei_lens_k(load, cfg, desc);
}

/* A scaling_factor of ones, which SAELens wrote for a time, means nothing; another one belongs to
   finetuning_scaling_factor. */
static sae_result saei_lens_scale(saei_draft *draft, bool scaled) {
    size_t key = 0, m = draft->desc.dict_size;
    const sae_tensor *t;
    bool ones = true;
    float *scale;
    sae_result result;
    while (key < draft->count && draft->keys[key].slot != SAEI_SLOT_SCALE) key++;
    t = key < draft->count ? draft->keys[key].tensor : NULL;
    if (!t) return SAE_OK;
    SAEI_TRY(saei_draft_check(draft, key));
    scale = (float *)saei_alloc(draft->load->ctx, m, sizeof *scale);
    if (!scale)
        return saei_load_fail(draft->load, SAE_ERR_OUT_OF_MEMORY, "no memory for %s", t->name);
    result = saei_draft_read(draft, t, -1, false, scale, 0);
    for (size_t i = 0; i < m && result == SAE_OK; i++)
        ones = ones && fabsf(scale[i] - 1) <= 1e-8f + 1e-5f;
    saei_free(draft->load->ctx, scale);
    SAEI_TRY(result);
    if (ones) draft->keys[key].slot = SAEI_SLOT_NOTHING;
    else if (!scaled)
        return saei_load_fail(draft->load, SAE_ERR_UNSUPPORTED, "%s is not all ones, and "
                              "finetuning_scaling_factor in cfg.json is not true", t->name);
    return SAE_OK;
}

static void saei_lens_keys(saei_draft *draft) {
    sae_arch arch = draft->desc.arch;
    bool gated = arch == SAE_ARCH_GATED;
    saei_draft_must(draft, "W_enc", SAEI_SLOT_W_ENC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, gated ? "b_gate" : "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "W_dec", SAEI_SLOT_W_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (gated) {
        saei_draft_must(draft, "r_mag", SAEI_SLOT_AUX0, NULL, SAEI_SLOT_NOTHING);
        saei_draft_must(draft, "b_mag", SAEI_SLOT_AUX1, NULL, SAEI_SLOT_NOTHING);
    }
    if (arch == SAE_ARCH_JUMP_RELU)
        saei_draft_must(draft, "threshold", SAEI_SLOT_AUX0, "log_threshold", SAEI_SLOT_AUX0);
    if (arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA)
        saei_draft_must(draft, "topk_threshold", SAEI_SLOT_THRESHOLD, NULL, SAEI_SLOT_NOTHING);
    if (draft->desc.skip)
        saei_draft_must(draft, "W_skip", SAEI_SLOT_W_SKIP, NULL, SAEI_SLOT_NOTHING);
    saei_draft_may(draft, "scaling_factor", SAEI_SLOT_SCALE);
}

static void saei_lens_origin(const saei_load *load, const saei_lens_cfg *cfg, sae_origin *o) {
    const sae_json *layer = saei_config_value(load->root, "hook_layer");
    const sae_json *context = saei_config_value(cfg->meta, "context_size");
    const char *hook = saei_config_text(cfg->meta, "hook_name");
    const char *version = saei_config_text(cfg->meta, "sae_lens_version");
    if (!hook) hook = saei_config_text(cfg->meta, "hook_point");
    if (!layer) layer = saei_config_value(load->root, "hook_point_layer");
    if (!version) version = saei_config_text(cfg->meta, "sae_lens_training_version");
    saei_origin_text(o->class_name, sizeof o->class_name, saei_lens_archs[cfg->arch].name);
    saei_origin_text(o->model, sizeof o->model, saei_config_text(cfg->meta, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, hook);
    saei_origin_text(o->dataset, sizeof o->dataset, saei_config_text(cfg->meta, "dataset_path"));
    saei_origin_text(o->version, sizeof o->version, version);
    o->layer = layer && layer->is_integer ? layer->integer : saei_layer_of(hook);
    if (context && context->is_integer && context->integer > 0)
        o->context_size = (size_t)context->integer;
}

static sae_result saei_lens_read(saei_load *load, sae_dictionary **out) {
    saei_lens_cfg cfg;
    saei_draft draft;
    sae_dictionary *dict;
    memset(&cfg, 0, sizeof cfg);
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no cfg.json beside "
                              "sae_weights.safetensors");
    load->config = load->root;
    SAEI_TRY(saei_lens_desc(load, &cfg, &draft.desc));
    saei_lens_keys(&draft);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, saei_lens_archs[cfg.arch].name);
    SAEI_TRY(saei_lens_scale(&draft, cfg.scaled));
    SAEI_TRY(saei_draft_make(&draft, &dict));
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU && !saei_load_find(load, "threshold"))
        for (size_t i = 0; i < dict->desc.dict_size; i++)
            dict->aux0[i] = (float)saei_exp((double)dict->aux0[i]);
    if (cfg.rescale) saei_fold_decoder_norms(dict);
    if (saei_arch_selects(dict->desc.arch)) dict->rule = SAE_RULE_TOP_K; /* also over the batch */
    saei_lens_origin(load, &cfg, &dict->origin);
    *out = dict;
    return SAE_OK;
}

/* ---- writing ---- */

static bool saei_export_is_transcoder(const saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    return h->output_dim != h->activation_dim || h->skip || h->output_normalized
           || strstr(e->dict->origin.class_name, "transcoder") != NULL;
}

static sae_result saei_export_lens_fit(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    bool batch = h->arch == SAE_ARCH_BATCH_TOP_K || h->arch == SAE_ARCH_MATRYOSHKA;
    if (h->arch == SAE_ARCH_IDENTITY) return saei_export_refused(e, "identity");
    if (h->activation == SAE_ACTIVATION_GROUP_MAX) return saei_export_refused(e, "group max");
    if (h->activation == SAE_ACTIVATION_SIGNED)
        return saei_export_refused(e, "latents below 0 but those of abstopk");
    if (batch) SAEI_TRY(saei_export_batch(e));
    if (batch || e->dict->rule == SAE_RULE_THRESHOLD) SAEI_TRY(saei_export_jump_relu(e));
    h = &e->dict->desc;
    if (!saei_export_is_transcoder(e)) return SAE_OK;
    if (h->arch != SAE_ARCH_STANDARD_NEW && h->arch != SAE_ARCH_JUMP_RELU) {
        if (h->output_dim != h->activation_dim || h->skip || h->output_normalized)
            return saei_export_refused(e, "transcoder or skip connection with top-k or gated "
                                          "latents");
        return SAE_OK;
    }
    if (saei_subtracts(h))
        return saei_export_refused(e, "transcoder that takes b_dec from its input");
    if (h->input_norm && !h->output_normalized && h->skip)
        return saei_export_refused(e, "skip connection beside an output in the input's norm");
    return SAE_OK;
}

static const char *saei_export_lens_arch(const saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    bool jump = h->arch == SAE_ARCH_JUMP_RELU, norm = h->input_norm && !h->output_normalized;
    if (h->arch == SAE_ARCH_TOP_K) return h->activation ? "abstopk" : "topk";
    if (h->arch == SAE_ARCH_GATED) return "gated";
    if (h->arch == SAE_ARCH_STANDARD) return "standard";
    if (h->skip) return jump ? "jumprelu_skip_transcoder" : "skip_transcoder";
    if (saei_export_is_transcoder(e) && !norm && !saei_subtracts(h))
        return jump ? "jumprelu_transcoder" : "transcoder";
    return jump ? "jumprelu" : "standard";
}

/* hook_name as TransformerLens spells it. */
static void saei_export_lens_hook(const saei_export *e, char *out, size_t size) {
    const sae_origin *o = &e->origin;
    const char *hook = o->hook;
    bool own = strncmp(hook, "blocks.", 7) == 0 || strncmp(hook, "hook_", 5) == 0;
    bool mlp = saei_ends_with(hook, ".mlp") || strstr(hook, "mlp") != NULL;
    if (own || o->layer < 0) snprintf(out, size, "%s", hook);
    else snprintf(out, size, "blocks.%lld.hook_%s", (long long)o->layer,
                  mlp ? "mlp_out" : strstr(hook, "attn") ? "attn_out" : "resid_post");
}

static sae_result saei_export_lens_cfg(const saei_export *e, const char *arch) {
    static const char *const norms[] = { "none", "constant_norm_rescale", "layer_norm" };
    const sae_dictionary_desc *h = &e->dict->desc;
    const sae_origin *o = &e->origin;
    char hook[96];
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = e->ctx;
    saei_export_lens_hook(e, hook, sizeof hook);
    saei_text_add(&t, "{\"architecture\": \"%s\", \"d_in\": %zu, \"d_sae\": %zu, "
                  "\"dtype\": \"float32\", \"device\": \"cpu\", "
                  "\"apply_b_dec_to_input\": %s, \"normalize_activations\": \"%s\", "
                  "\"reshape_activations\": \"%s\", ", arch, h->activation_dim, h->dict_size,
                  saei_subtracts(h) ? "true" : "false", norms[h->input_norm],
                  saei_ends_with(hook, "hook_z") ? "hook_z" : "none");
    if (h->k)
        saei_text_add(&t, "\"k\": %zu, \"rescale_acts_by_decoder_norm\": false, ", h->k);
    if (strstr(arch, "transcoder")) saei_text_add(&t, "\"d_out\": %zu, ", h->output_dim);
    saei_text_add(&t, "\"metadata\": {\"sae_lens_version\": \"6.0.0\", "
                  "\"sae_lens_training_version\": null, ");
    saei_export_pair(&t, "model_name", saei_path_base(o->model));
    saei_text_add(&t, ", ");
    saei_export_pair(&t, "hook_name", hook);
    saei_text_add(&t, ", \"hook_head_index\": null, ");
    if (o->context_size) saei_text_add(&t, "\"context_size\": %zu, ", o->context_size);
    saei_export_pair(&t, "dataset_path", o->dataset);
    saei_text_add(&t, ", \"model_from_pretrained_kwargs\": {}, ");
    saei_export_made_by(e, &t);
    saei_text_add(&t, "}}\n");
    return saei_export_text(e, "cfg.json", &t);
}

static sae_result saei_export_lens(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    const char *arch = saei_export_lens_arch(e);
    bool gated = h->arch == SAE_ARCH_GATED;
    saei_key keys[SAEI_MAX_KEYS];
    size_t count = 0;
    keys[count].name = "W_enc", keys[count++].slot = SAEI_SLOT_W_ENC_T;
    keys[count].name = gated ? "b_gate" : "b_enc", keys[count++].slot = SAEI_SLOT_B_ENC;
    keys[count].name = "W_dec", keys[count++].slot = SAEI_SLOT_W_DEC;
    keys[count].name = "b_dec", keys[count++].slot = SAEI_SLOT_B_DEC;
    if (gated) {
        keys[count].name = "r_mag", keys[count++].slot = SAEI_SLOT_AUX0;
        keys[count].name = "b_mag", keys[count++].slot = SAEI_SLOT_AUX1;
    }
    if (h->arch == SAE_ARCH_JUMP_RELU)
        keys[count].name = "threshold", keys[count++].slot = SAEI_SLOT_AUX0;
    if (h->skip) keys[count].name = "W_skip", keys[count++].slot = SAEI_SLOT_W_SKIP;
    SAEI_NOTE(e, SAE_LOG_INFO, "architecture %s", arch);
    SAEI_TRY(saei_export_tensors(e, "sae_weights.safetensors", keys, count));
    if (e->desc->log_sparsity) {
        char *path = saei_path_join(e->ctx, e->folder, "sparsity.safetensors");
        sae_tensor t;
        sae_result result = SAE_ERR_OUT_OF_MEMORY;
        memset(&t, 0, sizeof t);
        t.name = "sparsity";
        t.dtype = SAE_F32;
        t.ndim = 1;
        t.shape[0] = h->dict_size;
        t.data = e->desc->log_sparsity;
        if (path) result = sae_tensor_file_write(e->ctx, path, &t, 1);
        else saei_fail(e->ctx, result, "sae_dictionary_export: no memory for sparsity.safetensors");
        saei_free(e->ctx, path);
        SAEI_TRY(result);
    }
    return saei_export_lens_cfg(e, arch);
}

/* ==== >>files: sparsify =========================================== src/formats/sparsify.h ==== */

static bool saei_sparsify_probe(const saei_load *load) {
    return saei_config_value(load->root, "d_in") && !saei_config_value(load->root, "d_sae")
           && saei_load_find(load, "encoder.weight") && saei_load_find(load, "W_dec");
}

/* relu(p), then the k largest or the largest of each of k groups. */
static sae_result saei_sparsify_desc(const saei_load *load, sae_dictionary_desc *desc) {
    const sae_json *activation = saei_config_value(load->root, "activation");
    const char *name = activation && activation->type == SAE_JSON_STRING ? activation->string : "";
    size_t expansion = 32, latents = 0;
    bool was_signed = false;
    desc->arch = SAE_ARCH_TOP_K;
    desc->k = 32;
    SAEI_TRY(saei_config_required(load, "d_in", &desc->activation_dim));
    SAEI_TRY(saei_config_size(load, "expansion_factor", &expansion));
    SAEI_TRY(saei_config_size(load, "num_latents", &latents));
    SAEI_TRY(saei_config_size(load, "k", &desc->k));
    SAEI_TRY(saei_config_bool(load, "skip_connection", &desc->skip));
    SAEI_TRY(saei_config_bool(load, "transcode", &desc->no_b_dec_subtraction));
    SAEI_TRY(saei_config_bool(load, "signed", &was_signed));
    if (!latents && !saei_mul(desc->activation_dim, expansion, &latents)) latents = 0;
    if (!latents || latents > INT32_MAX)
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "num_latents and expansion_factor in cfg.json make "
                              "no number of latents from 1 to %d",
                              INT32_MAX);
    desc->dict_size = latents;
    if (strcmp(name, "groupmax") == 0) desc->activation = SAE_ACTIVATION_GROUP_MAX;
    else if (activation && strcmp(name, "topk") != 0)
        return saei_config_refused(load, "activation", activation, "topk, groupmax");
    if (desc->k < 1 || desc->k > latents)
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "k in cfg.json is %zu, allowed are 1 to the number "
                              "of latents, %zu",
                              desc->k, latents);
    if (desc->activation && latents % desc->k)
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "k in cfg.json is %zu: groupmax needs a divisor of "
                              "the number of latents, %zu",
                              desc->k, latents);
    if (was_signed)
        saei_log(load->ctx, SAE_LOG_WARNING, "sae_dictionary_load: %s: signed is true, which "
                 "sparsify no longer knows: latents are positive, as it takes them today",
                 load->config_path);
    return SAE_OK;
}

static sae_result saei_sparsify_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    sae_dictionary *dict;
    size_t end = saei_folder_length(load->file, strlen(load->file)), begin;
    char hook[96];
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND,
                              "there is no cfg.json beside sae.safetensors");
    load->config = load->root;
    SAEI_TRY(saei_sparsify_desc(load, &draft.desc));
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "W_dec", SAEI_SLOT_W_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (draft.desc.skip)
        saei_draft_must(&draft, "W_skip", SAEI_SLOT_W_SKIP, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "a SparseCoder");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    while (end > 0 && (saei_is_separator(load->file[end - 1])
                       || (load->file[end - 1] == '.'
                           && (end == 1 || saei_is_separator(load->file[end - 2])))))
        end--; /* the folder's name is the hookpoint */
    begin = saei_folder_length(load->file, end);
    if (end - begin < sizeof hook) {
        snprintf(hook, sizeof hook, "%.*s", (int)(end - begin), load->file + begin);
        saei_origin_text(dict->origin.hook, sizeof dict->origin.hook, hook);
        dict->origin.layer = saei_layer_of(hook);
    }
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name,
                     draft.desc.activation ? "groupmax" : "topk");
    *out = dict;
    return SAE_OK;
}

/* ---- writing ---- */

static sae_result saei_export_sparsify_fit(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    if (h->arch != SAE_ARCH_TOP_K || e->dict->rule != SAE_RULE_TOP_K)
        return saei_export_refused(e, "latents but the k largest of a row and group max");
    if (h->activation == SAE_ACTIVATION_SIGNED || h->activation == SAE_ACTIVATION_MAGNITUDE)
        return saei_export_refused(e, "latents below 0");
    if (h->input_norm) return saei_export_refused(e, "normalisation of the input");
    if (h->output_dim != h->activation_dim)
        return saei_export_refused(e, "output of another width than the input");
    return SAE_OK;
}

static sae_result saei_export_sparsify(saei_export *e) {
    const sae_dictionary_desc *h = &e->dict->desc;
    static const saei_key keys[] = {
        { "encoder.weight", SAEI_SLOT_W_ENC }, { "encoder.bias", SAEI_SLOT_B_ENC },
        { "W_dec", SAEI_SLOT_W_DEC }, { "b_dec", SAEI_SLOT_B_DEC }, { "W_skip", SAEI_SLOT_W_SKIP }
    };
    const char *activation = h->activation == SAE_ACTIVATION_GROUP_MAX ? "groupmax" : "topk";
    bool whole = h->dict_size % h->activation_dim == 0;
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = e->ctx;
    SAEI_NOTE(e, SAE_LOG_INFO, "activation %s", activation);
    SAEI_TRY(saei_export_tensors(e, "sae.safetensors", keys, h->skip ? 5 : 4));
    saei_text_add(&t,
                  "{\"activation\": \"%s\", \"expansion_factor\": %zu, "
                  "\"normalize_decoder\": %s, \"num_latents\": %zu, \"k\": %zu, "
                  "\"multi_topk\": false, \"skip_connection\": %s, \"transcode\": %s, "
                  "\"d_in\": %zu, ",
                  activation, whole ? h->dict_size / h->activation_dim : 32,
                  saei_decoder_is_unit(e->dict) ? "true" : "false", h->dict_size, h->k,
                  h->skip ? "true" : "false", h->no_b_dec_subtraction ? "true" : "false",
                  h->activation_dim);
    saei_export_made_by(e, &t);
    saei_text_add(&t, "}\n");
    return saei_export_text(e, "cfg.json", &t);
}

/* ==== >>files: Gemma Scope, Llama Scope, openai ===================== src/formats/others.h ==== */

/* ---- Gemma Scope, Gemma Scope 2, Llama Scope ---- */

static bool saei_gemma_probe(const saei_load *load) {
    return strcmp(load->tensors->ending, ".npz") == 0 && saei_load_find(load, "threshold")
           && (saei_load_find(load, "W_enc") || saei_load_find(load, "w_enc"));
}

static bool saei_gemma_2_probe(const saei_load *load) {
    return saei_load_find(load, "w_enc") && saei_load_find(load, "w_dec")
           && saei_load_find(load, "threshold");
}

/* JumpReLU on x as it is. Both spell W_enc [d,m], W_dec [m,output_dim]. */
static sae_result saei_gemma_draft(saei_draft *draft, const char *as) {
    draft->desc.arch = SAE_ARCH_JUMP_RELU;
    saei_draft_must(draft, "W_enc", SAEI_SLOT_W_ENC_T, "w_enc", SAEI_SLOT_W_ENC_T);
    saei_draft_must(draft, "W_dec", SAEI_SLOT_W_DEC, "w_dec", SAEI_SLOT_W_DEC);
    saei_draft_must(draft, "b_enc", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "b_dec", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(draft, "threshold", SAEI_SLOT_AUX0, NULL, SAEI_SLOT_NOTHING);
    draft->desc.skip = saei_draft_may(draft, "affine_skip_connection", SAEI_SLOT_W_SKIP_T) != NULL;
    saei_draft_may(draft, "scaling_factor", SAEI_SLOT_SCALE);
    if (!saei_draft_fits(draft)) return saei_draft_misfit(draft, as);
    return saei_draft_sizes(draft);
}

static sae_result saei_gemma_read(saei_load *load, sae_dictionary **out) {
    saei_draft draft;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    SAEI_TRY(saei_gemma_draft(&draft, "Gemma Scope"));
    SAEI_TRY(saei_lens_scale(&draft, false));
    SAEI_TRY(saei_draft_make(&draft, out));
    saei_origin_text((*out)->origin.class_name, sizeof (*out)->origin.class_name, "jumprelu");
    (*out)->origin.layer = saei_layer_of(load->path);
    return SAE_OK;
}

static sae_result saei_gemma_2_read(saei_load *load, sae_dictionary **out) {
    const char *arch = saei_config_text(load->root, "architecture"), *class_name = "jumprelu";
    const char *type = saei_config_text(load->root, "type");
    const sae_tensor *w_dec = saei_load_find(load, "w_dec");
    char quoted[SAEI_QUOTE];
    bool affine;
    saei_draft draft;
    sae_origin *o;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    load->config = load->root;
    if (w_dec && w_dec->ndim == 3)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "a cross-layer transcoder: w_dec has three "
                              "dimensions");
    if (load->root && (!arch || strcmp(arch, "jump_relu") != 0))
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "architecture in config.json is %s, allowed "
                              "is jump_relu",
                              arch ? saei_quote(arch, quoted) : "missing");
    SAEI_TRY(saei_gemma_draft(&draft, "Gemma Scope 2"));
    affine = draft.desc.skip;
    if (load->root) {
        affine = false;
        SAEI_TRY(saei_config_bool(load, "affine_connection", &affine));
    }
    if (affine != draft.desc.skip && (draft.desc.skip || !type || strcmp(type, "sae") != 0))
        return saei_load_fail(load, SAE_ERR_MISMATCH, "affine_connection in config.json is %s, and "
                              "there is %s affine_skip_connection", affine ? "true" : "not true",
                              affine ? "no" : "an");
    SAEI_TRY(saei_lens_scale(&draft, false));
    SAEI_TRY(saei_draft_make(&draft, out));
    o = &(*out)->origin;
    if (type && strcmp(type, "transcoder") == 0) class_name = "jumprelu_transcoder";
    if (draft.desc.skip) class_name = "jumprelu_skip_transcoder";
    saei_origin_text(o->class_name, sizeof o->class_name, class_name);
    saei_origin_text(o->model, sizeof o->model, saei_config_text(load->root, "model_name"));
    saei_origin_text(o->hook, sizeof o->hook, saei_config_text(load->root, "hf_hook_point_in"));
    o->layer = saei_layer_of(o->hook);
    return SAE_OK;
}

typedef struct saei_scale_job {
    sae_dictionary *dict;
    float s;
} saei_scale_job;

static void saei_input_scale_part(void *arg, size_t part) {
    const saei_scale_job *job = (const saei_scale_job *)arg;
    const sae_dictionary *dict = job->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    for (; i < end; i++) {
        float *enc = dict->W_enc + i * dict->ld, *dec = dict->W_dec + i * dict->ld_out;
        kernels->scale(dict->ld, job->s, enc, enc);
        kernels->divide(dict->ld_out, dec, job->s, dec);
    }
}

/* Moves a factor of the input into the weights: what was made for s x takes x. f stays. */
static void saei_fold_input_scale(sae_dictionary *dict, float s) {
    saei_scale_job job = { dict, s };
    saei_each_latent(dict, saei_input_scale_part, &job);
    for (size_t c = 0; c < dict->ld_out; c++) dict->b_dec[c] /= s;
}

static bool saei_llama_probe(const saei_load *load) {
    return saei_config_value(load->root, "jump_relu_threshold")
           && saei_load_find(load, "encoder.weight");
}

/* The weights are for x sqrt(d) / (the dataset's mean norm), which is folded in; the threshold is
   one number for all. */
static sae_result saei_llama_read(saei_load *load, sae_dictionary **out) {
    const sae_json *norm = saei_config_value(load->root, "dataset_average_activation_norm");
    const sae_json *threshold = saei_config_value(load->root, "jump_relu_threshold");
    const char *act = saei_config_text(load->root, "act_fn");
    char quoted[SAEI_QUOTE];
    saei_draft draft;
    sae_dictionary *dict;
    double s;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (!load->root)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND,
                              "there is no hyperparams.json beside the folder "
                              "checkpoints");
    load->config = load->root;
    norm = saei_config_value(norm, "in");
    if (act && strcmp(act, "jumprelu") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "act_fn in hyperparams.json is %s, allowed is "
                              "jumprelu",
                              saei_quote(act, quoted));
    if (!threshold || threshold->type != SAE_JSON_NUMBER || !(fabs(threshold->number) <= FLT_MAX))
        return saei_load_fail(load, SAE_ERR_FORMAT, "hyperparams.json has no number "
                              "jump_relu_threshold");
    if (!norm || norm->type != SAE_JSON_NUMBER || !(norm->number > 0)
        || !(norm->number <= FLT_MAX))
        return saei_load_fail(load, SAE_ERR_FORMAT, "hyperparams.json has no number above 0 in "
                              "dataset_average_activation_norm.in");
    SAEI_TRY(saei_config_required(load, "d_model", &draft.desc.activation_dim));
    SAEI_TRY(saei_config_required(load, "d_sae", &draft.desc.dict_size));
    draft.desc.arch = SAE_ARCH_JUMP_RELU;
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.weight", SAEI_SLOT_W_DEC_T, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.bias", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "Llama Scope");
    SAEI_TRY(saei_draft_make(&draft, &dict));
    s = sqrt((double)dict->desc.activation_dim) / norm->number;
    for (size_t i = 0; i < dict->desc.dict_size; i++)
        dict->aux0[i] = (float)(threshold->number * s);
    saei_fold_input_scale(dict, (float)s);
    saei_origin_text(dict->origin.class_name, sizeof dict->origin.class_name, "jumprelu");
    saei_origin_text(dict->origin.hook, sizeof dict->origin.hook,
                     saei_config_text(load->root, "hook_point_in"));
    dict->origin.layer = saei_layer_of(dict->origin.hook);
    *out = dict;
    return SAE_OK;
}

/* ---- openai/sparse_autoencoder ---- */

static bool saei_openai_probe(const saei_load *load) {
    return saei_load_find(load, "pre_bias") && saei_load_find(load, "latent_bias");
}

/* The value of the activation's own state, which the file may hold once or twice. */
static const char *saei_openai_value(const saei_load *load, const char *key) {
    char name[64];
    const char *text;
    snprintf(name, sizeof name, "activation_state_dict.%s", key);
    text = saei_tensor_file_scalar(load->tensors, name);
    if (text) return text;
    snprintf(name, sizeof name, "activation.%s", key);
    return saei_tensor_file_scalar(load->tensors, name);
}

/* The class normalises its input exactly where the activation is TopK, which takes the k largest p
   before its own activation. */
static sae_result saei_openai_desc(saei_draft *draft, const char **name) {
    const saei_load *load = draft->load;
    sae_dictionary_desc *desc = &draft->desc;
    const char *k, *after;
    char quoted[SAEI_QUOTE];
    double value = 0;
    *name = saei_tensor_file_scalar(load->tensors, "activation");
    if (!*name) *name = "ReLU";
    desc->arch = SAE_ARCH_STANDARD;
    if (strcmp(*name, "Identity") == 0) desc->activation = SAE_ACTIVATION_SIGNED;
    if (strcmp(*name, "ReLU") == 0 || strcmp(*name, "Identity") == 0) return SAE_OK;
    if (strcmp(*name, "TopK") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "activation is %s, allowed are ReLU, TopK, "
                              "Identity",
                              saei_quote(*name, quoted));
    desc->arch = SAE_ARCH_TOP_K;
    desc->input_norm = SAE_INPUT_NORM_LAYER;
    k = saei_openai_value(load, "k");
    after = saei_openai_value(load, "postact_fn");
    if (k && (!saei_text_number(k, strlen(k), &value) || value != floor(value))) value = 0;
    if (!(value >= 1 && value <= (double)desc->dict_size))
        return saei_load_fail(load, SAE_ERR_FORMAT,
                              "k of its activation TopK is %s, allowed are 1 to "
                              "%zu",
                              k ? saei_quote(k, quoted) : "missing", desc->dict_size);
    desc->k = (size_t)value;
    if (after && strcmp(after, "Identity") == 0) desc->activation = SAE_ACTIVATION_SIGNED;
    else if (after && strcmp(after, "ReLU") != 0)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "postact_fn of its activation TopK is %s, "
                              "allowed are ReLU, Identity", saei_quote(after, quoted));
    return SAE_OK;
}

static sae_result saei_openai_read(saei_load *load, sae_dictionary **out) {
    static const char *const statistics[] = { "stats_last_nonzero", "latents_activation_frequency",
                                              "latents_mean_square" };
    saei_draft draft;
    const char *name;
    memset(&draft, 0, sizeof draft);
    draft.load = load;
    if (load->tensors->header)
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED,
                              "the tensors of openai's Autoencoder without "
                              "its activation, which only the .pt holds");
    saei_draft_must(&draft, "pre_bias", SAEI_SLOT_B_DEC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "latent_bias", SAEI_SLOT_B_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "encoder.weight", SAEI_SLOT_W_ENC, NULL, SAEI_SLOT_NOTHING);
    saei_draft_must(&draft, "decoder.weight", SAEI_SLOT_W_DEC_T, "decoder.linear.weight",
                    SAEI_SLOT_W_DEC); /* tied: the encoder's own */
    for (size_t i = 0; i < 3; i++) saei_draft_may(&draft, statistics[i], SAEI_SLOT_NOTHING);
    if (!saei_draft_fits(&draft)) return saei_draft_misfit(&draft, "openai's Autoencoder");
    SAEI_TRY(saei_draft_sizes(&draft));
    draft.desc.output_dim = 0;
    SAEI_TRY(saei_openai_desc(&draft, &name));
    SAEI_TRY(saei_draft_make(&draft, out));
    saei_origin_text((*out)->origin.class_name, sizeof (*out)->origin.class_name, name);
    return SAE_OK;
}

/* ==== >>files: every format ======================================== src/formats/formats.h ==== */

/* In a folder a format is known by its file; a file that lies alone is known by its name, else by
   probe. */
typedef struct saei_format {
    sae_format format;
    const char *files[2]; /* the first that the folder has */
    const char *config;   /* beside the file, or beside its folder `checkpoints`; may be NULL */
    bool (*probe)(const saei_load *load);
    sae_result (*read)(saei_load *load, sae_dictionary **out);
    /* fit brings the copy in e->dict into the form that the format can say, or refuses it before
       anything is written; write writes the folder. NULL: the format is only read. */
    sae_result (*fit)(saei_export *e);
    sae_result (*write)(saei_export *e);
} saei_format;

/* Probed in this order. dictionary_learning comes last: its names of tensors are everybody's. */
static const saei_format saei_formats[SAEI_NUM_FORMATS] = {
    { SAE_FORMAT_SAE_LENS, { "sae_weights.safetensors", NULL }, "cfg.json",
      saei_lens_probe, saei_lens_read, saei_export_lens_fit, saei_export_lens },
    { SAE_FORMAT_SPARSIFY, { "sae.safetensors", NULL }, "cfg.json",
      saei_sparsify_probe, saei_sparsify_read, saei_export_sparsify_fit, saei_export_sparsify },
    { SAE_FORMAT_GEMMA_SCOPE, { "params.npz", NULL }, NULL,
      saei_gemma_probe, saei_gemma_read, NULL, NULL },
    { SAE_FORMAT_GEMMA_SCOPE_2, { "params.safetensors", NULL }, "config.json",
      saei_gemma_2_probe, saei_gemma_2_read, NULL, NULL },
    { SAE_FORMAT_LLAMA_SCOPE, { "checkpoints/final.safetensors", NULL }, "hyperparams.json",
      saei_llama_probe, saei_llama_read, NULL, NULL },
    { SAE_FORMAT_OPENAI, { "autoencoder.pt", NULL }, NULL,
      saei_openai_probe, saei_openai_read, NULL, NULL },
    { SAE_FORMAT_DICTIONARY_LEARNING, { "ae.pt", "ae.safetensors" }, "config.json",
      saei_dl_probe, saei_dl_read, saei_export_dl_fit, saei_export_dl }
};

/* Sets load->file, and *out where its name or the folder says which format it is. */
static sae_result saei_load_locate(saei_load *load, const saei_format **out) {
    saei_path_kind kind = SAEI_PATH_FILE, inside;
    char files[SAEI_NAMES] = "";
    if (!load->data)
        SAEI_TRY(saei_path_find(load->ctx, "sae_dictionary_load", load->path, &kind));
    if (kind == SAEI_PATH_FILE) {
        const char *name = load->data ? load->desc.name : load->path;
        load->file = saei_strdup(load->ctx, name ? name : "");
        if (!load->file) return saei_load_no_memory(load);
    }
    for (size_t r = 0; r < SAEI_NUM_FORMATS; r++)
        for (size_t i = 0; i < 2 && saei_formats[r].files[i]; i++) {
            const char *name = saei_formats[r].files[i];
            if (kind == SAEI_PATH_FILE) {
                if (strcmp(saei_path_base(load->file), name) == 0) *out = &saei_formats[r];
                continue;
            }
            saei_free(load->ctx, load->file);
            load->file = saei_path_join(load->ctx, load->path, name);
            if (!load->file) return saei_load_no_memory(load);
            *out = &saei_formats[r];
            SAEI_TRY(saei_path_find(load->ctx, "sae_dictionary_load", load->file, &inside));
            if (inside == SAEI_PATH_FILE) return SAE_OK;
            saei_list_name(files, name);
        }
    if (kind == SAEI_PATH_FILE) return SAE_OK;
    if (kind == SAEI_PATH_NONE)
        return saei_load_fail(load, SAE_ERR_NOT_FOUND, "there is no such file or folder");
    return saei_load_fail(load, SAE_ERR_NOT_FOUND, "the folder has none of %s", files);
}

static sae_result saei_load_open(saei_load *load) {
    saei_map map;
    if (!load->data) return sae_tensor_file_open(load->ctx, load->file, &load->tensors);
    memset(&map, 0, sizeof map);
    map.data = (const unsigned char *)load->data;
    map.size = load->size;
    return saei_tensor_file_open_map(load->ctx, load->path, &map, &load->tensors);
}

static sae_result saei_load_run(saei_load *load, sae_dictionary **out) {
    const saei_format *format = NULL;
    char names[SAEI_NAMES] = "";
    sae_dictionary *dict = NULL;
    SAEI_TRY(saei_load_locate(load, &format));
    SAEI_TRY(saei_load_open(load));
    for (size_t r = 0; r < SAEI_NUM_FORMATS && !format; r++) {
        if (saei_formats[r].config) SAEI_TRY(saei_load_config(load, saei_formats[r].config));
        if (saei_formats[r].probe(load)) format = &saei_formats[r];
    }
    if (!format) {
        for (size_t i = 0; i < sae_tensor_file_count(load->tensors); i++)
            saei_list_name(names, sae_tensor_file_get(load->tensors, i)->name);
        return saei_load_fail(load, SAE_ERR_UNSUPPORTED, "it is no dictionary: it holds %s",
                              *names ? names : "no tensors");
    }
    if (format->config) SAEI_TRY(saei_load_config(load, format->config));
    SAEI_TRY(format->read(load, &dict));
    dict->origin.format = format->format;
    *out = dict;
    return SAE_OK;
}

static sae_result saei_load_all(sae_context *ctx, const sae_load_desc *desc, const char *path,
                                const void *data, size_t size, sae_dictionary **out) {
    saei_load load;
    sae_result result;
    memset(&load, 0, sizeof load);
    load.ctx = ctx;
    load.path = path;
    load.data = data;
    load.size = size;
    load.prefix = "";
    if (desc) load.desc = *desc;
    result = saei_load_run(&load, out);
    sae_tensor_file_close(load.tensors);
    sae_json_close(load.root);
    saei_free(ctx, load.config_path);
    saei_free(ctx, load.file);
    return result;
}

SAE_API sae_result sae_dictionary_load(sae_context *ctx, const sae_load_desc *desc,
                                       const char *path, sae_dictionary **out) {
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_dictionary_load: ctx, path or out is NULL");
    return saei_load_all(ctx, desc, path, NULL, 0, out);
}

SAE_API sae_result sae_dictionary_load_memory(sae_context *ctx, const sae_load_desc *desc,
                                              const void *data, size_t size, sae_dictionary **out) {
    if (!ctx || !data || !out)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_dictionary_load_memory: ctx, data or out is NULL");
    return saei_load_all(ctx, desc, desc && desc->name ? desc->name : "memory", data, size, out);
}

/* ---- export ---- */

static const saei_format *saei_format_written(sae_format format, char allowed[SAEI_NAMES]) {
    size_t at = 0;
    allowed[0] = 0;
    for (size_t r = 0; r < SAEI_NUM_FORMATS; r++) {
        if (!saei_formats[r].write) continue;
        if (saei_formats[r].format == format) return &saei_formats[r];
        at += (size_t)snprintf(allowed + at, SAEI_NAMES - at, "%s%d (%s)", at ? ", " : "",
                               (int)saei_formats[r].format,
                               sae_format_name(saei_formats[r].format));
    }
    return NULL;
}

SAE_API sae_result sae_dictionary_export(const sae_dictionary *dict, const sae_export_desc *desc,
                                         const char *folder) {
    char allowed[SAEI_NAMES];
    const saei_format *format;
    saei_export e;
    sae_result result;
    if (!dict || !desc || !folder)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_export: dict, desc or folder is NULL");
    format = saei_format_written(desc->format, allowed);
    if (!format)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_export: format is %d, allowed are %s", (int)desc->format,
                         allowed);
    memset(&e, 0, sizeof e);
    e.ctx = dict->ctx;
    e.desc = desc;
    e.folder = folder;
    e.origin = desc->origin ? *desc->origin : dict->origin;
    SAEI_TRY(saei_dictionary_copy(dict, "sae_dictionary_export", &e.dict));
    SAEI_NOTE(&e, SAE_LOG_INFO, "%s -> %s", sae_arch_name(dict->desc.arch),
              sae_format_name(desc->format));
    result = format->fit(&e);
    if (result == SAE_OK && !saei_all_finite(e.dict->params, e.dict->num_params))
        result = saei_fail(e.ctx, SAE_ERR_NOT_FINITE,
                           "sae_dictionary_export: a parameter is NaN or "
                           "infinite, or becomes so when others are moved into it");
    if (result == SAE_OK) result = saei_make_folder(e.ctx, "sae_dictionary_export", folder);
    if (result == SAE_OK) result = format->write(&e);
    sae_dictionary_destroy(e.dict);
    return result;
}

/* ==== >>files: GGUF =================================================== src/formats/gguf.h ==== */
/* -- GGUF version 3: "GGUF" | u32 version | u64 tensors | u64 pairs | pairs: key, u32 type, value
   | tensors: name, u32 dimensions, u64 sizes, u32 type, u64 offset | to 32 bytes | data. Texts are
   a u64 length and bytes. -- */

static void saei_gguf_int(saei_writer *w, uint64_t value, size_t bytes) {
    saei_writer_put(w, &value, bytes); /* the machine is little endian */
}

static void saei_gguf_text(saei_writer *w, const char *text) {
    saei_gguf_int(w, strlen(text), 8);
    saei_writer_put(w, text, strlen(text));
}

static void saei_gguf_pair(saei_writer *w, const char *key, const char *text, uint32_t number) {
    enum { GGUF_UINT32 = 4, GGUF_STRING = 8 };
    saei_gguf_text(w, key);
    saei_gguf_int(w, text ? GGUF_STRING : GGUF_UINT32, 4);
    if (text) saei_gguf_text(w, text);
    else saei_gguf_int(w, number, 4);
}

static void saei_gguf_pad(saei_writer *w) {
    static const unsigned char zeros[32] = { 0 };
    saei_writer_put(w, zeros, (size_t)(-w->size & 31));
}

static sae_result saei_control_vector_write(const sae_context *ctx, const char *path,
                                            const float *direction, size_t d, size_t layer,
                                            const char *model_hint) {
    enum { GGUF_F32 = 0 };
    char name[32];
    saei_writer w;
    snprintf(name, sizeof name, "direction.%zu", layer);
    SAEI_TRY(saei_writer_open(ctx, "sae_steer_export", path, &w));
    saei_writer_put(&w, "GGUF", 4);
    saei_gguf_int(&w, 3, 4);
    saei_gguf_int(&w, 1, 8);
    saei_gguf_int(&w, 3, 8);
    saei_gguf_pair(&w, "general.architecture", "controlvector", 0);
    saei_gguf_pair(&w, "controlvector.model_hint", model_hint ? model_hint : "", 0);
    saei_gguf_pair(&w, "controlvector.layer_count", NULL, 1);
    saei_gguf_text(&w, name);
    saei_gguf_int(&w, 1, 4);
    saei_gguf_int(&w, d, 8);
    saei_gguf_int(&w, GGUF_F32, 4);
    saei_gguf_int(&w, 0, 8);
    saei_gguf_pad(&w);
    for (size_t k = 0; k < d; k++) {
        uint32_t bits;
        memcpy(&bits, direction + k, sizeof bits);
        saei_gguf_int(&w, bits, 4);
    }
    saei_gguf_pad(&w);
    return saei_writer_finish(&w);
}

SAE_API sae_result sae_steer_export(const sae_dictionary *dict, const sae_steering *steerings,
                                    size_t count, size_t layer, const char *model_hint,
                                    const char *path) {
    float *direction;
    sae_result result;
    if (!dict) return SAE_ERR_INVALID;
    if (!steerings || !count || !path)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_steer_export: steerings or path is NULL, or count is 0");
    SAEI_TRY(saei_steer_check(dict, "sae_steer_export", steerings, count));
    if (layer < 1 || layer > INT32_MAX)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_steer_export: layer is %zu, allowed are 1 to 2147483647 (llama.cpp "
                         "steers no layer 0)",
                         layer);
    if (!dict->W_dec)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "sae_steer_export: %s has no directions",
                         sae_arch_name(dict->desc.arch));
    if (dict->desc.input_norm && !dict->desc.output_normalized)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "sae_steer_export: the dictionary has an "
                         "input_norm, so its directions are of another length in every row");
    for (size_t j = 0; j < count; j++)
        if (steerings[j].mode > SAE_STEER_ADD)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_steer_export: steerings[%zu].mode is %d, allowed is "
                             "SAE_STEER_ADD alone: a control vector only adds",
                             j, (int)steerings[j].mode);
    direction = (float *)saei_calloc(dict->ctx, dict->ld_out, sizeof *direction);
    if (!direction)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_steer_export: no memory");
    for (size_t j = 0; j < count; j++) {
        const float *row = dict->W_dec + (size_t)steerings[j].latent * dict->ld_out;
        dict->ctx->kernels->axpy(dict->ld_out, steerings[j].value, row, direction, direction);
    }
    result = saei_control_vector_write(dict->ctx, path, direction, saei_output_dim(&dict->desc),
                                       layer, model_hint);
    saei_free(dict->ctx, direction);
    return result;
}

#if defined(SAEI_FOR_SIZE)
#pragma GCC pop_options
#endif

#ifndef SAE_NO_TRAIN

/* ==== >>operations ===================================================== src/backend/ops.h ==== */

/* Whether a table can be used: what it must have is there. */
static sae_result saei_backend_check(const sae_context *ctx, const char *where,
                                     const sae_backend *ops) {
    const char *missing = NULL;
    if (!ops->name)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: the context's backend has no name", where);
#define SAEI_CHECK(result, operation, need, parameters, arguments)                                 \
    if (!missing && !ops->operation && !((need) & SAE_OP_OPTIONAL)) missing = #operation;
    SAE_BACKEND_CONTROL(SAEI_CHECK)
    SAE_BACKEND_OPERATIONS(SAEI_CHECK)
#undef SAEI_CHECK
    if (missing)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s of the backend \"%s\" is NULL, which only "
                         "optional operations may be", where, missing, ops->name);
    if (!ops->guard != !ops->tripped)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: the backend \"%s\" has one of guard and "
                         "tripped, allowed are both or none", where, ops->name);
    if (!ops->begin_step != !ops->end_step)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: the backend \"%s\" has one of begin_step and "
                         "end_step, allowed are both or none", where, ops->name);
    return SAE_OK;
}

/* -- optional operations, each with the same bits where the backend has none of its own -- */

/* e = x_hat - y and its mean square norm; grad = alpha e.W of the entries, 0 where relu_of is not
   positive. */
static void saei_op_reconstruct(const sae_backend *ops, const sae_work *w, const sae_code *code,
                                const float *values, const float *W, const float *base,
                                const float *y, float alpha, const float *relu_of, float *e,
                                double *loss, float *grad) {
    size_t m = w->shape.dict_size;
    if (ops->reconstruct) {
        ops->reconstruct(w, code, values, W, base, y, alpha, relu_of, e, loss, grad);
        return;
    }
    ops->decode(w, code, values, W, 0, m, base, 0, e);
    ops->residual(w, e, y, code->rows, e, loss);
    ops->dots(w, code, e, W, 0, m, alpha, relu_of, grad);
}

/* An update of param [m][ld]. Without an operation of its own no row is deferred: lazy is NULL. */
static void saei_op_adam_rows(const sae_backend *ops, const sae_work *w, const sae_adam_desc *adam,
                              uint64_t t, const double *sum_squares, double max_norm,
                              float project, float unit, const sae_lazy_adam *lazy, size_t m,
                              float *param, float *grad, float *first, float *second) {
    if (ops->adam_rows) {
        ops->adam_rows(w, adam, t, sum_squares, max_norm, project, unit, lazy, m, param, grad,
                       first, second);
        return;
    }
    if (project >= 0) ops->remove_parallel(w, param, m, project, NULL, grad);
    ops->adam(w, adam, t, sum_squares, max_norm, param, grad, first, second, m * w->shape.ld);
    if (unit >= 0) ops->normalize_rows(w, m, unit, param);
}

/* out[i] = the sum of the code's `values` over the entries of latent i; where the backend does it
   by latent, they are value[which] of the index. */
static void saei_op_code_sums(const sae_backend *ops, const sae_work *w, const sae_code *code,
                              const float *values, const sae_index *index, size_t which,
                              float *out) {
    if (ops->code_sums) ops->code_sums(w, code, values, w->shape.dict_size, false, out);
    else ops->latent_sums(w, index, which, false, out);
}

/* ==== >>cpu ============================================================ src/backend/cpu.h ==== */
/* The backend that is built in. Work is cut into parts that do not depend on the number of threads
   wherever an order matters; rows and latents are independent, so there any cut will do. */

enum {
    SAEI_LATENT_PART = 32,   /* latents of one by-latent task */
    SAEI_DENSE_TARGETS = 256, /* at most: rows or latents of one task of the dense phase */
    SAEI_CHUNK = 16384,      /* floats of one elementwise task; part of sum_squares' order */
    SAEI_SORT_PARTS = 16,    /* at most: row blocks of the counting sort */
#if defined(SAE_CBLAS)
    SAEI_BLAS_ROWS = 512,     /* rows and latents of one product: 2 MB, and as many rows' lists */
    SAEI_BLAS_LATENTS = 1008, /* whole panels */
#else
    SAEI_BLAS_ROWS = 0,
    SAEI_BLAS_LATENTS = 0,
#endif
    SAEI_BLAS_PART = 16      /* rows of one task of its selection */
};

typedef struct saei_draw {
    double key;
    size_t row;
} saei_draw;

/* Scratch memory of a work, cut into pieces: X(type, name, count, each) is count times each of a
   type, in the terms of saei_cpu_layout. Each operation says in its job what it keeps where; none
   leaves anything for another. */
#define SAEI_CPU_PIECES(X)                                                                         \
    /* W_enc packed [panels][d][48], or as int16 pairs [panels][ld / 2][48]; dense: panels */      \
    X(float, panels, taller, 1)                                                                    \
    X(float, dense, threads * SAEI_DENSE_TARGETS, ld)                                              \
    X(float, lanes, threads * SAEI_DENSE_TARGETS, SAEI_DENSE_ROWS * 16)                            \
    X(uint64_t, marks, threads * SAEI_DENSE_TARGETS, saei_ceil_div(m, SAEI_DENSE_ROWS))            \
    X(uint64_t, active_bits, batch, saei_ceil_div(m, 64))                                          \
    X(float, screen, saei_screen_floats(m), 1)                                                     \
    X(float, value, lists, s->capacity)                                                            \
    X(uint32_t, latent, lists, s->capacity)                                                        \
    X(int16_t, words, threads * SAEI_ENCODE_ROWS, ld)                                              \
    X(uint32_t, integers, saei_max(SAEI_SORT_PARTS * saei_max(padded, batch), 65536), 1)           \
    X(double, block_sums, saei_ceil_div(saei_max(batch, padded), SAE_ROW_BLOCK), ld)               \
    X(double, doubles, most, 2) /* most: of rows, columns, latents, chunks */                      \
    X(float, rows, threads * 3, ld)                                                                \
    X(float, latents, padded, 1)                                                                   \
    X(saei_draw, draws, batch, 1)                                                                  \
    X(float, products, blas_rows * SAEI_BLAS_LATENTS, 1) /* a BLAS's, and of its rows: */          \
    X(saei_top, tops, blas_rows, 1)                                                                \
    X(saei_quantized, facts, blas_rows, 1)

typedef struct saei_cpu_scratch {
    size_t capacity; /* of a row's list of candidates in value and latent, a multiple of 16 */
#define SAEI_MEMBER(type, name, count, each) type *name;
    SAEI_CPU_PIECES(SAEI_MEMBER)
#undef SAEI_MEMBER
} saei_cpu_scratch;

/* Fills s with pieces of base; returns the bytes needed (SIZE_MAX: more than there can be). */
static size_t saei_cpu_layout(const sae_context *ctx, const sae_shape *h, void *base,
                              saei_cpu_scratch *s) {
    size_t at = 0, threads = (size_t)ctx->threads, batch = h->batch, ld = h->ld, m = h->dict_size;
    size_t all = saei_ceil_div(m, SAEI_PANEL) * SAEI_PANEL; /* latents in panels */
    size_t padded = saei_align16(m), most = saei_max(saei_max(batch, padded), ld), width, taller;
    size_t blas_rows = saei_min(SAEI_BLAS_ROWS, batch);
    size_t lists = threads * SAEI_TOP_LISTS + blas_rows; /* of a BLAS's rows behind the others */
    if (m > UINT32_MAX || batch > UINT32_MAX || !saei_mul(all, ld, &width)
        || !saei_mul(saei_max(all, batch), ld, &taller))
        return SIZE_MAX;
    most = saei_max(most, 2 * width / SAEI_CHUNK + 64);
    s->capacity = saei_align16(saei_min(4 * h->k, padded) + 4 * SAEI_PANEL);
#define SAEI_PLACE(type, name, count, each)                                                        \
    s->name = (type *)saei_piece((unsigned char *)base, &at, count, (each) * sizeof(type));
    SAEI_CPU_PIECES(SAEI_PLACE)
#undef SAEI_PLACE
    return at;
}

static saei_cpu_scratch saei_cpu_scratch_of(const sae_work *w) {
    saei_cpu_scratch s;
    saei_cpu_layout(w->ctx, &w->shape, w->scratch, &s);
    return s;
}

/* -- memory -- */

static sae_result saei_cpu_open(const sae_context *ctx, void **state) {
    (void)ctx;
    *state = NULL;
    return SAE_OK;
}
static void saei_cpu_close(const sae_context *ctx, void *state) {
    (void)ctx;
    (void)state;
}
static void *saei_cpu_alloc(const sae_work *w, size_t bytes) {
    return saei_calloc(w->ctx, bytes, 1);
}
static void saei_cpu_free(const sae_work *w, void *memory) { saei_free(w->ctx, memory); }
static size_t saei_cpu_scratch_bytes(const sae_work *w, const sae_shape *shape) {
    saei_cpu_scratch s;
    return saei_cpu_layout(w->ctx, shape, NULL, &s);
}
static void saei_cpu_upload(const sae_work *w, void *device, const void *host, size_t bytes) {
    (void)w;
    if (bytes) memcpy(device, host, bytes);
}
static void saei_cpu_download(const sae_work *w, void *host, const void *device, size_t bytes) {
    (void)w;
    if (bytes) memcpy(host, device, bytes);
}
static void saei_cpu_zero(const sae_work *w, void *memory, size_t bytes) {
    (void)w;
    memset(memory, 0, bytes);
}
static sae_result saei_cpu_status(const sae_work *w) {
    (void)w;
    return SAE_OK;
}

/* A sum in the scalars order: s[0] the blocks before, s[1] this block so far. */
static void saei_sum_add(double s[2], size_t i, double x) {
    if (i % SAE_ROW_BLOCK == 0) {
        s[0] += s[1];
        s[1] = 0;
    }
    s[1] += x;
}
static double saei_sum_doubles(const double *x, size_t n) {
    double s[2] = { 0, 0 };
    for (size_t i = 0; i < n; i++) saei_sum_add(s, i, x[i]);
    return s[0] + s[1];
}

static size_t saei_code_entries(const sae_code *code) {
    size_t entries = 0;
    for (size_t r = 0; r < code->rows; r++) entries += code->count[r];
    return entries;
}

/* How many rows of a code a part has where there is one part a thread: whole words of bits. */
static size_t saei_code_part_rows(const sae_context *ctx, size_t rows) {
    size_t parts = saei_min((size_t)ctx->threads, SAEI_SORT_PARTS);
    return saei_max(64, saei_ceil_div(saei_ceil_div(rows, parts), 64) * 64);
}

/* ==== >>cpu: batches ============================================= src/backend/cpu_batch.h ==== */
/* Of every operation: its job is what its parts share. */

typedef struct saei_load_job {
    sae_dtype dtype;
    const void *rows;
    size_t stride, n, d, ld;
    float divisor, *x;
    uint32_t *bad; /* [parts] */
} saei_load_job;

static void saei_load_part(void *arg, size_t part) {
    saei_load_job *j = (saei_load_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *to = j->x + r * j->ld, worst = 0;
        const float *from = to;
        if (j->dtype == SAE_F32) from = (const float *)j->rows + r * j->stride;
        else
            saei_convert_row(j->dtype, (const unsigned char *)j->rows + 2 * r * j->stride, 2, j->d,
                             to);
        for (size_t c = 0; c < j->d; c++) {
            float v = from[c];
            worst += v - v; /* NaN if v is not finite, else 0 */
            to[c] = j->divisor == 1.0f ? v : v / j->divisor;
        }
        if (worst != 0) j->bad[part] = 1;
    }
}

static void saei_cpu_load_rows(const sae_work *w, const sae_rows *rows, size_t n, float divisor,
                               float *x, uint32_t *bad) {
    saei_load_job j;
    size_t parts = saei_ceil_div(n, 64);
    j.dtype = rows->dtype ? rows->dtype : SAE_F32;
    j.rows = rows->data;
    j.d = w->shape.d;
    j.ld = w->shape.ld;
    j.stride = rows->stride ? rows->stride : j.d;
    j.n = n;
    j.divisor = divisor;
    j.x = x;
    j.bad = saei_cpu_scratch_of(w).integers;
    memset(j.bad, 0, parts * sizeof *j.bad);
    saei_parallel(w->ctx, parts, saei_load_part, &j);
    for (size_t i = 0; i < parts; i++)
        if (j.bad[i]) *bad = 1;
}

typedef struct saei_subtract_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x, *b;
    float *out;
} saei_subtract_job;

static void saei_subtract_part(void *arg, size_t part) {
    saei_subtract_job *j = (saei_subtract_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++)
        j->kernels->axpy(j->ld, -1, j->b, j->x + r * j->ld, j->out + r * j->ld);
}

static void saei_cpu_subtract(const sae_work *w, const float *x, const float *b, size_t n,
                              float *out) {
    saei_subtract_job j;
    j.kernels = w->ctx->kernels;
    j.ld = w->shape.ld;
    j.n = n;
    j.x = x;
    j.b = b;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_subtract_part, &j);
}

typedef struct saei_axpy_job {
    const saei_kernels *kernels;
    size_t count;
    float a;
    const float *x, *y;
    float *out;
} saei_axpy_job;

static void saei_axpy_part(void *arg, size_t part) {
    saei_axpy_job *j = (saei_axpy_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    if (j->y) j->kernels->axpy(n, j->a, j->x + at, j->y + at, j->out + at);
    else
        for (size_t i = at; i < at + n; i++) j->out[i] = j->a * j->x[i];
}

static void saei_cpu_axpy(const sae_work *w, size_t count, float a, const float *x, const float *y,
                          float *out) {
    saei_axpy_job j;
    j.kernels = w->ctx->kernels;
    j.count = count;
    j.a = a;
    j.x = x;
    j.y = y;
    j.out = out;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_axpy_part, &j);
}

/* ==== >>cpu: encode ============================================= src/backend/cpu_encode.h ==== */
/* By exact products, or screened (>>kernels: the screen). With SAE_CBLAS a float product of the
   user's BLAS proposes instead of the int16 one, on every CPU. */

static void saei_pack_part(void *arg, size_t part) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    size_t first = part * SAEI_PANEL;
    saei_pack_panel(job->kernels, a->W, a->ld, a->d, a->list, first,
                    saei_min(SAEI_PANEL, job->m - first), job->room.panels + first * a->d);
}

/* Bits of 48 latents from `first`, a multiple of 48, into those of row r. */
static void saei_active_bits_put(const sae_code *code, size_t r, size_t m, size_t first,
                                 uint64_t bits) {
    uint64_t *word = code->active_bits + r * saei_ceil_div(m, 64) + first / 64;
    size_t shift = first % 64;
    word[0] |= bits << shift;
    if (shift > 64 - SAEI_PANEL && bits >> (64 - shift)) word[1] |= bits >> (64 - shift);
}

static void saei_keep_row(const saei_encode_job *job, size_t r, size_t first, size_t count,
                          const float *product, const float *bias, const float *theta) {
    const sae_encode_args *a = job->args;
    const sae_code *code = job->code;
    uint32_t *latent = code->latent + r * code->stride;
    float *pre = code->pre + r * code->stride;
    size_t before = code->count[r], after = before;
    uint64_t kept = ((uint64_t)1 << count) - 1;
    switch (a->select) {
    case SAE_SELECT_ALL:
        for (size_t j = 0; j < count; j++) {
            latent[after] = (uint32_t)(first + j);
            pre[after++] = product[j] + bias[j];
        }
        break;
    case SAE_SELECT_WINDOW:
        after = job->kernels->keep_window(product, bias, theta, a->bandwidth, count,
                                          (uint32_t)first, latent, pre, before, code->stride,
                                          &kept);
        break;
    case SAE_SELECT_GATE:
    case SAE_SELECT_POSITIVE:
    case SAE_SELECT_BATCH_TOP_K:
    case SAE_SELECT_TOP_K: /* through saei_keep_top */
        after = job->kernels->keep_above(product, bias, a->select == SAE_SELECT_GATE, count,
                                         job->cut, (uint32_t)first, latent, pre, before,
                                         code->stride, &kept);
        break;
    }
    if (code->has_active_bits) saei_active_bits_put(code, r, job->m, first, kept);
    if (a->list)
        for (size_t j = before; j < after; j++) latent[j] = a->list[latent[j]];
    code->count[r] = (uint32_t)after;
}

static void saei_encode_part(void *arg, size_t part, size_t worker) {
    saei_encode_job *job = (saei_encode_job *)arg;
    const sae_encode_args *a = job->args;
    sae_code *code = job->code;
    size_t r0 = part * job->part_rows, r1 = saei_part_end(part, job->part_rows, a->n);
    bool top_k = a->select == SAE_SELECT_TOP_K;
    saei_top top[SAEI_ENCODE_ROWS];
    float product[SAEI_TILE_ROWS * SAEI_PANEL], bias[SAEI_PANEL], theta[SAEI_PANEL];
    saei_tops(job, worker, r1 - r0, top);
    memset(bias, 0, sizeof bias);
    for (size_t r = r0; r < r1; r++) code->count[r] = 0;
    if (code->has_active_bits) {
        size_t words = saei_ceil_div(job->m, 64);
        memset(code->active_bits + r0 * words, 0, (r1 - r0) * words * sizeof(uint64_t));
    }
    for (size_t first = 0; first < job->m; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, job->m - first);
        for (size_t j = 0; j < count; j++) {
            size_t i = a->list ? a->list[first + j] : first + j;
            bias[j] = a->bias[i];
            theta[j] = a->theta ? a->theta[i] : 0;
        }
        for (size_t g = r0; g < r1; g += SAEI_TILE_ROWS) {
            const float *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = a->x + saei_min(g + i, r1 - 1) * a->ld;
            job->kernels->tile(x, job->room.panels + first * a->d, a->d, false, product);
            for (size_t r = g; r < saei_min(g + SAEI_TILE_ROWS, r1); r++) {
                const float *row = product + (r - g) * SAEI_PANEL;
                if (top_k) saei_keep_top(job, first, count, row, bias, &top[r - r0]);
                else saei_keep_row(job, r, first, count, row, bias, theta);
            }
        }
    }
    for (size_t r = r0; top_k && r < r1; r++) {
        size_t at = r * code->stride;
        saei_top_finish(job->kernels, &top[r - r0], job->k);
        code->count[r] = (uint32_t)saei_top_write(&top[r - r0], job->k, job->m, a->list,
                                                  code->latent + at, code->pre + at);
    }
}

#if defined(SAE_CBLAS)
/* -- with a BLAS: blocks of its float products propose. They and the canonical ones are d u |x||w|
   from the true ones at most, u = 2^-24, whatever the order, fused or not, and a thousandth of that
   more for terms of u^2. 2.5 (d + 32) u |x||w| holds both with a fifth to spare. W1 on AVX2, two
   cores: 86 ms, OpenBLAS's product 69 of them; the exact path 92 -- */

typedef struct saei_blas_job {
    saei_encode_job *encode;
    size_t lo, hi;         /* rows of the block */
    size_t first;          /* its first latent */
    float *products;       /* [SAEI_BLAS_ROWS][SAEI_BLAS_LATENTS] */
    saei_top *tops;        /* of the block's rows */
    saei_quantized *facts; /* alike */
} saei_blas_job;

/* The candidates of row r among a panel's latents. */
static void saei_blas_keep(const saei_encode_job *job, size_t r, size_t first, const float *p,
                           float error, saei_top *top) {
    saei_screen_list list;
    float cut, margin;
    size_t count;
    if (!saei_screen_ready(job, r, error, top, &list, &cut, &margin)) return;
    count = job->kernels->keep_above(p, job->room.offset + first, false,
                                     saei_min(SAEI_PANEL, job->m - first), cut, (uint32_t)first,
                                     list.latent, list.value, list.count, list.stride, NULL);
    for (size_t j = list.count; margin > 0 && j < saei_min(count, list.stride); j++)
        list.value[j] -= margin;
    saei_screen_done(job, r, count, top);
}

/* SAEI_BLAS_PART of the block's rows. */
static void saei_blas_part(void *arg, size_t part, size_t worker) {
    saei_blas_job *b = (saei_blas_job *)arg;
    saei_encode_job *job = b->encode;
    const sae_encode_args *a = job->args;
    size_t r0 = b->lo + part * SAEI_BLAS_PART, r1 = saei_min(r0 + SAEI_BLAS_PART, b->hi);
    size_t lists = (size_t)job->ctx->threads * SAEI_TOP_LISTS;
    size_t end = saei_min(b->first + SAEI_BLAS_LATENTS, job->m);
    float rounding = (float)(a->d + 32) * 1.5e-7f;
    double *least = &job->room.least[r0 / SAEI_BLAS_PART];
    saei_top spare = saei_top_list(job, worker * SAEI_TOP_LISTS);
    if (!b->first) *least = HUGE_VAL;
    for (size_t r = r0; r < r1; r++) {
        const float *facts = job->room.facts + b->first / SAEI_PANEL * SAEI_SCREEN_FACTS;
        const float *p = b->products + (r - b->lo) * SAEI_BLAS_LATENTS;
        saei_quantized *q = &b->facts[r - b->lo];
        saei_top *top = &b->tops[r - b->lo];
        if (!b->first) {
            saei_screen_row(job, a->x + r * a->ld, NULL, q);
            *top = saei_top_list(job, lists + r - b->lo);
            if (a->select == SAE_SELECT_TOP_K) top->lower_bound = job->cut * q->norm;
            job->code->count[r] = 0;
        }
        for (size_t first = b->first; first < end && q->inverse >= 0;
             first += SAEI_PANEL, p += SAEI_PANEL, facts += SAEI_SCREEN_FACTS)
            saei_blas_keep(job, r, first, p, saei_screen_error(q, facts, rounding), top);
        if (end == job->m) saei_screen_row_end(job, r, q, top, &spare, least);
    }
}

static void saei_blas_encode(saei_encode_job *job, const saei_cpu_scratch *s) {
    const sae_encode_args *a = job->args;
    saei_blas_job b;
    b.encode = job;
    b.products = s->products;
    b.tops = s->tops;
    b.facts = s->facts;
    for (b.lo = 0; b.lo < a->n; b.lo = b.hi) {
        b.hi = saei_min(b.lo + SAEI_BLAS_ROWS, a->n);
        for (b.first = 0; b.first < job->m; b.first += SAEI_BLAS_LATENTS) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(b.hi - b.lo),
                        (int)saei_min(SAEI_BLAS_LATENTS, job->m - b.first), (int)a->d, 1,
                        a->x + b.lo * a->ld, (int)a->ld, a->W + b.first * a->ld, (int)a->ld, 0,
                        b.products, SAEI_BLAS_LATENTS);
            saei_parallel_workers(job->ctx, saei_ceil_div(b.hi - b.lo, SAEI_BLAS_PART),
                                  saei_blas_part, &b);
        }
    }
}
#endif

/* Whether screening pays and holds; packs W_enc for it if so, or only measures it for a BLAS.
   known: entries a row is expected to have. */
static bool saei_screen_begin(saei_encode_job *job, double known) {
    const sae_encode_args *a = job->args;
    job->blas = SAEI_BLAS_ROWS > 0;
    if ((!job->kernels->screen && !job->blas) || a->list || a->select == SAE_SELECT_ALL
        || known * 20 > (double)job->m || a->n < SAEI_TILE_ROWS || !saei_screen_fits(a->d, job->m))
        return false;
    return saei_screen_pack(job);
}

/* All rows, screened or not; returns how many of room.least are used. A part has many rows, as it
   reads all panels, but every thread should have four. */
static size_t saei_encode_rows(saei_encode_job *job, const saei_cpu_scratch *s, bool screened) {
    size_t n = job->args->n, share = saei_align16(n / (4 * (size_t)job->ctx->threads)), parts;
    job->part_rows = saei_min(saei_max(share, 32), SAEI_ENCODE_ROWS);
    parts = saei_ceil_div(n, job->part_rows);
#if defined(SAE_CBLAS)
    if (screened) {
        saei_blas_encode(job, s);
        return saei_ceil_div(n, SAEI_BLAS_PART);
    }
#endif
    (void)s;
    saei_parallel_workers(job->ctx, parts, screened ? saei_screen_rows : saei_encode_part, job);
    return parts;
}

static void saei_encode_pack(saei_encode_job *job) {
    saei_parallel(job->ctx, saei_ceil_div(job->m, SAEI_PANEL), saei_pack_part, job);
}

static saei_encode_job saei_encode_job_of(const sae_work *w, const sae_encode_args *a,
                                          sae_code *code, const saei_cpu_scratch *s) {
    saei_encode_job job;
    memset(&job, 0, sizeof job);
    job.ctx = w->ctx;
    job.kernels = w->ctx->kernels;
    job.args = a;
    job.code = code;
    job.m = a->list ? *a->list_count : a->m;
    job.k = saei_min(a->k, job.m);
    job.room.panels = s->panels;
    job.room.words = s->words;
    job.room.value = s->value;
    job.room.latent = s->latent;
    job.room.capacity = s->capacity;
    job.room.refused = s->integers;
    job.room.least = s->doubles;
    saei_screen_place(&job.room, job.m, s->screen);
    return job;
}

/* BATCH_TOP_K: the rows have all that exceeds the cut, an estimate. If that is fewer than k * n,
   they are encoded again with a lower one, then with none. */
static void saei_encode_batch_top(saei_encode_job *job, const saei_cpu_scratch *s, bool screened) {
    const sae_encode_args *a = job->args;
    size_t total;
    for (bool again = true;;) {
        total = saei_code_entries(job->code);
        if (total >= a->k * a->n || job->cut <= 0) break;
        job->cut = again && screened ? 0.7f * job->cut : 0;
        again = false;
        if (!(job->cut > 0) && screened) {
            saei_encode_pack(job);
            screened = false;
        }
        saei_encode_rows(job, s, screened);
    }
    *a->warm = total > a->k * a->n ? 0.96f * saei_keep_batch(job->code, a->k * a->n, s->integers)
                                   : 0;
}

static void saei_cpu_encode(const sae_work *w, const sae_encode_args *a, sae_code *code) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_encode_job job = saei_encode_job_of(w, a, code, &s);
    size_t last = saei_code_entries(code), parts; /* last: of the batch before */
    double known = code->rows ? (double)last / (double)code->rows : (double)a->m;
    bool screened;
    if (a->select == SAE_SELECT_TOP_K) known = (double)a->k;
    code->rows = a->n;
    if (a->select == SAE_SELECT_BATCH_TOP_K || (a->select == SAE_SELECT_TOP_K && !a->list))
        job.cut = *a->warm;
    if (a->select == SAE_SELECT_BATCH_TOP_K && !(job.cut > 0)) known = (double)a->m;
    screened = saei_screen_begin(&job, known);
    /* Bits cost little, and serve sums of lists that are not yet dense, too. */
    code->has_active_bits = code->active_bits && !screened && !a->list
                            && known * 32 > (double)job.m && a->select != SAE_SELECT_TOP_K
                            && a->select != SAE_SELECT_BATCH_TOP_K;
    if (!screened) saei_encode_pack(&job);
    parts = saei_encode_rows(&job, &s, screened);
    if (a->select == SAE_SELECT_TOP_K && screened) {
        double least = HUGE_VAL; /* over the rows, of the k-th largest p / |x| */
        for (size_t i = 0; i < parts; i++)
            least = job.room.least[i] < least ? job.room.least[i] : least;
        *a->warm = 0.97f * (float)least;
    }
    if (a->select == SAE_SELECT_BATCH_TOP_K) saei_encode_batch_top(&job, &s, screened);
}

/* ==== >>cpu: values of entries ================================== src/backend/cpu_values.h ==== */

/* gate and gate_grad */
typedef struct saei_gate_job {
    const saei_kernels *kernels;
    const float *gate_bias, *mag_bias;
    float *exp_r; /* [m] */
    const sae_code *code;
} saei_gate_job;

static saei_gate_job saei_gate_job_of(const sae_work *w, const float *r_mag, const sae_code *code) {
    saei_gate_job j;
    j.kernels = w->ctx->kernels;
    j.gate_bias = j.mag_bias = NULL;
    j.exp_r = saei_cpu_scratch_of(w).latents;
    j.code = code;
    for (size_t i = 0; i < w->shape.dict_size; i++) j.exp_r[i] = (float)saei_exp(r_mag[i]);
    return j;
}

static void saei_gate_part(void *arg, size_t part) {
    saei_gate_job *j = (saei_gate_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        j->kernels->gate(c->count[r], r * c->stride, j->gate_bias, j->exp_r, j->mag_bias, c);
}

static void saei_cpu_gate(const sae_work *w, const float *gate_bias, const float *r_mag,
                          const float *mag_bias, sae_code *code) {
    saei_gate_job j = saei_gate_job_of(w, r_mag, code);
    j.gate_bias = gate_bias;
    j.mag_bias = mag_bias;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_gate_part, &j);
}

static void saei_gate_grad_part(void *arg, size_t part) {
    saei_gate_job *j = (saei_gate_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        j->kernels->gate_grad(c->count[r], r * c->stride, j->exp_r, c);
}

static void saei_cpu_gate_grad(const sae_work *w, const float *r_mag, sae_code *code) {
    saei_gate_job j = saei_gate_job_of(w, r_mag, code);
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_gate_grad_part, &j);
}

typedef struct saei_jump_job {
    const float *theta;
    const sae_code *code;
} saei_jump_job;

static void saei_jump_part(void *arg, size_t part) {
    saei_jump_job *j = (saei_jump_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t at = r * c->stride; at < r * c->stride + c->count[r]; at++)
            c->value[at] = c->pre[at] > j->theta[c->latent[at]] ? c->pre[at] : 0;
}

static void saei_cpu_jump(const sae_work *w, const float *theta, sae_code *code) {
    saei_jump_job j;
    j.theta = theta;
    j.code = code;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_jump_part, &j);
}

static void saei_exp_values_part(void *arg, size_t part) {
    const sae_code *c = (const sae_code *)arg;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            c->value[j] = (float)saei_exp((double)c->pre[j]);
}

static void saei_cpu_exp_values(const sae_work *w, sae_code *code) {
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_exp_values_part, code);
}

static void saei_exp_grad_part(void *arg, size_t part) {
    const sae_code *c = (const sae_code *)arg;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            c->grad[j] *= c->value[j];
}

static void saei_cpu_exp_grad(const sae_work *w, sae_code *code) {
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_exp_grad_part, code);
}

/* ==== >>cpu: sums over rows and columns =========================== src/backend/cpu_sums.h ==== */

typedef struct saei_block_sum_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x, *s; /* s NULL: 1 */
    double *sums;       /* [blocks][ld] */
} saei_block_sum_job;

/* The sum of s_r x_r over one block of rows, in double: these sums are the bias's gradient, which
   every pre-activation feels. */
static void saei_block_sum_part(void *arg, size_t part) {
    saei_block_sum_job *j = (saei_block_sum_job *)arg;
    double *out = j->sums + part * j->ld;
    memset(out, 0, j->ld * sizeof *out);
    for (size_t r = part * SAE_ROW_BLOCK; r < saei_part_end(part, SAE_ROW_BLOCK, j->n); r++) {
        const float *row = j->x + r * j->ld;
        double s = j->s ? (double)j->s[r] : 1;
        if (s != 0) j->kernels->add_double(j->ld, s, row, out);
    }
}

/* The blocks' sums added in order, [ld] in scratch memory. */
static const double *saei_block_sum(const sae_work *w, const float *x, const float *s, size_t n) {
    saei_block_sum_job j;
    size_t blocks = saei_ceil_div(n, SAE_ROW_BLOCK);
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.x = x;
    j.s = s;
    j.sums = saei_cpu_scratch_of(w).block_sums;
    saei_parallel(w->ctx, blocks, saei_block_sum_part, &j);
    for (size_t block = 1; block < blocks; block++)
        for (size_t c = 0; c < j.ld; c++) j.sums[c] += j.sums[block * j.ld + c];
    return j.sums;
}

static void saei_cpu_column_sums(const sae_work *w, const float *x, size_t n, float alpha,
                                 float *out) {
    const double *sum = saei_block_sum(w, x, NULL, n);
    for (size_t c = 0; c < w->shape.ld; c++) out[c] = (float)((double)alpha * sum[c]);
}

static void saei_cpu_weighted_sum(const sae_work *w, const float *W, const float *s, size_t m,
                                  float alpha, float *out) {
    const double *sum = saei_block_sum(w, W, s, m);
    for (size_t c = 0; c < w->shape.ld; c++)
        out[c] = (float)((double)out[c] + (double)alpha * sum[c]);
}

typedef struct saei_sum_squares_job {
    const saei_kernels *kernels;
    const float *x;
    size_t count;
    double *sums; /* [parts] */
} saei_sum_squares_job;

static void saei_sum_squares_part(void *arg, size_t part) {
    saei_sum_squares_job *j = (saei_sum_squares_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    j->sums[part] = j->kernels->dot(n, j->x + at, j->x + at);
}

static void saei_cpu_sum_squares(const sae_work *w, const float *x, size_t count, double *out) {
    saei_sum_squares_job j;
    size_t parts = saei_ceil_div(count, SAEI_CHUNK);
    j.kernels = w->ctx->kernels;
    j.x = x;
    j.count = count;
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, parts, saei_sum_squares_part, &j);
    *out = saei_sum_doubles(j.sums, parts);
}

typedef struct saei_scatter_job {
    const float *x;
    size_t n, d, ld;
    double *sums; /* [d] */
} saei_scatter_job;

/* Of each column, sum_r (x - mean)^2, in double, in blocks of 1024 rows. */
static void saei_scatter_part(void *arg, size_t part) {
    saei_scatter_job *j = (saei_scatter_job *)arg;
    size_t c0 = part * 64, width = saei_part_end(part, 64, j->d) - c0;
    double mean[64], sum[64], block[64];
    memset(mean, 0, sizeof mean);
    memset(sum, 0, sizeof sum);
    for (int pass = 0; pass < 2; pass++) {
        double *total = pass ? sum : mean;
        for (size_t r = 0; r < j->n; ) {
            size_t end = saei_min(r + SAE_ROW_BLOCK, j->n);
            memset(block, 0, sizeof block);
            for (; r < end; r++)
                for (size_t c = 0; c < width; c++) {
                    double v = (double)j->x[r * j->ld + c0 + c];
                    if (pass) v = (v - mean[c]) * (v - mean[c]);
                    block[c] += v;
                }
            for (size_t c = 0; c < width; c++) total[c] += block[c];
        }
        for (size_t c = 0; !pass && c < width; c++) mean[c] /= (double)j->n;
    }
    for (size_t c = 0; c < width; c++) j->sums[c0 + c] = sum[c];
}

/* The columns added up. */
static double saei_scatter(const sae_work *w, const float *x, size_t n) {
    saei_scatter_job j;
    j.x = x;
    j.n = n;
    j.d = w->shape.d;
    j.ld = w->shape.ld;
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(j.d, 64), saei_scatter_part, &j);
    return saei_sum_doubles(j.sums, j.d);
}

static void saei_cpu_variance(const sae_work *w, const float *x, size_t n, double *out) {
    *out = n > 1 ? saei_scatter(w, x, n) / (double)(n - 1) : 0;
}

static void saei_cpu_count_nonzero(const sae_work *w, const sae_code *code, double *mean) {
    uint64_t total = 0;
    (void)w;
    for (size_t r = 0; r < code->rows; r++)
        for (size_t j = 0; j < code->count[r]; j++) total += code->value[r * code->stride + j] != 0;
    *mean = (double)total / (double)code->rows;
}

/* ==== >>cpu: decode and residuals =============================== src/backend/cpu_decode.h ==== */

/* Entries of row r with lo <= latent < hi: [*begin, return), counted from the row's start. */
static size_t saei_code_range(const sae_code *c, size_t r, size_t lo, size_t hi, size_t *begin) {
    const uint32_t *latent = c->latent + r * c->stride;
    size_t b = 0, e = c->count[r];
    if (lo)
        for (size_t step = e; b < e; ) {
            step = (e - b) / 2;
            if (latent[b + step] < lo) b += step + 1;
            else e = b + step;
        }
    *begin = b;
    e = c->count[r];
    if (e > b && latent[e - 1] >= hi)
        for (size_t at = b; at < e; ) {
            size_t mid = at + (e - at) / 2;
            if (latent[mid] < hi) at = mid + 1;
            else e = mid;
        }
    return e;
}

/* out = base + sum of values[j] W[latent j] over the entries [begin, end); base NULL: 0. Works in
   sum [ld]. */
static void saei_code_row(const saei_kernels *kernels, size_t ld, const uint32_t *latent,
                          const float *values, const float *W, size_t begin, size_t end,
                          const float *base, float *sum, float *out) {
    memset(sum, 0, ld * sizeof *sum);
    kernels->add_rows(ld, end - begin, latent + begin, values + begin, W, ld, sum);
    if (!base) memcpy(out, sum, ld * sizeof *out);
    else kernels->axpy(ld, 1, sum, base, out);
}

typedef struct saei_decode_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *values, *W, *base;
    size_t ld, lo, hi, base_stride;
    float *sums; /* [workers][3][ld], the first row of each */
    float *out;
} saei_decode_job;

static void saei_decode_part(void *arg, size_t part, size_t worker) {
    saei_decode_job *j = (saei_decode_job *)arg;
    const sae_code *c = j->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t begin, end = saei_code_range(c, r, j->lo, j->hi, &begin), at = r * c->stride;
        saei_code_row(j->kernels, j->ld, c->latent, j->values, j->W, at + begin, at + end,
                      j->base ? j->base + r * j->base_stride : NULL, j->sums + worker * 3 * j->ld,
                      j->out + r * j->ld);
    }
}

static void saei_cpu_decode(const sae_work *w, const sae_code *code, const float *values,
                            const float *W, size_t lo, size_t hi, const float *base,
                            size_t base_stride, float *out) {
    saei_decode_job j;
    j.kernels = w->ctx->kernels;
    j.ld = w->shape.ld;
    j.code = code;
    j.values = values;
    j.W = W;
    j.lo = lo;
    j.hi = hi;
    j.base = base;
    j.base_stride = base_stride;
    j.sums = saei_cpu_scratch_of(w).rows;
    j.out = out;
    saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, 16), saei_decode_part, &j);
}

/* residual and unit_rows */
typedef struct saei_residual_job {
    const saei_kernels *kernels;
    size_t n, ld;
    const float *x_hat, *y;
    float *e;
    double *losses; /* [n]: of each row */
} saei_residual_job;

static void saei_residual_part(void *arg, size_t part) {
    saei_residual_job *j = (saei_residual_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *e = j->e + r * j->ld;
        j->kernels->axpy(j->ld, -1, j->y + r * j->ld, j->x_hat + r * j->ld, e);
        j->losses[r] = j->kernels->dot(j->ld, e, e);
    }
}

static void saei_cpu_residual(const sae_work *w, const float *x_hat, const float *y, size_t n,
                              float *e, double *loss) {
    saei_residual_job j;
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.x_hat = x_hat;
    j.y = y;
    j.e = e;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_residual_part, &j);
    *loss = saei_sum_doubles(j.losses, n) / (double)n;
}

static void saei_unit_rows_part(void *arg, size_t part) {
    saei_residual_job *j = (saei_residual_job *)arg;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float *e = j->e + r * j->ld;
        double norm = sqrt(j->kernels->dot(j->ld, e, e));
        j->losses[r] = norm;
        for (size_t c = 0; norm > 0 && c < j->ld; c++) e[c] = e[c] / (float)norm;
    }
}

static void saei_cpu_unit_rows(const sae_work *w, size_t n, float *e, double *loss) {
    saei_residual_job j;
    j.kernels = w->ctx->kernels;
    j.n = n;
    j.ld = w->shape.ld;
    j.x_hat = j.y = NULL;
    j.e = e;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(n, 64), saei_unit_rows_part, &j);
    *loss = saei_sum_doubles(j.losses, n) / (double)n;
}

static void saei_cpu_auxk_residual(const sae_work *w, const float *x_aux, const float *e, size_t n,
                                   const uint32_t *list_count, double alpha, float *r,
                                   double *pre_norm, double *norm) {
    const saei_kernels *kernels = w->ctx->kernels;
    size_t ld = w->shape.ld;
    double *squares = saei_cpu_scratch_of(w).doubles, denominator, scale; /* squares: [n] */
    if (!*list_count) {
        memset(r, 0, n * ld * sizeof *r);
        *pre_norm = -1;
        *norm = 0;
        return;
    }
    denominator = saei_scatter(w, e, n) / (double)n;
    saei_cpu_axpy(w, n * ld, 1, x_aux, e, r);
    for (size_t i = 0; i < n; i++) squares[i] = kernels->dot(ld, r + i * ld, r + i * ld);
    *pre_norm = saei_sum_doubles(squares, n) / (double)n;
    *norm = *pre_norm / denominator;
    scale = 2 * alpha / ((double)n * denominator);
    if (!(fabs(*norm) <= DBL_MAX) || !(fabs(scale) <= FLT_MAX)) *norm = scale = 0;
    saei_cpu_axpy(w, n * ld, (float)scale, r, NULL, r);
}

static void saei_cpu_ghost_residual(const sae_work *w, const float *x_g, const float *e, size_t n,
                                    const uint32_t *list_count, float *out, double *loss) {
    const saei_kernels *kernels = w->ctx->kernels;
    size_t ld = w->shape.ld;
    double mse = 0, ghost = 0, mse_sum[2] = { 0, 0 }, ghost_sum[2] = { 0, 0 }, c;
    float *r = saei_cpu_scratch_of(w).rows; /* [ld] */
    *loss = 0;
    if (!*list_count) {
        memset(out, 0, n * ld * sizeof *out);
        return;
    }
    for (int pass = 0; pass < 2; pass++) { /* the scale c needs the sums of all rows first */
        c = mse / (ghost + 1e-8);
        for (size_t i = 0; i < n; i++) {
            const float *ei = e + i * ld, *gi = x_g + i * ld;
            double norm_e = sqrt(kernels->dot(ld, ei, ei));
            double norm_g = sqrt(kernels->dot(ld, gi, gi)), norm_r;
            float s = (float)(norm_e / (2 * norm_g + 1e-8));
            for (size_t k = 0; k < ld; k++) r[k] = fmaf(-s, gi[k], -ei[k]);
            norm_r = sqrt(kernels->dot(ld, r, r));
            if (!pass) {
                saei_sum_add(mse_sum, i, norm_e);
                saei_sum_add(ghost_sum, i, norm_r);
            } else {
                float q = norm_r > 0 ? (float)(-(double)s * c / ((double)n * norm_r)) : 0;
                for (size_t k = 0; k < ld; k++) out[i * ld + k] = q * r[k];
            }
        }
        mse = (mse_sum[0] + mse_sum[1]) / (double)n;
        ghost = (ghost_sum[0] + ghost_sum[1]) / (double)n;
    }
    *loss = ghost * (mse / (ghost + 1e-8));
}

/* ==== >>cpu: the dense phase ===================================== src/backend/cpu_dense.h ==== */
/* A fresh dictionary without a k fires half of its latents. Then a list's rows are no longer few
   and far between: every sum reads the whole matrix, from the L3. So the matrix is copied into
   panels of 64 x 128 that lie in the L1 while 256 lists go over them, each from where it stopped;
   the lists are read as bits. The order of every sum is the one of add_rows, and so are the bits.
   W1, half dense, two cores of 540 GFLOP/s: a sum over all lists is 4.3 G multiply-adds, 16 ms at
   the FMA peak; predicted 21, as an entry's 8 FMAs take 9 loads, and a visit of 32 entries 24 more
   and 8 stores; measured 22 to 26, the dots 28. */

/* Whether panels pay: at one entry in 16 of n m. */
static bool saei_is_dense(const sae_work *w, size_t entries, size_t n) {
    return (double)entries * 16 >= (double)n * (double)w->shape.dict_size;
}

/* Lists of one part: many, as it reads all panels, but every thread should have four parts. */
static size_t saei_dense_targets(const sae_work *w, size_t lists) {
    size_t most = SAEI_DENSE_TARGETS;
    return lists >= 4 * most * (size_t)w->ctx->threads ? most : most / 2;
}

/* A matrix M [n][ld] in panels, those of a block of rows one after the other; none crosses
   blocks. */
typedef struct saei_dense_matrix {
    const float *M;
    size_t n, ld, block;
    float *panels;
} saei_dense_matrix;

/* One panel's rows. */
static void saei_dense_pack_part(void *arg, size_t part) {
    saei_dense_matrix *d = (saei_dense_matrix *)arg;
    size_t each = saei_ceil_div(d->block, SAEI_DENSE_ROWS);
    size_t lo = part / each * d->block + part % each * SAEI_DENSE_ROWS;
    size_t end = saei_part_end(part / each, d->block, d->n);
    size_t count = lo < end ? saei_min(SAEI_DENSE_ROWS, end - lo) : 0;
    for (size_t c = 0; c < d->ld; c += SAEI_DENSE_COLUMNS) {
        size_t width = saei_min(SAEI_DENSE_COLUMNS, d->ld - c);
        for (size_t r = 0; r < count; r++)
            memcpy(d->panels + lo * d->ld + c * count + r * width, d->M + (lo + r) * d->ld + c,
                   width * sizeof(float));
    }
}

/* Panels of M [n][ld] in blocks of `block` rows. */
static saei_dense_matrix saei_dense_pack(const sae_work *w, const float *M, size_t n,
                                         size_t block) {
    saei_dense_matrix d;
    d.M = M;
    d.n = n;
    d.ld = w->shape.ld;
    d.block = block;
    d.panels = saei_cpu_scratch_of(w).panels;
    saei_parallel(w->ctx, saei_ceil_div(n, block) * saei_ceil_div(block, SAEI_DENSE_ROWS),
                  saei_dense_pack_part, &d);
    return d;
}

/* bits[p * stride]: which of the latents from 64 p on row r of the code has, of m. */
static void saei_active_bits_row(const saei_kernels *kernels, const sae_code *c, size_t m, size_t r,
                                 size_t stride, uint64_t *bits) {
    const uint32_t *latent = c->latent + r * c->stride;
    size_t words = saei_ceil_div(m, 64);
    if (c->has_active_bits) {
        for (size_t w = 0; w < words; w++) bits[w * stride] = c->active_bits[r * words + w];
        return;
    }
    for (size_t w = 0, at = 0; w < words; w++) {
        SAEI_PREFETCH(latent + at + 256); /* where `at` will be is known late */
        SAEI_PREFETCH(latent + at + 272);
        at += kernels->mark(latent + at, c->count[r] - at, (uint32_t)(w * 64), &bits[w * stride]);
    }
}

/* The entries of a row before its word `words`. */
static size_t saei_entries_before(const uint64_t *bits, size_t words) {
    size_t count = 0;
    for (size_t w = 0; w < words; w++) count += saei_count_bits(bits[w]);
    return count;
}

typedef struct saei_active_bits_job {
    const saei_kernels *kernels;
    const sae_code *code;
    size_t m;
    uint64_t *bits; /* [rows][ceil(m / 64)] */
} saei_active_bits_job;

static void saei_active_bits_part(void *arg, size_t part) {
    saei_active_bits_job *j = (saei_active_bits_job *)arg;
    size_t words = saei_ceil_div(j->m, 64);
    for (size_t r = part * 16, end = saei_part_end(part, 16, j->code->rows); r < end; r++)
        saei_active_bits_row(j->kernels, j->code, j->m, r, 1, j->bits + r * words);
}

/* The lists as bits: the code's, or made from its lists. */
static const uint64_t *saei_active_bits(const sae_work *w, const sae_code *code) {
    saei_active_bits_job j;
    if (code->has_active_bits) return code->active_bits;
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.m = w->shape.dict_size;
    j.bits = saei_cpu_scratch_of(w).active_bits;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_active_bits_part, &j);
    return j.bits;
}

/* out[i] += sum of value[j] M[first + b] over the entries j of list i from at[i] on, one for each
   bit b of bits[i], of which the panel has `count`; at moves on. What the next panel will want of
   the values, which end at end[i], is fetched. */
static void saei_dense_add(const saei_kernels *kernels, const saei_dense_matrix *d, size_t targets,
                           size_t *at, const size_t *end, const uint64_t *bits, const float *value,
                           size_t first, size_t count, float *out) {
    size_t stop[SAEI_DENSE_TARGETS] = { 0 };
    for (size_t i = 0; i < targets; i++) {
        stop[i] = at[i] + saei_count_bits(bits[i]);
        for (size_t j = stop[i]; j < saei_min(2 * stop[i] - at[i] + 16, end[i]); j += 16)
            SAEI_PREFETCH(value + j); /* as many as here, about */
    }
    for (size_t c = 0; c < d->ld; c += SAEI_DENSE_COLUMNS)
        kernels->add_panel(saei_min(SAEI_DENSE_COLUMNS, d->ld - c), targets, at, bits, value,
                           d->panels + first * d->ld + c * count, out + c, d->ld);
    memcpy(at, stop, targets * sizeof *at);
}

/* out[j] = alpha e[i].M[b] for the entries j of list i from at[i] on, one for each bit b of marks
   [panels][SAEI_DENSE_TARGETS], M as panels in one block: the dot order. The sixteen running sums
   of a dot are kept in lanes [targets][SAEI_DENSE_ROWS][16] from one panel to the next. */
static void saei_dense_dots(const saei_kernels *kernels, const saei_dense_matrix *d, size_t targets,
                            size_t *at, const uint64_t *marks, const float *e, float alpha,
                            float *lanes, float *out) {
    for (size_t first = 0; first < d->n; first += SAEI_DENSE_ROWS, marks += SAEI_DENSE_TARGETS) {
        size_t count = saei_min(SAEI_DENSE_ROWS, d->n - first);
        for (size_t c = 0; c < d->ld; c += SAEI_DENSE_COLUMNS)
            kernels->dot_panel(saei_min(SAEI_DENSE_COLUMNS, d->ld - c), targets, at, marks, e + c,
                               d->ld, d->panels + first * d->ld + c * count, lanes, c == 0, alpha,
                               c + SAEI_DENSE_COLUMNS < d->ld ? NULL : out);
        for (size_t i = 0; i < targets; i++) at[i] += saei_count_bits(marks[i]);
    }
}

/* ==== >>cpu: penalties, gradients of entries ================= src/backend/cpu_gradients.h ==== */

static double saei_penalty_entropy(const float *f, size_t count, float coef, float *grad) {
    double sum = 0, h = 0, mean = 0;
    for (size_t j = 0; j < count; j++) sum += (double)f[j];
    if (!(sum > 0)) return 0;
    for (size_t j = 0; j < count; j++) {
        double q = (double)f[j] / (sum + 1e-8), slope = -(saei_ln(q + 1e-8) + q / (q + 1e-8));
        h -= q * saei_ln(q + 1e-8);
        mean += slope * q;
    }
    for (size_t j = 0; grad && j < count; j++) {
        double q = (double)f[j] / (sum + 1e-8), slope = -(saei_ln(q + 1e-8) + q / (q + 1e-8));
        if (f[j] > 0) grad[j] += coef * (float)((slope - mean) / (sum + 1e-8));
    }
    return h;
}

static double saei_penalty_lp(const saei_kernels *kernels, const float *f, size_t count, size_t m,
                              double p, bool root, float coef, float *grad) {
    double sum = 0, outer = p, power[64];
    for (size_t j = 0; j < count; j += 64) {
        size_t n = saei_min(64, count - j);
        kernels->powers(n, f + j, p, power);
        for (size_t i = 0; i < n; i++) sum += power[i];
    }
    if (p == 0) sum = (double)m; /* 0^0 is 1 */
    if (root) outer = sum > 0 ? saei_pow(sum, 1 / p - 1) : 0;
    for (size_t j = 0; grad && j < count; j += 64) {
        size_t n = saei_min(64, count - j);
        kernels->powers(n, f + j, p - 1, power);
        for (size_t i = 0; i < n; i++)
            if (f[j + i] > 0) grad[j + i] += coef * (float)(outer * power[i]);
    }
    return root ? (sum > 0 ? saei_pow(sum, 1 / p) : 0) : sum;
}

typedef struct saei_penalty_job {
    const saei_kernels *kernels;
    sae_penalty kind;
    size_t m;
    double p;
    float coef; /* of a row */
    const float *weight, *values;
    const sae_code *code;
    float *grad;
    double *losses; /* [rows] */
} saei_penalty_job;

static void saei_penalty_part(void *arg, size_t part) {
    saei_penalty_job *job = (saei_penalty_job *)arg;
    const sae_code *c = job->code;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++) {
        const uint32_t *latent = c->latent + r * c->stride;
        const float *f = job->values + r * c->stride;
        float *grad = job->grad ? job->grad + r * c->stride : NULL;
        double sum = 0;
        switch (job->kind) {
        case SAE_PENALTY_L1:
            for (size_t j = 0; j < c->count[r]; j++) {
                float weight = job->weight ? job->weight[latent[j]] : 1;
                sum += (double)weight * (double)f[j];
                if (grad && f[j] > 0) grad[j] += job->coef * weight;
            }
            break;
        case SAE_PENALTY_LP:
        case SAE_PENALTY_LP_P:
            sum = saei_penalty_lp(job->kernels, f, c->count[r], job->m, job->p,
                                  job->kind == SAE_PENALTY_LP, job->coef, grad);
            break;
        case SAE_PENALTY_ENTROPY:
            sum = saei_penalty_entropy(f, c->count[r], job->coef, grad);
            break;
        }
        job->losses[r] = sum;
    }
}

static void saei_cpu_penalty(const sae_work *w, sae_penalty kind, double p, double coef,
                             const float *weight, const sae_code *code, const float *values,
                             float *grad, double *loss) {
    saei_penalty_job j;
    j.kernels = w->ctx->kernels;
    j.kind = kind;
    j.m = w->shape.dict_size;
    j.p = p;
    j.coef = (float)(coef / (double)code->rows);
    j.weight = weight;
    j.values = values;
    j.code = code;
    j.grad = grad;
    j.losses = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_penalty_part, &j);
    *loss = saei_sum_doubles(j.losses, code->rows) / (double)code->rows;
}

typedef struct saei_dots_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *e, *W, *relu_of;
    size_t ld, lo, hi;
    float alpha, *grad;
} saei_dots_job;

static void saei_dots_part(void *arg, size_t part) {
    saei_dots_job *job = (saei_dots_job *)arg;
    const sae_code *c = job->code;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t begin, end = saei_code_range(c, r, job->lo, job->hi, &begin);
        size_t at = r * c->stride + begin;
        job->kernels->dots(job->ld, job->e + r * job->ld, end - begin, c->latent + at, job->W,
                           job->ld, job->alpha, job->grad + at);
        for (size_t j = at; job->relu_of && j < at + (end - begin); j++)
            if (!(job->relu_of[j] > 0)) job->grad[j] = 0;
    }
}

static void saei_cpu_dots(const sae_work *w, const sae_code *code, const float *e, const float *W,
                          size_t lo, size_t hi, float alpha, const float *relu_of, float *grad) {
    saei_dots_job j;
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.e = e;
    j.W = W;
    j.relu_of = relu_of;
    j.ld = w->shape.ld;
    j.lo = lo;
    j.hi = hi;
    j.alpha = alpha;
    j.grad = grad;
    saei_parallel(w->ctx, saei_ceil_div(code->rows, 16), saei_dots_part, &j);
}

typedef struct saei_reconstruct_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *values, *W, *base, *y, *relu_of;
    size_t ld, m;
    float alpha, *e, *grad;
    double *losses; /* [rows] */
    float *sums;    /* [workers][3][ld], the first row of each */
    /* dense: */
    saei_dense_matrix matrix; /* W */
    size_t targets;           /* rows of a part */
    uint64_t *marks;          /* [workers][ceil(m / 64)][SAEI_DENSE_TARGETS] */
    float *lanes;             /* [workers][SAEI_DENSE_TARGETS][SAEI_DENSE_ROWS][16] */
} saei_reconstruct_job;

/* Row by row: the decoder rows that the dots want lie in the L2 from the decoding. */
static void saei_reconstruct_part(void *arg, size_t part, size_t worker) {
    saei_reconstruct_job *job = (saei_reconstruct_job *)arg;
    const sae_code *c = job->code;
    size_t ld = job->ld;
    for (size_t r = part * 16, last = saei_part_end(part, 16, c->rows); r < last; r++) {
        size_t at = r * c->stride, end = at + c->count[r];
        float *e = job->e + r * ld;
        saei_code_row(job->kernels, ld, c->latent, job->values, job->W, at, end, job->base,
                      job->sums + worker * 3 * ld, e);
        job->kernels->axpy(ld, -1, job->y + r * ld, e, e);
        job->losses[r] = job->kernels->dot(ld, e, e);
        job->kernels->dots(ld, e, end - at, c->latent + at, job->W, ld, job->alpha,
                           job->grad + at);
        for (size_t j = at; job->relu_of && j < end; j++)
            if (!(job->relu_of[j] > 0)) job->grad[j] = 0;
    }
}

/* The same for job->targets rows together. */
static void saei_dense_reconstruct_part(void *arg, size_t part, size_t worker) {
    saei_reconstruct_job *job = (saei_reconstruct_job *)arg;
    const saei_kernels *kernels = job->kernels;
    const sae_code *c = job->code;
    size_t ld = job->ld, m = job->m, words = saei_ceil_div(m, SAEI_DENSE_ROWS);
    size_t r0 = part * job->targets, count = saei_min(job->targets, c->rows - r0);
    size_t at[SAEI_DENSE_TARGETS], end[SAEI_DENSE_TARGETS] = { 0 };
    uint64_t *marks = job->marks + worker * SAEI_DENSE_TARGETS * words;
    float *lanes = job->lanes + worker * SAEI_DENSE_TARGETS * SAEI_DENSE_ROWS * 16;
    float *e = job->e + r0 * ld;
    memset(e, 0, count * ld * sizeof *e);
    for (size_t i = 0; i < count; i++) {
        at[i] = (r0 + i) * c->stride;
        end[i] = at[i] + c->count[r0 + i];
        saei_active_bits_row(kernels, c, m, r0 + i, SAEI_DENSE_TARGETS, marks + i);
    }
    for (size_t first = 0; first < m; first += SAEI_DENSE_ROWS)
        saei_dense_add(kernels, &job->matrix, count, at, end,
                       marks + first / SAEI_DENSE_ROWS * SAEI_DENSE_TARGETS, job->values, first,
                       saei_min(SAEI_DENSE_ROWS, m - first), e);
    for (size_t i = 0; i < count; i++) {
        kernels->axpy(ld, 1, e + i * ld, job->base, e + i * ld);
        kernels->axpy(ld, -1, job->y + (r0 + i) * ld, e + i * ld, e + i * ld);
        job->losses[r0 + i] = kernels->dot(ld, e + i * ld, e + i * ld);
        at[i] = (r0 + i) * c->stride;
    }
    saei_dense_dots(kernels, &job->matrix, count, at, marks, e, job->alpha, lanes, job->grad);
    for (size_t i = 0; job->relu_of && i < count; i++)
        for (size_t j = (r0 + i) * c->stride; j < end[i]; j++)
            if (!(job->relu_of[j] > 0)) job->grad[j] = 0;
}

static void saei_cpu_reconstruct(const sae_work *w, const sae_code *code, const float *values,
                                 const float *W, const float *base, const float *y, float alpha,
                                 const float *relu_of, float *e, double *loss, float *grad) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_reconstruct_job j;
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.values = values;
    j.W = W;
    j.base = base;
    j.y = y;
    j.relu_of = relu_of;
    j.ld = w->shape.ld;
    j.m = w->shape.dict_size;
    j.alpha = alpha;
    j.e = e;
    j.grad = grad;
    j.losses = s.doubles;
    j.sums = s.rows;
    j.marks = s.marks;
    j.lanes = s.lanes;
    if (saei_is_dense(w, saei_code_entries(code), code->rows)) {
        j.matrix = saei_dense_pack(w, W, j.m, j.m);
        j.targets = saei_dense_targets(w, code->rows);
        saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, j.targets),
                              saei_dense_reconstruct_part, &j);
    } else saei_parallel_workers(w->ctx, saei_ceil_div(code->rows, 16), saei_reconstruct_part, &j);
    *loss = saei_sum_doubles(j.losses, code->rows) / (double)code->rows;
}

static float saei_jump_l0_slope(double coef, double target, double l0, size_t n, float bandwidth) {
    double slope = coef * 2 * (l0 / target - 1) / target / (double)n;
    return (float)(-slope / (double)bandwidth);
}

typedef struct saei_jump_grad_job {
    const float *theta;
    const sae_code *code;
    float bandwidth, slope; /* slope: of the L0 term */
    double *above;          /* [parts]: how many values of 16 rows lie above their threshold */
} saei_jump_grad_job;

static void saei_jump_grad_part(void *arg, size_t part) {
    saei_jump_grad_job *job = (saei_jump_grad_job *)arg;
    const sae_code *c = job->code;
    float bandwidth = job->bandwidth;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            float theta = job->theta[c->latent[j]], p = c->pre[j], g = c->grad[j], d = 0;
            if (saei_rectangle(p, theta, bandwidth)) d = -(theta / bandwidth) * g;
            if (saei_rectangle(c->value[j], theta, bandwidth)) d += job->slope;
            c->extra[0][j] = d;
            c->grad[j] = p > theta ? g : 0;
        }
}

static void saei_jump_above_part(void *arg, size_t part) {
    saei_jump_grad_job *job = (saei_jump_grad_job *)arg;
    const sae_code *c = job->code;
    size_t above = 0;
    for (size_t r = part * 16, end = saei_part_end(part, 16, c->rows); r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++)
            above += c->value[j] > job->theta[c->latent[j]];
    job->above[part] = (double)above;
}

/* The f = 0 of unlisted latents that lie above a negative threshold. listed: [m], to work in. */
static uint64_t saei_jump_unlisted(const float *theta, size_t m, const sae_code *code,
                                   uint32_t *listed) {
    uint64_t above = 0;
    bool negative = false;
    for (size_t i = 0; i < m; i++) negative = negative || theta[i] < 0;
    if (!negative) return 0;
    memset(listed, 0, m * sizeof *listed);
    for (size_t r = 0; r < code->rows; r++)
        for (size_t j = r * code->stride; j < r * code->stride + code->count[r]; j++)
            listed[code->latent[j]]++;
    for (size_t i = 0; i < m; i++)
        if (theta[i] < 0) above += code->rows - listed[i];
    return above;
}

static void saei_cpu_jump_grad(const sae_work *w, const float *theta, float bandwidth, double coef,
                               double target, sae_code *code, double *l0, double *loss) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_jump_grad_job j;
    size_t parts = saei_ceil_div(code->rows, 16);
    uint64_t above = 0;
    j.theta = theta;
    j.code = code;
    j.bandwidth = bandwidth;
    j.above = s.doubles;
    saei_parallel(w->ctx, parts, saei_jump_above_part, &j);
    for (size_t i = 0; i < parts; i++) above += (uint64_t)j.above[i];
    above += saei_jump_unlisted(theta, w->shape.dict_size, code, s.integers);
    *l0 = (double)above / (double)code->rows;
    *loss = coef * (*l0 / target - 1) * (*l0 / target - 1);
    j.slope = saei_jump_l0_slope(coef, target, *l0, code->rows, bandwidth);
    saei_parallel(w->ctx, parts, saei_jump_grad_part, &j);
}

static void saei_cpu_jump_rest(const sae_work *w, const float *theta, float bandwidth, double coef,
                               double target, const double *l0, const sae_index *index, size_t n,
                               float *theta_grad) {
    float slope = saei_jump_l0_slope(coef, target, *l0, n, bandwidth);
    (void)w;
    for (size_t i = 0; i < index->dict_size; i++)
        if (saei_rectangle(0, theta[i], bandwidth)) {
            size_t unlisted = n - (index->begin[i + 1] - index->begin[i]);
            theta_grad[i] += (float)unlisted * slope;
        }
}

/* ==== >>cpu: by latent ========================================= src/backend/cpu_latents.h ==== */

/* Where `row` holds bits. */
static uint64_t *saei_index_words(const sae_index *index) {
    return (uint64_t *)(void *)index->row;
}

typedef struct saei_index_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *const *values;
    size_t num_values, m;
    sae_index *index;
    size_t part_rows;           /* of the counting sort */
    uint32_t *offsets;          /* [parts][m]: a part's entries of a latent; then where they go */
    size_t part_latents;        /* where the values are moved by latent */
    uint32_t *positions;        /* [parts][rows]: the entries of a row before a part's latents */
    const uint64_t *active_bits;/* [rows][ceil(m / 64)] */
} saei_index_job;

static void saei_count_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    const sae_code *c = job->code;
    size_t r = part * job->part_rows, end = saei_part_end(part, job->part_rows, c->rows);
    size_t m = job->m;
    uint32_t *counts = job->offsets + part * m;
    const uint64_t *words = saei_index_words(job->index);
    memset(counts, 0, m * sizeof *counts);
    for (; job->index->has_bits && r < end; r += 64)
        for (size_t i = 0; i < m; i++)
            counts[i] += (uint32_t)saei_count_bits(words[r / 64 * m + i]);
    for (; r < end; r++)
        for (size_t j = 0; j < c->count[r]; j++) counts[c->latent[r * c->stride + j]]++;
}

static void saei_place_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    const sae_code *c = job->code;
    sae_index *index = job->index;
    uint32_t *offsets = job->offsets + part * job->m;
    size_t r = part * job->part_rows, end = saei_part_end(part, job->part_rows, c->rows);
    for (; r < end; r++)
        for (size_t j = r * c->stride; j < r * c->stride + c->count[r]; j++) {
            uint32_t i = c->latent[j];
            size_t at = index->begin[i] + offsets[i]++;
            if (!index->has_bits) index->row[at] = (uint32_t)r;
            for (size_t v = 0; v < job->num_values; v++)
                index->value[v][at] = job->values[v][j];
        }
}

/* -- dense lists: which latents fire is written as bits first, by row and by latent, and counted;
   then the values are moved, from one entry in 5 on 64 latents of all rows at a time, 16 rows by 16
   latents together. Half dense W1 with two values, two cores: 33 ms entry by entry, 11 so -- */

/* to[i], bit r = from[r], bit i: halves, quarters, ... change places. */
static void saei_transpose_bits(const uint64_t from[64], uint64_t to[64]) {
    uint64_t mask = 0xFFFFFFFFu;
    memcpy(to, from, 64 * sizeof *to);
    for (size_t h = 32; h; h /= 2, mask ^= mask << h)
        for (size_t i = 0; i < 64; i = (i + h + 1) & ~h) {
            uint64_t swap = (to[i] >> h ^ to[i + h]) & mask;
            to[i] ^= swap << h;
            to[i + h] ^= swap;
        }
}

/* The index's bits of 64 rows. */
static void saei_index_bits_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    size_t m = job->m, panels = saei_ceil_div(m, 64);
    size_t count = saei_part_end(part, 64, job->code->rows) - part * 64;
    const uint64_t *active = job->active_bits + part * 64 * panels;
    uint64_t *words = saei_index_words(job->index) + part * m, rows[64], latents[64];
    memset(rows, 0, sizeof rows);
    for (size_t p = 0; p < panels; p++) {
        for (size_t r = 0; r < count; r++) rows[r] = active[r * panels + p];
        saei_transpose_bits(rows, latents);
        memcpy(words + p * 64, latents, saei_min(64, m - p * 64) * sizeof *words);
    }
}

/* Prefetches row r's entries of the next 64 latents, from its entry `position` on: about half of
   them fire. */
static void saei_place_fetch(const saei_index_job *job, size_t r, size_t position) {
    const sae_code *c = job->code;
    size_t at = r * c->stride + position, end = saei_min(at + 48, r * c->stride + c->count[r]);
    for (; at < end; at += 16)
        for (size_t v = 0; v < job->num_values; v++) SAEI_PREFETCH(job->values[v] + at);
}

/* The values of a part's latents, row after row. */
static void saei_place_latents_part(void *arg, size_t part) {
    saei_index_job *job = (saei_index_job *)arg;
    const sae_code *c = job->code;
    uint32_t *positions = job->positions + part * c->rows;
    size_t lo = part * job->part_latents, end = saei_part_end(part, job->part_latents, job->m);
    size_t to[64], panels = saei_ceil_div(job->m, 64);
    for (size_t r = 0; r < c->rows; r++)
        positions[r] = (uint32_t)saei_entries_before(job->active_bits + r * panels, lo / 64);
    for (; lo < end; lo += 64) {
        size_t hi = saei_min(lo + 64, end);
        memset(to, 0, sizeof to);
        memcpy(to, job->index->begin + lo, (hi - lo) * sizeof *to);
        for (size_t r0 = 0; r0 < c->rows; r0 += 16) {
            uint32_t active[4][16];
            size_t from[16];
            memset(active, 0, sizeof active);
            memset(from, 0, sizeof from);
            for (size_t r = r0; r < saei_min(r0 + 16, c->rows); r++) {
                uint64_t bits = job->active_bits[r * panels + lo / 64];
                if (r + 16 < c->rows) saei_place_fetch(job, r + 16, positions[r + 16]);
                from[r - r0] = r * c->stride + positions[r];
                positions[r] += (uint32_t)saei_count_bits(bits);
                for (size_t g = 0; g < 4; g++)
                    active[g][r - r0] = (uint32_t)(bits >> 16 * g) & 0xFFFF;
            }
            for (size_t g = 0; lo + 16 * g < hi; g++)
                job->kernels->regroup(active[g], from, job->values, job->num_values,
                                      job->index->value, to + 16 * g);
        }
    }
}

/* From counts to places: index->begin, and where in a latent's entries each part's begin. */
static void saei_index_begin(saei_index_job *job, size_t parts) {
    size_t total = 0;
    for (size_t i = 0; i < job->m; i++) {
        uint32_t before = 0;
        job->index->begin[i] = total;
        for (size_t part = 0; part < parts; part++) {
            uint32_t here = job->offsets[part * job->m + i];
            job->offsets[part * job->m + i] = before;
            before += here;
        }
        total += before;
    }
    job->index->begin[job->m] = total;
}

static void saei_cpu_index(const sae_work *w, const sae_code *code, const float *const *values,
                           size_t count, sae_index *index) {
    size_t entries = saei_code_entries(code), m = w->shape.dict_size, parts;
    saei_index_job job;
    memset(&job, 0, sizeof job);
    job.kernels = w->ctx->kernels;
    job.code = code;
    job.values = values;
    job.num_values = count;
    job.m = m;
    job.index = index;
    job.offsets = job.positions = saei_cpu_scratch_of(w).integers; /* the one after the other */
    index->rows = code->rows;
    index->has_bits = saei_is_dense(w, entries, code->rows)
                      && 2 * saei_ceil_div(code->rows, 64) * m <= index->capacity;
    if (index->has_bits) {
        job.active_bits = saei_active_bits(w, code);
        saei_parallel(w->ctx, saei_ceil_div(code->rows, 64), saei_index_bits_part, &job);
    }
    job.part_rows = saei_code_part_rows(w->ctx, code->rows);
    parts = saei_ceil_div(code->rows, job.part_rows);
    saei_parallel(w->ctx, parts, saei_count_part, &job);
    saei_index_begin(&job, parts);
    if (index->has_bits && (double)entries * 5 >= (double)code->rows * (double)m) {
        size_t most = saei_min(4 * (size_t)w->ctx->threads, SAEI_SORT_PARTS);
        job.part_latents = saei_ceil_div(saei_ceil_div(m, most), 64) * 64;
        saei_parallel(w->ctx, saei_ceil_div(m, job.part_latents), saei_place_latents_part, &job);
    } else saei_parallel(w->ctx, parts, saei_place_part, &job);
}

/* out = sum_j value[j] x[row[j]] in blocks of SAE_ROW_BLOCK rows; spare [ld]. */
static void saei_rows_sum(const saei_kernels *kernels, size_t ld, size_t count, const uint32_t *row,
                          const float *value, const float *x, float *spare, float *out) {
    memset(out, 0, ld * sizeof *out);
    for (size_t j = 0; j < count; ) {
        uint32_t block = row[j] / SAE_ROW_BLOCK;
        size_t end = j;
        while (end < count && row[end] / SAE_ROW_BLOCK == block) end++;
        if (j == 0) kernels->add_rows(ld, end, row, value, x, ld, out);
        else {
            memset(spare, 0, ld * sizeof *spare);
            kernels->add_rows(ld, end - j, row + j, value + j, x, ld, spare);
            kernels->axpy(ld, 1, spare, out, out);
        }
        j = end;
    }
}

typedef struct saei_latent_rows_job {
    const saei_kernels *kernels;
    const sae_index *index;
    const float *value, *x;
    size_t ld, lo, hi;
    float alpha;
    bool add;
    float *out;
    float *rows;              /* [workers][3][ld]: of each, a sum and a spare one */
    /* dense: */
    saei_dense_matrix matrix; /* x */
    size_t targets;           /* latents of a part */
    float *dense;             /* [workers][SAEI_DENSE_TARGETS][ld]: sums, spare ones */
} saei_latent_rows_job;

static void saei_latent_rows_part(void *arg, size_t part, size_t worker) {
    saei_latent_rows_job *job = (saei_latent_rows_job *)arg;
    size_t ld = job->ld, first = job->lo + part * SAEI_LATENT_PART;
    float *sum = job->rows + worker * 3 * ld, *spare = sum + ld;
    for (size_t i = first; i < saei_min(first + SAEI_LATENT_PART, job->hi); i++) {
        size_t begin = job->index->begin[i], count = job->index->begin[i + 1] - begin;
        float *out = job->out + i * ld;
        if (!count) {
            if (!job->add) memset(out, 0, ld * sizeof *out);
            continue;
        }
        saei_rows_sum(job->kernels, ld, count, job->index->row + begin, job->value + begin, job->x,
                      spare, sum);
        if (job->add) job->kernels->axpy(ld, job->alpha, sum, out, out);
        else job->kernels->scale(ld, job->alpha, sum, out);
    }
}

static void saei_dense_latents_part(void *arg, size_t part, size_t worker) {
    saei_latent_rows_job *job = (saei_latent_rows_job *)arg;
    const saei_kernels *kernels = job->kernels;
    size_t ld = job->ld, n = job->index->rows;
    size_t i0 = job->lo + part * job->targets, count = saei_min(job->targets, job->hi - i0);
    size_t at[SAEI_DENSE_TARGETS];
    const size_t *begin = job->index->begin + i0;
    const uint64_t *words = saei_index_words(job->index) + i0;
    float *spare = job->dense + worker * SAEI_DENSE_TARGETS * ld;
    float *out = job->out + i0 * ld, *sum = job->add ? spare + job->targets * ld : out;
    memcpy(at, begin, count * sizeof *at);
    memset(sum, 0, count * ld * sizeof *sum);
    for (size_t lo = 0; lo < n; lo += SAE_ROW_BLOCK) {
        size_t before[SAEI_DENSE_TARGETS], hi = saei_min(lo + SAE_ROW_BLOCK, n);
        memcpy(before, at, count * sizeof *at);
        if (lo) memset(spare, 0, count * ld * sizeof *spare);
        for (size_t r = lo; r < hi; r += SAEI_DENSE_ROWS)
            saei_dense_add(kernels, &job->matrix, count, at, begin + 1,
                           words + r / SAEI_DENSE_ROWS * job->index->dict_size, job->value, r,
                           saei_min(SAEI_DENSE_ROWS, hi - r), lo ? spare : sum);
        for (size_t i = 0; lo && i < count; i++) { /* as in saei_rows_sum: nothing of no entry */
            float *row = sum + i * ld;
            if (before[i] == begin[i]) memcpy(row, spare + i * ld, ld * sizeof *row);
            else if (at[i] > before[i]) kernels->axpy(ld, 1, spare + i * ld, row, row);
        }
    }
    for (size_t i = 0; i < count; i++, sum += ld, out += ld) {
        if (begin[i + 1] == begin[i]) continue;
        if (job->add) kernels->axpy(ld, job->alpha, sum, out, out);
        else kernels->scale(ld, job->alpha, sum, out);
    }
}

static void saei_cpu_latent_rows(const sae_work *w, const sae_index *index, size_t which,
                                 const float *x, size_t lo, size_t hi, float alpha, bool add,
                                 float *out) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_latent_rows_job j;
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.index = index;
    j.value = index->value[which];
    j.x = x;
    j.ld = w->shape.ld;
    j.lo = lo;
    j.hi = hi;
    j.alpha = alpha;
    j.add = add;
    j.out = out;
    j.rows = s.rows;
    j.dense = s.dense;
    if (index->has_bits) {
        j.matrix = saei_dense_pack(w, x, index->rows, SAE_ROW_BLOCK);
        j.targets = saei_dense_targets(w, hi - lo) / (add ? 2 : 1); /* both sums in the scratch */
        saei_parallel_workers(w->ctx, saei_ceil_div(hi - lo, j.targets), saei_dense_latents_part,
                              &j);
        return;
    }
    saei_parallel_workers(w->ctx, saei_ceil_div(hi - lo, SAEI_LATENT_PART), saei_latent_rows_part,
                          &j);
}

/* The sums of latents [i, i + 4), each in the order of its list, side by side. */
static void saei_latent_sum4(const sae_index *index, const float *v, size_t i, double sum[4]) {
    const size_t *begin = index->begin + i;
    const float *v0 = v + begin[0], *v1 = v + begin[1], *v2 = v + begin[2], *v3 = v + begin[3];
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t least = SIZE_MAX;
    for (size_t c = 0; c < 4; c++) least = saei_min(least, begin[c + 1] - begin[c]);
    for (size_t j = 0; j < least; j++) {
        s0 += (double)v0[j];
        s1 += (double)v1[j];
        s2 += (double)v2[j];
        s3 += (double)v3[j];
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    for (size_t c = 0; c < 4; c++)
        for (size_t j = begin[c] + least; j < begin[c + 1]; j++) sum[c] += (double)v[j];
}

typedef struct saei_latent_sums_job {
    const sae_index *index;
    const float *value;
    double *sums; /* [m] */
} saei_latent_sums_job;

static void saei_latent_sums_part(void *arg, size_t part) {
    saei_latent_sums_job *job = (saei_latent_sums_job *)arg;
    const sae_index *index = job->index;
    const float *v = job->value;
    size_t i = part * 64, end = saei_part_end(part, 64, index->dict_size);
    for (; i + 4 <= end; i += 4) saei_latent_sum4(index, v, i, job->sums + i);
    for (; i < end; i++) {
        job->sums[i] = 0;
        for (size_t j = index->begin[i]; j < index->begin[i + 1]; j++)
            job->sums[i] += (double)v[j];
    }
}

/* Of value[which] of the index, in scratch memory. */
static const double *saei_latent_sums(const sae_work *w, const sae_index *index, size_t which) {
    saei_latent_sums_job j;
    j.index = index;
    j.value = index->value[which];
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(index->dict_size, 64), saei_latent_sums_part, &j);
    return j.sums;
}

static void saei_put_sums(const double *sum, size_t m, bool add, float *out) {
    for (size_t i = 0; i < m; i++) out[i] = add ? out[i] + (float)sum[i] : (float)sum[i];
}

static void saei_cpu_latent_sums(const sae_work *w, const sae_index *index, size_t which, bool add,
                                 float *out) {
    saei_put_sums(saei_latent_sums(w, index, which), index->dict_size, add, out);
}

typedef struct saei_code_sums_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const float *values;
    size_t m, part_latents; /* whole words of bits */
    double *sums;           /* [m] */
} saei_code_sums_job;

/* From the rows as they lie. Half dense W1, two cores: 1.2 ms, where moving the values by latent
   and adding them takes 5.7. */
static void saei_code_sums_part(void *arg, size_t part) {
    saei_code_sums_job *job = (saei_code_sums_job *)arg;
    const sae_code *c = job->code;
    size_t lo = part * job->part_latents, hi = saei_part_end(part, job->part_latents, job->m);
    size_t words = saei_ceil_div(job->m, 64);
    double *sums = job->sums;
    memset(sums + lo, 0, (saei_ceil_div(hi, 64) * 64 - lo) * sizeof *sums);
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = r * c->stride, begin, end;
        if (c->has_active_bits) {
            const uint64_t *active = c->active_bits + r * words;
            at += saei_entries_before(active, lo / 64);
            job->kernels->add_fires(saei_ceil_div(hi - lo, 64), active + lo / 64, job->values + at,
                                    sums + lo);
            continue;
        }
        end = at + saei_code_range(c, r, lo, hi, &begin);
        for (size_t j = at + begin; j < end; j++) sums[c->latent[j]] += (double)job->values[j];
    }
}

static void saei_cpu_code_sums(const sae_work *w, const sae_code *code, const float *values,
                               size_t m, bool add, float *out) {
    saei_code_sums_job j;
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.values = values;
    j.m = m;
    j.part_latents = saei_ceil_div(saei_ceil_div(m, (size_t)w->ctx->threads), 64) * 64;
    j.sums = saei_cpu_scratch_of(w).doubles;
    saei_parallel(w->ctx, saei_ceil_div(m, j.part_latents), saei_code_sums_part, &j);
    saei_put_sums(j.sums, m, add, out);
}

static void saei_cpu_fired(const sae_work *w, const sae_index *index, int which, uint64_t step,
                           uint64_t *since) {
    const double *sum = which < 0 ? NULL : saei_latent_sums(w, index, (size_t)which);
    for (size_t i = 0; i < index->dict_size; i++) {
        bool fired = sum ? sum[i] > 0 : index->begin[i + 1] > index->begin[i];
        since[i] = fired ? 0 : since[i] + step;
    }
}

static void saei_cpu_list_silent(const sae_work *w, const uint64_t *since, uint64_t threshold,
                                 size_t m, uint32_t *list, uint32_t *count) {
    uint32_t found = 0;
    (void)w;
    for (size_t i = 0; i < m; i++)
        if (since[i] >= threshold) list[found++] = (uint32_t)i;
    *count = found;
}

/* ==== >>cpu: weights =========================================== src/backend/cpu_weights.h ==== */

static void saei_project_row(const saei_kernels *kernels, size_t ld, const float *row, float eps,
                             float *grad) {
    double norm = sqrt(kernels->dot(ld, row, row)) + (double)eps;
    double c = norm > 0 ? kernels->dot(ld, grad, row) / norm / norm : 0;
    if (norm > 0) kernels->axpy(ld, (float)-c, row, grad, grad);
}

static void saei_unit_row(const saei_kernels *kernels, size_t ld, float eps, float *row) {
    double norm = sqrt(kernels->dot(ld, row, row)) + (double)eps;
    if (norm > 0) kernels->divide(ld, row, (float)norm, row);
}

/* Whether the update of row i is left to catch_up. */
static bool saei_is_deferred(const sae_lazy_adam *lazy, size_t i) {
    return lazy && lazy->enabled && lazy->updates >= lazy->begun + SAE_LAZY_ADAM_QUIET
           && lazy->updates >= lazy->last_active[i] + SAE_LAZY_ADAM_QUIET;
}

typedef struct saei_row_norms_job {
    const saei_kernels *kernels;
    const float *W;
    size_t m, ld;
    float *norms;
} saei_row_norms_job;

static void saei_row_norms_part(void *arg, size_t part) {
    saei_row_norms_job *j = (saei_row_norms_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++) {
        const float *row = j->W + i * j->ld;
        j->norms[i] = (float)sqrt(j->kernels->dot(j->ld, row, row));
    }
}

static void saei_cpu_row_norms(const sae_work *w, const float *W, size_t m, float *out) {
    saei_row_norms_job j;
    j.kernels = w->ctx->kernels;
    j.W = W;
    j.m = m;
    j.ld = w->shape.ld;
    j.norms = out;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_row_norms_part, &j);
}

static void saei_cpu_norm_weight(const sae_work *w, const float *norms, int power, size_t m,
                                 float *weight) {
    (void)w;
    for (size_t i = 0; i < m; i++) weight[i] = power == 2 ? norms[i] * norms[i] : norms[i];
}

typedef struct saei_norm_grad_job {
    const saei_kernels *kernels;
    const float *W, *norms, *sums;
    int power;
    float coef;
    size_t m, ld;
    float *grad;
} saei_norm_grad_job;

static void saei_norm_grad_part(void *arg, size_t part) {
    saei_norm_grad_job *j = (saei_norm_grad_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++) {
        float c = j->coef * j->sums[i], *grad = j->grad + i * j->ld;
        c = j->power == 2 ? 2 * c : j->norms[i] > 0 ? c / j->norms[i] : 0;
        j->kernels->axpy(j->ld, c, j->W + i * j->ld, grad, grad);
    }
}

static void saei_cpu_norm_grad(const sae_work *w, const float *W, const float *norms,
                               const float *sums, int power, float coef, size_t m, float *grad) {
    saei_norm_grad_job j;
    j.kernels = w->ctx->kernels;
    j.W = W;
    j.norms = norms;
    j.sums = sums;
    j.power = power;
    j.coef = coef;
    j.m = m;
    j.ld = w->shape.ld;
    j.grad = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_norm_grad_part, &j);
}

typedef struct saei_project_job {
    const saei_kernels *kernels;
    const float *W;
    const sae_lazy_adam *lazy;
    size_t m, ld;
    float eps, *grad;
} saei_project_job;

static void saei_project_part(void *arg, size_t part) {
    saei_project_job *j = (saei_project_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++)
        if (!saei_is_deferred(j->lazy, i))
            saei_project_row(j->kernels, j->ld, j->W + i * j->ld, j->eps, j->grad + i * j->ld);
}

static void saei_cpu_remove_parallel(const sae_work *w, const float *W, size_t m, float eps,
                                     const sae_lazy_adam *lazy, float *grad) {
    saei_project_job j;
    j.kernels = w->ctx->kernels;
    j.W = W;
    j.lazy = lazy;
    j.m = m;
    j.ld = w->shape.ld;
    j.eps = eps;
    j.grad = grad;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_project_part, &j);
}

typedef struct saei_normalize_job {
    const saei_kernels *kernels;
    size_t m, ld;
    float eps, *W;
} saei_normalize_job;

static void saei_normalize_part(void *arg, size_t part) {
    saei_normalize_job *j = (saei_normalize_job *)arg;
    for (size_t i = part * 64, end = saei_part_end(part, 64, j->m); i < end; i++)
        saei_unit_row(j->kernels, j->ld, j->eps, j->W + i * j->ld);
}

static void saei_cpu_normalize_rows(const sae_work *w, size_t m, float eps, float *W) {
    saei_normalize_job j;
    j.kernels = w->ctx->kernels;
    j.m = m;
    j.ld = w->shape.ld;
    j.eps = eps;
    j.W = W;
    saei_parallel(w->ctx, saei_ceil_div(m, 64), saei_normalize_part, &j);
}

/* DEVIATION: a row without a positive value makes the reference's mean infinite (its minimum over
   nothing); here such rows are left out of the mean, and with no other row nothing changes. */
static void saei_cpu_update_threshold(const sae_work *w, const sae_code *code, bool by_row,
                                      double beta, float *threshold) {
    double sum[2] = { 0, 0 };
    float smallest = 0, now;
    size_t rows = 0;
    (void)w;
    for (size_t r = 0; r < code->rows; r++) {
        float least = 0;
        for (size_t j = 0; j < code->count[r]; j++) {
            float v = code->value[r * code->stride + j];
            if (v > 0 && (least == 0 || v < least)) least = v;
        }
        saei_sum_add(sum, r, (double)least);
        if (least == 0) continue;
        rows++;
        if (smallest == 0 || least < smallest) smallest = least;
    }
    if (by_row && !rows) return;
    now = by_row ? (float)((sum[0] + sum[1]) / (double)rows) : smallest;
    if (*threshold < 0) *threshold = now;
    else *threshold = (float)(beta * (double)*threshold + (1 - beta) * (double)now);
}

typedef struct saei_median_job {
    const saei_kernels *kernels;
    const float *x, *guess;
    size_t n, ld;
    float *weights;     /* [n]: 1 / distance from the guess */
    float *differences; /* [workers][3][ld], the last row of each */
} saei_median_job;

static void saei_median_part(void *arg, size_t part, size_t worker) {
    saei_median_job *j = (saei_median_job *)arg;
    float *diff = j->differences + worker * 3 * j->ld + 2 * j->ld;
    for (size_t r = part * 64, end = saei_part_end(part, 64, j->n); r < end; r++) {
        float norm;
        j->kernels->axpy(j->ld, -1, j->guess, j->x + r * j->ld, diff);
        norm = (float)sqrt(j->kernels->dot(j->ld, diff, diff));
        j->weights[r] = 1 / (norm > 1e-20f ? norm : 1e-20f);
    }
}

/* Weiszfeld. DEVIATION: a row at the guess itself has weight 1e20 (the reference divides by 0). */
static void saei_cpu_geometric_median(const sae_work *w, const float *x, size_t n, float *out) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    size_t ld = w->shape.ld;
    float *weights = (float *)(void *)s.doubles; /* [n] */
    float *move = s.rows; /* [ld]; the differences follow */
    const double *sum = saei_block_sum(w, x, NULL, n);
    saei_median_job j;
    for (size_t c = 0; c < ld; c++) out[c] = (float)(sum[c] / (double)n);
    j.kernels = w->ctx->kernels;
    j.x = x;
    j.guess = out;
    j.n = n;
    j.ld = ld;
    j.weights = weights;
    j.differences = s.rows;
    for (int round = 0; round < 100; round++) {
        double total[2] = { 0, 0 };
        saei_parallel_workers(w->ctx, saei_ceil_div(n, 64), saei_median_part, &j);
        for (size_t r = 0; r < n; r++) saei_sum_add(total, r, (double)weights[r]);
        total[0] += total[1];
        for (size_t r = 0; r < n; r++) weights[r] = (float)((double)weights[r] / total[0]);
        sum = saei_block_sum(w, x, weights, n);
        for (size_t c = 0; c < ld; c++) {
            move[c] = (float)sum[c] - out[c];
            out[c] = (float)sum[c];
        }
        if (sqrt(j.kernels->dot(ld, move, move)) < 1e-5) break;
    }
}

static int saei_draw_compare(const void *a, const void *b) {
    const saei_draw *x = (const saei_draw *)a, *y = (const saei_draw *)b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void saei_cpu_resample(const sae_work *w, const float *x, const float *e, size_t n,
                              const uint64_t *since, uint64_t threshold, size_t m, uint64_t seed,
                              uint64_t step, float *const enc[3], float *const dec[3],
                              float *const (*biases)[3], size_t num_biases) {
    const saei_kernels *kernels = w->ctx->kernels;
    size_t ld = w->shape.ld;
    saei_draw *draws = saei_cpu_scratch_of(w).draws; /* [n] */
    double alive = 0;
    size_t living = 0, dead, used = 0;
    saei_random random = saei_random_of(seed, SAEI_STREAM_RESAMPLE);
    for (size_t i = 0; i < m; i++)
        if (since[i] <= threshold) {
            const float *row = enc[0] + i * ld;
            alive += sqrt(kernels->dot(ld, row, row));
            living++;
        }
    dead = m - living;
    if (!dead) return;
    if (living) alive /= (double)living;
    /* The smallest of Exp(1)/weight are a draw without replacement in proportion to weight. */
    for (size_t r = 0; r < n; r++) {
        double norm = sqrt(kernels->dot(ld, e + r * ld, e + r * ld));
        double u = saei_random_uniform(&random, step * ((uint64_t)1 << 32) + r);
        draws[r].row = r;
        draws[r].key = norm > 0 ? -saei_ln(u) / norm : HUGE_VAL;
    }
    qsort(draws, n, sizeof *draws, saei_draw_compare);
    for (size_t i = 0; i < m && used < saei_min(dead, n); i++) {
        const float *from;
        float norm, scale;
        if (since[i] <= threshold) continue;
        from = x + draws[used++].row * ld;
        norm = (float)sqrt(kernels->dot(ld, from, from));
        scale = (float)alive * 0.2f;
        for (size_t c = 0; c < ld; c++) {
            enc[0][i * ld + c] = from[c] * scale;
            dec[0][i * ld + c] = norm > 0 ? from[c] / norm : 0;
        }
        for (int k = 0; k < 3; k++) {
            if (k && enc[k]) memset(enc[k] + i * ld, 0, ld * sizeof(float));
            if (k && dec[k]) memset(dec[k] + i * ld, 0, ld * sizeof(float));
            for (size_t b = 0; b < num_biases; b++)
                if (biases[b][k]) biases[b][k][i] = 0;
        }
    }
}

/* ==== >>cpu: Adam ================================================= src/backend/cpu_adam.h ==== */

typedef struct saei_adam_job {
    const saei_kernels *kernels;
    saei_adam_factors factors;
    size_t count;
    const float *grad;
    float *param, *first, *second; /* first: NULL where beta1 is 0 */
} saei_adam_job;

static void saei_adam_part(void *arg, size_t part) {
    saei_adam_job *j = (saei_adam_job *)arg;
    size_t at = part * SAEI_CHUNK, n = saei_part_end(part, SAEI_CHUNK, j->count) - at;
    j->kernels->adam(&j->factors, n, j->param + at, j->grad + at, j->first ? j->first + at : NULL,
                     j->second + at);
}

static void saei_cpu_adam(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                          const double *sum_squares, double max_norm, float *param,
                          const float *grad, float *first, float *second, size_t count) {
    double clip = sum_squares ? saei_clip_factor(*sum_squares, max_norm) : 1;
    saei_adam_job j;
    j.kernels = w->ctx->kernels;
    j.factors = saei_adam_step_of(adam, t, clip);
    j.count = count;
    j.grad = grad;
    j.param = param;
    j.first = first;
    j.second = second;
    saei_parallel(w->ctx, saei_ceil_div(count, SAEI_CHUNK), saei_adam_part, &j);
}

typedef struct saei_adam_rows_job {
    const saei_kernels *kernels;
    saei_adam_factors factors;
    const sae_lazy_adam *lazy;
    float project, unit; /* eps of each; negative: not asked for */
    size_t m, ld;
    float *param, *grad, *first, *second;
} saei_adam_rows_job;

static void saei_adam_rows_part(void *arg, size_t part) {
    saei_adam_rows_job *j = (saei_adam_rows_job *)arg;
    for (size_t i = part * 16, end = saei_part_end(part, 16, j->m); i < end; i++) {
        size_t at = i * j->ld;
        float *row = j->param + at, *first = j->first ? j->first + at : NULL;
        if (saei_is_deferred(j->lazy, i)) continue;
        if (j->project >= 0) saei_project_row(j->kernels, j->ld, row, j->project, j->grad + at);
        j->kernels->adam(&j->factors, j->ld, row, j->grad + at, first, j->second + at);
        if (j->unit >= 0) saei_unit_row(j->kernels, j->ld, j->unit, row);
        if (j->lazy) j->lazy->applied[i] = j->lazy->updates + 1;
    }
}

static void saei_cpu_adam_rows(const sae_work *w, const sae_adam_desc *adam, uint64_t t,
                               const double *sum_squares, double max_norm, float project,
                               float unit, const sae_lazy_adam *lazy, size_t m, float *param,
                               float *grad, float *first, float *second) {
    double clip = sum_squares ? saei_clip_factor(*sum_squares, max_norm) : 1;
    saei_adam_rows_job j;
    j.kernels = w->ctx->kernels;
    j.factors = saei_adam_step_of(adam, t, clip);
    j.lazy = lazy;
    j.project = project;
    j.unit = unit;
    j.m = m;
    j.ld = w->shape.ld;
    j.param = param;
    j.grad = grad;
    j.first = first;
    j.second = second;
    saei_parallel(w->ctx, saei_ceil_div(m, 16), saei_adam_rows_part, &j);
}

/* -- deferred rows. W1, two cores: an update costs a row 0.17 us from memory, and 0.04 while it
   lies in the L1, where all that it missed is applied; but a deferred row is read one extra time
   when it becomes active again -- */

typedef struct saei_catch_up_job {
    const saei_kernels *kernels;
    const sae_code *code;
    const sae_lazy_adam *lazy;
    const saei_adam_factors *missed; /* [SAE_LAZY_ADAM_UPDATES] */
    size_t m, ld, parts, part_rows;  /* of the marking */
    float *param, *first, *second;
    unsigned char *active; /* [parts][m]: which latents a part of the rows lists */
    float *zeros;          /* [workers][3][ld], the first row of each: a gradient */
    double *deferred;      /* [parts of 16 rows]: how many rows were */
} saei_catch_up_job;

static void saei_mark_active_part(void *arg, size_t part) {
    saei_catch_up_job *job = (saei_catch_up_job *)arg;
    const sae_code *c = job->code;
    unsigned char *active = job->active + part * job->m;
    size_t r = part * job->part_rows, end = saei_part_end(part, job->part_rows, c->rows);
    size_t words = saei_ceil_div(job->m, 64);
    memset(active, 0, job->m);
    for (size_t w = 0; c->has_active_bits && w < words; w++) {
        uint64_t any = 0;
        for (size_t i = r; i < end; i++) any |= c->active_bits[i * words + w];
        for (; any; any &= any - 1) active[w * 64 + saei_lowest_bit(any)] = 1;
    }
    for (; !c->has_active_bits && r < end; r++)
        for (size_t j = 0; j < c->count[r]; j++) active[c->latent[r * c->stride + j]] = 1;
}

static void saei_catch_up_part(void *arg, size_t part, size_t worker) {
    saei_catch_up_job *j = (saei_catch_up_job *)arg;
    const sae_lazy_adam *lazy = j->lazy;
    size_t ld = j->ld, deferred = 0;
    float *zeros = j->zeros + worker * 3 * ld;
    for (size_t i = part * 16, end = saei_part_end(part, 16, j->m); i < end; i++) {
        float *row = j->param + i * ld, *first = j->first ? j->first + i * ld : NULL;
        bool due = !j->code;
        deferred += saei_is_deferred(lazy, i);
        for (size_t p = 0; p < j->parts && !due; p++) due = j->active[p * j->m + i] != 0;
        if (!due) continue;
        if (j->code) lazy->last_active[i] = lazy->updates;
        if (lazy->applied[i] < lazy->updates) memset(zeros, 0, ld * sizeof *zeros);
        for (; lazy->applied[i] < lazy->updates; lazy->applied[i]++) {
            j->kernels->adam(&j->missed[lazy->applied[i] % SAE_LAZY_ADAM_UPDATES], ld, row, zeros,
                             first, j->second + i * ld);
            if (lazy->unit >= 0) saei_unit_row(j->kernels, ld, lazy->unit, row);
        }
    }
    j->deferred[part] = (double)deferred;
}

static void saei_cpu_catch_up(const sae_work *w, const sae_code *code, const sae_lazy_adam *lazy,
                              size_t m, float *param, float *first, float *second) {
    saei_cpu_scratch s = saei_cpu_scratch_of(w);
    saei_adam_factors missed[SAE_LAZY_ADAM_UPDATES];
    saei_catch_up_job j;
    for (size_t u = 0; u < saei_min(lazy->updates, SAE_LAZY_ADAM_UPDATES); u++)
        missed[u] = saei_adam_step_of(&lazy->adam[u], lazy->t[u], 1);
    memset(&j, 0, sizeof j);
    j.kernels = w->ctx->kernels;
    j.code = code;
    j.lazy = lazy;
    j.missed = missed;
    j.m = m;
    j.ld = w->shape.ld;
    j.param = param;
    j.first = first;
    j.second = second;
    j.active = (unsigned char *)s.integers;
    j.zeros = s.rows;
    j.deferred = s.doubles;
    if (code) {
        j.part_rows = saei_code_part_rows(w->ctx, code->rows);
        j.parts = saei_ceil_div(code->rows, j.part_rows);
        saei_parallel(w->ctx, j.parts, saei_mark_active_part, &j);
    }
    saei_parallel_workers(w->ctx, saei_ceil_div(m, 16), saei_catch_up_part, &j);
    *lazy->num_deferred = (uint32_t)saei_sum_doubles(j.deferred, saei_ceil_div(m, 16));
}

/* ==== >>cpu: table =============================================== src/backend/cpu_table.h ==== */

/* Nothing runs after a call has returned. */
#define saei_cpu_begin_step NULL
#define saei_cpu_end_step NULL
#define saei_cpu_poll NULL
#define saei_cpu_guard NULL
#define saei_cpu_tripped NULL

SAE_API const sae_backend *sae_cpu_backend(void) {
#define SAEI_CPU(result, name, need, parameters, arguments) saei_cpu_##name,
    static const sae_backend table = {
        "cpu", true, SAE_BACKEND_CONTROL(SAEI_CPU) SAE_BACKEND_OPERATIONS(SAEI_CPU)
    };
#undef SAEI_CPU
    return &table;
}

#undef saei_cpu_begin_step
#undef saei_cpu_end_step
#undef saei_cpu_poll
#undef saei_cpu_guard
#undef saei_cpu_tripped

static const sae_backend *saei_backend_of(const sae_context *ctx) {
    return ctx->backend ? ctx->backend : sae_cpu_backend();
}

/* ==== >>trainer: schedules ========================================== src/train/schedule.h ==== */

SAE_API double sae_lr_factor(const sae_schedule *s, uint64_t t) {
    if (s->resample_steps) {
        double f = s->warmup_steps ? (double)(t % s->resample_steps) / (double)s->warmup_steps : 1;
        return f < 1 ? f : 1;
    }
    if (t < s->warmup_steps) return (double)t / (double)s->warmup_steps;
    if (s->decay_start && t >= s->decay_start)
        return ((double)s->steps - (double)t) / (double)(s->steps - s->decay_start);
    return 1;
}

SAE_API double sae_sparsity_factor(const sae_schedule *s, uint64_t t) {
    if (!s->sparsity_warmup_steps || t >= s->sparsity_warmup_steps) return 1;
    return (double)t / (double)s->sparsity_warmup_steps;
}

/* ==== >>trainer: memory on the backend ================================ src/train/blocks.h ==== */

/* What a trainer or a session holds of its backend: the state that open made, and blocks of its
   memory. With plan set nothing is taken, only counted. */
typedef struct saei_blocks {
    bool open, plan;
    size_t count;
    void *at[64];
    sae_memory memory; /* counted */
} saei_blocks;

/* Counts bytes of the context's allocator. */
static bool saei_blocks_host(saei_blocks *b, size_t bytes) {
    return saei_add(bytes, SAEI_ALLOC_EXTRA, &bytes)
           && saei_add(b->memory.host, bytes, &b->memory.host);
}

/* count * size bytes, zeros. NULL: there are none. A plan's are not to be touched. */
static void *saei_blocks_take(sae_work *w, saei_blocks *b, size_t count, size_t size) {
    const sae_backend *ops = saei_backend_of(w->ctx);
    size_t bytes, *device = &b->memory.device;
    void *p;
    if (b->count == sizeof b->at / sizeof *b->at || !saei_mul(count, size, &bytes)) return NULL;
    if (!(ops->host_memory ? saei_blocks_host(b, bytes) : saei_add(*device, bytes, device)))
        return NULL;
    if (b->plan) return b;
    p = ops->alloc(w, bytes);
    if (p) b->at[b->count++] = p;
    return p;
}

static float *saei_floats(sae_work *w, saei_blocks *b, size_t count) {
    return (float *)saei_blocks_take(w, b, count, sizeof(float));
}

static sae_result saei_blocks_open(sae_work *w, const char *who, saei_blocks *b) {
    const sae_backend *ops = saei_backend_of(w->ctx);
    sae_result result = saei_backend_check(w->ctx, who, ops);
    if (result == SAE_OK) result = ops->open(w->ctx, &w->state);
    b->open = result == SAE_OK;
    return result;
}

static void saei_blocks_close(sae_work *w, saei_blocks *b) {
    const sae_backend *ops = saei_backend_of(w->ctx);
    while (b->count) ops->free(w, b->at[--b->count]);
    if (b->open) ops->close(w->ctx, w->state);
}

/* There is no memory for what: the backend may know more. */
static sae_result saei_blocks_fail(const sae_work *w, const char *who, const char *what) {
    SAEI_TRY(saei_backend_of(w->ctx)->status(w));
    return saei_fail(w->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory %s %zu latents of %zu "
                     "dimensions with batches of %zu rows", who, what, w->shape.dict_size,
                     w->shape.d, w->shape.batch);
}

/* ==== >>trainer: the object ========================================== src/train/trainer.h ==== */

enum { /* traits of a scheme */
    SAEI_CONSTRAINED = 1 << 0, /* ConstrainedAdam: rows of W_dec keep norm 1 */
    SAEI_UNIT = 1 << 1,        /* the same, as later trainers do it: an eps is added to the norm */
    SAEI_CLIPPED = 1 << 2,     /* the norm of all gradients together is at most 1 */
    SAEI_WEIGHTED = 1 << 3,    /* penalties count f_i by the norm of its row of W_dec */
    SAEI_ANNEALED = 1 << 4,    /* the penalty's p and coefficient move during the run */
    SAEI_DEAD = 1 << 5,        /* latents silent for dead_feature_threshold rows are counted */
    SAEI_TOP_K = 1 << 6,       /* the k largest latents: auxk, a running threshold, b_dec starts at
                                  the median of the first batch */
    SAEI_EACH_ROW = 1 << 7,    /* k of each row, not k n of the batch */
    SAEI_NESTED = 1 << 8       /* groups of latents, each with its own reconstruction */
};

/* A training scheme: what sets it apart from the others. */
typedef struct saei_scheme {
    sae_trainer_kind kind;
    double lr;                             /* default; SAEI_TOP_K: with 16384 latents */
    double beta1;                          /* of Adam; beta2 is 0.999, eps 1e-8 */
    sae_sparsity_function sparsity;        /* default */
    unsigned traits;
    void (*gradients)(sae_trainer *t);     /* of the batch that is loaded, into t->grad */
    /* Sets the parts of the loss that are the scheme's own in s, and returns the whole. v: scalars
       of the update; l2_loss and sparsity_loss are set. */
    double (*loss)(const sae_trainer *t, const double *v, sae_stats *s);
    const char *hyperparameters;           /* see >>trainer: schemes */
} saei_scheme;

enum { /* scalars in device memory */
    SAEI_S_L2, SAEI_S_SPARSITY, SAEI_S_AUX, SAEI_S_PRE_NORM, SAEI_S_NORM, SAEI_S_SQUARES, SAEI_S_L0,
    SAEI_S_GHOST, SAEI_S_NONZERO, SAEI_S_SCRATCH, SAEI_S_GROUPS,
    SAEI_S_COUNT = SAEI_S_GROUPS + SAE_MAX_GROUPS
};

/* Host numbers that a resume needs, saved as one tensor. */
typedef struct saei_trainer_numbers {
    double step, rows_seen, k, p, next_p /* -1: none */, sparsity_coeff, p_updates, queue_size;
} saei_trainer_numbers;

enum { SAEI_STEPS_AHEAD = 8 }; /* the host is fewer steps ahead of the device */

/* A block of parameters, gradients or moments under the dictionary's layout. */
typedef struct saei_params {
    float *all, *W_enc, *W_dec, *b_enc, *aux0, *aux1, *b_dec;
} saei_params;

struct sae_trainer {
    sae_context *ctx;
    const sae_backend *ops;
    sae_work w;
    saei_blocks blocks;
    const saei_scheme *scheme;
    sae_trainer_desc desc; /* its texts are our own */
    sae_schedule schedule;
    sae_adam_desc adam;
    sae_dictionary view;   /* host; its params are param.all where the backend has host memory */
    saei_trainer_numbers now;
    saei_trainer_numbers past[SAEI_STEPS_AHEAD]; /* before step s: at s % SAEI_STEPS_AHEAD */
    /* of the last update, for stats */
    size_t n;
    double scale, coef, lr, used_k; /* sparsity factor, sparsity_coeff, learning rate, k it used */
    double *penalty;         /* device: where its sparsity penalty is */
    bool l0_known;           /* SAEI_S_NONZERO holds L0; else it is counted when asked for */
    /* device */
    saei_params param, grad, first, second;
    float *x, *target, *y, *xc, *e, *r; /* [batch][ld]; y is x or target */
    float *groups;                      /* [num_groups][batch][ld] */
    sae_code code, aux;
    sae_index index;
    float *norms, *weight, *sums;                /* [m'] */
    sae_lazy_adam lazy;                          /* applied NULL: no update is deferred */
    uint64_t *since;                             /* [m] rows or batches since the latent fired */
    uint32_t *list, *list_count, *bad;
    float *threshold, *warm;
    double *scalars;
    double *queue;               /* [2][sparsity_queue_length] penalties at p, next_p */
    /* host copies for resume, where the backend's memory is its own */
    void *host[8];
};

/* The sentinels of a desc as plain numbers. */
static uint64_t saei_steps_of(uint64_t field) { return field == SAE_NONE ? 0 : field; }
static double saei_number_of(double field) { return field < 0 ? 0 : field; }

/* ==== >>trainer: gradients ========================================= src/train/gradients.h ==== */
/* Each saei_grads_* computes the gradients of one batch into t->grad. Notation of the papers
   named; e = x_hat - y. Every gradient of the squared error is 2/n e: alpha below. */

/* Before rows of W_dec are read: those of the latents in code, or of all (NULL). */
static void saei_catch_up(sae_trainer *t, const sae_code *code) {
    if (t->lazy.enabled)
        t->ops->catch_up(&t->w, code, &t->lazy, t->desc.dict_size, t->param.W_dec, t->first.W_dec,
                         t->second.W_dec);
}

/* After an update. Finding deferrable rows costs a scan of all lists: it goes on while at least an
   eighth of the rows are deferred; otherwise it is tried again every eighth time. */
static void saei_lazy_adam_update(sae_trainer *t, const sae_adam_desc *adam, uint64_t step) {
    sae_lazy_adam *lazy = &t->lazy;
    size_t at = lazy->updates % SAE_LAZY_ADAM_UPDATES;
    bool scanned = lazy->enabled;
    uint32_t deferred;
    lazy->adam[at] = *adam;
    lazy->t[at] = step + 1;
    lazy->updates++;
    if (lazy->updates % SAE_LAZY_ADAM_UPDATES) return;
    saei_catch_up(t, NULL);
    lazy->enabled = lazy->updates / SAE_LAZY_ADAM_UPDATES % 8 == 0;
    if (scanned) {
        t->ops->download(&t->w, &deferred, lazy->num_deferred, sizeof deferred);
        lazy->enabled = deferred && 8 * (size_t)deferred >= t->desc.dict_size;
    } else lazy->begun = lazy->updates;
}

static void saei_encode_batch(sae_trainer *t, sae_select select, size_t k, sae_code *code,
                              bool listed) {
    sae_encode_args a = saei_encode_args_of(&t->view, select, t->xc, t->n);
    a.W = t->param.W_enc; /* those of the view are the host's */
    a.bias = t->param.b_enc;
    a.list = listed ? t->list : NULL;
    a.list_count = t->list_count;
    a.k = k;
    a.theta = select == SAE_SELECT_WINDOW ? t->param.aux0 : NULL;
    a.bandwidth = (float)t->desc.bandwidth;
    a.warm = t->warm;
    t->ops->encode(&t->w, &a, code);
    saei_catch_up(t, code);
}

/* By latent (f, dL/dp), and `others` values that are only summed, see saei_sums. */
static void saei_index_batch(sae_trainer *t, const sae_code *code, size_t others) {
    const float *values[5];
    values[0] = code->value;
    values[1] = code->grad;
    for (size_t i = 0; i < 3; i++) values[2 + i] = code->extra[i];
    t->ops->index(&t->w, code, values, t->ops->code_sums ? 2 : 2 + others, &t->index);
}

/* out[i] = the sum of extra[which] over the entries of latent i. */
static void saei_sums(sae_trainer *t, size_t which, float *out) {
    saei_op_code_sums(t->ops, &t->w, &t->code, t->code.extra[which], &t->index, 2 + which, out);
}

/* From an index of (f, dL/dp): dW_dec = alpha sum f e, dW_enc = sum dL/dp xc,
   db_enc = sum dL/dp. */
static void saei_latent_grads(sae_trainer *t, const float *e, float alpha, bool add) {
    size_t m = t->desc.dict_size;
    t->ops->latent_rows(&t->w, &t->index, 0, e, 0, m, alpha, add, t->grad.W_dec);
    t->ops->latent_rows(&t->w, &t->index, 1, t->xc, 0, m, 1, add, t->grad.W_enc);
    t->ops->latent_sums(&t->w, &t->index, 1, add, t->grad.b_enc);
}

/* b_dec is added to x_hat and, in most classes, subtracted from the encoder's input:
   db_dec = alpha sum e - sum_i (sum dL/dp_i) W_enc_i. */
static void saei_bias_grad(sae_trainer *t, const float *e, float alpha, const float *dp_sums) {
    t->ops->column_sums(&t->w, e, t->n, alpha, t->grad.b_dec);
    if (saei_subtracts(&t->view.desc))
        t->ops->weighted_sum(&t->w, t->param.W_enc, dp_sums, t->desc.dict_size, -1, t->grad.b_dec);
}

/* e = x_hat - y and its mean square norm; grad = alpha e.W_dec of the entries, 0 where relu_of is
   not positive. */
static void saei_reconstruct(sae_trainer *t, const float *values, float alpha, const float *relu_of,
                             float *e, double *loss, float *grad) {
    saei_op_reconstruct(t->ops, &t->w, &t->code, values, t->param.W_dec, t->param.b_dec, t->y,
                        alpha, relu_of, e, loss, grad);
}

/* Ghost gradients (Anthropic, January 2024 update): latents silent for long are pulled towards the
   residual through exp(p). Adds to the gradients of an index already used. */
static void saei_ghost_grads(sae_trainer *t) {
    t->ops->exp_values(&t->w, &t->aux);
    t->ops->decode(&t->w, &t->aux, t->aux.value, t->param.W_dec, 0, t->desc.dict_size, NULL, 0,
                   t->r);
    t->ops->ghost_residual(&t->w, t->r, t->e, t->n, t->list_count, t->r, t->scalars + SAEI_S_GHOST);
    t->ops->dots(&t->w, &t->aux, t->r, t->param.W_dec, 0, t->desc.dict_size, 1, NULL, t->aux.grad);
    t->ops->exp_grad(&t->w, &t->aux);
    saei_index_batch(t, &t->aux, 0);
    saei_latent_grads(t, t->r, 1, true);
}

static bool saei_has_trait(const sae_trainer *t, unsigned trait) {
    return (t->scheme->traits & trait) != 0;
}

/* Penalty of the annealers (Karvonen et al. 2024, p-annealing) on values, into grad. Once there is
   a next p, the penalties at p and at the next p go to the queue. */
static void saei_anneal_penalty(sae_trainer *t, const float *values, float *grad) {
    sae_penalty kind =
        t->desc.sparsity_function == SAE_SPARSITY_LP ? SAE_PENALTY_LP : SAE_PENALTY_LP_P;
    size_t length = t->desc.sparsity_queue_length, slot = (size_t)t->now.queue_size % length;
    bool queued = t->now.next_p >= 0;
    if (queued) t->penalty = t->queue + slot;
    t->ops->penalty(&t->w, kind, t->now.p, t->now.sparsity_coeff * t->scale, NULL, &t->code, values,
                    grad, t->penalty);
    if (!queued) return;
    t->ops->penalty(&t->w, kind, t->now.next_p, 0, NULL, &t->code, values, NULL,
                    t->queue + length + slot);
    t->now.queue_size += 1;
}

/* STANDARD (Bricken et al. 2023), STANDARD_APRIL (Conerly et al. 2024), P_ANNEAL:
   mean |e|^2 (or mean |e|) + coefficient * s(t) * penalty(f). */
static void saei_grads_standard(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    bool weighted = saei_has_trait(t, SAEI_WEIGHTED), ghost = h->ghost_threshold != SAE_NONE;
    int power = h->arch == SAE_ARCH_STANDARD_NEW ? 2 : 1; /* NEW hands out f |w|, counted again */
    double coef = saei_number_of(h->l1_penalty) * t->scale;
    float alpha = (float)(h->reconstruction_norm ? 1.0 / (double)t->n : 2.0 / (double)t->n);
    size_t m = h->dict_size;
    float *e = t->e;
    saei_encode_batch(t, SAE_SELECT_POSITIVE, 0, &t->code, false);
    if (!h->reconstruction_norm)
        saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.grad);
    else {
        ops->decode(&t->w, &t->code, t->code.value, t->param.W_dec, 0, m, t->param.b_dec, 0, t->e);
        ops->residual(&t->w, t->e, t->y, t->n, t->e, t->scalars + SAEI_S_L2);
        ops->axpy(&t->w, t->n * t->view.ld, 1, t->e, NULL, t->r);
        ops->unit_rows(&t->w, t->n, t->r, t->scalars + SAEI_S_L2);
        e = t->r;
        ops->dots(&t->w, &t->code, e, t->param.W_dec, 0, m, alpha, NULL, t->code.grad);
    }
    if (saei_has_trait(t, SAEI_ANNEALED)) saei_anneal_penalty(t, t->code.value, t->code.grad);
    else {
        if (weighted) {
            ops->row_norms(&t->w, t->param.W_dec, m, t->norms);
            ops->norm_weight(&t->w, t->norms, power, m, t->weight);
        }
        ops->penalty(&t->w, h->sparsity_function == SAE_SPARSITY_ENTROPY ? SAE_PENALTY_ENTROPY
                                                                         : SAE_PENALTY_L1,
                     1, coef, weighted ? t->weight : NULL, &t->code, t->code.value, t->code.grad,
                     t->scalars + SAEI_S_SPARSITY);
    }
    saei_index_batch(t, &t->code, 0);
    if (ghost) { /* the counters as they stood before this batch */
        ops->list_silent(&t->w, t->since, h->ghost_threshold + 1, m, t->list, t->list_count);
        saei_encode_batch(t, SAE_SELECT_ALL, 0, &t->aux, true);
    }
    ops->fired(&t->w, &t->index, -1, 1, t->since);
    saei_latent_grads(t, e, alpha, false);
    if (weighted) {
        ops->latent_sums(&t->w, &t->index, 0, false, t->sums);
        ops->norm_grad(&t->w, t->param.W_dec, t->norms, t->sums, power,
                       (float)(coef / (double)t->n), m, t->grad.W_dec);
    }
    ops->column_sums(&t->w, e, t->n, alpha, t->grad.b_dec);
    if (ghost) saei_ghost_grads(t);
    if (saei_subtracts(&t->view.desc))
        ops->weighted_sum(&t->w, t->param.W_enc, t->grad.b_enc, m, -1, t->grad.b_dec);
}

/* GATED (Rajamanoharan et al. 2024a): mean |e|^2 + coefficient * s(t) * penalty(relu(gate)) +
   mean |x_hat(relu(gate)) - x|^2 with the decoder held fixed in the last. */
static void saei_grads_gated(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    float alpha = (float)(2.0 / (double)t->n);
    saei_encode_batch(t, SAE_SELECT_GATE, 0, &t->code, false);
    ops->gate(&t->w, t->param.b_enc, t->param.aux0, t->param.aux1, &t->code);
    saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.extra[0]);
    saei_reconstruct(t, t->code.gate, alpha, NULL, t->r, t->scalars + SAEI_S_AUX, t->code.extra[1]);
    if (saei_has_trait(t, SAEI_ANNEALED))
        saei_anneal_penalty(t, t->code.gate, t->code.extra[1]);
    else
        ops->penalty(&t->w, SAE_PENALTY_L1, 1, saei_number_of(h->l1_penalty) * t->scale, NULL,
                     &t->code, t->code.gate, t->code.extra[1], t->scalars + SAEI_S_SPARSITY);
    ops->gate_grad(&t->w, t->param.aux0, &t->code);
    saei_index_batch(t, &t->code, 3);
    ops->fired(&t->w, &t->index, 0, 1, t->since);
    saei_latent_grads(t, t->e, alpha, false);
    ops->latent_sums(&t->w, &t->index, 1, false, t->sums);
    saei_sums(t, 1, t->grad.b_enc);
    saei_sums(t, 0, t->grad.aux1);
    saei_sums(t, 2, t->grad.aux0);
    saei_bias_grad(t, t->e, alpha, t->sums);
}

/* Matryoshka (Bussmann et al. 2025): L = mean_g w_g mean |e_g|^2, e_g the residual after groups
   1..g. A latent of group g sees S_g = sum over h >= g of w_h / G e_h. Fills t->groups with S and
   t->e with the last residual. */
static void saei_matryoshka_residuals(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    size_t rows = t->n * t->view.ld, stride = h->batch_size * t->view.ld, lo = 0;
    for (size_t g = 0; g < h->num_groups; g++) {
        size_t hi = lo + t->view.desc.group_sizes[g];
        t->ops->decode(&t->w, &t->code, t->code.value, t->param.W_dec, lo, hi,
                       g ? t->r : t->param.b_dec, g ? t->view.ld : 0, t->r);
        t->ops->residual(&t->w, t->r, t->y, t->n, t->groups + g * stride,
                         t->scalars + SAEI_S_GROUPS + g);
        lo = hi;
    }
    t->ops->axpy(&t->w, rows, 1, t->groups + (h->num_groups - 1) * stride, NULL, t->e);
    for (size_t g = h->num_groups; g-- > 0; )
        t->ops->axpy(&t->w, rows, (float)(h->group_weights[g] / (double)h->num_groups),
                     t->groups + g * stride, NULL, t->groups + g * stride);
    for (size_t g = h->num_groups - 1; g-- > 0; )
        t->ops->axpy(&t->w, rows, 1, t->groups + g * stride, t->groups + (g + 1) * stride,
                     t->groups + g * stride);
}

/* TOP_K (Gao et al. 2024), BATCH_TOP_K (Bussmann et al. 2024), MATRYOSHKA: mean |e|^2 +
   auxk_alpha auxk, where auxk reconstructs e from the dead latents. */
static void saei_grads_top_k(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    bool rows = saei_has_trait(t, SAEI_EACH_ROW), nested = saei_has_trait(t, SAEI_NESTED);
    size_t m = h->dict_size, stride = h->batch_size * t->view.ld, lo = 0;
    float alpha = (float)(2.0 / (double)t->n);
    double auxk_alpha = saei_number_of(h->auxk_alpha);
    saei_encode_batch(t, rows ? SAE_SELECT_TOP_K : SAE_SELECT_BATCH_TOP_K, (size_t)t->now.k,
                      &t->code, false);
    if ((uint64_t)t->now.step > saei_steps_of(h->threshold_start_step))
        ops->update_threshold(&t->w, &t->code, rows, saei_number_of(h->threshold_beta),
                              t->threshold);
    if (nested) saei_matryoshka_residuals(t);
    else
        saei_reconstruct(t, t->code.value, alpha, t->code.value, t->e, t->scalars + SAEI_S_L2,
                         t->code.grad);
    for (size_t g = 0; nested && g < h->num_groups; g++) {
        size_t hi = lo + t->view.desc.group_sizes[g];
        ops->dots(&t->w, &t->code, t->groups + g * stride, t->param.W_dec, lo, hi, alpha,
                  t->code.value, t->code.grad);
        lo = hi;
    }
    saei_index_batch(t, &t->code, 0);
    ops->fired(&t->w, &t->index, rows ? -1 : 0, t->n, t->since);
    if (!nested) saei_latent_grads(t, t->e, alpha, false);
    else {
        lo = 0;
        for (size_t g = 0; g < h->num_groups; g++) {
            size_t hi = lo + t->view.desc.group_sizes[g];
            ops->latent_rows(&t->w, &t->index, 0, t->groups + g * stride, lo, hi, alpha, false,
                             t->grad.W_dec);
            lo = hi;
        }
        ops->latent_rows(&t->w, &t->index, 1, t->xc, 0, m, 1, false, t->grad.W_enc);
        ops->latent_sums(&t->w, &t->index, 1, false, t->grad.b_enc);
    }
    /* No latent can be dead before that many rows were seen. */
    if (t->now.rows_seen + (double)t->n >= (double)h->dead_feature_threshold) {
        ops->list_silent(&t->w, t->since, h->dead_feature_threshold, m, t->list, t->list_count);
        if (t->aux.stride) {
            saei_encode_batch(t, SAE_SELECT_TOP_K, t->aux.stride, &t->aux, true);
            ops->decode(&t->w, &t->aux, t->aux.value, t->param.W_dec, 0, m, NULL, 0, t->r);
            ops->auxk_residual(&t->w, t->r, t->e, t->n, t->list_count, auxk_alpha, t->r,
                               t->scalars + SAEI_S_PRE_NORM, t->scalars + SAEI_S_NORM);
            ops->dots(&t->w, &t->aux, t->r, t->param.W_dec, 0, m, 1, t->aux.value, t->aux.grad);
            saei_index_batch(t, &t->aux, 0);
            saei_latent_grads(t, t->r, 1, true);
        }
    }
    saei_bias_grad(t, nested ? t->groups : t->e, alpha, t->grad.b_enc);
}

/* JUMP_RELU (Rajamanoharan et al. 2024b, with an L0 target): mean |e|^2 + c s(t) (L0/target - 1)^2,
   gradients of the thresholds by the straight-through rectangle. As in the reference the L0 term's
   rectangle is taken at f, after the jump. */
static void saei_grads_jump_relu(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    const sae_backend *ops = t->ops;
    float alpha = (float)(2.0 / (double)t->n), bandwidth = (float)h->bandwidth;
    double coef = saei_number_of(h->sparsity_penalty) * t->scale;
    size_t m = h->dict_size;
    saei_encode_batch(t, SAE_SELECT_WINDOW, 0, &t->code, false);
    ops->jump(&t->w, t->param.aux0, &t->code);
    saei_reconstruct(t, t->code.value, alpha, NULL, t->e, t->scalars + SAEI_S_L2, t->code.grad);
    ops->jump_grad(&t->w, t->param.aux0, bandwidth, coef, h->target_l0, &t->code,
                   t->scalars + SAEI_S_L0, t->scalars + SAEI_S_SPARSITY);
    saei_index_batch(t, &t->code, 1);
    ops->fired(&t->w, &t->index, 0, t->n, t->since);
    saei_latent_grads(t, t->e, alpha, false);
    saei_sums(t, 0, t->grad.aux0);
    ops->jump_rest(&t->w, t->param.aux0, bandwidth, coef, h->target_l0, t->scalars + SAEI_S_L0,
                   &t->index, t->n, t->grad.aux0);
    saei_bias_grad(t, t->e, alpha, t->grad.b_enc);
    if (t->now.rows_seen + (double)t->n > (double)h->dead_feature_threshold)
        ops->list_silent(&t->w, t->since, h->dead_feature_threshold + 1, m, t->list, t->list_count);
}

/* ---- losses ---- */

static double saei_loss_standard(const sae_trainer *t, const double *v, sae_stats *s) {
    bool ghost = t->desc.ghost_threshold != SAE_NONE;
    double coef = saei_has_trait(t, SAEI_ANNEALED) ? t->coef : saei_number_of(t->desc.l1_penalty);
    double loss = s->l2_loss + coef * t->scale * s->sparsity_loss;
    return ghost ? loss + v[SAEI_S_GHOST] : loss;
}

static double saei_loss_gated(const sae_trainer *t, const double *v, sae_stats *s) {
    s->aux_loss = v[SAEI_S_AUX];
    return saei_loss_standard(t, v, s) + s->aux_loss;
}

static double saei_loss_top_k(const sae_trainer *t, const double *v, sae_stats *s) {
    const sae_trainer_desc *h = &t->desc;
    bool nested = saei_has_trait(t, SAEI_NESTED);
    if (nested) s->l2_loss = 0;
    for (size_t g = 0; nested && g < h->num_groups; g++)
        s->l2_loss += h->group_weights[g] / (double)h->num_groups * v[SAEI_S_GROUPS + g];
    s->sparsity_loss = NAN;
    s->auxk_loss = v[SAEI_S_NORM];
    s->pre_norm_auxk_loss = v[SAEI_S_PRE_NORM];
    s->effective_l0 = nested ? (double)h->k : t->used_k;
    return s->l2_loss + saei_number_of(h->auxk_alpha) * s->auxk_loss;
}

static double saei_loss_jump_relu(const sae_trainer *t, const double *v, sae_stats *s) {
    (void)t;
    (void)v;
    return s->l2_loss + s->sparsity_loss;
}

/* ==== >>trainer: schemes ============================================= src/train/schemes.h ==== */
/* One row a training scheme. Its hyperparameters are words of >>trainer: hyperparameters, those
   that every trainer has may be left out: first what the reference writes into config.json, in its
   order; after the + what it leaves out, which is written after all else. */

static const saei_scheme saei_schemes[] = {
    { SAE_TRAINER_STANDARD, 1e-3, 0.9, SAE_SPARSITY_L1, SAEI_CONSTRAINED, saei_grads_standard,
      saei_loss_standard,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps resample_steps "
      "sparsity_warmup_steps steps decay_start seed device layer lm_name wandb_name submodule_name "
      "+ sparsity_function reconstruction_loss ghost_threshold" },
    { SAE_TRAINER_STANDARD_APRIL, 1e-3, 0.9, SAE_SPARSITY_L1, SAEI_CLIPPED | SAEI_WEIGHTED,
      saei_grads_standard, saei_loss_standard,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps "
      "sparsity_warmup_steps steps decay_start seed device layer lm_name wandb_name "
      "submodule_name" },
    { SAE_TRAINER_GATED, 5e-5, 0, SAE_SPARSITY_L1, SAEI_CONSTRAINED, saei_grads_gated,
      saei_loss_gated,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps "
      "sparsity_warmup_steps decay_start seed device layer lm_name wandb_name submodule_name" },
    { SAE_TRAINER_GATED_ANNEAL, 3e-4, 0, SAE_SPARSITY_LP_P, SAEI_CONSTRAINED | SAEI_ANNEALED,
      saei_grads_gated, saei_loss_gated,
      "trainer_class dict_class activation_dim dict_size lr sparsity_function sparsity_penalty "
      "p_start p_end anneal_start sparsity_queue_length n_sparsity_updates warmup_steps "
      "resample_steps sparsity_warmup_steps decay_start steps seed layer lm_name wandb_name "
      "+ initial_sparsity_penalty anneal_end" },
    { SAE_TRAINER_P_ANNEAL, 1e-3, 0.9, SAE_SPARSITY_LP, SAEI_CONSTRAINED | SAEI_ANNEALED,
      saei_grads_standard, saei_loss_standard,
      "trainer_class dict_class activation_dim dict_size lr sparsity_function sparsity_penalty "
      "p_start p_end anneal_start sparsity_queue_length n_sparsity_updates warmup_steps "
      "sparsity_warmup_steps decay_start resample_steps steps seed layer lm_name wandb_name "
      "submodule_name + initial_sparsity_penalty anneal_end" },
    { SAE_TRAINER_TOP_K, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_UNIT | SAEI_CLIPPED | SAEI_DEAD | SAEI_TOP_K | SAEI_EACH_ROW, saei_grads_top_k,
      saei_loss_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step seed activation_dim dict_size k device layer lm_name wandb_name "
      "submodule_name + k_anneal_steps top_k_aux dead_feature_threshold" },
    { SAE_TRAINER_BATCH_TOP_K, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_UNIT | SAEI_CLIPPED | SAEI_DEAD | SAEI_TOP_K, saei_grads_top_k, saei_loss_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step top_k_aux seed activation_dim dict_size k device layer lm_name "
      "wandb_name submodule_name + k_anneal_steps dead_feature_threshold" },
    { SAE_TRAINER_MATRYOSHKA, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_UNIT | SAEI_CLIPPED | SAEI_DEAD | SAEI_TOP_K | SAEI_NESTED, saei_grads_top_k,
      saei_loss_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step top_k_aux seed activation_dim dict_size group_fractions group_weights "
      "group_sizes k device layer lm_name wandb_name submodule_name "
      "+ k_anneal_steps dead_feature_threshold" },
    { SAE_TRAINER_JUMP_RELU, 7e-5, 0, SAE_SPARSITY_L1, SAEI_UNIT | SAEI_CLIPPED | SAEI_DEAD,
      saei_grads_jump_relu, saei_loss_jump_relu,
      "trainer_class dict_class lr steps seed activation_dim dict_size device layer lm_name "
      "wandb_name submodule_name bandwidth sparsity_penalty sparsity_warmup_steps target_l0 "
      "+ dead_feature_threshold" }
};
enum { SAEI_NUM_SCHEMES = sizeof saei_schemes / sizeof saei_schemes[0] };

/* NULL: there is none. */
static const saei_scheme *saei_scheme_of(sae_trainer_kind kind) {
    if (kind == SAE_TRAINER_DEFAULT) kind = SAE_TRAINER_TOP_K;
    for (size_t i = 0; i < SAEI_NUM_SCHEMES; i++)
        if (saei_schemes[i].kind == kind) return &saei_schemes[i];
    return NULL;
}

/* The word of a scheme's hyperparameters at *at, which goes on to the next; its length, 0 at the
   end. */
static size_t saei_next_word(const char **at, const char **word) {
    size_t n = strcspn(*at, " ");
    *word = *at;
    *at += n + ((*at)[n] == ' ');
    return n;
}

static bool saei_scheme_names(const saei_scheme *scheme, const char *key) {
    const char *at = scheme->hyperparameters, *word;
    size_t n, length = strlen(key);
    while ((n = saei_next_word(&at, &word)) > 0)
        if (n == length && !strncmp(word, key, n)) return true;
    return false;
}

/* ==== >>trainer: hyperparameters ============================= src/train/hyperparameters.h ==== */
/* One row each, in the order of sae_trainer_desc. From the rows follow the defaults, the checks,
   the settings a backup belongs to, reading and writing by name, and the list for options and
   bindings. Which trainers have one stands in >>trainer: schemes. */

typedef enum saei_field_type {
    SAEI_FIELD_KIND, SAEI_FIELD_ARCH, SAEI_FIELD_SIZE, SAEI_FIELD_STEPS, SAEI_FIELD_REAL,
    SAEI_FIELD_LIST, SAEI_FIELD_GROUP_SIZES, SAEI_FIELD_SPARSITY, SAEI_FIELD_NORM, SAEI_FIELD_TEXT,
    SAEI_FIELD_INTEGER, SAEI_FIELD_NOTHING
} saei_field_type;

/* What a literal 0 and a literal null (none) mean for a number. In a desc 0 is the default, so that
   the two must be spelled otherwise there: OFF is SAE_NONE for steps, -1 for real numbers. */
typedef enum saei_meaning { SAEI_REFUSED, SAEI_LITERAL, SAEI_OFF, SAEI_DEFAULT } saei_meaning;

enum { /* of a row */
    SAEI_EVERY = 1,       /* all trainers have it */
    SAEI_OWN = 2,         /* trainers that lack it refuse it; else they leave it alone */
    SAEI_IN_RUN = 4,      /* fewer than steps */
    SAEI_SHARE = 8,       /* at most 1 */
    SAEI_CONTINUOUS = 16, /* SAE_NONE is spelled "continuous" */
    SAEI_NO_SETTING = 32  /* a backup does not depend on it, or another row tells */
};

typedef struct saei_field {
    const char *key;     /* the reference's name of it */
    const char *name;    /* in sae_trainer_desc; "": it only becomes another's */
    saei_field_type type;
    saei_meaning zero, null;
    unsigned flags;
    double value;        /* default, where a row alone can say it; -1: SAE_NONE */
    const char *initial; /* default, for people */
    size_t offset;       /* in sae_trainer_desc */
} saei_field;

#define SAEI_AT(field) offsetof(sae_trainer_desc, field)
#define SAEI_ROW(name, type, zero, null, flags, ...)                                               \
    { #name, #name, SAEI_FIELD_##type, SAEI_##zero, SAEI_##null, flags, __VA_ARGS__, SAEI_AT(name) }
#define SAEI_ROW_AS(key, name, at, type, zero, null, flags, ...)                                   \
    { key, name, SAEI_FIELD_##type, SAEI_##zero, SAEI_##null, flags, __VA_ARGS__, SAEI_AT(at) }
#define SAEI_IS(number) number, #number
#define SAEI_IS_NONE -1, "none"
#define SAEI_SAID(text) 0, text

static const saei_field saei_fields[] = {
    SAEI_ROW_AS("trainer_class", "kind", kind, KIND, REFUSED, REFUSED, SAEI_EVERY,
                SAEI_SAID("top_k")),
    SAEI_ROW_AS("dict_class", "arch", arch, ARCH, REFUSED, DEFAULT, SAEI_EVERY,
                SAEI_SAID("by the trainer")),
    SAEI_ROW(activation_dim, SIZE, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("the data's")),
    SAEI_ROW(dict_size, SIZE, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("required")),
    SAEI_ROW(batch_size, SIZE, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("the data's, 2048")),
    SAEI_ROW(steps, STEPS, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("required")),
    SAEI_ROW(seed, STEPS, LITERAL, DEFAULT, SAEI_EVERY, SAEI_IS(0)),
    SAEI_ROW(lr, REAL, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("by the trainer")),
    SAEI_ROW(warmup_steps, STEPS, OFF, REFUSED, SAEI_EVERY | SAEI_IN_RUN,
             SAEI_SAID("1000; steps / 10 in runs of at most 1000 steps")),
    SAEI_ROW(decay_start, STEPS, OFF, OFF, SAEI_EVERY, SAEI_IS_NONE),
    SAEI_ROW(sparsity_warmup_steps, STEPS, OFF, OFF, SAEI_IN_RUN,
             SAEI_SAID("2000; steps / 5 in runs of at most 2000 steps")),
    SAEI_ROW(resample_steps, STEPS, OFF, OFF, SAEI_OWN | SAEI_IN_RUN, SAEI_IS_NONE),
    SAEI_ROW(l1_penalty, REAL, OFF, DEFAULT, 0, SAEI_IS(0.1)),
    SAEI_ROW(sparsity_function, SPARSITY, REFUSED, DEFAULT, SAEI_OWN,
             SAEI_SAID("l1; p_anneal Lp, gated_anneal Lp^p")),
    SAEI_ROW(k, SIZE, REFUSED, DEFAULT, 0, SAEI_SAID("required")),
    SAEI_ROW(k_anneal_steps, STEPS, OFF, OFF, SAEI_IN_RUN, SAEI_IS_NONE),
    SAEI_ROW(auxk_alpha, REAL, OFF, DEFAULT, 0, SAEI_IS(1.0 / 32)),
    SAEI_ROW(top_k_aux, SIZE, REFUSED, DEFAULT, 0, SAEI_SAID("activation_dim / 2")),
    SAEI_ROW(dead_feature_threshold, STEPS, REFUSED, DEFAULT, 0, SAEI_IS(10000000)),
    SAEI_ROW(threshold_beta, REAL, OFF, DEFAULT, SAEI_SHARE, SAEI_IS(0.999)),
    SAEI_ROW(threshold_start_step, STEPS, OFF, REFUSED, 0, SAEI_IS(1000)),
    SAEI_ROW(group_fractions, LIST, REFUSED, DEFAULT, 0,
             SAEI_SAID("required, for example 0.25,0.75")),
    SAEI_ROW(group_weights, LIST, REFUSED, DEFAULT, SAEI_NO_SETTING, SAEI_SAID("all the same")),
    SAEI_ROW_AS("group_sizes", "", group_fractions, GROUP_SIZES, REFUSED, DEFAULT, SAEI_NO_SETTING,
                SAEI_SAID("by group_fractions")),
    SAEI_ROW(bandwidth, REAL, REFUSED, DEFAULT, 0, SAEI_IS(0.001)),
    SAEI_ROW(sparsity_penalty, REAL, OFF, DEFAULT, 0, SAEI_IS(1)),
    SAEI_ROW(target_l0, REAL, REFUSED, DEFAULT, 0, SAEI_IS(20)),
    SAEI_ROW(initial_sparsity_penalty, REAL, OFF, DEFAULT, 0, SAEI_IS(0.1)),
    SAEI_ROW(anneal_start, STEPS, OFF, REFUSED, 0, SAEI_IS(15000)),
    SAEI_ROW(anneal_end, STEPS, REFUSED, DEFAULT, 0, SAEI_SAID("steps")),
    SAEI_ROW(p_start, REAL, REFUSED, DEFAULT, 0, SAEI_IS(1)),
    SAEI_ROW(p_end, REAL, LITERAL, DEFAULT, 0, SAEI_SAID("0 (with Lp it must be above)")),
    SAEI_ROW(n_sparsity_updates, STEPS, REFUSED, REFUSED, SAEI_CONTINUOUS, SAEI_IS(10)),
    SAEI_ROW(sparsity_queue_length, SIZE, REFUSED, DEFAULT, 0, SAEI_IS(10)),
    SAEI_ROW_AS("reconstruction_loss", "reconstruction_norm", reconstruction_norm, NORM, REFUSED,
                DEFAULT, SAEI_OWN, SAEI_SAID("mse")),
    SAEI_ROW(ghost_threshold, STEPS, REFUSED, OFF, SAEI_OWN, SAEI_IS_NONE),
    SAEI_ROW(init, TEXT, REFUSED, DEFAULT, SAEI_EVERY, SAEI_SAID("new weights")),
    SAEI_ROW_AS("device", "", kind, NOTHING, REFUSED, DEFAULT, SAEI_NO_SETTING,
                SAEI_SAID("for config.json")),
    SAEI_ROW(layer, INTEGER, LITERAL, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(lm_name, TEXT, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(wandb_name, TEXT, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json")),
    SAEI_ROW(submodule_name, TEXT, REFUSED, DEFAULT, SAEI_EVERY | SAEI_NO_SETTING,
             SAEI_SAID("for config.json"))
};
enum { SAEI_NUM_FIELDS = sizeof saei_fields / sizeof saei_fields[0] };

static const char *const saei_sparsity_names[] = { "l1", "entropy", "Lp", "Lp^p" }; /* from 1 on */

static bool saei_has_field(const saei_scheme *scheme, const saei_field *f) {
    return (f->flags & SAEI_EVERY) || saei_scheme_names(scheme, f->key);
}

/* The annealers' configs call initial_sparsity_penalty sparsity_penalty. */
static size_t saei_field_offset(const saei_field *f, sae_trainer_kind kind) {
    const saei_scheme *scheme = saei_scheme_of(kind);
    bool penalty = f->offset == SAEI_AT(sparsity_penalty) && scheme;
    return penalty && (scheme->traits & SAEI_ANNEALED) ? SAEI_AT(initial_sparsity_penalty)
                                                       : f->offset;
}

/* The values a row takes, as messages put it. */
static const char *saei_allowed(const saei_field *f) {
    bool zero = f->zero != SAEI_REFUSED, none = f->null == SAEI_OFF;
    switch (f->type) {
    case SAEI_FIELD_SIZE:
    case SAEI_FIELD_STEPS:
        if (f->flags & SAEI_CONTINUOUS) return "a whole number >= 1, or continuous";
        if (zero) return none ? "a whole number, or none" : "a whole number";
        return none ? "a whole number >= 1, or none" : "a whole number >= 1";
    case SAEI_FIELD_REAL:
        if (f->flags & SAEI_SHARE) return "a number from 0 to 1";
        return zero ? "a number >= 0" : "a number > 0";
#define SAE_X(kind, value, arch, name, reference, older) name ", "
    case SAEI_FIELD_KIND: return SAE_TRAINERS(SAE_X) "or the reference's class";
#undef SAE_X
    case SAEI_FIELD_ARCH: return "a class of the reference, as AutoEncoder";
    case SAEI_FIELD_LIST: return "a list of 1 to 64 numbers > 0";
    case SAEI_FIELD_GROUP_SIZES: return "a list of 1 to 64 whole numbers";
    case SAEI_FIELD_SPARSITY: return "l1, entropy, Lp or Lp^p";
    case SAEI_FIELD_NORM: return "mse or norm";
    case SAEI_FIELD_INTEGER: return "a whole number";
    case SAEI_FIELD_TEXT:
    case SAEI_FIELD_NOTHING: break;
    }
    return "a text";
}

SAE_API bool sae_hyperparameter_get(size_t index, sae_hyperparameter *out) {
    const saei_field *f = &saei_fields[index < SAEI_NUM_FIELDS ? index : 0];
    bool whole = f->type == SAEI_FIELD_SIZE || f->type == SAEI_FIELD_STEPS
                 || f->type == SAEI_FIELD_INTEGER;
    bool list = f->type == SAEI_FIELD_LIST || f->type == SAEI_FIELD_GROUP_SIZES;
    if (index >= SAEI_NUM_FIELDS || !out) return false;
    out->name = f->key;
    out->field = f->name;
    out->type = whole                       ? SAE_HYPERPARAMETER_WHOLE
                : f->type == SAEI_FIELD_REAL ? SAE_HYPERPARAMETER_REAL
                : list                       ? SAE_HYPERPARAMETER_LIST
                                             : SAE_HYPERPARAMETER_TEXT;
    out->initial = f->initial;
    out->allowed = saei_allowed(f);
    out->trainers = 0;
    for (size_t i = 0; i < SAEI_NUM_SCHEMES; i++)
        if (saei_has_field(&saei_schemes[i], f)) out->trainers |= 1u << saei_schemes[i].kind;
    return true;
}

/* ---- defaults ---- */

static void saei_default_steps(uint64_t *field, uint64_t value) {
    if (!*field) *field = value ? value : SAE_NONE;
}
static void saei_default_number(double *field, double value) {
    if (*field == 0) *field = value;
}

SAE_API void sae_trainer_defaults(sae_trainer_desc *desc) {
    const saei_scheme *scheme = saei_scheme_of(desc->kind);
    uint64_t steps = desc->steps;
    double scale = (double)desc->dict_size / 16384;
    bool top_k;
    if (!scheme) return; /* kind is refused later */
    top_k = (scheme->traits & SAEI_TOP_K) != 0;
    desc->kind = scheme->kind;
    if (!desc->arch) desc->arch = saei_trainer_arch(desc->kind);
    saei_default_number(&desc->lr, top_k ? scheme->lr / sqrt(scale > 0 ? scale : 1) : scheme->lr);
    /* The reference's 1000 and 2000, which it refuses in runs that are not longer; there a tenth
       and a fifth of the run. */
    saei_default_steps(&desc->warmup_steps, steps > 1000 ? 1000 : steps / 10);
    saei_default_steps(&desc->sparsity_warmup_steps,
                       !saei_scheme_names(scheme, "sparsity_warmup_steps") ? SAE_NONE
                       : steps > 2000                                      ? 2000 : steps / 5);
    if (!desc->sparsity_function) desc->sparsity_function = scheme->sparsity;
    if (!desc->top_k_aux) desc->top_k_aux = saei_max(desc->activation_dim / 2, 1);
    for (size_t i = 0; i < desc->num_groups && i < SAE_MAX_GROUPS; i++)
        saei_default_number(&desc->group_weights[i], 1.0 / (double)desc->num_groups);
    saei_default_steps(&desc->anneal_end, steps);
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const saei_field *f = &saei_fields[i];
        void *at = (char *)desc + f->offset;
        if (f->value == 0) continue;
        if (f->type == SAEI_FIELD_REAL) saei_default_number((double *)at, f->value);
        if (f->type == SAEI_FIELD_SIZE && !*(size_t *)at) *(size_t *)at = (size_t)f->value;
        if (f->type == SAEI_FIELD_STEPS)
            saei_default_steps((uint64_t *)at, f->value < 0 ? SAE_NONE : (uint64_t)f->value);
    }
}

/* ==== >>trainer: checks ================================================ src/train/check.h ==== */

/* What is checked: a desc with its defaults set. */
typedef struct saei_check {
    const sae_context *ctx;
    const char *who;
    const sae_trainer_desc *h;
    const saei_scheme *scheme;
} saei_check;

/* The names of the trainers that have f, in out. */
static void saei_field_trainers(const saei_field *f, char *out, size_t size) {
    size_t used = 0;
    *out = 0;
    for (size_t i = 0; i < SAEI_NUM_SCHEMES && used < size; i++)
        if (saei_has_field(&saei_schemes[i], f))
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "",
                                     sae_trainer_name(saei_schemes[i].kind));
}

/* A row that only its trainers may set. */
static sae_result saei_own_check(const saei_check *c, const saei_field *f) {
    const sae_trainer_desc *h = c->h;
    const void *at = (const char *)h + f->offset;
    char names[256];
    unsigned long long x = f->type == SAEI_FIELD_SPARSITY ? (unsigned long long)h->sparsity_function
                           : f->type == SAEI_FIELD_NORM   ? h->reconstruction_norm
                                                          : *(const uint64_t *)at;
    bool set = f->type == SAEI_FIELD_SPARSITY ? h->sparsity_function != c->scheme->sparsity
               : f->type == SAEI_FIELD_NORM   ? x != 0
                                              : x != SAE_NONE;
    if (!set || saei_has_field(c->scheme, f)) return SAE_OK;
    saei_field_trainers(f, names, sizeof names);
    return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %llu, which %s does not have; it belongs "
                     "to %s", c->who, f->name, x, sae_trainer_name(h->kind), names);
}

static sae_result saei_real_check(const saei_check *c, const saei_field *f) {
    double x = *(const double *)(const void *)((const char *)c->h + f->offset);
    if (!(fabs(x) <= FLT_MAX))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %g, allowed are finite numbers",
                         c->who, f->name, x);
    if (!saei_has_field(c->scheme, f)) return SAE_OK;
    if ((f->zero == SAEI_REFUSED && !(x > 0)) || (f->zero == SAEI_LITERAL && x < 0)
        || ((f->flags & SAEI_SHARE) && x > 1))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %g, allowed is %s", c->who, f->name, x,
                         saei_allowed(f));
    return SAE_OK;
}

static sae_result saei_whole_check(const saei_check *c, const saei_field *f) {
    const void *at = (const char *)c->h + f->offset;
    bool size = f->type == SAEI_FIELD_SIZE;
    uint64_t x = size ? *(const size_t *)at : *(const uint64_t *)at;
    uint64_t most = size ? INT32_MAX : f->offset == SAEI_AT(steps) ? INT64_MAX : UINT64_MAX;
    bool least = f->zero == SAEI_REFUSED && saei_has_field(c->scheme, f);
    if ((f->flags & SAEI_IN_RUN) && saei_steps_of(x) >= c->h->steps)
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: %s is %llu, allowed are 0 to steps - 1, %llu", c->who, f->name,
                         (unsigned long long)saei_steps_of(x), (unsigned long long)c->h->steps - 1);
    if (x > most || (least && !x))
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: %s is %llu, allowed are %d to %llu", c->who,
                         f->name, (unsigned long long)x, least, (unsigned long long)most);
    return SAE_OK;
}

static sae_result saei_fields_check(const saei_check *c) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const saei_field *f = &saei_fields[i];
        if (f->type == SAEI_FIELD_REAL) SAEI_TRY(saei_real_check(c, f));
        if (f->type == SAEI_FIELD_SIZE || f->type == SAEI_FIELD_STEPS)
            SAEI_TRY(saei_whole_check(c, f));
        if (f->flags & SAEI_OWN) SAEI_TRY(saei_own_check(c, f));
    }
    return SAE_OK;
}

/* ---- what hyperparameters ask of each other ---- */

static sae_result saei_decay_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    uint64_t warmup = saei_steps_of(h->warmup_steps), decay = saei_steps_of(h->decay_start);
    uint64_t sparsity = saei_steps_of(h->sparsity_warmup_steps);
    uint64_t resample = saei_steps_of(h->resample_steps);
    if (decay && resample)
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: decay_start is %llu and resample_steps %llu, only one of them is "
                         "allowed", c->who, (unsigned long long)decay,
                         (unsigned long long)resample);
    if (decay && (decay >= h->steps || decay <= warmup || decay <= sparsity))
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: decay_start is %llu, it must lie after warmup_steps (%llu) and "
                         "sparsity_warmup_steps (%llu) and before steps (%llu)", c->who,
                         (unsigned long long)decay, (unsigned long long)warmup,
                         (unsigned long long)sparsity, (unsigned long long)h->steps);
    return SAE_OK;
}

static sae_result saei_groups_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    double sum = 0;
    for (size_t i = 0; i < saei_min(h->num_groups, SAE_MAX_GROUPS); i++) {
        sum += h->group_fractions[i];
        if (!(h->group_fractions[i] >= 0 && h->group_fractions[i] <= 1))
            return saei_fail(c->ctx, SAE_ERR_INVALID,
                             "%s: group_fractions[%zu] is %g, allowed are 0 to 1", c->who, i,
                             h->group_fractions[i]);
        if (!(fabs(h->group_weights[i]) <= FLT_MAX))
            return saei_fail(c->ctx, SAE_ERR_INVALID,
                             "%s: group_weights[%zu] is %g, allowed are finite numbers", c->who, i,
                             h->group_weights[i]);
    }
    if (!(c->scheme->traits & SAEI_NESTED)) return SAE_OK;
    if (!h->num_groups || h->num_groups > SAE_MAX_GROUPS)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: num_groups is %zu (group_fractions), "
                         "allowed are 1 to %d", c->who, h->num_groups, SAE_MAX_GROUPS);
    if (!(fabs(sum - 1) <= 1e-9))
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: group_fractions sum to %.9g, they must sum to 1", c->who, sum);
    return SAE_OK;
}

static sae_result saei_sparsity_check(const saei_check *c) {
    const sae_trainer_desc *h = c->h;
    sae_sparsity_function f = h->sparsity_function;
    bool powers = f == SAE_SPARSITY_LP || f == SAE_SPARSITY_LP_P;
    bool annealed = (c->scheme->traits & SAEI_ANNEALED) != 0;
    if (annealed ? !powers : f != SAE_SPARSITY_L1 && f != SAE_SPARSITY_ENTROPY)
        return saei_fail(c->ctx, SAE_ERR_INVALID, "%s: sparsity_function is %d, %s allows %s",
                         c->who, (int)f, sae_trainer_name(h->kind),
                         annealed ? "SAE_SPARSITY_LP (Lp) and SAE_SPARSITY_LP_P (Lp^p)"
                                  : "SAE_SPARSITY_L1 (l1) and SAE_SPARSITY_ENTROPY (entropy)");
    if (f == SAE_SPARSITY_LP && !(h->p_end > 0))
        return saei_fail(c->ctx, SAE_ERR_INVALID,
                         "%s: p_end is %g with sparsity_function Lp, which takes the power 1/p: "
                         "give a p_end above 0, or take Lp^p", c->who, h->p_end);
    return SAE_OK;
}

/* A desc whose defaults are set. */
static sae_result saei_desc_check(const sae_context *ctx, const char *who,
                                  const sae_trainer_desc *h) {
    sae_arch arch = saei_trainer_arch(h->kind);
    saei_check c;
    c.ctx = ctx;
    c.who = who;
    c.h = h;
    c.scheme = saei_scheme_of(h->kind);
    if (!c.scheme)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: kind is %d, allowed are 1 to %d", who,
                         (int)h->kind, (int)SAE_NUM_TRAINERS);
    if (h->arch != arch
        && !((c.scheme->traits & SAEI_WEIGHTED) && h->arch == SAE_ARCH_STANDARD_NEW))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: arch is %s, %s trains %s%s", who,
                         sae_arch_name(h->arch), sae_trainer_name(h->kind), sae_arch_name(arch),
                         c.scheme->traits & SAEI_WEIGHTED ? " and AutoEncoderNew" : "");
    SAEI_TRY(saei_fields_check(&c));
    SAEI_TRY(saei_decay_check(&c));
    SAEI_TRY(saei_groups_check(&c));
    SAEI_TRY(saei_sparsity_check(&c));
    if ((c.scheme->traits & SAEI_TOP_K) && saei_steps_of(h->k_anneal_steps)
        && h->activation_dim <= h->k)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k is %zu; annealing it starts from "
                         "activation_dim, %zu, which must be larger", who, h->k,
                         h->activation_dim);
    if (h->ghost_threshold != SAE_NONE && !h->reconstruction_norm)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: ghost_threshold is %llu, ghost gradients need "
                         "reconstruction_norm", who, (unsigned long long)h->ghost_threshold);
    return SAE_OK;
}

/* ==== >>trainer: create =============================================== src/train/create.h ==== */

static void *saei_device(sae_trainer *t, size_t count, size_t size) {
    return saei_blocks_take(&t->w, &t->blocks, count, size);
}

static bool saei_params_make(sae_trainer *t, saei_params *p) {
    sae_dictionary shape = t->view;
    p->all = (float *)saei_device(t, t->view.num_params, sizeof(float));
    if (!p->all || t->blocks.plan) return p->all != NULL;
    saei_dictionary_place(&shape, p->all);
    p->W_enc = shape.W_enc;
    p->W_dec = shape.W_dec;
    p->b_enc = shape.b_enc;
    p->aux0 = shape.aux0;
    p->aux1 = shape.aux1;
    p->b_dec = shape.b_dec;
    return true;
}

static bool saei_code_make(sae_trainer *t, size_t stride, size_t extras, bool separate,
                           sae_code *code) {
    size_t entries;
    bool ok;
    code->stride = stride;
    if (!saei_mul(t->desc.batch_size, stride, &entries)
        || !saei_add(entries, SAEI_LIST_PADDING, &entries))
        return false;
    code->count = (uint32_t *)saei_device(t, t->desc.batch_size, sizeof(uint32_t));
    code->latent = (uint32_t *)saei_device(t, entries, sizeof(uint32_t));
    code->pre = code->value = (float *)saei_device(t, entries, sizeof(float));
    if (separate) code->value = (float *)saei_device(t, entries, sizeof(float));
    code->grad = (float *)saei_device(t, entries, sizeof(float));
    ok = code->count && code->latent && code->pre && code->value && code->grad;
    if (extras == 3) {
        code->gate = (float *)saei_device(t, entries, sizeof(float));
        ok = ok && code->gate;
    }
    for (size_t i = 0; i < extras; i++) {
        code->extra[i] = (float *)saei_device(t, entries, sizeof(float));
        ok = ok && code->extra[i];
    }
    /* these lists may be long; a backend with code_sums reads them as bitmaps */
    if (code == &t->code && !saei_has_trait(t, SAEI_TOP_K) && t->ops->code_sums) {
        size_t words;
        ok = ok && saei_mul(t->desc.batch_size, saei_ceil_div(t->desc.dict_size, 64), &words);
        code->active_bits = ok ? (uint64_t *)saei_device(t, words, sizeof(uint64_t)) : NULL;
        ok = ok && code->active_bits;
    }
    return ok;
}

static bool saei_index_make(sae_trainer *t, size_t stride, size_t values) {
    size_t m = t->desc.dict_size;
    bool ok = saei_mul(t->desc.batch_size, stride, &t->index.capacity);
    t->index.dict_size = m;
    t->index.begin = (size_t *)saei_device(t, m + 1, sizeof(size_t));
    ok = ok && t->index.begin;
    t->index.row = ok ? (uint32_t *)saei_device(t, t->index.capacity, sizeof(uint32_t)) : NULL;
    ok = ok && t->index.row;
    for (size_t i = 0; ok && i < values; i++) {
        t->index.value[i] = (float *)saei_device(t, t->index.capacity, sizeof(float));
        ok = t->index.value[i] != NULL;
    }
    return ok;
}

/* Everything a step will need. */
static bool saei_trainer_memory(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    size_t m = saei_align16(h->dict_size), rows, scratch, stride, apart, aux = 0;
    bool gated = h->arch == SAE_ARCH_GATED, jump = h->arch == SAE_ARCH_JUMP_RELU, ok;
    bool ghost = h->ghost_threshold != SAE_NONE, each_row = saei_has_trait(t, SAEI_EACH_ROW);
    if (!saei_mul(h->batch_size, t->view.ld, &rows)) return false;
    stride = h->dict_size;
    if (each_row) {
        stride = saei_steps_of(h->k_anneal_steps) ? saei_max(h->k, h->activation_dim) : h->k;
        stride = saei_min(stride, h->dict_size);
    }
    if (saei_has_trait(t, SAEI_TOP_K) && saei_number_of(h->auxk_alpha) > 0)
        aux = saei_min(h->top_k_aux, h->dict_size);
    if (ghost) aux = h->dict_size;
    t->w.shape.k = each_row ? saei_max(stride, aux) : aux;
    scratch = t->ops->scratch_bytes(&t->w, &t->w.shape);
    if (scratch == SIZE_MAX) return false;
    t->w.scratch = saei_device(t, scratch, 1);
    ok = t->w.scratch && saei_params_make(t, &t->param) && saei_params_make(t, &t->grad)
         && saei_params_make(t, &t->second);
    if (ok && t->adam.beta1 > 0) ok = saei_params_make(t, &t->first);
    t->x = (float *)saei_device(t, rows, sizeof(float));
    t->target = (float *)saei_device(t, rows, sizeof(float));
    t->e = (float *)saei_device(t, rows, sizeof(float));
    t->r = (float *)saei_device(t, rows, sizeof(float));
    t->xc = saei_subtracts(&t->view.desc) ? (float *)saei_device(t, rows, sizeof(float)) : t->x;
    t->since = (uint64_t *)saei_device(t, m, sizeof(uint64_t));
    t->list = (uint32_t *)saei_device(t, m, sizeof(uint32_t));
    t->list_count = (uint32_t *)saei_device(t, 2, sizeof(uint32_t));
    t->norms = (float *)saei_device(t, m, sizeof(float));
    t->weight = (float *)saei_device(t, m, sizeof(float));
    t->sums = (float *)saei_device(t, m, sizeof(float));
    t->threshold = (float *)saei_device(t, 2, sizeof(float));
    t->scalars = (double *)saei_device(t, SAEI_S_COUNT, sizeof(double));
    t->queue = (double *)saei_device(t, 2 * h->sparsity_queue_length, sizeof(double));
    if (t->ops->catch_up && t->ops->adam_rows && !saei_has_trait(t, SAEI_WEIGHTED)) {
        t->lazy.applied = (uint64_t *)saei_device(t, m, sizeof(uint64_t));
        t->lazy.last_active = (uint64_t *)saei_device(t, m, sizeof(uint64_t));
        t->lazy.num_deferred = (uint32_t *)saei_device(t, 1, sizeof(uint32_t));
        ok = ok && t->lazy.applied && t->lazy.last_active && t->lazy.num_deferred;
    }
    ok = ok && t->x && t->target && t->e && t->r && t->xc && t->since && t->list && t->list_count
         && t->norms && t->weight && t->sums && t->threshold && t->scalars && t->queue;
    if (ok && saei_has_trait(t, SAEI_NESTED)) {
        size_t all;
        t->groups = saei_mul(rows, h->num_groups, &all)
                        ? (float *)saei_device(t, all, sizeof(float))
                        : NULL;
        ok = t->groups != NULL;
    }
    if (!ok) return false;
    t->bad = t->list_count + 1;
    t->warm = t->threshold + 1;
    /* Lists of any length: long rows share no set of a cache. Those of a k hold just as many. */
    apart = each_row || stride < 1024 ? stride : saei_align16(stride) | 16;
    ok = saei_code_make(t, apart, gated ? 3 : jump ? 1 : 0, gated || jump, &t->code);
    if (ok && aux) ok = saei_code_make(t, aux, 0, ghost, &t->aux);
    return ok && saei_index_make(t, saei_max(stride, aux),
                                 t->ops->code_sums ? 2 : gated ? 5 : jump ? 3 : 2);
}

SAE_API void sae_trainer_destroy(sae_trainer *t) {
    if (!t) return;
    saei_blocks_close(&t->w, &t->blocks);
    for (size_t i = 0; i < sizeof t->host / sizeof *t->host; i++) saei_free(t->ctx, t->host[i]);
    saei_free(t->ctx, t->desc.lm_name);
    saei_free(t->ctx, t->desc.submodule_name);
    saei_free(t->ctx, t->desc.wandb_name);
    saei_free(t->ctx, t->desc.init);
    saei_free(t->ctx, t);
}

static void saei_trainer_dictionary_desc(const sae_trainer_desc *h, sae_dictionary_desc *out) {
    unsigned traits = saei_scheme_of(h->kind)->traits;
    size_t sum = 0;
    memset(out, 0, sizeof *out);
    out->arch = h->arch;
    out->activation_dim = h->activation_dim;
    out->dict_size = h->dict_size;
    out->seed = h->seed;
    if (!(traits & SAEI_TOP_K)) return;
    out->k = h->k;
    if (!(traits & SAEI_NESTED)) return;
    out->num_groups = h->num_groups;
    for (size_t g = 0; g < h->num_groups && g < SAE_MAX_GROUPS; g++) {
        double size = h->group_fractions[g] * (double)h->dict_size;
        if (g + 1 == h->num_groups)
            out->group_sizes[g] = h->dict_size > sum ? h->dict_size - sum : 0;
        else out->group_sizes[g] = size > 0 ? (size_t)size : 0;
        sum += out->group_sizes[g];
    }
}

/* The start: init's tensors, or the class's own. */
static sae_result saei_trainer_start(sae_trainer *t) {
    const sae_dictionary_desc *want = &t->view.desc;
    sae_dictionary *from = NULL;
    const double none = -1; /* auxk: no dead latents so far */
    if (t->desc.init) {
        sae_load_desc load;
        memset(&load, 0, sizeof load);
        load.arch = want->arch;
        load.k = want->k;
        load.raw = true;
        SAEI_TRY(sae_dictionary_load(t->ctx, &load, t->desc.init, &from));
        if (from->desc.arch != want->arch || !saei_is_plain(&from->desc)
            || from->desc.subtract_b_dec != want->subtract_b_dec) {
            sae_result result = saei_fail(t->ctx, SAE_ERR_MISMATCH,
                                          "sae_trainer_create: init is %s, "
                                          "which holds %s%s; the trainer has %s",
                                          t->desc.init, sae_arch_name(from->desc.arch),
                                          from->desc.arch == want->arch ? " with variations" : "",
                                          sae_arch_name(want->arch));
            sae_dictionary_destroy(from);
            return result;
        }
        if (from->desc.activation_dim != want->activation_dim
            || from->desc.dict_size != want->dict_size || from->desc.num_groups != want->num_groups
            || memcmp(from->desc.group_sizes, want->group_sizes, sizeof want->group_sizes)) {
            char has[64] = "", wants[96] = "";
            if (want->num_groups) {
                snprintf(has, sizeof has, " in %zu groups", from->desc.num_groups);
                snprintf(wants, sizeof wants, " in %zu (or groups of other sizes)",
                         want->num_groups);
            }
            sae_result result = saei_fail(
                t->ctx, SAE_ERR_MISMATCH, "sae_trainer_create: %s holds %zu latents of %zu "
                "dimensions%s, the trainer has %zu of %zu%s", t->desc.init, from->desc.dict_size,
                from->desc.activation_dim, has, want->dict_size, want->activation_dim, wants);
            sae_dictionary_destroy(from);
            return result;
        }
    } else SAEI_TRY(sae_dictionary_create(t->ctx, want, &from));
    t->ops->upload(&t->w, t->param.all, from->params, from->num_params * sizeof(float));
    t->ops->upload(&t->w, t->threshold, &from->threshold, sizeof(float));
    t->ops->upload(&t->w, t->scalars + SAEI_S_PRE_NORM, &none, sizeof none);
    t->view.threshold = from->threshold;
    sae_dictionary_destroy(from);
    return SAE_OK;
}

/* The desc's texts become the trainer's own. */
static bool saei_trainer_texts(sae_trainer *t) {
    sae_trainer_desc *h = &t->desc;
    const char **texts[4];
    bool ok = true;
    texts[0] = &h->lm_name;
    texts[1] = &h->submodule_name;
    texts[2] = &h->wandb_name;
    texts[3] = &h->init;
    for (size_t i = 0; i < 4; i++) {
        const char *text = *texts[i];
        if (!text) continue;
        *texts[i] = t->blocks.plan ? NULL : saei_strdup(t->ctx, text);
        ok = ok && saei_blocks_host(&t->blocks, strlen(text) + 1)
             && (t->blocks.plan || *texts[i]);
    }
    return ok;
}

/* All that is not memory. h is checked. */
static void saei_trainer_init(sae_trainer *t, sae_context *ctx, const sae_trainer_desc *h,
                              const sae_dictionary_desc *shape) {
    t->ctx = ctx;
    t->ops = saei_backend_of(ctx);
    t->scheme = saei_scheme_of(h->kind);
    t->desc = *h;
    t->w.ctx = ctx;
    t->w.shape.batch = h->batch_size;
    t->w.shape.d = h->activation_dim;
    t->w.shape.ld = saei_align16(h->activation_dim);
    t->w.shape.dict_size = h->dict_size;
    t->view.ctx = ctx;
    t->view.desc = *shape;
    t->view.desc.output_dim = saei_output_dim(shape);
    t->view.ld = t->w.shape.ld;
    t->view.num_params = saei_param_count(shape);
    t->view.rule = saei_has_trait(t, SAEI_EACH_ROW) ? SAE_RULE_TOP_K
                   : saei_has_trait(t, SAEI_TOP_K)  ? SAE_RULE_THRESHOLD
                                                    : SAE_RULE_DEFAULT;
    t->view.active_groups = shape->num_groups;
    t->view.borrowed = true;
    t->view.origin.layer = -1;
    t->view.origin.dict_size = t->view.desc.dict_size;
    t->view.origin.k = t->view.desc.k;
    t->schedule.steps = h->steps;
    t->schedule.warmup_steps = saei_steps_of(h->warmup_steps);
    t->schedule.decay_start = saei_steps_of(h->decay_start);
    t->schedule.resample_steps = saei_steps_of(h->resample_steps);
    t->schedule.sparsity_warmup_steps = saei_steps_of(h->sparsity_warmup_steps);
    t->adam.beta1 = t->scheme->beta1;
    t->adam.beta2 = 0.999;
    t->adam.eps = 1e-8;
    t->now.k = (double)h->k;
    t->now.p = h->p_start;
    t->now.next_p = -1;
    t->now.sparsity_coeff = saei_number_of(h->initial_sparsity_penalty);
}

/* A host copy of the parameters, where the backend's memory is its own. */
static bool saei_trainer_host_copy(sae_trainer *t) {
    size_t bytes;
    if (t->ops->host_memory) return true;
    if (!saei_mul(t->view.num_params, sizeof(float), &bytes)
        || !saei_blocks_host(&t->blocks, bytes))
        return false;
    if (!t->blocks.plan) t->host[0] = saei_calloc(t->ctx, bytes, 1);
    return t->blocks.plan || t->host[0];
}

/* A trainer with its memory, or the plan of one, which can only be destroyed. */
static sae_result saei_trainer_make(sae_context *ctx, const char *who, const sae_trainer_desc *desc,
                                    bool plan, sae_trainer **out) {
    sae_trainer_desc h = *desc;
    sae_dictionary_desc shape;
    sae_trainer *t;
    sae_result result;
    bool texts;
    sae_trainer_defaults(&h);
    SAEI_TRY(saei_desc_check(ctx, who, &h));
    saei_trainer_dictionary_desc(&h, &shape);
    SAEI_TRY(saei_dictionary_check(ctx, who, &shape));
    t = (sae_trainer *)saei_calloc(ctx, 1, sizeof *t);
    if (!t) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for a trainer", who);
    saei_trainer_init(t, ctx, &h, &shape);
    t->blocks.plan = plan;
    texts = saei_trainer_texts(t) && saei_blocks_host(&t->blocks, sizeof *t);
    result = saei_blocks_open(&t->w, who, &t->blocks);
    if (result == SAE_OK
        && (!texts || t->view.num_params == SIZE_MAX || !saei_trainer_memory(t)
            || !saei_trainer_host_copy(t)))
        result = saei_blocks_fail(&t->w, who, "to train");
    if (result == SAE_OK) *out = t;
    else sae_trainer_destroy(t);
    return result;
}

SAE_API sae_result sae_trainer_create(sae_context *ctx, const sae_trainer_desc *desc,
                                      sae_trainer **out) {
    sae_trainer *t = NULL;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_create: %s is NULL",
                         desc ? "out" : "desc");
    SAEI_TRY(saei_trainer_make(ctx, "sae_trainer_create", desc, false, &t));
    result = saei_trainer_start(t);
    saei_dictionary_place(&t->view, t->ops->host_memory ? t->param.all : (float *)t->host[0]);
    if (result == SAE_OK) result = t->ops->status(&t->w);
    if (result == SAE_OK) *out = t;
    else sae_trainer_destroy(t);
    return result;
}

SAE_API sae_result sae_trainer_memory(sae_context *ctx, const sae_trainer_desc *desc,
                                      sae_memory *out) {
    sae_trainer *t = NULL;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_memory: %s is NULL",
                         desc ? "out" : "desc");
    SAEI_TRY(saei_trainer_make(ctx, "sae_trainer_memory", desc, true, &t));
    *out = t->blocks.memory;
    sae_trainer_destroy(t);
    return SAE_OK;
}

/* ==== >>trainer: the step =============================================== src/train/step.h ==== */

static sae_result saei_bad_batch(const sae_trainer *t, uint64_t step) {
    return saei_fail(t->ctx, SAE_ERR_NOT_FINITE, "sae_trainer_step: the batch of step %llu holds "
                     "NaN or infinity, all values must be finite", (unsigned long long)step);
}

/* Polls the backend's status, or waits for it. Where it says that a batch was bad, the host's
   numbers are set back to the device's: those before that batch's step. */
static sae_result saei_trainer_check(sae_trainer *t, bool wait) {
    uint64_t step;
    SAEI_TRY(wait || !t->ops->poll ? t->ops->status(&t->w) : t->ops->poll(&t->w));
    if (!t->ops->tripped || !t->ops->tripped(&t->w, &step)) return SAE_OK;
    t->now = t->past[step % SAEI_STEPS_AHEAD];
    t->n = 0; /* its stats are gone */
    return saei_bad_batch(t, step);
}

/* Adam on floats [begin, end) of the parameters. */
static void saei_adam_range(sae_trainer *t, const sae_adam_desc *adam, uint64_t step,
                            const double *squares, size_t begin, size_t end) {
    if (begin == end) return;
    t->ops->adam(&t->w, adam, step + 1, squares, 1, t->param.all + begin, t->grad.all + begin,
                 t->first.all ? t->first.all + begin : NULL, t->second.all + begin, end - begin);
}

/* Gradients to parameters: constraint, clipping, Adam, unit norm, as the scheme has them. */
static void saei_trainer_update(sae_trainer *t, uint64_t step) {
    bool constrained = saei_has_trait(t, SAEI_CONSTRAINED);
    bool clipped = saei_has_trait(t, SAEI_CLIPPED);
    bool unit = constrained || saei_has_trait(t, SAEI_UNIT);
    size_t m = t->desc.dict_size, dec, end;
    double *squares = t->scalars + SAEI_S_SQUARES;
    sae_lazy_adam *lazy = t->lazy.applied ? &t->lazy : NULL;
    float unit_eps = constrained ? 0 : FLT_EPSILON;
    sae_adam_desc adam = t->adam;
    adam.lr = t->desc.lr * sae_lr_factor(&t->schedule, step);
    t->lr = adam.lr;
    if (unit && clipped) /* the clipping needs the norm of what is left */
        t->ops->remove_parallel(&t->w, t->param.W_dec, m, 1e-6f, lazy, t->grad.W_dec);
    if (clipped) t->ops->sum_squares(&t->w, t->grad.all, t->view.num_params, squares);
    else squares = NULL;
    if (!unit) {
        saei_adam_range(t, &adam, step, squares, 0, t->view.num_params);
        return;
    }
    dec = (size_t)(t->param.W_dec - t->param.all);
    end = dec + m * t->view.ld;
    saei_adam_range(t, &adam, step, squares, 0, dec);
    saei_op_adam_rows(t->ops, &t->w, &adam, step + 1, squares, 1, clipped ? -1 : 0, unit_eps, lazy,
                      m, t->param.W_dec, t->grad.W_dec, t->first.W_dec, t->second.W_dec);
    saei_adam_range(t, &adam, step, squares, end, t->view.num_params);
    if (!lazy) return;
    lazy->unit = unit_eps;
    saei_lazy_adam_update(t, &adam, step);
}

/* Integer linspace of PyTorch 2: step i from the start in the first half, from the end in the
   second, in double, truncated. */
static uint64_t saei_anneal_step(const sae_trainer_desc *h, uint64_t count, uint64_t i) {
    double a = (double)saei_steps_of(h->anneal_start), b = (double)h->anneal_end, step;
    if (count < 2) return (uint64_t)a;
    step = (b - a) / (double)(count - 1);
    return (uint64_t)(i < count / 2 ? a + (double)i * step : b - (double)(count - 1 - i) * step);
}

static float saei_anneal_p(const sae_trainer_desc *h, uint64_t count, uint64_t i) {
    double step = count > 1 ? (h->p_end - h->p_start) / (double)(count - 1) : 0;
    return (float)(i < count / 2 || count < 2 ? h->p_start + (double)i * step
                                              : h->p_end - (double)(count - 1 - i) * step);
}

static uint64_t saei_anneal_count(const sae_trainer_desc *h) {
    uint64_t start = saei_steps_of(h->anneal_start);
    if (h->n_sparsity_updates != SAE_NONE) return h->n_sparsity_updates;
    return h->anneal_end > start ? h->anneal_end - start + 1 : 1;
}

/* After the loss of step t: where t is one of the update steps, the coefficient is scaled so that
   the penalty keeps its size under the next p, and p moves on. */
static sae_result saei_anneal_update(sae_trainer *t, uint64_t step) {
    const sae_trainer_desc *h = &t->desc;
    uint64_t count = saei_anneal_count(h), at = (uint64_t)t->now.p_updates;
    bool due = false;
    if (at >= count || step < saei_anneal_step(h, count, at)) return SAE_OK;
    /* the steps ascend, so only those from `at` back to equal ones can be this step */
    for (uint64_t i = at; i < count && !due && saei_anneal_step(h, count, i) <= step; i++)
        due = saei_anneal_step(h, count, i) == step;
    for (uint64_t i = at; i-- > 0 && !due && saei_anneal_step(h, count, i) >= step; )
        due = saei_anneal_step(h, count, i) == step;
    if (!due) return SAE_OK;
    SAEI_TRY(saei_trainer_check(t, true)); /* the queue holds this step's penalty */
    if (t->now.next_p >= 0 && t->now.queue_size > 0) {
        size_t length = h->sparsity_queue_length;
        size_t used = saei_min(length, (size_t)t->now.queue_size);
        double sums[2];
        for (size_t half = 0; half < 2; half++) {
            sums[half] = 0;
            for (size_t i = 0; i < used; i++) {
                double v;
                t->ops->download(&t->w, &v, t->queue + half * length + i, sizeof v);
                sums[half] += v;
            }
        }
        t->now.sparsity_coeff *= (double)(float)(sums[0] / sums[1]);
    }
    t->now.p = (double)saei_anneal_p(h, count, at);
    t->now.next_p = at + 1 < count ? (double)saei_anneal_p(h, count, at + 1) : h->p_end;
    t->now.p_updates += 1;
    return SAE_OK;
}

/* After steps with t mod resample_steps == 0; the annealers: == resample_steps - 1.
   DEVIATION: the reference's annealers write into a copy, so nothing changes there; GATED_ANNEAL's
   fails. Here all do what STANDARD does, with all three vectors of a gated latent set to 0. */
static void saei_resample(sae_trainer *t, uint64_t step) {
    uint64_t every = saei_steps_of(t->desc.resample_steps);
    bool gated = t->desc.arch == SAE_ARCH_GATED;
    size_t m = t->desc.dict_size, biases = gated ? 3 : 1;
    float *enc[3], *dec[3], *bias[3][3];
    if (!every || step % every != (saei_has_trait(t, SAEI_ANNEALED) ? every - 1 : 0)) return;
    t->ops->count_nonzero(&t->w, &t->code, t->scalars + SAEI_S_NONZERO);
    t->l0_known = true;
    if (saei_subtracts(&t->view.desc))
        t->ops->subtract(&t->w, t->x, t->param.b_dec, t->n, t->xc);
    if (gated) {
        saei_encode_batch(t, SAE_SELECT_GATE, 0, &t->code, false);
        t->ops->gate(&t->w, t->param.b_enc, t->param.aux0, t->param.aux1, &t->code);
    } else saei_encode_batch(t, SAE_SELECT_POSITIVE, 0, &t->code, false);
    t->ops->decode(&t->w, &t->code, t->code.value, t->param.W_dec, 0, m, t->param.b_dec, 0, t->r);
    t->ops->residual(&t->w, t->r, t->y, t->n, t->r, t->scalars + SAEI_S_SCRATCH);
    for (int i = 0; i < 3; i++) {
        const saei_params *p = i == 0 ? &t->param : i == 1 ? &t->first : &t->second;
        enc[i] = p->W_enc;
        dec[i] = p->W_dec;
        bias[0][i] = p->b_enc;
        bias[1][i] = p->aux0;
        bias[2][i] = p->aux1;
    }
    saei_catch_up(t, NULL);
    t->ops->resample(&t->w, t->x, t->r, t->n, t->since, every / 2, m, t->desc.seed, step, enc, dec,
                     (float *const(*)[3])bias, biases);
}

/* k after the update of step t: from d down to the target over k_anneal_steps. */
static void saei_anneal_k(sae_trainer *t, uint64_t step) {
    uint64_t over = saei_steps_of(t->desc.k_anneal_steps);
    double r;
    if (!over) return;
    r = (double)(step < over ? step : over) / (double)over;
    t->now.k = floor((double)t->desc.activation_dim * (1 - r) + (double)t->desc.k * r);
    if (t->now.k > (double)t->desc.dict_size) t->now.k = (double)t->desc.dict_size;
}

static sae_result saei_trainer_load(sae_trainer *t, const sae_rows *x, const sae_rows *target,
                                    size_t n, float divisor) {
    const uint64_t step = (uint64_t)t->now.step;
    uint32_t bad = 0;
    t->ops->zero(&t->w, t->bad, sizeof bad);
    t->ops->load_rows(&t->w, x, n, divisor, t->x, t->bad);
    if (target) t->ops->load_rows(&t->w, target, n, divisor, t->target, t->bad);
    if (t->ops->guard) t->ops->guard(&t->w, t->bad, step);
    else {
        t->ops->download(&t->w, &bad, t->bad, sizeof bad);
        SAEI_TRY(t->ops->status(&t->w));
    }
    if (bad) t->n = 0; /* the last batch is overwritten: no stats of it */
    if (bad) return saei_bad_batch(t, step);
    t->past[step % SAEI_STEPS_AHEAD] = t->now;
    t->n = n;
    t->y = target ? t->target : t->x;
    return SAE_OK;
}

static sae_result saei_rows_check(const sae_context *ctx, const char *who, const sae_rows *rows,
                                  const char *name, size_t d) {
    if (!rows->data) return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s is NULL", who, name);
    if (rows->dtype && rows->dtype != SAE_F32 && rows->dtype != SAE_F16 && rows->dtype != SAE_BF16)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s.dtype is %s, allowed are F32, F16, BF16",
                         who, name, sae_dtype_name(rows->dtype));
    if (rows->stride && rows->stride < d)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: %s.stride is %zu, allowed are 0 and %zu or more", who, name,
                         rows->stride, d);
    return SAE_OK;
}

/* sae_trainer_step_rows; every input is divided by divisor. */
static sae_result saei_trainer_step_rows(sae_trainer *t, const sae_rows *x, const sae_rows *target,
                                         size_t n, float divisor) {
    uint64_t step;
    if (!t) return SAE_ERR_INVALID;
    if (!x) return saei_fail(t->ctx, SAE_ERR_INVALID, "sae_trainer_step: x is NULL");
    SAEI_TRY(saei_rows_check(t->ctx, "sae_trainer_step", x, "x", t->desc.activation_dim));
    if (target)
        SAEI_TRY(saei_rows_check(t->ctx, "sae_trainer_step", target, "target",
                                 t->desc.activation_dim));
    if (!n || n > t->desc.batch_size)
        return saei_fail(t->ctx, SAE_ERR_INVALID,
                         "sae_trainer_step: n is %zu rows, allowed are 1 to "
                         "batch_size, %zu",
                         n, t->desc.batch_size);
    if (t->ops->tripped) SAEI_TRY(saei_trainer_check(t, false));
    SAEI_TRY(saei_trainer_load(t, x, target, n, divisor));
    step = (uint64_t)t->now.step;
    t->scale = sae_sparsity_factor(&t->schedule, step);
    t->coef = t->now.sparsity_coeff;
    t->used_k = t->now.k;
    t->penalty = t->scalars + SAEI_S_SPARSITY;
    t->l0_known = false;
    if (t->ops->begin_step) t->ops->begin_step(&t->w);
    if (saei_has_trait(t, SAEI_TOP_K) && step == 0)
        t->ops->geometric_median(&t->w, t->x, n, t->param.b_dec);
    if (saei_subtracts(&t->view.desc)) t->ops->subtract(&t->w, t->x, t->param.b_dec, n, t->xc);
    t->scheme->gradients(t);
    saei_trainer_update(t, step);
    saei_resample(t, step);
    if (t->ops->end_step) t->ops->end_step(&t->w);
    SAEI_TRY(saei_trainer_check(t, false));
    if (saei_has_trait(t, SAEI_ANNEALED)) SAEI_TRY(saei_anneal_update(t, step));
    saei_anneal_k(t, step);
    t->now.step += 1;
    t->now.rows_seen += (double)n;
    return SAE_OK;
}

SAE_API sae_result sae_trainer_step(sae_trainer *t, const float *x, const float *target, size_t n) {
    sae_rows rows[2];
    memset(rows, 0, sizeof rows);
    rows[0].data = x;
    rows[1].data = target;
    return saei_trainer_step_rows(t, rows, target ? rows + 1 : NULL, n, 1);
}

SAE_API sae_result sae_trainer_step_rows(sae_trainer *t, const sae_rows *x, const sae_rows *target,
                                         size_t n) {
    return saei_trainer_step_rows(t, x, target, n, 1);
}

/* ==== >>trainer: statistics ============================================ src/train/stats.h ==== */

static float saei_trainer_threshold(const sae_trainer *t) {
    float threshold;
    t->ops->download(&t->w, &threshold, t->threshold, sizeof threshold);
    return threshold;
}

SAE_API const sae_dictionary *sae_trainer_dictionary(sae_trainer *t) {
    saei_catch_up(t, NULL);
    if (!t->ops->host_memory)
        t->ops->download(&t->w, t->view.params, t->param.all, t->view.num_params * sizeof(float));
    if (saei_has_trait(t, SAEI_TOP_K)) {
        t->view.threshold = saei_trainer_threshold(t);
        t->view.desc.k = t->view.origin.k = (size_t)t->now.k;
    }
    return &t->view;
}

SAE_API const sae_trainer_desc *sae_trainer_get_desc(const sae_trainer *t) {
    return t ? &t->desc : NULL;
}
SAE_API uint64_t sae_trainer_steps_done(const sae_trainer *t) { return (uint64_t)t->now.step; }

SAE_API sae_result sae_trainer_stats(sae_trainer *t, sae_stats *out) {
    sae_stats s;
    double v[SAEI_S_COUNT], variance, total;
    uint32_t silent = 0;
    double *field = &s.loss; /* all but step are doubles */
    if (!t) return SAE_ERR_INVALID;
    if (!out) return saei_fail(t->ctx, SAE_ERR_INVALID, "sae_trainer_stats: out is NULL");
    SAEI_TRY(saei_trainer_check(t, true));
    for (size_t i = 0; i < (sizeof s - offsetof(sae_stats, loss)) / sizeof(double); i++)
        field[i] = NAN;
    s.step = (uint64_t)t->now.step - (t->now.step > 0);
    if (t->n) {
        if (!t->l0_known) t->ops->count_nonzero(&t->w, &t->code, t->scalars + SAEI_S_NONZERO);
        t->l0_known = true;
        t->ops->download(&t->w, v, t->scalars, sizeof v);
        t->ops->download(&t->w, &s.sparsity_loss, t->penalty, sizeof(double));
        t->ops->download(&t->w, &silent, t->list_count, sizeof silent);
        s.l2_loss = v[SAEI_S_L2];
        s.loss = t->scheme->loss(t, v, &s);
        s.l0 = v[SAEI_S_NONZERO];
        t->ops->variance(&t->w, t->y, t->n, t->scalars + SAEI_S_SCRATCH);
        t->ops->download(&t->w, &total, t->scalars + SAEI_S_SCRATCH, sizeof total);
        t->ops->variance(&t->w, t->e, t->n, t->scalars + SAEI_S_SCRATCH);
        t->ops->download(&t->w, &variance, t->scalars + SAEI_S_SCRATCH, sizeof variance);
        s.frac_variance_explained = 1 - variance / total;
        t->ops->sum_squares(&t->w, t->grad.all, t->view.num_params, t->scalars + SAEI_S_SQUARES);
        t->ops->download(&t->w, &total, t->scalars + SAEI_S_SQUARES, sizeof total);
        s.grad_norm = sqrt(total);
        s.lr = t->lr;
        if (saei_has_trait(t, SAEI_DEAD)) s.dead_features = silent;
        if (t->desc.ghost_threshold != SAE_NONE) s.ghosts = silent;
    }
    if (saei_has_trait(t, SAEI_TOP_K)) s.threshold = (double)saei_trainer_threshold(t);
    if (saei_has_trait(t, SAEI_ANNEALED)) {
        s.p = t->now.p;
        s.next_p = t->now.next_p >= 0 ? t->now.next_p : NAN;
        s.sparsity_coeff = t->now.sparsity_coeff;
    }
    SAEI_TRY(t->ops->status(&t->w));
    *out = s;
    return SAE_OK;
}

/* ==== >>trainer: state for a resume ==================================== src/train/state.h ==== */

typedef struct saei_state_item {
    const char *name;
    sae_dtype dtype;
    void *device;
    size_t count;
} saei_state_item;

enum { SAEI_STATE_ITEMS = 6 };

static void saei_state_items(const sae_trainer *t, saei_state_item items[SAEI_STATE_ITEMS]) {
    const char *names[SAEI_STATE_ITEMS] = { "params", "first", "second",
                                            "since",  "queue", "threshold" };
    void *devices[SAEI_STATE_ITEMS];
    devices[0] = t->param.all;
    devices[1] = t->first.all;
    devices[2] = t->second.all;
    devices[3] = t->since;
    devices[4] = t->queue;
    devices[5] = t->threshold;
    for (size_t i = 0; i < SAEI_STATE_ITEMS; i++) {
        items[i].name = names[i];
        items[i].device = devices[i];
        items[i].dtype = i == 3 ? SAE_U64 : i == 4 ? SAE_F64 : SAE_F32;
        items[i].count = i < 3 ? t->view.num_params : i == 3 ? t->desc.dict_size
                         : i == 4 ? 2 * t->desc.sparsity_queue_length : 1;
    }
}

/* Everything a resume needs but the desc, as tensors named prefix + name; their memory belongs to
   the trainer and is valid until its next call. At most SAEI_STATE_TENSORS. */
enum { SAEI_STATE_TENSORS = 16 };
static sae_result saei_trainer_state_get(sae_trainer *t, const char *who, sae_tensor *out,
                                         size_t *count) {
    saei_state_item items[SAEI_STATE_ITEMS];
    size_t used = 0;
    SAEI_TRY(saei_trainer_check(t, true));
    saei_catch_up(t, NULL);
    saei_state_items(t, items);
    for (size_t i = 0; i <= SAEI_STATE_ITEMS; i++) {
        bool numbers = i == SAEI_STATE_ITEMS;
        sae_tensor *tensor = &out[used];
        if (!numbers && !items[i].device) continue; /* no first moment */
        memset(tensor, 0, sizeof *tensor);
        tensor->name = numbers ? "numbers" : items[i].name;
        tensor->dtype = numbers ? SAE_F64 : items[i].dtype;
        tensor->ndim = 1;
        tensor->shape[0] = numbers ? sizeof t->now / sizeof(double) : items[i].count;
        tensor->stride[0] = 1;
        tensor->data = numbers ? (const void *)&t->now : items[i].device;
        used++;
        if (numbers || t->ops->host_memory) continue;
        if (!t->host[i + 1])
            t->host[i + 1] = saei_alloc(t->ctx, items[i].count, sae_dtype_size(items[i].dtype));
        if (!t->host[i + 1])
            return saei_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for a backup", who);
        t->ops->download(&t->w, t->host[i + 1], items[i].device,
                         items[i].count * sae_dtype_size(items[i].dtype));
        tensor->data = t->host[i + 1];
    }
    *count = used;
    return t->ops->status(&t->w);
}

/* Whether the numbers of a backup can be those of a run of t: what is cast to an integer or bounds
   a list must be one. */
static bool saei_numbers_fit(const sae_trainer *t, const saei_trainer_numbers *now) {
    const double most = 9007199254740992.0; /* 2^53 */
    const double whole[] = { now->step, now->rows_seen, now->k, now->p_updates, now->queue_size };
    bool top_k = saei_has_trait(t, SAEI_TOP_K);
    size_t most_k = saei_has_trait(t, SAEI_EACH_ROW) ? t->code.stride : t->desc.dict_size;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (!(whole[i] >= 0 && whole[i] <= most) || whole[i] != floor(whole[i])) return false;
    if (now->step > (double)t->desc.steps || now->p_updates > now->step) return false;
    if (top_k && (now->k < 1 || now->k > (double)most_k)) return false;
    return fabs(now->p) <= FLT_MAX && fabs(now->next_p) <= FLT_MAX
           && fabs(now->sparsity_coeff) <= DBL_MAX;
}

static sae_result saei_trainer_state_set(sae_trainer *t, const char *who,
                                         const sae_tensor_file *file, const char *prefix) {
    saei_trainer_numbers now;
    saei_state_item items[SAEI_STATE_ITEMS];
    saei_catch_up(t, NULL); /* before what is deferred is replaced */
    saei_state_items(t, items);
    for (int pass = 0; pass < 2; pass++) /* look at everything before touching anything */
        for (size_t i = 0; i <= SAEI_STATE_ITEMS; i++) {
            bool numbers = i == SAEI_STATE_ITEMS;
            sae_dtype dtype = numbers ? SAE_F64 : items[i].dtype;
            size_t count = numbers ? sizeof t->now / sizeof(double) : items[i].count;
            const sae_tensor *tensor;
            char name[256];
            if (!numbers && !items[i].device) continue;
            snprintf(name, sizeof name, "%s%s", prefix, numbers ? "numbers" : items[i].name);
            tensor = sae_tensor_file_find(file, name);
            if (!tensor || tensor->dtype != dtype || tensor->ndim != 1 || tensor->shape[0] != count)
                return saei_fail(t->ctx, SAE_ERR_FORMAT,
                                 "%s: the backup lacks %s [%zu] of %s", who, name, count,
                                 sae_dtype_name(dtype));
            if (numbers) {
                memcpy(&now, tensor->data, sizeof now);
                if (!saei_numbers_fit(t, &now))
                    return saei_fail(t->ctx, SAE_ERR_FORMAT, "%s: %s in the backup holds "
                                     "numbers that no run has", who, name);
            }
            if (!pass) continue;
            if (numbers) t->now = now;
            else
                t->ops->upload(&t->w, items[i].device, tensor->data, count * sae_dtype_size(dtype));
        }
    return t->ops->status(&t->w);
}

/* ==== >>session ====================================================== src/train/session.h ==== */

struct sae_session {
    sae_context *ctx;
    const sae_backend *ops;
    sae_work w;
    saei_blocks blocks;
    bool jump; /* of what was selected, f = p > theta ? p : 0 */
    sae_select select;
    sae_dictionary dict; /* its parameters are on the device */
    sae_code code;
    float *params, *x, *xc, *x_hat, *theta, *warm;
    uint32_t *bad, *count; /* count: host [batch] */
    float *rows;           /* host [batch][ld] */
};

SAE_API void sae_session_destroy(sae_session *s) {
    if (!s) return;
    saei_blocks_close(&s->w, &s->blocks);
    saei_free(s->ctx, s->count);
    saei_free(s->ctx, s->rows);
    saei_free(s->ctx, s);
}

/* count * size bytes of the context's allocator; in a plan they are only counted. */
static bool saei_session_host(sae_session *s, size_t count, size_t size, void **out) {
    size_t bytes;
    if (!saei_mul(count, size, &bytes) || !saei_blocks_host(&s->blocks, bytes)) return false;
    if (!s->blocks.plan) *out = saei_alloc(s->ctx, bytes, 1);
    return s->blocks.plan || *out;
}

static bool saei_session_take(sae_session *s) {
    sae_work *w = &s->w;
    saei_blocks *b = &s->blocks;
    size_t batch = w->shape.batch, ld = w->shape.ld, m = saei_align16(w->shape.dict_size);
    size_t rows, entries, scratch = s->ops->scratch_bytes(w, &w->shape);
    bool gated = s->select == SAE_SELECT_GATE;
    void *count = NULL, *host = NULL;
    bool ok;
    s->code.stride = s->select == SAE_SELECT_TOP_K ? s->dict.desc.k : s->dict.desc.dict_size;
    if (scratch == SIZE_MAX || !saei_mul(batch, ld, &rows)
        || !saei_mul(batch, s->code.stride, &entries)
        || !saei_add(entries, SAEI_LIST_PADDING, &entries))
        return false;
    w->scratch = saei_blocks_take(w, b, scratch, 1);
    s->params = saei_floats(w, b, s->dict.num_params);
    s->x = saei_floats(w, b, rows);
    s->xc = saei_floats(w, b, rows);
    s->x_hat = saei_floats(w, b, rows);
    s->theta = saei_floats(w, b, m);
    s->warm = saei_floats(w, b, 1);
    s->bad = (uint32_t *)saei_blocks_take(w, b, 1, sizeof(uint32_t));
    s->code.count = (uint32_t *)saei_blocks_take(w, b, batch, sizeof(uint32_t));
    s->code.latent = (uint32_t *)saei_blocks_take(w, b, entries, sizeof(uint32_t));
    s->code.pre = s->code.value = saei_floats(w, b, entries);
    if (s->jump || gated) s->code.value = saei_floats(w, b, entries);
    if (gated) s->code.gate = saei_floats(w, b, entries);
    ok = saei_session_host(s, batch, sizeof(uint32_t), &count)
         && saei_session_host(s, rows, sizeof(float), &host);
    s->count = (uint32_t *)count;
    s->rows = (float *)host;
    return ok && w->scratch && s->params && s->x && s->xc && s->x_hat && s->theta && s->warm
           && s->bad && s->code.count && s->code.latent && s->code.pre && s->code.value
           && (!gated || s->code.gate);
}

/* Which operation chooses the latents as the dictionary does. */
static void saei_session_choose(sae_session *s, const sae_dictionary *dict, float *theta) {
    s->select = SAE_SELECT_POSITIVE;
    if (dict->desc.arch == SAE_ARCH_GATED) s->select = SAE_SELECT_GATE;
    if (dict->rule == SAE_RULE_TOP_K)
        s->select = dict->desc.arch == SAE_ARCH_TOP_K ? SAE_SELECT_TOP_K : SAE_SELECT_BATCH_TOP_K;
    s->jump = dict->desc.arch == SAE_ARCH_JUMP_RELU
              || (dict->rule == SAE_RULE_THRESHOLD && !(dict->threshold <= 0));
    if (!s->jump) return;
    s->select = SAE_SELECT_WINDOW; /* so narrow a window that only p = theta is added */
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        theta[i] = dict->aux0 && dict->desc.arch == SAE_ARCH_JUMP_RELU ? dict->aux0[i]
                                                                       : dict->threshold;
        if (theta[i] < 0) theta[i] = 0; /* f > 0 whatever theta */
    }
}

/* A session with its memory, or the plan of one, which can only be destroyed. theta: room for
   [m], see saei_session_choose. */
static sae_result saei_session_make(const sae_dictionary *dict, const char *who, size_t batch_size,
                                    bool plan, float *theta, sae_session **out) {
    sae_context *ctx = dict->ctx;
    sae_session *s = (sae_session *)saei_calloc(ctx, 1, sizeof *s);
    sae_result result;
    if (!s) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for a session", who);
    s->ctx = ctx;
    s->ops = saei_backend_of(ctx);
    s->dict = *dict;
    s->w.ctx = ctx;
    s->w.shape.batch = batch_size;
    s->w.shape.d = dict->desc.activation_dim;
    s->w.shape.ld = dict->ld;
    s->w.shape.dict_size = dict->desc.dict_size;
    saei_session_choose(s, dict, theta);
    s->w.shape.k = s->select == SAE_SELECT_TOP_K ? dict->desc.k : 0;
    s->blocks.plan = plan;
    result = saei_blocks_open(&s->w, who, &s->blocks);
    if (result == SAE_OK
        && (!saei_blocks_host(&s->blocks, sizeof *s) || !saei_session_take(s)))
        result = saei_blocks_fail(&s->w, who, "for");
    if (result == SAE_OK) *out = s;
    else sae_session_destroy(s);
    return result;
}

static sae_result saei_session_open(const sae_dictionary *dict, const char *who, size_t batch_size,
                                    bool plan, const void *given, sae_session **out) {
    sae_context *ctx = dict->ctx;
    sae_session *s = NULL;
    float *theta;
    sae_result result;
    if (!given || !batch_size || batch_size > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: batch_size is %zu (or out is NULL), allowed "
                         "are 1 to %d", who, batch_size, INT32_MAX);
    if (dict->desc.arch == SAE_ARCH_IDENTITY || !saei_is_plain(&dict->desc)
        || saei_active_latents(dict) != dict->desc.dict_size)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: dict is %s%s, allowed are the other "
                         "classes without variations, all groups active", who,
                         sae_arch_name(dict->desc.arch),
                         dict->desc.arch == SAE_ARCH_IDENTITY
                             ? "" : " with variations or inactive groups");
    theta = (float *)saei_calloc(ctx, saei_align16(dict->desc.dict_size), sizeof(float));
    if (!theta) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for thresholds", who);
    result = saei_session_make(dict, who, batch_size, plan, theta, &s);
    if (result == SAE_OK && !plan) {
        s->ops->upload(&s->w, s->params, dict->params, dict->num_params * sizeof(float));
        s->ops->upload(&s->w, s->theta, theta, dict->desc.dict_size * sizeof(float));
        saei_dictionary_place(&s->dict, s->params);
        result = s->ops->status(&s->w);
        if (result != SAE_OK) sae_session_destroy(s);
    }
    saei_free(ctx, theta);
    if (result == SAE_OK) *out = s;
    return result;
}

SAE_API sae_result sae_session_create(const sae_dictionary *dict, size_t batch_size,
                                      sae_session **out) {
    if (!dict) return SAE_ERR_INVALID;
    return saei_session_open(dict, "sae_session_create", batch_size, false, out, out);
}

SAE_API sae_result sae_session_memory(const sae_dictionary *dict, size_t batch_size,
                                      sae_memory *out) {
    sae_session *s = NULL;
    if (!dict) return SAE_ERR_INVALID;
    SAEI_TRY(saei_session_open(dict, "sae_session_memory", batch_size, true, out, &s));
    *out = s->blocks.memory;
    sae_session_destroy(s);
    return SAE_OK;
}

/* x to the device, and its code there. */
static sae_result saei_session_run(sae_session *s, const char *who, const sae_rows *x, size_t n) {
    sae_encode_args a;
    const sae_dictionary *dict = &s->dict;
    bool centred = saei_subtracts(&dict->desc);
    uint32_t bad = 0;
    if (n > s->w.shape.batch)
        return saei_fail(s->ctx, SAE_ERR_INVALID,
                         "%s: n is %zu rows, allowed are 0 to batch_size, %zu", who, n,
                         s->w.shape.batch);
    SAEI_TRY(saei_rows_check(s->ctx, who, x, "x", s->w.shape.d));
    s->ops->zero(&s->w, s->bad, sizeof bad);
    s->ops->load_rows(&s->w, x, n, 1, s->x, s->bad);
    if (centred) s->ops->subtract(&s->w, s->x, dict->b_dec, n, s->xc);
    a = saei_encode_args_of(dict, s->select, centred ? s->xc : s->x, n);
    a.theta = s->jump ? s->theta : NULL;
    a.bandwidth = 1e-30f;
    a.warm = s->warm;
    s->ops->encode(&s->w, &a, &s->code);
    if (s->jump) s->ops->jump(&s->w, s->theta, &s->code);
    if (s->select == SAE_SELECT_GATE)
        s->ops->gate(&s->w, dict->b_enc, dict->aux0, dict->aux1, &s->code);
    s->ops->download(&s->w, &bad, s->bad, sizeof bad);
    SAEI_TRY(s->ops->status(&s->w));
    if (bad)
        return saei_fail(s->ctx, SAE_ERR_NOT_FINITE,
                         "%s: x holds NaN or infinity, all values must be finite", who);
    return SAE_OK;
}

SAE_API sae_result sae_session_encode(sae_session *s, const sae_rows *x, size_t n,
                                      sae_sparse *out) {
    const char *missing = x ? saei_sparse_missing(out) : "x";
    size_t at = 0, kept = 0, total = 0;
    if (!s) return SAE_ERR_INVALID;
    if (n && missing)
        return saei_fail(s->ctx, SAE_ERR_INVALID, "sae_session_encode: %s is NULL", missing);
    if (out && out->row_begin) out->row_begin[0] = 0;
    if (!n) return SAE_OK;
    SAEI_TRY(saei_session_run(s, "sae_session_encode", x, n));
    s->ops->download(&s->w, s->count, s->code.count, n * sizeof *s->count);
    SAEI_TRY(s->ops->status(&s->w));
    for (size_t r = 0; r < n; r++) total += s->count[r];
    if (total > out->capacity)
        return saei_fail(s->ctx, SAE_ERR_INVALID,
                         "sae_session_encode: capacity is %zu, %zu are needed", out->capacity,
                         total);
    for (size_t r = 0; r < n; ) { /* rows that lie together come together */
        size_t first = r, count = s->count[r++];
        while (r < n && s->count[r - 1] == s->code.stride) count += s->count[r++];
        s->ops->download(&s->w, out->latent + at, s->code.latent + first * s->code.stride,
                         count * sizeof *out->latent);
        s->ops->download(&s->w, out->value + at, s->code.value + first * s->code.stride,
                         count * sizeof *out->value);
        at += count;
    }
    SAEI_TRY(s->ops->status(&s->w));
    at = 0;
    for (size_t r = 0; r < n; r++) { /* zeros are not listed */
        for (size_t j = 0; j < s->count[r]; j++, at++)
            if (out->value[at] != 0) {
                out->latent[kept] = out->latent[at];
                out->value[kept++] = out->value[at];
            }
        out->row_begin[r + 1] = kept;
    }
    return SAE_OK;
}

SAE_API sae_result sae_session_forward(sae_session *s, const sae_rows *x, size_t n, float *x_hat) {
    size_t d, ld;
    if (!s) return SAE_ERR_INVALID;
    if (!n) return SAE_OK;
    if (!x || !x_hat)
        return saei_fail(s->ctx, SAE_ERR_INVALID, "sae_session_forward: %s is NULL",
                         x ? "x_hat" : "x");
    SAEI_TRY(saei_session_run(s, "sae_session_forward", x, n));
    d = s->w.shape.d;
    ld = s->w.shape.ld;
    s->ops->decode(&s->w, &s->code, s->code.value, s->dict.W_dec, 0, s->w.shape.dict_size,
                   s->dict.b_dec, 0, s->x_hat);
    s->ops->download(&s->w, d == ld ? x_hat : s->rows, s->x_hat, n * ld * sizeof *x_hat);
    for (size_t r = 0; d != ld && r < n; r++)
        memcpy(x_hat + r * d, s->rows + r * ld, d * sizeof *x_hat);
    return s->ops->status(&s->w);
}

/* ==== >>trainer: hyperparameters by name ================================= src/train/set.h ==== */

static const saei_field *saei_field_find(const char *name, size_t length) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const char *s = saei_fields[i].key;
        if (strlen(s) == length && !strncmp(s, name, length)) return &saei_fields[i];
    }
    return NULL;
}

/* A value as text. list: an array or object of a config file (text is then what to call it). */
typedef struct saei_value {
    const char *text;
    const sae_json *list;
    bool none;
} saei_value;

/* Where a value stands, for messages. */
typedef struct saei_setter {
    const sae_context *ctx;
    const char *who, *path; /* path may be NULL */
} saei_setter;

static sae_result saei_set_refuse(const saei_setter *s, const saei_field *f, saei_value v,
                                  const char *allowed) {
    char quoted[SAEI_QUOTE];
    return saei_fail(s->ctx, SAE_ERR_INVALID, "%s: %s%s%s is %s, allowed is %s", s->who,
                     s->path ? s->path : "", s->path ? ": " : "", f->key,
                     *v.text ? saei_quote(v.text, quoted) : "empty", allowed);
}
static sae_result saei_set_fail(const saei_setter *s, const saei_field *f, saei_value v) {
    return saei_set_refuse(s, f, v, saei_allowed(f));
}

static bool saei_is_none(const char *text) {
    return !strcmp(text, "none") || !strcmp(text, "None") || !strcmp(text, "null");
}

/* Digits, or a number such as 1e5 that is whole. */
static bool saei_text_whole(const char *text, uint64_t *out) {
    uint64_t v = 0;
    double x;
    size_t i;
    for (i = 0; text[i] >= '0' && text[i] <= '9'; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (v > (UINT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    if (!i || text[i]) {
        if (!saei_text_number(text, strlen(text), &x)) return false;
        if (x < 0 || x > 9007199254740992.0 || x != floor(x)) return false;
        v = (uint64_t)x;
    }
    *out = v;
    return true;
}

static sae_result saei_set_whole(const saei_setter *s, const saei_field *f, saei_value v,
                                 uint64_t *out) {
    uint64_t limit = f->type == SAEI_FIELD_SIZE   ? (uint64_t)INT32_MAX
                     : f->offset == SAEI_AT(seed) ? UINT64_MAX
                                                  : SAE_NONE - 1;
    uint64_t x = 0;
    saei_meaning meaning = v.none ? f->null : SAEI_LITERAL;
    if ((f->flags & SAEI_CONTINUOUS) && strcmp(v.text, "continuous") == 0) {
        *out = SAE_NONE;
        return SAE_OK;
    }
    if (!v.none && (v.list || !saei_text_whole(v.text, &x) || x > limit)) meaning = SAEI_REFUSED;
    else if (!v.none && !x) meaning = f->zero;
    if (meaning == SAEI_REFUSED) return saei_set_fail(s, f, v);
    *out = meaning == SAEI_OFF ? SAE_NONE : x;
    return SAE_OK;
}

static sae_result saei_set_real(const saei_setter *s, const saei_field *f, saei_value v,
                                double *out) {
    double x = 0;
    if (!v.none
        && (v.list || !saei_text_number(v.text, strlen(v.text), &x) || x < 0
            || (x == 0 && f->zero == SAEI_REFUSED) || (x > 1 && (f->flags & SAEI_SHARE))))
        return saei_set_fail(s, f, v);
    *out = v.none ? 0 : x == 0 && f->zero == SAEI_OFF ? -1 : x;
    return SAE_OK;
}

/* Numbers of a list, in a config file or between commas. */
static sae_result saei_set_numbers(const saei_setter *s, const saei_field *f, saei_value v,
                                   double *out, size_t *count) {
    const sae_json *c = v.list ? v.list->child : NULL;
    const char *at = v.text;
    *count = 0;
    if (v.list && v.list->type != SAE_JSON_ARRAY) return saei_set_fail(s, f, v);
    while (v.list ? c != NULL : at != NULL) {
        size_t n = v.list ? 0 : strcspn(at, ",");
        double x = v.list ? c->number : 0;
        if (*count == SAE_MAX_GROUPS) return saei_set_fail(s, f, v);
        if (v.list ? c->type != SAE_JSON_NUMBER : !saei_text_number(at, n, &x))
            return saei_set_fail(s, f, v);
        if (!(x > 0 && x <= DBL_MAX)) return saei_set_fail(s, f, v);
        out[(*count)++] = x;
        if (v.list) c = c->next;
        else at = at[n] ? at + n + 1 : NULL;
    }
    return *count ? SAE_OK : saei_set_fail(s, f, v);
}

/* The fractions from which sizes come back as (size_t)(fraction * sum); the last is the rest. */
static bool saei_fractions(const double *sizes, size_t count, double *out) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] != floor(sizes[i])) return false;
        sum += sizes[i];
    }
    if (sum > 9007199254740992.0) return false;
    for (size_t i = 0; i < count; i++) {
        out[i] = sizes[i] / sum;
        if (floor(out[i] * sum) < sizes[i]) out[i] += out[i] * DBL_EPSILON;
    }
    return true;
}

static sae_result saei_set_list(const saei_setter *s, const saei_field *f, saei_value v,
                                sae_trainer_desc *desc) {
    double list[SAE_MAX_GROUPS];
    size_t count = 0;
    bool weights = f->offset == SAEI_AT(group_weights);
    memset(list, 0, sizeof list);
    if (!v.none) SAEI_TRY(saei_set_numbers(s, f, v, list, &count));
    if (f->type == SAEI_FIELD_GROUP_SIZES) {
        if (!count) return SAE_OK;
        if (!saei_fractions(list, count, list))
            return saei_set_fail(s, f, v);
    }
    if (weights) {
        if (count && desc->group_fractions[0] > 0 && count != desc->num_groups)
            return saei_set_refuse(s, f, v, "as many numbers as group_fractions has");
        memcpy(desc->group_weights, list, sizeof list);
        if (count) desc->num_groups = count;
        return SAE_OK;
    }
    if (count != desc->num_groups) memset(desc->group_weights, 0, sizeof desc->group_weights);
    memcpy(desc->group_fractions, list, sizeof list);
    desc->num_groups = count;
    return SAE_OK;
}

/* Names: of trainers, classes, losses; and the texts. */
static sae_result saei_set_name(const saei_setter *s, const saei_field *f, saei_value v,
                                sae_trainer_desc *desc, void *at) {
    sae_trainer_kind kind;
    sae_arch arch;
    bool none = v.none;
    if (v.list) return saei_set_fail(s, f, v);
    switch (f->type) {
    case SAEI_FIELD_KIND:
        if (!saei_trainer_find(v.text, true, &kind)) return saei_set_fail(s, f, v);
        desc->kind = kind;
        return SAE_OK;
    case SAEI_FIELD_ARCH:
        arch = saei_arch_from_name(v.text);
        if (!arch && !none) return saei_set_fail(s, f, v);
        desc->arch = arch;
        return SAE_OK;
    case SAEI_FIELD_SPARSITY:
        for (int i = 0; i <= (int)SAE_SPARSITY_LP_P; i++) {
            if (i ? strcmp(v.text, saei_sparsity_names[i - 1]) != 0 : !none) continue;
            desc->sparsity_function = (sae_sparsity_function)i;
            return SAE_OK;
        }
        return saei_set_fail(s, f, v);
    case SAEI_FIELD_NORM:
        if (!none && strcmp(v.text, "norm") && strcmp(v.text, "mse"))
            return saei_set_fail(s, f, v);
        desc->reconstruction_norm = !strcmp(v.text, "norm");
        return SAE_OK;
    default:
        *(const char **)at = none ? NULL : v.text;
        return SAE_OK;
    }
}

/* One field from one value; desc is changed only if that succeeds. */
static sae_result saei_field_set(const saei_setter *s, sae_trainer_desc *desc, const saei_field *f,
                                 saei_value v) {
    void *at = (char *)desc + saei_field_offset(f, desc->kind);
    uint64_t whole;
    double x;
    switch (f->type) {
    case SAEI_FIELD_SIZE:
        SAEI_TRY(saei_set_whole(s, f, v, &whole));
        *(size_t *)at = (size_t)whole;
        return SAE_OK;
    case SAEI_FIELD_STEPS: return saei_set_whole(s, f, v, (uint64_t *)at);
    case SAEI_FIELD_REAL: return saei_set_real(s, f, v, (double *)at);
    case SAEI_FIELD_LIST:
    case SAEI_FIELD_GROUP_SIZES: return saei_set_list(s, f, v, desc);
    case SAEI_FIELD_INTEGER:
        x = 0;
        if (!v.none
            && (v.list || !saei_text_number(v.text, strlen(v.text), &x) || x != floor(x)
                || fabs(x) > 9007199254740992.0))
            return saei_set_fail(s, f, v);
        *(int64_t *)at = (int64_t)x;
        return SAE_OK;
    case SAEI_FIELD_NOTHING: return SAE_OK;
    case SAEI_FIELD_KIND:
    case SAEI_FIELD_ARCH:
    case SAEI_FIELD_SPARSITY:
    case SAEI_FIELD_NORM:
    case SAEI_FIELD_TEXT: break;
    }
    return saei_set_name(s, f, v, desc, at);
}

SAE_API size_t sae_edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[3][64];
    if (n > 63 || m > 63) return 64;
    for (size_t j = 0; j <= m; j++) row[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            now[j] = saei_min(last[j - 1] + (a[i - 1] != b[j - 1]),
                              saei_min(last[j], now[j - 1]) + 1);
            if (swapped) now[j] = saei_min(now[j], before[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

/* key as the table spells it, into name; NULL if it is none (name is then the nearest, or ""). */
static const saei_field *saei_field_of_key(const char *key, char name[64]) {
    size_t n = strlen(key), best = 4;
    const saei_field *f;
    char spelled[64];
    name[0] = 0;
    if (n >= sizeof spelled) return NULL;
    for (size_t i = 0; i <= n; i++) spelled[i] = key[i] == '-' ? '_' : key[i];
    f = saei_field_find(strcmp(spelled, "trainer") ? spelled : "trainer_class",
                        strcmp(spelled, "trainer") ? n : strlen("trainer_class"));
    for (size_t i = 0; i < SAEI_NUM_FIELDS && !f; i++) {
        size_t distance = sae_edit_distance(spelled, saei_fields[i].key);
        if (distance >= best || distance * 2 > n) continue;
        best = distance;
        snprintf(name, 64, "%s", saei_fields[i].key);
    }
    return f;
}

SAE_API sae_result sae_trainer_desc_set(sae_context *ctx, sae_trainer_desc *desc, const char *key,
                                        const char *value) {
    char nearest[64], quoted[SAEI_QUOTE];
    const saei_field *f;
    saei_setter s;
    saei_value v;
    if (!desc || !key || !value)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_desc_set: desc, key or value is NULL");
    s.ctx = ctx;
    s.who = "sae_trainer_desc_set";
    s.path = NULL;
    v.text = value;
    v.list = NULL;
    v.none = saei_is_none(value);
    f = saei_field_of_key(key, nearest);
    if (f) return saei_field_set(&s, desc, f, v);
    return saei_fail(ctx, SAE_ERR_NOT_FOUND, "sae_trainer_desc_set: key is %s, which no trainer "
                     "has%s%s", saei_quote(key, quoted), *nearest ? "; near is " : "", nearest);
}

/* ==== >>trainer: reading config.json ================================== src/train/config.h ==== */

struct sae_config {
    sae_context *ctx;
    sae_json *root; /* the descs' texts lie here */
    sae_trainer_desc *descs;
    size_t count;
};

/* A text that says none is one, where the field is a text. */
static saei_value saei_json_as_value(const sae_json *v, const saei_field *f) {
    saei_value out;
    out.list = NULL;
    out.none = v->type == SAE_JSON_NULL
               || (v->type == SAE_JSON_STRING && f->type != SAEI_FIELD_TEXT
                   && saei_is_none(v->string));
    switch (v->type) {
    case SAE_JSON_NONE:
    case SAE_JSON_NULL: out.text = "null"; return out;
    case SAE_JSON_BOOL: out.text = v->number != 0 ? "true" : "false"; return out;
    case SAE_JSON_NUMBER:
    case SAE_JSON_STRING: out.text = v->string; return out;
    case SAE_JSON_ARRAY: out.text = "a list"; break;
    case SAE_JSON_OBJECT: out.text = "an object"; break;
    }
    out.list = v;
    return out;
}

/* One trainer object. Its kind comes first: what sparsity_penalty means depends on it. */
static sae_result saei_config_trainer(const saei_setter *s, const sae_json *object,
                                      sae_trainer_desc *desc) {
    const sae_json *kind = sae_json_get(object, "trainer_class");
    char nearest[64], quoted[SAEI_QUOTE];
    size_t known = 0;
    if (!kind) kind = sae_json_get(object, "trainer");
    if (kind)
        SAEI_TRY(saei_field_set(s, desc, saei_fields, saei_json_as_value(kind, saei_fields)));
    for (const sae_json *c = object->child; c; c = c->next) {
        const saei_field *f = saei_field_of_key(c->key, nearest);
        if (!f) {
            saei_log(s->ctx, SAE_LOG_WARNING, "%s: %s: %s is not known and skipped%s%s", s->who,
                     s->path, saei_quote(c->key, quoted), *nearest ? "; near is " : "", nearest);
            continue;
        }
        known++;
        if (f->type == SAEI_FIELD_KIND) continue;
        if (f->type == SAEI_FIELD_GROUP_SIZES && saei_config_value(object, "group_fractions"))
            continue;
        if (saei_field_offset(f, desc->kind) != f->offset
            && saei_config_value(object, "initial_sparsity_penalty"))
            continue;
        SAEI_TRY(saei_field_set(s, desc, f, saei_json_as_value(c, f)));
    }
    return known ? SAE_OK
                 : saei_fail(s->ctx, SAE_ERR_FORMAT, "%s: %s holds no trainer", s->who, s->path);
}

static sae_result saei_config_read(sae_config *config, const char *path) {
    const sae_json *item = config->root;
    saei_setter s;
    s.ctx = config->ctx;
    s.who = "sae_config_open";
    s.path = path;
    config->count = 1;
    if (item->type == SAE_JSON_ARRAY) {
        config->count = item->count;
        item = item->child;
    }
    if (!config->count)
        return saei_fail(config->ctx, SAE_ERR_FORMAT, "sae_config_open: %s is an empty list", path);
    config->descs =
        (sae_trainer_desc *)saei_calloc(config->ctx, config->count, sizeof *config->descs);
    if (!config->descs)
        return saei_fail(config->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_config_open: %s: no memory",
                         path);
    for (size_t i = 0; i < config->count; i++, item = item->next) {
        const sae_json *object = item, *inner = sae_json_get(item, "trainer");
        if (inner && inner->type != SAE_JSON_STRING) object = inner;
        if (object->type != SAE_JSON_OBJECT) {
            return saei_fail(config->ctx, SAE_ERR_FORMAT,
                             "sae_config_open: %s: %s is not a JSON object", path,
                             inner ? "trainer" : "it");
        }
        SAEI_TRY(saei_config_trainer(&s, object, &config->descs[i]));
    }
    return SAE_OK;
}

SAE_API sae_result sae_config_open(sae_context *ctx, const char *path, sae_config **out) {
    sae_config *config;
    sae_result result;
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_config_open: ctx, path or out is NULL");
    config = (sae_config *)saei_calloc(ctx, 1, sizeof *config);
    if (!config)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_config_open: %s: no memory", path);
    config->ctx = ctx;
    result = saei_json_load(ctx, "sae_config_open", path, &config->root);
    if (result == SAE_OK) result = saei_config_read(config, path);
    if (result != SAE_OK) {
        sae_config_close(config);
        return result;
    }
    *out = config;
    return SAE_OK;
}

SAE_API void sae_config_close(sae_config *config) {
    sae_context *ctx;
    if (!config) return;
    ctx = config->ctx;
    saei_free(ctx, config->descs);
    sae_json_close(config->root);
    saei_free(ctx, config);
}

SAE_API size_t sae_config_count(const sae_config *config) { return config ? config->count : 0; }

SAE_API const sae_trainer_desc *sae_config_get(const sae_config *config, size_t index) {
    return config && index < config->count ? &config->descs[index] : NULL;
}

/* ==== >>trainer: writing config.json ================================== src/train/config.h ==== */

static void saei_write_list(saei_text *t, const sae_trainer_desc *desc, const saei_field *f) {
    const double *list =
        f->offset == SAEI_AT(group_weights) ? desc->group_weights : desc->group_fractions;
    size_t left = desc->dict_size;
    char number[32];
    saei_text_add(t, "[");
    for (size_t i = 0; i < desc->num_groups; i++) {
        saei_text_add(t, "%s\n            ", i ? "," : "");
        if (f->type == SAEI_FIELD_GROUP_SIZES) { /* as the reference cuts them */
            size_t size = i + 1 < desc->num_groups
                              ? saei_min(left, (size_t)(list[i] * (double)desc->dict_size))
                              : left;
            saei_text_add(t, "%zu", size);
            left -= size;
        } else {
            saei_number_text(list[i], number);
            saei_text_add(t, "%s", number);
        }
    }
    saei_text_add(t, "\n        ]");
}

static void saei_write_string(saei_text *t, const char *string) {
    if (string) saei_text_add_json_string(t, string);
    else saei_text_add(t, "null");
}

/* The value of a field. With t NULL nothing is written; returns false for null, which readers take
   as they take a missing key. */
static bool saei_write_field(saei_text *t, const sae_trainer_desc *desc, const saei_field *f) {
    const void *at = (const char *)desc + saei_field_offset(f, desc->kind);
    const char *string = NULL;
    uint64_t whole = 0;
    char number[32];
    double x;
    switch (f->type) {
    case SAEI_FIELD_KIND:
        string = sae_trainer_class(desc->kind);
        break;
    case SAEI_FIELD_ARCH: string = sae_arch_name(desc->arch); break;
    case SAEI_FIELD_NOTHING: string = "cpu"; break;
    case SAEI_FIELD_TEXT:
        string = *(const char *const *)at;
        if (!string && f->offset == SAEI_AT(lm_name))
            string = "unknown"; /* the reference's must be there */
        break;
    case SAEI_FIELD_SPARSITY:
        if (desc->sparsity_function) string = saei_sparsity_names[desc->sparsity_function - 1];
        break;
    case SAEI_FIELD_NORM: string = desc->reconstruction_norm ? "norm" : NULL; break;
    case SAEI_FIELD_LIST:
    case SAEI_FIELD_GROUP_SIZES:
        if (t && desc->num_groups) saei_write_list(t, desc, f);
        if (t && !desc->num_groups) saei_text_add(t, "null");
        return desc->num_groups > 0;
    case SAEI_FIELD_INTEGER:
        if (t) saei_text_add(t, "%lld", (long long)*(const int64_t *)at);
        return true;
    case SAEI_FIELD_REAL:
        x = *(const double *)at;
        if (x == 0 && f->zero != SAEI_LITERAL) break; /* not set */
        saei_number_text(x < 0 ? 0 : x, number);
        if (t) saei_text_add(t, "%s", number);
        return true;
    case SAEI_FIELD_SIZE:
    case SAEI_FIELD_STEPS:
        whole = f->type == SAEI_FIELD_SIZE ? *(const size_t *)at : *(const uint64_t *)at;
        if (whole == 0 && f->zero != SAEI_LITERAL) break; /* not set */
        if (whole == SAE_NONE && (f->flags & SAEI_CONTINUOUS)) string = "continuous";
        if (whole == SAE_NONE && f->zero != SAEI_LITERAL) {
            if (string || f->null == SAEI_OFF) break;
            whole = 0;
        }
        if (t) saei_text_add(t, "%llu", (unsigned long long)whole);
        return true;
    }
    if (t) saei_write_string(t, string);
    return string != NULL;
}

static void saei_write_pair(saei_text *t, const sae_trainer_desc *desc, const saei_field *f,
                            bool first) {
    saei_text_add(t, "%s\n        \"%s\": ", first ? "" : ",", f->key);
    saei_write_field(t, desc, f);
}

/* Writes folder/config.json: {"trainer": {...}, "buffer": {...}, "sae.h": {...}} from a desc whose
   defaults are set. buffer and own are the texts of JSON objects ("{}" for none). */
static sae_result saei_config_write(const sae_context *ctx, const char *who, const char *folder,
                                    const sae_trainer_desc *desc, const char *buffer,
                                    const char *own) {
    bool written[SAEI_NUM_FIELDS] = { false };
    const saei_scheme *scheme = saei_scheme_of(desc->kind);
    const char *at = scheme->hyperparameters, *word;
    saei_text t;
    memset(&t, 0, sizeof t);
    t.ctx = ctx;
    saei_text_add(&t, "{\n    \"trainer\": {");
    for (size_t n; (n = saei_next_word(&at, &word)) > 0 && *word != '+'; ) {
        const saei_field *f = saei_field_find(word, n);
        saei_write_pair(&t, desc, f, word == scheme->hyperparameters);
        written[f - saei_fields] = true;
    }
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) { /* what the reference leaves out */
        const saei_field *f = &saei_fields[i];
        if (!written[i] && saei_has_field(scheme, f) && saei_write_field(NULL, desc, f))
            saei_write_pair(&t, desc, f, false);
    }
    saei_text_add(&t, "\n    },\n    \"buffer\": %s,\n    \"sae.h\": %s\n}\n",
                  buffer ? buffer : "{}", own ? own : "{}");
    return saei_text_write(&t, who, folder, "config.json");
}

/* ==== >>trainer: settings as text ===================================== src/train/config.h ==== */

static void saei_text_add_real(saei_text *t, double value) {
    char text[32];
    saei_number_text(value, text);
    saei_text_add(t, "%s", text);
}

/* What of a desc decides the result, one setting a line: a backup belongs to these. */
static void saei_trainer_settings(saei_text *t, size_t index, const sae_trainer_desc *desc) {
    for (size_t i = 0; i < SAEI_NUM_FIELDS; i++) {
        const saei_field *f = &saei_fields[i];
        const void *at = (const char *)desc + f->offset;
        unsigned long long whole = 0;
        if (f->flags & SAEI_NO_SETTING) continue;
        switch (f->type) {
        case SAEI_FIELD_KIND: whole = desc->kind; break;
        case SAEI_FIELD_ARCH: whole = desc->arch; break;
        case SAEI_FIELD_SPARSITY: whole = desc->sparsity_function; break;
        case SAEI_FIELD_NORM: whole = desc->reconstruction_norm; break;
        case SAEI_FIELD_SIZE: whole = *(const size_t *)at; break;
        case SAEI_FIELD_STEPS: whole = *(const uint64_t *)at; break;
        case SAEI_FIELD_REAL:
            saei_text_add(t, "trainer_%zu.%s=", index, f->name);
            saei_text_add_real(t, *(const double *)at);
            saei_text_add(t, "\n");
            continue;
        case SAEI_FIELD_LIST: /* with group_weights */
            saei_text_add(t, "trainer_%zu.num_groups=%zu\n", index, desc->num_groups);
            for (size_t g = 0; g < desc->num_groups && g < SAE_MAX_GROUPS; g++) {
                saei_text_add(t, "trainer_%zu.group_fractions[i]=", index);
                saei_text_add_real(t, desc->group_fractions[g]);
                saei_text_add(t, "\ntrainer_%zu.group_weights[i]=", index);
                saei_text_add_real(t, desc->group_weights[g]);
                saei_text_add(t, "\n");
            }
            continue;
        case SAEI_FIELD_TEXT:
            saei_text_add(t, "trainer_%zu.%s=%s\n", index, f->name,
                          *(const char *const *)at ? "given" : "none");
            continue;
        case SAEI_FIELD_GROUP_SIZES:
        case SAEI_FIELD_INTEGER:
        case SAEI_FIELD_NOTHING: continue;
        }
        saei_text_add(t, "trainer_%zu.%s=%llu\n", index, f->name, whole);
    }
}

/* ==== >>buffer: sources and create ====================================== src/run/buffer.h ==== */
/* A slab is one matrix in a file or in the caller's memory, a stream is slabs end to end, and the
   buffer holds rows of one or two streams (input and target) in the type they have in the source.
   The rows held form a sequence; those from cursor on are unread. A refill moves the unread ones to
   the front, appends new rows of the source and shuffles the whole, so a batch costs O(batch). */

enum { SAEI_BUFFER_BYTES = 256 << 20, SAEI_GATHER_ROWS = 64 };

typedef struct saei_slab {
    char *name;                /* the file's path; NULL: memory */
    const unsigned char *data; /* element (0,0); need not be aligned */
    int64_t row_stride, col_stride; /* in bytes */
    sae_dtype dtype;
    uint64_t begin, rows;      /* rows begin .. begin + rows of the stream */
    sae_tensor_file *file;     /* keeps data mapped: a container */
    saei_map map;              /* or a raw file */
} saei_slab;

typedef struct saei_stream {
    saei_slab *slabs;
    size_t num_slabs;
    uint64_t rows;
    size_t dim;
    sae_dtype dtype; /* as held: the slabs' own if all agree on F32, F16 or BF16, else F32 */
} saei_stream;

struct sae_buffer {
    sae_context *ctx;
    sae_buffer_desc desc; /* defaults set; the file lists in it are not used after create */
    saei_stream stream[2];     /* input, target; of read: dim and dtype only */
    size_t num_streams;
    uint64_t source_rows;      /* 0: not known (read) */
    size_t capacity, low;      /* rows held at most; refilled when fewer than low are unread */
    unsigned char *held[2];    /* [capacity,dim] of the stream's dtype */
    uint64_t *id;              /* [capacity] row number in the source, in the order of batches */
    size_t *slot;              /* [capacity] where that row lies in held: a permutation */
    size_t cursor, count;      /* cursor .. count are unread */
    float *out[2];             /* [batch_size,dim] */
    double *norms;             /* [2,capacity] with max_activation_norm_multiple, else NULL */
    uint8_t *bad;              /* [parts of a batch] */
    uint64_t position;         /* rows taken from the source in this pass */
    uint64_t draws, batches;   /* random numbers used, batches given */
    bool ended;
    bool refilling;            /* a refill failed and goes on with the next call */
    size_t fresh;              /* of a refill: rows from here on may yet be dropped */
    uint64_t state[5];         /* what saei_buffer_state_get points to */
};

static sae_result saei_buffer_fail(const sae_context *ctx, sae_result result, const char *format,
                                   ...) SAEI_PRINTF(3, 4);
static sae_result saei_buffer_fail(const sae_context *ctx, sae_result result, const char *format,
                                   ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return saei_fail(ctx, result, "sae_buffer_create: %s", text);
}

/* ---- slabs and streams ---- */

/* n contiguous values to float32; false if one of them is NaN or infinite. */
static bool saei_row_to_f32(const unsigned char *from, sae_dtype dtype, size_t n, float *out) {
    saei_convert_row(dtype, from, (int64_t)sae_dtype_size(dtype), n, out);
    return saei_all_finite(out, n);
}

static const saei_slab *saei_stream_slab(const saei_stream *s, uint64_t row) {
    size_t low = 0, high = s->num_slabs;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->slabs[middle].begin <= row) low = middle;
        else high = middle;
    }
    return &s->slabs[low];
}

/* Row `row` of the stream, in the stream's dtype. */
static void saei_stream_row(const saei_stream *s, uint64_t row, unsigned char *out) {
    const saei_slab *slab = saei_stream_slab(s, row);
    int64_t offset = (int64_t)(row - slab->begin) * slab->row_stride;
    const unsigned char *from = slab->data + (ptrdiff_t)offset;
    size_t size = sae_dtype_size(slab->dtype);
    if (slab->dtype != s->dtype) { /* then it is float32, in held or in out: aligned */
        saei_convert_row(slab->dtype, from, slab->col_stride, s->dim, (float *)(void *)out);
    } else if (slab->col_stride == (int64_t)size) {
        memcpy(out, from, s->dim * size);
    } else {
        for (size_t i = 0; i < s->dim; i++)
            memcpy(out + i * size, from + (ptrdiff_t)((int64_t)i * slab->col_stride), size);
    }
}

static void saei_stream_close(const sae_context *ctx, saei_stream *s) {
    for (size_t i = 0; i < s->num_slabs; i++) {
        sae_tensor_file_close(s->slabs[i].file);
        saei_map_close(ctx, &s->slabs[i].map);
        saei_free(ctx, s->slabs[i].name);
    }
    saei_free(ctx, s->slabs);
    memset(s, 0, sizeof *s);
}

/* The tensor of a container that holds the rows: the one named, else the only one of two axes. */
static sae_result saei_slab_tensor(const sae_context *ctx, const saei_slab *slab, const char *name,
                                   const sae_tensor **out) {
    const sae_tensor *found = NULL;
    size_t count = sae_tensor_file_count(slab->file), fit = 0;
    if (name && !saei_ends_with(slab->name, ".npy")) {
        found = sae_tensor_file_find(slab->file, name);
        if (!found)
            return saei_buffer_fail(ctx, SAE_ERR_NOT_FOUND, "%s holds no tensor \"%s\"", slab->name,
                                    name);
        if (found->ndim != 2)
            return saei_buffer_fail(ctx, SAE_ERR_UNSUPPORTED,
                                    "tensor \"%s\" of %s has %zu axes, allowed are 2 (rows, dim)",
                                    name, slab->name, found->ndim);
    } else {
        for (size_t i = 0; i < count; i++) {
            const sae_tensor *t = sae_tensor_file_get(slab->file, i);
            if (t->ndim != 2) continue;
            if (!found) found = t;
            fit++;
        }
        if (!found)
            return saei_buffer_fail(ctx, SAE_ERR_UNSUPPORTED,
                                    "%s holds no array of 2 axes (rows, dim)", slab->name);
        if (fit > 1)
            return saei_buffer_fail(ctx, SAE_ERR_INVALID, "%s holds %zu tensors of 2 axes: tensor "
                                    "must name one (for example \"%s\")", slab->name, fit,
                                    found->name);
    }
    if (found->dtype != SAE_F32 && found->dtype != SAE_F16 && found->dtype != SAE_BF16
        && found->dtype != SAE_F64)
        return saei_buffer_fail(ctx, SAE_ERR_UNSUPPORTED,
                                "%s holds %s, allowed are F32, F16, BF16, F64", slab->name,
                                sae_dtype_name(found->dtype));
    *out = found;
    return SAE_OK;
}

/* Stricter than reading one is, so that no raw values pass for it. */
static bool saei_looks_safetensors(const unsigned char *d, size_t n) {
    return n >= 10 && saei_le64(d) >= 2 && saei_le64(d) <= SAEI_SAFETENSORS_HEADER
           && saei_le64(d) <= n - 8 && d[8] == '{' && memchr("\"} \t\r\n", d[9], 6) != NULL;
}

/* A container under another name is refused: its header would be taken for activations. */
static sae_result saei_slab_raw_check(const sae_context *ctx, const saei_slab *slab) {
    const unsigned char *d = slab->map.data;
    size_t n = slab->map.size;
    const char *kind = saei_looks_npy(d, n)           ? ".npy"
                       : saei_looks_safetensors(d, n) ? ".safetensors"
                                                      : NULL;
    if (kind)
        return saei_buffer_fail(ctx, SAE_ERR_FORMAT, "%s looks like a %s file, and by its name it "
                                "would be read as raw values: let the name end in %s", slab->name,
                                kind, kind);
    if (saei_looks_zip(d, n))
        return saei_buffer_fail(ctx, SAE_ERR_FORMAT, "%s looks like a zip archive (.pt, .npz), "
                                "allowed are .npy, .safetensors and raw values: save the array as "
                                ".npy", slab->name);
    return SAE_OK;
}

/* Opens one file; *dim is the width of its rows. After an error saei_stream_close cleans up. */
static sae_result saei_slab_open(sae_context *ctx, const char *path, const sae_source_desc *source,
                                 saei_slab *slab, uint64_t *dim) {
    const sae_tensor *t = NULL;
    size_t size, row;
    slab->name = saei_strdup(ctx, path);
    if (!slab->name)
        return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory for the name %s", path);
    if (saei_ends_with(path, ".npy") || saei_ends_with(path, ".safetensors")) {
        SAEI_TRY(sae_tensor_file_open(ctx, path, &slab->file));
        SAEI_TRY(saei_slab_tensor(ctx, slab, source->tensor, &t));
        size = sae_dtype_size(t->dtype);
        slab->data = (const unsigned char *)t->data;
        slab->dtype = t->dtype;
        slab->rows = t->shape[0];
        slab->row_stride = t->stride[0] * (int64_t)size;
        slab->col_stride = t->stride[1] * (int64_t)size;
        *dim = t->shape[1];
        return SAE_OK;
    }
    SAEI_TRY(saei_map_open(ctx, "sae_buffer_create", path, &slab->map));
    SAEI_TRY(saei_slab_raw_check(ctx, slab));
    if (!source->dim)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "dim is 0, but %s holds raw values, which "
                                "do not say how wide a row is (.npy and .safetensors do)", path);
    slab->dtype = source->dtype;
    size = sae_dtype_size(slab->dtype);
    if (!saei_mul(source->dim, size, &row) || row > PTRDIFF_MAX)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "dim is %zu, too large", source->dim);
    if (slab->map.size % row)
        return saei_buffer_fail(ctx, SAE_ERR_FORMAT,
                                "%s has %zu bytes, not a multiple of a row's %zu (%zu of %s)", path,
                                slab->map.size, row, source->dim, sae_dtype_name(slab->dtype));
    slab->data = slab->map.data;
    slab->rows = slab->map.size / row;
    slab->row_stride = (int64_t)row;
    slab->col_stride = (int64_t)size;
    *dim = source->dim;
    return SAE_OK;
}

static sae_result saei_stream_files(sae_context *ctx, const sae_source_desc *source,
                                    const char *const *files, size_t num_files, saei_stream *s) {
    uint64_t dim = 0;
    s->slabs = (saei_slab *)saei_calloc(ctx, num_files, sizeof *s->slabs);
    if (!s->slabs)
        return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory for %zu files", num_files);
    s->num_slabs = num_files;
    for (size_t i = 0; i < num_files; i++) {
        saei_slab *slab = &s->slabs[i];
        if (!files[i])
            return saei_buffer_fail(ctx, SAE_ERR_INVALID, "file %zu is NULL", i);
        SAEI_TRY(saei_slab_open(ctx, files[i], source, slab, &dim));
        if (dim == 0 || dim > SIZE_MAX / 8 || slab->rows > (uint64_t)INT64_MAX - s->rows)
            return saei_buffer_fail(ctx, SAE_ERR_FORMAT, "%s has the shape [%llu,%llu]", files[i],
                                    (unsigned long long)slab->rows, (unsigned long long)dim);
        if (source->dim && dim != source->dim)
            return saei_buffer_fail(ctx, SAE_ERR_MISMATCH, "dim is %zu, %s has rows of %llu",
                                    source->dim, files[i], (unsigned long long)dim);
        if (i && dim != s->dim)
            return saei_buffer_fail(ctx, SAE_ERR_MISMATCH, "%s has rows of %zu, %s of %llu",
                                    files[0], s->dim, files[i], (unsigned long long)dim);
        s->dim = (size_t)dim;
        slab->begin = s->rows;
        s->rows += slab->rows;
        if (i && slab->dtype != s->dtype) s->dtype = SAE_F32;
        else s->dtype = slab->dtype;
        if (s->dtype == SAE_F64) s->dtype = SAE_F32;
    }
    return SAE_OK;
}

static sae_result saei_stream_memory(sae_context *ctx, const sae_source_desc *source,
                                     const void *data, saei_stream *s) {
    size_t size = sae_dtype_size(source->dtype), row, all;
    s->slabs = (saei_slab *)saei_calloc(ctx, 1, sizeof *s->slabs);
    if (!s->slabs) return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
    s->num_slabs = 1;
    if (!source->dim || !saei_mul(source->dim, size, &row) || !saei_mul(row, source->rows, &all)
        || all > PTRDIFF_MAX)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "data is [%zu,%zu] of %s", source->rows,
                                source->dim, sae_dtype_name(source->dtype));
    s->slabs->data = (const unsigned char *)data;
    s->slabs->dtype = s->dtype = source->dtype;
    s->slabs->rows = s->rows = source->rows;
    s->slabs->row_stride = (int64_t)row;
    s->slabs->col_stride = (int64_t)size;
    s->dim = source->dim;
    return SAE_OK;
}

/* ---- create ---- */

static sae_result saei_buffer_open_source(sae_buffer *b) {
    sae_context *ctx = b->ctx;
    sae_source_desc *source = &b->desc.source;
    saei_stream *x = &b->stream[0], *y = &b->stream[1];
    if ((source->data != NULL) + (source->num_files != 0) + (source->read != NULL) != 1
        || (source->num_files && !source->files)
        || (source->num_target_files && !source->target_files))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "the source needs exactly one of data, files, read");
    if ((source->target && !source->data) || (source->num_target_files && !source->num_files)
        || (source->has_target && !source->read))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "the target must come the way the input "
                                "does: target with data, target_files with files, has_target with "
                                "read");
    if (!source->dtype) source->dtype = SAE_F32;
    if (source->dtype != SAE_F32 && source->dtype != SAE_F16 && source->dtype != SAE_BF16)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "dtype is %d (%s), allowed are F32, F16, BF16", (int)source->dtype,
                                sae_dtype_name(source->dtype));
    b->num_streams = source->target || source->num_target_files || source->has_target ? 2 : 1;
    if (source->read) {
        if (!source->dim)
            return saei_buffer_fail(ctx, SAE_ERR_INVALID, "dim is 0, with read it must be given");
        x->dim = y->dim = source->dim;
        x->dtype = y->dtype = SAE_F32;
        if (!source->rewind) b->desc.single_pass = true;
        return SAE_OK;
    }
    if (source->data) {
        SAEI_TRY(saei_stream_memory(ctx, source, source->data, x));
        if (source->target) SAEI_TRY(saei_stream_memory(ctx, source, source->target, y));
    } else {
        SAEI_TRY(saei_stream_files(ctx, source, source->files, source->num_files, x));
        if (source->num_target_files)
            SAEI_TRY(saei_stream_files(ctx, source, source->target_files,
                                       source->num_target_files, y));
    }
    b->source_rows = x->rows;
    if (!x->rows)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "the source has no rows");
    if (b->num_streams == 2 && (y->rows != x->rows || y->dim != x->dim))
        return saei_buffer_fail(ctx, SAE_ERR_MISMATCH,
                                "the input is [%llu,%zu], the target [%llu,%zu]; they must agree",
                                (unsigned long long)x->rows, x->dim, (unsigned long long)y->rows,
                                y->dim);
    return SAE_OK;
}

/* Sets capacity and low, takes the memory. */
static sae_result saei_buffer_plan(sae_buffer *b) {
    sae_context *ctx = b->ctx;
    sae_buffer_desc *d = &b->desc;
    size_t dim = b->stream[0].dim, row = 0, twice, size;
    for (size_t s = 0; s < b->num_streams; s++) row += dim * sae_dtype_size(b->stream[s].dtype);
    if (!saei_mul(d->batch_size, 2, &twice) || !saei_mul(twice, dim, &size)
        || !saei_mul(size, 4 * sizeof(float), &size))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "batch_size is %zu, too large for rows of %zu", d->batch_size, dim);
    if (d->rows && d->rows < twice && !d->sequential)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "rows is %zu, allowed is 0 or at least "
                                "twice the batch_size of %zu", d->rows, d->batch_size);
    b->capacity = d->sequential ? d->batch_size
                  : d->rows     ? d->rows
                                : saei_max((size_t)SAEI_BUFFER_BYTES / saei_max(row, 1), twice);
    b->low = saei_max(b->capacity / 2, d->batch_size);
    if (!d->sequential && b->source_rows && b->source_rows <= b->capacity) {
        b->capacity = saei_max((size_t)b->source_rows, 1);
        b->low = d->batch_size; /* all rows are held: each pass gives each once, but for a rest */
    }
    d->rows = b->capacity;
    for (size_t s = 0; s < b->num_streams; s++) {
        size = dim * sae_dtype_size(b->stream[s].dtype);
        b->held[s] = (unsigned char *)saei_alloc(ctx, b->capacity, size);
        b->out[s] = (float *)saei_alloc(ctx, d->batch_size * dim, sizeof(float));
        if (!b->held[s] || !b->out[s]) break;
    }
    b->id = (uint64_t *)saei_alloc(ctx, b->capacity, sizeof *b->id);
    b->slot = (size_t *)saei_alloc(ctx, b->capacity, sizeof *b->slot);
    b->bad = (uint8_t *)saei_alloc(ctx, saei_ceil_div(d->batch_size, SAEI_GATHER_ROWS), 1);
    if (d->max_activation_norm_multiple > 0)
        b->norms = (double *)saei_alloc(ctx, b->capacity, 2 * sizeof *b->norms);
    if (!b->out[b->num_streams - 1] || !b->held[b->num_streams - 1] || !b->id || !b->slot
        || !b->bad || (d->max_activation_norm_multiple > 0 && !b->norms))
        return saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory for %zu rows of %zu",
                                b->capacity, dim);
    for (size_t i = 0; i < b->capacity; i++) b->slot[i] = i;
    return SAE_OK;
}

static sae_result saei_buffer_init(sae_buffer *b, bool clamp) {
    sae_context *ctx = b->ctx;
    sae_buffer_desc *d = &b->desc;
    double multiple = d->max_activation_norm_multiple;
    if (!d->batch_size) d->batch_size = 2048;
    if (!d->heads) d->heads = 1;
    SAEI_TRY(saei_buffer_open_source(b));
    if (b->stream[0].dim % d->heads)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "heads is %zu, which does not divide the rows' %zu", d->heads,
                                b->stream[0].dim);
    if (multiple != multiple || (multiple != 0 && multiple < 1))
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "max_activation_norm_multiple is %g, "
                                "allowed is 0 (none) or at least 1", multiple);
    if (multiple > 0 && d->sequential)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                "max_activation_norm_multiple is %g, it needs the shuffled order",
                                multiple);
    if (b->source_rows && b->source_rows < d->batch_size) {
        if (!d->single_pass && !clamp)
            return saei_buffer_fail(ctx, SAE_ERR_INVALID,
                                    "batch_size is %zu, the source has only %llu rows",
                                    d->batch_size, (unsigned long long)b->source_rows);
        d->batch_size = (size_t)b->source_rows;
        if (!d->sequential) d->rows = 0;
    }
    return saei_buffer_plan(b);
}

/* clamp: limit batch_size to the source's rows. */
static sae_result saei_buffer_new(sae_context *ctx, const sae_buffer_desc *desc, bool clamp,
                                  sae_buffer **out) {
    sae_buffer *b;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_buffer_fail(ctx, SAE_ERR_INVALID, "desc or out is NULL");
    b = (sae_buffer *)saei_calloc(ctx, 1, sizeof *b);
    if (!b) {
        saei_buffer_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
        return SAE_ERR_OUT_OF_MEMORY; /* spelled out for static analysers */
    }
    b->ctx = ctx;
    b->desc = *desc;
    result = saei_buffer_init(b, clamp);
    if (result != SAE_OK) {
        sae_buffer_destroy(b);
        return result;
    }
    *out = b;
    return SAE_OK;
}

SAE_API sae_result sae_buffer_create(sae_context *ctx, const sae_buffer_desc *desc,
                                     sae_buffer **out) {
    return saei_buffer_new(ctx, desc, false, out);
}

SAE_API void sae_buffer_destroy(sae_buffer *b) {
    if (!b) return;
    for (size_t s = 0; s < 2; s++) {
        saei_stream_close(b->ctx, &b->stream[s]);
        saei_free(b->ctx, b->held[s]);
        saei_free(b->ctx, b->out[s]);
    }
    saei_free(b->ctx, b->id);
    saei_free(b->ctx, b->slot);
    saei_free(b->ctx, b->norms);
    saei_free(b->ctx, b->bad);
    saei_free(b->ctx, b);
}

SAE_API size_t sae_buffer_dim(const sae_buffer *b) { return b ? b->stream[0].dim : 0; }
SAE_API uint64_t sae_buffer_source_rows(const sae_buffer *b) { return b ? b->source_rows : 0; }

/* ==== >>buffer: refill, batches, state ================================= src/run/batches.h ==== */

static unsigned char *saei_buffer_held(const sae_buffer *b, size_t stream, size_t i) {
    const saei_stream *s = &b->stream[stream];
    return b->held[stream] + b->slot[i] * s->dim * sae_dtype_size(s->dtype);
}

static void saei_buffer_swap(sae_buffer *b, size_t i, size_t j) {
    size_t slot = b->slot[i];
    uint64_t id = b->id[i];
    b->slot[i] = b->slot[j];
    b->id[i] = b->id[j];
    b->slot[j] = slot;
    b->id[j] = id;
}

static sae_result saei_buffer_not_finite(const sae_buffer *b, size_t stream, uint64_t row) {
    const char *what = stream ? "target" : "input";
    const saei_slab *slab;
    if (b->source_rows) {
        slab = saei_stream_slab(&b->stream[stream], row);
        if (slab->name)
            return saei_fail(b->ctx, SAE_ERR_NOT_FINITE,
                             "sae_buffer_next: %s has NaN or infinity in "
                             "row %llu",
                             slab->name, (unsigned long long)(row - slab->begin));
    }
    return saei_fail(b->ctx, SAE_ERR_NOT_FINITE,
                     "sae_buffer_next: the %s has NaN or infinity in row "
                     "%llu",
                     what, (unsigned long long)row);
}

/* Appends rows from read; *got 0 at the end of its data. */
static sae_result saei_buffer_call(sae_buffer *b, size_t room, size_t *got) {
    const sae_source_desc *source = &b->desc.source;
    size_t want = saei_min(room, b->desc.batch_size), bytes = source->dim * sizeof(float);
    int64_t n = source->read(source->user, b->out[0], b->num_streams == 2 ? b->out[1] : NULL, want);
    if (n < 0) {
        if (n < (int64_t)SAE_ERR_BACKEND)
            return saei_fail(b->ctx, SAE_ERR_INVALID, "sae_buffer_next: read returned %lld, not a "
                             "sae_result", (long long)n);
        return saei_fail(b->ctx, (sae_result)n, "sae_buffer_next: read failed with %s",
                         sae_result_name((sae_result)n));
    }
    if ((uint64_t)n > want)
        return saei_fail(b->ctx, SAE_ERR_INVALID, "sae_buffer_next: read returned %lld rows, asked "
                         "were %zu", (long long)n, want);
    *got = (size_t)n;
    for (size_t s = 0; s < b->num_streams; s++)
        for (size_t i = 0; i < *got; i++)
            memcpy(saei_buffer_held(b, s, b->count + i), b->out[s] + i * source->dim, bytes);
    return SAE_OK;
}

static sae_result saei_buffer_rewind_source(sae_buffer *b) {
    const sae_source_desc *source = &b->desc.source;
    sae_result result;
    if (source->read) {
        if (!source->rewind)
            return saei_fail(b->ctx, SAE_ERR_UNSUPPORTED, "sae_buffer_rewind: the source is a read "
                             "without rewind");
        result = source->rewind(source->user);
        if (result != SAE_OK)
            return saei_fail(b->ctx, result, "sae_buffer_rewind: rewind failed with %s",
                             sae_result_name(result));
    }
    b->position = 0;
    return SAE_OK;
}

/* Appends rows until the buffer is full, starting over at the source's end, or until ended. */
static sae_result saei_buffer_read(sae_buffer *b) {
    while (b->count < b->capacity && !b->ended) {
        size_t room = b->capacity - b->count, got = 0;
        if (b->desc.source.read) {
            SAEI_TRY(saei_buffer_call(b, room, &got));
        } else {
            uint64_t left = b->source_rows - b->position;
            got = left < room ? (size_t)left : room;
            for (size_t s = 0; s < b->num_streams; s++)
                for (size_t i = 0; i < got; i++)
                    saei_stream_row(&b->stream[s], b->position + i,
                                    saei_buffer_held(b, s, b->count + i));
        }
        for (size_t i = 0; i < got; i++) b->id[b->count + i] = b->position + i;
        b->count += got;
        b->position += got;
        if (got) continue;
        if (b->desc.single_pass) {
            b->ended = true;
            break;
        }
        if (b->position < b->desc.batch_size)
            return saei_fail(b->ctx, SAE_ERR_INVALID,
                             "sae_buffer_next: batch_size is %zu, the source "
                             "has only %llu rows",
                             b->desc.batch_size, (unsigned long long)b->position);
        if (b->desc.sequential) b->count = 0;
        SAEI_TRY(saei_buffer_rewind_source(b));
    }
    return SAE_OK;
}

/* The lower median of a [n], n > 0, as torch's; a is reordered. */
static double saei_lower_median(double *a, size_t n) {
    size_t low = 0, high = n - 1, k = (n - 1) / 2;
    while (low < high) {
        double pivot = a[low + (high - low) / 2], swap;
        size_t i = low, j = high;
        for (;;) {
            while (a[i] < pivot) i++;
            while (a[j] > pivot) j--;
            if (i >= j) break;
            swap = a[i];
            a[i++] = a[j];
            a[j--] = swap;
        }
        if (k <= j) high = j;
        else low = j + 1;
    }
    return a[k];
}

/* Drops those of the rows first .. count whose norm exceeds the multiple of their median. */
static sae_result saei_buffer_drop_large(sae_buffer *b, size_t first) {
    double multiple = b->desc.max_activation_norm_multiple, limit;
    const saei_stream *x = &b->stream[0];
    size_t n = b->count - first, keep = first;
    double *select;
    if (!b->norms || !n) return SAE_OK;
    select = b->norms + b->capacity;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        if (!saei_row_to_f32(saei_buffer_held(b, 0, first + i), x->dtype, x->dim, b->out[0])) {
            b->count = first;
            b->position = b->id[first];
            b->ended = false;
            return saei_buffer_not_finite(b, 0, b->id[first + i]);
        }
        for (size_t j = 0; j < x->dim; j++) sum += (double)b->out[0][j] * (double)b->out[0][j];
        b->norms[i] = select[i] = sqrt(sum);
    }
    limit = multiple * saei_lower_median(select, n);
    for (size_t i = 0; i < n; i++)
        if (!(b->norms[i] > limit)) saei_buffer_swap(b, keep++, first + i);
    b->count = keep;
    return SAE_OK;
}

static void saei_buffer_shuffle(sae_buffer *b) { /* Fisher-Yates; draws are without bias */
    saei_random random = saei_random_of(b->desc.seed, SAEI_STREAM_SHUFFLE);
    for (size_t i = b->count; i > 1; i--) {
        uint64_t limit = UINT64_MAX - UINT64_MAX % i, bits;
        do bits = saei_random_bits(&random, b->draws++);
        while (bits >= limit);
        saei_buffer_swap(b, i - 1, (size_t)(bits % i));
    }
}

static sae_result saei_buffer_refill(sae_buffer *b) {
    size_t unread = b->count - b->cursor;
    if (b->ended) return SAE_OK;
    if (!b->refilling) {
        for (size_t i = 0; i < unread; i++) saei_buffer_swap(b, i, b->cursor + i);
        b->count = b->fresh = unread;
        b->cursor = 0;
        b->refilling = true;
    }
    do {
        SAEI_TRY(saei_buffer_read(b));
        SAEI_TRY(saei_buffer_drop_large(b, b->fresh));
        b->fresh = b->count;
    } while (b->count < b->desc.batch_size && !b->ended);
    if (!b->desc.sequential) saei_buffer_shuffle(b);
    b->refilling = false;
    return SAE_OK;
}

/* ---- batches ---- */

typedef struct saei_gather {
    sae_buffer *buffer;
    size_t n;
} saei_gather;

static void saei_gather_part(void *arg, size_t part) {
    const saei_gather *g = (const saei_gather *)arg;
    sae_buffer *b = g->buffer;
    size_t end = saei_part_end(part, SAEI_GATHER_ROWS, g->n), dim = b->stream[0].dim;
    bool good = true;
    for (size_t i = part * SAEI_GATHER_ROWS; i < end; i++)
        for (size_t s = 0; s < b->num_streams; s++)
            good &= saei_row_to_f32(saei_buffer_held(b, s, b->cursor + i), b->stream[s].dtype, dim,
                                    b->out[s] + i * dim);
    b->bad[part] = !good;
}

SAE_API sae_result sae_buffer_next(sae_buffer *b, const float **x, const float **target,
                                   size_t *n) {
    size_t take, parts, dim;
    saei_gather gather;
    if (!b) return SAE_ERR_INVALID;
    if (!x || !n) return saei_fail(b->ctx, SAE_ERR_INVALID, "sae_buffer_next: x or n is NULL");
    if (b->refilling || b->count - b->cursor < b->low) SAEI_TRY(saei_buffer_refill(b));
    take = saei_min(b->count - b->cursor, b->desc.batch_size);
    if (!take)
        return saei_fail(b->ctx, SAE_ERR_END_OF_DATA,
                         "sae_buffer_next: the source has no more rows "
                         "after %llu batches",
                         (unsigned long long)b->batches);
    gather.buffer = b;
    gather.n = take;
    parts = saei_ceil_div(take, SAEI_GATHER_ROWS);
    saei_parallel(b->ctx, parts, saei_gather_part, &gather);
    dim = b->stream[0].dim;
    for (size_t i = 0; i < take; i++) {
        if (!b->bad[i / SAEI_GATHER_ROWS]) continue;
        for (size_t s = 0; s < b->num_streams; s++)
            if (!saei_row_to_f32(saei_buffer_held(b, s, b->cursor + i), b->stream[s].dtype, dim,
                                 b->out[s]))
                return saei_buffer_not_finite(b, s, b->id[b->cursor + i]);
    }
    b->cursor += take;
    b->batches++;
    *x = b->out[0];
    if (target) *target = b->num_streams == 2 ? b->out[1] : NULL;
    *n = take;
    return SAE_OK;
}

SAE_API sae_result sae_buffer_rewind(sae_buffer *b) {
    if (!b) return SAE_ERR_INVALID;
    if (b->position || b->batches || b->ended || b->desc.source.rewind)
        SAEI_TRY(saei_buffer_rewind_source(b));
    b->cursor = b->count = 0;
    b->draws = b->batches = 0;
    b->ended = b->refilling = false;
    return SAE_OK;
}

/* ---- state ---- */

/* What a resume needs: two tensors, "counters" and "ids" (of the unread rows, in order; only if
   there are any, and not for read, whose batches a resume reads again). Valid until the buffer's
   next call. */
enum { SAEI_BUFFER_TENSORS = 2 };
static void saei_buffer_state_get(sae_buffer *b, sae_tensor *out, size_t *count) {
    size_t unread = b->desc.source.read ? 0 : b->count - b->cursor;
    b->state[0] = b->batches;
    b->state[1] = b->position;
    b->state[2] = b->draws;
    b->state[3] = b->ended;
    b->state[4] = unread;
    memset(out, 0, SAEI_BUFFER_TENSORS * sizeof *out);
    out[0].name = "counters";
    out[0].data = b->state;
    out[0].shape[0] = sizeof b->state / sizeof *b->state;
    out[1].name = "ids";
    out[1].data = b->id + b->cursor;
    out[1].shape[0] = unread;
    for (size_t i = 0; i < 2; i++) {
        out[i].dtype = SAE_U64;
        out[i].ndim = 1;
        out[i].stride[0] = 1;
    }
    *count = unread ? 2 : 1;
}

/* PREFIXname as U64 [n]; NULL if it is not there or of another kind. */
static const unsigned char *saei_state_u64(const sae_tensor_file *file, const char *prefix,
                                           const char *name, uint64_t n) {
    char full[96];
    const sae_tensor *t;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    t = sae_tensor_file_find(file, full);
    if (!t || t->dtype != SAE_U64 || t->ndim != 1 || t->shape[0] != n) return NULL;
    return (const unsigned char *)t->data;
}

/* Puts a buffer of the same desc into that state. A read that cannot rewind must be at its
   start. */
static sae_result saei_buffer_state_set(sae_buffer *b, const char *who,
                                        const sae_tensor_file *file, const char *prefix) {
    uint64_t state[5];
    const unsigned char *from = saei_state_u64(file, prefix, "counters", 5), *ids = NULL;
    const float *x;
    size_t n;
    if (from) memcpy(state, from, sizeof state);
    if (from && state[4] && state[4] <= b->capacity)
        ids = saei_state_u64(file, prefix, "ids", state[4]);
    if (!from || (state[4] && !ids) || (b->source_rows && state[1] > b->source_rows))
        return saei_fail(b->ctx, SAE_ERR_FORMAT, "%s: the backup's buffer is damaged", who);
    SAEI_TRY(sae_buffer_rewind(b));
    if (b->desc.source.read) {
        for (uint64_t i = 0; i < state[0]; i++) SAEI_TRY(sae_buffer_next(b, &x, NULL, &n));
        return SAE_OK;
    }
    n = (size_t)state[4];
    for (size_t i = 0; i < n; i++) {
        memcpy(&b->id[i], ids + i * 8, 8);
        if (b->id[i] >= b->source_rows)
            return saei_fail(b->ctx, SAE_ERR_FORMAT, "%s: the backup's buffer is damaged", who);
        for (size_t s = 0; s < b->num_streams; s++)
            saei_stream_row(&b->stream[s], b->id[i], saei_buffer_held(b, s, i));
    }
    b->batches = state[0];
    b->position = state[1];
    b->draws = state[2];
    b->ended = state[3] != 0;
    b->count = n;
    return SAE_OK;
}

/* ==== >>loop: the object ================================================== src/run/loop.h ==== */

enum { SAEI_NORM_BATCHES = 101 }; /* the reference asks for 100 and reads one more */

struct sae_training {
    sae_context *ctx;
    const char *who;          /* the public function that messages name */
    sae_train_desc desc;      /* save_dir, io and save_steps are copies, trainers is NULL */
    sae_buffer *buffer;
    size_t num_trainers, dim; /* dim of one trainer's rows */
    sae_trainer **trainers;
    char **folders;           /* of each trainer; NULL without save_dir */
    char *backup;             /* path of the backup; NULL without save_dir */
    sae_tensor *tensors;      /* of a backup */
    char (*names)[96];
    saei_text fingerprint;    /* every setting that decides the result, one per line */
    saei_text about_buffer, about_run; /* for config.json */
    sae_progress now;
    bool replaces;            /* the backup is an earlier run's: removed after the first step */
    bool failed;              /* an update failed half way: the trainers are not at one step */
};

/* ---- settings as text ---- */

static uint64_t saei_hash(uint64_t hash, const void *data, size_t size) { /* FNV-1a */
    const unsigned char *p = (const unsigned char *)data;
    while (size--) hash = (hash ^ *p++) * 0x100000001B3ull;
    return hash;
}
#define SAEI_HASH_START 0xCBF29CE484222325ull

/* Shapes, types and the first row of each part of the data: not names, which may move. */
static void saei_print_source(saei_text *t, sae_buffer *b) {
    size_t bytes;
    for (size_t s = 0; s < b->num_streams; s++) {
        const saei_stream *stream = &b->stream[s];
        saei_text_add(t, "%s.dim=%zu\n", s ? "target" : "data", stream->dim);
        bytes = stream->dim * sae_dtype_size(stream->dtype);
        for (size_t i = 0; i < stream->num_slabs; i++) {
            const saei_slab *slab = &stream->slabs[i];
            uint64_t hash = SAEI_HASH_START;
            if (slab->rows) {
                saei_stream_row(stream, slab->begin, (unsigned char *)b->out[s]);
                hash = saei_hash(hash, b->out[s], bytes);
            }
            saei_text_add(t, "%s.%zu=%llu rows of %s, the first %016llx\n",
                          s ? "target" : "data", i, (unsigned long long)slab->rows,
                          sae_dtype_name(slab->dtype), (unsigned long long)hash);
        }
    }
}

static void saei_loop_fingerprint(sae_training *l) {
    const sae_buffer_desc *b = &l->buffer->desc;
    saei_text *t = &l->fingerprint;
    saei_text_add(t, "version=" SAE_VERSION "\n");
    saei_text_add(t, "steps=%llu\n", (unsigned long long)l->desc.steps);
    saei_text_add(t, "normalize_activations=%d\n", (int)l->desc.normalize_activations);
    saei_text_add(t, "buffer.batch_size=%zu\nbuffer.rows=%zu\nbuffer.heads=%zu\n", b->batch_size,
                  b->rows, b->heads);
    saei_text_add(t, "buffer.sequential=%d\nbuffer.single_pass=%d\nbuffer.seed=%llu\n",
                  (int)b->sequential, (int)b->single_pass, (unsigned long long)b->seed);
    saei_text_add(t, "buffer.max_activation_norm_multiple=");
    saei_text_add_real(t, b->max_activation_norm_multiple);
    saei_text_add(t, "\n");
    saei_print_source(t, l->buffer);
    saei_text_add(t, "trainers=%zu\n", l->num_trainers);
    for (size_t i = 0; i < l->num_trainers; i++)
        saei_trainer_settings(t, i, sae_trainer_get_desc(l->trainers[i]));
}

/* ---- set up ---- */

static sae_result saei_loop_check(sae_context *ctx, const char *who, const sae_train_desc *d) {
    size_t heads;
    if (!d) return saei_fail(ctx, SAE_ERR_INVALID, "%s: desc is NULL", who);
    if (!d->trainers || !d->num_trainers)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: num_trainers is 0 or trainers is NULL", who);
    if (!d->steps)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: steps is 0, allowed is 1 or more", who);
    heads = d->buffer.heads;
    if (heads > 1 && d->num_trainers != heads)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: num_trainers is %zu, with %zu heads there must be one for each", who,
                         d->num_trainers, heads);
    if (d->flat && d->num_trainers > 1)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: flat is set, allowed is that with one trainer; there are %zu", who,
                         d->num_trainers);
    if (d->num_save_steps && !d->save_steps)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: save_steps is NULL, num_save_steps %zu", who,
                         d->num_save_steps);
    if (!d->save_dir && (d->num_save_steps || d->backup_steps || d->resume))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: save_steps, backup_steps and resume need a save_dir, which is NULL",
                         who);
    return SAE_OK;
}

/* The caller's desc with copies of what is read after create. */
static sae_result saei_loop_copy(sae_training *l, const sae_train_desc *from) {
    size_t n = from->num_save_steps;
    uint64_t *steps = n ? (uint64_t *)saei_alloc(l->ctx, n, sizeof *steps) : NULL;
    l->desc = *from;
    l->desc.trainers = NULL;
    l->desc.save_dir = from->save_dir ? saei_strdup(l->ctx, from->save_dir) : NULL;
    l->desc.io = from->io ? saei_strdup(l->ctx, from->io) : NULL;
    l->desc.save_steps = steps;
    if ((from->save_dir && !l->desc.save_dir) || (from->io && !l->desc.io) || (n && !steps))
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for save_dir, io and %zu "
                         "save_steps", l->who, n);
    if (n) memcpy(steps, from->save_steps, n * sizeof *steps);
    return SAE_OK;
}

static sae_result saei_loop_trainer(sae_training *l, size_t i, sae_trainer_desc d) {
    const sae_buffer_desc *b = &l->buffer->desc;
    if (!d.activation_dim) d.activation_dim = l->dim;
    if (!d.batch_size) d.batch_size = b->batch_size;
    if (!d.steps) d.steps = l->desc.steps;
    if (d.activation_dim != l->dim)
        return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                         "%s: activation_dim of trainer %zu is %zu, the data has rows of %zu",
                         l->who, i, d.activation_dim, l->dim);
    if (d.batch_size < b->batch_size)
        return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                         "%s: batch_size of trainer %zu is %zu, the buffer's is %zu", l->who, i,
                         d.batch_size, b->batch_size);
    sae_trainer_defaults(&d);
    return sae_trainer_create(l->ctx, &d, &l->trainers[i]);
}

static sae_result saei_loop_folders(sae_training *l) {
    const char *root = l->desc.save_dir;
    char name[40];
    if (!root) return SAE_OK;
    l->folders = (char **)saei_calloc(l->ctx, l->num_trainers, sizeof *l->folders);
    l->backup = saei_path_join(l->ctx, root, "backup.safetensors");
    if (!l->folders || !l->backup)
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for the paths of %zu trainers", l->who, l->num_trainers);
    for (size_t i = 0; i < l->num_trainers; i++) {
        snprintf(name, sizeof name, "trainer_%zu", i);
        l->folders[i] = l->desc.flat ? saei_strdup(l->ctx, root)
                                     : saei_path_join(l->ctx, root, name);
        if (!l->folders[i])
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the path %s/%s",
                             l->who, root, name);
        SAEI_TRY(saei_make_folder(l->ctx, l->who, l->folders[i]));
    }
    return SAE_OK;
}

static sae_result saei_loop_open(sae_training *l, const sae_train_desc *desc) {
    size_t n = l->num_trainers, most = n * SAEI_STATE_TENSORS + SAEI_BUFFER_TENSORS;
    SAEI_TRY(saei_loop_copy(l, desc));
    SAEI_TRY(sae_buffer_create(l->ctx, &desc->buffer, &l->buffer));
    l->dim = sae_buffer_dim(l->buffer) / l->buffer->desc.heads;
    l->trainers = (sae_trainer **)saei_calloc(l->ctx, n, sizeof *l->trainers);
    l->tensors = (sae_tensor *)saei_calloc(l->ctx, most, sizeof *l->tensors);
    l->names = (char(*)[96])saei_calloc(l->ctx, most, sizeof *l->names);
    if (!l->trainers || !l->tensors || !l->names)
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the names of %zu "
                         "tensors", l->who, most);
    l->now.trainers = l->trainers;
    for (size_t i = 0; i < n; i++) SAEI_TRY(saei_loop_trainer(l, i, desc->trainers[i]));
    saei_loop_fingerprint(l);
    if (l->fingerprint.failed)
        return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for the settings of %zu trainers", l->who, n);
    return saei_loop_folders(l);
}

SAE_API void sae_training_destroy(sae_training *l) {
    if (!l) return;
    for (size_t i = 0; l->trainers && i < l->num_trainers; i++) sae_trainer_destroy(l->trainers[i]);
    for (size_t i = 0; l->folders && i < l->num_trainers; i++) saei_free(l->ctx, l->folders[i]);
    sae_buffer_destroy(l->buffer);
    saei_free(l->ctx, l->trainers);
    saei_free(l->ctx, l->folders);
    saei_free(l->ctx, l->backup);
    saei_free(l->ctx, l->tensors);
    saei_free(l->ctx, l->names);
    saei_free(l->ctx, l->desc.save_dir);
    saei_free(l->ctx, l->desc.io);
    saei_free(l->ctx, l->desc.save_steps);
    saei_free(l->ctx, l->fingerprint.data);
    saei_free(l->ctx, l->about_buffer.data);
    saei_free(l->ctx, l->about_run.data);
    saei_free(l->ctx, l);
}

/* norm_factor = sqrt(mean over the first batches of their mean squared norm); rewinds the buffer.
   DEVIATION: with heads the norm is that of one head's rows; the reference's sum runs over the
   wrong axis there. */
static sae_result saei_loop_norm(sae_training *l) {
    double total = 0, mean;
    size_t batches = 0, n, width = sae_buffer_dim(l->buffer), heads = l->buffer->desc.heads;
    const float *x;
    for (; batches < SAEI_NORM_BATCHES; batches++) {
        double sum = 0;
        sae_result result = sae_buffer_next(l->buffer, &x, NULL, &n);
        if (result == SAE_ERR_END_OF_DATA && batches) break;
        if (result != SAE_OK) return result;
        for (size_t i = 0; i < n * width; i++) sum += (double)x[i] * (double)x[i];
        total += sum / ((double)n * (double)heads);
    }
    mean = total / (double)batches;
    l->now.norm_factor = (float)sqrt(mean);
    if (!(l->now.norm_factor > 0) || l->now.norm_factor > FLT_MAX)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "%s: normalize_activations finds a mean squared "
                         "norm of %g, allowed is a positive number", l->who, mean);
    return sae_buffer_rewind(l->buffer);
}

/* ---- diverged ---- */

/* Fails for a trainer whose last loss or whose parameters are not finite. */
static sae_result saei_loop_check_finite(sae_training *l, size_t i, const sae_stats *stats) {
    const sae_trainer_desc *d = sae_trainer_get_desc(l->trainers[i]);
    if (fabs(stats->loss) <= DBL_MAX) return SAE_OK;
    return saei_fail(l->ctx, SAE_ERR_INVALID,
                     "%s: trainer %zu (%s) diverged: its loss at step %llu is %g, allowed are "
                     "finite losses (try a smaller lr than %g)",
                     l->who, i, sae_trainer_name(d->kind), (unsigned long long)stats->step,
                     stats->loss, d->lr);
}

static sae_result saei_loop_check_weights(sae_training *l) {
    sae_stats stats;
    for (size_t i = 0; i < l->num_trainers; i++) {
        const sae_dictionary *dict = sae_trainer_dictionary(l->trainers[i]);
        if (l->now.step > l->now.start_step) { /* else there are no stats yet */
            SAEI_TRY(sae_trainer_stats(l->trainers[i], &stats));
            SAEI_TRY(saei_loop_check_finite(l, i, &stats));
        }
        if (!saei_all_finite(dict->params, dict->num_params))
            return saei_fail(l->ctx, SAE_ERR_INVALID,
                             "%s: trainer %zu diverged: its weights before step %llu hold NaN or "
                             "infinity", l->who, i, (unsigned long long)l->now.step);
    }
    return SAE_OK;
}

/* ==== >>loop: backup and resume ========================================= src/run/resume.h ==== */

/* A file that need not be there. */
static void saei_remove(const sae_context *ctx, const char *path) {
    if (ctx->io.remove) ctx->io.remove(path, ctx->io.user);
}

/* __metadata__ of an open .safetensors; NULL if it has none or no such key. */
static const char *saei_tensor_file_metadata(const sae_tensor_file *file, const char *key) {
    const sae_json *value = sae_json_get(file->metadata, key);
    return value ? value->string : NULL;
}

/* For what may fail without being an error: nothing is logged, and the last error stays. */
static sae_context saei_loop_quiet(const sae_training *l) {
    sae_context quiet = *l->ctx;
    quiet.logger.log = NULL;
    quiet.lock = 0;
    return quiet;
}

static bool saei_loop_exists(sae_training *l, const char *folder, const char *name) {
    const sae_context quiet = saei_loop_quiet(l);
    char *path = saei_path_join(l->ctx, folder, name);
    saei_path_kind kind = SAEI_PATH_NONE;
    if (path && saei_path_find(&quiet, l->who, path, &kind) != SAE_OK) kind = SAEI_PATH_NONE;
    saei_free(l->ctx, path);
    return kind == SAEI_PATH_FILE;
}

typedef enum saei_loop_found {
    SAEI_LOOP_NOTHING,
    SAEI_LOOP_THIS,
    SAEI_LOOP_ANOTHER
} saei_loop_found;

/* Of the fingerprint, as config.json has it. */
static void saei_loop_hash(const sae_training *l, char out[20]) {
    uint64_t hash = saei_hash(SAEI_HASH_START, l->fingerprint.data, l->fingerprint.size);
    snprintf(out, 20, "%016llx", (unsigned long long)hash);
}

/* Whose finished run a folder holds: of these settings and data, or of others. */
static saei_loop_found saei_loop_folder_holds(sae_training *l, const char *folder) {
    char hash[20], *path;
    sae_json *root = NULL;
    const sae_json *own, *steps, *print;
    saei_loop_found found = SAEI_LOOP_NOTHING;
    const sae_context quiet = saei_loop_quiet(l);
    if (!saei_loop_exists(l, folder, "config.json") || !saei_loop_exists(l, folder, "ae.pt")
        || !saei_loop_exists(l, folder, "ae.safetensors"))
        return found;
    path = saei_path_join(l->ctx, folder, "config.json");
    if (path && saei_json_load(&quiet, l->who, path, &root) == SAE_OK) {
        saei_loop_hash(l, hash);
        own = sae_json_get(root, "sae.h");
        steps = own ? sae_json_get(own, "finished_steps") : NULL;
        print = own ? sae_json_get(own, "fingerprint") : NULL;
        if (steps && steps->is_integer && steps->integer > 0)
            found = (uint64_t)steps->integer == l->desc.steps && print
                            && print->type == SAE_JSON_STRING && strcmp(print->string, hash) == 0
                        ? SAEI_LOOP_THIS
                        : SAEI_LOOP_ANOTHER;
        sae_json_close(root);
    }
    saei_free(l->ctx, path);
    return found;
}

static void saei_loop_remove_backup(sae_training *l) {
    char *temporary = saei_path_join(l->ctx, l->desc.save_dir, "backup.safetensors.tmp");
    saei_remove(l->ctx, l->backup);
    if (temporary) saei_remove(l->ctx, temporary); /* of a write that was killed */
    saei_free(l->ctx, temporary);
}

/* Whether the file at l->backup is a backup, of whatever run. */
static bool saei_loop_backup_is_ours(sae_training *l) {
    sae_tensor_file *file = NULL;
    bool ours = sae_tensor_file_open(l->ctx, l->backup, &file) == SAE_OK
                && saei_tensor_file_metadata(file, "settings");
    sae_tensor_file_close(file);
    return ours;
}

/* One file for all: tensors "trainer_I.NAME" and "buffer.NAME"; step, the norm factor's bits and
   the settings as metadata. Written under another name, synced, renamed: whenever the program is
   killed, one whole backup is there. */
static sae_result saei_loop_backup(sae_training *l) {
    static const char *const keys[] = { "version", "step", "norm_factor", "settings" };
    const char *values[4];
    saei_content content = { l->backup, NULL, 0, keys, values, 4 };
    char step[24], factor[12], prefix[40];
    size_t total = 0, count = 0, of = l->num_trainers;
    uint32_t bits;
    SAEI_TRY(saei_loop_check_weights(l));
    for (size_t i = 0; i <= of; i++) {
        sae_tensor *t = l->tensors + total;
        if (i < of) {
            SAEI_TRY(saei_trainer_state_get(l->trainers[i], l->who, t, &count));
            snprintf(prefix, sizeof prefix, "trainer_%zu.", i);
        } else {
            saei_buffer_state_get(l->buffer, t, &count);
            snprintf(prefix, sizeof prefix, "buffer.");
        }
        for (size_t j = 0; j < count; j++) {
            snprintf(l->names[total + j], sizeof *l->names, "%s%.48s", prefix, t[j].name);
            t[j].name = l->names[total + j];
        }
        total += count;
    }
    snprintf(step, sizeof step, "%llu", (unsigned long long)l->now.step);
    memcpy(&bits, &l->now.norm_factor, sizeof bits);
    snprintf(factor, sizeof factor, "%08lx", (unsigned long)bits);
    values[0] = SAE_VERSION;
    values[1] = step;
    values[2] = factor;
    values[3] = l->fingerprint.data;
    content.tensors = l->tensors;
    content.count = total;
    SAEI_TRY(saei_content_write(l->ctx, &content, NULL));
    l->replaces = false; /* an earlier run's is gone */
    return SAE_OK;
}

/* Fails, naming the first line that differs. */
static sae_result saei_loop_compare(sae_training *l, const char *settings) {
    const char *a = settings, *b = l->fingerprint.data;
    if (strcmp(a, b) == 0) return SAE_OK;
    for (;;) {
        size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");
        if (na != nb || memcmp(a, b, na) != 0)
            return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                             "%s: %s belongs to other settings: it has \"%.*s\", now it is "
                             "\"%.*s\"", l->who, l->backup, (int)saei_min(na, 120), a,
                             (int)saei_min(nb, 120), b);
        if (!a[na] || !b[nb]) break;
        a += na + 1;
        b += nb + 1;
    }
    return saei_fail(l->ctx, SAE_ERR_MISMATCH, "%s: %s belongs to other settings", l->who,
                     l->backup);
}

static sae_result saei_loop_restore_from(sae_training *l, const sae_tensor_file *file) {
    const char *step = saei_tensor_file_metadata(file, "step");
    const char *factor = saei_tensor_file_metadata(file, "norm_factor");
    const char *settings = saei_tensor_file_metadata(file, "settings");
    char prefix[40], *end;
    unsigned long long at;
    uint32_t bits;
    if (!step || !factor || !settings)
        return saei_fail(l->ctx, SAE_ERR_FORMAT, "%s: %s is no backup of sae_train", l->who,
                         l->backup);
    SAEI_TRY(saei_loop_compare(l, settings));
    errno = 0;
    at = strtoull(step, &end, 10);
    if (errno || *end || end == step || at > l->desc.steps)
        return saei_fail(l->ctx, SAE_ERR_FORMAT, "%s: %s is damaged: step is \"%.40s\"", l->who,
                         l->backup, step);
    bits = (uint32_t)strtoul(factor, &end, 16);
    memcpy(&l->now.norm_factor, &bits, sizeof bits);
    if (*end || end == factor || !(l->now.norm_factor > 0) || l->now.norm_factor > FLT_MAX)
        return saei_fail(l->ctx, SAE_ERR_FORMAT,
                         "%s: %s is damaged: norm_factor is \"%.40s\"", l->who, l->backup,
                         factor);
    for (size_t i = 0; i < l->num_trainers; i++) {
        snprintf(prefix, sizeof prefix, "trainer_%zu.", i);
        SAEI_TRY(saei_trainer_state_set(l->trainers[i], l->who, file, prefix));
    }
    SAEI_TRY(saei_buffer_state_set(l->buffer, l->who, file, "buffer."));
    l->now.step = l->now.start_step = at;
    return SAE_OK;
}

static sae_result saei_loop_restore(sae_training *l) {
    sae_tensor_file *file;
    sae_result result;
    SAEI_TRY(sae_tensor_file_open(l->ctx, l->backup, &file));
    result = saei_loop_restore_from(l, file);
    sae_tensor_file_close(file);
    if (result == SAE_OK)
        saei_log(l->ctx, SAE_LOG_INFO, "%s: goes on at step %llu of %llu", l->who,
                 (unsigned long long)l->now.step, (unsigned long long)l->desc.steps);
    return result;
}

/* ==== >>loop: the folders of a run ====================================== src/run/saving.h ==== */

/* The dictionary of trainer i in raw units, to folder/name, and to folder/second if given. */
static sae_result saei_loop_save(sae_training *l, size_t i, const char *folder, const char *name,
                                 const char *second) {
    sae_dictionary *copy = NULL;
    sae_result result = saei_dictionary_copy(sae_trainer_dictionary(l->trainers[i]), l->who, &copy);
    if (result != SAE_OK) return result;
    if (l->desc.normalize_activations)
        result = sae_dictionary_scale_biases(copy, l->now.norm_factor);
    for (int k = 0; k < 2 && result == SAE_OK && (k == 0 || second); k++) {
        char *path = saei_path_join(l->ctx, folder, k ? second : name);
        if (path) result = sae_dictionary_save(copy, path);
        else result = saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for the path %s/%s",
                                l->who, folder, k ? second : name);
        saei_free(l->ctx, path);
    }
    sae_dictionary_destroy(copy);
    return result;
}

static sae_result saei_loop_checkpoints(sae_training *l) {
    char name[40];
    SAEI_TRY(saei_loop_check_weights(l));
    snprintf(name, sizeof name, "ae_%llu.pt", (unsigned long long)l->now.step);
    for (size_t i = 0; i < l->num_trainers; i++) {
        char *folder = saei_path_join(l->ctx, l->folders[i], "checkpoints");
        sae_result result;
        if (!folder)
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY,
                             "%s: no memory for the path %s/checkpoints", l->who, l->folders[i]);
        result = saei_make_folder(l->ctx, l->who, folder);
        if (result == SAE_OK) result = saei_loop_save(l, i, folder, name, NULL);
        saei_free(l->ctx, folder);
        if (result != SAE_OK) return result;
    }
    return SAE_OK;
}

/* config.json of all trainers. "buffer" has the reference's keys, as other programs ask for them;
   where nobody says how long contexts are, rows count as contexts of 128, the reference's default.
   keep: do not overwrite that of a finished run. */
static sae_result saei_loop_configs(sae_training *l, uint64_t finished, bool keep) {
    const sae_buffer_desc *b = &l->buffer->desc;
    saei_text *t = &l->about_buffer, *own = &l->about_run;
    size_t ctx_len = l->desc.ctx_len ? l->desc.ctx_len : 128;
    const char *io = l->desc.io ? l->desc.io : l->buffer->num_streams == 2 ? "in_and_out" : "out";
    char hash[20];
    saei_loop_hash(l, hash);
    for (size_t i = 0; l->folders && i < l->num_trainers; i++) {
        const sae_trainer_desc *d = sae_trainer_get_desc(l->trainers[i]);
        if (keep && saei_loop_folder_holds(l, l->folders[i]) != SAEI_LOOP_NOTHING) continue;
        t->size = own->size = 0;
        saei_text_add(t, "{\"d_submodule\": %zu, \"io\": ", l->dim);
        saei_text_add_json_string(t, io);
        saei_text_add(t, ", \"n_ctxs\": %zu, \"ctx_len\": %zu, \"refresh_batch_size\": 512, "
                      "\"out_batch_size\": %zu, \"device\": \"cpu\"}",
                      saei_ceil_div(b->rows, ctx_len), ctx_len, b->batch_size);
        saei_text_add(own, "{\"version\": \"" SAE_VERSION "\", \"norm_factor\": ");
        if (l->desc.normalize_activations) saei_text_add_real(own, (double)l->now.norm_factor);
        else saei_text_add(own, "null");
        saei_text_add(own, ", \"seed\": %llu, \"buffer_seed\": %llu, \"steps\": %llu, "
                      "\"finished_steps\": %llu, \"fingerprint\": \"%s\"}",
                      (unsigned long long)d->seed, (unsigned long long)b->seed,
                      (unsigned long long)l->desc.steps, (unsigned long long)finished, hash);
        if (t->failed || own->failed)
            return saei_fail(l->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %s/config.json",
                             l->who, l->folders[i]);
        SAEI_TRY(saei_config_write(l->ctx, l->who, l->folders[i], d, t->data, own->data));
    }
    return SAE_OK;
}

/* The dictionaries of all trainers as they stand; again does nothing. */
static sae_result saei_loop_finish(sae_training *l) {
    if (l->now.finished) return SAE_OK;
    SAEI_TRY(saei_loop_check_weights(l));
    if (l->folders) {
        SAEI_TRY(saei_loop_configs(l, 0, false)); /* until the weights are there: not finished */
        for (size_t i = 0; i < l->num_trainers; i++)
            SAEI_TRY(saei_loop_save(l, i, l->folders[i], "ae.pt", "ae.safetensors"));
        SAEI_TRY(saei_loop_configs(l, l->now.step, false));
        saei_loop_remove_backup(l);
    }
    l->now.finished = true;
    return SAE_OK;
}

/* ==== >>loop: steps ====================================================== src/run/steps.h ==== */

/* Whether the folders hold this very run, finished. Fails if one holds another's. */
static sae_result saei_loop_is_finished(sae_training *l, bool *finished) {
    size_t same = 0;
    for (size_t i = 0; i < l->num_trainers; i++)
        switch (saei_loop_folder_holds(l, l->folders[i])) {
        case SAEI_LOOP_NOTHING: break;
        case SAEI_LOOP_THIS: same++; break;
        case SAEI_LOOP_ANOTHER:
            return saei_fail(l->ctx, SAE_ERR_MISMATCH,
                             "%s: %s holds a finished run of other settings or data, with which "
                             "resume cannot go on: take another save_dir, or leave resume out to "
                             "replace it", l->who, l->folders[i]);
        }
    *finished = same == l->num_trainers;
    return SAE_OK;
}

/* All that comes before the first step of this process. */
static sae_result saei_loop_begin(sae_training *l) {
    saei_path_kind kind = SAEI_PATH_NONE;
    bool backup;
    if (l->backup) SAEI_TRY(saei_path_find(l->ctx, l->who, l->backup, &kind));
    backup = kind == SAEI_PATH_FILE;
    if (l->desc.resume) {
        if (backup) return saei_loop_restore(l);
        SAEI_TRY(saei_loop_is_finished(l, &l->now.finished));
        if (l->now.finished) {
            saei_log(l->ctx, SAE_LOG_INFO, "%s: %s is finished, nothing to do", l->who,
                     l->desc.save_dir);
            l->now.step = l->now.start_step = l->desc.steps;
            return SAE_OK;
        }
        saei_log(l->ctx, SAE_LOG_WARNING, "%s: no backup to resume from, begins anew", l->who);
    } else if (backup) {
        if (!saei_loop_backup_is_ours(l))
            return saei_fail(l->ctx, SAE_ERR_INVALID,
                             "%s: %s is no backup of sae_train, which would be written there: move "
                             "it, or take another save_dir", l->who, l->backup);
        l->replaces = true;
    }
    if (l->desc.normalize_activations) SAEI_TRY(saei_loop_norm(l));
    return saei_loop_configs(l, 0, true);
}

/* The checkpoints and the backup that are due before the next update. */
static sae_result saei_loop_save_due(sae_training *l) {
    const sae_train_desc *d = &l->desc;
    uint64_t step = l->now.step;
    bool save = false;
    for (size_t i = 0; i < d->num_save_steps; i++) save |= d->save_steps[i] == step;
    if (save) SAEI_TRY(saei_loop_checkpoints(l));
    if (d->backup_steps && step > l->now.start_step && step % d->backup_steps == 0)
        SAEI_TRY(saei_loop_backup(l));
    return SAE_OK;
}

/* One update of every trainer on the next batch; with log, its stats are given to desc.log. */
static sae_result saei_loop_update(sae_training *l, const float *x, const float *target, size_t n,
                                   bool log) {
    size_t width = sae_buffer_dim(l->buffer);
    sae_stats stats;
    for (size_t i = 0; i < l->num_trainers; i++) {
        size_t from = l->buffer->desc.heads > 1 ? i * l->dim : 0;
        sae_rows rows[2];
        memset(rows, 0, sizeof rows);
        rows[0].data = x + from;
        rows[1].data = target ? target + from : NULL;
        rows[0].stride = rows[1].stride = width;
        SAEI_TRY(saei_trainer_step_rows(l->trainers[i], rows, target ? rows + 1 : NULL, n,
                                        l->now.norm_factor));
    }
    l->now.step++;
    l->now.rows += n;
    for (size_t i = 0; log && i < l->num_trainers; i++) {
        SAEI_TRY(sae_trainer_stats(l->trainers[i], &stats));
        l->desc.log(l->desc.user, i, &stats);
        SAEI_TRY(saei_loop_check_finite(l, i, &stats));
    }
    return SAE_OK;
}

/* Fails with nothing changed, and may be called again, or sets failed. */
static sae_result saei_loop_step(sae_training *l) {
    const sae_train_desc *d = &l->desc;
    uint64_t step = l->now.step;
    bool log = d->log && d->log_steps && (step % d->log_steps == 0 || step + 1 == d->steps);
    const float *x = NULL, *target = NULL;
    sae_result result;
    size_t n = 0;
    SAEI_TRY(saei_loop_save_due(l));
    SAEI_TRY(sae_buffer_next(l->buffer, &x, &target, &n));
    result = saei_loop_update(l, x, target, n, log);
    l->failed = result != SAE_OK;
    if (result == SAE_OK && l->replaces) {
        saei_log(l->ctx, SAE_LOG_WARNING, "%s: removes %s, the backup of an earlier run", l->who,
                 l->backup);
        saei_loop_remove_backup(l);
        l->replaces = false;
    }
    return result;
}

/* ---- the object ---- */

static sae_result saei_training_create(sae_context *ctx, const char *who,
                                       const sae_train_desc *desc, sae_training **out) {
    sae_training *l;
    sae_result result;
    SAEI_TRY(saei_loop_check(ctx, who, desc));
    l = (sae_training *)saei_calloc(ctx, 1, sizeof *l);
    if (!l) {
        saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory", who);
        return SAE_ERR_OUT_OF_MEMORY; /* spelled out for static analysers */
    }
    l->ctx = ctx;
    l->fingerprint.ctx = l->about_buffer.ctx = l->about_run.ctx = ctx;
    l->who = who;
    l->num_trainers = l->now.num_trainers = desc->num_trainers;
    l->now.steps = desc->steps;
    l->now.norm_factor = 1;
    result = saei_loop_open(l, desc);
    if (result == SAE_OK) result = saei_loop_begin(l);
    if (result == SAE_OK) *out = l;
    else sae_training_destroy(l);
    return result;
}

SAE_API sae_result sae_training_create(sae_context *ctx, const sae_train_desc *desc,
                                       sae_training **out) {
    if (!ctx) return SAE_ERR_INVALID;
    if (!out) return saei_fail(ctx, SAE_ERR_INVALID, "sae_training_create: out is NULL");
    return saei_training_create(ctx, "sae_training_create", desc, out);
}

SAE_API const sae_progress *sae_training_progress(const sae_training *l) {
    return l ? &l->now : NULL;
}

/* What every call asks first. */
static sae_result saei_training_check(sae_training *l, const char *who) {
    if (!l) return SAE_ERR_INVALID;
    l->who = who;
    if (!l->failed) return SAE_OK;
    return saei_fail(l->ctx, SAE_ERR_INVALID, "%s: an update failed after %llu steps, after which "
                     "a run can only be resumed from its last backup, or begun anew", who,
                     (unsigned long long)l->now.step);
}

SAE_API sae_result sae_training_step(sae_training *l) {
    SAEI_TRY(saei_training_check(l, "sae_training_step"));
    if (l->now.finished || l->now.step == l->now.steps)
        return saei_fail(l->ctx, SAE_ERR_INVALID,
                         "sae_training_step: %llu of %llu steps are done%s",
                         (unsigned long long)l->now.step, (unsigned long long)l->now.steps,
                         l->now.finished ? " and the run is finished" : "");
    return saei_loop_step(l);
}

SAE_API sae_result sae_training_save(sae_training *l) {
    SAEI_TRY(saei_training_check(l, "sae_training_save"));
    if (!l->backup)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "sae_training_save: save_dir is NULL, a backup "
                         "needs one");
    if (l->now.finished)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "sae_training_save: the run is finished");
    return saei_loop_backup(l);
}

SAE_API sae_result sae_training_finish(sae_training *l) {
    SAEI_TRY(saei_training_check(l, "sae_training_finish"));
    if (!l->now.step)
        return saei_fail(l->ctx, SAE_ERR_INVALID, "sae_training_finish: no step is done, at least "
                         "1 is needed");
    return saei_loop_finish(l);
}

/* ---- sae_train ---- */

/* When the data ends early, what was trained is saved all the same. */
static sae_result saei_train_run(sae_training *l) {
    const sae_train_desc *d = &l->desc;
    while (!l->now.finished && l->now.step < d->steps) {
        sae_result result = saei_loop_step(l);
        if (result == SAE_ERR_END_OF_DATA && l->now.step) {
            SAEI_TRY(saei_loop_finish(l));
            return saei_fail(l->ctx, result, "sae_train: the data ended after %llu of %llu steps%s",
                             (unsigned long long)l->now.step, (unsigned long long)d->steps,
                             l->folders ? "; what was trained is saved" : "");
        }
        if (result != SAE_OK) return result;
        if (!d->progress || d->progress(d->user, &l->now) || l->now.step == d->steps) continue;
        if (d->backup_steps) SAEI_TRY(saei_loop_backup(l));
        return saei_fail(l->ctx, SAE_ERR_CANCELLED,
                         "sae_train: progress stopped it after %llu of %llu steps",
                         (unsigned long long)l->now.step, (unsigned long long)d->steps);
    }
    return saei_loop_finish(l);
}

SAE_API sae_result sae_train(sae_context *ctx, const sae_train_desc *desc) {
    sae_training *training;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    SAEI_TRY(saei_training_create(ctx, "sae_train", desc, &training));
    result = saei_train_run(training);
    sae_training_destroy(training);
    return result;
}

/* ==== >>metrics ======================================================== src/run/metrics.h ==== */

enum { SAEI_EVALUATE_ENTRIES = 4 << 20 }; /* latents encoded at a time, if not bounded */

typedef struct saei_evaluator {
    sae_context *ctx;
    const sae_evaluate_desc *desc;
    const sae_dictionary *dict;
    sae_buffer *buffer;
    sae_buffer *targets;        /* of another width than the input, row by row with it; or NULL */
    size_t d, out, m, n, chunk; /* n rows of the batch, encoded chunk by chunk */
    sae_sparse code;
    float *scaled[2], *x_hat; /* [batch,d], [batch,out]; scaled only with normalize_batch */
    float *norms;             /* [m] decoder norms of STANDARD_NEW, whose features carry them */
    double *active;           /* [m] sums of the latents */
    double *columns;          /* [2,out] */
    double l1, l0;            /* of the batch, summed */
    sae_metrics sum;
} saei_evaluator;

static sae_result saei_evaluate_plan(saei_evaluator *v) {
    const sae_dictionary *dict = v->dict;
    size_t batch = v->buffer->desc.batch_size, capacity, k = dict->desc.k;
    bool top_k = dict->rule == SAE_RULE_TOP_K && dict->desc.arch != SAE_ARCH_TOP_K;
    if (dict->desc.k_fraction > 0) k++;
    v->d = dict->desc.activation_dim;
    v->out = saei_output_dim(&dict->desc);
    v->m = dict->desc.arch == SAE_ARCH_IDENTITY ? v->d : dict->desc.dict_size;
    if (sae_buffer_dim(v->buffer) != v->d)
        return saei_fail(v->ctx, SAE_ERR_MISMATCH, "sae_evaluate: the data has rows of %zu, the "
                         "dictionary takes %zu", sae_buffer_dim(v->buffer), v->d);
    v->chunk = batch; /* batch top-k chooses over the whole batch */
    if (!top_k) v->chunk = saei_min(batch, saei_max((size_t)SAEI_EVALUATE_ENTRIES / v->m, 1));
    if (!saei_mul(v->chunk, top_k ? k : v->m, &capacity))
        return saei_fail(v->ctx, SAE_ERR_INVALID, "sae_evaluate: batch_size is %zu, too large",
                         batch);
    v->code.capacity = capacity;
    v->code.row_begin = (size_t *)saei_alloc(v->ctx, v->chunk + 1, sizeof *v->code.row_begin);
    v->code.latent = (uint32_t *)saei_alloc(v->ctx, capacity, sizeof *v->code.latent);
    v->code.value = (float *)saei_alloc(v->ctx, capacity, sizeof *v->code.value);
    v->x_hat = (float *)saei_alloc(v->ctx, batch * v->out, sizeof *v->x_hat);
    v->active = (double *)saei_calloc(v->ctx, v->m, sizeof *v->active);
    v->columns = (double *)saei_alloc(v->ctx, 2 * v->out, sizeof *v->columns);
    if (dict->desc.arch == SAE_ARCH_STANDARD_NEW)
        v->norms = (float *)saei_alloc(v->ctx, v->m, sizeof *v->norms);
    if (v->desc->normalize_batch) {
        v->scaled[0] = (float *)saei_alloc(v->ctx, batch * v->d, sizeof(float));
        v->scaled[1] = (float *)saei_alloc(v->ctx, batch * v->out, sizeof(float));
    }
    if (!v->code.row_begin || !v->code.latent || !v->code.value || !v->x_hat || !v->active
        || !v->columns || (dict->desc.arch == SAE_ARCH_STANDARD_NEW && !v->norms)
        || (v->desc->normalize_batch && (!v->scaled[0] || !v->scaled[1])))
        return saei_fail(v->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_evaluate: no memory");
    for (size_t i = 0; v->norms && i < v->m; i++) {
        const float *w = dict->W_dec + i * dict->ld_out;
        double sum = 0;
        for (size_t j = 0; j < v->out; j++) sum += (double)w[j] * (double)w[j];
        v->norms[i] = (float)sqrt(sum);
    }
    return SAE_OK;
}

static void saei_evaluate_close(saei_evaluator *v) {
    saei_free(v->ctx, v->code.row_begin);
    saei_free(v->ctx, v->code.latent);
    saei_free(v->ctx, v->code.value);
    saei_free(v->ctx, v->x_hat);
    saei_free(v->ctx, v->active);
    saei_free(v->ctx, v->columns);
    saei_free(v->ctx, v->norms);
    saei_free(v->ctx, v->scaled[0]);
    saei_free(v->ctx, v->scaled[1]);
    sae_buffer_destroy(v->buffer);
    sae_buffer_destroy(v->targets);
}

/* x / mean norm(x) * sqrt(d); the target is scaled likewise. */
static void saei_evaluate_scale(saei_evaluator *v, const float **x, const float **target) {
    const float *from[2];
    double total = 0;
    float mean, root = (float)sqrt((double)v->d);
    from[0] = *x;
    from[1] = *target;
    for (size_t i = 0; i < v->n; i++) {
        double sum = 0;
        for (size_t j = 0; j < v->d; j++) {
            double value = (double)(*x)[i * v->d + j];
            sum += value * value;
        }
        total += sqrt(sum);
    }
    mean = (float)(total / (double)v->n);
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; from[s] && i < v->n * (s ? v->out : v->d); i++)
            v->scaled[s][i] = from[s][i] / mean * root;
    *x = v->scaled[0];
    if (*target) *target = v->scaled[1];
}

/* x_hat of the batch, with l1, l0 and active of its latents. */
static sae_result saei_evaluate_forward(saei_evaluator *v, const float *x) {
    sae_result result = SAE_OK;
    v->l1 = v->l0 = 0;
    if (v->dict->desc.arch == SAE_ARCH_IDENTITY) {
        memcpy(v->x_hat, x, v->n * v->d * sizeof *x);
        for (size_t i = 0; i < v->n * v->d; i++) {
            v->l1 += fabs((double)x[i]);
            v->l0 += x[i] != 0;
            v->active[i % v->d] += (double)x[i];
        }
        return SAE_OK;
    }
    for (size_t at = 0, n; at < v->n; at += n) {
        n = saei_min(v->chunk, v->n - at);
        result = sae_encode_sparse(v->dict, x + at * v->d, n, &v->code);
        if (result == SAE_OK)
            result = sae_decode_sparse(v->dict, &v->code, n, v->x_hat + at * v->out);
        if (result == SAE_OK)
            result = sae_decode_finish(v->dict, x + at * v->d, n, v->x_hat + at * v->out);
        if (result != SAE_OK) return result;
        for (size_t i = 0; i < v->code.row_begin[n]; i++) {
            uint32_t latent = v->code.latent[i];
            float f = v->norms ? v->code.value[i] * v->norms[latent] : v->code.value[i];
            v->l1 += fabs((double)f);
            v->l0 += f != 0;
            v->active[latent] += (double)f;
        }
    }
    return SAE_OK;
}

/* Sum over the columns of the unbiased variance of y, or of y - x_hat. In another order than the
   backend's, which takes blocks of rows and an e that was rounded to floats. */
static double saei_evaluate_variance(saei_evaluator *v, const float *y, const float *x_hat) {
    double *mean = v->columns, *square = v->columns + v->out, total = 0;
    memset(v->columns, 0, 2 * v->out * sizeof *v->columns);
    for (size_t i = 0; i < v->n; i++)
        for (size_t j = 0; j < v->out; j++)
            mean[j] += (double)y[i * v->out + j] - (x_hat ? (double)x_hat[i * v->out + j] : 0);
    for (size_t j = 0; j < v->out; j++) mean[j] /= (double)v->n;
    for (size_t i = 0; i < v->n; i++)
        for (size_t j = 0; j < v->out; j++) {
            double e = (double)y[i * v->out + j] - (x_hat ? (double)x_hat[i * v->out + j] : 0);
            square[j] += (e - mean[j]) * (e - mean[j]);
        }
    for (size_t j = 0; j < v->out; j++) total += square[j];
    return v->n > 1 ? total / (double)(v->n - 1) : (double)NAN;
}

static sae_result saei_evaluate_batch(saei_evaluator *v, const float *x, const float *target) {
    const float *y;
    double l2 = 0, cossim = 0, ratio = 0, squares = 0, dots = 0, count = (double)v->n;
    if (v->desc->normalize_batch) saei_evaluate_scale(v, &x, &target);
    y = target ? target : x;
    SAEI_TRY(saei_evaluate_forward(v, x));
    for (size_t i = 0; i < v->n; i++) {
        const float *a = y + i * v->out, *b = v->x_hat + i * v->out;
        double aa = 0, bb = 0, ab = 0, ee = 0;
        for (size_t j = 0; j < v->out; j++) {
            double p = (double)a[j], q = (double)b[j], e = p - q;
            aa += p * p;
            bb += q * q;
            ab += p * q;
            ee += e * e;
        }
        l2 += sqrt(ee);
        cossim += ab / (sqrt(aa) * sqrt(bb));
        ratio += sqrt(bb) / sqrt(aa);
        squares += bb;
        dots += ab;
    }
    v->sum.l2_loss += l2 / count;
    v->sum.l1_loss += v->l1 / count;
    v->sum.l0 += v->l0 / count;
    v->sum.cossim += cossim / count;
    v->sum.l2_ratio += ratio / count;
    v->sum.relative_reconstruction_bias += squares / dots;
    v->sum.frac_variance_explained += 1 - saei_evaluate_variance(v, y, v->x_hat) /
                                              saei_evaluate_variance(v, y, NULL);
    return SAE_OK;
}

/* One pass over the data, whole batches only (or a single short one). */
static sae_result saei_evaluate_run(saei_evaluator *v) {
    uint64_t done = 0, want = v->desc->batches;
    size_t batch = v->buffer->desc.batch_size;
    double alive = 0, count;
    const float *x, *target;
    SAEI_TRY(saei_evaluate_plan(v));
    while (!want || done < want) {
        sae_result result = sae_buffer_next(v->buffer, &x, &target, &v->n);
        size_t targets = v->n;
        if (result == SAE_OK && v->targets)
            result = sae_buffer_next(v->targets, &target, NULL, &targets);
        bool end = result == SAE_ERR_END_OF_DATA || (result == SAE_OK && done && v->n < batch);
        if (end && want)
            return saei_fail(v->ctx, SAE_ERR_END_OF_DATA,
                             "sae_evaluate: batches is %llu, the source "
                             "has %llu of %zu rows",
                             (unsigned long long)want, (unsigned long long)done, batch);
        if (end && done) break;
        if (result != SAE_OK) return result;
        SAEI_TRY(saei_evaluate_batch(v, x, target));
        done++;
    }
    count = (double)done;
    for (size_t i = 0; i < v->m; i++) alive += v->active[i] != 0;
#define SAE_X(name) v->sum.name /= count;
    SAE_METRICS(SAE_X)
#undef SAE_X
    v->sum.frac_alive = alive / (double)v->m;
    return SAE_OK;
}

/* Where x_hat is not as wide as the input, the targets get a buffer of their own; both go in the
   order of the files. */
static sae_result saei_evaluate_targets(saei_evaluator *v, sae_buffer_desc *buffer) {
    size_t d = v->dict->desc.activation_dim, out = saei_output_dim(&v->dict->desc);
    sae_source_desc *source = &buffer->source;
    sae_buffer_desc targets;
    if (d == out) return SAE_OK;
    if (source->read || (!source->target && !source->num_target_files))
        return saei_fail(v->ctx, SAE_ERR_INVALID,
                         "sae_evaluate: the dictionary gives %zu numbers for "
                         "%zu: the source needs a target in memory or files",
                         out, d);
    buffer->sequential = true;
    targets = *buffer;
    targets.source.data = source->target;
    targets.source.files = source->target_files;
    targets.source.num_files = source->num_target_files;
    targets.source.dim = source->dim ? out : 0;
    source->target = targets.source.target = NULL;
    source->target_files = targets.source.target_files = NULL;
    source->num_target_files = targets.source.num_target_files = 0;
    SAEI_TRY(saei_buffer_new(v->ctx, &targets, true, &v->targets));
    if (sae_buffer_dim(v->targets) == out) return SAE_OK;
    return saei_fail(v->ctx, SAE_ERR_MISMATCH, "sae_evaluate: the target has rows of %zu, the "
                     "dictionary gives %zu", sae_buffer_dim(v->targets), out);
}

SAE_API sae_result sae_evaluate(const sae_dictionary *dict, const sae_evaluate_desc *desc,
                                sae_metrics *out) {
    sae_context *ctx;
    saei_evaluator v;
    sae_buffer_desc buffer;
    sae_result result;
    if (!dict) return SAE_ERR_INVALID;
    ctx = dict->ctx;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_evaluate: desc or out is NULL");
    memset(&v, 0, sizeof v);
    v.ctx = ctx;
    v.desc = desc;
    v.dict = dict;
    buffer = desc->buffer;
    buffer.single_pass = true;
    result = saei_evaluate_targets(&v, &buffer);
    if (result == SAE_OK) result = saei_buffer_new(ctx, &buffer, true, &v.buffer);
    if (result == SAE_OK && v.targets
        && sae_buffer_source_rows(v.targets) != sae_buffer_source_rows(v.buffer))
        result = saei_fail(ctx, SAE_ERR_MISMATCH,
                           "sae_evaluate: the target has %llu rows, the input "
                           "%llu",
                           (unsigned long long)sae_buffer_source_rows(v.targets),
                           (unsigned long long)sae_buffer_source_rows(v.buffer));
    if (result == SAE_OK) result = saei_evaluate_run(&v);
    if (result == SAE_OK) *out = v.sum;
    saei_evaluate_close(&v);
    return result;
}

SAE_API sae_result sae_geometric_median(sae_context *ctx, const float *x, size_t n, size_t d,
                                        float *out) {
    const sae_backend *cpu = sae_cpu_backend();
    sae_work w;
    size_t bytes, ld = saei_align16(d);
    float *rows;
    bool good;
    if (!ctx) return SAE_ERR_INVALID;
    if (!x || !out || !n || !d || n > INT32_MAX || d > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_geometric_median: n is %zu, d is %zu (or an array is "
                         "NULL), allowed are 1 to %d",
                         n, d, INT32_MAX);
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.shape.batch = n;
    w.shape.d = d;
    w.shape.ld = ld;
    w.shape.dict_size = 1;
    bytes = cpu->scratch_bytes(&w, &w.shape);
    w.scratch = bytes == SIZE_MAX ? NULL : saei_alloc(ctx, bytes, 1);
    rows = (float *)saei_calloc(ctx, n + 1, ld * sizeof(float));
    good = w.scratch && rows;
    if (good) {
        for (size_t r = 0; r < n; r++) memcpy(rows + (r + 1) * ld, x + r * d, d * sizeof *x);
        cpu->geometric_median(&w, rows + ld, n, rows);
        memcpy(out, rows, d * sizeof *out);
    }
    saei_free(ctx, w.scratch);
    saei_free(ctx, rows);
    if (good) return SAE_OK;
    return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_geometric_median: no memory for %zu rows", n);
}

/* ==== >>metrics: gradient pursuit ====================================== src/run/pursuit.h ==== */

enum { SAEI_PURSUIT_PARTS = 64 };

typedef struct saei_pursuit {
    const sae_dictionary *dict;
    const float *x;
    float *f;
    size_t n, target_l0, parts;
    double *rows;     /* [parts][2,d]: residual, c */
    double *gradient; /* [parts][target_l0] */
    size_t *chosen;   /* [parts][target_l0] */
} saei_pursuit;

/* Four running sums. A product of two floats is exact in double, so fusing changes no bit. */
static double saei_pursuit_dot(const float *w, const double *r, size_t d) {
    double s[4] = { 0, 0, 0, 0 };
    size_t j = 0;
    for (; j + 4 <= d; j += 4)
        for (size_t i = 0; i < 4; i++) s[i] += (double)w[j + i] * r[j + i];
    for (; j < d; j++) s[0] += (double)w[j] * r[j];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* target_l0 times: residual r = x - f W; add the latent of the largest W r to the chosen; along
   their gradient g = W r the best step is (c.r) / (c.c), c = g W; f = max(f + step g, 0).
   DEVIATION: where c is 0 the reference divides 0 by 0; here the row stays as it is. */
static void saei_pursuit_row(const saei_pursuit *p, size_t part, size_t row) {
    const sae_dictionary *dict = p->dict;
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size, count = 0;
    size_t *chosen = p->chosen + part * p->target_l0;
    double *r = p->rows + part * 2 * d, *c = r + d, *gradient = p->gradient + part * p->target_l0;
    float *f = p->f + row * m;
    for (size_t round = 0; round < p->target_l0; round++) {
        double best = 0, cr = 0, cc = 0, step;
        size_t latent = 0, at = 0;
        for (size_t j = 0; j < d; j++) r[j] = (double)p->x[row * d + j];
        for (size_t k = 0; k < count; k++) {
            const float *w = dict->W_dec + chosen[k] * dict->ld_out;
            double value = (double)f[chosen[k]];
            for (size_t j = 0; j < d; j++) r[j] -= value * (double)w[j];
        }
        for (size_t j = 0; j < d; j++) r[j] = (double)(float)r[j];
        for (size_t i = 0; i < m; i++) {
            double inner = saei_pursuit_dot(dict->W_dec + i * dict->ld_out, r, d);
            if (i == 0 || inner > best) {
                best = inner;
                latent = i;
            }
        }
        while (at < count && chosen[at] != latent) at++;
        if (at == count) chosen[count++] = latent;
        memset(c, 0, d * sizeof *c);
        for (size_t k = 0; k < count; k++) {
            const float *w = dict->W_dec + chosen[k] * dict->ld_out;
            gradient[k] = (double)(float)saei_pursuit_dot(w, r, d);
            for (size_t j = 0; j < d; j++) c[j] += gradient[k] * (double)w[j];
        }
        for (size_t j = 0; j < d; j++) {
            c[j] = (double)(float)c[j];
            cr += c[j] * r[j];
            cc += c[j] * c[j];
        }
        if (!(cc > 0)) break;
        step = (double)(float)(cr / cc);
        for (size_t k = 0; k < count; k++) {
            float value = (float)((double)f[chosen[k]] + step * gradient[k]);
            f[chosen[k]] = value > 0 ? value : 0;
        }
    }
}

static void saei_pursuit_part(void *arg, size_t part) {
    const saei_pursuit *p = (const saei_pursuit *)arg;
    for (size_t row = part; row < p->n; row += p->parts) saei_pursuit_row(p, part, row);
}

SAE_API sae_result sae_grad_pursuit(const sae_dictionary *dict, const float *x, size_t n,
                                    size_t target_l0, float *f) {
    saei_pursuit p;
    size_t size, bytes, d;
    if (!dict) return SAE_ERR_INVALID;
    if (!dict->W_dec || saei_output_dim(&dict->desc) != dict->desc.activation_dim)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_grad_pursuit: %s",
                         dict->W_dec ? "output_dim is not activation_dim"
                                     : "IdentityDict has no decoder");
    if (!n) return SAE_OK;
    if (!x || !f)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_grad_pursuit: %s is NULL",
                         x ? "f" : "x");
    if (target_l0 > dict->desc.dict_size)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_grad_pursuit: target_l0 is %zu, allowed is "
                         "at most dict_size = %zu",
                         target_l0, dict->desc.dict_size);
    if (!saei_mul(n, dict->desc.dict_size, &size) || !saei_mul(size, sizeof *f, &bytes))
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_grad_pursuit: n is %zu, too large", n);
    p.dict = dict;
    p.x = x;
    p.f = f;
    p.n = n;
    p.target_l0 = target_l0;
    p.parts = saei_min(n, SAEI_PURSUIT_PARTS);
    size = saei_max(p.parts * target_l0, 1);
    d = dict->desc.activation_dim;
    p.rows = (double *)saei_alloc(dict->ctx, p.parts, 2 * d * sizeof *p.rows);
    p.gradient = (double *)saei_alloc(dict->ctx, size, sizeof *p.gradient);
    p.chosen = (size_t *)saei_alloc(dict->ctx, size, sizeof *p.chosen);
    if (p.rows && p.gradient && p.chosen) {
        memset(f, 0, bytes);
        saei_parallel(dict->ctx, p.parts, saei_pursuit_part, &p);
    }
    saei_free(dict->ctx, p.rows);
    saei_free(dict->ctx, p.gradient);
    saei_free(dict->ctx, p.chosen);
    if (!p.rows || !p.gradient || !p.chosen)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_grad_pursuit: no memory");
    return SAE_OK;
}

/* ==== >>experiments ================================================ src/run/experiments.h ==== */

typedef struct saei_ghosts {
    saei_infer infer;
    const uint8_t *mask;
    float *out; /* [n,d] */
} saei_ghosts;

/* Rows through panels; latents ascend, so the sums are in the rows order. */
static void saei_ghost_rows(const saei_ghosts *g, const saei_room *room, size_t r0, size_t rows) {
    const saei_infer *q = &g->infer;
    const sae_dictionary *dict = q->dict;
    size_t d = dict->desc.activation_dim;
    memset(g->out + r0 * d, 0, rows * d * sizeof(float));
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < count; j++) {
                const float *row = dict->W_dec + (first + j) * dict->ld_out;
                float *out = g->out + (r0 + r) * d, p, e;
                if (!g->mask[first + j]) continue;
                p = room->product[r * SAEI_PANEL + j] + dict->b_enc[first + j];
                e = (float)saei_exp((double)p);
                for (size_t c = 0; c < d; c++) out[c] = fmaf(e, row[c], out[c]);
            }
    }
}

static SAEI_NOINLINE void saei_ghost_block(const saei_ghosts *g, size_t r0, size_t end) {
    saei_small_block small;
    saei_room room = saei_room_take(g->infer.dict->ctx, &small);
    for (size_t r = r0; r < end; r += room.rows)
        saei_ghost_rows(g, &room, r, saei_min(room.rows, end - r));
    saei_room_leave(&room);
}

static void saei_ghost_part(void *arg, size_t part) {
    const saei_ghosts *g = (const saei_ghosts *)arg;
    saei_ghost_block(g, part * SAEI_BLOCK_ROWS, saei_part_end(part, SAEI_BLOCK_ROWS, g->infer.n));
}

SAE_API sae_result sae_forward_ghost(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint8_t *mask, float *x_ghost) {
    saei_ghosts g;
    sae_rows rows;
    memset(&g, 0, sizeof g);
    SAEI_TRY(saei_infer_check_rows(dict, "sae_forward_ghost", saei_rows_of(x, &rows),
                                   !mask ? "mask" : !x_ghost ? "x_ghost" : NULL, n,
                                   dict ? dict->desc.dict_size : 0, &g.infer.x));
    if (dict->desc.arch != SAE_ARCH_STANDARD || !saei_is_plain(&dict->desc))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_forward_ghost: the dictionary is %s%s, only "
                         "AutoEncoder has a ghost mode",
                         sae_arch_name(dict->desc.arch),
                         saei_is_plain(&dict->desc) ? "" : " with variations");
    g.infer.dict = dict;
    g.infer.n = n;
    g.infer.count = dict->desc.dict_size;
    g.mask = mask;
    g.out = x_ghost;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_ghost_part, &g);
    return SAE_OK;
}

SAE_API void sae_output_features(const sae_dictionary *dict, size_t n, float *f) {
    if (!dict || !f || dict->desc.arch != SAE_ARCH_STANDARD_NEW) return;
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        const float *row = dict->W_dec + i * dict->ld_out;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        for (size_t r = 0; r < n; r++) f[r * dict->desc.dict_size + i] *= norm;
    }
}

#endif

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* SAE_IMPLEMENTATION */

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif

#if defined(SAE_CUDA) && (defined(SAE_CUDA_IMPLEMENTATION) || defined(__CUDACC__))
#include "sae_cuda.cuh"
#endif
#endif /* SAEI_IMPLEMENTED */

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
