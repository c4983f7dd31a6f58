/* policy_eval.h - how good a policy's answers to held-out prompts are: mean score and gold, KL to
 * the reference, lengths, and the win rate against the answers of another policy to the same
 * prompts; policy_samples.c writes some of them down. */
#ifndef POLICY_EVAL_H
#define POLICY_EVAL_H

#include "core/run/run.h"
#include "reward/judge.h"

typedef struct {
    int n;                 /* prompts */
    int has_gold;          /* the prompts are of the embedded world */
    int has_score, has_kl; /* there was a judge; a reference */
    double score, gold;    /* means */
    double gold_stderr;    /* of that mean: deviation over prompts / sqrt(n) */
    double kl;             /* mean over sequences of sum log pi - log ref */
    double length, eos_rate;
} PolicyResult;

typedef struct { /* answers to prompts, and their figures */
    Rollout rollout;
    float *logp_ref;     /* [N] */
    float *score, *gold; /* [S] */
} Answers;

typedef struct {
    const Dataset *prompts;
    const Tokenizer *tokenizer;
    RolloutEngine *engine; /* borrowed */
    RolloutRequest *requests;
    const Row **rows;
    Answers sampled, greedy; /* to all prompts; to the first ones, which are written down */
    float *value;            /* [N of greedy] the critic's values of answers written down */
    float *baseline;         /* [S] gold, or without it the score, to win against */
    int has_baseline, has_gold;
    SamplingConfig sampling;
    uint64_t seed;
    int micro_tokens;
} PolicyEval;

typedef struct {
    Network *actor;
    Network *reference; /* NULL: no KL */
    Network *critic;    /* NULL: no values beside the tokens */
    Judge *judge;       /* NULL: gold alone */
} PolicyModels;

/* Are the prompts of the embedded world, whose gold rule judges answers? 0 for none. */
int policy_eval_knows_gold(const Dataset *prompts);
/* Memory for all prompts, the first `samples` of which are written down. */
Status policy_eval_create(PolicyEval *e, const Dataset *prompts, int samples, const Tokenizer *t,
                          RolloutEngine *engine, const SamplingConfig *sampling, int max_length,
                          int micro_tokens, uint64_t seed);
void policy_eval_release(PolicyEval *e);
/* Answers with the same random numbers each time. With a run the first answers go to its
 * samples.jsonl, and so do greedy ones to the same prompts; the figures are of sampled ones. */
Status policy_eval(PolicyResult *out, PolicyEval *e, const PolicyModels *m, Run *run, int step);
/* The last evaluation becomes the baseline of win rates. */
void policy_eval_keep_baseline(PolicyEval *e);
/* Share of prompts on which the last evaluation beats the baseline; a tie is half a win. */
double policy_eval_win_rate(const PolicyEval *e);
/* The last evaluation's figures as metrics eval/scores, eval/gold, eval/win_rate, eval/kl,
 * eval/response_length, as far as they were measured. */
void policy_eval_metrics(Metrics *m, const PolicyEval *e, const PolicyResult *r);
/* The baseline, into and out of a checkpoint; nothing without prompts. */
Status policy_eval_save(CheckpointWriter *w, const PolicyEval *e);
Status policy_eval_load(PolicyEval *e, const Checkpoint *c);

static inline int policy_eval_prompts(const PolicyEval *e) {
    return e->sampled.rollout.seq.max_S;
}
/* sum over an answer's tokens of log pi - log ref */
double answer_kl(const Answers *a, int s);

#endif
