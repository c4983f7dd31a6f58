/* nfc.c - Unicode normalization forms by utf8proc, for text that need not be UTF-8 throughout. */
#include <stdlib.h>
#include <utf8proc.h>
#include "datasets/tokenizer_parts.h"

enum { LONG_RUN = 32 };

static int combining_class(const char *s, size_t n, int *used) {
    int32_t code;
    *used = utf8_char(s, n, &code);
    return utf8proc_get_property(code)->combining_class;
}

/* Bytes of the combining marks at the start of s, and their number. */
static size_t marks(const char *s, size_t n, int *count) {
    size_t at = 0;
    int used;
    for (*count = 0; at < n && combining_class(s + at, n - at, &used); ++*count) at += (size_t)used;
    return at;
}

/* Marks in the order of their classes, stable: counting sort. */
static void append_sorted(Text *out, const char *s, size_t n) {
    size_t start[257] = {0}, base = out->len;
    int used;
    for (size_t at = 0; at < n; at += (size_t)used) {
        int class = combining_class(s + at, n - at, &used);
        start[class + 1] += (size_t)used;
    }
    for (int class = 0; class < 256; class ++) start[class + 1] += start[class];
    text_add_bytes(out, s, n);
    for (size_t at = 0; at < n; at += (size_t)used) {
        int class = combining_class(s + at, n - at, &used);
        for (int i = 0; i < used; i++) out->s[base + start[class]++] = s[at + (size_t)i];
    }
}

/* utf8proc orders marks by exchanging neighbours, which takes a time that is quadratic in a run of
 * them. Long runs are put into canonical order beforehand; normalization does not see the
 * difference. */
static void order_long_runs(Text *out, const char *s, size_t n) {
    size_t done = 0;
    for (size_t at = 0; at < n;) {
        int count = 0, used;
        if ((uint8_t)s[at] < 0x80 || !combining_class(s + at, n - at, &used)) {
            at += (uint8_t)s[at] < 0x80 ? 1 : (size_t)used;
            continue;
        }
        size_t run = marks(s + at, n - at, &count);
        if (count > LONG_RUN) {
            text_add_bytes(out, s + done, at - done);
            append_sorted(out, s + at, run);
            done = at + run;
        }
        at += run;
    }
    text_add_bytes(out, s + done, n - done);
}

static Status normalize(Text *out, const char *s, size_t n, int form) {
    uint8_t *composed = NULL;
    utf8proc_ssize_t len =
        utf8proc_map((const uint8_t *)s, (utf8proc_ssize_t)n, &composed, UTF8PROC_STABLE | form);
    if (len < 0)
        return status_fail(E_MEMORY, "normalising %zu bytes of text (NFC): %s", n,
                           utf8proc_errmsg(len));
    text_add_bytes(out, (const char *)composed, (size_t)len);
    free(composed);
    return OK;
}

static Status normalize_ordered(Text *out, const char *s, size_t n, int form) {
    Text ordered = {0};
    order_long_runs(&ordered, s, n);
    Status status = normalize(out, ordered.s, ordered.len, form);
    text_release(&ordered);
    return status;
}

static size_t ascii_run(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && (uint8_t)s[i] < 0x80) i++;
    return i;
}

/* Bytes up to the next ASCII character, and whether all of it is below U+0300, where NFC changes
 * nothing. */
static size_t other_run(const char *s, size_t n, int *is_latin) {
    size_t i = 0;
    for (*is_latin = 1; i < n && (uint8_t)s[i] >= 0x80; i++)
        if ((uint8_t)s[i] >= 0xcc) *is_latin = 0;
    return i;
}

/* An ASCII character starts anew: it composes with nothing before it, only with marks behind it.
 * So only the runs of others, each with the character in front of it, go through utf8proc. */
static Status append_valid(Text *out, const char *s, size_t n, int form) {
    for (size_t at = 0; at < n;) {
        size_t ascii = ascii_run(s + at, n - at);
        int is_latin;
        size_t other = other_run(s + at + ascii, n - at - ascii, &is_latin);
        if (is_latin && form == UTF8PROC_COMPOSE) {
            text_add_bytes(out, s + at, ascii + other);
        } else {
            size_t lead = ascii ? 1 : 0;
            text_add_bytes(out, s + at, ascii - lead);
            TRY(normalize_ordered(out, s + at + ascii - lead, lead + other, form));
        }
        at += ascii + other;
    }
    return OK;
}

Status unicode_append(Text *out, const char *s, size_t n, UnicodeForm form) {
    static const int flags[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE,
                                UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    while (n > 0) {
        size_t valid = utf8_prefix(s, n);
        size_t used = valid ? valid : 1;
        if (valid)
            TRY(append_valid(out, s, valid, flags[form]));
        else
            text_add_bytes(out, s, 1);
        s += used, n -= used;
    }
    return OK;
}
