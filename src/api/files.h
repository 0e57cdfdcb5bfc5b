#pragma once
#include "dictionary.h"

/* ==== >>api: files ============================================================================ */

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
    /* Optional: entry(name, arg) for each file and folder in the folder path, in any order. NULL:
       nobody can say what a folder holds. */
    sae_result (*list)(const char *path, void (*entry)(const char *name, void *arg), void *arg,
                       void *user);
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
      "JumpReluTrainer", "TrainerJumpRelu")                                                        \
    X(SAE_TRAINER_CROSSCODER, 10, SAE_ARCH_STANDARD_NEW, "crosscoder",                             \
      "CrossCoderTrainer", "CrossCoderTrainer")                                                    \
    X(SAE_TRAINER_BATCH_TOP_K_CROSSCODER, 11, SAE_ARCH_BATCH_TOP_K, "batch_top_k_crosscoder",      \
      "BatchTopKCrossCoderTrainer", "BatchTopKCrossCoderTrainer")                                  \
    X(SAE_TRAINER_SPARSIFY, 12, SAE_ARCH_TOP_K, "sparsify",                                        \
      "SparsifyTrainer", "SparsifyTrainer")

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
    X(SAE_FORMAT_OPENAI, 7, "openai")               /* the .pt alone */                            \
    X(SAE_FORMAT_LLAMASCOPIUM, 8, "llamascopium")   /* sae_weights.* + config.json; and            \
                                                       lm-saes 1, of R1-distill */                 \
    X(SAE_FORMAT_CIRCUIT_TRACER, 9, "circuit_tracer") /* layer_N.safetensors + config.yaml */      \
    X(SAE_FORMAT_QWEN_SCOPE, 10, "qwen_scope")      /* layerN.sae.pt + config.json */              \
    X(SAE_FORMAT_GOODFIRE, 11, "goodfire")          /* the .pt or .pth alone */                    \
    X(SAE_FORMAT_ATTENTION_OUT, 12, "attention_out") /* STEM.pt + STEM_cfg.json */                 \
    X(SAE_FORMAT_SCIENCE_OF_FINETUNING, 13, "science_of_finetuning") /* crosscoders: model.pt, or  \
                                                       model.safetensors + config.json */          \
    X(SAE_FORMAT_CKKISSANE, 14, "ckkissane")        /* crosscoders: cc_weights.pt + cfg.json */    \
    X(SAE_FORMAT_CLT_FORGE, 15, "clt_forge")        /* clt_weights.safetensors + clt_cfg.json */   \
    X(SAE_FORMAT_CLT_TRAINING, 16, "clt_training")  /* a folder a layer, as sparsify's */

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
    double input_scale; /* the weights are for x times this, which is folded into them, and x_hat is
                       divided by it. Default 0: they are for x, or the file says for what */
};

/* Where a dictionary came from. Texts are "" where the file does not say. */
typedef struct sae_origin {
    sae_format format;    /* NONE: it was made here */
    char class_name[48];  /* as that program calls it: "jumprelu_transcoder" */
    sae_dtype dtype;      /* of the encoder in the file */
    char model[96];       /* the language model */
    char hook[96];        /* the place in it: "blocks.3.hook_resid_post", "layers.3.mlp" */
    char hook_out[96];    /* transcoders: the place whose rows it gives, where that is another */
    char dataset[96];
    char version[32];     /* of that program */
    char model_options[96]; /* with which the model was opened, as far as they change its rows:
                               "center_writing_weights" */
    int64_t layer;        /* -1: not known */
    bool one_head;        /* its rows are those of head `head` of the place, counted from 0 */
    size_t head;
    size_t context_size;  /* 0: not known */
    int prepend_bos;      /* contexts begin with bos: 1 yes, -1 no, 0 not known */
    bool no_special;      /* rows of special tokens (bos among them) are left out */
    int64_t positions[3]; /* of a context whose rows it has, as Python slices: first, end, step;
                             an end of INT64_MAX: none. step 0: all */
    size_t dict_size, k;  /* of the file, all of whose latents may not be here (sae_load_desc) */
    size_t first_latent;
} sae_origin;
/* Lives as long as dict. */
SAE_API const sae_origin *sae_dictionary_origin(const sae_dictionary *dict);

#ifndef SAE_NO_FORMATS /* which leaves the reference's .safetensors, and .npy */
typedef struct sae_export_desc {
    sae_format format;         /* required: DICTIONARY_LEARNING, SAE_LENS or SPARSIFY */
    const sae_origin *origin;  /* model, hook, layer, ...; default: the dictionary's own */
    const float *log_sparsity; /* SAE_LENS: [m] log10(how often each latent fires + 1e-10), into
                                  sparsity.safetensors; NULL: no such file */
    bool raw;                  /* DICTIONARY_LEARNING: leave the decoder's norms */
    bool safetensors;          /* DICTIONARY_LEARNING: ae.safetensors in place of ae.pt; a build
                                  with SAE_NO_FORMATS opens it */
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
#endif

/* ---- tensors of any container ---- */

/* Tensors of any container: .npy, .npz, .safetensors, .pt, and .gguf (versions 2 and 3, little
   endian; its sizes reversed, so that rows come first). The file stays mapped while open (in
   memory, where sae_io cannot map). A tensor of a type that is known by name alone is listed, with
   data NULL.
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
   reads whole. Errors: SAE_ERR_FORMAT (damaged), SAE_ERR_UNSUPPORTED (this tensor's type is known
   by name alone), SAE_ERR_INVALID. */
SAE_API sae_result sae_tensor_file_check(sae_tensor_file *file, const sae_tensor *tensor);
/* Row-major tensors of plain types (strides are ignored) into one file, the kind by the path's
   ending: .npy (one tensor), .npz, .safetensors, .pt. Errors: SAE_ERR_INVALID,
   SAE_ERR_NOT_FOUND (the folder), SAE_ERR_UNSUPPORTED, SAE_ERR_OUT_OF_MEMORY, SAE_ERR_IO. */
SAE_API sae_result sae_tensor_file_write(sae_context *ctx, const char *path,
                                         const sae_tensor *tensors, size_t count);
/* The same into memory: the bytes that a file of that name would have, for sae_context_free. */
SAE_API sae_result sae_tensor_file_write_memory(sae_context *ctx, const char *name,
                                                const sae_tensor *tensors, size_t count,
                                                void **data, size_t *size);
