static bool SAEI_FN(saei_copy_transposed)(const void *const row[16], size_t n, float *to,
                                          size_t ld) {
    float bad = 0;
    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; i < 16; i++) {
            memcpy(to + c * ld + i, (const float *)row[i] + c, sizeof *to);
            bad += to[c * ld + i] * 0;
        }
    return bad == 0;
}

static void SAEI_FN(saei_widen_panel)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                      size_t count, size_t dim, ptrdiff_t ahead, float *out) {
    SAEI_FN(saei_widen_rows)(dtype, from, step, count, dim, ahead, out);
}

static void SAEI_FN(saei_stream)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                 size_t count, size_t dim, ptrdiff_t ahead, const float *x,
                                 bool add, float *out) {
    SAEI_FN(saei_stream_rows)(dtype, from, step, count, dim, ahead, x, add, out);
}
