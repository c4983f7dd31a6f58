/* held_out.h - held-out prompts that a trainer of texts or pairs (sft, dpo) answers before it
 * begins and at each evaluation: into samples.jsonl, with what is thought of the answers. */
#ifndef HELD_OUT_H
#define HELD_OUT_H

#include "datasets/stage.h"
#include "reward/policy_eval.h"

/* Their settings, shared by the tables of the trainers that have them. */
#define HELD_OUT_MEMBERS                                                                           \
    const char *prompts; /* "" none */                                                             \
    int max_new_tokens, rows;                                                                      \
    float temperature
#define HELD_OUT_FIELDS(S)                                                                         \
    FIELD(S, prompts, FIELD_STRING, "", "held-out prompts to answer before and after training"),   \
        FIELD_IN(S, max_new_tokens, FIELD_INT, "64", 1, 1 << 20, "longest of those answers"),      \
        FIELD_IN(S, rows, FIELD_INT, "64", 1, 1 << 16, "answers decoded at once"),                 \
        FIELD_IN(S, temperature, FIELD_FLOAT, "0.7", 0, 100, "of those answers, 0 = greedy")

typedef struct {
    HELD_OUT_MEMBERS;
} HeldOutConfig;
#define HELD_OUT_CONFIG(c)                                                                         \
    ((HeldOutConfig){.prompts = (c)->prompts,                                                      \
                     .max_new_tokens = (c)->max_new_tokens,                                        \
                     .rows = (c)->rows,                                                            \
                     .temperature = (c)->temperature})

typedef struct {
    Dataset prompts; /* n = 0 without */
    RolloutEngine *engine;
    PolicyEval eval;
} HeldOut;

/* Reads the prompts, at most data.eval_limit; nothing where the settings name none. */
Status held_out_open(HeldOut *h, const HeldOutConfig *cfg, const Stage *stage, const Tokenizer *t);
/* The decoder's cache in the memory plan, and the rows that the workspace must hold. */
void held_out_plan(Plan *memory, const HeldOut *h, const HeldOutConfig *cfg, const Stage *stage,
                   Backend *b, const ModelConfig *m);
int held_out_rows(const HeldOut *h, const HeldOutConfig *cfg);
Status held_out_create(HeldOut *h, const HeldOutConfig *cfg, const Stage *stage, const Tokenizer *t,
                       Backend *b, const ModelConfig *m, int micro_tokens);
void held_out_release(HeldOut *h);

#endif
