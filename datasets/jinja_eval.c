/* jinja_eval.c - the value of an expression. */
#include <stdarg.h>
#include <stdio.h>
#include "datasets/jinja_parts.h"

Status eval_fail(const Eval *e, const char *fmt, ...) {
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return place_fail(e->j->name, e->at ? e->at->line : 1, e->at ? e->at->col : 1, "%s", text);
}

Status spend_work(Eval *e, size_t bytes) {
    e->steps += 1 + bytes / 64;
    if (e->steps <= JINJA_STEPS_MAX) return OK;
    return eval_fail(e, "the template takes more than %d steps", JINJA_STEPS_MAX);
}

Status spend_memory(Eval *e, size_t bytes) {
    if (bytes <= JINJA_BYTES_MAX && e->bytes + bytes <= JINJA_BYTES_MAX) {
        e->bytes += bytes;
        return OK;
    }
    return eval_fail(e, "the template makes values of more than %d MiB", JINJA_BYTES_MAX >> 20);
}

Status enter(Eval *e) {
    if (++e->depth <= JINJA_NESTED_MAX) return OK;
    return eval_fail(e, "the template calls itself or nests too deeply");
}

/* ---- variables ---- */

Scope *scope_new(Eval *e, Scope *parent) {
    Scope *s = arena_alloc(&e->arena, sizeof(*s));
    s->parent = parent;
    return s;
}

static Value *scope_find(Scope *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (s->v[i].name == name || !strcmp(s->v[i].name, name)) return &s->v[i].value;
    return NULL;
}

Status scope_set(Eval *e, Scope *s, const char *name, Value v) {
    Value *old = scope_find(s, name);
    TRY(spend_work(e, (size_t)s->n * 16));
    if (old) {
        *old = v;
        return OK;
    }
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 8;
        TRY(spend_memory(e, (size_t)cap * sizeof(Var)));
        Var *grown = arena_alloc(&e->arena, (size_t)cap * sizeof(*grown));
        if (s->n) memcpy(grown, s->v, (size_t)s->n * sizeof(*grown));
        s->v = grown;
        s->cap = cap;
    }
    s->v[s->n++] = (Var){name, v};
    return OK;
}

static Status lookup(Eval *e, const char *name, Value *out) {
    for (Scope *s = e->scope; s; s = s->parent) {
        Value *found = scope_find(s, name);
        TRY(spend_work(e, (size_t)s->n * 4));
        if (!found) continue;
        *out = *found;
        return OK;
    }
    const Builtin *f = function_named(name);
    *out = f ? (Value){.type = V_FUNCTION, .function = f}
             : (Value){.type = V_UNDEFINED, .missing = {name, NULL}};
    return OK;
}

/* ---- calls ---- */

static int count(const Node *n) {
    int k = 0;
    for (; n; n = n->next) k++;
    return k;
}

static Status eval_args(Eval *e, const Node *call, Args *a) {
    int n = count(call->list), keys = count(call->list2), i = 0;
    *a = (Args){.n = n, .n_keys = keys};
    TRY(spend_memory(e, (size_t)(n + keys) * (sizeof(Value) + sizeof(char *))));
    if (n) a->v = arena_alloc(&e->arena, (size_t)n * sizeof(*a->v));
    if (keys) a->key_value = arena_alloc(&e->arena, (size_t)keys * sizeof(*a->key_value));
    if (keys) a->key = arena_alloc(&e->arena, (size_t)keys * sizeof(*a->key));
    for (const Node *c = call->list; c; c = c->next) TRY(eval_node(e, c, &a->v[i++]));
    i = 0;
    for (const Node *c = call->list2; c; c = c->next) {
        a->key[i] = c->name;
        TRY(eval_node(e, c->a, &a->key_value[i++]));
    }
    e->at = call;
    return OK;
}

enum { PARAMS_MAX = 8 };

/* One name of "old!,new!,count": its length, and whether it must be given. */
static size_t param_name(const char *params, int *required) {
    size_t n = strcspn(params, ",!");
    *required = params[n] == '!';
    return n;
}

static Status bind(Eval *e, const char *what, const Builtin *b, const Args *a, Args *bound) {
    int n = 0, used = 0, required;
    for (const char *p = b->params; *p; n++) {
        size_t len = param_name(p, &required);
        CHECK(n < PARAMS_MAX);
        bound->v[n] = n < a->n ? a->v[n] : value_of(V_ABSENT);
        for (int i = 0; i < a->n_keys; i++) {
            if (strlen(a->key[i]) != len || memcmp(a->key[i], p, len)) continue;
            bound->v[n] = a->key_value[i];
            used++;
        }
        if (required && bound->v[n].type == V_ABSENT)
            return eval_fail(e, "%s \"%s\" needs the argument \"%.*s\"", what, b->name, (int)len,
                             p);
        p += len + (size_t)required;
        p += *p == ',';
    }
    if (a->n > n || used < a->n_keys)
        return eval_fail(e, "%s \"%s\" does not take these arguments (it takes: %s)", what, b->name,
                         n ? b->params : "none");
    bound->n = n;
    return OK;
}

const Builtin *builtin_find(const Builtin *rows, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}

Status builtin_call(Eval *e, const char *what, const Builtin *b, Value self, const Args *a,
                    Value *out) {
    Value v[PARAMS_MAX];
    Args given = {.v = v};
    if (b->params)
        TRY(bind(e, what, b, a, &given));
    else
        given = *a;
    given.mode = b->mode;
    return b->call(e, self, &given, out);
}

static Status eval_call(Eval *e, const Node *n, Value *out) {
    Value callee;
    Args a;
    TRY(eval_node(e, n->a, &callee));
    TRY(eval_args(e, n, &a));
    switch (callee.type) {
    case V_MACRO: return macro_call(e, callee.macro, &a, out);
    case V_FUNCTION:
        return builtin_call(e, "the function", callee.function, value_of(V_NONE), &a, out);
    case V_METHOD:
        return builtin_call(e, "the method", callee.method->method, callee.method->self, &a, out);
    case V_UNDEFINED: return undefined_fail(e, callee);
    default: return eval_fail(e, "a %s cannot be called", value_kind(callee));
    }
}

static Status eval_filter(Eval *e, const Node *n, Value *out) {
    Value self;
    Args a;
    TRY(eval_node(e, n->a, &self));
    TRY(eval_args(e, n, &a));
    return builtin_call(e, n->type == N_TEST ? "the test" : "the filter", n->builtin, self, &a,
                        out);
}

/* ---- operators ---- */

static Status eval_chain(Eval *e, const Node *n, Value *out) {
    for (const Node *c = n->list; c; c = c->next) {
        TRY(eval_node(e, c, out));
        if (value_truth(*out) == (n->type == N_OR)) return OK;
    }
    return OK;
}

static Status eval_concat(Eval *e, const Node *n, Value *out) {
    Str all = str_of("");
    for (const Node *c = n->list; c; c = c->next) {
        Value v;
        Str s;
        TRY(eval_node(e, c, &v));
        e->at = n;
        TRY(value_text(e, v, &s));
        TRY(str_concat(e, all, s, &all));
    }
    *out = value_str(all);
    return OK;
}

static Status compare(Eval *e, Op op, Value a, Value b, int *truth) {
    int order;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        TRY(value_equal(e, a, b, truth));
        *truth ^= op == OP_NE;
        return OK;
    case OP_IN:
    case OP_NOT_IN:
        TRY(value_in(e, a, b, truth));
        *truth ^= op == OP_NOT_IN;
        return OK;
    default: break;
    }
    TRY(value_order(e, a, b, &order));
    *truth = op == OP_LT   ? order < 0
             : op == OP_LE ? order <= 0
             : op == OP_GT ? order > 0
                           : order >= 0;
    return OK;
}

/* a < b < c is a < b and b < c */
static Status eval_compare(Eval *e, const Node *n, Value *out) {
    Value left, right;
    int truth = 1;
    TRY(eval_node(e, n->a, &left));
    for (const Node *c = n->list; c && truth; c = c->next, left = right) {
        TRY(eval_node(e, c->a, &right));
        e->at = c;
        TRY(compare(e, c->op, left, right, &truth));
    }
    *out = value_bool(truth);
    return OK;
}

static Status eval_fold(Eval *e, const Node *n, Value *out) {
    TRY(eval_node(e, n->a, out));
    for (const Node *c = n->list; c; c = c->next) {
        Value right;
        TRY(eval_node(e, c->a, &right));
        e->at = c;
        TRY(value_arith(e, c->op, *out, right, out));
    }
    return OK;
}

static Status eval_sign(Eval *e, const Node *n, Value *out) {
    Value v;
    TRY(eval_node(e, n->a, &v));
    e->at = n;
    if (!is_number(v)) return value_arith(e, OP_SUB, value_int(0), v, out);
    if (n->type == N_POS) {
        *out = is_whole(v) ? value_int(v.i) : v;
        return OK;
    }
    if (v.type == V_FLOAT) {
        *out = value_float(-v.f);
        return OK;
    }
    return value_arith(e, OP_SUB, value_int(0), v, out);
}

static Status eval_condition(Eval *e, const Node *n, Value *out) {
    Value v;
    TRY(eval_node(e, n->b, &v));
    if (value_truth(v)) return eval_node(e, n->a, out);
    if (n->c) return eval_node(e, n->c, out);
    *out = (Value){.type = V_UNDEFINED, .missing = {"the inline if without else", NULL}};
    return OK;
}

/* ---- values ---- */

static Status eval_list(Eval *e, const Node *n, Value *out) {
    TRY(list_new(e, n->type == N_TUPLE ? V_TUPLE : V_LIST, (size_t)count(n->list), out));
    for (const Node *c = n->list; c; c = c->next) {
        Value v;
        TRY(eval_node(e, c, &v));
        TRY(list_add(e, *out, v));
    }
    return OK;
}

static Status eval_dict(Eval *e, const Node *n, Value *out) {
    TRY(dict_new(e, V_DICT, out));
    for (const Node *c = n->list; c; c = c->next->next) {
        Value key, v;
        TRY(eval_node(e, c, &key));
        TRY(eval_node(e, c->next, &v));
        e->at = c;
        TRY(dict_put(e, *out, key, v));
    }
    return OK;
}

static Status eval_item(Eval *e, const Node *n, Value *out) {
    Value v, key, part[3] = {{V_ABSENT, {0}}, {V_ABSENT, {0}}, {V_ABSENT, {0}}};
    const Node *s = n->b, *bounds[3] = {s->a, s->b, s->c};
    TRY(eval_node(e, n->a, &v));
    if (s->type != N_SLICE) {
        TRY(eval_node(e, s, &key));
        e->at = n;
        return value_item(e, v, key, out);
    }
    for (int i = 0; i < 3; i++)
        if (bounds[i]) TRY(eval_node(e, bounds[i], &part[i]));
    e->at = n;
    return value_slice(e, v, part, out);
}

static Status eval_attr(Eval *e, const Node *n, Value *out) {
    Value v;
    TRY(eval_node(e, n->a, &v));
    e->at = n;
    return value_attr(e, v, n->name, out);
}

static Status eval_not(Eval *e, const Node *n, Value *out) {
    Value v;
    TRY(eval_node(e, n->a, &v));
    *out = value_bool(!value_truth(v));
    return OK;
}

static Status dispatch(Eval *e, const Node *n, Value *out) {
    switch (n->type) {
    case N_CONST: *out = n->value; return OK;
    case N_NAME: return lookup(e, n->name, out);
    case N_LIST:
    case N_TUPLE: return eval_list(e, n, out);
    case N_DICT: return eval_dict(e, n, out);
    case N_GETATTR: return eval_attr(e, n, out);
    case N_GETITEM: return eval_item(e, n, out);
    case N_CALL: return eval_call(e, n, out);
    case N_FILTER:
    case N_TEST: return eval_filter(e, n, out);
    case N_NOT: return eval_not(e, n, out);
    case N_NEG:
    case N_POS: return eval_sign(e, n, out);
    case N_AND:
    case N_OR: return eval_chain(e, n, out);
    case N_CONCAT: return eval_concat(e, n, out);
    case N_COND: return eval_condition(e, n, out);
    case N_COMPARE: return eval_compare(e, n, out);
    case N_FOLD: return eval_fold(e, n, out);
    default: CHECK(!"an expression"); return OK;
    }
}

Status eval_node(Eval *e, const Node *n, Value *out) {
    e->at = n;
    TRY(spend_work(e, 0));
    TRY(enter(e));
    TRY(dispatch(e, n, out));
    e->depth--;
    e->at = n;
    return OK;
}
