/* jinja.h - the part of the Jinja language that chat templates are written in, as transformers runs
 * it (trim_blocks, lstrip_blocks, loop controls, generation blocks, no autoescape).
 *
 * What comes out is text of which every byte knows its origin: written by the template, or taken
 * from the data that it was given, so that an encoder may look for special tokens in the former
 * only. A template cannot harm the program: steps, memory, output and depth are limited, values are
 * immutable but namespaces, and nothing outside of the values given is reachable. */
#ifndef JINJA_H
#define JINJA_H

#include "core/base/json.h"
#include "core/base/memory.h"

typedef struct Jinja Jinja; /* a template that has been parsed; immutable */

/* `name` is what messages call the template. E_FORMAT "name:line:column: sentence" for broken
 * syntax and for statements, filters, tests, methods and functions that are not supported. */
Status jinja_compile(Jinja **j, const char *name, const char *text, size_t len);
void jinja_release(Jinja *j);        /* NULL is fine */
int jinja_has_marks(const Jinja *j); /* are there {% generation %} blocks? */

typedef enum { JINJA_NONE, JINJA_BOOL, JINJA_TEXT, JINJA_DATA } JinjaKind;
typedef struct { /* a variable that the template sees */
    const char *name;
    JinjaKind kind;
    int truth;        /* JINJA_BOOL */
    const char *text; /* JINJA_TEXT: counts as the template's own */
    const Json *json; /* JINJA_DATA: every string in it is data ... */
    int first;        /* ... of a list only so many elements; -1: all */
    /* ... but strings of the list's objects under own_key that are one of own_values (NULL at the
     * end) count as the template's: roles, of which templates make special tokens. */
    const char *own_key;
    const char *const *own_values;
} JinjaVar;

typedef struct {
    size_t from, to;
} JinjaSpan;

typedef struct { /* {0} to begin with; a second rendering replaces the first */
    Text text;
    Text data;        /* a byte for every byte of text: 1 where it was taken from data */
    JinjaSpan *marks; /* what generation blocks wrote, in order */
    int n_marks, cap_marks;
} JinjaOutput;

/* `now` is what strftime_now() shows (seconds, as time() gives them; local time). E_FORMAT with the
 * template's own sentence for raise_exception(), "name:line:column: sentence" for the rest. */
Status jinja_render(const Jinja *j, const JinjaVar *vars, int n, int64_t now, JinjaOutput *out);
Status jinja_output_mark(JinjaOutput *out, JinjaSpan span); /* appends to marks */
void jinja_output_release(JinjaOutput *out);

enum {
    JINJA_TEMPLATE_MAX = 1 << 20, /* bytes of a template */
    JINJA_STEPS_MAX = 20000000,   /* of one rendering: evaluations, and bytes looked at / 64 */
    JINJA_BYTES_MAX = 512 << 20,  /* values made by one rendering */
    JINJA_OUTPUT_MAX = 32 << 20,
    JINJA_DEPTH_MAX = 150,  /* of nested syntax, and of nested values */
    JINJA_NESTED_MAX = 400, /* evaluations inside of evaluations */
    JINJA_RANGE_MAX = 100000,
};

#endif
