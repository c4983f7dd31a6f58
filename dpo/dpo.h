/* dpo.h - direct preference optimization, the single-model alternative to PPO (Rafailov et al.
 * 2023). */
#ifndef DPO_H
#define DPO_H

#include "reward/held_out.h"

typedef struct {
    OptimConfig optim;
    StepConfig step;
    float beta, label_smoothing, sft_coef;
    HeldOutConfig held_out;
} DpoConfig;
extern const Field dpo_fields[];
extern const int dpo_n_fields;

Status dpo_run(Stage *stage, const DpoConfig *cfg);

typedef struct {
    double loss;               /* of this pair */
    double dchosen, drejected; /* d loss / d sum log pi of each answer */
} DpoPair;

/* L = -(1-eps) log sigma(beta d) - eps log sigma(-beta d), d = a - c, a = sum log pi(y_c) - sum log
 * ref(y_c), c the same for the rejected (Rafailov et al. 2023, eq. 7; eps: Mitchell 2023, cDPO). */
DpoPair dpo_loss(double pi_chosen, double pi_rejected, double ref_chosen, double ref_rejected,
                 double beta, double label_smoothing);

#endif
