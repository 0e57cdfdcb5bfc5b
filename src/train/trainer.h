#pragma once
#include "blocks.h"
#include "../dict/params.h"

/* ==== >>trainer: the object =================================================================== */

enum { /* traits of a scheme */
    SAEI_CONSTRAINED = 1 << 0, /* ConstrainedAdam: rows of W_dec keep norm 1 */
    SAEI_UNIT = 1 << 1,        /* the same, as later trainers do it: an eps is added to the norm */
    SAEI_CLIPPED = 1 << 2,     /* the norm of all gradients together is at most 1 */
    SAEI_WEIGHTED = 1 << 3,    /* penalties count f_i by the norm of its row of W_dec */
    SAEI_ANNEALED = 1 << 4,    /* the penalty's p and coefficient move during the run */
    SAEI_DEAD = 1 << 5,        /* latents silent for dead_feature_threshold rows are counted */
    SAEI_TOP_K = 1 << 6,       /* the k n largest latents of a batch: the dictionary has k, which
                                  may be annealed, and a running threshold, its later choice */
    SAEI_EACH_ROW = 1 << 7,    /* SAEI_TOP_K: k of each row, and later too */
    SAEI_NESTED = 1 << 8,      /* groups of latents, each with its own reconstruction */
    SAEI_AUXK = 1 << 9,        /* dead latents reconstruct the error: lists for auxk_alpha */
    SAEI_MEDIAN = 1 << 10,     /* b_dec starts at the geometric median of the first batch */
    SAEI_SCALED = 1 << 11,     /* the default lr is that of 16384 latents, else / sqrt(m / 16384) */
    SAEI_LAYERS = 1 << 12,     /* a crosscoder: rows are of num_layers layers */
    SAEI_SPARSIFY = 1 << 13    /* sparsify's start, schedules, optimizers and files */
};

/* A training scheme: what sets it apart from the others. */
typedef struct saei_scheme {
    sae_trainer_kind kind;
    double lr;                             /* default */
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
    SAEI_S_GHOST, SAEI_S_NONZERO, SAEI_S_SCRATCH, SAEI_S_RESAMPLED, SAEI_S_FVU,
    SAEI_S_GROUPS,
    SAEI_S_COUNT = SAEI_S_GROUPS + SAE_MAX_GROUPS
};

/* Host numbers that a resume needs, saved as one tensor. */
typedef struct saei_trainer_numbers {
    double step, rows_seen, k, p, next_p /* -1: none */, sparsity_coeff, p_updates, queue_size;
} saei_trainer_numbers;

enum { SAEI_STEPS_AHEAD = 8 }; /* the host is fewer steps ahead of the device */

/* A block of parameters, gradients or moments under the dictionary's layout. */
typedef struct saei_params {
    float *all, *W_enc, *W_dec, *b_enc, *aux0, *aux1, *b_dec, *W_skip;
    float *thresholds, *mean, *scale;
} saei_params;

struct sae_trainer {
    sae_context *ctx;
    const sae_backend *ops;
    sae_work w, out; /* of rows as wide as the input, as the output */
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
    float *x, *xc;              /* [batch][ld] */
    float *target, *y, *e, *r;  /* [batch][ld_out]; y is x or target */
    float *fit;                 /* likewise: what the latents and b_dec are to give, y or y less the
                                   skip connection's share */
    float *groups;              /* [num_groups][batch][ld_out] */
    float *weighed, *weighed_bias;      /* crosscoders: W_enc and b_enc by the weights */
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
