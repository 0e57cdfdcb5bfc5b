#pragma once
#include "arithmetic.h"

/* ==== >>lm: families ========================================================================== */
/* A model is a description (lmi_shape) and tensors by name. A row of lmi_families says what models
   of a model_type have, where config.json is silent; a naming says what their tensors are called,
   which is how transformers calls the modules. A .gguf has one naming for all, gguf.h the rows.
   Nothing behind these two files asks for a family. */

/* What has a name: the modules of sae_lm_module, and parts that are no place to look at. */
enum {
    LMI_POSITIONS = SAE_LM_NUM_MODULES, LMI_UNEMBED, LMI_Q_NORM, LMI_K_NORM, LMI_ROUTER,
    LMI_EXPERT_GATE, LMI_EXPERT_UP, LMI_EXPERT_DOWN,
    LMI_EXPERT_GATE_UP, /* the first two in one */
    LMI_NUM_PARTS
};

typedef struct lmi_name {
    int part;
    const char *name; /* # stands for the number of an expert */
} lmi_name;

typedef struct lmi_naming {
    const char *base;   /* in front of all but the unembedding */
    const char *layers; /* in front of a layer's number, its names behind it */
    const struct lmi_naming *like; /* where names that are not here come from */
    const lmi_name *names;
    size_t count;
} lmi_naming;
#define LMI_NAMES(names) names, sizeof(names) / sizeof((names)[0])

static const lmi_name lmi_neox_names[] = {
    { SAE_LM_EMBED, "embed_in" },
    { SAE_LM_FINAL_NORM, "final_layer_norm" },
    { LMI_UNEMBED, "embed_out" },
    { SAE_LM_ATTENTION_NORM, "input_layernorm" },
    { SAE_LM_ATTENTION, "attention" },
    { SAE_LM_QKV_PROJ, "attention.query_key_value" },
    { SAE_LM_O_PROJ, "attention.dense" },
    { SAE_LM_MLP_NORM, "post_attention_layernorm" },
    { SAE_LM_MLP, "mlp" },
    { SAE_LM_UP_PROJ, "mlp.dense_h_to_4h" },
    { SAE_LM_DOWN_PROJ, "mlp.dense_4h_to_h" }
};
static const lmi_naming lmi_neox = { "gpt_neox.", "layers.", NULL, LMI_NAMES(lmi_neox_names) };

static const lmi_name lmi_gpt2_names[] = {
    { SAE_LM_EMBED, "wte" },
    { LMI_POSITIONS, "wpe" },
    { SAE_LM_FINAL_NORM, "ln_f" },
    { LMI_UNEMBED, "lm_head" },
    { SAE_LM_ATTENTION_NORM, "ln_1" },
    { SAE_LM_ATTENTION, "attn" },
    { SAE_LM_QKV_PROJ, "attn.c_attn" },
    { SAE_LM_O_PROJ, "attn.c_proj" },
    { SAE_LM_MLP_NORM, "ln_2" },
    { SAE_LM_MLP, "mlp" },
    { SAE_LM_UP_PROJ, "mlp.c_fc" },
    { SAE_LM_DOWN_PROJ, "mlp.c_proj" }
};
static const lmi_naming lmi_gpt2 = { "transformer.", "h.", NULL, LMI_NAMES(lmi_gpt2_names) };

static const lmi_name lmi_gpt_neo_names[] = {
    { SAE_LM_Q_PROJ, "attn.attention.q_proj" },
    { SAE_LM_K_PROJ, "attn.attention.k_proj" },
    { SAE_LM_V_PROJ, "attn.attention.v_proj" },
    { SAE_LM_O_PROJ, "attn.attention.out_proj" }
};
static const lmi_naming lmi_gpt_neo = { "transformer.", "h.", &lmi_gpt2,
                                        LMI_NAMES(lmi_gpt_neo_names) };

static const lmi_name lmi_llama_names[] = {
    { SAE_LM_EMBED, "embed_tokens" },
    { SAE_LM_FINAL_NORM, "norm" },
    { LMI_UNEMBED, "lm_head" },
    { SAE_LM_ATTENTION_NORM, "input_layernorm" },
    { SAE_LM_ATTENTION, "self_attn" },
    { SAE_LM_Q_PROJ, "self_attn.q_proj" },
    { SAE_LM_K_PROJ, "self_attn.k_proj" },
    { SAE_LM_V_PROJ, "self_attn.v_proj" },
    { LMI_Q_NORM, "self_attn.q_norm" },
    { LMI_K_NORM, "self_attn.k_norm" },
    { SAE_LM_O_PROJ, "self_attn.o_proj" },
    { SAE_LM_MLP_NORM, "post_attention_layernorm" },
    { SAE_LM_MLP, "mlp" },
    { SAE_LM_GATE_PROJ, "mlp.gate_proj" },
    { SAE_LM_UP_PROJ, "mlp.up_proj" },
    { SAE_LM_DOWN_PROJ, "mlp.down_proj" },
    { LMI_ROUTER, "mlp.gate" },
    { LMI_EXPERT_GATE, "mlp.experts.#.gate_proj" },
    { LMI_EXPERT_UP, "mlp.experts.#.up_proj" },
    { LMI_EXPERT_DOWN, "mlp.experts.#.down_proj" }
};
static const lmi_naming lmi_llama = { "model.", "layers.", NULL, LMI_NAMES(lmi_llama_names) };

static const lmi_name lmi_mixtral_names[] = {
    { LMI_ROUTER, "block_sparse_moe.gate" },
    { LMI_EXPERT_GATE, "block_sparse_moe.experts.#.w1" },
    { LMI_EXPERT_UP, "block_sparse_moe.experts.#.w3" },
    { LMI_EXPERT_DOWN, "block_sparse_moe.experts.#.w2" }
};
static const lmi_naming lmi_mixtral = { "model.", "layers.", &lmi_llama,
                                        LMI_NAMES(lmi_mixtral_names) };

static const lmi_name lmi_gemma2_names[] = {
    { SAE_LM_ATTENTION_POST_NORM, "post_attention_layernorm" },
    { SAE_LM_MLP_NORM, "pre_feedforward_layernorm" },
    { SAE_LM_MLP_POST_NORM, "post_feedforward_layernorm" }
};
static const lmi_naming lmi_gemma2 = { "model.", "layers.", &lmi_llama,
                                       LMI_NAMES(lmi_gemma2_names) };

/* Tensors of a .gguf; those of experts hold all of them, [experts,outputs,inputs]. */
static const lmi_name lmi_gguf_names[] = {
    { SAE_LM_EMBED, "token_embd" },
    { LMI_POSITIONS, "position_embd" },
    { SAE_LM_FINAL_NORM, "output_norm" },
    { LMI_UNEMBED, "output" },
    { SAE_LM_ATTENTION_NORM, "attn_norm" },
    { SAE_LM_QKV_PROJ, "attn_qkv" },
    { SAE_LM_Q_PROJ, "attn_q" },
    { SAE_LM_K_PROJ, "attn_k" },
    { SAE_LM_V_PROJ, "attn_v" },
    { LMI_Q_NORM, "attn_q_norm" },
    { LMI_K_NORM, "attn_k_norm" },
    { SAE_LM_O_PROJ, "attn_output" },
    { SAE_LM_ATTENTION_POST_NORM, "post_attention_norm" },
    { SAE_LM_MLP_NORM, "ffn_norm" },
    { SAE_LM_GATE_PROJ, "ffn_gate" },
    { SAE_LM_UP_PROJ, "ffn_up" },
    { SAE_LM_DOWN_PROJ, "ffn_down" },
    { LMI_ROUTER, "ffn_gate_inp" },
    { LMI_EXPERT_GATE, "ffn_gate_exps" },
    { LMI_EXPERT_UP, "ffn_up_exps" },
    { LMI_EXPERT_DOWN, "ffn_down_exps" },
    { LMI_EXPERT_GATE_UP, "ffn_gate_up_exps" },
    { SAE_LM_MLP_POST_NORM, "post_ffw_norm" }
};
static const lmi_naming lmi_gguf = { "", "blk.", NULL, LMI_NAMES(lmi_gguf_names) };

/* What a model has. */
enum {
    LMI_RMS = 1 << 0,          /* norms without mean and bias */
    LMI_ONE_PLUS = 1 << 1,     /* their weight is 1 + the tensor */
    LMI_POST_NORMS = 1 << 2,   /* norms behind attention and MLP too */
    LMI_QK_NORM = 1 << 3,      /* each head of q and k has a norm */
    LMI_LEARNED = 1 << 4,      /* positions; else rotary */
    LMI_GATED = 1 << 5,        /* down(act(gate x) up x); else down(act(up x)) */
    LMI_EXPERTS = 1 << 6,
    LMI_EMBED_SCALE = 1 << 7,  /* the embedding times sqrt(d) */
    LMI_QKV_BIAS = 1 << 8, LMI_O_BIAS = 1 << 9, LMI_MLP_BIAS = 1 << 10,
    LMI_FUSED = 1 << 11,       /* one matrix for q, k, v */
    LMI_BY_HEAD = 1 << 12,     /* it is [heads][q,k,v][head_dim]; else all q, all k, all v */
    LMI_IN_OUT = 1 << 13,      /* matrices stand [in,out] in the file */
    LMI_PARALLEL = 1 << 14, LMI_TIED = 1 << 15,
    /* and what its config.json says */
    LMI_BIAS_KEYS = 1 << 16,   /* attention_bias, mlp_bias */
    LMI_CAPS = 1 << 17,        /* attn_logit_softcapping 50, final_logit_softcapping 30 */
    LMI_NO_CAPS = 1 << 18,     /* the same, default none */
    LMI_SCALAR = 1 << 19,      /* query_pre_attn_scalar in place of head_dim */
    LMI_UNSCALED = 1 << 20,    /* scores are not scaled */
    LMI_MLP_4D = 1 << 21,      /* the MLP's default width */
    LMI_TOP_NORM = 1 << 22,    /* norm_topk_prob is always true */
    LMI_USE_WINDOW = 1 << 23,  /* windows count only where use_sliding_window is true */
    LMI_FROM_LAYER = 1 << 24,  /* and from max_window_layers on */
    LMI_LOCAL_ROPE = 1 << 25,  /* layers with a window have rope_local_base_freq */
    LMI_MEANS_TANH = 1 << 26,  /* "gelu" */
    LMI_TEXT_CONFIG = 1 << 27, /* all of it stands in text_config */
    /* and what is otherwise in a .gguf: */
    LMI_PAIRED = 1 << 28,      /* in heads of q and k, what rotary turns together lies together */
    LMI_APART = 1 << 29        /* all q, all k, all v, be it LMI_BY_HEAD for those who look */
};

typedef struct lmi_family {
    const char *type, *title; /* model_type; the names people know */
    const lmi_naming *naming;
    uint32_t has;
    const char *act_keys, *act;
    double eps, theta, rotary_share;
    size_t heads, kv_heads, head_dim, vocab_size; /* 0: required, heads, d / heads, required */
    size_t max_ctx;
    size_t window;       /* keys */
    const char *windows; /* of the layers in turn, over and over: s has a window, f sees all */
    int64_t bos, eos, pad;
} lmi_family;

#define LMI_LLAMA (LMI_RMS | LMI_GATED)
#define LMI_GEMMA (LMI_LLAMA | LMI_ONE_PLUS | LMI_EMBED_SCALE | LMI_TIED | LMI_BIAS_KEYS)
static const lmi_family lmi_families[] = {
    { "gpt_neox", "GPT-NeoX, Pythia", &lmi_neox,
      LMI_QKV_BIAS | LMI_O_BIAS | LMI_MLP_BIAS | LMI_FUSED | LMI_BY_HEAD | LMI_PARALLEL
      | LMI_BIAS_KEYS,
      "hidden_act", "gelu", 1e-5, 1e4, 0.25, 0, 0, 0, 0, 2048, 0, "f", -1, -1, -1 },
    { "gpt2", "GPT-2", &lmi_gpt2,
      LMI_LEARNED | LMI_QKV_BIAS | LMI_O_BIAS | LMI_MLP_BIAS | LMI_FUSED | LMI_IN_OUT | LMI_TIED
      | LMI_MLP_4D,
      "activation_function", "gelu_new", 1e-5, 0, 0, 0, 0, 0, 0, 1024, 0, "f", 50256, 50256,
      -1 },
    { "gpt_neo", "GPT-Neo, TinyStories", &lmi_gpt_neo,
      LMI_LEARNED | LMI_O_BIAS | LMI_MLP_BIAS | LMI_TIED | LMI_MLP_4D | LMI_UNSCALED,
      "activation_function", "gelu_new", 1e-5, 0, 0, 0, 0, 0, 0, 2048, 256, "fs", 50256, 50256,
      -1 },
    { "llama", "Llama", &lmi_llama, LMI_LLAMA | LMI_BIAS_KEYS,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 0, 0, 0, 2048, 0, "f", 1, 2, -1 },
    { "mistral", "Mistral", &lmi_llama, LMI_LLAMA,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 8, 0, 0, 131072, 4096, "s", 1, 2, -1 },
    { "mixtral", "Mixtral", &lmi_mixtral, LMI_LLAMA | LMI_EXPERTS | LMI_TOP_NORM,
      "hidden_act", "silu", 1e-5, 1e6, 1, 0, 8, 0, 0, 131072, 0, "s", 1, 2, -1 },
    { "qwen2", "Qwen2, 2.5", &lmi_llama,
      LMI_LLAMA | LMI_QKV_BIAS | LMI_USE_WINDOW | LMI_FROM_LAYER,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 32, 0, 0, 32768, 4096, "s", -1, -1, -1 },
    { "qwen3", "Qwen3", &lmi_llama,
      LMI_LLAMA | LMI_QK_NORM | LMI_BIAS_KEYS | LMI_USE_WINDOW | LMI_FROM_LAYER,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 32, 128, 0, 32768, 4096, "s", -1, -1, -1 },
    { "qwen3_moe", "Qwen3-MoE", &lmi_llama,
      LMI_LLAMA | LMI_QK_NORM | LMI_BIAS_KEYS | LMI_USE_WINDOW | LMI_EXPERTS,
      "hidden_act", "silu", 1e-6, 1e4, 1, 0, 4, 0, 0, 32768, 4096, "s", -1, -1, -1 },
    { "gemma", "Gemma", &lmi_llama, LMI_GEMMA | LMI_MEANS_TANH,
      "hidden_activation|hidden_act", "gelu_pytorch_tanh", 1e-6, 1e4, 1, 16, 16, 256, 256000, 8192,
      0, "f", 2, 1, 0 },
    { "gemma2", "Gemma 2", &lmi_gemma2, LMI_GEMMA | LMI_POST_NORMS | LMI_CAPS | LMI_SCALAR,
      "hidden_activation", "gelu_pytorch_tanh", 1e-6, 1e4, 1, 8, 4, 256, 256000, 8192, 4096, "sf",
      2, 1, 0 },
    { "gemma3_text", "Gemma 3", &lmi_gemma2,
      LMI_GEMMA | LMI_POST_NORMS | LMI_QK_NORM | LMI_NO_CAPS | LMI_SCALAR | LMI_LOCAL_ROPE,
      "hidden_activation", "gelu_pytorch_tanh", 1e-6, 1e6, 1, 8, 4, 256, 262208, 131072, 4096,
      "sssssf", 2, 1, 0 },
    { "gemma3", "its text", &lmi_gemma2,
      LMI_GEMMA | LMI_POST_NORMS | LMI_QK_NORM | LMI_NO_CAPS | LMI_SCALAR | LMI_LOCAL_ROPE
      | LMI_TEXT_CONFIG,
      "hidden_activation", "gelu_pytorch_tanh", 1e-6, 1e6, 1, 8, 4, 256, 262208, 131072, 4096,
      "sssssf", 2, 1, 0 }
};
enum { LMI_NUM_FAMILIES = sizeof lmi_families / sizeof lmi_families[0] };

static const lmi_family *lmi_family_find(const char *type) {
    for (size_t i = 0; i < LMI_NUM_FAMILIES; i++)
        if (strcmp(type, lmi_families[i].type) == 0) return &lmi_families[i];
    return NULL;
}

/* "gpt_neox (GPT-NeoX, Pythia), gpt2 (GPT-2), ..." */
static const char *lmi_family_list(char *out, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < LMI_NUM_FAMILIES && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%s (%s)", i ? ", " : "", lmi_families[i].type,
                              lmi_families[i].title);
    return out;
}

static const char *lmi_part_name(const lmi_naming *naming, int part) {
    for (; naming; naming = naming->like)
        for (size_t i = 0; i < naming->count; i++)
            if (naming->names[i].part == part) return naming->names[i].name;
    return NULL;
}

/* ---- the description ---- */

enum { LMI_MAX_LAYERS = 4096 };
enum { LMI_ROPE_PLAIN, LMI_ROPE_LINEAR, LMI_ROPE_LLAMA3 };
typedef struct lmi_rope {
    int kind;
    double base, factor, low, high, original; /* of LLAMA3: low_freq_factor, ... */
    float *divisors; /* [rotary_dims / 2] of the frequencies, from a .gguf; NULL: none */
} lmi_rope;

typedef struct lmi_layer_shape {
    size_t window; /* 0: sees all keys before it */
    float scale;   /* of the scores */
    uint8_t rope;  /* which of the two */
    bool experts;
} lmi_layer_shape;

typedef struct lmi_shape {
    sae_lm_config info;
    uint32_t has; /* the first group of flags */
    const lmi_naming *naming, *tensors; /* of modules, of tensors in the file */
    lmi_act act;
    float attention_cap, logit_cap; /* 0: none */
    size_t dense_dim; /* the MLP's width in layers without experts */
    bool top_norm;    /* weights of the experts taken sum to 1 */
    lmi_rope rope[2];
    lmi_layer_shape *layer; /* [layers] */
} lmi_shape;
