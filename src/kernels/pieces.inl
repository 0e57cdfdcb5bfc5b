/* What the kernels widen_panel and stream are made of: a vector of rows at a time, transposed in
   registers by words. A word is two weights of BF16, four of Q8_0, eight of Q4_K; halves are
   widened first. */

/* A function of a type: as many whole pieces of the rows as dim has, k weights, go into a panel, or
   (product) their products into out[0..48). Groups of rows take turns at each k, so that their
   chains of FMAs go on side by side. */
#define SAEI_PIECES(type)                                                                          \
    __attribute__((always_inline)) static inline size_t SAEI_FN(saei_pieces_##type)(               \
        bool product, const unsigned char *const *rows, size_t count, size_t dim,                  \
        ptrdiff_t ahead, const float *x, float *out)
#define SAEI_BEGIN(piece, bytes)                                                                   \
    for (; k + piece <= dim; k += piece)                                                           \
        for (size_t j = 0; j < count; j += SAEI_LANES) {                                           \
            const unsigned char *const *row = rows + j;                                            \
            const size_t at = bytes;                                                               \
            SAEI_WIDE s = product ? SAEI_LOAD(out + j) : SAEI_SET(0);                              \
            SAEI_ALL(SAEI_FETCH)
#define SAEI_FETCH(i) _mm_prefetch((const char *)row[i] + at + ahead, _MM_HINT_T1);
#define SAEI_USE(c, weights)                                                                       \
    if (product) s = SAEI_FMA(SAEI_SET(x[k + (c)]), weights, s);                                   \
    else SAEI_STORE(out + (k + (c)) * SAEI_PANEL + j, weights);
#define SAEI_END                                                                                   \
            if (product) SAEI_STORE(out + j, s);                                                   \
        }

#define SAEI_WORDS(i) r[i] = SAEI_FN(saei_words)(row[i] + at);
#define SAEI_ONE(c) SAEI_USE(c, r[c])
SAEI_PIECES(f32) {
    size_t k = 0;
    SAEI_BEGIN(SAEI_LANES, 4 * k)
        SAEI_WIDE r[SAEI_LANES];
        SAEI_ALL(SAEI_WORDS)
        SAEI_FN(saei_turn)(r);
        SAEI_ALL(SAEI_ONE)
    SAEI_END
    return k;
}

#define SAEI_PAIR(c)                                                                               \
    SAEI_USE(2 * c, SAEI_FLOAT(SAEI_LEFT(SAEI_BITS(r[c]), 16)))                                    \
    SAEI_USE(2 * c + 1, SAEI_FLOAT(SAEI_AND(SAEI_BITS(r[c]), 0xFFFF0000u)))
SAEI_PIECES(bf16) {
    size_t k = 0;
    SAEI_BEGIN(2 * SAEI_LANES, 2 * k)
        SAEI_WIDE r[SAEI_LANES];
        SAEI_ALL(SAEI_WORDS)
        SAEI_FN(saei_turn)(r);
        SAEI_ALL(SAEI_PAIR)
    SAEI_END
    return k;
}
#undef SAEI_PAIR

/* Both halves of a cache line while it is there. */
#define SAEI_READ(i)                                                                               \
    r[i] = SAEI_HALVES(row[i] + at);                                                               \
    q[i] = SAEI_HALVES(row[i] + at + 2 * SAEI_LANES);
#define SAEI_OTHER(c) SAEI_USE(SAEI_LANES + c, q[c])
SAEI_PIECES(f16) {
    size_t k = 0;
    SAEI_BEGIN(2 * SAEI_LANES, 2 * k)
        SAEI_WIDE r[SAEI_LANES], q[SAEI_LANES];
        SAEI_ALL(SAEI_READ)
        SAEI_FN(saei_turn)(r);
        SAEI_ALL(SAEI_ONE)
        SAEI_FN(saei_turn)(q);
        SAEI_ALL(SAEI_OTHER)
    SAEI_END
    return k;
}
#undef SAEI_READ
#undef SAEI_OTHER
#undef SAEI_WORDS
#undef SAEI_ONE

/* ---- blocks: what their bytes are, tensor/blocks.h says ---- */

/* The float16 numbers `bytes` behind the begin of the rows' blocks. */
__attribute__((always_inline)) static inline SAEI_WIDE SAEI_FN(saei_scales)(
    const unsigned char *const *row, size_t at) {
    unsigned char half[2 * SAEI_LANES];
#define SAEI_READ(i) memcpy(half + 2 * i, row[i] + at, 2);
    SAEI_ALL(SAEI_READ)
#undef SAEI_READ
    return SAEI_HALVES(half);
}

/* Byte b of words, signed. */
#define SAEI_BYTE_0(v) SAEI_SIGNED_RIGHT(SAEI_LEFT(v, 24), 24)
#define SAEI_BYTE_1(v) SAEI_SIGNED_RIGHT(SAEI_LEFT(v, 16), 24)
#define SAEI_BYTE_2(v) SAEI_SIGNED_RIGHT(SAEI_LEFT(v, 8), 24)
#define SAEI_BYTE_3(v) SAEI_SIGNED_RIGHT(v, 24)

/* What SAEI_NUMBERS does with each byte of words c. */
#define SAEI_FOUR(c) SAEI_NUMBERS(c, 0) SAEI_NUMBERS(c, 1) SAEI_NUMBERS(c, 2) SAEI_NUMBERS(c, 3)

/* d q */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(4 * c + b, SAEI_MUL(d, SAEI_NUMBER(SAEI_BYTE_##b(SAEI_BITS(r[c])))))
SAEI_PIECES(q8_0) {
    size_t k = 0;
    SAEI_BEGIN(32, k / 32 * 34)
        SAEI_WIDE r[8], d = SAEI_FN(saei_scales)(row, at);
        SAEI_FN(saei_turn_bytes)(row, at + 2, r);
        SAEI_EIGHT(SAEI_FOUR)
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS
