/* models.c - whole models on any backend: training, decoding, one PPO step phase by phase. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "core/base/rng.h"
#include "core/model/optim.h"
#include "core/model/packed.h"
#include "core/model/plan.h"
#include "core/run/progress.h"
#include "policy/rollout.h"

const ModelConfig bench_tiny = {.V = 512,
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
const ModelConfig bench_135m = {.V = 49152,
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

const ModelConfig bench_1b = {.V = 128256,
                              .C = 2048,
                              .L = 16,
                              .NH = 32,
                              .NKV = 8,
                              .HS = 64,
                              .FF = 8192,
                              .max_positions = 4096,
                              .rope_theta = 5e5f,
                              .norm_eps = 1e-5f,
                              .tied = 1,
                              .lm_head = 1,
                              .init_std = .02f};

/* multiply-adds of the products for one token; attention's grow with T */
double model_flops(const ModelConfig *m, int T) {
    double layer =
        2.0 * m->C * (config_qkv_rows(m) + m->NH * m->HS + 3.0 * m->FF) + 2.0 * m->NH * m->HS * T;
    return m->L * layer + 2.0 * m->C * m->V;
}

void bench_train(Bench *bench, const char *name, const ModelConfig *cfg, int S, int T) {
    Backend *b = bench->b;
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
    double rate = N / median(t + 1, RUNS);
    bench_refresh(bench);
    double floor = bench->flops / (3.0 * model_flops(cfg, T));
    bench_beside(bench, "train", name, S * T, rate, "tok/s", floor,
                 bench_peer(bench, "train", name, 0));
    free(ids), free(wanted), free(g), free(logp);
    packed_release(&batch);
    optim_release(&optim);
    network_release(&net);
    workspace_release(ws);
}

void bench_dpo(Bench *bench, const char *name, const ModelConfig *cfg, int S, int T) {
    Backend *b = bench->b;
    Workspace *ws;
    Network policy, reference;
    Optim optim;
    Packed batch;
    int N = 2 * S * T, micro = N < 16384 ? N : 16384;
    WorkspacePlan plan = {.tokens = micro, .sequences = 2 * S, .train = 1, .max_length = T};
    OptimConfig oc = {.learning_rate = 1e-6f,
                      .beta1 = .9f,
                      .beta2 = .999f,
                      .eps = 1e-8f,
                      .grad_clip = 1,
                      .schedule = "constant"};
    MUST(workspace_create(&ws, b, &plan, &cfg, 1, NULL));
    MUST(network_create(&policy, b, cfg, ws, 1));
    MUST(network_create(&reference, b, cfg, ws, 0));
    MUST(weights_init(&policy.w, 1));
    MUST(weights_init(&reference.w, 1));
    MUST(optim_create(&optim, &policy, &oc));
    MUST(packed_create(&batch, 2 * S, (size_t)N));
    int *ids = malloc((size_t)T * sizeof *ids);
    uint8_t *wanted = calloc((size_t)T, 1);
    float *g = malloc((size_t)N * sizeof *g), *logp = calloc((size_t)N, sizeof *logp);
    for (int s = 0; s < 2 * S; s++) {
        for (int t = 0; t < T; t++)
            ids[t] = (int)(rng_uniform(1, RNG_TEST, (uint64_t)s, (uint64_t)t) * cfg->V),
            wanted[t] = t >= T / 4;
        packed_add(&batch, ids, wanted, T);
    }
    for (int n = 0; n < N; n++) g[n] = (n / T % 2 ? 1.0f : -1.0f) / (float)N;
    double t[RUNS + 1], norm;
    for (int r = 0; r <= RUNS; r++) {
        double began = clock_seconds();
        Batch mb;
        MUST(packed_forward(&batch, &reference, micro, 1.0f, &(TokenOutputs){.logp = logp}));
        for (int first = 0; first < 2 * S;) {
            first = packed_micro(&batch, first, 2, micro, 1.0f, &mb);
            MUST(network_forward(&policy, &mb, &(TokenOutputs){.logp = logp}));
            MUST(network_backward(&policy, &(TokenGrads){.logp = g}));
        }
        MUST(optim_step(&optim, 1e-6f, &norm));
        t[r] = clock_seconds() - began;
    }
    bench_refresh(bench);
    bench_row(bench, "dpo", name, N, N / median(t + 1, RUNS), "tok/s",
              bench->flops / (4.0 * model_flops(cfg, T)));
    free(ids), free(wanted), free(g), free(logp);
    packed_release(&batch);
    optim_release(&optim);
    network_release(&policy);
    network_release(&reference);
    workspace_release(ws);
}

static double bytes_each(const Bench *bench) {
    return (double)dtype_bytes(bench->b->dtype);
}

enum { CACHED = 16 << 20 };

/* A decoding step reads the weights and the cache once, or is bound by its products. */
static double decode_seconds(const Bench *bench, const ModelConfig *m, int M, int length) {
    double kv = 2.0 * m->L * m->NKV * m->HS * (double)length * M * bytes_each(bench);
    double weights = model_flops(m, 0) / 2.0 * bytes_each(bench);
    double products = model_flops(m, length) * M / bench->flops;
    if (weights + kv < CACHED) return products; /* never leaves the caches */
    return fmax(weights / bench->bandwidth, products) + kv / bench->bandwidth;
}

static double decode_floor(const Bench *bench, const ModelConfig *m, int M, int prompt, int steps) {
    return M / decode_seconds(bench, m, M, prompt + steps / 2);
}

/* Rollout at decode_seconds, three forward passes, and the passes over the rollout of two models at
 * the peak. */
static double ppo_floor(const Bench *bench, const ModelConfig *m, int S, int P, int R, int passes) {
    double tokens = (double)S * (P + R);
    double flops = tokens * model_flops(m, P + R) * (1.0 + 3.0 + 2.0 * 3.0 * passes);
    return R * decode_seconds(bench, m, S, P + R / 2) + flops / bench->flops;
}

void bench_decode(Bench *bench, const char *name, const ModelConfig *cfg, int M, int prompt,
                  int steps) {
    Backend *b = bench->b;
    Workspace *ws;
    Network net;
    KvCache kv;
    WorkspacePlan plan = {.tokens = M * prompt, .sequences = M, .max_length = prompt + steps + 1};
    MUST(workspace_create(&ws, b, &plan, &cfg, 1, NULL));
    MUST(network_create(&net, b, cfg, ws, 0));
    MUST(weights_init(&net.w, 1));
    MUST(kv_create(&kv, b, cfg, M, plan.max_length, 0));
    int *ids = calloc((size_t)(M * prompt), sizeof(int)),
        *starts = calloc((size_t)M + 1, sizeof(int)), *rows = calloc((size_t)M, sizeof(int));
    int *positions = calloc((size_t)M, sizeof(int)), *drawn = calloc((size_t)M, sizeof(int));
    double *u = calloc((size_t)M, sizeof(double));
    float *logp = calloc((size_t)M, sizeof(float)), *cut = calloc((size_t)M, sizeof(float));
    for (int i = 0; i < M; i++) {
        starts[i + 1] = (i + 1) * prompt, rows[i] = i;
        kv_reserve(&kv, i, plan.max_length);
        for (int t = 0; t < prompt; t++) ids[i * prompt + t] = (i * 31 + t * 7) % cfg->V;
    }
    kv_flush(&kv);
    Batch p = {.S = M, .N = M * prompt, .ids = ids, .starts = starts, .temperature = 1.0f};
    SampleParams sp = {.temperature = 1.0f, .top_p = 1.0f, .vocab = cfg->V};
    double t[RUNS];
    for (int r = 0; r < RUNS; r++) {
        MUST(network_prefill(&net, &kv, &p, rows));
        double began = clock_seconds();
        for (int s = 0; s < steps; s++) {
            for (int i = 0; i < M; i++)
                u[i] = rng_uniform(1, RNG_SAMPLE, (uint64_t)i, (uint64_t)s),
                positions[i] = prompt + s;
            MUST(network_sample(&net, u, sp, M, drawn, logp, cut));
            MUST(network_decode(&net, &kv, drawn, rows, positions, M));
        }
        t[r] = clock_seconds() - began;
    }
    double rate = M * steps / median(t, RUNS);
    bench_refresh(bench);
    bench_beside(bench, "decode", name, M, rate, "tok/s",
                 decode_floor(bench, cfg, M, prompt, steps), bench_peer(bench, "decode", name, M));
    free(ids), free(starts), free(rows), free(positions), free(drawn), free(u), free(logp),
        free(cut);
    kv_release(&kv);
    network_release(&net);
    workspace_release(ws);
}

/* What a run with these four models takes of the device, beside its plan. */
static void ppo_memory(const Bench *bench, const char *name, const ModelConfig *cfg,
                       const ModelConfig *scorer, const WorkspacePlan *ws, size_t before, int S) {
    static const char *const roles[] = {"actor", "critic", "reference", "reward"};
    const ModelConfig *configs[] = {cfg, scorer};
    Backend *b = bench->b;
    Plan plan = {0};
    double planned = 0.0, used = (double)(before - b->memory_free(b));
    for (int i = 0; i < 4; i++)
        plan_network(&plan, b, roles[i], configs[i % 2], i < 2 ? PLAN_TRAINED : PLAN_FROZEN);
    MUST(plan_activations(&plan, b, ws, configs, 2, ws->tokens));
    plan_add(&plan, rollout_engine_bytes(b, cfg, S, ws->max_length, 0), "keys and values");
    for (int i = 0; i < plan.n; i++) planned += (double)plan.row[i].bytes;
    bench_row(bench, "ppo_memory", name, S, used / (1 << 30), "GiB", planned / (1 << 30));
}

/* One PPO step's work with four models, phase by phase: S answers of R tokens to prompts of P, four
 * passes. */
void bench_ppo(Bench *bench, const char *name, const ModelConfig *cfg, int S, int P, int R,
               int micro_tokens) {
    Backend *b = bench->b;
    enum { PASSES = 4 };
    ModelConfig scorer = *cfg;
    scorer.lm_head = 0, scorer.scores = 1;
    const ModelConfig *configs[] = {cfg, &scorer};
    int T = P + R, N = S * T, micro = N < micro_tokens ? N : micro_tokens;
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
    size_t before = b->memory_free(b);
    MUST(workspace_create(&ws, b, &plan, configs, 2, NULL));
    MUST(network_create(&actor, b, cfg, ws, 1));
    MUST(network_create(&critic, b, &scorer, ws, 1));
    MUST(network_create(&reference, b, cfg, ws, 0));
    MUST(network_create(&reward, b, &scorer, ws, 0));
    Network *all[] = {&actor, &critic, &reference, &reward};
    for (int i = 0; i < 4; i++) MUST(weights_init(&all[i]->w, 1));
    MUST(optim_create(&actor_optim, &actor, &oc));
    MUST(optim_create(&critic_optim, &critic, &oc));
    MUST(rollout_engine_create(&engine, b, cfg, NULL, S, T, S, 0));
    if (strcmp(b->device, "cpu")) /* where what is allocated is taken at once */
        ppo_memory(bench, name, cfg, &scorer, &plan, before, S);
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
    bench_refresh(bench);
    static const char *const phases[] = {"ppo_rollout", "ppo_scoring", "ppo_improving"};
    for (int i = 0; i < 3; i++) bench_row(bench, phases[i], name, S, best[i], "s", 0);
    bench_beside(bench, "ppo_step", name, S, best[0] + best[1] + best[2], "s",
                 ppo_floor(bench, cfg, S, P, R, PASSES), bench_peer(bench, "ppo", name, 0));
    free(prompt), free(requests), free(numbers);
    rollout_release(&rollout);
    rollout_engine_release(engine);
    optim_release(&actor_optim);
    optim_release(&critic_optim);
    for (int i = 0; i < 4; i++) network_release(all[i]);
    workspace_release(ws);
}
