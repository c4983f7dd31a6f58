/* test_statistics.c - the arithmetic of evaluations against brute force and known numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "reward/statistics.h"

static void near(double have, double want, double tolerance) {
    if (!(fabs(have - want) <= tolerance)) fail_msg("%.12g, not %.12g", have, want);
}

static void wilson_is_wilson(void **state) {
    (void)state;
    Interval half = wilson(0.5, 10), none = wilson(0.0, 20), all = wilson(1.0, 20),
             few = wilson(0.3, 0);
    /* by hand: center (p + zz/2n)/(1 + zz/n), zz = 3.8414588 */
    near(half.low, 0.236593, 1e-6);
    near(half.high, 0.763407, 1e-6);
    near(none.low, 0.0, 0.0);
    near(none.high, 3.8414588 / 23.8414588, 1e-7);
    near(all.low, 20.0 / 23.8414588, 1e-7);
    near(all.high, 1.0, 0.0);
    near(few.low, 0.0, 0.0);
    near(few.high, 1.0, 0.0);
}

static void correlation_by_hand(void **state) {
    (void)state;
    const float x[4] = {1, 2, 3, 4}, y[4] = {2, 1, 4, 3}, down[4] = {9, 7, 5, 3},
                same[4] = {5, 5, 5, 5}, far[4] = {1e6f + 2, 1e6f + 1, 1e6f + 4, 1e6f + 3};
    near(pearson(x, y, 4), 0.6, 1e-12); /* 3 / sqrt(5 * 5) */
    near(pearson(x, down, 4), -1.0, 1e-12);
    near(pearson(x, far, 4), 0.6, 1e-6);
    assert_true(isnan(pearson(x, same, 4)) && isnan(pearson(x, y, 1)));
}

enum { ROWS = 400 };

static void bootstrap_covers_the_mean(void **state) {
    (void)state;
    double x[ROWS], weight[ROWS], scratch[BOOTSTRAP_DRAWS], sum = 0.0;
    for (int i = 0; i < ROWS; i++) {
        x[i] = 3.0 + 2.0 * rng_normal(5, RNG_TEST, 0, (uint64_t)i);
        weight[i] = 2.0;
        sum += x[i];
    }
    Interval a = bootstrap(x, NULL, ROWS, 9, scratch), again = bootstrap(x, NULL, ROWS, 9, scratch),
             other = bootstrap(x, NULL, ROWS, 10, scratch),
             ratio = bootstrap(x, weight, ROWS, 9, scratch);
    assert_true(a.low == again.low && a.high == again.high);
    assert_true(a.low != other.low);
    near((a.low + a.high) / 2, sum / ROWS, 0.03);
    near(a.high - a.low, 2 * 1.96 * 2.0 / sqrt(ROWS), 0.06); /* what the normal distribution has */
    near(ratio.low, a.low / 2, 1e-12);
    near(ratio.high, a.high / 2, 1e-12);
    Interval same = bootstrap((double[]){7, 7, 7}, NULL, 3, 1, scratch);
    near(same.low, 7.0, 0.0);
    near(same.high, 7.0, 0.0);
}

static void calibration_of_known_margins(void **state) {
    (void)state;
    ReliabilityBin bins[RELIABILITY_BINS];
    float m = (float)log(3.0); /* sigma = 0.75, the edge's bin [0.75, 0.8) or the one below */
    float margin[6] = {0.0f, 0.0f, 30.0f, 30.0f, -30.0f, 1.001f * m};
    double ece = reliability(bins, margin, 6);
    assert_int_equal(bins[0].n, 2); /* ties: half right at one half */
    near(bins[0].confidence, 0.5, 0.0);
    near(bins[0].accuracy, 0.5, 0.0);
    assert_int_equal(bins[5].n, 1);
    near(bins[5].accuracy, 1.0, 0.0);
    assert_int_equal(bins[9].n, 3);
    near(bins[9].confidence, 1.0, 1e-12);
    near(bins[9].accuracy, 2.0 / 3, 1e-12);
    double confidence = 1 / (1 + exp(-1.001 * (double)m));
    near(ece, (0.0 + (1.0 - confidence) + 1.0) / 6, 1e-6);
    near(reliability(bins, margin, 0), 0.0, 0.0);
}

static void calibrated_margins_have_little_error(void **state) {
    (void)state;
    enum { N = 20000 };
    static float margin[N], bold[N];
    ReliabilityBin bins[RELIABILITY_BINS];
    for (int i = 0; i < N; i++) { /* the sign is right with the probability that is claimed */
        double m = 4.0 * rng_uniform(1, RNG_TEST, 1, (uint64_t)i),
               right = rng_uniform(1, RNG_TEST, 2, (uint64_t)i) < 1 / (1 + exp(-m));
        margin[i] = (float)(right ? m : -m);
        bold[i] = 3.0f * margin[i];
    }
    double calibrated = reliability(bins, margin, N), overconfident = reliability(bins, bold, N);
    if (calibrated > 0.01) fail_msg("calibrated margins have an error of %g", calibrated);
    if (overconfident < 0.08) fail_msg("margins times 3 have an error of %g", overconfident);
}

static void groups_by_length(void **state) {
    (void)state;
    enum { N = 40 };
    int difference[N], order[N], total = 0, right = 0;
    float margin[N];
    LengthBin bins[LENGTH_BINS];
    for (int i = 0; i < N; i++) {
        difference[i] = (i * 7) % 20 - 10; /* each of -10 ... 9 twice */
        margin[i] = difference[i] > 3 ? 1.0f : -1.0f;
    }
    int n = length_bins(bins, order, difference, margin, N);
    assert_in_range(n, 2, LENGTH_BINS);
    for (int k = 0; k < n; k++) {
        assert_true(bins[k].from <= bins[k].to && bins[k].n > 0);
        if (k) assert_true(bins[k].from > bins[k - 1].to);
        total += bins[k].n;
        right += (int)lround(bins[k].accuracy * bins[k].n);
        if (bins[k].from > 3) near(bins[k].accuracy, 1.0, 0.0);
        if (bins[k].to <= 3) near(bins[k].accuracy, 0.0, 0.0);
    }
    assert_int_equal(total, N);
    assert_int_equal(right, 12);
    assert_int_equal(bins[0].from, -10);
    assert_int_equal(bins[n - 1].to, 9);
    int equal[3] = {4, 4, 4};
    assert_int_equal(length_bins(bins, order, equal, margin, 3), 1);
    assert_int_equal(length_bins(bins, order, equal, margin, 1), 1);
}

static void histograms_count_everything(void **state) {
    (void)state;
    float v[12] = {0,    9, 0.5f, 9, 1,     9,
                   1.5f, 9, 2,    9, 1.99f, 9}; /* every second one is asked for */
    int counts[4];
    histogram(counts, 4, 0.0, 2.0, v, 2, 6);
    assert_int_equal(counts[0], 1);
    assert_int_equal(counts[1], 1);
    assert_int_equal(counts[2], 1);
    assert_int_equal(counts[3], 3);
    histogram(counts, 4, 1.0, 1.0, v, 2, 6); /* no width: all in the first */
    assert_int_equal(counts[0], 6);
}

/* Mean over all subsets of n of the N answers; equal best ones share. */
static double by_force(const float *score, const float *value, int N, int n) {
    double sum = 0.0;
    int subsets = 0;
    for (int set = 0; set < 1 << N; set++) {
        double best = -1e9, total = 0.0;
        int size = 0, winners = 0;
        for (int i = 0; i < N; i++) size += set >> i & 1;
        if (size != n) continue;
        for (int i = 0; i < N; i++)
            if (set >> i & 1) best = fmax(best, score[i]);
        for (int i = 0; i < N; i++)
            if (set >> i & 1 && score[i] == best) total += value[i], winners++;
        sum += total / winners;
        subsets++;
    }
    return sum / subsets;
}

static void best_of_n_by_force(void **state) {
    (void)state;
    enum { N = 9 };
    float score[N], value[N];
    int order[N];
    for (int trial = 0; trial < 20; trial++) {
        for (int i = 0; i < N; i++) {
            score[i] = rng_normal(3, RNG_TEST, (uint64_t)trial, (uint64_t)i);
            if (trial >= 15) score[i] = (float)(i / 3); /* ties */
            value[i] = rng_normal(4, RNG_TEST, (uint64_t)trial, (uint64_t)i);
        }
        for (int n = 1; n <= N; n++) {
            near(best_of(score, score, order, N, n), by_force(score, score, N, n), 1e-6);
            if (trial < 15)
                near(best_of(score, value, order, N, n), by_force(score, value, N, n), 1e-6);
        }
        near(best_of(score, value, order, N, 1), by_force(score, value, N, 1), 1e-6);
    }
    near(best_of_kl(1), 0.0, 0.0);
    near(best_of_kl(4), log(4) - 0.75, 1e-15);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wilson_is_wilson),
        cmocka_unit_test(correlation_by_hand),
        cmocka_unit_test(bootstrap_covers_the_mean),
        cmocka_unit_test(calibration_of_known_margins),
        cmocka_unit_test(calibrated_margins_have_little_error),
        cmocka_unit_test(groups_by_length),
        cmocka_unit_test(histograms_count_everything),
        cmocka_unit_test(best_of_n_by_force),
    };
    return cmocka_run_group_tests_name("statistics", tests, NULL, NULL);
}
