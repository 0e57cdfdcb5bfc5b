static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    size_t i = 0;
#if SAEI_ISA == SAEI_ISA_AVX512
    for (; i + 16 <= n; i += 16) {
        saei_v v = saei_vload(x + i);
        __mmask16 keep = _mm512_cmp_ps_mask(v, saei_vload(cut + i), _CMP_GT_OQ);
        saei_vstore(out + i, _mm512_maskz_mov_ps(keep, v));
    }
#endif
    for (; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}

static void SAEI_FN(saei_scale)(size_t n, float a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vmul(saei_vset(a), saei_vload(x + i)));
    for (; i < n; i++) out[i] = a * x[i];
}

static void SAEI_FN(saei_divide)(size_t n, const float *x, float a, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vdiv(saei_vload(x + i), saei_vset(a)));
    for (; i < n; i++) out[i] = x[i] / a;
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    size_t i = 0;
#if SAEI_ISA == SAEI_ISA_AVX512
    for (; i + 8 <= n; i += 8)
        _mm512_storeu_pd(out + i,
                         _mm512_fmadd_pd(_mm512_set1_pd(a),
                                         _mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(x + i)),
                                         _mm512_loadu_pd(out + i)));
#endif
    for (; i < n; i++) out[i] += a * (double)x[i];
}

#if SAEI_ISA == SAEI_ISA_AVX512
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
#endif

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    size_t i = 0;
#if SAEI_ISA == SAEI_ISA_AVX512
    for (; p != 0 && p != 1 && i + 8 <= n; i += 8)
        if (!SAEI_FN(saei_power_8)(_mm256_loadu_ps(x + i), p, out + i))
            for (size_t j = i; j < i + 8; j++)
                out[j] = x[j] > 0 ? saei_pow((double)x[j], p) : 0;
#endif
    for (; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

#if SAEI_ISA == SAEI_ISA_AVX512
#define SAEI_GATHER(p, i) _mm512_mask_i32gather_ps(saei_vset(0), 0xFFFF, i, p, 4)
#endif
static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    size_t j = at;
#if SAEI_ISA == SAEI_ISA_AVX512
    for (; j + 16 <= at + n; j += 16) {
        __m512i i = _mm512_loadu_si512((const void *)(c->latent + j));
        saei_v u = saei_vload(c->pre + j);
        saei_v v = saei_vadd(saei_vmul(SAEI_GATHER(exp_r, i), u), SAEI_GATHER(mag_bias, i));
        saei_vstore(c->gate + j, saei_vadd(u, SAEI_GATHER(gate_bias, i)));
        saei_vstore(c->value + j,
                    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, saei_vset(0), _CMP_GT_OQ), v));
    }
#endif
    for (; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    size_t j = at;
#if SAEI_ISA == SAEI_ISA_AVX512
    for (; j + 16 <= at + n; j += 16) {
        saei_v e = SAEI_GATHER(exp_r, _mm512_loadu_si512((const void *)(c->latent + j)));
        __mmask16 on = _mm512_cmp_ps_mask(saei_vload(c->value + j), saei_vset(0), _CMP_GT_OQ);
        saei_v mag = _mm512_maskz_loadu_ps(on, c->extra[0] + j);
        saei_vstore(c->extra[0] + j, mag);
        saei_vstore(c->extra[2] + j, saei_vmul(saei_vmul(mag, e), saei_vload(c->pre + j)));
        saei_vstore(c->grad + j, saei_vfma(e, mag, saei_vload(c->extra[1] + j)));
    }
#undef SAEI_GATHER
#endif
    for (; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where PyTorch rounds. m is not kept (NULL) when beta1 is 0: then it is g. */
static void SAEI_FN(saei_adam)(const saei_adam_factors *c, size_t n, float *p, const float *g,
                               float *m, float *v) {
    saei_v keep1 = saei_vset(c->keep1), keep2 = saei_vset(c->keep2), beta2 = saei_vset(c->beta2);
    saei_v root2 = saei_vset(c->root2), eps = saei_vset(c->eps), step = saei_vset(-c->step);
    saei_v scale = saei_vset(c->scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vmul(saei_vload(g + i), scale), m1 = x, v1;
        if (m) {
            m1 = saei_vload(m + i);
            m1 = saei_vfma(keep1, saei_vsub(x, m1), m1);
            saei_vstore(m + i, m1);
        }
        v1 = saei_vfma(saei_vmul(keep2, x), x, saei_vmul(beta2, saei_vload(v + i)));
        saei_vstore(v + i, v1);
        v1 = saei_vadd(saei_vdiv(saei_vsqrt(v1), root2), eps);
        saei_vstore(p + i, saei_vadd(saei_vload(p + i), saei_vdiv(saei_vmul(step, m1), v1)));
    }
    for (; i < n; i++) {
        float x = g[i] * c->scale, m1 = x;
        if (m) m1 = m[i] = fmaf(c->keep1, x - m[i], m[i]);
        v[i] = fmaf(c->keep2 * x, x, c->beta2 * v[i]);
        p[i] += -c->step * m1 / (sqrtf(v[i]) / c->root2 + c->eps);
    }
}
