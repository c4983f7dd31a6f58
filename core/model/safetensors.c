/* safetensors.c - the reader. */
#include <stdlib.h>
#include <string.h>
#include "core/base/json.h"
#include "core/base/memory.h"
#include "core/model/half.h"
#include "core/model/safetensors.h"
#include "core/model/safetensors_types.h"

enum { HEADER_MAX = 100000000 };

typedef struct {
    const char *key, *value;
} Pair;

struct Safetensors {
    FileMap map;
    const char *path;
    SafetensorsTensor *tensor; /* by data offset */
    const SafetensorsTensor **by_name;
    int n;
    Pair *meta;
    int n_meta;
    const uint8_t *start; /* of the data */
    size_t room;          /* its bytes */
    Arena arena;
};

static Status whole_number(const JsonDoc *doc, const Json *n, size_t *out) {
    double v = json_type(n) == JSON_NUMBER ? json_num(n) : -1;
    if (!(v >= 0 && v <= 0x1p53) || v != (double)(uint64_t)v)
        return json_fail(doc, n, "expected a whole number of at least 0");
    *out = (size_t)v;
    return OK;
}

static Status read_shape(Safetensors *s, const JsonDoc *doc, const Json *entry,
                         SafetensorsTensor *t) {
    const Json *list = NULL;
    TRY(json_get_node(doc, entry, "shape", JSON_REQUIRED, JSON_ARRAY, &list));
    t->rank = json_size(list);
    size_t *shape = arena_alloc(&s->arena, (size_t)t->rank * sizeof(*shape)), *dim = shape;
    t->shape = shape;
    t->count = 1;
    for (const Json *n = json_first(list); n; n = json_next(n), dim++) {
        TRY(whole_number(doc, n, dim));
        if (*dim && t->count > SIZE_MAX / *dim)
            return json_fail(doc, n, "the product of the shape of %s overflows", t->name);
        t->count *= *dim;
    }
    return OK;
}

static Status read_offsets(const Safetensors *s, const JsonDoc *doc, const Json *entry,
                           SafetensorsTensor *t) {
    const Json *list = NULL;
    size_t begin = 0, end = 0;
    TRY(json_get_node(doc, entry, "data_offsets", JSON_REQUIRED, JSON_ARRAY, &list));
    if (json_size(list) != 2) return json_fail(doc, list, "data_offsets must be [begin, end]");
    TRY(whole_number(doc, json_first(list), &begin));
    TRY(whole_number(doc, json_next(json_first(list)), &end));
    if (end < begin) return json_fail(doc, list, "the data_offsets of %s run backwards", t->name);
    if (end > s->room)
        return json_fail(doc, list, "the data of %s reaches beyond the end of the file", t->name);
    t->data = s->start + begin;
    t->bytes = end - begin;
    return OK;
}

static Status read_tensor(Safetensors *s, const JsonDoc *doc, const Json *entry,
                          SafetensorsTensor *t) {
    const char *dtype = NULL;
    t->name = arena_strdup(&s->arena, json_key(entry));
    if (json_type(entry) != JSON_OBJECT)
        return json_fail(doc, entry, "tensor %s must be an object, not %s", t->name,
                         json_type_name(json_type(entry)));
    TRY(json_get_str(doc, entry, "dtype", JSON_REQUIRED, &dtype));
    const DtypeInfo *info = safetensors_dtype(dtype);
    if (!info)
        return json_fail(doc, json_get(entry, "dtype"), "tensor %s has the unknown dtype \"%.40s\"",
                         t->name, dtype);
    t->dtype_name = info->name;
    t->dtype = info->type;
    TRY(read_shape(s, doc, entry, t));
    TRY(read_offsets(s, doc, entry, t));
    if (t->count > SIZE_MAX / info->bytes || t->bytes != t->count * info->bytes)
        return json_fail(
            doc, entry, "tensor %s has %zu bytes, not the %zu values of %s that its shape asks for",
            t->name, t->bytes, t->count, dtype);
    return OK;
}

static Status read_metadata(Safetensors *s, const JsonDoc *doc, const Json *meta) {
    if (json_type(meta) != JSON_OBJECT)
        return json_fail(doc, meta, "__metadata__ must be an object");
    s->meta = arena_alloc(&s->arena, (size_t)json_size(meta) * sizeof(*s->meta));
    for (const Json *n = json_first(meta); n; n = json_next(n)) {
        if (json_type(n) != JSON_STRING)
            return json_fail(doc, n, "__metadata__ must hold strings only");
        s->meta[s->n_meta++] =
            (Pair){arena_strdup(&s->arena, json_key(n)), arena_strdup(&s->arena, json_str(n))};
    }
    return OK;
}

static int by_data(const void *a, const void *b) {
    const SafetensorsTensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones first */
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const SafetensorsTensor *const *)a)->name,
                  (*(const SafetensorsTensor *const *)b)->name);
}

static Status check_cover(const Safetensors *s) {
    const uint8_t *at = s->start;
    for (int i = 0; i < s->n; i++) {
        const SafetensorsTensor *t = &s->tensor[i];
        if (t->data < at)
            return status_fail(E_FORMAT, "%s: the data of %s overlaps another tensor's", s->path,
                               t->name);
        if (t->data > at)
            return status_fail(E_FORMAT, "%s: there is a hole before the data of %s", s->path,
                               t->name);
        at += t->bytes;
    }
    size_t covered = (size_t)(at - s->start);
    if (covered != s->room)
        return status_fail(E_FORMAT, "%s: %zu bytes at the end belong to no tensor", s->path,
                           s->room - covered);
    return OK;
}

static Status read_header(Safetensors *s, const JsonDoc *doc) {
    const Json *root = json_root(doc);
    int size = json_size(root);
    s->tensor = arena_alloc(&s->arena, (size_t)size * sizeof(*s->tensor));
    s->by_name = arena_alloc(&s->arena, (size_t)size * sizeof(*s->by_name));
    for (const Json *n = json_first(root); n; n = json_next(n)) {
        if (!strcmp(json_key(n), "__metadata__"))
            TRY(read_metadata(s, doc, n));
        else
            TRY(read_tensor(s, doc, n, &s->tensor[s->n++]));
    }
    qsort(s->tensor, (size_t)s->n, sizeof(*s->tensor), by_data);
    for (int i = 0; i < s->n; i++) s->by_name[i] = &s->tensor[i];
    qsort(s->by_name, (size_t)s->n, sizeof(*s->by_name), by_name);
    return check_cover(s);
}

static Status read_all(Safetensors *s) {
    uint64_t len = 0;
    if (s->map.len < 8)
        return status_fail(E_FORMAT, "%s: %zu bytes are no safetensors file", s->path, s->map.len);
    memcpy(&len, s->map.data, 8);
    if (len > HEADER_MAX)
        return status_fail(E_FORMAT, "%s: a header of %llu bytes is too long (at most %d)", s->path,
                           (unsigned long long)len, HEADER_MAX);
    if (len > s->map.len - 8)
        return status_fail(E_FORMAT,
                           "%s: the header of %llu bytes reaches beyond the end of the file",
                           s->path, (unsigned long long)len);
    const char *header = (const char *)s->map.data + 8;
    if (len == 0 || *header != '{')
        return status_fail(E_FORMAT, "%s: the header does not start with {", s->path);
    s->start = s->map.data + 8 + len;
    s->room = s->map.len - 8 - (size_t)len;

    JsonDoc *doc = NULL;
    TRY(json_parse(&doc, s->path, 1, header, (size_t)len,
                   JSON_STRICT)); /* UTF-8 and duplicates, too */
    Status status = read_header(s, doc);
    json_release(doc);
    return status;
}

Status safetensors_open(Safetensors **s, const char *path) {
    Arena arena = {0};
    FileMap map;
    *s = NULL;
    TRY(file_map(&map, path));
    Safetensors *new = arena_alloc(&arena, sizeof(*new));
    *new = (Safetensors){.map = map, .path = arena_strdup(&arena, path)};
    new->arena = arena;
    Status status = read_all(new);
    if (status == OK)
        *s = new;
    else
        safetensors_close(new);
    return status;
}

void safetensors_close(Safetensors *s) {
    if (!s) return;
    file_unmap(&s->map);
    Arena arena = s->arena;
    arena_release(&arena);
}

int safetensors_size(const Safetensors *s) {
    return s->n;
}

const SafetensorsTensor *safetensors_at(const Safetensors *s, int i) {
    CHECK(i >= 0 && i < s->n);
    return &s->tensor[i];
}

const SafetensorsTensor *safetensors_find(const Safetensors *s, const char *name) {
    SafetensorsTensor wanted = {.name = name};
    const SafetensorsTensor *key = &wanted, **found = NULL;
    if (s->n) found = bsearch(&key, s->by_name, (size_t)s->n, sizeof(key), by_name);
    return found ? *found : NULL;
}

const char *safetensors_metadata(const Safetensors *s, const char *key) {
    for (int i = 0; i < s->n_meta; i++)
        if (!strcmp(s->meta[i].key, key)) return s->meta[i].value;
    return NULL;
}

static uint16_t half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return h;
}

Status safetensors_read_f32(const SafetensorsTensor *t, size_t first, size_t count, float *out) {
    if (first > t->count || count > t->count - first)
        return status_fail(E_USAGE, "tensor %s has %zu values; %zu from %zu were asked for",
                           t->name, t->count, count, first);
    switch (t->dtype) {
    case SAFETENSORS_F32:
        if (count) memcpy(out, t->data + 4 * first, 4 * count);
        return OK;
    case SAFETENSORS_F16:
        for (size_t i = 0; i < count; i++) out[i] = f16_to_f32(half_at(t->data + 2 * (first + i)));
        return OK;
    case SAFETENSORS_BF16:
        for (size_t i = 0; i < count; i++) out[i] = bf16_to_f32(half_at(t->data + 2 * (first + i)));
        return OK;
    case SAFETENSORS_OTHER: break;
    }
    return status_fail(E_FORMAT, "tensor %s is of dtype %s; F32, F16 and BF16 can be read", t->name,
                       t->dtype_name);
}
