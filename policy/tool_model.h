/* tool_model.h - what a tool works with: a model and its tokenizer, and a workspace that grows with
 * the rows. */
#ifndef TOOL_MODEL_H
#define TOOL_MODEL_H

#include "core/model/packed.h"
#include "core/run/settings.h"
#include "datasets/tokenizer.h"
#include "policy/rows.h"

typedef struct { /* settings of every tool */
    const char *model, *tokenizer, *data, *out, *device, *kernels, *dtype;
    int threads;
} ToolConfig;
extern const Field tool_fields[];
extern const int tool_n_fields;

/* Loads the tool's settings and its own (own may be NULL). With --help among the flags they are
 * printed and *go is 0. */
Status tool_settings(Arena *a, ToolConfig *c, const Section *own, const char *usage, int argc,
                     char **argv, int *go);

typedef enum { TOOL_TOKENIZER /* no model */, TOOL_LANGUAGE, TOOL_SCORE } ToolNeed;
typedef struct {
    Tokenizer *t;
    Backend *b;
    Workspace *ws;
    Network net;
    Packed batch;  /* the sequences of one forward */
    float *out[2]; /* by token of the batch */
    int tokens;    /* room of all these */
} ToolModel;
Status tool_model_open(ToolModel *m, const ToolConfig *c, ToolNeed need);
void tool_model_close(ToolModel *m);
/* Room for batches of so many tokens. */
Status tool_model_room(ToolModel *m, int tokens);

/* Puts rows [first, last) into m->batch, as many as are good for speed, at least one; returns last.
 * Everything but a sequence's first token is wanted when `wanted`. */
Status tool_model_take(ToolModel *m, const Rows *r, int first, int wanted, int *last);

#endif
