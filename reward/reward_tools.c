/* reward_tools.c - see reward_tools.h. */
#include "reward/reward_tools.h"

#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/model/hf.h"
#include "reward/policy_eval.h"
#include "reward/reward.h"
#include "reward/statistics.h"

const Field eval_fields[] = {
    FIELD(EvalConfig, baseline, FIELD_STRING, "", "policy to win against; empty: none"),
    FIELD_IN(EvalConfig, temperature, FIELD_FLOAT, "0.7", 0, 100, "of sampling; 0 = greedy"),
    FIELD_IN(EvalConfig, max_new_tokens, FIELD_INT, "64", 1, 1 << 20, "longest response"),
    FIELD_IN(EvalConfig, rows, FIELD_INT, "64", 1, 1 << 16, "sequences decoded at once"),
};
const int eval_n_fields = sizeof eval_fields / sizeof *eval_fields;

enum { SAMPLES = 16, PAIR_TOKENS = 1 << 14 };

typedef struct {
    Stage *stage;
    const EvalConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    Dataset data;
    Workspace *ws;
    int micro_tokens;
} Eval;

static Status open_data(Eval *e, RowKind kind) {
    DataConfig cfg = e->stage->data;
    if (!cfg.eval[0]) return status_fail(E_USAGE, "rlhf eval needs --data.eval FILE");
    cfg.limit = cfg.eval_limit;
    TRY(dataset_open(&e->data, &cfg, cfg.eval, kind, e->tokenizer, NULL));
    dataset_report(&e->data, cfg.eval);
    if (!e->data.n) return status_fail(E_USAGE, "%s has no usable row", cfg.eval);
    return OK;
}

/* Comes after the checks of what the user named: a mistake leaves no run directory behind. */
static Status open_session(Eval *e) {
    Stage *s = e->stage;
    return session_open(&e->session, &s->cfg, &s->run, s->verb, s->recipe);
}

/* The plan of all models, printed; then the workspace that they share. */
static Status open_workspace(Eval *e, Plan *memory, const ModelConfig *const *configs, int n,
                             int rows) {
    int most = e->micro_tokens > rows ? e->micro_tokens : rows;
    WorkspacePlan plan = {
        .tokens = most, .sequences = most, .max_length = e->stage->data.max_length};
    const StageConfig *c = &e->stage->cfg;
    TRY(plan_activations(memory, e->session.b, &plan, configs, n, plan.max_length));
    TRY(session_plan(&e->session, memory, e->stage->verb, c));
    if (c->dry_run) return OK;
    return workspace_create(&e->ws, e->session.b, &plan, configs, n, NULL);
}

static Status open_network(Network *net, Eval *e, const ModelConfig *cfg, const char *path,
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
    TRY(open_network(&p->net, e, m, e->stage->cfg.model, e->stage->cfg.judge_dtype));
    TRY(packed_create(&p->batch, tokens, tokens));
    TRY(memory_alloc((void **)&p->score, (size_t)tokens * sizeof(float), "scores"));
    TRY(memory_alloc((void **)&p->pairs, (size_t)e->data.n * 2 * sizeof(float), "scores"));
    RewardEval result;
    TRY(reward_evaluate(&result, &p->net, &e->data, &p->batch, p->score, e->micro_tokens,
                        p->pairs));
    TRY(reward_report(e->session.run, &result, &e->data, p->pairs, e->stage->cfg.model,
                      e->stage->data.eval));
    summary_put(e->stage, "pairs", result.pairs);
    reward_eval_summary(e->stage, &result);
    summary_put(e->stage, "mean", result.mean);
    summary_put(e->stage, "std", result.std);
    log_info("accuracy %.4f over %d pairs", reward_accuracy(&result), result.pairs);
    return OK;
}

static Status evaluate_pairs(Eval *e, ModelConfig *m) {
    Stage *stage = e->stage;
    Plan memory = {0};
    PairEval p = {0};
    const ModelConfig *config = m;
    if (m->scores != 1)
        return status_fail(E_FORMAT, "%s gives %d numbers for a text, not one score",
                           stage->cfg.model, m->scores);
    TRY(open_data(e, ROWS_PAIRS));
    TRY(open_session(e));
    plan_frozen(&memory, e->session.b, "reward model", m,
                frozen_dtype(e->session.b, stage->cfg.judge_dtype), "judge_dtype");
    TRY(open_workspace(e, &memory, &config, 1, 0));
    if (stage->cfg.dry_run) return OK;
    Status s = score_pairs(e, &p, m);
    memory_release(p.score);
    memory_release(p.pairs);
    packed_release(&p.batch);
    network_release(&p.net);
    return s;
}

/* ------------------------------------------------ a policy on prompts */

typedef enum { POLICY, BASELINE, REFERENCE, JUDGE, ROLES } Role;
static const char *const role_names[ROLES] = {"policy", "baseline", "reference", "reward model"};

typedef struct {
    const char *path[ROLES]; /* "" when there is none */
    ModelConfig config[ROLES];
    Network net[ROLES];
    RolloutEngine *engine[2]; /* of policy and baseline, whose shapes may differ */
    Judge judge;
    PolicyEval eval;
    int rows;
} PolicyRun;

static Status read_roles(Eval *e, PolicyRun *p, const ModelConfig *policy) {
    const StageConfig *c = &e->stage->cfg;
    const char *judge = strcmp(c->reward_model, "gold") ? c->reward_model : "";
    const char *path[ROLES] = {c->model, e->cfg->baseline, c->reference, judge};
    for (int i = 0; i < ROLES; i++) {
        p->path[i] = path[i];
        if (!path[i][0]) continue;
        if (i == POLICY)
            p->config[i] = *policy;
        else
            TRY(model_read_config(&p->config[i], path[i]));
        const ModelConfig *m = &p->config[i];
        if (i == JUDGE && m->scores != 1)
            return status_fail(E_FORMAT, "%s has no head for one score: it is not a reward model",
                               path[i]);
        if (i != JUDGE && !m->lm_head)
            return status_fail(E_FORMAT, "%s has no language-model head: it cannot be the %s",
                               path[i], role_names[i]);
        if (m->V < tokenizer_vocab_size(e->tokenizer))
            return status_fail(E_FORMAT, "the %s embeds %d tokens, the tokenizer has %d",
                               role_names[i], m->V, tokenizer_vocab_size(e->tokenizer));
        if (m->max_positions < e->stage->data.max_length)
            return status_fail(E_USAGE,
                               "data.max_length %d is more than the %d positions of the %s",
                               e->stage->data.max_length, m->max_positions, role_names[i]);
    }
    return OK;
}

/* The policies are decoded from, which reads weights as they are. */
static const char *layers_of(const Eval *e, Role role) {
    const StageConfig *c = &e->stage->cfg;
    return role == REFERENCE ? c->reference_dtype : role == JUDGE ? c->judge_dtype : "same";
}

static void plan_role(Plan *memory, const Eval *e, Role role, const ModelConfig *m) {
    Backend *b = e->session.b;
    if (role == POLICY || role == BASELINE)
        plan_network(memory, b, role_names[role], m, PLAN_FROZEN);
    else
        plan_frozen(memory, b, role_names[role], m, frozen_dtype(b, layers_of(e, role)),
                    role == JUDGE ? "judge_dtype" : "reference_dtype");
}

static Status open_roles(Eval *e, PolicyRun *p) {
    Plan memory = {0};
    const ModelConfig *configs[ROLES];
    int n = 0, length = e->stage->data.max_length;
    for (int i = 0; i < ROLES; i++) {
        if (!p->path[i][0]) continue;
        configs[n++] = &p->config[i];
        plan_role(&memory, e, (Role)i, &p->config[i]);
        if (i <= BASELINE)
            plan_add(&memory, rollout_engine_bytes(e->session.b, &p->config[i], p->rows, length, 0),
                     "%s: KV cache (%d rows)", role_names[i], p->rows);
    }
    TRY(open_workspace(e, &memory, configs, n, p->rows));
    if (e->stage->cfg.dry_run) return OK;
    for (int i = 0; i < ROLES; i++) {
        if (!p->path[i][0]) continue;
        TRY(open_network(&p->net[i], e, &p->config[i], p->path[i], layers_of(e, (Role)i)));
        if (i <= BASELINE)
            TRY(rollout_engine_create(&p->engine[i], e->session.b, &p->config[i], e->tokenizer,
                                      p->rows, length, e->data.n, 0));
    }
    return OK;
}

static void put_quality(Stage *s, const PolicyResult *r, int judged, const char *after) {
    char name[40];
    snprintf(name, sizeof name, "gold%s", after);
    if (r->has_gold) summary_put(s, name, r->gold);
    snprintf(name, sizeof name, "score%s", after);
    if (judged) summary_put(s, name, r->score);
}

static Status answer_prompts(Eval *e, PolicyRun *p) {
    Stage *s = e->stage;
    Judge *judge = p->path[JUDGE][0] ? &p->judge : NULL;
    Network *reference = p->path[REFERENCE][0] ? &p->net[REFERENCE] : NULL;
    PolicyResult before = {0}, r;
    if (p->path[BASELINE][0]) {
        p->eval.engine = p->engine[BASELINE];
        TRY(policy_eval(&before, &p->eval,
                        &(PolicyModels){.actor = &p->net[BASELINE], .judge = judge}, NULL, 0));
        if (!before.has_gold && !judge)
            return status_fail(E_USAGE, "winning against eval.baseline needs a judge: give "
                                        "reward_model (the prompts are not of the embedded world)");
        policy_eval_keep_baseline(&p->eval);
    }
    p->eval.engine = p->engine[POLICY];
    TRY(policy_eval(
        &r, &p->eval,
        &(PolicyModels){.actor = &p->net[POLICY], .reference = reference, .judge = judge},
        e->session.run, 0));
    if (!strcmp(s->cfg.reward_model, "gold") && !r.has_gold)
        return status_fail(E_FORMAT,
                           "%s: the gold rule cannot judge prompts that are not of its world",
                           s->data.eval);
    summary_put(s, "prompts", r.n);
    put_quality(s, &r, judge != NULL, "");
    if (reference) summary_put(s, "kl", r.kl);
    summary_put(s, "response_length", r.length);
    summary_put(s, "eos_rate", r.eos_rate);
    if (!p->path[BASELINE][0]) return OK;
    double win = policy_eval_win_rate(&p->eval);
    Interval limits = wilson(win, r.n); /* a tie counts as half a win */
    put_quality(s, &before, judge != NULL, "_baseline");
    summary_put(s, "win_rate", win);
    summary_put(s, "win_rate_low", limits.low);
    summary_put(s, "win_rate_high", limits.high);
    log_info("win rate %.3f (95 %% between %.3f and %.3f) over %d prompts", win, limits.low,
             limits.high, r.n);
    return OK;
}

static Status run_policy(Eval *e, PolicyRun *p) {
    Stage *stage = e->stage;
    SamplingConfig sampling = {.max_new_tokens = e->cfg->max_new_tokens,
                               .temperature = e->cfg->temperature,
                               .top_p = 1.0f,
                               .rows = e->cfg->rows};
    int length = stage->data.max_length;
    TRY(open_roles(e, p));
    if (stage->cfg.dry_run) return OK;
    if (p->path[JUDGE][0]) {
        size_t N = (size_t)e->data.n * (size_t)length;
        p->judge = (Judge){.net = &p->net[JUDGE], .micro_tokens = e->micro_tokens};
        TRY(memory_alloc((void **)&p->judge.score, N * sizeof(float), "scores"));
    }
    TRY(policy_eval_create(&p->eval, &e->data, SAMPLES, e->tokenizer, p->engine[POLICY], &sampling,
                           length, e->micro_tokens, stage->run.seed));
    return answer_prompts(e, p);
}

static Status evaluate_policy(Eval *e, const ModelConfig *m) {
    DataConfig *data = &e->stage->data;
    PolicyRun p;
    memset(&p, 0, sizeof p);
    int room = data->max_length - e->cfg->max_new_tokens;
    if (room < 1)
        return status_fail(
            E_USAGE, "eval.max_new_tokens %d leaves no room for prompts in data.max_length %d",
            e->cfg->max_new_tokens, data->max_length);
    if (!data->max_prompt_length || data->max_prompt_length > room) data->max_prompt_length = room;
    TRY(read_roles(e, &p, m));
    TRY(open_data(e, ROWS_PROMPTS));
    TRY(open_session(e));
    p.rows = e->cfg->rows < e->data.n ? e->cfg->rows : e->data.n;
    Status s = run_policy(e, &p);
    memory_release(p.judge.score);
    policy_eval_release(&p.eval);
    for (int i = 0; i < 2; i++) rollout_engine_release(p.engine[i]);
    for (int i = 0; i < ROLES; i++) network_release(&p.net[i]);
    return s;
}

/* ------------------------------------------------ the stage */

static Status evaluate(Eval *e) {
    Stage *stage = e->stage;
    ModelConfig m;
    memset(&m, 0, sizeof m);
    TRY(stage_tokenizer(&e->tokenizer, stage));
    TRY(stage_model_config(&m, stage, e->tokenizer));
    e->micro_tokens = stage_micro_tokens(0, stage->data.max_length);
    TRY(m.scores ? evaluate_pairs(e, &m) : evaluate_policy(e, &m));
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
    return s;
}
