/* summary.c - see summary.h. */
#include "core/run/summary.h"

#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/memory.h"
#include "core/base/stream.h"

static void put_figures(Text *out, const Json *object, const char *indent) {
    for (const Json *n = json_first(object); n; n = json_next(n)) {
        if (json_type(n) == JSON_NUMBER)
            text_addf(out, "  %s%-*s %10.4g\n", indent, 28 - (int)strlen(indent), json_key(n),
                      json_num(n));
        if (json_type(n) != JSON_OBJECT) continue;
        text_addf(out, "  %s%s\n", indent, json_key(n));
        put_figures(out, n, "  ");
    }
}

enum { ANSWERS_MAX = 8 };
typedef struct {
    const char *label;
    const char *text;
    double gold, score; /* NAN-free: has_gold says whether it is there */
    int has_gold;
} Answer;

typedef struct {
    const char *prompt;
    Answer answer[ANSWERS_MAX];
    int n;
} Question;

typedef struct {
    Question *q;
    int n, max;
    Arena arena;
} Samples;

static Question *question_of(Samples *s, const char *prompt, int may_add) {
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->q[i].prompt, prompt)) return &s->q[i];
    if (!may_add || s->n == s->max) return NULL;
    s->q[s->n] = (Question){.prompt = arena_strdup(&s->arena, prompt)};
    return &s->q[s->n++];
}

/* One answer per label; a later step replaces an earlier one. */
static Status take_row(Samples *s, const char *stage, const JsonDoc *doc, int first_stage) {
    const Json *root = json_root(doc);
    const char *prompt, *completion, *mode = "";
    Answer a = {0};
    int step = 0;
    TRY(json_get_int(doc, root, "step", JSON_REQUIRED, &step));
    TRY(json_get_str(doc, root, "prompt", JSON_REQUIRED, &prompt));
    TRY(json_get_str(doc, root, "completion", JSON_REQUIRED, &completion));
    TRY(json_get_str(doc, root, "mode", JSON_OPTIONAL, &mode));
    a.has_gold = json_get(root, "gold") && json_type(json_get(root, "gold")) == JSON_NUMBER;
    if (a.has_gold) a.gold = json_num(json_get(root, "gold"));
    if (!strcmp(mode, "greedy")) return OK;   /* the figures beside it are of sampled answers */
    if (step == 0 && !first_stage) return OK; /* the same model answered for the stage before */
    a.label = step ? stage : "before";
    a.text = arena_strdup(&s->arena, completion);
    Question *q = question_of(s, prompt, first_stage);
    if (!q) return OK;
    int i = 0;
    while (i < q->n && strcmp(q->answer[i].label, a.label)) i++;
    if (i == ANSWERS_MAX) return OK;
    q->answer[i] = a;
    if (i == q->n) q->n++;
    return OK;
}

static Status take_stage(Samples *s, const char *dir, const char *stage) {
    LineReader *r;
    const char *line;
    size_t len;
    int number, first = s->n == 0;
    const char *path = arena_printf(&s->arena, "%s/%s/samples.jsonl", dir, stage);
    if (!file_exists(path)) return OK;
    TRY(lines_open(&r, path));
    Status status = lines_next(r, &line, &len, &number);
    while (status == OK && line) {
        JsonDoc *doc;
        status = json_parse(&doc, path, number, line, len, JSON_STRICT);
        if (status != OK) break;
        status = take_row(s, stage, doc, first);
        json_release(doc);
        if (status == OK) status = lines_next(r, &line, &len, &number);
    }
    lines_close(r);
    return status;
}

static void put_samples(Text *out, const Samples *s) {
    for (int i = 0; i < s->n; i++) {
        text_addf(out, "\n  prompt   %s\n", s->q[i].prompt);
        for (int k = 0; k < s->q[i].n; k++) {
            const Answer *a = &s->q[i].answer[k];
            text_addf(out, "  %-8s ", a->label);
            if (a->has_gold) text_addf(out, "[gold %5.2f] ", a->gold);
            text_addf(out, "%s\n", a->text);
        }
    }
}

static Status summarize(Text *out, const char *dir, const JsonDoc *doc, Samples *s) {
    const Json *root = json_root(doc);
    if (json_type(root) != JSON_OBJECT) return json_fail(doc, root, "a summary must be an object");
    for (const Json *n = json_first(root); n; n = json_next(n)) {
        if (json_type(n) == JSON_NUMBER) text_addf(out, "%-30s %10.6g\n", json_key(n), json_num(n));
        if (json_type(n) != JSON_OBJECT) continue;
        text_addf(out, "%s\n", json_key(n));
        put_figures(out, n, "");
        TRY(take_stage(s, dir, json_key(n)));
    }
    put_samples(out, s);
    return OK;
}

Status summary_text(Text *out, const char *dir, int prompts) {
    Samples s = {.max = prompts};
    JsonDoc *doc;
    const char *path = arena_printf(&s.arena, "%s/summary.json", dir);
    s.q = arena_alloc(&s.arena, (size_t)(prompts > 0 ? prompts : 1) * sizeof *s.q);
    Status status = json_parse_file(&doc, path, JSON_STRICT);
    if (status == OK) {
        status = summarize(out, dir, doc, &s);
        json_release(doc);
    }
    arena_release(&s.arena);
    return status;
}
