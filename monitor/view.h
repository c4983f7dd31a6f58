/* view.h - what a run directory says, gathered from its files and brought up to date by reading on.
 *
 * Everything but the folder itself is optional: a run that has just begun has no metrics, an older
 * one no alarms. Unknown keys are kept, broken rows are counted. Formats: docs/formats.md. */
#ifndef VIEW_H
#define VIEW_H

#include "monitor/series.h"
#include "monitor/tail.h"

enum { VIEW_PATH = 1400, VIEWS_MAX = 64, VIEW_ROWS = 4096, VIEW_ROWS_BYTES = 4 << 20 };

/* Rows of a log as text: the first VIEW_FIRST and the newest ones within the bounds above. */
enum { VIEW_FIRST = 64 };
typedef struct {
    char **row;
    int n, room, left_out;
    size_t bytes;
} ViewRows;

typedef struct {
    char name[160], dir[1024], verb[32]; /* verb "": unknown */
    const char *state;                   /* "finished", "running", "stopped" */
    Text recipe, result, evals;          /* recipe.json, run.json, evals/, as JSON; empty: none */
    Series series;
    ViewRows samples, alarms;
    TailPos at_metrics, at_samples, at_alarms;
    int bad_rows, cuts; /* rows that could not be read; how often a log was found cut back */
    char trouble[256];  /* the first row or file that could not be read; "" none */
    uint64_t seen_recipe, seen_result, seen_evals; /* what those files were when they were read */
} RunView;

Status view_open(RunView **out, const char *dir, const char *name);
void view_close(RunView *v);   /* NULL is fine */
void view_refresh(RunView *v); /* what cannot be read is said in `trouble`, never fatal */

typedef struct {
    const char *const *paths; /* borrowed */
    int n_paths;
    RunView *run[VIEWS_MAX];
    int n;
} RunViews;

/* The runs of `paths`: a run directory is one, any other folder gives the run directories in it, in
 * the order in which they began. E_USAGE, naming the path, when one is no folder, or when it holds
 * no run and none is `awaited`. */
Status views_open(RunViews *out, const char *const *paths, int n, int awaited);
void views_close(RunViews *v);
/* New rows and files of all, and runs that were not there before. */
void views_refresh(RunViews *v);
/* Changes when the page must be drawn anew: runs, their states, recipes, evaluations, cut logs. */
uint64_t views_signature(const RunViews *v);

/* What to call them together: the folder's name where there is one path. */
void views_title(Text *t, const RunViews *v);

/* Appends the object that the page is drawn from; `live`: with positions to read on from. */
void view_put(Text *t, const RunView *v, int live);

/* Is there a run in this folder? */
int view_is_run(const char *dir);

#endif
