#pragma once
#include "../api/files.h"
#include "blocks.h"

/* ==== >>tensors: element types ================================================================ */

/* One row a type: sae_dtype, bytes, safetensors' name, numpy's descr, torch's storage class; of a
   block type bytes, name and elements of a block, and what makes one float32. */
typedef struct saei_dtype_row {
    size_t size;
    const char *name, *descr, *storage;
    size_t block;
    void (*to_f32)(const unsigned char *block, float *out);
} saei_dtype_row;
#define SAEI_PLAIN(size, name, descr, storage) { size, name, descr, storage, 1, NULL }
#define SAEI_BLOCKS(size, name, block, to_f32) { size, name, NULL, NULL, block, to_f32 }
#define SAEI_NAMED(name) { 0, name, NULL, NULL, 1, NULL }
static const saei_dtype_row saei_dtypes[] = {
    SAEI_PLAIN(4, "F32", "<f4", "FloatStorage"),
    SAEI_PLAIN(4, "F32", "<f4", "FloatStorage"),
    SAEI_PLAIN(2, "F16", "<f2", "HalfStorage"),
    SAEI_PLAIN(2, "BF16", "<V2", "BFloat16Storage"),
    SAEI_PLAIN(8, "F64", "<f8", "DoubleStorage"),
    SAEI_PLAIN(1, "I8", "|i1", "CharStorage"),
    SAEI_PLAIN(1, "U8", "|u1", "ByteStorage"),
    SAEI_PLAIN(2, "I16", "<i2", "ShortStorage"),
    SAEI_PLAIN(2, "U16", "<u2", NULL),
    SAEI_PLAIN(4, "I32", "<i4", "IntStorage"),
    SAEI_PLAIN(4, "U32", "<u4", NULL),
    SAEI_PLAIN(8, "I64", "<i8", "LongStorage"),
    SAEI_PLAIN(8, "U64", "<u8", NULL),
    SAEI_PLAIN(1, "BOOL", "|b1", "BoolStorage"),
    SAEI_BLOCKS(18, "Q4_0", 32, saei_block_q4_0),
    SAEI_BLOCKS(20, "Q4_1", 32, saei_block_q4_1),
    SAEI_BLOCKS(22, "Q5_0", 32, saei_block_q5_0),
    SAEI_BLOCKS(24, "Q5_1", 32, saei_block_q5_1),
    SAEI_BLOCKS(34, "Q8_0", 32, saei_block_q8_0),
    SAEI_BLOCKS(84, "Q2_K", 256, saei_block_q2_k),
    SAEI_BLOCKS(110, "Q3_K", 256, saei_block_q3_k),
    SAEI_BLOCKS(144, "Q4_K", 256, saei_block_q4_k),
    SAEI_BLOCKS(176, "Q5_K", 256, saei_block_q5_k),
    SAEI_BLOCKS(210, "Q6_K", 256, saei_block_q6_k),
    SAEI_BLOCKS(18, "IQ4_NL", 32, saei_block_iq4_nl),
    SAEI_BLOCKS(136, "IQ4_XS", 256, saei_block_iq4_xs),
    SAEI_BLOCKS(17, "MXFP4", 32, saei_block_mxfp4),
    SAEI_NAMED("IQ1_S"),
    SAEI_NAMED("IQ1_M"),
    SAEI_NAMED("IQ2_XXS"),
    SAEI_NAMED("IQ2_XS"),
    SAEI_NAMED("IQ2_S"),
    SAEI_NAMED("IQ3_XXS"),
    SAEI_NAMED("IQ3_S"),
    SAEI_NAMED("TQ1_0"),
    SAEI_NAMED("TQ2_0"),
    SAEI_NAMED("NVFP4"),
    SAEI_NAMED("other"),
};
/* The plain ones come first: those that other programs' files and numpy have. */
enum { SAEI_NUM_DTYPES = sizeof saei_dtypes / sizeof saei_dtypes[0],
       SAEI_PLAIN_DTYPES = SAE_BOOL + 1 };

SAE_API size_t sae_dtype_size(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].size : 0;
}

SAE_API size_t sae_dtype_block(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].block : 1;
}

SAE_API const char *sae_dtype_name(sae_dtype dtype) {
    return (unsigned)dtype < SAEI_NUM_DTYPES ? saei_dtypes[dtype].name : "unknown";
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

/* Of n elements that lie together, of block types whole blocks. */
static size_t saei_dtype_bytes(sae_dtype dtype, size_t n) {
    return n / saei_dtypes[dtype].block * saei_dtypes[dtype].size;
}

/* Elements first .. first + count of a row whose elements lie together, of any type that has a
   size; of block types both are multiples of the block. */
static void saei_dtype_row_to_f32(sae_dtype dtype, const void *row, size_t first, size_t count,
                                  float *out) {
    const saei_dtype_row *type = &saei_dtypes[dtype];
    const unsigned char *src = (const unsigned char *)row + first / type->block * type->size;
    if (type->block == 1) saei_convert_row(dtype, src, (int64_t)type->size, count, out);
    else
        for (size_t i = 0; i < count / type->block; i++)
            type->to_f32(src + i * type->size, out + i * type->block);
}

/* A [rows,cols] matrix with steps in bytes. Where a row's elements do not lie together: blocks of
   64 columns by 16 rows, so that each cache line of a transposed one is read once. */
static void saei_matrix_to_f32(sae_dtype dtype, const unsigned char *src, size_t rows, size_t cols,
                               int64_t row_step, int64_t col_step, float *out) {
    const size_t wide = 64;
    if (col_step == (int64_t)sae_dtype_size(dtype)) {
        for (size_t i = 0; i < rows; i++)
            saei_dtype_row_to_f32(dtype, src + (int64_t)i * row_step, 0, cols, out + i * cols);
        return;
    }
    for (size_t r = 0; r < rows; r += 16)
        for (size_t c = 0; c < cols; c += wide)
            for (size_t i = r; i < saei_min(rows, r + 16); i++)
                saei_convert_row(dtype, src + (int64_t)i * row_step + (int64_t)c * col_step,
                                 col_step, saei_min(wide, cols - c), out + i * cols + c);
}

SAE_API void sae_tensor_to_f32(const sae_tensor *tensor, float *out) {
    const int64_t size = (int64_t)sae_dtype_size(tensor->dtype);
    const int64_t block = (int64_t)sae_dtype_block(tensor->dtype);
    uint64_t index[SAE_MAX_DIMS] = { 0 };
    size_t outer = tensor->ndim > 2 ? tensor->ndim - 2 : 0, n = tensor->ndim;
    size_t cols = n >= 1 ? (size_t)tensor->shape[n - 1] : 1;
    size_t rows = n >= 2 ? (size_t)tensor->shape[n - 2] : 1;
    int64_t col_step = n >= 1 ? tensor->stride[n - 1] * size : size;
    int64_t row_step = n >= 2 ? tensor->stride[n - 2] / block * size : 0;
    const unsigned char *src = (const unsigned char *)tensor->data;
    for (size_t k = 0; k < n; k++)
        if (tensor->shape[k] == 0) return;
    if (cols == 1 || block > 1) col_step = size;
    if (col_step == size && (rows == 1 || row_step == (int64_t)cols / block * size)) {
        cols *= rows;
        rows = 1;
    }
    for (;;) {
        size_t k = outer;
        int64_t offset = 0;
        for (size_t j = 0; j < outer; j++)
            offset += (int64_t)index[j] * (tensor->stride[j] / block) * size;
        if (size)
            saei_matrix_to_f32(tensor->dtype, src + offset, rows, cols, row_step, col_step, out);
        for (size_t i = 0; !size && i < rows * cols; i++) out[i] = NAN;
        out += rows * cols;
        while (k > 0 && ++index[k - 1] == tensor->shape[k - 1]) index[--k] = 0;
        if (k == 0) return;
    }
}

/* Elements of a shape, and its row-major strides. False where the bytes, with every dimension of 0
   taken as 1, do not fit (of block types: as float32), or the last dimension is no multiple of the
   block. */
static bool saei_shape_layout(sae_tensor *t, size_t *elements) {
    const size_t block = sae_dtype_block(t->dtype), size = sae_dtype_size(t->dtype);
    uint64_t limit = (uint64_t)(SIZE_MAX >> 1) / (block > 1 || !size ? sizeof(float) : size), n = 1;
    bool empty = false;
    if (block > 1 && (!t->ndim || t->shape[t->ndim - 1] % block)) return false;
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
