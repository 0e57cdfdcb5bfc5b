#pragma once
#include "core.h"

/* ==== >>backend =============================================================================== */

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
enum { /* bits: ask by need & SAE_OP_OPTIONAL, need & SAE_OP_GUARDED */
    SAE_OP_REQUIRED = 0,
    SAE_OP_GUARDED = 1,     /* held back once a guard has fired */
    SAE_OP_OPTIONAL = 2,    /* may be NULL */
    SAE_OP_OPTIONAL_GUARDED = SAE_OP_OPTIONAL | SAE_OP_GUARDED
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

/* Rows of layers: of crosscoders, whose rows are `layers` blocks of equal width, one after the
   other. A backend without these trains none. Sums along a block are in the dot order over pieces
   of 256 columns, added in order; those over blocks are in double, ascending. */
#define SAE_BACKEND_LAYERS(X)                                                                      \
    /* x_l = (x_l - mean_l) scale[l] in every block */                                             \
    X(void, center_layers, SAE_OP_OPTIONAL,                                                        \
      (const sae_work *w, size_t n, size_t layers, const float *mean, const float *scale,          \
       float *x), (w, n, layers, mean, scale, x))                                                  \
    /* e = x_hat - y (y NULL: 0), e may be x_hat; u_l = e_l / norm(e_l), 0 where that is 0;        \
       loss = mean over rows and layers of norm(e_l). squared: u = e, of norm(e_l)^2. only: of     \
       this block alone, the others of u 0 and of e left alone, and loss is the sum with those of  \
       the blocks before; all if it is `layers` */                                                 \
    X(void, layer_errors, SAE_OP_OPTIONAL,                                                         \
      (const sae_work *w, const float *x_hat, const float *y, size_t n, size_t layers,             \
       size_t only, bool squared, float *e, float *u, double *loss),                               \
      (w, x_hat, y, n, layers, only, squared, e, u, loss))                                         \
    /* out[i] = norm_share norm(W_i) + sum_share sum_l norm(W_il); or norm(W_il) of block `only`,  \
       if that is one */                                                                           \
    X(void, layer_norms, SAE_OP_OPTIONAL,                                                          \
      (const sae_work *w, const float *W, size_t m, size_t layers, size_t only,                    \
       double norm_share, double sum_share, float *out),                                           \
      (w, W, m, layers, only, norm_share, sum_share, out))                                         \
    /* grad_il += coef sums_i (norm_share / norm(W_i) + sum_share / norm(W_il)) W_il */            \
    X(void, layer_norm_grad, SAE_OP_OPTIONAL,                                                      \
      (const sae_work *w, const float *W, size_t m, size_t layers, double norm_share,              \
       double sum_share, const float *sums, float coef, float *grad),                              \
      (w, W, m, layers, norm_share, sum_share, sums, coef, grad))                                  \
    /* W_out_i = weight_i W_i, bias_out_i = weight_i bias_i */                                     \
    X(void, weigh_rows, SAE_OP_OPTIONAL,                                                           \
      (const sae_work *w, const float *W, const float *bias, const float *weight, size_t m,        \
       float *W_out, float *bias_out), (w, W, bias, weight, m, W_out, bias_out))                   \
    /* value /= weight of its latent, where value is not 0 */                                      \
    X(void, unweigh, SAE_OP_OPTIONAL,                                                              \
      (const sae_work *w, const float *weight, sae_code *code), (w, weight, code))                 \
    /* geometric_median of each block; it ends when none moves any more */                         \
    X(void, layer_median, SAE_OP_OPTIONAL_GUARDED,                                                 \
      (const sae_work *w, const float *x, size_t n, size_t layers, float *out),                    \
      (w, x, n, layers, out))                                                                      \
    /* since[i] = 0 where an entry of latent i has weight_i value > cut (weight NULL: 1), else     \
       since[i] + 1 */                                                                             \
    X(void, count_quiet, SAE_OP_OPTIONAL_GUARDED,                                                  \
      (const sae_work *w, const sae_code *code, const float *weight, float cut, size_t m,          \
       uint64_t *since), (w, code, weight, cut, m, since))                                         \
    /* As resample: rows with probability ~ (mean_l norm(e_l))^2, into each block                  \
         W_enc_l = x_l 0.05 mean norm(W_enc_l) of the living, W_dec_l = x_l / norm(x_l).           \
       *count = how many */                                                                        \
    X(void, layer_resample, SAE_OP_OPTIONAL_GUARDED,                                               \
      (const sae_work *w, const float *x, const float *e, size_t n, size_t layers,                 \
       const uint64_t *since, uint64_t threshold, size_t m, uint64_t seed, uint64_t step,          \
       float *const enc[3], float *const dec[3], float *const bias[3], double *count),             \
      (w, x, e, n, layers, since, threshold, m, seed, step, enc, dec, bias, count))
/* Of transcoders. A backend whose skip is NULL trains none with a skip connection or an output of
   another width; one that has it is passed works of two widths that share state and scratch. */
#define SAE_BACKEND_SKIP(X)                                                                        \
    /* out[r][o] = y[r][o] - x_r.W_o: the target less the skip connection's share. x [n][ld],      \
       W [outputs][ld]; y, out [n][outputs rounded up to 16] */                                    \
    X(void, skip, SAE_OP_OPTIONAL,                                                                 \
      (const sae_work *w, const float *x, size_t n, const float *W, size_t outputs,                \
       const float *y, float *out), (w, x, n, W, outputs, y, out))                                 \
    /* out[o] = alpha sum_r e[r][o] x_r */                                                         \
    X(void, skip_grad, SAE_OP_OPTIONAL,                                                            \
      (const sae_work *w, const float *x, const float *e, size_t n, size_t outputs, float alpha,   \
       float *out), (w, x, e, n, outputs, alpha, out))                                             \
    /* Signum, averaged free of a schedule (Defazio et al. 2024): z -= lr sign(grad),              \
       average += weight (z - average), param = average + beta (z - average); sign(0) = 0 */       \
    X(void, signum, SAE_OP_OPTIONAL_GUARDED,                                                       \
      (const sae_work *w, float lr, float weight, float beta, const float *grad, float *z,         \
       float *average, float *param, size_t count),                                                \
      (w, lr, weight, beta, grad, z, average, param, count))

/* All that compute. */
#define SAE_BACKEND_OPERATIONS(X)                                                                  \
    SAE_BACKEND_BATCH(X)                                                                           \
    SAE_BACKEND_FORWARD(X)                                                                         \
    SAE_BACKEND_ENTRIES(X)                                                                         \
    SAE_BACKEND_LATENTS(X)                                                                         \
    SAE_BACKEND_SUMS(X)                                                                            \
    SAE_BACKEND_WEIGHTS(X)                                                                         \
    SAE_BACKEND_FUSED(X)                                                                           \
    SAE_BACKEND_LAYERS(X)                                                                          \
    SAE_BACKEND_SKIP(X)

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
