#pragma once
#include "core.h"

/* ==== >>api: dictionaries in full ============================================================= */
/* Parameters read and set, sizes, latents by number, control vectors. */

/* Bytes of an element, or of a block of them; 0 where the type is known by name alone, or not. */
SAE_API size_t sae_dtype_size(sae_dtype dtype);
/* Elements of a block, 32 or 256; 1 of plain types (and where the size is 0). */
SAE_API size_t sae_dtype_block(sae_dtype dtype);
SAE_API const char *sae_dtype_name(sae_dtype dtype); /* "F32", "Q4_K" */

#define SAE_MAX_DIMS 8
typedef struct sae_tensor {
    const char *name;            /* "" for .npy */
    sae_dtype dtype;
    size_t ndim;
    uint64_t shape[SAE_MAX_DIMS];
    int64_t stride[SAE_MAX_DIMS]; /* in elements; as the file has them */
    const void *data;            /* the first element; little endian; need not be aligned */
} sae_tensor;
/* All elements as float32 in row-major order, out [product of shape]; NaN where the dtype's size is
   0. Of block types the last dimension is a multiple of the block and its elements lie together;
   element e of a row is in its block e / block, and a stride / block * size bytes further. Their
   numbers are those of the gguf package (and of llama.cpp's plain C), bit for bit. */
SAE_API void sae_tensor_to_f32(const sae_tensor *tensor, float *out);

/* All parameters, where they lie in dict, to be read: valid until dict is destroyed; their rows may
   be further apart than they are long (stride).
     W_enc [m,d], W_dec [m,output_dim], b_dec [output_dim]   all but IDENTITY, which has no tensor
     b_enc [m]                                               all but GATED
     gate_bias, r_mag, mag_bias [m]                          GATED
     threshold [m]                                           JUMP_RELU
     threshold, k, one number each                           TOP_K, BATCH_TOP_K, MATRYOSHKA
     W_skip [output_dim,d]                                   where desc.skip is set
     W_glu [m,d], b_glu [m]                                  desc.glu
     mean [d], scale, output_scale [layers]                  desc.normalizer
   MATCHING_PURSUIT has W_dec and b_dec alone; with layer_codes BATCH_TOP_K's threshold is [layers].
   False: no tensor of that index. */
SAE_API size_t sae_dictionary_num_tensors(const sae_dictionary *dict);
SAE_API bool sae_dictionary_get_tensor(const sae_dictionary *dict, size_t index, sae_tensor *out);
/* Errors: SAE_ERR_INVALID, SAE_ERR_NOT_FOUND (the message has the names). */
SAE_API sae_result sae_dictionary_find_tensor(const sae_dictionary *dict, const char *name,
                                              sae_tensor *out);
/* Copies count float32 numbers, all of the tensor, row-major, into it. What sae_dictionary_prepare
   made is dropped, and no other thread may use dict meanwhile. Errors: SAE_ERR_INVALID (also a k
   that is none), SAE_ERR_NOT_FOUND, SAE_ERR_MISMATCH (count). */
SAE_API sae_result sae_dictionary_set_tensor(sae_dictionary *dict, const char *name,
                                             const float *values, size_t count);

/* Multiplies every bias and threshold by scale: adapts the dictionary to inputs multiplied by
   scale. A scalar threshold below 0 is left as it is. Errors: SAE_ERR_INVALID (not finite, or
   <= 0), SAE_ERR_UNSUPPORTED (an input_norm, a normalizer, a glu). */
SAE_API sae_result sae_dictionary_scale_biases(sae_dictionary *dict, float scale);

/* STANDARD: W_dec rows to norm 1, the norms moved into W_enc rows and b_enc; x_hat is unchanged.
   As the reference: nothing happens when all norms are within 1e-5 (+1e-8) of 1 already; other
   classes are left alone. */
SAE_API sae_result sae_dictionary_normalize_decoder(sae_dictionary *dict);

/* Latents of MATRYOSHKA past the first active_groups groups are 0; default 0: all groups. Errors:
   SAE_ERR_INVALID (another class, or more groups than there are). */
SAE_API sae_result sae_dictionary_set_active_groups(sae_dictionary *dict, size_t active_groups);

/* What sae_dictionary_create would ask of the allocator. Errors: SAE_ERR_INVALID. */
SAE_API sae_result sae_dictionary_memory(const sae_dictionary_desc *desc, size_t *bytes);

/* f [n,count] of the latents named (each < m). Rules that compare a latent with others (top-k) do
   not apply: these classes give p > max(threshold, 0), or relu(p) while the threshold is unset, or
   p where latents are signed. */
SAE_API sae_result sae_encode_subset(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint32_t *latents, size_t count, float *f);
SAE_API sae_result sae_encode_subset_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                          const uint32_t *latents, size_t count, float *f);

#ifndef SAE_NO_FORMATS
/* Writes the sum of value_i W_dec[i] (modes ADD alone) as a control vector of llama.cpp: a GGUF
   file with the one tensor "direction.LAYER". llama.cpp adds it, times the scale on its command
   line, to the output of block `layer`; blocks count from 0, but it steers no block 0. The residual
   stream after block L is resid_post L, and hidden_states[L + 1] in Hugging Face's counting.
   model_hint (NULL: "") names the model's architecture for the reader.
   Errors: SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED (IdentityDict, an input_norm, several layers),
   SAE_ERR_NOT_FOUND
   (the folder), SAE_ERR_OUT_OF_MEMORY, SAE_ERR_IO. */
SAE_API sae_result sae_steer_export(const sae_dictionary *dict, const sae_steering *steerings,
                                    size_t count, size_t layer, const char *model_hint,
                                    const char *path);
#endif
