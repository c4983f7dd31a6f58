/* run.h - a run directory: resolved recipe, logs of JSON lines, checkpoints, final model.
 *
 * One process per directory (flock; the other one's pid is named). Checkpoints follow
 * docs/design.md "Checkpoints": step-N.tmp/, each file fsynced and hashed in a manifest, rename,
 * fsync of the parent; the older ones go only afterwards. A resume scans manifests newest first,
 * verifies every hash before anything is changed, falls back to the previous one naming the bad
 * file, and cuts the logs back to the offsets that the checkpoint recorded. */
#ifndef RUN_H
#define RUN_H

#include <stdint.h>
#include <stdio.h>
#include "core/run/alarms.h"
#include "core/run/metrics.h"
#include "core/run/settings.h"

typedef struct {
    const char *dir;
    uint64_t seed;
    int eval_every, save_every, keep; /* steps; steps; newest checkpoints kept */
    const char *best;                 /* metric whose best value's model is kept, "" none */
    int resume;                       /* continue from the newest good checkpoint if there is one */
    int overwrite;                    /* replace a finished or foreign run in dir */
    int log_every;                    /* steps between progress lines in a pipe */
    int tensorboard;                  /* metrics also as TensorBoard events */
    int dump_rollouts;                /* ppo: every rollout to rollouts.jsonl */
    AlarmConfig alarms;               /* a section of its own */
} RunConfig;
extern const Field run_fields[];
extern const int run_n_fields;

typedef struct Run Run;

/* Creates and locks the directory. E_USAGE when it holds a run already and neither resume nor
 * overwrite is set, or another process holds it. On resume the stored recipe must equal the given
 * one, apart from the run section; a difference is refused by name. A run that is not resumed
 * writes nothing, and leaves what lies there alone, until run_begin. */
Status run_open(Run **run, const RunConfig *cfg, const char *verb, const char *resolved_recipe);
/* The run is known to start: what the directory holds of an older one goes, recipe.json (the text
 * given) and the logs come. Nothing where a run is resumed. */
Status run_begin(Run *run);
/* Removes the directory again where it was made for a run that has not begun. NULL is fine. */
void run_close(Run *run);
const char *run_dir(const Run *run);

/* What alarms are to know of this run; before its first row. */
void run_facts(Run *run, const AlarmFacts *facts);
/* An alarm of the caller's, unless `alarms.off` names it: to the log and alarms.jsonl. One of
 * severity stop asks for a stop. */
void run_alarm(Run *run, const Alarm *a, int step);
/* Appends one metrics row {"step","wall_time","tokens","samples", ...}. A row that cannot be
 * written (disk full) is a warning, never half a line, and the run goes on. Alarms that the row
 * raises go to the log and alarms.jsonl; one that stops is a request to stop. */
Status run_log(Run *run, int step, uint64_t tokens, uint64_t samples, const Metrics *m);
/* Appends a row (a JSON object as text) to samples.jsonl. */
Status run_sample(Run *run, const char *json);
/* Writes evals/NAME.json, a JSON object; an older one of that name is replaced. */
Status run_evaluation(Run *run, const char *name, const char *json);
/* The same for another run, which the evaluation was of; what else lies in its directory stays. */
Status run_evaluation_of(const char *run_dir, const char *name, const char *json);
/* A row to rollouts.jsonl, nothing with run.dump_rollouts off. */
Status run_rollout(Run *run, const char *json);

/* Distributions and texts for TensorBoard, beside the scalars of run_log and like them cut back by
 * a resume. Nothing is written with run.tensorboard off. Tags differ from metrics' names. */
void run_histogram(Run *run, int step, const char *tag, const float *values, int n);
void run_text(Run *run, int step, const char *tag, const char *text, size_t n);

/* --- checkpoints ---
 * A save that fails (disk full, I/O error) is a warning, not the end of a run: the first failure is
 * kept in the writer, later calls do nothing, the commit cleans up, warns and returns OK; the older
 * checkpoints stay. run_saved_step() tells what is really on disk, for those who stop after a save.
 */
typedef struct CheckpointWriter CheckpointWriter;
Status checkpoint_begin(CheckpointWriter **w, Run *run, int step);
/* One file. */
Status checkpoint_add(CheckpointWriter *w, const char *name, const void *data, size_t bytes);
/* The same in pieces, so that a large tensor range need not exist twice in memory. */
Status checkpoint_file(CheckpointWriter *w, const char *name);
Status checkpoint_write(CheckpointWriter *w, const void *data, size_t bytes);
/* The protocol above, then older ones go; w is released in any case. */
Status checkpoint_commit(CheckpointWriter *w);
void checkpoint_abort(CheckpointWriter *w); /* NULL is fine */

/* Step of the newest complete checkpoint; -1 when there is none. */
int run_saved_step(const Run *run);

/* Opens the newest good checkpoint; *c = NULL when there is none at all, E_FORMAT when there are
 * some but all are damaged. Logs are cut back, so call it before other logs are opened. */
typedef struct Checkpoint Checkpoint;
Status checkpoint_open_latest(Checkpoint **c, Run *run);
/* Of another run, only to be read: the steps that it has checkpoints of, in order, and one of them,
 * verified. Nothing in its directory is changed. */
Status checkpoint_steps(const char *run_dir, int *steps, int max, int *n);
Status checkpoint_open_step(Checkpoint **c, const char *run_dir, int step);
int checkpoint_step(const Checkpoint *c);
/* Borrowed view of a file of the checkpoint (mapped, verified); E_FORMAT when absent or of another
 * size (bytes_expected = 0: any). */
Status checkpoint_view(const Checkpoint *c, const char *name, size_t bytes_expected,
                       const void **data, size_t *bytes);
/* A file of exactly so many bytes, copied. */
Status checkpoint_read(const Checkpoint *c, const char *name, void *out, size_t bytes);
void checkpoint_close(Checkpoint *c);

/* What alarms remember, into and out of a checkpoint. */
Status run_save_alarms(CheckpointWriter *w, const Run *run);
Status run_load_alarms(Run *run, const Checkpoint *c);

/* --- stopping --- */
/* Installs SIGTERM/SIGINT (stop after saving) and SIGUSR1 (save and go on). */
void run_signals(void);
int run_stop_requested(void);
void run_request_stop(void);  /* as SIGTERM does */
int run_save_requested(void); /* clears the request */
/* Is a checkpoint due after this step: the last one, every save_every, or on request? */
int run_save_due(const RunConfig *cfg, int step, int last);
/* E_STOPPED with the step that a resume really begins from: the save before may have failed.
 * E_NUMERIC where an alarm has stopped the run. */
Status run_stopped(const Run *run, int step);

/* --- finished marker: run.json with {"finished":true,"step":N, ...} --- */
Status run_finish(Run *run, const char *summary_json /* an object */);
int run_is_finished(const char *dir);

#endif
