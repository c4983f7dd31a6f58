/* json_write.c - JSON text from values. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/json_check.h"

static void put_escaped(Text *t, uint8_t c) {
    switch (c) {
    case '"': text_add(t, "\\\""); break;
    case '\\': text_add(t, "\\\\"); break;
    case '\n': text_add(t, "\\n"); break;
    case '\r': text_add(t, "\\r"); break;
    case '\t': text_add(t, "\\t"); break;
    default: text_addf(t, "\\u%04x", c);
    }
}

void json_put_string_n(Text *t, const char *s, size_t n) {
    const char *end = s + n, *run = s; /* bytes from `run` on can be taken as they are */
    text_add_bytes(t, "\"", 1);
    while (s < end) {
        uint8_t c = (uint8_t)*s;
        size_t k = c < 0x80 ? 1 : utf8_length(s, end);
        if (c >= 0x20 && c != '"' && c != '\\' && k) {
            s += k;
            continue;
        }
        text_add_bytes(t, run, (size_t)(s - run));
        if (k == 0 || c == 0)
            text_add(t, "\xEF\xBF\xBD");
        else
            put_escaped(t, c);
        run = ++s;
    }
    text_add_bytes(t, run, (size_t)(end - run));
    text_add_bytes(t, "\"", 1);
}

void json_put_string(Text *t, const char *s) {
    json_put_string_n(t, s, strlen(s));
}

void json_put_number(Text *t, double v) {
    char s[40];
    if (!isfinite(v)) {
        text_add(t, "null");
    } else if (v == floor(v) && fabs(v) < 1e15) {
        text_addf(t, "%.0f", v);
    } else {
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(s, sizeof s, "%.*g", digits, v);
            if (strtod(s, NULL) == v) break;
        }
        text_add(t, s);
    }
}

void json_put_float(Text *t, float v) {
    char s[32];
    if (!isfinite(v)) {
        text_add(t, "null");
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, (double)v);
        if (strtof(s, NULL) == v) break;
    }
    text_add(t, s);
}

void json_put_ints(Text *t, const int *v, int n) {
    text_add(t, "[");
    for (int i = 0; i < n; i++) text_addf(t, i ? ",%d" : "%d", v[i]);
    text_add(t, "]");
}

void json_put_floats(Text *t, const float *v, int n) {
    text_add(t, "[");
    for (int i = 0; i < n; i++) {
        if (i) text_add(t, ",");
        json_put_float(t, v[i]);
    }
    text_add(t, "]");
}

static void put_children(Text *t, const Json *n, int object) {
    text_add(t, object ? "{" : "[");
    for (const Json *c = n->child; c; c = c->next) {
        if (object) {
            json_put_string(t, c->string);
            text_add(t, ":");
        }
        json_put_node(t, c);
        if (c->next) text_add(t, ",");
    }
    text_add(t, object ? "}" : "]");
}

void json_put_node(Text *t, const Json *n) {
    switch (json_type(n)) {
    case JSON_NULL: text_add(t, "null"); break;
    case JSON_BOOL: text_add(t, json_bool(n) ? "true" : "false"); break;
    case JSON_NUMBER: json_put_number(t, n->valuedouble); break;
    case JSON_STRING: json_put_string(t, n->valuestring); break;
    case JSON_ARRAY: put_children(t, n, 0); break;
    case JSON_OBJECT: put_children(t, n, 1); break;
    }
}

void json_put_key(Text *t, const char *key) {
    char last = t->len ? t->s[t->len - 1] : '{';
    if (last != '{' && last != '[') text_add(t, ",");
    json_put_string(t, key);
    text_add(t, ":");
}
