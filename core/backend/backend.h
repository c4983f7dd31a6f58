/* backend.h - the page of operations that a device fills: one signature each for CPU and CUDA.
 *
 * Nothing above core/backend dereferences a Buf. Kernels return nothing: the backend remembers its
 * first failure and sync() returns it. A backward WRITES gradients of activations and ADDS TO
 * gradients of weights, without exception; a weight gradient whose Buf is NULL is not wanted.
 *
 * Storage types. Activations, their gradients, packed weights and cached keys and values are of
 * b->dtype, f32 or bf16; arithmetic is f32 and rounds where it stores. Weights (Mat.w, biases and
 * the w of embedding, norm and score), their gradients and moments are f32; in a frozen network
 * weights may be of b->dtype too. rstd, lse, logits, HeadOut, HeadGrad, score and dscore are f32
 * always. The matrices of a frozen network's layers may be quantized: upload and matmul_forward
 * know those types, nothing else does.
 *
 * Shape letters: N tokens in a packed batch, S sequences, R rows asked of the head, C channels, NH
 * query heads, NKV key/value heads, HS head size, FF feed-forward width, V vocabulary, K x O a
 * weight [O,K].
 *
 * Promises of the CPU page (docs/design.md "Bits"): a row of a result depends on its own row of the
 * inputs alone, whatever N and the number of threads; a weight gradient is one chain of additions
 * over the tokens in order, starting from the stored value. */
#ifndef BACKEND_H
#define BACKEND_H

#include <stddef.h>
#include <stdint.h>
#include "core/base/status.h"

typedef enum {
    DT_F32,
    DT_I32,
    DT_F64,
    DT_BF16,
    DT_Q8, /* blocks of QUANT_BLOCK numbers with a scale, of 8 and 4 bits (quant.h) */
    DT_Q4
} Dtype;
enum { QUANT_BLOCK = 32 };

typedef struct {
    void *ptr; /* device memory: opaque above core/backend */
    Dtype dtype;
} Buf;

static inline int dtype_quantized(Dtype t) {
    return t == DT_Q8 || t == DT_Q4;
}
static inline size_t dtype_block(Dtype t) { /* numbers that are stored together */
    return dtype_quantized(t) ? QUANT_BLOCK : 1;
}
static inline size_t dtype_bytes(Dtype t) { /* of a block */
    return t == DT_F64    ? 8
           : t == DT_BF16 ? 2
           : t == DT_Q8   ? 4 + QUANT_BLOCK
           : t == DT_Q4   ? 4 + QUANT_BLOCK / 2
                          : 4;
}
static inline const char *dtype_name(Dtype t) { /* of a storage type */
    return t == DT_BF16 ? "bf16" : t == DT_Q8 ? "q8" : t == DT_Q4 ? "q4" : "f32";
}
static inline Buf buf_at(Buf b, size_t element) { /* the first of a block */
    size_t at = element / dtype_block(b.dtype) * dtype_bytes(b.dtype);
    return (Buf){b.ptr ? (char *)b.ptr + at : NULL, b.dtype};
}

/* A weight [O,K] row-major, and the copy of it in the storage type and order that products like to
 * read (written after loading and by each optimizer step; ptr NULL where a backend has no use for
 * it); likewise its bias [O], ptr NULL where it has none. */
typedef struct {
    Buf w, packed;
    int O, K;
    Buf bias, bias_packed;
} Mat;

/* RMSNorm (Zhang & Sennrich 2019), x rstd (w + plus), or LayerNorm (Ba et al. 2016),
 * (x - mean) rstd (w + plus) + bias. plus is added in f32: weights that are stored less 1 keep
 * their digits. */
typedef struct {
    Buf w, bias; /* bias: NULL none */
    float plus, eps;
    int centred; /* LayerNorm */
} Norm;

/* What attention computes. A query sees the keys up to its own position, of those the last `window`
 * (0: all); a score is scale q.k, bent to softcap tanh(score / softcap) (0: as it is). */
typedef struct {
    int NH, NKV, HS;
    float scale;
    int window;
    float softcap;
} AttentionShape;

/* Keys and values in pages of KV_PAGE positions. Page p of a layer and a kv head holds its keys
 * transposed [HS][KV_PAGE] and its values [KV_PAGE][HS]. */
enum { KV_PAGE = 32 };
typedef struct {
    Buf keys, values; /* of one layer: [pages][NKV][HS * KV_PAGE] */
    Buf table;        /* i32 [rows][max_pages]: page numbers of each row, in order of position */
    int max_pages;
} KvLayer;

typedef struct { /* per asked row r of the head; NULL ptr = not asked */
    Buf logp, entropy, mean_logp, top1;
} HeadOut;
typedef struct { /* gradients of the loss by those outputs */
    Buf logp, entropy, mean_logp;
} HeadGrad;

typedef struct {
    float temperature; /* 0 = greedy, scored at temperature 1 */
    int top_k;         /* 0 = off */
    float top_p;       /* 1 = off */
    float min_p;       /* least share of the likeliest token's probability, 0 = off */
    int vocab;         /* ids below this may be sampled: embedding rows may exceed the vocabulary */
    float softcap;     /* the model's own, as head_forward has it; network_sample sets it */
    /* Ids whose logits are changed first, each at most once in a row: row r has
     * edits[edit_starts[r] .. edit_starts[r + 1]), i32. An id has z / penalty, or z penalty where
     * z < 0 (Keskar et al. 2019); ~id is never drawn. ptr NULL: none. */
    float penalty;
    Buf edits, edit_starts;
} SampleParams;

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    float grad_scale;               /* gradients are multiplied by this first (clipping) */
    float correction1, correction2; /* 1 - beta^t */
} AdamwParams;

/* How a feed-forward's width FF comes from its product: act(gate) up of [N,2 FF], or act(x) of
 * [N,FF] where it is not gated. gelu with the normal distribution's integral or its tanh formula
 * (Hendrycks & Gimpel 2016). */
typedef enum { ACT_SILU, ACT_GELU, ACT_GELU_TANH } Activation;
typedef struct {
    int FF;
    Activation act;
    int gated;
} FeedForward;

typedef struct Backend Backend;
struct Backend {
    const char *device;  /* "cpu", "cuda:0" */
    const char *kernels; /* name in the CPU's table: stored in checkpoints, forced on resume */
    Dtype dtype;         /* DT_F32 or DT_BF16, of what is stored between operations; likewise */
    int mirror;          /* packed weights lie as the weights do, and adamw writes them */
    int exact_decode;    /* a decoded row has the bits of the training forward's */
    size_t logits_bytes; /* of logits that the head should hold at a time, */
    int logits_rows;     /* and of how many rows at most: what fits its caches, or fills it */
    Status error;        /* first failure of a kernel; sticky */

    /* memory; counts are elements. alloc zeroes, and is a CHECK failure after memory_freeze() */
    Status (*alloc)(Backend *b, Buf *out, Dtype dtype, size_t count, const char *what);
    /* the same in memory of the host that kernels can use, slowly: for what is read once a step */
    Status (*alloc_host)(Backend *b, Buf *out, Dtype dtype, size_t count, const char *what);
    void (*release)(Backend *b, Buf *buf);
    size_t (*memory_free)(Backend *b); /* bytes that could be allocated now */
    /* host arrays hold f32 for f32 and for bf16 buffers (rounded to nearest even on the way) */
    void (*upload)(Backend *b, Buf to, const void *from, size_t count);
    void (*download)(Backend *b, void *to, Buf from, size_t count);
    void (*copy)(Backend *b, Buf to, Buf from, size_t count);
    void (*zero)(Backend *b, Buf to, size_t count);
    void (*add)(Backend *b, Buf out, Buf x, Buf y, size_t count); /* out = x + y, out may be x */
    void (*lerp)(Backend *b, Buf out, Buf x, size_t count,
                 float t); /* out += t (x - out): a running average */
    Status (*sync)(Backend *b);
    /* A piece of work that is asked for again and again with the same buffers and sizes, such as
     * one decoding step. begin returns 1 when the piece was recorded under `key` and runs again:
     * the caller is done. Otherwise the caller issues its operations, none of which may move data
     * to or from the host, and calls end. A backend may record nothing. */
    int (*replay_begin)(Backend *b, uint64_t key);
    void (*replay_end)(Backend *b);

    /* products */
    /* elements of the packed copy of weights stored as `w`; 0 where there is none */
    size_t (*packed_count)(Backend *b, Dtype w, int O, int K);
    void (*pack)(Backend *b, Mat m);
    void (*matmul_forward)(Backend *b, Buf y, Buf x, Mat w, int N); /* y[N,O] = x[N,K] w^T + bias */
    void (*matmul_backward_input)(Backend *b, Buf dx, Buf dy, Mat w,
                                  int N); /* dx[N,K] = dy[N,O] w */
    void (*matmul_backward_weight)(Backend *b, Buf dw, Buf dy, Buf x, int N, int O,
                                   int K); /* += dy^T x */

    /* layers */
    void (*embedding_forward)(Backend *b, Buf x, Buf emb, Buf ids, int N, int C,
                              float scale); /* x[N,C] = scale emb[ids] */
    void (*embedding_backward)(Backend *b, Buf demb, Buf dx, Buf ids, int N, int C, float scale);
    /* The residual stream and its norm: sum = x + y, out = norm(sum); without y (NULL) the norm of
     * x, and sum is not written. sum may be x. stats [2,N]: rstd, then the mean where there is
     * one. */
    void (*norm_forward)(Backend *b, Buf out, Buf stats, Buf sum, Buf x, Buf y, Norm w, int N,
                         int C);
    /* dx = dsum + what dout gives; x is what was normed, dsum (NULL: 0) what else flows into it. dx
     * may be dsum or dout. A bias gains what bias_backward says. */
    void (*norm_backward)(Backend *b, Buf dx, Buf dw, Buf dsum, Buf dout, Buf x, Norm w, Buf stats,
                          int N, int C);
    /* RMSNorm of each of the first `heads` heads of HS of a row of qkv [N, stride], in place;
     * before [N, heads HS] is what they were, rstd [N, heads]. backward: in place on dqkv. */
    void (*headnorm_forward)(Backend *b, Buf qkv, Buf before, Buf rstd, Norm w, int N, int stride,
                             int heads, int HS);
    void (*headnorm_backward)(Backend *b, Buf dqkv, Buf dw, Buf before, Norm w, Buf rstd, int N,
                              int stride, int heads, int HS);
    void (*bias_backward)(Backend *b, Buf dbias, Buf dy, int N, int O); /* += dy, over tokens */
    /* in place on the first R of HS channels of the first `heads` heads of each row of qkv
     * [N, stride]; table [positions][R]: cos R/2, sin R/2 (Su et al. 2021, rotate-half). backward
     * rotates by the opposite angle. */
    void (*rope)(Backend *b, Buf qkv, Buf positions, Buf table, int N, int stride, int heads,
                 int HS, int R, int backward);
    /* causal grouped-query attention over packed sequences; qkv [N,(NH+2 NKV) HS], starts i32
     * [S+1], out [N,NH HS], lse [2,N,NH] (log-sum-exp, then scratch) */
    void (*attention_forward)(Backend *b, Buf out, Buf lse, Buf qkv, Buf starts, int S, int N,
                              AttentionShape a);
    void (*attention_backward)(Backend *b, Buf dqkv, Buf dout, Buf qkv, Buf out, Buf lse,
                               Buf starts, int S, int N, AttentionShape a);
    void (*activation_forward)(Backend *b, Buf h, Buf x, int N, FeedForward f);
    void (*activation_backward)(Backend *b, Buf dx, Buf dh, Buf x, int N, FeedForward f);

    /* heads. logits is scratch [chunk, V]: [R,V] never exists. They are bent to softcap tanh(z /
     * softcap) (0: as they are), then divided by the temperature. */
    void (*gather_rows)(Backend *b, Buf out, Buf x, Buf rows, int R, int C);
    void (*scatter_rows)(Backend *b, Buf out, Buf x, Buf rows, int R, int N,
                         int C); /* out zeroed first; rows unique */
    void (*head_forward)(Backend *b, HeadOut out, Buf h, Mat w, Buf targets, Buf logits, int chunk,
                         int R, float temperature, float softcap);
    /* computes the outputs again (kept where asked), writes dh [R,C], adds to dw [V,C] */
    void (*head_backward)(Backend *b, Buf dh, Buf dw, HeadGrad grad, HeadOut out, Buf h, Mat w,
                          Buf targets, Buf logits, int chunk, int R, float temperature,
                          float softcap);
    void (*score_forward)(Backend *b, Buf score, Buf h, Buf w, int N, int C,
                          int K); /* score [N,K] = h w^T */
    void (*score_backward)(Backend *b, Buf dh, Buf dw, Buf dscore, Buf h, Buf w, int N, int C,
                           int K);

    /* decoding */
    /* puts keys and values of qkv [N, stride] into the pages: token n goes to row rows[n], position
     * positions[n] */
    void (*kv_write)(Backend *b, KvLayer kv, Buf qkv, Buf rows, Buf positions, int N,
                     AttentionShape a);
    /* one query per row: row n of qkv sits at positions[n] of cache row rows[n] */
    void (*attention_decode)(Backend *b, Buf out, Buf qkv, KvLayer kv, Buf rows, Buf positions,
                             int N, AttentionShape a);
    /* draws ids[r] by inverse transform of uniform f64 [R]; logp of it under the whole tempered
     * distribution, as head_forward says it where nothing is edited; cut: the share of it that
     * top-k, top-p and min-p removed */
    void (*sample)(Backend *b, Buf ids, Buf logp, Buf cut, Buf h, Mat w, Buf uniform, Buf logits,
                   int chunk, int R, SampleParams p);

    /* optimizer (Loshchilov & Hutter 2019): over a flat range; copy (NULL: none): the new w in
     * b->dtype */
    void (*adamw)(Backend *b, Buf w, Buf m, Buf v, Buf copy, Buf g, size_t count, AdamwParams p);
    /* the same of a weight w.w, with w.packed written where there is one */
    void (*adamw_packed)(Backend *b, Mat w, Buf m, Buf v, Buf g, AdamwParams p);
    double (*sum_squares)(Backend *b, Buf g, size_t count); /* f64, in fixed order; waits */
};

/* device "auto", "cpu", "cuda" or "cuda:N"; kernels "auto" or a name from the CPU's table; dtype
 * "f32", "bf16" or "auto": bf16 on a GPU and where the CPU multiplies it. E_USAGE when this machine
 * lacks it. */
Status backend_create(Backend **b, const char *device, const char *kernels, const char *dtype);
void backend_release(Backend *b);

#endif
