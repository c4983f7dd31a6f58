/* reward_eval.c - accuracy overall and per subset, beside the baselines "longer wins" and, where
 * rows carry the gold scores of both answers, the ceiling that label noise sets. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/reward.h"

static Status subset_of(SubsetAccuracy **out, RewardEval *e, const char *name) {
    for (int i = 0; i < e->n_subsets; i++) {
        *out = &e->subset[i];
        if (!strcmp(e->subset[i].name, name)) return OK;
    }
    if (e->n_subsets == e->room) {
        int room = e->room ? 2 * e->room : 32;
        SubsetAccuracy *more = realloc(e->subset, (size_t)room * sizeof *more);
        if (!more)
            return status_fail(E_MEMORY, "memory ran out after %d subsets of pairs", e->n_subsets);
        e->subset = more;
        e->room = room;
    }
    *out = &e->subset[e->n_subsets++];
    **out = (SubsetAccuracy){.name = name};
    return OK;
}

void reward_eval_release(RewardEval *e) {
    free(e->subset);
    *e = (RewardEval){0};
}

static void count_gold(RewardEval *e, const Row *row) {
    JsonDoc *doc;
    double chosen = NAN, rejected = NAN;
    if (!strstr(row->source, "gold_chosen") ||
        json_parse(&doc, "row", row->line, row->source, strlen(row->source), 0) != OK)
        return;
    if (json_get_num(doc, json_root(doc), "gold_chosen", JSON_OPTIONAL, &chosen) == OK &&
        json_get_num(doc, json_root(doc), "gold_rejected", JSON_OPTIONAL, &rejected) == OK &&
        !isnan(chosen + rejected)) {
        e->gold_pairs++;
        e->gold_right += chosen > rejected;
    }
    json_release(doc);
}

static Status count_pair(RewardEval *e, const Row *row, double chosen, double rejected) {
    double dc, dr;
    e->pairs++;
    e->right += chosen > rejected;
    e->ties += chosen == rejected;
    e->loss += reward_loss(chosen, rejected, 0.0, 0.0, &dc, &dr);
    if (row->a.n != row->b.n) {
        e->longer_pairs++;
        e->longer_right += row->a.n > row->b.n;
    }
    count_gold(e, row);
    if (!row->subset[0]) return OK;
    SubsetAccuracy *s = NULL;
    TRY(subset_of(&s, e, row->subset));
    s->pairs++;
    s->right += chosen > rejected;
    s->ties += chosen == rejected;
    return OK;
}

typedef struct {
    double sum, squares;
} Sums;

/* Scores of rows first .. last - 1, which are in scratch. */
static Status count_pairs(RewardEval *e, Sums *sums, const Dataset *d, int first, int last,
                          const Packed *scratch, const float *score, float *pairs) {
    for (int i = first; i < last; i++) {
        int s = 2 * (i - first);
        double pair[2] = {score[scratch->starts[s + 1] - 1], score[scratch->starts[s + 2] - 1]};
        if (!isfinite(pair[0] + pair[1]))
            return status_fail(E_NUMERIC, "the score of row %d of the held-out pairs is no number",
                               d->rows[i].line);
        TRY(count_pair(e, &d->rows[i], pair[0], pair[1]));
        for (int k = 0; pairs && k < 2; k++) pairs[2 * i + k] = (float)pair[k];
        for (int k = 0; k < 2; k++) {
            sums->sum += pair[k];
            sums->squares += pair[k] * pair[k];
            e->min = fmin(e->min, pair[k]);
            e->max = fmax(e->max, pair[k]);
        }
    }
    return OK;
}

Status reward_evaluate(RewardEval *e, Network *net, const Dataset *d, Packed *scratch, float *score,
                       int micro_tokens, float *pairs) {
    *e = (RewardEval){.min = INFINITY, .max = -INFINITY};
    Sums sums = {0};
    Status status = OK;
    for (int row = 0, first = 0; row < d->n && status == OK; first = row) {
        packed_clear(scratch);
        for (; row < d->n && scratch->S + 2 <= scratch->max_S &&
               scratch->N + d->rows[row].a.n + d->rows[row].b.n <= scratch->max_N;
             row++) {
            packed_add(scratch, d->rows[row].a.ids, NULL, d->rows[row].a.n);
            packed_add(scratch, d->rows[row].b.ids, NULL, d->rows[row].b.n);
        }
        status = packed_forward(scratch, net, micro_tokens, 1.0f, &(TokenOutputs){.score = score});
        if (status == OK) status = count_pairs(e, &sums, d, first, row, scratch, score, pairs);
    }
    int n = 2 * e->pairs;
    e->mean = n ? sums.sum / n : 0.0;
    e->std = n > 1 ? sqrt(fmax(0.0, (sums.squares - n * e->mean * e->mean) / (n - 1))) : 0.0;
    e->loss = e->pairs ? e->loss / e->pairs : 0.0;
    if (status != OK) reward_eval_release(e);
    return status;
}

void reward_put_subsets(Text *t, const RewardEval *e) {
    text_add(t, "{");
    for (int i = 0; i < e->n_subsets; i++) {
        json_put_key(t, e->subset[i].name);
        json_put_number(t, (double)e->subset[i].right / e->subset[i].pairs);
    }
    text_add(t, "}");
}

void reward_eval_summary(Stage *s, const RewardEval *e) {
    summary_put(s, "accuracy", reward_accuracy(e));
    summary_put(s, "accuracy_longer_wins", reward_longer_wins(e));
    if (e->gold_pairs) summary_put(s, "accuracy_ceiling", (double)e->gold_right / e->gold_pairs);
    summary_put(s, "val_loss", e->loss);
    summary_put(s, "ties", e->ties);
    json_put_key(&s->summary, "accuracy_by_subset");
    reward_put_subsets(&s->summary, e);
}
