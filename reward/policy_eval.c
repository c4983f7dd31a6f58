/* policy_eval.c - see policy_eval.h. */
#include "reward/policy_eval.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "datasets/world.h"
#include "reward/policy_samples.h"

enum { EVAL_SEQUENCES = 1 }; /* counters of evaluation sit far above those of training rollouts */

static Status answers_create(Answers *a, int S, int max_length) {
    size_t N = (size_t)S * (size_t)max_length;
    if (!S) return OK;
    TRY(rollout_create(&a->rollout, S, N));
    TRY(memory_alloc((void **)&a->logp_ref, N * sizeof(float), "evaluation"));
    TRY(memory_alloc((void **)&a->score, (size_t)S * sizeof(float), "evaluation"));
    return memory_alloc((void **)&a->gold, (size_t)S * sizeof(float), "evaluation");
}

static void answers_release(Answers *a) {
    rollout_release(&a->rollout);
    memory_release(a->logp_ref);
    memory_release(a->score);
    memory_release(a->gold);
}

int policy_eval_knows_gold(const Dataset *prompts) {
    Gold g;
    return prompts->n > 0 && world_gold(&g, prompts->rows[0].prompt, "", 1) == OK;
}

Status policy_eval_create(PolicyEval *e, const Dataset *prompts, int samples, const Tokenizer *t,
                          RolloutEngine *engine, const SamplingConfig *sampling, int max_length,
                          int micro_tokens, uint64_t seed) {
    int S = prompts->n, written = samples < S ? samples : S;
    *e = (PolicyEval){.prompts = prompts,
                      .tokenizer = t,
                      .engine = engine,
                      .sampling = *sampling,
                      .seed = seed,
                      .micro_tokens = micro_tokens};
    if (!S) return OK;
    e->has_gold = policy_eval_knows_gold(prompts);
    TRY(answers_create(&e->sampled, S, max_length));
    TRY(answers_create(&e->greedy, written, max_length));
    TRY(memory_alloc((void **)&e->value, (size_t)written * (size_t)max_length * sizeof(float),
                     "evaluation"));
    TRY(memory_alloc((void **)&e->requests, (size_t)S * sizeof *e->requests, "evaluation"));
    TRY(memory_alloc((void **)&e->rows, (size_t)S * sizeof *e->rows, "evaluation"));
    TRY(memory_alloc((void **)&e->baseline, (size_t)S * sizeof(float), "evaluation"));
    for (int s = 0; s < S; s++) {
        e->rows[s] = &prompts->rows[s];
        e->requests[s] = (RolloutRequest){prompts->rows[s].a.ids, prompts->rows[s].a.n_prompt,
                                          ((uint64_t)EVAL_SEQUENCES << 62) + (uint64_t)s};
    }
    return OK;
}

void policy_eval_release(PolicyEval *e) {
    answers_release(&e->sampled);
    answers_release(&e->greedy);
    memory_release(e->value);
    memory_release(e->requests);
    memory_release(e->rows);
    memory_release(e->baseline);
    *e = (PolicyEval){0};
}

double answer_kl(const Answers *a, int s) {
    const Packed *p = &a->rollout.seq;
    double kl = 0.0;
    for (int n = p->starts[s]; n < p->starts[s + 1]; n++)
        if (p->wanted[n]) kl += (double)a->rollout.logp[n] - a->logp_ref[n];
    return kl;
}

/* Answers as many prompts as there is room for, and judges them. */
static Status answer(Answers *a, PolicyEval *e, const PolicyModels *m,
                     const SamplingConfig *sampling) {
    Packed *seq = &a->rollout.seq;
    float temperature = sampling->temperature > 0.0f ? sampling->temperature : 1.0f;
    TRY(rollout_generate(&a->rollout, e->engine, m->actor, e->requests, seq->max_S, sampling,
                         e->seed, NULL, NULL));
    if (e->has_gold) TRY(judge_gold(&a->rollout, e->rows, e->tokenizer, a->gold));
    if (m->judge) TRY(judge_score(m->judge, &a->rollout, e->rows, e->tokenizer, a->score));
    if (!m->reference) return OK;
    return packed_forward(seq, m->reference, e->micro_tokens, temperature,
                          &(TokenOutputs){.logp = a->logp_ref});
}

static void sum_up(PolicyResult *out, const PolicyEval *e, const PolicyModels *m) {
    const Answers *a = &e->sampled;
    for (int s = 0; s < out->n; s++) {
        if (e->has_gold) out->gold += a->gold[s];
        if (m->judge) out->score += a->score[s];
        if (m->reference) out->kl += answer_kl(a, s);
        out->length += rollout_length(&a->rollout, s);
        out->eos_rate += a->rollout.stop[s] == STOP_EOS;
    }
    double *means[] = {&out->gold, &out->score, &out->kl, &out->length, &out->eos_rate};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++)
        *means[i] /= out->n; /* of sums: counts stay exact */
    for (int s = 0; e->has_gold && s < out->n; s++)
        out->gold_stderr += (a->gold[s] - out->gold) * (a->gold[s] - out->gold);
    out->gold_stderr = out->n > 1 ? sqrt(out->gold_stderr / (out->n - 1) / out->n) : 0.0;
}

static Status write_answers(PolicyEval *e, const PolicyModels *m, Run *run, int step) {
    SamplingConfig greedy = e->sampling;
    greedy.temperature = 0.0f;
    if (!e->greedy.rollout.seq.max_S) return OK;
    TRY(policy_samples_write(e, &e->sampled, "sampled", m, run, step));
    TRY(answer(&e->greedy, e, m, &greedy));
    return policy_samples_write(e, &e->greedy, "greedy", m, run, step);
}

Status policy_eval(PolicyResult *out, PolicyEval *e, const PolicyModels *m, Run *run, int step) {
    int S = policy_eval_prompts(e);
    *out = (PolicyResult){.n = S,
                          .has_gold = e->has_gold,
                          .has_score = m->judge != NULL,
                          .has_kl = m->reference != NULL};
    if (!S) return OK;
    TRY(answer(&e->sampled, e, m, &e->sampling));
    sum_up(out, e, m);
    if (!e->has_gold && m->judge) /* wins are counted by the judge then */
        memcpy(e->sampled.gold, e->sampled.score, (size_t)S * sizeof(float));
    if (!run) return OK;
    if (m->judge) run_histogram(run, step, "distribution/eval_scores", e->sampled.score, S);
    return write_answers(e, m, run, step);
}

void policy_eval_keep_baseline(PolicyEval *e) {
    int S = policy_eval_prompts(e);
    if (!S) return;
    memcpy(e->baseline, e->sampled.gold, (size_t)S * sizeof(float));
    e->has_baseline = 1;
}

double policy_eval_win_rate(const PolicyEval *e) {
    const float *gold = e->sampled.gold;
    double wins = 0.0;
    int S = policy_eval_prompts(e);
    for (int s = 0; s < S; s++)
        wins += gold[s] > e->baseline[s] ? 1.0 : gold[s] == e->baseline[s] ? 0.5 : 0.0;
    return S ? wins / S : 0.5;
}

void policy_eval_metrics(Metrics *m, const PolicyEval *e, const PolicyResult *r) {
    if (!r->n) return;
    if (r->has_score) metrics_set(m, "eval/scores", r->score);
    if (r->has_gold) {
        metrics_set(m, "eval/gold", r->gold);
        metrics_set(m, "eval/gold_stderr", r->gold_stderr);
    }
    if (e->has_baseline && (r->has_gold || r->has_score))
        metrics_set(m, "eval/win_rate", policy_eval_win_rate(e));
    if (r->has_kl) metrics_set(m, "eval/kl", r->kl);
    metrics_set(m, "eval/response_length", r->length);
}

Status policy_eval_save(CheckpointWriter *w, const PolicyEval *e) {
    if (!e->baseline) return OK;
    return checkpoint_add(w, "baseline", e->baseline,
                          (size_t)policy_eval_prompts(e) * sizeof(float));
}

Status policy_eval_load(PolicyEval *e, const Checkpoint *c) {
    if (!e->baseline) return OK;
    TRY(checkpoint_read(c, "baseline", e->baseline,
                        (size_t)policy_eval_prompts(e) * sizeof(float)));
    e->has_baseline = 1;
    return OK;
}
