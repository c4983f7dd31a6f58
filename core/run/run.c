/* run.c - the run directory: lock, recipe, logs, finished marker. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/run/events.h"
#include "core/run/run_inside.h"

const Field run_fields[] = {
    FIELD(RunConfig, dir, FIELD_STRING, "", "run directory (runs/<verb> when not given)"),
    FIELD(RunConfig, seed, FIELD_U64, "1", "seed of every random number of the run"),
    FIELD_IN(RunConfig, eval_every, FIELD_INT, "0", 0, 1e9,
             "steps between evaluations; 0: at the end"),
    FIELD_IN(RunConfig, save_every, FIELD_INT, "0", 0, 1e9,
             "steps between checkpoints; 0: at the end"),
    /* with what may stand beside them, fewer than STEP_DIRS_MAX: a resume lists them all */
    FIELD_IN(RunConfig, keep, FIELD_INT, "2", 2, 4000, "newest checkpoints kept"),
    FIELD(RunConfig, best, FIELD_STRING, "", "metric whose best value's model is kept"),
    FIELD(RunConfig, resume, FIELD_BOOL, "false",
          "continue from the newest good checkpoint, if any"),
    FIELD(RunConfig, overwrite, FIELD_BOOL, "false", "replace the run that the directory holds"),
    FIELD_IN(RunConfig, log_every, FIELD_INT, "10", 1, 1e9,
             "steps between lines when not on a terminal"),
    FIELD(RunConfig, tensorboard, FIELD_BOOL, "true", "write metrics as TensorBoard events, too"),
    FIELD(RunConfig, dump_rollouts, FIELD_BOOL, "false",
          "ppo: write every rollout to rollouts.jsonl, token by token"),
};
const int run_n_fields = sizeof run_fields / sizeof *run_fields;

static const char *const log_names[N_LOGS] = {
    [METRICS_LOG] = "metrics.jsonl",
    [SAMPLES_LOG] = "samples.jsonl",
    [ALARMS_LOG] = "alarms.jsonl",
    [ROLLOUTS_LOG] = "rollouts.jsonl",
};
/* What a run writes beside its logs. --overwrite removes both; the rest is the user's. */
static const char *const own_files[] = {
    "recipe.json", "run.json", "rejects.jsonl", "checkpoints", "evals",
    "report.html", "model",    "best",          "critic",      "ema",
};

void run_path(char out[RUN_PATH], const Run *run, const char *name) {
    int n = snprintf(out, RUN_PATH, "%s/%s", run->dir, name);
    CHECK(n > 0 && n < RUN_PATH);
}

const char *run_dir(const Run *run) {
    return run->dir;
}

/* --- the lock --- */

static Status lock_held(Run *run) {
    char pid[32] = "";
    ssize_t n = pread(run->lock, pid, sizeof pid - 1, 0);
    pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
    return status_fail(E_USAGE, "%s is in use by process %s", run->dir, pid[0] ? pid : "(unknown)");
}

static Status take_lock(Run *run) {
    char path[RUN_PATH], pid[32];
    run_path(path, run, ".lock");
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0) return status_fail(E_IO, "cannot create %s: %s", path, strerror(errno));
    if (flock(run->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) return lock_held(run);
        return status_fail(E_IO, "cannot lock %s: %s", path, strerror(errno));
    }
    run->locked = 1;
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    /* the number is only for the message of another process; the lock is what counts */
    if (ftruncate(run->lock, 0) != 0 || pwrite(run->lock, pid, (size_t)n, 0) != n)
        log_debug("the pid could not be written to %s", path);
    return OK;
}

/* --- an old run in the directory --- */

static int holds_run(const Run *run) {
    char path[RUN_PATH];
    run_path(path, run, "recipe.json");
    return file_exists(path);
}

static Status remove_events(void *ctx, const char *name, const char *path, uint64_t bytes) {
    (void)ctx, (void)bytes;
    if (strncmp(name, "events.", 7) || unlink(path) == 0) return OK;
    return status_fail(E_IO, "cannot remove %s: %s", path, strerror(errno));
}

static Status remove_own(const Run *run, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char path[RUN_PATH];
        run_path(path, run, names[i]);
        TRY(file_remove_tree(path));
    }
    return OK;
}

static Status remove_old(const Run *run) {
    TRY(run_visit_logs(run, remove_events, NULL));
    TRY(remove_own(run, log_names, N_LOGS));
    TRY(remove_own(run, own_files, sizeof own_files / sizeof *own_files));
    return file_fsync_dir(run->dir);
}

static Status check_verb(const Run *run) {
    char path[RUN_PATH];
    const char *verb = run->verb;
    JsonDoc *doc;
    run_path(path, run, "run.json");
    if (!file_exists(path)) return OK;
    TRY(json_parse_file(&doc, path, JSON_STRICT));
    Status s = json_get_str(doc, json_root(doc), "verb", JSON_OPTIONAL, &verb);
    if (s == OK && strcmp(verb, run->verb) != 0)
        s = status_fail(E_USAGE, "%s holds a run of %s, which %s cannot resume", run->dir, verb,
                        run->verb);
    json_release(doc);
    return s;
}

static Status check_same_run(const Run *run, const char *recipe) {
    char path[RUN_PATH];
    JsonDoc *stored = NULL, *now = NULL;
    TRY(check_verb(run));
    run_path(path, run, "recipe.json");
    Status s = json_parse_file(&stored, path, JSON_STRICT);
    if (s == OK)
        s = json_parse(&now, "the resolved recipe", 1, recipe, strlen(recipe), JSON_STRICT);
    if (s == OK) s = run_compare_recipes(run->dir, stored, now);
    json_release(stored);
    json_release(now);
    return s;
}

static Status write_marker(const Run *run, const char *members) {
    char path[RUN_PATH];
    Text t = {0};
    text_add(&t, "{");
    json_put_key(&t, "verb");
    json_put_string(&t, run->verb);
    text_addf(&t, ",%s}\n", members);
    run_path(path, run, "run.json");
    Status s = file_write_atomic(path, t.s, t.len);
    text_release(&t);
    return s;
}

/* --- opening --- */

static Status open_log(Run *run, int which) {
    char path[RUN_PATH];
    run_path(path, run, log_names[which]);
    run->log[which] = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (run->log[which] >= 0) return OK;
    return status_fail(E_IO, "cannot open %s: %s", path, strerror(errno));
}

static Status open_logs(Run *run) {
    char path[RUN_PATH];
    run_path(path, run, "checkpoints");
    TRY(file_mkdirs(path));
    TRY(checkpoint_clean(run));
    for (int i = 0; i < N_LOGS; i++)
        if (i != ROLLOUTS_LOG || run->dump_rollouts) TRY(open_log(run, i));
    TRY(file_fsync_dir(run->dir));
    run->begun = 1;
    return OK;
}

/* recipe.json is written last: with it the directory counts as holding a run. */
Status run_begin(Run *run) {
    char path[RUN_PATH];
    if (run->begun) return OK;
    TRY(remove_old(run));
    TRY(write_marker(run, "\"finished\":false"));
    run_path(path, run, "recipe.json");
    TRY(file_write_atomic(path, run->recipe, strlen(run->recipe)));
    return open_logs(run);
}

static Status open_dir(Run *run, const RunConfig *cfg) {
    TRY(file_mkdirs(run->dir));
    TRY(take_lock(run));
    if (cfg->resume && cfg->overwrite)
        return status_fail(E_USAGE, "resume and overwrite exclude each other");
    if (!holds_run(run) || cfg->overwrite) return OK;
    if (!cfg->resume)
        return status_fail(
            E_USAGE,
            "%s holds a run already: give --resume to continue it, --overwrite to replace "
            "it, or another --run.dir",
            run->dir);
    TRY(check_same_run(run, run->recipe));
    return open_logs(run);
}

Status run_open(Run **out, const RunConfig *cfg, const char *verb, const char *resolved_recipe) {
    *out = NULL;
    Run *run = calloc(1, sizeof *run);
    if (!run) return status_fail(E_MEMORY, "no memory to open the run directory %s", cfg->dir);
    run->lock = run->events = -1;
    for (int i = 0; i < N_LOGS; i++) run->log[i] = -1;
    run->alarm_cfg = cfg->alarms;
    run->tensorboard = cfg->tensorboard;
    run->dump_rollouts = cfg->dump_rollouts;
    run->recipe = strdup(resolved_recipe);
    run->resumed = cfg->resume;
    run->last_step = run->saved_step = -1;
    run->keep = cfg->keep > 2 ? cfg->keep : 2;
    snprintf(run->verb, sizeof run->verb, "%s", verb);
    Status s;
    if (!run->recipe)
        s = status_fail(E_MEMORY, "no memory to open the run directory %s", cfg->dir);
    else if (!cfg->dir || !cfg->dir[0])
        s = status_fail(E_USAGE, "no run directory was given: set --run.dir");
    else if ((size_t)snprintf(run->dir, sizeof run->dir, "%s", cfg->dir) >= sizeof run->dir)
        s = status_fail(E_USAGE, "the path of the run directory is too long: %.100s...", cfg->dir);
    else
        s = open_dir(run, cfg);
    if (s == OK)
        *out = run;
    else
        run_close(run);
    return s;
}

/* The directory goes only when nothing else lies in it. */
static void remove_lock(const Run *run) {
    char lock[RUN_PATH];
    run_path(lock, run, ".lock");
    unlink(lock);
    rmdir(run->dir);
}

void run_close(Run *run) {
    if (!run) return;
    if (run->locked && !run->begun && !holds_run(run)) remove_lock(run);
    for (int i = 0; i < N_LOGS; i++)
        if (run->log[i] >= 0) close(run->log[i]);
    if (run->events >= 0) close(run->events);
    if (run->lock >= 0) close(run->lock);
    free(run->recipe);
    free(run);
}

/* --- logs --- */

/* A row that could not be written whole is taken back, so that a log never holds half a line. */
static int append(int fd, const char *data, size_t n) {
    struct stat st;
    if (fstat(fd, &st) != 0) return errno;
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, data + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k >= 0) {
            done += (size_t)k;
            continue;
        }
        int err = errno;
        return ftruncate(fd, st.st_size) == 0 ? err : EIO;
    }
    return 0;
}

static void append_row(Run *run, int which, Text *row) {
    CHECK(run->begun);
    text_add(row, "\n");
    int err = append(run->log[which], row->s, row->len);
    if (err && run->rows_lost++ % 100 == 0)
        log_warn(
            "a row of %s/%s could not be written (%s); the run goes on, %d rows were lost so far",
            run->dir, log_names[which], strerror(err), run->rows_lost);
    text_release(row);
}

static void append_json(Run *run, int which, const char *json) {
    Text row = {0};
    text_add(&row, json);
    append_row(run, which, &row);
}

/* Every process writes an event file of its own; that of a resume begins with a START record. */
static void open_events(Run *run, double now, int step) {
    char host[64] = "host", name[128], path[RUN_PATH];
    Text t = {0};
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "events.out.tfevents.%lld.%.60s.%ld", (long long)now, host,
             (long)getpid());
    run_path(path, run, name);
    run->events = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (run->events < 0) {
        log_warn("%s cannot be written (%s); the run goes on without it", path, strerror(errno));
        run->tensorboard = 0;
        return;
    }
    events_put_version(&t, now);
    if (run->resumed) events_put_start(&t, now, step);
    append(run->events, t.s, t.len);
    text_release(&t);
}

static double wall_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Records, made by the caller, into the process's event file. */
static void log_events(Run *run, double now, int step, Text *records) {
    CHECK(run->begun);
    if (run->events < 0 && run->tensorboard) open_events(run, now, step);
    if (run->events >= 0 && records->len) append(run->events, records->s, records->len);
    text_release(records);
}

void run_histogram(Run *run, int step, const char *tag, const float *values, int n) {
    Text t = {0};
    double now = wall_clock();
    if (!run->tensorboard) return;
    events_put_histogram(&t, now, step, tag, values, n);
    log_events(run, now, step, &t);
}

void run_text(Run *run, int step, const char *tag, const char *text, size_t n) {
    Text t = {0};
    double now = wall_clock();
    if (!run->tensorboard) return;
    events_put_text(&t, now, step, tag, text, n);
    log_events(run, now, step, &t);
}

void run_facts(Run *run, const AlarmFacts *facts) {
    run->facts = *facts;
}

void run_alarm(Run *run, const Alarm *a, int step) {
    Text row = {0};
    if (alarm_is_off(&run->alarm_cfg, a->id, a->name)) return;
    alarm_write(&row, a, step, wall_clock());
    append_row(run, ALARMS_LOG, &row);
    log_warn("%s %s at step %d: %s is %.4g, the limit %.4g: %s (%s)", a->id, a->name, step,
             a->metric, a->value, a->limit, a->cause, a->setting);
    if (a->severity != ALARM_STOP) return;
    snprintf(run->stopped_by, sizeof run->stopped_by, "%s %s (%s is %.4g, the limit %.4g: %s)",
             a->id, a->name, a->metric, a->value, a->limit, a->cause);
    run_request_stop();
}

static void watch(Run *run, int step, const Metrics *m) {
    Alarm raised[ALARM_RULES_MAX];
    int n;
    alarms_check(&run->alarm_state, &run->alarm_cfg, &run->facts, step, m, raised, &n);
    for (int i = 0; i < n; i++) run_alarm(run, &raised[i], step);
}

Status run_save_alarms(CheckpointWriter *w, const Run *run) {
    AlarmState s = run->alarm_state;
    alarms_forget_clock(&s);
    return checkpoint_add(w, "alarms", &s, sizeof s);
}

Status run_load_alarms(Run *run, const Checkpoint *c) {
    return checkpoint_read(c, "alarms", &run->alarm_state, sizeof run->alarm_state);
}

Status run_log(Run *run, int step, uint64_t tokens, uint64_t samples, const Metrics *m) {
    Text t = {0};
    double now = wall_clock();
    text_addf(&t, "{\"step\":%d,\"wall_time\":%.3f,\"tokens\":%llu,\"samples\":%llu", step, now,
              (unsigned long long)tokens, (unsigned long long)samples);
    for (int i = 0; i < m->n; i++) {
        json_put_key(&t, m->row[i].name);
        json_put_number(&t, m->row[i].value);
    }
    text_add(&t, "}");
    append_row(run, METRICS_LOG, &t);
    if (run->tensorboard) {
        Text records = {0};
        events_put_scalars(&records, now, step, m);
        log_events(run, now, step, &records);
    }
    run->last_step = step;
    watch(run, step, m);
    return OK;
}

Status run_sample(Run *run, const char *json) {
    append_json(run, SAMPLES_LOG, json);
    return OK;
}

Status run_evaluation_of(const char *run_dir, const char *name, const char *json) {
    char path[RUN_PATH];
    Text t = {0};
    int n = snprintf(path, sizeof path, "%s/evals", run_dir);
    if (n < 0 || n + (int)strlen(name) + 8 > RUN_PATH)
        return status_fail(E_USAGE, "the path of the run directory is too long: %.100s...",
                           run_dir);
    TRY(file_mkdirs(path));
    snprintf(path + n, sizeof path - (size_t)n, "/%s.json", name);
    text_addf(&t, "%s\n", json);
    Status s = file_write_atomic(path, t.s, t.len);
    text_release(&t);
    return s;
}

Status run_evaluation(Run *run, const char *name, const char *json) {
    CHECK(run->begun);
    return run_evaluation_of(run->dir, name, json);
}

Status run_rollout(Run *run, const char *json) {
    if (run->dump_rollouts) append_json(run, ROLLOUTS_LOG, json);
    return OK;
}

/* Named, not "*.jsonl": a user's data may lie in the same directory, and logs get cut. */
static int is_log(const char *name) {
    for (int i = 0; i < N_LOGS; i++)
        if (!strcmp(name, log_names[i])) return 1;
    return !strncmp(name, "events.out.tfevents", 19);
}

static Status visit_log(const char *dir, const char *name, RunLogVisitor visit, void *ctx) {
    char path[RUN_PATH];
    struct stat st;
    if (!is_log(name)) return OK;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path) return OK;
    if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode)) return OK;
    return visit(ctx, name, path, (uint64_t)st.st_size);
}

Status run_visit_logs(const Run *run, RunLogVisitor visit, void *ctx) {
    DIR *d = opendir(run->dir);
    if (!d) return status_fail(E_IO, "cannot open the folder %s: %s", run->dir, strerror(errno));
    Status s = OK;
    for (struct dirent *e; s == OK && (e = readdir(d));)
        s = visit_log(run->dir, e->d_name, visit, ctx);
    closedir(d);
    return s;
}

/* --- the end --- */

static void put_members(Text *t, const Json *object) {
    for (const Json *m = json_first(object); m; m = json_next(m)) {
        const char *key = json_key(m);
        if (!strcmp(key, "verb") || !strcmp(key, "finished") || !strcmp(key, "step")) continue;
        json_put_key(t, key);
        json_put_node(t, m);
    }
}

Status run_finish(Run *run, const char *summary_json) {
    JsonDoc *doc;
    Text t = {0};
    TRY(json_parse(&doc, "the run's summary", 1, summary_json, strlen(summary_json), JSON_STRICT));
    int step = run->last_step > run->saved_step ? run->last_step : run->saved_step;
    text_addf(&t, "\"finished\":true,\"step\":%d", step);
    put_members(&t, json_root(doc));
    Status s = write_marker(run, t.s);
    text_release(&t);
    json_release(doc);
    return s;
}

int run_is_finished(const char *dir) {
    char path[RUN_PATH];
    JsonDoc *doc;
    int finished = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/run.json", dir) >= sizeof path) return 0;
    if (!file_exists(path) || json_parse_file(&doc, path, JSON_STRICT) != OK) return 0;
    if (json_get_bool(doc, json_root(doc), "finished", JSON_OPTIONAL, &finished) != OK)
        finished = 0;
    json_release(doc);
    return finished;
}

int run_save_due(const RunConfig *cfg, int step, int last) {
    int asked = run_save_requested();
    return asked || run_stop_requested() || last ||
           (cfg->save_every && step % cfg->save_every == 0);
}

Status run_stopped(const Run *run, int step) {
    if (run->stopped_by[0])
        return status_fail(E_NUMERIC,
                           "stopped after step %d by alarm %s; --resume goes on, "
                           "--alarms.may_stop false only warns",
                           step, run->stopped_by);
    if (run_saved_step(run) == step)
        return status_fail(E_STOPPED, "stopped after step %d; --resume goes on", step);
    return status_fail(
        E_STOPPED, "stopped after step %d, which could not be saved; --resume goes on from step %d",
        step, run_saved_step(run) < 0 ? 0 : run_saved_step(run));
}
