/* bench_cpu.c - products, training, decoding and one PPO-shaped forward on the CPU, each beside a
 * limit measured in the same run. Medians of alternating runs; on a shared machine compare ratios,
 * not times.
 *
 * bench_cpu [--only NAME] [--threads N] [--kernels K] [--dtype f32|bf16] [--big] [--no-peers]
 * [--json FILE]: --big adds the 135 M shape; FILE gets a line of JSON for every row. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/run/progress.h"

/* --- limits --- */

/* Multiply-adds on registers alone, on all threads: the f32 peak. Twelve named chains hide the
 * latency. */
enum { SPINS = 1500000, READ_PIECE = 8 << 20 };
#define SPIN(name, attributes, type, fma, set1)                                                    \
    attributes static float name(void) {                                                           \
        type b = set1(0.999f), c = set1(0.001f);                                                   \
        volatile float v = 0.1f; /* chains that look different: equal ones would be merged */      \
        type a0 = set1(v), a1 = set1(v), a2 = set1(v), a3 = set1(v), a4 = set1(v), a5 = set1(v);   \
        type a6 = set1(v), a7 = set1(v), a8 = set1(v), a9 = set1(v), aa = set1(v), ab = set1(v);   \
        for (int n = 0; n < SPINS; n++) {                                                          \
            a0 = fma(a0, b, c), a1 = fma(a1, b, c), a2 = fma(a2, b, c), a3 = fma(a3, b, c);        \
            a4 = fma(a4, b, c), a5 = fma(a5, b, c), a6 = fma(a6, b, c), a7 = fma(a7, b, c);        \
            a8 = fma(a8, b, c), a9 = fma(a9, b, c), aa = fma(aa, b, c), ab = fma(ab, b, c);        \
        }                                                                                          \
        type s = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + aa + ab;                        \
        return s[0];                                                                               \
    }
typedef float four __attribute__((vector_size(16)));
#define FOUR_FMA(a, b, c) ((a) * (b) + (c))
#define FOUR_SET(x)       ((four){x, x, x, x})
SPIN(spin4, , four, FOUR_FMA, FOUR_SET)
#if defined(__x86_64__)
#include <immintrin.h>
SPIN(spin8, __attribute__((target("avx2,fma"))), __m256, _mm256_fmadd_ps, _mm256_set1_ps)
SPIN(spin16, __attribute__((target("avx512f"))), __m512, _mm512_fmadd_ps, _mm512_set1_ps)
#else
#define spin8  spin4
#define spin16 spin4
#endif

static int lanes; /* of the kernels under test */

static void spin_item(void *ctx, int item, int thread) {
    (void)item, (void)thread;
    *(volatile float *)ctx = lanes == 16 ? spin16() : lanes == 8 ? spin8() : spin4();
}

static double peak_gflops(void) {
    double best = 0.0;
    float sink;
    for (int r = 0; r < RUNS; r++) {
        double t = clock_seconds();
        threads_run(threads_count(), spin_item, &sink);
        double rate =
            2.0 * 12 * lanes * (double)SPINS * threads_count() / (clock_seconds() - t) / 1e9;
        if (rate > best) best = rate;
    }
    return best;
}

/* --- products --- */

static double time_product(Backend *b, int kind, Buf x, Buf y, Mat w, Buf dw, int N) {
    double t[RUNS];
    double flops = 2.0 * N * w.O * w.K;
    int repeats = (int)(2e9 / flops) + 1;
    for (int r = 0; r < RUNS; r++) {
        double began = clock_seconds();
        for (int i = 0; i < repeats; i++) {
            if (kind == 0) b->matmul_forward(b, y, x, w, N);
            if (kind == 1) b->matmul_backward_input(b, x, y, w, N);
            if (kind == 2) b->matmul_backward_weight(b, dw, y, x, N, w.O, w.K);
        }
        t[r] = (clock_seconds() - began) / repeats;
    }
    return flops / median(t, RUNS) / 1e9;
}

static void bench_products(const Bench *bench) {
    Backend *b = bench->b;
    static const struct {
        const char *name;
        int O, K;
    } shapes[] = {{"tiny qkv", 256, 128},   {"tiny gate+up", 768, 128}, {"tiny down", 128, 384},
                  {"tiny head", 1024, 128}, {"135m qkv", 960, 576},     {"135m gate+up", 3072, 576},
                  {"135m down", 576, 1536}};
    static const int rows[] = {1, 8, 32, 256, 1024};
    static const char *const kinds[] = {"matmul", "matmul_dx", "matmul_dw"};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int O = shapes[s].O, K = shapes[s].K, M = 1024;
        size_t n = (size_t)O * (size_t)K;
        Mat w = {.O = O, .K = K};
        Buf x, y, dw;
        MUST(b->alloc(b, &w.w, DT_F32, n, "w"));
        MUST(b->alloc(b, &w.packed, b->dtype, b->packed_count(b, DT_F32, O, K), "w"));
        MUST(b->alloc(b, &x, b->dtype, (size_t)M * (size_t)K, "x"));
        MUST(b->alloc(b, &y, b->dtype, (size_t)M * (size_t)O, "y"));
        MUST(b->alloc(b, &dw, DT_F32, n, "dw"));
        bench_fill(b, w.w, n, 1);
        bench_fill(b, x, (size_t)M * (size_t)K, 2);
        b->pack(b, w);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            double peak = peak_gflops(), rate = time_product(b, 0, x, y, w, dw, rows[r]);
            bench_row(bench, kinds[0], shapes[s].name, rows[r], rate, "GFLOP/s", peak);
        }
        for (int kind = 1; kind < 3; kind++) {
            bench_fill(b, y, (size_t)M * (size_t)O, 3);
            double peak = peak_gflops(), rate = time_product(b, kind, x, y, w, dw, M);
            bench_row(bench, kinds[kind], shapes[s].name, M, rate, "GFLOP/s", peak);
        }
        Buf *all[] = {&w.w, &w.packed, &x, &y, &dw};
        for (int i = 0; i < 5; i++) b->release(b, all[i]);
    }
}

/* bytes per second that all threads read together from memory */
static void read_item(void *ctx, int item, int thread) {
    (void)thread;
    const four *x = (const four *)ctx + (size_t)item * READ_PIECE / sizeof(four);
    four a = {0}, b = a, c = a, d = a;
    for (size_t i = 0; i < READ_PIECE / sizeof(four); i += 4)
        a += x[i], b += x[i + 1], c += x[i + 2], d += x[i + 3];
    a += b + c + d;
    volatile float sink = a[0];
    (void)sink;
}

static double read_bandwidth(void) {
    enum { PIECES = 64 };
    void *memory = NULL;
    double best = 0.0;
    MUST(memory_alloc(&memory, (size_t)PIECES * READ_PIECE, "a bandwidth test"));
    for (int r = 0; r < RUNS; r++) {
        double t = clock_seconds();
        threads_run(PIECES, read_item, memory);
        double rate = (double)PIECES * READ_PIECE / (clock_seconds() - t);
        if (rate > best) best = rate;
    }
    memory_release(memory);
    return best;
}

int main(int argc, char **argv) {
    const char *kernels = "auto", *dtype = "f32", *json = NULL;
    Bench bench = {.only = "", .peers = 1};
    int threads = 0, big = 0;
    for (int i = 1; i < argc; i++) {
        const char **text = !strcmp(argv[i], "--only")      ? &bench.only
                            : !strcmp(argv[i], "--kernels") ? &kernels
                            : !strcmp(argv[i], "--dtype")   ? &dtype
                            : !strcmp(argv[i], "--json")    ? &json
                                                            : NULL;
        if (text && i + 1 < argc)
            *text = argv[++i];
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--big"))
            big = 1;
        else if (!strcmp(argv[i], "--no-peers"))
            bench.peers = 0;
    }
    MUST(threads_start(threads));
    MUST(backend_create(&bench.b, "cpu", kernels, dtype));
    lanes = !strncmp(bench.b->kernels, "avx512", 6) || !strcmp(bench.b->kernels, "amx") ? 16
            : !strcmp(bench.b->kernels, "avx2")                                         ? 8
                                                                                        : 4;
    if (json && !(bench.json = fopen(json, "a"))) perror(json);
    bench.flops = peak_gflops() * 1e9;
    bench.bandwidth = read_bandwidth();
    printf("kernels %s, %d threads; limits: f32 %.0f GFLOP/s, memory read %.1f GB/s\n",
           bench.b->kernels, threads_count(), bench.flops / 1e9, bench.bandwidth / 1e9);
    if (bench_wanted(&bench, "matmul")) bench_products(&bench);
    if (bench_wanted(&bench, "train")) {
        bench_train(&bench, "tiny", &bench_tiny, 32, 64);
        if (big) bench_train(&bench, "135m", &bench_135m, 4, 256);
    }
    if (bench_wanted(&bench, "dpo")) {
        bench_dpo(&bench, "tiny", &bench_tiny, 16, 64);
        if (big) bench_dpo(&bench, "135m", &bench_135m, 2, 256);
    }
    if (bench_wanted(&bench, "decode")) {
        static const int batches[] = {1, 8, 32};
        for (int i = 0; i < 3; i++) bench_decode(&bench, "tiny", &bench_tiny, batches[i], 32, 64);
        for (int i = 0; big && i < 3; i++)
            bench_decode(&bench, "135m", &bench_135m, batches[i], 32, 64);
    }
    if (bench_wanted(&bench, "batching")) {
        bench_batching(&bench, "tiny", &bench_tiny, 32, 256, 32, 256);
        if (big) bench_batching(&bench, "135m", &bench_135m, 16, 64, 32, 256);
    }
    if (bench_wanted(&bench, "sharing")) {
        bench_sharing(&bench, "tiny", &bench_tiny, 32, 256, 64);
        if (big) bench_sharing(&bench, "135m", &bench_135m, 16, 256, 64);
    }
    if (bench_wanted(&bench, "ppo")) {
        bench_ppo(&bench, "tiny", &bench_tiny, 64, 32, 48, 2048);
        if (big) bench_ppo(&bench, "135m", &bench_135m, 8, 64, 64, 2048);
    }
    backend_release(bench.b);
    if (bench.json) fclose(bench.json);
    threads_stop();
    return 0;
}
