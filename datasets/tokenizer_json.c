/* tokenizer_json.c - reads a tokenizer.json and the config files beside it. */
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

/* ---- vocabulary ---- */

static Status read_id(const JsonDoc *doc, const Json *n, int limit, int *id) {
    if (json_type(n) != JSON_NUMBER) return json_fail(doc, n, "a token id must be a number");
    double v = json_num(n);
    if (!(v >= 0 && v < limit) || v != (int)v)
        return json_fail(doc, n, "the token id %g is out of range (0 to %d)", v, limit - 1);
    *id = (int)v;
    return OK;
}

/* Ids may leave holes, but not so many that a small file asks for much memory. */
static int id_limit(int n_tokens) {
    int slack = 1 << 16;
    return n_tokens > TOKENS_MAX - slack ? TOKENS_MAX : n_tokens + slack;
}

/* Flags of the ids below n that are special tokens. */
static uint8_t *special_flags(Tokenizer *t, int n) {
    uint8_t *flag = arena_alloc(&t->arena, (size_t)n);
    for (int i = 0; i < t->added.n; i++)
        if (t->added.v[i].id < n) flag[t->added.v[i].id] = (uint8_t)t->added.v[i].special;
    return flag;
}

static Status read_vocab(Tokenizer *t, const JsonDoc *doc, const Json *vocab, int n_merges) {
    int count = json_size(vocab), highest = -1;
    if (count > TOKENS_MAX)
        return json_fail(doc, vocab, "a vocabulary of %d tokens is too large", count);
    for (const Json *n = json_first(vocab); n; n = json_next(n)) {
        int id = -1;
        TRY(read_id(doc, n, id_limit(count), &id));
        if (id > highest) highest = id;
    }
    TRY(bpe_reserve(&t->bpe, highest + 1, n_merges));
    const uint8_t *special = special_flags(t, highest + 1);

    Text bytes = {0};
    Status s = OK;
    for (const Json *n = json_first(vocab); n && s == OK; n = json_next(n)) {
        const char *token = json_key(n);
        size_t len = strlen(token);
        text_clear(&bytes);
        int is_bytes = !special[(int)json_num(n)] && alphabet_decode(&bytes, token, len);
        s = is_bytes ? bpe_set_token(&t->bpe, (int)json_num(n), bytes.s ? bytes.s : "", bytes.len,
                                     TOKEN_BYTES)
                     : bpe_set_token(&t->bpe, (int)json_num(n), token, len, TOKEN_VERBATIM);
    }
    text_release(&bytes);
    if (s == OK) s = bpe_index(&t->bpe);
    return s == OK ? OK : status_context(s, "%s", json_name(doc));
}

/* "a b", or ["a", "b"] where a token may hold a space. */
static Status merge_sides(const JsonDoc *doc, const Json *n, const char *side[2], size_t len[2]) {
    if (json_type(n) == JSON_STRING) {
        const char *s = json_str(n), *space = strchr(s, ' ');
        if (!space || strchr(space + 1, ' '))
            return json_fail(doc, n, "a merge must be two tokens with one space between");
        side[0] = s, len[0] = (size_t)(space - s);
        side[1] = space + 1, len[1] = strlen(space + 1);
        return OK;
    }
    const Json *a = json_type(n) == JSON_ARRAY ? json_first(n) : NULL, *b = a ? json_next(a) : NULL;
    if (!is_string(a) || !is_string(b) || json_next(b))
        return json_fail(doc, n, "a merge must be \"a b\" or [\"a\", \"b\"]");
    side[0] = json_str(a), len[0] = strlen(side[0]);
    side[1] = json_str(b), len[1] = strlen(side[1]);
    return OK;
}

static Status read_merge(Bpe *b, const JsonDoc *doc, const Json *n, Text *left, Text *right) {
    const char *side[2] = {"", ""};
    size_t len[2] = {0, 0};
    TRY(merge_sides(doc, n, side, len));
    text_clear(left);
    text_clear(right);
    if (!len[0] || !len[1] || !alphabet_decode(left, side[0], len[0]) ||
        !alphabet_decode(right, side[1], len[1]) ||
        !bpe_add_merge(b, left->s, left->len, right->s, right->len))
        return json_fail(
            doc, n, "the merge of \"%.*s\" and \"%.*s\" needs a token that the vocabulary lacks",
            (int)(len[0] > 60 ? 60 : len[0]), side[0], (int)(len[1] > 60 ? 60 : len[1]), side[1]);
    return OK;
}

static Status read_merges(Tokenizer *t, const JsonDoc *doc, const Json *merges) {
    Text left = {0}, right = {0};
    Status s = OK;
    for (const Json *n = json_first(merges); n && s == OK; n = json_next(n))
        s = read_merge(&t->bpe, doc, n, &left, &right);
    text_release(&left);
    text_release(&right);
    return s;
}

static Status refuse_set(const JsonDoc *doc, const Json *model, const char *key) {
    const Json *n = member(model, key);
    if (!n) return OK;
    JsonType type = json_type(n);
    int unset = type == JSON_STRING   ? !*json_str(n)
                : type == JSON_NUMBER ? json_num(n) == 0
                : type == JSON_BOOL   ? !json_bool(n)
                                      : 0;
    return unset ? OK : json_fail(doc, n, "the tokenizer feature %s is not supported", key);
}

static Status read_model(Tokenizer *t, const JsonDoc *doc) {
    const Json *model = NULL, *vocab = NULL, *merges = NULL;
    const char *type = "BPE";
    TRY(json_get_node(doc, json_root(doc), "model", JSON_REQUIRED, JSON_OBJECT, &model));
    TRY(json_get_str(doc, model, "type", JSON_OPTIONAL, &type));
    if (strcmp(type, "BPE"))
        return json_fail(doc, json_get(model, "type"),
                         "the tokenizer model \"%s\" is not supported (BPE is)", type);
    static const char *const absent[] = {"dropout", "byte_fallback", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    for (int i = 0; i < 4; i++) TRY(refuse_set(doc, model, absent[i]));

    TRY(json_get_bool(doc, model, "ignore_merges", JSON_OPTIONAL, &t->bpe.ignore_merges));
    TRY(json_get_node(doc, model, "vocab", JSON_REQUIRED, JSON_OBJECT, &vocab));
    TRY(json_get_node(doc, model, "merges", JSON_REQUIRED, JSON_ARRAY, &merges));
    if (json_size(merges) > TOKENS_MAX)
        return json_fail(doc, merges, "%d merges are too many", json_size(merges));
    TRY(read_vocab(t, doc, vocab, json_size(merges)));
    TRY(read_merges(t, doc, merges));

    const Json *unk = member(model, "unk_token");
    if (!unk) return OK;
    if (!is_string(unk)) return json_fail(doc, unk, "unk_token must be a string or null");
    t->unk = arena_strdup(&t->arena, json_str(unk));
    for (int i = 0; i < 256; i++)
        if (t->bpe.byte_id[i] < 0)
            return json_fail(doc, unk,
                             "unk_token with a vocabulary that lacks bytes is not supported");
    return OK;
}

static Status read_added(Tokenizer *t, const JsonDoc *doc) {
    const Json *list = NULL;
    TRY(json_get_node(doc, json_root(doc), "added_tokens", JSON_OPTIONAL, JSON_ARRAY, &list));
    if (!list) return OK;
    const Json *vocab = member(member(json_root(doc), "model"), "vocab");
    int limit = id_limit((vocab ? json_size(vocab) : 0) + json_size(list));
    for (const Json *n = json_first(list); n; n = json_next(n)) {
        AddedToken a = {.content = NULL};
        TRY(json_get_str(doc, n, "content", JSON_REQUIRED, &a.content));
        TRY(json_get_int(doc, n, "id", JSON_REQUIRED, &a.id));
        TRY(json_get_bool(doc, n, "special", JSON_OPTIONAL, &a.special));
        TRY(json_get_bool(doc, n, "normalized", JSON_OPTIONAL, &a.normalized));
        TRY(json_get_bool(doc, n, "lstrip", JSON_OPTIONAL, &a.lstrip));
        TRY(json_get_bool(doc, n, "rstrip", JSON_OPTIONAL, &a.rstrip));
        TRY(json_get_bool(doc, n, "single_word", JSON_OPTIONAL, &a.single_word));
        if (a.id < 0 || a.id >= limit)
            return json_fail(doc, n, "the token id %d is out of range", a.id);
        if (!*a.content || strlen(a.content) > 4096)
            return json_fail(doc, n, "an added token must have 1 to 4096 bytes");
        tokenizer_add_added(t, &a);
    }
    return OK;
}

/* ---- the other parts ---- */

static const char *as_text(Tokenizer *t, const Json *n) {
    Text text = {0};
    if (n) json_put_node(&text, n);
    const char *s = arena_strdup(&t->arena, text.s ? text.s : "null");
    text_release(&text);
    return s;
}

static Status node_type(const JsonDoc *doc, const Json *n, const char **type) {
    if (json_type(n) != JSON_OBJECT) return json_fail(doc, n, "expected an object with a \"type\"");
    return json_get_str(doc, n, "type", JSON_REQUIRED, type);
}

static Status read_normalizer(Tokenizer *t, const JsonDoc *doc, const Json *n, int depth) {
    const char *type = "";
    const Json *list = NULL;
    TRY(node_type(doc, n, &type));
    if (!strcmp(type, "NFC")) {
        t->nfc = 1;
        return OK;
    }
    if (strcmp(type, "Sequence") || depth > 0)
        return json_fail(doc, n, "the normalizer \"%s\" is not supported (NFC is)", type);
    TRY(json_get_node(doc, n, "normalizers", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *c = json_first(list); c; c = json_next(c))
        TRY(read_normalizer(t, doc, c, depth + 1));
    return OK;
}

static void append_int(Arena *a, int **v, int *n, int x) {
    int *grown = arena_alloc(a, (size_t)(*n + 1) * sizeof(*grown));
    if (*n) memcpy(grown, *v, (size_t)*n * sizeof(*grown));
    grown[(*n)++] = x;
    *v = grown;
}

static Status read_template_token(Tokenizer *t, const JsonDoc *doc, const Json *post,
                                  const Json *token, int behind) {
    const char *name = NULL;
    const Json *table = NULL, *entry = NULL, *ids = NULL;
    TRY(json_get_str(doc, token, "id", JSON_REQUIRED, &name));
    TRY(json_get_node(doc, post, "special_tokens", JSON_REQUIRED, JSON_OBJECT, &table));
    TRY(json_get_node(doc, table, name, JSON_REQUIRED, JSON_OBJECT, &entry));
    TRY(json_get_node(doc, entry, "ids", JSON_REQUIRED, JSON_ARRAY, &ids));
    for (const Json *n = json_first(ids); n; n = json_next(n)) {
        int id = -1;
        TRY(read_id(doc, n, TOKENS_MAX, &id));
        if (behind)
            append_int(&t->arena, &t->suffix, &t->n_suffix, id);
        else
            append_int(&t->arena, &t->prefix, &t->n_prefix, id);
    }
    return OK;
}

static Status read_template(Tokenizer *t, const JsonDoc *doc, const Json *post) {
    const Json *single = NULL;
    int behind = 0;
    TRY(json_get_node(doc, post, "single", JSON_REQUIRED, JSON_ARRAY, &single));
    if (json_size(single) > 64)
        return json_fail(doc, single, "a post-processor template of %d parts is too long",
                         json_size(single));
    for (const Json *n = json_first(single); n; n = json_next(n)) {
        const Json *token = member(n, "SpecialToken");
        if (token)
            TRY(read_template_token(t, doc, post, token, behind));
        else if (member(n, "Sequence") && !behind)
            behind = 1;
        else
            return json_fail(doc, n, "this post-processor template is not supported");
    }
    return OK;
}

static Status read_post(Tokenizer *t, const JsonDoc *doc, const Json *n, int depth) {
    const char *type = "";
    const Json *list = NULL;
    TRY(node_type(doc, n, &type));
    if (!strcmp(type, "ByteLevel")) return OK;
    if (!strcmp(type, "TemplateProcessing")) return read_template(t, doc, n);
    if (strcmp(type, "Sequence") || depth > 0)
        return json_fail(
            doc, n,
            "the post-processor \"%s\" is not supported (ByteLevel and TemplateProcessing are)",
            type);
    TRY(json_get_node(doc, n, "processors", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *c = json_first(list); c; c = json_next(c))
        TRY(read_post(t, doc, c, depth + 1));
    return OK;
}

Status tokenizer_read_parts(Tokenizer *t, const JsonDoc *doc) {
    const Json *root = json_root(doc), *normalizer = member(root, "normalizer");
    const Json *pre = member(root, "pre_tokenizer"), *post = member(root, "post_processor");
    const Json *decoder = member(root, "decoder");
    const char *type = "ByteLevel";
    if (normalizer) TRY(read_normalizer(t, doc, normalizer, 0));
    if (!pre)
        return json_fail(
            doc, NULL,
            "a tokenizer without a pre_tokenizer (SentencePiece-style BPE) is not supported");
    TRY(pretokenizer_create(&t->pre, doc, pre));
    if (post) TRY(read_post(t, doc, post, 0));
    if (decoder) TRY(node_type(doc, decoder, &type));
    if (strcmp(type, "ByteLevel"))
        return json_fail(doc, decoder, "the decoder \"%s\" is not supported (ByteLevel is)", type);
    t->source = (TokenizerSource){as_text(t, normalizer), as_text(t, pre), as_text(t, post),
                                  as_text(t, decoder)};
    return OK;
}

static Status read_doc(Tokenizer *t, const JsonDoc *doc) {
    if (json_type(json_root(doc)) != JSON_OBJECT)
        return json_fail(doc, NULL, "a tokenizer must be a JSON object");
    /* the parts first: what makes a tokenizer unsupported is named before the vocabulary is walked
     */
    const Json *model = json_get(json_root(doc), "model");
    if (model) TRY(refuse_set(doc, model, "byte_fallback"));
    TRY(tokenizer_read_parts(t, doc));
    TRY(read_added(t, doc));
    return read_model(t, doc);
}

Status tokenizer_open_json(Tokenizer **t, const char *name, const char *json, size_t len) {
    JsonDoc *doc = NULL;
    *t = NULL;
    TRY(json_parse(&doc, name, 1, json, len, JSON_STRICT));
    Tokenizer *new = tokenizer_new();
    Status s = read_doc(new, doc);
    if (s == OK) s = tokenizer_finish(new);
    json_release(doc);
    if (s == OK)
        *t = new;
    else
        tokenizer_release(new);
    return s;
}

/* ---- a model directory ---- */

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

static void take_names(Tokenizer *t, const JsonDoc *doc) {
    if (!doc || json_type(json_root(doc)) != JSON_OBJECT) return;
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

static Status read_dir(Tokenizer *t, const char *dir) {
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

static Status open_dir(Tokenizer *t, const char *dir, const char *path) {
    JsonDoc *doc = NULL;
    TRY(json_parse_file(&doc, path, JSON_STRICT));
    Status s = read_doc(t, doc);
    json_release(doc);
    TRY(s);
    TRY(read_dir(t, dir));
    s = tokenizer_finish(t);
    return s == OK ? OK : status_context(s, "%s", path);
}

Status tokenizer_open_dir(Tokenizer **t, const char *dir) {
    char path[1200];
    *t = NULL;
    snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    if (!file_exists(path))
        return status_fail(E_IO, "%s: there is no tokenizer.json in this folder", dir);
    Tokenizer *new = tokenizer_new();
    Status s = open_dir(new, dir, path);
    if (s == OK)
        *t = new;
    else
        tokenizer_release(new);
    return s;
}
