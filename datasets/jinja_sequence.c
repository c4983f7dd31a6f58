/* jinja_sequence.c - filters over lists. */
#include "datasets/jinja_parts.h"

static Value arg(const Args *a, const char *name) {
    for (int i = 0; i < a->n_keys; i++)
        if (!strcmp(a->key[i], name)) return a->key_value[i];
    return value_of(V_ABSENT);
}

static int is_given(Value v) {
    return v.type != V_ABSENT && v.type != V_NONE;
}

static Status filter_list(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    Value all;
    TRY(value_elements(e, v, &all));
    *out = (Value){.type = V_LIST, .list = all.list};
    return OK;
}

enum { FIRST, LAST }; /* modes */

static Status filter_end(Eval *e, Value v, const Args *a, Value *out) {
    Value all;
    int last = a->mode == LAST;
    TRY(value_elements(e, v, &all));
    *out = (Value){.type = V_UNDEFINED, .missing = {last ? "last" : "first", "an empty list"}};
    if (all.list->n) *out = all.list->v[last ? all.list->n - 1 : 0];
    return OK;
}

Status pair_of(Eval *e, const Pair *p, Value *out) {
    TRY(list_new(e, V_TUPLE, 2, out));
    TRY(list_add(e, *out, p->key));
    return list_add(e, *out, p->value);
}

static Status filter_items(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    Value pair;
    TRY(list_new(e, V_LIST, 0, out));
    if (v.type == V_UNDEFINED) return OK;
    if (v.type != V_DICT) return eval_fail(e, "a %s has no items", value_kind(v));
    for (size_t i = 0; i < v.dict->n; i++) {
        TRY(pair_of(e, &v.dict->v[i], &pair));
        TRY(list_add(e, *out, pair));
    }
    return OK;
}

static Status filter_reverse(Eval *e, Value v, const Args *a, Value *out) {
    (void)a;
    const Value backwards[3] = {value_of(V_NONE), value_of(V_NONE), value_int(-1)};
    if (v.type == V_STRING) return value_slice(e, v, backwards, out);
    TRY(filter_list(e, v, a, &v));
    return value_slice(e, v, backwards, out);
}

static Status filter_join(Eval *e, Value v, const Args *a, Value *out) {
    Build b = {0};
    Value all;
    Str by = str_of("");
    TRY(value_elements(e, v, &all));
    if (a->v[0].type != V_ABSENT) TRY(value_text(e, a->v[0], &by));
    for (size_t i = 0; i < all.list->n; i++) {
        Value item = all.list->v[i];
        Str s;
        if (is_given(a->v[1])) TRY(value_path(e, item, a->v[1], &item));
        TRY(value_text(e, item, &s));
        if (i) TRY(build_str(e, &b, by));
        TRY(build_str(e, &b, s));
    }
    *out = value_str(build_done(&b));
    return OK;
}

/* ---- map, select, reject ---- */

static Args behind(const Args *a, int n) {
    Args rest = *a;
    rest.v += n;
    rest.n -= n;
    return rest;
}

static Status named(Eval *e, const Args *a, int at, const char **name) {
    if (a->v[at].type != V_STRING)
        return eval_fail(e, "a filter or test is named by a string, not by a %s",
                         value_kind(a->v[at]));
    *name = arena_strndup(&e->arena, a->v[at].s.s, a->v[at].s.n);
    return spend_memory(e, a->v[at].s.n);
}

static Status map_attribute(Eval *e, Value all, const Args *a, Value *out) {
    Value path = arg(a, "attribute"), otherwise = arg(a, "default");
    for (size_t i = 0; i < all.list->n; i++) {
        Value v;
        TRY(value_path(e, all.list->v[i], path, &v));
        if (v.type == V_UNDEFINED && otherwise.type != V_ABSENT) v = otherwise;
        TRY(list_add(e, *out, v));
    }
    return OK;
}

static Status filter_map(Eval *e, Value v, const Args *a, Value *out) {
    Value all;
    const char *name;
    TRY(value_elements(e, v, &all));
    TRY(list_new(e, V_LIST, 0, out));
    if (!a->n && arg(a, "attribute").type != V_ABSENT) return map_attribute(e, all, a, out);
    if (!a->n) return eval_fail(e, "map needs a filter or attribute=");
    TRY(named(e, a, 0, &name));
    const Builtin *f = filter_named(name);
    if (!f) return eval_fail(e, "the filter \"%.60s\" is not supported", name);
    Args rest = behind(a, 1);
    for (size_t i = 0; i < all.list->n; i++) {
        TRY(enter(e));
        TRY(builtin_call(e, "the filter", f, all.list->v[i], &rest, &v));
        e->depth--;
        TRY(list_add(e, *out, v));
    }
    return OK;
}

enum {
    KEEP = 1,
    BY_ATTRIBUTE = 2
}; /* modes: keep what passes, else drop it; the first argument names an attribute */

/* Elements that pass the test which the next arguments make; without one, those that are true. */
static Status filter_choose(Eval *e, Value v, const Args *a, Value *out) {
    int by_attribute = (a->mode & BY_ATTRIBUTE) != 0, keep = a->mode & KEEP;
    const Builtin *test = NULL;
    const char *name;
    Value all, verdict;
    TRY(value_elements(e, v, &all));
    TRY(list_new(e, V_LIST, 0, out));
    if (a->n < by_attribute) return eval_fail(e, "the attribute to choose by is missing");
    Args rest = behind(a, by_attribute);
    if (rest.n) {
        TRY(named(e, &rest, 0, &name));
        test = test_named(name);
        if (!test) return eval_fail(e, "the test \"%.60s\" is not supported", name);
        rest = behind(&rest, 1);
    }
    for (size_t i = 0; i < all.list->n; i++) {
        Value item = all.list->v[i];
        if (by_attribute) TRY(value_path(e, item, a->v[0], &item));
        verdict = item;
        if (test) TRY(builtin_call(e, "the test", test, item, &rest, &verdict));
        if (value_truth(verdict) == keep) TRY(list_add(e, *out, all.list->v[i]));
    }
    return OK;
}

/* ---- order ---- */

typedef struct {
    Value key, item;
} Keyed;

static Status sort_key(Eval *e, Value v, Value attribute, int case_sensitive, Value *key) {
    *key = v;
    if (is_given(attribute)) TRY(value_path(e, v, attribute, key));
    if (key->type == V_STRING && !case_sensitive) return str_case(e, key->s, CASE_LOWER, &key->s);
    return OK;
}

static Status keyed(Eval *e, Value all, Value attribute, Value case_sensitive, Keyed **out) {
    size_t n = all.list->n;
    TRY(spend_memory(e, 2 * (n + 1) * sizeof(Keyed)));
    *out = arena_alloc(&e->arena, 2 * (n + 1) * sizeof(Keyed)); /* half of it is for merging */
    for (size_t i = 0; i < n; i++) {
        (*out)[i].item = all.list->v[i];
        TRY(sort_key(e, all.list->v[i], attribute,
                     case_sensitive.type != V_ABSENT && value_truth(case_sensitive),
                     &(*out)[i].key));
    }
    return OK;
}

static Status merge(Eval *e, const Keyed *a, size_t n, const Keyed *b, size_t m, int descending,
                    Keyed *out) {
    while (n && m) {
        int order, second;
        TRY(value_order(e, a->key, b->key, &order));
        second = descending ? order < 0 : order > 0; /* equal ones keep their order */
        *out++ = second ? *b++ : *a++;
        n -= !second;
        m -= (size_t)second;
    }
    for (; n; n--) *out++ = *a++;
    for (; m; m--) *out++ = *b++;
    return OK;
}

static Status sort(Eval *e, Keyed *v, size_t n, int descending) {
    Keyed *from = v, *to = v + n;
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t i = 0; i < n; i += 2 * run) {
            size_t left = n - i < run ? n - i : run,
                   right = n - i - left < run ? n - i - left : run;
            TRY(merge(e, from + i, left, from + i + left, right, descending, to + i));
        }
        Keyed *other = from;
        from = to;
        to = other;
    }
    if (from != v && n) memcpy(v, from, n * sizeof(*v));
    return OK;
}

static Status sorted(Eval *e, Value all, const Value a[3], Value *out) {
    Keyed *v;
    TRY(keyed(e, all, a[2], a[1], &v));
    TRY(sort(e, v, all.list->n, a[0].type != V_ABSENT && value_truth(a[0])));
    TRY(list_new(e, V_LIST, all.list->n, out));
    for (size_t i = 0; i < all.list->n; i++) TRY(list_add(e, *out, v[i].item));
    return OK;
}

static Status filter_sort(Eval *e, Value v, const Args *a, Value *out) {
    Value all;
    TRY(value_elements(e, v, &all));
    return sorted(e, all, a->v, out);
}

static Status filter_dictsort(Eval *e, Value v, const Args *a, Value *out) {
    Value all, by = value_int(0);
    if (v.type == V_UNDEFINED) return undefined_fail(e, v);
    TRY(filter_items(e, v, a, &all));
    if (a->v[1].type == V_STRING && str_is(a->v[1].s, "value"))
        by = value_int(1);
    else if (a->v[1].type != V_ABSENT && !(a->v[1].type == V_STRING && str_is(a->v[1].s, "key")))
        return eval_fail(e, "dictsort sorts by \"key\" or by \"value\"");
    return sorted(e, all, (Value[]){a->v[2], a->v[0], by}, out);
}

static Status filter_unique(Eval *e, Value v, const Args *a, Value *out) {
    Value all, keys, key;
    TRY(value_elements(e, v, &all));
    TRY(list_new(e, V_LIST, 0, out));
    TRY(list_new(e, V_LIST, 0, &keys));
    for (size_t i = 0; i < all.list->n; i++) {
        int seen;
        TRY(sort_key(e, all.list->v[i], a->v[1], a->v[0].type != V_ABSENT && value_truth(a->v[0]),
                     &key));
        TRY(value_in(e, key, keys, &seen));
        if (seen) continue;
        TRY(list_add(e, keys, key));
        TRY(list_add(e, *out, all.list->v[i]));
    }
    return OK;
}

/* mode: the sign of the order that is looked for */
static Status filter_extreme(Eval *e, Value v, const Args *a, Value *out) {
    Value all;
    Keyed *k;
    size_t best = 0;
    TRY(value_elements(e, v, &all));
    *out = (Value){.type = V_UNDEFINED, .missing = {a->mode < 0 ? "min" : "max", "an empty list"}};
    TRY(keyed(e, all, a->v[1], a->v[0], &k));
    for (size_t i = 1; i < all.list->n; i++) {
        int order;
        TRY(value_order(e, k[i].key, k[best].key, &order));
        if (order * a->mode > 0) best = i;
    }
    if (all.list->n) *out = k[best].item;
    return OK;
}

static Status filter_sum(Eval *e, Value v, const Args *a, Value *out) {
    Value all;
    TRY(value_elements(e, v, &all));
    *out = a->v[1].type == V_ABSENT ? value_int(0) : a->v[1];
    for (size_t i = 0; i < all.list->n; i++) {
        Value item = all.list->v[i];
        if (is_given(a->v[0])) TRY(value_path(e, item, a->v[0], &item));
        TRY(value_arith(e, OP_ADD, *out, item, out));
    }
    return OK;
}

static const Builtin filters[] = {
    {"dictsort", "case_sensitive,by,reverse", filter_dictsort, 0},
    {"first", "", filter_end, FIRST},
    {"items", "", filter_items, 0},
    {"join", "d,attribute", filter_join, 0},
    {"last", "", filter_end, LAST},
    {"list", "", filter_list, 0},
    {"map", NULL, filter_map, 0},
    {"max", "case_sensitive,attribute", filter_extreme, 1},
    {"min", "case_sensitive,attribute", filter_extreme, -1},
    {"reject", NULL, filter_choose, 0},
    {"rejectattr", NULL, filter_choose, BY_ATTRIBUTE},
    {"reverse", "", filter_reverse, 0},
    {"select", NULL, filter_choose, KEEP},
    {"selectattr", NULL, filter_choose, KEEP | BY_ATTRIBUTE},
    {"sort", "reverse,case_sensitive,attribute", filter_sort, 0},
    {"sum", "attribute,start", filter_sum, 0},
    {"unique", "case_sensitive,attribute", filter_unique, 0},
};

const Builtin *filter_named_more(const char *name) {
    return builtin_find(filters, sizeof(filters) / sizeof(*filters), name);
}
