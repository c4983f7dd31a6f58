/* policy_report.c - an evaluation of a policy as evals/policy.json: means over prompts, each with
 * its 95 % interval. */
#include <math.h>
#include <stdio.h>

#include "policy/degenerate.h"
#include "reward/eval_inside.h"

static void put(Text *t, const char *name, const char *after, double v) {
    char key[64];
    snprintf(key, sizeof key, "%s%s", name, after);
    json_put_key(t, key);
    json_put_number(t, v);
}

static void put_interval(Text *t, const char *name, double v, Interval limits) {
    put(t, name, "", v);
    put(t, name, "_low", limits.low);
    put(t, name, "_high", limits.high);
}

typedef struct {
    Text t;
    double *x, *weight, *scratch; /* a figure of every row */
    int n;
    uint64_t seed;
} Report;

static double ratio(const Report *r, const double *weight) {
    double sum = 0.0, weights = 0.0;
    for (int i = 0; i < r->n; i++) {
        sum += r->x[i];
        weights += weight ? weight[i] : 1.0;
    }
    return sum / weights;
}

static void put_mean(Report *r, const char *name) {
    put_interval(&r->t, name, ratio(r, NULL), bootstrap(r->x, NULL, r->n, r->seed, r->scratch));
}

static void put_floats(Report *r, const char *name, const float *v) {
    for (int s = 0; s < r->n; s++) r->x[s] = v[s];
    put_mean(r, name);
}

static void put_answers(Report *r, const PolicyEval *e, const PolicyModels *m) {
    const Answers *a = &e->sampled;
    int ended = 0;
    if (m->judge) put_floats(r, "score", a->score);
    if (e->has_gold) put_floats(r, "gold", a->gold);
    if (m->reference) {
        for (int s = 0; s < r->n; s++) r->x[s] = answer_kl(a, s);
        put_mean(r, "kl");
    }
    for (int s = 0; s < r->n; s++) r->x[s] = rollout_length(&a->rollout, s);
    put_mean(r, "response_length");
    for (int s = 0; s < r->n; s++)
        r->x[s] =
            repetition_share(rollout_response(&a->rollout, s), rollout_length(&a->rollout, s));
    put_mean(r, "repetition");
    for (int s = 0; s < r->n; s++) ended += a->rollout.stop[s] == STOP_EOS;
    put_interval(&r->t, "eos_rate", (double)ended / r->n, wilson((double)ended / r->n, r->n));
}

/* Of the trained tokens of eval.text; rows are what is drawn again. */
static void put_perplexity(Report *r, const PolicyRun *p) {
    r->n = p->text.n;
    for (int i = 0; i < r->n; i++) {
        const Sequence *s = &p->text.rows[i].a;
        r->x[i] = p->nll[i];
        r->weight[i] = 0.0;
        for (int k = 0; k < s->n; k++) r->weight[i] += s->trained[k] != 0;
    }
    Interval nll = bootstrap(r->x, r->weight, r->n, r->seed, r->scratch);
    put_interval(&r->t, "perplexity", exp(ratio(r, r->weight)),
                 (Interval){exp(nll.low), exp(nll.high)});
}

Status eval_policy_report(Eval *e, const PolicyRun *p, const PolicyModels *m) {
    const PolicyEval *eval = &p->eval;
    int n = policy_eval_prompts(eval), most = n > p->text.n ? n : p->text.n;
    size_t bytes = (size_t)most * sizeof(double);
    Report r = {.x = arena_alloc(&e->arena, bytes),
                .weight = arena_alloc(&e->arena, bytes),
                .scratch = arena_alloc(&e->arena, BOOTSTRAP_DRAWS * sizeof(double)),
                .n = n,
                .seed = e->stage->run.seed};
    text_add(&r.t, "{\"kind\":\"policy\"");
    json_put_key(&r.t, "model");
    json_put_string(&r.t, p->path[POLICY]);
    json_put_key(&r.t, "data");
    json_put_string(&r.t, e->stage->data.eval);
    put(&r.t, "n", "", n);
    if (eval->has_baseline) {
        double win = policy_eval_win_rate(eval);
        put_interval(&r.t, "win_rate", win, wilson(win, n));
    }
    put_answers(&r, eval, m);
    if (p->text.n) put_perplexity(&r, p);
    text_add(&r.t, "}");
    Status s = run_evaluation(e->session.run, "policy", r.t.s);
    text_release(&r.t);
    return s;
}
