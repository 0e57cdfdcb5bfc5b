#pragma once
#include "../kernels/table.h"

/* ==== >>dictionary: linear layers ============================================================= */

struct sae_linear {
    const sae_context *ctx;
    size_t inputs, outputs, panels;
    float *packed; /* [panels][inputs][48] */
    float *bias;   /* [panels 48] */
};

enum { SAEI_LINEAR_ROWS = 64, SAEI_LINEAR_PANELS = 8, SAEI_LINEAR_DEPTH = 512 }; /* of one part */

typedef struct saei_linear_task {
    const sae_linear *linear;
    const float *W, *x;
    float *y;
    size_t n;
} saei_linear_task;

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
    size_t panels, width, floats;
    if (!ctx || !W || !out || !inputs || !outputs)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_linear_create: inputs is %zu, outputs %zu, W and "
                         "out may not be NULL, allowed are sizes from 1",
                         inputs, outputs);
    panels = outputs / SAEI_PANEL + (outputs % SAEI_PANEL != 0);
    l = (sae_linear *)saei_calloc(ctx, 1, sizeof *l);
    if (l) l->ctx = ctx;
    if (l && saei_mul(panels, SAEI_PANEL, &width) && saei_mul(width, inputs, &floats)) {
        l->packed = (float *)saei_alloc(ctx, floats, sizeof(float));
        l->bias = (float *)saei_calloc(ctx, width, sizeof(float));
    }
    if (!l || !l->packed || !l->bias) {
        sae_linear_destroy(l);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_linear_create: no memory for %zu by %zu "
                         "weights", outputs, inputs);
    }
    l->inputs = inputs;
    l->outputs = outputs;
    l->panels = panels;
    if (bias) memcpy(l->bias, bias, outputs * sizeof *bias);
    memset(&task, 0, sizeof task);
    task.linear = l;
    task.W = W;
    saei_parallel(ctx, panels, saei_linear_pack_part, &task);
    *out = l;
    return SAE_OK;
}

SAE_API void sae_linear_destroy(sae_linear *linear) {
    if (!linear) return;
    saei_free(linear->ctx, linear->packed);
    saei_free(linear->ctx, linear->bias);
    saei_free(linear->ctx, linear);
}

/* y of up to 64 rows and 48 outputs: the panel is read in blocks that lie in the L2. */
static void saei_linear_panel(const saei_linear_task *t, size_t r0, size_t rows, size_t panel) {
    const sae_linear *l = t->linear;
    const float *packed = l->packed + panel * SAEI_PANEL * l->inputs;
    size_t first = panel * SAEI_PANEL, count = saei_min(SAEI_PANEL, l->outputs - first);
    float product[SAEI_LINEAR_ROWS * SAEI_PANEL];
    for (size_t k = 0; k < l->inputs; k += SAEI_LINEAR_DEPTH) {
        size_t depth = saei_min(SAEI_LINEAR_DEPTH, l->inputs - k);
        for (size_t g = 0; g < rows; g += SAEI_TILE_ROWS) {
            const float *x[SAEI_TILE_ROWS];
            for (size_t i = 0; i < SAEI_TILE_ROWS; i++)
                x[i] = t->x + (r0 + saei_min(g + i, rows - 1)) * l->inputs + k;
            l->ctx->kernels->tile(x, packed + k * SAEI_PANEL, depth, k > 0,
                                  product + g * SAEI_PANEL);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        float *y = t->y + (r0 + r) * l->outputs + first;
        l->ctx->kernels->axpy(count, 1, product + r * SAEI_PANEL, l->bias + first, y);
    }
}

static void saei_linear_part(void *arg, size_t part) {
    saei_linear_task *t = (saei_linear_task *)arg;
    size_t blocks = saei_ceil_div(t->n, SAEI_LINEAR_ROWS), r0 = part % blocks * SAEI_LINEAR_ROWS;
    size_t panel = part / blocks * SAEI_LINEAR_PANELS;
    size_t end = saei_min(panel + SAEI_LINEAR_PANELS, t->linear->panels);
    for (; panel < end; panel++)
        saei_linear_panel(t, r0, saei_min(SAEI_LINEAR_ROWS, t->n - r0), panel);
}

SAE_API sae_result sae_linear_apply(const sae_linear *linear, const float *x, size_t n, float *y) {
    saei_linear_task t;
    size_t most;
    if (!linear) return SAE_ERR_INVALID;
    if (!x || !y || !saei_mul(n, saei_max(linear->inputs, linear->outputs), &most)
        || most > SIZE_MAX / sizeof(float))
        return saei_fail(linear->ctx, SAE_ERR_INVALID,
                         "sae_linear_apply: n is %zu, x and y may not be "
                         "NULL, allowed are rows that fit in memory",
                         n);
    t.linear = linear;
    t.W = NULL;
    t.x = x;
    t.y = y;
    t.n = n;
    saei_parallel(linear->ctx, saei_ceil_div(n, SAEI_LINEAR_ROWS)
                  * saei_ceil_div(linear->panels, SAEI_LINEAR_PANELS), saei_linear_part, &t);
    return SAE_OK;
}
