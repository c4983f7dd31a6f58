/* sft_loss.c - sums of the negative log-likelihood, and of the KL to the base, over trained tokens.
 */
#include "sft/sft.h"

void sft_loss(SftStats *sum, const float *logp, const float *mean_logp, const float *entropy,
              const float *top1, const uint8_t *wanted, int N, float label_smoothing) {
    for (int n = 0; n < N; n++) {
        if (!wanted[n]) continue;
        sum->loss -= (1.0 - label_smoothing) * logp[n];
        if (mean_logp) sum->loss -= (double)label_smoothing * mean_logp[n];
        sum->entropy += entropy[n];
        sum->correct += top1[n];
        sum->tokens++;
    }
}

void sft_kl(SftStats *sum, const float *logp, const float *logp_ref, const uint8_t *wanted, int N,
            double per_token, float *dlogp) {
    for (int n = 0; n < N; n++) {
        if (!wanted[n]) continue;
        double x = (double)logp[n] - logp_ref[n];
        sum->kl += 0.5 * x * x;
        dlogp[n] += (float)(x * per_token);
    }
}
