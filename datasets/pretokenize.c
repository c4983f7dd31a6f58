/* pretokenize.c - text into pieces that merges never cross: a chain of splits by regex (PCRE2 JIT),
 * as tokenizer.json's Split, Digits and ByteLevel describe them. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <stdlib.h>
#include <pcre2.h>
#include <string.h>
#include "datasets/pretokenize_regex.h"
#include "datasets/tokenizer_parts.h"

enum { MAX_STAGES = 8 };
typedef enum { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT } Behavior;

typedef struct {
    pcre2_code *code; /* NULL: the stage does not split */
    Behavior behavior;
    int invert;
    int prefix_space; /* ByteLevel's add_prefix_space */
} Stage;

struct Pretokenizer {
    Stage stage[MAX_STAGES];
    int n;
    pcre2_match_context *limits;
};

typedef struct {
    const Pretokenizer *p;
    PieceFn emit;
    void *ctx;
    pcre2_match_context *match;
    pcre2_jit_stack *stack; /* made when the machine's own does not suffice */
    pcre2_match_data *data[MAX_STAGES];
} Run;

/* The regex of GPT-2 (Radford et al. 2019). */
static const char BYTE_LEVEL_REGEX[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static Status compile(pcre2_code **code, const char *pattern) {
    Text text = {0};
    Status s = regex_translate(&text, pattern);
    if (s == OK) {
        pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
        int error = 0;
        size_t at = 0;
        if (ctx) pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
        *code = pcre2_compile((PCRE2_SPTR)text.s, text.len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                              &error, &at, ctx);
        pcre2_compile_context_free(ctx);
        if (!*code) {
            char reason[160] = "";
            pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof(reason));
            s = status_fail(E_FORMAT, "the splitting regex %.200s cannot be compiled: %s", pattern,
                            reason);
        } else {
            pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* without JIT pcre2_match interprets */
        }
    }
    text_release(&text);
    return s;
}

static Status add_stage(Pretokenizer *p, const JsonDoc *doc, const Json *at, const char *pattern,
                        Stage stage) {
    if (p->n == MAX_STAGES)
        return json_fail(doc, at, "more than %d steps of pre-tokenizing", MAX_STAGES);
    if (pattern) {
        Status s = compile(&stage.code, pattern);
        if (s != OK) return status_context(s, "%s", json_name(doc));
    }
    p->stage[p->n++] = stage;
    return OK;
}

static Status behavior_of(const JsonDoc *doc, const Json *node, Behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext"};
    const char *name = NULL;
    TRY(json_get_str(doc, node, "behavior", JSON_REQUIRED, &name));
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i])) continue;
        *out = (Behavior)i;
        return OK;
    }
    return json_fail(doc, json_get(node, "behavior"), "Split with behavior \"%s\" is not supported",
                     name);
}

static void quote_literal(Text *out, const char *s) {
    for (; *s; s++) {
        if (strchr("\\^$.[]|()?*+{}#-&", *s)) text_add(out, "\\");
        text_add_bytes(out, s, 1);
    }
}

static Status add_split(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    const Json *pattern = NULL;
    Stage stage = {0};
    TRY(json_get_node(doc, node, "pattern", JSON_REQUIRED, JSON_OBJECT, &pattern));
    TRY(behavior_of(doc, node, &stage.behavior));
    TRY(json_get_bool(doc, node, "invert", JSON_OPTIONAL, &stage.invert));
    const char *regex = NULL, *literal = NULL;
    TRY(json_get_str(doc, pattern, "Regex", JSON_OPTIONAL, &regex));
    TRY(json_get_str(doc, pattern, "String", JSON_OPTIONAL, &literal));
    if (regex) return add_stage(p, doc, pattern, regex, stage);
    if (!literal || !*literal)
        return json_fail(doc, pattern, "Split needs a pattern {\"Regex\": ...}");

    Text quoted = {0};
    quote_literal(&quoted, literal);
    Status s = add_stage(p, doc, pattern, quoted.s, stage);
    text_release(&quoted);
    return s;
}

static Status add_byte_level(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    int prefix_space = 1, use_regex = 1;
    TRY(json_get_bool(doc, node, "add_prefix_space", JSON_OPTIONAL, &prefix_space));
    TRY(json_get_bool(doc, node, "use_regex", JSON_OPTIONAL, &use_regex));
    return add_stage(p, doc, node, use_regex ? BYTE_LEVEL_REGEX : NULL,
                     (Stage){.prefix_space = prefix_space});
}

static Status add_digits(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    int individual = 0;
    TRY(json_get_bool(doc, node, "individual_digits", JSON_OPTIONAL, &individual));
    return add_stage(p, doc, node, individual ? "\\p{N}" : "\\p{N}+", (Stage){0});
}

/* ByteLevel must come, and come last: what follows it would split the byte alphabet's characters.
 */
static Status add_node(Pretokenizer *p, const JsonDoc *doc, const Json *node, int depth,
                       int *byte_level) {
    const char *type = "";
    TRY(json_get_str(doc, node, "type", JSON_REQUIRED, &type));
    if (*byte_level)
        return json_fail(doc, node, "a pre-tokenizer after ByteLevel is not supported");
    if (!strcmp(type, "Split")) return add_split(p, doc, node);
    if (!strcmp(type, "Digits")) return add_digits(p, doc, node);
    if (!strcmp(type, "ByteLevel")) {
        *byte_level = 1;
        return add_byte_level(p, doc, node);
    }
    if (strcmp(type, "Sequence") || depth > 0)
        return json_fail(
            doc, node,
            "the pre-tokenizer \"%s\" is not supported (Split, Digits and ByteLevel are)", type);
    const Json *list = NULL;
    TRY(json_get_node(doc, node, "pretokenizers", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *n = json_first(list); n; n = json_next(n))
        TRY(add_node(p, doc, n, depth + 1, byte_level));
    return OK;
}

static Status create(Pretokenizer *p, const JsonDoc *doc, const Json *node) {
    int byte_level = 0;
    p->limits = pcre2_match_context_create(NULL);
    if (!p->limits) return status_fail(E_MEMORY, "memory ran out while reading a tokenizer");
    /* a run of millions of spaces exceeds the default limits */
    pcre2_set_match_limit(p->limits, UINT32_MAX);
    pcre2_set_depth_limit(p->limits, UINT32_MAX);
    pcre2_set_heap_limit(p->limits, 1u << 20); /* KiB */
    TRY(add_node(p, doc, node, 0, &byte_level));
    if (!byte_level)
        return json_fail(doc, node, "a pre-tokenizer without ByteLevel is not supported");
    return OK;
}

Status pretokenizer_create(Pretokenizer **p, const JsonDoc *doc, const Json *node) {
    *p = calloc(1, sizeof(**p));
    if (!*p) return status_fail(E_MEMORY, "memory ran out while reading a tokenizer");
    Status s = create(*p, doc, node);
    if (s != OK) {
        pretokenizer_release(*p);
        *p = NULL;
    }
    return s;
}

void pretokenizer_release(Pretokenizer *p) {
    if (!p) return;
    for (int i = 0; i < p->n; i++) pcre2_code_free(p->stage[i].code);
    pcre2_match_context_free(p->limits);
    free(p);
}

static int match_once(Run *r, int k, const char *s, size_t n, size_t at) {
    return pcre2_match(r->p->stage[k].code, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, r->data[k],
                       r->match);
}

static int match(Run *r, int k, const char *s, size_t n, size_t at) {
    int rc = match_once(r, k, s, n, at);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT || r->stack) return rc;
    r->stack = pcre2_jit_stack_create(64 << 10, 256 << 20, NULL);
    if (!r->stack) return PCRE2_ERROR_NOMEMORY;
    pcre2_jit_stack_assign(r->match, NULL, r->stack);
    return match_once(r, k, s, n, at);
}

static Status stage_run(Run *r, int k, const char *s, size_t n);

/* What is not split further: matches and the gaps between them, joined as the behaviour says. */
typedef struct {
    Run *run;
    int k;
    const char *s;
    size_t held, end; /* [held, end) waits for what comes next */
} Joiner;

static Status flush(Joiner *j) {
    size_t from = j->held;
    j->held = j->end;
    return j->end > from ? stage_run(j->run, j->k + 1, j->s + from, j->end - from) : OK;
}

static Status join(Joiner *j, size_t from, size_t to, int is_match) {
    if (to == from) return OK;
    const Stage *stage = &j->run->p->stage[j->k];
    is_match ^= stage->invert;
    switch (stage->behavior) {
    case REMOVED:
        if (is_match) {
            TRY(flush(j));
            j->held = j->end = to;
            return OK;
        } /* fall through */
    case ISOLATED:
        TRY(flush(j));
        j->end = to;
        return flush(j);
    case MERGED_WITH_PREVIOUS: j->end = to; return is_match ? flush(j) : OK;
    case MERGED_WITH_NEXT:
        if (is_match) TRY(flush(j));
        j->end = to;
        return OK;
    }
    return OK;
}

static Status split(Run *r, int k, const char *s, size_t n) {
    Joiner j = {r, k, s, 0, 0};
    size_t done = 0, at = 0;
    while (at <= n) {
        int rc = match(r, k, s, n, at);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            char reason[160] = "";
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof(reason));
            return status_fail(E_FORMAT, "splitting %zu bytes of text into pieces: %s", n, reason);
        }
        const size_t *range = pcre2_get_ovector_pointer(r->data[k]);
        size_t from = range[0], to = range[1];
        if (from > to || to < at)
            return status_fail(E_FORMAT, "a splitting regex matched backwards");
        TRY(join(&j, done, from, 0));
        TRY(join(&j, from, to, 1));
        done = at = to;
        if (from == to) { /* an empty match still splits; look on behind the next character */
            int32_t code;
            at += at < n ? (size_t)utf8_char(s + at, n - at, &code) : 1;
        }
    }
    TRY(join(&j, done, n, 0));
    return flush(&j);
}

static Status stage_run(Run *r, int k, const char *s, size_t n) {
    if (k == r->p->n) return r->emit(r->ctx, s, n);
    const Stage *stage = &r->p->stage[k];
    if (stage->prefix_space && s[0] != ' ') {
        Text spaced = {0};
        text_add(&spaced, " ");
        text_add_bytes(&spaced, s, n);
        Status status = stage->code ? split(r, k, spaced.s, spaced.len)
                                    : stage_run(r, k + 1, spaced.s, spaced.len);
        text_release(&spaced);
        return status;
    }
    return stage->code ? split(r, k, s, n) : stage_run(r, k + 1, s, n);
}

static Status run_all(Run *r, const char *s, size_t n) {
    while (n > 0) {
        size_t valid = utf8_prefix(s, n), broken = 0;
        if (valid > 0) TRY(stage_run(r, 0, s, valid));
        while (valid + broken < n &&
               utf8_prefix(s + valid + broken, n - valid - broken > 4 ? 4 : n - valid - broken) ==
                   0)
            broken++;
        if (broken > 0) TRY(r->emit(r->ctx, s + valid, broken));
        s += valid + broken;
        n -= valid + broken;
    }
    return OK;
}

Status pretokenizer_run(const Pretokenizer *p, const char *s, size_t n, PieceFn emit, void *ctx) {
    Run r = {.p = p, .emit = emit, .ctx = ctx, .match = pcre2_match_context_copy(p->limits)};
    int ready = r.match != NULL;
    for (int k = 0; k < p->n; k++) {
        if (!p->stage[k].code) continue;
        r.data[k] = pcre2_match_data_create(1, NULL);
        ready = ready && r.data[k];
    }
    Status status = ready
                        ? run_all(&r, s, n)
                        : status_fail(E_MEMORY, "memory ran out while splitting text into pieces");
    for (int k = 0; k < p->n; k++) pcre2_match_data_free(r.data[k]);
    pcre2_match_context_free(r.match);
    pcre2_jit_stack_free(r.stack);
    return status;
}
