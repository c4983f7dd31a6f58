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
    FILE *json;              /* NULL: no rows in JSON */
} Bench;

int bench_wanted(const Bench *bench, const char *name);
/* One result. limit in the same unit (0: none), of which the share is printed: rates as
 * value/limit, times as limit/value. */
void bench_row(const Bench *bench, const char *name, const char *shape, int batch, double value,
               const char *unit, double limit);
/* n numbers, different and never 0, on the backend. */
void bench_fill(Backend *b, Buf buf, size_t n, int seed);

extern const ModelConfig bench_tiny, bench_135m, bench_1b;
/* of the products and of attention for one token of a sequence of T, forward */
double model_flops(const ModelConfig *m, int T);
void bench_train(const Bench *bench, const char *name, const ModelConfig *cfg, int S, int T);
void bench_decode(const Bench *bench, const char *name, const ModelConfig *cfg, int M, int prompt,
                  int steps);
/* S answers of R tokens to prompts of P, four models, four passes */
void bench_ppo(const Bench *bench, const char *name, const ModelConfig *cfg, int S, int P, int R,
               int micro_tokens);

#endif
