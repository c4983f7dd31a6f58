/* sft.h - supervised fine-tuning: negative log-likelihood of the trained tokens. */
#ifndef SFT_H
#define SFT_H

#include "reward/held_out.h"

typedef struct {
    OptimConfig optim;
    StepConfig step;
    float label_smoothing, neftune_alpha, kl_coef;
    HeldOutConfig held_out;
} SftConfig;
extern const Field sft_fields[];
extern const int sft_n_fields;

/* Runs the stage: model and data as the stage says, DIR/model when done. */
Status sft_run(Stage *stage, const SftConfig *cfg);

/* L = mean over trained tokens of -(1-eps) log p(y) - eps mean_v log p(v) (Szegedy et al. 2016, eq.
 * 8 for the smoothing). Sums, so that micro-batches add up: */
typedef struct {
    double loss, entropy, correct, kl; /* sums over tokens */
    int tokens;
} SftStats;
void sft_loss(SftStats *sum, const float *logp, const float *mean_logp, const float *entropy,
              const float *top1, const uint8_t *wanted, int N, float label_smoothing);
/* Adds 1/2 (log pi - log ref)^2 of the trained tokens to sum->kl (Schulman 2020, k2: its gradient's
 * expectation is the KL's), and its gradient times per_token to dlogp. sum->loss stays the
 * likelihood's. */
void sft_kl(SftStats *sum, const float *logp, const float *logp_ref, const uint8_t *wanted, int N,
            double per_token, float *dlogp);

#endif
