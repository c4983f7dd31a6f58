/* jinja_value.c - lists, dicts, comparison, arithmetic and attributes, as Python has them. */
#include <math.h>
#include "datasets/jinja_parts.h"

/* ---- lists and dicts ---- */

static Status grow(Eval *e, void **v, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return OK;
    size_t room = *cap ? 2 * *cap : 4;
    TRY(spend_memory(e, room * size));
    void *grown = arena_alloc(&e->arena, room * size);
    if (n) memcpy(grown, *v, n * size);
    *v = grown;
    *cap = room;
    return OK;
}

Status list_new(Eval *e, ValueType type, size_t room, Value *out) {
    TRY(spend_memory(e, sizeof(List) + room * sizeof(Value)));
    List *l = arena_alloc(&e->arena, sizeof(*l));
    if (room) l->v = arena_alloc(&e->arena, room * sizeof(*l->v));
    l->cap = room;
    *out = (Value){.type = type, .list = l};
    return OK;
}

Status list_add(Eval *e, Value list, Value v) {
    List *l = list.list;
    void *mem = l->v;
    TRY(grow(e, &mem, l->n, &l->cap, sizeof(*l->v)));
    l->v = mem;
    l->v[l->n++] = v;
    return spend_work(e, 0);
}

Status dict_new(Eval *e, ValueType type, Value *out) {
    TRY(spend_memory(e, sizeof(Dict)));
    *out = (Value){.type = type, .dict = arena_alloc(&e->arena, sizeof(Dict))};
    return OK;
}

Status dict_find(Eval *e, const Dict *d, Value key, const Value **out) {
    *out = NULL;
    if (key.type == V_LIST || key.type == V_DICT)
        return eval_fail(e, "a %s cannot be a key", value_kind(key));
    TRY(spend_work(e, d->n * 8));
    for (size_t i = 0; i < d->n; i++) {
        Value k = d->v[i].key;
        int same;
        if (k.type == V_STRING && key.type == V_STRING)
            same = k.s.n == key.s.n && !memcmp(k.s.s, key.s.s, key.s.n);
        else
            TRY(value_equal(e, k, key, &same));
        if (!same) continue;
        *out = &d->v[i].value;
        return OK;
    }
    return OK;
}

static Status dict_append(Eval *e, Dict *d, Value key, Value value) {
    void *mem = d->v;
    TRY(grow(e, &mem, d->n, &d->cap, sizeof(*d->v)));
    d->v = mem;
    d->v[d->n++] = (Pair){key, value};
    return OK;
}

Status dict_put(Eval *e, Value dict, Value key, Value value) {
    const Value *old;
    TRY(dict_find(e, dict.dict, key, &old));
    if (!old) return dict_append(e, dict.dict, key, value);
    *(Value *)old = value;
    return OK;
}

/* ---- from JSON ---- */

static Status data_string(Eval *e, const char *s, Value *out) {
    Build b = {0};
    TRY(build_bytes(e, &b, s, strlen(s), 1));
    *out = value_str(build_done(&b));
    return OK;
}

static Status convert(Eval *e, const Json *n, Value *out);

static Status convert_members(Eval *e, const Json *n, Value *out) {
    int object = json_type(n) == JSON_OBJECT;
    TRY(object ? dict_new(e, V_DICT, out) : list_new(e, V_LIST, (size_t)json_size(n), out));
    for (const Json *m = json_first(n); m; m = json_next(m)) {
        Value key, v;
        TRY(convert(e, m, &v));
        if (!object) {
            TRY(list_add(e, *out, v));
            continue;
        }
        TRY(data_string(e, json_key(m), &key)); /* keys of one object differ: no search */
        TRY(dict_append(e, out->dict, key, v));
    }
    return OK;
}

static Status convert(Eval *e, const Json *n, Value *out) {
    switch (json_type(n)) {
    case JSON_NULL: *out = value_of(V_NONE); return OK;
    case JSON_BOOL: *out = value_bool(json_bool(n)); return OK;
    case JSON_NUMBER: {
        double d = json_num(n);
        int whole = d == floor(d) && fabs(d) < 9007199254740992.0;
        *out = whole ? value_int((int64_t)d) : value_float(d);
        return OK;
    }
    case JSON_STRING: return data_string(e, json_str(n), out);
    default: return convert_members(e, n, out);
    }
}

/* Roles of messages: the template's own when they are one of the known ones. */
static void own_strings(const JinjaVar *var, Value object) {
    if (object.type != V_DICT) return;
    for (size_t i = 0; i < object.dict->n; i++) {
        Pair *p = &object.dict->v[i];
        if (!str_is(p->key.s, var->own_key) || p->value.type != V_STRING) continue;
        for (int k = 0; var->own_values[k]; k++)
            if (str_is(p->value.s, var->own_values[k])) p->value.s.data = NULL;
    }
}

Status value_from_json(Eval *e, const JinjaVar *var, Value *out) {
    if (!var->json || json_type(var->json) != JSON_ARRAY)
        return var->json ? convert(e, var->json, out) : (*out = value_of(V_NONE), OK);
    int n = 0;
    TRY(list_new(e, V_LIST, 0, out));
    for (const Json *m = json_first(var->json); m; m = json_next(m)) {
        Value v;
        if (var->first >= 0 && n++ == var->first) break;
        TRY(convert(e, m, &v));
        if (var->own_key) own_strings(var, v);
        TRY(list_add(e, *out, v));
    }
    return OK;
}

/* ---- what a value is ---- */

const char *value_kind(Value v) {
    static const char *const names[] = {
        "nothing", "undefined value", "None", "bool",  "int",      "float", "str", "list", "tuple",
        "dict",    "Namespace",       "loop", "macro", "function", "method"};
    return names[v.type];
}

int value_truth(Value v) {
    switch (v.type) {
    case V_ABSENT:
    case V_UNDEFINED:
    case V_NONE: return 0;
    case V_BOOL:
    case V_INT: return v.i != 0;
    case V_FLOAT: return v.f != 0.0;
    case V_STRING: return v.s.n != 0;
    case V_LIST:
    case V_TUPLE: return v.list->n != 0;
    case V_DICT: return v.dict->n != 0;
    default: return 1;
    }
}

Status undefined_fail(Eval *e, Value v) {
    if (v.missing.owner)
        return eval_fail(e, "%s has no attribute \"%.80s\"", v.missing.owner, v.missing.name);
    return eval_fail(e, "\"%.80s\" is undefined", v.missing.name);
}

Status value_length(Eval *e, Value v, int64_t *n) {
    switch (v.type) {
    case V_UNDEFINED: *n = 0; return OK;
    case V_STRING: *n = (int64_t)str_chars(v.s); return spend_work(e, v.s.n);
    case V_LIST:
    case V_TUPLE: *n = (int64_t)v.list->n; return OK;
    case V_DICT: *n = (int64_t)v.dict->n; return OK;
    default: return eval_fail(e, "a %s has no length", value_kind(v));
    }
}

Status value_elements(Eval *e, Value v, Value *list) {
    int32_t code;
    if (is_list(v)) {
        *list = v;
        return OK;
    }
    if (v.type != V_UNDEFINED && v.type != V_DICT && v.type != V_STRING)
        return eval_fail(e, "a %s cannot be iterated over", value_kind(v));
    TRY(list_new(e, V_LIST, v.type == V_DICT ? v.dict->n : 0, list));
    for (size_t i = 0; v.type == V_DICT && i < v.dict->n; i++)
        TRY(list_add(e, *list, v.dict->v[i].key));
    for (size_t i = 0, n; v.type == V_STRING && i < v.s.n; i += n) {
        n = char_at(v.s.s + i, v.s.n - i, &code);
        TRY(list_add(e, *list, value_str(str_part(v.s, i, i + n))));
    }
    return OK;
}

/* ---- comparison ---- */

static Status equal_at(Eval *e, Value a, Value b, int depth, int *equal);

static Status equal_lists(Eval *e, const List *a, const List *b, int depth, int *equal) {
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) TRY(equal_at(e, a->v[i], b->v[i], depth, equal));
    return OK;
}

static Status equal_dicts(Eval *e, const Dict *a, const Dict *b, int depth, int *equal) {
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        const Value *other;
        TRY(dict_find(e, b, a->v[i].key, &other));
        *equal = other != NULL;
        if (other) TRY(equal_at(e, a->v[i].value, *other, depth, equal));
    }
    return OK;
}

static Status equal_at(Eval *e, Value a, Value b, int depth, int *equal) {
    *equal = 0;
    if (depth > JINJA_DEPTH_MAX) return eval_fail(e, "values are nested too deeply");
    TRY(spend_work(e, a.type == V_STRING ? a.s.n : 0));
    if (is_whole(a) && is_whole(b))
        *equal = a.i == b.i;
    else if (is_number(a) && is_number(b))
        *equal = as_double(a) == as_double(b);
    else if (a.type != b.type)
        return OK;
    else if (a.type == V_STRING)
        *equal = a.s.n == b.s.n && !memcmp(a.s.s, b.s.s, a.s.n);
    else if (is_list(a))
        return equal_lists(e, a.list, b.list, depth + 1, equal);
    else if (a.type == V_DICT)
        return equal_dicts(e, a.dict, b.dict, depth + 1, equal);
    else
        *equal = a.type == V_NONE || a.type == V_UNDEFINED || a.dict == b.dict;
    return OK;
}

Status value_equal(Eval *e, Value a, Value b, int *equal) {
    return equal_at(e, a, b, 0, equal);
}

static Status order_at(Eval *e, Value a, Value b, int depth, int *order);

static Status order_lists(Eval *e, const List *a, const List *b, int depth, int *order) {
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        TRY(order_at(e, a->v[i], b->v[i], depth, order));
        if (*order) return OK;
    }
    *order = a->n < b->n ? -1 : a->n > b->n;
    return OK;
}

static Status order_at(Eval *e, Value a, Value b, int depth, int *order) {
    if (a.type == V_UNDEFINED) return undefined_fail(e, a);
    if (b.type == V_UNDEFINED) return undefined_fail(e, b);
    if (depth > JINJA_DEPTH_MAX) return eval_fail(e, "values are nested too deeply");
    TRY(spend_work(e, a.type == V_STRING ? a.s.n : 0));
    if (is_whole(a) && is_whole(b)) {
        *order = a.i < b.i ? -1 : a.i > b.i;
    } else if (is_number(a) && is_number(b)) {
        *order = as_double(a) < as_double(b) ? -1 : as_double(a) > as_double(b);
    } else if (a.type == V_STRING && b.type == V_STRING) {
        size_t n =
            a.s.n < b.s.n ? a.s.n : b.s.n; /* bytes of UTF-8 are in the order of characters */
        int c = n ? memcmp(a.s.s, b.s.s, n) : 0;
        *order = c ? (c < 0 ? -1 : 1) : a.s.n < b.s.n ? -1 : a.s.n > b.s.n;
    } else if (is_list(a) && a.type == b.type) {
        return order_lists(e, a.list, b.list, depth + 1, order);
    } else {
        return eval_fail(e, "a %s and a %s have no order", value_kind(a), value_kind(b));
    }
    return OK;
}

Status value_order(Eval *e, Value a, Value b, int *order) {
    *order = 0;
    return order_at(e, a, b, 0, order);
}

Status value_in(Eval *e, Value item, Value in, int *found) {
    *found = 0;
    if (in.type == V_UNDEFINED) return OK;
    if (in.type == V_STRING) {
        if (item.type == V_UNDEFINED) return undefined_fail(e, item);
        if (item.type != V_STRING)
            return eval_fail(e, "a %s cannot be in a string", value_kind(item));
        *found = str_find(in.s, item.s) != NULL;
        return spend_work(e, in.s.n + item.s.n);
    }
    if (in.type == V_DICT) {
        const Value *v;
        TRY(dict_find(e, in.dict, item, &v));
        *found = v != NULL;
        return OK;
    }
    if (!is_list(in)) return eval_fail(e, "nothing can be in a %s", value_kind(in));
    for (size_t i = 0; !*found && i < in.list->n; i++)
        TRY(value_equal(e, item, in.list->v[i], found));
    return OK;
}

/* ---- arithmetic ---- */

static Status overflow(Eval *e) {
    return eval_fail(e, "a whole number beyond 64 bits");
}

static Status whole_power(Eval *e, int64_t base, int64_t exponent, Value *out) {
    int64_t v = 1;
    if (exponent < 0) {
        if (!base) return eval_fail(e, "0 has no negative power");
        *out = value_float(pow((double)base, (double)exponent));
        return OK;
    }
    for (; exponent > 0; exponent >>= 1) {
        if ((exponent & 1) && __builtin_mul_overflow(v, base, &v)) return overflow(e);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) return overflow(e);
    }
    *out = value_int(v);
    return OK;
}

static Status whole_arith(Eval *e, Op op, int64_t a, int64_t b, Value *out) {
    int64_t v = 0;
    int over = 0;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
        return eval_fail(e, "division by zero");
    if ((op == OP_FLOORDIV || op == OP_MOD) && b == -1) {
        *out = value_int(0);
        return op == OP_MOD ? OK : whole_arith(e, OP_SUB, 0, a, out);
    }
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case OP_DIV: *out = value_float((double)a / (double)b); return OK;
    case OP_FLOORDIV: v = a / b - (a % b && (a < 0) != (b < 0)); break;
    case OP_MOD: v = a % b + (a % b && (a < 0) != (b < 0) ? b : 0); break;
    default: return whole_power(e, a, b, out);
    }
    if (over) return overflow(e);
    *out = value_int(v);
    return OK;
}

static Status float_arith(Eval *e, Op op, double a, double b, Value *out) {
    double v = 0.0;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0.0)
        return eval_fail(e, "division by zero");
    switch (op) {
    case OP_ADD: v = a + b; break;
    case OP_SUB: v = a - b; break;
    case OP_MUL: v = a * b; break;
    case OP_DIV: v = a / b; break;
    case OP_FLOORDIV: v = floor(a / b); break;
    case OP_MOD:
        v = fmod(a, b);
        if (v != 0.0 && (v < 0.0) != (b < 0.0)) v += b;
        break;
    default: v = pow(a, b); break;
    }
    *out = value_float(v);
    return OK;
}

static Status repeat(Eval *e, Value v, int64_t times, Value *out) {
    size_t n = times < 0 ? 0 : (size_t)times;
    if (v.type == V_STRING) {
        Build b = {0};
        if (v.s.n && n > JINJA_BYTES_MAX / v.s.n) TRY(spend_memory(e, JINJA_BYTES_MAX));
        for (size_t i = 0; i < n && v.s.n; i++) {
            TRY(spend_work(e, 0));
            TRY(build_str(e, &b, v.s));
        }
        *out = value_str(build_done(&b));
        return OK;
    }
    TRY(list_new(e, v.type, 0, out));
    for (size_t i = 0; i < n && v.list->n; i++)
        for (size_t k = 0; k < v.list->n; k++) TRY(list_add(e, *out, v.list->v[k]));
    return OK;
}

static Status join_lists(Eval *e, Value a, Value b, Value *out) {
    TRY(list_new(e, a.type, a.list->n + b.list->n, out));
    for (size_t i = 0; i < a.list->n; i++) TRY(list_add(e, *out, a.list->v[i]));
    for (size_t i = 0; i < b.list->n; i++) TRY(list_add(e, *out, b.list->v[i]));
    return OK;
}

Status value_arith(Eval *e, Op op, Value a, Value b, Value *out) {
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (a.type == V_UNDEFINED) return undefined_fail(e, a);
    if (op == OP_MOD && a.type == V_STRING)
        return eval_fail(e, "formatting of strings with %% is not supported");
    if (b.type == V_UNDEFINED) return undefined_fail(e, b);
    if (is_whole(a) && is_whole(b)) return whole_arith(e, op, a.i, b.i, out);
    if (is_number(a) && is_number(b)) return float_arith(e, op, as_double(a), as_double(b), out);
    if (op == OP_ADD && a.type == V_STRING && b.type == V_STRING) {
        *out = value_of(V_STRING);
        return str_concat(e, a.s, b.s, &out->s);
    }
    if (op == OP_ADD && is_list(a) && a.type == b.type) return join_lists(e, a, b, out);
    if (op == OP_MUL && (a.type == V_STRING || is_list(a)) && is_whole(b))
        return repeat(e, a, b.i, out);
    if (op == OP_MUL && (b.type == V_STRING || is_list(b)) && is_whole(a))
        return repeat(e, b, a.i, out);
    return eval_fail(e, "a %s and a %s cannot be put together by %s", value_kind(a), value_kind(b),
                     names[op]);
}

/* ---- attributes and items ---- */

static Value missing(const char *name, Value owner) {
    static const char *const owners[] = {"nothing",     "an undefined value",
                                         "None",        "a bool",
                                         "an int",      "a float",
                                         "a string",    "a list",
                                         "a tuple",     "a dict",
                                         "a namespace", "loop",
                                         "a macro",     "a function",
                                         "a method"};
    return (Value){.type = V_UNDEFINED, .missing = {name, owners[owner.type]}};
}

static void loop_attr(const Loop *l, const char *name, Value *out) {
    const struct {
        const char *name;
        Value v;
    } attrs[] = {{"index", value_int(l->index0 + 1)},
                 {"index0", value_int(l->index0)},
                 {"revindex", value_int(l->length - l->index0)},
                 {"revindex0", value_int(l->length - l->index0 - 1)},
                 {"first", value_bool(l->index0 == 0)},
                 {"last", value_bool(l->index0 == l->length - 1)},
                 {"length", value_int(l->length)},
                 {"depth", value_int(l->depth0 + 1)},
                 {"depth0", value_int(l->depth0)},
                 {"previtem", l->previous},
                 {"nextitem", l->next}};
    for (size_t i = 0; i < sizeof(attrs) / sizeof(*attrs); i++)
        if (!strcmp(name, attrs[i].name) && attrs[i].v.type != V_ABSENT) *out = attrs[i].v;
}

static Status bind_method(Eval *e, Value self, const Builtin *method, Value *out) {
    if (!method->call)
        return eval_fail(e, "the method \"%s\" of a %s is not supported", method->name,
                         value_kind(self));
    TRY(spend_memory(e, sizeof(Bound)));
    Bound *b = arena_alloc(&e->arena, sizeof(*b));
    *b = (Bound){self, method};
    *out = (Value){.type = V_METHOD, .method = b};
    return OK;
}

Status value_attr(Eval *e, Value v, const char *name, Value *out) {
    if (v.type == V_UNDEFINED) return undefined_fail(e, v);
    *out = missing(name, v);
    const Builtin *method = method_named(v.type, name);
    if (method) return bind_method(e, v, method, out);
    if (v.type == V_LOOP) {
        if (!strcmp(name, "cycle") || !strcmp(name, "changed"))
            return eval_fail(e, "loop.%s is not supported", name);
        loop_attr(v.loop, name, out);
    }
    if (v.type != V_DICT && v.type != V_NAMESPACE) return OK;
    const Value *found;
    TRY(dict_find(e, v.dict, value_str(str_of(name)), &found));
    if (found) *out = *found;
    return OK;
}

static Status item_by_index(Eval *e, Value v, int64_t i, Value *out) {
    int64_t n;
    TRY(value_length(e, v, &n));
    if (i < 0) i += n;
    if (i < 0 || i >= n) {
        *out = missing("index", v);
        return OK;
    }
    if (is_list(v)) {
        *out = v.list->v[i];
        return OK;
    }
    int32_t code;
    size_t at = str_offset(v.s, (size_t)i);
    *out = value_str(str_part(v.s, at, at + char_at(v.s.s + at, v.s.n - at, &code)));
    return OK;
}

Status value_item(Eval *e, Value v, Value key, Value *out) {
    if (v.type == V_UNDEFINED) return undefined_fail(e, v);
    if (v.type == V_DICT) {
        const Value *found;
        TRY(dict_find(e, v.dict, key, &found));
        if (found) {
            *out = *found;
            return OK;
        }
    } else if ((is_list(v) || v.type == V_STRING) && is_whole(key)) {
        return item_by_index(e, v, key.i, out);
    }
    *out = missing("item", v);
    if (key.type != V_STRING) return OK;
    TRY(spend_memory(e, key.s.n));
    return value_attr(e, v, arena_strndup(&e->arena, key.s.s, key.s.n), out);
}

static Status slice_bound(Eval *e, Value v, int64_t n, int64_t step, int64_t absent, int64_t *out) {
    if (v.type == V_ABSENT || v.type == V_NONE) {
        *out = absent;
        return OK;
    }
    if (!is_whole(v)) return eval_fail(e, "a slice needs whole numbers, not a %s", value_kind(v));
    int64_t i = v.i < -n ? -n - 1 : v.i > n ? n : v.i; /* so that n can be added */
    if (i < 0) i += n;
    if (i < 0) i = step < 0 ? -1 : 0;
    if (i >= n) i = step < 0 ? n - 1 : n;
    *out = i;
    return OK;
}

Status value_slice(Eval *e, Value v, const Value part[3], Value *out) {
    int64_t n, step = 1, from, to;
    if (v.type == V_UNDEFINED) return undefined_fail(e, v);
    if (!is_list(v) && v.type != V_STRING)
        return eval_fail(e, "a %s cannot be sliced", value_kind(v));
    TRY(value_length(e, v, &n));
    if (is_whole(part[2])) step = part[2].i;
    if (step == 0) return eval_fail(e, "a slice whose step is zero");
    if (step > n) step = n + 1;
    if (step < -n) step = -n - 1;
    TRY(slice_bound(e, part[0], n, step, step < 0 ? n - 1 : 0, &from));
    TRY(slice_bound(e, part[1], n, step, step < 0 ? -1 : n, &to));
    if (v.type == V_STRING && step == 1) {
        size_t a = str_offset(v.s, (size_t)from);
        size_t b = to > from ? str_offset(v.s, (size_t)to) : a;
        *out = value_str(str_part(v.s, a, b));
        return OK;
    }
    Value all = v;
    if (v.type == V_STRING) TRY(value_elements(e, v, &all));
    TRY(list_new(e, all.type, 0, out));
    Build b = {0};
    for (int64_t i = from; step < 0 ? i > to : i < to; i += step) {
        if (v.type == V_STRING)
            TRY(build_str(e, &b, all.list->v[i].s));
        else
            TRY(list_add(e, *out, all.list->v[i]));
    }
    if (v.type == V_STRING) *out = value_str(build_done(&b));
    return OK;
}

Status value_path(Eval *e, Value v, Value path, Value *out) {
    *out = v;
    if (path.type == V_INT) return value_item(e, v, path, out);
    if (path.type != V_STRING)
        return eval_fail(e, "an attribute is named by a string, not by a %s", value_kind(path));
    for (size_t at = 0, end; at <= path.s.n; at = end + 1) {
        const char *dot = at < path.s.n ? memchr(path.s.s + at, '.', path.s.n - at) : NULL;
        end = dot ? (size_t)(dot - path.s.s) : path.s.n;
        Value key = value_str(str_part(path.s, at, end));
        int64_t number = 0;
        size_t digits = 0;
        while (digits < key.s.n && digits < 9 && key.s.s[digits] >= '0' && key.s.s[digits] <= '9')
            number = 10 * number + (key.s.s[digits++] - '0');
        if (digits && digits == key.s.n) key = value_int(number);
        TRY(value_item(e, *out, key, out));
    }
    return OK;
}
