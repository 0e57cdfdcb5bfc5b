#pragma once
#include "../base/adam.h"
#include "../tensor/dtype.h"

/* ==== >>kernels =============================================================================== */
/* The loops that take the time, written with 16 lanes whatever the machine has and compiled for
   each instruction set; the best one is chosen at run time. All give the same bits: each element
   sees the same operations in the same order. A set has a file of its own, which names its lanes
   and pastes the kernels written over them (*.inl); AVX-512 has its own versions of most.
   Figures are of W1: d 512, m 8192, 2048 rows, k 64; see bench/RESULTS.md for the machine. */
#define SAEI_PANEL 48     /* latents of a packed panel [dim][48] */
#define SAEI_TILE_ROWS 8  /* rows that go through a panel together */
#define SAEI_DENSE_COLUMNS 128 /* a panel of the dense phase: 64 rows of 128 floats lie in the L1 */
#define SAEI_DENSE_ROWS 64
#define SAEI_LIST_PADDING 16 /* entries of a row's list after its end that may be overwritten */
/* Free entries a row's list needs before a panel: what it may add and overwrite. */
#define SAEI_LIST_RESERVE (SAEI_PANEL + SAEI_LIST_PADDING)

/* X of the numbers below 8 and 16: what an array's loop would do in memory stays in registers. */
#define SAEI_EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SAEI_SIXTEEN(X)                                                                            \
    SAEI_EIGHT(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* A row as int16 for screening: x = q * inverse + delta. All three are rounded up. */
typedef struct saei_quantized {
    float inverse;      /* 0: q is all zeros; negative: the row has no finite, sane norm */
    float norm, error;  /* |x|, |delta| */
} saei_quantized;

/* The kernels of an instruction set, X(set, result, name, parameters) each: the table's members;
   saei_NAME_SET fills them (isa.h). */
#define SAEI_KERNELS(X, set)                                                                       \
    /* out[k][48] = row[j][k] for 48 rows of dim words, rows from count on as zeros */             \
    X(set, void, pack, (const uint32_t *const row[SAEI_PANEL], size_t count, size_t dim,           \
      uint32_t *out))                                                                              \
    /* out[r ld][0..48) = sum_k x[r][k] panel[k][0..48), r < rows <= 8 (+ out if add): the product \
       order. All 8 x are read. */                                                                 \
    X(set, void, tile, (const float *const x[SAEI_TILE_ROWS], size_t rows, const float *panel,     \
      size_t dim, bool add, float *out, size_t ld))                                                \
    /* out[0..48) of one row likewise */                                                           \
    X(set, void, tile_row, (const float *x, const float *panel, size_t dim, bool add, float *out)) \
    /* Weights at any address. n that lie together, of a type that is not of blocks, as floats;    \
       and out[k][48] = weight k of `count` rows, `step` bytes apart, k < dim (of block types whole\
       blocks); columns from count on are not specified. What lies `ahead` bytes behind is fetched.\
    */                                                                                             \
    X(set, void, widen, (sae_dtype dtype, const unsigned char *from, size_t n, float *out))        \
    X(set, void, widen_panel, (sae_dtype dtype, const unsigned char *from, ptrdiff_t step,         \
      size_t count, size_t dim, ptrdiff_t ahead, float *out))                                      \
    /* tile_row of such a panel, which is not written: F32, F16, BF16 and Q8_0 */                  \
    X(set, void, stream, (sae_dtype dtype, const unsigned char *from, ptrdiff_t step,              \
      size_t count, size_t dim, ptrdiff_t ahead, const float *x, bool add, float *out))            \
    /* out[j] = x.M[row[j]] (+ out[j] if add): the product order */                                \
    X(set, void, products, (size_t n, const float *x, size_t count, const uint32_t *row,           \
      const float *M, size_t ld, bool add, float *out))                                            \
    /* How many of n values are >= cut; and those only, in their order, with their latents. */     \
    X(set, size_t, count_from, (const float *value, size_t n, float cut))                          \
    X(set, size_t, keep_from, (uint32_t *latent, float *value, size_t n, float cut))               \
    /* p[j] = u[j] + bias[j] (NULL: 0). Appends base + j and p[j], or u[j] if raw, for p[j] > cut, \
       and for p[j] > theta[j] or |(p[j] - theta[j]) / bandwidth| < 1/2, j < count; returns as     \
       keep_screened. Entries up to stride may be overwritten. *kept: bit j for each; NULL where   \
       count > 64. */                                                                              \
    X(set, size_t, keep_above, (const float *u, const float *bias, bool raw, size_t count,         \
      float cut, uint32_t base, uint32_t *latent, float *value, size_t length, size_t stride,      \
      uint64_t *kept))                                                                             \
    X(set, size_t, keep_window, (const float *u, const float *bias, const float *theta,            \
      float bandwidth, size_t count, uint32_t base, uint32_t *latent, float *value,                \
      size_t length, size_t stride, uint64_t *kept))                                               \
    /* out += sum_j value[j] M[row[j]], ascending j: the rows order. n is a multiple of 16. */     \
    X(set, void, add_rows, (size_t n, size_t count, const uint32_t *row, const float *value,       \
      const float *M, size_t ld, float *out))                                                      \
    X(set, double, dot, (size_t n, const float *a, const float *b))                                \
    /* to = from, floats that need not be aligned; false where one is NaN or infinite. Transposed: \
       to[c * ld + r] = row[r][c] for r < 16, c < n. */                                            \
    X(set, bool, copy, (size_t n, const void *from, float *to))                                    \
    X(set, bool, copy_transposed, (const void *const row[16], size_t n, float *to, size_t ld))     \
    /* x > cut ? x : 0 */                                                                          \
    X(set, void, over, (size_t n, const float *x, const float *cut, float *out))                   \
    /* a x + y */                                                                                  \
    X(set, void, axpy, (size_t n, float a, const float *x, const float *y, float *out))            \
    /* a x */                                                                                      \
    X(set, void, scale, (size_t n, float a, const float *x, float *out))                           \
    /* x / a */                                                                                    \
    X(set, void, divide, (size_t n, const float *x, float a, float *out))

/* Screening; NULL where the set gains nothing by it. */
#define SAEI_SCREEN_KERNELS(X, set)                                                                \
    /* int16 rows of n values, n even, and the integer tile [8][48] over panels of pairs. */       \
    X(set, void, quantize, (size_t n, const float *x, int16_t *out, saei_quantized *q))            \
    X(set, void, screen, (const int16_t *const x[SAEI_TILE_ROWS], const uint32_t *panel,           \
      size_t pairs, int32_t *out))                                                                 \
    /* For each row r of a tile: p = scale[r] inverse[j] dot[r][j] + offset[j]; base + j and p -   \
       shift[r] of all p > cut[r], j < 48, go to latent[r], value[r] from entry length[r] on, and  \
       length[r] grows. A list has SAEI_LIST_RESERVE free entries, which may all be overwritten.   \
       Rows must not share a list, except rows whose cut rejects everything. */                    \
    X(set, void, keep_tile, (const int32_t *dot, const float *inverse, const float *offset,        \
      const float *scale, const float *shift, const float *cut, uint32_t base,                     \
      uint32_t *const *latent, float *const *value, uint32_t *length))                             \
    /* The same of one row, whose list of stride entries may be full: returns the new length,      \
       beyond stride where not all were written. */                                                \
    X(set, size_t, keep_screened, (const int32_t *dot, const float *inverse, const float *offset,  \
      float scale, float shift, float cut, uint32_t base, uint32_t *latent, float *value,          \
      size_t length, size_t stride))

/* What only training needs. */
#define SAEI_TRAIN_KERNELS(X, set)                                                                 \
    /* Of sorted, ascending from first or later, no two alike: how many are < first + 64, and in   \
       *bits, bit sorted[j] - first of each. */                                                    \
    X(set, size_t, mark, (const uint32_t *sorted, size_t n, uint32_t first, uint64_t *bits))       \
    /* Row r of 16 has, from entry from[r] on, one entry for each bit l < 16 of fires[r],          \
       ascending. To out[v][to[l]...], v < count, go values[v] of the entries of bit l, rows       \
       ascending; from and to move on. */                                                          \
    X(set, void, regroup, (const uint32_t fires[16], size_t from[16], const float *const *values,  \
      size_t count, float *const *out, size_t to[16]))                                             \
    /* sums[64 w + b] += value[j], one entry j for each bit b of fires[w], w < words, ascending */ \
    X(set, void, add_fires, (size_t words, const uint64_t *fires, const float *value,              \
      double *sums))                                                                               \
    /* List i < targets has, from entry at[i] on, an entry j for each bit b of bits[i], ascending: \
       it is of row b of the panel, of n floats, a multiple of 16, n <= SAEI_DENSE_COLUMNS.        \
       add_panel: out[i] += sum_j value[j] panel[b], the rows order; rows of out are ld apart.     \
       dot_panel: the sixteen running sums of e[i].panel[b], from 0 if `begin`, go on in lanes, 16 \
       for each entry of each list, one after the other; where out is not NULL they are finished:  \
       out[j] = alpha e[i].panel[b], the dot order. Rows of e are ld apart. */                     \
    X(set, void, add_panel, (size_t n, size_t targets, const size_t *at, const uint64_t *bits,     \
      const float *value, const float *panel, float *out, size_t ld))                              \
    X(set, void, dot_panel, (size_t n, size_t targets, const size_t *at, const uint64_t *bits,     \
      const float *e, size_t ld, const float *panel, float *lanes, bool begin, float alpha,        \
      float *out))                                                                                 \
    /* out[j] = alpha e.M[row[j]]: the dot order */                                                \
    X(set, void, dots, (size_t n, const float *e, size_t count, const uint32_t *row,               \
      const float *M, size_t ld, float alpha, float *out))                                         \
    /* out += a x */                                                                               \
    X(set, void, add_double, (size_t n, double a, const float *x, double *out))                    \
    /* x > 0 ? x^p : 0 */                                                                          \
    X(set, void, powers, (size_t n, const float *x, double p, double *out))                        \
    /* The operations gate and gate_grad on n entries from entry at on. */                         \
    X(set, void, gate, (size_t n, size_t at, const float *gate_bias, const float *exp_r,           \
      const float *mag_bias, const sae_code *c))                                                   \
    X(set, void, gate_grad, (size_t n, size_t at, const float *exp_r, const sae_code *c))          \
    X(set, void, adam, (const saei_adam_factors *c, size_t n, float *p, const float *g, float *m,  \
      float *v))

#if defined(SAE_NO_TRAIN)
#undef SAEI_TRAIN_KERNELS
#define SAEI_TRAIN_KERNELS(X, set)
#endif

#define SAEI_MEMBER(set, result, name, parameters) result (*name) parameters;
struct saei_kernels {
    const char *name;
    SAEI_KERNELS(SAEI_MEMBER, any)
    SAEI_SCREEN_KERNELS(SAEI_MEMBER, any)
    SAEI_TRAIN_KERNELS(SAEI_MEMBER, any)
};
#undef SAEI_MEMBER

#ifndef SAE_NO_TRAIN
static size_t saei_lowest_bit(uint64_t bits) { /* not 0 */
#if defined(__GNUC__)
    return (size_t)__builtin_ctzll(bits);
#else
    size_t at = 0;
    for (; !(bits & 0xFF); bits >>= 8) at += 8;
    for (; !(bits & 1); bits >>= 1) at++;
    return at;
#endif
}

static size_t saei_count_bits(uint64_t bits) {
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    return (size_t)(((bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
}
#endif

static float saei_gate_value(float exp_r, float u, float mag_bias) {
    float v = exp_r * u + mag_bias;
    return v > 0 ? v : 0;
}

/* The rectangle of the straight-through estimator: whether |(x - theta) / bandwidth| < 1/2. */
static bool saei_rectangle(float x, float theta, float bandwidth) {
    float z = (x - theta) / bandwidth;
    return z > -0.5f && z < 0.5f;
}

/* `count` <= 48 rows of W from `first` on, or those that list names, as a panel [d][48]. */
static void saei_pack_panel(const saei_kernels *kernels, const float *W, size_t ld, size_t d,
                            const uint32_t *list, size_t first, size_t count, float *panel) {
    const uint32_t *row[SAEI_PANEL];
    for (size_t j = 0; j < SAEI_PANEL; j++) {
        size_t i = first + saei_min(j, count - 1);
        row[j] = (const uint32_t *)(const void *)(W + (list ? list[i] : i) * ld);
    }
    kernels->pack(row, count, d, (uint32_t *)(void *)panel);
}
