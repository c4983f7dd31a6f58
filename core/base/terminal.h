/* terminal.h - what a terminal can show, and how much of a text fits on its line. */
#ifndef TERMINAL_H
#define TERMINAL_H

#include <stddef.h>

int terminal_is(int fd);      /* a terminal that can overwrite a line: not TERM=dumb */
int terminal_colors(int fd);  /* one that may be coloured: NO_COLOR is unset or empty */
int terminal_utf8(void);      /* does the environment's locale say UTF-8? */
int terminal_columns(int fd); /* 80 where it cannot be known */

/* Bytes of `text` that take at most `columns` columns: a UTF-8 character takes one, an escape
 * sequence (ESC [ ... letter) none; neither is cut in two. */
size_t terminal_fit(const char *text, int columns);

#endif
