#pragma once
#include "portable.h"
#include "avx2.h"
#include "avx512.h"

/* ==== >>lm: kernels: choice =================================================================== */
#define LMI_TABLE(set)                                                                             \
    static const lmi_kernels lmi_kernels_##set = {                                                 \
        lmi_norm_##set, lmi_rms_norm_##set, lmi_activate_##set, lmi_gate_##set, lmi_add_##set,     \
        lmi_cap_##set, lmi_turn_##set, lmi_attend_##set, lmi_sum_exp_##set                         \
    }
LMI_TABLE(portable);
#if defined(LMI_X86)
LMI_TABLE(avx2);
LMI_TABLE(avx512);
#endif

static const lmi_kernels *lmi_kernels_select(void) {
#if defined(LMI_X86)
    if (__builtin_cpu_supports("avx512f")) return &lmi_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &lmi_kernels_avx2;
#endif
    return &lmi_kernels_portable;
}
