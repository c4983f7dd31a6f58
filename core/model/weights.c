/* weights.c - the one list of tensors, and what is carved by walking it. */
#include "core/model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/memory.h"
#include "core/base/rng.h"

Status config_check(const ModelConfig *m, const char *what) {
    struct {
        const char *name;
        int value, min, max;
    } const rules[] = {
        {"vocab_size", m->V, 2, 1 << 24},
        {"hidden_size", m->C, 1, 1 << 17},
        {"num_hidden_layers", m->L, 1, LAYERS_MAX},
        {"num_attention_heads", m->NH, 1, 1024},
        {"num_key_value_heads", m->NKV, 1, 1024},
        {"head_dim", m->HS, 2, 256},
        {"intermediate_size", m->FF, 1, 1 << 18},
        {"max_position_embeddings", m->max_positions, 1, 1 << 24},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].value < rules[i].min || rules[i].value > rules[i].max)
            return status_fail(E_FORMAT, "%s: %s is %d, it must be from %d to %d", what,
                               rules[i].name, rules[i].value, rules[i].min, rules[i].max);
    }
    if (m->NH % m->NKV)
        return status_fail(E_FORMAT,
                           "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d",
                           what, m->NH, m->NKV);
    if (m->HS % 2)
        return status_fail(E_FORMAT, "%s: head_dim %d is odd, rotary positions need pairs", what,
                           m->HS);
    if (!m->lm_head && !m->scores) return status_fail(E_FORMAT, "%s: a model needs a head", what);
    return OK;
}

typedef struct {
    const ModelConfig *m;
    TensorVisitor visit;
    void *ctx;
    size_t offset;
} Walk;

static Status visit_one(Walk *walk, Buf *slot, int layer, const char *name, int rows, int cols,
                        TensorInit init) {
    int vector = init == INIT_ONE || init == INIT_ZERO;
    const char *kind = init == INIT_ZERO ? "bias" : "weight";
    TensorInfo info = {.rows = rows,
                       .cols = cols,
                       .vector = vector,
                       .decay = !vector,
                       .init = init,
                       .offset = walk->offset};
    if (layer < 0)
        snprintf(info.name, sizeof info.name, "%s.%s", name, kind);
    else
        snprintf(info.name, sizeof info.name, "model.layers.%d.%s.%s", layer, name, kind);
    walk->offset += (size_t)rows * (size_t)cols;
    return walk->visit(walk->ctx, &info, slot);
}

/* Neighbours are one product: q, k, v and gate, up; so are their biases. */
static Status visit_attention(Walk *w, LayerTensors *y, int l) {
    const ModelConfig *m = w->m;
    int Q = m->NH * m->HS, KV = m->NKV * m->HS;
    TRY(visit_one(w, &y->attn_norm, l, "input_layernorm", m->C, 1, INIT_ONE));
    TRY(visit_one(w, &y->wq, l, "self_attn.q_proj", Q, m->C, INIT_NORMAL));
    TRY(visit_one(w, &y->wk, l, "self_attn.k_proj", KV, m->C, INIT_NORMAL));
    TRY(visit_one(w, &y->wv, l, "self_attn.v_proj", KV, m->C, INIT_NORMAL));
    if (m->qkv_bias) {
        TRY(visit_one(w, &y->bq, l, "self_attn.q_proj", Q, 1, INIT_ZERO));
        TRY(visit_one(w, &y->bk, l, "self_attn.k_proj", KV, 1, INIT_ZERO));
        TRY(visit_one(w, &y->bv, l, "self_attn.v_proj", KV, 1, INIT_ZERO));
    }
    if (m->qk_norm) {
        TRY(visit_one(w, &y->q_norm, l, "self_attn.q_norm", m->HS, 1, INIT_ONE));
        TRY(visit_one(w, &y->k_norm, l, "self_attn.k_norm", m->HS, 1, INIT_ONE));
    }
    TRY(visit_one(w, &y->wo, l, "self_attn.o_proj", m->C, Q, INIT_RESIDUAL));
    return m->o_bias ? visit_one(w, &y->bo, l, "self_attn.o_proj", m->C, 1, INIT_ZERO) : OK;
}

static Status visit_mlp(Walk *w, LayerTensors *y, int l) {
    const ModelConfig *m = w->m;
    TRY(visit_one(w, &y->mlp_norm, l, "post_attention_layernorm", m->C, 1, INIT_ONE));
    TRY(visit_one(w, &y->w_gate, l, "mlp.gate_proj", m->FF, m->C, INIT_NORMAL));
    TRY(visit_one(w, &y->w_up, l, "mlp.up_proj", m->FF, m->C, INIT_NORMAL));
    if (m->mlp_bias) {
        TRY(visit_one(w, &y->b_gate, l, "mlp.gate_proj", m->FF, 1, INIT_ZERO));
        TRY(visit_one(w, &y->b_up, l, "mlp.up_proj", m->FF, 1, INIT_ZERO));
    }
    TRY(visit_one(w, &y->w_down, l, "mlp.down_proj", m->C, m->FF, INIT_RESIDUAL));
    return m->mlp_bias ? visit_one(w, &y->b_down, l, "mlp.down_proj", m->C, 1, INIT_ZERO) : OK;
}

Status tensors_visit(const ModelConfig *m, Tensors *t, TensorVisitor visit, void *ctx) {
    Walk w = {m, visit, ctx, 0};
    TRY(visit_one(&w, &t->tok_emb, -1, "model.embed_tokens", m->V, m->C, INIT_NORMAL));
    for (int l = 0; l < m->L; l++) {
        TRY(visit_attention(&w, &t->layer[l], l));
        TRY(visit_mlp(&w, &t->layer[l], l));
    }
    TRY(visit_one(&w, &t->final_norm, -1, "model.norm", m->C, 1, INIT_ONE));
    if (m->lm_head && !m->tied)
        TRY(visit_one(&w, &t->lm_head, -1, "lm_head", m->V, m->C, INIT_NORMAL));
    if (m->scores) TRY(visit_one(&w, &t->score, -1, "score", m->scores, m->C, INIT_SCORE));
    return OK;
}

static Status layers_create(const ModelConfig *m, Tensors *t) {
    t->layer = calloc((size_t)m->L, sizeof *t->layer);
    return t->layer ? OK : status_fail(E_MEMORY, "no memory for a list of %d layers", m->L);
}

void tensors_release(Tensors *t) {
    free(t->layer);
    *t = (Tensors){0};
}

static Status count_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    (void)slot;
    *(size_t *)ctx = info->offset + (size_t)info->rows * (size_t)info->cols;
    return OK;
}

size_t tensors_count(const ModelConfig *m) {
    size_t count = 0;
    Tensors t = {0};
    if (layers_create(m, &t) == OK) tensors_visit(m, &t, count_tensor, &count);
    tensors_release(&t);
    return count;
}

static Status place_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    *slot = buf_at(*(Buf *)ctx, info->offset);
    return OK;
}

Status tensors_carve(const ModelConfig *m, Tensors *t, Buf flat) {
    TRY(layers_create(m, t));
    return tensors_visit(m, t, place_tensor, &flat);
}

/* where a tensor's copy lies in a mirror of the weights */
static Buf mirrored(const Weights *w, Buf of) {
    size_t at = (size_t)((char *)of.ptr - (char *)w->flat.ptr) / dtype_bytes(of.dtype);
    return of.ptr ? buf_at(w->packed, at) : of;
}

static Mat mat(const Weights *w, Buf of, Buf bias, size_t *used, int O, int K) {
    Mat m = {.w = of, .packed = buf_at(w->packed, *used), .O = O, .K = K, .bias = bias};
    size_t count = w->b->packed_count(w->b, of.dtype, O, K);
    if (w->b->mirror && count) {
        m.packed = mirrored(w, of);
        m.bias_packed = mirrored(w, bias);
        *used = w->count;
        return m;
    }
    *used += count;
    return m;
}

/* Once without memory to count the packed copies, once to place them. */
static size_t place_mats(Weights *w) {
    const ModelConfig *m = &w->cfg;
    size_t used = 0;
    for (int l = 0; l < m->L; l++) {
        const LayerTensors *y = &w->t.layer[l];
        w->mats[l] = (LayerMats){.qkv = mat(w, y->wq, y->bq, &used, config_qkv_rows(m), m->C),
                                 .o = mat(w, y->wo, y->bo, &used, m->C, m->NH * m->HS),
                                 .gate_up = mat(w, y->w_gate, y->b_gate, &used, 2 * m->FF, m->C),
                                 .down = mat(w, y->w_down, y->b_down, &used, m->C, m->FF)};
    }
    if (m->lm_head)
        w->head = mat(w, m->tied ? w->t.tok_emb : w->t.lm_head, (Buf){0}, &used, m->V, m->C);
    return used;
}

Status weights_create(Weights *w, Backend *b, const ModelConfig *cfg, Dtype dtype) {
    *w = (Weights){.cfg = *cfg, .b = b, .count = tensors_count(cfg)};
    TRY(b->alloc(b, &w->flat, dtype, w->count, "weights"));
    TRY(tensors_carve(cfg, &w->t, w->flat));
    w->mats = calloc((size_t)cfg->L, sizeof *w->mats);
    if (!w->mats) return status_fail(E_MEMORY, "no memory for a list of %d layers", cfg->L);
    w->packed = (Buf){NULL, b->dtype};
    size_t packed = place_mats(w);
    if (!packed) return OK;
    TRY(b->alloc(b, &w->packed, b->dtype, packed, "packed weights"));
    place_mats(w);
    return OK;
}

void weights_release(Weights *w) {
    if (!w->b) return;
    w->b->release(w->b, &w->flat);
    w->b->release(w->b, &w->packed);
    tensors_release(&w->t);
    free(w->mats);
    *w = (Weights){0};
}

void weights_pack(Weights *w) {
    if (!w->packed.ptr) return;
    for (int l = 0; l < w->cfg.L; l++) {
        w->b->pack(w->b, w->mats[l].qkv);
        w->b->pack(w->b, w->mats[l].o);
        w->b->pack(w->b, w->mats[l].gate_up);
        w->b->pack(w->b, w->mats[l].down);
    }
    if (w->cfg.lm_head) w->b->pack(w->b, w->head);
}

Status weights_init_tensor(Weights *w, const TensorInfo *info, Buf slot, uint64_t seed, int index) {
    const ModelConfig *m = &w->cfg;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    float *host = malloc(count * sizeof *host), std = m->init_std;
    if (!host) return status_fail(E_MEMORY, "%s: no memory for initial values", info->name);
    if (info->init == INIT_RESIDUAL) std /= sqrtf(2.0f * (float)m->L);
    if (info->init == INIT_SCORE) std = 1.0f / sqrtf((float)m->C + 1.0f);
    for (size_t i = 0; i < count; i++)
        host[i] = info->vector ? (float)(info->init == INIT_ONE)
                               : std * rng_normal(seed, RNG_INIT, (uint64_t)index, i);
    w->b->upload(w->b, slot, host, count);
    free(host);
    return OK;
}

typedef struct {
    Weights *w;
    uint64_t seed;
    int index;
} Init;

static Status init_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Init *init = ctx;
    return weights_init_tensor(init->w, info, *slot, init->seed, init->index++);
}

Status weights_init(Weights *w, uint64_t seed) {
    Init init = {w, seed, 0};
    TRY(tensors_visit(&w->cfg, &w->t, init_tensor, &init));
    weights_pack(w);
    return w->b->sync(w->b);
}

Status weights_hash(const Weights *w, uint64_t *hash) {
    enum { PIECE = 1 << 18 };
    float *host = malloc(PIECE * sizeof *host);
    if (!host) return status_fail(E_MEMORY, "no memory to hash weights");
    *hash = 0;
    for (size_t at = 0; at < w->count; at += PIECE) {
        size_t n = w->count - at < PIECE ? w->count - at : PIECE;
        w->b->download(w->b, host, buf_at(w->flat, at), n);
        *hash = file_hash(host, n * sizeof *host, *hash);
    }
    free(host);
    return OK;
}
