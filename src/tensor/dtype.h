#pragma once
#include "../api/files.h"
#include "../base/platform.h"

/* ==== >>tensors: element types ================================================================ */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "sae.h: files are read in place, which needs a little-endian machine"
#endif

/* One row a type: sae_dtype, bytes, safetensors' name, numpy's descr, torch's storage class. */
typedef struct saei_dtype_row {
    size_t size;
    const char *name, *descr, *storage;
} saei_dtype_row;
static const saei_dtype_row saei_dtypes[] = {
    { 4, "F32", "<f4", "FloatStorage" },  { 4, "F32", "<f4", "FloatStorage" },
    { 2, "F16", "<f2", "HalfStorage" },   { 2, "BF16", "<V2", "BFloat16Storage" },
    { 8, "F64", "<f8", "DoubleStorage" }, { 1, "I8", "|i1", "CharStorage" },
    { 1, "U8", "|u1", "ByteStorage" },    { 2, "I16", "<i2", "ShortStorage" },
    { 2, "U16", "<u2", NULL },            { 4, "I32", "<i4", "IntStorage" },
    { 4, "U32", "<u4", NULL },            { 8, "I64", "<i8", "LongStorage" },
    { 8, "U64", "<u8", NULL },            { 1, "BOOL", "|b1", "BoolStorage" },
};
enum { SAEI_NUM_DTYPES = sizeof saei_dtypes / sizeof saei_dtypes[0] };

SAE_API size_t sae_dtype_size(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].size : 0;
}

SAE_API const char *sae_dtype_name(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].name : "unknown";
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

/* The 16 bits at any address. */
static uint16_t saei_word(const unsigned char *at) {
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return bits;
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

#define SAEI_CONVERT(type, expression)                                                             \
    for (size_t i = 0; i < n; i++) {                                                               \
        type v;                                                                                    \
        memcpy(&v, src + (int64_t)i * step, sizeof v);                                             \
        out[i] = (expression);                                                                     \
    }

/* n elements that lie `step` bytes apart. */
static void saei_convert_row(sae_dtype dtype, const unsigned char *src, int64_t step, size_t n,
                            float *out) {
    switch (dtype) {
    case SAE_F16: SAEI_CONVERT(uint16_t, saei_half_value(v)) break;
    case SAE_BF16: SAEI_CONVERT(uint16_t, saei_bf16_value(v)) break;
    case SAE_F64: SAEI_CONVERT(double, (float)v) break;
    case SAE_I8: SAEI_CONVERT(int8_t, (float)v) break;
    case SAE_U8: SAEI_CONVERT(uint8_t, (float)v) break;
    case SAE_I16: SAEI_CONVERT(int16_t, (float)v) break;
    case SAE_U16: SAEI_CONVERT(uint16_t, (float)v) break;
    case SAE_I32: SAEI_CONVERT(int32_t, (float)v) break;
    case SAE_U32: SAEI_CONVERT(uint32_t, (float)v) break;
    case SAE_I64: SAEI_CONVERT(int64_t, (float)v) break;
    case SAE_U64: SAEI_CONVERT(uint64_t, (float)v) break;
    case SAE_BOOL: SAEI_CONVERT(uint8_t, v ? 1.0f : 0.0f) break;
    default:
        if (step == 4) memcpy(out, src, n * 4);
        else
            for (size_t i = 0; i < n; i++) memcpy(out + i, src + (int64_t)i * step, 4);
    }
}
#undef SAEI_CONVERT

/* A [rows,cols] matrix with steps in bytes. Blocks of 64 columns by 16 rows, so that each cache
   line of a transposed one is read once. */
static void saei_matrix_to_f32(sae_dtype dtype, const unsigned char *src, size_t rows, size_t cols,
                               int64_t row_step, int64_t col_step, float *out) {
    size_t wide = col_step == (int64_t)sae_dtype_size(dtype) ? cols : 64;
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < cols; c += wide)
            for (size_t i = r; i < saei_min(rows, r + 16); i++)
                saei_convert_row(dtype, src + (int64_t)i * row_step + (int64_t)c * col_step,
                                 col_step, saei_min(wide, cols - c), out + i * cols + c);
}

SAE_API void sae_tensor_to_f32(const sae_tensor *tensor, float *out) {
    const int64_t size = (int64_t)sae_dtype_size(tensor->dtype);
    uint64_t index[SAE_MAX_DIMS] = { 0 };
    size_t outer = tensor->ndim > 2 ? tensor->ndim - 2 : 0, n = tensor->ndim;
    size_t cols = n >= 1 ? (size_t)tensor->shape[n - 1] : 1;
    size_t rows = n >= 2 ? (size_t)tensor->shape[n - 2] : 1;
    int64_t col_step = n >= 1 ? tensor->stride[n - 1] * size : size;
    int64_t row_step = n >= 2 ? tensor->stride[n - 2] * size : 0;
    const unsigned char *src = (const unsigned char *)tensor->data;
    for (size_t k = 0; k < n; k++)
        if (tensor->shape[k] == 0) return;
    if (cols == 1) col_step = size;
    if (col_step == size && (rows == 1 || row_step == (int64_t)cols * size)) {
        cols *= rows;
        rows = 1;
    }
    for (;;) {
        size_t k = outer;
        int64_t offset = 0;
        for (size_t j = 0; j < outer; j++) offset += (int64_t)index[j] * tensor->stride[j] * size;
        saei_matrix_to_f32(tensor->dtype, src + offset, rows, cols, row_step, col_step, out);
        out += rows * cols;
        while (k > 0 && ++index[k - 1] == tensor->shape[k - 1]) index[--k] = 0;
        if (k == 0) return;
    }
}

/* Elements of a shape, and its row-major strides. False where the bytes, with every dimension of 0
   taken as 1, do not fit. */
static bool saei_shape_layout(sae_tensor *t, size_t *elements) {
    uint64_t limit = (uint64_t)(SIZE_MAX >> 1) / sae_dtype_size(t->dtype), n = 1;
    bool empty = false;
    for (size_t k = t->ndim; k-- > 0;) {
        uint64_t dim = t->shape[k] ? t->shape[k] : 1;
        t->stride[k] = (int64_t)n;
        if (n > limit / dim) return false;
        n *= dim;
        if (!t->shape[k]) empty = true;
    }
    *elements = empty ? 0 : (size_t)n;
    return true;
}
