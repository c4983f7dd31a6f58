/* held_out.c - see held_out.h. */
#include "reward/held_out.h"

enum { SAMPLES = 8 }; /* answers written down at each evaluation */

Status held_out_open(HeldOut *h, const HeldOutConfig *cfg, const Stage *stage, const Tokenizer *t) {
    DataConfig prompts = stage->data;
    *h = (HeldOut){0};
    if (!cfg->prompts[0]) return OK;
    prompts.max_prompt_length = prompts.max_length - cfg->max_new_tokens;
    prompts.limit = prompts.eval_limit;
    if (prompts.max_prompt_length < 1)
        return status_fail(E_USAGE, "%s.max_new_tokens %d leaves no room for prompts", stage->verb,
                           cfg->max_new_tokens);
    return dataset_open(&h->prompts, &prompts, cfg->prompts, ROWS_PROMPTS, t);
}

int held_out_rows(const HeldOut *h, const HeldOutConfig *cfg) {
    return cfg->rows < h->prompts.n ? cfg->rows : h->prompts.n;
}

void held_out_plan(Plan *memory, const HeldOut *h, const HeldOutConfig *cfg, const Stage *stage,
                   Backend *b, const ModelConfig *m) {
    int rows = held_out_rows(h, cfg);
    if (rows)
        plan_add(memory, rollout_engine_bytes(b, m, rows, stage->data.max_length, 0),
                 "KV cache (%d rows)", rows);
}

Status held_out_create(HeldOut *h, const HeldOutConfig *cfg, const Stage *stage, const Tokenizer *t,
                       Backend *b, const ModelConfig *m, int micro_tokens) {
    int length = stage->data.max_length;
    if (!h->prompts.n) return OK;
    SamplingConfig sampling = {.max_new_tokens = cfg->max_new_tokens,
                               .temperature = cfg->temperature,
                               .top_p = 1.0f,
                               .rows = cfg->rows};
    TRY(rollout_engine_create(&h->engine, b, m, t, held_out_rows(h, cfg), length, h->prompts.n, 0));
    return policy_eval_create(&h->eval, &h->prompts, SAMPLES, t, h->engine, &sampling, length,
                              micro_tokens, stage->run.seed);
}

void held_out_release(HeldOut *h) {
    policy_eval_release(&h->eval);
    rollout_engine_release(h->engine);
    dataset_release(&h->prompts);
    *h = (HeldOut){0};
}
