#pragma once
#include "avx512.h"

/* ==== >>kernels: AVX-512, weights of any type ================================================= */
#if defined(SAEI_X86)
#include "begin_avx512.inl"
#include "names.inl"

static inline saei_v SAEI_FN(saei_words)(const unsigned char *p) {
    return saei_vload((const float *)(const void *)p);
}

/* 32 bytes of each of 16 rows: r[c] has words c. Rows i and i + 4 share a register, and turn as 8
   rows of AVX2 do. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_turn_bytes)(
    const unsigned char *const row[16], size_t at, saei_v r[8]) {
#define SAEI_BYTES(i) _mm256_loadu_si256((const __m256i *)(const void *)(row[i] + at))
#define SAEI_READ(c, i)                                                                            \
    r[c] = _mm512_castsi512_ps(_mm512_maskz_inserti64x4(                                           \
        0xFF, _mm512_castsi256_si512(SAEI_BYTES(i)), SAEI_BYTES(i + 4), 1));
#define SAEI_PAIR(a, b)                                                                            \
    saei_v lo##a = _mm512_maskz_unpacklo_ps(0xFFFF, r[a], r[b]);                                   \
    saei_v hi##a = _mm512_maskz_unpackhi_ps(0xFFFF, r[a], r[b]);
#define SAEI_QUAD(a, b)                                                                            \
    saei_v q0##a = _mm512_maskz_shuffle_ps(0xFFFF, lo##a, lo##b, 0x44);                            \
    saei_v q1##a = _mm512_maskz_shuffle_ps(0xFFFF, lo##a, lo##b, 0xEE);                            \
    saei_v q2##a = _mm512_maskz_shuffle_ps(0xFFFF, hi##a, hi##b, 0x44);                            \
    saei_v q3##a = _mm512_maskz_shuffle_ps(0xFFFF, hi##a, hi##b, 0xEE);
#define SAEI_QUARTERS(c)                                                                           \
    r[c] = _mm512_maskz_shuffle_f32x4(0xFFFF, q##c##0, q##c##4, 0x88);                             \
    r[c + 4] = _mm512_maskz_shuffle_f32x4(0xFFFF, q##c##0, q##c##4, 0xDD);
    SAEI_READ(0, 0) SAEI_READ(1, 1) SAEI_READ(2, 2) SAEI_READ(3, 3)
    SAEI_READ(4, 8) SAEI_READ(5, 9) SAEI_READ(6, 10) SAEI_READ(7, 11)
    SAEI_PAIR(0, 1) SAEI_PAIR(2, 3) SAEI_PAIR(4, 5) SAEI_PAIR(6, 7)
    SAEI_QUAD(0, 2) SAEI_QUAD(4, 6)
    SAEI_QUARTERS(0) SAEI_QUARTERS(1) SAEI_QUARTERS(2) SAEI_QUARTERS(3)
#undef SAEI_BYTES
#undef SAEI_READ
#undef SAEI_PAIR
#undef SAEI_QUAD
#undef SAEI_QUARTERS
}

#define SAEI_LANES 16
#define SAEI_ALL SAEI_SIXTEEN
#define SAEI_WIDE saei_v
#define SAEI_LOAD saei_vload
#define SAEI_STORE saei_vstore
#define SAEI_HALVES saei_vhalf
#define SAEI_SET saei_vset
#define SAEI_FMA saei_vfma
#define SAEI_MUL saei_vmul
#define SAEI_SUB saei_vsub
#define SAEI_INT __m512i
#define SAEI_BITS _mm512_castps_si512
#define SAEI_FLOAT _mm512_castsi512_ps
#define SAEI_NUMBER(v) _mm512_maskz_cvtepi32_ps(0xFFFF, v)
#define SAEI_LEFT(v, n) _mm512_maskz_slli_epi32(0xFFFF, v, n)
#define SAEI_RIGHT(v, n) _mm512_maskz_srli_epi32(0xFFFF, v, n)
#define SAEI_RIGHT_BY(v, n) _mm512_maskz_srl_epi32(0xFFFF, v, _mm_cvtsi32_si128(n))
#define SAEI_SIGNED_RIGHT(v, n) _mm512_maskz_srai_epi32(0xFFFF, v, n)
#define SAEI_AND(v, mask) _mm512_and_si512(v, _mm512_set1_epi32((int)(mask)))
#define SAEI_OR _mm512_or_si512
#define SAEI_LESS(v, n) _mm512_sub_epi32(v, _mm512_set1_epi32(n))
#include "pieces.inl"
#include "pieces_few_bits.inl"
#include "widen.inl"

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
