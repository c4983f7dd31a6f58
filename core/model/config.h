/* config.h - the shape of a model. Letters as everywhere: C channels, L layers, NH query heads, NKV
 * key/value heads, HS head size, FF feed-forward width, V vocabulary (rows of the embedding). */
#ifndef CONFIG_H
#define CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include "core/base/status.h"

enum { EOS_MAX = 8, LAYERS_MAX = 1000 };

typedef enum {
    FAMILY_LLAMA,
    FAMILY_MISTRAL,
    FAMILY_QWEN2,
    FAMILY_QWEN3,
    FAMILY_SMOLLM3
} Family; /* what config.json is written as */

typedef enum { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 } RopeType;
typedef struct { /* how angles are slowed down for more positions; default: all 0 */
    RopeType type;
    float factor;
    float low_freq_factor, high_freq_factor; /* llama3: turns within `original` positions */
    int original;
} RopeScaling;

typedef struct {
    Family family;
    int V, C, L, NH, NKV, HS, FF;
    int max_positions;
    int sliding_window; /* attention sees so many positions back, 0 = all */
    float rope_theta, norm_eps;
    RopeScaling rope;
    int qkv_bias, o_bias, mlp_bias; /* products with a bias: q, k, v; what follows attention; all
                                       three of the feed-forward */
    int tied;                       /* the head is the embedding */
    int lm_head;                    /* has a language-model head */
    int scores;                     /* outputs of the scalar head, 0 = none */
    int qk_norm;                    /* RMSNorm over each head of q and k, before the rotation */
    uint32_t unrotated[(LAYERS_MAX + 31) / 32]; /* a bit per layer without rotary positions */
    float init_std;
    int bos, pad; /* -1 none; carried for config.json */
    int eos[EOS_MAX], n_eos;
    double score_mean, score_std; /* of a reward model on held-out data; std 0 = not measured */
} ModelConfig;

/* E_FORMAT naming the member that cannot be, `what` says whose shape it is. */
Status config_check(const ModelConfig *m, const char *what);

static inline int config_rotates(const ModelConfig *m, int layer) {
    return !(m->unrotated[layer / 32] >> layer % 32 & 1);
}

static inline int config_qkv_rows(const ModelConfig *m) {
    return (m->NH + 2 * m->NKV) * m->HS;
}

#endif
