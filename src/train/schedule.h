#pragma once
#include "../base/platform.h"

/* ==== >>trainer: schedules ==================================================================== */

SAE_API double sae_lr_factor(const sae_schedule *s, uint64_t t) {
    if (s->resample_steps) {
        double f = s->warmup_steps ? (double)(t % s->resample_steps) / (double)s->warmup_steps : 1;
        return f < 1 ? f : 1;
    }
    if (t < s->warmup_steps) return (double)t / (double)s->warmup_steps;
    if (s->decay_start && t >= s->decay_start)
        return ((double)s->steps - (double)t) / (double)(s->steps - s->decay_start);
    return 1;
}

SAE_API double sae_sparsity_factor(const sae_schedule *s, uint64_t t) {
    if (!s->sparsity_warmup_steps || t >= s->sparsity_warmup_steps) return 1;
    return (double)t / (double)s->sparsity_warmup_steps;
}
