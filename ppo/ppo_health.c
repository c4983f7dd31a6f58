/* ppo_health.c - the figures of a rollout that only alarms need. */
#include <math.h>

#include "policy/degenerate.h"
#include "ppo/ppo_inside.h"

typedef struct { /* sums over pairs */
    double n, x, y, xx, yy, xy;
} Moments;

static void moments_add(Moments *m, double x, double y) {
    m->n++, m->x += x, m->y += y, m->xx += x * x, m->yy += y * y, m->xy += x * y;
}
static double variance_of_x(const Moments *m) {
    return m->n > 1 ? fmax(0.0, (m->xx - m->x * m->x / m->n) / (m->n - 1)) : NAN;
}
static double correlation(const Moments *m) { /* Pearson's; NaN where one does not vary */
    double x = m->xx - m->x * m->x / m->n, y = m->yy - m->y * m->y / m->n;
    return x > 1e-12 && y > 1e-12 ? (m->xy - m->x * m->y / m->n) / sqrt(x * y) : NAN;
}

/* A response ends with exactly one EOS, or holds none and was cut. */
static int ends_well(const Ppo *p, int s) {
    int n = rollout_length(&p->rollout, s), eos = 0;
    const int *ids = rollout_response(&p->rollout, s);
    for (int i = 0; i < n; i++) eos += tokenizer_is_eos(p->tokenizer, ids[i]);
    if (p->rollout.stop[s] != STOP_EOS) return eos == 0;
    return eos == 1 && tokenizer_is_eos(p->tokenizer, ids[n - 1]);
}

/* The largest relative difference between the rewards and what they should be: the price of each
 * token's KL and, at the last state, the score. Computed independently of credit(), on purpose. */
static double misplaced(const Ppo *p) {
    double worst = 0.0;
    for (int s = 0; s < p->S; s++) {
        int R = rollout_length(&p->rollout, s),
            first = p->rollout.seq.starts[s] + p->rollout.n_prompt[s] - 1,
            n = R + (p->after_eos && p->rollout.stop[s] == STOP_EOS);
        for (int i = 0; i < n; i++) {
            int token = first + 1 + i;
            double want = i == n - 1 ? p->score[s] : 0.0;
            if (i < R)
                want -= p->state.kl_coef *
                        kl_estimate(p->kl, p->rollout.logp[token], p->logp_ref[token]);
            worst = fmax(worst, fabs(want - p->reward_at[first + i]) / (1.0 + fabs(want)));
        }
    }
    return worst;
}

static double whitened_deviation(const Ppo *p) {
    Moments m = {0};
    for (int n = 0; n < p->rollout.seq.N; n++)
        if (p->whitened[n]) moments_add(&m, p->adv[n], 0.0);
    return sqrt(variance_of_x(&m));
}

Status ppo_health(const Ppo *p, Metrics *m) {
    const Packed *q = &p->rollout.seq;
    Moments kl = {0}, score = {0};
    Degenerate d;
    int bad_ends = 0;
    for (int s = 0; s < p->S; s++) {
        double sum = 0.0;
        for (int n = q->starts[s]; n < q->starts[s + 1]; n++)
            if (q->wanted[n]) sum += (double)p->rollout.logp[n] - p->logp_ref[n];
        moments_add(&kl, sum, 0.0);
        moments_add(&score, p->raw_score[s], rollout_length(&p->rollout, s));
        bad_ends += !ends_well(p, s);
    }
    TRY(degenerate_shares(&d, &p->rollout, p->tokenizer));
    metrics_set(m, "objective/kl_stderr", sqrt(variance_of_x(&kl) / p->S));
    metrics_set(m, "objective/scores_std", sqrt(variance_of_x(&score)));
    metrics_set(m, "objective/score_length_corr", correlation(&score));
    metrics_set(m, "rollout/repetition_rate", d.repetition);
    metrics_set(m, "rollout/compressible_rate", d.compressible);
    metrics_set(m, "rollout/duplicate_rate", d.duplicate);
    metrics_set(m, "rollout/bad_ends", bad_ends);
    metrics_set(m, "val/whitened_std", whitened_deviation(p));
    if (!p->cfg->whiten_rewards) metrics_set(m, "val/score_misplaced", misplaced(p));
    metrics_set(m, "optimizer/skipped", p->actor_optim.skipped + p->critic_optim.skipped);
    return OK;
}
