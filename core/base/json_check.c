/* json_check.c - a validator that says where and why. It builds nothing: one pass, bounded
 * recursion. */
#include "core/base/json_check.h"

#include <stdint.h>
#include <string.h>

#include "core/base/json.h"

enum {
    MAX_DEPTH = 128,
    MAX_NUMBER = 63, /* cJSON copies a number into 64 bytes and would cut a longer one */
};

typedef struct {
    const char *p, *end, *reason;
    int depth;
} Scan;

static int refuse(Scan *s, const char *at, const char *reason) {
    s->p = at;
    s->reason = reason;
    return 0;
}

const char *json_skip_space(const char *p) {
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r') p++;
    return p;
}

const char *json_skip_string(const char *p) {
    for (p++; *p != '"'; p++)
        if (*p == '\\') p++;
    return p + 1;
}

size_t utf8_length(const char *p, const char *end) {
    const uint8_t *u = (const uint8_t *)p;
    size_t left = (size_t)(end - p);
    if (u[0] < 0x80) return 1;
    size_t n = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
    if (u[0] < 0xC2 || u[0] > 0xF4 || left < n) return 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xC0) != 0x80) return 0;
    if (u[0] == 0xE0 && u[1] < 0xA0) return 0; /* overlong */
    if (u[0] == 0xED && u[1] > 0x9F) return 0; /* surrogate */
    if (u[0] == 0xF0 && u[1] < 0x90) return 0; /* overlong */
    if (u[0] == 0xF4 && u[1] > 0x8F) return 0; /* above U+10FFFF */
    return n;
}

int utf8_valid(const char *s, size_t n) {
    for (const char *p = s, *end = s + n; p < end;) {
        size_t k = utf8_length(p, end);
        if (!k) return 0;
        p += k;
    }
    return 1;
}

static int hex4(const char *p, const char *end) {
    if (end - p < 4) return -1;
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i], low = (char)(c | 0x20);
        if (c >= '0' && c <= '9')
            v = 16 * v + (c - '0');
        else if (low >= 'a' && low <= 'f')
            v = 16 * v + (low - 'a' + 10);
        else
            return -1;
    }
    return v;
}

/* At the backslash of \uXXXX; a surrogate must come with its other half. */
static int check_unicode(Scan *s) {
    const char *at = s->p;
    int v = hex4(at + 2, s->end);
    if (v < 0) return refuse(s, at, "\\u needs four hexadecimal digits");
    if (v == 0) return refuse(s, at, "\\u0000 is not accepted: text may not contain NUL");
    s->p += 6;
    if (v < 0xD800 || v > 0xDFFF) return 1;
    int low = -1;
    if (v < 0xDC00 && s->end - s->p >= 6 && s->p[0] == '\\' && s->p[1] == 'u')
        low = hex4(s->p + 2, s->end);
    if (low < 0xDC00 || low > 0xDFFF)
        return refuse(s, at, "a surrogate (\\uD800 to \\uDFFF) stands without its other half");
    s->p += 6;
    return 1;
}

static int check_escape(Scan *s) {
    if (s->end - s->p < 2) return refuse(s, s->p, "the string has no end");
    if (s->p[1] == 'u') return check_unicode(s);
    if (!s->p[1] || !strchr("\"\\/bfnrt", s->p[1]))
        return refuse(s, s->p, "unknown escape sequence");
    s->p += 2;
    return 1;
}

static int check_string(Scan *s) {
    const char *start = s->p++;
    while (s->p < s->end) {
        uint8_t c = (uint8_t)*s->p;
        if (c == '"') {
            s->p++;
            return 1;
        }
        if (c == '\\') {
            if (!check_escape(s)) return 0;
        } else if (c < 0x20) {
            return refuse(s, s->p,
                          c == '\n' ? "the string has no end on its line"
                                    : "a control character inside a string must be escaped");
        } else if (c < 0x80) {
            s->p++;
        } else {
            size_t n = utf8_length(s->p, s->end);
            if (!n) return refuse(s, s->p, "invalid UTF-8");
            s->p += n;
        }
    }
    return refuse(s, start, "the string has no end");
}

static int digits(Scan *s) {
    const char *start = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9') s->p++;
    return s->p > start;
}

static int check_number(Scan *s) {
    const char *start = s->p;
    if (*s->p == '-') s->p++;
    const char *whole = s->p;
    if (!digits(s)) return refuse(s, start, "a number needs a digit after its minus sign");
    if (*whole == '0' && s->p - whole > 1)
        return refuse(s, start, "a number may not begin with 0 followed by digits");
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        if (!digits(s)) return refuse(s, start, "a number needs a digit after its point");
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-')) s->p++;
        if (!digits(s)) return refuse(s, start, "a number needs a digit in its exponent");
    }
    if (s->p - start > MAX_NUMBER) return refuse(s, start, "a number has more than 63 characters");
    return 1;
}

static void space(Scan *s) {
    s->p = json_skip_space(s->p);
}
static int at(const Scan *s, char c) {
    return s->p < s->end && *s->p == c;
}

static int word(Scan *s, const char *w) {
    size_t n = strlen(w);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, w, n) != 0) return 0;
    s->p += n;
    return 1;
}

static int check_value(Scan *s);

static int check_member(Scan *s, char close) {
    if (close == ']') return check_value(s);
    space(s);
    if (!at(s, '"')) return refuse(s, s->p, "expected a key in double quotes");
    if (!check_string(s)) return 0;
    space(s);
    if (!at(s, ':')) return refuse(s, s->p, "expected ':' after the key");
    s->p++;
    return check_value(s);
}

static int check_container(Scan *s, char close) {
    const char *start = s->p++;
    if (++s->depth > MAX_DEPTH) return refuse(s, start, "nested more than 128 deep");
    space(s);
    if (!at(s, close)) {
        for (;;) {
            if (!check_member(s, close)) return 0;
            space(s);
            if (at(s, close)) break;
            if (s->p >= s->end)
                return refuse(s, start,
                              close == ']' ? "the array has no end" : "the object has no end");
            if (*s->p != ',')
                return refuse(s, s->p,
                              close == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
            const char *comma = s->p++;
            space(s);
            if (at(s, close)) return refuse(s, comma, "a comma stands before the closing bracket");
        }
    }
    s->p++;
    s->depth--;
    return 1;
}

static int check_value(Scan *s) {
    space(s);
    if (s->p >= s->end) return refuse(s, s->p, "the text ends where a value is expected");
    char c = *s->p;
    if (c == '{') return check_container(s, '}');
    if (c == '[') return check_container(s, ']');
    if (c == '"') return check_string(s);
    if (c == '-' && s->end - s->p > 1 && s->p[1] == 'I') c = 'I';
    if (c == '-' || (c >= '0' && c <= '9')) return check_number(s);
    if (c == 'I' || !strncmp(s->p, "NaN", 3))
        return refuse(s, s->p, "NaN and Infinity are not JSON");
    if (word(s, "true") || word(s, "false") || word(s, "null")) return 1;
    return refuse(s, s->p, "unexpected character where a value is expected");
}

const char *json_check(const char *text, size_t len, size_t *offset) {
    Scan s = {text, text + len, NULL, 0};
    if (check_value(&s)) {
        space(&s);
        if (s.p >= s.end) return NULL;
        refuse(&s, s.p, "something follows after the end of the value");
    }
    *offset = (size_t)(s.p - text);
    return s.reason;
}

static char *blank(char *from, char *to) {
    for (; from < to; from++)
        if (*from != '\n' && *from != '\r' && *from != '\t') *from = ' ';
    return to;
}

const char *json_blank_comments(char *text, size_t len, size_t *offset) {
    for (char *p = text, *end = text + len; p < end; p++) {
        if (*p == '"') { /* an unfinished string is for json_check to refuse */
            for (p++; p < end && *p != '"' && *p != '\n'; p++)
                if (*p == '\\') p++;
        } else if (*p == '/' && p[1] == '/') {
            char *stop = memchr(p, '\n', (size_t)(end - p));
            p = blank(p, stop ? stop : end) - 1;
        } else if (*p == '/' && p[1] == '*') {
            char *stop = memmem(p + 2, (size_t)(end - p - 2), "*/", 2);
            *offset = (size_t)(p - text);
            if (!stop) return "the comment has no end";
            p = blank(p, stop + 2) - 1;
        }
    }
    return NULL;
}
