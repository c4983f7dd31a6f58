/* ppo_setup.c - PPO's settings, its four models and their memory, saving and resuming. */
#include <math.h>
#include <string.h>

#include "core/model/hf.h"
#include "datasets/world.h"
#include "ppo/ppo_inside.h"

const Field ppo_fields[] = {
    OPTIM_FIELDS(PpoConfig, "3e-6"),
    STEP_FIELDS_OF(
        PpoConfig, "64", "4", "passes over each rollout",
        "rollouts, each with epochs x minibatches optimizer steps; 0 = every prompt once"),
    FIELD_IN(PpoConfig, minibatches, FIELD_INT, "1", 1, 1 << 16,
             "optimizer steps per pass; a rollout has batch_size times as many sequences"),
    FIELD_IN(PpoConfig, samples, FIELD_INT, "1", 1, 1024, "responses per prompt"),
    FIELD_IN(PpoConfig, rows, FIELD_INT, "64", 1, 1 << 16, "sequences decoded at once"),
    FIELD_IN(PpoConfig, kv_mib, FIELD_INT, "0", 0, 1 << 24,
             "MiB for cached keys and values; 0 = enough for all rows at full length"),
    FIELD_IN(PpoConfig, critic_learning_rate, FIELD_FLOAT, "1e-5", 0, 10,
             "peak learning rate of the critic"),
    FIELD_IN(PpoConfig, critic_warmup, FIELD_INT, "0", 0, 1 << 30,
             "first steps that train the critic alone"),
    FIELD(PpoConfig, critic, FIELD_STRING, "",
          "where the critic starts; empty: the reward model (or the actor, with the gold judge)"),
    FIELD_IN(PpoConfig, kl_coef, FIELD_FLOAT, "0.05", 0, 1e6,
             "beta: price of leaving the reference, per nat and token"),
    FIELD_IN(PpoConfig, kl_target, FIELD_FLOAT, "0", 0, 1e6,
             "nats per sequence to steer to; 0 = beta stays fixed (6 is usual)"),
    FIELD_IN(PpoConfig, kl_horizon, FIELD_FLOAT, "10000", 1, 1e12,
             "sequences over which the adaptive beta reacts"),
    FIELD_OF(PpoConfig, kl_estimator, "k1", "k1|k2|k3", "KL in the reward"),
    FIELD_IN(PpoConfig, kl_loss_coef, FIELD_FLOAT, "0", 0, 1e6,
             "KL to the reference as a loss term instead"),
    FIELD_OF(PpoConfig, kl_loss_estimator, "k3", "k2|k3",
             "KL of the loss term (k1's gradient has expectation 0)"),
    FIELD_IN(PpoConfig, gamma, FIELD_FLOAT, "1", 0, 1, "discount"),
    FIELD_IN(PpoConfig, lambda, FIELD_FLOAT, "0.95", 0, 1, "GAE's lambda"),
    FIELD_IN(PpoConfig, clip, FIELD_FLOAT, "0.2", 0, 100, "epsilon of the clipped surrogate"),
    FIELD_IN(PpoConfig, clip_high, FIELD_FLOAT, "0", 0, 100, "epsilon above 1; 0 = the same"),
    FIELD_IN(PpoConfig, dual_clip, FIELD_FLOAT, "0", 0, 100,
             "bound for negative advantages, 0 = off (3 is usual)"),
    FIELD_IN(PpoConfig, value_clip, FIELD_FLOAT, "0.2", 0, 1e6,
             "epsilon of the value loss, 0 = off"),
    FIELD_IN(PpoConfig, entropy_coef, FIELD_FLOAT, "0", 0, 100, "bonus for entropy"),
    FIELD_IN(PpoConfig, target_kl, FIELD_FLOAT, "0", 0, 1e6,
             "ends the passes when approxkl exceeds 1.5 times this; 0 = off"),
    FIELD_IN(PpoConfig, temperature, FIELD_FLOAT, "0.7", 0.01, 100,
             "of sampling, of the reference and of the update alike"),
    FIELD_IN(PpoConfig, top_k, FIELD_INT, "0", 0, 1 << 24,
             "sample from the k likeliest tokens, 0 = all"),
    FIELD_IN(PpoConfig, top_p, FIELD_FLOAT, "1", 0.01, 1,
             "sample from the likeliest tokens of this mass"),
    FIELD_IN(PpoConfig, min_p, FIELD_FLOAT, "0", 0, 1,
             "sample from tokens with this share of the likeliest one's probability, 0 = all"),
    FIELD_IN(PpoConfig, max_new_tokens, FIELD_INT, "64", 1, 1 << 20, "longest response"),
    FIELD(PpoConfig, stop, FIELD_LIST, "", "texts that end a response (it counts as truncated)"),
    FIELD_OF(PpoConfig, score_at, "last_token", "last_token|after_eos", "where the score is added"),
    FIELD_OF(
        PpoConfig, normalize_score, "none", "none|stored|initial|running",
        "(r - mean)/std: none, the reward model's held-out figures, the first rollout's, running"),
    FIELD_IN(PpoConfig, score_clip, FIELD_FLOAT, "10", 0, 1e9,
             "scores are clipped to plus or minus this, 0 = off"),
    FIELD(PpoConfig, missing_eos_penalty, FIELD_FLOAT, "1",
          "subtracted from the score of a response without EOS"),
    FIELD(PpoConfig, whiten_rewards, FIELD_BOOL, "false",
          "divide rewards by their deviation, without shifting the mean"),
    FIELD_IN(PpoConfig, ptx_coef, FIELD_FLOAT, "0", 0, 1e6,
             "weight of the NLL of other text in the actor's updates (PPO-ptx); 0 = off"),
    FIELD(PpoConfig, ptx_data, FIELD_STRING, "", "that text: a file of rows as for sft"),
    FIELD_IN(PpoConfig, ptx_batch, FIELD_INT, "8", 1, 1 << 20, "its sequences per update"),
    FIELD_IN(PpoConfig, ema, FIELD_FLOAT, "0", 0, 0.9999999,
             "decay of an average of the actor's weights, written to ema/; 0 = off"),
};
const int ppo_n_fields = sizeof ppo_fields / sizeof *ppo_fields;

enum { SAMPLES = 8 }; /* held-out answers written down at each evaluation */

static KlEstimator estimator(const char *name) {
    return name[1] == '1' ? KL_K1 : name[1] == '2' ? KL_K2 : KL_K3;
}

typedef struct {
    ModelConfig actor, critic, reference, reward;
    const char *critic_path, *reference_path;
    int gold;
} Roles;

static Status read_judge(ModelConfig *m, const Ppo *p) {
    const char *path = p->stage->cfg.reward_model;
    TRY(stage_read_role(m, p->stage, p->tokenizer, "reward model", path));
    TRY(stage_check_head(m, "reward model", path, HEAD_SCORE));
    if (!strcmp(p->cfg->normalize_score, "stored") && !(m->score_std > 0.0))
        return status_fail(
            E_FORMAT,
            "%s carries no held-out mean and deviation for ppo.normalize_score \"stored\"", path);
    m->lm_head = 0;
    return OK;
}

static Status read_roles(Ppo *p, Roles *r) {
    const StageConfig *s = &p->stage->cfg;
    const char *critic = p->cfg->critic;
    if (!s->reward_model[0])
        return status_fail(E_USAGE,
                           "the recipe names no \"reward_model\" (a directory, or \"gold\")");
    r->gold = !strcmp(s->reward_model, "gold");
    if (r->gold && !strcmp(p->cfg->normalize_score, "stored"))
        return status_fail(E_USAGE, "ppo.normalize_score \"stored\" needs a reward model: the gold "
                                    "rule carries no held-out mean and deviation");
    r->reference_path = s->reference[0] ? s->reference : s->model;
    r->critic_path = critic[0] ? critic : r->gold ? s->model : s->reward_model;
    TRY(stage_model_config(&r->actor, p->stage, p->tokenizer));
    TRY(stage_check_head(&r->actor, "policy", s->model, HEAD_LANGUAGE));
    TRY(stage_read_role(&r->reference, p->stage, p->tokenizer, "reference", r->reference_path));
    TRY(stage_check_head(&r->reference, "reference", r->reference_path, HEAD_LANGUAGE));
    if (!r->gold) TRY(read_judge(&r->reward, p));
    r->critic = r->gold ? r->actor : r->reward;
    if (critic[0]) TRY(stage_read_role(&r->critic, p->stage, p->tokenizer, "critic", critic));
    r->critic.lm_head = 0;
    r->critic.scores = 1;
    return OK;
}

/* The gold rule can only judge answers to prompts of the embedded world. */
static Status check_gold(const Ppo *p) {
    Gold g;
    for (int i = 0; i < p->data.n_sets; i++)
        for (int row = 0; row < p->data.sets[i].n; row++)
            TRY(world_gold(&g, p->data.sets[i].rows[row].prompt, "", 1));
    return OK;
}

static Status check_sizes(Ppo *p) {
    const PpoConfig *c = p->cfg;
    int64_t S = (int64_t)c->step.batch_size * c->minibatches;
    if (S > 1 << 24)
        return status_fail(E_USAGE,
                           "a rollout of %lld sequences (batch_size x minibatches) is too large",
                           (long long)S);
    p->S = (int)S;
    if (c->kl_target > 0.0f && c->kl_horizon <= 0.2 * p->S)
        return status_fail(
            E_USAGE,
            "ppo.kl_horizon %g is too short for rollouts of %d sequences: one of them "
            "could turn the sign of beta (more than %g cannot)",
            c->kl_horizon, p->S, 0.2 * p->S);
    if (p->S % c->samples)
        return status_fail(E_USAGE, "ppo.samples %d does not divide the %d sequences of a rollout",
                           c->samples, p->S);
    if (c->max_new_tokens >= p->stage->data.max_length)
        return status_fail(E_USAGE,
                           "ppo.max_new_tokens %d leaves no room for prompts in data.max_length %d",
                           c->max_new_tokens, p->stage->data.max_length);
    int room = p->stage->data.max_length - c->max_new_tokens;
    if (!p->stage->data.max_prompt_length || p->stage->data.max_prompt_length > room)
        p->stage->data.max_prompt_length = room;
    return OK;
}

static Status alloc_floats(float ***list, int n, size_t count) {
    for (int i = 0; i < n; i++)
        TRY(memory_alloc((void **)list[i], count * sizeof(float), "a rollout's numbers"));
    return OK;
}

static Status create_arrays(Ppo *p, int max_length) {
    size_t S = (size_t)p->S, N = S * (size_t)max_length;
    float **by_token[] = {&p->logp_ref, &p->value,   &p->reward_at,   &p->adv,
                          &p->ret,      &p->m_logp,  &p->m_entropy,   &p->m_value,
                          &p->m_old,    &p->m_ref,   &p->m_value_old, &p->m_adv,
                          &p->m_ret,    &p->m_dlogp, &p->m_dentropy,  &p->m_dvalue};
    TRY(alloc_floats(by_token, sizeof by_token / sizeof *by_token, N));
    TRY(alloc_floats((float **[]){&p->raw_score, &p->score}, 2, S));
    TRY(memory_alloc((void **)&p->state_mask, N, "a rollout's states"));
    TRY(memory_alloc((void **)&p->whitened, N, "a rollout's states"));
    TRY(memory_alloc((void **)&p->m_states, N, "a minibatch's states"));
    TRY(memory_alloc((void **)&p->order, S * sizeof(int), "a permutation"));
    TRY(memory_alloc((void **)&p->requests, S * sizeof *p->requests, "requests"));
    TRY(memory_alloc((void **)&p->rows, S * sizeof *p->rows, "requests"));
    TRY(packed_create(&p->mini, p->S, N));
    return rollout_create(&p->rollout, p->S, N);
}

static Status load_networks(Ppo *p, const Roles *r) {
    TRY(model_read_weights(&p->reference.w, r->reference_path, p->stage->run.seed));
    if (!r->gold)
        TRY(model_read_weights(&p->reward.w, p->stage->cfg.reward_model, p->stage->run.seed));
    if (p->session.from) {
        TRY(checkpoint_read(p->session.from, "state", &p->state, sizeof p->state));
        TRY(policy_eval_load(&p->eval, p->session.from));
        if (p->ema.net)
            TRY(session_load_range(p->session.from, "ema", "weights", p->session.b, p->ema.w,
                                   p->actor.w.count));
        TRY(session_load_network(p->session.from, "actor", &p->actor, &p->actor_optim));
        return session_load_network(p->session.from, "critic", &p->critic, &p->critic_optim);
    }
    p->state = (PpoState){.kl_coef = p->cfg->kl_coef,
                          .best = NAN,
                          .score_mean = r->gold ? 0.0 : r->reward.score_mean,
                          .score_std = r->gold ? 1.0 : r->reward.score_std};
    if (strcmp(p->cfg->normalize_score, "stored")) p->state.score_mean = 0.0;
    TRY(stage_model_weights(&p->actor.w, p->stage));
    average_start(&p->ema);
    return model_read_weights(&p->critic.w, r->critic_path, p->stage->run.seed);
}

/* What follows from the settings alone. */
static void resolve_settings(Ppo *p) {
    const PpoConfig *c = p->cfg;
    p->steps = stage_steps(&p->data, p->S / c->samples, 1, c->step.max_steps);
    p->micro_tokens = stage_micro_tokens(c->step.micro_tokens, p->stage->data.max_length);
    p->after_eos = !strcmp(c->score_at, "after_eos");
    p->kl = estimator(c->kl_estimator);
    p->loss = (PolicyLossConfig){.clip_low = c->clip,
                                 .clip_high = c->clip_high > 0.0f ? c->clip_high : c->clip,
                                 .dual_clip = c->dual_clip,
                                 .entropy_coef = c->entropy_coef,
                                 .kl_loss_coef = c->kl_loss_coef,
                                 .kl_loss = estimator(c->kl_loss_estimator)};
    p->sampling = (SamplingConfig){.max_new_tokens = c->max_new_tokens,
                                   .temperature = c->temperature,
                                   .top_k = c->top_k,
                                   .top_p = c->top_p,
                                   .min_p = c->min_p,
                                   .rows = c->rows,
                                   .stop = c->stop};
}

typedef struct {
    const ModelConfig *configs[4];
    int n, rows; /* configs; sequences decoded at once */
    WorkspacePlan workspace;
    Dtype reference, judge; /* storage of their layers */
} Sizes;

static Sizes sizes_of(const Ppo *p, const Roles *r) {
    const PpoConfig *c = p->cfg;
    const StageConfig *s = &p->stage->cfg;
    int rows = c->rows < p->S ? c->rows : p->S;
    return (Sizes){.configs = {&r->actor, &r->critic, &r->reference, &r->reward},
                   .n = r->gold ? 3 : 4,
                   .rows = rows,
                   .workspace = stage_workspace(p->stage, &c->step, p->micro_tokens, rows),
                   .reference = frozen_dtype(p->session.b, s->reference_dtype),
                   .judge = frozen_dtype(p->session.b, s->judge_dtype)};
}

static Status plan_memory(Ppo *p, const Roles *r, const Sizes *z) {
    const PpoConfig *c = p->cfg;
    Backend *b = p->session.b;
    int length = p->stage->data.max_length;
    Plan memory = {0};
    plan_network(&memory, b, "actor", &r->actor, plan_kind(&c->optim));
    if (c->ema > 0.0f)
        plan_add(&memory, tensors_count(&r->actor) * sizeof(float), "actor: average of weights");
    plan_network(&memory, b, "critic", &r->critic, plan_kind(&c->optim));
    plan_frozen(&memory, b, "reference", &r->reference, z->reference, "reference_dtype");
    if (!r->gold) plan_frozen(&memory, b, "reward model", &r->reward, z->judge, "judge_dtype");
    TRY(plan_activations(&memory, b, &z->workspace, z->configs, z->n, length));
    plan_add(&memory, rollout_engine_bytes(b, &r->actor, z->rows, length, c->kv_mib),
             "KV cache (%d rows)", z->rows);
    return plan_check(&memory, p->session.b, p->stage->verb, p->stage->cfg.memory_limit);
}

static Status create_networks(Ppo *p, const Roles *r, const Sizes *z) {
    const PpoConfig *c = p->cfg;
    Backend *b = p->session.b;
    TRY(workspace_create(&p->ws, b, &z->workspace, z->configs, z->n, NULL));
    TRY(network_create(&p->actor, b, &r->actor, p->ws, 1));
    TRY(network_create(&p->critic, b, &r->critic, p->ws, 1));
    TRY(network_create_frozen(&p->reference, b, &r->reference, p->ws, z->reference));
    if (!r->gold) TRY(network_create_frozen(&p->reward, b, &r->reward, p->ws, z->judge));
    p->starts_from_reference = !strcmp(r->reference_path, p->stage->cfg.model);
    p->critic_is_judge = !r->gold && !strcmp(r->critic_path, p->stage->cfg.reward_model);
    OptimConfig oc = c->optim;
    TRY(optim_create(&p->actor_optim, &p->actor, &oc));
    TRY(average_create(&p->ema, &p->actor, c->ema));
    oc.learning_rate = c->critic_learning_rate;
    return optim_create(&p->critic_optim, &p->critic, &oc);
}

static Status create_rollouts(Ppo *p, const Roles *r, int rows) {
    const PpoConfig *c = p->cfg;
    int length = p->stage->data.max_length,
        questions = p->data.eval.n > p->S ? p->data.eval.n : p->S;
    TRY(rollout_engine_create(&p->engine, p->session.b, &r->actor, p->tokenizer, rows, length,
                              questions, c->kv_mib));
    TRY(create_arrays(p, length));
    if (c->ptx_coef > 0.0f) TRY(ptx_create(&p->ptx, c->ptx_batch, length));
    TRY(policy_eval_create(&p->eval, &p->data.eval, SAMPLES, p->tokenizer, p->engine, &p->sampling,
                           length, p->micro_tokens, p->stage->run.seed));
    p->judge = (Judge){.net = r->gold ? NULL : &p->reward, .micro_tokens = p->micro_tokens};
    size_t judged = (size_t)questions * (size_t)length;
    return memory_alloc((void **)&p->judge.score, judged * sizeof(float), "scores");
}

Status ppo_create(Ppo *p) {
    static const char *const evaluated[] = {"eval/scores", "eval/kl", "eval/win_rate",
                                            "eval/response_length", "eval/gold"};
    Stage *stage = p->stage;
    const PpoConfig *c = p->cfg;
    Roles r;
    memset(&r, 0, sizeof r);
    TRY(check_sizes(p));
    TRY(stage_tokenizer(&p->tokenizer, stage));
    TRY(read_roles(p, &r));
    TRY(train_data_open(&p->data, stage, ROWS_PROMPTS, ROWS_PROMPTS, p->tokenizer));
    if (r.gold) TRY(check_gold(p));
    if (c->ptx_coef > 0.0f)
        TRY(ptx_open(&p->ptx, c->ptx_data, &stage->data, p->tokenizer, stage->run.seed));
    resolve_settings(p);
    TRY(stage_check_best(stage, evaluated, policy_eval_knows_gold(&p->data.eval) ? 5 : 4));

    /* the run directory comes last: a typo above leaves nothing behind */
    TRY(session_open(&p->session, &stage->cfg, &stage->run, stage->verb, stage->recipe));
    Sizes sizes = sizes_of(p, &r);
    TRY(plan_memory(p, &r, &sizes));
    if (stage->cfg.dry_run) return OK;

    TRY(create_networks(p, &r, &sizes));
    TRY(create_rollouts(p, &r, sizes.rows));
    return load_networks(p, &r);
}

void ppo_release(Ppo *p) {
    void *owned[] = {p->logp_ref,  p->value,   p->reward_at,  p->adv,        p->ret,
                     p->raw_score, p->score,   p->state_mask, p->whitened,   p->m_logp,
                     p->m_entropy, p->m_value, p->m_old,      p->m_ref,      p->m_value_old,
                     p->m_adv,     p->m_ret,   p->m_dlogp,    p->m_dentropy, p->m_dvalue,
                     p->m_states,  p->order,   p->requests,   p->rows,       p->judge.score};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) memory_release(owned[i]);
    packed_release(&p->mini);
    ptx_release(&p->ptx);
    rollout_release(&p->rollout);
    policy_eval_release(&p->eval);
    rollout_engine_release(p->engine);
    average_release(&p->ema);
    optim_release(&p->actor_optim);
    optim_release(&p->critic_optim);
    network_release(&p->actor);
    network_release(&p->critic);
    network_release(&p->reference);
    network_release(&p->reward);
    workspace_release(p->ws);
    train_data_close(&p->data);
    tokenizer_release(p->tokenizer);
    session_close(&p->session);
}

Status ppo_save(Ppo *p) {
    CheckpointWriter *w;
    TRY(session_checkpoint(&w, &p->session, p->state.step));
    Status s = checkpoint_add(w, "state", &p->state, sizeof p->state);
    if (s == OK) s = policy_eval_save(w, &p->eval);
    if (s == OK) s = session_save_network(w, "actor", &p->actor, &p->actor_optim);
    if (s == OK && p->ema.net)
        s = session_save_range(w, "ema", "weights", p->session.b, p->ema.w, p->actor.w.count);
    if (s == OK) s = session_save_network(w, "critic", &p->critic, &p->critic_optim);
    if (s == OK) return checkpoint_commit(w);
    checkpoint_abort(w);
    return s;
}
