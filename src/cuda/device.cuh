#pragma once
#include "state.cuh"

/* ==== >>cuda: device math ===================================================================== */

#if defined(__CUDACC__)
#define SAEI_PRAGMA(x) _Pragma(#x)
#define SAEI_UNROLL(n) SAEI_PRAGMA(unroll n)
#else
#define SAEI_UNROLL(n)
#endif

#define SAEI_FULL 0xFFFFFFFFu /* all lanes of a warp */

__device__ static inline uint32_t saei_device_lane(void) { return threadIdx.x & 31u; }
__device__ static inline uint32_t saei_device_warp(void) { return threadIdx.x >> 5; }

/* Four threads do a dot: thread q of a quad holds lanes 4q..4q+3 of the 16. A warp has eight quads.
   */
__device__ static inline float4 saei_device_float4(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}
__device__ static inline void saei_device_put4(float *p, float4 v) {
    *reinterpret_cast<float4 *>(p) = v;
}
__device__ static inline float4 saei_device_fma4(float4 a, float4 b, float4 c) {
    c.x = __fmaf_rn(a.x, b.x, c.x);
    c.y = __fmaf_rn(a.y, b.y, c.y);
    c.z = __fmaf_rn(a.z, b.z, c.z);
    c.w = __fmaf_rn(a.w, b.w, c.w);
    return c;
}
/* Down a column of a matrix with rows of `stride` floats. */
__device__ static inline void saei_device_put_column(float *p, uint32_t stride, float4 v) {
    p[0] = v.x;
    p[stride] = v.y;
    p[2 * stride] = v.z;
    p[3 * stride] = v.w;
}
/* a v + c */
__device__ static inline float4 saei_device_axpy4(float a, float4 v, float4 c) {
    return saei_device_fma4(make_float4(a, a, a, a), v, c);
}

/* The 16 lanes of a quad's dot added in double, 8, 4, 2, 1 apart; every thread of the quad gets the
   sum. All lanes of the warp take part. */
__device__ static inline double saei_device_quad_sum(float4 s) {
    double a = (double)s.x, b = (double)s.y, c = (double)s.z, d = (double)s.w;
    for (int apart = 2; apart > 0; apart /= 2) {
        a = __dadd_rn(a, __shfl_xor_sync(SAEI_FULL, a, apart));
        b = __dadd_rn(b, __shfl_xor_sync(SAEI_FULL, b, apart));
        c = __dadd_rn(c, __shfl_xor_sync(SAEI_FULL, c, apart));
        d = __dadd_rn(d, __shfl_xor_sync(SAEI_FULL, d, apart));
    }
    return __dadd_rn(__dadd_rn(a, c), __dadd_rn(b, d));
}

/* The dot of a and b [ld] by a quad: thread q = threadIdx.x & 3. All lanes of the warp take part;
   those whose quad has nothing to do pass ld = 0. */
__device__ static inline double saei_device_dot(const float *a, const float *b, size_t ld) {
    float4 s = make_float4(0, 0, 0, 0);
    size_t c = 4 * (threadIdx.x & 3u);
    for (; c + 112 < ld; c += 128) { /* eight loads in flight */
        float4 v[8];
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++) v[k] = saei_device_float4(b + c + 16 * k);
        SAEI_UNROLL(8)
        for (int k = 0; k < 8; k++)
            s = saei_device_fma4(saei_device_float4(a + c + 16 * k), v[k], s);
    }
    for (; c < ld; c += 16)
        s = saei_device_fma4(saei_device_float4(a + c), saei_device_float4(b + c), s);
    return saei_device_quad_sum(s);
}
