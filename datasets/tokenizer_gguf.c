/* tokenizer_gguf.c - tokenizers from the metadata of GGUF files. */
#include <string.h>
#include "core/model/gguf.h"
#include "datasets/tokenizer_parts.h"

#define BYTE_LEVEL(regex)                                                                           \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":" regex \
    "}"
#define SEQUENCE(first, second) "{\"type\":\"Sequence\",\"pretokenizers\":[" first "," second "]}"
#define SPLIT(regex)                                                                               \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                                          \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
/* the words and spaces of llama-bpe and qwen2, which differ in how many digits are one piece */
#define WORDS(digits)                                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                 \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

static const struct {
    const char *name, *pre, *normalizer;
    int ignore_merges;
} splittings[] = {
    {"smollm", SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}", BYTE_LEVEL("true")),
     "null", 0},
    {"gpt-2", BYTE_LEVEL("true"), "null", 0},
    {"qwen2", SEQUENCE(SPLIT(WORDS("\\\\p{N}")), BYTE_LEVEL("false")), "{\"type\":\"NFC\"}", 0},
    {"llama-bpe", SEQUENCE(SPLIT(WORDS("\\\\p{N}{1,3}")), BYTE_LEVEL("false")), "null", 1},
};
enum { N_SPLITTINGS = sizeof(splittings) / sizeof(*splittings) };

static Status read_splitting(Tokenizer *t, const char *pre, const char *normalizer) {
    Text text = {0};
    JsonDoc *doc = NULL;
    text_addf(&text,
              "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s}",
              normalizer, pre, BYTE_LEVEL("true"), BYTE_LEVEL("true"));
    Status s = json_parse(&doc, "built-in splitting", 1, text.s, text.len, JSON_STRICT);
    if (s == OK) s = tokenizer_read_parts(t, doc);
    json_release(doc);
    text_release(&text);
    return s;
}

Status tokenizer_set_splitting(Tokenizer *t, const char *pre) {
    for (int i = 0; i < N_SPLITTINGS; i++) {
        if (strcmp(pre, splittings[i].name)) continue;
        t->bpe.ignore_merges = splittings[i].ignore_merges;
        return read_splitting(t, splittings[i].pre, splittings[i].normalizer);
    }
    return status_fail(
        E_FORMAT,
        "tokenizer.ggml.pre = \"%.80s\" is not supported (smollm, gpt-2, qwen2 and llama-bpe are)",
        pre);
}

enum { GGML_UNKNOWN = 2, GGML_CONTROL = 3, GGML_USER_DEFINED = 4 };

static Status read_token(Tokenizer *t, int id, const char *token, int type, Text *bytes) {
    size_t len = strlen(token);
    int special = type == GGML_CONTROL || type == GGML_UNKNOWN;
    if (special || type == GGML_USER_DEFINED) {
        AddedToken a = {.id = id, .content = token, .special = special};
        if (len == 0 || len > ADDED_BYTES_MAX)
            return status_fail(E_FORMAT, "token %d: an added token must have 1 to %d bytes", id,
                               ADDED_BYTES_MAX);
        tokenizer_add_added(t, &a);
    }
    text_clear(bytes);
    /* a control token is never the result of merges */
    int is_bytes = !special && alphabet_decode(bytes, token, len);
    return is_bytes ? bpe_set_token(&t->bpe, id, bytes->s ? bytes->s : "", bytes->len, TOKEN_BYTES)
                    : bpe_set_token(&t->bpe, id, token, len, TOKEN_VERBATIM);
}

static Status read_tokens(Tokenizer *t, const GgufTokenizer *g) {
    Text bytes = {0};
    Status s = OK;
    for (int id = 0; id < g->n_tokens && s == OK; id++) {
        if (utf8_prefix(g->tokens[id], strlen(g->tokens[id])) != strlen(g->tokens[id]))
            s = status_fail(E_FORMAT, "token %d is not UTF-8", id);
        else
            s = read_token(t, id, g->tokens[id], g->types ? g->types[id] : 1, &bytes);
    }
    text_release(&bytes);
    return s == OK ? bpe_index(&t->bpe) : s;
}

static Status read_merge(Tokenizer *t, const char *merge, int number, Text *left, Text *right) {
    const char *space = strchr(merge, ' ');
    text_clear(left);
    text_clear(right);
    if (!space || space == merge || !space[1] ||
        !alphabet_decode(left, merge, (size_t)(space - merge)) ||
        !alphabet_decode(right, space + 1, strlen(space + 1)) ||
        !bpe_add_merge(&t->bpe, left->s, left->len, right->s, right->len))
        return status_fail(
            E_FORMAT, "merge %d, \"%.80s\", is not two tokens of the vocabulary that make a third",
            number, merge);
    return OK;
}

static Status read_merges(Tokenizer *t, const GgufTokenizer *g) {
    Text left = {0}, right = {0};
    Status s = OK;
    for (int i = 0; i < g->n_merges && s == OK; i++)
        s = read_merge(t, g->merges[i], i, &left, &right);
    text_release(&left);
    text_release(&right);
    return s;
}

static Status set_end(Tokenizer *t, int id, const char *what, int **v, int *n) {
    if (id < 0 || id >= t->bpe.n)
        return status_fail(E_FORMAT, "the tokenizer adds a %s token to texts but names none", what);
    *v = arena_alloc(&t->arena, sizeof(**v));
    (*v)[0] = id;
    *n = 1;
    return OK;
}

/* A post-processor for tokenizer_save: transformers must add the same ids. */
static void write_post_processor(Tokenizer *t) {
    if (!t->n_prefix && !t->n_suffix) return;
    Text text = {0}, table = {0};
    text_add(&text, "{\"type\":\"TemplateProcessing\",\"single\":[");
    for (int i = 0; i < 3; i++) {
        int id = i == 0 && t->n_prefix ? t->prefix[0] : i == 2 && t->n_suffix ? t->suffix[0] : -1;
        if (i == 1)
            text_addf(&text, "%s{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}",
                      t->n_prefix ? "," : "");
        if (id < 0) continue;
        const Token *token = &t->bpe.token[id];
        Text name = {0};
        json_put_string_n(&name, t->bpe.pool.s + token->at, token->len);
        text_addf(&text, "%s{\"SpecialToken\":{\"id\":%s,\"type_id\":0}}", i == 2 ? "," : "",
                  name.s);
        if (i == 0 || !t->n_prefix || t->prefix[0] != id)
            text_addf(&table, "%s%s:{\"id\":%s,\"ids\":[%d],\"tokens\":[%s]}", table.len ? "," : "",
                      name.s, name.s, id, name.s);
        text_release(&name);
    }
    text_addf(
        &text,
        "],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
        "\"special_tokens\":{%s}}",
        table.s);
    t->source.post_processor = arena_strdup(&t->arena, text.s);
    text_release(&text);
    text_release(&table);
}

static Status from_gguf(Tokenizer *t, const GgufTokenizer *g) {
    if (g->n_tokens <= 0 || g->n_tokens > TOKENS_MAX || g->n_merges < 0 || g->n_merges > TOKENS_MAX)
        return status_fail(E_FORMAT, "a vocabulary of %d tokens and %d merges is not possible",
                           g->n_tokens, g->n_merges);
    TRY(tokenizer_set_splitting(t, g->pre));
    TRY(bpe_reserve(&t->bpe, g->n_tokens, g->n_merges));
    TRY(read_tokens(t, g));
    TRY(read_merges(t, g));
    tokenizer_add_eos(t, g->eos);
    t->bos = g->bos;
    t->pad = g->pad;
    if (g->chat_template) t->chat_template = arena_strdup(&t->arena, g->chat_template);
    if (g->add_bos) TRY(set_end(t, g->bos, "beginning", &t->prefix, &t->n_prefix));
    if (g->add_eos) TRY(set_end(t, g->eos, "ending", &t->suffix, &t->n_suffix));
    write_post_processor(t);
    return tokenizer_finish(t);
}

Status tokenizer_from_gguf(Tokenizer **t, const GgufTokenizer *g) {
    Tokenizer *new = tokenizer_new();
    Status s = from_gguf(new, g);
    *t = s == OK ? new : NULL;
    if (s != OK) tokenizer_release(new);
    return s;
}

static Status read_metadata(Gguf *g, GgufTokenizer *out) {
    const char *model = "";
    int n_types = 0;
    *out = (GgufTokenizer){.pre = "default", .bos = -1, .eos = -1, .pad = -1};
    TRY(gguf_str(g, "tokenizer.ggml.model", GGUF_REQUIRED, &model));
    if (strcmp(model, "gpt2"))
        return status_fail(
            E_FORMAT,
            "%s: the tokenizer model \"%.80s\" is not supported (gpt2, byte-level BPE, is)",
            gguf_path(g), model);
    TRY(gguf_str(g, "tokenizer.ggml.pre", GGUF_OPTIONAL, &out->pre));
    TRY(gguf_strings(g, "tokenizer.ggml.tokens", GGUF_REQUIRED, &out->tokens, &out->n_tokens));
    TRY(gguf_ints(g, "tokenizer.ggml.token_type", GGUF_OPTIONAL, &out->types, &n_types));
    if (out->types && n_types != out->n_tokens)
        return status_fail(E_FORMAT, "%s: there are %d tokens and %d token types", gguf_path(g),
                           out->n_tokens, n_types);
    TRY(gguf_strings(g, "tokenizer.ggml.merges", GGUF_REQUIRED, &out->merges, &out->n_merges));
    TRY(gguf_int(g, "tokenizer.ggml.bos_token_id", GGUF_OPTIONAL, &out->bos));
    TRY(gguf_int(g, "tokenizer.ggml.eos_token_id", GGUF_OPTIONAL, &out->eos));
    TRY(gguf_int(g, "tokenizer.ggml.padding_token_id", GGUF_OPTIONAL, &out->pad));
    out->add_bos = !strcmp(out->pre, "llama-bpe"); /* what the format says when the key is absent */
    TRY(gguf_bool(g, "tokenizer.ggml.add_bos_token", GGUF_OPTIONAL, &out->add_bos));
    TRY(gguf_bool(g, "tokenizer.ggml.add_eos_token", GGUF_OPTIONAL, &out->add_eos));
    return gguf_str(g, "tokenizer.chat_template", GGUF_OPTIONAL, &out->chat_template);
}

Status tokenizer_open_gguf(Tokenizer **t, const char *path) {
    Gguf *g;
    GgufTokenizer parts;
    *t = NULL;
    TRY(gguf_open(&g, path));
    Status s = read_metadata(g, &parts);
    if (s == OK) {
        s = tokenizer_from_gguf(t, &parts);
        if (s != OK) status_context(s, "%s", path);
    }
    gguf_close(g);
    return s;
}
