/* dataset_template.c - turns as text and ids by the model's own chat template.
 *
 * As with the other layouts ids are cut where an answer starts, as generation sees them, and an
 * answer ends with the first end-of-sequence token that the template writes behind it; when it
 * writes none, the tokenizer's is put there. Where a template marks what the assistant says, the
 * marks of a whole conversation are taken as they are. */
#include <string.h>
#include "datasets/dataset_parts.h"

static void put_message(Text *t, const char *role, const char *content, const Json *message) {
    text_add(t, t->len > 1 ? "," : "");
    if (message) {
        json_put_node(t, message);
        return;
    }
    text_addf(t, "{\"role\":\"%s\",\"content\":", role);
    json_put_string(t, content);
    text_add(t, "}");
}

static void put_turns(Renderer *r, const Example *e) {
    Text *t = &r->messages;
    const char *system = r->cfg->system;
    text_clear(t);
    text_add(t, "[");
    if (system && system[0] && !(e->n && e->turn[0].role == ROLE_SYSTEM))
        put_message(t, "system", system, NULL);
    for (int i = 0; i < e->n; i++)
        put_message(t, e->turn[i].role_name, e->turn[i].content, e->turn[i].message);
}

/* The messages, with an answer behind them when there is one; *why NULL: no spans are asked for. */
static Status render(Renderer *r, const char *answer, int generation_prompt, const char **why) {
    JsonDoc *doc = NULL;
    size_t n = r->messages.len;
    if (answer) put_message(&r->messages, "assistant", answer, NULL);
    text_add(&r->messages, "]");
    Status s = json_parse(&doc, "messages", 1, r->messages.s, r->messages.len, JSON_STRICT);
    if (s == OK && why)
        s = chat_template_render_marked(r->chat, json_root(doc), generation_prompt, &r->out, why);
    else if (s == OK)
        s = chat_template_render(r->chat, json_root(doc), -1, generation_prompt, &r->out);
    json_release(doc);
    r->messages.len = n;
    return s;
}

static Status encode(Renderer *r, size_t from, size_t to, int trained) {
    TRY(chat_encode(r->t, &r->out, from, to, &r->ids));
    renderer_mark(r, trained);
    return OK;
}

/* Takes the ids from `start` on for an answer: trained up to its end. 0 when it has no end. */
static int end_answer(Renderer *r, int start) {
    for (int i = start; i < r->ids.n; i++) {
        if (!tokenizer_is_eos(r->t, r->ids.v[i])) continue;
        memset(r->trained.s + i + 1, 0, (size_t)(r->ids.n - i - 1));
        return i + 1;
    }
    return 0;
}

/* Leaves out what stands behind the end of the last answer. */
static void cut_behind_answer(Renderer *r, int start) {
    int end = end_answer(r, start);
    if (!end) {
        ids_add(&r->ids, tokenizer_eos(r->t));
        renderer_mark(r, 1);
        return;
    }
    r->ids.n = end;
    r->trained.len = (size_t)end;
}

static void show(Renderer *r) {
    text_clear(&r->text);
    text_add_bytes(&r->text, r->out.text.s ? r->out.text.s : "", r->out.text.len);
}

Status template_prompt(Renderer *r, const Example *e) {
    put_turns(r, e);
    TRY(render(r, NULL, 1, NULL));
    TRY(encode(r, 0, r->out.text.len, 0));
    show(r);
    r->n_prompt = r->ids.n;
    r->prompt_text = r->text.len;
    return OK;
}

Status template_answer(Renderer *r, const char *answer) {
    TRY(render(r, answer, 0, NULL));
    size_t n = r->prompt_text;
    r->differs = r->out.text.len < n || (n && memcmp(r->out.text.s, r->text.s, n));
    if (r->differs)
        return status_fail(E_FORMAT, "the chat template writes a conversation with its answer "
                                     "differently from the prompt before it");
    TRY(encode(r, n, r->out.text.len, 1));
    cut_behind_answer(r, r->n_prompt);
    show(r);
    return OK;
}

static Status encode_answers(Renderer *r) {
    const JinjaOutput *out = &r->out;
    int marked = chat_template_has_marks(r->chat), start = 0;
    size_t at = 0;
    for (int i = 0; i < out->n_marks; i++) {
        JinjaSpan span = out->marks[i];
        if (span.from < at) return status_fail(E_FORMAT, "the chat template's answers overlap");
        TRY(encode(r, at, span.from, 0));
        start = r->ids.n;
        if (r->n_prompt < 0) {
            r->n_prompt = start;
            r->prompt_text = span.from;
        }
        TRY(encode(r, span.from, span.to, 1));
        if (!marked) end_answer(r, start);
        at = span.to;
    }
    if (!marked) cut_behind_answer(r, start);
    return OK;
}

Status template_all(Renderer *r, const Example *e, const char **first) {
    const char *why;
    put_turns(r, e);
    TRY(render(r, NULL, 0, &why));
    if (why) return status_fail(E_FORMAT, "%s", why);
    if (!r->out.n_marks)
        return status_fail(E_FORMAT, "the chat template writes nothing that the assistant says");
    TRY(encode_answers(r));
    show(r);
    for (int i = e->n - 1; i >= 0; i--)
        if (e->turn[i].role == ROLE_ASSISTANT) *first = e->turn[i].content;
    if (r->n_prompt < 1) r->n_prompt = 1; /* nothing predicts the first token */
    if (r->trained.len) r->trained.s[0] = 0;
    return OK;
}
