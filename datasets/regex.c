/* regex.c - compiled patterns and their matching, by PCRE2 with JIT. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "datasets/regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct Regex {
    pcre2_code *code;
    int jit;
};

struct RegexScratch {
    pcre2_match_context *match;
    pcre2_jit_stack *stack; /* made when the machine's own does not suffice */
    pcre2_match_data *data;
};

static Status no_memory(void) {
    return status_fail(E_MEMORY, "memory ran out for a tokenizer's regex");
}

Status regex_compile_native(Regex **r, const char *pattern) {
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    int error = 0;
    size_t at = 0;
    *r = calloc(1, sizeof(**r));
    if (!*r || !ctx) {
        pcre2_compile_context_free(ctx);
        free(*r);
        *r = NULL;
        return no_memory();
    }
    pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
    (*r)->code = pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern),
                               PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at, ctx);
    pcre2_compile_context_free(ctx);
    if (!(*r)->code) {
        char reason[160] = "";
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof(reason));
        regex_release(*r);
        *r = NULL;
        return status_fail(E_FORMAT, "the splitting regex %.200s cannot be compiled: %s", pattern,
                           reason);
    }
    (*r)->jit = pcre2_jit_compile((*r)->code, PCRE2_JIT_COMPLETE) == 0;
    return OK;
}

Status regex_compile(Regex **r, const char *pattern) {
    Text text = {0};
    *r = NULL;
    Status s = regex_translate(&text, pattern);
    if (s == OK) s = regex_compile_native(r, text.s ? text.s : "");
    text_release(&text);
    return s;
}

Status regex_compile_literal(Regex **r, const char *text) {
    Text quoted = {0};
    for (const char *s = text; *s; s++) {
        if (strchr("\\^$.[]|()?*+{}#-&", *s)) text_add(&quoted, "\\");
        text_add_bytes(&quoted, s, 1);
    }
    Status s = regex_compile_native(r, quoted.s ? quoted.s : "");
    text_release(&quoted);
    return s;
}

void regex_release(Regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

Status regex_scratch_create(RegexScratch **x) {
    RegexScratch *new = *x = calloc(1, sizeof(*new));
    if (!new) return no_memory();
    new->match = pcre2_match_context_create(NULL);
    new->data = pcre2_match_data_create(1, NULL);
    if (!new->match || !new->data) {
        regex_scratch_release(new);
        *x = NULL;
        return no_memory();
    }
    /* a run of millions of spaces exceeds the default limits */
    pcre2_set_match_limit(new->match, UINT32_MAX);
    pcre2_set_depth_limit(new->match, UINT32_MAX);
    pcre2_set_heap_limit(new->match, 1u << 20); /* KiB */
    return OK;
}

void regex_scratch_release(RegexScratch *x) {
    if (!x) return;
    pcre2_match_data_free(x->data);
    pcre2_match_context_free(x->match);
    pcre2_jit_stack_free(x->stack);
    free(x);
}

static int match_once(const Regex *r, RegexScratch *x, const char *s, size_t n, size_t at) {
    /* the JIT's own entry leaves out checks of options, a third of the time of short matches */
    return r->jit
               ? pcre2_jit_match(r->code, (PCRE2_SPTR)s, n, at, 0, x->data, x->match)
               : pcre2_match(r->code, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, x->data, x->match);
}

static int match(const Regex *r, RegexScratch *x, const char *s, size_t n, size_t at) {
    int rc = match_once(r, x, s, n, at);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT || x->stack) return rc;
    x->stack = pcre2_jit_stack_create(64 << 10, 256 << 20, NULL);
    if (!x->stack) return PCRE2_ERROR_NOMEMORY;
    pcre2_jit_stack_assign(x->match, NULL, x->stack);
    return match_once(r, x, s, n, at);
}

/* The first match in s[0..n), which must be valid UTF-8, at or behind `at`; *found is 0 when there
 * is none. Anything else that keeps PCRE2 from an answer is an error, never "no match". */
static Status find(const Regex *r, RegexScratch *x, const char *s, size_t n, size_t at,
                   size_t range[2], int *found) {
    int rc = match(r, x, s, n, at);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return OK;
    if (rc < 0) {
        char reason[160] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof(reason));
        return status_fail(E_FORMAT, "splitting %zu bytes of text into pieces: %s", n, reason);
    }
    const size_t *got = pcre2_get_ovector_pointer(x->data);
    range[0] = got[0], range[1] = got[1];
    if (got[0] > got[1] || got[0] < at)
        return status_fail(E_FORMAT, "a splitting regex matched backwards");
    return OK;
}

static size_t character(const RegexWalk *w) {
    size_t used = 1;
    while (w->at + used < w->n && ((unsigned char)w->s[w->at + used] & 0xc0) == 0x80) used++;
    return used;
}

Status regex_walk(RegexWalk *w, int *found) {
    size_t range[2] = {0, 0}, last = w->to;
    for (*found = 0; w->at <= w->n;) {
        TRY(find(w->regex, w->scratch, w->s, w->n, w->at, range, found));
        if (!*found) break;
        if (range[0] < range[1] || !w->matched || range[0] != last) {
            w->from = range[0];
            w->at = w->to = range[1];
            w->matched = 1;
            return OK;
        }
        w->at += character(w);
    }
    *found = 0;
    return OK;
}
