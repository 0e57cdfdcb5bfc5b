#pragma once
#include "../kernels/context.h"
#include "dictionary.h"

/* ==== >>dictionary: descs ===================================================================== */

SAE_API const char *sae_arch_name(sae_arch arch) {
    switch (arch) {
#define SAE_X(name, value, text) case name: return text;
        SAE_ARCHS(SAE_X)
#undef SAE_X
    case SAE_ARCH_DEFAULT: break;
    }
    return "default";
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

static size_t saei_layers(const sae_dictionary_desc *desc) {
    return desc->layers ? desc->layers : 1;
}

/* Entries of a row of f: latents 0 .. m of each layer that has codes of its own. */
static size_t saei_num_codes(const sae_dictionary_desc *desc) {
    return desc->layer_codes ? saei_layers(desc) * desc->dict_size : desc->dict_size;
}

/* Layers that choose their top-k apart. */
static size_t saei_choices(const sae_dictionary_desc *desc) {
    return desc->layer_codes && !desc->over_layers ? saei_layers(desc) : 1;
}

/* The encoder's p is more than a product and a bias. */
static bool saei_is_shaped(const sae_dictionary_desc *desc) {
    return desc->gate || desc->glu || desc->layer_codes;
}

/* One of dictionary_learning's eight classes as it is. */
static bool saei_is_plain(const sae_dictionary_desc *desc) {
    return !desc->no_b_dec_subtraction && !desc->activation && !desc->input_norm && !desc->skip
           && desc->k_fraction == 0 && saei_output_dim(desc) == desc->activation_dim
           && !saei_is_shaped(desc) && saei_layers(desc) == 1 && !desc->normalizer
           && desc->arch != SAE_ARCH_MATCHING_PURSUIT;
}

/* One of those classes, or a transcoder that a state_dict of the class says: with an output of
   another width, a skip connection, another input of the encoder. */
static bool saei_is_state_dict(const sae_dictionary_desc *desc) {
    sae_dictionary_desc plain = *desc;
    plain.output_dim = 0;
    plain.skip = plain.no_b_dec_subtraction = plain.subtract_b_dec = false;
    return saei_is_plain(&plain) && !desc->output_normalized;
}

/* The variations of desc that its class does not have. */
static sae_result saei_variations_check(const sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc) {
    const sae_arch arch = desc->arch;
    const char *name = sae_arch_name(arch);
    bool relu = arch == SAE_ARCH_STANDARD || arch == SAE_ARCH_STANDARD_NEW
                || arch == SAE_ARCH_JUMP_RELU;
    if (desc->activation < SAE_ACTIVATION_POSITIVE || desc->activation > SAE_ACTIVATION_GROUP_MAX
        || (desc->activation && arch != SAE_ARCH_TOP_K
            && !(relu && desc->activation == SAE_ACTIVATION_SIGNED)))
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: activation is %d, allowed are 0, with AutoEncoder, AutoEncoderNew "
                         "and JumpReluAutoEncoder 1, with AutoEncoderTopK 1 to 3; arch is %s",
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

/* Gates, and dictionaries over layers. */
static sae_result saei_layers_check(const sae_context *ctx, const char *who,
                                    const sae_dictionary_desc *desc) {
    const sae_arch arch = desc->arch;
    const size_t layers = saei_layers(desc);
    bool gated = arch == SAE_ARCH_STANDARD || arch == SAE_ARCH_STANDARD_NEW
                 || arch == SAE_ARCH_JUMP_RELU || arch == SAE_ARCH_TOP_K
                 || arch == SAE_ARCH_BATCH_TOP_K;
    if (desc->gate < SAE_GATE_NONE || desc->gate > SAE_GATE_MIXED)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: gate is %d, allowed are 0 to %d", who,
                         (int)desc->gate, (int)SAE_GATE_MIXED);
    if (saei_is_shaped(desc) && (!gated || desc->activation))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: gate, glu or layer_codes is set, allowed with "
                         "AutoEncoder, AutoEncoderNew, JumpReluAutoEncoder, AutoEncoderTopK and "
                         "BatchTopKSAE whose activation is 0; arch is %s, activation %d", who,
                         sae_arch_name(arch), (int)desc->activation);
    if (desc->gate == SAE_GATE_MIXED
        && !(desc->gate_norm >= 0 && desc->gate_norm <= FLT_MAX && desc->gate_norm_sum >= 0
             && desc->gate_norm_sum <= FLT_MAX))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: gate_norm is %g and gate_norm_sum %g, allowed "
                         "are finite numbers from 0", who, desc->gate_norm, desc->gate_norm_sum);
    if (layers > INT32_MAX || desc->activation_dim % layers || saei_output_dim(desc) % layers
        || desc->dict_size > INT32_MAX / layers
        || (layers > 1 && (arch == SAE_ARCH_IDENTITY || arch == SAE_ARCH_MATCHING_PURSUIT)))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: layers is %zu, allowed are divisors of "
                         "activation_dim, %zu, and output_dim, %zu (%s)", who, layers,
                         desc->activation_dim, saei_output_dim(desc), sae_arch_name(arch));
    if (desc->input_norm && layers > SAEI_SMALL_ROWS / 2)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: layers is %zu, allowed with an input_norm are "
                         "1 to %d", who, layers, SAEI_SMALL_ROWS / 2);
    if (desc->over_layers && !desc->layer_codes)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: over_layers is set without layer_codes", who);
    if (desc->normalizer
        && (arch == SAE_ARCH_IDENTITY || arch == SAE_ARCH_MATCHING_PURSUIT || desc->input_norm
            || saei_output_dim(desc) != desc->activation_dim))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: normalizer is set, allowed where output_dim is "
                         "activation_dim and input_norm 0; arch is %s", who, sae_arch_name(arch));
    return SAE_OK;
}

static sae_result saei_pursuit_check(const sae_context *ctx, const char *who,
                                     const sae_dictionary_desc *desc) {
    bool set = desc->residual_threshold != 0 || desc->max_iterations || desc->repeats;
    if (desc->arch != SAE_ARCH_MATCHING_PURSUIT && set)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: residual_threshold, max_iterations or repeats "
                         "is set, fields of MatchingPursuitSAE; arch is %s", who,
                         sae_arch_name(desc->arch));
    if (desc->arch != SAE_ARCH_MATCHING_PURSUIT) return SAE_OK;
    if (!(desc->residual_threshold >= 0 && desc->residual_threshold <= FLT_MAX)
        || desc->max_iterations > INT32_MAX)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: residual_threshold is %g and max_iterations "
                         "%zu, allowed are finite numbers from 0 and up to %d", who,
                         desc->residual_threshold, desc->max_iterations, INT32_MAX);
    if (!desc->no_b_dec_subtraction && !desc->input_norm && !desc->skip
        && saei_output_dim(desc) == desc->activation_dim)
        return SAE_OK;
    return saei_fail(ctx, SAE_ERR_INVALID, "%s: MatchingPursuitSAE has no variations", who);
}

static sae_result saei_dictionary_check(const sae_context *ctx, const char *who,
                                        const sae_dictionary_desc *desc) {
    size_t sum = 0, most;
    if (desc->arch < SAE_ARCH_STANDARD || (int)desc->arch > SAE_NUM_ARCHS)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: arch is %d, allowed are SAE_ARCH_STANDARD (%d) to "
                         "SAE_ARCH_MATCHING_PURSUIT (%d)",
                         who, (int)desc->arch, (int)SAE_ARCH_STANDARD, (int)SAE_NUM_ARCHS);
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
    SAEI_TRY(saei_layers_check(ctx, who, desc));
    most = desc->over_layers ? saei_num_codes(desc) : desc->dict_size;
    if (saei_arch_selects(desc->arch) && (!desc->k || desc->k > most))
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: k is %zu, allowed are 1 to dict_size, %zu", who,
                         desc->k, most);
    SAEI_TRY(saei_variations_check(ctx, who, desc));
    SAEI_TRY(saei_pursuit_check(ctx, who, desc));
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

