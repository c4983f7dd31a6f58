/* jinja_lexer.c - a template as tokens, white space control done: trim_blocks and lstrip_blocks are
 * on, as in transformers, and the template's last newline does not count. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "datasets/jinja_parts.h"

typedef struct {
    Arena *arena;
    const char *name;
    const char *s; /* newlines are \n */
    size_t n, at;
    size_t placed, line_start; /* what line and column are counted up to */
    int line;
    Tokens *out;
    int cap;
    char open[JINJA_DEPTH_MAX]; /* brackets that have not been closed */
    int n_open;
} Lexer;

Status place_fail(const char *name, int line, int col, const char *fmt, ...) {
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return status_fail(E_FORMAT, "%s:%d:%d: %s", name, line, col, text);
}

static void place(Lexer *x, size_t at, int *line, int *col) {
    for (; x->placed < at; x->placed++)
        if (x->s[x->placed] == '\n') {
            x->line++;
            x->line_start = x->placed + 1;
        }
    *line = x->line;
    *col = (int)(at - x->line_start) + 1;
}

static Status lex_fail(Lexer *x, size_t at, const char *what) {
    int line, col;
    place(x, at, &line, &col);
    return place_fail(x->name, line, col, "%s", what);
}

static Token *add(Lexer *x, TokenType type, size_t at) {
    Tokens *t = x->out;
    if (t->n == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 256;
        Token *v = arena_alloc(x->arena, (size_t)x->cap * sizeof(*v));
        if (t->n) memcpy(v, t->v, (size_t)t->n * sizeof(*v));
        t->v = v;
    }
    Token *new = &t->v[t->n++];
    new->type = type;
    new->text = str_of("");
    place(x, at, &new->line, &new->col);
    return new;
}

static void add_text(Lexer *x, TokenType type, size_t at, size_t n) {
    char *s = arena_strndup(x->arena, x->s + at, n);
    add(x, type, at)->text = (Str){s, NULL, n};
}

static int looking_at(const Lexer *x, size_t at, const char *text) {
    size_t n = strlen(text);
    return x->n - at >= n && !memcmp(x->s + at, text, n);
}

static size_t skip_space(const Lexer *x, size_t at) {
    int32_t code;
    while (at < x->n) {
        size_t n = char_at(x->s + at, x->n - at, &code);
        if (!is_space_char(code)) break;
        at += n;
    }
    return at;
}

/* ---- text between tags ---- */

/* Text in front of a tag with this sign behind its opening. */
static void add_data(Lexer *x, size_t from, size_t to, char sign, int is_output) {
    size_t end = to;
    if (sign == '-') {
        end = from + str_strip((Str){x->s + from, NULL, to - from}, NULL, STRIP_RIGHT).n;
    } else if (sign != '+' && !is_output) {
        size_t line = to;
        while (line > from && x->s[line - 1] != '\n') line--;
        int starts = line > from || line == 0 || x->s[line - 1] == '\n';
        if (starts && skip_space(x, line) >= to) end = line;
    }
    if (end > from) add_text(x, T_DATA, from, end - from);
}

static char sign_at(const Lexer *x, size_t at) {
    return at < x->n && (x->s[at] == '-' || x->s[at] == '+') ? x->s[at] : 0;
}

/* Behind the end of a tag (at: behind its last character) that had this sign before it. */
static size_t after_tag(const Lexer *x, size_t at, char sign, int trims) {
    if (sign == '-') return skip_space(x, at);
    return trims && !sign && at < x->n && x->s[at] == '\n' ? at + 1 : at;
}

static Status skip_comment(Lexer *x, size_t at) {
    size_t from = at + 2 + (sign_at(x, at + 2) != 0), p = from;
    while (p < x->n && !looking_at(x, p, "#}")) p++;
    if (p >= x->n) return lex_fail(x, at, "this comment does not end");
    char sign = p > from ? sign_at(x, p - 1) : 0;
    x->at = after_tag(x, p + 2, sign, 1);
    return OK;
}

/* {% raw %} or {% endraw %} at `at`: the position behind it, 0 when it is another tag. */
static size_t raw_tag(const Lexer *x, size_t at, const char *name) {
    size_t p = skip_space(x, at + 2 + (sign_at(x, at + 2) != 0));
    if (!looking_at(x, p, name)) return 0;
    p = skip_space(x, p + strlen(name));
    char sign = sign_at(x, p);
    if (!looking_at(x, p + (sign != 0), "%}")) return 0;
    return after_tag(x, p + (sign != 0) + 2, sign, !strcmp(name, "endraw"));
}

static Status take_raw(Lexer *x, size_t begin, size_t from) {
    for (size_t p = from; p < x->n; p++) {
        size_t after = looking_at(x, p, "{%") ? raw_tag(x, p, "endraw") : 0;
        if (!after) continue;
        add_data(x, from, p, sign_at(x, p + 2), 0);
        x->at = after;
        return OK;
    }
    return lex_fail(x, begin, "this raw block does not end");
}

/* ---- inside tags ---- */

static int is_digit(char c) {
    return c >= '0' && c <= '9';
}
static int is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static size_t digits_end(const Lexer *x, size_t at) {
    while (at < x->n &&
           (is_digit(x->s[at]) || (x->s[at] == '_' && at + 1 < x->n && is_digit(x->s[at + 1]))))
        at++;
    return at;
}

static Status take_number(Lexer *x) {
    size_t from = x->at, p = digits_end(x, from);
    int is_float = 0, after_dot = from > 0 && x->s[from - 1] == '.';
    if (!after_dot && p + 1 < x->n && x->s[p] == '.' && is_digit(x->s[p + 1])) {
        is_float = 1;
        p = digits_end(x, p + 1);
    }
    if (!after_dot && p < x->n && (x->s[p] == 'e' || x->s[p] == 'E')) {
        size_t q = p + 1 + (p + 1 < x->n && strchr("+-", x->s[p + 1]) != NULL);
        if (q < x->n && is_digit(x->s[q])) {
            is_float = 1;
            p = digits_end(x, q);
        }
    }
    char text[64];
    size_t n = 0;
    for (size_t i = from; i < p && n + 1 < sizeof(text); i++)
        if (x->s[i] != '_') text[n++] = x->s[i];
    text[n] = 0;
    if (n + 1 >= sizeof(text) || (p < x->n && is_name_char(x->s[p])) ||
        (!is_float && text[0] == '0' && strspn(text, "0") != n))
        return lex_fail(x, from, "a number that cannot be read (decimal ones can)");
    Token *t = add(x, is_float ? T_FLOAT : T_INT, from);
    t->text = (Str){arena_strdup(x->arena, text), NULL, n};
    errno = 0;
    t->f = strtod(text, NULL);
    if (!is_float) t->i = strtoll(text, NULL, 10);
    if (errno == ERANGE) return lex_fail(x, from, "a number that is too large");
    x->at = p;
    return OK;
}

static size_t put_utf8(char *out, uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

static int hex_value(const char *s, size_t n, uint32_t *v) {
    *v = 0;
    for (size_t i = 0; i < n; i++) {
        const char *digits = "0123456789abcdef", *d;
        char c = s[i] >= 'A' && s[i] <= 'F' ? (char)(s[i] + 32) : s[i];
        if (!c || !(d = strchr(digits, c))) return 0;
        *v = *v * 16 + (uint32_t)(d - digits);
    }
    return 1;
}

/* The escape whose letter stands at `at`; moves *at behind it. Unknown ones keep their backslash.
 */
static Status take_escape(Lexer *x, size_t *at, size_t end, char *out, size_t *n) {
    static const char letters[] = "abfnrtv\\'\"", codes[] = "\a\b\f\n\r\t\v\\'\"";
    char c = x->s[*at];
    const char *known = c ? strchr(letters, c) : NULL;
    uint32_t code = 0;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (known) {
        out[(*n)++] = codes[known - letters];
        ++*at;
    } else if (c == '\n') {
        ++*at;
    } else if (digits) {
        if (end - *at - 1 < digits || !hex_value(x->s + *at + 1, digits, &code) ||
            code > 0x10ffff || (code >= 0xd800 && code < 0xe000) || code == 0)
            return lex_fail(x, *at - 1, "an escape that stands for no character");
        *n += put_utf8(out + *n, code);
        *at += 1 + digits;
    } else if (c == 'N' || (c >= '0' && c <= '7')) {
        return lex_fail(x, *at - 1, "escapes by name and in octal are not supported");
    } else {
        out[(*n)++] = '\\';
    }
    return OK;
}

static Status take_string(Lexer *x) {
    size_t from = x->at, end = from + 1, n = 0;
    char quote = x->s[from];
    while (end < x->n && x->s[end] != quote) end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->n) return lex_fail(x, from, "this string does not end");
    char *out = arena_alloc(x->arena, end - from + 1);
    for (size_t i = from + 1; i < end;) {
        if (x->s[i] != '\\') {
            out[n++] = x->s[i++];
            continue;
        }
        i++;
        TRY(take_escape(x, &i, end, out, &n));
    }
    add(x, T_STRING, from)->text = (Str){out, NULL, n};
    x->at = end + 1;
    return OK;
}

static Status balance(Lexer *x, char c) {
    const char *close = c == '(' ? ")" : c == '[' ? "]" : c == '{' ? "}" : NULL;
    if (close) {
        if (x->n_open == JINJA_DEPTH_MAX)
            return lex_fail(x, x->at, "brackets are nested too deeply");
        x->open[x->n_open++] = *close;
    } else if (strchr(")]}", c)) {
        if (!x->n_open || x->open[--x->n_open] != c)
            return lex_fail(x, x->at, "a bracket that closes none");
    }
    return OK;
}

static Status take_operator(Lexer *x) {
    static const char *const known[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                        "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                        ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        if (!looking_at(x, x->at, known[i])) continue;
        TRY(balance(x, known[i][1] ? ' ' : known[i][0]));
        add(x, T_OP, x->at)->text = str_of(known[i]);
        x->at += strlen(known[i]);
        return OK;
    }
    return lex_fail(x, x->at, "a character that means nothing here");
}

static int take_end(Lexer *x, int is_output) {
    char sign = sign_at(x, x->at);
    size_t p = x->at + (sign != 0);
    if (x->n_open || (is_output && sign == '+') || !looking_at(x, p, is_output ? "}}" : "%}"))
        return 0;
    add(x, is_output ? T_OUTPUT_END : T_BLOCK_END, x->at);
    x->at = after_tag(x, p + 2, sign, !is_output);
    return 1;
}

static Status take_inside(Lexer *x, size_t begin, int is_output) {
    x->n_open = 0;
    for (;;) {
        x->at = skip_space(x, x->at);
        if (x->at >= x->n) return lex_fail(x, begin, "this tag does not end");
        if (take_end(x, is_output)) return OK;
        char c = x->s[x->at];
        if (is_digit(c)) {
            TRY(take_number(x));
        } else if (is_name_char(c)) {
            size_t end = x->at;
            while (end < x->n && is_name_char(x->s[end])) end++;
            add_text(x, T_NAME, x->at, end - x->at);
            x->at = end;
        } else if (c == '"' || c == '\'') {
            TRY(take_string(x));
        } else {
            TRY(take_operator(x));
        }
    }
}

/* ---- the whole ---- */

static Status take_tag(Lexer *x, size_t from, size_t at) {
    char kind = x->s[at + 1], sign = sign_at(x, at + 2);
    int is_output = kind == '{';
    add_data(x, from, at, sign, is_output);
    size_t raw = kind == '%' ? raw_tag(x, at, "raw") : 0;
    if (raw) return take_raw(x, at, raw);
    if (kind == '#') return skip_comment(x, at);
    add(x, is_output ? T_OUTPUT_BEGIN : T_BLOCK_BEGIN, at);
    x->at = at + 2 + (sign != 0);
    return take_inside(x, at, is_output);
}

static Status take_all(Lexer *x) {
    while (x->at < x->n) {
        size_t from = x->at, p = from;
        while (p + 1 < x->n && !(x->s[p] == '{' && strchr("{%#", x->s[p + 1]))) p++;
        if (p + 1 >= x->n) {
            add_text(x, T_DATA, from, x->n - from);
            break;
        }
        TRY(take_tag(x, from, p));
    }
    add(x, T_EOF, x->n);
    return OK;
}

/* Newlines become \n, the last one goes. */
static char *plain_newlines(Arena *a, const char *text, size_t len, size_t *n) {
    char *s = arena_alloc(a, len + 1);
    *n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r' && i + 1 < len && text[i + 1] == '\n') continue;
        s[(*n)++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (*n && s[*n - 1] == '\n') s[--*n] = 0;
    return s;
}

Status jinja_lex(Tokens *out, Arena *a, const char *name, const char *text, size_t len) {
    Lexer x = {.arena = a, .name = name, .line = 1, .out = out};
    *out = (Tokens){0};
    if (len > JINJA_TEMPLATE_MAX)
        return status_fail(E_FORMAT, "%s: a template of %zu bytes is too long (%d is the limit)",
                           name, len, JINJA_TEMPLATE_MAX);
    if (memchr(text, 0, len) || !utf8_valid(text, len))
        return status_fail(E_FORMAT, "%s: a template must be UTF-8 text", name);
    x.s = plain_newlines(a, text, len, &x.n);
    return take_all(&x);
}
