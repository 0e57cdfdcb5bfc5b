#pragma once
#include "files.h"

/* ==== >>api: schedules ======================================================================== */

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

/* ==== >>api: trainers ========================================================================= */

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
/* What the source holds, which files say by themselves: the width of a row, and how many rows there
   are (0: not known, of read). */
SAE_API size_t sae_buffer_dim(const sae_buffer *buffer);
SAE_API uint64_t sae_buffer_source_rows(const sae_buffer *buffer);

/* ==== >>api: the training loop ================================================================ */

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
    bool prepend_bos;                 /* contexts begin with bos */
} sae_train_desc;

/* Trains all of them and writes config.json, ae.pt, ae.safetensors of each. Stopped by progress it
   writes a backup (where backup_steps is set) and returns SAE_ERR_CANCELLED. Same bits after any
   resume. Errors: those of creating, stepping, saving; SAE_ERR_MISMATCH when a backup, or without
   one the finished run in the folder of a trainer, belongs to other settings or data;
   SAE_ERR_INVALID at the first step whose loss is NaN or infinite (of a device: of 32 steps);
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

/* ==== >>api: the reference's experiments ====================================================== */

/* STANDARD: x_ghost = sum over latents with mask[i] != 0 of exp(pre_i) W_dec[i], without bias. */
SAE_API sae_result sae_forward_ghost(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint8_t *mask, float *x_ghost);
/* The reference's output_features, in place: f_i norm(W_dec[i]) of STANDARD_NEW. Those of every
   other class are its f, which stays as it is. */
SAE_API void sae_output_features(const sae_dictionary *dict, size_t n, float *f);
