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
    RowFault fault;  /* of the row at hand, where it is refused */
    int cut;         /* its prompt was cut on the left */
    Text rejects;
    Ids prompt, completion, whole; /* lengths */
    uint64_t *seen;                /* open addressing, 0 is free */
    size_t seen_mask;
    int cap;
    Arena scratch; /* of one row */
} Build;

typedef enum { ROW_KEPT, ROW_LONG } Outcome;

/* ---- one row ---- */

/* What the sentence that follows is about. */
static const JsonDoc *fault(Build *b, const JsonDoc *doc, RowFault f) {
    b->fault = f;
    return doc;
}

static Sequence copy_sequence(Arena *a, const Renderer *r) {
    size_t n = (size_t)r->ids.n;
    int *ids = arena_alloc(a, n * sizeof(*ids));
    uint8_t *trained = arena_alloc(a, n);
    memcpy(ids, r->ids.v, n * sizeof(*ids));
    memcpy(trained, r->trained.s, n);
    return (Sequence){ids, trained, r->ids.n, r->n_prompt};
}

/* A prompt may not bring its own beginning-of-sequence token, be it as text. */
static Status check_beginning(Build *b, const JsonDoc *doc) {
    const Renderer *r = &b->render;
    int bos = tokenizer_bos(r->t);
    Text name = {0};
    Status s = bos >= 0 ? tokenizer_decode(r->t, &bos, 1, 1, &name) : OK;
    size_t n = name.len;
    if (s == OK && n && r->text.len >= 2 * n && !memcmp(r->text.s, name.s, n) &&
        !memcmp(r->text.s + n, name.s, n))
        s = json_fail(fault(b, doc, FAULT_DOUBLED), NULL,
                      "the prompt begins with %s, which is added by itself", name.s);
    text_release(&name);
    return s;
}

static Status check_ends(Build *b, const JsonDoc *doc) {
    const Renderer *r = &b->render;
    for (int i = 1; i < r->ids.n; i++)
        if (r->trained.s[i] && r->trained.s[i - 1] && tokenizer_is_eos(r->t, r->ids.v[i]) &&
            tokenizer_is_eos(r->t, r->ids.v[i - 1]))
            return json_fail(fault(b, doc, FAULT_DOUBLED), NULL,
                             "an answer ends with two end-of-sequence tokens");
    return OK;
}

/* An answer may not bring its own end: it would stand there twice, once as text. */
static Status check_answer(Build *b, const JsonDoc *doc, const char *answer) {
    int n_ends;
    const int *ends = tokenizer_eos_ids(b->render.t, &n_ends);
    Status s = OK;
    for (int i = 0; i < n_ends && s == OK; i++) {
        Text name = {0};
        s = tokenizer_decode(b->render.t, &ends[i], 1, 1, &name);
        size_t n = strlen(answer);
        if (s == OK && name.len && n >= name.len &&
            !memcmp(answer + n - name.len, name.s, name.len))
            s = json_fail(fault(b, doc, FAULT_DOUBLED), NULL,
                          "an answer ends with the text %s, which is added by itself", name.s);
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
    b->cut = 1;
    r->ids.n -= extra;
    r->trained.len -= (size_t)extra;
    r->n_prompt -= extra;
    return 1;
}

/* *seam is set where the answer begins inside of what would be one token. */
static Status answer_sequence(Build *b, const JsonDoc *doc, const char *answer, Sequence *out,
                              int *seam) {
    TRY(check_answer(b, doc, answer));
    Status s = render_answer(&b->render, answer);
    if (b->render.differs) b->fault = FAULT_NOT_PREFIX;
    TRY(render_status(doc, s));
    TRY(check_ends(b, doc));
    if (b->render.ids.n - b->render.n_prompt < 2)
        return json_fail(fault(b, doc, FAULT_UNTRAINED), NULL,
                         "nothing to train on: an answer has no token but its end");
    if (!b->cut) TRY(render_seam(&b->render, answer, seam));
    *out = copy_sequence(&b->scratch, &b->render);
    return OK;
}

static int same_ids(const Sequence *a, const Sequence *b) {
    return a->n == b->n && !memcmp(a->ids, b->ids, (size_t)a->n * sizeof(int));
}

/* A prompt with the answers that rows of this kind have. */
static Status prompted_row(Build *b, const JsonDoc *doc, const Example *e, Row *row,
                           Outcome *outcome, int *seam) {
    Renderer *r = &b->render;
    TRY(render_status(doc, render_prompt(r, e)));
    row->prompt = arena_strndup(&b->scratch, r->text.s, r->text.len);
    row->completion = e->answer[0];
    if (r->n_prompt < 1)
        return json_fail(fault(b, doc, FAULT_EMPTY), NULL, "the prompt has no token");
    TRY(check_beginning(b, doc));
    if (!prompt_fits(b)) *outcome = ROW_LONG;
    if (b->d->kind == ROWS_PROMPTS) {
        row->a = copy_sequence(&b->scratch, r);
        return OK;
    }
    TRY(answer_sequence(b, doc, e->answer[0], &row->a, seam));
    if (b->d->kind != ROWS_PAIRS) return OK;
    TRY(answer_sequence(b, doc, e->answer[1], &row->b, seam));
    return same_ids(&row->a, &row->b) ? json_fail(fault(b, doc, FAULT_SAME), NULL,
                                                  "chosen and rejected have the same tokens")
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
    if (!e->is_text) TRY(check_beginning(b, doc));
    TRY(check_ends(b, doc));
    if (!prompt_fits(b)) *outcome = ROW_LONG;
    for (int i = 1; i < r->ids.n; i++)
        trained += r->trained.s[i] && !tokenizer_is_eos(r->t, r->ids.v[i]);
    if (!trained)
        return json_fail(fault(b, doc, FAULT_UNTRAINED), NULL,
                         "nothing to train on: there is no token but the end");
    row->a = copy_sequence(&b->scratch, r);
    return OK;
}

static int longer(const Row *row) {
    return row->a.n > row->b.n ? row->a.n : row->b.n;
}

static Status build_row(Build *b, const JsonDoc *doc, Row *row, Outcome *outcome, int *seam) {
    Example e;
    RowReader in = {.arena = &b->scratch, .doc = doc};
    Status s = example_read(&e, &in, b->cfg, b->d->kind);
    b->fault = in.fault;
    TRY(s);
    row->subset = e.subset;
    row->margin = e.margin;
    TRY(e.is_text || e.is_conversation ? whole_row(b, doc, &e, row, outcome)
                                       : prompted_row(b, doc, &e, row, outcome, seam));
    if (longer(row) > b->cfg->max_length) *outcome = ROW_LONG;
    return OK;
}

static void note_lengths(Build *b, const Row *row) {
    ids_add(&b->prompt, row->a.n_prompt);
    ids_add(&b->completion, longer(row) - row->a.n_prompt);
    ids_add(&b->whole, longer(row));
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
    if (seen_before(b, h))
        dataset_note(d, row->line, REMARK_DUPLICATE, "the same tokens as an earlier row");
    d->hash = file_hash(&h, sizeof(h), d->hash);
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
    dataset_note(b->d, number, b->fault, status_message());
    b->d->dropped_bad++;
    if (b->d->dropped_bad > b->bad_allowed)
        return status_context(E_FORMAT, "more than the %d bad rows that data.bad_rows allows",
                              b->bad_allowed);
    note_reject(b, line, len, number);
    return OK;
}

static void too_long(Build *b, const Row *row) {
    char why[120];
    snprintf(why, sizeof(why), "%d tokens, %d of them the prompt's: over max_%slength", longer(row),
             row->a.n_prompt, longer(row) > b->cfg->max_length ? "" : "prompt_");
    dataset_note(b->d, row->line, REMARK_LONG, why);
}

static Status take_row(Build *b, const Row *row, Outcome outcome, int seam, const char *line,
                       size_t len) {
    note_lengths(b, row);
    if (outcome == ROW_LONG || b->cut) too_long(b, row);
    if (outcome == ROW_LONG) return OK;
    if (seam)
        dataset_note(b->d, row->line, REMARK_SEAM,
                     "the tokenizer would make one token of the prompt's end and the answer's "
                     "beginning: a space on the wrong side?");
    return keep_row(b, row, line, len);
}

static Status read_line(Build *b, const char *line, size_t len, int number) {
    JsonDoc *doc = NULL;
    Row row = {.line = number, .subset = "", .margin = NAN};
    Outcome outcome = ROW_KEPT;
    int seam = 0;
    arena_clear(&b->scratch);
    b->fault = FAULT_JSON;
    b->cut = 0;
    b->d->n_read++;
    Status s = json_parse(&doc, b->path, number, line, len, JSON_STRICT);
    if (s == OK) s = build_row(b, doc, &row, &outcome, &seam);
    if (s == E_FORMAT)
        s = bad_row(b, line, len, number);
    else if (s == OK)
        s = take_row(b, &row, outcome, seam, line, len);
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

static void measure(Build *b) {
    lengths_measure(&b->d->prompt, &b->prompt);
    lengths_measure(&b->d->completion, &b->completion);
    lengths_measure(&b->d->whole, &b->whole);
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

Status dataset_write_rejects(const Dataset *d, const char *path, const char *rejects_path) {
    Text out = {0};
    Arena arena = {0};
    char *old = NULL;
    size_t len;
    if (!d->rejects[0] && !file_exists(rejects_path)) return OK;
    Status s = file_exists(rejects_path)
                   ? file_read(&arena, &old, &len, rejects_path, (size_t)1 << 31)
                   : OK;
    if (s == OK) {
        if (old) keep_others(&out, old, path);
        text_add(&out, d->rejects);
        s = file_write_atomic(rejects_path, out.s ? out.s : "", out.len);
    }
    text_release(&out);
    arena_release(&arena);
    return s;
}

/* ---- a data set ---- */

Status dataset_open(Dataset *d, const DataConfig *cfg, const char *path, RowKind kind,
                    const Tokenizer *t) {
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
    d->rejects = arena_strndup(&d->arena, b.rejects.s ? b.rejects.s : "", b.rejects.len);
    renderer_release(&b.render);
    text_release(&b.rejects);
    text_release(&name);
    ids_release(&b.prompt);
    ids_release(&b.completion);
    ids_release(&b.whole);
    free(b.seen);
    arena_release(&b.scratch);
    if (s != OK) dataset_release(d);
    return s;
}

void dataset_release(Dataset *d) {
    arena_release(&d->arena);
    *d = (Dataset){0};
}
