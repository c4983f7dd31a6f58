/* network.c - the waist's calls over the decoder and the heads, and the workspace they share. */
#include "core/model/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/model/decoder.h"
#include "core/model/rope.h"

/* --- workspace --- */

typedef struct { /* carves one arena; with base NULL only counts */
    char *base;
    size_t used;
    Dtype act; /* what activations are stored as */
} Carve;

static Buf carve(Carve *c, Dtype dtype, size_t count) {
    size_t at = c->used;
    c->used += (count * dtype_bytes(dtype) + 63) / 64 * 64;
    return (Buf){c->base ? c->base + at : NULL, dtype};
}

typedef struct { /* the largest of each size over the configs */
    size_t C, L, NH, QKV, ATT, FF, gate, V, K;
    size_t QK, heads; /* of q and k with a norm */
    size_t post;      /* channels of what a norm follows */
    size_t made;      /* of a gradient beside the stream's */
} Sizes;

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static Sizes sizes_of(const ModelConfig *const *configs, int n) {
    Sizes s = {0};
    for (int i = 0; i < n; i++) {
        const ModelConfig *m = configs[i];
        s.C = larger(s.C, (size_t)m->C);
        s.L = larger(s.L, (size_t)m->L);
        s.NH = larger(s.NH, (size_t)m->NH);
        s.QKV = larger(s.QKV, (size_t)config_qkv_rows(m));
        s.ATT = larger(s.ATT, (size_t)m->NH * (size_t)m->HS);
        s.FF = larger(s.FF, (size_t)m->FF);
        s.gate = larger(s.gate, (size_t)config_gate_rows(m));
        if (m->qk_norm) {
            s.heads = larger(s.heads, (size_t)(m->NH + m->NKV));
            s.QK = larger(s.QK, (size_t)(m->NH + m->NKV) * (size_t)m->HS);
        }
        if (m->norms != NORMS_BEFORE) s.post = larger(s.post, (size_t)m->C);
        if (m->norms != NORMS_BEFORE || m->parallel) s.made = larger(s.made, (size_t)m->C);
        if (m->lm_head) s.V = larger(s.V, (size_t)m->V);
        s.K = larger(s.K, (size_t)m->scores);
    }
    return s;
}

static LayerSaved carve_saved(Carve *c, const Sizes *z, size_t N) {
    return (LayerSaved){.stats1 = carve(c, DT_F32, 2 * N),
                        .qkv = carve(c, c->act, N * z->QKV),
                        .att = carve(c, c->act, N * z->ATT),
                        .lse = carve(c, DT_F32, 2 * N * z->NH),
                        .xm = carve(c, c->act, N * z->C),
                        .stats2 = carve(c, DT_F32, 2 * N),
                        .gate_up = carve(c, c->act, N * z->gate),
                        .before = carve(c, c->act, N * z->QK),
                        .rstd_qk = carve(c, DT_F32, N * z->heads),
                        .attn_made = carve(c, c->act, N * z->post),
                        .stats_attn = carve(c, DT_F32, z->post ? 2 * N : 0),
                        .mlp_made = carve(c, c->act, N * z->post),
                        .stats_mlp = carve(c, DT_F32, z->post ? 2 * N : 0)};
}

static void carve_all(Workspace *ws, Carve *c, const Sizes *z) {
    size_t N = (size_t)ws->plan.tokens, S = (size_t)ws->plan.sequences;
    size_t streams = ws->plan.train ? z->L + 1 : 2;
    Buf stream[2];
    for (size_t l = 0; l < streams; l++) {
        Buf x = carve(c, c->act, N * z->C);
        if (ws->plan.train)
            ws->x[l] = x;
        else
            stream[l] = x;
    }
    if (!ws->plan.train) /* without a backward two streams alternate */
        for (size_t l = 0; l <= z->L; l++) ws->x[l] = stream[l % 2];
    size_t kept = ws->plan.train && !ws->plan.recompute ? z->L : 1;
    for (size_t l = 0; l < kept; l++) ws->saved[l] = carve_saved(c, z, N);
    Buf *ints[] = {&ws->ids, &ws->positions, &ws->rows, &ws->targets, &ws->kv_rows};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) *ints[i] = carve(c, DT_I32, N);
    ws->starts = carve(c, DT_I32, S + 1);
    ws->uniform = carve(c, DT_F64, N);
    ws->norm = carve(c, c->act, N * z->C);
    ws->proj = carve(c, c->act, N * z->C);
    ws->h = carve(c, c->act, N * z->FF);
    ws->hidden = carve(c, c->act, N * z->C);
    ws->stats_final = carve(c, DT_F32, 2 * N);
    ws->hr = carve(c, c->act, N * z->C);
    ws->logits = carve(c, DT_F32, (size_t)ws->chunk * z->V);
    for (int i = 0; i < 4; i++) ws->out[i] = carve(c, DT_F32, N);
    for (int i = 0; i < 3; i++) ws->grad[i] = carve(c, DT_F32, N);
    ws->score = carve(c, DT_F32, N * z->K);
    if (!ws->plan.train) return;
    ws->dscore = carve(c, DT_F32, N * z->K);
    Buf *wide[] = {&ws->dhidden, &ws->dhr, &ws->dx, &ws->dnorm};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) *wide[i] = carve(c, c->act, N * z->C);
    ws->dmade = carve(c, c->act, N * z->made);
    ws->dqkv = carve(c, c->act, N * z->QKV);
    ws->datt = carve(c, c->act, N * z->ATT);
    ws->dgate_up = carve(c, c->act, N * z->gate);
    ws->dh = carve(c, c->act, N * z->FF);
}

static Status host_side(Workspace *ws, size_t scores) {
    size_t N = (size_t)ws->plan.tokens;
    ws->host_rows = calloc(N, sizeof(int));
    ws->host_targets = calloc(N, sizeof(int));
    ws->host_positions = calloc(N, sizeof(int));
    ws->host = calloc(N * (scores ? scores : 1), sizeof(float));
    if (ws->host_rows && ws->host_targets && ws->host_positions && ws->host) return OK;
    return status_fail(E_MEMORY, "no memory for the host side of a workspace of %d tokens",
                       ws->plan.tokens);
}

int network_head_chunk(const Backend *b, int V, int rows) {
    size_t chunk = b->logits_bytes / ((size_t)V * sizeof(float));
    if (chunk > (size_t)b->logits_rows) chunk = (size_t)b->logits_rows;
    if (chunk > (size_t)rows) chunk = (size_t)rows;
    return chunk ? (int)chunk : 1;
}

Status workspace_create(Workspace **out, Backend *b, const WorkspacePlan *plan,
                        const ModelConfig *const *configs, int n, size_t *bytes) {
    Sizes z = sizes_of(configs, n);
    Workspace *ws = calloc(1, sizeof *ws);
    if (out) *out = NULL;
    if (!ws) return status_fail(E_MEMORY, "no memory for a workspace");
    ws->b = b;
    ws->plan = *plan;
    ws->L = (int)z.L;
    ws->chunk = z.V ? network_head_chunk(b, (int)z.V, plan->tokens) : 1;
    ws->x = calloc(z.L + 1, sizeof *ws->x);
    ws->saved = calloc(z.L, sizeof *ws->saved);
    Status s = ws->x && ws->saved ? OK : status_fail(E_MEMORY, "no memory for a workspace");
    Carve c = {.act = b->dtype};
    if (s == OK) carve_all(ws, &c, &z);
    if (bytes) *bytes = c.used;
    if (s == OK && out) {
        s = b->alloc(b, &ws->arena, DT_F32, c.used / sizeof(float), "activations");
        c = (Carve){ws->arena.ptr, 0, b->dtype};
        if (s == OK) carve_all(ws, &c, &z);
        if (s == OK) s = host_side(ws, z.K);
    }
    if (s != OK || !out)
        workspace_release(ws);
    else
        *out = ws;
    return s;
}

void workspace_release(Workspace *ws) {
    if (!ws) return;
    if (ws->b) ws->b->release(ws->b, &ws->arena);
    free(ws->x);
    free(ws->saved);
    free(ws->host_rows);
    free(ws->host_targets);
    free(ws->host_positions);
    free(ws->host);
    free(ws);
}

/* --- networks --- */

static Status rope_table(Network *net, Buf *to, int length, int windowed) {
    size_t n = (size_t)length * (size_t)config_rotated(&net->w.cfg);
    float *table = malloc(n * sizeof *table);
    if (!table) return status_fail(E_MEMORY, "no memory for %d rotary positions", length);
    rope_fill(table, &net->w.cfg, length, windowed);
    Status s = net->b->alloc(net->b, to, DT_F32, n, "rotary table");
    if (s == OK) net->b->upload(net->b, *to, table, n);
    free(table);
    return s;
}

static Status place_positions(Network *net, int length) {
    const ModelConfig *m = &net->w.cfg;
    if (m->learned_positions) {
        if (length <= m->max_positions) return OK;
        return status_fail(E_USAGE,
                           "the model has %d learned positions, sequences of up to %d tokens are "
                           "asked for",
                           m->max_positions, length);
    }
    TRY(rope_fits(m, length));
    TRY(rope_table(net, &net->rope, length, 0));
    return m->rope_local_theta > 0.0f ? rope_table(net, &net->rope_local, length, 1) : OK;
}

Status network_create(Network *net, Backend *b, const ModelConfig *cfg, Workspace *ws,
                      int trainable) {
    *net = (Network){.b = b, .ws = ws};
    TRY(weights_create(&net->w, b, cfg, trainable ? DT_F32 : b->dtype));
    TRY(place_positions(net, ws->plan.max_length));
    if (!trainable) return OK;
    CHECK(ws->plan.train);
    TRY(b->alloc(b, &net->grad, DT_F32, net->w.count, "gradients"));
    if (cfg->tied && cfg->lm_head)
        TRY(b->alloc(b, &net->grad_tied, DT_F32, (size_t)cfg->V * (size_t)cfg->C,
                     "gradients of the tied embedding"));
    return tensors_carve(cfg, &net->g, net->grad);
}

Status network_create_frozen(Network *net, Backend *b, const ModelConfig *cfg, Workspace *ws,
                             Dtype layers) {
    if (!dtype_quantized(layers)) return network_create(net, b, cfg, ws, 0);
    *net = (Network){.b = b, .ws = ws};
    TRY(weights_create_quantized(&net->w, b, cfg, layers));
    return place_positions(net, ws->plan.max_length);
}

void network_release(Network *net) {
    if (!net->b) return;
    Backend *b = net->b;
    if (net->ws && net->ws->owner == net) net->ws->owner = NULL;
    weights_release(&net->w);
    b->release(b, &net->rope);
    b->release(b, &net->rope_local);
    b->release(b, &net->grad);
    b->release(b, &net->grad_tied);
    tensors_release(&net->g);
    *net = (Network){0};
}

void network_zero_grads(Network *net) {
    net->b->zero(net->b, net->grad, net->w.count);
    if (net->grad_tied.ptr)
        net->b->zero(net->b, net->grad_tied, (size_t)net->w.cfg.V * (size_t)net->w.cfg.C);
}

/* Noise alpha/sqrt(T C) on each embedding, keyed so that a repeated step repeats it. */
static Status add_noise(Network *net, const Batch *batch) {
    Workspace *ws = net->ws;
    int C = net->w.cfg.C;
    float *noise = malloc((size_t)batch->N * (size_t)C * sizeof *noise);
    if (!noise) return status_fail(E_MEMORY, "no memory for noise on the embeddings");
    for (int s = 0; s < batch->S; s++) {
        int T = batch->starts[s + 1] - batch->starts[s];
        float scale = batch->neftune_alpha / sqrtf((float)T * (float)C);
        for (int n = batch->starts[s]; n < batch->starts[s + 1]; n++)
            for (int c = 0; c < C; c++)
                noise[(size_t)n * C + c] =
                    scale *
                    (float)(2.0 * rng_uniform(batch->noise_key, RNG_NOISE,
                                              (uint64_t)(batch->first + s),
                                              (uint64_t)(n - batch->starts[s]) * (uint64_t)C +
                                                  (uint64_t)c) -
                            1.0);
    }
    net->b->upload(net->b, ws->norm, noise, (size_t)batch->N * (size_t)C);
    net->b->add(net->b, ws->x[0], ws->x[0], ws->norm, (size_t)batch->N * (size_t)C);
    free(noise);
    return OK;
}

static void check_batch(const Network *net, const Batch *batch) {
    CHECK(batch->N > 0 && batch->S > 0);
    CHECK(batch->N <= net->ws->plan.tokens && batch->S <= net->ws->plan.sequences);
    CHECK(batch->starts[0] == 0 && batch->starts[batch->S] == batch->N);
    for (int n = 0; n < batch->N; n++) CHECK(batch->ids[n] >= 0 && batch->ids[n] < net->w.cfg.V);
}

/* ids, starts and positions to the device; the rows that the head is asked for: token t is
 * predicted by t-1. */
static void place_batch(Network *net, const Batch *batch) {
    Workspace *ws = net->ws;
    check_batch(net, batch);
    ws->owner = net;
    ws->S = batch->S;
    ws->N = batch->N;
    ws->R = 0;
    ws->temperature = batch->temperature;
    for (int s = 0; s < batch->S; s++) {
        CHECK(batch->starts[s + 1] > batch->starts[s]);
        CHECK(batch->starts[s + 1] - batch->starts[s] <= ws->plan.max_length);
        for (int n = batch->starts[s]; n < batch->starts[s + 1]; n++) {
            ws->host_positions[n] = n - batch->starts[s];
            if (!batch->wanted || !batch->wanted[n]) continue;
            CHECK(n > batch->starts[s]);
            ws->host_rows[ws->R] = n - 1;
            ws->host_targets[ws->R++] = batch->ids[n];
        }
    }
    Backend *b = net->b;
    b->upload(b, ws->ids, batch->ids, (size_t)batch->N);
    b->upload(b, ws->starts, batch->starts, (size_t)batch->S + 1);
    b->upload(b, ws->positions, ws->host_positions, (size_t)batch->N);
    b->upload(b, ws->rows, ws->host_rows, (size_t)ws->R);
    b->upload(b, ws->targets, ws->host_targets, (size_t)ws->R);
}

static Status trunk_forward(Network *net, const Batch *batch) {
    place_batch(net, batch);
    decoder_embed(net);
    if (batch->neftune_alpha > 0.0f) TRY(add_noise(net, batch));
    decoder_forward(net, NULL, 0);
    return OK;
}

static HeadOut head_out(const Workspace *ws, const TokenOutputs *o) {
    Buf none = {NULL, DT_F32};
    return (HeadOut){o && o->logp ? ws->out[0] : none, o && o->entropy ? ws->out[1] : none,
                     o && o->mean_logp ? ws->out[2] : none, o && o->top1 ? ws->out[3] : none};
}

/* asked rows -> one float per token */
static void spread(Workspace *ws, float *to, Buf from) {
    if (!to) return;
    ws->b->download(ws->b, ws->host, from, (size_t)ws->R);
    for (int r = 0; r < ws->R; r++) to[ws->host_rows[r] + 1] = ws->host[r];
}

static void fetch_outputs(Network *net, TokenOutputs *out) {
    Workspace *ws = net->ws;
    if (!out) return;
    spread(ws, out->logp, ws->out[0]);
    spread(ws, out->entropy, ws->out[1]);
    spread(ws, out->mean_logp, ws->out[2]);
    spread(ws, out->top1, ws->out[3]);
    if (out->score)
        net->b->download(net->b, out->score, ws->score, (size_t)ws->N * (size_t)net->w.cfg.scores);
}

static int asks_head(const TokenOutputs *o) {
    return o && (o->logp || o->entropy || o->mean_logp || o->top1);
}

static void score_forward(Network *net, const TokenOutputs *out) {
    const ModelConfig *m = &net->w.cfg;
    if (!out || !out->score) return;
    CHECK(m->scores > 0);
    net->b->score_forward(net->b, net->ws->score, net->ws->hidden, net->w.t.score, net->ws->N, m->C,
                          m->scores);
}

Status network_forward(Network *net, const Batch *batch, TokenOutputs *out) {
    Workspace *ws = net->ws;
    Backend *b = net->b;
    TRY(trunk_forward(net, batch));
    if (asks_head(out) && ws->R > 0) {
        CHECK(net->w.cfg.lm_head && batch->temperature > 0.0f);
        b->gather_rows(b, ws->hr, ws->hidden, ws->rows, ws->R, net->w.cfg.C);
        b->head_forward(b, head_out(ws, out), ws->hr, net->w.head, ws->targets, ws->logits,
                        ws->chunk, ws->R, batch->temperature, net->w.cfg.final_softcap);
    }
    score_forward(net, out);
    TRY(b->sync(b));
    fetch_outputs(net, out);
    return OK;
}

static Buf gather_grad(Workspace *ws, const float *from, Buf to) {
    if (!from) return (Buf){NULL, DT_F32};
    for (int r = 0; r < ws->R; r++) ws->host[r] = from[ws->host_rows[r] + 1];
    ws->b->upload(ws->b, to, ws->host, (size_t)ws->R);
    return to;
}

/* Gradients of the heads into dhidden, then down the decoder. */
static void heads_backward(Network *net, const TokenGrads *g, const TokenOutputs *out) {
    const ModelConfig *m = &net->w.cfg;
    Workspace *ws = net->ws;
    Backend *b = net->b;
    CHECK(net->grad.ptr && ws->owner == net && ws->plan.train);
    int head = (g->logp || g->entropy || g->mean_logp) && ws->R > 0;
    if (head) {
        HeadGrad hg = {gather_grad(ws, g->logp, ws->grad[0]),
                       gather_grad(ws, g->entropy, ws->grad[1]),
                       gather_grad(ws, g->mean_logp, ws->grad[2])};
        b->gather_rows(b, ws->hr, ws->hidden, ws->rows, ws->R, m->C);
        b->head_backward(b, ws->dhr, m->tied ? net->g.tok_emb : net->g.lm_head, hg,
                         head_out(ws, out), ws->hr, net->w.head, ws->targets, ws->logits, ws->chunk,
                         ws->R, ws->temperature, m->final_softcap);
        b->scatter_rows(b, ws->dhidden, ws->dhr, ws->rows, ws->R, ws->N, m->C);
    }
    if (g->score) {
        Buf to = head ? ws->dx : ws->dhidden;
        b->upload(b, ws->dscore, g->score, (size_t)ws->N * (size_t)m->scores);
        b->score_backward(b, to, net->g.score, ws->dscore, ws->hidden, net->w.t.score, ws->N, m->C,
                          m->scores);
        if (head) b->add(b, ws->dhidden, ws->dhidden, to, (size_t)ws->N * (size_t)m->C);
    }
    if (!head && !g->score) b->zero(b, ws->dhidden, (size_t)ws->N * (size_t)m->C);
    decoder_backward(net);
}

Status network_backward(Network *net, const TokenGrads *grads) {
    heads_backward(net, grads, NULL);
    net->ws->owner = NULL; /* recomputation and scratch have overwritten what the forward left */
    return net->b->sync(net->b);
}

Status network_learn(Network *net, const Batch *batch, const TokenGrads *known, TokenOutputs *out) {
    TRY(trunk_forward(net, batch));
    score_forward(net, out);
    heads_backward(net, known, out);
    net->ws->owner = NULL;
    TRY(net->b->sync(net->b));
    fetch_outputs(net, out);
    return OK;
}

/* --- decoding --- */

Status network_prefill(Network *net, KvCache *kv, const Batch *batch, const int *rows) {
    Workspace *ws = net->ws;
    Backend *b = net->b;
    place_batch(net, batch);
    for (int s = 0; s < batch->S; s++)
        for (int n = batch->starts[s]; n < batch->starts[s + 1]; n++) ws->host_targets[n] = rows[s];
    b->upload(b, ws->kv_rows, ws->host_targets, (size_t)batch->N);
    for (int s = 0; s < batch->S; s++) ws->host_rows[s] = batch->starts[s + 1] - 1;
    b->upload(b, ws->rows, ws->host_rows, (size_t)batch->S);
    decoder_embed(net);
    decoder_forward(net, kv, 0);
    b->gather_rows(b, ws->hr, ws->hidden, ws->rows, batch->S, net->w.cfg.C);
    return b->error; /* nothing to wait for: the sampler does */
}

/* Which recorded step this is: all its buffers follow from network, cache and batch size. */
static uint64_t decode_key(const Network *net, const KvCache *kv, int M) {
    const uint64_t parts[] = {(uint64_t)(uintptr_t)net->w.flat.ptr,
                              (uint64_t)(uintptr_t)net->ws->arena.ptr,
                              (uint64_t)(uintptr_t)kv->table.ptr, (uint64_t)M};
    return file_hash(parts, sizeof parts, 0);
}

Status network_decode(Network *net, KvCache *kv, const int *ids, const int *rows,
                      const int *positions, int M) {
    Workspace *ws = net->ws;
    Backend *b = net->b;
    CHECK(M > 0 && M <= ws->plan.tokens);
    ws->owner = net;
    ws->N = M;
    b->upload(b, ws->ids, ids, (size_t)M);
    b->upload(b, ws->positions, positions, (size_t)M);
    b->upload(b, ws->kv_rows, rows, (size_t)M);
    if (!b->replay_begin(b, decode_key(net, kv, M))) {
        decoder_embed(net);
        decoder_forward(net, kv, 1);
        b->copy(b, ws->hr, ws->hidden, (size_t)M * (size_t)net->w.cfg.C);
        b->replay_end(b);
    }
    return b->error;
}

Status network_extend(Network *net, KvCache *kv, const int *ids, const int *rows,
                      const int *positions, int N, const int *last, int M) {
    Workspace *ws = net->ws;
    Backend *b = net->b;
    CHECK(N > 0 && N <= ws->plan.tokens && M > 0 && M <= N);
    ws->owner = net;
    ws->N = N;
    b->upload(b, ws->ids, ids, (size_t)N);
    b->upload(b, ws->positions, positions, (size_t)N);
    b->upload(b, ws->kv_rows, rows, (size_t)N);
    b->upload(b, ws->rows, last, (size_t)M);
    decoder_embed(net);
    decoder_forward(net, kv, 1);
    b->gather_rows(b, ws->hr, ws->hidden, ws->rows, M, net->w.cfg.C);
    return b->error;
}

Status network_sample(Network *net, const double *uniform, SampleParams p, int M, int *ids,
                      float *logp, float *cut) {
    Workspace *ws = net->ws;
    Backend *b = net->b;
    b->upload(b, ws->uniform, uniform, (size_t)M);
    p.softcap = net->w.cfg.final_softcap;
    b->sample(b, ws->ids, ws->out[0], ws->out[1], ws->hr, net->w.head, ws->uniform, ws->logits,
              ws->chunk, M, p);
    b->download(b, ids, ws->ids, (size_t)M);
    b->download(b, logp, ws->out[0], (size_t)M);
    b->download(b, cut, ws->out[1], (size_t)M);
    return b->error;
}
