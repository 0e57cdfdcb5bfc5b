/*  sae.h - sparse autoencoders ("dictionaries") in one C header: train, save, load, run, judge.

    SAE_VERSION "0.2.0" - MIT licence, see the end of this file.

    DO THIS
        #define SAE_IMPLEMENTATION      in exactly ONE .c or .cpp file, before
        #include "sae.h"
    and include it without the #define everywhere else. Link with -lm. With -fopenmp it uses all
    cores; without, one. C99 and later, C++11 and later. No other dependency.
    Options, defined in that one file too:
        SAE_CBLAS    training takes the encoder's product from your BLAS: <cblas.h>, or the header
                     SAE_CBLAS_HEADER names; link with -lopenblas, or -framework Accelerate. It
                     only proposes latents, so the bits stay the same; but it must sum floats as
                     floats by the ordinary algorithm, not as bf16 or tf32, nor Strassen's way.
        SAE_ZLIB     opens compressed archives; link with -lz
        SAE_NO_TRAIN leaves out all that trains and measures, here and in every file that includes
                     sae.h: trainers, sessions, buffer, loop, metrics and backends. What is left
                     loads, encodes, decodes, steers, saves
        SAE_NO_FORMATS leaves out what reads and writes other programs' files, in every file that
                     includes sae.h: what is left opens and saves the reference's .safetensors
                     (`sae convert` makes them), and rows and tensors of .npy
        SAE_NO_STDIO leaves the system's files out: memory and sae_context_desc.io alone

    WHAT IT DOES
        Re-implements the Python package dictionary_learning
        (github.com/saprmarks/dictionary_learning) number for number: its dictionaries, trainers,
        optimizers, schedules, activation buffer, training loop, evaluation and files. A dictionary
        trained here opens there, and the other way round. The same run gives the same bits for any
        number of threads, any compiler and optimisation level, and after a resume.
        Opens dictionaries of other programs too, with their numbers: SAELens, sparsify, Gemma
        Scope, Llama Scope, openai and more (SAE_FORMATS), transcoders and crosscoders among them,
        and writes folders that dictionary_learning, SAELens and sparsify open.

    WHAT IT DOES NOT
        It runs no language model (bring activations, or a callback that makes them), draws no
        pictures, keeps no global state, never prints, aborts or exits, executes no pickle code.

    STEP BY STEP: train
        sae_context *ctx;
        sae_context_create(NULL, &ctx);
        sae_trainer_desc trainer = { SAE_TRAINER_TOP_K };
        trainer.dict_size = 4096;
        trainer.k = 32;
        const char *files[] = { "activations.npy" };
        sae_train_desc desc = { 0 };
        desc.buffer.source.files = files;
        desc.buffer.source.num_files = 1;
        desc.trainers = &trainer;
        desc.num_trainers = 1;
        desc.steps = 10000;
        desc.save_dir = "out";
        if (sae_train(ctx, &desc) != SAE_OK) fprintf(stderr, "%s\n", sae_error(ctx));

    STEP BY STEP: use, with a row x [d] and room for x_hat [d]
        sae_dictionary *dict;
        size_t row_begin[2];
        uint32_t latent[32];
        float value[32];
        sae_sparse code = { row_begin, latent, value, 32 };  // sae_dictionary_capacity(dict, 1)
        if (sae_dictionary_load(ctx, NULL, "out/trainer_0", &dict) == SAE_OK) {
            sae_encode_sparse(dict, x, 1, &code);  // const dict: from any number of threads
            sae_decode_sparse(dict, &code, 1, x_hat);
            sae_dictionary_destroy(dict);
        }
        sae_context_destroy(ctx);

    LETTERS
        n or B rows (tokens) of a batch, d activation_dim, m dict_size, k active latents per row,
        x [n,d] input, f [n,m] latents, x_hat [n,d] reconstruction, e = x_hat - x. Matrices are
        row-major, everything is float32 unless a line says otherwise.

    CONTENTS (search for the tag)
        What you call; each part stands on the core alone, unless it says otherwise
        >>api: core  results, context, dictionaries, encode, decode, steer: ten minutes
        >>api: dictionaries in full   parameters read and set, sizes, control vectors
        >>api: files            where files are, formats, export, tensors of any container
        >>api: cross-layer transcoders  and sets of transcoders, larger than memory: on the files
        >>api: programs with a model  linear layers, threads, errors, JSON
        >>api: schedules        and >>api: trainers, >>api: sessions, >>api: the activation buffer,
                     >>api: the training loop, >>api: metrics: what trains; on the files
        >>api: the reference's experiments
        >>backend    the list of operations that a backend implements, and its contract
        >>cuda       NVIDIA GPUs: the desc and the table of sae_cuda.cuh
        How it is done; each part stands on those above it
        >>math       exp, log, pow with the same bits everywhere; Philox RNG, normal deviates
        >>platform   allocator, errors, locks, threads, checked sizes
        >>text       sorting, UTF-8, numbers, text that grows
        >>io         paths; the system's files, mapped; files written whole or not at all
        >>json       reading and writing JSON
        >>tensors    .npy, .npz, .safetensors, .pt: reading and writing
        >>kernels    vector code, the same text for each instruction set
        >>context    sae_context_create
        >>dictionary create, encode, decode, scale, normalise; linear layers
        >>clt        cross-layer transcoders: encode, decode, from mapped files
        >>steer      latents set, added to, scaled, ablated in place
        >>files      dictionaries of dictionary_learning and of other programs; control vectors
        >>operations a backend's table checked; what stands in for optional operations
        >>cpu        the CPU backend
        >>trainer    schedules, the training schemes and hyperparameters, one row each; config.json
        >>session    a dictionary on the backend
        >>buffer     sources of activations and the shuffling buffer
        >>loop       sae_train and sae_training: logging, checkpoints, backup, resume
        >>metrics    sae_evaluate, gradient pursuit

    This file is made from the sources in src/ (make headers): change it there.
*/
#ifndef SAE_H_INCLUDED
#define SAE_H_INCLUDED

#include "api/base.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "api/core.h"
#include "api/dictionary.h"
#include "api/files.h"
#ifndef SAE_NO_FORMATS
#include "api/clt.h"
#endif
#include "api/model.h"
#ifndef SAE_NO_TRAIN
#include "api/train.h"
#endif
#include "api/backend.h"

#ifdef SAE_CUDA
#define SAEI_CUDA_DECLARED
#include "api/cuda.h"
#endif

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* SAE_H_INCLUDED */

/* ============================================================================================== *
 *                                        IMPLEMENTATION                                          *
 * ============================================================================================== */
/* A file says what it wants before it includes sae.h for the first time. */
#if defined(SAE_CUDA_IMPLEMENTATION) && !defined(SAE_CUDA)
#error "sae.h: SAE_CUDA_IMPLEMENTATION needs SAE_CUDA to be defined too"
#elif defined(SAE_CUDA) && !defined(SAEI_CUDA_DECLARED)
#error "sae.h: SAE_CUDA must be defined where this file includes sae.h for the first time"
#elif defined(SAEI_IMPLEMENTED) && defined(SAE_IMPLEMENTATION) && !defined(SAEI_LIBRARY_IMPLEMENTED)
#error "sae.h: SAE_IMPLEMENTATION must be defined with SAE_CUDA_IMPLEMENTATION, or in another file"
#elif defined(SAEI_IMPLEMENTED) && defined(SAE_CUDA_IMPLEMENTATION)                                \
    && !defined(SAE_CUDA_CUH_INCLUDED)
#error "sae.h: SAE_CUDA_IMPLEMENTATION must be defined with SAE_IMPLEMENTATION, or in another file"
#endif
#if (defined(SAE_IMPLEMENTATION) || (defined(SAE_CUDA) && defined(SAE_CUDA_IMPLEMENTATION)))       \
    && !defined(SAEI_IMPLEMENTED)
#define SAEI_IMPLEMENTED

/* Floating point: every multiply-add that shall be fused is written as one, nothing else may be. */
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)          \
    || defined(_M_FP_FAST)
#error "sae.h: compile the file with SAE_IMPLEMENTATION without -ffast-math / -Ofast"
#endif
#if defined(__CUDACC__) /* it hands GCC's pragmas on, with a warning; 187: = inside an expression */
#pragma nv_diag_suppress 1675, 187
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#if defined(__OPTIMIZE__)
#define SAEI_FOR_SIZE
#endif
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif


#include "base/math.h"
#ifndef SAE_NO_TRAIN
#include "base/adam.h"
#endif

#ifdef SAE_IMPLEMENTATION
#define SAEI_LIBRARY_IMPLEMENTED
#include "base/system.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "base/random.h"
#include "base/platform.h"
#include "base/text.h"
#include "base/path.h"
#include "base/files.h"
#include "base/io.h"
#include "base/json.h"

#include "tensor/number.h"
#include "tensor/blocks.h"
#include "tensor/dtype.h"
#include "tensor/crc.h"
/* What opens and writes files is much, and waits for the disk: for size. */
#if defined(SAEI_FOR_SIZE)
#pragma GCC push_options
#pragma GCC optimize("Os", "fp-contract=off")
#endif
#include "tensor/file.h"
#include "tensor/write.h"
#include "tensor/npy.h"
#include "tensor/safetensors.h"
#ifndef SAE_NO_FORMATS
#include "tensor/gguf.h"
#include "tensor/zip.h"
#include "tensor/npz.h"
#include "tensor/pickle.h"
#include "tensor/torch.h"
#endif
#include "tensor/open.h"
#if defined(SAEI_FOR_SIZE)
#pragma GCC pop_options
#endif

#include "kernels/table.h"
#include "kernels/portable.h"
#include "kernels/neon.h"
#include "kernels/avx2.h"
#include "kernels/avx2_widen.h"
#include "kernels/avx512.h"
#include "kernels/avx512_encode.h"
#include "kernels/avx512_widen.h"
#include "kernels/avx512_train.h"
#include "kernels/isa.h"
#include "kernels/select.h"
#include "kernels/screen.h"
#include "kernels/context.h"

#include "dict/dictionary.h"
#include "dict/desc.h"
#include "dict/gate.h"
#include "dict/params.h"
#include "dict/tensors.h"
#include "dict/infer.h"
#include "dict/top_k.h"
#include "dict/rows.h"
#include "dict/prepared.h"
#include "dict/matching.h"
#include "dict/encode.h"
#include "dict/decode.h"
#include "dict/forward.h"
#include "dict/steer.h"
#ifndef SAE_NO_FORMATS
#include "dict/clt.h"
#include "dict/clt_decode.h"
#endif
#include "dict/linear.h"

/* What opens and writes files is much, and waits for the disk: for size. */
#if defined(SAEI_FOR_SIZE)
#pragma GCC push_options
#pragma GCC optimize("Os", "fp-contract=off")
#endif
#include "formats/names.h"
#include "formats/layout.h"
#include "formats/draft.h"
#include "formats/save.h"
#include "formats/dictionary_learning.h"
#ifndef SAE_NO_FORMATS
#include "formats/reading.h"
#include "formats/export.h"
#include "formats/dictionary_learning_write.h"
#include "formats/sae_lens.h"
#include "formats/sparsify.h"
#include "formats/gemma_scope.h"
#include "formats/llamascopium.h"
#include "formats/others.h"
#include "formats/circuit_tracer.h"
#include "formats/crosscoders.h"
#include "formats/clt_draft.h"
#include "formats/clt_readers.h"
#include "formats/clt_training.h"
#include "formats/clt.h"
#endif
#include "formats/formats.h"
#ifndef SAE_NO_FORMATS
#include "formats/exports.h"
#include "formats/gguf.h"
#endif
#if defined(SAEI_FOR_SIZE)
#pragma GCC pop_options
#endif

#ifndef SAE_NO_TRAIN
#include "backend/ops.h"
#include "backend/cpu.h"
#include "backend/cpu_batch.h"
#include "backend/cpu_encode.h"
#include "backend/cpu_values.h"
#include "backend/cpu_sums.h"
#include "backend/cpu_decode.h"
#include "backend/cpu_dense.h"
#include "backend/cpu_gradients.h"
#include "backend/cpu_latents.h"
#include "backend/cpu_weights.h"
#include "backend/cpu_layers.h"
#include "backend/cpu_adam.h"
#include "backend/cpu_skip.h"
#include "backend/cpu_table.h"

#include "train/schedule.h"
#include "train/blocks.h"
#include "train/trainer.h"
#include "train/gradients.h"
#include "train/crosscoder.h"
#include "train/sparsify.h"
#include "train/schemes.h"
#include "train/hyperparameters.h"
#include "train/check.h"
#include "train/crosscoder_start.h"
#include "train/create.h"
#include "train/step.h"
#include "train/stats.h"
#include "train/state.h"
#include "train/session.h"
#include "train/set.h"
#include "train/config.h"

#include "run/buffer.h"
#include "run/batches.h"
#include "run/loop.h"
#include "run/resume.h"
#include "run/saving.h"
#include "run/steps.h"
#include "run/metrics.h"
#include "run/pursuit.h"
#include "run/experiments.h"
#endif

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* SAE_IMPLEMENTATION */

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif


#if defined(SAE_CUDA) && (defined(SAE_CUDA_IMPLEMENTATION) || defined(__CUDACC__))
#include "sae_cuda.cuh"
#endif
#endif /* SAEI_IMPLEMENTED */

/*
    MIT License

    Copyright (c) 2026 the sae.h authors

    Permission is hereby granted, free of charge, to any person obtaining a copy
    of this software and associated documentation files (the "Software"), to deal
    in the Software without restriction, including without limitation the rights
    to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
    copies of the Software, and to permit persons to whom the Software is
    furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all
    copies or substantial portions of the Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
    IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
    FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
    AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
    LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
    OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
    SOFTWARE.
*/
