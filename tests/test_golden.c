/* test_golden.c - outputs, losses and every tensor's gradient of a tiny llama beside PyTorch's
 * autograd in float64. tests/fixtures/golden.py made the numbers; weights, tokens and constants are
 * its formulas. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "core/base/threads.h"
#include "core/model/network.h"
#include "dpo/dpo.h"
#include "ppo/ppo_loss.h"
#include "reward/reward.h"
#include "sft/sft.h"
#include "tests/kernels.h"

static const char fixture[] = "tests/fixtures/golden.json";
static const ModelConfig tiny = {.V = 19,
                                 .C = 16,
                                 .L = 2,
                                 .NH = 4,
                                 .NKV = 2,
                                 .HS = 4,
                                 .FF = 24,
                                 .max_positions = 32,
                                 .rope_theta = 10000.0f,
                                 .norm_eps = 1e-5f,
                                 .lm_head = 1,
                                 .scores = 1,
                                 .init_std = 0.1f,
                                 .bos = -1,
                                 .pad = -1};

enum { S = 4, N = 27, PROMPT = 3 };
static const int starts[S + 1] = {0, 7, 12, 21, 27};
static int ids[N];
static uint8_t wanted[N], states[N];
static int n_wanted;

static double wave(int seed, double i) {
    return sin(1.0 + 0.61 * seed + (0.7391 + 0.0137 * seed) * i + 0.0113 * i * i);
}

static void fill_tokens(void) {
    n_wanted = 0;
    for (int s = 0; s < S; s++)
        for (int n = starts[s]; n < starts[s + 1]; n++) {
            ids[n] = (n * n + 5 * n + 3) % tiny.V;
            wanted[n] = n - starts[s] >= PROMPT;
            n_wanted += wanted[n];
        }
    for (int n = 0; n + 1 < N; n++) states[n] = wanted[n + 1];
}

/* ------------------------------------------------ the model */

typedef struct {
    Backend *b;
    Workspace *ws;
    Network net;
    float *host; /* weights, then gradients */
    float logp[N], entropy[N], mean[N], top1[N], score[N];
} Model;

static Status fill_weight(void *ctx, const TensorInfo *info, Buf *slot) {
    float *w = (float *)ctx + info->offset;
    int norm = strstr(info->name, "norm") != NULL, number = 0;
    (void)slot;
    for (int i = 0; info->name[i]; i++) number += (i + 1) * info->name[i];
    for (int i = 0; i < info->rows * info->cols; i++)
        w[i] = (float)(norm + (norm ? 0.25 : 0.45) * wave(number % 97, i));
    return OK;
}

static void model_open(Model *m, int tied) {
    ModelConfig cfg = tiny;
    const ModelConfig *c = &cfg;
    WorkspacePlan plan = {.tokens = N, .sequences = S, .train = 1, .max_length = 16};
    cfg.tied = tied;
    assert_int_equal(workspace_create(&m->ws, m->b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&m->net, m->b, &cfg, m->ws, 1), OK);
    m->host = calloc(m->net.w.count, sizeof *m->host);
    assert_non_null(m->host);
    assert_int_equal(tensors_visit(&cfg, &m->net.w.t, fill_weight, m->host), OK);
    m->b->upload(m->b, m->net.w.flat, m->host, m->net.w.count);
    weights_pack(&m->net.w);
}

static void model_close(Model *m) {
    free(m->host);
    network_release(&m->net);
    workspace_release(m->ws);
}

static void forward(Model *m, float temperature) {
    Batch b = {.S = S, .N = N, .ids = ids, .starts = starts, .wanted = wanted};
    b.temperature = temperature;
    TokenOutputs out = {.logp = m->logp,
                        .entropy = m->entropy,
                        .mean_logp = m->mean,
                        .top1 = m->top1,
                        .score = m->score};
    network_zero_grads(&m->net);
    assert_int_equal(network_forward(&m->net, &b, &out), OK);
}

static void constants(float *x, int seed, double scale) {
    for (int n = 0; n < N; n++) x[n] = (float)(scale * wave(seed, n));
}

static void shifted(float *x, const float *from, int seed, double scale) {
    constants(x, seed, scale);
    for (int n = 0; n < N; n++) x[n] += from[n];
}

/* ------------------------------------------------ the losses: value out, gradients into the
 * network */

static double learn_sft(Model *m) {
    float dlogp[N] = {0}, dmean[N] = {0};
    SftStats s = {0};
    forward(m, 1.0f);
    sft_loss(&s, m->logp, m->mean, m->entropy, m->top1, wanted, N, 0.1f);
    for (int n = 0; n < N; n++)
        if (wanted[n]) dlogp[n] = -0.9f / (float)n_wanted, dmean[n] = -0.1f / (float)n_wanted;
    TokenGrads g = {.logp = dlogp, .mean_logp = dmean};
    assert_int_equal(network_backward(&m->net, &g), OK);
    return s.loss / s.tokens;
}

static double learn_reward(Model *m) {
    float dscore[N] = {0};
    double loss = 0.0;
    forward(m, 1.0f);
    for (int s = 0; s < S; s += 2) {
        int chosen = starts[s + 1] - 1, rejected = starts[s + 2] - 1;
        double dc, dr;
        loss += reward_loss(m->score[chosen], m->score[rejected], 0.25, 0.01, &dc, &dr) / 2.0;
        dscore[chosen] = (float)(dc / 2.0);
        dscore[rejected] = (float)(dr / 2.0);
    }
    assert_int_equal(network_backward(&m->net, &(TokenGrads){.score = dscore}), OK);
    return loss;
}

static double learn_dpo(Model *m) {
    float ref[N], dlogp[N] = {0};
    double pi_sum[S] = {0}, ref_sum[S] = {0}, loss = 0.0;
    forward(m, 1.0f);
    shifted(ref, m->logp, 3, 0.3);
    for (int s = 0; s < S; s++)
        for (int n = starts[s]; n < starts[s + 1]; n++)
            if (wanted[n]) pi_sum[s] += m->logp[n], ref_sum[s] += ref[n];
    for (int s = 0; s < S; s += 2) {
        DpoPair p = dpo_loss(pi_sum[s], pi_sum[s + 1], ref_sum[s], ref_sum[s + 1], 0.5, 0.05);
        loss += p.loss / 2.0;
        for (int n = starts[s]; n < starts[s + 2]; n++)
            if (wanted[n]) dlogp[n] = (float)((n < starts[s + 1] ? p.dchosen : p.drejected) / 2.0);
    }
    assert_int_equal(network_backward(&m->net, &(TokenGrads){.logp = dlogp}), OK);
    return loss;
}

static double learn_ppo(Model *m) {
    PolicyLossConfig cfg = {.clip_low = 0.2f,
                            .clip_high = 0.2f,
                            .entropy_coef = 0.02f,
                            .kl_loss_coef = 0.05f,
                            .kl_loss = KL_K3};
    float old[N], ref[N], adv[N], value_old[N], ret[N], dlogp[N], dentropy[N], dvalue[N];
    PolicyStats p = {0};
    ValueStats v = {0};
    forward(m, 0.7f);
    shifted(old, m->logp, 5, 0.4);
    shifted(ref, m->logp, 6, 0.5);
    constants(adv, 11, 1.0);
    shifted(value_old, m->score, 8, 0.5);
    shifted(ret, m->score, 10, 1.5);
    policy_loss(&cfg, N, wanted, m->logp, m->entropy, old, ref, adv, 1.0 / n_wanted, dlogp,
                dentropy, &p);
    value_loss(0.2f, N, states, m->score, value_old, ret, 1.0 / n_wanted, dvalue, &v);
    assert_true(p.clipped > 0 && p.clipped < n_wanted && v.clipped > 0 && v.clipped < n_wanted);
    TokenGrads g = {.logp = dlogp, .entropy = dentropy, .score = dvalue};
    assert_int_equal(network_backward(&m->net, &g), OK);
    return (p.policy - 0.02 * p.entropy + 0.05 * p.kl_loss + v.value) / n_wanted;
}

static const struct {
    const char *name;
    double (*learn)(Model *m);
} losses[] = {{"sft", learn_sft}, {"reward", learn_reward}, {"dpo", learn_dpo}, {"ppo", learn_ppo}};

/* ------------------------------------------------ comparison */

typedef struct {
    const float *grad;
    const Json *tensors;
    double worst; /* relative to the tensor's norm */
    char name[80];
    int seen;
} Compare;

static void note(Compare *c, const TensorInfo *info, double error, double norm) {
    double relative = error / (norm > 1e-9 ? norm : 1e-3);
    if (!(relative <= c->worst)) {
        c->worst = relative;
        memcpy(c->name, info->name, sizeof c->name);
    }
}

static const Json *tensor_named(const Json *tensors, const char *name) {
    const Json *t = json_first(tensors);
    while (t && strcmp(json_str(json_get(t, "name")), name)) t = json_next(t);
    return t;
}

static Status compare_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Compare *c = ctx;
    const float *g = c->grad + info->offset;
    const Json *want = tensor_named(c->tensors, info->name);
    int n = info->rows * info->cols, values = n < 8 ? n : 8, k = 0;
    (void)slot;
    assert_non_null(want);
    double norm = json_num(json_get(want, "norm")), squares = 0.0;
    for (int i = 0; i < n; i++) squares += (double)g[i] * g[i];
    note(c, info, fabs(sqrt(squares) - norm), norm);
    for (const Json *j = json_first(json_get(want, "products")); j; j = json_next(j), k++) {
        double product = 0.0;
        for (int i = 0; i < n; i++) product += wave(20 + k, i) * g[i];
        note(c, info, fabs(product - json_num(j)), norm);
    }
    assert_int_equal(k, 6);
    k = 0;
    for (const Json *j = json_first(json_get(want, "values")); j; j = json_next(j), k++)
        note(c, info, fabs(g[k * n / values] - json_num(j)), norm);
    assert_int_equal(k, values);
    c->seen++;
    return OK;
}

static double gradients_error(Model *m, const Json *loss, Compare *c) {
    Network *net = &m->net;
    Backend *b = m->b;
    size_t tied = (size_t)tiny.V * (size_t)tiny.C;
    if (net->grad_tied.ptr) b->add(b, net->g.tok_emb, net->g.tok_emb, net->grad_tied, tied);
    b->download(b, m->host, net->grad, net->w.count);
    *c = (Compare){.grad = m->host, .tensors = json_get(loss, "tensors")};
    assert_int_equal(tensors_visit(&net->w.cfg, &net->g, compare_tensor, c), OK);
    assert_int_equal(c->seen, json_size(c->tensors));
    return c->worst;
}

static void expect_near(const char *what, double got, double want, double tol) {
    if (!(fabs(got - want) <= tol)) printf("%s: %.9g, expected %.9g\n", what, got, want);
    assert_true(fabs(got - want) <= tol);
}

/* The fixture lists the marked tokens alone, score every token. */
static void compare_outputs(Model *m, const Json *want) {
    const struct {
        const char *name;
        const float *got;
        int all;
    } rows[] = {{"logp", m->logp, 0},
                {"entropy", m->entropy, 0},
                {"mean_logp", m->mean, 0},
                {"score", m->score, 1}};
    forward(m, 0.7f);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const Json *j = json_first(json_get(want, rows[r].name));
        for (int n = 0; n < N; n++) {
            if (!rows[r].all && !wanted[n]) continue;
            assert_non_null(j);
            expect_near(rows[r].name, rows[r].got[n], json_num(j), 1e-5);
            j = json_next(j);
        }
        assert_null(j);
    }
}

static void everything_agrees_with_autograd(void **state) {
    JsonDoc *doc;
    (void)state;
    assert_int_equal(json_parse_file(&doc, fixture, JSON_STRICT), OK);
    assert_int_equal(json_size(json_root(doc)), 2);
    for (int k = 0; k < F32_KERNELS; k++) {
        Model m = {.b = kernels_create(&cpu_kernels[k])};
        if (!m.b) continue;
        double worst = 0.0;
        for (const Json *c = json_first(json_root(doc)); c; c = json_next(c)) {
            model_open(&m, json_bool(json_get(c, "tied")));
            compare_outputs(&m, c);
            const Json *loss = json_first(json_get(c, "losses"));
            for (size_t i = 0; i < 4; i++, loss = json_next(loss)) {
                Compare at;
                assert_string_equal(json_str(json_get(loss, "name")), losses[i].name);
                double value = losses[i].learn(&m);
                expect_near(losses[i].name, value, json_num(json_get(loss, "loss")), 1e-5);
                double error = gradients_error(&m, loss, &at);
                if (!(error <= 1e-4))
                    printf("%s, %s: the gradient of %s is off by %.3g of its norm\n",
                           cpu_kernels[k].name, losses[i].name, at.name, error);
                assert_true(error <= 1e-4);
                worst = fmax(worst, error);
            }
            model_close(&m);
        }
        printf("%s: gradients within %.2g of their norms\n", cpu_kernels[k].name, worst);
        backend_release(m.b);
    }
    json_release(doc);
}

/* A comparison that cannot fail proves nothing: one token's gradient dropped, one shifted. */
static void planted_mistakes_are_seen(void **state) {
    JsonDoc *doc;
    Model m = {0};
    Compare at;
    (void)state;
    assert_int_equal(json_parse_file(&doc, fixture, JSON_STRICT), OK);
    assert_int_equal(backend_create(&m.b, "cpu", "auto", "f32"), OK);
    model_open(&m, 0);
    const Json *sft = json_first(json_get(json_first(json_root(doc)), "losses"));
    wanted[starts[2] + PROMPT] = 0;
    learn_sft(&m);
    assert_true(gradients_error(&m, sft, &at) > 1e-2);
    fill_tokens();
    learn_sft(&m);
    assert_true(gradients_error(&m, sft, &at) < 1e-4);
    for (size_t i = 0; i + 1 < m.net.w.count; i++) m.host[i] = m.host[i + 1];
    at.worst = 0.0;
    at.seen = 0;
    tensors_visit(&m.net.w.cfg, &m.net.g, compare_tensor, &at);
    assert_true(at.worst > 1e-2);
    model_close(&m);
    backend_release(m.b);
    json_release(doc);
}

int main(void) {
    threads_start(1);
    fill_tokens();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_agrees_with_autograd),
        cmocka_unit_test(planted_mistakes_are_seen),
    };
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
