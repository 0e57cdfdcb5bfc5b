/* 4 rows x 24 latents at a time, the accumulators in registers: 12 of 8 lanes and 3 of the panel,
   or 24 of 4 lanes and 6. Predicted for AVX2: 12 FMAs for 7 loads, the FMA peak; see
   bench/RESULTS.md. */
#define SAEI_LANES (sizeof(SAEI_WIDE) / sizeof(float))
static void SAEI_FN(saei_tile)(const float *const x[SAEI_TILE_ROWS], size_t rows,
                               const float *panel, size_t dim, bool add, float *out, size_t ld) {
#define SAEI_BEGIN(i, c)                                                                           \
    SAEI_WIDE s##i##c = add && r + i < rows ? SAEI_LOAD(o + i * ld + c * SAEI_LANES) : SAEI_SET(0);
#define SAEI_PART(i, c) SAEI_WIDE p##c = SAEI_LOAD(p + c * SAEI_LANES);
#define SAEI_STEP(i, c) s##i##c = SAEI_FMA(t, p##c, s##i##c);
#define SAEI_END(i, c)                                                                             \
    if (r + i < rows) SAEI_STORE(o + i * ld + c * SAEI_LANES, s##i##c);
#define SAEI_ROW(i)                                                                                \
    {                                                                                              \
        SAEI_WIDE t = SAEI_SET(x##i[k]);                                                           \
        SAEI_COLUMNS(SAEI_STEP, i)                                                                 \
    }
#define SAEI_ROWS(X) SAEI_COLUMNS(X, 0) SAEI_COLUMNS(X, 1) SAEI_COLUMNS(X, 2) SAEI_COLUMNS(X, 3)
    for (size_t k0 = 0; k0 < dim; k0 += 128, panel += 128 * SAEI_PANEL, add = true)
        for (size_t g = 0; g < 4; g++) { /* a block of the panel stays in the L1 for both rows */
            size_t c = g / 2 * 24, r = g % 2 * 4, end = dim - k0 < 128 ? dim - k0 : 128;
            const float *x0 = x[r] + k0, *x1 = x[r + 1] + k0, *x2 = x[r + 2] + k0;
            const float *x3 = x[r + 3] + k0, *p = panel + c;
            float *o = out + r * ld + c;
            if (r >= rows) continue;
            SAEI_ROWS(SAEI_BEGIN)
            for (size_t k = 0; k < end; k++, p += SAEI_PANEL) {
                SAEI_COLUMNS(SAEI_PART, 0)
                SAEI_ROW(0) SAEI_ROW(1) SAEI_ROW(2) SAEI_ROW(3)
            }
            SAEI_ROWS(SAEI_END)
        }
#undef SAEI_BEGIN
#undef SAEI_PART
#undef SAEI_STEP
#undef SAEI_END
#undef SAEI_ROW
#undef SAEI_ROWS
}
#undef SAEI_LANES
#undef SAEI_COLUMNS
#undef SAEI_WIDE
#undef SAEI_LOAD
#undef SAEI_STORE
#undef SAEI_SET
#undef SAEI_FMA
