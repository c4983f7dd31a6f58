/* test_rollout.c - the rollout engine: an answer's bytes do not depend on rows, neighbours, shared
 * pages or preemption, and its log-probs are the training forward's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/base/threads.h"
#include "policy/rollout.h"

static const ModelConfig small = {.V = 97,
                                  .C = 32,
                                  .L = 2,
                                  .NH = 4,
                                  .NKV = 2,
                                  .HS = 8,
                                  .FF = 48,
                                  .max_positions = 256,
                                  .rope_theta = 1e4f,
                                  .norm_eps = 1e-5f,
                                  .tied = 1,
                                  .lm_head = 1,
                                  .init_std = .3f};

enum { LENGTH = 192, PREFIX = 75, REQUESTS = 96, NEW = 100 };

typedef struct {
    Backend *b;
    Workspace *ws;
    Network net;
    int prompts[REQUESTS][LENGTH];
    RolloutRequest requests[REQUESTS];
    Rollout alone; /* each request in an engine of one row */
} Fixture;

static const SamplingConfig sampling = {
    .max_new_tokens = NEW, .temperature = 0.8f, .top_p = 1.0f, .ignore_eos = 1};

static void generate(Fixture *f, Rollout *out, int rows, int kv_mib) {
    RolloutEngine *e;
    assert_int_equal(rollout_create(out, REQUESTS, (size_t)REQUESTS * LENGTH), OK);
    assert_int_equal(rollout_engine_create(&e, f->b, &small, NULL, rows, LENGTH, REQUESTS, kv_mib),
                     OK);
    for (int again = 0; again < 2; again++) /* nothing of a call stays for the next */
        assert_int_equal(
            rollout_generate(out, e, &f->net, f->requests, REQUESTS, &sampling, 11, NULL, NULL),
            OK);
    rollout_engine_release(e);
}

/* A third of the prompts begin with the same 75 tokens, a third are equal, a third are their own.
 */
static int set_up(void **state) {
    Fixture *f = calloc(1, sizeof *f);
    const ModelConfig *c = &small;
    assert_int_equal(backend_create(&f->b, "cpu", "auto", "f32"), OK);
    WorkspacePlan plan = {.tokens = 256, .sequences = 64, .train = 1, .max_length = LENGTH};
    assert_int_equal(workspace_create(&f->ws, f->b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&f->net, f->b, c, f->ws, 1), OK);
    assert_int_equal(weights_init(&f->net.w, 3), OK);
    for (int i = 0; i < REQUESTS; i++) {
        int n = i % 3 == 0 ? PREFIX + 1 + i % 7 : i % 3 == 1 ? 64 : 1 + i * 5 % 90;
        for (int t = 0; t < n; t++) {
            uint64_t row =
                i % 3 == 1 || (i % 3 == 0 && t < PREFIX) ? (uint64_t)(i % 3) : 10 + (uint64_t)i;
            f->prompts[i][t] = (int)(rng_uniform(5, RNG_TEST, row, (uint64_t)t) * small.V);
        }
        f->requests[i] = (RolloutRequest){f->prompts[i], n, (uint64_t)i};
    }
    generate(f, &f->alone, 1, 0);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    Fixture *f = *state;
    rollout_release(&f->alone);
    network_release(&f->net);
    workspace_release(f->ws);
    backend_release(f->b);
    free(f);
    return 0;
}

static void same_answers(const Rollout *a, const Rollout *b) {
    assert_int_equal(a->seq.S, b->seq.S);
    assert_int_equal(a->seq.N, b->seq.N);
    assert_memory_equal(a->seq.starts, b->seq.starts, (size_t)(a->seq.S + 1) * sizeof(int));
    assert_memory_equal(a->seq.ids, b->seq.ids, (size_t)a->seq.N * sizeof(int));
    assert_memory_equal(a->logp, b->logp, (size_t)a->seq.N * sizeof(float));
    assert_memory_equal(a->seq.wanted, b->seq.wanted, (size_t)a->seq.N);
}

static void rows_and_neighbours_change_nothing(void **state) {
    Fixture *f = *state;
    static const int rows[] = {2, 7, 64};
    for (int i = 0; i < 3; i++) {
        Rollout r;
        generate(f, &r, rows[i], 0);
        same_answers(&f->alone, &r);
        assert_int_equal(r.preempted, 0);
        assert_true(rows[i] < 7 || r.shared_tokens > 0);
        print_message("%d rows: %d steps, %ld prompt tokens shared\n", rows[i], r.decode_steps,
                      r.shared_tokens);
        rollout_release(&r);
    }
}

/* 1 MiB holds 256 pages, 64 rows at full length take 384. */
static void preemption_changes_nothing(void **state) {
    Fixture *f = *state;
    Rollout r;
    assert_true(kv_pages(f->b, &small, 64, LENGTH, 1) < kv_pages(f->b, &small, 64, LENGTH, 0));
    generate(f, &r, 64, 1);
    print_message("%d rows gave up their pages\n", r.preempted);
    assert_true(r.preempted > 0);
    same_answers(&f->alone, &r);
    rollout_release(&r);
}

static void logps_are_the_training_forwards(void **state) {
    Fixture *f = *state;
    const Rollout *r = &f->alone;
    float *logp = calloc((size_t)r->seq.N, sizeof *logp);
    TokenOutputs out = {.logp = logp};
    assert_int_equal(packed_forward((Packed *)&r->seq, &f->net, 256, 0.8f, &out), OK);
    for (int n = 0; n < r->seq.N; n++)
        if (r->seq.wanted[n]) assert_memory_equal(&logp[n], &r->logp[n], sizeof *logp);
    free(logp);
}

static int until_the_fifth(void *ctx, int request, int id) {
    (void)id;
    return request == 3 && ++*(int *)ctx == 5;
}

/* Who watches may end a response: it is the beginning of what it would have been. */
static void a_watch_ends_a_response(void **state) {
    Fixture *f = *state;
    RolloutEngine *e;
    Rollout r;
    int drawn = 0;
    assert_int_equal(rollout_create(&r, REQUESTS, (size_t)REQUESTS * LENGTH), OK);
    assert_int_equal(rollout_engine_create(&e, f->b, &small, NULL, 7, LENGTH, REQUESTS, 0), OK);
    assert_int_equal(rollout_generate(&r, e, &f->net, f->requests, REQUESTS, &sampling, 11,
                                      until_the_fifth, &drawn),
                     OK);
    for (int i = 0; i < REQUESTS; i++) {
        int n = rollout_length(&r, i), want = i == 3 ? 5 : rollout_length(&f->alone, i);
        assert_int_equal(n, want);
        assert_memory_equal(rollout_response(&r, i), rollout_response(&f->alone, i),
                            (size_t)n * sizeof(int));
        assert_int_equal(r.stop[i], i == 3 ? STOP_ASKED : f->alone.stop[i]);
    }
    rollout_engine_release(e);
    rollout_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_and_neighbours_change_nothing),
        cmocka_unit_test(preemption_changes_nothing),
        cmocka_unit_test(logps_are_the_training_forwards),
        cmocka_unit_test(a_watch_ends_a_response),
    };
    if (threads_start(2) != OK) return 1;
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
