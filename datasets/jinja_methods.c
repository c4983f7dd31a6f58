/* jinja_methods.c - methods of strings, dicts and lists, and the functions that templates call.
 * What would change a value is known and refused, as the sandbox of transformers does. */
#include <time.h>
#include <utf8proc.h>
#include "datasets/jinja_parts.h"

static Status want_str(Eval *e, Value v, const char *what, Str *out) {
    *out = v.type == V_STRING ? v.s : str_of("");
    if (v.type != V_STRING) return eval_fail(e, "%s needs a string, not a %s", what, value_kind(v));
    return OK;
}

static Status want_count(Eval *e, Value v, int64_t *out) {
    *out = -1;
    if (v.type == V_ABSENT) return OK;
    if (!is_whole(v)) return eval_fail(e, "a count must be a whole number");
    *out = v.i;
    return OK;
}

/* ---- strings ---- */

enum { AT_START, AT_END }; /* modes: where a method looks */

static Status str_method_strip(Eval *e, Value v, const Args *a, Value *out) {
    Str chars = {0};
    int given = a->v[0].type != V_ABSENT && a->v[0].type != V_NONE;
    if (given) TRY(want_str(e, a->v[0], "strip()", &chars));
    *out = value_str(str_strip(v.s, given ? &chars : NULL, a->mode));
    return spend_work(e, v.s.n);
}

static Status str_method_split(Eval *e, Value v, const Args *a, Value *out) {
    int64_t most;
    TRY(want_count(e, a->v[1], &most));
    return str_split(e, v.s, &a->v[0], most, a->mode == AT_END, out);
}

static Status str_method_splitlines(Eval *e, Value v, const Args *a, Value *out) {
    return str_lines(e, v.s, a->v[0].type != V_ABSENT && value_truth(a->v[0]), out);
}

static int affix_is(Str s, Str part, int at_end) {
    return s.n >= part.n && !memcmp(at_end ? s.s + s.n - part.n : s.s, part.s, part.n);
}

static Status str_method_has_affix(Eval *e, Value v, const Args *a, Value *out) {
    Value one = a->v[0], *all = &one;
    size_t n = 1;
    int at_end = a->mode == AT_END;
    Str s;
    if (one.type == V_TUPLE) all = one.list->v, n = one.list->n;
    *out = value_bool(0);
    for (size_t i = 0; i < n; i++) {
        TRY(want_str(e, all[i], at_end ? "endswith()" : "startswith()", &s));
        TRY(spend_work(e, s.n));
        out->i |= affix_is(v.s, s, at_end);
    }
    return OK;
}

static Status str_method_without_affix(Eval *e, Value v, const Args *a, Value *out) {
    int at_end = a->mode == AT_END;
    Str s;
    TRY(want_str(e, a->v[0], at_end ? "removesuffix()" : "removeprefix()", &s));
    *out = v;
    if (affix_is(v.s, s, at_end))
        out->s = at_end ? str_part(v.s, 0, v.s.n - s.n) : str_part(v.s, s.n, v.s.n);
    return spend_work(e, s.n);
}

static Status str_method_case(Eval *e, Value v, const Args *a, Value *out) {
    *out = value_of(V_STRING);
    return str_case(e, v.s, (Case)a->mode, &out->s);
}

static Status str_method_replace(Eval *e, Value v, const Args *a, Value *out) {
    Str old, with;
    int64_t n;
    TRY(want_str(e, a->v[0], "replace()", &old));
    TRY(want_str(e, a->v[1], "replace()", &with));
    TRY(want_count(e, a->v[2], &n));
    *out = value_of(V_STRING);
    return str_replace(e, v.s, old, with, n, &out->s);
}

static Status str_method_join(Eval *e, Value v, const Args *a, Value *out) {
    Build b = {0};
    Value all;
    TRY(value_elements(e, a->v[0], &all));
    for (size_t i = 0; i < all.list->n; i++) {
        Str s;
        TRY(want_str(e, all.list->v[i], "join()", &s));
        if (i) TRY(build_str(e, &b, v.s));
        TRY(build_str(e, &b, s));
    }
    *out = value_str(build_done(&b));
    return OK;
}

static Status str_method_find(Eval *e, Value v, const Args *a, Value *out) {
    Str s;
    TRY(want_str(e, a->v[0], "find()", &s));
    const char *hit = str_find(v.s, s);
    *out = value_int(hit ? (int64_t)str_chars(str_part(v.s, 0, (size_t)(hit - v.s.s))) : -1);
    return spend_work(e, v.s.n + s.n);
}
static Status str_method_rfind(Eval *e, Value v, const Args *a, Value *out) {
    Str s;
    TRY(want_str(e, a->v[0], "rfind()", &s));
    TRY(spend_work(e, v.s.n * (s.n + 8) / 8));
    *out = value_int(-1);
    for (size_t at = v.s.n + 1 - (s.n < v.s.n ? s.n : v.s.n); out->i < 0 && at-- > 0;)
        if (affix_is(str_part(v.s, at, v.s.n), s, 0))
            *out = value_int((int64_t)str_chars(str_part(v.s, 0, at)));
    return OK;
}

static Status str_method_count(Eval *e, Value v, const Args *a, Value *out) {
    Str s, rest = v.s;
    int64_t n = 0;
    TRY(want_str(e, a->v[0], "count()", &s));
    TRY(spend_work(e, v.s.n + s.n));
    *out = value_int((int64_t)str_chars(v.s) + 1);
    if (!s.n) return OK;
    for (const char *hit; (hit = str_find(rest, s)); n++)
        rest = str_part(rest, (size_t)(hit - rest.s) + s.n, rest.n);
    *out = value_int(n);
    return OK;
}

/* modes: kinds of characters */
enum { CHAR_DIGIT = 1, CHAR_LETTER = 2, CHAR_SPACE = 4 };

static int char_kind(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    if (is_space_char(c)) return CHAR_SPACE;
    if (k == UTF8PROC_CATEGORY_ND) return CHAR_DIGIT;
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO ? CHAR_LETTER : 0;
}

/* Is there a character, and are all of these kinds? */
static Status str_method_is(Eval *e, Value v, const Args *a, Value *out) {
    int all = v.s.n > 0;
    TRY(spend_work(e, v.s.n));
    for (size_t i = 0, n; i < v.s.n; i += n) {
        int32_t c;
        n = char_at(v.s.s + i, v.s.n - i, &c);
        all &= (char_kind(c) & a->mode) != 0;
    }
    *out = value_bool(all);
    return OK;
}

static const Builtin str_methods[] = {
    {"capitalize", "", str_method_case, CASE_CAPITAL},
    {"count", "sub!", str_method_count, 0},
    {"endswith", "suffix!", str_method_has_affix, AT_END},
    {"find", "sub!", str_method_find, 0},
    {"isalnum", "", str_method_is, CHAR_LETTER | CHAR_DIGIT},
    {"isalpha", "", str_method_is, CHAR_LETTER},
    {"isdigit", "", str_method_is, CHAR_DIGIT},
    {"isspace", "", str_method_is, CHAR_SPACE},
    {"join", "items!", str_method_join, 0},
    {"lower", "", str_method_case, CASE_LOWER},
    {"lstrip", "chars", str_method_strip, STRIP_LEFT},
    {"removeprefix", "prefix!", str_method_without_affix, AT_START},
    {"removesuffix", "suffix!", str_method_without_affix, AT_END},
    {"replace", "old!,new!,count", str_method_replace, 0},
    {"rfind", "sub!", str_method_rfind, 0},
    {"rsplit", "sep,maxsplit", str_method_split, AT_END},
    {"rstrip", "chars", str_method_strip, STRIP_RIGHT},
    {"split", "sep,maxsplit", str_method_split, AT_START},
    {"splitlines", "keepends", str_method_splitlines, 0},
    {"startswith", "prefix!", str_method_has_affix, AT_START},
    {"strip", "chars", str_method_strip, STRIP_LEFT | STRIP_RIGHT},
    {"title", "", str_method_case, CASE_TITLE},
    {"upper", "", str_method_case, CASE_UPPER},
    {"casefold", NULL, NULL, 0},
    {"center", NULL, NULL, 0},
    {"encode", NULL, NULL, 0},
    {"expandtabs", NULL, NULL, 0},
    {"format", NULL, NULL, 0},
    {"format_map", NULL, NULL, 0},
    {"index", NULL, NULL, 0},
    {"isdecimal", NULL, NULL, 0},
    {"islower", NULL, NULL, 0},
    {"isnumeric", NULL, NULL, 0},
    {"istitle", NULL, NULL, 0},
    {"isupper", NULL, NULL, 0},
    {"ljust", NULL, NULL, 0},
    {"partition", NULL, NULL, 0},
    {"rindex", NULL, NULL, 0},
    {"rjust", NULL, NULL, 0},
    {"rpartition", NULL, NULL, 0},
    {"swapcase", NULL, NULL, 0},
    {"translate", NULL, NULL, 0},
    {"zfill", NULL, NULL, 0},
};

/* ---- dicts ---- */

static Status dict_method_get(Eval *e, Value v, const Args *a, Value *out) {
    const Value *found;
    TRY(dict_find(e, v.dict, a->v[0], &found));
    *out = found ? *found : a->v[1].type == V_ABSENT ? value_of(V_NONE) : a->v[1];
    return OK;
}

enum { DICT_KEYS = 1, DICT_VALUES = 2 }; /* modes */

static Status dict_method_parts(Eval *e, Value v, const Args *a, Value *out) {
    TRY(list_new(e, V_LIST, v.dict->n, out));
    for (size_t i = 0; i < v.dict->n; i++) {
        const Pair *p = &v.dict->v[i];
        Value item = a->mode & DICT_KEYS ? p->key : p->value;
        if (a->mode == (DICT_KEYS | DICT_VALUES)) TRY(pair_of(e, p, &item));
        TRY(list_add(e, *out, item));
    }
    return OK;
}

static Status dict_method_copy(Eval *e, Value v, const Args *a, Value *out) {
    (void)e, (void)a;
    *out = v; /* nothing can change it */
    return OK;
}

static const Builtin dict_methods[] = {
    {"copy", "", dict_method_copy, 0},
    {"get", "key!,default", dict_method_get, 0},
    {"items", "", dict_method_parts, DICT_KEYS | DICT_VALUES},
    {"keys", "", dict_method_parts, DICT_KEYS},
    {"values", "", dict_method_parts, DICT_VALUES},
    {"clear", NULL, NULL, 0},
    {"fromkeys", NULL, NULL, 0},
    {"pop", NULL, NULL, 0},
    {"popitem", NULL, NULL, 0},
    {"setdefault", NULL, NULL, 0},
    {"update", NULL, NULL, 0},
};

/* ---- lists ---- */

static Status list_method_count(Eval *e, Value v, const Args *a, Value *out) {
    *out = value_int(0);
    for (size_t i = 0; i < v.list->n; i++) {
        int equal;
        TRY(value_equal(e, v.list->v[i], a->v[0], &equal));
        out->i += equal;
    }
    return OK;
}

static Status list_method_index(Eval *e, Value v, const Args *a, Value *out) {
    for (size_t i = 0; i < v.list->n; i++) {
        int equal;
        TRY(value_equal(e, v.list->v[i], a->v[0], &equal));
        *out = value_int((int64_t)i);
        if (equal) return OK;
    }
    return eval_fail(e, "index() finds no such element");
}

static const Builtin list_methods[] = {
    {"count", "value!", list_method_count, 0},
    {"index", "value!", list_method_index, 0},
    {"append", NULL, NULL, 0},
    {"clear", NULL, NULL, 0},
    {"extend", NULL, NULL, 0},
    {"insert", NULL, NULL, 0},
    {"pop", NULL, NULL, 0},
    {"remove", NULL, NULL, 0},
    {"reverse", NULL, NULL, 0},
    {"sort", NULL, NULL, 0},
};

#define TABLE(type, list) [type] = {list, sizeof(list) / sizeof(*list)}

const Builtin *method_named(ValueType type, const char *name) {
    static const struct {
        const Builtin *v;
        size_t n;
    } tables[V_METHOD + 1] = {TABLE(V_STRING, str_methods), TABLE(V_DICT, dict_methods),
                              TABLE(V_LIST, list_methods), TABLE(V_TUPLE, list_methods)};
    return builtin_find(tables[type].v, tables[type].n, name);
}

/* ---- functions ---- */

static Status range_bound(Eval *e, Value v, int64_t *out) {
    if (!is_whole(v)) return eval_fail(e, "range() takes whole numbers, not a %s", value_kind(v));
    *out = v.i;
    if (v.i > INT32_MAX || v.i < INT32_MIN) return eval_fail(e, "a range that is too long");
    return OK;
}

static Status call_range(Eval *e, Value self, const Args *a, Value *out) {
    int64_t from = 0, to = 0, step = 1;
    (void)self;
    TRY(range_bound(e, a->v[0], &to));
    if (a->v[1].type != V_ABSENT) {
        from = to;
        TRY(range_bound(e, a->v[1], &to));
    }
    if (a->v[2].type != V_ABSENT) TRY(range_bound(e, a->v[2], &step));
    if (step == 0) return eval_fail(e, "range() with a step of zero");
    if ((to - from) / step > JINJA_RANGE_MAX)
        return eval_fail(e, "a range of more than %d numbers", JINJA_RANGE_MAX);
    TRY(list_new(e, V_LIST, 0, out));
    for (int64_t i = from; step < 0 ? i > to : i < to; i += step)
        TRY(list_add(e, *out, value_int(i)));
    return OK;
}

/* mode: the type that is made */
static Status call_dict(Eval *e, Value self, const Args *a, Value *out) {
    (void)self;
    TRY(dict_new(e, (ValueType)a->mode, out));
    if (a->n > 1 || (a->n == 1 && a->v[0].type != V_DICT))
        return eval_fail(e, "only a dict and named values can make a %s", value_kind(*out));
    for (size_t i = 0; a->n && i < a->v[0].dict->n; i++)
        TRY(dict_put(e, *out, a->v[0].dict->v[i].key, a->v[0].dict->v[i].value));
    for (int i = 0; i < a->n_keys; i++)
        TRY(dict_put(e, *out, value_str(str_of(a->key[i])), a->key_value[i]));
    return OK;
}

/* The sentence is the template's: it becomes the status message as it is, on one line. */
static Status call_raise(Eval *e, Value self, const Args *a, Value *out) {
    Str s;
    (void)self;
    *out = value_of(V_NONE);
    TRY(value_text(e, a->v[0], &s));
    char *line = arena_strndup(&e->arena, s.s, s.n < 1000 ? s.n : 1000);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 32) *c = ' ';
    return status_fail(E_FORMAT, "%s", line);
}

static Status call_strftime(Eval *e, Value self, const Args *a, Value *out) {
    char format[256], text[1024];
    Build b = {0};
    Str s;
    struct tm tm;
    time_t now = (time_t)e->now;
    (void)self;
    TRY(want_str(e, a->v[0], "strftime_now()", &s));
    if (s.n + 1 > sizeof(format)) return eval_fail(e, "a date format of more than 255 bytes");
    memcpy(format, s.s, s.n);
    format[s.n] = 0;
    if (!localtime_r(&now, &tm)) return eval_fail(e, "the time has no date");
    size_t n = strftime(text, sizeof(text), format, &tm);
    TRY(build_bytes(e, &b, text, n, s.data != NULL));
    *out = value_str(build_done(&b));
    return OK;
}

static const Builtin functions[] = {
    {"dict", NULL, call_dict, V_DICT},
    {"namespace", NULL, call_dict, V_NAMESPACE},
    {"raise_exception", "message!", call_raise, 0},
    {"range", "start!,stop,step", call_range, 0},
    {"strftime_now", "format!", call_strftime, 0},
};

const Builtin *function_named(const char *name) {
    return builtin_find(functions, sizeof(functions) / sizeof(*functions), name);
}
