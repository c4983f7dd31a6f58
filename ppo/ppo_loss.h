/* ppo_loss.h - the arithmetic of PPO on small arrays: per-token KL, rewards, GAE, whitening, the
 * clipped surrogate, the value loss, the KL controller (Schulman et al. 2016, 2017; Ziegler et al.
 * 2019).
 *
 * A response of R tokens has R states: state i is read at the token before response token i, so its
 * value is the critic's score of that token. Arrays of one response are contiguous. */
#ifndef PPO_LOSS_H
#define PPO_LOSS_H

#include <stdint.h>

typedef enum { KL_K1, KL_K2, KL_K3 } KlEstimator;

/* k1 = x, k2 = x^2/2, k3 = e^-x - 1 + x with x = log p - log p_ref (Schulman 2020, "Approximating
 * KL") */
double kl_estimate(KlEstimator k, double logp, double logp_ref);

/* reward[i] = -kl_coef kl_i for the n response tokens; the score is added by the caller. */
void token_rewards(float *reward, const float *logp, const float *logp_ref, int n, double kl_coef,
                   KlEstimator k);

/* delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, return = A + V; V
 * beyond the end is 0 (Schulman et al. 2016, eq. 16). n states. */
void gae(float *adv, float *ret, const float *reward, const float *value, int n, double gamma,
         double lambda);

/* x <- (x - mean)/sqrt(var + 1e-8) over the marked entries, var unbiased; shift = 0 leaves the
 * mean. */
void whiten(float *x, const uint8_t *mask, int n, int shift);

typedef struct {
    float clip_low, clip_high; /* epsilons of the clipped surrogate */
    float dual_clip; /* c > 1 bounds the loss at -c A where A < 0 (Ye et al. 2020); 0 = off */
    float entropy_coef;
    float kl_loss_coef;  /* KL to the reference as a loss term, 0 = off */
    KlEstimator kl_loss; /* k2 or k3 */
} PolicyLossConfig;

typedef struct { /* sums over tokens */
    double policy, entropy, approxkl, ratio, ratio_squared, kl_loss;
    double max_deviation; /* largest |ratio - 1| */
    double max_ratio;
    int clipped, tokens;
} PolicyStats;

/* L = max(-A r, -A clip(r, 1-eps_lo, 1+eps_hi)) - entropy_coef H + kl_loss_coef KL, r =
 * exp(clamp(log pi - log mu, +-20)) (Schulman et al. 2017, eq. 7). Token t has its advantage at its
 * state, adv[t-1]. Gradients are of the sum times per_token; dentropy may be NULL when entropy_coef
 * is 0, logp_ref when kl_loss_coef is 0. Adds to stats. */
void policy_loss(const PolicyLossConfig *cfg, int N, const uint8_t *wanted, const float *logp,
                 const float *entropy, const float *logp_old, const float *logp_ref,
                 const float *adv, double per_token, float *dlogp, float *dentropy,
                 PolicyStats *stats);

typedef struct {
    double value; /* sum of max((V-R)^2, (clip(V)-R)^2) / 2 */
    int clipped, states;
} ValueStats;

/* L = 1/2 max((V-R)^2, (clip(V, V_old +- eps)-R)^2) over marked states; clip 0 = off. */
void value_loss(float clip, int N, const uint8_t *states, const float *value,
                const float *value_old, const float *ret, double per_state, float *dvalue,
                ValueStats *stats);

/* Adaptive KL coefficient (Ziegler et al. 2019, sec. 2.2): coef (1 + clip(kl/target - 1, +-.2)
 * n/horizon), kl the mean per-sequence sum, n sequences of the rollout. */
double kl_control(double coef, double kl, double target, double horizon, int n);

#endif
