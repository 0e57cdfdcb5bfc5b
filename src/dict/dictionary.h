#pragma once
#include "../api/files.h"

/* ==== >>dictionary ============================================================================ */

/* All parameters sit in one block, latent-major, rows padded with zeros to whole vectors, so that
   an optimizer runs over one array and every per-latent job is local to a row:
     W_enc [m][ld] | W_dec [m][ld_out] | b_enc [m'] | aux0 [m'] | aux1 [m'] | b_dec [ld_out]
     | W_skip [output_dim][ld] | W_glu [m][ld] | b_glu [m'] | gate [c'] | thresholds [l']
     | mean [ld] | scale [l'] | output_scale [l'] | spread [ld]
   with ld, ld_out, m', c', l' = d, output_dim, m, codes, layers rounded up to 16. b_enc is
   gate_bias of GATED; aux0 is r_mag of GATED and threshold of JUMP_RELU; aux1 is mag_bias of
   GATED; gate, the weights w of the codes, follows from W_dec (saei_gate_update). Arrays a class
   does not have take no room. MATCHING_PURSUIT has W_enc in W_dec, and a b_enc of zeros. */
typedef struct saei_prepared saei_prepared; /* >>dictionary: prepared encode */

struct sae_dictionary {
    sae_context *ctx;
    sae_dictionary_desc desc;
    sae_rule rule;        /* never DEFAULT for the classes that have a choice */
    size_t active_groups; /* MATRYOSHKA: 1..num_groups */
    size_t ld, ld_out;    /* row strides of W_enc, W_skip; of W_dec */
    float threshold;      /* scalar: TOP_K, BATCH_TOP_K, MATRYOSHKA; -1 until set */
    float *params;        /* [num_params] */
    size_t num_params;
    float *W_enc, *W_dec, *b_enc, *aux0, *aux1, *b_dec; /* into params; NULL if not there */
    float *W_skip, *W_glu, *b_glu, *gate;
    float *thresholds; /* of the layers, in place of threshold: batch classes with layer_codes */
    float *mean, *scale, *output_scale; /* of the normalizer */
    float *spread;       /* likewise: standard deviations that scale was taken from, for files */
    int code;            /* a CrossCoder's code_normalization_id, 1 to 5; 0: it is none */
    bool normalizes;     /* a CrossCoder's normalizer is known: it does more than nothing */
    float target_rms;    /* likewise, the norm that scale brings rows to */
    sae_origin origin;
    bool borrowed;        /* params belong to a trainer */
    saei_prepared *prepared; /* of sae_dictionary_prepare, or NULL */
};
