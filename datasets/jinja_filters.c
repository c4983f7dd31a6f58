/* jinja_filters.c - filters over single values: text, numbers, JSON. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "datasets/jinja_parts.h"

static int truth_of(Value v, int absent) {
    return v.type == V_ABSENT ? absent : value_truth(v);
}

static Status want_int(Eval *e, Value v, int64_t absent, const char *what, int64_t *out) {
    *out = absent;
    if (v.type == V_ABSENT || v.type == V_NONE) return OK;
    if (!is_whole(v)) return eval_fail(e, "%s must be a whole number", what);
    *out = v.i;
    return OK;
}

static Status text_out(Eval *e, Value v, Value *out) {
    *out = value_of(V_STRING);
    return value_text(e, v, &out->s);
}

static Status filter_string(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return text_out(e, v, out);
}

static Status filter_trim(Eval *e, Value v, const Args *a, Value *out) {
    TRY(text_out(e, v, out));
    TRY(spend_work(e, out->s.n));
    if (a->v[0].type != V_ABSENT && a->v[0].type != V_NONE && a->v[0].type != V_STRING)
        return eval_fail(e, "the characters to trim must be a string");
    out->s =
        str_strip(out->s, a->v[0].type == V_STRING ? &a->v[0].s : NULL, STRIP_LEFT | STRIP_RIGHT);
    return OK;
}

static Status filter_case(Eval *e, Value v, const Args *a, Value *out) {
    TRY(text_out(e, v, out));
    return str_case(e, out->s, (Case)a->mode, &out->s);
}

static Status filter_replace(Eval *e, Value v, const Args *a, Value *out) {
    Str old, with;
    int64_t n;
    TRY(text_out(e, v, out));
    TRY(value_text(e, a->v[0], &old));
    TRY(value_text(e, a->v[1], &with));
    TRY(want_int(e, a->v[2], -1, "the count of replace", &n));
    return str_replace(e, out->s, old, with, n, &out->s);
}

static Status indention(Eval *e, Value width, Str *out) {
    Build b = {0};
    int64_t n;
    if (width.type == V_STRING) {
        *out = width.s;
        return OK;
    }
    TRY(want_int(e, width, 4, "the width of an indentation", &n));
    if (n > 1 << 16) return eval_fail(e, "an indentation of more than 65536 spaces");
    for (int64_t i = 0; i < n; i++) TRY(build_bytes(e, &b, " ", 1, 0));
    *out = build_done(&b);
    return OK;
}

static Status filter_indent(Eval *e, Value v, const Args *a, Value *out) {
    Build b = {0};
    Value lines;
    Str by, text;
    int first = truth_of(a->v[1], 0), blank = truth_of(a->v[2], 0);
    if (v.type == V_UNDEFINED) return undefined_fail(e, v);
    if (v.type != V_STRING) return eval_fail(e, "a %s cannot be indented", value_kind(v));
    TRY(indention(e, a->v[0], &by));
    TRY(str_concat(e, v.s, str_of("\n"), &text));
    TRY(str_lines(e, text, 0, &lines));
    for (size_t i = 0; i < lines.list->n; i++) {
        Str line = lines.list->v[i].s;
        if (i) TRY(build_bytes(e, &b, "\n", 1, 0));
        if (i ? line.n || blank : first) TRY(build_str(e, &b, by));
        TRY(build_str(e, &b, line));
    }
    *out = value_str(build_done(&b));
    return OK;
}

static Status filter_default(Eval *e, Value v, const Args *a, Value *out) {
    (void)e;
    int use = v.type == V_UNDEFINED || (truth_of(a->v[1], 0) && !value_truth(v));
    *out = !use ? v : a->v[0].type == V_ABSENT ? value_str(str_of("")) : a->v[0];
    return OK;
}

static Status filter_length(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    *out = value_int(0);
    return value_length(e, v, &out->i);
}

static Status filter_wordcount(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    Value words, none = value_of(V_NONE);
    TRY(text_out(e, v, out));
    TRY(str_split(e, out->s, &none, -1, 0, &words));
    *out = value_int((int64_t)words.list->n);
    return OK;
}

/* ---- numbers ---- */

/* A number as Python reads it from text: white space around it is fine. 0 when it is none. */
static int read_number(Str s, int base, int64_t *whole, double *real) {
    char text[64], *end;
    s = str_strip(s, NULL, STRIP_LEFT | STRIP_RIGHT);
    if (!s.n || s.n >= sizeof(text) || memchr(s.s, 0, s.n)) return 0;
    memcpy(text, s.s, s.n);
    text[s.n] = 0;
    errno = 0;
    if (whole)
        *whole = strtoll(text, &end, base);
    else
        *real = strtod(text, &end);
    return !*end && end != text && errno == 0 && !strpbrk(text, "pP");
}

static Status filter_int(Eval *e, Value v, const Args *a, Value *out) {
    int64_t whole, base;
    double real = NAN;
    TRY(want_int(e, a->v[1], 10, "a base", &base));
    if (base < 2 || base > 36) return eval_fail(e, "a base from 2 to 36");
    *out = a->v[0].type == V_ABSENT ? value_int(0) : a->v[0];
    if (is_whole(v)) *out = value_int(v.i);
    if (v.type == V_FLOAT) real = v.f;
    if (v.type == V_STRING) {
        if (read_number(v.s, (int)base, &whole, NULL))
            *out = value_int(whole);
        else if (!read_number(v.s, 10, NULL, &real))
            real = NAN;
    }
    if (fabs(real) < 9e18) *out = value_int((int64_t)real);
    return v.type == V_UNDEFINED ? undefined_fail(e, v) : OK;
}

static Status filter_float(Eval *e, Value v, const Args *a, Value *out) {
    double real;
    *out = a->v[0].type == V_ABSENT ? value_float(0.0) : a->v[0];
    if (is_number(v)) *out = value_float(as_double(v));
    if (v.type == V_STRING && read_number(v.s, 10, NULL, &real)) *out = value_float(real);
    return v.type == V_UNDEFINED ? undefined_fail(e, v) : OK;
}

static Status filter_abs(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    *out = v.type == V_FLOAT ? value_float(fabs(v.f)) : value_int(v.i);
    if (is_whole(v)) return v.i < 0 ? value_arith(e, OP_SUB, value_int(0), v, out) : OK;
    return v.type == V_FLOAT ? OK : eval_fail(e, "a %s has no absolute value", value_kind(v));
}

static Status filter_round(Eval *e, Value v, const Args *a, Value *out) {
    int64_t digits;
    char text[400];
    if (!is_number(v)) return eval_fail(e, "a %s cannot be rounded", value_kind(v));
    TRY(want_int(e, a->v[0], 0, "the precision of round", &digits));
    if (digits < 0 || digits > 15) return eval_fail(e, "a precision from 0 to 15");
    *out = v;
    Str method = a->v[1].type == V_STRING ? a->v[1].s : str_of("common");
    if (str_is(method, "common")) {
        if (is_whole(v)) return OK;
        snprintf(text, sizeof(text), "%.*f", (int)digits, v.f);
        *out = value_float(strtod(text, NULL));
        return OK;
    }
    double scale = pow(10.0, (double)digits), x = as_double(v) * scale;
    if (!str_is(method, "ceil") && !str_is(method, "floor"))
        return eval_fail(e, "round knows common, ceil and floor");
    *out = value_float((str_is(method, "ceil") ? ceil(x) : floor(x)) / scale);
    return OK;
}

/* ---- JSON ---- */

static Status json_separators(Eval *e, Value v, JsonStyle *style) {
    style->item_separator = str_of(style->indent ? "," : ", ");
    style->key_separator = str_of(": ");
    if (v.type == V_ABSENT || v.type == V_NONE) return OK;
    if (!is_list(v) || v.list->n != 2 || v.list->v[0].type != V_STRING ||
        v.list->v[1].type != V_STRING)
        return eval_fail(e, "separators of tojson must be two strings");
    style->item_separator = v.list->v[0].s;
    style->key_separator = v.list->v[1].s;
    return OK;
}

static Status filter_tojson(Eval *e, Value v, const Args *a, Value *out) {
    Build b = {0};
    JsonStyle style = {.ascii = truth_of(a->v[0], 0), .sort = truth_of(a->v[3], 0)};
    Value indent = a->v[1];
    if (indent.type == V_INT || indent.type == V_STRING) {
        Str by;
        TRY(indention(e, indent, &by));
        TRY(spend_memory(e, by.n));
        style.indent = arena_strndup(&e->arena, by.s, by.n);
    }
    TRY(json_separators(e, a->v[2], &style));
    TRY(put_json(e, &b, v, &style, 0));
    *out = value_str(build_done(&b));
    return OK;
}

static const Builtin filters[] = {
    {"abs", "", filter_abs, 0},
    {"capitalize", "", filter_case, CASE_CAPITAL},
    {"count", "", filter_length, 0},
    {"d", "default_value,boolean", filter_default, 0},
    {"default", "default_value,boolean", filter_default, 0},
    {"float", "default", filter_float, 0},
    {"indent", "width,first,blank", filter_indent, 0},
    {"int", "default,base", filter_int, 0},
    {"length", "", filter_length, 0},
    {"lower", "", filter_case, CASE_LOWER},
    {"replace", "old!,new!,count", filter_replace, 0},
    {"round", "precision,method", filter_round, 0},
    {"safe", "", filter_string, 0},
    {"string", "", filter_string, 0},
    {"title", "", filter_case, CASE_TITLE_FILTER},
    {"tojson", "ensure_ascii,indent,separators,sort_keys", filter_tojson, 0},
    {"trim", "chars", filter_trim, 0},
    {"upper", "", filter_case, CASE_UPPER},
    {"wordcount", "", filter_wordcount, 0},
};

const Builtin *filter_named(const char *name) {
    const Builtin *f = builtin_find(filters, sizeof(filters) / sizeof(*filters), name);
    return f ? f : filter_named_more(name);
}
