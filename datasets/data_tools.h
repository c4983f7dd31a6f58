/* data_tools.h - rlhf data check|show|split: a data file looked at before anything trains on it.
 * argv: the file, then flags. */
#ifndef DATA_TOOLS_H
#define DATA_TOOLS_H

#include "core/base/status.h"

/* What training on FILE would refuse or remark on, line by line, from the trainers' own reading.
 * --out writes it as one JSON object. E_FORMAT where a row is bad. */
Status data_check_main(int argc, char **argv);
/* The first rows as the model sees them, what is trained in colour (on a terminal without NO_COLOR)
 * or in double brackets; control characters are escaped. */
Status data_show_main(int argc, char **argv);
/* DIR/train.jsonl and DIR/eval.jsonl: a seeded share of the prompts with all their rows, so that no
 * prompt stands on both sides. */
Status data_split_main(int argc, char **argv);

#endif
