#pragma once
#include "../kernels/context.h"
#include "../tensor/dtype.h"

/* ==== >>dictionary: linear layers ============================================================= */

struct sae_linear {
    const sae_context *ctx;
    size_t inputs, outputs, panels;
    float *bias;   /* [panels 48] */
    float *packed; /* [panels][inputs][48]; NULL: W is read where it lies */
    sae_dtype dtype;
    const unsigned char *data;
    bool columns;   /* rows of W^T lie in one piece, those of W do not */
    bool widens, streams; /* there are fast kernels widen_panel, stream for W as it lies */
    ptrdiff_t unit; /* bytes of a weight or block, and from one to the next: */
    ptrdiff_t output_step, input_step;
};

/* Memory of a part: a context's block, or where none is free less on the stack. */
enum {
    SAEI_LINEAR_SMALL_ROWS = 8, SAEI_LINEAR_SMALL_DEPTH = 32,
    SAEI_LINEAR_PANELS = 8, /* of a part, at most */
    SAEI_LINEAR_FEW = 16, SAEI_LINEAR_L1 = 128, /* rows whose panels shall stay in the L1; depth */
    SAEI_LINEAR_GROUP = 16, SAEI_LINEAR_PIECE = 256 /* rows of weights, and so much of each */
};
typedef struct saei_linear_small {
    float product[SAEI_LINEAR_SMALL_ROWS * SAEI_PANEL], panel[SAEI_LINEAR_SMALL_DEPTH * SAEI_PANEL];
    float group[SAEI_LINEAR_GROUP * SAEI_LINEAR_SMALL_DEPTH];
} saei_linear_small;

typedef struct saei_linear_room {
    size_t rows, depth;
    float *product; /* [rows][48] */
    float *panel;   /* [depth][48] */
    float *group;   /* [16][min(depth, 256)] */
} saei_linear_room;

typedef struct saei_linear_task {
    const sae_linear *linear;
    const float *W, *x;
    float *y;
    size_t n, rows, panels; /* of all; of a part */
} saei_linear_task;

/* ---- create ---- */

/* A layer without weights. */
static sae_result saei_linear_new(sae_context *ctx, const char *who, const float *bias,
                                  size_t inputs, size_t outputs, sae_linear **out) {
    sae_linear *l = (sae_linear *)saei_calloc(ctx, 1, sizeof *l);
    size_t panels = outputs / SAEI_PANEL + (outputs % SAEI_PANEL != 0), width;
    if (l) l->ctx = ctx;
    if (l && saei_mul(panels, SAEI_PANEL, &width))
        l->bias = (float *)saei_calloc(ctx, width, sizeof(float));
    if (!l || !l->bias) {
        sae_linear_destroy(l);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu outputs", who, outputs);
    }
    l->inputs = inputs;
    l->outputs = outputs;
    l->panels = panels;
    if (bias) memcpy(l->bias, bias, outputs * sizeof *bias);
    *out = l;
    return SAE_OK;
}

static void saei_linear_pack_part(void *arg, size_t part) {
    saei_linear_task *t = (saei_linear_task *)arg;
    const sae_linear *l = t->linear;
    size_t first = part * SAEI_PANEL;
    saei_pack_panel(l->ctx->kernels, t->W, l->inputs, l->inputs, NULL, first,
                    saei_min(SAEI_PANEL, l->outputs - first), l->packed + first * l->inputs);
}

SAE_API sae_result sae_linear_create(sae_context *ctx, const float *W, const float *bias,
                                     size_t inputs, size_t outputs, sae_linear **out) {
    saei_linear_task task;
    sae_linear *l;
    size_t floats;
    if (!ctx || !W || !out || !inputs || !outputs)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_linear_create: inputs is %zu, outputs %zu, W and "
                         "out may not be NULL, allowed are sizes from 1",
                         inputs, outputs);
    SAEI_TRY(saei_linear_new(ctx, "sae_linear_create", bias, inputs, outputs, &l));
    if (saei_mul(l->panels * SAEI_PANEL, inputs, &floats))
        l->packed = (float *)saei_alloc(ctx, floats, sizeof(float));
    if (!l->packed) {
        sae_linear_destroy(l);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_linear_create: no memory for %zu by %zu "
                         "weights", outputs, inputs);
    }
    memset(&task, 0, sizeof task);
    task.linear = l;
    task.W = W;
    saei_parallel(ctx, l->panels, saei_linear_pack_part, &task);
    *out = l;
    return SAE_OK;
}

static bool saei_linear_streams(sae_dtype dtype) {
    return dtype == SAE_F32 || dtype == SAE_F16 || dtype == SAE_BF16 || dtype == SAE_Q8_0;
}
static bool saei_linear_widens(sae_dtype dtype) {
    return saei_linear_streams(dtype) || dtype == SAE_Q4_0 || dtype == SAE_Q4_K
           || dtype == SAE_Q5_K || dtype == SAE_Q6_K;
}

/* Bytes from one weight (of block types: block) of dimension i to the next. */
static ptrdiff_t saei_linear_stride(const sae_tensor *W, int i) {
    const ptrdiff_t unit = (ptrdiff_t)sae_dtype_size(W->dtype);
    const int64_t block = (int64_t)sae_dtype_block(W->dtype);
    if (block > 1 ? i == 1 : W->shape[i] == 1) return unit;
    return (ptrdiff_t)(W->stride[i] / block) * unit;
}

SAE_API sae_result sae_linear_create_tensor(sae_context *ctx, const sae_tensor *W,
                                            const float *bias, bool transposed, sae_linear **out) {
    static const char who[] = "sae_linear_create_tensor";
    const int of_output = transposed ? 1 : 0, of_input = 1 - of_output;
    size_t block;
    sae_linear *l;
    if (!ctx || !W || !out || !W->data || W->ndim != 2 || !W->shape[0] || !W->shape[1]
        || W->shape[0] > SIZE_MAX / W->shape[1] / sizeof(double))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: W has %zu dimensions of %llu by %llu; W, its data and out may not be "
                         "NULL, allowed are 2 from 1", who, W ? W->ndim : 0,
                         W ? (unsigned long long)W->shape[0] : 0,
                         W ? (unsigned long long)W->shape[1] : 0);
    block = sae_dtype_block(W->dtype);
    if (W->dtype > SAE_F64 && block == 1)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: W is %s, allowed are F32, F16, BF16, F64 "
                         "and types of blocks", who, sae_dtype_name(W->dtype));
    if (W->shape[1] % block || (block > 1 && W->stride[1] != 1) || W->stride[0] % (int64_t)block)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: W of %s has %llu elements a row and strides of "
                         "%lld and %lld, allowed are blocks of %zu one after the other", who,
                         sae_dtype_name(W->dtype), (unsigned long long)W->shape[1],
                         (long long)W->stride[0], (long long)W->stride[1], block);
    SAEI_TRY(saei_linear_new(ctx, who, bias, (size_t)W->shape[of_input],
                             (size_t)W->shape[of_output], &l));
    l->dtype = W->dtype == SAE_DTYPE_DEFAULT ? SAE_F32 : W->dtype;
    l->data = (const unsigned char *)W->data;
    l->unit = (ptrdiff_t)sae_dtype_size(l->dtype);
    l->output_step = saei_linear_stride(W, of_output);
    l->input_step = saei_linear_stride(W, of_input);
    l->columns = block > 1 ? transposed : l->output_step == l->unit && l->input_step != l->unit;
    l->widens = !l->columns && l->input_step == l->unit && saei_linear_widens(l->dtype);
    l->streams = l->widens && saei_linear_streams(l->dtype);
    *out = l;
    return SAE_OK;
}

SAE_API void sae_linear_destroy(sae_linear *linear) {
    if (!linear) return;
    saei_free(linear->ctx, linear->packed);
    saei_free(linear->ctx, linear->bias);
    saei_free(linear->ctx, linear);
}

/* ---- apply ---- */

/* Elements first .. first + n of weights that are `step` bytes apart, or of blocks that are. */
static void saei_linear_piece(const sae_linear *l, const unsigned char *from, ptrdiff_t step,
                              size_t first, size_t n, float *out) {
    const size_t block = sae_dtype_block(l->dtype);
    if (block == 1) {
        from += (ptrdiff_t)first * step;
        if (step == l->unit && saei_linear_streams(l->dtype))
            l->ctx->kernels->widen(l->dtype, from, n, out);
        else saei_convert_row(l->dtype, from, step, n, out);
        return;
    }
    for (size_t end = first + n; first < end;) {
        float whole[SAEI_LINEAR_PIECE];
        const size_t skip = first % block, some = saei_min(block - skip, end - first);
        float *to = some == block ? out : whole;
        saei_dtype_row_to_f32(l->dtype, from, first - skip, block, to);
        if (to == whole) memcpy(out, whole + skip, some * sizeof *out);
        first += some;
        out += some;
    }
}

/* room->panel [dim][48] = the weights of a panel from input k on as floats. */
static void saei_linear_widen(const sae_linear *l, const saei_linear_room *room, size_t panel,
                              size_t k, size_t dim, ptrdiff_t ahead) {
    const saei_kernels *kernels = l->ctx->kernels;
    const size_t first = panel * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
    const size_t block = sae_dtype_block(l->dtype);
    const unsigned char *from = l->data;
    if (count < SAEI_PANEL) memset(room->panel, 0, dim * SAEI_PANEL * sizeof(float));
    if (l->columns) {
        from += (ptrdiff_t)k * l->input_step;
        for (size_t i = 0; i < dim; i++, from += l->input_step) {
            const unsigned char *at = from + saei_dtype_bytes(l->dtype, first) + ahead;
            for (size_t c = 0; c < saei_dtype_bytes(l->dtype, count); c += 64)
                SAEI_PREFETCH(at + c);
            saei_linear_piece(l, from, l->unit, first, count, room->panel + i * SAEI_PANEL);
        }
        return;
    }
    from += (ptrdiff_t)first * l->output_step;
    if (l->widens && k % block == 0 && dim % block == 0) {
        kernels->widen_panel(l->dtype, from + saei_dtype_bytes(l->dtype, k), l->output_step, count,
                             dim, ahead, room->panel);
        return;
    }
    for (size_t g = 0; g < count; g += SAEI_LINEAR_GROUP)
        for (size_t c = 0; c < dim; c += SAEI_LINEAR_PIECE) {
            const size_t rows = saei_min(SAEI_LINEAR_GROUP, count - g);
            const size_t some = saei_min(SAEI_LINEAR_PIECE, dim - c);
            for (size_t j = 0; j < rows; j++)
                saei_linear_piece(l, from + (ptrdiff_t)(g + j) * l->output_step, l->input_step,
                                  k + c, some, room->group + j * some);
            kernels->widen_panel(SAE_F32, (const unsigned char *)room->group,
                                 (ptrdiff_t)(some * sizeof(float)), rows, some, 0,
                                 room->panel + c * SAEI_PANEL + g);
        }
}

/* out [rows][48], ld apart, = x W^T of a panel's inputs from k on, or + that. */
static void saei_linear_product(const saei_linear_task *t, size_t r0, size_t rows, size_t k,
                                size_t dim, const float *weights, float *out, size_t ld) {
    const saei_kernels *kernels = t->linear->ctx->kernels;
    const size_t inputs = t->linear->inputs;
    const float *x = t->x + r0 * inputs + k;
    for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS, out += SAEI_TILE_ROWS * ld) {
        const size_t some = saei_min(SAEI_TILE_ROWS, rows - g);
        const float *at[SAEI_TILE_ROWS];
        for (size_t i = 0; i < SAEI_TILE_ROWS; i++) at[i] = x + saei_min(g + i, rows - 1) * inputs;
        if (some > 2) kernels->tile(at, some, weights, dim, k > 0, out, ld);
        else
            for (size_t i = 0; i < some; i++)
                kernels->tile_row(at[i], weights, dim, k > 0, out + i * ld);
    }
}

/* The same from where the weights lie; the next ones wanted are `ahead` bytes behind. */
static void saei_linear_step(const saei_linear_task *t, const saei_linear_room *room, size_t r0,
                             size_t rows, size_t panel, size_t k, size_t dim, ptrdiff_t ahead) {
    const sae_linear *l = t->linear;
    const size_t first = panel * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
    const bool whole = count == SAEI_PANEL; /* the last panel may go beyond the end of y's rows */
    float *out = whole ? t->y + r0 * l->outputs + first : room->product;
    const size_t ld = whole ? l->outputs : SAEI_PANEL;
    if (l->packed) {
        const float *weights = l->packed + (panel * l->inputs + k) * SAEI_PANEL;
        saei_linear_product(t, r0, rows, k, dim, weights, out, ld);
    } else if (rows == 1 && l->streams) {
        const unsigned char *from = l->data + (ptrdiff_t)first * l->output_step;
        l->ctx->kernels->stream(l->dtype, from + saei_dtype_bytes(l->dtype, k), l->output_step,
                                count, dim, ahead, t->x + r0 * l->inputs + k, k > 0, out);
    } else {
        saei_linear_widen(l, room, panel, k, dim, ahead);
        saei_linear_product(t, r0, rows, k, dim, room->panel, out, ld);
    }
}

static void saei_linear_finish(const saei_linear_task *t, const saei_linear_room *room, size_t r0,
                               size_t rows, size_t panel) {
    const sae_linear *l = t->linear;
    const size_t first = panel * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
    for (size_t r = 0; r < rows; r++) {
        float *y = t->y + (r0 + r) * l->outputs + first;
        const float *sums = count == SAEI_PANEL ? y : room->product + r * SAEI_PANEL;
        l->ctx->kernels->axpy(count, 1, sums, l->bias + first, y);
    }
}

/* Where the weights of a panel from input k on begin, in bytes behind those of another. */
static ptrdiff_t saei_linear_offset(const sae_linear *l, size_t panel, size_t k) {
    const size_t block = sae_dtype_block(l->dtype), output = panel * SAEI_PANEL;
    if (l->packed) return 0;
    if (l->columns) return (ptrdiff_t)k * l->input_step + (ptrdiff_t)(output / block) * l->unit;
    return (ptrdiff_t)output * l->output_step + (ptrdiff_t)(k / block) * l->input_step;
}

/* y of some rows and of the panels from `panel` to `end`; y carries the sums from one depth to the
   next. Many rows go through all panels at a depth, so that x stays in the L2; and so do few where
   panels share cache lines. Otherwise few rows take a panel after the other, as it lies. */
static void saei_linear_panels(const saei_linear_task *t, const saei_linear_room *room, size_t r0,
                               size_t rows, size_t panel, size_t end) {
    const sae_linear *l = t->linear;
    const bool few = rows <= SAEI_LINEAR_FEW;
    const size_t most = few && !l->columns ? 1 : end - panel;
    const size_t least = saei_max(SAEI_LINEAR_L1, l->packed ? 1 : sae_dtype_block(l->dtype));
    const size_t depth = few ? saei_min(least, room->depth) : room->depth;
    for (size_t next; panel < end; panel = next) {
        next = saei_min(panel + most, end);
        for (size_t k = 0, dim; k < l->inputs; k += dim) {
            dim = saei_min(depth, l->inputs - k);
            for (size_t p = panel; p < next; p++) {
                ptrdiff_t ahead = 0;
                if (p + 1 < next) ahead = saei_linear_offset(l, p + 1, k);
                else if (k + dim < l->inputs) ahead = saei_linear_offset(l, panel, k + dim);
                else if (next < end) ahead = saei_linear_offset(l, next, 0);
                if (ahead) ahead -= saei_linear_offset(l, p, k);
                saei_linear_step(t, room, r0, rows, p, k, dim, ahead);
            }
        }
        for (size_t p = panel; p < next; p++) saei_linear_finish(t, room, r0, rows, p);
    }
}

static void saei_linear_part(void *arg, size_t part) {
    saei_linear_task *t = (saei_linear_task *)arg;
    const sae_linear *l = t->linear;
    const size_t groups = saei_ceil_div(l->panels, t->panels), group = part % groups;
    const size_t end = saei_part_end(part / groups, t->rows, t->n);
    saei_block *block = saei_block_take(l->ctx);
    saei_linear_small small;
    saei_linear_room room = { SAEI_LINEAR_SMALL_ROWS, SAEI_LINEAR_SMALL_DEPTH, small.product,
                              small.panel, small.group };
    if (block) {
        saei_linear_room large = { SAEI_LINEAR_ROWS, SAEI_LINEAR_DEPTH, block->product,
                                   block->panel, block->value };
        room = large;
    }
    for (size_t r = part / groups * t->rows; r < end; r += room.rows)
        saei_linear_panels(t, &room, r, saei_min(room.rows, end - r), group * t->panels,
                           saei_part_end(group, t->panels, l->panels));
    saei_block_leave(block);
}

SAE_API sae_result sae_linear_apply(const sae_linear *linear, const float *x, size_t n, float *y) {
    saei_linear_task t;
    size_t most, blocks;
    if (!linear) return SAE_ERR_INVALID;
    if (!x || !y || !saei_mul(n, saei_max(linear->inputs, linear->outputs), &most)
        || most > SIZE_MAX / sizeof(float))
        return saei_fail(linear->ctx, SAE_ERR_INVALID,
                         "sae_linear_apply: n is %zu, x and y may not be "
                         "NULL, allowed are rows that fit in memory",
                         n);
    if (!n) return SAE_OK;
    memset(&t, 0, sizeof t);
    t.linear = linear;
    t.x = x;
    t.y = y;
    t.n = n;
    blocks = saei_ceil_div(n, SAEI_LINEAR_ROWS);
    t.rows = saei_ceil_div(saei_ceil_div(n, blocks), SAEI_TILE_ROWS) * SAEI_TILE_ROWS;
    t.panels = saei_min(SAEI_LINEAR_PANELS,
                        saei_ceil_div(linear->panels, 4 * (size_t)linear->ctx->threads));
    saei_parallel(linear->ctx, saei_ceil_div(n, t.rows) * saei_ceil_div(linear->panels, t.panels),
                  saei_linear_part, &t);
    return SAE_OK;
}
