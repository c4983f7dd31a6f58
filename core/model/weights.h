/* weights.h - one allocation for all of a model's weights, carved by walking the one list of
 * tensors.
 *
 * Gradients, moments, checkpoints, weight decay, file names and gradient tests walk the same list:
 * a new tensor is one line of tensors_visit. */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include "core/backend/backend.h"
#include "core/model/config.h"
#include "core/model/family.h"

typedef struct {
    Buf attn_norm, wq, wk, wv, wo, mlp_norm, w_gate, w_up, w_down;
    /* NULL where the model has none; of neighbours that are one tensor in its files the first slot
     * is all of them */
    Buf q_norm, k_norm, attn_post_norm, mlp_post_norm;
    Buf bq, bk, bv, bo, b_gate, b_up, b_down;
    Buf attn_norm_bias, mlp_norm_bias;
} LayerTensors;

typedef struct { /* weights, or gradients of the same shape */
    Buf tok_emb, pos_emb, final_norm, final_norm_bias, lm_head, score;
    LayerTensors *layer; /* [L] */
} Tensors;

typedef enum {
    INIT_NORMAL,
    INIT_RESIDUAL /* std / sqrt(2L) */,
    INIT_ONE,
    INIT_ZERO,
    INIT_BIAS, /* zero, too */
    INIT_SCORE /* 1/sqrt(C+1) */
} TensorInit;

typedef struct {
    char name[80];  /* as in a Hugging Face directory */
    int rows, cols; /* cols 1 for vectors; rows x cols elements */
    int vector;     /* one-dimensional in files */
    int decay;      /* takes part in weight decay */
    int layer;      /* whose it is, -1 none */
    FileOrder order;
    TensorInit init;
    size_t offset; /* first element in the flat range */
} TensorInfo;

typedef Status (*TensorVisitor)(void *ctx, const TensorInfo *info, Buf *slot);

/* Calls visit for every tensor of the model in order of the flat range. */
Status tensors_visit(const ModelConfig *m, Tensors *t, TensorVisitor visit, void *ctx);
/* Where element i of a tensor lies in a Hugging Face file's. */
size_t tensor_file_index(const ModelConfig *m, const TensorInfo *info, size_t i);
size_t tensors_count(const ModelConfig *m); /* elements of the flat range */
/* Points the slots into flat; *layers is the array they need (from the host allocator). */
Status tensors_carve(const ModelConfig *m, Tensors *t, Buf flat);
void tensors_release(Tensors *t);

typedef struct { /* the products' view: neighbours fused */
    Mat qkv, o, gate_up, down;
} LayerMats;

typedef struct {
    ModelConfig cfg;
    Backend *b;
    Buf flat, packed;
    size_t count;
    Buf quantized; /* the matrices of the layers, where those are */
    size_t quantized_count;
    Tensors t;
    LayerMats *mats; /* [L] */
    Mat head;
} Weights;

/* Zeroed weights on the backend, stored as `dtype`: f32 what is trained or written to files, the
 * backend's own what is only read. E_MEMORY. */
Status weights_create(Weights *w, Backend *b, const ModelConfig *cfg, Dtype dtype);
/* The same, only to be read, with the matrices of the layers in blocks of `layers` (DT_Q8, DT_Q4).
 * E_USAGE where a row is not of whole blocks. */
Status weights_create_quantized(Weights *w, Backend *b, const ModelConfig *cfg, Dtype layers);
size_t weights_quantized_count(const ModelConfig *m); /* elements of those matrices */
void weights_release(Weights *w);
/* The weight of products that begins with a tensor of the layer (-1: of none), or NULL. */
const Mat *weights_mat(const Weights *w, int layer, Buf tensor);
/* To be called after the weights changed: renews the packed copies. */
void weights_pack(Weights *w);
/* Normal initialisation from the seed; packs. */
Status weights_init(Weights *w, uint64_t seed);
/* One tensor as its row in the list says; index keys its random numbers. E_MEMORY. */
Status weights_init_tensor(Weights *w, const TensorInfo *info, Buf slot, uint64_t seed, int index);
/* XXH3 over the weights as f32 bytes in list order: what tests and checkpoints compare. */
Status weights_hash(const Weights *w, uint64_t *hash);

#endif
