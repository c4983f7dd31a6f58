/* decoder.c - the decoder that all families are variations of (Radford et al. 2019, Touvron et al.
 * 2023): attention and a feed-forward, each with a norm before it, after it or both, one after the
 * other or side by side; forward and backward. Norm outputs and the activation are cheap and
 * computed again in the backward. */
#include "core/model/decoder.h"

#include <math.h>

#include "core/model/half.h"

static const Buf NONE = {NULL, DT_F32};

static LayerSaved *saved_of(Workspace *ws, int l) {
    return &ws->saved[ws->plan.train && !ws->plan.recompute ? l : 0];
}

static KvLayer kv_layer(const KvCache *kv, int l) {
    return (KvLayer){kv->keys[l], kv->values[l], kv->table, kv->max_pages};
}

/* --- what stands between the products --- */

static void product(Network *net, Buf y, Buf x, Mat w) {
    net->b->matmul_forward(net->b, y, x, w, net->ws->N);
}

/* what a product's weights and bias gain; x is its input, dy the gradient of its output */
static void product_backward(Network *net, Buf dw, Buf dbias, Buf dy, Buf x, Mat w) {
    net->b->matmul_backward_weight(net->b, dw, dy, x, net->ws->N, w.O, w.K);
    if (dbias.ptr) net->b->bias_backward(net->b, dbias, dy, net->ws->N, w.O);
}

/* The residual stream between two blocks: what it was, and what the block in front adds to it. */
typedef struct {
    Buf x, delta; /* delta NULL: nothing */
} Residual;

static Norm norm_of(const ModelConfig *m, Buf w, Buf bias) {
    return (Norm){.w = w,
                  .bias = bias,
                  .plus = m->norm == NORM_RMS_PLUS_ONE ? 1.0f : 0.0f,
                  .eps = m->norm_eps,
                  .centred = m->norm == NORM_LAYER};
}

/* out = norm(sum), sum = r.x + r.delta */
static void norm(Network *net, Buf out, Buf stats, Buf sum, Residual r, Buf w, Buf bias) {
    const ModelConfig *m = &net->w.cfg;
    net->b->norm_forward(net->b, out, stats, sum, r.x, r.delta, norm_of(m, w, bias), net->ws->N,
                         m->C);
}

/* dx = dsum + what went through the norm of x; dw and dbias gain theirs */
static void norm_backward(Network *net, Buf dx, Buf dw, Buf dbias, Buf dsum, Buf dout, Buf x, Buf w,
                          Buf stats) {
    const ModelConfig *m = &net->w.cfg;
    if (dbias.ptr) net->b->bias_backward(net->b, dbias, dout, net->ws->N, m->C);
    net->b->norm_backward(net->b, dx, dw, dsum, dout, x, norm_of(m, w, NONE), stats, net->ws->N,
                          m->C);
}

static void add(Network *net, Buf out, Buf x, Buf y) {
    net->b->add(net->b, out, x, y, (size_t)net->ws->N * (size_t)net->w.cfg.C);
}

static AttentionShape attention_shape(const ModelConfig *m, int l) {
    float scalar = m->query_scalar > 0.0f ? m->query_scalar : (float)m->HS;
    return (AttentionShape){.NH = m->NH,
                            .NKV = m->NKV,
                            .HS = m->HS,
                            .scale = 1.0f / sqrtf(scalar),
                            .window = config_window(m, l),
                            .softcap = m->attn_softcap};
}

static FeedForward feed_forward(const ModelConfig *m) {
    return (FeedForward){.FF = m->FF, .act = m->act, .gated = !m->ungated};
}

static void rotate(Network *net, int l, Buf qkv, int backward) {
    const ModelConfig *m = &net->w.cfg;
    int local = m->rope_local_theta > 0.0f && config_window(m, l);
    if (config_rotates(m, l))
        net->b->rope(net->b, qkv, net->ws->positions, local ? net->rope_local : net->rope,
                     net->ws->N, config_qkv_rows(m), m->NH + m->NKV, m->HS, config_rotated(m),
                     backward);
}

/* Heads of q (or k) as their norm sees them: each, or all as one. */
typedef struct {
    int heads, HS;
    size_t at, before, rstd; /* where they begin in a row of qkv, and in what is kept */
} NormedHeads;

static NormedHeads normed_heads(const ModelConfig *m, int N, int keys) {
    int whole = m->qk_norm == QK_NORM_WHOLE, of = keys ? m->NKV : m->NH;
    size_t Q = (size_t)m->NH * (size_t)m->HS;
    NormedHeads h = {.heads = whole ? 1 : of, .HS = whole ? of * m->HS : m->HS};
    if (!keys) return h;
    h.at = Q;
    h.before = (size_t)N * Q;
    h.rstd = (size_t)N * (size_t)(whole ? 1 : m->NH);
    return h;
}

static void norm_heads(Network *net, const LayerTensors *t, const LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    int N = net->ws->N;
    for (int keys = 0; keys < 2; keys++) {
        NormedHeads h = normed_heads(m, N, keys);
        net->b->headnorm_forward(
            net->b, buf_at(s->qkv, h.at), buf_at(s->before, h.before), buf_at(s->rstd_qk, h.rstd),
            norm_of(m, keys ? t->k_norm : t->q_norm, NONE), N, config_qkv_rows(m), h.heads, h.HS);
    }
}

static void norm_heads_backward(Network *net, const LayerTensors *g, const LayerTensors *t,
                                const LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    int N = net->ws->N;
    for (int keys = 0; keys < 2; keys++) {
        NormedHeads h = normed_heads(m, N, keys);
        net->b->headnorm_backward(net->b, buf_at(net->ws->dqkv, h.at), keys ? g->k_norm : g->q_norm,
                                  buf_at(s->before, h.before),
                                  norm_of(m, keys ? t->k_norm : t->q_norm, NONE),
                                  buf_at(s->rstd_qk, h.rstd), N, config_qkv_rows(m), h.heads, h.HS);
    }
}

/* --- embeddings --- */

/* gemma's sqrt(C), rounded as its training rounded it */
static float embedding_scale(const Network *net) {
    float scale = sqrtf((float)net->w.cfg.C);
    if (!net->w.cfg.scaled_embeddings) return 1.0f;
    return net->b->dtype == DT_BF16 ? bf16_rounded(scale) : scale;
}

void decoder_embed(Network *net) {
    Workspace *ws = net->ws;
    const ModelConfig *m = &net->w.cfg;
    net->b->embedding_forward(net->b, ws->x[0], net->w.t.tok_emb, ws->ids, ws->N, m->C,
                              embedding_scale(net));
    if (!m->learned_positions) return;
    net->b->embedding_forward(net->b, ws->norm, net->w.t.pos_emb, ws->positions, ws->N, m->C, 1.0f);
    add(net, ws->x[0], ws->x[0], ws->norm);
}

static void embed_backward(Network *net) {
    Workspace *ws = net->ws;
    const ModelConfig *m = &net->w.cfg;
    Buf demb = m->tied && m->lm_head ? net->grad_tied : net->g.tok_emb;
    net->b->embedding_backward(net->b, demb, ws->dx, ws->ids, ws->N, m->C, embedding_scale(net));
    if (m->learned_positions)
        net->b->embedding_backward(net->b, net->g.pos_emb, ws->dx, ws->positions, ws->N, m->C,
                                   1.0f);
}

/* --- layers --- */

/* What one half of a layer reads of the stream, which is written to `sum`. */
static Buf half_input(Network *net, Buf stats, Buf sum, Residual in, Buf w, Buf bias) {
    if (net->w.cfg.norms != NORMS_AFTER) {
        norm(net, net->ws->norm, stats, sum, in, w, bias);
        return net->ws->norm;
    }
    if (in.delta.ptr) add(net, sum, in.x, in.delta);
    return sum;
}

/* What it adds to the stream: `made`, through a norm where one follows. */
static Buf half_output(Network *net, Buf stats, Buf made, Buf w) {
    if (net->w.cfg.norms == NORMS_BEFORE) return made;
    norm(net, net->ws->proj, stats, NONE, (Residual){.x = made}, w, NONE);
    return net->ws->proj;
}

static void attend(Network *net, int l, LayerSaved *s, KvCache *kv, int decode) {
    Backend *b = net->b;
    Workspace *ws = net->ws;
    AttentionShape shape = attention_shape(&net->w.cfg, l);
    if (kv) b->kv_write(b, kv_layer(kv, l), s->qkv, ws->kv_rows, ws->positions, ws->N, shape);
    if (decode)
        b->attention_decode(b, s->att, s->qkv, kv_layer(kv, l), ws->kv_rows, ws->positions, ws->N,
                            shape);
    else
        b->attention_forward(b, s->att, s->lse, s->qkv, ws->starts, ws->S, ws->N, shape);
}

/* The stream is x before the layer, xm between its halves; its end is the sum that the next norm
 * takes. Side by side, the second half reads x, too. */
static Residual layer_forward(Network *net, int l, Residual in, LayerSaved *s, KvCache *kv,
                              int decode) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Workspace *ws = net->ws;
    Buf x = ws->x[l], made = m->norms == NORMS_BEFORE ? ws->proj : s->attn_made;

    product(net, s->qkv, half_input(net, s->stats1, x, in, t->attn_norm, t->attn_norm_bias),
            w->qkv);
    if (m->qk_norm) norm_heads(net, t, s);
    rotate(net, l, s->qkv, 0);
    attend(net, l, s, kv, decode);
    product(net, made, s->att, w->o);

    Residual middle = {x, half_output(net, s->stats_attn, made, t->attn_post_norm)};
    if (m->parallel) {
        add(net, s->xm, middle.x, middle.delta);
        middle = (Residual){.x = x};
    }
    made = m->norms == NORMS_BEFORE ? ws->proj : s->mlp_made;
    product(net, s->gate_up,
            half_input(net, s->stats2, s->xm, middle, t->mlp_norm, t->mlp_norm_bias), w->gate_up);
    net->b->activation_forward(net->b, ws->h, s->gate_up, ws->N, feed_forward(m));
    product(net, made, ws->h, w->down);
    return (Residual){s->xm, half_output(net, s->stats_mlp, made, t->mlp_post_norm)};
}

void decoder_forward(Network *net, KvCache *kv, int decode) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    Residual r = {.x = ws->x[0]};
    for (int l = 0; l < m->L; l++) r = layer_forward(net, l, r, saved_of(ws, l), kv, decode);
    norm(net, ws->hidden, ws->stats_final, ws->x[m->L], r, net->w.t.final_norm,
         net->w.t.final_norm_bias);
}

/* the input of a half again */
static Buf input_again(Network *net, Buf stats, Buf x, Buf w, Buf bias) {
    return half_input(net, stats, x, (Residual){.x = x}, w, bias);
}

/* dx gains what went into a half as dnorm */
static void input_backward(Network *net, Buf dx, Buf dw, Buf dbias, Buf x, Buf w, Buf stats) {
    Buf dnorm = net->ws->dnorm;
    if (net->w.cfg.norms == NORMS_AFTER)
        add(net, dx, dx, dnorm);
    else
        norm_backward(net, dx, dw, dbias, dx, dnorm, x, w, stats);
}

/* the gradient of what a half made, where dx is that of what it added to the stream */
static Buf output_backward(Network *net, Buf dx, Buf dw, Buf made, Buf w, Buf stats) {
    if (net->w.cfg.norms == NORMS_BEFORE) return dx;
    norm_backward(net, net->ws->dmade, dw, NONE, NONE, dx, made, w, stats);
    return net->ws->dmade;
}

static void mlp_backward(Network *net, int l, Buf dx, Buf x, LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l], *g = &net->g.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Backend *b = net->b;
    Workspace *ws = net->ws;
    Buf dmade =
        output_backward(net, dx, g->mlp_post_norm, s->mlp_made, t->mlp_post_norm, s->stats_mlp);
    b->activation_forward(b, ws->h, s->gate_up, ws->N, feed_forward(m));
    product_backward(net, g->w_down, g->b_down, dmade, ws->h, w->down);
    b->matmul_backward_input(b, ws->dh, dmade, w->down, ws->N);
    b->activation_backward(b, ws->dgate_up, ws->dh, s->gate_up, ws->N, feed_forward(m));
    product_backward(net, g->w_gate, g->b_gate, ws->dgate_up,
                     input_again(net, s->stats2, x, t->mlp_norm, t->mlp_norm_bias), w->gate_up);
    b->matmul_backward_input(b, ws->dnorm, ws->dgate_up, w->gate_up, ws->N);
    input_backward(net, dx, g->mlp_norm, g->mlp_norm_bias, x, t->mlp_norm, s->stats2);
}

/* dadded: the gradient of what attention added to the stream */
static void attention_backward(Network *net, int l, Buf dx, Buf dadded, Buf x, LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l], *g = &net->g.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Backend *b = net->b;
    Workspace *ws = net->ws;
    Buf dmade = output_backward(net, dadded, g->attn_post_norm, s->attn_made, t->attn_post_norm,
                                s->stats_attn);
    product_backward(net, g->wo, g->bo, dmade, s->att, w->o);
    b->matmul_backward_input(b, ws->datt, dmade, w->o, ws->N);
    b->attention_backward(b, ws->dqkv, ws->datt, s->qkv, s->att, s->lse, ws->starts, ws->S, ws->N,
                          attention_shape(m, l));
    rotate(net, l, ws->dqkv, 1);
    if (m->qk_norm) norm_heads_backward(net, g, t, s);
    product_backward(net, g->wq, g->bq, ws->dqkv,
                     input_again(net, s->stats1, x, t->attn_norm, t->attn_norm_bias), w->qkv);
    b->matmul_backward_input(b, ws->dnorm, ws->dqkv, w->qkv, ws->N);
    input_backward(net, dx, g->attn_norm, g->attn_norm_bias, x, t->attn_norm, s->stats1);
}

/* dx: in, the gradient of the layer's output; out, of its input x. */
static void layer_backward(Network *net, int l, Buf dx, Buf x, LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    if (!m->parallel) {
        mlp_backward(net, l, dx, s->xm, s);
        attention_backward(net, l, dx, dx, x, s);
        return;
    }
    net->b->copy(net->b, ws->dmade, dx, (size_t)ws->N * (size_t)m->C);
    mlp_backward(net, l, dx, x, s);
    attention_backward(net, l, dx, ws->dmade, x, s);
}

void decoder_backward(Network *net) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    norm_backward(net, ws->dx, net->g.final_norm, net->g.final_norm_bias, NONE, ws->dhidden,
                  ws->x[m->L], net->w.t.final_norm, ws->stats_final);
    for (int l = m->L - 1; l >= 0; l--) {
        LayerSaved *s = saved_of(ws, l);
        if (ws->plan.recompute) layer_forward(net, l, (Residual){.x = ws->x[l]}, s, NULL, 0);
        layer_backward(net, l, ws->dx, ws->x[l], s);
    }
    embed_backward(net);
}
