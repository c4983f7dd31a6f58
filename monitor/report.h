/* report.h - `rlhf report`: runs as one HTML file that needs nothing else. */
#ifndef REPORT_H
#define REPORT_H

#include "core/base/status.h"

/* Writes the page over the runs of `paths` (see view.h) to `out`. */
Status report_write(const char *out, const char *const *paths, int n);
/* rlhf report RUN_DIR [RUN_DIR ...] [--out F]; the default is RUN_DIR/report.html of the first. */
Status report_main(int argc, char **argv);
/* At the end of a run: DIR/report.html. A failure is a warning, and the thread's sentence stays. */
void report_at_end(const char *dir);

#endif
