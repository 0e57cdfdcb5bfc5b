#pragma once
#include "../kernels/isa.h"
#include "../backend/cpu_weights.h"

/* ==== >>optimizer ============================================================================= */

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

SAE_API void sae_adam_step(const sae_adam_desc *adam, uint64_t t, float *param, const float *grad,
                           float *first, float *second, size_t count) {
    saei_adam_factors c;
    if (!adam || !param || !grad || !second || !count) return;
    c = saei_adam_step_of(adam, t, 1);
    saei_kernels_select(NULL)->adam(&c, count, param, grad, first, second);
}

static double saei_row_dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

SAE_API void sae_remove_parallel(const float *param, float *grad, size_t rows, size_t dim,
                                 float eps) {
    for (size_t i = 0; i < rows; i++) {
        const float *w = param + i * dim;
        float *g = grad + i * dim;
        double norm = sqrt(saei_row_dot(w, w, dim)) + (double)eps, c;
        if (!(norm > 0)) continue;
        c = saei_row_dot(g, w, dim) / (norm * norm);
        for (size_t k = 0; k < dim; k++) g[k] = fmaf((float)-c, w[k], g[k]);
    }
}

SAE_API void sae_normalize_rows(float *param, size_t rows, size_t dim, float eps) {
    for (size_t i = 0; i < rows; i++) {
        float *w = param + i * dim, norm = (float)sqrt(saei_row_dot(w, w, dim)) + eps;
        for (size_t k = 0; norm > 0 && k < dim; k++) w[k] = w[k] / norm;
    }
}

SAE_API void sae_constrained_adam_step(const sae_adam_desc *adam, uint64_t t, float *param,
                                       float *grad, float *first, float *second, size_t rows,
                                       size_t dim) {
    if (!adam || !param || !grad || !second) return;
    sae_remove_parallel(param, grad, rows, dim, 0);
    sae_adam_step(adam, t, param, grad, first, second, rows * dim);
    sae_normalize_rows(param, rows, dim, 0);
}

SAE_API double sae_clip_grad_norm(float *const *grads, const size_t *counts, size_t num_grads,
                                  double max_norm) {
    double sum = 0;
    float factor;
    for (size_t g = 0; g < num_grads; g++) sum += saei_row_dot(grads[g], grads[g], counts[g]);
    factor = (float)saei_clip_factor(sum, max_norm);
    for (size_t g = 0; factor < 1 && g < num_grads; g++)
        for (size_t i = 0; i < counts[g]; i++) grads[g][i] *= factor;
    return sqrt(sum);
}
