/* decoder.h - the workspace's inside and the decoder between embedding and heads; for core/model
 * only. */
#ifndef DECODER_H
#define DECODER_H

#include "core/model/network.h"

typedef struct { /* what a layer's forward leaves for its backward */
    Buf stats1, qkv, att, lse, xm, stats2, gate_up;
    Buf attn_made, stats_attn, mlp_made, stats_mlp; /* before the norms that follow, if any do */
    Buf before, rstd_qk; /* q and k before their norm: all of q, then all of k */
} LayerSaved;

enum { WS_LAYERS_MAX = 1000 };

struct Workspace {
    Backend *b;
    WorkspacePlan plan;
    int L;                /* slots of x (L + 1) when training */
    const Network *owner; /* whose forward it holds, NULL none */
    int S, N, R;
    float temperature;
    Buf arena;         /* one allocation */
    Buf *x;            /* [L + 1] residual stream before each layer, and after the last */
    LayerSaved *saved; /* [L], or one when recomputing or not training */
    Buf ids, positions, starts, rows, targets, kv_rows; /* i32 */
    Buf uniform;                                        /* f64 */
    Buf norm, proj, h;                                  /* scratch of the forward */
    Buf hidden, stats_final;
    Buf hr, logits; /* rows the head was asked for; chunk of logits */
    int chunk;
    Buf out[4], grad[3], score, dscore;
    Buf dhidden, dhr, dx, dnorm, dmade, dqkv, datt, dgate_up, dh;
    /* host side */
    int *host_rows, *host_targets, *host_positions;
    float *host; /* [tokens] staging */
};

/* x[0] = the embeddings of ws->N ids at their positions. */
void decoder_embed(Network *net);
/* x[0] holds the embeddings; leaves hidden = final norm of the last residual. kv: keys and values
 * are also written to the cache (prefill), `decode`: attention reads the cache instead of the
 * batch. */
void decoder_forward(Network *net, KvCache *kv, int decode);
/* From dhidden down to the embedding; adds to the gradients. */
void decoder_backward(Network *net);

#endif
