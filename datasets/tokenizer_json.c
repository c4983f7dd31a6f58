/* tokenizer_json.c - reads a tokenizer.json: vocabulary, merges, added tokens, and the other parts
 * by their own files. */
#include <stdio.h>
#include <string.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

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

/* Appends the bytes that a token stands for; 0 when it stands for itself alone. */
static int token_bytes(const Bpe *b, const char *token, size_t len, Text *out) {
    if (!b->by_char) return alphabet_decode(out, token, len);
    text_add_bytes(out, token, len);
    return 1;
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
        int is_bytes = !special[(int)json_num(n)] && token_bytes(&t->bpe, token, len, &bytes);
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
    if (!len[0] || !len[1] || !token_bytes(b, side[0], len[0], left) ||
        !token_bytes(b, side[1], len[1], right) ||
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

/* The token of what the vocabulary lacks. Byte-level models fall back on nothing else. */
static Status read_unknown(Tokenizer *t, const JsonDoc *doc, const Json *model) {
    Bpe *b = &t->bpe;
    const Json *unk = member(model, "unk_token");
    int lacks = 0;
    for (int i = 0; i < 256; i++) lacks |= b->byte_id[i] < 0;
    if (b->byte_fallback && !b->by_char && lacks)
        return json_fail(doc, json_get(model, "byte_fallback"),
                         "byte_fallback with the pre-tokenizer ByteLevel is not supported");
    if (!unk) return OK;
    if (!is_string(unk)) return json_fail(doc, unk, "unk_token must be a string or null");
    t->unk = arena_strdup(&t->arena, json_str(unk));
    b->unk = tokenizer_id(t, t->unk);
    if (b->unk < 0 && (lacks || b->by_char))
        return json_fail(doc, unk, "the vocabulary lacks the unk_token \"%s\"", t->unk);
    return OK;
}

static Status read_model(Tokenizer *t, const JsonDoc *doc) {
    const Json *model = NULL, *vocab = NULL, *merges = NULL;
    const char *type = "BPE";
    TRY(json_get_node(doc, json_root(doc), "model", JSON_REQUIRED, JSON_OBJECT, &model));
    TRY(json_get_str(doc, model, "type", JSON_OPTIONAL, &type));
    if (strcmp(type, "BPE"))
        return json_fail(doc, json_get(model, "type"),
                         "the tokenizer model \"%s\" is not supported (BPE is)", type);
    static const char *const absent[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    for (int i = 0; i < 3; i++) TRY(refuse_set(doc, model, absent[i]));

    t->bpe.by_char = !pretokenizer_is_bytes(t->pre);
    TRY(json_get_bool(doc, model, "ignore_merges", JSON_OPTIONAL, &t->bpe.ignore_merges));
    TRY(json_get_bool(doc, model, "byte_fallback", JSON_OPTIONAL, &t->bpe.byte_fallback));
    TRY(json_get_bool(doc, model, "fuse_unk", JSON_OPTIONAL, &t->bpe.fuse_unk));
    TRY(json_get_node(doc, model, "vocab", JSON_REQUIRED, JSON_OBJECT, &vocab));
    TRY(json_get_node(doc, model, "merges", JSON_REQUIRED, JSON_ARRAY, &merges));
    if (json_size(merges) > TOKENS_MAX)
        return json_fail(doc, merges, "%d merges are too many", json_size(merges));
    TRY(read_vocab(t, doc, vocab, json_size(merges)));
    TRY(read_merges(t, doc, merges));
    return read_unknown(t, doc, model);
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
        if (!*a.content || strlen(a.content) > ADDED_BYTES_MAX)
            return json_fail(doc, n, "an added token must have 1 to %d bytes", ADDED_BYTES_MAX);
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

Status json_node_type(const JsonDoc *doc, const Json *n, const char **type) {
    if (json_type(n) != JSON_OBJECT) return json_fail(doc, n, "expected an object with a \"type\"");
    return json_get_str(doc, n, "type", JSON_REQUIRED, type);
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

static Status read_post(Tokenizer *t, const JsonDoc *doc, const Json *n) {
    const char *type = "";
    const Json *list = NULL;
    TRY(json_node_type(doc, n, &type));
    if (!strcmp(type, "ByteLevel")) return OK;
    if (!strcmp(type, "TemplateProcessing")) return read_template(t, doc, n);
    if (strcmp(type, "Sequence"))
        return json_fail(
            doc, n,
            "the post-processor \"%s\" is not supported (ByteLevel and TemplateProcessing are)",
            type);
    TRY(json_get_node(doc, n, "processors", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *c = json_first(list); c; c = json_next(c)) TRY(read_post(t, doc, c));
    return OK;
}

Status tokenizer_read_parts(Tokenizer *t, const JsonDoc *doc) {
    const Json *root = json_root(doc), *normalizer = member(root, "normalizer");
    const Json *pre = member(root, "pre_tokenizer"), *post = member(root, "post_processor");
    const Json *decoder = member(root, "decoder");
    if (normalizer) TRY(normalizer_read(&t->normalizer, &t->arena, doc, normalizer));
    TRY(pretokenizer_create(&t->pre, doc, pre));
    if (post) TRY(read_post(t, doc, post));
    TRY(decoder_read(&t->decoder, &t->arena, doc, decoder, !pretokenizer_is_bytes(t->pre)));
    t->source = (TokenizerSource){as_text(t, normalizer), as_text(t, pre), as_text(t, post),
                                  as_text(t, decoder)};
    return OK;
}

static Status read_doc(Tokenizer *t, const JsonDoc *doc) {
    if (json_type(json_root(doc)) != JSON_OBJECT)
        return json_fail(doc, NULL, "a tokenizer must be a JSON object");
    /* the parts first: what makes a tokenizer unsupported is named before the vocabulary is walked
     */
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

static Status open_dir(Tokenizer *t, const char *dir, const char *path) {
    JsonDoc *doc = NULL;
    TRY(json_parse_file(&doc, path, JSON_STRICT));
    Status s = read_doc(t, doc);
    json_release(doc);
    TRY(s);
    TRY(tokenizer_read_dir(t, dir));
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
