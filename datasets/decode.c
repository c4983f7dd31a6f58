/* decode.c - ids into bytes. Byte-level tokens are their bytes; for models by character the bytes
 * of every token are worked out once, by the decoder's steps. */
#include <string.h>
#include "datasets/tokenizer_parts.h"

static int hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static void byte_fallback(const char *s, size_t n, Text *out) {
    if (n == 6 && !memcmp(s, "<0x", 3) && s[5] == '>' && hex(s[3]) >= 0 && hex(s[4]) >= 0) {
        char byte = (char)(16 * hex(s[3]) + hex(s[4]));
        text_add_bytes(out, &byte, 1);
    } else {
        text_add_bytes(out, s, n);
    }
}

static void metaspace(const DecodeStep *step, int first, const char *s, size_t n, Text *out) {
    size_t width = strlen(step->content);
    for (const char *at; n > 0 && (at = find_short(s, n, step->content, width));) {
        text_add_bytes(out, s, (size_t)(at - s));
        if (!first || !step->start) text_add(out, " ");
        n -= (size_t)(at - s) + width;
        s = at + width;
    }
    text_add_bytes(out, s, n);
}

static void strip(const DecodeStep *step, const char *s, size_t n, Text *out) {
    size_t width = strlen(step->content), from = 0, to = n;
    for (int i = 0; i < step->start && to - from >= width; i++, from += width)
        if (memcmp(s + from, step->content, width)) break;
    for (int i = 0; i < step->stop && to - from >= width; i++, to -= width)
        if (memcmp(s + to - width, step->content, width)) break;
    text_add_bytes(out, s + from, to - from);
}

static Status run_step(const DecodeStep *step, int first, const char *s, size_t n, Text *out) {
    switch (step->kind) {
    case DECODE_REPLACE: return replacer_run(&step->replace, s, n, out);
    case DECODE_METASPACE: metaspace(step, first, s, n, out); return OK;
    case DECODE_BYTE_FALLBACK: byte_fallback(s, n, out); return OK;
    case DECODE_STRIP: strip(step, s, n, out); return OK;
    }
    return OK;
}

/* The bytes of a token as it is written, put in place of *out. */
static Status run_steps(const Decoder *d, int first, const char *s, size_t n, Text *out) {
    Text spare = {0};
    Status status = OK;
    text_clear(out);
    if (d->n == 0) text_add_bytes(out, s, n);
    for (int i = 0; i < d->n && status == OK; i++) {
        text_clear(&spare);
        status = run_step(&d->step[i], first, s, n, &spare);
        Text swap = *out;
        *out = spare;
        spare = swap;
        s = out->s ? out->s : "";
        n = out->len;
    }
    text_release(&spare);
    return status;
}

/* A token as it is written; 0 for an id that no token has. */
static int written(const Tokenizer *t, int id, const char **s, size_t *n) {
    const AddedToken *added = t->added_by_id[id];
    if (added) {
        *s = added->matched;
        *n = strlen(added->matched);
        return 1;
    }
    if (id >= t->bpe.n || t->bpe.token[id].kind == TOKEN_HOLE) return 0;
    *s = t->bpe.pool.s + t->bpe.token[id].at;
    *n = t->bpe.token[id].len;
    return 1;
}

static Status index_tokens(Tokenizer *t, Text *bytes) {
    Decoder *d = &t->decoder;
    for (int id = 0; id < t->size; id++) {
        const char *s;
        size_t n;
        d->at[id] = (uint32_t)d->pool.len;
        if (!written(t, id, &s, &n)) continue;
        TRY(run_steps(d, 0, s, n, bytes));
        text_add_bytes(&d->pool, bytes->s ? bytes->s : "", bytes->len);
        if (d->pool.len > UINT32_MAX)
            return status_fail(E_FORMAT, "the decoded vocabulary is larger than 4 GiB");
    }
    d->at[t->size] = (uint32_t)d->pool.len;
    return OK;
}

Status decoder_index(Tokenizer *t) {
    Text bytes = {0};
    t->decoder.at = arena_alloc(&t->arena, ((size_t)t->size + 1) * sizeof(*t->decoder.at));
    text_add(&t->decoder.pool, "");
    Status s = index_tokens(t, &bytes);
    text_release(&bytes);
    return s;
}

static void append(const Decoder *d, TokenizerStream *at, const char *s, size_t n, Text *out) {
    while (n > 0 && !at->body && at->stripped < d->n_strip && *s == d->strip) {
        at->stripped++;
        s++, n--;
    }
    if (n > 0) at->body = 1;
    text_add_bytes(out, s, n);
}

static int drops_first_spaces(const Decoder *d) {
    for (int i = 0; i < d->n; i++)
        if (d->step[i].kind == DECODE_METASPACE && d->step[i].start) return 1;
    return 0;
}

static Status decode_written(const Tokenizer *t, TokenizerStream *at, int id, const char *s,
                             size_t n, Text *out) {
    const Decoder *d = &t->decoder;
    int first = !at->begun;
    at->begun = 1;
    if (!first || !drops_first_spaces(d)) {
        append(d, at, d->pool.s + d->at[id], d->at[id + 1] - d->at[id], out);
        return OK;
    }
    Text bytes = {0};
    Status status = run_steps(d, 1, s, n, &bytes);
    if (status == OK) append(d, at, bytes.s ? bytes.s : "", bytes.len, out);
    text_release(&bytes);
    return status;
}

Status tokenizer_decode_next(const Tokenizer *t, TokenizerStream *at, const int *ids, int n,
                             int keep_special, Text *out) {
    for (int i = 0; i < n; i++) {
        int id = ids[i];
        const char *s;
        size_t len;
        if (id < 0 || id >= t->size)
            return status_fail(E_FORMAT, "token id %d is outside of the vocabulary of %d", id,
                               t->size);
        const AddedToken *added = t->added_by_id[id];
        if (added && added->special && !keep_special) continue;
        if (!written(t, id, &s, &len))
            return status_fail(E_FORMAT, "token id %d is not used by the vocabulary", id);
        if (t->bpe.by_char)
            TRY(decode_written(t, at, id, s, len, out));
        else
            text_add_bytes(out, s, len);
    }
    return OK;
}

Status tokenizer_decode(const Tokenizer *t, const int *ids, int n, int keep_special, Text *out) {
    TokenizerStream at = {0};
    if (out->len) at.begun = at.body = 1;
    return tokenizer_decode_next(t, &at, ids, n, keep_special, out);
}
