/* stage.h - what every trainer is given (settings, recipe, a place for its summary), and what all
 * of them do with it: open tokenizer and data, check the other models, write the final one. */
#ifndef STAGE_H
#define STAGE_H

#include "core/model/session.h"
#include "datasets/dataset.h"

typedef struct {
    const char *verb;
    StageConfig cfg;
    RunConfig run;
    DataConfig data;
    InitConfig init;
    const char *recipe; /* the resolved settings as JSON, for the run directory */
    double began;       /* clock_seconds() at its start */
    Text summary;       /* out: what the stage reports, members of a JSON object */
} Stage;

Status stage_tokenizer(Tokenizer **t, const Stage *s);
/* Config of s->cfg.model (or init); checks it against the tokenizer, takes over its special ids. */
Status stage_model_config(ModelConfig *m, const Stage *s, const Tokenizer *t);
/* E_FORMAT where `path`, another model of the run, has a tokenizer or chat template that differs
 * from the run's: it would be fed tokens that mean something else to it. A directory without a
 * tokenizer passes; templates count where data.layout uses them. */
Status stage_check_role(const Stage *s, const Tokenizer *run, const char *role, const char *path);
/* Config of `path`, another model of the run (or the same in another role), once it is known to
 * take what the run feeds it: stage_check_role, and E_FORMAT where it embeds fewer tokens than the
 * run's tokenizer has, E_USAGE where data.max_length is more than its positions. */
Status stage_read_role(ModelConfig *m, const Stage *s, const Tokenizer *run, const char *role,
                       const char *path);
/* E_FORMAT where the model at `path` (its config m) lacks the head that its role needs. */
typedef enum { HEAD_LANGUAGE, HEAD_SCORE } RoleHead;
Status stage_check_head(const ModelConfig *m, const char *role, const char *path, RoleHead head);
/* The first difference of a role's tokenizer from the run's, as a part of a sentence; empty where
 * the run's ids mean the same to both. */
Status tokenizers_differ(Text *out, const Tokenizer *run, const Tokenizer *role, int templates);
/* Weights of s->cfg.model, or initial ones from the seed. */
Status stage_model_weights(Weights *w, const Stage *s);

typedef struct {
    Dataset *sets;
    int n_sets;
    double *weights;
    Dataset eval; /* n = 0 without an eval file */
    DataOrder order;
    Arena arena;
} TrainData;
/* Training files of s->data as `kind`, eval file as eval_kind; reports both. E_USAGE without
 * training rows. */
Status train_data_open(TrainData *d, const Stage *s, RowKind kind, RowKind eval_kind,
                       const Tokenizer *t);
void train_data_close(TrainData *d);

/* Raises A15 where too many rows of a file are too long, bad, duplicates or trained on, or where
 * length gives the chosen answers away (data_alarms.c). */
void dataset_alarms(const Dataset *d, const char *path, const AlarmConfig *cfg, Run *run);
/* To be called when nothing can refuse the run any more: run_begin, rows left out go to
 * DIR/rejects.jsonl, and the alarms of the data are raised (not again by a resume). */
Status stage_begin(const Stage *s, const TrainData *d, const Session *session);

/* Steps of a run: max_steps if given, else epochs over the data, at least 1. */
int stage_steps(const TrainData *d, int batch_size, int epochs, int max_steps);
/* micro_tokens, or a good size where 0 is asked for: at least max_length. */
int stage_micro_tokens(int asked, int max_length);
/* The workspace of a run that trains on micro_tokens at once and decodes so many rows (0: none). */
WorkspacePlan stage_workspace(const Stage *s, const StepConfig *step, int micro_tokens, int rows);

/* Final (or best) model of a stage: DIR/name with the tokenizer beside it. */
Status stage_write_model(const Weights *w, const Tokenizer *t, const char *run_dir,
                         const char *name);

/* Before a run: is run.best, where it is set, one of the n metrics that the trainer evaluates, and
 * is there an eval file? E_USAGE with the nearest name. */
Status stage_check_best(const Stage *s, const char *const *metrics, int n);
/* After an evaluation: where run.best has its best value so far, the weights go to DIR/best and the
 * value to *best (NAN at first). Metrics named after a loss, a KL or a length are better when
 * smaller. */
Status stage_keep_best(const Stage *s, const Metrics *m, double *best, const Weights *w,
                       const Tokenizer *t, const Run *run);

/* "name": value into the stage's summary */
void summary_put(Stage *s, const char *name, double value);
/* The stage is done: adds "seconds" and "peak_memory_mib" (the most that the process was resident,
 * earlier stages included) to the summary and leaves it in the run directory (run.json). */
Status stage_finish(Stage *s, Run *run);

#endif
