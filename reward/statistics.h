/* statistics.h - the arithmetic of evaluations: intervals, calibration, histograms, the best of n
 * answers. Pure functions of arrays. */
#ifndef STATISTICS_H
#define STATISTICS_H

#include <stdint.h>

typedef struct {
    double low, high;
} Interval;

/* 95 % interval of a share of n (Wilson 1927). [0, 1] for n = 0. */
Interval wilson(double share, int n);

/* 95 % interval of sum(x) / sum(weight) over rows drawn again with replacement (Efron 1979, the
 * percentile method with 1000 draws); weight NULL: of the mean. `scratch` holds BOOTSTRAP_DRAWS
 * numbers. A function of the seed and the rows. n > 0. */
enum { BOOTSTRAP_DRAWS = 1000 };
Interval bootstrap(const double *x, const double *weight, int n, uint64_t seed, double *scratch);

/* How far confidence can be believed (Guo et al. 2017): a pair of margin m is said to be right with
 * probability sigma(|m|), and is where m > 0 (half where m = 0). Bins of equal width over [0.5, 1];
 * mean confidence and accuracy of each, 0 where it is empty. Returns the expected calibration
 * error. */
enum { RELIABILITY_BINS = 10 };
typedef struct {
    double confidence, accuracy;
    int n;
} ReliabilityBin;
double reliability(ReliabilityBin bins[RELIABILITY_BINS], const float *margin, int n);

/* Groups of about equal size by difference of lengths, equal differences together. order [n] comes
 * back sorted by difference. Returns how many groups there are. */
enum { LENGTH_BINS = 8 };
typedef struct {
    int from, to, n; /* differences, both ends included */
    double accuracy; /* share of margins above 0 */
} LengthBin;
int length_bins(LengthBin bins[LENGTH_BINS], int *order, const int *difference, const float *margin,
                int n);

/* Pearson's correlation of x and y; NaN where one of them does not vary. */
double pearson(const float *x, const float *y, int n);

/* Counts of values in `bins` parts of equal width of [low, high]; the last holds high, too. */
void histogram(int *counts, int bins, double low, double high, const float *v, int stride, int n);

/* Expected value of the answer that scores best among n of N: the mean over all choices of n
 * answers, computed from the ranks (unbiased; Stiennon et al. 2020, appendix G). Equal scores are
 * as likely to be taken. order [N] is scratch. 1 <= n <= N. */
double best_of(const float *score, const float *value, int *order, int N, int n);
/* KL of that answer's distribution from the policy's, at most: log n - (n-1)/n, in nats. */
double best_of_kl(int n);

#endif
