/* live.h - `rlhf monitor`: the page of report.h while runs go on, for a browser on this machine.
 *
 * A process of its own that only reads: whatever it does, training goes on. It listens on loopback
 * unless told otherwise, answers GET and HEAD of a fixed list of addresses with heads of at most
 * 8 KiB, holds 32 connections, and drops clients that are slow to ask or to read. However many ask,
 * it takes less than a hundredth of the machine's processor time, beyond short bursts. */
#ifndef LIVE_H
#define LIVE_H

#include "core/base/status.h"

/* rlhf monitor RUN_DIR [RUN_DIR ...] [--port 8080] [--host 127.0.0.1]; port 0: any that is free.
 * Prints its address and serves until SIGINT or SIGTERM. */
Status live_main(int argc, char **argv);

#endif
