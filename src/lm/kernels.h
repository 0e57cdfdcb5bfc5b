#pragma once
#include "base.h"

/* ==== >>lm: kernels =========================================================================== */
/* The loops that take the time next to the products, which are sae_linear's. As there: 16 lanes
   whatever the machine has, compiled for each instruction set, the same bits from all. A set has a
   file of its own, which names its lanes and pastes the kernels written over them (*.inl). */
enum { LMI_ROWS = 8, LMI_COLUMNS = 32 }; /* of a block of attention's products */

/* The activation functions of transformers that are known here, under their names there. */
typedef enum lmi_act {
    LMI_GELU, LMI_GELU_TANH, LMI_GELU_QUICK, LMI_RELU, LMI_RELU2, LMI_SILU,
    LMI_LINEAR
} lmi_act;

static const struct {
    const char *name;
    lmi_act act;
} lmi_acts[] = {
    { "gelu", LMI_GELU }, { "gelu_python", LMI_GELU }, { "gelu_new", LMI_GELU_TANH },
    { "gelu_fast", LMI_GELU_TANH }, { "gelu_pytorch_tanh", LMI_GELU_TANH },
    { "gelu_python_tanh", LMI_GELU_TANH }, { "gelu_accurate", LMI_GELU_TANH },
    { "quick_gelu", LMI_GELU_QUICK }, { "relu", LMI_RELU }, { "relu2", LMI_RELU2 },
    { "silu", LMI_SILU }, { "swish", LMI_SILU }, { "linear", LMI_LINEAR }
};
enum { LMI_NUM_ACTS = sizeof lmi_acts / sizeof lmi_acts[0] };

/* Up to 8 queries q [rows,head_dim] against the keys [blocks][head_dim][32] and values
   [keys][lmi_round(head_dim)] of one head: query r sees keys first[r] to end[r] - 1, at least one.
   With a cap scores are cap tanh(score / cap). */
typedef struct lmi_tile {
    const float *q, *keys, *values;
    size_t head_dim, rows, first[LMI_ROWS], end[LMI_ROWS];
    float scale, cap;
    float *p;             /* [8] of lmi_round(keys seen + 31) */
    float *mixed;         /* [8,lmi_round(head_dim)] */
    float *out[LMI_ROWS]; /* [head_dim] each */
} lmi_tile;

typedef struct lmi_kernels {
    /* out = (x - mean) / sqrt(variance + eps) weight + bias over n; out may be x */
    void (*norm)(size_t n, const float *x, const float *weight, const float *bias, double eps,
                 float *out);
    /* out = x / sqrt(mean x^2 + eps) weight over n; out may be x */
    void (*rms_norm)(size_t n, const float *x, const float *weight, double eps, float *out);
    void (*activate)(lmi_act act, size_t n, float *x);
    void (*gate)(lmi_act act, size_t n, float *x, const float *up); /* x = act(x) up */
    void (*add)(size_t n, const float *a, const float *x, float *out); /* out = a + x */
    void (*cap)(size_t n, float cap, float *x); /* x = cap tanh(x / cap) */
    /* turns pairs (i, i + pairs) of x by angles */
    void (*turn)(size_t pairs, const float *cosine, const float *sine, float *x);
    void (*attend)(const lmi_tile *t);
    /* largest = max x; returns sum exp(x - largest) */
    double (*sum_exp)(size_t n, const float *x, float *largest);
} lmi_kernels;

static size_t lmi_round(size_t n) {
    return (n + LMI_COLUMNS - 1) / LMI_COLUMNS * LMI_COLUMNS;
}

/* min and max give b where a or b is NaN or both are zeros, as the instructions do. power: of
   1.5 2^23 + n the number 2^n. */
