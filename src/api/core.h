#pragma once
#include "base.h"

/* The version of the compiled library, as SAE_VERSION was there. */
SAE_API const char *sae_version(void);

/* ==== >>api: results ========================================================================== */

/* Every call that can fail returns one of these; sae_error() has the sentence that names the
   function, the field, the value given and the values allowed. Out-parameters are untouched on
   failure. */
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

/* The name of a result code, for example "SAE_ERR_FORMAT". Never NULL. */
SAE_API const char *sae_result_name(sae_result result);

/* ==== >>api: context ========================================================================== */

/* A context owns what the other objects share: allocator, logger, threads, backend, last error.
   One thread may create, train or load with it at a time; inference on a const dictionary is safe
   from any number of threads. Objects must be destroyed before their context. Calls that return a
   sae_result take a NULL object for SAE_ERR_INVALID, destroy and close take it for nothing to do;
   other getters want a live one unless they say so. Arrays for results are unspecified after a
   failure, all other out-parameters untouched. A desc is all zero by `= {0}` in C, `= {}` in
   C++. */
typedef struct sae_context sae_context;

typedef enum sae_log_level { SAE_LOG_ERROR, SAE_LOG_WARNING, SAE_LOG_INFO } sae_log_level;

typedef struct sae_allocator { /* called from any thread; free never with NULL */
    void *(*alloc)(size_t size, void *user); /* NULL: no memory; aligned for any type */
    void (*free)(void *memory, void *user);
    void *user;
} sae_allocator;

typedef struct sae_logger {
    /* From any thread. result: of an error; SAE_OK with the other levels. */
    void (*log)(sae_log_level level, sae_result result, const char *message, void *user);
    void *user;
} sae_logger;

/* Where files are read and written: an archive, a virtual file system, memory. Paths are passed on
   as they were given to the library, folder and name joined by "/"; a folder is a prefix of paths.
   Called from the thread that called the library, on one file at a time. Return SAE_OK or an error,
   which the caller gets. */
typedef struct sae_io {
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
} sae_io;

/* Threads of the caller's. run calls fn(arg, part, worker) once for every part < parts, in any
   order and on any threads, its own among them, and returns when all have returned. worker is below
   the desc's `threads`, and no two parts of one run that are at work at the same time share it.
   run is called by every thread that calls the library, so by several at once, and may be called
   from inside a part. */
typedef void (*sae_part_fn)(void *arg, size_t part, size_t worker);
typedef struct sae_pool {
    void (*run)(size_t parts, sae_part_fn fn, void *arg, void *user);
    void *user;
} sae_pool;

typedef struct sae_backend sae_backend; /* >>backend */

typedef struct sae_context_desc {
    sae_allocator allocator;    /* default: malloc and free */
    sae_logger logger;          /* default: silent */
    sae_io io;                  /* default: the system's files, mapped; paths are UTF-8 on Windows.
                                   With SAE_NO_STDIO there is no default: loading from memory works
                                   without */
    sae_pool pool;              /* default: OpenMP, where sae.h is compiled with it, else the
                                   calling thread alone */
    int threads;                /* at most 1024; default 0: all (OpenMP's choice). With a pool
                                   required: the number of its workers. Results do not depend
                                   on it */
    const sae_backend *backend; /* default NULL: the CPU */
    const void *backend_desc;   /* what the backend wants to know, for example a sae_cuda_desc;
                                   default NULL: its own defaults. Must live as long as ctx */
    const char *instruction_set; /* default NULL: the best this CPU has; "portable", on x86 "avx2",
                                    "avx512" or "avx512vnni", on ARM "neon" forces one. Results do
                                    not depend on it. */
} sae_context_desc;

/* desc may be NULL. Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY (there is no context to ask
   then, but desc->logger is told). */
SAE_API sae_result sae_context_create(const sae_context_desc *desc, sae_context **out);
SAE_API void sae_context_destroy(sae_context *ctx); /* NULL is fine */

/* The sentence about the last failed call; "" if none failed. Valid until the next failure, so for
   one thread; where several may fail at once, take a copy (cut to size, NUL-terminated). */
SAE_API const char *sae_error(const sae_context *ctx);
SAE_API void sae_error_copy(const sae_context *ctx, char *out, size_t size);

/* ==== >>api: element types and tensors ======================================================== */

typedef enum sae_dtype {
    SAE_DTYPE_DEFAULT = 0, /* F32 */
    SAE_F32, SAE_F16, SAE_BF16, SAE_F64,
    SAE_I8, SAE_U8, SAE_I16, SAE_U16, SAE_I32, SAE_U32, SAE_I64, SAE_U64, SAE_BOOL
} sae_dtype;
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

/* ==== >>api: dictionaries ===================================================================== */

/* dictionary_learning's classes. All decode as x_hat = sum_i f_i W_dec[i] + b_dec. Dictionaries of
   other programs are one of them with variations (see the desc). Encode:
     STANDARD      f = relu(W_enc (x - b_dec) + b_enc)                               AutoEncoder
     STANDARD_NEW  f = relu(W_enc x + b_enc)                                         AutoEncoderNew
     GATED         u = W_enc (x - b_dec); f = [u + gate_bias > 0] relu(exp(r_mag) u + mag_bias)
     TOP_K         p = relu(W_enc (x - b_dec) + b_enc); the k largest of the row     AutoEncoderTopK
     BATCH_TOP_K   the same p; p where p > threshold                                 BatchTopKSAE
     MATRYOSHKA    as BATCH_TOP_K; latents past the active groups are 0    MatryoshkaBatchTopKSAE
     JUMP_RELU     p = W_enc x + b_enc; f = relu(p [p > threshold_i])           JumpReluAutoEncoder
     IDENTITY      f = x, x_hat = f                                                  IdentityDict */
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
    SAE_ARCH_DEFAULT = 0, /* what the trainer's reference uses */
#define SAE_X(name, value, text) name = value,
    SAE_ARCHS(SAE_X)
#undef SAE_X
} sae_arch;

/* How TOP_K, BATCH_TOP_K and MATRYOSHKA choose at inference. */
typedef enum sae_rule {
    SAE_RULE_DEFAULT = 0, /* TOP_K: top_k; the batch classes: threshold */
    SAE_RULE_TOP_K,       /* TOP_K: k of each row; the batch classes: k times rows of the batch */
    SAE_RULE_THRESHOLD    /* p > threshold; a threshold of -1 ("never set") lets everything pass */
} sae_rule;

#define SAE_MAX_GROUPS 64 /* of a Matryoshka dictionary */

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

typedef struct sae_dictionary sae_dictionary;

typedef struct sae_dictionary_desc {
    sae_arch arch;                   /* required */
    size_t activation_dim;           /* required: d */
    size_t dict_size;                /* required: m; IDENTITY: d */
    size_t k;                        /* TOP_K, BATCH_TOP_K, MATRYOSHKA: required, 1..m */
    size_t group_sizes[SAE_MAX_GROUPS]; /* MATRYOSHKA: required, sums to m */
    size_t num_groups;
    bool subtract_b_dec;             /* JUMP_RELU: p = W_enc (x - b_dec) + b_enc */
    uint64_t seed;                   /* of the initialisation */
    /* Variations, for the files of other programs; all 0: the class as it stands above. x below is
       the row as input_norm leaves it, raw x the row as given. Trainers take none of them. */
    bool no_b_dec_subtraction; /* the other classes: p = W_enc x + b_enc, b_dec not subtracted */
    sae_activation activation;
    double k_fraction;           /* batch top-k keeps floor((k + k_fraction) n); 0 <= it < 1 */
    sae_input_norm input_norm;
    bool output_normalized;              /* input_norm is not undone on x_hat */
    size_t output_dim;           /* of x_hat, W_dec and b_dec (transcoders); default d */
    bool skip;                   /* x_hat += W_skip raw x, W_skip [output_dim,d] */
} sae_dictionary_desc;

/* Initialised as the reference initialises the class: directions of equal length drawn for W_dec,
   W_enc the same; biases 0, but for STANDARD's b_enc, uniform within 1/sqrt(d); threshold -1,
   JUMP_RELU's 0.001. Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_dictionary_create(sae_context *ctx, const sae_dictionary_desc *desc,
                                         sae_dictionary **out);
SAE_API void sae_dictionary_destroy(sae_dictionary *dict);

SAE_API sae_result sae_dictionary_copy(const sae_dictionary *dict, sae_dictionary **out);
/* What sae_dictionary_create would ask of the allocator. Errors: SAE_ERR_INVALID. */
SAE_API sae_result sae_dictionary_memory(const sae_dictionary_desc *desc, size_t *bytes);

/* What it is: the desc it was made from (seed 0 if it came from a file), output_dim filled in.
   Owned by dict. */
SAE_API const sae_dictionary_desc *sae_dictionary_get_desc(const sae_dictionary *dict);
SAE_API const char *sae_arch_name(sae_arch arch); /* the reference's class name */

/* Rule at inference; active_groups 0 means all. Errors: SAE_ERR_INVALID (does not fit the
   class). */
SAE_API sae_result sae_dictionary_set_rule(sae_dictionary *dict, sae_rule rule);
SAE_API sae_rule sae_dictionary_rule(const sae_dictionary *dict); /* DEFAULT: it has no choice */
SAE_API sae_result sae_dictionary_set_active_groups(sae_dictionary *dict, size_t active_groups);

/* The scalar threshold (-1: never set) of TOP_K, BATCH_TOP_K, MATRYOSHKA; 0 for the others. */
SAE_API float sae_dictionary_threshold(const sae_dictionary *dict);

/* Row i of the decoder, W_dec[i], output_dim floats: the direction of latent i; and of the encoder,
   W_enc[i], d floats. Owned by dict, valid while it lives; NULL if i >= m or the class has none. */
SAE_API const float *sae_dictionary_decoder_row(const sae_dictionary *dict, size_t latent);
SAE_API const float *sae_dictionary_encoder_row(const sae_dictionary *dict, size_t latent);

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

/* Makes encode, encode_sparse and forward of 8 rows or more faster (2 times and more for sparse
   latents on CPUs with AVX-512 VNNI; elsewhere nothing happens), with the same bits: keeps W_enc in
   16 bit with the dictionary, 2 m d bytes, and scratch memory per thread. Batches with more than
   about m/20 latents per row gain nothing; after several of them the fast path is turned off. Lasts
   until the parameters or the rule change (set_tensor, scale_biases, normalize_decoder, set_rule).
   Like these it changes dict, so no other thread may use dict meanwhile; afterwards any number may.
   Errors: SAE_ERR_OUT_OF_MEMORY (the dictionary is as it was). */
SAE_API sae_result sae_dictionary_prepare(sae_dictionary *dict);

/* ==== >>api: inference ======================================================================== */

/* Rows of activations wherever they lie. */
typedef struct sae_rows {
    const void *data;  /* required: [n,d] */
    sae_dtype dtype;   /* F32 (default), F16, BF16 */
    size_t stride;     /* elements from one row to the next; default d */
    bool on_device;    /* in the backend's memory, and ready in the order of its stream; may be
                          written again in the order of that stream. Default: host memory */
} sae_rows;

/* Latents of n rows as lists. Row r occupies [row_begin[r], row_begin[r+1]) of latent and value;
   latents ascend inside a row; only f != 0 is listed. The caller owns all three arrays. */
typedef struct sae_sparse {
    size_t *row_begin; /* [n + 1] */
    uint32_t *latent;  /* [capacity] */
    float *value;      /* [capacity] */
    size_t capacity;   /* sae_dictionary_capacity(dict, n) is enough */
} sae_sparse;

/* Entries that the lists of n rows may need: n*k under SAE_RULE_TOP_K (the batch classes:
   floor((k + k_fraction) n)), else n*m. SIZE_MAX: more than can be counted. */
SAE_API size_t sae_dictionary_capacity(const sae_dictionary *dict, size_t n);

/* Inference. dict is const and is not changed; callable from many threads at once. x [n,d] and the
   outputs are the caller's and may not overlap; outputs are densely packed, x_hat is
   [n,output_dim]. Rows with NaN or infinity give unspecified latents in these rows alone. Bits do
   not depend on n, threads or instruction set (but for batch top-k, which chooses over the n rows
   together).
   A call uses at most 16 KB of stack on every thread that works for it, and allocates nothing,
   except under SAE_RULE_TOP_K: the batch classes 8 n m + 4 n + 2^18 bytes, and sae_forward without
   f where k > 512 1024 k + 1024 bytes per thread (all a little rounded up). Calls work in memory
   that the context has: for as many at once as it has threads, and at least 4; further ones work
   in smaller pieces, more slowly.
   Each call is there twice: for float rows one after the other, and for rows of any kind in host
   memory (_rows); the bits are those of the rows converted to float32 first.
   Errors: SAE_ERR_INVALID (NULL, n too large, capacity too small: the message says how much),
   SAE_ERR_OUT_OF_MEMORY (of what is allocated). */
SAE_API sae_result sae_encode(const sae_dictionary *dict, const float *x, size_t n, float *f);
SAE_API sae_result sae_encode_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                   float *f);
SAE_API sae_result sae_encode_sparse(const sae_dictionary *dict, const float *x, size_t n,
                                     sae_sparse *out);
SAE_API sae_result sae_encode_sparse_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          sae_sparse *out);
/* f [n,count] of the latents named (each < m). Rules that compare a latent with others (top-k) do
   not apply: these classes give p > max(threshold, 0), or relu(p) while the threshold is unset, or
   p where latents are signed. */
SAE_API sae_result sae_encode_subset(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint32_t *latents, size_t count, float *f);
SAE_API sae_result sae_encode_subset_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          const uint32_t *latents, size_t count, float *f);
SAE_API sae_result sae_decode(const sae_dictionary *dict, const float *f, size_t n, float *x_hat);
SAE_API sae_result sae_decode_sparse(const sae_dictionary *dict, const sae_sparse *code, size_t n,
                                     float *x_hat);
/* What decode cannot know without x: puts the row's norm back (input_norm) and adds W_skip x. x_hat
   [n,output_dim] is decode's, changed in place; nothing happens to dictionaries with neither. */
SAE_API sae_result sae_decode_finish(const sae_dictionary *dict, const float *x, size_t n,
                                     float *x_hat);
SAE_API sae_result sae_decode_finish_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          float *x_hat);
/* encode, decode, finish; f may be NULL. */
SAE_API sae_result sae_forward(const sae_dictionary *dict, const float *x, size_t n, float *x_hat,
                               float *f);
SAE_API sae_result sae_forward_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                    float *x_hat, float *f);

/* ==== >>api: load and save ==================================================================== */

typedef struct sae_load_desc {
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
    const void *config; /* the text of the config file; default: that beside the file, none for */
    size_t config_size; /* memory */
    const char *name; /* from memory: what the file is called, as a path would say it, for what only
                         a name tells: the format, where tensors do not; hook and layer. May be
                         NULL */
} sae_load_desc;

/* Opens a folder or the file of the weights in it, of any format of sae_format; of
   dictionary_learning any .pt or .safetensors with its tensors, a crashed run's nested ae.pt too.
   Orientation follows from the format and is held against the shapes, never guessed. What the
   formats fold into the weights is folded (decoder norms, a known scale of the activations). desc
   may be NULL. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_FORMAT, SAE_ERR_UNSUPPORTED, SAE_ERR_MISMATCH,
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_dictionary_load(sae_context *ctx, const sae_load_desc *desc,
                                       const char *path, sae_dictionary **out);
/* The same of one file's bytes (.safetensors, .pt, .npz), which are read where they lie, at any
   alignment, and are not needed afterwards. */
SAE_API sae_result sae_dictionary_load_memory(sae_context *ctx, const sae_load_desc *desc,
                                              const void *data, size_t size, sae_dictionary **out);
/* Writes the state_dict under the reference's names: ".pt" or ".safetensors" by the path's ending.
   Written to PATH.tmp, synced, then renamed: a crash leaves the old file. Errors: SAE_ERR_IO,
   SAE_ERR_OUT_OF_MEMORY, SAE_ERR_UNSUPPORTED (a dictionary with variations). */
SAE_API sae_result sae_dictionary_save(const sae_dictionary *dict, const char *path);
/* The same into memory: *data [*size] becomes the bytes that a file called name would have. It is
   of the context's allocator; sae_context_free takes it back. */
SAE_API sae_result sae_dictionary_save_memory(const sae_dictionary *dict, const char *name,
                                              void **data, size_t *size);
SAE_API void sae_context_free(sae_context *ctx, void *memory); /* NULL is fine */

/* ==== >>api: steering ========================================================================= */

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
   reconstruct stays in x, and a row whose latents are at their targets keeps its bits. All f are of
   x as it was before the call; a latent named twice counts twice. f of the steered x is near the
   targets, not equal to them: directions overlap.
   f is that of sae_encode, rule included: under SAE_RULE_TOP_K a latent not among the k of its row
   has f = 0, so that SCALE and ABLATE leave it alone and SET moves it by the whole value. Where
   input_norm is undone on x_hat, the directions are scaled back to the row's units with it.
   dict is const; callable from many threads at once; stack and memory as for inference. Cost per
   row: count d, and m d more where a mode other than ADD meets a top-k rule and a latent that may
   be among the k.
   Errors: SAE_ERR_INVALID (NULL, a latent >= m, a mode or value not allowed, more than
   SAE_MAX_STEERINGS), SAE_ERR_UNSUPPORTED (SAE_RULE_TOP_K of the batch classes with n > 1 and a
   mode other than ADD: it would choose over all rows together; a transcoder that shows as one:
   skip, or another output_dim). x is untouched then. */
SAE_API sae_result sae_steer(const sae_dictionary *dict, float *x, size_t n,
                             const sae_steering *steerings, size_t count);
/* x->data is written; numbers of 16 bit are rounded to the nearest, ties to even. */
SAE_API sae_result sae_steer_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                  const sae_steering *steerings, size_t count);

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
