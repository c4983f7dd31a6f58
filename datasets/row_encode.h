/* row_encode.h - one row's prompt and answer as training and PPO's judge see them, for the tools:
 * encode(prompt) ++ encode(answer) ++ the end, markers of the layout by id, data never special. */
#ifndef ROW_ENCODE_H
#define ROW_ENCODE_H

#include "datasets/dataset.h"

/* row["prompt"] (string or messages) and row[key], which may be empty: so may a response be. */
Status answer_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc, const char *key,
                     Ids *out);
/* row["messages"]: a conversation that ends with the assistant's message. */
Status conversation_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc, Ids *out);

#endif
