/* test_toy.c - a vocabulary so small that the optimum of KL-regularized reward, pi* ~ ref exp(r /
 * beta) (Rafailov et al. 2023, eq. 4), is a table: PPO and DPO, made of the trainers' own losses,
 * network and optimizer, must both end there. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/model/optim.h"
#include "core/model/packed.h"
#include "dpo/dpo.h"
#include "ppo/ppo_loss.h"

enum { V = 8, PROMPT = 2, LENGTH = 2, T = PROMPT + LENGTH, ANSWERS = V * V, DRAWS = 256 };
static const double beta = 0.5;

static const ModelConfig toy = {.V = V,
                                .C = 32,
                                .L = 1,
                                .NH = 2,
                                .NKV = 1,
                                .HS = 16,
                                .FF = 48,
                                .max_positions = 8,
                                .rope_theta = 10000.0f,
                                .norm_eps = 1e-5f,
                                .lm_head = 1,
                                .scores = 1,
                                .init_std = 0.25f,
                                .bos = -1,
                                .pad = -1};

/* Depends on both tokens together, so that credit has to reach the first. */
static double reward_of(int answer) {
    int a = answer / V, b = answer % V;
    return 0.8 * sin(1.7 * a + 0.4) + 0.9 * cos(2.3 * b - 1.1 * a);
}

typedef struct {
    Backend *b;
    Workspace *ws;
    Network actor, critic;
    Optim actor_optim, critic_optim;
    Packed all, batch;       /* every answer once; a rollout's draws */
    float logp[ANSWERS * T]; /* of `all` under the actor */
    float ref[ANSWERS * T];  /* of `all` under the actor as it began */
    double pi[ANSWERS], best[ANSWERS];
} Toy;

static void add_answer(Packed *p, int answer) {
    static const uint8_t wanted[T] = {0, 0, 1, 1};
    packed_add(p, (int[T]){3, 5, answer / V, answer % V}, wanted, T);
}

/* log-probs of every answer's tokens and the table of probabilities */
static void enumerate(Toy *t) {
    TokenOutputs out = {.logp = t->logp};
    assert_int_equal(packed_forward(&t->all, &t->actor, ANSWERS * T, 1.0f, &out), OK);
    for (int i = 0; i < ANSWERS; i++)
        t->pi[i] = exp((double)t->logp[i * T + PROMPT] + t->logp[i * T + PROMPT + 1]);
}

static void optimum(const Toy *t, double price, double *p) {
    double sum = 0.0;
    for (int i = 0; i < ANSWERS; i++) {
        p[i] =
            exp((double)t->ref[i * T + PROMPT] + t->ref[i * T + PROMPT + 1] + reward_of(i) / price);
        sum += p[i];
    }
    for (int i = 0; i < ANSWERS; i++) p[i] /= sum;
}

static void toy_open(Toy *t, const OptimConfig *cfg) {
    const ModelConfig *c = &toy;
    WorkspacePlan plan = {.tokens = DRAWS * T, .sequences = DRAWS, .train = 1, .max_length = T};
    memset(t, 0, sizeof *t);
    assert_int_equal(backend_create(&t->b, "cpu", "auto", "f32"), OK);
    assert_int_equal(workspace_create(&t->ws, t->b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&t->actor, t->b, &toy, t->ws, 1), OK);
    assert_int_equal(network_create(&t->critic, t->b, &toy, t->ws, 1), OK);
    assert_int_equal(weights_init(&t->actor.w, 11), OK);
    assert_int_equal(weights_init(&t->critic.w, 12), OK);
    assert_int_equal(optim_create(&t->actor_optim, &t->actor, cfg), OK);
    assert_int_equal(optim_create(&t->critic_optim, &t->critic, cfg), OK);
    assert_int_equal(packed_create(&t->all, ANSWERS, ANSWERS * T), OK);
    assert_int_equal(packed_create(&t->batch, DRAWS, DRAWS * T), OK);
    for (int i = 0; i < ANSWERS; i++) add_answer(&t->all, i);
    enumerate(t);
    memcpy(t->ref, t->logp, sizeof t->ref);
    optimum(t, beta, t->best);
}

static void toy_close(Toy *t) {
    packed_release(&t->all);
    packed_release(&t->batch);
    optim_release(&t->actor_optim);
    optim_release(&t->critic_optim);
    network_release(&t->actor);
    network_release(&t->critic);
    workspace_release(t->ws);
    backend_release(t->b);
}

static double total_variation(const double *p, const double *q) {
    double sum = 0.0;
    for (int i = 0; i < ANSWERS; i++) sum += 0.5 * fabs(p[i] - q[i]);
    return sum;
}

static double kl(const double *p, const double *q) {
    double sum = 0.0;
    for (int i = 0; i < ANSWERS; i++) sum += p[i] * log(p[i] / q[i]);
    return sum;
}

static void show(const char *what, Toy *t) {
    enumerate(t);
    printf("%s: total variation to pi* %.4f, KL %.5f\n", what, total_variation(t->pi, t->best),
           kl(t->pi, t->best));
}

/* Another price of leaving the reference has another optimum: being near any would prove nothing.
 */
static void expect_optimum(Toy *t, double bound, double kl_bound) {
    double other[ANSWERS];
    optimum(t, 1.5 * beta, other);
    printf("  the optimum of 1.5 beta is at %.4f\n", total_variation(t->pi, other));
    assert_true(total_variation(t->pi, t->best) < bound);
    assert_true(kl(t->pi, t->best) < kl_bound);
    assert_true(total_variation(t->pi, other) > 2.0 * bound);
}

static void update(Optim *o, int step, int steps) {
    double norm;
    assert_int_equal(optim_step(o, optim_rate(&o->cfg, step, steps), &norm), OK);
}

/* ------------------------------------------------ PPO, the KL in the reward */

typedef struct {
    int answer[DRAWS];
    float old[DRAWS * T], ref[DRAWS * T], value_old[DRAWS * T], reward[DRAWS * T], adv[DRAWS * T],
        ret[DRAWS * T];
    uint8_t states[DRAWS * T];
} Draws;

static int draw(const Toy *t, double u) {
    double sum = 0.0;
    for (int i = 0; i < ANSWERS; i++)
        if (u < (sum += t->pi[i])) return i;
    return ANSWERS - 1;
}

static void act(Toy *t, Draws *d, int step) {
    enumerate(t);
    packed_clear(&t->batch);
    for (int s = 0; s < DRAWS; s++) {
        int answer = draw(t, rng_uniform(21, RNG_TEST, (uint64_t)step, (uint64_t)s));
        d->answer[s] = answer;
        add_answer(&t->batch, answer);
        memcpy(d->old + s * T, t->logp + answer * T, T * sizeof(float));
        memcpy(d->ref + s * T, t->ref + answer * T, T * sizeof(float));
    }
    TokenOutputs out = {.score = d->value_old};
    assert_int_equal(packed_forward(&t->batch, &t->critic, DRAWS * T, 1.0f, &out), OK);
}

static void credit(Draws *d) {
    memset(d->states, 0, sizeof d->states);
    for (int s = 0; s < DRAWS; s++) {
        int first = s * T + PROMPT - 1;
        token_rewards(d->reward + first, d->old + first + 1, d->ref + first + 1, LENGTH, beta,
                      KL_K1);
        d->reward[first + LENGTH - 1] += (float)reward_of(d->answer[s]);
        gae(d->adv + first, d->ret + first, d->reward + first, d->value_old + first, LENGTH, 1.0,
            0.95);
        memset(d->states + first, 1, LENGTH);
    }
    whiten(d->adv, d->states, DRAWS * T, 1);
}

/* Returns the largest |ratio - 1|. */
static double improve(Toy *t, const Draws *d) {
    static float logp[DRAWS * T], entropy[DRAWS * T], value[DRAWS * T], slope[DRAWS * T];
    const PolicyLossConfig cfg = {.clip_low = 0.2f, .clip_high = 0.2f};
    const double per = 1.0 / (DRAWS * LENGTH);
    PolicyStats p = {0};
    ValueStats v = {0};
    Batch b;
    assert_int_equal(packed_micro(&t->batch, 0, 1, DRAWS * T, 1.0f, &b), DRAWS);
    TokenOutputs out = {.logp = logp, .entropy = entropy};
    assert_int_equal(network_forward(&t->actor, &b, &out), OK);
    policy_loss(&cfg, b.N, b.wanted, logp, entropy, d->old, d->ref, d->adv, per, slope, NULL, &p);
    assert_int_equal(network_backward(&t->actor, &(TokenGrads){.logp = slope}), OK);
    assert_int_equal(network_forward(&t->critic, &b, &(TokenOutputs){.score = value}), OK);
    value_loss(0.2f, b.N, d->states, value, d->value_old, d->ret, per, slope, &v);
    assert_int_equal(network_backward(&t->critic, &(TokenGrads){.score = slope}), OK);
    return p.max_deviation;
}

static void ppo_approaches_the_optimum(void **state) {
    enum { STEPS = 300, EPOCHS = 2 };
    const OptimConfig cfg = {.learning_rate = 4e-3f,
                             .beta1 = 0.9f,
                             .beta2 = 0.999f,
                             .eps = 1e-8f,
                             .grad_clip = 1.0f,
                             .schedule = "cosine"};
    static Draws d;
    Toy t;
    (void)state;
    toy_open(&t, &cfg);
    show("PPO before", &t);
    assert_true(total_variation(t.pi, t.best) > 0.3);
    for (int step = 0; step < STEPS; step++) {
        act(&t, &d, step);
        credit(&d);
        for (int epoch = 0; epoch < EPOCHS; epoch++) {
            double deviation = improve(&t, &d);
            if (!epoch) assert_true(deviation == 0.0);
            update(&t.actor_optim, step, STEPS);
            update(&t.critic_optim, step, STEPS);
        }
    }
    show("PPO after", &t);
    expect_optimum(&t, 0.03, 0.02);
    toy_close(&t);
}

/* ------------------------------------------------ DPO, exact preferences of all pairs */

static void dpo_approaches_the_optimum(void **state) {
    enum { STEPS = 400, PAIRS = ANSWERS * (ANSWERS - 1) / 2 };
    const OptimConfig cfg = {
        .learning_rate = 3e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .schedule = "cosine"};
    Toy t;
    (void)state;
    toy_open(&t, &cfg);
    show("DPO before", &t);
    for (int step = 0; step < STEPS; step++) {
        double pi[ANSWERS], ref[ANSWERS], dsum[ANSWERS] = {0}, loss = 0.0;
        float dlogp[ANSWERS * T] = {0};
        enumerate(&t);
        for (int i = 0; i < ANSWERS; i++) {
            const float *l = t.logp + i * T + PROMPT, *r = t.ref + i * T + PROMPT;
            pi[i] = (double)l[0] + l[1];
            ref[i] = (double)r[0] + r[1];
        }
        /* i beats j with probability sigma(r_i - r_j); the rest of the labels is the smoothing */
        for (int i = 0; i < ANSWERS; i++)
            for (int j = 0; j < i; j++) {
                double flipped = 1.0 / (1.0 + exp(reward_of(i) - reward_of(j)));
                DpoPair p = dpo_loss(pi[i], pi[j], ref[i], ref[j], beta, flipped);
                loss += p.loss / PAIRS;
                dsum[i] += p.dchosen / PAIRS;
                dsum[j] += p.drejected / PAIRS;
            }
        if (!step) assert_true(fabs(loss - log(2.0)) < 1e-12);
        for (int n = 0; n < ANSWERS * T; n++)
            if (t.all.wanted[n]) dlogp[n] = (float)dsum[n / T];
        assert_int_equal(network_backward(&t.actor, &(TokenGrads){.logp = dlogp}), OK);
        update(&t.actor_optim, step, STEPS);
    }
    show("DPO after", &t);
    expect_optimum(&t, 0.005, 1e-3);
    toy_close(&t);
}

int main(void) {
    threads_start(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ppo_approaches_the_optimum),
        cmocka_unit_test(dpo_approaches_the_optimum),
    };
    return cmocka_run_group_tests_name("toy", tests, NULL, NULL);
}
