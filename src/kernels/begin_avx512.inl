#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,popcnt,bmi"))),               \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,popcnt,bmi")
#endif
#define SAEI_FN(name) name##_avx512
