/* test_run.c - run directories and checkpoints: what must survive crashes, full disks and damage.
 *
 * Called with "save DIR STEP" this program is the victim of its own tests: it resumes DIR, saves
 * STEP and STEP + 1, and is killed or lied to by strace at every system call on the way. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/stream.h"
#include "core/run/run.h"
#include "tests/scratch.h"

enum { WEIGHTS = 3000, STATE = 64 };

static const char recipe[] =
    "{\"run\":{\"seed\":1,\"save_every\":5},\"ppo\":{\"clip\":0.2,\"n\":4}}";

static RunConfig config(const char *dir, int resume) {
    return (RunConfig){
        .dir = dir, .seed = 1, .keep = 2, .best = "", .resume = resume, .log_every = 10};
}

static Run *must_open(const char *dir, int resume) {
    Run *run;
    RunConfig cfg = config(dir, resume);
    Status s = run_open(&run, &cfg, "ppo", recipe);
    if (s == OK) s = run_begin(run);
    if (s != OK) print_error("%s\n", status_message());
    assert_int_equal(s, OK);
    return run;
}

/* --- content that names its step --- */

static unsigned char byte_of(int step, int i) {
    return (unsigned char)(step * 31 + i * 7 + i / 256);
}

static Status save(Run *run, int step) {
    CheckpointWriter *w;
    unsigned char weights[WEIGHTS], state[STATE];
    for (int i = 0; i < WEIGHTS; i++) weights[i] = byte_of(step, i);
    for (int i = 0; i < STATE; i++) state[i] = byte_of(step + 1, i);
    TRY(checkpoint_begin(&w, run, step));
    TRY(checkpoint_file(w, "weights"));
    for (int i = 0; i < WEIGHTS; i += 1000) TRY(checkpoint_write(w, weights + i, 1000));
    TRY(checkpoint_add(w, "state", state, STATE));
    TRY(checkpoint_add(w, "empty", NULL, 0));
    return checkpoint_commit(w);
}

static void check_content(const Checkpoint *c) {
    const void *weights, *state, *empty;
    size_t n;
    int step = checkpoint_step(c);
    assert_int_equal(checkpoint_view(c, "weights", WEIGHTS, &weights, NULL), OK);
    assert_int_equal(checkpoint_view(c, "state", 0, &state, &n), OK);
    assert_int_equal(n, STATE);
    assert_int_equal(checkpoint_view(c, "empty", 0, &empty, &n), OK);
    assert_int_equal(n, 0);
    for (int i = 0; i < WEIGHTS; i++)
        assert_int_equal(((const unsigned char *)weights)[i], byte_of(step, i));
    for (int i = 0; i < STATE; i++)
        assert_int_equal(((const unsigned char *)state)[i], byte_of(step + 1, i));
}

static Status log_step(Run *run, int step) {
    Metrics m;
    metrics_clear(&m);
    metrics_set(&m, "loss", 1.0 / (step + 1));
    metrics_set(&m, "kl", NAN);
    TRY(run_log(run, step, 100u * (unsigned)step, 8u * (unsigned)step, &m));
    return run_sample(run, "{\"prompt\":\"p\"}");
}

/* Steps of metrics.jsonl must be increasing and whole lines; the last of them, -1 for none. */
static int last_logged_step(const char *dir) {
    LineReader *r;
    const char *line;
    size_t len;
    char path[600];
    int number, step = -1;
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    assert_int_equal(lines_open(&r, path), OK);
    while (lines_next(r, &line, &len, &number) == OK && line) {
        JsonDoc *doc;
        int next = -1;
        assert_int_equal(json_parse(&doc, path, number, line, len, 0), OK);
        assert_int_equal(json_get_int(doc, json_root(doc), "step", JSON_REQUIRED, &next), OK);
        assert_true(next > step);
        step = next;
        json_release(doc);
    }
    lines_close(r);
    return step;
}

/* Opens the newest good checkpoint as a resumed trainer would; its step, -1 for none. */
static int resume_and_check(const char *dir) {
    Run *run = must_open(dir, 1);
    Checkpoint *c;
    int muted = stderr_mute();
    Status s = checkpoint_open_latest(&c, run);
    stderr_unmute(muted);
    if (s != OK) print_error("%s\n", status_message());
    assert_int_equal(s, OK);
    int step = -1;
    if (c) {
        check_content(c);
        step = checkpoint_step(c);
        assert_int_equal(run_saved_step(run), step);
    }
    assert_true(last_logged_step(dir) <= step);
    checkpoint_close(c);
    run_close(run);
    return step;
}

static char *in(const char *dir, const char *name) {
    static char path[4][700];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

/* --- the directory --- */

static void a_fresh_run(void **state) {
    (void)state;
    Arena a = {0};
    char *text;
    size_t len;
    const char *dir = scratch("deep/er/fresh");
    Run *run = must_open(dir, 0);
    assert_string_equal(run_dir(run), dir);
    assert_int_equal(run_saved_step(run), -1);
    assert_int_equal(file_read(&a, &text, &len, in(dir, "recipe.json"), 10000), OK);
    assert_string_equal(text, recipe);
    assert_false(run_is_finished(dir));
    assert_int_equal(log_step(run, 3), OK);
    assert_int_equal(run_finish(run, "{\"reward\":0.5,\"step\":99}"), OK);
    assert_true(run_is_finished(dir));
    assert_int_equal(file_read(&a, &text, &len, in(dir, "run.json"), 10000), OK);
    assert_string_equal(text, "{\"verb\":\"ppo\",\"finished\":true,\"step\":3,\"reward\":0.5}\n");
    assert_int_equal(file_read(&a, &text, &len, in(dir, "metrics.jsonl"), 10000), OK);
    assert_memory_equal(text, "{\"step\":3,\"wall_time\":", 22);
    assert_non_null(strstr(text, ",\"tokens\":300,\"samples\":24,\"loss\":0.25,\"kl\":null}\n"));
    run_close(run);
    run_close(NULL);
    arena_release(&a);
    assert_false(run_is_finished(scratch("nowhere")));
}

static void a_directory_in_use_is_not_replaced(void **state) {
    (void)state;
    const char *dir = scratch("used");
    Run *run = must_open(dir, 0);
    assert_int_equal(save(run, 1), OK);
    run_close(run);
    scratch_write("used/notes.txt", "mine", 4);
    assert_int_equal(file_mkdirs(scratch("used/tensorboard")), OK);
    assert_int_equal(file_mkdirs(scratch("used/critic")), OK);
    assert_int_equal(file_mkdirs(scratch("used/ema")), OK);

    RunConfig cfg = config(dir, 0);
    assert_int_equal(run_open(&run, &cfg, "ppo", recipe), E_USAGE);
    assert_null(run);
    assert_non_null(strstr(status_message(), "holds a run already: give --resume"));
    cfg.resume = cfg.overwrite = 1;
    assert_int_equal(run_open(&run, &cfg, "ppo", recipe), E_USAGE);
    cfg.resume = 0;
    assert_int_equal(run_open(&run, &cfg, "sft", recipe), OK);
    Checkpoint *c;
    assert_int_equal(checkpoint_open_latest(&c, run), OK);
    assert_null(c); /* that of the old run is none of this one */
    assert_int_equal(run_begin(run), OK);
    assert_false(file_exists(in(dir, "checkpoints/step-1")));
    assert_false(file_is_dir(in(dir, "critic")));
    assert_false(file_is_dir(in(dir, "ema")));
    run_close(run);
    assert_true(file_exists(in(dir, "notes.txt"))); /* what is the user's stays */
    assert_true(file_is_dir(in(dir, "tensorboard")));
}

static void what_does_not_begin_replaces_nothing(void **state) {
    (void)state;
    const char *dir = scratch("unbegun");
    RunConfig cfg = config(dir, 0);
    Run *run;
    assert_int_equal(run_open(&run, &cfg, "ppo", recipe), OK);
    run_close(run);
    assert_false(file_is_dir(dir)); /* no more than a lock lay in it */

    run = must_open(dir, 0);
    assert_int_equal(log_step(run, 1), OK);
    assert_int_equal(save(run, 1), OK);
    run_close(run);
    cfg.overwrite = 1;
    assert_int_equal(run_open(&run, &cfg, "sft", "{}"), OK);
    run_close(run);
    assert_int_equal(resume_and_check(dir), 1);
    assert_int_equal(last_logged_step(dir), 1);
}

static void resuming_needs_the_same_recipe(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *difference;
    } cases[] = {
        {"{\"run\":{\"seed\":1,\"save_every\":9,\"keep\":3},\"ppo\":{\"clip\":0.2,\"n\":4}}", NULL},
        {"{\"ppo\":{\"n\":4,\"clip\":0.2},\"run\":{\"seed\":1}}", NULL},
        {"{\"run\":{\"seed\":1},\"ppo\":{\"clip\":0.3,\"n\":4}}",
         "ppo.clip was 0.2 when it began and is 0.3"},
        {"{\"run\":{\"seed\":2},\"ppo\":{\"clip\":0.2,\"n\":4}}",
         "run.seed was 1 when it began and is 2"},
        {"{\"run\":{\"seed\":1},\"ppo\":{\"clip\":0.2}}",
         "ppo.n was 4 when it began and is not there"},
        {"{\"run\":{\"seed\":1},\"ppo\":{\"clip\":0.2,\"n\":4,\"m\":1}}", "ppo.m was not there"},
        {"{\"run\":{\"seed\":1},\"ppo\":{\"clip\":0.2,\"n\":4},\"x\":{}}", "x was not there"},
    };
    const char *dir = scratch("same");
    Run *run = must_open(dir, 1); /* nothing to resume: begins */
    run_close(run);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        RunConfig cfg = config(dir, 1);
        Status s = run_open(&run, &cfg, "ppo", cases[i].recipe);
        assert_int_equal(s, cases[i].difference ? E_USAGE : OK);
        if (s != OK && !strstr(status_message(), cases[i].difference))
            assert_string_equal(status_message(), cases[i].difference);
        run_close(run);
    }
    RunConfig cfg = config(dir, 1);
    assert_int_equal(run_open(&run, &cfg, "dpo", recipe), E_USAGE);
    assert_non_null(strstr(status_message(), "holds a run of ppo, which dpo cannot resume"));
}

static void one_process_per_directory(void **state) {
    (void)state;
    const char *dir = scratch("locked");
    Run *run = must_open(dir, 0), *second;
    RunConfig cfg = config(dir, 1);
    char expected[100];
    snprintf(expected, sizeof expected, "locked is in use by process %ld", (long)getpid());
    assert_int_equal(run_open(&second, &cfg, "ppo", recipe), E_USAGE);
    assert_non_null(strstr(status_message(), expected));
    cfg.resume = 0;
    cfg.overwrite = 1;
    assert_int_equal(run_open(&second, &cfg, "ppo", recipe), E_USAGE);
    run_close(run);
    run_close(must_open(dir, 1));
    cfg.dir = "";
    assert_int_equal(run_open(&second, &cfg, "ppo", recipe), E_USAGE);
}

/* --- checkpoints --- */

static void the_newest_two_are_kept(void **state) {
    (void)state;
    const char *dir = scratch("kept");
    Run *run = must_open(dir, 0);
    for (int step = 0; step < 25; step += 8) {
        assert_int_equal(log_step(run, step), OK);
        assert_int_equal(save(run, step), OK);
        assert_int_equal(run_saved_step(run), step);
    }
    assert_int_equal(log_step(run, 25), OK); /* beyond the checkpoint: is cut */
    assert_false(file_exists(in(dir, "checkpoints/step-0")));
    assert_false(file_exists(in(dir, "checkpoints/step-8")));
    assert_true(file_is_dir(in(dir, "checkpoints/step-16")));
    assert_true(file_is_dir(in(dir, "checkpoints/step-24")));
    run_close(run);
    assert_int_equal(resume_and_check(dir), 24);
    assert_int_equal(last_logged_step(dir), 24);
}

static void views_are_checked(void **state) {
    (void)state;
    Run *run = must_open(scratch("views"), 0);
    Checkpoint *c;
    const void *data;
    assert_int_equal(save(run, 2), OK);
    assert_int_equal(checkpoint_open_latest(&c, run), OK);
    check_content(c);
    assert_int_equal(checkpoint_view(c, "weights", 12, &data, NULL), E_FORMAT);
    assert_non_null(strstr(status_message(), "has 3000 bytes where this run needs 12"));
    assert_int_equal(checkpoint_view(c, "moments", 0, &data, NULL), E_FORMAT);
    assert_non_null(strstr(status_message(), "has no file moments"));
    checkpoint_close(c);
    checkpoint_close(NULL);
    run_close(run);
}

static void others_may_read_a_running_run(void **state) {
    (void)state;
    const char *dir = scratch("read_by_others");
    int steps[4] = {0}, n;
    Checkpoint *c;
    Run *run = must_open(dir, 0); /* it holds the lock */
    assert_int_equal(save(run, 3), OK);
    assert_int_equal(save(run, 12), OK);
    assert_int_equal(checkpoint_steps(dir, steps, 4, &n), OK);
    assert_int_equal(n, 2);
    assert_int_equal(steps[0], 3);
    assert_int_equal(steps[1], 12);
    assert_int_equal(checkpoint_steps(dir, steps, 1, &n), OK);
    assert_int_equal(n, 1);
    assert_int_equal(checkpoint_open_step(&c, dir, 3), OK);
    assert_int_equal(checkpoint_step(c), 3);
    check_content(c);
    checkpoint_close(c);
    assert_int_equal(checkpoint_open_step(&c, dir, 4), E_FORMAT);
    assert_null(c);
    assert_non_null(strstr(status_message(), "no checkpoint of step 4"));
    assert_int_equal(checkpoint_open_step(&c, scratch("nowhere"), 4), E_IO);
    run_close(run);
}

static void a_step_may_be_saved_again(void **state) {
    (void)state;
    const char *dir = scratch("again");
    Run *run = must_open(dir, 0);
    for (int i = 0; i < 3; i++) assert_int_equal(save(run, 4), OK);
    run_close(run);
    assert_false(file_exists(in(dir, "checkpoints/step-4.old")));
    /* a crash between the two renames leaves only this */
    assert_int_equal(rename(in(dir, "checkpoints/step-4"), in(dir, "checkpoints/step-4.old")), 0);
    assert_int_equal(resume_and_check(dir), 4);
}

static void leftovers_are_cleared(void **state) {
    (void)state;
    const char *dir = scratch("left");
    Run *run = must_open(dir, 0);
    CheckpointWriter *w;
    assert_int_equal(save(run, 1), OK);
    assert_int_equal(checkpoint_begin(&w, run, 2), OK);
    assert_int_equal(checkpoint_add(w, "weights", "x", 1), OK);
    assert_true(file_is_dir(in(dir, "checkpoints/step-2.tmp")));
    checkpoint_abort(w);
    checkpoint_abort(NULL);
    assert_false(file_exists(in(dir, "checkpoints/step-2.tmp")));
    run_close(run);
    assert_int_equal(file_mkdirs(in(dir, "checkpoints/step-3.tmp")), OK);
    assert_int_equal(file_mkdirs(in(dir, "checkpoints/step-007")), OK); /* not as we name them */
    assert_int_equal(resume_and_check(dir), 1);
    assert_false(file_exists(in(dir, "checkpoints/step-3.tmp")));
}

static void a_failed_save_is_a_warning(void **state) {
    (void)state;
    const char *dir = scratch("full");
    Run *run = must_open(dir, 0);
    struct rlimit old, small;
    assert_int_equal(save(run, 1), OK);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 2000; /* less than the weights: a disk that fills up during the save */
    signal(SIGXFSZ, SIG_IGN);
    int muted = stderr_mute();
    setrlimit(RLIMIT_FSIZE, &small);
    Status s = save(run, 2);
    int saved = run_saved_step(run);
    for (int step = 3; step < 60; step++)
        log_step(run, step); /* rows that no longer fit are lost */
    setrlimit(RLIMIT_FSIZE, &old);
    stderr_unmute(muted);
    assert_int_equal(s, OK);
    assert_int_equal(saved, 1);
    assert_false(file_exists(in(dir, "checkpoints/step-2.tmp")));
    assert_true(last_logged_step(dir) < 59); /* and every line is whole */
    assert_int_equal(save(run, 60), OK);
    assert_int_equal(run_saved_step(run), 60);
    run_close(run);
    assert_int_equal(resume_and_check(dir), 60);
}

/* --- damage --- */

static const char *const parts[] = {"weights", "state", "manifest.json"};

typedef struct {
    char path[600];
    char *data;
    size_t n;
} Original;

static void read_original(Original *o, Arena *a, const char *dir, const char *name) {
    snprintf(o->path, sizeof o->path, "%s/checkpoints/step-2/%s", dir, name);
    assert_int_equal(file_read(a, &o->data, &o->n, o->path, 1 << 20), OK);
}

static void put(const char *path, const char *data, size_t n) {
    FILE *fp = fopen(path, "wb");
    assert_non_null(fp);
    assert_int_equal(fwrite(data, 1, n, fp), n);
    assert_int_equal(fclose(fp), 0);
}

/* With step-2 damaged: step 1 must be chosen; then step-2 is put back under its name. */
static void expect_fallback(Run *run, const char *dir, const char *part) {
    Checkpoint *c;
    assert_int_equal(checkpoint_open_latest(&c, run), OK);
    assert_non_null(c);
    if (checkpoint_step(c) != 1) print_error("damage in %s passed\n", part);
    assert_int_equal(checkpoint_step(c), 1);
    checkpoint_close(c);
    const char *aside = in(dir, "checkpoints/step-2.damaged");
    assert_int_equal(rename(aside, in(dir, "checkpoints/step-2")), 0);
}

static void any_damage_is_found(void **state) {
    (void)state;
    Arena a = {0};
    const char *dir = scratch("damage");
    Run *run = must_open(dir, 0);
    Original original[3];
    assert_int_equal(save(run, 1), OK);
    assert_int_equal(save(run, 2), OK);
    for (int p = 0; p < 3; p++) read_original(&original[p], &a, dir, parts[p]);
    int muted = stderr_mute();
    srand(5);
    for (int p = 0; p < 3; p++) {
        Original *o = &original[p];
        for (int round = 0; round < 700; round++) {
            /* the manifest is small: bit after bit; the others at random */
            size_t bit = (p == 2 ? (size_t)round * 5 : (size_t)rand()) % (o->n * 8);
            o->data[bit / 8] ^= (char)(1 << bit % 8);
            put(o->path, o->data, o->n);
            o->data[bit / 8] ^= (char)(1 << bit % 8);
            expect_fallback(run, dir, parts[p]);
        }
        for (size_t n = 0; n < o->n; n += 1 + n / 3) {
            put(o->path, o->data, n);
            expect_fallback(run, dir, parts[p]);
        }
        put(o->path, o->data, o->n);
        assert_int_equal(unlink(o->path), 0);
        expect_fallback(run, dir, parts[p]);
        put(o->path, o->data, o->n);
    }
    stderr_unmute(muted);
    run_close(run);
    assert_int_equal(resume_and_check(dir), 2); /* whole again */
    arena_release(&a);
}

/* The warning goes to a file, so that its words can be read. */
static void the_damaged_file_is_named(void **state) {
    (void)state;
    Arena a = {0};
    const char *dir = scratch("named");
    Run *run = must_open(dir, 0);
    Checkpoint *c;
    char *text;
    size_t n;
    assert_int_equal(save(run, 1), OK);
    assert_int_equal(save(run, 2), OK);
    assert_int_equal(truncate(in(dir, "checkpoints/step-2/state"), 10), 0);
    fflush(stderr);
    int keep = dup(STDERR_FILENO);
    assert_non_null(freopen(scratch("warnings"), "wb", stderr));
    Status s = checkpoint_open_latest(&c, run);
    fflush(stderr);
    dup2(keep, STDERR_FILENO);
    close(keep);
    assert_int_equal(s, OK);
    assert_int_equal(checkpoint_step(c), 1);
    checkpoint_close(c);
    assert_int_equal(file_read(&a, &text, &n, scratch("warnings"), 10000), OK);
    assert_non_null(strstr(text, "step-2/state is damaged: it has 10 bytes instead of 64"));
    assert_int_equal(save(run, 2), OK); /* its place is free again */
    run_close(run);
    assert_int_equal(resume_and_check(dir), 2);
    arena_release(&a);
}

static void nothing_is_begun_anew_over_damage(void **state) {
    (void)state;
    const char *dir = scratch("all-bad");
    Run *run = must_open(dir, 0);
    Checkpoint *c;
    assert_int_equal(log_step(run, 1), OK);
    assert_int_equal(save(run, 1), OK);
    assert_int_equal(truncate(in(dir, "checkpoints/step-1/weights"), 10), 0);
    int muted = stderr_mute();
    assert_int_equal(checkpoint_open_latest(&c, run), E_FORMAT);
    stderr_unmute(muted);
    assert_null(c);
    assert_non_null(strstr(status_message(), "none of 1 checkpoints can be used"));
    assert_int_equal(last_logged_step(dir), 1); /* the logs were left alone */
    run_close(run);
}

/* --- signals --- */

static int ended_by(void (*f)(void)) {
    int status, muted = stderr_mute();
    pid_t child = fork();
    if (child == 0) {
        f();
        _exit(3);
    }
    waitpid(child, &status, 0);
    stderr_unmute(muted);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void stop_twice(void) {
    run_signals();
    raise(SIGINT);
    if (!run_stop_requested()) _exit(4);
    raise(SIGTERM);
}

static void stopping_and_saving(void **state) {
    (void)state;
    assert_int_equal(ended_by(stop_twice), SIGTERM);
    run_signals();
    assert_false(run_stop_requested());
    assert_false(run_save_requested());
    raise(SIGUSR1);
    assert_true(run_save_requested());
    assert_false(run_save_requested());
    int muted = stderr_mute();
    raise(SIGTERM);
    stderr_unmute(muted);
    assert_true(run_stop_requested());
    signal(SIGTERM, SIG_DFL);
}

/* --- killed, or refused by the system, at every call of a save --- */

static char self[500];

static int victim(const char *dir, int step) {
    Run *run;
    Checkpoint *c;
    RunConfig cfg = config(dir, 1);
    Status s = run_open(&run, &cfg, "ppo", recipe);
    if (s == OK) s = run_begin(run);
    if (s == OK) s = checkpoint_open_latest(&c, run);
    if (s == OK) checkpoint_close(c);
    for (int k = 0; k < 2 && s == OK; k++) {
        s = log_step(run, step + k);
        if (s == OK) s = save(run, step + k);
    }
    run_close(run);
    return s == OK ? 0 : 1;
}

static int strace_works(void) {
    return system("strace -o /dev/null true 2> /dev/null") == 0;
}

static int was_injected(const char *log) {
    char line[4096];
    int found = 0;
    FILE *fp = fopen(log, "r");
    while (fp && fgets(line, sizeof line, fp)) found |= strstr(line, "(INJECTED)") != NULL;
    if (fp) fclose(fp);
    return found;
}

/* The victim's exit status, -1 when it was killed; *hit = 1 when strace had occasion to act. */
static int run_victim(const char *dir, int step, const char *calls, const char *what, int k,
                      const char *plus, int *hit) {
    char command[3000];
    const char *log = scratch("strace.log");
    snprintf(command, sizeof command,
             "ASAN_OPTIONS=detect_leaks=0 strace -o '%s' -e trace=%s -e 'inject=%s:%s:when=%d%s' "
             "'%s' save '%s' %d > /dev/null 2>&1",
             log, calls, calls, what, k, plus, self, dir, step);
    int status = system(command);
    int killed = WIFSIGNALED(status) || WEXITSTATUS(status) == 128 + SIGKILL;
    *hit = killed || was_injected(log);
    return killed ? -1 : WEXITSTATUS(status);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* k = 1, 2, ... until the victim meets no k-th call, or the time is up. */
static int at_every_call(const char *dir, const char *calls, const char *what, const char *plus,
                         double seconds) {
    int hits = 0, hit = 1, before = resume_and_check(dir);
    double until = now() + seconds;
    for (int k = 1; hit && now() < until; k++) {
        int rc = run_victim(dir, before + 1, calls, what, k, plus, &hit);
        int after = resume_and_check(dir);
        if (after < before || after > before + 2) print_error("%s %s k=%d\n", calls, what, k);
        assert_true(after >= before && after <= before + 2);  /* an old or a new one, whole */
        if (!plus[0] && rc == 0) assert_true(after > before); /* one fault spoils one save only */
        hits += hit;
        before = after;
    }
    print_message("%d times %s at %s%s\n", hits, what, calls, plus);
    return hits;
}

static void begin_for_victims(const char *dir) {
    Run *run = must_open(dir, 0);
    assert_int_equal(save(run, 1), OK);
    assert_int_equal(save(run, 2), OK);
    run_close(run);
}

/* What a stopped run says it resumes from is what is on disk. */
static void a_stop_names_the_step_that_is_saved(void **state) {
    (void)state;
    Run *run = must_open(scratch("stopped"), 0);
    RunConfig cfg = config("", 0);
    cfg.save_every = 5;
    assert_int_equal(run_stopped(run, 7), E_STOPPED);
    assert_non_null(strstr(status_message(), "could not be saved; --resume goes on from step 0"));
    assert_int_equal(save(run, 7), OK);
    assert_int_equal(run_stopped(run, 7), E_STOPPED);
    assert_null(strstr(status_message(), "could not"));
    assert_true(run_save_due(&cfg, 5, 0) && run_save_due(&cfg, 6, 1) && !run_save_due(&cfg, 6, 0));
    cfg.save_every = 0;
    assert_false(run_save_due(&cfg, 5, 0));
    run_close(run);
}

static void killed_at_every_call(void **state) {
    (void)state;
    static const char *const calls[] = {
        "?write",
        "?fsync",
        "?rename,?renameat,?renameat2",
        "?mkdir,?mkdirat",
        "?unlink,?unlinkat",
        "?rmdir",
        "?open,?openat",
        "?close",
        "?ftruncate,?truncate",
    };
    const char *dir = scratch("killed");
    if (!strace_works()) {
        print_message("skipped: strace cannot be used here\n");
        skip();
    }
    begin_for_victims(dir);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int hits = at_every_call(dir, calls[i], "signal=KILL", "", 4);
        /* rmdir is unlinkat, and nothing is truncated, on some machines */
        if (i < 4) assert_true(hits > 0);
    }
}

static void refused_at_every_call(void **state) {
    (void)state;
    static const struct {
        const char *calls, *what, *plus;
    } faults[] = {
        {"?write", "error=ENOSPC", ""},
        {"?write", "error=ENOSPC", "+"}, /* the disk stays full */
        {"?fsync", "error=EIO", ""},
        {"?fsync", "error=EIO", "+"},
        {"?rename,?renameat,?renameat2", "error=EIO", ""},
        {"?mkdir,?mkdirat", "error=ENOSPC", ""},
        {"?unlink,?unlinkat", "error=EIO", ""},
    };
    const char *dir = scratch("refused");
    if (!strace_works()) {
        print_message("skipped: strace cannot be used here\n");
        skip();
    }
    begin_for_victims(dir);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        at_every_call(dir, faults[i].calls, faults[i].what, faults[i].plus, 3);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_run),
        cmocka_unit_test(a_directory_in_use_is_not_replaced),
        cmocka_unit_test(what_does_not_begin_replaces_nothing),
        cmocka_unit_test(resuming_needs_the_same_recipe),
        cmocka_unit_test(one_process_per_directory),
        cmocka_unit_test(the_newest_two_are_kept),
        cmocka_unit_test(views_are_checked),
        cmocka_unit_test(others_may_read_a_running_run),
        cmocka_unit_test(a_step_may_be_saved_again),
        cmocka_unit_test(leftovers_are_cleared),
        cmocka_unit_test(a_failed_save_is_a_warning),
        cmocka_unit_test(any_damage_is_found),
        cmocka_unit_test(the_damaged_file_is_named),
        cmocka_unit_test(nothing_is_begun_anew_over_damage),
        cmocka_unit_test(
            a_stop_names_the_step_that_is_saved), /* before a stop is wanted for good */
        cmocka_unit_test(stopping_and_saving),
        cmocka_unit_test(killed_at_every_call),
        cmocka_unit_test(refused_at_every_call),
    };
    if (argc == 4 && !strcmp(argv[1], "save")) return victim(argv[2], atoi(argv[3]));
    if (!realpath(argv[0], self)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
