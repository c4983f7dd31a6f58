/* rollout.c - the scheduler: waiting requests, active rows, one decoding step for all rows at a
 * time.
 *
 * Requests are served in their order. A row takes pages as it grows; when there are none, the last
 * request among the active rows gives its own up, and waits with what it has drawn so far. */
#include "policy/rollout.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/model/decoder.h"
#include "policy/repetition.h"

const char *const stop_names[] = {"eos", "length", "string", "asked"};

typedef struct { /* one response in the making */
    int *ids;    /* prompt and response */
    float *logp; /* of the response */
    int n_prompt, n;
    StopReason stop;
    int preempted; /* waits to be computed again */
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
    int *late_rows, *last;                      /* [rows] that extend shared pages, and where */
    int *extend_ids, *extend_rows, *extend_at;  /* [rows * max_length] of those */
    double *uniform;
    int *drawn;
    float *logp, *cut;
    Packed prompts;        /* of one prefill */
    Repetition repetition; /* made when it is first asked for */
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

size_t rollout_engine_bytes(const Backend *b, const ModelConfig *cfg, int rows, int max_length,
                            int kv_mib) {
    return kv_bytes(b, cfg, kv_pages(b, cfg, rows, max_length, kv_mib));
}

Status rollout_engine_create(RolloutEngine **out, Backend *b, const ModelConfig *cfg,
                             const Tokenizer *t, int rows, int max_length, int max_requests,
                             int kv_mib) {
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
    TRY(kv_create(&e->kv, b, cfg, rows, max_length, kv_pages(b, cfg, rows, max_length, kv_mib)));
    TRY(memory_alloc((void **)&e->drafts, Q * sizeof *e->drafts, "drafts"));
    TRY(memory_alloc((void **)&e->draft_ids, Q * T * sizeof(int), "drafts"));
    TRY(memory_alloc((void **)&e->draft_logp, Q * T * sizeof(float), "drafts"));
    int **ints[] = {&e->active, &e->step_rows, &e->step_ids, &e->step_positions,
                    &e->drawn,  &e->late_rows, &e->last};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        TRY(memory_alloc((void **)ints[i], R * sizeof(int), "decoding rows"));
    int **tokens[] = {&e->extend_ids, &e->extend_rows, &e->extend_at};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        TRY(memory_alloc((void **)tokens[i], R * T * sizeof(int), "decoding rows"));
    TRY(memory_alloc((void **)&e->uniform, R * sizeof(double), "decoding rows"));
    TRY(memory_alloc((void **)&e->logp, R * sizeof(float), "decoding rows"));
    TRY(memory_alloc((void **)&e->cut, R * sizeof(float), "decoding rows"));
    return packed_create(&e->prompts, rows, R * T);
}

void rollout_engine_release(RolloutEngine *e) {
    if (!e) return;
    void *owned[] = {e->drafts,   e->draft_ids,      e->draft_logp, e->active,     e->step_rows,
                     e->step_ids, e->step_positions, e->drawn,      e->uniform,    e->logp,
                     e->cut,      e->late_rows,      e->last,       e->extend_ids, e->extend_rows,
                     e->extend_at};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) memory_release(owned[i]);
    kv_release(&e->kv);
    packed_release(&e->prompts);
    repetition_release(&e->repetition);
    free(e);
}

typedef struct { /* one call of rollout_generate */
    RolloutEngine *e;
    Network *actor;
    const RolloutRequest *requests;
    int n, next, done;
    int preempted; /* requests that wait to be computed again */
    const SamplingConfig *cfg;
    uint64_t seed;
    RolloutWatch watch;
    void *watch_ctx;
    double cut_sum;
    long drawn, shared;
    int steps, preemptions;
} Job;

static const int *response(const Draft *d) {
    return d->ids + d->n_prompt;
}
static int length(const Draft *d) {
    return d->n_prompt + d->n;
}

static int is_stop(Job *j, int request, int id) {
    Draft *d = &j->e->drafts[request];
    if (!j->cfg->ignore_eos && j->e->t && tokenizer_is_eos(j->e->t, id)) {
        d->stop = STOP_EOS;
        return 1;
    }
    if (j->cfg->stop.n) {
        Text text = {0};
        int hit = 0, window = d->n < 64 ? d->n : 64; /* a stop text lies within the last tokens */
        if (tokenizer_decode(j->e->t, response(d) + d->n - window, window, 1, &text) != OK)
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
    return d->n >= j->cfg->max_new_tokens || length(d) >= j->e->max_length;
}

/* 0: nothing is held against what was said before. */
static int repeats_cost(const SamplingConfig *c) {
    return (c->repetition_penalty > 0.0f && c->repetition_penalty != 1.0f) ||
           c->no_repeat_ngram > 0;
}

static Status edit_logits(Job *j, const int *rows, int M, SampleParams *p) {
    RolloutEngine *e = j->e;
    Repetition *r = &e->repetition;
    if (!r->b) TRY(repetition_create(r, j->actor->b, e->vocab, e->rows, e->max_length));
    repetition_clear(r, j->cfg->repetition_penalty > 0.0f ? j->cfg->repetition_penalty : 1.0f,
                     j->cfg->no_repeat_ngram);
    for (int i = 0; i < M; i++) {
        const Draft *d = &e->drafts[e->active[rows[i]]];
        repetition_add_row(r, d->ids, length(d));
    }
    repetition_apply(r, p);
    return OK;
}

/* The hidden states left by a prefill or a decoding step become one token each. */
static Status draw(Job *j, const int *rows, int M) {
    RolloutEngine *e = j->e;
    SampleParams p = {.temperature = j->cfg->temperature,
                      .top_k = j->cfg->top_k,
                      .top_p = j->cfg->top_p,
                      .min_p = j->cfg->min_p,
                      .vocab = e->vocab};
    for (int i = 0; i < M; i++) {
        int request = e->active[rows[i]];
        e->uniform[i] = rng_uniform(j->seed, RNG_SAMPLE, j->requests[request].sequence,
                                    (uint64_t)e->drafts[request].n);
    }
    if (repeats_cost(j->cfg)) TRY(edit_logits(j, rows, M, &p));
    TRY(network_sample(j->actor, e->uniform, p, M, e->drawn, e->logp, e->cut));
    for (int i = 0; i < M; i++) {
        int request = e->active[rows[i]];
        Draft *d = &e->drafts[request];
        d->ids[length(d)] = e->drawn[i];
        d->logp[d->n++] = e->logp[i];
        j->cut_sum += e->cut[i];
        j->drawn++;
        int asked = j->watch && j->watch(j->watch_ctx, request, e->drawn[i]);
        if (!is_stop(j, request, e->drawn[i]) && !asked) continue;
        if (asked && d->stop == STOP_LENGTH) d->stop = STOP_ASKED;
        kv_drop(&e->kv, rows[i]);
        e->active[rows[i]] = -1;
        j->done++;
    }
    return OK;
}

/* The request to serve next: the first preempted one, then the first that never ran; -1 none. */
static int first_waiting(const Job *j) {
    for (int i = 0; j->preempted && i < j->next; i++)
        if (j->e->drafts[i].preempted) return i;
    return j->next < j->n ? j->next : -1;
}

static int active_rows(const RolloutEngine *e) {
    int count = 0;
    for (int row = 0; row < e->rows; row++) count += e->active[row] >= 0;
    return count;
}

/* Whether pages can run out at all. */
static int scarce(const RolloutEngine *e) {
    return e->kv.n_pages < e->rows * e->kv.max_pages;
}

/* Pages for what a request has so far and its next token, as many of them shared as can be; the
 * active rows keep one free page each to grow into. Returns the positions that are there already,
 * -1 when there are too few pages. */
static int take_pages(Job *j, int row, const Draft *d) {
    RolloutEngine *e = j->e;
    int ahead = length(d) < e->max_length ? length(d) + 1 : length(d);
    int keep = scarce(e) ? active_rows(e) : 0;
    int shared = kv_share(&e->kv, row, d->ids, length(d));
    if (kv_reserve(&e->kv, row, ahead) && e->kv.n_free >= keep) return shared;
    kv_drop(&e->kv, row);
    return -1;
}

static void start(Job *j, int row, int request) {
    Draft *d = &j->e->drafts[request];
    j->e->active[row] = request;
    kv_offer(&j->e->kv, row, d->ids, d->n_prompt);
    j->preempted -= d->preempted;
    d->preempted = 0;
    if (request == j->next) j->next++;
}

/* Late rows found the beginning of their tokens in shared pages. The rest is computed as decoding
 * would, for all these rows at once. */
static Status extend(Job *j, int M, int N) {
    RolloutEngine *e = j->e;
    if (!M) return OK;
    TRY(network_extend(j->actor, &e->kv, e->extend_ids, e->extend_rows, e->extend_at, N, e->last,
                       M));
    return draw(j, e->late_rows, M);
}

static Status prefill(Job *j, int M) {
    RolloutEngine *e = j->e;
    Batch b = {.S = M,
               .N = e->prompts.N,
               .ids = e->prompts.ids,
               .starts = e->prompts.starts,
               .temperature = 1.0f};
    if (!M) return OK;
    TRY(network_prefill(j->actor, &e->kv, &b, e->step_rows));
    return draw(j, e->step_rows, M);
}

/* Free rows take the next requests, as many as the workspace holds: those that share nothing in one
 * prefill, then the late ones. */
static Status admit(Job *j) {
    RolloutEngine *e = j->e;
    const WorkspacePlan *plan = &j->actor->ws->plan;
    int whole = 0, late = 0, N = 0, request;
    packed_clear(&e->prompts);
    for (int row = 0; row < e->rows && (request = first_waiting(j)) >= 0; row++) {
        if (e->active[row] >= 0) continue;
        const Draft *d = &e->drafts[request];
        int shared = take_pages(j, row, d), rest = length(d) - shared;
        if (shared < 0) break;
        if (whole >= plan->sequences || rest + (shared ? N : e->prompts.N) > plan->tokens) {
            kv_drop(&e->kv, row);
            break;
        }
        start(j, row, request);
        j->shared += shared;
        if (!shared) {
            packed_add(&e->prompts, d->ids, NULL, rest);
            e->step_rows[whole++] = row;
            continue;
        }
        for (int t = shared; t < length(d); t++, N++) {
            e->extend_ids[N] = d->ids[t];
            e->extend_rows[N] = row;
            e->extend_at[N] = t;
        }
        e->last[late] = N - 1;
        e->late_rows[late++] = row;
    }
    if (whole + late) kv_flush(&e->kv);
    TRY(prefill(j, whole));
    return extend(j, late, N);
}

/* Every active row gets room for its next token; where pages run out, the request that came last
 * gives up its own. The first one never has to: the cache holds at least the pages of one row. */
static void make_room(Job *j) {
    RolloutEngine *e = j->e;
    for (int row = 0; row < e->rows; row++) {
        while (e->active[row] >= 0 &&
               !kv_reserve(&e->kv, row, length(&e->drafts[e->active[row]]))) {
            int victim = row;
            for (int other = 0; other < e->rows; other++)
                if (e->active[other] > e->active[victim]) victim = other;
            e->drafts[e->active[victim]].preempted = 1;
            j->preempted++;
            j->preemptions++;
            kv_drop(&e->kv, victim);
            e->active[victim] = -1;
        }
    }
}

static Status decode_step(Job *j) {
    RolloutEngine *e = j->e;
    int M = 0;
    make_room(j);
    for (int row = 0; row < e->rows; row++) {
        if (e->active[row] < 0) continue;
        const Draft *d = &e->drafts[e->active[row]];
        e->step_rows[M] = row;
        e->step_ids[M] = d->ids[length(d) - 1];
        e->step_positions[M++] = length(d) - 1;
    }
    if (!M) return OK;
    j->steps++;
    kv_flush(&e->kv);
    TRY(network_decode(j->actor, &e->kv, e->step_ids, e->step_rows, e->step_positions, M));
    return draw(j, e->step_rows, M);
}

static void collect(Job *j, Rollout *out) {
    RolloutEngine *e = j->e;
    packed_clear(&out->seq);
    for (int i = 0; i < j->n; i++) {
        const Draft *d = &e->drafts[i];
        packed_add(&out->seq, d->ids, NULL, d->n_prompt);
        int at = out->seq.N;
        CHECK(d->n <= out->seq.max_N - at);
        memcpy(out->seq.ids + at, response(d), (size_t)d->n * sizeof(int));
        memset(out->seq.wanted + at, 1, (size_t)d->n);
        memset(out->logp + out->seq.starts[i], 0, (size_t)d->n_prompt * sizeof(float));
        memcpy(out->logp + at, d->logp, (size_t)d->n * sizeof(float));
        out->seq.N = out->seq.starts[i + 1] = at + d->n;
        out->n_prompt[i] = d->n_prompt;
        out->stop[i] = d->stop;
    }
    out->truncated_mass = j->drawn ? j->cut_sum / (double)j->drawn : 0.0;
    out->decode_steps = j->steps;
    out->preempted = j->preemptions;
    out->shared_tokens = j->shared;
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
    CHECK(!scarce(e) ||
          e->max_length <= actor->ws->plan.tokens); /* any row can be computed again */
    for (int row = 0; row < e->rows; row++) e->active[row] = -1;
    for (int i = 0; i < n; i++) {
        CHECK(requests[i].n > 0);
        if (requests[i].n >= e->max_length || requests[i].n > actor->ws->plan.tokens)
            return status_fail(
                E_USAGE, "a prompt of %d tokens leaves no room for an answer: the limit is %d",
                requests[i].n, e->max_length);
        e->drafts[i] = (Draft){.ids = e->draft_ids + (size_t)i * e->max_length,
                               .logp = e->draft_logp + (size_t)i * e->max_length,
                               .n_prompt = requests[i].n,
                               .stop = STOP_LENGTH};
        memcpy(e->drafts[i].ids, requests[i].ids, (size_t)requests[i].n * sizeof(int));
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
