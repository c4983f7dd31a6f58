/* tail.h - a JSON-lines log that another process appends to, read on from where one stopped.
 *
 * A resume cuts logs back and writes on, so an offset alone does not tell that what was read is
 * still there: a position also carries a hash of the bytes before it. */
#ifndef TAIL_H
#define TAIL_H

#include <stdint.h>

#include "core/base/json.h"

typedef struct {
    uint64_t offset; /* behind a newline */
    uint64_t mark;   /* XXH3-64 of the up to 256 bytes before it; 0 at the beginning */
} TailPos;           /* {0} is the beginning */

/* One row, a JSON object; `line` is its text without the newline, not NUL-terminated. */
typedef void (*TailRow)(void *ctx, const JsonDoc *doc, const char *line, size_t len);

typedef struct {
    int cut;             /* the log is shorter than *pos or another one: nothing was read */
    int bad;             /* lines that were no JSON object, skipped */
    char first_bad[256]; /* why, of the first of them */
} TailResult;

/* Reads whole lines behind *pos, at most about max_bytes (but one line at least), and moves *pos. A
 * line without its newline is left for later. A file that is not there is an empty log. E_FORMAT
 * when a line has over 16 MiB. */
Status tail_read(TailResult *out, TailPos *pos, const char *path, size_t max_bytes, TailRow row,
                 void *ctx);

/* "offset-mark" in digits, as pages hand it back; 0 when `text` is nothing of the kind. */
int tail_pos_parse(TailPos *pos, const char *text);
void tail_pos_put(Text *t, const TailPos *pos);

#endif
