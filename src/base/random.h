#pragma once
#include "../api/base.h"
#include "math.h"

/* ==== >>math: random numbers ================================================================== */
/* A stream of draws under a seed. Draw i is half of what block i / 2 gives; the block last used is
   kept for its other half. */
typedef struct saei_random {
    uint64_t seed, block;
    uint32_t stream, out[4];
    bool kept;
} saei_random;

static saei_random saei_random_of(uint64_t seed, uint32_t stream) {
    saei_random r;
    memset(&r, 0, sizeof r);
    r.seed = seed;
    r.stream = stream;
    return r;
}

/* Draw number i: 64 random bits. */
static uint64_t saei_random_bits(saei_random *r, uint64_t i) {
    if (!r->kept || r->block != i >> 1) {
        r->block = i >> 1;
        r->kept = true;
        saei_draw_block(r->seed, r->stream, r->block, r->out);
    }
    return saei_draw_bits(r->out, i);
}

/* In the open interval (0, 1). */
static double saei_random_uniform(saei_random *r, uint64_t i) {
    return saei_draw_uniform(saei_random_bits(r, i));
}

/* Standard normal by the inverse distribution function, algorithm AS 241 PPND16 (Wichura 1988). */
static double saei_polynomial(const double *c, int degree, double x) {
    double y = c[degree];
    while (degree-- > 0) y = fma(y, x, c[degree]);
    return y;
}
static double saei_random_normal(saei_random *random, uint64_t i) {
    static const double a[] = { 3.3871328727963666080e0, 1.3314166789178437745e2,
                                1.9715909503065514427e3, 1.3731693765509461125e4,
                                4.5921953931549871457e4, 6.7265770927008700853e4,
                                3.3430575583588128105e4, 2.5090809287301226727e3 };
    static const double b[] = { 1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
                                5.3941960214247511077e3, 2.1213794301586595867e4,
                                3.9307895800092710610e4, 2.8729085735721942674e4,
                                5.2264952788528545610e3 };
    static const double c[] = { 1.42343711074968357734e0, 4.63033784615654529590e0,
                                5.76949722146069140550e0, 3.64784832476320460504e0,
                                1.27045825245236838258e0, 2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4 };
    static const double d[] = { 1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
                                6.89767334985100004550e-1, 1.48103976427480074590e-1,
                                1.51986665636164571966e-2, 5.47593808499534494600e-4,
                                1.05075007164441684324e-9 };
    static const double e[] = { 6.65790464350110377720e0, 5.46378491116411436990e0,
                                1.78482653991729133580e0, 2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7 };
    static const double f[] = { 1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
                                1.48753612908506148525e-2, 7.86869131145613259100e-4,
                                1.84631831751005468180e-5, 1.42151175831644588870e-7,
                                2.04426310338993978564e-15 };
    double p = saei_random_uniform(random, i), q = p - 0.5, r, x;
    if (fabs(q) <= 0.425) {
        r = fma(-q, q, 0.180625);
        return q * saei_polynomial(a, 7, r) / saei_polynomial(b, 7, r);
    }
    r = sqrt(-saei_ln(q < 0 ? p : 1 - p));
    if (r <= 5) x = saei_polynomial(c, 7, r - 1.6) / saei_polynomial(d, 7, r - 1.6);
    else x = saei_polynomial(e, 7, r - 5) / saei_polynomial(f, 7, r - 5);
    return q < 0 ? -x : x;
}
