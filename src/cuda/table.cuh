#pragma once
#include "batch.cuh"
#include "screen.cuh"
#include "values.cuh"
#include "penalties.cuh"
#include "weights.cuh"

/* ==== >>cuda: table =========================================================================== */

SAE_API const sae_backend *sae_cuda_backend(void) {
    static const sae_backend table = {
        "cuda", false,
        saei_cuda_open, saei_cuda_close, saei_cuda_alloc, saei_cuda_free, saei_cuda_scratch_bytes,
        saei_cuda_upload, saei_cuda_download, saei_cuda_zero, saei_cuda_status,
        /* batch */ saei_cuda_load_rows, saei_cuda_subtract, saei_cuda_axpy,
        /* forward: encode, gate, jump, exp_values, exp_grad, decode, residual, unit_rows,
           auxk_residual, ghost_residual */
        saei_cuda_encode, saei_cuda_gate, saei_cuda_jump, saei_cuda_exp_values, saei_cuda_exp_grad,
        saei_cuda_decode, saei_cuda_residual, saei_cuda_unit_rows, saei_cuda_auxk_residual,
        saei_cuda_ghost_residual,
        /* penalties, gradients of entries */
        saei_cuda_penalty, saei_cuda_dots, saei_cuda_gate_grad, saei_cuda_jump_grad,
        saei_cuda_jump_rest,
        /* by latent */
        saei_cuda_index, saei_cuda_latent_rows, saei_cuda_latent_sums, saei_cuda_fired,
        saei_cuda_list_silent,
        /* sums */
        saei_cuda_column_sums, saei_cuda_weighted_sum, saei_cuda_sum_squares, saei_cuda_variance,
        saei_cuda_count_nonzero,
        /* weights */
        saei_cuda_row_norms, saei_cuda_norm_weight, saei_cuda_norm_grad, saei_cuda_remove_parallel,
        saei_cuda_normalize_rows, saei_cuda_adam, saei_cuda_update_threshold,
        saei_cuda_geometric_median, saei_cuda_resample,
        /* optional: code_sums, reconstruct, adam_rows, catch_up; begin_step, end_step, poll, guard,
           tripped */
        NULL, saei_cuda_reconstruct, saei_cuda_adam_rows, NULL,
        saei_cuda_begin_step, saei_cuda_end_step, saei_cuda_poll, saei_cuda_guard,
        saei_cuda_tripped
    };
    return &table;
}
