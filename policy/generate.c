/* generate.c - answers to prompts: the rows of a file, or one prompt that is shown as it is
 * written. */
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "datasets/row_encode.h"
#include "datasets/stage.h"
#include "policy/answer_stream.h"
#include "policy/tool_model.h"
#include "policy/tools.h"

typedef struct {
    AnswerConfig answer;
    const char *prompt, *layout, *system;
    int ignore_eos, samples, rows, kv_mib, logp;
    StringList stop;
} GenerateConfig;

static const Field generate_fields[] = {
    FIELD(GenerateConfig, prompt, FIELD_STRING, "",
          "one prompt; its answer goes to standard output"),
    FIELD_OF(GenerateConfig, layout, "auto", "auto|plain|chatml",
             "how prompts and messages become text"),
    FIELD(GenerateConfig, system, FIELD_STRING, "", "system message for rows that have none"),
    ANSWER_FIELDS(GenerateConfig, "1", "1", "128"),
    FIELD(GenerateConfig, ignore_eos, FIELD_BOOL, "false", "go on after the end-of-sequence token"),
    FIELD(GenerateConfig, stop, FIELD_LIST, "", "texts that end an answer and are cut off"),
    FIELD_IN(GenerateConfig, samples, FIELD_INT, "1", 1, 1024,
             "answers for each row, one output row each with its number as \"sample\""),
    FIELD(GenerateConfig, logp, FIELD_BOOL, "false",
          "add \"logp\" of the answer's tokens under the distribution sampled from"),
    FIELD_IN(GenerateConfig, rows, FIELD_INT, "32", 1, 1 << 16, "answers decoded at once"),
    FIELD_IN(GenerateConfig, kv_mib, FIELD_INT, "1024", 1, 1 << 24,
             "MiB for cached keys and values"),
};

typedef struct {
    const GenerateConfig *cfg;
    DataConfig layout;
    SamplingConfig sampling;
    ToolModel m;
    RolloutEngine *engine;
    int engine_rows, max_length, max_requests;
    Rollout rollout;
    RolloutRequest *requests;
} Generator;

/* ------------------------------------------------ memory, by what the rows at hand need */

enum { REQUESTS = 256, DRAFT_TOKENS = 1 << 22 };

static void release_engine(Generator *g) {
    rollout_engine_release(g->engine);
    rollout_release(&g->rollout);
    memory_release(g->requests);
    g->engine = NULL;
    g->requests = NULL;
}

/* Room for `requests` answers of up to max_length tokens with their prompts. */
static Status prepare(Generator *g, int requests, int max_length, int longest_prompt) {
    const ModelConfig *cfg = &g->m.net.w.cfg;
    int rows = g->cfg->rows < requests ? g->cfg->rows : requests;
    int kv_mib = g->cfg->kv_mib;
    int scarce = kv_pages(g->m.b, cfg, rows, max_length, kv_mib) <
                 kv_pages(g->m.b, cfg, rows, max_length, 0);
    /* where pages can run out, an answer may have to be computed again from its beginning */
    int tokens = stage_micro_tokens(0, scarce ? max_length : longest_prompt);
    TRY(tool_model_room(&g->m, tokens < rows ? rows : tokens));
    if (g->engine && g->engine_rows >= rows && g->max_length >= max_length &&
        g->max_requests >= requests)
        return OK;
    if ((int64_t)requests * max_length > INT_MAX)
        return status_fail(E_USAGE, "--samples %d of up to %d tokens are too many at once",
                           g->cfg->samples, max_length);
    release_engine(g);
    g->engine_rows = rows;
    g->max_length = max_length;
    g->max_requests = requests;
    TRY(rollout_engine_create(&g->engine, g->m.b, cfg, g->m.t, rows, max_length, requests, kv_mib));
    TRY(rollout_create(&g->rollout, requests, requests * max_length));
    return memory_alloc((void **)&g->requests, (size_t)requests * sizeof *g->requests, "requests");
}

/* ------------------------------------------------ rows */

static Status generate_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    const Generator *g = ctx;
    const Json *row = json_root(doc), *prompt = json_get(row, "prompt");
    if (json_get(row, "ids")) return row_ids(doc, g->m.net.w.cfg.V, ids);
    if (!prompt) prompt = json_get(row, "messages");
    if (!prompt) return json_fail(doc, NULL, "a row needs \"ids\", \"prompt\" or \"messages\"");
    return prompt_encode(g->m.t, &g->layout, doc, prompt, ids, NULL);
}

static Status put_answer(Generator *g, Rows *r, int row, int s, int sample) {
    static const char *const own[] = {"completion", "completion_ids", "stop",
                                      "logp",       "sample",         NULL};
    const Rollout *q = &g->rollout;
    Text text = {0};
    Status status = rollout_text(q, s, g->m.t, &text);
    size_t n = q->stop[s] == STOP_STRING ? answer_before_stop(&text, &g->sampling.stop) : text.len;
    Text *line = rows_begin(r, row, own);
    json_put_key(line, "completion");
    json_put_string_n(line, text.s ? text.s : "", n);
    json_put_key(line, "completion_ids");
    json_put_ints(line, rollout_response(q, s), rollout_length(q, s));
    json_put_key(line, "stop");
    json_put_string(line, stop_names[q->stop[s]]);
    if (g->cfg->logp) {
        json_put_key(line, "logp");
        json_put_floats(line, q->logp + q->seq.starts[s] + q->n_prompt[s], rollout_length(q, s));
    }
    if (g->cfg->samples > 1) {
        json_put_key(line, "sample");
        json_put_number(line, sample);
    }
    if (status == OK) status = rows_put(r);
    text_release(&text);
    return status;
}

static Status answer_rows(Generator *g, Rows *r, int first, int last, int max_length, int longest) {
    int k = g->cfg->samples, n = (last - first) * k;
    TRY(prepare(g, n, max_length, longest));
    for (int i = 0; i < n; i++) {
        int row = first + i / k;
        uint64_t place = (uint64_t)(r->done + row) * (uint64_t)k + (uint64_t)(i % k);
        g->requests[i] = (RolloutRequest){rows_ids(r, row), rows_length(r, row), place};
    }
    TRY(rollout_generate(&g->rollout, g->engine, &g->m.net, g->requests, n, &g->sampling,
                         g->cfg->answer.seed, NULL, NULL));
    for (int i = 0; i < n; i++) TRY(put_answer(g, r, first + i / k, i, i % k));
    return OK;
}

static int capped_length(const Generator *g, int prompt) {
    int64_t n = (int64_t)prompt + g->cfg->answer.max_tokens, most = g->m.net.w.cfg.max_positions;
    return (int)(n < most ? n : most);
}

static Status generate_rows(void *ctx, Rows *r) {
    Generator *g = ctx;
    int longest = 0;
    for (int i = 0; i < r->n; i++)
        if (rows_length(r, i) > longest) longest = rows_length(r, i);
    int max_length = capped_length(g, longest);
    int requests = DRAFT_TOKENS / max_length < REQUESTS ? DRAFT_TOKENS / max_length : REQUESTS;
    int step = requests / g->cfg->samples > 1 ? requests / g->cfg->samples : 1;
    for (int first = 0, last; first < r->n; first = last) {
        last = r->n - first < step ? r->n : first + step;
        TRY(answer_rows(g, r, first, last, max_length, longest));
    }
    return OK;
}

/* ------------------------------------------------ one prompt, shown token by token */

static Status answer_one(Generator *g) {
    AnswerStream shown;
    Text row = {0};
    Ids ids = {0};
    JsonDoc *doc = NULL;
    answer_stream_begin(&shown, g->m.t, &g->sampling.stop);
    text_add(&row, "{\"prompt\":");
    json_put_string(&row, g->cfg->prompt);
    text_add(&row, "}");
    Status s = json_parse(&doc, "--prompt", 1, row.s, row.len, JSON_STRICT);
    if (s == OK) s = generate_ids(g, doc, &ids);
    int most = g->m.net.w.cfg.max_positions - 1;
    if (s == OK && ids.n > most)
        s = status_fail(E_USAGE, "--prompt has %d tokens, the model takes at most %d and an answer",
                        ids.n, most);
    if (s == OK) s = prepare(g, 1, capped_length(g, ids.n), ids.n);
    if (s == OK) {
        g->requests[0] = (RolloutRequest){ids.v, ids.n, 0};
        s = rollout_generate(&g->rollout, g->engine, &g->m.net, g->requests, 1, &g->sampling,
                             g->cfg->answer.seed, answer_stream_token, &shown);
    }
    if (s == OK) s = answer_stream_end(&shown, g->rollout.stop[0]);
    json_release(doc);
    ids_release(&ids);
    text_release(&row);
    answer_stream_release(&shown);
    return s;
}

/* ------------------------------------------------ the verb */

static Status generate(Generator *g, const ToolConfig *c) {
    const GenerateConfig *cfg = g->cfg;
    if (!cfg->prompt[0] == !c->data[0])
        return status_fail(E_USAGE,
                           "give a prompt (--prompt TEXT) or a file of them (--data FILE)");
    if (cfg->prompt[0] && cfg->samples > 1)
        return status_fail(E_USAGE, "--samples needs a file of prompts (--data FILE)");
    if (cfg->prompt[0] && strcmp(c->out, "-"))
        return status_fail(
            E_USAGE, "the answer to --prompt goes to standard output; --out needs --data FILE");
    g->layout = (DataConfig){.layout = cfg->layout, .system = cfg->system};
    g->sampling = answer_sampling(&cfg->answer);
    g->sampling.rows = cfg->rows;
    g->sampling.ignore_eos = cfg->ignore_eos;
    g->sampling.stop = cfg->stop;
    TRY(tool_model_open(&g->m, c, TOOL_LANGUAGE));
    if (cfg->prompt[0]) return answer_one(g);
    return rows_run(c->data, c->out, 1, g->m.net.w.cfg.max_positions - 1, generate_ids,
                    generate_rows, g);
}

Status generate_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf generate --model DIR (--prompt TEXT | --data F [--out F]): rows {\"prompt\"}, {\"messages\"} or\n"
        "{\"ids\"} gain completion, completion_ids (with the token that ended it) and stop (eos|length|string)";
    Arena arena = {0};
    ToolConfig c;
    GenerateConfig own;
    Section section = SECTION("", generate_fields, &own);
    Generator g = {.cfg = &own};
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) s = generate(&g, &c);
    release_engine(&g);
    tool_model_close(&g.m);
    arena_release(&arena);
    return s;
}
