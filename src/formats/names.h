#pragma once
#include "../base/platform.h"

/* ==== >>files: names of trainers ============================================================== */

SAE_API const char *sae_trainer_name(sae_trainer_kind kind) {
    switch (kind) {
#define SAE_X(name, value, text, reference) case name: return text;
        SAE_TRAINERS(SAE_X)
#undef SAE_X
    case SAE_TRAINER_DEFAULT: break;
    }
    return "default";
}

SAE_API const char *sae_trainer_class(sae_trainer_kind kind) {
    switch (kind) {
#define SAE_X(name, value, text, reference) case name: return reference;
        SAE_TRAINERS(SAE_X)
#undef SAE_X
    case SAE_TRAINER_DEFAULT: break;
    }
    return "default";
}

SAE_API bool sae_trainer_from_name(const char *name, sae_trainer_kind *out) {
#define SAE_X(kind, value, text, reference)                                                        \
    if (name && out && (!strcmp(name, text) || !strcmp(name, reference))) {                        \
        *out = kind;                                                                               \
        return true;                                                                               \
    }
    SAE_TRAINERS(SAE_X)
#undef SAE_X
    return false;
}

static bool saei_is_top_k(sae_trainer_kind kind) {
    return kind == SAE_TRAINER_TOP_K || kind == SAE_TRAINER_BATCH_TOP_K
           || kind == SAE_TRAINER_MATRYOSHKA;
}
static bool saei_is_gated(sae_trainer_kind kind) {
    return kind == SAE_TRAINER_GATED || kind == SAE_TRAINER_GATED_ANNEAL;
}
static bool saei_is_annealer(sae_trainer_kind kind) {
    return kind == SAE_TRAINER_P_ANNEAL || kind == SAE_TRAINER_GATED_ANNEAL;
}

static sae_arch saei_trainer_arch(const sae_trainer_desc *desc) {
    if (desc->arch != SAE_ARCH_DEFAULT) return desc->arch;
    switch (desc->kind) {
    case SAE_TRAINER_GATED:
    case SAE_TRAINER_GATED_ANNEAL: return SAE_ARCH_GATED;
    case SAE_TRAINER_DEFAULT:
    case SAE_TRAINER_TOP_K: return SAE_ARCH_TOP_K;
    case SAE_TRAINER_BATCH_TOP_K: return SAE_ARCH_BATCH_TOP_K;
    case SAE_TRAINER_MATRYOSHKA: return SAE_ARCH_MATRYOSHKA;
    case SAE_TRAINER_JUMP_RELU: return SAE_ARCH_JUMP_RELU;
    case SAE_TRAINER_STANDARD:
    case SAE_TRAINER_STANDARD_APRIL:
    case SAE_TRAINER_P_ANNEAL: break;
    }
    return SAE_ARCH_STANDARD;
}
