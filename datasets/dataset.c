/* dataset.c - reads a JSONL file into rows, counting what it leaves out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/stream.h"
#include "datasets/dataset_parts.h"

const Field data_fields[] = {
    FIELD(DataConfig, train, FIELD_LIST, "", "JSONL files to train on (.zst and .gz, too)"),
    FIELD(DataConfig, weights, FIELD_LIST, "",
          "share of each training file in the mixture; empty: by its rows"),
    FIELD(DataConfig, eval, FIELD_STRING, "", "JSONL file to evaluate on"),
    FIELD_OF(DataConfig, layout, "auto", "auto|plain|chatml",
             "how prompts and messages become text"),
    FIELD(DataConfig, system, FIELD_STRING, "", "system message for rows that have none"),
    FIELD_IN(DataConfig, max_length, FIELD_INT, "1024", 2, 1 << 24,
             "tokens of prompt and completion; longer rows are dropped and counted"),
    FIELD_IN(DataConfig, max_prompt_length, FIELD_INT, "0", 0, 1 << 24,
             "tokens of the prompt; 0 sets no limit of its own"),
    FIELD_OF(DataConfig, truncate_prompt, "refuse", "refuse|left",
             "a prompt over max_prompt_length: drop its row, or cut it on the left"),
    FIELD(DataConfig, bad_rows, FIELD_STRING, "stop",
          "stop at a bad row, or skip:N to leave out at most N"),
    FIELD(DataConfig, cache, FIELD_STRING, "", "folder for tokenized rows"),
    FIELD_IN(DataConfig, limit, FIELD_INT, "0", 0, INT32_MAX,
             "use only this many rows of each training file; 0: all"),
    FIELD_IN(DataConfig, eval_limit, FIELD_INT, "0", 0, INT32_MAX,
             "use only this many rows of the eval file; 0: all"),
    FIELD(DataConfig, prompt_key, FIELD_STRING, "prompt", "column of the prompt"),
    FIELD(DataConfig, chosen_key, FIELD_STRING, "chosen", "column of the better answer"),
    FIELD(DataConfig, rejected_key, FIELD_STRING, "rejected", "column of the worse answer"),
    FIELD(DataConfig, completion_key, FIELD_STRING, "completion", "column of the completion"),
};
const int data_n_fields = sizeof(data_fields) / sizeof(*data_fields);

typedef struct {
    Dataset *d;
    const DataConfig *cfg;
    const char *path;
    Renderer render;
    int bad_allowed; /* -1: stop at the first */
    Text rejects;
    Ids lengths;
    uint64_t *seen; /* open addressing, 0 is free */
    size_t seen_mask;
    int cap;
    Arena scratch; /* of one row */
} Build;

typedef enum { ROW_KEPT, ROW_LONG } Outcome;

/* ---- one row ---- */

static Sequence copy_sequence(Arena *a, const Renderer *r) {
    size_t n = (size_t)r->ids.n;
    int *ids = arena_alloc(a, n * sizeof(*ids));
    uint8_t *trained = arena_alloc(a, n);
    memcpy(ids, r->ids.v, n * sizeof(*ids));
    memcpy(trained, r->trained.s, n);
    return (Sequence){ids, trained, r->ids.n, r->n_prompt};
}

/* An answer may not bring its own end: it would stand there twice, once as text. */
static Status check_answer(const Build *b, const JsonDoc *doc, const char *answer) {
    int n_ends;
    const int *ends = tokenizer_eos_ids(b->render.t, &n_ends);
    Status s = OK;
    for (int i = 0; i < n_ends && s == OK; i++) {
        Text name = {0};
        s = tokenizer_decode(b->render.t, &ends[i], 1, 1, &name);
        size_t n = strlen(answer);
        if (s == OK && name.len && n >= name.len &&
            !memcmp(answer + n - name.len, name.s, name.len))
            s = json_fail(doc, NULL, "an answer ends with the text %s, which is added by itself",
                          name.s);
        text_release(&name);
    }
    return s;
}

static int prompt_fits(Build *b) {
    Renderer *r = &b->render;
    int limit = b->cfg->max_prompt_length, extra = r->n_prompt - limit;
    if (limit <= 0 || extra <= 0) return 1;
    if (!b->cfg->truncate_prompt || strcmp(b->cfg->truncate_prompt, "left")) return 0;
    memmove(r->ids.v, r->ids.v + extra, (size_t)(r->ids.n - extra) * sizeof(int));
    memmove(r->trained.s, r->trained.s + extra, r->trained.len - (size_t)extra);
    r->ids.n -= extra;
    r->trained.len -= (size_t)extra;
    r->n_prompt -= extra;
    return 1;
}

static Status answer_sequence(Build *b, const JsonDoc *doc, const char *answer, Sequence *out) {
    TRY(check_answer(b, doc, answer));
    TRY(render_status(doc, render_answer(&b->render, answer)));
    if (b->render.ids.n - b->render.n_prompt < 2)
        return json_fail(doc, NULL, "nothing to train on: an answer has no token but its end");
    *out = copy_sequence(&b->scratch, &b->render);
    return OK;
}

static int same_ids(const Sequence *a, const Sequence *b) {
    return a->n == b->n && !memcmp(a->ids, b->ids, (size_t)a->n * sizeof(int));
}

/* A prompt with the answers that rows of this kind have. */
static Status prompted_row(Build *b, const JsonDoc *doc, const Example *e, Row *row,
                           Outcome *outcome) {
    Renderer *r = &b->render;
    TRY(render_status(doc, render_prompt(r, e)));
    row->prompt = arena_strndup(&b->scratch, r->text.s, r->text.len);
    row->completion = e->answer[0];
    if (r->n_prompt < 1) return json_fail(doc, NULL, "the prompt has no token");
    if (!prompt_fits(b)) {
        *outcome = ROW_LONG;
        return OK;
    }
    if (b->d->kind == ROWS_PROMPTS) {
        row->a = copy_sequence(&b->scratch, r);
        return OK;
    }
    TRY(answer_sequence(b, doc, e->answer[0], &row->a));
    if (b->d->kind != ROWS_PAIRS) return OK;
    TRY(answer_sequence(b, doc, e->answer[1], &row->b));
    return same_ids(&row->a, &row->b)
               ? json_fail(doc, NULL, "chosen and rejected have the same tokens")
               : OK;
}

static Status whole_row(Build *b, const JsonDoc *doc, const Example *e, Row *row,
                        Outcome *outcome) {
    Renderer *r = &b->render;
    int trained = 0;
    TRY(render_status(doc, render_all(r, e, &row->completion)));
    for (int i = 0; i < e->n; i++)
        if (e->is_text || e->turn[i].role == ROLE_ASSISTANT)
            TRY(check_answer(b, doc, e->turn[i].content));
    row->prompt = arena_strndup(&b->scratch, r->text.s, r->prompt_text);
    if (!prompt_fits(b)) *outcome = ROW_LONG;
    for (int i = 1; i < r->ids.n; i++)
        trained += r->trained.s[i] && !tokenizer_is_eos(r->t, r->ids.v[i]);
    if (!trained) return json_fail(doc, NULL, "nothing to train on: there is no token but the end");
    row->a = copy_sequence(&b->scratch, r);
    return OK;
}

static Status build_row(Build *b, const JsonDoc *doc, Row *row, Outcome *outcome) {
    Example e;
    *outcome = ROW_KEPT;
    TRY(example_read(&e, &b->scratch, b->cfg, b->d->kind, doc));
    row->subset = e.subset;
    row->margin = e.margin;
    TRY(e.is_text || e.is_conversation ? whole_row(b, doc, &e, row, outcome)
                                       : prompted_row(b, doc, &e, row, outcome));
    int longest = row->a.n > row->b.n ? row->a.n : row->b.n;
    if (longest > b->cfg->max_length) *outcome = ROW_LONG;
    return OK;
}

/* ---- all rows ---- */

static int seen_before(Build *b, uint64_t hash) {
    if (!hash) hash = 1;
    size_t i = hash & b->seen_mask;
    for (; b->seen[i]; i = (i + 1) & b->seen_mask)
        if (b->seen[i] == hash) return 1;
    b->seen[i] = hash;
    return 0;
}

static Status grow_seen(Build *b) {
    size_t old_n = b->seen_mask + 1, n = b->seen ? 2 * old_n : 1 << 12;
    uint64_t *old = b->seen;
    if (old && 2 * (size_t)b->d->n < old_n) return OK;
    b->seen = calloc(n, sizeof(*b->seen));
    if (!b->seen) {
        b->seen = old;
        return status_fail(E_MEMORY, "%s: memory ran out after %d rows", b->path, b->d->n);
    }
    b->seen_mask = n - 1;
    for (size_t i = 0; old && i < old_n; i++)
        if (old[i]) seen_before(b, old[i]);
    free(old);
    return OK;
}

static uint64_t hash_sequence(const Sequence *q, uint64_t h) {
    int numbers[] = {q->n, q->n_prompt};
    return file_hash(q->ids, (size_t)q->n * sizeof(int), file_hash(numbers, sizeof(numbers), h));
}

static Sequence keep_sequence(Arena *a, const Sequence *q) {
    int *ids = arena_alloc(a, (size_t)q->n * sizeof(*ids));
    uint8_t *trained = arena_alloc(a, (size_t)q->n);
    if (q->n) memcpy(ids, q->ids, (size_t)q->n * sizeof(*ids));
    if (q->n) memcpy(trained, q->trained, (size_t)q->n);
    return (Sequence){ids, trained, q->n, q->n_prompt};
}

static Status keep_row(Build *b, const Row *row, const char *line, size_t len) {
    Dataset *d = b->d;
    TRY(grow_seen(b));
    if (d->n == b->cap) {
        if (b->cap > INT32_MAX / 4) return status_fail(E_FORMAT, "%s has too many rows", b->path);
        b->cap = b->cap ? 2 * b->cap : 256;
        Row *rows = arena_alloc(&d->arena, (size_t)b->cap * sizeof(*rows));
        if (d->n) memcpy(rows, d->rows, (size_t)d->n * sizeof(*rows));
        d->rows = rows;
    }
    Row *kept = &d->rows[d->n++];
    *kept = *row;
    kept->a = keep_sequence(&d->arena, &row->a);
    kept->b = keep_sequence(&d->arena, &row->b);
    kept->prompt = arena_strdup(&d->arena, row->prompt);
    kept->completion = row->completion ? arena_strdup(&d->arena, row->completion) : NULL;
    kept->subset = arena_strdup(&d->arena, row->subset);
    kept->source = arena_strndup(&d->arena, line, len);

    uint64_t h = hash_sequence(&row->b, hash_sequence(&row->a, 0));
    d->duplicates += seen_before(b, h);
    d->hash = file_hash(&h, sizeof(h), d->hash);
    ids_add(&b->lengths, row->a.n > row->b.n ? row->a.n : row->b.n);
    return OK;
}

static void note_reject(Build *b, const char *line, size_t len, int number) {
    Text *t = &b->rejects;
    text_add(t, "{\"file\":");
    json_put_string(t, b->path);
    text_addf(t, ",\"line\":%d,\"reason\":", number);
    json_put_string(t, status_message());
    text_add(t, ",\"row\":");
    json_put_string_n(t, line, len);
    text_add(t, "}\n");
}

static Status bad_row(Build *b, const char *line, size_t len, int number) {
    if (b->bad_allowed < 0) return E_FORMAT;
    b->d->dropped_bad++;
    if (b->d->dropped_bad > b->bad_allowed)
        return status_context(E_FORMAT, "more than the %d bad rows that data.bad_rows allows",
                              b->bad_allowed);
    note_reject(b, line, len, number);
    return OK;
}

static Status read_line(Build *b, const char *line, size_t len, int number) {
    JsonDoc *doc = NULL;
    Row row = {.line = number, .subset = "", .margin = NAN};
    Outcome outcome = ROW_KEPT;
    arena_clear(&b->scratch);
    Status s = json_parse(&doc, b->path, number, line, len, JSON_STRICT);
    if (s == OK) s = build_row(b, doc, &row, &outcome);
    if (s == E_FORMAT)
        s = bad_row(b, line, len, number);
    else if (s == OK && outcome == ROW_LONG)
        b->d->dropped_long++;
    else if (s == OK)
        s = keep_row(b, &row, line, len);
    json_release(doc);
    return s;
}

static Status read_lines(Build *b, LineReader *lines) {
    const char *line;
    size_t len;
    int number;
    while (b->cfg->limit <= 0 || b->d->n < b->cfg->limit) {
        TRY(lines_next(lines, &line, &len, &number));
        if (!line) break;
        if (len > 0) TRY(read_line(b, line, len, number));
    }
    return OK;
}

static int ascending(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}

static void measure(Build *b) {
    Dataset *d = b->d;
    if (!d->n) return;
    qsort(b->lengths.v, (size_t)d->n, sizeof(int), ascending);
    d->lengths_p50 = b->lengths.v[d->n / 2];
    d->lengths_p95 = b->lengths.v[(int)((int64_t)d->n * 95 / 100)];
    d->lengths_max = b->lengths.v[d->n - 1];
}

static Status read_bad_rows(const char *setting, int *allowed) {
    char end;
    *allowed = -1;
    if (!setting || !setting[0] || !strcmp(setting, "stop")) return OK;
    if (sscanf(setting, "skip:%d%c", allowed, &end) == 1 && *allowed >= 0) return OK;
    return status_fail(E_USAGE, "data.bad_rows is \"stop\" or \"skip:N\", not \"%s\"", setting);
}

static Status build(Build *b) {
    LineReader *lines;
    TRY(read_bad_rows(b->cfg->bad_rows, &b->bad_allowed));
    TRY(lines_open(&lines, b->path));
    Status s = read_lines(b, lines);
    lines_close(lines);
    if (s == OK) measure(b);
    return s;
}

/* ---- rejected rows ---- */

/* Lines of the rejects file that belong to other data files stay. */
static void keep_others(Text *out, const char *old, const char *path) {
    Text mine = {0};
    text_add(&mine, "{\"file\":");
    json_put_string(&mine, path);
    text_add(&mine, ",");
    for (const char *line = old; *line;) {
        const char *end = strchr(line, '\n');
        size_t n = end ? (size_t)(end - line) + 1 : strlen(line);
        if (strncmp(line, mine.s, mine.len)) text_add_bytes(out, line, n);
        line += n;
    }
    text_release(&mine);
}

static Status write_rejects(const char *rejects_path, const char *path, const Text *lines) {
    Text out = {0};
    Arena arena = {0};
    char *old = NULL;
    size_t len;
    if (!rejects_path || (!lines->len && !file_exists(rejects_path))) return OK;
    Status s = file_exists(rejects_path)
                   ? file_read(&arena, &old, &len, rejects_path, (size_t)1 << 31)
                   : OK;
    if (s == OK) {
        if (old) keep_others(&out, old, path);
        if (lines->len) text_add_bytes(&out, lines->s, lines->len);
        s = file_write_atomic(rejects_path, out.s ? out.s : "", out.len);
    }
    text_release(&out);
    arena_release(&arena);
    return s;
}

/* ---- a data set ---- */

Status dataset_open(Dataset *d, const DataConfig *cfg, const char *path, RowKind kind,
                    const Tokenizer *t, const char *rejects_path) {
    Text name = {0};
    Build b = {.d = d, .cfg = cfg, .path = path};
    *d = (Dataset){0};
    Status s = cache_name(&name, cfg, path, kind, t);
    if (s == OK && (!name.len || !cache_load(d, &b.rejects, name.s))) {
        d->kind = kind;
        renderer_init(&b.render, t, cfg);
        s = build(&b);
        if (s == OK && name.len) cache_store(d, &b.rejects, name.s);
    }
    if (s == OK) s = write_rejects(rejects_path, path, &b.rejects);
    renderer_release(&b.render);
    text_release(&b.rejects);
    text_release(&name);
    ids_release(&b.lengths);
    free(b.seen);
    arena_release(&b.scratch);
    if (s != OK) dataset_release(d);
    return s;
}

void dataset_release(Dataset *d) {
    arena_release(&d->arena);
    *d = (Dataset){0};
}

/* Quoted and cut to n bytes, so that a sample stays on its line. */
static void put_excerpt(Text *t, const char *s, size_t n) {
    size_t len = strlen(s), cut = len > n ? n : len;
    while (cut < len && cut > 0 && ((uint8_t)s[cut] & 0xc0) == 0x80) cut--;
    json_put_string_n(t, s, cut);
    if (cut < len) text_add(t, "...");
}

void dataset_report(const Dataset *d, const char *path) {
    Text t = {0};
    text_addf(&t, "%s: %d rows of %d tokens (median; 95%%: %d, longest: %d)", path, d->n,
              d->lengths_p50, d->lengths_p95, d->lengths_max);
    if (d->dropped_long) text_addf(&t, ", %d too long and dropped", d->dropped_long);
    if (d->dropped_bad) text_addf(&t, ", %d bad and left out", d->dropped_bad);
    if (d->duplicates) text_addf(&t, ", %d duplicates", d->duplicates);
    log_info("%s", t.s);
    if (d->n) {
        text_clear(&t);
        put_excerpt(&t, d->rows[0].prompt, 240);
        if (d->rows[0].completion) {
            text_add(&t, " -> ");
            put_excerpt(&t, d->rows[0].completion, 160);
        }
        log_info("  line %d: %s", d->rows[0].line, t.s);
    }
    text_release(&t);
}
