/* stage.c - see stage.h. */
#include "datasets/stage.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/model/hf.h"
#include "core/model/hub.h"
#include "core/run/progress.h"
#include "datasets/template.h"

static int is_init(const Stage *s) {
    return !strcmp(s->cfg.model, "init");
}

Status stage_tokenizer(Tokenizer **t, const Stage *s) {
    const char *path = s->cfg.tokenizer[0] ? s->cfg.tokenizer : s->cfg.model;
    if (!path[0]) return status_fail(E_USAGE, "the recipe names no \"model\"");
    if (!s->cfg.tokenizer[0] && is_init(s))
        return status_fail(E_USAGE, "a model from \"init\" needs a \"tokenizer\" directory");
    char found[MODEL_PATH_MAX];
    TRY(model_find(found, path));
    TRY(model_is_gguf(found) ? tokenizer_open_gguf(t, found) : tokenizer_open_dir(t, found));
    chat_template_teach_end(*t);
    return OK;
}

/* A model of several end tokens keeps them all. */
static void take_ends(ModelConfig *m, const Tokenizer *t) {
    int n;
    const int *ids = tokenizer_eos_ids(t, &n);
    m->n_eos = n < EOS_MAX ? n : EOS_MAX;
    memcpy(m->eos, ids, (size_t)m->n_eos * sizeof *ids);
}

Status stage_model_config(ModelConfig *m, const Stage *s, const Tokenizer *t) {
    if (is_init(s)) {
        init_model_config(m, &s->init, tokenizer_vocab_size(t));
        TRY(config_check(m, "init"));
    } else {
        TRY(model_read_config(m, s->cfg.model));
    }
    if (tokenizer_vocab_size(t) > m->V)
        return status_fail(E_FORMAT, "the tokenizer has %d tokens, the model %s embeds only %d",
                           tokenizer_vocab_size(t), s->cfg.model, m->V);
    if (tokenizer_eos(t) < 0)
        return status_fail(
            E_FORMAT, "the tokenizer names no end-of-sequence token: completions could not end");
    m->bos = tokenizer_bos(t);
    m->pad = tokenizer_pad(t);
    take_ends(m, t);
    if (s->data.max_length > m->max_positions)
        return status_fail(E_USAGE, "data.max_length %d is more than the model's %d positions",
                           s->data.max_length, m->max_positions);
    return OK;
}

Status stage_model_weights(Weights *w, const Stage *s) {
    if (is_init(s)) return weights_init(w, s->run.seed);
    return model_read_weights(w, s->cfg.model, s->run.seed);
}

static Status read_weights(TrainData *d, const DataConfig *cfg) {
    if (!cfg->weights.n) return OK;
    if (cfg->weights.n != cfg->train.n)
        return status_fail(E_USAGE, "data.weights has %d entries for %d training files",
                           cfg->weights.n, cfg->train.n);
    d->weights = arena_alloc(&d->arena, (size_t)cfg->weights.n * sizeof *d->weights);
    for (int i = 0; i < cfg->weights.n; i++) {
        char *end;
        d->weights[i] = strtod(cfg->weights.items[i], &end);
        if (*end || end == cfg->weights.items[i] || !(d->weights[i] > 0.0))
            return status_fail(E_USAGE, "data.weights: \"%s\" is not a positive number",
                               cfg->weights.items[i]);
    }
    return OK;
}

Status train_data_open(TrainData *d, const Stage *s, RowKind kind, RowKind eval_kind,
                       const Tokenizer *t) {
    *d = (TrainData){0};
    int total = 0;
    if (!s->data.train.n) return status_fail(E_USAGE, "the recipe names no data.train file");
    TRY(read_weights(d, &s->data));
    d->sets = arena_alloc(&d->arena, (size_t)s->data.train.n * sizeof *d->sets);
    for (int i = 0; i < s->data.train.n; i++) {
        TRY(dataset_open(&d->sets[i], &s->data, s->data.train.items[i], kind, t));
        d->n_sets++;
        dataset_report(&d->sets[i], s->data.train.items[i]);
        total += d->sets[i].n;
    }
    if (!total)
        return status_fail(E_USAGE, "the training files have no usable row (see the counts above)");
    if (s->data.eval[0]) {
        DataConfig eval = s->data;
        eval.limit = s->data.eval_limit;
        TRY(dataset_open(&d->eval, &eval, s->data.eval, eval_kind, t));
        dataset_overlap(&d->eval, d->sets, d->n_sets);
        dataset_report(&d->eval, s->data.eval);
    }
    return data_order_create(&d->order, d->sets, d->n_sets, d->weights, s->run.seed);
}

void train_data_close(TrainData *d) {
    for (int i = 0; i < d->n_sets; i++) dataset_release(&d->sets[i]);
    dataset_release(&d->eval);
    data_order_release(&d->order);
    arena_release(&d->arena);
    *d = (TrainData){0};
}

Status stage_begin(const Stage *s, const TrainData *d, const Session *session) {
    char rejects[1200];
    Run *run = session->run;
    TRY(run_begin(run));
    snprintf(rejects, sizeof rejects, "%s/rejects.jsonl", run_dir(run));
    for (int i = 0; i < d->n_sets; i++) {
        const char *path = s->data.train.items[i];
        TRY(dataset_write_rejects(&d->sets[i], path, rejects));
        if (!session->from) dataset_alarms(&d->sets[i], path, &s->run.alarms, run);
    }
    if (!session->from) dataset_alarms(&d->eval, s->data.eval, &s->run.alarms, run);
    return OK;
}

int stage_steps(const TrainData *d, int batch_size, int epochs, int max_steps) {
    int64_t rows = 0;
    for (int i = 0; i < d->n_sets; i++) rows += d->sets[i].n;
    if (max_steps > 0) return max_steps;
    int64_t steps = (rows * epochs + batch_size - 1) / batch_size;
    return steps < 1 ? 1 : steps < INT_MAX ? (int)steps : INT_MAX;
}

int stage_micro_tokens(int asked, int max_length) {
    enum { CHOSEN = 2048 }; /* large enough for full-speed products, small enough for caches */
    int tokens = asked ? asked : CHOSEN;
    return tokens < max_length ? max_length : tokens;
}

WorkspacePlan stage_workspace(const Stage *s, const StepConfig *step, int micro_tokens, int rows) {
    return (WorkspacePlan){.tokens = micro_tokens > rows ? micro_tokens : rows,
                           .sequences = micro_tokens,
                           .train = 1,
                           .recompute = step->recompute,
                           .max_length = s->data.max_length};
}

Status stage_write_model(const Weights *w, const Tokenizer *t, const char *run_dir,
                         const char *name) {
    char dir[1200];
    snprintf(dir, sizeof dir, "%s/%s", run_dir, name);
    TRY(file_mkdirs(dir));
    TRY(model_write(w, dir));
    return tokenizer_save(t, dir);
}

static int smaller_is_better(const char *metric) {
    return strstr(metric, "loss") || strstr(metric, "/kl") || strstr(metric, "length");
}

Status stage_check_best(const Stage *s, const char *const *metrics, int n) {
    const char *name = s->run.best;
    if (!name[0]) return OK;
    if (!s->data.eval[0])
        return status_fail(E_USAGE, "run.best \"%s\" needs a file data.eval", name);
    for (int i = 0; i < n; i++)
        if (!strcmp(metrics[i], name)) return OK;
    const char *near = settings_nearest(name, metrics, n);
    return status_fail(E_USAGE, "run.best: %s does not evaluate \"%s\"; did you mean \"%s\"?",
                       s->verb, name, near ? near : metrics[0]);
}

Status stage_keep_best(const Stage *s, const Metrics *m, double *best, const Weights *w,
                       const Tokenizer *t, const Run *run) {
    const char *name = s->run.best;
    double value = name[0] ? metrics_get(m, name) : NAN;
    if (isnan(value)) return OK;
    int better = isnan(*best) || (smaller_is_better(name) ? value < *best : value > *best);
    if (!better) return OK;
    *best = value;
    return stage_write_model(w, t, run_dir(run), "best");
}

void summary_put(Stage *s, const char *name, double value) {
    json_put_key(&s->summary, name);
    json_put_number(&s->summary, value);
}

Status stage_finish(Stage *s, Run *run) {
    Text object = {0};
    size_t peak = memory_resident_peak();
    summary_put(s, "seconds", clock_seconds() - s->began);
    if (peak != SIZE_MAX) summary_put(s, "peak_memory_mib", (double)(peak >> 20));
    text_addf(&object, "{%s}", s->summary.s);
    Status status = run_finish(run, object.s);
    text_release(&object);
    return status;
}
