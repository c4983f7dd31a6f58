/* progress.h - the one line that a person watches: step, tokens/s, ETA and what the trainer adds.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdint.h>

#include "core/run/spark.h"

typedef struct {
    double began;
    int first_step, total, log_every;
    uint64_t tokens;
    const char *verb;
    Spark history; /* of what is watched, drawn on a terminal */
} Progress;

double clock_seconds(void); /* monotonic */
void progress_begin(Progress *p, const char *verb, int first_step, int total, int log_every);
/* The number whose history the line shows; before the step's line. */
void progress_watch(Progress *p, double value);
/* tokens of this step; the rest is appended printf-like. */
void progress_step(Progress *p, int step, uint64_t tokens, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
double progress_rate(const Progress *p); /* tokens per second so far */

#endif
