/* tool_model.h - what a tool works with: a model and its tokenizer, and a workspace that grows with
 * the rows. */
#ifndef TOOL_MODEL_H
#define TOOL_MODEL_H

#include "core/model/packed.h"
#include "core/run/settings.h"
#include "datasets/tokenizer.h"
#include "policy/rollout.h"
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

/* How a tool's answers are drawn; shared by the tables of those that answer. */
#define ANSWER_MEMBERS                                                                             \
    int greedy, top_k, max_tokens, no_repeat_ngram;                                                \
    float temperature, top_p, min_p, repetition_penalty;                                           \
    uint64_t seed
#define ANSWER_FIELDS(S, temperature_default, top_p_default, longest)                              \
    FIELD(S, greedy, FIELD_BOOL, "false", "always take the likeliest token"),                      \
        FIELD_IN(S, temperature, FIELD_FLOAT, temperature_default, 0, 100,                         \
                 "divides the logits; 0 = greedy"),                                                \
        FIELD_IN(S, top_k, FIELD_INT, "0", 0, 1 << 24,                                             \
                 "sample from the k likeliest tokens, 0 = all"),                                   \
        FIELD_IN(S, top_p, FIELD_FLOAT, top_p_default, 0.01, 1,                                    \
                 "sample from the likeliest tokens of this mass"),                                 \
        FIELD_IN(S, min_p, FIELD_FLOAT, "0", 0, 1,                                                 \
                 "sample from tokens with this share of the likeliest one's probability, "         \
                 "0 = all"),                                                                       \
        FIELD_IN(S, repetition_penalty, FIELD_FLOAT, "1", 0.01, 100,                               \
                 "divides the logits of what prompt and answer hold, 1 = off"),                    \
        FIELD_IN(S, no_repeat_ngram, FIELD_INT, "0", 0, 1 << 20,                                   \
                 "no run of so many tokens comes twice, 0 = off"),                                 \
        FIELD_IN(S, max_tokens, FIELD_INT, longest, 1, 1 << 24, "longest answer"),                 \
        FIELD(S, seed, FIELD_U64, "1", "an answer is a function of it and what it answers")
#define ANSWER_SAMPLING(c)                                                                         \
    (SamplingConfig) {                                                                             \
        .max_new_tokens = (c)->max_tokens, .temperature = (c)->greedy ? 0.0f : (c)->temperature,   \
        .top_k = (c)->top_k, .top_p = (c)->top_p, .min_p = (c)->min_p,                             \
        .repetition_penalty = (c)->repetition_penalty, .no_repeat_ngram = (c)->no_repeat_ngram     \
    }

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
