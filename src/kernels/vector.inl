#define saei_v SAEI_FN(saei_v)
#define saei_vload SAEI_FN(saei_vload)
#define saei_vstore SAEI_FN(saei_vstore)
#define saei_vset SAEI_FN(saei_vset)
#define saei_vfma SAEI_FN(saei_vfma)
#define saei_vmul SAEI_FN(saei_vmul)
#define saei_vadd SAEI_FN(saei_vadd)
#define saei_vsub SAEI_FN(saei_vsub)
#define saei_vdiv SAEI_FN(saei_vdiv)
#define saei_vsqrt SAEI_FN(saei_vsqrt)
#define saei_vsum SAEI_FN(saei_vsum)

#if SAEI_ISA == SAEI_ISA_AVX512

typedef __m512 saei_v;
static inline saei_v saei_vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void saei_vstore(float *p, saei_v a) { _mm512_storeu_ps(p, a); }
static inline saei_v saei_vset(float a) { return _mm512_set1_ps(a); }
static inline saei_v saei_vfma(saei_v a, saei_v b, saei_v c) { return _mm512_fmadd_ps(a, b, c); }
static inline saei_v saei_vmul(saei_v a, saei_v b) { return _mm512_mul_ps(a, b); }
static inline saei_v saei_vadd(saei_v a, saei_v b) { return _mm512_add_ps(a, b); }
static inline saei_v saei_vsub(saei_v a, saei_v b) { return _mm512_sub_ps(a, b); }
static inline saei_v saei_vdiv(saei_v a, saei_v b) { return _mm512_div_ps(a, b); }
static inline saei_v saei_vsqrt(saei_v a) { return _mm512_maskz_sqrt_ps(0xFFFF, a); }

#elif SAEI_ISA == SAEI_ISA_AVX2

typedef struct saei_v {
    __m256 a, b;
} saei_v;
static inline saei_v saei_vload(const float *p) {
    saei_v r;
    r.a = _mm256_loadu_ps(p);
    r.b = _mm256_loadu_ps(p + 8);
    return r;
}
static inline void saei_vstore(float *p, saei_v x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline saei_v saei_vset(float a) {
    saei_v r;
    r.a = r.b = _mm256_set1_ps(a);
    return r;
}
static inline saei_v saei_vfma(saei_v x, saei_v y, saei_v z) {
    z.a = _mm256_fmadd_ps(x.a, y.a, z.a);
    z.b = _mm256_fmadd_ps(x.b, y.b, z.b);
    return z;
}
static inline saei_v saei_vsqrt(saei_v x) {
    x.a = _mm256_sqrt_ps(x.a);
    x.b = _mm256_sqrt_ps(x.b);
    return x;
}
#define SAEI_LANES(fn, op)                                                                         \
    static inline saei_v fn(saei_v x, saei_v y) {                                                  \
        x.a = op(x.a, y.a);                                                                        \
        x.b = op(x.b, y.b);                                                                        \
        return x;                                                                                  \
    }
SAEI_LANES(saei_vmul, _mm256_mul_ps)
SAEI_LANES(saei_vadd, _mm256_add_ps)
SAEI_LANES(saei_vsub, _mm256_sub_ps)
SAEI_LANES(saei_vdiv, _mm256_div_ps)
#undef SAEI_LANES

#elif SAEI_ISA == SAEI_ISA_NEON

typedef struct saei_v {
    float32x4_t f[4];
} saei_v;
#define SAEI_LANES(head, expression)                                                               \
    static inline saei_v head {                                                                    \
        saei_v r;                                                                                  \
        for (int i = 0; i < 4; i++) r.f[i] = expression;                                           \
        return r;                                                                                  \
    }
SAEI_LANES(saei_vload(const float *p), vld1q_f32(p + 4 * i))
SAEI_LANES(saei_vset(float a), vdupq_n_f32(a))
SAEI_LANES(saei_vfma(saei_v x, saei_v y, saei_v z), vfmaq_f32(z.f[i], x.f[i], y.f[i]))
SAEI_LANES(saei_vmul(saei_v x, saei_v y), vmulq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vadd(saei_v x, saei_v y), vaddq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vsub(saei_v x, saei_v y), vsubq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vdiv(saei_v x, saei_v y), vdivq_f32(x.f[i], y.f[i]))
SAEI_LANES(saei_vsqrt(saei_v x), vsqrtq_f32(x.f[i]))
#undef SAEI_LANES
static inline void saei_vstore(float *p, saei_v x) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.f[i]);
}

#else

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
SAEI_LANES(saei_vfma(saei_v x, saei_v y, saei_v z), fmaf(x.f[i], y.f[i], z.f[i]))
SAEI_LANES(saei_vmul(saei_v x, saei_v y), x.f[i] * y.f[i])
SAEI_LANES(saei_vadd(saei_v x, saei_v y), x.f[i] + y.f[i])
SAEI_LANES(saei_vsub(saei_v x, saei_v y), x.f[i] - y.f[i])
SAEI_LANES(saei_vdiv(saei_v x, saei_v y), x.f[i] / y.f[i])
SAEI_LANES(saei_vsqrt(saei_v x), sqrtf(x.f[i]))
#undef SAEI_LANES

#endif

/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
#if SAEI_ISA == SAEI_ISA_AVX512
    /* maskz with a full mask: GCC 12 warns of an undefined operand in the plain forms and casts */
    __m512d wide = _mm512_castps_pd(a), eight;
    __m256d low = _mm512_maskz_extractf64x4_pd(0xFF, wide, 0), four;
    __m256d high = _mm512_maskz_extractf64x4_pd(0xFF, wide, 1);
    __m128d two;
    eight = _mm512_add_pd(_mm512_maskz_cvtps_pd(0xFF, _mm256_castpd_ps(low)),
                          _mm512_maskz_cvtps_pd(0xFF, _mm256_castpd_ps(high)));
    four = _mm256_add_pd(_mm512_maskz_extractf64x4_pd(0xFF, eight, 0),
                         _mm512_maskz_extractf64x4_pd(0xFF, eight, 1));
    two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
    double sum[16];
    float f[16];
    saei_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
#endif
}
