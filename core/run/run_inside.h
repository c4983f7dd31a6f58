/* run_inside.h - what the files of a run share; not for trainers. */
#ifndef RUN_INSIDE_H
#define RUN_INSIDE_H

#include "core/run/run.h"

enum { RUN_PATH = 1400 };

enum { METRICS_LOG, SAMPLES_LOG, ALARMS_LOG, ROLLOUTS_LOG, N_LOGS }; /* names in run.c */

struct Run {
    char dir[1024], verb[32];
    int keep, lock;
    int log[N_LOGS]; /* descriptors opened for appending; -1: not opened */
    int dump_rollouts;
    AlarmConfig alarm_cfg;
    AlarmFacts facts;
    AlarmState alarm_state;
    char stopped_by[512]; /* the alarm that asked for a stop */
    int disk_raised;
    int tensorboard; /* wanted */
    int events;      /* descriptor of the event file, opened with the first row; -1: not opened */
    int resumed;
    int last_step;  /* of the last metrics row; -1 none */
    int saved_step; /* of the newest complete checkpoint; -1 none known */
    int rows_lost;  /* log rows that could not be written */
    int locked, begun;
    char *recipe; /* resolved, as text */
};

/* dir/name; the folder's own length was checked when the run was opened. */
void run_path(char out[RUN_PATH], const Run *run, const char *name);

/* Logs are metrics, samples, alarms, rollouts and TensorBoard events; called once per log with its
 * size. */
typedef Status (*RunLogVisitor)(void *ctx, const char *name, const char *path, uint64_t bytes);
Status run_visit_logs(const Run *run, RunLogVisitor visit, void *ctx);

/* E_USAGE naming the first setting that differs between a stored recipe and today's. */
Status run_compare_recipes(const char *dir, const JsonDoc *stored, const JsonDoc *now);

/* Steps of the folders checkpoints/step-N, newest first; `old` marks step-N.old, which counts when
 * a crash fell between the two renames that replace a step. */
typedef struct {
    int step, old;
} StepDir;
enum { STEP_DIRS_MAX = 4096 };
Status checkpoint_list(const Run *run, StepDir *out, int *n);
void checkpoint_path(char out[RUN_PATH], const Run *run, StepDir d, const char *suffix);
Status checkpoint_clean(const Run *run); /* removes what an interrupted save or removal left */

/* The manifest's first line is {"manifest_xxh3":"<16 digits>",\n with the hash of all that follows.
 */
enum { MANIFEST_FORMAT = 1, MANIFEST_HEAD = 37 };
void manifest_head(char out[MANIFEST_HEAD + 1], const char *rest, size_t len);

#endif
