/* reward_report.c - an evaluation on pairs as evals/reward.json, which the page draws. */
#include <math.h>

#include "core/base/memory.h"
#include "reward/reward.h"
#include "reward/statistics.h"

enum { SCORE_BINS = 24 };

static void put(Text *t, const char *key, double v) {
    json_put_key(t, key);
    json_put_number(t, v);
}

static void put_counts(Text *t, const char *key, const float *v, int stride, int n, double low,
                       double high) {
    int counts[SCORE_BINS];
    histogram(counts, SCORE_BINS, low, high, v, stride, n);
    json_put_key(t, key);
    text_add(t, "{\"edges\":[");
    for (int i = 0; i <= SCORE_BINS; i++) {
        if (i) text_add(t, ",");
        json_put_number(t, low + (high - low) * i / SCORE_BINS);
    }
    text_add(t, "]");
    json_put_key(t, "counts");
    json_put_ints(t, counts, SCORE_BINS);
    text_add(t, "}");
}

static void put_subsets(Text *t, const RewardEval *e) {
    json_put_key(t, "subsets");
    text_add(t, "[");
    for (int i = 0; i < e->n_subsets; i++) {
        const SubsetAccuracy *s = &e->subset[i];
        text_add(t, i ? ",{" : "{");
        json_put_key(t, "subset");
        json_put_string(t, s->name);
        put(t, "n", s->pairs);
        put(t, "accuracy", (double)s->right / s->pairs);
        text_add(t, "}");
    }
    text_add(t, "]");
}

static void put_calibration(Text *t, const float *margin, int n) {
    ReliabilityBin bins[RELIABILITY_BINS];
    int written = 0;
    put(t, "ece", reliability(bins, margin, n));
    json_put_key(t, "reliability");
    text_add(t, "[");
    for (int k = 0; k < RELIABILITY_BINS; k++) {
        if (!bins[k].n) continue;
        text_add(t, written++ ? ",{" : "{");
        put(t, "confidence", bins[k].confidence);
        put(t, "accuracy", bins[k].accuracy);
        put(t, "n", bins[k].n);
        text_add(t, "}");
    }
    text_add(t, "]");
}

/* Is the longer answer preferred because it is longer? */
static void put_lengths(Text *t, const float *margin, const int *difference, int *order, int n) {
    LengthBin bins[LENGTH_BINS];
    int pairs[2] = {0}, right[2] = {0}; /* where the chosen answer is shorter, longer */
    for (int i = 0; i < n; i++) {
        if (!difference[i]) continue;
        pairs[difference[i] > 0]++;
        right[difference[i] > 0] += margin[i] > 0.0f;
    }
    if (pairs[1]) put(t, "accuracy_chosen_longer", (double)right[1] / pairs[1]);
    if (pairs[0]) put(t, "accuracy_chosen_shorter", (double)right[0] / pairs[0]);
    int count = length_bins(bins, order, difference, margin, n);
    json_put_key(t, "length_bins");
    text_add(t, "[");
    for (int k = 0; k < count; k++) {
        text_add(t, k ? ",{" : "{");
        put(t, "from", bins[k].from);
        put(t, "to", bins[k].to);
        put(t, "n", bins[k].n);
        put(t, "accuracy", bins[k].accuracy);
        text_add(t, "}");
    }
    text_add(t, "]");
}

/* Of all answers, each by itself: how far do scores follow lengths? */
static void put_length_correlation(Text *t, const Dataset *d, const float *pairs, float *length) {
    for (int i = 0; i < d->n; i++) {
        const Sequence *s[2] = {&d->rows[i].a, &d->rows[i].b};
        for (int k = 0; k < 2; k++) length[2 * i + k] = (float)(s[k]->n - s[k]->n_prompt);
    }
    put(t, "score_length_corr", pearson(pairs, length, 2 * d->n));
}

static void put_figures(Text *t, const RewardEval *e) {
    Interval limits = wilson(reward_accuracy(e), e->pairs);
    put(t, "n", e->pairs);
    put(t, "accuracy", reward_accuracy(e));
    put(t, "accuracy_low", limits.low);
    put(t, "accuracy_high", limits.high);
    if (e->gold_pairs) put(t, "accuracy_ceiling", (double)e->gold_right / e->gold_pairs);
    if (e->longer_pairs) put(t, "longer_wins", (double)e->longer_right / e->longer_pairs);
    put(t, "ties", e->ties);
    put(t, "loss", e->loss);
}

Status reward_report(Run *run, const RewardEval *e, const Dataset *d, const float *pairs,
                     const char *model, const char *data) {
    Arena arena = {0};
    Text t = {0};
    int n = d->n;
    float *margin = arena_alloc(&arena, (size_t)n * sizeof *margin),
          *length = arena_alloc(&arena, 2 * (size_t)n * sizeof *length);
    int *difference = arena_alloc(&arena, (size_t)n * sizeof *difference),
        *order = arena_alloc(&arena, (size_t)n * sizeof *order);
    double sum = 0.0, low = INFINITY, high = -INFINITY;
    for (int i = 0; i < n; i++) {
        margin[i] = pairs[2 * i] - pairs[2 * i + 1];
        difference[i] = d->rows[i].a.n - d->rows[i].b.n;
        sum += margin[i];
        low = fmin(low, margin[i]);
        high = fmax(high, margin[i]);
    }
    text_add(&t, "{\"kind\":\"reward\"");
    json_put_key(&t, "model");
    json_put_string(&t, model);
    json_put_key(&t, "data");
    json_put_string(&t, data);
    put_figures(&t, e);
    put(&t, "margin_mean", sum / n);
    put_subsets(&t, e);
    put_calibration(&t, margin, n);
    put_length_correlation(&t, d, pairs, length);
    put_lengths(&t, margin, difference, order, n);
    put_counts(&t, "chosen", pairs, 2, n, e->min, e->max);
    put_counts(&t, "rejected", pairs + 1, 2, n, e->min, e->max);
    put_counts(&t, "margins", margin, 1, n, low, high);
    text_add(&t, "}");
    Status s = run_evaluation(run, "reward", t.s);
    text_release(&t);
    arena_release(&arena);
    return s;
}
