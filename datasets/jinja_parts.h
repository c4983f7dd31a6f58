/* jinja_parts.h - what the interpreter is made from; private to datasets/jinja*.c.
 *
 * text -> tokens (jinja_lexer.c) -> tree (jinja_parser.c, jinja_statements.c) -> output, by
 * jinja_exec.c (statements) and jinja_eval.c (expressions) over values (jinja_value.c,
 * jinja_string.c, jinja_print.c) with filters, tests, methods and functions. */
#ifndef JINJA_PARTS_H
#define JINJA_PARTS_H

#include <stdint.h>
#include <string.h>
#include "datasets/jinja.h"

/* ---- values ---- */

typedef struct { /* bytes and where they are from */
    const char *s;
    const uint8_t *data; /* one for each byte: 1 taken from data; NULL: none was */
    size_t n;
} Str;

typedef enum {
    V_ABSENT, /* an argument that was not given */
    V_UNDEFINED,
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STRING,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_NAMESPACE,
    V_LOOP,
    V_MACRO,
    V_FUNCTION,
    V_METHOD
} ValueType;

typedef struct Value Value;
typedef struct List List;
typedef struct Dict Dict;
typedef struct Loop Loop;
typedef struct Macro Macro;
typedef struct Builtin Builtin;
typedef struct Bound Bound;

struct Value {
    ValueType type;
    union {
        int64_t i; /* V_INT, V_BOOL */
        double f;
        Str s;
        struct { /* V_UNDEFINED: what was looked for, and in what (NULL: among the variables) */
            const char *name, *owner;
        } missing;
        List *list; /* V_LIST, V_TUPLE */
        Dict *dict; /* V_DICT, V_NAMESPACE */
        Loop *loop;
        Macro *macro;
        const Builtin *function;
        Bound *method;
    };
};

struct List {
    Value *v;
    size_t n, cap;
};

typedef struct {
    Value key, value;
} Pair;

struct Dict {
    Pair *v;
    size_t n, cap;
};

struct Bound { /* a method with its object */
    Value self;
    const Builtin *method;
};

static inline Value value_of(ValueType type) {
    return (Value){.type = type};
}
static inline Value value_bool(int truth) {
    return (Value){.type = V_BOOL, .i = truth != 0};
}
static inline Value value_int(int64_t i) {
    return (Value){.type = V_INT, .i = i};
}
static inline Value value_float(double f) {
    return (Value){.type = V_FLOAT, .f = f};
}
static inline Value value_str(Str s) {
    return (Value){.type = V_STRING, .s = s};
}
static inline Str str_of(const char *s) {
    return (Str){s, NULL, strlen(s)};
}
static inline Str str_part(Str s, size_t from, size_t to) {
    return (Str){s.s + from, s.data ? s.data + from : NULL, to - from};
}
static inline int str_is(Str s, const char *text) {
    return s.n == strlen(text) && !memcmp(s.s, text, s.n);
}
static inline int is_list(Value v) {
    return v.type == V_LIST || v.type == V_TUPLE;
}
static inline int is_whole(Value v) { /* what Python takes for an int */
    return v.type == V_INT || v.type == V_BOOL;
}
static inline int is_number(Value v) {
    return is_whole(v) || v.type == V_FLOAT;
}
static inline double as_double(Value v) {
    return v.type == V_FLOAT ? v.f : (double)v.i;
}

/* ---- tokens (jinja_lexer.c) ---- */

typedef enum {
    T_DATA,
    T_OUTPUT_BEGIN,
    T_OUTPUT_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OP,
    T_EOF
} TokenType;

typedef struct {
    TokenType type;
    int line, col;
    Str text; /* of data, names, strings, operators; NUL-terminated */
    int64_t i;
    double f;
} Token;

typedef struct {
    Token *v;
    int n;
} Tokens;

/* E_FORMAT "name:line:column: sentence" */
Status place_fail(const char *name, int line, int col, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
Status jinja_lex(Tokens *out, Arena *a, const char *name, const char *text, size_t len);

/* ---- the tree (jinja_parser.c, jinja_statements.c) ---- */

typedef enum {
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT, /* list: keys and values in turn */
    N_GETATTR,
    N_GETITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NOT,
    N_NEG,
    N_POS,
    N_AND, /* list */
    N_OR,
    N_CONCAT,
    N_COND,    /* a if b else c */
    N_COMPARE, /* a, list of N_OPERAND */
    N_FOLD,    /* the same, arithmetic from left to right */
    N_OPERAND,
    N_KEYWORD,
    N_NSREF, /* name.attr as a target */
    N_TEXT,
    N_OUTPUT,
    N_IF,
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_BREAK,
    N_CONTINUE,
    N_GENERATION
} NodeType;

typedef enum {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN
} Op;

typedef struct Node Node;
struct Node {
    NodeType type;
    int line, col;
    Op op;
    const char *name, *attr;
    const Builtin *builtin; /* of a filter or test */
    Value value;
    Node *a, *b, *c;
    Node *list, *list2; /* children: body and else; arguments and keywords */
    Node *next;         /* in the list it stands in */
};

struct Jinja {
    Arena arena;
    const char *name;
    Node *body;
    int has_marks;
};

typedef struct {
    Jinja *j;
    Tokens tokens;
    int at, depth, loops, in_macro;
} Parser;

Node *node_new(Parser *p, NodeType type);
Status parse_fail(const Parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const Token *token_now(const Parser *p);
int token_is(const Parser *p, TokenType type, const char *text);
int token_skip(Parser *p, TokenType type, const char *text);
Status token_expect(Parser *p, TokenType type, const char *text);
Status parse_expression(Parser *p, Node **out);
Status parse_tuple(Parser *p, int with_condition, Node **out);
Status parse_target(Parser *p, int with_namespace, Node **out);
Status parse_filters(Parser *p, Node **node); /* | name(...) any number of times */

/* ---- evaluation ---- */

typedef struct {
    const char *name;
    Value value;
} Var;

typedef struct Scope Scope;
struct Scope {
    Scope *parent;
    Var *v;
    int n, cap;
};

struct Loop {
    int64_t index0, length, depth0;
    Value previous, next; /* V_ABSENT at the ends */
};

struct Macro {
    const Node *node;
    Scope *scope;
};

typedef struct { /* a string being built, in the arena */
    char *s;
    uint8_t *data;
    size_t n, cap;
} Build;

typedef enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } Flow;

typedef struct {
    const Jinja *j;
    Arena arena;
    const Node *at; /* where it is, for messages */
    Scope *scope, globals;
    Build *out, tail; /* tail: the string that was concatenated last can grow in place */
    int captured;     /* output goes to a string */
    Flow flow;
    int depth, loops;
    size_t steps, bytes;
    int64_t now;
    JinjaOutput *result;
} Eval;

typedef struct { /* arguments of a call; of a builtin with named parameters: v by parameter */
    Value *v;
    int n;
    const char **key;
    Value *key_value;
    int n_keys;
    int mode; /* of the builtin that is called */
} Args;

typedef Status (*BuiltinFn)(Eval *e, Value self, const Args *a, Value *out);
struct Builtin {
    const char *name;
    /* "old!,new!,count": names, ! where they must be given; NULL: takes any */
    const char *params;
    BuiltinFn call; /* NULL: known and not supported */
    int mode;       /* where one function serves several names: which of them, as a->mode */
};
/* The row of that name, or NULL. */
const Builtin *builtin_find(const Builtin *rows, size_t n, const char *name);

Status eval_fail(const Eval *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Counts an evaluation that looks at so many bytes; counts memory before it is taken. */
Status spend_work(Eval *e, size_t bytes);
Status spend_memory(Eval *e, size_t bytes);

/* jinja_value.c */
Status list_new(Eval *e, ValueType type, size_t room, Value *out);
Status list_add(Eval *e, Value list, Value v);
Status dict_new(Eval *e, ValueType type, Value *out);
Status dict_put(Eval *e, Value dict, Value key, Value value);
Status dict_find(Eval *e, const Dict *d, Value key, const Value **out); /* *out NULL: none */
Status value_from_json(Eval *e, const JinjaVar *var, Value *out);
int value_truth(Value v);
const char *value_kind(Value v); /* "str", "dict", ... as Python calls it */
Status value_equal(Eval *e, Value a, Value b, int *equal);
Status value_order(Eval *e, Value a, Value b, int *order); /* -1, 0, 1 */
Status value_in(Eval *e, Value item, Value in, int *found);
/* The elements of what can be iterated, as a list. */
Status value_elements(Eval *e, Value v, Value *list);
Status value_length(Eval *e, Value v, int64_t *n);
Status value_arith(Eval *e, Op op, Value a, Value b, Value *out);
Status value_attr(Eval *e, Value v, const char *name, Value *out);
Status value_item(Eval *e, Value v, Value key, Value *out);
Status value_slice(Eval *e, Value v, const Value part[3], Value *out);
/* Attribute "a.b.0" as map, sort, selectattr and their like take it. */
Status value_path(Eval *e, Value v, Value path, Value *out);
Status undefined_fail(Eval *e, Value v);

/* jinja_string.c */
Status build_bytes(Eval *e, Build *b, const char *s, size_t n, int data);
Status build_str(Eval *e, Build *b, Str s);
Str build_done(const Build *b);
Status str_concat(Eval *e, Str a, Str b, Str *out);
int is_space_char(int32_t code);                        /* as Python's str.isspace */
size_t char_at(const char *s, size_t n, int32_t *code); /* its length; n > 0 */
size_t str_chars(Str s);
size_t str_offset(Str s, size_t chars); /* bytes of so many characters */
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
Str str_strip(Str s, const Str *chars, int sides); /* chars NULL: white space */
const char *str_find(Str s, Str what);             /* NULL: none */
typedef enum { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL, CASE_TITLE_FILTER } Case;
Status str_case(Eval *e, Str s, Case to, Str *out);
Status str_replace(Eval *e, Str s, Str old, Str with, int64_t count, Str *out);
Status str_split(Eval *e, Str s, const Value *by, int64_t most, int from_right, Value *out);
Status str_lines(Eval *e, Str s, int keep_ends, Value *out);

/* jinja_print.c */
Status value_text(Eval *e, Value v, Str *out); /* str(v) */
typedef struct {
    int ascii, sort;
    const char *indent; /* NULL: on one line */
    Str item_separator, key_separator;
} JsonStyle;
Status put_json(Eval *e, Build *b, Value v, const JsonStyle *style, int depth);

/* jinja_sequence.c */
Status pair_of(Eval *e, const Pair *p, Value *out); /* (key, value) */

/* The tables; NULL when there is no such name (known and unsupported ones have no call). */
const Builtin *filter_named(const char *name);
const Builtin *filter_named_more(const char *name); /* jinja_sequence.c: filters over lists */
const Builtin *test_named(const char *name);
const Builtin *function_named(const char *name);
const Builtin *method_named(ValueType type, const char *name);

/* jinja_eval.c */
Status eval_node(Eval *e, const Node *n, Value *out);
Status builtin_call(Eval *e, const char *what, const Builtin *b, Value self, const Args *a,
                    Value *out);
Status scope_set(Eval *e, Scope *s, const char *name, Value v);
Scope *scope_new(Eval *e, Scope *parent);
Status enter(Eval *e); /* one level deeper, undone by e->depth-- */

/* jinja_exec.c */
Status macro_call(Eval *e, const Macro *m, const Args *a, Value *out);

#endif
