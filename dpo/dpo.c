/* dpo.c - direct preference optimization (Rafailov et al. 2023). dpo_step() is the algorithm;
 * dpo_loss.c has its equation, dpo_setup.c its models and memory, dpo_reference.c the reference's
 * log-probs. */
#include "dpo/dpo.h"

#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/run/progress.h"
#include "dpo/dpo_inside.h"

typedef struct {
    double loss, nll, rewards_chosen, rewards_rejected, logps_chosen, logps_rejected, entropy;
    int right, pairs, tokens;
} DpoStats;

/* ---------------------------------------------------------------- the algorithm */

void dpo_add_pair(Dpo *d, const Row *row) {
    packed_add(&d->batch, row->a.ids, row->a.trained, row->a.n);
    packed_add(&d->batch, row->b.ids, row->b.trained, row->b.n);
}

double dpo_sum_logp(const Dpo *d, int s) {
    double sum = 0.0;
    for (int n = d->batch.starts[s]; n < d->batch.starts[s + 1]; n++)
        if (d->batch.wanted[n]) sum += d->logp[n];
    return sum;
}

static int count_wanted(const Dpo *d, int s) {
    int count = 0;
    for (int n = d->batch.starts[s]; n < d->batch.starts[s + 1]; n++)
        count += d->batch.wanted[n] != 0;
    return count;
}

/* Losses and gradients of the pairs that sequences [first, last) of the batch are. Every token of
 * an answer has the gradient of the answer's sum. */
static void pair_losses(Dpo *d, DpoStats *stats, int first, int last, int pairs_in_step) {
    const DpoConfig *cfg = d->cfg;
    for (int s = first; s < last; s += 2) {
        const double *ref = dpo_reference_of(d, d->rows[s / 2]);
        double pi[2] = {dpo_sum_logp(d, s), dpo_sum_logp(d, s + 1)};
        int n_chosen = count_wanted(d, s);
        DpoPair p = dpo_loss(pi[0], pi[1], ref[0], ref[1], cfg->beta, cfg->label_smoothing);
        double slope[2] = {(p.dchosen - cfg->sft_coef / n_chosen) / pairs_in_step,
                           p.drejected / pairs_in_step};
        for (int k = 0; k < 2; k++)
            for (int n = d->batch.starts[s + k]; n < d->batch.starts[s + k + 1]; n++) {
                d->dlogp[n] = d->batch.wanted[n] ? (float)slope[k] : 0.0f;
                if (d->batch.wanted[n]) stats->entropy += d->entropy[n], stats->tokens++;
            }
        double a = pi[0] - ref[0], c = pi[1] - ref[1];
        d->margin[s / 2] = (float)(cfg->beta * (a - c));
        stats->loss += p.loss;
        stats->nll -= pi[0] / n_chosen;
        stats->rewards_chosen += cfg->beta * a;
        stats->rewards_rejected += cfg->beta * c;
        stats->logps_chosen += pi[0];
        stats->logps_rejected += pi[1];
        stats->right += a > c;
        stats->pairs++;
    }
}

typedef enum { TRAIN, EVAL } Pairs;

static void put_metrics(Metrics *m, Pairs which, const DpoStats *s, double sft_coef) {
    double n = s->pairs;
    const struct {
        const char *name[2];
        double value;
    } rows[] = {
        {{"loss", "eval/loss"}, (s->loss + sft_coef * s->nll) / n},
        {{"rewards/chosen", "eval/rewards/chosen"}, s->rewards_chosen / n},
        {{"rewards/rejected", "eval/rewards/rejected"}, s->rewards_rejected / n},
        {{"rewards/margins", "eval/rewards/margins"},
         (s->rewards_chosen - s->rewards_rejected) / n},
        {{"rewards/accuracies", "eval/rewards/accuracies"}, s->right / n},
        {{"logps/chosen", "eval/logps/chosen"}, s->logps_chosen / n},
        {{"logps/rejected", "eval/logps/rejected"}, s->logps_rejected / n},
        {{"entropy", "eval/entropy"}, s->entropy / s->tokens},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        metrics_set(m, rows[i].name[which], rows[i].value);
}

static int is_own_reference(const Dpo *d) {
    const StageConfig *c = &d->stage->cfg;
    return !c->reference[0] || !strcmp(c->reference, c->model);
}

/* Mean over tokens of |log pi - log ref| of each answer of the step. */
static double reference_drift(Dpo *d) {
    double drift = 0.0;
    int tokens = 0;
    for (int s = 0; s < d->batch.S; s++) {
        drift += fabs(dpo_sum_logp(d, s) - dpo_reference_of(d, d->rows[s / 2])[s % 2]);
        tokens += count_wanted(d, s);
    }
    return tokens ? drift / tokens : 0.0;
}

/* Where policy and reference are the same weights, every d is exactly 0 and the loss ln 2. On a
 * device whose products depend on the number of rows the two are rounded differently: then a
 * token's log-probs may differ by so many nats, as bf16 keeps three digits of a logit. */
static const double DRIFT_ALLOWED = 0.05;

static Status check_first_loss(Dpo *d, const DpoStats *stats, Metrics *m) {
    Dtype layers = d->reference.w.quantized.dtype;
    double drift = reference_drift(d), loss = stats->loss / stats->pairs;
    d->state.first_loss = loss;
    if (!is_own_reference(d)) {
        log_info("step-0 loss %.6f (ln 2 = 0.693147): the reference is another model", loss);
        return OK;
    }
    if (dtype_quantized(layers)) {
        metrics_set(m, "reference/quantization_drift", drift);
        log_info("step-0 loss %.6f (ln 2 = 0.693147): the reference is the same model in %s", loss,
                 dtype_name(layers));
        return OK;
    }
    int exact = d->session.b->exact_decode;
    if (exact ? fabs(loss - log(2.0)) <= 1e-12 : drift <= DRIFT_ALLOWED) return OK;
    return status_fail(
        E_NUMERIC,
        "the loss before the first update is %.15g and not ln 2, the mean difference "
        "of a token's log-prob %.3g: policy and reference differ though they are the "
        "same model",
        loss, drift);
}

static Status dpo_step(Dpo *d, Metrics *m) {
    const DpoConfig *cfg = d->cfg;
    double began = clock_seconds();

    /* 1. the next pairs, chosen and rejected side by side */
    packed_clear(&d->batch);
    for (int i = 0; i < cfg->step.batch_size; i++) {
        d->rows[i] = data_order_row(&d->data.order, d->state.position++);
        dpo_add_pair(d, d->rows[i]);
    }

    /* 2. prefer: -log sigma(beta (log pi/ref (chosen) - log pi/ref (rejected))) */
    DpoStats stats = {0};
    for (int first = 0, last; first < d->batch.S; first = last) {
        Batch b;
        last = packed_micro(&d->batch, first, 2, d->micro_tokens, 1.0f, &b);
        size_t at = (size_t)d->batch.starts[first];
        TRY(network_forward(&d->policy, &b,
                            &(TokenOutputs){.logp = d->logp + at, .entropy = d->entropy + at}));
        pair_losses(d, &stats, first, last, cfg->step.batch_size);
        TRY(network_backward(&d->policy, &(TokenGrads){.logp = d->dlogp + at}));
    }
    if (!d->state.step) TRY(check_first_loss(d, &stats, m));

    /* 3. update */
    double norm;
    float rate = optim_rate(&d->optim.cfg, d->state.step, d->steps);
    TRY(optim_step(&d->optim, rate, &norm));
    d->state.step++;
    d->state.tokens += (uint64_t)d->batch.N;
    d->state.samples += (uint64_t)cfg->step.batch_size;
    put_metrics(m, TRAIN, &stats, cfg->sft_coef);
    metrics_set(m, "grad_norm", norm);
    metrics_set(m, "optimizer/skipped", d->optim.skipped);
    metrics_set(m, "learning_rate", rate);
    metrics_set(m, "epoch", (double)d->state.position / d->data.order.total);
    metrics_set(m, "perf/tokens_per_second", d->batch.N / (clock_seconds() - began));
    return OK;
}

static Status evaluate_pairs(Dpo *d, DpoStats *stats) {
    const Dataset *set = &d->data.eval;
    *stats = (DpoStats){0};
    for (int row = 0; row < set->n;) {
        packed_clear(&d->batch);
        int pairs = 0;
        for (; row < set->n && d->batch.S + 2 <= d->batch.max_S; row++) {
            d->rows[pairs++] = &set->rows[row];
            dpo_add_pair(d, &set->rows[row]);
        }
        TRY(packed_forward(&d->batch, &d->policy, d->micro_tokens, 1.0f,
                           &(TokenOutputs){.logp = d->logp, .entropy = d->entropy}));
        pair_losses(d, stats, 0, d->batch.S, pairs);
    }
    return OK;
}

/* ---------------------------------------------------------------- the run */

/* The policy's answers to the held-out prompts; with run NULL none is written down. */
static Status evaluate_answers(Dpo *d, Run *run, PolicyResult *r) {
    TRY(policy_eval(r, &d->held.eval,
                    &(PolicyModels){.actor = &d->policy, .reference = &d->reference}, run,
                    d->state.step));
    if (!d->held.eval.has_baseline) policy_eval_keep_baseline(&d->held.eval);
    return OK;
}

static Status evaluate(Dpo *d, Metrics *m, PolicyResult *r) {
    DpoStats stats;
    TRY(evaluate_answers(d, d->session.run, r));
    policy_eval_metrics(m, &d->held.eval, r);
    if (d->data.eval.n) {
        TRY(evaluate_pairs(d, &stats));
        put_metrics(m, EVAL, &stats, 0.0);
    }
    return stage_keep_best(d->stage, m, &d->state.best, &d->policy.w, d->tokenizer, d->session.run);
}

static Status summarize(Dpo *d, const PolicyResult *r, double rate) {
    Stage *s = d->stage;
    DpoStats stats;
    if (r->has_gold) {
        summary_put(s, "gold_before", d->state.gold_before);
        summary_put(s, "gold_after", r->gold);
        summary_put(s, "win_rate_vs_sft", policy_eval_win_rate(&d->held.eval));
    }
    if (r->n) {
        summary_put(s, "kl_final", r->kl);
        summary_put(s, "response_length", r->length);
    }
    summary_put(s, "first_loss", d->state.first_loss);
    if (d->data.eval.n) {
        TRY(evaluate_pairs(d, &stats));
        summary_put(s, "val_loss", stats.loss / stats.pairs);
        summary_put(s, "val_accuracy", (double)stats.right / stats.pairs);
    }
    summary_put(s, "steps", d->state.step);
    summary_put(s, "tokens_per_second", rate);
    TRY(stage_write_model(&d->policy.w, d->tokenizer, run_dir(d->session.run), "model"));
    return stage_finish(s, d->session.run);
}

static Status dpo_loop(Dpo *d) {
    Run *run = d->session.run;
    const RunConfig *cfg = &d->stage->run;
    Progress p;
    PolicyResult result = {0};
    TRY(stage_begin(d->stage, &d->data, &d->session));
    TRY(dpo_reference_logps(d));
    run_signals();
    memory_freeze();
    if (!d->state.step) {
        TRY(evaluate_answers(d, run, &result));
        d->state.gold_before = result.gold;
    }
    progress_begin(&p, "dpo", d->state.step, d->steps, cfg->log_every);
    while (d->state.step < d->steps) {
        Metrics m;
        metrics_clear(&m);
        TRY(dpo_step(d, &m));
        int step = d->state.step, last = step == d->steps, tokens = d->batch.N;
        if (last || step % cfg->log_every == 0)
            run_histogram(run, step, "distribution/margins", d->margin, d->cfg->step.batch_size);
        progress_watch(&p, metrics_get(&m, "rewards/margins"));
        progress_step(&p, step, (uint64_t)tokens, "loss %.4f  margin %.3f  accuracy %.2f",
                      metrics_get(&m, "loss"), metrics_get(&m, "rewards/margins"),
                      metrics_get(&m, "rewards/accuracies"));
        if (last || (cfg->eval_every && step % cfg->eval_every == 0)) TRY(evaluate(d, &m, &result));
        TRY(run_log(run, step, d->state.tokens, d->state.samples, &m));
        if (run_save_due(cfg, step, last)) TRY(dpo_save(d));
        if (run_stop_requested() && !last) return run_stopped(run, step);
    }
    if (!result.n) /* resumed after the last step: the summary needs its figures */
        TRY(evaluate_answers(d, NULL, &result));
    return summarize(d, &result, progress_rate(&p));
}

Status dpo_run(Stage *stage, const DpoConfig *cfg) {
    Dpo d = {.stage = stage, .cfg = cfg};
    Status status = dpo_create(&d);
    if (status == OK && !stage->cfg.dry_run) status = dpo_loop(&d);
    memory_thaw();
    dpo_release(&d);
    return status;
}
