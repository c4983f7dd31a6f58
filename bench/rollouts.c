/* rollouts.c - the rollout engine on any backend: continuous batching, and prompts that are shared.
 */
#include <math.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "core/base/rng.h"
#include "core/run/progress.h"
#include "policy/rollout.h"

typedef struct {
    Workspace *ws;
    Network net;
    RolloutEngine *engine;
    Rollout rollout;
    int *ids; /* [requests][P] */
    RolloutRequest *requests;
    int n, P;
} Engine;

static void engine_create(Engine *e, Backend *b, const ModelConfig *cfg, int rows, int n, int P,
                          int R) {
    int most = rows < 16 ? rows : 16; /* prompts in one prefill */
    WorkspacePlan plan = {
        .tokens = most * P > rows ? most * P : rows, .sequences = rows, .max_length = P + R};
    *e = (Engine){.n = n, .P = P};
    MUST(workspace_create(&e->ws, b, &plan, &cfg, 1, NULL));
    MUST(network_create(&e->net, b, cfg, e->ws, 0));
    MUST(weights_init(&e->net.w, 1));
    MUST(rollout_engine_create(&e->engine, b, cfg, NULL, rows, P + R, n, 0));
    MUST(rollout_create(&e->rollout, n, (size_t)n * (size_t)(P + R)));
    e->ids = malloc((size_t)n * (size_t)P * sizeof *e->ids);
    e->requests = calloc((size_t)n, sizeof *e->requests);
}

static void engine_release(Engine *e) {
    rollout_release(&e->rollout);
    rollout_engine_release(e->engine);
    network_release(&e->net);
    workspace_release(e->ws);
    free(e->ids), free(e->requests);
}

/* Prompts that differ from their first token on, each for `samples` requests in a row. */
static void put_prompts(Engine *e, int V, int samples) {
    for (int i = 0; i < e->n; i++) {
        int *ids = e->ids + (size_t)i * (size_t)e->P;
        for (int t = 0; t < e->P; t++)
            ids[t] =
                (int)(rng_uniform(7, RNG_TEST, (uint64_t)(i / samples), (uint64_t)t) * (double)V);
        e->requests[i] = (RolloutRequest){ids, e->P, (uint64_t)i};
    }
}

/* Requests [first, first + n): seconds. */
static double answer(Engine *e, int first, int n, int most, RolloutWatch watch, void *ctx) {
    SamplingConfig sampling = {
        .max_new_tokens = most, .temperature = 1.0f, .top_p = 1.0f, .ignore_eos = 1};
    double began = clock_seconds();
    MUST(rollout_generate(&e->rollout, e->engine, &e->net, e->requests + first, n, &sampling, 1,
                          watch, ctx));
    return clock_seconds() - began;
}

typedef struct {
    const int *length;
    int *drawn;
} Lengths;

static int is_long_enough(void *ctx, int request, int id) {
    Lengths *l = ctx;
    (void)id;
    return ++l->drawn[request] >= l->length[request];
}

/* Lengths fall off exponentially, as answers' do: a quarter of the limit in the mean, cut there. */
static int draw_length(int request, int R) {
    double u = rng_uniform(3, RNG_TEST, (uint64_t)request, 0);
    int n = 1 + (int)(-log(1.0 - u) * R / 4.0);
    return n < R ? n : R;
}

void bench_batching(Bench *bench, const char *name, const ModelConfig *cfg, int rows, int requests,
                    int P, int R) {
    enum { TIMES = 3 };
    Engine e;
    double together[TIMES], in_batches[TIMES], tokens = 0.0;
    int *length = malloc((size_t)requests * sizeof *length),
        *drawn = malloc((size_t)requests * sizeof *drawn);
    engine_create(&e, bench->b, cfg, rows, requests, P, R);
    put_prompts(&e, cfg->V, 1);
    for (int i = 0; i < requests; i++) tokens += length[i] = draw_length(i, R);
    for (int run = 0; run < TIMES; run++) {
        for (int i = 0; i < requests; i++) drawn[i] = 0;
        together[run] = answer(&e, 0, requests, R, is_long_enough, &(Lengths){length, drawn});
        in_batches[run] = 0.0;
        for (int first = 0; first < requests; first += rows) {
            int n = requests - first < rows ? requests - first : rows, longest = 0;
            for (int i = first; i < first + n; i++)
                if (length[i] > longest) longest = length[i];
            in_batches[run] += answer(&e, first, n, longest, NULL, NULL);
        }
    }
    bench_beside(bench, "batching", name, rows, tokens / median(together, TIMES), "tok/s", 0,
                 (Peer){tokens / median(in_batches, TIMES), "static batches"});
    free(length), free(drawn);
    engine_release(&e);
}

void bench_sharing(Bench *bench, const char *name, const ModelConfig *cfg, int rows, int P, int R) {
    enum { TIMES = 3, SAMPLES = 8 };
    Engine e;
    double shared[TIMES], apart[TIMES], tokens = (double)rows * R;
    engine_create(&e, bench->b, cfg, rows, rows, P, R);
    for (int run = 0; run < TIMES; run++) {
        put_prompts(&e, cfg->V, SAMPLES);
        shared[run] = answer(&e, 0, rows, R, NULL, NULL);
        put_prompts(&e, cfg->V, 1);
        apart[run] = answer(&e, 0, rows, R, NULL, NULL);
    }
    bench_beside(bench, "sharing", name, rows, tokens / median(shared, TIMES), "tok/s", 0,
                 (Peer){tokens / median(apart, TIMES), "without shared prompts"});
    engine_release(&e);
}
