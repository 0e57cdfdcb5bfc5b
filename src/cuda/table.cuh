#pragma once
#include "batch.cuh"
#include "screen.cuh"
#include "values.cuh"
#include "reconstruct.cuh"
#include "auxiliary.cuh"
#include "weights.cuh"

/* ==== >>cuda: table =========================================================================== */

/* Optional operations that others here do as fast. */
#define saei_cuda_code_sums NULL
#define saei_cuda_skip NULL
#define saei_cuda_skip_grad NULL
#define saei_cuda_signum NULL
#define saei_cuda_catch_up NULL
/* Crosscoders are trained on the CPU alone. */
#define saei_cuda_center_layers NULL
#define saei_cuda_layer_errors NULL
#define saei_cuda_layer_norms NULL
#define saei_cuda_layer_norm_grad NULL
#define saei_cuda_weigh_rows NULL
#define saei_cuda_unweigh NULL
#define saei_cuda_layer_median NULL
#define saei_cuda_count_quiet NULL
#define saei_cuda_layer_resample NULL

SAE_API const sae_backend *sae_cuda_backend(void) {
#define SAEI_CUDA(result, name, need, parameters, arguments) saei_cuda_##name,
    static const sae_backend table = {
        "cuda", false, SAE_BACKEND_CONTROL(SAEI_CUDA) SAE_BACKEND_OPERATIONS(SAEI_CUDA)
    };
#undef SAEI_CUDA
    return &table;
}

#undef saei_cuda_signum
#undef saei_cuda_skip_grad
#undef saei_cuda_skip
#undef saei_cuda_code_sums
#undef saei_cuda_catch_up
#undef saei_cuda_center_layers
#undef saei_cuda_layer_errors
#undef saei_cuda_layer_norms
#undef saei_cuda_layer_norm_grad
#undef saei_cuda_weigh_rows
#undef saei_cuda_unweigh
#undef saei_cuda_layer_median
#undef saei_cuda_count_quiet
#undef saei_cuda_layer_resample
