/* ppo_loss.c - see ppo_loss.h. */
#include "ppo/ppo_loss.h"

#include <math.h>

static double clamp(double x, double lo, double hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

double kl_estimate(KlEstimator k, double logp, double logp_ref) {
    double x = logp - logp_ref;
    if (k == KL_K1) return x;
    if (k == KL_K2) return 0.5 * x * x;
    return expm1(clamp(-x, -20.0, 20.0)) + x;
}

void token_rewards(float *reward, const float *logp, const float *logp_ref, int n, double kl_coef,
                   KlEstimator k) {
    for (int i = 0; i < n; i++)
        reward[i] = (float)(-kl_coef * kl_estimate(k, logp[i], logp_ref[i]));
}

void gae(float *adv, float *ret, const float *reward, const float *value, int n, double gamma,
         double lambda) {
    double next_adv = 0.0, next_value = 0.0;
    for (int t = n - 1; t >= 0; t--) {
        double delta = reward[t] + gamma * next_value - value[t];
        next_adv = delta + gamma * lambda * next_adv;
        next_value = value[t];
        adv[t] = (float)next_adv;
        ret[t] = (float)(next_adv + value[t]);
    }
}

void whiten(float *x, const uint8_t *mask, int n, int shift) {
    double sum = 0.0, squares = 0.0;
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (!mask[i]) continue;
        sum += x[i];
        count++;
    }
    if (count < 2) return;
    double mean = sum / count;
    for (int i = 0; i < n; i++)
        if (mask[i]) squares += (x[i] - mean) * (x[i] - mean);
    double scale = 1.0 / sqrt(squares / (count - 1) + 1e-8), keep = shift ? 0.0 : mean;
    for (int i = 0; i < n; i++)
        if (mask[i]) x[i] = (float)((x[i] - mean) * scale + keep);
}

/* The gradient of the KL term by log pi: k2 -> x, k3 -> 1 - e^-x. */
static double kl_slope(KlEstimator k, double x) {
    return k == KL_K2 ? x : -expm1(clamp(-x, -20.0, 20.0));
}

void policy_loss(const PolicyLossConfig *cfg, int N, const uint8_t *wanted, const float *logp,
                 const float *entropy, const float *logp_old, const float *logp_ref,
                 const float *adv, double per_token, float *dlogp, float *dentropy,
                 PolicyStats *stats) {
    for (int t = 0; t < N; t++) {
        dlogp[t] = 0.0f;
        if (dentropy) dentropy[t] = 0.0f;
        if (!wanted[t]) continue;
        double change = (double)logp[t] - logp_old[t], ratio = exp(clamp(change, -20.0, 20.0));
        double A = adv[t - 1]; /* of the state in which token t was chosen */
        double surr = -A * ratio,
               surr_clip = -A * clamp(ratio, 1.0 - cfg->clip_low, 1.0 + cfg->clip_high);

        /* the clipped side is flat in log pi, and so is the bound of the dual clip */
        double loss = fmax(surr, surr_clip), slope = surr >= surr_clip ? surr : 0.0;
        if (surr < surr_clip) stats->clipped++;
        if (cfg->dual_clip > 0.0f && A < 0.0 && loss > -cfg->dual_clip * A) {
            loss = -cfg->dual_clip * A;
            slope = 0.0;
        }
        if (cfg->kl_loss_coef > 0.0f) {
            stats->kl_loss += kl_estimate(cfg->kl_loss, logp[t], logp_ref[t]);
            slope += cfg->kl_loss_coef * kl_slope(cfg->kl_loss, (double)logp[t] - logp_ref[t]);
        }
        dlogp[t] = (float)(slope * per_token);
        if (dentropy) dentropy[t] = (float)(-cfg->entropy_coef * per_token);
        stats->policy += loss;
        stats->entropy += entropy[t];
        stats->approxkl += 0.5 * change * change;
        stats->ratio += ratio;
        stats->ratio_squared += ratio * ratio;
        stats->max_deviation = fmax(stats->max_deviation, fabs(ratio - 1.0));
        stats->max_ratio = fmax(stats->max_ratio, ratio);
        stats->tokens++;
    }
}

void value_loss(float clip, int N, const uint8_t *states, const float *value,
                const float *value_old, const float *ret, double per_state, float *dvalue,
                ValueStats *stats) {
    for (int i = 0; i < N; i++) {
        dvalue[i] = 0.0f;
        if (!states[i]) continue;
        double error = (double)value[i] - ret[i], near = value[i];
        if (clip > 0.0f)
            near = clamp(value[i], (double)value_old[i] - clip, (double)value_old[i] + clip);
        double error_clip = near - ret[i];
        /* V went towards R by more than eps: the clipped error is larger, and flat in V */
        int flat = error_clip * error_clip > error * error;
        stats->value += 0.5 * (flat ? error_clip * error_clip : error * error);
        stats->clipped += flat;
        stats->states++;
        if (!flat) dvalue[i] = (float)(error * per_state);
    }
}

double kl_control(double coef, double kl, double target, double horizon, int n) {
    return coef * (1.0 + clamp(kl / target - 1.0, -0.2, 0.2) * n / horizon);
}
