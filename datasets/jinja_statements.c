/* jinja_statements.c - text, {{ }} and {% %}. */
#include "datasets/jinja_parts.h"

/* Statements up to the end of the template (ends NULL) or one of `ends`, on which it stays. */
static Status parse_body(Parser *p, const char *const *ends, Node **list);

static Status block_end(Parser *p) {
    return token_expect(p, T_BLOCK_END, NULL);
}

/* The body of a statement up to one of `ends`, whose name it takes. */
static Status parse_inner(Parser *p, const char *const *ends, Node **list) {
    int line = token_now(p)->line, col = token_now(p)->col;
    token_skip(p, T_OP, ":"); /* Jinja lets it pass */
    TRY(block_end(p));
    TRY(parse_body(p, ends, list));
    if (token_is(p, T_EOF, NULL))
        return place_fail(p->j->name, line, col, "the block that begins here has no {%% %s %%}",
                          ends[0]);
    return OK;
}

static Status parse_last(Parser *p, const char *end, Node **list) {
    const char *const ends[] = {end, NULL};
    TRY(parse_inner(p, ends, list));
    return token_expect(p, T_NAME, end);
}

/* elif is an if in the else of the one before it */
static Status parse_if(Parser *p, Node *n) {
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    for (;;) {
        TRY(parse_tuple(p, 0, &n->a));
        TRY(parse_inner(p, ends, &n->list));
        if (!token_is(p, T_NAME, "elif")) break;
        n->list2 = node_new(p, N_IF);
        n = n->list2;
        p->at++;
    }
    if (token_skip(p, T_NAME, "endif")) return OK;
    p->at++;
    return parse_last(p, "endif", &n->list2);
}

static Status parse_for(Parser *p, Node *n) {
    static const char *const ends[] = {"endfor", "else", NULL};
    TRY(parse_target(p, 0, &n->c));
    TRY(token_expect(p, T_NAME, "in"));
    TRY(parse_tuple(p, 0, &n->a));
    if (token_skip(p, T_NAME, "if")) TRY(parse_expression(p, &n->b));
    if (token_is(p, T_NAME, "recursive")) return parse_fail(p, "recursive loops are not supported");
    p->loops++;
    TRY(parse_inner(p, ends, &n->list));
    p->loops--;
    if (token_skip(p, T_NAME, "endfor")) return OK;
    p->at++;
    return parse_last(p, "endfor", &n->list2);
}

static Status parse_set(Parser *p, Node *n) {
    TRY(parse_target(p, 1, &n->c));
    if (token_skip(p, T_OP, "=")) return parse_tuple(p, 1, &n->a);
    n->type = N_SET_BLOCK;
    n->b = node_new(p, N_NAME); /* the body's text, put through filters */
    n->b->name = "(block)";
    TRY(parse_filters(p, &n->b));
    return parse_last(p, "endset", &n->list);
}

static Status parse_macro(Parser *p, Node *n) {
    Node **end = &n->list;
    int loops = p->loops;
    n->name = token_now(p)->text.s;
    TRY(token_expect(p, T_NAME, NULL));
    TRY(token_expect(p, T_OP, "("));
    while (!token_skip(p, T_OP, ")")) {
        if (n->list) TRY(token_expect(p, T_OP, ","));
        Node *param = node_new(p, N_NAME);
        param->name = token_now(p)->text.s;
        TRY(token_expect(p, T_NAME, NULL));
        if (token_skip(p, T_OP, "=")) TRY(parse_expression(p, &param->a));
        *end = param;
        end = &param->next;
    }
    p->loops = 0;
    p->in_macro++;
    TRY(parse_last(p, "endmacro", &n->list2));
    p->in_macro--;
    p->loops = loops;
    return OK;
}

static Status parse_loop_control(Parser *p, Node *n) {
    (void)n;
    return p->loops ? OK : parse_fail(p, "break and continue stand inside of loops only");
}

static Status parse_generation(Parser *p, Node *n) {
    if (p->in_macro) return parse_fail(p, "generation blocks inside of macros are not supported");
    p->j->has_marks = 1;
    return parse_last(p, "endgeneration", &n->list);
}

static const struct {
    const char *name;
    NodeType type;
    Status (*parse)(Parser *p, Node *n);
} statements[] = {
    {"if", N_IF, parse_if},
    {"for", N_FOR, parse_for},
    {"set", N_SET, parse_set},
    {"macro", N_MACRO, parse_macro},
    {"break", N_BREAK, parse_loop_control},
    {"continue", N_CONTINUE, parse_loop_control},
    {"generation", N_GENERATION, parse_generation},
};

static Status parse_statement(Parser *p, Node **out) {
    const Token *name = token_now(p);
    if (++p->depth > JINJA_DEPTH_MAX) return parse_fail(p, "nested too deeply");
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++) {
        if (!token_is(p, T_NAME, statements[i].name)) continue;
        *out = node_new(p, statements[i].type);
        p->at++;
        TRY(statements[i].parse(p, *out));
        p->depth--;
        return block_end(p);
    }
    if (name->type != T_NAME) return token_expect(p, T_NAME, NULL);
    if (!strncmp(name->text.s, "end", 3) || str_is(name->text, "else") ||
        str_is(name->text, "elif"))
        return parse_fail(p, "{%% %.60s %%} ends no block that is open here", name->text.s);
    return parse_fail(p, "the statement \"%.60s\" is not supported", name->text.s);
}

static int is_end(const Parser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (token_is(p, T_NAME, *ends)) return 1;
    return 0;
}

static Status parse_body(Parser *p, const char *const *ends, Node **list) {
    while (!token_is(p, T_EOF, NULL)) {
        Node *n = node_new(p, N_TEXT);
        if (token_is(p, T_DATA, NULL)) {
            n->value = value_str(token_now(p)->text);
            p->at++;
        } else if (token_skip(p, T_OUTPUT_BEGIN, NULL)) {
            n->type = N_OUTPUT;
            TRY(parse_tuple(p, 1, &n->a));
            TRY(token_expect(p, T_OUTPUT_END, NULL));
        } else {
            TRY(token_expect(p, T_BLOCK_BEGIN, NULL));
            if (is_end(p, ends)) return OK;
            TRY(parse_statement(p, &n));
        }
        *list = n;
        list = &n->next;
    }
    return OK;
}

Status jinja_compile(Jinja **j, const char *name, const char *text, size_t len) {
    Arena arena = {0};
    Jinja *new = arena_alloc(&arena, sizeof(*new));
    *j = NULL;
    new->arena = arena;
    new->name = arena_strdup(&new->arena, name);
    Parser p = {.j = new};
    Status s = jinja_lex(&p.tokens, &new->arena, new->name, text, len);
    if (s == OK) s = parse_body(&p, NULL, &new->body);
    if (s == OK)
        *j = new;
    else
        jinja_release(new);
    return s;
}

void jinja_release(Jinja *j) {
    if (!j) return;
    Arena arena = j->arena;
    arena_release(&arena);
}

int jinja_has_marks(const Jinja *j) {
    return j->has_marks;
}
