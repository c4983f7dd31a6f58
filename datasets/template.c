/* template.c - see template.h. */
#include "datasets/template.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

struct ChatTemplate {
    Jinja *jinja;
    ChatTokens tokens;
    int64_t now;
    Arena arena;
};

enum {
    CONFIG_MAX = 64 << 20,
    PREFIX_BYTES_MAX = 64 << 20, /* rendered to find the answers of one conversation */
    PREFIX_BYTES_LEAST = 4096    /* what the shortest rendering counts */
};

/* Roles of which templates make special tokens ("<|" + role + "|>"). Others are data. */
static const char *const roles[] = {"system",      "user",          "assistant", "tool",
                                    "developer",   "ipython",       "model",     "function",
                                    "observation", "tool_response", "tool_call", NULL};

/* ---- opening ---- */

static const char *copy(Arena *a, const char *s) {
    return s ? arena_strdup(a, s) : NULL;
}

Status chat_template_open(ChatTemplate **t, const char *name, const char *text,
                          const ChatTokens *tokens) {
    Arena arena = {0};
    Jinja *jinja;
    *t = NULL;
    TRY(jinja_compile(&jinja, name, text, strlen(text)));
    ChatTemplate *new = arena_alloc(&arena, sizeof(*new));
    new->jinja = jinja;
    new->now = (int64_t)time(NULL);
    new->tokens = (ChatTokens){copy(&arena, tokens->bos), copy(&arena, tokens->eos)};
    new->arena = arena;
    *t = new;
    return OK;
}

void chat_template_release(ChatTemplate *t) {
    if (!t) return;
    jinja_release(t->jinja);
    Arena arena = t->arena;
    arena_release(&arena);
}

void chat_template_set_time(ChatTemplate *t, int64_t now) {
    t->now = now;
}

int chat_template_has_marks(const ChatTemplate *t) {
    return jinja_has_marks(t->jinja);
}

static Status open_file(ChatTemplate **t, Arena *a, const char *path, const ChatTokens *tokens) {
    char *text;
    size_t len;
    *t = NULL;
    TRY(file_read(a, &text, &len, path, JINJA_TEMPLATE_MAX));
    if (strlen(text) != len) return status_fail(E_FORMAT, "%s is not UTF-8 text", path);
    return chat_template_open(t, path, text, tokens);
}

Status chat_template_open_file(ChatTemplate **t, const char *path, const ChatTokens *tokens) {
    Arena arena = {0};
    Status s = open_file(t, &arena, path, tokens);
    arena_release(&arena);
    return s;
}

static const char *string_of(const Json *n) {
    return n && json_type(n) == JSON_STRING ? json_str(n) : NULL;
}

/* A special token: a string or {"content": ...}. */
static const char *token_of(const Json *config, const char *key) {
    const Json *n = config ? json_get(config, key) : NULL;
    if (n && json_type(n) == JSON_OBJECT) n = json_get(n, "content");
    return string_of(n);
}

static const char *template_of(const Json *config) {
    const Json *n = config ? json_get(config, "chat_template") : NULL;
    if (!n || json_type(n) != JSON_ARRAY) return string_of(n);
    for (const Json *c = json_first(n); c; c = json_next(c)) {
        const char *name = string_of(json_get(c, "name"));
        if (name && !strcmp(name, "default")) return string_of(json_get(c, "template"));
    }
    return NULL;
}

Status chat_template_open_dir(ChatTemplate **t, const char *dir) {
    Arena arena = {0};
    JsonDoc *doc = NULL;
    Status s = OK;
    *t = NULL;
    const char *config = arena_printf(&arena, "%s/tokenizer_config.json", dir);
    const char *file = arena_printf(&arena, "%s/chat_template.jinja", dir);
    if (file_exists(config)) s = json_parse_file(&doc, config, JSON_STRICT);
    const Json *root = s == OK && doc ? json_root(doc) : NULL;
    ChatTokens tokens = {token_of(root, "bos_token"), token_of(root, "eos_token")};
    const char *text = template_of(root);
    if (s == OK && file_exists(file))
        s = open_file(t, &arena, file, &tokens);
    else if (s == OK && text)
        s = chat_template_open(t, config, text, &tokens);
    json_release(doc);
    arena_release(&arena);
    return s;
}

Status chat_template_of(ChatTemplate **t, const Tokenizer *tokenizer) {
    const char *text = tokenizer_chat_template(tokenizer);
    *t = NULL;
    if (!*text) return OK;
    ChatTokens tokens = {tokenizer_bos_text(tokenizer), tokenizer_eos_text(tokenizer)};
    return chat_template_open(t, "chat template", text, &tokens);
}

/* ---- rendering ---- */

Status chat_template_render(const ChatTemplate *t, const Json *messages, int n,
                            int add_generation_prompt, JinjaOutput *out) {
    JinjaVar vars[8] = {
        {.name = "messages",
         .kind = JINJA_DATA,
         .json = messages,
         .first = n,
         .own_key = "role",
         .own_values = roles},
        {.name = "tools", .kind = JINJA_NONE},
        {.name = "documents", .kind = JINJA_NONE},
        {.name = "add_generation_prompt", .kind = JINJA_BOOL, .truth = add_generation_prompt}};
    int k = 4;
    if (t->tokens.bos)
        vars[k++] = (JinjaVar){.name = "bos_token", .kind = JINJA_TEXT, .text = t->tokens.bos};
    if (t->tokens.eos)
        vars[k++] = (JinjaVar){.name = "eos_token", .kind = JINJA_TEXT, .text = t->tokens.eos};
    return jinja_render(t->jinja, vars, k, t->now, out);
}

static int is_assistant(const Json *message) {
    const char *role = string_of(json_get(message, "role"));
    return role && !strcmp(role, "assistant");
}

static int begins_with(const JinjaOutput *whole, const JinjaOutput *part) {
    return part->text.len <= whole->text.len &&
           (!part->text.len || !memcmp(whole->text.s, part->text.s, part->text.len));
}

static const char *span_of(const ChatTemplate *t, const Json *messages, int i,
                           const JinjaOutput *whole, JinjaSpan *span) {
    JinjaOutput before = {0}, with = {0};
    const char *why = NULL;
    if (chat_template_render(t, messages, i, 1, &before) != OK ||
        chat_template_render(t, messages, i + 1, 0, &with) != OK)
        why = "the template does not render the beginning of the conversation by itself, so where "
              "the assistant speaks cannot be told";
    else if (!begins_with(&with, &before))
        why = "the template writes an answer differently from what its generation prompt begins, "
              "so where the assistant speaks cannot be told";
    else if (!begins_with(whole, &with))
        why = "the template rewrites an earlier answer when the conversation goes on, so where the "
              "assistant speaks cannot be told";
    *span = (JinjaSpan){before.text.len, with.text.len};
    jinja_output_release(&before);
    jinja_output_release(&with);
    return why;
}

Status chat_template_render_marked(const ChatTemplate *t, const Json *messages,
                                   int add_generation_prompt, JinjaOutput *out, const char **why) {
    int i = 0;
    size_t rendered = 0;
    *why = NULL;
    TRY(chat_template_render(t, messages, -1, add_generation_prompt, out));
    if (jinja_has_marks(t->jinja)) return OK;
    for (const Json *m = json_first(messages); m && !*why; m = json_next(m), i++) {
        JinjaSpan span;
        if (!is_assistant(m)) continue;
        *why = span_of(t, messages, i, out, &span);
        rendered += 2 * (span.to + PREFIX_BYTES_LEAST);
        if (!*why && rendered > PREFIX_BYTES_MAX && json_next(m))
            *why = "the conversation is too long to find where the assistant speaks in it";
        if (!*why) TRY(jinja_output_mark(out, span));
    }
    if (*why) out->n_marks = 0;
    return OK;
}

Status chat_encode(const Tokenizer *t, const JinjaOutput *r, size_t from, size_t to, Ids *out) {
    if (to <= from) return OK;
    return tokenizer_encode_mixed(t, r->text.s + from, (const uint8_t *)r->data.s + from, to - from,
                                  from == 0, out);
}

/* ---- the end of an answer ---- */

static int first_special(const Tokenizer *t, const JinjaOutput *r, size_t from) {
    Ids ids = {0};
    int found = -1;
    if (chat_encode(t, r, from, r->text.len, &ids) == OK)
        for (int i = 0; i < ids.n && found < 0; i++)
            if (t->added_by_id[ids.v[i]] && t->added_by_id[ids.v[i]]->special) found = ids.v[i];
    ids_release(&ids);
    return found;
}

void chat_template_teach_end(Tokenizer *tokenizer) {
    static const char talk[] = "[{\"role\":\"user\",\"content\":\"q\"},"
                               "{\"role\":\"assistant\",\"content\":\"a\"}]";
    ChatTemplate *t = NULL;
    JsonDoc *doc = NULL;
    JinjaOutput out = {0};
    if (chat_template_of(&t, tokenizer) == OK && t &&
        json_parse(&doc, "messages", 1, talk, strlen(talk), JSON_STRICT) == OK &&
        chat_template_render(t, json_root(doc), -1, 0, &out) == OK) {
        size_t end = out.text.len;
        while (end > 0 && !out.data.s[end - 1]) end--;
        if (end) tokenizer_add_eos(tokenizer, first_special(tokenizer, &out, end));
    }
    jinja_output_release(&out);
    json_release(doc);
    chat_template_release(t);
}
