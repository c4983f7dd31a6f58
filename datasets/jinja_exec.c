/* jinja_exec.c - statements, macros, and a whole rendering. */
#include <stdlib.h>
#include "datasets/jinja_parts.h"

static Status write_str(Eval *e, Str s) {
    TRY(build_str(e, e->out, s));
    if (e->out->n <= JINJA_OUTPUT_MAX) return OK;
    return eval_fail(e, "the template writes more than %d MiB", JINJA_OUTPUT_MAX >> 20);
}

static Status exec_output(Eval *e, const Node *n) {
    Value v;
    Str s;
    TRY(eval_node(e, n->a, &v));
    TRY(value_text(e, v, &s));
    return write_str(e, s);
}

static Status exec_list(Eval *e, const Node *list);

/* What the statements write, as a string. */
static Status capture(Eval *e, const Node *list, Str *out) {
    Build inner = {0}, *outer = e->out;
    e->out = &inner;
    e->captured++;
    Status s = exec_list(e, list);
    e->captured--;
    e->out = outer;
    *out = build_done(&inner);
    return s;
}

/* ---- assignment ---- */

static Status assign_attr(Eval *e, const Node *target, Value v) {
    Value ns;
    Node name = {.type = N_NAME, .line = target->line, .col = target->col, .name = target->name};
    TRY(eval_node(e, &name, &ns));
    e->at = target;
    if (ns.type != V_NAMESPACE)
        return eval_fail(e, "%s is no namespace: only attributes of those can be set",
                         target->name);
    return dict_put(e, ns, value_str(str_of(target->attr)), v);
}

static Status assign(Eval *e, const Node *target, Value v) {
    Value list;
    e->at = target;
    if (target->type == N_NAME) return scope_set(e, e->scope, target->name, v);
    if (target->type == N_NSREF) return assign_attr(e, target, v);
    size_t i = 0, n = 0;
    for (const Node *c = target->list; c; c = c->next) n++;
    TRY(value_elements(e, v, &list));
    if (list.list->n != n)
        return eval_fail(e, "%zu values cannot be given to %zu names", list.list->n, n);
    TRY(enter(e));
    for (const Node *c = target->list; c; c = c->next) TRY(assign(e, c, list.list->v[i++]));
    e->depth--;
    return OK;
}

static Status exec_set_block(Eval *e, const Node *n) {
    Scope *outer = e->scope;
    Value v = value_of(V_STRING);
    TRY(spend_memory(e, sizeof(Scope)));
    e->scope = scope_new(e, outer);
    TRY(capture(e, n->list, &v.s));
    e->scope = outer;
    if (e->flow != FLOW_ON) return OK;
    TRY(scope_set(e, outer, "(block)", v)); /* what the filters' innermost node is named */
    TRY(eval_node(e, n->b, &v));
    return assign(e, n->c, v);
}

/* ---- control ---- */

static Status exec_if(Eval *e, const Node *n) {
    for (;;) {
        Value v;
        TRY(eval_node(e, n->a, &v));
        if (value_truth(v)) return exec_list(e, n->list);
        const Node *next = n->list2;
        if (!next || next->type != N_IF || next->next) return exec_list(e, next);
        n = next;
    }
}

/* The elements that pass the loop's `if`. */
static Status filtered(Eval *e, const Node *n, Value *list) {
    Value all = *list, truth;
    if (!n->b) return OK;
    TRY(list_new(e, V_LIST, 0, list));
    for (size_t i = 0; i < all.list->n; i++) {
        e->scope->n = 0;
        TRY(assign(e, n->c, all.list->v[i]));
        TRY(eval_node(e, n->b, &truth));
        if (value_truth(truth)) TRY(list_add(e, *list, all.list->v[i]));
    }
    return OK;
}

static Status run_loop(Eval *e, const Node *n, const List *list) {
    Loop *loop = arena_alloc(&e->arena, sizeof(*loop));
    loop->length = (int64_t)list->n;
    loop->depth0 = e->loops++;
    for (size_t i = 0; i < list->n && e->flow != FLOW_BREAK; i++) {
        loop->index0 = (int64_t)i;
        loop->previous = i ? list->v[i - 1] : value_of(V_ABSENT);
        loop->next = i + 1 < list->n ? list->v[i + 1] : value_of(V_ABSENT);
        e->flow = FLOW_ON;
        e->scope->n = 0; /* what a turn sets is gone in the next */
        TRY(assign(e, n->c, list->v[i]));
        TRY(scope_set(e, e->scope, "loop", (Value){.type = V_LOOP, .loop = loop}));
        TRY(exec_list(e, n->list));
    }
    e->loops--;
    e->flow = FLOW_ON;
    return OK;
}

static Status exec_for(Eval *e, const Node *n) {
    Scope *outer = e->scope;
    Value v, list;
    TRY(eval_node(e, n->a, &v));
    TRY(value_elements(e, v, &list));
    TRY(spend_memory(e, sizeof(Scope) + sizeof(Loop)));
    e->scope = scope_new(e, outer);
    TRY(filtered(e, n, &list));
    TRY(run_loop(e, n, list.list));
    e->scope = outer;
    return list.list->n ? OK : exec_list(e, n->list2);
}

static Status exec_generation(Eval *e, const Node *n) {
    Scope *outer = e->scope;
    size_t from = e->out->n;
    if (e->captured)
        return eval_fail(e, "a generation block inside of a set block is not supported");
    TRY(spend_memory(e, sizeof(Scope)));
    e->scope = scope_new(e, outer);
    TRY(exec_list(e, n->list));
    e->scope = outer;
    return jinja_output_mark(e->result, (JinjaSpan){from, e->out->n});
}

static Status exec_macro(Eval *e, const Node *n) {
    TRY(spend_memory(e, sizeof(Macro)));
    Macro *m = arena_alloc(&e->arena, sizeof(*m));
    *m = (Macro){n, e->scope};
    return scope_set(e, e->scope, n->name, (Value){.type = V_MACRO, .macro = m});
}

static Status exec_set(Eval *e, const Node *n) {
    Value v;
    TRY(eval_node(e, n->a, &v));
    return assign(e, n->c, v);
}

static Status exec_one(Eval *e, const Node *n) {
    switch (n->type) {
    case N_TEXT: return write_str(e, n->value.s);
    case N_OUTPUT: return exec_output(e, n);
    case N_IF: return exec_if(e, n);
    case N_FOR: return exec_for(e, n);
    case N_SET: return exec_set(e, n);
    case N_SET_BLOCK: return exec_set_block(e, n);
    case N_MACRO: return exec_macro(e, n);
    case N_GENERATION: return exec_generation(e, n);
    case N_BREAK: e->flow = FLOW_BREAK; return OK;
    case N_CONTINUE: e->flow = FLOW_CONTINUE; return OK;
    default: CHECK(!"a statement"); return OK;
    }
}

static Status exec_list(Eval *e, const Node *list) {
    TRY(enter(e));
    for (const Node *n = list; n && e->flow == FLOW_ON; n = n->next) {
        e->at = n;
        TRY(spend_work(e, 0));
        TRY(exec_one(e, n));
    }
    e->depth--;
    return OK;
}

/* ---- macros ---- */

static Status take_keyword(Eval *e, const Macro *m, const Args *a, int i) {
    for (const Node *p = m->node->list; p; p = p->next)
        if (!strcmp(p->name, a->key[i])) return scope_set(e, e->scope, p->name, a->key_value[i]);
    return eval_fail(e, "the macro \"%s\" has no parameter \"%.60s\"", m->node->name, a->key[i]);
}

static int given(const Scope *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->v[i].name, name)) return 1;
    return 0;
}

static Status take_args(Eval *e, const Macro *m, const Args *a) {
    int i = 0;
    for (const Node *p = m->node->list; p && i < a->n; p = p->next)
        TRY(scope_set(e, e->scope, p->name, a->v[i++]));
    if (i < a->n)
        return eval_fail(e, "the macro \"%s\" takes fewer than %d arguments", m->node->name, a->n);
    for (i = 0; i < a->n_keys; i++) TRY(take_keyword(e, m, a, i));
    for (const Node *p = m->node->list; p; p = p->next) {
        Value v = {.type = V_UNDEFINED, .missing = {p->name, NULL}};
        if (given(e->scope, p->name)) continue;
        if (p->a) TRY(eval_node(e, p->a, &v));
        TRY(scope_set(e, e->scope, p->name, v));
    }
    return OK;
}

Status macro_call(Eval *e, const Macro *m, const Args *a, Value *out) {
    Scope *caller = e->scope;
    TRY(enter(e));
    TRY(spend_memory(e, sizeof(Scope)));
    e->scope = scope_new(e, m->scope);
    TRY(take_args(e, m, a));
    *out = value_of(V_STRING);
    TRY(capture(e, m->node->list2, &out->s));
    e->scope = caller;
    e->depth--;
    return OK;
}

/* ---- the whole ---- */

static Status set_variable(Eval *e, const JinjaVar *var) {
    Value v = value_of(V_NONE);
    if (var->kind == JINJA_BOOL) v = value_bool(var->truth);
    if (var->kind == JINJA_TEXT) v = value_str(str_of(var->text));
    if (var->kind == JINJA_DATA) TRY(value_from_json(e, var, &v));
    return scope_set(e, &e->globals, var->name, v);
}

static Status render(Eval *e, const JinjaVar *vars, int n) {
    for (int i = 0; i < n; i++) TRY(set_variable(e, &vars[i]));
    e->scope = scope_new(e, &e->globals);
    return exec_list(e, e->j->body);
}

Status jinja_render(const Jinja *j, const JinjaVar *vars, int n, int64_t now, JinjaOutput *out) {
    Build text = {0};
    Eval e = {.j = j, .out = &text, .now = now, .result = out};
    text_clear(&out->text);
    text_clear(&out->data);
    out->n_marks = 0;
    Status s = render(&e, vars, n);
    if (s == OK) {
        text_add_bytes(&out->text, text.n ? text.s : "", text.n);
        text_add_bytes(&out->data, text.n ? (const char *)text.data : "", text.n);
    }
    arena_release(&e.arena);
    return s;
}

Status jinja_output_mark(JinjaOutput *out, JinjaSpan span) {
    if (out->n_marks == out->cap_marks) {
        int cap = out->cap_marks ? 2 * out->cap_marks : 16;
        JinjaSpan *v = realloc(out->marks, (size_t)cap * sizeof(*v));
        if (!v) return status_fail(E_MEMORY, "memory ran out for %d answers", cap);
        out->marks = v;
        out->cap_marks = cap;
    }
    out->marks[out->n_marks++] = span;
    return OK;
}

void jinja_output_release(JinjaOutput *out) {
    text_release(&out->text);
    text_release(&out->data);
    free(out->marks);
    *out = (JinjaOutput){0};
}
