/* decoder.c - the llama decoder (Touvron et al. 2023): pre-norm attention and SwiGLU blocks,
 * forward and backward. Norm outputs and the gated product are cheap and computed again in the
 * backward. */
#include "core/model/decoder.h"

#include <math.h>

static LayerSaved *saved_of(Workspace *ws, int l) {
    return &ws->saved[ws->plan.train && !ws->plan.recompute ? l : 0];
}

static KvLayer kv_layer(const KvCache *kv, int l) {
    return (KvLayer){kv->keys[l], kv->values[l], kv->table, kv->max_pages};
}

/* y = x w^T + bias, where there is one */
static void product(Network *net, Buf y, Buf x, Mat w, Buf bias) {
    net->b->matmul_forward(net->b, y, x, w, net->ws->N);
    if (bias.ptr) net->b->bias_forward(net->b, y, bias, net->ws->N, w.O);
}

static AttentionShape attention_shape(const ModelConfig *m) {
    return (AttentionShape){
        .NH = m->NH, .NKV = m->NKV, .HS = m->HS, .scale = 1.0f / sqrtf((float)m->HS)};
}

static FeedForward feed_forward(const ModelConfig *m) {
    return (FeedForward){.FF = m->FF, .act = ACT_SILU, .gated = 1};
}

/* what a product's weights and bias gain; x is its input, dy the gradient of its output */
static void product_backward(Network *net, Buf dw, Buf dbias, Buf dy, Buf x, Mat w) {
    net->b->matmul_backward_weight(net->b, dw, dy, x, net->ws->N, w.O, w.K);
    if (dbias.ptr) net->b->bias_backward(net->b, dbias, dy, net->ws->N, w.O);
}

static void norm_heads(Network *net, const LayerTensors *t, const LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    int N = net->ws->N, stride = config_qkv_rows(m), Q = m->NH * m->HS;
    net->b->headnorm_forward(net->b, s->qkv, s->before, s->rstd_qk, t->q_norm, N, stride, m->NH,
                             m->HS, m->norm_eps);
    net->b->headnorm_forward(net->b, buf_at(s->qkv, (size_t)Q), buf_at(s->before, (size_t)N * Q),
                             buf_at(s->rstd_qk, (size_t)N * m->NH), t->k_norm, N, stride, m->NKV,
                             m->HS, m->norm_eps);
}

static void norm_heads_backward(Network *net, const LayerTensors *g, const LayerTensors *t,
                                const LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    int N = ws->N, stride = config_qkv_rows(m), Q = m->NH * m->HS;
    net->b->headnorm_backward(net->b, ws->dqkv, g->q_norm, s->before, t->q_norm, s->rstd_qk, N,
                              stride, m->NH, m->HS);
    net->b->headnorm_backward(net->b, buf_at(ws->dqkv, (size_t)Q), g->k_norm,
                              buf_at(s->before, (size_t)N * Q), t->k_norm,
                              buf_at(s->rstd_qk, (size_t)N * m->NH), N, stride, m->NKV, m->HS);
}

/* y = x + attention(norm(x)); out = y + mlp(norm(y)) */
static void layer_forward(Network *net, int l, Buf x, Buf out, LayerSaved *s, KvCache *kv,
                          int decode) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Backend *b = net->b;
    Workspace *ws = net->ws;
    AttentionShape shape = attention_shape(m);
    int N = ws->N, stride = config_qkv_rows(m);

    b->rmsnorm_forward(b, ws->norm, s->rstd1, x, t->attn_norm, N, m->C, m->norm_eps);
    product(net, s->qkv, ws->norm, w->qkv, t->bq);
    if (m->qk_norm) norm_heads(net, t, s);
    if (config_rotates(m, l))
        b->rope(b, s->qkv, ws->positions, net->rope, N, stride, m->NH + m->NKV, m->HS, m->HS, 0);
    if (kv) b->kv_write(b, kv_layer(kv, l), s->qkv, ws->kv_rows, ws->positions, N, shape);
    if (decode)
        b->attention_decode(b, s->att, s->qkv, kv_layer(kv, l), ws->kv_rows, ws->positions, N,
                            shape);
    else
        b->attention_forward(b, s->att, s->lse, s->qkv, ws->starts, ws->S, N, shape);
    product(net, ws->proj, s->att, w->o, t->bo);
    b->add(b, s->xm, x, ws->proj, (size_t)N * m->C);

    b->rmsnorm_forward(b, ws->norm, s->rstd2, s->xm, t->mlp_norm, N, m->C, m->norm_eps);
    product(net, s->gate_up, ws->norm, w->gate_up, t->b_gate);
    b->activation_forward(b, ws->h, s->gate_up, N, feed_forward(m));
    product(net, ws->proj, ws->h, w->down, t->b_down);
    b->add(b, out, s->xm, ws->proj, (size_t)N * m->C);
}

void decoder_forward(Network *net, KvCache *kv, int decode) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    for (int l = 0; l < m->L; l++)
        layer_forward(net, l, ws->x[l], ws->x[l + 1], saved_of(ws, l), kv, decode);
    net->b->rmsnorm_forward(net->b, ws->hidden, ws->rstd_final, ws->x[m->L], net->w.t.final_norm,
                            ws->N, m->C, m->norm_eps);
}

/* dx: in, the gradient of the layer's output; out, of its input. */
static void layer_backward(Network *net, int l, Buf dx, Buf x, LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l];
    const LayerTensors *g = &net->g.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Backend *b = net->b;
    Workspace *ws = net->ws;
    int N = ws->N, QKV = config_qkv_rows(m);
    size_t NC = (size_t)N * m->C;

    b->activation_forward(b, ws->h, s->gate_up, N, feed_forward(m));
    product_backward(net, g->w_down, g->b_down, dx, ws->h, w->down);
    b->matmul_backward_input(b, ws->dh, dx, w->down, N);
    b->activation_backward(b, ws->dgate_up, ws->dh, s->gate_up, N, feed_forward(m));
    b->rmsnorm_forward(b, ws->norm, s->rstd2, s->xm, t->mlp_norm, N, m->C, m->norm_eps);
    product_backward(net, g->w_gate, g->b_gate, ws->dgate_up, ws->norm, w->gate_up);
    b->matmul_backward_input(b, ws->dnorm, ws->dgate_up, w->gate_up, N);
    b->rmsnorm_backward(b, ws->dtmp, g->mlp_norm, ws->dnorm, s->xm, t->mlp_norm, s->rstd2, N, m->C);
    b->add(b, dx, dx, ws->dtmp, NC);

    product_backward(net, g->wo, g->bo, dx, s->att, w->o);
    b->matmul_backward_input(b, ws->datt, dx, w->o, N);
    b->attention_backward(b, ws->dqkv, ws->datt, s->qkv, s->att, s->lse, ws->starts, ws->S, N,
                          attention_shape(m));
    if (config_rotates(m, l))
        b->rope(b, ws->dqkv, ws->positions, net->rope, N, QKV, m->NH + m->NKV, m->HS, m->HS, 1);
    if (m->qk_norm) norm_heads_backward(net, g, t, s);
    b->rmsnorm_forward(b, ws->norm, s->rstd1, x, t->attn_norm, N, m->C, m->norm_eps);
    product_backward(net, g->wq, g->bq, ws->dqkv, ws->norm, w->qkv);
    b->matmul_backward_input(b, ws->dnorm, ws->dqkv, w->qkv, N);
    b->rmsnorm_backward(b, ws->dtmp, g->attn_norm, ws->dnorm, x, t->attn_norm, s->rstd1, N, m->C);
    b->add(b, dx, dx, ws->dtmp, NC);
}

void decoder_backward(Network *net) {
    const ModelConfig *m = &net->w.cfg;
    Backend *b = net->b;
    Workspace *ws = net->ws;
    b->rmsnorm_backward(b, ws->dx, net->g.final_norm, ws->dhidden, ws->x[m->L], net->w.t.final_norm,
                        ws->rstd_final, ws->N, m->C);
    for (int l = m->L - 1; l >= 0; l--) {
        LayerSaved *s = saved_of(ws, l);
        /* the residual after this layer has served its purpose: the second forward may overwrite it
         */
        if (ws->plan.recompute) layer_forward(net, l, ws->x[l], ws->x[l + 1], s, NULL, 0);
        layer_backward(net, l, ws->dx, ws->x[l], s);
    }
    Buf demb = m->tied && m->lm_head ? net->grad_tied : net->g.tok_emb;
    b->embedding_backward(b, demb, ws->dx, ws->ids, ws->N, m->C, 1.0f);
}
