#pragma once
#include "../dict/params.h"

/* ==== >>metrics: gradient pursuit ============================================================= */

enum { SAEI_PURSUIT_PARTS = 64 };

typedef struct saei_pursuit {
    const sae_dictionary *dict;
    const float *x;
    float *f;
    size_t n, target_l0, parts;
    double *rows;     /* [parts][2,d]: residual, c */
    double *gradient; /* [parts][target_l0] */
    size_t *chosen;   /* [parts][target_l0] */
} saei_pursuit;

/* Four running sums. A product of two floats is exact in double, so fusing changes no bit. */
static double saei_pursuit_dot(const float *w, const double *r, size_t d) {
    double s[4] = { 0, 0, 0, 0 };
    size_t j = 0;
    for (; j + 4 <= d; j += 4)
        for (size_t i = 0; i < 4; i++) s[i] += (double)w[j + i] * r[j + i];
    for (; j < d; j++) s[0] += (double)w[j] * r[j];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* target_l0 times: residual r = x - f W; add the latent of the largest W r to the chosen; along
   their gradient g = W r the best step is (c.r) / (c.c), c = g W; f = max(f + step g, 0).
   DEVIATION: where c is 0 the reference divides 0 by 0; here the row stays as it is. */
static void saei_pursuit_row(const saei_pursuit *p, size_t part, size_t row) {
    const sae_dictionary *dict = p->dict;
    size_t d = dict->desc.activation_dim, m = dict->desc.dict_size, count = 0;
    size_t *chosen = p->chosen + part * p->target_l0;
    double *r = p->rows + part * 2 * d, *c = r + d, *gradient = p->gradient + part * p->target_l0;
    float *f = p->f + row * m;
    for (size_t round = 0; round < p->target_l0; round++) {
        double best = 0, cr = 0, cc = 0, step;
        size_t latent = 0, at = 0;
        for (size_t j = 0; j < d; j++) r[j] = (double)p->x[row * d + j];
        for (size_t k = 0; k < count; k++) {
            const float *w = dict->W_dec + chosen[k] * dict->ld_out;
            double value = (double)f[chosen[k]];
            for (size_t j = 0; j < d; j++) r[j] -= value * (double)w[j];
        }
        for (size_t j = 0; j < d; j++) r[j] = (double)(float)r[j];
        for (size_t i = 0; i < m; i++) {
            double inner = saei_pursuit_dot(dict->W_dec + i * dict->ld_out, r, d);
            if (i == 0 || inner > best) {
                best = inner;
                latent = i;
            }
        }
        while (at < count && chosen[at] != latent) at++;
        if (at == count) chosen[count++] = latent;
        memset(c, 0, d * sizeof *c);
        for (size_t k = 0; k < count; k++) {
            const float *w = dict->W_dec + chosen[k] * dict->ld_out;
            gradient[k] = (double)(float)saei_pursuit_dot(w, r, d);
            for (size_t j = 0; j < d; j++) c[j] += gradient[k] * (double)w[j];
        }
        for (size_t j = 0; j < d; j++) {
            c[j] = (double)(float)c[j];
            cr += c[j] * r[j];
            cc += c[j] * c[j];
        }
        if (!(cc > 0)) break;
        step = (double)(float)(cr / cc);
        for (size_t k = 0; k < count; k++) {
            float value = (float)((double)f[chosen[k]] + step * gradient[k]);
            f[chosen[k]] = value > 0 ? value : 0;
        }
    }
}

static void saei_pursuit_part(void *arg, size_t part) {
    const saei_pursuit *p = (const saei_pursuit *)arg;
    for (size_t row = part; row < p->n; row += p->parts) saei_pursuit_row(p, part, row);
}

SAE_API sae_result sae_grad_pursuit(const sae_dictionary *dict, const float *x, size_t n,
                                    size_t target_l0, float *f) {
    saei_pursuit p;
    size_t size, bytes, d;
    if (!dict) return SAE_ERR_INVALID;
    if (!dict->W_dec || saei_output_dim(&dict->desc) != dict->desc.activation_dim)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_grad_pursuit: %s",
                         dict->W_dec ? "output_dim is not activation_dim"
                                     : "IdentityDict has no decoder");
    if (!n) return SAE_OK;
    if (!x || !f)
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_grad_pursuit: %s is NULL",
                         x ? "f" : "x");
    if (target_l0 > dict->desc.dict_size)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_grad_pursuit: target_l0 is %zu, allowed is "
                         "at most dict_size = %zu",
                         target_l0, dict->desc.dict_size);
    if (!saei_mul(n, dict->desc.dict_size, &size) || !saei_mul(size, sizeof *f, &bytes))
        return saei_fail(dict->ctx, SAE_ERR_INVALID, "sae_grad_pursuit: n is %zu, too large", n);
    p.dict = dict;
    p.x = x;
    p.f = f;
    p.n = n;
    p.target_l0 = target_l0;
    p.parts = saei_min(n, SAEI_PURSUIT_PARTS);
    size = saei_max(p.parts * target_l0, 1);
    d = dict->desc.activation_dim;
    p.rows = (double *)saei_alloc(dict->ctx, p.parts, 2 * d * sizeof *p.rows);
    p.gradient = (double *)saei_alloc(dict->ctx, size, sizeof *p.gradient);
    p.chosen = (size_t *)saei_alloc(dict->ctx, size, sizeof *p.chosen);
    if (p.rows && p.gradient && p.chosen) {
        memset(f, 0, bytes);
        saei_parallel(dict->ctx, p.parts, saei_pursuit_part, &p);
    }
    saei_free(dict->ctx, p.rows);
    saei_free(dict->ctx, p.gradient);
    saei_free(dict->ctx, p.chosen);
    if (!p.rows || !p.gradient || !p.chosen)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_grad_pursuit: no memory");
    return SAE_OK;
}
