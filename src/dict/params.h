#pragma once
#include "../base/random.h"
#include "../kernels/table.h"
#include "dictionary.h"

/* ==== >>dictionary: parameters ================================================================ */

SAE_API const char *sae_arch_name(sae_arch arch) {
    switch (arch) {
#define SAE_X(name, value, text) case name: return text;
        SAE_ARCHS(SAE_X)
#undef SAE_X
    case SAE_ARCH_DEFAULT: break;
    }
    return "default";
}

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

static bool saei_arch_selects(sae_arch arch) { /* has k, threshold and a rule */
    return arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA;
}

/* The input of the encoder is x - b_dec. */
static bool saei_subtracts(const sae_dictionary_desc *desc) {
    return ((desc->arch == SAE_ARCH_STANDARD || desc->arch == SAE_ARCH_GATED
             || saei_arch_selects(desc->arch))
            && !desc->no_b_dec_subtraction)
           || (desc->arch == SAE_ARCH_JUMP_RELU && desc->subtract_b_dec);
}

static size_t saei_output_dim(const sae_dictionary_desc *desc) {
    return desc->output_dim ? desc->output_dim : desc->activation_dim;
}

/* One of dictionary_learning's eight classes as it is. */
static bool saei_is_plain(const sae_dictionary_desc *desc) {
    return !desc->no_b_dec_subtraction && !desc->activation && !desc->input_norm && !desc->skip
           && desc->k_fraction == 0 && saei_output_dim(desc) == desc->activation_dim;
}

/* The variations of desc that its class does not have. */
static sae_result saei_variations_check(const sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc) {
    const sae_arch arch = desc->arch;
    const char *name = sae_arch_name(arch);
    bool relu = arch == SAE_ARCH_STANDARD || arch == SAE_ARCH_STANDARD_NEW;
    if (desc->activation < SAE_ACTIVATION_POSITIVE || desc->activation > SAE_ACTIVATION_GROUP_MAX
        || (desc->activation && arch != SAE_ARCH_TOP_K
            && !(relu && desc->activation == SAE_ACTIVATION_SIGNED)))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: activation is %d, allowed are 0, with AutoEncoder and "
                         "AutoEncoderNew 1, with AutoEncoderTopK 1 to 3; arch is %s",
                         who, (int)desc->activation, name);
    if (desc->activation == SAE_ACTIVATION_GROUP_MAX && desc->dict_size % desc->k)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: k is %zu, group max needs a divisor of dict_size, "
                         "%zu",
                         who, desc->k, desc->dict_size);
    if (desc->k_fraction != 0
        && (!(desc->k_fraction > 0 && desc->k_fraction < 1)
            || (arch != SAE_ARCH_BATCH_TOP_K && arch != SAE_ARCH_MATRYOSHKA)))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k_fraction is %g, allowed are 0 and, with the "
                         "batch classes, numbers below 1; arch is %s", who, desc->k_fraction, name);
    if (desc->input_norm < SAE_INPUT_NORM_NONE || desc->input_norm > SAE_INPUT_NORM_LAYER)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: input_norm is %d, allowed are 0 to %d", who,
                         (int)desc->input_norm, (int)SAE_INPUT_NORM_LAYER);
    if (desc->output_dim > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: output_dim is %zu, allowed are 0 to %d", who,
                         desc->output_dim, INT32_MAX);
    if (desc->subtract_b_dec && arch != SAE_ARCH_JUMP_RELU)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: subtract_b_dec is a field of JumpReluAutoEncoder, "
                         "arch is %s",
                         who, name);
    if (desc->no_b_dec_subtraction && (arch == SAE_ARCH_JUMP_RELU || arch == SAE_ARCH_STANDARD_NEW))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: no_b_dec_subtraction is set, but %s keeps b_dec anyway", who, name);
    if (arch == SAE_ARCH_IDENTITY && !saei_is_plain(desc))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: IdentityDict has no variations", who);
    if (saei_output_dim(desc) == desc->activation_dim) return SAE_OK;
    if (saei_subtracts(desc) || (desc->input_norm && !desc->output_normalized))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: output_dim is %zu and activation_dim %zu: x can "
                         "neither lose b_dec (no_b_dec_subtraction) nor x_hat get its norm back "
                         "(output_normalized)",
                         who, desc->output_dim, desc->activation_dim);
    return SAE_OK;
}

static sae_result saei_dictionary_check(const sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc) {
    size_t sum = 0;
    if (desc->arch < SAE_ARCH_STANDARD || desc->arch > SAE_ARCH_IDENTITY)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: arch is %d, allowed are SAE_ARCH_STANDARD (%d) to "
                         "SAE_ARCH_IDENTITY (%d)",
                         who, (int)desc->arch, (int)SAE_ARCH_STANDARD, (int)SAE_ARCH_IDENTITY);
    if (!desc->activation_dim || desc->activation_dim > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: activation_dim is %zu, allowed are 1 to %d",
                         who, desc->activation_dim, INT32_MAX);
    if (!desc->dict_size || desc->dict_size > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: dict_size is %zu, allowed are 1 to %d", who,
                         desc->dict_size, INT32_MAX);
    if (desc->arch == SAE_ARCH_IDENTITY && desc->dict_size != desc->activation_dim)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: dict_size is %zu, IdentityDict has activation_dim, %zu", who,
                         desc->dict_size, desc->activation_dim);
    if (saei_arch_selects(desc->arch) && (!desc->k || desc->k > desc->dict_size))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k is %zu, allowed are 1 to dict_size, %zu", who,
                         desc->k, desc->dict_size);
    SAEI_TRY(saei_variations_check(ctx, who, desc));
    if (desc->arch != SAE_ARCH_MATRYOSHKA && desc->num_groups)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: num_groups is %zu, only MatryoshkaBatchTopKSAE has "
                         "groups; arch is %s",
                         who, desc->num_groups, sae_arch_name(desc->arch));
    if (desc->arch != SAE_ARCH_MATRYOSHKA) return SAE_OK;
    if (!desc->num_groups || desc->num_groups > SAE_MAX_GROUPS)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: num_groups is %zu, allowed are 1 to %d", who,
                         desc->num_groups, SAE_MAX_GROUPS);
    for (size_t i = 0; i < desc->num_groups; i++) {
        if (!desc->group_sizes[i] || desc->group_sizes[i] > desc->dict_size)
            return saei_fail(ctx, SAE_ERR_INVALID, "%s: group_sizes[%zu] is %zu, allowed are 1 to "
                             "dict_size, %zu", who, i, desc->group_sizes[i], desc->dict_size);
        sum += desc->group_sizes[i];
    }
    if (sum != desc->dict_size)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: group_sizes sum to %zu, dict_size is %zu", who,
                         sum, desc->dict_size);
    return SAE_OK;
}

/* Floats of the parameter block; SIZE_MAX if there can be no such block. */
static size_t saei_param_count(const sae_dictionary_desc *desc) {
    size_t ld = saei_align16(desc->activation_dim), m = saei_align16(desc->dict_size), matrices,
           all, out = saei_output_dim(desc), ld_out = saei_align16(out), skip = 0;
    if (desc->arch == SAE_ARCH_IDENTITY) return 0;
    if (!saei_mul(desc->dict_size, ld + ld_out, &matrices)
        || !saei_add(matrices, 3 * m + ld_out, &all)
        || (desc->skip && (!saei_mul(out, ld, &skip) || !saei_add(all, skip, &all)))
        || all > SIZE_MAX / 8)
        return SIZE_MAX;
    return all - (desc->arch == SAE_ARCH_GATED ? 0 : desc->arch == SAE_ARCH_JUMP_RELU ? m : 2 * m);
}

/* Points the named arrays of dict into a block of its layout. */
static void saei_dictionary_place(sae_dictionary *dict, float *params) {
    size_t m = saei_align16(dict->desc.dict_size);
    float *at = params;
    dict->params = params;
    dict->ld_out = saei_align16(saei_output_dim(&dict->desc));
    if (!params) return;
    dict->W_enc = at;
    at += dict->desc.dict_size * dict->ld;
    dict->W_dec = at;
    at += dict->desc.dict_size * dict->ld_out;
    dict->b_enc = at;
    at += m;
    if (dict->desc.arch == SAE_ARCH_GATED || dict->desc.arch == SAE_ARCH_JUMP_RELU) {
        dict->aux0 = at;
        at += m;
    }
    if (dict->desc.arch == SAE_ARCH_GATED) {
        dict->aux1 = at;
        at += m;
    }
    dict->b_dec = at;
    if (dict->desc.skip) dict->W_skip = at + dict->ld_out;
}

/* All parameters to 0, but not the rows of W_enc and W_dec, only what pads them. */
static void saei_dictionary_clear_rest(sae_dictionary *dict) {
    const size_t m = dict->desc.dict_size, matrices = m * (dict->ld + dict->ld_out);
    const size_t d = dict->desc.activation_dim, out = dict->desc.output_dim;
    if (!dict->params) return;
    for (size_t i = 0; i < m && d < dict->ld; i++)
        memset(dict->W_enc + i * dict->ld + d, 0, (dict->ld - d) * sizeof(float));
    for (size_t i = 0; i < m && out < dict->ld_out; i++)
        memset(dict->W_dec + i * dict->ld_out + out, 0, (dict->ld_out - out) * sizeof(float));
    memset(dict->params + matrices, 0, (dict->num_params - matrices) * sizeof(float));
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
    dict->ld = saei_align16(desc->activation_dim);
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
    *out = dict;
    return SAE_OK;
}

/* Allocates with all parameters zero, threshold -1. Checks desc as sae_dictionary_create does;
   `who` is the function named in messages. */
static sae_result saei_dictionary_new(sae_context *ctx, const char *who,
                                      const sae_dictionary_desc *desc, sae_dictionary **out) {
    SAEI_TRY(saei_dictionary_unset(ctx, who, desc, out));
    if ((*out)->params) memset((*out)->params, 0, (*out)->num_params * sizeof(float));
    return SAE_OK;
}

static sae_result saei_dictionary_copy(const sae_dictionary *dict, const char *who,
                                       sae_dictionary **out) {
    sae_dictionary *copy = NULL;
    SAEI_TRY(saei_dictionary_unset(dict->ctx, who, &dict->desc, &copy));
    if (dict->num_params) memcpy(copy->params, dict->params, dict->num_params * sizeof(float));
    copy->threshold = dict->threshold;
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

SAE_API float sae_dictionary_threshold(const sae_dictionary *dict) { return dict->threshold; }

SAE_API const float *sae_dictionary_decoder_row(const sae_dictionary *dict, size_t latent) {
    if (!dict || !dict->W_dec || latent >= dict->desc.dict_size) return NULL;
    return dict->W_dec + latent * dict->ld_out;
}
SAE_API const float *sae_dictionary_encoder_row(const sae_dictionary *dict, size_t latent) {
    return dict && dict->W_enc && latent < dict->desc.dict_size ? dict->W_enc + latent * dict->ld
                                                                : NULL;
}

SAE_API sae_result sae_dictionary_scale_biases(sae_dictionary *dict, float scale) {
    size_t m;
    if (!dict) return SAE_ERR_INVALID;
    if (!(scale > 0) || scale > FLT_MAX)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_scale_biases: scale is %g, allowed "
                         "are finite numbers above 0",
                         (double)scale);
    if (dict->desc.input_norm)
        return saei_fail(dict->ctx, SAE_ERR_UNSUPPORTED,
                         "sae_dictionary_scale_biases: the dictionary "
                         "has an input_norm, which takes rows of any scale already");
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
    return SAE_OK;
}

/* Work over all latents in parts of 64. */
enum { SAEI_PART_LATENTS = 64 };
static void saei_each_latent(const sae_dictionary *dict, saei_part_fn fn, void *arg) {
    saei_parallel(dict->ctx, saei_ceil_div(dict->desc.dict_size, SAEI_PART_LATENTS), fn, arg);
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
