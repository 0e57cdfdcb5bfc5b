#pragma once
#include "core.h"

/* ==== >>api: schedules and optimizers ========================================================= */

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

/* Adam (Kingma & Ba 2015) as PyTorch's: eps outside the root, bias-corrected, no weight decay. */
typedef struct sae_adam_desc {
    double lr;    /* required */
    double beta1; /* literal: 0 is 0 */
    double beta2;
    double eps;
} sae_adam_desc;

/* One update of count parameters; t counts from 1. first and second are the moments, zero before
   t = 1, [count] each; first may be NULL when beta1 is 0. No errors: NULL or count 0 do nothing. */
SAE_API void sae_adam_step(const sae_adam_desc *adam, uint64_t t, float *param, const float *grad,
                           float *first, float *second, size_t count);
/* ConstrainedAdam on rows of unit norm: removes from each row of grad its part along the row of
   param (grad is changed), Adam, then divides each row by its norm. param [rows,dim]. */
SAE_API void sae_constrained_adam_step(const sae_adam_desc *adam, uint64_t t, float *param,
                                       float *grad, float *first, float *second, size_t rows,
                                       size_t dim);
/* Scales all grads by min(1, max_norm / (norm + 1e-6)), norm over all of them; returns norm. */
SAE_API double sae_clip_grad_norm(float *const *grads, const size_t *counts, size_t num_grads,
                                  double max_norm);
/* The two halves of the constraint: rows of grad lose grad.w w, w = row/(norm + eps); rows of param
   are divided by (norm + eps). */
SAE_API void sae_remove_parallel(const float *param, float *grad, size_t rows, size_t dim,
                                 float eps);
SAE_API void sae_normalize_rows(float *param, size_t rows, size_t dim, float eps);

typedef enum sae_dtype {
    SAE_DTYPE_DEFAULT = 0, /* F32 */
    SAE_F32, SAE_F16, SAE_BF16, SAE_F64,
    SAE_I8, SAE_U8, SAE_I16, SAE_U16, SAE_I32, SAE_U32, SAE_I64, SAE_U64, SAE_BOOL
} sae_dtype;
SAE_API size_t sae_dtype_size(sae_dtype dtype);
SAE_API const char *sae_dtype_name(sae_dtype dtype); /* "F32" */

/* ==== >>api: trainers ========================================================================= */

/* NAME on the command line and in messages, and the reference's class. */
#define SAE_TRAINERS(X)                                                                            \
    X(SAE_TRAINER_STANDARD, 1, "standard", "StandardTrainer")                                      \
    X(SAE_TRAINER_STANDARD_APRIL, 2, "standard_april", "StandardTrainerAprilUpdate")               \
    X(SAE_TRAINER_GATED, 3, "gated", "GatedSAETrainer")                                            \
    X(SAE_TRAINER_GATED_ANNEAL, 4, "gated_anneal", "GatedAnnealTrainer")                           \
    X(SAE_TRAINER_P_ANNEAL, 5, "p_anneal", "PAnnealTrainer")                                       \
    X(SAE_TRAINER_TOP_K, 6, "top_k", "TopKTrainer")                                                \
    X(SAE_TRAINER_BATCH_TOP_K, 7, "batch_top_k", "BatchTopKTrainer")                               \
    X(SAE_TRAINER_MATRYOSHKA, 8, "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer")           \
    X(SAE_TRAINER_JUMP_RELU, 9, "jumprelu", "JumpReluTrainer")

typedef enum sae_trainer_kind {
    SAE_TRAINER_DEFAULT = 0, /* SAE_TRAINER_TOP_K */
#define SAE_X(name, value, text, reference) name = value,
    SAE_TRAINERS(SAE_X)
#undef SAE_X
} sae_trainer_kind;

SAE_API const char *sae_trainer_name(sae_trainer_kind kind);
SAE_API const char *sae_trainer_class(sae_trainer_kind kind);
/* From either name; false (out untouched) if it is neither. */
SAE_API bool sae_trainer_from_name(const char *name, sae_trainer_kind *out);

typedef enum sae_sparsity_function {
    SAE_SPARSITY_DEFAULT = 0, /* L1; P_ANNEAL: LP; GATED_ANNEAL: LP_P */
    SAE_SPARSITY_L1,          /* mean sum_i f_i */
    SAE_SPARSITY_ENTROPY,     /* STANDARD: mean of -sum q log(q + 1e-8), q = f / (sum f + 1e-8) */
    SAE_SPARSITY_LP,          /* the annealers: mean (sum f^p)^(1/p) */
    SAE_SPARSITY_LP_P         /* the annealers: mean sum f^p */
} sae_sparsity_function;

/* Hyperparameters under the reference's names. Zero means the reference's default, given behind
   each; SAE_NONE switches a step count off; a negative number means 0 where 0 makes sense
   (l1_penalty, auxk_alpha, sparsity_penalty, threshold_beta, max_grad_norm). */
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
    int64_t layer;
} sae_trainer_desc;

/* Sets every field left at 0 to its default, in place. activation_dim, dict_size and steps must be
   known. Idempotent. */
SAE_API void sae_trainer_defaults(sae_trainer_desc *desc);

typedef struct sae_trainer sae_trainer;

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

/* Rows of activations wherever they lie. */
typedef struct sae_rows {
    const void *data;  /* required: [n,d] */
    sae_dtype dtype;   /* F32 (default), F16, BF16 */
    size_t stride;     /* elements from one row to the next; default d */
    bool on_device;    /* in the backend's memory, and ready in the order of its stream; may be
                          written again in the order of that stream. Default: host memory */
} sae_rows;
/* As sae_trainer_step; target may be NULL. A backend that runs behind the host (CUDA) may report
   NaN or infinity one or two steps late, or at the next call that looks at the trainer: the trainer
   then is as it was before the step the message names, later ones did nothing. */
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

/* The dictionary being trained: a view owned by the trainer, in the units of its input. Valid until
   the next step or destroy: call it again then, as its weights may stand still meanwhile. */
SAE_API const sae_dictionary *sae_trainer_dictionary(sae_trainer *trainer);
SAE_API sae_trainer_desc sae_trainer_info(const sae_trainer *trainer); /* all defaults set */
SAE_API uint64_t sae_trainer_steps_done(const sae_trainer *trainer);

/* ==== >>api: sessions ========================================================================= */

/* A dictionary in the memory of its context's backend, with room for batches: encodes and
   reconstructs there, with the bits of sae_encode_sparse and sae_forward. One thread at a time. */
typedef struct sae_session sae_session;

/* A copy of dict as it stands; batch_size: the most rows of a call. All memory is taken here.
   Errors: SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED (IDENTITY, variations for other programs' files,
   inactive groups), SAE_ERR_OUT_OF_MEMORY, SAE_ERR_BACKEND. */
SAE_API sae_result sae_session_create(const sae_dictionary *dict, size_t batch_size,
                                      sae_session **out);
SAE_API void sae_session_destroy(sae_session *session);
/* As sae_encode_sparse and sae_forward (without f), of x wherever it lies; the results come to host
   memory, and the call waits for them. Errors: also SAE_ERR_NOT_FINITE and SAE_ERR_BACKEND. */
SAE_API sae_result sae_session_encode(sae_session *session, const sae_rows *x, size_t n,
                                      sae_sparse *out);
SAE_API sae_result sae_session_forward(sae_session *session, const sae_rows *x, size_t n,
                                       float *x_hat);

/* ==== >>api: the activation buffer ============================================================ */

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
SAE_API size_t sae_buffer_dim(const sae_buffer *buffer);
SAE_API bool sae_buffer_has_target(const sae_buffer *buffer);
SAE_API uint64_t sae_buffer_source_rows(const sae_buffer *buffer); /* 0: not known (read) */

/* ==== >>api: the training loop ================================================================ */

typedef struct sae_progress {
    uint64_t step, steps;       /* step updates of steps are done */
    uint64_t start_step;        /* where this run began: > 0 after a resume */
    uint64_t rows;              /* seen since start_step */
    size_t num_trainers;
    sae_trainer *const *trainers;
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
    bool (*progress)(void *user, const sae_progress *progress); /* every step; false stops */
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

/* ==== >>api: metrics ========================================================================== */

/* The reference's evaluate(): each the mean over the batches. */
#define SAE_METRICS(X)                                                                             \
    X(l2_loss)                      /* mean norm(e) */                                             \
    X(l1_loss)                      /* mean sum |f| */                                             \
    X(l0)                           /* mean count of f != 0 */                                     \
    X(frac_variance_explained)      /* 1 - sum var(e) / sum var(x), unbiased, per column */        \
    X(cossim)                       /* mean cos(x, x_hat) */                                       \
    X(l2_ratio)                     /* mean norm(x_hat) / norm(x) */                               \
    X(relative_reconstruction_bias) /* mean norm(x_hat)^2 / mean x.x_hat */                        \
    X(frac_alive)                   /* share of latents whose sum over all batches is not 0 */     \
    X(loss_original)                /* of the language model, from model_loss; else NaN */         \
    X(loss_reconstructed)                                                                          \
    X(loss_zero)                                                                                   \
    X(frac_recovered)               /* (reconstructed - zero) / (original - zero) */

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
    /* Losses of the language model: unchanged, with x_hat patched in, with zeros patched in. */
    sae_result (*model_loss)(void *user, const sae_dictionary *dict, double loss[3]);
    void *user;
} sae_evaluate_desc;

/* Errors: those of the buffer, SAE_ERR_MISMATCH (widths), SAE_ERR_OUT_OF_MEMORY, model_loss's
   own. */
SAE_API sae_result sae_evaluate(sae_context *ctx, const sae_evaluate_desc *desc,
                                const sae_dictionary *dict, sae_metrics *out);

/* Geometric median of n rows x [n,d] by Weiszfeld's iteration from the mean: at most 100 rounds,
   stops when it moves less than 1e-5. out [d]. Errors: SAE_ERR_OUT_OF_MEMORY, SAE_ERR_INVALID. */
SAE_API sae_result sae_geometric_median(sae_context *ctx, const float *x, size_t n, size_t d,
                                        float *out);
/* Gradient pursuit: f [n,m] >= 0 with at most target_l0 latents a row so that f W_dec is near
   x [n,d] (no bias). Errors: SAE_ERR_OUT_OF_MEMORY, SAE_ERR_INVALID. */
SAE_API sae_result sae_grad_pursuit(const sae_dictionary *dict, const float *x, size_t n,
                                    size_t target_l0, float *f);
