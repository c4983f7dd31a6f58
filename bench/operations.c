/* operations.c - the page's operations on any backend, each beside the limit it is bound by. Times
 * are of many calls in a row between two waits; inputs are never zero. */
#include <math.h>
#include <stdio.h>

#include "bench/bench.h"
#include "core/run/progress.h"

enum { BUFS_MAX = 16 };
typedef struct {
    Buf buf[BUFS_MAX];
    int n;
} Bufs;

static Buf get(const Bench *bench, Bufs *all, Dtype t, size_t n, int filled) {
    Backend *b = bench->b;
    Buf buf;
    CHECK(all->n < BUFS_MAX);
    MUST(b->alloc(b, &buf, t, n, "a benchmark"));
    if (filled) bench_fill(b, buf, n, all->n + 1);
    return all->buf[all->n++] = buf;
}

static void release(const Bench *bench, Bufs *all) {
    for (int i = 0; i < all->n; i++) bench->b->release(bench->b, &all->buf[i]);
    all->n = 0;
}

/* seconds of one call: enough calls for a tenth of a second, RUNS times */
typedef void (*Call)(const Bench *bench, void *ctx);

static double time_of(const Bench *bench, Call call, void *ctx) {
    double t[RUNS];
    int repeats = 1;
    call(bench, ctx);
    MUST(bench->b->sync(bench->b));
    for (int r = -1; r < RUNS; r++) {
        double began = clock_seconds();
        for (int i = 0; i < repeats; i++) call(bench, ctx);
        MUST(bench->b->sync(bench->b));
        double took = (clock_seconds() - began) / repeats;
        if (r < 0)
            repeats = took < 0.1 ? (int)(0.1 / took) + 1 : 1;
        else
            t[r] = took;
    }
    return median(t, RUNS);
}

/* operations per second beside the peak, measured again */
static void rate_row(Bench *bench, const char *name, const char *shape, int batch, double rate) {
    bench_refresh(bench);
    bench_row(bench, name, shape, batch, rate / bench->unit, bench->rate_unit,
              bench->flops / bench->unit);
}

/* --- products and copies --- */

typedef struct {
    Mat w;
    Buf x, y, dw;
    int N, kind;
} Product;

static void run_product(const Bench *bench, void *ctx) {
    const Product *p = ctx;
    Backend *b = bench->b;
    if (p->kind == 0) b->matmul_forward(b, p->y, p->x, p->w, p->N);
    if (p->kind == 1) b->matmul_backward_input(b, p->x, p->y, p->w, p->N);
    if (p->kind == 2) b->matmul_backward_weight(b, p->dw, p->y, p->x, p->N, p->w.O, p->w.K);
}

double bench_product_rate(const Bench *bench, int kind, int N, int O, int K) {
    Bufs all = {0};
    Backend *b = bench->b;
    size_t n = (size_t)O * (size_t)K, packed = b->packed_count(b, DT_F32, O, K);
    Product p = {.w = {.O = O, .K = K}, .N = N, .kind = kind};
    p.w.w = get(bench, &all, DT_F32, n, 1);
    if (packed) p.w.packed = get(bench, &all, b->dtype, packed, 0);
    p.x = get(bench, &all, b->dtype, (size_t)N * (size_t)K, 1);
    p.y = get(bench, &all, b->dtype, (size_t)N * (size_t)O, 1);
    if (kind == 2) p.dw = get(bench, &all, DT_F32, n, 0);
    b->pack(b, p.w);
    double seconds = time_of(bench, run_product, &p);
    release(bench, &all);
    return 2.0 * N * O * K / seconds;
}

typedef struct {
    Buf a, b;
    size_t n;
} Copy;

static void run_copy(const Bench *bench, void *ctx) {
    const Copy *c = ctx;
    bench->b->copy(bench->b, c->b, c->a, c->n);
}

double bench_copy_rate(const Bench *bench, size_t n) {
    Bufs all = {0};
    Copy c = {get(bench, &all, DT_F32, n, 1), get(bench, &all, DT_F32, n, 0), n};
    double seconds = time_of(bench, run_copy, &c);
    release(bench, &all);
    return 2.0 * (double)n * sizeof(float) / seconds;
}

static void product_row(Bench *bench, int kind, const char *shape, int N, int O, int K) {
    static const char *const names[] = {"matmul", "matmul_dx", "matmul_dw"};
    rate_row(bench, names[kind], shape, N, bench_product_rate(bench, kind, N, O, K));
}

void bench_products(Bench *bench, const char *name, const ModelConfig *m, const int *rows, int n) {
    const struct {
        const char *name;
        int O, K;
    } products[] = {{"qkv", config_qkv_rows(m), m->C},
                    {"o", m->C, m->NH * m->HS},
                    {"gate+up", 2 * m->FF, m->C},
                    {"down", m->C, m->FF}};
    for (int p = 0; p < 4; p++) {
        char shape[32];
        snprintf(shape, sizeof shape, "%s %s", name, products[p].name);
        for (int r = 0; r < n; r++)
            product_row(bench, 0, shape, rows[r], products[p].O, products[p].K);
        for (int kind = 1; kind < 3; kind++)
            product_row(bench, kind, shape, rows[n - 1], products[p].O, products[p].K);
    }
}

/* --- attention --- */

typedef struct {
    Buf out, lse, qkv, starts, dout, dqkv;
    int S, N, NH, NKV, HS, backward;
} Attention;

static void run_attention(const Bench *bench, void *ctx) {
    const Attention *a = ctx;
    Backend *b = bench->b;
    AttentionShape shape = {a->NH, a->NKV, a->HS, 1.0f / sqrtf((float)a->HS), 0, 0.0f};
    if (a->backward)
        b->attention_backward(b, a->dqkv, a->dout, a->qkv, a->out, a->lse, a->starts, a->S, a->N,
                              shape);
    else
        b->attention_forward(b, a->out, a->lse, a->qkv, a->starts, a->S, a->N, shape);
}

void bench_attention(Bench *bench, int S, int T, int NH, int NKV, int HS) {
    Bufs all = {0};
    Backend *b = bench->b;
    int N = S * T, starts[65] = {0};
    size_t n = (size_t)N * (size_t)(NH * HS);
    char shape[32];
    CHECK(S <= 64);
    for (int s = 0; s <= S; s++) starts[s] = s * T;
    Attention a = {.S = S, .N = N, .NH = NH, .NKV = NKV, .HS = HS};
    a.qkv = get(bench, &all, b->dtype, (size_t)N * (size_t)((NH + 2 * NKV) * HS), 1);
    a.dqkv = get(bench, &all, b->dtype, (size_t)N * (size_t)((NH + 2 * NKV) * HS), 0);
    a.out = get(bench, &all, b->dtype, n, 0);
    a.dout = get(bench, &all, b->dtype, n, 1);
    a.lse = get(bench, &all, DT_F32, 2 * (size_t)N * (size_t)NH, 0);
    a.starts = get(bench, &all, DT_I32, (size_t)S + 1, 0);
    b->upload(b, a.starts, starts, (size_t)S + 1);
    double flops = 2.0 * T * (double)T * S * NH * HS; /* half of 4 T T: causal */
    snprintf(shape, sizeof shape, "HS %d, T %d", HS, T);
    for (a.backward = 0; a.backward < 2; a.backward++) {
        double rate = (a.backward ? 2.5 : 1.0) * flops / time_of(bench, run_attention, &a);
        rate_row(bench, a.backward ? "attention_bwd" : "attention", shape, N, rate);
    }
    release(bench, &all);
}

typedef struct {
    Buf out, qkv, keys, values, table, rows, positions;
    AttentionShape shape;
    int N, max_pages, layers;
    size_t layer; /* elements of keys, as many of values */
} Decoding;

static void run_decoding(const Bench *bench, void *ctx) {
    const Decoding *d = ctx;
    Backend *b = bench->b;
    for (int l = 0; l < d->layers; l++) {
        KvLayer kv = {buf_at(d->keys, (size_t)l * d->layer),
                      buf_at(d->values, (size_t)l * d->layer), d->table, d->max_pages};
        b->attention_decode(b, d->out, d->qkv, kv, d->rows, d->positions, d->N, d->shape);
    }
}

void bench_attention_decode(Bench *bench, const ModelConfig *m, int N, int T) {
    Bufs all = {0};
    Backend *b = bench->b;
    int pages = (T + KV_PAGE - 1) / KV_PAGE;
    Decoding d = {.shape = {m->NH, m->NKV, m->HS, 1.0f / sqrtf((float)m->HS), 0, 0.0f},
                  .N = N,
                  .max_pages = pages,
                  .layers = m->L,
                  .layer = (size_t)(N * pages * m->NKV) * (size_t)(m->HS * KV_PAGE)};
    d.keys = get(bench, &all, b->dtype, (size_t)m->L * d.layer, 1);
    d.values = get(bench, &all, b->dtype, (size_t)m->L * d.layer, 1);
    d.qkv = get(bench, &all, b->dtype, (size_t)N * (size_t)config_qkv_rows(m), 1);
    d.out = get(bench, &all, b->dtype, (size_t)N * (size_t)(m->NH * m->HS), 0);
    d.table = get(bench, &all, DT_I32, (size_t)(N * pages), 0);
    d.rows = get(bench, &all, DT_I32, (size_t)N, 0);
    d.positions = get(bench, &all, DT_I32, (size_t)N, 0);
    for (int n = 0; n < N; n++) {
        int last = T - 1; /* pages in the order in which sequences that grow together take them */
        b->upload(b, buf_at(d.rows, (size_t)n), &n, 1);
        b->upload(b, buf_at(d.positions, (size_t)n), &last, 1);
        for (int p = 0; p < pages; p++)
            b->upload(b, buf_at(d.table, (size_t)(n * pages + p)), &(int){p * N + n}, 1);
    }
    double bytes = 2.0 * (double)m->L * (double)d.layer * (double)dtype_bytes(b->dtype);
    char shape[32];
    snprintf(shape, sizeof shape, "HS %d, T %d", m->HS, T);
    double rate = bytes / time_of(bench, run_decoding, &d);
    bench_refresh(bench);
    bench_row(bench, "attention_decode", shape, N, rate / 1e9, "GB/s", bench->bandwidth / 1e9);
    release(bench, &all);
}

/* --- the head --- */

typedef struct {
    HeadOut out;
    HeadGrad grad;
    Buf h, dh, dw, targets, logits;
    Mat w;
    int R, chunk, backward;
} Head;

static void run_head(const Bench *bench, void *ctx) {
    const Head *h = ctx;
    Backend *b = bench->b;
    if (h->backward)
        b->head_backward(b, h->dh, h->dw, h->grad, h->out, h->h, h->w, h->targets, h->logits,
                         h->chunk, h->R, 1.0f, 0.0f);
    else
        b->head_forward(b, h->out, h->h, h->w, h->targets, h->logits, h->chunk, h->R, 1.0f, 0.0f);
}

void bench_head(Bench *bench, const char *name, const ModelConfig *m, int R) {
    Bufs all = {0};
    Backend *b = bench->b;
    size_t n = (size_t)m->V * (size_t)m->C, packed = b->packed_count(b, DT_F32, m->V, m->C);
    Head h = {.R = R, .w = {.O = m->V, .K = m->C}};
    h.chunk = network_head_chunk(b, m->V, R);
    h.w.w = get(bench, &all, DT_F32, n, 1);
    if (packed) h.w.packed = get(bench, &all, b->dtype, packed, 0);
    b->pack(b, h.w);
    h.h = get(bench, &all, b->dtype, (size_t)R * (size_t)m->C, 1);
    h.dh = get(bench, &all, b->dtype, (size_t)R * (size_t)m->C, 0);
    h.dw = get(bench, &all, DT_F32, n, 0);
    h.targets = get(bench, &all, DT_I32, (size_t)R, 0);
    h.logits = get(bench, &all, DT_F32, (size_t)h.chunk * (size_t)m->V, 0);
    h.out.logp = get(bench, &all, DT_F32, (size_t)R, 0);
    h.out.entropy = get(bench, &all, DT_F32, (size_t)R, 0);
    h.grad.logp = get(bench, &all, DT_F32, (size_t)R, 1);
    double flops = 2.0 * R * (double)m->V * m->C;
    for (h.backward = 0; h.backward < 2; h.backward++) {
        double rate = (h.backward ? 3.0 : 1.0) * flops / time_of(bench, run_head, &h);
        rate_row(bench, h.backward ? "head_bwd" : "head", name, R, rate);
    }
    release(bench, &all);
}

/* --- what is bound by memory --- */

typedef struct {
    Buf x, y, z, out, w, r, positions, table;
    Mat matrix; /* what AdamW trains */
    const ModelConfig *m;
    int N;
    int what;
} Stream;
enum { ADAMW, NORM, NORM_BACKWARD, ROPE, SWIGLU, SWIGLU_BACKWARD, N_STREAMS };

static void run_stream(const Bench *bench, void *ctx) {
    const Stream *t = ctx;
    Backend *b = bench->b;
    const ModelConfig *m = t->m;
    int HS = m->HS, heads = m->NH + m->NKV, stride = config_qkv_rows(m);
    AdamwParams p = {1e-6f, .9f, .999f, 1e-8f, .01f, 1.0f, .5f, .5f};
    FeedForward swiglu = {m->FF, ACT_SILU, 1};
    Norm norm = {.w = t->w, .eps = 1e-5f};
    switch (t->what) {
    case ADAMW: b->adamw_packed(b, t->matrix, t->x, t->y, t->z, p); break;
    case NORM: /* of the residual stream: z = x + y */
        b->norm_forward(b, t->out, t->r, t->z, t->x, t->y, norm, t->N, m->C);
        break;
    case NORM_BACKWARD: /* y as dout, z as dx */
        b->norm_backward(b, t->z, (Buf){0}, t->z, t->y, t->x, norm, t->r, t->N, m->C);
        break;
    case ROPE: b->rope(b, t->x, t->positions, t->table, t->N, stride, heads, HS, HS, 0); break;
    case SWIGLU: b->activation_forward(b, t->y, t->x, t->N, swiglu); break;
    case SWIGLU_BACKWARD: b->activation_backward(b, t->z, t->y, t->x, t->N, swiglu); break;
    }
}

void bench_streams(Bench *bench, const char *name, const ModelConfig *m, int tokens, size_t flat) {
    static const char *const names[] = {"adamw", "rmsnorm", "rmsnorm_bwd",
                                        "rope",  "swiglu",  "swiglu_bwd"};
    Backend *b = bench->b;
    double e = (double)dtype_bytes(b->dtype), N = tokens;
    int qkv = config_qkv_rows(m);
    const double rotated = N * (m->NH + m->NKV) * m->HS;
    int rows = (int)(flat / (size_t)m->C); /* of the matrix that AdamW trains */
    flat = (size_t)rows * (size_t)m->C;
    size_t packed = b->packed_count(b, DT_F32, rows, m->C);
    const double bytes[] = {28.0 * (double)flat + e * (double)packed,
                            4 * N * m->C * e,
                            4 * N * m->C * e,
                            2 * rotated * e,
                            3 * N * m->FF * e,
                            5 * N * m->FF * e};
    for (int i = 0; i < N_STREAMS; i++) {
        Bufs all = {0};
        Stream t = {.m = m, .N = tokens, .what = i};
        Dtype of = i == ADAMW ? DT_F32 : b->dtype;
        size_t n = i == ADAMW  ? flat
                   : i < ROPE  ? (size_t)tokens * (size_t)m->C
                   : i == ROPE ? (size_t)tokens * (size_t)qkv
                               : (size_t)tokens * 2 * (size_t)m->FF;
        t.x = get(bench, &all, of, n, 1);
        t.y = get(bench, &all, of, n, 1);
        t.z = get(bench, &all, of, n, 1);
        t.out = i == NORM ? get(bench, &all, of, n, 0) : t.z;
        t.w = get(bench, &all, DT_F32, i == ADAMW ? n : (size_t)m->C, 1);
        t.r = get(bench, &all, DT_F32, (size_t)tokens, 1);
        t.positions = get(bench, &all, DT_I32, (size_t)tokens, 0);
        t.table = get(bench, &all, DT_F32, (size_t)m->C, 1);
        t.matrix = (Mat){.w = t.w, .O = rows, .K = m->C};
        if (i == ADAMW && packed) t.matrix.packed = get(bench, &all, b->dtype, packed, 0);
        double rate = bytes[i] / time_of(bench, run_stream, &t);
        bench_refresh(bench);
        bench_row(bench, names[i], name, tokens, rate / 1e9, "GB/s", bench->bandwidth / 1e9);
        release(bench, &all);
    }
}
