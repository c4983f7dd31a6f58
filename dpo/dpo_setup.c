/* dpo_setup.c - DPO's settings, its two models and their memory, saving and resuming. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/hf.h"
#include "dpo/dpo_inside.h"

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

/* What run.best may name: figures of held-out pairs, then those of answers to held-out prompts, at
 * the end the gold rule's. */
static const char *const evaluated[] = {"eval/loss",
                                        "eval/rewards/chosen",
                                        "eval/rewards/rejected",
                                        "eval/rewards/margins",
                                        "eval/rewards/accuracies",
                                        "eval/logps/chosen",
                                        "eval/logps/rejected",
                                        "eval/entropy",
                                        "eval/kl",
                                        "eval/response_length",
                                        "eval/gold",
                                        "eval/win_rate"};
enum { OF_PAIRS = 8, OF_ANSWERS = 10, OF_ALL = sizeof evaluated / sizeof *evaluated };

static Status check_best(const Dpo *d) {
    const Dataset *prompts = &d->held.prompts;
    int n = policy_eval_knows_gold(prompts) ? OF_ALL : prompts->n ? OF_ANSWERS : OF_PAIRS;
    return stage_check_best(d->stage, evaluated, n);
}

static Status load_networks(Dpo *d, const char *reference) {
    TRY(model_read_weights(&d->reference.w, reference, d->stage->run.seed));
    if (!d->session.from) {
        d->state.best = NAN;
        return stage_model_weights(&d->policy.w, d->stage);
    }
    TRY(checkpoint_read(d->session.from, "state", &d->state, sizeof d->state));
    TRY(policy_eval_load(&d->held.eval, d->session.from));
    return session_load_network(d->session.from, "policy", &d->policy, &d->optim);
}

static Status create_arrays(Dpo *d) {
    int max_S = 2 * d->cfg->step.batch_size;
    size_t max_N = (size_t)max_S * (size_t)d->stage->data.max_length,
           batch_size = (size_t)d->cfg->step.batch_size, train = 0;
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

Status dpo_create(Dpo *d) {
    Stage *stage = d->stage;
    const DpoConfig *c = d->cfg;
    ModelConfig m, r;
    TRY(stage_tokenizer(&d->tokenizer, stage));
    TRY(stage_model_config(&m, stage, d->tokenizer));
    const char *reference = stage->cfg.reference[0] ? stage->cfg.reference : stage->cfg.model;
    TRY(stage_check_head(&m, "policy", stage->cfg.model, HEAD_LANGUAGE));
    TRY(stage_read_role(&r, stage, d->tokenizer, "reference", reference));
    TRY(stage_check_head(&r, "reference", reference, HEAD_LANGUAGE));
    TRY(train_data_open(&d->data, stage, ROWS_PAIRS, ROWS_PAIRS, d->tokenizer));
    TRY(held_out_open(&d->held, &c->held_out, stage, d->tokenizer));
    d->steps = stage_steps(&d->data, c->step.batch_size, c->step.epochs, c->step.max_steps);
    d->micro_tokens = stage_micro_tokens(c->step.micro_tokens, 2 * stage->data.max_length);

    TRY(check_best(d));
    /* the run directory comes last: a typo above leaves nothing behind */
    TRY(session_open(&d->session, &stage->cfg, &stage->run, stage->verb, stage->recipe));
    Backend *b = d->session.b;
    const ModelConfig *configs[] = {&m, &r};
    int rows = held_out_rows(&d->held, &c->held_out);
    WorkspacePlan plan = stage_workspace(stage, &c->step, d->micro_tokens, rows);
    Plan memory = {0};
    plan_network(&memory, b, "policy", &m, plan_kind(&c->optim));
    Dtype reference_dtype = frozen_dtype(b, stage->cfg.reference_dtype);
    plan_frozen(&memory, b, "reference", &r, reference_dtype, "reference_dtype");
    TRY(plan_activations(&memory, b, &plan, configs, 2, 2 * stage->data.max_length));
    held_out_plan(&memory, &d->held, &c->held_out, stage, b, &m);
    TRY(plan_check(&memory, d->session.b, stage->verb, stage->cfg.memory_limit));
    if (stage->cfg.dry_run) return OK;

    TRY(workspace_create(&d->ws, b, &plan, configs, 2, NULL));
    TRY(network_create(&d->policy, b, &m, d->ws, 1));
    TRY(network_create_frozen(&d->reference, b, &r, d->ws, reference_dtype));
    TRY(optim_create(&d->optim, &d->policy, &c->optim));
    TRY(held_out_create(&d->held, &c->held_out, stage, d->tokenizer, b, &m, d->micro_tokens));
    TRY(create_arrays(d));
    return load_networks(d, reference);
}

void dpo_release(Dpo *d) {
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

Status dpo_save(Dpo *d) {
    CheckpointWriter *w;
    TRY(session_checkpoint(&w, &d->session, d->state.step));
    Status s = checkpoint_add(w, "state", &d->state, sizeof d->state);
    if (s == OK) s = policy_eval_save(w, &d->held.eval);
    if (s == OK) s = session_save_network(w, "policy", &d->policy, &d->optim);
    if (s == OK) return checkpoint_commit(w);
    checkpoint_abort(w);
    return s;
}
