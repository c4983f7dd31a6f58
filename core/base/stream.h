/* stream.h - lines of a text file, plain, .zst or .gz (by content, not by name), with a bounded
 * window. Handles CRLF, a BOM, a missing last newline; refuses a line over the cap, truncated or
 * corrupt compressed data and trailing bytes after it, with file:line. */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>
#include "core/base/status.h"

enum { STREAM_LINE_CAP = 16 << 20 };

typedef struct LineReader LineReader;
Status lines_open(LineReader **r, const char *path);
/* Next line without its newline, NUL behind it, borrowed until the next call. *line = NULL at the
 * end. *number counts from 1. */
Status lines_next(LineReader *r, const char **line, size_t *len, int *number);
void lines_close(LineReader *r);

/* Writes lines; ".zst" or ".gz" at the end of the name compresses. Temp file + rename at commit. */
typedef struct LineWriter LineWriter;
Status line_writer_open(LineWriter **w, const char *path);           /* "-" is standard output */
Status line_writer_add(LineWriter *w, const char *line, size_t len); /* newline is added */
Status line_writer_commit(LineWriter *w); /* also releases w, on failure too */
void line_writer_abort(LineWriter *w);    /* NULL is fine */

#endif
