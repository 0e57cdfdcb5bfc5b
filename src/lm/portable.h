#pragma once
#include "kernels.h"

/* ==== >>lm: kernels: portable ================================================================= */
#define LMI_FN(name) name##_portable
#include "names.inl"

typedef struct lmi_v {
    float f[16];
} lmi_v;
static inline lmi_v lmi_vload(const float *p) {
    lmi_v r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
static inline void lmi_vstore(float *p, lmi_v x) { memcpy(p, x.f, sizeof x.f); }
#define LMI_LANES(head, expression)                                                                \
    static inline lmi_v head {                                                                     \
        lmi_v r;                                                                                   \
        for (int i = 0; i < 16; i++) r.f[i] = expression;                                          \
        return r;                                                                                  \
    }
LMI_LANES(lmi_vset(float a), a)
LMI_LANES(lmi_vfma(lmi_v x, lmi_v y, lmi_v z), fmaf(x.f[i], y.f[i], z.f[i]))
LMI_LANES(lmi_vmul(lmi_v x, lmi_v y), x.f[i] * y.f[i])
LMI_LANES(lmi_vadd(lmi_v x, lmi_v y), x.f[i] + y.f[i])
LMI_LANES(lmi_vsub(lmi_v x, lmi_v y), x.f[i] - y.f[i])
LMI_LANES(lmi_vdiv(lmi_v x, lmi_v y), x.f[i] / y.f[i])
LMI_LANES(lmi_vmin(lmi_v x, lmi_v y), x.f[i] < y.f[i] ? x.f[i] : y.f[i])
LMI_LANES(lmi_vmax(lmi_v x, lmi_v y), x.f[i] > y.f[i] ? x.f[i] : y.f[i])
#undef LMI_LANES
static inline lmi_v lmi_vpower(lmi_v x) {
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, &x.f[i], sizeof bits);
        bits = (bits << 23) + 0x3F800000u;
        memcpy(&x.f[i], &bits, sizeof bits);
    }
    return x;
}
#include "common.inl"
#include "block.inl"
#include "attention.inl"
#include "end.inl"
