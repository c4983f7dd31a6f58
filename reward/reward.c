/* reward.c - training the reward model. One step: the next pairs, scores of both answers, the
 * Bradley-Terry loss, update. A pair is never split over micro-batches. */
#include "reward/reward.h"

#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "core/run/progress.h"

const Field reward_fields[] = {
    OPTIM_FIELDS(RewardConfig, "1e-5"),
    STEP_FIELDS(RewardConfig, "16", "1"),
    FIELD(RewardConfig, use_margin, FIELD_BOOL, "false",
          "subtract each row's margin inside the sigmoid"),
    FIELD_IN(RewardConfig, center, FIELD_FLOAT, "0", 0, 100,
             "weight of (r_c + r_r)^2; 0.01 is usual"),
    FIELD(RewardConfig, parts, FIELD_STRING, "", "extra pairs for evaluation, reported per subset"),
};
const int reward_n_fields = sizeof reward_fields / sizeof *reward_fields;

typedef struct {
    uint64_t position, tokens, samples;
    double best;
    int32_t step, pad;
} RewardState;

typedef struct {
    Stage *stage;
    const RewardConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    TrainData data;
    Dataset parts;
    Workspace *ws;
    Network net;
    Optim optim;
    Packed batch; /* chosen, rejected, chosen, rejected, ... */
    float *score, *dscore, *margin;
    float *pairs;   /* [eval rows][2] scores of the last evaluation */
    float *answers; /* [2][batch_size] scores of chosen and rejected answers of the step */
    int micro_tokens, steps;
    RewardState state;
} Reward;

static Status create_arrays(Reward *r) {
    int max_S = 2 * r->cfg->step.batch_size;
    size_t max_N = (size_t)max_S * (size_t)r->stage->data.max_length;
    size_t pairs = (size_t)r->data.eval.n;
    const struct {
        float **v;
        size_t n;
    } arrays[] = {{&r->score, max_N},
                  {&r->dscore, max_N},
                  {&r->margin, (size_t)max_S / 2},
                  {&r->answers, (size_t)max_S},
                  {&r->pairs, 2 * pairs}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        TRY(memory_alloc((void **)arrays[i].v, arrays[i].n * sizeof(float), "scores"));
    return packed_create(&r->batch, max_S, max_N);
}

static Status load_network(Reward *r) {
    r->state.best = NAN;
    if (!r->session.from) return stage_model_weights(&r->net.w, r->stage);
    TRY(checkpoint_read(r->session.from, "state", &r->state, sizeof r->state));
    return session_load_network(r->session.from, "model", &r->net, &r->optim);
}

static Status check_margins(const Reward *r) {
    if (!r->cfg->use_margin) return OK;
    for (int i = 0; i < r->data.n_sets; i++)
        for (int row = 0; row < r->data.sets[i].n; row++)
            if (!isnan(r->data.sets[i].rows[row].margin)) return OK;
    return status_fail(E_USAGE, "reward.use_margin: no training row has a \"margin\", or "
                                "\"score_chosen\" and \"score_rejected\"");
}

static Status reward_create(Reward *r) {
    Stage *stage = r->stage;
    ModelConfig m;
    TRY(stage_tokenizer(&r->tokenizer, stage));
    TRY(stage_model_config(&m, stage, r->tokenizer));
    m.lm_head = 0;
    m.scores = 1;
    m.score_std = 0.0;
    TRY(train_data_open(&r->data, stage, ROWS_PAIRS, ROWS_PAIRS, r->tokenizer));
    if (r->cfg->parts[0]) {
        DataConfig parts = stage->data;
        parts.limit = parts.eval_limit;
        TRY(dataset_open(&r->parts, &parts, r->cfg->parts, ROWS_PAIRS, r->tokenizer));
    }
    TRY(check_margins(r));
    r->steps =
        stage_steps(&r->data, r->cfg->step.batch_size, r->cfg->step.epochs, r->cfg->step.max_steps);
    r->micro_tokens = stage_micro_tokens(r->cfg->step.micro_tokens, 2 * stage->data.max_length);

    TRY(stage_check_best(stage, (const char *[]){"eval/accuracy", "eval/loss", "eval/mean_reward"},
                         3));
    /* the run directory comes last: a typo above leaves nothing behind */
    TRY(session_open(&r->session, &stage->cfg, &stage->run, stage->verb, stage->recipe));
    Backend *b = r->session.b;
    const ModelConfig *config = &m;
    WorkspacePlan plan = stage_workspace(stage, &r->cfg->step, r->micro_tokens, 0);
    Plan memory = {0};
    plan_network(&memory, b, "reward model", &m, plan_kind(&r->cfg->optim));
    TRY(plan_activations(&memory, b, &plan, &config, 1, 2 * stage->data.max_length));
    TRY(plan_check(&memory, r->session.b, stage->verb, stage->cfg.memory_limit));
    if (stage->cfg.dry_run) return OK;

    TRY(workspace_create(&r->ws, b, &plan, &config, 1, NULL));
    TRY(network_create(&r->net, b, &m, r->ws, 1));
    TRY(optim_create(&r->optim, &r->net, &r->cfg->optim));
    TRY(create_arrays(r));
    return load_network(r);
}

static void reward_release(Reward *r) {
    optim_release(&r->optim);
    network_release(&r->net);
    workspace_release(r->ws);
    packed_release(&r->batch);
    memory_release(r->score);
    memory_release(r->dscore);
    memory_release(r->margin);
    memory_release(r->answers);
    memory_release(r->pairs);
    dataset_release(&r->parts);
    train_data_close(&r->data);
    tokenizer_release(r->tokenizer);
    session_close(&r->session);
}

typedef struct {
    double loss, margin, sum, min, max;
    int right;
} RewardStats;

/* Losses of the pairs of one micro-batch; dscore is nonzero at last tokens only. */
static void pair_losses(Reward *r, RewardStats *stats, int first, int last) {
    const int *starts = r->batch.starts;
    double per_pair = 1.0 / (r->batch.S / 2);
    for (int s = first; s < last; s += 2) {
        int c = starts[s + 1] - 1, j = starts[s + 2] - 1;
        double dc, dr, chosen = r->score[c], rejected = r->score[j];
        double margin = r->cfg->use_margin && !isnan(r->margin[s / 2]) ? r->margin[s / 2] : 0.0;
        stats->loss += per_pair * reward_loss(chosen, rejected, margin, r->cfg->center, &dc, &dr);
        r->dscore[c] = (float)(per_pair * dc);
        r->dscore[j] = (float)(per_pair * dr);
        r->answers[s / 2] = r->score[c];
        r->answers[r->cfg->step.batch_size + s / 2] = r->score[j];
        stats->right += chosen > rejected;
        stats->margin += per_pair * (chosen - rejected);
        stats->sum += chosen + rejected;
        stats->min = fmin(stats->min, fmin(chosen, rejected));
        stats->max = fmax(stats->max, fmax(chosen, rejected));
    }
}

static Status reward_step(Reward *r, Metrics *m) {
    const RewardConfig *cfg = r->cfg;
    double began = clock_seconds();

    /* 1. the next pairs, chosen and rejected side by side */
    packed_clear(&r->batch);
    for (int i = 0; i < cfg->step.batch_size; i++) {
        const Row *row = data_order_row(&r->data.order, r->state.position++);
        packed_add(&r->batch, row->a.ids, NULL, row->a.n);
        packed_add(&r->batch, row->b.ids, NULL, row->b.n);
        r->margin[i] = row->margin;
    }
    memset(r->dscore, 0, (size_t)r->batch.N * sizeof(float));

    /* 2. compare: -log sigma(r_c - r_r) */
    RewardStats stats = {.min = INFINITY, .max = -INFINITY};
    for (int first = 0, last; first < r->batch.S; first = last) {
        Batch b;
        last = packed_micro(&r->batch, first, 2, r->micro_tokens, 1.0f, &b);
        size_t at = (size_t)r->batch.starts[first];
        TokenOutputs out = {.score = r->score + at};
        TRY(network_forward(&r->net, &b, &out));
        pair_losses(r, &stats, first, last);
        TRY(network_backward(&r->net, &(TokenGrads){.score = r->dscore + at}));
    }

    /* 3. update */
    double norm;
    float rate = optim_rate(&r->optim.cfg, r->state.step, r->steps);
    TRY(optim_step(&r->optim, rate, &norm));
    r->state.step++;
    r->state.tokens += (uint64_t)r->batch.N;
    r->state.samples += (uint64_t)cfg->step.batch_size;
    metrics_set(m, "loss", stats.loss);
    metrics_set(m, "accuracy", (double)stats.right / cfg->step.batch_size);
    metrics_set(m, "margin", stats.margin);
    metrics_set(m, "min_reward", stats.min);
    metrics_set(m, "mean_reward", stats.sum / r->batch.S);
    metrics_set(m, "max_reward", stats.max);
    metrics_set(m, "grad_norm", norm);
    metrics_set(m, "optimizer/skipped", r->optim.skipped);
    metrics_set(m, "learning_rate", rate);
    metrics_set(m, "epoch", (double)r->state.position / r->data.order.total);
    metrics_set(m, "perf/tokens_per_second", r->batch.N / (clock_seconds() - began));
    return OK;
}

static Status reward_save(Reward *r) {
    CheckpointWriter *w;
    TRY(session_checkpoint(&w, &r->session, r->state.step));
    Status status = checkpoint_add(w, "state", &r->state, sizeof r->state);
    if (status == OK) status = session_save_network(w, "model", &r->net, &r->optim);
    if (status == OK) return checkpoint_commit(w);
    checkpoint_abort(w);
    return status;
}

static Status evaluate(Reward *r, RewardEval *e, const Dataset *d, float *pairs) {
    return reward_evaluate(e, &r->net, d, &r->batch, r->score, r->micro_tokens, pairs);
}

/* They stay with the model that is written next, for PPO's normalisation. */
static void keep_statistics(Reward *r, const RewardEval *e) {
    r->net.w.cfg.score_mean = e->mean;
    r->net.w.cfg.score_std = e->std;
}

static Status reward_eval_step(Reward *r, Metrics *m) {
    RewardEval e;
    if (!r->data.eval.n) return OK;
    TRY(evaluate(r, &e, &r->data.eval, NULL));
    metrics_set(m, "eval/loss", e.loss);
    metrics_set(m, "eval/accuracy", reward_accuracy(&e));
    metrics_set(m, "eval/mean_reward", e.mean);
    metrics_set(m, "eval/longer_wins", reward_longer_wins(&e));
    keep_statistics(r, &e);
    reward_eval_release(&e);
    return stage_keep_best(r->stage, m, &r->state.best, &r->net.w, r->tokenizer, r->session.run);
}

/* Held-out figures, and the model. */
static Status reward_finish(Reward *r) {
    RewardEval e = {0};
    if (r->data.eval.n) {
        TRY(evaluate(r, &e, &r->data.eval, r->pairs));
        Status s = reward_report(r->session.run, &e, &r->data.eval, r->pairs, "model",
                                 r->stage->data.eval);
        reward_eval_summary(r->stage, &e);
        keep_statistics(r, &e);
        reward_eval_release(&e);
        TRY(s);
    }
    if (r->parts.n) {
        TRY(evaluate(r, &e, &r->parts, NULL));
        json_put_key(&r->stage->summary, "accuracy_by_part");
        reward_put_subsets(&r->stage->summary, &e);
        reward_eval_release(&e);
    }
    summary_put(r->stage, "steps", r->state.step);
    return stage_write_model(&r->net.w, r->tokenizer, run_dir(r->session.run), "model");
}

static Status reward_loop(Reward *r) {
    Run *run = r->session.run;
    const RunConfig *cfg = &r->stage->run;
    Progress p;
    TRY(stage_begin(r->stage, &r->data, &r->session));
    progress_begin(&p, "reward", r->state.step, r->steps, cfg->log_every);
    run_signals();
    memory_freeze();
    while (r->state.step < r->steps) {
        Metrics m;
        metrics_clear(&m);
        TRY(reward_step(r, &m));
        int step = r->state.step, last = step == r->steps, pairs = r->cfg->step.batch_size;
        if (last || step % cfg->log_every == 0) {
            run_histogram(run, step, "distribution/chosen", r->answers, pairs);
            run_histogram(run, step, "distribution/rejected", r->answers + pairs, pairs);
        }
        progress_watch(&p, metrics_get(&m, "loss"));
        progress_step(&p, step, (uint64_t)r->batch.N, "loss %.4f  accuracy %.3f",
                      metrics_get(&m, "loss"), metrics_get(&m, "accuracy"));
        if (last || (cfg->eval_every && step % cfg->eval_every == 0)) TRY(reward_eval_step(r, &m));
        TRY(run_log(run, step, r->state.tokens, r->state.samples, &m));
        if (run_save_due(cfg, step, last)) TRY(reward_save(r));
        if (run_stop_requested() && !last) return run_stopped(run, step);
    }
    TRY(reward_finish(r));
    summary_put(r->stage, "tokens_per_second", progress_rate(&p));
    return stage_finish(r->stage, run);
}

Status reward_run(Stage *stage, const RewardConfig *cfg) {
    Reward r = {.stage = stage, .cfg = cfg};
    Status status = reward_create(&r);
    if (status == OK && !stage->cfg.dry_run) status = reward_loop(&r);
    memory_thaw();
    reward_release(&r);
    return status;
}
