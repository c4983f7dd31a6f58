/* repetition.c - see repetition.h. */
#include "policy/repetition.h"

#include <string.h>

#include "core/base/memory.h"

Status repetition_create(Repetition *r, Backend *b, int vocab, int rows, int max_length) {
    size_t R = (size_t)rows, most = R * (size_t)max_length;
    *r = (Repetition){.b = b, .vocab = vocab};
    TRY(memory_alloc((void **)&r->mark, (size_t)vocab * sizeof(int), "repeated ids"));
    TRY(memory_alloc((void **)&r->edits, most * sizeof(int), "repeated ids"));
    TRY(memory_alloc((void **)&r->starts, (R + 1) * sizeof(int), "repeated ids"));
    TRY(b->alloc(b, &r->dev_edits, DT_I32, most, "repeated ids"));
    return b->alloc(b, &r->dev_starts, DT_I32, R + 1, "repeated ids");
}

void repetition_release(Repetition *r) {
    if (!r->b) return;
    r->b->release(r->b, &r->dev_edits);
    r->b->release(r->b, &r->dev_starts);
    memory_release(r->mark);
    memory_release(r->edits);
    memory_release(r->starts);
    *r = (Repetition){0};
}

void repetition_clear(Repetition *r, float penalty, int ngram) {
    r->penalty = penalty;
    r->ngram = ngram;
    r->rows = 0;
    r->starts[0] = 0;
}

static int take(Repetition *r, int id, int edit, int *n) {
    if (id >= r->vocab || r->mark[id] == r->now) return 0;
    r->mark[id] = r->now;
    r->edits[(*n)++] = edit;
    return 1;
}

/* Every id that would end an n-gram which stands there already. */
static void ban_ngrams(Repetition *r, const int *ids, int n, int *at) {
    int head = r->ngram - 1, banned = 0, begin = *at;
    const int *tail = ids + n - head;
    for (int i = 0; i + r->ngram <= n; i++)
        if (!head || !memcmp(ids + i, tail, (size_t)head * sizeof *ids))
            banned += take(r, ids[i + head], ~ids[i + head], at);
    if (banned == r->vocab) *at = begin; /* something has to be drawn */
}

void repetition_add_row(Repetition *r, const int *ids, int n) {
    int at = r->starts[r->rows];
    if (r->now++ == 0x7fffffff - 1) {
        memset(r->mark, 0, (size_t)r->vocab * sizeof *r->mark);
        r->now = 1;
    }
    if (r->ngram > 0 && n >= r->ngram) ban_ngrams(r, ids, n, &at);
    for (int i = 0; i < n && r->penalty != 1.0f; i++) take(r, ids[i], ids[i], &at);
    r->starts[++r->rows] = at;
}

void repetition_apply(Repetition *r, SampleParams *p) {
    r->b->upload(r->b, r->dev_starts, r->starts, (size_t)r->rows + 1);
    if (r->starts[r->rows]) r->b->upload(r->b, r->dev_edits, r->edits, (size_t)r->starts[r->rows]);
    p->penalty = r->penalty;
    p->edits = r->dev_edits;
    p->edit_starts = r->dev_starts;
}
