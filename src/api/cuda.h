#pragma once
#include "core.h"

/* ==== >>cuda ================================================================================== */

/* NVIDIA GPUs: sae_cuda.cuh. Either compile the one file with SAE_IMPLEMENTATION by nvcc, with
   SAE_CUDA defined too; or leave that file to any C compiler and add one .cu file:
       #define SAE_CUDA
       #define SAE_CUDA_IMPLEMENTATION
       #include "sae.h"
   Link with cudart and cublasLt. Weights, losses and files are those of the CPU, bit for bit. */
typedef struct sae_cuda_desc {
    int device;   /* its CUDA number; default 0. Calls leave it current for their thread */
    void *stream; /* cudaStream_t that everything runs on; default: a stream of its own */
    int screen;   /* encode first by a 16-bit product that proposes candidates. Default 0: where it
                     pays; 1: always; -1: never. No bit of a result depends on it */
    int dense;    /* sum over lists of latents as if they were dense matrices. Values as screen */
} sae_cuda_desc;

/* The table for sae_context_desc.backend; sae_cuda_desc goes into backend_desc. Creating a trainer
   or session fails with SAE_ERR_BACKEND where there is no device or no driver, with SAE_ERR_INVALID
   where there is no device of that number. */
SAE_API const sae_backend *sae_cuda_backend(void);
