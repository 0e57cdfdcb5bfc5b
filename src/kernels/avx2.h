#pragma once
#include "../base/math.h"
#include "table.h"

/* ==== >>kernels: AVX2 ========================================================================= */
#if defined(SAEI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt,bmi")
#endif
#define SAEI_FN(name) name##_avx2
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
static inline saei_v saei_vhalf(const unsigned char *p) {
    saei_v r;
    r.a = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
    r.b = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 16)));
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

/* r[c] = column k + c of 8 rows. */
static inline void SAEI_FN(saei_transpose_8)(const float *const row[8], size_t k, __m256 r[8]) {
    __m256 pair[8], quad[8];
    for (size_t i = 0; i < 8; i += 2) {
        __m256 a = _mm256_loadu_ps(row[i] + k), b = _mm256_loadu_ps(row[i + 1] + k);
        pair[i] = _mm256_unpacklo_ps(a, b);     /* columns 0, 1 and 4, 5 of both rows */
        pair[i + 1] = _mm256_unpackhi_ps(a, b); /* 2, 3 and 6, 7 */
    }
    for (size_t i = 0; i < 8; i += 4) /* quad[i + c]: columns c and c + 4 of rows i to i + 3 */
        for (size_t c = 0; c < 2; c++) {
            quad[i + 2 * c] = _mm256_shuffle_ps(pair[i + c], pair[i + c + 2], 0x44);
            quad[i + 2 * c + 1] = _mm256_shuffle_ps(pair[i + c], pair[i + c + 2], 0xEE);
        }
    for (size_t c = 0; c < 4; c++) {
        r[c] = _mm256_permute2f128_ps(quad[c], quad[4 + c], 0x20);
        r[c + 4] = _mm256_permute2f128_ps(quad[c], quad[4 + c], 0x31);
    }
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
            SAEI_FN(saei_transpose_8)(at + half, c, r);
            for (size_t i = 0; i < 8; i++) {
                sum = _mm256_add_ps(sum, _mm256_mul_ps(r[i], zero));
                _mm256_storeu_ps(to + (c + i) * ld + half, r[i]);
            }
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

/* 8 rows of 8 words at a time, transposed in registers; a word of BF16 is two weights. */
static void SAEI_FN(saei_widen_panel)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                      size_t count, size_t dim, ptrdiff_t ahead, float *out) {
    const size_t size = dtype == SAE_F32 ? 4 : 2, piece = dtype == SAE_BF16 ? 16 : 8;
    const __m256i upper = _mm256_set1_epi32((int)0xFFFF0000u);
    const unsigned char *row[SAEI_PANEL];
    size_t k = 0;
    for (size_t j = 0; j < SAEI_PANEL; j++)
        row[j] = from + (ptrdiff_t)saei_min(j, count - 1) * step;
    for (; k + piece <= dim; k += piece)
        for (size_t j = 0; j < SAEI_PANEL; j += 8) {
            float half[64], *to = out + k * SAEI_PANEL + j;
            const float *at[8];
            __m256 r[8];
            for (size_t i = 0; i < 8; i++) {
                const unsigned char *weights = row[j + i] + k * size;
                _mm_prefetch((const char *)weights + ahead, _MM_HINT_T1);
                at[i] = dtype == SAE_F16 ? half + 8 * i : (const float *)(const void *)weights;
                if (dtype == SAE_F16)
                    _mm256_storeu_ps(half + 8 * i, _mm256_cvtph_ps(_mm_loadu_si128(
                                                       (const __m128i *)(const void *)weights)));
            }
            SAEI_FN(saei_transpose_8)(at, 0, r);
            if (dtype == SAE_BF16)
                for (size_t c = 0; c < 8; c++, to += 2 * SAEI_PANEL) {
                    __m256i pair = _mm256_castps_si256(r[c]);
                    _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)));
                    _mm256_storeu_ps(to + SAEI_PANEL,
                                     _mm256_castsi256_ps(_mm256_and_si256(pair, upper)));
                }
            else
                for (size_t c = 0; c < 8; c++, to += SAEI_PANEL) _mm256_storeu_ps(to, r[c]);
        }
    if (k < dim)
        SAEI_FN(saei_widen_rows)(dtype, from + k * size, step, count, dim - k, 0,
                                 out + k * SAEI_PANEL);
}

#include "plain.inl"
#include "common_train.inl"
#include "plain_train.inl"
#include "end.inl"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* SAEI_X86 */
