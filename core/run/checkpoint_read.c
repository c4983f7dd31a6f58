/* checkpoint_read.c - resuming: everything is verified before anything is handed out or changed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/run/run_inside.h"

enum { MANIFEST_BYTES = 16 << 20 };

typedef struct {
    char *name;
    FileMap map;
} Part;

struct Checkpoint {
    int step;
    char dir[RUN_PATH];
    Part *parts;
    int n;
    JsonDoc *manifest;
    Arena arena;
};

/* --- the manifest --- */

static Status whole_number(const JsonDoc *doc, const Json *n, int base, uint64_t *out) {
    char *end = NULL;
    errno = 0;
    if (json_type(n) == JSON_STRING) *out = strtoull(json_str(n), &end, base);
    if (!end || end == json_str(n) || *end || errno)
        return json_fail(doc, n, "expected a whole number in quotes");
    return OK;
}

static Status get_number(const JsonDoc *doc, const Json *object, const char *key, int base,
                         uint64_t *out) {
    const Json *n = NULL;
    TRY(json_get_node(doc, object, key, JSON_REQUIRED, JSON_STRING, &n));
    return whole_number(doc, n, base, out);
}

static Status read_manifest(Checkpoint *c) {
    char path[RUN_PATH + 32], head[MANIFEST_HEAD + 1], *text;
    size_t len;
    int format = 0;
    snprintf(path, sizeof path, "%s/manifest.json", c->dir);
    TRY(file_read(&c->arena, &text, &len, path, MANIFEST_BYTES));
    if (len <= MANIFEST_HEAD) return status_fail(E_FORMAT, "%s is truncated", path);
    manifest_head(head, text + MANIFEST_HEAD, len - MANIFEST_HEAD);
    if (memcmp(head, text, MANIFEST_HEAD) != 0)
        return status_fail(E_FORMAT, "%s is damaged: its hash does not match", path);
    TRY(json_parse(&c->manifest, path, 1, text, len, JSON_STRICT));
    const Json *root = json_root(c->manifest);
    TRY(json_get_int(c->manifest, root, "format", JSON_REQUIRED, &format));
    if (format != MANIFEST_FORMAT)
        return status_fail(E_FORMAT, "%s has format %d, this program reads %d", path, format,
                           MANIFEST_FORMAT);
    int step = -1;
    TRY(json_get_int(c->manifest, root, "step", JSON_REQUIRED, &step));
    if (step != c->step)
        return status_fail(E_FORMAT, "%s is of step %d, not of step %d", path, step, c->step);
    return OK;
}

/* --- the files --- */

static Status verify_part(Checkpoint *c, Part *p, const Json *entry) {
    char path[RUN_PATH + 300];
    const char *name = NULL;
    uint64_t bytes = 0, hash = 0;
    TRY(json_get_str(c->manifest, entry, "name", JSON_REQUIRED, &name));
    TRY(get_number(c->manifest, entry, "bytes", 10, &bytes));
    TRY(get_number(c->manifest, entry, "xxh3", 16, &hash));
    if (!name[0] || strchr(name, '/') || strlen(name) > 255)
        return json_fail(c->manifest, entry, "\"%.100s\" is not the name of a file", name);
    snprintf(path, sizeof path, "%s/%s", c->dir, name);
    p->name = arena_strdup(&c->arena, name);
    TRY(file_map(&p->map, path));
    if (p->map.len != bytes)
        return status_fail(E_FORMAT, "%s is damaged: it has %zu bytes instead of %llu", path,
                           p->map.len, (unsigned long long)bytes);
    uint64_t found = file_hash(p->map.data, p->map.len, 0);
    file_forget(p->map.data, p->map.len);
    if (found != hash) return status_fail(E_FORMAT, "%s is damaged: its hash does not match", path);
    return OK;
}

static Status verify(Checkpoint *c) {
    const Json *files = NULL;
    TRY(read_manifest(c));
    TRY(json_get_node(c->manifest, json_root(c->manifest), "files", JSON_REQUIRED, JSON_ARRAY,
                      &files));
    int n = json_size(files);
    c->parts = arena_alloc(&c->arena, (size_t)n * sizeof *c->parts);
    for (const Json *entry = json_first(files); entry; entry = json_next(entry)) {
        Part *p = &c->parts[c->n];
        Status s = verify_part(c, p, entry);
        if (p->map.data) c->n++; /* mapped: released with the checkpoint */
        TRY(s);
    }
    return OK;
}

static Status open_one(Checkpoint **out, const Run *run, StepDir d) {
    *out = NULL;
    Checkpoint *c = calloc(1, sizeof *c);
    if (!c) return status_fail(E_MEMORY, "no memory to open a checkpoint");
    c->step = d.step;
    checkpoint_path(c->dir, run, d, "");
    Status s = verify(c);
    if (s == OK)
        *out = c;
    else
        checkpoint_close(c);
    return s;
}

/* --- choosing --- */

/* A damaged folder must not stand where the next save of that step wants to be. */
static void set_aside(const Run *run, const StepDir *bad, int n) {
    for (int i = 0; i < n; i++) {
        char from[RUN_PATH], to[RUN_PATH];
        checkpoint_path(from, run, bad[i], "");
        checkpoint_path(to, run, bad[i], ".damaged");
        if (file_remove_tree(to) != OK || rename(from, to) != 0)
            log_debug("%s could not be renamed", from);
    }
}

static Status choose(Checkpoint **c, const Run *run, const StepDir *dirs, int n) {
    char first[1024] = "";
    for (int i = 0; i < n; i++) {
        Status s = open_one(c, run, dirs[i]);
        if (s == OK) {
            set_aside(run, dirs, i);
            return OK;
        }
        if (s == E_MEMORY) return s;
        if (!first[0]) snprintf(first, sizeof first, "%s", status_message());
        log_warn("the checkpoint of step %d cannot be used: %s%s", dirs[i].step, status_message(),
                 i + 1 < n ? "; trying the one before it" : "");
    }
    if (n == 0) return OK;
    return status_fail(E_FORMAT,
                       "%s/checkpoints: none of %d checkpoints can be used; the newest: %s",
                       run->dir, n, first);
}

typedef struct {
    const JsonDoc *manifest;
    const Json *logs; /* NULL: nothing was saved, every log begins anew */
} Cut;

static Status cut_log(void *ctx, const char *name, const char *path, uint64_t bytes) {
    const Cut *cut = ctx;
    const Json *n = cut->logs ? json_get(cut->logs, name) : NULL;
    uint64_t keep = 0;
    if (n) TRY(whole_number(cut->manifest, n, 10, &keep));
    if (bytes < keep) {
        log_warn("%s has %llu bytes, the checkpoint knew %llu: rows are missing", path,
                 (unsigned long long)bytes, (unsigned long long)keep);
        return OK;
    }
    if (bytes > keep && truncate(path, (off_t)keep) != 0)
        return status_fail(E_IO, "cannot cut back %s: %s", path, strerror(errno));
    return OK;
}

static Status cut_logs(const Run *run, const Checkpoint *c) {
    Cut cut = {0};
    if (c) {
        cut.manifest = c->manifest;
        TRY(json_get_node(c->manifest, json_root(c->manifest), "logs", JSON_REQUIRED, JSON_OBJECT,
                          &cut.logs));
    }
    return run_visit_logs(run, cut_log, &cut);
}

Status checkpoint_open_latest(Checkpoint **c, Run *run) {
    *c = NULL;
    if (!run->begun) return OK; /* what lies there is of another run */
    StepDir *dirs = malloc(STEP_DIRS_MAX * sizeof *dirs);
    if (!dirs) return status_fail(E_MEMORY, "no memory to list checkpoints");
    int n = 0;
    Status s = checkpoint_list(run, dirs, &n);
    if (s == OK) s = choose(c, run, dirs, n);
    free(dirs);
    if (s == OK) s = cut_logs(run, *c);
    if (s == OK && *c) run->saved_step = (*c)->step;
    if (s != OK) {
        checkpoint_close(*c);
        *c = NULL;
    }
    return s;
}

/* --- of another run --- */

static Status name_run(Run *run, const char *dir) {
    *run = (Run){0};
    if ((size_t)snprintf(run->dir, sizeof run->dir, "%s", dir) >= sizeof run->dir)
        return status_fail(E_USAGE, "the path of the run directory is too long: %.100s...", dir);
    return OK;
}

/* All its folders, newest first; free() them. */
static Status list_run(StepDir **dirs, int *n, Run *run, const char *dir) {
    TRY(name_run(run, dir));
    *dirs = malloc(STEP_DIRS_MAX * sizeof **dirs);
    if (!*dirs) return status_fail(E_MEMORY, "no memory to list checkpoints");
    Status s = checkpoint_list(run, *dirs, n);
    if (s != OK) free(*dirs);
    return s;
}

Status checkpoint_steps(const char *run_dir, int *steps, int max, int *n) {
    StepDir *dirs;
    Run run;
    int found;
    TRY(list_run(&dirs, &found, &run, run_dir));
    *n = 0;
    for (int i = found - 1; i >= 0 && *n < max; i--)
        if (!*n || steps[*n - 1] != dirs[i].step) steps[(*n)++] = dirs[i].step;
    free(dirs);
    return OK;
}

Status checkpoint_open_step(Checkpoint **c, const char *run_dir, int step) {
    StepDir *dirs;
    Run run;
    int n;
    *c = NULL;
    TRY(list_run(&dirs, &n, &run, run_dir));
    Status s = status_fail(E_FORMAT, "%s has no checkpoint of step %d", run_dir, step);
    for (int i = 0; i < n && s != OK; i++)
        if (dirs[i].step == step) s = open_one(c, &run, dirs[i]);
    free(dirs);
    return s;
}

/* --- an open checkpoint --- */

int checkpoint_step(const Checkpoint *c) {
    return c->step;
}

Status checkpoint_view(const Checkpoint *c, const char *name, size_t bytes_expected,
                       const void **data, size_t *bytes) {
    for (int i = 0; i < c->n; i++) {
        const Part *p = &c->parts[i];
        if (strcmp(p->name, name) != 0) continue;
        if (bytes_expected && p->map.len != bytes_expected)
            return status_fail(E_FORMAT, "%s/%s has %zu bytes where this run needs %zu", c->dir,
                               name, p->map.len, bytes_expected);
        *data = p->map.data;
        if (bytes) *bytes = p->map.len;
        return OK;
    }
    return status_fail(E_FORMAT, "%s has no file %s", c->dir, name);
}

Status checkpoint_read(const Checkpoint *c, const char *name, void *out, size_t bytes) {
    const void *data = NULL;
    Status s = checkpoint_view(c, name, bytes, &data, NULL);
    if (s == OK) memcpy(out, data, bytes);
    return s;
}

void checkpoint_close(Checkpoint *c) {
    if (!c) return;
    for (int i = 0; i < c->n; i++) file_unmap(&c->parts[i].map);
    json_release(c->manifest);
    arena_release(&c->arena);
    free(c);
}
