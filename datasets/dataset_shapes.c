/* dataset_shapes.c - the field's shapes of a row, found by their keys, as turns and answers. */
#include <math.h>
#include <string.h>
#include "datasets/dataset_parts.h"

static int is_type(const Json *n, JsonType type) {
    return n && json_type(n) == type;
}

static const char *column(const char *mapped, const char *usual) {
    return mapped && mapped[0] ? mapped : usual;
}

/* Nothing but white space (ASCII) counts as empty. */
static int is_empty(const char *s) {
    return s[strspn(s, " \t\r\n")] == 0;
}

/* What the sentence that follows is about. */
static const JsonDoc *fault(RowReader *in, RowFault f) {
    in->fault = f;
    return in->doc;
}

/* ---- lists of messages ---- */

static Status read_role(RowReader *in, const Json *message, Turn *t) {
    static const char *const names[] = {"system", "user", "assistant"};
    if (!is_type(message, JSON_OBJECT))
        return json_fail(in->doc, message, "a message must be an object with role and content");
    TRY(json_get_str(in->doc, message, "role", JSON_REQUIRED, &t->role_name));
    if (!t->role_name[0]) return json_fail(in->doc, json_get(message, "role"), "an empty role");
    t->role = ROLE_OTHER;
    for (int i = 0; i < 3; i++)
        if (!strcmp(t->role_name, names[i])) t->role = (Role)i;
    return OK;
}

/* [{"type":"text","text":...}, ...]: the texts end to end. */
static Status read_parts(RowReader *in, const Json *list, const char **content) {
    Text all = {0};
    Status s = OK;
    for (const Json *part = json_first(list); part && s == OK; part = json_next(part)) {
        const char *type = "", *text = "";
        if (!is_type(part, JSON_OBJECT))
            s = json_fail(in->doc, part, "a part of a content must be an object");
        if (s == OK) s = json_get_str(in->doc, part, "type", JSON_REQUIRED, &type);
        if (s == OK && strcmp(type, "text"))
            s = json_fail(in->doc, json_get(part, "type"),
                          "content of type \"%.60s\" is not supported (text is)", type);
        if (s == OK) s = json_get_str(in->doc, part, "text", JSON_REQUIRED, &text);
        if (s == OK) text_add(&all, text);
    }
    *content = arena_strndup(in->arena, all.s ? all.s : "", all.len);
    text_release(&all);
    return s;
}

/* A message that calls tools, or of a role that only the template knows, needs no content. */
static Status read_content(RowReader *in, const Json *message, Turn *t) {
    const Json *content = json_get(message, "content");
    int optional = t->role == ROLE_OTHER || turn_calls_tools(t);
    t->content = "";
    if (optional && (!content || is_type(content, JSON_NULL))) return OK;
    if (is_type(content, JSON_ARRAY))
        TRY(read_parts(in, content, &t->content));
    else
        TRY(json_get_str(in->doc, message, "content", JSON_REQUIRED, &t->content));
    if (!optional && t->role != ROLE_SYSTEM && is_empty(t->content))
        return json_fail(fault(in, FAULT_EMPTY), message, "an empty message");
    return OK;
}

static Status read_turns(Turn **turns, int *n, RowReader *in, const Json *list) {
    *n = 0;
    if (!is_type(list, JSON_ARRAY)) return json_fail(in->doc, list, "expected a list of messages");
    *turns = arena_alloc(in->arena, (size_t)json_size(list) * sizeof(**turns));
    for (const Json *m = json_first(list); m; m = json_next(m)) {
        Turn *t = &(*turns)[*n];
        t->message = m;
        TRY(read_role(in, m, t));
        TRY(read_content(in, m, t));
        if (t->role == ROLE_SYSTEM && *n > 0)
            return json_fail(in->doc, m, "a system message may only come first");
        ++*n;
    }
    return *n ? OK
              : json_fail(fault(in, FAULT_EMPTY), list, "a list of messages without a message");
}

int turn_calls_tools(const Turn *t) {
    const Json *calls = t->message ? json_get(t->message, "tool_calls") : NULL;
    return calls && json_type(calls) != JSON_NULL && json_size(calls) > 0;
}

static int same_turn(const Turn *a, const Turn *b) {
    return !strcmp(a->role_name, b->role_name) && !strcmp(a->content, b->content);
}

/* An answer follows what the user, or a tool, said. */
static int asks(const Turn *last) {
    return last->role == ROLE_USER || last->role == ROLE_OTHER;
}

static int has_user(const Turn *turns, int n) {
    for (int i = 0; i < n; i++)
        if (turns[i].role == ROLE_USER) return 1;
    return 0;
}

static Status set_string(Example *e, RowReader *in, const Json *n) {
    const char *s = json_str(n);
    if (is_empty(s)) return json_fail(fault(in, FAULT_EMPTY), n, "an empty prompt");
    e->turn = arena_alloc(in->arena, sizeof(*e->turn));
    e->turn[0] = (Turn){ROLE_USER, "user", s, NULL};
    e->n = 1;
    return OK;
}

Status example_prompt(Example *e, RowReader *in, const Json *prompt) {
    if (is_type(prompt, JSON_STRING)) return set_string(e, in, prompt);
    if (!is_type(prompt, JSON_ARRAY))
        return json_fail(in->doc, prompt, "a prompt must be a string or a list of messages");
    TRY(read_turns(&e->turn, &e->n, in, prompt));
    e->is_chat = 1;
    if (!asks(&e->turn[e->n - 1]))
        return json_fail(in->doc, prompt, "a prompt must end with a message of the user or a tool");
    return OK;
}

/* ---- answers ---- */

typedef struct { /* an answer and, when it was a list, the turns before it */
    const char *text;
    Turn *turn;
    int n;
} Answer;

static Status refuse_call(RowReader *in, const Json *at) {
    return json_fail(in->doc, at,
                     "an answer that calls tools is supported in a conversation to train on only");
}

static Status read_answer(Answer *r, RowReader *in, const Json *n, const char *key) {
    *r = (Answer){0};
    if (is_type(n, JSON_STRING)) {
        r->text = json_str(n);
    } else {
        int count;
        if (!is_type(n, JSON_ARRAY))
            return json_fail(in->doc, n, "%s must be a string or a list of messages", key);
        TRY(read_turns(&r->turn, &count, in, n));
        if (r->turn[count - 1].role != ROLE_ASSISTANT)
            return json_fail(in->doc, n, "%s must end with a message of the assistant", key);
        if (turn_calls_tools(&r->turn[count - 1])) return refuse_call(in, n);
        r->text = r->turn[count - 1].content;
        r->n = count - 1;
    }
    return is_empty(r->text) ? json_fail(fault(in, FAULT_EMPTY), n, "%s is empty", key) : OK;
}

/* Turns that stand in the answer's own list replace a prompt given beside it (UltraFeedback), or
 * follow it when they do not repeat it. */
static Status take_turns(Example *e, RowReader *in, const Json *at, const Answer *r) {
    if (!r->n) return OK;
    int from_start = r->n >= e->n && same_turn(&r->turn[r->n - 1], &e->turn[e->n - 1]);
    if (!from_start)
        return json_fail(fault(in, FAULT_NO_PROMPT), at,
                         "the messages before the answer do not repeat the prompt");
    e->turn = r->turn;
    e->n = r->n;
    return OK;
}

static Status read_completion(Example *e, RowReader *in, const Json *n, const char *key) {
    Answer r;
    TRY(read_answer(&r, in, n, key));
    if (!is_type(n, JSON_STRING)) e->is_chat = 1;
    TRY(take_turns(e, in, n, &r));
    e->answer[0] = r.text;
    return OK;
}

/* ---- pairs ---- */

static size_t common_prefix(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] && a[n] == b[n]) n++;
    return n;
}

/* Where the prompt inside two texts ends: behind the last "\n\nAssistant:" that both have, else
 * where they part, moved back to a space so that no word is cut. */
static size_t prompt_length(const char *chosen, const char *rejected) {
    static const char marker[] = "\n\nAssistant:";
    size_t common = common_prefix(chosen, rejected), cut = 0;
    for (const char *p = chosen;
         (p = strstr(p, marker)) && (size_t)(p - chosen) + strlen(marker) <= common; p++)
        cut = (size_t)(p - chosen) + strlen(marker);
    if (cut) return cut;
    while (common > 0 && !strchr(" \n\t", chosen[common])) common--;
    return common;
}

static Status implicit_strings(Example *e, RowReader *in, const Json *at) {
    size_t n = prompt_length(e->answer[0], e->answer[1]);
    char *prompt = arena_strndup(in->arena, e->answer[0], n);
    if (is_empty(prompt))
        return json_fail(fault(in, FAULT_NO_PROMPT), at,
                         "chosen and rejected have no common prompt");
    e->turn = arena_alloc(in->arena, sizeof(*e->turn));
    e->turn[0] = (Turn){ROLE_USER, "user", prompt, NULL};
    e->n = 1;
    for (int i = 0; i < 2; i++) {
        e->answer[i] += n;
        if (is_empty(e->answer[i]))
            return json_fail(fault(in, FAULT_EMPTY), at,
                             "nothing is left of an answer behind the common prompt");
    }
    return OK;
}

static Status implicit_turns(Example *e, RowReader *in, const Json *at, const Answer *chosen,
                             const Answer *rejected) {
    int same = chosen->n == rejected->n && has_user(chosen->turn, chosen->n);
    for (int i = 0; i < chosen->n && same; i++)
        same = same_turn(&chosen->turn[i], &rejected->turn[i]);
    if (!same)
        return json_fail(fault(in, FAULT_NO_PROMPT), at,
                         "chosen and rejected have no common prompt");
    e->turn = chosen->turn;
    e->n = chosen->n;
    return OK;
}

static Status read_margin(Example *e, RowReader *in, const Json *row) {
    double margin = NAN, chosen = NAN, rejected = NAN;
    TRY(json_get_num(in->doc, row, "margin", JSON_OPTIONAL, &margin));
    if (is_type(json_get(row, "score_chosen"), JSON_NUMBER))
        chosen = json_num(json_get(row, "score_chosen"));
    if (is_type(json_get(row, "score_rejected"), JSON_NUMBER))
        rejected = json_num(json_get(row, "score_rejected"));
    e->margin = (float)(isnan(margin) ? chosen - rejected : margin);
    return OK;
}

static Status read_pair(Example *e, RowReader *in, const DataConfig *cfg, const Json *prompt) {
    const Json *row = json_root(in->doc), *node[2];
    const char *keys[2] = {column(cfg->chosen_key, "chosen"),
                           column(cfg->rejected_key, "rejected")};
    Answer r[2];
    for (int i = 0; i < 2; i++) {
        node[i] = json_get(row, keys[i]);
        if (!node[i]) return json_fail(in->doc, NULL, "the row has no \"%s\"", keys[i]);
        TRY(read_answer(&r[i], in, node[i], keys[i]));
        e->answer[i] = r[i].text;
    }
    int lists = is_type(node[0], JSON_ARRAY);
    if (lists != is_type(node[1], JSON_ARRAY))
        return json_fail(in->doc, node[1], "%s and %s must both be strings or both be lists",
                         keys[0], keys[1]);
    if (!strcmp(e->answer[0], e->answer[1])) {
        if (r[0].n == r[1].n)
            return json_fail(fault(in, FAULT_SAME), node[1], "%s and %s are the same", keys[0],
                             keys[1]);
    }
    if (!prompt && lists) {
        e->is_chat = 1;
        return implicit_turns(e, in, node[1], &r[0], &r[1]);
    }
    if (!prompt) return implicit_strings(e, in, node[1]);
    if (lists) e->is_chat = 1;
    if (r[0].n || r[1].n) {
        Example alone = *e;
        TRY(implicit_turns(&alone, in, node[1], &r[0], &r[1]));
    }
    return take_turns(e, in, node[0], &r[0]);
}

/* ---- rows ---- */

static Status read_messages(Example *e, RowReader *in, RowKind kind, const Json *list) {
    TRY(read_turns(&e->turn, &e->n, in, list));
    e->is_chat = 1;
    e->is_conversation = kind == ROWS_SFT;
    int last = -1;
    for (int i = 0; i < e->n; i++)
        if (e->turn[i].role == ROLE_ASSISTANT) last = i;
    if (kind == ROWS_SFT) {
        if (last < 0)
            return json_fail(fault(in, FAULT_UNTRAINED), list,
                             "nothing to train on: no message of the assistant");
        if (!has_user(e->turn, e->n)) return json_fail(in->doc, list, "no message of the user");
        e->n = last + 1;
        return OK;
    }
    if (last == e->n - 1 && last > 0) {
        if (turn_calls_tools(&e->turn[last])) return refuse_call(in, list);
        e->answer[0] = e->turn[last].content;
        e->n = last;
    }
    if (!asks(&e->turn[e->n - 1]))
        return json_fail(in->doc, list, "a prompt must end with a message of the user or a tool");
    return OK;
}

static Status read_text(Example *e, RowReader *in, RowKind kind, const Json *text) {
    if (kind != ROWS_SFT)
        return json_fail(in->doc, text, "a row with \"text\" alone can only be trained on by sft");
    if (!is_type(text, JSON_STRING)) return json_fail(in->doc, text, "text must be a string");
    TRY(set_string(e, in, text));
    e->is_text = 1;
    return OK;
}

static Status unknown_shape(RowReader *in, const DataConfig *cfg) {
    Text keys = {0};
    for (const Json *n = json_first(json_root(in->doc)); n && keys.len < 200; n = json_next(n))
        text_addf(&keys, "%s%.40s", keys.len ? ", " : "", json_key(n));
    Status s = json_fail(
        in->doc, NULL,
        "a row needs \"%s\", \"messages\", \"text\", or \"%s\" with \"%s\"; this one has: %s",
        column(cfg->prompt_key, "prompt"), column(cfg->chosen_key, "chosen"),
        column(cfg->rejected_key, "rejected"), keys.len ? keys.s : "nothing");
    text_release(&keys);
    return s;
}

static Status read_shape(Example *e, RowReader *in, const DataConfig *cfg, RowKind kind) {
    const Json *row = json_root(in->doc);
    const char *completion_key = column(cfg->completion_key, "completion");
    const Json *prompt = json_get(row, column(cfg->prompt_key, "prompt")),
               *messages = json_get(row, "messages");
    const Json *completion = json_get(row, completion_key), *text = json_get(row, "text");
    int pair = json_get(row, column(cfg->chosen_key, "chosen")) ||
               json_get(row, column(cfg->rejected_key, "rejected"));
    if (completion && is_type(json_get(row, "label"), JSON_BOOL))
        return json_fail(
            in->doc, json_get(row, "label"),
            "rows with one completion and a \"label\" are not supported (pairs of chosen and rejected are)");
    if (prompt) TRY(example_prompt(e, in, prompt));
    if (pair) return read_pair(e, in, cfg, prompt);
    if (kind == ROWS_PAIRS)
        return json_fail(in->doc, NULL, "a pair needs \"%s\" and \"%s\"",
                         column(cfg->chosen_key, "chosen"), column(cfg->rejected_key, "rejected"));
    if (prompt && completion) return read_completion(e, in, completion, completion_key);
    if (prompt && kind == ROWS_SFT)
        return json_fail(in->doc, prompt, "the row has no \"%s\" to train on", completion_key);
    if (prompt) return OK;
    if (messages) return read_messages(e, in, kind, messages);
    return text ? read_text(e, in, kind, text) : unknown_shape(in, cfg);
}

Status example_read(Example *e, RowReader *in, const DataConfig *cfg, RowKind kind) {
    *e = (Example){.subset = "", .margin = NAN};
    if (!is_type(json_root(in->doc), JSON_OBJECT))
        return json_fail(in->doc, json_root(in->doc), "a row must be an object");
    TRY(read_shape(e, in, cfg, kind));
    TRY(read_margin(e, in, json_root(in->doc)));
    return json_get_str(in->doc, json_root(in->doc), "subset", JSON_OPTIONAL, &e->subset);
}
