/* As pieces.inl, of blocks of 4 to 6 bits. */

/* d (q - 8), two blocks at once: 16 bytes of each. */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(16 * i + 4 * c + b, SAEI_MUL(d, SAEI_NUMBER(SAEI_LESS(SAEI_Q(c, b), 8))))
#define SAEI_Q(c, b) SAEI_AND(SAEI_RIGHT(SAEI_BITS(r[c]), 8 * b), 15)
#define SAEI_SHIFT(c) r[c] = SAEI_FLOAT(SAEI_RIGHT(SAEI_BITS(r[c]), 4));
SAEI_PIECES(q4_0) {
    size_t k = 0;
    SAEI_BEGIN(64, k / 32 * 18)
        SAEI_WIDE r[SAEI_LANES], q[SAEI_LANES], d = SAEI_FN(saei_scales)(row, at);
        SAEI_FN(saei_turn_bytes)(row, at + 2, r);
        SAEI_FN(saei_turn_bytes)(row, at + 4, q);
        for (size_t i = 0; i < 4; i++) {
            if (i == 2) {
                d = SAEI_FN(saei_scales)(row, at + 18);
                r[0] = q[4], r[1] = q[5], r[2] = q[6], r[3] = q[7];
            } else if (i % 2) {
                SAEI_SHIFT(0) SAEI_SHIFT(1) SAEI_SHIFT(2) SAEI_SHIFT(3)
            }
            SAEI_FOUR(0) SAEI_FOUR(1) SAEI_FOUR(2) SAEI_FOUR(3)
        }
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS

/* Scales and minima of Q4_K and Q5_K: d and m times numbers of 6 bits in 12 bytes. */
static inline void SAEI_FN(saei_six_bits)(const unsigned char *const *row, size_t at,
                                          SAEI_WIDE scale[8], SAEI_WIDE least[8]) {
    SAEI_WIDE r[SAEI_LANES], d = SAEI_FN(saei_scales)(row, at);
    const SAEI_WIDE m = SAEI_FN(saei_scales)(row, at + 2);
    SAEI_INT a, b, c;
    SAEI_FN(saei_turn_bytes)(row, at, r);
    a = SAEI_BITS(r[1]);
    b = SAEI_BITS(r[2]);
    c = SAEI_BITS(r[3]);
    for (int g = 0; g < 4; g++) {
        const SAEI_INT low = SAEI_AND(SAEI_RIGHT_BY(c, 8 * g), 15);
        const SAEI_INT high = SAEI_AND(SAEI_RIGHT_BY(c, 8 * g + 4), 15);
        scale[g] = SAEI_MUL(d, SAEI_NUMBER(SAEI_AND(SAEI_RIGHT_BY(a, 8 * g), 63)));
        least[g] = SAEI_MUL(m, SAEI_NUMBER(SAEI_AND(SAEI_RIGHT_BY(b, 8 * g), 63)));
        scale[4 + g] = SAEI_MUL(
            d, SAEI_NUMBER(SAEI_OR(low, SAEI_AND(SAEI_RIGHT_BY(a, 8 * g + 2), 48))));
        least[4 + g] = SAEI_MUL(
            m, SAEI_NUMBER(SAEI_OR(high, SAEI_AND(SAEI_RIGHT_BY(b, 8 * g + 2), 48))));
    }
}

/* scale q - least, 32 of a group at a time */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(32 * g + 4 * c + b,                                                                   \
             SAEI_SUB(SAEI_MUL(scale[g], SAEI_NUMBER(SAEI_Q(c, b))), least[g]))
SAEI_PIECES(q4_k) {
    size_t k = 0;
    SAEI_BEGIN(256, k / 256 * 144)
        SAEI_WIDE r[SAEI_LANES], scale[8], least[8];
        SAEI_FN(saei_six_bits)(row, at, scale, least);
        for (size_t pair = 0; pair < 8; pair += 2) {
            SAEI_FN(saei_turn_bytes)(row, at + 16 + 16 * pair, r);
            for (size_t g = pair; g < pair + 2; g++) {
                SAEI_EIGHT(SAEI_FOUR)
                SAEI_EIGHT(SAEI_SHIFT)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_Q

/* the lowest bits of byte b of v, times 16 */
#define SAEI_TOP_0(v, mask) SAEI_AND(SAEI_LEFT(v, 4), mask)
#define SAEI_TOP_1(v, mask) SAEI_AND(SAEI_RIGHT(v, 4), mask)
#define SAEI_TOP_2(v, mask) SAEI_AND(SAEI_RIGHT(v, 12), mask)
#define SAEI_TOP_3(v, mask) SAEI_AND(SAEI_RIGHT(v, 20), mask)
#define SAEI_Q(c, b)                                                                               \
    SAEI_OR(SAEI_AND(SAEI_RIGHT(SAEI_BITS(r[c]), 8 * b), 15), SAEI_TOP_##b(SAEI_BITS(t[c]), 16))
#define SAEI_NEXT(c) t[c] = SAEI_FLOAT(SAEI_RIGHT(SAEI_BITS(t[c]), 1));
SAEI_PIECES(q5_k) {
    size_t k = 0;
    SAEI_BEGIN(256, k / 256 * 176)
        SAEI_WIDE r[SAEI_LANES], t[SAEI_LANES], scale[8], least[8];
        SAEI_FN(saei_six_bits)(row, at, scale, least);
        SAEI_FN(saei_turn_bytes)(row, at + 16, t);
        for (size_t pair = 0; pair < 8; pair += 2) {
            SAEI_FN(saei_turn_bytes)(row, at + 48 + 16 * pair, r);
            for (size_t g = pair; g < pair + 2; g++) {
                SAEI_EIGHT(SAEI_FOUR)
                SAEI_EIGHT(SAEI_SHIFT)
                SAEI_EIGHT(SAEI_NEXT)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_Q
#undef SAEI_NEXT
#undef SAEI_NUMBERS

/* scale (q - 32): r are the low and high halves of 64 bytes, which take turns; t the top bits */
#define SAEI_NUMBERS(c, b)                                                                         \
    SAEI_USE(32 * g + 4 * c + b,                                                                   \
             SAEI_MUL(scale[2 * g + c / 4], SAEI_NUMBER(SAEI_LESS(SAEI_Q(c, b), 32))))
#define SAEI_Q(c, b)                                                                               \
    SAEI_OR(SAEI_AND(SAEI_RIGHT(SAEI_BITS(low[c]), 8 * b), 15), SAEI_TOP_##b(SAEI_BITS(t[c]), 48))
#define SAEI_NEXT(c) t[c] = SAEI_FLOAT(SAEI_RIGHT(SAEI_BITS(t[c]), 2));
#define SAEI_HIGH(c) low[c] = SAEI_FLOAT(SAEI_RIGHT(SAEI_BITS(low[c]), 4));
#define SAEI_SCALE(c, b)                                                                           \
    scale[4 * c + b] = SAEI_MUL(d, SAEI_NUMBER(SAEI_BYTE_##b(SAEI_BITS(t[4 + c]))));
#define SAEI_SCALES(c) SAEI_SCALE(c, 0) SAEI_SCALE(c, 1) SAEI_SCALE(c, 2) SAEI_SCALE(c, 3)
SAEI_PIECES(q6_k) {
    size_t k = 0;
    SAEI_BEGIN(256, k / 256 * 210)
        SAEI_WIDE r[2][SAEI_LANES], t[SAEI_LANES], scale[16];
        const SAEI_WIDE d = SAEI_FN(saei_scales)(row, at + 208);
        SAEI_FN(saei_turn_bytes)(row, at + 176, t);
        SAEI_SCALES(0) SAEI_SCALES(1) SAEI_SCALES(2) SAEI_SCALES(3)
        for (size_t half = 0; half < 8; half += 4) {
            SAEI_FN(saei_turn_bytes)(row, at + 16 * half, r[0]);
            SAEI_FN(saei_turn_bytes)(row, at + 16 * half + 32, r[1]);
            SAEI_FN(saei_turn_bytes)(row, at + 128 + 8 * half, t);
            for (size_t g = half; g < half + 4; g++) {
                SAEI_WIDE *low = r[g % 2];
                SAEI_EIGHT(SAEI_FOUR)
                SAEI_EIGHT(SAEI_HIGH)
                SAEI_EIGHT(SAEI_NEXT)
            }
        }
    SAEI_END
    return k;
}
#undef SAEI_NUMBERS
#undef SAEI_Q
#undef SAEI_NEXT
#undef SAEI_HIGH
#undef SAEI_SCALE
#undef SAEI_SCALES
#undef SAEI_SHIFT
#undef SAEI_TOP_0
#undef SAEI_TOP_1
#undef SAEI_TOP_2
#undef SAEI_TOP_3
