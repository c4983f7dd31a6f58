/* cpu_attention.c - causal grouped-query attention with the online softmax (Milakov & Gimelshein
 * 2018; Dao et al. 2022): over packed sequences for training, over pages for decoding.
 *
 * Both walk the keys in blocks of KV_PAGE aligned to absolute positions and meet a query with a
 * block in the same function, so a decoded row has the bits of the training row. Scores of N x N
 * never exist. */
#include <string.h>

#include "core/backend/cpu/act.h"
#include "core/backend/cpu/small_product.h"
#include "core/base/threads.h"

enum { B = KV_PAGE, BV = B / VW, HS_MAX = 256 };
enum {
    HEADS = 8,
    ROWS = 128, /* query heads, and rows of them, that meet a block of keys in turn: their sums stay
                 * in f32 until the last block */
    GROUP = 16  /* rows that meet a block together, so that what they share is loaded once */
};
enum { IN_F32 = sizeof(act) == sizeof(float) };

static SmallRows near_rows(const float *at, size_t stride) {
    return (SmallRows){.at = at, .stride = stride};
}

/* For rows that meet more than one tile: widened once. */
static SmallRows rows_f32(float *room, const act *p, size_t stride, int rows, int n) {
    if (IN_F32) return near_rows((const float *)(const void *)p, stride);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i += VW)
            vstore_upto(room + r * n + i, aload_upto(p + r * stride + i, n - i), n - i);
    return near_rows(room, (size_t)n);
}

static void store_row(act *to, const float *from, float scale, int n) {
    for (int i = 0; i < n; i += VW)
        astore_upto(to + i, vload_upto(from + i, n - i, 0.0f) * vset1(scale), n - i);
}

/* s[r][j] = x_r . y_j for a block's j below `end`, any number behind; x in f32, yT is [HS][B] */
static void dots(float s[][B], SmallRows x, SmallRows yT, int rows, int HS, int end) {
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < B; j += VW) vstore(s[r] + j, (vf){0});
    small_product(s[0], B, (Factors){x.at, x.stride, 1}, yT, rows, HS, (end + VW - 1) / VW * VW);
}

/* a bent score (Gemma Team 2024): softcap times the tanh of its share of it */
static inline vf bent(vf s, vf *tanhs, float softcap) {
    *tanhs = vtanh(s * vset1(1.0f / softcap));
    return *tanhs * vset1(softcap);
}

typedef struct { /* keys of a block that a query sees: [first, end), none where first >= end */
    int first, end;
} Seen;

/* of the block from j0 on, by the query at position t >= j0 */
static Seen seen_by(int t, int j0, int window) {
    int past = window ? t - j0 - window + 1 : 0;
    return (Seen){past > 0 ? smaller(past, B) : 0, smaller(t - j0 + 1, B)};
}

/* where the first block begins that the query at t sees something of */
static int first_block(int t, int window) {
    return window && t >= window ? (t - window + 1) / B * B : 0;
}

/* keys of the block that any of them sees */
static Seen seen_by_any(const Seen *seen, int rows) {
    Seen any = {B, 0};
    for (int r = 0; r < rows; r++) {
        if (seen[r].first < any.first) any.first = seen[r].first;
        if (seen[r].end > any.end) any.end = seen[r].end;
    }
    return any;
}

static void hide(float x[B], Seen seen, float with) {
    for (int j = 0; j < seen.first; j++) x[j] = with;
    for (int j = seen.end; j < B; j++) x[j] = with;
}

/* One row's products q . k become exp(s - m), the maximum m and the sum l of what came before taken
 * along; returns m's fall, whose exponential the row's output and sum shrink by. */
static float weigh(float p[B], float *m, Seen seen, const AttentionShape *a) {
    vf ignored, top = vset1(-INFINITY);
    for (int i = 0; i < B; i += VW) {
        vf s = vload(p + i) * vset1(a->scale);
        vstore(p + i, a->softcap > 0.0f ? bent(s, &ignored, a->softcap) : s);
    }
    hide(p, seen, -INFINITY);
    for (int i = 0; i < B; i += VW) top = vmax(top, vload(p + i));
    float before = *m, now = vhmax(top);
    if (before > now) now = before;
    *m = now;
    if (now == -INFINITY) now = before = 0.0f; /* nothing seen yet */
    for (int i = 0; i < B; i += VW) vstore(p + i, vexp(vload(p + i) - vset1(now)));
    return before - now;
}

/* Rows of queries meet the keys of one block: o, m, l are their running outputs, maxima and sums. A
 * key that a row does not see has weight 0, which changes no bit of its sums. */
static void meet_block(float *o, float *m, float *l, SmallRows q, SmallRows kT, SmallRows v,
                       const Seen *seen, int rows, const AttentionShape *a) {
    float p[GROUP][B], keep[GROUP];
    Seen any = seen_by_any(seen, rows);
    dots(p, q, kT, rows, a->HS, any.end);
    for (int r = 0; r < rows; r++) keep[r] = weigh(p[r], m + r, seen[r], a);
    for (int r = 0; r < GROUP; r += VW) {
        int n = smaller(rows - r, VW);
        if (n > 0) vstore_upto(keep + r, vexp(vload_upto(keep + r, n, 0.0f)), n);
    }
    for (int r = 0; r < rows; r++, o += a->HS) {
        vf sum = {0};
        for (int i = 0; i < B; i += VW) sum = sum + vload(p[r] + i);
        l[r] = sfma(l[r], keep[r], vsum(sum));
        for (int d = 0; d < a->HS; d += VW)
            vstore_upto(o + d, vload_upto(o + d, a->HS - d, 0.0f) * vset1(keep[r]), a->HS - d);
    }
    small_product(o - (size_t)rows * a->HS, (size_t)a->HS, (Factors){p[0] + any.first, B, 1},
                  small_from(v, any.first * v.stride), rows, any.end - any.first, a->HS);
}

/* x[count][HS] with a row stride -> xT[HS][B]; keys that are not there are 0 */
static void transpose_block(float *xT, const act *x, size_t stride, int count, int HS) {
    vf r[VW];
    for (int j0 = 0; j0 < B; j0 += VW) {
        for (int d = 0; d < HS; d += VW) {
            for (int j = 0; j < VW; j++)
                r[j] = j0 + j < count ? aload_upto(x + (j0 + j) * stride + d, HS - d) : (vf){0};
            vtranspose(r);
            for (int i = 0; i < VW && d + i < HS; i++) vstore(xT + (d + i) * B + j0, r[i]);
        }
    }
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
    float o[ROWS * HS_MAX], m[ROWS], l[ROWS], kT[HS_MAX * B], room[B * HS_MAX];
    float q_room[GROUP * HS_MAX];
    memset(o, 0, (size_t)rows * HS * sizeof *o);
    for (int r = 0; r < rows; r++) m[r] = -INFINITY, l[r] = 0.0f;
    for (int j0 = first_block(t0, a->of.window); j0 < t1; j0 += B) {
        int keys = smaller(i->T - j0, B);
        transpose_block(kT, i->k + j0 * i->stride, i->stride, keys, HS);
        SmallRows v = rows_f32(room, i->v + j0 * i->stride, i->stride, keys, HS);
        for (int h = h0; h < h1; h++) {
            for (int t = t0 > j0 ? t0 : j0, n; t < t1; t += n) {
                int r = (h - h0) * queries + t - t0;
                Seen seen[GROUP];
                n = smaller(t1 - t, GROUP);
                for (int u = 0; u < n; u++) seen[u] = seen_by(t + u, j0, a->of.window);
                SmallRows q =
                    rows_f32(q_room, i->qkv + t * i->stride + (size_t)h * HS, i->stride, n, HS);
                meet_block(o + r * HS, m + r, l + r, q, near_rows(kT, B), v, seen, n, &a->of);
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
        int h1 = smaller(h + HEADS, i.h1), queries = ROWS / (h1 - h) / GROUP * GROUP;
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

/* What n queries from t on give a block of keys and values, and take of it. */
typedef struct {
    SmallRows q, dout;
    float p[GROUP][B], ds[GROUP][B];
    float q_room[GROUP * HS_MAX], dout_room[GROUP * HS_MAX];
} Meeting;

/* p = exp(s - lse) and ds = p (dp - D) scale with dp_j = do . v_j and D = do . o; 0 where a key is
 * not seen. A bent score's slope is 1 - tanh^2. */
static void meet_again(Meeting *x, const Attention *a, const Item *i, int h, int t, int n, int j0,
                       const float *kT, const float *vT) {
    int HS = a->of.HS;
    size_t at = (size_t)(i->start + t) * i->out_stride + (size_t)h * HS;
    x->q = rows_f32(x->q_room, i->qkv + t * i->stride + (size_t)h * HS, i->stride, n, HS);
    x->dout = rows_f32(x->dout_room, a->dout + at, i->out_stride, n, HS);
    int end = seen_by(t + n - 1, j0, 0).end; /* what the last one sees */
    dots(x->p, x->q, near_rows(kT, B), n, HS, end);
    dots(x->ds, x->dout, near_rows(vT, B), n, HS, end);
    for (int u = 0; u < n; u++, at += i->out_stride) {
        vf lse = vset1(a->saved_lse[(size_t)(i->start + t + u) * a->of.NH + h]);
        vf D = vset1(dot_row(a->dout + at, a->saved_out + at, HS));
        Seen seen = seen_by(t + u, j0, a->of.window);
        float *p = x->p[u], *ds = x->ds[u];
        for (int j = 0; j < B; j += VW) {
            vf tanhs, s = vload(p + j) * vset1(a->of.scale);
            if (a->of.softcap > 0.0f) s = bent(s, &tanhs, a->of.softcap);
            vf e = vexp(s - lse), d = e * (vload(ds + j) - D) * vset1(a->of.scale);
            if (a->of.softcap > 0.0f) d = d * (vset1(1.0f) - tanhs * tanhs);
            vstore(p + j, e);
            vstore(ds + j, d);
        }
        hide(p, seen, 0.0f);
        hide(ds, seen, 0.0f);
    }
}

/* dq[n][HS] += ds k */
static void add_keys(float *dq, size_t stride, const Meeting *x, SmallRows k, int n, int keys,
                     int HS) {
    small_product(dq, stride, (Factors){x->ds[0], B, 1}, k, n, keys, HS);
}

/* dy[keys][HS] += w' x: dk from ds and q, dv from p and dout */
static void add_queries(float *dy, float w[][B], SmallRows x, int n, int keys, int HS) {
    small_product(dy, (size_t)HS, (Factors){w[0], 1, B}, x, keys, n, HS);
}

/* Where the gradients of an item's queries rest in f32 between blocks of keys: in dqkv where that
 * is f32, else in the thread's scratch. at is NULL where a sequence is too long for it: then they
 * follow in a walk of their own. */
typedef struct {
    float *at;
    size_t row, head; /* strides */
} Resting;

static Resting resting_place(const Attention *a, const Item *i) {
    size_t HS = (size_t)a->of.HS, T = (size_t)i->T, heads = (size_t)(i->h1 - i->h0);
    float *dq = (float *)(void *)(a->dqkv + i->start * i->stride);
    if (IN_F32) return (Resting){dq + i->h0 * HS, i->stride, HS};
    int fits = heads * T * HS * sizeof(float) <= CPU_SCRATCH;
    return (Resting){fits ? cpu_scratch() : NULL, HS, T * HS};
}

static inline float *resting_row(Resting dq, const Item *i, int h, int t) {
    return dq.at + (size_t)(h - i->h0) * dq.head + (size_t)t * dq.row;
}

/* gradients of one block of keys and values, and what they give those of queries */
static void backward_block(const Attention *a, const Item *i, int j0, Resting dq) {
    int HS = a->of.HS, keys = smaller(i->T - j0, B);
    int end = a->of.window ? smaller(i->T, j0 + B - 1 + a->of.window) : i->T;
    size_t block = j0 * i->stride;
    float kT[HS_MAX * B], vT[HS_MAX * B], dk[B * HS_MAX], dv[B * HS_MAX], k_room[B * HS_MAX];
    Meeting x;
    memset(dk, 0, (size_t)keys * HS * sizeof *dk);
    memset(dv, 0, (size_t)keys * HS * sizeof *dv);
    transpose_block(kT, i->k + block, i->stride, keys, HS);
    transpose_block(vT, i->v + block, i->stride, keys, HS);
    SmallRows k = rows_f32(k_room, i->k + block, i->stride, keys, HS);
    for (int h = i->h0; h < i->h1; h++) {
        for (int t = j0, n; t < end; t += n) {
            n = smaller(end - t, GROUP);
            meet_again(&x, a, i, h, t, n, j0, kT, vT);
            if (dq.at) add_keys(resting_row(dq, i, h, t), dq.row, &x, k, n, keys, HS);
            add_queries(dk, x.ds, x.q, n, keys, HS);
            add_queries(dv, x.p, x.dout, n, keys, HS);
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
    float dq[ROWS * HS_MAX], kT[HS_MAX * B], vT[HS_MAX * B], k_room[B * HS_MAX];
    Meeting x;
    memset(dq, 0, (size_t)rows * HS * sizeof *dq);
    for (int j0 = first_block(t0, a->of.window); j0 < t1; j0 += B) {
        int keys = smaller(i->T - j0, B);
        size_t block = j0 * i->stride;
        transpose_block(kT, i->k + block, i->stride, keys, HS);
        transpose_block(vT, i->v + block, i->stride, keys, HS);
        SmallRows k = rows_f32(k_room, i->k + block, i->stride, keys, HS);
        for (int h = h0; h < h1; h++) {
            for (int t = t0 > j0 ? t0 : j0, n; t < t1; t += n) {
                n = smaller(t1 - t, GROUP);
                meet_again(&x, a, i, h, t, n, j0, kT, vT);
                add_keys(dq + ((h - h0) * queries + t - t0) * HS, (size_t)HS, &x, k, n, keys, HS);
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
    size_t HS = (size_t)a->of.HS;
    Resting dq = resting_place(a, &i);
    for (int h = i.h0; dq.at && h < i.h1; h++)
        for (int t = 0; t < i.T; t++) memset(resting_row(dq, &i, h, t), 0, HS * sizeof(float));
    for (int j = 0; j < i.T; j += B) backward_block(a, &i, j, dq);
    for (int h = i.h0; !IN_F32 && dq.at && h < i.h1; h++)
        for (int t = 0; t < i.T; t++)
            store_row(a->dqkv + (size_t)(i.start + t) * i.stride + (size_t)h * HS,
                      resting_row(dq, &i, h, t), 1.0f, (int)HS);
    for (int h = i.h0; !dq.at && h < i.h1; h += HEADS) {
        int h1 = smaller(h + HEADS, i.h1), queries = ROWS / (h1 - h) / GROUP * GROUP;
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

/* Where item `next` begins to read, or `here` behind the last one. */
static size_t first_page(const Decode *d, int next, size_t here) {
    int n = next / d->of.NKV;
    if (n >= d->N) return here;
    return page_at(d, n, first_block(d->positions[n], d->of.window) / B, next % d->of.NKV);
}

/* next: where this thread reads when it is done here, likely */
static void decode_heads(const Decode *d, int n, int kvh, int h0, int h1, size_t next) {
    int HS = d->of.HS, T = d->positions[n] + 1;
    int rows = h1 - h0;
    const act *keys = acts(d->kv.keys), *values = acts(d->kv.values);
    float o[HEADS * HS_MAX], m[HEADS], l[HEADS];
    float q_room[HEADS * HS_MAX];
    SmallRows q =
        rows_f32(q_room, d->qkv + (size_t)n * (d->of.NH + 2 * d->of.NKV) * HS + (size_t)h0 * HS,
                 (size_t)HS, rows, HS);
    memset(o, 0, (size_t)rows * HS * sizeof *o);
    for (int i = 0; i < rows; i++) m[i] = -INFINITY, l[i] = 0.0f;
    for (int j0 = first_block(T - 1, d->of.window); j0 < T; j0 += B) {
        size_t at = page_at(d, n, j0 / B, kvh),
               soon = j0 + B < T ? page_at(d, n, j0 / B + 1, kvh) : next;
        Seen seen[HEADS];
        for (int i = 0; i < rows; i++) seen[i] = seen_by(T - 1, j0, d->of.window);
        SmallRows kT = {keys + at, B, 1, keys + soon};
        SmallRows v = {values + at, (size_t)HS, 1, values + soon};
        meet_block(o, m, l, q, kT, v, seen, rows, &d->of);
    }
    for (int h = h0; h < h1; h++)
        store_row(d->out + ((size_t)n * d->of.NH + h) * HS, o + (h - h0) * HS, 1.0f / l[h - h0],
                  HS);
}

static void decode_item(void *ctx, int item, int thread) {
    (void)thread;
    const Decode *d = ctx;
    int n = item / d->of.NKV, kvh = item % d->of.NKV, group = d->of.NH / d->of.NKV;
    int end = (kvh + 1) * group;
    size_t here = first_page(d, item, 0), next = first_page(d, item + 1, here);
    for (int h = kvh * group; h < end; h += HEADS)
        decode_heads(d, n, kvh, h, smaller(h + HEADS, end), h + HEADS < end ? here : next);
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
