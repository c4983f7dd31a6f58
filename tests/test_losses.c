/* test_losses.c - the losses against reference values computed in float64, their gradients by
 * signed differences, and planted mistakes that these numbers must see. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "dpo/dpo.h"
#include "ppo/ppo_loss.h"
#include "reward/reward.h"
#include "sft/sft.h"
#include "tests/gradient.h"

static void near(const char *what, double got, double want, double tol) {
    if (!(fabs(got - want) <= tol)) printf("%s: %.9f, expected %.9f\n", what, got, want);
    assert_true(fabs(got - want) <= tol);
}

static void near_all(const char *what, const float *got, const double *want, int n) {
    for (int i = 0; i < n; i++) near(what, got[i], want[i], 2e-6);
}

/* --- reward model --- */

static void reward_reference_values(void **state) {
    (void)state;
    const double c[2] = {1.2, 0.3}, r[2] = {0.4, 0.9}, margin[2] = {0.5, 0.0};
    double dc, dr, plain = 0, with_margin = 0, centered = 0;
    for (int i = 0; i < 2; i++) {
        plain += reward_loss(c[i], r[i], 0.0, 0.0, &dc, &dr) / 2;
        with_margin += reward_loss(c[i], r[i], margin[i], 0.0, &dc, &dr) / 2;
        centered += reward_loss(c[i], r[i], 0.0, 0.01, &dc, &dr) / 2;
    }
    near("plain", plain, 0.704294308, 1e-9);
    near("margin", with_margin, 0.795921597, 1e-9);
    near("center", centered, 0.724294308, 1e-9);
}

static void reward_gradient(void **state) {
    (void)state;
    const double h = 1e-6;
    double dc, dr, x, y;
    for (double c = -30.0; c <= 30.0; c += 7.3) {
        double r = 0.4 * c - 1.0;
        reward_loss(c, r, 0.3, 0.02, &dc, &dr);
        double up = reward_loss(c + h, r, 0.3, 0.02, &x, &y),
               down = reward_loss(c - h, r, 0.3, 0.02, &x, &y);
        near("d chosen", (up - down) / (2 * h), dc, 1e-6 * fmax(1.0, fabs(dc)));
        up = reward_loss(c, r + h, 0.3, 0.02, &x, &y),
        down = reward_loss(c, r - h, 0.3, 0.02, &x, &y);
        near("d rejected", (up - down) / (2 * h), dr, 1e-6 * fmax(1.0, fabs(dr)));
    }
    assert_true(isfinite(reward_loss(1e4, -1e4, 0, 0, &dc, &dr)) &&
                isfinite(reward_loss(-1e4, 1e4, 0, 0, &dc, &dr)));
}

/* --- DPO --- */

static void dpo_reference_values(void **state) {
    (void)state;
    near("sigmoid", dpo_loss(-12, -15, -13, -14.5, 0.1, 0.0).loss, 0.620957048, 1e-9);
    near("cDPO", dpo_loss(-12, -15, -13, -14.5, 0.1, 0.1).loss, 0.635957048, 1e-9);
    near("ln 2", dpo_loss(-12, -15, -12, -15, 0.1, 0.0).loss, log(2.0), 1e-15);
    assert_true(isfinite(dpo_loss(-1e6, 0, 0, -1e6, 1.0, 0.1).loss));
}

static void dpo_gradient(void **state) {
    (void)state;
    const double h = 1e-5;
    for (double pi = -40; pi < 0; pi += 6.7) {
        DpoPair p = dpo_loss(pi, -15, -13, -14.5, 0.3, 0.1);
        near("d chosen",
             (dpo_loss(pi + h, -15, -13, -14.5, 0.3, 0.1).loss -
              dpo_loss(pi - h, -15, -13, -14.5, 0.3, 0.1).loss) /
                 (2 * h),
             p.dchosen, 1e-6);
        near("d rejected",
             (dpo_loss(pi, -15 + h, -13, -14.5, 0.3, 0.1).loss -
              dpo_loss(pi, -15 - h, -13, -14.5, 0.3, 0.1).loss) /
                 (2 * h),
             p.drejected, 1e-6);
    }
}

/* --- PPO: two responses, 3 tokens with EOS and 5 without --- */

static const float logmu[8] = {-1, -2, -.5f, -.7f, -1.1f, -2.2f, -.3f, -.9f};
static const float logref[8] = {-1.2f, -1.7f, -.6f, -.5f, -1.4f, -2, -.8f, -.9f};
static const float values[8] = {.3f, .1f, .2f, -.1f, 0, .2f, .1f, .3f};

static void ppo_credit_at_last_token(void **state) {
    (void)state;
    static const double rewards[8] = {-.01, .015, 1.495, .01, -.015, .01, -.025, -.5};
    static const double advantages[8] = {1.067988, 1.34525, 1.295, -.297039,
                                         -.428462, -.64575, -.585, -.8};
    static const double white[8] = {1.009574, 1.304537, 1.251079, -.442598,
                                    -.582411, -.813571, -.748942, -.977668};
    float r[8], adv[8], ret[8];
    uint8_t mask[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    token_rewards(r, logmu, logref, 3, 0.05, KL_K1);
    token_rewards(r + 3, logmu + 3, logref + 3, 5, 0.05, KL_K1);
    r[2] += 1.5f;
    r[7] += -.5f;
    near_all("rewards", r, rewards, 8);
    gae(adv, ret, r, values, 3, 1.0, 0.95);
    gae(adv + 3, ret + 3, r + 3, values + 3, 5, 1.0, 0.95);
    near_all("advantages", adv, advantages, 8);
    for (int i = 0; i < 8; i++) near("return", ret[i], adv[i] + values[i], 1e-6);
    whiten(adv, mask, 8, 1);
    near_all("whitened", adv, white, 8);
    double sum = 0;
    for (int i = 0; i < 8; i++) sum += adv[i];
    near("sum of whitened", sum, 0.0, 1e-5);
}

static void ppo_credit_after_eos(void **state) {
    (void)state;
    static const double a0[3] = {1.01835, 1.293, 1.24},
                        a1[5] = {-1.111546, -1.285837, -1.54825, -1.535, -1.8};
    static const double white[8] = {1.073341, 1.271921, 1.2336, -.466631,
                                    -.592649, -.78238,  -.7728, -.964402};
    float r[9] = {0}, v[9], adv[9], ret[9];
    uint8_t mask[9] = {1, 1, 1, 0, 1, 1, 1, 1, 1};
    memcpy(v, values, 3 * sizeof(float));
    v[3] = .4f; /* the state after EOS */
    memcpy(v + 4, values + 3, 5 * sizeof(float));
    token_rewards(r, logmu, logref, 3, 0.05, KL_K1);
    token_rewards(r + 4, logmu + 3, logref + 3, 5, 0.05, KL_K1);
    r[3] = 1.5f;
    r[8] += -.5f - 1.0f; /* truncated: keeps the score on its last token, and pays for it */
    gae(adv, ret, r, v, 4, 1.0, 0.95);
    gae(adv + 4, ret + 4, r + 4, v + 4, 5, 1.0, 0.95);
    near_all("row 0", adv, a0, 3);
    near_all("row 1", adv + 4, a1, 5);
    near("return of the extra state", ret[3], 1.5, 1e-6);
    whiten(adv, mask, 9, 1);
    near_all("whitened 0", adv, white, 3);
    near_all("whitened 1", adv + 4, white + 3, 5);
    double kl = 0;
    for (int i = 0; i < 8; i++) kl += kl_estimate(KL_K1, logmu[i], logref[i]) / 2;
    near("objective/kl", kl, 0.2, 1e-6);
    near("non_score_reward", -0.05 * kl, -0.01, 1e-7);
}

static void ppo_policy_loss(void **state) {
    (void)state;
    const float logp[4] = {0, -.5f, -1.5f, -.9f}, old[4] = {0, -1, -1, -1}, adv[4] = {1, 1, -1, 0},
                H[4] = {0};
    const uint8_t wanted[4] = {0, 1, 1, 1};
    float dlogp[4];
    PolicyLossConfig cfg = {.clip_low = .2f, .clip_high = .2f};
    PolicyStats s = {0};
    policy_loss(&cfg, 4, wanted, logp, H, old, NULL, adv, 1.0 / 3, dlogp, NULL, &s);
    near("mean", s.policy / 3, -.233786581, 1e-7);
    near("clipfrac", s.clipped / 3.0, 1.0 / 3, 1e-12);
    near("approxkl", s.approxkl / 3, .085, 1e-7);
    assert_true(dlogp[1] == 0.0f); /* clipped: flat */
    near("d token 1", dlogp[2], -.606531 / 3, 1e-6);
    near("d token 2", dlogp[3], 1.105171 / 3, 1e-6);
    PolicyStats planted = {0}; /* the advantage of the wrong state must show */
    policy_loss(&cfg, 4, wanted, logp, H, old, NULL, (const float[4]){0, 1, 1, -1}, 1.0 / 3, dlogp,
                NULL, &planted);
    assert_true(fabs(planted.policy / 3 + .233786581) > 0.05);
}

static void ppo_value_loss(void **state) {
    (void)state;
    const float v[3] = {.9f, .1f, .5f}, old[3] = {.3f, .2f, .4f}, ret[3] = {1, 0, .1f};
    const uint8_t mask[3] = {1, 1, 1};
    float d[3];
    ValueStats s = {0};
    value_loss(.2f, 3, mask, v, old, ret, 1.0 / 3, d, &s);
    near("half mean", s.value / 3, .07, 1e-7);
    assert_true(d[0] == 0.0f); /* outside the band */
    near("d 2", d[2], .4 / 3, 1e-6);
}

static void ppo_kl_controller(void **state) {
    (void)state;
    near("KL 9", kl_control(.2, 9, 6, 1e4, 256), .201024, 1e-9);
    near("KL 3", kl_control(.2, 3, 6, 1e4, 256), .198976, 1e-9);
    near("KL 6.3", kl_control(.2, 6.3, 6, 1e4, 256), .200256, 1e-9);
}

static void kl_estimators(void **state) {
    (void)state;
    for (double x = -30; x < 30; x += 0.37) {
        assert_true(kl_estimate(KL_K3, x, 0) >= 0.0);
        near("k2", kl_estimate(KL_K2, x, 0), x * x / 2, 1e-9);
    }
    near("k3", kl_estimate(KL_K3, .5, 0), exp(-.5) - 1 + .5, 1e-12);
}

/* gamma = lambda = 1: returns are sums of rewards, whatever the values */
static void undiscounted_returns_are_sums(void **state) {
    (void)state;
    float r[6], v[6], adv[6], ret[6];
    fill_random(r, 6, 1, 1.0f);
    fill_random(v, 6, 2, 1.0f);
    gae(adv, ret, r, v, 6, 1.0, 1.0);
    double sum = 0;
    for (int t = 5; t >= 0; t--) near("return", ret[t], sum += r[t], 1e-5);
}

enum { N = 24 };
typedef struct {
    PolicyLossConfig cfg;
    float logp[N], H[N], old[N], ref[N], adv[N], dlogp[N], dH[N];
    uint8_t wanted[N];
} Surrogate;

static double surrogate(void *ctx) {
    Surrogate *s = ctx;
    float dlogp[N], dH[N];
    PolicyStats t = {0};
    policy_loss(&s->cfg, N, s->wanted, s->logp, s->H, s->old, s->ref, s->adv, 1.0, dlogp, dH, &t);
    return t.policy + s->cfg.kl_loss_coef * t.kl_loss - s->cfg.entropy_coef * t.entropy;
}

static void ppo_policy_gradient(void **state) {
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        Surrogate s = {.cfg = {.clip_low = .2f,
                               .clip_high = .3f,
                               .dual_clip = variant == 1 ? 1.5f : 0,
                               .entropy_coef = .1f,
                               .kl_loss_coef = variant == 2 ? .4f : 0,
                               .kl_loss = KL_K3}};
        fill_random(s.logp, N, 11, 1.0f);
        fill_random(s.old, N, 12, .3f);
        fill_random(s.ref, N, 13, .5f);
        fill_random(s.adv, N, 14, 1.0f);
        for (int i = 0; i < N; i++)
            s.old[i] += s.logp[i], s.ref[i] += s.logp[i], s.wanted[i] = i > 0 && i % 3;
        PolicyStats t = {0};
        policy_loss(&s.cfg, N, s.wanted, s.logp, s.H, s.old, s.ref, s.adv, 1.0, s.dlogp, s.dH, &t);
        assert_true(t.clipped > 0);
        expect_gradient("policy", surrogate, &s, s.logp, s.dlogp, N, 1e-3, 5e-3);
        expect_gradient("entropy", surrogate, &s, s.H, s.dH, N, 1e-2, 5e-3);
    }
}

/* With one pass and one minibatch the ratio is 1 and the gradient is REINFORCE's with a baseline:
 * -A. */
static void first_gradient_is_reinforce(void **state) {
    (void)state;
    float logp[4] = {0, -1, -2, -3}, adv[4] = {.5f, -1, 2, 0}, d[4], H[4] = {0};
    const uint8_t wanted[4] = {0, 1, 1, 1};
    PolicyStats s = {0};
    policy_loss(&(PolicyLossConfig){.clip_low = .2f, .clip_high = .2f}, 4, wanted, logp, H, logp,
                NULL, adv, 1.0, d, NULL, &s);
    for (int t = 1; t < 4; t++) assert_true(d[t] == -adv[t - 1]);
    assert_true(s.max_deviation == 0.0 && s.clipped == 0);
}

static void sft_sums_trained_tokens_only(void **state) {
    (void)state;
    const float logp[3] = {-9, -1, -2}, mean[3] = {-5, -5, -6}, H[3] = {0, 1, 2},
                top[3] = {1, 1, 0};
    const uint8_t wanted[3] = {0, 1, 1};
    SftStats s = {0};
    sft_loss(&s, logp, mean, H, top, wanted, 3, 0.1f);
    near("loss", s.loss, .9 * 3 + .1 * 11, 1e-6);
    assert_int_equal(s.tokens, 2);
    near("accuracy", s.correct, 1, 0);
}

typedef struct {
    float logp[N], ref[N];
    uint8_t wanted[N];
} Base;

static double kl_to_base(void *ctx) {
    Base *b = ctx;
    float ignored[N] = {0};
    SftStats s = {0};
    sft_kl(&s, b->logp, b->ref, b->wanted, N, 1.0, ignored);
    return s.kl;
}

static void sft_kl_gradient(void **state) {
    (void)state;
    Base b;
    float d[N];
    SftStats s = {0};
    fill_random(b.logp, N, 21, 1.0f);
    fill_random(b.ref, N, 22, 1.0f);
    for (int i = 0; i < N; i++) b.wanted[i] = i % 3 != 0, d[i] = 0.0f;
    sft_kl(&s, b.logp, b.ref, b.wanted, N, 1.0, d);
    expect_gradient("KL to the base", kl_to_base, &b, b.logp, d, N, 1e-3, 5e-3);
    assert_true(d[0] == 0.0f && s.kl > 0.0 && s.loss == 0.0);

    /* it adds to what is there, and costs nothing where nothing has moved */
    memcpy(b.ref, b.logp, sizeof b.ref);
    for (int i = 0; i < N; i++) d[i] = -1.0f;
    s.kl = 0.0;
    sft_kl(&s, b.logp, b.ref, b.wanted, N, 1.0, d);
    for (int i = 0; i < N; i++) assert_true(d[i] == -1.0f);
    assert_true(s.kl == 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reward_reference_values),
        cmocka_unit_test(reward_gradient),
        cmocka_unit_test(dpo_reference_values),
        cmocka_unit_test(dpo_gradient),
        cmocka_unit_test(ppo_credit_at_last_token),
        cmocka_unit_test(ppo_credit_after_eos),
        cmocka_unit_test(ppo_policy_loss),
        cmocka_unit_test(ppo_value_loss),
        cmocka_unit_test(ppo_kl_controller),
        cmocka_unit_test(kl_estimators),
        cmocka_unit_test(undiscounted_returns_are_sums),
        cmocka_unit_test(ppo_policy_gradient),
        cmocka_unit_test(first_gradient_is_reinforce),
        cmocka_unit_test(sft_sums_trained_tokens_only),
        cmocka_unit_test(sft_kl_gradient),
    };
    return cmocka_run_group_tests_name("losses", tests, NULL, NULL);
}
