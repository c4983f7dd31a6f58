/* view.c - one run directory; see view.h. */
#include "monitor/view.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/file.h"

enum { EVALS_MAX = 64, FILE_MAX = 8 << 20 };

static int path_of(char out[VIEW_PATH], const char *dir, const char *name) {
    int n = snprintf(out, VIEW_PATH, "%s/%s", dir, name);
    return n > 0 && n < VIEW_PATH;
}

int view_is_run(const char *dir) {
    char path[VIEW_PATH];
    return (path_of(path, dir, "recipe.json") && file_exists(path)) ||
           (path_of(path, dir, "metrics.jsonl") && file_exists(path));
}

/* --- rows --- */

/* As json_put_node, but numbers with five digits: enough for a picture, and half the bytes. */
static void put_short(Text *t, const Json *n) {
    JsonType type = json_type(n);
    if (type == JSON_NUMBER) {
        double v = json_num(n);
        text_addf(t, v == floor(v) && fabs(v) < 1e15 ? "%.0f" : "%.5g", v);
    } else if (type == JSON_OBJECT || type == JSON_ARRAY) {
        text_add(t, type == JSON_OBJECT ? "{" : "[");
        for (const Json *c = json_first(n); c; c = json_next(c)) {
            if (c != json_first(n)) text_add(t, ",");
            if (type == JSON_OBJECT) {
                json_put_string(t, json_key(c));
                text_add(t, ":");
            }
            put_short(t, c);
        }
        text_add(t, type == JSON_OBJECT ? "}" : "]");
    } else {
        json_put_node(t, n);
    }
}

static void rows_drop(ViewRows *r, int i) {
    r->bytes -= strlen(r->row[i]);
    free(r->row[i]);
    memmove(r->row + i, r->row + i + 1, (size_t)(r->n - i - 1) * sizeof *r->row);
    r->n--;
    r->left_out++;
}

static void rows_add(ViewRows *r, const JsonDoc *doc) {
    Text t = {0};
    put_short(&t, json_root(doc));
    if (r->n == r->room) {
        int room = r->room ? 2 * r->room : 64;
        char **more = realloc(r->row, (size_t)room * sizeof *more);
        if (!more) {
            r->left_out++;
            text_release(&t);
            return;
        }
        r->row = more, r->room = room;
    }
    r->row[r->n++] = t.s;
    r->bytes += t.len;
    while (r->n > 1 && (r->n > VIEW_ROWS || r->bytes > VIEW_ROWS_BYTES))
        rows_drop(r, r->n > VIEW_FIRST ? VIEW_FIRST : 0);
}

static void rows_clear(ViewRows *r) {
    for (int i = 0; i < r->n; i++) free(r->row[i]);
    free(r->row);
    *r = (ViewRows){0};
}

static void take_metrics(void *ctx, const JsonDoc *doc, const char *line, size_t len) {
    (void)line, (void)len;
    series_add(ctx, json_root(doc));
}

static void take_row(void *ctx, const JsonDoc *doc, const char *line, size_t len) {
    (void)line, (void)len;
    rows_add(ctx, doc);
}

/* --- files --- */

static void trouble(RunView *v, const char *why) {
    if (!v->trouble[0]) snprintf(v->trouble, sizeof v->trouble, "%s", why);
}

/* 0 when the file is not there; else another number whenever it was written anew. */
static uint64_t identity(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) return 0;
    uint64_t id[4] = {(uint64_t)st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                      (uint64_t)st.st_mtim.tv_nsec};
    return file_hash(id, sizeof id, 0) | 1;
}

static int parse_object(JsonDoc **doc, RunView *v, const char *path) {
    struct stat st;
    Status s = OK;
    *doc = NULL;
    if (stat(path, &st) == 0 && st.st_size > FILE_MAX)
        s = status_fail(E_FORMAT, "%s has over %d MiB", path, FILE_MAX >> 20);
    if (s == OK) s = json_parse_file(doc, path, JSON_STRICT);
    if (s == OK && json_type(json_root(*doc)) != JSON_OBJECT)
        s = json_fail(*doc, json_root(*doc), "this must be an object");
    if (s == OK) return 1;
    trouble(v, status_message());
    json_release(*doc);
    *doc = NULL;
    return 0;
}

/* The file as JSON text in *to when it has changed. */
static void refresh_object(RunView *v, Text *to, uint64_t *seen, const char *name) {
    char path[VIEW_PATH];
    JsonDoc *doc;
    if (!path_of(path, v->dir, name)) return;
    uint64_t now = identity(path);
    if (now == *seen) return;
    *seen = now;
    text_clear(to);
    if (!now || !parse_object(&doc, v, path)) return;
    json_put_node(to, json_root(doc));
    json_release(doc);
}

static int is_evaluation(const struct dirent *e) {
    size_t n = strlen(e->d_name);
    return e->d_name[0] != '.' && n > 5 && !strcmp(e->d_name + n - 5, ".json");
}

static void put_evaluation(RunView *v, const char *dir, const char *name) {
    char path[VIEW_PATH];
    JsonDoc *doc;
    if (!path_of(path, dir, name) || !identity(path) || !parse_object(&doc, v, path)) return;
    text_add(&v->evals, v->evals.len > 1 ? ",{" : "{");
    json_put_key(&v->evals, "file");
    json_put_string(&v->evals, name);
    for (const Json *m = json_first(json_root(doc)); m; m = json_next(m)) {
        if (!strcmp(json_key(m), "file")) continue;
        json_put_key(&v->evals, json_key(m));
        put_short(&v->evals, m);
    }
    text_add(&v->evals, "}");
    json_release(doc);
}

static void refresh_evaluations(RunView *v) {
    char dir[VIEW_PATH], path[VIEW_PATH];
    struct dirent **names = NULL;
    uint64_t now = 0;
    int n = path_of(dir, v->dir, "evals") ? scandir(dir, &names, is_evaluation, alphasort) : -1;
    if (n > EVALS_MAX) trouble(v, "evals/ has more than 64 files; the others are not shown");
    for (int i = 0; i < n && i < EVALS_MAX; i++)
        if (path_of(path, dir, names[i]->d_name)) {
            uint64_t id = identity(path);
            now = file_hash(&id, sizeof id, now);
        }
    if (now != v->seen_evals) {
        v->seen_evals = now;
        text_clear(&v->evals);
        text_add(&v->evals, "[");
        for (int i = 0; i < n && i < EVALS_MAX; i++) put_evaluation(v, dir, names[i]->d_name);
        text_add(&v->evals, "]");
    }
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

/* The lock file names the process that holds the directory. */
static int is_held(const RunView *v) {
    char path[VIEW_PATH];
    long pid = 0;
    if (!path_of(path, v->dir, ".lock")) return 0;
    FILE *fp = fopen(path, "re");
    if (!fp) return 0;
    if (fscanf(fp, "%ld", &pid) != 1) pid = 0;
    fclose(fp);
    return pid > 1 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

static void take_result(RunView *v) {
    JsonDoc *doc = NULL;
    int finished = 0;
    const char *verb = v->verb;
    if (v->result.len &&
        json_parse(&doc, "run.json", 1, v->result.s, v->result.len, JSON_STRICT) == OK) {
        const Json *root = json_root(doc);
        if (json_get_bool(doc, root, "finished", JSON_OPTIONAL, &finished) != OK) finished = 0;
        if (json_get_str(doc, root, "verb", JSON_OPTIONAL, &verb) == OK && verb != v->verb)
            snprintf(v->verb, sizeof v->verb, "%s", verb);
    }
    json_release(doc);
    v->state = finished ? "finished" : is_held(v) ? "running" : "stopped";
}

/* --- logs --- */

static void forget_logs(RunView *v) {
    series_clear(&v->series);
    rows_clear(&v->samples);
    rows_clear(&v->alarms);
    v->at_metrics = v->at_samples = v->at_alarms = (TailPos){0};
    v->bad_rows = 0;
    v->cuts++;
}

/* 1 when the log was cut back. */
static int refresh_log(RunView *v, const char *name, TailPos *at, TailRow take, void *ctx) {
    char path[VIEW_PATH];
    TailResult r;
    if (!path_of(path, v->dir, name)) return 0;
    if (tail_read(&r, at, path, SIZE_MAX, take, ctx) != OK) trouble(v, status_message());
    if (r.bad) trouble(v, r.first_bad);
    v->bad_rows += r.bad;
    return r.cut;
}

static int refresh_logs(RunView *v) {
    return refresh_log(v, "metrics.jsonl", &v->at_metrics, take_metrics, &v->series) ||
           refresh_log(v, "samples.jsonl", &v->at_samples, take_row, &v->samples) ||
           refresh_log(v, "alarms.jsonl", &v->at_alarms, take_row, &v->alarms);
}

void view_refresh(RunView *v) {
    refresh_object(v, &v->recipe, &v->seen_recipe, "recipe.json");
    refresh_object(v, &v->result, &v->seen_result, "run.json");
    refresh_evaluations(v);
    take_result(v);
    if (!refresh_logs(v)) return;
    forget_logs(v); /* cut back: from the beginning */
    refresh_logs(v);
}

/* --- life --- */

Status view_open(RunView **out, const char *dir, const char *name) {
    *out = NULL;
    RunView *v = calloc(1, sizeof *v);
    if (!v) return status_fail(E_MEMORY, "no memory to look at %s", dir);
    if ((size_t)snprintf(v->dir, sizeof v->dir, "%s", dir) >= sizeof v->dir) {
        free(v);
        return status_fail(E_USAGE, "the path of the run directory is too long: %.100s...", dir);
    }
    snprintf(v->name, sizeof v->name, "%s", name);
    v->state = "stopped";
    view_refresh(v);
    *out = v;
    return OK;
}

void view_close(RunView *v) {
    if (!v) return;
    series_clear(&v->series);
    rows_clear(&v->samples);
    rows_clear(&v->alarms);
    text_release(&v->recipe);
    text_release(&v->result);
    text_release(&v->evals);
    free(v);
}

/* --- as JSON --- */

static void put_text(Text *t, const char *key, const char *s) {
    json_put_key(t, key);
    json_put_string(t, s);
}

static void put_raw(Text *t, const char *key, const Text *json, const char *otherwise) {
    json_put_key(t, key);
    text_add(t, json->len ? json->s : otherwise);
}

static void put_rows(Text *t, const char *key, const ViewRows *r) {
    json_put_key(t, key);
    text_add(t, "[");
    for (int i = 0; i < r->n; i++) {
        if (i) text_add(t, ",");
        text_add(t, r->row[i]);
    }
    text_add(t, "]");
}

static void put_position(Text *t, const char *key, const TailPos *at) {
    json_put_key(t, key);
    text_add(t, "\"");
    tail_pos_put(t, at);
    text_add(t, "\"");
}

void view_put(Text *t, const RunView *v, int live) {
    text_add(t, "{");
    put_text(t, "name", v->name);
    put_text(t, "dir", v->dir);
    put_text(t, "verb", v->verb);
    put_text(t, "state", v->state);
    put_raw(t, "recipe", &v->recipe, "null");
    put_raw(t, "result", &v->result, "null");
    json_put_key(t, "rows");
    text_addf(t, "%d,\"logged\":%lld,\"group\":%d,\"bad_rows\":%d,\"samples_left_out\":%d",
              series_rows(&v->series), v->series.rows,
              v->series.group > 1 ? v->series.group / 2 * v->series.every : 1, v->bad_rows,
              v->samples.left_out);
    put_text(t, "trouble", v->trouble);
    json_put_key(t, "metrics");
    series_put(t, &v->series);
    put_rows(t, "samples", &v->samples);
    put_rows(t, "alarms", &v->alarms);
    put_raw(t, "evals", &v->evals, "[]");
    if (live) {
        json_put_key(t, "at");
        text_add(t, "{");
        put_position(t, "metrics", &v->at_metrics);
        put_position(t, "samples", &v->at_samples);
        put_position(t, "alarms", &v->at_alarms);
        text_add(t, "}");
    }
    text_add(t, "}");
}
