/* sft.c - supervised fine-tuning. One step: take the next rows, learn from their trained tokens
 * with one global normaliser, update. */
#include "sft/sft.h"

#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "core/model/hf.h"
#include "core/model/packed.h"
#include "core/run/progress.h"

const Field sft_fields[] = {
    OPTIM_FIELDS(SftConfig, "2e-5"),
    STEP_FIELDS(SftConfig, "8", "1"),
    FIELD_IN(SftConfig, label_smoothing, FIELD_FLOAT, "0", 0, 0.999,
             "share of the target spread over the vocabulary"),
    FIELD_IN(SftConfig, neftune_alpha, FIELD_FLOAT, "0", 0, 1000,
             "noise on the embeddings (NEFTune), 0 = off"),
    FIELD_IN(SftConfig, kl_coef, FIELD_FLOAT, "0", 0, 1e6,
             "price of leaving the base, 1/2 (log pi - log ref)^2 per trained token; 0 = off"),
    HELD_OUT_FIELDS(SftConfig),
};
const int sft_n_fields = sizeof sft_fields / sizeof *sft_fields;

typedef struct {       /* what a resume needs besides weights and moments */
    uint64_t position; /* rows taken from the data's order */
    uint64_t tokens, samples;
    double first_loss, recent_loss, best;
    int32_t step, pad;
} SftState;

typedef struct {
    Stage *stage;
    const SftConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    TrainData data;
    HeldOut held;
    Workspace *ws;
    Network net, reference; /* reference: only with a KL to it */
    Optim optim;
    Packed batch;
    float *dlogp, *dmean, *logp, *mean, *entropy, *top1, *logp_ref; /* [max_N] */
    int micro_tokens, steps;
    SftState state;
} Sft;

/* Figures of answers are there only with prompts, and with what judges them. */
static Status check_best(const Sft *s) {
    const char *names[4] = {"eval/loss"};
    int n = 1, answers = s->held.prompts.n > 0;
    if (answers) names[n++] = "eval/response_length";
    if (answers && s->cfg->kl_coef > 0.0f) names[n++] = "eval/kl";
    if (policy_eval_knows_gold(&s->held.prompts)) names[n++] = "eval/gold";
    return stage_check_best(s->stage, names, n);
}

static TokenOutputs outputs(Sft *s, size_t offset) {
    return (TokenOutputs){.logp = s->logp + offset,
                          .entropy = s->entropy + offset,
                          .top1 = s->top1 + offset,
                          .mean_logp = s->cfg->label_smoothing > 0.0f ? s->mean + offset : NULL};
}

/* The base is the recipe's reference, or the model as it is before the first step. */
static Status reference_config(ModelConfig *r, const Sft *s, const ModelConfig *model) {
    const char *path = s->stage->cfg.reference;
    *r = *model;
    if (!path[0] || s->cfg->kl_coef == 0.0f) return OK;
    TRY(stage_read_role(r, s->stage, s->tokenizer, "reference", path));
    return stage_check_head(r, "reference", path, HEAD_LANGUAGE);
}

static Status create_reference(Sft *s, const ModelConfig *r) {
    const Stage *stage = s->stage;
    if (s->cfg->kl_coef == 0.0f) return OK;
    Dtype layers = frozen_dtype(s->session.b, stage->cfg.reference_dtype);
    TRY(network_create_frozen(&s->reference, s->session.b, r, s->ws, layers));
    if (!stage->cfg.reference[0]) return stage_model_weights(&s->reference.w, stage);
    return model_read_weights(&s->reference.w, stage->cfg.reference, stage->run.seed);
}

static Status create_arrays(Sft *s) {
    int batch_size = s->cfg->step.batch_size;
    size_t max_N = (size_t)batch_size * (size_t)s->stage->data.max_length;
    float **arrays[] = {&s->dlogp,   &s->dmean, &s->logp,    &s->mean,
                        &s->entropy, &s->top1,  &s->logp_ref};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        TRY(memory_alloc((void **)arrays[i], max_N * sizeof(float), "a step's numbers"));
    return packed_create(&s->batch, batch_size, max_N);
}

static Status load_network(Sft *s) {
    s->state.best = NAN;
    if (!s->session.from) return stage_model_weights(&s->net.w, s->stage);
    TRY(checkpoint_read(s->session.from, "state", &s->state, sizeof s->state));
    return session_load_network(s->session.from, "model", &s->net, &s->optim);
}

static Status sft_create(Sft *s) {
    Stage *stage = s->stage;
    ModelConfig m, r;
    TRY(stage_tokenizer(&s->tokenizer, stage));
    TRY(stage_model_config(&m, stage, s->tokenizer));
    TRY(stage_check_head(&m, "policy", stage->cfg.model, HEAD_LANGUAGE));
    TRY(reference_config(&r, s, &m));
    TRY(train_data_open(&s->data, stage, ROWS_SFT, ROWS_SFT, s->tokenizer));
    TRY(held_out_open(&s->held, &s->cfg->held_out, stage, s->tokenizer));
    s->steps =
        stage_steps(&s->data, s->cfg->step.batch_size, s->cfg->step.epochs, s->cfg->step.max_steps);
    s->micro_tokens = stage_micro_tokens(s->cfg->step.micro_tokens, stage->data.max_length);

    TRY(check_best(s));
    /* the run directory comes last: a typo above leaves nothing behind */
    TRY(session_open(&s->session, &stage->cfg, &stage->run, stage->verb, stage->recipe));
    Backend *b = s->session.b;
    const ModelConfig *configs[] = {&m, &r};
    int with_kl = s->cfg->kl_coef > 0.0f, n = with_kl ? 2 : 1,
        rows = held_out_rows(&s->held, &s->cfg->held_out);
    WorkspacePlan plan = stage_workspace(stage, &s->cfg->step, s->micro_tokens, rows);
    Plan memory = {0};
    plan_network(&memory, b, "model", &m, plan_kind(&s->cfg->optim));
    if (with_kl)
        plan_frozen(&memory, b, "reference", &r, frozen_dtype(b, stage->cfg.reference_dtype),
                    "reference_dtype");
    TRY(plan_activations(&memory, b, &plan, configs, n, stage->data.max_length));
    held_out_plan(&memory, &s->held, &s->cfg->held_out, stage, b, &m);
    TRY(plan_check(&memory, s->session.b, stage->verb, stage->cfg.memory_limit));
    if (stage->cfg.dry_run) return OK;

    TRY(workspace_create(&s->ws, b, &plan, configs, n, NULL));
    TRY(network_create(&s->net, b, &m, s->ws, 1));
    TRY(optim_create(&s->optim, &s->net, &s->cfg->optim));
    TRY(create_reference(s, &r));
    TRY(held_out_create(&s->held, &s->cfg->held_out, stage, s->tokenizer, b, &m, s->micro_tokens));
    TRY(create_arrays(s));
    return load_network(s);
}

static void sft_release(Sft *s) {
    held_out_release(&s->held);
    optim_release(&s->optim);
    network_release(&s->net);
    network_release(&s->reference);
    workspace_release(s->ws);
    packed_release(&s->batch);
    float *arrays[] = {s->dlogp, s->dmean, s->logp, s->mean, s->entropy, s->top1, s->logp_ref};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) memory_release(arrays[i]);
    train_data_close(&s->data);
    tokenizer_release(s->tokenizer);
    session_close(&s->session);
}

/* Learns from one micro-batch, whose arrays begin at `at`. dlogp and dmean hold the gradient of the
 * likelihood already; only the KL's depends on the forward. */
static Status learn(Sft *s, const Batch *b, size_t at, int tokens, SftStats *sum) {
    const SftConfig *cfg = s->cfg;
    TokenOutputs out = outputs(s, at);
    TokenGrads grads = {.logp = s->dlogp + at,
                        .mean_logp = cfg->label_smoothing > 0.0f ? s->dmean + at : NULL};
    if (cfg->kl_coef > 0.0f) {
        Batch clean = *b;
        clean.neftune_alpha = 0.0f;
        TRY(network_forward(&s->reference, &clean, &(TokenOutputs){.logp = s->logp_ref + at}));
        TRY(network_forward(&s->net, b, &out));
        sft_kl(sum, out.logp, s->logp_ref + at, b->wanted, b->N, (double)cfg->kl_coef / tokens,
               grads.logp);
        TRY(network_backward(&s->net, &grads));
    } else {
        TRY(network_learn(&s->net, b, &grads, &out));
    }
    sft_loss(sum, out.logp, out.mean_logp, out.entropy, out.top1, b->wanted, b->N,
             cfg->label_smoothing);
    return OK;
}

static Status sft_step(Sft *s, Metrics *m) {
    const SftConfig *cfg = s->cfg;
    double began = clock_seconds();

    /* 1. the next rows, end to end */
    packed_clear(&s->batch);
    for (int i = 0; i < cfg->step.batch_size; i++) {
        const Sequence *q = &data_order_row(&s->data.order, s->state.position++)->a;
        packed_add(&s->batch, q->ids, q->trained, q->n);
    }
    int tokens = packed_wanted(&s->batch);

    /* 2. learn: the gradient of the likelihood is the same for every trained token */
    for (int n = 0; n < s->batch.N; n++) {
        s->dlogp[n] = -(1.0f - cfg->label_smoothing) / (float)tokens;
        s->dmean[n] = -cfg->label_smoothing / (float)tokens;
    }
    SftStats sum = {0};
    for (int first = 0, last; first < s->batch.S; first = last) {
        Batch b;
        last = packed_micro(&s->batch, first, 1, s->micro_tokens, 1.0f, &b);
        b.neftune_alpha = cfg->neftune_alpha;
        b.noise_key = s->stage->run.seed + 0x9E3779B97F4A7C15u * s->state.position;
        TRY(learn(s, &b, (size_t)s->batch.starts[first], tokens, &sum));
    }

    /* 3. update */
    double norm;
    float rate = optim_rate(&s->optim.cfg, s->state.step, s->steps);
    TRY(optim_step(&s->optim, rate, &norm));
    s->state.step++;
    s->state.tokens += (uint64_t)s->batch.N;
    s->state.samples += (uint64_t)s->batch.S;
    double loss = sum.loss / sum.tokens;
    if (s->state.step == 1) s->state.first_loss = s->state.recent_loss = loss;
    s->state.recent_loss += 0.05 * (loss - s->state.recent_loss);
    metrics_set(m, "loss", loss);
    metrics_set(m, "entropy", sum.entropy / sum.tokens);
    metrics_set(m, "mean_token_accuracy", sum.correct / sum.tokens);
    metrics_set(m, "num_tokens", (double)s->state.tokens);
    if (cfg->kl_coef > 0.0f) metrics_set(m, "kl", sum.kl / sum.tokens);
    metrics_set(m, "grad_norm", norm);
    metrics_set(m, "optimizer/skipped", s->optim.skipped);
    metrics_set(m, "learning_rate", rate);
    metrics_set(m, "epoch", (double)s->state.position / s->data.order.total);
    metrics_set(m, "perf/tokens_per_second", s->batch.N / (clock_seconds() - began));
    return OK;
}

static Status sft_evaluate(Sft *s, double *loss) {
    SftStats sum = {0};
    const Dataset *d = &s->data.eval;
    for (int row = 0; row < d->n;) {
        packed_clear(&s->batch);
        while (row < d->n && s->batch.S < s->batch.max_S) {
            const Sequence *q = &d->rows[row++].a;
            packed_add(&s->batch, q->ids, q->trained, q->n);
        }
        TokenOutputs out = outputs(s, 0);
        out.mean_logp = NULL;
        TRY(packed_forward(&s->batch, &s->net, s->micro_tokens, 1.0f, &out));
        sft_loss(&sum, out.logp, NULL, out.entropy, out.top1, s->batch.wanted, s->batch.N, 0.0f);
    }
    *loss = sum.loss / sum.tokens;
    return OK;
}

/* How likely the trained tokens were, and how long the rows are. The numbers stand in the array of
 * gradients, which the update has used by now. */
static void put_histograms(Sft *s, int step) {
    const Packed *q = &s->batch;
    int n = 0;
    for (int i = 0; i < q->N; i++)
        if (q->wanted[i]) s->dlogp[n++] = s->logp[i];
    run_histogram(s->session.run, step, "distribution/token_logp", s->dlogp, n);
    for (int i = 0; i < q->S; i++) s->dlogp[i] = (float)(q->starts[i + 1] - q->starts[i]);
    run_histogram(s->session.run, step, "distribution/row_length", s->dlogp, q->S);
}

static Status sft_save(Sft *s) {
    CheckpointWriter *w;
    TRY(session_checkpoint(&w, &s->session, s->state.step));
    Status status = checkpoint_add(w, "state", &s->state, sizeof s->state);
    if (status == OK) status = session_save_network(w, "model", &s->net, &s->optim);
    if (status == OK) return checkpoint_commit(w);
    checkpoint_abort(w);
    return status;
}

/* The model's answers to the held-out prompts. */
static Status sft_answer(Sft *s, PolicyResult *r) {
    PolicyModels models = {.actor = &s->net,
                           .reference = s->cfg->kl_coef > 0.0f ? &s->reference : NULL};
    return policy_eval(r, &s->held.eval, &models, s->session.run, s->state.step);
}

static Status sft_eval_step(Sft *s, Metrics *m) {
    double loss;
    PolicyResult r;
    TRY(sft_answer(s, &r));
    policy_eval_metrics(m, &s->held.eval, &r);
    if (!s->data.eval.n) return OK;
    TRY(sft_evaluate(s, &loss));
    metrics_set(m, "eval/loss", loss);
    return stage_keep_best(s->stage, m, &s->state.best, &s->net.w, s->tokenizer, s->session.run);
}

static Status sft_loop(Sft *s) {
    Run *run = s->session.run;
    const RunConfig *cfg = &s->stage->run;
    Progress p;
    PolicyResult before;
    TRY(stage_begin(s->stage, &s->data, &s->session));
    run_signals();
    memory_freeze();
    if (!s->state.step) TRY(sft_answer(s, &before));
    progress_begin(&p, "sft", s->state.step, s->steps, cfg->log_every);
    while (s->state.step < s->steps) {
        Metrics m;
        metrics_clear(&m);
        TRY(sft_step(s, &m));
        int step = s->state.step, last = step == s->steps, tokens = s->batch.N;
        if (last || step % cfg->log_every == 0) put_histograms(s, step);
        if (last || (cfg->eval_every && step % cfg->eval_every == 0)) TRY(sft_eval_step(s, &m));
        progress_watch(&p, metrics_get(&m, "loss"));
        progress_step(&p, step, (uint64_t)tokens, "loss %.4f", metrics_get(&m, "loss"));
        TRY(run_log(run, step, s->state.tokens, s->state.samples, &m));
        if (run_save_due(cfg, step, last)) TRY(sft_save(s));
        if (run_stop_requested() && !last) return run_stopped(run, step);
    }
    double val = NAN;
    if (s->data.eval.n) TRY(sft_evaluate(s, &val));
    TRY(stage_write_model(&s->net.w, s->tokenizer, run_dir(run), "model"));
    summary_put(s->stage, "loss_first", s->state.first_loss);
    summary_put(s->stage, "loss_last", s->state.recent_loss);
    summary_put(s->stage, "val_loss", val);
    summary_put(s->stage, "steps", s->state.step);
    summary_put(s->stage, "tokens_per_second", progress_rate(&p));
    return stage_finish(s->stage, run);
}

Status sft_run(Stage *stage, const SftConfig *cfg) {
    Sft s = {.stage = stage, .cfg = cfg};
    Status status = sft_create(&s);
    if (status == OK && !stage->cfg.dry_run) status = sft_loop(&s);
    memory_thaw();
    sft_release(&s);
    return status;
}
