/* test_alarms.c - each rule of the alarms on made-up runs: raised after its window, once, and not
 * by a run that is well; what detects degenerate answers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "core/run/alarms.h"
#include "policy/degenerate.h"

typedef struct {
    AlarmConfig cfg;
    AlarmFacts facts;
    AlarmState state;
    Arena arena;
    int raised[64]; /* steps at which the last asked-for alarm was raised */
    int n_raised, others;
} Watch;

static void begin(Watch *w) {
    memset(w, 0, sizeof *w);
    Section s = {"alarms", alarm_fields, alarm_n_fields, &w->cfg};
    assert_int_equal(settings_load(&s, 1, &w->arena, NULL, 0, NULL), OK);
    w->facts = (AlarmFacts){.exact_logp = 1, .kl_begins_at_0 = 1};
}

/* A row of a PPO run that is well, with the noise that such runs have. */
static void well(Metrics *m, int step) {
    double u[8];
    for (int i = 0; i < 8; i++) u[i] = rng_uniform(3, RNG_TEST, (uint64_t)step, (uint64_t)i) - 0.5;
    double t = step < 100 ? step / 100.0 : 1.0;
    metrics_clear(m);
    metrics_set(m, "objective/kl", step == 1 ? 0.0 : 4.0 * t + u[0]);
    metrics_set(m, "objective/kl_stderr", 0.4);
    metrics_set(m, "objective/raw_scores", 2.0 * t + u[1]);
    metrics_set(m, "objective/scores_std", 1.5 + u[2]);
    metrics_set(m, "objective/score_length_corr", 0.3 + u[3]);
    metrics_set(m, "response_length/mean", 50.0 + 8.0 * u[4]);
    metrics_set(m, "rollout/truncated_rate", 0.1 + 0.15 * u[5]);
    metrics_set(m, "rollout/logp_drift", 0.0);
    metrics_set(m, "critic/vf_explained_var", step % 50 < 15 ? -0.1 : 0.8 + 0.2 * u[6]);
    metrics_set(m, "val/ratio_max", 1.8 + u[7]);
    metrics_set(m, "policy/clipfrac_avg", 0.1 + 0.1 * u[0]);
    metrics_set(m, "policy/entropy_avg", 0.3 - 0.12 * t + 0.05 * u[1]);
    metrics_set(m, "rollout/repetition_rate", 0.02);
    metrics_set(m, "rollout/compressible_rate", 0.0);
    metrics_set(m, "rollout/duplicate_rate", step % 40 / 2 == 5 ? 0.06 : 0.01);
    metrics_set(m, "rollout/bad_ends", 0.0);
    metrics_set(m, "val/whitened_std", 1.0 - 1e-8);
    metrics_set(m, "val/score_misplaced", 2e-7);
    metrics_set(m, "optimizer/skipped", 0.0);
    metrics_set(m, "timing_s/step", step % 60 < 2 ? 3.0 : 1.0 + 0.3 * u[2]);
    if (step % 10 == 0) {
        metrics_set(m, "eval/scores", 2.0 * t + 0.3 * u[3]);
        metrics_set(m, "eval/gold", 2.0 * t + 0.3 * u[3]);
    }
}

static void look(Watch *w, int step, const Metrics *m, const char *name) {
    Alarm out[ALARM_RULES_MAX];
    int n;
    alarms_check(&w->state, &w->cfg, &w->facts, step, m, out, &n);
    for (int i = 0; i < n; i++) {
        if (name && !strcmp(out[i].name, name))
            w->raised[w->n_raised++] = step;
        else
            w->others++;
        if (!name)
            printf("step %d: %s %s %g > %g\n", step, out[i].id, out[i].name, out[i].value,
                   out[i].limit);
    }
}

static void a_run_that_is_well_raises_nothing(void **state) {
    (void)state;
    Watch w;
    Metrics m;
    begin(&w);
    for (int step = 1; step <= 5000; step++) {
        well(&m, step);
        look(&w, step, &m, NULL);
    }
    assert_int_equal(w.others, 0);
    arena_release(&w.arena);
}

/* From step BROKEN on, `metric` is `value` (plus slope for each step); the alarm must come at the
 * last step of its window, once. */
enum { BROKEN = 41, END = 100 };
static const struct {
    const char *name, *metric;
    double value, slope;
    const char *also; /* another metric that grows with it, 1 each step */
    int within;       /* steps to the alarm */
} faults[] = {
    {"kl-high", "objective/kl", 25, 0, NULL, 3},
    {"kl-explosion", "objective/kl", 61, 0, NULL, 1},
    {"kl-negative", "objective/kl", -2, 0, NULL, 3},
    {"logp-mismatch", "rollout/logp_drift", 1e-6, 0, NULL, 1},
    {"score-by-length", "objective/score_length_corr", .9, 0, "response_length/mean", 13},
    {"truncated", "rollout/truncated_rate", .25, .005, NULL, 10},
    {"constant-scores", "objective/scores_std", 0, 0, NULL, 2},
    {"critic-explains-nothing", "critic/vf_explained_var", -.2, 0, NULL, 20},
    {"large-ratio", "val/ratio_max", 11, 0, NULL, 1},
    {"much-clipped", "policy/clipfrac_avg", .5, 0, NULL, 1},
    {"entropy-gone", "policy/entropy_avg", .05, 0, NULL, 3},
    {"repetition", "rollout/repetition_rate", .3, 0, NULL, 2},
    {"compressible", "rollout/compressible_rate", .3, 0, NULL, 2},
    {"duplicates", "rollout/duplicate_rate", .3, 0, NULL, 3},
    {"bad-ends", "rollout/bad_ends", 1, 0, NULL, 1},
    {"not-whitened", "val/whitened_std", 1.3, 0, NULL, 1},
    {"misplaced-score", "val/score_misplaced", .5, 0, NULL, 1},
    {"skipped-step", "optimizer/skipped", 1, 0, NULL, 1},
    {"slow-step", "timing_s/step", 5, 0, NULL, 3},
};

static void each_fault_raises_its_alarm_once(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        Watch w;
        Metrics m;
        begin(&w);
        for (int step = 1; step <= END; step++) {
            well(&m, step);
            int broken = step - BROKEN;
            if (broken >= 0)
                metrics_set(&m, faults[f].metric, faults[f].value + broken * faults[f].slope);
            if (broken >= 0 && faults[f].also) metrics_set(&m, faults[f].also, 50.0 + 2.0 * broken);
            look(&w, step, &m, faults[f].name);
        }
        if (w.n_raised != 1 || w.raised[0] < BROKEN ||
            w.raised[0] >= BROKEN + faults[f].within + 10)
            fail_msg("%s was raised %d times, first at step %d", faults[f].name, w.n_raised,
                     w.n_raised ? w.raised[0] : -1);
        if (faults[f].within < 10) assert_int_equal(w.raised[0], BROKEN + faults[f].within - 1);
        arena_release(&w.arena);
    }
}

static void rows_of_other_trainers(void **state) {
    (void)state;
    Watch w;
    Metrics m;
    begin(&w); /* the first KL */
    metrics_clear(&m);
    metrics_set(&m, "objective/kl", 1e-9);
    look(&w, 1, &m, "first-kl");
    assert_int_equal(w.n_raised, 1);
    arena_release(&w.arena);

    begin(&w); /* where the same weights are not computed alike, by more than rounding */
    w.facts.exact_logp = 0;
    look(&w, 1, &m, "first-kl");
    assert_int_equal(w.n_raised, 0);
    metrics_set(&m, "objective/kl", -0.6);
    look(&w, 1, &m, "first-kl");
    assert_int_equal(w.n_raised, 1);
    arena_release(&w.arena);

    begin(&w); /* DPO: both answers fall */
    for (int step = 1; step <= 30; step++) {
        metrics_clear(&m);
        metrics_set(&m, "logps/chosen", -80.0 - step);
        metrics_set(&m, "logps/rejected", -90.0 - 2.0 * step);
        metrics_set(&m, "rewards/margins", 0.1 * step);
        look(&w, step, &m, "both-fall");
    }
    assert_int_equal(w.n_raised, 1);
    assert_int_equal(w.raised[0], 14); /* 12, 13, 14 are more than 10 nats below the first */
    arena_release(&w.arena);

    begin(&w); /* a reward model that only counts words */
    for (int step = 10; step <= 40; step += 10) {
        metrics_clear(&m);
        metrics_set(&m, "eval/accuracy", .55);
        metrics_set(&m, "eval/longer_wins", .56);
        look(&w, step, &m, "no-better-than-length");
    }
    assert_int_equal(w.n_raised, 1);
    assert_int_equal(w.raised[0], 20);
    arena_release(&w.arena);

    /* over-optimization, at once and slowly: 5 standard errors below the best, twice in a row */
    static const struct {
        double fall;
        int at;
    } falls[] = {{1.1, 50}, {0.15, 110}};
    for (int k = 0; k < 2; k++) {
        begin(&w);
        metrics_clear(&m); /* before the first step, which is not remembered */
        metrics_set(&m, "eval/scores", 1.0);
        metrics_set(&m, "eval/gold", 9.0);
        look(&w, 0, &m, "gold-falls");
        for (int i = 0; i < 12; i++) {
            metrics_clear(&m);
            metrics_set(&m, "eval/scores", 1.0 + i);
            metrics_set(&m, "eval/gold", i < 3 ? 1.0 + i : 3.0 - falls[k].fall * (i - 2));
            metrics_set(&m, "eval/gold_stderr", 0.2);
            look(&w, 10 * (i + 1), &m, "gold-falls");
        }
        assert_int_equal(w.n_raised, 1);
        assert_int_equal(w.raised[0], falls[k].at);
        arena_release(&w.arena);
    }
}

/* Nothing changes in what these runs do: of 16 answers a step about 3 are cut, and gold is the mean
 * over 64 prompts, while the score rises. */
static void the_noise_of_few_answers_raises_nothing(void **state) {
    (void)state;
    Watch w;
    Metrics m;
    begin(&w);
    for (int step = 1; step <= 20000; step++) {
        double cut = 0.0, gold = 0.0;
        uint64_t at = (uint64_t)step;
        for (uint64_t i = 0; i < 16; i++) cut += rng_uniform(5, RNG_TEST, at, i) < 0.19;
        for (uint64_t i = 0; i < 64; i++)
            gold += (rng_uniform(6, RNG_TEST, at, i) - 0.5) * sqrt(12.0) / 64.0;
        metrics_clear(&m);
        metrics_set(&m, "rollout/truncated_rate", cut / 16.0);
        if (step % 20 == 0) {
            metrics_set(&m, "eval/scores", 1e-3 * step);
            metrics_set(&m, "eval/gold", gold);
            metrics_set(&m, "eval/gold_stderr", 1.0 / 8.0);
        }
        look(&w, step, &m, NULL);
    }
    assert_int_equal(w.others, 0);
    arena_release(&w.arena);
}

static void settings_silence_and_soften(void **state) {
    (void)state;
    static const char *off[] = {"kl-high", "A9"};
    Watch w;
    Metrics m;
    Alarm out[ALARM_RULES_MAX];
    int n;
    begin(&w);
    w.cfg.off = (StringList){off, 2};
    for (int step = 1; step <= 5; step++) {
        well(&m, step);
        metrics_set(&m, "objective/kl", step == 1 ? 0.0 : 30.0);
        metrics_set(&m, "val/ratio_max", 100.0);
        look(&w, step, &m, "kl-high");
    }
    assert_int_equal(w.n_raised, 0);
    assert_int_equal(w.others, 0);
    well(&m, 6);
    metrics_set(&m, "objective/kl", 1000.0);
    alarms_check(&w.state, &w.cfg, &w.facts, 6, &m, out, &n);
    assert_int_equal(n, 1);
    assert_int_equal(out[0].severity, ALARM_STOP);
    Text row = {0};
    alarm_write(&row, &out[0], 6, 1.5);
    assert_non_null(
        strstr(row.s, "{\"step\":6,\"wall_time\":1.500,\"id\":\"A1\",\"name\":\"kl-explosion\","
                      "\"severity\":\"stop\",\"metric\":\"objective/kl\""));
    assert_non_null(strstr(row.s, "\"value\":1000,\"limit\":60}"));
    text_release(&row);
    arena_release(&w.arena);

    begin(&w);
    w.cfg.may_stop = 0;
    alarms_check(&w.state, &w.cfg, &w.facts, 6, &m, out, &n);
    assert_int_equal(out[0].severity, ALARM_WARN);
    arena_release(&w.arena);
    begin(&w);
    w.cfg.enabled = 0;
    alarms_check(&w.state, &w.cfg, &w.facts, 6, &m, out, &n);
    assert_int_equal(n, 0);
    arena_release(&w.arena);
}

static void what_repeats_is_seen(void **state) {
    (void)state;
    int loop[40], fresh[40];
    char text[2000];
    for (int i = 0; i < 40; i++) loop[i] = i % 5, fresh[i] = i;
    assert_true(repetition_share(fresh, 40) == 0.0);
    assert_true(repetition_share(loop, 40) > 0.8);
    assert_true(repetition_share(loop, 7) == 0.0); /* too short to tell */
    for (size_t i = 0; i < sizeof text; i++) text[i] = "and so on "[i % 10];
    assert_true(compression_ratio(text, sizeof text) > 6.0);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + (int)(26 * rng_uniform(1, RNG_TEST, 5, (uint64_t)i)));
    assert_true(compression_ratio(text, sizeof text) < 2.0);
    assert_true(compression_ratio("short", 5) == 1.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_that_is_well_raises_nothing),
        cmocka_unit_test(each_fault_raises_its_alarm_once),
        cmocka_unit_test(rows_of_other_trainers),
        cmocka_unit_test(the_noise_of_few_answers_raises_nothing),
        cmocka_unit_test(settings_silence_and_soften),
        cmocka_unit_test(what_repeats_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
