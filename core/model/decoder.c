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

static void product(Network *net, Buf y, Buf x, Mat w) {
    net->b->matmul_forward(net->b, y, x, w, net->ws->N);
}

/* The residual stream between two blocks: what it was, and what the block in front adds to it. */
typedef struct {
    Buf x, delta; /* delta NULL: nothing */
} Residual;

/* out = norm(sum), sum = r.x + r.delta */
static void norm(Network *net, Buf out, Buf rstd, Buf sum, Residual r, Buf w) {
    const ModelConfig *m = &net->w.cfg;
    net->b->rmsnorm_forward(net->b, out, rstd, sum, r.x, r.delta, w, net->ws->N, m->C, m->norm_eps);
}

/* dx, the gradient of the stream after the norm, gains what went through it */
static void norm_backward(Network *net, Buf dx, Buf dw, Buf dnorm, Buf x, Buf w, Buf rstd) {
    net->b->rmsnorm_backward(net->b, dx, dw, dx, dnorm, x, w, rstd, net->ws->N, net->w.cfg.C);
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

/* xm = x + attention(norm(x)); what follows is xm + mlp(norm(xm)), whose sum the next norm takes.
 */
static Residual layer_forward(Network *net, int l, Residual in, LayerSaved *s, KvCache *kv,
                              int decode) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Backend *b = net->b;
    Workspace *ws = net->ws;
    AttentionShape shape = attention_shape(m, l);
    int N = ws->N;

    norm(net, ws->norm, s->rstd1, ws->x[l], in, t->attn_norm);
    product(net, s->qkv, ws->norm, w->qkv);
    if (m->qk_norm) norm_heads(net, t, s);
    rotate(net, l, s->qkv, 0);
    if (kv) b->kv_write(b, kv_layer(kv, l), s->qkv, ws->kv_rows, ws->positions, N, shape);
    if (decode)
        b->attention_decode(b, s->att, s->qkv, kv_layer(kv, l), ws->kv_rows, ws->positions, N,
                            shape);
    else
        b->attention_forward(b, s->att, s->lse, s->qkv, ws->starts, ws->S, N, shape);
    product(net, ws->proj, s->att, w->o);

    norm(net, ws->norm, s->rstd2, s->xm, (Residual){ws->x[l], ws->proj}, t->mlp_norm);
    product(net, s->gate_up, ws->norm, w->gate_up);
    b->activation_forward(b, ws->h, s->gate_up, N, feed_forward(m));
    product(net, ws->proj, ws->h, w->down);
    return (Residual){s->xm, ws->proj};
}

void decoder_forward(Network *net, KvCache *kv, int decode) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    Residual r = {.x = ws->x[0]};
    for (int l = 0; l < m->L; l++) r = layer_forward(net, l, r, saved_of(ws, l), kv, decode);
    norm(net, ws->hidden, ws->rstd_final, ws->x[m->L], r, net->w.t.final_norm);
}

/* dx: in, the gradient of the layer's output; out, of its input. */
static void layer_backward(Network *net, int l, Buf dx, Buf x, LayerSaved *s) {
    const ModelConfig *m = &net->w.cfg;
    const LayerTensors *t = &net->w.t.layer[l];
    const LayerTensors *g = &net->g.layer[l];
    const LayerMats *w = &net->w.mats[l];
    Backend *b = net->b;
    Workspace *ws = net->ws;
    int N = ws->N;

    b->activation_forward(b, ws->h, s->gate_up, N, feed_forward(m));
    product_backward(net, g->w_down, g->b_down, dx, ws->h, w->down);
    b->matmul_backward_input(b, ws->dh, dx, w->down, N);
    b->activation_backward(b, ws->dgate_up, ws->dh, s->gate_up, N, feed_forward(m));
    norm(net, ws->norm, s->rstd2, s->xm, (Residual){.x = s->xm}, t->mlp_norm);
    product_backward(net, g->w_gate, g->b_gate, ws->dgate_up, ws->norm, w->gate_up);
    b->matmul_backward_input(b, ws->dnorm, ws->dgate_up, w->gate_up, N);
    norm_backward(net, dx, g->mlp_norm, ws->dnorm, s->xm, t->mlp_norm, s->rstd2);

    product_backward(net, g->wo, g->bo, dx, s->att, w->o);
    b->matmul_backward_input(b, ws->datt, dx, w->o, N);
    b->attention_backward(b, ws->dqkv, ws->datt, s->qkv, s->att, s->lse, ws->starts, ws->S, N,
                          attention_shape(m, l));
    rotate(net, l, ws->dqkv, 1);
    if (m->qk_norm) norm_heads_backward(net, g, t, s);
    norm(net, ws->norm, s->rstd1, x, (Residual){.x = x}, t->attn_norm);
    product_backward(net, g->wq, g->bq, ws->dqkv, ws->norm, w->qkv);
    b->matmul_backward_input(b, ws->dnorm, ws->dqkv, w->qkv, N);
    norm_backward(net, dx, g->attn_norm, ws->dnorm, x, t->attn_norm, s->rstd1);
}

void decoder_backward(Network *net) {
    const ModelConfig *m = &net->w.cfg;
    Backend *b = net->b;
    Workspace *ws = net->ws;
    b->rmsnorm_backward(b, ws->dx, net->g.final_norm, (Buf){0}, ws->dhidden, ws->x[m->L],
                        net->w.t.final_norm, ws->rstd_final, ws->N, m->C);
    for (int l = m->L - 1; l >= 0; l--) {
        LayerSaved *s = saved_of(ws, l);
        if (ws->plan.recompute) layer_forward(net, l, (Residual){.x = ws->x[l]}, s, NULL, 0);
        layer_backward(net, l, ws->dx, ws->x[l], s);
    }
    Buf demb = m->tied && m->lm_head ? net->grad_tied : net->g.tok_emb;
    b->embedding_backward(b, demb, ws->dx, ws->ids, ws->N, m->C, 1.0f);
}
