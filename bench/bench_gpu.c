/* bench_gpu.c - the operations and whole models on one GPU, each beside the ceiling measured in the
 * same run: the largest bf16 product, and a copy in device memory.
 *
 * bench_gpu [--only NAME] [--device cuda:0] [--dtype bf16|f32] [--kernels auto|invariant] [--small]
 * [--json FILE]: invariant is what --batch_invariant computes with; --small
 * shrinks every shape, to try the program itself anywhere (--device cpu). Times are of many calls
 * in a row between two waits; inputs are never zero; medians of RUNS. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "core/backend/cuda/cuda_page.h"
#include "core/base/threads.h"
#include "core/run/progress.h"

typedef struct {
    int N, T, V, C, NH, NKV,
        FF;      /* packed tokens, their sequence length, and the 1 B shape's sizes */
    int R;       /* rows of the head */
    size_t flat; /* elements of a flat range */
    int largest; /* edge of the largest product */
} Sizes;
static const Sizes real = {16384, 2048, 128256, 2048, 32, 8, 8192, 4096, (size_t)1 << 28, 8192};
static const Sizes small = {256, 64, 512, 64, 4, 2, 96, 64, (size_t)1 << 16, 128};

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

/* --- products and the two ceilings --- */

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

static double product_rate(const Bench *bench, int kind, int N, int O, int K) {
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

static double copy_rate(const Bench *bench, size_t n) { /* bytes read and written per second */
    Bufs all = {0};
    Copy c = {get(bench, &all, DT_F32, n, 1), get(bench, &all, DT_F32, n, 0), n};
    double seconds = time_of(bench, run_copy, &c);
    release(bench, &all);
    return 2.0 * (double)n * sizeof(float) / seconds;
}

static void products(const Bench *bench, const Sizes *z) {
    const struct {
        const char *name;
        int O, K;
    } shapes[] = {{"1b qkv", (z->NH + 2 * z->NKV) * (z->C / z->NH), z->C},
                  {"1b o", z->C, z->C},
                  {"1b gate+up", 2 * z->FF, z->C},
                  {"1b down", z->C, z->FF}};
    static const char *const kinds[] = {"matmul", "matmul_dx", "matmul_dw"};
    for (int s = 0; s < 4; s++)
        for (int kind = 0; kind < 3; kind++)
            bench_row(bench, kinds[kind], shapes[s].name, z->N,
                      product_rate(bench, kind, z->N, shapes[s].O, shapes[s].K) / 1e12, "TFLOP/s",
                      bench->flops / 1e12);
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

static void attention(const Bench *bench, const Sizes *z, int HS) {
    Bufs all = {0};
    Backend *b = bench->b;
    int NH = z->C / HS, NKV = NH >= 4 ? NH / 4 : NH, S = z->N / z->T, starts[65] = {0};
    size_t n = (size_t)z->N * (size_t)(NH * HS);
    char shape[32];
    CHECK(S <= 64);
    for (int s = 0; s <= S; s++) starts[s] = s * z->T;
    Attention a = {.S = S, .N = z->N, .NH = NH, .NKV = NKV, .HS = HS};
    a.qkv = get(bench, &all, b->dtype, (size_t)z->N * (size_t)((NH + 2 * NKV) * HS), 1);
    a.dqkv = get(bench, &all, b->dtype, (size_t)z->N * (size_t)((NH + 2 * NKV) * HS), 0);
    a.out = get(bench, &all, b->dtype, n, 0);
    a.dout = get(bench, &all, b->dtype, n, 1);
    a.lse = get(bench, &all, DT_F32, 2 * (size_t)z->N * (size_t)NH, 0);
    a.starts = get(bench, &all, DT_I32, (size_t)S + 1, 0);
    b->upload(b, a.starts, starts, (size_t)S + 1);
    double flops = 2.0 * z->T * (double)z->T * S * NH * HS; /* half of 4 T T: causal */
    snprintf(shape, sizeof shape, "HS %d, T %d", HS, z->T);
    for (a.backward = 0; a.backward < 2; a.backward++) {
        double rate = (a.backward ? 2.5 : 1.0) * flops / time_of(bench, run_attention, &a);
        bench_row(bench, a.backward ? "attention_bwd" : "attention", shape, z->N, rate / 1e12,
                  "TFLOP/s", bench->flops / 1e12);
    }
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

static void head(const Bench *bench, const Sizes *z) {
    Bufs all = {0};
    Backend *b = bench->b;
    size_t n = (size_t)z->V * (size_t)z->C, packed = b->packed_count(b, DT_F32, z->V, z->C);
    Head h = {.R = z->R, .w = {.O = z->V, .K = z->C}};
    h.chunk = network_head_chunk(b, z->V, z->R);
    h.w.w = get(bench, &all, DT_F32, n, 1);
    if (packed) h.w.packed = get(bench, &all, b->dtype, packed, 0);
    b->pack(b, h.w);
    h.h = get(bench, &all, b->dtype, (size_t)z->R * (size_t)z->C, 1);
    h.dh = get(bench, &all, b->dtype, (size_t)z->R * (size_t)z->C, 0);
    h.dw = get(bench, &all, DT_F32, n, 0);
    h.targets = get(bench, &all, DT_I32, (size_t)z->R, 0);
    h.logits = get(bench, &all, DT_F32, (size_t)h.chunk * (size_t)z->V, 0);
    h.out.logp = get(bench, &all, DT_F32, (size_t)z->R, 0);
    h.out.entropy = get(bench, &all, DT_F32, (size_t)z->R, 0);
    h.grad.logp = get(bench, &all, DT_F32, (size_t)z->R, 1);
    double flops = 2.0 * z->R * (double)z->V * z->C;
    for (h.backward = 0; h.backward < 2; h.backward++) {
        double rate = (h.backward ? 3.0 : 1.0) * flops / time_of(bench, run_head, &h);
        bench_row(bench, h.backward ? "head_bwd" : "head", "V x C of 1b", z->R, rate / 1e12,
                  "TFLOP/s", bench->flops / 1e12);
    }
    release(bench, &all);
}

/* --- what is bound by memory --- */

typedef struct {
    Buf x, y, z, out, w, r, positions, table;
    const Sizes *s;
    int what;
} Stream;
enum { ADAMW, NORM, NORM_BACKWARD, ROPE, SWIGLU, SWIGLU_BACKWARD, N_STREAMS };

static void run_stream(const Bench *bench, void *ctx) {
    const Stream *t = ctx;
    Backend *b = bench->b;
    const Sizes *s = t->s;
    int HS = s->C / s->NH, heads = s->NH + s->NKV, stride = (s->NH + 2 * s->NKV) * HS;
    AdamwParams p = {1e-6f, .9f, .999f, 1e-8f, .01f, 1.0f, .5f, .5f};
    FeedForward swiglu = {s->FF, ACT_SILU, 1};
    Norm norm = {.w = t->w, .eps = 1e-5f};
    switch (t->what) {
    case ADAMW: b->adamw(b, t->w, t->x, t->y, (Buf){NULL, b->dtype}, t->z, s->flat, p); break;
    case NORM: /* of the residual stream: z = x + y */
        b->norm_forward(b, t->out, t->r, t->z, t->x, t->y, norm, s->N, s->C);
        break;
    case NORM_BACKWARD: /* y as dout, z as dx */
        b->norm_backward(b, t->z, (Buf){0}, t->z, t->y, t->x, norm, t->r, s->N, s->C);
        break;
    case ROPE: b->rope(b, t->x, t->positions, t->table, s->N, stride, heads, HS, HS, 0); break;
    case SWIGLU: b->activation_forward(b, t->y, t->x, s->N, swiglu); break;
    case SWIGLU_BACKWARD: b->activation_backward(b, t->z, t->y, t->x, s->N, swiglu); break;
    }
}

static void streams(const Bench *bench, const Sizes *z) {
    static const char *const names[] = {"adamw", "rmsnorm", "rmsnorm_bwd",
                                        "rope",  "swiglu",  "swiglu_bwd"};
    Backend *b = bench->b;
    double e = (double)dtype_bytes(b->dtype), N = z->N;
    int qkv = (z->NH + 2 * z->NKV) * (z->C / z->NH);
    const double rotated = N * (z->NH + z->NKV) * (z->C / z->NH);
    const double bytes[] = {28.0 * (double)z->flat, 4 * N * z->C * e,  4 * N * z->C * e,
                            2 * rotated * e,        3 * N * z->FF * e, 5 * N * z->FF * e};
    for (int i = 0; i < N_STREAMS; i++) {
        Bufs all = {0};
        Stream t = {.s = z, .what = i};
        Dtype of = i == ADAMW ? DT_F32 : b->dtype;
        size_t n = i == ADAMW  ? z->flat
                   : i < ROPE  ? (size_t)z->N * (size_t)z->C
                   : i == ROPE ? (size_t)z->N * (size_t)qkv
                               : (size_t)z->N * 2 * (size_t)z->FF;
        t.x = get(bench, &all, of, n, 1);
        t.y = get(bench, &all, of, n, 1);
        t.z = get(bench, &all, of, n, 1);
        t.out = i == NORM ? get(bench, &all, of, n, 0) : t.z;
        t.w = get(bench, &all, DT_F32, i == ADAMW ? n : (size_t)z->C, 1);
        t.r = get(bench, &all, DT_F32, (size_t)z->N, 1);
        t.positions = get(bench, &all, DT_I32, (size_t)z->N, 0);
        t.table = get(bench, &all, DT_F32, (size_t)z->C, 1);
        bench_row(bench, names[i], "1b", z->N, bytes[i] / time_of(bench, run_stream, &t) / 1e9,
                  "GB/s", bench->bandwidth / 1e9);
        release(bench, &all);
    }
}

static void whole_models(const Bench *bench, int is_small) {
    const ModelConfig *m = is_small ? &bench_tiny : &bench_1b;
    const char *name = is_small ? "tiny" : "1b";
    static const int batches[] = {1, 64, 256};
    if (bench_wanted(bench, "train")) {
        bench_train(bench, "135m", is_small ? m : &bench_135m, is_small ? 2 : 16,
                    64 << 4 * !is_small);
        bench_train(bench, name, m, is_small ? 2 : 8, is_small ? 64 : 2048);
    }
    if (bench_wanted(bench, "dpo"))
        bench_dpo(bench, name, m, is_small ? 1 : 4, is_small ? 64 : 2048);
    if (bench_wanted(bench, "batching"))
        bench_batching(bench, name, m, is_small ? 4 : 64, is_small ? 16 : 512, is_small ? 16 : 128,
                       is_small ? 32 : 1024);
    if (bench_wanted(bench, "sharing"))
        bench_sharing(bench, name, m, is_small ? 16 : 64, 256, is_small ? 16 : 128);
    if (bench_wanted(bench, "decode"))
        for (int i = 0; i < (is_small ? 1 : 3); i++)
            bench_decode(bench, name, m, batches[i], is_small ? 16 : 512, is_small ? 8 : 128);
    if (bench_wanted(bench, "ppo")) {
        bench_ppo(bench, name, m, is_small ? 4 : 256, is_small ? 16 : 256, is_small ? 16 : 256,
                  16384);
    }
}

int main(int argc, char **argv) {
    const char *device = "cuda:0", *dtype = "bf16", *kernels = "auto", *json = NULL;
    Bench bench = {.only = ""};
    int is_small = 0;
    for (int i = 1; i < argc; i++) {
        const char **text = !strcmp(argv[i], "--only")      ? &bench.only
                            : !strcmp(argv[i], "--device")  ? &device
                            : !strcmp(argv[i], "--dtype")   ? &dtype
                            : !strcmp(argv[i], "--kernels") ? &kernels
                            : !strcmp(argv[i], "--json")    ? &json
                                                            : NULL;
        if (text && i + 1 < argc)
            *text = argv[++i];
        else if (!strcmp(argv[i], "--small"))
            is_small = 1;
    }
    if (!strncmp(device, "cuda", 4) && cuda_device_count() == 0) {
        printf("bench_gpu: no usable GPU, skipped\n");
        return 0;
    }
    const Sizes *z = is_small ? &small : &real;
    MUST(threads_start(0));
    MUST(backend_create(&bench.b, device, kernels, dtype));
    if (json && !(bench.json = fopen(json, "a"))) perror(json);
    bench.flops = product_rate(&bench, 0, z->largest, z->largest, z->largest);
    bench.bandwidth = copy_rate(&bench, z->flat);
    printf("%s, %s, %s; ceilings: product %.1f TFLOP/s, copy %.0f GB/s\n", bench.b->device,
           bench.b->kernels, dtype, bench.flops / 1e12, bench.bandwidth / 1e9);
    if (bench_wanted(&bench, "matmul")) products(&bench, z);
    if (bench_wanted(&bench, "attention")) {
        attention(&bench, z, is_small ? 16 : 64);
        attention(&bench, z, is_small ? 32 : 128);
    }
    if (bench_wanted(&bench, "head")) head(&bench, z);
    if (bench_wanted(&bench, "stream")) streams(&bench, z);
    whole_models(&bench, is_small);
    backend_release(bench.b);
    if (bench.json) fclose(bench.json);
    threads_stop();
    return 0;
}
