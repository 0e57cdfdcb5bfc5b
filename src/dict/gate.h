#pragma once
#include "../kernels/table.h"
#include "desc.h"

/* ==== >>dictionary: gate ====================================================================== */
/* The weights w of the choice among latents, which follow from W_dec. */

/* Work over all latents in parts of 64. */
enum { SAEI_PART_LATENTS = 64 };
static void saei_each_latent(const sae_dictionary *dict, saei_part_fn fn, void *arg) {
    saei_parallel(dict->ctx, saei_ceil_div(dict->desc.dict_size, SAEI_PART_LATENTS), fn, arg);
}

/* |x|^2 of n floats at any address, in pieces that end in zeros. */
static double saei_squares(const saei_kernels *kernels, const float *x, size_t n) {
    enum { PIECE = 256 };
    float piece[PIECE];
    double sum = 0;
    for (size_t c = 0; c < n; c += PIECE) {
        size_t some = saei_min(n - c, PIECE), whole = saei_align16(some);
        memcpy(piece, x + c, some * sizeof *piece);
        memset(piece + some, 0, (whole - some) * sizeof *piece);
        sum += kernels->dot(whole, piece, piece);
    }
    return sum;
}

static void saei_gate_latents(void *arg, size_t part) {
    sae_dictionary *dict = (sae_dictionary *)arg;
    const sae_dictionary_desc *h = &dict->desc;
    const size_t layers = saei_layers(h), m = h->dict_size, d = saei_output_dim(h) / layers;
    const size_t end = saei_min((part + 1) * SAEI_PART_LATENTS, m);
    double norm_share = h->gate_norm, sum_share = h->gate_norm_sum;
    if (norm_share == 0 && sum_share == 0) norm_share = 1, sum_share = 0.1;
    for (size_t i = part * SAEI_PART_LATENTS; i < end; i++) {
        double all = 0, sum = 0;
        for (size_t l = 0; l < layers; l++) {
            double square = saei_squares(dict->ctx->kernels,
                                         dict->W_dec + i * dict->ld_out + l * d, d);
            all += square;
            sum += sqrt(square);
            if (h->layer_codes) dict->gate[l * m + i] = (float)sqrt(square);
        }
        all = sqrt(all);
        if (h->gate == SAE_GATE_NORM && h->layer_codes) continue;
        if (h->gate == SAE_GATE_NORM_SUM) all = sum;
        if (h->gate == SAE_GATE_MIXED) all = norm_share * all + sum_share * sum;
        for (size_t l = 0; l < saei_num_codes(h) / m; l++) dict->gate[l * m + i] = (float)all;
    }
}

/* To be called wherever W_dec has changed. */
static void saei_gate_update(sae_dictionary *dict) {
    if (dict->gate) saei_each_latent(dict, saei_gate_latents, dict);
}

/* f of the code whose p w is given. */
static float saei_ungate(const sae_dictionary *dict, size_t code, float value) {
    return dict->gate && value != 0 ? value / dict->gate[code] : value;
}

/* The threshold of a code under the batch classes' rule. */
static float saei_code_threshold(const sae_dictionary *dict, size_t code) {
    return dict->thresholds ? dict->thresholds[code / dict->desc.dict_size] : dict->threshold;
}
