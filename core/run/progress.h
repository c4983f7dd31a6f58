/* progress.h - the one line that a person watches: step, tokens/s, ETA and what the trainer adds.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdint.h>

typedef struct {
    double began;
    int first_step, total, log_every;
    uint64_t tokens;
    const char *verb;
} Progress;

double clock_seconds(void); /* monotonic */
void progress_begin(Progress *p, const char *verb, int first_step, int total, int log_every);
/* tokens of this step; the rest is appended printf-like. */
void progress_step(Progress *p, int step, uint64_t tokens, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
double progress_rate(const Progress *p); /* tokens per second so far */
double progress_seconds(const Progress *p);

#endif
