/* bench_cpu.c - operations and whole models on the CPU, each beside a limit measured in the same
 * run. Medians of alternating runs; on a shared machine compare ratios, not times.
 *
 * bench_cpu [--only NAME] [--threads N] [--kernels K] [--dtype f32|bf16] [--batch N] [--big]
 * [--no-peers] [--json FILE]: N sequences decode; --big adds the 135 M shape; FILE gets a line of
 * JSON for every row. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "core/backend/cpu/step.h"
#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/run/progress.h"

/* --- limits --- */

/* Multiply-adds on registers alone, on all threads: the peak of the kernels under test. Twelve
 * named chains hide the latency. */
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

#include "core/backend/cpu/amx.h"

SPIN(spin8, __attribute__((target("avx2,fma"))), __m256, _mm256_fmadd_ps, _mm256_set1_ps)
SPIN(spin16, __attribute__((target("avx512f"))), __m512, _mm512_fmadd_ps, _mm512_set1_ps)

/* Pairs of bf16: more chains, since each takes longer. */
enum { DOT_CHAINS = 24 };
__attribute__((target("avx512f,avx512bf16"))) static float spin_dot(void) {
    volatile float v = 0.1f;
    __m512 acc[DOT_CHAINS], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int i = 0; i < DOT_CHAINS; i++) acc[i] = _mm512_set1_ps(v);
    for (int n = 0; n < SPINS / 2; n++)
        UNROLL for (int i = 0; i < DOT_CHAINS; i++) acc[i] =
            _mm512_dpbf16_ps(acc[i], (__m512bh)b, (__m512bh)c);
    for (int i = 1; i < DOT_CHAINS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    return acc[0][0];
}

/* Four sums of tiles; of numbers, for zeros are multiplied faster. */
static float spin_amx(void) {
    uint16_t numbers[16 * 32];
    for (int i = 0; i < 16 * 32; i++) numbers[i] = (uint16_t)(0x3f00 + i * 37 % 128);
    tiles_configure();
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_LOAD(4, numbers, 64);
    TILE_LOAD(5, numbers, 64);
    TILE_LOAD(6, numbers, 64);
    TILE_LOAD(7, numbers, 64);
    for (int n = 0; n < SPINS / 16; n++) {
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    return 0.0f;
}
#endif

typedef struct { /* the widest multiply-adds of some kernels */
    const char *kernels;
    float (*spin)(void);
    double flops; /* of a call */
    int lanes;    /* of their vectors of f32 */
} Instructions;
static const Instructions known[] = {
    {"portable", spin4, 2.0 * 12 * 4 * SPINS, 4},
#if defined(__x86_64__)
    {"avx2", spin8, 2.0 * 12 * 8 * SPINS, 8},
    {"avx512", spin16, 2.0 * 12 * 16 * SPINS, 16},
    {"avx512bf16", spin_dot, 4.0 * DOT_CHAINS * 16 * (SPINS / 2), 16},
    {"amx", spin_amx, 2.0 * 4 * 16 * 16 * 32 * (SPINS / 16), 16},
#endif
};
static const Instructions *used = &known[0];

static void spin_item(void *ctx, int item, int thread) {
    (void)item, (void)thread;
    *(volatile float *)ctx = used->spin();
}

static double peak_flops(void) {
    double best = 0.0;
    float sink;
    for (int r = 0; r < RUNS; r++) {
        double t = clock_seconds();
        threads_run(threads_count(), spin_item, &sink);
        double rate = used->flops * threads_count() / (clock_seconds() - t);
        if (rate > best) best = rate;
    }
    return best;
}

/* bytes per second that all threads read together from memory: by vectors as wide as the peak's, of
 * memory that was written, for what never was is one page of zeros */
static volatile float read_sink;
#define READ(name, attributes, type)                                                               \
    attributes static void name(const char *from) {                                                \
        const type *x = (const type *)(const void *)from;                                          \
        type a = {0}, b = a, c = a, d = a;                                                         \
        for (size_t i = 0; i < READ_PIECE / sizeof(type); i += 4)                                  \
            a += x[i], b += x[i + 1], c += x[i + 2], d += x[i + 3];                                \
        a += b + c + d;                                                                            \
        read_sink = a[0];                                                                          \
    }
READ(read4, , four)
#if defined(__x86_64__)
READ(read8, __attribute__((target("avx2"))), __m256)
READ(read16, __attribute__((target("avx512f"))), __m512)
#else
#define read8  read4
#define read16 read4
#endif

static void read_item(void *ctx, int item, int thread) {
    (void)thread;
    const char *from = (const char *)ctx + (size_t)item * READ_PIECE;
    used->lanes == 16 ? read16(from) : used->lanes == 8 ? read8(from) : read4(from);
}

static double read_bandwidth(void) {
    enum { PIECES = 64 };
    static void *memory; /* kept, for the next row asks again */
    double best = 0.0;
    if (!memory) {
        MUST(memory_alloc(&memory, (size_t)PIECES * READ_PIECE, "a bandwidth test"));
        memset(memory, 1, (size_t)PIECES * READ_PIECE);
    }
    for (int r = 0; r < RUNS; r++) {
        double t = clock_seconds();
        threads_run(PIECES, read_item, memory);
        double rate = (double)PIECES * READ_PIECE / (clock_seconds() - t);
        if (rate > best) best = rate;
    }
    return best;
}

/* --- what is measured --- */

static void operations(Bench *bench, const char *name, const ModelConfig *m, int S, int T) {
    static const int rows[] = {1, 8, 32, 256, 1024};
    if (bench_wanted(bench, "matmul")) bench_products(bench, name, m, rows, 5);
    if (bench_wanted(bench, "attention")) bench_attention(bench, S, T, m->NH, m->NKV, m->HS);
    if (bench_wanted(bench, "attention_decode")) bench_attention_decode(bench, m, 32, T);
    if (bench_wanted(bench, "head")) bench_head(bench, name, m, S * T / 2);
    if (bench_wanted(bench, "stream")) bench_streams(bench, name, m, S * T, (size_t)1 << 25);
}

/* batch: sequences that decode; 0: 1, 8 and 32 */
static void whole_models(Bench *bench, const char *name, const ModelConfig *m, int is_big,
                         int batch) {
    static const int batches[] = {1, 8, 32};
    if (bench_wanted(bench, "train"))
        bench_train(bench, name, m, is_big ? 4 : 32, is_big ? 256 : 64);
    if (bench_wanted(bench, "dpo")) bench_dpo(bench, name, m, is_big ? 2 : 16, is_big ? 256 : 64);
    if (bench_wanted(bench, "decode"))
        for (int i = 0; i < (batch ? 1 : 3); i++)
            bench_decode(bench, name, m, batch ? batch : batches[i], 32, 64);
    if (bench_wanted(bench, "batching"))
        bench_batching(bench, name, m, is_big ? 16 : 32, is_big ? 64 : 256, 32, 256);
    if (bench_wanted(bench, "sharing")) bench_sharing(bench, name, m, is_big ? 16 : 32, 256, 64);
    if (bench_wanted(bench, "ppo"))
        bench_ppo(bench, name, m, is_big ? 8 : 64, is_big ? 64 : 32, is_big ? 64 : 48, 2048);
}

int main(int argc, char **argv) {
    const char *kernels = "auto", *dtype = "f32", *json = NULL;
    Bench bench = {.only = "", .peers = 1, .unit = 1e9, .rate_unit = "GFLOP/s"};
    int threads = 0, batch = 0, big = 0;
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
        else if (!strcmp(argv[i], "--batch") && i + 1 < argc)
            batch = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--big"))
            big = 1;
        else if (!strcmp(argv[i], "--no-peers"))
            bench.peers = 0;
        else
            return bench_usage("bench_cpu", argv[i],
                               "[--only NAME] [--threads N] [--kernels K] [--dtype f32|bf16] "
                               "[--batch N] [--big] [--no-peers] [--json FILE]");
    }
    MUST(threads_start(threads));
    MUST(backend_create(&bench.b, "cpu", kernels, dtype));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].kernels, bench.b->kernels)) used = &known[i];
    if (json && !(bench.json = fopen(json, "a"))) perror(json);
    bench.peak = peak_flops;
    bench.reading = read_bandwidth;
    bench_refresh(&bench);
    printf("kernels %s, %d threads; limits: %.0f GFLOP/s, memory read %.1f GB/s\n",
           bench.b->kernels, threads_count(), bench.flops / 1e9, bench.bandwidth / 1e9);
    operations(&bench, "tiny", &bench_tiny, 32, 64);
    operations(&bench, "135m", &bench_135m, 4, 256);
    whole_models(&bench, "tiny", &bench_tiny, 0, batch);
    if (big) whole_models(&bench, "135m", &bench_135m, 1, batch);
    backend_release(bench.b);
    if (bench.json) fclose(bench.json);
    threads_stop();
    return 0;
}
