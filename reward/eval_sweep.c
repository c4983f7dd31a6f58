/* eval_sweep.c - the checkpoints of a run, each with the KL that it paid and the score and gold
 * that it got for it (Gao et al. 2023), beside the best of n answers of the policy that the run
 * began with. */
#include <string.h>

#include "core/base/log.h"
#include "reward/eval_inside.h"

enum { BEST_OF_MAX = 16, CHECKPOINTS_MAX = 4096 };

Status eval_sweep_inputs(Eval *e) {
    Stage *s = e->stage;
    JsonDoc *doc;
    const char *path = arena_printf(&e->arena, "%s/recipe.json", e->cfg->sweep);
    const struct {
        const char *section, *key, **value;
    } inputs[] = {{NULL, "model", &s->cfg.model},
                  {NULL, "tokenizer", &s->cfg.tokenizer},
                  {NULL, "reference", &s->cfg.reference},
                  {NULL, "reward_model", &s->cfg.reward_model},
                  {"data", "eval", &s->data.eval}};
    if (e->cfg->baseline[0] || e->cfg->text[0])
        return status_fail(E_USAGE, "eval.sweep goes without eval.baseline and eval.text");
    TRY(json_parse_file(&doc, path, JSON_STRICT));
    Status status = OK;
    for (size_t i = 0; status == OK && i < sizeof inputs / sizeof *inputs; i++) {
        const Json *from = json_root(doc);
        const char *value = "";
        if (*inputs[i].value[0]) continue;
        if (inputs[i].section) from = json_get(from, inputs[i].section);
        if (from) status = json_get_str(doc, from, inputs[i].key, JSON_OPTIONAL, &value);
        *inputs[i].value = arena_strdup(&e->arena, value);
    }
    json_release(doc);
    if (status == OK && !strcmp(s->cfg.model, "init"))
        return status_fail(E_USAGE,
                           "%s began with \"init\": give the model's shape with --model DIR",
                           e->cfg->sweep);
    if (status == OK && !s->cfg.reference[0]) s->cfg.reference = s->cfg.model; /* as in training */
    return status;
}

static void put(Text *t, const char *key, double v) {
    json_put_key(t, key);
    json_put_number(t, v);
}

/* ------------------------------------------------ checkpoints */

static Status add_point(PolicyRun *p, const PolicyModels *m, Text *points, int step) {
    PolicyResult r;
    TRY(policy_eval(&r, &p->eval, m, NULL, step));
    text_add(points, points->len ? ",{" : "{");
    put(points, "step", step);
    put(points, "kl", r.kl);
    if (m->judge) put(points, "score", r.score);
    if (r.has_gold) put(points, "gold", r.gold);
    put(points, "length", r.length);
    text_add(points, "}");
    log_info("step %d: kl %.2f  score %.3f  gold %.3f  length %.0f", step, r.kl, r.score, r.gold,
             r.length);
    return OK;
}

static Status load_policy(Eval *e, Network *policy, int step) {
    Checkpoint *c;
    size_t bytes;
    const void *data;
    TRY(checkpoint_open_step(&c, e->cfg->sweep, step));
    int is_ppo = checkpoint_view(c, "actor.weights", 0, &data, &bytes) == OK;
    Status s = session_load_network(c, is_ppo ? "actor" : "policy", policy, NULL);
    checkpoint_close(c);
    return s;
}

static Status sweep_checkpoints(Eval *e, PolicyRun *p, const PolicyModels *m, Text *points) {
    int *steps = arena_alloc(&e->arena, CHECKPOINTS_MAX * sizeof *steps), n;
    TRY(checkpoint_steps(e->cfg->sweep, steps, CHECKPOINTS_MAX, &n));
    if (!n) return status_fail(E_USAGE, "%s has no checkpoints to sweep over", e->cfg->sweep);
    for (int i = 0; i < n; i++) {
        TRY(load_policy(e, m->actor, steps[i]));
        TRY(add_point(p, m, points, steps[i]));
    }
    summary_put(e->stage, "checkpoints", n);
    return OK;
}

/* ------------------------------------------------ best of n */

/* Answers all prompts BEST_OF_MAX times, each time with further random numbers; arrays
 * [S][BEST_OF_MAX]. */
static Status answer_often(PolicyRun *p, const PolicyModels *m, float *score, float *gold) {
    PolicyEval *e = &p->eval;
    int S = policy_eval_prompts(e);
    for (int k = 0; k < BEST_OF_MAX; k++) {
        PolicyResult r;
        TRY(policy_eval(&r, e, m, NULL, 0));
        for (int s = 0; s < S; s++) {
            gold[s * BEST_OF_MAX + k] = e->sampled.gold[s]; /* the score where there is no gold */
            score[s * BEST_OF_MAX + k] = m->judge ? e->sampled.score[s] : e->sampled.gold[s];
            e->requests[s].sequence += (uint64_t)S;
        }
    }
    for (int s = 0; s < S; s++) e->requests[s].sequence -= (uint64_t)S * BEST_OF_MAX;
    return OK;
}

static Status best_of_n(Eval *e, PolicyRun *p, const PolicyModels *m, Text *best) {
    int S = policy_eval_prompts(&p->eval), order[BEST_OF_MAX];
    size_t count = (size_t)S * BEST_OF_MAX;
    float *score = arena_alloc(&e->arena, count * sizeof *score),
          *gold = arena_alloc(&e->arena, count * sizeof *gold);
    TRY(answer_often(p, m, score, gold));
    for (int n = 1; n <= BEST_OF_MAX; n *= 2) {
        double by_score = 0.0, by_gold = 0.0;
        for (int s = 0; s < S; s++) {
            const float *scores = score + s * BEST_OF_MAX;
            by_score += best_of(scores, scores, order, BEST_OF_MAX, n) / S;
            by_gold += best_of(scores, gold + s * BEST_OF_MAX, order, BEST_OF_MAX, n) / S;
        }
        text_add(best, best->len ? ",{" : "{");
        put(best, "n", n);
        put(best, "kl", best_of_kl(n));
        if (m->judge) put(best, "score", by_score);
        if (p->eval.has_gold) put(best, "gold", by_gold);
        text_add(best, "}");
    }
    return OK;
}

/* ------------------------------------------------ evals/sweep.json, of both runs */

static Status write_sweep(Eval *e, const PolicyRun *p, const Text *points, const Text *best) {
    Text t = {0};
    text_add(&t, "{\"kind\":\"sweep\"");
    json_put_key(&t, "model");
    json_put_string(&t, e->cfg->sweep);
    json_put_key(&t, "data");
    json_put_string(&t, e->stage->data.eval);
    put(&t, "n", policy_eval_prompts(&p->eval));
    json_put_key(&t, "points");
    text_addf(&t, "[%s]", points->s);
    json_put_key(&t, "best_of");
    text_addf(&t, "[%s]}", best->s);
    Status s = run_begin(e->session.run);
    if (s == OK) s = run_evaluation(e->session.run, "sweep", t.s);
    if (s == OK && run_evaluation_of(e->cfg->sweep, "sweep", t.s) != OK) /* somebody else's, say */
        log_warn("the report of %s goes without the sweep: %s", e->cfg->sweep, status_message());
    text_release(&t);
    return s;
}

Status eval_sweep(Eval *e, PolicyRun *p, const PolicyModels *m) {
    Text points = {0}, best = {0};
    if (!m->judge && !p->eval.has_gold)
        return status_fail(E_USAGE, "eval.sweep needs a judge: give reward_model (the prompts are "
                                    "not of the embedded world)");
    Status s = best_of_n(e, p, m, &best); /* the policy is still the one the run began with */
    if (s == OK) s = add_point(p, m, &points, 0);
    if (s == OK) s = sweep_checkpoints(e, p, m, &points);
    if (s == OK) s = write_sweep(e, p, &points, &best);
    text_release(&points);
    text_release(&best);
    return s;
}
