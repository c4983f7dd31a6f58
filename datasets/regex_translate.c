/* regex_translate.c - a tokenizer's splitting regex, written for Oniguruma, as PCRE2 reads it.
 *
 * Where the two disagree the pattern is rewritten (\s, \w) or refused: a pattern that compiles but
 * means something else would split text silently wrong. */
#include <string.h>
#include "datasets/regex.h"

/* PCRE2's \s under UCP also takes U+180E, which is not White_Space */
#define SPACE                                                                                      \
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
/* PCRE2's \w under UCP lacks marks and all connectors but "_" */
#define WORD "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}"

static Status refuse(const char *pattern, const char *what) {
    return status_fail(E_FORMAT, "the splitting regex %.200s uses %s, which is not supported",
                       pattern, what);
}

static Status escape(Text *out, const char *pattern, char c, int in_class) {
    char as_is[3] = {'\\', c, 0};
    switch (c) {
    case 's': text_add(out, in_class ? SPACE : "[" SPACE "]"); return OK;
    case 'w': text_add(out, in_class ? WORD : "[" WORD "]"); return OK;
    case 'S':
        if (in_class) return refuse(pattern, "\\S inside a class");
        text_add(out, "[^" SPACE "]");
        return OK;
    case 'W':
        if (in_class) return refuse(pattern, "\\W inside a class");
        text_add(out, "[^" WORD "]");
        return OK;
    case 'b':
    case 'B': return refuse(pattern, "a word boundary (\\b)");
    case 'h':
    case 'H': return refuse(pattern, "\\h");
    case 'G':
    case 'K':
    case 'g':
    case 'k':
    case 'C':
    case 'Q':
    case 'E':
    case 'y':
    case 'Y':
    case 'M': as_is[2] = 0; return refuse(pattern, as_is);
    default: text_add(out, as_is); return OK;
    }
}

Status regex_translate(Text *out, const char *pattern) {
    int in_class = 0, class_start = 0;
    for (const char *p = pattern; *p; p++) {
        if (*p == '\\') {
            if (!p[1]) return refuse(pattern, "a lone backslash at its end");
            p++;
            TRY(escape(out, pattern, *p, in_class));
            class_start = 0;
            if (strchr("pPx", *p) && p[1] == '{') { /* its braces are no quantifier */
                const char *end = strchr(p, '}');
                if (!end) return refuse(pattern, "an open brace");
                text_add_bytes(out, p + 1, (size_t)(end - p));
                p = end;
            }
            continue;
        }
        if (in_class) {
            if (p[0] == '&' && p[1] == '&') return refuse(pattern, "&& inside a class");
            if (p[0] == '[') return refuse(pattern, "a class inside a class");
            if (p[0] == ']' && !class_start) in_class = 0;
            if (p[0] != '^') class_start = 0;
        } else if (*p == '[') {
            in_class = class_start = 1;
        } else if (p[0] == '}' && p[1] == '+') {
            return refuse(pattern, "a possessive {n,m}+");
        }
        text_add_bytes(out, p, 1);
    }
    return OK;
}
