#pragma once
#include "avx512.h"

/* ==== >>kernels: AVX-512, weights of any type ================================================= */
#if defined(SAEI_X86)
#include "begin_avx512.inl"
#include "names.inl"

/* 16 rows of 16 words at a time, transposed in registers; a word of BF16 is two weights. */
static void SAEI_FN(saei_widen_panel)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                      size_t count, size_t dim, ptrdiff_t ahead, float *out) {
    const size_t size = dtype == SAE_F32 ? 4 : 2, piece = dtype == SAE_BF16 ? 32 : 16;
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000u);
    const unsigned char *row[SAEI_PANEL];
    size_t k = 0;
    for (size_t j = 0; j < SAEI_PANEL; j++)
        row[j] = from + (ptrdiff_t)saei_min(j, count - 1) * step;
    for (; k + piece <= dim; k += piece)
        for (size_t j = 0; j < SAEI_PANEL; j += 16) {
            float half[256], *to = out + k * SAEI_PANEL + j;
            const float *at[16];
            saei_v r[16];
            for (size_t i = 0; i < 16; i++) {
                const unsigned char *weights = row[j + i] + k * size;
                _mm_prefetch((const char *)weights + ahead, _MM_HINT_T1);
                at[i] = dtype == SAE_F16 ? half + 16 * i : (const float *)(const void *)weights;
                if (dtype == SAE_F16) saei_vstore(half + 16 * i, saei_vhalf(weights));
            }
            SAEI_FN(saei_transpose)(at, 0, r);
            if (dtype == SAE_BF16)
                for (size_t c = 0; c < 16; c++, to += 2 * SAEI_PANEL) {
                    __m512i pair = _mm512_castps_si512(r[c]);
                    saei_vstore(to, _mm512_castsi512_ps(
                                        _mm512_maskz_slli_epi32(0xFFFF, pair, 16)));
                    saei_vstore(to + SAEI_PANEL,
                                _mm512_castsi512_ps(_mm512_and_si512(pair, upper)));
                }
            else
                for (size_t c = 0; c < 16; c++, to += SAEI_PANEL) saei_vstore(to, r[c]);
        }
    if (k < dim)
        SAEI_FN(saei_widen_rows)(dtype, from + k * size, step, count, dim - k, 0,
                                 out + k * SAEI_PANEL);
}

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
