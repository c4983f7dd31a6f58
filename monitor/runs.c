/* runs.c - see runs.h. */
#include "monitor/runs.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "monitor/view.h"

enum { DEPTH = 2, RUNS_MAX = 512, COMPARED_MAX = 12 };

typedef struct {
    RunView *run[RUNS_MAX];
    int n;
    Arena arena;
} Found;

/* --- finding --- */

static Status look_into(Found *f, const char *dir, const char *name, int depth) {
    if (view_is_run(dir)) {
        if (f->n == RUNS_MAX)
            return status_fail(E_USAGE, "more than %d runs; name a folder with fewer", RUNS_MAX);
        TRY(view_open(&f->run[f->n], dir, name));
        f->n++;
        return OK;
    }
    struct dirent **names = NULL;
    int n = depth ? scandir(dir, &names, NULL, alphasort) : 0;
    Status s = OK;
    for (int i = 0; i < n; i++) {
        const char *own = names[i]->d_name;
        const char *path = arena_printf(&f->arena, "%s/%s", dir, own);
        if (s == OK && own[0] != '.' && file_is_dir(path))
            s = look_into(f, path, name[0] ? arena_printf(&f->arena, "%s/%s", name, own) : own,
                          depth - 1);
        free(names[i]);
    }
    free(names);
    return s;
}

static int by_verb(const void *a, const void *b) {
    const RunView *x = *(RunView *const *)a, *y = *(RunView *const *)b;
    int c = strcmp(x->verb, y->verb);
    return c ? c : strcmp(x->name, y->name);
}

/* --- figures --- */

/* The figures of run.json that tell how a run of a kind went, then those of its log. */
static const char *const result_keys[] = {"gold_after",      "score_after", "kl_final",
                                          "win_rate_vs_sft", "accuracy",    "accuracy_ceiling",
                                          "val_accuracy",    "val_loss"};
static const char *const metric_keys[] = {"objective/raw_scores", "objective/kl", "rewards/margins",
                                          "accuracy", "loss"};

static JsonDoc *parse(const Text *json) {
    JsonDoc *doc = NULL;
    if (!json->len || json_parse(&doc, "run", 1, json->s, json->len, JSON_STRICT) != OK)
        return NULL;
    return doc;
}

static void put_figures(Text *t, const RunView *v) {
    JsonDoc *doc = parse(&v->result);
    int n = 0;
    for (size_t i = 0; doc && n < 4 && i < sizeof result_keys / sizeof *result_keys; i++) {
        const Json *x = json_get(json_root(doc), result_keys[i]);
        if (x && json_type(x) == JSON_NUMBER)
            text_addf(t, "%s%s %.4g", n++ ? "  " : "", result_keys[i], json_num(x));
    }
    int measured = n;
    for (size_t i = 0; !measured && i < sizeof metric_keys / sizeof *metric_keys; i++) {
        double x = series_last(&v->series, metric_keys[i]);
        if (!isnan(x)) text_addf(t, "%s%s %.4g", n++ ? "  " : "", metric_keys[i], x);
    }
    json_release(doc);
}

static void put_list(Text *t, const Found *f) {
    int width = 4;
    for (int i = 0; i < f->n; i++)
        if ((int)strlen(f->run[i]->name) > width) width = (int)strlen(f->run[i]->name);
    text_addf(t, "%-*s  %-7s %-9s %7s  %s\n", width, "run", "verb", "state", "step", "figures");
    for (int i = 0; i < f->n; i++) {
        const RunView *v = f->run[i];
        double step = series_last(&v->series, "step");
        text_addf(t, "%-*s  %-7s %-9s %7.0f  ", width, v->name, v->verb[0] ? v->verb : "-",
                  v->state, isnan(step) ? 0.0 : step);
        put_figures(t, v);
        if (v->alarms.n) text_addf(t, "  %d alarms", v->alarms.n);
        text_add(t, "\n");
    }
}

/* --- comparing --- */

typedef struct {
    const char *name;
    const char *value[COMPARED_MAX]; /* NULL: this run has none */
} Line;

typedef struct {
    Line *line;
    int n, room;
    Arena arena;
} Table;

static Line *line_of(Table *t, const char *name) {
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->line[i].name, name)) return &t->line[i];
    if (t->n == t->room) {
        int room = t->room ? 2 * t->room : 64;
        Line *more = arena_alloc(&t->arena, (size_t)room * sizeof *more);
        if (t->n) memcpy(more, t->line, (size_t)t->n * sizeof *more);
        t->line = more, t->room = room;
    }
    t->line[t->n] = (Line){.name = arena_strdup(&t->arena, name)};
    return &t->line[t->n++];
}

/* {"ppo":{"clip":0.2}} as ppo.clip */
static void take_settings(Table *t, int run, const Json *object, const char *prefix) {
    for (const Json *m = json_first(object); m; m = json_next(m)) {
        const char *name = arena_printf(&t->arena, "%s%s", prefix, json_key(m));
        if (json_type(m) == JSON_OBJECT) {
            take_settings(t, run, m, arena_printf(&t->arena, "%s.", name));
            continue;
        }
        Text value = {0};
        json_put_node(&value, m);
        line_of(t, name)->value[run] = arena_strdup(&t->arena, value.s);
        text_release(&value);
    }
}

static void take_figures(Table *t, int run, const RunView *v) {
    JsonDoc *doc = parse(&v->result);
    for (const Json *m = doc ? json_first(json_root(doc)) : NULL; m; m = json_next(m))
        if (json_type(m) == JSON_NUMBER)
            line_of(t, json_key(m))->value[run] = arena_printf(&t->arena, "%.5g", json_num(m));
    json_release(doc);
    for (int i = 0; i < v->series.n_columns; i++) {
        const char *name = v->series.column[i].name;
        double x = series_last(&v->series, name);
        if (!strcmp(name, "step") || !strcmp(name, "wall_time") || isnan(x)) continue;
        line_of(t, name)->value[run] = arena_printf(&t->arena, "%.5g", x);
    }
}

static int differs(const Line *l, int runs) {
    for (int i = 1; i < runs; i++) {
        if (!l->value[i] != !l->value[0]) return 1;
        if (l->value[i] && strcmp(l->value[i], l->value[0])) return 1;
    }
    return 0;
}

static void put_line(Text *out, const char *name, const char *const *value, int n, int width) {
    text_addf(out, "  %-28s", name);
    for (int i = 0; i < n; i++) text_addf(out, " %-*.*s", width, 40, value[i] ? value[i] : "-");
    while (out->s[out->len - 1] == ' ') out->s[--out->len] = '\0';
    text_add(out, "\n");
}

static void put_table(Text *out, const Table *t, int runs, int width, int all) {
    int shown = 0;
    for (int i = 0; i < t->n; i++) {
        if (!all && !differs(&t->line[i], runs)) continue;
        put_line(out, t->line[i].name, t->line[i].value, runs, width);
        shown++;
    }
    if (!shown) text_add(out, "  none\n");
}

static void compare(Text *out, RunView *const *run, int n) {
    Table settings = {0}, figures = {0};
    const char *names[COMPARED_MAX];
    int width = 18;
    for (int i = 0; i < n; i++) {
        JsonDoc *doc = parse(&run[i]->recipe);
        if (doc) take_settings(&settings, i, json_root(doc), "");
        json_release(doc);
        take_figures(&figures, i, run[i]);
        names[i] = run[i]->name;
    }
    text_addf(out, "\n%s\n", run[0]->verb[0] ? run[0]->verb : "(no verb)");
    for (int i = 0; i < n; i++)
        if ((int)strlen(names[i]) > width) width = (int)strlen(names[i]);
    put_line(out, "", names, n, width);
    text_add(out, " settings that differ\n");
    put_table(out, &settings, n, width, 0);
    text_add(out, " last figures\n");
    put_table(out, &figures, n, width, 1);
    arena_release(&settings.arena);
    arena_release(&figures.arena);
}

static void compare_verbs(Text *out, Found *f) {
    qsort(f->run, (size_t)f->n, sizeof *f->run, by_verb);
    for (int first = 0, last; first < f->n; first = last) {
        for (last = first + 1; last < f->n && !strcmp(f->run[last]->verb, f->run[first]->verb);)
            last++;
        int n = last - first;
        if (n < 2) continue;
        if (n > COMPARED_MAX)
            text_addf(out, "\n%s: the first %d of %d runs\n", f->run[first]->verb, COMPARED_MAX, n);
        compare(out, f->run + first, n < COMPARED_MAX ? n : COMPARED_MAX);
    }
}

/* --- the command --- */

static const char *without_slashes(Arena *a, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return arena_strndup(a, path, n);
}

static Status look_at(Found *f, const char *path) {
    if (!file_is_dir(path)) return status_fail(E_USAGE, "%s is no folder", path);
    path = without_slashes(&f->arena, path);
    return look_into(f, path, path, DEPTH);
}

Status runs_main(int argc, char **argv) {
    Found *f = calloc(1, sizeof *f);
    Text t = {0};
    int together = 0, paths = 0;
    Status s = f ? OK : status_fail(E_MEMORY, "no memory to list runs");
    for (int i = 0; s == OK && i < argc; i++) {
        if (!strcmp(argv[i], "--compare"))
            together = 1;
        else if (argv[i][0] == '-')
            s = status_fail(E_USAGE, "rlhf runs [DIR ...] [--compare]");
        else
            s = look_at(f, argv[i]), paths++;
    }
    if (s == OK && !paths) s = look_at(f, "runs");
    if (s == OK && !f->n) s = status_fail(E_USAGE, "there is no run in these folders");
    if (s == OK) put_list(&t, f);
    if (s == OK && together) compare_verbs(&t, f);
    if (s == OK) fputs(t.s, stdout);
    for (int i = 0; f && i < f->n; i++) view_close(f->run[i]);
    if (f) arena_release(&f->arena);
    free(f);
    text_release(&t);
    return s;
}
