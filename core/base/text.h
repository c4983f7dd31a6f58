/* text.h - a growing byte string, for building JSON lines and messages. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>

typedef struct {
    char *s; /* always NUL-terminated once something was added; NULL when empty */
    size_t len, cap;
} Text;

/* {0} is a valid empty Text. Out of memory ends the program with one sentence. */
void text_add(Text *t, const char *s);
void text_add_bytes(Text *t, const char *s, size_t n);
void text_addf(Text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_clear(Text *t);   /* length 0, memory kept */
void text_release(Text *t); /* memory given back */

#endif
