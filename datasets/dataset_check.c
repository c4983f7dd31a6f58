/* dataset_check.c - what the reading of a data set found: counts, lines, lengths, and prompts that
 * stand on both sides of an evaluation. */
#include <stdlib.h>
#include <string.h>
#include "core/base/file.h"
#include "core/base/log.h"
#include "datasets/dataset_parts.h"

const char *const fault_names[ROW_FAULTS] = {
    [FAULT_SHAPE] = "shape",
    [FAULT_JSON] = "json",
    [FAULT_EMPTY] = "empty",
    [FAULT_SAME] = "same_answers",
    [FAULT_NO_PROMPT] = "no_common_prompt",
    [FAULT_NOT_PREFIX] = "prompt_not_prefix",
    [FAULT_DOUBLED] = "doubled_bos_eos",
    [FAULT_UNTRAINED] = "nothing_to_train",
    [REMARK_LONG] = "too_long",
    [REMARK_SEAM] = "seam",
    [REMARK_DUPLICATE] = "duplicate",
    [REMARK_OVERLAP] = "eval_overlap",
};

void dataset_note(Dataset *d, int line, RowFault fault, const char *reason) {
    d->found[fault]++;
    if (d->n_findings == FINDINGS_MAX) return;
    int n = d->n_findings, full = n == 0 || (n >= 16 && (n & (n - 1)) == 0);
    if (full) { /* the room is a power of two */
        Finding *more = arena_alloc(&d->arena, (size_t)(n ? 2 * n : 16) * sizeof(*more));
        if (n) memcpy(more, d->findings, (size_t)n * sizeof(*more));
        d->findings = more;
    }
    d->findings[d->n_findings++] =
        (Finding){line, fault, arena_strdup(&d->arena, reason ? reason : "")};
}

static int ascending(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}

void lengths_measure(Lengths *out, Ids *v) {
    *out = (Lengths){0};
    if (!v->n) return;
    qsort(v->v, (size_t)v->n, sizeof(int), ascending);
    int *at[] = {&out->p50, &out->p90, &out->p95, &out->p99};
    static const int percent[] = {50, 90, 95, 99};
    for (int i = 0; i < 4; i++) *at[i] = v->v[(int)((int64_t)v->n * percent[i] / 100)];
    out->max = v->v[v->n - 1];
}

/* ---- train and eval ---- */

/* A row is known by its prompt; a text by all of it. */
static uint64_t prompt_key(const Row *row) {
    int n = row->a.n_prompt > 1 ? row->a.n_prompt : row->a.n;
    return file_hash(row->a.ids, (size_t)n * sizeof(int), 0);
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

void dataset_overlap(Dataset *eval, const Dataset *train, int n_train) {
    size_t n = 0, at = 0;
    Arena arena = {0};
    for (int i = 0; i < n_train; i++) n += (size_t)train[i].n;
    uint64_t *keys = arena_alloc(&arena, n * sizeof(*keys));
    for (int i = 0; i < n_train; i++)
        for (int k = 0; k < train[i].n; k++) keys[at++] = prompt_key(&train[i].rows[k]);
    qsort(keys, n, sizeof(*keys), by_value);
    for (int k = 0; k < eval->n; k++) {
        uint64_t key = prompt_key(&eval->rows[k]);
        if (bsearch(&key, keys, n, sizeof(*keys), by_value))
            dataset_note(eval, eval->rows[k].line, REMARK_OVERLAP,
                         "training has a row with this prompt");
    }
    arena_release(&arena);
}

/* ---- the report of a run ---- */

/* Quoted and cut to n bytes, so that a sample stays on its line. */
static void put_excerpt(Text *t, const char *s, size_t n) {
    size_t len = strlen(s), cut = len > n ? n : len;
    while (cut < len && cut > 0 && ((uint8_t)s[cut] & 0xc0) == 0x80) cut--;
    json_put_string_n(t, s, cut);
    if (cut < len) text_add(t, "...");
}

/* "lines 3, 8 and 5 more" */
static void put_lines(Text *t, const Dataset *d, RowFault fault) {
    int shown = 0;
    for (int i = 0; i < d->n_findings && shown < 5; i++) {
        if (d->findings[i].fault != fault) continue;
        text_addf(t, shown++ ? ", %d" : "line %d", d->findings[i].line);
    }
    if (d->found[fault] > shown) text_addf(t, " and %d more", d->found[fault] - shown);
}

static void warn_of(const Dataset *d, const char *path, RowFault fault, const char *what) {
    Text t = {0};
    if (!d->found[fault]) return;
    put_lines(&t, d, fault);
    log_warn("%s: %d %s (%s)", path, d->found[fault], what, t.s);
    text_release(&t);
}

void dataset_report(const Dataset *d, const char *path) {
    Text t = {0};
    const Lengths *n = &d->whole;
    text_addf(&t, "%s: %d rows of %d tokens (median; 95%%: %d, longest: %d)", path, d->n, n->p50,
              n->p95, n->max);
    if (d->dropped_bad) text_addf(&t, ", %d bad and left out", d->dropped_bad);
    log_info("%s", t.s);
    warn_of(d, path, REMARK_LONG, "rows too long");
    warn_of(d, path, REMARK_DUPLICATE, "duplicates");
    warn_of(d, path, REMARK_SEAM, "rows where an answer begins inside of a token");
    warn_of(d, path, REMARK_OVERLAP, "rows whose prompt is also trained on");
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
