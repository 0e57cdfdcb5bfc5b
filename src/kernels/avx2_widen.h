#pragma once
#include "avx2.h"

/* ==== >>kernels: AVX2, weights of any type ==================================================== */
#if defined(SAEI_X86)
#include "begin_avx2.inl"
#include "names.inl"

static inline __m256 SAEI_FN(saei_words)(const unsigned char *p) {
    return _mm256_loadu_ps((const float *)(const void *)p);
}
/* The 32 numbers of a Q8_0 block of 8 rows: r[c] has words c. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_turn_blocks)(
    const unsigned char *const row[8], size_t at, __m256 r[8]) {
#define SAEI_READ(i) r[i] = SAEI_FN(saei_words)(row[i] + at + 2);
    SAEI_EIGHT(SAEI_READ)
    SAEI_FN(saei_turn)(r);
#undef SAEI_READ
}
static inline __m256 SAEI_FN(saei_low)(__m256 pair) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pair), 16));
}
static inline __m256 SAEI_FN(saei_high)(__m256 pair) {
    return _mm256_and_ps(pair, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xFFFF0000u)));
}
/* The signed byte b of each word as a float. */
__attribute__((always_inline)) static inline __m256 SAEI_FN(saei_byte)(__m256 words, int b) {
    __m256i top = _mm256_slli_epi32(_mm256_castps_si256(words), 24 - 8 * b);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
}

#define SAEI_WIDE __m256
#define SAEI_LANES 8
#define SAEI_ALL SAEI_EIGHT
#define SAEI_HALF SAEI_FN(saei_half_8)
#define SAEI_LOAD _mm256_loadu_ps
#define SAEI_STORE _mm256_storeu_ps
#define SAEI_SET _mm256_set1_ps
#define SAEI_MUL _mm256_mul_ps
#define SAEI_FMA _mm256_fmadd_ps
#include "widen.inl"

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
