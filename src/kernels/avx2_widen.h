#pragma once
#include "avx2.h"

/* ==== >>kernels: AVX2, weights of any type ==================================================== */
#if defined(SAEI_X86)
#include "begin_avx2.inl"
#include "names.inl"

static inline __m256 SAEI_FN(saei_words)(const unsigned char *p) {
    return _mm256_loadu_ps((const float *)(const void *)p);
}

/* 32 bytes of each of 8 rows: r[c] has words c. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_turn_bytes)(
    const unsigned char *const row[8], size_t at, __m256 r[8]) {
#define SAEI_READ(i) r[i] = SAEI_FN(saei_words)(row[i] + at);
    SAEI_EIGHT(SAEI_READ)
    SAEI_FN(saei_turn)(r);
#undef SAEI_READ
}

#define SAEI_LANES 8
#define SAEI_ALL SAEI_EIGHT
#define SAEI_WIDE __m256
#define SAEI_LOAD _mm256_loadu_ps
#define SAEI_STORE _mm256_storeu_ps
#define SAEI_HALVES SAEI_FN(saei_half_8)
#define SAEI_SET _mm256_set1_ps
#define SAEI_FMA _mm256_fmadd_ps
#define SAEI_MUL _mm256_mul_ps
#define SAEI_SUB _mm256_sub_ps
#define SAEI_INT __m256i
#define SAEI_BITS _mm256_castps_si256
#define SAEI_FLOAT _mm256_castsi256_ps
#define SAEI_NUMBER _mm256_cvtepi32_ps
#define SAEI_LEFT _mm256_slli_epi32
#define SAEI_RIGHT _mm256_srli_epi32
#define SAEI_RIGHT_BY(v, n) _mm256_srl_epi32(v, _mm_cvtsi32_si128(n))
#define SAEI_SIGNED_RIGHT _mm256_srai_epi32
#define SAEI_AND(v, mask) _mm256_and_si256(v, _mm256_set1_epi32((int)(mask)))
#define SAEI_OR _mm256_or_si256
#define SAEI_LESS(v, n) _mm256_sub_epi32(v, _mm256_set1_epi32(n))
#include "pieces.inl"
#include "pieces_few_bits.inl"
#include "widen.inl"

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
