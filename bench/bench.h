/* bench.h - what the benchmarks share: medians, rows of the table and of bench/results.jsonl, whole
 * models. */
#ifndef BENCH_H
#define BENCH_H

#include <stdio.h>
#include <stdlib.h>

#include "core/model/config.h"
#include "core/model/network.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        if ((call) != OK) {                                                                        \
            fprintf(stderr, "bench: %s\n", status_message());                                      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { RUNS = 5 };
double median(double *v, int n); /* sorts v */

typedef struct {
    Backend *b;
    const char *only;        /* a benchmark's name, "" all */
    double flops, bandwidth; /* limits measured in this run: operations and bytes per second */
    double (*peak)(void);    /* measures the first again; NULL: it stays */
    double (*reading)(void); /* and the second */
    double unit;             /* of rates of operations in rows, per second */
    const char *rate_unit;
    FILE *json; /* NULL: no rows in JSON */
    int peers;  /* other programs are run where they are found */
} Bench;

typedef struct { /* another way to do the same work, measured in this run; rate 0: none */
    double value;
    const char *name;
} Peer;

/* Measures the limits beside a row: of the peak, which a neighbour slows, the best seen yet counts;
 * of the bandwidth, which changes with the neighbours by the minute, the one of this moment. */
void bench_refresh(Bench *bench);
/* Says what the program takes instead of `word`; its exit status. */
int bench_usage(const char *program, const char *word, const char *takes);
int bench_wanted(const Bench *bench, const char *name);
/* One result. limit in the same unit (0: none), of which the share is printed: rates as
 * value/limit, times as limit/value. */
void bench_row(const Bench *bench, const char *name, const char *shape, int batch, double value,
               const char *unit, double limit);
/* The same beside a peer, in the row's unit. */
void bench_beside(const Bench *bench, const char *name, const char *shape, int batch, double value,
                  const char *unit, double limit, Peer peer);
/* The best of the programs of RLHF_PEERS (default ../shared/peers) at "train", "decode" or "ppo" of
 * a shape; value 0 where none can be run, which is said once. RLHF_PYTHON names their Python. */
Peer bench_peer(const Bench *bench, const char *what, const char *shape, int batch);
/* n numbers, different and never 0, on the backend. */
void bench_fill(Backend *b, Buf buf, size_t n, int seed);

/* Operations per second of a product [N,K] x [O,K]' (kind 0), of its gradients by the input (1) and
 * the weight (2); bytes read and written per second by a copy of n floats. */
double bench_product_rate(const Bench *bench, int kind, int N, int O, int K);
double bench_copy_rate(const Bench *bench, size_t n);
/* The products of a layer forward with each number of rows, and both gradients with the last. */
void bench_products(Bench *bench, const char *name, const ModelConfig *m, const int *rows, int n);
void bench_attention(Bench *bench, int S, int T, int NH, int NKV, int HS);
/* of N sequences that have T positions in pages: the cache of all layers, read once */
void bench_attention_decode(Bench *bench, const ModelConfig *m, int N, int T);
/* log-probs and entropies of R tokens, and their gradients */
void bench_head(Bench *bench, const char *name, const ModelConfig *m, int R);
/* What is bound by memory: AdamW on `flat` parameters, norms, rotary positions, the activation. */
void bench_streams(Bench *bench, const char *name, const ModelConfig *m, int tokens, size_t flat);

extern const ModelConfig bench_tiny, bench_135m, bench_1b;
/* of the products and of attention for one token of a sequence of T, forward */
double model_flops(const ModelConfig *m, int T);
void bench_train(Bench *bench, const char *name, const ModelConfig *cfg, int S, int T);
void bench_decode(Bench *bench, const char *name, const ModelConfig *cfg, int M, int prompt,
                  int steps);
/* DPO steps on S pairs of T tokens each side, the reference's forward among them. */
void bench_dpo(Bench *bench, const char *name, const ModelConfig *cfg, int S, int T);
/* The rollout engine on `requests` requests, `rows` at a time: answers of very different lengths,
 * beside batches that wait for their longest; and 8 samples of each prompt of P tokens, beside as
 * many different prompts. */
void bench_batching(Bench *bench, const char *name, const ModelConfig *cfg, int rows, int requests,
                    int P, int R);
void bench_sharing(Bench *bench, const char *name, const ModelConfig *cfg, int rows, int P, int R);
/* S answers of R tokens to prompts of P, four models, four passes */
void bench_ppo(Bench *bench, const char *name, const ModelConfig *cfg, int S, int P, int R,
               int micro_tokens);

#endif
