/*  sae_lm.h - language models and their tokenizers in one C header, on sae.h.

    MIT licence, see the end of this file.

    DO THIS
        #define SAE_IMPLEMENTATION      in exactly ONE .c or .cpp file, before
        #include "sae.h"
        #define SAE_LM_IMPLEMENTATION   in exactly ONE, maybe the same, before
        #include "sae_lm.h"
    and include both without the #defines everywhere else. C99 and later, C++11 and later.

    WHAT IT DOES
        Opens a folder as transformers writes it: config.json, model.safetensors (or its shards by
        model.safetensors.index.json, or an old pytorch_model.bin), tokenizer.json; float16,
        bfloat16, float32 or float64. Or a .gguf as llama.cpp has it, also of blocks (Q4_K, ...).
        Runs batches of contexts, shows and lets change the activations at any submodule, gives
        logits and next-token losses. BPE of bytes and of SentencePiece, encode and decode.

    WHAT IT DOES NOT
        No training, no padding on the left. Nothing is printed, no global state, no exit; errors
        are sae_results with the sentence in sae_error(ctx). Files are taken for hostile.

    STEP BY STEP
        sae_lm *lm;
        sae_tokenizer *tokenizer;
        const char *files[] = { "text.txt" };
        sae_contexts_desc read = { 0 };
        sae_contexts text = { 0 };
        sae_lm_hook hook = { 0 };                     // hook.call sees, and may change, x
        sae_lm_forward_desc desc = { 0 };
        sae_lm_open(ctx, "pythia-70m", &lm);
        sae_tokenizer_open(ctx, "pythia-70m", &tokenizer);
        read.tokenizer = tokenizer;
        read.files = files;
        read.num_files = 1;
        sae_contexts_read(ctx, &read, &text);         // of 128 tokens each
        sae_lm_site_find(lm, "gpt_neox.layers.3", false, &hook.site);
        desc.tokens = text.tokens;
        desc.contexts = 16;
        desc.ctx = 128;
        desc.hooks = &hook;
        desc.num_hooks = 1;
        sae_lm_forward(lm, &desc);

    LETTERS
        A batch is [contexts,ctx] tokens; row r is position r % ctx of context r / ctx. d is the
        width of the residual stream. Matrices are row-major float32.

    CONTENTS (search for the tag)
        >>lm: api        model, submodules, forward pass, tokenizer, contexts, source, generation
        >>lm: kernels    norms, activations, attention, softmax; by instruction set
        >>lm: arithmetic exp, ln, sine and cosine with the same bits everywhere; the loss
        >>lm: config     config.json
        >>lm: weights    tensors of one file or of shards
        >>lm: model      open, submodules, forward pass, unembedding
        >>lm: text       UTF-8, classes of characters, NFC
        >>lm: tokenizer  tokenizer.json, splitting, merging, decoding
        >>lm: contexts   text files and token files
        >>lm: source     contexts through the model as a source of activations
*/
#ifndef SAE_LM_H_INCLUDED
#define SAE_LM_H_INCLUDED

#ifndef SAE_H_INCLUDED
#include "sae.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#include "lm/api_model.h"
#include "lm/api_text.h"
#include "lm/api_generate.h"
#ifndef SAE_NO_TRAIN
#include "lm/api_source.h"
#endif

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* SAE_LM_H_INCLUDED */

/* ============================================================================================== *
 *                                        IMPLEMENTATION                                          *
 * ============================================================================================== */
#if defined(SAE_LM_IMPLEMENTATION) && !defined(SAE_LM_IMPLEMENTED)
#define SAE_LM_IMPLEMENTED

/* As in sae.h: every multiply-add that shall be fused is written as one, nothing else may be. */
#if defined(__FAST_MATH__)
#error "sae_lm.h: compile the file with SAE_LM_IMPLEMENTATION without -ffast-math / -Ofast"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#include "lm/base.h"

#include "lm/kernels.h"
#include "lm/portable.h"
#include "lm/avx2.h"
#include "lm/avx512.h"
#include "lm/isa.h"
#include "lm/arithmetic.h"

#include "lm/families.h"
#include "lm/config.h"
#include "lm/files.h"
#include "lm/weights.h"
#include "lm/gguf.h"
#include "lm/model.h"
#include "lm/sites.h"
#include "lm/run.h"
#include "lm/attention.h"
#include "lm/mlp.h"
#include "lm/forward.h"
#include "lm/generate.h"

#include "lm/unicode_classes.h"
#include "lm/unicode_nfc.h"
#include "lm/text.h"
#include "lm/tokenizer.h"
#include "lm/normalize.h"
#include "lm/split.h"
#include "lm/merge.h"
#include "lm/encode.h"
#include "lm/decode.h"
#include "lm/tokenizer_json.h"
#include "lm/tokenizer_gguf.h"
#include "lm/tokenizer_open.h"
#include "lm/contexts.h"
#ifndef SAE_NO_TRAIN
#include "lm/source.h"
#endif

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif
#endif /* SAE_LM_IMPLEMENTATION */

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
