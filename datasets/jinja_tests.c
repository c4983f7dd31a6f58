/* jinja_tests.c - what may stand behind `is`. */
#include <utf8proc.h>
#include "datasets/jinja_parts.h"

enum { /* modes of test_type: sets of types */
       IS_UNDEFINED = 1 << V_UNDEFINED,
       IS_DEFINED = ~IS_UNDEFINED,
       IS_CALLABLE = IS_UNDEFINED | 1 << V_MACRO | 1 << V_FUNCTION | 1 << V_METHOD,
       IS_NUMBER = 1 << V_BOOL | 1 << V_INT | 1 << V_FLOAT,
       IS_SEQUENCE = IS_UNDEFINED | 1 << V_STRING | 1 << V_LIST | 1 << V_TUPLE | 1 << V_DICT,
};

static Status test_type(Eval *e, Value v, const Args *a, Value *out) {
    (void)e;
    *out = value_bool((a->mode >> v.type) & 1);
    return OK;
}

static Status test_truth(Eval *e, Value v, const Args *a, Value *out) {
    (void)e;
    *out = value_bool(v.type == V_BOOL && v.i == a->mode);
    return OK;
}

enum { LESS = 1, SAME = 2, MORE = 4 }; /* modes of test_order: the orders that pass */

static Status test_order(Eval *e, Value v, const Args *a, Value *out) {
    int order;
    TRY(value_order(e, v, a->v[0], &order));
    *out = value_bool(a->mode & (order < 0 ? LESS : order > 0 ? MORE : SAME));
    return OK;
}

/* mode: the answer for equal values */
static Status test_equal(Eval *e, Value v, const Args *a, Value *out) {
    int equal;
    TRY(value_equal(e, v, a->v[0], &equal));
    *out = value_bool(equal == a->mode);
    return OK;
}

static Status test_in(Eval *e, Value v, const Args *a, Value *out) {
    int found;
    TRY(value_in(e, v, a->v[0], &found));
    *out = value_bool(found);
    return OK;
}

static Status test_sameas(Eval *e, Value v, const Args *a, Value *out) {
    int equal = 0;
    if (v.type == a->v[0].type) TRY(value_equal(e, v, a->v[0], &equal));
    *out = value_bool(equal);
    return OK;
}

static Status remainder_is(Eval *e, Value v, Value by, int64_t want, Value *out) {
    Value left;
    TRY(value_arith(e, OP_MOD, v, by, &left));
    *out = value_bool(is_number(left) && as_double(left) == (double)want);
    return OK;
}
static Status test_parity(Eval *e, Value v, const Args *a, Value *out) {
    return remainder_is(e, v, value_int(2), a->mode, out);
}
static Status test_divisibleby(Eval *e, Value v, const Args *a, Value *out) {
    return remainder_is(e, v, a->v[0], 0, out);
}

/* Is there a letter of the category that mode says, and none of another case? */
static Status test_case(Eval *e, Value v, const Args *a, Value *out) {
    Str s;
    int found = 0, other = 0;
    TRY(value_text(e, v, &s));
    TRY(spend_work(e, s.n));
    for (size_t i = 0, n; i < s.n; i += n) {
        int32_t c;
        n = char_at(s.s + i, s.n - i, &c);
        int k = (int)utf8proc_category(c);
        found |= k == a->mode;
        other |= k != a->mode && (k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL ||
                                  k == UTF8PROC_CATEGORY_LT);
    }
    *out = value_bool(found && !other);
    return OK;
}

static const Builtin tests[] = {
    {"!=", "other!", test_equal, 0},
    {"<", "other!", test_order, LESS},
    {"<=", "other!", test_order, LESS | SAME},
    {"==", "other!", test_equal, 1},
    {">", "other!", test_order, MORE},
    {">=", "other!", test_order, MORE | SAME},
    {"boolean", "", test_type, 1 << V_BOOL},
    {"callable", "", test_type, IS_CALLABLE},
    {"defined", "", test_type, IS_DEFINED},
    {"divisibleby", "num!", test_divisibleby, 0},
    {"eq", "other!", test_equal, 1},
    {"equalto", "other!", test_equal, 1},
    {"even", "", test_parity, 0},
    {"false", "", test_truth, 0},
    {"float", "", test_type, 1 << V_FLOAT},
    {"ge", "other!", test_order, MORE | SAME},
    {"greaterthan", "other!", test_order, MORE},
    {"gt", "other!", test_order, MORE},
    {"in", "seq!", test_in, 0},
    {"integer", "", test_type, 1 << V_INT},
    {"iterable", "", test_type, IS_SEQUENCE},
    {"le", "other!", test_order, LESS | SAME},
    {"lessthan", "other!", test_order, LESS},
    {"lower", "", test_case, UTF8PROC_CATEGORY_LL},
    {"lt", "other!", test_order, LESS},
    {"mapping", "", test_type, 1 << V_DICT},
    {"ne", "other!", test_equal, 0},
    {"none", "", test_type, 1 << V_NONE},
    {"number", "", test_type, IS_NUMBER},
    {"odd", "", test_parity, 1},
    {"sameas", "other!", test_sameas, 0},
    {"sequence", "", test_type, IS_SEQUENCE},
    {"string", "", test_type, 1 << V_STRING},
    {"true", "", test_truth, 1},
    {"undefined", "", test_type, IS_UNDEFINED},
    {"upper", "", test_case, UTF8PROC_CATEGORY_LU},
};

const Builtin *test_named(const char *name) {
    return builtin_find(tests, sizeof(tests) / sizeof(*tests), name);
}
