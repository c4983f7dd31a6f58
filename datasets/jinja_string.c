/* jinja_string.c - strings as Python has them, each byte with its origin. */
#include <utf8proc.h>
#include "datasets/jinja_parts.h"

/* ---- building ---- */

static Status reserve(Eval *e, Build *b, size_t more) {
    if (b->cap - b->n >= more && b->s) return OK;
    size_t cap = b->s ? 2 * (b->n + more) : more > 64 ? more : 64;
    TRY(spend_memory(e, 2 * cap));
    char *s = arena_alloc(&e->arena, cap);
    uint8_t *data = arena_alloc(&e->arena, cap);
    if (b->n) memcpy(s, b->s, b->n);
    if (b->n) memcpy(data, b->data, b->n);
    *b = (Build){s, data, b->n, cap};
    return OK;
}

Status build_bytes(Eval *e, Build *b, const char *s, size_t n, int data) {
    TRY(reserve(e, b, n));
    if (n) memcpy(b->s + b->n, s, n);
    if (n) memset(b->data + b->n, data, n);
    b->n += n;
    return OK;
}

Status build_str(Eval *e, Build *b, Str s) {
    TRY(build_bytes(e, b, s.s, s.n, 0));
    if (s.n && s.data) memcpy(b->data + b->n - s.n, s.data, s.n);
    return OK;
}

Str build_done(const Build *b) {
    int any = b->n && memchr(b->data, 1, b->n) != NULL;
    return (Str){b->s ? b->s : "", any ? b->data : NULL, b->n};
}

/* The string made last grows in place where it is added to: a long chain of + is linear. */
Status str_concat(Eval *e, Str a, Str b, Str *out) {
    Build *t = &e->tail;
    TRY(spend_work(e, a.n && a.s == t->s && a.n == t->n ? b.n : a.n + b.n));
    if (!a.n || a.s != t->s || a.n != t->n) {
        *t = (Build){0};
        TRY(reserve(e, t, a.n + b.n));
        TRY(build_str(e, t, a));
    }
    TRY(build_str(e, t, b));
    *out = (Str){t->s, a.data || b.data ? t->data : NULL, t->n};
    return OK;
}

/* ---- characters ---- */

size_t char_at(const char *s, size_t n, int32_t *code) {
    utf8proc_int32_t c;
    utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)s, (utf8proc_ssize_t)n, &c);
    *code = used > 0 ? c : -1;
    return used > 0 ? (size_t)used : 1;
}

int is_space_char(int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

size_t str_chars(Str s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((uint8_t)s.s[i] & 0xc0) != 0x80;
    return n;
}

size_t str_offset(Str s, size_t chars) {
    size_t i = 0;
    for (; i < s.n; i++)
        if (((uint8_t)s.s[i] & 0xc0) != 0x80 && chars-- == 0) break;
    return i;
}

static int stripped(Str s, size_t at, size_t n, int32_t code, const Str *chars) {
    if (!chars) return is_space_char(code);
    return chars->n >= n && memmem(chars->s, chars->n, s.s + at, n) != NULL;
}

Str str_strip(Str s, const Str *chars, int sides) {
    size_t from = 0, to = s.n, n;
    int32_t code;
    while ((sides & STRIP_LEFT) && from < to) {
        n = char_at(s.s + from, to - from, &code);
        if (!stripped(s, from, n, code, chars)) break;
        from += n;
    }
    while ((sides & STRIP_RIGHT) && to > from) {
        size_t at = to - 1;
        while (at > from && ((uint8_t)s.s[at] & 0xc0) == 0x80) at--;
        n = char_at(s.s + at, to - at, &code);
        if (!stripped(s, at, to - at, code, chars)) break;
        to = at;
    }
    return str_part(s, from, to);
}

const char *str_find(Str s, Str what) {
    if (!what.n) return s.s;
    return s.n >= what.n ? memmem(s.s, s.n, what.s, what.n) : NULL;
}

/* ---- letter case ---- */

static int is_cased(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

/* Does the title filter of Jinja begin a word behind this character? */
static int splits_words(int32_t c) {
    return is_space_char(c) || (c > 0 && c < 128 && strchr("-({[<", c));
}

static int32_t with_case(int32_t c, Case to, int first) {
    switch (to) {
    case CASE_LOWER: return utf8proc_tolower(c);
    case CASE_UPPER: return utf8proc_toupper(c);
    case CASE_TITLE_FILTER: return first ? utf8proc_toupper(c) : utf8proc_tolower(c);
    default: return first ? utf8proc_totitle(c) : utf8proc_tolower(c);
    }
}

Status str_case(Eval *e, Str s, Case to, Str *out) {
    Build b = {0};
    int first = 1;
    TRY(spend_work(e, s.n));
    TRY(reserve(e, &b, s.n));
    for (size_t i = 0, n; i < s.n; i += n) {
        uint8_t text[4];
        int32_t c;
        int data = s.data && s.data[i];
        n = char_at(s.s + i, s.n - i, &c);
        int32_t new = with_case(c, to, first);
        int raises = to == CASE_UPPER || (first && to != CASE_LOWER);
        if (c == 0xdf && raises) /* the one letter in use whose capital is two */
            TRY(build_bytes(e, &b, to == CASE_UPPER || to == CASE_TITLE_FILTER ? "SS" : "Ss", 2,
                            data));
        else
            TRY(build_bytes(e, &b, (char *)text, (size_t)utf8proc_encode_char(new, text), data));
        first = to == CASE_TITLE ? !is_cased(c) : to == CASE_TITLE_FILTER ? splits_words(c) : 0;
    }
    *out = build_done(&b);
    return OK;
}

/* ---- pieces ---- */

static Status replace_nothing(Eval *e, Str s, Str with, int64_t count, Build *b) {
    size_t i = 0;
    int32_t code;
    while (count != 0) {
        TRY(build_str(e, b, with));
        TRY(spend_work(e, 0));
        count--;
        if (i >= s.n) return OK;
        size_t n = char_at(s.s + i, s.n - i, &code);
        TRY(build_str(e, b, str_part(s, i, i + n)));
        i += n;
    }
    return build_str(e, b, str_part(s, i, s.n));
}

Status str_replace(Eval *e, Str s, Str old, Str with, int64_t count, Str *out) {
    Build b = {0};
    TRY(spend_work(e, s.n + old.n));
    if (!old.n) {
        TRY(replace_nothing(e, s, with, count, &b));
        *out = build_done(&b);
        return OK;
    }
    while (count-- != 0) {
        const char *hit = str_find(s, old);
        if (!hit) break;
        size_t at = (size_t)(hit - s.s);
        TRY(spend_work(e, 0));
        TRY(build_str(e, &b, str_part(s, 0, at)));
        TRY(build_str(e, &b, with));
        s = str_part(s, at + old.n, s.n);
    }
    TRY(build_str(e, &b, s));
    *out = build_done(&b);
    return OK;
}

static Status add_part(Eval *e, Value list, Str s, size_t from, size_t to) {
    return list_add(e, list, value_str(str_part(s, from, to)));
}

static Status split_space(Eval *e, Str s, int64_t most, Value list) {
    size_t at = 0;
    int32_t code;
    for (;;) {
        size_t n = s.n, from;
        while (at < s.n && (n = char_at(s.s + at, s.n - at, &code), is_space_char(code))) at += n;
        if (at >= s.n) return OK;
        if (most-- == 0)
            return list_add(e, list, value_str(str_strip(str_part(s, at, s.n), NULL, STRIP_RIGHT)));
        from = at;
        while (at < s.n && (n = char_at(s.s + at, s.n - at, &code), !is_space_char(code))) at += n;
        TRY(add_part(e, list, s, from, at));
    }
}

static Status split_by(Eval *e, Str s, Str by, int64_t most, Value list) {
    while (most-- != 0) {
        const char *hit = str_find(s, by);
        if (!hit) break;
        TRY(add_part(e, list, s, 0, (size_t)(hit - s.s)));
        s = str_part(s, (size_t)(hit - s.s) + by.n, s.n);
    }
    return list_add(e, list, value_str(s));
}

static void reverse(List *l) {
    for (size_t i = 0; i < l->n / 2; i++) {
        Value v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static Status rsplit_by(Eval *e, Str s, Str by, int64_t most, Value list) {
    size_t end = s.n, at = s.n;
    while (most != 0 && at >= by.n) {
        if (memcmp(s.s + at - by.n, by.s, by.n)) {
            at--;
            continue;
        }
        TRY(add_part(e, list, s, at, end));
        end = at = at - by.n;
        most--;
    }
    TRY(add_part(e, list, s, 0, end));
    reverse(list.list);
    return OK;
}

Status str_split(Eval *e, Str s, const Value *by, int64_t most, int from_right, Value *out) {
    int space = by->type == V_ABSENT || by->type == V_NONE;
    TRY(spend_work(e, s.n));
    TRY(list_new(e, V_LIST, 0, out));
    if (space && from_right && most >= 0)
        return eval_fail(e, "rsplit() with a limit needs a separator here");
    if (space) return split_space(e, s, most, *out);
    if (by->type != V_STRING)
        return eval_fail(e, "a separator must be a string, not a %s", value_kind(*by));
    if (!by->s.n) return eval_fail(e, "an empty separator");
    TRY(spend_work(e, from_right ? s.n * by->s.n / 8 : by->s.n));
    return from_right ? rsplit_by(e, s, by->s, most, *out) : split_by(e, s, by->s, most, *out);
}

static int is_line_end(int32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

Status str_lines(Eval *e, Str s, int keep_ends, Value *out) {
    size_t from = 0;
    int32_t code;
    TRY(spend_work(e, s.n));
    TRY(list_new(e, V_LIST, 0, out));
    for (size_t i = 0, n; i < s.n; i += n) {
        n = char_at(s.s + i, s.n - i, &code);
        if (!is_line_end(code)) continue;
        if (code == '\r' && i + 1 < s.n && s.s[i + 1] == '\n') n++;
        TRY(add_part(e, *out, s, from, keep_ends ? i + n : i));
        from = i + n;
    }
    return from < s.n ? add_part(e, *out, s, from, s.n) : OK;
}
