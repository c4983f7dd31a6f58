/* rollout.h - the rollout engine: batched prefill and decoding over a paged KV cache; a finished
 * row is replaced at once (continuous batching, Yu et al. 2022); prompts that begin alike share
 * pages, and a row that finds none gives its own up and is computed again later (Kwon et al. 2023).
 *
 * A response is a function of the seed, its place in the run's order of rollouts, its prompt and
 * its sample number alone, never of its neighbours or of the scheduler; the log-probs kept while
 * sampling are the training forward's bit for bit on the CPU, so PPO's old log-probs cost no second
 * pass. */
#ifndef ROLLOUT_H
#define ROLLOUT_H

#include "core/model/packed.h"
#include "core/run/settings.h"
#include "datasets/tokenizer.h"

typedef struct {
    int max_new_tokens;
    float temperature; /* 0 = greedy */
    int top_k;         /* 0 = off */
    float top_p;       /* 1 = off */
    float min_p;       /* 0 = off */
    int rows;          /* sequences decoded at once */
    int ignore_eos;
    StringList stop; /* texts that end a response */
    /* what was said before is less likely: for answers to people. log mu is then not the model's,
     * so no trainer sets it. 1 and 0 = off */
    float repetition_penalty;
    int no_repeat_ngram;
} SamplingConfig;

typedef enum { STOP_EOS, STOP_LENGTH, STOP_STRING, STOP_ASKED } StopReason;
extern const char *const stop_names[]; /* "eos", "length", "string", "asked" */

/* Prompts and responses end to end, in the order they were asked for. */
typedef struct {
    Packed seq;            /* wanted = response tokens (the terminal EOS is one of them) */
    int *n_prompt;         /* [S] */
    StopReason *stop;      /* [S] */
    float *logp;           /* [N] log mu of response tokens */
    double truncated_mass; /* mean mass that top-k and top-p cut, per sampled token */
    int decode_steps;      /* scheduler's work: rows * steps tells the occupancy */
    int preempted;         /* rows that gave up their pages and were computed again */
    long shared_tokens;    /* of prompts, taken from others' pages */
} Rollout;
Status rollout_create(Rollout *r, int max_sequences, size_t max_tokens);
void rollout_release(Rollout *r);
static inline int rollout_length(const Rollout *r, int s) {
    return r->seq.starts[s + 1] - r->seq.starts[s] - r->n_prompt[s];
}
/* ids of a response */
static inline const int *rollout_response(const Rollout *r, int s) {
    return r->seq.ids + r->seq.starts[s] + r->n_prompt[s];
}

typedef struct {
    const int *ids; /* prompt */
    int n;
    uint64_t sequence; /* counter of the random numbers: place in the run's order, sample number
                          included */
} RolloutRequest;

typedef struct RolloutEngine RolloutEngine;
/* max_length: longest prompt + response. Memory for `rows` rows and max_requests requests at a
 * time; keys and values take at most kv_mib MiB (0: enough for all rows at full length). */
Status rollout_engine_create(RolloutEngine **e, Backend *b, const ModelConfig *cfg,
                             const Tokenizer *t, int rows, int max_length, int max_requests,
                             int kv_mib);
void rollout_engine_release(RolloutEngine *e); /* NULL is fine */
size_t rollout_engine_bytes(const Backend *b, const ModelConfig *cfg, int rows, int max_length,
                            int kv_mib);

/* Answers all requests with the actor; out is cleared first and filled in the order of the
 * requests. `watch` (may be NULL) sees each token of each request as it is drawn, for streaming,
 * and ends the response (STOP_ASKED) when it returns 1. */
typedef int (*RolloutWatch)(void *ctx, int request, int id);
Status rollout_generate(Rollout *out, RolloutEngine *e, Network *actor,
                        const RolloutRequest *requests, int n, const SamplingConfig *cfg,
                        uint64_t seed, RolloutWatch watch, void *watch_ctx);

/* Text of a response without its terminal EOS; a stop string that ended it is still there. */
Status rollout_text(const Rollout *r, int s, const Tokenizer *t, Text *out);

#endif
