/* Kernels of every instruction set, over its lanes. */
/* The kernel add_rows, 64 columns at a time. */
static void SAEI_FN(saei_add_columns)(size_t n, size_t count, const uint32_t *row,
                                      const float *value, const float *M, size_t ld, float *out) {
    size_t c = 0;
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

static double SAEI_FN(saei_dot)(size_t n, const float *a, const float *b) {
    saei_v s = saei_vset(0);
    for (size_t i = 0; i < n; i += 16) s = saei_vfma(saei_vload(a + i), saei_vload(b + i), s);
    return saei_vsum(s);
}

static void SAEI_FN(saei_axpy)(size_t n, float a, const float *x, const float *y, float *out) {
    saei_v va = saei_vset(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        saei_vstore(out + i, saei_vfma(va, saei_vload(x + i), saei_vload(y + i)));
    for (; i < n; i++) out[i] = fmaf(a, x[i], y[i]);
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

static void SAEI_FN(saei_tile_row)(const float *x, const float *panel, size_t dim, bool add,
                                   float *out) {
    saei_v a = add ? saei_vload(out) : saei_vset(0), b = add ? saei_vload(out + 16) : saei_vset(0);
    saei_v c = add ? saei_vload(out + 32) : saei_vset(0);
    for (size_t k = 0; k < dim; k++, panel += SAEI_PANEL) {
        saei_v t = saei_vset(x[k]);
        a = saei_vfma(t, saei_vload(panel), a);
        b = saei_vfma(t, saei_vload(panel + 16), b);
        c = saei_vfma(t, saei_vload(panel + 32), c);
    }
    saei_vstore(out, a);
    saei_vstore(out + 16, b);
    saei_vstore(out + 32, c);
}

static void SAEI_FN(saei_widen)(sae_dtype dtype, const unsigned char *from, size_t n, float *out) {
    size_t i = 0;
    if (dtype == SAE_F16)
        for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vhalf(from + 2 * i));
    else if (dtype == SAE_BF16)
        for (; i + 16 <= n; i += 16) saei_vstore(out + i, saei_vbf16(from + 2 * i));
    if (i < n)
        saei_dtype_row_to_f32(dtype, from + saei_dtype_bytes(dtype, i), 0, n - i, out + i);
}

/* The kernel widen_panel, row by row. */
static void SAEI_FN(saei_widen_rows)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                     size_t count, size_t dim, ptrdiff_t ahead, float *out) {
    const size_t piece = saei_max(32, sae_dtype_block(dtype));
    float lane[256];
    for (size_t j = 0; j < count; j++, from += step)
        for (size_t k = 0; k < dim; k += piece) {
            const unsigned char *at = from + saei_dtype_bytes(dtype, k);
            const size_t n = saei_min(piece, dim - k);
            SAEI_PREFETCH(at + ahead);
            SAEI_FN(saei_widen)(dtype, at, n, lane);
            for (size_t c = 0; c < n; c++) out[(k + c) * SAEI_PANEL + j] = lane[c];
        }
}

/* The kernel stream, row by row. */
static void SAEI_FN(saei_stream_rows)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                      size_t count, size_t dim, ptrdiff_t ahead, const float *x,
                                      bool add, float *out) {
    float lane[32];
    for (size_t j = 0; j < count; j++, from += step) {
        float s = add ? out[j] : 0;
        for (size_t k = 0; k < dim; k += 32) {
            const unsigned char *at = from + saei_dtype_bytes(dtype, k);
            const size_t n = saei_min(32, dim - k);
            SAEI_PREFETCH(at + ahead);
            SAEI_FN(saei_widen)(dtype, at, n, lane);
            for (size_t c = 0; c < n; c++) s = fmaf(x[k + c], lane[c], s);
        }
        out[j] = s;
    }
}
