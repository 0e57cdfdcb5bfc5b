#pragma once
#include "../base/math.h"
#include "table.h"

/* ==== >>kernels: AVX2 ========================================================================= */
#if defined(SAEI_X86)
#include "begin_avx2.inl"
#include "names.inl"

typedef struct saei_v {
    __m256 a, b;
} saei_v;
static inline saei_v saei_vload(const float *p) {
    saei_v r;
    r.a = _mm256_loadu_ps(p);
    r.b = _mm256_loadu_ps(p + 8);
    return r;
}
static inline void saei_vstore(float *p, saei_v x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline saei_v saei_vset(float a) {
    saei_v r;
    r.a = r.b = _mm256_set1_ps(a);
    return r;
}
static inline __m256 SAEI_FN(saei_half_8)(const unsigned char *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline saei_v saei_vhalf(const unsigned char *p) {
    saei_v r;
    r.a = SAEI_FN(saei_half_8)(p);
    r.b = SAEI_FN(saei_half_8)(p + 16);
    return r;
}
static inline __m256 SAEI_FN(saei_bf16_8)(const unsigned char *p) {
    __m128i words = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}
static inline saei_v saei_vbf16(const unsigned char *p) {
    saei_v r;
    r.a = SAEI_FN(saei_bf16_8)(p);
    r.b = SAEI_FN(saei_bf16_8)(p + 16);
    return r;
}
static inline saei_v saei_vfma(saei_v x, saei_v y, saei_v z) {
    z.a = _mm256_fmadd_ps(x.a, y.a, z.a);
    z.b = _mm256_fmadd_ps(x.b, y.b, z.b);
    return z;
}
static inline saei_v saei_vsqrt(saei_v x) {
    x.a = _mm256_sqrt_ps(x.a);
    x.b = _mm256_sqrt_ps(x.b);
    return x;
}
#define SAEI_LANES(fn, op)                                                                         \
    static inline saei_v fn(saei_v x, saei_v y) {                                                  \
        x.a = op(x.a, y.a);                                                                        \
        x.b = op(x.b, y.b);                                                                        \
        return x;                                                                                  \
    }
SAEI_LANES(saei_vmul, _mm256_mul_ps)
SAEI_LANES(saei_vadd, _mm256_add_ps)
SAEI_LANES(saei_vsub, _mm256_sub_ps)
SAEI_LANES(saei_vdiv, _mm256_div_ps)
#undef SAEI_LANES
#include "sum.inl"

#define SAEI_COLUMNS(X, row) X(row, 0) X(row, 1) X(row, 2)
#define SAEI_WIDE __m256
#define SAEI_LOAD _mm256_loadu_ps
#define SAEI_STORE _mm256_storeu_ps
#define SAEI_SET _mm256_set1_ps
#define SAEI_FMA(t, p, sum) _mm256_fmadd_ps(t, p, sum)
#include "tile_wide.inl"

/* 8 rows of 8 words: r[c] becomes column c of them. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_turn)(__m256 r[8]) {
/* columns 0, 1 and 4, 5 of two rows, and 2, 3 and 6, 7; columns c and c + 4 of four */
#define SAEI_PAIR(a, b)                                                                            \
    __m256 lo##a = _mm256_unpacklo_ps(r[a], r[b]), hi##a = _mm256_unpackhi_ps(r[a], r[b]);
#define SAEI_QUAD(a, b)                                                                            \
    __m256 q0##a = _mm256_shuffle_ps(lo##a, lo##b, 0x44);                                          \
    __m256 q1##a = _mm256_shuffle_ps(lo##a, lo##b, 0xEE);                                          \
    __m256 q2##a = _mm256_shuffle_ps(hi##a, hi##b, 0x44);                                          \
    __m256 q3##a = _mm256_shuffle_ps(hi##a, hi##b, 0xEE);
#define SAEI_HALVES(c)                                                                             \
    r[c] = _mm256_permute2f128_ps(q##c##0, q##c##4, 0x20);                                         \
    r[c + 4] = _mm256_permute2f128_ps(q##c##0, q##c##4, 0x31);
    SAEI_PAIR(0, 1) SAEI_PAIR(2, 3) SAEI_PAIR(4, 5) SAEI_PAIR(6, 7)
    SAEI_QUAD(0, 2) SAEI_QUAD(4, 6)
    SAEI_HALVES(0) SAEI_HALVES(1) SAEI_HALVES(2) SAEI_HALVES(3)
#undef SAEI_PAIR
#undef SAEI_QUAD
#undef SAEI_HALVES
}

static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    const float *at[16];
    float lane[16], bad = 0;
    size_t c = 0;
    for (size_t i = 0; i < 16; i++) at[i] = (const float *)row[i];
    const __m256 zero = _mm256_setzero_ps();
    __m256 sum = zero;
    for (; c + 8 <= n; c += 8)
        for (size_t half = 0; half < 16; half += 8) {
            __m256 r[8];
#define SAEI_READ(i) r[i] = _mm256_loadu_ps(at[half + i] + c);
#define SAEI_PUT(i)                                                                                \
    sum = _mm256_add_ps(sum, _mm256_mul_ps(r[i], zero));                                           \
    _mm256_storeu_ps(to + (c + i) * ld + half, r[i]);
            SAEI_EIGHT(SAEI_READ)
            SAEI_FN(saei_turn)(r);
            SAEI_EIGHT(SAEI_PUT)
#undef SAEI_READ
#undef SAEI_PUT
        }
    _mm256_storeu_ps(lane, sum);
    for (size_t i = 0; i < 8; i++) bad += lane[i];
    for (; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, at[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

#include "common.inl"
#include "plain.inl"
#include "common_train.inl"
#include "plain_train.inl"
#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
