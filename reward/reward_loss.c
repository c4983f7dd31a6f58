/* reward_loss.c - the Bradley-Terry loss of one pair. */
#include <math.h>

#include "reward/reward.h"

double reward_loss(double chosen, double rejected, double margin, double center, double *dchosen,
                   double *drejected) {
    double d = chosen - rejected - margin, sum = chosen + rejected;
    double loss = d > 0.0 ? log1p(exp(-d)) : log1p(exp(d)) - d; /* -log sigma(d), stable */
    double slope = -1.0 / (1.0 + exp(d));
    *dchosen = slope + 2.0 * center * sum;
    *drejected = -slope + 2.0 * center * sum;
    return loss + center * sum * sum;
}
