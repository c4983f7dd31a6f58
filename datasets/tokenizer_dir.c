/* tokenizer_dir.c - what the files beside a tokenizer.json say: special tokens and chat template.
 */
#include <stdio.h>
#include <string.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

enum { CONFIG_MAX = 64 << 20 };

/* A member that is there and not null. */
static const Json *member(const Json *object, const char *key) {
    const Json *n = json_get(object, key);
    return n && json_type(n) != JSON_NULL ? n : NULL;
}

static int is_string(const Json *n) {
    return n && json_type(n) == JSON_STRING;
}

static Status optional_doc(JsonDoc **doc, const char *dir, const char *name) {
    char path[1200];
    *doc = NULL;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return file_exists(path) ? json_parse_file(doc, path, JSON_STRICT) : OK;
}

/* A special token by name: a string or {"content": ...}. */
static int named_token(const Tokenizer *t, const Json *config, const char *key) {
    const Json *n = member(config, key);
    if (n && json_type(n) == JSON_OBJECT) n = member(n, "content");
    return is_string(n) ? tokenizer_id(t, json_str(n)) : -1;
}

static const char *token_text(Tokenizer *t, const Json *config, const char *key) {
    const Json *n = member(config, key);
    if (n && json_type(n) == JSON_OBJECT) n = member(n, "content");
    return is_string(n) ? arena_strdup(&t->arena, json_str(n)) : NULL;
}

static void take_names(Tokenizer *t, const JsonDoc *doc) {
    if (!doc || json_type(json_root(doc)) != JSON_OBJECT) return;
    if (!t->bos_text) t->bos_text = token_text(t, json_root(doc), "bos_token");
    if (!t->eos_text) t->eos_text = token_text(t, json_root(doc), "eos_token");
    t->named = 1;
    if (t->eos < 0) tokenizer_add_eos(t, named_token(t, json_root(doc), "eos_token"));
    if (t->bos < 0) t->bos = named_token(t, json_root(doc), "bos_token");
    if (t->pad < 0) t->pad = named_token(t, json_root(doc), "pad_token");
}

static int as_id(const Json *n) {
    double v = n && json_type(n) == JSON_NUMBER ? json_num(n) : -1;
    return v >= 0 && v < TOKENS_MAX ? (int)v : -1;
}

static void take_ids(Tokenizer *t, const JsonDoc *doc) {
    if (!doc || json_type(json_root(doc)) != JSON_OBJECT) return;
    const Json *root = json_root(doc), *eos = member(root, "eos_token_id");
    if (eos && json_type(eos) == JSON_ARRAY) {
        int taken = 0;
        for (const Json *n = json_first(eos); n && taken++ < 64; n = json_next(n))
            tokenizer_add_eos(t, as_id(n));
    }
    tokenizer_add_eos(t, as_id(eos));
    if (t->bos < 0) t->bos = as_id(member(root, "bos_token_id"));
    if (t->pad < 0) t->pad = as_id(member(root, "pad_token_id"));
}

static void take_template(Tokenizer *t, const JsonDoc *doc) {
    const Json *n = doc ? member(json_root(doc), "chat_template") : NULL;
    if (is_string(n)) t->chat_template = arena_strdup(&t->arena, json_str(n));
    if (!n || json_type(n) != JSON_ARRAY) return;
    for (const Json *c = json_first(n); c; c = json_next(c)) {
        const Json *name = member(c, "name"), *text = member(c, "template");
        if (is_string(name) && is_string(text) && !strcmp(json_str(name), "default"))
            t->chat_template = arena_strdup(&t->arena, json_str(text));
    }
}

static Status read_template_file(Tokenizer *t, const char *dir) {
    char path[1200], *text;
    size_t len;
    snprintf(path, sizeof(path), "%s/chat_template.jinja", dir);
    if (!file_exists(path)) return OK;
    TRY(file_read(&t->arena, &text, &len, path, CONFIG_MAX));
    if (!utf8_valid(text, len) || strlen(text) != len)
        return status_fail(E_FORMAT, "%s is not UTF-8 text", path);
    t->chat_template = text;
    return OK;
}

Status tokenizer_read_dir(Tokenizer *t, const char *dir) {
    static const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json",
                                        "generation_config.json", "config.json"};
    for (int i = 0; i < 4; i++) {
        JsonDoc *doc = NULL;
        TRY(optional_doc(&doc, dir, names[i]));
        if (i < 2)
            take_names(t, doc);
        else
            take_ids(t, doc);
        if (i == 0) take_template(t, doc);
        json_release(doc);
    }
    return read_template_file(t, dir);
}
