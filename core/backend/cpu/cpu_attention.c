/* cpu_attention.c - causal grouped-query attention with the online softmax (Milakov & Gimelshein
 * 2018; Dao et al. 2022): over packed sequences for training, over pages for decoding.
 *
 * Both walk the keys in blocks of KV_PAGE aligned to absolute positions and meet a query with a
 * block in the same function, so a decoded row has the bits of the training row. Scores of N x N
 * never exist. */
#include "core/backend/cpu/cpu.h"

#include <string.h>

#include "core/backend/cpu/vec.h"
#include "core/base/threads.h"

enum { B = KV_PAGE, BV = B / VW, HS_MAX = 256 };

/* s[j] = scale * q . k_j for the block's keys; kT is [HS][B] */
static inline __attribute__((always_inline)) void scores(vf s[BV], const float *q, const float *kT,
                                                         int HS, float scale) {
    for (int v = 0; v < BV; v++) s[v] = (vf){0};
    for (int d = 0; d < HS; d++) {
        vf x = vset1(q[d]);
        for (int v = 0; v < BV; v++) s[v] = vfma(x, vload(kT + d * B + v * VW), s[v]);
    }
    for (int v = 0; v < BV; v++) s[v] = s[v] * vset1(scale);
}

/* One query meets the first `count` keys of one block: o, m, l are its running output, maximum and
 * sum. */
static void meet_block(float *o, float *m, float *l, const float *q, const float *kT,
                       const float *v, size_t v_stride, int count, int HS, float scale) {
    vf s[BV];
    float p[B];
    scores(s, q, kT, HS, scale);
    for (int i = 0; i < BV; i++) vstore(p + i * VW, s[i]);
    for (int j = count; j < B; j++) p[j] = -INFINITY;
    vf top = vload(p);
    for (int i = 1; i < BV; i++) top = vmax(top, vload(p + i * VW));
    float m_new = vhmax(top);
    if (*m > m_new) m_new = *m;
    float keep = sexp(*m - m_new);
    vf sum = {0};
    for (int i = 0; i < BV; i++) {
        vf e = vexp(vload(p + i * VW) - vset1(m_new));
        vstore(p + i * VW, e);
        sum = sum + e;
    }
    *l = sfma(*l, keep, vsum(sum));
    *m = m_new;
    int d = 0;
    for (; d + 4 * VW <= HS; d += 4 * VW) {
        vf acc[4];
        for (int i = 0; i < 4; i++) acc[i] = vload(o + d + i * VW) * vset1(keep);
        for (int j = 0; j < count; j++) {
            vf w = vset1(p[j]);
            for (int i = 0; i < 4; i++)
                acc[i] = vfma(w, vload(v + j * v_stride + d + i * VW), acc[i]);
        }
        for (int i = 0; i < 4; i++) vstore(o + d + i * VW, acc[i]);
    }
    for (; d < HS; d += VW) {
        int left = HS - d;
        vf acc = vload_upto(o + d, left, 0.0f) * vset1(keep);
        for (int j = 0; j < count; j++)
            acc = vfma(vset1(p[j]), vload_upto(v + j * v_stride + d, left, 0.0f), acc);
        vstore_upto(o + d, acc, left);
    }
}

static void finish_row(float *o, float l, int HS) {
    float inv = 1.0f / l;
    for (int d = 0; d < HS; d++) o[d] *= inv;
}

/* x[count][HS] with a row stride -> xT[HS][B]; keys that are not there are 0 */
static void transpose_block(float *xT, const float *x, size_t stride, int count, int HS) {
    for (int j = 0; j < B; j++)
        for (int d = 0; d < HS; d++) xT[d * B + j] = j < count ? x[j * stride + d] : 0.0f;
}

typedef struct {
    float *out, *lse, *dqkv;
    const float *qkv, *dout, *saved_out, *saved_lse;
    const int *starts;
    int N, NH, NKV, HS;
} Attention;

static float scale_of(int HS) {
    return 1.0f / sqrtf((float)HS);
}

static void forward_item(void *ctx, int item, int thread) {
    (void)thread;
    const Attention *a = ctx;
    int HS = a->HS, group = a->NH / a->NKV, kvh = item % a->NKV;
    int start = a->starts[item / a->NKV], T = a->starts[item / a->NKV + 1] - start;
    size_t stride = (size_t)(a->NH + 2 * a->NKV) * HS, out_stride = (size_t)a->NH * HS;
    const float *qkv = a->qkv + start * stride;
    const float *k = qkv + (size_t)(a->NH + kvh) * HS,
                *v = qkv + (size_t)(a->NH + a->NKV + kvh) * HS;
    float *m = a->lse, *l = a->lse + (size_t)a->N * a->NH;
    float kT[HS_MAX * B], scale = scale_of(HS);

    for (int h = kvh * group; h < (kvh + 1) * group; h++) {
        for (int t = 0; t < T; t++) {
            memset(a->out + (start + t) * out_stride + (size_t)h * HS, 0,
                   (size_t)HS * sizeof(float));
            m[(size_t)(start + t) * a->NH + h] = -INFINITY;
            l[(size_t)(start + t) * a->NH + h] = 0.0f;
        }
    }
    for (int j0 = 0; j0 < T; j0 += B) {
        int keys = T - j0 < B ? T - j0 : B;
        transpose_block(kT, k + j0 * stride, stride, keys, HS);
        for (int h = kvh * group; h < (kvh + 1) * group; h++) {
            for (int t = j0; t < T; t++) {
                size_t row = (size_t)(start + t) * a->NH + h;
                int count = t - j0 + 1 < B ? t - j0 + 1 : B;
                meet_block(a->out + (start + t) * out_stride + (size_t)h * HS, m + row, l + row,
                           qkv + t * stride + (size_t)h * HS, kT, v + j0 * stride, stride, count,
                           HS, scale);
            }
        }
    }
    for (int h = kvh * group; h < (kvh + 1) * group; h++) {
        for (int t = 0; t < T; t++) {
            size_t row = (size_t)(start + t) * a->NH + h;
            finish_row(a->out + (start + t) * out_stride + (size_t)h * HS, l[row], HS);
            m[row] += logf(l[row]);
        }
    }
}

static void attention_forward(Backend *b, Buf out, Buf lse, Buf qkv, Buf starts, int S, int N,
                              int NH, int NKV, int HS) {
    (void)b;
    CHECK(HS <= HS_MAX);
    Attention a = {.out = f32(out),
                   .lse = f32(lse),
                   .qkv = f32(qkv),
                   .starts = i32(starts),
                   .N = N,
                   .NH = NH,
                   .NKV = NKV,
                   .HS = HS};
    threads_run(S * NKV, forward_item, &a);
}

static inline float dot_row(const float *x, const float *y, int n) {
    vf s = {0};
    for (int i = 0; i < n; i += VW)
        s = vfma(vload_upto(x + i, n - i, 0.0f), vload_upto(y + i, n - i, 0.0f), s);
    return vsum(s);
}

enum {
    GROUP = 4
}; /* queries that meet a block together, so that its gradients are loaded once for all */

/* One query against one block: p = exp(s - lse), ds = p (dp - D) scale, dp_j = do . v_j; 0 beyond
 * count. */
static void block_weights(float p[B], float ds[B], const float *q, const float *dout,
                          const float *kT, const float *vT, float lse, float D, int count, int HS,
                          float scale) {
    vf s[BV], dp[BV];
    scores(s, q, kT, HS, scale);
    scores(dp, dout, vT, HS, 1.0f);
    for (int i = 0; i < BV; i++) {
        vf e = vexp(s[i] - vset1(lse));
        vstore(p + i * VW, e);
        vstore(ds + i * VW, e * (dp[i] - vset1(D)) * vset1(scale));
    }
    for (int j = count; j < B; j++) p[j] = ds[j] = 0.0f;
}

/* y[n] += sum over u of a[u * a_stride] x[u * x_stride][n], u ascending in one chain per element */
static void add_weighted(float *y, const float *a, size_t a_stride, const float *x, size_t x_stride,
                         int u_count, int n) {
    for (int d = 0; d < n; d += VW) {
        vf acc = vload_upto(y + d, n - d, 0.0f);
        for (int u = 0; u < u_count; u++)
            acc = vfma(vset1(a[u * a_stride]), vload_upto(x + u * x_stride + d, n - d, 0.0f), acc);
        vstore_upto(y + d, acc, n - d);
    }
}

static void backward_item(void *ctx, int item, int thread) {
    (void)thread;
    const Attention *a = ctx;
    int HS = a->HS, group = a->NH / a->NKV, kvh = item % a->NKV;
    int start = a->starts[item / a->NKV], T = a->starts[item / a->NKV + 1] - start;
    size_t stride = (size_t)(a->NH + 2 * a->NKV) * HS, out_stride = (size_t)a->NH * HS;
    const float *qkv = a->qkv + start * stride;
    float *dqkv = a->dqkv + start * stride;
    size_t k_at = (size_t)(a->NH + kvh) * HS, v_at = (size_t)(a->NH + a->NKV + kvh) * HS;
    float kT[HS_MAX * B], vT[HS_MAX * B], scale = scale_of(HS);

    for (int t = 0; t < T; t++) {
        memset(dqkv + t * stride + k_at, 0, (size_t)HS * sizeof(float));
        memset(dqkv + t * stride + v_at, 0, (size_t)HS * sizeof(float));
        memset(dqkv + t * stride + (size_t)kvh * group * HS, 0, (size_t)group * HS * sizeof(float));
    }
    for (int j0 = 0; j0 < T; j0 += B) {
        int keys = T - j0 < B ? T - j0 : B;
        transpose_block(kT, qkv + j0 * stride + k_at, stride, keys, HS);
        transpose_block(vT, qkv + j0 * stride + v_at, stride, keys, HS);
        for (int h = kvh * group; h < (kvh + 1) * group; h++) {
            for (int t = j0; t < T; t += GROUP) {
                float p[GROUP][B], ds[GROUP][B];
                int queries = T - t < GROUP ? T - t : GROUP;
                const float *q = qkv + t * stride + (size_t)h * HS;
                const float *dout = a->dout + (start + t) * out_stride + (size_t)h * HS;
                for (int u = 0; u < queries; u++) {
                    size_t row = (size_t)(start + t + u);
                    float D = dot_row(dout + u * out_stride,
                                      a->saved_out + row * out_stride + (size_t)h * HS, HS);
                    int count = t + u - j0 + 1 < B ? t + u - j0 + 1 : B;
                    block_weights(p[u], ds[u], q + u * stride, dout + u * out_stride, kT, vT,
                                  a->saved_lse[row * a->NH + h], D, count, HS, scale);
                    add_weighted(dqkv + (t + u) * stride + (size_t)h * HS, ds[u], 1,
                                 qkv + j0 * stride + k_at, stride, count, HS);
                }
                for (int j = 0; j < keys; j++) {
                    add_weighted(dqkv + (j0 + j) * stride + k_at, &ds[0][j], B, q, stride, queries,
                                 HS);
                    add_weighted(dqkv + (j0 + j) * stride + v_at, &p[0][j], B, dout, out_stride,
                                 queries, HS);
                }
            }
        }
    }
}

static void attention_backward(Backend *b, Buf dqkv, Buf dout, Buf qkv, Buf out, Buf lse,
                               Buf starts, int S, int N, int NH, int NKV, int HS) {
    (void)b;
    Attention a = {.dqkv = f32(dqkv),
                   .dout = f32(dout),
                   .qkv = f32(qkv),
                   .saved_out = f32(out),
                   .saved_lse = f32(lse),
                   .starts = i32(starts),
                   .N = N,
                   .NH = NH,
                   .NKV = NKV,
                   .HS = HS};
    threads_run(S * NKV, backward_item, &a);
}

typedef struct {
    float *out;
    const float *qkv;
    KvLayer kv;
    const int *rows, *positions;
    int N, NH, NKV, HS;
} Decode;

static size_t page_at(const Decode *d, int n, int block, int kvh) {
    int page = i32(d->kv.table)[(size_t)d->rows[n] * d->kv.max_pages + block];
    return ((size_t)page * d->NKV + kvh) * d->HS * B;
}

static void write_rows(void *ctx, int first, int last) {
    const Decode *d = ctx;
    size_t stride = (size_t)(d->NH + 2 * d->NKV) * d->HS;
    for (int n = first; n < last; n++) {
        int slot = d->positions[n] % B;
        for (int kvh = 0; kvh < d->NKV; kvh++) {
            size_t at = page_at(d, n, d->positions[n] / B, kvh);
            const float *k = d->qkv + n * stride + (size_t)(d->NH + kvh) * d->HS,
                        *v = k + (size_t)d->NKV * d->HS;
            float *keys = f32(d->kv.keys) + at, *values = f32(d->kv.values) + at;
            for (int i = 0; i < d->HS; i++) keys[i * B + slot] = k[i];
            memcpy(values + (size_t)slot * d->HS, v, (size_t)d->HS * sizeof(float));
        }
    }
}

static void kv_write(Backend *b, KvLayer kv, Buf qkv, Buf rows, Buf positions, int N, int NH,
                     int NKV, int HS) {
    (void)b;
    Decode d = {NULL, f32(qkv), kv, i32(rows), i32(positions), N, NH, NKV, HS};
    CPU(parallel)(N, 64, write_rows, &d);
}

static void decode_item(void *ctx, int item, int thread) {
    (void)thread;
    const Decode *d = ctx;
    int HS = d->HS, n = item / d->NKV, kvh = item % d->NKV, group = d->NH / d->NKV,
        T = d->positions[n] + 1;
    const float *q = d->qkv + (size_t)n * (d->NH + 2 * d->NKV) * HS;
    float scale = scale_of(HS);
    for (int h = kvh * group; h < (kvh + 1) * group; h++) {
        float *o = d->out + ((size_t)n * d->NH + h) * HS, m = -INFINITY, l = 0.0f;
        memset(o, 0, (size_t)HS * sizeof(float));
        for (int j0 = 0; j0 < T; j0 += B) {
            size_t at = page_at(d, n, j0 / B, kvh);
            meet_block(o, &m, &l, q + (size_t)h * HS, f32(d->kv.keys) + at, f32(d->kv.values) + at,
                       (size_t)HS, T - j0 < B ? T - j0 : B, HS, scale);
        }
        finish_row(o, l, HS);
    }
}

static void attention_decode(Backend *b, Buf out, Buf qkv, KvLayer kv, Buf rows, Buf positions,
                             int N, int NH, int NKV, int HS) {
    (void)b;
    Decode d = {f32(out), f32(qkv), kv, i32(rows), i32(positions), N, NH, NKV, HS};
    threads_run(N * NKV, decode_item, &d);
}

void CPU(attention_page)(Backend *b) {
    b->attention_forward = attention_forward;
    b->attention_backward = attention_backward;
    b->kv_write = kv_write;
    b->attention_decode = attention_decode;
}
