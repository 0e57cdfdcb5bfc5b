#pragma once
#include "../formats/names.h"
#include "crosscoder.h"
#include "gradients.h"
#include "sparsify.h"

/* ==== >>trainer: schemes ====================================================================== */
/* One row a training scheme. Its hyperparameters are words of >>trainer: hyperparameters, those
   that every trainer has may be left out: first what the reference writes into config.json, in its
   order; after the + what it leaves out, which is written after all else. */

#define SAEI_TOP_K_FAMILY                                                                          \
    (SAEI_UNIT | SAEI_CLIPPED | SAEI_DEAD | SAEI_TOP_K | SAEI_AUXK | SAEI_MEDIAN | SAEI_SCALED)

static const saei_scheme saei_schemes[] = {
    { SAE_TRAINER_STANDARD, 1e-3, 0.9, SAE_SPARSITY_L1, SAEI_CONSTRAINED, saei_grads_standard,
      saei_loss_standard,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps resample_steps "
      "sparsity_warmup_steps steps decay_start seed device layer lm_name wandb_name submodule_name "
      "+ sparsity_function reconstruction_loss ghost_threshold" },
    { SAE_TRAINER_STANDARD_APRIL, 1e-3, 0.9, SAE_SPARSITY_L1, SAEI_CLIPPED | SAEI_WEIGHTED,
      saei_grads_standard, saei_loss_standard,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps "
      "sparsity_warmup_steps steps decay_start seed device layer lm_name wandb_name "
      "submodule_name" },
    { SAE_TRAINER_GATED, 5e-5, 0, SAE_SPARSITY_L1, SAEI_CONSTRAINED, saei_grads_gated,
      saei_loss_gated,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps "
      "sparsity_warmup_steps decay_start seed device layer lm_name wandb_name submodule_name" },
    { SAE_TRAINER_GATED_ANNEAL, 3e-4, 0, SAE_SPARSITY_LP_P, SAEI_CONSTRAINED | SAEI_ANNEALED,
      saei_grads_gated, saei_loss_gated,
      "trainer_class dict_class activation_dim dict_size lr sparsity_function sparsity_penalty "
      "p_start p_end anneal_start sparsity_queue_length n_sparsity_updates warmup_steps "
      "resample_steps sparsity_warmup_steps decay_start steps seed layer lm_name wandb_name "
      "+ initial_sparsity_penalty anneal_end" },
    { SAE_TRAINER_P_ANNEAL, 1e-3, 0.9, SAE_SPARSITY_LP, SAEI_CONSTRAINED | SAEI_ANNEALED,
      saei_grads_standard, saei_loss_standard,
      "trainer_class dict_class activation_dim dict_size lr sparsity_function sparsity_penalty "
      "p_start p_end anneal_start sparsity_queue_length n_sparsity_updates warmup_steps "
      "sparsity_warmup_steps decay_start resample_steps steps seed layer lm_name wandb_name "
      "submodule_name + initial_sparsity_penalty anneal_end" },
    { SAE_TRAINER_TOP_K, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_TOP_K_FAMILY | SAEI_EACH_ROW, saei_grads_top_k, saei_loss_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step seed activation_dim dict_size k device layer lm_name wandb_name "
      "submodule_name + k_anneal_steps top_k_aux dead_feature_threshold" },
    { SAE_TRAINER_BATCH_TOP_K, 2e-4, 0.9, SAE_SPARSITY_L1, SAEI_TOP_K_FAMILY, saei_grads_top_k,
      saei_loss_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step top_k_aux seed activation_dim dict_size k device layer lm_name "
      "wandb_name submodule_name + k_anneal_steps dead_feature_threshold" },
    { SAE_TRAINER_MATRYOSHKA, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_TOP_K_FAMILY | SAEI_NESTED, saei_grads_top_k, saei_loss_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step top_k_aux seed activation_dim dict_size group_fractions group_weights "
      "group_sizes k device layer lm_name wandb_name submodule_name "
      "+ k_anneal_steps dead_feature_threshold" },
    { SAE_TRAINER_JUMP_RELU, 7e-5, 0, SAE_SPARSITY_L1, SAEI_UNIT | SAEI_CLIPPED | SAEI_DEAD,
      saei_grads_jump_relu, saei_loss_jump_relu,
      "trainer_class dict_class lr steps seed activation_dim dict_size device layer lm_name "
      "wandb_name submodule_name bandwidth sparsity_penalty sparsity_warmup_steps target_l0 "
      "+ dead_feature_threshold" },
    { SAE_TRAINER_CROSSCODER, 1e-3, 0.9, SAE_SPARSITY_L1, SAEI_LAYERS, saei_grads_crosscoder,
      saei_loss_crosscoder,
      "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps resample_steps "
      "device layer lm_name wandb_name submodule_name use_mse_loss code_normalization "
      "code_normalization_alpha_sae code_normalization_alpha_cc num_layers" },
    { SAE_TRAINER_BATCH_TOP_K_CROSSCODER, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_LAYERS | SAEI_CLIPPED | SAEI_DEAD | SAEI_TOP_K | SAEI_AUXK | SAEI_MEDIAN | SAEI_SCALED,
      saei_grads_crosscoder_top_k, saei_loss_crosscoder_top_k,
      "trainer_class dict_class lr steps auxk_alpha warmup_steps decay_start threshold_beta "
      "threshold_start_step top_k_aux seed activation_dim dict_size k k_annealing_steps "
      "code_normalization code_normalization_alpha_sae code_normalization_alpha_cc device layer "
      "lm_name wandb_name submodule_name k_max dead_feature_threshold num_layers" },
    { SAE_TRAINER_SPARSIFY, 2e-4, 0.9, SAE_SPARSITY_L1,
      SAEI_TOP_K | SAEI_EACH_ROW | SAEI_AUXK | SAEI_DEAD | SAEI_SCALED | SAEI_SPARSIFY,
      saei_grads_sparsify, saei_loss_sparsify,
      "trainer_class dict_class activation_dim dict_size steps k optimizer lr lr_warmup_steps "
      "k_decay_steps auxk_alpha dead_feature_threshold finetune seed device layer lm_name "
      "wandb_name submodule_name" }
};
enum { SAEI_NUM_SCHEMES = sizeof saei_schemes / sizeof saei_schemes[0] };

/* NULL: there is none. */
static const saei_scheme *saei_scheme_of(sae_trainer_kind kind) {
    if (kind == SAE_TRAINER_DEFAULT) kind = SAE_TRAINER_TOP_K;
    for (size_t i = 0; i < SAEI_NUM_SCHEMES; i++)
        if (saei_schemes[i].kind == kind) return &saei_schemes[i];
    return NULL;
}

/* The word of a scheme's hyperparameters at *at, which goes on to the next; its length, 0 at the
   end. */
static size_t saei_next_word(const char **at, const char **word) {
    size_t n = strcspn(*at, " ");
    *word = *at;
    *at += n + ((*at)[n] == ' ');
    return n;
}

static bool saei_scheme_names(const saei_scheme *scheme, const char *key) {
    const char *at = scheme->hyperparameters, *word;
    size_t n, length = strlen(key);
    while ((n = saei_next_word(&at, &word)) > 0)
        if (n == length && !strncmp(word, key, n)) return true;
    return false;
}
