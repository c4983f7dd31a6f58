/* dpo_inside.h - what a DPO run consists of, shared by its loop (dpo.c), its setup (dpo_setup.c)
 * and the reference's log-probs (dpo_reference.c). */
#ifndef DPO_INSIDE_H
#define DPO_INSIDE_H

#include "core/model/packed.h"
#include "dpo/dpo.h"

typedef struct {       /* what a resume needs besides weights and moments */
    uint64_t position; /* pairs taken from the data's order */
    uint64_t tokens, samples;
    double first_loss, gold_before, best;
    int32_t step, pad;
} DpoState;

typedef struct {
    Stage *stage;
    const DpoConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    TrainData data;
    HeldOut held;
    Workspace *ws;
    Network policy, reference;
    Optim optim;
    Packed batch; /* chosen, rejected, chosen, rejected, ... */
    float *logp, *entropy, *dlogp;
    float *margin;    /* [batch_size] implicit rewards, chosen minus rejected, of the last batch */
    double *ref;      /* [rows of all sets, then the held-out ones][2] sums of log ref */
    double *eval_ref; /* [held-out rows][2], the end of ref */
    size_t pairs;     /* of all sets, those held out included */
    int *first_row;   /* [n_sets] */
    const Row **rows; /* of the step */
    int micro_tokens, steps;
    DpoState state;
} Dpo;

/* Reads the recipe's models and data, prints the memory plan, allocates, loads or resumes; with
 * --dry-run only up to the plan. dpo_release is due even after a failure. */
Status dpo_create(Dpo *d);
void dpo_release(Dpo *d);
/* Everything that a resume needs, as one checkpoint. */
Status dpo_save(Dpo *d);

/* Computes the reference's log-probs of all pairs, or reads them where the run directory has them
 * already. */
Status dpo_reference_logps(Dpo *d);
/* The sums log ref(chosen), log ref(rejected) of a row of the training or held-out sets. */
double *dpo_reference_of(const Dpo *d, const Row *row);

/* Appends chosen and rejected to the batch. */
void dpo_add_pair(Dpo *d, const Row *row);
/* Sum of d->logp over the trained tokens of the batch's sequence s. */
double dpo_sum_logp(const Dpo *d, int s);

#endif
