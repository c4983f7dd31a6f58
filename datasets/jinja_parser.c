/* jinja_parser.c - expressions. Precedence as in Jinja: filters and tests bind tighter than any
 * operator, `~` tighter than `+`. */
#include <stdarg.h>
#include <stdio.h>
#include "datasets/jinja_parts.h"

Node *node_new(Parser *p, NodeType type) {
    Node *n = arena_alloc(&p->j->arena, sizeof(*n));
    const Token *t = token_now(p);
    n->type = type;
    n->line = t->line;
    n->col = t->col;
    return n;
}

const Token *token_now(const Parser *p) {
    return &p->tokens.v[p->at];
}

Status parse_fail(const Parser *p, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return place_fail(p->j->name, token_now(p)->line, token_now(p)->col, "%s", text);
}

int token_is(const Parser *p, TokenType type, const char *text) {
    return token_now(p)->type == type && (!text || str_is(token_now(p)->text, text));
}

int token_skip(Parser *p, TokenType type, const char *text) {
    int is = token_is(p, type, text);
    p->at += is;
    return is;
}

static const char *token_name(const Token *t) {
    switch (t->type) {
    case T_DATA: return "text";
    case T_OUTPUT_BEGIN: return "{{";
    case T_OUTPUT_END: return "}}";
    case T_BLOCK_BEGIN: return "{%";
    case T_BLOCK_END: return "%}";
    case T_STRING: return "a string";
    case T_EOF: return "the template's end";
    default: return t->text.s;
    }
}

Status token_expect(Parser *p, TokenType type, const char *text) {
    if (token_skip(p, type, text)) return OK;
    Token want = {.type = type, .text = str_of(text ? text : "a name")};
    return parse_fail(p, "expected %s, found %.60s", token_name(&want), token_name(token_now(p)));
}

static Status deeper(Parser *p) {
    if (++p->depth > JINJA_DEPTH_MAX) return parse_fail(p, "nested too deeply");
    return OK;
}

static void append(Node **list, Node ***end, Node *n) {
    if (!*end) *end = list;
    **end = n;
    *end = &n->next;
}

/* ---- calls ---- */

static int next_is_assign(const Parser *p) {
    const Token *t = token_now(p);
    return t->type == T_NAME && t[1].type == T_OP && str_is(t[1].text, "=");
}

/* (a, b, name=c) into list and list2 */
static Status parse_args(Parser *p, Node *call) {
    Node **args = NULL, **keys = NULL;
    TRY(token_expect(p, T_OP, "("));
    while (!token_skip(p, T_OP, ")")) {
        if (args || keys) {
            TRY(token_expect(p, T_OP, ","));
            if (token_skip(p, T_OP, ")")) break;
        }
        if (token_is(p, T_OP, "*") || token_is(p, T_OP, "**"))
            return parse_fail(p, "unpacked arguments (* and **) are not supported");
        if (next_is_assign(p)) {
            Node *k = node_new(p, N_KEYWORD);
            k->name = token_now(p)->text.s;
            p->at += 2;
            TRY(parse_expression(p, &k->a));
            append(&call->list2, &keys, k);
            continue;
        }
        Node *a;
        if (keys) return parse_fail(p, "an argument without a name stands behind named ones");
        TRY(parse_expression(p, &a));
        append(&call->list, &args, a);
    }
    return OK;
}

static Status parse_call(Parser *p, Node **node) {
    Node *call = node_new(p, N_CALL);
    call->a = *node;
    *node = call;
    return parse_args(p, call);
}

static Status parse_filter(Parser *p, Node **node) {
    TRY(token_expect(p, T_OP, "|"));
    Node *f = node_new(p, N_FILTER);
    f->name = token_now(p)->text.s;
    f->a = *node;
    TRY(token_expect(p, T_NAME, NULL));
    f->builtin = filter_named(f->name);
    if (!f->builtin || !f->builtin->call)
        return place_fail(p->j->name, f->line, f->col, "the filter \"%.60s\" is not supported",
                          f->name);
    *node = f;
    return token_is(p, T_OP, "(") ? parse_args(p, f) : OK;
}

Status parse_filters(Parser *p, Node **node) {
    while (token_is(p, T_OP, "|")) TRY(parse_filter(p, node));
    return OK;
}

static Status parse_primary(Parser *p, Node **out);
static Status parse_postfix(Parser *p, Node **node);

static int starts_test_argument(const Parser *p) {
    const Token *t = token_now(p);
    if (t->type == T_NAME)
        return !str_is(t->text, "else") && !str_is(t->text, "or") && !str_is(t->text, "and");
    if (t->type == T_OP) return t->text.n == 1 && strchr("([{", t->text.s[0]);
    return t->type == T_STRING || t->type == T_INT || t->type == T_FLOAT;
}

static Status parse_test(Parser *p, Node **node) {
    TRY(token_expect(p, T_NAME, "is"));
    int negated = token_skip(p, T_NAME, "not");
    Node *t = node_new(p, N_TEST);
    t->name = token_now(p)->text.s;
    t->a = *node;
    TRY(token_expect(p, T_NAME, NULL));
    t->builtin = test_named(t->name);
    if (!t->builtin || !t->builtin->call)
        return place_fail(p->j->name, t->line, t->col, "the test \"%.60s\" is not supported",
                          t->name);
    if (token_is(p, T_OP, "(")) {
        TRY(parse_args(p, t));
    } else if (starts_test_argument(p)) {
        if (token_is(p, T_NAME, "is")) return parse_fail(p, "tests cannot be chained with is");
        TRY(parse_primary(p, &t->list));
        TRY(parse_postfix(p, &t->list));
    }
    *node = t;
    if (!negated) return OK;
    *node = node_new(p, N_NOT);
    (*node)->a = t;
    return OK;
}

/* ---- what stands behind a value ---- */

static Status parse_slice_part(Parser *p, Node **part) {
    if (token_is(p, T_OP, ":") || token_is(p, T_OP, "]")) return OK;
    return parse_expression(p, part);
}

static Status parse_subscript(Parser *p, Node **out) {
    Node *first = NULL;
    TRY(parse_slice_part(p, &first));
    if (!token_is(p, T_OP, ":")) {
        if (!first) return parse_fail(p, "an index is missing");
        *out = first;
        return OK;
    }
    Node *s = node_new(p, N_SLICE);
    s->a = first;
    p->at++;
    TRY(parse_slice_part(p, &s->b));
    if (token_skip(p, T_OP, ":")) TRY(parse_slice_part(p, &s->c));
    *out = s;
    return OK;
}

static Status parse_dot(Parser *p, Node **node) {
    Node *n = node_new(p, N_GETATTR);
    const Token *t = token_now(p);
    n->a = *node;
    *node = n;
    n->name = t->text.s;
    if (token_skip(p, T_NAME, NULL)) return OK;
    if (t->type != T_INT) return token_expect(p, T_NAME, NULL);
    n->type = N_GETITEM;
    n->b = node_new(p, N_CONST);
    n->b->value = value_int(t->i);
    p->at++;
    return OK;
}

static Status parse_postfix(Parser *p, Node **node) {
    for (;;) {
        if (token_skip(p, T_OP, ".")) {
            TRY(parse_dot(p, node));
        } else if (token_is(p, T_OP, "[")) {
            Node *n = node_new(p, N_GETITEM);
            p->at++;
            n->a = *node;
            *node = n;
            TRY(parse_subscript(p, &n->b));
            TRY(token_expect(p, T_OP, "]"));
        } else if (token_is(p, T_OP, "(")) {
            TRY(parse_call(p, node));
        } else {
            return OK;
        }
    }
}

static Status parse_filters_and_tests(Parser *p, Node **node) {
    for (;;) {
        if (token_is(p, T_OP, "|"))
            TRY(parse_filter(p, node));
        else if (token_is(p, T_NAME, "is"))
            TRY(parse_test(p, node));
        else if (token_is(p, T_OP, "("))
            TRY(parse_call(p, node));
        else
            return OK;
    }
}

/* ---- values ---- */

static Status parse_list(Parser *p, NodeType type, const char *close, Node **out) {
    Node *list = node_new(p, type), **end = NULL;
    p->at++;
    while (!token_skip(p, T_OP, close)) {
        Node *n;
        if (end) {
            TRY(token_expect(p, T_OP, ","));
            if (token_skip(p, T_OP, close)) break;
        }
        TRY(parse_expression(p, &n));
        append(&list->list, &end, n);
        if (type != N_DICT) continue;
        TRY(token_expect(p, T_OP, ":"));
        TRY(parse_expression(p, &n));
        append(&list->list, &end, n);
    }
    *out = list;
    return OK;
}

/* Strings side by side are one. */
static Str joined_strings(Parser *p) {
    size_t n = 0, at = 0;
    int from = p->at;
    while (token_is(p, T_STRING, NULL)) n += p->tokens.v[p->at++].text.n;
    if (p->at == from + 1) return p->tokens.v[from].text;
    char *s = arena_alloc(&p->j->arena, n + 1);
    for (int i = from; i < p->at; i++) {
        Str part = p->tokens.v[i].text;
        memcpy(s + at, part.s, part.n);
        at += part.n;
    }
    return (Str){s, NULL, n};
}

static int constant_name(Str name, Value *v) {
    if (str_is(name, "true") || str_is(name, "True"))
        *v = value_bool(1);
    else if (str_is(name, "false") || str_is(name, "False"))
        *v = value_bool(0);
    else if (str_is(name, "none") || str_is(name, "None"))
        *v = value_of(V_NONE);
    else
        return 0;
    return 1;
}

static Status parse_name(Parser *p, Node *n) {
    static const char *const unsupported[] = {"varargs", "kwargs", "caller", "self", "super",
                                              "cycler",  "joiner", "lipsum", NULL};
    const Token *t = token_now(p);
    if (constant_name(t->text, &n->value)) {
        p->at++;
        return OK;
    }
    n->type = N_NAME;
    n->name = t->text.s;
    for (int i = 0; unsupported[i]; i++)
        if (str_is(t->text, unsupported[i]))
            return parse_fail(p, "\"%s\" is not supported", unsupported[i]);
    p->at++;
    return OK;
}

static Status parse_parentheses(Parser *p, Node **out) {
    if (p->tokens.v[p->at + 1].type == T_OP && str_is(p->tokens.v[p->at + 1].text, ")")) {
        *out = node_new(p, N_TUPLE);
        p->at += 2;
        return OK;
    }
    p->at++;
    TRY(parse_tuple(p, 1, out));
    return token_expect(p, T_OP, ")");
}

static Status parse_primary(Parser *p, Node **out) {
    const Token *t = token_now(p);
    Node *n = node_new(p, N_CONST);
    *out = n;
    if (t->type == T_NAME) return parse_name(p, n);
    if (t->type == T_STRING) {
        n->value = value_str(joined_strings(p));
        return OK;
    }
    if (t->type == T_INT || t->type == T_FLOAT) {
        n->value = t->type == T_INT ? value_int(t->i) : value_float(t->f);
        p->at++;
        return OK;
    }
    if (token_is(p, T_OP, "(")) return parse_parentheses(p, out);
    if (token_is(p, T_OP, "[")) return parse_list(p, N_LIST, "]", out);
    if (token_is(p, T_OP, "{")) return parse_list(p, N_DICT, "}", out);
    return parse_fail(p, "expected an expression, found %.60s", token_name(t));
}

/* ---- operators ---- */

static Status parse_unary(Parser *p, int with_filters, Node **out) {
    TRY(deeper(p));
    if (token_is(p, T_OP, "-") || token_is(p, T_OP, "+")) {
        Node *n = node_new(p, token_is(p, T_OP, "-") ? N_NEG : N_POS);
        p->at++;
        TRY(parse_unary(p, 0, &n->a));
        *out = n;
    } else {
        TRY(parse_primary(p, out));
    }
    TRY(parse_postfix(p, out));
    if (with_filters) TRY(parse_filters_and_tests(p, out));
    p->depth--;
    return OK;
}

typedef struct {
    const char *text;
    Op op;
} Operator;

typedef Status (*ParseFn)(Parser *p, Node **out);

/* next (op next)*, evaluated from left to right without nesting */
static Status parse_fold(Parser *p, const Operator *ops, int n, ParseFn next, Node **out) {
    Node *fold = NULL, **end = NULL;
    TRY(next(p, out));
    for (int i = 0; i < n; i++) {
        if (!token_is(p, T_OP, ops[i].text)) continue;
        Node *operand = node_new(p, N_OPERAND);
        operand->op = ops[i].op;
        if (!fold) {
            fold = node_new(p, N_FOLD);
            fold->a = *out;
            *out = fold;
        }
        p->at++;
        TRY(next(p, &operand->a));
        append(&fold->list, &end, operand);
        i = -1;
    }
    return OK;
}

static Status parse_operand(Parser *p, Node **out) {
    return parse_unary(p, 1, out);
}

static Status parse_power(Parser *p, Node **out) {
    static const Operator ops[] = {{"**", OP_POW}};
    return parse_fold(p, ops, 1, parse_operand, out);
}

static Status parse_product(Parser *p, Node **out) {
    static const Operator ops[] = {
        {"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOORDIV}, {"%", OP_MOD}};
    return parse_fold(p, ops, 4, parse_power, out);
}

static Status parse_chain(Parser *p, NodeType type, TokenType token, const char *text, ParseFn next,
                          Node **out) {
    Node *n = NULL, **end = NULL;
    TRY(next(p, out));
    while (token_is(p, token, text)) {
        if (!n) {
            n = node_new(p, type);
            append(&n->list, &end, *out);
            *out = n;
        }
        Node *more;
        p->at++;
        TRY(next(p, &more));
        append(&n->list, &end, more);
    }
    return OK;
}

static Status parse_concat(Parser *p, Node **out) {
    return parse_chain(p, N_CONCAT, T_OP, "~", parse_product, out);
}

static Status parse_sum(Parser *p, Node **out) {
    static const Operator ops[] = {{"+", OP_ADD}, {"-", OP_SUB}};
    return parse_fold(p, ops, 2, parse_concat, out);
}

static int comparison(Parser *p, Op *op) {
    static const Operator ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT},
                                   {"<=", OP_LE}, {">", OP_GT},  {">=", OP_GE}};
    for (int i = 0; i < 6; i++)
        if (token_is(p, T_OP, ops[i].text)) {
            *op = ops[i].op;
            p->at++;
            return 1;
        }
    *op = OP_IN;
    if (token_skip(p, T_NAME, "in")) return 1;
    const Token *t = token_now(p);
    if (t->type != T_NAME || !str_is(t->text, "not") || t[1].type != T_NAME ||
        !str_is(t[1].text, "in"))
        return 0;
    *op = OP_NOT_IN;
    p->at += 2;
    return 1;
}

static Status parse_comparison(Parser *p, Node **out) {
    Node *n = NULL, **end = NULL, *operand = node_new(p, N_OPERAND);
    TRY(parse_sum(p, out));
    for (Op op; comparison(p, &op);) {
        if (!n) {
            n = node_new(p, N_COMPARE);
            n->a = *out;
            *out = n;
        } else {
            operand = node_new(p, N_OPERAND);
        }
        operand->op = op;
        TRY(parse_sum(p, &operand->a));
        append(&n->list, &end, operand);
    }
    return OK;
}

static Status parse_not(Parser *p, Node **out) {
    if (!token_is(p, T_NAME, "not")) return parse_comparison(p, out);
    TRY(deeper(p));
    *out = node_new(p, N_NOT);
    p->at++;
    TRY(parse_not(p, &(*out)->a));
    p->depth--;
    return OK;
}

static Status parse_and(Parser *p, Node **out) {
    return parse_chain(p, N_AND, T_NAME, "and", parse_not, out);
}

static Status parse_or(Parser *p, Node **out) {
    return parse_chain(p, N_OR, T_NAME, "or", parse_and, out);
}

Status parse_expression(Parser *p, Node **out) {
    TRY(deeper(p));
    TRY(parse_or(p, out));
    while (token_is(p, T_NAME, "if")) {
        Node *n = node_new(p, N_COND);
        p->at++;
        n->a = *out;
        *out = n;
        TRY(parse_or(p, &n->b));
        if (token_skip(p, T_NAME, "else")) TRY(parse_expression(p, &n->c));
    }
    p->depth--;
    return OK;
}

/* ---- lists without brackets ---- */

static int tuple_ends(const Parser *p) {
    return token_is(p, T_OUTPUT_END, NULL) || token_is(p, T_BLOCK_END, NULL) ||
           token_is(p, T_OP, ")") || token_is(p, T_NAME, "in");
}

Status parse_tuple(Parser *p, int with_condition, Node **out) {
    ParseFn item = with_condition ? parse_expression : parse_or;
    TRY(item(p, out));
    if (!token_is(p, T_OP, ",")) return OK;
    Node *tuple = node_new(p, N_TUPLE), **end = NULL;
    append(&tuple->list, &end, *out);
    *out = tuple;
    while (token_skip(p, T_OP, ",") && !tuple_ends(p)) {
        Node *n;
        TRY(item(p, &n));
        append(&tuple->list, &end, n);
    }
    return OK;
}

static Status parse_one_target(Parser *p, int with_namespace, Node **out) {
    Value constant;
    Node *n = node_new(p, N_NAME);
    if (token_skip(p, T_OP, "(")) {
        TRY(deeper(p));
        TRY(parse_target(p, with_namespace, out));
        p->depth--;
        return token_expect(p, T_OP, ")");
    }
    *out = n;
    if (token_is(p, T_NAME, NULL) && constant_name(token_now(p)->text, &constant))
        return parse_fail(p, "%s cannot be assigned to", token_now(p)->text.s);
    n->name = token_now(p)->text.s;
    TRY(token_expect(p, T_NAME, NULL));
    if (!with_namespace || !token_skip(p, T_OP, ".")) return OK;
    n->type = N_NSREF;
    n->attr = token_now(p)->text.s;
    return token_expect(p, T_NAME, NULL);
}

Status parse_target(Parser *p, int with_namespace, Node **out) {
    TRY(parse_one_target(p, with_namespace, out));
    if (!token_is(p, T_OP, ",")) return OK;
    Node *tuple = node_new(p, N_TUPLE), **end = NULL;
    append(&tuple->list, &end, *out);
    *out = tuple;
    while (token_skip(p, T_OP, ",") && token_now(p)->type != T_BLOCK_END && !tuple_ends(p)) {
        Node *n;
        TRY(parse_one_target(p, with_namespace, &n));
        append(&tuple->list, &end, n);
    }
    return OK;
}
