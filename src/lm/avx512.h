#pragma once
#include "kernels.h"

/* ==== >>lm: kernels: AVX-512 ================================================================== */
#if defined(LMI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif
#define LMI_FN(name) name##_avx512
#include "names.inl"

typedef __m512 lmi_v;
static inline lmi_v lmi_vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void lmi_vstore(float *p, lmi_v a) { _mm512_storeu_ps(p, a); }
static inline lmi_v lmi_vset(float a) { return _mm512_set1_ps(a); }
static inline lmi_v lmi_vfma(lmi_v a, lmi_v b, lmi_v c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline lmi_v lmi_vmul(lmi_v a, lmi_v b) { return _mm512_mul_ps(a, b); }
static inline lmi_v lmi_vadd(lmi_v a, lmi_v b) { return _mm512_add_ps(a, b); }
static inline lmi_v lmi_vsub(lmi_v a, lmi_v b) { return _mm512_sub_ps(a, b); }
static inline lmi_v lmi_vdiv(lmi_v a, lmi_v b) { return _mm512_div_ps(a, b); }
/* maskz with a full mask: GCC 12 warns of an undefined operand in the plain forms */
static inline lmi_v lmi_vmin(lmi_v a, lmi_v b) {
    return _mm512_maskz_min_ps(0xFFFF, a, b);
}
static inline lmi_v lmi_vmax(lmi_v a, lmi_v b) {
    return _mm512_maskz_max_ps(0xFFFF, a, b);
}
static inline lmi_v lmi_vpower(lmi_v a) {
    __m512i n = _mm512_maskz_slli_epi32(0xFFFF, _mm512_castps_si512(a), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3F800000)));
}
#include "common.inl"

/* out [8][32] at ld_out = sum over k < n of a[r][k] b[k][0..32): one chain of fma each. */
static void lmi_block(const float *const a[LMI_ROWS], size_t n, const float *b, size_t ld_b,
                      float *out, size_t ld_out) {
#define LMI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LMI_BEGIN(i)                                                                               \
    const float *a##i = a[i];                                                                      \
    lmi_v s##i = lmi_vset(0), t##i = lmi_vset(0);
#define LMI_STEP(i)                                                                                \
    {                                                                                              \
        lmi_v v = lmi_vset(a##i[k]);                                                               \
        s##i = lmi_vfma(v, low, s##i);                                                             \
        t##i = lmi_vfma(v, high, t##i);                                                            \
    }
#define LMI_END(i)                                                                                 \
    lmi_vstore(out + i * ld_out, s##i);                                                            \
    lmi_vstore(out + i * ld_out + 16, t##i);
    LMI_ALL(LMI_BEGIN)
    for (size_t k = 0; k < n; k++, b += ld_b) {
        lmi_v low = lmi_vload(b), high = lmi_vload(b + 16);
        LMI_ALL(LMI_STEP)
    }
    LMI_ALL(LMI_END)
#undef LMI_ALL
#undef LMI_BEGIN
#undef LMI_STEP
#undef LMI_END
}

#include "attention.inl"
#include "end.inl"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* LMI_X86 */
