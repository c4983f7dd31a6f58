/* test_sample.c - sampling: frequencies follow probabilities, and what edits and cuts leave. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/backend/backend.h"
#include "core/base/rng.h"
#include "tests/kernels.h"

/* Sampling from one row of six logits. */
enum { SIDES = 6, DRAWS = 20000 };
static const float die_logits[SIDES] = {0, 1, 2, -1, 0.5f, -3};

typedef struct {
    Backend *b;
    Mat w; /* the identity: what is sampled from are the logits themselves */
    Buf h, u, ids, lp, cut, scratch;
} Die;

static Die die_create(void) {
    Die d = {.w = {.O = SIDES, .K = SIDES}};
    Backend *b;
    float eye[SIDES * SIDES] = {0};
    for (int i = 0; i < SIDES; i++) eye[i * SIDES + i] = 1.0f;
    assert_int_equal(backend_create(&d.b, "cpu", "auto", "f32"), OK);
    b = d.b;
    Buf *floats[] = {&d.w.w, &d.w.packed, &d.h, &d.lp, &d.cut, &d.scratch};
    size_t counts[] = {SIDES * SIDES, b->packed_count(b, DT_F32, SIDES, SIDES), SIDES, 1, 1, SIDES};
    for (int i = 0; i < 6; i++)
        assert_int_equal(b->alloc(b, floats[i], DT_F32, counts[i], "test"), OK);
    assert_int_equal(b->alloc(b, &d.u, DT_F64, 1, "test"), OK);
    assert_int_equal(b->alloc(b, &d.ids, DT_I32, 1, "test"), OK);
    b->upload(b, d.w.w, eye, SIDES * SIDES);
    b->upload(b, d.h, die_logits, SIDES);
    b->pack(b, d.w);
    return d;
}

static void die_release(Die *d) {
    Buf *all[] = {&d->w.w, &d->w.packed, &d->h, &d->lp, &d->cut, &d->scratch, &d->u, &d->ids};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) d->b->release(d->b, all[i]);
    backend_release(d->b);
}

/* Draw i of a sequence; its log-probability must be that of p. */
static int die_throw(Die *d, uint64_t sequence, int i, SampleParams how, const double *p) {
    Backend *b = d->b;
    double draw = rng_uniform(9, RNG_SAMPLE, sequence, (uint64_t)i);
    int id;
    float logp;
    b->upload(b, d->u, &draw, 1);
    b->sample(b, d->ids, d->lp, d->cut, d->h, d->w, d->u, d->scratch, 1, 1, how);
    b->download(b, &id, d->ids, 1);
    b->download(b, &logp, d->lp, 1);
    assert_in_range(id, 0, SIDES - 1);
    if (how.temperature > 0.0f && !(fabs(logp - log(p[id])) < 1e-5))
        fail_msg("token %d: log-probability %g instead of %g", id, logp, log(p[id]));
    return id;
}

static void normalize(double *p) {
    double total = 0;
    for (int v = 0; v < SIDES; v++) total += p[v];
    for (int v = 0; v < SIDES; v++) p[v] /= total;
}

/* Frequencies follow the probabilities; top-k, top-p and min-p keep only the likeliest, scored
 * under the whole distribution. */
static void sampling_follows_the_distribution(void **state) {
    (void)state;
    Die d = die_create();
    double p[SIDES];
    for (int v = 0; v < SIDES; v++) p[v] = exp(die_logits[v] / .7);
    normalize(p);
    enum { ALL, TOP_K, TOP_P, GREEDY, MIN_P, HOWS };
    for (int how = 0; how < HOWS; how++) {
        SampleParams params = {.temperature = how == GREEDY ? 0.0f : .7f,
                               .top_k = how == TOP_K ? 2 : 0,
                               .top_p = how == TOP_P ? .8f : 1.0f,
                               .min_p = how == MIN_P ? .2f : 0.0f,
                               .vocab = SIDES};
        int seen[SIDES] = {0}, draws = how == GREEDY ? 10 : DRAWS;
        float cut = 0;
        for (int i = 0; i < draws; i++) {
            seen[die_throw(&d, 0, i, params, p)]++;
            d.b->download(d.b, &cut, d.cut, 1);
        }
        if (how == ALL) {
            for (int v = 0; v < SIDES; v++)
                assert_true(fabs((double)seen[v] / DRAWS - p[v]) < 0.015);
            assert_true(cut == 0.0f);
        } else if (how == GREEDY) {
            assert_int_equal(seen[2], draws);
        } else { /* all keep tokens 2 and 1 here */
            assert_int_equal(seen[1] + seen[2], draws);
            assert_true(fabs(cut - (1.0 - (p[1] + p[2]))) < 1e-4);
        }
    }
    die_release(&d);
}

/* The second of two rows has token 2 banned and 1 and 3 made dearer. */
static void sampling_follows_edits(void **state) {
    (void)state;
    Die d = die_create();
    Backend *b = d.b;
    Buf edits, starts;
    assert_int_equal(b->alloc(b, &edits, DT_I32, 4, "edits"), OK);
    assert_int_equal(b->alloc(b, &starts, DT_I32, 3, "starts"), OK);
    b->upload(b, edits, (int[]){0, ~2, 1, 3}, 4);
    b->upload(b, starts, (int[]){0, 1, 4}, 3);
    double p[SIDES];
    for (int v = 0; v < SIDES; v++) {
        double z = die_logits[v];
        if (v == 1 || v == 3) z = z < 0 ? z * 1.5 : z / 1.5;
        p[v] = v == 2 ? 0 : exp(z / .7);
    }
    normalize(p);
    int seen[SIDES] = {0};
    for (int i = 0; i < 2000; i++) {
        SampleParams params = {.temperature = .7f,
                               .top_k = i % 2 ? 3 : 0,
                               .top_p = 1.0f,
                               .vocab = SIDES,
                               .penalty = 1.5f,
                               .edits = edits,
                               .edit_starts = buf_at(starts, 1)}; /* as the second row has it */
        seen[die_throw(&d, 1, i, params, p)]++;
    }
    assert_int_equal(seen[2], 0);
    assert_true(seen[1] > 0);
    b->release(b, &edits);
    b->release(b, &starts);
    die_release(&d);
}

/* A vocabulary of several blocks, with rows of padding behind it that have a share of the
 * distribution but are never drawn. */
enum { MANY = 5003, VOCAB = 4990 };
static float many_logits[MANY];

/* e^logit of tokens below `end` that have at least the threshold, and how many these are */
static double mass_from(int end, float threshold, int *count) {
    double mass = 0.0;
    *count = 0;
    for (int v = 0; v < end; v++)
        if (many_logits[v] >= threshold) mass += exp((double)many_logits[v]), ++*count;
    return mass;
}

/* Logits are multiples of 1/16 below 8: one value after the other until enough is kept. */
static float threshold_of(SampleParams how) {
    int count;
    double whole = mass_from(VOCAB, -INFINITY, &count);
    for (float t = 8.0f; t > 0.0f; t -= 1.0f / 16.0f) {
        double mass = mass_from(VOCAB, t, &count);
        if (how.top_k ? count >= how.top_k : mass >= (double)how.top_p * whole) return t;
    }
    return 0.0f;
}

typedef struct {
    Backend *b;
    Mat w;
    Buf h, u, ids, lp, cut, scratch;
} Wide;

static Wide wide_create(Backend *b) {
    Wide d = {.b = b, .w = {.O = MANY, .K = 1}}; /* one feature, 1: logits are the weights */
    float one = 1.0f;
    Buf *floats[] = {&d.w.w, &d.h, &d.lp, &d.cut, &d.scratch};
    size_t counts[] = {MANY, 1, 1, 1, MANY};
    for (int i = 0; i < 5; i++)
        assert_int_equal(b->alloc(b, floats[i], i == 1 ? b->dtype : DT_F32, counts[i], "test"), OK);
    size_t packed = b->packed_count(b, DT_F32, MANY, 1);
    assert_int_equal(b->alloc(b, &d.w.packed, b->dtype, packed, "test"), OK);
    assert_int_equal(b->alloc(b, &d.u, DT_F64, 1, "test"), OK);
    assert_int_equal(b->alloc(b, &d.ids, DT_I32, 1, "test"), OK);
    b->upload(b, d.w.w, many_logits, MANY);
    b->upload(b, d.h, &one, 1);
    b->pack(b, d.w);
    return d;
}

static void wide_release(Wide *d) {
    Buf *all[] = {&d->w.w, &d->w.packed, &d->h, &d->lp, &d->cut, &d->scratch, &d->u, &d->ids};
    for (int i = 0; i < 8; i++) d->b->release(d->b, all[i]);
    backend_release(d->b);
}

static int wide_draw(Wide *d, double draw, SampleParams how, float *logp, float *cut) {
    Backend *b = d->b;
    int id;
    b->upload(b, d->u, &draw, 1);
    b->sample(b, d->ids, d->lp, d->cut, d->h, d->w, d->u, d->scratch, 1, 1, how);
    b->download(b, &id, d->ids, 1);
    b->download(b, logp, d->lp, 1);
    b->download(b, cut, d->cut, 1);
    return id;
}

static void expect_draws(Wide *d, SampleParams how, float threshold) {
    enum { TRIES = 200 };
    static double until[VOCAB + 1];
    int count;
    double all = mass_from(MANY, -INFINITY, &count), whole = mass_from(VOCAB, -INFINITY, &count);
    double want_cut = (whole - mass_from(VOCAB, threshold, &count)) / all;
    for (int v = 0; v < VOCAB; v++)
        until[v + 1] = until[v] + (many_logits[v] >= threshold ? exp((double)many_logits[v]) : 0.0);
    for (int i = 0; i < TRIES; i++) {
        double draw = rng_uniform(4, RNG_TEST, 1, (uint64_t)i);
        if (i < 2) draw = i ? 1.0 - 1e-16 : 0.0;
        float logp, cut;
        int id = wide_draw(d, draw, how, &logp, &cut);
        assert_in_range(id, 0, VOCAB - 1);
        assert_true(many_logits[id] >= threshold);
        assert_true(until[id] <= (draw + 1e-6) * until[VOCAB]);
        assert_true(until[id + 1] >= (draw - 1e-6) * until[VOCAB]);
        assert_true(fabs(cut - want_cut) < 1e-5);
        assert_true(fabs(logp - (many_logits[id] - log(all))) < 1e-4);
    }
}

/* What is drawn is where the running probability of what is kept passes the draw. */
static void draws_are_found_in_a_large_vocabulary(void **state) {
    (void)state;
    const SampleParams plain = {.temperature = 1.0f, .top_p = 1.0f, .vocab = VOCAB};
    for (int v = 0; v < MANY; v++) {
        double draw = rng_uniform(4, RNG_TEST, 0, (uint64_t)v);
        many_logits[v] = (float)(int)(128.0 * draw) / 16.0f + (v < VOCAB ? 0.0f : 3.0f);
    }
    for (int k = 0; k < CPU_KERNELS; k++) {
        Backend *b = kernels_create(&cpu_kernels[k]);
        if (!b) continue;
        Wide d = wide_create(b);
        SampleParams top_k = plain, top_p = plain, min_p = plain;
        top_k.top_k = 50, top_p.top_p = 0.6f, min_p.min_p = 0.3f;
        expect_draws(&d, plain, -INFINITY);
        expect_draws(&d, top_k, threshold_of(top_k));
        expect_draws(&d, top_p, threshold_of(top_p));
        expect_draws(&d, min_p, 127.0f / 16.0f + logf(0.3f));
        wide_release(&d);
    }
}

/* Nothing may be drawn: some token is, and nothing breaks. */
static void a_vocabulary_without_mass_gives_a_token(void **state) {
    (void)state;
    Backend *b;
    float logp, cut;
    assert_int_equal(backend_create(&b, "cpu", "auto", "f32"), OK);
    for (int v = 0; v < MANY; v++) many_logits[v] = v < VOCAB ? -INFINITY : 0.0f;
    Wide d = wide_create(b);
    SampleParams how = {.temperature = 1.0f, .top_p = 0.9f, .vocab = VOCAB};
    assert_in_range(wide_draw(&d, 0.5, how, &logp, &cut), 0, VOCAB - 1);
    assert_true(cut == 0.0f);
    wide_release(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampling_follows_the_distribution),
        cmocka_unit_test(sampling_follows_edits),
        cmocka_unit_test(draws_are_found_in_a_large_vocabulary),
        cmocka_unit_test(a_vocabulary_without_mass_gives_a_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
