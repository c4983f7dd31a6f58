/* row_encode.c - see row_encode.h. */
#include "datasets/row_encode.h"

#include <string.h>

#include "datasets/dataset_parts.h"

/* A column that no row has: other shapes in the row do not count. */
#define NO_COLUMN "\x7f"

static Status render(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                     const Example *e, Ids *out) {
    Renderer r;
    renderer_init(&r, t, cfg);
    Status s = render_status(doc, render_prompt(&r, e));
    if (s == OK && e->answer[0]) s = render_status(doc, render_answer(&r, e->answer[0]));
    for (int i = 0; s == OK && i < r.ids.n; i++) ids_add(out, r.ids.v[i]);
    renderer_release(&r);
    return s;
}

/* row["prompt"] (string or messages) and row[key], which may be empty: so may a response be. */
static Status answer_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                            const char *key, Ids *out) {
    const Json *prompt = json_get(json_root(doc), "prompt"),
               *answer = json_get(json_root(doc), key);
    Arena arena = {0};
    Example e = {0};
    RowReader in = {.arena = &arena, .doc = doc};
    Status s;
    if (answer && json_type(answer) == JSON_STRING) {
        s = example_prompt(&e, &in, prompt);
        e.answer[0] = json_str(answer);
    } else {
        DataConfig named = *cfg;
        named.prompt_key = "prompt";
        named.completion_key = key;
        named.chosen_key = named.rejected_key = NO_COLUMN;
        s = example_read(&e, &in, &named, ROWS_PROMPTS);
    }
    if (s == OK && !e.answer[0]) s = json_fail(doc, prompt, "the row has no \"%s\"", key);
    if (s == OK) s = render(t, cfg, doc, &e, out);
    arena_release(&arena);
    return s;
}

/* row["messages"]: a conversation that ends with the assistant's message; without need_answer also
 * one that does not, as generation sees it. */
static Status conversation_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                                  int need_answer, Ids *out) {
    Arena arena = {0};
    Example e = {0};
    RowReader in = {.arena = &arena, .doc = doc};
    DataConfig named = *cfg;
    named.prompt_key = named.completion_key = named.chosen_key = named.rejected_key = NO_COLUMN;
    Status s = example_read(&e, &in, &named, ROWS_PROMPTS);
    if (s == OK && !e.answer[0] && need_answer)
        s = json_fail(doc, json_get(json_root(doc), "messages"),
                      "the conversation ends without an answer of the assistant");
    if (s == OK) s = render(t, cfg, doc, &e, out);
    arena_release(&arena);
    return s;
}

Status row_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc, int need_answer,
                  int flags, Ids *out) {
    static const char *const answers[] = {"completion", "response", "text"};
    const Json *row = json_root(doc), *prompt = json_get(row, "prompt");
    const char *text = NULL;
    for (int i = 0; prompt && i < 3; i++)
        if (json_get(row, answers[i])) return answer_encode(t, cfg, doc, answers[i], out);
    if (json_get(row, "messages")) return conversation_encode(t, cfg, doc, need_answer, out);
    if (prompt && need_answer)
        return json_fail(doc, prompt, "a prompt without a \"completion\" to score");
    if (prompt) return prompt_encode(t, cfg, doc, prompt, out, NULL);
    TRY(json_get_str(doc, row, "text", JSON_OPTIONAL, &text));
    if (text) return tokenizer_encode(t, text, strlen(text), flags, out);
    return json_fail(doc, NULL, "a row needs \"prompt\", \"messages\" or \"text\"%s",
                     need_answer ? ", and an answer" : "");
}
