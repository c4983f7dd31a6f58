/* gguf.c - the container: metadata and the list of tensors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/gguf.h"
#include "core/model/gguf_types.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_KINDS };
static const int kind_bytes[N_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
static const char *const kind_names[N_KINDS] = {
    "a number",      "a number", "a number", "a number", "a number", "a number", "a number",
    "true or false", "a string", "an array", "a number", "a number", "a number"};
enum { NAME_MAX_BYTES = 65535, ARRAY_DEPTH = 4 };

typedef struct {
    const char *key;
    uint32_t kind;
    size_t at; /* of its value */
} Entry;

struct Gguf {
    FileMap map;
    const char *path;
    uint32_t alignment;
    Entry *entry; /* sorted by key */
    int n_entries;
    GgufTensor *tensor; /* sorted by name */
    int n_tensors;
    Arena arena;
};

typedef struct {
    const Gguf *g;
    size_t at;
} Cursor;

static Status cut_short(const Gguf *g) {
    return status_fail(E_FORMAT, "%s: the file is cut short", g->path);
}

static Status take(Cursor *c, void *out, size_t n) {
    if (n > c->g->map.len - c->at) return cut_short(c->g);
    memcpy(out, c->g->map.data + c->at, n);
    c->at += n;
    return OK;
}

static Status skip(Cursor *c, uint64_t n) {
    if (n > c->g->map.len - c->at) return cut_short(c->g);
    c->at += (size_t)n;
    return OK;
}

static Status take_string(Cursor *c, const char **s, size_t *len) {
    uint64_t n = 0;
    TRY(take(c, &n, 8));
    *s = (const char *)c->g->map.data + c->at;
    TRY(skip(c, n));
    *len = (size_t)n;
    if (!utf8_valid(*s, *len) || memchr(*s, 0, *len))
        return status_fail(E_FORMAT, "%s: a string at byte %zu is not UTF-8 text", c->g->path,
                           c->at - *len);
    return OK;
}

static Status take_name(Gguf *g, Cursor *c, const char **name) {
    const char *s = NULL;
    size_t len = 0;
    TRY(take_string(c, &s, &len));
    if (len == 0 || len > NAME_MAX_BYTES)
        return status_fail(E_FORMAT, "%s: a name of %zu bytes is not possible", g->path, len);
    *name = arena_strndup(&g->arena, s, len);
    return OK;
}

static Status check_kind(const Gguf *g, uint32_t kind) {
    return kind < N_KINDS
               ? OK
               : status_fail(E_FORMAT, "%s: metadata of the unknown type %u", g->path, kind);
}

static Status skip_value(Cursor *c, uint32_t kind, int depth) {
    const char *s = NULL;
    size_t len = 0;
    TRY(check_kind(c->g, kind));
    if (kind == STRING) return take_string(c, &s, &len);
    if (kind != ARRAY) return skip(c, (uint64_t)kind_bytes[kind]);

    uint32_t of = 0;
    uint64_t n = 0;
    if (depth == ARRAY_DEPTH)
        return status_fail(E_FORMAT, "%s: arrays in arrays too deep", c->g->path);
    TRY(take(c, &of, 4));
    TRY(take(c, &n, 8));
    TRY(check_kind(c->g, of));
    if (n > c->g->map.len) return cut_short(c->g);
    if (of != STRING && of != ARRAY) return skip(c, n * (uint64_t)kind_bytes[of]);
    for (uint64_t i = 0; i < n; i++) TRY(skip_value(c, of, depth + 1));
    return OK;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const Entry *)a)->key, ((const Entry *)b)->key);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const GgufTensor *)a)->name, ((const GgufTensor *)b)->name);
}

static Status read_entries(Gguf *g, Cursor *c, uint64_t n) {
    if (n > (g->map.len - c->at) / 13 || n > INT32_MAX)
        return cut_short(g); /* the least that one takes */
    g->n_entries = (int)n;
    g->entry = arena_alloc(&g->arena, (size_t)n * sizeof(*g->entry));
    for (int i = 0; i < g->n_entries; i++) {
        Entry *e = &g->entry[i];
        TRY(take_name(g, c, &e->key));
        TRY(take(c, &e->kind, 4));
        e->at = c->at;
        TRY(skip_value(c, e->kind, 0));
    }
    qsort(g->entry, (size_t)g->n_entries, sizeof(*g->entry), by_key);
    for (int i = 1; i < g->n_entries; i++)
        if (!strcmp(g->entry[i].key, g->entry[i - 1].key))
            return status_fail(E_FORMAT, "%s: the key %s stands there twice", g->path,
                               g->entry[i].key);
    return OK;
}

static Status read_alignment(Gguf *g) {
    int alignment = 32;
    TRY(gguf_int(g, "general.alignment", GGUF_OPTIONAL, &alignment));
    if (alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1)))
        return status_fail(E_FORMAT, "%s: general.alignment %d is not a power of two", g->path,
                           alignment);
    g->alignment = (uint32_t)alignment;
    return OK;
}

static Status read_tensor(Gguf *g, Cursor *c, GgufTensor *t, uint64_t *offset) {
    uint32_t rank = 0, type = 0;
    TRY(take_name(g, c, &t->name));
    TRY(take(c, &rank, 4));
    if (rank > 4)
        return status_fail(E_FORMAT, "%s: tensor %s has %u dimensions", g->path, t->name, rank);
    t->rank = (int)rank;
    t->rows = t->cols = 1;
    uint64_t left = (uint64_t)1 << 40; /* what the product of the dimensions may still grow by */
    for (int i = t->rank - 1; i >= 0; i--) { /* the file has the innermost first */
        uint64_t dim = 0;
        TRY(take(c, &dim, 8));
        if (dim > left)
            return status_fail(E_FORMAT, "%s: tensor %s has impossible dimensions", g->path,
                               t->name);
        if (dim) left /= dim;
        t->dims[i] = (size_t)dim;
        if (i == t->rank - 1)
            t->cols = (size_t)dim;
        else
            t->rows *= (size_t)dim;
    }
    TRY(take(c, &type, 4));
    t->type = (int)type;
    t->dtype = gguf_type_name(type);
    return take(c, offset, 8);
}

static Status place_tensor(const Gguf *g, GgufTensor *t, uint64_t offset, size_t start) {
    size_t row_bytes = 0;
    size_t room = g->map.len - start;
    if (!gguf_row_bytes(t->type, t->cols, &row_bytes)) return OK; /* refused when it is read */
    if (row_bytes == 0 && t->cols > 0)
        return status_fail(
            E_FORMAT, "%s: tensor %s of type %s has rows of %zu values, which are no whole blocks",
            g->path, t->name, t->dtype, t->cols);
    if (offset % g->alignment)
        return status_fail(E_FORMAT, "%s: tensor %s is not aligned", g->path, t->name);
    if (offset > room || (row_bytes && t->rows > (room - (size_t)offset) / row_bytes))
        return status_fail(E_FORMAT, "%s: tensor %s reaches beyond the end of the file", g->path,
                           t->name);
    t->bytes = t->rows * row_bytes;
    t->data = g->map.data + start + offset;
    return OK;
}

static Status read_tensors(Gguf *g, Cursor *c, uint64_t n) {
    if (n > (g->map.len - c->at) / 24 || n > INT32_MAX)
        return cut_short(g); /* the least that one takes */
    g->n_tensors = (int)n;
    g->tensor = arena_alloc(&g->arena, (size_t)n * sizeof(*g->tensor));
    uint64_t *offset = arena_alloc(&g->arena, (size_t)n * sizeof(*offset));
    for (int i = 0; i < g->n_tensors; i++) TRY(read_tensor(g, c, &g->tensor[i], &offset[i]));

    size_t start = (c->at + g->alignment - 1) / g->alignment * g->alignment;
    if (start > g->map.len) start = g->map.len; /* no tensor has data */
    for (int i = 0; i < g->n_tensors; i++) TRY(place_tensor(g, &g->tensor[i], offset[i], start));
    qsort(g->tensor, (size_t)g->n_tensors, sizeof(*g->tensor), by_name);
    for (int i = 1; i < g->n_tensors; i++)
        if (!strcmp(g->tensor[i].name, g->tensor[i - 1].name))
            return status_fail(E_FORMAT, "%s: the tensor %s stands there twice", g->path,
                               g->tensor[i].name);
    return OK;
}

static Status read_all(Gguf *g) {
    Cursor c = {g, 0};
    char magic[4];
    uint32_t version = 0;
    uint64_t n_tensors = 0, n_entries = 0;
    if (g->map.len < 4 || memcmp(g->map.data, "GGUF", 4))
        return status_fail(E_FORMAT, "%s is not a GGUF file", g->path);
    TRY(take(&c, magic, 4));
    TRY(take(&c, &version, 4));
    if (version != 2 && version != 3)
        return status_fail(E_FORMAT,
                           version & 0xffff ? "%s: GGUF version %u is not supported (2 and 3 are)"
                                            : "%s: big-endian GGUF files are not supported",
                           g->path, version);
    TRY(take(&c, &n_tensors, 8));
    TRY(take(&c, &n_entries, 8));
    TRY(read_entries(g, &c, n_entries));
    TRY(read_alignment(g));
    return read_tensors(g, &c, n_tensors);
}

Status gguf_open(Gguf **g, const char *path) {
    Arena arena = {0};
    FileMap map;
    *g = NULL;
    TRY(file_map(&map, path));
    Gguf *new = arena_alloc(&arena, sizeof(*new));
    *new = (Gguf){.map = map, .path = arena_strdup(&arena, path)};
    new->arena = arena;
    Status s = read_all(new);
    if (s == OK)
        *g = new;
    else
        gguf_close(new);
    return s;
}

void gguf_close(Gguf *g) {
    if (!g) return;
    file_unmap(&g->map);
    Arena arena = g->arena;
    arena_release(&arena);
}

const char *gguf_path(const Gguf *g) {
    return g->path;
}

/* ---- metadata ---- */

static Status find(const Gguf *g, const char *key, GgufNeed need, const Entry **e) {
    Entry wanted = {.key = key};
    *e = g->n_entries ? bsearch(&wanted, g->entry, (size_t)g->n_entries, sizeof(wanted), by_key)
                      : NULL;
    if (*e || need == GGUF_OPTIONAL) return OK;
    return status_fail(E_FORMAT, "%s: the key %s is missing", g->path, key);
}

static Status wrong_kind(const Gguf *g, const Entry *e, const char *wanted) {
    return status_fail(E_FORMAT, "%s: %s must be %s, not %s", g->path, e->key, wanted,
                       kind_names[e->kind]);
}

#define NUMBER(type, p)                                                                            \
    do {                                                                                           \
        type v_;                                                                                   \
        memcpy(&v_, p, sizeof(v_));                                                                \
        return (double)v_;                                                                         \
    } while (0)

static double number_at(const uint8_t *p, uint32_t kind) {
    switch (kind) {
    case U8: NUMBER(uint8_t, p);
    case I8: NUMBER(int8_t, p);
    case U16: NUMBER(uint16_t, p);
    case I16: NUMBER(int16_t, p);
    case U32: NUMBER(uint32_t, p);
    case I32: NUMBER(int32_t, p);
    case U64: NUMBER(uint64_t, p);
    case I64: NUMBER(int64_t, p);
    case F32: NUMBER(float, p);
    default: NUMBER(double, p);
    }
}

static int is_float(uint32_t kind) {
    return kind == F32 || kind == F64;
}
static int is_number(uint32_t kind) {
    return kind != BOOL && kind != STRING && kind != ARRAY;
}

static Status int_at(const Gguf *g, const Entry *e, const uint8_t *p, uint32_t kind, int *out) {
    double v = number_at(p, kind);
    if (v < INT32_MIN || v > INT32_MAX)
        return status_fail(E_FORMAT, "%s: %s holds %.0f, which is out of range", g->path, e->key,
                           v);
    *out = (int)v;
    return OK;
}

Status gguf_float(const Gguf *g, const char *key, GgufNeed need, double *out) {
    const Entry *e;
    TRY(find(g, key, need, &e));
    if (!e) return OK;
    if (!is_number(e->kind)) return wrong_kind(g, e, "a number");
    *out = number_at(g->map.data + e->at, e->kind);
    return OK;
}

Status gguf_int(const Gguf *g, const char *key, GgufNeed need, int *out) {
    const Entry *e;
    TRY(find(g, key, need, &e));
    if (!e) return OK;
    if (!is_number(e->kind) || is_float(e->kind)) return wrong_kind(g, e, "an integer");
    return int_at(g, e, g->map.data + e->at, e->kind, out);
}

Status gguf_bool(const Gguf *g, const char *key, GgufNeed need, int *out) {
    const Entry *e;
    TRY(find(g, key, need, &e));
    if (!e) return OK;
    if (e->kind != BOOL) return wrong_kind(g, e, "true or false");
    *out = g->map.data[e->at] != 0;
    return OK;
}

static const char *string_value(Cursor *c, size_t *len) {
    const char *s = NULL;
    CHECK(take_string(c, &s, len) == OK); /* it was walked when the file was opened */
    return s;
}

Status gguf_str(Gguf *g, const char *key, GgufNeed need, const char **out) {
    const Entry *e;
    TRY(find(g, key, need, &e));
    if (!e) return OK;
    if (e->kind != STRING) return wrong_kind(g, e, "a string");
    size_t len;
    const char *s = string_value(&(Cursor){g, e->at}, &len);
    *out = arena_strndup(&g->arena, s, len);
    return OK;
}

/* Moves c to the first element of an array. */
static Status enter_array(const Gguf *g, const Entry *e, Cursor *c, uint32_t *of, int *n) {
    uint64_t count = 0;
    if (e->kind != ARRAY) return wrong_kind(g, e, "an array");
    *c = (Cursor){g, e->at};
    TRY(take(c, of, 4));
    TRY(take(c, &count, 8));
    if (count > INT32_MAX) return status_fail(E_FORMAT, "%s: %s is too long", g->path, e->key);
    *n = (int)count;
    return OK;
}

Status gguf_strings(Gguf *g, const char *key, GgufNeed need, const char *const **out, int *n) {
    const Entry *e;
    Cursor c;
    uint32_t of = 0;
    TRY(find(g, key, need, &e));
    if (!e) return OK;
    TRY(enter_array(g, e, &c, &of, n));
    if (of != STRING) return status_fail(E_FORMAT, "%s: %s must hold strings", g->path, e->key);
    Cursor end = c;
    for (int i = 0; i < *n; i++) string_value(&end, &(size_t){0});
    /* the eight bytes of every length leave room for its NUL */
    char *pool = arena_alloc(&g->arena, end.at - c.at + 1);
    const char **v = arena_alloc(&g->arena, (size_t)*n * sizeof(*v));
    for (int i = 0; i < *n; i++) {
        size_t len;
        const char *s = string_value(&c, &len);
        memcpy(pool, s, len);
        v[i] = pool;
        pool += len + 1;
    }
    *out = v;
    return OK;
}

Status gguf_ints(Gguf *g, const char *key, GgufNeed need, const int **out, int *n) {
    const Entry *e;
    Cursor c;
    uint32_t of = 0;
    TRY(find(g, key, need, &e));
    if (!e) return OK;
    TRY(enter_array(g, e, &c, &of, n));
    if (!is_number(of) || is_float(of))
        return status_fail(E_FORMAT, "%s: %s must hold integers", g->path, e->key);
    int *v = arena_alloc(&g->arena, (size_t)*n * sizeof(*v));
    for (int i = 0; i < *n; i++)
        TRY(int_at(g, e, g->map.data + c.at + (size_t)i * (size_t)kind_bytes[of], of, &v[i]));
    *out = v;
    return OK;
}

/* ---- tensors ---- */

int gguf_n_tensors(const Gguf *g) {
    return g->n_tensors;
}

const GgufTensor *gguf_tensor_at(const Gguf *g, int i) {
    CHECK(i >= 0 && i < g->n_tensors);
    return &g->tensor[i];
}

const GgufTensor *gguf_tensor(const Gguf *g, const char *name) {
    GgufTensor wanted = {.name = name};
    return g->n_tensors ? bsearch(&wanted, g->tensor, (size_t)g->n_tensors, sizeof(wanted), by_name)
                        : NULL;
}

Status gguf_read(const Gguf *g, const GgufTensor *t, size_t first_row, size_t n_rows, float *out) {
    size_t row_bytes = 0;
    if (!gguf_row_bytes(t->type, t->cols, &row_bytes))
        return status_fail(E_FORMAT, "%s: tensor %s is of type %s, which is not supported", g->path,
                           t->name, t->dtype);
    if (first_row > t->rows || n_rows > t->rows - first_row)
        return status_fail(E_USAGE, "%s: tensor %s has %zu rows, not %zu", g->path, t->name,
                           t->rows, first_row + n_rows);
    gguf_dequantize(t->type, t->data + first_row * row_bytes, n_rows * t->cols, out);
    return OK;
}
