/* The kernels widen_panel and stream, of pieces.inl and pieces_few_bits.inl. */
static void SAEI_FN(saei_rows_of)(const unsigned char *from, ptrdiff_t step, size_t count,
                                  const unsigned char *rows[SAEI_PANEL]) {
    for (size_t j = 0; j < SAEI_PANEL; j++)
        rows[j] = from + (ptrdiff_t)saei_min(j, count - 1) * step;
}

/* Each of its own, for the stack's sake: without optimisation one takes 10 KB of it. */
#define SAEI_TYPE(type)                                                                            \
    static SAEI_NOINLINE size_t SAEI_FN(saei_widen_##type)(                                        \
        const unsigned char *const *rows, size_t count, size_t dim, ptrdiff_t ahead, float *out) { \
        return SAEI_FN(saei_pieces_##type)(false, rows, count, dim, ahead, NULL, out);             \
    }
SAEI_TYPE(f32)
SAEI_TYPE(bf16)
SAEI_TYPE(f16)
SAEI_TYPE(q8_0)
SAEI_TYPE(q4_0)
SAEI_TYPE(q4_k)
SAEI_TYPE(q5_k)
SAEI_TYPE(q6_k)
#undef SAEI_TYPE
#define SAEI_TYPE(type)                                                                            \
    static SAEI_NOINLINE size_t SAEI_FN(saei_stream_##type)(                                       \
        const unsigned char *const *rows, size_t count, size_t dim, ptrdiff_t ahead,               \
        const float *x, float *out) {                                                              \
        return SAEI_FN(saei_pieces_##type)(true, rows, count, dim, ahead, x, out);                 \
    }
SAEI_TYPE(f32)
SAEI_TYPE(bf16)
SAEI_TYPE(f16)
SAEI_TYPE(q8_0)
#undef SAEI_TYPE

static void SAEI_FN(saei_widen_panel)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                      size_t count, size_t dim, ptrdiff_t ahead, float *out) {
    const unsigned char *rows[SAEI_PANEL];
    size_t k = 0;
    SAEI_FN(saei_rows_of)(from, step, count, rows);
#define SAEI_TYPE(type) k = SAEI_FN(saei_widen_##type)(rows, count, dim, ahead, out)
    if (dtype == SAE_F32) SAEI_TYPE(f32);
    else if (dtype == SAE_BF16) SAEI_TYPE(bf16);
    else if (dtype == SAE_F16) SAEI_TYPE(f16);
    else if (dtype == SAE_Q8_0) SAEI_TYPE(q8_0);
    else if (dtype == SAE_Q4_0) SAEI_TYPE(q4_0);
    else if (dtype == SAE_Q4_K) SAEI_TYPE(q4_k);
    else if (dtype == SAE_Q5_K) SAEI_TYPE(q5_k);
    else if (dtype == SAE_Q6_K) SAEI_TYPE(q6_k);
#undef SAEI_TYPE
    if (k < dim)
        SAEI_FN(saei_widen_rows)(dtype, from + saei_dtype_bytes(dtype, k), step, count, dim - k,
                                 ahead, out + k * SAEI_PANEL);
}

static void SAEI_FN(saei_stream)(sae_dtype dtype, const unsigned char *from, ptrdiff_t step,
                                 size_t count, size_t dim, ptrdiff_t ahead, const float *x,
                                 bool add, float *out) {
    const unsigned char *rows[SAEI_PANEL];
    size_t k = 0;
    SAEI_FN(saei_rows_of)(from, step, count, rows);
    if (!add) memset(out, 0, SAEI_PANEL * sizeof *out);
#define SAEI_TYPE(type) k = SAEI_FN(saei_stream_##type)(rows, count, dim, ahead, x, out)
    if (dtype == SAE_F32) SAEI_TYPE(f32);
    else if (dtype == SAE_BF16) SAEI_TYPE(bf16);
    else if (dtype == SAE_F16) SAEI_TYPE(f16);
    else if (dtype == SAE_Q8_0) SAEI_TYPE(q8_0);
#undef SAEI_TYPE
    if (k < dim)
        SAEI_FN(saei_stream_rows)(dtype, from + saei_dtype_bytes(dtype, k), step, count, dim - k,
                                  ahead, x + k, true, out);
}

#undef SAEI_PIECES
#undef SAEI_BEGIN
#undef SAEI_FETCH
#undef SAEI_USE
#undef SAEI_END
#undef SAEI_BYTE_0
#undef SAEI_BYTE_1
#undef SAEI_BYTE_2
#undef SAEI_BYTE_3
#undef SAEI_FOUR
#undef SAEI_LANES
#undef SAEI_ALL
#undef SAEI_WIDE
#undef SAEI_LOAD
#undef SAEI_STORE
#undef SAEI_HALVES
#undef SAEI_SET
#undef SAEI_FMA
#undef SAEI_MUL
#undef SAEI_SUB
#undef SAEI_INT
#undef SAEI_BITS
#undef SAEI_FLOAT
#undef SAEI_NUMBER
#undef SAEI_LEFT
#undef SAEI_RIGHT
#undef SAEI_RIGHT_BY
#undef SAEI_SIGNED_RIGHT
#undef SAEI_AND
#undef SAEI_OR
#undef SAEI_LESS
