/* config.h - the shape of a model. Letters as everywhere: C channels, L layers, NH query heads, NKV
 * key/value heads, HS head size, FF feed-forward width, V vocabulary (rows of the embedding).
 *
 * A ModelConfig of zeros but for its sizes is a llama; family.h says what the others differ in. */
#ifndef CONFIG_H
#define CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include "core/backend/backend.h"
#include "core/base/status.h"

enum { EOS_MAX = 8, LAYERS_MAX = 1000, ROPE_PAIRS_MAX = 128 };

typedef enum {
    FAMILY_LLAMA,
    FAMILY_MISTRAL,
    FAMILY_QWEN2,
    FAMILY_QWEN3,
    FAMILY_SMOLLM3,
    FAMILY_GPT2,
    FAMILY_GEMMA2,
    FAMILY_GEMMA3,
    FAMILY_OLMO2,
    FAMILY_PHI3,
    FAMILY_GPT_NEOX,
    FAMILIES
} Family; /* what config.json is written as */

typedef enum {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_DYNAMIC,
    ROPE_YARN,
    ROPE_LONGROPE,
    ROPE_TYPES
} RopeType;
typedef struct { /* how angles are slowed down for more positions; default: all 0 */
    RopeType type;
    float factor;
    float low_freq_factor, high_freq_factor; /* llama3: turns within `original` positions */
    int original;
    float beta_fast, beta_slow; /* yarn: turns within `original` positions */
    int fractional;             /* yarn: these bounds are not rounded to whole pairs */
    float attention_factor;     /* yarn, longrope: of cosines and sines */
    float short_factor[ROPE_PAIRS_MAX], long_factor[ROPE_PAIRS_MAX]; /* longrope, by pair */
} RopeScaling;

typedef enum {
    NORM_RMS,
    NORM_RMS_PLUS_ONE, /* weights are stored less 1 */
    NORM_LAYER         /* with a mean and a bias */
} NormKind;
typedef enum { NORMS_BEFORE, NORMS_AROUND, NORMS_AFTER } NormPlace; /* of a layer's two halves */
typedef enum { QK_NORM_NONE, QK_NORM_HEADS, QK_NORM_WHOLE } QkNorm; /* before the rotation */

typedef uint32_t LayerSet[(LAYERS_MAX + 31) / 32]; /* a bit per layer */

typedef struct {
    Family family;
    int V, C, L, NH, NKV, HS, FF;
    int max_positions;
    float norm_eps;
    NormKind norm;
    NormPlace norms;
    int parallel; /* both halves of a layer read its input */
    Activation act;
    int ungated;
    int qkv_bias, o_bias, mlp_bias; /* products with a bias: q, k, v; what follows attention; all
                                       of the feed-forward */
    QkNorm qk_norm;
    int learned_positions; /* added to the embeddings, [max_positions, C] */
    int scaled_embeddings; /* times sqrt(C) */
    float rope_theta;
    float rope_local_theta; /* of windowed layers, without scaling; 0: as the others */
    int rotated;            /* channels of a head that are rotated, 0 = all */
    LayerSet unrotated;     /* layers without rotary positions */
    RopeScaling rope;
    int sliding_window; /* windowed layers see so many positions back, 0 = all */
    LayerSet windowed;
    float query_scalar;  /* scores are divided by its root, 0: HS */
    float attn_softcap;  /* scores become c tanh(score / c), 0: as they are */
    float final_softcap; /* so do logits */
    int tied;            /* the head is the embedding */
    int lm_head;         /* has a language-model head */
    int scores;          /* outputs of the scalar head, 0 = none */
    float init_std;
    int bos, pad; /* -1 none; carried for config.json */
    int eos[EOS_MAX], n_eos;
    double score_mean, score_std; /* of a reward model on held-out data; std 0 = not measured */
} ModelConfig;

/* E_FORMAT naming the member that cannot be, `what` says whose shape it is. */
Status config_check(const ModelConfig *m, const char *what);

static inline void layer_set(LayerSet set, int layer) {
    set[layer / 32] |= 1u << layer % 32;
}
static inline int layer_in(const LayerSet set, int layer) {
    return set[layer / 32] >> layer % 32 & 1;
}

static inline int config_rotates(const ModelConfig *m, int layer) {
    return !layer_in(m->unrotated, layer);
}
static inline int config_rotated(const ModelConfig *m) {
    return m->rotated ? m->rotated : m->HS;
}
static inline int config_window(const ModelConfig *m, int layer) {
    return layer_in(m->windowed, layer) ? m->sliding_window : 0;
}
static inline int config_qkv_rows(const ModelConfig *m) {
    return (m->NH + 2 * m->NKV) * m->HS;
}
static inline int config_gate_rows(const ModelConfig *m) { /* of the feed-forward's first product */
    return m->ungated ? m->FF : 2 * m->FF;
}

#endif
