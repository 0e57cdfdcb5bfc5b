#pragma once
#include "../base/platform.h"

/* ==== >>tensors: numbers in files ============================================================= */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "sae.h: files are read in place, which needs a little-endian machine"
#endif

/* Little endian, as the machine is. */
static uint32_t saei_le16(const unsigned char *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static uint32_t saei_le32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static uint64_t saei_le64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float saei_bf16_value(uint16_t bits) {
    return saei_bits_float((uint32_t)bits << 16);
}

/* Exact; subnormals are fraction * 2^-24. */
static float saei_half_value(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31u;
    uint32_t fraction = bits & 1023u, wide;
    if (exponent == 0) {
        float x = (float)fraction * 5.9604644775390625e-8f;
        return sign ? -x : x;
    }
    wide = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | fraction << 13;
    return saei_bits_float(wide);
}

/* To the nearest, ties to even; NaN stays one. */
static uint16_t saei_bf16_bits(float x) {
    uint32_t bits = saei_float_bits(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

static uint16_t saei_half_bits(float x) {
    uint32_t bits = saei_float_bits(x), sign = bits >> 16 & 0x8000u, whole, rest, half;
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (bits >> 13 & 0x3FFu));
    if (bits >= 0x47800000u) return (uint16_t)(sign | 0x7C00u); /* 65536 and more */
    if (bits < 0x38800000u) { /* below the normal ones: units of 2^-24 */
        uint32_t shift = 126u - (bits >> 23), fraction = (bits & 0x7FFFFFu) | 0x800000u;
        if (shift > 24) return (uint16_t)sign;
        whole = fraction >> shift;
        half = 1u << (shift - 1);
        rest = fraction & ((half << 1) - 1);
    } else {
        whole = (bits >> 13) - (112u << 10);
        half = 0x1000u;
        rest = bits & 0x1FFFu;
    }
    whole += rest > half || (rest == half && (whole & 1u));
    return (uint16_t)(sign | whole);
}
