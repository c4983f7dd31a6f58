/* held_out.h - held-out prompts that a trainer without rollouts of its own (sft, dpo) has its model
 * answer before the first step and at each evaluation; answers and figures go to samples.jsonl. */
#ifndef HELD_OUT_H
#define HELD_OUT_H

#include "datasets/stage.h"
#include "reward/policy_eval.h"

typedef struct {
    const char *prompts; /* "" none */
    int max_new_tokens, rows;
    float temperature;
} HeldOutConfig;
/* Rows for the table of a trainer whose settings S hold a HeldOutConfig as their member
 * `held_out`. */
#define HELD_OUT_FIELDS(S)                                                                         \
    PART_FIELD(S, held_out, prompts, FIELD_STRING, "",                                             \
               "held-out prompts to answer before and after training"),                            \
        PART_FIELD_IN(S, held_out, max_new_tokens, FIELD_INT, "64", 1, 1 << 20,                    \
                      "longest of those answers"),                                                 \
        PART_FIELD_IN(S, held_out, rows, FIELD_INT, "64", 1, 1 << 16, "answers decoded at once"),  \
        PART_FIELD_IN(S, held_out, temperature, FIELD_FLOAT, "0.7", 0, 100,                        \
                      "of those answers, 0 = greedy")

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
