/* tools.c - log-probabilities, scores and tokens of rows. policy/generate.c answers prompts. */
#include "policy/tools.h"

#include <limits.h>
#include <stddef.h>

#include "datasets/row_encode.h"
#include "policy/tool_model.h"

/* ------------------------------------------------ logprobs */

static Status logprobs_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    const ToolModel *m = ctx;
    if (json_get(json_root(doc), "ids")) return row_ids(doc, m->net.w.cfg.V, ids);
    if (json_get(json_root(doc), "text")) return row_text(doc, m->t, TOKENIZE_PARSE_SPECIAL, ids);
    return json_fail(doc, NULL, "a row needs \"text\" or \"ids\"");
}

static Status put_logprobs(ToolModel *m, Rows *r, int row, int start) {
    int n = rows_length(r, row);
    Text *line = rows_begin(r, row, (const char *[]){"ids", "logp", "entropy", NULL});
    json_put_key(line, "ids");
    json_put_ints(line, rows_ids(r, row), n);
    json_put_key(line, "logp");
    json_put_floats(line, m->out[0] + start + 1, n - 1);
    json_put_key(line, "entropy");
    json_put_floats(line, m->out[1] + start + 1, n - 1);
    return rows_put(r);
}

static Status logprobs_rows(void *ctx, Rows *r) {
    ToolModel *m = ctx;
    for (int first = 0, last; first < r->n; first = last) {
        TRY(tool_model_take(m, r, first, 1, &last));
        TokenOutputs out = {.logp = m->out[0], .entropy = m->out[1]};
        TRY(packed_forward(&m->batch, &m->net, m->tokens, 1.0f, &out));
        for (int i = first; i < last; i++) TRY(put_logprobs(m, r, i, m->batch.starts[i - first]));
    }
    return OK;
}

Status logprobs_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf logprobs --model DIR --data F [--out F]: rows {\"text\"} or {\"ids\"} gain ids, logp and\n"
        "entropy in nats; logp[i] and entropy[i] concern ids[i+1]";
    Arena arena = {0};
    ToolConfig c;
    ToolModel m = {0};
    int go;
    Status s = tool_settings(&arena, &c, NULL, usage, argc, argv, &go);
    if (s == OK && go) {
        s = tool_model_open(&m, &c, TOOL_LANGUAGE);
        if (s == OK)
            s = rows_run(c.data, c.out, 1, m.net.w.cfg.max_positions, logprobs_ids, logprobs_rows,
                         &m);
    }
    tool_model_close(&m);
    arena_release(&arena);
    return s;
}

/* ------------------------------------------------ score */

typedef struct {
    const char *layout, *system;
} ScoreConfig;
static const Field score_fields[] = {
    FIELD_OF(ScoreConfig, layout, "auto", "auto|plain|chatml",
             "how prompts and messages become text"),
    FIELD(ScoreConfig, system, FIELD_STRING, "", "system message for rows that have none"),
};

typedef struct {
    ToolModel m;
    DataConfig layout;
} Scorer;

static Status score_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    static const char *const answers[] = {"completion", "response", "text"};
    const Scorer *s = ctx;
    const Json *row = json_root(doc);
    int has_prompt = json_get(row, "prompt") != NULL;
    if (json_get(row, "ids")) return row_ids(doc, s->m.net.w.cfg.V, ids);
    for (int i = 0; has_prompt && i < 3; i++)
        if (json_get(row, answers[i]))
            return answer_encode(s->m.t, &s->layout, doc, answers[i], ids);
    if (json_get(row, "messages")) return conversation_encode(s->m.t, &s->layout, doc, ids);
    if (has_prompt)
        return json_fail(doc, json_get(row, "prompt"),
                         "a prompt without a \"completion\" to score");
    if (json_get(row, "text"))
        return row_text(doc, s->m.t, TOKENIZE_PARSE_SPECIAL | TOKENIZE_ADD_SPECIAL, ids);
    return json_fail(
        doc, NULL, "a row needs \"ids\", \"prompt\" and \"completion\", \"messages\" or \"text\"");
}

static Status score_rows(void *ctx, Rows *r) {
    ToolModel *m = &((Scorer *)ctx)->m;
    for (int first = 0, last; first < r->n; first = last) {
        TRY(tool_model_take(m, r, first, 0, &last));
        TRY(packed_forward(&m->batch, &m->net, m->tokens, 1.0f,
                           &(TokenOutputs){.score = m->out[0]}));
        for (int i = first; i < last; i++) {
            Text *line = rows_begin(r, i, (const char *[]){"score", NULL});
            json_put_key(line, "score");
            json_put_float(line, m->out[0][m->batch.starts[i - first + 1] - 1]);
            TRY(rows_put(r));
        }
    }
    return OK;
}

Status score_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf score --model DIR --data F [--out F]: rows gain score. Scored is the first of ids; prompt with\n"
        "completion (or response, or text); messages; text alone";
    Arena arena = {0};
    ToolConfig c;
    ScoreConfig own;
    Section section = SECTION("", score_fields, &own);
    Scorer k = {0};
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) {
        k.layout = (DataConfig){.layout = own.layout, .system = own.system};
        s = tool_model_open(&k.m, &c, TOOL_SCORE);
        if (s == OK)
            s = rows_run(c.data, c.out, 1, k.m.net.w.cfg.max_positions, score_ids, score_rows, &k);
    }
    tool_model_close(&k.m);
    arena_release(&arena);
    return s;
}

/* ------------------------------------------------ tokenize */

typedef struct {
    int add_special, parse_special;
} TokenizeConfig;
static const Field tokenize_fields[] = {
    FIELD(TokenizeConfig, parse_special, FIELD_BOOL, "true",
          "special tokens in the text become their ids"),
    FIELD(TokenizeConfig, add_special, FIELD_BOOL, "false",
          "add what the tokenizer's post-processor adds"),
};

typedef struct {
    const Tokenizer *t;
    int flags;
} TokenizeRow;

static Status tokenize_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    const TokenizeRow *k = ctx;
    return row_text(doc, k->t, k->flags, ids);
}

static Status tokenize_rows(void *ctx, Rows *r) {
    (void)ctx;
    for (int i = 0; i < r->n; i++) {
        Text *line = rows_begin(r, i, (const char *[]){"ids", NULL});
        json_put_key(line, "ids");
        json_put_ints(line, rows_ids(r, i), rows_length(r, i));
        TRY(rows_put(r));
    }
    return OK;
}

Status tokenize_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf tokenize --model DIR --data F [--out F]: rows {\"text\"} gain ids; DIR needs only a tokenizer";
    Arena arena = {0};
    ToolConfig c;
    TokenizeConfig own;
    Section section = SECTION("", tokenize_fields, &own);
    ToolModel m = {0};
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) {
        s = tool_model_open(&m, &c, TOOL_TOKENIZER);
        TokenizeRow k = {m.t, (own.parse_special ? TOKENIZE_PARSE_SPECIAL : 0) |
                                  (own.add_special ? TOKENIZE_ADD_SPECIAL : 0)};
        if (s == OK) s = rows_run(c.data, c.out, 0, INT_MAX, tokenize_ids, tokenize_rows, &k);
    }
    tool_model_close(&m);
    arena_release(&arena);
    return s;
}

/* ------------------------------------------------ detokenize */

typedef struct {
    int skip_special;
} DetokenizeConfig;
static const Field detokenize_fields[] = {
    FIELD(DetokenizeConfig, skip_special, FIELD_BOOL, "false", "leave special tokens out"),
};

typedef struct {
    const Tokenizer *t;
    int keep_special;
    Text text;
} Detokenizer;

static Status detokenize_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    const Detokenizer *d = ctx;
    return row_ids(doc, tokenizer_vocab_size(d->t), ids);
}

static Status put_text(Detokenizer *d, Rows *r, int row) {
    text_clear(&d->text);
    Status s =
        tokenizer_decode(d->t, rows_ids(r, row), rows_length(r, row), d->keep_special, &d->text);
    if (s != OK) return status_context(s, "%s", json_name(r->doc[row]));
    Text *line = rows_begin(r, row, (const char *[]){"text", NULL});
    json_put_key(line, "text");
    json_put_string_n(line, d->text.s ? d->text.s : "", d->text.len);
    return rows_put(r);
}

static Status detokenize_rows(void *ctx, Rows *r) {
    for (int i = 0; i < r->n; i++) TRY(put_text(ctx, r, i));
    return OK;
}

Status detokenize_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf detokenize --model DIR --data F [--out F]: rows {\"ids\"} gain text; DIR needs only a tokenizer.\n"
        "Bytes that are not UTF-8 become U+FFFD";
    Arena arena = {0};
    ToolConfig c;
    DetokenizeConfig own;
    Section section = SECTION("", detokenize_fields, &own);
    ToolModel m = {0};
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) {
        s = tool_model_open(&m, &c, TOOL_TOKENIZER);
        Detokenizer d = {.t = m.t, .keep_special = !own.skip_special};
        if (s == OK) s = rows_run(c.data, c.out, 0, INT_MAX, detokenize_ids, detokenize_rows, &d);
        text_release(&d.text);
    }
    tool_model_close(&m);
    arena_release(&arena);
    return s;
}
