/* eval_inside.h - what the parts of the verb eval share: its models and data (reward_tools.c), a
 * policy's answers (eval_policy.c), the checkpoints of a run (eval_sweep.c). */
#ifndef EVAL_INSIDE_H
#define EVAL_INSIDE_H

#include "reward/policy_eval.h"
#include "reward/reward_tools.h"
#include "reward/statistics.h"

typedef struct {
    Stage *stage;
    const EvalConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    Dataset data;
    Workspace *ws;
    int micro_tokens;
    Arena arena;
} Eval;

/* data.eval as rows of this kind. */
Status eval_open_data(Eval *e, RowKind kind);
/* Comes after the checks of what the user named: a mistake leaves no run directory behind. */
Status eval_open_session(Eval *e);
/* The plan of all models, printed; then the workspace that they share. */
Status eval_open_workspace(Eval *e, Plan *memory, const ModelConfig *const *configs, int n,
                           int rows);
Status eval_open_network(Network *net, Eval *e, const ModelConfig *cfg, const char *path,
                         const char *layers);

typedef enum { POLICY, BASELINE, REFERENCE, JUDGE, ROLES } Role;

typedef struct {
    const char *path[ROLES]; /* "" when there is none */
    ModelConfig config[ROLES];
    Network net[ROLES];
    RolloutEngine *engine[2]; /* of policy and baseline, whose shapes may differ */
    Judge judge;
    PolicyEval eval;
    Dataset text; /* of eval.text; n = 0 without */
    double *nll;  /* [text.n] sums over trained tokens */
    int rows;
} PolicyRun;

/* Answers to the prompts of data.eval, or with eval.sweep those of a run's checkpoints. */
Status eval_policy(Eval *e, const ModelConfig *m);
/* Model, reference, judge and prompts of eval.sweep's run where the user named none. */
Status eval_sweep_inputs(Eval *e);
Status eval_sweep(Eval *e, PolicyRun *p, const PolicyModels *m);
/* evals/policy.json: means with their intervals. */
Status eval_policy_report(Eval *e, const PolicyRun *p, const PolicyModels *m);

#endif
