/* checkpoint_write.c - saving: files, manifest, rename, and only then the removal of what is older.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/run/run_inside.h"

struct CheckpointWriter {
    Run *run;
    int step;
    Status failed; /* the first failure; its sentence in `why` */
    char why[1024];
    char dir[RUN_PATH]; /* step-N.tmp */

    FILE *fp; /* the file being written */
    char path[RUN_PATH + 128], name[128];
    uint64_t bytes, all; /* of this file, of all finished ones */
    XXH3_state_t *hash;
    Text files; /* the manifest's entries of finished files */
};

static Status note(CheckpointWriter *w, Status s) {
    if (s != OK && w->failed == OK) {
        w->failed = s;
        snprintf(w->why, sizeof w->why, "%s", status_message());
    }
    return s;
}

static Status io_fail(const char *verb, const char *path) {
    return status_fail(E_IO, "cannot %s %s: %s", verb, path, strerror(errno));
}

/* --- files --- */

Status checkpoint_begin(CheckpointWriter **out, Run *run, int step) {
    CHECK(run->begun);
    CHECK(step >= 0);
    *out = NULL;
    CheckpointWriter *w = calloc(1, sizeof *w);
    if (w) w->hash = XXH3_createState();
    if (!w || !w->hash) {
        free(w);
        return status_fail(E_MEMORY, "no memory to save step %d in %s", step, run->dir);
    }
    w->run = run;
    w->step = step;
    checkpoint_path(w->dir, run, (StepDir){step, 0}, ".tmp");
    if (note(w, file_remove_tree(w->dir)) == OK && mkdir(w->dir, 0777) != 0)
        note(w, io_fail("make the folder", w->dir));
    *out = w;
    return OK;
}

static Status sync_and_close(FILE *fp, const char *path) {
    Status s = OK;
    if (fflush(fp) != 0)
        s = io_fail("write", path);
    else if (fsync(fileno(fp)) != 0)
        s = io_fail("sync", path);
    if (fclose(fp) != 0 && s == OK) s = io_fail("close", path);
    return s;
}

static void finish_file(CheckpointWriter *w) {
    if (!w->fp) return;
    note(w, sync_and_close(w->fp, w->path));
    w->fp = NULL;
    w->all += w->bytes;
    text_add(&w->files, w->files.len ? ",\n{" : "{");
    json_put_key(&w->files, "name");
    json_put_string(&w->files, w->name);
    text_addf(&w->files, ",\"bytes\":\"%llu\",\"xxh3\":\"%016llx\"}", (unsigned long long)w->bytes,
              (unsigned long long)XXH3_64bits_digest(w->hash));
}

static void start_file(CheckpointWriter *w, const char *name) {
    size_t n = strlen(name);
    CHECK(n > 0 && n < sizeof w->name && !strchr(name, '/') && name[0] != '.');
    CHECK(strcmp(name, "manifest.json") != 0);
    snprintf(w->name, sizeof w->name, "%s", name);
    snprintf(w->path, sizeof w->path, "%s/%s", w->dir, name);
    w->bytes = 0;
    XXH3_64bits_reset(w->hash);
    w->fp = fopen(w->path, "wbxe"); /* x: a name used twice is our own mistake and must not pass */
    if (!w->fp) note(w, io_fail("create", w->path));
}

Status checkpoint_file(CheckpointWriter *w, const char *name) {
    finish_file(w);
    if (w->failed == OK) start_file(w, name);
    return OK;
}

Status checkpoint_write(CheckpointWriter *w, const void *data, size_t bytes) {
    if (w->failed != OK || bytes == 0) return OK;
    CHECK(w->fp);
    XXH3_64bits_update(w->hash, data, bytes);
    w->bytes += bytes;
    if (fwrite(data, 1, bytes, w->fp) != bytes) note(w, io_fail("write", w->path));
    return OK;
}

Status checkpoint_add(CheckpointWriter *w, const char *name, const void *data, size_t bytes) {
    checkpoint_file(w, name);
    checkpoint_write(w, data, bytes);
    finish_file(w);
    return OK;
}

/* --- manifest --- */

void manifest_head(char out[MANIFEST_HEAD + 1], const char *rest, size_t len) {
    int n = snprintf(out, MANIFEST_HEAD + 1, "{\"manifest_xxh3\":\"%016llx\",\n",
                     (unsigned long long)file_hash(rest, len, 0));
    CHECK(n == MANIFEST_HEAD);
}

/* The offset is a promise about the log's bytes, so they must be on disk before it. */
static Status put_log(void *ctx, const char *name, const char *path, uint64_t bytes) {
    Text *t = ctx;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_fail("open", path);
    Status s = fsync(fd) != 0 ? io_fail("sync", path) : OK;
    close(fd);
    json_put_key(t, name);
    text_addf(t, "\"%llu\"", (unsigned long long)bytes);
    return s;
}

static Status manifest_body(CheckpointWriter *w, Text *t) {
    text_addf(t, "\"format\":%d,\"step\":%d,\"verb\":", MANIFEST_FORMAT, w->step);
    json_put_string(t, w->run->verb);
    text_add(t, ",\n\"logs\":{");
    TRY(run_visit_logs(w->run, put_log, t));
    text_addf(t, "},\n\"files\":[\n%s]}\n", w->files.len ? w->files.s : "");
    return OK;
}

static Status write_synced(const char *path, const char *head, const Text *body) {
    FILE *fp = fopen(path, "wbe");
    if (!fp) return io_fail("create", path);
    Status s = OK;
    if (fputs(head, fp) == EOF || fwrite(body->s, 1, body->len, fp) != body->len)
        s = io_fail("write", path);
    Status closed = sync_and_close(fp, path);
    return s != OK ? s : closed;
}

static Status write_manifest(CheckpointWriter *w) {
    char path[RUN_PATH + 128], head[MANIFEST_HEAD + 1];
    Text body = {0};
    Status s = manifest_body(w, &body);
    if (s == OK) {
        manifest_head(head, body.s, body.len);
        snprintf(path, sizeof path, "%s/manifest.json", w->dir);
        s = write_synced(path, head, &body);
    }
    text_release(&body);
    return s == OK ? file_fsync_dir(w->dir) : s;
}

/* --- commit --- */

static Status put_in_place(CheckpointWriter *w) {
    char final[RUN_PATH], old[RUN_PATH], parent[RUN_PATH];
    StepDir d = {w->step, 0};
    checkpoint_path(final, w->run, d, "");
    checkpoint_path(old, w->run, d, ".old");
    if (file_exists(final)) {
        TRY(file_remove_tree(old));
        if (rename(final, old) != 0) return io_fail("rename", final);
    }
    if (rename(w->dir, final) != 0) {
        Status s = io_fail("rename", w->dir);
        if (file_exists(old) && rename(old, final) != 0) log_debug("%s stays under that name", old);
        return s;
    }
    run_path(parent, w->run, "checkpoints");
    TRY(file_fsync_dir(parent));
    return OK;
}

/* Renamed first: a removal that is cut short must not leave half a checkpoint under a good name. */
static Status drop(const Run *run, StepDir d) {
    char path[RUN_PATH], doomed[RUN_PATH];
    checkpoint_path(path, run, d, "");
    checkpoint_path(doomed, run, d, ".tmp");
    TRY(file_remove_tree(doomed));
    if (rename(path, doomed) != 0) return io_fail("rename", path);
    return file_remove_tree(doomed);
}

static Status drop_older(const Run *run) {
    StepDir *dirs = malloc(STEP_DIRS_MAX * sizeof *dirs);
    if (!dirs) return status_fail(E_MEMORY, "no memory to list checkpoints");
    int n = 0, kept = 0;
    Status s = checkpoint_list(run, dirs, &n);
    for (int i = 0; i < n && s == OK; i++) {
        int superseded = dirs[i].old && i > 0 && dirs[i - 1].step == dirs[i].step;
        if (superseded || kept >= run->keep)
            s = drop(run, dirs[i]);
        else
            kept++;
    }
    free(dirs);
    return s;
}

static void release(CheckpointWriter *w) {
    XXH3_freeState(w->hash);
    text_release(&w->files);
    free(w);
}

static void warn_not_saved(const CheckpointWriter *w) {
    int saved = w->run->saved_step;
    if (saved >= 0)
        log_warn("step %d was not saved: %s; the checkpoint of step %d stays and the run goes on",
                 w->step, w->why, saved);
    else
        log_warn("step %d was not saved: %s; there is no older checkpoint, the run goes on",
                 w->step, w->why);
}

/* A16: once, when fewer checkpoints fit than a run that keeps some may need at a time. */
static void watch_disk(const CheckpointWriter *w) {
    enum { ROOM_FOR = 3 };
    struct statvfs disk;
    Run *run = w->run;
    Alarm a = {.id = "A16",
               .name = "disk-full-soon",
               .metric = "disk",
               .cause = "the disk has room for fewer than three more checkpoints (bytes)",
               .setting = "run.keep",
               .limit = ROOM_FOR * (double)w->all};
    if (run->disk_raised || statvfs(run->dir, &disk) != 0) return;
    a.value = (double)disk.f_bavail * (double)disk.f_frsize;
    if (a.value >= a.limit) return;
    run->disk_raised = 1;
    run_alarm(run, &a, w->step);
}

Status checkpoint_commit(CheckpointWriter *w) {
    finish_file(w);
    if (w->failed == OK) note(w, write_manifest(w));
    if (w->failed == OK) note(w, put_in_place(w));
    if (w->failed != OK) {
        warn_not_saved(w);
        checkpoint_abort(w);
        return OK;
    }
    w->run->saved_step = w->step;
    watch_disk(w);
    if (drop_older(w->run) != OK) log_warn("an old checkpoint stays: %s", status_message());
    release(w);
    return OK;
}

void checkpoint_abort(CheckpointWriter *w) {
    if (!w) return;
    if (w->fp) fclose(w->fp);
    if (file_remove_tree(w->dir) != OK) log_debug("%s", status_message());
    release(w);
}

int run_saved_step(const Run *run) {
    return run->saved_step;
}
