/* sft_loss.c - sums of the negative log-likelihood over trained tokens. */
#include "sft/sft.h"

void sft_loss(SftStats *sum, const float *logp, const float *mean_logp, const float *entropy, const float *top1,
              const uint8_t *wanted, int N, float label_smoothing) {
    for (int n = 0; n < N; n++) {
        if (!wanted[n]) continue;
        sum->loss -= (1.0 - label_smoothing) * logp[n];
        if (mean_logp) sum->loss -= (double)label_smoothing * mean_logp[n];
        sum->entropy += entropy[n];
        sum->correct += top1[n];
        sum->tokens++;
    }
}
