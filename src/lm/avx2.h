#pragma once
#include "kernels.h"

/* ==== >>lm: kernels: AVX2 ===================================================================== */
#if defined(LMI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LMI_FN(name) name##_avx2
#include "names.inl"

typedef struct lmi_v {
    __m256 a, b;
} lmi_v;
static inline lmi_v lmi_vload(const float *p) {
    lmi_v r;
    r.a = _mm256_loadu_ps(p);
    r.b = _mm256_loadu_ps(p + 8);
    return r;
}
static inline void lmi_vstore(float *p, lmi_v x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline lmi_v lmi_vset(float a) {
    lmi_v r;
    r.a = r.b = _mm256_set1_ps(a);
    return r;
}
static inline lmi_v lmi_vfma(lmi_v x, lmi_v y, lmi_v z) {
    z.a = _mm256_fmadd_ps(x.a, y.a, z.a);
    z.b = _mm256_fmadd_ps(x.b, y.b, z.b);
    return z;
}
#define LMI_LANES(fn, op)                                                                          \
    static inline lmi_v fn(lmi_v x, lmi_v y) {                                                     \
        x.a = op(x.a, y.a);                                                                        \
        x.b = op(x.b, y.b);                                                                        \
        return x;                                                                                  \
    }
LMI_LANES(lmi_vmul, _mm256_mul_ps)
LMI_LANES(lmi_vadd, _mm256_add_ps)
LMI_LANES(lmi_vsub, _mm256_sub_ps)
LMI_LANES(lmi_vdiv, _mm256_div_ps)
LMI_LANES(lmi_vmin, _mm256_min_ps)
LMI_LANES(lmi_vmax, _mm256_max_ps)
#undef LMI_LANES
static inline lmi_v lmi_vpower(lmi_v x) {
    __m256i one = _mm256_set1_epi32(0x3F800000);
    __m256i a = _mm256_slli_epi32(_mm256_castps_si256(x.a), 23);
    __m256i b = _mm256_slli_epi32(_mm256_castps_si256(x.b), 23);
    x.a = _mm256_castsi256_ps(_mm256_add_epi32(a, one));
    x.b = _mm256_castsi256_ps(_mm256_add_epi32(b, one));
    return x;
}
#include "common.inl"
#include "block.inl"
#include "attention.inl"
#include "end.inl"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* LMI_X86 */
