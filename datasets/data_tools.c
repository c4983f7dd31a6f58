/* data_tools.c - see data_tools.h. */
#include "datasets/data_tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/stream.h"
#include "datasets/stage.h"

typedef struct {
    const char *model, *tokenizer, *kind, *out;
    int rows;
} LookConfig;
#define KIND_FIELD                                                                                 \
    FIELD_OF(LookConfig, kind, "auto", "auto|sft|pairs|prompts",                                   \
             "what the rows are to train; auto: what the first one can")
static const Field check_fields[] = {
    FIELD(LookConfig, model, FIELD_STRING, "", "model directory or GGUF file"),
    FIELD(LookConfig, tokenizer, FIELD_STRING, "", "tokenizer directory; empty: the model's own"),
    KIND_FIELD,
    FIELD(LookConfig, out, FIELD_STRING, "", "JSON file for all that was found"),
};
static const Field show_fields[] = {
    FIELD(LookConfig, model, FIELD_STRING, "", "model directory or GGUF file"),
    FIELD(LookConfig, tokenizer, FIELD_STRING, "", "tokenizer directory; empty: the model's own"),
    KIND_FIELD,
    FIELD_IN(LookConfig, rows, FIELD_INT, "3", 1, 1 << 24, "rows to show"),
};

static const char *const kind_names[] = {"sft", "pairs", "prompts"};

typedef struct {
    const char *file;
    LookConfig c;
    DataConfig data;
    RowKind kind;
    Tokenizer *t;
    Arena arena;
} Look;

/* ------------------------------------------------ opening */

static RowKind kind_of_row(const Json *row, const DataConfig *cfg) {
    if (json_get(row, cfg->chosen_key) || json_get(row, cfg->rejected_key)) return ROWS_PAIRS;
    int prompt_alone = json_get(row, cfg->prompt_key) && !json_get(row, cfg->completion_key);
    return prompt_alone ? ROWS_PROMPTS : ROWS_SFT;
}

/* By the keys of the first line that is an object. */
static Status find_kind(Look *k) {
    LineReader *lines;
    const char *line;
    size_t len;
    int number, found = 0;
    for (int i = 0; i < 3; i++)
        if (!strcmp(k->c.kind, kind_names[i])) k->kind = (RowKind)i, found = 1;
    if (found) return OK;
    k->kind = ROWS_SFT;
    TRY(lines_open(&lines, k->file));
    Status s = lines_next(lines, &line, &len, &number);
    while (s == OK && line && !found) {
        JsonDoc *doc = NULL;
        if (len && json_parse(&doc, k->file, number, line, len, JSON_STRICT) == OK &&
            json_type(json_root(doc)) == JSON_OBJECT) {
            k->kind = kind_of_row(json_root(doc), &k->data);
            found = 1;
        }
        json_release(doc);
        if (!found) s = lines_next(lines, &line, &len, &number);
    }
    lines_close(lines);
    return s;
}

/* A run may stop at a bad row; who looks wants all of them. */
static Status look_open(Look *k, const Field *fields, int n_fields, const char *usage, int argc,
                        char **argv) {
    Section sections[] = {{"", fields, n_fields, &k->c},
                          {"data", data_fields, data_n_fields, &k->data}};
    if (argc < 1 || argv[0][0] == '-') return status_fail(E_USAGE, "%s", usage);
    k->file = argv[0];
    TRY(settings_load(sections, 2, &k->arena, NULL, argc - 1, argv + 1));
    if (!k->c.model[0] && !k->c.tokenizer[0]) return status_fail(E_USAGE, "%s", usage);
    k->data.bad_rows = "skip:2147483647";
    TRY(find_kind(k));
    return stage_tokenizer(&k->t,
                           &(Stage){.cfg = {.model = k->c.model, .tokenizer = k->c.tokenizer}});
}

static void look_close(Look *k) {
    tokenizer_release(k->t);
    arena_release(&k->arena);
}

/* ------------------------------------------------ check */

static void print_lines(const Dataset *d, RowFault fault) {
    int shown = 0;
    for (int i = 0; i < d->n_findings && shown < 10; i++) {
        if (d->findings[i].fault != fault) continue;
        printf(shown++ ? ", %d" : "  line %d", d->findings[i].line);
    }
    printf(d->found[fault] > shown ? " and %d more\n" : "\n", d->found[fault] - shown);
}

static void print_found(const Dataset *d, int from, int to, const char *title) {
    int any = 0;
    for (int f = from; f < to; f++) {
        if (!d->found[f]) continue;
        if (!any++) printf("  %s\n", title);
        printf("    %-18s%8d", fault_names[f], d->found[f]);
        print_lines(d, (RowFault)f);
    }
}

static const Finding *first_fault(const Dataset *d) {
    for (int i = 0; i < d->n_findings; i++)
        if (d->findings[i].fault < FIRST_REMARK) return &d->findings[i];
    return NULL;
}

static void print_lengths(const char *name, const Lengths *n) {
    printf("    %-12s%8d%8d%8d%8d%8d\n", name, n->p50, n->p90, n->p95, n->p99, n->max);
}

static void print_report(const Dataset *d, const char *file) {
    printf("%s: %d rows to use as %s\n", file, d->n, kind_names[d->kind]);
    print_found(d, 0, FIRST_REMARK, "refused");
    print_found(d, FIRST_REMARK, ROW_FAULTS, "remarked");
    const Finding *first = first_fault(d);
    if (first) printf("  the first: %s\n", first->reason);
    printf("  %-14s%8s%8s%8s%8s%8s\n", "tokens", "median", "90 %", "95 %", "99 %", "longest");
    print_lengths("prompt", &d->prompt);
    if (d->kind != ROWS_PROMPTS) print_lengths("completion", &d->completion);
    if (d->kind != ROWS_PROMPTS) print_lengths("together", &d->whole);
}

static void put_lengths(Text *t, const char *name, const Lengths *n) {
    json_put_key(t, name);
    text_addf(t, "{\"p50\":%d,\"p90\":%d,\"p95\":%d,\"p99\":%d,\"max\":%d}", n->p50, n->p90, n->p95,
              n->p99, n->max);
}

static void put_report(Text *t, const Dataset *d, const char *file) {
    text_add(t, "{\"file\":");
    json_put_string(t, file);
    text_addf(t, ",\"kind\":\"%s\",\"usable\":%d,\"refused\":%d,\"found\":{", kind_names[d->kind],
              d->n, d->dropped_bad);
    for (int f = 0; f < ROW_FAULTS; f++) {
        json_put_key(t, fault_names[f]);
        text_addf(t, "%d", d->found[f]);
    }
    text_add(t, "},\"tokens\":{");
    put_lengths(t, "prompt", &d->prompt);
    put_lengths(t, "completion", &d->completion);
    put_lengths(t, "together", &d->whole);
    text_add(t, "},\"findings\":[");
    for (int i = 0; i < d->n_findings; i++) {
        const Finding *f = &d->findings[i];
        text_addf(t, "%s\n{\"line\":%d,\"found\":\"%s\",\"refused\":%s,\"reason\":", i ? "," : "",
                  f->line, fault_names[f->fault], f->fault < FIRST_REMARK ? "true" : "false");
        json_put_string(t, f->reason);
        text_add(t, "}");
    }
    text_add(t, "]}");
}

static Status check_files(Look *k, Dataset *train, Dataset *eval) {
    Text report = {0};
    Status s = OK;
    TRY(dataset_open(train, &k->data, k->file, k->kind, k->t));
    print_report(train, k->file);
    text_add(&report, "{\"files\":[");
    put_report(&report, train, k->file);
    if (k->data.eval[0]) {
        s = dataset_open(eval, &k->data, k->data.eval, k->kind, k->t);
        if (s == OK) {
            dataset_overlap(eval, train, 1);
            print_report(eval, k->data.eval);
            text_add(&report, ",\n");
            put_report(&report, eval, k->data.eval);
        }
    }
    text_add(&report, "]}\n");
    if (s == OK && k->c.out[0]) s = file_write_atomic(k->c.out, report.s, report.len);
    text_release(&report);
    return s;
}

Status data_check_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf data check FILE --model DIR [--kind sft|pairs|prompts] [--eval FILE] [--out REPORT.json]";
    Look k = {0};
    Dataset train = {0}, eval = {0};
    Status s =
        look_open(&k, check_fields, sizeof check_fields / sizeof *check_fields, usage, argc, argv);
    if (s == OK) s = check_files(&k, &train, &eval);
    int bad = train.dropped_bad + eval.dropped_bad;
    if (s == OK && bad)
        s = status_fail(E_FORMAT,
                        "%d bad rows: a run stops at the first (--data.bad_rows skip:N "
                        "leaves so many out)",
                        bad);
    else if (s == OK && !train.n)
        s = status_fail(E_FORMAT, "%s has no row to use", k.file);
    dataset_release(&train);
    dataset_release(&eval);
    look_close(&k);
    return s;
}

/* ------------------------------------------------ show */

/* Nothing in a data file may steer the terminal. */
static void print_safely(const Text *t) {
    int text = utf8_valid(t->s ? t->s : "", t->len);
    for (size_t i = 0; i < t->len; i++) {
        unsigned char c = (unsigned char)t->s[i];
        int steers = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || (!text && c >= 0x80) ||
                     (c == 0xc2 && i + 1 < t->len && (unsigned char)t->s[i + 1] < 0xa0);
        if (steers)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
}

static Status show_sequence(const Look *k, const Sequence *q, int colour) {
    TokenizerStream at = {0};
    Text text = {0};
    Status s = OK;
    for (int i = 0; i < q->n && s == OK;) {
        int trained = q->trained[i], from = i;
        while (i < q->n && q->trained[i] == trained) i++;
        text_clear(&text);
        s = tokenizer_decode_next(k->t, &at, q->ids + from, i - from, 1, &text);
        if (trained) fputs(colour ? "\033[32m" : "[[", stdout);
        print_safely(&text);
        if (trained) fputs(colour ? "\033[0m" : "]]", stdout);
    }
    putchar('\n');
    text_release(&text);
    return s;
}

static int trained_tokens(const Sequence *q) {
    int n = 0;
    for (int i = 0; i < q->n; i++) n += q->trained[i];
    return n;
}

static Status show_rows(const Look *k, const Dataset *d) {
    const char *no_color = getenv("NO_COLOR");
    int colour = isatty(STDOUT_FILENO) && !(no_color && no_color[0]);
    for (int i = 0; i < d->n; i++) {
        const Row *row = &d->rows[i];
        const Sequence *both[] = {&row->a, &row->b};
        for (int side = 0; side < (d->kind == ROWS_PAIRS ? 2 : 1); side++) {
            printf("--- line %d%s: %d tokens, %d trained\n", row->line,
                   d->kind != ROWS_PAIRS ? ""
                   : side                ? ", rejected"
                                         : ", chosen",
                   both[side]->n, trained_tokens(both[side]));
            TRY(show_sequence(k, both[side], colour));
        }
    }
    return fflush(stdout) ? status_fail(E_IO, "cannot write to standard output") : OK;
}

Status data_show_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf data show FILE --model DIR [--kind sft|pairs|prompts] [--rows N]";
    Look k = {0};
    Dataset d = {0};
    Status s =
        look_open(&k, show_fields, sizeof show_fields / sizeof *show_fields, usage, argc, argv);
    k.data.limit = k.c.rows;
    if (s == OK) s = dataset_open(&d, &k.data, k.file, k.kind, k.t);
    if (s == OK) s = show_rows(&k, &d);
    const Finding *first = first_fault(&d);
    if (s == OK && first)
        log_warn("%d bad rows are left out; the first: %s", d.dropped_bad, first->reason);
    if (s == OK && d.found[REMARK_LONG])
        log_warn("%d rows are over max_length", d.found[REMARK_LONG]);
    dataset_release(&d);
    look_close(&k);
    return s;
}
