/* policy_eval.c - see policy_eval.h. */
#include "reward/policy_eval.h"

#include <string.h>

#include "core/base/json_check.h"
#include "core/base/memory.h"
#include "datasets/world.h"

enum { EVAL_SEQUENCES = 1 }; /* counters of evaluation sit far above those of training rollouts */

Status policy_eval_create(PolicyEval *e, const Dataset *prompts, int limit, const Tokenizer *t,
                          RolloutEngine *engine, const SamplingConfig *sampling, int max_length,
                          int micro_tokens, uint64_t seed) {
    int S = limit && limit < prompts->n ? limit : prompts->n;
    *e = (PolicyEval){.prompts = prompts,
                      .tokenizer = t,
                      .engine = engine,
                      .sampling = *sampling,
                      .seed = seed,
                      .micro_tokens = micro_tokens};
    if (!S) return OK;
    size_t N = (size_t)S * (size_t)max_length;
    TRY(rollout_create(&e->rollout, S, N));
    TRY(memory_alloc((void **)&e->requests, (size_t)S * sizeof *e->requests, "evaluation"));
    TRY(memory_alloc((void **)&e->rows, (size_t)S * sizeof *e->rows, "evaluation"));
    TRY(memory_alloc((void **)&e->logp_ref, N * sizeof(float), "evaluation"));
    TRY(memory_alloc((void **)&e->score, (size_t)S * sizeof(float), "evaluation"));
    TRY(memory_alloc((void **)&e->gold, (size_t)S * sizeof(float), "evaluation"));
    TRY(memory_alloc((void **)&e->baseline, (size_t)S * sizeof(float), "evaluation"));
    for (int s = 0; s < S; s++) {
        e->rows[s] = &prompts->rows[s];
        e->requests[s] = (RolloutRequest){prompts->rows[s].a.ids, prompts->rows[s].a.n_prompt,
                                          ((uint64_t)EVAL_SEQUENCES << 62) + (uint64_t)s};
    }
    return OK;
}

void policy_eval_release(PolicyEval *e) {
    rollout_release(&e->rollout);
    memory_release(e->requests);
    memory_release(e->rows);
    memory_release(e->logp_ref);
    memory_release(e->score);
    memory_release(e->gold);
    memory_release(e->baseline);
    *e = (PolicyEval){0};
}

static double sequence_kl(const PolicyEval *e, int s) {
    const Packed *p = &e->rollout.seq;
    double kl = 0.0;
    for (int n = p->starts[s]; n < p->starts[s + 1]; n++)
        if (p->wanted[n]) kl += (double)e->rollout.logp[n] - e->logp_ref[n];
    return kl;
}

/* Model text for TensorBoard's Markdown: a block of code, in which nothing is rendered; bytes that
 * are no UTF-8 become U+FFFD. */
static void put_quoted(Text *t, const char *heading, const char *text, size_t n) {
    const char *end = text + n;
    text_addf(t, "%s\n\n    ", heading);
    while (text < end) {
        size_t k = utf8_length(text, end);
        if (*text == '\n')
            text_add(t, "\n    ");
        else if (k)
            text_add_bytes(t, text, k);
        else
            text_add(t, "\xEF\xBF\xBD");
        text += k ? k : 1;
    }
    text_add(t, "\n\n");
}

static void log_sample_text(const PolicyEval *e, Run *run, int step, int s, const Text *reply) {
    char tag[32];
    Text t = {0};
    const char *prompt = e->rows[s]->prompt;
    snprintf(tag, sizeof tag, "samples/%d", s);
    put_quoted(&t, "prompt", prompt, strlen(prompt));
    put_quoted(&t, "answer", reply->s ? reply->s : "", reply->len);
    run_text(run, step, tag, t.s, t.len);
    text_release(&t);
}

static Status write_sample(PolicyEval *e, Run *run, int step, int s, const PolicyResult *r,
                           int has_kl, int has_score) {
    Text row = {0}, reply = {0};
    Status status = rollout_text(&e->rollout, s, e->tokenizer, &reply);
    text_add(&row, "{");
    json_put_key(&row, "step");
    json_put_number(&row, step);
    json_put_key(&row, "prompt");
    json_put_string(&row, e->rows[s]->prompt);
    json_put_key(&row, "completion");
    json_put_string_n(&row, reply.s ? reply.s : "", reply.len);
    if (has_score) {
        json_put_key(&row, "score");
        json_put_number(&row, e->score[s]);
    }
    if (r->has_gold) {
        json_put_key(&row, "gold");
        json_put_number(&row, e->gold[s]);
    }
    if (has_kl) {
        json_put_key(&row, "kl");
        json_put_number(&row, sequence_kl(e, s));
    }
    json_put_key(&row, "length");
    json_put_number(&row, rollout_length(&e->rollout, s));
    json_put_key(&row, "stop");
    json_put_string(&row, stop_names[e->rollout.stop[s]]);
    text_add(&row, "}");
    if (status == OK) status = run_sample(run, row.s);
    if (status == OK) log_sample_text(e, run, step, s, &reply);
    text_release(&row);
    text_release(&reply);
    return status;
}

Status policy_eval(PolicyResult *out, PolicyEval *e, Network *actor, Network *reference,
                   Judge *judge, Run *run, int step, int samples) {
    int S = e->rollout.seq.max_S;
    *out = (PolicyResult){.n = S};
    if (!S) return OK;
    TRY(rollout_generate(&e->rollout, e->engine, actor, e->requests, S, &e->sampling, e->seed, NULL,
                         NULL));
    Gold g;
    out->has_gold = world_gold(&g, e->rows[0]->prompt, "", 1) == OK;
    if (out->has_gold) TRY(judge_gold(&e->rollout, e->rows, e->tokenizer, e->gold));
    if (judge) TRY(judge_score(judge, &e->rollout, e->rows, e->tokenizer, e->score));
    float temperature = e->sampling.temperature > 0.0f ? e->sampling.temperature : 1.0f;
    if (reference)
        TRY(packed_forward(&e->rollout.seq, reference, e->micro_tokens, temperature,
                           &(TokenOutputs){.logp = e->logp_ref}));
    for (int s = 0; s < S; s++) {
        if (out->has_gold) out->gold += e->gold[s];
        if (judge) out->score += e->score[s];
        if (reference) out->kl += sequence_kl(e, s);
        out->length += rollout_length(&e->rollout, s);
        out->eos_rate += e->rollout.stop[s] == STOP_EOS;
    }
    double *means[] = {&out->gold, &out->score, &out->kl, &out->length, &out->eos_rate};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++)
        *means[i] /= S; /* of sums: counts stay exact */
    if (!out->has_gold && judge)
        memcpy(e->gold, e->score,
               (size_t)S * sizeof(float)); /* wins are counted by the judge then */
    if (run && judge) run_histogram(run, step, "distribution/eval_scores", e->score, S);
    for (int s = 0; run && s < samples && s < S; s++)
        TRY(write_sample(e, run, step, s, out, reference != NULL, judge != NULL));
    return OK;
}

void policy_eval_keep_baseline(PolicyEval *e) {
    if (!e->rollout.seq.max_S) return;
    memcpy(e->baseline, e->gold, (size_t)e->rollout.seq.max_S * sizeof(float));
    e->has_baseline = 1;
}

double policy_eval_win_rate(const PolicyEval *e) {
    double wins = 0.0;
    int S = e->rollout.seq.max_S;
    for (int s = 0; s < S; s++)
        wins += e->gold[s] > e->baseline[s] ? 1.0 : e->gold[s] == e->baseline[s] ? 0.5 : 0.0;
    return S ? wins / S : 0.5;
}
