/* reward_tools.h - the verb eval: a reward model on preference pairs, or a policy on prompts by a
 * judge. */
#ifndef REWARD_TOOLS_H
#define REWARD_TOOLS_H

#include "datasets/stage.h"

typedef struct {
    const char *baseline; /* policy to win against, "" none */
    const char *text;     /* file whose perplexity is taken, "" none */
    const char *sweep;    /* run directory whose checkpoints are evaluated, "" none */
    float temperature;
    int max_new_tokens, rows;
} EvalConfig;
extern const Field eval_fields[];
extern const int eval_n_fields;

/* A model with a score head is evaluated on the pairs of data.eval, any other on its prompts;
 * leaves evals/reward.json, policy.json or sweep.json in the run directory. */
Status eval_run(Stage *stage, const EvalConfig *cfg);

#endif
