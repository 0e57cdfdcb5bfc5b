/* Kernels of the sets that have no version of their own: all but AVX-512. */
static void SAEI_FN(saei_pack)(const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,
                               uint32_t *out) {
    for (size_t k = 0; k < dim; k++, out += SAEI_PANEL)
        for (size_t j = 0; j < SAEI_PANEL; j++) out[j] = j < count ? row[j][k] : 0;
}

static void SAEI_FN(saei_products)(size_t n, const float *x, size_t count, const uint32_t *row,
                                   const float *M, size_t ld, bool add, float *out) {
    /* eight chains by name: in an array they lie in memory at -O2, four times slower */
#define SAEI_ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_BEGIN(i)                                                                              \
    const float *m##i = M + row[j + i < count ? j + i : count - 1] * ld;                           \
    float s##i = add && j + i < count ? out[j + i] : 0;
#define SAEI_ADD(i) s##i = fmaf(x[k], m##i[k], s##i);
#define SAEI_END(i)                                                                                \
    if (j + i < count) out[j + i] = s##i;
    for (size_t j = 0; j < count; j += 8) {
        SAEI_ALL(SAEI_BEGIN)
        for (size_t k = 0; k < n; k++) {
            SAEI_ALL(SAEI_ADD)
        }
        SAEI_ALL(SAEI_END)
    }
#undef SAEI_ALL
#undef SAEI_BEGIN
#undef SAEI_ADD
#undef SAEI_END
}

static size_t SAEI_FN(saei_count_from)(const float *value, size_t n, float cut) {
    size_t count = 0;
    for (size_t j = 0; j < n; j++) count += value[j] >= cut;
    return count;
}

static size_t SAEI_FN(saei_keep_from)(uint32_t *latent, float *value, size_t n, float cut) {
    size_t kept = 0;
    for (size_t j = 0; j < n; j++)
        if (value[j] >= cut) {
            latent[kept] = latent[j];
            value[kept++] = value[j];
        }
    return kept;
}

static size_t SAEI_FN(saei_keep_above)(const float *u, const float *bias, bool raw, size_t count,
                                       float cut, uint32_t base, uint32_t *latent, float *value,
                                       size_t length, size_t stride, uint64_t *kept) {
    uint64_t bits = 0;
    for (size_t j = 0; j < count; j++) {
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
    for (size_t j = 0; j < count; j++) {
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

static void SAEI_FN(saei_add_rows)(size_t n, size_t count, const uint32_t *row, const float *value,
                                   const float *M, size_t ld, float *out) {
    SAEI_FN(saei_add_columns)(n, count, row, value, M, ld, out);
}

static void SAEI_FN(saei_over)(size_t n, const float *x, const float *cut, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > cut[i] ? x[i] : 0;
}
