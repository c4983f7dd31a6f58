/* test_backend.c - the page of kernels: no pointer is missing, nothing above it touches a buffer,
 * every kernel writes what it must and nothing behind it at odd sizes, and all instruction sets
 * agree. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/backend/cpu/vec.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/model/optim.h"
#include "tests/gradient.h"
#include "tests/guard.h"

static const char *const kernels[] = {"portable", "avx2", "avx512"};

static Backend *backend(const char *name) {
    Backend *b;
    if (backend_create(&b, "cpu", name, "f32") == OK) return b;
    printf("%s: not on this processor, skipped\n", name);
    return NULL;
}

static void no_pointer_is_missing(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        Backend *b = backend(kernels[k]);
        if (!b) continue;
        void (*const *first)(void) = (void (*const *)(void))(const void *)&b->alloc;
        size_t n = (sizeof *b - offsetof(Backend, alloc)) / sizeof *first;
        for (size_t i = 0; i < n; i++) assert_non_null(((void *const *)(const void *)first)[i]);
        backend_release(b);
    }
}

static void unknown_kernels_are_refused(void **state) {
    (void)state;
    Backend *b;
    assert_int_equal(backend_create(&b, "cpu", "avx9", "f32"), E_USAGE);
    assert_non_null(strstr(status_message(), "avx9"));
    assert_int_equal(backend_create(&b, "cuda:0", "auto", "f32"), E_USAGE);
}

/* Training, evaluation and decoding over locked memory: nobody above the page may look inside a
 * buffer. */
static void nothing_above_dereferences_a_buffer(void **state) {
    (void)state;
    enum { N = 23 };
    Backend *b = guard_create();
    const ModelConfig cfg = {.V = 37,
                             .C = 24,
                             .L = 2,
                             .NH = 4,
                             .NKV = 2,
                             .HS = 6,
                             .FF = 20,
                             .max_positions = 64,
                             .rope_theta = 1e4f,
                             .norm_eps = 1e-5f,
                             .tied = 1,
                             .lm_head = 1,
                             .scores = 1,
                             .init_std = .2f};
    const ModelConfig *c = &cfg;
    Workspace *ws;
    Network net;
    Optim optim;
    KvCache kv;
    int ids[N], starts[3] = {0, 9, N}, rows[2] = {1, 0}, drawn[2], positions[2] = {9, 14};
    uint8_t wanted[N];
    float g[N], logp[N], entropy[N], score[N], lp[2], cut[2];
    uint64_t hash;
    for (int n = 0; n < N; n++) ids[n] = n * 5 % 37, wanted[n] = n != 0 && n != 9, g[n] = -.1f;
    WorkspacePlan plan = {
        .tokens = N, .sequences = 4, .train = 1, .recompute = 1, .max_length = 32};
    OptimConfig oc = {.learning_rate = 1e-3f,
                      .beta1 = .9f,
                      .beta2 = .999f,
                      .eps = 1e-8f,
                      .weight_decay = .1f,
                      .grad_clip = 1,
                      .schedule = "cosine"};
    assert_int_equal(workspace_create(&ws, b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&net, b, &cfg, ws, 1), OK);
    assert_int_equal(weights_init(&net.w, 1), OK);
    assert_int_equal(optim_create(&optim, &net, &oc), OK);
    assert_int_equal(kv_create(&kv, b, &cfg, 2, 32, 0), OK);
    Batch batch = {.S = 2,
                   .N = N,
                   .ids = ids,
                   .starts = starts,
                   .wanted = wanted,
                   .temperature = .7f,
                   .neftune_alpha = 1};
    double norm;
    memory_freeze(); /* nothing of it is allocated late either */
    for (int step = 0; step < 2; step++) {
        assert_int_equal(
            network_forward(&net, &batch,
                            &(TokenOutputs){.logp = logp, .entropy = entropy, .score = score}),
            OK);
        assert_int_equal(network_backward(&net, &(TokenGrads){.logp = g, .entropy = g, .score = g}),
                         OK);
        assert_int_equal(
            network_learn(&net, &batch, &(TokenGrads){.logp = g}, &(TokenOutputs){.logp = logp}),
            OK);
        assert_int_equal(optim_step(&optim, 1e-3f, &norm), OK);
    }
    for (int r = 0; r < 2; r++) assert_true(kv_reserve(&kv, r, 16));
    kv_flush(&kv);
    assert_int_equal(network_prefill(&net, &kv, &batch, rows), OK);
    SampleParams sp = {.temperature = .7f, .top_k = 5, .top_p = .9f, .vocab = 37};
    assert_int_equal(network_sample(&net, (double[]){.3, .6}, sp, 2, drawn, lp, cut), OK);
    assert_int_equal(network_decode(&net, &kv, drawn, rows, positions, 2), OK);
    assert_int_equal(weights_hash(&net.w, &hash), OK);
    memory_thaw();

    /* the guard itself: whoever looks inside is killed */
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        volatile float peek = *(const float *)net.w.flat.ptr;
        (void)peek;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
    kv_release(&kv);
    optim_release(&optim);
    network_release(&net);
    workspace_release(ws);
    guard_release(b);
}

/* --- kernels at odd sizes: outputs poisoned before, sentinels behind, instruction sets compared
 * --- */

enum { SENTINELS = 40, BUFFERS = 16 };
static const float SENTINEL = 12345.0f;
typedef struct {
    Backend *b;
    Buf buf[BUFFERS];
    size_t count[BUFFERS];
    int n, seed;
} Bench;

static Buf place(Bench *t, size_t count, float *host) {
    Buf *buf = &t->buf[t->n];
    t->count[t->n++] = count;
    assert_int_equal(t->b->alloc(t->b, buf, DT_F32, count + SENTINELS, "test"), OK);
    t->b->upload(t->b, *buf, host, count + SENTINELS);
    free(host);
    return *buf;
}

static float *host_array(size_t count) {
    float *host = malloc((count + SENTINELS) * sizeof *host);
    for (size_t i = count; i < count + SENTINELS; i++) host[i] = SENTINEL;
    return host;
}

static Buf input(Bench *t, size_t count) {
    float *host = host_array(count);
    fill_random(host, count, ++t->seed, 1.0f);
    return place(t, count, host);
}

static Buf output(Bench *t, size_t count) { /* NaN everywhere: what is not written shows */
    float *host = host_array(count);
    for (size_t i = 0; i < count; i++) host[i] = NAN;
    return place(t, count, host);
}

static Buf ints(Bench *t, const int *v, size_t n) {
    Buf b;
    assert_int_equal(t->b->alloc(t->b, &b, DT_I32, n, "test"), OK);
    t->b->upload(t->b, b, v, n);
    t->count[t->n] = 0;
    t->buf[t->n++] = b;
    return b;
}

static void check_and_free(Bench *t, const char *op, double *sum) {
    *sum = 0.0;
    for (int i = 0; i < t->n; i++) {
        size_t n = t->count[i];
        float *host = malloc((n + SENTINELS) * sizeof *host);
        if (n) t->b->download(t->b, host, t->buf[i], n + SENTINELS);
        for (size_t j = 0; j < n; j++) {
            if (isnan(host[j])) printf("%s: element %zu of buffer %d was not written\n", op, j, i);
            assert_false(isnan(host[j]));
            *sum += host[j] * (1.0 + 0.001 * (double)(j % 97));
        }
        for (size_t j = n; n && j < n + SENTINELS; j++) {
            if (host[j] != SENTINEL)
                printf("%s: wrote %zu elements behind buffer %d\n", op, j - n, i);
            assert_true(host[j] == SENTINEL);
        }
        free(host);
        t->b->release(t->b, &t->buf[i]);
    }
    t->n = 0;
}

typedef struct {
    int N, C, O;
} Size;

static void run_products(Bench *t, Size z) {
    Backend *b = t->b;
    size_t N = (size_t)z.N, C = (size_t)z.C, O = (size_t)z.O;
    Buf y = output(t, N * O), x = input(t, N * C), w = input(t, O * C), dx = output(t, N * C),
        dw = input(t, O * C), dy = input(t, N * O);
    Buf packed = output(t, b->packed_count(b, DT_F32, z.O, z.C));
    Mat m = {w, packed, z.O, z.C};
    b->pack(b, m);
    b->matmul_forward(b, y, x, m, z.N);
    b->matmul_backward_input(b, dx, dy, m, z.N);
    b->matmul_backward_weight(b, dw, dy, x, z.N, z.O, z.C);
    b->release(b, &t->buf[6]); /* padding differs between instruction sets */
    t->n = 6;
}

static void run_layers(Bench *t, Size z) {
    Backend *b = t->b;
    size_t N = (size_t)z.N, C = (size_t)z.C;
    Buf out = output(t, N * C), rstd = output(t, N), x = input(t, N * C), w = input(t, C),
        dx = output(t, N * C), dw = input(t, C), d = input(t, N * C);
    b->rmsnorm_forward(b, out, rstd, x, w, z.N, z.C, 1e-5f);
    b->rmsnorm_backward(b, dx, dw, d, x, w, rstd, z.N, z.C);
    Buf gate_up = input(t, 2 * N * C), h = output(t, N * C), dgu = output(t, 2 * N * C),
        sum = output(t, N * C);
    b->swiglu_forward(b, h, gate_up, z.N, z.C);
    b->swiglu_backward(b, dgu, d, gate_up, z.N, z.C);
    b->add(b, sum, x, d, N * C);
}

static void run_attention(Bench *t, Size z) {
    Backend *b = t->b;
    enum { NH = 4, NKV = 2 };
    int HS = z.C % 2 ? z.C + 1 : z.C, starts[3] = {0, z.N / 2, z.N}, S = z.N > 1 ? 2 : 1,
        one[2] = {0, z.N};
    size_t N = (size_t)z.N, Q = (NH + 2 * NKV) * (size_t)HS;
    Buf qkv = input(t, N * Q), out = output(t, N * NH * (size_t)HS), lse = output(t, 2 * N * NH),
        d = input(t, N * NH * (size_t)HS), dqkv = output(t, N * Q);
    Buf st = ints(t, S == 2 ? starts : one, (size_t)S + 1);
    b->attention_forward(b, out, lse, qkv, st, S, z.N, NH, NKV, HS);
    b->attention_backward(b, dqkv, d, qkv, out, lse, st, S, z.N, NH, NKV, HS);
}

static void run_heads(Bench *t, Size z) {
    Backend *b = t->b;
    size_t N = (size_t)z.N, C = (size_t)z.C, V = (size_t)z.O;
    Buf h = input(t, N * C), w = input(t, V * C), dh = output(t, N * C), dw = input(t, V * C),
        g = input(t, N);
    Buf logp = output(t, N), H = output(t, N), mean = output(t, N), top = output(t, N);
    Buf packed, logits, targets;
    int *ids = calloc(N, sizeof *ids);
    for (size_t i = 0; i < N; i++) ids[i] = (int)(i * 7 % V);
    targets = ints(t, ids, N);
    free(ids);
    assert_int_equal(b->alloc(b, &packed, DT_F32, b->packed_count(b, DT_F32, z.O, z.C), "test"),
                     OK);
    assert_int_equal(b->alloc(b, &logits, DT_F32, 3 * V, "test"), OK);
    Mat m = {w, packed, z.O, z.C};
    b->pack(b, m);
    HeadOut out = {logp, H, mean, top};
    b->head_forward(b, out, h, m, targets, logits, 3, z.N, .8f);
    b->head_backward(b, dh, dw, (HeadGrad){g, g, g}, out, h, m, targets, logits, 3, z.N, .8f);
    Buf score = output(t, 2 * N), ws = input(t, 2 * C), ds = input(t, 2 * N), dws = input(t, 2 * C),
        dhs = output(t, N * C);
    b->score_forward(b, score, h, ws, z.N, z.C, 2);
    b->score_backward(b, dhs, dws, ds, h, ws, z.N, z.C, 2);
    b->release(b, &packed);
    b->release(b, &logits);
}

static void run_optimizer(Bench *t, Size z) {
    Backend *b = t->b;
    size_t n = (size_t)z.N * (size_t)z.C;
    Buf w = input(t, n), m = input(t, n), v = output(t, n), g = input(t, n);
    b->zero(b, v, n);
    AdamwParams p = {.lr = 1e-2f,
                     .beta1 = .9f,
                     .beta2 = .99f,
                     .eps = 1e-8f,
                     .weight_decay = .1f,
                     .grad_scale = .5f,
                     .correction1 = .1f,
                     .correction2 = .01f};
    b->adamw(b, w, m, v, g, n, p);
    assert_true(b->sum_squares(b, g, n) > 0.0);
    Buf average = input(t, n);
    b->lerp(b, average, w, n, .25f);
}

static void an_average_moves_by_its_share(void **state) {
    (void)state;
    enum { MANY = 100003 }; /* several chunks, the last one short */
    static float out[MANY], x[MANY], got[MANY];
    fill_random(out, MANY, 1, 1.0f);
    fill_random(x, MANY, 2, 1.0f);
    for (int k = 0; k < 3; k++) {
        Backend *b;
        Buf to, from;
        if (backend_create(&b, "cpu", kernels[k], "f32") != OK) continue;
        threads_start(2);
        assert_int_equal(b->alloc(b, &to, DT_F32, MANY, "test"), OK);
        assert_int_equal(b->alloc(b, &from, DT_F32, MANY, "test"), OK);
        b->upload(b, to, out, MANY);
        b->upload(b, from, x, MANY);
        b->lerp(b, to, from, MANY, 0.0f);
        b->download(b, got, to, MANY);
        assert_memory_equal(got, out, sizeof out);
        b->lerp(b, to, from, MANY - 1, .1f); /* the last one is not its own */
        b->download(b, got, to, MANY);
        for (int i = 0; i < MANY - 1; i++) assert_true(got[i] == out[i] + .1f * (x[i] - out[i]));
        assert_true(got[MANY - 1] == out[MANY - 1]);
        b->release(b, &to);
        b->release(b, &from);
        backend_release(b);
    }
    threads_start(1);
}

static void kernels_keep_to_their_outputs_and_agree(void **state) {
    (void)state;
    static const struct {
        const char *name;
        void (*run)(Bench *, Size);
    } groups[] = {{"products", run_products},
                  {"layers", run_layers},
                  {"attention", run_attention},
                  {"heads", run_heads},
                  {"optimizer", run_optimizer}};
    static const Size sizes[] = {{1, 1, 2},     {1, 33, 7},    {2, 16, 65},  {7, 31, 33},
                                 {15, 64, 129}, {29, 70, 100}, {65, 48, 257}};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            double sums[3] = {NAN, NAN, NAN};
            for (int k = 0; k < 3; k++) {
                Backend *b;
                if (backend_create(&b, "cpu", kernels[k], "f32") != OK) continue;
                for (int threads = 1; threads <= 3; threads += 2) {
                    double sum;
                    Bench t = {.b = b};
                    threads_start(threads);
                    groups[g].run(&t, sizes[s]);
                    check_and_free(&t, groups[g].name, &sum);
                    if (threads > 1)
                        assert_true(sum == sums[k]); /* the same bits for any number of threads */
                    sums[k] = sum;
                }
                double error = fabs(sums[k] - sums[0]) / (fabs(sums[0]) + 1.0);
                if (error > 1e-4)
                    printf("%s, size %zu: %s differs from portable by %.2g\n", groups[g].name, s,
                           kernels[k], error);
                assert_true(error <= 1e-4);
                backend_release(b);
            }
        }
    }
    threads_start(1);
}

/* A product row does not depend on the number of rows, on any kernel. */
static void rows_do_not_depend_on_their_number(void **state) {
    (void)state;
    enum { M = 61, K = 300, O = 77 };
    for (int k = 0; k < 3; k++) {
        Backend *b;
        if (backend_create(&b, "cpu", kernels[k], "f32") != OK) continue;
        Bench t = {.b = b};
        Buf x = input(&t, M * K), w = input(&t, O * K), y = output(&t, M * O),
            one = output(&t, M * O);
        Buf packed;
        assert_int_equal(b->alloc(b, &packed, DT_F32, b->packed_count(b, DT_F32, O, K), "test"),
                         OK);
        Mat m = {w, packed, O, K};
        b->pack(b, m);
        b->matmul_forward(b, y, x, m, M);
        for (int first = 0, n = 1; first < M; first += n, n = n % 17 + 1) {
            if (n > M - first) n = M - first;
            b->matmul_forward(b, buf_at(one, (size_t)first * O), buf_at(x, (size_t)first * K), m,
                              n);
        }
        float *a = malloc(M * O * sizeof *a), *c = malloc(M * O * sizeof *c);
        b->download(b, a, y, M * O);
        b->download(b, c, one, M * O);
        assert_memory_equal(a, c, M * O * sizeof *a);
        free(a), free(c);
        double sum;
        check_and_free(&t, "product", &sum);
        b->release(b, &packed);
        backend_release(b);
    }
}

/* Sampling: frequencies follow the probabilities; top-k and top-p keep only the likeliest. */
static void sampling_follows_the_distribution(void **state) {
    (void)state;
    enum { V = 6, DRAWS = 20000 };
    static const float logits[V] = {0, 1, 2, -1, 0.5f, -3};
    Backend *b = backend("auto");
    Mat w = {.O = V, .K = V};
    Buf h, u, ids, lp, cut, scratch;
    float eye[V * V] = {0};
    for (int i = 0; i < V; i++) eye[i * V + i] = 1.0f;
    Buf *floats[] = {&w.w, &w.packed, &h, &lp, &cut, &scratch};
    size_t counts[] = {V * V, b->packed_count(b, DT_F32, V, V), V, 1, 1, V};
    for (int i = 0; i < 6; i++)
        assert_int_equal(b->alloc(b, floats[i], DT_F32, counts[i], "test"), OK);
    assert_int_equal(b->alloc(b, &u, DT_F64, 1, "test"), OK);
    assert_int_equal(b->alloc(b, &ids, DT_I32, 1, "test"), OK);
    b->upload(b, w.w, eye, V * V);
    b->upload(b, h, logits, V);
    b->pack(b, w);
    for (int how = 0; how < 4; how++) {
        SampleParams p = {.temperature = how == 3 ? 0.0f : .7f,
                          .top_k = how == 1 ? 2 : 0,
                          .top_p = how == 2 ? .8f : 1.0f,
                          .vocab = V};
        int counts_of[V] = {0};
        double q[V], total = 0;
        float mass = 0;
        for (int v = 0; v < V; v++) total += q[v] = exp(logits[v] / .7);
        for (int i = 0; i < (how == 3 ? 10 : DRAWS); i++) {
            double draw = rng_uniform(9, RNG_SAMPLE, 0, (uint64_t)i);
            int id;
            float logp;
            b->upload(b, u, &draw, 1);
            b->sample(b, ids, lp, cut, h, w, u, scratch, 1, 1, p);
            b->download(b, &id, ids, 1);
            b->download(b, &logp, lp, 1);
            b->download(b, &mass, cut, 1);
            counts_of[id]++;
            if (how < 3)
                assert_true(fabs(logp - log(q[id] / total)) <
                            1e-5); /* scored under the whole distribution */
        }
        if (how == 0) {
            for (int v = 0; v < V; v++)
                assert_true(fabs((double)counts_of[v] / DRAWS - q[v] / total) < 0.015);
            assert_true(mass == 0.0f);
        }
        if (how == 1 || how == 2) { /* both keep tokens 2 and 1 here */
            assert_int_equal(counts_of[1] + counts_of[2], DRAWS);
            assert_true(fabs(mass - (1.0 - (q[1] + q[2]) / total)) < 1e-4);
        }
        if (how == 3) assert_int_equal(counts_of[2], 10);
    }
    for (int i = 0; i < 6; i++) b->release(b, floats[i]);
    b->release(b, &u);
    b->release(b, &ids);
    backend_release(b);
}

/* vec.h promises 2 units in the last place; here without fused multiply-adds, the least exact way.
 */
static void exp_is_within_its_promise(void **state) {
    (void)state;
    double worst = 0.0;
    for (float x = -86.9f; x < 87.9f; x += 0.00173f) {
        double want = exp((double)x), unit = nextafterf((float)want, INFINITY) - (float)want;
        worst = fmax(worst, fabs((double)sexp(x) - want) / unit);
    }
    printf("exp: %.2f units in the last place\n", worst);
    assert_true(worst < 2.0);
    assert_true(sexp(-INFINITY) == 0.0f && sexp(-88.0f) == 0.0f && sexp(0.0f) == 1.0f);
}

int main(void) {
    threads_start(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_pointer_is_missing),
        cmocka_unit_test(exp_is_within_its_promise),
        cmocka_unit_test(unknown_kernels_are_refused),
        cmocka_unit_test(nothing_above_dereferences_a_buffer),
        cmocka_unit_test(kernels_keep_to_their_outputs_and_agree),
        cmocka_unit_test(an_average_moves_by_its_share),
        cmocka_unit_test(rows_do_not_depend_on_their_number),
        cmocka_unit_test(sampling_follows_the_distribution),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
