}

static size_t SAEI_FN(saei_keep_window)(const float *u, const float *bias, const float *theta,
                                        float bandwidth, size_t count, uint32_t base,
                                        uint32_t *latent, float *value, size_t length,
                                        size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    size_t j = 0;
#if SAEI_ISA == SAEI_ISA_AVX512
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (; j + 16 <= count && length + SAEI_KEEP_SLACK <= stride; j += 16) {
        saei_v p = saei_vadd(saei_vload(u + j), saei_vload(bias + j));
        saei_v above = saei_vload(theta + j);
        saei_v w = saei_vdiv(saei_vsub(p, above), saei_vset(bandwidth));
        __mmask16 keep = _mm512_cmp_ps_mask(p, above, _CMP_GT_OQ)
                         | (_mm512_cmp_ps_mask(w, saei_vset(-0.5f), _CMP_GT_OQ)
                            & _mm512_cmp_ps_mask(w, saei_vset(0.5f), _CMP_LT_OQ));
        SAEI_KEEP(keep, p)
    }
#undef SAEI_KEEP
#endif
    for (; j < count; j++) {
        float p = u[j] + bias[j], w = (p - theta[j]) / bandwidth;
        if (!(p > theta[j] || (w > -0.5f && w < 0.5f))) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

#if SAEI_ISA == SAEI_ISA_AVX512
static inline uint64_t SAEI_FN(saei_or_lanes)(__m512i v) {
    __m256i four = _mm256_or_si256(_mm512_maskz_extracti64x4_epi64(0xFF, v, 0),
                                   _mm512_maskz_extracti64x4_epi64(0xFF, v, 1));
    __m128i two = _mm_or_si128(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    uint64_t one;
    _mm_storel_epi64((__m128i *)(void *)&one, _mm_or_si128(two, _mm_unpackhi_epi64(two, two)));
    return (one | one >> 32) & 0xFFFFFFFFu;
}
#endif

static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
#if SAEI_ISA == SAEI_ISA_AVX512
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
#else
    size_t j = 0;
    for (*bits = 0; j < n && sorted[j] - first < 64; j++)
        *bits |= (uint64_t)1 << (sorted[j] - first);
    return j;
#endif
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
#if SAEI_ISA == SAEI_ISA_AVX512
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
#else
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t l = 0; l < 16; l++) {
            if (!(fires[r] >> l & 1)) continue;
            for (size_t v = 0; v < count; v++) out[v][to[l]] = values[v][from[r]];
            from[r]++;
            to[l]++;
        }
#endif
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64) {
#if SAEI_ISA == SAEI_ISA_AVX512
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
#else
        for (uint64_t left = fires[w]; left; left &= left - 1)
            sums[saei_lowest_bit(left)] += (double)value[j++];
#endif
    }
}

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    size_t c = 0;
#if SAEI_ISA == SAEI_ISA_AVX512
    /* 256 columns at a time, so that the rows, far apart and in no order, are read in 1 KB pieces;
       the piece of four rows later is fetched meanwhile. 131072 rows of 2 KB from 16 MB, one core:
       predicted 4.5 ms at the L3's 59 GB/s, measured 6.3 to 7.9 (64 columns at a time: 10.6). */
#define SAEI_ALL(X)                                                                                \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define SAEI_LOAD(i) saei_v a##i = saei_vload(out + c + 16 * i);
#define SAEI_ADD(i)                                                                                \
    _mm_prefetch((const char *)(next + 16 * i), _MM_HINT_T0);                                      \
    a##i = saei_vfma(v, saei_vload(m + 16 * i), a##i);
#define SAEI_PUT(i) saei_vstore(out + c + 16 * i, a##i);
    for (; c + 256 <= n; c += 256) {
        SAEI_ALL(SAEI_LOAD)
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            const float *next = M + row[j + 4 < count ? j + 4 : count - 1] * ld + c;
            saei_v v = saei_vset(value[j]);
            SAEI_ALL(SAEI_ADD)
        }
        SAEI_ALL(SAEI_PUT)
    }
#undef SAEI_ALL
#undef SAEI_LOAD
#undef SAEI_ADD
#undef SAEI_PUT
#endif
    for (; c + 64 <= n; c += 64) {
        saei_v a0 = saei_vload(out + c), a1 = saei_vload(out + c + 16);
        saei_v a2 = saei_vload(out + c + 32), a3 = saei_vload(out + c + 48);
        for (size_t j = 0; j < count; j++) {
            const float *m = M + row[j] * ld + c;
            saei_v v = saei_vset(value[j]);
            a0 = saei_vfma(v, saei_vload(m), a0);
            a1 = saei_vfma(v, saei_vload(m + 16), a1);
            a2 = saei_vfma(v, saei_vload(m + 32), a2);
            a3 = saei_vfma(v, saei_vload(m + 48), a3);
        }
        saei_vstore(out + c, a0);
        saei_vstore(out + c + 16, a1);
        saei_vstore(out + c + 32, a2);
        saei_vstore(out + c + 48, a3);
    }
    for (; c < n; c += 16) {
        saei_v a = saei_vload(out + c);
        for (size_t j = 0; j < count; j++)
            a = saei_vfma(saei_vset(value[j]), saei_vload(M + row[j] * ld + c), a);
        saei_vstore(out + c, a);
    }
}

#if SAEI_ISA == SAEI_ISA_AVX512
/* Asks the L3 for the panel behind this one, which comes next: 128 bytes at each of 256 lists, 256
   where there are fewer. -10 % of a sum's time over 16 MB of panels. */
static inline void SAEI_FN(saei_panel_ahead)(const float *panel, size_t lists, size_t list) {
    const size_t bytes = lists > 128 ? 128 : 256;
    const char *part = (const char *)(panel + SAEI_DENSE_ROWS * 128) + bytes * list;
    for (size_t k = 0; k < bytes; k += 64) _mm_prefetch(part + k, _MM_HINT_T1);
}
#endif

/* Eight columns of registers for each row. The list as bits leaves both load ports to the panel:
   with its indices, 14 FMAs' time an entry of 8, with bits 10; the FMA peak would be 8. */
static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld) {
        const float *v = value + at[i];
#if SAEI_ISA == SAEI_ISA_AVX512
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
#endif
        for (uint64_t left = bits[i]; left; left &= left - 1, v++) {
            const float *m = panel + saei_lowest_bit(left) * n;
            saei_v x = saei_vset(*v);
            for (size_t c = 0; c < n; c += 16)
                saei_vstore(out + c, saei_vfma(x, saei_vload(m + c), saei_vload(out + c)));
        }
    }
}

/* out[j] = alpha times the sum of lanes[j][16], as saei_vsum, eight sums side by side. */
static void SAEI_FN(saei_finish_dots)(size_t count, const float *lanes, double alpha, float *out) {
    size_t j = 0;
#if SAEI_ISA == SAEI_ISA_AVX512
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
#endif
    for (; j < count; j++) out[j] = (float)(alpha * saei_vsum(saei_vload(lanes + 16 * j)));
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *const from = lanes;
        size_t count;
#if SAEI_ISA == SAEI_ISA_AVX512
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
#endif
            for (uint64_t left = bits[i]; left; left &= left - 1, lanes += 16) {
                const float *m = panel + saei_lowest_bit(left) * n;
                saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
                for (size_t c = 0; c < n; c += 16)
                    s = saei_vfma(saei_vload(e + c), saei_vload(m + c), s);
                saei_vstore(lanes, s);
            }
        count = out ? (size_t)(lanes - from) / 16 : 0;
        SAEI_FN(saei_finish_dots)(count, from, (double)alpha, out ? out + at[i] : out);
    }
}

static double SAEI_FN(saei_dot)(size_t n, const float *a, const float *b) {
    saei_v s = saei_vset(0);
    for (size_t i = 0; i < n; i += 16) s = saei_vfma(saei_vload(a + i), saei_vload(b + i), s);
    return saei_vsum(s);
}

/* Four to six latents at a time, so that their chains hide each other's latency: 53 cycles a dot of
   512 from the L1, of which 40 are loads (one alone 92; eight 83: too many streams for the L1). */
#define SAEI_DOT_BEGIN(i)                                                                          \
    const float *m##i = M + row[j + i] * ld;                                                       \
    saei_v s##i = saei_vset(0);
#define SAEI_DOT_STEP(i) s##i = saei_vfma(v, saei_vload(m##i + k), s##i);
#define SAEI_DOT_END(i) out[j + i] = (float)((double)alpha * saei_vsum(s##i));
#define SAEI_DOTS(ALL)                                                                             \
    {                                                                                              \
        ALL(SAEI_DOT_BEGIN)                                                                        \
        for (size_t k = 0; k < n; k += 16) {                                                       \
            saei_v v = saei_vload(e + k);                                                          \
            ALL(SAEI_DOT_STEP)                                                                     \
        }                                                                                          \
        ALL(SAEI_DOT_END)                                                                          \
        break;                                                                                     \
    }
#define SAEI_1(X) X(0)
#define SAEI_2(X) SAEI_1(X) X(1)
#define SAEI_3(X) SAEI_2(X) X(2)
#define SAEI_4(X) SAEI_3(X) X(3)
#define SAEI_5(X) SAEI_4(X) X(4)
#define SAEI_6(X) SAEI_5(X) X(5)
static void SAEI_FN(saei_dots)(size_t n, const float *e, size_t count, const uint32_t *row,
                               const float *M, size_t ld, float alpha, float *out) {
    for (size_t j = 0, group; j < count; j += group) {
        group = count - j > 6 ? 4 : count - j;
        switch (group) {
        case 1: SAEI_DOTS(SAEI_1)
        case 2: SAEI_DOTS(SAEI_2)
        case 3: SAEI_DOTS(SAEI_3)
        case 4: SAEI_DOTS(SAEI_4)
        case 5: SAEI_DOTS(SAEI_5)
        default: SAEI_DOTS(SAEI_6)
        }
    }
}
#undef SAEI_DOT_BEGIN
#undef SAEI_DOT_STEP
#undef SAEI_DOT_END
#undef SAEI_DOTS
#undef SAEI_1
#undef SAEI_2
#undef SAEI_3
#undef SAEI_4
#undef SAEI_5
#undef SAEI_6

static void SAEI_FN(saei_axpy)(size_t n, float a, const float *x, const float *y, float *out) {
    saei_v va = saei_vset(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        saei_vstore(out + i, saei_vfma(va, saei_vload(x + i), saei_vload(y + i)));
    for (; i < n; i++) out[i] = fmaf(a, x[i], y[i]);
}

#if SAEI_ISA == SAEI_ISA_AVX2
/* r[c] = column k + c of 8 rows. */
static inline void SAEI_FN(saei_turn_8)(const float *const row[8], size_t k, __m256 r[8]) {
    __m256 pair[8], quad[8];
    for (size_t i = 0; i < 8; i += 2) {
        __m256 a = _mm256_loadu_ps(row[i] + k), b = _mm256_loadu_ps(row[i + 1] + k);
        pair[i] = _mm256_unpacklo_ps(a, b);     /* columns 0, 1 and 4, 5 of both rows */
        pair[i + 1] = _mm256_unpackhi_ps(a, b); /* 2, 3 and 6, 7 */
    }
    for (size_t i = 0; i < 8; i += 4) /* quad[i + c]: columns c and c + 4 of rows i to i + 3 */
        for (size_t c = 0; c < 2; c++) {
            quad[i + 2 * c] = _mm256_shuffle_ps(pair[i + c], pair[i + c + 2], 0x44);
            quad[i + 2 * c + 1] = _mm256_shuffle_ps(pair[i + c], pair[i + c + 2], 0xEE);
        }
    for (size_t c = 0; c < 4; c++) {
        r[c] = _mm256_permute2f128_ps(quad[c], quad[4 + c], 0x20);
        r[c + 4] = _mm256_permute2f128_ps(quad[c], quad[4 + c], 0x31);
    }
}
#endif

/* x 0 is 0 but for NaN and infinity. */
static bool SAEI_FN(saei_copy)(size_t n, const void *from, float *to) {
    const float *at = (const float *)from;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    float lane[16], bad = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vload(at + i);
        sum = saei_vadd(sum, saei_vmul(x, zero));
        saei_vstore(to + i, x);
    }
    saei_vstore(lane, sum);
    for (; i < n; i++) {
        memcpy(to + i, at + i, sizeof *to);
        bad += to[i] * 0;
    }
    for (i = 0; i < 16; i++) bad += lane[i];
    return bad == 0;
}

static bool SAEI_FN(saei_turn)(const void *const row[16], size_t n, float *to, size_t ld) {
    const float *at[16];
    float lane[16], bad = 0;
    size_t c = 0;
    for (size_t i = 0; i < 16; i++) at[i] = (const float *)row[i];
#if SAEI_ISA == SAEI_ISA_AVX512
    /* whole cache lines need not be read before they are written */
    const bool lines = (uintptr_t)to % 64 == 0 && ld % 16 == 0;
    const saei_v zero = saei_vset(0);
    saei_v sum = zero;
    for (; c + 16 <= n; c += 16) {
        saei_v r[16];
        SAEI_FN(saei_transpose)(at, c, r);
        for (size_t i = 0; i < 16; i++) {
            sum = saei_vadd(sum, saei_vmul(r[i], zero));
            if (lines) _mm512_stream_ps(to + (c + i) * ld, r[i]);
            else saei_vstore(to + (c + i) * ld, r[i]);
        }
    }
    if (lines) _mm_sfence();
    saei_vstore(lane, sum);
    for (size_t i = 0; i < 16; i++) bad += lane[i];
#elif SAEI_ISA == SAEI_ISA_AVX2
    const __m256 zero = _mm256_setzero_ps();
    __m256 sum = zero;
    for (; c + 8 <= n; c += 8)
        for (size_t half = 0; half < 16; half += 8) {
            __m256 r[8];
            SAEI_FN(saei_turn_8)(at + half, c, r);
            for (size_t i = 0; i < 8; i++) {
                sum = _mm256_add_ps(sum, _mm256_mul_ps(r[i], zero));
                _mm256_storeu_ps(to + (c + i) * ld + half, r[i]);
            }
        }
    _mm256_storeu_ps(lane, sum);
    for (size_t i = 0; i < 8; i++) bad += lane[i];
#endif
    for (; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, at[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    (void)lane;
    return bad == 0;
}
