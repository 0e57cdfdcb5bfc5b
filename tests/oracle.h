/*  oracle.h - all trainers once more, naively: double precision, dense loops, no cleverness.

    oracle_init reads an sae_trainer_desc (applying its own defaults), oracle_step is one complete
    update of any of the trainers or the experiments (resampling is left out), oracle_loss is the
    loss as a pure function of the parameters with its gradient by hand-written dense backprop.
    Parts that the reference detaches (the auxiliary residual, the gated copy of the decoder, ghost
    scales, straight-through windows) are kept in oracle_held: with `held` set they are taken from
    there instead of being computed, so that finite differences see what backprop sees.

    Nothing here calls sae.h but for its enums and descs. Letters as there: n rows, d, m, k.
    Parameters lie latent-major in one array theta [oracle_size], [m][d] for both matrices:
      We [m][d] | Wd [m][out] | be [m] | a0 [m] | a1 [m] | bd [out] | Ws [out][d], with a skip
    be is gate_bias of GATED; a0 its r_mag, or threshold of JUMP_RELU; a1 mag_bias of GATED. Blocks a
    class does not have stay 0 and have gradient 0. */
#ifndef ORACLE_H
#define ORACLE_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ORACLE_UNUSED __attribute__((unused))
#define ORACLE_NO_STEP UINT64_MAX

typedef struct oracle_held {
    bool held;
    double *residual;     /* [n][d] y - x_hat, what the auxiliary loss explains */
    double denominator;   /* of the auxiliary loss */
    double *y;            /* [n][out] GATED: the target less the skip connection's share */
    double *Wd, *bd;      /* GATED: the decoder of the gate's reconstruction */
    double *ghost_scale;  /* [n] */
    double ghost_factor;
    double *theta0;       /* [m] JUMP_RELU: thresholds the windows stand at */
    double *f0, *window_f, *window_l; /* [n][m] */
} oracle_held;

typedef struct oracle_stats {
    double loss, l2_loss, sparsity_loss, aux_loss, auxk_loss, pre_norm_auxk_loss, dead_features,
        effective_l0, l0, threshold, p, next_p, sparsity_coeff, ghosts, lr, grad_norm, fvu, k;
} oracle_stats;

typedef struct oracle {
    /* settings */
    sae_trainer_kind kind;
    sae_arch arch;
    size_t d, m, batch, out;
    bool skip;
    int apply; /* b_dec to the input: 1, -1, 0: as the class */
    sae_optimizer optimizer;
    uint64_t k_decay;
    bool finetune;
    uint64_t steps, warmup, decay_start, sparsity_warmup, resample;
    double base_lr, beta1, beta2;
    double l1;
    sae_sparsity_function sparsity;
    size_t k_target, top_k_aux, num_groups;
    uint64_t k_anneal;
    double auxk_alpha;
    uint64_t dead_threshold, threshold_start;
    double threshold_beta;
    size_t group_sizes[SAE_MAX_GROUPS];
    double group_weights[SAE_MAX_GROUPS];
    double bandwidth, target_l0;
    uint64_t anneal_start, anneal_end, n_updates;
    double p_end, p_start;
    size_t queue_length;
    bool norm_loss;
    uint64_t ghost_threshold;
    size_t layers;      /* of a crosscoder; else 0 */
    sae_code_normalization code;
    double alpha_sae, alpha_cc;
    size_t k_max;
    uint64_t k_annealing;
    /* state */
    uint64_t t;
    size_t k;
    double threshold, p, next_p, coeff;
    uint64_t p_count;
    size_t queued;
    double queue[64][2];
    double *theta, *grad, *first, *second; /* [oracle_size] */
    uint64_t *since;                       /* [m] tokens since a latent fired */
    uint64_t *silent;                      /* [m] batches in a row without it */
    bool *dead, *ghost;                    /* [m] as the loss shall see them */
    size_t num_dead, num_ghosts;
    /* of the last forward pass, [batch][m] and [batch][d] */
    double *pre, *f, *gate, *mag, *gf, *gpre, *x_hat, *e, *gx;
    bool *on;
    bool *layer_on;     /* [layers][batch][m] of a crosscoder that is decoupled; else NULL */
    oracle_held z;
    oracle_stats stats;
} oracle;

/* ---- settings -------------------------------------------------------------------------------- */

ORACLE_UNUSED static double oracle_or(double v, double fallback) {
    return v == 0 ? fallback : v < 0 ? 0 : v;
}
ORACLE_UNUSED static uint64_t oracle_count(uint64_t v, uint64_t fallback) {
    return v == 0 ? fallback : v;
}

ORACLE_UNUSED static bool oracle_is_topk(const oracle *o) {
    return o->kind == SAE_TRAINER_TOP_K || o->kind == SAE_TRAINER_BATCH_TOP_K
           || o->kind == SAE_TRAINER_MATRYOSHKA || o->kind == SAE_TRAINER_SPARSIFY
           || o->kind == SAE_TRAINER_BATCH_TOP_K_CROSSCODER;
}
ORACLE_UNUSED static bool oracle_each_row(const oracle *o) {
    return o->kind == SAE_TRAINER_TOP_K || o->kind == SAE_TRAINER_SPARSIFY;
}
ORACLE_UNUSED static bool oracle_is_gated(const oracle *o) { return o->arch == SAE_ARCH_GATED; }
ORACLE_UNUSED static bool oracle_is_annealer(const oracle *o) {
    return o->kind == SAE_TRAINER_P_ANNEAL || o->kind == SAE_TRAINER_GATED_ANNEAL;
}
/* Is b_dec subtracted from the input? */
ORACLE_UNUSED static bool oracle_subtracts(const oracle *o) {
    if (o->apply || o->out != o->d || o->kind == SAE_TRAINER_SPARSIFY) return o->apply > 0;
    return o->arch != SAE_ARCH_STANDARD_NEW && o->arch != SAE_ARCH_JUMP_RELU && !o->layers;
}

ORACLE_UNUSED static size_t oracle_size(const oracle *o) {
    return o->m * (o->d + o->out) + 3 * o->m + o->out + (o->skip ? o->out * o->d : 0);
}
#define ORACLE_WE(o, v) (v)
#define ORACLE_WD(o, v) ((v) + (o)->m * (o)->d)
#define ORACLE_BE(o, v) ((v) + (o)->m * ((o)->d + (o)->out))
#define ORACLE_A0(o, v) (ORACLE_BE(o, v) + (o)->m)
#define ORACLE_A1(o, v) (ORACLE_BE(o, v) + 2 * (o)->m)
#define ORACLE_BD(o, v) (ORACLE_BE(o, v) + 3 * (o)->m)
#define ORACLE_WS(o, v) (ORACLE_BD(o, v) + (o)->out)

ORACLE_UNUSED static double *oracle_doubles(size_t n) {
    return (double *)calloc(n ? n : 1, sizeof(double));
}

/* theta stays 0: the caller fills it. */
ORACLE_UNUSED static void oracle_init(oracle *o, const sae_trainer_desc *s) {
    size_t d = s->activation_dim, m = s->dict_size, n = s->batch_size, size;
    memset(o, 0, sizeof *o);
    o->kind = s->kind ? s->kind : SAE_TRAINER_TOP_K;
    switch (o->kind) {
    case SAE_TRAINER_GATED:
    case SAE_TRAINER_GATED_ANNEAL: o->arch = SAE_ARCH_GATED; break;
    case SAE_TRAINER_SPARSIFY:
    case SAE_TRAINER_TOP_K: o->arch = SAE_ARCH_TOP_K; break;
    case SAE_TRAINER_CROSSCODER: o->arch = SAE_ARCH_STANDARD_NEW; break;
    case SAE_TRAINER_BATCH_TOP_K_CROSSCODER:
    case SAE_TRAINER_BATCH_TOP_K: o->arch = SAE_ARCH_BATCH_TOP_K; break;
    case SAE_TRAINER_MATRYOSHKA: o->arch = SAE_ARCH_MATRYOSHKA; break;
    case SAE_TRAINER_JUMP_RELU: o->arch = SAE_ARCH_JUMP_RELU; break;
    case SAE_TRAINER_STANDARD_APRIL: o->arch = s->arch ? s->arch : SAE_ARCH_STANDARD; break;
    default: o->arch = SAE_ARCH_STANDARD; break;
    }
    o->d = d;
    o->out = s->output_dim ? s->output_dim : d;
    o->skip = s->skip_connection > 0;
    o->apply = s->apply_b_dec_to_input;
    o->optimizer = s->optimizer;
    o->finetune = s->finetune > 0;
    o->k_decay = s->k_decay_steps == SAE_NONE ? 0 : s->k_decay_steps;
    o->m = m;
    o->batch = n;
    o->steps = s->steps;
    o->warmup = s->warmup_steps == SAE_NONE ? 0 : oracle_count(s->warmup_steps, 1000);
    o->decay_start = s->decay_start == 0 || s->decay_start == SAE_NONE ? ORACLE_NO_STEP
                                                                      : s->decay_start;
    o->sparsity_warmup =
        s->sparsity_warmup_steps == SAE_NONE ? 0 : oracle_count(s->sparsity_warmup_steps, 2000);
    o->resample = s->resample_steps == SAE_NONE ? 0 : s->resample_steps;
    o->beta1 = oracle_is_gated(o) || o->kind == SAE_TRAINER_JUMP_RELU ? 0 : 0.9;
    o->beta2 = 0.999;
    switch (o->kind) {
    case SAE_TRAINER_GATED: o->base_lr = 5e-5; break;
    case SAE_TRAINER_GATED_ANNEAL: o->base_lr = 3e-4; break;
    case SAE_TRAINER_JUMP_RELU: o->base_lr = 7e-5; break;
    case SAE_TRAINER_TOP_K:
    case SAE_TRAINER_BATCH_TOP_K:
    case SAE_TRAINER_BATCH_TOP_K_CROSSCODER:
    case SAE_TRAINER_MATRYOSHKA: o->base_lr = 2e-4 / sqrt((double)m / 16384.0); break;
    default: o->base_lr = 1e-3; break;
    }
    if (o->kind == SAE_TRAINER_SPARSIFY) { /* its warmup is lr_warmup_steps, its decay the rest */
        o->base_lr = (o->optimizer == SAE_OPTIMIZER_ADAM ? 2e-4 : 5e-3) / sqrt((double)m / 16384.0);
        o->warmup = s->lr_warmup_steps == SAE_NONE ? 0 : oracle_count(s->lr_warmup_steps, 1000);
        o->decay_start = o->warmup;
    }
    if (s->lr) o->base_lr = s->lr;
    o->l1 = oracle_or(s->l1_penalty, 0.1);
    o->sparsity = s->sparsity_function;
    if (!o->sparsity)
        o->sparsity = o->kind == SAE_TRAINER_P_ANNEAL       ? SAE_SPARSITY_LP
                      : o->kind == SAE_TRAINER_GATED_ANNEAL ? SAE_SPARSITY_LP_P
                                                            : SAE_SPARSITY_L1;
    o->k = o->k_target = s->k;
    o->k_anneal = s->k_anneal_steps == SAE_NONE ? 0 : s->k_anneal_steps;
    o->auxk_alpha = oracle_or(s->auxk_alpha, 1.0 / 32);
    o->top_k_aux = s->top_k_aux ? s->top_k_aux : o->out / 2;
    o->dead_threshold = oracle_count(s->dead_feature_threshold, 10000000);
    o->threshold_beta = oracle_or(s->threshold_beta, 0.999);
    o->threshold_start =
        s->threshold_start_step == SAE_NONE ? 0 : oracle_count(s->threshold_start_step, 1000);
    o->num_groups = s->num_groups;
    if (s->num_groups) {
        size_t rest = m;
        for (size_t g = 0; g < s->num_groups; g++) {
            o->group_sizes[g] = (size_t)(s->group_fractions[g] * (double)m);
            if (g + 1 == s->num_groups) o->group_sizes[g] = rest;
            rest -= o->group_sizes[g];
            o->group_weights[g] =
                s->group_weights[0] ? s->group_weights[g] : 1.0 / (double)s->num_groups;
        }
    }
    o->bandwidth = s->bandwidth ? s->bandwidth : 0.001;
    o->target_l0 = s->target_l0 ? s->target_l0 : 20;
    o->coeff = o->kind == SAE_TRAINER_JUMP_RELU ? oracle_or(s->sparsity_penalty, 1)
                                                : oracle_or(s->initial_sparsity_penalty, 0.1);
    o->anneal_start = s->anneal_start == SAE_NONE ? 0 : oracle_count(s->anneal_start, 15000);
    o->anneal_end = oracle_count(s->anneal_end, s->steps);
    o->n_updates = s->n_sparsity_updates == SAE_NONE ? o->anneal_end - o->anneal_start + 1
                                                     : oracle_count(s->n_sparsity_updates, 10);
    o->p_start = s->p_start ? s->p_start : 1;
    o->p_end = s->p_end < 0 ? 0 : s->p_end;
    o->p = o->p_start;
    o->next_p = NAN;
    o->queue_length = s->sparsity_queue_length ? s->sparsity_queue_length : 10;
    o->norm_loss = s->reconstruction_norm;
    o->ghost_threshold =
        s->ghost_threshold == 0 || s->ghost_threshold == SAE_NONE ? ORACLE_NO_STEP
                                                                  : s->ghost_threshold;
    o->threshold = -1;
    o->layers = s->num_layers;
    if (o->layers) {
        o->norm_loss = !s->use_mse_loss;
        o->code = s->code_normalization ? s->code_normalization : SAE_CODE_CROSSCODER;
        o->alpha_sae = oracle_or(s->code_normalization_alpha_sae, 1);
        o->alpha_cc = oracle_or(s->code_normalization_alpha_cc, 0.1);
        o->top_k_aux = s->top_k_aux ? s->top_k_aux : d / o->layers / 2 ? d / o->layers / 2 : 1;
        o->k_max = s->k_max ? s->k_max : s->k;
        o->k_annealing = s->k_annealing_steps == SAE_NONE ? 0 : s->k_annealing_steps;
        if (o->code == SAE_CODE_DECOUPLED && oracle_is_topk(o))
            o->layer_on = (bool *)calloc(o->layers * n * m, sizeof(bool));
    }
    if (o->kind == SAE_TRAINER_SPARSIFY) {
        double first = (double)(m < 10 * d ? m : 10 * d);
        if (o->k_decay) o->k = (size_t)first;
    }

    size = oracle_size(o);
    o->theta = oracle_doubles(size);
    o->grad = oracle_doubles(size);
    o->first = oracle_doubles(size);
    o->second = oracle_doubles(size);
    o->since = (uint64_t *)calloc(m, sizeof(uint64_t));
    o->silent = (uint64_t *)calloc(m, sizeof(uint64_t));
    o->dead = (bool *)calloc(m, sizeof(bool));
    o->ghost = (bool *)calloc(m, sizeof(bool));
    o->pre = oracle_doubles(n * m);
    o->f = oracle_doubles(n * m);
    o->gate = oracle_doubles(n * m);
    o->mag = oracle_doubles(n * m);
    o->gf = oracle_doubles(n * m);
    o->gpre = oracle_doubles(n * m);
    o->on = (bool *)calloc(n * m, sizeof(bool));
    o->x_hat = oracle_doubles(n * o->out);
    o->e = oracle_doubles(n * o->out);
    o->gx = oracle_doubles(n * o->out);
    o->z.residual = oracle_doubles(n * o->out);
    o->z.y = oracle_doubles(n * o->out);
    o->z.Wd = oracle_doubles(m * o->out);
    o->z.bd = oracle_doubles(o->out);
    o->z.ghost_scale = oracle_doubles(n);
    o->z.theta0 = oracle_doubles(m);
    o->z.f0 = oracle_doubles(n * m);
    o->z.window_f = oracle_doubles(n * m);
    o->z.window_l = oracle_doubles(n * m);
}

ORACLE_UNUSED static void oracle_free(oracle *o) {
    void *all[] = { o->theta, o->grad,   o->first,      o->second,        o->since,     o->silent,
                    o->dead,  o->ghost,  o->pre,        o->f,             o->gate,      o->mag,
                    o->gf,    o->gpre,   o->on,         o->x_hat,         o->e,         o->gx,
                    o->z.residual, o->z.y, o->z.Wd, o->z.bd,    o->z.ghost_scale, o->z.theta0,  o->z.f0,
                    o->z.window_f, o->z.window_l, o->layer_on };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    memset(o, 0, sizeof *o);
}

/* ---- schedules ------------------------------------------------------------------------------- */

ORACLE_UNUSED static double oracle_lr_factor(const oracle *o, uint64_t t) {
    if (o->resample) {
        double r = o->warmup ? (double)(t % o->resample) / (double)o->warmup : 1;
        return r < 1 ? r : 1;
    }
    if (t < o->warmup) return (double)t / (double)o->warmup;
    if (o->decay_start != ORACLE_NO_STEP && t >= o->decay_start)
        return (double)(o->steps - t) / (double)(o->steps - o->decay_start);
    return 1;
}
ORACLE_UNUSED static double oracle_sparsity_factor(const oracle *o, uint64_t t) {
    if (!o->sparsity_warmup || t >= o->sparsity_warmup) return 1;
    return (double)t / (double)o->sparsity_warmup;
}

/* Step i of n at which the annealers change p: an integer linspace, taken from both ends. */
ORACLE_UNUSED static uint64_t oracle_anneal_step(const oracle *o, uint64_t i) {
    double a = (double)o->anneal_start, b = (double)o->anneal_end, step;
    if (o->n_updates == 1) return o->anneal_start;
    step = (b - a) / (double)(o->n_updates - 1);
    if (i < o->n_updates / 2) return (uint64_t)(a + (double)i * step);
    return (uint64_t)(b - (double)(o->n_updates - 1 - i) * step);
}
ORACLE_UNUSED static double oracle_anneal_p(const oracle *o, uint64_t i) {
    if (o->n_updates == 1) return o->p_start;
    return o->p_start + (o->p_end - o->p_start) * (double)i / (double)(o->n_updates - 1);
}

/* ---- forward --------------------------------------------------------------------------------- */

ORACLE_UNUSED static double oracle_dot(const double *a, const double *b, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* pre [n][m]: W_enc (x - b_dec) + b_enc; GATED: without its bias. */
ORACLE_UNUSED static void oracle_pre(oracle *o, const double *theta, const double *x, size_t n) {
    const double *We = ORACLE_WE(o, theta), *be = ORACLE_BE(o, theta), *bd = ORACLE_BD(o, theta);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < o->m; i++) {
            double s = oracle_is_gated(o) ? 0 : be[i];
            for (size_t j = 0; j < o->d; j++)
                s += We[i * o->d + j] * (x[r * o->d + j] - (oracle_subtracts(o) ? bd[j] : 0));
            o->pre[r * o->m + i] = s;
        }
}

/* The k largest of v[candidates] go on; ties to the lower index. taken [count] is set. */
ORACLE_UNUSED static void oracle_largest(const double *v, size_t count, const bool *allowed,
                                         size_t width, size_t k, bool *taken) {
    memset(taken, 0, count * sizeof *taken);
    for (; k > 0; k--) {
        size_t best = count;
        for (size_t i = 0; i < count; i++)
            if (!taken[i] && (!allowed || allowed[i % width]) && (best == count || v[i] > v[best]))
                best = i;
        if (best == count) return;
        taken[best] = true;
    }
}

ORACLE_UNUSED static double oracle_relu(double v) { return v > 0 ? v : 0; }

/* The weight of latent i of a crosscoder: norms of its decoder's rows; layer < layers: of that one. */
ORACLE_UNUSED static double oracle_code_norm(const oracle *o, const double *Wd, size_t i, size_t l) {
    size_t d = o->d / o->layers;
    const double *w = Wd + i * o->d + l * d;
    return sqrt(oracle_dot(w, w, d));
}
ORACLE_UNUSED static double oracle_code_weight(const oracle *o, const double *theta, size_t i,
                                               size_t layer) {
    const double *Wd = ORACLE_WD(o, theta);
    double all = sqrt(oracle_dot(Wd + i * o->d, Wd + i * o->d, o->d)), sum = 0;
    if (!o->layers || o->code == SAE_CODE_NONE) return 1;
    if (layer < o->layers) return oracle_code_norm(o, Wd, i, layer);
    for (size_t l = 0; l < o->layers; l++) sum += oracle_code_norm(o, Wd, i, l);
    if (o->code == SAE_CODE_SAE) return all;
    return o->code == SAE_CODE_MIXED ? o->alpha_sae * all + o->alpha_cc * sum : sum;
}
/* f of entry q as the layer of column j sees it. */
ORACLE_UNUSED static double oracle_f(const oracle *o, size_t q, size_t j) {
    if (o->layer_on && !o->layer_on[j / (o->d / o->layers) * o->batch * o->m + q]) return 0;
    return o->f[q];
}

/* Fills pre, on (chosen, or past its threshold), f; GATED: gate = relu(u + gate_bias), mag. */
ORACLE_UNUSED static void oracle_encode(oracle *o, const double *theta, const double *x, size_t n) {
    size_t m = o->m;
    oracle_pre(o, theta, x, n);
    if (oracle_is_topk(o)) {
        double *p = oracle_doubles(n * m);
        for (size_t q = 0; q < n * m; q++)
            p[q] = oracle_relu(o->pre[q]) * oracle_code_weight(o, theta, q % m, o->layers);
        if (o->layer_on) {
            memset(o->on, 0, n * m * sizeof *o->on);
            for (size_t l = 0; l < o->layers; l++) {
                bool *on = o->layer_on + l * o->batch * m;
                for (size_t q = 0; q < n * m; q++)
                    p[q] = oracle_relu(o->pre[q]) * oracle_code_weight(o, theta, q % m, l);
                oracle_largest(p, n * m, NULL, m, o->k * n, on);
                for (size_t q = 0; q < n * m; q++) o->on[q] = o->on[q] || on[q];
            }
        } else if (oracle_each_row(o))
            for (size_t r = 0; r < n; r++)
                oracle_largest(p + r * m, m, NULL, m, o->k, o->on + r * m);
        else oracle_largest(p, n * m, NULL, m, o->k * n, o->on);
        for (size_t q = 0; q < n * m; q++) o->f[q] = o->on[q] ? oracle_relu(o->pre[q]) : 0;
        free(p);
        return;
    }
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < m; i++) {
            size_t q = r * m + i;
            double u = o->pre[q];
            if (oracle_is_gated(o)) {
                double mag = exp(ORACLE_A0(o, theta)[i]) * u + ORACLE_A1(o, theta)[i];
                o->gate[q] = oracle_relu(u + ORACLE_BE(o, theta)[i]);
                o->mag[q] = mag;
                o->on[q] = u + ORACLE_BE(o, theta)[i] > 0 && mag > 0;
                o->f[q] = o->on[q] ? mag : 0;
            } else if (o->kind == SAE_TRAINER_JUMP_RELU) {
                /* With z.held the jump stays where it was and f is continued linearly in theta
                   by the straight-through slope: that function has the pseudo-gradient. */
                double th = ORACLE_A0(o, theta)[i], th0 = o->z.held ? o->z.theta0[i] : th;
                o->on[q] = u > th0;
                o->f[q] = (o->on[q] ? u : 0);
                if (o->z.held) o->f[q] += o->z.window_f[q] * (th - th0);
            } else {
                o->on[q] = u > 0;
                o->f[q] = oracle_relu(u);
            }
        }
}

/* ---- the loss and its gradient --------------------------------------------------------------- */

/* sum over a row of the penalty of v [m], its derivative times scale added to g where v > 0. */
ORACLE_UNUSED static double oracle_penalty(sae_sparsity_function kind, double p, const double *v,
                                           size_t m, double scale, double *g) {
    double sum = 0, loss = 0;
    switch (kind) {
    case SAE_SPARSITY_ENTROPY: {
        double common = 0;
        for (size_t i = 0; i < m; i++) sum += v[i];
        if (sum == 0) return 0;
        for (size_t i = 0; i < m; i++) {
            double q = v[i] / (sum + 1e-8);
            loss -= q * log(q + 1e-8);
            common -= (log(q + 1e-8) + q / (q + 1e-8)) * q / (sum + 1e-8);
        }
        for (size_t i = 0; i < m; i++) {
            double q = v[i] / (sum + 1e-8);
            if (g && v[i] > 0)
                g[i] += scale * (-(log(q + 1e-8) + q / (q + 1e-8)) / (sum + 1e-8) - common);
        }
        return loss;
    }
    case SAE_SPARSITY_LP:
    case SAE_SPARSITY_LP_P:
        for (size_t i = 0; i < m; i++) sum += v[i] > 0 ? pow(v[i], p) : p == 0 ? 1 : 0;
        loss = kind == SAE_SPARSITY_LP ? (sum > 0 ? pow(sum, 1 / p) : 0) : sum;
        for (size_t i = 0; i < m; i++)
            if (g && v[i] > 0)
                g[i] += scale * p * pow(v[i], p - 1) *
                        (kind == SAE_SPARSITY_LP ? pow(sum, 1 / p - 1) / p : 1);
        return loss;
    default:
        for (size_t i = 0; i < m; i++) {
            loss += v[i];
            if (g && v[i] > 0) g[i] += scale;
        }
        return loss;
    }
}

/* The loss at theta on x [n,d] with target y [n,out]; if grad is not NULL, its gradient [oracle_size].
   Reads o's settings, k, p, coeff, t, dead, ghost; fills the forward arrays and o->stats. */
ORACLE_UNUSED static double oracle_loss(oracle *o, const double *theta, const double *x,
                                        const double *y, size_t n, double *grad) {
    size_t d = o->d, m = o->m, width = o->out;
    const double *We = ORACLE_WE(o, theta), *Wd = ORACLE_WD(o, theta), *bd = ORACLE_BD(o, theta);
    double rows = (double)n, s = oracle_sparsity_factor(o, o->t), loss, sparse = 0;
    double *g = grad ? grad : oracle_doubles(oracle_size(o));
    double *gWe = ORACLE_WE(o, g), *gWd = ORACLE_WD(o, g), *gbe = ORACLE_BE(o, g);
    double *ga0 = ORACLE_A0(o, g), *ga1 = ORACLE_A1(o, g), *gbd = ORACLE_BD(o, g);
    double *ggate = oracle_doubles(n * m); /* dL/d relu(u + gate_bias) */
    double *gWs = ORACLE_WS(o, g), variance = 0; /* what squares are divided by */
    double *fit = oracle_doubles(n * width); /* the target less the skip connection's share */
    double *direct = oracle_doubles(n * m); /* dL/dpre beside the one through f */
    oracle_stats *st = &o->stats;
    oracle_held *z = &o->z;

    memset(g, 0, oracle_size(o) * sizeof *g);
    memset(o->gf, 0, n * m * sizeof *o->gf);
    if (!z->held && o->kind == SAE_TRAINER_JUMP_RELU)
        memcpy(z->theta0, ORACLE_A0(o, theta), m * sizeof(double));
    oracle_encode(o, theta, x, n);
    for (size_t q = 0; q < n * width; q++)
        fit[q] = y[q]
                 - (o->skip ? oracle_dot(ORACLE_WS(o, theta) + q % width * d, x + q / width * d, d)
                            : 0);

    /* x_hat, and the reconstruction loss with dL/dx_hat */
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < width; j++) {
            double v = bd[j];
            for (size_t i = 0; i < m; i++) v += oracle_f(o, r * m + i, j) * Wd[i * width + j];
            o->x_hat[r * width + j] = v;
            o->e[r * width + j] = v - fit[r * width + j];
        }
    loss = 0;
    if (o->kind == SAE_TRAINER_SPARSIFY)
        for (size_t j = 0; j < width; j++) {
            double mean = 0;
            for (size_t r = 0; r < n; r++) mean += y[r * width + j] / rows;
            for (size_t r = 0; r < n; r++) variance += pow(y[r * width + j] - mean, 2);
        }
    else variance = rows;
    if (o->kind == SAE_TRAINER_MATRYOSHKA) {
        size_t end = 0;
        for (size_t group = 0; group < o->num_groups; group++) {
            double w = o->group_weights[group] / (double)o->num_groups;
            end += o->group_sizes[group];
            for (size_t r = 0; r < n; r++)
                for (size_t j = 0; j < width; j++) {
                    double v = bd[j] - fit[r * width + j], dv;
                    for (size_t i = 0; i < end; i++) v += o->f[r * m + i] * Wd[i * width + j];
                    loss += w * v * v / rows;
                    dv = w * 2 * v / rows;
                    gbd[j] += dv;
                    for (size_t c = 0; o->skip && c < o->d; c++)
                        gWs[j * o->d + c] += dv * x[r * o->d + c];
                    for (size_t i = 0; i < end; i++) {
                        gWd[i * width + j] += dv * o->f[r * m + i];
                        o->gf[r * m + i] += dv * Wd[i * width + j];
                    }
                }
        }
    } else {
        size_t layers = o->layers ? o->layers : 1, dl = width / layers;
        double parts = variance * (double)layers;
        for (size_t r = 0; r < n * layers; r++) { /* a layer of a row, or all of it */
            double square = oracle_dot(o->e + r * dl, o->e + r * dl, dl), norm = sqrt(square);
            loss += (o->norm_loss ? norm : square) / parts;
            for (size_t j = r * dl; j < (r + 1) * dl; j++)
                o->gx[j] = o->norm_loss ? (norm > 0 ? o->e[j] / norm / parts : 0)
                                        : 2 * o->e[j] / parts;
        }
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0; j < width; j++) {
                double dv = o->gx[r * width + j];
                gbd[j] += dv;
                for (size_t c = 0; o->skip && c < o->d; c++)
                    gWs[j * o->d + c] += dv * x[r * o->d + c];
                for (size_t i = 0; i < m; i++) {
                    double f = oracle_f(o, r * m + i, j);
                    gWd[i * width + j] += dv * f;
                    if (!o->layer_on || f > 0) o->gf[r * m + i] += dv * Wd[i * width + j];
                }
            }
    }
    st->l2_loss = o->kind == SAE_TRAINER_SPARSIFY ? loss * variance / rows : loss;
    st->fvu = loss;

    /* sparsity */
    if (o->kind == SAE_TRAINER_STANDARD_APRIL) {
        int power = o->arch == SAE_ARCH_STANDARD_NEW ? 2 : 1;
        for (size_t i = 0; i < m; i++) {
            double norm = sqrt(oracle_dot(Wd + i * width, Wd + i * width, width));
            for (size_t r = 0; r < n; r++) {
                double f = o->f[r * m + i];
                sparse += f * pow(norm, power) / rows;
                o->gf[r * m + i] += o->l1 * s / rows * pow(norm, power);
                for (size_t j = 0; j < width; j++)
                    gWd[i * width + j] +=
                        o->l1 * s / rows * f * power * pow(norm, power - 2) * Wd[i * width + j];
            }
        }
        loss += o->l1 * s * sparse;
    } else if (o->kind == SAE_TRAINER_CROSSCODER) {
        size_t dl = d / o->layers;
        for (size_t i = 0; i < m; i++) {
            double w = oracle_code_weight(o, theta, i, o->layers);
            double all = sqrt(oracle_dot(Wd + i * d, Wd + i * d, d));
            for (size_t r = 0; r < n; r++) {
                double f = o->f[r * m + i];
                sparse += f * w / rows;
                o->gf[r * m + i] += o->l1 / rows * w;
                for (size_t j = 0; o->code != SAE_CODE_NONE && j < d; j++) {
                    double own = Wd[i * d + j] / oracle_code_norm(o, Wd, i, j / dl);
                    double slope = o->code == SAE_CODE_SAE ? Wd[i * d + j] / all
                                   : o->code == SAE_CODE_MIXED
                                       ? o->alpha_sae * Wd[i * d + j] / all + o->alpha_cc * own
                                       : own;
                    gWd[i * d + j] += o->l1 / rows * f * slope;
                }
            }
        }
        loss += o->l1 * sparse;
    } else if (oracle_is_annealer(o) || oracle_is_gated(o) || o->kind == SAE_TRAINER_STANDARD) {
        double c = (oracle_is_annealer(o) ? o->coeff : o->l1) * s;
        for (size_t r = 0; r < n; r++)
            sparse += oracle_penalty(o->sparsity, o->p,
                                     (oracle_is_gated(o) ? o->gate : o->f) + r * m, m, c / rows,
                                     (oracle_is_gated(o) ? ggate : o->gf) + r * m) / rows;
        loss += c * sparse;
    } else if (o->kind == SAE_TRAINER_JUMP_RELU) {
        /* l0 = mean count of f > theta; its straight-through window is taken at f, after the jump */
        double l0 = 0, dl0;
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < m; i++) {
                size_t q = r * m + i;
                double th = ORACLE_A0(o, theta)[i];
                if (!z->held) {
                    z->f0[q] = o->f[q];
                    z->window_f[q] = fabs((o->pre[q] - th) / o->bandwidth) < 0.5
                                         ? -th / o->bandwidth : 0;
                    z->window_l[q] = fabs((o->f[q] - th) / o->bandwidth) < 0.5
                                         ? -1 / o->bandwidth : 0;
                }
                l0 += ((z->f0[q] > z->theta0[i]) + z->window_l[q] * (th - z->theta0[i])) / rows;
            }
        sparse = (l0 / o->target_l0 - 1) * (l0 / o->target_l0 - 1);
        loss += o->coeff * s * sparse;
        dl0 = o->coeff * s * 2 * (l0 / o->target_l0 - 1) / o->target_l0 / rows;
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < m; i++)
                ga0[i] += z->window_l[r * m + i] * dl0 +
                          z->window_f[r * m + i] * o->gf[r * m + i];
    }
    st->sparsity_loss = sparse;

    /* the gate's own reconstruction, decoder and bias detached */
    st->aux_loss = NAN;
    if (oracle_is_gated(o)) {
        double aux = 0;
        if (!z->held) {
            memcpy(z->Wd, Wd, m * width * sizeof(double));
            memcpy(z->y, fit, n * width * sizeof(double));
            memcpy(z->bd, bd, width * sizeof(double));
        }
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0; j < width; j++) {
                double v = z->bd[j] - z->y[r * width + j];
                for (size_t i = 0; i < m; i++) v += o->gate[r * m + i] * z->Wd[i * width + j];
                aux += v * v / rows;
                for (size_t i = 0; i < m; i++)
                    ggate[r * m + i] += 2 * v / rows * z->Wd[i * width + j];
            }
        loss += aux;
        st->aux_loss = aux;
    }

    /* auxiliary top-k: dead latents explain the detached residual */
    st->auxk_loss = 0;
    st->pre_norm_auxk_loss = -1;
    if (o->kind == SAE_TRAINER_SPARSIFY && o->num_dead && o->auxk_alpha > 0) {
        /* e from the dead latents and b_dec; nothing reaches the encoder */
        size_t half = o->d / 2, k = half < o->num_dead ? half : o->num_dead;
        double share = o->num_dead < half ? (double)o->num_dead / (double)half : 1;
        bool *taken = (bool *)calloc(n * m, sizeof(bool));
        double *p = oracle_doubles(n * m);
        if (!z->held)
            for (size_t q = 0; q < n * width; q++) z->residual[q] = -o->e[q];
        for (size_t q = 0; q < n * m; q++) p[q] = oracle_relu(o->pre[q]);
        for (size_t r = 0; r < n; r++) {
            oracle_largest(p + r * m, m, o->dead, m, k, taken + r * m);
            for (size_t j = 0; j < width; j++) {
                double v = bd[j] - z->residual[r * width + j], dv;
                for (size_t i = 0; i < m; i++)
                    if (taken[r * m + i]) v += p[r * m + i] * Wd[i * width + j];
                st->auxk_loss += share * v * v / variance;
                dv = o->auxk_alpha * share * 2 * v / variance;
                gbd[j] += dv;
                for (size_t i = 0; i < m; i++)
                    if (taken[r * m + i]) gWd[i * width + j] += dv * p[r * m + i];
            }
        }
        loss += o->auxk_alpha * st->auxk_loss;
        free(taken);
        free(p);
    } else if (oracle_is_topk(o) && o->num_dead && o->auxk_alpha > 0) {
        size_t k = o->top_k_aux < o->num_dead ? o->top_k_aux : o->num_dead;
        bool *taken = (bool *)calloc(n * m, sizeof(bool));
        double *p = oracle_doubles(n * m), *v = oracle_doubles(n * width), a = 0;
        double *chosen = oracle_doubles(n * m);
        if (!z->held) {
            z->denominator = 0;
            for (size_t q = 0; q < n * width; q++) z->residual[q] = -o->e[q];
            for (size_t j = 0; j < width; j++) {
                double mean = 0;
                for (size_t r = 0; r < n; r++) mean += z->residual[r * width + j] / rows;
                for (size_t r = 0; r < n; r++)
                    z->denominator += pow(z->residual[r * width + j] - mean, 2) / rows;
            }
        }
        for (size_t q = 0; q < n * m; q++) {
            p[q] = oracle_relu(o->pre[q]);
            chosen[q] = p[q] * oracle_code_weight(o, theta, q % m, o->layers);
        }
        for (size_t r = 0; r < n; r++) {
            oracle_largest(chosen + r * m, m, o->dead, m, k, taken + r * m);
            for (size_t j = 0; j < width; j++) {
                double w = -z->residual[r * width + j];
                for (size_t i = 0; i < m; i++)
                    if (taken[r * m + i]) w += p[r * m + i] * Wd[i * width + j];
                v[r * width + j] = w;
                a += w * w / rows;
            }
        }
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < m; i++)
                if (taken[r * m + i] && p[r * m + i] > 0)
                    for (size_t j = 0; j < width; j++) {
                        double dv = o->auxk_alpha / z->denominator * 2 * v[r * width + j] / rows;
                        gWd[i * width + j] += dv * p[r * m + i];
                        direct[r * m + i] += dv * Wd[i * width + j];
                    }
        st->pre_norm_auxk_loss = a;
        st->auxk_loss = a / z->denominator;
        loss += o->auxk_alpha * st->auxk_loss;
        free(taken);
        free(chosen);
        free(p);
        free(v);
    }

    /* ghost gradients */
    if (o->num_ghosts) {
        double ghost = 0, mse = 0;
        double *xg = oracle_doubles(n * width), *diff = oracle_doubles(n * width);
        for (size_t r = 0; r < n; r++) {
            double norm = sqrt(oracle_dot(o->e + r * width, o->e + r * width, width));
            for (size_t j = 0; j < width; j++)
                for (size_t i = 0; i < m; i++)
                    if (o->ghost[i]) xg[r * width + j] += exp(o->pre[r * m + i]) * Wd[i * width + j];
            if (!z->held) {
                z->ghost_scale[r] =
                    norm / (2 * sqrt(oracle_dot(xg + r * width, xg + r * width, width)) + 1e-8);
                for (size_t j = 0; j < width; j++) z->residual[r * width + j] = -o->e[r * width + j];
            }
            for (size_t j = 0; j < width; j++)
                diff[r * width + j] = z->residual[r * width + j] - z->ghost_scale[r] * xg[r * width + j];
            ghost += sqrt(oracle_dot(diff + r * width, diff + r * width, width)) / rows;
            mse += norm / rows;
        }
        if (!z->held) z->ghost_factor = mse / (ghost + 1e-8);
        loss += ghost * z->ghost_factor;
        for (size_t r = 0; r < n; r++) {
            double norm = sqrt(oracle_dot(diff + r * width, diff + r * width, width));
            for (size_t j = 0; j < width; j++) {
                double dv = -z->ghost_factor * z->ghost_scale[r] * diff[r * width + j] / norm / rows;
                for (size_t i = 0; i < m; i++)
                    if (o->ghost[i]) {
                        double a = exp(o->pre[r * m + i]);
                        gWd[i * width + j] += dv * a;
                        direct[r * m + i] += dv * Wd[i * width + j] * a;
                    }
            }
        }
        free(xg);
        free(diff);
    }

    /* back through the activation, then the encoder */
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < m; i++) {
            size_t q = r * m + i;
            double gp = 0;
            if (oracle_is_gated(o)) {
                double dmag = o->on[q] ? o->gf[q] : 0;
                double dgate = o->gate[q] > 0 ? ggate[q] : 0, er = exp(ORACLE_A0(o, theta)[i]);
                gp = dmag * er + dgate;
                ga0[i] += dmag * er * o->pre[q];
                ga1[i] += dmag;
                gbe[i] += dgate;
            } else {
                if (o->on[q] && (o->pre[q] > 0 || o->kind == SAE_TRAINER_JUMP_RELU
                                 || o->kind == SAE_TRAINER_SPARSIFY)) /* theirs lets it through */
                    gp = o->gf[q];
                gp += direct[q];
                gbe[i] += gp;
            }
            o->gpre[q] = gp;
            for (size_t j = 0; j < d; j++) {
                gWe[i * d + j] += gp * (x[r * d + j] - (oracle_subtracts(o) ? bd[j] : 0));
                if (oracle_subtracts(o)) gbd[j] -= gp * We[i * d + j];
            }
        }
    st->loss = loss;
    free(ggate);
    free(direct);
    free(fit);
    if (!grad) free(g);
    return loss;
}

/* How far, at theta, anything is from a kink or a jump: finite differences need room. */
ORACLE_UNUSED static double oracle_margin(oracle *o, const double *theta, const double *x,
                                          const double *y, size_t n) {
    size_t m = o->m;
    double least = 1e300, lowest_on = 1e300, highest_off = 0;
    oracle_loss(o, theta, x, y, n, NULL);
    for (size_t r = 0; r < n; r++) {
        if (oracle_each_row(o)) lowest_on = 1e300, highest_off = 0;
        for (size_t i = 0; i < m; i++) {
            size_t q = r * m + i;
            double u = o->pre[q], v = fabs(u);
            if (oracle_is_gated(o)) {
                v = fmin(fabs(u + ORACLE_BE(o, theta)[i]), fabs(o->mag[q]));
            } else if (o->kind == SAE_TRAINER_JUMP_RELU) {
                double th = ORACLE_A0(o, theta)[i];
                v = fmin(fabs(u - th), fmin(fabs(fabs(u - th) - o->bandwidth / 2),
                                            fabs(fabs(o->f[q] - th) - o->bandwidth / 2)));
            }
            if (v < least) least = v;
            for (size_t l = 0; o->layer_on && u > 0 && l < o->layers; l++) { /* far from the cut */
                double own = u * oracle_code_weight(o, theta, i, l);
                for (size_t h = 0; h < n * m; h++)
                    if (o->layer_on[l * o->batch * m + q] && !o->layer_on[l * o->batch * m + h])
                        least = fmin(least, own - oracle_relu(o->pre[h])
                                                * oracle_code_weight(o, theta, h % m, l));
            }
            if (o->layer_on) continue;
            u *= oracle_code_weight(o, theta, i, o->layers);
            if (oracle_is_topk(o) && u > 0) {
                if (o->on[q] && u < lowest_on) lowest_on = u;
                if (!o->on[q] && u > highest_off) highest_off = u;
                if (o->num_dead && o->dead[i])
                    for (size_t h = 0; h < i; h++)
                        if (o->dead[h])
                            least = fmin(least, fabs(u - o->pre[r * m + h]
                                         * oracle_code_weight(o, theta, h, o->layers)));
            }
        }
        if (oracle_is_topk(o) && !o->layer_on && lowest_on - highest_off < least
            && (oracle_each_row(o) || r + 1 == n))
            least = lowest_on - highest_off;
    }
    return least;
}

/* The gradient by central differences, detached parts held. */
ORACLE_UNUSED static void oracle_finite_difference(oracle *o, const double *x, const double *y,
                                                   size_t n, double h, double *out) {
    o->z.held = false;
    oracle_loss(o, o->theta, x, y, n, NULL);
    o->z.held = true;
    for (size_t i = 0; i < oracle_size(o); i++) {
        double old = o->theta[i], up, down;
        o->theta[i] = old + h;
        up = oracle_loss(o, o->theta, x, y, n, NULL);
        o->theta[i] = old - h;
        down = oracle_loss(o, o->theta, x, y, n, NULL);
        o->theta[i] = old;
        out[i] = (up - down) / (2 * h);
    }
    o->z.held = false;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* Weiszfeld's iteration from the mean. */
ORACLE_UNUSED static void oracle_median(const double *x, size_t n, size_t d, double *out) {
    double *next = oracle_doubles(d);
    memset(out, 0, d * sizeof *out);
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < d; j++) out[j] += x[r * d + j] / (double)n;
    for (int round = 0; round < 100; round++) {
        double total = 0, moved = 0;
        memset(next, 0, d * sizeof *next);
        for (size_t r = 0; r < n; r++) {
            double s = 0;
            for (size_t j = 0; j < d; j++) s += pow(x[r * d + j] - out[j], 2);
            total += 1 / sqrt(s);
            for (size_t j = 0; j < d; j++) next[j] += x[r * d + j] / sqrt(s);
        }
        for (size_t j = 0; j < d; j++) {
            moved += pow(next[j] / total - out[j], 2);
            out[j] = next[j] / total;
        }
        if (sqrt(moved) < 1e-5) break;
    }
    free(next);
}

ORACLE_UNUSED static void oracle_remove_parallel(const double *w, double *g, size_t rows, size_t d,
                                                 double eps) {
    for (size_t i = 0; i < rows; i++) {
        double norm = sqrt(oracle_dot(w + i * d, w + i * d, d)) + eps;
        double along = oracle_dot(g + i * d, w + i * d, d) / norm;
        for (size_t j = 0; j < d; j++) g[i * d + j] -= along * w[i * d + j] / norm;
    }
}
ORACLE_UNUSED static void oracle_unit_rows(double *w, size_t rows, size_t d, double eps) {
    for (size_t i = 0; i < rows; i++) {
        double norm = sqrt(oracle_dot(w + i * d, w + i * d, d)) + eps;
        for (size_t j = 0; j < d; j++) w[i * d + j] /= norm;
    }
}
/* t counts from 1. */
ORACLE_UNUSED static void oracle_adam(double lr, double beta1, double beta2, uint64_t t, double *w,
                                      const double *g, double *first, double *second,
                                      size_t count) {
    for (size_t i = 0; i < count; i++) {
        first[i] = beta1 * first[i] + (1 - beta1) * g[i];
        second[i] = beta2 * second[i] + (1 - beta2) * g[i] * g[i];
        w[i] -= lr * (first[i] / (1 - pow(beta1, (double)t))) /
                (sqrt(second[i] / (1 - pow(beta2, (double)t))) + 1e-8);
    }
}

ORACLE_UNUSED static void oracle_update_threshold(oracle *o, size_t n) {
    double now = 0, least = HUGE_VAL;
    for (size_t r = 0; r < n; r++) {
        double row = HUGE_VAL;
        for (size_t i = 0; i < o->m; i++) { /* decoupled: of the first layer */
            double f = oracle_f(o, r * o->m + i, 0);
            f *= oracle_code_weight(o, o->theta, i, o->layer_on ? 0 : o->layers);
            if (f > 0 && f < row) row = f;
        }
        now += row / (double)n;
        if (row < least) least = row;
    }
    if (o->kind != SAE_TRAINER_TOP_K) now = least < HUGE_VAL ? least : 0;
    o->threshold =
        o->threshold < 0 ? now : o->threshold_beta * o->threshold + (1 - o->threshold_beta) * now;
}

/* The annealers: after the loss, before the update. fs are the values the penalty was taken of. */
ORACLE_UNUSED static void oracle_anneal(oracle *o, const double *fs, size_t n) {
    bool due = false;
    if (o->next_p == o->next_p) {
        double next = 0;
        for (size_t r = 0; r < n; r++)
            next +=
                oracle_penalty(o->sparsity, o->next_p, fs + r * o->m, o->m, 0, NULL) / (double)n;
        if (o->queued == o->queue_length) {
            memmove(o->queue[0], o->queue[1], (o->queued - 1) * sizeof o->queue[0]);
            o->queued--;
        }
        o->queue[o->queued][0] = o->stats.sparsity_loss;
        o->queue[o->queued][1] = next;
        o->queued++;
    }
    for (uint64_t i = 0; i < o->n_updates; i++) due = due || oracle_anneal_step(o, i) == o->t;
    if (!due || o->p_count >= o->n_updates || o->t < oracle_anneal_step(o, o->p_count)) return;
    if (o->next_p == o->next_p) {
        double now = 0, next = 0;
        for (size_t i = 0; i < o->queued; i++) now += o->queue[i][0], next += o->queue[i][1];
        o->coeff *= now / next;
    }
    o->p = oracle_anneal_p(o, o->p_count);
    o->next_p = o->p_count + 1 < o->n_updates ? oracle_anneal_p(o, o->p_count + 1) : o->p_end;
    o->p_count++;
}

/* Before the first step: b_dec's start, and sparsify's. */
ORACLE_UNUSED static void oracle_begin(oracle *o, const double *x, const double *y, size_t n) {
    double *be = ORACLE_BE(o, o->theta), *bd = ORACLE_BD(o, o->theta);
    if (o->kind != SAE_TRAINER_SPARSIFY) {
        oracle_median(y, n, o->out, bd);
        return;
    }
    if (!o->finetune) {
        memset(bd, 0, o->out * sizeof *bd);
        for (size_t q = 0; q < n * o->out; q++) bd[q % o->out] += y[q] / (double)n;
        for (size_t i = 0; i < o->m; i++) {
            be[i] = 0;
            for (size_t q = 0; q < n * o->d; q++)
                be[i] -= ORACLE_WE(o, o->theta)[i * o->d + q % o->d] * x[q] / (double)n;
        }
    }
    for (size_t i = 0; o->optimizer != SAE_OPTIMIZER_ADAM && i < oracle_size(o); i++)
        o->first[i] = o->second[i] = o->theta[i];
}

ORACLE_UNUSED static size_t oracle_sparsify_k(const oracle *o, uint64_t t) {
    double u = t ? (double)(t - 1) : 0, first = (double)(o->m < 10 * o->d ? o->m : 10 * o->d);
    if (u >= (double)o->k_decay) return o->k_target;
    return (size_t)rint(first * (1 - u / (double)o->k_decay)
                        + (double)o->k_target * u / (double)o->k_decay);
}

/* Adam; or signum, whose first is z and whose second the average. */
ORACLE_UNUSED static void oracle_sparsify_update(oracle *o, double lr) {
    size_t size = oracle_size(o);
    o->t++;
    o->k = oracle_sparsify_k(o, o->t);
    if (o->optimizer == SAE_OPTIMIZER_ADAM) {
        oracle_adam(lr, o->beta1, o->beta2, o->t, o->theta, o->grad, o->first, o->second, size);
        return;
    }
    for (size_t i = 0; i < size; i++) {
        o->first[i] -= lr * (double)((o->grad[i] > 0) - (o->grad[i] < 0));
        o->second[i] += (o->first[i] - o->second[i]) / (double)o->t;
        o->theta[i] = o->second[i] + 0.05 * (o->first[i] - o->second[i]);
    }
}

/* One update. y may be NULL (x). */
ORACLE_UNUSED static void oracle_step(oracle *o, const double *x, const double *y, size_t n) {
    size_t m = o->m, d = o->d, size = oracle_size(o);
    double lr = o->base_lr * oracle_lr_factor(o, o->t), norm = NAN, l0 = 0;
    double *W = ORACLE_WD(o, o->theta), *gW = ORACLE_WD(o, o->grad);
    bool constrained = o->kind == SAE_TRAINER_STANDARD || o->kind == SAE_TRAINER_P_ANNEAL
                       || oracle_is_gated(o);
    bool unit = (oracle_is_topk(o) && !o->layers) || o->kind == SAE_TRAINER_JUMP_RELU;
    if (!y) y = x;

    if (o->layers && oracle_is_topk(o)) {
        double k = (double)o->k_max;
        if (o->k_annealing)
            k = o->t >= o->k_annealing ? (double)o->k_target
                : nearbyint((double)o->k_max - (double)(o->k_max - o->k_target) * (double)o->t
                                                   / (double)o->k_annealing);
        o->k = k < 1 ? 1 : (size_t)k;
    }
    for (size_t l = 0; l < o->layers && oracle_is_topk(o) && o->t == 0; l++) {
        size_t dl = d / o->layers;
        double *part = oracle_doubles(n * dl);
        for (size_t q = 0; q < n * dl; q++) part[q] = x[q / dl * d + l * dl + q % dl];
        oracle_median(part, n, dl, ORACLE_BD(o, o->theta) + l * dl);
        free(part);
    }
    if (oracle_is_topk(o) && !o->layers && o->t == 0) oracle_begin(o, x, y, n);
    oracle_encode(o, o->theta, x, n);
    if (oracle_is_topk(o) && o->kind != SAE_TRAINER_SPARSIFY && o->t > o->threshold_start)
        oracle_update_threshold(o, n);
    o->num_dead = o->num_ghosts = 0;
    for (size_t i = 0; i < m; i++) {
        bool fired = false, any = false;
        double sum = 0;
        for (size_t r = 0; r < n; r++) {
            fired = fired || (oracle_each_row(o) && o->on[r * m + i]);
            any = any || o->f[r * m + i] != 0;
            sum += o->f[r * m + i];
            l0 += (o->f[r * m + i] != 0) / (double)n;
        }
        if (!oracle_each_row(o)) fired = sum > 0;
        if (o->kind == SAE_TRAINER_SPARSIFY) { /* as it was before this batch */
            o->dead[i] = o->since[i] > o->dead_threshold;
            o->since[i] = fired ? 0 : o->since[i] + n;
            o->num_dead += o->dead[i];
            continue;
        }
        o->since[i] = fired ? 0 : o->since[i] + n;
        o->dead[i] = o->kind == SAE_TRAINER_JUMP_RELU ? o->since[i] > o->dead_threshold
                                                      : o->since[i] >= o->dead_threshold;
        o->num_dead += o->dead[i];
        o->ghost[i] = o->ghost_threshold != ORACLE_NO_STEP && o->silent[i] > o->ghost_threshold;
        o->num_ghosts += o->ghost[i];
        o->silent[i] = any ? 0 : o->silent[i] + 1;
    }

    oracle_loss(o, o->theta, x, y, n, o->grad);
    o->stats.dead_features = (double)o->num_dead;
    o->stats.ghosts = (double)o->num_ghosts;
    o->stats.l0 = l0;
    o->stats.threshold = o->threshold;
    o->stats.effective_l0 = (double)(o->kind == SAE_TRAINER_MATRYOSHKA ? o->k_target : o->k);
    o->stats.lr = lr;
    if (oracle_is_annealer(o)) oracle_anneal(o, oracle_is_gated(o) ? o->gate : o->f, n);
    o->stats.p = o->p;
    o->stats.next_p = o->next_p;
    o->stats.sparsity_coeff = o->coeff;

    o->stats.k = (double)o->k;
    if (o->kind == SAE_TRAINER_SPARSIFY && o->optimizer != SAE_OPTIMIZER_ADAM)
        lr = o->stats.lr = o->base_lr;
    if (o->kind == SAE_TRAINER_SPARSIFY) {
        oracle_sparsify_update(o, lr);
        return;
    }
    if (constrained || unit) oracle_remove_parallel(W, gW, m, o->out, constrained ? 0 : 1e-6);
    if (!constrained && o->kind != SAE_TRAINER_CROSSCODER) {
        norm = sqrt(oracle_dot(o->grad, o->grad, size));
        if (1 / (norm + 1e-6) < 1)
            for (size_t i = 0; i < size; i++) o->grad[i] *= 1 / (norm + 1e-6);
    }
    o->stats.grad_norm = norm;
    oracle_adam(lr, o->beta1, o->beta2, o->t + 1, o->theta, o->grad, o->first, o->second, size);
    if (constrained || unit) oracle_unit_rows(W, m, o->out, constrained ? 0 : (double)FLT_EPSILON);
    if (o->k_anneal) {
        double r = (double)(o->t < o->k_anneal ? o->t : o->k_anneal) / (double)o->k_anneal;
        o->k = (size_t)((double)d * (1 - r) + (double)o->k_target * r);
    }
    o->t++;
}

#endif /* ORACLE_H */
