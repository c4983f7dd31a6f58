/* row_encode.c - see row_encode.h. */
#include "datasets/row_encode.h"

#include "datasets/dataset_parts.h"

/* A column that no row has: other shapes in the row do not count. */
#define NO_COLUMN "\x7f"

static Status render(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                     const Example *e, Ids *out) {
    Renderer r;
    renderer_init(&r, t, cfg);
    Status s = render_status(doc, render_prompt(&r, e));
    if (s == OK) s = render_status(doc, render_answer(&r, e->answer[0]));
    for (int i = 0; s == OK && i < r.ids.n; i++) ids_add(out, r.ids.v[i]);
    renderer_release(&r);
    return s;
}

Status answer_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc, const char *key,
                     Ids *out) {
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

Status conversation_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                           Ids *out) {
    Arena arena = {0};
    Example e = {0};
    RowReader in = {.arena = &arena, .doc = doc};
    DataConfig named = *cfg;
    named.prompt_key = named.completion_key = named.chosen_key = named.rejected_key = NO_COLUMN;
    Status s = example_read(&e, &in, &named, ROWS_PROMPTS);
    if (s == OK && !e.answer[0])
        s = json_fail(doc, json_get(json_root(doc), "messages"),
                      "the conversation ends without an answer of the assistant");
    if (s == OK) s = render(t, cfg, doc, &e, out);
    arena_release(&arena);
    return s;
}
