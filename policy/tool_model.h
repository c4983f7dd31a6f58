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

typedef struct { /* how a tool's answers are drawn */
    int greedy, top_k, max_tokens, no_repeat_ngram;
    float temperature, top_p, min_p, repetition_penalty;
    uint64_t seed;
} AnswerConfig;
/* Rows for the table of a tool whose settings S hold an AnswerConfig as their member `answer`. */
#define ANSWER_FIELDS(S, temperature_default, top_p_default, longest)                              \
    PART_FIELD(S, answer, greedy, FIELD_BOOL, "false", "always take the likeliest token"),         \
        PART_FIELD_IN(S, answer, temperature, FIELD_FLOAT, temperature_default, 0, 100,            \
                      "divides the logits; 0 = greedy"),                                           \
        PART_FIELD_IN(S, answer, top_k, FIELD_INT, "0", 0, 1 << 24,                                \
                      "sample from the k likeliest tokens, 0 = all"),                              \
        PART_FIELD_IN(S, answer, top_p, FIELD_FLOAT, top_p_default, 0.01, 1,                       \
                      "sample from the likeliest tokens of this mass"),                            \
        PART_FIELD_IN(S, answer, min_p, FIELD_FLOAT, "0", 0, 1,                                    \
                      "sample from tokens with this share of the likeliest one's probability, "    \
                      "0 = all"),                                                                  \
        PART_FIELD_IN(S, answer, repetition_penalty, FIELD_FLOAT, "1", 0.01, 100,                  \
                      "divides the logits of what prompt and answer hold, 1 = off"),               \
        PART_FIELD_IN(S, answer, no_repeat_ngram, FIELD_INT, "0", 0, 1 << 20,                      \
                      "no run of so many tokens comes twice, 0 = off"),                            \
        PART_FIELD_IN(S, answer, max_tokens, FIELD_INT, longest, 1, 1 << 24, "longest answer"),    \
        PART_FIELD(S, answer, seed, FIELD_U64, "1",                                                \
                   "an answer is a function of it and what it answers")
/* As the rollout engine takes them; greedy is temperature 0. */
SamplingConfig answer_sampling(const AnswerConfig *c);

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
