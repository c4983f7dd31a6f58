/* policy_eval.h - how good a policy's answers to held-out prompts are: mean score and gold, KL to
 * the reference, lengths, and the win rate against the answers of another policy to the same
 * prompts. */
#ifndef POLICY_EVAL_H
#define POLICY_EVAL_H

#include "core/run/run.h"
#include "reward/judge.h"

typedef struct {
    int n;              /* prompts */
    int has_gold;       /* the prompts are of the embedded world */
    double score, gold; /* means */
    double kl;          /* mean over sequences of sum log pi - log ref */
    double length, eos_rate;
} PolicyResult;

typedef struct {
    const Dataset *prompts;
    const Tokenizer *tokenizer;
    RolloutEngine *engine; /* borrowed */
    Rollout rollout;
    RolloutRequest *requests;
    const Row **rows;
    float *logp_ref, *score, *gold; /* [N]; [S]; [S] of the last evaluation */
    float *baseline;                /* [S] gold (or score, without gold) to win against */
    int has_baseline;
    SamplingConfig sampling;
    uint64_t seed;
    int micro_tokens;
} PolicyEval;

/* Memory for the first `limit` prompts (0: all). */
Status policy_eval_create(PolicyEval *e, const Dataset *prompts, int limit, const Tokenizer *t,
                          RolloutEngine *engine, const SamplingConfig *sampling, int max_length,
                          int micro_tokens, uint64_t seed);
void policy_eval_release(PolicyEval *e);
/* Answers with the same random numbers each time. reference NULL: no KL; judge NULL: gold alone.
 * The first `samples` answers go to the run's samples.jsonl (run NULL: nowhere) with step and
 * label. */
Status policy_eval(PolicyResult *out, PolicyEval *e, Network *actor, Network *reference,
                   Judge *judge, Run *run, int step, int samples);
void policy_eval_keep_baseline(
    PolicyEval *e); /* the last evaluation becomes what is to be beaten */
double
policy_eval_win_rate(const PolicyEval *e); /* last evaluation against the baseline, ties half */

#endif
