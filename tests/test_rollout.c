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
#include "policy/repetition.h"
#include "policy/rollout.h"
#include "ppo/ppo.h"

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

/* ---- repetition ---- */

/* The logits that a row of edits leaves: what transformers' RepetitionPenaltyLogitsProcessor and
 * NoRepeatNGramLogitsProcessor gave for the same ids. */
static void edits_are_the_reference_s(void **state) {
    Fixture *f = *state;
    enum { V = 8, N = 7 };
    static const int ids[N] = {3, 1, 4, 1, 5, 3, 1};
    static const float z[V] = {.5f, -1.25f, 2.0f, 1.5f, -.25f, 3.0f, 0.0f, 1.0f};
    static const float penalized[V] = {.5f, -1.875f, 2.0f, 1.0f, -.375f, 2.0f, 0.0f, 1.0f};
    static const char *const banned[] = {"", "1345", "45", "4", ""};
    Repetition r;
    assert_int_equal(repetition_create(&r, f->b, V, 2, N), OK);
    for (int ngram = 0; ngram <= 4; ngram++) {
        float y[V];
        char bans[V + 1] = "";
        repetition_clear(&r, 1.5f, ngram);
        repetition_add_row(&r, (int[]){7}, 1); /* a neighbour */
        repetition_add_row(&r, ids, N);
        assert_int_equal(r.starts[1], 1);
        memcpy(y, z, sizeof y);
        for (int id = 0; id < V; id++)
            for (int i = r.starts[1]; i < r.starts[2]; i++) {
                if (r.edits[i] == ~id) bans[strlen(bans)] = (char)('0' + id);
                if (r.edits[i] == id) y[id] = z[id] < 0 ? z[id] * 1.5f : z[id] / 1.5f;
            }
        assert_string_equal(bans, banned[ngram]);
        for (int id = 0; id < V; id++)
            if (!strchr(bans, '0' + id)) assert_float_equal(y[id], penalized[id], 1e-6);
    }
    repetition_clear(&r, 1.0f, 1); /* all of a vocabulary cannot be banned */
    repetition_add_row(&r, (int[]){0, 1, 2, 3, 4, 5, 6}, N);
    assert_int_equal(r.starts[1], 7);
    repetition_release(&r);
}

static int has_repeated_ngram(const int *ids, int n, int ngram) {
    for (int i = 0; i + ngram <= n; i++)
        for (int k = i + 1; k + ngram <= n; k++)
            if (!memcmp(ids + i, ids + k, (size_t)ngram * sizeof *ids)) return 1;
    return 0;
}

static void answer_with(Fixture *f, Rollout *out, SamplingConfig how, int rows) {
    RolloutEngine *e;
    assert_int_equal(rollout_create(out, REQUESTS, (size_t)REQUESTS * LENGTH), OK);
    assert_int_equal(rollout_engine_create(&e, f->b, &small, NULL, rows, LENGTH, REQUESTS, 0), OK);
    assert_int_equal(rollout_generate(out, e, &f->net, f->requests, REQUESTS, &how, 11, NULL, NULL),
                     OK);
    rollout_engine_release(e);
}

static void nothing_is_said_twice(void **state) {
    Fixture *f = *state;
    SamplingConfig how = sampling;
    Rollout plain, once, alone;
    how.temperature = 0.0f;
    answer_with(f, &plain, how, 7);
    how.no_repeat_ngram = 2;
    answer_with(f, &once, how, 7);
    answer_with(f, &alone, how, 1);
    same_answers(&once, &alone);
    int repeated = 0;
    for (int i = 0; i < REQUESTS; i++) {
        const int *a = rollout_response(&plain, i), *b = rollout_response(&once, i);
        repeated += has_repeated_ngram(a, rollout_length(&plain, i), 2);
        assert_false(has_repeated_ngram(b, rollout_length(&once, i), 2));
    }
    assert_true(repeated > REQUESTS / 2); /* the greedy answers of this model go round */
    rollout_release(&once);
    rollout_release(&alone);
    how.no_repeat_ngram = 0;
    how.repetition_penalty = 1e6f; /* an id that was there has a logit of nearly 0, or far below */
    answer_with(f, &once, how, 7);
    int differ = 0;
    for (int i = 0; i < REQUESTS; i++)
        differ += memcmp(rollout_response(&plain, i), rollout_response(&once, i),
                         (size_t)rollout_length(&once, i) * sizeof(int)) != 0;
    assert_true(differ > REQUESTS / 2);
    rollout_release(&plain);
    rollout_release(&once);
}

/* A penalty would make mu another distribution than the one that is trained: no recipe has it. */
static void no_trainer_takes_a_penalty(void **state) {
    (void)state;
    static const char *const flags[] = {"--ppo.repetition_penalty", "--ppo.no_repeat_ngram"};
    for (int i = 0; i < 2; i++) {
        PpoConfig c;
        Arena arena = {0};
        Section section = {"ppo", ppo_fields, ppo_n_fields, &c};
        char *argv[] = {(char *)flags[i], "2"};
        assert_int_equal(settings_load(&section, 1, &arena, NULL, 2, argv), E_USAGE);
        assert_non_null(strstr(status_message(), flags[i] + 6));
        arena_release(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_and_neighbours_change_nothing),
        cmocka_unit_test(preemption_changes_nothing),
        cmocka_unit_test(logps_are_the_training_forwards),
        cmocka_unit_test(a_watch_ends_a_response),
        cmocka_unit_test(edits_are_the_reference_s),
        cmocka_unit_test(nothing_is_said_twice),
        cmocka_unit_test(no_trainer_takes_a_penalty),
    };
    if (threads_start(2) != OK) return 1;
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
