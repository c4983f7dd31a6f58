/* eval_policy.c - a policy on prompts: its answers judged, beside a baseline's and a reference, and
 * the perplexity of a text. */
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/model/hf.h"
#include "reward/eval_inside.h"

enum { SAMPLES = 16, TEXT_TOKENS = 1 << 14 };

static const char *const role_names[ROLES] = {"policy", "baseline", "reference", "reward model"};

static Status read_roles(Eval *e, PolicyRun *p, const ModelConfig *policy) {
    const StageConfig *c = &e->stage->cfg;
    const char *judge = strcmp(c->reward_model, "gold") ? c->reward_model : "";
    const char *path[ROLES] = {c->model, e->cfg->baseline, c->reference, judge};
    for (int i = 0; i < ROLES; i++) {
        ModelConfig *m = &p->config[i];
        p->path[i] = path[i];
        if (!path[i][0]) continue;
        if (i == POLICY)
            *m = *policy;
        else
            TRY(stage_read_role(m, e->stage, e->tokenizer, role_names[i], path[i]));
        TRY(stage_check_head(m, role_names[i], path[i], i == JUDGE ? HEAD_SCORE : HEAD_LANGUAGE));
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
    TRY(eval_open_workspace(e, &memory, configs, n, p->rows));
    if (e->stage->cfg.dry_run) return OK;
    for (int i = 0; i < ROLES; i++) {
        if (!p->path[i][0]) continue;
        TRY(eval_open_network(&p->net[i], e, &p->config[i], p->path[i], layers_of(e, (Role)i)));
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

/* The negative log-likelihood of each row's trained tokens. */
static Status score_text(Eval *e, PolicyRun *p) {
    int most = TEXT_TOKENS > e->stage->data.max_length ? TEXT_TOKENS : e->stage->data.max_length;
    const Dataset *d = &p->text;
    Packed batch = {0};
    float *logp = NULL;
    Status status = packed_create(&batch, most, (size_t)most);
    if (status == OK)
        status = memory_alloc((void **)&logp, (size_t)most * sizeof *logp, "log-probs");
    for (int row = 0, first = 0; status == OK && row < d->n; first = row) {
        packed_clear(&batch);
        for (; row < d->n && batch.N + d->rows[row].a.n <= most; row++)
            packed_add(&batch, d->rows[row].a.ids, d->rows[row].a.trained, d->rows[row].a.n);
        status = packed_forward(&batch, &p->net[POLICY], e->micro_tokens, 1.0f,
                                &(TokenOutputs){.logp = logp});
        for (int s = 0; status == OK && s < batch.S; s++)
            for (int n = batch.starts[s]; n < batch.starts[s + 1]; n++)
                if (batch.wanted[n]) p->nll[first + s] -= logp[n];
    }
    memory_release(logp);
    packed_release(&batch);
    return status;
}

static Status answer_prompts(Eval *e, PolicyRun *p, const PolicyModels *m) {
    Stage *s = e->stage;
    PolicyResult before = {0}, r;
    if (p->path[BASELINE][0]) {
        p->eval.engine = p->engine[BASELINE];
        TRY(policy_eval(&before, &p->eval,
                        &(PolicyModels){.actor = &p->net[BASELINE], .judge = m->judge}, NULL, 0));
        if (!before.has_gold && !m->judge)
            return status_fail(E_USAGE, "winning against eval.baseline needs a judge: give "
                                        "reward_model (the prompts are not of the embedded world)");
        policy_eval_keep_baseline(&p->eval);
    }
    p->eval.engine = p->engine[POLICY];
    TRY(run_begin(e->session.run));
    TRY(policy_eval(&r, &p->eval, m, e->session.run, 0));
    if (!strcmp(s->cfg.reward_model, "gold") && !r.has_gold)
        return status_fail(E_FORMAT,
                           "%s: the gold rule cannot judge prompts that are not of its world",
                           s->data.eval);
    summary_put(s, "prompts", r.n);
    put_quality(s, &r, m->judge != NULL, "");
    if (m->reference) summary_put(s, "kl", r.kl);
    summary_put(s, "response_length", r.length);
    summary_put(s, "eos_rate", r.eos_rate);
    if (p->text.n) TRY(score_text(e, p));
    TRY(eval_policy_report(e, p, m));
    if (!p->path[BASELINE][0]) return OK;
    double win = policy_eval_win_rate(&p->eval);
    Interval limits = wilson(win, r.n); /* a tie counts as half a win */
    put_quality(s, &before, m->judge != NULL, "_baseline");
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
    PolicyModels m = {.actor = &p->net[POLICY],
                      .reference = p->path[REFERENCE][0] ? &p->net[REFERENCE] : NULL,
                      .judge = p->path[JUDGE][0] ? &p->judge : NULL};
    TRY(memory_alloc((void **)&p->nll, (size_t)p->text.n * sizeof *p->nll, "perplexity"));
    TRY(policy_eval_create(&p->eval, &e->data, SAMPLES, e->tokenizer, p->engine[POLICY], &sampling,
                           length, e->micro_tokens, stage->run.seed));
    return e->cfg->sweep[0] ? eval_sweep(e, p, &m) : answer_prompts(e, p, &m);
}

static Status open_text(Eval *e, PolicyRun *p) {
    DataConfig cfg = e->stage->data;
    cfg.max_prompt_length = 0;
    cfg.limit = cfg.eval_limit;
    TRY(dataset_open(&p->text, &cfg, e->cfg->text, ROWS_SFT, e->tokenizer));
    dataset_report(&p->text, e->cfg->text);
    if (p->text.n) return OK;
    dataset_release(&p->text);
    return status_fail(E_USAGE, "%s has no usable row", e->cfg->text);
}

Status eval_policy(Eval *e, const ModelConfig *m) {
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
    TRY(eval_open_data(e, ROWS_PROMPTS));
    if (e->cfg->text[0]) TRY(open_text(e, &p));
    p.rows = e->cfg->rows < e->data.n ? e->cfg->rows : e->data.n;
    Status s = eval_open_session(e);
    if (s == OK) s = run_policy(e, &p);
    memory_release(p.judge.score);
    memory_release(p.nll);
    dataset_release(&p.text);
    policy_eval_release(&p.eval);
    for (int i = 0; i < 2; i++) rollout_engine_release(p.engine[i]);
    for (int i = 0; i < ROLES; i++) network_release(&p.net[i]);
    return s;
}
