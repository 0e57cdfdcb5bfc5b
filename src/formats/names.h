#pragma once
#include "../api/files.h"
#include "../base/platform.h"

/* ==== >>files: names of trainers ============================================================== */

typedef struct saei_trainer_row {
    sae_trainer_kind kind;
    sae_arch arch; /* of the dictionary it trains */
    const char *name, *reference, *older;
} saei_trainer_row;

static const saei_trainer_row saei_trainers[SAE_NUM_TRAINERS] = {
#define SAE_X(kind, value, arch, name, reference, older) { kind, arch, name, reference, older },
    SAE_TRAINERS(SAE_X)
#undef SAE_X
};

/* NULL: it is none. DEFAULT is none either. */
static const saei_trainer_row *saei_trainer_row_of(sae_trainer_kind kind) {
    for (size_t i = 0; i < SAE_NUM_TRAINERS; i++)
        if (saei_trainers[i].kind == kind) return &saei_trainers[i];
    return NULL;
}

SAE_API const char *sae_trainer_name(sae_trainer_kind kind) {
    const saei_trainer_row *row = saei_trainer_row_of(kind);
    return row ? row->name : "default";
}

SAE_API const char *sae_trainer_class(sae_trainer_kind kind) {
    const saei_trainer_row *row = saei_trainer_row_of(kind);
    return row ? row->reference : "default";
}

/* older: the class names of 2024 too. */
static bool saei_trainer_find(const char *name, bool older, sae_trainer_kind *out) {
    for (size_t i = 0; i < SAE_NUM_TRAINERS; i++) {
        const saei_trainer_row *row = &saei_trainers[i];
        if (strcmp(name, row->name) && strcmp(name, row->reference)
            && (!older || strcmp(name, row->older)))
            continue;
        *out = row->kind;
        return true;
    }
    return false;
}

SAE_API bool sae_trainer_from_name(const char *name, sae_trainer_kind *out) {
    return name && out && saei_trainer_find(name, false, out);
}

/* The dictionary a kind trains, where nothing else is said. */
static sae_arch saei_trainer_arch(sae_trainer_kind kind) {
    const saei_trainer_row *row = saei_trainer_row_of(kind ? kind : SAE_TRAINER_TOP_K);
    return row ? row->arch : SAE_ARCH_STANDARD;
}
