/* optim.h - AdamW with decoupled decay by tensor (Loshchilov & Hutter 2019), learning-rate schedule
 * and clipping by the global norm. Has the moments; what is trained has one, what is frozen has
 * none. */
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
 * that is not finite changes nothing: the step is counted as skipped, *norm is not finite;
 * E_NUMERIC at the third in a row, naming the first such tensor. */
Status optim_step(Optim *o, float rate, double *norm);

/* The settings every trainer shares, for its table of fields. */
#define OPTIM_FIELDS(S, rate)                                                                      \
    FIELD_IN(S, learning_rate, FIELD_FLOAT, rate, 0, 10, "peak learning rate"),                    \
        FIELD_OF(S, schedule, "cosine", "cosine|linear|constant",                                  \
                 "how the learning rate falls after warm-up"),                                     \
        FIELD_IN(S, warmup, FIELD_FLOAT, "0.05", 0, 1e9,                                           \
                 "warm-up: steps, or a fraction of all steps below 1"),                            \
        FIELD_IN(S, beta1, FIELD_FLOAT, "0.9", 0, 1, "Adam: decay of the first moment"),           \
        FIELD_IN(S, beta2, FIELD_FLOAT, "0.999", 0, 1, "Adam: decay of the second moment"),        \
        FIELD_IN(S, eps, FIELD_FLOAT, "1e-8", 0, 1, "Adam: added to the denominator"),             \
        FIELD_IN(S, weight_decay, FIELD_FLOAT, "0", 0, 10, "decoupled weight decay of matrices"),  \
        FIELD_IN(S, grad_clip, FIELD_FLOAT, "1", 0, 1e9, "largest global gradient norm, 0 = off"), \
        FIELD_OF(S, optimizer_device, "device", "device|host",                                     \
                 "memory that holds the moments: host frees 8 bytes per weight of a GPU")
#define OPTIM_MEMBERS                                                                              \
    float learning_rate, beta1, beta2, eps, weight_decay, grad_clip, warmup;                       \
    const char *schedule, *optimizer_device
#define OPTIM_CONFIG(c)                                                                            \
    ((OptimConfig){.learning_rate = (c)->learning_rate,                                            \
                   .beta1 = (c)->beta1,                                                            \
                   .beta2 = (c)->beta2,                                                            \
                   .eps = (c)->eps,                                                                \
                   .weight_decay = (c)->weight_decay,                                              \
                   .grad_clip = (c)->grad_clip,                                                    \
                   .warmup = (c)->warmup,                                                          \
                   .schedule = (c)->schedule,                                                      \
                   .optimizer_device = (c)->optimizer_device})
/* what plan_network is told of a trained network */
#define OPTIM_PLAN(c) (strcmp((c)->optimizer_device, "host") ? PLAN_TRAINED : PLAN_MOMENTS_ON_HOST)

#endif
