/* jinja_tests.c - what may stand behind `is`. */
#include <math.h>
#include <utf8proc.h>
#include "datasets/jinja_parts.h"

#define TEST(name, truth)                                                                          \
    static Status test_##name(Eval *e, Value v, const Args *a, Value *out) {                       \
        (void)e, (void)a;                                                                          \
        *out = value_bool(truth);                                                                  \
        return OK;                                                                                 \
    }

TEST(defined, v.type != V_UNDEFINED)
TEST(undefined, v.type == V_UNDEFINED)
TEST(none, v.type == V_NONE)
TEST(string, v.type == V_STRING)
TEST(mapping, v.type == V_DICT)
TEST(number, is_number(v))
TEST(integer, v.type == V_INT)
TEST(float, v.type == V_FLOAT)
TEST(boolean, v.type == V_BOOL)
TEST(true, v.type == V_BOOL && v.i)
TEST(false, v.type == V_BOOL && !v.i)
TEST(sequence, is_list(v) || v.type == V_STRING || v.type == V_DICT || v.type == V_UNDEFINED)
TEST(callable,
     v.type == V_UNDEFINED || v.type == V_MACRO || v.type == V_FUNCTION || v.type == V_METHOD)

static Status compare_with(Eval *e, Value v, const Args *a, int least, int most, Value *out) {
    int order;
    TRY(value_order(e, v, a->v[0], &order));
    *out = value_bool(order >= least && order <= most);
    return OK;
}
static Status test_lt(Eval *e, Value v, const Args *a, Value *out) {
    return compare_with(e, v, a, -1, -1, out);
}
static Status test_le(Eval *e, Value v, const Args *a, Value *out) {
    return compare_with(e, v, a, -1, 0, out);
}
static Status test_gt(Eval *e, Value v, const Args *a, Value *out) {
    return compare_with(e, v, a, 1, 1, out);
}
static Status test_ge(Eval *e, Value v, const Args *a, Value *out) {
    return compare_with(e, v, a, 0, 1, out);
}

static Status test_eq(Eval *e, Value v, const Args *a, Value *out) {
    int equal;
    TRY(value_equal(e, v, a->v[0], &equal));
    *out = value_bool(equal);
    return OK;
}
static Status test_ne(Eval *e, Value v, const Args *a, Value *out) {
    TRY(test_eq(e, v, a, out));
    out->i = !out->i;
    return OK;
}

static Status test_in(Eval *e, Value v, const Args *a, Value *out) {
    int found;
    TRY(value_in(e, v, a->v[0], &found));
    *out = value_bool(found);
    return OK;
}

static Status test_sameas(Eval *e, Value v, const Args *a, Value *out) {
    *out = value_bool(0);
    return v.type == a->v[0].type ? test_eq(e, v, a, out) : OK;
}

static Status remainder_is(Eval *e, Value v, Value by, int64_t want, Value *out) {
    Value left;
    TRY(value_arith(e, OP_MOD, v, by, &left));
    *out = value_bool(is_number(left) && as_double(left) == (double)want);
    return OK;
}
static Status test_odd(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return remainder_is(e, v, value_int(2), 1, out);
}
static Status test_even(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return remainder_is(e, v, value_int(2), 0, out);
}
static Status test_divisibleby(Eval *e, Value v, const Args *a, Value *out) {
    return remainder_is(e, v, a->v[0], 0, out);
}

/* Is there a letter, and none of the other case? */
static Status has_case(Eval *e, Value v, utf8proc_category_t want, Value *out) {
    Str s;
    int found = 0, other = 0;
    TRY(value_text(e, v, &s));
    TRY(spend_work(e, s.n));
    for (size_t i = 0, n; i < s.n; i += n) {
        int32_t c;
        n = char_at(s.s + i, s.n - i, &c);
        utf8proc_category_t k = utf8proc_category(c);
        found |= k == want;
        other |= k != want && (k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL ||
                               k == UTF8PROC_CATEGORY_LT);
    }
    *out = value_bool(found && !other);
    return OK;
}
static Status test_lower(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return has_case(e, v, UTF8PROC_CATEGORY_LL, out);
}
static Status test_upper(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    return has_case(e, v, UTF8PROC_CATEGORY_LU, out);
}

static const Builtin tests[] = {
    {"!=", "other!", test_ne},
    {"<", "other!", test_lt},
    {"<=", "other!", test_le},
    {"==", "other!", test_eq},
    {">", "other!", test_gt},
    {">=", "other!", test_ge},
    {"boolean", "", test_boolean},
    {"callable", "", test_callable},
    {"defined", "", test_defined},
    {"divisibleby", "num!", test_divisibleby},
    {"eq", "other!", test_eq},
    {"equalto", "other!", test_eq},
    {"even", "", test_even},
    {"false", "", test_false},
    {"float", "", test_float},
    {"ge", "other!", test_ge},
    {"greaterthan", "other!", test_gt},
    {"gt", "other!", test_gt},
    {"in", "seq!", test_in},
    {"integer", "", test_integer},
    {"iterable", "", test_sequence},
    {"le", "other!", test_le},
    {"lessthan", "other!", test_lt},
    {"lower", "", test_lower},
    {"lt", "other!", test_lt},
    {"mapping", "", test_mapping},
    {"ne", "other!", test_ne},
    {"none", "", test_none},
    {"number", "", test_number},
    {"odd", "", test_odd},
    {"sameas", "other!", test_sameas},
    {"sequence", "", test_sequence},
    {"string", "", test_string},
    {"true", "", test_true},
    {"undefined", "", test_undefined},
    {"upper", "", test_upper},
};

const Builtin *test_named(const char *name) {
    for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
        if (!strcmp(tests[i].name, name)) return &tests[i];
    return NULL;
}
