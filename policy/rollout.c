/* rollout.c - the scheduler: waiting requests, active rows, one decoding step for all rows at a
 * time. */
#include "policy/rollout.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/model/decoder.h"

const char *const stop_names[] = {"eos", "length", "string"};

typedef struct { /* one response in the making */
    int *ids;
    float *logp;
    int n;
    StopReason stop;
} Draft;

struct RolloutEngine {
    KvCache kv;
    const Tokenizer *t;
    int rows, max_length, max_requests, vocab;
    Draft *drafts; /* [max_requests] */
    int *draft_ids;
    float *draft_logp;
    int *active;                                /* [rows] request in this cache row, -1 free */
    int *step_rows, *step_ids, *step_positions; /* [rows] of the step under way */
    double *uniform;
    int *drawn;
    float *logp, *cut;
    Packed prompts; /* of one prefill */
};

Status rollout_create(Rollout *r, int max_sequences, size_t max_tokens) {
    *r = (Rollout){0};
    TRY(packed_create(&r->seq, max_sequences, max_tokens));
    TRY(memory_alloc((void **)&r->n_prompt, (size_t)max_sequences * sizeof(int), "rollout"));
    TRY(memory_alloc((void **)&r->stop, (size_t)max_sequences * sizeof *r->stop, "rollout"));
    return memory_alloc((void **)&r->logp, max_tokens * sizeof(float), "rollout");
}

void rollout_release(Rollout *r) {
    packed_release(&r->seq);
    memory_release(r->n_prompt);
    memory_release(r->stop);
    memory_release(r->logp);
    *r = (Rollout){0};
}

size_t rollout_engine_bytes(const ModelConfig *cfg, int rows, int max_length) {
    return kv_bytes(cfg, rows, max_length);
}

Status rollout_engine_create(RolloutEngine **out, Backend *b, const ModelConfig *cfg,
                             const Tokenizer *t, int rows, int max_length, int max_requests) {
    RolloutEngine *e = calloc(1, sizeof *e);
    *out = e;
    if (!e) return status_fail(E_MEMORY, "no memory for a rollout engine");
    *e = (RolloutEngine){.t = t,
                         .rows = rows,
                         .max_length = max_length,
                         .max_requests = max_requests,
                         .vocab = cfg->V};
    if (t && tokenizer_vocab_size(t) < cfg->V)
        e->vocab = tokenizer_vocab_size(t); /* padded rows are never sampled */
    size_t R = (size_t)rows, Q = (size_t)max_requests, T = (size_t)max_length;
    TRY(kv_create(&e->kv, b, cfg, rows, max_length, 0));
    TRY(memory_alloc((void **)&e->drafts, Q * sizeof *e->drafts, "drafts"));
    TRY(memory_alloc((void **)&e->draft_ids, Q * T * sizeof(int), "drafts"));
    TRY(memory_alloc((void **)&e->draft_logp, Q * T * sizeof(float), "drafts"));
    int **ints[] = {&e->active, &e->step_rows, &e->step_ids, &e->step_positions, &e->drawn};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        TRY(memory_alloc((void **)ints[i], R * sizeof(int), "decoding rows"));
    TRY(memory_alloc((void **)&e->uniform, R * sizeof(double), "decoding rows"));
    TRY(memory_alloc((void **)&e->logp, R * sizeof(float), "decoding rows"));
    TRY(memory_alloc((void **)&e->cut, R * sizeof(float), "decoding rows"));
    return packed_create(&e->prompts, rows, R * T);
}

void rollout_engine_release(RolloutEngine *e) {
    if (!e) return;
    void *owned[] = {e->drafts,   e->draft_ids,      e->draft_logp, e->active,  e->step_rows,
                     e->step_ids, e->step_positions, e->drawn,      e->uniform, e->logp,
                     e->cut};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) memory_release(owned[i]);
    kv_release(&e->kv);
    packed_release(&e->prompts);
    free(e);
}

typedef struct { /* one call of rollout_generate */
    RolloutEngine *e;
    Network *actor;
    const RolloutRequest *requests;
    int n, next, done;
    const SamplingConfig *cfg;
    uint64_t seed;
    RolloutWatch watch;
    void *watch_ctx;
    double cut_sum;
    long drawn;
    int steps;
    Status status;
} Job;

static int is_stop(Job *j, int request, int id) {
    Draft *d = &j->e->drafts[request];
    if (!j->cfg->ignore_eos && j->e->t && tokenizer_is_eos(j->e->t, id)) {
        d->stop = STOP_EOS;
        return 1;
    }
    if (j->cfg->stop.n) {
        Text text = {0};
        int hit = 0, window = d->n < 64 ? d->n : 64; /* a stop text lies within the last tokens */
        if (tokenizer_decode(j->e->t, d->ids + d->n - window, window, 1, &text) != OK)
            text_clear(&text);
        for (int i = 0; i < j->cfg->stop.n && text.s && !hit; i++)
            hit = strstr(text.s, j->cfg->stop.items[i]) != NULL;
        text_release(&text);
        if (hit) {
            d->stop = STOP_STRING;
            return 1;
        }
    }
    d->stop = STOP_LENGTH;
    return d->n >= j->cfg->max_new_tokens || j->requests[request].n + d->n >= j->e->max_length;
}

/* The hidden states left by a prefill or a decoding step become one token each. */
static Status draw(Job *j, const int *rows, int M) {
    RolloutEngine *e = j->e;
    SampleParams p = {j->cfg->temperature, j->cfg->top_k, j->cfg->top_p, e->vocab};
    for (int i = 0; i < M; i++) {
        int request = e->active[rows[i]];
        e->uniform[i] = rng_uniform(j->seed, RNG_SAMPLE, j->requests[request].sequence,
                                    (uint64_t)e->drafts[request].n);
    }
    TRY(network_sample(j->actor, e->uniform, p, M, e->drawn, e->logp, e->cut));
    for (int i = 0; i < M; i++) {
        int request = e->active[rows[i]];
        Draft *d = &e->drafts[request];
        d->ids[d->n] = e->drawn[i];
        d->logp[d->n++] = e->logp[i];
        j->cut_sum += e->cut[i];
        j->drawn++;
        if (j->watch) j->watch(j->watch_ctx, request, e->drawn[i]);
        if (!is_stop(j, request, e->drawn[i])) continue;
        kv_drop(&e->kv, rows[i]);
        e->active[rows[i]] = -1;
        j->done++;
    }
    return OK;
}

/* Free rows take the next requests: one prefill for as many as the workspace holds. */
static Status admit(Job *j) {
    RolloutEngine *e = j->e;
    const WorkspacePlan *plan = &j->actor->ws->plan;
    int M = 0;
    packed_clear(&e->prompts);
    for (int row = 0; row < e->rows && j->next < j->n; row++) {
        if (e->active[row] >= 0) continue;
        const RolloutRequest *q = &j->requests[j->next];
        if (M >= plan->sequences || e->prompts.N + q->n > plan->tokens) break;
        int room = q->n + j->cfg->max_new_tokens < e->max_length ? q->n + j->cfg->max_new_tokens
                                                                 : e->max_length;
        if (!kv_reserve(&e->kv, row, room)) break;
        packed_add(&e->prompts, q->ids, NULL, q->n);
        e->active[row] = j->next++;
        e->step_rows[M++] = row;
    }
    if (!M) return OK;
    kv_flush(&e->kv);
    Batch b = {.S = M,
               .N = e->prompts.N,
               .ids = e->prompts.ids,
               .starts = e->prompts.starts,
               .temperature = 1.0f};
    TRY(network_prefill(j->actor, &e->kv, &b, e->step_rows));
    return draw(j, e->step_rows, M);
}

static Status decode_step(Job *j) {
    RolloutEngine *e = j->e;
    int M = 0;
    for (int row = 0; row < e->rows; row++) {
        if (e->active[row] < 0) continue;
        const Draft *d = &e->drafts[e->active[row]];
        e->step_rows[M] = row;
        e->step_ids[M] = d->ids[d->n - 1];
        e->step_positions[M++] = j->requests[e->active[row]].n + d->n - 1;
    }
    if (!M) return OK;
    j->steps++;
    TRY(network_decode(j->actor, &e->kv, e->step_ids, e->step_rows, e->step_positions, M));
    return draw(j, e->step_rows, M);
}

static void collect(Job *j, Rollout *out) {
    RolloutEngine *e = j->e;
    packed_clear(&out->seq);
    for (int i = 0; i < j->n; i++) {
        const Draft *d = &e->drafts[i];
        packed_add(&out->seq, j->requests[i].ids, NULL, j->requests[i].n);
        int at = out->seq.N;
        CHECK(d->n <= out->seq.max_N - at);
        memcpy(out->seq.ids + at, d->ids, (size_t)d->n * sizeof(int));
        memset(out->seq.wanted + at, 1, (size_t)d->n);
        memset(out->logp + out->seq.starts[i], 0, (size_t)j->requests[i].n * sizeof(float));
        memcpy(out->logp + at, d->logp, (size_t)d->n * sizeof(float));
        out->seq.N = out->seq.starts[i + 1] = at + d->n;
        out->n_prompt[i] = j->requests[i].n;
        out->stop[i] = d->stop;
    }
    out->truncated_mass = j->drawn ? j->cut_sum / (double)j->drawn : 0.0;
    out->decode_steps = j->steps;
}

Status rollout_generate(Rollout *out, RolloutEngine *e, Network *actor,
                        const RolloutRequest *requests, int n, const SamplingConfig *cfg,
                        uint64_t seed, RolloutWatch watch, void *watch_ctx) {
    CHECK(n <= e->max_requests && n <= out->seq.max_S);
    Job j = {.e = e,
             .actor = actor,
             .requests = requests,
             .n = n,
             .cfg = cfg,
             .seed = seed,
             .watch = watch,
             .watch_ctx = watch_ctx};
    for (int row = 0; row < e->rows; row++) e->active[row] = -1;
    for (int i = 0; i < n; i++) {
        CHECK(requests[i].n > 0);
        if (requests[i].n >= e->max_length || requests[i].n > actor->ws->plan.tokens)
            return status_fail(
                E_USAGE, "a prompt of %d tokens leaves no room for an answer: the limit is %d",
                requests[i].n, e->max_length);
        e->drafts[i] = (Draft){e->draft_ids + (size_t)i * e->max_length,
                               e->draft_logp + (size_t)i * e->max_length, 0, STOP_LENGTH};
    }
    Status s = OK;
    while (s == OK && j.done < n) {
        s = admit(&j);
        if (s == OK) s = decode_step(&j);
    }
    for (int row = 0; row < e->rows; row++) kv_drop(&e->kv, row);
    if (s == OK) collect(&j, out);
    return s;
}

Status rollout_text(const Rollout *r, int s, const Tokenizer *t, Text *out) {
    return tokenizer_decode(t, rollout_response(r, s), rollout_length(r, s), 0, out);
}
