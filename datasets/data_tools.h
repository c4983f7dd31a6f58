/* data_tools.h - rlhf data: a file looked at before anything trains on it (check, show, split; argv
 * is the file, then flags), and files made (make-demo, train-tokenizer). */
#ifndef DATA_TOOLS_H
#define DATA_TOOLS_H

#include "core/base/json.h"

/* What training on FILE would refuse or remark on, line by line, from the trainers' own reading.
 * --out writes it as one JSON object. E_FORMAT where a row is bad. */
Status data_check_main(int argc, char **argv);
/* The first rows as the model sees them, what is trained in colour (on a terminal without NO_COLOR)
 * or in double brackets; control characters are escaped. */
Status data_show_main(int argc, char **argv);
/* DIR/train.jsonl and DIR/eval.jsonl: a seeded share of the prompts with all their rows, so that no
 * prompt stands on both sides. */
Status data_split_main(int argc, char **argv);

/* The embedded world, a tokenizer. Also stages of a pipeline, hence a recipe (NULL: none) beside
 * the flags; the members of a summary object are appended. */
Status data_make_demo(const JsonDoc *recipe, int argc, char **argv, Text *summary);
Status data_train_tokenizer(const JsonDoc *recipe, int argc, char **argv, Text *summary);

#endif
