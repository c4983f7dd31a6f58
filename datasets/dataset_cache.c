/* dataset_cache.c - tokenized rows in a file, so that a second run does not tokenize again.
 *
 * The name holds a hash of the data file's content, of the tokenizer and of every setting that
 * changes rows; the content is one zstd frame: a header, the rows, and a hash of all before it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include "core/base/file.h"
#include "core/base/log.h"
#include "datasets/dataset_parts.h"

enum { CACHE_VERSION = 3 };
static const char magic[8] = "RLHFROW2";
static const size_t CACHE_MAX = (size_t)8 << 30;

static uint64_t hash_text(const char *s, uint64_t h) {
    return file_hash(s ? s : "", s ? strlen(s) + 1 : 0, h);
}

static uint64_t hash_config(const DataConfig *cfg, RowKind kind) {
    int numbers[] = {CACHE_VERSION, (int)kind, cfg->max_length, cfg->max_prompt_length, cfg->limit};
    const char *texts[] = {cfg->layout,       cfg->system,        cfg->truncate_prompt,
                           cfg->bad_rows,     cfg->prompt_key,    cfg->chosen_key,
                           cfg->rejected_key, cfg->completion_key};
    uint64_t h = file_hash(numbers, sizeof(numbers), 0);
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) h = hash_text(texts[i], h);
    return h;
}

Status cache_name(Text *name, const DataConfig *cfg, const char *path, RowKind kind,
                  const Tokenizer *t) {
    FileMap map;
    if (!cfg->cache || !cfg->cache[0]) return OK;
    TRY(file_map(&map, path));
    uint64_t h = file_hash(map.data, map.len, hash_config(cfg, kind) ^ tokenizer_hash(t));
    file_unmap(&map);
    h = hash_text(path, h); /* messages and rejects name the file */
    text_addf(name, "%s/%016llx.rows", cfg->cache, (unsigned long long)h);
    return OK;
}

/* ---- writing ---- */

static void put_int(Text *t, int64_t v) {
    text_add_bytes(t, (const char *)&v, sizeof(v));
}

static void put_bytes(Text *t, const void *data, size_t n) {
    put_int(t, (int64_t)n);
    text_add_bytes(t, data, n);
}

static void put_string(Text *t, const char *s) {
    if (s)
        put_bytes(t, s, strlen(s));
    else
        put_int(t, -1);
}

static void put_sequence(Text *t, const Sequence *q) {
    put_int(t, q->n_prompt);
    put_bytes(t, q->ids, (size_t)q->n * sizeof(*q->ids));
    put_bytes(t, q->trained, (size_t)q->n);
}

static void put_row(Text *t, const Row *row) {
    put_int(t, row->line);
    put_bytes(t, &row->margin, sizeof(row->margin));
    put_sequence(t, &row->a);
    put_sequence(t, &row->b);
    put_string(t, row->prompt);
    put_string(t, row->completion);
    put_string(t, row->source);
    put_string(t, row->subset);
}

static void put_findings(Text *t, const Dataset *d) {
    put_bytes(t, d->found, sizeof(d->found));
    put_int(t, d->n_findings);
    for (int i = 0; i < d->n_findings; i++) {
        put_int(t, d->findings[i].line);
        put_int(t, d->findings[i].fault);
        put_string(t, d->findings[i].reason);
    }
}

static void put_all(Text *t, const Dataset *d, const Text *rejects) {
    text_add_bytes(t, magic, sizeof(magic));
    const int numbers[] = {d->n, d->dropped_bad, (int)d->kind, d->n_read};
    const Lengths lengths[] = {d->prompt, d->completion, d->whole};
    put_bytes(t, numbers, sizeof(numbers));
    put_bytes(t, lengths, sizeof(lengths));
    put_findings(t, d);
    put_int(t, (int64_t)d->hash);
    put_bytes(t, rejects->s ? rejects->s : "", rejects->len);
    for (int i = 0; i < d->n; i++) put_row(t, &d->rows[i]);
    put_int(t, (int64_t)file_hash(t->s, t->len, 0));
}

void cache_store(const Dataset *d, const Text *rejects, const char *name) {
    Text plain = {0};
    char *slash = strrchr(name, '/'), *dir = strndup(name, (size_t)(slash - name));
    put_all(&plain, d, rejects);
    size_t bound = ZSTD_compressBound(plain.len);
    void *packed = malloc(bound);
    size_t n = packed ? ZSTD_compress(packed, bound, plain.s, plain.len, 3) : 0;
    if (!dir || !packed || ZSTD_isError(n))
        log_warn("the cache %s was not written: memory ran out", name);
    else if (file_mkdirs(dir) != OK || file_write_atomic(name, packed, n) != OK)
        log_warn("the cache was not written: %s", status_message());
    free(packed);
    free(dir);
    text_release(&plain);
}

/* ---- reading ---- */

typedef struct {
    const char *p;
    size_t left;
    int bad;
    Arena *arena;
} Reader;

static void take(Reader *r, void *out, size_t n) {
    if (n > r->left) r->bad = 1;
    if (r->bad) {
        memset(out, 0, n);
        return;
    }
    memcpy(out, r->p, n);
    r->p += n;
    r->left -= n;
}

static int64_t take_int(Reader *r) {
    int64_t v;
    take(r, &v, sizeof(v));
    return v;
}

static char *take_bytes(Reader *r, size_t *n) {
    int64_t len = take_int(r);
    *n = 0;
    if (len < 0 || (uint64_t)len > r->left) {
        r->bad |= len != -1;
        return NULL;
    }
    *n = (size_t)len;
    char *s = arena_alloc(r->arena, *n + 1);
    take(r, s, *n);
    return s;
}

static void take_exactly(Reader *r, void *out, size_t n) {
    if (take_int(r) != (int64_t)n) r->bad = 1;
    take(r, out, n);
}

static void take_sequence(Reader *r, Sequence *q) {
    size_t ids = 0, flags = 0;
    int64_t n_prompt = take_int(r);
    q->ids = (const int *)take_bytes(r, &ids);
    q->trained = (const uint8_t *)take_bytes(r, &flags);
    if (ids != flags * sizeof(int) || n_prompt < 0 || n_prompt > (int64_t)flags) r->bad = 1;
    q->n = (int)flags;
    q->n_prompt = (int)n_prompt;
}

static void take_row(Reader *r, Row *row) {
    size_t n;
    row->line = (int)take_int(r);
    take_exactly(r, &row->margin, sizeof(row->margin));
    take_sequence(r, &row->a);
    take_sequence(r, &row->b);
    row->prompt = take_bytes(r, &n);
    row->completion = take_bytes(r, &n);
    row->source = take_bytes(r, &n);
    row->subset = take_bytes(r, &n);
    if (!row->prompt || !row->source || !row->subset) r->bad = 1;
}

static void take_findings(Reader *r, Dataset *d) {
    int found[ROW_FAULTS];
    size_t len;
    take_exactly(r, found, sizeof(found));
    int64_t n = take_int(r);
    if (n < 0 || n > FINDINGS_MAX) r->bad = 1;
    for (int64_t i = 0; i < n && !r->bad; i++) {
        int64_t line = take_int(r), fault = take_int(r);
        const char *reason = take_bytes(r, &len);
        if (fault < 0 || fault >= ROW_FAULTS || !reason) r->bad = 1;
        if (!r->bad) dataset_note(d, (int)line, (RowFault)fault, reason);
    }
    memcpy(d->found, found, sizeof(found));
}

static int read_all(Dataset *d, Text *rejects, const char *plain, size_t len) {
    uint64_t check = 0;
    int numbers[4];
    Lengths lengths[3];
    char head[8];
    if (len < sizeof(head) + sizeof(check)) return 0;
    memcpy(&check, plain + len - sizeof(check), sizeof(check));
    if (check != file_hash(plain, len - sizeof(check), 0)) return 0;

    Reader r = {plain, len - sizeof(check), 0, &d->arena};
    take(&r, head, sizeof(head));
    take_exactly(&r, numbers, sizeof(numbers));
    take_exactly(&r, lengths, sizeof(lengths));
    if (r.bad || memcmp(head, magic, sizeof(head)) || numbers[0] < 0 || (size_t)numbers[0] > r.left)
        return 0;
    d->n = numbers[0];
    d->dropped_bad = numbers[1];
    d->kind = (RowKind)numbers[2];
    d->n_read = numbers[3];
    d->prompt = lengths[0], d->completion = lengths[1], d->whole = lengths[2];
    take_findings(&r, d);
    d->hash = (uint64_t)take_int(&r);
    size_t n;
    const char *lines = take_bytes(&r, &n);
    if (lines) text_add_bytes(rejects, lines, n);
    d->rows = arena_alloc(&d->arena, (size_t)d->n * sizeof(*d->rows));
    for (int i = 0; i < d->n && !r.bad; i++) take_row(&r, &d->rows[i]);
    return !r.bad && r.left == 0;
}

static int unpack(Dataset *d, Text *rejects, const FileMap *map) {
    unsigned long long size = ZSTD_getFrameContentSize(map->data, map->len);
    if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR || size > CACHE_MAX)
        return 0;
    char *plain = malloc((size_t)size + 1);
    if (!plain) return 0;
    size_t n = ZSTD_decompress(plain, (size_t)size, map->data, map->len);
    int good = !ZSTD_isError(n) && n == size && read_all(d, rejects, plain, n);
    free(plain);
    return good;
}

int cache_load(Dataset *d, Text *rejects, const char *name) {
    FileMap map;
    if (!file_exists(name)) return 0;
    int good = file_map(&map, name) == OK;
    if (good) {
        good = unpack(d, rejects, &map);
        file_unmap(&map);
    }
    if (good) return 1;
    log_warn("the cache %s is corrupt: its rows are tokenized again", name);
    arena_release(&d->arena);
    text_clear(rejects);
    *d = (Dataset){0};
    return 0;
}
