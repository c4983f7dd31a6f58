/* policy_samples.h - answers of an evaluation as rows of samples.jsonl and texts for TensorBoard.
 */
#ifndef POLICY_SAMPLES_H
#define POLICY_SAMPLES_H

#include "reward/policy_eval.h"

/* The first of the answers, as many as e->greedy has room for; `mode` is what the rows call them.
 * Texts for TensorBoard are the sampled ones. */
Status policy_samples_write(PolicyEval *e, Answers *a, const char *mode, const PolicyModels *m,
                            Run *run, int step);

#endif
