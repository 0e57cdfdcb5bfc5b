#pragma once
#include "isa.h"
#include "api_model.h"

/* ==== >>lm: arithmetic ======================================================================== */
/* Functions with the same bits everywhere, in double, about one unit in the last place. */

/* e^x, |x| < 700: x = n ln2 + r, Taylor to r^13. */
static double lmi_exp(double x) {
    double n = floor(x * 1.4426950408889634 + 0.5), r, y = 1;
    uint64_t bits;
    r = fma(-n, 6.93147180369123816490e-01, x);
    r = fma(-n, 1.90821492927058770002e-10, r);
    for (int k = 13; k > 0; k--) y = fma(y, r / k, 1);
    bits = (uint64_t)((int)n + 1023) << 52;
    memcpy(&r, &bits, sizeof r);
    return y * r;
}

/* ln x, x > 0 and normal: x = 2^e f, f in [sqrt(1/2), sqrt(2)), ln f = 2 atanh((f-1)/(f+1)). */
static double lmi_ln(double x) {
    double s, z, y = 0, f;
    uint64_t bits;
    int e;
    memcpy(&bits, &x, sizeof bits);
    e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    memcpy(&f, &bits, sizeof f);
    if (f > 1.4142135623730951) {
        f *= 0.5;
        e++;
    }
    s = (f - 1) / (f + 1);
    z = s * s;
    for (int i = 23; i >= 3; i -= 2) y = fma(y, z, 1.0 / i);
    y = fma(y * z, 2 * s, 2 * s);
    return fma(e, 6.93147180369123816490e-01, fma(e, 1.90821492927058770002e-10, y));
}

/* sine and cosine of x >= 0, below 1e6: x = n pi/2 + r, Taylor to r^19. */
static void lmi_sin_cos(double x, float *sine, float *cosine) {
    double n = floor(x * 0.63661977236758134 + 0.5), r, z, s = 1, c = 1;
    int quadrant = (int)(n - 4 * floor(n / 4));
    r = fma(-n, 1.5707963267341256142, x);
    r = fma(-n, 6.0771005065061922e-11, r);
    z = r * r;
    for (int k = 18; k > 0; k -= 2) {
        s = fma(-z / (k * (k + 1)), s, 1);
        c = fma(-z / (k * (k - 1)), c, 1);
    }
    s *= r;
    *sine = (float)(quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c);
    *cosine = (float)(quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s);
}

SAE_API double sae_lm_loss(const float *logits, size_t size, size_t token,
                           float *log_probabilities) {
    float largest;
    double sum = lmi_kernels_select()->sum_exp(size, logits, &largest);
    double all = (double)largest + lmi_ln(sum);
    if (log_probabilities)
        for (size_t i = 0; i < size; i++)
            log_probabilities[i] = (float)((double)logits[i] - all);
    return all - (double)logits[token];
}
