/* reward_tools.h - the verb eval: a reward model on preference pairs, or a policy on prompts by a
 * judge. */
#ifndef REWARD_TOOLS_H
#define REWARD_TOOLS_H

#include "datasets/stage.h"

typedef struct {
    const char *baseline; /* policy to win against, "" none */
    float temperature;
    int max_new_tokens, rows;
} EvalConfig;
extern const Field eval_fields[];
extern const int eval_n_fields;

/* A model with a score head is evaluated on the pairs of data.eval, any other on its prompts. */
Status eval_run(Stage *stage, const EvalConfig *cfg);

#endif
