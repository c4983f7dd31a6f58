/* reward_tools.c - see reward_tools.h. */
#include "reward/reward_tools.h"

#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/model/hf.h"
#include "reward/eval_inside.h"
#include "reward/reward.h"

const Field eval_fields[] = {
    FIELD(EvalConfig, baseline, FIELD_STRING, "", "policy to win against; empty: none"),
    FIELD(EvalConfig, text, FIELD_STRING, "",
          "rows as for sft, whose perplexity is taken; empty: none"),
    FIELD(EvalConfig, sweep, FIELD_STRING, "",
          "run of ppo or dpo whose checkpoints are evaluated in turn, and its start's best of n"),
    FIELD_IN(EvalConfig, temperature, FIELD_FLOAT, "0.7", 0, 100, "of sampling; 0 = greedy"),
    FIELD_IN(EvalConfig, max_new_tokens, FIELD_INT, "64", 1, 1 << 20, "longest response"),
    FIELD_IN(EvalConfig, rows, FIELD_INT, "64", 1, 1 << 16, "sequences decoded at once"),
};
const int eval_n_fields = sizeof eval_fields / sizeof *eval_fields;

enum { PAIR_TOKENS = 1 << 14 };

Status eval_open_data(Eval *e, RowKind kind) {
    DataConfig cfg = e->stage->data;
    if (!cfg.eval[0]) return status_fail(E_USAGE, "rlhf eval needs --data.eval FILE");
    cfg.limit = cfg.eval_limit;
    TRY(dataset_open(&e->data, &cfg, cfg.eval, kind, e->tokenizer));
    dataset_report(&e->data, cfg.eval);
    if (!e->data.n) return status_fail(E_USAGE, "%s has no usable row", cfg.eval);
    return OK;
}

Status eval_open_session(Eval *e) {
    Stage *s = e->stage;
    return session_open(&e->session, &s->cfg, &s->run, s->verb, s->recipe);
}

Status eval_open_workspace(Eval *e, Plan *memory, const ModelConfig *const *configs, int n,
                           int rows) {
    int most = e->micro_tokens > rows ? e->micro_tokens : rows;
    WorkspacePlan plan = {
        .tokens = most, .sequences = most, .max_length = e->stage->data.max_length};
    const StageConfig *c = &e->stage->cfg;
    TRY(plan_activations(memory, e->session.b, &plan, configs, n, plan.max_length));
    TRY(plan_check(memory, e->session.b, e->stage->verb, e->stage->cfg.memory_limit));
    if (c->dry_run) return OK;
    return workspace_create(&e->ws, e->session.b, &plan, configs, n, NULL);
}

Status eval_open_network(Network *net, Eval *e, const ModelConfig *cfg, const char *path,
                         const char *layers) {
    TRY(network_create_frozen(net, e->session.b, cfg, e->ws, frozen_dtype(e->session.b, layers)));
    return model_read_weights(&net->w, path, e->stage->run.seed);
}

/* ------------------------------------------------ a reward model on pairs */

typedef struct {
    Network net;
    Packed batch;
    float *score, *pairs;
} PairEval;

static Status score_pairs(Eval *e, PairEval *p, const ModelConfig *m) {
    int tokens = 2 * e->stage->data.max_length;
    if (tokens < PAIR_TOKENS) tokens = PAIR_TOKENS;
    TRY(eval_open_network(&p->net, e, m, e->stage->cfg.model, e->stage->cfg.judge_dtype));
    TRY(packed_create(&p->batch, tokens, tokens));
    TRY(memory_alloc((void **)&p->score, (size_t)tokens * sizeof(float), "scores"));
    TRY(memory_alloc((void **)&p->pairs, (size_t)e->data.n * 2 * sizeof(float), "scores"));
    RewardEval result;
    TRY(reward_evaluate(&result, &p->net, &e->data, &p->batch, p->score, e->micro_tokens,
                        p->pairs));
    Status s = run_begin(e->session.run);
    if (s == OK)
        s = reward_report(e->session.run, &result, &e->data, p->pairs, e->stage->cfg.model,
                          e->stage->data.eval);
    summary_put(e->stage, "pairs", result.pairs);
    reward_eval_summary(e->stage, &result);
    summary_put(e->stage, "mean", result.mean);
    summary_put(e->stage, "std", result.std);
    log_info("accuracy %.4f over %d pairs", reward_accuracy(&result), result.pairs);
    reward_eval_release(&result);
    return s;
}

static Status evaluate_pairs(Eval *e, ModelConfig *m) {
    Stage *stage = e->stage;
    Plan memory = {0};
    PairEval p = {0};
    const ModelConfig *config = m;
    if (m->scores != 1)
        return status_fail(E_FORMAT, "%s gives %d numbers for a text, not one score",
                           stage->cfg.model, m->scores);
    TRY(eval_open_data(e, ROWS_PAIRS));
    TRY(eval_open_session(e));
    plan_frozen(&memory, e->session.b, "reward model", m,
                frozen_dtype(e->session.b, stage->cfg.judge_dtype), "judge_dtype");
    TRY(eval_open_workspace(e, &memory, &config, 1, 0));
    if (stage->cfg.dry_run) return OK;
    Status s = score_pairs(e, &p, m);
    memory_release(p.score);
    memory_release(p.pairs);
    packed_release(&p.batch);
    network_release(&p.net);
    return s;
}

/* ------------------------------------------------ the stage */

static Status evaluate(Eval *e) {
    Stage *stage = e->stage;
    ModelConfig m;
    memset(&m, 0, sizeof m);
    if (e->cfg->sweep[0]) TRY(eval_sweep_inputs(e));
    TRY(stage_tokenizer(&e->tokenizer, stage));
    TRY(stage_model_config(&m, stage, e->tokenizer));
    e->micro_tokens = stage_micro_tokens(0, stage->data.max_length);
    if (m.scores && e->cfg->sweep[0])
        return status_fail(E_USAGE, "%s is a reward model; eval.sweep is of policies",
                           stage->cfg.model);
    TRY(m.scores ? evaluate_pairs(e, &m) : eval_policy(e, &m));
    return stage->cfg.dry_run ? OK : stage_finish(stage, e->session.run);
}

Status eval_run(Stage *stage, const EvalConfig *cfg) {
    Eval e = {.stage = stage, .cfg = cfg};
    if (!strcmp(stage->cfg.model, "init"))
        return status_fail(E_USAGE, "a model from \"init\" has nothing to evaluate yet");
    Status s = evaluate(&e);
    workspace_release(e.ws);
    dataset_release(&e.data);
    tokenizer_release(e.tokenizer);
    session_close(&e.session);
    arena_release(&e.arena);
    return s;
}
