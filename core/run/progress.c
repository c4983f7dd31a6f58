/* progress.c - see progress.h. */
#include "core/run/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "core/base/log.h"

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_begin(Progress *p, const char *verb, int first_step, int total, int log_every) {
    *p = (Progress){clock_seconds(), first_step, total, log_every > 0 ? log_every : 1, 0, verb};
}

double progress_seconds(const Progress *p) {
    return clock_seconds() - p->began;
}

double progress_rate(const Progress *p) {
    double s = progress_seconds(p);
    return s > 0.0 ? (double)p->tokens / s : 0.0;
}

void progress_step(Progress *p, int step, uint64_t tokens, const char *fmt, ...) {
    char rest[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    p->tokens += tokens;
    double left = progress_seconds(p) / (step - p->first_step) * (p->total - step);
    log_progress(step == p->total, "%s %d/%d  %s  %.0f tok/s  ETA %d:%02d", p->verb, step, p->total,
                 rest, progress_rate(p), (int)left / 60, (int)left % 60);
    if (step == p->total) log_progress_end();
}
