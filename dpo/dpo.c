/* dpo.c - direct preference optimization (Rafailov et al. 2023). The reference's log-probs of all
 * pairs are computed once, before the first step, and kept on disk beside the run. */
#include "dpo/dpo.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/model/hf.h"
#include "core/model/packed.h"
#include "core/run/progress.h"

const Field dpo_fields[] = {
    OPTIM_FIELDS(DpoConfig, "1e-6"),
    STEP_FIELDS(DpoConfig, "16", "1"),
    FIELD_IN(DpoConfig, beta, FIELD_FLOAT, "0.1", 1e-9, 1e6, "price of leaving the reference"),
    FIELD_IN(DpoConfig, label_smoothing, FIELD_FLOAT, "0", 0, 0.499,
             "share of labels taken to be flipped (cDPO)"),
    FIELD_IN(DpoConfig, sft_coef, FIELD_FLOAT, "0", 0, 1e6,
             "weight of the chosen answer's negative log-likelihood"),
    HELD_OUT_FIELDS(DpoConfig),
};
const int dpo_n_fields = sizeof dpo_fields / sizeof *dpo_fields;

typedef struct {
    uint64_t position, tokens, samples;
    double first_loss, gold_before, score_before, best;
    int32_t step, pad;
} DpoState;

typedef struct {
    double loss, nll, rewards_chosen, rewards_rejected, logps_chosen, logps_rejected, entropy;
    int right, pairs, tokens;
} DpoStats;

typedef struct {
    Stage *stage;
    const DpoConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    TrainData data;
    HeldOut held;
    Workspace *ws;
    Network policy, reference;
    Optim optim;
    Packed batch; /* chosen, rejected, chosen, rejected, ... */
    float *logp, *entropy, *dlogp;
    float *margin;    /* [batch_size] implicit rewards, chosen minus rejected, of the last batch */
    double *ref;      /* [rows of all sets][2] sums of log ref; NAN = not computed */
    double *eval_ref; /* [eval rows][2] */
    size_t pairs;     /* of all sets, those held out included */
    int *first_row;   /* [n_sets] */
    const Row **rows; /* of the step */
    int micro_tokens, steps;
    DpoState state;
} Dpo;

static double sum_logp(const Dpo *d, int s) {
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

static void add_pair(Dpo *d, const Row *row) {
    packed_add(&d->batch, row->a.ids, row->a.trained, row->a.n);
    packed_add(&d->batch, row->b.ids, row->b.trained, row->b.n);
}

static double *ref_of(Dpo *d, const Row *row) {
    for (int i = 0; i < d->data.n_sets; i++) {
        const Dataset *set = &d->data.sets[i];
        if (row >= set->rows && row < set->rows + set->n)
            return d->ref + 2 * (d->first_row[i] + (row - set->rows));
    }
    return d->eval_ref + 2 * (row - d->data.eval.rows);
}

/* ---------------------------------------------------------------- reference log-probs, once */

static Status reference_of_set(Dpo *d, const Dataset *set) {
    for (int row = 0, first = 0; row < set->n; first = row) {
        packed_clear(&d->batch);
        for (; row < set->n && d->batch.S + 2 <= d->batch.max_S; row++)
            add_pair(d, &set->rows[row]);
        TRY(packed_forward(&d->batch, &d->reference, d->micro_tokens, 1.0f,
                           &(TokenOutputs){.logp = d->logp}));
        for (int i = first; i < row; i++) {
            double *ref = ref_of(d, &set->rows[i]);
            ref[0] = sum_logp(d, 2 * (i - first));
            ref[1] = sum_logp(d, 2 * (i - first) + 1);
        }
    }
    return OK;
}

/* The cache's key: the reference's weights, every set's ids, the kernels, the storage type. */
static Status reference_key(Dpo *d, uint64_t *key) {
    TRY(weights_hash(&d->reference.w, key));
    for (int i = 0; i < d->data.n_sets; i++)
        *key = file_hash(&d->data.sets[i].hash, sizeof(uint64_t), *key);
    *key = file_hash(&d->data.eval.hash, sizeof(uint64_t), *key);
    *key = file_hash(d->session.b->kernels, strlen(d->session.b->kernels), *key);
    const char *dtype = dtype_name(d->session.b->dtype);
    *key = file_hash(dtype, strlen(dtype), *key);
    return OK;
}

static Status reference_logps(Dpo *d) {
    char path[1300];
    uint64_t key;
    size_t bytes = 2 * d->pairs * sizeof(double);
    TRY(reference_key(d, &key));
    snprintf(path, sizeof path, "%s/reference-%016llx.logps", run_dir(d->session.run),
             (unsigned long long)key);
    FileMap map;
    if (file_exists(path) && file_map(&map, path) == OK) {
        int good =
            map.len == bytes + sizeof key &&
            file_hash(map.data, bytes, key) == *(const uint64_t *)(const void *)(map.data + bytes);
        if (good)
            memcpy(d->ref, map.data, bytes);
        else
            log_warn("%s is damaged; the reference's log-probs are computed again", path);
        file_unmap(&map);
        if (good) return OK;
    }
    log_info("reference log-probs of %zu pairs, once", d->pairs);
    for (int i = 0; i < d->data.n_sets; i++) TRY(reference_of_set(d, &d->data.sets[i]));
    TRY(reference_of_set(d, &d->data.eval));
    uint64_t hash = file_hash(d->ref, bytes, key);
    FileWriter w;
    TRY(file_writer_open(&w, path));
    Status s = file_writer_write(&w, d->ref, bytes);
    if (s == OK) s = file_writer_write(&w, &hash, sizeof hash);
    if (s == OK) return file_writer_commit(&w);
    file_writer_abort(&w);
    return s;
}

/* ---------------------------------------------------------------- the algorithm */

/* Losses and gradients of pairs first/2 .. last/2 - 1; d L / d log pi of a token is that of its
 * answer's sum. */
static void pair_losses(Dpo *d, DpoStats *stats, int first, int last, int pairs_in_step) {
    const DpoConfig *cfg = d->cfg;
    for (int s = first; s < last; s += 2) {
        const double *ref = ref_of(d, d->rows[s / 2]);
        double pi[2] = {sum_logp(d, s), sum_logp(d, s + 1)};
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

static void put_metrics(Metrics *m, const char *const names[8], const DpoStats *s,
                        double sft_coef) {
    double n = s->pairs;
    double values[8] = {(s->loss + sft_coef * s->nll) / n,
                        s->rewards_chosen / n,
                        s->rewards_rejected / n,
                        (s->rewards_chosen - s->rewards_rejected) / n,
                        s->right / n,
                        s->logps_chosen / n,
                        s->logps_rejected / n,
                        s->entropy / s->tokens};
    for (int i = 0; i < 8; i++) metrics_set(m, names[i], values[i]);
}
static const char *const train_names[8] = {
    "loss",         "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected", "entropy"};
enum { PAIR_NAMES = 8, ALL_NAMES = 12 }; /* the others are of answers */
static const char *const eval_names[ALL_NAMES] = {"eval/loss",
                                                  "eval/rewards/chosen",
                                                  "eval/rewards/rejected",
                                                  "eval/rewards/margins",
                                                  "eval/rewards/accuracies",
                                                  "eval/logps/chosen",
                                                  "eval/logps/rejected",
                                                  "eval/entropy",
                                                  "eval/gold",
                                                  "eval/kl",
                                                  "eval/win_rate",
                                                  "eval/response_length"};

static int is_own_reference(const Dpo *d) {
    const StageConfig *c = &d->stage->cfg;
    return !c->reference[0] || !strcmp(c->reference, c->model);
}

/* Mean over tokens of |log pi - log ref| of each answer of the step. */
static double reference_drift(Dpo *d) {
    double drift = 0.0;
    int tokens = 0;
    for (int s = 0; s < d->batch.S; s++) {
        drift += fabs(sum_logp(d, s) - ref_of(d, d->rows[s / 2])[s % 2]);
        tokens += count_wanted(d, s);
    }
    return tokens ? drift / tokens : 0.0;
}

/* Where policy and reference are the same weights, every d is exactly 0 and the loss ln 2; on a
 * device whose products depend on the number of rows both are rounded apart. */
static const double DRIFT_ALLOWED = 0.05; /* nats a token: bf16 keeps three digits of a logit */

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

    /* 1. the next pairs, chosen and rejected side by side */
    packed_clear(&d->batch);
    for (int i = 0; i < cfg->batch_size; i++) {
        d->rows[i] = data_order_row(&d->data.order, d->state.position++);
        add_pair(d, d->rows[i]);
    }

    /* 2. prefer: -log sigma(beta (log pi/ref (chosen) - log pi/ref (rejected))) */
    DpoStats stats = {0};
    for (int first = 0, last; first < d->batch.S; first = last) {
        Batch b;
        last = packed_micro(&d->batch, first, 2, d->micro_tokens, 1.0f, &b);
        size_t at = (size_t)d->batch.starts[first];
        TRY(network_forward(&d->policy, &b,
                            &(TokenOutputs){.logp = d->logp + at, .entropy = d->entropy + at}));
        pair_losses(d, &stats, first, last, cfg->batch_size);
        TRY(network_backward(&d->policy, &(TokenGrads){.logp = d->dlogp + at}));
    }
    if (!d->state.step) TRY(check_first_loss(d, &stats, m));

    /* 3. update */
    double norm;
    float rate = optim_rate(&d->optim.cfg, d->state.step, d->steps);
    TRY(optim_step(&d->optim, rate, &norm));
    d->state.step++;
    d->state.tokens += (uint64_t)d->batch.N;
    d->state.samples += (uint64_t)cfg->batch_size;
    put_metrics(m, train_names, &stats, cfg->sft_coef);
    metrics_set(m, "grad_norm", norm);
    metrics_set(m, "optimizer/skipped", d->optim.skipped);
    metrics_set(m, "learning_rate", rate);
    metrics_set(m, "epoch", (double)d->state.position / d->data.order.total);
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
            add_pair(d, &set->rows[row]);
        }
        TRY(packed_forward(&d->batch, &d->policy, d->micro_tokens, 1.0f,
                           &(TokenOutputs){.logp = d->logp, .entropy = d->entropy}));
        pair_losses(d, stats, 0, d->batch.S, pairs);
    }
    return OK;
}

/* ---------------------------------------------------------------- models, memory, resume */

static Status load_networks(Dpo *d, const char *reference) {
    TRY(model_read_weights(&d->reference.w, reference, d->stage->run.seed));
    if (!d->session.from) {
        d->state.best = NAN;
        return stage_model_weights(&d->policy.w, d->stage);
    }
    const void *saved;
    size_t bytes;
    TRY(checkpoint_view(d->session.from, "state", sizeof d->state, &saved, &bytes));
    memcpy(&d->state, saved, sizeof d->state);
    if (d->held.eval.baseline) {
        TRY(checkpoint_view(d->session.from, "baseline",
                            (size_t)policy_eval_prompts(&d->held.eval) * sizeof(float), &saved,
                            &bytes));
        memcpy(d->held.eval.baseline, saved, bytes);
        d->held.eval.has_baseline = 1;
    }
    return session_load_network(d->session.from, "policy", &d->policy, &d->optim);
}

static Status create_arrays(Dpo *d) {
    int max_S = 2 * d->cfg->batch_size;
    size_t max_N = (size_t)max_S * (size_t)d->stage->data.max_length,
           batch_size = (size_t)d->cfg->batch_size, train = 0;
    TRY(packed_create(&d->batch, max_S, max_N));
    TRY(memory_alloc((void **)&d->first_row, (size_t)d->data.n_sets * sizeof(int), "sets"));
    for (int i = 0; i < d->data.n_sets; i++) {
        d->first_row[i] = (int)train;
        train += (size_t)d->data.sets[i].n;
    }
    d->pairs = train + (size_t)d->data.eval.n;
    TRY(memory_alloc((void **)&d->ref, 2 * d->pairs * sizeof(double), "reference log-probs"));
    d->eval_ref = d->ref + 2 * train;
    TRY(memory_alloc((void **)&d->rows, batch_size * sizeof *d->rows, "a step's pairs"));
    TRY(memory_alloc((void **)&d->margin, batch_size * sizeof(float), "margins"));
    float **arrays[] = {&d->logp, &d->entropy, &d->dlogp};
    for (int i = 0; i < 3; i++)
        TRY(memory_alloc((void **)arrays[i], max_N * sizeof(float), "a step's numbers"));
    return OK;
}

static Status dpo_create(Dpo *d) {
    Stage *stage = d->stage;
    const DpoConfig *c = d->cfg;
    ModelConfig m, r;
    TRY(stage_tokenizer(&d->tokenizer, stage));
    TRY(stage_model_config(&m, stage, d->tokenizer));
    const char *reference = stage->cfg.reference[0] ? stage->cfg.reference : stage->cfg.model;
    TRY(model_read_config(&r, reference));
    TRY(stage_check_role(stage, d->tokenizer, "reference", reference));
    TRY(train_data_open(&d->data, stage, ROWS_PAIRS, ROWS_PAIRS, d->tokenizer));
    TRY(held_out_open(&d->held, &HELD_OUT_CONFIG(c), stage, d->tokenizer));
    d->steps = stage_steps(&d->data, c->batch_size, c->epochs, c->max_steps);
    d->micro_tokens = stage_micro_tokens(c->micro_tokens, 2 * stage->data.max_length);

    TRY(stage_check_best(stage, eval_names, d->held.prompts.n ? ALL_NAMES : PAIR_NAMES));
    /* the run directory comes last: a typo above leaves nothing behind */
    TRY(session_open(&d->session, &stage->cfg, &stage->run, stage->verb, stage->recipe));
    Backend *b = d->session.b;
    const ModelConfig *configs[] = {&m, &r};
    int rows = held_out_rows(&d->held, &HELD_OUT_CONFIG(c));
    WorkspacePlan plan = {.tokens = d->micro_tokens > rows ? d->micro_tokens : rows,
                          .sequences = d->micro_tokens,
                          .train = 1,
                          .recompute = c->recompute,
                          .max_length = stage->data.max_length};
    Plan memory = {0};
    plan_network(&memory, b, "policy", &m, OPTIM_PLAN(c));
    Dtype reference_dtype = frozen_dtype(b, stage->cfg.reference_dtype);
    plan_frozen(&memory, b, "reference", &r, reference_dtype, "reference_dtype");
    TRY(plan_activations(&memory, b, &plan, configs, 2, 2 * stage->data.max_length));
    held_out_plan(&memory, &d->held, &HELD_OUT_CONFIG(c), stage, b, &m);
    TRY(plan_check(&memory, d->session.b, stage->verb, stage->cfg.memory_limit));
    if (stage->cfg.dry_run) return OK;

    TRY(workspace_create(&d->ws, b, &plan, configs, 2, NULL));
    TRY(network_create(&d->policy, b, &m, d->ws, 1));
    TRY(network_create_frozen(&d->reference, b, &r, d->ws, reference_dtype));
    TRY(optim_create(&d->optim, &d->policy, &OPTIM_CONFIG(c)));
    TRY(held_out_create(&d->held, &HELD_OUT_CONFIG(c), stage, d->tokenizer, b, &m,
                        d->micro_tokens));
    TRY(create_arrays(d));
    return load_networks(d, reference);
}

static void dpo_release(Dpo *d) {
    held_out_release(&d->held);
    optim_release(&d->optim);
    network_release(&d->policy);
    network_release(&d->reference);
    workspace_release(d->ws);
    packed_release(&d->batch);
    void *owned[] = {d->logp, d->entropy, d->dlogp, d->margin, d->ref, d->first_row, d->rows};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) memory_release(owned[i]);
    train_data_close(&d->data);
    tokenizer_release(d->tokenizer);
    session_close(&d->session);
}

static Status dpo_save(Dpo *d) {
    CheckpointWriter *w;
    TRY(session_checkpoint(&w, &d->session, d->state.step));
    Status s = checkpoint_add(w, "state", &d->state, sizeof d->state);
    if (s == OK && d->held.eval.baseline)
        s = checkpoint_add(w, "baseline", d->held.eval.baseline,
                           (size_t)policy_eval_prompts(&d->held.eval) * sizeof(float));
    if (s == OK) s = session_save_network(w, "policy", &d->policy, &d->optim);
    if (s == OK) return checkpoint_commit(w);
    checkpoint_abort(w);
    return s;
}

/* ---------------------------------------------------------------- the run */

/* Answers to the held-out prompts; the world's gold rule judges where the prompts are of it. run
 * NULL: nothing is written down. */
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
    if (r->has_gold) {
        metrics_set(m, "eval/gold", r->gold);
        metrics_set(m, "eval/gold_stderr", r->gold_stderr);
        metrics_set(m, "eval/win_rate", policy_eval_win_rate(&d->held.eval));
    }
    if (r->n) {
        metrics_set(m, "eval/kl", r->kl);
        metrics_set(m, "eval/response_length", r->length);
    }
    if (d->data.eval.n) {
        TRY(evaluate_pairs(d, &stats));
        put_metrics(m, eval_names, &stats, 0.0);
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
    TRY(reference_logps(d));
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
            run_histogram(run, step, "distribution/margins", d->margin, d->cfg->batch_size);
        progress_watch(&p, metrics_get(&m, "rewards/margins"));
        progress_step(&p, step, (uint64_t)tokens, "loss %.4f  margin %.3f  accuracy %.2f",
                      metrics_get(&m, "loss"), metrics_get(&m, "rewards/margins"),
                      metrics_get(&m, "rewards/accuracies"));
        if (last || (cfg->eval_every && step % cfg->eval_every == 0)) TRY(evaluate(d, &m, &result));
        TRY(run_log(run, step, d->state.tokens, d->state.samples, &m));
        if (run_save_due(cfg, step, last)) TRY(dpo_save(d));
        if (run_stop_requested() && !last) return run_stopped(run, step);
    }
    if (!result.n) /* resumed after the last step: the answers once more */
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
