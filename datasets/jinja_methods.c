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

static Status strip(Eval *e, Value v, const Args *a, int sides, Value *out) {
    Str chars = {0};
    int given = a->v[0].type != V_ABSENT && a->v[0].type != V_NONE;
    if (given) TRY(want_str(e, a->v[0], "strip()", &chars));
    *out = value_str(str_strip(v.s, given ? &chars : NULL, sides));
    return spend_work(e, v.s.n);
}
static Status str_method_strip(Eval *e, Value v, const Args *a, Value *out) {
    return strip(e, v, a, STRIP_LEFT | STRIP_RIGHT, out);
}
static Status str_method_lstrip(Eval *e, Value v, const Args *a, Value *out) {
    return strip(e, v, a, STRIP_LEFT, out);
}
static Status str_method_rstrip(Eval *e, Value v, const Args *a, Value *out) {
    return strip(e, v, a, STRIP_RIGHT, out);
}

static Status str_method_split(Eval *e, Value v, const Args *a, Value *out) {
    int64_t most;
    TRY(want_count(e, a->v[1], &most));
    return str_split(e, v.s, &a->v[0], most, 0, out);
}
static Status str_method_rsplit(Eval *e, Value v, const Args *a, Value *out) {
    int64_t most;
    TRY(want_count(e, a->v[1], &most));
    return str_split(e, v.s, &a->v[0], most, 1, out);
}
static Status str_method_splitlines(Eval *e, Value v, const Args *a, Value *out) {
    return str_lines(e, v.s, a->v[0].type != V_ABSENT && value_truth(a->v[0]), out);
}

static int affix_is(Str s, Str part, int at_end) {
    return s.n >= part.n && !memcmp(at_end ? s.s + s.n - part.n : s.s, part.s, part.n);
}

static Status has_affix(Eval *e, Value v, Value part, int at_end, Value *out) {
    Value one = part, *all = &one;
    size_t n = 1;
    Str s;
    if (part.type == V_TUPLE) all = part.list->v, n = part.list->n;
    *out = value_bool(0);
    for (size_t i = 0; i < n; i++) {
        TRY(want_str(e, all[i], at_end ? "endswith()" : "startswith()", &s));
        TRY(spend_work(e, s.n));
        out->i |= affix_is(v.s, s, at_end);
    }
    return OK;
}
static Status str_method_startswith(Eval *e, Value v, const Args *a, Value *out) {
    return has_affix(e, v, a->v[0], 0, out);
}
static Status str_method_endswith(Eval *e, Value v, const Args *a, Value *out) {
    return has_affix(e, v, a->v[0], 1, out);
}

static Status str_method_removeprefix(Eval *e, Value v, const Args *a, Value *out) {
    Str s;
    TRY(want_str(e, a->v[0], "removeprefix()", &s));
    *out = value_str(affix_is(v.s, s, 0) ? str_part(v.s, s.n, v.s.n) : v.s);
    return spend_work(e, s.n);
}
static Status str_method_removesuffix(Eval *e, Value v, const Args *a, Value *out) {
    Str s;
    TRY(want_str(e, a->v[0], "removesuffix()", &s));
    *out = value_str(affix_is(v.s, s, 1) ? str_part(v.s, 0, v.s.n - s.n) : v.s);
    return spend_work(e, s.n);
}

static Status cased(Eval *e, Value v, Case to, Value *out) {
    *out = value_of(V_STRING);
    return str_case(e, v.s, to, &out->s);
}
static Status str_method_lower(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return cased(e, v, CASE_LOWER, out);
}
static Status str_method_upper(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return cased(e, v, CASE_UPPER, out);
}
static Status str_method_title(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return cased(e, v, CASE_TITLE, out);
}
static Status str_method_capitalize(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return cased(e, v, CASE_CAPITAL, out);
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

/* All characters of one kind, at least one. */
static Status all_chars(Eval *e, Value v, int (*is)(int32_t), Value *out) {
    int all = v.s.n > 0;
    TRY(spend_work(e, v.s.n));
    for (size_t i = 0, n; i < v.s.n; i += n) {
        int32_t c;
        n = char_at(v.s.s + i, v.s.n - i, &c);
        all &= is(c);
    }
    *out = value_bool(all);
    return OK;
}
static int is_digit_char(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}
static int is_letter(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
static int is_letter_or_digit(int32_t c) {
    return is_letter(c) || is_digit_char(c);
}
static Status str_method_isdigit(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return all_chars(e, v, is_digit_char, out);
}
static Status str_method_isalpha(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return all_chars(e, v, is_letter, out);
}
static Status str_method_isalnum(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return all_chars(e, v, is_letter_or_digit, out);
}
static Status str_method_isspace(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return all_chars(e, v, is_space_char, out);
}

static const Builtin str_methods[] = {
    {"capitalize", "", str_method_capitalize},
    {"count", "sub!", str_method_count},
    {"endswith", "suffix!", str_method_endswith},
    {"find", "sub!", str_method_find},
    {"isalnum", "", str_method_isalnum},
    {"isalpha", "", str_method_isalpha},
    {"isdigit", "", str_method_isdigit},
    {"isspace", "", str_method_isspace},
    {"join", "items!", str_method_join},
    {"lower", "", str_method_lower},
    {"lstrip", "chars", str_method_lstrip},
    {"removeprefix", "prefix!", str_method_removeprefix},
    {"removesuffix", "suffix!", str_method_removesuffix},
    {"replace", "old!,new!,count", str_method_replace},
    {"rfind", "sub!", str_method_rfind},
    {"rsplit", "sep,maxsplit", str_method_rsplit},
    {"rstrip", "chars", str_method_rstrip},
    {"split", "sep,maxsplit", str_method_split},
    {"splitlines", "keepends", str_method_splitlines},
    {"startswith", "prefix!", str_method_startswith},
    {"strip", "chars", str_method_strip},
    {"title", "", str_method_title},
    {"upper", "", str_method_upper},
    {"casefold", NULL, NULL},
    {"center", NULL, NULL},
    {"encode", NULL, NULL},
    {"expandtabs", NULL, NULL},
    {"format", NULL, NULL},
    {"format_map", NULL, NULL},
    {"index", NULL, NULL},
    {"isdecimal", NULL, NULL},
    {"islower", NULL, NULL},
    {"isnumeric", NULL, NULL},
    {"istitle", NULL, NULL},
    {"isupper", NULL, NULL},
    {"ljust", NULL, NULL},
    {"partition", NULL, NULL},
    {"rindex", NULL, NULL},
    {"rjust", NULL, NULL},
    {"rpartition", NULL, NULL},
    {"swapcase", NULL, NULL},
    {"translate", NULL, NULL},
    {"zfill", NULL, NULL},
};

/* ---- dicts ---- */

static Status dict_method_get(Eval *e, Value v, const Args *a, Value *out) {
    const Value *found;
    TRY(dict_find(e, v.dict, a->v[0], &found));
    *out = found ? *found : a->v[1].type == V_ABSENT ? value_of(V_NONE) : a->v[1];
    return OK;
}

static Status dict_parts(Eval *e, Value v, int key, int value, Value *out) {
    TRY(list_new(e, V_LIST, v.dict->n, out));
    for (size_t i = 0; i < v.dict->n; i++) {
        const Pair *p = &v.dict->v[i];
        Value item = key ? p->key : p->value;
        if (key && value) {
            TRY(list_new(e, V_TUPLE, 2, &item));
            TRY(list_add(e, item, p->key));
            TRY(list_add(e, item, p->value));
        }
        TRY(list_add(e, *out, item));
    }
    return OK;
}
static Status dict_method_items(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return dict_parts(e, v, 1, 1, out);
}
static Status dict_method_keys(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return dict_parts(e, v, 1, 0, out);
}
static Status dict_method_values(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return dict_parts(e, v, 0, 1, out);
}
static Status dict_method_copy(Eval *e, Value v, const Args *a, Value *out) {
    (void)e, (void)a;
    *out = v; /* nothing can change it */
    return OK;
}

static const Builtin dict_methods[] = {
    {"copy", "", dict_method_copy},
    {"get", "key!,default", dict_method_get},
    {"items", "", dict_method_items},
    {"keys", "", dict_method_keys},
    {"values", "", dict_method_values},
    {"clear", NULL, NULL},
    {"fromkeys", NULL, NULL},
    {"pop", NULL, NULL},
    {"popitem", NULL, NULL},
    {"setdefault", NULL, NULL},
    {"update", NULL, NULL},
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
    {"count", "value!", list_method_count},
    {"index", "value!", list_method_index},
    {"append", NULL, NULL},
    {"clear", NULL, NULL},
    {"extend", NULL, NULL},
    {"insert", NULL, NULL},
    {"pop", NULL, NULL},
    {"remove", NULL, NULL},
    {"reverse", NULL, NULL},
    {"sort", NULL, NULL},
};

#define TABLE(type, list) [type] = {list, sizeof(list) / sizeof(*list)}

const Builtin *method_named(ValueType type, const char *name) {
    static const struct {
        const Builtin *v;
        size_t n;
    } tables[V_METHOD + 1] = {TABLE(V_STRING, str_methods), TABLE(V_DICT, dict_methods),
                              TABLE(V_LIST, list_methods), TABLE(V_TUPLE, list_methods)};
    for (size_t i = 0; i < tables[type].n; i++)
        if (!strcmp(tables[type].v[i].name, name)) return &tables[type].v[i];
    return NULL;
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

static Status put_all(Eval *e, const Args *a, ValueType type, Value *out) {
    TRY(dict_new(e, type, out));
    if (a->n > 1 || (a->n == 1 && a->v[0].type != V_DICT))
        return eval_fail(e, "only a dict and named values can make a %s", value_kind(*out));
    for (size_t i = 0; a->n && i < a->v[0].dict->n; i++)
        TRY(dict_put(e, *out, a->v[0].dict->v[i].key, a->v[0].dict->v[i].value));
    for (int i = 0; i < a->n_keys; i++)
        TRY(dict_put(e, *out, value_str(str_of(a->key[i])), a->key_value[i]));
    return OK;
}
static Status call_namespace(Eval *e, Value self, const Args *a, Value *out) {
    (void)self;
    return put_all(e, a, V_NAMESPACE, out);
}
static Status call_dict(Eval *e, Value self, const Args *a, Value *out) {
    (void)self;
    return put_all(e, a, V_DICT, out);
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
    {"dict", NULL, call_dict},
    {"namespace", NULL, call_namespace},
    {"raise_exception", "message!", call_raise},
    {"range", "start!,stop,step", call_range},
    {"strftime_now", "format!", call_strftime},
};

const Builtin *function_named(const char *name) {
    for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++)
        if (!strcmp(functions[i].name, name)) return &functions[i];
    return NULL;
}
