/* cpu_attention.c - causal grouped-query attention with the online softmax (Milakov & Gimelshein
 * 2018; Dao et al. 2022): over packed sequences for training, over pages for decoding.
 *
 * Both walk the keys in blocks of KV_PAGE aligned to absolute positions and meet a query with a
 * block in the same function, so a decoded row has the bits of the training row. Scores of N x N
 * never exist. */
#include <string.h>

#include "core/backend/cpu/act.h"
#include "core/base/threads.h"

enum { B = KV_PAGE, BV = B / VW, HS_MAX = 256 };
enum {
    HEADS = 8,
    ROWS = 128
}; /* query heads, and rows of them, that meet a block of keys in turn:
      their sums stay in f32 until the last block */
enum { IN_F32 = sizeof(act) == sizeof(float) };

/* n activations at p as f32: where they are, or widened into `room` */
static const float *as_f32(float *room, const act *p, int n) {
    if (IN_F32) return (const float *)(const void *)p;
    for (int i = 0; i < n; i += VW) vstore_upto(room + i, aload_upto(p + i, n - i), n - i);
    return room;
}

typedef struct { /* rows of f32 */
    const float *at;
    size_t stride;
} RowsF32;

static RowsF32 rows_f32(float *room, const act *p, size_t stride, int rows, int n) {
    if (IN_F32) return (RowsF32){(const float *)(const void *)p, stride};
    for (int r = 0; r < rows; r++) as_f32(room + r * n, p + r * stride, n);
    return (RowsF32){room, (size_t)n};
}

static void store_row(act *to, const float *from, float scale, int n) {
    for (int i = 0; i < n; i += VW)
        astore_upto(to + i, vload_upto(from + i, n - i, 0.0f) * vset1(scale), n - i);
}

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

/* tanh of each score by softcap; the scores become softcap times that */
static inline void bend(vf tanhs[BV], vf s[BV], float softcap) {
    for (int v = 0; v < BV; v++) {
        tanhs[v] = vtanh(s[v] * vset1(1.0f / softcap));
        s[v] = tanhs[v] * vset1(softcap);
    }
}

typedef struct { /* keys of a block that a query sees: [first, end), none where first >= end */
    int first, end;
} Seen;

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* of the block from j0 on, by the query at position t >= j0 */
static Seen seen_by(int t, int j0, int window) {
    int past = window ? t - j0 - window + 1 : 0;
    return (Seen){past > 0 ? smaller(past, B) : 0, smaller(t - j0 + 1, B)};
}

/* where the first block begins that the query at t sees something of */
static int first_block(int t, int window) {
    return window && t >= window ? (t - window + 1) / B * B : 0;
}

/* One query meets the keys of one block that it sees: o, m, l are its running output, maximum and
 * sum. */
static void meet_block(float *o, float *m, float *l, const float *q, const float *kT, RowsF32 v,
                       Seen seen, const AttentionShape *a) {
    int HS = a->HS;
    vf s[BV], tanhs[BV];
    float p[B];
    scores(s, q, kT, HS, a->scale);
    if (a->softcap > 0.0f) bend(tanhs, s, a->softcap);
    for (int i = 0; i < BV; i++) vstore(p + i * VW, s[i]);
    for (int j = 0; j < seen.first; j++) p[j] = -INFINITY;
    for (int j = seen.end; j < B; j++) p[j] = -INFINITY;
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
        for (int j = seen.first; j < seen.end; j++) {
            vf w = vset1(p[j]);
            for (int i = 0; i < 4; i++)
                acc[i] = vfma(w, vload(v.at + j * v.stride + d + i * VW), acc[i]);
        }
        for (int i = 0; i < 4; i++) vstore(o + d + i * VW, acc[i]);
    }
    for (; d < HS; d += VW) {
        int left = HS - d;
        vf acc = vload_upto(o + d, left, 0.0f) * vset1(keep);
        for (int j = seen.first; j < seen.end; j++)
            acc = vfma(vset1(p[j]), vload_upto(v.at + j * v.stride + d, left, 0.0f), acc);
        vstore_upto(o + d, acc, left);
    }
}

/* x[count][HS] with a row stride -> xT[HS][B]; keys that are not there are 0 */
static void transpose_block(float *xT, const act *x, size_t stride, int count, int HS) {
    for (int j = 0; j < B; j++)
        for (int d = 0; d < HS; d++) xT[d * B + j] = j < count ? aget(x[j * stride + d]) : 0.0f;
}

typedef struct {
    act *out, *dqkv;
    float *lse;
    const act *qkv, *dout, *saved_out;
    const float *saved_lse;
    const int *starts;
    int N;
    AttentionShape of;
} Attention;

typedef struct {               /* one sequence and one key/value head */
    int start, T, kvh, h0, h1; /* its query heads */
    size_t stride, out_stride; /* of rows of qkv and out */
    const act *qkv, *k, *v;    /* from the sequence's first row on */
    size_t k_at, v_at;         /* of the head within a row */
} Item;

static Item item_of(const Attention *a, int item) {
    int group = a->of.NH / a->of.NKV, kvh = item % a->of.NKV, start = a->starts[item / a->of.NKV];
    Item i = {.start = start,
              .T = a->starts[item / a->of.NKV + 1] - start,
              .kvh = kvh,
              .h0 = kvh * group,
              .h1 = (kvh + 1) * group,
              .stride = (size_t)(a->of.NH + 2 * a->of.NKV) * a->of.HS,
              .out_stride = (size_t)a->of.NH * a->of.HS,
              .k_at = (size_t)(a->of.NH + kvh) * a->of.HS,
              .v_at = (size_t)(a->of.NH + a->of.NKV + kvh) * a->of.HS};
    i.qkv = a->qkv + start * i.stride;
    i.k = i.qkv + i.k_at;
    i.v = i.qkv + i.v_at;
    return i;
}

/* Queries t0..t1 of heads h0..h1 meet all their keys. */
static void forward_tile(const Attention *a, const Item *i, int h0, int h1, int t0, int t1) {
    int HS = a->of.HS, queries = t1 - t0, rows = (h1 - h0) * queries;
    float o[ROWS * HS_MAX], m[ROWS], l[ROWS], kT[HS_MAX * B], room[B * HS_MAX], q_room[HS_MAX];
    memset(o, 0, (size_t)rows * HS * sizeof *o);
    for (int r = 0; r < rows; r++) m[r] = -INFINITY, l[r] = 0.0f;
    for (int j0 = first_block(t0, a->of.window); j0 < t1; j0 += B) {
        int keys = smaller(i->T - j0, B);
        transpose_block(kT, i->k + j0 * i->stride, i->stride, keys, HS);
        RowsF32 v = rows_f32(room, i->v + j0 * i->stride, i->stride, keys, HS);
        for (int h = h0; h < h1; h++) {
            for (int t = t0 > j0 ? t0 : j0; t < t1; t++) {
                int r = (h - h0) * queries + t - t0;
                Seen seen = seen_by(t, j0, a->of.window);
                if (seen.first >= seen.end) continue;
                const float *q = as_f32(q_room, i->qkv + t * i->stride + (size_t)h * HS, HS);
                meet_block(o + r * HS, m + r, l + r, q, kT, v, seen, &a->of);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        int h = h0 + r / queries, t = i->start + t0 + r % queries;
        size_t row = (size_t)t * a->of.NH + h;
        store_row(a->out + t * i->out_stride + (size_t)h * HS, o + r * HS, 1.0f / l[r], HS);
        a->lse[row] = m[r] + logf(l[r]);
        a->lse[(size_t)a->N * a->of.NH + row] = l[r];
    }
}

static void forward_item(void *ctx, int item, int thread) {
    (void)thread;
    const Attention *a = ctx;
    Item i = item_of(a, item);
    for (int h = i.h0; h < i.h1; h += HEADS) {
        int h1 = smaller(h + HEADS, i.h1), queries = ROWS / (h1 - h);
        for (int t = 0; t < i.T; t += queries)
            forward_tile(a, &i, h, h1, t, smaller(t + queries, i.T));
    }
}

static void attention_forward(Backend *b, Buf out, Buf lse, Buf qkv, Buf starts, int S, int N,
                              AttentionShape of) {
    (void)b;
    CHECK(of.HS <= HS_MAX);
    Attention a = {.out = acts(out),
                   .lse = f32(lse),
                   .qkv = acts(qkv),
                   .starts = i32(starts),
                   .N = N,
                   .of = of};
    threads_run(S * of.NKV, forward_item, &a);
}

static inline float dot_row(const act *x, const act *y, int n) {
    vf s = {0};
    for (int i = 0; i < n; i += VW) s = vfma(aload_upto(x + i, n - i), aload_upto(y + i, n - i), s);
    return vsum(s);
}

enum {
    GROUP = 4
}; /* queries that meet a block together, so that its gradients are loaded once for all */

/* One query against one block: p = exp(s - lse), ds = p (dp - D) scale, dp_j = do . v_j; 0 where it
 * is not seen. A bent score's slope is 1 - tanh^2. */
static void block_weights(float p[B], float ds[B], const float *q, const float *dout,
                          const float *kT, const float *vT, float lse, float D, Seen seen,
                          const AttentionShape *a) {
    vf s[BV], dp[BV], tanhs[BV];
    scores(s, q, kT, a->HS, a->scale);
    scores(dp, dout, vT, a->HS, 1.0f);
    if (a->softcap > 0.0f) bend(tanhs, s, a->softcap);
    for (int i = 0; i < BV; i++) {
        vf e = vexp(s[i] - vset1(lse)), d = e * (dp[i] - vset1(D)) * vset1(a->scale);
        if (a->softcap > 0.0f) d = d * (vset1(1.0f) - tanhs[i] * tanhs[i]);
        vstore(p + i * VW, e);
        vstore(ds + i * VW, d);
    }
    for (int j = 0; j < seen.first; j++) p[j] = ds[j] = 0.0f;
    for (int j = seen.end; j < B; j++) p[j] = ds[j] = 0.0f;
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

/* dq[HS] += what the keys that are seen give */
static void add_keys(float *dq, const float ds[B], RowsF32 k, Seen seen, int HS) {
    add_weighted(dq, ds + seen.first, 1, k.at + seen.first * k.stride, k.stride,
                 seen.end - seen.first, HS);
}

/* gradients of one block of keys and values, and in f32 of the queries, whose chains rest in dqkv
 * between blocks; in bf16 that would round them, they follow in a walk of their own */
static void backward_block(const Attention *a, const Item *i, int j0) {
    int HS = a->of.HS, keys = smaller(i->T - j0, B);
    int end = a->of.window ? smaller(i->T, j0 + B - 1 + a->of.window) : i->T;
    size_t block = j0 * i->stride;
    float kT[HS_MAX * B], vT[HS_MAX * B], dk[B * HS_MAX], dv[B * HS_MAX];
    float k_room[B * HS_MAX], q_room[GROUP * HS_MAX], d_room[GROUP * HS_MAX];
    memset(dk, 0, (size_t)keys * HS * sizeof *dk);
    memset(dv, 0, (size_t)keys * HS * sizeof *dv);
    transpose_block(kT, i->k + block, i->stride, keys, HS);
    transpose_block(vT, i->v + block, i->stride, keys, HS);
    RowsF32 k = rows_f32(k_room, i->k + block, i->stride, keys, HS);
    for (int h = i->h0; h < i->h1; h++) {
        for (int t = j0; t < end; t += GROUP) {
            float p[GROUP][B], ds[GROUP][B];
            int queries = smaller(end - t, GROUP);
            const act *dout_t = a->dout + (i->start + t) * i->out_stride + (size_t)h * HS;
            RowsF32 q =
                rows_f32(q_room, i->qkv + t * i->stride + (size_t)h * HS, i->stride, queries, HS);
            RowsF32 d = rows_f32(d_room, dout_t, i->out_stride, queries, HS);
            for (int u = 0; u < queries; u++) {
                size_t row = (size_t)(i->start + t + u);
                float D = dot_row(dout_t + u * i->out_stride,
                                  a->saved_out + row * i->out_stride + (size_t)h * HS, HS);
                Seen seen = seen_by(t + u, j0, a->of.window);
                block_weights(p[u], ds[u], q.at + u * q.stride, d.at + u * d.stride, kT, vT,
                              a->saved_lse[row * a->of.NH + h], D, seen, &a->of);
                if (IN_F32)
                    add_keys((float *)(void *)(a->dqkv + row * i->stride + (size_t)h * HS), ds[u],
                             k, seen, HS);
            }
            for (int j = 0; j < keys; j++) {
                add_weighted(dk + j * HS, &ds[0][j], B, q.at, q.stride, queries, HS);
                add_weighted(dv + j * HS, &p[0][j], B, d.at, d.stride, queries, HS);
            }
        }
    }
    for (int j = 0; j < keys; j++) {
        act *row = a->dqkv + (size_t)(i->start + j0 + j) * i->stride;
        store_row(row + i->k_at, dk + j * HS, 1.0f, HS);
        store_row(row + i->v_at, dv + j * HS, 1.0f, HS);
    }
}

/* gradients of queries t0..t1 of heads h0..h1, in one f32 chain each */
static void backward_tile(const Attention *a, const Item *i, int h0, int h1, int t0, int t1) {
    int HS = a->of.HS, queries = t1 - t0, rows = (h1 - h0) * queries;
    float dq[ROWS * HS_MAX], D[ROWS], p[B], ds[B], kT[HS_MAX * B], vT[HS_MAX * B];
    float k_room[B * HS_MAX], q_room[HS_MAX], d_room[HS_MAX];
    memset(dq, 0, (size_t)rows * HS * sizeof *dq);
    for (int r = 0; r < rows; r++) {
        size_t at =
            (size_t)(i->start + t0 + r % queries) * i->out_stride + (size_t)(h0 + r / queries) * HS;
        D[r] = dot_row(a->dout + at, a->saved_out + at, HS);
    }
    for (int j0 = first_block(t0, a->of.window); j0 < t1; j0 += B) {
        int keys = smaller(i->T - j0, B);
        size_t block = j0 * i->stride;
        transpose_block(kT, i->k + block, i->stride, keys, HS);
        transpose_block(vT, i->v + block, i->stride, keys, HS);
        RowsF32 k = rows_f32(k_room, i->k + block, i->stride, keys, HS);
        for (int h = h0; h < h1; h++) {
            for (int t = t0 > j0 ? t0 : j0; t < t1; t++) {
                int r = (h - h0) * queries + t - t0;
                Seen seen = seen_by(t, j0, a->of.window);
                if (seen.first >= seen.end) continue;
                size_t row = (size_t)(i->start + t), at = row * i->out_stride + (size_t)h * HS;
                const float *q = as_f32(q_room, i->qkv + t * i->stride + (size_t)h * HS, HS);
                block_weights(p, ds, q, as_f32(d_room, a->dout + at, HS), kT, vT,
                              a->saved_lse[row * a->of.NH + h], D[r], seen, &a->of);
                add_keys(dq + r * HS, ds, k, seen, HS);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        size_t row = (size_t)(i->start + t0 + r % queries);
        store_row(a->dqkv + row * i->stride + (size_t)(h0 + r / queries) * HS, dq + r * HS, 1.0f,
                  HS);
    }
}

static void backward_item(void *ctx, int item, int thread) {
    (void)thread;
    const Attention *a = ctx;
    Item i = item_of(a, item);
    for (int t = 0; IN_F32 && t < i.T; t++)
        memset(a->dqkv + (i.start + t) * i.stride + (size_t)i.h0 * a->of.HS, 0,
               (size_t)(i.h1 - i.h0) * a->of.HS * sizeof(act));
    for (int j = 0; j < i.T; j += B) backward_block(a, &i, j);
    for (int h = i.h0; !IN_F32 && h < i.h1; h += HEADS) {
        int h1 = smaller(h + HEADS, i.h1), queries = ROWS / (h1 - h);
        for (int t = 0; t < i.T; t += queries)
            backward_tile(a, &i, h, h1, t, smaller(t + queries, i.T));
    }
}

static void attention_backward(Backend *b, Buf dqkv, Buf dout, Buf qkv, Buf out, Buf lse,
                               Buf starts, int S, int N, AttentionShape of) {
    (void)b;
    Attention a = {.dqkv = acts(dqkv),
                   .dout = acts(dout),
                   .qkv = acts(qkv),
                   .saved_out = acts(out),
                   .saved_lse = f32(lse),
                   .starts = i32(starts),
                   .N = N,
                   .of = of};
    threads_run(S * of.NKV, backward_item, &a);
}

typedef struct {
    act *out;
    const act *qkv;
    KvLayer kv;
    const int *rows, *positions;
    int N;
    AttentionShape of;
} Decode;

static size_t page_at(const Decode *d, int n, int block, int kvh) {
    int page = i32(d->kv.table)[(size_t)d->rows[n] * d->kv.max_pages + block];
    return ((size_t)page * d->of.NKV + kvh) * d->of.HS * B;
}

static void write_rows(void *ctx, int first, int last) {
    const Decode *d = ctx;
    size_t stride = (size_t)(d->of.NH + 2 * d->of.NKV) * d->of.HS;
    for (int n = first; n < last; n++) {
        int slot = d->positions[n] % B;
        for (int kvh = 0; kvh < d->of.NKV; kvh++) {
            size_t at = page_at(d, n, d->positions[n] / B, kvh);
            const act *k = d->qkv + n * stride + (size_t)(d->of.NH + kvh) * d->of.HS,
                      *v = k + (size_t)d->of.NKV * d->of.HS;
            act *keys = acts(d->kv.keys) + at, *values = acts(d->kv.values) + at;
            for (int i = 0; i < d->of.HS; i++) keys[i * B + slot] = k[i];
            memcpy(values + (size_t)slot * d->of.HS, v, (size_t)d->of.HS * sizeof(act));
        }
    }
}

static void kv_write(Backend *b, KvLayer kv, Buf qkv, Buf rows, Buf positions, int N,
                     AttentionShape of) {
    (void)b;
    Decode d = {NULL, acts(qkv), kv, i32(rows), i32(positions), N, of};
    CPU(parallel)(N, 64, write_rows, &d);
}

static void decode_heads(const Decode *d, int n, int kvh, int h0, int h1) {
    int HS = d->of.HS, T = d->positions[n] + 1;
    const act *q = d->qkv + (size_t)n * (d->of.NH + 2 * d->of.NKV) * HS;
    float o[HEADS * HS_MAX], m[HEADS], l[HEADS];
    float k_room[HS_MAX * B], v_room[B * HS_MAX], q_room[HS_MAX];
    memset(o, 0, (size_t)(h1 - h0) * HS * sizeof *o);
    for (int i = 0; i < h1 - h0; i++) m[i] = -INFINITY, l[i] = 0.0f;
    for (int j0 = first_block(T - 1, d->of.window); j0 < T; j0 += B) {
        size_t at = page_at(d, n, j0 / B, kvh);
        Seen seen = seen_by(T - 1, j0, d->of.window);
        const float *kT = as_f32(k_room, acts(d->kv.keys) + at, HS * B);
        RowsF32 v = {as_f32(v_room, acts(d->kv.values) + at, seen.end * HS), (size_t)HS};
        for (int h = h0; h < h1; h++)
            meet_block(o + (h - h0) * HS, m + h - h0, l + h - h0,
                       as_f32(q_room, q + (size_t)h * HS, HS), kT, v, seen, &d->of);
    }
    for (int h = h0; h < h1; h++)
        store_row(d->out + ((size_t)n * d->of.NH + h) * HS, o + (h - h0) * HS, 1.0f / l[h - h0],
                  HS);
}

static void decode_item(void *ctx, int item, int thread) {
    (void)thread;
    const Decode *d = ctx;
    int n = item / d->of.NKV, kvh = item % d->of.NKV, group = d->of.NH / d->of.NKV;
    for (int h = kvh * group; h < (kvh + 1) * group; h += HEADS)
        decode_heads(d, n, kvh, h, smaller(h + HEADS, (kvh + 1) * group));
}

static void attention_decode(Backend *b, Buf out, Buf qkv, KvLayer kv, Buf rows, Buf positions,
                             int N, AttentionShape of) {
    (void)b;
    Decode d = {acts(out), acts(qkv), kv, i32(rows), i32(positions), N, of};
    threads_run(N * of.NKV, decode_item, &d);
}

void CPU(attention_page)(Backend *b) {
    b->attention_forward = attention_forward;
    b->attention_backward = attention_backward;
    b->kv_write = kv_write;
    b->attention_decode = attention_decode;
}
