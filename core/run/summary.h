/* summary.h - what a pipeline achieved, as text: the figures of summary.json, and held-out prompts
 * with the answers that its stages wrote to samples.jsonl, side by side. */
#ifndef SUMMARY_H
#define SUMMARY_H

#include "core/base/text.h"
#include "core/base/status.h"

/* Appends the table of DIR/summary.json and up to `prompts` prompts. Stages without samples are
 * left out. */
Status summary_text(Text *out, const char *dir, int prompts);

#endif
