/* settings.c - defaults, then the recipe, then the flags, into the structs that the tables
 * describe. */
#include "core/run/settings.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 160 };

typedef struct {
    const Section *sections;
    int n;
    Arena *arena;
} Loader;

typedef struct {
    const Section *section;
    const Field *field;
    char name[NAME_MAX_LEN]; /* "ppo.clip" */
} Setting;

static Setting setting(const Section *s, const Field *f) {
    Setting x = {s, f, ""};
    snprintf(x.name, sizeof x.name, "%s%s%s", s->name, s->name[0] ? "." : "", f->key);
    return x;
}

static void *slot(const Setting *x) {
    return (char *)x->section->config + x->field->offset;
}

/* --- one value; failures are E_USAGE with a sentence that begins with the setting's name --- */

static Status in_range(const Setting *x, double v) {
    double lo = x->field->min, hi = x->field->max;
    if ((lo == 0 && hi == 0) || (v >= lo && v <= hi)) return OK;
    if (isinf(hi)) return status_fail(E_USAGE, "%s must be at least %g, not %g", x->name, lo, v);
    return status_fail(E_USAGE, "%s must be between %g and %g, not %g", x->name, lo, hi, v);
}

static Status set_number(const Setting *x, double v) {
    if (!isfinite(v)) return status_fail(E_USAGE, "%s must be a finite number", x->name);
    if (x->field->type != FIELD_FLOAT && v != floor(v))
        return status_fail(E_USAGE, "%s must be a whole number, not %g", x->name, v);
    TRY(in_range(x, v));
    switch (x->field->type) {
    case FIELD_INT:
        if (v < INT_MIN || v > INT_MAX)
            return status_fail(E_USAGE, "%s is %.17g, outside the range of an integer", x->name, v);
        *(int *)slot(x) = (int)v;
        return OK;
    case FIELD_U64:
        if (v < 0 || v > 0x1p53)
            return status_fail(
                E_USAGE, "%s must be between 0 and 2^53; write larger ones as a string", x->name);
        *(uint64_t *)slot(x) = (uint64_t)v;
        return OK;
    default:
        if (fabs(v) > 3.4e38) return status_fail(E_USAGE, "%s is too large: %g", x->name, v);
        *(float *)slot(x) = (float)v;
        return OK;
    }
}

static Status set_u64(const Setting *x, const char *text) {
    char *end;
    errno = 0;
    uint64_t v = strtoull(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9')
        return status_fail(E_USAGE, "%s must be a whole number from 0 to 2^64-1, not \"%s\"",
                           x->name, text);
    TRY(in_range(x, (double)v));
    *(uint64_t *)slot(x) = v;
    return OK;
}

static int bool_word(const char *text) {
    static const char *const yes[] = {"true", "yes", "on", "1", "auto"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!strcmp(text, yes[i])) return 1;
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (!strcmp(text, no[i])) return 0;
    return -1;
}

static int is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *c = choices;; c++) {
        size_t k = strcspn(c, "|");
        if (k == n && !memcmp(c, text, n)) return 1;
        c += k;
        if (!*c) return 0;
    }
}

static Status set_string(const Setting *x, Arena *a, const char *text) {
    if (x->field->choices && !is_choice(x->field->choices, text))
        return status_fail(E_USAGE, "%s must be one of %s, not \"%s\"", x->name, x->field->choices,
                           text);
    *(const char **)slot(x) = arena_strdup(a, text);
    return OK;
}

/* An empty text would be a file without a name, or end every answer. */
static Status full_list(const Setting *x, StringList list) {
    for (int i = 0; i < list.n; i++)
        if (!list.items[i][0])
            return status_fail(E_USAGE, "%s holds an empty text (number %d of %d)", x->name, i + 1,
                               list.n);
    *(StringList *)slot(x) = list;
    return OK;
}

static Status set_list(const Setting *x, Arena *a, const char *text) {
    StringList list = {NULL, text[0] != '\0'};
    for (const char *c = text; *c; c++) list.n += *c == ',';
    list.items = arena_alloc(a, (size_t)(list.n + 1) * sizeof *list.items);
    for (int i = 0; i < list.n; i++) {
        size_t k = strcspn(text, ",");
        list.items[i] = arena_strndup(a, text, k);
        text += k + 1;
    }
    return full_list(x, list);
}

static Status set_text(const Setting *x, Arena *a, const char *text) {
    char *end;
    double v;
    switch (x->field->type) {
    case FIELD_INT:
    case FIELD_FLOAT:
        v = strtod(text, &end);
        if (end == text || *end)
            return status_fail(E_USAGE, "%s must be a number, not \"%s\"", x->name, text);
        return set_number(x, v);
    case FIELD_U64: return set_u64(x, text);
    case FIELD_BOOL:
        if (bool_word(text) < 0)
            return status_fail(E_USAGE, "%s must be true or false, not \"%s\"", x->name, text);
        *(int *)slot(x) = bool_word(text);
        return OK;
    case FIELD_STRING: return set_string(x, a, text);
    case FIELD_LIST: return set_list(x, a, text);
    }
    return OK;
}

static void set_default(const Setting *x, Arena *a) {
    Field any = *x->field; /* "" or 0 may stand for "not given" outside of what a user may write */
    any.choices = NULL;
    any.min = any.max = 0;
    Setting free_of_limits = *x;
    free_of_limits.field = &any;
    const char *def = any.def ? any.def : "";
    if (!def[0] && any.type != FIELD_STRING && any.type != FIELD_LIST) def = "0";
    CHECK(set_text(&free_of_limits, a, def) == OK);
}

/* --- the recipe --- */

static Status set_list_json(const Setting *x, Arena *a, const Json *node) {
    StringList list = {NULL, json_size(node)};
    list.items = arena_alloc(a, (size_t)(list.n + 1) * sizeof *list.items);
    int i = 0;
    for (const Json *item = json_first(node); item; item = json_next(item)) {
        if (json_type(item) != JSON_STRING)
            return status_fail(E_USAGE, "%s must hold strings, not %s", x->name,
                               json_type_name(json_type(item)));
        list.items[i++] = arena_strdup(a, json_str(item));
    }
    return full_list(x, list);
}

static Status set_json(const Setting *x, Arena *a, const Json *node) {
    JsonType type = json_type(node);
    switch (x->field->type) {
    case FIELD_U64:
        if (type == JSON_STRING) return set_u64(x, json_str(node));
        /* fallthrough */
    case FIELD_INT:
    case FIELD_FLOAT:
        if (type == JSON_NUMBER) return set_number(x, json_num(node));
        return status_fail(E_USAGE, "%s must be a number, not %s", x->name, json_type_name(type));
    case FIELD_BOOL:
        if (type != JSON_BOOL)
            return status_fail(E_USAGE, "%s must be true or false, not %s", x->name,
                               json_type_name(type));
        *(int *)slot(x) = json_bool(node);
        return OK;
    case FIELD_STRING:
        if (type == JSON_STRING) return set_string(x, a, json_str(node));
        return status_fail(E_USAGE, "%s must be a string, not %s", x->name, json_type_name(type));
    case FIELD_LIST:
        if (type == JSON_ARRAY) return set_list_json(x, a, node);
        if (type != JSON_STRING)
            return status_fail(E_USAGE, "%s must be a string or an array of strings, not %s",
                               x->name, json_type_name(type));
        StringList one = {arena_alloc(a, sizeof(char *)), 1};
        one.items[0] = arena_strdup(a, json_str(node));
        *(StringList *)slot(x) = one;
        return OK;
    }
    return OK;
}

static const Field *field_of(const Section *s, const char *key) {
    for (int i = 0; i < s->n_fields; i++)
        if (!strcmp(s->fields[i].key, key)) return &s->fields[i];
    return NULL;
}

static const Section *section_of(const Loader *l, const char *name) {
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->sections[i].name, name)) return &l->sections[i];
    return NULL;
}

/* The nearest full name to a mistyped one: within `section` if given, by bare key elsewhere. */
static const char *suggestion(const Loader *l, const Section *section, const char *key) {
    const char *names[1024], *bare[1024];
    int n = 0, m = 0;
    for (int i = 0; i < l->n; i++) {
        const Section *s = &l->sections[i];
        if (!section && s->name[0]) names[n++] = s->name;
        for (int j = 0; j < s->n_fields && n < 1023 && m < 1024; j++) {
            bare[m++] = s->fields[j].key;
            if (section ? s == section : !s->name[0]) names[n++] = s->fields[j].key;
        }
    }
    const char *near = settings_nearest(key, names, n);
    if (near)
        return section && section->name[0] ? arena_printf(l->arena, "%s.%s", section->name, near)
                                           : near;
    near = settings_nearest(key, bare, m);
    for (int i = 0; near && i < l->n; i++) {
        const Section *s = &l->sections[i];
        if (!field_of(s, near)) continue;
        return arena_printf(l->arena, "%s%s%s", s->name, s->name[0] ? "." : "", near);
    }
    return NULL;
}

static Status unknown_key(const Loader *l, const JsonDoc *doc, const Section *section,
                          const Json *m) {
    const char *near = suggestion(l, section, json_key(m));
    const char *in = section && section->name[0] ? section->name : "", *dot = in[0] ? "." : "";
    if (!near) return json_fail(doc, m, "unknown setting \"%s%s%s\"", in, dot, json_key(m));
    return json_fail(doc, m, "unknown setting \"%s%s%s\"; did you mean \"%s\"?", in, dot,
                     json_key(m), near);
}

static Status apply_member(const Loader *l, const JsonDoc *doc, const Section *s, const Json *m) {
    const Field *f = field_of(s, json_key(m));
    if (!f) return unknown_key(l, doc, s, m);
    Setting x = setting(s, f);
    if (set_json(&x, l->arena, m) != OK) return json_fail(doc, m, "%s", status_message());
    return OK;
}

static int left_to_caller(const char *key) {
    static const char *const keys[] = {"verb", "stages", "name", "inputs", "$schema"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i])) return 1;
    return 0;
}

static Status apply_recipe(const Loader *l, const JsonDoc *doc) {
    const Json *root = json_root(doc);
    const Section *top = section_of(l, "");
    if (json_type(root) != JSON_OBJECT)
        return json_fail(doc, root, "a recipe must be an object, not %s",
                         json_type_name(json_type(root)));
    for (const Json *m = json_first(root); m; m = json_next(m)) {
        if (top && field_of(top, json_key(m))) {
            TRY(apply_member(l, doc, top, m));
            continue;
        }
        const Section *s = json_key(m)[0] ? section_of(l, json_key(m)) : NULL;
        if (!s && left_to_caller(json_key(m))) continue;
        if (!s) return unknown_key(l, doc, NULL, m);
        if (json_type(m) != JSON_OBJECT)
            return json_fail(doc, m, "\"%s\" must be an object of settings, not %s", json_key(m),
                             json_type_name(json_type(m)));
        for (const Json *k = json_first(m); k; k = json_next(k)) TRY(apply_member(l, doc, s, k));
    }
    return OK;
}

/* --- flags --- */

static Status ambiguous(const char *key, const Setting *a, const Setting *b) {
    return status_fail(E_USAGE, "--%s could be --%s or --%s: write which", key, a->name, b->name);
}

/* *found = 1 when `key` (underscores, maybe with a section in front) names one setting. */
static Status find_setting(const Loader *l, const char *key, Setting *x, int *found) {
    *found = 0;
    for (int i = 0; i < l->n; i++) {
        const Section *s = &l->sections[i];
        for (int j = 0; j < s->n_fields; j++) {
            Setting candidate = setting(s, &s->fields[j]);
            if (!strcmp(candidate.name, key)) {
                *x = candidate;
                *found = 1;
                return OK;
            }
        }
    }
    for (int i = 0; i < l->n; i++) {
        const Field *f = field_of(&l->sections[i], key);
        if (!f) continue;
        Setting candidate = setting(&l->sections[i], f);
        if (*found) return ambiguous(key, x, &candidate);
        *x = candidate;
        *found = 1;
    }
    return OK;
}

static Status unknown_flag(const Loader *l, const char *key) {
    const char *dot = strchr(key, '.');
    const Section *s =
        dot ? section_of(l, arena_strndup(l->arena, key, (size_t)(dot - key))) : NULL;
    const char *near = suggestion(l, s, s ? dot + 1 : key);
    if (!near || (!strchr(near, '.') && section_of(l, near)))
        return status_fail(E_USAGE, "unknown setting --%s", key);
    return status_fail(E_USAGE, "unknown setting --%s; did you mean --%s?", key, near);
}

/* "kl-coef" and "no-resume" as written on a command line, to keys of the tables. */
static Status find_flag(const Loader *l, const char *written, Setting *x, int *negated) {
    char key[NAME_MAX_LEN], plain[NAME_MAX_LEN];
    int found;
    *negated = 0;
    if ((size_t)snprintf(key, sizeof key, "%s", written) >= sizeof key)
        return status_fail(E_USAGE, "unknown setting --%.60s...", written);
    for (char *c = key; *c; c++)
        if (*c == '-') *c = '_';
    TRY(find_setting(l, key, x, &found));
    if (found) return OK;
    char *last = strrchr(key, '.');
    last = last ? last + 1 : key;
    if (!strncmp(last, "no_", 3)) {
        snprintf(plain, sizeof plain, "%.*s%s", (int)(last - key), key, last + 3);
        TRY(find_setting(l, plain, x, &found));
        if (found && x->field->type == FIELD_BOOL) {
            *negated = 1;
            return OK;
        }
    }
    return unknown_flag(l, key);
}

static Status apply_flag(const Loader *l, int argc, char **argv, int *i) {
    char *arg = argv[*i];
    if (strncmp(arg, "--", 2) != 0 || !arg[2])
        return status_fail(E_USAGE, "unexpected argument \"%s\": settings begin with --", arg);
    char *equals = strchr(arg, '=');
    const char *written =
        arena_strndup(l->arena, arg + 2, equals ? (size_t)(equals - arg - 2) : strlen(arg + 2));
    Setting x;
    int negated;
    TRY(find_flag(l, written, &x, &negated));
    const char *value = equals ? equals + 1 : NULL;
    int next_is_value = *i + 1 < argc;
    if (x.field->type == FIELD_BOOL) {
        if (negated && value) return status_fail(E_USAGE, "--%s takes no value", written);
        next_is_value = next_is_value && !negated && bool_word(argv[*i + 1]) >= 0;
    }
    if (!value && next_is_value) value = argv[++*i];
    if (!value && x.field->type == FIELD_BOOL) value = negated ? "false" : "true";
    if (!value) return status_fail(E_USAGE, "--%s needs a value", written);
    Status s = set_text(&x, l->arena, value);
    return s == OK ? OK : status_fail(s, "--%s", status_message());
}

Status settings_load(const Section *sections, int n, Arena *a, const JsonDoc *recipe, int argc,
                     char **argv) {
    Loader l = {sections, n, a};
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < sections[i].n_fields; j++) {
            Setting x = setting(&sections[i], &sections[i].fields[j]);
            set_default(&x, a);
        }
    }
    if (recipe) TRY(apply_recipe(&l, recipe));
    for (int i = 0; i < argc; i++) TRY(apply_flag(&l, argc, argv, &i));
    return OK;
}
