#pragma once
#include "../base/platform.h"

/* ==== >>operations ============================================================================ */

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
