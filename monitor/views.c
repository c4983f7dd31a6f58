/* views.c - which runs there are under some paths; see view.h. */
#include <dirent.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "monitor/view.h"

/* The last component, or with parents = 1 the last two; "." and ".." as they are. */
static void short_name(char *out, size_t room, const char *path, int parents) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t at = end;
    for (int left = parents + 1; at > 0; at--)
        if (path[at - 1] == '/' && at != end && --left == 0) break;
    snprintf(out, room, "%.*s", (int)(end - at), path + at);
}

static int is_known(const RunViews *v, const char *dir) {
    for (int i = 0; i < v->n; i++)
        if (!strcmp(v->run[i]->dir, dir)) return 1;
    return 0;
}

static Status add_run(RunViews *v, const char *dir, const char *name) {
    if (is_known(v, dir)) return OK;
    if (v->n == VIEWS_MAX)
        return status_fail(E_USAGE, "more than %d runs cannot be shown at once", VIEWS_MAX);
    TRY(view_open(&v->run[v->n], dir, name));
    v->n++;
    return OK;
}

static double began(const RunView *v) {
    const Column *c = series_column(&v->series, "wall_time");
    return c && series_rows(&v->series) && !isnan(c->v[0]) ? c->v[0] : (double)INFINITY;
}

/* Those that have not begun come last, else by name. */
static int by_beginning(const void *a, const void *b) {
    const RunView *x = *(RunView *const *)a, *y = *(RunView *const *)b;
    double s = began(x), t = began(y);
    return s < t ? -1 : s > t ? 1 : strcmp(x->dir, y->dir);
}

static Status add_folder(RunViews *v, const char *path) {
    struct dirent **names = NULL;
    char dir[VIEW_PATH], parent[100], name[160];
    int first = v->n, n = scandir(path, &names, NULL, alphasort);
    Status s = OK;
    short_name(parent, sizeof parent, path, 0);
    for (int i = 0; i < n; i++) {
        if (s == OK && names[i]->d_name[0] != '.' &&
            snprintf(dir, sizeof dir, "%s/%s", path, names[i]->d_name) < VIEW_PATH &&
            file_is_dir(dir) && view_is_run(dir)) {
            if (v->n_paths > 1)
                snprintf(name, sizeof name, "%s/%.50s", parent, names[i]->d_name);
            else
                snprintf(name, sizeof name, "%.150s", names[i]->d_name);
            s = add_run(v, dir, name);
        }
        free(names[i]);
    }
    free(names);
    qsort(v->run + first, (size_t)(v->n - first), sizeof *v->run, by_beginning);
    return s;
}

static int is_taken(const RunViews *v, const char *name) {
    for (int i = 0; i < v->n; i++)
        if (!strcmp(v->run[i]->name, name)) return 1;
    return 0;
}

static Status add_path(RunViews *v, const char *path) {
    char name[160];
    if (is_known(v, path)) return OK;
    for (int parents = 0; parents < 4; parents++) {
        short_name(name, sizeof name, path, parents);
        if (!is_taken(v, name)) break;
    }
    return add_run(v, path, name);
}

/* The runs of a path that are not known yet. */
static Status find_runs(RunViews *v, const char *path) {
    return view_is_run(path) ? add_path(v, path) : add_folder(v, path);
}

static Status open_path(RunViews *v, const char *path, int awaited) {
    int before = v->n;
    if (!file_is_dir(path)) return status_fail(E_USAGE, "%s is no folder", path);
    TRY(find_runs(v, path));
    if (v->n > before || is_known(v, path) || awaited) return OK;
    return status_fail(E_USAGE, "%s is no run directory and holds none", path);
}

Status views_open(RunViews *out, const char *const *paths, int n, int awaited) {
    *out = (RunViews){.paths = paths, .n_paths = n};
    Status s = n ? OK : status_fail(E_USAGE, "no run directory was given");
    for (int i = 0; s == OK && i < n; i++) s = open_path(out, paths[i], awaited);
    if (s != OK) views_close(out);
    return s;
}

void views_close(RunViews *v) {
    for (int i = 0; i < v->n; i++) view_close(v->run[i]);
    v->n = 0;
}

void views_refresh(RunViews *v) {
    for (int i = 0; i < v->n; i++) view_refresh(v->run[i]);
    for (int i = 0; i < v->n_paths; i++)
        if (find_runs(v, v->paths[i]) != OK) return;
}

uint64_t views_signature(const RunViews *v) {
    uint64_t h = (uint64_t)v->n;
    for (int i = 0; i < v->n; i++) {
        const RunView *r = v->run[i];
        uint64_t parts[] = {r->seen_recipe, r->seen_result, r->seen_evals, (uint64_t)r->cuts};
        h = file_hash(parts, sizeof parts, h);
        h = file_hash(r->state, strlen(r->state), h);
    }
    return h;
}

void views_title(Text *t, const RunViews *v) {
    char whole[PATH_MAX], name[160];
    const char *path = v->n_paths == 1 ? v->paths[0] : "runs compared";
    if (v->n_paths == 1 && realpath(path, whole)) path = whole;
    short_name(name, sizeof name, path, 0);
    text_add(t, name);
}
