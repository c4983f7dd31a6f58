/* statistics.c - see statistics.h. */
#include "reward/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"

Interval wilson(double share, int n) {
    double z = 1.959963984540054, zz = z * z;
    if (!n) return (Interval){0.0, 1.0};
    double half = z * sqrt(share * (1 - share) / n + zz / (4.0 * n * n));
    double center = share + zz / (2 * n), scale = 1 + zz / n;
    return (Interval){fmax(0.0, (center - half) / scale), fmin(1.0, (center + half) / scale)};
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

Interval bootstrap(const double *x, const double *weight, int n, uint64_t seed, double *scratch) {
    Rng rng = {.seed = seed, .purpose = RNG_BOOTSTRAP};
    for (int draw = 0; draw < BOOTSTRAP_DRAWS; draw++) {
        double sum = 0.0, weights = 0.0;
        for (int i = 0; i < n; i++) {
            int row = rng_below(&rng, n);
            sum += x[row];
            weights += weight ? weight[row] : 1.0;
        }
        scratch[draw] = weights > 0.0 ? sum / weights : 0.0;
    }
    qsort(scratch, BOOTSTRAP_DRAWS, sizeof *scratch, compare_doubles);
    int tail = BOOTSTRAP_DRAWS / 40; /* 2.5 % */
    return (Interval){scratch[tail], scratch[BOOTSTRAP_DRAWS - 1 - tail]};
}

double reliability(ReliabilityBin bins[RELIABILITY_BINS], const float *margin, int n) {
    double error = 0.0;
    memset(bins, 0, RELIABILITY_BINS * sizeof *bins);
    for (int i = 0; i < n; i++) {
        double confidence = 1.0 / (1.0 + exp(-fabs((double)margin[i])));
        int k = (int)((confidence - 0.5) * 2 * RELIABILITY_BINS);
        ReliabilityBin *b = &bins[k < RELIABILITY_BINS ? k : RELIABILITY_BINS - 1];
        b->confidence += confidence;
        b->accuracy += margin[i] > 0.0f ? 1.0 : margin[i] == 0.0f ? 0.5 : 0.0;
        b->n++;
    }
    for (int k = 0; k < RELIABILITY_BINS; k++) {
        ReliabilityBin *b = &bins[k];
        if (!b->n) continue;
        error += fabs(b->accuracy - b->confidence) / n;
        b->confidence /= b->n;
        b->accuracy /= b->n;
    }
    return error;
}

static int compare_by_int(const void *a, const void *b, void *key) {
    int i = *(const int *)a, j = *(const int *)b;
    const int *v = key;
    return v[i] != v[j] ? (v[i] > v[j]) - (v[i] < v[j]) : (i > j) - (i < j);
}

int length_bins(LengthBin bins[LENGTH_BINS], int *order, const int *difference, const float *margin,
                int n) {
    int count = 0;
    for (int i = 0; i < n; i++) order[i] = i;
    qsort_r(order, (size_t)n, sizeof *order, compare_by_int, (void *)difference);
    for (int first = 0, last; first < n; first = last) {
        int left = LENGTH_BINS - count, right = 0;
        last = left > 1 ? first + (n - first + left - 1) / left : n;
        while (last < n && difference[order[last]] == difference[order[last - 1]]) last++;
        for (int i = first; i < last; i++) right += margin[order[i]] > 0.0f;
        bins[count++] = (LengthBin){difference[order[first]], difference[order[last - 1]],
                                    last - first, (double)right / (last - first)};
    }
    return count;
}

double pearson(const float *x, const float *y, int n) {
    double mean_x = 0.0, mean_y = 0.0, xx = 0.0, yy = 0.0, xy = 0.0;
    for (int i = 0; i < n; i++) {
        mean_x += (double)x[i] / n;
        mean_y += (double)y[i] / n;
    }
    for (int i = 0; i < n; i++) {
        double dx = x[i] - mean_x, dy = y[i] - mean_y;
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    return xx > 0.0 && yy > 0.0 ? xy / sqrt(xx * yy) : NAN;
}

void histogram(int *counts, int bins, double low, double high, const float *v, int stride, int n) {
    memset(counts, 0, (size_t)bins * sizeof *counts);
    for (int i = 0; i < n; i++) {
        double at = high > low ? (v[i * stride] - low) / (high - low) * bins : 0.0;
        int k = at > 0.0 ? (int)fmin(at, bins - 1) : 0;
        counts[k]++;
    }
}

static int compare_by_float(const void *a, const void *b, void *key) {
    const float *v = key;
    float x = v[*(const int *)a], y = v[*(const int *)b];
    return (x > y) - (x < y);
}

/* The answer of rank i of N is the best of C(i-1, n-1) of the C(N, n) choices. */
double best_of(const float *score, const float *value, int *order, int N, int n) {
    double expected = 0.0, share = (double)n / N; /* of the last rank; others by the quotient */
    for (int i = 0; i < N; i++) order[i] = i;
    qsort_r(order, (size_t)N, sizeof *order, compare_by_float, (void *)score);
    for (int last = N, first; last >= n; last = first) {
        double shares = 0.0, sum = 0.0;
        for (first = last; first > 0 && score[order[first - 1]] == score[order[last - 1]];
             first--) {
            sum += value[order[first - 1]];
            shares += share;
            share *= first > 1 ? (double)(first - n) / (first - 1) : 0.0;
        }
        expected += shares * sum / (last - first);
    }
    return expected;
}

double best_of_kl(int n) {
    return log(n) - (n - 1.0) / n;
}
