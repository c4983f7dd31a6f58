/* jinja_print.c - values as text: str(), repr() and JSON of Python. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>
#include "datasets/jinja_parts.h"

static Status put(Eval *e, Build *b, const char *s) {
    return build_bytes(e, b, s, strlen(s), 0);
}

static Status too_deep(Eval *e) {
    return eval_fail(e, "values are nested too deeply");
}

/* ---- numbers ---- */

/* The shortest digits that read back the same, as repr(float) writes them. */
static void float_text(char out[64], double v) {
    char digits[40];
    int precision = 1;
    if (!isfinite(v)) {
        snprintf(out, 64, "%s", isnan(v) ? "nan" : v > 0 ? "inf" : "-inf");
        return;
    }
    do snprintf(digits, sizeof(digits), "%.*e", precision - 1, v);
    while (strtod(digits, NULL) != v && precision++ < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(digits, 'e') = 0;
        snprintf(out, 64, "%se%s%02d", digits, exponent < 0 ? "-" : "+", abs(exponent));
        return;
    }
    int decimals = precision - 1 - exponent;
    snprintf(out, 64, "%.*f", decimals > 0 ? decimals : 1, v);
}

static Status put_number(Eval *e, Build *b, Value v) {
    char text[64];
    if (v.type == V_INT)
        snprintf(text, sizeof(text), "%lld", (long long)v.i);
    else
        float_text(text, v.f);
    return put(e, b, text);
}

/* ---- repr ---- */

static int is_printable(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return c == ' ' ||
           !(k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CS ||
             k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CN || k == UTF8PROC_CATEGORY_ZL ||
             k == UTF8PROC_CATEGORY_ZP || k == UTF8PROC_CATEGORY_ZS);
}

static void repr_char(char out[16], int32_t c, char quote) {
    out[0] = 0;
    if (c == quote || c == '\\')
        snprintf(out, 16, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(out, 16, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (!is_printable(c))
        snprintf(out, 16, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
}

static Status repr_string(Eval *e, Build *b, Str s) {
    char quote = '\'';
    if (s.n && memchr(s.s, '\'', s.n) && !memchr(s.s, '"', s.n)) quote = '"';
    TRY(spend_work(e, s.n));
    TRY(build_bytes(e, b, &quote, 1, 0));
    for (size_t i = 0, n; i < s.n; i += n) {
        char escape[16];
        int32_t c;
        n = char_at(s.s + i, s.n - i, &c);
        repr_char(escape, c, quote);
        if (escape[0])
            TRY(build_bytes(e, b, escape, strlen(escape), s.data && s.data[i]));
        else
            TRY(build_str(e, b, str_part(s, i, i + n)));
    }
    return build_bytes(e, b, &quote, 1, 0);
}

static Status put_repr(Eval *e, Build *b, Value v, int depth);

static Status repr_list(Eval *e, Build *b, Value v, int depth) {
    int tuple = v.type == V_TUPLE;
    TRY(put(e, b, tuple ? "(" : "["));
    for (size_t i = 0; i < v.list->n; i++) {
        if (i) TRY(put(e, b, ", "));
        TRY(put_repr(e, b, v.list->v[i], depth + 1));
    }
    return put(e, b, !tuple ? "]" : v.list->n == 1 ? ",)" : ")");
}

static Status repr_dict(Eval *e, Build *b, Value v, int depth) {
    TRY(put(e, b, "{"));
    for (size_t i = 0; i < v.dict->n; i++) {
        if (i) TRY(put(e, b, ", "));
        TRY(put_repr(e, b, v.dict->v[i].key, depth + 1));
        TRY(put(e, b, ": "));
        TRY(put_repr(e, b, v.dict->v[i].value, depth + 1));
    }
    return put(e, b, "}");
}

static Status put_repr(Eval *e, Build *b, Value v, int depth) {
    if (depth > JINJA_DEPTH_MAX) return too_deep(e);
    TRY(spend_work(e, 0));
    switch (v.type) {
    case V_UNDEFINED: return depth ? put(e, b, "Undefined") : OK;
    case V_NONE: return put(e, b, "None");
    case V_BOOL: return put(e, b, v.i ? "True" : "False");
    case V_INT:
    case V_FLOAT: return put_number(e, b, v);
    case V_STRING: return repr_string(e, b, v.s);
    case V_LIST:
    case V_TUPLE: return repr_list(e, b, v, depth);
    case V_DICT: return repr_dict(e, b, v, depth);
    default: return eval_fail(e, "a %s cannot be written as text", value_kind(v));
    }
}

Status value_text(Eval *e, Value v, Str *out) {
    Build b = {0};
    if (v.type == V_STRING) {
        *out = v.s;
        return OK;
    }
    TRY(put_repr(e, &b, v, 0));
    *out = build_done(&b);
    return OK;
}

/* ---- JSON ---- */

static void json_char(char out[16], int32_t c, int ascii) {
    static const char codes[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    const char *known = c > 0 && c < 128 ? strchr(codes, c) : NULL;
    out[0] = 0;
    if (known)
        snprintf(out, 16, "\\%c", letters[known - codes]);
    else if (c < 0x20 || (ascii && c > 0x7e && c < 0x10000))
        snprintf(out, 16, "\\u%04x", (unsigned)c);
    else if (ascii && c >= 0x10000)
        snprintf(out, 16, "\\u%04x\\u%04x", 0xd800 + (unsigned)((c - 0x10000) >> 10),
                 0xdc00 + (unsigned)((c - 0x10000) & 0x3ff));
    if (c == 0x7f) out[0] = 0;
}

static Status json_string(Eval *e, Build *b, Str s, int ascii) {
    TRY(spend_work(e, s.n));
    TRY(put(e, b, "\""));
    for (size_t i = 0, n; i < s.n; i += n) {
        char escape[16];
        int32_t c;
        n = char_at(s.s + i, s.n - i, &c);
        json_char(escape, c, ascii);
        if (escape[0])
            TRY(build_bytes(e, b, escape, strlen(escape), s.data && s.data[i]));
        else
            TRY(build_str(e, b, str_part(s, i, i + n)));
    }
    return put(e, b, "\"");
}

static Status json_line(Eval *e, Build *b, const JsonStyle *style, int depth) {
    if (!style->indent) return OK;
    TRY(put(e, b, "\n"));
    for (int i = 0; i < depth; i++) TRY(put(e, b, style->indent));
    return OK;
}

static Status json_key_text(Eval *e, Build *b, Value key, const JsonStyle *style) {
    if (key.type == V_STRING) return json_string(e, b, key.s, style->ascii);
    if (key.type == V_TUPLE || key.type == V_UNDEFINED)
        return eval_fail(e, "a %s cannot be a key of JSON", value_kind(key));
    TRY(put(e, b, "\""));
    TRY(put_json(e, b, key, style, 0));
    return put(e, b, "\"");
}

static Status sorted_pairs(Eval *e, const Dict *d, const Pair ***out) {
    TRY(spend_memory(e, (d->n + 1) * sizeof(**out)));
    const Pair **v = arena_alloc(&e->arena, (d->n + 1) * sizeof(*v));
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (int order; at > 0; at--) {
            TRY(value_order(e, v[at - 1]->key, d->v[i].key, &order));
            if (order <= 0) break;
            v[at] = v[at - 1];
        }
        v[at] = &d->v[i];
    }
    *out = v;
    return OK;
}

static Status json_dict(Eval *e, Build *b, const Dict *d, const JsonStyle *style, int depth) {
    const Pair **sorted = NULL;
    if (style->sort) TRY(sorted_pairs(e, d, &sorted));
    if (!d->n) return put(e, b, "{}");
    TRY(put(e, b, "{"));
    for (size_t i = 0; i < d->n; i++) {
        const Pair *p = sorted ? sorted[i] : &d->v[i];
        if (i) TRY(build_str(e, b, style->item_separator));
        TRY(json_line(e, b, style, depth + 1));
        TRY(json_key_text(e, b, p->key, style));
        TRY(build_str(e, b, style->key_separator));
        TRY(put_json(e, b, p->value, style, depth + 1));
    }
    TRY(json_line(e, b, style, depth));
    return put(e, b, "}");
}

static Status json_list(Eval *e, Build *b, const List *l, const JsonStyle *style, int depth) {
    if (!l->n) return put(e, b, "[]");
    TRY(put(e, b, "["));
    for (size_t i = 0; i < l->n; i++) {
        if (i) TRY(build_str(e, b, style->item_separator));
        TRY(json_line(e, b, style, depth + 1));
        TRY(put_json(e, b, l->v[i], style, depth + 1));
    }
    TRY(json_line(e, b, style, depth));
    return put(e, b, "]");
}

Status put_json(Eval *e, Build *b, Value v, const JsonStyle *style, int depth) {
    if (depth > JINJA_DEPTH_MAX) return too_deep(e);
    TRY(spend_work(e, 0));
    switch (v.type) {
    case V_NONE: return put(e, b, "null");
    case V_BOOL: return put(e, b, v.i ? "true" : "false");
    case V_FLOAT:
        if (!isfinite(v.f))
            return put(e, b, isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
        return put_number(e, b, v);
    case V_INT: return put_number(e, b, v);
    case V_STRING: return json_string(e, b, v.s, style->ascii);
    case V_LIST:
    case V_TUPLE: return json_list(e, b, v.list, style, depth);
    case V_DICT: return json_dict(e, b, v.dict, style, depth);
    case V_UNDEFINED: return undefined_fail(e, v);
    default: return eval_fail(e, "a %s cannot be written as JSON", value_kind(v));
    }
}
