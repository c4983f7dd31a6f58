/* reward.h - the Bradley-Terry reward model: how it is trained and evaluated (Bradley & Terry 1952;
 * Stiennon et al. 2020, eq. 1). Score = scalar head at the hidden state of the last token. */
#ifndef REWARD_H
#define REWARD_H

#include "core/model/packed.h"
#include "datasets/stage.h"

typedef struct {
    OptimConfig optim;
    StepConfig step;
    int use_margin;
    float center;
    const char *parts; /* pairs whose subset names the broken part, "" none */
} RewardConfig;
extern const Field reward_fields[];
extern const int reward_n_fields;

/* Runs the stage: DIR/model is a *ForSequenceClassification directory. */
Status reward_run(Stage *stage, const RewardConfig *cfg);

/* L = -log sigma(r_c - r_r - margin) + center (r_c + r_r)^2 of one pair; gradients by both scores.
 * (Stiennon et al. 2020, eq. 1; the margin as in Touvron et al. 2023, eq. 2; centering as in
 * Eisenstein et al. 2023) */
double reward_loss(double chosen, double rejected, double margin, double center, double *dchosen,
                   double *drejected);

/* --- evaluation over preference rows --- */
typedef struct {
    const char *name; /* the data set's */
    int pairs, right, ties;
} SubsetAccuracy;
typedef struct {
    int pairs, right, ties, longer_right, longer_pairs, gold_right, gold_pairs;
    double loss, mean, std, min, max; /* of all scores */
    SubsetAccuracy *subset;           /* in the order of their first rows */
    int n_subsets, room;
} RewardEval;
/* Scores every pair of d (ties count as wrong). scratch holds one batch of sequences. pairs [n][2]
 * gets the scores of chosen and rejected; NULL: not asked. E_NUMERIC when a score is not finite.
 * When OK, e is to be released. */
Status reward_evaluate(RewardEval *e, Network *net, const Dataset *d, Packed *scratch, float *score,
                       int micro_tokens, float *pairs);
void reward_eval_release(RewardEval *e);
/* {"subset": accuracy, ...} */
void reward_put_subsets(Text *t, const RewardEval *e);
/* accuracy and what to compare it with, loss, ties and subsets into the stage's summary. */
void reward_eval_summary(Stage *s, const RewardEval *e);
/* Of preferring the longer answer, over pairs of different lengths. */
static inline double reward_longer_wins(const RewardEval *e) {
    return e->longer_pairs ? (double)e->longer_right / e->longer_pairs : 0.5;
}
/* evals/reward.json of the run: accuracy overall and by length, calibration, histograms
 * (docs/formats.md). pairs as above, n of them. */
Status reward_report(Run *run, const RewardEval *e, const Dataset *d, const float *pairs,
                     const char *model, const char *data);
static inline double reward_accuracy(const RewardEval *e) {
    return e->pairs ? (double)e->right / e->pairs : 0.0;
}

#endif
