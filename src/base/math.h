#pragma once

/* ==== >>math ================================================================================== */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* For the host and for a GPU. Functions whose last bit differs between C libraries may not touch a
   result. These use only + - * / sqrt and fma, which IEEE 754 fixes, so they give the same bits
   everywhere. A GPU's compiler would fuse a product and a sum unless it is told not to: hence
   SAEI_TIMES. They are inlined into kernels, where fma is one instruction and not a call. */
#if defined(__CUDACC__) || defined(SAEI_EMULATED_CUDA)
#define SAEI_INLINE __host__ __device__ static inline
#elif defined(__GNUC__)
#define SAEI_INLINE static inline __attribute__((always_inline))
#else
#define SAEI_INLINE static inline
#endif
#if defined(__CUDA_ARCH__)
#define SAEI_TIMES(a, b) __dmul_rn(a, b)
#else
#define SAEI_TIMES(a, b) ((a) * (b))
#endif

/* -- whole numbers -- */

SAEI_INLINE size_t saei_min(size_t a, size_t b) { return a < b ? a : b; }
SAEI_INLINE size_t saei_max(size_t a, size_t b) { return a > b ? a : b; }
SAEI_INLINE size_t saei_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
SAEI_INLINE size_t saei_align16(size_t a) { return (a + 15) / 16 * 16; } /* in whole vectors */

/* -- exp, ln, pow -- */

SAEI_INLINE double saei_from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* e^x to about one unit in the last place: x = n ln2 + r, |r| <= ln2/2, Taylor to r^13. */
SAEI_INLINE double saei_exp(double x) {
    const double coef[] = { 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                            1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                            1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0 };
    double n, r, y;
    int e;
    if (x != x) return x;
    if (x > 709.78) return HUGE_VAL;
    if (x < -745.2) return 0;
    n = floor(fma(x, 1.4426950408889634, 0.5));
    r = fma(-n, 6.93147180369123816490e-01, x);
    r = fma(-n, 1.90821492927058770002e-10, r);
    y = coef[0];
    for (int i = 1; i < 14; i++) y = fma(y, r, coef[i]);
    e = (int)n;
    if (e < -1000)
        return SAEI_TIMES(SAEI_TIMES(y, saei_from_bits((uint64_t)(e + 1023 + 200) << 52)),
                          6.223015277861142e-61);
    if (e > 1023)
        return SAEI_TIMES(SAEI_TIMES(y, 2.0), saei_from_bits((uint64_t)(e - 1 + 1023) << 52));
    return SAEI_TIMES(y, saei_from_bits((uint64_t)(e + 1023) << 52));
}

/* ln x to about one unit in the last place: x = 2^e f, f in [sqrt(1/2), sqrt(2)),
   ln f = 2 atanh(s), s = (f-1)/(f+1). */
SAEI_INLINE double saei_ln(double x) {
    uint64_t bits;
    double f, s, z, y;
    int e = 0;
    if (x != x || x < 0) return (double)NAN;
    if (x == 0) return -HUGE_VAL;
    if (x > DBL_MAX) return x;
    if (x < DBL_MIN) {
        x = SAEI_TIMES(x, 18014398509481984.0); /* 2^54 */
        e = -54;
    }
    memcpy(&bits, &x, sizeof bits);
    e += (int)(bits >> 52) - 1023;
    f = saei_from_bits((bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    if (f > 1.4142135623730951) {
        f = SAEI_TIMES(f, 0.5);
        e++;
    }
    s = (f - 1) / (f + 1);
    z = SAEI_TIMES(s, s);
    y = 0;
    for (int i = 23; i >= 3; i -= 2) y = fma(y, z, 1.0 / i);
    y = fma(SAEI_TIMES(y, z), SAEI_TIMES(2.0, s), SAEI_TIMES(2.0, s));
    return fma((double)e, 6.93147180369123816490e-01,
               fma((double)e, 1.90821492927058770002e-10, y));
}

SAEI_INLINE double saei_pow(double x, double p) { /* x >= 0 */
    if (p == 0 || x == 1) return 1;
    if (p == 1) return x;
    if (x == 0) return p > 0 ? 0 : HUGE_VAL;
    return saei_exp(SAEI_TIMES(p, saei_ln(x)));
}

/* -- random bits -- */

/* Philox4x32-10 (Salmon et al. 2011): out = function of (counter, key), so that a draw needs no
   state and is the same on every backend. Known answers in tests/. */
SAEI_INLINE void saei_philox(const uint32_t counter[4], const uint32_t key[2],
                             uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}
/* Streams keep draws for different purposes apart under one seed. */
enum {
    SAEI_STREAM_INIT = 1, SAEI_STREAM_SHUFFLE = 2, SAEI_STREAM_RESAMPLE = 3,
    SAEI_STREAM_INIT_BIAS = 4, SAEI_STREAM_INIT_ENCODER = 5
};

/* Block `block` of a stream under a seed: draws 2 block and 2 block + 1. */
SAEI_INLINE void saei_draw_block(uint64_t seed, uint32_t stream, uint64_t block, uint32_t out[4]) {
    uint32_t counter[4], key[2];
    counter[0] = (uint32_t)block;
    counter[1] = (uint32_t)(block >> 32);
    counter[2] = stream;
    counter[3] = 0;
    key[0] = (uint32_t)seed;
    key[1] = (uint32_t)(seed >> 32);
    saei_philox(counter, key, out);
}
/* Draw i, 64 random bits, of the block i / 2. */
SAEI_INLINE uint64_t saei_draw_bits(const uint32_t block[4], uint64_t i) {
    return i & 1 ? (uint64_t)block[3] << 32 | block[2] : (uint64_t)block[1] << 32 | block[0];
}
/* 64 random bits as a number in the open interval (0, 1): an odd multiple of 2^-53. */
SAEI_INLINE double saei_draw_uniform(uint64_t bits) {
    return SAEI_TIMES((double)(bits >> 11 | 1), 1.1102230246251565e-16);
}
