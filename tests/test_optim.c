/* test_optim.c - what the optimizer does at the edges: schedules of few steps, gradients that are
 * no numbers, settings with which the arithmetic would make some. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/threads.h"
#include "core/model/optim.h"
#include "tests/expect.h"
#include "tests/scratch.h"

static const ModelConfig shape = {.V = 24,
                                  .C = 16,
                                  .L = 2,
                                  .NH = 2,
                                  .NKV = 1,
                                  .HS = 8,
                                  .FF = 24,
                                  .max_positions = 8,
                                  .rope_theta = 10000.0f,
                                  .norm_eps = 1e-5f,
                                  .lm_head = 1,
                                  .init_std = 0.1f,
                                  .bos = -1,
                                  .pad = -1};

typedef struct {
    OptimConfig optim;
} Settings;
static const Field fields[] = {OPTIM_FIELDS(Settings, "1e-3")};

static Arena arena;

/* Flags are separated by spaces. */
static Status load(Settings *c, const char *flags) {
    char copy[200], *argv[16];
    Section s = SECTION("", fields, c);
    snprintf(copy, sizeof copy, "%s", flags);
    return settings_load(&s, 1, &arena, NULL, scratch_words(argv, copy), argv);
}

typedef struct {
    Settings cfg;
    Backend *b;
    Workspace *ws;
    Network net;
    Optim o;
    size_t n;
    float *grad, *before, *after; /* [n]; [3 n] weights and both moments */
} Fixture;

static void begin(Fixture *f, const char *flags) {
    const ModelConfig *c = &shape;
    WorkspacePlan plan = {.tokens = 8, .sequences = 2, .train = 1, .max_length = 8};
    memset(f, 0, sizeof *f);
    expect_ok(load(&f->cfg, flags));
    expect_ok(backend_create(&f->b, "cpu", "auto", "f32"));
    expect_ok(workspace_create(&f->ws, f->b, &plan, &c, 1, NULL));
    expect_ok(network_create(&f->net, f->b, c, f->ws, 1));
    expect_ok(weights_init(&f->net.w, 1));
    expect_ok(optim_create(&f->o, &f->net, &f->cfg.optim));
    f->n = f->net.w.count;
    f->grad = calloc(f->n, sizeof(float));
    f->before = calloc(3 * f->n, sizeof(float));
    f->after = calloc(3 * f->n, sizeof(float));
    assert_true(f->grad && f->before && f->after);
}

static void end(Fixture *f) {
    free(f->grad);
    free(f->before);
    free(f->after);
    optim_release(&f->o);
    network_release(&f->net);
    workspace_release(f->ws);
    backend_release(f->b);
    arena_release(&arena);
}

static void state(const Fixture *f, float *to) {
    const Buf of[] = {f->net.w.flat, f->o.m, f->o.v};
    for (size_t i = 0; i < 3; i++) f->b->download(f->b, to + i * f->n, of[i], f->n);
}

static int all_finite(const float *v, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return 0;
    return 1;
}

static Status step(Fixture *f, double *norm) {
    f->b->upload(f->b, f->net.grad, f->grad, f->n);
    return optim_step(&f->o, 1e-3f, norm);
}

/* The same with what it says on stderr. */
static Status step_and_listen(Fixture *f, double *norm, char said[400]) {
    const char *path = scratch("stderr");
    fflush(stderr);
    int saved = dup(STDERR_FILENO), file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    dup2(file, STDERR_FILENO);
    Status s = step(f, norm);
    stderr_unmute(saved);
    ssize_t n = pread(file, said, 399, 0);
    said[n > 0 ? n : 0] = '\0';
    close(file);
    return s;
}

typedef struct {
    size_t at;
    char name[80];
} Place;

static Status name_of(void *ctx, const TensorInfo *info, Buf *slot) {
    Place *p = ctx;
    (void)slot;
    if (p->at >= info->offset && p->at < info->offset + (size_t)info->rows * (size_t)info->cols)
        snprintf(p->name, sizeof p->name, "%s", info->name);
    return OK;
}

/* N1: at 200 places, and each time the tensor is named. */
static void a_bad_gradient_changes_nothing(void **unused) {
    (void)unused;
    enum { PLACES = 200 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    Fixture f;
    double norm;
    char said[400];
    begin(&f, "");
    for (size_t i = 0; i < f.n; i++) f.grad[i] = 1e-3f;
    expect_ok(step(&f, &norm));
    state(&f, f.before);
    for (size_t i = 0; i < PLACES; i++) {
        Place p = {.at = i * f.n / PLACES};
        f.grad[p.at] = bad[i % 3];
        f.o.skipped_in_row = 0;
        expect_ok(step_and_listen(&f, &norm, said));
        f.grad[p.at] = 1e-3f;
        state(&f, f.after);
        assert_memory_equal(f.before, f.after, 3 * f.n * sizeof(float));
        assert_int_equal(f.o.skipped, i + 1);
        assert_int_equal(f.o.step, 1);
        expect_ok(tensors_visit(&shape, &f.net.w.t, name_of, &p));
        if (!strstr(said, p.name)) fail_msg("%s is not named: %s", p.name, said);
    }
    f.b->download(f.b, f.after, f.net.grad, f.n);
    for (size_t i = 0; i < f.n; i++) assert_true(f.after[i] == 0.0f);
    end(&f);
}

static void three_in_a_row_end_the_run(void **unused) {
    (void)unused;
    Fixture f;
    double norm;
    begin(&f, "");
    f.grad[f.n - 1] = NAN;
    int muted = stderr_mute();
    Status s[3];
    for (int i = 0; i < 3; i++) s[i] = step(&f, &norm);
    stderr_unmute(muted);
    assert_true(s[0] == OK && s[1] == OK && s[2] == E_NUMERIC);
    assert_non_null(strstr(status_message(), "lm_head.weight"));
    end(&f);
}

/* The second moment holds squares. */
static void a_gradient_too_large_to_square(void **unused) {
    (void)unused;
    Fixture f;
    double norm;
    char said[400];
    for (int clip = 0; clip < 2; clip++) {
        begin(&f, clip ? "--grad_clip 1" : "--grad_clip 0");
        f.grad[5] = 1e30f;
        expect_ok(step_and_listen(&f, &norm, said));
        state(&f, f.after);
        assert_true(all_finite(f.after, 3 * f.n));
        assert_int_equal(f.o.skipped, !clip);
        assert_true(clip ? !said[0] : strstr(said, "embed_tokens") != NULL);
        end(&f);
    }
}

/* A row of the embedding that no text has met has a gradient of 0, and so 0 / (sqrt(0) + eps). */
static void no_setting_divides_by_zero(void **unused) {
    (void)unused;
    static const char *const refused[] = {"--beta1 1", "--beta2 1", "--eps 0", "--eps 1e-30"};
    static const char *const extreme[] = {"--beta1 0.9999999", "--beta2 0.9999999", "--eps 1e-20",
                                          "--beta1 0 --beta2 0"};
    Settings c;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(load(&c, refused[i]), E_USAGE);
    for (size_t i = 0; i < sizeof extreme / sizeof *extreme; i++) {
        Fixture f;
        double norm;
        begin(&f, extreme[i]);
        f.grad[0] = 1e-30f; /* its square is 0 in f32 */
        f.grad[1] = 1.0f;
        for (int k = 0; k < 3; k++) expect_ok(step(&f, &norm));
        state(&f, f.after);
        assert_true(all_finite(f.after, 3 * f.n));
        end(&f);
    }
}

static float rate(const char *schedule, float warmup, int at, int total) {
    return optim_rate(&(OptimConfig){.learning_rate = 1.0f, .warmup = warmup, .schedule = schedule},
                      at, total);
}

static void near(float have, double want) {
    if (!(fabs(have - want) <= 1e-6)) fail_msg("%.9g, not %.9g", have, want);
}

static void schedules_at_their_edges(void **unused) {
    (void)unused;
    static const char *const all[] = {"cosine", "linear", "constant"};
    for (int i = 0; i < 3; i++) {
        near(rate(all[i], 0.0f, 0, 1), 1.0);       /* one step, and no warm-up */
        near(rate(all[i], 0.05f, 0, 1), 1.0);      /* a share of one step is none */
        near(rate(all[i], 1.0f, 0, 1), 1.0);       /* one step of warm-up arrives at once */
        near(rate(all[i], 4.0f, 0, 8), 0.25);      /* begins above 0 */
        near(rate(all[i], 4.0f, 3, 8), 1.0);       /* and ends at the peak */
        near(rate(all[i], 4.0f, 4, 8), 1.0);       /* from which it falls */
        near(rate(all[i], 0.5f, 3, 8), 1.0);       /* half of 8 steps are 4 */
        near(rate(all[i], 100.0f, 7, 8), 0.08);    /* longer than the run */
        assert_true(rate(all[i], 0, 7, 8) > 0.0f); /* the last step learns, too */
    }
    near(rate("linear", 4.0f, 6, 8), 0.5);
    near(rate("cosine", 4.0f, 6, 8), 0.5);
    near(rate("cosine", 0.0f, 2, 8), 0.5 * (1.0 + sqrt(0.5)));
    near(rate("constant", 4.0f, 7, 8), 1.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_gradient_changes_nothing),
        cmocka_unit_test(three_in_a_row_end_the_run),
        cmocka_unit_test(a_gradient_too_large_to_square),
        cmocka_unit_test(no_setting_divides_by_zero),
        cmocka_unit_test(schedules_at_their_edges),
    };
    if (threads_start(1) != OK) return 1;
    int failures = cmocka_run_group_tests_name("optim", tests, NULL, NULL);
    threads_stop();
    return failures;
}
