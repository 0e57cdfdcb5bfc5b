#pragma once
#include "number.h"

/* ==== >>tensors: CRC-32 ======================================================================= */

/* a b modulo CRC-32's polynomial; bit 31 is x^0. */
static uint32_t saei_crc_product(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        if (a & bit) product ^= b;
        b = b & 1 ? b >> 1 ^ 0xEDB88320u : b >> 1;
    }
    return product;
}

/* x^(8 size): what size more bytes multiply a CRC by. */
static uint32_t saei_crc_shift(size_t size) {
    uint32_t power = 0x80000000u, square = 0x00800000u; /* 1, x^8 */
    for (; size; size >>= 1) {
        if (size & 1) power = saei_crc_product(power, square);
        square = saei_crc_product(square, square);
    }
    return power;
}

/* CRC-32 as in zip. word[j] carries a byte over j more; fold: what 64 bits are multiplied by to be
   carried over 64 and over 16 bytes. */
typedef struct saei_crc_table {
    uint32_t word[8][256];
    uint64_t fold[4];
    bool folds; /* the CPU has carry-less products */
} saei_crc_table;

static void saei_crc_tables(saei_crc_table *t) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
        t->word[0][i] = c;
    }
    for (int j = 1; j < 8; j++)
        for (int i = 0; i < 256; i++)
            t->word[j][i] = t->word[j - 1][i] >> 8 ^ t->word[0][t->word[j - 1][i] & 255];
    /* Bit 63 is x^0 and a product has 127 bits, not 128: x^n stands as x^(n - 32), one bit up. The
       first half of 16 bytes is carried 8 further than the second. */
    t->fold[0] = (uint64_t)saei_crc_shift(64 + 4) << 1;
    t->fold[1] = (uint64_t)saei_crc_shift(64 - 4) << 1;
    t->fold[2] = (uint64_t)saei_crc_shift(16 + 4) << 1;
    t->fold[3] = (uint64_t)saei_crc_shift(16 - 4) << 1;
#if defined(SAEI_X86)
    t->folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse2");
#else
    t->folds = false;
#endif
}

/* Eight bytes a step. crc without the inversions before and after. */
static uint32_t saei_crc_words(const saei_crc_table *t, uint32_t crc, const unsigned char *p,
                               size_t size) {
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t a = saei_le32(p) ^ crc, b = saei_le32(p + 4);
        crc = t->word[7][a & 255] ^ t->word[6][a >> 8 & 255] ^ t->word[5][a >> 16 & 255]
              ^ t->word[4][a >> 24] ^ t->word[3][b & 255] ^ t->word[2][b >> 8 & 255]
              ^ t->word[1][b >> 16 & 255] ^ t->word[0][b >> 24];
    }
    for (; size > 0; p++, size--) crc = crc >> 8 ^ t->word[0][(crc ^ *p) & 255];
    return crc;
}

#if defined(SAEI_X86)
/* Carried over to where next stands, and added to it. */
__attribute__((target("pclmul,sse2"))) static inline __m128i saei_crc_fold(__m128i x, __m128i by,
                                                                           __m128i next) {
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00),
                                       _mm_clmulepi64_si128(x, by, 0x11)), next);
}

/* Whole 64 bytes, at least one, and 16 bytes out that have the same CRC. */
__attribute__((target("pclmul,sse2")))
static void saei_crc_blocks(const saei_crc_table *t, uint32_t crc, const unsigned char *p,
                            size_t blocks, unsigned char out[16]) {
    const __m128i *at = (const __m128i *)(const void *)p;
    const __m128i by64 = _mm_loadu_si128((const __m128i *)(const void *)t->fold);
    const __m128i by16 = _mm_loadu_si128((const __m128i *)(const void *)(t->fold + 2));
    __m128i a = _mm_xor_si128(_mm_loadu_si128(at), _mm_cvtsi32_si128((int)crc));
    __m128i b = _mm_loadu_si128(at + 1), c = _mm_loadu_si128(at + 2), d = _mm_loadu_si128(at + 3);
    for (at += 4; --blocks; at += 4) {
        a = saei_crc_fold(a, by64, _mm_loadu_si128(at));
        b = saei_crc_fold(b, by64, _mm_loadu_si128(at + 1));
        c = saei_crc_fold(c, by64, _mm_loadu_si128(at + 2));
        d = saei_crc_fold(d, by64, _mm_loadu_si128(at + 3));
    }
    a = saei_crc_fold(saei_crc_fold(saei_crc_fold(a, by16, b), by16, c), by16, d);
    _mm_storeu_si128((__m128i *)(void *)out, a);
}
#endif

/* crc is that of what came before, 0 at the start. */
static uint32_t saei_crc(const saei_crc_table *t, uint32_t crc, const void *data, size_t size) {
    const unsigned char *p = (const unsigned char *)data;
    crc = ~crc;
#if defined(SAEI_X86)
    if (t->folds && size >= 64) {
        unsigned char rest[16];
        saei_crc_blocks(t, crc, p, size / 64, rest);
        crc = saei_crc_words(t, 0, rest, 16);
        p += size / 64 * 64;
        size %= 64;
    }
#endif
    return ~saei_crc_words(t, crc, p, size);
}
