/* rows.c - see rows.h. */
#include "policy/rows.h"

#include <string.h>

/* A fill ends early at either: rows may be long. */
enum { TOKENS_AT_ONCE = 1 << 14, BYTES_AT_ONCE = 8 << 20 };

static void drop_rows(Rows *r) {
    r->done += r->n;
    while (r->n) json_release(r->doc[--r->n]);
    r->ids.n = 0;
}

static Status take_row(Rows *r, const JsonDoc *doc, RowEncode encode, void *ctx) {
    int start = r->ids.n;
    if (json_type(json_root(doc)) != JSON_OBJECT)
        return json_fail(doc, json_root(doc), "a row must be an object, not %s",
                         json_type_name(json_type(json_root(doc))));
    TRY(encode(ctx, doc, &r->ids));
    int n = r->ids.n - start;
    if (n < r->least) return json_fail(doc, NULL, "the row has no token");
    if (n > r->most)
        return json_fail(doc, NULL, "the row has %d tokens, the model takes at most %d here", n,
                         r->most);
    r->starts[r->n] = r->ids.n;
    return OK;
}

/* The next rows; n = 0 at the end. */
static Status fill(Rows *r, RowEncode encode, void *ctx) {
    size_t bytes = 0;
    drop_rows(r);
    r->starts[0] = 0;
    while (r->n < ROWS_AT_ONCE && r->ids.n < TOKENS_AT_ONCE && bytes < BYTES_AT_ONCE) {
        const char *line;
        size_t len;
        int number;
        TRY(lines_next(r->in, &line, &len, &number));
        if (!line) break;
        if (!len) continue;
        bytes += len;
        TRY(json_parse(&r->doc[r->n], r->path, number, line, len, JSON_STRICT));
        r->n++;
        TRY(take_row(r, r->doc[r->n - 1], encode, ctx));
    }
    return OK;
}

static int is_one_of(const char *key, const char *const *keys) {
    for (; *keys; keys++)
        if (!strcmp(key, *keys)) return 1;
    return 0;
}

Text *rows_begin(Rows *r, int i, const char *const *own) {
    text_clear(&r->line);
    text_add(&r->line, "{");
    for (const Json *m = json_first(json_root(r->doc[i])); m; m = json_next(m)) {
        if (is_one_of(json_key(m), own)) continue;
        json_put_key(&r->line, json_key(m));
        json_put_node(&r->line, m);
    }
    return &r->line;
}

Status rows_put(Rows *r) {
    text_add(&r->line, "}");
    return line_writer_add(r->out, r->line.s, r->line.len);
}

static Status finish(Rows *r, Status s) {
    drop_rows(r);
    lines_close(r->in);
    if (s == OK)
        s = line_writer_commit(r->out);
    else
        line_writer_abort(r->out);
    ids_release(&r->ids);
    text_release(&r->line);
    return s;
}

Status rows_run(const char *data, const char *out, int least, int most, RowEncode encode,
                RowsWork work, void *ctx) {
    Rows r = {.path = data, .least = least, .most = most};
    if (!data[0]) return status_fail(E_USAGE, "--data FILE.jsonl is missing");
    if (!out[0]) return status_fail(E_USAGE, "--out needs a file, or - for standard output");
    Status s = lines_open(&r.in, data);
    if (s == OK) s = line_writer_open(&r.out, out);
    if (s == OK) s = fill(&r, encode, ctx);
    while (s == OK && r.n) {
        s = work(ctx, &r);
        if (s == OK) s = fill(&r, encode, ctx);
    }
    return finish(&r, s);
}

Status row_ids(const JsonDoc *doc, int vocab, Ids *ids) {
    const Json *list;
    TRY(json_get_node(doc, json_root(doc), "ids", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *n = json_first(list); n; n = json_next(n)) {
        if (json_type(n) != JSON_NUMBER)
            return json_fail(doc, n, "ids must hold numbers, not %s", json_type_name(json_type(n)));
        double id = json_num(n);
        if (!(id >= 0 && id < vocab) || id != (double)(int)id)
            return json_fail(doc, n, "%.17g is no token id: the model has the ids 0 to %d", id,
                             vocab - 1);
        ids_add(ids, (int)id);
    }
    return OK;
}
