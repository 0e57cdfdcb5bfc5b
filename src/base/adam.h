#pragma once
#include "../api/backend.h"
#include "math.h"

/* ==== >>math: Adam ============================================================================ */

typedef struct saei_adam_factors {
    float keep1, keep2;      /* 1 - beta1, 1 - beta2 */
    float beta2, root2;      /* root2 = sqrt(1 - beta2^t) */
    float step, eps, scale;  /* step = lr / (1 - beta1^t); scale multiplies the gradient */
} saei_adam_factors;

/* beta^t by multiplication, so that no pow() touches the result. */
static inline double saei_power_of(double beta, uint64_t t) {
    double result = 1;
    for (; t; t >>= 1, beta *= beta)
        if (t & 1) result *= beta;
    return result;
}

/* What update t (from 1 on) multiplies by, for every backend. */
static inline saei_adam_factors saei_adam_step_of(const sae_adam_desc *adam, uint64_t t,
                                                  double scale) {
    saei_adam_factors c;
    c.keep1 = (float)(1 - adam->beta1);
    c.keep2 = (float)(1 - adam->beta2);
    c.beta2 = (float)adam->beta2;
    c.root2 = (float)sqrt(1 - saei_power_of(adam->beta2, t));
    c.step = (float)(adam->lr / (1 - saei_power_of(adam->beta1, t)));
    c.eps = (float)adam->eps;
    c.scale = (float)scale;
    return c;
}
