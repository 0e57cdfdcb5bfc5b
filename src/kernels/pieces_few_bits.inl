/* As pieces.inl, of blocks of 4 to 6 bits. Words c are counted by a loop: without it there would be
   eight times the code, 5 to 10 % faster. */

/* The lowest 4 bits of byte b of words c; and bits moved down. */
#define SAEI_Q(b) SAEI_AND(SAEI_RIGHT(SAEI_BITS(r[c]), 8 * b), 15)
#define SAEI_SHIFT(v, n) v = SAEI_FLOAT(SAEI_RIGHT(SAEI_BITS(v), n));

/* d (q - 8): 16 bytes of each of two blocks */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(16 * g + 4 * c + b, SAEI_MUL(d, SAEI_NUMBER(SAEI_LESS(SAEI_Q(b), 8))))
SAEI_PIECES(q4_0) {
    size_t k = 0;
    SAEI_BEGIN(64, k / 32 * 18)
        SAEI_WIDE r[8], q[8], d = SAEI_FN(saei_scales)(row, at);
        SAEI_FN(saei_turn_bytes)(row, at + 2, r);
        SAEI_FN(saei_turn_bytes)(row, at + 4, q);
        for (size_t g = 0; g < 4; g++) {
            if (g == 2) {
                d = SAEI_FN(saei_scales)(row, at + 18);
                for (size_t c = 0; c < 4; c++) r[c] = q[4 + c];
            }
            for (size_t c = 0; c < 4; c++) {
                SAEI_FOUR(c)
                SAEI_SHIFT(r[c], 4)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS

/* Scales and minima of Q4_K and Q5_K: d and m times numbers of 6 bits in 12 bytes. */
static inline void SAEI_FN(saei_six_bits)(const unsigned char *const *row, size_t at,
                                          SAEI_WIDE scale[8], SAEI_WIDE least[8]) {
    SAEI_WIDE r[8], d = SAEI_FN(saei_scales)(row, at);
    const SAEI_WIDE m = SAEI_FN(saei_scales)(row, at + 2);
    SAEI_INT s, l, top;
    SAEI_FN(saei_turn_bytes)(row, at, r);
    s = SAEI_BITS(r[1]);
    l = SAEI_BITS(r[2]);
    top = SAEI_BITS(r[3]);
    for (int g = 0; g < 4; g++) {
        const SAEI_INT low = SAEI_AND(SAEI_RIGHT_BY(top, 8 * g), 15);
        const SAEI_INT high = SAEI_AND(SAEI_RIGHT_BY(top, 8 * g + 4), 15);
        scale[g] = SAEI_MUL(d, SAEI_NUMBER(SAEI_AND(SAEI_RIGHT_BY(s, 8 * g), 63)));
        least[g] = SAEI_MUL(m, SAEI_NUMBER(SAEI_AND(SAEI_RIGHT_BY(l, 8 * g), 63)));
        scale[4 + g] = SAEI_MUL(
            d, SAEI_NUMBER(SAEI_OR(low, SAEI_AND(SAEI_RIGHT_BY(s, 8 * g + 2), 48))));
        least[4 + g] = SAEI_MUL(
            m, SAEI_NUMBER(SAEI_OR(high, SAEI_AND(SAEI_RIGHT_BY(l, 8 * g + 2), 48))));
    }
}

/* scale q - least, group g of 32: two share 32 bytes */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(32 * g + 4 * c + b,                                                                   \
             SAEI_SUB(SAEI_MUL(scale[g], SAEI_NUMBER(SAEI_Q(b))), least[g]))
SAEI_PIECES(q4_k) {
    size_t k = 0;
    SAEI_BEGIN(256, k / 256 * 144)
        SAEI_WIDE r[8], scale[8], least[8];
        SAEI_FN(saei_six_bits)(row, at, scale, least);
        for (size_t g = 0; g < 8; g++) {
            if (g % 2 == 0) SAEI_FN(saei_turn_bytes)(row, at + 16 + 16 * g, r);
            for (size_t c = 0; c < 8; c++) {
                SAEI_FOUR(c)
                SAEI_SHIFT(r[c], 4)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS

/* The same with a fifth bit; SAEI_TOP: the lowest bits of byte b of t times 16. */
#define SAEI_TOP_0(mask) SAEI_AND(SAEI_LEFT(SAEI_BITS(t[c]), 4), mask)
#define SAEI_TOP_1(mask) SAEI_AND(SAEI_RIGHT(SAEI_BITS(t[c]), 4), mask)
#define SAEI_TOP_2(mask) SAEI_AND(SAEI_RIGHT(SAEI_BITS(t[c]), 12), mask)
#define SAEI_TOP_3(mask) SAEI_AND(SAEI_RIGHT(SAEI_BITS(t[c]), 20), mask)
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(32 * g + 4 * c + b,                                                                   \
             SAEI_SUB(SAEI_MUL(scale[g], SAEI_NUMBER(SAEI_OR(SAEI_Q(b), SAEI_TOP_##b(16)))),       \
                      least[g]))
SAEI_PIECES(q5_k) {
    size_t k = 0;
    SAEI_BEGIN(256, k / 256 * 176)
        SAEI_WIDE r[8], t[8], scale[8], least[8];
        SAEI_FN(saei_six_bits)(row, at, scale, least);
        SAEI_FN(saei_turn_bytes)(row, at + 16, t);
        for (size_t g = 0; g < 8; g++) {
            if (g % 2 == 0) SAEI_FN(saei_turn_bytes)(row, at + 48 + 16 * g, r);
            for (size_t c = 0; c < 8; c++) {
                SAEI_FOUR(c)
                SAEI_SHIFT(r[c], 4)
                SAEI_SHIFT(t[c], 1)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS

/* scale (q - 32): of 128, groups 0 and 2 have their low bits in 32 bytes, 1 and 3 in the next 32 */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(32 * g + 4 * c + b,                                                                   \
             SAEI_MUL(scale[2 * g + c / 4],                                                        \
                      SAEI_NUMBER(SAEI_LESS(SAEI_OR(SAEI_Q(b), SAEI_TOP_##b(48)), 32))))
#define SAEI_SCALE(b)                                                                              \
    scale[4 * c + b] = SAEI_MUL(d, SAEI_NUMBER(SAEI_BYTE_##b(SAEI_BITS(t[4 + c]))));
SAEI_PIECES(q6_k) {
    size_t k = 0;
    SAEI_BEGIN(256, k / 256 * 210)
        SAEI_WIDE low[2][8], t[8], scale[16];
        const SAEI_WIDE d = SAEI_FN(saei_scales)(row, at + 208);
        SAEI_FN(saei_turn_bytes)(row, at + 176, t);
        for (size_t c = 0; c < 4; c++) {
            SAEI_SCALE(0) SAEI_SCALE(1) SAEI_SCALE(2) SAEI_SCALE(3)
        }
        for (size_t g = 0; g < 8; g++) {
            SAEI_WIDE *r = low[g % 2];
            if (g % 4 == 0) SAEI_FN(saei_turn_bytes)(row, at + 128 + 8 * g, t);
            if (g % 4 < 2) SAEI_FN(saei_turn_bytes)(row, at + 64 * (g / 4) + 32 * (g % 2), r);
            for (size_t c = 0; c < 8; c++) {
                SAEI_FOUR(c)
                SAEI_SHIFT(r[c], 4)
                SAEI_SHIFT(t[c], 2)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS
#undef SAEI_SCALE
#undef SAEI_TOP_0
#undef SAEI_TOP_1
#undef SAEI_TOP_2
#undef SAEI_TOP_3
#undef SAEI_Q
#undef SAEI_SHIFT
