/* threads.h - one persistent pool of threads that spins briefly, then sleeps.
 *
 * Work is split over outputs only, so results never depend on the number of threads. */
#ifndef THREADS_H
#define THREADS_H

#include "core/base/status.h"

typedef void (*ThreadsTask)(void *ctx, int item, int thread);

/* n = 0 takes the number of usable cores; called once, and again to change the number. */
Status threads_start(int n);
void threads_stop(void);
int threads_count(void);

/* Runs task(ctx, item, thread) for item = 0..items-1, thread in [0, threads_count()). A thread goes
 * through a share of neighbours in order and then takes the last ones of other shares. Returns when
 * all are done. From inside a task it runs serially. */
void threads_run(int items, ThreadsTask task, void *ctx);

#endif
