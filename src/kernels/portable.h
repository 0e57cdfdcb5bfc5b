#pragma once
#include "../base/math.h"
#include "table.h"

/* ==== >>kernels: portable ===================================================================== */
#define SAEI_FN(name) name##_portable
#include "names.inl"

typedef struct saei_v {
    float f[16];
} saei_v;
static inline saei_v saei_vload(const float *p) {
    saei_v r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
static inline void saei_vstore(float *p, saei_v x) { memcpy(p, x.f, sizeof x.f); }
#define SAEI_LANES(head, expression)                                                               \
    static inline saei_v head {                                                                    \
        saei_v r;                                                                                  \
        for (int i = 0; i < 16; i++) r.f[i] = expression;                                          \
        return r;                                                                                  \
    }
SAEI_LANES(saei_vset(float a), a)
SAEI_LANES(saei_vhalf(const unsigned char *p), saei_half_at(p + 2 * i))
SAEI_LANES(saei_vbf16(const unsigned char *p), saei_bf16_value((uint16_t)saei_le16(p + 2 * i)))
SAEI_LANES(saei_vfma(saei_v x, saei_v y, saei_v z), fmaf(x.f[i], y.f[i], z.f[i]))
SAEI_LANES(saei_vmul(saei_v x, saei_v y), x.f[i] * y.f[i])
SAEI_LANES(saei_vadd(saei_v x, saei_v y), x.f[i] + y.f[i])
SAEI_LANES(saei_vsub(saei_v x, saei_v y), x.f[i] - y.f[i])
SAEI_LANES(saei_vdiv(saei_v x, saei_v y), x.f[i] / y.f[i])
SAEI_LANES(saei_vsqrt(saei_v x), sqrtf(x.f[i]))
#undef SAEI_LANES
#include "sum.inl"

/* 4 rows x 16 latents at a time. */
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], size_t rows,
                               const float *panel, size_t dim, bool add, float *out, size_t ld) {
#define SAEI_ALL(X) X(0) X(1) X(2) X(3)
#define SAEI_BEGIN(i)                                                                              \
    const float *x##i = x[r + i];                                                                  \
    saei_v a##i = add && r + i < rows ? saei_vload(o + i * ld) : saei_vset(0);
#define SAEI_ADD(i) a##i = saei_vfma(saei_vset(x##i[k]), v, a##i);
#define SAEI_END(i)                                                                                \
    if (r + i < rows) saei_vstore(o + i * ld, a##i);
    for (size_t r = 0; r < rows; r += 4)
        for (size_t c = 0; c < SAEI_PANEL; c += 16) {
            float *o = out + r * ld + c;
            const float *p = panel + c;
            SAEI_ALL(SAEI_BEGIN)
            for (size_t k = 0; k < dim; k++, p += SAEI_PANEL) {
                saei_v v = saei_vload(p);
                SAEI_ALL(SAEI_ADD)
            }
            SAEI_ALL(SAEI_END)
        }
#undef SAEI_ALL
#undef SAEI_BEGIN
#undef SAEI_ADD
#undef SAEI_END
}

#include "common.inl"
#include "transposed.inl"
#include "plain.inl"
#include "common_train.inl"
#include "plain_train.inl"
#include "end.inl"
