/* family.c - see family.h. */
#include "core/model/family.h"

#include <string.h>

#define LLAMA_NAMES                                                                                \
    .embedding = "model.embed_tokens", .layers = "model.layers", .attn_norm = "input_layernorm",   \
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",                     \
    .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm", .o = "self_attn.o_proj",           \
    .gate = "mlp.gate_proj", .up = "mlp.up_proj", .down = "mlp.down_proj",                         \
    .final_norm = "model.norm", .head = "lm_head"

static const TensorNames llama_names = {LLAMA_NAMES, .mlp_norm = "post_attention_layernorm"};
static const TensorNames gemma_names = {LLAMA_NAMES, .attn_post_norm = "post_attention_layernorm",
                                        .mlp_norm = "pre_feedforward_layernorm",
                                        .mlp_post_norm = "post_feedforward_layernorm"};
static const TensorNames olmo2_names = {LLAMA_NAMES, .attn_post_norm = "post_attention_layernorm",
                                        .mlp_post_norm = "post_feedforward_layernorm"};
static const TensorNames phi3_names = {LLAMA_NAMES, .mlp_norm = "post_attention_layernorm",
                                       .qkv = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj"};
static const TensorNames gpt2_names = {.embedding = "transformer.wte",
                                       .positions = "transformer.wpe",
                                       .layers = "transformer.h",
                                       .attn_norm = "ln_1",
                                       .qkv = "attn.c_attn",
                                       .o = "attn.c_proj",
                                       .mlp_norm = "ln_2",
                                       .gate_up = "mlp.c_fc",
                                       .down = "mlp.c_proj",
                                       .final_norm = "transformer.ln_f",
                                       .head = "lm_head"};
static const TensorNames neox_names = {.embedding = "gpt_neox.embed_in",
                                       .layers = "gpt_neox.layers",
                                       .attn_norm = "input_layernorm",
                                       .qkv = "attention.query_key_value",
                                       .o = "attention.dense",
                                       .mlp_norm = "post_attention_layernorm",
                                       .gate_up = "mlp.dense_h_to_4h",
                                       .down = "mlp.dense_4h_to_h",
                                       .final_norm = "gpt_neox.final_layer_norm",
                                       .head = "embed_out"};

static const FamilyRow rows[] = {
    [FAMILY_LLAMA] = {"llama", "LlamaForCausalLM", "LlamaForSequenceClassification",
                      .attention_bias = 1, .mlp_bias = 1, .names = &llama_names},
    [FAMILY_MISTRAL] = {"mistral",
                        "MistralForCausalLM",
                        "MistralForSequenceClassification",
                        {.sliding_window = 4096},
                        .NKV = 8,
                        .windows = WINDOW_ALL,
                        .names = &llama_names},
    [FAMILY_QWEN2] = {"qwen2",
                      "Qwen2ForCausalLM",
                      "Qwen2ForSequenceClassification",
                      {.qkv_bias = 1},
                      .NKV = 32,
                      .windows = WINDOW_SWITCHED,
                      .names = &llama_names},
    [FAMILY_QWEN3] = {"qwen3",
                      "Qwen3ForCausalLM",
                      "Qwen3ForSequenceClassification",
                      {.qk_norm = QK_NORM_HEADS},
                      .NKV = 32,
                      .HS = 128,
                      .attention_bias = 1,
                      .windows = WINDOW_SWITCHED,
                      .names = &llama_names},
    [FAMILY_SMOLLM3] = {"smollm3",
                        "SmolLM3ForCausalLM",
                        "SmolLM3ForSequenceClassification",
                        {.tied = 1, .rope_theta = 2e6f},
                        .NKV = 4,
                        .attention_bias = 1,
                        .mlp_bias = 1,
                        .windows = WINDOW_SWITCHED,
                        .names = &llama_names},
    [FAMILY_GPT2] = {"gpt2",
                     "GPT2LMHeadModel",
                     "GPT2ForSequenceClassification",
                     {.norm = NORM_LAYER,
                      .act = ACT_GELU_TANH,
                      .ungated = 1,
                      .qkv_bias = 1,
                      .o_bias = 1,
                      .mlp_bias = 1,
                      .learned_positions = 1,
                      .tied = 1},
                     .linear = FILE_TRANSPOSED,
                     .qkv = FILE_TRANSPOSED,
                     .names = &gpt2_names},
    [FAMILY_GEMMA2] = {"gemma2",
                       "Gemma2ForCausalLM",
                       "Gemma2ForSequenceClassification",
                       {.norm = NORM_RMS_PLUS_ONE,
                        .norms = NORMS_AROUND,
                        .act = ACT_GELU_TANH,
                        .scaled_embeddings = 1,
                        .sliding_window = 4096,
                        .query_scalar = 256,
                        .attn_softcap = 50,
                        .final_softcap = 30,
                        .tied = 1},
                       .NKV = 4,
                       .HS = 256,
                       .attention_bias = 1,
                       .windows = WINDOW_PATTERN,
                       .names = &gemma_names},
    [FAMILY_GEMMA3] = {"gemma3_text",
                       "Gemma3ForCausalLM",
                       "Gemma3TextForSequenceClassification",
                       {.norm = NORM_RMS_PLUS_ONE,
                        .norms = NORMS_AROUND,
                        .act = ACT_GELU_TANH,
                        .scaled_embeddings = 1,
                        .sliding_window = 4096,
                        .query_scalar = 256,
                        .qk_norm = QK_NORM_HEADS,
                        .rope_theta = 1e6f,
                        .rope_local_theta = 1e4f,
                        .tied = 1},
                       .NKV = 4,
                       .HS = 256,
                       .attention_bias = 1,
                       .windows = WINDOW_PATTERN,
                       .names = &gemma_names},
    [FAMILY_OLMO2] = {"olmo2",
                      "Olmo2ForCausalLM",
                      "Olmo2ForSequenceClassification",
                      {.norms = NORMS_AFTER, .qk_norm = QK_NORM_WHOLE},
                      .attention_bias = 1,
                      .names = &olmo2_names},
    [FAMILY_PHI3] = {"phi3", "Phi3ForCausalLM", "Phi3ForSequenceClassification",
                     .windows = WINDOW_ALL, .names = &phi3_names},
    [FAMILY_GPT_NEOX] = {"gpt_neox",
                         "GPTNeoXForCausalLM",
                         "GPTNeoXForSequenceClassification",
                         {.norm = NORM_LAYER,
                          .parallel = 1,
                          .act = ACT_GELU,
                          .ungated = 1,
                          .qkv_bias = 1,
                          .o_bias = 1,
                          .mlp_bias = 1},
                         .attention_bias = 1,
                         .qkv = FILE_INTERLEAVED,
                         .names = &neox_names},
};

const FamilyRow *family_row(Family f) {
    return &rows[f];
}

int family_find(const char *type) {
    for (int f = 0; f < FAMILIES; f++)
        if (!strcmp(type, rows[f].type)) return f;
    return -1;
}
