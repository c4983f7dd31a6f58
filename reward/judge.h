/* judge.h - who scores responses: a reward model, which is fed the policy's own token ids and so
 * must have been taught the same ones (stage_check_role), or the embedded world's gold rule, which
 * reads their text. */
#ifndef JUDGE_H
#define JUDGE_H

#include "datasets/dataset.h"
#include "policy/rollout.h"

typedef struct {
    Network *net; /* reward model; NULL = the gold rule */
    float *score; /* [N] scratch for a reward model */
    int micro_tokens;
} Judge;

/* One raw score per sequence of the rollout into score[S]; rows[s] is the prompt's row. Higher is
 * better. The gold rule fails with E_FORMAT on prompts that are not of its world. */
Status judge_score(Judge *j, Rollout *r, const Row *const *rows, const Tokenizer *t, float *score);
/* The gold rule alone, its text read from the rollout. */
Status judge_gold(const Rollout *r, const Row *const *rows, const Tokenizer *t, float *score);

#endif
