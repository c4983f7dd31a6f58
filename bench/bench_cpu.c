/* bench_cpu.c - products, training, decoding and one PPO-shaped forward on the CPU, each beside a
 * limit measured in the same run. Medians of alternating runs; on a shared machine compare ratios,
 * not times.
 *
 * bench_cpu [--only NAME] [--threads N] [--kernels K] [--big]: --big adds the 135 M shape. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/model/optim.h"
#include "core/model/packed.h"
#include "core/run/progress.h"
#include "policy/rollout.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) != OK) {                                                                        \
            fprintf(stderr, "bench: %s\n", status_message());                                      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { RUNS = 5 };

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

/* --- limits --- */

/* Multiply-adds on registers alone, on all threads: the f32 peak. Twelve named chains hide the
 * latency. */
enum { SPINS = 1500000 };
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

static void fill(Backend *b, Buf buf, size_t n, int seed) {
    float *host = malloc(n * sizeof *host);
    for (size_t i = 0; i < n; i++)
        host[i] =
            (float)((double)((i * 2654435761u + (unsigned)seed * 40503u) % 2001) / 1000.0 - 1.0);
    b->upload(b, buf, host, n);
    free(host);
}

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

static void bench_products(Backend *b) {
    static const struct {
        const char *name;
        int O, K;
    } shapes[] = {{"tiny qkv", 256, 128},   {"tiny gate+up", 768, 128}, {"tiny down", 128, 384},
                  {"tiny head", 1024, 128}, {"135m qkv", 960, 576},     {"135m gate+up", 3072, 576},
                  {"135m down", 576, 1536}};
    static const int rows[] = {1, 8, 32, 256, 1024};
    printf(
        "products, GFLOP/s (share of the f32 peak); forward, then gradients of input and weight at the largest M\n");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int O = shapes[s].O, K = shapes[s].K, M = 1024;
        Mat w = {.O = O, .K = K};
        Buf x, y, dw;
        MUST(b->alloc(b, &w.w, DT_F32, (size_t)O * (size_t)K, "w"));
        MUST(b->alloc(b, &w.packed, DT_F32, b->packed_count(b, DT_F32, O, K), "w"));
        MUST(b->alloc(b, &x, DT_F32, (size_t)M * (size_t)K, "x"));
        MUST(b->alloc(b, &y, DT_F32, (size_t)M * (size_t)O, "y"));
        MUST(b->alloc(b, &dw, DT_F32, (size_t)O * (size_t)K, "dw"));
        fill(b, w.w, (size_t)O * (size_t)K, 1);
        fill(b, x, (size_t)M * (size_t)K, 2);
        b->pack(b, w);
        printf("%-14s", shapes[s].name);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            double peak = peak_gflops(), rate = time_product(b, 0, x, y, w, dw, rows[r]);
            printf("  M=%-4d %5.0f (%3.0f%%)", rows[r], rate, 100 * rate / peak);
        }
        for (int kind = 1; kind < 3; kind++) {
            fill(b, y, (size_t)M * (size_t)O, 3);
            double peak = peak_gflops(), rate = time_product(b, kind, x, y, w, dw, M);
            printf("  %s %5.0f (%3.0f%%)", kind == 1 ? "dX" : "dW", rate, 100 * rate / peak);
        }
        printf("\n");
        Buf *all[] = {&w.w, &w.packed, &x, &y, &dw};
        for (int i = 0; i < 5; i++) b->release(b, all[i]);
    }
}

/* --- whole models --- */

static const ModelConfig tiny = {.V = 512,
                                 .C = 128,
                                 .L = 4,
                                 .NH = 4,
                                 .NKV = 2,
                                 .HS = 32,
                                 .FF = 384,
                                 .max_positions = 512,
                                 .rope_theta = 1e4f,
                                 .norm_eps = 1e-5f,
                                 .tied = 1,
                                 .lm_head = 1,
                                 .init_std = .02f};
static const ModelConfig m135 = {.V = 49152,
                                 .C = 576,
                                 .L = 30,
                                 .NH = 9,
                                 .NKV = 3,
                                 .HS = 64,
                                 .FF = 1536,
                                 .max_positions = 512,
                                 .rope_theta = 1e5f,
                                 .norm_eps = 1e-5f,
                                 .tied = 1,
                                 .lm_head = 1,
                                 .init_std = .02f};

/* multiply-adds of the products for one token; attention's grow with T */
static double product_flops(const ModelConfig *m, int T) {
    double layer =
        2.0 * m->C * (config_qkv_rows(m) + m->NH * m->HS + 3.0 * m->FF) + 2.0 * m->NH * m->HS * T;
    return m->L * layer + 2.0 * m->C * m->V;
}

static void bench_train(Backend *b, const char *name, const ModelConfig *cfg, int S, int T) {
    Workspace *ws;
    Network net;
    Optim optim;
    Packed batch;
    WorkspacePlan plan = {.tokens = S * T, .sequences = S, .train = 1, .max_length = T};
    OptimConfig oc = {.learning_rate = 1e-4f,
                      .beta1 = .9f,
                      .beta2 = .999f,
                      .eps = 1e-8f,
                      .grad_clip = 1,
                      .schedule = "constant"};
    MUST(workspace_create(&ws, b, &plan, &cfg, 1, NULL));
    MUST(network_create(&net, b, cfg, ws, 1));
    MUST(weights_init(&net.w, 1));
    MUST(optim_create(&optim, &net, &oc));
    MUST(packed_create(&batch, S, S * T));
    int *ids = malloc((size_t)T * sizeof *ids), N = S * T;
    uint8_t *wanted = calloc((size_t)T, 1);
    float *g = malloc((size_t)N * sizeof *g), *logp = calloc((size_t)N, sizeof *logp);
    for (int s = 0; s < S; s++) {
        for (int t = 0; t < T; t++)
            ids[t] = (int)(rng_uniform(1, RNG_TEST, (uint64_t)s, (uint64_t)t) * cfg->V),
            wanted[t] = t > 0;
        packed_add(&batch, ids, wanted, T);
    }
    for (int n = 0; n < N; n++) g[n] = -1.0f / (float)N;
    double t[RUNS + 1], norm;
    for (int r = 0; r <= RUNS; r++) { /* the first warms up */
        double began = clock_seconds();
        Batch mb;
        packed_micro(&batch, 0, 1, N, 1.0f, &mb);
        mb.S = S, mb.N = N;
        MUST(network_learn(&net, &mb, &(TokenGrads){.logp = g}, &(TokenOutputs){.logp = logp}));
        MUST(optim_step(&optim, 1e-4f, &norm));
        t[r] = clock_seconds() - began;
    }
    double rate = N / median(t + 1, RUNS),
           floor = peak_gflops() * 1e9 / (3.0 * product_flops(cfg, T));
    printf("train %-5s %d x %d: %7.0f tok/s, %3.0f%% of the f32 floor (%.0f)\n", name, S, T, rate,
           100 * rate / floor, floor);
    free(ids), free(wanted), free(g), free(logp);
    packed_release(&batch);
    optim_release(&optim);
    network_release(&net);
    workspace_release(ws);
}

static void bench_decode(Backend *b, const char *name, const ModelConfig *cfg, int M) {
    enum { PROMPT = 32, STEPS = 64 };
    Workspace *ws;
    Network net;
    KvCache kv;
    WorkspacePlan plan = {.tokens = M * PROMPT, .sequences = M, .max_length = PROMPT + STEPS + 1};
    MUST(workspace_create(&ws, b, &plan, &cfg, 1, NULL));
    MUST(network_create(&net, b, cfg, ws, 0));
    MUST(weights_init(&net.w, 1));
    MUST(kv_create(&kv, b, cfg, M, plan.max_length, 0));
    int *ids = calloc((size_t)(M * PROMPT), sizeof(int)),
        *starts = calloc((size_t)M + 1, sizeof(int)), *rows = calloc((size_t)M, sizeof(int));
    int *positions = calloc((size_t)M, sizeof(int)), *drawn = calloc((size_t)M, sizeof(int));
    double *u = calloc((size_t)M, sizeof(double));
    float *logp = calloc((size_t)M, sizeof(float)), *cut = calloc((size_t)M, sizeof(float));
    for (int i = 0; i < M; i++) {
        starts[i + 1] = (i + 1) * PROMPT, rows[i] = i;
        kv_reserve(&kv, i, plan.max_length);
        for (int t = 0; t < PROMPT; t++) ids[i * PROMPT + t] = (i * 31 + t * 7) % cfg->V;
    }
    kv_flush(&kv);
    Batch p = {.S = M, .N = M * PROMPT, .ids = ids, .starts = starts, .temperature = 1.0f};
    SampleParams sp = {.temperature = 1.0f, .top_p = 1.0f, .vocab = cfg->V};
    double t[RUNS];
    for (int r = 0; r < RUNS; r++) {
        MUST(network_prefill(&net, &kv, &p, rows));
        double began = clock_seconds();
        for (int s = 0; s < STEPS; s++) {
            for (int i = 0; i < M; i++)
                u[i] = rng_uniform(1, RNG_SAMPLE, (uint64_t)i, (uint64_t)s),
                positions[i] = PROMPT + s;
            MUST(network_sample(&net, u, sp, M, drawn, logp, cut));
            MUST(network_decode(&net, &kv, drawn, rows, positions, M));
        }
        t[r] = clock_seconds() - began;
    }
    printf("decode %-5s batch %-3d %8.0f tok/s\n", name, M, M * STEPS / median(t, RUNS));
    free(ids), free(starts), free(rows), free(positions), free(drawn), free(u), free(logp),
        free(cut);
    kv_release(&kv);
    network_release(&net);
    workspace_release(ws);
}

/* One PPO step's work with four models, phase by phase: S answers of R tokens to prompts of P, four
 * passes. */
static void bench_ppo(Backend *b, const char *name, const ModelConfig *cfg, int S, int P, int R) {
    enum { PASSES = 4 };
    ModelConfig scorer = *cfg;
    scorer.lm_head = 0, scorer.scores = 1;
    const ModelConfig *configs[] = {cfg, &scorer};
    int T = P + R, N = S * T, micro = N < 2048 ? N : 2048;
    Workspace *ws;
    Network actor, critic, reference, reward;
    Optim actor_optim, critic_optim;
    RolloutEngine *engine;
    Rollout rollout;
    WorkspacePlan plan = {
        .tokens = micro > S ? micro : S, .sequences = micro, .train = 1, .max_length = T};
    OptimConfig oc = {.learning_rate = 1e-5f,
                      .beta1 = .9f,
                      .beta2 = .999f,
                      .eps = 1e-8f,
                      .grad_clip = 1,
                      .schedule = "constant"};
    MUST(workspace_create(&ws, b, &plan, configs, 2, NULL));
    MUST(network_create(&actor, b, cfg, ws, 1));
    MUST(network_create(&critic, b, &scorer, ws, 1));
    MUST(network_create(&reference, b, cfg, ws, 0));
    MUST(network_create(&reward, b, &scorer, ws, 0));
    Network *all[] = {&actor, &critic, &reference, &reward};
    for (int i = 0; i < 4; i++) MUST(weights_init(&all[i]->w, 1));
    MUST(optim_create(&actor_optim, &actor, &oc));
    MUST(optim_create(&critic_optim, &critic, &oc));
    MUST(rollout_engine_create(&engine, b, cfg, NULL, S, T, S));
    MUST(rollout_create(&rollout, S, N));
    int *prompt = calloc((size_t)P, sizeof *prompt);
    for (int t = 0; t < P; t++) prompt[t] = t * 7 % cfg->V;
    RolloutRequest *requests = calloc((size_t)S, sizeof *requests);
    for (int s = 0; s < S; s++) requests[s] = (RolloutRequest){prompt, P, (uint64_t)s};
    float *numbers = calloc(5 * (size_t)N, sizeof *numbers), *g = numbers + 4 * (size_t)N;
    for (int n = 0; n < N; n++) g[n] = 1e-4f;
    SamplingConfig sampling = {
        .max_new_tokens = R, .temperature = 0.7f, .top_p = 1.0f, .ignore_eos = 1};
    double t[4], best[4] = {1e30, 1e30, 1e30, 1e30}, norm;
    for (int run = 0; run < 3; run++) {
        t[0] = clock_seconds();
        MUST(rollout_generate(&rollout, engine, &actor, requests, S, &sampling, 1, NULL, NULL));
        t[1] = clock_seconds();
        MUST(packed_forward(&rollout.seq, &critic, micro, 1.0f, &(TokenOutputs){.score = numbers}));
        MUST(packed_forward(&rollout.seq, &reward, micro, 1.0f,
                            &(TokenOutputs){.score = numbers + N}));
        MUST(packed_forward(&rollout.seq, &reference, micro, 0.7f,
                            &(TokenOutputs){.logp = numbers + 2 * (size_t)N}));
        t[2] = clock_seconds();
        for (int pass = 0; pass < PASSES; pass++) {
            Batch mb;
            for (int first = 0, last; first < S; first = last) {
                last = packed_micro(&rollout.seq, first, 1, micro, 0.7f, &mb);
                MUST(network_forward(&actor, &mb, &(TokenOutputs){.logp = numbers}));
                MUST(network_backward(&actor, &(TokenGrads){.logp = g}));
                MUST(network_forward(&critic, &mb, &(TokenOutputs){.score = numbers}));
                MUST(network_backward(&critic, &(TokenGrads){.score = g}));
            }
            MUST(optim_step(&actor_optim, 1e-5f, &norm));
            MUST(optim_step(&critic_optim, 1e-5f, &norm));
        }
        t[3] = clock_seconds();
        for (int i = 0; i < 3; i++) best[i] = fmin(best[i], t[i + 1] - t[i]);
    }
    printf(
        "ppo step %-5s %d x (%d+%d), %d passes: rollout %.2f s, scoring %.2f s, improving %.2f s, together %.2f s\n",
        name, S, P, R, PASSES, best[0], best[1], best[2], best[0] + best[1] + best[2]);
    free(prompt), free(requests), free(numbers);
    rollout_release(&rollout);
    rollout_engine_release(engine);
    optim_release(&actor_optim);
    optim_release(&critic_optim);
    for (int i = 0; i < 4; i++) network_release(all[i]);
    workspace_release(ws);
}

int main(int argc, char **argv) {
    const char *only = "", *kernels = "auto";
    int threads = 0, big = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--only") && i + 1 < argc)
            only = argv[++i];
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--kernels") && i + 1 < argc)
            kernels = argv[++i];
        else if (!strcmp(argv[i], "--big"))
            big = 1;
    }
    Backend *b;
    MUST(threads_start(threads));
    MUST(backend_create(&b, "cpu", kernels, "f32"));
    lanes = !strcmp(b->kernels, "avx512") ? 16 : !strcmp(b->kernels, "avx2") ? 8 : 4;
    printf("kernels %s, %d threads, f32 peak %.0f GFLOP/s\n", b->kernels, threads_count(),
           peak_gflops());
    if (!only[0] || !strcmp(only, "matmul")) bench_products(b);
    if (!only[0] || !strcmp(only, "train")) {
        bench_train(b, "tiny", &tiny, 32, 64);
        if (big) bench_train(b, "135m", &m135, 4, 256);
    }
    if (!only[0] || !strcmp(only, "decode")) {
        static const int batches[] = {1, 8, 32};
        for (int i = 0; i < 3; i++) bench_decode(b, "tiny", &tiny, batches[i]);
        for (int i = 0; big && i < 3; i++) bench_decode(b, "135m", &m135, batches[i]);
    }
    if (!only[0] || !strcmp(only, "ppo")) {
        bench_ppo(b, "tiny", &tiny, 64, 32, 48);
        if (big) bench_ppo(b, "135m", &m135, 8, 64, 64);
    }
    backend_release(b);
    threads_stop();
    return 0;
}
