#pragma once
#include "number.h"

/* ==== >>tensors: blocks of few bits =========================================================== */
/* GGUF's element types. A function makes one block float32; each product, sum and difference that
   is written is rounded, in this order. Scales d, m are float16; q are whole numbers. Bytes are
   copied first: out cannot be them then, as far as a compiler knows, and it makes vector code. */

static float saei_half_at(const unsigned char *p) {
    return saei_half_value((uint16_t)saei_le16(p));
}

/* d | 16 bytes: element i in the low half of byte i, element 16 + i in the high one. d (q - 8). */
static void saei_block_q4_0(const unsigned char *b, float *out) {
    const float d = saei_half_at(b);
    unsigned char q[16];
    memcpy(q, b + 2, sizeof q);
    for (int i = 0; i < 16; i++) out[i] = d * (float)((q[i] & 15) - 8);
    for (int i = 0; i < 16; i++) out[16 + i] = d * (float)((q[i] >> 4) - 8);
}

/* d | m | 16 bytes as above. d q + m. */
static void saei_block_q4_1(const unsigned char *b, float *out) {
    const float d = saei_half_at(b), m = saei_half_at(b + 2);
    unsigned char q[16];
    memcpy(q, b + 4, sizeof q);
    for (int i = 0; i < 16; i++) out[i] = d * (float)(q[i] & 15) + m;
    for (int i = 0; i < 16; i++) out[16 + i] = d * (float)(q[i] >> 4) + m;
}

/* The 32 numbers of 5 bits: bit i of high is the fifth of element i. */
static void saei_block_fives(uint32_t high, const unsigned char *low, int q[32]) {
    for (int i = 0; i < 16; i++) {
        q[i] = (low[i] & 15) | (int)(high >> i & 1u) << 4;
        q[16 + i] = (low[i] >> 4) | (int)(high >> (16 + i) & 1u) << 4;
    }
}

/* d | u32 of fifth bits | 16 bytes. d (q - 16). */
static void saei_block_q5_0(const unsigned char *b, float *out) {
    const float d = saei_half_at(b);
    int q[32];
    saei_block_fives(saei_le32(b + 2), b + 6, q);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(q[i] - 16);
}

/* d | m | u32 of fifth bits | 16 bytes. d q + m. */
static void saei_block_q5_1(const unsigned char *b, float *out) {
    const float d = saei_half_at(b), m = saei_half_at(b + 2);
    int q[32];
    saei_block_fives(saei_le32(b + 4), b + 8, q);
    for (int i = 0; i < 32; i++) out[i] = d * (float)q[i] + m;
}

/* d | 32 signed bytes. d q. */
static void saei_block_q8_0(const unsigned char *b, float *out) {
    const float d = saei_half_at(b);
    signed char q[32];
    memcpy(q, b + 2, sizeof q);
    for (int i = 0; i < 32; i++) out[i] = d * (float)q[i];
}

/* ---- of 256 elements: 16 groups of 16, or 8 of 32; halves of 128 ---- */

/* 16 bytes, scale low, minimum high | 64 bytes: 2 bits at 2 s of byte l of half h are element
   128 h + 32 s + l | d | m. (d scale) q - (m minimum). */
static void saei_block_q2_k(const unsigned char *b, float *out) {
    const float d = saei_half_at(b + 80), m = saei_half_at(b + 82);
    unsigned char q[16];
    for (int g = 0; g < 16; g++) {
        const float scale = d * (float)(b[g] & 15), least = m * (float)(b[g] >> 4);
        const int shift = g % 8 / 2 * 2;
        memcpy(q, b + 16 + g / 8 * 32 + g % 2 * 16, sizeof q);
        for (int i = 0; i < 16; i++) out[g * 16 + i] = scale * (float)(q[i] >> shift & 3) - least;
    }
}

/* 32 bytes: bit 4 h + s of byte l is clear where 4 is taken away | 64 bytes as above | 12 bytes of
   scales: 4 bits in the halves of the first 8, 2 bits in the last 4 | d. (d (scale - 32)) q. */
static void saei_block_q3_k(const unsigned char *b, float *out) {
    const float d = saei_half_at(b + 108);
    const unsigned char *s = b + 96;
    unsigned char q[16], high[16];
    for (int g = 0; g < 16; g++) {
        const int low = s[g % 8] >> g / 8 * 4 & 15, top = s[8 + g % 4] >> g / 4 * 2 & 3;
        const float scale = d * (float)((low | top << 4) - 32);
        const int shift = g % 8 / 2 * 2, bit = g / 2;
        memcpy(q, b + 32 + g / 8 * 32 + g % 2 * 16, sizeof q);
        memcpy(high, b + g % 2 * 16, sizeof high);
        for (int i = 0; i < 16; i++)
            out[g * 16 + i] =
                scale * (float)((q[i] >> shift & 3) - 4 + (high[i] >> bit & 1) * 4);
    }
}

/* Scale and minimum of group g, 6 bits each, in 12 bytes: of the first four groups the low bits of
   bytes g and 4 + g; of the others the halves of byte 4 + g and the top bits of g - 4 and g. */
static void saei_block_scales(const unsigned char *s, int g, int *scale, int *least) {
    if (g < 4) {
        *scale = s[g] & 63;
        *least = s[4 + g] & 63;
    } else {
        *scale = (s[4 + g] & 15) | (s[g - 4] >> 6) << 4;
        *least = (s[4 + g] >> 4) | (s[g] >> 6) << 4;
    }
}

/* d | m | 12 bytes of scales | 128 bytes: of 32 the low halves are one group of 32, the high ones
   the next. (d scale) q - (m minimum). */
static void saei_block_q4_k(const unsigned char *b, float *out) {
    const float d = saei_half_at(b), m = saei_half_at(b + 2);
    unsigned char q[32];
    for (int g = 0; g < 8; g++) {
        const int shift = g % 2 * 4;
        int scale, least;
        float x, y;
        memcpy(q, b + 16 + g / 2 * 32, sizeof q);
        saei_block_scales(b + 4, g, &scale, &least);
        x = d * (float)scale;
        y = m * (float)least;
        for (int i = 0; i < 32; i++) out[g * 32 + i] = x * (float)(q[i] >> shift & 15) - y;
    }
}

/* d | m | scales | 32 bytes: bit g of byte i is the fifth of element 32 g + i | 128 bytes. */
static void saei_block_q5_k(const unsigned char *b, float *out) {
    const float d = saei_half_at(b), m = saei_half_at(b + 2);
    unsigned char q[32], high[32];
    memcpy(high, b + 16, sizeof high);
    for (int g = 0; g < 8; g++) {
        const int shift = g % 2 * 4;
        int scale, least;
        float x, y;
        memcpy(q, b + 48 + g / 2 * 32, sizeof q);
        saei_block_scales(b + 4, g, &scale, &least);
        x = d * (float)scale;
        y = m * (float)least;
        for (int i = 0; i < 32; i++)
            out[g * 32 + i] =
                x * (float)((q[i] >> shift & 15) | (high[i] >> g & 1) << 4) - y;
    }
}

/* 128 bytes: of 64 the low halves are 64 elements, the high ones the next | 64 bytes: 2 bits at 2 s
   of byte l of half h, on top of element 128 h + 32 s + l | 16 signed scales | d.
   (d scale) (q - 32). */
static void saei_block_q6_k(const unsigned char *b, float *out) {
    const float d = saei_half_at(b + 208);
    unsigned char low[16], high[16];
    for (int g = 0; g < 16; g++) {
        const float scale = d * (float)(signed char)b[192 + g];
        const int shift = g % 8 / 4 * 4, top = g % 8 / 2 * 2;
        memcpy(low, b + g / 8 * 64 + g % 4 * 16, sizeof low);
        memcpy(high, b + 128 + g / 8 * 32 + g % 2 * 16, sizeof high);
        for (int i = 0; i < 16; i++)
            out[g * 16 + i] =
                scale * (float)(((low[i] >> shift & 15) | (high[i] >> top & 3) << 4) - 32);
    }
}

/* ---- by a table of 16 values ---- */

static const signed char saei_iq4_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113 };

static void saei_block_by_table(const signed char values[16], float scale, const unsigned char *q,
                                float *out) {
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)values[q[i] & 15];
        out[16 + i] = scale * (float)values[q[i] >> 4];
    }
}

/* d | 16 bytes. */
static void saei_block_iq4_nl(const unsigned char *b, float *out) {
    saei_block_by_table(saei_iq4_values, saei_half_at(b), b + 2, out);
}

/* d | u16, 2 top bits a group | 4 bytes, 4 low bits a group | 8 groups of 16 bytes.
   (d (scale - 32)) value. */
static void saei_block_iq4_xs(const unsigned char *b, float *out) {
    const float d = saei_half_at(b);
    const uint32_t top = saei_le16(b + 2);
    for (int g = 0; g < 8; g++) {
        const int low = b[4 + g / 2] >> g % 2 * 4 & 15, scale = low | (int)(top >> 2 * g & 3u) << 4;
        saei_block_by_table(saei_iq4_values, d * (float)(scale - 32), b + 8 + 16 * g, out + 32 * g);
    }
}

/* u8 e | 16 bytes. 2^(e - 128) value: the values are twice those of the type. */
static void saei_block_mxfp4(const unsigned char *b, float *out) {
    static const signed char values[16] = { 0, 1,  2,  3,  4,  6,  8,  12,
                                            0, -1, -2, -3, -4, -6, -8, -12 };
    const uint32_t e = b[0], bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
    saei_block_by_table(values, saei_bits_float(bits), b + 1, out);
}
