#pragma once
#include "portable.h"
#include "neon.h"
#include "avx2_widen.h"
#include "avx512_encode.h"
#include "avx512_widen.h"
#include "avx512_train.h"

/* ==== >>kernels: the tables =================================================================== */
#define SAEI_OF_SET(set, result, name, parameters) saei_##name##_##set,
#define SAEI_NOT_THERE(set, result, name, parameters) NULL,
#define SAEI_KERNEL_TABLE(name, set, screening)                                                    \
    static const saei_kernels saei_kernels_##name = {                                              \
        #name, SAEI_KERNELS(SAEI_OF_SET, set) SAEI_SCREEN_KERNELS(screening, set)                  \
            SAEI_TRAIN_KERNELS(SAEI_OF_SET, set)                                                   \
    }
SAEI_KERNEL_TABLE(portable, portable, SAEI_NOT_THERE);
#if defined(SAEI_NEON)
SAEI_KERNEL_TABLE(neon, neon, SAEI_NOT_THERE);
#endif
#if defined(SAEI_X86)
SAEI_KERNEL_TABLE(avx2, avx2, SAEI_NOT_THERE);
SAEI_KERNEL_TABLE(avx512, avx512, SAEI_NOT_THERE);
SAEI_KERNEL_TABLE(avx512vnni, avx512, SAEI_OF_SET);
#endif
#undef SAEI_OF_SET
#undef SAEI_NOT_THERE
#undef SAEI_KERNEL_TABLE

#if defined(SAEI_X86)
static bool saei_has_f16c(void) { /* of which __builtin_cpu_supports does not know everywhere */
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
}
#endif

static const saei_kernels *saei_kernels_select(const char *name) {
#if defined(SAEI_X86)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi")
                && saei_has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
    if ((!name || !strcmp(name, "avx512vnni")) && avx512 && __builtin_cpu_supports("avx512vnni"))
        return &saei_kernels_avx512vnni;
    if ((!name || !strcmp(name, "avx512")) && avx512) return &saei_kernels_avx512;
    if ((!name || !strcmp(name, "avx2")) && avx2) return &saei_kernels_avx2;
#elif defined(SAEI_NEON)
    if (!name || !strcmp(name, "neon")) return &saei_kernels_neon;
#endif
    if (!name || !strcmp(name, "portable")) return &saei_kernels_portable;
    return NULL;
}
