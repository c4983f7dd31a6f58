/* progress.c - see progress.h. */
#include "core/run/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/terminal.h"

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_begin(Progress *p, const char *verb, int first_step, int total, int log_every) {
    *p = (Progress){.began = clock_seconds(),
                    .first_step = first_step,
                    .total = total,
                    .log_every = log_every > 0 ? log_every : 1,
                    .verb = verb};
}

static double progress_seconds(const Progress *p) {
    return clock_seconds() - p->began;
}

double progress_rate(const Progress *p) {
    double s = progress_seconds(p);
    return s > 0.0 ? (double)p->tokens / s : 0.0;
}

void progress_watch(Progress *p, double value) {
    spark_add(&p->history, value);
}

/* "curve  " on a terminal, nothing in a pipe. */
static void put_history(char out[SPARK_TEXT + 16], const Progress *p) {
    char curve[SPARK_TEXT];
    int color = terminal_colors(STDERR_FILENO);
    out[0] = '\0';
    if (!terminal_is(STDERR_FILENO) || !p->history.n) return;
    spark_text(curve, &p->history, terminal_utf8());
    snprintf(out, SPARK_TEXT + 16, "%s%s%s  ", color ? "\033[36m" : "", curve,
             color ? "\033[0m" : "");
}

void progress_step(Progress *p, int step, uint64_t tokens, const char *fmt, ...) {
    char rest[512], history[SPARK_TEXT + 16];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    p->tokens += tokens;
    double left = progress_seconds(p) / (step - p->first_step) * (p->total - step);
    put_history(history, p);
    log_progress(step == p->total, "%s %d/%d  %s%s  %.0f tok/s  ETA %d:%02d", p->verb, step,
                 p->total, history, rest, progress_rate(p), (int)left / 60, (int)left % 60);
    if (step == p->total) log_progress_end();
}
