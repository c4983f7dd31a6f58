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
        {"sliding_window", m->sliding_window, 0, 1 << 24},
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
    if (m->rotated < 0 || m->rotated > m->HS || m->rotated % 2)
        return status_fail(E_FORMAT, "%s: %d of a head's %d channels cannot be rotated in pairs",
                           what, m->rotated, m->HS);
    if (family_row(m->family)->qkv != FILE_AS_HERE && (m->NKV != m->NH || m->NH * m->HS != m->C))
        return status_fail(E_FORMAT, "%s: a %s has as many key heads as query heads, of C / heads",
                           what, family_row(m->family)->type);
    if (!m->lm_head && !m->scores) return status_fail(E_FORMAT, "%s: a model needs a head", what);
    return OK;
}

typedef struct {
    const ModelConfig *m;
    const TensorNames *names;
    TensorVisitor visit;
    void *ctx;
    size_t offset;
} Walk;

/* name: a layer's below its prefix, or all of it (layer -1), without its end */
static Status visit_one(Walk *walk, Buf *slot, int layer, const char *name, TensorInfo info) {
    const char *end = info.vector && info.init == INIT_BIAS ? "bias" : "weight";
    CHECK(name);
    info.decay = !info.vector;
    info.offset = walk->offset;
    info.layer = layer;
    if (layer < 0)
        snprintf(info.name, sizeof info.name, "%s.%s", name, end);
    else
        snprintf(info.name, sizeof info.name, "%s.%d.%s.%s", walk->names->layers, layer, name, end);
    walk->offset += (size_t)info.rows * (size_t)info.cols;
    return walk->visit(walk->ctx, &info, slot);
}

static Status visit_matrix(Walk *w, Buf *slot, int l, const char *name, int rows, int cols,
                           TensorInit init, FileOrder order) {
    return visit_one(w, slot, l, name,
                     (TensorInfo){.rows = rows, .cols = cols, .init = init, .order = order});
}
static Status visit_bias(Walk *w, Buf *slot, int l, const char *name, int rows, FileOrder order) {
    return visit_one(
        w, slot, l, name,
        (TensorInfo){.rows = rows, .cols = 1, .vector = 1, .init = INIT_BIAS, .order = order});
}

/* weights, and a bias where norms have one */
static Status visit_norm(Walk *w, Buf *slot, Buf *bias, int l, const char *name, int rows) {
    TensorInit init = w->m->norm == NORM_RMS_PLUS_ONE ? INIT_ZERO : INIT_ONE;
    TRY(visit_one(w, slot, l, name,
                  (TensorInfo){.rows = rows, .cols = 1, .vector = 1, .init = init}));
    return w->m->norm == NORM_LAYER ? visit_bias(w, bias, l, name, rows, FILE_AS_HERE) : OK;
}

/* Neighbours are one product: q, k, v and gate, up; so are their biases. */
static Status visit_qkv(Walk *w, LayerTensors *y, int l) {
    const ModelConfig *m = w->m;
    const TensorNames *n = w->names;
    FileOrder order = family_row(m->family)->qkv;
    int Q = m->NH * m->HS, KV = m->NKV * m->HS;
    if (n->qkv) {
        TRY(visit_matrix(w, &y->wq, l, n->qkv, Q + 2 * KV, m->C, INIT_NORMAL, order));
        if (order == FILE_TRANSPOSED) order = FILE_AS_HERE; /* a bias has no other */
        return m->qkv_bias ? visit_bias(w, &y->bq, l, n->qkv, Q + 2 * KV, order) : OK;
    }
    TRY(visit_matrix(w, &y->wq, l, n->q, Q, m->C, INIT_NORMAL, FILE_AS_HERE));
    TRY(visit_matrix(w, &y->wk, l, n->k, KV, m->C, INIT_NORMAL, FILE_AS_HERE));
    TRY(visit_matrix(w, &y->wv, l, n->v, KV, m->C, INIT_NORMAL, FILE_AS_HERE));
    if (!m->qkv_bias) return OK;
    TRY(visit_bias(w, &y->bq, l, n->q, Q, FILE_AS_HERE));
    TRY(visit_bias(w, &y->bk, l, n->k, KV, FILE_AS_HERE));
    return visit_bias(w, &y->bv, l, n->v, KV, FILE_AS_HERE);
}

static Status visit_attention(Walk *w, LayerTensors *y, int l) {
    const ModelConfig *m = w->m;
    const TensorNames *n = w->names;
    int Q = m->NH * m->HS, KV = m->NKV * m->HS, whole = m->qk_norm == QK_NORM_WHOLE;
    if (m->norms != NORMS_AFTER)
        TRY(visit_norm(w, &y->attn_norm, &y->attn_norm_bias, l, n->attn_norm, m->C));
    TRY(visit_qkv(w, y, l));
    if (m->qk_norm) {
        TRY(visit_norm(w, &y->q_norm, NULL, l, n->q_norm, whole ? Q : m->HS));
        TRY(visit_norm(w, &y->k_norm, NULL, l, n->k_norm, whole ? KV : m->HS));
    }
    TRY(visit_matrix(w, &y->wo, l, n->o, m->C, Q, INIT_RESIDUAL, family_row(m->family)->linear));
    if (m->o_bias) TRY(visit_bias(w, &y->bo, l, n->o, m->C, FILE_AS_HERE));
    if (m->norms == NORMS_BEFORE) return OK;
    return visit_norm(w, &y->attn_post_norm, NULL, l, n->attn_post_norm, m->C);
}

static Status visit_gate_up(Walk *w, LayerTensors *y, int l) {
    const ModelConfig *m = w->m;
    const TensorNames *n = w->names;
    FileOrder order = family_row(m->family)->linear;
    int both = config_gate_rows(m);
    if (n->gate_up) {
        TRY(visit_matrix(w, &y->w_gate, l, n->gate_up, both, m->C, INIT_NORMAL, order));
        return m->mlp_bias ? visit_bias(w, &y->b_gate, l, n->gate_up, both, FILE_AS_HERE) : OK;
    }
    TRY(visit_matrix(w, &y->w_gate, l, n->gate, m->FF, m->C, INIT_NORMAL, order));
    TRY(visit_matrix(w, &y->w_up, l, n->up, m->FF, m->C, INIT_NORMAL, order));
    if (!m->mlp_bias) return OK;
    TRY(visit_bias(w, &y->b_gate, l, n->gate, m->FF, FILE_AS_HERE));
    return visit_bias(w, &y->b_up, l, n->up, m->FF, FILE_AS_HERE);
}

static Status visit_mlp(Walk *w, LayerTensors *y, int l) {
    const ModelConfig *m = w->m;
    const TensorNames *n = w->names;
    if (m->norms != NORMS_AFTER)
        TRY(visit_norm(w, &y->mlp_norm, &y->mlp_norm_bias, l, n->mlp_norm, m->C));
    TRY(visit_gate_up(w, y, l));
    TRY(visit_matrix(w, &y->w_down, l, n->down, m->C, m->FF, INIT_RESIDUAL,
                     family_row(m->family)->linear));
    if (m->mlp_bias) TRY(visit_bias(w, &y->b_down, l, n->down, m->C, FILE_AS_HERE));
    if (m->norms == NORMS_BEFORE) return OK;
    return visit_norm(w, &y->mlp_post_norm, NULL, l, n->mlp_post_norm, m->C);
}

Status tensors_visit(const ModelConfig *m, Tensors *t, TensorVisitor visit, void *ctx) {
    const TensorNames *n = family_row(m->family)->names;
    Walk w = {m, n, visit, ctx, 0};
    TRY(visit_matrix(&w, &t->tok_emb, -1, n->embedding, m->V, m->C, INIT_NORMAL, FILE_AS_HERE));
    if (m->learned_positions)
        TRY(visit_matrix(&w, &t->pos_emb, -1, n->positions, m->max_positions, m->C, INIT_NORMAL,
                         FILE_AS_HERE));
    for (int l = 0; l < m->L; l++) {
        TRY(visit_attention(&w, &t->layer[l], l));
        TRY(visit_mlp(&w, &t->layer[l], l));
    }
    TRY(visit_norm(&w, &t->final_norm, &t->final_norm_bias, -1, n->final_norm, m->C));
    if (m->lm_head && !m->tied)
        TRY(visit_matrix(&w, &t->lm_head, -1, n->head, m->V, m->C, INIT_NORMAL, FILE_AS_HERE));
    if (m->scores)
        TRY(visit_matrix(&w, &t->score, -1, "score", m->scores, m->C, INIT_SCORE, FILE_AS_HERE));
    return OK;
}

size_t tensor_file_index(const ModelConfig *m, const TensorInfo *info, size_t i) {
    size_t rows = (size_t)info->rows, cols = (size_t)info->cols, r = i / cols, c = i % cols;
    if (info->order == FILE_TRANSPOSED) return c * rows + r;
    if (info->order != FILE_INTERLEAVED) return i;
    size_t HS = (size_t)m->HS, part = r / (rows / 3), head = r % (rows / 3) / HS;
    return ((3 * head + part) * HS + r % HS) * cols + c;
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
    size_t count = w->b->packed_count(w->b, of.dtype, O, K);
    Mat m = {.w = of, .packed.dtype = w->packed.dtype, .O = O, .K = K, .bias = bias};
    if (count) m.packed = buf_at(w->packed, *used);
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
        w->mats[l] =
            (LayerMats){.qkv = mat(w, y->wq, y->bq, &used, config_qkv_rows(m), m->C),
                        .o = mat(w, y->wo, y->bo, &used, m->C, m->NH * m->HS),
                        .gate_up = mat(w, y->w_gate, y->b_gate, &used, config_gate_rows(m), m->C),
                        .down = mat(w, y->w_down, y->b_down, &used, m->C, m->FF)};
    }
    if (m->lm_head)
        w->head = mat(w, m->tied ? w->t.tok_emb : w->t.lm_head, (Buf){0}, &used, m->V, m->C);
    return used;
}

/* The products' view, and what products read packed. */
static Status mats_create(Weights *w) {
    const ModelConfig *cfg = &w->cfg;
    Backend *b = w->b;
    w->mats = calloc((size_t)cfg->L, sizeof *w->mats);
    if (!w->mats) return status_fail(E_MEMORY, "no memory for a list of %d layers", cfg->L);
    w->packed = (Buf){NULL, b->dtype};
    size_t packed = place_mats(w);
    if (!packed) return OK;
    TRY(b->alloc(b, &w->packed, b->dtype, packed, "packed weights"));
    place_mats(w);
    return OK;
}

Status weights_create(Weights *w, Backend *b, const ModelConfig *cfg, Dtype dtype) {
    *w = (Weights){.cfg = *cfg, .b = b, .count = tensors_count(cfg)};
    TRY(b->alloc(b, &w->flat, dtype, w->count, "weights"));
    TRY(tensors_carve(cfg, &w->t, w->flat));
    return mats_create(w);
}

/* --- quantized --- */

static int is_quantizable(const TensorInfo *info) {
    return info->layer >= 0 && !info->vector;
}

typedef struct { /* two ranges instead of one, each in the order of the list */
    Weights *w;
    size_t count, quantized_count;
} TwoRanges;

static Status place_in_two(void *ctx, const TensorInfo *info, Buf *slot) {
    TwoRanges *t = ctx;
    int quantized = is_quantizable(info);
    size_t *at = quantized ? &t->quantized_count : &t->count;
    if (quantized && info->cols % QUANT_BLOCK)
        return status_fail(E_USAGE,
                           "%s has rows of %d numbers: they cannot be stored as %s, whose blocks "
                           "have %d",
                           info->name, info->cols, dtype_name(t->w->quantized.dtype), QUANT_BLOCK);
    *slot = buf_at(quantized ? t->w->quantized : t->w->flat, *at);
    *at += (size_t)info->rows * (size_t)info->cols;
    return OK;
}

Status weights_create_quantized(Weights *w, Backend *b, const ModelConfig *cfg, Dtype layers) {
    *w = (Weights){.cfg = *cfg, .b = b, .flat.dtype = b->dtype, .quantized.dtype = layers};
    TwoRanges counts = {.w = w}, places = {.w = w};
    TRY(layers_create(cfg, &w->t));
    TRY(tensors_visit(cfg, &w->t, place_in_two, &counts));
    w->count = counts.count;
    w->quantized_count = counts.quantized_count;
    TRY(b->alloc(b, &w->flat, b->dtype, w->count, "weights"));
    TRY(b->alloc(b, &w->quantized, layers, w->quantized_count, "quantized weights"));
    TRY(tensors_visit(cfg, &w->t, place_in_two, &places));
    return mats_create(w);
}

static Status count_quantizable(void *ctx, const TensorInfo *info, Buf *slot) {
    (void)slot;
    if (is_quantizable(info)) *(size_t *)ctx += (size_t)info->rows * (size_t)info->cols;
    return OK;
}

size_t weights_quantized_count(const ModelConfig *m) {
    size_t count = 0;
    Tensors t = {0};
    if (layers_create(m, &t) == OK) tensors_visit(m, &t, count_quantizable, &count);
    tensors_release(&t);
    return count;
}

void weights_release(Weights *w) {
    if (!w->b) return;
    w->b->release(w->b, &w->flat);
    w->b->release(w->b, &w->packed);
    w->b->release(w->b, &w->quantized);
    tensors_release(&w->t);
    free(w->mats);
    *w = (Weights){0};
}

const Mat *weights_mat(const Weights *w, int layer, Buf tensor) {
    if (layer < 0) return w->cfg.lm_head && w->head.w.ptr == tensor.ptr ? &w->head : NULL;
    const LayerMats *y = &w->mats[layer];
    const Mat *mats[] = {&y->qkv, &y->o, &y->gate_up, &y->down};
    for (int i = 0; i < 4; i++)
        if (mats[i]->w.ptr == tensor.ptr) return mats[i];
    return NULL;
}

static void pack(Weights *w, Mat m) {
    if (m.packed.ptr) w->b->pack(w->b, m);
}

void weights_pack(Weights *w) {
    for (int l = 0; l < w->cfg.L; l++) {
        pack(w, w->mats[l].qkv);
        pack(w, w->mats[l].o);
        pack(w, w->mats[l].gate_up);
        pack(w, w->mats[l].down);
    }
    if (w->cfg.lm_head) pack(w, w->head);
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
    const struct {
        Buf range;
        size_t count;
    } all[] = {{w->flat, w->count}, {w->quantized, w->quantized_count}};
    for (int i = 0; i < 2; i++) {
        for (size_t at = 0; at < all[i].count; at += PIECE) {
            size_t n = all[i].count - at < PIECE ? all[i].count - at : PIECE;
            w->b->download(w->b, host, buf_at(all[i].range, at), n);
            *hash = file_hash(host, n * sizeof *host, *hash);
        }
    }
    free(host);
    return OK;
}
