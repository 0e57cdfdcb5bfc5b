#pragma once
#include "files.h"

/* ==== >>api: programs with a model ============================================================ */

/* For programs that run a model and its dictionaries side by side (tools/neox.h does). */

/* A linear layer, y = x W^T + bias. bias [outputs] (NULL: none) is copied. */
typedef struct sae_linear sae_linear;
/* W [outputs,inputs] is copied in the order in which the product reads it: outputs rounded up to
   48, times inputs floats. Errors: SAE_ERR_INVALID, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_linear_create(sae_context *ctx, const float *W, const float *bias,
                                     size_t inputs, size_t outputs, sae_linear **out);
/* W stays where it is, in its own type, and must outlive *out; a product makes it float32 piece by
   piece, with the bits that a copy of it as float32 would give. [outputs,inputs]; transposed:
   [inputs,outputs]. F32, F16, BF16, F64 (rounded), at any address and of any strides, so that a
   view of some rows will do; or blocks (sae_dtype_block), one after the other inside a row. Errors:
   SAE_ERR_INVALID, SAE_ERR_UNSUPPORTED (another type), SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_linear_create_tensor(sae_context *ctx, const sae_tensor *W,
                                            const float *bias, bool transposed, sae_linear **out);
SAE_API void sae_linear_destroy(sae_linear *linear);
/* y [n,outputs] of x [n,inputs], which may not overlap. Any number of threads may call at once;
   nothing is allocated. Each number is one chain of fma over ascending inputs, the bias added last:
   its bits do not depend on n, threads or instruction set. Errors: SAE_ERR_INVALID. */
SAE_API sae_result sae_linear_apply(const sae_linear *linear, const float *x, size_t n, float *y);

/* fn(arg, part) for every part below parts, on as many threads as the context has, in any order. */
SAE_API void sae_context_parallel(sae_context *ctx, size_t parts,
                                  void (*fn)(void *arg, size_t part), void *arg);

/* Sets the sentence that sae_error gives, tells the logger, and returns result: so that callbacks
   and code on top fail as the header does. */
SAE_API sae_result sae_context_fail(sae_context *ctx, sae_result result, const char *format, ...)
    SAE_PRINTF(3, 4);

/* A JSON file, read whole: UTF-8, depth 64, 2^24 values, no key twice in an object. A value takes
   40 bytes and its text. Getters take NULL, which is a value that is not there. */
typedef struct sae_json sae_json;
typedef enum sae_json_kind {
    SAE_JSON_NONE, SAE_JSON_NULL, SAE_JSON_BOOL, SAE_JSON_NUMBER, SAE_JSON_STRING, SAE_JSON_ARRAY,
    SAE_JSON_OBJECT
} sae_json_kind;
/* *out is the root, the whole tree is owned by it. Errors: SAE_ERR_NOT_FOUND, SAE_ERR_IO,
   SAE_ERR_FORMAT, SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_json_open(sae_context *ctx, const char *path, sae_json **out);
SAE_API void sae_json_close(sae_json *root);
SAE_API sae_json_kind sae_json_kind_of(const sae_json *value);
SAE_API const sae_json *sae_json_get(const sae_json *object, const char *key); /* NULL: none */
/* Children of an array or object; bytes of a string; else 0. */
SAE_API size_t sae_json_count(const sae_json *value);
SAE_API const sae_json *sae_json_first(const sae_json *value);  /* child; NULL: none */
SAE_API const sae_json *sae_json_next(const sae_json *child);   /* its sibling; NULL: none */
SAE_API const char *sae_json_key(const sae_json *child);        /* in an object; else NULL */
SAE_API const char *sae_json_text(const sae_json *value);       /* of a string; else NULL */
SAE_API double sae_json_number(const sae_json *value);          /* of a number; 1 of true; else 0 */

/* What the file says beside its tensors, an object, owned by file: the pairs of a .gguf, the texts
   of a .safetensors' __metadata__; NULL: none. Of .gguf a text may be any bytes, also NUL
   (sae_json_count has their number, and a NUL is behind them); whole numbers past 2^53 are
   rounded. */
SAE_API const sae_json *sae_tensor_file_metadata(const sae_tensor_file *file);
