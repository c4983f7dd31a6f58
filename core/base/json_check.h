/* json_check.h - the grammar of RFC 8259 over raw text, for json.c. */
#ifndef JSON_CHECK_H
#define JSON_CHECK_H

#include <stddef.h>

/* NULL when the text is one valid JSON value that cJSON reads without loss; otherwise the reason,
 * with the offset of the offending byte. The text has a NUL behind it. */
const char *json_check(const char *text, size_t len, size_t *offset);

/* Overwrites comments by spaces, keeping lines and columns; a reason as above when one has no end.
 */
const char *json_blank_comments(char *text, size_t len, size_t *offset);

/* Over text that was checked. */
const char *json_skip_space(const char *p);
const char *json_skip_string(const char *p); /* from its opening quote to behind the closing one */

/* Length of the well-formed UTF-8 sequence at p < end, 0 if there is none (RFC 3629). */
size_t utf8_length(const char *p, const char *end);

#endif
