/* policy_samples.c - see policy_samples.h. */
#include "reward/policy_samples.h"

#include <stdio.h>
#include <string.h>

#include "core/base/json_check.h"
#include "datasets/world.h"

/* Model text for TensorBoard's Markdown: a block of code, in which nothing is rendered; bytes that
 * are no UTF-8 become U+FFFD. */
static void put_quoted(Text *t, const char *heading, const char *text, size_t n) {
    const char *end = text + n;
    text_addf(t, "%s\n\n    ", heading);
    while (text < end) {
        size_t k = utf8_length(text, end);
        if (*text == '\n')
            text_add(t, "\n    ");
        else if (k)
            text_add_bytes(t, text, k);
        else
            text_add(t, "\xEF\xBF\xBD");
        text += k ? k : 1;
    }
    text_add(t, "\n\n");
}

static void log_text(const PolicyEval *e, Run *run, int step, int s, const Text *reply) {
    char tag[32];
    Text t = {0};
    const char *prompt = e->rows[s]->prompt;
    snprintf(tag, sizeof tag, "samples/%d", s);
    put_quoted(&t, "prompt", prompt, strlen(prompt));
    put_quoted(&t, "answer", reply->s ? reply->s : "", reply->len);
    run_text(run, step, tag, t.s, t.len);
    text_release(&t);
}

static void put_parts(Text *row, const Gold *g) {
    json_put_key(row, "parts");
    text_add(row, "{");
    for (int i = 0; i < WORLD_PARTS; i++) {
        json_put_key(row, world_part_names[i]);
        json_put_number(row, g->part[i] + 0.0); /* no -0 */
    }
    text_add(row, "}");
}

/* The text of each token; end to end they are the answer with its EOS. */
static Status put_pieces(Text *row, const PolicyEval *e, const Answers *a, int s) {
    TokenizerStream at = {0};
    Text piece = {0};
    Status status = OK;
    json_put_key(row, "text");
    text_add(row, "[");
    for (int i = 0; status == OK && i < rollout_length(&a->rollout, s); i++) {
        text_clear(&piece);
        status = tokenizer_decode_next(e->tokenizer, &at, rollout_response(&a->rollout, s) + i, 1,
                                       1, &piece);
        if (i) text_add(row, ",");
        json_put_string_n(row, piece.s ? piece.s : "", piece.len);
    }
    text_add(row, "]");
    text_release(&piece);
    return status;
}

static void put_kl(Text *row, const Answers *a, int first, int n) {
    json_put_key(row, "kl");
    text_add(row, "[");
    for (int i = first; i < first + n; i++) {
        if (i > first) text_add(row, ",");
        json_put_float(row, a->rollout.logp[i] - a->logp_ref[i]);
    }
    text_add(row, "]");
}

static Status put_tokens(Text *row, const PolicyEval *e, const Answers *a, const PolicyModels *m,
                         int s) {
    int n = rollout_length(&a->rollout, s), first = a->rollout.seq.starts[s + 1] - n;
    json_put_key(row, "tokens");
    text_add(row, "{");
    TRY(put_pieces(row, e, a, s));
    json_put_key(row, "logp");
    json_put_floats(row, a->rollout.logp + first, n);
    if (m->reference) put_kl(row, a, first, n);
    if (m->critic) { /* of the state in which the token was chosen */
        json_put_key(row, "value");
        json_put_floats(row, e->value + first - 1, n);
    }
    text_add(row, "}");
    return OK;
}

static void put_number(Text *row, const char *key, double v) {
    json_put_key(row, key);
    json_put_number(row, v);
}

static Status put_row(Text *row, const PolicyEval *e, const Answers *a, const PolicyModels *m,
                      const char *mode, int step, int s, const Text *reply) {
    const Row *prompt = e->rows[s];
    const char *completion = reply->s ? reply->s : "";
    StopReason stop = a->rollout.stop[s];
    text_add(row, "{");
    put_number(row, "step", step);
    json_put_key(row, "mode");
    json_put_string(row, mode);
    put_number(row, "prompt_id", prompt->line);
    json_put_key(row, "prompt");
    json_put_string(row, prompt->prompt);
    json_put_key(row, "completion");
    json_put_string_n(row, completion, reply->len);
    if (m->judge) put_number(row, "score", a->score[s]);
    if (e->has_gold) {
        Gold g;
        put_number(row, "gold", a->gold[s]);
        TRY(world_gold(&g, prompt->prompt, completion, stop == STOP_EOS));
        put_parts(row, &g);
    }
    if (m->reference) put_number(row, "kl", answer_kl(a, s));
    put_number(row, "length", rollout_length(&a->rollout, s));
    json_put_key(row, "stop");
    json_put_string(row, stop_names[stop]);
    TRY(put_tokens(row, e, a, m, s));
    text_add(row, "}");
    return OK;
}

static Status write_sample(const PolicyEval *e, const Answers *a, const PolicyModels *m,
                           const char *mode, Run *run, int step, int s) {
    Text row = {0}, reply = {0};
    Status status = rollout_text(&a->rollout, s, e->tokenizer, &reply);
    if (status == OK) status = put_row(&row, e, a, m, mode, step, s, &reply);
    if (status == OK) status = run_sample(run, row.s);
    if (status == OK && a == &e->sampled) log_text(e, run, step, s, &reply);
    text_release(&row);
    text_release(&reply);
    return status;
}

Status policy_samples_write(PolicyEval *e, Answers *a, const char *mode, const PolicyModels *m,
                            Run *run, int step) {
    Packed first = a->rollout.seq; /* a view of the sequences that are written */
    first.S = e->greedy.rollout.seq.max_S;
    first.N = first.starts[first.S];
    if (m->critic)
        TRY(packed_forward(&first, m->critic, e->micro_tokens, 1.0f,
                           &(TokenOutputs){.score = e->value}));
    for (int s = 0; s < first.S; s++) TRY(write_sample(e, a, m, mode, run, step, s));
    return OK;
}
