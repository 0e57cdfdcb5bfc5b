#pragma once
#include "avx512.h"

/* ==== >>kernels: AVX-512, encode ============================================================== */
#if defined(SAEI_X86)
#include "begin_avx512.inl"
#include "names.inl"

/* 8 rows x 48 latents in 24 registers; the panel is read once, x by broadcast. Predicted: 24 FMAs
   for 11 loads, the FMA peak; measured 98 % of it resident, 94 to 97 % over all panels of W1. */
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], size_t rows,
                               const float *panel, size_t dim, bool add, float *out, size_t ld) {
#define SAEI_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const float *x##i = x[i];                                                                      \
    saei_v a##i = saei_vset(0), b##i = a##i, c##i = a##i;                                          \
    if (add && i < rows) {                                                                         \
        a##i = saei_vload(out + i * ld);                                                           \
        b##i = saei_vload(out + i * ld + 16);                                                      \
        c##i = saei_vload(out + i * ld + 32);                                                      \
    }
#define SAEI_STEP(i)                                                                               \
    {                                                                                              \
        saei_v t = saei_vset(x##i[k]);                                                             \
        a##i = saei_vfma(t, p0, a##i);                                                             \
        b##i = saei_vfma(t, p1, b##i);                                                             \
        c##i = saei_vfma(t, p2, c##i);                                                             \
    }
#define SAEI_END(i)                                                                                \
    if (i < rows) {                                                                                \
        saei_vstore(out + i * ld, a##i);                                                           \
        saei_vstore(out + i * ld + 16, b##i);                                                      \
        saei_vstore(out + i * ld + 32, c##i);                                                      \
    }
    SAEI_ROWS(SAEI_BEGIN)
    for (size_t k = 0; k < dim; k++, panel += SAEI_PANEL) {
        saei_v p0 = saei_vload(panel), p1 = saei_vload(panel + 16), p2 = saei_vload(panel + 32);
        SAEI_ROWS(SAEI_STEP)
    }
    SAEI_ROWS(SAEI_END)
#undef SAEI_ROWS
#undef SAEI_BEGIN
#undef SAEI_STEP
#undef SAEI_END
}

/* Whole blocks through the transposition: 2.0 ms for W1's 16 MB on one core (word by word 6.8). */
static void SAEI_FN(saei_pack)(const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,
                               uint32_t *out) {
    size_t blocks = count == SAEI_PANEL ? dim / 16 * 16 : 0;
    const float *at[SAEI_PANEL];
    for (size_t j = 0; j < SAEI_PANEL; j++) at[j] = (const float *)(const void *)row[j];
    for (size_t k = 0; k < blocks; k += 16)
        for (size_t j = 0; j < SAEI_PANEL; j += 16) {
            saei_v r[16];
            SAEI_FN(saei_transpose)(at + j, k, r);
            for (size_t c = 0; c < 16; c++)
                saei_vstore((float *)(void *)(out + (k + c) * SAEI_PANEL + j), r[c]);
        }
    for (size_t k = blocks; k < dim; k++)
        for (size_t j = 0; j < SAEI_PANEL; j++) out[k * SAEI_PANEL + j] = j < count ? row[j][k] : 0;
}

#define SAEI_ADD(c) s = saei_vfma(r[c], saei_vset(x[k + c]), s);
/* 16 latents at a time, transposed in registers; the next 16 are prefetched meanwhile. 64 of
   each of 2048 rows, from 16 MB, on one core: predicted 5.1 ms by 64 shuffles for 256 products,
   measured 9.4 (6.4 from the L2); two groups at once (8.5) lose in the L1 what they gain. */
static void SAEI_FN(saei_products)(size_t n, const float *x, size_t count, const uint32_t *row,
                                   const float *M, size_t ld, bool add, float *out) {
    for (size_t j = 0; j < count; j += 16) {
        const float *at[16], *next[16];
        float sums[16];
        saei_v s, r[16];
        for (size_t i = 0; i < 16; i++) {
            sums[i] = add && j + i < count ? out[j + i] : 0;
            at[i] = M + row[j + i < count ? j + i : count - 1] * ld;
            next[i] = M + row[j + 16 + i < count ? j + 16 + i : count - 1] * ld;
        }
        s = saei_vload(sums);
        for (size_t k = 0; k < n; k += 16) {
            SAEI_FN(saei_transpose)(at, k, r);
            if (j + 16 < count)
                for (size_t i = 0; i < 16; i++)
                    _mm_prefetch((const char *)(next[i] + k), _MM_HINT_T1);
            if (k + 16 <= n) {
                SAEI_ADD(0) SAEI_ADD(1) SAEI_ADD(2) SAEI_ADD(3) SAEI_ADD(4) SAEI_ADD(5)
                SAEI_ADD(6) SAEI_ADD(7) SAEI_ADD(8) SAEI_ADD(9) SAEI_ADD(10) SAEI_ADD(11)
                SAEI_ADD(12) SAEI_ADD(13) SAEI_ADD(14) SAEI_ADD(15)
            } else
                for (size_t c = 0; c < n - k; c++) s = saei_vfma(r[c], saei_vset(x[k + c]), s);
        }
        saei_vstore(sums, s);
        for (size_t i = 0; i < 16 && j + i < count; i++) out[j + i] = sums[i];
    }
}
#undef SAEI_ADD

/* q = round(x scale) with |q| at most 46340 = sqrt(2^31), so that by Cauchy and Schwarz no partial
   sum of a product of two such rows leaves int32. */
static void SAEI_FN(saei_quantize)(size_t n, const float *x, int16_t *out, saei_quantized *q) {
    saei_v sum = saei_vset(0), most = saei_vset(0), delta = saei_vset(0), inverse;
    double norm, scale;
    float lanes[16], top = 0;
    for (size_t k = 0; k < n; k += 16) {
        saei_v v = saei_vload(x + k);
        sum = saei_vfma(v, v, sum);
        most = _mm512_maskz_max_ps(0xFFFF, most, _mm512_abs_ps(v));
    }
    saei_vstore(lanes, most);
    for (int i = 0; i < 16; i++) top = lanes[i] > top ? lanes[i] : top;
    norm = sqrt(saei_vsum(sum));
    q->norm = (float)(norm * 1.0001);
    q->error = 0;
    q->inverse = norm < 1e15 ? 0.0f : -1.0f; /* also where norm is NaN */
    if (!(norm > 1e-15 && norm < 1e15)) {
        q->norm += 1e-20f; /* squares below 1e-45 are lost */
        q->error = q->norm;
        memset(out, 0, n * sizeof *out);
        return;
    }
    scale = (46340 - 0.5 * sqrt((double)n) - 8) / norm;
    if (scale * (double)top > 32000) scale = 32000 / (double)top;
    q->inverse = (float)(1 / scale);
    inverse = saei_vset(q->inverse);
    for (size_t k = 0; k < n; k += 16) {
        saei_v v = saei_vload(x + k);
        __m512i r = _mm512_maskz_cvtps_epi32(0xFFFF, saei_vmul(v, saei_vset((float)scale)));
        saei_v d = saei_vfma(saei_vsub(saei_vset(0), _mm512_maskz_cvtepi32_ps(0xFFFF, r)), inverse,
                             v);
        delta = saei_vfma(d, d, delta);
        _mm256_storeu_si256((__m256i *)(void *)(out + k), _mm512_maskz_cvtepi32_epi16(0xFFFF, r));
    }
    q->error = (float)(sqrt(saei_vsum(delta)) * 1.0001 + norm * 1e-7);
}

__attribute__((target("avx512f,avx512vnni"))) static void SAEI_FN(saei_screen)(
    const int16_t *const x[SAEI_TILE_ROWS], const uint32_t *panel, size_t pairs, int32_t *out) {
#define SAEI_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const char *x##i = (const char *)x[i];                                                         \
    __m512i a##i = _mm512_setzero_si512(), b##i = a##i, c##i = a##i;
#define SAEI_STEP(i)                                                                               \
    {                                                                                              \
        int pair;                                                                                  \
        __m512i t;                                                                                 \
        memcpy(&pair, x##i + 4 * k, sizeof pair);                                                  \
        t = _mm512_set1_epi32(pair);                                                               \
        a##i = _mm512_dpwssd_epi32(a##i, t, p0);                                                   \
        b##i = _mm512_dpwssd_epi32(b##i, t, p1);                                                   \
        c##i = _mm512_dpwssd_epi32(c##i, t, p2);                                                   \
    }
#define SAEI_END(i)                                                                                \
    _mm512_storeu_si512((void *)(out + i * 48), a##i);                                             \
    _mm512_storeu_si512((void *)(out + i * 48 + 16), b##i);                                        \
    _mm512_storeu_si512((void *)(out + i * 48 + 32), c##i);
    SAEI_ROWS(SAEI_BEGIN)
    for (size_t k = 0; k < pairs; k++, panel += SAEI_PANEL) {
        __m512i p0 = _mm512_loadu_si512((const void *)panel);
        __m512i p1 = _mm512_loadu_si512((const void *)(panel + 16));
        __m512i p2 = _mm512_loadu_si512((const void *)(panel + 32));
        SAEI_ROWS(SAEI_STEP)
    }
    SAEI_ROWS(SAEI_END)
#undef SAEI_ROWS
#undef SAEI_BEGIN
#undef SAEI_STEP
#undef SAEI_END
}

/* base, base + 1, ... base + 15 */
static inline __m512i SAEI_FN(saei_lanes)(uint32_t base) {
    return _mm512_add_epi32(
        _mm512_set1_epi32((int)base),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* Without a branch on the values: one vector in three has a candidate, which no CPU foresees. */
static void SAEI_FN(saei_keep_tile)(const int32_t *dot, const float *inverse, const float *offset,
                                    const float *scale, const float *shift, const float *cut,
                                    uint32_t base, uint32_t *const *latent, float *const *value,
                                    uint32_t *length) {
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (int j = 0; j < SAEI_PANEL; j += 16, lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16))) {
        saei_v factor = saei_vload(inverse + j), shifted = saei_vload(offset + j);
        for (int r = 0; r < SAEI_TILE_ROWS; r++) {
            saei_v p = _mm512_maskz_cvtepi32_ps(
                0xFFFF, _mm512_loadu_si512((const void *)(dot + r * SAEI_PANEL + j)));
            __mmask16 keep;
            p = saei_vfma(saei_vmul(p, factor), saei_vset(scale[r]), shifted);
            keep = _mm512_cmp_ps_mask(p, saei_vset(cut[r]), _CMP_GT_OQ);
            p = saei_vsub(p, saei_vset(shift[r]));
            saei_vstore(value[r] + length[r], _mm512_maskz_compress_ps(keep, p));
            _mm512_storeu_si512((void *)(latent[r] + length[r]),
                                _mm512_maskz_compress_epi32(keep, lane));
            length[r] += (uint32_t)__builtin_popcount((unsigned)keep);
        }
    }
}

static size_t SAEI_FN(saei_keep_screened)(const int32_t *dot, const float *inverse,
                                          const float *offset, float scale, float shift, float cut,
                                          uint32_t base, uint32_t *latent, float *value,
                                          size_t length, size_t stride) {
    for (size_t j = 0; j < SAEI_PANEL; j += 16) {
        saei_v p = _mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_loadu_si512((const void *)(dot + j)));
        __mmask16 keep;
        p = saei_vfma(saei_vmul(p, saei_vload(inverse + j)), saei_vset(scale),
                      saei_vload(offset + j));
        keep = _mm512_cmp_ps_mask(p, saei_vset(cut), _CMP_GT_OQ);
        if (!keep) continue;
        {
            __m512i at = SAEI_FN(saei_lanes)(base + (uint32_t)j);
            size_t more = (size_t)__builtin_popcount((unsigned)keep);
            p = _mm512_maskz_compress_ps(keep, saei_vsub(p, saei_vset(shift)));
            at = _mm512_maskz_compress_epi32(keep, at);
            if (length + 16 <= stride) {
                saei_vstore(value + length, p);
                _mm512_storeu_si512((void *)(latent + length), at);
            } else if (length + more <= stride) {
                __mmask16 first = (__mmask16)((1u << more) - 1);
                _mm512_mask_storeu_ps(value + length, first, p);
                _mm512_mask_storeu_epi32((void *)(latent + length), first, at);
            }
            length += more;
        }
    }
    return length;
}

static size_t SAEI_FN(saei_count_from)(const float *value, size_t n, float cut) {
    size_t count = 0, j = 0;
    for (; j + 16 <= n; j += 16)
        count += (size_t)__builtin_popcount(
            (unsigned)_mm512_cmp_ps_mask(saei_vload(value + j), saei_vset(cut), _CMP_GE_OQ));
    for (; j < n; j++) count += value[j] >= cut;
    return count;
}

static size_t SAEI_FN(saei_keep_from)(uint32_t *latent, float *value, size_t n, float cut) {
    size_t kept = 0, j = 0;
    for (; j + 16 <= n; j += 16) { /* writes never pass what was read */
        saei_v v = saei_vload(value + j);
        __m512i l = _mm512_loadu_si512((const void *)(latent + j));
        __mmask16 keep = _mm512_cmp_ps_mask(v, saei_vset(cut), _CMP_GE_OQ);
        saei_vstore(value + kept, _mm512_maskz_compress_ps(keep, v));
        _mm512_storeu_si512((void *)(latent + kept), _mm512_maskz_compress_epi32(keep, l));
        kept += (size_t)__builtin_popcount((unsigned)keep);
    }
    for (; j < n; j++)
        if (value[j] >= cut) {
            latent[kept] = latent[j];
            value[kept++] = value[j];
        }
    return kept;
}

/* Writes 16 entries from length on, those of keep first; returns the length with these. */
static inline size_t SAEI_FN(saei_append)(__mmask16 keep, saei_v p, __m512i lane, uint32_t *latent,
                                          float *value, size_t length) {
    if (!keep) return length;
    saei_vstore(value + length, _mm512_maskz_compress_ps(keep, p));
    _mm512_storeu_si512((void *)(latent + length), _mm512_maskz_compress_epi32(keep, lane));
    return length + (size_t)__builtin_popcount((unsigned)keep);
}

static size_t SAEI_FN(saei_keep_above)(const float *u, const float *bias, bool raw, size_t count,
                                       float cut, uint32_t base, uint32_t *latent, float *value,
                                       size_t length, size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    size_t j = 0;
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (; j + 16 <= count && length + SAEI_LIST_PADDING <= stride; j += 16) {
        saei_v v = saei_vload(u + j), p = bias ? saei_vadd(v, saei_vload(bias + j)) : v;
        __mmask16 keep = _mm512_cmp_ps_mask(p, saei_vset(cut), _CMP_GT_OQ);
        bits |= (uint64_t)keep << (j & 63);
        length = SAEI_FN(saei_append)(keep, raw ? v : p, lane, latent, value, length);
        lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16));
    }
    for (; j < count; j++) {
        float p = bias ? u[j] + bias[j] : u[j];
        if (!(p > cut)) continue;
        bits |= (uint64_t)1 << (j & 63);
        if (length < stride) {
            latent[length] = base + (uint32_t)j;
            value[length] = raw ? u[j] : p;
        }
        length++;
    }
    if (kept) *kept = bits;
    return length;
}

static size_t SAEI_FN(saei_keep_window)(const float *u, const float *bias, const float *theta,
                                        float bandwidth, size_t count, uint32_t base,
                                        uint32_t *latent, float *value, size_t length,
                                        size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    size_t j = 0;
    __m512i lane = SAEI_FN(saei_lanes)(base);
    for (; j + 16 <= count && length + SAEI_LIST_PADDING <= stride; j += 16) {
        saei_v p = saei_vadd(saei_vload(u + j), saei_vload(bias + j));
        saei_v above = saei_vload(theta + j);
        saei_v w = saei_vdiv(saei_vsub(p, above), saei_vset(bandwidth));
        __mmask16 keep = _mm512_cmp_ps_mask(p, above, _CMP_GT_OQ)
                         | (_mm512_cmp_ps_mask(w, saei_vset(-0.5f), _CMP_GT_OQ)
                            & _mm512_cmp_ps_mask(w, saei_vset(0.5f), _CMP_LT_OQ));
        bits |= (uint64_t)keep << (j & 63);
        length = SAEI_FN(saei_append)(keep, p, lane, latent, value, length);
        lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16));
    }
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

static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v v = saei_vload(x + i);
        __mmask16 keep = _mm512_cmp_ps_mask(v, saei_vload(cut + i), _CMP_GT_OQ);
        saei_vstore(out + i, _mm512_maskz_mov_ps(keep, v));
    }
    for (; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    size_t c = 0;
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
    SAEI_FN(saei_add_columns)(n - c, count, row, value, M + c, ld, out + c);
}

#include "end.inl"
#include "end_target.inl"
#endif /* SAEI_X86 */
