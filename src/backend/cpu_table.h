#pragma once
#include "ops.h"
#include "cpu_batch.h"
#include "cpu_encode.h"
#include "cpu_values.h"
#include "cpu_gradients.h"
#include "cpu_latents.h"
#include "cpu_adam.h"
#include "cpu_layers.h"
#include "cpu_skip.h"

/* ==== >>cpu: table ============================================================================ */

/* Nothing runs after a call has returned. */
#define saei_cpu_begin_step NULL
#define saei_cpu_end_step NULL
#define saei_cpu_poll NULL
#define saei_cpu_guard NULL
#define saei_cpu_tripped NULL

SAE_API const sae_backend *sae_cpu_backend(void) {
#define SAEI_CPU(result, name, need, parameters, arguments) saei_cpu_##name,
    static const sae_backend table = {
        "cpu", true, SAE_BACKEND_CONTROL(SAEI_CPU) SAE_BACKEND_OPERATIONS(SAEI_CPU)
    };
#undef SAEI_CPU
    return &table;
}

#undef saei_cpu_begin_step
#undef saei_cpu_end_step
#undef saei_cpu_poll
#undef saei_cpu_guard
#undef saei_cpu_tripped

static const sae_backend *saei_backend_of(const sae_context *ctx) {
    return ctx->backend ? ctx->backend : sae_cpu_backend();
}
