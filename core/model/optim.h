/* optim.h - AdamW with decoupled decay by tensor (Loshchilov & Hutter 2019), learning-rate schedule
 * and clipping by the global norm. It holds the moments of one network: what is trained has an
 * Optim, what is frozen has none. */
#ifndef OPTIM_H
#define OPTIM_H

#include "core/model/network.h"
#include "core/run/settings.h"

typedef struct {
    float learning_rate, beta1, beta2, eps, weight_decay, grad_clip;
    float warmup;                 /* steps, or a fraction of all steps below 1 */
    const char *schedule;         /* cosine|linear|constant */
    const char *optimizer_device; /* device|host: where the moments are; NULL = device */
} OptimConfig;

typedef struct {
    Network *net;
    OptimConfig cfg;
    Buf m, v;
    uint64_t step; /* steps taken: bias correction */
    int skipped;   /* steps left out because a gradient was not finite */
    int skipped_in_row;
} Optim;

Status optim_create(Optim *o, Network *net, const OptimConfig *cfg);
void optim_release(Optim *o);
/* Learning rate of step `step` (from 0) of `total`. */
float optim_rate(const OptimConfig *cfg, int step, int total);
/* Clips, updates, packs, zeroes the gradients; *norm is the global norm before clipping. A gradient
 * that is not finite, or without clipping so large that its square is not, changes nothing: the
 * step is counted as skipped and the first such tensor named; E_NUMERIC at the third in a row. */
Status optim_step(Optim *o, float rate, double *norm);

/* Rows for the table of a trainer whose settings S hold an OptimConfig as their member `optim`. */
#define OPTIM_FIELDS(S, rate)                                                                      \
    PART_FIELD_IN(S, optim, learning_rate, FIELD_FLOAT, rate, 0, 10, "peak learning rate"),        \
        PART_FIELD_OF(S, optim, schedule, "cosine", "cosine|linear|constant",                      \
                      "how the learning rate falls after warm-up"),                                \
        PART_FIELD_IN(S, optim, warmup, FIELD_FLOAT, "0.05", 0, 1e9,                               \
                      "warm-up: steps, or a fraction of all steps below 1"),                       \
        PART_FIELD_IN(S, optim, beta1, FIELD_FLOAT, "0.9", 0, 0.9999999,                           \
                      "Adam: decay of the first moment"),                                          \
        PART_FIELD_IN(S, optim, beta2, FIELD_FLOAT, "0.999", 0, 0.9999999,                         \
                      "Adam: decay of the second moment"),                                         \
        PART_FIELD_IN(S, optim, eps, FIELD_FLOAT, "1e-8", 1e-20, 1,                                \
                      "Adam: added to the denominator"),                                           \
        PART_FIELD_IN(S, optim, weight_decay, FIELD_FLOAT, "0", 0, 10,                             \
                      "decoupled weight decay of matrices"),                                       \
        PART_FIELD_IN(S, optim, grad_clip, FIELD_FLOAT, "1", 0, 1e9,                               \
                      "largest global gradient norm, 0 = off"),                                    \
        PART_FIELD_OF(S, optim, optimizer_device, "device", "device|host",                         \
                      "memory that holds the moments: host frees 8 bytes per weight of a GPU")

#endif
