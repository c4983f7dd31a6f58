/* ppo.c - proximal policy optimization (Schulman et al. 2017) of a language model against a judge, with a
 * token-level KL price (Ziegler et al. 2019). ppo_step() is the algorithm; ppo_loss.c has its equations. */
#include "ppo/ppo.h"

#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/rng.h"
#include "core/model/average.h"
#include "core/model/hf.h"
#include "core/run/progress.h"
#include "policy/rollout.h"
#include "ppo/ppo_loss.h"
#include "ppo/ptx.h"
#include "reward/judge.h"
#include "reward/policy_eval.h"

const Field ppo_fields[] = {
    OPTIM_FIELDS(PpoConfig, "3e-6"),
    STEP_FIELDS(PpoConfig, "64", "4"),
    FIELD_IN(PpoConfig, minibatches, FIELD_INT, "1", 1, 1 << 16,
             "optimizer steps per pass; a rollout has batch_size times as many sequences"),
    FIELD_IN(PpoConfig, samples, FIELD_INT, "1", 1, 1024, "responses per prompt"),
    FIELD_IN(PpoConfig, rows, FIELD_INT, "64", 1, 1 << 16, "sequences decoded at once"),
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

typedef struct {           /* what a resume needs besides the networks */
    uint64_t position;     /* prompts taken from the data's order */
    uint64_t ptx_position; /* rows taken from the other text's */
    uint64_t tokens, samples;
    double kl_coef;
    double score_mean, score_std, score_count,
        score_m2;           /* normalisation: fixed or running (Welford) */
    double first_deviation; /* largest |ratio - 1| seen before any update of a rollout */
    double gold_before, score_before, best;
    int32_t step, pad;
} PpoState;

typedef struct {
    Stage *stage;
    const PpoConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    TrainData data;
    Workspace *ws;
    Network actor, critic, reference, reward;
    Optim actor_optim, critic_optim;
    Average ema;
    Ptx ptx;
    Judge judge;
    RolloutEngine *engine;
    SamplingConfig sampling;
    PolicyEval eval;

    Rollout
        rollout; /* S responses, N tokens; token arrays below are [max_N], by token or by state */
    RolloutRequest *requests;
    const Row **rows;
    float *logp_ref, *value, *reward_at, *adv, *ret;
    float *raw_score, *score; /* [S] */
    uint8_t *state_mask, *whitened;

    Packed mini; /* a minibatch and its arrays */
    float *m_logp, *m_entropy, *m_value, *m_old, *m_ref, *m_value_old, *m_adv, *m_ret, *m_dlogp,
        *m_dentropy, *m_dvalue;
    uint8_t *m_states;
    int *order;
    int S, micro_tokens, steps, after_eos;
    PolicyLossConfig loss;
    KlEstimator kl;
    PpoState state;
} Ppo;

/* ---------------------------------------------------------------- the algorithm */

/* 1. act: y ~ mu(.|x), keeping log mu, and V as it was */
static Status act(Ppo *p) {
    int k = p->cfg->samples;
    for (int i = 0; i < p->S; i++) {
        uint64_t prompt = p->state.position + (uint64_t)(i / k);
        const Row *row = data_order_row(&p->data.order, prompt);
        p->rows[i] = row;
        p->requests[i] =
            (RolloutRequest){row->a.ids, row->a.n_prompt, prompt * (uint64_t)k + (uint64_t)(i % k)};
    }
    p->state.position += (uint64_t)(p->S / k);
    TRY(rollout_generate(&p->rollout, p->engine, &p->actor, p->requests, p->S, &p->sampling,
                         p->stage->run.seed, NULL, NULL));
    return packed_forward(&p->rollout.seq, &p->critic, p->micro_tokens, 1.0f,
                          &(TokenOutputs){.score = p->value});
}

/* raw -> normalise -> clip -> minus the price of not ending */
static void shape_scores(Ppo *p) {
    PpoState *s = &p->state;
    const char *how = p->cfg->normalize_score;
    int first = s->step == 0, running = !strcmp(how, "running");
    if (running || (first && !strcmp(how, "initial"))) {
        for (int i = 0; i < p->S; i++) {
            double d = p->raw_score[i] - s->score_mean;
            s->score_mean += d / ++s->score_count;
            s->score_m2 += d * (p->raw_score[i] - s->score_mean);
        }
        s->score_std = s->score_count > 1 ? sqrt(s->score_m2 / (s->score_count - 1)) : 1.0;
    }
    for (int i = 0; i < p->S; i++) {
        double r = p->raw_score[i], c = p->cfg->score_clip;
        if (strcmp(how, "none")) r = (r - s->score_mean) / (s->score_std + 1e-8);
        if (c > 0.0) r = fmin(fmax(r, -c), c);
        if (p->rollout.stop[i] != STOP_EOS) r -= p->cfg->missing_eos_penalty;
        p->score[i] = (float)r;
    }
}

/* 2. judge: what does pi_ref think of y, and how good is it? */
static Status judge(Ppo *p) {
    TRY(packed_forward(&p->rollout.seq, &p->reference, p->micro_tokens, p->cfg->temperature,
                       &(TokenOutputs){.logp = p->logp_ref}));
    TRY(judge_score(&p->judge, &p->rollout, p->rows, p->tokenizer, p->raw_score));
    shape_scores(p);
    return OK;
}

/* 3. credit: one score per response becomes one advantage per token */
static void credit(Ppo *p) {
    const Packed *q = &p->rollout.seq;
    memset(p->state_mask, 0, (size_t)q->N);
    memset(p->whitened, 0, (size_t)q->N);
    for (int s = 0; s < p->S; s++) {
        int R = rollout_length(&p->rollout, s),
            first = q->starts[s] + p->rollout.n_prompt[s] - 1; /* first state */
        int extra = p->after_eos && p->rollout.stop[s] == STOP_EOS, n = R + extra;
        float *reward = p->reward_at + first;
        token_rewards(reward, p->rollout.logp + first + 1, p->logp_ref + first + 1, R,
                      p->state.kl_coef, p->kl);
        if (extra) reward[R] = 0.0f;
        reward[n - 1] += p->score[s];
        memset(p->state_mask + first, 1, (size_t)n);
        memset(p->whitened + first, 1, (size_t)R);
    }
    if (p->cfg->whiten_rewards) whiten(p->reward_at, p->whitened, q->N, 0);
    for (int s = 0; s < p->S; s++) {
        int first = q->starts[s] + p->rollout.n_prompt[s] - 1;
        int n = rollout_length(&p->rollout, s) + (p->after_eos && p->rollout.stop[s] == STOP_EOS);
        gae(p->adv + first, p->ret + first, p->reward_at + first, p->value + first, n,
            p->cfg->gamma, p->cfg->lambda);
    }
    whiten(p->adv, p->whitened, q->N, 1);
}

/* Copies sequences order[first..last) with their arrays into the minibatch. */
static void gather(Ppo *p, int first, int last) {
    const Packed *q = &p->rollout.seq;
    const struct {
        float *to;
        const float *from;
    } arrays[] = {{p->m_old, p->rollout.logp},
                  {p->m_ref, p->logp_ref},
                  {p->m_value_old, p->value},
                  {p->m_adv, p->adv},
                  {p->m_ret, p->ret}};
    packed_clear(&p->mini);
    for (int i = first; i < last; i++) {
        int from = q->starts[p->order[i]], n = q->starts[p->order[i] + 1] - from, to = p->mini.N;
        packed_add(&p->mini, q->ids + from, q->wanted + from, n);
        memcpy(p->m_states + to, p->state_mask + from, (size_t)n);
        for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
            memcpy(arrays[a].to + to, arrays[a].from + from, (size_t)n * sizeof(float));
    }
}

/* One optimizer step of actor and critic on the gathered minibatch. */
static Status improve_minibatch(Ppo *p, PolicyStats *policy, ValueStats *value, double norms[2]) {
    int states = 0, tokens = packed_wanted(&p->mini), warm = p->state.step < p->cfg->critic_warmup;
    for (int n = 0; n < p->mini.N; n++) states += p->m_states[n];
    for (int first = 0, last; first < p->mini.S; first = last) {
        Batch b;
        last = packed_micro(&p->mini, first, 1, p->micro_tokens, p->cfg->temperature, &b);
        size_t at = (size_t)p->mini.starts[first];
        int with_entropy = p->loss.entropy_coef > 0.0f;

        TRY(network_forward(&p->actor, &b,
                            &(TokenOutputs){.logp = p->m_logp + at, .entropy = p->m_entropy + at}));
        policy_loss(&p->loss, b.N, b.wanted, p->m_logp + at, p->m_entropy + at, p->m_old + at,
                    p->m_ref + at, p->m_adv + at, 1.0 / tokens, p->m_dlogp + at,
                    with_entropy ? p->m_dentropy + at : NULL, policy);
        if (!warm)
            TRY(network_backward(
                &p->actor, &(TokenGrads){.logp = p->m_dlogp + at,
                                         .entropy = with_entropy ? p->m_dentropy + at : NULL}));

        TRY(network_forward(&p->critic, &b, &(TokenOutputs){.score = p->m_value + at}));
        value_loss(p->cfg->value_clip, b.N, p->m_states + at, p->m_value + at, p->m_value_old + at,
                   p->m_ret + at, 1.0 / states, p->m_dvalue + at, value);
        TRY(network_backward(&p->critic, &(TokenGrads){.score = p->m_dvalue + at}));
    }
    if (!warm) {
        if (p->cfg->ptx_coef > 0.0f)
            TRY(ptx_learn(&p->ptx, &p->actor, &p->state.ptx_position, p->cfg->ptx_coef,
                          p->micro_tokens));
        TRY(optim_step(&p->actor_optim, optim_rate(&p->actor_optim.cfg, p->state.step, p->steps),
                       &norms[0]));
        average_update(&p->ema);
    }
    return optim_step(&p->critic_optim, optim_rate(&p->critic_optim.cfg, p->state.step, p->steps),
                      &norms[1]);
}

static void put_improve_metrics(Metrics *m, const PolicyStats *s, const ValueStats *v,
                                const double norms[2]) {
    double n = s->tokens ? s->tokens : 1, mean = s->ratio / n;
    metrics_set(m, "policy/approxkl_avg", s->approxkl / n);
    metrics_set(m, "policy/clipfrac_avg", s->clipped / n);
    metrics_set(m, "policy/entropy_avg", s->entropy / n);
    metrics_set(m, "loss/policy_avg", s->policy / n);
    metrics_set(m, "loss/value_avg", v->value / (v->states ? v->states : 1));
    metrics_set(m, "val/clipfrac_avg", (double)v->clipped / (v->states ? v->states : 1));
    metrics_set(m, "val/ratio", mean);
    metrics_set(m, "val/ratio_var", fmax(0.0, s->ratio_squared / n - mean * mean));
    metrics_set(m, "val/ratio_max", s->max_ratio);
    metrics_set(m, "actor/grad_norm", norms[0]);
    metrics_set(m, "critic/grad_norm", norms[1]);
}

/* 4. improve: several passes of minibatch ascent on the clipped surrogate */
static Status improve(Ppo *p, Metrics *m) {
    PolicyStats all = {0};
    ValueStats values = {0};
    double norms[2] = {0.0, 0.0}, first_deviation = 0.0;
    int per = p->S / p->cfg->minibatches, updates = 0;
    ptx_clear(&p->ptx);
    for (int epoch = 0; epoch < p->cfg->epochs; epoch++) {
        PolicyStats pass = {0};
        Rng rng = {p->stage->run.seed,
                   (uint64_t)p->state.step * (uint64_t)p->cfg->epochs + (uint64_t)epoch, 0,
                   RNG_MINIBATCH};
        for (int i = 0; i < p->S; i++) p->order[i] = i;
        rng_shuffle(&rng, p->order, p->S);
        for (int k = 0; k < p->cfg->minibatches; k++, updates++) {
            gather(p, k * per, (k + 1) * per);
            TRY(improve_minibatch(p, &pass, &values, norms));
            if (!updates) first_deviation = pass.max_deviation;
        }
        all.policy += pass.policy;
        all.entropy += pass.entropy;
        all.approxkl += pass.approxkl;
        all.ratio += pass.ratio;
        all.ratio_squared += pass.ratio_squared;
        all.clipped += pass.clipped;
        all.tokens += pass.tokens;
        all.max_ratio = fmax(all.max_ratio, pass.max_ratio);
        if (p->cfg->target_kl > 0.0f && pass.approxkl / pass.tokens > 1.5 * p->cfg->target_kl)
            break;
    }
    put_improve_metrics(m, &all, &values, norms);
    if (p->ptx.tokens) metrics_set(m, "loss/ptx", p->ptx.nll / (double)p->ptx.tokens);
    metrics_set(m, "rollout/logp_drift", first_deviation);
    metrics_set(m, "optimizer_steps", updates);
    p->state.first_deviation = fmax(p->state.first_deviation, first_deviation);
    return OK;
}

static double explained_variance(const Ppo *p) {
    double n = 0, r = 0, rr = 0, e = 0, ee = 0;
    for (int i = 0; i < p->rollout.seq.N; i++) {
        if (!p->state_mask[i]) continue;
        double error = p->ret[i] - p->value[i];
        n++, r += p->ret[i], rr += (double)p->ret[i] * p->ret[i], e += error, ee += error * error;
    }
    double var = rr / n - r / n * (r / n);
    return var > 0.0 ? 1.0 - (ee / n - e / n * (e / n)) / var : NAN;
}

static void put_rollout_metrics(Ppo *p, Metrics *m) {
    const Packed *q = &p->rollout.seq;
    double kl = 0, entropy = 0, price = 0, score = 0, raw = 0, length = 0, longest = 0,
           shortest = INFINITY;
    int eos = 0;
    for (int n = 0; n < q->N; n++) {
        if (!q->wanted[n]) continue;
        kl += (double)p->rollout.logp[n] - p->logp_ref[n];
        entropy -= p->rollout.logp[n];
        price -= p->state.kl_coef * kl_estimate(p->kl, p->rollout.logp[n], p->logp_ref[n]);
    }
    for (int s = 0; s < p->S; s++) {
        int R = rollout_length(&p->rollout, s);
        length += R, longest = fmax(longest, R), shortest = fmin(shortest, R);
        score += p->score[s], raw += p->raw_score[s];
        eos += p->rollout.stop[s] == STOP_EOS;
    }
    metrics_set(m, "objective/kl", kl / p->S);
    metrics_set(m, "objective/entropy", entropy / p->S);
    metrics_set(m, "objective/non_score_reward", price / p->S);
    metrics_set(m, "objective/scores", score / p->S);
    metrics_set(m, "objective/raw_scores", raw / p->S);
    metrics_set(m, "objective/rlhf_reward", (score + price) / p->S);
    metrics_set(m, "objective/kl_coef", p->state.kl_coef);
    metrics_set(m, "val/num_eos_tokens", eos);
    metrics_set(m, "critic/vf_explained_var", explained_variance(p));
    metrics_set(m, "response_length/mean", length / p->S);
    metrics_set(m, "response_length/min", shortest);
    metrics_set(m, "response_length/max", longest);
    metrics_set(m, "rollout/truncated_rate", 1.0 - (double)eos / p->S);
    metrics_set(m, "rollout/truncated_mass", p->rollout.truncated_mass);
}

/* One step of PPO. */
static Status ppo_step(Ppo *p, Metrics *m) {
    double t[5] = {clock_seconds()};
    TRY(act(p));
    t[1] = clock_seconds();
    TRY(judge(p));
    t[2] = clock_seconds();
    credit(p);
    put_rollout_metrics(p, m);
    t[3] = clock_seconds();
    TRY(improve(p, m));
    t[4] = clock_seconds();

    if (p->cfg->kl_target > 0.0f)
        p->state.kl_coef = kl_control(p->state.kl_coef, metrics_get(m, "objective/kl"),
                                      p->cfg->kl_target, p->cfg->kl_horizon, p->S);
    metrics_set(m, "learning_rate", optim_rate(&p->actor_optim.cfg, p->state.step, p->steps));
    metrics_set(m, "timing_s/rollout", t[1] - t[0]);
    metrics_set(m, "timing_s/judge", t[2] - t[1]);
    metrics_set(m, "timing_s/improve", t[4] - t[3]);
    metrics_set(m, "timing_s/step", t[4] - t[0]);
    metrics_set(m, "perf/tokens_per_second", p->rollout.seq.N / (t[4] - t[0]));
    p->state.step++;
    p->state.tokens += (uint64_t)p->rollout.seq.N;
    p->state.samples += (uint64_t)p->S;
    return OK;
}

/* ---------------------------------------------------------------- models, memory, resume */

static KlEstimator estimator(const char *name) {
    return name[1] == '1' ? KL_K1 : name[1] == '2' ? KL_K2 : KL_K3;
}

typedef struct {
    ModelConfig actor, critic, reference, reward;
    const char *critic_path, *reference_path;
    int gold;
} Roles;

static Status read_roles(Ppo *p, Roles *r) {
    const StageConfig *s = &p->stage->cfg;
    if (!s->reward_model[0])
        return status_fail(E_USAGE,
                           "the recipe names no \"reward_model\" (a directory, or \"gold\")");
    r->gold = !strcmp(s->reward_model, "gold");
    r->critic_path = p->cfg->critic[0] ? p->cfg->critic : r->gold ? s->model : s->reward_model;
    r->reference_path = s->reference[0] ? s->reference : s->model;
    TRY(stage_model_config(&r->actor, p->stage, p->tokenizer));
    TRY(model_read_config(&r->reference, r->reference_path));
    TRY(model_read_config(&r->critic, r->critic_path));
    r->critic.lm_head = 0;
    r->critic.scores = 1;
    if (r->gold) return OK;
    TRY(model_read_config(&r->reward, s->reward_model));
    if (!r->reward.scores)
        return status_fail(E_FORMAT, "%s has no score head: it is not a reward model",
                           s->reward_model);
    r->reward.lm_head = 0;
    if (!strcmp(p->cfg->normalize_score, "stored") && !(r->reward.score_std > 0.0))
        return status_fail(
            E_FORMAT,
            "%s carries no held-out mean and deviation for ppo.normalize_score \"stored\"",
            s->reward_model);
    return OK;
}

/* Tokens must mean the same to all four. */
static Status check_vocabularies(const Roles *r, const Tokenizer *t) {
    const struct {
        const char *name;
        const ModelConfig *m;
    } roles[] = {
        {"reference", &r->reference}, {"critic", &r->critic}, {"reward model", &r->reward}};
    for (int i = 0; i < (r->gold ? 2 : 3); i++) {
        if (roles[i].m->V < tokenizer_vocab_size(t))
            return status_fail(E_FORMAT, "the %s embeds %d tokens, the tokenizer has %d",
                               roles[i].name, roles[i].m->V, tokenizer_vocab_size(t));
    }
    return OK;
}

static Status check_sizes(Ppo *p) {
    const PpoConfig *c = p->cfg;
    p->S = c->batch_size * c->minibatches;
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
    TRY(packed_create(&p->mini, p->S, (int)N));
    return rollout_create(&p->rollout, p->S, (int)N);
}

static Status load_networks(Ppo *p, const Roles *r) {
    TRY(model_read_weights(&p->reference.w, r->reference_path, p->stage->run.seed));
    if (!r->gold)
        TRY(model_read_weights(&p->reward.w, p->stage->cfg.reward_model, p->stage->run.seed));
    if (p->session.from) {
        const void *saved;
        size_t bytes;
        TRY(checkpoint_view(p->session.from, "state", sizeof p->state, &saved, &bytes));
        memcpy(&p->state, saved, sizeof p->state);
        if (p->eval.baseline) {
            TRY(checkpoint_view(p->session.from, "baseline",
                                (size_t)p->eval.rollout.seq.max_S * sizeof(float), &saved, &bytes));
            memcpy(p->eval.baseline, saved, bytes);
            p->eval.has_baseline = 1;
        }
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

static Status ppo_create(Ppo *p) {
    Stage *stage = p->stage;
    const PpoConfig *c = p->cfg;
    Roles r;
    memset(&r, 0, sizeof r);
    TRY(check_sizes(p));
    TRY(stage_tokenizer(&p->tokenizer, stage));
    TRY(read_roles(p, &r));
    TRY(check_vocabularies(&r, p->tokenizer));
    TRY(train_data_open(&p->data, stage, ROWS_PROMPTS, ROWS_PROMPTS, p->tokenizer));
    if (c->ptx_coef > 0.0f)
        TRY(ptx_open(&p->ptx, c->ptx_data, &stage->data, p->tokenizer, stage->run.seed));
    p->steps = stage_steps(&p->data, p->S / c->samples, 1, c->max_steps);
    int length = stage->data.max_length;
    p->micro_tokens = stage_micro_tokens(c->micro_tokens, length);
    p->after_eos = !strcmp(c->score_at, "after_eos");
    p->kl = estimator(c->kl_estimator);
    p->loss = (PolicyLossConfig){c->clip,         c->clip_high > 0.0f ? c->clip_high : c->clip,
                                 c->dual_clip,    c->entropy_coef,
                                 c->kl_loss_coef, estimator(c->kl_loss_estimator)};
    p->sampling = (SamplingConfig){.max_new_tokens = c->max_new_tokens,
                                   .temperature = c->temperature,
                                   .top_k = c->top_k,
                                   .top_p = c->top_p,
                                   .rows = c->rows,
                                   .stop = c->stop};

    /* the run directory comes last: a typo above leaves nothing behind */
    TRY(session_open(&p->session, &stage->cfg, &stage->run, stage->verb, stage->recipe));
    Backend *b = p->session.b;
    const ModelConfig *configs[] = {&r.actor, &r.critic, &r.reference, &r.reward};
    int n = r.gold ? 3 : 4, rows = c->rows < p->S ? c->rows : p->S,
        questions = p->data.eval.n > p->S ? p->data.eval.n : p->S;
    WorkspacePlan plan = {.tokens = p->micro_tokens > rows ? p->micro_tokens : rows,
                          .sequences = p->micro_tokens,
                          .train = 1,
                          .recompute = c->recompute,
                          .max_length = length};
    size_t bytes;
    Plan memory = {0};
    plan_network(&memory, b, "actor", &r.actor, 1);
    if (c->ema > 0.0f)
        plan_add(&memory, tensors_count(&r.actor) * sizeof(float), "actor: average of weights");
    plan_network(&memory, b, "critic", &r.critic, 1);
    plan_network(&memory, b, "reference", &r.reference, 0);
    if (!r.gold) plan_network(&memory, b, "reward model", &r.reward, 0);
    TRY(workspace_create(NULL, NULL, &plan, configs, n, &bytes));
    plan_add(&memory, bytes, "activations (%d tokens)", plan.tokens);
    plan_add(&memory, rollout_engine_bytes(&r.actor, rows, length), "KV cache (%d rows)", rows);
    plan_print(&memory);
    if (stage->cfg.dry_run) return OK;

    TRY(workspace_create(&p->ws, b, &plan, configs, n, NULL));
    TRY(network_create(&p->actor, b, &r.actor, p->ws, 1));
    TRY(network_create(&p->critic, b, &r.critic, p->ws, 1));
    TRY(network_create(&p->reference, b, &r.reference, p->ws, 0));
    if (!r.gold) TRY(network_create(&p->reward, b, &r.reward, p->ws, 0));
    OptimConfig oc = OPTIM_CONFIG(c);
    TRY(optim_create(&p->actor_optim, &p->actor, &oc));
    TRY(average_create(&p->ema, &p->actor, c->ema));
    oc.learning_rate = c->critic_learning_rate;
    TRY(optim_create(&p->critic_optim, &p->critic, &oc));
    TRY(rollout_engine_create(&p->engine, b, &r.actor, p->tokenizer, rows, length, questions));
    TRY(create_arrays(p, length));
    if (c->ptx_coef > 0.0f) TRY(ptx_create(&p->ptx, c->ptx_batch, length));
    TRY(policy_eval_create(&p->eval, &p->data.eval, 0, p->tokenizer, p->engine, &p->sampling,
                           length, p->micro_tokens, stage->run.seed));
    p->judge = (Judge){.net = r.gold ? NULL : &p->reward, .micro_tokens = p->micro_tokens};
    size_t judged = (size_t)questions * (size_t)length;
    TRY(memory_alloc((void **)&p->judge.score, judged * sizeof(float), "scores"));
    return load_networks(p, &r);
}

static void ppo_release(Ppo *p) {
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

static Status ppo_save(Ppo *p) {
    CheckpointWriter *w;
    TRY(session_checkpoint(&w, &p->session, p->state.step));
    Status s = checkpoint_add(w, "state", &p->state, sizeof p->state);
    if (s == OK && p->eval.baseline)
        s = checkpoint_add(w, "baseline", p->eval.baseline,
                           (size_t)p->eval.rollout.seq.max_S * sizeof(float));
    if (s == OK) s = session_save_network(w, "actor", &p->actor, &p->actor_optim);
    if (s == OK && p->ema.net)
        s = session_save_range(w, "ema", "weights", p->session.b, p->ema.w, p->actor.w.count);
    if (s == OK) s = session_save_network(w, "critic", &p->critic, &p->critic_optim);
    if (s == OK) return checkpoint_commit(w);
    checkpoint_abort(w);
    return s;
}

/* ---------------------------------------------------------------- the run */

enum { SAMPLES = 8 }; /* held-out answers written down at each evaluation */

static Status evaluate(Ppo *p, Metrics *m, PolicyResult *r) {
    TRY(policy_eval(r, &p->eval, &p->actor, &p->reference, &p->judge, p->session.run, p->state.step,
                    SAMPLES));
    if (!p->eval.has_baseline) policy_eval_keep_baseline(&p->eval);
    if (!r->n) return OK;
    metrics_set(m, "eval/scores", r->score);
    if (r->has_gold) metrics_set(m, "eval/gold", r->gold);
    metrics_set(m, "eval/kl", r->kl);
    metrics_set(m, "eval/win_rate", policy_eval_win_rate(&p->eval));
    metrics_set(m, "eval/response_length", r->length);
    if (p->stage->run.best[0] && p->state.step && !(r->score <= p->state.best)) {
        p->state.best = r->score;
        return stage_write_model(&p->actor.w, p->tokenizer, run_dir(p->session.run), "best");
    }
    return OK;
}

static Status write_average(Ppo *p) {
    Weights view;
    if (!p->ema.net) return OK;
    Status s = average_view(&p->ema, &view);
    if (s == OK) s = stage_write_model(&view, p->tokenizer, run_dir(p->session.run), "ema");
    tensors_release(&view.t);
    return s;
}

static Status summarize(Ppo *p, const PolicyResult *r) {
    Stage *s = p->stage;
    if (r->n) {
        if (r->has_gold) summary_put(s, "gold_before", p->state.gold_before);
        if (r->has_gold) summary_put(s, "gold_after", r->gold);
        summary_put(s, "score_before", p->state.score_before);
        summary_put(s, "score_after", r->score);
        summary_put(s, "kl_final", r->kl);
        summary_put(s, "win_rate_vs_sft", policy_eval_win_rate(&p->eval));
        summary_put(s, "response_length", r->length);
    }
    summary_put(s, "first_ratio_max_deviation", p->state.first_deviation);
    summary_put(s, "steps", p->state.step);
    TRY(stage_write_model(&p->critic.w, p->tokenizer, run_dir(p->session.run), "critic"));
    TRY(write_average(p));
    TRY(stage_write_model(&p->actor.w, p->tokenizer, run_dir(p->session.run), "model"));
    return stage_finish(s, p->session.run);
}

static Status ppo_loop(Ppo *p) {
    Run *run = p->session.run;
    const RunConfig *cfg = &p->stage->run;
    Progress progress;
    PolicyResult result = {0};
    progress_begin(&progress, "ppo", p->state.step, p->steps, cfg->log_every);
    run_signals();
    memory_freeze();
    if (!p->state.step) {
        Metrics m;
        metrics_clear(&m);
        TRY(evaluate(p, &m, &result));
        p->state.gold_before = result.gold;
        p->state.score_before = result.score;
        TRY(run_log(run, 0, 0, 0, &m));
    }
    while (p->state.step < p->steps) {
        Metrics m;
        metrics_clear(&m);
        TRY(ppo_step(p, &m));
        int step = p->state.step, last = step == p->steps;
        progress_step(&progress, step, (uint64_t)p->rollout.seq.N,
                      "score %.3f  kl %.2f  length %.0f", metrics_get(&m, "objective/raw_scores"),
                      metrics_get(&m, "objective/kl"), metrics_get(&m, "response_length/mean"));
        if (!last && cfg->eval_every && step % cfg->eval_every == 0) TRY(evaluate(p, &m, &result));
        if (last) TRY(evaluate(p, &m, &result));
        TRY(run_log(run, step, p->state.tokens, p->state.samples, &m));
        int stop = run_stop_requested();
        if (stop || run_save_requested() || last ||
            (cfg->save_every && step % cfg->save_every == 0))
            TRY(ppo_save(p));
        if (stop && !last)
            return status_fail(E_STOPPED, "stopped after step %d; --resume goes on", step);
    }
    if (!result.n &&
        p->eval.baseline) /* resumed after the last step: the held-out figures once more */
        TRY(policy_eval(&result, &p->eval, &p->actor, &p->reference, &p->judge, NULL, p->state.step,
                        0));
    return summarize(p, &result);
}

static Status hash_frozen(const Ppo *p, uint64_t hash[2]) {
    hash[1] = 0;
    TRY(weights_hash(&p->reference.w, &hash[0]));
    return p->judge.net ? weights_hash(&p->reward.w, &hash[1]) : OK;
}

static Status train_and_check(Ppo *p) {
    uint64_t before[2], after[2];
    TRY(hash_frozen(p, before));
    TRY(ppo_loop(p));
    TRY(hash_frozen(p, after));
    CHECK(before[0] == after[0] &&
          before[1] == after[1]); /* nothing may train the reference or the judge */
    return OK;
}

Status ppo_run(Stage *stage, const PpoConfig *cfg) {
    Ppo p = {.stage = stage, .cfg = cfg};
    Status status = ppo_create(&p);
    if (status == OK && !stage->cfg.dry_run) status = train_and_check(&p);
    memory_thaw();
    ppo_release(&p);
    return status;
}
