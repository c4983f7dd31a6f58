/* network.h - the narrow waist: every loss is arithmetic on a few numbers per token, and a network
 * is a decoder with a head that gives them and takes their gradients.
 *
 * logp[t] and entropy[t] concern token t given what stands before it; score[t] is the scalar head
 * at the hidden state of token t. All arrays are host memory, one float per token of the batch. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdint.h>
#include "core/model/weights.h"

typedef struct { /* S sequences end to end, N tokens, in the step's canonical order */
    int S, N;
    const int *ids, *starts; /* [N]; [S+1], starts[S] = N */
    const uint8_t *wanted; /* [N] whose logp is asked for (never a sequence's first); NULL: none */
    float temperature;     /* divides the logits */
    float neftune_alpha;   /* noise alpha/sqrt(T C) on the embeddings (Jain et al. 2023); 0 = off */
    uint64_t noise_key;
    int first; /* its first sequence's number in the step: noise does not depend on the cuts */
} Batch;

typedef struct { /* arrays [N] the caller owns; NULL = not asked; only wanted tokens are written */
    float *logp, *entropy, *mean_logp /* over V, for label smoothing */,
        *top1 /* 1 where the token is the argmax */;
    float *score; /* [N * scores], every token */
} TokenOutputs;
typedef TokenOutputs TokenGrads; /* d loss / d output; NULL = 0 (top1 has none) */

/* Activations and scratch, planned for the largest batch and used by all models of a process in
 * turn. It remembers whose forward it holds. */
typedef struct Workspace Workspace;
typedef struct {
    int tokens;     /* most tokens of a batch (also of rows of a decoding step) */
    int sequences;  /* most sequences of a batch */
    int train;      /* keeps what a backward needs */
    int recompute;  /* keeps only each layer's input and computes the rest again in the backward */
    int max_length; /* longest sequence: positions that have rotary angles */
} WorkspacePlan;
/* Large enough for each of the n configs. *bytes (may be NULL) is what it takes; with ws = NULL
 * only that. */
Status workspace_create(Workspace **ws, Backend *b, const WorkspacePlan *plan,
                        const ModelConfig *const *configs, int n, size_t *bytes);
void workspace_release(Workspace *ws); /* NULL is fine */
/* Rows of logits at a time for `rows` asked of a head of V: its weight gradient is read and written
 * once per chunk. */
int network_head_chunk(const Backend *b, int V, int rows);

typedef struct Network {
    Backend *b;
    Weights w;
    Buf rope;            /* [max_length, rotated] */
    Buf rope_local;      /* the same of windowed layers, where theirs differs */
    Workspace *ws;       /* borrowed */
    Buf grad, grad_tied; /* flat gradients; with a tied head the embedding's side apart, so that
                            each is one chain */
    Tensors g;           /* slots of grad; NULL Bufs in a frozen network */
} Network;

/* trainable: gradients are allocated; otherwise nothing can change the weights, and they are stored
 * in the backend's dtype. Weights are zero. */
Status network_create(Network *net, Backend *b, const ModelConfig *cfg, Workspace *ws,
                      int trainable);
/* Frozen, with the matrices of its layers stored as `layers`: the backend's dtype, DT_Q8 or DT_Q4.
 */
Status network_create_frozen(Network *net, Backend *b, const ModelConfig *cfg, Workspace *ws,
                             Dtype layers);
void network_release(Network *net);

Status network_forward(Network *net, const Batch *batch, TokenOutputs *out);
/* Of this network's last forward (CHECKed); adds to its gradients. */
Status network_backward(Network *net, const TokenGrads *grads);
/* Both at once where the gradient does not depend on the outputs (SFT): the head's logits are
 * computed once. */
Status network_learn(Network *net, const Batch *batch, const TokenGrads *known, TokenOutputs *out);
void network_zero_grads(Network *net);

/* --- decoding, used by policy/ only --- */
typedef struct {
    int users;      /* rows whose table names it */
    const int *ids; /* tokens [n] up to the page's end, when others may find it; borrowed */
    int n, next;
    uint64_t hash;
} KvPage;

typedef struct {
    Backend *b;
    Buf *keys, *values;       /* [L] each [pages][NKV][HS * KV_PAGE] */
    Buf table;                /* i32 [rows][max_pages] */
    int *host_table, changed; /* since the device saw it */
    int *free_pages, n_free, n_pages, rows, max_pages, L;
    int *held;    /* [rows] pages held */
    KvPage *page; /* [n_pages] */
    int *buckets, n_buckets;
} KvCache;
/* rows sequences of up to max_length positions, n_pages pages (0: enough for all rows at full
 * length). */
Status kv_create(KvCache *kv, Backend *b, const ModelConfig *cfg, int rows, int max_length,
                 int n_pages);
void kv_release(KvCache *kv);
/* Pages that fit in mib MiB, at least one whole row's; 0: enough for all rows at full length. */
int kv_pages(const Backend *b, const ModelConfig *cfg, int rows, int max_length, int mib);
size_t kv_bytes(const Backend *b, const ModelConfig *cfg, int pages);
/* Makes room for positions [0, length) of a row; 0 when pages run out. */
int kv_reserve(KvCache *kv, int row, int length);
void kv_drop(KvCache *kv, int row); /* the row's pages are free again, unless others share them */
/* An empty row takes over the full pages that others have of ids [n]; returns how many positions
 * they hold, always fewer than n. */
int kv_share(KvCache *kv, int row, const int *ids, int n);
/* Others may share the row's full pages of ids [n]; ids are borrowed until the row is dropped by
 * all who share it. */
void kv_offer(KvCache *kv, int row, const int *ids, int n);
void kv_flush(KvCache *kv); /* the device sees the table */

/* Forward of S prompts (batch->ids, starts) whose keys and values go to cache rows rows[S]; leaves
 * each prompt's last hidden state for network_sample in the order of the batch. */
Status network_prefill(Network *net, KvCache *kv, const Batch *batch, const int *rows);
/* One token ids[i] at positions[i] of cache row rows[i]; leaves M hidden states for network_sample.
 */
Status network_decode(Network *net, KvCache *kv, const int *ids, const int *rows,
                      const int *positions, int M);
/* N tokens ids[i] at positions[i] of cache rows rows[i], several of a row in ascending order: what
 * a prefill computes where the row's pages hold everything before. Leaves the hidden states of the
 * M tokens last[M]. */
Status network_extend(Network *net, KvCache *kv, const int *ids, const int *rows,
                      const int *positions, int N, const int *last, int M);
/* Draws one token for each of the M hidden states left; host arrays [M]. */
Status network_sample(Network *net, const double *uniform, SampleParams p, int M, int *ids,
                      float *logp, float *cut);

#endif
