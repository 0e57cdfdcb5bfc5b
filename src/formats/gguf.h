#pragma once
#include "../base/io.h"
#include "../dict/steer.h"

/* ==== >>files: GGUF =========================================================================== */
/* -- GGUF version 3: "GGUF" | u32 version | u64 tensors | u64 pairs | pairs: key, u32 type, value
   | tensors: name, u32 dimensions, u64 sizes, u32 type, u64 offset | to 32 bytes | data. Texts are
   a u64 length and bytes. -- */

static void saei_gguf_int(saei_writer *w, uint64_t value, size_t bytes) {
    saei_writer_put(w, &value, bytes); /* the machine is little endian */
}

static void saei_gguf_text(saei_writer *w, const char *text) {
    saei_gguf_int(w, strlen(text), 8);
    saei_writer_put(w, text, strlen(text));
}

static void saei_gguf_pair(saei_writer *w, const char *key, const char *text, uint32_t number) {
    enum { GGUF_UINT32 = 4, GGUF_STRING = 8 };
    saei_gguf_text(w, key);
    saei_gguf_int(w, text ? GGUF_STRING : GGUF_UINT32, 4);
    if (text) saei_gguf_text(w, text);
    else saei_gguf_int(w, number, 4);
}

static void saei_gguf_pad(saei_writer *w) {
    static const unsigned char zeros[32] = { 0 };
    saei_writer_put(w, zeros, (size_t)(-w->size & 31));
}

static sae_result saei_control_vector_write(const sae_context *ctx, const char *path,
                                            const float *direction, size_t d, size_t layer,
                                            const char *model_hint) {
    enum { GGUF_F32 = 0 };
    char name[32];
    saei_writer w;
    snprintf(name, sizeof name, "direction.%zu", layer);
    SAEI_TRY(saei_writer_open(ctx, "sae_steer_export", path, &w));
    saei_writer_put(&w, "GGUF", 4);
    saei_gguf_int(&w, 3, 4);
    saei_gguf_int(&w, 1, 8);
    saei_gguf_int(&w, 3, 8);
    saei_gguf_pair(&w, "general.architecture", "controlvector", 0);
    saei_gguf_pair(&w, "controlvector.model_hint", model_hint ? model_hint : "", 0);
    saei_gguf_pair(&w, "controlvector.layer_count", NULL, 1);
    saei_gguf_text(&w, name);
    saei_gguf_int(&w, 1, 4);
    saei_gguf_int(&w, d, 8);
    saei_gguf_int(&w, GGUF_F32, 4);
    saei_gguf_int(&w, 0, 8);
    saei_gguf_pad(&w);
    for (size_t k = 0; k < d; k++) {
        uint32_t bits;
        memcpy(&bits, direction + k, sizeof bits);
        saei_gguf_int(&w, bits, 4);
    }
    saei_gguf_pad(&w);
    return saei_writer_finish(&w);
}

SAE_API sae_result sae_steer_export(const sae_dictionary *dict, const sae_steering *steerings,
                                    size_t count, size_t layer, const char *model_hint,
                                    const char *path) {
    float *direction;
    sae_result result;
    if (!dict) return SAE_ERR_INVALID;
    if (!steerings || !count || !path)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_steer_export: steerings or path is NULL, or count is 0");
    SAEI_TRY(saei_steer_check(dict, "sae_steer_export", steerings, count));
    if (layer < 1 || layer > INT32_MAX)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_steer_export: layer is %zu, allowed are 1 to 2147483647 (llama.cpp "
                         "steers no layer 0)",
                         layer);
    if (!dict->W_dec)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "sae_steer_export: %s has no directions",
                         sae_arch_name(dict->desc.arch));
    if (dict->desc.layers > 1)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "sae_steer_export: the dictionary is of "
                         "%zu layers, a control vector of one", dict->desc.layers);
    if (dict->desc.input_norm && !dict->desc.output_normalized)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED, "sae_steer_export: the dictionary has an "
                         "input_norm, so its directions are of another length in every row");
    for (size_t j = 0; j < count; j++)
        if (steerings[j].mode > SAE_STEER_ADD)
            return saei_fail(dict->ctx, SAE_ERR_INVALID,
                             "sae_steer_export: steerings[%zu].mode is %d, allowed is "
                             "SAE_STEER_ADD alone: a control vector only adds",
                             j, (int)steerings[j].mode);
    direction = (float *)saei_calloc(dict->ctx, dict->ld_out, sizeof *direction);
    if (!direction)
        return saei_fail(dict->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_steer_export: no memory");
    for (size_t j = 0; j < count; j++) {
        const float *row = dict->W_dec + (size_t)steerings[j].latent * dict->ld_out;
        dict->ctx->kernels->axpy(dict->ld_out, steerings[j].value, row, direction, direction);
    }
    result = saei_control_vector_write(dict->ctx, path, direction, saei_output_dim(&dict->desc),
                                       layer, model_hint);
    saei_free(dict->ctx, direction);
    return result;
}
