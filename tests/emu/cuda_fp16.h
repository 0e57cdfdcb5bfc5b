/*  cuda_fp16.h - 16-bit floats of the emulation: conversions alone. */
#ifndef EMU_CUDA_FP16_H
#define EMU_CUDA_FP16_H
#include "cuda_runtime.h"

/* x rounded to 11 bits, exponents down to -14 (or 8 and -126: bfloat16), by `whole`. */
inline double emu_round16(double x, int bits, int lowest, double (*whole)(double)) {
    int e;
    double quantum;
    if (x == 0 || x != x || x - x != 0) return x;
    (void)frexp(x, &e);
    if (e - 1 < lowest) e = lowest + 1;
    quantum = ldexp(1.0, e - bits);
    return whole(x / quantum) * quantum;
}
inline unsigned short emu_half_bits(double x) { /* of a number that is a half, or beyond the largest */
    unsigned short sign = signbit(x) ? 0x8000 : 0;
    int e;
    double f;
    if (x != x) return 0x7FFF;
    x = fabs(x);
    if (x >= 65520) return (unsigned short)(sign | 0x7C00);
    if (x < 6.103515625e-05) return (unsigned short)(sign | (unsigned short)(x * 16777216.0));
    f = frexp(x, &e);
    return (unsigned short)(sign | (e + 14) << 10 | ((int)(f * 2048) & 0x3FF));
}
inline float emu_half_float(unsigned short h) {
    int e = h >> 10 & 31, f = h & 0x3FF;
    double x = e == 31 ? (f ? (double)NAN : (double)INFINITY)
                       : e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    return (float)(h & 0x8000 ? -x : x);
}

struct __half {
    unsigned short bits;
    __half() = default;
    __half(float x) : bits(emu_half_bits(emu_round16((double)x, 11, -14, rint))) {}
    operator float() const { return emu_half_float(bits); }
};
struct __attribute__((aligned(4))) __half2 { __half x, y; };
typedef __half half;
typedef __half2 half2;

inline __half __ushort_as_half(unsigned short x) {
    __half h;
    h.bits = x;
    return h;
}
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline float __half2float(__half h) { return emu_half_float(h.bits); }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __double2half(double x) {
    return __ushort_as_half(emu_half_bits(emu_round16(x, 11, -14, rint)));
}
inline __half __float2half_rz(float x) {
    double r = emu_round16((double)x, 11, -14, trunc);
    if (fabs(r) > 65504 && r - r == 0) r = copysign(65504, r);
    return __ushort_as_half(emu_half_bits(r));
}
inline __half __float2half_ru(float x) {
    double r = emu_round16((double)x, 11, -14, ceil);
    if (r < -65504 && r - r == 0) r = -65504;
    return __ushort_as_half(emu_half_bits(r > 65504 ? (double)INFINITY : r));
}
inline __half __float2half_rd(float x) {
    double r = emu_round16((double)x, 11, -14, floor);
    if (r > 65504 && r - r == 0) r = 65504;
    return __ushort_as_half(emu_half_bits(r < -65504 ? -(double)INFINITY : r));
}
inline __half2 __halves2half2(__half x, __half y) { return __half2{ x, y }; }
inline __half2 __floats2half2_rn(float x, float y) { return __half2{ __half(x), __half(y) }; }
inline __half2 __float22half2_rn(float2 a) { return __half2{ __half(a.x), __half(a.y) }; }
inline float2 __half22float2(__half2 a) { return float2{ (float)a.x, (float)a.y }; }
inline float __low2float(__half2 a) { return a.x; }
inline float __high2float(__half2 a) { return a.y; }
inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
#endif /* EMU_CUDA_FP16_H */
