/* ppo_dump.c - rollouts as rows of rollouts.jsonl. */
#include "ppo/ppo_inside.h"

static void put_ids(Text *row, const char *key, const int *ids, int n) {
    json_put_key(row, key);
    json_put_ints(row, ids, n);
}

static void put_floats(Text *row, const char *key, const float *v, int n) {
    json_put_key(row, key);
    json_put_floats(row, v, n);
}

/* Entry i of every array concerns token i of the response: values and advantages are those of the
 * state in which it was chosen. */
static Status put_response(Text *row, const Ppo *p, int s) {
    const Rollout *r = &p->rollout;
    int n = rollout_length(r, s), start = r->seq.starts[s], first = start + r->n_prompt[s];
    Text reply = {0};
    Status status = rollout_text(r, s, p->tokenizer, &reply);
    text_addf(row, "{\"step\":%d", p->state.step + 1);
    json_put_key(row, "prompt");
    json_put_string(row, p->rows[s]->prompt);
    json_put_key(row, "completion");
    json_put_string_n(row, reply.s ? reply.s : "", reply.len);
    json_put_key(row, "score");
    json_put_float(row, p->raw_score[s]);
    json_put_key(row, "stop");
    json_put_string(row, stop_names[r->stop[s]]);
    put_ids(row, "ids", r->seq.ids + start, r->n_prompt[s]);
    put_ids(row, "completion_ids", r->seq.ids + first, n);
    put_floats(row, "logp", r->logp + first, n);
    put_floats(row, "ref_logp", p->logp_ref + first, n);
    put_floats(row, "values", p->value + first - 1, n);
    put_floats(row, "advantages", p->adv + first - 1, n);
    text_add(row, "}");
    text_release(&reply);
    return status;
}

Status ppo_dump(const Ppo *p) {
    Text row = {0};
    Status status = OK;
    if (!p->stage->run.dump_rollouts) return OK;
    for (int s = 0; status == OK && s < p->S; s++) {
        text_clear(&row);
        status = put_response(&row, p, s);
        if (status == OK) status = run_rollout(p->session.run, row.s);
    }
    text_release(&row);
    return status;
}
