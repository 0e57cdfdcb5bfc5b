/*  sae_cuda.cuh - the CUDA filling of sae.h's >>backend: one NVIDIA GPU (sm_80 and up).

    Taken in by sae.h, see its >>cuda for the two ways to build; not to be included by itself. Needs
    the CUDA toolkit's runtime and cuBLASLt, nothing else, and of sae.h its public half and >>math.

    Results are those of the CPU filling, bit for bit: every operation that reaches a result names
    its rounding (__fmaf_rn, __dadd_rn, ...), sums have >>backend's canonical order, and cuBLASLt's
    product only proposes (>>cuda: screened encode). Nothing waits for the device but download,
    status and the throttle in end_step; nothing is allocated in a step.

    CONTENTS (search for the tag)
        >>cuda: state        errors, launching, memory, streams, the step as one graph
        >>cuda: scratch      what each operation lays over the scratch memory
        >>cuda: device math  dots and sums in canonical order, exp, log, pow, Philox
        >>cuda: scalars      sums over rows in the scalars order
        >>cuda: batch        rows loaded, subtract, axpy
        >>cuda: selection    the k largest of a row or a batch
        >>cuda: plain encode     every product in float32
        >>cuda: screened encode  16-bit product, certified candidates, canonical values
        >>cuda: values of entries  gate, jump, exp
        >>cuda: dense sums   lists that are nearly dense matrices
        >>cuda: decode       decode, residual, rows to norm 1
        >>cuda: penalties    penalties, gradients of entries
        >>cuda: reconstruct  decode, residual and gradients of entries in one
        >>cuda: by latent    counting sort, gradients by latent, dead latents
        >>cuda: sums         column sums, variance
        >>cuda: auxiliary losses  aux-k, ghost gradients
        >>cuda: weights      norms, projection, Adam, threshold, median, resampling
        >>cuda: table        the filled table
*/
#ifndef SAE_CUDA_CUH_INCLUDED
#define SAE_CUDA_CUH_INCLUDED

#if defined(__USE_FAST_MATH__)
#error "sae_cuda.cuh: compile without -use_fast_math, which changes the bits of results"
#endif

#include "cuda/state.cuh"
#include "cuda/scratch.cuh"
#include "cuda/device.cuh"
#include "cuda/scalars.cuh"
#include "cuda/batch.cuh"
#include "cuda/select.cuh"
#include "cuda/plain.cuh"
#include "cuda/screen.cuh"
#include "cuda/values.cuh"
#include "cuda/dense.cuh"
#include "cuda/decode.cuh"
#include "cuda/penalties.cuh"
#include "cuda/reconstruct.cuh"
#include "cuda/latents.cuh"
#include "cuda/sums.cuh"
#include "cuda/auxiliary.cuh"
#include "cuda/weights.cuh"
#include "cuda/table.cuh"

#endif /* SAE_CUDA_CUH_INCLUDED */
