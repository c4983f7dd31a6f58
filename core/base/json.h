/* json.h - strict JSON over cJSON: what cJSON accepts but must not pass (cut strings at \u0000, bad
 * UTF-8, duplicate keys, trailing bytes, deep nesting, NaN literals, integers out of range) is
 * refused with file:line:column, and so is a value of the wrong type when a getter asks for it. */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdint.h>
#include "core/base/status.h"
#include "core/base/text.h"

typedef struct cJSON Json;      /* a node; only json.c knows cJSON */
typedef struct JsonDoc JsonDoc; /* a parsed text with its name, for messages */

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonType;
enum { JSON_STRICT = 0, JSON_COMMENTS = 1 /* // and block comments, for recipes */ };

/* `name` is what messages call the text, `first_line` the number of its first line (JSONL rows).
 * The text is copied. E_FORMAT "name:line:column: reason". */
Status json_parse(JsonDoc **doc, const char *name, int first_line, const char *text, size_t len,
                  int flags);
Status json_parse_file(JsonDoc **doc, const char *path, int flags);
void json_release(JsonDoc *doc); /* NULL is fine */
const Json *json_root(const JsonDoc *doc);
const char *json_name(const JsonDoc *doc);

/* E_FORMAT "name:line:column: sentence" at the position of node `at` (found by walking the text
 * again; at = NULL gives name:line of the text's start). For an object's member the position is its
 * key's. */
Status json_fail(const JsonDoc *doc, const Json *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

JsonType json_type(const Json *n);
const char *json_type_name(JsonType t);                    /* "a string", "an object", ... */
const Json *json_get(const Json *object, const char *key); /* NULL if absent or not an object */
const Json *json_first(const Json *container); /* first member or element; NULL if none */
const Json *json_next(const Json *n);
const char *json_key(const Json *member);
int json_size(const Json *container);
const char *json_str(const Json *n); /* CHECKs the type */
double json_num(const Json *n);      /* CHECKs the type */
int json_bool(const Json *n);        /* CHECKs the type */

/* Member of an object by key and type; absent: *out keeps its value when optional, else json_fail.
 */
typedef enum { JSON_OPTIONAL, JSON_REQUIRED } JsonNeed;
Status json_get_str(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                    const char **out);
Status json_get_num(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                    double *out);
Status json_get_int(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                    int *out);
Status json_get_bool(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                     int *out);
Status json_get_node(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                     JsonType type, const Json **out);

/* Writing: append to a Text. Numbers are printed so that they read back the same; non-finite is
 * null. */
void json_put_string(Text *t, const char *s);
void json_put_string_n(Text *t, const char *s, size_t n); /* invalid UTF-8 and NUL become U+FFFD */
void json_put_number(Text *t, double v);
void json_put_float(Text *t, float v);            /* the shortest form that reads back the same */
void json_put_ints(Text *t, const int *v, int n); /* [1,2,3] */
void json_put_floats(Text *t, const float *v, int n);
void json_put_node(Text *t, const Json *n); /* compact */
void json_put_key(
    Text *t,
    const char *key); /* `"key":`, with a comma in front unless t ends in { or [ or is empty */

/* UTF-8 validity of n bytes (RFC 3629). */
int utf8_valid(const char *s, size_t n);

#endif
