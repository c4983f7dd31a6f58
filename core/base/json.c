/* json.c - strict JSON: a check of the text (json_check.c), cJSON's parser, a check of the tree. */
#include "core/base/json.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json_check.h"
#include "core/base/memory.h"

enum { MAX_FILE = 1 << 30, FEW_KEYS = 12 };

struct JsonDoc {
    cJSON *root;
    char *name, *text; /* both behind the struct, in its allocation */
    size_t len;
    int first_line;
};

/* --- failing with a position --- */

static Status fail_at(const JsonDoc *doc, size_t offset, const char *sentence) {
    int line = doc->first_line, column = 1;
    for (size_t i = 0; i < offset && i < doc->len; i++) {
        if (doc->text[i] == '\n') {
            line++;
            column = 1;
        } else if ((doc->text[i] & 0xC0) != 0x80) { /* characters, not bytes */
            column++;
        }
    }
    return status_fail(E_FORMAT, "%s:%d:%d: %s", doc->name, line, column, sentence);
}

/* Walks text and tree together, which are known to agree; 1 once `target` was met at *p. */
static int find_node(const char **p, const cJSON *node, const cJSON *target) {
    *p = json_skip_space(*p);
    if (node == target) return 1;
    if (**p == '"') {
        *p = json_skip_string(*p);
        return 0;
    }
    if (**p != '{' && **p != '[') {
        while (**p && !strchr(",]} \t\r\n", **p)) ++*p;
        return 0;
    }
    int object = *(*p)++ == '{';
    for (const cJSON *child = node->child; child; child = child->next) {
        *p = json_skip_space(*p);
        if (object) {
            if (child == target) return 1;
            *p = json_skip_space(json_skip_string(*p)) + 1;
        }
        if (find_node(p, child, target)) return 1;
        *p = json_skip_space(*p) + (child->next != NULL);
    }
    *p = json_skip_space(*p) + 1;
    return 0;
}

Status json_fail(const JsonDoc *doc, const Json *at, const char *fmt, ...) {
    char sentence[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, ap);
    va_end(ap);
    const char *p = doc->text;
    if (at && find_node(&p, doc->root, at)) return fail_at(doc, (size_t)(p - doc->text), sentence);
    return status_fail(E_FORMAT, "%s:%d: %s", doc->name, doc->first_line, sentence);
}

/* --- what only the tree shows: equal keys (after unescaping), numbers beyond a double --- */

static Status duplicate(const JsonDoc *doc, const cJSON *second) {
    return json_fail(doc, second, "the key \"%.200s\" occurs twice", second->string);
}

static Status unique_few(const JsonDoc *doc, const cJSON *object) {
    for (const cJSON *a = object->child; a; a = a->next)
        for (const cJSON *b = object->child; b != a; b = b->next)
            if (!strcmp(a->string, b->string)) return duplicate(doc, a);
    return OK;
}

static Status unique_many(const JsonDoc *doc, const cJSON *object, size_t n) {
    size_t slots = 64;
    while (slots < 2 * n) slots *= 2;
    const cJSON **table = calloc(slots, sizeof *table);
    if (!table) return status_fail(E_MEMORY, "%s: no memory to check %zu keys", doc->name, n);
    Status s = OK;
    for (const cJSON *m = object->child; m && s == OK; m = m->next) {
        size_t i = (size_t)file_hash(m->string, strlen(m->string), 0) & (slots - 1);
        for (; table[i]; i = (i + 1) & (slots - 1)) {
            if (strcmp(table[i]->string, m->string) != 0) continue;
            s = duplicate(doc, m);
            break;
        }
        table[i] = m;
    }
    free(table);
    return s;
}

static Status check_tree(const JsonDoc *doc, const cJSON *node) {
    if (cJSON_IsNumber(node) && !isfinite(node->valuedouble))
        return json_fail(doc, node, "the number is too large for a double");
    size_t n = 0;
    for (const cJSON *c = node->child; c; c = c->next, n++)
        if (c->child || cJSON_IsNumber(c)) TRY(check_tree(doc, c));
    if (!cJSON_IsObject(node) || n < 2) return OK;
    return n <= FEW_KEYS ? unique_few(doc, node) : unique_many(doc, node, n);
}

/* --- parsing --- */

static JsonDoc *doc_create(const char *name, int first_line, const char *text, size_t len) {
    size_t name_len = strlen(name);
    if (len > SIZE_MAX / 2) return NULL;
    JsonDoc *doc = malloc(sizeof *doc + len + 1 + name_len + 1);
    if (!doc) return NULL;
    char *copy = (char *)(doc + 1);
    if (len) memcpy(copy, text, len);
    copy[len] = '\0';
    memcpy(copy + len + 1, name, name_len + 1);
    *doc = (JsonDoc){NULL, copy + len + 1, copy, len, first_line};
    return doc;
}

static Status parse(JsonDoc *doc, int flags) {
    if (doc->len >= 3 && !memcmp(doc->text, "\xEF\xBB\xBF", 3)) {
        doc->text += 3;
        doc->len -= 3;
    }
    size_t offset;
    const char *reason;
    if (flags & JSON_COMMENTS) {
        reason = json_blank_comments(doc->text, doc->len, &offset);
        if (reason) return fail_at(doc, offset, reason);
    }
    reason = json_check(doc->text, doc->len, &offset);
    if (reason) return fail_at(doc, offset, reason);
    doc->root = cJSON_ParseWithLength(doc->text, doc->len);
    if (!doc->root)
        return status_fail(E_MEMORY, "%s: no memory for a JSON text of %zu bytes", doc->name,
                           doc->len);
    return check_tree(doc, doc->root);
}

Status json_parse(JsonDoc **out, const char *name, int first_line, const char *text, size_t len,
                  int flags) {
    *out = NULL;
    JsonDoc *doc = doc_create(name, first_line, text, len);
    if (!doc) return status_fail(E_MEMORY, "%s: no memory for a JSON text of %zu bytes", name, len);
    Status s = parse(doc, flags);
    if (s == OK)
        *out = doc;
    else
        json_release(doc);
    return s;
}

Status json_parse_file(JsonDoc **doc, const char *path, int flags) {
    *doc = NULL;
    FileMap m;
    TRY(file_map(&m, path));
    Status s =
        m.len > MAX_FILE
            ? status_fail(E_FORMAT, "%s has %zu bytes, too many for a JSON file", path, m.len)
            : json_parse(doc, path, 1, (const char *)m.data, m.len, flags);
    file_unmap(&m);
    return s;
}

void json_release(JsonDoc *doc) {
    if (!doc) return;
    cJSON_Delete(doc->root);
    free(doc);
}

const Json *json_root(const JsonDoc *doc) {
    return doc->root;
}
const char *json_name(const JsonDoc *doc) {
    return doc->name;
}

/* --- reading a tree --- */

JsonType json_type(const Json *n) {
    switch (n->type & 0xFF) {
    case cJSON_False:
    case cJSON_True: return JSON_BOOL;
    case cJSON_Number: return JSON_NUMBER;
    case cJSON_String: return JSON_STRING;
    case cJSON_Array: return JSON_ARRAY;
    case cJSON_Object: return JSON_OBJECT;
    default: return JSON_NULL;
    }
}

const char *json_type_name(JsonType t) {
    static const char *const names[] = {"null",     "true or false", "a number",
                                        "a string", "an array",      "an object"};
    return names[t];
}

const Json *json_first(const Json *container) {
    return container->child;
}
const Json *json_next(const Json *n) {
    return n->next;
}
const char *json_key(const Json *member) {
    return member->string;
}

const Json *json_get(const Json *object, const char *key) {
    if (!cJSON_IsObject(object)) return NULL;
    for (const cJSON *m = object->child; m; m = m->next)
        if (!strcmp(m->string, key)) return m;
    return NULL;
}

int json_size(const Json *container) {
    int n = 0;
    for (const cJSON *c = container->child; c; c = c->next) n++;
    return n;
}

const char *json_str(const Json *n) {
    CHECK(cJSON_IsString(n));
    return n->valuestring;
}

double json_num(const Json *n) {
    CHECK(cJSON_IsNumber(n));
    return n->valuedouble;
}

int json_bool(const Json *n) {
    CHECK(cJSON_IsBool(n));
    return cJSON_IsTrue(n);
}

Status json_get_node(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                     JsonType type, const Json **out) {
    if (!cJSON_IsObject(object))
        return json_fail(doc, object, "expected an object with the key \"%s\", found %s", key,
                         json_type_name(json_type(object)));
    const Json *n = json_get(object, key);
    if (!n)
        return need == JSON_OPTIONAL ? OK
                                     : json_fail(doc, object, "the key \"%s\" is missing", key);
    if (json_type(n) != type)
        return json_fail(doc, n, "\"%s\" must be %s, not %s", key, json_type_name(type),
                         json_type_name(json_type(n)));
    *out = n;
    return OK;
}

Status json_get_str(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                    const char **out) {
    const Json *n = NULL;
    TRY(json_get_node(doc, object, key, need, JSON_STRING, &n));
    if (n) *out = n->valuestring;
    return OK;
}

Status json_get_num(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                    double *out) {
    const Json *n = NULL;
    TRY(json_get_node(doc, object, key, need, JSON_NUMBER, &n));
    if (n) *out = n->valuedouble;
    return OK;
}

Status json_get_int(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                    int *out) {
    const Json *n = NULL;
    TRY(json_get_node(doc, object, key, need, JSON_NUMBER, &n));
    if (!n) return OK;
    double v = n->valuedouble;
    if (v != floor(v)) return json_fail(doc, n, "\"%s\" must be a whole number, not %g", key, v);
    if (v < INT_MIN || v > INT_MAX)
        return json_fail(doc, n, "\"%s\" is %.17g, outside the range of an integer", key, v);
    *out = (int)v;
    return OK;
}

Status json_get_bool(const JsonDoc *doc, const Json *object, const char *key, JsonNeed need,
                     int *out) {
    const Json *n = NULL;
    TRY(json_get_node(doc, object, key, need, JSON_BOOL, &n));
    if (n) *out = cJSON_IsTrue(n);
    return OK;
}
