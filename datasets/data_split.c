/* data_split.c - rlhf data split: rows go to one of two files by a seeded hash of their prompt. All
 * rows of a prompt stay together, and a file that grows keeps the order of its prompts' hashes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/stream.h"
#include "datasets/data_tools.h"
#include "datasets/dataset_parts.h"

typedef struct {
    const char *out;
    float eval_fraction;
    uint64_t seed;
} SplitConfig;
static const Field split_fields[] = {
    FIELD(SplitConfig, out, FIELD_STRING, "", "folder for train.jsonl and eval.jsonl"),
    FIELD_IN(SplitConfig, eval_fraction, FIELD_FLOAT, "0.05", 0, 1,
             "share of the rows to evaluate on"),
    FIELD(SplitConfig, seed, FIELD_U64, "1", "which prompts are chosen is a function of it"),
};

typedef struct {
    const char *file;
    SplitConfig c;
    DataConfig data;
    uint64_t *keys, *sorted;
    size_t n, cap, at;
    uint64_t last; /* keys up to it go to eval */
    LineWriter *train, *eval;
    int counts[2];
} Split;

typedef Status (*LineVisitor)(Split *k, const char *line, size_t len, int number);

static Status visit_lines(Split *k, LineVisitor visit) {
    LineReader *lines;
    const char *line;
    size_t len;
    int number;
    TRY(lines_open(&lines, k->file));
    Status s = lines_next(lines, &line, &len, &number);
    while (s == OK && line) {
        if (len) s = visit(k, line, len, number);
        if (s == OK) s = lines_next(lines, &line, &len, &number);
    }
    lines_close(lines);
    return s;
}

/* ---- what a row is about ---- */

static uint64_t hash_string(const char *s, uint64_t h) {
    return file_hash(s, strlen(s) + 1, h);
}

/* All before the first answer; a text by all of it. */
static uint64_t prompt_key(const Example *e, uint64_t seed) {
    uint64_t h = seed;
    for (int i = 0; i < e->n; i++) {
        if (i && e->turn[i].role == ROLE_ASSISTANT && e->is_conversation) break;
        h = hash_string(e->turn[i].content, hash_string(e->turn[i].role_name, h));
    }
    return h;
}

static Status read_key(Split *k, const char *line, size_t len, int number) {
    Arena arena = {0};
    JsonDoc *doc = NULL;
    Example e;
    RowKind kind = ROWS_SFT;
    Status s = json_parse(&doc, k->file, number, line, len, JSON_STRICT);
    RowReader in = {.arena = &arena, .doc = doc};
    if (s == OK) {
        const Json *row = json_root(doc);
        if (json_get(row, k->data.chosen_key))
            kind = ROWS_PAIRS;
        else if (json_get(row, k->data.prompt_key) && !json_get(row, k->data.completion_key))
            kind = ROWS_PROMPTS;
        s = example_read(&e, &in, &k->data, kind);
    }
    if (s == OK && k->n == k->cap) {
        k->cap = k->cap ? 2 * k->cap : 1024;
        uint64_t *more = realloc(k->keys, k->cap * sizeof(*more));
        if (more)
            k->keys = more;
        else
            s = status_fail(E_MEMORY, "%s: memory ran out after %zu rows", k->file, k->n);
    }
    if (s == OK) k->keys[k->n++] = prompt_key(&e, k->c.seed);
    json_release(doc);
    arena_release(&arena);
    return s;
}

/* ---- where it goes ---- */

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The prompts of the smallest hashes, as many as come nearest to the share of rows asked for. */
static Status choose(Split *k) {
    size_t want = (size_t)((double)k->c.eval_fraction * (double)k->n + 0.5), from = 0;
    k->sorted = malloc((k->n + 1) * sizeof(*k->sorted));
    if (!k->sorted) return status_fail(E_MEMORY, "no memory to split %s", k->file);
    if (k->n) memcpy(k->sorted, k->keys, k->n * sizeof(*k->sorted));
    qsort(k->sorted, k->n, sizeof(*k->sorted), by_value);
    while (from < want) {
        size_t to = from;
        while (to < k->n && k->sorted[to] == k->sorted[from]) to++;
        if (from && to > want && to - want > want - from) break;
        k->last = k->sorted[from];
        from = to;
    }
    if (!from || from == k->n)
        return status_fail(E_FORMAT,
                           "%s: of %zu rows none would be left for %s: too few different prompts",
                           k->file, k->n, from ? "training" : "evaluation");
    return OK;
}

static Status write_row(Split *k, const char *line, size_t len, int number) {
    (void)number;
    if (k->at == k->n) return status_fail(E_IO, "%s grew while it was read", k->file);
    int eval = k->keys[k->at++] <= k->last;
    k->counts[eval]++;
    return line_writer_add(eval ? k->eval : k->train, line, len);
}

static Status write_both(Split *k) {
    char path[1200];
    TRY(file_mkdirs(k->c.out));
    snprintf(path, sizeof path, "%s/train.jsonl", k->c.out);
    TRY(line_writer_open(&k->train, path));
    snprintf(path, sizeof path, "%s/eval.jsonl", k->c.out);
    TRY(line_writer_open(&k->eval, path));
    TRY(visit_lines(k, write_row));
    LineWriter *train = k->train, *eval = k->eval;
    k->train = k->eval = NULL; /* a commit releases its writer, on failure too */
    Status s = line_writer_commit(train);
    if (s != OK) {
        line_writer_abort(eval);
        return s;
    }
    return line_writer_commit(eval);
}

static Status split(Split *k) {
    if (!(k->c.eval_fraction > 0 && k->c.eval_fraction < 1))
        return status_fail(E_USAGE, "--eval-fraction must be between 0 and 1, both excluded");
    TRY(visit_lines(k, read_key));
    TRY(choose(k));
    TRY(write_both(k));
    log_info("%s: %d rows in train.jsonl, %d in eval.jsonl", k->c.out, k->counts[0], k->counts[1]);
    return OK;
}

Status data_split_main(int argc, char **argv) {
    static const char usage[] = "rlhf data split FILE --out DIR [--eval-fraction F] [--seed S]";
    Split k = {0};
    Arena arena = {0};
    Section sections[] = {SECTION("", split_fields, &k.c),
                          {"data", data_fields, data_n_fields, &k.data}};
    if (argc < 1 || argv[0][0] == '-') return status_fail(E_USAGE, "%s", usage);
    k.file = argv[0];
    Status s = settings_load(sections, 2, &arena, NULL, argc - 1, argv + 1);
    if (s == OK && !k.c.out[0]) s = status_fail(E_USAGE, "%s", usage);
    if (s == OK) s = split(&k);
    line_writer_abort(k.train);
    line_writer_abort(k.eval);
    free(k.keys);
    free(k.sorted);
    arena_release(&arena);
    return s;
}
