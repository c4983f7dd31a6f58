/* runs.h - `rlhf runs`: which runs there are, how far they are, and in what they differ. */
#ifndef RUNS_H
#define RUNS_H

#include "core/base/status.h"

/* rlhf runs [DIR ...] [--compare]: the runs in and two levels under the folders ("runs" when none
 * is given), a line each; with --compare, for each verb, the settings that differ and the last
 * figures side by side. */
Status runs_main(int argc, char **argv);

#endif
