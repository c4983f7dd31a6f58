/* family.h - what each family of models is called, how it is built and how its files name things:
 * one row each. Facts from the model classes of transformers. */
#ifndef FAMILY_H
#define FAMILY_H

#include "core/model/config.h"

typedef struct { /* below a layer's prefix; NULL: the family has no such tensor */
    const char *embedding, *positions, *layers; /* "model.layers": layer l is "model.layers.l." */
    const char *attn_norm, *q, *k, *v, *qkv, *q_norm, *k_norm, *o, *attn_post_norm;
    const char *mlp_norm, *gate, *up, *gate_up, *down, *mlp_post_norm;
    const char *final_norm, *head;
} TensorNames;

typedef enum {
    FILE_AS_HERE,     /* rows of outputs */
    FILE_TRANSPOSED,  /* GPT-2's Conv1D: [in, out] */
    FILE_INTERLEAVED, /* GPT-NeoX's query_key_value: q, k and v of each head in turn */
} FileOrder;

typedef enum { /* which layers have a sliding window, where there is one */
               WINDOW_NONE,
               WINDOW_ALL,
               WINDOW_SWITCHED, /* behind use_sliding_window, and some */
               WINDOW_PATTERN   /* all but every so manieth */
} WindowKind;

typedef struct {
    const char *type;             /* model_type */
    const char *causal, *scorer;  /* the architectures with a language-model and a score head */
    ModelConfig built;            /* structure, and values that are the class's defaults */
    int NKV;                      /* default: as many as query heads where 0 */
    int HS;                       /* default: hidden size by query heads where 0 */
    int attention_bias, mlp_bias; /* has the key */
    WindowKind windows;
    FileOrder linear, qkv; /* how its files hold matrices of layers */
    const TensorNames *names;
} FamilyRow;

const FamilyRow *family_row(Family f);
static inline int family_windows_by_layer(Family f) { /* its configs have layer_types */
    return family_row(f)->windows >= WINDOW_SWITCHED;
}
/* The family called `type` in config.json, -1 none. */
int family_find(const char *type);

#endif
