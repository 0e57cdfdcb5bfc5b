#pragma once
#include "files.h"

/* ==== >>api: cross-layer transcoders ========================================================== */
/* Dictionaries of L layers of a model with an encoder and codes for each, whose latents write to
   several layers. Of a row, which is layer after layer, x [n,L d], f [n,L m], x_hat [n,L d]:
     y_i = in_scale_i x_i;  p_i = W_enc_i y_i + b_enc_i;  f_i from p_i as arch and gate say
     x_hat_t = out_scale_t (sum over sources i of g_it(f_i) W_dec[i -> t] + W_skip[i -> t] y_i,
                            and b_dec_t)
   with g_it(f) = f but for clt-training's post-encoder: (f + post_it where f > 0) post_scale_it.
   Weights stay in their files, mapped, in their own types: they may be larger than memory.
   Opening reads what is small (and all decoders where their norms are in the gate), encoding the
   encoders, decoding the rows of the latents that fire. NaN and infinity in the matrices are found
   by nobody beforehand. */
typedef struct sae_clt sae_clt;

typedef enum sae_clt_kind {
    SAE_CLT_CROSS_LAYER = 1, /* a source writes to its own layer and to later ones */
    SAE_CLT_CROSSCODER,      /* every source writes to every layer */
    SAE_CLT_SET              /* transcoders of single layers, side by side (or one alone) */
} sae_clt_kind;

typedef struct sae_clt_desc {
    sae_clt_kind kind;
    size_t layers;             /* L */
    size_t activation_dim;     /* d, of one layer */
    size_t dict_size;          /* m, of one layer */
    sae_arch arch;             /* STANDARD_NEW (relu), JUMP_RELU, TOP_K, BATCH_TOP_K (of the rows
                                  of a call, k times their number) */
    sae_activation activation; /* as in sae_dictionary_desc; JUMP_RELU and SIGNED: no relu */
    size_t k;                  /* of each layer, or with over_layers of all together */
    bool over_layers;
    bool gate;                 /* the choice is by p w, w the norm of all decoder rows of the
                                  latent together, and f = (p w) / w */
    size_t most;               /* BATCH_TOP_K: of what is chosen at most this many in a row; 0: all
                                  */
} sae_clt_desc;

/* What *path holds is for sae_clt_open (which may still refuse it): a folder, or a file of one. No
   error is set. */
SAE_API bool sae_clt_recognize(sae_context *ctx, const char *path);

/* Opens the folder of circuit-tracer (cross-layer transcoders, sets), Llamascopium, Gemma Scope 2,
   CLT-Forge or clt-training. desc may be NULL; of it k counts, for files that say none. Errors: as
   sae_dictionary_load. */
SAE_API sae_result sae_clt_open(sae_context *ctx, const sae_load_desc *desc, const char *path,
                                sae_clt **out);
SAE_API void sae_clt_close(sae_clt *clt);
SAE_API const sae_clt_desc *sae_clt_get_desc(const sae_clt *clt);
SAE_API const sae_origin *sae_clt_origin(const sae_clt *clt); /* hook: of the first layer */

/* As of a dictionary: any number of threads may call at once; bits depend on neither n nor threads
   (but BATCH_TOP_K chooses over the n rows together). Latent i of layer l is number l m + i. A call
   allocates: encode_sparse and forward 4 L m bytes a row of up to 256 rows, under BATCH_TOP_K 8 L m
   bytes for each row of the call. Errors: SAE_ERR_INVALID (NULL, n too large, capacity too small),
   SAE_ERR_OUT_OF_MEMORY. */
SAE_API sae_result sae_clt_encode(const sae_clt *clt, const float *x, size_t n, float *f);
SAE_API sae_result sae_clt_encode_sparse(const sae_clt *clt, const float *x, size_t n,
                                         sae_sparse *out);
/* Without the skips, which sae_clt_finish adds: it has x. */
SAE_API sae_result sae_clt_decode_sparse(const sae_clt *clt, const sae_sparse *sparse, size_t n,
                                         float *x_hat);
SAE_API sae_result sae_clt_finish(const sae_clt *clt, const float *x, size_t n, float *x_hat);
/* encode, decode, finish; f may be NULL. */
SAE_API sae_result sae_clt_forward(const sae_clt *clt, const float *x, size_t n, float *x_hat,
                                   float *f);

/* Row `latent` of W_dec[source -> target], into out [d]; zeros where the source does not write
   there. False: no such layer or latent. */
SAE_API bool sae_clt_decoder_row(const sae_clt *clt, size_t source, size_t latent, size_t target,
                                 float *out);
