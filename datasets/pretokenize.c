/* pretokenize.c - text into pieces that merges never cross: every stage splits what the one before
 * it leaves. */
#include <string.h>
#include "datasets/pretokenize.h"

typedef struct {
    const Pretokenizer *p;
    RegexScratch *scratch;
    PieceFn emit;
    void *ctx;
} Run;

/* first: the piece begins where the whole text does */
static Status stage_run(Run *r, int k, const char *s, size_t n, int first);

/* What is not split further: matches and the gaps between them, joined as the behaviour says. */
typedef struct {
    Run *run;
    int k, first;
    const char *s;
    size_t held, end; /* [held, end) waits for what comes next */
    int any, was_match;
} Joiner;

static Status flush(Joiner *j) {
    if (j->end == j->held) return OK;
    return stage_run(j->run, j->k + 1, j->s + j->held, j->end - j->held, j->first && j->held == 0);
}

/* The next match or gap, possibly empty: an empty match still keeps its neighbours apart. */
static Status join(Joiner *j, size_t from, size_t to, int is_match) {
    const Stage *stage = &j->run->p->stage[j->k];
    is_match ^= stage->invert;
    int was = j->was_match, any = j->any, extends = 0;
    j->was_match = is_match;
    j->any = 1;
    switch (stage->behavior) {
    case ISOLATED: break;
    case REMOVED:
        if (!is_match) break;
        TRY(flush(j));
        j->held = j->end = to;
        return OK;
    case MERGED_WITH_PREVIOUS: extends = any && is_match && !was; break;
    case MERGED_WITH_NEXT: extends = any && !is_match && was; break;
    case CONTIGUOUS: extends = any && is_match == was; break;
    }
    if (!extends) {
        TRY(flush(j));
        j->held = from;
    }
    j->end = to;
    return OK;
}

static Status split(Run *r, int k, const char *s, size_t n, int first) {
    Joiner j = {.run = r, .k = k, .first = first, .s = s};
    RegexWalk w = {.regex = r->p->stage[k].regex, .scratch = r->scratch, .s = s, .n = n};
    size_t done = 0;
    for (int found;;) {
        TRY(regex_walk(&w, &found));
        if (!found) break;
        if (done < w.from) TRY(join(&j, done, w.from, 0));
        TRY(join(&j, w.from, w.to, 1));
        done = w.to;
    }
    if (done < n) TRY(join(&j, done, n, 0));
    return flush(&j);
}

/* Pieces that begin with the character that stands for a space. */
static Status split_spaces(Run *r, int k, const Text *t, int first) {
    const char *space = r->p->stage[k].space;
    size_t width = strlen(space), from = 0;
    while (from < t->len) {
        const char *next = NULL;
        if (t->len - from > width)
            next = find_short(t->s + from + 1, t->len - from - 1, space, width);
        size_t to = next ? (size_t)(next - t->s) : t->len;
        TRY(stage_run(r, k + 1, t->s + from, to - from, first && from == 0));
        from = to;
    }
    return OK;
}

static void replace_spaces(Text *out, const char *space, const char *s, size_t n) {
    for (const char *at; n > 0 && (at = memchr(s, ' ', n));) {
        text_add_bytes(out, s, (size_t)(at - s));
        text_add(out, space);
        n -= (size_t)(at - s) + 1;
        s = at + 1;
    }
    text_add_bytes(out, s, n);
}

static Status metaspace(Run *r, int k, const char *s, size_t n, int first) {
    const Stage *stage = &r->p->stage[k];
    size_t width = strlen(stage->space);
    Text t = {0};
    int begins = s[0] == ' ' || (n >= width && !memcmp(s, stage->space, width));
    int wanted = stage->prepend == PREPEND_ALWAYS || (stage->prepend == PREPEND_FIRST && first);
    if (wanted && !begins) text_add(&t, stage->space);
    replace_spaces(&t, stage->space, s, n);
    Status status = t.len > TOKENIZER_TEXT_MAX
                        ? status_fail(E_USAGE, "a text of %zu bytes is too long", t.len)
                    : stage->split ? split_spaces(r, k, &t, first)
                                   : stage_run(r, k + 1, t.s, t.len, first);
    text_release(&t);
    return status;
}

static Status stage_run(Run *r, int k, const char *s, size_t n, int first) {
    if (k == r->p->n) return r->emit(r->ctx, s, n);
    const Stage *stage = &r->p->stage[k];
    if (stage->space) return metaspace(r, k, s, n, first);
    if (!stage->prefix_space || s[0] == ' ')
        return stage->regex ? split(r, k, s, n, first) : stage_run(r, k + 1, s, n, first);

    Text spaced = {0};
    text_add(&spaced, " ");
    text_add_bytes(&spaced, s, n);
    Status status = stage->regex ? split(r, k, spaced.s, spaced.len, first)
                                 : stage_run(r, k + 1, spaced.s, spaced.len, first);
    text_release(&spaced);
    return status;
}

/* Length of the bytes at s that begin no valid character. */
static size_t broken_bytes(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && utf8_prefix(s + i, n - i > 4 ? 4 : n - i) == 0) i++;
    return i;
}

Status pretokenizer_run(const Pretokenizer *p, RegexScratch **scratch, const char *s, size_t n,
                        int first, PieceFn emit, void *ctx) {
    if (!*scratch) TRY(regex_scratch_create(scratch));
    Run r = {p, *scratch, emit, ctx};
    for (size_t at = 0; at < n;) {
        size_t valid = utf8_prefix(s + at, n - at);
        if (valid > 0) TRY(stage_run(&r, 0, s + at, valid, first && at == 0));
        at += valid;
        size_t broken = broken_bytes(s + at, n - at);
        if (broken > 0) TRY(emit(ctx, s + at, broken));
        at += broken;
    }
    return OK;
}
