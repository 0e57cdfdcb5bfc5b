#pragma once
#include "../base/math.h"
#include "table.h"

/* ==== >>kernels: NEON ========================================================================= */
#if defined(SAEI_NEON)
#define SAEI_FN(name) name##_neon
#include "names.inl"

typedef struct saei_v {
    float32x4_t f[4];
} saei_v;
#define SAEI_LANES(head, expression)                                                               \
    static inline saei_v head {                                                                    \
        saei_v r;                                                                                  \
        for (int i = 0; i < 4; i++) r.f[i] = expression;                                           \
        return r;                                                                                  \
    }
SAEI_LANES(saei_vload(const float *p), vld1q_f32(p + 4 * i))
SAEI_LANES(saei_vset(float a), vdupq_n_f32(a))
SAEI_LANES(saei_vfma(saei_v x, saei_v y, saei_v z), vfmaq_f32(z.f[i], x.f[i], y.f[i]))
SAEI_LANES(saei_vmul(saei_v x, saei_v y), vmulq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vadd(saei_v x, saei_v y), vaddq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vsub(saei_v x, saei_v y), vsubq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vdiv(saei_v x, saei_v y), vdivq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vsqrt(saei_v x), vsqrtq_f32(x.f[i]))
static inline uint16x4_t SAEI_FN(saei_words)(const unsigned char *p) {
    return vreinterpret_u16_u8(vld1_u8(p));
}
SAEI_LANES(saei_vhalf(const unsigned char *p),
           vcvt_f32_f16(vreinterpret_f16_u16(SAEI_FN(saei_words)(p + 8 * i))))
SAEI_LANES(saei_vbf16(const unsigned char *p),
           vreinterpretq_f32_u32(vshll_n_u16(SAEI_FN(saei_words)(p + 8 * i), 16)))
#undef SAEI_LANES
static inline void saei_vstore(float *p, saei_v x) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.f[i]);
}
#include "sum.inl"

#define SAEI_COLUMNS(X, row) X(row, 0) X(row, 1) X(row, 2) X(row, 3) X(row, 4) X(row, 5)
#define SAEI_WIDE float32x4_t
#define SAEI_LOAD vld1q_f32
#define SAEI_STORE vst1q_f32
#define SAEI_SET vdupq_n_f32
#define SAEI_FMA(t, p, sum) vfmaq_f32(sum, t, p)
#include "tile_wide.inl"

#include "common.inl"
#include "transposed.inl"
#include "plain.inl"
#include "common_train.inl"
#include "plain_train.inl"
#include "end.inl"
#endif /* SAEI_NEON */
