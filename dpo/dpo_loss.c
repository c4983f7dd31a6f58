/* dpo_loss.c - the loss of one pair. */
#include <math.h>

#include "dpo/dpo.h"

static double neg_log_sigmoid(double x) {
    return x > 0.0 ? log1p(exp(-x)) : log1p(exp(x)) - x;
}
static double sigmoid(double x) {
    return x > 0.0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

DpoPair dpo_loss(double pi_chosen, double pi_rejected, double ref_chosen, double ref_rejected,
                 double beta, double eps) {
    double d = (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected), x = beta * d;
    DpoPair p = {.loss = (1.0 - eps) * neg_log_sigmoid(x) + eps * neg_log_sigmoid(-x)};
    p.dchosen = beta * (-(1.0 - eps) * sigmoid(-x) + eps * sigmoid(x));
    p.drejected = -p.dchosen;
    return p;
}
