/* row_encode.h - one row's prompt and answer as training and PPO's judge see them, for the tools:
 * encode(prompt) ++ encode(answer) ++ the end, markers of the layout by id, data never special. */
#ifndef ROW_ENCODE_H
#define ROW_ENCODE_H

#include "datasets/dataset.h"

/* What a row of the tools holds: prompt with completion (or response, or text); messages; prompt
 * alone unless need_answer; text, with flags of tokenizer_encode. The first of these that is there.
 */
Status row_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc, int need_answer,
                  int flags, Ids *out);

#endif
