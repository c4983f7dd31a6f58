/* data_alarms.c - A15: flaws of rows that do not stop a run, where so much of a file has them that
 * the model would learn something else than its user means. Of single rows only the log tells. */
#include "datasets/stage.h"

#include <math.h>
#include <stdio.h>

enum { BIAS_PAIRS = 100 }; /* among fewer, a share of 70 % may be chance */

typedef struct {
    const Dataset *d;
    const char *path;
    const AlarmConfig *cfg;
    Run *run;
} Look;

static void raise_data(const Look *l, const char *name, double value, double limit,
                       const char *cause, const char *setting) {
    char metric[40];
    Text t = {0};
    snprintf(metric, sizeof metric, "data/%s", name);
    text_addf(&t, "%s: %s", l->path, cause);
    run_alarm(l->run,
              &(Alarm){.id = "A15",
                       .name = name,
                       .metric = metric,
                       .cause = t.s,
                       .setting = setting,
                       .severity = ALARM_WARN,
                       .value = value,
                       .limit = limit},
              0);
    text_release(&t);
}

static void look_at_share(const Look *l, const char *name, int rows, const char *cause,
                          const char *setting) {
    double share = l->d->n_read ? (double)rows / l->d->n_read : 0.0;
    if ((float)share > l->cfg->data_remarks)
        raise_data(l, name, share, l->cfg->data_remarks, cause, setting);
}

/* Where the better answer nearly always is the longer one (or the shorter one), length alone gives
 * a good loss, and that is what will be learned. */
static void look_at_lengths(const Look *l) {
    int pairs = 0, longer = 0;
    for (int i = 0; i < l->d->n; i++) {
        const Row *row = &l->d->rows[i];
        pairs += row->a.n != row->b.n;
        longer += row->a.n > row->b.n;
    }
    if (l->d->kind != ROWS_PAIRS || pairs < BIAS_PAIRS) return;
    double share = (double)longer / pairs;
    if ((float)fmax(share, 1.0 - share) <= l->cfg->length_bias) return;
    if (share > 0.5)
        raise_data(l, "chosen-are-longer", share, l->cfg->length_bias,
                   "the chosen answer is nearly always the longer one: length is learned",
                   "data.train");
    else
        raise_data(l, "chosen-are-shorter", 1.0 - share, l->cfg->length_bias,
                   "the chosen answer is nearly always the shorter one: brevity is learned",
                   "data.train");
}

void dataset_alarms(const Dataset *d, const char *path, const AlarmConfig *cfg, Run *run) {
    Look l = {d, path, cfg, run};
    look_at_share(&l, "bad-rows", d->dropped_bad, "so many rows are bad and left out",
                  "data.bad_rows");
    look_at_share(&l, "too-long", d->found[REMARK_LONG],
                  "so many rows are too long and left out, or their prompts cut",
                  "data.max_length");
    look_at_share(&l, "duplicate-rows", d->found[REMARK_DUPLICATE],
                  "so many rows are copies of others, which get more weight by it", "data.train");
    look_at_share(&l, "inside-tokens", d->found[REMARK_SEAM],
                  "so many answers begin inside a token: a space may be on the wrong side",
                  "data.train");
    look_at_share(&l, "eval-overlap", d->found[REMARK_OVERLAP],
                  "so many held-out rows have a prompt that is also trained on", "data.eval");
    look_at_lengths(&l);
}
