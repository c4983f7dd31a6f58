/* rows.h - the loop of the tools: JSON lines in, the same lines with more keys out, some hundred at
 * a time so that memory stays bounded however long the file is. */
#ifndef ROWS_H
#define ROWS_H

#include "core/base/stream.h"
#include "datasets/tokenizer.h"

enum { ROWS_AT_ONCE = 256 };

typedef struct {
    LineReader *in;
    LineWriter *out;
    const char *path;
    int least, most; /* tokens that a row may have */
    /* the rows at hand and their tokens end to end */
    int n;
    JsonDoc *doc[ROWS_AT_ONCE];
    Ids ids;
    int starts[ROWS_AT_ONCE + 1];
    long done; /* rows of earlier fills */
    Text line;
} Rows;

/* Reads data some hundred rows at a time: encode appends the tokens of each row, work writes all
 * rows at hand. The output ("-" is standard output) appears under its name when all went well.
 * E_FORMAT with file:line:column for a bad row, or one of too few or too many tokens. */
typedef Status (*RowEncode)(void *ctx, const JsonDoc *doc, Ids *ids);
typedef Status (*RowsWork)(void *ctx, Rows *r);
Status rows_run(const char *data, const char *out, int least, int most, RowEncode encode,
                RowsWork work, void *ctx);

static inline const int *rows_ids(const Rows *r, int i) {
    return r->ids.v + r->starts[i];
}
static inline int rows_length(const Rows *r, int i) {
    return r->starts[i + 1] - r->starts[i];
}

/* Begins the output of row i with all its keys but those in `own` (NULL-terminated), which the
 * caller adds to the text returned; rows_put ends and writes it. */
Text *rows_begin(Rows *r, int i, const char *const *own);
Status rows_put(Rows *r);

/* Appends row["ids"], each below vocab. */
Status row_ids(const JsonDoc *doc, int vocab, Ids *ids);

#endif
