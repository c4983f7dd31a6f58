/* byte_alphabet.c - GPT-2's byte alphabet: every byte as one printable character, so that a
 * vocabulary can be written as text. Printable Latin-1 stands for itself, the other 68 bytes for
 * U+0100 and up. */
#include <string.h>
#include <utf8proc.h>
#include "datasets/tokenizer_parts.h"

static int is_printable(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

static int code_of(int byte) {
    if (is_printable(byte)) return byte;
    if (byte <= ' ') return 0x100 + byte;
    if (byte <= 0xa0) return 0x100 + 33 + byte - 0x7f;
    return 0x100 + 67;
}

static int byte_of(int32_t code) {
    if (code < 0x100) return is_printable((int)code) ? (int)code : -1;
    if (code <= 0x120) return (int)code - 0x100;
    if (code <= 0x142) return (int)code - 0x121 + 0x7f;
    return code == 0x143 ? 0xad : -1;
}

void alphabet_encode(Text *out, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int code = code_of((uint8_t)bytes[i]);
        char c[2] = {(char)code, 0};
        if (code < 0x80) {
            text_add_bytes(out, c, 1);
            continue;
        }
        c[0] = (char)(0xc0 | code >> 6);
        c[1] = (char)(0x80 | (code & 0x3f));
        text_add_bytes(out, c, 2);
    }
}

int alphabet_decode(Text *out, const char *token, size_t n) {
    size_t start = out->len;
    for (size_t i = 0; i < n;) {
        int32_t code;
        int used = utf8_char(token + i, n - i, &code);
        int byte = byte_of(code);
        if (byte < 0) {
            out->len = start;
            if (out->s) out->s[start] = 0;
            return 0;
        }
        char c = (char)byte;
        text_add_bytes(out, &c, 1);
        i += (size_t)used;
    }
    return 1;
}

size_t utf8_prefix(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        if ((uint8_t)s[i] < 0x80) {
            i++;
            continue;
        }
        utf8proc_int32_t code;
        size_t left = n - i > 4 ? 4 : n - i;
        utf8proc_ssize_t used =
            utf8proc_iterate((const uint8_t *)s + i, (utf8proc_ssize_t)left, &code);
        if (used <= 0) break;
        i += (size_t)used;
    }
    return i;
}

int utf8_char(const char *s, size_t n, int32_t *code) {
    size_t left = n > 4 ? 4 : n;
    utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)s, (utf8proc_ssize_t)left, code);
    if (used > 0) return (int)used;
    *code = -1;
    return 1;
}

static int utf8_is_space(int32_t c) { /* Unicode White_Space */
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* \w of Rust's regexes, which decides where words end: letters, marks, digits, connectors, joiners
 * and the symbols that Unicode calls alphabetic. */
int utf8_is_word(int32_t c) {
    if (c < 0) return 0;
    if (c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9)) return 1;
    if ((c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169)) return 1;
    if (c >= 0x1f170 && c <= 0x1f189) return 1;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return 1;
    default: return 0;
    }
}

size_t utf8_before(const char *s, size_t at) {
    size_t from = at - 1;
    while (from > 0 && at - from < 4 && ((uint8_t)s[from] & 0xc0) == 0x80) from--;
    return from;
}

size_t utf8_skip_space(const char *s, size_t n, size_t at) {
    while (at < n) {
        int32_t code;
        int used = utf8_char(s + at, n - at, &code);
        if (!utf8_is_space(code)) break;
        at += (size_t)used;
    }
    return at;
}

size_t utf8_skip_space_left(const char *s, size_t at, size_t floor) {
    while (at > floor) {
        int32_t code;
        size_t from = utf8_before(s, at);
        utf8_char(s + from, at - from, &code);
        if (from < floor || !utf8_is_space(code)) break;
        at = from;
    }
    return at;
}

const char *find_short(const char *s, size_t n, const char *what, size_t width) {
    for (const char *end = s + n; (size_t)(end - s) >= width; s++) {
        s = memchr(s, what[0], (size_t)(end - s) - width + 1);
        if (!s || !memcmp(s, what, width)) return s;
    }
    return NULL;
}
