#pragma once
#include "../base/math.h"
#include "table.h"

/* ==== >>kernels: for each instruction set ===================================================== */
/* The same text is compiled once for each of them, SAEI_ISA says for which. */
#define SAEI_ISA_PORTABLE 1
#define SAEI_ISA_NEON 2
#define SAEI_ISA_AVX2 3
#define SAEI_ISA_AVX512 4

#define SAEI_ISA SAEI_ISA_PORTABLE
#define SAEI_FN(name) name##_portable
#include "vector.inl"
#include "encode.inl"
#include "sums.inl"
#include "updates.inl"
#include "end.inl"

#if defined(SAEI_NEON)
#define SAEI_ISA SAEI_ISA_NEON
#define SAEI_FN(name) name##_neon
#include "vector.inl"
#include "encode.inl"
#include "sums.inl"
#include "updates.inl"
#include "end.inl"
#endif

#if defined(SAEI_X86)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,popcnt,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,popcnt,bmi")
#endif
#define SAEI_ISA SAEI_ISA_AVX2
#define SAEI_FN(name) name##_avx2
#include "vector.inl"
#include "encode.inl"
#include "sums.inl"
#include "updates.inl"
#include "end.inl"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,popcnt,bmi"))),               \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,popcnt,bmi")
#endif
#define SAEI_ISA SAEI_ISA_AVX512
#define SAEI_FN(name) name##_avx512
#include "vector.inl"
#include "encode.inl"
#include "sums.inl"
#include "updates.inl"
#include "end.inl"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* SAEI_X86 */

#define SAEI_KERNEL_TABLE(name, set, quantize, screen, keep_tile, keep_screened)                   \
    static const saei_kernels saei_kernels_##name = {                                              \
        #name, saei_pack_##set, saei_tile_##set, saei_products_##set, quantize, screen,            \
        keep_tile, keep_screened, saei_count_from_##set, saei_keep_from_##set,                     \
        saei_keep_above_##set, saei_keep_window_##set, saei_mark_##set, saei_regroup_##set,        \
        saei_add_fires_##set, saei_add_rows_##set, saei_add_panel_##set, saei_dot_panel_##set,     \
        saei_dots_##set, saei_dot_##set, saei_copy_##set, saei_turn_##set, saei_over_##set,        \
        saei_axpy_##set, saei_scale_##set, saei_divide_##set, saei_add_double_##set,               \
        saei_powers_##set, saei_adam_##set, saei_gate_##set, saei_gate_grad_##set                  \
    }
SAEI_KERNEL_TABLE(portable, portable, NULL, NULL, NULL, NULL);
#if defined(SAEI_NEON)
SAEI_KERNEL_TABLE(neon, neon, NULL, NULL, NULL, NULL);
#endif
#if defined(SAEI_X86)
SAEI_KERNEL_TABLE(avx2, avx2, NULL, NULL, NULL, NULL);
SAEI_KERNEL_TABLE(avx512, avx512, NULL, NULL, NULL, NULL);
SAEI_KERNEL_TABLE(avx512vnni, avx512, saei_quantize_avx512, saei_screen_avx512,
                  saei_keep_tile_avx512, saei_keep_screened_avx512);
#endif

static const saei_kernels *saei_kernels_select(const char *name) {
#if defined(SAEI_X86)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi");
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
