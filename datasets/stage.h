/* stage.h - what every trainer is given, and the two things each does with it first: open the
 * tokenizer, open the data. */
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
/* E_FORMAT where `path`, another model of the run, has a tokenizer or chat template of its own that
 * differs from the run's: it would be fed tokens that mean something else to it. A directory
 * without a tokenizer says nothing; templates count where data.layout uses them. */
Status stage_check_role(const Stage *s, const Tokenizer *run, const char *role, const char *path);
/* In what a role's tokenizer differs from the run's, as a part of a sentence; empty: in nothing
 * that matters to ids of the run's. */
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

/* Raises A15 for what too much of a file is: too long, bad, doubled, trained on, or longer where it
 * was chosen (data_alarms.c). */
void dataset_alarms(const Dataset *d, const char *path, const AlarmConfig *cfg, Run *run);
/* The run is known to start: run_begin, the rows left out go to DIR/rejects.jsonl, and what the
 * data are remarked for is raised (not again by a resume). */
Status stage_begin(const Stage *s, const TrainData *d, const Session *session);

/* Steps of a run: max_steps if given, else epochs over the data, at least 1. */
int stage_steps(const TrainData *d, int batch_size, int epochs, int max_steps);
/* micro_tokens, or a good size for this machine: at least max_length. */
int stage_micro_tokens(int asked, int max_length);

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
