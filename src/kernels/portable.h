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
SAEI_LANES(saei_vhalf(const unsigned char *p), saei_half_value((uint16_t)saei_le16(p + 2 * i)))
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
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], const float *panel, size_t dim,
                               bool add, float *out) {
    for (size_t r = 0; r < SAEI_TILE_ROWS; r += 4)
        for (size_t c = 0; c < SAEI_PANEL; c += 16) {
            float *o = out + r * SAEI_PANEL + c;
            const float *x0 = x[r], *x1 = x[r + 1], *x2 = x[r + 2], *x3 = x[r + 3], *p = panel + c;
            saei_v a0 = add ? saei_vload(o) : saei_vset(0);
            saei_v a1 = add ? saei_vload(o + SAEI_PANEL) : saei_vset(0);
            saei_v a2 = add ? saei_vload(o + 2 * SAEI_PANEL) : saei_vset(0);
            saei_v a3 = add ? saei_vload(o + 3 * SAEI_PANEL) : saei_vset(0);
            for (size_t k = 0; k < dim; k++, p += SAEI_PANEL) {
                saei_v v = saei_vload(p);
                a0 = saei_vfma(saei_vset(x0[k]), v, a0);
                a1 = saei_vfma(saei_vset(x1[k]), v, a1);
                a2 = saei_vfma(saei_vset(x2[k]), v, a2);
                a3 = saei_vfma(saei_vset(x3[k]), v, a3);
            }
            saei_vstore(o, a0);
            saei_vstore(o + SAEI_PANEL, a1);
            saei_vstore(o + 2 * SAEI_PANEL, a2);
            saei_vstore(o + 3 * SAEI_PANEL, a3);
        }
}

#include "common.inl"
#include "transposed.inl"
#include "plain.inl"
#include "common_train.inl"
#include "plain_train.inl"
#include "end.inl"
