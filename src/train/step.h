#pragma once
#include "create.h"

/* ==== >>trainer: the step ===================================================================== */

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
    adam.lr = saei_has_trait(t, SAEI_SPARSIFY) ? saei_sparsify_lr(&t->desc, step)
                                               : t->desc.lr * sae_lr_factor(&t->schedule, step);
    t->lr = adam.lr;
    if (t->desc.optimizer == SAE_OPTIMIZER_SIGNUM) {
        t->ops->signum(&t->w, (float)adam.lr, (float)(1 / (double)(step + 1)), 0.05f, t->grad.all,
                       t->first.all, t->second.all, t->param.all, t->view.num_params);
        return;
    }
    if (unit && clipped) /* the clipping needs the norm of what is left */
        t->ops->remove_parallel(&t->out, t->param.W_dec, m, 1e-6f, lazy, t->grad.W_dec);
    if (clipped) t->ops->sum_squares(&t->w, t->grad.all, t->view.num_params, squares);
    else squares = NULL;
    if (!unit) {
        saei_adam_range(t, &adam, step, squares, 0, t->view.num_params);
        return;
    }
    dec = (size_t)(t->param.W_dec - t->param.all);
    end = dec + m * t->view.ld_out;
    saei_adam_range(t, &adam, step, squares, 0, dec);
    saei_op_adam_rows(t->ops, &t->out, &adam, step + 1, squares, 1, clipped ? -1 : 0, unit_eps,
                      lazy, m, t->param.W_dec, t->grad.W_dec, t->first.W_dec, t->second.W_dec);
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
    const bool layers = saei_has_trait(t, SAEI_LAYERS);
    float *enc[3], *dec[3], *bias[3][3];
    if (!every) return;
    if (layers) t->ops->zero(&t->w, t->scalars + SAEI_S_RESAMPLED, sizeof(double));
    if (step % every != (saei_has_trait(t, SAEI_ANNEALED) ? every - 1 : 0)) return;
    t->ops->count_nonzero(&t->w, &t->code, t->scalars + SAEI_S_NONZERO);
    t->l0_known = true;
    if (saei_subtracts(&t->view.desc))
        t->ops->subtract(&t->w, t->x, t->param.b_dec, t->n, t->xc);
    if (gated) {
        saei_encode_batch(t, SAE_SELECT_GATE, 0, &t->code, false);
        t->ops->gate(&t->w, t->param.b_enc, t->param.aux0, t->param.aux1, &t->code);
    } else saei_encode_batch(t, SAE_SELECT_POSITIVE, 0, &t->code, false);
    t->ops->decode(&t->out, &t->code, t->code.value, t->param.W_dec, 0, m, t->param.b_dec, 0, t->r);
    t->ops->residual(&t->out, t->r, t->fit, t->n, t->r, t->scalars + SAEI_S_SCRATCH);
    for (int i = 0; i < 3; i++) {
        const saei_params *p = i == 0 ? &t->param : i == 1 ? &t->first : &t->second;
        enc[i] = p->W_enc;
        dec[i] = p->W_dec;
        bias[0][i] = p->b_enc;
        bias[1][i] = p->aux0;
        bias[2][i] = p->aux1;
    }
    saei_catch_up(t, NULL);
    if (layers)
        t->ops->layer_resample(&t->w, t->x, t->r, t->n, t->desc.num_layers, t->since, every / 2, m,
                               t->desc.seed, step, enc, dec, bias[0],
                               t->scalars + SAEI_S_RESAMPLED);
    else
        t->ops->resample(&t->w, t->x, t->r, t->n, t->since, every / 2, m, t->desc.seed, step, enc,
                         dec, (float *const(*)[3])bias, biases);
}

/* k after the update of step t: from d down to the target over k_anneal_steps. */
static void saei_anneal_k(sae_trainer *t, uint64_t step) {
    uint64_t over = saei_steps_of(t->desc.k_anneal_steps);
    double r;
    if (saei_has_trait(t, SAEI_SPARSIFY)) {
        t->now.k = saei_sparsify_k(&t->desc, step + 1);
        return;
    }
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
    if (target) t->ops->load_rows(&t->out, target, n, divisor, t->target, t->bad);
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
    if (!t->param.W_skip) t->fit = t->y;
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
                                 t->desc.output_dim));
    else if (t->desc.output_dim != t->desc.activation_dim)
        return saei_fail(t->ctx, SAE_ERR_INVALID, "sae_trainer_step: target is NULL, allowed where "
                         "output_dim, %zu, is activation_dim, %zu", t->desc.output_dim,
                         t->desc.activation_dim);
    if (target && saei_has_trait(t, SAEI_LAYERS))
        return saei_fail(t->ctx, SAE_ERR_INVALID, "sae_trainer_step: target is given, a "
                         "crosscoder reconstructs its input");
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
    t->penalty = t->scalars + SAEI_S_SPARSITY;
    t->l0_known = false;
    if (t->ops->begin_step) t->ops->begin_step(&t->w);
    if (saei_has_trait(t, SAEI_LAYERS)) saei_begin_crosscoder(t, step);
    else if (saei_has_trait(t, SAEI_MEDIAN) && step == 0)
        t->ops->geometric_median(&t->out, t->y, n, t->param.b_dec);
    if (saei_has_trait(t, SAEI_SPARSIFY) && step == 0) saei_sparsify_begin(t);
    t->used_k = t->now.k;
    if (saei_subtracts(&t->view.desc)) t->ops->subtract(&t->w, t->x, t->param.b_dec, n, t->xc);
    if (t->param.W_skip)
        t->ops->skip(&t->w, t->x, n, t->param.W_skip, t->desc.output_dim, t->y, t->fit);
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
