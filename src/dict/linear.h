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
    ptrdiff_t output_step, input_step; /* bytes from one weight to the next */
};

/* Memory of a part: a context's block, or where none is free less on the stack. */
enum { SAEI_LINEAR_FEW_ROWS = 16, SAEI_LINEAR_FEW_DEPTH = 32, SAEI_LINEAR_PANELS = 8 };
typedef struct saei_linear_small {
    float product[SAEI_LINEAR_FEW_ROWS * SAEI_PANEL], panel[SAEI_LINEAR_FEW_DEPTH * SAEI_PANEL];
} saei_linear_small;

typedef struct saei_linear_room {
    size_t rows, depth;
    float *product; /* [rows][48] */
    float *panel;   /* [depth][48] */
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

SAE_API sae_result sae_linear_create_tensor(sae_context *ctx, const sae_tensor *W,
                                            const float *bias, bool transposed, sae_linear **out) {
    static const char who[] = "sae_linear_create_tensor";
    const int of_output = transposed ? 1 : 0, of_input = 1 - of_output;
    ptrdiff_t size;
    sae_linear *l;
    if (!ctx || !W || !out || !W->data || W->ndim != 2 || !W->shape[0] || !W->shape[1]
        || W->shape[0] > SIZE_MAX / W->shape[1] / sizeof(double))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: W has %zu dimensions of %llu by %llu, W, its data and out may not be "
                         "NULL, allowed are 2 from 1", who, W ? W->ndim : 0,
                         W ? (unsigned long long)W->shape[0] : 0,
                         W ? (unsigned long long)W->shape[1] : 0);
    if (W->dtype > SAE_F64)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED,
                         "%s: W is %s, allowed are F32, F16, BF16 and F64", who,
                         sae_dtype_name(W->dtype));
    SAEI_TRY(saei_linear_new(ctx, who, bias, (size_t)W->shape[of_input],
                             (size_t)W->shape[of_output], &l));
    size = (ptrdiff_t)sae_dtype_size(W->dtype);
    l->dtype = W->dtype == SAE_DTYPE_DEFAULT ? SAE_F32 : W->dtype;
    l->data = (const unsigned char *)W->data;
    l->output_step = l->outputs > 1 ? (ptrdiff_t)W->stride[of_output] * size : size;
    l->input_step = l->inputs > 1 ? (ptrdiff_t)W->stride[of_input] * size : size;
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

/* Whether rows of W^T lie in one piece and there is a kernel for them. */
static bool saei_linear_by_columns(const sae_linear *l) {
    const ptrdiff_t size = (ptrdiff_t)sae_dtype_size(l->dtype);
    return !l->packed && l->output_step == size && l->input_step != size && l->dtype != SAE_F64;
}

/* out[0..dim)[48] = the weights of a panel from input k on as floats. */
static void saei_linear_widen(const sae_linear *l, size_t panel, size_t k, size_t dim,
                              ptrdiff_t ahead, float *out) {
    const saei_kernels *kernels = l->ctx->kernels;
    const size_t first = panel * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
    const size_t size = sae_dtype_size(l->dtype);
    const unsigned char *from = l->data + (ptrdiff_t)first * l->output_step
                                + (ptrdiff_t)k * l->input_step;
    const bool kernel = l->input_step == (ptrdiff_t)size && l->dtype != SAE_F64;
    if (kernel) {
        kernels->widen_panel(l->dtype, from, l->output_step, count, dim, ahead, out);
        return;
    }
    if (count < SAEI_PANEL) memset(out, 0, dim * SAEI_PANEL * sizeof *out);
    if (saei_linear_by_columns(l)) {
        for (size_t i = 0; i < dim; i++, from += l->input_step) {
            for (size_t c = 0; c < count * size; c += 64)
                SAEI_PREFETCH(from + ahead + c);
            kernels->widen(l->dtype, from, count, out + i * SAEI_PANEL);
        }
    } else {
        for (size_t j = 0; j < count; j++, from += l->output_step) {
            float row[SAEI_LINEAR_DEPTH];
            saei_convert_row(l->dtype, from, l->input_step, dim, row);
            for (size_t i = 0; i < dim; i++) out[i * SAEI_PANEL + j] = row[i];
        }
    }
}

/* How far behind the weights of a panel at k lie those that are wanted next, the end of a part
   being `end`. */
static ptrdiff_t saei_linear_ahead(const sae_linear *l, size_t panel, size_t end, size_t k,
                                   size_t depth) {
    if (k + depth < l->inputs) return (ptrdiff_t)depth * l->input_step;
    if (panel >= end) return 0;
    return SAEI_PANEL * l->output_step - (ptrdiff_t)k * l->input_step;
}

/* product [rows][48] = x W^T of a panel's inputs from k on, or + that. */
static void saei_linear_product(const saei_linear_task *t, size_t r0, size_t rows, size_t k,
                                size_t dim, const float *weights, float *product) {
    const saei_kernels *kernels = t->linear->ctx->kernels;
    const size_t inputs = t->linear->inputs;
    const float *x = t->x + r0 * inputs + k;
    for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
        const float *at[SAEI_TILE_ROWS];
        for (size_t i = 0; i < SAEI_TILE_ROWS; i++) at[i] = x + saei_min(g + i, rows - 1) * inputs;
        if (rows - g > 2) kernels->tile(at, weights, dim, k > 0, product + g * SAEI_PANEL);
        else
            for (size_t i = 0; i < rows - g; i++)
                kernels->tile_row(at[i], weights, dim, k > 0, product + (g + i) * SAEI_PANEL);
    }
}

/* y of some rows and of the panels from `panel` to `end`, as many at once as there is room for
   where their weights share cache lines. */
static void saei_linear_panels(const saei_linear_task *t, const saei_linear_room *room, size_t r0,
                               size_t rows, size_t panel, size_t end) {
    const sae_linear *l = t->linear;
    const size_t height = saei_ceil_div(rows, SAEI_TILE_ROWS) * SAEI_TILE_ROWS;
    const size_t most = saei_linear_by_columns(l) ? room->rows / height : 1;
    for (size_t next; panel < end; panel = next) {
        next = saei_min(panel + most, end);
        for (size_t k = 0; k < l->inputs; k += room->depth) {
            const size_t dim = saei_min(room->depth, l->inputs - k);
            for (size_t p = panel; p < next; p++) {
                const float *weights = room->panel;
                if (l->packed) weights = l->packed + (p * l->inputs + k) * SAEI_PANEL;
                else
                    saei_linear_widen(l, p, k, dim, saei_linear_ahead(l, p + most, end, k, dim),
                                      room->panel);
                saei_linear_product(t, r0, rows, k, dim, weights,
                                    room->product + (p - panel) * height * SAEI_PANEL);
            }
        }
        for (size_t p = panel; p < next; p++)
            for (size_t r = 0; r < rows; r++) {
                const float *product = room->product + ((p - panel) * height + r) * SAEI_PANEL;
                const size_t first = p * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
                l->ctx->kernels->axpy(count, 1, product, l->bias + first,
                                      t->y + (r0 + r) * l->outputs + first);
            }
    }
}

static void saei_linear_part(void *arg, size_t part) {
    saei_linear_task *t = (saei_linear_task *)arg;
    const sae_linear *l = t->linear;
    const size_t groups = saei_ceil_div(l->panels, t->panels);
    const size_t end = saei_part_end(part / groups, t->rows, t->n);
    const size_t first = part % groups * t->panels, last = saei_part_end(part % groups, t->panels, l->panels);
    saei_block *block = saei_block_take(l->ctx);
    saei_linear_small small;
    saei_linear_room room = { SAEI_LINEAR_FEW_ROWS, SAEI_LINEAR_FEW_DEPTH, small.product,
                              small.panel };
    saei_linear_room large = { SAEI_LINEAR_ROWS, SAEI_LINEAR_DEPTH, NULL, NULL };
    if (block) {
        large.product = block->product;
        large.panel = block->panel;
        room = large;
    }
    for (size_t r = part / groups * t->rows; r < end; r += room.rows)
        saei_linear_panels(t, &room, r, saei_min(room.rows, end - r), first, last);
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
