/* text.c - a growing byte string. */
#include "core/base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/status.h"

static _Noreturn void out_of_memory(size_t bytes) {
    fprintf(stderr, "rlhf: out of host memory: a text of %zu bytes was being built\n", bytes);
    abort();
}

static void reserve(Text *t, size_t more) {
    if (more > SIZE_MAX / 4 || t->len > SIZE_MAX / 4) out_of_memory(more);
    size_t need = t->len + more + 1;
    if (need <= t->cap) return;
    size_t cap = t->cap ? t->cap : 64;
    while (cap < need) cap *= 2;
    char *s = realloc(t->s, cap);
    if (!s) out_of_memory(cap);
    t->s = s;
    t->cap = cap;
}

void text_add_bytes(Text *t, const char *s, size_t n) {
    reserve(t, n);
    if (n) memcpy(t->s + t->len, s, n);
    t->len += n;
    t->s[t->len] = '\0';
}

void text_add(Text *t, const char *s) {
    text_add_bytes(t, s, strlen(s));
}

void text_addf(Text *t, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    size_t room = t->cap - t->len;
    int n = vsnprintf(room ? t->s + t->len : NULL, room, fmt, ap);
    CHECK(n >= 0);
    if ((size_t)n >= room) {
        reserve(t, (size_t)n);
        vsnprintf(t->s + t->len, (size_t)n + 1, fmt, again);
    }
    t->len += (size_t)n;
    va_end(again);
    va_end(ap);
}

void text_clear(Text *t) {
    t->len = 0;
    if (t->s) t->s[0] = '\0';
}

void text_release(Text *t) {
    free(t->s);
    *t = (Text){0};
}
