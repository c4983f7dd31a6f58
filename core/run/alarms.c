/* alarms.c - see alarms.h. */
#include "core/run/alarms.h"

#include <math.h>
#include <string.h>

#include "core/base/status.h"

const Field alarm_fields[] = {
    FIELD(AlarmConfig, enabled, FIELD_BOOL, "true", "watch the run for what usually goes wrong"),
    FIELD(AlarmConfig, may_stop, FIELD_BOOL, "true", "alarms of severity stop end the run"),
    FIELD(AlarmConfig, off, FIELD_LIST, "", "alarms to leave out, by id or name: A9,kl-high"),
    FIELD_IN(AlarmConfig, kl_nats, FIELD_FLOAT, "6", 0, 1e9,
             "A1: KL per sequence that is usual, where the trainer steers to none"),
    FIELD_IN(AlarmConfig, kl_warn, FIELD_FLOAT, "3", 0, 1e9, "A1: times that, for 3 steps: warn"),
    FIELD_IN(AlarmConfig, kl_stop, FIELD_FLOAT, "10", 0, 1e9, "A1: times that: stop"),
    FIELD_IN(AlarmConfig, logp_mismatch, FIELD_FLOAT, "0.5", 0, 1e9,
             "A3, A4: most that log-probs of the same weights may differ where they are not "
             "computed alike"),
    FIELD_IN(AlarmConfig, length_correlation, FIELD_FLOAT, "0.7", 0, 1,
             "A6: most that scores may follow lengths while lengths grow"),
    FIELD_IN(AlarmConfig, truncated_max, FIELD_FLOAT, "0.2", 0, 1,
             "A6: most truncated responses while their share rises"),
    FIELD_IN(AlarmConfig, critic_steps, FIELD_INT, "20", 1, 1 << 20,
             "A8: steps that the critic may explain nothing"),
    FIELD_IN(AlarmConfig, ratio_max, FIELD_FLOAT, "10", 1, 1e30, "A9: largest ratio"),
    FIELD_IN(AlarmConfig, clipfrac_max, FIELD_FLOAT, "0.4", 0, 1, "A9: largest clipped share"),
    FIELD_IN(AlarmConfig, entropy_share, FIELD_FLOAT, "0.25", 0, 1,
             "A10: least entropy, of the first step's"),
    FIELD_IN(AlarmConfig, repetition_max, FIELD_FLOAT, "0.1", 0, 1,
             "A11: most responses that repeat themselves"),
    FIELD_IN(AlarmConfig, duplicates_max, FIELD_FLOAT, "0.05", 0, 1,
             "A11: most responses that equal another prompt's"),
    FIELD_IN(AlarmConfig, data_remarks, FIELD_FLOAT, "0.05", 0, 1,
             "A15: most rows of a file that may be of a kind: too long, bad, doubled, ..."),
    FIELD_IN(AlarmConfig, length_bias, FIELD_FLOAT, "0.7", 0.5, 1,
             "A15: most pairs whose chosen answer may be the longer one, or the shorter"),
    FIELD_IN(AlarmConfig, step_time, FIELD_FLOAT, "2", 1, 1e9,
             "A16: times the usual that a step may take"),
};
const int alarm_n_fields = sizeof alarm_fields / sizeof *alarm_fields;

/* --- series --- */

static void series_add(AlarmSeries *s, double x) {
    if (isfinite(x)) s->last[s->n++ % ALARM_WINDOW] = x;
}

static double series_back(const AlarmSeries *s, int back) { /* 0: the newest */
    CHECK(back < s->n && back < ALARM_WINDOW);
    return s->last[(s->n - 1 - back) % ALARM_WINDOW];
}

/* Means of the older and the newer half of a full window, and the standard error of their
 * difference. It is estimated from neighbouring values (von Neumann 1941): the deviation from a
 * common mean would count the rise itself as noise. */
typedef struct {
    double older, newer, noise;
} Halves;
static int halves(const AlarmSeries *s, Halves *h) {
    enum { HALF = ALARM_WINDOW / 2 };
    double squares = 0.0;
    *h = (Halves){0};
    if (s->n < ALARM_WINDOW) return 0;
    for (int i = 0; i < HALF; i++) {
        h->newer += series_back(s, i) / HALF;
        h->older += series_back(s, i + HALF) / HALF;
    }
    for (int i = 0; i + 1 < ALARM_WINDOW; i++) {
        double d = series_back(s, i) - series_back(s, i + 1);
        squares += d * d / 2.0 / (ALARM_WINDOW - 1);
    }
    h->noise = sqrt(squares * 2.0 / HALF);
    return 1;
}

static double median_before_last(const AlarmSeries *s) {
    double v[ALARM_WINDOW];
    int n = 0;
    for (int back = 1; back < s->n && back < ALARM_WINDOW; back++) {
        double x = series_back(s, back);
        int at = n++;
        for (; at > 0 && v[at - 1] > x; at--) v[at] = v[at - 1];
        v[at] = x;
    }
    return n ? v[n / 2] : NAN;
}

/* --- rules: does the condition hold now? UNKNOWN where the row has no value for it --- */

typedef enum { UNKNOWN = -1, FINE = 0, HOLDS = 1 } Verdict;

typedef struct {
    AlarmState *s;
    const AlarmConfig *cfg;
    const AlarmFacts *facts;
    const Metrics *m;
    int step;
    double value, limit; /* out: what the alarm shows */
} Look;

static Verdict above(Look *l, double value, double limit) {
    l->value = value;
    l->limit = limit;
    return isnan(value) ? UNKNOWN : value > limit ? HOLDS : FINE;
}
static Verdict below(Look *l, double value, double limit) {
    l->value = value;
    l->limit = limit;
    return isnan(value) ? UNKNOWN : value < limit ? HOLDS : FINE;
}
static double get(const Look *l, const char *name) {
    return metrics_get(l->m, name);
}

static double usual_kl(const Look *l) {
    return l->facts->kl_target > 0.0 ? l->facts->kl_target : l->cfg->kl_nats;
}
static Verdict kl_high(Look *l) {
    return above(l, get(l, "objective/kl"), l->cfg->kl_warn * usual_kl(l));
}
static Verdict kl_explosion(Look *l) {
    return above(l, get(l, "objective/kl"), l->cfg->kl_stop * usual_kl(l));
}
static Verdict kl_negative(Look *l) {
    return below(l, get(l, "objective/kl"), -3.0 * get(l, "objective/kl_stderr"));
}
static Verdict logp_mismatch(Look *l) {
    double limit = l->facts->exact_logp ? 0.0 : l->cfg->logp_mismatch;
    return above(l, get(l, "rollout/logp_drift"), limit);
}
static Verdict first_kl(Look *l) {
    if (l->step != 1 || !l->facts->kl_begins_at_0) return UNKNOWN;
    double limit = l->facts->exact_logp ? 0.0 : l->cfg->logp_mismatch;
    return above(l, fabs(get(l, "objective/kl")), limit);
}
static Verdict both_fall(Look *l) {
    double chosen = get(l, "logps/chosen"), rejected = get(l, "logps/rejected");
    Verdict v = below(l, chosen, l->s->first_chosen - 10.0);
    if (v != HOLDS) return v;
    return rejected < l->s->first_rejected - 10.0 && get(l, "rewards/margins") > 0.0;
}
static Verdict score_by_length(Look *l) {
    Halves h;
    Verdict v = above(l, get(l, "objective/score_length_corr"), l->cfg->length_correlation);
    if (v != HOLDS) return v;
    return halves(&l->s->length, &h) ? h.newer > 1.1 * h.older : UNKNOWN;
}
/* Among the few responses of a step some are always cut. So share and rise are taken over ten
 * steps, and the rise must exceed what their spread explains. */
static Verdict truncated(Look *l) {
    Halves h;
    if (isnan(get(l, "rollout/truncated_rate")) || !halves(&l->s->truncated, &h)) return UNKNOWN;
    Verdict v = above(l, h.newer, l->cfg->truncated_max);
    return v == HOLDS ? h.newer - h.older > fmax(0.02, 4.0 * h.noise) : v;
}
/* Since gold was best it has fallen by more than the choice of prompts explains, while the judge's
 * score has risen. */
static Verdict gold_falls(Look *l) {
    const AlarmSeries *score = &l->s->score, *gold = &l->s->gold;
    int n = gold->n < ALARM_WINDOW ? gold->n : ALARM_WINDOW, best = 0;
    if (isnan(get(l, "eval/gold")) || !n || score->n != gold->n) return UNKNOWN;
    for (int i = 1; i < n; i++)
        if (series_back(gold, i) > series_back(gold, best)) best = i;
    Verdict v =
        below(l, series_back(gold, 0), series_back(gold, best) - 5.0 * get(l, "eval/gold_stderr"));
    return v == HOLDS ? series_back(score, 0) > series_back(score, best) : v;
}
static Verdict only_longer(Look *l) {
    double longer = get(l, "eval/longer_wins"), accuracy = get(l, "eval/accuracy");
    return isnan(longer) ? UNKNOWN : below(l, accuracy, longer + 1e-9);
}
static Verdict constant_scores(Look *l) {
    double mean = get(l, "objective/raw_scores");
    return below(l, get(l, "objective/scores_std"), 1e-5 * (1.0 + fabs(mean)));
}
static Verdict critic_explains_nothing(Look *l) {
    return below(l, get(l, "critic/vf_explained_var"), 0.0);
}
static Verdict large_ratio(Look *l) {
    return above(l, get(l, "val/ratio_max"), l->cfg->ratio_max);
}
static Verdict much_clipped(Look *l) {
    return above(l, get(l, "policy/clipfrac_avg"), l->cfg->clipfrac_max);
}
static Verdict entropy_gone(Look *l) {
    double h = get(l, "policy/entropy_avg");
    return below(l, h, l->cfg->entropy_share * l->s->first_entropy);
}
static Verdict repeats(Look *l) {
    return above(l, get(l, "rollout/repetition_rate"), l->cfg->repetition_max);
}
static Verdict compresses(Look *l) {
    return above(l, get(l, "rollout/compressible_rate"), l->cfg->repetition_max);
}
static Verdict duplicates(Look *l) {
    return above(l, get(l, "rollout/duplicate_rate"), l->cfg->duplicates_max);
}
static Verdict bad_ends(Look *l) {
    return above(l, get(l, "rollout/bad_ends"), 0.0);
}
static Verdict not_whitened(Look *l) {
    return above(l, fabs(get(l, "val/whitened_std") - 1.0), 1e-2);
}
static Verdict misplaced_score(Look *l) {
    return above(l, get(l, "val/score_misplaced"), 1e-3);
}
static Verdict skipped(Look *l) {
    return above(l, get(l, "optimizer/skipped"), l->s->skipped);
}
static Verdict slow(Look *l) {
    if (l->s->step_time.n < ALARM_WINDOW / 2) return UNKNOWN;
    return above(l, get(l, "timing_s/step"),
                 l->cfg->step_time * median_before_last(&l->s->step_time));
}

typedef struct {
    const char *id, *name, *metric;
    AlarmSeverity severity;
    int window; /* steps that it must hold; 0: critic_steps */
    Verdict (*look)(Look *l);
    const char *cause, *setting;
} Rule;

static const Rule rules[] = {
    {"A1", "kl-high", "objective/kl", ALARM_WARN, 3, kl_high,
     "the policy leaves the reference: the price on KL is low for this learning rate",
     "ppo.kl_coef"},
    {"A1", "kl-explosion", "objective/kl", ALARM_STOP, 1, kl_explosion,
     "the policy has left the reference; what it writes now is seldom of use", "ppo.kl_coef"},
    {"A2", "kl-negative", "objective/kl", ALARM_WARN, 3, kl_negative,
     "the mean of log pi - log ref cannot be negative: policy and reference are scored differently "
     "(temperature, mask, template) or the wrong way round",
     "reference"},
    {"A3", "logp-mismatch", "rollout/logp_drift", ALARM_WARN, 1, logp_mismatch,
     "sampling and training do not agree about the same tokens", "batch_invariant"},
    {"A4", "first-kl", "objective/kl", ALARM_STOP, 1, first_kl,
     "policy and reference are the same weights and must agree before the first update",
     "reference"},
    {"A5", "both-fall", "logps/chosen", ALARM_WARN, 3, both_fall,
     "chosen and rejected answers both become unlikely while their margin grows", "dpo.sft_coef"},
    {"A6", "score-by-length", "objective/score_length_corr", ALARM_WARN, 3, score_by_length,
     "longer answers get higher scores, and answers grow: the judge is being exploited",
     "reward_model"},
    {"A6", "truncated", "rollout/truncated_rate", ALARM_WARN, 5, truncated,
     "more and more answers do not end", "ppo.missing_eos_penalty"},
    {"A6", "gold-falls", "eval/gold", ALARM_WARN, 2, gold_falls,
     "the learned score rises while the true one falls: over-optimization", "ppo.kl_coef"},
    {"A7", "no-better-than-length", "eval/accuracy", ALARM_WARN, 2, only_longer,
     "on held-out pairs the reward model is no better than preferring the longer answer",
     "data.train"},
    {"A7", "constant-scores", "objective/scores_std", ALARM_WARN, 2, constant_scores,
     "the judge gives every answer the same score: there is nothing to learn", "reward_model"},
    {"A8", "critic-explains-nothing", "critic/vf_explained_var", ALARM_WARN, 0,
     critic_explains_nothing, "the critic is worse than a constant", "ppo.critic_learning_rate"},
    {"A9", "large-ratio", "val/ratio_max", ALARM_WARN, 1, large_ratio,
     "one update moved a token's probability far from where it was sampled", "ppo.learning_rate"},
    {"A9", "much-clipped", "policy/clipfrac_avg", ALARM_WARN, 1, much_clipped,
     "most of the update is cut off by the clip", "ppo.learning_rate"},
    {"A10", "entropy-gone", "policy/entropy_avg", ALARM_WARN, 3, entropy_gone,
     "the policy has stopped exploring", "ppo.entropy_coef"},
    {"A11", "repetition", "rollout/repetition_rate", ALARM_WARN, 2, repeats,
     "answers repeat their own words", "ppo.kl_coef"},
    {"A11", "compressible", "rollout/compressible_rate", ALARM_WARN, 2, compresses,
     "answers are made of few pieces", "ppo.kl_coef"},
    {"A11", "duplicates", "rollout/duplicate_rate", ALARM_WARN, 3, duplicates,
     "different prompts get the same answer", "ppo.kl_coef"},
    {"A12", "bad-ends", "rollout/bad_ends", ALARM_WARN, 1, bad_ends,
     "a response has neither exactly one EOS, at its end, nor was it cut", "tokenizer"},
    {"A13", "not-whitened", "val/whitened_std", ALARM_WARN, 1, not_whitened,
     "advantages are not of unit deviation", "ppo.whiten_rewards"},
    {"A13", "misplaced-score", "val/score_misplaced", ALARM_WARN, 1, misplaced_score,
     "a score does not stand on its response's last state", "ppo.score_at"},
    {"A14", "skipped-step", "optimizer/skipped", ALARM_WARN, 1, skipped,
     "a gradient was not finite, its step was left out", "ppo.grad_clip"},
    {"A16", "slow-step", "timing_s/step", ALARM_WARN, 3, slow,
     "steps take longer than they did: memory, other programs, or longer answers",
     "ppo.max_new_tokens"},
};
enum { RULES = sizeof rules / sizeof *rules };
_Static_assert((int)RULES <= (int)ALARM_RULES_MAX, "state for each rule");

static void remember(AlarmState *s, const Metrics *m) {
    series_add(&s->length, metrics_get(m, "response_length/mean"));
    series_add(&s->truncated, metrics_get(m, "rollout/truncated_rate"));
    series_add(&s->step_time, metrics_get(m, "timing_s/step"));
    series_add(&s->score, metrics_get(m, "eval/scores"));
    series_add(&s->gold, metrics_get(m, "eval/gold"));
    if (s->steps++) return;
    s->first_entropy = metrics_get(m, "policy/entropy_avg");
    s->first_chosen = metrics_get(m, "logps/chosen");
    s->first_rejected = metrics_get(m, "logps/rejected");
}

int alarm_is_off(const AlarmConfig *cfg, const char *id, const char *name) {
    for (int i = 0; i < cfg->off.n; i++)
        if (!strcmp(cfg->off.items[i], id) || !strcmp(cfg->off.items[i], name)) return 1;
    return !cfg->enabled;
}

void alarms_check(AlarmState *s, const AlarmConfig *cfg, const AlarmFacts *facts, int step,
                  const Metrics *m, Alarm *out, int *n) {
    *n = 0;
    if (step > 0) remember(s, m); /* step 0 has evaluations alone */
    for (int i = 0; i < RULES; i++) {
        const Rule *r = &rules[i];
        Look look = {s, cfg, facts, m, step, NAN, NAN};
        Verdict v = r->look(&look);
        if (v == UNKNOWN) continue;
        s->held[i] = v == HOLDS ? s->held[i] + 1 : 0;
        if (v == FINE) s->raised[i] = 0;
        if (s->held[i] < (r->window ? r->window : cfg->critic_steps) || s->raised[i]) continue;
        s->raised[i] = 1;
        if (alarm_is_off(cfg, r->id, r->name)) continue;
        out[(*n)++] = (Alarm){r->id,      r->name,    r->metric,
                              r->cause,   r->setting, cfg->may_stop ? r->severity : ALARM_WARN,
                              look.value, look.limit};
    }
    double now = metrics_get(m, "optimizer/skipped");
    if (!isnan(now)) s->skipped = now;
}

void alarms_forget_clock(AlarmState *s) {
    memset(&s->step_time, 0, sizeof s->step_time);
    for (int i = 0; i < RULES; i++)
        if (rules[i].look == slow) s->held[i] = s->raised[i] = 0;
}

void alarm_write(Text *t, const Alarm *a, int step, double wall_time) {
    const struct {
        const char *key, *value;
    } strings[] = {{"id", a->id},
                   {"name", a->name},
                   {"severity", a->severity == ALARM_STOP ? "stop" : "warn"},
                   {"metric", a->metric},
                   {"cause", a->cause},
                   {"setting", a->setting}};
    text_addf(t, "{\"step\":%d,\"wall_time\":%.3f", step, wall_time);
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        json_put_key(t, strings[i].key);
        json_put_string(t, strings[i].value);
    }
    json_put_key(t, "value");
    json_put_number(t, a->value);
    json_put_key(t, "limit");
    json_put_number(t, a->limit);
    text_add(t, "}");
}
