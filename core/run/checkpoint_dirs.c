/* checkpoint_dirs.c - the folders under checkpoints/. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/run/run_inside.h"

/* "step-12" or "step-12.old", written as we write it. */
static int parse_name(StepDir *d, const char *name) {
    char again[64];
    int end = 0;
    *d = (StepDir){0, 0};
    if (sscanf(name, "step-%9d%n", &d->step, &end) != 1 || d->step < 0) return 0;
    d->old = !strcmp(name + end, ".old");
    snprintf(again, sizeof again, "step-%d%s", d->step, d->old ? ".old" : "");
    return !strcmp(again, name);
}

static int newest_first(const void *a_, const void *b_) {
    const StepDir *a = a_, *b = b_;
    if (a->step != b->step) return a->step < b->step ? 1 : -1;
    return a->old - b->old;
}

void checkpoint_path(char out[RUN_PATH], const Run *run, StepDir d, const char *suffix) {
    snprintf(out, RUN_PATH, "%s/checkpoints/step-%d%s%s", run->dir, d.step, d.old ? ".old" : "",
             suffix);
}

static Status open_dir(DIR **d, char path[RUN_PATH], const Run *run) {
    run_path(path, run, "checkpoints");
    *d = opendir(path);
    return *d ? OK : status_fail(E_IO, "cannot open the folder %s: %s", path, strerror(errno));
}

Status checkpoint_list(const Run *run, StepDir *out, int *n) {
    char path[RUN_PATH];
    DIR *d;
    TRY(open_dir(&d, path, run));
    *n = 0;
    for (struct dirent *e; *n < STEP_DIRS_MAX && (e = readdir(d));)
        if (parse_name(&out[*n], e->d_name)) ++*n;
    closedir(d);
    qsort(out, (size_t)*n, sizeof *out, newest_first);
    return OK;
}

static int ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n > k && !strcmp(s + n - k, end);
}

/* An .old copy is needed only while its step is missing. */
static int is_leftover(const char *dir, const char *name) {
    char path[RUN_PATH + 300];
    if (strncmp(name, "step-", 5) != 0) return 0;
    if (ends_with(name, ".tmp") || ends_with(name, ".damaged")) return 1;
    if (!ends_with(name, ".old")) return 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    path[strlen(path) - 4] = '\0';
    return file_exists(path);
}

Status checkpoint_clean(const Run *run) {
    char dir[RUN_PATH], path[RUN_PATH + 300];
    DIR *d;
    TRY(open_dir(&d, dir, run));
    Status s = OK;
    for (struct dirent *e; s == OK && (e = readdir(d));) {
        if (!is_leftover(dir, e->d_name)) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        s = file_remove_tree(path);
    }
    closedir(d);
    return s;
}
