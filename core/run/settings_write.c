/* settings_write.c - what the tables say: resolved values, help, schema, nearest names. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/run/settings.h"

/* --- resolved values --- */

static void write_list(Text *out, const StringList *list) {
    text_add(out, "[");
    for (int i = 0; i < list->n; i++) {
        if (i) text_add(out, ", ");
        json_put_string(out, list->items[i]);
    }
    text_add(out, "]");
}

static void write_u64(Text *out, uint64_t v) {
    /* beyond 2^53 a JSON number loses digits */
    text_addf(out, v > 1ull << 53 ? "\"%llu\"" : "%llu", (unsigned long long)v);
}

static void write_value(Text *out, const Field *f, const void *v) {
    switch (f->type) {
    case FIELD_INT: text_addf(out, "%d", *(const int *)v); break;
    case FIELD_U64: write_u64(out, *(const uint64_t *)v); break;
    case FIELD_FLOAT: json_put_float(out, *(const float *)v); break;
    case FIELD_BOOL: text_add(out, *(const int *)v ? "true" : "false"); break;
    case FIELD_STRING: json_put_string(out, *(const char *const *)v); break;
    case FIELD_LIST: write_list(out, v); break;
    }
}

static void write_fields(Text *out, const Section *s, const char *indent, int *first) {
    for (int i = 0; i < s->n_fields; i++) {
        text_addf(out, "%s\n%s", *first ? "" : ",", indent);
        *first = 0;
        json_put_string(out, s->fields[i].key);
        text_add(out, ": ");
        write_value(out, &s->fields[i], (const char *)s->config + s->fields[i].offset);
    }
}

void settings_write(Text *out, const Section *sections, int n) {
    int first = 1;
    text_add(out, "{");
    for (int i = 0; i < n; i++) {
        const Section *s = &sections[i];
        if (!s->name[0]) {
            write_fields(out, s, "  ", &first);
            continue;
        }
        text_addf(out, "%s\n  ", first ? "" : ",");
        json_put_string(out, s->name);
        text_add(out, ": {");
        int inner = 1;
        write_fields(out, s, "    ", &inner);
        text_add(out, inner ? "}" : "\n  }");
        first = 0;
    }
    text_add(out, "\n}\n");
}

/* --- help --- */

static const char *value_name(const Field *f) {
    static const char *const names[] = {"INT", "INT", "NUMBER", "", "TEXT", "A,B,..."};
    return f->choices ? f->choices : names[f->type];
}

static void help_line(Text *out, const Section *s, const Field *f) {
    char flag[200];
    snprintf(flag, sizeof flag, "--%s%s%s %s", s->name, s->name[0] ? "." : "", f->key,
             value_name(f));
    text_addf(out, "  %-34s %s", flag, f->help ? f->help : "");
    int shown = f->def && f->def[0] && !(f->type == FIELD_BOOL && !strcmp(f->def, "false"));
    if (shown) text_addf(out, " (%s)", f->def);
    text_add(out, "\n");
}

void settings_help(Text *out, const Section *sections, int n) {
    for (int i = 0; i < n; i++) {
        if (i) text_add(out, "\n");
        for (int j = 0; j < sections[i].n_fields; j++)
            help_line(out, &sections[i], &sections[i].fields[j]);
    }
}

/* --- schema --- */

static void schema_choices(Text *out, const char *choices) {
    json_put_key(out, "enum");
    text_add(out, "[");
    for (const char *c = choices;; c++) {
        size_t k = strcspn(c, "|");
        json_put_string_n(out, c, k);
        c += k;
        if (!*c) break;
        text_add(out, ",");
    }
    text_add(out, "]");
}

static void schema_type(Text *out, const Field *f) {
    static const char *const types[] = {
        "\"integer\"", "[\"integer\",\"string\"]", "\"number\"", "\"boolean\"",
        "\"string\"",  "[\"string\",\"array\"]",
    };
    json_put_key(out, "type");
    text_add(out, types[f->type]);
    if (f->type == FIELD_LIST) text_add(out, ",\"items\":{\"type\":\"string\"}");
    if (f->choices) schema_choices(out, f->choices);
    if (f->min == 0 && f->max == 0) return;
    json_put_key(out, "minimum");
    json_put_number(out, f->min);
    if (!isfinite(f->max)) return;
    json_put_key(out, "maximum");
    json_put_number(out, f->max);
}

static void schema_default(Text *out, const Field *f) {
    const char *def = f->def ? f->def : "";
    if (f->type == FIELD_LIST || (!def[0] && f->type != FIELD_STRING)) return;
    json_put_key(out, "default");
    if (f->type == FIELD_STRING)
        json_put_string(out, def);
    else if (f->type == FIELD_BOOL)
        text_add(out, !strcmp(def, "true") || !strcmp(def, "1") ? "true" : "false");
    else
        json_put_number(out, strtod(def, NULL));
}

static void schema_fields(Text *out, const Section *s) {
    for (int i = 0; i < s->n_fields; i++) {
        const Field *f = &s->fields[i];
        json_put_key(out, f->key);
        text_add(out, "{");
        schema_type(out, f);
        json_put_key(out, "description");
        json_put_string(out, f->help ? f->help : "");
        schema_default(out, f);
        text_add(out, "}");
    }
}

void settings_schema(Text *out, const Section *sections, int n) {
    text_add(out, "{");
    for (int i = 0; i < n; i++) {
        if (!sections[i].name[0]) {
            schema_fields(out, &sections[i]);
            continue;
        }
        json_put_key(out, sections[i].name);
        text_add(out, "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
        schema_fields(out, &sections[i]);
        text_add(out, "}}");
    }
    text_add(out, "}");
}

/* --- nearest name --- */

enum { WORD_MAX = 64 };

static int smallest(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Levenshtein's distance. */
static int edit_distance(const char *a, const char *b) {
    int row[WORD_MAX + 1], n = (int)strlen(a), m = (int)strlen(b);
    if (m > WORD_MAX) return WORD_MAX;
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int cost = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smallest(cost, row[j] + 1, row[j - 1] + 1);
        }
    }
    return row[m];
}

const char *settings_nearest(const char *word, const char *const *candidates, int n) {
    int length = (int)strlen(word), limit = 1 + length / 3, best = limit + 1;
    const char *nearest = NULL;
    if (length > WORD_MAX) return NULL;
    for (int i = 0; i < n; i++) {
        int d = edit_distance(word, candidates[i]);
        int inside = length >= 3 ? strstr(candidates[i], word) != NULL
                                 : length == 2 && !strncmp(candidates[i], word, 2);
        if (d > limit && inside) d = limit; /* "kl" for "kl_coef" */
        if (d >= best || d >= (int)strlen(candidates[i])) continue;
        best = d;
        nearest = candidates[i];
    }
    return nearest;
}
