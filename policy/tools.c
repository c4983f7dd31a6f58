/* tools.c - log-probabilities, scores and tokens of rows. policy/generate.c answers prompts. */
#include "policy/tools.h"

#include <limits.h>
#include <stddef.h>

#include "datasets/row_encode.h"
#include "policy/tool_model.h"

/* ------------------------------------------------ rows as the model sees them */

typedef struct {
    const char *layout, *system;
} RowLayout;
static const Field layout_fields[] = {
    FIELD_OF(RowLayout, layout, "auto", "auto|plain|chatml",
             "how prompts and messages become text"),
    FIELD(RowLayout, system, FIELD_STRING, "", "system message for rows that have none"),
};

typedef struct {
    ToolModel m;
    DataConfig layout;
    int need_answer, flags; /* of row_encode */
} RowTool;

static Status row_tool_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    const RowTool *k = ctx;
    if (json_get(json_root(doc), "ids")) return row_ids(doc, k->m.net.w.cfg.V, ids);
    return row_encode(k->m.t, &k->layout, doc, k->need_answer, k->flags, ids);
}

/* Runs a tool over rows that a model reads. */
static Status row_tool(RowTool *k, const char *usage, ToolNeed need, RowsWork work, int argc,
                       char **argv) {
    Arena arena = {0};
    ToolConfig c;
    RowLayout own;
    Section section = SECTION("", layout_fields, &own);
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) {
        k->layout = (DataConfig){.layout = own.layout, .system = own.system};
        s = tool_model_open(&k->m, &c, need);
        if (s == OK)
            s = rows_run(c.data, c.out, 1, k->m.net.w.cfg.max_positions, row_tool_ids, work, k);
    }
    tool_model_close(&k->m);
    arena_release(&arena);
    return s;
}

/* ------------------------------------------------ logprobs */

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
    ToolModel *m = &((RowTool *)ctx)->m;
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
        "rlhf logprobs --model DIR --data F [--out F]: rows {\"ids\"}, {\"prompt\"} with or without\n"
        "\"completion\", {\"messages\"} or {\"text\"} gain ids, logp and entropy in nats; logp[i] and entropy[i]\n"
        "concern ids[i+1]";
    RowTool k = {.flags = TOKENIZE_PARSE_SPECIAL};
    return row_tool(&k, usage, TOOL_LANGUAGE, logprobs_rows, argc, argv);
}

/* ------------------------------------------------ score */

static Status score_rows(void *ctx, Rows *r) {
    ToolModel *m = &((RowTool *)ctx)->m;
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
    RowTool k = {.need_answer = 1, .flags = TOKENIZE_PARSE_SPECIAL | TOKENIZE_ADD_SPECIAL};
    return row_tool(&k, usage, TOOL_SCORE, score_rows, argc, argv);
}

/* ------------------------------------------------ tokenize */

typedef struct {
    const char *layout, *system;
    int add_special, parse_special;
} TokenizeConfig;
static const Field tokenize_fields[] = {
    FIELD_OF(TokenizeConfig, layout, "auto", "auto|plain|chatml",
             "how prompts and messages become text"),
    FIELD(TokenizeConfig, system, FIELD_STRING, "", "system message for rows that have none"),
    FIELD(TokenizeConfig, parse_special, FIELD_BOOL, "true",
          "special tokens in the text become their ids"),
    FIELD(TokenizeConfig, add_special, FIELD_BOOL, "false",
          "add what the tokenizer's post-processor adds"),
};

static Status tokenize_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    const RowTool *k = ctx;
    return row_encode(k->m.t, &k->layout, doc, 0, k->flags, ids);
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
        "rlhf tokenize --model DIR --data F [--out F]: rows {\"prompt\"} with or without \"completion\",\n"
        "{\"messages\"} or {\"text\"} gain ids; DIR needs only a tokenizer";
    Arena arena = {0};
    ToolConfig c;
    TokenizeConfig own;
    Section section = SECTION("", tokenize_fields, &own);
    RowTool k = {0};
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) {
        k.layout = (DataConfig){.layout = own.layout, .system = own.system};
        k.flags = (own.parse_special ? TOKENIZE_PARSE_SPECIAL : 0) |
                  (own.add_special ? TOKENIZE_ADD_SPECIAL : 0);
        s = tool_model_open(&k.m, &c, TOOL_TOKENIZER);
        if (s == OK) s = rows_run(c.data, c.out, 0, INT_MAX, tokenize_ids, tokenize_rows, &k);
    }
    tool_model_close(&k.m);
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
