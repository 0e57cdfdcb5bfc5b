#pragma once
#include "../formats/crosscoders.h"
#include "check.h"

/* ==== >>trainer: the start of a crosscoder ==================================================== */

/* What of its dictionary a crosscoder's trainer adds: there always is a normalizer, which does
   nothing where none is known. */
static void saei_crosscoder_desc(const sae_trainer_desc *h, sae_dictionary_desc *out) {
    static const sae_gate gates[] = { SAE_GATE_NONE, SAE_GATE_NORM_SUM, SAE_GATE_NORM,
                                      SAE_GATE_MIXED, SAE_GATE_NONE, SAE_GATE_NORM };
    out->layers = h->num_layers;
    out->normalizer = true;
    if (h->kind != SAE_TRAINER_BATCH_TOP_K_CROSSCODER) return;
    out->no_b_dec_subtraction = true;
    out->gate = gates[h->code_normalization];
    out->layer_codes = h->code_normalization == SAE_CODE_DECOUPLED;
    if (out->gate != SAE_GATE_MIXED) return;
    out->gate_norm = saei_number_of(h->code_normalization_alpha_sae);
    out->gate_norm_sum = saei_number_of(h->code_normalization_alpha_cc);
}

/* Whether the context's backend trains kind. */
static sae_result saei_crosscoder_backend(const sae_context *ctx, const char *who,
                                          sae_trainer_kind kind) {
    const sae_backend *ops = saei_backend_of(ctx);
    const char *missing = NULL;
    if (!(saei_scheme_of(kind)->traits & SAEI_LAYERS)) return SAE_OK;
#define SAEI_CHECK(result, operation, need, parameters, arguments)                                 \
    if (!missing && !ops->operation) missing = #operation;
    SAE_BACKEND_LAYERS(SAEI_CHECK)
#undef SAEI_CHECK
    if (!missing) return SAE_OK;
    return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: the backend \"%s\" has no %s, which %s needs; "
                     "the CPU's has it", who, ops->name, missing, sae_trainer_name(kind));
}

typedef struct saei_crosscoder_job {
    sae_dictionary *dict;
    bool unit; /* rows of each layer to norm 1 */
} saei_crosscoder_job;

/* W_enc uniform within sqrt(6 / (d m)), d of one layer; W_dec the same. */
static void saei_crosscoder_draw(void *arg, size_t part) {
    saei_crosscoder_job *job = (saei_crosscoder_job *)arg;
    sae_dictionary *dict = job->dict;
    const sae_dictionary_desc *h = &dict->desc;
    const size_t d = h->activation_dim / h->layers, end = saei_min((part + 1) * 64, h->dict_size);
    saei_random random = saei_random_of(h->seed, SAEI_STREAM_INIT);
    const double width = sqrt(6.0 / ((double)d * (double)h->dict_size));
    for (size_t i = part * 64; i < end; i++) {
        float *enc = dict->W_enc + i * dict->ld;
        for (size_t c = 0; c < h->activation_dim; c++) {
            double u = saei_random_uniform(&random, (uint64_t)i * h->activation_dim + c);
            enc[c] = (float)((2 * u - 1) * width);
        }
        for (size_t l = 0; job->unit && l < h->layers; l++) {
            float norm = (float)sqrt(saei_squares(dict->ctx->kernels, enc + l * d, d));
            for (size_t c = l * d; norm > 0 && c < (l + 1) * d; c++) enc[c] /= norm;
        }
        memcpy(dict->W_dec + i * dict->ld_out, enc, h->activation_dim * sizeof *enc);
    }
}

/* What init holds, into `to`, which has the trainer's desc. */
static sae_result saei_crosscoder_take(sae_trainer *t, const sae_dictionary *from,
                                       sae_dictionary *to) {
    const sae_dictionary_desc *has = &from->desc, *want = &to->desc;
    if (!from->code || has->arch != want->arch)
        return saei_fail(t->ctx, SAE_ERR_MISMATCH, "sae_trainer_create: init is %s, which holds "
                         "%s%s; the trainer has a %s", t->desc.init, sae_arch_name(has->arch),
                         from->code ? " of layers" : "",
                         t->desc.kind == SAE_TRAINER_CROSSCODER ? "CrossCoder"
                                                                : "BatchTopKCrossCoder");
    if (has->activation_dim != want->activation_dim || has->layers != want->layers
        || has->dict_size != want->dict_size || has->layer_codes != want->layer_codes)
        return saei_fail(t->ctx, SAE_ERR_MISMATCH, "sae_trainer_create: %s holds %zu latents of "
                         "%zu layers of %zu dimensions%s, the trainer has %zu of %zu of %zu%s",
                         t->desc.init, has->dict_size, has->layers,
                         has->activation_dim / has->layers, has->layer_codes ? ", decoupled" : "",
                         want->dict_size, want->layers, want->activation_dim / want->layers,
                         want->layer_codes ? ", decoupled" : "");
    memcpy(to->W_enc, from->W_enc, want->dict_size * to->ld * sizeof(float));
    memcpy(to->W_dec, from->W_dec, want->dict_size * to->ld * sizeof(float));
    memcpy(to->b_enc, from->b_enc, want->dict_size * sizeof(float));
    memcpy(to->b_dec, from->b_dec, to->ld * sizeof(float));
    to->threshold = from->threshold;
    for (size_t l = 0; to->thresholds && l < want->layers; l++)
        to->thresholds[l] = from->thresholds[l];
    to->target_rms = from->target_rms;
    to->normalizes = from->normalizes;
    if (!from->normalizes) return SAE_OK;
    memcpy(to->mean, from->mean, to->ld * sizeof(float));
    memcpy(to->spread, from->spread, to->ld * sizeof(float));
    for (size_t l = 0; l < want->layers; l++) {
        to->scale[l] = from->scale[l];
        to->output_scale[l] = from->output_scale[l];
    }
    return SAE_OK;
}

/* The start: init's tensors and buffers, or the class's own. */
static sae_result saei_crosscoder_start(sae_trainer *t, sae_dictionary **out) {
    sae_dictionary *to = NULL, *from = NULL;
    sae_result result = sae_dictionary_create(t->ctx, &t->view.desc, &to);
    if (result != SAE_OK) return result;
    to->target_rms = 1;
    if (!t->desc.init) {
        saei_crosscoder_job job;
        job.dict = to;
        job.unit = t->desc.kind == SAE_TRAINER_BATCH_TOP_K_CROSSCODER;
        saei_parallel(t->ctx, saei_ceil_div(to->desc.dict_size, 64), saei_crosscoder_draw, &job);
    } else {
        sae_load_desc load;
        memset(&load, 0, sizeof load);
        load.raw = true;
        result = sae_dictionary_load(t->ctx, &load, t->desc.init, &from);
        if (result == SAE_OK) result = saei_crosscoder_take(t, from, to);
        sae_dictionary_destroy(from);
    }
    t->view.code = (int)t->desc.code_normalization;
    t->view.normalizes = to->normalizes;
    t->view.target_rms = to->target_rms;
    if (result == SAE_OK) *out = to;
    else sae_dictionary_destroy(to);
    return result;
}
