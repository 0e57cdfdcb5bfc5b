#pragma once
#include "avx512.h"

/* ==== >>kernels: AVX-512, training ============================================================ */
#if defined(SAEI_X86) && !defined(SAE_NO_TRAIN)
#include "begin_avx512.inl"
#include "names.inl"

static inline uint64_t SAEI_FN(saei_or_lanes)(__m512i v) {
    __m256i four = _mm256_or_si256(_mm512_maskz_extracti64x4_epi64(0xFF, v, 0),
                                   _mm512_maskz_extracti64x4_epi64(0xFF, v, 1));
    __m128i two = _mm_or_si128(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    uint64_t one;
    _mm_storel_epi64((__m128i *)(void *)&one, _mm_or_si128(two, _mm_unpackhi_epi64(two, two)));
    return (one | one >> 32) & 0xFFFFFFFFu;
}

static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
    /* A shift by 32 or more gives 0: what belongs to the other half adds nothing. */
    __m512i one = _mm512_set1_epi32(1), low = _mm512_setzero_si512(), high = low;
    size_t count = 0;
    for (size_t j = 0; j < 64; j += 16) {
        size_t left = n < j ? 0 : n - j;
        __mmask16 in = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xFFFF;
        __m512i at = _mm512_maskz_loadu_epi32(in, (const void *)(sorted + j));
        at = _mm512_sub_epi32(at, _mm512_set1_epi32((int)first));
        in = _mm512_mask_cmplt_epu32_mask(in, at, _mm512_set1_epi32(64));
        low = _mm512_or_si512(low, _mm512_maskz_sllv_epi32(in, one, at));
        at = _mm512_sub_epi32(at, _mm512_set1_epi32(32));
        high = _mm512_or_si512(high, _mm512_maskz_sllv_epi32(in, one, at));
        count += (size_t)__builtin_popcount((unsigned)in);
    }
    *bits = SAEI_FN(saei_or_lanes)(low) | SAEI_FN(saei_or_lanes)(high) << 32;
    return count;
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
    __m512i rows = _mm512_loadu_si512((const void *)fires);
    const float *at[16];
    float tile[16][16];
    __mmask16 takes[16], puts[16], reads[16];
    for (int l = 0; l < 16; l++) {
        reads[l] = (__mmask16)((1u << __builtin_popcount(fires[l])) - 1);
        takes[l] = _mm512_test_epi32_mask(rows, _mm512_set1_epi32(1 << l));
        puts[l] = (__mmask16)((1u << __builtin_popcount((unsigned)takes[l])) - 1);
        at[l] = tile[l];
    }
    for (size_t v = 0; v < count; v++) {
        saei_v r[16];
        for (int l = 0; l < 16; l++) __builtin_prefetch(out[v] + to[l] + 32, 1);
        for (int i = 0; i < 16; i++)
            saei_vstore(tile[i], _mm512_maskz_expand_ps(
                                     (__mmask16)fires[i],
                                     _mm512_maskz_loadu_ps(reads[i], values[v] + from[i])));
        SAEI_FN(saei_transpose)(at, 0, r);
        for (int l = 0; l < 16; l++)
            _mm512_mask_storeu_ps(out[v] + to[l], puts[l],
                                  _mm512_maskz_compress_ps(takes[l], r[l]));
    }
    for (int l = 0; l < 16; l++) {
        to[l] += (size_t)__builtin_popcount((unsigned)takes[l]);
        from[l] += (size_t)__builtin_popcount(fires[l]);
    }
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64) {
        for (size_t g = 0; g < 64; g += 16) { /* what does not fire adds 0 */
            __mmask16 here = (__mmask16)(fires[w] >> g);
            size_t count = (size_t)__builtin_popcount((unsigned)here);
            saei_v v = _mm512_maskz_expand_ps(
                here, _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), value + j));
            __m512d wide = _mm512_castps_pd(v);
            __m256 low = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, wide, 0));
            __m256 high = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, wide, 1));
            double *s = sums + g;
            _mm512_storeu_pd(s, _mm512_add_pd(_mm512_loadu_pd(s),
                                              _mm512_maskz_cvtps_pd(0xFF, low)));
            _mm512_storeu_pd(s + 8, _mm512_add_pd(_mm512_loadu_pd(s + 8),
                                                  _mm512_maskz_cvtps_pd(0xFF, high)));
            j += count;
        }
    }
}

/* Prefetches the next panel, which lies after this one: 128 bytes at each of 256 lists, 256 where
   there are fewer. -10 % of a sum's time over 16 MB of panels. */
static inline void SAEI_FN(saei_panel_ahead)(const float *panel, size_t lists, size_t list) {
    const size_t bytes = lists > 128 ? 128 : 256;
    const char *part = (const char *)(panel + SAEI_DENSE_ROWS * 128) + bytes * list;
    for (size_t k = 0; k < bytes; k += 64) _mm_prefetch(part + k, _MM_HINT_T1);
}

/* Eight columns of registers for each row. The list as bits leaves both load ports to the panel:
   with its indices, 14 FMAs' time an entry of 8, with bits 10; the FMA peak would be 8. */
static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld) {
        const float *v = value + at[i];
#define SAEI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) /* in dot_panel too */
#define SAEI_LOAD(k)                                                                               \
    saei_v a##k = saei_vload(out + 16 * k);                                                        \
    _mm_prefetch((const char *)(next + 16 * k), _MM_HINT_T0);
#define SAEI_ADD(k) a##k = saei_vfma(x, saei_vload(m + 16 * k), a##k);
#define SAEI_PUT(k) saei_vstore(out + 16 * k, a##k);
        if (n == 128) {
            const float *next = i + 1 < targets ? out + ld : out;
            _mm_prefetch((const char *)(value + at[i + 2 < targets ? i + 2 : i]), _MM_HINT_T0);
            SAEI_FN(saei_panel_ahead)(panel, targets, i);
            SAEI_ALL(SAEI_LOAD)
            for (uint64_t left = bits[i]; left; left &= left - 1) {
                const float *m = panel + (size_t)__builtin_ctzll(left) * 128;
                saei_v x = saei_vset(*v++);
                SAEI_ALL(SAEI_ADD)
            }
            SAEI_ALL(SAEI_PUT)
            continue;
        }
#undef SAEI_LOAD
#undef SAEI_ADD
#undef SAEI_PUT
        SAEI_FN(saei_add_list)(n, bits[i], v, panel, out);
    }
}

/* out[j] = alpha times the sum of lanes[j][16], as saei_vsum, eight sums side by side. */
static void SAEI_FN(saei_finish_dots)(size_t count, const float *lanes, double alpha, float *out) {
    size_t j = 0;
#define SAEI_HALVES(i)                                                                             \
    _mm512_add_pd(_mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(lanes + 16 * (j + i))),              \
                  _mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(lanes + 16 * (j + i) + 8)))
#define SAEI_FOLD(a, b) /* lanes 4 apart, then 2, each of two sums */                              \
    _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xFF, a, b, 0x44),                                    \
                  _mm512_maskz_shuffle_f64x2(0xFF, a, b, 0xEE))
#define SAEI_FOLD2(a, b)                                                                           \
    _mm512_add_pd(_mm512_maskz_shuffle_f64x2(0xFF, a, b, 0x88),                                    \
                  _mm512_maskz_shuffle_f64x2(0xFF, a, b, 0xDD))
    __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (; j + 8 <= count; j += 8) {
        __m512d a = SAEI_HALVES(0), b = SAEI_HALVES(1), c = SAEI_HALVES(2), d = SAEI_HALVES(3);
        __m512d e = SAEI_HALVES(4), f = SAEI_HALVES(5), g = SAEI_HALVES(6), h = SAEI_HALVES(7), s;
        a = SAEI_FOLD(a, b);
        c = SAEI_FOLD(c, d);
        e = SAEI_FOLD(e, f);
        g = SAEI_FOLD(g, h);
        a = SAEI_FOLD2(a, c); /* quarter i: two lanes of sum i */
        e = SAEI_FOLD2(e, g);
        s = _mm512_add_pd(_mm512_maskz_unpacklo_pd(0xFF, a, e),
                          _mm512_maskz_unpackhi_pd(0xFF, a, e));
        s = _mm512_mul_pd(_mm512_maskz_permutexvar_pd(0xFF, order, s), _mm512_set1_pd(alpha));
        _mm256_storeu_ps(out + j, _mm512_maskz_cvtpd_ps(0xFF, s));
    }
#undef SAEI_HALVES
#undef SAEI_FOLD
#undef SAEI_FOLD2
    for (; j < count; j++) out[j] = (float)(alpha * saei_vsum(saei_vload(lanes + 16 * j)));
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *const from = lanes;
        size_t count;
#define SAEI_LOAD(k)                                                                               \
    saei_v e##k = saei_vload(e + 16 * k);                                                          \
    _mm_prefetch((const char *)(next + 16 * k), _MM_HINT_T0);
#define SAEI_ADD(k) s = saei_vfma(e##k, saei_vload(m + 16 * k), s);
        if (n == 128) {
            const float *next = i + 1 < targets ? e + ld : e;
            SAEI_FN(saei_panel_ahead)(panel, targets, i);
            SAEI_ALL(SAEI_LOAD)
            for (uint64_t left = bits[i]; left; left &= left - 1, lanes += 16) {
                const float *m = panel + (size_t)__builtin_ctzll(left) * 128;
                saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
                SAEI_ALL(SAEI_ADD)
                saei_vstore(lanes, s);
            }
        } else
#undef SAEI_ALL
#undef SAEI_LOAD
#undef SAEI_ADD
            lanes = SAEI_FN(saei_dot_list)(n, bits[i], e, panel, lanes, begin);
        count = out ? (size_t)(lanes - from) / 16 : 0;
        SAEI_FN(saei_finish_dots)(count, from, (double)alpha, out ? out + at[i] : out);
    }
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm512_storeu_pd(out + i,
                         _mm512_fmadd_pd(_mm512_set1_pd(a),
                                         _mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(x + i)),
                                         _mm512_loadu_pd(out + i)));
    for (; i < n; i++) out[i] += a * (double)x[i];
}

/* out = x^p for eight x > 0, as saei_pow with its roundings: exp(p ln x). False where one is
   not, is infinite, or |p ln x| may exceed 690: nothing is written. */
static inline bool SAEI_FN(saei_power_8)(__m256 x, double p, double *out) {
    const __m512d one = _mm512_set1_pd(1), big = _mm512_set1_pd(6.93147180369123816490e-01);
    const __m512d small = _mm512_set1_pd(1.90821492927058770002e-10);
    const double coef[] = { 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                            1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6,
                            0.5, 1.0, 1.0 };
    __m512i bits = _mm512_castpd_si512(_mm512_maskz_cvtps_pd(0xFF, x)), wide;
    __m256i e = _mm512_maskz_cvtepi64_epi32(0xFF, _mm512_maskz_srli_epi64(0xFF, bits, 52));
    __m512d f, s, z, y, n, r;
    __mmask8 upper;
    bits = _mm512_and_si512(bits, _mm512_set1_epi64(0xFFFFFFFFFFFFFll));
    f = _mm512_castsi512_pd(_mm512_or_si512(bits, _mm512_set1_epi64(0x3FF0000000000000ll)));
    upper = _mm512_cmp_pd_mask(f, _mm512_set1_pd(1.4142135623730951), _CMP_GT_OQ);
    f = _mm512_mask_mul_pd(f, upper, f, _mm512_set1_pd(0.5));
    n = _mm512_maskz_cvtepi32_pd(0xFF, _mm256_sub_epi32(e, _mm256_set1_epi32(1023)));
    n = _mm512_mask_add_pd(n, upper, n, one);
    s = _mm512_div_pd(_mm512_sub_pd(f, one), _mm512_add_pd(f, one));
    z = _mm512_mul_pd(s, s);
    y = _mm512_set1_pd(1.0 / 23);
    for (int i = 21; i >= 3; i -= 2) y = _mm512_fmadd_pd(y, z, _mm512_set1_pd(1.0 / i));
    s = _mm512_add_pd(s, s);
    y = _mm512_fmadd_pd(_mm512_mul_pd(y, z), s, s);
    y = _mm512_fmadd_pd(n, big, _mm512_fmadd_pd(n, small, y)); /* ln x */
    y = _mm512_mul_pd(_mm512_set1_pd(p), y);
    if ((_mm512_cmp_pd_mask(y, _mm512_set1_pd(690), _CMP_LT_OQ)
         & _mm512_cmp_pd_mask(y, _mm512_set1_pd(-690), _CMP_GT_OQ)
         & _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ))
         & _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ))) != 0xFF)
        return false;
    n = _mm512_maskz_roundscale_pd(
        0xFF, _mm512_fmadd_pd(y, _mm512_set1_pd(1.4426950408889634), _mm512_set1_pd(0.5)), 0x09);
    r = _mm512_fnmadd_pd(n, small, _mm512_fnmadd_pd(n, big, y));
    y = _mm512_set1_pd(1.0 / 6227020800);
    for (size_t i = 0; i < sizeof coef / sizeof *coef; i++)
        y = _mm512_fmadd_pd(y, r, _mm512_set1_pd(coef[i]));
    e = _mm256_add_epi32(_mm512_maskz_cvttpd_epi32(0xFF, n), _mm256_set1_epi32(1023));
    wide = _mm512_maskz_slli_epi64(0xFF, _mm512_maskz_cvtepi32_epi64(0xFF, e), 52);
    _mm512_storeu_pd(out, _mm512_mul_pd(y, _mm512_castsi512_pd(wide)));
    return true;
}

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    size_t i = 0;
    for (; p != 0 && p != 1 && i + 8 <= n; i += 8)
        if (!SAEI_FN(saei_power_8)(_mm256_loadu_ps(x + i), p, out + i))
            for (size_t j = i; j < i + 8; j++)
                out[j] = x[j] > 0 ? saei_pow((double)x[j], p) : 0;
    for (; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

#define SAEI_GATHER(p, i) _mm512_mask_i32gather_ps(saei_vset(0), 0xFFFF, i, p, 4)
static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    size_t j = at;
    for (; j + 16 <= at + n; j += 16) {
        __m512i i = _mm512_loadu_si512((const void *)(c->latent + j));
        saei_v u = saei_vload(c->pre + j);
        saei_v v = saei_vadd(saei_vmul(SAEI_GATHER(exp_r, i), u), SAEI_GATHER(mag_bias, i));
        saei_vstore(c->gate + j, saei_vadd(u, SAEI_GATHER(gate_bias, i)));
        saei_vstore(c->value + j,
                    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, saei_vset(0), _CMP_GT_OQ), v));
    }
    for (; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    size_t j = at;
    for (; j + 16 <= at + n; j += 16) {
        saei_v e = SAEI_GATHER(exp_r, _mm512_loadu_si512((const void *)(c->latent + j)));
        __mmask16 on = _mm512_cmp_ps_mask(saei_vload(c->value + j), saei_vset(0), _CMP_GT_OQ);
        saei_v mag = _mm512_maskz_loadu_ps(on, c->extra[0] + j);
        saei_vstore(c->extra[0] + j, mag);
        saei_vstore(c->extra[2] + j, saei_vmul(saei_vmul(mag, e), saei_vload(c->pre + j)));
        saei_vstore(c->grad + j, saei_vfma(e, mag, saei_vload(c->extra[1] + j)));
    }
    for (; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}
#undef SAEI_GATHER

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86, SAE_NO_TRAIN */
