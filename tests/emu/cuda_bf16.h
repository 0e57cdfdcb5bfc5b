/*  cuda_bf16.h - bfloat16 of the emulation: conversions alone. */
#ifndef EMU_CUDA_BF16_H
#define EMU_CUDA_BF16_H
#include "cuda_fp16.h"

inline unsigned short emu_bfloat_bits(float x) {
    uint32_t bits = (uint32_t)emu_to_bits(x);
    if (x != x) return 0x7FFF;
    return (unsigned short)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(emu_bfloat_bits(x)) {}
    operator float() const { return emu_of_bits<float>((uint64_t)bits << 16); }
};
struct __attribute__((aligned(4))) __nv_bfloat162 { __nv_bfloat16 x, y; };
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) {
    __nv_bfloat16 h;
    h.bits = x;
    return h;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
inline float __bfloat162float(__nv_bfloat16 h) { return h; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return __nv_bfloat162{ __nv_bfloat16(x), __nv_bfloat16(y) };
}
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return float2{ (float)a.x, (float)a.y }; }
#endif /* EMU_CUDA_BF16_H */
