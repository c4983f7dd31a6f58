/* normalize.c - the normalizer of a tokenizer.json: steps that rewrite the text between added
 * tokens. */
#include <string.h>
#include <utf8proc.h>
#include "datasets/tokenizer_parts.h"

/* ---- Replace, which decoders share ---- */

Status replacer_read(Replacer *r, Arena *a, const JsonDoc *doc, const Json *node) {
    const Json *pattern = NULL;
    const char *regex = NULL, *literal = NULL, *content = NULL;
    TRY(json_get_node(doc, node, "pattern", JSON_REQUIRED, JSON_OBJECT, &pattern));
    TRY(json_get_str(doc, pattern, "Regex", JSON_OPTIONAL, &regex));
    TRY(json_get_str(doc, pattern, "String", JSON_OPTIONAL, &literal));
    TRY(json_get_str(doc, node, "content", JSON_REQUIRED, &content));
    if ((!regex || !*regex) && (!literal || !*literal))
        return json_fail(doc, pattern, "Replace needs a pattern that is not empty");
    if (strlen(content) > 1024) return json_fail(doc, node, "Replace inserts more than 1024 bytes");
    r->content = arena_strdup(a, content);
    r->n_content = strlen(content);
    if (!regex) {
        r->literal = arena_strdup(a, literal);
        r->n_literal = strlen(literal);
        return OK;
    }
    Status s = regex_compile(&r->regex, regex);
    return s == OK ? OK : status_context(s, "%s", json_name(doc));
}

void replacer_release(Replacer *r) {
    regex_release(r->regex);
    r->regex = NULL;
}

static Status too_long(const Text *out) {
    return out->len <= TOKENIZER_TEXT_MAX
               ? OK
               : status_fail(E_USAGE, "normalising makes the text longer than %d bytes",
                             TOKENIZER_TEXT_MAX);
}

static const char *find_literal(const Replacer *r, const char *s, size_t n) {
    return r->n_literal <= 8 ? find_short(s, n, r->literal, r->n_literal)
                             : memmem(s, n, r->literal, r->n_literal);
}

static Status replace_literal(const Replacer *r, const char *s, size_t n, Text *out) {
    for (const char *at; n > 0 && (at = find_literal(r, s, n));) {
        text_add_bytes(out, s, (size_t)(at - s));
        text_add_bytes(out, r->content, r->n_content);
        TRY(too_long(out));
        n -= (size_t)(at - s) + r->n_literal;
        s = at + r->n_literal;
    }
    text_add_bytes(out, s, n);
    return OK;
}

/* s is valid UTF-8 */
static Status replace_regex(const Replacer *r, RegexScratch *x, const char *s, size_t n,
                            Text *out) {
    RegexWalk walk = {.regex = r->regex, .scratch = x, .s = s, .n = n};
    size_t done = 0;
    for (int found;;) {
        TRY(regex_walk(&walk, &found));
        if (!found) break;
        text_add_bytes(out, s + done, walk.from - done);
        text_add_bytes(out, r->content, r->n_content);
        TRY(too_long(out));
        done = walk.to;
    }
    text_add_bytes(out, s + done, n - done);
    return OK;
}

static Status replace_valid(const Replacer *r, RegexScratch *x, const char *s, size_t n,
                            Text *out) {
    while (n > 0) {
        size_t valid = utf8_prefix(s, n), used = valid ? valid : 1;
        if (valid)
            TRY(replace_regex(r, x, s, valid, out));
        else
            text_add_bytes(out, s, 1);
        s += used, n -= used;
    }
    return OK;
}

Status replacer_run(const Replacer *r, const char *s, size_t n, Text *out) {
    if (!r->regex) return replace_literal(r, s, n, out);
    RegexScratch *x;
    TRY(regex_scratch_create(&x));
    Status status = replace_valid(r, x, s, n, out);
    regex_scratch_release(x);
    return status;
}

/* ---- the steps ---- */

static Status lowercase(const char *s, size_t n, Text *out) {
    for (size_t at = 0; at < n;) {
        int32_t code;
        int used = utf8_char(s + at, n - at, &code);
        uint8_t low[4];
        if (code == 0x130) {
            text_add(out, "i\xcc\x87"); /* the only letter whose lower case is two characters */
        } else if (code < 0) {
            text_add_bytes(out, s + at, (size_t)used);
        } else {
            text_add_bytes(out, (char *)low,
                           (size_t)utf8proc_encode_char(utf8proc_tolower(code), low));
        }
        at += (size_t)used;
    }
    return OK;
}

static Status strip(const NormalizeStep *step, const char *s, size_t n, Text *out) {
    size_t from = step->left ? utf8_skip_space(s, n, 0) : 0;
    size_t to = step->right ? utf8_skip_space_left(s, n, from) : n;
    text_add_bytes(out, s + from, to - from);
    return OK;
}

static Status run_step(const NormalizeStep *step, const char *s, size_t n, Text *out) {
    switch (step->kind) {
    case NORMALIZE_FORM: return unicode_append(out, s, n, step->form);
    case NORMALIZE_REPLACE: return replacer_run(&step->replace, s, n, out);
    case NORMALIZE_LOWERCASE: return lowercase(s, n, out);
    case NORMALIZE_STRIP: return strip(step, s, n, out);
    case NORMALIZE_PREPEND:
        if (n) text_add(out, step->prefix);
        text_add_bytes(out, s, n);
        return OK;
    }
    return OK;
}

Status normalizer_run(const Normalizer *n, const char *s, size_t len, Text *out) {
    Text spare = {0};
    Status status = OK;
    for (int i = 0; i < n->n && status == OK; i++) {
        text_clear(&spare);
        status = run_step(&n->step[i], s, len, &spare);
        if (status == OK) status = too_long(&spare);
        Text swap = *out;
        *out = spare;
        spare = swap;
        s = out->s ? out->s : "";
        len = out->len;
    }
    text_release(&spare);
    return status;
}

static Status add_step(Normalizer *n, const JsonDoc *doc, const Json *node, NormalizeStep step) {
    if (n->n == NORMALIZE_STEPS)
        return json_fail(doc, node, "more than %d steps of normalizing", NORMALIZE_STEPS);
    n->step[n->n++] = step;
    return OK;
}

static Status read_prepend(Normalizer *n, Arena *a, const JsonDoc *doc, const Json *node) {
    const char *prefix = NULL;
    TRY(json_get_str(doc, node, "prepend", JSON_REQUIRED, &prefix));
    if (strlen(prefix) > 1024) return json_fail(doc, node, "Prepend inserts more than 1024 bytes");
    return add_step(n, doc, node,
                    (NormalizeStep){.kind = NORMALIZE_PREPEND, .prefix = arena_strdup(a, prefix)});
}

static Status read_replace(Normalizer *n, Arena *a, const JsonDoc *doc, const Json *node) {
    TRY(add_step(n, doc, node, (NormalizeStep){.kind = NORMALIZE_REPLACE}));
    return replacer_read(&n->step[n->n - 1].replace, a, doc, node);
}

static Status read_strip(Normalizer *n, const JsonDoc *doc, const Json *node) {
    NormalizeStep step = {.kind = NORMALIZE_STRIP, .left = 1, .right = 1};
    TRY(json_get_bool(doc, node, "strip_left", JSON_OPTIONAL, &step.left));
    TRY(json_get_bool(doc, node, "strip_right", JSON_OPTIONAL, &step.right));
    return add_step(n, doc, node, step);
}

Status normalizer_read(Normalizer *n, Arena *a, const JsonDoc *doc, const Json *node) {
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    const char *type = "";
    const Json *list = NULL;
    TRY(json_node_type(doc, node, &type));
    for (int i = 0; i < 4; i++)
        if (!strcmp(type, forms[i]))
            return add_step(n, doc, node,
                            (NormalizeStep){.kind = NORMALIZE_FORM, .form = (UnicodeForm)i});
    if (!strcmp(type, "Prepend")) return read_prepend(n, a, doc, node);
    if (!strcmp(type, "Replace")) return read_replace(n, a, doc, node);
    if (!strcmp(type, "Strip")) return read_strip(n, doc, node);
    if (!strcmp(type, "Lowercase"))
        return add_step(n, doc, node, (NormalizeStep){.kind = NORMALIZE_LOWERCASE});
    if (strcmp(type, "Sequence"))
        return json_fail(doc, node,
                         "the normalizer \"%s\" is not supported (NFC, NFD, NFKC, NFKD, Prepend, "
                         "Replace, Lowercase, Strip and Sequence are)",
                         type);
    TRY(json_get_node(doc, node, "normalizers", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *c = json_first(list); c; c = json_next(c)) TRY(normalizer_read(n, a, doc, c));
    return OK;
}

int normalizer_composes(const Normalizer *n) {
    for (int i = 0; i < n->n; i++)
        if (n->step[i].kind == NORMALIZE_FORM && n->step[i].form == UNICODE_NFC) return 1;
    return 0;
}

void normalizer_release(Normalizer *n) {
    for (int i = 0; i < n->n; i++) replacer_release(&n->step[i].replace);
}
