#pragma once
#include "../base/math.h"
#include "table.h"

/* ==== >>kernels: AVX-512 ====================================================================== */
#if defined(SAEI_X86)
#include "begin_avx512.inl"
#include "names.inl"

typedef __m512 saei_v;
static inline saei_v saei_vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void saei_vstore(float *p, saei_v a) { _mm512_storeu_ps(p, a); }
static inline saei_v saei_vset(float a) { return _mm512_set1_ps(a); }
static inline saei_v saei_vhalf(const unsigned char *p) {
    return _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline saei_v saei_vbf16(const unsigned char *p) {
    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(
        0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, words), 16));
}
static inline saei_v saei_vfma(saei_v a, saei_v b, saei_v c) { return _mm512_fmadd_ps(a, b, c); }
static inline saei_v saei_vmul(saei_v a, saei_v b) { return _mm512_mul_ps(a, b); }
static inline saei_v saei_vadd(saei_v a, saei_v b) { return _mm512_add_ps(a, b); }
static inline saei_v saei_vsub(saei_v a, saei_v b) { return _mm512_sub_ps(a, b); }
static inline saei_v saei_vdiv(saei_v a, saei_v b) { return _mm512_div_ps(a, b); }
static inline saei_v saei_vsqrt(saei_v a) { return _mm512_maskz_sqrt_ps(0xFFFF, a); }

/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
    /* maskz with a full mask: GCC 12 warns of an undefined operand in the plain forms and casts */
    __m512d wide = _mm512_castps_pd(a), eight;
    __m256d low = _mm512_maskz_extractf64x4_pd(0xFF, wide, 0), four;
    __m256d high = _mm512_maskz_extractf64x4_pd(0xFF, wide, 1);
    __m128d two;
    eight = _mm512_add_pd(_mm512_maskz_cvtps_pd(0xFF, _mm256_castpd_ps(low)),
                          _mm512_maskz_cvtps_pd(0xFF, _mm256_castpd_ps(high)));
    four = _mm256_add_pd(_mm512_maskz_extractf64x4_pd(0xFF, eight, 0),
                         _mm512_maskz_extractf64x4_pd(0xFF, eight, 1));
    two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* 16 rows of 16 words: r[c] becomes column c of them. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_turn)(saei_v r[16]) {
#define SAEI_QUADS(X) X(0) X(1) X(2) X(3)
/* w, x, y, z of quad q: lanes 4 g + i hold column 4 g + 0, 1, 2, 3 of row 4 q + i */
#define SAEI_QUAD(q)                                                                               \
    __m512d e##q = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xFFFF, r[4 * q], r[4 * q + 1]));     \
    __m512d f##q = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xFFFF, r[4 * q], r[4 * q + 1]));     \
    __m512d g##q = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xFFFF, r[4 * q + 2], r[4 * q + 3])); \
    __m512d h##q = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xFFFF, r[4 * q + 2], r[4 * q + 3])); \
    saei_v w##q = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xFF, e##q, g##q));                    \
    saei_v x##q = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xFF, e##q, g##q));                    \
    saei_v y##q = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xFF, f##q, h##q));                    \
    saei_v z##q = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xFF, f##q, h##q));
/* a 4 x 4 transposition of quarters: columns c, c + 4, c + 8, c + 12 */
#define SAEI_QUARTERS(v, c)                                                                        \
    {                                                                                              \
        saei_v lo = _mm512_maskz_shuffle_f32x4(0xFFFF, v##0, v##1, 0x88);                          \
        saei_v hi = _mm512_maskz_shuffle_f32x4(0xFFFF, v##2, v##3, 0x88);                          \
        saei_v lp = _mm512_maskz_shuffle_f32x4(0xFFFF, v##0, v##1, 0xDD);                          \
        saei_v hp = _mm512_maskz_shuffle_f32x4(0xFFFF, v##2, v##3, 0xDD);                          \
        r[c] = _mm512_maskz_shuffle_f32x4(0xFFFF, lo, hi, 0x88);                                   \
        r[c + 8] = _mm512_maskz_shuffle_f32x4(0xFFFF, lo, hi, 0xDD);                               \
        r[c + 4] = _mm512_maskz_shuffle_f32x4(0xFFFF, lp, hp, 0x88);                               \
        r[c + 12] = _mm512_maskz_shuffle_f32x4(0xFFFF, lp, hp, 0xDD);                              \
    }
    SAEI_QUADS(SAEI_QUAD)
    SAEI_QUARTERS(w, 0)
    SAEI_QUARTERS(x, 1)
    SAEI_QUARTERS(y, 2)
    SAEI_QUARTERS(z, 3)
#undef SAEI_QUADS
#undef SAEI_QUAD
#undef SAEI_QUARTERS
}

/* 16 rows of 16 words at k to r[c] = column k + c of the 16 rows: whole cache lines are read, as
   rows of a power of two in length share few sets of a cache. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_transpose)(
    const float *const at[16], size_t k, saei_v r[16]) {
#define SAEI_READ(i) r[i] = saei_vload(at[i] + k);
    SAEI_SIXTEEN(SAEI_READ)
    SAEI_FN(saei_turn)(r);
#undef SAEI_READ
}

static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    const float *at[16];
    float lane[16], bad = 0;
    size_t c = 0;
    for (size_t i = 0; i < 16; i++) at[i] = (const float *)row[i];
    /* whole cache lines need not be read before they are written */
    const bool lines = (uintptr_t)to % 64 == 0 && ld % 16 == 0;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    for (; c + 16 <= n; c += 16) {
        saei_v r[16];
        SAEI_FN(saei_transpose)(at, c, r);
        for (size_t i = 0; i < 16; i++) {
            sum = saei_vadd(sum, saei_vmul(r[i], zero));
            if (lines) _mm512_stream_ps(to + (c + i) * ld, r[i]);
            else saei_vstore(to + (c + i) * ld, r[i]);
        }
    }
    if (lines) _mm_sfence();
    saei_vstore(lane, sum);
    for (size_t i = 0; i < 16; i++) bad += lane[i];
    for (; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, at[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

#include "common.inl"
#include "common_train.inl"

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
