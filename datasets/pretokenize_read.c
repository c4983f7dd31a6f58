/* pretokenize_read.c - the pre_tokenizer of a tokenizer.json as a chain of stages. */
#include <stdlib.h>
#include <string.h>
#include "datasets/pretokenize.h"

/* The regex of GPT-2 (Radford et al. 2019). */
static const char BYTE_LEVEL_REGEX[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Rust's \w and \s, which Whitespace, WhitespaceSplit and Punctuation are made of, for PCRE2 */
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"  \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define SPACE                                                                                      \
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"            \
    "\\x{205f}\\x{3000}"
static const char WORDS[] = "[" WORD "]+|[^" WORD SPACE "]+";
static const char SPACES[] = "[" SPACE "]";
static const char PUNCTUATION[] = "[!-/:-@\\[-`{-~\\p{P}]";

static Status add_stage(Pretokenizer *p, const JsonDoc *doc, const Json *at, Stage stage) {
    if (p->n == MAX_STAGES) {
        regex_release(stage.regex);
        return json_fail(doc, at, "more than %d steps of pre-tokenizing", MAX_STAGES);
    }
    p->stage[p->n++] = stage;
    return OK;
}

static Status add_regex(Pretokenizer *p, const JsonDoc *doc, const Json *at,
                        Status (*compile)(Regex **, const char *), const char *pattern,
                        Stage stage) {
    Status s = compile(&stage.regex, pattern);
    return s == OK ? add_stage(p, doc, at, stage) : status_context(s, "%s", json_name(doc));
}

static Status read_behavior(const JsonDoc *doc, const Json *node, JsonNeed need, Behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = names[ISOLATED];
    TRY(json_get_str(doc, node, "behavior", need, &name));
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i])) continue;
        *out = (Behavior)i;
        return OK;
    }
    return json_fail(doc, json_get(node, "behavior"), "the behavior \"%s\" is not supported", name);
}

static Status read_split(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    const Json *pattern = NULL;
    Stage stage = {0};
    TRY(json_get_node(doc, node, "pattern", JSON_REQUIRED, JSON_OBJECT, &pattern));
    TRY(read_behavior(doc, node, JSON_REQUIRED, &stage.behavior));
    TRY(json_get_bool(doc, node, "invert", JSON_OPTIONAL, &stage.invert));
    const char *regex = NULL, *literal = NULL;
    TRY(json_get_str(doc, pattern, "Regex", JSON_OPTIONAL, &regex));
    TRY(json_get_str(doc, pattern, "String", JSON_OPTIONAL, &literal));
    if (regex) return add_regex(p, doc, pattern, regex_compile, regex, stage);
    if (literal && *literal)
        return add_regex(p, doc, pattern, regex_compile_literal, literal, stage);
    return json_fail(doc, pattern, "Split needs a pattern {\"Regex\": ...}");
}

static Status read_byte_level(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    Stage stage = {.prefix_space = 1};
    int use_regex = 1;
    TRY(json_get_bool(doc, node, "add_prefix_space", JSON_OPTIONAL, &stage.prefix_space));
    TRY(json_get_bool(doc, node, "use_regex", JSON_OPTIONAL, &use_regex));
    p->bytes = 1;
    return use_regex ? add_regex(p, doc, node, regex_compile, BYTE_LEVEL_REGEX, stage)
                     : add_stage(p, doc, node, stage);
}

static Status read_digits(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    int individual = 0;
    TRY(json_get_bool(doc, node, "individual_digits", JSON_OPTIONAL, &individual));
    return add_regex(p, doc, node, regex_compile, individual ? "\\p{N}" : "\\p{N}+", (Stage){0});
}

static Status read_punctuation(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    Stage stage = {0};
    TRY(read_behavior(doc, node, JSON_OPTIONAL, &stage.behavior));
    return add_regex(p, doc, node, regex_compile_native, PUNCTUATION, stage);
}

static Status read_scheme(const JsonDoc *doc, const Json *node, PrependScheme *out) {
    static const char *const names[] = {"always", "first", "never"};
    const char *name = NULL;
    int prefix_space = 1;
    TRY(json_get_str(doc, node, "prepend_scheme", JSON_OPTIONAL, &name));
    TRY(json_get_bool(doc, node, "add_prefix_space", JSON_OPTIONAL, &prefix_space));
    *out = prefix_space ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (!name) return OK;
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i])) continue;
        *out = (PrependScheme)i;
        if (!prefix_space && *out != PREPEND_NEVER)
            return json_fail(doc, node,
                             "add_prefix_space false contradicts the prepend_scheme \"%s\"", name);
        return OK;
    }
    return json_fail(doc, node, "the prepend_scheme \"%s\" is not supported", name);
}

Status metaspace_read(const JsonDoc *doc, const Json *node, const char **space, int *prepends) {
    PrependScheme scheme = PREPEND_ALWAYS;
    TRY(json_get_str(doc, node, "replacement", JSON_REQUIRED, space));
    int32_t code = 0;
    size_t n = strlen(*space);
    if (n == 0 || (size_t)utf8_char(*space, n, &code) != n)
        return json_fail(doc, node, "Metaspace needs a replacement of one character");
    TRY(read_scheme(doc, node, &scheme));
    *prepends = scheme != PREPEND_NEVER;
    return OK;
}

static Status read_metaspace(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    Stage stage = {.split = 1};
    int prepends;
    TRY(metaspace_read(doc, node, &stage.space, &prepends));
    TRY(read_scheme(doc, node, &stage.prepend));
    TRY(json_get_bool(doc, node, "split", JSON_OPTIONAL, &stage.split));
    stage.space = arena_strdup(&p->arena, stage.space);
    return add_stage(p, doc, node, stage);
}

/* ByteLevel must come last: what follows it would split the byte alphabet's characters. */
static Status read_node(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    const char *type = "";
    const Json *list = NULL;
    TRY(json_node_type(doc, node, &type));
    if (p->bytes) return json_fail(doc, node, "a pre-tokenizer after ByteLevel is not supported");
    if (!strcmp(type, "Split")) return read_split(p, doc, node);
    if (!strcmp(type, "Digits")) return read_digits(p, doc, node);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(p, doc, node);
    if (!strcmp(type, "Metaspace")) return read_metaspace(p, doc, node);
    if (!strcmp(type, "Punctuation")) return read_punctuation(p, doc, node);
    if (!strcmp(type, "Whitespace"))
        return add_regex(p, doc, node, regex_compile_native, WORDS,
                         (Stage){.behavior = REMOVED, .invert = 1});
    if (!strcmp(type, "WhitespaceSplit"))
        return add_regex(p, doc, node, regex_compile_native, SPACES, (Stage){.behavior = REMOVED});
    if (strcmp(type, "Sequence"))
        return json_fail(doc, node,
                         "the pre-tokenizer \"%s\" is not supported (Split, Digits, ByteLevel, "
                         "Metaspace, Whitespace, WhitespaceSplit, Punctuation and Sequence are)",
                         type);
    TRY(json_get_node(doc, node, "pretokenizers", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *n = json_first(list); n; n = json_next(n)) TRY(read_node(p, doc, n));
    return OK;
}

Status pretokenizer_create(Pretokenizer **p, const JsonDoc *doc, const Json *node) {
    *p = calloc(1, sizeof(**p));
    if (!*p) return status_fail(E_MEMORY, "memory ran out while reading a tokenizer");
    Status s = node ? read_node(*p, doc, node) : OK;
    if (s != OK) {
        pretokenizer_release(*p);
        *p = NULL;
    }
    return s;
}

int pretokenizer_is_bytes(const Pretokenizer *p) {
    return p->bytes;
}

void pretokenizer_release(Pretokenizer *p) {
    if (!p) return;
    for (int i = 0; i < p->n; i++) regex_release(p->stage[i].regex);
    arena_release(&p->arena);
    free(p);
}
