/* ppo.c - proximal policy optimization (Schulman et al. 2017) of a language model against a judge,
 * with a token-level KL price (Ziegler et al. 2019). ppo_step() is the algorithm; ppo_loss.c has
 * its equations, ppo_setup.c its models and memory. */
#include "ppo/ppo.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/run/progress.h"
#include "ppo/ppo_inside.h"

/* ---------------------------------------------------------------- the algorithm */

/* Where decoding rounds differently from training (on a GPU) the training forward computes log
 * pi_old once more: the first ratio would measure the rounding, not the policy. */
static Status recompute_old(Ppo *p) {
    float *logp = p->rollout.logp;
    TRY(packed_forward(&p->rollout.seq, &p->actor, p->micro_tokens, p->cfg->temperature,
                       &(TokenOutputs){.logp = p->m_logp}));
    p->drift = 0.0;
    for (int n = 0; n < p->rollout.seq.N; n++) {
        if (!p->rollout.seq.wanted[n]) continue;
        p->drift = fmax(p->drift, fabs((double)p->m_logp[n] - logp[n]));
        logp[n] = p->m_logp[n];
    }
    return OK;
}

/* 1. act: y ~ mu(.|x), keeping log mu(y) and the critic's values V */
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
    if (!p->session.b->exact_decode) TRY(recompute_old(p));
    return packed_forward(&p->rollout.seq, &p->critic, p->micro_tokens, 1.0f,
                          &(TokenOutputs){.score = p->value});
}

/* Mean and deviation of all scores so far (Welford 1962). */
static void track_scores(PpoState *s, const float *score, int n) {
    for (int i = 0; i < n; i++) {
        double d = score[i] - s->score_mean;
        s->score_mean += d / ++s->score_count;
        s->score_m2 += d * (score[i] - s->score_mean);
    }
    s->score_std = s->score_count > 1 ? sqrt(s->score_m2 / (s->score_count - 1)) : 1.0;
}

/* raw -> normalise -> clip -> minus the price of not ending */
static Status shape_scores(Ppo *p) {
    PpoState *s = &p->state;
    const char *how = p->cfg->normalize_score;
    for (int i = 0; i < p->S; i++) /* before the clip, which would hide an infinity */
        if (!isfinite(p->raw_score[i]))
            return status_fail(E_NUMERIC,
                               "step %d: the judge's score of response %d is not a finite number",
                               s->step + 1, i);
    if (!strcmp(how, "running") || (s->step == 0 && !strcmp(how, "initial")))
        track_scores(s, p->raw_score, p->S);
    for (int i = 0; i < p->S; i++) {
        double r = p->raw_score[i], c = p->cfg->score_clip;
        if (strcmp(how, "none")) r = (r - s->score_mean) / (s->score_std + 1e-8);
        if (c > 0.0) r = fmin(fmax(r, -c), c);
        if (p->rollout.stop[i] != STOP_EOS) r -= p->cfg->missing_eos_penalty;
        p->score[i] = (float)r;
    }
    return OK;
}

/* 2. judge: what does pi_ref think of y, and how good is it? */
static Status judge(Ppo *p) {
    TRY(packed_forward(&p->rollout.seq, &p->reference, p->micro_tokens, p->cfg->temperature,
                       &(TokenOutputs){.logp = p->logp_ref}));
    TRY(judge_score(&p->judge, &p->rollout, p->rows, p->tokenizer, p->raw_score));
    return shape_scores(p);
}

/* What quantizing the reference and the judge costs. At the first step the actor still is the
 * reference and the critic the judge, both unquantized: their differences are the cost. */
static void quantization_drift(const Ppo *p, Metrics *m) {
    double reference = 0.0, judge = 0.0;
    int tokens = 0, ended = 0;
    if (p->state.step > 0) return;
    for (int n = 0; n < p->rollout.seq.N; n++) {
        if (!p->rollout.seq.wanted[n]) continue;
        reference += fabs((double)p->rollout.logp[n] - p->logp_ref[n]);
        tokens++;
    }
    for (int s = 0; s < p->S; s++) {
        if (p->rollout.stop[s] != STOP_EOS) continue; /* cut: the judge is shown one token more */
        judge += fabs((double)p->value[p->rollout.seq.starts[s + 1] - 1] - p->raw_score[s]);
        ended++;
    }
    if (p->starts_from_reference && dtype_quantized(p->reference.w.quantized.dtype) && tokens)
        metrics_set(m, "reference/quantization_drift", reference / tokens);
    if (p->critic_is_judge && dtype_quantized(p->reward.w.quantized.dtype) && ended)
        metrics_set(m, "judge/quantization_drift", judge / ended);
}

/* How many states a response has, and where in the arrays they begin. R tokens are chosen in R
 * states, the first of which is read at the prompt's last token; with score_at "after_eos" one more
 * follows the EOS. */
static int response_states(const Ppo *p, int s, int *first) {
    *first = p->rollout.seq.starts[s] + p->rollout.n_prompt[s] - 1;
    return rollout_length(&p->rollout, s) + (p->after_eos && p->rollout.stop[s] == STOP_EOS);
}

/* 3. credit: one score per response becomes one advantage per token */
static void credit(Ppo *p) {
    int N = p->rollout.seq.N, first;
    memset(p->state_mask, 0, (size_t)N);
    memset(p->whitened, 0, (size_t)N);
    for (int s = 0; s < p->S; s++) {
        int n = response_states(p, s, &first), R = rollout_length(&p->rollout, s);
        float *reward = p->reward_at + first;
        token_rewards(reward, p->rollout.logp + first + 1, p->logp_ref + first + 1, R,
                      p->state.kl_coef, p->kl);
        if (n > R) reward[R] = 0.0f; /* the state after EOS has no KL of its own */
        reward[n - 1] += p->score[s];
        memset(p->state_mask + first, 1, (size_t)n);
        memset(p->whitened + first, 1, (size_t)R);
    }
    if (p->cfg->whiten_rewards) /* with the state after EOS, which has the score */
        whiten(p->reward_at, p->state_mask, N, 0);
    for (int s = 0; s < p->S; s++) {
        int n = response_states(p, s, &first);
        gae(p->adv + first, p->ret + first, p->reward_at + first, p->value + first, n,
            p->cfg->gamma, p->cfg->lambda);
    }
    whiten(p->adv, p->whitened, N, 1);
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
    for (int epoch = 0; epoch < p->cfg->step.epochs; epoch++) {
        const PolicyStats before = all;
        Rng rng = {p->stage->run.seed,
                   (uint64_t)p->state.step * (uint64_t)p->cfg->step.epochs + (uint64_t)epoch, 0,
                   RNG_MINIBATCH};
        for (int i = 0; i < p->S; i++) p->order[i] = i;
        rng_shuffle(&rng, p->order, p->S);
        for (int k = 0; k < p->cfg->minibatches; k++, updates++) {
            gather(p, k * per, (k + 1) * per);
            TRY(improve_minibatch(p, &all, &values, norms));
            if (!updates) first_deviation = all.max_deviation;
        }
        double approxkl = (all.approxkl - before.approxkl) / (all.tokens - before.tokens);
        if (p->cfg->target_kl > 0.0f && approxkl > 1.5 * p->cfg->target_kl) break;
    }
    put_improve_metrics(m, &all, &values, norms);
    if (p->loss.kl_loss_coef > 0.0f) metrics_set(m, "loss/kl_avg", all.kl_loss / all.tokens);
    if (p->ptx.tokens) metrics_set(m, "loss/ptx", p->ptx.nll / (double)p->ptx.tokens);
    metrics_set(m, "rollout/logp_drift", p->session.b->exact_decode ? first_deviation : p->drift);
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
    metrics_set(m, "rollout/preempted", p->rollout.preempted);
    metrics_set(m, "rollout/shared_tokens", (double)p->rollout.shared_tokens);
}

/* How scores, lengths, KL and the last minibatch's ratios are distributed. The numbers stand in an
 * array of gradients, which the updates have used by now. */
static void put_histograms(Ppo *p, int step) {
    Run *run = p->session.run;
    const Packed *q = &p->rollout.seq;
    float *x = p->m_dlogp;
    int n = 0;
    run_histogram(run, step, "distribution/scores", p->raw_score, p->S);
    for (int s = 0; s < p->S; s++) x[s] = (float)rollout_length(&p->rollout, s);
    run_histogram(run, step, "distribution/response_length", x, p->S);
    for (int s = 0; s < p->S; s++) {
        x[s] = 0.0f;
        for (int i = q->starts[s]; i < q->starts[s + 1]; i++)
            if (q->wanted[i]) x[s] += p->rollout.logp[i] - p->logp_ref[i];
    }
    run_histogram(run, step, "distribution/kl", x, p->S);
    for (int i = 0; i < p->mini.N; i++)
        if (p->mini.wanted[i]) x[n++] = expf(p->m_logp[i] - p->m_old[i]);
    run_histogram(run, step, "distribution/ratio", x, n);
}

static Status ppo_step(Ppo *p, Metrics *m) {
    double t[5] = {clock_seconds()};
    TRY(act(p));
    t[1] = clock_seconds();
    TRY(judge(p));
    t[2] = clock_seconds();
    credit(p);
    TRY(ppo_dump(p));
    put_rollout_metrics(p, m);
    quantization_drift(p, m);
    TRY(ppo_health(p, m));
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

/* ---------------------------------------------------------------- the run */

/* The policy's answers to the held-out prompts; with run NULL none is written down. */
static Status answer_held_out(Ppo *p, Run *run, PolicyResult *r) {
    return policy_eval(r, &p->eval,
                       &(PolicyModels){&p->actor, &p->reference, &p->critic, &p->judge}, run,
                       p->state.step);
}

static Status evaluate(Ppo *p, Metrics *m, PolicyResult *r) {
    TRY(answer_held_out(p, p->session.run, r));
    if (!p->eval.has_baseline) policy_eval_keep_baseline(&p->eval);
    policy_eval_metrics(m, &p->eval, r);
    if (!p->state.step) return OK; /* the policy to improve on is not a result of the run */
    return stage_keep_best(p->stage, m, &p->state.best, &p->actor.w, p->tokenizer, p->session.run);
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
    TRY(stage_begin(p->stage, &p->data, &p->session));
    progress_begin(&progress, "ppo", p->state.step, p->steps, cfg->log_every);
    run_signals();
    run_facts(run,
              &(AlarmFacts){.kl_target = p->cfg->kl_target,
                            .exact_logp = p->session.b->exact_decode,
                            .kl_begins_at_0 = p->starts_from_reference &&
                                              !dtype_quantized(p->reference.w.quantized.dtype)});
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
        put_histograms(p, step);
        progress_watch(&progress, metrics_get(&m, "objective/raw_scores"));
        progress_step(&progress, step, (uint64_t)p->rollout.seq.N,
                      "score %.3f  kl %.2f  length %.0f", metrics_get(&m, "objective/raw_scores"),
                      metrics_get(&m, "objective/kl"), metrics_get(&m, "response_length/mean"));
        if (last || (cfg->eval_every && step % cfg->eval_every == 0)) TRY(evaluate(p, &m, &result));
        TRY(run_log(run, step, p->state.tokens, p->state.samples, &m));
        if (run_save_due(cfg, step, last)) TRY(ppo_save(p));
        if (run_stop_requested() && !last) return run_stopped(run, step);
    }
    if (!result.n) /* resumed after the last step: the summary needs its figures */
        TRY(answer_held_out(p, NULL, &result));
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
    /* nothing may train the reference or the judge */
    CHECK(before[0] == after[0] && before[1] == after[1]);
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
