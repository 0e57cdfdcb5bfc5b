/* The kernels widen_panel and stream: a vector of rows at a time, transposed in registers by words. A
   word of BF16 is two weights of a row, one of Q8_0 four; halves are widened first. */
__attribute__((always_inline)) static inline void SAEI_FN(saei_pieces)(
    bool product, sae_dtype dtype, const unsigned char *from, ptrdiff_t step, size_t count,
    size_t dim, ptrdiff_t ahead, const float *x, float *out) {
    const unsigned char *rows[SAEI_PANEL];
    size_t k = 0;
    for (size_t j = 0; j < SAEI_PANEL; j++)
        rows[j] = from + (ptrdiff_t)saei_min(j, count - 1) * step;
/* Groups of rows in turn at each k: their chains of FMAs go on side by side. */
#define SAEI_BEGIN(piece, bytes)                                                                   \
    for (; k + piece <= dim; k += piece)                                                           \
        for (size_t j = 0; j < count; j += SAEI_LANES) {                                           \
            const unsigned char *const *row = rows + j;                                            \
            const size_t at = bytes;                                                               \
            float *to = out + k * SAEI_PANEL + j;                                                  \
            SAEI_WIDE r[SAEI_LANES], s = product ? SAEI_LOAD(out + j) : SAEI_SET(0);
#define SAEI_END                                                                                   \
            if (product) SAEI_STORE(out + j, s);                                                   \
        }
#define SAEI_USE(c, weights)                                                                       \
    if (product) s = SAEI_FMA(SAEI_SET(x[k + (c)]), weights, s);                                   \
    else SAEI_STORE(to + (c) * SAEI_PANEL, weights);
#define SAEI_FETCH(i) _mm_prefetch((const char *)row[i] + at + ahead, _MM_HINT_T1);
#define SAEI_WORDS(i) r[i] = SAEI_FN(saei_words)(row[i] + at);
#define SAEI_ONE(c) SAEI_USE(c, r[c])
#define SAEI_PAIR(c) SAEI_USE(2 * c, SAEI_FN(saei_low)(r[c])) SAEI_USE(2 * c + 1, SAEI_FN(saei_high)(r[c]))
    if (dtype == SAE_F32) {
        SAEI_BEGIN(SAEI_LANES, 4 * k)
            SAEI_ALL(SAEI_FETCH)
            SAEI_ALL(SAEI_WORDS)
            SAEI_FN(saei_turn)(r);
            SAEI_ALL(SAEI_ONE)
        SAEI_END
    } else if (dtype == SAE_BF16) {
        SAEI_BEGIN(2 * SAEI_LANES, 2 * k)
            SAEI_ALL(SAEI_FETCH)
            SAEI_ALL(SAEI_WORDS)
            SAEI_FN(saei_turn)(r);
            SAEI_ALL(SAEI_PAIR)
        SAEI_END
    } else if (dtype == SAE_F16) {
/* both halves of a cache line while it is there */
#define SAEI_READ(i)                                                                               \
    r[i] = SAEI_HALF(row[i] + at);                                                                 \
    q[i] = SAEI_HALF(row[i] + at + 2 * SAEI_LANES);
#define SAEI_OTHER(c) SAEI_USE(SAEI_LANES + c, q[c])
        SAEI_BEGIN(2 * SAEI_LANES, 2 * k)
            SAEI_WIDE q[SAEI_LANES];
            SAEI_ALL(SAEI_FETCH)
            SAEI_ALL(SAEI_READ)
            SAEI_FN(saei_turn)(r);
            SAEI_ALL(SAEI_ONE)
            SAEI_FN(saei_turn)(q);
            SAEI_ALL(SAEI_OTHER)
        SAEI_END
    } else if (dtype == SAE_Q8_0) {
#define SAEI_SCALE(i) memcpy(scale + 2 * i, row[i] + at, 2);
#define SAEI_FOUR(c) SAEI_BYTE(c, 0) SAEI_BYTE(c, 1) SAEI_BYTE(c, 2) SAEI_BYTE(c, 3)
#define SAEI_BYTE(c, b) SAEI_USE(4 * c + b, SAEI_MUL(d, SAEI_FN(saei_byte)(r[c], b)))
        SAEI_BEGIN(32, k / 32 * 34)
            unsigned char scale[2 * SAEI_LANES];
            SAEI_WIDE d;
            SAEI_ALL(SAEI_FETCH)
            SAEI_ALL(SAEI_SCALE)
            d = SAEI_HALF(scale);
            SAEI_FN(saei_turn_blocks)(row, at, r);
            SAEI_EIGHT(SAEI_FOUR)
        SAEI_END
    }
    if (k == dim) return;
    from += saei_dtype_bytes(dtype, k);
    if (product)
        SAEI_FN(saei_stream_rows)(dtype, from, step, count, dim - k, 0, x + k, true, out);
    else SAEI_FN(saei_widen_rows)(dtype, from, step, count, dim - k, 0, out + k * SAEI_PANEL);
#undef SAEI_BEGIN
#undef SAEI_END
#undef SAEI_USE
#undef SAEI_FETCH
#undef SAEI_WORDS
#undef SAEI_ONE
#undef SAEI_PAIR
#undef SAEI_READ
#undef SAEI_OTHER
#undef SAEI_SCALE
#undef SAEI_FOUR
#undef SAEI_BYTE
}

static void SAEI_FN(saei_widen_panel)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                      size_t count, size_t dim, ptrdiff_t ahead, float *out) {
    SAEI_FN(saei_pieces)(false, dtype, from, step, count, dim, ahead, NULL, out);
}

static void SAEI_FN(saei_stream)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                 size_t count, size_t dim, ptrdiff_t ahead, const float *x,
                                 bool add, float *out) {
    if (!add) memset(out, 0, SAEI_PANEL * sizeof *out);
    SAEI_FN(saei_pieces)(true, dtype, from, step, count, dim, ahead, x, out);
}
#undef SAEI_WIDE
#undef SAEI_LANES
#undef SAEI_ALL
#undef SAEI_HALF
#undef SAEI_LOAD
#undef SAEI_STORE
#undef SAEI_SET
#undef SAEI_MUL
#undef SAEI_FMA
