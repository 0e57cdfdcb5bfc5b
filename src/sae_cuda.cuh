/*  sae_cuda.cuh - the CUDA backend of sae.h (its >>backend): one NVIDIA GPU, sm_80 and up.

    sae.h includes it; see >>cuda there for the two ways to build. Do not include it by itself. It
    needs the CUDA toolkit's runtime and cuBLASLt, and of sae.h the public half and >>math.

    Results are those of the CPU backend, bit for bit: every operation that reaches a result names
    its rounding (__fmaf_rn, __dadd_rn, ...), sums have >>backend's canonical order, and cuBLASLt's
    product only proposes candidates (>>cuda: screened encode). The host waits for the device in
    download and status, and in end_step if it is several steps ahead; a step allocates nothing.

    In comments, a quad is four neighbouring threads of a warp, and nnz the number of entries of all
    lists. Most kernels state the bytes or floating point operations that bound their time, and what
    that is for W2: TopK with d 512, m 32768, 8192 rows, k 64. Times are estimates for an H200, see
    bench/RESULTS.md.

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
