/* judge.c - see judge.h. */
#include "reward/judge.h"

#include "datasets/world.h"

Status judge_gold(const Rollout *r, const Row *const *rows, const Tokenizer *t, float *score) {
    Text reply = {0};
    Status status = OK;
    for (int s = 0; s < r->seq.S && status == OK; s++) {
        Gold g;
        text_clear(&reply);
        status = rollout_text(r, s, t, &reply);
        if (status == OK)
            status =
                world_gold(&g, rows[s]->prompt, reply.s ? reply.s : "", r->stop[s] == STOP_EOS);
        if (status == OK) score[s] = (float)g.total;
    }
    text_release(&reply);
    return status;
}

Status judge_score(Judge *j, Rollout *r, const Row *const *rows, const Tokenizer *t, float *score) {
    if (!j->net) return judge_gold(r, rows, t, score);
    TRY(packed_forward(&r->seq, j->net, j->micro_tokens, 1.0f, &(TokenOutputs){.score = j->score}));
    for (int s = 0; s < r->seq.S; s++) score[s] = j->score[r->seq.starts[s + 1] - 1];
    return OK;
}
