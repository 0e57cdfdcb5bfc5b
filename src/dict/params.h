#pragma once
#include "../base/random.h"
#include "../kernels/table.h"
#include "gate.h"

/* ==== >>dictionary: parameters ================================================================ */

/* An encode of rows x [n][ld] by dict; what only some selections need is left to be added. */
static sae_encode_args saei_encode_args_of(const sae_dictionary *dict, sae_select select,
                                           const float *x, size_t n) {
    sae_encode_args a;
    memset(&a, 0, sizeof a);
    a.x = x;
    a.W = dict->W_enc;
    a.bias = dict->b_enc;
    a.n = n;
    a.d = dict->desc.activation_dim;
    a.ld = dict->ld;
    a.m = dict->desc.dict_size;
    a.select = select;
    a.k = dict->desc.k;
    return a;
}

/* A batch class whose layers have codes, and so thresholds, of their own. */
static bool saei_has_thresholds(const sae_dictionary_desc *desc) {
    return desc->layer_codes && desc->arch == SAE_ARCH_BATCH_TOP_K;
}

/* The next `rows` times `cols` floats of a block of which *at are used. at SIZE_MAX: more than
   there can be. base NULL: nothing is there yet. */
static float *saei_param_piece(float *base, size_t *at, size_t rows, size_t cols) {
    size_t here = *at, size;
    if (here == SIZE_MAX || !saei_mul(rows, cols, &size) || !saei_add(here, size, at)
        || *at > SIZE_MAX / 8)
        *at = SIZE_MAX;
    return base && *at != SIZE_MAX ? base + here : NULL;
}

/* Points the named arrays of dict, whose desc is set, into a block of its layout; with params NULL
   they are NULL. How many floats it has; SIZE_MAX if there can be no such block. */
static size_t saei_dictionary_place(sae_dictionary *dict, float *params) {
    const sae_dictionary_desc *h = &dict->desc;
    const size_t out = saei_output_dim(h), ld = saei_align16(h->activation_dim);
    const size_t m = saei_align16(h->dict_size), layers = saei_align16(saei_layers(h));
    size_t at = 0;
    bool gated = h->arch == SAE_ARCH_GATED, tied = h->arch == SAE_ARCH_MATCHING_PURSUIT;
    dict->params = params;
    dict->ld = ld;
    dict->ld_out = saei_align16(out);
    if (h->arch == SAE_ARCH_IDENTITY) return 0;
    if (!tied) dict->W_enc = saei_param_piece(params, &at, h->dict_size, ld);
    dict->W_dec = saei_param_piece(params, &at, h->dict_size, dict->ld_out);
    if (tied) dict->W_enc = dict->W_dec;
    dict->b_enc = saei_param_piece(params, &at, 1, m);
    if (gated || h->arch == SAE_ARCH_JUMP_RELU) dict->aux0 = saei_param_piece(params, &at, 1, m);
    if (gated) dict->aux1 = saei_param_piece(params, &at, 1, m);
    dict->b_dec = saei_param_piece(params, &at, 1, dict->ld_out);
    if (h->skip) dict->W_skip = saei_param_piece(params, &at, out, ld);
    if (h->glu) {
        dict->W_glu = saei_param_piece(params, &at, h->dict_size, ld);
        dict->b_glu = saei_param_piece(params, &at, 1, m);
    }
    if (h->gate) dict->gate = saei_param_piece(params, &at, 1, saei_align16(saei_num_codes(h)));
    if (saei_has_thresholds(h)) dict->thresholds = saei_param_piece(params, &at, 1, layers);
    if (h->normalizer) {
        dict->mean = saei_param_piece(params, &at, 1, ld);
        dict->scale = saei_param_piece(params, &at, 1, layers);
        dict->output_scale = saei_param_piece(params, &at, 1, layers);
        dict->spread = saei_param_piece(params, &at, 1, ld);
    }
    return at;
}

/* Floats of the parameter block; SIZE_MAX if there can be no such block. */
static size_t saei_param_count(const sae_dictionary_desc *desc) {
    sae_dictionary dict;
    memset(&dict, 0, sizeof dict);
    dict.desc = *desc;
    return saei_dictionary_place(&dict, NULL);
}

/* All parameters to 0, but not the rows of W_enc and W_dec, only what pads them. */
static void saei_dictionary_clear_rest(sae_dictionary *dict) {
    const size_t m = dict->desc.dict_size;
    const size_t d = dict->desc.activation_dim, out = dict->desc.output_dim;
    size_t matrices;
    if (!dict->params) return;
    matrices = (size_t)(dict->b_enc - dict->params);
    for (size_t i = 0; i < m && d < dict->ld; i++)
        memset(dict->W_enc + i * dict->ld + d, 0, (dict->ld - d) * sizeof(float));
    for (size_t i = 0; i < m && out < dict->ld_out; i++)
        memset(dict->W_dec + i * dict->ld_out + out, 0, (dict->ld_out - out) * sizeof(float));
    memset(dict->params + matrices, 0, (dict->num_params - matrices) * sizeof(float));
}

/* What begins with another value than 0. */
static void saei_dictionary_begin(sae_dictionary *dict) {
    for (size_t l = 0; l < dict->desc.layers; l++) {
        if (dict->thresholds) dict->thresholds[l] = -1;
        if (dict->scale) dict->scale[l] = dict->output_scale[l] = 1;
    }
}

/* saei_dictionary_new, but for the rows of W_enc and W_dec, which the caller fills: a large one
   costs as much to clear as to copy. */
static sae_result saei_dictionary_unset(sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc, sae_dictionary **out) {
    sae_dictionary *dict;
    float *params = NULL;
    size_t count;
    SAEI_TRY(saei_dictionary_check(ctx, who, desc));
    count = saei_param_count(desc);
    dict = (sae_dictionary *)saei_calloc(ctx, 1, sizeof *dict);
    if (dict && count) params = (float *)saei_alloc(ctx, count, sizeof(float));
    if (!dict || (count && !params)) {
        saei_free(ctx, dict);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY,
                         "%s: no memory for a dictionary of %zu latents of "
                         "%zu dimensions",
                         who, desc->dict_size, desc->activation_dim);
    }
    dict->ctx = ctx;
    dict->desc = *desc;
    dict->desc.output_dim = saei_output_dim(desc);
    dict->desc.layers = saei_layers(desc);
    dict->num_params = count;
    dict->threshold = saei_arch_selects(desc->arch) ? -1.0f : 0.0f;
    dict->rule = desc->arch == SAE_ARCH_TOP_K ? SAE_RULE_TOP_K
                 : saei_arch_selects(desc->arch) ? SAE_RULE_THRESHOLD : SAE_RULE_DEFAULT;
    dict->active_groups = desc->num_groups;
    dict->origin.layer = -1;
    dict->origin.dict_size = desc->dict_size;
    dict->origin.k = desc->k;
    saei_dictionary_place(dict, params);
    saei_dictionary_clear_rest(dict);
    saei_dictionary_begin(dict);
    *out = dict;
    return SAE_OK;
}

/* Allocates with all parameters zero, threshold -1. Checks desc as sae_dictionary_create does;
   `who` is the function named in messages. */
static sae_result saei_dictionary_new(sae_context *ctx, const char *who,
                                      const sae_dictionary_desc *desc, sae_dictionary **out) {
    SAEI_TRY(saei_dictionary_unset(ctx, who, desc, out));
    if ((*out)->params) memset((*out)->params, 0, (*out)->num_params * sizeof(float));
    saei_dictionary_begin(*out);
    return SAE_OK;
}

static sae_result saei_dictionary_copy(const sae_dictionary *dict, const char *who,
                                       sae_dictionary **out) {
    sae_dictionary *copy = NULL;
    SAEI_TRY(saei_dictionary_unset(dict->ctx, who, &dict->desc, &copy));
    if (dict->num_params) memcpy(copy->params, dict->params, dict->num_params * sizeof(float));
    copy->threshold = dict->threshold;
    copy->code = dict->code;
    copy->normalizes = dict->normalizes;
    copy->target_rms = dict->target_rms;
    copy->rule = dict->rule;
    copy->active_groups = dict->active_groups;
    copy->origin = dict->origin;
    *out = copy;
    return SAE_OK;
}

/* Rows of W_dec drawn, brought to the class's norm, and copied to W_enc (as far as they go, where
   output_dim differs); W_skip is 0. All classes but STANDARD and GATED draw uniformly; the draw's
   width does not matter, as the norms are set after it. */
static void saei_dictionary_init_part(void *arg, size_t part) {
    sae_dictionary *dict = (sae_dictionary *)arg;
    const sae_dictionary_desc *h = &dict->desc;
    bool normal = h->arch == SAE_ARCH_STANDARD || h->arch == SAE_ARCH_STANDARD_NEW
                  || h->arch == SAE_ARCH_GATED;
    float length = normal && h->arch != SAE_ARCH_GATED ? 0.1f : 1.0f;
    size_t d = h->output_dim, end = saei_min((part + 1) * 64, h->dict_size);
    saei_random random = saei_random_of(h->seed, SAEI_STREAM_INIT);
    for (size_t i = part * 64; i < end; i++) {
        float *row = dict->W_dec + i * dict->ld_out, norm;
        for (size_t c = 0; c < d; c++) {
            uint64_t draw = (uint64_t)i * d + c;
            row[c] = (float)(normal ? saei_random_normal(&random, draw)
                                    : 2 * saei_random_uniform(&random, draw) - 1);
        }
        norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        for (size_t c = 0; c < d; c++) row[c] = row[c] / norm * length;
        if (dict->W_enc != dict->W_dec)
            memcpy(dict->W_enc + i * dict->ld, row, saei_min(d, h->activation_dim) * sizeof *row);
    }
}

static void saei_dictionary_init(sae_dictionary *dict) {
    const sae_dictionary_desc *h = &dict->desc;
    if (h->arch == SAE_ARCH_IDENTITY) return;
    saei_parallel(dict->ctx, saei_ceil_div(h->dict_size, 64), saei_dictionary_init_part, dict);
    if (h->arch == SAE_ARCH_STANDARD) { /* what torch.nn.Linear begins with; the others zero it */
        saei_random random = saei_random_of(h->seed, SAEI_STREAM_INIT_BIAS);
        double width = 1 / sqrt((double)h->activation_dim);
        for (size_t i = 0; i < h->dict_size; i++)
            dict->b_enc[i] = (float)(width * (2 * saei_random_uniform(&random, i) - 1));
    }
    if (h->arch == SAE_ARCH_JUMP_RELU)
        for (size_t i = 0; i < h->dict_size; i++) dict->aux0[i] = 0.001f;
    saei_gate_update(dict);
}

SAE_API sae_result sae_dictionary_create(sae_context *ctx, const sae_dictionary_desc *desc,
                                         sae_dictionary **out) {
    sae_dictionary *dict = NULL;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_dictionary_create: %s is NULL",
                         desc ? "out" : "desc");
    SAEI_TRY(saei_dictionary_new(ctx, "sae_dictionary_create", desc, &dict));
    saei_dictionary_init(dict);
    *out = dict;
    return SAE_OK;
}

static void saei_prepared_drop(sae_dictionary *dict) {
    saei_free(dict->ctx, dict->prepared);
    dict->prepared = NULL;
}

SAE_API void sae_dictionary_destroy(sae_dictionary *dict) {
    if (!dict || dict->borrowed) return;
    saei_prepared_drop(dict);
    saei_free(dict->ctx, dict->params);
    saei_free(dict->ctx, dict);
}

SAE_API const sae_dictionary_desc *sae_dictionary_get_desc(const sae_dictionary *dict) {
    return &dict->desc;
}

SAE_API const sae_origin *sae_dictionary_origin(const sae_dictionary *dict) {
    return &dict->origin;
}

SAE_API sae_result sae_dictionary_set_rule(sae_dictionary *dict, sae_rule rule) {
    if (!dict) return SAE_ERR_INVALID;
    if (rule < SAE_RULE_DEFAULT || rule > SAE_RULE_THRESHOLD
        || (rule != SAE_RULE_DEFAULT && !saei_arch_selects(dict->desc.arch)))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_set_rule: rule is %d; only the "
                         "top-k classes have a choice (1 top_k, 2 threshold), this is %s",
                         (int)rule, sae_arch_name(dict->desc.arch));
    if (rule == SAE_RULE_THRESHOLD && dict->desc.activation)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_set_rule: rule is 2 (threshold), "
                         "signed latents and group max have none");
    if (rule == SAE_RULE_DEFAULT && saei_arch_selects(dict->desc.arch))
        rule = dict->desc.arch == SAE_ARCH_TOP_K ? SAE_RULE_TOP_K : SAE_RULE_THRESHOLD;
    if (rule != dict->rule) saei_prepared_drop(dict);
    dict->rule = rule;
    return SAE_OK;
}

SAE_API size_t sae_dictionary_num_latents(const sae_dictionary *dict) {
    return saei_num_codes(&dict->desc);
}

SAE_API sae_rule sae_dictionary_rule(const sae_dictionary *dict) { return dict->rule; }

SAE_API sae_result sae_dictionary_set_active_groups(sae_dictionary *dict, size_t active_groups) {
    if (!dict) return SAE_ERR_INVALID;
    if (active_groups > dict->desc.num_groups)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_set_active_groups: active_groups is "
                         "%zu, allowed are 0 (all) to %zu",
                         active_groups, dict->desc.num_groups);
    dict->active_groups = active_groups ? active_groups : dict->desc.num_groups;
    return SAE_OK;
}

SAE_API float sae_dictionary_threshold(const sae_dictionary *dict) {
    return dict->thresholds ? dict->thresholds[0] : dict->threshold;
}

SAE_API const float *sae_dictionary_decoder_row(const sae_dictionary *dict, size_t latent) {
    if (!dict || !dict->W_dec || latent >= saei_num_codes(&dict->desc)) return NULL;
    return dict->W_dec + latent % dict->desc.dict_size * dict->ld_out;
}
SAE_API const float *sae_dictionary_encoder_row(const sae_dictionary *dict, size_t latent) {
    if (!dict || !dict->W_enc || latent >= saei_num_codes(&dict->desc)) return NULL;
    return dict->W_enc + latent % dict->desc.dict_size * dict->ld;
}

SAE_API sae_result sae_dictionary_scale_biases(sae_dictionary *dict, float scale) {
    size_t m;
    if (!dict) return SAE_ERR_INVALID;
    if (!(scale > 0) || scale > FLT_MAX)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_scale_biases: scale is %g, allowed "
                         "are finite numbers above 0",
                         (double)scale);
    if (dict->desc.input_norm || (dict->desc.normalizer && (!dict->code || dict->normalizes))
        || dict->desc.glu)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "sae_dictionary_scale_biases: the dictionary has %s",
                         dict->desc.glu ? "a glu, which is not linear in its input"
                                        : "an input_norm or a normalizer, which sets the scale");
    m = dict->desc.dict_size;
    if (dict->desc.arch == SAE_ARCH_IDENTITY) return SAE_OK;
    saei_prepared_drop(dict);
    for (size_t i = 0; i < m; i++) dict->b_enc[i] *= scale;
    for (size_t c = 0; c < saei_output_dim(&dict->desc); c++) dict->b_dec[c] *= scale;
    if (dict->desc.arch == SAE_ARCH_JUMP_RELU)
        for (size_t i = 0; i < m; i++) dict->aux0[i] *= scale;
    if (dict->desc.arch == SAE_ARCH_GATED)
        for (size_t i = 0; i < m; i++) dict->aux1[i] *= scale; /* r_mag is no bias */
    if (saei_arch_selects(dict->desc.arch) && dict->threshold >= 0) dict->threshold *= scale;
    for (size_t l = 0; dict->thresholds && l < dict->desc.layers; l++)
        if (dict->thresholds[l] >= 0) dict->thresholds[l] *= scale;
    return SAE_OK;
}

typedef struct saei_unit_job {
    const sae_dictionary *dict;
    int lock;
    bool found; /* a row of another norm */
} saei_unit_job;

static void saei_unit_part(void *arg, size_t part) {
    saei_unit_job *job = (saei_unit_job *)arg;
    const sae_dictionary *dict = job->dict;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    bool close = true;
    for (; i < end && close; i++) {
        const float *row = dict->W_dec + i * dict->ld_out;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        close = fabsf(norm - 1) <= 1e-8f + 1e-5f;
    }
    if (close) return;
    saei_lock(&job->lock);
    job->found = true;
    saei_unlock(&job->lock);
}

static bool saei_decoder_is_unit(const sae_dictionary *dict) {
    saei_unit_job job = { dict, 0, false };
    saei_each_latent(dict, saei_unit_part, &job);
    return !job.found;
}

static void saei_fold_decoder_part(void *arg, size_t part) {
    sae_dictionary *dict = (sae_dictionary *)arg;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    for (; i < end; i++) {
        float *dec = dict->W_dec + i * dict->ld_out, *enc = dict->W_enc + i * dict->ld;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, dec, dec));
        if (!(norm > 0)) continue; /* a latent without direction stays without effect */
        dict->ctx->kernels->divide(dict->ld_out, dec, norm, dec);
        dict->ctx->kernels->scale(dict->ld, norm, enc, enc);
        dict->b_enc[i] *= norm;
        if (dict->desc.arch == SAE_ARCH_JUMP_RELU) dict->aux0[i] *= norm;
        if (dict->desc.arch == SAE_ARCH_GATED) dict->aux1[i] *= norm;
    }
}

/* W_dec rows to norm 1, the norms moved into the encoder: f_i becomes f_i norm_i, x_hat stays
   (but for choices among latents, as top-k, that compare the new f). */
static void saei_fold_decoder_norms(sae_dictionary *dict) {
    saei_prepared_drop(dict);
    saei_each_latent(dict, saei_fold_decoder_part, dict);
}

SAE_API sae_result sae_dictionary_normalize_decoder(sae_dictionary *dict) {
    if (!dict) return SAE_ERR_INVALID;
    if (dict->desc.arch == SAE_ARCH_STANDARD && !saei_decoder_is_unit(dict))
        saei_fold_decoder_norms(dict);
    return SAE_OK;
}

typedef struct saei_scale_job {
    sae_dictionary *dict;
    float in, out;
} saei_scale_job;

static void saei_scale_part(void *arg, size_t part) {
    const saei_scale_job *job = (const saei_scale_job *)arg;
    const sae_dictionary *dict = job->dict;
    const saei_kernels *kernels = dict->ctx->kernels;
    size_t i = part * SAEI_PART_LATENTS;
    size_t end = saei_min(i + SAEI_PART_LATENTS, dict->desc.dict_size);
    for (; i < end; i++) {
        float *enc = dict->W_enc + i * dict->ld, *dec = dict->W_dec + i * dict->ld_out;
        kernels->scale(dict->ld, job->in, enc, enc);
        if (dict->W_glu)
            kernels->scale(dict->ld, job->in, dict->W_glu + i * dict->ld,
                           dict->W_glu + i * dict->ld);
        kernels->divide(dict->ld_out, dec, job->out, dec);
    }
}

/* Moves factors into the weights: what was made for in x, and gives out x_hat, takes and gives
   them plain. f stays. */
static void saei_fold_scale(sae_dictionary *dict, float in, float out) {
    saei_scale_job job = { dict, in, out };
    saei_each_latent(dict, saei_scale_part, &job);
    for (size_t c = 0; c < dict->ld_out; c++) dict->b_dec[c] /= out;
    saei_gate_update(dict);
}
